"""One case per public function of the room, and the Monarch matrix entry by entry."""

import numpy as np
from array_api_compat import array_namespace
from scipy.linalg import hadamard

from linalgkit._testing import Case

BLOCKS = (3, 4, 2, 2, 2, 6)  # (k, q, p, l, s, r)


def entries(left, right):
    """The dense matrix by its definition, entry by entry; no batch axes."""
    (k, q, p), (count, rows, _) = right.shape, left.shape
    matrix = np.zeros((count * rows, k * p), dtype=np.result_type(left, right))
    for t in range(k * q):
        (block, row), (rho, lam) = divmod(t, q), divmod(t, count)
        columns = slice(block * p, (block + 1) * p)
        matrix[lam::count, columns] += np.outer(left[lam, :, rho], right[block, row])  # all σ
    return matrix


def random(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def factors(rng, dtype, blocks=BLOCKS):
    k, q, p, count, rows, inner = blocks
    return random(rng, dtype, count, rows, inner), random(rng, dtype, k, q, p)


def product(x, left, right, axis=-1):
    """The product by the dense matrix."""
    return np.moveaxis(np.moveaxis(x, axis, -1) @ entries(left, right).T, -1, axis)


def pulled_back(cotangent, x, left, right):
    """The gradients entry by entry: each is linear in one argument."""
    matrix = entries(left, right)
    of_x = cotangent @ matrix.conj()
    gradients = []
    for place, factor in enumerate((left, right)):
        gradient = np.zeros_like(factor)
        for index in np.ndindex(factor.shape):
            unit = np.zeros_like(factor)
            unit[index] = 1
            changed = [unit, right] if place == 0 else [left, unit]
            gradient[index] = np.vdot(product(x, *changed), cotangent)
        gradients.append(gradient)
    return (of_x, *gradients)


def vectors(library, dtype, rng):
    left, right = factors(rng, dtype)
    return tuple(map(library.asarray, (random(rng, dtype, 5, 6), left, right))), {}


def with_cotangent(library, dtype, rng):
    arrays, options = vectors(library, dtype, rng)
    return (library.asarray(random(rng, dtype, 5, 4)), *arrays), options


def sequences(library, dtype, rng):
    return (library.asarray(random(rng, dtype, 3, 12)),), {}


def sequences_and_filters(library, dtype, rng):
    arrays = random(rng, dtype, 2, 3, 10), random(rng, dtype, 3, 4)
    return tuple(map(library.asarray, arrays)), {}


def convolved(x, h):
    return np.stack([[np.convolve(a, b)[: a.size] for a, b in zip(y, h, strict=True)] for y in x])


def sequences_with_cotangent(library, dtype, rng):
    return tuple(library.asarray(random(rng, dtype, 3, 12)) for _ in "gx"), {}


def convolution_with_cotangent(library, dtype, rng):
    arrays, options = sequences_and_filters(library, dtype, rng)
    return (library.asarray(random(rng, dtype, 2, 3, 10)), *arrays), options


def convolved_back(cotangent, x, h):
    """The gradients entry by entry: each is linear in one argument."""
    of_x, of_h = np.zeros_like(x), np.zeros_like(h)
    for index in np.ndindex(x.shape):
        unit = np.zeros_like(x)
        unit[index] = 1
        of_x[index] = np.vdot(convolved(unit, h), cotangent)
    for index in np.ndindex(h.shape):
        unit = np.zeros_like(h)
        unit[index] = 1
        of_h[index] = np.vdot(convolved(x, unit), cotangent)
    return of_x, of_h


def transform_of_all(n, like):
    """The factors and the order of the DFT by its definition; blocks (3, 4)."""
    matrix = np.exp(-2j * np.pi * (np.outer(np.arange(n), np.arange(n)) % n) / n)
    right = np.stack([matrix[:4, ::3][:, :4] * matrix[:4, [j]] for j in range(3)])
    left = np.broadcast_to(matrix[:3, ::4], (4, 3, 3))
    dtype = "complex64" if "float32" in str(like.dtype) else "complex128"
    return left.astype(dtype), right.astype(dtype), np.arange(n).reshape(4, 3).T.reshape(-1)


def pair(library, dtype, rng):
    return tuple(map(library.asarray, (random(rng, dtype, 2, 3), random(rng, dtype, 4, 2)))), {}


def product_of_three(library, dtype, rng):
    """A member of MM*, of blocks near the identity."""
    left, middle, right = (random(rng, "float64", 3, 3, 3) / 3 + 2 * np.eye(3) for _ in range(3))
    a = (left[:, None] * middle.transpose(1, 2, 0)[:, :, None]) @ right[None]
    return (library.asarray(a.transpose(2, 0, 3, 1).reshape(9, 9).astype(dtype)),), {}


def multiplied(found):
    """What the factors of `factorize_mmstar` give when multiplied."""
    xp = array_namespace(found.left)
    middle = xp.permute_dims(found.middle, (1, 2, 0))[:, :, None, :]
    blocks = xp.matmul(found.left[:, None, ...] * middle, found.right[None, ...])
    return xp.reshape(xp.permute_dims(blocks, (2, 0, 3, 1)), (9, 9))


def samples(library, dtype, rng):
    """Inputs, and the outputs of a Monarch matrix."""
    left, right = factors(rng, "float64")
    x = random(rng, "float64", 20, 6)
    outputs = x @ entries(left, right).T
    return tuple(library.asarray(a.astype(dtype)) for a in (x, outputs)), {"blocks": BLOCKS}


def truncated(a, blocks=BLOCKS):
    """Factors of the nearest Monarch matrix, and the sum of squares left out, slice by slice."""
    k, q, p, count, rows, inner = blocks
    left, right, lost = np.zeros((count, rows, inner)), np.zeros((k, q, p)), 0.0
    for lam in range(count):
        for block in range(k):
            places = [t for t in range(block * q, (block + 1) * q) if t % count == lam]
            u, sigma, vh = np.linalg.svd(a[lam::count, block * p : (block + 1) * p])
            for term, t in enumerate(places):
                largest = vh[term, np.argmax(np.abs(vh[term]))]
                root = np.sqrt(sigma[term])
                left[lam, :, t // count] = root * np.sign(largest) * u[:, term]
                right[block, t - block * q] = root * np.sign(largest) * vh[term]
            lost += np.sum(sigma[len(places) :] ** 2)
    return left, right, lost


PROJECTED = (3, 4, 5, 3, 6, 4)  # slices have one or two of five terms


def to_be_projected(library, dtype, rng):
    return (library.asarray(random(rng, dtype, 2, 18, 15)),), {"blocks": PROJECTED}


def nearest(a, blocks):
    return np.stack([entries(*truncated(matrix, blocks)[:2]) for matrix in a.astype("float64")])


def distance(a, blocks):
    lost = [truncated(matrix, blocks)[2] for matrix in a.astype("float64")]
    return np.sqrt(lost) / np.linalg.norm(a, axis=(-2, -1))


def with_gradient_of_norm(library, dtype, rng):
    """The gradients of the squared norm of the projection, which has itself twice as gradient."""
    a = random(rng, "float64", 18, 15)
    left, right, _ = truncated(a, PROJECTED)
    _, *cotangents = pulled_back(2 * entries(left, right).T, np.eye(15), left, right)
    arrays = [library.asarray(array.astype(dtype)) for array in (*cotangents, a)]
    return (tuple(arrays[:2]), arrays[2]), {"blocks": PROJECTED}


TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
CASES = [
    Case("monarch.monarch_matmul", vectors, product, TOLERANCE),
    Case("monarch.monarch_matmul_vjp", with_cotangent, pulled_back, TOLERANCE),
    Case("monarch.fft", sequences, np.fft.fft, TOLERANCE),
    Case("monarch.ifft", sequences, np.fft.ifft, TOLERANCE),
    Case("monarch.fftconvolve", sequences_and_filters, convolved, TOLERANCE),
    Case(
        "monarch.fft_vjp",
        sequences_with_cotangent,
        lambda g, x: (np.fft.ifft(g, norm="forward").real,),
        TOLERANCE,
    ),
    Case(
        "monarch.ifft_vjp",
        sequences_with_cotangent,
        lambda g, x: (np.fft.fft(g, norm="forward").real,),
        TOLERANCE,
    ),
    Case("monarch.fftconvolve_vjp", convolution_with_cotangent, convolved_back, TOLERANCE),
    Case(
        "monarch.dft_factors",
        lambda library, dtype, rng: ((), {"n": 12, "like": library.asarray(np.ones(1, dtype))}),
        transform_of_all,
        TOLERANCE,
    ),
    Case(
        "monarch.hadamard_factors",
        lambda library, dtype, rng: ((), {"n": 8, "like": library.asarray(np.ones(1, dtype))}),
        lambda n, like: tuple(
            np.broadcast_to(
                hadamard(n // blocks).astype(np.float64), (blocks, n // blocks, n // blocks)
            )
            for blocks in (4, 2)
        ),
        TOLERANCE,
    ),
    Case(
        "monarch.kronecker_factors",
        pair,
        lambda a, b: (np.stack([a] * len(b)), np.stack([b] * a.shape[1])),
        TOLERANCE,
    ),
    Case(
        "monarch.factorize_mmstar",
        product_of_three,
        lambda a: a,
        {"float32": 1e-4, "float64": 1e-12},
        multiplied,
    ),
    Case(
        "monarch.lstsq",
        samples,
        lambda x, y, blocks: np.linalg.lstsq(x, y)[0].T,
        {"float32": 1e-4, "float64": 1e-12},
        lambda fit: fit.x.to_dense(),
    ),
    Case(
        "monarch.choose_blocks",
        lambda library, dtype, rng: (
            ((4096, 1024) if library.name == "numpy" else library.asarray(np.array([4096, 1024])),),
            {},
        ),
        lambda shape: (32, 64, 32, 64, 64, 32),
        TOLERANCE,
    ),
    Case(
        "monarch.project",
        to_be_projected,
        nearest,
        {"float32": 1e-5, "float64": 1e-13},
        lambda operator: operator.to_dense(),
    ),
    Case("monarch.projection_error", to_be_projected, distance, TOLERANCE),
    Case(
        "monarch.project_vjp",
        with_gradient_of_norm,
        lambda cotangent, a, blocks: 2 * entries(*truncated(a.astype("float64"), blocks)[:2]),
        {"float32": 1e-4, "float64": 1e-12},
    ),
]
