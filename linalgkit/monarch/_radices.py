"""Lengths as products of radices: which products a Fourier transform is made of."""

from functools import lru_cache

LARGEST = 256  # the largest prime radix; lengths with larger prime factors are convolutions


@lru_cache(maxsize=1024)
def best_radices(n: int, overhead: float) -> tuple[int, ...] | None:
    """Return the radices of n with the least Σ (radix + overhead), the largest first.

    None where a prime factor of n is larger than `LARGEST`.
    """
    primes = factors(n)
    if primes and primes[-1] > LARGEST:
        return None
    best: dict[int, tuple[float, tuple[int, ...]]] = {1: (0.0, ())}
    divisors = sorted(_divisors(primes))
    for d in divisors[1:]:
        best[d] = min(
            [
                (best[d // r][0] + r + overhead, (r, *best[d // r][1]))
                for r in divisors[1:]
                if d % r == 0 and r <= LARGEST
            ]
        )
    return tuple(sorted(best[n][1], reverse=True)) or (1,)


@lru_cache(maxsize=1024)
def good_length(least: int, overhead: float) -> int:
    """Return the cheapest length from `least` on, of the form 2^a times 1, 3, 5, 9 or 15."""

    def cost(n: int) -> tuple[float, int]:
        radices = best_radices(n, overhead) or ()
        return n * sum(radix + overhead for radix in radices), n

    candidates = []
    for odd in (1, 3, 5, 9, 15):
        n = odd
        while n < least:
            n *= 2
        candidates.append(n)
    return min(candidates, key=cost)


def factors(n: int) -> list[int]:
    """Return the prime factors of n, the smallest first."""
    found, p = [], 2
    while p * p <= n:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return [*found, n] if n > 1 else found


def _divisors(primes: list[int]) -> set[int]:
    divisors = {1}
    for p in primes:
        divisors |= {p * d for d in divisors}
    return divisors
