"""Recorded pairs from the command line: audited, resumed, and refused in one line where a file is none."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ani_jax.attacks.attribute import Probe
from ani_jax.attacks.base import Family
from ani_jax.config import PairsConfig
from ani_jax.data.pairs import Pairs
from ani_jax.evaluation.audit import audit
from ani_jax.records import Evidence, from_json
from ani_jax.targets.attribute import Attribute
from experiments import audit as command
from tests.data.malformed import MALFORMED, rows

CITY = Attribute("city", 3)
REFUSED = """
import contextlib, io, json, runpy, sys
from experiments import audit, flags
found, begin = {}, lambda: runpy.run_module("experiments.audit", run_name="__main__")
for path in sys.argv[1:]:
    sys.argv = ["audit", f"--pairs={path}", f"--workdir={path}.audit", "--audit=preview"]
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            code = begin()
        except SystemExit as end:
            code = end.code
    found[path] = code, told.getvalue()
    # The flags are defined now.
    begin = lambda: flags.run(audit.main)
print(json.dumps(found))
"""
"""The command on one file after the other; an interpreter for each would take a minute."""


def test_every_malformed_file_is_one_line_and_exit_code_2(tmp_path):
    made = {}
    for number, (make, said) in enumerate(MALFORMED.values()):
        (folder := tmp_path / str(number)).mkdir()
        made[str(make(folder))] = said
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "XLA_FLAGS": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *made], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(made)
    for path, (code, told) in found.items():
        lines = [line for line in told.splitlines() if line.strip()]
        assert (code, len(lines)) == (2, 1), told
        assert lines[0].startswith("ani_jax: flag --pairs=")
        assert made[path] in lines[0]
    assert not list(tmp_path.rglob("sprung"))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(
        command, "audit", functools.partial(audit, attacks=(Family("attribute", CITY, (Probe(CITY),)),))
    )


def test_a_file_is_audited_and_the_same_call_again_reads_it(few, tmp_path, monkeypatch):
    np.savez(tmp_path / "mine.npz", **rows())
    config, folder = PairsConfig(str(tmp_path / "mine.npz"), audit="preview"), tmp_path / "audit"
    pairs = Pairs.read(config.pairs)
    call = functools.partial(command.established, config, folder, tmp_path / "cache", "mine", pairs)
    (evidence,) = call()
    assert (evidence.subject, evidence.dataset, evidence.level) == ("mine", "mine", "preview")
    assert evidence.attack("attribute", "city").scores["balanced_accuracy"].value > 0.6
    assert from_json(Evidence, (folder / "evidence.json").read_text()) == evidence
    assert f"experiments.audit --pairs={config.pairs} --audit=preview" in (folder / "report.html").read_text()
    monkeypatch.setattr(Probe, "fit", None)
    assert call() == [evidence]
    other = PairsConfig(config.pairs, seed=1, audit="preview")
    with pytest.raises(ValueError, match="belongs to an audit with another config"):
        command.established(other, folder, tmp_path / "cache", "mine", pairs)
    assert PairsConfig.read(config.json()) == config
