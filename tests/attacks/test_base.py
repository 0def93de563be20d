"""The contract: who attacks at which level, what is fitted once, and what becomes of an attack that raises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base
from ani_jax.attacks.attribute import AGAIN, Probe, Reader, Voting
from ani_jax.attacks.base import (
    ATTACKS,
    LEVELS,
    Attack,
    Context,
    Family,
    Fits,
    Fitted,
    Level,
    answered_alike,
    families,
    register,
)
from ani_jax.attacks.decoder import Kernel, Local, Residual, Ridge
from ani_jax.attacks.likelihood import Reconstruction
from ani_jax.attacks.mismatch import MismatchedRidge
from ani_jax.attacks.query import as_predictor, as_release
from ani_jax.attacks.whitebox import WhiteBox
from ani_jax.attacks.within import Within
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Knowledge, Release, Source, fixed

INK, PAPER = Attribute("ink", 2), Attribute("paper", 3)
TARGETS = (INK, PAPER, Image())
NOTHING = Knowledge()
PLAIN = Knowledge(as_release(lambda x: x))
PREDICT = Knowledge(PLAIN.release, as_predictor(lambda z: z))
NOISY = Knowledge(Release((), lambda variables, x, key: x, stochastic=True))
DECLARED = Knowledge(
    Release((), lambda v, x, key: x, stochastic=True, mean=lambda v, x: x, stddev=lambda v, x: x), PREDICT.predict
)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 5.0), (-2.0, 1.0)])
def test_standardising_undoes_scale_and_shift(key, scale, shift):
    z = jax.random.uniform(key, (64, 5))
    first, second = base.Standardiser.of(z)(z), base.Standardiser.of(scale * z + shift)(scale * z + shift)
    np.testing.assert_allclose(first * np.sign(scale), second, atol=2e-3)


@pytest.mark.parametrize("constant", [0.0, 1e-6, 0.1, 1e4])
def test_a_constant_feature_is_standardised_to_zero(constant):
    z = jnp.full((1000, 3), constant)
    np.testing.assert_array_equal(base.Standardiser.of(z)(z + 1), 0)


def test_asking_needs_the_release(key):
    batch = Batch(jnp.ones((3, 2, 2, 1)), jnp.arange(3), {})
    with pytest.raises(ValueError, match="release"):
        base.prepare(key, Knowledge(), Source(batch, fixed), batch)


def most(kind, field, name):
    """The most of a setting that attacks of a kind have at a level, 0 where they sit it out."""
    target = INK if kind is Reader else Image()
    return max((getattr(attack, field) for attack in kind.at(target, LEVELS[name])), default=0)


def test_levels_grow():
    preview, standard, thorough = LEVELS.values()
    for field in ("sample", "often"):
        assert getattr(preview, field) < getattr(standard, field) < getattr(thorough, field)
    for kind, field in ((Reader, "steps"), (Residual, "steps"), (WhiteBox, "steps")):
        counts = [most(kind, field, name) for name in LEVELS]
        assert counts[0] < counts[1] < counts[2]
    assert (preview.plants, standard.plants, thorough.plants) == (False, True, True)
    assert most(WhiteBox, "steps", "thorough") >= 1000
    assert most(WhiteBox, "restarts", "thorough") > most(WhiteBox, "restarts", "standard") > 1


def test_whoever_attacks_at_a_level_attacks_at_the_next_with_no_fewer_steps():
    for target in (INK, Image()):
        for kind in ATTACKS[type(target)]:
            steps = [[attack.steps for attack in kind.at(target, LEVELS[name])] for name in LEVELS]
            counts = [max(found, default=-1) for found in steps]
            assert counts == sorted(counts), kind


@pytest.mark.parametrize("name", LEVELS)
def test_settings_are_fields_and_attacks_are_static(name):
    for target in (INK, Image()):
        for kind in ATTACKS[type(target)]:
            fields = {field.name for field in dataclasses.fields(kind)}
            assert set(kind.levels) <= set(LEVELS)
            assert set(kind.levels.get(name, {})) < fields
            for attack in kind.at(target, LEVELS[name]):
                assert attack == dataclasses.replace(attack)
                assert hash(attack) == hash(dataclasses.replace(attack))


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("knowledge", [NOTHING, PLAIN, DECLARED])
def test_every_target_is_attacked(name, knowledge):
    found = families(TARGETS, LEVELS[name], knowledge)
    once = [family for family in found if family.queries == 1]
    assert [family.target.name for family in once[:3]] == ["ink", "paper", "image"]
    assert {family.target.name for family in once[3:]} <= {"image"}
    assert found == families(TARGETS, LEVELS[name], knowledge)
    assert len({family.title for family in found}) == len(set(found)) == len(found)
    assert isinstance(once[2].attacks[0], Ridge)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("knowledge", [NOTHING, PLAIN, DECLARED])
def test_names_within_a_family_are_unique_and_closed_forms_come_first(name, knowledge):
    for family in families(TARGETS, LEVELS[name], knowledge):
        names = [attack.name for attack in family.attacks]
        assert len(set(names)) == len(names)
        # Who builds on all others stands behind them.
        order = [(attack.last, attack.steps > 0) for attack in family.attacks]
        assert order == sorted(order)
        assert {attack.family for attack in family.attacks} == {family.name}
        # What its attackers own is asked for once for all of them.
        assert len({attack.owns for attack in family.attacks}) == 1


def test_the_order_is_that_of_targets_then_families_then_releases():
    level = dataclasses.replace(LEVELS["thorough"], queries=(1, 4), bursts=(8,))
    titles = [family.title for family in families(TARGETS, level, DECLARED)]
    assert titles == [
        "attribute ink",
        "attribute ink k=4",
        "attribute ink burst=8",
        "attribute paper",
        "attribute paper k=4",
        "attribute paper burst=8",
        "decoder image",
        "decoder image k=4",
        "decoder image burst=8",
        "mismatched image",
        "prior image",
        "prior image k=4",
        "shadow image",
        "whitebox image",
        "whitebox image k=4",
    ]


def names(level, knowledge=PLAIN):
    found = families((INK, Image()), LEVELS[level], knowledge)
    return [(f.name, f.queries) for f in found if f.target == Image() and f.name != "mismatched" and not f.burst]


def test_who_needs_a_client_sits_out_where_there_are_rows_alone():
    for name in LEVELS:
        found = families(TARGETS, LEVELS[name], NOTHING)
        assert {family.name for family in found} == {"attribute", "decoder"}
        assert {(family.queries, family.burst) for family in found} == {(1, False)}


def test_who_optimises_every_image():
    assert names("preview", PREDICT) == [("decoder", 1)]
    assert names("standard") == [("decoder", 1), ("whitebox", 1)]
    assert names("standard", PREDICT) == [("decoder", 1), ("shadow", 1), ("whitebox", 1)]
    assert [name for name, _ in names("thorough", PREDICT)] == ["decoder", "prior", "shadow", "whitebox"]


def test_networks_and_optimisers_stay_at_more_queries():
    level = dataclasses.replace(LEVELS["standard"], queries=(1, 4))
    found = {(family.name, family.queries): family for family in families((INK, Image()), level, NOISY)}
    assert [type(attack) for attack in found["whitebox", 4].attacks] == [WhiteBox]
    assert [type(attack) for attack in found["decoder", 4].attacks] == [Ridge, Local, Kernel, Residual]
    assert [type(attack) for attack in found["attribute", 4].attacks] == [Probe, Within, *[Reader] * len(AGAIN), Voting]
    assert ("mismatched", 4) not in found


def test_a_client_without_noise_is_asked_once_about_an_image_and_about_its_near_duplicates_where_there_is_time():
    still = Knowledge(as_release(lambda x: x))
    assert not any(family.burst or family.queries > 1 for family in families(TARGETS, LEVELS["standard"], still))
    for knowledge, level, queries in ((still, "thorough", {1}), (NOISY, "standard", {1, 64})):
        found = families(TARGETS, LEVELS[level], knowledge)
        assert {family.queries for family in found if not family.burst} == queries
        bursts = [family for family in found if family.burst]
        assert [(family.recorded, family.target.name, family.queries) for family in bursts] == [
            ("attribute burst", "ink", 16),
            ("attribute burst", "paper", 16),
            ("decoder burst", "image", 16),
        ]
        # A declared density is that of one image.
        assert not any(attack.name == "likelihood" for family in bursts for attack in family.attacks)
        assert all(len(family.attacks) > 2 for family in bursts)


def test_a_client_that_remembers_its_noise_is_asked_once_and_for_bursts():
    memoised = Knowledge(dataclasses.replace(NOISY.release, memoised=True))
    found = families(TARGETS, LEVELS["standard"], memoised)
    assert {(family.queries, family.burst) for family in found} == {(1, False), (16, True)}


def test_a_level_of_your_own_changes_settings_adds_attacks_and_leaves_them_out():
    own = {
        "Reader": None,
        "Discriminant": None,
        "Residual": {"steps": 7},
        "WhiteBox": {"steps": 3},
        "Ridge": {"penalties": (1.0,)},
    }
    level = Level("mine", 64, (1,), base="preview", settings=own)
    ink, image, whitebox = families((INK, Image()), level, PLAIN)
    assert ink.attacks == (Probe(INK),)
    # One block and 32 images a step are those of "preview"; "preview" has no white box.
    residual = Residual(Image(), steps=7, blocks=1, width=32, batch_size=32)
    ridge = Ridge(Image(), penalties=(1.0,))
    assert image.attacks == (ridge, Kernel(Image()), residual)
    # It starts from what these guess, and from the mean of images under a declared density.
    assert set(whitebox.attacks[0].starters) == {*image.attacks, Reconstruction(Image())}
    assert dataclasses.replace(whitebox.attacks[0], starters=()) == WhiteBox(Image(), steps=3)
    # On top of no level only what is named attacks.
    alone, _ = families((INK, Image()), dataclasses.replace(level, base=""), PLAIN)
    assert alone.attacks == (ridge, Residual(Image(), steps=7))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base": "quik"}, "level.base=quik: must be one of preview, standard, thorough"),
        ({"settings": {"Residul": None}}, "level.settings=Residul: must be one of Boosted, Corrected, Discriminant"),
    ],
)
def test_a_level_with_a_misspelt_name_is_refused(wrong, message):
    with pytest.raises(ValueError) as error:
        families((INK, Image()), Level("mine", 64, (1,), **wrong), NOTHING)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_families_that_are_answered_alike_come_behind_each_other():
    often, once = (Family("a", INK, (Ridge(Image()),), queries) for queries in (4, 1))
    other, late = Family("b", INK, (MismatchedRidge(Image()),)), Family("c", INK, (Ridge(Image()),), 4)
    assert answered_alike((often, once, other, late)) == ((often, late), (once,), (other,))


def test_titles():
    family = Family("attribute", INK, (Probe(INK),))
    assert family.title == "attribute ink"
    assert dataclasses.replace(family, queries=4).title == "attribute ink k=4"
    assert Family("decoder", Image(), ()).owns is None


@dataclasses.dataclass(frozen=True)
class Toy(Attack):
    """Always the same class; higher is surer."""

    sureness: float = 1.0
    status: str | None = None

    family = "toy"
    levels = base.EVERYWHERE

    def fit(self, context):
        return Fitted(lambda key, z: self.sureness * jnp.eye(2)[jnp.zeros(z.shape[1], int)], self.status)


@dataclasses.dataclass(frozen=True)
class Silent(Attack):
    def fit(self, context):
        return Fitted(None, "gone")


@dataclasses.dataclass(frozen=True)
class Builder(Attack):
    """Takes the best of others."""

    others: tuple[Attack, ...] = ()

    def fit(self, context):
        return Fitted(context.best(self.others), note=f"{[context.loss(one) for one in self.others]}")


@dataclasses.dataclass(frozen=True)
class Raising(Attack):
    error: BaseException | None = None

    def fit(self, context):
        raise self.error or ValueError


def test_what_registers_itself_takes_part_on_its_target_alone(monkeypatch):
    monkeypatch.setitem(ATTACKS, Attribute, list(ATTACKS[Attribute]))
    assert register(Attribute)(Toy) is Toy
    found = families((INK, Image()), LEVELS["preview"], NOTHING)
    assert [family.title for family in found] == ["attribute ink", "toy ink", "decoder image"]
    assert found[1].attacks == (Toy(INK),)
    level = dataclasses.replace(LEVELS["preview"], settings={"Toy": {"sureness": 2.0}})
    assert families((INK,), level, NOTHING)[1].attacks == (Toy(INK, sureness=2.0),)


@pytest.fixture(scope="module")
def asked():
    """All of validation is of the first class, so the surest of them is the best."""
    batch = Batch(jnp.ones((6, 2, 2, 1)), jnp.zeros(6, int), {"ink": jnp.zeros(6, int), "other": jnp.ones(6, int)})
    knowledge = Knowledge(as_release(lambda x: x))
    return base.prepare(jax.random.key(0), knowledge, Source(batch, fixed), batch, count=6)


def test_the_best_of_others_is_the_one_with_the_least_finite_loss(key, asked, fit):
    weak, strong, absurd = Toy(INK, sureness=1.0), Toy(INK, sureness=3.0), Toy(INK, sureness=float("nan"))
    diverged = Toy(INK, sureness=9.0, status="diverged")
    fits = Fits(asked, lambda attack: key)
    others = (weak, diverged, absurd, Silent(INK), Raising(INK), strong)
    assert fits(Builder(INK, others=others)).attacker is fits(strong).attacker
    context = Context(key, asked, fits)
    logits = 3.0 * np.eye(2)[0]
    assert context.loss(strong) == pytest.approx(np.log(np.exp(logits).sum()) - 3.0, rel=1e-5)
    assert [context.loss(one) for one in others[1:5]] == [np.inf] * 4
    assert context.best(others[1:5]) is None
    assert context.best(()) is None
    # The first of equals.
    assert context.best((Toy(INK, sureness=3), strong)) is fits(Toy(INK, sureness=3)).attacker


def test_each_attack_is_fitted_once_with_a_key_and_events_of_its_own(asked):
    @dataclasses.dataclass(frozen=True)
    class Counted(Attack):
        others: tuple[Attack, ...] = ()

        def fit(self, context):
            counted.append(self)
            context.emit({"step": len(self.others), "loss": float(jax.random.uniform(context.key))})
            return Fitted(tuple(context.fitted(other) for other in self.others))

    counted, events = [], []
    first, second = Counted(INK), Counted(PAPER)
    whole = Counted(INK, others=(first, second, first))
    keys = {attack: jax.random.key(place) for place, attack in enumerate((first, second, whole))}
    fits = Fits(asked, keys.__getitem__, lambda attack, event: events.append((attack, event["step"], event["loss"])))
    found = fits(whole).attacker
    assert found[0] is found[2] is fits(first)
    assert counted == [whole, first, second]
    assert events == [
        (attack, len(attack.others), float(jax.random.uniform(keys[attack]))) for attack in (whole, first, second)
    ]


def test_what_an_attack_raises_is_what_it_found_and_the_user_may_stop(key, asked, fit):
    assert fit(Raising(INK, error=ValueError("two\nlines")), key, asked) == Fitted(None, "ValueError: two")
    assert fit(Builder(INK, others=(Raising(INK),)), key, asked) == Fitted(None, None, "[inf]")
    assert fit(Attack(INK), key, asked) == Fitted(None, "NotImplementedError")
    with pytest.raises(KeyboardInterrupt):
        fit(Raising(INK, error=KeyboardInterrupt()), key, asked)


def test_reasons_do_not_differ_from_process_to_process():
    assert base.reason(ValueError("<f at 0x7fa0>")) == base.reason(ValueError("<f at 0x81bc>"))
    assert base.reason(KeyError()) == "KeyError"
    assert len(base.reason(ValueError("x" * 5000))) < 300
