"""The delta rule: a state that rotates, forgets and learns with each token, in chunks of tokens.

Tokens are rows. The state H has shape (d_k, d_v); it is the transpose of the papers' S.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from .. import _checks
from .._engine import Engines
from ._normalization import normalized, normalized_vjp

engine = Engines(__package__)

_NAMES = ("q", "k", "v", "beta", "log_decay", "initial_state")


class DeltaRuleGradients(NamedTuple):
    """Gradients of `delta_rule`; None where not wanted, and of what was not given.

    Parameters
    ----------
    q : array, shape (..., L, d_k), or None
        With respect to the queries.
    k : array, shape (..., n L, d_k), or None
        With respect to the keys.
    v : array, shape (..., n L, d_v), or None
        With respect to the values.
    beta : array, shape (..., n L), or None
        With respect to the strengths.
    log_decay : array, shape (..., L) or (..., L, d_k), or None
        With respect to the gates.
    initial_state : array, shape (..., d_k, d_v), or None
        With respect to the state at the start.
    """

    q: Any
    k: Any
    v: Any
    beta: Any
    log_decay: Any
    initial_state: Any


@engine.traced(vjp="delta_rule_vjp", batched=(0, 1, 2, 3, 4, 5))
def delta_rule(
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    *,
    log_decay: Any = None,
    initial_state: Any = None,
    scale: float | None = None,
    normalize: bool = False,
    reflections: int = 1,
    chunk: int | None = None,
    return_state: bool = False,
    check: bool = False,
) -> Any:
    """Run the delta rule over a sequence: read from a state that each token reflects and writes to.

    Parameters
    ----------
    q : array, shape (..., L, d_k)
        Queries, a row a token. Heads are a batch axis, before the tokens: arrays of shape
        (batch, tokens, heads, entries) have to be transposed first, and are not noticed.
    k : array, shape (..., n L, d_k)
        Keys: n = `reflections` rows a token.
    v : array, shape (..., n L, d_v)
        Values.
    beta : array, shape (..., n L)
        Strengths of the updates, usually from 0 to 2.
    log_decay : array, shape (..., L) or (..., L, d_k), optional
        Logarithm of the factor, at most 1, by which a token first shrinks the state; one number, or
        one for each row of the state. ``-inf`` forgets everything. By default nothing is forgotten.
    initial_state : array, shape (..., d_k, d_v), optional
        State before the first token; zeros by default.
    scale : float, optional
        Multiplies what is read; ``d_k ** -0.5`` by default.
    normalize : bool, optional
        Divide each query and each key by its 2-norm first (zeros stay zeros).
    reflections : int, optional
        Updates a token, n.
    chunk : int, optional
        Rows of keys that are solved for together, rounded down to whole tokens (at least one). It
        changes the speed, and results by rounding only. The default suits each engine.
    return_state : bool, optional
        Return the state after the last token, too.
    check : bool, optional
        Warn where ``beta |k|² > 2`` or ``log_decay > 0``, beyond which states may grow without
        bound. It reads values, so it is not for ``jit``.

    Returns
    -------
    output : array, shape (..., L, d_v)
        What each token reads, after its own updates. In the dtype of q, k and v.
    state : array, shape (..., d_k, d_v)
        With `return_state`. At least float32.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or `reflections` does not divide the rows of `k`.
    TypeError
        The arrays come from different libraries, are complex, or not numeric; or an option is of
        another kind.

    See Also
    --------
    delta_rule_step : One token.
    delta_rule_vjp : Gradients.

    Notes
    -----
    For each token t (of n = 1 rows) [1]_ [2]_::

        H ← exp(g_t) H;    H ← (I - β_t k_t k_tᵀ) H + β_t k_t v_tᵀ;    o_t = scale Hᵀ q_t

    I - β k kᵀ has the eigenvalue 1 - β|k|² once: a projector for β|k|² = 1, a reflection for 2.
    With negative eigenvalues, β|k|² > 1, a state can count modulo 2, and with several reflections a
    token it follows any finite group [3]_. For β|k|² from 0 to 2 no step amplifies; outside, the
    state may grow as ``|1 - β|k|²|^L``. Nothing is clipped.

    In chunks of C rows, with A = tril(B K Kᵀ, -1) and B = diag(β)::

        N = (I + A)⁻¹ B (V - K H);   O = scale (Q H + tril(Q Kᵀ) N);   H ← H + Kᵀ N

    6 L d_k d_v operations and 2 L C (d_k + d_v) for the chunks. The relative error is about
    eps √L for float64 and float32; half precision is computed in float32 and rounded once. On GPUs
    of compute capability 9.0 and above, float16 and bfloat16 with keys of at most 128 entries go
    through tensor cores: operands of products are rounded to the dtype, sums and the state are
    float32, and the relative error is about one eps of the dtype. A NaN stays in its batch item.

    References
    ----------
    .. [1] S. Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence
       Length", NeurIPS 2024, arXiv:2406.06484.
    .. [2] S. Yang, J. Kautz, A. Hatamizadeh, "Gated Delta Networks", ICLR 2025, arXiv:2412.06464.
    .. [3] R. Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
       ICLR 2025, arXiv:2411.12537.

    Examples
    --------
    An associative memory: with β = 1 a key's new value replaces the old one.

    >>> import numpy as np
    >>> from linalgkit.householder import delta_rule
    >>> k = np.array([[1.0, 0], [0, 1], [1, 0]])
    >>> v = np.array([[10.0], [20], [30]])
    >>> delta_rule(k, k, v, np.ones(3), scale=1)
    array([[10.],
           [20.],
           [30.]])

    The parity of bits, by reflections of the number line:

    >>> bits = np.array([1.0, 1, 0, 1])
    >>> one, zero = np.ones((4, 1)), np.zeros((4, 1))
    >>> delta_rule(one, one, zero, 2 * bits, initial_state=np.ones((1, 1)))[:, 0]
    array([-1.,  1.,  1., -1.])
    """
    _checks.flags(normalize=normalize, return_state=return_state, check=check)
    reflections = _checks.size("reflections", reflections, 1)
    q, k, v, beta, log_decay, initial_state = _arrays(
        q, k, v, beta, log_decay, initial_state, reflections
    )
    if check:
        _warn_of_growth(k, beta, log_decay, normalize)
    if normalize:
        q, k = normalized(q), normalized(k)
    output, state = engine(q, k, v, beta, log_decay, initial_state).delta_rule(
        q, k, v, beta, log_decay, initial_state, **_options(q, scale, reflections, chunk)
    )
    return (output, state) if return_state else output


@engine.traced()
def delta_rule_step(
    state: Any,
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    *,
    log_decay: Any = None,
    scale: float | None = None,
) -> Any:
    """Take one token through the delta rule, as in decoding.

    Parameters
    ----------
    state : array, shape (..., d_k, d_v), or None
        State before the token; None for zeros.
    q : array, shape (..., d_k)
        Query.
    k : array, shape (..., d_k)
        Key.
    v : array, shape (..., d_v)
        Value.
    beta : array, shape (...)
        Strength of the update.
    log_decay : array, shape (...) or (..., d_k), optional
        As for `delta_rule`.
    scale : float, optional
        As for `delta_rule`.

    Returns
    -------
    output : array, shape (..., d_v)
        What the token reads after its update.
    state : array, shape (..., d_k, d_v)
        State after the token, a new array.

    Raises
    ------
    ValueError
        The shapes do not fit each other.
    TypeError
        The arrays come from different libraries, are complex, or not numeric.

    See Also
    --------
    delta_rule : A whole sequence.

    Notes
    -----
    `delta_rule` of one token: 6 d_k d_v operations, bounded by reading and writing the state.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.householder import delta_rule_step
    >>> key, value = np.array([0.0, 1.0]), np.array([3.0, 4.0])
    >>> output, state = delta_rule_step(np.zeros((2, 2)), key, key, value, 1.0, scale=1)
    >>> output
    array([3., 4.])
    """
    state, q, k, v, beta, log_decay = _checks.arrays(
        state=state, q=q, k=k, v=v, beta=beta, log_decay=log_decay
    )
    _checks.present(q=q, k=k, v=v, beta=beta)
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim < 1:
            raise ValueError(f"{name} must have at least one axis; got a number.")
    batch, key, values = tuple(k.shape[:-1]), tuple(k.shape), v.shape[-1]
    _same(
        key,
        tuple(v.shape),
        q=(q, {"(..., d_k)": key}),
        v=(v, {"(..., d_v)": (*batch, values)}),
        beta=(beta, {"(...)": batch}),
        log_decay=(log_decay, {"(...)": batch, "(..., d_k)": key}),
        state=(state, {"(..., d_k, d_v)": (*key, values)}),
    )
    decay = None
    if log_decay is not None:
        decay = log_decay[..., None, :] if log_decay.ndim == q.ndim else log_decay[..., None]
    output, state = delta_rule(
        q[..., None, :],
        k[..., None, :],
        v[..., None, :],
        beta[..., None],
        log_decay=decay,
        initial_state=state,
        scale=scale,
        return_state=True,
    )
    return output[..., 0, :], state


@engine.traced()
def delta_rule_vjp(
    cotangent: Any,
    q: Any,
    k: Any,
    v: Any,
    beta: Any,
    log_decay: Any = None,
    initial_state: Any = None,
    /,
    *,
    scale: float | None = None,
    normalize: bool = False,
    reflections: int = 1,
    chunk: int | None = None,
    wrt: Collection[str] | None = None,
) -> DeltaRuleGradients:
    """Pull gradients back through `delta_rule`.

    Parameters
    ----------
    cotangent : array, shape (..., L, d_v), or tuple
        Gradient with respect to the output; or a pair, with the gradient with respect to the state
        at the end, shape (..., d_k, d_v), either of them None for zeros.
    q : array, shape (..., L, d_k)
        As for `delta_rule`, and so on.
    k : array, shape (..., n L, d_k)
        Keys.
    v : array, shape (..., n L, d_v)
        Values.
    beta : array, shape (..., n L)
        Strengths.
    log_decay : array, shape (..., L) or (..., L, d_k), optional
        Gates.
    initial_state : array, shape (..., d_k, d_v), optional
        State before the first token.
    scale : float, optional
        As for `delta_rule`.
    normalize : bool, optional
        As for `delta_rule`.
    reflections : int, optional
        As for `delta_rule`.
    chunk : int, optional
        As for `delta_rule`.
    wrt : collection of str, optional
        Some of the arrays' names: the gradients with respect to others are None.

    Returns
    -------
    DeltaRuleGradients
        Each in the dtype of its argument.

    Raises
    ------
    ValueError
        The shapes do not fit each other, or `wrt` names something else.
    TypeError
        The arrays come from different libraries, are complex, or not numeric.

    See Also
    --------
    delta_rule : The function.

    Notes
    -----
    In closed form, chunk by chunk from the end: with G the gradient of the state at the chunk's end
    and Z = (I + A)⁻ᵀ (Pᵀ dO + K G), P = scale tril(Q Kᵀ)::

        dV = B Z;    dQ = scale dO Hᵀ + dP K;    G ← G + scale Qᵀ dO - Kᵀ dV

    and dK, dβ and dg by products of the same kind. States are kept for some chunks and computed
    again between them: about three times the operations of `delta_rule`.

    Examples
    --------
    >>> import numpy as np
    >>> from linalgkit.householder import delta_rule_vjp
    >>> k, v = np.array([[1.0, 0]]), np.array([[5.0]])
    >>> gradients = delta_rule_vjp(np.ones((1, 1)), k, k, v, np.ones(1), scale=1)
    >>> gradients.v, gradients.beta
    (array([[1.]]), array([5.]))
    """
    originals = q, k, v, beta, log_decay, initial_state
    _checks.flags(normalize=normalize)
    reflections = _checks.size("reflections", reflections, 1)
    q, k, v, beta, log_decay, initial_state = _arrays(*originals, reflections)
    is_list = isinstance(cotangent, list) and any(hasattr(part, "shape") for part in cotangent)
    if is_list or (isinstance(cotangent, tuple) and len(cotangent) != 2):
        raise TypeError(
            f"cotangent must be an array or a tuple (output, state); got a "
            f"{type(cotangent).__name__} of {len(cotangent)}."
        )
    of_output, of_state = cotangent if isinstance(cotangent, tuple) else (cotangent, None)
    if of_output is None and of_state is None:
        raise ValueError("cotangent is None for the output and for the state; give one of them.")
    _, of_output, of_state = _checks.arrays(v=v, cotangent=of_output, cotangent_of_state=of_state)
    _checks.real(cotangent=of_output, cotangent_of_state=of_state)
    wide = _wider(v)
    batch = tuple(k.shape[:-2])
    _same(
        tuple(k.shape),
        tuple(v.shape),
        cotangent=(of_output, {"(..., L, d_v)": (*batch, q.shape[-2], v.shape[-1])}),
        cotangent_of_state=(of_state, {"(..., d_k, d_v)": (*batch, k.shape[-1], v.shape[-1])}),
    )
    wanted = _checks.wanted(wrt, _NAMES)
    xp = array_namespace(q)
    if of_output is None:
        shape = (*batch, q.shape[-2], v.shape[-1])
        of_output = xp.zeros(shape, dtype=v.dtype, device=device(v))
    of_output = xp.astype(of_output, v.dtype, copy=False)
    if of_state is None:
        shape = (*batch, k.shape[-1], v.shape[-1])
        of_state = xp.zeros(shape, dtype=wide, device=device(v))
    of_state = xp.astype(of_state, wide, copy=False)
    arrays = q, k, v, beta, log_decay, initial_state
    if normalize:
        arrays = normalized(q), normalized(k), *arrays[2:]
    gradients = engine(of_output, *arrays, of_state).delta_rule_vjp(
        (of_output, of_state), *arrays, wrt=wanted, **_options(q, scale, reflections, chunk)
    )
    if normalize:
        gradients = (
            *(
                None if gradient is None else normalized_vjp(gradient, x)
                for gradient, x in zip(gradients[:2], (q, k), strict=True)
            ),
            *gradients[2:],
        )
    return DeltaRuleGradients(
        *(
            _checks.as_dtype_of(gradient, original)
            for gradient, original in zip(gradients, originals, strict=True)
        )
    )


def _options(q: Any, scale: float | None, reflections: int, chunk: int | None) -> dict[str, Any]:
    """Return the static options of the engines' functions."""
    width = max(q.shape[-1], 1)
    return {
        "scale": float(width) ** -0.5 if scale is None else _checks.number("scale", scale),
        "reflections": reflections,
        "chunk": None if chunk is None else _checks.size("chunk", chunk, 1),
    }


def _arrays(
    q: Any, k: Any, v: Any, beta: Any, log_decay: Any, initial_state: Any, reflections: int
) -> tuple[Any, ...]:
    """Return the arrays, of one library and fitting dtypes; ValueError unless the shapes fit.

    In one dtype, unless that of q, k and v is of half precision: then the others may be float32.
    """
    q, k, v, beta, log_decay, initial_state = _checks.arrays(
        q=q, k=k, v=v, beta=beta, log_decay=log_decay, initial_state=initial_state
    )
    _fit(q, k, v, beta, log_decay, initial_state, reflections)
    named = {"beta": beta, "log_decay": log_decay, "initial_state": initial_state}
    _checks.real(q=q, k=k, v=v, **named)
    q, k, v = _checks.floating(q=q, k=k, v=v)
    if _is_half(q):
        wide = _wider(q)
        xp = array_namespace(q)
        others = tuple(
            x if x is None or x.dtype == q.dtype else xp.astype(x, wide, copy=False)
            for x in named.values()
        )
    else:
        q, k, v, *rest = _checks.floating(q=q, k=k, v=v, **named)
        others = tuple(rest)
    return q, k, v, *others


def _fit(
    q: Any, k: Any, v: Any, beta: Any, log_decay: Any, initial_state: Any, reflections: int
) -> None:
    """Raise ValueError unless the shapes fit each other."""
    _checks.present(q=q, k=k, v=v, beta=beta)
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim < 2:
            raise ValueError(
                f"{name} must have shape (..., tokens, entries); got {tuple(array.shape)}."
            )
    *batch, rows, width = k.shape
    if rows % reflections:
        raise ValueError(
            f"k has {rows} rows, which {reflections} reflections a token do not divide."
        )
    tokens, many = (*batch, rows // reflections), "n L" if reflections > 1 else "L"
    _same(
        tuple(k.shape),
        tuple(v.shape),
        note=f" and {reflections} reflections a token, n" if reflections > 1 else "",
        q=(q, {"(..., L, d_k)": (*tokens, width)}),
        v=(v, {f"(..., {many}, d_v)": (*batch, rows, v.shape[-1])}),
        beta=(beta, {f"(..., {many})": (*batch, rows)}),
        log_decay=(log_decay, {"(..., L)": tokens, "(..., L, d_k)": (*tokens, width)}),
        initial_state=(initial_state, {"(..., d_k, d_v)": (*batch, width, v.shape[-1])}),
    )


def _same(
    key: tuple[int, ...],
    value: tuple[int, ...],
    *,
    note: str = "",
    **expected: tuple[Any, dict[str, tuple[int, ...]]],
) -> None:
    """Raise ValueError unless each array has one of its shapes; say what was meant if it shows."""
    for name, (array, shapes) in expected.items():
        if array is None or (got := tuple(array.shape)) in shapes.values():
            continue
        first, hint = next(iter(shapes.values())), ""
        if got == (*first, 1):
            hint = f" Drop the last axis: {name}[..., 0]."
        elif got[-2:] == first[:-3:-1] and got[:-2] == first[:-2]:
            hint = f" Its last two axes are swapped: {name}.mT fits."
        elif name.endswith("state") and len(got) == len(first) and got[-2:] == first[-2:]:
            hint = " Heads are a batch axis, before the tokens."
        values = f" and v of shape {value}" if name.endswith("state") or name == "cotangent" else ""
        raise ValueError(
            f"{name} must have shape {' or '.join(f'{form} = {x}' for form, x in shapes.items())} "
            f"for k of shape {key}{values}{note}; got {got}.{hint}"
        )


def _is_half(array: Any) -> bool:
    xp = array_namespace(array)
    return xp.isdtype(array.dtype, "real floating") and xp.finfo(array.dtype).bits < 32


def _wider(array: Any) -> Any:
    """Return the dtype of states: at least float32."""
    return array_namespace(array).float32 if _is_half(array) else array.dtype


def _warn_of_growth(k: Any, beta: Any, log_decay: Any, normalize: bool) -> None:
    """Warn once where some β|k|² is beyond 2, or a state is not shrunk."""
    import warnings

    why = "it compares them with bounds"
    named = {"k": k, "beta": beta, "log_decay": log_decay}
    _checks.concrete("delta_rule with check=True", "check=False", why=why, **named)
    xp = array_namespace(k)
    k, beta = (xp.astype(x, _wider(x), copy=False) for x in (k, beta))  # half overflows
    squares = xp.sum(normalized(k) ** 2 if normalize else k**2, axis=-1)
    for values, bound, message in (
        (
            beta * squares,
            2 * (1 + 1e-3),
            "beta |k|² reaches {:.3g}, more than 2: the state may grow without bound. Normalise "
            "the keys (normalize=True) or bound beta.",
        ),
        (log_decay, 0, "log_decay reaches {:.3g}, more than 0: the state grows."),
    ):
        if values is not None and bool(xp.any(beyond := values > bound)):  # of NaN, False
            largest = float(xp.max(values[beyond]))
            warnings.warn(message.format(largest), RuntimeWarning, stacklevel=3)
