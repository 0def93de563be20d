"""What attackers may compute, and who attacks within it. Fixed before an audit starts, and written into its evidence.

Attackers that optimise every image by itself (white box, shadow, prior) run from "standard" on: on two cores they take
about a millisecond an image and step on the undefended split of 32x32 pixels, far beyond "quick".
"""

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType

from ani_jax.attacks import attribute, decoder, likelihood
from ani_jax.attacks.base import Attack, Member
from ani_jax.attacks.optimization import WhiteBox
from ani_jax.attacks.prior import Prior
from ani_jax.attacks.shadow import Shadow
from ani_jax.evaluation.tuning import tuned
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
        mismatched: whether one attacker owns images of another distribution only, beside those that own the right ones.
        trial_steps: of each trial of learning rate and width, 0 to take networks as they are.
        critic_steps: of each critic of the inversion-difficulty criterion, 0 to leave the criterion out.
        inversion_steps: of the optimisation of every image, 0 to leave those attackers out.
        inversion_restarts: starts of each.
        inversion_images: test images that they are scored on, a seeded sample.
        network_steps: of the shadow, and of the copy of a client with masked gradients.
        prior_steps: of the generative prior, 0 to leave it out.
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
    mismatched: bool = False
    trial_steps: int = 0
    critic_steps: int = 0
    inversion_steps: int = 0
    inversion_restarts: int = 1
    inversion_images: int = 64
    network_steps: int = 400
    prior_steps: int = 0


BUDGETS = MappingProxyType(
    {
        "smoke": Budget(256, 5, 1, 0, 8, 5, 1, 1e-3, 32, (1, 4)),
        "quick": Budget(2048, 60, 1, 0, 64, 40, 2, 1e-3, 32),
        "standard": Budget(
            4096, 400, 3, 400, 64, 600, 8, 1e-3, 64, (1, 4, 16, 64), 4096, 2048, True, 30, 500, 300, 2, 32, 400
        ),
        "thorough": Budget(
            8192,
            1500,
            5,
            3000,
            64,
            3000,
            8,
            1e-3,
            64,
            (1, 4, 16, 64),
            4096,
            2048,
            True,
            100,
            1000,
            2000,
            4,
            256,
            2000,
            4000,
        ),
    }
)
"""Budgets by name; "smoke" shows that the plumbing works and proves nothing. METHODS 5.3 asks for 1,000 to 5,000 iterations:
"thorough" has them, "standard" fewer, from a decoder's guess."""


def default_attacks(
    budget: Budget,
    sensitive: Sequence[Task],
    image_shape: tuple[int, int, int],
    release: Release | None = None,
    *,
    predict: bool = False,
) -> tuple[Attack, ...]:
    """Attribute inference on every attribute; inversion of the image by decoders and, from "standard" on, by optimisation.

    Args:
        budget: how much each member may compute.
        sensitive: the attributes.
        image_shape: (height, width, channels).
        release: the client: one that declares its noise is attacked with it, a stochastic one is asked repeatedly.
        predict: whether the provider's network is granted, which the shadow is trained through.

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
    members: tuple[Member, ...] = (
        decoder.Ridge(),
        decoder.Kernel(),
        *((likelihood.Reconstruction(),) if declared else ()),
    )
    for net in (
        decoder.Net(residual, "residual", budget.residual_steps, **options),
        decoder.Net(mirror, "mirror", budget.mirror_steps, **options),
    ):
        members += tuned("image", (net,), budget.trial_steps, len(members)) if net.steps else ()
    attacks.append(Attack("decoder", "image", members))
    attacks += _optimisers(budget, predict)
    often = budget.queries if release is not None and release.stochastic else (1,)
    asked = tuple(_asking(attack, queries) for attack in attacks for queries in often)
    mistaken = Attack("mismatched", "image", (decoder.Ridge(), decoder.Kernel()), mismatched=True)
    return (*asked, mistaken) if budget.mismatched else asked


def _optimisers(budget: Budget, predict: bool) -> list[Attack]:
    """The attackers that optimise every image by itself."""
    if not budget.inversion_steps:
        return []
    steps, restarts = budget.inversion_steps, budget.inversion_restarts
    white_box = WhiteBox(steps, restarts, surrogate_steps=budget.network_steps)
    members: list[Member] = [white_box]
    if predict:
        members.append(Shadow(dataclasses.replace(white_box, starters=()), steps=budget.network_steps))
    if budget.prior_steps:
        members.append(Prior(steps, restarts, budget.prior_steps))
    return [Attack(member.name, "image", (member,), images=budget.inversion_images) for member in members]


def _asking(attack: Attack, queries: int) -> Attack:
    """The attack with k releases an image; networks sit out k > 1, where every step would ask k times as often.

    Optimisation asks once for all, so it stays.
    """
    often = attack.name in ("whitebox", "shadow", "prior") or queries == 1
    members = attack.members if often else tuple(member for member in attack.members if not member.steps)
    return dataclasses.replace(attack, members=members, queries=queries)


def _attribute_attack(budget: Budget, task: Task, declared: bool) -> Attack:
    nets = [
        attribute.Net(task.name, task.classes, budget.attribute_steps, batch_size=budget.batch_size, seed=seed)
        for seed in range(budget.attribute_seeds)
    ]
    exact = (likelihood.Likelihood(task.name, task.classes),) if declared else ()
    known = (attribute.Probe(task.name, task.classes), *exact)
    return Attack("attribute", task.name, (*known, *tuned(task.name, nets, budget.trial_steps, len(known))))
