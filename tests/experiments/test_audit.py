"""Somebody's own function from the command line, and a finished run again; attackers are few, the rest is as it is."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from ani_jax.attacks import attribute, base, decoder
from ani_jax.attacks.base import LEVELS, Family
from ani_jax.config import AuditConfig, RunConfig
from ani_jax.evaluation.audit import audit
from ani_jax.records import Evidence, from_json
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.training.loop import TrainConfig
from experiments import audit as command
from experiments import runs

INK = Attribute("ink", 4)
CLOSED = (Family("attribute", INK, (attribute.Probe(INK),)), Family("decoder", Image(), (decoder.Ridge(Image()),)))
MINE = """
import jax.numpy as jnp


def client(x):
    return x[:, ::4, ::4]


def server(z):
    return z.reshape(len(z), -1) @ jnp.ones((192, 10))


def broken(x):
    return x @ jnp.ones((7, 7))
"""


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for module in (command, runs):
        monkeypatch.setattr(module, "audit", functools.partial(audit, attacks=CLOSED))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_for_audit.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_for_audit"


def test_a_function_is_audited_and_the_same_call_again_reads_it(mine, tmp_path, monkeypatch):
    config = AuditConfig(f"{mine}:client", None, audit="preview", image_size=16)
    folder = tmp_path / "audit"
    (evidence,) = command.of_function(config, folder, folder.parent / "cache")
    assert evidence.subject == "client"
    assert evidence.attack("attribute", "ink").scores["balanced_accuracy"].value > 0.9
    assert from_json(Evidence, (folder / "evidence.json").read_text()) == evidence
    assert "--release=mine_for_audit:client" in (folder / "report.html").read_text()
    assert len(list((folder / "parts").iterdir())) == len(CLOSED)
    monkeypatch.setattr(attribute.Probe, "fit", None)
    assert command.of_function(config, folder, folder.parent / "cache") == [evidence]
    with pytest.raises(
        ValueError, match=r"belongs to an audit with another config .*audit: preview there, thorough asked"
    ):
        command.of_function(AuditConfig(f"{mine}:client", audit="thorough"), folder, tmp_path / "cache")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no audit"):
        command.of_function(config, tmp_path / "other", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere:client", "No module named 'nowhere'"),
        ("mine_for_audit:absent", "has no attribute 'absent'"),
        ("mine_for_audit", "must be package.module:function"),
        ("mine_for_audit:broken", "fails on images of shape"),
        ("mine_for_audit:__name__", "must be callable"),
    ],
)
def test_what_is_no_client_is_refused_in_one_line(mine, tmp_path, name, reason):
    with pytest.raises(ValueError, match=r"^release=") as error:
        command.of_function(AuditConfig(name, audit="preview", image_size=16), tmp_path / "audit", tmp_path / "cache")
    assert reason in str(error.value)
    assert not (tmp_path / "audit").exists()


@pytest.fixture
def brief(monkeypatch):
    """A level as short as a preview, and a preview where nothing is said."""
    level = dataclasses.replace(LEVELS["preview"], name="brief", base="preview", sample=256)
    monkeypatch.setattr(base, "LEVELS", {**LEVELS, "brief": level})
    monkeypatch.setattr(AuditConfig, "audit", "preview")
    return "brief"


@pytest.mark.slow
def test_a_finished_run_is_audited_again_without_training(tmp_path, monkeypatch, brief):
    train = TrainConfig(batch_size=16, log_every=3, checkpoint_every=3)
    options = {"width": 4, "steps": 3}
    config = RunConfig("none", image_size=16, audit="preview", options=options, train=train)
    (run,) = runs.execute(config, tmp_path / "run", tmp_path / "cache")
    assert not (run.folder / "audit").exists()
    assert run.evidence.attack("attribute", "ink").references["random_encoder"] > 0.5
    monkeypatch.setattr(runs, "train", None)
    target, found = command.of_run(run, None, tmp_path / "cache")
    assert target == run.folder / "audits" / "preview"
    assert found == [run.evidence]
    assert (target / "report.html").exists()
    before = (run.folder / "evidence.json").read_text()
    _, (longer,) = command.of_run(run, brief, tmp_path / "cache")
    assert longer.level == brief
    assert (run.folder / "evidence.json").read_text() == before
    target, (stressed,) = command.of_run(run, brief, tmp_path / "cache", granted=True)
    assert target == run.folder / "audits" / "brief-granted"
    assert stressed.notes[0] == command.GRANTED
    data = runs.trained(run)[0]
    assert stressed.sizes["auxiliary_originals"] == data.auxiliary.size + data.defend.size
    assert stressed.sizes["test_originals"] == longer.sizes["test_originals"]
    assert "--granted" in (target / "report.html").read_text()
    monkeypatch.setattr(runs, "audit", None)
    assert command.of_run(run, brief, tmp_path / "cache")[1] == [longer]
    assert runs.load(run.folder) == run
    with pytest.raises(runs.WorkdirError, match="holds no finished run"):
        runs.load(tmp_path / "cache")


def test_a_level_is_a_name():
    for text in ("huge", "90", "-1", "0", "nan", "inf"):
        with pytest.raises(ValueError, match=f"audit={text}: must be one of .*standard"):
            AuditConfig("a.b:c", audit=text)


@pytest.mark.slow
def test_a_reference_that_is_audited_first_is_announced(tmp_path, capsys, brief):
    train = TrainConfig(batch_size=16, log_every=3, checkpoint_every=3)
    options = {"width": 4, "steps": 3}
    config = RunConfig(
        "funnel", reference_steps=3, reference_width=4, image_size=16, audit="preview", options=options, train=train
    )
    reference, run = runs.execute(config, tmp_path / "run", tmp_path / "cache")
    capsys.readouterr()
    for announced in (True, False):
        _, found = command.of_run(run, brief, tmp_path / "cache")
        assert [evidence.subject for evidence in found] == ["none", "funnel"]
        lines = capsys.readouterr().err.splitlines()
        line = f"ani_jax: first its undefended reference is audited at level {brief}, once and for as long: {reference.folder}"
        assert (lines[:1] == [line]) == announced
        assert any("funnel: attribute ink" in line for line in lines) == announced
    # Its own level's evidence is there already.
    command.of_run(run, None, tmp_path / "cache")
    assert "first" not in capsys.readouterr().err


def test_the_command_that_does_it_again():
    config = AuditConfig("a.b:c", sensitive=("paper",), seed=3)
    assert command.command(config, pathlib.Path("w")) == (
        "python -m experiments.audit --release=a.b:c --sensitive=paper --seed=3 --workdir=w"
    )
    assert config.digest != AuditConfig("a.b:c").digest
    assert json.loads(json.dumps(config.__dict__))["seed"] == 3


def call(*arguments):
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.audit", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "flag --release=: name package.module:function"),
        (("--workdir=nowhere",), "flag --workdir=nowhere: holds no finished run"),
        (("--workdir=nowhere", "--seed=1"), "flag --seed=1: belongs to --release"),
        (("--release=math:sqrt", "--audit=huge"), "flag --audit=huge: must be one of preview, standard, thorough"),
        (("--release=math:sqrt", "--audit=quick"), 'flag --audit=quick: is called "preview" now'),
        (("more",), "argument more: not understood"),
        (("--release=math:sqrt", "--granted"), "flag --granted: belongs to the audit of a finished run"),
        (("--release=math:sqrt", "--rows=5"), "flag --rows=5: belongs to --draws=FILE.npz"),
    ],
)
@pytest.mark.slow
def test_mistakes_cost_one_line(arguments, reason):
    done = call(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_client_sends_is_recorded_and_nothing_is_audited(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.flags, "FLAGS", {"rows": types.SimpleNamespace(value=50)})
    config = AuditConfig(f"{mine}:client", f"{mine}:server", seed=100)
    release, data, predict = command.client(config)
    path = tmp_path / "draws.npz"
    command.record(path, release, data, predict, config.seed, "standard")
    found = np.load(path)
    assert found["z"].shape[1:] == (8, 8, 3)
    assert np.bincount(found["split"]).tolist() == [50, len(data.validation.label), len(data.test.label)]
    assert set(found.files) == {"z", "x", "split", "label", "group", "answer", "s_ink", "s_paper"}
    assert capsys.readouterr().out.startswith(f"{path}: rows of what the client sends, 50 auxiliary, ")
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".npz"] == ["draws.npz"]
    with pytest.raises(ValueError, match=r"draws=.*cannot be written \(No such file or directory\)"):
        command.record(tmp_path / "none" / "draws.npz", release, data, predict, 0, "standard")


@pytest.mark.slow
def test_the_command_prints_a_table_and_its_report(mine, tmp_path):
    settings = (
        f"--release={mine}:client",
        f"--predict={mine}:server",
        "--audit=preview",
        f"--workdir={tmp_path / 'w'}",
    )
    done = subprocess.run(
        [sys.executable, "-m", "experiments.audit", *settings],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
    )
    assert "Attribute paper: attribute attack" in done.stdout
    assert f"report: {tmp_path / 'w' / 'report.html'}" in done.stdout
