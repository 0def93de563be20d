"""The gate: what is written is understood, what holds holds for its reasons, and nothing turns doubt into a pass."""

import ast
import dataclasses
import json
import math
import pathlib
import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ani_jax.attacks import likelihood, network
from ani_jax.records import Attacker, AttackResult, Control, Estimate, Evidence, Look, to_json
from ani_jax.reporting import gate
from ani_jax.reporting.gate import HOLDS, UNDECIDED, VIOLATED, Gate, Requirement
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

INK = Attribute("ink", 4).words
CONTROLS = (
    Control("ink where nothing is sent", 0.0, 0.01, "probe"),
    Control("planted linear", 0.75, 0.70, "probe", 0.68),
    Control("planted linear, 25 points", 0.247, 0.20, "probe", 0.17),
    Control("planted linear, 10 points", 0.104, 0.06, "probe", 0.03),
    Control("planted parity", 0.5, 0.0, "probe", -0.02),
)
RISING = network.RISING


def around(value, width=0.01):
    return Estimate(value, value - width, value + width)


def attacked(value, attack="attribute", queries=1, curve=(), ended="", validation=0.3, **more):
    """One attack on the ink, of balanced accuracy ``value``."""
    attackers = (Attacker("probe", validation, 0.3), Attacker("conv", 0.28, 0.28, 800, curve=tuple(curve), ended=ended))
    scores = {"balanced_accuracy": value, "over_floor": Estimate(None, note="no floor"), "auc": Estimate(0.6, 0.5, 0.7)}
    found = AttackResult(attack, "ink", queries, "probe", scores, {"chance": 0.25}, attackers, Estimate(None))
    return dataclasses.replace(found, **more)


def rebuilt(mse, r2, curve=(), ended="", validation=-0.03):
    attackers = (Attacker("residual", validation, None, 1, curve=tuple(curve), ended=ended),)
    scores = {"mse": mse, "r2_class_mean": r2, "ssim": Estimate(0.3, 0.2, 0.4)}
    return AttackResult("decoder", "image", 1, "residual", scores, {}, attackers, Estimate(None))


def evidence(*attacks, controls=CONTROLS, **more):
    utility = {"accuracy": Estimate(0.97, 0.96, 0.98)}
    found = Evidence("mine", "digits", 0, "standard", {}, {"test": 8, "test_originals": 4}, utility, attacks)
    return dataclasses.replace(found, **{"targets": (INK, Image().words), "controls": controls, **more})


def decided(text, *attacks, **more):
    (verdict,) = gate.decide(evidence(*attacks, **more), gate.parse(text))
    return verdict


def test_what_is_written_is_understood():
    text = " ink<=0.35,image.r2_class_mean <= 2e-1, utility>=.95,\n a name of four<=+1."
    assert gate.parse(text) == (
        Requirement("ink", "<=", 0.35),
        Requirement("image.r2_class_mean", "<=", 0.2),
        Requirement("utility", ">=", 0.95),
        Requirement("a name of four", "<=", 1.0),
    )


@given(st.sampled_from(["ink", "image.mse", "größe"]), st.sampled_from(["<=", ">="]), st.floats(-1e6, 1e6))
def test_a_requirement_is_read_as_it_is_written(name, sign, limit):
    (found,) = gate.parse(str(Requirement(name, sign, limit)))
    assert (found.name, found.sign) == (name, sign)
    assert found.limit == pytest.approx(limit, rel=1e-11)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "",
            "ink",
            "ink=0.3",
            "ink<0.3",
            "ink==0.3",
            "<=0.3",
            "ink<=",
            "ink<=nan",
            "ink<=inf",
            "ink<=1e999",
            "ink<=35%",
        ),
        *("ink<=0.3 utility>=0.9", "ink<=1_0", "ink<=٣", "ink<=0x1", "ink=<0.3", "ink<=0.3;"),
    ],
)
def test_what_is_no_requirement_is_refused(piece):
    with pytest.raises(ValueError, match="must be NAME<=NUMBER or NAME>=NUMBER") as error:
        gate.parse(f"utility>=0.9,{piece}")
    assert str(error.value).startswith(repr(piece))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inkk<=0.3",
            "names what is not measured; must be one of ink, ink.balanced_accuracy, ink.of_a_set, ink.over_floor",
        ),
        ("ink.accuracy<=0.3", "names what is not measured"),
        ("ink>=0.3", "asks for less privacy or less utility; must be ink<=NUMBER"),
        ("ink.over_floor>=0.3", "must be ink.over_floor<=NUMBER"),
        ("image<=0.3", "must be image>=NUMBER"),
        ("image.r2_class_mean>=0.3", "must be image.r2_class_mean<=NUMBER"),
        ("image.ssim>=0.3", "must be image.ssim<=NUMBER"),
        ("image.mse_worst<=0.3", "must be image.mse_worst>=NUMBER"),
        ("utility<=0.9", "must be utility>=NUMBER"),
        ("ink<=35", "the limit is a fraction; must be from 0 to 1"),
        ("utility>=95", "the limit is a fraction; must be from 0 to 1"),
    ],
)
def test_what_nobody_can_mean_is_refused(text, message):
    words = (INK, Image().words)
    with pytest.raises(ValueError, match=r"'.*'") as error:
        gate.check(gate.parse(text), words)
    assert message in str(error.value)
    gate.check(gate.parse("ink<=0.3, image>=0.02, image.ssim<=0.5, image.mse_worst>=0.01, utility>=0.9"), words)


def test_an_absent_target_may_pass_but_a_mistaken_metric_is_refused():
    gate.check(gate.parse("gaze<=0.3, gaze.angle<=0.3"), (INK,), absent=True)
    with pytest.raises(ValueError, match=r"'ink.acuracy<=0.3' names what is not measured"):
        gate.check(gate.parse("ink.acuracy<=0.3"), (INK,), absent=True)
    with pytest.raises(
        ValueError, match=r"must be one of ink, ink.balanced_accuracy, ink.of_a_set, ink.over_floor, ink.auc$"
    ):
        gate.check(gate.parse("utility>=0.3"), (INK,), utility=False, absent=True)


def test_a_file_holds_the_same():
    found = gate.read('against = "old.json"\nrequire = ["ink<=0.35", "utility>=0.95"]')
    assert found == {"against": "old.json", "require": "ink<=0.35, utility>=0.95"}
    assert gate.read('require = "ink<=0.35"') == {"require": "ink<=0.35"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("require = [1]", "'require' in it; must hold require ="),
        ("requires = 'ink<=1'", "'requires' in it"),
        ("against = 3", "'against' in it"),
        ("", "it is empty"),
        ("ink<=0.3", "not TOML"),
    ],
)
def test_what_is_no_such_file_is_refused(text, message):
    with pytest.raises(ValueError, match="^" + message):
        gate.read(text)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        *((0.25, 0.35, HOLDS), (0.25, 0.36, UNDECIDED), (0.35, 0.4, UNDECIDED), (0.36, 0.4, VIOLATED)),
        *((None, 0.3, HOLDS), (None, None, UNDECIDED), (0.36, None, VIOLATED), (0.2, None, UNDECIDED)),
    ],
)
def test_the_worse_end_decides(low, high, outcome):
    verdict = decided("ink<=0.35", attacked(Estimate(0.3, low, high)))
    assert verdict.outcome == outcome
    assert verdict.measured == Estimate(0.3, low, high)


def test_utility_is_decided_on_its_lower_end_and_needs_no_plant():
    assert decided("utility>=0.96").outcome == HOLDS
    assert decided("utility>=0.97").outcome == UNDECIDED
    assert decided("utility>=0.985").outcome == VIOLATED
    missed = (*CONTROLS[:1], dataclasses.replace(CONTROLS[1], found=0.1, low=-0.1))
    assert decided("utility>=0.96", controls=missed).outcome == HOLDS


def test_a_target_means_the_strongest_of_all_families_and_queries():
    weak, strong = attacked(around(0.27)), attacked(around(0.5), "attribute burst", 16)
    for attacks in ((weak, strong), (strong, weak)):
        verdict = decided("ink<=0.35", *attacks)
        assert verdict.outcome == VIOLATED
        assert "attribute burst on 16 releases (probe) 50.0% [49.0, 51.0]: even the better end" in verdict.reasons[0]
    assert decided("ink<=0.55", weak, strong).measured == around(0.5)


def test_a_preview_never_holds_and_may_be_violated():
    low, high = attacked(around(0.27)), attacked(around(0.5))
    for text in ("ink<=0.35", "utility>=0.9"):
        verdict = decided(text, low, controls=(), level="preview")
        assert verdict.outcome == UNDECIDED
        assert verdict.reasons[-1].startswith("an audit without controls (level preview)")
    assert decided("ink<=0.35", high, controls=()).outcome == VIOLATED


def test_a_control_that_failed_leaves_undecided():
    for place, control in ((0, Control("ink where nothing is sent", 0.0, 0.3, "probe")), (1, CONTROLS[1])):
        broken = list(CONTROLS)
        broken[place] = dataclasses.replace(control, found=0.3)
        verdict = decided("ink<=0.35", attacked(around(0.27)), controls=tuple(broken))
        assert verdict.outcome == UNDECIDED
        assert f"a control failed: {control.name}" in verdict.reasons


def test_a_failed_attack_or_a_missing_number_is_no_privacy():
    failed = dataclasses.replace(attacked(around(0.2)), scores={}, status="failed: masked")
    verdict = decided("ink<=0.35", attacked(around(0.27)), failed)
    assert verdict.outcome == UNDECIDED
    assert verdict.reasons == ("attribute (probe): failed: masked",)
    broke = attacked(around(0.27), status="failed: loss not finite")
    assert "attribute (probe) failed: loss not finite" in decided("ink<=0.35", broke).reasons
    assert decided("ink.over_floor<=0.1", attacked(around(0.27))).reasons[0] == "attribute (probe): no floor"
    assert decided("ink<=0.35").reasons[0] == "no attack: not measured"
    assert "not in this evidence, which has ink, " in decided("gaze<=0.35").reasons[0]
    assert {decided("ink<=0.35").outcome, decided("gaze<=0.35").outcome} == {UNDECIDED}


@pytest.mark.parametrize(
    ("limit", "unheard", "outcome", "reason"),
    [
        # The rung of 10 points counts as 10, whatever luck made of it on test.
        (0.35, (), HOLDS, "planted linear, 10 points was found (6.0 over chance, 3.0 at least)"),
        (
            0.34,
            (),
            UNDECIDED,
            "no linear label as weak as the limit, 9.0 points over the floor, was planted (10.0 is the",
        ),
        (0.35, (3,), UNDECIDED, "planted linear, 10 points was not found (6.0 over chance, -1.0 at least)"),
        (0.49, (3,), UNDECIDED, "planted linear, 10 points was not found"),
        (0.50, (3,), HOLDS, "planted linear, 25 points was found (20.0 over chance, 17.0 at least)"),
        (0.60, (2, 3), UNDECIDED, "planted linear, 25 points was not found"),
        (1.00, (2, 3), HOLDS, "planted linear was found (70.0 over chance, 68.0 at least)"),
    ],
)
def test_a_limit_needs_a_linear_plant_no_stronger_than_itself(limit, unheard, outcome, reason):
    controls = tuple(
        dataclasses.replace(one, low=-0.01 if place in unheard else one.low) for place, one in enumerate(CONTROLS)
    )
    verdict = decided(f"ink<={limit}", attacked(around(0.27)), controls=controls)
    assert verdict.outcome == outcome
    assert verdict.reasons[1].startswith(reason)


def test_plants_of_before_have_no_interval_and_prove_nothing():
    old = tuple(dataclasses.replace(one, low=None) for one in CONTROLS)
    verdict = decided("ink<=0.35", attacked(around(0.27)), controls=old)
    assert verdict.outcome == UNDECIDED
    assert "an audit of before, which kept no interval" in verdict.reasons[1]
    others = tuple(one for one in CONTROLS if "linear" not in one.name)
    assert "no linear label was planted" in decided("ink<=0.35", attacked(around(0.27)), controls=others).reasons


def test_of_a_metric_without_a_floor_the_weakest_plant_must_be_found():
    weak = (*CONTROLS[:3], dataclasses.replace(CONTROLS[3], low=-0.01))
    for text in ("ink.auc<=0.9", "image>=0.01", "image.ssim<=0.5"):
        attacks = (attacked(around(0.27)), rebuilt(around(0.03), around(0.3)))
        assert decided(text, *attacks).outcome == HOLDS
        assert decided(text, *attacks, controls=weak).outcome == UNDECIDED
    # R² over the class mean is 0 at its floor.
    image = rebuilt(around(0.03), around(0.1))
    assert decided("image.r2_class_mean<=0.25", image, controls=weak).outcome == HOLDS
    assert decided("image.r2_class_mean<=0.2", image, controls=weak).outcome == UNDECIDED


def test_a_limit_whose_floor_is_unknown_is_undecided():
    """Counted from 0 it would be strong enough for any plant."""
    verdict = decided("ink<=0.35", attacked(around(0.27), references={}))
    assert (verdict.outcome, verdict.reasons[1]) == (
        UNDECIDED,
        "no chance in this evidence, which the limit's strength counts from",
    )


def looks(*strengths, first=100):
    return [Look(first * 2**place, 1.0, strength) for place, strength in enumerate(strengths)]


def test_a_straight_line_is_extrapolated_exactly():
    assert gate.extrapolated(looks(0.25, 0.3, 0.35)) == pytest.approx(0.45)
    assert gate.extrapolated(looks(0.9, 0.25, 0.3, 0.35)) == pytest.approx(0.45)
    # At once to sixteen times as many steps: four doublings.
    assert gate.extrapolated([Look(100, 1.0, 0.2), Look(1600, 1.0, 0.6)]) == pytest.approx(0.8)
    assert gate.extrapolated(looks(0.35, 0.3)) == 0.3
    assert gate.extrapolated(looks(0.35)) is None
    assert gate.extrapolated([Look(100, 1.0, 0.2), Look(100, 1.0, 0.3)]) is None
    assert gate.extrapolated(()) is None


@given(
    st.lists(st.floats(0, 0.2), min_size=4, max_size=7).map(lambda gains: sorted(gains, reverse=True)),
    st.floats(-1, 1),
)
def test_no_curve_whose_doublings_gain_less_and_less_gets_further(gains, start):
    curve = looks(*(start + math.fsum(gains[:count]) for count in range(len(gains) + 1)))
    assert gate.extrapolated(curve[:-2]) >= curve[-1].strength - 1e-12


@given(st.floats(0.1, 2.0), st.floats(0.0, 1.0), st.floats(0.01, 1.0))
def test_power_laws_and_saturation_stay_below_what_is_extrapolated(power, most, scale):
    curve = looks(*(most - scale * 2.0 ** (-power * place) for place in range(6)))
    assert gate.extrapolated(curve[:4]) >= curve[5].strength - 1e-12


def test_a_rising_curve_must_keep_the_limit_for_two_more_doublings():
    def verdict(*strengths, ended=RISING, text="ink<=0.35", value=0.3):
        return decided(text, attacked(around(value), curve=looks(*strengths), ended=ended))

    # The chosen one has 30% on validation; at 28% and 2 points a doubling another will have 32%: 2 more on test.
    kept = verdict(0.24, 0.26, 0.28)
    assert kept.outcome == HOLDS
    assert kept.reasons[-1] == "attribute (probe) was still rising, and may reach 33.0% in two more doublings"
    left = verdict(0.18, 0.23, 0.28)
    assert left.outcome == UNDECIDED
    assert left.reasons[-1] == "attribute (probe) was still rising, and may reach 39.0% in two more doublings"
    assert verdict(0.18, 0.23, 0.28, ended=network.REACHED).outcome == HOLDS
    # Too far behind to matter.
    assert len(verdict(0.10, 0.11, 0.12).reasons) == 2
    assert "nobody knows" in verdict(0.28).reasons[-1]
    assert verdict(0.28).outcome == UNDECIDED
    assert "how far auc would go nobody knows" in verdict(0.18, 0.23, 0.28, text="ink.auc<=0.9").reasons[-1]
    # A violation is one, whatever was still rising.
    assert verdict(0.18, 0.23, 0.28, value=0.4).outcome == VIOLATED


def test_an_error_that_still_falls_moves_every_number_that_follows_from_it():
    # From 0.03 to 0.024 in two doublings: a fifth less, on test as on validation.
    image = rebuilt(Estimate(0.03, 0.029, 0.031), Estimate(0.1, 0.09, 0.1), looks(-0.036, -0.033, -0.03), RISING)
    (reading,) = [gate.Reading("", image.scores[name], image) for name in ("mse",)]
    words = Image().words
    assert gate.later(reading, Requirement("image", ">=", 0.02), words, "mse") == pytest.approx(0.029 - 0.006)
    r2 = gate.Reading("", image.scores["r2_class_mean"], image)
    limit = Requirement("image.r2_class_mean", "<=", 0.3)
    assert gate.later(r2, limit, words, "r2_class_mean") == pytest.approx(1 - 0.9 * 0.8)
    assert decided("image.r2_class_mean<=0.3", image).outcome == HOLDS
    assert decided("image.r2_class_mean<=0.25", image).outcome == UNDECIDED
    assert decided("image>=0.02", image).outcome == HOLDS
    assert decided("image>=0.025", image).outcome == UNDECIDED
    assert decided("image.ssim<=0.5", image).outcome == UNDECIDED


def test_what_attackers_say_of_their_end_is_understood():
    for ended in (network.RISING, network.EXHAUSTED.format(40_000), likelihood.GAINING):
        assert Attacker("conv", 0.5, 0.5, ended=ended).rising
    for ended in ("", network.REACHED, network.PRUNED, network.BEHIND, likelihood.CONVERGED):
        assert not Attacker("conv", 0.5, 0.5, ended=ended).rising


ENDS = st.one_of(st.none(), st.floats(0, 1))
RANK = {HOLDS: 0, UNDECIDED: 1, VIOLATED: 2}


@st.composite
def audits(draw):
    """Evidence of one to three attacks on the ink, with controls that may have missed something."""
    attacks = []
    for queries in range(draw(st.integers(1, 3))):
        low, value, high = sorted(draw(st.lists(st.floats(0, 1), min_size=3, max_size=3)))
        ended = draw(st.sampled_from(["", RISING, network.REACHED]))
        curve = looks(*draw(st.lists(st.floats(0, 1), max_size=4)))
        status = draw(st.sampled_from(["ok", "ok", "ok", "failed: why"]))
        measured = Estimate(value, draw(st.sampled_from([low, None])), draw(st.sampled_from([high, high, None])))
        attacks.append(attacked(measured, queries=queries + 1, curve=curve, ended=ended, status=status))
    controls = tuple(dataclasses.replace(one, low=draw(st.floats(-0.1, 0.1))) for one in CONTROLS)
    return evidence(*attacks, controls=draw(st.sampled_from([controls, CONTROLS, ()])))


@given(audits(), st.floats(0, 1), st.floats(0, 1))
def test_a_tighter_limit_is_never_kept_better(found, one, other):
    """So no violation of a loose limit holds for a tight one, and no doubt about it."""
    loose, tight = gate.decide(found, [Requirement("ink", "<=", limit) for limit in (max(one, other), min(one, other))])
    assert RANK[tight.outcome] >= RANK[loose.outcome]


@given(audits(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_wider_interval_never_makes_a_limit_hold(found, limit, down, up):
    def wider(result):
        old = result.scores["balanced_accuracy"]
        low, high = (None if end is None else end + by for end, by in ((old.low, -down), (old.high, up)))
        return dataclasses.replace(
            result, scores={**result.scores, "balanced_accuracy": Estimate(old.value, low, high)}
        )

    wide = dataclasses.replace(found, attacks=tuple(map(wider, found.attacks)))
    (before,), (after,) = (gate.decide(one, [Requirement("ink", "<=", limit)]) for one in (found, wide))
    if before.outcome != HOLDS:
        assert after.outcome != HOLDS


@given(audits(), st.floats(0, 1), st.data())
def test_less_evidence_never_makes_a_limit_hold(found, limit, data):
    """Neither without a control or with one that is heard worse, nor with another attack, nor where one broke off."""
    place = data.draw(st.integers(0, len(CONTROLS) - 1))
    fewer = tuple(one for index, one in enumerate(found.controls) if index != place)
    worse = tuple(dataclasses.replace(one, low=-0.5) for one in found.controls)
    more = (*found.attacks, attacked(data.draw(st.builds(around, st.floats(0, 1))), "another"))
    broke = tuple(dataclasses.replace(one, status="failed: why") for one in found.attacks)
    asked = [Requirement("ink", "<=", limit)]
    (before,) = gate.decide(found, asked)
    changes = [{"controls": worse}, {"attacks": more}, {"attacks": broke}, {"controls": ()}]
    # Whoever planted nothing linear cannot say that it was found.
    changes += [{"controls": fewer}] if place in (1, 2, 3) else []
    for change in changes:
        (after,) = gate.decide(dataclasses.replace(found, **change), asked)
        assert before.outcome == HOLDS or after.outcome != HOLDS
    # What is there to see is seen, whatever else is missing.
    (after,) = gate.decide(dataclasses.replace(found, controls=()), asked)
    assert (after.outcome == VIOLATED) == (before.outcome == VIOLATED)


def test_the_gate_is_as_good_as_its_worst_verdict():
    good, doubt, bad = (
        gate.Verdict("mine", "x", outcome, Estimate(None), ()) for outcome in (HOLDS, UNDECIDED, VIOLATED)
    )
    assert [Gate.of(some).code for some in ((good, good), (good, bad, doubt), (good, doubt), ())] == [0, 3, 4, 4]


def scored(right, low=0.0, high=1.0, **more):
    """An audit of eight test images of four originals, of which an attack read so many."""
    rows = tuple(float(index < right) for index in range(8))
    result = attacked(Estimate(right / 8, low, high), per_example=rows)
    return evidence(result, **{"targets": (INK,), "groups": (0, 0, 1, 1, 2, 2, 3, 3), **more})


def compared(now, before):
    return {verdict.asked: verdict for verdict in gate.compare(now, before)}


def test_an_audit_is_no_worse_than_itself():
    found = compared(scored(4), scored(4))
    assert {one.outcome for one in found.values()} == {HOLDS}
    assert list(found) == ["utility no worse than before", "ink no worse than before"]
    assert "row by row, worse by 0.0 to 0.0" in found["ink no worse than before"].reasons


def test_pairs_show_what_two_intervals_do_not():
    """Every image that was read still is, and others too: of all originals but one, whatever is resampled."""
    before, now = scored(0), dataclasses.replace(scored(0), attacks=scored(8).attacks)
    verdict = compared(now, before)["ink no worse than before"]
    assert verdict.outcome == VIOLATED
    assert verdict.reasons[-1] == "row by row, worse by 100.0 to 100.0"
    # Better is never worse.
    assert compared(before, now)["ink no worse than before"].outcome == HOLDS
    for change in ({"seed": 1}, {"groups": (0, 0, 1, 1, 2, 2, 3, 4)}, {"groups": ()}):
        assert compared(now, dataclasses.replace(before, **change))["ink no worse than before"].outcome == HOLDS
    # Which images show one original must be known, unless each is its own.
    alone = [dataclasses.replace(one, groups=()) for one in (now, before)]
    assert compared(*alone)["ink no worse than before"].outcome == HOLDS
    own = [dataclasses.replace(one, sizes={"test": 8, "test_originals": 8}) for one in alone]
    assert compared(*own)["ink no worse than before"].outcome == VIOLATED


def test_pairs_are_resampled_by_original():
    """A difference that one original makes is no difference; bootstrapped image by image it would be one."""
    rng = np.random.default_rng(1)
    change = np.repeat(rng.choice([0.0, 1.0], 40, p=[0.9, 0.1]) - 0.02, 25)
    sizes, groups = {"test": 1000, "test_originals": 40}, tuple(np.repeat(np.arange(40), 25).tolist())
    before = attacked(around(0.3), per_example=(0.0,) * 1000)
    now = dataclasses.replace(before, per_example=tuple(change.tolist()))
    few = evidence(sizes=sizes, groups=groups)
    wide = gate.paired(few, now, few, before, True)
    own = evidence(sizes={"test": 1000, "test_originals": 1000})
    narrow = gate.paired(own, now, own, before, True)
    assert (wide.value, narrow.value) == pytest.approx((change.mean(),) * 2)
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    # Twenty-five images an original: five times as wide.
    assert ratio == pytest.approx(5, rel=0.15)
    mean, error = change.mean(), change[::25].std() / math.sqrt(40)
    assert (wide.low, wide.high) == (
        pytest.approx(mean - 2 * error, abs=0.02),
        pytest.approx(mean + 2 * error, abs=0.02),
    )
    flipped = gate.paired(own, now, own, before, False)
    assert (flipped.low, flipped.high) == pytest.approx((-narrow.high, -narrow.low), abs=1e-12)


def test_pairs_of_fewer_images_know_which_these_are():
    part = {"rows": (6, 7, 1), "per_example": (1.0, 1.0, 0.0)}
    now, before = attacked(around(0.3), **part), attacked(around(0.3), **{**part, "per_example": (0.0, 0.0, 0.0)})
    whole = scored(4)
    found = gate.paired(whole, now, whole, before, True)
    # Two images of one original, and one of another.
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0.0, 1.0)
    other = dataclasses.replace(before, rows=(6, 7, 0))
    assert gate.paired(whole, now, whole, other, True).value is None
    assert gate.paired(whole, dataclasses.replace(now, rows=()), whole, before, True).value is None


def test_two_scores_are_compared_as_independent_where_there_are_no_pairs():
    def with_accuracy(value):
        return evidence(attacked(around(0.3)), utility={"accuracy": around(value)}, targets=(INK,))

    before = with_accuracy(0.97)
    # Half-widths of a point each: 1.41 points are significant.
    for value, outcome in ((0.98, HOLDS), (0.96, HOLDS), (0.957, HOLDS), (0.955, VIOLATED)):
        assert compared(with_accuracy(value), before)["utility no worse than before"].outcome == outcome
    leak = dataclasses.replace(before, attacks=(attacked(around(0.4)),))
    assert compared(leak, before)["ink no worse than before"].outcome == VIOLATED
    assert compared(before, leak)["ink no worse than before"].outcome == HOLDS


@given(*(st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted) for _ in range(2)), st.booleans())
def test_what_is_worse_one_way_is_better_the_other(before, now, higher):
    one, other = (Estimate(value, low, high) for low, value, high in (before, now))
    there, back = gate.apart(one, other, higher), gate.apart(other, one, higher)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.value <= there.high


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"level": "preview"}, "level standard cannot be compared with level preview"),
        ({"dataset": "faces"}, "dataset digits cannot be compared with dataset faces"),
    ],
)
def test_other_audits_cannot_be_compared(change, reason):
    (verdict,) = gate.compare(scored(4), dataclasses.replace(scored(4), **change))
    assert (verdict.outcome, verdict.reasons) == (UNDECIDED, (reason,))


def test_no_worsening_is_only_believed_of_a_sound_audit():
    old = scored(4)
    missing = dataclasses.replace(old, attacks=())
    assert compared(missing, old)["ink no worse than before"].outcome == UNDECIDED
    assert {one.outcome for one in gate.compare(scored(4, controls=()), old)} == {UNDECIDED}
    failed = dataclasses.replace(old, attacks=(*old.attacks, attacked(around(0.1), "other", status="failed: why")))
    assert compared(failed, old)["ink no worse than before"].outcome == UNDECIDED
    endless = scored(4, None, None, groups=())
    assert compared(endless, endless)["ink no worse than before"].outcome == UNDECIDED


def test_files_for_machines_say_the_same():
    bad = "broke: \x00\x1b<&]]>\ud800"
    failed = dataclasses.replace(attacked(around(0.2)), scores={}, status=bad)
    found = evidence(attacked(around(0.5)), failed, subject="<mine>")
    told = Gate.of(gate.decide(found, gate.parse("ink<=0.35, ink<=0.6, utility>=0.95")))
    root = xml.fromstring(gate.junit(told))
    assert root.attrib == {"tests": "3", "failures": "1", "errors": "1"}
    cases = root.findall("testsuite/testcase")
    assert [(case.get("classname"), case.get("name"), case[0].tag) for case in cases] == [
        ("<mine>", "ink<=0.35", "failure"),
        ("<mine>", "ink<=0.6", "error"),
        ("<mine>", "utility>=0.95", "system-out"),
    ]
    assert "broke: ??<&]]>?" in cases[1][0].get("message")
    kept = json.loads(to_json(told))
    assert (kept["outcome"], kept["code"]) == (VIOLATED, 3)
    assert [one["asked"] for one in kept["verdicts"]] == ["ink<=0.35", "ink<=0.6", "utility>=0.95"]
    assert all("\n" not in str(one) for one in told.verdicts)


def test_the_gate_names_no_target():
    tree = ast.parse(pathlib.Path(gate.__file__).read_text())
    code = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not {"image", "attribute", "r2_class_mean", "balanced_accuracy"} & set(code)


def test_the_page_says_what_the_gate_does():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "GATE.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    gate.check(gate.parse(gate.read(block)["require"]), (INK, Image().words))
    quoted = re.findall(r'--require="(.*?)"', page)
    assert len(quoted) > 2
    for text in quoted:
        gate.check(gate.parse(text), (INK, Attribute("kind", 2).words, Image().words))
    assert dict(re.findall(r"^\| (\d) \| .*(holds|violated|decided)", page, re.M)) == {
        "0": "holds",
        "3": "violated",
        "4": "decided",
    }
    # What it says of limits at a chance of 25%.
    for limit, outcome in re.findall(
        r"`ink<=(0\.\d+)` (?:at a chance of 25% )?is \d+(?: points)?, (so|of which)", page
    ):
        verdict = decided(f"ink<={limit}", attacked(around(0.27)))
        assert verdict.outcome == (HOLDS if outcome == "so" else UNDECIDED)
