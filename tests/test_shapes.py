"""The hook of ``conftest`` is on: a wrong shape is an error that names it, on every floor that it covers."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from ani_jax.losses import cross_entropy
from tests.shapes import FLOORS

# Here, since pytest itself imports what it finds doctests in, and not through the hook.
LOADERS = [importlib.import_module(floor).__loader__ for floor in FLOORS]


def test_a_wrong_shape_raises():
    assert cross_entropy(np.zeros((2, 3), np.float32), np.arange(2)).shape == (2,)
    with pytest.raises(TypeCheckError, match="labels"):
        cross_entropy(jnp.zeros((2, 3)), jnp.arange(3))


@pytest.mark.parametrize("loader", LOADERS, ids=FLOORS)
def test_the_floor_is_checked(loader):
    assert type(loader).__module__.startswith("jaxtyping")
