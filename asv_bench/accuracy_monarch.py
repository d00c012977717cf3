"""How accurate are Monarch products and gradients? A thousand random shapes; run by hand.

    python asv_bench/accuracy_monarch.py

Prints the worst relative error of `monarch_matmul` and of its gradients by dtype, in units of
eps √n, and where it was. The truth is the definition, entry by entry, in twice the precision; the
docstring promises 4 to the dense product, whose own error stands beside.
"""

import argparse

import numpy as np

from linalgkit import monarch

DTYPES = ("float32", "float64", "complex64", "complex128")
WIDE = {
    "float32": np.float64,
    "float64": np.longdouble,
    "complex64": np.complex128,
    "complex128": np.clongdouble,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for _ in range(options.cases):
        dtype = str(rng.choice(DTYPES))
        blocks = random_blocks(rng)
        count = int(rng.choice((1, 2, 5, 7, 16, 33, 70)))
        for name, error in errors(rng, dtype, blocks, count).items():
            found = error, f"(k, q, p, l, s, r) = {blocks}, {count} vectors"
            worst[name, dtype] = max(found, worst.get((name, dtype), (-1.0, "")))
    print(f"worst of {options.cases} cases, in units of eps √n:")
    for (name, dtype), (error, where) in sorted(worst.items()):
        print(f"{name:22} {dtype:10} {error:6.3f}  at {where}")


def random_blocks(rng: np.random.Generator) -> tuple[int, int, int, int, int, int]:
    """Draw sizes with k q = l r; q need not be a multiple of l, nor l of q."""
    k, l, q, r = (int(size) for size in rng.integers(1, 6, 4))  # noqa: E741
    p, s = (int(size) for size in rng.integers(1, 41, 2))
    return k * l, q * r, p, k * q, s, l * r


def errors(
    rng: np.random.Generator, dtype: str, blocks: tuple[int, ...], count: int
) -> dict[str, float]:
    """Return the errors of the product, of a dense product, and of the gradients."""
    k, q, p, number, s, r = blocks
    x, g, left, right = (
        random(rng, dtype, shape)
        for shape in ((count, k * p), (count, number * s), (number, s, r), (k, q, p))
    )
    wide = [array.astype(WIDE[dtype]) for array in (x, g, left, right)]
    *_, matrix = truth(*wide)
    n = max(matrix.shape)
    unit = float(np.finfo(dtype).eps) * n**0.5

    def distance(found: np.ndarray, true: np.ndarray) -> float:
        size = float(np.abs(true).max(initial=0))
        return float(np.abs(found - true).max(initial=0)) / (size * unit) if size else 0.0

    found = {
        "product": distance(monarch.monarch_matmul(x, left, right), wide[0] @ matrix.T),
        "dense product": distance(x @ matrix.astype(dtype).T, wide[0] @ matrix.T),
    }
    gradients = monarch.monarch_matmul_vjp(g, x, left, right)
    for name, gradient, true in zip(["x", "left", "right"], gradients, truth(*wide), strict=False):
        found[f"gradient of {name}"] = distance(gradient, true)
    return found


def random(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def truth(
    x: np.ndarray, g: np.ndarray, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients and the dense matrix, one row t of R and column of L after another."""
    (number, s, _), (k, q, p) = left.shape, right.shape
    matrix = np.zeros((number * s, k * p), dtype=left.dtype)
    of_left, of_right = np.zeros_like(left), np.zeros_like(right)
    for t in range(k * q):
        (block, row), (rho, lam) = divmod(t, q), divmod(t, number)
        columns = slice(block * p, (block + 1) * p)
        matrix[lam::number, columns] += np.outer(left[lam, :, rho], right[block, row])
        u = x[:, columns] @ right[block, row]
        v = g[:, lam::number] @ left[lam, :, rho].conj()
        of_left[lam, :, rho] = g[:, lam::number].T @ u.conj()
        of_right[block, row] = v @ x[:, columns].conj()
    return g @ matrix.conj(), of_left, of_right, matrix


if __name__ == "__main__":
    main()
