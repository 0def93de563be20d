"""Arrays by name from a file, .npz or .parquet: nothing in it is unpickled, and nothing larger than memory is copied.

Arrays that an .npz stores uncompressed stay where they lie, mapped by their offset; compressed ones are unpacked once, in parts.
Columns of a parquet file are read in pieces into their place.
"""

import math
import os
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ani_jax.data.files import DataError

PIECE = 2**24
"""Bytes that are unpacked at once."""
ROWS = 8192
"""Rows of a column that are decoded at once."""
UNPACKED = 2**34
"""Bytes that a compressed array may take."""

Wanted = Callable[[str], bool]
"""Whether an array of that name is read."""


def read(path: str | os.PathLike[str], wanted: Wanted = bool) -> dict[str, np.ndarray]:
    """The wanted arrays of a file, and what it says in numbers beside them.

    Args:
        path: ends in .npz or .parquet.
        wanted: other names are left alone; metadata of a parquet schema count as arrays of one text each.

    Raises:
        DataError: one line; whatever else a damaged file makes of the libraries that read it is one, too.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", z=np.ones((2, 3)), other=np.ones(1))
        ...     {name: values.shape for name, values in read(f"{folder}/a.npz", lambda name: name == "z").items()}
        {'z': (2, 3)}
    """
    path = pathlib.Path(path)
    readers = {".npz": npz, ".parquet": parquet}
    if path.suffix not in readers:
        raise DataError(f"ends in {path.suffix!r}; must be .npz or .parquet")
    if not path.is_file():
        raise DataError("no such file; must be one that ends in .npz or .parquet")
    try:
        return readers[path.suffix](path, wanted)
    except DataError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"cannot be read ({type(error).__name__}: {said}); must be whole, of the format of its name"
        ) from None


def npz(path: pathlib.Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays of an archive."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if not wanted(name):
                continue
            with archive.open(info) as member:
                first = np.lib.format.read_magic(member) == (1, 0)
                head = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, turned, dtype = head(member)
                start, order = member.tell(), "F" if turned else "C"
                if dtype.hasobject:
                    raise DataError(f"{name}: holds objects, which would have to be unpickled; must be numbers or text")
                size = math.prod(shape) * dtype.itemsize
                if size != info.file_size - start:
                    raise DataError(f"{name}: its header says {size:,} bytes; must be {info.file_size - start:,}")
                if info.compress_type == zipfile.ZIP_STORED and size:
                    # Behind a header of its own, whose extra field the directory does not know.
                    with path.open("rb") as file:
                        file.seek(info.header_offset)
                        local = file.read(30)
                    own = 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
                    found[name] = np.memmap(path, dtype, "r", info.header_offset + own + start, shape, order)
                    continue
                if size > UNPACKED:
                    raise DataError(f"{name}: {size / 2**30:.0f} GiB unpacked; must be stored uncompressed (np.savez)")
                # In parts: a whole copy beside it would be as much again.
                flat = np.empty(size, np.uint8)
                for begin in range(0, size, PIECE):
                    part = np.frombuffer(member.read(min(PIECE, size - begin)), np.uint8)
                    flat[begin : begin + PIECE] = part
                found[name] = flat.view(dtype).reshape(shape, order=order) if size else np.zeros(shape, dtype)
    return found


def parquet(path: pathlib.Path, wanted: Wanted) -> dict[str, np.ndarray]:
    """The columns of a table, and its schema's metadata."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        told = {key.decode(): np.array(value.decode()) for key, value in (schema.metadata or {}).items()}
        found = {name: value for name, value in told.items() if wanted(name)}
        for name in filter(wanted, schema.names):
            begin, text, whole = 0, [], np.zeros(0)
            for batch in file.iter_batches(ROWS, columns=[name]):
                part = values(name, batch.column(0))
                if part.dtype.kind == "U":
                    # Of another width in every piece.
                    text.append(part)
                    continue
                whole = whole if begin else np.empty((rows, *part.shape[1:]), part.dtype)
                if part.shape[1:] != whole.shape[1:]:
                    raise DataError(f"{name}: rows of {whole.shape[1:]} and of {part.shape[1:]}; must be equally long")
                whole[begin : begin + len(part)] = part
                begin += len(part)
            found[name] = np.concatenate(text) if text else whole
    return found


def values(name: str, column: Any) -> np.ndarray:
    """One piece of a column as an array; lists, which must be equally long, are its further axes.

    Example:
        >>> import pyarrow as pa
        >>> values("z", pa.array([[[1.0, 2.0]], [[3.0, 4.0]]])).shape
        (2, 1, 2)
    """
    import pyarrow as pa

    shape = [len(column)]
    while True:
        kind = column.type
        if column.null_count:
            raise DataError(f"{name}: has {column.null_count:,} missing values; every row must have one")
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
        elif pa.types.is_fixed_size_list(kind):
            shape.append(kind.list_size)
            column = column.flatten()
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = np.unique(np.diff(column.offsets.to_numpy()))
            if len(lengths) != 1:
                raise DataError(f"{name}: rows of {lengths[0]} to {lengths[-1]} numbers; must be equally long")
            shape.append(int(lengths[0]))
            column = column.flatten()
        else:
            break
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), np.str_).reshape(shape)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{name}: holds {kind}; must be numbers, or text for classes and groups")
    return column.to_numpy(zero_copy_only=False).reshape(shape)
