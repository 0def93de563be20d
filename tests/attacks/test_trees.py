import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.attribute import Probe, Voting
from ani_jax.attacks.base import Fitted
from ani_jax.attacks.network import BEHIND, PRUNED
from ani_jax.attacks.trees import Boosted
from ani_jax.records import Look
from ani_jax.targets.attribute import Attribute
from ani_jax.types import Batch, Knowledge, Source, fixed

WHERE = Attribute("where", 3)


def batch(key, count):
    """Which third of the row holds the largest value; nothing linear tells."""
    image = jax.random.normal(key, (count, 3, 3, 1))
    where = jnp.square(image).sum((2, 3)).argmax(1)
    return Batch(image, jnp.zeros(count, jnp.int32), {"where": where})


def asked(release, auxiliary, validation, count=2000):
    knowledge = Knowledge(query.as_release(release))
    return base.prepare(jax.random.key(0), knowledge, Source(auxiliary, fixed), validation, count=count)


@pytest.fixture(scope="module")
def problem():
    return asked(lambda x: x, batch(jax.random.key(1), 2000), batch(jax.random.key(2), 400))


def strength(found, of):
    return WHERE.strength(np.asarray(found.attacker(jax.random.key(0), of.held)), of.validation)


def test_trees_read_what_no_line_divides(problem, fit):
    trees = fit(Boosted(WHERE, steps=60), jax.random.key(3), problem)
    probe = fit(Probe(WHERE), jax.random.key(3), problem)
    assert strength(trees, problem) > 0.75
    assert strength(probe, problem) < 0.45
    again, other = (fit(Boosted(WHERE, steps=60), jax.random.key(seed), problem) for seed in (3, 4))
    guesses = [np.asarray(one.attacker(jax.random.key(0), problem.held)) for one in (trees, again, other)]
    np.testing.assert_array_equal(guesses[0], guesses[1])
    assert not np.array_equal(guesses[0], guesses[2])
    np.testing.assert_allclose(np.exp(guesses[0]).sum(1), 1, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Started(base.Attack):
    """A rival whose start had a strength."""

    strength: float = 0.0
    family = "attribute"

    def fit(self, context):
        return base.Fitted(None, "none", curves=((Look(1, 0.5, self.strength),),))


@pytest.mark.parametrize(("strong", "rounds"), [(0.95, 5), (0.4, 60)])
def test_trees_go_on_unless_a_rival_started_stronger(problem, strong, rounds):
    fits, trees, vote = base.Fits(problem, lambda attack: jax.random.key(3)), Boosted(WHERE, 60, first=5), Voting(WHERE)
    rivals = (Started(WHERE, strength=strong), Probe(WHERE), trees, vote)
    found = fits(trees, rivals)
    # The vote is not asked before all others are done.
    assert vote not in fits.done
    assert fits(vote, rivals).failed is None
    assert (found.attacker.model.n_iter_, found.ended) == (rounds, PRUNED if rounds == 5 else "")
    if rounds == 60:
        assert strength(found, problem) > 0.75


def test_trees_do_not_start_where_a_rival_has_answered(problem):
    fits, trees = base.Fits(problem, lambda attack: jax.random.key(3)), Boosted(WHERE, 60, first=5)
    assert fits(trees, (Started(WHERE, strength=0.995), trees)) == Fitted(None, ended=BEHIND)


def test_boosting_ends_where_validation_gains_no_more(fit):
    silent = asked(
        lambda x: 0 * x + jnp.arange(9.0).reshape(1, 3, 3, 1), *(batch(jax.random.key(i), 500) for i in (1, 2))
    )
    found = fit(Boosted(WHERE, steps=200), jax.random.key(0), silent)
    assert found.attacker.model.n_iter_ < 30
    assert strength(found, silent) == pytest.approx(1 / 3, abs=1e-6)


def test_a_class_that_was_never_seen_is_never_chosen(fit):
    two = batch(jax.random.key(1), 2000)
    rows = np.flatnonzero(np.asarray(two.sensitive["where"]) != 1)
    two = jax.tree.map(lambda leaf: leaf[rows], two)
    some = asked(lambda x: x.reshape(len(x), -1), two, batch(jax.random.key(2), 200), count=500)
    guess = np.asarray(fit(Boosted(WHERE, steps=10), jax.random.key(0), some).attacker(jax.random.key(0), some.held))
    assert guess.shape == (200, 3)
    assert not (guess.argmax(1) == 1).any()
    assert np.isfinite(guess).all()
