"""The preparation command: what it says, what it leaves, and every mistake in one line with exit code 2."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from tests.data.conftest import write_utkface


def call(*arguments, module="experiments.prepare"):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120)


def test_it_says_what_it_made_and_what_it_left_out(tmp_path):
    write_utkface(tmp_path / "utkface", 60)
    (tmp_path / "utkface" / "61_1_20170109.jpg").write_bytes(b"no race in the name")
    result = call("--dataset=utkface", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    folder = tmp_path / "data" / "utkface" / "1.0.0"
    expected = f"utkface: train 60\nleft out: malformed name 1\nfolder: {folder}\ngender: male 50.0%, female 50.0%\n"
    assert result.stdout.startswith(expected)
    assert "\nrace: white 20.0%, black 20.0%" in result.stdout
    assert "nothing to prepare" in call("--dataset=digits").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "flag --dataset=: name the data set"),
        (["--dataset=utkface"], "flag --manual_dir=: utkface is made from"),
        (
            ["--dataset=mnist", "--manual_dir=/absent"],
            "flag --manual_dir=/absent: no such folder; it should hold train-images",
        ),
        (["--dataset=no_such_set"], "flag --dataset=no_such_set: tfds knows no data set of this name"),
        (["utkface"], "argument utkface: not understood"),
        (["--data=utkface"], "Unknown command line flag 'data'"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = call(*arguments, f"--data_dir={tmp_path}")
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


# A shell starts background jobs with SIGINT ignored, and children inherit that; the signal must arrive wherever tests run.
SLOWLY = """
import runpy, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ani_jax.data.sets import faces
decode = faces.decode
faces.decode = lambda content: (time.sleep(0.05), decode(content))[1]
runpy.run_module("experiments.prepare", run_name="__main__")
"""


def pressed(process):
    """What it says behind Ctrl-C; Python loses one that arrives inside a destructor, so it is pressed again after a while."""
    for patience in (20, 20, 140):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)[1]
    raise AssertionError("it goes on")


def test_interrupted_it_keeps_nothing(tmp_path):
    write_utkface(tmp_path / "utkface", 1200)
    arguments = ["--dataset=utkface", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
    made = tmp_path / "data" / "utkface"
    command = [sys.executable, "-c", SLOWLY, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any(made.glob("incomplete.*")) and process.poll() is None:
            time.sleep(0.01)
        try:
            errors = pressed(process)
        finally:
            process.kill()
    assert process.returncode == 130
    # Of one that it lost, Python says "Exception ignored in" and where.
    assert errors.endswith("ani_jax: interrupted; nothing was kept\n")
    assert errors.count("\n") == 1 or "Exception ignored in" in errors
    assert list(made.iterdir()) == []


def test_training_on_what_is_not_there_costs_one_line(tmp_path):
    where = [f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}"]
    result = call("--defense=none", "--dataset=utkface", *where, module="experiments.main")
    assert result.returncode == 2
    assert "flag --dataset=utkface: not prepared under" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_catalogue_is_listed():
    result = call("--list_datasets", module="experiments.main")
    assert result.returncode == 0
    header, *rows = result.stdout.splitlines()
    assert header.startswith("name ")
    assert [row.split()[0] for row in rows[:3]] == ["digits", "digits-correlated", "mnist"]
