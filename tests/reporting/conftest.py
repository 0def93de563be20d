"""A small pair of audits with all that a report must cope with: intervals, gaps, failures and several queries."""

import numpy as np
import pandas
import pytest

from ani_jax.records import Attacker, AttackResult, CostCard, Estimate, Evidence, Picture
from ani_jax.reporting.frontier import point
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image

WORDS = (Attribute("ink", 4).words, Image().words)


def around(value, width=0.01):
    return Estimate(value, value - width, value + width)


def attribute(accuracy, leakage):
    references = {"chance": 0.25, "majority": 0.262, "label_mediated": None, "raw_input": 1.0}
    attackers = (
        Attacker("probe", 0.5, 0.4, 0),
        Attacker("conv", 0.9, accuracy, 800),
        Attacker("wide", None, None, 12, "failed: loss not finite"),
    )
    scores = {"balanced_accuracy": around(accuracy), "auc": Estimate(0.9)}
    return AttackResult("attribute", "ink", 1, "conv", scores, references, attackers, leakage)


def decoder(mse, r2, queries=1, status="ok"):
    scores = {"mse": around(mse, mse / 10), "psnr": around(20.0), "r2_class_mean": around(r2)} if status == "ok" else {}
    references = {"mse_mean_image": 0.071, "mse_class_mean": 0.0431}
    picture = Picture.of(np.full((3, 4, 4, 3), mse)) if status == "ok" else None
    attackers = (Attacker("residual", -mse, -mse, 1500, status),)
    nothing = Estimate(None, note="attributes only")
    return AttackResult(
        "decoder", "image", queries, "residual", scores, references, attackers, nothing, (), picture, status
    )


def audit(subject, accuracy, attacks, notes=()):
    originals = Picture.of(np.linspace(0, 1, 3 * 4 * 4 * 3).reshape(3, 4, 4, 3))
    cost = CostCard(18816, 2654208, 2048, 8192, 2048, 3072)
    steps, sizes = {"conv": 800}, {"validation": 720, "test": 1440}
    utility = {"accuracy": around(accuracy)}
    return Evidence(
        subject, "digits", 0, "standard", steps, sizes, utility, attacks, originals, cost, notes, targets=WORDS
    )


@pytest.fixture(name="audit", scope="session")
def _audit():
    return audit


@pytest.fixture(name="decoder", scope="session")
def _decoder():
    return decoder


@pytest.fixture(scope="session")
def none():
    return audit("none", 0.976, (attribute(0.99, around(1.0)), decoder(0.01, 0.8)))


@pytest.fixture(scope="session")
def funnel():
    missing = Estimate(None, note="denominator under two standard errors")
    attacks = (
        attribute(0.3, missing),
        decoder(0.031, 0.2),
        decoder(0.02, 0.4, 16),
        decoder(0.0, 0.0, 64, "failed: masked"),
    )
    return audit("funnel", 0.944, attacks, ("one defence seed",))


@pytest.fixture(scope="session")
def log():
    return [
        {"step": 10 * i, "phase": i // 5, "loss": 2.0 / (i + 1), "terms": {"ce": 1.0 / (i + 1)}, "ok": True}
        for i in range(10)
    ]


def member(name, multiplier, weights, seed, accuracy, ink, image, often=None):
    leaks = [("attribute", "ink", 1, 0.25 + 0.75 * ink, ink, "ok"), ("decoder", "image", 1, 0.05, image, "ok")]
    leaks += [] if often is None else [("decoder", "image", 64, 0.04, often, "ok")]
    return point(name, multiplier, weights, seed, accuracy, 0.1, leaks)


@pytest.fixture(scope="session")
def frontier():
    """Two defences, one of which is deterministic, and the undefended reference, at two seeds."""
    points = (
        *(member("none", 1.0, {}, seed, 0.98, 1.0, 0.99) for seed in (0, 1)),
        *(member("funnel", 0.1, {"beta": 3.0}, seed, 0.97 + 0.01 * seed, 0.9 - 0.1 * seed, 0.5) for seed in (0, 1)),
        *(member("funnel", 10.0, {"beta": 300.0}, seed, 0.9, 0.95, 0.6) for seed in (0, 1)),
        *(
            member("ani", 1.0, {"entropy": 0.5}, seed, 0.96 - 0.02 * seed, 0.4 - 0.1 * seed, 0.3, 0.5)
            for seed in (0, 1)
        ),
    )
    return pandas.concat(points, ignore_index=True)
