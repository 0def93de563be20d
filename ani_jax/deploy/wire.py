"""What goes over the wire: one msgpack map with a declared dtype and shape, either way; whatever else comes is refused in a line.

    {"artefact": str, "dtype": str, "shape": [rows, ...], "data": bin}

``artefact`` names the pair of client and server that the numbers belong to, ``data`` holds them little-endian, the last index
fastest. A client sends z, the provider answers with logits. Nothing in a message is ever run, and no header in it can ask for
more memory than the message itself takes.
"""

import dataclasses
import hashlib
import json
import math
import reprlib
from typing import TYPE_CHECKING, Any, Self

import ml_dtypes
import msgpack
import numpy as np

if TYPE_CHECKING:
    from ani_jax.deploy.artefact import Card

MEDIA = "application/msgpack"
"""The media type of messages."""
PATH = "/v1/infer"
"""Where they are sent to."""
DTYPES = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
}
"""What the numbers may be."""
FIELDS = ("artefact", "dtype", "shape", "data")
RANK = 8
"""Axes at most."""
NAME = 128
"""Characters of an artefact's name at most."""
HEADER = 512
"""Bytes of a message at most that are not its numbers."""


class Refused(ValueError):
    """A message that is not what it has to be; one line says why."""


def encode(artefact: str, z: np.ndarray) -> bytes:
    """The message of an array.

    Args:
        artefact: the name of what the numbers belong to.
        z: (rows, ...), of a dtype in ``DTYPES``.

    Raises:
        Refused: another dtype.

    Example:
        >>> decode(encode("a", np.ones((1, 2), np.float32)))
        ('a', array([[1., 1.]], dtype=float32))
    """
    if (dtype := z.dtype.name) not in DTYPES:
        raise Refused(f"dtype={dtype}: must be one of {', '.join(DTYPES)}")
    data = z.astype(DTYPES[dtype], copy=False).tobytes()
    message = {"artefact": artefact, "dtype": dtype, "shape": list(z.shape), "data": data}
    return msgpack.packb(message)  # type: ignore[return-value]


def decode(body: bytes) -> tuple[str, np.ndarray]:
    """The artefact's name and the array of a message, whoever sent it; that it fits is left to :meth:`Spec.check`.

    Args:
        body: a message, or anything else.

    Raises:
        Refused: it is no message: the reason names the field, its value and what is allowed.

    Example:
        >>> decode(msgpack.packb({"artefact": "a", "dtype": "int8", "shape": [2, 1], "data": bytes(3)}))
        Traceback (most recent call last):
        ani_jax.deploy.wire.Refused: data: 3 bytes; must be 2, for int8 of shape (2, 1)
    """
    try:
        # Every length is bounded, or nested headers of a few bytes would reserve gigabytes.
        found = msgpack.unpackb(body, max_array_len=RANK, max_map_len=len(FIELDS), max_ext_len=0, max_str_len=NAME)
    except Exception:
        # Whatever a stranger's bytes raise in the parser, there is one thing to say about them.
        raise Refused(f"the body is no msgpack map of {', '.join(FIELDS)}") from None
    if not isinstance(found, dict) or set(found) != set(FIELDS):
        raise Refused(f"the body is {_told(found)}; must be a map of {', '.join(FIELDS)}")
    artefact, dtype, shape, data = (found[name] for name in FIELDS)
    if not isinstance(artefact, str):
        raise Refused(f"artefact={_told(artefact)}: must be a string")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused(f"dtype={_told(dtype)}: must be one of {', '.join(DTYPES)}")
    # A boolean is an int to Python.
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 1 for n in shape):
        raise Refused(f"shape={_told(shape)}: must be a list of 1 to {RANK} sizes of at least 1")
    if not isinstance(data, bytes):
        raise Refused(f"data={_told(data)}: must be binary")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if len(data) != expected:
        raise Refused(f"data: {len(data)} bytes; must be {expected}, for {dtype} of shape {_told(tuple(shape))}")
    return artefact, np.frombuffer(data, DTYPES[dtype]).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What z has to be.

    Attributes:
        artefact: name of the pair of client and server, equal at both ends.
        shape: of z for one image.
        dtype: a key of ``DTYPES``.
        low: the least that z may hold, -inf where none is declared.
        high: the most, likewise.
        rows: images of one message at most.

    Example:
        >>> Spec("a", (2,), "float32", low=-1.0, high=1.0).check(np.array([[0.0, 2.0]], np.float32))
        Traceback (most recent call last):
        ani_jax.deploy.wire.Refused: z=2: must be from -1 to 1
    """

    artefact: str
    shape: tuple[int, ...]
    dtype: str
    low: float = -math.inf
    high: float = math.inf
    rows: int = 64

    @classmethod
    def of(cls, card: "Card", rows: int = 64) -> Self:
        """What clients of an exported folder send; its name is a hash of the folder's, so that only halves of one pair talk."""
        name = hashlib.sha256(json.dumps(card.hashes, sort_keys=True).encode()).hexdigest()[:16]
        # Codes of fewer than 8 bits share bytes, of which any may come.
        codes = (0, card.levels - 1 if card.bits >= 8 else 255) if card.levels else (card.low, card.high)
        low, high = (side if end is None else end for side, end in zip((-math.inf, math.inf), codes, strict=True))
        return cls(name, tuple(card.z_shape), card.z_dtype, low, high, rows)

    @property
    def bytes(self) -> int:
        """Of one image's z."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def largest(self) -> int:
        """Bytes of a message at most."""
        return self.rows * self.bytes + HEADER

    def check(self, z: np.ndarray) -> None:
        """Refuses what is not z.

        Args:
            z: as it was decoded.

        Raises:
            Refused: dtype, shape, rows or range are others than declared, or a number is not finite.
        """
        if z.dtype != DTYPES[self.dtype]:
            raise Refused(f"dtype={z.dtype}: must be {self.dtype}")
        if z.shape[1:] != self.shape:
            raise Refused(f"shape={_told(z.shape)}: must be (rows, {', '.join(map(str, self.shape))})")
        if not 1 <= len(z) <= self.rows:
            raise Refused(f"shape={_told(z.shape)}: must have from 1 to {self.rows} rows")
        if not np.isfinite(z).all():
            raise Refused("z: holds a number that is not finite")
        # As the dtype has them: the nearest float32 may lie beyond the end of a range.
        floats = not np.issubdtype(z.dtype, np.integer)
        low, high = (float(z.dtype.type(end)) if floats else end for end in (self.low, self.high))
        least, most = float(z.min()), float(z.max())
        if least < low or most > high:
            raise Refused(f"z={least if least < low else most:.9g}: must be from {low:.9g} to {high:.9g}")


def _told(value: Any) -> str:
    """A stranger's value within a line, however long it is."""
    return reprlib.repr(value)
