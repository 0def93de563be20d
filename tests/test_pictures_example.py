"""docs/examples/pictures.py: what it draws, and what it refuses."""

import io
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]


def call(module, *arguments):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "argument RUN: name at least one run folder"),
        (["/absent"], "ani_jax: workdir=/absent: holds no finished run"),
    ],
)
def test_what_it_cannot_draw_costs_one_line(arguments, message):
    done = call("docs.examples.pictures", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_originals_stand_above_what_was_made_of_two_clients(tmp_path):
    runs = []
    for width in (2, 4):
        runs.append(str(tmp_path / f"width-{width}"))
        options = ["--defense=none", f"--width={width}", "--steps=2", "--image_size=16", f"--cache_dir={tmp_path}"]
        assert call("experiments.main", *options, f"--workdir={runs[-1]}").returncode == 0
    file = tmp_path / "drawn.png"
    asked = ["--pictures=12", "--level=preview", f"--output={file}", f"--cache_dir={tmp_path}"]
    done = call("docs.examples.pictures", *runs, *asked)
    assert done.returncode == 0, done.stderr
    # One strip for the originals and one for each client.
    assert Image.open(io.BytesIO(file.read_bytes())).width > 12 * 64
    assert f"picture: {file}" in done.stdout
