import csv
import io

import pandas
import pytest

from ani_jax.records import AttackResult, Estimate, Evidence
from ani_jax.reporting import frontier as numbers
from ani_jax.reporting import frontier_page
from ani_jax.reporting.frontier import WORST, audited, leakages, point
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

WORDS = (Attribute("ink", 4).words, Image().words)


def by_measure(found, measure):
    means = numbers.means(found)
    return {mean.title: mean for mean in means[means.measure == measure].itertuples()}


def leak(attack, target, queries, score, leakage, status="ok"):
    return attack, target, queries, score, leakage, status


def of(*leaks):
    return point("ani", 1.0, {"entropy": 0.5}, 0, 0.9, 0.1, leaks)


def leaked(found, measure):
    """The only point's leakage, None where it is not known."""
    value = leakages(found).get(measure, pandas.Series([None])).item()
    return None if pandas.isna(value) else value


def test_means_and_bands_are_over_seeds(frontier):
    low = by_measure(frontier, "ink: attribute")["funnel ×0.1"]
    # Accuracies 0.97 and 0.98: half a point either way times t(0.975, 1 degree) = 12.706.
    assert low.accuracy == pytest.approx(0.975)
    assert low.accuracy_high - low.accuracy == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert low.leakage == pytest.approx(0.85)


def test_fronts_are_those_of_all_defences_together(frontier):
    on = {title: mean.front for title, mean in by_measure(frontier, WORST).items()}
    assert on == {"none": True, "funnel ×0.1": True, "funnel ×10": False, "ani ×1": True}


def test_hypervolume_is_the_mean_of_the_seeds(frontier):
    found = numbers.volumes(frontier).loc["ink: attribute", "ani"]
    # (0.96 - 0.1) / 0.9 of the accuracy times 0.6 of the leakage, and 0.94 with 0.7.
    one, other = (0.86 / 0.9) * 0.6, (0.84 / 0.9) * 0.7
    assert found.volume == pytest.approx((one + other) / 2)
    assert found.volume_low < one < found.volume_high


def test_a_point_that_a_seed_lacks_is_left_out_and_said(frontier):
    broken = point("funnel", 1.0, {"beta": 30.0}, 1, status="not trained: step 40: loss not finite")
    whole = point("funnel", 1.0, {"beta": 30.0}, 0, 0.99, 0.1, [leak("attribute", "ink", 1, 0.3, 0.0)])
    found = pandas.concat([frontier, whole, broken], ignore_index=True)
    assert "funnel ×1" not in {*numbers.means(found).title}
    assert any("funnel ×1, seed 1: not trained: step 40" in caveat for caveat in numbers.caveats(found))
    # It covers nothing at its seed, so the hypervolume can only be that of the others there.
    before, after = (numbers.volumes(f).volume["ink: attribute", "funnel"] for f in (frontier, found))
    assert after > before


def test_a_measure_that_every_mean_lacks_is_no_panel_and_said(frontier):
    """Leakage is undefined where the undefended client leaks no more than chance, which may happen at one seed of two."""
    points = [
        point("ani", 1.0, {"entropy": 0.5}, seed, 0.9, 0.1, [leak("decoder", "image", 1, 0.1, 0.5), attribute])
        for seed, attribute in enumerate((leak("probe", "ink", 1, 0.3, 0.2), leak("probe", "ink", 1, 0.3, None)))
    ]
    found = pandas.concat(points)
    assert [*numbers.means(found).measure] == [WORST, "image: decoder"]
    assert any("ink: probe, seed 1: its leakage is not defined at 1 points" in line for line in numbers.caveats(found))
    assert "image: decoder" in frontier_page.render(found, dataset="digits", level="standard", command="")
    nothing = point("ani", 1.0, {}, 0, status="not trained: step 1: loss not finite")
    assert numbers.means(nothing).empty
    assert "No point has both" in numbers.table(nothing)


def test_failed_attacks_are_said():
    found = of(leak("probe", "ink", 1, None, None, "failed: loss not finite"), leak("net", "ink", 1, 0.4, 0.2))
    assert any("ink: probe failed: loss not finite" in caveat for caveat in numbers.caveats(found))
    assert any("one seed" in caveat for caveat in numbers.caveats(found))


def test_the_spreadsheet_holds_every_point_and_attack(frontier):
    rows = list(csv.DictReader(io.StringIO(numbers.as_csv(frontier))))
    assert len(rows) == len(frontier) + len(frontier.drop_duplicates(["title", "seed"]))
    (row,) = [r for r in rows if (r["defense"], r["seed"], r["measure"]) == ("ani", "1", "image: decoder, 64 releases")]
    assert (float(row["accuracy"]), float(row["leakage"]), row["weights"]) == (0.94, 0.5, "entropy=0.5")
    fronts = {(r["defense"], r["multiplier"]): r["front"] for r in rows if r["measure"] == WORST}
    assert fronts == {("none", "1.0"): "1", ("funnel", "0.1"): "1", ("funnel", "10.0"): "0", ("ani", "1.0"): "1"}


def test_the_table_marks_the_undominated(frontier):
    lines = numbers.table(frontier).splitlines()
    assert any(line.startswith("*") and "ani ×1" in line and "95.0% [" in line for line in lines)
    assert any(not line.startswith("*") and "funnel ×10" in line for line in lines)
    assert any(line.startswith("Hypervolume under the worst attack: none") for line in lines)


def test_nothing_measured_is_said_not_drawn():
    found = point("ani", 1.0, {}, 0, status="not trained: x")
    assert numbers.means(found).empty
    assert "No point" in numbers.findings(found)[0]
    (row,) = csv.DictReader(io.StringIO(numbers.as_csv(found)))
    assert (row["measure"], row["leakage"], row["front"], row["status"]) == (WORST, "", "0", "not trained: x")


def result(attack, target, leakage, *, score=0.5, queries=1, status="ok"):
    scores = {"balanced_accuracy": Estimate(score)}
    if target == "image":
        scores = {"mse": Estimate(score), "r2_class_mean": Estimate(leakage)}
        leakage = None
    return AttackResult(attack, target, queries, "", scores, {}, (), Estimate(leakage), status=status)


def test_a_point_keeps_what_an_audit_found():
    utility = {"accuracy": Estimate(0.97), "majority_class": Estimate(0.11)}
    attacks = (result("attribute", "ink", 0.3, score=0.45), result("decoder", "image", 0.6, score=0.01))
    evidence = Evidence("ani", "digits", 3, "standard", {}, {}, utility, attacks, targets=WORDS)
    found = audited(evidence, "ani", 0.1, {"entropy": 0.05})
    assert [*found.iloc[0][["seed", "accuracy", "majority"]]] == [3, 0.97, 0.11]
    assert [*found[[*numbers.LEAK]].itertuples(index=False, name=None)] == [
        leak("attribute", "ink", 1, 0.45, 0.3),
        leak("decoder", "image", 1, 0.01, 0.6),
    ]
    assert leaked(found, WORST) == 0.6
    assert leaked(found, "ink: attribute") == 0.3


def test_the_worst_attack_may_ask_often_and_aim_at_anything():
    found = of(leak("probe", "ink", 1, 0.3, 0.1), leak("probe", "ink", 64, 0.8, 0.7), leak("net", "image", 1, 0.1, 0.4))
    assert leaked(found, WORST) == 0.7
    assert leaked(found, "ink: probe, 64 releases") == 0.7
    assert leaked(found, "image: net, 64 releases") is None


def test_a_deterministic_client_says_the_same_however_often_it_is_asked():
    once = point("funnel", 1.0, {}, 0, 0.9, 0.1, [leak("probe", "ink", 1, 0.3, 0.1)])
    often = of(
        leak("probe", "ink", 1, 0.3, 0.2), leak("probe", "ink", 64, 0.8, 0.7), leak("net", "image", 64, 0.1, 0.4)
    )
    found = leakages(pandas.concat([often, once]))
    assert [*found["ink: probe, 64 releases"]] == [0.7, 0.1]
    assert [*found["image: net, 64 releases"].isna()] == [False, True]
    # A burst shows near-duplicates, of which every client says something new.
    burst = leak("probe burst", "ink", 16, 0.5, 0.6)
    shown = point("funnel", 1.0, {}, 0, 0.9, 0.1, [leak("probe", "ink", 1, 0.3, 0.1), burst])
    found = leakages(
        pandas.concat([often, shown, point("none", 1.0, {}, 0, 0.9, 0.1, [leak("probe", "ink", 1, 0.3, 0.1)])])
    )
    assert [*found["ink: probe, 64 releases"]] == [0.7, 0.1, 0.1]
    assert [*found["ink: probe burst, 16 releases"].isna()] == [True, False, True]


def test_a_failed_attack_is_never_privacy():
    failed = leak("probe", "ink", 1, 0.25, 0.0, "failed: gradient masked")
    assert leaked(of(failed), "ink: probe") is None
    assert leaked(of(failed, leak("net", "image", 1, 0.1, 0.4)), WORST) is None
    # Another attacker of the same target did its work.
    assert leaked(of(failed, leak("net", "ink", 1, 0.5, 0.3)), WORST) == 0.3


def test_the_undefended_reference_leaks_all_that_there_is_to_leak():
    def result(attack, score, low, floor):
        scores = {"balanced_accuracy": Estimate(score, low, 1.0)}
        references = {"chance": 0.25, "label_mediated": floor}
        return AttackResult(attack, "ink", 1, "probe", scores, references, (), Estimate(None))

    sure, unsure = result("attribute", 0.9, 0.88, 0.3), result("other", 0.32, 0.28, 0.3)
    for subject, expected in (("none", [False, True]), ("funnel", [True, True])):
        evidence = Evidence(subject, "digits", 0, "standard", {}, {}, {}, (sure, unsure), targets=WORDS)
        leakage = audited(evidence, subject, 1.0, {}).leakage
        assert [*leakage.isna()] == expected
        assert (leakage.dropna() == 1).all()


def test_an_undefined_leakage_does_not_hide_the_others():
    undefined = leak("probe", "group", 1, 0.5, None)
    assert leaked(of(undefined, leak("net", "ink", 1, 0.5, 0.3)), WORST) == 0.3
    assert leaked(of(undefined), WORST) is None
    assert numbers.members(of(undefined)).empty
