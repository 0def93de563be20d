"""Run folders: who may use one, what is refused, and that nothing is overwritten."""

import os
import pathlib
import subprocess
import sys

import pytest

from ani_jax.training.loop import TrainConfig
from experiments import runs
from experiments.flags import RunConfig

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


def test_a_folder_in_use_is_refused(tmp_path):
    code = (
        "import sys, pathlib; from experiments import runs; from experiments.flags import RunConfig\n"
        "with runs.claim(pathlib.Path(sys.argv[1]), RunConfig(defense='none'), wait=False):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(runs.WorkdirError, match="another process is using it"):
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
