"""Reference engine of the stationary mixture kernels and their derivatives.

k(d) = Σ_q w_q m_q(d) cos(ω_q d), ω = 2πμ, and by Leibniz
k⁽ⁿ⁾ = Σ_q w_q Σ_j C(n, j) m_q⁽ʲ⁾(d) ω_q^(n−j) cos(ω_q d + (n−j)π/2).
Each envelope m is a polynomial times a decaying function, and so is each of its derivatives: the
polynomials follow by a recursion, whose coefficients are exact.
"""

import math

from array_api_compat import array_namespace, is_jax_array


def spectral_mixture(d, weights, means, scales, *, order):
    """Envelopes exp(−b d²), b = 2π²σ²."""
    return _mixture(d, weights, means, scales, gaussian, order)


def student_t_mixture(d, weights, means, lengths, *, nu, order):
    """Matérn envelopes of half-integer ν."""
    return _mixture(d, weights, means, lengths, matern(nu), order)


def gaussian(d, scale, order):
    """Derivatives of exp(−2π²σ²d²) of orders 0 … `order`."""
    xp = array_namespace(d)
    rate = math.sqrt(2) * math.pi * scale
    r = rate * d
    decay = xp.exp(-r * r)
    power = 1.0
    for polynomial in _hermite(order):
        yield power * _horner(polynomial, r) * decay
        power = power * rate


def matern(nu):
    """Return the same of a polynomial in r = a |d|, a = √(2ν)/ℓ, times exp(−r)."""

    def envelopes(d, length, order):
        xp = array_namespace(d)
        rate = math.sqrt(2 * nu) / length
        r = rate * xp.abs(d)
        decay, sign = xp.exp(-r), xp.sign(d)
        power = 1.0
        for n, polynomial in enumerate(_matern(nu, order)):
            envelope = power * _horner(polynomial, r) * decay
            yield envelope * sign if n % 2 else envelope
            power = power * rate

    return envelopes


def mixture_gradients(d, weights, means, scales, envelopes, order):
    """Yield for each component the derivatives of k⁽ⁿ⁾ by log w, μ and the log of the rate.

    ∂ cos(ωd)/∂ω = −d sin(ωd), and an envelope m(rate · d) has ∂m/∂ log rate = d m'(d); both are
    differentiated n times by Leibniz.
    """
    for w, mean, scale in zip(weights, means, scales, strict=True):
        omega = 2 * math.pi * mean
        m = list(envelopes(d, scale, order + 1))
        stretched = [d * m[j + 1] + j * m[j] for j in range(order + 1)]
        by_mean = -d * _leibniz(d, m, omega, order, shift=-1)
        if order > 0:
            by_mean = by_mean - order * _leibniz(d, m, omega, order - 1, shift=-1)
        yield (
            w * _leibniz(d, m, omega, order),
            2 * math.pi * w * by_mean,
            w * _leibniz(d, stretched, omega, order),
        )


def _mixture(d, weights, means, scales, envelopes, order):
    def component(weight, mean, scale):
        m = list(envelopes(d, scale, order))
        return weight * _leibniz(d, m, 2 * math.pi * mean, order)

    if is_jax_array(d):  # one program for all components: compiled in one component's time
        from jax import vmap

        return vmap(component)(weights, means, scales).sum(axis=0)
    total = array_namespace(d).zeros_like(d)
    for q in range(weights.shape[0]):
        total = total + component(weights[q, ...], means[q, ...], scales[q, ...])
    return total


def _leibniz(d, m, omega, order, shift=0):
    """Derivative of m(d) cos(ωd + shift π/2): a shift of −1 makes it a sine."""
    xp = array_namespace(d)
    cosine, sine = xp.cos(omega * d), xp.sin(omega * d)
    turned = cosine, -sine, -cosine, sine  # cos(ωd + nπ/2)
    return sum(
        (math.comb(order, j) * omega ** (order - j)) * m[j] * turned[(order - j + shift) % 4]
        for j in range(order + 1)
    )


def _hermite(order):
    """Polynomials h_n in r = √b d with m⁽ⁿ⁾ = b^(n/2) h_n(r) exp(−r²)."""
    polynomial = [1]
    yield polynomial
    for _ in range(order):
        polynomial = _sum(_derivative(polynomial), [0] + [-2 * c for c in polynomial])
        yield polynomial


def _matern(nu, order):
    """Polynomials p_n in r with m⁽ⁿ⁾ = aⁿ sign(d)ⁿ p_n(r) exp(−r)."""
    p = round(nu - 0.5)
    scale = math.factorial(p) / math.factorial(2 * p)
    polynomial = [
        scale * 2**k * math.factorial(2 * p - k) / (math.factorial(p - k) * math.factorial(k))
        for k in range(p + 1)
    ]
    yield polynomial
    for _ in range(order):
        polynomial = _sum(_derivative(polynomial), [-c for c in polynomial])
        yield polynomial


def _derivative(polynomial):
    return [k * c for k, c in enumerate(polynomial)][1:]


def _sum(first, second):
    size = max(len(first), len(second))
    first, second = (p + [0] * (size - len(p)) for p in (first, second))
    return [a + b for a, b in zip(first, second, strict=True)]


def _horner(polynomial, r):
    value = polynomial[-1] + 0 * r
    for coefficient in polynomial[-2::-1]:
        value = value * r + coefficient
    return value
