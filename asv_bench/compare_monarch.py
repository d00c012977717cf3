"""monarch's contests: products and gradients beside dense BLAS and torch's batched products.

"torch bmm" is the algorithm of the paper's authors: two batched products and a copy in the order
of the permutation. Then projections beside LAPACK's singular values of all slices, transforms
beside SciPy's and NumPy's, convolutions beside SciPy's, and their gradients beside autograd of
torch's transforms. On a GPU: the products beside dense ones and beside two batched products.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
from contest import Call, Contest, Table
from threadpoolctl import threadpool_limits

from linalgkit import monarch

PACKAGES = ("numpy", "scipy", "numba", "torch", "cupy-cuda13x", "cupy-cuda12x")

FIRST_CALL = {
    "numba": """
import numpy as np
blocks = np.ones((4, 4, 4), np.float32)
linalgkit.monarch.monarch_matmul(np.ones((40, 16), np.float32), blocks, blocks)
""",
    "cupy": """
import cupy
blocks = cupy.ones((4, 4, 4), "float32")
linalgkit.monarch.monarch_matmul(cupy.ones((40, 16), "float32"), blocks, blocks).get()
""",
}

# Square matrices of n rows, with blocks of √n, times a batch.
SIZES = tuple((n, batch) for n in (4096, 1024) for batch in (1, 4, 16, 64, 1024))
LARGE = tuple((n, batch) for n, batch in SIZES if batch >= 64)
GPU_SIZES = (
    ("float16", 1024, 8192),
    ("float16", 4096, 8192),
    ("float16", 16384, 4096),
    ("float32", 4096, 64),
    ("float32", 4096, 8192),
)
# What a Monarch matrix of these factors, or a projection to one, is computed from.
PROJECTED = ((1024, "Gaussian"), (1024, "decaying"), (4096, "Gaussian"), (4096, "decaying"))
TRANSFORMED = ((256, 1024), (1024, 1024), (4096, 1024), (4096, 16), (4096, 1))
GPU_CONVOLVED = tuple(
    (dtype, n, batch)
    for dtype in ("float16", "float32", "float64")
    for n, batch in ((256, 8192), (1024, 8192), (4096, 1024), (8192, 1024))
)
CONVOLVED = ((64, 1024), (256, 1024), (1024, 1024), (4096, 256))


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        import cupy

        cases = {
            f"{dtype}, n={n}, batch {batch}": partial(gpu_contest, dtype, n, batch)
            for dtype, n, batch in GPU_SIZES
        }
        wait = cupy.cuda.get_current_stream().synchronize
        peers = ("dense", "two batched products")
        title = "Products on the device"
        products = Table(title, "monarch_matmul", peers, cases, workers=(1,), wait=wait)
        cases = {
            f"{dtype}, n={n}, batch {batch}": partial(gpu_convolution_contest, dtype, n, batch)
            for dtype, n, batch in GPU_CONVOLVED
        }
        title = "Causal convolutions with one filter on the device"
        convolutions = Table(title, "fftconvolve", ("cuFFT",), cases, workers=(1,), wait=wait)
        return [products, products.in_a_queue(), convolutions, convolutions.in_a_queue()]

    def table(
        title: str, ours: str, peers: tuple[str, ...], contest: Any, sizes: Any, **options: Any
    ) -> Table:
        cases = {" ".join(_name(*size)): partial(contest, *size) for size in sizes}
        return Table(title, ours, peers, cases, set_threads=_set_threads, **options)

    products = ("dense", "torch bmm")
    rows, columns = (partial(product_contest, axis) for axis in (-1, 0))
    return [
        table("Products of float32 rows", "monarch_matmul", products, rows, SIZES),
        table("Products of float32 columns", "monarch_matmul(axis=0)", products, columns, SIZES),
        table("Gradients, float32 rows", "monarch_matmul_vjp", ("product",), vjp_contest, LARGE),
        table(
            "Forward and backward of torch tensors, float32 rows",
            "monarch_matmul",
            ("torch bmm", "dense"),
            torch_contest,
            LARGE,
        ),
        table(
            "Projections, rank 1, float64",
            "project",
            ("LAPACK of all slices",),
            projection_contest,
            PROJECTED,
            longest=10.0,  # LAPACK takes seconds at n = 4096
        ),
        table("Fourier transforms, complex64", "fft", ("SciPy", "NumPy"), fft_contest, TRANSFORMED),
        table(
            "Causal convolutions of float32 rows with one filter of their length",
            "fftconvolve",
            ("scipy.signal", "scipy.fft"),
            partial(convolution_contest, "causal"),
            CONVOLVED,
        ),
        table(
            "Circular convolutions of float32 rows with one filter of their length",
            'fftconvolve(mode="circular")',
            ("scipy.fft",),
            partial(convolution_contest, "circular"),
            CONVOLVED,
        ),
        table(
            "Causal convolutions of torch tensors, float32, forward and backward",
            "fftconvolve",
            ("torch.fft",),
            convolution_gradient_contest,
            CONVOLVED,
        ),
    ]


def product_contest(axis: int, n: int, batch: int) -> Contest:
    """Multiply a batch of vectors, rows or columns of an array."""
    x, left, right = operands(n, batch)
    dense = entries(left, right)
    if axis == 0:
        vectors = np.ascontiguousarray(x.T)
        ours, calls = (
            partial(monarch.monarch_matmul, vectors, left, right, axis=0),
            {"dense": lambda: dense @ vectors},
        )
    else:
        ours, calls = (
            partial(monarch.monarch_matmul, x, left, right),
            {"dense": lambda: x @ dense.T},
        )
    if torch := _torch():  # rows, which its algorithm wants
        tensors = [torch.from_numpy(array) for array in (x, left, right)]
        calls["torch bmm"] = partial(bmm, torch, *tensors)

    def differs(result: Any, expected: Any) -> str:
        are_columns = axis == 0 and isinstance(result, np.ndarray)  # torch's are rows
        return _differs(result.T if are_columns else np.asarray(result), expected)

    return Contest(ours, calls, lambda: x @ dense.T, differs)


def vjp_contest(n: int, batch: int) -> Contest:
    """Pull gradients back, with respect to everything."""
    x, left, right = operands(n, batch)
    g = np.random.default_rng(1).standard_normal((batch, n), np.float32)
    dense = entries(left, right)
    calls: dict[str, Call] = {"product": lambda: (monarch.monarch_matmul(x, left, right),)}

    def differs(result: Any, expected: Any) -> str:
        return "" if len(result) == 1 else _differs(result.x, expected)

    ours = partial(monarch.monarch_matmul_vjp, g, x, left, right)
    return Contest(ours, calls, lambda: g @ dense, differs)


def torch_contest(n: int, batch: int) -> Contest:
    """Differentiate through torch: by our gradients, by autograd of two bmm, of a dense layer."""
    import torch

    x, left, right = operands(n, batch)
    g = torch.from_numpy(np.random.default_rng(1).standard_normal((batch, n), np.float32))
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, left, right)]
    dense = torch.from_numpy(entries(left, right)).requires_grad_()

    def gradients(function: Call, arguments: list[Any]) -> Any:
        return torch.autograd.grad(function(*arguments), arguments, g)

    calls = {
        "torch bmm": lambda: gradients(partial(bmm, torch), leaves),
        "dense": lambda: gradients(lambda x, matrix: x @ matrix.T, [leaves[0], dense]),
    }
    ours = partial(gradients, monarch.monarch_matmul, leaves)

    def differs(result: Any, expected: Any) -> str:
        return _differs(result[0].numpy(), expected)

    return Contest(ours, calls, lambda: g.numpy() @ dense.detach().numpy(), differs)


def projection_contest(n: int, kind: str) -> Contest:
    """Find the nearest Monarch matrix."""
    m, rng = round(n**0.5), np.random.default_rng(0)
    a = rng.standard_normal((n, n))
    slices = a.reshape(m, m, m, m).transpose(1, 2, 0, 3)  # (λ, κ, σ, π) of row σ m + λ
    if kind == "decaying":
        with threadpool_limits(1):
            u, v = (np.linalg.qr(rng.standard_normal(slices.shape))[0] for _ in "uv")
        slices = (u * 0.7 ** np.arange(m)) @ v
        a = np.ascontiguousarray(slices.transpose(2, 0, 1, 3)).reshape(n, n)
        slices = a.reshape(m, m, m, m).transpose(1, 2, 0, 3)

    def decomposed(**options: Any) -> list[Any]:
        # OpenBLAS's threads meet at barriers in each small matrix: they take turns with slices.
        parts = np.array_split(slices.reshape(-1, m, m), _workers)
        svd = partial(np.linalg.svd, full_matrices=False, **options)
        with threadpool_limits(1), ThreadPoolExecutor(_workers) as pool:
            return list(pool.map(svd, parts))

    def expected() -> Any:
        return np.concatenate(decomposed(compute_uv=False))

    def differs(result: Any, expected: Any) -> str:
        if isinstance(result, list):
            return ""
        error = np.linalg.norm(a - result.to_dense()) ** 2
        best = np.linalg.norm(a) ** 2 - (expected[:, 0] ** 2).sum()
        excess = error / best - 1
        return "" if abs(excess) < 1e-10 else f"error {excess:.1g} above the least"

    ours = partial(monarch.project, a, nblocks=m)
    return Contest(ours, {"LAPACK of all slices": decomposed}, expected, differs)


def fft_contest(n: int, batch: int) -> Contest:
    """Transform a batch of rows."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((batch, n)) + 1j * rng.standard_normal((batch, n))).astype("complex64")
    calls = {
        "SciPy": lambda: scipy.fft.fft(x, workers=_workers),
        "NumPy": lambda: np.fft.fft(x),  # of one thread
    }
    return Contest(partial(monarch.fft, x), calls, lambda: np.fft.fft(x), _differs)


def convolution_contest(mode: str, n: int, batch: int) -> Contest:
    """Convolve rows with one filter of their length: up to their ends, or around."""
    rng = np.random.default_rng(0)
    x, h = (rng.standard_normal(shape).astype("float32") for shape in ((batch, n), n))
    length = n if mode == "circular" else scipy.fft.next_fast_len(2 * n - 1, real=True)

    def by_transforms(x: np.ndarray = x, h: np.ndarray = h) -> Any:
        spectra = scipy.fft.rfft(x, length, workers=_workers) * scipy.fft.rfft(h, length)
        return scipy.fft.irfft(spectra, length, workers=_workers)[:, :n]

    def by_signal() -> Any:
        with scipy.fft.set_workers(_workers):
            return scipy.signal.fftconvolve(x, h[None], axes=-1)[:, :n]

    calls: dict[str, Call] = {"scipy.fft": by_transforms}
    if mode == "causal":
        calls["scipy.signal"] = by_signal
    ours = partial(monarch.fftconvolve, x, h, mode=mode)
    expected = partial(by_transforms, x.astype("float64"), h.astype("float64"))
    return Contest(ours, calls, expected, _differs)


def convolution_gradient_contest(n: int, batch: int) -> Contest:
    """Differentiate a causal convolution in torch, with respect to rows and filter."""
    import torch

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype("float32") for s in ((batch, n), n, (batch, n))]
    x, h, g = (torch.from_numpy(array) for array in arrays)
    length = scipy.fft.next_fast_len(2 * n - 1, real=True)

    def by_transforms(x: Any, h: Any) -> Any:
        spectra = torch.fft.rfft(x, length) * torch.fft.rfft(h, length)
        return torch.fft.irfft(spectra, length)[:, :n]

    def gradients(convolve: Call, *arrays: Any) -> Any:
        leaves = [array.detach().requires_grad_() for array in arrays]
        return torch.autograd.grad(convolve(*leaves), leaves, g.to(arrays[0].dtype))

    def differs(result: Any, expected: Any) -> str:
        wrong = (_differs(a.numpy(), b.numpy()) for a, b in zip(result, expected, strict=True))
        return "; ".join(filter(None, wrong))

    calls = {"torch.fft": partial(gradients, by_transforms, x, h)}
    ours = partial(gradients, monarch.fftconvolve, x, h)
    return Contest(ours, calls, partial(gradients, by_transforms, x.double(), h.double()), differs)


def gpu_contest(dtype: str, n: int, batch: int) -> Contest:
    """Multiply a batch of rows on the device."""
    import cupy

    arrays = [cupy.asarray(array.astype(dtype)) for array in operands(n, batch)]
    x, left, right = arrays
    dense = cupy.asarray(entries(*(array.get() for array in arrays[1:])).astype(dtype))
    k, _, p = right.shape
    blocks, rows, inner = left.shape

    def two_products() -> Any:
        u = cupy.matmul(x.reshape(batch, k, p).transpose(1, 0, 2), right.transpose(0, 2, 1))
        u = u.transpose(1, 0, 2).reshape(batch, inner, blocks).transpose(2, 0, 1)
        y = cupy.matmul(cupy.ascontiguousarray(u), left.transpose(0, 2, 1))
        return cupy.ascontiguousarray(y.transpose(1, 2, 0)).reshape(batch, rows * blocks)

    def expected() -> Any:
        return (x @ dense.T).get().astype("float32")

    def differs(result: Any, expected: Any) -> str:
        tolerance = 1e-2 if dtype == "float16" else 1e-5
        return _differs(result.get().astype("float32"), expected, tolerance)

    calls = {"dense": lambda: x @ dense.T, "two batched products": two_products}
    ours = partial(monarch.monarch_matmul, x, left, right)
    return Contest(ours, calls, expected, differs, (x, left, right))


def gpu_convolution_contest(dtype: str, n: int, batch: int) -> Contest:
    """Convolve sequences with one filter as long; by transforms in single precision at least."""
    import cupy

    rng = np.random.default_rng(0)
    host = [rng.standard_normal(shape).astype(dtype) for shape in ((batch, n), n)]
    x, h = map(cupy.asarray, host)
    wide = np.promote_types(dtype, np.float32)

    def by_transforms() -> Any:
        spectrum = cupy.fft.rfft(x.astype(wide, copy=False), n=2 * n)
        spectrum *= cupy.fft.rfft(h.astype(wide, copy=False), n=2 * n)
        return cupy.fft.irfft(spectrum, n=2 * n)[:, :n].astype(dtype)

    def expected() -> Any:
        a, b = (each.astype("float64") for each in host)
        return scipy.signal.fftconvolve(a, b[None], axes=1)[:, :n]

    def differs(result: Any, expected: Any) -> str:
        return _differs(result.get(), expected, 1e-2 if dtype == "float16" else 1e-5)

    ours = partial(monarch.fftconvolve, x, h)
    return Contest(ours, {"cuFFT": by_transforms}, expected, differs, (x, h))


def operands(n: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make rows and the factors of a square matrix, float32."""
    m, rng = round(n**0.5), np.random.default_rng(0)
    x = rng.standard_normal((batch, n), np.float32)
    left, right = (rng.standard_normal((m, m, m), np.float32) / np.float32(m**0.5) for _ in "lr")
    return x, left, right


def entries(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the dense matrix: square blocks, entry by entry."""
    m = left.shape[0]
    # M[σ m + λ, κ m + π] = L[λ, σ, κ] R[κ, λ, π]
    matrix = np.einsum("asb,bap->sabp", left, right, optimize=True)
    return np.ascontiguousarray(matrix.reshape(m * m, m * m))


def bmm(torch: Any, x: Any, left: Any, right: Any) -> Any:
    """Multiply rows as the paper's authors do."""
    batch = x.shape[0]
    k, _, p = right.shape
    blocks, rows, inner = left.shape
    u = torch.bmm(x.reshape(batch, k, p).transpose(0, 1), right.transpose(1, 2))
    u = u.transpose(0, 1).reshape(batch, inner, blocks).permute(2, 0, 1).contiguous()
    y = torch.bmm(u, left.transpose(1, 2))
    return y.permute(1, 2, 0).reshape(batch, rows * blocks)


def _name(n: int, what: Any) -> tuple[str, str]:
    return f"n={n},", what if isinstance(what, str) else f"batch {what}"


def _differs(result: Any, expected: Any, tolerance: float = 1e-5) -> str:
    if result.shape != expected.shape:
        return f"shape {result.shape} for {expected.shape}"
    error = np.abs(np.asarray(result) - expected).max() / np.abs(expected).max()
    return "" if error <= tolerance else f"off by {error:.1g} of the largest entry"


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


_workers = 1


def _set_threads(workers: int) -> None:
    """Tell torch, and SciPy's transforms."""
    global _workers
    _workers = workers
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(workers)
