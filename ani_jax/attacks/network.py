"""Trained attackers: networks that double their steps until ``validation`` gains nothing more (METHODS 5.0 a).

All of a family's networks make a short start; only those that lead then double, going on from where they were. Networks that
answer several questions at once have a head for each, and keep the best parameters for every head by itself.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ani_jax.attacks.base import Asked, Attack, Context, Fitted, in_chunks
from ani_jax.attacks.density import Library
from ani_jax.attacks.query import Observed, ask, gathered
from ani_jax.modules.initialise import initialise
from ani_jax.modules.readers import statistics
from ani_jax.optimize.fit import Fit, adam, fit
from ani_jax.records import Look
from ani_jax.targets.base import Loss, Target
from ani_jax.types import Batch, Features, PRNGKey, Release

SEEN = 512
"""Rows whose view is taken at once."""
STATISTICS = 2048
"""Rows that a finished network's normalisation is fitted on."""
WIDE, LARGEST = 1.5, 6e4
"""A view that makes so many times as many numbers is kept in half precision, and the largest number there."""
NEAR = 0.05
"""A leader that is so much weaker than another, after as many steps of both, is trained no longer; nor are such trees. [ours]"""
LAG = 1.1
"""A leader whose loss is so many times another's in the midst of the same stage stops there [ours]. Measured after a quarter of
it: convolutions behind local curves on ``funnel`` 2.1, curves of each pixel on ``ani`` 1.17; both ended far behind."""
FAR = 0.25
"""A start that is so much weaker than another does not lead [ours]."""
LOOKS, APART = 4, 312
"""How often a stage is looked at on ``validation``, and how many steps lie between two looks at least."""
FLOOR = float(np.finfo(np.float32).max)
"""Loss of what never had a finite one."""
REACHED, RISING, PRUNED = "plateau reached", "still rising: a lower bound", "not among the leaders: not trained on"
SILENT, BEHIND = "nothing that is sent varies: not trained on", "behind another leader: not trained on"
CONTAINED = "another view shows all that this one does: not trained"
EXHAUSTED = "auxiliary exhausted at {:,} rows: a lower bound"
"""Where more steps gain nothing, and the network reads its own rows better than others: more rows would tell it more."""


@dataclasses.dataclass(frozen=True)
class Trained(Attack):
    """A network attacker, trained in stages that double.

    Attributes:
        steps: of all stages together, at most.
        first: steps of the start that all of a family's networks make; 0 for all ``steps`` at once.
        again: of all stages together where it hears several releases, which noise leaves less to find in; 0 for as many.
        least: no plateau is called before so many steps, to which a network is trained at once behind its start.
        leaders: so many architectures are trained on behind their starts: the best for each question that no start has
            answered, and the next best where these are fewer.
        batch_size: rows a step.
        learning_rate: Adam's peak rate in every stage.
        rivals: whose starts it is compared with; () to train on whatever they do.
    """

    first: int = 0
    least: int = 0
    again: int = 0
    leaders: int = 2
    batch_size: int = 128
    learning_rate: float = 2e-3
    rivals: "tuple[Trained, ...]" = ()

    def module(self, asked: Asked) -> nn.Module:
        """The network, ``(z, train) -> output``; equal for equal architectures."""
        raise NotImplementedError

    def view(self, context: Context) -> Any:
        """How the network is told of z: a fitted pytree callable."""
        return context.asked.standardise

    def contained(self, asked: Asked) -> bool:
        """Whether a rival of this client is shown all that this one would be: then it need not be trained."""
        del asked
        return False

    @property
    def rate(self) -> float:
        """Peak learning rate of its architecture."""
        return self.learning_rate

    @property
    def architecture(self) -> str:
        """Of several views of one architecture, the best alone may lead: they cost as much and find much the same."""
        return type(self).__name__

    @property
    def start(self) -> Self:
        """The attack that ends behind the first stage."""
        return dataclasses.replace(self, steps=min(self.first, self.steps), first=0, least=0, again=0, rivals=())

    def repeated(self) -> Self:
        """The same network with the steps that several releases are worth."""
        steps = self.again or self.steps
        return dataclasses.replace(self, steps=steps, least=min(self.least, steps))

    def fit(self, context: Context) -> Fitted:
        """Starts, and doubles where it is one of the leaders on ``validation``."""
        if self.contained(context.asked):
            return Fitted(None, ended=CONTAINED)
        mean, rate = map(np.asarray, (context.asked.standardise.mean, context.asked.standardise.rate))
        # Of what never varies closed forms know all that there is; networks would be compiled to learn a constant.
        if np.isfinite(mean).all() and not rate.any():
            return Fitted(None, ended=SILENT)
        if not self.first:
            return train(self, context)
        begun = context.fitted(self.start)
        if begun.failed is not None or begun.ended:
            return begun
        leaders, answers = self._standing(context)
        if self in leaders:
            # The best is trained first, whatever their order: the others stop where they stay behind.
            ahead = tuple(context.fitted(rival) for rival in leaders[: leaders.index(self)])
            if all(
                any(question.answered(one.curves[part][-1].strength) for one in ahead if one.curves)
                for part, (question, _) in enumerate(self.target.parts)
            ):
                return begun._replace(attacker=None, ended=BEHIND)
            return train(self, context, begun, ahead)
        # What neither leads nor answers has its curve on record; what it would guess need not be asked.
        return begun._replace(ended=REACHED) if answers else begun._replace(attacker=None, ended=PRUNED)

    def _standing(self, context: Context) -> "tuple[list[Trained], bool]":
        """The leaders among its rivals, the best first, and whether its own start is the first that has answered a question."""
        starts = [rival.start for rival in self.rivals]
        if self.start not in starts:
            return [self], False
        curves, own = [context.fitted(start).curves for start in starts], starts.index(self.start)
        orders, answers = [], False
        for part, (question, _) in enumerate(self.target.parts):
            # A start that failed leads nowhere.
            looks = [(curve[part][-1], index) for index, curve in enumerate(curves) if curve]
            near = max((look.strength for look, _ in looks), default=0.0) - FAR
            ranked = [
                index for _, index in sorted((look.loss, index) for look, index in looks if look.strength >= near)
            ]
            if any(question.answered(look.strength) for look, _ in looks):
                answers |= own == ranked[0]
                continue
            # Written from the worst on, so that the best of each architecture is what stays.
            best = {self.rivals[index].architecture: index for index in reversed(ranked)}
            orders.append(sorted(best.values(), key=ranked.index))
        leaders: list[int] = []
        for place in itertools.zip_longest(*orders):
            # Whoever is best for a question leads; seconds only where that is one network.
            if len(leaders) < self.leaders:
                leaders += [index for index in dict.fromkeys(place) if index is not None and index not in leaders]
        return [dataclasses.replace(self.rivals[index], rivals=self.rivals) for index in leaders], answers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A network with all of its answers.

    Attributes:
        variables: of the network.
        module: the network (static).
    """

    variables: Any
    module: nn.Module = dataclasses.field(metadata={"static": True})

    def on(self, z: Features) -> Array:
        """The output from features as it is told of them."""
        return self.module.apply(self.variables, z, train=False)  # type: ignore[return-value]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answers:
    """A fitted attacker: a network that answers one question or several, for each with the parameters that were best for it.

    Attributes:
        view: of what it is told.
        networks: one a question.
        cuts: where on the output's last axis each answer lies (static).
    """

    view: Any
    networks: tuple[Network, ...]
    cuts: tuple[tuple[int | None, int | None], ...] = dataclasses.field(metadata={"static": True})

    def on(self, z: Features) -> Features:
        """Summarised features as they are told."""
        return shaped(self.view, z)

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """All answers beside each other, ``CHUNK`` images at a time."""
        del key
        # In a program of its own, as for a step (see Draw); networks that share it are cut behind theirs, which they share too.
        told = in_chunks(dataclasses.replace(self, networks=(), cuts=()), z)[None]
        parts = [in_chunks(one, told)[..., slice(*cut)] for one, cut in zip(self.networks, self.cuts, strict=True)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)

    def at_once(self, z: Features) -> Array:
        """The same from summarised features, in one program: what can be exported."""
        told = self.on(z)
        return jnp.concatenate([one.on(told)[..., slice(*cut)] for one, cut in zip(self.networks, self.cuts)], axis=1)

    def part(self, index: int) -> "Answers":
        """The attacker that answers one question alone."""
        return Answers(self.view, (self.networks[index],), (self.cuts[index],))


def shaped(view: Any, z: Features, half: bool = False) -> Features:
    """A view of features, in half precision if asked; one that has as many numbers is a map again where they were one."""
    seen = view(z)
    seen = seen.clip(-LARGEST, LARGEST).astype(jnp.float16) if half else seen
    if seen.ndim == 4:
        return seen
    return seen.reshape(z.shape) if seen.size == z.size and z.ndim == 4 else seen.reshape(z.shape[0], -1)


def seen(view: Any, z: Features, half: bool = False) -> Features:
    """Lessons as a network is told of them; once for all steps, since a view may cost more than the network.

    Args:
        view: how they are told.
        z: all rows.
        half: whether they are kept in half precision.
    """
    return gathered((_shaped(view, z[start : start + SEEN], half) for start in range(0, len(z), SEEN)), len(z))


_shaped = jax.jit(shaped, static_argnums=2)


class Told(NamedTuple):
    """What a network is told at a step that is made for that step alone.

    A client with noise is asked about an image again every time: noise that was seen before can be learnt by heart.

    Attributes:
        release: the client.
        view: of what it sends.
        plants: the labels that were planted in it, a function of a key and features; None for none.
        moments: mean and stddev of Gaussian noise for every row, which are cheaper to draw from; None to ask the client.
    """

    release: Release
    view: Any
    plants: Any
    moments: tuple[Array, Array] | None

    def __call__(self, key: PRNGKey, index: Array, batch: Batch) -> tuple[Features, Batch]:
        """What a network is told of the images at ``index``, and what they are of."""
        noise_key, plant_key = jax.random.split(key)
        if self.moments is None:
            z = ask(self.release, batch.image, noise_key)[0]
        else:
            mean, stddev = (moment[index] for moment in self.moments)
            z = mean + stddev * jax.random.normal(noise_key, mean.shape)
        if self.plants is not None:
            batch = batch._replace(sensitive={**batch.sensitive, **self.plants(plant_key, z)})
        return shaped(self.view, z), batch


def moments(asked: Asked) -> tuple[Array, Array] | None:
    """What a client declares of Gaussian noise, where what it sends bears it out; None else.

    Attackers must not learn from noise that is another than declared.
    """
    if asked.queries > 1 or not isinstance(asked.library, Library):
        return None
    shape = asked.sample_z.shape[1:]
    mean, stddev = (moment.reshape(-1, *shape) for moment in (asked.library.mean, asked.library.stddev))
    stddev = np.broadcast_to(stddev, mean.shape)
    rows = slice(min(STATISTICS, len(mean)))
    # Finite wherever it is declared to vary at all; what is not is no Gaussian.
    with np.errstate(all="ignore"):
        noise = (np.asarray(asked.sample_z[rows]) - mean[rows]) / stddev[rows]
    error = 5 / np.sqrt(noise.size)
    means, squares = noise.mean(0), np.square(noise).mean(0)
    borne = (
        abs(means.mean()) < error and abs(squares.mean() - 1) < 2 * error and abs((noise**4).mean() - 3) < 10 * error
    )
    # And of each feature by itself: a share that is declared wrongly may not show in the mean of all.
    alone = 6 / np.sqrt(len(noise))
    borne = borne and np.abs(means).max() < alone and np.abs(squares - 1).max() < 2 * alone
    return (jnp.asarray(mean), jnp.asarray(stddev)) if borne else None


class Lessons(NamedTuple):
    """What a network learns from.

    Attributes:
        z: (n, ...), rows as it is told of them, of single or half precision; where ``told`` makes them only some, for the
            network's statistics.
        batch: what they are of.
        held_z: the same of ``validation``.
        held: likewise.
        aim: see :meth:`ani_jax.targets.base.Target.aim`.
        told: makes the rows of a step, None where they are ready.
    """

    z: Features
    batch: Batch
    held_z: Features
    held: Batch
    aim: Any
    told: Told | None = None

    def rows(self, index: Array | slice) -> Features:
        """Some rows, in single precision."""
        return self.z[index].astype(jnp.float32)


class Drawn(NamedTuple):
    """The rows of one step.

    Attributes:
        z: as a network is told of them.
        batch: what they are of.
        aim: see :class:`Lessons`.
    """

    z: Features
    batch: Batch
    aim: Any


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws the rows of a step, with replacement.

    A program of its own: within the step, local curves on ranked fresh noise took 340 ms instead of 50 (128 x 32 x 32 x 3, jax
    0.10.2, two cores), since XLA made the noise anew for every curve.

    Attributes:
        size: how many.
    """

    size: int

    def __call__(self, data: Lessons, key: PRNGKey) -> Drawn:
        """Rows, and fresh noise where there is any."""
        row_key, _, noise_key = jax.random.split(key, 3)
        index = jax.random.randint(row_key, (self.size,), 0, len(data.batch.label))
        batch = jax.tree.map(lambda leaf: leaf[index], data.batch)
        z, batch = (data.rows(index), batch) if data.told is None else data.told(noise_key, index, batch)
        return Drawn(z, batch, data.aim)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Loss of a network attacker on the rows of a step.

    Attributes:
        module: the network.
        loss: see :data:`Loss`.
    """

    module: nn.Module
    loss: Loss

    def __call__(self, params: Any, data: Drawn, key: PRNGKey) -> Float[Array, ""]:
        """Their mean loss."""
        _, dropout_key, _ = jax.random.split(key, 3)
        output, _ = self.module.apply(
            {"params": params}, data.z, train=True, mutable=["batch_stats"], rngs={"dropout": dropout_key}
        )
        return self.loss(output, data.batch, data.aim).mean()  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Loss of a network attacker on ``validation``, to keep its best parameters by.

    Attributes:
        module: the network.
        loss: see :data:`Loss`; of several questions each by itself.
        most: validation images at most, spread over all.
    """

    module: nn.Module
    loss: Loss
    most: int = 1024

    def __call__(self, params: Any, data: Lessons) -> Float[Array, "..."]:
        """Mean loss."""
        variables = statistics(self.module, params, data.rows(slice(STATISTICS)))
        apart = -(-len(data.held_z) // self.most)
        z, batch = jax.tree.map(lambda leaf: leaf[::apart], (data.held_z, data.held))
        output = self.module.apply(variables, z, train=False)
        return self.loss(output, batch, data.aim).mean(0)  # type: ignore[arg-type]


Curves = tuple[tuple[Look, ...], ...]
"""A curve for each part of a target."""


def train(attack: Trained, context: Context, begun: Fitted | None = None, ahead: tuple[Fitted, ...] = ()) -> Fitted:
    """Trains one network: its start, at once to ``least``, then doublings, until two stages in a row gained nothing.

    Also until its steps are spent, or another that leads before it stays ahead.

    Args:
        attack: whose target's losses are minimised and chosen by (Adam, in every stage warm-up and cosine decay, gradients
            clipped to norm 1).
        context: of the client.
        begun: what its start found, to go on from.
        ahead: those that lead before it.
    """
    asked, target = context.asked, attack.target
    module, view = attack.module(asked), attack.view(context)
    init_key, fit_key = jax.random.split(context.key)
    drawn, told = moments(asked), None
    # What several releases, or a view that makes much more numbers of one, would fill the memory with.
    wide = jax.eval_shape(shaped, view, asked.sample_z[:1]).size > WIDE * asked.sample_z[0].size
    # Asking several times at every step would take longer than the step; and without noise the answer is known.
    if asked.queries == 1 and asked.fresh:
        told = Told(asked.release, view, asked.plants, drawn)
    data = Lessons(
        seen(view, asked.sample_z if told is None else asked.sample_z[:STATISTICS], wide or asked.queries > 1),
        asked.sample if drawn is None or asked.owned is None else asked.owned,
        seen(view, asked.held_z),
        asked.validation,
        target.aim(asked.validation),
        told,
    )
    if begun is None or begun.last is None:
        params = initialise(module, init_key, data.rows(slice(1)))["params"]
        state = Fit(params, (), 0, last=params)
    else:
        best = [network.variables["params"] for network in begun.attacker.networks]
        several = np.ndim(begun.last.best) > 0
        state = begun.last._replace(params=jax.tree.map(lambda *ones: jnp.stack(ones), *best) if several else best[0])
    curves = [list(part) for part in begun.curves] if begun is not None else [[] for _ in target.parts]
    done, history = curves[0][-1].steps if curves[0] else 0, ()
    others = [one.last.history for one in ahead if one.last is not None]
    while True:
        # Behind the start, which says who leads, one cosine up to ``least``: stages that each anneal to zero learn less in as
        # many steps (local curves on funnel at seed 100, cross-entropy of ink and paper after 2,496: doublings 0.037 and
        # 0.044, one cosine 0.024 and 0.026; a decoder as much).
        length = min(max(done, attack.least - done) if done else attack.first or attack.steps, attack.steps - done)
        state = fit(
            jax.random.fold_in(fit_key, done),
            state.last,
            Objective(module, target.loss),
            data,
            steps=length,
            optimizer=adam(attack.rate, length, 1.0),
            evaluate=Selection(module, target.selection),
            every=max(APART, -(-length // LOOKS)),
            kept=state if done else None,
            draw=Draw(attack.batch_size),
            stop=lambda own, before=history: lagging((*before, *own), others),
            on_event=context.emit,
        )
        history += state.history
        done += state.steps
        attacker = _answers(state, view, module, target, data.rows(slice(STATISTICS)))
        for part, look in zip(curves, _looks(done, state, attacker, attack, context), strict=True):
            part.append(look)
        reached = attack.first and done >= attack.least and settled(curves, target)
        # The last stage takes as many steps as all before it: it is for those alone that nobody is ahead of.
        near = NEAR if 2 * done < attack.steps else 0.0
        behind = lagging(history, others) or overtaken(curves, [one.curves for one in ahead if one.curves], near)
        if state.failed is not None or reached or behind or done >= attack.steps:
            break
    ended = end_of(curves, target, len(asked.sample.label)) if reached else RISING if attack.first else ""
    ended = BEHIND if behind and not reached else ended
    # Its best parameters are the attacker's: kept twice, they would be half of what a network takes.
    last = state._replace(params=None, history=history)
    return Fitted(attacker, state.failed, "", tuple(map(tuple, curves)), ended, last)


def _answers(state: Fit, view: Any, module: nn.Module, target: Target, z: Features) -> Answers:
    """The attacker at its best parameters."""
    cuts = tuple((part.start, part.stop) for _, part in target.parts)
    several = np.ndim(state.best) > 0
    best = [jax.tree.map(lambda leaf, i=i: leaf[i] if several else leaf, state.params) for i in range(len(cuts))]
    return Answers(view, tuple(Network(_variables(module, params, z), module) for params in best), cuts)


_variables = jax.jit(statistics, static_argnums=0)


def _looks(done: int, state: Fit, attacker: Answers, attack: Trained, context: Context) -> list[Look]:
    """How strong the attacker is now, for each of its questions."""
    asked, found = context.asked, []
    rows = jax.tree.map(lambda leaf: leaf[:STATISTICS], asked.sample)
    # Evidence is JSON, which has no infinity.
    losses = [FLOOR if loss is None else float(loss) for loss in np.atleast_1d(np.array(state.best, object))]
    # Once for all questions, which are told alike.
    held, learnt = (attacker(context.key, z) for z in (asked.held, asked.sample_z[None, :STATISTICS]))
    for (part, cut), loss in zip(attack.target.parts, losses, strict=True):
        strength = part.strength(part.balanced(np.asarray(held[:, cut]), asked.sample), asked.validation)
        own = float(part.selection(learnt[:, cut], rows, part.aim(rows)).mean())
        found.append(Look(done, loss, strength, own))
    return found


def end_of(curves: Sequence[Sequence[Look]], target: Target, rows: int) -> str:
    """Why training ended, by every question that is not answered.

    Args:
        curves: of each of the target's parts.
        target: what was wanted.
        rows: that were learnt from.
    """
    if not settled(curves, target):
        return RISING
    for (part, _), curve in zip(target.parts, curves, strict=True):
        look = curve[-1]
        # As far as a plateau allows, nothing is gained by having seen a row before.
        heard = look.own is not None and part.gained(look, dataclasses.replace(look, loss=look.own))
        if heard and not part.answered(look.strength):
            return EXHAUSTED.format(rows)
    return REACHED


def overtaken(curves: Sequence[Sequence[Look]], ahead: Sequence[Curves], near: float) -> bool:
    """Whether a network is weaker than another was after as many steps, by more than ``near`` for every question.

    Args:
        curves: its own.
        ahead: those of the others.
        near: how much weaker is no weaker.
    """
    for index, (*_, own) in enumerate(curves):
        others = [look.strength for rival in ahead for look in rival[index] if look.steps <= own.steps]
        if own.strength >= max(others, default=-np.inf) - near:
            return False
    return True


def lagging(history: Sequence[Mapping[str, Any]], others: Sequence[Sequence[Mapping[str, Any]]]) -> bool:
    """Whether at its last look a network's loss was ``LAG`` times that of others at as many steps, for every question.

    Args:
        history: its looks behind its start.
        others: those of the others.
    """
    place = len(history) - 1
    at = [np.asarray(other[place]["evaluation"]) for other in others if 0 <= place < len(other)]
    return bool(at) and bool((np.asarray(history[place]["evaluation"]) > LAG * np.min(at, axis=0)).all())


def settled(curves: Sequence[Sequence[Look]], target: Target) -> bool:
    """Whether two doublings in a row gained nothing for any question that is not answered."""
    return all(
        part.answered(curve[-1].strength)
        or (len(curve) > 2 and not any(part.gained(*pair) for pair in zip(curve[-3:-1], curve[-2:])))
        for (part, _), curve in zip(target.parts, curves, strict=True)
    )
