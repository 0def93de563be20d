"""Pure functions of arrays: the part of ani_jax that other JAX code imports."""
