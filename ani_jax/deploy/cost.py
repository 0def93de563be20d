"""What an exported client costs a device, measured in a process that loads it and nothing else.

python -m ani_jax.deploy.cost FOLDER       prints milliseconds and mebibytes as JSON
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ani_jax.deploy.artefact import load

WARM, TIMED = 20, 300
"""Queries of one image before any is timed, and that are."""


def measured(folder: Path) -> dict[str, float]:
    """Times and memory of ``Artefact.send`` at batch 1, by the names of :class:`ani_jax.deploy.artefact.Cost`.

    Args:
        folder: of the artefact.

    Raises:
        ValueError: the process that measures failed; the message ends with its last line.
    """
    command = [sys.executable, "-m", "ani_jax.deploy.cost", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"artefact={folder}: could not be measured ({(done.stderr.strip() or '?').splitlines()[-1]})")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, secret: Path) -> dict[str, float]:
    """The same in this process, whose peak of memory counts whatever else it has done.

    Args:
        folder: of the artefact.
        secret: of the device, where noise is memoised.
    """
    # jax starts its backend with the first array.
    jnp.zeros(1).block_until_ready()
    idle = _peak()
    artefact = load(folder, secret)
    images = np.random.default_rng(0).random((WARM + TIMED, 1, *artefact.card.image_shape), np.float32)
    taken = []
    for image in images:
        begun = time.perf_counter()
        artefact.send(image)
        taken.append(1e3 * (time.perf_counter() - begun))
    p50, p95 = np.quantile(taken[WARM:], (0.5, 0.95))
    return {"p50_ms": float(p50), "p95_ms": float(p95), "peak_mib": _peak(), "idle_mib": idle}


def _peak() -> float:
    """The most memory that this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's getrusage also counts the process that started this one, up to where it did.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), Path(place) / "secret")) + "\n")
