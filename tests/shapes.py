"""Enforces the library's written types and shapes: what ``conftest`` lays over it."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

FLOORS = ["ani_jax.types", "ani_jax.losses", "ani_jax.modules", "ani_jax.targets", "ani_jax.information"]
"""Not the defences, which are built before there is data, nor what refuses a user's own values: data, config and records."""

# A function alone does not know its ``Self``; an int is a float, as everywhere in Python.
checked = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any}), is_pep484_tower=True))
