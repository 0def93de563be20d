import dataclasses

import numpy as np
import pytest
import scipy.stats

from ani_jax.records import Criterion, InformationEstimate, SelfTest
from ani_jax.reporting import agreement


def criterion(value, volume=None):
    told = InformationEstimate("nwj", value, None, (), (), None, 0.1, (1, 1, 1), (1, 1), 0.0, None, ())
    return Criterion(told, None, None, None, None, volume, 0.1, 1.0)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=20), rng.normal(size=20)
    assert agreement.rank_correlation(left, right) == pytest.approx(scipy.stats.spearmanr(left, right).statistic)
    assert agreement.rank_correlation([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1)


def test_too_little_says_nothing():
    assert agreement.rank_correlation([1.0, 2.0], [2.0, 1.0]) is None
    assert agreement.rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_a_criterion_that_works_is_told_as_minus_one(none, decoder):
    clients = [
        dataclasses.replace(none, attacks=(decoder(mse, 0.5),), criterion=criterion(1 / mse, mse))
        for mse in (0.01, 0.02, 0.05, 0.03)
    ]
    found = agreement.lines([*clients, none])
    assert found == (
        "I(x; z + noise) against the strongest reconstruction's MSE: Spearman -1.00 [-1.00, -1.00] over 4 clients",
        "effective volume against the strongest reconstruction's MSE: Spearman +1.00 [+1.00, +1.00] over 4 clients",
    )
    assert agreement.lines(clients[:2]) == ()
    assert agreement.lines([none]) == ()


def test_an_estimate_that_says_nothing_is_named(none):
    failed = SelfTest(2.0, 2.0, 0.1, None, (), None, False, "reads 0.10 where 2.00 is right")
    told = criterion(-6210.0)
    broken = dataclasses.replace(told, information=dataclasses.replace(told.information, self_tests=(failed,)))
    clients = {name: dataclasses.replace(none, criterion=c) for name, c in (("a", criterion(1.0)), ("b", broken))}
    assert agreement.caveats({**clients, "c": none}) == (
        "b: I(x; z + noise) reads 0 or less: no critic found anything, which says nothing of z",
        "b: the self-test failed: reads 0.10 where 2.00 is right",
    )
