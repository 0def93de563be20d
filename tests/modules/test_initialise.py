import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from ani_jax.modules.adversaries import ConvClassifier
from ani_jax.modules.initialise import initialise


def test_values_are_those_of_a_fully_optimised_program(key):
    module, z = ConvClassifier(3, width=8), jnp.ones((1, 4, 4, 2))
    fully = {"xla_backend_optimization_level": 3}
    plain = jax.jit(functools.partial(module.init, train=False), compiler_options=fully)(key, z)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), initialise(module, key, z), plain))


def test_equal_modules_are_compiled_once(key):
    traced = []

    class Counted(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x, *, train):
            traced.append(self.width)
            return nn.Dense(self.width)(x)

    for seed in range(3):
        initialise(Counted(4), jax.random.key(seed), jnp.ones((1, 2)))
    initialise(Counted(5), key, jnp.ones((1, 2)))
    assert traced == [4, 5]
