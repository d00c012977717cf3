"""Kernels of the GPU engine: their sizes, their names, and the tables that CI compiles."""

from functools import cache, partial
from pathlib import Path

import numpy as np

from .._cuda import Source
from ._semirings import SEMIRINGS

# (products of a row at most, lanes of the team that counts them, of the one that multiplies)
SORT_SIZES = ((32, 8, 8), (64, 8, 16), (128, 16, 16), (256, 16, 32), (512, 32, 32), (1024, 32, 32))
SHORT = SORT_SIZES[-1][0]
SORT_THREADS = 64  # of a block
# (slots of a table, threads of the team that has a row, teams of a block); a table has room for
# half as many columns, 32 at least. Bigger rows have bitmaps.
TABLE_SIZES = (
    (64, 32, 8), (128, 32, 8), (256, 32, 4), (512, 64, 1),
    (1024, 128, 1), (2048, 256, 1), (4096, 512, 1), (8192, 1024, 1),
)  # fmt: skip
# Threads of a block and products of each at a time: of two blocks on a processor, of one.
BITMAP_SIZES = (512, 4), (1024, 2)
NUMBERS = {
    np.dtype("float32"): "float",
    np.dtype("float64"): "double",
    np.dtype("complex64"): "linalgkit::Complex<float>",
    np.dtype("complex128"): "linalgkit::Complex<double>",
    np.dtype("int32"): "int",
    np.dtype("int64"): "long long",
}
INDICES = {np.dtype("int32"): "int", np.dtype("int64"): "long long"}
BOOL = "unsigned char"
KEYS = {4: "unsigned int", 8: "unsigned long long"}


def _operations(semiring):
    return "linalgkit::" + semiring.title().replace("_", "")


def counting(index, other):
    """Name of the kernel that counts products, by the types of both row pointers."""
    return f"linalgkit::count_products<{index}, {other}>"


def checking(index):
    return f"linalgkit::check_rows<{index}>"


@cache
def _by(way, size, number=None, semiring=None):
    """Name of the kernel that counts, or multiplies, in one of the ways that take any row."""
    if number is None:
        return f"linalgkit::count_by_{way}<{', '.join(map(str, size))}>"
    arguments = number, _operations(semiring), *map(str, size)
    return f"linalgkit::multiply_by_{way}<{', '.join(arguments)}>"


by_table, by_bitmap = partial(_by, "table"), partial(_by, "bitmap")


@cache
def by_sort(sort, number=None, semiring=None, key=4):
    size, count, multiply = sort
    if number is None:
        return f"linalgkit::count_by_sort<{count}, {size // count}, {SORT_THREADS}>"
    arguments = number, _operations(semiring), KEYS[key], multiply, size // multiply, SORT_THREADS
    return f"linalgkit::multiply_by_sort<{', '.join(map(str, arguments))}>"


def pulling(number):
    """Names of the kernels of the gradients."""
    return tuple(f"linalgkit::{name}<{number}>" for name in ("pull_to_a", "pull_to_b"))


_SAMPLE = (
    *((number, "plus_times") for number in NUMBERS.values() if number != "double"),
    *(("float", name) for name in SEMIRINGS if name not in ("plus_times", "or_and")),
    *((BOOL, name) for name in ("or_and", "max_min", "min_max")),
)
PATTERNS = Source(
    Path(__file__).with_name("_patterns.cu"),
    (
        *(f"linalgkit::{x}" for x in ("bin_rows", "list_rows", "sum_counts")),
        *(counting(*pair) for pair in (("int", "int"), ("int", "long long"), ("long long",) * 2)),
        *map(checking, INDICES.values()),
    ),
)
# All sizes for one type and semiring; of the others a table of a warp and one of a block.
TABLES = Source(
    Path(__file__).with_name("_tables.cu"),
    (
        *map(by_table, TABLE_SIZES),
        *(by_table(table, "double", "plus_times") for table in TABLE_SIZES),
        *(by_table(TABLE_SIZES[k], *one) for one in _SAMPLE for k in (1, 4)),
    ),
)
# Likewise, of the others one size.
LONG_ROWS = Source(
    Path(__file__).with_name("_long_rows.cu"),
    (
        *map(by_bitmap, BITMAP_SIZES),
        *(by_bitmap(bitmap, "double", "plus_times") for bitmap in BITMAP_SIZES),
        *(by_bitmap(BITMAP_SIZES[1], *one) for one in _SAMPLE),
    ),
)
SHORT_ROWS = Source(
    Path(__file__).with_name("_short_rows.cu"),
    (
        *map(by_sort, SORT_SIZES),
        *(by_sort(sort, "double", "plus_times", key) for sort in SORT_SIZES for key in KEYS),
        *(by_sort(SORT_SIZES[1], *one) for one in _SAMPLE),
    ),
)
GRADIENTS = Source(
    Path(__file__).with_name("_gradients.cu"),
    tuple(name for number in list(NUMBERS.values())[:4] for name in pulling(number)),
)
