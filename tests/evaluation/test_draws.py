import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.base import LEVELS
from ani_jax.attacks.query import as_release, summarise
from ani_jax.evaluation.draws import draws
from ani_jax.evaluation.scene import Scene
from ani_jax.types import Knowledge


def noisy(x, key):
    return x[:, ::2, ::2] + jax.random.normal(key, (len(x), 4, 4, 1))


def part(found, number):
    return {name: values[found["split"] == number] for name, values in found.items()}


def test_every_original_of_auxiliary_is_shown_equally_often_and_nothing_else_is(toy):
    found = part(draws(lambda x: 2 * x, toy, rows=600), 0)
    shown = collections.Counter(image.tobytes() for image in found["x"])
    assert set(shown) == {image.tobytes() for image in np.asarray(toy.auxiliary.stored.image)}
    assert set(shown.values()) == {2, 3}
    np.testing.assert_array_equal(found["z"], 2 * found["x"])
    assert not np.array_equal(found["x"][:256], toy.auxiliary.stored.image)
    again, other = (part(draws(lambda x: 2 * x, toy, rows=600, seed=seed), 0) for seed in (0, 1))
    np.testing.assert_array_equal(again["x"], found["x"])
    assert not np.array_equal(other["x"], found["x"])


def test_noise_is_fresh_in_every_row(toy):
    found = part(draws(noisy, toy, rows=512), 0)
    noise = found["z"] - found["x"][:, ::2, ::2]
    assert len(np.unique(noise)) > 0.99 * noise.size
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


@pytest.mark.parametrize(("releases", "burst"), [(1, False), (4, False), (4, True)])
def test_validation_and_test_are_those_of_the_audit(toy, answer, releases, burst):
    def client(x, key):
        return x + jax.random.normal(key, x.shape)

    found = draws(client, toy, answer, seed=3, rows=10, releases=releases, burst=burst)
    scene = Scene.of(Knowledge(as_release(client), answer), toy, LEVELS["standard"], 3)
    scene = scene.fewer(scene.level.repeated if releases > 1 else 0)
    asked, test_z = scene.ask(releases, burst)
    for number, z, batch in ((1, asked.held, scene.data.validation), (2, test_z, scene.data.test)):
        own = part(found, number)
        np.testing.assert_array_equal(own["z"], summarise(z))
        np.testing.assert_array_equal(own["x"], batch.image)
        np.testing.assert_array_equal(own["label"], batch.label)
        np.testing.assert_array_equal(own["s_side"], batch.sensitive["side"])
        np.testing.assert_array_equal(own["answer"], answer(z[0]).argmax(1))
    assert found["z"].dtype == np.float32
    assert found["z"].shape[1:] == (8, 8, 1 if releases == 1 else 4)
    assert "group" not in found


def test_a_client_without_noise_gets_fewer_rows_by_default(toy, monkeypatch):
    monkeypatch.setattr("ani_jax.evaluation.draws.ROWS", 7)
    monkeypatch.setattr("ani_jax.evaluation.draws.NOISY", 11)
    for client, rows in ((lambda x: x, 7), (noisy, 11)):
        assert len(part(draws(client, toy), 0)["z"]) == rows
    assert jnp.isfinite(draws(noisy, toy, rows=3, releases=2)["z"]).all()
