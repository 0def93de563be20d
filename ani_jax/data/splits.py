"""Who may see which original: five disjoint splits, seeded, stratified by label and never dividing an identity.

The fractions are constants on purpose: shrinking ``auxiliary`` would buy privacy that no defence earned (METHODS 1).
"""

import math
from types import MappingProxyType

import numpy as np

DEFEND, AUXILIARY, VALIDATION, TEST = 0.40, 0.30, 0.10, 0.20
HELD_OUT = 0.10
"""The share of ``defend`` that is kept for the utility budget."""

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


def split(seed: int, labels: np.ndarray, groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Deals every original to one of the splits of ``FRACTIONS``.

    The groups of one label are shuffled and laid end to end; split k owns the stretch of the line between the cumulated
    fractions, and a group goes where its middle lies. So without groups each label's count in each split is its fair
    share rounded up or down, and with groups it is off by at most the largest group plus one. Without groups the sizes
    depend on the labels only, not on the seed, so that jitted code compiles once for all seeds. (METHODS 1.)

    Args:
        seed: 0 or more; another seed gives another split.
        labels: ``(n,)`` integers, the primary class of each original.
        groups: ``(n,)`` identities that must not straddle two splits, of any sortable type; ``None`` means that every
            original is its own. A group of several labels counts under its most frequent one (the smallest of equals).
            The split of a group depends on neither the order of the rows nor that of the groups.

    Returns:
        Split name -> increasing indices into ``labels``; disjoint, and together all of them.

    Raises:
        ValueError: for a negative seed, wrong shapes or types, or so few originals that a split would be empty.

    Example:
        >>> {name: len(index) for name, index in split(0, np.arange(200) % 2).items()}
        {'defend': 72, 'holdout': 8, 'auxiliary': 60, 'validation': 20, 'test': 40}
    """
    labels = np.asarray(labels)
    if seed < 0:
        raise ValueError(f"seed: {seed}; allowed: an integer of 0 or more")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: shape {labels.shape} of {labels.dtype}; allowed: one dimension of integers")
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups: shape {groups.shape}; allowed: that of labels, {labels.shape}")
    rng = np.random.default_rng(seed)
    # unique sorts: which split a group gets depends on its name, and neither on the order of rows nor on that of groups.
    names, owner, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    strata = _majority_label(labels, owner, len(names))
    number = np.empty(len(names), dtype=np.int64)
    for position, stratum in enumerate(np.unique(strata)):
        line = rng.permutation(np.flatnonzero(strata == stratum))
        # A shift that spreads over [0, 1) from label to label keeps the rounding of many small labels from adding up.
        shift = (0.5 + position * _GOLDEN) % 1.0
        ends = sizes[line].sum() * np.cumsum(list(FRACTIONS.values()))[:-1] + shift - 0.5
        middles = np.cumsum(sizes[line]) - sizes[line] / 2
        number[line] = np.searchsorted(ends, middles, side="left")
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
