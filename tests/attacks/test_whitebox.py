"""What white-box inversion must find (METHODS 5.3, 5.6, 7), and what it must not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ani_jax.attacks import base, query
from ani_jax.attacks.decoder import Kernel, Ridge
from ani_jax.attacks.whitebox import WhiteBox, settings
from ani_jax.data import catalog
from ani_jax.losses.reconstruction import mse, psnr
from ani_jax.modules.edge import SplitEdge
from ani_jax.modules.initialise import initialise
from ani_jax.targets.image import Image
from ani_jax.types import Batch, Data, Knowledge, Release, Source, fixed

SIDE = 8
PIXELS = SIDE * SIDE * 3


def white_box(steps, restarts, rates=(0.03,), variations=(0.0,), energies=(0.0,), tuned_on=4, starters=(), **options):
    grid = {"rates": rates, "variations": variations, "energies": energies}
    return WhiteBox(Image(), steps=steps, restarts=restarts, **grid, tuned_on=tuned_on, starters=starters, **options)


COLD = white_box(60, 1, surrogate_steps=20)


@functools.cache
def digits(side: int = SIDE) -> Data:
    return catalog.load("digits", image_size=side)


def seen(function, count=16, sample=512, side=SIDE, queries=1):
    data = digits(side)
    held = jax.tree.map(lambda leaf: leaf[:count], data.validation)
    knowledge = Knowledge(query.as_release(function))
    return base.prepare(jax.random.key(0), knowledge, data.auxiliary, held, count=sample, queries=queries)


def decibels(fitted, asked):
    return float(psnr(fitted.attacker(jax.random.key(1), asked.held), asked.validation.image).mean())


ORDER = np.random.default_rng(0).permutation(PIXELS)
ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(PIXELS, PIXELS)))[0].astype(np.float32)


DISGUISES = {
    "identity": lambda x: x,
    "permutation": lambda x: x.reshape(len(x), -1)[:, ORDER].reshape(x.shape),
    "rotation": lambda x: x.reshape(len(x), -1) @ ROTATION,
    "small": lambda x: 1e-3 * x,
    "large": lambda x: 1e3 * x + 5,
    "stopped": jax.lax.stop_gradient,
    "rounded": lambda x: jnp.round(255 * x) / 255,
    "half stopped": lambda x: jnp.concatenate([x[:, ::2], jax.lax.stop_gradient(x[:, 1::2])], 1),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_the_identity_is_found_behind_every_disguise(key, name, fit):
    asked = seen(DISGUISES[name], count=8)
    fitted = fit(COLD, key, asked)
    assert fitted.failed is None
    assert bool(fitted.note) == (name in ("stopped", "rounded", "half stopped"))
    assert decibels(fitted, asked) > 40


def test_a_constant_client_gives_no_more_than_the_mean_image(key, fit):
    asked = seen(lambda x: jnp.full((len(x), 6), 0.7))
    truth = asked.validation.image
    mean = mse(jnp.broadcast_to(asked.sample.image.mean(0), truth.shape), truth).mean()
    for attack in (COLD, WhiteBox(Image(), steps=20, restarts=3, tuned_on=4)):
        fitted = fit(attack, key, asked)
        assert fitted.failed is None
        found = mse(fitted.attacker(key, asked.held), truth).mean()
        assert float(found) > 0.98 * float(mean)


NOISE = 0.1


def noisy(variables, x, key):
    return mean(variables, x) + NOISE * jax.random.normal(key, mean(variables, x).shape)


def mean(variables, x):
    return (x.reshape(len(x), -1) @ variables).reshape(x.shape)


def stddev(variables, x):
    return jnp.full_like(x, NOISE)


def log_prob(variables, z, x):
    return jax.scipy.stats.norm.logpdf(z, mean(variables, x), NOISE).reshape(len(z), -1).sum(1)


def gaussian(queries, declared):
    """Gaussian images far wider than [0, 1], an orthogonal client, Gaussian noise."""
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(7), (16, 16)))[0]
    batches = [
        Batch(0.5 + jax.random.normal(jax.random.key(i), (300, 4, 4, 1)), jnp.zeros(300, int), {}) for i in (0, 1)
    ]
    declares = {"mean": mean, "log_prob": log_prob, "stddev": stddev} if declared else {}
    release = Release(turn, noisy, stochastic=True, **declares)
    knowledge = Knowledge(release)
    return base.prepare(jax.random.key(2), knowledge, Source(batches[0], fixed), batches[1], count=64, queries=queries)


# Undeclared noise must be averaged over by the descent itself, whose steps add a percent of the noise's variance.
@pytest.mark.parametrize(("queries", "declared"), [(1, True), (4, True), (16, True), (1, False)])
def test_without_prior_and_bounds_the_error_is_the_noise_over_k(key, queries, declared, fit):
    asked = gaussian(queries, declared)
    attack = white_box(150, 1, (0.1,), bounded=False, surrogate_steps=20)
    assert attack.inverter(key, asked, asked.release).goal.likelihood == declared
    found = fit(attack, key, asked).attacker
    error = float(mse(found(key, asked.held), asked.validation.image).mean())
    # 4,800 squared Gaussian errors: their mean is within 5% with three standard errors to spare.
    assert error == pytest.approx(NOISE**2 / queries, rel=0.05)


def loud(variables, x, key):
    return x + louder(variables, x) * jax.random.normal(key, x.shape)


def louder(variables, x):
    return 0.1 + x.clip(0, 1)


def loudness(variables, z, x):
    return jax.scipy.stats.norm.logpdf(z, x, louder(variables, x)).reshape(len(z), -1).sum(1)


def test_the_density_says_more_than_a_squared_distance_over_draws(key, fit):
    """METHODS' one-dimensional check: noise that grows with x."""
    images = jax.random.uniform(jax.random.key(1), (400, 1, 1, 1))
    batch = Batch(images, jnp.zeros(400, int), {})
    declares = {"mean": lambda variables, x: x, "log_prob": loudness, "stddev": louder}
    release = Release((), loud, stochastic=True, **declares)

    def error(queries):
        asked = base.prepare(key, Knowledge(release), Source(batch, fixed), batch, count=64, queries=queries)
        # A copy competes, so there are enough images to tell which is better.
        found = fit(white_box(80, 3, (0.05,), surrogate_steps=20, tuned_on=64), key, asked).attacker
        return float(mse(found(key, asked.held), images).mean()), np.asarray(asked.held).reshape(queries, -1)

    grid = np.linspace(0, 1, 201)[None, :, None]
    for queries in (1, 16):
        reached, z = error(queries)
        # The expected squared distance to a fresh draw: (x - z)^2 + stddev(x)^2, minimised on a grid.
        naive = (np.square(grid - z[:, None]) + np.square(0.1 + grid)).mean(0).argmin(0) / 200
        assert reached < 0.8 * np.square(naive - np.asarray(images).ravel()).mean()
    assert reached < 0.012


def test_a_client_that_cannot_be_differentiated_at_all_is_copied(key, fit):
    def foreign(x):
        return jax.pure_callback(lambda x: 1 - np.asarray(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    asked = seen(foreign, count=8)
    fitted = fit(COLD, key, asked)
    assert "which is no privacy" in fitted.note
    assert decibels(fitted, asked) > 40


def test_an_image_is_found_alone_as_among_others(key, fit):
    asked = seen(DISGUISES["rotation"])
    found = fit(COLD, key, asked).attacker
    together = found(key, asked.held)
    np.testing.assert_allclose(found(key, asked.held[:, 3:4]), together[3:4], atol=1e-4)
    np.testing.assert_allclose(found(key, asked.held[:, ::-1])[::-1], together, atol=1e-4)


def broken(x):
    """NaN for dark images."""
    return jnp.where(x.mean((1, 2, 3), keepdims=True) < 0.45, jnp.nan, x)


def test_what_is_not_finite_has_failed_and_keeps_its_last_finite_state(key, fit):
    asked = seen(lambda x: x)
    attack = white_box(30, 1, tuned_on=16)
    healthy = fit(attack, key, asked)
    assert healthy.failed is None
    sick = attack.inverter(key, asked, query.as_release(broken))
    dark = jnp.full_like(asked.held, 0.2)
    guess, finite = sick.solve(key, jnp.concatenate([asked.held[:, :1] * 0 + 0.9, dark[:, :1]], 1))
    assert finite.tolist() == [True, False]
    assert bool(jnp.isfinite(guess).all())
    assert float(guess[1].mean()) < float(sick.starts[0].mean())
    nothing = fit(attack, key, seen(lambda x: x * jnp.nan))
    assert nothing.failed == "the objective or its gradient is not finite"
    assert bool(jnp.isfinite(nothing.attacker(key, asked.held)).all())


@functools.cache
def edge():
    """The undefended cnn split, untrained but for its statistics: as hard to invert, and quick to make."""
    module = SplitEdge(8, 2)
    images = digits(16).auxiliary.draw(jax.random.key(3), 64).image
    variables = initialise(module, jax.random.key(4), images, jax.random.key(0))
    _, statistics = module.apply(variables, images, jax.random.key(0), train=True, mutable=["batch_stats"])
    return module, {"params": variables["params"], **statistics}


def send(variables, x):
    return edge()[0].apply(variables, x, jax.random.key(0), train=False).z


def every_other(variables, x):
    z = send(variables, x)
    return jnp.where((np.arange(z.shape[-1]) % 2 == 0)[None, None, None], z, jax.lax.stop_gradient(z))


SCATTERED = np.random.default_rng(2).random((1, 16, 16, 1)) < 0.5
LIARS = {
    "half the features": every_other,
    "half the pixels": lambda variables, x: send(variables, jnp.where(SCATTERED, x, jax.lax.stop_gradient(x))),
    "all": lambda variables, x: jax.lax.stop_gradient(send(variables, x)),
}


def twin(fit, key, function):
    asked = seen(jax.tree_util.Partial(function, edge()[1]), count=8, sample=2048, side=16)
    fitted = fit(white_box(300, 1, (0.01, 0.03), (0.0, 1e-3), tuned_on=8), key, asked)
    return decibels(fitted, asked), fitted.note


@pytest.mark.slow
def test_who_stops_gradients_is_inverted_as_well_as_an_honest_twin(key, fit):
    honest, note = twin(fit, key, send)
    assert note == ""
    for function in LIARS.values():
        reached, note = twin(fit, key, function)
        assert reached > honest - 1
        assert "which is no privacy" in note


def torch_inversion(variables, z, shape, steps, rate=0.001, variation=2.0):
    """He, Zhang & Lee 2019 as METHODS 5.3 has it, from the formulas: mean squared distance + weighted TV, Adam, start at 0.5."""
    import torch

    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables)

    def block(x, name):
        weights, statistics = params["params"][name], params["batch_stats"][name]["norm"]
        kernel = weights["conv"]["kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, weights["conv"]["bias"], padding=1)
        norm = weights["norm"]
        x = torch.nn.functional.batch_norm(
            x, statistics["mean"], statistics["var"], norm["scale"], norm["bias"], training=False, eps=1e-5
        )
        return torch.relu(torch.nn.functional.max_pool2d(x, 2))

    goal = torch.tensor(np.asarray(z)).permute(0, 3, 1, 2)
    unknown = torch.full((shape[0], shape[3], *shape[1:3]), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([unknown], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        distance = (block(block(unknown, "block_0"), "block_1") - goal).square().mean((1, 2, 3))
        rows, columns = unknown.diff(dim=2).abs().mean((1, 2, 3)), unknown.diff(dim=3).abs().mean((1, 2, 3))
        (distance + variation * (rows + columns)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            unknown.clamp_(0, 1)
    return jnp.asarray(unknown.detach().permute(0, 2, 3, 1).numpy())


def against_torch(fitting, key, images, ours, steps, sample):
    _, variables = edge()
    asked = seen(jax.tree_util.Partial(send, variables), count=images, sample=sample, side=16)
    truth = asked.validation.image
    grid = [(rate, weight) for rate in (1e-2, 3e-2) for weight in (0.0, 1e-3)]
    theirs = [
        psnr(torch_inversion(variables, asked.held[0], truth.shape, steps, *one), truth).mean().item() for one in grid
    ]
    fitted = fitting(ours, key, asked)
    assert fitted.failed is None
    return decibels(fitted, asked), max(theirs)


@pytest.mark.slow
def test_reaches_a_torch_transcription_of_he_et_al(key, fit):
    ours = white_box(100, 1, (0.01, 0.03), (0.0, 1e-3), tuned_on=8, starters=(Ridge(Image()), Kernel(Image())))
    reached, reference = against_torch(fit, key, 8, ours, 100, 512)
    assert reached >= reference


@pytest.mark.slow
def test_reaches_a_torch_transcription_of_he_et_al_with_its_own_starts(key, fit):
    ours = WhiteBox(Image(), steps=1000, restarts=2, tuned_on=16, starters=())
    reached, reference = against_torch(fit, key, 16, ours, 1000, 512)
    assert reached >= reference


@dataclasses.dataclass(frozen=True)
class Good(Ridge):
    penalties: tuple[float, ...] = (1e-3,)


@dataclasses.dataclass(frozen=True)
class Poor(Ridge):
    penalties: tuple[float, ...] = (10.0,)


def test_the_best_decoder_gives_the_first_start(key):
    asked = seen(lambda x: x[:, ::2])
    fits = base.Fits(asked, lambda attack: key)
    reached = fits(white_box(50, 1, (0.003,), tuned_on=16, starters=(Poor(Image()), Good(Image())))).attacker
    good = fits(Good(Image())).attacker
    assert reached.guess is good
    start = float(mse(good(key, asked.held), asked.validation.image).mean())
    assert float(mse(reached(key, asked.held), asked.validation.image).mean()) < start


def test_the_grid_is_tried_and_recorded(key, fit):
    asked = seen(lambda x: x)
    events = []
    fitted = fit(white_box(30, 1, (0.0, 0.03), (0.0, 10.0)), key, asked, events.append)
    assert tuple(fitted.attacker.setting) == (0.03, 0.0, 0.0)
    tried = [(e["rate"], e["variation"], e["energy"]) for e in events]
    # Of the client and of what stands beside it: all are tried briefly, the best of both goes all the way.
    assert tried == [*2 * list(map(tuple, settings((0.0, 0.03), (0.0, 10.0), (0.0,)))), (0.03, 0.0, 0.0)]
    assert [e["step"] for e in events] == [*8 * [8], 30]
    least = min(events, key=lambda event: event["loss"])
    assert (least["rate"], least["variation"]) == (0.03, 0.0)


def test_more_images_than_fit_at_once(key, monkeypatch, fit):
    asked = seen(lambda x: x, count=10)
    found = fit(COLD, key, asked).attacker
    whole = found(key, asked.held)
    monkeypatch.setattr("ani_jax.attacks.whitebox.ROWS", 4)
    np.testing.assert_allclose(found(key, asked.held), whole, atol=1e-5)
