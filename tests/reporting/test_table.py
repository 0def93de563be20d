"""The table holds the numbers, says why others are missing, stays aligned and fits a terminal."""

import dataclasses

import pytest

from ani_jax.records import Criterion, Estimate, InformationEstimate, SelfTest
from ani_jax.reporting import findings, table
from ani_jax.targets.attribute import Attribute


def line(text, label):
    return next(row for row in text.splitlines() if row.strip().startswith(label))


def test_values_intervals_and_references_are_shown(none, funnel):
    text = table.summary((none, funnel))
    assert "97.6% [96.6, 98.6]" in line(text, "accuracy")
    assert "94.4% [93.4, 95.4]" in line(text, "accuracy")
    assert "30.0% [29.0, 31.0]" in line(text, "balanced accuracy")
    assert line(text, "chance").split() == ["chance", "25.0%", "25.0%"]
    assert line(text, "MSE of the class mean").split()[-2:] == ["0.0431", "0.0431"]
    assert line(text, "client parameters").split()[-2:] == ["18,816", "18,816"]
    assert line(text, "MACs").split()[-1] == "2,654,208"
    assert line(text, "floats sent").split()[-1] == "2,048"


def test_changes_are_against_the_reference_wherever_it_stands(none, funnel):
    for pair in ((none, funnel), (funnel, none)):
        text = table.summary(pair)
        assert sorted(line(text, "change in points").split()[3:]) == ["-3.2", "pt", "ref."]
        assert "+210%" in text
        assert "-75%" in text


def test_missing_values_carry_their_reason(none, funnel):
    text = table.summary((none, funnel))
    leakage = line(text, "normalised leakage").split()
    number = leakage[-1]
    assert leakage[-2] == "–"
    assert f"{number} denominator under two standard errors" in text
    assert "not run" in text
    assert "failed: masked" in text


def test_values_start_and_end_in_one_column(none, funnel):
    text = table.summary((none, funnel))
    plain = [
        row for row in text.splitlines() if row.strip().startswith(("chance", "majority", "raw input", "client par"))
    ]
    assert len({len(row) for row in plain}) == 1
    header = next(row for row in text.splitlines() if row.split() == ["none", "funnel"])
    starts = [row.index("[") for row in text.splitlines() if row.count("[") == 2]
    assert len(set(starts)) == 1
    assert header.index("none") < starts[0] < header.index("funnel")


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_any_number_of_subjects_fits(none, funnel, count):
    names = ["none", *(f"{'a very long name of a subject ' * 3}{i}" for i in range(1, count))]
    text = table.summary([dataclasses.replace(funnel if i else none, subject=n) for i, n in enumerate(names)])
    assert max(map(len, text.splitlines())) <= table.WIDTH
    assert text.count("Utility on test") == (count + 1) // 2
    assert not any(row != row.rstrip() for row in text.splitlines())


def test_terminal_control_characters_are_not_printed(none):
    text = table.summary((dataclasses.replace(none, subject="no\x1b[2Jne\n", notes=("a\rb",)),))
    assert text.replace("\n", "").isprintable()


def test_nothing_to_report_is_an_error():
    with pytest.raises(ValueError, match="evidences is empty"):
        table.summary(())


def test_an_audit_without_attacks_cost_or_utility_is_reported(none):
    bare = dataclasses.replace(none, attacks=(), cost=None, utility={})
    assert "digits" in table.summary((bare,))
    assert findings.headline((bare,)) == ("none: nothing was measured.",)


def test_opaque_release_has_no_cost(none, funnel):
    text = table.summary((none, dataclasses.replace(funnel, cost=None)))
    assert "opaque" in text


def test_no_relative_change_from_a_reference_at_or_below_zero(audit, decoder):
    pair = (audit("none", 0.9, (decoder(0.05, -0.1),)), audit("funnel", 0.9, (decoder(0.06, -0.3),)))
    assert "the reference is 0 or less" in table.summary(pair)
    assert "R² over class mean falls (-0.10 → -0.30)" in findings.headline(pair)[0]


def test_estimate_formats():
    assert table.estimate(Estimate(0.5), findings.percent) == table.Cell("50.0%")
    assert table.estimate(Estimate(20.0, 19.0, 21.0), findings.decibel) == table.Cell("20.0 dB", "[19.0, 21.0]")
    assert table.estimate(None, findings.ratio) == table.Cell("–", note="not measured")
    assert findings.ratio(-0.001) == "0.00"


def test_a_failed_attack_shows_as_failed(none, audit, decoder):
    broken = audit("broken", 0.97, (decoder(1.0, -1.0, status="failed: nan"),))
    assert line(table.summary((none, broken)), "MSE ").split()[-2] == "failed"


def test_long_names_of_targets_and_data_sets_fit(none):
    long = Attribute("ink" * 60, 4).words
    attacks = tuple(dataclasses.replace(a, target=long.name) for a in none.attacks)
    text = table.summary((dataclasses.replace(none, dataset="digits " * 40, attacks=attacks, targets=(long,)),))
    assert max(map(len, text.splitlines())) <= table.WIDTH


def measured(value, passed=True):
    tests = (SelfTest(2.0, 2.0, 1.2, None, (), None, passed, "" if passed else "0.8 nats short of 2"),)
    caveats = ("a lower bound",)
    told = InformationEstimate("nwj", value, 0.1, (), (), None, 0.1, (1, 1, 1), (1, 1), 0.0, None, caveats, tests)
    return Criterion(told, 0.4, None, 1.25, 30.0, 0.5, 0.1, 1.0, ("no Gaussian entropy",))


def test_the_criterion_stands_beside_its_self_test(none, funnel):
    text = table.summary((none, dataclasses.replace(funnel, criterion=measured(3.5, passed=False))))
    assert line(text, "I(x; z + noise)").split()[4] == "–"
    assert "3.50 ± 0.10" in line(text, "I(x; z + noise)")
    assert "1.20" in line(text, "its self-test, 2 known")
    assert "the self-test failed: 0.8 nats short of 2" in text
    assert "a lower bound; no Gaussian entropy" in text
    assert "0.50" in line(text, "effective volume")
    assert "Inversion difficulty" not in table.summary((none, funnel))
    assert "self-test failed" not in table.summary((dataclasses.replace(none, criterion=measured(3.5)),))
