"""householder's contests: the delta rule beside torch's chunk forms, reflections beside LAPACK's.

"torch solve" walks the chunks with one triangular solve each, at its best of three chunk sizes for
each case; "torch rows" is the published chunk form, which inverts by a loop over rows. Both are
written here from the equations. Useful operations are 6 L d² a head: the recurrence's own.

A product of r reflections multiplies m columns in column-major order, which LAPACK wants, with
LAPACK's best workspace; "explicit Q" is a dense product with the matrix that they are. "new
operator" is another way of ours: made for one product, so that it computes the triangles T.
"""

import sys
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
from contest import Call, Contest, Table

from linalgkit import householder

PACKAGES = ("numpy", "scipy", "numba", "torch", "cupy-cuda13x", "cupy-cuda12x", "fla-core")

FIRST_CALL = {
    "numba": """
import numpy as np
rows = np.ones((40, 16), np.float32) / 4
linalgkit.householder.delta_rule(rows, rows, rows, np.ones(40, np.float32))
""",
    "cupy": """
import cupy
rows = cupy.ones((40, 16), "float16") / 4
linalgkit.householder.delta_rule(rows, rows, rows, cupy.ones(40, "float16")).get()
""",
}

# Heads, tokens, width of keys and values.
SIZES = ((8, 2048, 128), (16, 2048, 64), (8, 2048, 256), (1, 8192, 128))
TRAINED = SIZES[:2]
CHUNKS = (16, 32, 64)

# Reflections and columns, of 1024 rows.
ROWS = 1024
REFLECTIONS = tuple((r, m) for m in (64, 256, 1024) for r in (64, 256, 512, 1024))


def tables(engine: str) -> list[Table]:
    """Return what is run on an engine's arrays."""
    if engine == "cupy":
        import householder_cuda

        return householder_cuda.tables()

    def table(title: str, ours: str, peers: tuple[str, ...], contest: Any, sizes: Any) -> Table:
        cases = {"{} heads, L={}, d={}".format(*size): partial(contest, *size) for size in sizes}
        return Table(title, ours, peers, cases, set_threads=_set_threads)

    solves = tuple(f"torch solve, C={chunk}" for chunk in CHUNKS)
    peers = (*solves, "torch rows, C=32", "sgemm of as many operations")
    backward = (*(f"torch autograd, C={chunk}" for chunk in CHUNKS), "delta_rule")
    return [
        table("Delta rule, float32", "delta_rule", peers, forward_contest, SIZES),
        table(
            "Delta rule with scalar decay, float32",
            "delta_rule(log_decay=)",
            ("without decay",),
            decay_contest,
            TRAINED,
        ),
        table("Gradients, float32", "delta_rule_vjp", backward, vjp_contest, TRAINED),
        *(
            Table(
                f"Products of reflections of {ROWS} rows, {dtype}",
                "ReflectionProduct @",
                ("LAPACK ormqr", "explicit Q", "new operator"),
                {
                    f"{r} reflections, {m} columns": partial(reflections_contest, dtype, r, m)
                    for r, m in REFLECTIONS
                },
            )
            for dtype in ("float32", "float64")
        ),
    ]


def operands(heads: int, length: int, width: int) -> list[np.ndarray]:
    """Return q, k, v, beta: unit keys and strengths from 0 to 2."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, heads, length, width), np.float32)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return [q, k, v, 2 * rng.random((heads, length), np.float32)]


def forward_contest(heads: int, length: int, width: int) -> Contest:
    """Run the rule from a state of zeros."""
    arrays = operands(heads, length, width)
    calls: dict[str, Call] = {}
    if torch := _torch():
        tensors = [torch.from_numpy(array) for array in arrays]
        for chunk in CHUNKS:
            calls[f"torch solve, C={chunk}"] = partial(solved_chunks, torch, *tensors, chunk)
        calls["torch rows, C=32"] = partial(inverted_chunks, torch, *tensors, 32)
    side = 2048
    square = np.random.default_rng(1).standard_normal((side, side), np.float32)
    columns = round(3 * heads * length * width**2 / side**2)
    block = np.ascontiguousarray(square[:, :columns])
    calls["sgemm of as many operations"] = lambda: square @ block
    ours = partial(householder.delta_rule, *arrays)
    return Contest(ours, calls, partial(_in_double, arrays), _differs)


def decay_contest(heads: int, length: int, width: int) -> Contest:
    """Run the rule with one decay a token."""
    arrays = operands(heads, length, width)
    decay = -np.random.default_rng(2).exponential(0.1, (heads, length)).astype(np.float32)
    calls = {"without decay": lambda: (householder.delta_rule(*arrays),)}

    def differs(result: Any, expected: Any) -> str:
        return "" if isinstance(result, tuple) else _differs(result, expected)

    ours = partial(householder.delta_rule, *arrays, log_decay=decay)
    return Contest(ours, calls, partial(_in_double, arrays, log_decay=decay), differs)


def vjp_contest(heads: int, length: int, width: int) -> Contest:
    """Pull a gradient back, with respect to everything; beside autograd's forward and backward."""
    arrays = operands(heads, length, width)
    g = np.random.default_rng(3).standard_normal(arrays[2].shape, np.float32)
    calls: dict[str, Call] = {"delta_rule": lambda: (householder.delta_rule(*arrays),)}
    if torch := _torch():
        leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
        cotangent = torch.from_numpy(g)

        def autograd(chunk: int) -> Any:
            output = solved_chunks(torch, *leaves, chunk)
            return torch.autograd.grad(output, leaves, cotangent)

        for chunk in CHUNKS:
            calls[f"torch autograd, C={chunk}"] = partial(autograd, chunk)

    def expected() -> Any:
        from linalgkit import use_engine

        with use_engine("array_api"):
            wide = [x.astype(np.float64) for x in arrays]
            return householder.delta_rule_vjp(g.astype(np.float64), *wide)[:4]

    def differs(result: Any, truth: Any) -> str:
        if len(result) == 1:
            return ""
        return "".join(_differs(a, b, 3e-5) for a, b in zip(result, truth, strict=False))

    ours = partial(householder.delta_rule_vjp, g, *arrays)
    return Contest(ours, calls, expected, differs)


def reflections_contest(dtype: str, r: int, m: int) -> Contest:
    """Multiply the orthogonal factor of a QR decomposition to columns."""
    rng = np.random.default_rng(0)
    (raw, tau), _ = scipy.linalg.qr(rng.standard_normal((ROWS, r)).astype(dtype), mode="raw")
    x = np.asfortranarray(rng.standard_normal((ROWS, m)).astype(dtype))
    operator = householder.ReflectionProduct.from_qr(raw, tau)
    dense = np.asfortranarray(operator.to_dense())
    ormqr = scipy.linalg.get_lapack_funcs("ormqr", (raw,))
    lwork = int(ormqr("L", "N", raw, tau, x, -1)[1][0])
    wide = [array.astype(np.float64) for array in (raw, tau, x)]
    limit = 3e-6 if dtype == "float32" else 1e-14

    def expected() -> Any:
        return scipy.linalg.lapack.dormqr("L", "N", *wide, 64 * ROWS)[0]

    calls: dict[str, Call] = {
        "LAPACK ormqr": lambda: ormqr("L", "N", raw, tau, x, lwork)[0],
        "explicit Q": lambda: dense @ x,
        "new operator": lambda: householder.ReflectionProduct.from_qr(raw, tau) @ x,
    }
    return Contest(lambda: operator @ x, calls, expected, partial(_differs, limit=limit))


def solved_chunks(torch: Any, q: Any, k: Any, v: Any, beta: Any, size: int) -> Any:
    """Walk the chunks with one triangular solve each."""
    heads, length, width = q.shape
    state, outputs = q.new_zeros(heads, width, v.shape[-1]), []
    for begin in range(0, length, size):
        rows = slice(begin, min(begin + size, length))
        keys, queries, strengths = k[:, rows], q[:, rows], beta[:, rows, None]
        errors = strengths * torch.baddbmm(v[:, rows], keys, state, alpha=-1)
        lower = strengths * (keys @ keys.mT)
        writes = torch.linalg.solve_triangular(lower, errors, upper=False, unitriangular=True)
        reads = (queries @ keys.mT).tril()
        outputs.append(torch.baddbmm(queries @ state, reads, writes) * width**-0.5)
        state = torch.baddbmm(state, keys.mT, writes)
    return torch.cat(outputs, dim=1)


def inverted_chunks(torch: Any, q: Any, k: Any, v: Any, beta: Any, size: int) -> Any:
    """Invert all chunks' triangles row by row, then walk with the WY form; L is a multiple."""
    heads, length, width = q.shape
    q, k, v = (x.reshape(heads, length // size, size, -1) for x in (q, k, v))
    beta = beta.reshape(heads, length // size, size, 1)
    inverse = -((beta * k) @ k.mT).tril(-1)
    for i in range(1, size):
        row = inverse[..., i, :i].clone()
        inverse[..., i, :i] = row + (row[..., None] * inverse[..., :i, :i]).sum(-2)
    inverse = inverse + torch.eye(size)
    w, u = inverse @ (beta * k), inverse @ (beta * v)
    state, output = q.new_zeros(heads, width, v.shape[-1]), torch.empty_like(v)
    for i in range(length // size):
        writes = u[:, i] - w[:, i] @ state
        reads = (q[:, i] @ k[:, i].mT).tril()
        output[:, i] = (q[:, i] @ state + reads @ writes) * width**-0.5
        state = state + k[:, i].mT @ writes
    return output.reshape(heads, length, -1)


def _in_double(arrays: list[np.ndarray], log_decay: Any = None) -> Any:
    """Compute in float64 by the reference engine."""
    from linalgkit import use_engine

    wide = [x.astype(np.float64) for x in arrays]
    decay = None if log_decay is None else log_decay.astype(np.float64)
    with use_engine("array_api"):
        return householder.delta_rule(*wide, log_decay=decay)


def _differs(result: Any, expected: Any, limit: float = 1e-5) -> str:
    result = np.asarray(result)
    if result.shape != expected.shape:
        return ""  # a product of the same number of operations
    error = float(np.abs(result - expected).max() / np.abs(expected).max())
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
