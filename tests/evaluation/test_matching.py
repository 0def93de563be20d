import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import LEVELS
from ani_jax.attacks.query import BRIGHTER, as_release
from ani_jax.evaluation.matching import PENALTIES, another, expected, match, matched, pictured, variation
from ani_jax.evaluation.scene import Scene
from ani_jax.information.channel import most_right
from ani_jax.targets.base import Answers
from ani_jax.types import Batch, Data, Knowledge, Release, Source, Task, fixed

SIZE, LOUD, DRAWINGS = 24, 12, 4
LEVEL = dataclasses.replace(LEVELS["preview"], sample=800, test=400, validation=400)


def people(seed, count=50):
    """Vectors of people, of whom each drawing differs most along the first axes, which tell nobody."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(count), DRAWINGS)
    x = rng.normal(size=(count, SIZE))[who] + 0.3 * rng.normal(size=(len(who), SIZE))
    x[:, :LOUD] += 10 * rng.normal(size=(len(who), LOUD))
    order = rng.permutation(len(who))
    return Batch(jnp.asarray(x[order], jnp.float32), jnp.asarray(who[order] % 2), {}, jnp.asarray(who[order]))


def scene(client=lambda x: x, batches=None, **more):
    own, held, test = batches or (people(seed) for seed in range(3))
    data = Data(Source(own, fixed), held, Source(own, fixed), held, test, "people", Task("half", ("a", "b")), ())
    return dataclasses.replace(Scene.of(Knowledge(as_release(client)), data, LEVEL, 0), **more)


def test_another_drawing_of_the_same_original():
    batch = people(0)
    group, other = np.asarray(batch.group), another(batch)
    assert (group[other] == group).all()
    assert sorted(other) == list(range(len(group)))
    assert (other != np.arange(len(group))).all()
    assert another(batch._replace(group=None)).tolist() == list(range(len(group)))


def test_it_knows_in_which_directions_drawings_of_one_person_differ():
    found = matched(scene())
    rates = {one.name: one.test for one in found.attackers}
    assert found.scores["identified"].value == rates[found.chosen]
    # By plain distance the loud axis decides.
    assert rates["penalty 0.0001"] > 0.9 > 0.7 > rates["penalty 100"]
    assert found.scores["identified"].note == "among 50"
    assert found.references == {"chance": pytest.approx(0.02)}
    half = dataclasses.replace(as_release(lambda x: x), capacity=lambda variables, elements: elements / SIZE)
    assert matched(scene(half)).references["certified"] == most_right(1.0, 50)
    assert np.mean(found.per_example) == pytest.approx(found.scores["identified"].value)
    assert found.scores["over_floor"].value == pytest.approx(found.scores["identified"].value - 0.02)


def test_it_is_the_nearest_by_mahalanobis_distance():
    one = scene()
    batch, other = one.data.test, another(one.data.test)
    z, group = np.asarray(one.asked.standardise(batch.image), np.float64), np.asarray(batch.group)
    spread = variation(one.asked)
    inverse = np.linalg.inv(spread + PENALTIES[0] * np.trace(spread) / SIZE * np.eye(SIZE))
    firsts = {who: np.flatnonzero(group == who)[0] for who in set(group)}
    right = []
    for row, who in enumerate(group):
        away = {them: z[row] - z[other[row if them == who else firsts[them]]] for them in firsts}
        right.append(min(away, key=lambda them: away[them] @ inverse @ away[them]) == who)
    assert matched(one).attackers[0].test == pytest.approx(np.mean(right))


def test_variation_is_that_around_each_originals_mean():
    one = scene()
    z, group = np.asarray(one.asked.standardise(one.asked.sample_z), np.float64), np.asarray(one.asked.sample.group)
    deviations = np.concatenate([z[group == who] - z[group == who].mean(0) for who in set(group)])
    known = deviations.T @ deviations / (len(z) - len(set(group)))
    np.testing.assert_allclose(variation(one.asked), known, rtol=1e-6, atol=1e-9)


def test_of_what_was_drawn_once_a_near_duplicate_is_the_other_picture():
    """The client sends squares of 2x2 pixels: of a shift these tell something, of the brightness all."""
    images = [jax.random.uniform(jax.random.key(seed), (60, 8, 8, 1)) for seed in range(3)]
    batches = [Batch(one, jnp.arange(60) % 2, {}) for one in images]
    alone = scene(lambda x: x.reshape(-1, 4, 2, 4, 2).mean((2, 4)), batches)
    moved = pictured(batches[2], jax.random.key(5))
    assert float(jnp.abs(moved - images[2]).max((1, 2, 3)).min()) > 0
    found = matched(alone)
    # Nobody holds the very picture, so that even a client without noise need not give it away; chance is 1.7%.
    assert 0.2 < found.scores["identified"].value < 1
    # A picture of one colour looks the same wherever it is moved: all that changes is its brightness, everywhere alike.
    flat = [one._replace(image=jnp.broadcast_to(0.2 + 0.6 * one.image[:, :1, :1], one.image.shape)) for one in batches]
    asked = scene(lambda x: x[:, ::4, ::4], flat).asked
    rate = np.asarray(asked.standardise.rate).ravel()
    known = np.outer(rate, rate) * BRIGHTER**2 / 3
    np.testing.assert_allclose(variation(asked, jax.random.key(1)), known, rtol=0.15)
    # Of those that were drawn more often the other drawing is what it was.
    several = people(0)
    np.testing.assert_array_equal(pictured(several, jax.random.key(0)), several.image[another(several)])


def noisy(stddev, declares):
    given = (
        {"mean": lambda variables, x: x, "stddev": lambda variables, x: jnp.full_like(x, stddev)} if declares else {}
    )
    return Release({}, lambda variables, x, key: x + stddev * jax.random.normal(key, x.shape), True, **given)


@pytest.mark.parametrize("declares", [True, False])
def test_noise_hides_whose_it_is(declares):
    quiet, loud = (matched(scene(noisy(stddev, declares))).scores["identified"].value for stddev in (0.1, 3.0))
    assert quiet > 0.8
    assert loud < 0.2
    images = people(3).image
    found = expected(noisy(0.1, declares), images, jax.random.key(0))
    np.testing.assert_allclose(found, images, atol=1e-6 if declares else 0.3)


def test_a_constant_client_tells_nobody_apart_and_an_answer_tells_the_class():
    test = people(2)
    answers = Answers(np.asarray(people(0).label), np.asarray(test.label), 2)
    found = matched(scene(lambda x: jnp.ones((len(x), 3)), answers=answers))
    assert found.scores["identified"].value <= 0.02
    assert found.references == {"chance": pytest.approx(0.02), "label_mediated": pytest.approx(0.04)}
    assert found.scores["over_floor"].value < 0


def test_more_features_than_a_covariance_is_inverted_for_are_compared_as_they_are(monkeypatch):
    monkeypatch.setattr("ani_jax.evaluation.matching.MOST", SIZE - 1)
    assert [one.name for one in matched(scene()).attackers] == ["penalty 100"]


def test_a_client_that_breaks_is_a_failed_attack_and_no_privacy():
    one = scene(lambda x: jnp.where(x > 5, jnp.nan, x))
    found = match(one)
    assert found.status == "failed: ValueError: what the client sends is not finite"
    assert found.scores == {}
    assert match(scene()).status == "ok"
