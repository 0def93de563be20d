import pytest

from ani_jax.training.config import TrainConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"steps_per_dispatch": 3}, "log_every=10: must be a multiple of steps_per_dispatch=3"),
        ({"clip": -1.0}, "clip=-1.0: must be a finite number, 0 or more"),
        ({"clip": float("nan")}, "clip=nan: must be a finite number, 0 or more"),
    ],
)
def test_config_is_validated(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
