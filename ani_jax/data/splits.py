"""Who may see which original: a vault that is the same for every seed, and four seeded splits of the rest.

``test`` is the vault: the originals (the identities, where the data has them) in the lowest fifth of a salted SHA-256 of what
is stored, whatever the task, the order of rows, the pictures' size or how many are read. So no seed, and nothing that was tuned
at another one, has trained on what any seed reports. Whatever is tuned uses seeds of ``PRACTICE`` and above, which never see the
vault: their ``test`` is dealt from the rest. (Measured where ``test`` was dealt anew by every seed: 27% of a later seed's test
originals lay in the tuning seeds' validation.)

The fractions are constants on purpose: shrinking ``auxiliary`` would buy privacy that no defence earned (METHODS 1).
"""

import hashlib
import math
from collections.abc import Iterable
from types import MappingProxyType

import numpy as np

DEFEND, AUXILIARY, VALIDATION, TEST = 0.40, 0.30, 0.10, 0.20
HELD_OUT = 0.10
"""The share of ``defend`` that is kept for the utility budget."""
PRACTICE = 100
"""Seeds from this one on are for tuning; reports use smaller ones."""
SALT = b"ani_jax vault"

FRACTIONS = MappingProxyType(
    {
        "defend": DEFEND * (1 - HELD_OUT),
        "holdout": DEFEND * HELD_OUT,
        "auxiliary": AUXILIARY,
        "validation": VALIDATION,
        "test": TEST,
    }
)
"""Split name -> its share of the originals, in the order in which they are dealt."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def locked(content: Iterable[bytes]) -> np.ndarray:
    """Which originals lie in the vault, each by its own content alone.

    Args:
        content: of each original, or the name of the identity that it shows.

    Returns:
        ``(n,)`` of bool, about a fifth of them true.

    Example:
        >>> int(locked(str(number).encode() for number in range(1000)).sum())
        195
    """
    # Eight bytes of the digest, as a share of the largest number that they write.
    heads = (hashlib.sha256(SALT + one).digest()[:8] for one in content)
    return np.array([int.from_bytes(head, "big") < TEST * 2**64 for head in heads], dtype=bool)


def split(
    seed: int, labels: np.ndarray, groups: np.ndarray | None = None, vault: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Deals every original to one of the splits of ``FRACTIONS``.

    What is not in the vault is dealt by seed, stratified by label: the groups of one label are shuffled and laid end to end;
    split k owns the stretch of the line between the cumulated fractions, and a group goes where its middle lies. So without
    groups each label's count in each split is its fair share rounded up or down, and with groups it is off by at most the
    largest group plus one. Without groups the sizes depend on the labels and the vault only, not on the seed, so that jitted
    code compiles once for all seeds. (METHODS 1.)

    Args:
        seed: 0 or more; another seed gives another split. From ``PRACTICE`` on the vault is left out altogether, and ``test``
            is dealt like the rest.
        labels: ``(n,)`` integers, the primary class of each original.
        groups: ``(n,)`` identities that must not straddle two splits, of any sortable type; ``None`` means that every
            original is its own. A group of several labels counts under its most frequent one (the smallest of equals).
            The split of a group depends on neither the order of the rows nor that of the groups.
        vault: ``(n,)`` of bool, see :func:`locked`; a group of which any original is locked is. ``None`` locks nothing, and
            ``test`` is dealt at every seed.

    Returns:
        Split name -> increasing indices into ``labels``; disjoint, and together all of them, but for a vault that is left out.

    Raises:
        ValueError: for a negative seed, wrong shapes or types, or so few originals that a split would be empty.

    Example:
        >>> {name: len(index) for name, index in split(0, np.arange(200) % 2).items()}
        {'defend': 72, 'holdout': 8, 'auxiliary': 60, 'validation': 20, 'test': 40}
        >>> {name: len(index) for name, index in split(0, np.arange(200) % 2, vault=np.arange(200) < 50).items()}
        {'defend': 67, 'holdout': 8, 'auxiliary': 56, 'validation': 19, 'test': 50}
    """
    labels = np.asarray(labels)
    if seed < 0:
        raise ValueError(f"seed: {seed}; allowed: an integer of 0 or more")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: shape {labels.shape} of {labels.dtype}; allowed: one dimension of integers")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    vault = np.zeros(len(labels), bool) if vault is None else np.asarray(vault)
    for name, values in (("groups", groups), ("vault", vault)):
        if values.shape != labels.shape:
            raise ValueError(f"{name}: shape {values.shape}; allowed: that of labels, {labels.shape}")
    rng = np.random.default_rng(seed)
    # unique sorts: which split a group gets depends on its name, and neither on the order of rows nor on that of groups.
    names, owner, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    strata = _majority_label(labels, owner, len(names))
    inside = np.bincount(owner, vault, len(names)) > 0
    # Reports take the vault for their test; in practice, and where nothing is locked, test is dealt like the rest.
    shares = dict(FRACTIONS)
    if inside.any() and seed < PRACTICE:
        del shares["test"]
    ends = np.cumsum(list(shares.values())) / sum(shares.values())
    number = np.full(len(names), len(FRACTIONS) if seed >= PRACTICE else list(FRACTIONS).index("test"))
    for position, stratum in enumerate(np.unique(strata)):
        line = rng.permutation(np.flatnonzero((strata == stratum) & ~inside))
        # A shift that spreads over [0, 1) from label to label keeps the rounding of many small labels from adding up.
        shift = (0.5 + position * _GOLDEN) % 1.0
        middles = np.cumsum(sizes[line]) - sizes[line] / 2
        number[line] = np.searchsorted(sizes[line].sum() * ends[:-1] + shift - 0.5, middles, side="left")
    dealt = {name: np.flatnonzero(number[owner] == k) for k, name in enumerate(FRACTIONS)}
    empty = [name for name, index in dealt.items() if not len(index)]
    if empty:
        raise ValueError(
            f"labels: {len(labels)} originals in {len(names)} groups are too few, {empty[0]!r} would be empty; "
            f"every one of the splits {', '.join(FRACTIONS)} needs at least one"
        )
    return dealt


def _majority_label(labels: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Most frequent label of each group, the smallest of equals, as ``(count,)``."""
    pairs, votes = np.unique(np.stack([owner, labels]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], votes, pairs[0]))
    majority = np.empty(count, dtype=labels.dtype)
    # The last write of a group wins: most votes, then the smallest label.
    majority[pairs[0][order]] = pairs[1][order]
    return majority
