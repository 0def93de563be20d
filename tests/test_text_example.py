"""docs/examples/text.py at toy size: the messages, what is recorded of them, the noise that is trained, the table."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.feature_extraction.text import CountVectorizer

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Family
from ani_jax.attacks.decoder import Ridge
from ani_jax.evaluation.audit import audit
from ani_jax.losses.noise import gaussian_rate
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.vector import Vector

FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture(scope="module")
def text():
    """The script, as it imports itself: its folder is on the path while it is read."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("text_example", FOLDER / "text.py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their own module up.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def sums(texts):
    """Stands for the model: fixed random vectors of the words, summed."""
    counts = CountVectorizer().fit_transform(texts)
    return counts @ np.random.default_rng(0).normal(size=(counts.shape[1], 48)) / 9


@pytest.fixture(scope="module")
def scene(text):
    return text.Scene.of(text.corpus(2000), sums)


def test_no_message_is_told_twice_and_paraphrases_are_not_divided(text, scene):
    made = scene.corpus
    assert len(set(made.text)) == len(made.text) == 2000
    assert (np.bincount(made.group) == 2).all()
    for known in (made.topic, made.hidden["sex"], made.hidden["city"], made.hidden["diagnosis"], scene.split):
        assert (known[::2] == known[1::2]).all()
    np.testing.assert_allclose(np.bincount(scene.split) / 2000, [0.525, 0.075, 0.15, 0.25], atol=0.01)
    assert text.corpus(40).text == made.text[:40] != text.corpus(40, seed=1).text


def test_attributes_are_what_the_messages_say(scene):
    said = [message.lower().replace(".", "").split() for message in scene.corpus.text]
    for word in ("morning", "insurance"):
        np.testing.assert_array_equal(scene.corpus.hidden[f"word_{word}"], [word in one for one in said])
        assert 0.3 < scene.corpus.hidden[f"word_{word}"].mean() < 0.6
    named = [{"lyon", "porto", "dublin", "oslo", "vienna", "athens"} & set(one) for one in said]
    for names, city in zip(named, scene.corpus.hidden["city"]):
        assert names <= {city.lower()}
    # Some name it, others hint at it or say nothing.
    assert 0.4 < np.mean([bool(names) for names in named]) < 0.6


def test_clients_are_recorded_in_the_form_that_stores_keep(text, scene):
    kinds = {"float": np.float32, "int8": np.int8, "bit": np.uint8}
    for name, kind in kinds.items():
        found = scene.recorded(text.RECORDED[name](scene.x), name)
        assert found.z.dtype == kind
        assert len(found.z) == (scene.split < 3).sum()
        assert len(found.tasks) == 11
        data, _ = found.data(400, 100, 200)
        assert set(np.unique(data.test.z)) == {0, 1} if name == "bit" else data.test.z.shape[1] == 48
        # Of 500 messages the provider has learnt the topic in part; chance is 17%.
        assert (found.answer == found.label).mean() > (0.3 if name == "bit" else 0.5)
    assert found.bits == 48


def test_noise_lets_the_topic_through_and_little_else(text, scene, monkeypatch):
    monkeypatch.setattr(text, "BATCH", 128)
    own, classes = scene.split == 3, 6
    x, topic = scene.x[own], scene.topic[own]
    rates, right = [], []
    for weight in (0.0, 0.1):
        release, predict = text.trained(x, topic, classes, weight, steps=300)
        rates.append(float(gaussian_rate(*text.INJECTOR.apply(release.variables, x), topic, classes)))
        right.append(float((predict(release(jnp.asarray(x), jax.random.key(1))).argmax(1) == topic).mean()))
    assert rates[1] < 0.2 * rates[0]
    assert min(right) > 0.9
    unit = jax.random.normal(jax.random.key(2), x.shape)
    mean, stddev = release.mean(release.variables, x), release.stddev(release.variables, x)
    z = release.given(release.variables, x, unit)
    np.testing.assert_allclose(z, mean + stddev * unit, atol=1e-5)
    told = norm.logpdf(np.asarray(z), np.asarray(mean), np.asarray(stddev)).sum(1)
    np.testing.assert_allclose(release.log_prob(release.variables, z, x), told, rtol=1e-4)
    assert release.varies


def test_the_loudest_noise_that_keeps_the_topic_is_chosen(text, scene, monkeypatch):
    tried = []
    monkeypatch.setattr(text, "say", tried.append)
    monkeypatch.setattr(text, "WEIGHTS", (1e3, 0.01, 0.001))
    monkeypatch.setattr(text, "LOST", 0.6)
    # Of so few messages the provider has learnt the topic in part; chance is 17%.
    text.affordable(scene, steps=300)
    assert [line.split()[2] for line in tried] == ["1000", "0.01"]


def test_table_and_figure_show_what_audits_found(text, scene):
    attributes = [Attribute(name, len(np.unique(one))) for name, one in scene.corpus.hidden.items()]
    few = (*(Family("attribute", one, (Probe(one, iterations=5),)) for one in attributes),)
    few += (Family("decoder", Vector(), (Ridge(Vector()),)),)
    found = {
        name: audit(scene.recorded(text.RECORDED[name](scene.x), name), level="preview", attacks=few)
        for name in ("float", "bit")
    }
    rows = text.rows_of(scene, found, dict.fromkeys(["topic", *scene.corpus.hidden], 0.9))
    lines = text.table(rows).splitlines()
    assert lines[0] == "|  | float | bit | bag of words | floor |"
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| topic", "| sex", "| city", "| diagnosis"]
    score = found["bit"].attack("attribute", "city").scores["balanced_accuracy"].value
    assert f"{score:.1%}" in lines[4]
    assert lines[4].endswith("| 90.0% | 16.7% |")
    (axes,) = text.picture(rows).axes
    assert len(axes.patches) == 2 * 5
    assert score == pytest.approx(axes.patches[7].get_height())


def test_the_model_lies_in_its_wheel(text, monkeypatch):
    requests = pytest.importorskip("requests", reason='needs wordllama: pip install -e ".[examples]"')
    pytest.importorskip("wordllama", reason='needs wordllama: pip install -e ".[examples]"')

    def download(*_, **__):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(requests, "get", download)
    found = text.embedded(["A taxi is booked.", "A cab was ordered.", "The invoice is wrong."])
    assert found.shape == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2]
