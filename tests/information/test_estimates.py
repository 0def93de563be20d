"""Estimates carry what a reader must know: self-tests, caps, selection's role, reasons; and never a NaN."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.information.critics import ESTIMATORS, Critics
from ani_jax.information.estimates import estimate_information, gaussian_self_test
from ani_jax.records import InformationEstimate, from_json, to_json

# The shapes of test_critics.py, so that both compile once.
FAST = Critics("nwj", 1, steps=300, width=32, learning_rate=1e-2)
INFONCE = Critics("infonce", 1, steps=300, width=32, learning_rate=1e-2)
CLUB = Critics("club", 3)
COUNTS = (2000, 1000, 1000)
RHO = 0.8


@functools.cache
def sets(rho=RHO, scale=1.0, shift=0.0):
    generator = np.random.default_rng(3)
    parts = [generator.standard_normal((2, count, 2)).astype(np.float32) for count in COUNTS]
    return [
        (jnp.asarray(x), jnp.asarray(scale * (rho * x + math.sqrt(1 - rho**2) * other) + shift)) for x, other in parts
    ]


@functools.cache
def nwj(rho=RHO, scale=1.0, shift=0.0, self_test=()):
    return estimate_information(jax.random.key(0), *sets(rho, scale, shift), FAST, self_test=self_test)


def conditional(x, z):
    return jax.scipy.stats.norm.logpdf(z[None], RHO * x[:, None], math.sqrt(1 - RHO**2)).sum(-1)


def test_record_says_what_was_done():
    found = nwj(self_test=(1.0, 12.0))
    assert found.value == pytest.approx(-math.log1p(-(RHO**2)), rel=0.15)
    assert (found.estimator, found.examples, found.dimensions) == ("nwj", COUNTS, (2, 2))
    assert found.seeds == (found.value,)
    assert found.kept[0] > 0
    assert (found.stddev, found.cap, found.reason) == (None, None, "")
    assert found.log_n == pytest.approx(math.log(1000))
    assert "log N = 6.908" in " ".join(found.caveats)
    assert "infinite" in " ".join(found.caveats)
    assert not any("kept untrained" in caveat or "saturated" in caveat for caveat in found.caveats)
    assert from_json(InformationEstimate, to_json(found)) == found


def test_same_key_same_record():
    again = estimate_information(jax.random.key(0), *sets(), FAST, self_test=())
    assert again == nwj()
    assert dataclasses.replace(nwj(self_test=(1.0, 12.0)), self_tests=()) == again
    other = estimate_information(jax.random.key(1), *sets(), FAST, self_test=())
    assert other.value != again.value


def test_shifting_and_scaling_z_changes_nothing():
    assert nwj(scale=1e3, shift=5.0).value == pytest.approx(nwj().value, abs=0.01)


def test_self_test_passes_where_it_can_and_says_where_it_cannot():
    able, unable = nwj(self_test=(1.0, 12.0)).self_tests
    assert (able.truth, able.expected, able.note) == (1.0, 1.0, "")
    assert able.passed
    assert 0.75 <= able.value <= 1.1
    # 12 nats are above log N.
    assert unable.value < 11.75
    assert not unable.passed
    assert f"reads {unable.value:.2f} where 12.00 is right" in unable.note


def test_untrained_critics_are_named_with_what_the_trained_ones_read():
    found = nwj(0.0)
    assert found.kept == (0,)
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert found.last < -0.01
    note = next(caveat for caveat in found.caveats if "kept untrained" in caveat)
    assert note.startswith("1 of 1 critics")
    assert f"the critics read {found.last:.3f} here" in note


def test_a_reading_below_zero_is_called_impossible():
    train, selection, (x, z) = sets()
    # Where z hangs on x the other way round than before, every trained critic is misled.
    found = estimate_information(jax.random.key(0), train, selection, (x, -z), FAST, self_test=())
    assert found.value < 0
    assert any(caveat.startswith("reads below 0, which no information is") for caveat in found.caveats)
    assert not any("reads below 0" in caveat for caveat in nwj().caveats)


def test_infonce_says_its_cap_and_stays_below_it():
    train, selection, (x, _) = sets()
    copies = [(x_part, x_part) for x_part, _ in (train, selection)]
    found = estimate_information(jax.random.key(0), *copies, (x[:8], x[:8]), INFONCE, noise=0.01, self_test=())
    assert found.cap == pytest.approx(math.log(8))
    assert 1.0 < found.value <= found.cap + 1e-5
    assert "cannot read above its cap, log 8 = 2.079 nats" in found.caveats[0]
    assert "saturated: within 0.5 nats of the 2.079" in " ".join(found.caveats)


def test_club_with_a_given_conditional():
    found = estimate_information(jax.random.key(0), *sets(), CLUB, conditional=conditional, self_test=(2.0,))
    assert found.value == pytest.approx(2 * RHO**2 / (1 - RHO**2), rel=0.1)
    assert len(found.seeds) == 3
    assert (found.kept, found.last) == ((), None)
    assert found.stddev < 0.01  # One conditional, one test set: the seeds differ in the order of pairs alone.
    assert "upper bound only if the conditional is exact, and loose" in found.caveats[0]
    assert not any("fitted" in caveat or "log N" in caveat for caveat in found.caveats)
    assert found.self_tests[0].passed


@pytest.mark.parametrize("dimensions", [(30, 20), (20, 30)])
def test_club_with_the_exact_conditional_has_its_closed_form(dimensions):
    found = [gaussian_self_test(jax.random.key(0), truth, CLUB, (2, 2, 4000), dimensions, exact_conditional=True)
             for truth in (0.0, 1.0, 2.0)]  # fmt: skip
    assert found[2].expected == pytest.approx(4.428, abs=1e-3)
    assert found[2].value == pytest.approx(found[2].expected, rel=0.1)
    assert all(one.passed for one in found)
    assert found[0].value < 0.05
    assert found[0].value < found[1].value < found[2].value


def test_not_finite_is_none_with_a_reason_for_every_seed():
    train, selection, (x, z) = sets()
    found = estimate_information(jax.random.key(0), train, selection, (x, z.at[0].set(jnp.inf)), FAST, self_test=())
    assert (found.value, found.last, found.seeds) == (None, None, (None,))
    assert found.reason == "seed 0: the value on the test pairs is not finite"
    assert "NaN" not in to_json(found)


def test_refuses():
    train, selection, (x, z) = sets()
    run = functools.partial(estimate_information, jax.random.key(0))
    with pytest.raises(ValueError, match=r"len\(test\.x\)=999: must be test\.z's, 1000"):
        run(train, selection, (x[:-1], z))
    with pytest.raises(ValueError, match=r"test\.z\.shape\[1\]=1: must be 2"):
        run(train, selection, (x, z[:, :1]))
    with pytest.raises(ValueError, match=r"len\(selection\.x\)=1: must be 2 or more"):
        run(train, (x[:1], z[:1]), (x, z))
    with pytest.raises(ValueError, match=r"noise=-1\.0"):
        run(*sets(), noise=-1.0)
    for critics, noise in ((FAST, 0.0), (CLUB, 0.1)):
        with pytest.raises(ValueError, match="conditional=given"):
            run(*sets(), critics, conditional=conditional, noise=noise)
    with pytest.raises(ValueError, match=r"truth=-1\.0"):
        gaussian_self_test(jax.random.key(0), -1.0, FAST, COUNTS, (2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_twenty_dimensions_over_three_seeds(estimator):
    read = functools.partial(
        gaussian_self_test, critics=Critics(estimator), examples=(40000, 4096, 4096), dimensions=(20, 20)
    )
    found = [read(jax.random.key(0), truth) for truth in (0.0, 1.0, 2.0)]
    assert found[0].value < 0.05
    assert found[0].last < 0.05  # The critics at the end of training, whatever selection kept.
    assert found[0].value < found[1].value < found[2].value
    expected = found[2].expected
    low, high = (0.9 * expected, 1.1 * expected) if estimator == "club" else (expected - 0.25, expected + 0.1)
    assert low <= found[2].value <= high
    assert found[2].passed
