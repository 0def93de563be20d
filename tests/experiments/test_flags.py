"""The command line's edge: every mistake is one line and exit code 2, before any compute."""

import json
import subprocess
import sys

import pytest

from ani_jax.training.loop import TrainConfig
from experiments.flags import RunConfig, command, variant


def call(*arguments, module="experiments.main"):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120)


def test_config_survives_json():
    config = RunConfig(defense="funnel", options={"beta": 0.5}, train=TrainConfig(seed=3))
    assert RunConfig.read(config.json()) == config
    assert RunConfig.read(config.json()).digest == config.digest
    assert config.digest != RunConfig(defense="funnel").digest


def test_spelled_out_defaults_are_the_same_config():
    assert RunConfig(options={"beta": RunConfig().options["beta"]}) == RunConfig()
    assert RunConfig(options=dict(RunConfig().options)).digest == RunConfig().digest


def test_reference_shares_data_and_seed_but_not_the_defence():
    reference = RunConfig(defense="funnel", options={"beta": 0.5}, train=TrainConfig(seed=3)).reference()
    assert (reference.defense, reference.train.seed) == ("none", 3)
    assert (
        reference
        == RunConfig(defense="funnel", options={"beta": 9.0}, train=TrainConfig(seed=3, batch_size=16)).reference()
    )


def test_command_reproduces_the_config(tmp_path):
    config = RunConfig(options={"beta": 0.5}, train=TrainConfig(seed=3))
    line = command(config, tmp_path)
    assert line == f"python -m experiments.main --defense=funnel --beta=0.5 --seed=3 --workdir={tmp_path}"


def test_tasks_are_written_only_where_they_are_not_the_catalogues(tmp_path):
    own = RunConfig(dataset="utkface", primary="gender", sensitive=("race", "age"))
    assert own == RunConfig(dataset="utkface")
    assert own.tasks == ("gender", ("race", "age"))
    other = RunConfig(defense="none", dataset="utkface", primary="race", sensitive=["age"], augment=["flip"])
    assert RunConfig.read(other.json()) == other
    assert other.reference().tasks == other.tasks == ("race", ("age",))
    line = command(other, tmp_path)
    assert "--dataset=utkface --primary=race --augment=flip" in line
    assert "--sensitive=age" in command(RunConfig(dataset="utkface", sensitive=("age",)), tmp_path)
    unknown = RunConfig(dataset="svhn_cropped", primary="label")
    assert RunConfig.read(unknown.json()) == unknown
    assert unknown.tasks == ("label", ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"defense": "wall"}, r"defense=wall: must be one of ani, funnel, none, partition"),
        ({"dataset": "cats"}, r"dataset=cats: must be one of digits"),
        ({"primary": "age"}, r"primary=age: must be one of digit, ink, paper for digits"),
        ({"sensitive": ["digit"]}, r"sensitive=digit: is the primary task or named twice"),
        ({"originals": 500}, r"originals=500: must be at least 200, and cannot be chosen for digits"),
        ({"augment": ["spin"]}, r"augment=spin: must be one of flip, crop, jitter"),
        ({"audit": "lazy"}, r"audit=lazy: must be one of smoke, quick"),
        ({"image_size": 33}, r"image_size=33: must be a multiple of 8"),
        ({"options": {"beta": -1.0}}, r"beta=-1.0: must be a finite number, 0 or more"),
        ({"options": {"beta": float("nan")}}, r"beta=nan: must be a finite number"),
        ({"options": {"smoothing": 1.0}}, r"smoothing=1.0: must be in \[0, 1\)"),
        (
            {"utility_budget": 0.01, "options": dict.fromkeys(("beta", "gamma", "l1"), 0.0)},
            r"utility_budget=0.01: scales beta, gamma, l1, of which one must be above 0",
        ),
        ({"defense": "none", "options": {"beta": 1.0}}, r"beta: not an option of none, which has"),
    ],
)
def test_bad_values_name_flag_value_and_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"absent": 1}', '{"train": {"absent": 1}}', '{"train": 3}'])
def test_a_file_that_is_no_config_is_refused(text):
    with pytest.raises(ValueError):
        RunConfig.read(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--defense=wall"], "flag --defense=wall: value should be one of <none|ani|partition|funnel"),
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
