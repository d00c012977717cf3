"""Products of a Kronecker product with vectors, and their gradients.

Row-major: ``(A_1 ⊗ ... ⊗ A_d) x`` is the array ``x.reshape(n_1, ..., n_d)`` with A_k applied along
axis k, raveled. For two factors: ``numpy.kron(A, B) @ X.ravel() == (A @ X @ B.T).ravel()``. (Papers
that stack columns write ``vec(A X B) = (Bᵀ ⊗ A) vec(X)``, with the factors the other way round.)
"""

from collections.abc import Collection, Sequence
from math import prod
from typing import Any, NamedTuple

from array_api_compat import array_namespace, is_dask_array

from .. import _checks
from .._engine import Engines
from .._xp import adjoint, moveaxis
from ._modes import (
    batch_shape,
    checked,
    columns_of,
    entries,
    grid,
    image,
    is_fit,
    is_operator,
    mode_by_mode,
    multiplies,
    native,
    preimage,
    rows_of,
    sequence,
    square,
    steps,
    with_operators,
)

engine = Engines(__package__)


class KroneckerGradients(NamedTuple):
    """Gradients of `kron_matvec`; None where not wanted.

    Parameters
    ----------
    factors : tuple of array, the k-th of shape (..., m_k, n_k), or None
        With respect to the factors.
    x : array, shape (..., n_1 ⋯ n_d), or None
        With respect to the vectors.
    """

    factors: Any
    x: Any


# Engines take the vectors first: position 0 is x there.
@engine.traced(vjp="kron_matvec_vjp", batched=(0,))
def kron_matvec(factors: Sequence[Any], x: Any, /) -> Any:
    """Multiply vectors by the Kronecker product of matrices, which is never formed.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d; any number, rectangular at will. Batch axes lead. Linear operators may
        stand among them (anything with `shape` and `matmat`, without batch axes).
    x : array, shape (..., n_1 ⋯ n_d)
        Vectors along the last axis, row-major: ``x.reshape(..., n_1, ..., n_d)`` is the grid, and
        A_k acts along its axis k, as with ``numpy.kron``. Dask arrays may be chunked along it.

    Returns
    -------
    array, shape (..., m_1 ⋯ m_d)
        The products. Batch axes of the factors and of `x` broadcast. Integers count as float64;
        mixed dtypes give their ``result_type``.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries or are not numeric.

    See Also
    --------
    kron_matmat : Of a block of columns.
    kron_solve : The inverse.
    kron_matvec_vjp : Its gradients.

    Notes
    -----
    One matrix product a mode, on a view of the grid: nothing is transposed in memory. Modes go in
    the order of descending 1/m_k - 1/n_k, which is the one of fewest operations; square factors of
    order n take 2 d n^(d+1) of them and a few arrays of the size of `x`. The relative error is at
    most d n eps times the product of the factors' norms.

    With a Dask array the factors are matrices in memory, of the library of its chunks, and the
    result is a Dask array. Some leading modes are whole in a chunk, or all the others; it has no
    more points than the largest chunk of `x`, unless those modes alone have more or the factors
    grow the grid. For the leading modes the chunks are exchanged, and then exchanged back.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[0.0, 1], [1, 0]])
    >>> x = np.arange(4.0)
    >>> kronecker.kron_matvec([a, b], x)
    array([ 7.,  4., 15.,  8., 23., 12.])
    >>> np.kron(a, b) @ x
    array([ 7.,  4., 15.,  8., 23., 12.])
    >>> (a @ x.reshape(2, 2) @ b.T).ravel()
    array([ 7.,  4., 15.,  8., 23., 12.])
    """
    factors = sequence(factors)
    if is_fit(factors, x):
        return engine(x).kron_matvec(x, *factors, columns=1)
    if any(map(is_operator, factors)):
        return _with_operators(factors, x)
    if is_dask_array(x):
        return _in_chunks(factors, x)
    factors, x = checked(factors, x=x)
    grid("x", x, columns_of(factors))
    batch_shape(factors, tuple(x.shape[:-1]))
    return engine(x, *factors).kron_matvec(x, *factors, columns=1)


@engine.traced()
def kron_rmatvec(factors: Sequence[Any], x: Any, /) -> Any:
    """Multiply vectors by the conjugate transpose of the Kronecker product of matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d, or operators with `shape` and `rmatmat`, as for `kron_matvec`.
    x : array, shape (..., m_1 ⋯ m_d)
        Vectors along the last axis, row-major.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        ``(A_1 ⊗ ... ⊗ A_d)ᴴ x``, which is that of the conjugate transposes.

    See Also
    --------
    kron_matvec : The product itself, with the conventions.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[0.0, 1], [1, 0]])
    >>> kronecker.kron_rmatvec([a, b], np.arange(6.0))
    array([35., 26., 44., 32.])
    """
    factors = sequence(factors)
    if any(map(is_operator, factors)):
        return _with_operators(factors, x, adjoints=True)
    if is_dask_array(x):
        return _in_chunks(factors, x, adjoints=True)
    factors, x = checked(factors, x=x)
    return kron_matvec([adjoint(factor) for factor in factors], x)


@engine.traced()
def kron_matmat(factors: Sequence[Any], x: Any, /) -> Any:
    """Multiply the columns of a matrix by the Kronecker product of matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d, or operators, as for `kron_matvec`.
    x : array, shape (..., n_1 ⋯ n_d, columns)
        The columns' entries are along the last axis but one, row-major. Dask arrays may be chunked
        along both; chunks of whole columns are not exchanged.

    Returns
    -------
    array, shape (..., m_1 ⋯ m_d, columns)
        The products.

    See Also
    --------
    kron_matvec : Of vectors along the last axis, with the conventions.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[0.0, 1], [1, 0]])
    >>> np.array_equal(kronecker.kron_matmat([a, b], np.eye(4)), np.kron(a, b))
    True
    """
    factors = sequence(factors)
    if any(map(is_operator, factors)):
        factors, x = multiplying(factors, x)
        grid("x", x, columns_of(factors), -2)
        return moveaxis(_with_operators(factors, moveaxis(x, -1, -2)), -1, -2)
    if is_dask_array(x):
        (factors,) = checked(factors)
        grid("x", x, columns_of(factors), -2)
        return moveaxis(_in_chunks(factors, moveaxis(x, -1, -2)), -1, -2)
    factors, x = checked(factors, x=x)
    grid("x", x, columns_of(factors), -2)
    batch = batch_shape(factors, tuple(x.shape[:-2]))
    xp, columns = array_namespace(x), x.shape[-1]
    x = xp.reshape(x, (*x.shape[:-2], x.shape[-2] * columns))
    y = engine(x, *factors).kron_matvec(x, *factors, columns=columns)
    return xp.reshape(y, (*batch, prod(rows_of(factors)), columns))


@engine.traced()
def kron_matvec_vjp(
    cotangent: Any,
    factors: Sequence[Any],
    x: Any,
    /,
    *,
    wrt: Collection[str] | None = None,
) -> KroneckerGradients:
    """Pull a gradient back through `kron_matvec`.

    Parameters
    ----------
    cotangent : array, shape (..., m_1 ⋯ m_d)
        Gradient with respect to the products.
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        As for `kron_matvec`; arrays only.
    x : array, shape (..., n_1 ⋯ n_d)
        As for `kron_matvec`.
    wrt : collection of str, optional
        Some of "factors", "x": the others are None and not computed.

    Returns
    -------
    KroneckerGradients
        Each in the dtype of its argument (the real part, for a real one).

    Raises
    ------
    ValueError
        The shapes do not fit each other, or `wrt` names something else.

    See Also
    --------
    kron_matvec : The product.

    Notes
    -----
    With the modes before k applied to x, and the conjugate transposes of those after k applied to
    the cotangent, the gradient of factor k is the sum of outer products of fibres along mode k.
    All together take three times the operations of the product, and d arrays of its size.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> a, b = np.array([[1.0, 2], [3, 4]]), np.array([[0.0, 1], [1, 0]])
    >>> gradients = kronecker.kron_matvec_vjp(np.ones(4), [a, b], np.arange(4.0))
    >>> gradients.x
    array([4., 4., 6., 6.])
    >>> gradients.factors[0]
    array([[1., 5.],
           [1., 5.]])
    """
    originals = (*sequence(factors), x)
    factors, cotangent, x = checked(factors, cotangent=cotangent, x=x)
    grid("x", x, columns_of(factors))
    batch = batch_shape(factors, tuple(x.shape[:-1]))
    product("cotangent", cotangent, (*batch, prod(rows_of(factors))))
    wanted = wanted_arrays(wrt, len(factors), "x")
    of_x, *others = engine(cotangent, x, *factors).kron_matvec_vjp(
        cotangent, x, *factors, columns=1, wrt=wanted
    )
    return KroneckerGradients(*as_asked(wrt, (*others, of_x), originals, "x"))


@engine.traced()
def kron_dense(factors: Sequence[Any], /) -> Any:
    """Form the Kronecker product of matrices: for small ones, and for tests.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., m_k, n_k)
        A_1, ..., A_d.

    Returns
    -------
    array, shape (..., m_1 ⋯ m_d, n_1 ⋯ n_d)
        As ``numpy.kron`` of one after the other; batch axes broadcast.

    See Also
    --------
    kron_matvec : Multiplies without forming it.

    Notes
    -----
    Each entry is a product of d numbers, with a relative error of at most d eps of the dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> kronecker.kron_dense([np.eye(2), np.array([[1.0, 2.0]])])
    array([[1., 2., 0., 0.],
           [0., 0., 1., 2.]])
    """
    (factors,) = checked(factors)
    return engine(*factors).kron_dense(*factors)


@engine.traced()
def kron_diag(factors: Sequence[Any], /) -> Any:
    """Return the diagonal of a Kronecker product of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Linear operators may stand among them: their entries are computed.

    Returns
    -------
    array, shape (..., n_1 ⋯ n_d)
        The Kronecker product of the diagonals.

    Raises
    ------
    ValueError
        A factor is not square.

    Notes
    -----
    Each entry is a product of d numbers, with a relative error of at most d eps of the dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> kronecker.kron_diag([np.diag([1.0, 2.0]), np.diag([3.0, 4.0])])
    array([3., 4., 6., 8.])
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_diag")
    return engine(*factors).kron_diag(*factors)


@engine.traced()
def kron_trace(factors: Sequence[Any], /) -> Any:
    """Return the trace of a Kronecker product of square matrices.

    Parameters
    ----------
    factors : sequence of array, the k-th of shape (..., n_k, n_k)
        A_1, ..., A_d. Linear operators may stand among them: their entries are computed.

    Returns
    -------
    array, shape (...)
        The product of the traces.

    Raises
    ------
    ValueError
        A factor is not square.

    Notes
    -----
    Each factor's trace has an error of at most n_k eps (of the dtype) times the sum of the absolute
    values on its diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> kronecker.kron_trace([np.diag([1.0, 2.0]), np.diag([3.0, 4.0])])
    array(21.)
    """
    (factors,) = checked(entries(factors))
    square(factors, "kron_trace")
    return engine(*factors).kron_trace(*factors)


@engine.traced()
def partial_trace(a: Any, sizes: Sequence[int], /, *, axes: int | Sequence[int]) -> Any:
    """Trace a matrix on a grid over some axes of the grid.

    Parameters
    ----------
    a : array, shape (..., n_1 ⋯ n_d, n_1 ⋯ n_d)
        The matrix, any one; batch axes lead. Rows and columns are grids, row-major.
    sizes : sequence of int
        The points of each axis: n_1, ..., n_d.
    axes : int or sequence of int
        The axes of the grid over which the trace is taken, counted from 0, or from the end by
        negative numbers. The others are kept, in their order.

    Returns
    -------
    array, shape (..., m, m)
        With m the product of the sizes that are kept: 1 where there are none, and the entry is the
        trace of the matrix.

    Raises
    ------
    ValueError
        The sizes do not make the matrix, or there is no such axis, or one is named twice.
    TypeError
        A size or an axis is not an integer.

    See Also
    --------
    KroneckerProduct.partial_trace : Of a product, by its factors.
    kron_trace : Of a product, over all axes.

    Notes
    -----
    The partial trace of ``A_1 ⊗ ... ⊗ A_d`` is the product of the factors kept, times the traces of
    the others. In quantum mechanics it takes the density matrix of a system to that of a part of
    it. What is read is the n_1 ⋯ n_d m entries that are added up, and no others.

    Examples
    --------
    One of two entangled spins by itself is in either state with the same probability:

    >>> import numpy as np
    >>> from linalgkit import kronecker
    >>> state = np.array([1.0, 0.0, 0.0, 1.0]) / np.sqrt(2)
    >>> kronecker.partial_trace(np.outer(state, state), (2, 2), axes=1).round(12)
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    _checks.present(a=a)
    a = native(*_checks.floating(a=a))
    if not isinstance(sizes, Sequence):
        raise TypeError(f"sizes must be a sequence of integers; got {sizes!r}.")
    sizes = tuple([_checks.size(f"sizes[{k}]", n) for k, n in enumerate(sizes)])
    points = prod(sizes)
    if tuple(a.shape[-2:]) != (points, points):
        raise ValueError(
            f"a must be a matrix of shape (..., {points}, {points}), as sizes {sizes} make it; got "
            f"shape {tuple(a.shape)}."
        )
    return engine(a).partial_trace(a, sizes=sizes, axes=traced_axes(axes, len(sizes)))


def traced_axes(axes: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return axes of a grid, ascending from 0; ValueError unless they are some of `count`."""
    listed = axes if isinstance(axes, Sequence) else (axes,)
    found = sorted([count + _checks.negative_axis("axes", axis, count) for axis in listed])
    if len(set(found)) < len(found):
        raise ValueError(f"axes must differ from each other; got {axes!r}.")
    return tuple(found)


def product(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a cotangent has the result's shape."""
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} must have the result's shape {shape}; got {tuple(array.shape)}.")


def wanted_arrays(wrt: Collection[str] | None, count: int, *vectors: str) -> tuple[str, ...]:
    """Return the engine's names of the arrays whose gradients are wanted."""
    wanted = _checks.wanted(wrt, (*vectors, "factors"))
    names = [name for name in vectors if name in wanted]
    if "factors" in wanted:
        names += [f"factors[{k}]" for k in range(count)]
    return tuple(names)


def as_asked(
    wrt: Collection[str] | None, gradients: Sequence[Any], originals: Sequence[Any], *vectors: str
) -> tuple[Any, ...]:
    """Return the factors' gradients and those of vectors, each in the dtype of its argument."""
    found = tuple(map(_checks.as_dtype_of, gradients, originals))
    wanted = _checks.wanted(wrt, (*vectors, "factors"))
    count = len(found) - len(vectors)
    of_vectors = zip(vectors, found[count:], strict=True)
    return (
        found[:count] if "factors" in wanted else None,
        *(gradient if name in wanted else None for name, gradient in of_vectors),
    )


def multiplying(factors: Sequence[Any], x: Any) -> tuple[Any, ...]:
    """Return factors with operators among them, and x; TypeError where one only solves."""
    for k, factor in enumerate(factors):
        if is_operator(factor) and not multiplies(factor):
            raise TypeError(
                f"factors[{k}] is a {type(factor).__name__}, which solves but does not multiply."
            )
    return with_operators(factors, x=x)


def _in_chunks(factors: Sequence[Any], x: Any, adjoints: bool = False) -> Any:
    """Multiply a Dask array by matrices that are in memory."""
    for k, factor in enumerate(factors):
        if is_dask_array(factor):
            raise TypeError(
                f"factors[{k}] is a Dask array; factors must be in memory, and only x in chunks."
            )
    factors, like = checked(factors, x=x._meta)  # of one library, one dtype
    if adjoints:
        factors = tuple(map(adjoint, factors))
    if any(factor.ndim > 2 for factor in factors):
        raise ValueError(
            "with a Dask array each factor is one matrix; got factors of shapes "
            f"{[tuple(factor.shape) for factor in factors]}."
        )
    grid("x", x, columns_of(factors))
    return engine(x).kron_matvec(x.astype(like.dtype), *factors, columns=1)


def _with_operators(factors: Sequence[Any], x: Any, adjoints: bool = False) -> Any:
    """Multiply mode by mode where some factors are linear operators."""
    factors, x = multiplying(factors, x)
    rows, sizes, apply = rows_of(factors), columns_of(factors), image
    if adjoints:
        rows, sizes, apply = sizes, rows, preimage
    grid("x", x, sizes)
    plan = steps(rows, sizes)
    return mode_by_mode(x, sizes, plan, lambda k, columns: apply(factors[k], columns))
