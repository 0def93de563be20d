"""Real handwritten digits in four inks on four papers: the embedded data set, with a known ideal (METHODS 7).

The primary task is the digit. The ink is sensitive, and so is the paper, of which no defence is ever told. In
``digits`` both are drawn independently of the digit, so full utility at chance leakage is attainable. In
``digits-correlated`` the ink agrees with the digit's parity in 80% of drawings, so whoever knows the digit guesses the
ink with probability 0.8 / 2 = 40% (accuracy and balanced accuracy alike): the label-mediated floor below which no
useful release can go.

Originals are the 1,797 8x8 scans that ship inside scikit-learn; they carry no writer, so splits are not disjoint in it.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ani_jax.data import splits
from ani_jax.types import Batch, Data, Images, Labels, PRNGKey, Source, Task

INKS = {
    "crimson": (0.80, 0.05, 0.10),
    "forest": (0.00, 0.45, 0.12),
    "navy": (0.08, 0.12, 0.72),
    "violet": (0.55, 0.08, 0.62),
}
"""Ink name -> RGB; the first two belong to even digits in the correlated set, the last two to odd ones."""
PAPERS = {
    "cream": (1.00, 0.96, 0.72),
    "rose": (1.00, 0.82, 0.84),
    "mint": (0.78, 0.98, 0.82),
    "sky": (0.78, 0.88, 1.00),
}
"""Paper name -> RGB; every ink has a contrast of at least 4 to 1 (WCAG) on every paper."""

DIGIT = Task("digit", ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
INK = Task("ink", tuple(INKS))
PAPER = Task("paper", tuple(PAPERS))

AGREEMENT = 0.8
"""How often the ink agrees with the digit's parity in the correlated set."""
MAX_SHIFT = 1 / 32
"""Largest shift in either direction, as a share of the image's side."""
MAX_TURN = 0.15
"""Largest rotation in either direction, in radians (11.5 degrees)."""
MARGIN = 1 / 16
"""Blank border around a scan, as a share of the image's side, so that no shift pushes a stroke out of the picture."""
SCAN_SIZE, SCAN_MAX = 8, 16

DRAWINGS = {"holdout": 4, "validation": 16, "test": 16}
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
        return _draw(self, key, rows)

    def look(self, key: PRNGKey, label: Labels) -> Look:
        """Draws colours and pose: the ink by the set's law, everything else uniform and independent."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(label.shape[0]))
        # One draw of six numbers: on the CPU every further generator adds to the compilation of a step.
        uniform = jax.vmap(lambda one: jax.random.uniform(one, (6,)))(keys)
        # An agreement of one half is independence: both pairs of inks are then equally likely whatever the digit.
        agrees = uniform[:, 0] < (AGREEMENT if self.correlated else 0.5)
        pair = jnp.where(agrees, label % 2, 1 - label % 2)
        ink = 2 * pair + (uniform[:, 1] < 0.5)
        paper = (PAPER.classes * uniform[:, 2]).astype(jnp.int32)
        pose = 2 * uniform[:, 3:] - 1
        return Look(ink.astype(jnp.int32), paper, MAX_TURN * pose[:, 0], MAX_SHIFT * self.image_size * pose[:, 1:])


def paint(scans: Scans, look: Look) -> Batch:
    """Paints strokes, turned about the centre and then shifted: ``paper * (1 - stroke) + ink * stroke``.

    Args:
        scans: b originals; the picture is as large as their stroke masks.
        look: how each is painted.

    Returns:
        Images ``(b, size, size, 3)`` in [0, 1] with digit, ink, paper and scan number.
    """
    image = tint(_move(scans.stroke, look.turn, look.shift), look.ink, look.paper)
    return Batch(image, scans.label, {INK.name: look.ink, PAPER.name: look.paper}, scans.group)


def tint(stroke: Float[Array, "b h w"], ink: Labels, paper: Labels) -> Images:
    """Colours stroke masks: ``paper * (1 - stroke) + ink * stroke``.

    Args:
        stroke: masks in [0, 1]; 1 is ink.
        ink: index into ``INKS`` of each.
        paper: index into ``PAPERS`` of each.

    Returns:
        Images ``(b, h, w, 3)`` in [0, 1].

    Example:
        >>> blank = tint(jnp.zeros((1, 1, 1)), ink=jnp.array([2]), paper=jnp.array([0]))
        >>> bool(jnp.allclose(blank[0, 0, 0], jnp.array(PAPERS["cream"])))
        True
    """
    mask = stroke[..., None]
    front = _colour(INKS, ink, mask.dtype)[:, None, None, :]
    back = _colour(PAPERS, paper, mask.dtype)[:, None, None, :]
    return jnp.clip(back * (1 - mask) + front * mask, 0, 1)


def load(seed: int = 0, correlated: bool = False, image_size: int = 32) -> Data:
    """The embedded data set, split by scan; a pure function of its arguments.

    ``defend`` and ``auxiliary`` redraw ink, paper, shift and rotation at every use. ``holdout``, ``validation`` and
    ``test`` are drawn once, each scan several times (``DRAWINGS``), all first drawings before all second ones. In the
    independent set their colours are balanced: every test scan appears in each ink and on each paper equally often, paired
    at random. In the correlated set they follow its own law.

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
        (647, 538, (5776, 8, 8, 3))
    """
    if image_size < SCAN_SIZE:
        raise ValueError(f"image_size: {image_size}; allowed: {SCAN_SIZE} pixels (the scans' own size) or more")
    strokes, labels, vault = _scans(image_size)
    scans = Scans(jnp.asarray(strokes), jnp.asarray(labels), jnp.arange(len(labels), dtype=jnp.int32))
    index = splits.split(seed, labels, vault=vault)
    drawing = Drawing(correlated, image_size)
    return Data(
        defend=Source(_take(scans, index["defend"]), drawing),
        auxiliary=Source(_take(scans, index["auxiliary"]), drawing),
        **_draw_fixed(drawing, seed, scans, index),
        name="digits-correlated" if correlated else "digits",
        primary=DIGIT,
        sensitive=(INK, PAPER),
    )


def _take(scans: Scans, index: np.ndarray) -> Scans:
    # By numpy: jax would compile a gather for the size of every split.
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), scans)


def _scans(image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stroke masks ``(1797, size, size)``, enlarged by cubic splines inside a blank border, digits, and who is in the vault."""
    from scipy import ndimage
    from sklearn import datasets

    pixels, labels = map(np.asarray, datasets.load_digits(return_X_y=True))
    border = round(MARGIN * image_size)
    factor = (image_size - 2 * border) / SCAN_SIZE
    small = pixels.reshape(-1, SCAN_SIZE, SCAN_SIZE).astype(np.float32) / SCAN_MAX
    # In grid mode a pixel is a square and not a point, so that the picture is enlarged about its centre.
    large = ndimage.zoom(small, (1, factor, factor), order=3, mode="grid-constant", grid_mode=True)
    strokes = np.pad(np.asarray(large).clip(0, 1), ((0, 0), (border, border), (border, border)))
    vault = splits.locked(scan.astype(np.uint8).tobytes() for scan in pixels)
    return strokes, labels.astype(np.int32), vault


def _draw_fixed(drawing: Drawing, seed: int, scans: Scans, index: dict[str, np.ndarray]) -> dict[str, Batch]:
    """Draws the splits of ``DRAWINGS``; drawing d of a split's scan i lies at ``d * n + i``."""
    # One program for all splits: compiling one for each would take longer than drawing.
    rows = _take(scans, np.concatenate([np.tile(index[name], count) for name, count in DRAWINGS.items()]))
    colours: list[Labels] = []
    if not drawing.correlated:
        rng = np.random.default_rng(seed)
        for task in (INK, PAPER):
            dealt = []
            for name, count in DRAWINGS.items():
                size = len(index[name])
                # Successive random permutations of the classes, dealt along the scans: where a scan is drawn as often as there
                # are classes it meets each of them once, and otherwise the totals still differ by at most one.
                decks = np.tile(np.arange(task.classes, dtype=np.int32), (-(-size * count // task.classes), 1))
                dealt.append(rng.permuted(decks, axis=1).reshape(-1)[: size * count].reshape(size, count).T.reshape(-1))
            colours.append(jnp.asarray(np.concatenate(dealt)))
    drawn = jax.tree.map(np.asarray, _draw(drawing, jax.random.key(seed), rows, *colours))
    found, start = {}, 0
    for name, count in DRAWINGS.items():
        end = start + len(index[name]) * count
        found[name] = jax.tree.map(lambda leaf, own=slice(start, end): jnp.asarray(leaf[own]), drawn)
        start = end
    return found


@functools.partial(jax.jit, static_argnums=0)
def _draw(drawing: Drawing, key: PRNGKey, rows: Scans, ink: Labels | None = None, paper: Labels | None = None) -> Batch:
    """Draws each row once, in the given colours where there are any; compiled, so that it is fast outside jit too."""
    look = drawing.look(key, rows.label)
    return paint(rows, look if ink is None or paper is None else look._replace(ink=ink, paper=paper))


# The two products below are dots for speed: XLA's CPU compiler fuses element-wise code into its consumers, and would
# draw the random numbers anew for every pixel (5.7 ms for 128 pictures against 1.7).


def _colour(palette: dict[str, tuple[float, float, float]], index: Labels, dtype: jnp.dtype) -> Float[Array, "b 3"]:
    """RGB of each index: exact, because every product but one is zero."""
    chosen = jax.nn.one_hot(index, len(palette), dtype=dtype)
    return jnp.matmul(chosen, jnp.asarray(list(palette.values()), dtype), precision=jax.lax.Precision.HIGHEST)


def _move(
    stroke: Float[Array, "b size size"], turn: Float[Array, " b"], shift: Float[Array, "b 2"]
) -> Float[Array, "b size size"]:
    """Turns each mask about its centre, then shifts it: one bilinear gather, blank outside."""
    batch, size, _ = stroke.shape
    # Where each pixel of the moved picture comes from, as (row, column): shifted back, then turned back.
    centre = (size - 1) / 2
    axis = jnp.arange(size, dtype=turn.dtype) - centre
    down, right = jnp.meshgrid(axis, axis, indexing="ij")
    pixels = jnp.stack([down.ravel(), right.ravel(), jnp.ones(size * size, turn.dtype)])
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    back = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], 1)
    offset = centre - (back * shift[:, None, :]).sum(-1)
    affine = jnp.concatenate([back, offset[..., None]], -1)
    sources = jnp.einsum("bij,jp->ibp", affine, pixels, precision=jax.lax.Precision.HIGHEST)
    # With a blank frame of one pixel, a coordinate clipped to the frame reads blank: no mask is needed.
    y, x = jnp.clip(sources + 1, 0, size + 0.999)
    framed = jnp.pad(stroke, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    width = size + 2
    top, left = jnp.floor(y), jnp.floor(x)
    corner = (top * width + left).astype(jnp.int32) + (jnp.arange(batch) * width**2)[:, None]

    def at(step: int) -> Float[Array, "b pixels"]:
        return framed.at[corner + step].get(mode="promise_in_bounds")

    y, x = y - top, x - left
    above = at(0) * (1 - x) + at(1) * x
    below = at(width) * (1 - x) + at(width + 1) * x
    return (above * (1 - y) + below * y).reshape(stroke.shape)
