"""One case per public function of the room; the oracle is the dense product by numpy.kron."""

from functools import partial, reduce

import numpy as np
from array_api_compat import array_namespace
from kronecker.cases_processes import CASES_OF_PROCESSES
from scipy.linalg import expm, fractional_matrix_power, khatri_rao

from linalgkit import kronecker
from linalgkit._testing import Case, central_gradient, library

SHAPES = ((2, 3), (4, 2), (3, 3))  # unequal, rectangular, not symmetric
LOOSE = {"float32": 1e-5, "float64": 1e-13}


def random(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def dense(factors):
    return reduce(np.kron, factors)


def rectangular(library, dtype, rng, side=1):
    factors = [random(rng, dtype, *shape) for shape in SHAPES]
    n = int(np.prod([shape[side] for shape in SHAPES]))
    return ([library.asarray(a) for a in factors], library.asarray(random(rng, dtype, n))), {}


def transposed(library, dtype, rng):
    return rectangular(library, dtype, rng, side=0)


def several(library, dtype, rng):
    (factors, _), _ = rectangular(library, dtype, rng)
    return (factors, library.asarray(random(rng, dtype, 18, 2))), {}


def with_cotangent(library, dtype, rng):
    (factors, x), _ = rectangular(library, dtype, rng)
    return (library.asarray(random(rng, dtype, 24)), factors, x), {}


def pulled_back(cotangent, factors, x):
    """The gradients entry by entry: the product is linear in each factor."""
    gradients = []
    for k, factor in enumerate(factors):
        gradient = np.zeros_like(factor)
        for index in np.ndindex(factor.shape):
            unit = np.zeros_like(factor)
            unit[index] = 1
            gradient[index] = np.vdot(dense([*factors[:k], unit, *factors[k + 1 :]]) @ x, cotangent)
        gradients.append(gradient)
    return tuple(gradients), dense(factors).conj().T @ cotangent


def dense_sum(factors):
    """The Kronecker sum by its definition."""
    sizes = [len(a) for a in factors]
    return sum(
        dense([a if j == k else np.eye(n) for j, n in enumerate(sizes)])
        for k, a in enumerate(factors)
    )


def rows_or_columns(library, dtype, rng, axis=-2):
    """Factors with five rows, or columns."""
    factors = [random(rng, dtype, *((5, n) if axis == -2 else (n, 5))) for n in (3, 2, 4)]
    return ([library.asarray(a) for a in factors],), {}


def with_vector(library, dtype, rng, n=24):
    (factors,), _ = rows_or_columns(library, dtype, rng)
    return (factors, library.asarray(random(rng, dtype, n))), {}


def split_faces(factors):
    """Row by row, as the transposes' columns by SciPy."""
    return reduce(khatri_rao, [np.transpose(a) for a in factors]).T


def on_a_grid(library, dtype, rng):
    return (library.asarray(random(rng, dtype, 2, 12, 12)), (2, 3, 2)), {"axes": (0, -1)}


def traced(a, sizes, axes):
    return np.einsum("zaibajb->zij", a.reshape(2, *sizes, *sizes))


def regular(library, dtype, rng, sizes=(3, 2, 4)):
    """Square factors with eigenvalues of positive real part, not symmetric, and a vector."""
    factors = [random(rng, dtype, n, n) + 3 * np.eye(n, dtype=dtype) for n in sizes]
    b = random(rng, dtype, int(np.prod(sizes)))
    return ([library.asarray(a) for a in factors], library.asarray(b)), {}


def symmetric(library, dtype, rng, sizes=(3, 2, 4), **options):
    """Positive definite factors of different eigenvalues, and a vector."""
    (factors, b), _ = regular(NUMPY, "float64", rng, sizes)
    factors = [(a @ a.T / n + np.diag(np.arange(n))) for a, n in zip(factors, sizes, strict=True)]
    factors = [library.asarray(a.astype(dtype)) for a in factors]
    return (factors, library.asarray(b.astype(dtype))), options


def matrices_of(make):
    def matrices(library, dtype, rng):
        (factors, _), _ = make(library, dtype, rng)
        return (factors,), {}

    return matrices


def with_gradient(make, **options):
    def made(library, dtype, rng):
        (factors, x, *others), _ = make(library, dtype, rng)
        return (library.asarray(random(rng, dtype, *x.shape)), factors, x, *others), options

    return made


def pulled_through(solve):
    """Gradients of a real function of the factors and b by central differences, in double."""

    def gradients(cotangent, factors, b, *others, **options):
        arrays = [np.array(a, "float64") for a in (*factors, b)]

        def loss(*parts):
            return float(np.sum(cotangent * solve(parts[:-1], parts[-1], *others)))

        *of_factors, of_b = central_gradient(loss, arrays, 1e-5)
        return tuple(of_factors), of_b

    return gradients


def summed_product(cotangent, factors, x):
    return pulled_through(lambda f, x: dense_sum(f) @ x)(cotangent, factors, x)


def hermitian_solve(f, b):
    return np.linalg.solve(dense_sum([(a + a.T) / 2 for a in f]), b)


def elements(library, dtype, rng):
    """Stiffness and mass matrices of different sizes."""
    factors, masses = [], []
    for n in (2, 3, 2):
        a, c = random(rng, dtype, n, n), random(rng, dtype, n, n)
        factors.append(a @ a.T + np.eye(n, dtype=dtype))
        masses.append(c @ c.T + np.eye(n, dtype=dtype))
    parts = [[library.asarray(x) for x in part] for part in (factors, masses)]
    return (*parts, library.asarray(random(rng, dtype, 12))), {"shift": 0.7}


def with_masses(factors, masses, b, shift):
    factors, masses = ([np.array(x, "float64") for x in part] for part in (factors, masses))
    matrix = shift * dense(masses)
    for k, factor in enumerate(factors):
        matrix = matrix + dense([*masses[:k], factor, *masses[k + 1 :]])
    return np.linalg.solve(matrix, b)


def shifted_gradients(cotangent, factors, b, shift):
    """Those of `pulled_through`, with the shift among the arrays."""

    def solve(parts, shift):
        *f, b = parts
        matrix = dense([(a + a.T) / 2 for a in f])
        return np.linalg.solve(matrix + shift * np.eye(len(b)), b)

    (*of_factors, of_b), of_shift = pulled_through(solve)(cotangent, (*factors, b), shift)
    return tuple(of_factors), of_b, of_shift


def to_be_approximated(library, dtype, rng):
    return (library.asarray(random(rng, dtype, 6, 6)), (3, 2)), {"terms": 2}


def rearranged(a, block_shape, terms):
    """The best sum of products, block by block as rows of a matrix."""
    (m, n), (rows, columns) = a.shape, block_shape
    blocks = [
        a[i : i + rows, j : j + columns].ravel()
        for i in range(0, m, rows)
        for j in range(0, n, columns)
    ]
    u, s, vh = np.linalg.svd(np.array(blocks, "float64"), full_matrices=False)
    u, vh = u[:, :terms] * s[:terms], vh[:terms]
    return sum(
        np.kron(u[:, t].reshape(m // rows, n // columns), vh[t].reshape(rows, columns))
        for t in range(terms)
    )


def added_up(found):
    """The sum of the terms of `nearest_kronecker`."""
    left, right = found.left, found.right
    both = left[:, :, None, :, None] * right[:, None, :, None, :]
    xp = array_namespace(left)
    return xp.reshape(xp.sum(both, axis=0), (6, 6))


def composed(found):
    """The product that an eigendecomposition of the factors describes."""
    xp = array_namespace(*found.eigenvectors)
    parts = [
        xp.matmul(v * w[None, :], xp.permute_dims(v, (1, 0)))
        for w, v in zip(found.eigenvalues, found.eigenvectors, strict=True)
    ]
    return kronecker.kron_dense(parts)


def composed_svd(found):
    xp = array_namespace(*found.U)
    parts = [xp.matmul(u * s[None, :], vh) for u, s, vh in zip(*found, strict=True)]
    return kronecker.kron_dense(parts)


def covariances(library, dtype, rng):
    """Of points on two axes, far from singular."""
    factors = [np.exp(-abs(t[:, None] - t)) for t in (np.arange(3.0), np.arange(4) / 2)]
    b = random(rng, dtype, 12)
    shift = library.asarray(np.array(0.3, dtype))
    return ([library.asarray(a.astype(dtype)) for a in factors], library.asarray(b), shift), {}


def least_squares(library, dtype, rng):
    factors = [random(rng, dtype, *shape) for shape in ((4, 2), (2, 2), (3, 2))]
    return ([library.asarray(a) for a in factors], library.asarray(random(rng, dtype, 24))), {}


def half_power(library, dtype, rng):
    return (*matrices_of(symmetric)(library, dtype, rng)[0], -0.5), {}


def inverse_root(factors, p):
    return tuple(fractional_matrix_power(a.astype("float64"), p) for a in factors)


def propagated(library, dtype, rng):
    return (*rectangular_square(library, dtype, rng), 0.5), {}


def rectangular_square(library, dtype, rng):
    (factors, b), _ = regular(library, dtype, rng)
    return factors, b


NUMPY = library("numpy")
SOLVED = {"float32": 1e-4, "float64": 1e-12}
DIFFERENCES = {"float32": 1e-3, "float64": 1e-8}

CASES = [
    Case("kronecker.kron_matvec", rectangular, lambda f, x: dense(f) @ x, LOOSE),
    Case("kronecker.kron_rmatvec", transposed, lambda f, x: dense(f).conj().T @ x, LOOSE),
    Case("kronecker.kron_matmat", several, lambda f, x: dense(f) @ x, LOOSE),
    Case("kronecker.kron_matvec_vjp", with_cotangent, pulled_back, LOOSE),
    Case("kronecker.kron_dense", matrices_of(rectangular), dense, LOOSE),
    Case("kronecker.kron_diag", matrices_of(regular), lambda f: np.diag(dense(f)), LOOSE),
    Case(
        "kronecker.kron_trace",
        matrices_of(regular),
        lambda f: np.asarray(np.trace(dense(f))),
        LOOSE,
    ),
    Case("kronecker.partial_trace", on_a_grid, traced, LOOSE),
    Case("kronecker.face_splitting", rows_or_columns, split_faces, LOOSE),
    Case(
        "kronecker.khatri_rao",
        partial(rows_or_columns, axis=-1),
        lambda f: reduce(khatri_rao, f),
        LOOSE,
    ),
    Case("kronecker.face_splitting_matvec", with_vector, lambda f, x: split_faces(f) @ x, LOOSE),
    Case(
        "kronecker.face_splitting_rmatvec",
        partial(with_vector, n=5),
        lambda f, y: split_faces(f).conj().T @ y,
        LOOSE,
    ),
    Case("kronecker.kron_eigh", matrices_of(symmetric), dense, LOOSE, composed),
    Case("kronecker.kron_svd", matrices_of(rectangular), dense, LOOSE, composed_svd),
    Case(
        "kronecker.kron_slogdet",
        matrices_of(regular),
        lambda f: tuple(map(np.asarray, np.linalg.slogdet(dense(f).astype("float64")))),
        LOOSE,
    ),
    Case(
        "kronecker.kron_cholesky",
        matrices_of(symmetric),
        lambda f: np.linalg.cholesky(dense(f).astype("float64")),
        LOOSE,
        kronecker.kron_dense,
    ),
    Case("kronecker.kron_power", half_power, inverse_root, LOOSE),
    Case("kronecker.nearest_kronecker", to_be_approximated, rearranged, LOOSE, added_up),
    Case(
        "kronecker.kron_solve",
        regular,
        lambda f, b: np.linalg.solve(dense(f).astype("float64"), b),
        SOLVED,
    ),
    Case(
        "kronecker.kron_solve_vjp",
        with_gradient(regular),
        pulled_through(lambda f, b: np.linalg.solve(dense(f), b)),
        DIFFERENCES,
    ),
    Case(
        "kronecker.kron_lstsq",
        least_squares,
        lambda f, b: np.linalg.lstsq(dense(f).astype("float64"), b)[0],
        SOLVED,
    ),
    Case(
        "kronecker.shifted_solve",
        covariances,
        lambda f, b, s: np.linalg.solve(dense(f).astype("float64") + s * np.eye(12), b),
        SOLVED,
    ),
    Case(
        "kronecker.shifted_solve_vjp",
        with_gradient(covariances),
        shifted_gradients,
        DIFFERENCES,
    ),
    Case("kronecker.kronsum_matvec", regular, lambda f, x: dense_sum(f) @ x, LOOSE),
    Case("kronecker.kronsum_matvec_vjp", with_gradient(regular), summed_product, DIFFERENCES),
    Case(
        "kronecker.kronsum_solve",
        partial(symmetric, method="eigh"),
        lambda f, b, method: np.linalg.solve(dense_sum(f).astype("float64"), b),
        SOLVED,
    ),
    Case(
        "kronecker.kronsum_solve_vjp",
        with_gradient(symmetric, method="eigh"),
        pulled_through(hermitian_solve),
        DIFFERENCES,
    ),
    Case("kronecker.kronsum_solve_generalized", elements, with_masses, SOLVED),
    Case(
        "kronecker.kronsum_expm_multiply",
        propagated,
        lambda f, x, t: expm(t * dense_sum(f).astype("float64")) @ x,
        SOLVED,
    ),
]
CASES += CASES_OF_PROCESSES
