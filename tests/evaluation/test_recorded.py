"""Rows in place of a client: the audit finds of them what it finds of whoever sent them, and says what it could not do."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import LEVELS, Family, Level, families
from ani_jax.attacks.discriminant import Discriminant
from ani_jax.data.pairs import Pairs
from ani_jax.evaluation.audit import audit
from ani_jax.evaluation.draws import draws
from ani_jax.evaluation.scene import Scene
from ani_jax.reporting.page import render
from ani_jax.targets import base as targets
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.targets.vector import Vector
from ani_jax.types import Knowledge

SIDE = Attribute("side", 2)
CLOSED = (
    Family("attribute", SIDE, (attribute.Probe(SIDE), Discriminant(SIDE))),
    Family("decoder", Image(), (decoder.Ridge(Image()), decoder.Kernel(Image()))),
)
MANY = Level("many", sample=4096, queries=(1,), base="preview", plants=False)


def client(x):
    """Sums of columns and a few single pixels: some of everything is left."""
    return jnp.concatenate([x.sum(1).reshape(len(x), -1), x[:, ::3, 0].reshape(len(x), -1)], axis=1)


def answer(z):
    light = z[:, :8].sum(1) > 0.45 * 64
    return jnp.stack([1 - light, light], axis=1).astype(jnp.float32)


def test_rows_of_a_client_say_what_the_client_says(toy):
    """METHODS' must-show, in small: the same test rows, learnt from others of the same kind."""
    asked = audit(client, toy, answer, level=MANY, attacks=CLOSED)
    pairs = Pairs.of(draws(client, toy, answer, rows=4096), "toy")
    found = audit(pairs, level=MANY, attacks=CLOSED)
    assert found.utility["accuracy"] == asked.utility["accuracy"]
    assert found.sizes == {**asked.sizes, "auxiliary_originals": 4096}
    assert found.gallery == asked.gallery
    for one, other in zip(asked.attacks, found.attacks, strict=True):
        for name, score in one.scores.items():
            if score.value is not None and name not in ("psnr", "retrieval"):
                assert other.scores[name].value == pytest.approx(score.value, abs=0.01), (one.target, name)
        before = {name: value for name, value in one.references.items() if value is not None}
        assert {name: other.references[name] for name in before} == pytest.approx(before, abs=0.01)
        assert [part.size for part in one.slices] == [part.size for part in other.slices]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    city, topic = rng.integers(0, 3, 1200), rng.integers(0, 2, 1200)
    x = (rng.normal(size=(1200, 8)) + 3 * np.eye(8)[city] + 3 * np.eye(8)[7 - topic] + 5).astype(np.float32)
    return {"z": x[:, [0, 1, 2, 6]], "x": x, "s_city": city, "label": topic}


@pytest.mark.slow
def test_a_report_of_vectors_says_nothing_of_images(vectors):
    level = dataclasses.replace(LEVELS["preview"], plants=True)
    evidence = audit(Pairs.of(vectors), level=level)
    assert [words.name for words in evidence.targets] == ["city", "vector"]
    scores = evidence.attack("decoder", "vector").scores
    # Half of the numbers are sent; of a part of the others the city and the topic tell something.
    assert 0.45 < scores["r2_mean"].value < 0.75
    assert scores["cosine"].value > evidence.attack("decoder", "vector").references["cosine_mean"]
    assert evidence.utility["linear_accuracy"].value > 0.8
    assert "accuracy" not in evidence.utility
    ends = {control.name: control for control in evidence.controls if not control.planted}
    assert ends["vector where the input itself is sent"].found > 0.99
    assert abs(ends["vector where nothing is sent"].found) < 0.05
    assert any(control.planted for control in evidence.controls)
    page = render([evidence], {}, command="", config={}, provenance="")
    shown = re.sub(r"<style.*?</style>|data:image/[^\"]*|<img", "", page, flags=re.S)
    assert re.findall(r"image|pixel|picture", shown + repr(evidence), re.I) == []


@pytest.mark.slow
def test_without_x_nothing_is_reconstructed_and_no_control_sends_all(vectors):
    level = dataclasses.replace(LEVELS["preview"], plants=True)
    del (columns := dict(vectors))["x"]
    evidence = audit(Pairs.of(columns), level=level)
    assert [words.name for words in evidence.targets] == ["city"]
    names = [control.name for control in evidence.controls if not control.planted]
    assert names == ["city where nothing is sent"]
    assert evidence.attack("attribute", "city").references["raw_input"] is None
    assert any("x was not recorded" in note for note in evidence.notes)


def test_what_needs_a_client_is_left_out_and_named(toy):
    level = LEVELS["thorough"]
    chosen = families(targets.of(toy), level, Knowledge())
    assert {family.name for family in chosen} == {"attribute", "decoder"}
    assert {family.queries for family in chosen} == {1}
    pairs = Pairs.of(draws(client, toy, rows=300))
    short = Level("short", sample=200, queries=(1,), base="preview", plants=False, settings={"WhiteBox": {"steps": 5}})
    evidence = audit(pairs, level=short, attacks=CLOSED[:1])
    (note,) = [note for note in evidence.notes if note.startswith("recorded pairs")]
    assert note.endswith("left out: whitebox")
    (note,) = [note for note in evidence.notes if note.startswith("attackers learnt from")]
    assert "from 200 recorded rows (at most 200 at this level)" in note


def test_data_goes_with_a_client_and_not_with_pairs_or_it_is_refused(toy, vectors):
    for given in ((client,), (Pairs.of(vectors), toy)):
        with pytest.raises(ValueError, match=r"^data="):
            audit(*given, level="preview")


def test_a_client_of_vectors_is_asked_like_one_of_images(vectors):
    data, _ = Pairs.of(vectors).data(400, 100, 200)
    data = jax.tree.map(lambda leaf: leaf, data)
    chosen = (Family("decoder", Vector(), (decoder.Ridge(Vector()),)),)
    evidence = audit(lambda x: x[:, :4], data, level="preview", attacks=chosen)
    assert evidence.attack("decoder", "vector").scores["r2_mean"].value > 0.4


def test_controls_of_recorded_clients_are_shared(vectors):
    """What is sent where all of x is, or nothing, does not hang on what these clients sent of it."""
    found = []
    for z in (vectors["z"], vectors["z"].round()):
        data, _ = Pairs.of({**vectors, "z": z, "answer": vectors["label"] & (z[:, 0] > 5)}).data(400, 100, 200)
        found.append(Scene.of(Knowledge(), data, LEVELS["preview"], 0))
    one, other = found
    assert one.digest(client=False) == other.digest(client=False)
    assert one.digest() != other.digest()
