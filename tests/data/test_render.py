import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.data import digits
from ani_jax.data.render import Augmented, Chosen, Painted, Pictures, Plain, choose


@pytest.fixture
def grey():
    pixels = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 1), dtype=np.uint8)
    return Pictures(jnp.asarray(pixels), {"kind": jnp.arange(400) % 3, "size": jnp.arange(400) % 2}, jnp.arange(400))


def test_plain_divides_by_255_and_ignores_the_key(grey):
    batch = Plain("kind", ("size",))(jax.random.key(0), grey)
    np.testing.assert_allclose(batch.image, np.repeat(np.asarray(grey.image) / 255, 3, axis=-1), rtol=1e-6)
    assert batch.image.dtype == jnp.float32
    assert np.array_equal(batch.label, grey.classes["kind"])
    assert list(batch.sensitive) == ["size"]
    assert np.array_equal(Plain("kind", ())(jax.random.key(1), grey).image, batch.image)
    colour = grey._replace(image=jnp.concatenate([grey.image, 255 - grey.image, grey.image], -1))
    np.testing.assert_allclose(
        Plain("kind", ())(jax.random.key(0), colour).image[..., 1], 1 - batch.image[..., 0], atol=1e-6
    )


def test_painted_follows_the_formula_with_the_colours_that_it_reports(grey):
    batch = Painted("kind", ("ink", "paper"))(jax.random.key(0), grey)
    stroke = np.asarray(grey.image) / 255
    inks, papers = (np.array(list(palette.values()))[:, None, None, :] for palette in (digits.INKS, digits.PAPERS))
    ink, paper = inks[np.asarray(batch.sensitive["ink"])], papers[np.asarray(batch.sensitive["paper"])]
    np.testing.assert_allclose(batch.image, paper * (1 - stroke) + ink * stroke, atol=1e-5)


def test_painted_colours_are_uniform_and_independent_of_everything(grey):
    render = jax.jit(Painted("kind", ("ink", "paper")))
    batches = [render(jax.random.key(seed), grey) for seed in range(20)]
    ink, paper, kind = (
        np.concatenate([np.asarray(part) for part in parts])
        for parts in zip(*((b.sensitive["ink"], b.sensitive["paper"], b.label) for b in batches))
    )
    for table in (4 * ink + paper, 4 * kind + ink, 4 * kind + paper):
        counts = np.bincount(table)
        expected = len(ink) / len(counts)
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_a_drawn_colour_may_be_the_task(grey):
    batch = Painted("ink", ("kind",))(jax.random.key(0), grey)
    assert np.array_equal(batch.label, Painted("kind", ("ink",))(jax.random.key(0), grey).sensitive["ink"])


def test_example_i_depends_on_its_place_and_row_only(grey):
    for render in (Painted("kind", ("ink",)), Augmented(Painted("kind", ("ink",)), ("flip", "jitter"))):
        whole = render(jax.random.key(4), grey)
        part = render(jax.random.key(4), jax.tree.map(lambda leaf: leaf[:7], grey))
        np.testing.assert_allclose(part.image, whole.image[:7], atol=1e-6)
        assert np.array_equal(part.sensitive["ink"], whole.sensitive["ink"][:7])


def test_augmented_changes_pictures_and_nothing_else(grey):
    plain, other = Plain("kind", ("size",)), Augmented(Plain("kind", ("size",)), ("crop",))
    before, after = (render(jax.random.key(0), grey) for render in (plain, other))
    assert not np.array_equal(before.image, after.image)
    for leaf, same in zip(jax.tree.leaves(before)[1:], jax.tree.leaves(after)[1:]):
        assert np.array_equal(leaf, same)


def test_renderings_are_hashable_and_equal_for_equal_meaning():
    assert hash(Painted("a", ("b",))) == hash(Painted("a", ("b",)))
    assert (
        len({Plain("a", ()), Painted("a", ()), Chosen(Plain("a", ()), "a", "b", ()), Augmented(Plain("a", ()), ())})
        == 4
    )


def test_choosing_renames_every_split(key):
    data = digits.load(image_size=8)
    chosen = choose(data, "ink", ("digit", "paper"))
    assert (chosen.primary, chosen.sensitive) == (digits.INK, (digits.DIGIT, digits.PAPER))
    for part, former in (
        (chosen.test, data.test),
        (chosen.validation, data.validation),
        (chosen.holdout, data.holdout),
    ):
        assert np.array_equal(part.label, former.sensitive["ink"])
        assert np.array_equal(part.sensitive["digit"], former.label)
        assert np.array_equal(part.image, former.image)
    drawn, former = (source.draw(key, 5) for source in (chosen.defend, data.defend))
    assert np.array_equal(drawn.label, former.sensitive["ink"])
    assert np.array_equal(drawn.image, former.image)
    assert choose(data, "digit", ("ink", "paper")) is data
    with pytest.raises(KeyError):
        choose(data, "height", ())
