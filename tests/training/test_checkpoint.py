import json

import jax
import jax.numpy as jnp
import pytest

from ani_jax.training import checkpoint
from ani_jax.training.checkpoint import CheckpointError, Checkpoints


def state(value):
    return {
        "params": {"w": jnp.full((64, 8), value, jnp.float32)},
        "key": jax.random.key(3),
        "step": jnp.int32(value),
        "empty": {},
    }


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    return checkpoints


def arrays(checkpoints, step):
    """The files of a step's state, the largest (the array itself) first."""
    files = [path for path in (checkpoints.directory / str(step) / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_round_trip_keeps_values_types_and_keys(saved):
    step, restored = saved.restore(state(0))
    assert step == 3
    assert restored["params"]["w"].dtype == jnp.float32
    assert (restored["params"]["w"] == 3).all()
    assert (jax.random.bits(restored["key"]) == jax.random.bits(jax.random.key(3))).all()


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore(state(0)) is None


def test_two_folders_are_written_at_once(tmp_path):
    both = [Checkpoints(tmp_path / name) for name in ("one", "two")]
    for step in range(1, 9):
        for checkpoints in both:
            checkpoints.save(step, state(step), wait=False)
    for checkpoints in both:
        assert checkpoints.steps() == [7, 8]
        assert checkpoints.restore(state(0))[0] == 8


def test_only_the_newest_are_kept(saved):
    assert saved.steps() == [2, 3]
    assert not (saved.directory / "1").exists()


def test_one_flipped_bit_is_noticed_and_the_step_before_is_used(saved):
    file = arrays(saved, 3)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert saved.restore(state(0))[0] == 2


@pytest.mark.parametrize("damage", ["lost file", "extra file", "no manifest", "garbled manifest"])
def test_other_damage_is_noticed(saved, damage):
    manifest = saved.directory / "3" / "manifest.json"
    {
        "lost file": lambda: arrays(saved, 3)[-1].unlink(),
        "extra file": lambda: (saved.directory / "3" / "state" / "extra").write_text("x"),
        "no manifest": manifest.unlink,
        "garbled manifest": lambda: manifest.write_text("{"),
    }[damage]()
    assert saved.restore(state(0))[0] == 2


def test_all_damaged_is_an_error_that_names_the_folder(saved):
    for step in (2, 3):
        (saved.directory / str(step) / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"workdir=.*every checkpoint in it is damaged \(steps \[2, 3\]\)"):
        saved.restore(state(0))


def test_another_structure_is_one_line(saved):
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        saved.restore({"other": jnp.zeros(3)})
    assert "\n" not in str(caught.value)


def test_saving_a_step_again_replaces_it(saved):
    saved.save(3, state(30))
    assert (saved.restore(state(0))[1]["params"]["w"] == 30).all()


def test_a_state_may_be_donated_while_it_is_written(saved):
    donated = jax.tree.map(jnp.copy, state(4))
    saved.save(4, donated, wait=False)
    jax.jit(lambda tree: jax.tree.map(lambda x: x, tree), donate_argnums=0)(donated)["params"]["w"].delete()
    step, restored = saved.restore(state(0))
    assert step == 4
    assert (restored["params"]["w"] == 4).all()


def test_a_save_that_fails_in_the_background_is_not_kept_quiet(saved, monkeypatch):
    def full(folder):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "_checksums", full)
    saved.save(4, state(4), wait=False)
    with pytest.raises(OSError, match="no space left"):
        saved.wait()
    monkeypatch.undo()
    assert Checkpoints(saved.directory).restore(state(0))[0] == 3


def test_what_a_killed_save_left_behind_goes_with_the_next(saved):
    (saved.directory / "9.orbax-checkpoint-tmp").mkdir()
    (saved.directory / "dropped" / "1").mkdir(parents=True)
    Checkpoints(saved.directory).save(4, state(4))
    assert {path.name for path in saved.directory.iterdir()} == {"3", "4"}


def test_the_best_is_kept_beside_the_newest_and_a_rank_is_compared_as_a_tuple_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    ranks = {1: (False, 0.9), 3: (True, -5.0), 4: (True, -4.5)}
    for step in range(1, 8):
        checkpoints.save(step, state(step), rank=ranks.get(step))
        best = max((other for other in ranks if other <= step), default=None)
        assert checkpoints.steps() == sorted({step, max(step - 1, 1), best})
        assert checkpoints.restore(state(0), best=True)[0] == best
    # What another process finds, and goes on with.
    again = Checkpoints(tmp_path, keep=2)
    assert again.restore(state(0))[0] == 7
    again.save(8, state(8))
    assert again.steps() == [4, 7, 8]
    assert (again.restore(state(0), best=True)[1]["params"]["w"] == 4).all()


def test_without_a_rank_there_is_no_best(saved):
    assert saved.restore(state(0), best=True) is None
