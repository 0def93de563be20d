import numpy as np

from ani_jax.records import AttackResult, Estimate, Evidence
from ani_jax.reporting.adversaries import gaps, silent
from ani_jax.targets.attribute import Attribute


def log(accuracy=(), majority=0.25, losses=(), blind=0.1):
    attribute = [
        {"adversary/ink-mlp": 1.4, "adversary/ink-mlp/accuracy": a, "adversary/ink-mlp/majority": majority}
        for a in accuracy
    ]
    return attribute + [{"adversary/image": loss, "adversary/image/blind": blind} for loss in losses]


def test_an_adversary_at_chance_is_reported_and_one_that_was_beaten_is_not():
    dead = np.random.default_rng(0).binomial(64, 0.25, 40) / 64
    assert silent(log(dead), 64)[0].startswith("adversary ink-mlp was never clearly better than the majority class")
    beaten = [0.8, 0.9, 0.7, 0.6, 0.4, *dead]
    assert silent(log(beaten), 64) == ()


def test_one_lucky_batch_is_no_learning():
    assert silent(log([0.25] * 10 + [0.5] + [0.25] * 10), 64)
    assert not silent(log([0.25] * 10 + [0.5] * 5 + [0.25] * 10), 64)


def test_few_entries_of_large_batches_are_enough():
    assert not silent(log([0.4, 0.4]), 512)
    assert silent(log([0.26, 0.26]), 512)


def test_a_decoder_that_never_beats_the_mean_image_is_reported():
    assert silent(log(losses=[0.3, 0.2, 0.15]), 64) == (
        "adversary image was never clearly better than the mean image (best 0.217 against 0.100): it may not have learnt",
    )
    assert silent(log(losses=[0.3] * 5 + [0.05] * 5 + [0.3] * 5), 64) == ()


def test_a_log_without_adversaries_says_nothing():
    assert silent([{"loss": 1.0}], 64) == ()
    assert silent([], 64) == ()
    assert silent([{"loss": 1.0}, *log([0.9] * 5)], 64) == ()


def evidence(score, name="ink"):
    result = AttackResult("attribute", name, 1, "probe", {"balanced_accuracy": Estimate(score)}, {}, (), Estimate(None))
    return Evidence("partition", "digits", 0, "standard", {}, {}, {}, (result,), targets=(Attribute(name, 4).words,))


def test_gap_is_between_the_last_entries_and_the_strongest_retrained_attacker():
    entries = log([0.9] * 20 + [0.3] * 5)
    assert gaps(entries, evidence(0.5)) == (
        "ink: the co-trained adversaries ended at 30.0%, retrained attackers reach 50.0%, a gap of 20.0 points",
    )
    assert gaps([], evidence(0.5)) == ()


def test_gap_takes_the_best_adversary():
    other = [{"adversary/ink-conv/accuracy": 0.4} for _ in range(5)]
    assert "ended at 40.0%" in gaps(log([0.3] * 5) + other, evidence(0.5))[0]
    assert gaps([{"adversary/image": 0.1}], evidence(0.5)) == ()


def test_an_attribute_may_have_a_dash():
    found = gaps([{"adversary/eye-colour-mlp/accuracy": 0.4}], evidence(0.5, "eye-colour"))
    assert found[0].startswith("eye-colour: ")
