import functools
import subprocess
import sys

import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Attack
from ani_jax.evaluation.audit import audit
from ani_jax.training.loop import TrainConfig
from experiments import flags, runs, splits

CLOSED = (
    Attack("attribute", "ink", (attribute.Probe("ink", 4),)),
    Attack("decoder", "image", (decoder.Ridge(),)),
)
TRAIN = TrainConfig(batch_size=16, log_every=2, checkpoint_every=2)
CONFIG = flags.RunConfig("none", image_size=16, audit="smoke", options={"width": 4, "steps": 2}, train=TRAIN)


@pytest.mark.slow
def test_every_depth_is_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "audit", functools.partial(audit, attacks=CLOSED))
    found = splits.cuts(CONFIG, ("1", "3"), tmp_path, tmp_path / "cache", {})
    assert list(found) == ["depth 1", "depth 3"]
    assert found["depth 3"].subject == "depth 3"
    assert found["depth 1"].cost.macs < found["depth 3"].cost.macs
    assert len(list(tmp_path.glob("digits-*/evidence.json"))) == 2
    monkeypatch.setattr(runs, "train", None)
    assert splits.cuts(CONFIG, ("1", "3"), tmp_path, tmp_path / "cache", {}) == found


@pytest.mark.parametrize(
    ("config", "depths", "reason"),
    [
        (CONFIG, ("1", "9"), "depth=9: must be 1 to"),
        (CONFIG, ("a",), "depths=a: must be whole numbers"),
        (CONFIG, (), "depths=: must be whole numbers"),
        (flags.RunConfig("ani"), ("1",), "defense=ani: a plain model"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, config, depths, reason):
    with pytest.raises(ValueError, match=reason):
        splits.cuts(config, depths, tmp_path / "out", tmp_path / "cache", {})
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_costs_one_line():
    command = [sys.executable, "-m", "experiments.splits", "--depths=a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == "ani_jax: flag --depths=a: must be whole numbers separated by commas\n"
