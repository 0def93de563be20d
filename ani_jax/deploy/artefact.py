"""An exported client and its server: a folder that a device and a provider load without any code that trained it.

    artefact = load("exported")
    logits = artefact.server(artefact.send(images))

The folder holds ``card.json``, which says what is in it, programs (``client.jax``, ``server.jax`` and, of what the client
declares, ``mean.jax``, ``stddev.jax``, ``log_prob.jax``) for any batch on cpu, cuda and tpu, and the weights of each party beside
them. A device needs no file of the server's, and a provider none of the client's. No key lies in it: a device draws its own, for
every query or, where noise is memoised, once and for all.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array

from ani_jax.records import Evidence, from_json
from ani_jax.types import Features, Images, Logits, Release

VERSION = 1
"""Of the folder's layout."""
CARD, WEIGHTS, GRAPH = "card.json", "{}.safetensors", "client.onnx"
DECLARED = ("mean", "stddev", "log_prob")
"""Of what a client declares, what is exported beside it."""
EXTRA = ("flatbuffers", "safetensors")
"""Packages that reading or writing a folder needs beyond jax."""
SECRET_BYTES = 32
"""What a device draws, and keeps where noise is memoised."""
SECRET = Path("~/.config/ani_jax/secret")
"""Where it is kept unless somebody says where; never beside the artefact, which others have too."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one half costs the device, measured on the artefact in a process of its own (METHODS 6).

    Attributes:
        parameters: trainable numbers.
        macs: multiply-accumulates per image.
        bytes_sent: per query.
        bytes_raw: of the raw uint8 image that would be sent instead.
        p50_ms: median time of a query of one image, from pixels to the bytes that are sent.
        p95_ms: that which one in twenty exceeds.
        peak_mib: of the process, at its largest.
        idle_mib: of the same process before it loaded the artefact: Python and jax.
    """

    parameters: int
    macs: int
    bytes_sent: int
    bytes_raw: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    peak_mib: float | None = None
    idle_mib: float | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """How much the strongest attack of an audit found of one target.

    Attributes:
        target: what was sought.
        attack: which attack was strongest, with how many queries.
        metric: what its strength is called.
        strength: its value, None where none ran through.
        low: lower end of the 95% interval.
        high: upper end.
    """

    target: str
    attack: str
    metric: str
    strength: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, evidence: Evidence) -> "tuple[Found, ...]":
        """The strongest attack on every target, however often it asked; chosen on test, so an upper envelope."""
        found = []
        for words in evidence.targets:
            best, label = evidence.strongest(words, lambda one: one.status == "ok"), words.metric(words.strength).label
            if best is None:
                found.append(cls(words.name, "none ran through", label, None))
                continue
            score = best.scores[words.strength]
            often = f"{best.attack} on {best.queries} release{'s' if best.queries > 1 else ''}"
            found.append(cls(words.name, often, label, score.value, score.low, score.high))
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Card:
    """What an exported folder is, in plain data.

    Attributes:
        version: of the folder's layout.
        defence: how the client is protected.
        dataset: what it was trained on.
        classes: names of the provider's answers, in the order of its logits.
        image_shape: (height, width, channels) of an image in [0, 1].
        feature_shape: of the features of one image, as ``Artefact.client`` computes them.
        z_shape: of what is sent for one image; codes of fewer than 8 bits are packed into rows of bytes.
        z_dtype: numpy's name of its type: "float32", or "uint8" and "uint16" for codes of a grid.
        low: the smallest feature that is sent, None where nothing bounds it.
        high: the largest.
        levels: how many values a feature can have, equally spaced from low to high; 0 for any.
        bits: of every feature that is sent.
        noise: "none", "fresh" with every query, or "memoised": a function of image and device.
        key_words: how many 32-bit words of randomness the client takes.
        level: how much the audit might compute that is summarised here, "" for none.
        accuracy: of the provider's answer on test.
        evidence: what was found, a target each.
        gate: what a gate said of the client, by its name; empty without one.
        cost: of the client.
        undefended: of the undefended split's, None where there is none.
        onnx: what ``client.onnx`` takes beside images, "" where there is no such file.
        attacker: which attacker ``attacker.jax`` is, "" where there is none.
        made_with: versions that wrote it.
        hashes: file name -> SHA-256, of every file but the card.
    """

    defence: str
    dataset: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    feature_shape: tuple[int, ...]
    z_shape: tuple[int, ...]
    z_dtype: str
    low: float | None = None
    high: float | None = None
    levels: int = 0
    bits: int = 32
    noise: str = "none"
    key_words: int = 0
    level: str = ""
    accuracy: float | None = None
    evidence: tuple[Found, ...] = ()
    gate: dict[str, str] = dataclasses.field(default_factory=dict)
    cost: Cost | None = None
    undefended: Cost | None = None
    onnx: str = ""
    attacker: str = ""
    made_with: dict[str, str] = dataclasses.field(default_factory=dict)
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    version: int = VERSION

    @property
    def grid(self) -> tuple[float, float]:
        """The feature that code 0 stands for, and how far codes are apart."""
        low, high = self.low or 0.0, self.high or 0.0
        return low, (high - low) / max(self.levels - 1, 1)

    @property
    def bytes_sent(self) -> int:
        """Of one query."""
        return math.prod(self.z_shape) * np.dtype(self.z_dtype).itemsize

    def pack(self, features: np.ndarray) -> np.ndarray:
        """What is sent of features: themselves, or the codes of their grid, close together.

        Args:
            features: (b, *feature_shape).
        """
        if not self.levels:
            return features
        low, step = self.grid
        codes = np.rint((features.astype(np.float64) - low) / step).clip(0, self.levels - 1)
        if self.bits >= 8:
            return codes.astype(self.z_dtype)
        bits = np.unpackbits(codes.astype(np.uint8).reshape(len(codes), -1, 1), axis=2)[..., -self.bits :]
        return np.packbits(bits.reshape(len(codes), -1), axis=1)

    def unpack(self, z: np.ndarray) -> np.ndarray:
        """The features that were sent; what :meth:`pack` did undone.

        Args:
            z: (b, *z_shape).
        """
        if not self.levels:
            return z
        if self.bits < 8:
            count = math.prod(self.feature_shape)
            bits = np.unpackbits(z, axis=1)[:, : count * self.bits].reshape(len(z), count, self.bits)
            z = np.packbits(bits, axis=2)[..., 0] >> (8 - self.bits)
            z = np.minimum(z, self.levels - 1)
        low, step = self.grid
        return (low + step * z.reshape(len(z), *self.feature_shape)).astype(np.float32)


def wire(shape: tuple[int, ...], low: float | None, high: float | None, levels: int) -> dict[str, Any]:
    """How features travel: the fields of a card that say so.

    Args:
        shape: of the features of one image.
        low: the smallest, None where nothing bounds them.
        high: the largest.
        levels: of their grid; 0 for float32.

    Example:
        >>> wire((3, 3), -1.0, 1.0, 2)["z_shape"], wire((3, 3), -1.0, 1.0, 2)["z_dtype"]
        ((2,), 'uint8')
    """
    bits = math.ceil(math.log2(levels)) if levels else 32
    packed = (math.ceil(math.prod(shape) * bits / 8),) if bits < 8 else shape
    z_dtype = "float32" if not levels else "uint16" if bits > 8 else "uint8"
    fields = {"low": low, "high": high, "levels": levels, "bits": bits}
    return {"feature_shape": shape, "z_shape": packed, "z_dtype": z_dtype, **fields}


@dataclasses.dataclass(frozen=True, eq=False)
class Artefact:
    """What :func:`load` read.

    Attributes:
        card: what it is.
        programs: name -> program of a batch, its weights bound.
        secret: the file that the device keeps its secret in, where noise is memoised.
    """

    card: Card
    programs: Mapping[str, Callable[..., Array]]
    secret: Path

    def client(self, images: Images, words: Array | np.ndarray | None = None) -> Features:
        """The features of images, to be differentiated at will.

        Args:
            images: (b, *image_shape) in [0, 1].
            words: (key_words,) of uint32, which all noise follows from; not looked at where there is none.
        """
        if not self.card.key_words:
            words = np.zeros(0, np.uint32)
        return self.program("client")(images, words)

    def send(self, images: np.ndarray) -> np.ndarray:
        """What leaves the device for images: (b, *z_shape) of ``z_dtype``.

        Its noise is drawn from the system for every query, or from the device's secret, which is made at the first.

        Args:
            images: (b, *image_shape) floats in [0, 1].

        Raises:
            ValueError: anything else, or a secret that cannot be used; one line.
        """
        images, shape = np.asarray(images), self.card.image_shape
        if images.shape[1:] != shape or not np.issubdtype(images.dtype, np.floating):
            told = f"{images.dtype} of shape {images.shape}"
            raise ValueError(f"images: {told}; must be floats of shape {('b', *shape)}".replace("'", ""))
        if not ((images >= 0) & (images <= 1)).all():
            raise ValueError("images: hold something beyond 0 to 1; must lie within")
        images = images.astype(np.float32)
        return self.card.pack(np.asarray(self.client(jnp.asarray(images), self.words())))

    def words(self) -> np.ndarray:
        """The words of one query."""
        if self.card.noise == "memoised":
            # Two clients of one device must not share noise: the difference of what they send would be without any.
            name = "".join(self.card.hashes[file] for file in ("client.jax", WEIGHTS.format("client")))
            drawn = hashlib.sha256(device_secret(self.secret) + name.encode()).digest()
        else:
            drawn = os.urandom(4 * self.card.key_words)
        return np.frombuffer(drawn, np.uint32)[: self.card.key_words]

    def server(self, z: Array | np.ndarray) -> Logits:
        """The provider's answer to what was sent, or to features as :meth:`client` computes them."""
        return self.program("server")(self.features(z))

    def attacker(self, z: Array | np.ndarray) -> Images:
        """What the exported attacker makes of what was sent, or of features."""
        return self.program("attacker")(self.features(z))

    def features(self, z: Array | np.ndarray) -> Array | np.ndarray:
        """What was sent as features, which stay as they are."""
        return z if jnp.issubdtype(z.dtype, jnp.floating) else self.card.unpack(np.asarray(z))

    def program(self, name: str) -> Callable[..., Array]:
        """A party's program.

        Raises:
            ValueError: the folder that was read holds none of it.
        """
        if name not in self.programs:
            raise ValueError(f"artefact: this folder holds no {name}; copy its files, which the card names, into it")
        return self.programs[name]

    def release(self) -> Release:
        """The client as :func:`ani_jax.audit` takes one; it can be differentiated, not mapped over."""

        def apply(variables: Any, x: Images, key: Array) -> Features:
            del variables
            return self.client(x, jax.random.bits(key, (self.card.key_words,), jnp.uint32))

        declared = {
            name: lambda variables, *given, program=self.programs[name]: program(*given)
            for name in DECLARED
            if name in self.programs
        }
        noise = self.card.noise
        return Release((), apply, noise != "none", memoised=noise == "memoised", **declared)


def party(name: str) -> str:
    """Whose a file is: "server", "attacker" or "evidence", which may be left out, or the client's.

    Example:
        >>> [party(name) for name in ("client.onnx", "mean.jax", "server.safetensors")]
        ['client', 'client', 'server']
    """
    stem = name.partition(".")[0]
    return stem if stem in ("server", "attacker", "evidence") else "client"


def load(folder: str | Path, secret: str | Path = SECRET) -> Artefact:
    """Reads an exported folder, or one party's part of it, once all of its files are what its card says.

    Args:
        folder: which; a party of which no file is there is left out.
        secret: the file that the device keeps its secret in; made where noise is memoised and there is none.

    Raises:
        ValueError: one line: no card, a file of a party that is missing or not the card's.
    """
    folder = Path(folder)
    try:
        card = from_json(Card, (folder / CARD).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"artefact={folder}: holds no exported client ({error})") from None
    if card.version != VERSION:
        raise ValueError(f"artefact={folder}: is of version {card.version}; this code reads {VERSION}")
    halves = {f"{one}.jax" for one in ("client", "server")} | {WEIGHTS.format(one) for one in ("client", "server")}
    if absent := halves - card.hashes.keys():
        raise ValueError(f"artefact={folder}: its card names no {min(absent)}; export it again")
    here = {party(name) for name in card.hashes if (folder / name).exists()}
    if not here & {"client", "server"}:
        raise ValueError(f"artefact={folder}: holds a card alone; copy client.* or server.* beside it")
    files: dict[str, bytes] = {}
    for name, told in card.hashes.items():
        if party(name) not in here:
            continue
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ValueError(f"artefact={folder}: {name} cannot be read ({error.strerror})") from None
        if hashlib.sha256(files[name]).hexdigest() != told:
            raise ValueError(f"artefact={folder}: {name} is not the file that was exported; export it again")
    needed(f"artefact={folder}")
    from safetensors.numpy import load as read

    programs = {}
    for name, data in files.items():
        if name.endswith(".jax"):
            weights = read(files[WEIGHTS.format(party(name))])
            call = jax.jit(export.deserialize(bytearray(data)).call)
            own = {leaf: jnp.asarray(value) for leaf, value in weights.items()}
            programs[name.removesuffix(".jax")] = jax.tree_util.Partial(call, own)
    return Artefact(card, programs, Path(secret).expanduser())


def needed(place: str) -> None:
    """Refuses to go on without the packages that the extra brings; ``place`` is what the message begins with."""
    for name in EXTRA:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{place}: needs the package {name}; pip install 'ani-jax[export]'")


def device_secret(path: Path) -> bytes:
    """The secret of this device, drawn where there is none and kept in a file that its owner alone can read.

    Raises:
        ValueError: the file is not a secret, others can read it, or it cannot be kept; one line.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            own = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(SECRET_BYTES))
            # Of two processes that make one at a time, the first keeps its own.
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
        found = path.read_bytes()
    except OSError as error:
        raise ValueError(f"secret={path}: cannot be kept there ({error.strerror}); name a file that can") from None
    if len(found) != SECRET_BYTES:
        raise ValueError(f"secret={path}: holds {len(found)} bytes; must be {SECRET_BYTES}, or not there yet")
    if os.stat(path).st_mode & 0o077:
        raise ValueError(f"secret={path}: others may read it; chmod 600, or move it away for a new one")
    return found
