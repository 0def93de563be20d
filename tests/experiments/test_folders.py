"""Folders that one process holds, and files that are whole or not there."""

import os
import threading
import time

import pytest

from ani_jax.config import AuditConfig
from experiments import folders
from experiments.folders import Parts, WorkdirError, claim, held, write


def test_a_folder_is_a_mapping_of_texts(tmp_path):
    parts = Parts(tmp_path / "parts")
    assert list(parts) == []
    assert "attribute ink k=4 0f" not in parts
    parts["attribute ink k=4 0f"] = "one"
    parts["decoder: image"] = "two"
    parts["decoder: image"] = "three"
    assert Parts(tmp_path / "parts")["attribute ink k=4 0f"] == "one"
    assert parts["decoder: image"] == "three"
    assert len(parts) == 2
    with pytest.raises(KeyError):
        parts["other"]


def test_nothing_is_left_of_an_empty_one(tmp_path):
    parts = Parts(tmp_path / "parts")
    parts["a"] = parts["b/../c"] = "text"
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "parts"}
    # A kill in the middle of writing leaves such a file.
    (tmp_path / "parts" / "d.json.partial").write_text("{")
    parts.clear()
    assert list(tmp_path.iterdir()) == []
    parts.clear()


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "a.json", 3)  # type: ignore[arg-type]
    assert not (tmp_path / "a.json").exists()


def test_who_waits_says_for_whom_and_goes_on(tmp_path, capsys):
    """A lock belongs to an open file, so a thread meets it as another process would."""
    entered = []

    def wait():
        with claim(tmp_path, AuditConfig("a:b"), kind="audit", wait=True):
            entered.append(time.monotonic())

    with claim(tmp_path, AuditConfig("a:b"), kind="audit"):
        other = threading.Thread(target=wait)
        other.start()
        deadline, said = time.monotonic() + 20, ""
        while "waiting" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
        assert said.startswith(f"ani_jax: waiting for {tmp_path}, which another process (process {os.getpid()} on ")
        assert entered == []
        released = time.monotonic()
    other.join(20)
    assert entered[0] >= released
    # It is said once.
    assert said.count("waiting") == 1
    assert capsys.readouterr().err == ""


def test_a_short_wait_is_not_worth_a_word(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 30.0)
    other = threading.Thread(target=lambda: claim(tmp_path, AuditConfig("a:b"), kind="audit", wait=True).__enter__())
    with claim(tmp_path, AuditConfig("a:b"), kind="audit"):
        other.start()
        time.sleep(0.3)
    other.join(20)
    assert capsys.readouterr().err == ""


def test_a_folder_is_its_owners(tmp_path):
    with claim(tmp_path, AuditConfig("a:b"), kind="audit"):
        pass
    with (
        pytest.raises(WorkdirError, match=r"belongs to an audit with another config \(seed: 0 there, 3 asked\); name"),
        claim(tmp_path, AuditConfig("a:b", seed=3), kind="audit"),
    ):
        pass
    with (
        pytest.raises(WorkdirError, match=f"workdir={tmp_path}: holds files but no frontier; name an empty or a new"),
        held(tmp_path, "frontier", "mine", lambda there: "" if there == "mine" else "belongs to another frontier"),
    ):
        pass
