"""One case per public function of the room, and the published recursions by their definition."""

import numpy as np

from linalgkit._testing import Case

DOUBLE = {"float32": 2e-5, "float64": 1e-11}
DAMPING = 0.1


def dense(gradients, damping=DAMPING):
    """F itself, in float64."""
    wide = np.asarray(gradients, np.float64)
    return damping * np.eye(wide.shape[1]) + wide.T @ wide / wide.shape[0]


def in_blocks(matrix, size):
    """The blocks along the diagonal; zeros elsewhere."""
    number = np.arange(matrix.shape[0]) // size
    return np.where(number[:, None] == number, matrix, 0)


def random_gradients(rng, dtype, m=3, d=8):
    return rng.standard_normal((m, d)).astype(dtype)


def published_static(gradients, damping):
    """Algorithm 1 as published: Y and c, one gradient after the other, in the gradients' dtype."""
    m = gradients.dtype.type(gradients.shape[0])
    damping = gradients.dtype.type(damping)
    y, c = np.zeros_like(gradients), np.zeros(gradients.shape[0], gradients.dtype)
    for i, g in enumerate(gradients):
        y[i] = g / damping
        for j in range(i):
            y[i] -= y[j] * (y[j] @ g / c[j])
        c[i] = m + g @ y[i]
    return y, c


def published_dynamic(gradients, x, damping):
    """F⁻¹ x by the published dynamic algorithm's recurrences, in the gradients' dtype."""
    kind, m = gradients.dtype.type, gradients.shape[0]
    damping, number = kind(damping), kind(m)
    d = np.triu(gradients @ gradients.T) / damping  # row i: g_iᵀ F_(i-1)⁻¹ g_j
    for i in range(m):
        for k in range(i + 1, m):
            d[k, k:] -= d[i, k] / (number + d[i, i]) * d[i, k:]
    q = number + np.diag(d)
    b = np.zeros_like(d)
    for i in range(m):
        b[i, :i] = -(d[:i, i] / q[:i]) @ b[:i, :i]
        b[i, i] = 1 / damping
    s = gradients @ x / damping
    for i in range(m):
        s[i + 1 :] -= d[i, i + 1 :] * (s[i] / q[i])
    return x / damping - ((s / q) @ b) @ gradients


def descent(fun_and_grad, x, *, lr, n_gradients, damping, momentum, weight_decay, maxiter):
    """The published optimiser with a dense matrix: zeros fill the window, which m divides."""
    window, velocity, trace = np.zeros((n_gradients, x.size)), np.zeros(x.size), []
    for step in range(maxiter):
        fun, gradient = fun_and_grad(x)
        g = np.asarray(gradient, np.float64) + weight_decay * x
        window[step % n_gradients] = g
        u = np.linalg.solve(dense(window, damping), g)
        velocity = momentum * velocity + (1 - momentum) * u if momentum else u
        x = x - lr * velocity
        trace.append(x)
    return x, float(fun), trace


def operator(library, dtype, rng):
    return (library.asarray(random_gradients(rng, dtype)),), {"damping": DAMPING}


def blocks(library, dtype, rng):
    return (library.asarray(random_gradients(rng, dtype)), 3), {"damping": DAMPING}


def seen(fisher):
    return fisher.diagonal_inverse(), fisher.inverse_columns([1, 6]), fisher.diagonal()


def solved(library, dtype, rng):
    g, x = random_gradients(rng, dtype), rng.standard_normal((8, 2)).astype(dtype)
    return (library.asarray(x), library.asarray(g)), {"damping": DAMPING}


def pulled(library, dtype, rng):
    arguments, options = solved(library, dtype, rng)
    cotangent = library.asarray(rng.standard_normal((8, 2)).astype(dtype))
    return (cotangent, *arguments), options


def solution(x, g, damping):
    return np.linalg.solve(dense(g, damping), x).astype(x.dtype)


def pulled_back(cotangent, x, g, damping):
    """By complex steps, which lose no digits."""
    gradients = []
    for place, array in enumerate((x, g)):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = [v.astype(complex) for v in (x, g)]
            moved[place][index] += 1e-30j
            rows = moved[1]
            f = damping * np.eye(rows.shape[1]) + rows.T @ rows / rows.shape[0]
            gradient[index] = np.sum(cotangent * np.linalg.solve(f, moved[0])).imag / 1e-30
        gradients.append(gradient.astype(array.dtype))
    return tuple(gradients)


def columns_of_inverse(g, damping):
    f = dense(g, damping)
    inverse = np.linalg.inv(f)
    found = inverse.diagonal(), inverse[:, [1, 6]], f.diagonal()
    return tuple(x.astype(g.dtype) for x in found)


def diagonal_of_blocks(g, size, damping):
    inverse = np.linalg.inv(in_blocks(dense(g, damping), size))
    return inverse.diagonal().astype(g.dtype)


def weighed(library, dtype, rng):
    inverse = rng.standard_normal((3, 2, 2))
    inverse = (inverse @ inverse.transpose(0, 2, 1) + np.eye(2)).astype(dtype)
    weights = rng.standard_normal(6).astype(dtype)
    return (library.asarray(weights), library.asarray(inverse)), {"groups": 2}


def cost(weights, inverse, groups):
    pairs = weights.reshape(-1, groups)
    return np.array([w @ np.linalg.solve(b, w) / 2 for w, b in zip(pairs, inverse, strict=True)])


def static(library, dtype, rng):
    return (library.asarray(random_gradients(rng, dtype)),), {"damping": DAMPING}


def to_be_pruned(library, dtype, rng):
    from linalgkit.mfac import empirical_fisher

    weights, g = rng.standard_normal(8).astype(dtype), random_gradients(rng, dtype)
    fisher = empirical_fisher(library.asarray(g), damping=DAMPING)
    fisher.dense = dense(g)
    return (library.asarray(weights), fisher), {"sparsity": 0.5, "update": "joint"}


def least_loss(weights, fisher, **_):
    """Remove the four weights of least saliency; the others minimise the quadratic model."""
    f = fisher.dense
    score = weights**2 / np.linalg.inv(f).diagonal()
    order = np.argsort(score)[:4]
    kept = np.setdiff1d(np.arange(8), order)
    result = np.zeros(8, weights.dtype)
    move = np.linalg.solve(f[np.ix_(kept, kept)], f[np.ix_(kept, order)] @ weights[order])
    result[kept] = weights[kept] + move
    change = result - weights
    return result, ~np.isin(np.arange(8), order), float(change @ f @ change / 2), order


def bowl(library, dtype, rng):
    scales = library.asarray(np.array([1.0, 3.0, 9.0], dtype))

    def fun_and_grad(x):
        return (scales * x * x).sum() / 2 if hasattr(x, "sum") else _total(
            scales * x * x
        ), scales * x

    def _total(x):
        return float(x[0]) / 2 + float(x[1]) / 2 + float(x[2]) / 2

    start = library.asarray(np.array([1.0, -2.0, 0.5], dtype))
    options = {"lr": 0.3, "n_gradients": 4, "damping": 0.5, "momentum": 0.5}
    return (fun_and_grad, start), options | {"weight_decay": 0.1, "maxiter": 7}


CASES = [
    Case("mfac.empirical_fisher", operator, columns_of_inverse, DOUBLE, seen),
    Case("mfac.block_fisher", blocks, diagonal_of_blocks, DOUBLE, lambda f: f.diagonal_inverse()),
    Case("mfac.fisher_solve", solved, solution, DOUBLE),
    Case("mfac.fisher_solve_vjp", pulled, pulled_back, DOUBLE),
    Case("mfac.saliency", weighed, cost, DOUBLE),
    Case("mfac.woodbury_static", static, published_static, DOUBLE),
    Case(
        "mfac.prune",
        to_be_pruned,
        least_loss,
        DOUBLE,
        lambda found: (found.weights, found.mask, found.loss_increase, found.order),
    ),
    Case(
        "mfac.mfac_minimize",
        bowl,
        lambda fun, x, **options: descent(fun, x, **options)[0].astype(x.dtype),
        DOUBLE,
        lambda found: found.x,
    ),
]
