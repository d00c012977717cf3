"""mfac's contests: the published recursions in torch, plain NumPy, and reads of the gradients.

The recursions are written here from the equations. A product with F⁻¹ reads the gradients twice, so
"two reads" by BLAS's gemv, which nobody can be much faster than, stand beside every product.

curvlinops starts from a model, and never forms its gradients: it multiplies by F in every step of
CG. So both start from the same small net there, and our time holds forming the gradients of single
samples by torch too. Its empirical Fisher of a loss with reduction "mean" is the mean of the
samples' outer products, as ours; the damping is added to it. Both are in float64. CG takes hundreds
of steps even for few samples, each of many small calls of torch, which more threads do not help.
"""

import sys
from functools import partial
from typing import Any

import numpy as np
from contest import Call, Contest, Table

from linalgkit import mfac
from linalgkit.mfac import _array_api

PACKAGES = ("numpy", "scipy", "numba", "torch", "cupy-cuda13x", "cupy-cuda12x")

FIRST_CALL = {
    "numba": """
import numpy as np
rows = np.ones((4, 40), np.float32)
linalgkit.mfac.empirical_fisher(rows, damping=1.0).solve(rows[0])
""",
    "cupy": """
import cupy
rows = cupy.ones((4, 40), "float32")
linalgkit.mfac.empirical_fisher(rows, damping=1.0).solve(rows[0]).get()
""",
}

DAMPING = 1e-5
STATIC = ((64, 200_000), (256, 200_000))  # gradients, parameters
PRODUCTS = ((256, 200_000), (64, 1_000_000))
BLOCKS = ((256, 200_000, 64), (256, 1_000_000, 64))  # and the size of a block
SMALL = ((256, 2000),)
NETS = ((32, 32, 32),)  # samples, inputs, hidden units
NET_DAMPING = 0.1


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        import mfac_cuda

        return mfac_cuda.tables()

    def table(title: str, ours: str, peers: tuple[str, ...], contest: Any, sizes: Any) -> Table:
        cases = {
            ", ".join(f"{n}={size:,}" for n, size in zip(("m", "d", "B"), sizes_, strict=False)):
                partial(contest, *sizes_)
            for sizes_ in sizes
        }  # fmt: skip
        return Table(title, ours, peers, cases, set_threads=_set_threads)

    reads = ("two reads", "NumPy, chunks")
    return [
        table(
            "Gram matrix, factor and diagonal of the inverse, float32",
            "empirical_fisher(…).diagonal_inverse()",
            ("published in torch", "NumPy, chunks"),
            static_contest,
            STATIC,
        ),
        table("F⁻¹x, float32", "solve", reads, partial(product_contest, None), PRODUCTS),
        table("F⁻¹x, float16", "solve", reads, partial(product_contest, "float16"), PRODUCTS),
        table("F⁻¹x, bfloat16", "solve", reads, partial(product_contest, "bfloat16"), PRODUCTS),
        table(
            "A step with the gradient in the window, float32",
            "push_solve",
            ("two reads", "published in torch"),
            step_contest,
            PRODUCTS,
        ),
        table("Diagonal of blocks, float32", "block_fisher", ("NumPy",), block_contest, BLOCKS),
        table(
            "F⁻¹x with few parameters, float64",
            "empirical_fisher(…).solve",
            ("np.linalg.solve", "CG on F"),
            small_contest,
            SMALL,
        ),
        Table(
            "F⁻¹x of a net with one hidden layer, from the model, float64",
            "gradients by torch, empirical_fisher(…).solve",
            ("curvlinops, CG",),
            {
                f"m={m}, {inputs} inputs, {hidden} hidden": partial(net_contest, m, inputs, hidden)
                for m, inputs, hidden in NETS
            },
            workers=(1,),
            set_threads=_set_threads,
        ),
    ]


def random_gradients(m: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((m, d), np.float32)


def static_contest(m: int, d: int) -> Contest:
    """From gradients to the diagonal."""
    g = random_gradients(m, d)
    calls: dict[str, Call] = {"NumPy, chunks": partial(chunked_diagonal, g)}
    if torch := _torch():
        calls["published in torch"] = partial(published_static, torch, torch.from_numpy(g))

    def differs(result: Any, expected: Any) -> str:
        error = float(np.abs(np.asarray(result) / expected - 1).max())
        return "" if error < 1e-5 else f"relative error {error:.1e}"

    def ours() -> Any:
        return mfac.empirical_fisher(g, damping=DAMPING).diagonal_inverse()

    return Contest(ours, calls, partial(chunked_diagonal, g, np.float64), differs)


def product_contest(storage: str | None, m: int, d: int) -> Contest:
    """F⁻¹ x when the factor is there."""
    g, x = random_gradients(m, d), np.random.default_rng(1).standard_normal(d, np.float32)
    fisher = mfac.empirical_fisher(g, damping=DAMPING, storage=storage)
    coefficients = np.ones(m, np.float32)
    root = np.asarray(fisher._form.root)

    def reads() -> Any:
        return (g @ x, coefficients @ g)

    def plain() -> Any:
        found = root.T @ (root @ (g @ x))
        return (x - found.astype(np.float32) @ g) / np.float32(DAMPING)

    def expected() -> Any:
        kept = fisher.scales[:, None] * _array_api.widened(fisher.gradients)
        found = root.T @ (root @ (kept @ x))
        return (x - found @ kept) / DAMPING

    limit = 1e-6 if storage is None else 1e-2
    peers = {"two reads": reads, "NumPy, chunks": plain}
    read = 2 * fisher.gradients.nbytes
    return Contest(partial(fisher.solve, x), peers, expected, partial(_differs, limit), read=read)


def step_contest(m: int, d: int) -> Contest:
    """Push a gradient and solve for it."""
    g = random_gradients(m, d)
    window = mfac.SlidingWindowFisher(m, d, damping=DAMPING)
    for row in g:
        window.push(row)
    coefficients = np.ones(m, np.float32)

    def reads() -> Any:
        return (g @ g[0], coefficients @ g)

    calls: dict[str, Call] = {"two reads": reads}
    if torch := _torch():
        calls["published in torch"] = partial(
            published_step, torch, torch.from_numpy(g), torch.from_numpy(g @ g.T)
        )

    def expected() -> Any:
        wide = g.astype(np.float64)
        system = wide @ wide.T + m * DAMPING * np.eye(m)
        return m * np.linalg.solve(system, np.eye(m)[0]) @ wide

    # The same gradient comes again and again, in turn into every row: the last step is that of a
    # window full of it, which `expected` is not; so only the first call is compared.
    first = [True]

    def ours() -> Any:
        if first[0]:
            first[0] = False
            return window.push_solve(g[0])
        return (window.push_solve(g[0]),)

    return Contest(ours, calls, expected, partial(_differs, 1e-6))


def block_contest(m: int, d: int, block: int) -> Contest:
    """From gradients to the diagonal of the inverse of blocks."""
    g = random_gradients(m, d)

    def plain() -> Any:
        rows = g[:, : d // block * block].reshape(m, -1, block).transpose(1, 2, 0)
        found = []
        for part in np.array_split(rows, max(1, d // 50_000)):
            wide = part.astype(np.float64)
            matrices = wide @ wide.transpose(0, 2, 1) / m + DAMPING * np.eye(block)
            found.append(np.linalg.inv(matrices).diagonal(axis1=1, axis2=2).ravel())
        return np.concatenate(found)

    def ours() -> Any:
        return mfac.block_fisher(g, block, damping=DAMPING).diagonal_inverse()[: d // block * block]

    return Contest(ours, {"NumPy": plain}, plain, partial(_differs, 1e-6))


def small_contest(m: int, d: int) -> Contest:
    """Few parameters, for which F itself can be written down."""
    from scipy.sparse.linalg import LinearOperator, cg

    g, x = random_gradients(m, d).astype(np.float64), np.ones(d)

    def dense() -> Any:
        return np.linalg.solve(DAMPING * np.eye(d) + g.T @ g / m, x)

    def iterated() -> Any:
        f = LinearOperator((d, d), dtype=float, matvec=lambda v: DAMPING * v + g.T @ (g @ v) / m)
        return cg(f, x, rtol=1e-10, maxiter=1000)[0]

    def ours() -> Any:
        return mfac.empirical_fisher(g, damping=DAMPING).solve(x)

    return Contest(
        ours, {"np.linalg.solve": dense, "CG on F": iterated}, dense, partial(_differs, 1e-5)
    )


def net_contest(m: int, inputs: int, hidden: int) -> Contest:
    """From a net, its loss and samples to F⁻¹x; gradients of single samples are ours to form."""
    import torch
    from curvlinops import CGInverseLinearOperator, EFLinearOperator
    from curvlinops.examples import IdentityLinearOperator

    classes = 10
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, classes)
    ).double()
    loss = torch.nn.CrossEntropyLoss(reduction="mean")
    samples, labels = torch.randn(m, inputs).double(), torch.randint(classes, (m,))
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    x = torch.randn(sum(value.numel() for value in parameters.values())).double()

    def loss_of_one(values: Any, sample: Any, label: Any) -> Any:
        return loss(torch.func.functional_call(model, values, sample[None]), label[None])

    gradient = torch.func.grad(loss_of_one)
    gradients_of_all = torch.func.vmap(gradient, in_dims=(None, 0, 0))

    def formed() -> Any:
        leaves = gradients_of_all(parameters, samples, labels).values()
        return torch.cat([leaf.reshape(m, -1) for leaf in leaves], 1).numpy()

    def ours() -> Any:
        return mfac.empirical_fisher(formed(), damping=NET_DAMPING).solve(x.numpy())

    fisher = EFLinearOperator(
        model, loss, list(model.parameters()), [(samples, labels)], check_deterministic=False
    )
    one = IdentityLinearOperator(
        [value.shape for value in model.parameters()], fisher.device, fisher.dtype
    )
    inverse = CGInverseLinearOperator(
        fisher + NET_DAMPING * one, tolerance=1e-5, max_iter=1000, max_tridiag_iter=0
    )

    def iterated() -> Any:
        return (inverse @ x).detach().numpy()

    def expected() -> Any:
        g = formed()
        return np.linalg.solve(NET_DAMPING * np.eye(g.shape[1]) + g.T @ g / m, x.numpy())

    return Contest(ours, {"curvlinops, CG": iterated}, expected, partial(_differs, 1e-4))


def chunked_diagonal(g: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """What one writes in NumPy and SciPy when one knows the identities."""
    from scipy.linalg import cholesky, solve_triangular

    (m, d), width = g.shape, 16384
    system = m * DAMPING * np.eye(m)
    for begin in range(0, d, width):
        part = g[:, begin : begin + width].astype(dtype, copy=False)
        system += part @ part.T
    factor = cholesky(system, lower=True).astype(dtype)
    result = np.empty(d)
    for begin in range(0, d, width):
        part = g[:, begin : begin + width].astype(dtype, copy=False)
        z = solve_triangular(factor, part, lower=True)
        result[begin : begin + width] = (1 - np.einsum("ij,ij->j", z, z)) / DAMPING
    return result


def published_static(torch: Any, g: Any) -> Any:
    """Algorithm 1: y_i = F_(i-1)⁻¹ g_i with what is known so far, then the diagonal."""
    m, d = g.shape
    y, c = torch.empty_like(g), torch.empty(m)
    diagonal = torch.full((d,), 1 / DAMPING)
    for i in range(m):
        y[i] = g[i] / DAMPING
        if i:
            y[i] -= (y[:i] @ g[i] / c[:i]) @ y[:i]
        c[i] = m + g[i] @ y[i]
        diagonal -= y[i] ** 2 / c[i]
    return diagonal


def published_step(torch: Any, g: Any, k: Any) -> Any:
    """Make the dynamic algorithm's refactorisation and product; new dots are one read of G."""
    m = len(g)
    dots = g @ g[0]
    d = torch.triu(k) / DAMPING
    b = torch.zeros_like(d)
    for i in range(m):
        q = m + d[i, i]
        d[i + 1 :, i + 1 :] -= torch.outer(d[i, i + 1 :] / q, d[i, i + 1 :])
    d = torch.triu(d)
    q = m + d.diagonal()
    for i in range(m):
        b[i, :i] = -(d[:i, i] / q[:i]) @ b[:i, :i]
        b[i, i] = 1 / DAMPING
    s = dots / DAMPING
    for i in range(m):
        s[i + 1 :] -= d[i, i + 1 :] * (s[i] / q[i])
    return (g[0] / DAMPING - ((s / q) @ b) @ g,)


def _differs(limit: float, result: Any, expected: Any) -> str:
    if isinstance(result, tuple):
        return ""  # not the same question: reads alone, or a step that is known to lose its digits
    error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
    return "" if error < limit else f"relative error {error:.1e}"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _set_threads(count: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
