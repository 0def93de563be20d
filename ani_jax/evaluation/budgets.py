"""What attackers may compute, and who attacks within it. Fixed before an audit starts, and written into its evidence."""

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType

from ani_jax.attacks import attribute, decoder, likelihood
from ani_jax.attacks.base import Attack
from ani_jax.modules.adversaries import MirrorDecoder, ResidualDecoder
from ani_jax.types import Release, Task


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the attackers may compute: a table of steps, fixed before the audit starts.

    Attributes:
        sample: auxiliary images that closed forms are fitted on.
        attribute_steps: of each attribute network.
        attribute_seeds: attribute networks per attribute.
        mirror_steps: of the mirrored decoder, 0 to leave it out.
        mirror_width: its channels at the image's half resolution.
        residual_steps: of the residual decoder.
        residual_blocks: its depth; METHODS 5.2 asks for 8.
        learning_rate: of the decoder networks.
        batch_size: images a step.
        queries: how often a stochastic client is asked about the same image; more than once, only closed forms attack.
        test: images that are scored at most; of a larger split a seeded sample, the same for every client.
        validation: likewise, images that attackers are chosen on.
    """

    sample: int
    attribute_steps: int
    attribute_seeds: int
    mirror_steps: int
    mirror_width: int
    residual_steps: int
    residual_blocks: int
    learning_rate: float
    batch_size: int = 64
    queries: tuple[int, ...] = (1, 64)
    test: int = 2048
    validation: int = 1024


BUDGETS = MappingProxyType(
    {
        "smoke": Budget(256, 5, 1, 0, 8, 5, 1, 1e-3, 32, (1, 4)),
        "quick": Budget(2048, 60, 1, 0, 64, 40, 2, 1e-3, 32),
        "standard": Budget(4096, 400, 3, 800, 64, 800, 8, 1e-3, 64, (1, 4, 16, 64), 4096, 2048),
    }
)
"""Budgets by name; "smoke" shows that the plumbing works and proves nothing."""


def default_attacks(
    budget: Budget, sensitive: Sequence[Task], image_shape: tuple[int, int, int], release: Release | None = None
) -> tuple[Attack, ...]:
    """Attribute inference on every attribute and decoder inversion of the image.

    Args:
        budget: how much each member may compute.
        sensitive: the attributes.
        image_shape: (height, width, channels).
        release: the client: one that declares its noise is attacked with it, a stochastic one is asked repeatedly.

    Example:
        >>> from ani_jax.types import Release, Task
        >>> [attack.target for attack in default_attacks(BUDGETS["quick"], (Task("ink", ("red", "green")),), (8, 8, 3))]
        ['ink', 'image']
    """
    declared = release is not None and release.mean is not None and release.stddev is not None
    attacks = [_attribute_attack(budget, task, declared) for task in sensitive]
    options = {"batch_size": budget.batch_size, "learning_rate": budget.learning_rate}
    residual = ResidualDecoder(image_shape, blocks=budget.residual_blocks)
    mirror = MirrorDecoder(image_shape, budget.mirror_width)
    members = (
        decoder.Ridge(),
        decoder.Kernel(),
        *((likelihood.Reconstruction(),) if declared else ()),
        decoder.Net(residual, "residual", budget.residual_steps, **options),
        decoder.Net(mirror, "mirror", budget.mirror_steps, **options),
    )
    members = tuple(member for member in members if not isinstance(member, decoder.Net) or member.steps)
    attacks.append(Attack("decoder", "image", members))
    often = budget.queries if release is not None and release.stochastic else (1,)
    return tuple(_asking(attack, queries) for attack in attacks for queries in often)


def _asking(attack: Attack, queries: int) -> Attack:
    """The attack with k releases an image; networks sit out k > 1, where every step would ask k times as often."""
    members = attack.members if queries == 1 else tuple(member for member in attack.members if not member.steps)
    return dataclasses.replace(attack, members=members, queries=queries)


def _attribute_attack(budget: Budget, task: Task, declared: bool) -> Attack:
    nets = [
        attribute.Net(task.name, task.classes, budget.attribute_steps, batch_size=budget.batch_size, seed=seed)
        for seed in range(budget.attribute_seeds)
    ]
    exact = (likelihood.Likelihood(task.name, task.classes),) if declared else ()
    return Attack("attribute", task.name, (attribute.Probe(task.name, task.classes), *exact, *nets))
