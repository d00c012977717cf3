"""householder's contests on a CUDA device, on torch tensors: beside fla and torch.

"fla" is flash-linear-attention's ``chunk_delta_rule``, for which heads stand behind the tokens; its
kernels are tuned in the untimed first call, which takes minutes. Each contestant has its arrays in
its own layout.
"""

from functools import partial
from typing import Any

from contest import Call, Contest, Table

from linalgkit import householder

# Batch, tokens, heads, width of keys and values.
SIZES = ((8, 2048, 16, 128), (1, 32768, 16, 128), (8, 2048, 32, 64))
# Rows, reflections, columns.
REFLECTIONS = ((4096, 1024, 1024), (4096, 1024, 64), (4096, 64, 1024), (1024, 1024, 1024))


def tables() -> list[Table]:
    """Return the contests."""
    import torch

    def table(title: str, ours: str, peers: tuple[str, ...], cases: Any) -> Table:
        wait = torch.cuda.synchronize
        return Table(title, ours, peers, cases, workers=(1,), wait=wait)

    def rules(backward: bool, dtypes: tuple[str, ...]) -> Any:
        return {
            f"{dtype}, B={size[0]}, L={size[1]}, {size[2]} heads, d={size[3]}": partial(
                rule_contest, backward, dtype, *size
            )
            for dtype in dtypes
            for size in SIZES
        }

    reflections = {
        f"n={n}, {r} reflections, {m} columns": partial(reflections_contest, n, r, m)
        for n, r, m in REFLECTIONS
    }
    dtypes = ("bfloat16", "float32")
    forward, both = (
        partial(table, title, "delta_rule", ("fla",))
        for title in ("Delta rule on the device", "Forward and backward on the device")
    )
    products = table(
        "Products of reflections on the device, float32",
        "ReflectionProduct @",
        ("torch.ormqr",),
        reflections,
    )
    return [
        forward(rules(False, dtypes)),
        forward(rules(False, dtypes[:1])).in_a_queue(),
        both(rules(True, dtypes)),
        both(rules(True, dtypes[:1])).in_a_queue(),
        products,
        products.in_a_queue(),
    ]


def rule_contest(
    backward: bool, dtype: str, batch: int, length: int, heads: int, width: int
) -> Contest:
    """Run the rule from a state of zeros, and pull a gradient back."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    shape = batch, heads, length, width
    q, k, v, g = (torch.randn(shape, device="cuda", generator=generator) for _ in range(4))
    k = k / k.norm(dim=-1, keepdim=True)
    beta = 2 * torch.rand(shape[:-1], device="cuda", generator=generator)
    arrays = [x.to(getattr(torch, dtype)) for x in (q, k, v, beta, g)]

    def run(function: Any, leaves: Any, cotangent: Any) -> Any:
        if not backward:
            with torch.no_grad():
                return (function(*leaves),)
        output = function(*leaves)
        return (output, *torch.autograd.grad(output, leaves, cotangent))

    def leaves_of(tensors: Any) -> Any:
        return [x.detach().contiguous().requires_grad_(backward) for x in tensors[:4]]

    ours = partial(run, householder.delta_rule, leaves_of(arrays), arrays[4])
    calls: dict[str, Call] = {}
    if dtype != "float32":
        from fla.ops.delta_rule import chunk_delta_rule

        turned = [x.transpose(1, 2).contiguous() for x in arrays]

        def fla(*leaves: Any) -> Any:
            return chunk_delta_rule(*leaves)[0]

        calls["fla"] = partial(run, fla, leaves_of(turned), turned[4])

    def expected() -> Any:
        wide = [x.float() for x in arrays]
        return run(householder.delta_rule, leaves_of(wide), wide[4])

    def differs(result: Any, truth: Any) -> str:
        limit = 1e-4 if dtype == "float32" else 4e-2
        for x, y in zip(result, truth, strict=True):
            x = x.float() if x.shape == y.shape else x.float().transpose(1, 2)
            error = float((x - y).detach().abs().max() / y.detach().abs().max())
            if not error < limit:
                return f"relative error {error:.1e}"
        return ""

    operands = arrays if backward else arrays[:4]
    return Contest(ours, calls, expected, differs, operands)


def reflections_contest(n: int, r: int, m: int) -> Contest:
    """Multiply the orthogonal factor of a QR decomposition to columns."""
    import cupy
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    raw, tau = torch.geqrf(torch.randn(n, r, device="cuda", generator=generator))
    x = torch.randn(n, m, device="cuda", generator=generator)
    operator = householder.ReflectionProduct.from_qr(*map(cupy.from_dlpack, (raw, tau)))
    columns = cupy.from_dlpack(x)

    def differs(result: Any, truth: Any) -> str:
        error = float((torch.as_tensor(result, device="cuda") - truth).abs().max())
        return "" if error < 1e-3 else f"error {error:.1e}"

    calls: dict[str, Call] = {"torch.ormqr": lambda: torch.ormqr(raw, tau, x)}
    expected = partial(torch.ormqr, raw.double(), tau.double(), x.double())
    return Contest(lambda: operator @ columns, calls, expected, differs, (raw, tau, x))
