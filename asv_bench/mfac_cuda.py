"""mfac's contests on a CUDA device: beside torch's products of the same gradients.

"two reads" are two products of torch with the gradients in their own dtype, G x and a G, which is
the least that F⁻¹ x takes. The Gram matrix is torch's in the gradients' dtype, whose sums on tensor
cores are truncated; ours is summed in float64, and its factor is part of the time.
"""

from functools import partial
from typing import Any

from contest import Contest, Table

from linalgkit import mfac

DAMPING = 1e-5
SIZE = 1024, 4_000_000  # gradients, parameters
DTYPES = ("float16", "float32")


def tables() -> list[Table]:
    """Return the contests."""
    import cupy

    def table(title: str, ours: str, peer: str, contest: Any) -> Table:
        wait = cupy.cuda.Device().synchronize
        m, d = SIZE
        cases = {f"{dtype}, m={m:,}, d={d:,}": partial(contest, dtype, *SIZE) for dtype in DTYPES}
        return Table(title, ours, (peer,), cases, workers=(1,), wait=wait)

    return [
        table("F⁻¹x on the device", "solve", "two reads", product_contest),
        table(
            "A step with the gradient in the window on the device",
            "push_solve",
            "two reads",
            step_contest,
        ),
        table(
            "Gram matrix and factor on the device",
            "empirical_fisher",
            "torch Gram matrix",
            gram_contest,
        ),
    ]


def random_gradients(dtype: str, m: int, d: int) -> Any:
    """Make gradients on the device, for torch and for CuPy the same memory."""
    import cupy
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    g = torch.empty(m, d, device="cuda", dtype=getattr(torch, dtype))
    for row in g:  # in float32 all at once would not fit beside what follows
        row.copy_(torch.randn(d, device="cuda", generator=generator))
    return g, cupy.from_dlpack(g)


def product_contest(dtype: str, m: int, d: int) -> Contest:
    """F⁻¹ x when the factor is there."""
    import cupy

    tensor, g = random_gradients(dtype, m, d)
    fisher = mfac.empirical_fisher(g, damping=DAMPING)
    x = cupy.random.default_rng(1).standard_normal(d, "float32")

    ours, reads = partial(fisher.solve, x), _reads(tensor)
    return Contest(ours, {"two reads": reads}, partial(solved, g, x), _differs, (g, x))


def step_contest(dtype: str, m: int, d: int) -> Contest:
    """Push a gradient and solve for it."""
    tensor, g = random_gradients(dtype, m, d)
    window = mfac.SlidingWindowFisher(m, d, damping=DAMPING, storage=dtype, like=g[0, :0])
    for row in g:
        window.push(row.astype("float32"))
    # The first push replaces the oldest gradient, which is the same.
    ours, reads = partial(window.push_solve, g[0].astype("float32")), _reads(tensor)
    return Contest(ours, {"two reads": reads}, partial(solved, g), _differs, (g,))


def gram_contest(dtype: str, m: int, d: int) -> Contest:
    """From gradients to the factor; whose rounding is another, so nothing is compared."""
    tensor, g = random_gradients(dtype, m, d)
    ours = partial(mfac.empirical_fisher, g, damping=DAMPING)
    calls = {"torch Gram matrix": lambda: tensor @ tensor.T}
    return Contest(ours, calls, lambda: None, lambda result, expected: "", (g,))


def _reads(tensor: Any) -> Any:
    m, d = tensor.shape
    x, coefficients = tensor.new_ones(d), tensor.new_ones(m)
    return lambda: (tensor @ x, coefficients @ tensor)


def solved(g: Any, x: Any = None) -> Any:
    """Return F⁻¹ x, by default of the first gradient, in float64 from pieces of columns."""
    import cupy

    m, d = g.shape
    pieces = [slice(begin, begin + 100_000) for begin in range(0, d, 100_000)]
    gram, dots = cupy.zeros((m, m)), cupy.zeros(m)
    for piece in pieces:
        wide = g[:, piece].astype("float64")
        gram += wide @ wide.T
        if x is not None:
            dots += wide @ x[piece]
    matrix = gram + m * DAMPING * cupy.eye(m)
    if x is None:  # F⁻¹ g = m Gᵀ M⁻¹ e, without a subtraction
        coefficients = m * cupy.linalg.solve(matrix, cupy.eye(m)[0])
        return cupy.concatenate([coefficients @ g[:, piece] for piece in pieces])
    coefficients = cupy.linalg.solve(matrix, dots)
    rest = [x[piece] - coefficients @ g[:, piece] for piece in pieces]
    return cupy.concatenate(rest) / DAMPING


def _differs(result: Any, expected: Any) -> str:
    if isinstance(result, tuple):  # two reads
        return ""
    error = float(abs(result - expected).max() / abs(expected).max())
    return "" if error < 1e-5 else f"relative error {error:.1e}"
