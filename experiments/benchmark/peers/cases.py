"""Units of work in PyTorch, as `experiments/benchmark/cases.py` has them in JAX."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import process
from experiments.benchmark.peers import losses, networks
from experiments.benchmark.sides import (
    ATTRIBUTES,
    CEILING,
    LEARNING_RATE,
    PENALTY,
    STEPS,
    Builders,
    Case,
    Shape,
    iterations,
    pictures,
)

Objective = Callable[["Training", Tensor, Any, Tensor, Mapping[str, Tensor]], Tensor]
"""``(training, z, aux, logits, answers of the adversaries) -> loss`` of the defender."""


def peers() -> Builders:
    """The table; in this process PyTorch works with as many threads as there are cores, which is what XLA takes too."""
    torch.set_num_threads(process.cores())
    return {
        "matmul": matmul,
        **{name: lambda shape, build=build: _case(build(shape)) for name, build in TRAININGS.items()},
        "critic": lambda shape: _case(CriticStep(shape)),
        "inversion": inversion,
        "decoder": lambda shape: _case(DecoderStep(shape)),
        "correlation": correlation,
        "forward": forward,
    }


def _case(unit: Callable[[], object]) -> Case:
    return Case(unit)


def tensors(count: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """The shared pictures, channels_last, with labels and attributes."""
    image, label, attribute = map(torch.from_numpy, pictures(count, shape))
    return _last(image.permute(0, 3, 1, 2)), label, attribute


def _last(value: Any) -> Any:
    return value.to(memory_format=torch.channels_last)


def _adam(parameters: Iterable[nn.Parameter], rate: float = LEARNING_RATE) -> torch.optim.Optimizer:
    # The fused form takes a quarter of the default's time.
    return torch.optim.Adam(parameters, rate, fused=True)


def _cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


class Training:
    """One step of client and server on the shared batch, after one of the adversaries where there are any.

    Args:
        shape: of the case.
        client: images to z, or to z and what the losses need beside it.
        server: z to logits.
        objective: of the defender.
        adversaries: by name; each hears standardised z.
    """

    def __init__(
        self,
        shape: Shape,
        client: nn.Module,
        server: nn.Module,
        objective: Objective,
        adversaries: Mapping[str, nn.Module] | None = None,
    ):
        self.image, self.label, self.attribute = tensors(shape.batch, shape)
        self.client, self.server = _last(client), _last(server)
        self.adversaries, self.objective = _last(nn.ModuleDict(adversaries or {})), objective
        self.optimizer = _adam([*client.parameters(), *server.parameters()])
        self.schedule = _cosine(self.optimizer, STEPS)
        own = list(self.adversaries.parameters())
        self.own_optimizer = _adam(own, 3e-3) if own else None
        self.flat = networks.rows(self.image)

    def __call__(self) -> Tensor:
        """The defender's loss."""
        sent = self.client(self.image)
        z, aux = sent if isinstance(sent, tuple) else (sent, None)
        if self.own_optimizer is not None:
            self._train_adversaries(z.detach(), self.own_optimizer)
        self.adversaries.requires_grad_(False)
        loss = self.objective(self, z, aux, self.server(z), self._answers(z))
        self.adversaries.requires_grad_(True)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def _answers(self, z: Tensor) -> dict[str, Tensor]:
        # What all of them hear is computed once.
        heard = losses.standardise(z) if self.adversaries else z
        return {name: module(heard) for name, module in self.adversaries.items()}

    def _train_adversaries(self, z: Tensor, optimizer: torch.optim.Optimizer) -> None:
        answers = self._answers(z)
        loss = F.cross_entropy(answers["attribute"], self.attribute) + F.mse_loss(answers["image"], self.image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _task(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, training.label)


def _penalised(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    dependence = losses.distance_correlation(training.flat, networks.rows(z))
    return F.cross_entropy(logits, training.label) + PENALTY * dependence


def _smoothed(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    return 5 * losses.smoothed_kl(logits, training.label, 0.25)


def _sifted(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    dependence = losses.local_distance_correlation(training.flat, losses.decorrelate(z))
    task = _smoothed(training, z, aux, logits, answers)
    return task + 10 * dependence + 0.5 * losses.channel_pearson(z) + z.abs().mean()


def _hidden(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    error = F.mse_loss(answers["image"], training.image).clamp(max=CEILING)
    task = F.cross_entropy(logits, training.label)
    return 0.1 * task - 0.45 * losses.entropy(answers["attribute"]) - 0.45 * error


def _noised(training: Training, z: Tensor, aux: Any, logits: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits, training.label) - 0.5 * aux.log().mean()


def _side(shape: Shape) -> int:
    """Of the plain split's z."""
    return shape.image // 4 if shape.backbone == "cnn" else shape.image


def _channels(shape: Shape) -> int:
    return 2 * shape.width if shape.backbone == "cnn" else shape.width


def plain(shape: Shape, objective: Objective = _task, adversaries: Mapping[str, nn.Module] | None = None) -> Training:
    """The plain split."""
    client = networks.Edge(shape.width, shape.backbone)
    server = networks.Cloud(shape.classes, shape.width, shape.backbone, _side(shape))
    return Training(shape, client, server, objective, adversaries)


def funnel(shape: Shape, objective: Objective = _sifted) -> Training:
    """The funnel's networks."""
    cnn = shape.backbone == "cnn"
    client = networks.CnnFunnel(shape.width) if cnn else networks.ResnetFunnel(shape.width)
    side, depth = (shape.image // 4, 2) if cnn else (shape.image // 2, 3)
    server = networks.Cloud(shape.classes, shape.width, shape.backbone, side, depth, 12, 128)
    return Training(shape, client, server, objective)


def partition(shape: Shape) -> Training:
    """The plain split's networks against two adversaries, one update of them a step."""
    channels, side = _channels(shape), _side(shape)
    adversaries = {
        "attribute": networks.ConvClassifier(channels, side, ATTRIBUTES, shape.width),
        "image": networks.MirrorDecoder(channels, side, shape.image, shape.width),
    }
    return plain(shape, _hidden, adversaries)


def ani(shape: Shape, objective: Objective = _noised) -> Training:
    """The injector before the whole classifier."""
    server = networks.Cloud(shape.classes, shape.width, "cnn", shape.image, depth=0)
    return Training(shape, networks.Injector(noisy=objective is _noised), server, objective)


TRAININGS: dict[str, Callable[[Shape], Training]] = {
    "plain": plain,
    "dependence": lambda shape: plain(shape, _penalised),
    "funnel": funnel,
    "funnel_base": lambda shape: funnel(shape, _smoothed),
    "partition": partition,
    "ani": ani,
    "ani_base": lambda shape: ani(shape, _task),
}


class CriticStep:
    """One step of MINE's critic on the pairs that a batch draws."""

    def __init__(self, shape: Shape):
        of_x, of_z, pool = 3 * shape.image**2, 12 * (shape.image // 4) ** 2, 4 * shape.batch
        self.x, self.z, self.batch = torch.randn(pool, of_x), torch.randn(pool, of_z), shape.batch
        self.critic, self.log_ema = networks.Critic(of_x, of_z, 128), torch.zeros(())
        self.optimizer = _adam(self.critic.parameters())
        self.schedule = _cosine(self.optimizer, STEPS)

    def __call__(self) -> None:
        """One update."""
        chosen = torch.randperm(len(self.x))[: self.batch]
        z = self.z[chosen]
        self.update(self.x[chosen], z + 0.1 * torch.randn_like(z))
        self.schedule.step()

    def update(self, x: Tensor, z: Tensor) -> Tensor:
        """One update on given pairs; what was maximised."""
        value, self.log_ema = losses.mine(self.critic(x, z), self.log_ema)
        self.optimizer.zero_grad()
        (-value).backward()
        nn.utils.clip_grad_norm_(self.critic.parameters(), 1.0)
        self.optimizer.step()
        return value.detach()


class DecoderStep:
    """One step of a decoder that is trained on what the undefended client sent."""

    def __init__(self, shape: Shape, width: int = 96, blocks: int = 2, pool: int = 512):
        self.images, self.batch, side = tensors(pool, shape)[0], shape.batch, shape.image // 4
        self.z = _last(torch.randn(pool, 2 * shape.width, side, side))
        self.decoder = _last(networks.DecoderReader(2 * shape.width, width, blocks))
        self.mean, self.rate = torch.zeros(2 * shape.width, side, side), torch.ones(2 * shape.width, side, side)
        self.optimizer = _adam(self.decoder.parameters())
        self.schedule = _cosine(self.optimizer, STEPS)

    def __call__(self) -> None:
        """One update."""
        rows = torch.randint(len(self.images), (self.batch,))
        self.update(self.z[rows], self.images[rows])
        self.schedule.step()

    def update(self, z: Tensor, image: Tensor) -> Tensor:
        """One update on given rows; its loss."""
        loss = F.mse_loss(self.decoder((z - self.mean) * self.rate), image)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()


def _frozen(client: nn.Module) -> nn.Module:
    return client.eval().requires_grad_(False)


class Inversion:
    """White-box descent for ``shape.count`` images of the undefended client."""

    def __init__(self, shape: Shape, steps: int):
        self.client, self.steps = _last(_frozen(networks.Edge(shape.width, "cnn"))), steps
        self.image = tensors(shape.count, shape)[0]
        self.goal, self.rate = self._send(), _last(torch.ones_like(self._send()[:1]))

    def _send(self) -> Tensor:
        with torch.no_grad():
            return self.client(self.image)

    def __call__(self) -> Tensor:
        """The images found; each keeps its own objective, since they share a sum."""
        image = _last(0.25 + self.image.flip(1) / 2).requires_grad_(True)
        optimizer = torch.optim.Adam([image], 0.01, eps=1e-12, fused=True)
        for index in range(self.steps):
            optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * index / self.steps))
            misfit = ((self.client(image) - self.goal) * self.rate).square().mean((1, 2, 3))
            optimizer.zero_grad()
            (misfit + 1e-3 * losses.total_variation(image)).sum().backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
        return image.detach()


def inversion(shape: Shape) -> Case:
    """Per image and iteration."""
    unit = Inversion(shape, iterations(shape))
    return Case(unit, unit.steps * shape.count)


def correlation(shape: Shape) -> Case:
    """Distance correlation of two wide batches, with the gradient by the second."""
    x, z = torch.randn(shape.batch, shape.count), torch.randn(shape.batch, shape.count, requires_grad=True)
    return Case(lambda: torch.autograd.grad(losses.distance_correlation(x, z), z))


def forward(shape: Shape) -> Case:
    """The frozen funnel client on ``shape.batch`` images."""
    client, image = _last(_frozen(networks.CnnFunnel(shape.width))), tensors(shape.batch, shape)[0]

    def unit() -> Tensor:
        with torch.inference_mode():
            return client(image)

    return Case(unit)


def matmul(shape: Shape) -> Case:
    """The machine's limit: a large product in float32."""
    a, b = torch.randn(shape.count, shape.count), torch.randn(shape.count, shape.count)
    return Case(lambda: a @ b)
