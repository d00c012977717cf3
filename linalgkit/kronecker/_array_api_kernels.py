"""Reference engine of the stationary mixture kernels and their derivatives.

k(d) = Σ_q w_q m_q(d) cos(ω_q d), ω = 2πμ, and by Leibniz
k⁽ⁿ⁾ = Σ_q w_q Σ_j C(n, j) m_q⁽ʲ⁾(d) ω_q^(n−j) cos(ω_q d + (n−j)π/2).
Each envelope m is a polynomial times a decaying function, and so is each of its derivatives: the
polynomials follow by a recursion, whose coefficients are exact.
"""

import math

from array_api_compat import array_namespace


def spectral_mixture(d, weights, means, scales, *, order):
    """Envelopes exp(−b d²), b = 2π²σ²."""

    def envelopes(d, scale):
        xp = array_namespace(d)
        rate = math.sqrt(2) * math.pi * scale  # √b
        r = rate * d
        decay = xp.exp(-r * r)
        power = 1.0
        for polynomial in _hermite(order):
            yield power * _horner(polynomial, r) * decay
            power = power * rate

    return _mixture(d, weights, means, scales, envelopes, order)


def student_t_mixture(d, weights, means, lengths, *, nu, order):
    """Matérn envelopes of half-integer ν: a polynomial in r = a d, a = √(2ν)/ℓ, times exp(−r)."""

    def envelopes(d, length):
        xp = array_namespace(d)
        rate = math.sqrt(2 * nu) / length
        r = rate * xp.abs(d)
        decay = xp.exp(-r)
        sign = xp.sign(d)
        power = 1.0
        for n, polynomial in enumerate(_matern(nu, order)):
            envelope = power * _horner(polynomial, r) * decay
            yield envelope * sign if n % 2 else envelope
            power = power * rate

    return _mixture(d, weights, means, lengths, envelopes, order)


def _mixture(d, weights, means, scales, envelopes, order):
    xp = array_namespace(d)
    total = xp.zeros_like(d)
    for q in range(weights.shape[0]):
        omega = 2 * math.pi * means[q, ...]
        cosine, sine = xp.cos(omega * d), xp.sin(omega * d)
        turned = cosine, -sine, -cosine, sine  # cos(ωd + nπ/2)
        part = xp.zeros_like(d)
        for j, envelope in enumerate(envelopes(d, scales[q, ...])):
            n = order - j
            part = part + (math.comb(order, j) * omega**n) * envelope * turned[n % 4]
        total = total + weights[q, ...] * part
    return total


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
