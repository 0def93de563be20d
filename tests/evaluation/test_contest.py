"""One attack from fitting to result: whoever raises is a result, the best on validation is scored, ceilings stand beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import LEVELS, Attack, Family, Fitted, reason
from ani_jax.attacks.decoder import Ridge
from ani_jax.attacks.mismatch import MismatchedRidge
from ani_jax.attacks.query import as_release
from ani_jax.evaluation import contest, scene
from ani_jax.records import AttackResult, Estimate, Evidence, Picture
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.types import Knowledge

SIDE = Attribute("side", 2)
ATTRIBUTE = Family("attribute", SIDE, (Probe(SIDE),))
DECODER = Family("decoder", Image(), (Ridge(Image()),))


def of(toy, function, random=None, **options):
    random = None if random is None else as_release(random)
    return scene.Scene.of(Knowledge(as_release(function)), toy, LEVELS["preview"], 0, random=random, **options)


@pytest.fixture(scope="module")
def plain(toy):
    return of(toy, lambda x: x)


def compete(scene, *attacks, **options):
    return contest.compete(scene, Family("attribute", SIDE, attacks), scene.asked, scene.test_z, **options)


@dataclasses.dataclass(frozen=True)
class Raising(Attack):
    error: BaseException | None = None
    late: bool = False

    family = "attribute"

    @property
    def name(self):
        return f"{type(self.error).__name__} {self.late}"

    def fit(self, context):
        if not self.late:
            raise self.error
        return Fitted(self.guess)

    def guess(self, key, z):
        raise self.error


@dataclasses.dataclass(frozen=True)
class Right(Attack):
    """Knows nothing and is still perfect on one class."""

    family = "attribute"

    def fit(self, context):
        return Fitted(lambda key, z: jnp.eye(2)[jnp.zeros(z.shape[1], jnp.int32)])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [FloatingPointError("nan"), ValueError("two\nlines at 0x7f"), RuntimeError()])
def test_whatever_an_attack_raises_is_its_result(plain, error, late):
    broken, sound = compete(plain, Raising(SIDE, error=error, late=late), Probe(SIDE))
    assert broken.guess is None
    assert broken.record.status == f"failed: {reason(error)}"
    assert (broken.record.validation, broken.record.test) == (None, None)
    assert "\n" not in broken.record.status
    assert contest.choose([broken, sound]) is sound


def test_the_user_may_stop(plain):
    with pytest.raises(KeyboardInterrupt):
        compete(plain, Raising(SIDE, error=KeyboardInterrupt()))


def test_a_perfect_attacker_ends_a_reference_early(plain):
    attacks = Probe(SIDE), Right(SIDE)
    assert len(compete(plain, *attacks, until_perfect=True)) == 1
    every = compete(plain, *attacks)
    assert [one.record.validation for one in every] == [1.0, 0.5]
    assert contest.choose(every) is every[0]


def test_events_and_keys_bear_the_attacker_s_title(toy):
    @dataclasses.dataclass(frozen=True)
    class Keyed(Attack):
        family = "attribute"

        def fit(self, context):
            keys.append(context.key)
            context.emit({"step": 1, "loss": 0.5})
            return Right(SIDE).fit(context)

    events, keys = [], []
    told = of(toy, lambda x: x, on_event=events.append)
    compete(told, Keyed(SIDE, steps=3), prefix="raw input, ")
    name = "raw input, attribute side: keyed"
    assert events == [
        {"kind": "attack_start", "name": name, "total": 3},
        {"kind": "attack_step", "name": name, "step": 1, "loss": 0.5},
        {"kind": "attack_end", "name": name},
    ]
    assert keys == [scene.named(told.key, name)]


def test_what_random_weights_let_through_is_beside_the_score(toy):
    def blind(x):
        return jnp.ones((len(x), 3)) + 0 * x.mean((1, 2, 3))[:, None]

    def ceiled(one, *clients):
        found = tuple(contest.elsewhere(one, family, client) for client in clients for family in (ATTRIBUTE, DECODER))
        assert {ceiling.target for ceiling in found} == {"side", "image"}
        return dataclasses.replace(one, ceilings=found)

    for random, expected in ((lambda x: x, 1.0), (blind, 0.5)):
        found = contest.run(ceiled(of(toy, blind, random), scene.RAW, scene.RANDOM), ATTRIBUTE)
        assert found.references["random_encoder"] == expected
        assert found.references["raw_input"] == 1.0
        assert found.scores["balanced_accuracy"].value == 0.5
    assert "random_encoder" not in contest.run(of(toy, blind), ATTRIBUTE).references
    noisy = of(toy, lambda x, key: x + jax.random.normal(key, x.shape), lambda x: x)
    assert "random_encoder" not in contest.run(noisy, dataclasses.replace(ATTRIBUTE, queries=4)).references


def test_a_client_that_cannot_be_asked_often_fails_that_attack_alone(toy, monkeypatch):
    client = of(toy, lambda x, key: x + jax.random.normal(key, x.shape))
    monkeypatch.setattr(scene, "_look", lambda *arguments: exec("raise MemoryError('out of memory')"))
    found = contest.run(client, dataclasses.replace(ATTRIBUTE, queries=64))
    assert found.status == "failed: MemoryError: out of memory"
    assert (found.scores, found.leakage.value, found.attackers) == ({}, None, ())
    assert contest.run(client, DECODER).status == "ok"


def test_a_family_without_attacks_fails(plain):
    assert contest.run(plain, Family("attribute", SIDE, ())).status == "failed: no attacker"


@dataclasses.dataclass(frozen=True)
class Limping(Attack):
    """Broke off, and is still the best."""

    family = "attribute"

    def fit(self, context):
        return Probe(SIDE).fit(context)._replace(failed="the loss is not finite at step 2")


def test_who_broke_off_and_is_strongest_on_validation_is_chosen_with_a_note(plain):
    found = contest.run(plain, Family("attribute", SIDE, (Limping(SIDE), Right(SIDE))))
    assert (found.chosen, found.status) == ("limping", "ok")
    assert found.scores["balanced_accuracy"].value == 1.0
    said = found.scores["balanced_accuracy"].note
    assert said == "chosen though it failed: the loss is not finite at step 2"
    alone = contest.run(plain, Family("attribute", SIDE, (Right(SIDE),)))
    assert alone.scores["balanced_accuracy"].note == ""


def test_leakage_is_paired_with_a_reference_of_the_same_images(toy):
    def evidence(found, client, **changes):
        sizes = {"test": len(client.data.test.label)}
        plain = Evidence("none", "toy", 0, "preview", {}, sizes, {}, (found,), client.gallery)
        return dataclasses.replace(plain, **changes)

    def blurred(x):
        return 0.6 * x + jax.random.normal(jax.random.key(3), x.shape)

    client = of(toy, blurred)
    before = contest.run(client, ATTRIBUTE)
    assert 0.55 < before.scores["balanced_accuracy"].value < 0.99
    same = contest.run(of(toy, blurred, reference=evidence(before, client)), ATTRIBUTE).leakage
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert same.note == ""
    others = ({"seed": 1}, {"dataset": "toys"}, {"level": "standard"}, {"gallery": Picture.of(np.zeros((2, 8, 8, 1)))})
    for other in others:
        apart = contest.run(of(toy, blurred, reference=evidence(before, client, **other)), ATTRIBUTE).leakage
        assert apart.value == pytest.approx(1)
        assert apart.high - apart.low > 0.1
        assert "taken as independent" in apart.note


def test_a_family_that_is_scored_on_fewer_images_is_paired_with_these(toy):
    client = of(toy, lambda x: x)
    values = tuple(np.random.default_rng(0).random(200))
    found = AttackResult("attribute", "side", 1, "probe", {}, {}, (), Estimate(None), values)
    told = Evidence("none", "toy", 0, "preview", {}, {"test": 200}, {}, (found,), client.gallery)
    few = dataclasses.replace(client, reference=told).fewer(50)
    often = dataclasses.replace(ATTRIBUTE, queries=64)
    assert few.undefended(often) is found
    np.testing.assert_array_equal(few.paired(found.per_example), np.array(values)[few.rows])
    # The rows are those of the images.
    np.testing.assert_array_equal(few.data.test.image, client.data.test.image[few.rows])
    # What was found on fewer says nothing about the rest, and on others nothing at all.
    for count in (49, 51, 150):
        assert few.paired(values[:count]) is None
    assert client.paired(found.per_example) is None
    assert client.undefended(often) is None


def test_slices_bear_the_names_of_classes(plain):
    found = contest.run(plain, ATTRIBUTE)
    assert [(part.by, part.name) for part in found.slices][:2] == [("side", "left"), ("side", "right")]
    assert [part.by for part in contest.run(plain, DECODER).slices] == ["side", "side"]


def test_what_optimises_every_image_is_scored_on_fewer(plain):
    few = dataclasses.replace(DECODER, attacks=(Ridge(Image(), images=10), Ridge(Image(), penalties=(1.0,), images=20)))
    found = contest.run(plain, few)
    assert len(found.per_example) == 20
    assert found.gallery == contest.run(plain, few).gallery
    # Which these are is on record, for whoever compares them with another audit's.
    assert found.rows == tuple(plain.order[:20].tolist())
    whole = contest.run(plain, DECODER)
    assert (len(whole.per_example), whole.rows) == (len(plain.data.test.label), ())


def test_an_attacker_with_the_wrong_images_is_one_more_attacker(toy):
    client = of(toy, lambda x: jnp.exp(-5 * x))
    right = contest.run(client, DECODER)
    wrong = contest.run(client, Family("mismatched", Image(), (MismatchedRidge(Image()),)))
    assert wrong.attack == "mismatched"
    assert wrong.chosen == right.chosen == "ridge"
    assert wrong.references == right.references
    assert wrong.status == right.status == "ok"
    assert wrong.scores["mse"] != right.scores["mse"]


def test_what_is_scored_on_few_images_builds_on_what_all_of_them_tell(toy):
    @dataclasses.dataclass(frozen=True)
    class Descending(Attack):
        images: int = 10

        family = "whitebox"

        def fit(self, context):
            started.append(context.fitted(Ridge(Image())))
            assert len(context.asked.validation.label) == 5
            return started[-1]

    started, client = [], of(toy, lambda x: x)
    few = contest.run(client, Family("whitebox", Image(), (Descending(Image()),)))
    assert len(few.per_example) == 10
    decoder = contest.fits_of(client, DECODER, client.asked)[0](Ridge(Image()))
    assert started == [decoder]
    assert started[0] is decoder
