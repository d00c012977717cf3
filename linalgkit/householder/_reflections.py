"""Unitary and other operators as products of reflections, in LAPACK's order and conventions.

Q = H(1) H(2) … H(r), H(i) = I - tau_i v_i v_iᴴ: the first is the leftmost, unlike the tokens of
`delta_rule`.
"""

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_jax_array

from .. import _checks
from .._engine import Engines
from .._operator import Operator
from .._xp import adjoint

engine = Engines(__package__)


class ReflectionProduct(Operator):
    """A product of reflections, such as the orthogonal factor of a QR decomposition.

    Parameters
    ----------
    vectors : array, shape (..., n, r)
        The reflections' vectors v_i are columns, of any length, leading entries of any value.
    tau : array, shape (..., r)
        Their strengths; 0 stands for no reflection.

    Attributes
    ----------
    vectors, tau : array
        As given, after promotion to a common dtype. NumPy arrays are copied and read-only.
    shape : (int, int)
        (n, n).
    batch_shape : tuple of int
        Axes before these: so many products.
    dtype : dtype
        Of both arrays.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries or are not numeric.

    See Also
    --------
    accumulate : The product of a sequence's reflections, as a matrix.

    Notes
    -----
    Q = H(1) H(2) … H(r) with H(i) = I - tau_i v_i v_iᴴ, as LAPACK has it: the first reflection is
    the leftmost. H(i) is unitary where ``2 Re(tau) = |tau|² |v|²``, as all of a QR decomposition
    are; no method needs that. The adjoint is the product in reverse with conjugate tau.

    A product with m columns takes 4 n r m operations in blocks of 64 reflections, as I - V T Vᴴ
    [1]_ with T = (I + diag(tau) striu(Vᴴ V))⁻¹ diag(tau) [2]_. T takes 64 n r more at the first
    product; for NumPy and CuPy arrays the operator keeps it. No n × n matrix is formed but by
    `to_dense`. X of either memory order comes back in its own. Half precision is computed in
    float32.

    Torch tensors and JAX arrays are served by the reference engine, which they differentiate with
    respect to x, vectors and tau.

    References
    ----------
    .. [1] R. Schreiber, C. Van Loan, "A storage-efficient WY representation for products of
       Householder transformations", SIAM Journal on Scientific and Statistical Computing 10 (1989).
    .. [2] T. Joffrain et al., "Accumulating Householder transformations, revisited", ACM
       Transactions on Mathematical Software 32 (2006).

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.linalg import qr, solve_triangular
    >>> from linalgkit.householder import ReflectionProduct
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((100, 5)), rng.standard_normal(100)
    >>> (raw, tau), r = qr(a, mode="raw")
    >>> q = ReflectionProduct.from_qr(raw, tau)
    >>> q
    <ReflectionProduct 100×100 (5 reflections), float64: 505 parameters, 4,040 bytes, 19.8 times smaller than dense>
    >>> x = solve_triangular(r[:5], (q.H @ b)[:5])
    >>> np.allclose(x, np.linalg.lstsq(a, b)[0])
    True
    """  # noqa: E501

    __module__ = "linalgkit.householder"
    __array_ufunc__ = None  # so that NumPy leaves X @ Q to `__rmatmul__`
    fields = ("vectors", "tau")

    def __init__(self, vectors: Any, tau: Any) -> None:
        _checks.present(vectors=vectors, tau=tau)
        vectors, tau = _checks.floating(vectors=vectors, tau=tau)
        if vectors.ndim < 2 or tau.shape != vectors.shape[:-2] + vectors.shape[-1:]:
            raise ValueError(
                f"vectors must have shape (..., n, r) and tau (..., r); got "
                f"{tuple(vectors.shape)} and {tuple(tau.shape)}."
            )
        n, r = vectors.shape[-2:]
        self.vectors, self.tau = _frozen(vectors), _frozen(tau)
        self.shape, self.batch_shape = (n, n), tuple(vectors.shape[:-2])
        self.dtype = vectors.dtype
        self.structure = f" ({r} reflection{'' if r == 1 else 's'})"
        self._kept: dict[Any, Any] = {}  # what the engine computes once

    @classmethod
    def from_qr(cls, raw: Any, tau: Any) -> "ReflectionProduct":
        """Return the unitary factor of a QR decomposition as LAPACK's ``geqrf`` leaves it.

        Parameters
        ----------
        raw : array, shape (..., n, k)
            The vectors stand below the diagonal, which is 1 and not stored there; what is on and
            above it, R, is not read. So ``(raw, tau), R = scipy.linalg.qr(a, mode="raw")``, and
            ``torch.geqrf``; `numpy.linalg.qr` returns the transpose: pass ``raw.mT``.
        tau : array, shape (..., r)
            At most min(n, k) of them.

        Raises
        ------
        ValueError
            The shapes do not fit each other, or a reflection is not unitary, as of the transpose of
            `raw`: that is looked at for NumPy arrays, and JAX arrays outside of ``jit``.
        """
        _checks.present(raw=raw, tau=tau)
        raw, tau = _checks.floating(raw=raw, tau=tau)
        if (
            raw.ndim < 2
            or tau.ndim < 1
            or tau.shape[:-1] != raw.shape[:-2]
            or tau.shape[-1] > min(raw.shape[-2:])
        ):
            raise ValueError(
                f"raw must have shape (..., n, k) and tau (..., r) with r at most n and k; got "
                f"{tuple(raw.shape)} and {tuple(tau.shape)}."
            )
        xp, r = array_namespace(raw), tau.shape[-1]
        eye = xp.eye(raw.shape[-2], r, dtype=raw.dtype, device=device(raw))
        product = cls(xp.tril(raw[..., :r], k=-1) + eye, tau)
        product._refuse_other_forms()
        return product

    def _refuse_other_forms(self) -> None:
        """Raise ValueError where a reflection of a QR decomposition is not unitary."""
        is_host = isinstance(self.tau, np.ndarray) or is_jax_array(self.tau)
        if not is_host or _is_traced(self.vectors) or _is_traced(self.tau):
            return  # not to wait for a GPU, nor to break the transforms of torch and JAX
        tau = np.asarray(self.tau).astype(np.complex128)
        squares = np.sum(np.abs(np.asarray(self.vectors)).astype(np.float64) ** 2, axis=-2)
        sizes = np.abs(1 - tau * squares)
        limit = float(array_namespace(self.tau).finfo(self.dtype).eps) ** 0.5
        wrong = np.argwhere(np.abs(sizes - 1) > limit)  # NaN passes: it is what products will be
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise ValueError(
                f"reflection {place[0] if len(place) == 1 else place} is not unitary: its "
                f"|1 - tau |v|²| is {sizes[place]:.3g}, not 1. Is raw transposed, as "
                f"numpy.linalg.qr returns it? Then pass raw.mT."
            )

    @classmethod
    def from_dense(cls, q: Any) -> "ReflectionProduct":
        """Return an orthogonal or unitary matrix as n reflections, for NumPy arrays.

        Parameters
        ----------
        q : array, shape (..., n, n)
            The matrix.

        Raises
        ------
        ValueError
            The matrix is not square, or further than rounding from a unitary one.

        Notes
        -----
        By LAPACK's ``geqrfp``, whose R has a nonnegative diagonal: of a unitary matrix that is the
        identity, and no signs are left over. 4/3 n³ operations.
        """
        _checks.present(q=q)
        (q,) = _checks.floating(q=q)
        if not isinstance(q, np.ndarray):
            raise TypeError(f"from_dense takes NumPy arrays; got {type(q).__module__} ones.")
        if q.ndim < 2 or q.shape[-1] != q.shape[-2]:
            raise ValueError(f"q must be square, of shape (..., n, n); got {q.shape}.")
        from scipy.linalg import get_lapack_funcs

        n, limit = q.shape[-1], 30 * max(1, q.shape[-1]) ** 0.5 * float(np.finfo(q.dtype).eps)
        wide = q.astype(np.result_type(q.dtype, np.float32), copy=False)
        geqrfp, lwork = get_lapack_funcs(("geqrfp", "geqrf_lwork"), (wide,))
        raw, tau = np.empty(wide.shape, wide.dtype), np.empty(wide.shape[:-1], wide.dtype)
        for item in np.ndindex(q.shape[:-2]):
            if n == 0:
                break
            raw[item], tau[item], _ = geqrfp(wide[item], lwork=int(lwork(n, n)[0].real))
            error = np.abs(np.triu(raw[item]) - np.eye(n)).max()
            if not error <= limit:
                raise ValueError(
                    f"q{list(item) if item else ''} is not unitary: the R of its QR decomposition "
                    f"differs from the identity by {error:.2g}, more than {limit:.2g}."
                )
        return cls.from_qr(raw.astype(q.dtype, copy=False), tau.astype(q.dtype, copy=False))

    @classmethod
    def random(
        cls,
        n: int,
        r: int | None = None,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: Any = None,
        like: Any = None,
    ) -> "ReflectionProduct":
        """Return a random orthogonal matrix, or a unitary one for a complex dtype.

        Parameters
        ----------
        n : int
            Rows and columns.
        r : int, optional
            The number of reflections; n by default.
        rng : None, int or numpy.random.Generator
            For n r normal numbers, twice as many for a complex dtype.
        dtype : dtype, optional
            Of the arrays; that of `like`, or float64.
        like : array, optional
            An array whose library and device the arrays get.

        Raises
        ------
        ValueError
            `r` is not between 0 and `n`.
        TypeError
            `dtype` is no floating dtype of that library.

        Notes
        -----
        For r = n the matrix has Haar's distribution, for less its first r columns have that of the
        first r columns of such a matrix. It is the Q of a Gaussian matrix whose R has a positive
        diagonal; column i of that, after the reflections before, is Gaussian again, so its
        reflection is drawn directly [1]_, in n r operations.

        References
        ----------
        .. [1] G. W. Stewart, "The efficient generation of random orthogonal matrices with an
           application to condition estimators", SIAM Journal on Numerical Analysis 17 (1980).
        """
        n = _checks.size("n", n)
        r = n if r is None else _checks.size("r", r)
        if r > n:
            raise ValueError(f"r must be at most n = {n}; got {r}.")
        if like is not None:
            (like,) = _checks.floating(like=like)
            dtype = like.dtype if dtype is None else dtype
        xp = np if like is None else array_namespace(like)
        dtype = _checks.floating_dtype(np.float64 if dtype is None else dtype, like)
        rng = np.random.default_rng(rng)
        x = np.tril(rng.standard_normal((n, r)))
        if xp.isdtype(dtype, "complex floating"):
            x = x + 1j * np.tril(rng.standard_normal((n, r)))
        # H(i) takes |x| e_i to x: v = x - |x| e_i, divided by its first entry, tau = -v_i / |x|.
        first, rest = np.diagonal(x), np.sum(np.abs(np.tril(x, -1)) ** 2, axis=0)
        norm = np.sqrt(np.abs(first) ** 2 + rest)
        # Of a positive first entry without cancellation.
        gap = -(rest + first.imag**2) / (np.abs(first.real) + norm)
        gap = np.where(first.real > 0, gap, first.real - norm)
        lead = gap + 1j * first.imag if x.dtype.kind == "c" else gap
        vectors = np.tril(x, -1) / np.where(lead == 0, 1, lead) + np.eye(n, r)
        place = None if like is None else device(like)
        return cls(
            *(
                xp.astype(xp.asarray(array, device=place), dtype)
                for array in (vectors, -lead / norm)
            )
        )

    def matmat(self, x: Any, /) -> Any:
        """Return Q X for X of shape (..., n, k)."""
        return self._apply(x, False)

    def rmatmat(self, x: Any, /) -> Any:
        """Return Q^H X for X of shape (..., n, k)."""
        return self._apply(x, True)

    def _apply(self, x: Any, is_adjoint: bool, name: str = "x") -> Any:
        x = _checks.operand(name, x, -2, self.shape[0])
        x, vectors, tau = _checks.floating(**{name: x}, vectors=self.vectors, tau=self.tau)
        try:
            np.broadcast_shapes(x.shape[:-2], self.batch_shape)
        except ValueError:
            raise ValueError(
                f"the batch axes of {name} must fit the operator's, {self.batch_shape}; got shape "
                f"{tuple(x.shape)}."
            ) from None
        return engine(x, vectors, tau).reflect(x, vectors, tau, self._kept, adjoint=is_adjoint)

    def __matmul__(self, x: Any) -> Any:
        """Return Q x for a vector, Q X for a matrix, the whole product for another one."""
        if not isinstance(x, ReflectionProduct):
            return NotImplemented if isinstance(x, Operator) else super().__matmul__(x)
        if x.shape != self.shape:
            raise ValueError(
                f"an operator of shape {self.shape} cannot be multiplied by one of shape {x.shape}."
            )
        parts = _checks.floating(v=self.vectors, other_v=x.vectors, tau=self.tau, other_tau=x.tau)
        xp, batch = array_namespace(*parts), np.broadcast_shapes(self.batch_shape, x.batch_shape)
        vectors = [xp.broadcast_to(v, (*batch, *v.shape[-2:])) for v in parts[:2]]
        strengths = [xp.broadcast_to(t, (*batch, t.shape[-1])) for t in parts[2:]]
        return ReflectionProduct(xp.concat(vectors, axis=-1), xp.concat(strengths, axis=-1))

    def __rmatmul__(self, x: Any) -> Any:
        """Return x Q for a row, X Q for rows, of shape (..., k, n)."""
        x = _checks.operand("x", x, -1, self.shape[0])
        if x.ndim == 1:
            return self.__rmatmul__(x[None, :])[..., 0, :]
        return adjoint(self.rmatmat(adjoint(x)))

    @property
    def T(self) -> "ReflectionProduct":
        """The transpose."""
        return self.H.conj()

    @property
    def H(self) -> "ReflectionProduct":
        """The conjugate transpose: the reflections in reverse, with conjugate tau."""
        return ReflectionProduct(_reversed(self.vectors), _conj(_reversed(self.tau)))

    def conj(self) -> "ReflectionProduct":
        """Return the complex conjugate."""
        return ReflectionProduct(_conj(self.vectors), _conj(self.tau))

    def to_dense(self) -> Any:
        """Return the matrix as an array of shape (..., n, n)."""
        eye = array_namespace(self.tau).eye(
            self.shape[0], dtype=self.dtype, device=device(self.tau)
        )
        return self.matmat(eye)

    def det(self) -> Any:
        """Return the determinant, the product of all ``1 - tau_i |v_i|²``."""
        return array_namespace(self.tau).prod(self._determinants(), axis=-1)

    def slogdet(self) -> tuple[Any, Any]:
        """Return the determinant's sign (or phase) and the logarithm of its absolute value."""
        xp, factors = array_namespace(self.tau), self._determinants()
        sizes = xp.abs(factors)
        safe = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
        logarithms = xp.where(sizes > 0, xp.log(safe), xp.full_like(sizes, -xp.inf))
        return xp.prod(factors / safe, axis=-1), xp.sum(logarithms, axis=-1)

    def inv(self) -> "ReflectionProduct":
        """Return the inverse: each reflection's, in reverse. It is `H` where Q is unitary.

        Raises
        ------
        LinAlgError
            A reflection is singular: ``tau |v|² = 1``.

        Notes
        -----
        The inverse of I - tau v vᴴ is ``I + tau / (1 - tau |v|²) v vᴴ``.
        """
        xp, factors = array_namespace(self.tau), self._determinants()
        if not _is_traced(factors) and bool(xp.any(factors == 0)):
            place = tuple(int(k[0]) for k in xp.nonzero(factors == 0))
            raise np.linalg.LinAlgError(
                f"reflection {place[0] if len(place) == 1 else place} is singular: its tau |v|² "
                f"is 1."
            )
        return ReflectionProduct(_reversed(self.vectors), _reversed(-self.tau / factors))

    def solve(self, b: Any, /) -> Any:
        """Return x with Q x = b, for b of shape (n,) or (..., n, k).

        Raises
        ------
        ValueError
            `b` does not fit the operator.
        LinAlgError
            A reflection is singular.
        """
        (b,) = _checks.arrays(b=b)
        _checks.present(b=b)
        if b.ndim != 1:
            return self.inv()._apply(b, False, "b")
        b = _checks.operand("b", b, -1, self.shape[0])
        return self.inv()._apply(b[:, None], False, "b")[..., 0]

    def _determinants(self) -> Any:
        """Return 1 - tau_i |v_i|², of shape (..., r)."""
        xp = array_namespace(self.tau)
        return 1 - self.tau * xp.sum(self.vectors * _conj(self.vectors), axis=-2)


def _frozen(array: Any) -> Any:
    """Copy what can be written to, so that what is kept beside it stays true.

    Columns of NumPy's become contiguous.
    """
    if is_cupy_array(array):
        return array.copy()
    if not isinstance(array, np.ndarray) or not array.flags.writeable:
        return array
    array = np.array(array.mT, order="C").mT if array.ndim > 1 else array.copy()
    array.flags.writeable = False
    return array


def _reversed(array: Any) -> Any:
    return array_namespace(array).flip(array, axis=-1)


def _conj(x: Any) -> Any:
    xp = array_namespace(x)
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def _is_traced(array: Any) -> bool:
    if not is_jax_array(array):
        return False
    import jax

    return isinstance(array, jax.core.Tracer)
