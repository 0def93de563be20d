"""The command line's edge: every mistake is one line and exit code 2, before any compute."""

import dataclasses
import json
import subprocess
import sys

import pytest

from ani_jax.config import AuditConfig, RunConfig
from ani_jax.data import catalog
from ani_jax.training.config import TrainConfig
from experiments.flags import command, spelled, variant


def call(*arguments, module="experiments.main"):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120)


def test_command_reproduces_the_config(tmp_path):
    config = RunConfig(options={"beta": 0.5}, train=TrainConfig(seed=3))
    line = command(config, tmp_path)
    assert line == f"python -m experiments.main --defense=funnel --beta=0.5 --seed=3 --workdir={tmp_path}"
    placed = RunConfig(options={"beta": 0.5}, train=TrainConfig(seed=3), data_dir="there")
    assert command(placed, tmp_path) == line.replace("--workdir", "--data_dir=there --workdir")


def test_tasks_are_named_only_where_they_are_not_the_catalogues(tmp_path):
    other = RunConfig(defense="none", dataset="fairface", primary="race", sensitive=["age"], augment=["flip"])
    assert "--dataset=fairface --primary=race --augment=flip" in command(other, tmp_path)
    assert "--sensitive=age" in command(RunConfig(dataset="fairface", sensitive=("age",)), tmp_path)
    assert spelled(AuditConfig("a:b", seed=3), AuditConfig("a:b")) == ["--seed=3"]


def test_what_suits_a_data_set_is_what_its_flags_say_unless_they_say_something_else(monkeypatch, tmp_path):
    suits = {"image_size": 64, "batch_size": 32, "depth": 1, "partition": {"steps": 7}}
    entries = [dataclasses.replace(one, usual=suits) if one.name == "utkface" else one for one in catalog.ENTRIES]
    monkeypatch.setattr(catalog, "ENTRIES", entries)
    config = RunConfig.usual("partition", "utkface")
    assert (config.image_size, config.train.batch_size, config.options["depth"]) == (64, 32, 1)
    assert (config.options["steps"], RunConfig.usual("none", "utkface").options["steps"]) == (7, 1600)
    # Nothing that is usual there is spelled, and what is usual elsewhere is.
    faces = dataclasses.replace(config, dataset="utkface")
    assert spelled(faces, config) == ["--dataset=utkface"]
    assert f"main --defense=partition --dataset=utkface --workdir={tmp_path}" in command(faces, tmp_path)
    assert variant(dataclasses.replace(faces, image_size=32)) == "partition --dataset=utkface --image_size=32"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defense=wall"], "flag --defense=wall: value should be one of <ani|funnel|label_only|none|partition"),
        (["--seed=soon"], "flag --seed=soon: must be an integer"),
        (["--beta=lots"], "flag --beta=lots: must be a number"),
        (["--beta=-1"], "flag --beta=-1.0: must be a finite number, 0 or more"),
        (["--batch_size=0"], "flag --batch_size=0: must be at least 1"),
        (["--defence=none"], "Unknown command line flag 'defence'"),
        (["funnel"], "argument funnel: not understood"),
        (["--config=/absent.json"], "flag --config=/absent.json:"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(arguments, message):
    result = call(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_lists_what_a_command_takes():
    result = call("--help")
    for flag in (
        "--defense: <ani|cem|cloak|disco|",
        "--beta: Option of a defence (funnel: default",
        "--parallel: <auto|",
    ):
        assert flag in result.stdout
    assert "--by: <run|seed|criterion>" in call("--help", module="experiments.report").stdout


def test_a_config_of_another_format_is_refused_in_one_line(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(RunConfig().json()), "format": 1}))
    result = call(f"--config={file}")
    assert result.returncode == 2
    told = f"flag --config={file}: format 1 is that of another version of ani_jax; this one reads format 4"
    assert result.stderr == f"ani_jax: {told}\n"


def test_config_file_is_read_back_and_flags_override(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(RunConfig(defense="funnel", options={"beta": 0.5, "gamma": 0.25}).json())
    (tmp_path / "workdir").write_text("a file")
    result = call(f"--config={file}", "--gamma=-2", f"--workdir={tmp_path / 'workdir'}")
    assert "gamma=-2" in result.stderr
    assert json.loads(file.read_text())["options"]["gamma"] == 0.25


def test_a_variant_is_named_by_what_it_changes():
    config = RunConfig("funnel", options={"beta": 0.0}, train=TrainConfig(seed=3))
    assert variant(config) == "funnel --beta=0.0"
    assert variant(RunConfig("none")) == "none"
