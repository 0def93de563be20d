"""Fresh variables of a module, compiled quickly, and once for equal modules."""

import functools
from typing import Any

import jax
from flax import linen as nn


def initialise(module: nn.Module, *inputs: Any) -> Any:
    """``module.init(*inputs, train=False)``, compiled.

    On the CPU most of a first training step's wait is the compiler optimising random number generators that run once. So there
    it optimises less: a quarter of the time, the same numbers bit for bit. Equal modules share one program, as the members of a
    frontier and the attackers of its audits do.

    Args:
        module: any module of the house.
        *inputs: the key, then the module's own arguments.

    Returns:
        The variables, by collection.

    Example:
        >>> import jax.numpy as jnp
        >>> from ani_jax.modules.adversaries import MLPClassifier
        >>> sorted(initialise(MLPClassifier(2, width=4), jax.random.key(0), jnp.ones((1, 3))))
        ['params']
    """
    return _program(module, jax.default_backend())(*inputs)


# The backend is an argument so that the cache does not hand one backend's program to another.
@functools.lru_cache(maxsize=64)
def _program(module: nn.Module, backend: str) -> Any:
    options = {"xla_backend_optimization_level": 1} if backend == "cpu" else None
    return jax.jit(functools.partial(module.init, train=False), compiler_options=options)
