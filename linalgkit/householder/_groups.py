"""Finite groups as permutations: by name, by generators, by table.

A permutation is its images: p[i] is where point i goes. The product of g and h is g first, then h,
as the letters of a word act: its images are h[g]. Elements are numbered in the order of their
images, so that 0 is the identity.
"""

from itertools import permutations
from math import factorial
from typing import Any

import numpy as np

from .. import _checks

_MOST_ELEMENTS = 50_000

_FAMILIES = "S (symmetric), A (alternating), C (cyclic) or D (dihedral)"


def named(name: str) -> np.ndarray:
    """Return the elements of a group such as "S5", shape (order, points)."""
    if not isinstance(name, str):
        raise TypeError(f"a group's name must be a str, like 'S5'; got {type(name).__name__}.")
    family, digits = name[:1], name[1:]
    if family not in "SACD" or not (digits.isascii() and digits.isdigit()) or int(digits) < 1:
        raise ValueError(
            f"a group's name is {_FAMILIES} with a number of points, like 'S5'; got {name!r}. "
            f"Any other group is state_tracking.group(generators=...), of permutations."
        )
    n = int(digits)
    if family == "D" and n < 3:
        raise ValueError(f"dihedral groups are of polygons with at least 3 corners; got {name!r}.")
    order = 2 * n if family in "CD" else factorial(min(n, _MOST_ELEMENTS))
    if order > _MOST_ELEMENTS:
        raise ValueError(
            f"{name} has too many elements to number them all, more than {_MOST_ELEMENTS}; "
            f"state_tracking.permutation follows points, whatever the group."
        )
    points = np.arange(n)
    turned = (points + points[:, None]) % n
    if family == "C":
        return turned
    if family == "D":
        return np.unique(np.concatenate([turned, turned[:, ::-1]]), axis=0)
    elements = np.array(list(permutations(range(n))))
    return elements if family == "S" else elements[_are_even(elements)]


def generated(generators: np.ndarray) -> np.ndarray:
    """Return the elements of the group that permutations generate, shape (order, points)."""
    moves = generators.tolist()
    elements = [tuple(range(generators.shape[1]))]
    found = set(elements)
    for element in elements:  # grows while it is walked
        for move in moves:
            product = tuple([move[point] for point in element])
            if product not in found:
                found.add(product)
                elements.append(product)
        if len(elements) > _MOST_ELEMENTS:
            raise ValueError(
                f"the generators make a group of more than {_MOST_ELEMENTS} elements, too many to "
                f"number; state_tracking.permutation follows points, whatever the group."
            )
    return np.array(sorted(elements))


def checked_permutations(name: str, value: Any) -> np.ndarray:
    """Return permutations of n points, shape (letters, n); ValueError unless they are some."""
    found = integers(name, value)
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size:
        raise ValueError(
            f"{name} must be a permutation of n points, shape (n,), or several, shape "
            f"(letters, n); got shape {found.shape}."
        )
    n = found.shape[1]
    in_range(name, found, n, "points")
    wrong = np.flatnonzero(np.any(np.sort(found, axis=1) != np.arange(n), axis=1))
    if len(wrong):
        images = found[wrong[0]]
        twice = int(np.argmax(np.bincount(images, minlength=n)))
        raise ValueError(
            f"{name}[{wrong[0]}] = {images.tolist()} is no permutation: point {twice} is the image "
            f"of {np.flatnonzero(images == twice).tolist()}."
        )
    return found


def identity_of(table: np.ndarray) -> int:
    """Return the identity of a group's table; ValueError naming the axiom that fails."""
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not table.size:
        raise ValueError(
            f"a group's table has shape (elements, elements), at least one; got {table.shape}. "
            f"Permutations that generate a group are given as generators=."
        )
    n = len(table)
    outside = np.argwhere((table < 0) | (table >= n))
    if len(outside):
        g, h = outside[0]
        raise _no_group("closure", f"{g} · {h} = {table[g, h]} is none of the {n} elements")
    all_elements = np.arange(n)
    is_identity = np.all(table == all_elements, axis=1)
    is_identity &= np.all(table == all_elements[:, None], axis=0)
    if not np.any(is_identity):
        raise _no_group("identity", "no element e has e · g = g = g · e for all g")
    identity = int(np.argmax(is_identity))
    is_inverse = np.equal(table, identity) & np.equal(table.T, identity)
    lonely = np.flatnonzero(~np.any(is_inverse, axis=1))
    if len(lonely):
        raise _no_group("inverses", f"no h has {lonely[0]} · h = {identity} = h · {lonely[0]}")
    for g in range(n):  # one slice of the n³ triples at a time
        differing = np.argwhere(table[table[g]] != table[g][table])
        if len(differing):
            h, i = differing[0]
            left, right = table[table[g, h], i], table[g, table[h, i]]
            raise _no_group(
                "associativity", f"({g} · {h}) · {i} = {left}, {g} · ({h} · {i}) = {right}"
            )
    return identity


def integers(name: str, value: Any) -> np.ndarray:
    """Return an array of int64; TypeError unless its entries are integers."""
    (array,) = _checks.arrays(**{name: value})
    if not isinstance(array, np.ndarray) or (array.dtype.kind not in "biu" and array.size):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a NumPy array or list of integers; got {kind}.")
    return array.astype(np.int64)


def in_range(name: str, array: np.ndarray, count: int, what: str) -> None:
    """Raise ValueError unless all entries number one of `count` letters, points or states."""
    outside = np.argwhere((array < 0) | (array >= count))
    if len(outside):
        place = tuple(outside[0].tolist())
        raise ValueError(
            f"{name} must name {what} from 0 to {count - 1}; got {array[place]} at index "
            f"{place if len(place) > 1 else place[0]}."
        )


def _are_even(elements: np.ndarray) -> np.ndarray:
    """Tell which permutations have an even number of pairs in the wrong order."""
    first, second = np.triu_indices(elements.shape[1], 1)
    return np.sum(elements[:, first] > elements[:, second], axis=1) % 2 == 0


def _no_group(axiom: str, why: str) -> ValueError:
    return ValueError(f"the table is no group ({axiom}): {why}.")
