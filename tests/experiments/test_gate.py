"""The gate of commands: flags and files in, one line a requirement, two files and an exit code out."""

import dataclasses
import json
import subprocess
import sys
import types
import xml.etree.ElementTree as xml

import pytest

from ani_jax.config import RunConfig
from ani_jax.records import AttackResult, Control, Estimate, Evidence, to_json
from ani_jax.targets.attribute import Attribute
from ani_jax.targets.image import Image
from experiments import audit, gate, runs

WORDS = (Attribute("ink", 4).words, Image().words)
CONTROLS = (
    Control("planted linear", 0.75, 0.70, "probe", 0.68),
    Control("planted linear, 10 points", 0.10, 0.06, "probe", 0.03),
)


def evidence(ink, **more):
    scores = {"balanced_accuracy": Estimate(ink, ink - 0.02, ink + 0.02)}
    attack = AttackResult("attribute", "ink", 1, "probe", scores, {"chance": 0.25}, (), Estimate(None))
    found = Evidence(
        "none", "digits", 0, "standard", {}, {"test": 450}, {"accuracy": Estimate(0.97, 0.96, 0.98)}, (attack,)
    )
    return dataclasses.replace(found, **{"targets": WORDS[:1], "controls": CONTROLS, **more})


def asked(monkeypatch, require=None, against=None):
    flags = types.SimpleNamespace(require=require, against=None if against is None else str(against))
    monkeypatch.setattr(gate, "FLAGS", flags)
    return gate.from_flags()


@pytest.mark.parametrize(
    ("found", "outcome", "code", "tag"),
    [
        ([evidence(0.30)], "holds", 0, "system-out"),
        ([evidence(0.40)], "violated", 3, "failure"),
        ([evidence(0.34)], "undecided", 4, "error"),
        ([evidence(0.30, controls=(), level="preview")], "undecided", 4, "error"),
        ([evidence(0.30, targets=())], "undecided", 4, "error"),
        # All of them must hold.
        ([evidence(0.30), evidence(0.34)], "undecided", 4, "error"),
        ([evidence(0.40), evidence(0.34), evidence(0.30)], "violated", 3, "failure"),
    ],
)
def test_a_gate_says_why_writes_two_files_and_ends_with_its_code(
    monkeypatch, tmp_path, capsys, found, outcome, code, tag
):
    with pytest.raises(SystemExit) as end:
        asked(monkeypatch, "ink<=0.35").close(found, tmp_path)
    assert end.value.code == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"gate: {outcome}, exit code {code}; {tmp_path / 'gate.json'}, {tmp_path / 'gate.xml'}"
    assert [line.split(": ")[1] for line in lines[1:-1]] == ["ink<=0.35"] * len(found)
    assert all(len(line.split(": ", 2)[2]) > 10 for line in lines[1:-1])
    told = json.loads((tmp_path / "gate.json").read_text())
    assert (told["outcome"], told["code"], len(told["verdicts"])) == (outcome, code, len(found))
    cases = xml.parse(tmp_path / "gate.xml").findall("testsuite/testcase")
    assert tag in {case[0].tag for case in cases}


def test_nothing_asked_is_no_gate(monkeypatch, tmp_path):
    asked(monkeypatch).close([evidence(0.9)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_the_same_and_what_it_names_lies_beside_it(monkeypatch, tmp_path):
    (tmp_path / "old.json").write_text(to_json(evidence(0.30)))
    (tmp_path / "privacy.toml").write_text('require = ["ink<=0.45", "utility>=0.95"]\nagainst = "old.json"')
    found = asked(monkeypatch, str(tmp_path / "privacy.toml"))
    assert [str(one) for one in found.requirements] == ["ink<=0.45", "utility>=0.95"]
    assert found.earlier == evidence(0.30)
    for ink, code in ((0.31, 0), (0.40, 3)):
        with pytest.raises(SystemExit) as end:
            found.close([evidence(ink)], tmp_path)
        assert end.value.code == code
    (tmp_path / "new.json").write_text(to_json(evidence(0.40)))
    assert asked(monkeypatch, str(tmp_path / "privacy.toml"), tmp_path / "new.json").earlier == evidence(0.40)


@pytest.mark.parametrize(
    ("require", "against", "message"),
    [
        ("ink=0.3", None, "require=ink=0.3: 'ink=0.3' must be NAME<=NUMBER or NAME>=NUMBER, as in ink<=0.35"),
        ("", None, "require=: '' must be NAME<=NUMBER"),
        ("absent.toml", None, "require=absent.toml: "),
        ("bad.toml", None, "require=bad.toml: 'requires' in it; must hold require = "),
        ("ink<=0.3", "absent.json", "against=absent.json: holds no evidence ("),
        (None, "bad.toml", "against=bad.toml: holds no evidence ("),
        (None, ".", "against=.: holds no evidence ("),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_else(monkeypatch, tmp_path, require, against, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("requires = 'ink<=1'")
    with pytest.raises(ValueError, match=r"^\w+=") as error:
        asked(monkeypatch, require, against)
    assert str(error.value).startswith(message)


def test_a_name_that_will_not_be_attacked_is_refused_before_anything_is_trained(monkeypatch, tmp_path):
    config = RunConfig("none", image_size=16, audit="preview", options={"width": 4, "steps": 2})
    monkeypatch.setattr(runs, "train", None)
    with pytest.raises(ValueError, match=r"^require=gender<=0.5: 'gender<=0.5' names .* one of ink, .*utility$"):
        runs.execute(config, tmp_path / "run", tmp_path / "cache", check=asked(monkeypatch, "gender<=0.5").check)
    monkeypatch.setattr(audit, "audit", None)
    config = audit.AuditConfig("builtins:abs", audit="preview", image_size=16)
    with pytest.raises(ValueError, match=r"^require=utility>=0.5: .* must be one of ink, .*original.over_floor$"):
        audit.of_function(config, tmp_path / "audit", tmp_path / "cache", asked(monkeypatch, "utility>=0.5"))


def command(*arguments):
    command = [sys.executable, "-m", "experiments.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "code", "last"),
    [
        ("ink<=0.35,utility>=0.95", 0, "gate: holds, exit code 0; "),
        ("ink<=0.25", 3, "gate: violated, exit code 3; "),
        ("ink<=0.31", 4, "gate: undecided, exit code 4; "),
        ("gaze<=0.31", 4, "gate: undecided, exit code 4; "),
        (
            "ink<0.35",
            2,
            "ani_jax: flag --require=ink<0.35: 'ink<0.35' must be NAME<=NUMBER or NAME>=NUMBER, as in ink<=0.35",
        ),
        (
            "ink.acc<=0.35",
            2,
            "ani_jax: flag --require=ink.acc<=0.35: 'ink.acc<=0.35' names what is not measured; must be one",
        ),
        ("ink<=35", 2, "ani_jax: flag --require=ink<=35: 'ink<=35': the limit is a fraction; must be from 0 to 1"),
    ],
)
def test_a_report_ends_with_the_code_of_its_gate(tmp_path, limits, code, last):
    (tmp_path / "config.json").write_text(RunConfig("none").json())
    (tmp_path / "evidence.json").write_text(to_json(evidence(0.30)))
    done = command(f"--require={limits}", f"--cache_dir={tmp_path}", tmp_path)
    assert done.returncode == code, done.stderr
    lines = (done.stderr if code == 2 else done.stdout).splitlines()
    assert lines[-1].startswith(last)
    assert code != 2 or len(lines) == 1
    assert (tmp_path / "gate.json").exists() == (tmp_path / "gate.xml").exists() == (code != 2)


@pytest.mark.slow
def test_a_gate_is_of_runs_side_by_side(tmp_path):
    done = command("--by=seed", "--require=ink<=0.3", tmp_path)
    assert (done.returncode, done.stderr) == (2, "ani_jax: flag --require=ink<=0.3: does not go with --by=seed\n")


def test_whose_picture_it_is_may_be_asked_for_though_no_data_names_it(monkeypatch):
    asked(monkeypatch, "original<=0.05, original.identified<=0.1").check(WORDS)
    with pytest.raises(ValueError, match=r"require=originals<=0.05: .*, original, original.identified"):
        asked(monkeypatch, "originals<=0.05").check(WORDS)
