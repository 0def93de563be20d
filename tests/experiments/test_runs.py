"""Run folders: who may use one, what is refused, and that nothing is overwritten."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ani_jax.config import RunConfig
from ani_jax.data.files import DataError
from ani_jax.records import CostCard, Estimate, Evidence, to_json
from ani_jax.training.loop import TrainConfig
from experiments import runs

CONFIG = RunConfig(defense="none")


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def claimed(folder, config=CONFIG, wait=False):
    with runs.claim(folder, config, wait=wait):
        pass


def test_a_fresh_folder_is_marked_and_may_be_used_again(tmp_path):
    claimed(tmp_path / "a" / "b")
    claimed(tmp_path / "a" / "b")
    assert RunConfig.read((tmp_path / "a" / "b" / "config.json").read_text()) == CONFIG


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    config = RunConfig("funnel", image_size=16, train=TrainConfig(batch_size=1024))
    with pytest.raises(DataError, match="batch_size=1024: must be at most 647, the originals that train"):
        runs.execute(config, tmp_path / "run", tmp_path / "cache")
    # Not even its reference's folder was made.
    assert not (tmp_path / "cache").exists()


def test_another_config_is_refused_and_nothing_changes(tmp_path):
    claimed(tmp_path)
    before = snapshot(tmp_path)
    other = RunConfig(defense="none", train=TrainConfig(seed=5))
    with pytest.raises(
        runs.WorkdirError, match=r"workdir=.*belongs to a run with another config \(seed: 0 there, 5 asked\)"
    ):
        claimed(tmp_path, other)
    assert snapshot(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(runs.WorkdirError, match="is a file"):
        claimed(tmp_path / "file")
    with pytest.raises(runs.WorkdirError, match="cannot be written"):
        claimed(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unwritable_folder_is_refused(tmp_path):
    if os.geteuid() == 0:
        # Root may write anywhere but in /proc.
        with pytest.raises(runs.WorkdirError, match="cannot be written"):
            claimed(pathlib.Path("/proc/ani_jax"))
        return
    tmp_path.chmod(0o500)
    with pytest.raises(runs.WorkdirError, match="cannot be written"):
        claimed(tmp_path / "run")


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(runs.WorkdirError, match="holds files but no run"):
        claimed(tmp_path)


def test_a_garbled_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(runs.WorkdirError, match=r"its config\.json cannot be read"):
        claimed(tmp_path)


def test_a_folder_of_another_format_is_refused(tmp_path):
    old = json.dumps({**json.loads(CONFIG.json()), "format": 1})
    (tmp_path / "config.json").write_text(old)
    with pytest.raises(
        runs.WorkdirError, match=r"cannot be read \(format 1 is that of another .* reads format 4\); name"
    ):
        claimed(tmp_path)
    (tmp_path / "evidence.json").write_text(to_json(evidence(0.9, 1)))
    with pytest.raises(runs.WorkdirError, match=r"holds no finished run \(format 1 is that of another version"):
        runs.load(tmp_path)
    assert (tmp_path / "config.json").read_text() == old


def test_a_finished_reference_is_read_while_somebody_holds_its_folder(tmp_path):
    config = RunConfig("funnel")
    reference, own = runs.reference_folder(config, tmp_path), tmp_path / "run"
    for folder, one in ((reference, config.reference()), (own, config)):
        claimed(folder, one)
        (folder / "evidence.json").write_text(to_json(evidence(0.9, 1)))
    with runs.claim(reference, config.reference()):
        before, after = runs.execute(config, own, tmp_path)
    assert (before.folder, after.folder) == (reference, own)


def test_a_folder_in_use_is_refused(tmp_path):
    code = (
        "import sys, pathlib; from experiments import runs; from ani_jax.config import RunConfig\n"
        "with runs.claim(pathlib.Path(sys.argv[1]), RunConfig(defense='none'), wait=False):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            runs.WorkdirError, match=rf"another process \(process {holder.pid} on .+\) is using it; wait"
        ):
            claimed(tmp_path)
        holder.communicate("")
    claimed(tmp_path)


def test_an_unfinished_run_cannot_be_loaded(tmp_path):
    claimed(tmp_path)
    with pytest.raises(runs.WorkdirError, match="holds no finished run"):
        runs.load(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    runs.write(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        runs.write(tmp_path / "a.json", 3)  # type: ignore[arg-type]
    assert (tmp_path / "a.json").read_text() == "old"


def evidence(accuracy, macs, **more):
    cost = CostCard(parameters=1, macs=macs, floats=1, bytes_float32=4, bytes_quantised=1, bytes_raw=3)
    utility = {"accuracy": Estimate(accuracy), **more}
    return Evidence("x", "digits", 0, "standard", {}, {}, utility, (), cost=cost)


@pytest.mark.parametrize(
    ("ends", "said"), [((0.001, 0.009), "held"), ((0.001, 0.012), "may have held"), ((0.011, 0.03), "did not hold")]
)
def test_a_budget_held_where_the_worse_end_of_what_was_lost_is_inside(ends, said):
    after = evidence(0.975, 1, accuracy_lost=Estimate(0.005, *ends))
    note, *_ = runs.notes(RunConfig("ani", utility_budget=0.01), after, evidence(0.98, 1), [])
    low, high = (f"{100 * end:.1f}" for end in ends)
    assert (
        note == f"utility budget of 1.0%: accuracy on test 98.0% -> 97.5%, 0.5 points lost [{low}, {high}]: it {said}"
    )


def test_a_budget_without_a_paired_interval_is_judged_by_the_scores():
    for accuracy, said in ((0.975, "it held"), (0.96, "it did not hold")):
        note, *_ = runs.notes(RunConfig("ani", utility_budget=0.01), evidence(accuracy, 1), evidence(0.98, 1), [])
        assert note.endswith(said)


def test_a_client_that_costs_as_much_as_a_classifier_is_told_so():
    config = RunConfig(defense="ani")
    (note,) = runs.notes(config, evidence(0.9, 4_000_000), None, [])
    assert "4,000,000 MACs; a whole classifier of 222,464" in note
    assert list(runs.notes(config, evidence(0.9, 222_463), None, [])) == []
    assert list(runs.notes(RunConfig(defense="none"), evidence(0.9, 4_000_000), None, [])) == []
