"""The audit: sends a frozen client through freshly trained attackers and writes down what they found.

    evidence = audit(release, data, predict)

Attackers learn from ``auxiliary``, one of each family is chosen on ``validation``, and ``test`` is scored once, here and
nowhere else. ``defend`` and ``holdout`` are never looked at.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from ani_jax.attacks.attribute import DIVERGED, line
from ani_jax.attacks.base import Family, Level, OnEvent, answered_alike, families, level_named, reason
from ani_jax.attacks.query import as_predictor, as_release
from ani_jax.data.pairs import Pairs
from ani_jax.evaluation import contest, controls
from ani_jax.evaluation.cost import cost_card
from ani_jax.evaluation.matching import FAMILY, WORDS, match
from ani_jax.evaluation.progress import Progress, interactive
from ani_jax.evaluation.references import send_nothing, send_raw
from ani_jax.evaluation.scene import NOTHING, RANDOM, RAW, Ceiling, Scene, named
from ani_jax.information.criterion import LEVELS as CRITICS
from ani_jax.information.criterion import criterion
from ani_jax.information.estimates import self_tests
from ani_jax.records import AttackResult, Control, Criterion, Estimate, Evidence, SelfTest, from_json, to_json
from ani_jax.targets import base as targets
from ani_jax.targets.metrics import balanced
from ani_jax.types import Data, Features, Knowledge, Logits, Release

R = TypeVar("R")
CERTIFIED = (
    "certified, whoever attacks: {:.3g} nats of an image pass a query at most, by the range and noise or grid that the client "
    "declares; by Fano's inequality nobody is right more often than that row says, where every class counts as much and "
    "queries have noise of their own"
)
"""What the row of that name assumes."""
MEMOISED = "its noise is a function of image and device: asked again it says the same, so repeats were not attacked"
"""What a report says of such a client; a burst shows it other images."""
UNEQUAL = 1.5
"""How much more frequent than all classes on average one is where accuracy alone may be that of a constant answer."""
SOME = 512
"""Images that live channels are counted on."""
Store = MutableMapping[str, str]
"""Where finished parts of an audit are kept, name -> JSON: a dict, or a folder that looks like one."""


def audit(
    release: Callable[..., Features] | Release | Pairs,
    data: Data | None = None,
    predict: Callable[[Features], Logits] | None = None,
    *,
    level: str | Level = "standard",
    seed: int = 0,
    reference: Evidence | None = None,
    subject: str = "release",
    on_event: OnEvent | None = None,
    random_release: Callable[..., Features] | Release | None = None,
    store: Store | None = None,
    common: Store | None = None,
    attacks: Sequence[Family] | None = None,
    progress: bool | None = None,
) -> Evidence:
    """Attacks a client and reports what leaks.

    Args:
        release: the client: a :class:`ani_jax.types.Release`, or any JAX function ``f(x)`` or ``f(x, key)`` of a batch
            of images or vectors; or recorded pairs, which nobody can be asked about: what needs a client is left out.
        data: ``auxiliary`` trains the attackers, ``validation`` chooses among them, ``test`` is reported; None with pairs.
        predict: the provider's network, ``predict(z) -> logits``; without it utility, the label-mediated floor and the
            class-mean floor are left out, with a note.
        level: how much attackers may compute: a name in ``LEVELS``, or a level of your own.
        seed: everything random follows from it.
        reference: the evidence of the undefended split, which leakage is normalised by.
        subject: name of what is audited.
        on_event: called with plain dicts: kind "attack_start" (name, total steps), "attack_step" (name, step, loss),
            "attack_end"; around them "audit_start" (total families of attacks), "audit_step" (step, how many are done) and
            "audit_end".
        random_release: the client's architecture with fresh random weights: what its shape alone lets through is then
            shown beside every attribute score.
        store: keeps every finished attack, so that the same audit, interrupted and started again, goes on behind it and
            ends with the same evidence; parts of another client, seed or level are not taken.
        common: the same for what depends on data, level and seed alone: what these attackers find where the image itself is
            sent, and where nothing is. Audits of other clients may share it; None is ``store``.
        attacks: who attacks; None is every registered attack on every target of the data, as the level has it.
        progress: whether a bar shows how far the audit has come; None is at a prompt or in a notebook, unless ``on_event``
            listens.

    Returns:
        The evidence, which prints itself as a verdict with its reasons and shows its report in a notebook; plain data,
        identical for identical arguments on one kind of machine. An attacker that raises or diverges is in it as failed, never
        as privacy.

    Raises:
        ValueError: an unknown level, a negative seed, no data or data beside pairs, or a release that does not give one
            floating-point row an image.
    """
    if isinstance(level, str):
        level = level_named(level)
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    shown = on_event is None and interactive() if progress is None else progress
    listeners = [one for one in (on_event, Progress() if shown else None) if one is not None]

    def emit(event: Mapping[str, Any]) -> None:
        for listener in listeners:
            listener(event)

    pairs, client = (release, None) if isinstance(release, Pairs) else (None, as_release(release))
    if pairs is not None and data is None:
        data, originals = pairs.data(level.sample, level.validation, level.test, seed)
    elif pairs is None and data is not None:
        originals = data.auxiliary.size
    else:
        raise ValueError(f"data={data if data is None else 'Data'}: must be given with a client, and None with pairs")
    random = None if random_release is None else as_release(random_release)
    knowledge = Knowledge(client, None if predict is None else as_predictor(predict))
    wanted = targets.of(data)
    chosen = families(wanted, level, knowledge) if attacks is None else tuple(attacks)
    # The data's own targets in their order, then whatever else a caller asked for.
    rank = {target: place for place, target in enumerate(wanted)}
    sought = sorted(dict.fromkeys(family.target for family in chosen), key=lambda target: rank.get(target, len(rank)))
    scene = Scene.of(knowledge, data, level, seed, reference, random, emit)
    emit({"kind": "audit_start", "total": len(chosen)})
    plants = level.plants and any(map(controls.readers, chosen))
    # Whoever names the attacks has named all.
    matching = plants and attacks is None and client is not None
    kept = _Kept(store, "" if store is None else scene.digest())
    common = store if common is None else common
    shared = _Kept(common, "" if common is None else scene.digest(client=False))

    def elsewhere(client: str, some: tuple[Family, ...], parts: _Kept) -> tuple[Ceiling, ...]:
        found = tuple(
            parts.part(
                f"{client}, {family.title}", family, Ceiling, lambda own=family: contest.elsewhere(scene, own, client)
            )
            for family in some
        )
        # As much memory as the client's own takes.
        scene.settle()
        return found

    read = contest.once([family for family in chosen if family.target.ceilings])
    # Who attacks a client without noise: the same for all clients on the same data, so that these share what is found.
    plain = chosen if attacks is not None else families(wanted, level, Knowledge(as_release(send_raw)))
    plain = contest.once([family for family in plain if plants or family.target.ceilings])
    # Of what was not recorded nothing can be sent.
    whole = elsewhere(RAW, plain, shared) if scene.data.test.image.size else ()
    nothing = elsewhere(NOTHING, plain, shared) if plants else ()
    untrained = () if random is None else elsewhere(RANDOM, read, kept)
    scene = dataclasses.replace(scene, ceilings=whole + untrained)
    ends = controls.ends(whole + nothing, sought, scene.data.test) if plants else ()
    found: dict[Family, AttackResult] = {}
    # 64 releases of every image are gigabytes: nobody needs them behind the last who heard them.
    for group in answered_alike(chosen):
        for family in group:
            run = functools.partial(contest.run, scene, family)
            found[family] = kept.part(family.title, family, AttackResult, run)
            emit({"kind": "audit_step", "step": len(found)})
        scene.settle()
    results = [found[family] for family in chosen]
    if matching:
        results.append(kept.part(FAMILY, WORDS, AttackResult, functools.partial(match, scene)))
    noticed = ends
    if plants:
        noticed += kept.part("controls", chosen, tuple[Control, ...], lambda: controls.found(scene, found))
    measured, problem = _criterion(scene, kept, shared)
    attackers = [(family, attack) for family in chosen for attack in family.attacks]
    notes = [attack.caveat for _, attack in attackers if attack.caveat]
    if not plants:
        # Without networks on an attribute nobody would look for it, at any level.
        kind = "nothing was planted" if level.plants else "a preview, not evidence: nothing was planted"
        notes.insert(0, f"{kind} that it should have noticed")
    if scene.answers is None:
        notes.append("no predictor was given: utility, label-mediated floor and class-mean floor are missing")
    if scene.nats is not None:
        notes.append(CERTIFIED.format(scene.nats))
    if client is not None and client.memoised:
        notes.append(MEMOISED)
    if pairs is not None:
        able, asking = (
            {family.name for family in families(wanted, level, knowledge._replace(release=granted))}
            for granted in (None, as_release(send_nothing))
        )
        absent = sorted(asking - able)
        left = f"; left out: {', '.join(absent)}" if absent else ""
        # One that is asked gives networks other noise at every step.
        rows = f"{len(scene.asked.sample.label):,} recorded rows (at most {level.sample:,} at this level)"
        learnt = f"attackers learnt from {rows}: of a client with noise, from one draw of it a row"
        notes += [
            f"recorded pairs: no client could be asked, once more or about other inputs{left}",
            learnt,
            *pairs.notes,
        ]
    elif random is None:
        notes.append("no random copy of the client was given: what its architecture alone lets through is not shown")
    for family, result in zip(chosen, results, strict=False):
        notes += [attacker.note for attacker in result.attackers if attacker.note]
        notes += [f"{family.title}: {one.name} {one.status}" for one in result.attackers if one.status != "ok"]
    emit({"kind": "audit_end"})
    test = scene.data.test
    cost = None
    # Weights that are hidden in a closure are no leaves: counting them as none would flatter the client.
    if client is not None and jax.tree.leaves(client.variables):
        mean = client.mean
        clean = jax.jit(mean)(client.variables, test.image[:SOME]) if mean else scene.asked.sample_z[:SOME]
        cost = cost_card(client, test.image.shape[1:], clean)
    return Evidence(
        subject=subject,
        dataset=data.name,
        seed=seed,
        level=level.name,
        steps={f"{family.title}: {attack.name}": attack.steps for family, attack in attackers},
        sizes={
            "auxiliary_originals": originals,
            "auxiliary_sample": len(scene.asked.sample.label),
            "validation": len(scene.data.validation.label),
            "test": len(test.label),
            "test_originals": len(test.label) if test.group is None else len(np.unique(np.asarray(test.group))),
        },
        utility=_utility(scene),
        attacks=tuple(results),
        gallery=scene.gallery,
        cost=cost,
        # An attacker's finding about the client is one finding, however many made it.
        notes=tuple(dict.fromkeys((*notes, *problem))),
        criterion=measured,
        targets=(*(target.words for target in sought), *((WORDS,) if matching else ())),
        controls=noticed,
        groups=() if test.group is None else tuple(np.asarray(test.group).tolist()),
        right=()
        if scene.answers is None
        else tuple((scene.answers.test == np.asarray(test.label)).astype(int).tolist()),
    )


class _Kept:
    """The finished parts of one audit, by name and by what determines them."""

    def __init__(self, store: Store | None, digest: str):
        self.store, self.digest = store, digest

    def part(self, name: str, settings: object, kind: type[R], make: Callable[[], R]) -> R:
        """The part that is kept and can be read, else a freshly made one, which is kept."""
        if self.store is None:
            return make()
        key = f"{name} {hashlib.sha256(f'{self.digest} {settings!r}'.encode()).hexdigest()[:16]}"
        # A part that another version kept may be of another form.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return from_json(kind, self.store[key])
        self.store[key] = to_json(make())
        # Read back even when fresh: an audit that was interrupted must not differ from one that was not.
        return from_json(kind, self.store[key])


def _criterion(scene: Scene, kept: _Kept, shared: _Kept) -> tuple[Criterion | None, tuple[str, ...]]:
    """The inversion-difficulty criterion where the level has critics for it, or a note why it is missing."""
    # As attacks do, a level of one's own takes what its base has.
    critics = CRITICS.get(scene.level.base or scene.level.name)
    if critics is None or not scene.data.test.image.size:
        return None, ()

    def work() -> Criterion:
        found = criterion(named(scene.key, "criterion"), scene.asked, scene.data, critics, self_test=())
        told = found.information
        sizes = (critics, told.examples, told.dimensions)
        tests = functools.partial(self_tests, named(scene.key, "self-test"), *sizes)
        # Of numbers and dimensions alone, and two thirds of the time: clients that send as much share them.
        tested = shared.part("self-tests", sizes, tuple[SelfTest, ...], tests)
        return dataclasses.replace(found, information=dataclasses.replace(told, self_tests=tested))

    scene.emit({"kind": "attack_start", "name": "criterion", "total": 0})
    try:
        return kept.part("criterion", critics, Criterion, work), ()
    except Exception as error:
        return None, (f"no inversion-difficulty criterion: {reason(error)}",)
    finally:
        scene.emit({"kind": "attack_end", "name": "criterion"})


def _utility(scene: Scene) -> dict[str, Estimate]:
    asked, answers = scene.asked, scene.answers
    # Without a provider, rows whose labels are recorded still say what z tells of them.
    if answers is None and (asked.knowledge.release is not None or scene.data.primary.classes < 2):
        return {}
    label = np.asarray(scene.data.test.label)
    majority = float(np.bincount(label).max() / len(label))
    # How much of the task the client has done already: what a line reads off z, the provider need not work out.
    found = line(asked, asked.sample.label, asked.validation.label, scene.data.primary.classes)
    read = None if found is None else np.asarray(found(scene.key, scene.test_z)).argmax(1)
    told: dict[str, Estimate] = {}
    if answers is not None:
        right = (answers.test == label).astype(np.float64)
        told["accuracy"] = scene.bootstrap.mean(right)
        if majority * scene.data.primary.classes > UNEQUAL:
            told["balanced_accuracy"] = scene.bootstrap.estimate(lambda weights: balanced(right, label, weights))
        if scene.reference is not None and (before := scene.paired(scene.reference.right)) is not None:
            # Of the same images, so that what is hard for both is in neither's favour.
            told["accuracy_lost"] = scene.bootstrap.mean(before - right)
    return {
        **told,
        "linear_accuracy": scene.bootstrap.mean(read == label) if read is not None else Estimate(None, note=DIVERGED),
        "majority_class": Estimate(
            majority, note="the share of the most frequent class, which an answer without z would reach"
        ),
    }
