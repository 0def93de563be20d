"""What an audit asks for beside the client: the provider's answers, and raw images in place of what is sent (METHODS 5.1, 6)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ani_jax.attacks.base import Asked
from ani_jax.attacks.query import Observed, predicted
from ani_jax.modules.adversaries import space_to_depth
from ani_jax.targets.base import Answers
from ani_jax.types import Data, Features, Inputs, Logits

ANSWERED = 10_240
"""Images of the sample that the provider answers for at most: means and frequencies of them are known well enough."""
FOLD = 4
"""Attackers get raw images with 4x4 pixels folded to a cell, where sides allow it: nothing lost, 16 times cheaper."""


def answered(predict: Callable[[Features], Logits], asked: Asked, test_z: Observed) -> Answers:
    """Asks the provider about one release of each image.

    Args:
        predict: the provider's network.
        asked: of whose sample it answers for the first ``ANSWERED``.
        test_z: releases of the test images.

    Raises:
        ValueError: ``predict`` does not return (n, K) logits.
    """
    sample, test = (predicted(predict, z) for z in (asked.sample_z[:ANSWERED], test_z[0]))
    return Answers(sample.argmax(1), test.argmax(1), test.shape[1])


def recorded(asked: Asked, data: Data) -> Answers | None:
    """The provider's answers where they are recorded, of as many rows as it would be asked about.

    Args:
        asked: whose sample they are of.
        data: whose test rows, and number of classes.
    """
    own, test = asked.sample.answer, data.test.answer
    if own is None or test is None:
        return None
    return Answers(np.asarray(own[:ANSWERED]), np.asarray(test), data.primary.classes)


def send_nothing(x: Inputs) -> Features:
    """One number, the same for every image."""
    return jnp.zeros((len(x), 1), x.dtype)


def send_raw(x: Inputs) -> Inputs:
    """The image, folded where its sides allow it; a vector as it is."""
    folds = x.ndim == 4 and x.shape[1] % FOLD == 0 and x.shape[2] % FOLD == 0
    return space_to_depth(x, FOLD) if folds else jnp.asarray(x)
