"""Plain minimisation with early stopping, for attackers, estimators and priors.

The loop runs on the host over one jitted step: XLA's CPU convolutions lose their threads inside ``lax.scan``
(measured: ten Adam steps of a small decoder took 100 times longer scanned than dispatched one by one). Steps are
dispatched without waiting; the host looks at the losses once in ``every`` steps.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float

from ani_jax.types import PRNGKey

Loss = Callable[[Any, Any, PRNGKey], Float[Array, ""]]
"""``(params, data, key) -> scalar``; static, so hashable and equal for equal architectures."""


class Fit(NamedTuple):
    """What a minimisation found.

    Attributes:
        params: the parameters with the lowest ``evaluate`` (the last ones without it); always finite. Where ``evaluate`` gives
            several numbers, those with the lowest of each, one behind the other on a first axis.
        history: one dict per look: "step", "loss" (mean over the steps since the last look), and "evaluation".
        steps: steps that were run.
        best: lowest value of ``evaluate``, a list where it gives several, None without it.
        failed: why the fit stopped early on a value that is not finite, None if it did not.
        last: the parameters after the last step that was finite, whatever ``evaluate`` says of them.
    """

    params: Any
    history: tuple[dict[str, Any], ...]
    steps: int
    best: Any = None
    failed: str | None = None
    last: Any = None


def fit(
    key: PRNGKey,
    params: Any,
    loss: Loss,
    data: Any,
    *,
    steps: int,
    optimizer: optax.GradientTransformation,
    evaluate: Callable[[Any, Any], Float[Array, "..."]] | None = None,
    every: int = 50,
    kept: Fit | None = None,
    draw: Callable[[Any, PRNGKey], Any] | None = None,
    stop: Callable[[Sequence[Mapping[str, Any]]], bool] | None = None,
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
) -> Fit:
    """Minimises the expectation of ``loss(params, data, key)`` over keys.

    Compiles once per (loss, the optimiser's ``update``, shapes): hand over hashable callables that compare equal, an
    optimiser from a cached factory such as :func:`adam`, and everything that varies in ``data``.

    Args:
        key: step i uses ``fold_in(key, i)``.
        params: where to start.
        loss: static; draws its own batch and noise from the key.
        data: traced pytree.
        steps: at most this many.
        optimizer: its ``update`` is static.
        evaluate: static ``(params, data) -> scalar``, or (h,) numbers that each keep their own best; lower is better. Looked at
            at the start, every ``every`` steps and at the end.
        every: steps between two looks.
        kept: an earlier fit with the same ``evaluate``, whose best stays the best until something beats it.
        draw: static ``(data, key)`` with the step's own key -> what ``loss`` takes for ``data`` at that step, in a program of its
            own: in one with its readers XLA makes a batch as often as it is read. None where ``loss`` draws.
        stop: asked at every look, of the history so far, whether to end there.
        on_event: called at every look with the history's newest entry.

    Returns:
        A :class:`Fit`. A loss or update that is not finite ends the fit at once: parameters from before it are kept.

    Raises:
        ValueError: ``steps`` below 0, or ``every`` below 1.

    Example:
        >>> def loss(params, data, key): return jnp.sum((params - data) ** 2)
        >>> found = fit(jax.random.key(0), jnp.zeros(2), loss, jnp.ones(2), steps=200, optimizer=adam(0.1))
        >>> found.params.round(2).tolist(), found.steps, found.failed
        ([1.0, 1.0], 200, None)
    """
    if steps < 0:
        raise ValueError(f"steps={steps}: must be 0 or more")
    if every < 1:
        raise ValueError(f"every={every}: must be at least 1")
    best, best_params = None, params
    if evaluate is not None:
        first = np.asarray(_call(evaluate, params, data) if kept is None else kept.best, np.float32)
        # Where even the start is not finite, any finite value beats it.
        best = np.where(np.isfinite(first), first, np.inf)
        best_params = kept.params if kept is not None else _keep(np.ones_like(best, bool), params, None)
    state, good, history, done = optimizer.init(params), jnp.asarray(True), [], 0  # type: ignore[arg-type]
    while done < steps:
        count = min(every, steps - done)
        losses = []
        for index in range(done, done + count):
            own = data if draw is None else _call(draw, data, jax.random.fold_in(key, index))
            params, state, good, value = step(loss, optimizer.update, params, state, good, own, key, index)
            losses.append(value)
        done += count
        # The host waits here, and only here: until it asks for a number the device has steps to go on with.
        entry = {"step": done, "loss": sum(float(value) for value in losses) / count}
        if not bool(good):
            return _failed(history, params, best_params, best, losses, done - count)
        if evaluate is None:
            best_params = params
        else:
            value = np.asarray(_call(evaluate, params, data))
            entry["evaluation"] = value.tolist()
            # Not a number is never less.
            better = value < best
            if better.any() and best is not None:
                best_params, best = _keep(better, params, best_params), np.where(better, value, best)
        history.append(entry)
        if on_event is not None:
            on_event(entry)
        if stop is not None and stop(history):
            break
    return Fit(best_params, tuple(history), done, _finite(best), last=params)


# Cached, because ``update`` is a static argument of the step: an equal one that is another object would compile anew.
@functools.lru_cache(maxsize=64)
def adam(learning_rate: float, steps: int | None = None, clip: float | None = None) -> optax.GradientTransformation:
    """Adam, always the same object for the same arguments, and the same ``update`` for every rate and number of steps.

    Args:
        learning_rate: peak rate.
        steps: if given, the rate rises over the first tenth of the steps and falls to 0 by a cosine.
        clip: if given, gradients are scaled to at most this global norm.

    Example:
        >>> adam(1e-3, 100) is adam(1e-3, 100), adam(1e-3, 100).update is adam(3e-3, 50).update
        (True, True)
    """
    # The rate and the number of steps travel in the state, so that trials of a tuning share their compiled steps.
    return optax.GradientTransformation(_injected(learning_rate, steps, clip).init, _update(clip, steps is not None))


def _rule(learning_rate: Any, steps: Any, clip: float | None) -> optax.GradientTransformation:
    def rate(count: ArrayLike) -> Array:
        # optax.warmup_cosine_decay_schedule from a tenth of the peak rate; optax's wants a number of steps that is not traced.
        warmup = jnp.maximum(1, steps // 10)
        after = (count - warmup) / (jnp.maximum(steps, warmup + 1) - warmup)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(after, 0, 1)))
        return learning_rate * jnp.where(count < warmup, 0.1 + 0.9 * count / warmup, cosine)

    clipped = () if clip is None else (optax.clip_by_global_norm(clip),)
    return optax.chain(*clipped, optax.adam(learning_rate if steps is None else rate))


# Static, since to clip or not is another program; rate and length are arrays in the state of one.
_injected = optax.inject_hyperparams(_rule, static_args="clip")


@functools.lru_cache(maxsize=8)
def _update(clip: float | None, scheduled: bool) -> Callable[..., Any]:
    """The one update of all rates and lengths, which it reads from the state."""
    return _injected(1.0, 1 if scheduled else None, clip).update


@functools.partial(jax.jit, static_argnames="objective")
def lbfgs(
    params: Any, objective: Callable[[Any, Any], Float[Array, ""]], data: Any, *, steps: int, tolerance: float = 1e-4
) -> Any:
    """Minimises a smooth deterministic objective over the whole of ``data`` (L-BFGS, zoom line search).

    Args:
        params: where to start.
        objective: static ``(params, data) -> scalar``.
        data: traced pytree.
        steps: at most this many iterations.
        tolerance: stop once the gradient's norm is below it.

    Returns:
        The last parameters whose objective is finite.

    Example:
        >>> def objective(params, data): return jnp.sum((params - data) ** 4) + jnp.sum(params**2)
        >>> lbfgs(jnp.ones(1), objective, jnp.zeros(1), steps=20).round(2).tolist()
        [0.0]
    """
    solver = optax.lbfgs(memory_size=10, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=15))

    def function(params: Any) -> Float[Array, ""]:
        return objective(params, data)

    value_and_grad = optax.value_and_grad_from_state(function)

    def going(carry: Any) -> Bool[Array, ""]:
        _, _, index, norm = carry
        return (index < steps) & (norm > tolerance)

    def body(carry: Any) -> Any:
        params, state, index, _ = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=function)
        moved = optax.apply_updates(params, updates)
        good = jnp.isfinite(optax.tree.norm(moved))
        # A norm of 0 ends the loop.
        norm = jnp.where(good, optax.tree.norm(gradient), 0)
        return jax.tree.map(functools.partial(jnp.where, good), moved, params), state, index + 1, norm

    # Infinity in the parameters' own type: the loop's carry may not change its type.
    start = (params, solver.init(params), 0, optax.tree.norm(params) + jnp.inf)
    return jax.lax.while_loop(going, body, start)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(
    loss: Loss,
    update: Callable[..., Any],
    params: Any,
    state: Any,
    good: Bool[Array, ""],
    data: Any,
    key: PRNGKey,
    index: int,
) -> tuple[Any, Any, Bool[Array, ""], Float[Array, ""]]:
    """One update of :func:`fit`; once something is not finite, this and every later step changes nothing.

    Args:
        loss: as for :func:`fit`.
        update: the optimiser's.
        params: before the step.
        state: of the optimiser.
        good: whether everything so far was finite.
        data: as for :func:`fit`.
        key: of the fit; the step's own is folded in from ``index``.
        index: number of the step, from 0.

    Returns:
        Parameters, state and ``good`` after it, and the loss before it.

    Example:
        >>> def loss(params, data, key): return jnp.sum((params - data) ** 2)
        >>> rule, start = adam(0.5), jnp.zeros(1)
        >>> moved = step(loss, rule.update, start, rule.init(start), jnp.asarray(True), jnp.ones(1), jax.random.key(0), 0)
        >>> moved[0].round(2).tolist(), bool(moved[2]), moved[3].item()
        ([0.5], True, 1.0)
    """
    value, gradients = jax.value_and_grad(loss)(params, data, jax.random.fold_in(key, index))
    updates, new_state = update(gradients, state, params)
    # The norm is one number for all leaves: anything that is not finite makes it so.
    good = good & jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(updates))
    # Chosen on the device: asking the host whether a loss is finite would make it wait at every step.
    keep = functools.partial(jnp.where, good)
    return (
        jax.tree.map(keep, optax.apply_updates(params, updates), params),
        jax.tree.map(keep, new_state, state),
        good,
        value,
    )


@functools.partial(jax.jit, static_argnums=0)
def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@jax.jit
def _keep(better: Bool[Array, "..."], params: Any, kept: Any) -> Any:
    """What is kept for each number of an evaluation: the parameters where they are better, else what was kept before."""

    def one(new: Array, old: Array | None = None) -> Array:
        own = better.reshape(better.shape + (1,) * new.ndim)
        new = jnp.broadcast_to(new[(None,) * better.ndim], better.shape + new.shape)
        return new if old is None else jnp.where(own, new, old)

    return jax.tree.map(one, params) if kept is None else jax.tree.map(one, params, kept)


def _failed(history: list, params: Any, best_params: Any, best: Any, losses: list, start: int) -> Fit:
    """The fit that ends at the first step whose loss or update was not finite."""
    bad = next((i for i, value in enumerate(losses) if not bool(jnp.isfinite(value))), None)
    where = f"within steps {start + 1} to {start + len(losses)}" if bad is None else f"at step {start + bad + 1}"
    what = "update" if bad is None else "loss"
    return Fit(
        params if best is None else best_params,
        tuple(history),
        start,
        _finite(best),
        f"the {what} is not finite {where}",
        params,
    )


def _finite(best: np.ndarray | None) -> Any:
    """The lowest values as numbers, None for those that never were one."""
    if best is None or best.ndim == 0:
        return None if best is None or not np.isfinite(best) else best.item()
    return [value if math.isfinite(value) else None for value in best.tolist()]
