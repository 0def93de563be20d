"""Noise that a device draws for an image once and for all: asked again, it says the same, and nothing averages out.

    key = SHA-256(secret || pixels),      bits = ChaCha20(key, 0, 1, 2, ...),      noise = Phi^-1(bits)

A pseudo-random function of the image, keyed by a secret of the device's own (METHODS 2.1). ``jax.random.fold_in`` would not do:
it keeps 32 bits of what it is given, so that two of some 77,000 images share their noise with even chances, and whoever sees
both has their difference. Hash and cipher are the standards' (FIPS 180-4, RFC 8439), of which the tests hold every bit; what they
are worth against a patient attacker is known, and no claim of this project's.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from ani_jax.types import Images, PRNGKey

LEVELS = 255
"""Pixels are hashed as the bytes that a camera would give."""
SECRET = 8
"""32-bit words of a device's secret."""


def _first_bits(primes: int, root: int) -> np.ndarray:
    """The first 32 bits behind the point of roots of the first primes, from which FIPS 180-4 takes its constants."""
    found, number = [], 2
    while len(found) < primes:
        if all(number % one for one in found):
            found.append(number)
        number += 1

    def integer_root(value: int) -> int:
        guess = round(value ** (1 / root))
        while guess**root > value:
            guess -= 1
        while (guess + 1) ** root <= value:
            guess += 1
        return guess

    return np.array([integer_root(prime << (32 * root)) & 0xFFFFFFFF for prime in found], np.uint32)


START, ROUNDS = _first_bits(8, 2), _first_bits(64, 3)


def _right(x: Array, bits: int) -> Array:
    return (x >> bits) | (x << (32 - bits))


def sha256(words: UInt32[Array, "b n"]) -> UInt32[Array, "b 8"]:
    """SHA-256 of messages of equal length, given and returned as big-endian words.

    Args:
        words: the messages.

    Example:
        >>> [f"{word:08x}" for word in sha256(jnp.array([[0x61626364]], jnp.uint32))[0, :2].tolist()]
        ['88d4266f', 'd4e6338d']
    """
    rows, size = words.shape
    # A one, zeros, and the length in bits, up to whole blocks of 16 words.
    tail = np.zeros(-(size + 3) % 16 + 3, np.uint32)
    tail[0], tail[-2], tail[-1] = 1 << 31, size * 32 >> 32, size * 32 & 0xFFFFFFFF
    message = jnp.concatenate([words, jnp.broadcast_to(tail[None], (rows, len(tail)))], axis=1)
    blocks = message.reshape(rows, -1, 16).transpose(1, 2, 0)

    def round_(carry: tuple[Any, Array], at: tuple[Array, Array]) -> tuple[tuple[Any, Array], None]:
        (a, b, c, d, e, f, g, h), schedule = carry
        index, constant = at
        word = schedule[index % 16]
        one = h + (_right(e, 6) ^ _right(e, 11) ^ _right(e, 25)) + ((e & f) ^ (~e & g)) + constant + word
        two = (_right(a, 2) ^ _right(a, 13) ^ _right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))
        near, far = schedule[(index + 1) % 16], schedule[(index + 14) % 16]
        mixed = word + (_right(near, 7) ^ _right(near, 18) ^ (near >> 3)) + schedule[(index + 9) % 16]
        mixed = mixed + (_right(far, 17) ^ _right(far, 19) ^ (far >> 10))
        return ((one + two, a, b, c, d + one, e, f, g), schedule.at[index % 16].set(mixed)), None

    def compress(state: Any, block: Array) -> tuple[Any, None]:
        (ended, _), _ = jax.lax.scan(round_, (state, block), (jnp.arange(64), jnp.asarray(ROUNDS)))
        return tuple(x + y for x, y in zip(state, ended, strict=True)), None

    start = tuple(jnp.full(rows, word) for word in START)
    return jnp.stack(jax.lax.scan(compress, start, blocks)[0], axis=1)


def chacha20(
    key: UInt32[Array, "*b 8"], counter: UInt32[Array, " n"], nonce: tuple[int, int, int] = (0, 0, 0)
) -> UInt32[Array, "*b n 16"]:
    """Blocks of the ChaCha20 key stream, as little-endian words.

    Args:
        key: one or several.
        counter: of the blocks.
        nonce: the same for all.

    Example:
        >>> blocks = chacha20(jnp.zeros(8, jnp.uint32), jnp.arange(1, dtype=jnp.uint32))
        >>> f"{blocks[0, 0]:08x}"
        'ade0b876'
    """
    constants = np.frombuffer(b"expand 32-byte k", "<u4")
    shape = (*key.shape[:-1], counter.shape[0])
    parts = [*constants, *(key[..., None, place] for place in range(8)), counter, *np.array(nonce, np.uint32)]
    start = [jnp.broadcast_to(jnp.asarray(part, jnp.uint32), shape) for part in parts]

    def quarter(x: list[Array], a: int, b: int, c: int, d: int) -> None:
        for into, other, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[into] = x[into] + x[other]
            x[mixed] = _right(x[mixed] ^ x[into], 32 - bits)

    def double(_: Any, state: tuple[Array, ...]) -> tuple[Array, ...]:
        x = list(state)
        for place in range(4):
            quarter(x, place, 4 + place, 8 + place, 12 + place)
        for place in range(4):
            quarter(x, place, 4 + (place + 1) % 4, 8 + (place + 2) % 4, 12 + (place + 3) % 4)
        return tuple(x)

    ended = jax.lax.fori_loop(0, 10, double, tuple(start))
    return jnp.stack([x + y for x, y in zip(ended, start, strict=True)], axis=-1)


def secret_of(key: PRNGKey) -> UInt32[Array, " 8"]:
    """The secret of a simulated device; a real one draws its own, and keeps it."""
    return jax.random.bits(key, (SECRET,), jnp.uint32)


@functools.partial(jax.jit, static_argnums=2)
def uniform(secret: UInt32[Array, " 8"], x: Images, size: int) -> Float[Array, "b n"]:
    """Numbers in (0, 1) that are a function of secret and image alone, 2^24 different ones.

    Args:
        secret: of the device.
        x: (b, h, w, c) in [0, 1]; images that are equal in bytes get the same numbers.
        size: n, for each image.

    Example:
        >>> x, secret = jnp.ones((2, 2, 2, 3)).at[1, 0, 0, 0].set(0.99), secret_of(jax.random.key(0))
        >>> first, again = uniform(secret, x, 100), uniform(secret, x[::-1], 100)[::-1]
        >>> bool((first == again).all()), bool((first[0] == first[1]).any())
        (True, False)
    """
    pixels = jnp.round(x.clip(0, 1) * LEVELS).astype(jnp.uint32).reshape(x.shape[0], -1)
    # Four bytes a word, big-endian; what is missing of the last one is 0, for all images alike.
    pixels = jnp.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 4))).reshape(x.shape[0], -1, 4)
    words = (pixels << jnp.array([24, 16, 8, 0], jnp.uint32)[None, None]).sum(-1, dtype=jnp.uint32)
    keys = sha256(jnp.concatenate([jnp.broadcast_to(secret[None], (x.shape[0], SECRET)), words], axis=1))
    bits = chacha20(keys, jnp.arange(math.ceil(size / 16), dtype=jnp.uint32)).reshape(x.shape[0], -1)[:, :size]
    return _unit(bits)


def _unit(bits: UInt32[Array, "b n"]) -> Float[Array, "b n"]:
    return ((bits >> 8).astype(jnp.float32) + 0.5) / 2**24


def normal(secret: UInt32[Array, " 8"], x: Images, size: int) -> Float[Array, "b n"]:
    """Standard normal numbers likewise, none beyond 5.5.

    Example:
        >>> noise = normal(secret_of(jax.random.key(0)), jnp.zeros((1, 2, 2, 3)), 10_000)
        >>> abs(float(noise.mean())) < 0.05, abs(float(noise.std()) - 1) < 0.05
        (True, True)
    """
    return math.sqrt(2) * jax.lax.erf_inv(2 * uniform(secret, x, size) - 1)


def fresh(words: UInt32[Array, " 8"], x: Images, size: int) -> Float[Array, "b n"]:
    """Standard normal numbers likewise, of a key that serves one query: equal images get different ones.

    Args:
        words: of the key; 64 bits, as jax's own have, could be searched.
        x: images, of which only the number counts.
        size: n.

    Example:
        >>> words, x = secret_of(jax.random.key(0)), jnp.zeros((2, 2, 2, 3))
        >>> noise = fresh(words, x, 10_000)
        >>> bool((noise[0] == noise[1]).any()), abs(float(noise.std()) - 1) < 0.05
        (False, True)
    """
    blocks = math.ceil(size / 16)
    bits = chacha20(words, jnp.arange(x.shape[0] * blocks, dtype=jnp.uint32)).reshape(x.shape[0], -1)[:, :size]
    return math.sqrt(2) * jax.lax.erf_inv(2 * _unit(bits) - 1)
