"""Real handwritten digits in four inks on four papers: the embedded data set, with a known ideal (METHODS 7).

The primary task is the digit. The ink is sensitive, and so is the paper, of which no defence is ever told. In ``digits``
both are drawn independently of the digit, so full utility at chance leakage is attainable. In ``digits-correlated`` the
ink agrees with the digit's parity in 80% of drawings, so whoever knows the digit guesses the ink with probability
0.8 / 2 = 40% (accuracy and balanced accuracy alike): the label-mediated floor below which no useful release can go.

Originals are the 1,797 8x8 scans that ship inside scikit-learn; they carry no writer, so splits are not writer-disjoint.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ani_jax.data import splits
from ani_jax.types import Batch, Data, Images, Labels, PRNGKey, Source, Task

INKS = {"crimson": (0.80, 0.05, 0.10), "forest": (0.00, 0.45, 0.12), "navy": (0.08, 0.12, 0.72), "violet": (0.55, 0.08, 0.62)}
"""Ink name -> RGB; the first two belong to even digits in the correlated set, the last two to odd ones."""
PAPERS = {"cream": (1.00, 0.96, 0.72), "rose": (1.00, 0.82, 0.84), "mint": (0.78, 0.98, 0.82), "sky": (0.78, 0.88, 1.00)}
"""Paper name -> RGB; every ink has a contrast of at least 4 to 1 (WCAG) on every paper."""

DIGIT = Task("digit", ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
INK = Task("ink", tuple(INKS))
PAPER = Task("paper", tuple(PAPERS))

AGREEMENT = 0.8
"""How often the ink agrees with the digit's parity in the correlated set."""
MAX_SHIFT = 1 / 16
"""Largest shift in either direction, as a part of the image's side."""
MAX_TURN = 0.2
"""Largest rotation in either direction, in radians (11.5 degrees)."""
MARGIN = 3 / 32
"""Blank border around a scan, as a part of the image's side, so that no shift pushes a stroke out of the picture."""
SCAN_SIZE, SCAN_MAX = 8, 16

DRAWINGS = {"budget": 4, "validation": 2, "test": 4}
"""How often each scan is drawn in the splits that are drawn once and for all."""


class Scans(NamedTuple):
    """Originals: grey stroke masks in [0, 1] (1 is ink), the digit, and the scan's number."""

    stroke: Float[Array, "n size size"]
    label: Labels
    group: Labels


class Look(NamedTuple):
    """How each of b drawings is made: colours as indices, the turn in radians, the shift (down, right) in pixels."""

    ink: Labels
    paper: Labels
    turn: Float[Array, " b"]
    shift: Float[Array, "b 2"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The ``render`` of a split of digits: draws colours and pose of every example anew and paints it.

    Example ``i`` of a batch depends on ``fold_in(key, i)`` and its row only, never on the batch around it.

    Attributes:
        correlated: whether the ink agrees with the digit's parity in 80% of drawings; otherwise it is independent.
        image_size: side of the picture in pixels.

    Example:
        >>> scans = Scans(jnp.zeros((2, 16, 16)), jnp.array([3, 4]), jnp.array([0, 1]))
        >>> batch = Drawing(correlated=False, image_size=16)(jax.random.key(0), scans)
        >>> batch.image.shape, sorted(batch.sensitive)
        ((2, 16, 16, 3), ['ink', 'paper'])
    """

    correlated: bool
    image_size: int

    def __call__(self, key: PRNGKey, rows: Scans) -> Batch:
        """Draws each scan in ``rows`` once."""
        return paint(rows, self.look(key, rows.label))

    def look(self, key: PRNGKey, label: Labels) -> Look:
        """Draws colours and pose: the ink by the set's law, everything else uniform and independent."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(label.shape[0]))
        uniform = jax.vmap(lambda one: jax.random.uniform(one, (6,)))(keys)
        # An agreement of one half is independence: both pairs of inks are then equally likely whatever the digit.
        agrees = uniform[:, 0] < (AGREEMENT if self.correlated else 0.5)
        pair = jnp.where(agrees, label % 2, 1 - label % 2)
        ink = 2 * pair + (uniform[:, 1] < 0.5)
        paper = (PAPER.classes * uniform[:, 2]).astype(jnp.int32)
        pose = 2 * uniform[:, 3:] - 1
        return Look(ink.astype(jnp.int32), paper, MAX_TURN * pose[:, 0], MAX_SHIFT * self.image_size * pose[:, 1:])


def paint(scans: Scans, look: Look) -> Batch:
    """Paints strokes onto paper: ``paper * (1 - stroke) + ink * stroke``, the stroke turned about the centre and shifted.

    Args:
        scans: b originals; the picture is as large as their stroke masks.
        look: how each is painted.

    Returns:
        Images ``(b, size, size, 3)`` in [0, 1] with digit, ink, paper and scan number.
    """
    stroke = _move(scans.stroke, look.turn, look.shift)[..., None]
    dtype = stroke.dtype
    ink = jnp.asarray(list(INKS.values()), dtype)[look.ink][:, None, None, :]
    paper = jnp.asarray(list(PAPERS.values()), dtype)[look.paper][:, None, None, :]
    image = paper * (1 - stroke) + ink * stroke
    return Batch(image, scans.label, {INK.name: look.ink, PAPER.name: look.paper}, scans.group)


def load(seed: int = 0, correlated: bool = False, image_size: int = 32) -> Data:
    """The embedded data set, split by scan; a pure function of its arguments.

    ``defend`` and ``auxiliary`` redraw ink, paper, shift and rotation at every use. ``budget``, ``validation`` and ``test``
    are drawn once, each scan several times (``DRAWINGS``), all first drawings before all second ones. In the independent
    set their colours are balanced: every test scan appears in each ink and on each paper exactly once, paired at random.
    In the correlated set they follow its own law.

    Args:
        seed: decides splits and fixed drawings; 0 or more.
        correlated: whether the ink agrees with the digit's parity in 80% of drawings.
        image_size: side of the pictures in pixels, 8 or more.

    Returns:
        Data named ``digits`` or ``digits-correlated``; ``group`` is the scan's number, 0 to 1,796.

    Raises:
        ValueError: for a negative seed or too small a picture.

    Example:
        >>> data = load(image_size=8)
        >>> data.defend.size, data.auxiliary.size, data.test.image.shape
        (647, 539, (1436, 8, 8, 3))
    """
    if image_size < SCAN_SIZE:
        raise ValueError(f"image_size: {image_size}; allowed: {SCAN_SIZE} pixels (the scans' own size) or more")
    scans = _scans(image_size)
    # No shorter route to equal scans: the split deals equal scans together, should two ever be equal.
    parts = {name: jax.tree.map(lambda leaf, i=index: jnp.asarray(leaf[i]), scans)
             for name, index in splits.split(seed, scans.label).items()}
    drawing = Drawing(correlated, image_size)
    keys = dict(zip(DRAWINGS, jax.random.split(jax.random.key(seed), len(DRAWINGS))))
    drawn = {name: _draw_fixed(drawing, keys[name], parts[name], count) for name, count in DRAWINGS.items()}
    return Data(
        defend=Source(parts["defend"], drawing),
        auxiliary=Source(parts["auxiliary"], drawing),
        **drawn,
        name="digits-correlated" if correlated else "digits",
        primary=DIGIT,
        sensitive=(INK, PAPER),
    )


def _scans(image_size: int) -> Scans:
    from sklearn import datasets

    raw = datasets.load_digits()
    inner = image_size - 2 * round(MARGIN * image_size)
    small = jnp.asarray(raw.images, jnp.float32) / SCAN_MAX
    large = jax.image.resize(small, (small.shape[0], inner, inner), "cubic").clip(0, 1)
    border = (image_size - inner) // 2
    stroke = np.pad(np.asarray(large), ((0, 0), (border, border), (border, border)))
    return Scans(stroke, raw.target.astype(np.int32), np.arange(len(stroke), dtype=np.int32))


def _draw_fixed(drawing: Drawing, key: PRNGKey, scans: Scans, count: int) -> Batch:
    """Draws each scan ``count`` times; drawing d of scan i lies at ``d * n + i``."""
    look_key, ink_key, paper_key = jax.random.split(key, 3)
    size = scans.label.shape[0]
    rows = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * count), scans)
    look = drawing.look(look_key, rows.label)
    if not drawing.correlated:
        look = look._replace(
            ink=_balanced(ink_key, size, count, INK.classes), paper=_balanced(paper_key, size, count, PAPER.classes)
        )
    return paint(rows, look)


def _balanced(key: PRNGKey, size: int, count: int, classes: int) -> Int[Array, " n"]:
    """Classes for ``count`` drawings of each scan: successive random permutations dealt along the scans.

    With ``count == classes`` every scan meets every class once; otherwise the totals still differ by at most one.
    """
    decks = -(-size * count // classes)
    dealt = jax.random.permutation(key, jnp.tile(jnp.arange(classes), (decks, 1)), axis=1, independent=True)
    return dealt.reshape(-1)[: size * count].reshape(size, count).T.reshape(-1)


def _move(
    stroke: Float[Array, "b size size"], turn: Float[Array, " b"], shift: Float[Array, "b 2"]
) -> Float[Array, "b size size"]:
    """Turns each mask about its centre, then shifts it: one bilinear gather, blank outside."""
    batch, size, _ = stroke.shape
    centre = (size - 1) / 2
    axis = jnp.arange(size, dtype=stroke.dtype) - centre
    down = axis[None, :, None] - shift[:, 0, None, None]
    right = axis[None, None, :] - shift[:, 1, None, None]
    cos, sin = jnp.cos(turn)[:, None, None], jnp.sin(turn)[:, None, None]
    # With a blank frame of one pixel, every coordinate clipped to the frame reads blank: no mask is needed.
    y = jnp.clip(cos * down - sin * right + centre + 1, 0, size + 0.999)
    x = jnp.clip(sin * down + cos * right + centre + 1, 0, size + 0.999)
    top, left = jnp.floor(y), jnp.floor(x)
    framed = jnp.pad(stroke, ((0, 0), (1, 1), (1, 1))).reshape(batch, -1)
    corner = (top * (size + 2) + left).astype(jnp.int32).reshape(batch, -1)
    offsets = (0, 1, size + 2, size + 3)
    corners = [jnp.take_along_axis(framed, corner + o, axis=1).reshape(stroke.shape) for o in offsets]
    y, x = y - top, x - left
    above = corners[0] * (1 - x) + corners[1] * x
    below = corners[2] * (1 - x) + corners[3] * x
    return above * (1 - y) + below * y
