"""Records survive JSON exactly, refuse what JSON cannot say, and answer for what they hold."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ani_jax import records

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | FLOATS
TEXT = st.text(max_size=8)
ESTIMATES = st.builds(records.Estimate, MAYBE, MAYBE, MAYBE, TEXT)
ATTACKERS = st.builds(records.Attacker, TEXT, MAYBE, MAYBE, st.integers(0, 10**6), TEXT, TEXT)
PICTURES = st.integers(1, 3).map(lambda n: records.Picture.of(np.linspace(0, 1, 4 * n).reshape(n, 2, 2, 1)))
RESULTS = st.builds(
    records.AttackResult,
    TEXT,
    TEXT,
    st.integers(1, 64),
    TEXT,
    st.dictionaries(TEXT, ESTIMATES, max_size=2),
    st.dictionaries(TEXT, MAYBE, max_size=2),
    st.lists(ATTACKERS, max_size=2).map(tuple),
    ESTIMATES,
    st.lists(FLOATS, max_size=2).map(tuple),
    st.none() | PICTURES,
    TEXT,
    st.lists(st.builds(records.Slice, TEXT, TEXT, st.integers(0, 99), ESTIMATES), max_size=2).map(tuple),
)
COSTS = st.builds(records.CostCard, *[st.integers(0, 10**9)] * 6)
SELF_TESTS = st.builds(
    records.SelfTest, FLOATS, FLOATS, MAYBE, MAYBE, st.lists(st.integers(0, 9)).map(tuple), MAYBE, st.booleans(), TEXT
)
INFORMATION = st.builds(
    records.InformationEstimate,
    TEXT,
    MAYBE,
    MAYBE,
    st.lists(MAYBE, max_size=2).map(tuple),
    st.lists(st.integers(0, 9), max_size=2).map(tuple),
    MAYBE,
    FLOATS,
    st.tuples(*[st.integers(2, 9)] * 3),
    st.tuples(*[st.integers(1, 9)] * 2),
    FLOATS,
    MAYBE,
    st.lists(TEXT, max_size=2).map(tuple),
    st.lists(SELF_TESTS, max_size=2).map(tuple),
    TEXT,
)
CRITERIA = st.builds(records.Criterion, INFORMATION, *[MAYBE] * 5, FLOATS, MAYBE, st.lists(TEXT, max_size=2).map(tuple))
METRICS = st.builds(records.Metric, *[TEXT] * 4, st.booleans())
CLAUSES = st.builds(records.Clause, TEXT, TEXT, st.booleans())
WORDS = st.builds(
    records.TargetWords,
    TEXT,
    TEXT,
    st.lists(METRICS, max_size=2).map(tuple),
    TEXT,
    st.booleans(),
    *[TEXT] * 3,
    st.lists(TEXT, max_size=2).map(tuple),
    st.lists(CLAUSES, max_size=2).map(tuple),
    TEXT,
    st.booleans(),
    TEXT,
    st.lists(TEXT, max_size=2).map(tuple),
)
CONTROLS = st.builds(records.Control, TEXT, FLOATS, MAYBE, TEXT)
EVIDENCE = st.builds(
    records.Evidence,
    TEXT,
    TEXT,
    st.integers(0, 2**32),
    TEXT,
    st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
    st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
    st.dictionaries(TEXT, ESTIMATES, max_size=2),
    st.lists(RESULTS, max_size=2).map(tuple),
    st.none() | PICTURES,
    st.none() | COSTS,
    st.lists(TEXT, max_size=2).map(tuple),
    st.none() | CRITERIA,
    st.lists(WORDS, max_size=2).map(tuple),
    st.lists(CONTROLS, max_size=2).map(tuple),
)
NOTHING = records.Estimate(None, note="not measured")


def result(attack="decoder", target="image", queries=1):
    return records.AttackResult(attack, target, queries, "ridge", {"mse": NOTHING}, {"chance": None}, (), NOTHING)


def evidence(*attacks):
    return records.Evidence("none", "digits", 0, "standard", {}, {}, {}, attacks)


@hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(EVIDENCE)
def test_evidence_survives_json(record):
    text = records.to_json(record)
    again = records.from_json(records.Evidence, text)
    assert again == record
    assert records.to_json(again) == text


@hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(EVIDENCE)
def test_any_evidence_prints_itself_in_short(record):
    text = repr(record)
    assert text == str(record)
    assert 0 < len(text) < 2000
    assert text.replace("\n", "").isprintable()


def test_long_arrays_are_not_printed():
    found = dataclasses.replace(result(), per_example=(0.5,) * 1000, gallery=records.Picture.of(np.zeros((4, 9, 9, 1))))
    assert len(repr(found)) < 600


def test_none_survives_json():
    record = evidence(result())
    again = records.from_json(records.Evidence, records.to_json(record))
    assert again == record
    assert again.cost is None
    assert again.criterion is None
    assert again.gallery is None
    assert again.attacks[0].references == {"chance": None}
    assert isinstance(again.attacks[0].scores["mse"], records.Estimate)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError, match="Out of range"):
        records.to_json(records.Estimate(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '"evidence"',
        "null",
        "{}",
        '{"value": 1, "other": 2}',
        '{"subject": "none"}',
        '{"attacks": 3}',
        '{"sizes": 3}',
        '{"gallery": []}',
    ],
)
def test_bad_json_raises_one_line(text):
    with pytest.raises(ValueError) as error:
        records.from_json(records.Evidence, text)
    assert str(error.value).strip()
    assert "\n" not in str(error.value)


def test_absent_fields_take_their_defaults():
    text = '{"name": "a", "validation": null, "test": 0.5}'
    assert records.from_json(records.Attacker, text) == records.Attacker("a", None, 0.5)


def test_json_is_plain_and_in_field_order():
    parsed = json.loads(records.to_json(result()))
    assert list(parsed) == [field.name for field in dataclasses.fields(records.AttackResult)]


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NOTHING.value = 1.0  # type: ignore[misc]


def test_picture_rounds_clips_and_keeps_its_shape():
    images = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 0.2])[None, :, None, None]
    picture = records.Picture.of(images)
    assert picture.shape == (1, 6, 1, 1)
    np.testing.assert_array_equal(picture.array().ravel(), [0, 0, 128, 255, 255, 51])


def test_picture_of_bytes_is_exact():
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.testing.assert_array_equal(records.Picture.of(pixels / 255).array(), pixels)


def words(name):
    metrics = records.Metric("mse", "MSE", "small"), records.Metric("psnr", "PSNR", "decibel")
    return records.TargetWords(name, "Image", metrics, "mse", False, "", "mse", "", (), (), "{}")


def test_words_are_found_by_target_and_metrics_by_name():
    record = dataclasses.replace(evidence(), targets=(words("image"), words("picture")))
    assert record.words("picture") is record.targets[1]
    assert record.words("image").metric("psnr").label == "PSNR"
    with pytest.raises(KeyError, match=r"'ink'.*'none'"):
        record.words("ink")
    with pytest.raises(KeyError, match="'image' has no metric 'auc'"):
        record.words("image").metric("auc")


def test_attack_finds_by_name_target_and_queries():
    once, often = result(), result(queries=16)
    record = evidence(once, often)
    assert record.attack("decoder", "image") is once
    assert record.attack("decoder", "image", 16) is often
    with pytest.raises(KeyError, match="'ink'"):
        record.attack("decoder", "ink")


@pytest.mark.parametrize(
    "wrong",
    [
        {"utility": {"accuracy": {"value": "0.9"}}},
        {"subject": 3},
        {"seed": "0"},
        {"notes": [1]},
        {"attacks": [3]},
        {"utility": 3},
        {"right": ["1"]},
    ],
)
def test_a_record_of_other_types_is_refused(wrong):
    text = json.dumps(
        {**json.loads(records.to_json(records.Evidence("x", "digits", 0, "standard", {}, {}, {}, ()))), **wrong}
    )
    with pytest.raises(ValueError, match="not a"):
        records.from_json(records.Evidence, text)
