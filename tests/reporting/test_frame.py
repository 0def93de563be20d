"""The frame holds every number of an evidence once, as it was recorded, and marks the strongest attacks."""

import collections
import dataclasses
import math
import subprocess
import sys

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ani_jax.records import (
    Attacker,
    AttackResult,
    CostCard,
    Criterion,
    Estimate,
    Evidence,
    InformationEstimate,
    SelfTest,
    Slice,
)
from ani_jax.reporting.frame import BLANK, frame, read, wide
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

WORDS = {words.name: words for words in (Attribute("ink", 4).words, Attribute("paper", 2).words, Image().words)}
NUMBER = st.none() | st.floats(-10, 10, allow_nan=False)
ESTIMATE = st.builds(Estimate, NUMBER, NUMBER, NUMBER, st.sampled_from(("", "few images", "undefined")))
NAMES = st.sampled_from(("accuracy", "balanced_accuracy", "mse", "r2_class_mean", "chance"))
RESULT = st.builds(
    AttackResult,
    attack=st.sampled_from(("net", "probe")),
    target=st.sampled_from(sorted(WORDS)),
    queries=st.sampled_from((1, 16)),
    chosen=st.just("conv"),
    scores=st.dictionaries(NAMES, ESTIMATE),
    references=st.dictionaries(NAMES, NUMBER),
    attackers=st.just(()),
    leakage=ESTIMATE,
    status=st.sampled_from(("ok", "failed: masked")),
    slices=st.lists(
        st.builds(
            Slice, st.sampled_from(("ink", "answer")), st.sampled_from(("red", "wrong")), st.integers(0, 99), ESTIMATE
        ),
        max_size=3,
    ).map(tuple),
)
EVIDENCE = st.builds(
    Evidence,
    subject=st.sampled_from(("none", "funnel")),
    dataset=st.just("digits"),
    seed=st.integers(0, 9),
    level=st.just("standard"),
    steps=st.just({}),
    sizes=st.just({}),
    utility=st.dictionaries(NAMES, ESTIMATE),
    attacks=st.lists(RESULT, max_size=6, unique_by=lambda r: (r.attack, r.target, r.queries)).map(tuple),
    gallery=st.none(),
    cost=st.none() | st.just(CostCard(1, 2, 3, 4, 5, 6)),
    criterion=st.none(),
    targets=st.just(tuple(WORDS.values())),
)


def numbers(run, evidence):
    """(run, part, target, attack, queries, metric, status, value, low, high, note), by hand."""
    for name, found in evidence.utility.items():
        yield run, "utility", "", "", 0, name, "ok", found
    for result in evidence.attacks:
        whose = (result.target, result.attack, result.queries)
        for name, found in [*result.scores.items(), ("leakage", result.leakage)]:
            yield run, "attack", *whose, name, result.status, found
        for name, value in result.references.items():
            yield run, "reference", *whose, name, result.status, Estimate(value)
        for part in result.slices:
            yield run, "slice", *whose, f"{part.by}: {part.name}", result.status, part.score
    for name, value in vars(evidence.cost).items() if evidence.cost else ():
        yield run, "cost", "", "", 0, name, "ok", Estimate(value)


@settings(deadline=None)
@given(st.lists(EVIDENCE, max_size=3))
def test_every_number_is_in_it_exactly_once(evidences):
    found = frame(evidences)
    columns = ["run", "part", "target", "attack", "queries", "metric", "status", "value", "low", "high", "note"]
    held = found[columns].astype(object).where(found[columns].notna(), None).itertuples(index=False, name=None)
    expected = [
        (*row, e.value, e.low, e.high, e.note) for i, one in enumerate(evidences) for *row, e in numbers(i, one)
    ]
    assert collections.Counter(held) == collections.Counter(expected)
    for run, own in found.groupby("run"):
        assert [*own[["subject", "seed"]].drop_duplicates().iloc[0]] == [evidences[run].subject, evidences[run].seed]


@settings(deadline=None)
@given(EVIDENCE)
def test_the_strongest_attack_is_the_successful_one_that_found_most(evidence):
    found = frame([evidence])
    for (target, queries), own in found[found.queries > 0].groupby(["target", "queries"]):
        words = WORDS[target]
        scored = {
            r.attack: (1 if words.higher else -1) * r.scores[words.strength].value
            for r in evidence.attacks
            if (r.target, r.queries, r.status) == (target, queries, "ok")
            and r.scores.get(words.strength, Estimate(None)).value is not None
        }
        chosen = own[own.strongest].attack.unique()
        assert len(chosen) == min(len(scored), 1)
        assert all(scored[name] == max(scored.values()) for name in chosen)


def test_its_columns_have_their_types_with_and_without_numbers(none):
    full, empty = frame([none]), frame([])
    assert empty.empty
    assert [*empty.columns] == [*BLANK, "strongest"]
    assert (full.dtypes == empty.dtypes).all()
    for name, kind in {
        "run": "int64",
        "queries": "int64",
        "value": "float64",
        "strongest": "bool",
        "note": "str",
    }.items():
        assert full[name].dtype == kind
    assert read(empty, metric="accuracy") == {}


def test_a_criterion_and_its_self_tests_are_in_it(none):
    tests = (SelfTest(2.0, 2.0, 1.2, 0.3, (), None, False, "0.8 short"), SelfTest(0.0, 0.0, 0.0, None, (), None, True))
    told = InformationEstimate("nwj", 3.5, 0.1, (), (), None, 0.1, (1,), (1,), 0.0, None, ("a bound",), tests, "")
    criterion = Criterion(told, 0.4, None, 1.25, 30.0, 0.5, 0.1, 1.0, ("no entropy",))
    (evidence,) = [Evidence("x", "digits", 0, "standard", {}, {}, {}, (), criterion=criterion)]
    found = frame([evidence]).set_index(["part", "metric"])
    assert [*found.loc["self-test"].status] == ["failed", "ok"]
    assert [*found.loc["self-test"].index] == ["2", "0"]
    information = found.loc[("criterion", "information")]
    assert (information.value, information.stddev, information.note) == (3.5, 0.1, "a bound; no entropy")
    rest = found.loc["criterion"].value.to_dict()
    assert math.isnan(rest.pop("entropy_gaussian"))
    assert rest == {"information": 3.5, "mean_abs": 0.4, "entropy_knn": 1.25, "volume": 30.0, "volume_ratio": 0.5}


def test_whoever_attacks_by_another_client_does_not_pass_for_what_was_fitted_to_this_one(none):
    """Both have an attacker called ridge; with two numbers of one name no table of runs could be made."""
    told = InformationEstimate("nwj", 3.5, 0.1, (), (), None, 0.1, (1,), (1,), 0.0, None, (), (), "")
    criterion = Criterion(told, 0.4, None, 1.25, 30.0, 0.5, 0.1, 1.0)
    image = none.attacks[1]
    own, other = (
        dataclasses.replace(image, attack=name, attackers=(Attacker("ridge", -error, -error),))
        for name, error in (("decoder", 0.02), ("mismatched", 0.3))
    )
    found = frame([dataclasses.replace(none, attacks=(none.attacks[0], own, other), criterion=criterion)])
    assert read(found, part="criterion", metric="ridge")[0].value == -0.02
    assert wide(found, [("criterion", "ridge", 0)], 1).to_numpy().tolist() == [[-0.02]]


def test_a_missing_number_keeps_its_reason_and_a_client_asked_once_says_the_same_again(none, funnel):
    found = frame([none, funnel])
    assert read(found, target="ink", metric="leakage")[1].note == "denominator under two standard errors"
    table = wide(found, [("image", "mse", 16), ("image", "mse", 1), ("utility", "accuracy", 0), ("paper", "auc", 1)], 3)
    expected = pandas.DataFrame([[0.01, 0.01, 0.976, math.nan], [0.02, 0.031, 0.944, math.nan], [math.nan] * 4])
    pandas.testing.assert_frame_equal(table.set_axis(range(4), axis=1), expected, check_names=False)


def test_a_part_of_the_images_is_in_it_with_its_size(none):
    parts = (Slice("ink", "red", 41, Estimate(0.3, 0.2, 0.4)), Slice("answer", "wrong", 9, Estimate(None, note="few")))
    ink = dataclasses.replace(none.attacks[0], slices=parts)
    found = frame([dataclasses.replace(none, attacks=(ink, none.attacks[1]))])
    red, wrong = found[found.part == "slice"].itertuples()
    assert (red.target, red.metric, red.size, red.value, red.low, red.high) == ("ink", "ink: red", 41, 0.3, 0.2, 0.4)
    assert (wrong.metric, wrong.size, wrong.note) == ("answer: wrong", 9, "few")
    assert red.strongest
    assert found[found.part != "slice"]["size"].eq(0).all()


def test_an_attack_without_words_is_an_error(none):
    result = AttackResult("net", "gaze", 1, "", {}, {}, (), Estimate(None))
    with pytest.raises(KeyError, match="no words for the target 'gaze' in the evidence of 'x'"):
        frame([Evidence("x", "digits", 0, "standard", {}, {}, {}, (result,))])


def test_records_and_the_package_are_imported_without_pandas():
    code = "import sys, ani_jax, ani_jax.records; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
