"""What structured operators share: the protocol, SciPy's view of it, the dot test, save and load.

A room's operator is a small class with `matmat` and `rmatmat` on blocks of columns; everything
here follows from those two. What is cheaper than dense (`inv`, `solve`, `slogdet`...) the class
adds under the protocol's names.
"""

import zlib
from importlib import import_module
from math import prod
from os import PathLike
from typing import IO, Any, ClassVar
from zipfile import BadZipFile

import numpy as np

from . import _checks

FORMAT = 1  # of the files that `save` writes; grows when an older `load` could not read them


class Operator:
    """Base of the rooms' operators.

    A subclass sets `shape` and `dtype` (and `batch_shape`, where it may be many matrices), names
    in `fields` the constructor's arguments that are kept as attributes of the same names (arrays,
    tuples of arrays, plain numbers and words, which is what `save` writes), and defines `matmat`
    and `rmatmat`. It sets ``__module__`` to its room: that is the name in saved files, which then
    outlive a move between the room's private modules.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    structure: str = ""  # what `repr` says of the blocks
    shape: tuple[int, int]
    dtype: Any

    def matmat(self, x: Any, /) -> Any:
        """Return A X for X of shape (columns, k)."""
        raise TypeError(f"{type(self).__name__} does not define matmat.")

    def rmatmat(self, x: Any, /) -> Any:
        """Return A^H X for X of shape (rows, k)."""
        raise TypeError(f"{type(self).__name__} does not define rmatmat.")

    def matvec(self, x: Any, /) -> Any:
        """Return A x for x of shape (columns,)."""
        x = _checks.operand("x", x, -1, self.shape[-1])
        return self.matmat(x[..., None])[..., 0]

    def rmatvec(self, x: Any, /) -> Any:
        """Return A^H x for x of shape (rows,)."""
        x = _checks.operand("x", x, -1, self.shape[-2])
        return self.rmatmat(x[..., None])[..., 0]

    def __matmul__(self, x: Any) -> Any:
        """Return A x for a vector, A X for a matrix."""
        if not hasattr(x, "ndim"):
            (x,) = _checks.arrays(x=x)
            _checks.present(x=x)
        return self.matvec(x) if x.ndim == 1 else self.matmat(x)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Refuse: NumPy would make an array with one object in it."""
        dense = ".to_dense()" if hasattr(self, "to_dense") else " @ numpy.eye(columns)"
        raise TypeError(
            f"{type(self).__name__} is no array, and none is made of it silently; "
            f"for the dense matrix write operator{dense}."
        )

    def aslinearoperator(self) -> Any:
        """Return SciPy's LinearOperator of it, blocks served as blocks."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator(
            shape=self.shape[-2:],
            dtype=self.dtype,
            matvec=lambda x: self.matvec(x.reshape(-1)),  # SciPy also passes (n, 1)
            rmatvec=lambda x: self.rmatvec(x.reshape(-1)),
            matmat=self.matmat,
            rmatmat=self.rmatmat,
        )

    def save(self, file: str | PathLike[str] | IO[bytes]) -> None:
        """Write the operator to one ``.npz`` file that `linalgkit.load` reads."""
        kind = type(self)
        arrays: dict[str, Any] = {}
        for name in self.fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and any(hasattr(part, "shape") for part in value):
                arrays |= {f"{name}.{k}": _on_host(part) for k, part in enumerate(value)}
            else:
                arrays[name] = _on_host(value)
        if not arrays:
            raise TypeError(f"{kind.__name__} has no arrays of its own to save; save its parts.")
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(f"{kind.__name__}.{name} is not an array of numbers.")
        np.savez(
            file,
            linalgkit_class=np.array(f"{kind.__module__}.{kind.__qualname__}"),
            linalgkit_format=np.array(FORMAT),
            **arrays,
        )

    def __repr__(self) -> str:
        values = [getattr(self, name) for name in self.fields]
        values = [part for v in values for part in (v if isinstance(v, tuple) else (v,))]
        arrays = [array for array in values if hasattr(array, "shape")]
        parameters = sum(prod(array.shape) for array in arrays)
        size = sum(prod(array.shape) * array.dtype.itemsize for array in arrays)
        shape = (*getattr(self, "batch_shape", ()), *self.shape)
        dense = prod(shape)
        ratio = dense / parameters if parameters else float("inf")
        return (
            f"<{type(self).__name__} {'×'.join(map(str, shape))}{self.structure}, {self.dtype}: "
            f"{parameters:,} parameters, {size:,} bytes, "
            f"{ratio:.3g} times smaller than dense>"
        )


def load(file: str | PathLike[str] | IO[bytes]) -> Any:
    """Read an operator that its ``save`` wrote.

    Parameters
    ----------
    file : str, path or binary file
        The ``.npz`` file.

    Returns
    -------
    operator
        Of the class that was saved, with NumPy arrays.

    Raises
    ------
    ValueError
        The file is not linalgkit's, is of a newer format, or names a class that
        this version does not have.

    Notes
    -----
    Reading executes nothing from the file: arrays are loaded without pickle, and
    only operator classes of this package are made.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> import linalgkit
    >>> file = io.BytesIO()
    >>> np.savez(file, x=np.ones(3))
    >>> _ = file.seek(0)
    >>> linalgkit.load(file)
    Traceback (most recent call last):
        ...
    ValueError: not a file of linalgkit: it holds x, but no linalgkit_class.
    """
    content = _archive(file)
    for key in ("linalgkit_class", "linalgkit_format"):
        if key not in content:
            raise ValueError(
                f"not a file of linalgkit: it holds {', '.join(content)}, but no {key}."
            )
    name, number = str(content.pop("linalgkit_class")), content.pop("linalgkit_format")
    if number.shape != () or number.dtype.kind not in "iu":
        raise ValueError(f"linalgkit_format must be one integer; the file holds {number!r}.")
    if number > FORMAT:
        raise ValueError(
            f"written in format {number} by a newer linalgkit; this one reads up to {FORMAT}."
        )
    kind = _operator_class(name)
    content = _with_sequences(content)
    if set(content) != set(kind.fields):
        raise ValueError(
            f"{name} needs {', '.join(kind.fields)}; the file holds {', '.join(content)}."
        )
    arguments = {
        key: value if isinstance(value, tuple) or value.ndim else value.item()
        for key, value in content.items()
    }
    return kind(**arguments)


def _with_sequences(content: dict[str, Any]) -> dict[str, Any]:
    """Put arrays that are called "name.0", "name.1"… together in a tuple."""
    result = {key: value for key, value in content.items() if "." not in key}
    parts = sorted(key.rpartition(".")[::2] for key in content if "." in key)
    for name in {name for name, _ in parts}:
        result[name] = tuple(
            content[f"{name}.{k}"] for k in range(len([p for p in parts if p[0] == name]))
        )
    return result


def _on_host(value: Any) -> np.ndarray:
    """Return a NumPy array of any library's array, wherever it lies; TypeError for bfloat16."""
    if "bfloat16" in str(getattr(value, "dtype", "")):
        raise TypeError("NumPy has no bfloat16; convert to float32, which has all of its numbers.")
    if hasattr(value, "detach"):  # torch's
        value = value.detach().resolve_conj().cpu().numpy()
    elif hasattr(value, "get") and hasattr(value, "shape"):  # CuPy's
        value = value.get()
    return np.asarray(value)


def dottest(
    operator: Any,
    *,
    rtol: float | None = None,
    rng: int | np.random.Generator | None = None,
) -> float:
    """Test that an operator's two products are adjoint to each other.

    Parameters
    ----------
    operator : operator
        Anything with `shape`, `dtype`, `matvec` and `rmatvec`; SciPy's linear
        operators too.
    rtol : float, optional
        Largest relative discrepancy; by default 1000 times the machine epsilon
        of the dtype.
    rng : None, int or numpy.random.Generator
        For the random vectors.

    Returns
    -------
    float
        The discrepancy, relative to ``|A x| |y|``.

    Raises
    ------
    AssertionError
        The two inner products differ by more than `rtol`.

    Notes
    -----
    For random x and y, ``<A x, y>`` must equal ``<x, A^H y>``.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import aslinearoperator
    >>> import linalgkit
    >>> linalgkit.dottest(aslinearoperator(np.eye(4)), rng=0)
    0.0
    """
    rng = np.random.default_rng(rng)
    dtype = np.result_type(operator.dtype or np.float64, np.float32)  # integers: float64
    rows, columns = operator.shape[-2:]
    x, y = _random_vector(columns, dtype, rng), _random_vector(rows, dtype, rng)
    image, preimage = operator.matvec(x), operator.rmatvec(y)
    left, right = np.vdot(y, image), np.vdot(preimage, x)
    scale = float(np.linalg.norm(image) * np.linalg.norm(y)) or 1.0
    error = float(abs(left - right)) / scale
    limit = 1000 * np.finfo(dtype).eps if rtol is None else rtol
    if not error <= limit:
        raise AssertionError(
            f"<A x, y> = {left} but <x, A^H y> = {right}: a relative difference of {error:.2g}, "
            f"more than {limit:.2g}. matvec and rmatvec are not adjoint to each other."
        )
    return error


def _random_vector(n: int, dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(n)
    if dtype.kind == "c":
        vector = vector + 1j * rng.standard_normal(n)
    return vector.astype(dtype)


def _archive(file: Any) -> dict[str, np.ndarray]:
    """Read every array of a .npz file; ValueError for anything else."""
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            content = {name: _member(archive, name) for name in archive.files}
        for name, array in content.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is not an array")
    except (ValueError, EOFError, RuntimeError, BadZipFile) as error:
        raise ValueError(f"not a .npz file of linalgkit: {error}.") from error
    return content


def _member(archive: Any, name: str) -> Any:
    try:
        return archive[name]
    except (OSError, zlib.error) as error:  # what the decompressors raise
        raise ValueError(f"{name} is damaged ({error})") from error


def _operator_class(name: str) -> type[Operator]:
    module, _, attribute = name.rpartition(".")
    if module == "linalgkit" or module.startswith("linalgkit."):
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError):
            found = None
        if isinstance(found, type) and issubclass(found, Operator):
            return found
    raise ValueError(f"no operator class {name!r} in this version of linalgkit.")
