import dataclasses
import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.data import digits, splits

INDEPENDENT = digits.Drawing(correlated=False, image_size=32)


@pytest.fixture(scope="module")
def data():
    return digits.load()


@pytest.fixture(scope="module")
def correlated():
    return digits.load(correlated=True)


@pytest.fixture(scope="module")
def many_labels():
    return jnp.arange(20_000, dtype=jnp.int32) % 10


def fingerprint(tree):
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))).hexdigest()


def one_scan(stroke):
    return digits.Scans(jnp.asarray(stroke)[None], jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))


def still(ink=0, paper=0, turn=0.0, shift=(0.0, 0.0)):
    return digits.Look(jnp.array([ink]), jnp.array([paper]), jnp.array([turn]), jnp.array([shift]))


def test_names_tasks_and_sizes(data, correlated):
    assert (data.name, correlated.name) == ("digits", "digits-correlated")
    assert data.primary.classes == 10
    assert [(task.name, task.classes) for task in data.sensitive] == [("ink", 4), ("paper", 4)]
    scans = data.defend.size + data.auxiliary.size + sum(len(np.unique(split.group)) for split in fixed_splits(data))
    assert scans == 1797
    assert data.test.image.shape == (16 * 361, 32, 32, 3)


def fixed_splits(data):
    return data.holdout, data.validation, data.test


def test_the_seed_decides_everything(data):
    assert fingerprint(digits.load()) == fingerprint(data)
    other = digits.load(seed=1)
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, data)
    assert fingerprint(other.defend) != fingerprint(data.defend)
    assert fingerprint(other.test) != fingerprint(data.test)


def test_no_scan_is_in_two_splits_and_labels_belong_to_their_scans(data):
    from sklearn import datasets

    target = datasets.load_digits().target
    every = [data.defend.stored, data.auxiliary.stored, *fixed_splits(data)]
    groups = [set(np.asarray(split.group).tolist()) for split in every]
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 1797
    for split in every:
        assert np.array_equal(np.asarray(split.label), target[np.asarray(split.group)])
        share = np.bincount(split.label, minlength=10) / len(split.label)
        assert np.all(np.abs(share - 0.1) < 0.03)


def test_pixels_are_float32_in_the_unit_interval_and_use_it(data):
    drawn = data.defend.draw(jax.random.key(0), 128)
    for image in (drawn.image, *(split.image for split in fixed_splits(data))):
        assert image.dtype == jnp.float32
        assert 0 <= float(image.min()) < 0.1
        assert 0.9 < float(image.max()) <= 1


@pytest.mark.parametrize("attribute", ["ink", "paper"])
def test_every_test_scan_meets_every_ink_and_every_paper_equally_often(data, attribute):
    order = np.argsort(np.asarray(data.test.group), kind="stable")
    values = np.asarray(data.test.sensitive[attribute])[order].reshape(-1, 16)
    assert np.array_equal(np.sort(values, axis=1), np.tile(np.repeat(np.arange(4), 4), (len(values), 1)))


def test_fixed_colours_are_balanced_and_paired_at_random(data):
    for split in fixed_splits(data):
        for values in split.sensitive.values():
            counts = np.bincount(values, minlength=4)
            assert counts.max() - counts.min() <= 1
    pairs = np.bincount(4 * data.test.sensitive["ink"] + data.test.sensitive["paper"], minlength=16)
    expected = len(data.test.label) / 16
    assert np.all(np.abs(pairs - expected) < 5 * np.sqrt(expected))


def test_the_first_drawings_are_of_different_scans(data):
    assert len(np.unique(data.test.group[:361])) == 361


@pytest.mark.parametrize("load", [digits.load, functools.partial(digits.load, correlated=True)])
def test_reports_share_their_vault_and_practice_never_sees_it(data, load):
    vault = set(np.asarray(data.test.group).tolist())
    assert set(np.asarray(load(seed=7, image_size=8).test.group).tolist()) == vault
    practice = load(seed=splits.PRACTICE, image_size=8)
    for split in (practice.defend.stored, practice.auxiliary.stored, *fixed_splits(practice)):
        assert not vault & set(np.asarray(split.group).tolist())


def test_ink_and_paper_are_independent_of_the_digit_and_of_each_other(many_labels):
    look = INDEPENDENT.look(jax.random.key(0), many_labels)
    for first, second, classes in (
        (many_labels, look.ink, 10),
        (many_labels, look.paper, 10),
        (look.ink, look.paper, 4),
    ):
        table = np.bincount(4 * first + second, minlength=4 * classes) / len(many_labels)
        # Five standard errors of a cell's frequency.
        expected = 1 / (4 * classes)
        assert np.all(np.abs(table - expected) < 5 * np.sqrt(expected / len(many_labels)))


def test_correlated_ink_agrees_with_parity_in_four_of_five(many_labels):
    look = digits.Drawing(correlated=True, image_size=32).look(jax.random.key(0), many_labels)
    agrees = np.asarray(look.ink // 2 == many_labels % 2)
    assert abs(agrees.mean() - 0.8) < 5 * np.sqrt(0.16 / len(agrees))
    assert abs(np.mean(look.ink % 2) - 0.5) < 5 * np.sqrt(0.25 / len(agrees))
    even = np.bincount(look.ink[many_labels % 2 == 0], minlength=4) / 10_000
    assert np.all(np.abs(even - np.array([0.4, 0.4, 0.1, 0.1])) < 0.02)
    paper = np.bincount(look.paper, minlength=4) / len(agrees)
    assert np.all(np.abs(paper - 0.25) < 0.016)


def test_correlated_fixed_splits_follow_the_same_law(correlated):
    agrees = np.asarray(correlated.test.sensitive["ink"] // 2 == correlated.test.label % 2)
    assert abs(agrees.mean() - 0.8) < 5 * np.sqrt(0.16 / len(agrees))


def test_drawings_differ_across_keys_and_examples_and_depend_on_nothing_else(data):
    index = jnp.zeros(8, jnp.int32)
    draw = jax.jit(lambda source, key, index: source.batch(key, index))
    batch, other = (draw(data.defend, jax.random.key(seed), index) for seed in (0, 1))
    flat = np.asarray(batch.image).reshape(8, -1)
    assert len(np.unique(flat, axis=0)) == 8
    assert not np.array_equal(batch.image, other.image)
    longer = draw(data.defend, jax.random.key(0), jnp.concatenate([index, jnp.arange(8)]))
    np.testing.assert_allclose(longer.image[:8], batch.image, atol=1e-5)
    assert np.array_equal(longer.sensitive["ink"][:8], batch.sensitive["ink"])


def test_jit_draws_the_same(data):
    index = jnp.arange(8)
    eager = data.defend.batch(jax.random.key(2), index)
    jitted = jax.jit(lambda source, key: source.batch(key, index))(data.defend, jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eager, jitted)


def test_an_unmoved_scan_is_painted_by_the_formula(data):
    stroke = data.defend.stored.stroke[0]
    batch = digits.paint(one_scan(stroke), still(ink=2, paper=1))
    ink, paper = np.array(digits.INKS["navy"]), np.array(digits.PAPERS["rose"])
    mask = np.asarray(stroke)[..., None]
    np.testing.assert_allclose(batch.image[0], paper * (1 - mask) + ink * mask, atol=1e-5)


def test_a_shift_moves_down_and_right_and_a_turn_agrees_with_scipy(data):
    from scipy import ndimage

    stroke = np.asarray(data.defend.stored.stroke[0])
    moved = digits._move(jnp.asarray(stroke)[None], jnp.zeros(1), jnp.array([[2.0, -1.0]]))[0]
    np.testing.assert_allclose(moved, np.pad(stroke, 2)[:-4, 3:-1], atol=1e-5)
    turned = digits._move(jnp.asarray(stroke)[None], jnp.array([0.15]), jnp.array([[0.6, -0.3]]))[0]
    back = np.array([[np.cos(0.15), -np.sin(0.15)], [np.sin(0.15), np.cos(0.15)]])
    offset = 15.5 - back @ (np.array([0.6, -0.3]) + 15.5)
    expected = ndimage.affine_transform(stroke, back, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(turned, expected, atol=1e-4)


def test_a_mask_turned_out_of_the_picture_leaves_paper():
    gone = digits.paint(one_scan(jnp.ones((8, 8))), still(paper=3, shift=(20.0, 0.0)))
    np.testing.assert_allclose(gone.image, np.broadcast_to(digits.PAPERS["sky"], (1, 8, 8, 3)), atol=1e-6)


def test_the_pose_stays_within_its_bounds_and_reaches_them(many_labels):
    look = INDEPENDENT.look(jax.random.key(1), many_labels)
    for values, bound in ((look.turn, digits.MAX_TURN), (look.shift, 32 * digits.MAX_SHIFT)):
        assert np.all(np.abs(values) <= bound)
        assert float(values.max()) > 0.99 * bound
        assert float(values.min()) < -0.99 * bound


def luminance(colour):
    linear = np.where(
        np.array(colour) <= 0.03928, np.array(colour) / 12.92, ((np.array(colour) + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def test_every_ink_is_legible_on_every_paper_and_colours_are_distinct():
    for ink in digits.INKS.values():
        for paper in digits.PAPERS.values():
            assert (luminance(paper) + 0.05) / (luminance(ink) + 0.05) > 4
    for palette, apart in ((digits.INKS, 0.4), (digits.PAPERS, 0.15)):
        colours = np.array(list(palette.values()))
        distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
        assert distance[np.triu_indices(4, 1)].min() > apart


def test_the_scan_survives_the_upscaling(data):
    from sklearn import datasets

    raw = datasets.load_digits().images[np.asarray(data.defend.stored.group)] / 16
    inner = np.asarray(data.defend.stored.stroke)[:, 2:-2, 2:-2]
    stride = inner.reshape(len(inner), 4, 7, 4, 7).mean((2, 4))
    coarse = raw.reshape(len(raw), 4, 2, 4, 2).mean((2, 4))
    assert np.corrcoef(stride.ravel(), coarse.ravel())[0, 1] > 0.98


def test_drawing_is_hashable_and_compiles_once_for_equal_splits():
    assert hash(INDEPENDENT) == hash(dataclasses.replace(INDEPENDENT))
    assert digits.Drawing(True, 32) != INDEPENDENT


@pytest.mark.parametrize("image_size", [8, 17, 28])
def test_other_sizes(image_size):
    strokes, labels, _ = digits._scans(image_size)
    assert strokes.shape == (1797, image_size, image_size)
    assert strokes.dtype == np.float32
    assert np.bincount(labels).shape == (10,)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"image_size: 7; allowed: 8 pixels"):
        digits.load(image_size=7)
    with pytest.raises(ValueError, match=r"seed: -1; allowed"):
        digits.load(seed=-1)
