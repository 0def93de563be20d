"""A finished run as files: its outputs, its evidence and what it costs; fewer bits; attackers are few, the rest is as it is."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ani_jax.attacks import attribute, decoder
from ani_jax.attacks.base import Family
from ani_jax.config import RunConfig
from ani_jax.defenses.base import freeze
from ani_jax.deploy import artefact
from ani_jax.deploy.artefact import Card, Cost, Found, wire
from ani_jax.evaluation.audit import audit
from ani_jax.records import Evidence, from_json, to_json
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from ani_jax.training.loop import TrainConfig
from experiments import export as command
from experiments import runs
from experiments.audit import again

INK = Attribute("ink", 4)
CLOSED = (Family("attribute", INK, (attribute.Probe(INK),)), Family("decoder", Image(), (decoder.Ridge(Image()),)))
TRAIN = TrainConfig(batch_size=16, log_every=3, checkpoint_every=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    config = RunConfig("none", image_size=16, audit="preview", options={"width": 4, "steps": 3}, train=TRAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "audit", functools.partial(audit, attacks=CLOSED))
        (run,) = runs.execute(config, folder / "run", folder / "cache")
    return run


@pytest.mark.slow
def test_a_run_is_exported_with_its_evidence_and_its_cost(run, tmp_path):
    (run.folder / "gate.json").write_text(json.dumps({"verdicts": [{"asked": "ink<=0.35", "outcome": "undecided"}]}))
    own = command.exported(run, tmp_path, command.known(run, None), onnx=True)
    there = artefact.load(tmp_path)
    assert there.card == own
    assert (own.defence, own.dataset, own.level, own.noise) == ("none", "digits", "preview", "none")
    assert own.evidence == Found.of(run.evidence)
    assert own.gate == {"ink<=0.35": "undecided"}
    assert own.accuracy == run.evidence.utility["accuracy"].value
    data, defense, state = runs.trained(run)
    release, predict = freeze(defense, state.params, state.statistics)
    x = data.test.image[:300]
    z = there.client(x)
    np.testing.assert_allclose(z, release(x, jax.random.key(0)), atol=1e-5 * float(np.sqrt(np.square(z).mean())))
    np.testing.assert_allclose(there.server(there.send(np.asarray(x))), predict(z), rtol=1e-4, atol=1e-5)
    assert (own.cost.parameters, own.cost.macs) == (run.evidence.cost.parameters, run.evidence.cost.macs)
    assert (own.cost.bytes_sent, own.cost.bytes_raw) == (4 * 4 * 4 * 8, 16 * 16 * 3)
    assert 0 < own.cost.p50_ms <= own.cost.p95_ms
    assert "balanced accuracy" in command.told(own)


@pytest.mark.slow
def test_fewer_bits_are_audited_and_the_artefact_leaks_as_they_do(run, tmp_path, monkeypatch):
    """The same attackers, on the client in memory and on the folder: within two points."""
    few = functools.partial(audit, attacks=CLOSED)
    monkeypatch.setattr(runs, "audit", few)
    sent = command.fewer(run, 1)
    evidence = again(run, "preview", tmp_path / "cache", sent=sent, name="preview-1bit")
    kept = run.folder / "audits" / "preview-1bit" / "evidence.json"
    assert from_json(Evidence, kept.read_text()) == evidence
    place = tmp_path / "out"
    place.mkdir()
    own = command.exported(run, place, evidence, sent)
    assert (own.bits, own.z_dtype, own.z_shape, own.levels) == (1, "uint8", (4 * 4 * 8 // 8,), 2)
    assert own.cost.bytes_sent == 16
    there, (data, _, _) = artefact.load(place), runs.trained(run)
    there.card.check(there.send(np.asarray(data.test.image[:5])))
    found = few(there.release(), data, there.server, level="preview")
    for one, other in zip(evidence.attacks, found.attacks, strict=True):
        name = evidence.words(one.target).strength
        assert other.scores[name].value == pytest.approx(one.scores[name].value, abs=0.02, rel=0.02)
    assert found.utility["accuracy"].value == pytest.approx(evidence.utility["accuracy"].value, abs=0.02)
    before = run.evidence.attack("attribute", "ink").scores["balanced_accuracy"].value
    assert evidence.attack("attribute", "ink").scores["balanced_accuracy"].value < before


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.export", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)},
        check=False,
    )


@pytest.mark.slow
def test_the_command_writes_a_whole_folder_or_none(run, tmp_path):
    flags = (f"--workdir={run.folder}", f"--output={tmp_path / 'new' / 'out'}", f"--cache_dir={tmp_path / 'cache'}")
    done = call(*flags)
    assert done.returncode == 0, done.stderr
    assert f"artefact: {tmp_path / 'new' / 'out'}" in done.stdout
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert artefact.load(tmp_path / "new" / "out").card.undefended is None
    for flag, reason in (
        ("--bits=1", "is there already; name an empty or a new folder"),
        ("--bits=2", "flag --bits=2: "),
        ("--workdir=nowhere", "flag --workdir=nowhere: holds no finished run"),
        ("--output=", "flag --output=: name a folder"),
    ):
        done = call(*flags, flag)
        assert done.returncode == 2
        assert reason in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def evidence(level):
    return Evidence("none", "digits", 0, level, {}, {}, {}, ())


def test_the_highest_level_that_is_there_is_summarised_unless_one_is_named(tmp_path):
    own = runs.Run(tmp_path, RunConfig("none"), evidence("preview"), [])
    assert command.known(own, None).level == "preview"
    kept = tmp_path / "audits" / "standard" / "evidence.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(to_json(evidence("standard")))
    assert command.known(own, None).level == "standard"
    assert command.known(own, "preview").level == "preview"


def test_a_level_that_is_not_there_is_refused(tmp_path):
    own = runs.Run(tmp_path, RunConfig("none"), evidence("preview"), [])
    with pytest.raises(
        ValueError, match=r"^audit=thorough: is not there; first python -m experiments.audit --workdir="
    ):
        command.known(own, "thorough")


def test_bits_that_a_client_has_already_are_refused(tmp_path):
    own = runs.Run(tmp_path, RunConfig("partition", image_size=16), evidence("preview"), [])
    with pytest.raises(ValueError, match=r"^bits=8: this client has a grid of 256 values of its own"):
        command.fewer(own, 8)
    assert callable(command.fewer(own, 1))


def test_the_card_is_told_side_by_side():
    found = (Found("ink", "attribute on 1 release", "balanced accuracy", 0.31), Found("image", "none", "MSE", None))
    cost = Cost(10, 20, 30, 40, 1.0, 2.0, 300.0, 200.0)
    own = Card("funnel", "digits", (), (4, 4, 1), evidence=found, cost=cost, **wire((2,), None, None, 0))
    lines = command.told(dataclasses.replace(own, undefended=dataclasses.replace(cost, macs=999))).splitlines()
    assert "ink     balanced accuracy 0.310, attribute on 1 release" in lines
    assert "macs        20      999" in lines
    assert not any("image" in line for line in lines)
