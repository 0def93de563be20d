import subprocess
import sys

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.seeds", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_mistakes_cost_one_line(tmp_path):
    for arguments in ((), (f"--out={tmp_path}", str(tmp_path / "missing"))):
        done = run(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
