import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import LEVELS, Family
from ani_jax.attacks.decoder import Kernel, Ridge
from ani_jax.attacks.mismatch import MismatchedKernel, MismatchedRidge
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import contest
from ani_jax.evaluation.scene import GALLERY, NOTHING, RANDOM, RAW, Scene, named
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Knowledge

PREVIEW = LEVELS["preview"]
SIDE = Attribute("side", 2)


def scene(toy, function=lambda x: x, level=PREVIEW, seed=0, **options):
    return Scene.of(Knowledge(as_release(function), options.pop("predict", None)), toy, level, seed, **options)


def family(*kinds, queries=1):
    return Family("decoder", Image(), tuple(kind(Image()) for kind in kinds), queries)


def test_digest_is_that_of_what_a_client_answers(toy, answer):
    base = scene(toy).digest()
    assert scene(toy, lambda x: 1.0 * x).digest() == base
    others = {
        "client": scene(toy, lambda x: 2.0 * x),
        "seed": scene(toy, seed=1),
        "level": scene(toy, level=dataclasses.replace(PREVIEW, settings={"Residual": {"steps": 6}})),
        "base": scene(toy, level=dataclasses.replace(PREVIEW, base="preview")),
        "predict": scene(toy, predict=answer),
        "test": scene(dataclasses.replace(toy, test=toy.test._replace(label=1 - toy.test.label))),
        "random": scene(toy, random=as_release(jax.tree_util.Partial(lambda w, x: w * x, jnp.ones(())))),
    }
    found = {name: other.digest() for name, other in others.items()}
    assert base not in found.values()
    assert len(set(found.values())) == len(found)


def test_everything_is_asked_once(toy):
    one = scene(toy, lambda x, key: x + jax.random.normal(key, x.shape), random=as_release(lambda x: -x))
    assert one.look(family(Ridge)) == (one.asked, one.test_z)
    often = one.look(family(Ridge, queries=4))
    assert often[1].shape == (4, *toy.test.image.shape)
    assert one.look(family(Kernel, queries=4)) is often
    # Every family is answered alike.
    assert one.look(Family("attribute", SIDE, (Probe(SIDE),), 4)) is often
    assert one.other(RAW)[0] is one.other(RAW)[0]
    np.testing.assert_array_equal(one.other(RANDOM)[1][0], -toy.test.image)
    np.testing.assert_array_equal(one.other(NOTHING)[1][0], np.zeros((len(toy.test.image), 1)))


def test_what_nobody_needs_any_more_is_dropped(toy):
    one = scene(toy, lambda x, key: x + jax.random.normal(key, x.shape))
    often = one.fewer(10).look(family(Ridge, queries=4))[0]
    one.look(family(MismatchedRidge))
    contest.fits_of(one, family(Ridge), one.asked)
    contest.fits_of(one, family(Ridge, queries=4), one.asked)
    assert one.others
    assert one.scenes
    one.settle()
    assert (one.others, one.scenes, list(one.fits)) == ({}, {}, [""])
    # Asked again, the client answers as it did.
    np.testing.assert_array_equal(one.fewer(10).look(family(Ridge, queries=4))[0].held, often.held)


def test_a_family_may_own_other_images_but_is_scored_on_the_same(toy):
    one = scene(toy)
    mistaken, test_z = one.look(family(MismatchedRidge, MismatchedKernel))
    np.testing.assert_allclose(mistaken.sample.image.mean(), 1 - one.asked.sample.image.mean(), atol=0.05)
    np.testing.assert_array_equal(mistaken.validation.image, one.asked.validation.image)
    np.testing.assert_array_equal(test_z, one.test_z)
    assert one.look(family(MismatchedRidge))[0] is mistaken
    assert one.look(family(Ridge))[0] is one.asked


def test_fewer_images_begin_with_those_of_the_gallery(toy):
    whole = scene(toy)
    fewer = whole.fewer(10)
    assert whole.fewer(0) is whole is whole.fewer(len(toy.test.label))
    assert whole.fewer(10) is fewer
    assert (fewer.test_z.shape[1], len(fewer.data.validation.label)) == (10, 5)
    rows = np.asarray(toy.test.image)[whole.shown]
    np.testing.assert_array_equal(np.asarray(fewer.data.test.image)[fewer.shown], rows)
    each = {image.tobytes() for image in np.asarray(fewer.data.test.image)}
    assert len(each) == 10
    assert each <= {image.tobytes() for image in np.asarray(toy.test.image)}


def test_gallery_shows_distinct_images_of_one_class_after_the_other(toy):
    shown = scene(toy).shown
    labels = np.asarray(toy.test.label)[shown].tolist()
    assert len(set(shown.tolist())) == len(shown) == GALLERY
    assert labels == [labels[0], labels[1]] * (GALLERY // 2)
    assert labels[0] != labels[1]


def test_names():
    keys = [jax.random.key_data(named(jax.random.key(0), name)).tolist() for name in ("a", "b", "a")]
    assert keys[0] == keys[2] != keys[1]


def test_a_client_that_sends_no_floats_is_refused(toy):
    with pytest.raises(ValueError, match="must be floats"):
        scene(toy, lambda x: jnp.round(x).astype(jnp.int32))


def test_fewer_images_were_answered_as_they_are_in_the_whole(toy, answer):
    def client(x, key):
        return x + jax.random.normal(key, x.shape)

    whole = scene(toy, client, predict=answer)
    fewer = whole.fewer(10)
    rows = [
        int(np.flatnonzero((np.asarray(toy.test.image) == image).all((1, 2, 3)))[0])
        for image in np.asarray(fewer.data.test.image)
    ]
    np.testing.assert_array_equal(fewer.test_z, whole.test_z[:, np.array(rows)])
    np.testing.assert_array_equal(fewer.answers.test, whole.answers.test[rows])
    assert fewer.asked.sample_z is whole.asked.sample_z
    assert fewer.ask(4)[1].shape[:2] == (4, 10)


def test_what_was_answered_often_is_cut_as_what_was_answered_once(toy):
    one = scene(toy, lambda x, key: x + jax.random.normal(key, x.shape)).fewer(12)
    asked, test_z = one.ask(4)
    few, own, own_z = one.cut(10, asked, test_z)
    # The same images as of those who ask once, and none of them is asked about again.
    assert few.rows.tolist() == scene(toy).fewer(10).rows.tolist()
    np.testing.assert_array_equal(own_z, test_z[:, :10])
    assert own.sample_z is asked.sample_z
    assert own.held.shape[:2] == (4, 5) == (4, len(few.data.validation.label))
    np.testing.assert_array_equal(own.validation.image, few.data.validation.image)
    assert one.cut(0, asked, test_z) == (one, asked, test_z)
