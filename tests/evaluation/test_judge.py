import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Attack
from ani_jax.attacks.decoder import Ridge
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import judge, scene
from ani_jax.evaluation.budgets import BUDGETS
from ani_jax.types import Knowledge

ATTRIBUTE = Attack("attribute", "side", (Probe("side", 2),))


def of(toy, function, random=None):
    random = None if random is None else as_release(random)
    return scene.Scene.of(Knowledge(as_release(function)), toy, BUDGETS["smoke"], 0, random=random)


def test_what_random_weights_let_through_is_beside_the_score(toy):
    def blind(x):
        return jnp.ones((len(x), 3)) + 0 * x.mean((1, 2, 3))[:, None]

    for random, expected in ((lambda x: x, 1.0), (blind, 0.5)):
        found = judge.run(of(toy, blind, random), ATTRIBUTE)
        assert found.references["random_encoder"] == expected
        assert found.references["raw_input"] == 1.0
        assert found.scores["balanced_accuracy"].value == 0.5
    assert "random_encoder" not in judge.run(of(toy, blind), ATTRIBUTE).references
    noisy = of(toy, lambda x, key: x + jax.random.normal(key, x.shape), lambda x: x)
    assert "random_encoder" not in judge.run(noisy, dataclasses.replace(ATTRIBUTE, queries=4)).references


def test_a_client_that_cannot_be_asked_often_fails_that_attack_alone(toy, monkeypatch):
    client = of(toy, lambda x, key: x + jax.random.normal(key, x.shape))
    monkeypatch.setattr(scene, "_look", lambda *arguments: exec("raise MemoryError('out of memory')"))
    found = judge.run(client, dataclasses.replace(ATTRIBUTE, queries=64))
    assert found.status == "failed: MemoryError: out of memory"
    assert (found.scores, found.leakage.value, found.members) == ({}, None, ())
    assert judge.run(client, Attack("decoder", "image", (Ridge(),))).status == "ok"


def test_an_attack_without_members_fails(toy):
    assert judge.run(of(toy, lambda x: x), Attack("attribute", "side", ())).status == "failed: no member"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_have_one_channel_or_three(channels):
    found = judge.picture(jnp.ones((2, 4, 4, channels)))
    assert (found is None) == (channels == 2)


def test_an_attacker_with_the_wrong_images_is_one_more_attacker(toy):
    client = of(toy, lambda x: jnp.exp(-5 * x))
    right = judge.run(client, Attack("decoder", "image", (Ridge(),)))
    wrong = judge.run(client, Attack("mismatched", "image", (Ridge(),), mismatched=True))
    assert wrong.attack == "mismatched"
    assert wrong.references == right.references
    assert wrong.status == right.status == "ok"
    assert wrong.scores["mse"] != right.scores["mse"]
