"""Matrices that are Monarch matrices exactly: their factors in closed form."""

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from .. import _checks
from .._engine import Engines
from ._roots import complex_dtype, has_dtype

engine = Engines(__package__)

_NORMS = (None, "backward", "ortho", "forward")


class Factors(NamedTuple):
    """The two factors of a Monarch matrix, in the order in which functions take them.

    Parameters
    ----------
    left : array, shape (l, s, r)
        Blocks of the left factor.
    right : array, shape (k, q, p)
        Blocks of the right factor.
    """

    left: Any
    right: Any


class DFTFactors(NamedTuple):
    """Factors of the DFT matrix, and the order in which its argument's entries are taken.

    Parameters
    ----------
    left : array, shape (p, k, k)
        Blocks of the left factor.
    right : array, shape (k, p, p)
        Blocks of the right factor.
    permutation : array of int, shape (n,)
        The transform of x is ``monarch_matmul(x[permutation], left, right)``.
    """

    left: Any
    right: Any
    permutation: Any


@engine.traced()
def dft_factors(
    n: int,
    *,
    blocks: Sequence[int] | None = None,
    norm: str | None = None,
    like: Any = None,
    dtype: Any = None,
) -> DFTFactors:
    """Return the DFT matrix as Monarch factors after a permutation of its argument.

    Parameters
    ----------
    n : int
        The length of the transform.
    blocks : (int, int), optional
        (k, p) with k p = n: the number of blocks of the right factor, and their size. As near to
        each other as n allows if not given; for a prime n one of them is 1, and the factors are
        as large as the dense matrix.
    norm : {None, "backward", "ortho", "forward"}, optional
        As in ``numpy.fft.fft``.
    like : array, optional
        An array whose library, device and precision the factors get.
    dtype : dtype, optional
        Complex dtype of the factors; complex128 if neither is given.

    Returns
    -------
    DFTFactors
        The factors and the permutation: ``monarch_matmul(x[permutation], left, right)``
        transforms x.

    Raises
    ------
    ValueError
        `n` is less than 1, `blocks` do not multiply to it, or `dtype` is not complex.

    See Also
    --------
    fft : The transform itself.

    Notes
    -----
    With ω_N = exp(−2πi/N) and x'[κ p + π] = x[π k + κ]::

        R[κ, θ, π] = ω_p^(θπ) ω_n^(θκ)        L[λ, σ, κ] = ω_k^(σκ)        F x = M x'

    The permutation is needed: no Monarch matrix with these blocks is F itself (for n = 64 the
    nearest has a relative error of 0.94). Angles are integers mod n, so each entry is within one
    eps of the truth. Memory p k² + k p². The discrete cosine transform is no Monarch matrix, with
    or without such permutations (for n = 64 the nearest has a relative error of 0.5 at least);
    ``scipy.fft.dct`` computes it.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> left, right, permutation = monarch.dft_factors(6)
    >>> left.shape, right.shape
    ((3, 2, 2), (2, 3, 3))
    >>> x = np.arange(6.0)
    >>> y = monarch.monarch_matmul(x[permutation], left, right)
    >>> np.allclose(y, np.fft.fft(x), rtol=0, atol=1e-14)
    True
    """
    n = _checks.size("n", n, 1)
    k, _ = _two_blocks(n, blocks)
    _checks.choice("norm", norm, _NORMS)
    scale = {"ortho": 1 / sqrt(n), "forward": 1 / n}.get(norm or "", 1.0)
    name = _dtype_name(like, dtype, "complex")
    return DFTFactors(*engine(like).dft_factors(like, n=n, k=k, scale=scale, dtype=name))


@engine.traced()
def hadamard_factors(
    n: int,
    *,
    blocks: Sequence[int] | None = None,
    norm: str | None = None,
    like: Any = None,
    dtype: Any = None,
) -> Factors:
    """Return the Hadamard matrix of Sylvester's order as Monarch factors.

    Parameters
    ----------
    n : int
        The size, a power of two.
    blocks : (int, int), optional
        (k, p) with k p = n: the number of blocks of the right factor, and their size; as near to
        each other as n allows if not given.
    norm : {None, "ortho"}, optional
        "ortho": the matrix over √n, which is its own inverse.
    like : array, optional
        An array whose library, device and precision the factors get.
    dtype : dtype, optional
        Floating dtype of the factors, half precision included; float64 if neither is given.

    Returns
    -------
    Factors
        Left (p, k, k) and right (k, p, p).

    Raises
    ------
    ValueError
        `n` is not a power of two, `blocks` do not multiply to it, or `dtype` is not floating.

    See Also
    --------
    kronecker_factors : Of which this is a case.

    Notes
    -----
    H_n = H_k ⊗ H_p, with H_2 = [[1, 1], [1, −1]]. Exact but for the scale.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> left, right = monarch.hadamard_factors(4)
    >>> monarch.monarch_matmul(np.array([1.0, 2.0, 3.0, 4.0]), left, right)
    array([10., -2., -4.,  0.])
    """
    n = _checks.size("n", n, 1)
    if n & (n - 1):
        raise ValueError(f"n must be a power of two; got {n}.")
    k, p = _two_blocks(n, blocks)
    _checks.choice("norm", norm, (None, "ortho"))
    scale = 1 / sqrt(n) if norm == "ortho" else 1.0
    name = _dtype_name(like, dtype, "floating")
    return Factors(*engine(like).hadamard_factors(like, k=k, p=p, scale=scale, dtype=name))


@engine.traced()
def kronecker_factors(a: Any, b: Any, /) -> Factors:
    """Return the Kronecker product of two matrices as Monarch factors.

    Parameters
    ----------
    a : array, shape (..., s, k)
        The outer matrix.
    b : array, shape (..., l, p)
        The inner matrix, with the same batch axes.

    Returns
    -------
    Factors
        Left (..., l, s, k) and right (..., k, l, p). They may be views of `a` and `b` in which
        blocks are repeated, so copy before writing to them. On CPUs products take them as they are.

    Raises
    ------
    ValueError
        `a` and `b` are not matrices, or their batch axes differ.
    TypeError
        The arrays come from different libraries or are not numeric.

    See Also
    --------
    hadamard_factors : A Kronecker product of small matrices.

    Notes
    -----
    ::

        (a ⊗ b)[σ l + λ, κ p + π] = a[σ, κ] b[λ, π]:    L[λ, σ, κ] = a[σ, κ],  R[κ, λ, π] = b[λ, π]

    Differentiable: the gradients of repeated blocks are summed.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import monarch
    >>> a, b = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> monarch.monarch_matmul(np.array([1.0, 1.0]), *monarch.kronecker_factors(a, b))
    array([ 9., 12.])
    """
    _checks.present(a=a, b=b)
    a, b = _checks.floating(a=a, b=b)
    if a.ndim < 2 or b.ndim < 2 or tuple(a.shape[:-2]) != tuple(b.shape[:-2]):
        raise ValueError(
            f"a and b must be matrices with the same batch axes; got shapes {tuple(a.shape)} and "
            f"{tuple(b.shape)}."
        )
    return Factors(*engine(a, b).kronecker_factors(a, b))


def _two_blocks(n: int, blocks: Sequence[int] | None) -> tuple[int, int]:
    """Return (k, p) with k p = n; by default the largest k up to √n."""
    if blocks is None:
        k = next(k for k in range(int(sqrt(n)), 0, -1) if n % k == 0)
        return k, n // k
    if not isinstance(blocks, Sequence):
        raise TypeError(f"blocks must be (k, p); got {type(blocks).__name__}.")
    sizes = tuple(_checks.size("each of blocks", size, 1) for size in blocks)
    if len(sizes) != 2 or sizes[0] * sizes[1] != n:
        raise ValueError(f"blocks must be (k, p) with k p = {n}; got {sizes}.")
    return sizes[0], sizes[1]


def _dtype_name(like: Any, dtype: Any, kind: str) -> str:
    """Name the dtype of factors, from `dtype` or `like`; ValueError unless it is of the kind."""
    if dtype is None:
        if like is None:
            return "complex128" if kind == "complex" else "float64"
        (like,) = _checks.arrays(like=like)
        if kind == "complex":
            return complex_dtype(like)
        for half in ("float16", "bfloat16"):
            if has_dtype(like, half):
                return half
        if array_namespace(like).isdtype(like.dtype, "complex floating"):
            return complex_dtype(like)
        return "float64" if complex_dtype(like) == "complex128" else "float32"
    try:
        name = np.dtype(dtype).name
    except TypeError:  # torch.float32 and its like
        name = str(dtype).rpartition(".")[2]
    allowed = ["complex64", "complex128"]
    if kind == "floating":
        allowed = ["float16", "float32", "float64", *allowed]
        if like is not None and hasattr(array_namespace(*_checks.arrays(like=like)), "bfloat16"):
            allowed = ["bfloat16", *allowed]
    if name not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(allowed)}; got {name}.")
    return name
