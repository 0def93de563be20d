"""What some defences need beyond the contract is asked of these alone."""

import jax
import jax.numpy as jnp
import pytest

from ani_jax.defenses import registry
from ani_jax.defenses.mixins import Measured, Prepared, Reversible
from ani_jax.training.state import init

KINDS = {
    "ani": (Measured,),
    "funnel": (Measured,),
    "none": (),
    "partition": (Prepared, Reversible),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_method_has_what_it_needs_and_no_more(name):
    kind = registry.DEFENSES[name]
    assert tuple(mixin for mixin in (Measured, Prepared, Reversible) if issubclass(kind, mixin)) == KINDS[name]


def test_only_who_prepares_has_room_for_statistics():
    given = {"classes": 3, "image_shape": (16, 16, 1), "attributes": (("ink", 4),)}
    plain, prepared = (registry.build(name, **given, width=4) for name in ("none", "partition"))
    assert init(plain, jax.random.key(0)).extra == {}
    assert jnp.allclose(init(prepared, jax.random.key(0)).extra["prior/ink"], 0.25)


def test_a_mixin_without_its_method_says_so():
    for mixin, method in ((Measured, "measurements"), (Reversible, "reversal_scales"), (Prepared, "init_extra")):
        arguments = [None] * {"measurements": 2, "reversal_scales": 1, "init_extra": 0}[method]
        with pytest.raises(NotImplementedError):
            getattr(mixin(), method)(*arguments)
