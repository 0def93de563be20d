"""Trains the toy in child processes, kills them at random moments, restarts them, and prints what came of it as JSON.

    python tests/training/killing.py FOLDER KILLS PROCESSES SEED

Not a test by itself: see test_killing.py, which sets the number of devices.
Children are forked before JAX has touched a device, so that a restart costs little.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import random
import select
import signal
import socket
import sys
import time
import traceback

import jax
import numpy as np

from ani_jax.training import processes
from ani_jax.training.callbacks import Save, Stop, Tell
from ani_jax.training.checkpoint import Checkpoints
from ani_jax.training.devices import Devices
from ani_jax.training.loop import Stopped, TrainConfig, train
from experiments.machine import STOPPED, Told

spec = importlib.util.spec_from_file_location("toys", pathlib.Path(__file__).with_name("conftest.py"))
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)

CONFIG = TrainConfig(batch_size=8, log_every=5, checkpoint_every=5, keep=2)


def child(folder, steps, number, count, port, pipe):
    """One process of a run; tells the parent of every event."""
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if count > 1:
        processes.join(f"localhost:{port}", count, number)
    stop = processes.preemption() if count > 1 else Told(signal.SIGTERM)
    # Noise depends on the number of devices, and runs of several processes are compared with one of another number.
    defense = toys.Toy(classes=3, image_shape=(4, 4, 1), steps=steps, pretraining=20, stddev=0.0 if count > 1 else 0.1)
    losses = []

    def on_event(event):
        if event["kind"] == "metrics":
            losses.append(event["metrics"]["loss"])
        os.write(pipe, b"." if event["kind"] != "start" else f"[{event['step']}]".encode())

    data = toys.make_data(toys.make_batch())
    try:
        state = train(defense, data, CONFIG, [Save(Checkpoints(folder)), Tell(on_event), Stop(stop)], Devices("auto"))
    except Stopped:
        return STOPPED
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state.params, state.statistics, state.optimizers, state.step)):
        digest.update(np.asarray(leaf).tobytes())
    if number == 0:
        os.write(pipe, f"={digest.hexdigest()}={json.dumps(losses)}".encode())
    processes.leave()
    return 0


def start(folder, steps, count):
    """Forks all processes of a run; their ids, and the end of a pipe that tells what they do."""
    ours, theirs = os.pipe()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    found = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child(folder, steps, number, count, port, theirs)
            except BaseException:
                traceback.print_exc()
            # Without the parent's clean-up, but with this process's own last words.
            sys.stderr.flush()
            os._exit(code)
        found.append(pid)
    os.close(theirs)
    return found, ours


def finish(pids, pipe):
    """Waits for all; what they said after the last look, and their exit codes."""
    said = b""
    while part := os.read(pipe, 4096):
        said += part
    os.close(pipe)
    return said.decode(), [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def main(folder, kills, count, seed):
    moments, results, steps = random.Random(seed), [], 40 + 10 * kills
    began = time.monotonic()
    said, codes = finish(*start(folder / "whole", steps, count))
    whole, killed = said.split("=")[1], folder / "killed"
    losses = json.loads(said.split("=")[2])
    while kills:
        pids, pipe = start(killed, steps, count)
        kind = signal.SIGTERM if moments.random() < 0.5 else signal.SIGKILL
        if len(results) < kills:
            # After a random number of events and a moment more: most of the time goes into saves, so most kills meet one.
            wanted, heard = moments.randint(1, max(3, 36 // kills)), b""
            while heard.count(b".") + heard.count(b"[") < wanted and select.select([pipe], [], [], 300)[0]:
                part = os.read(pipe, 1)
                heard += part
                if not part:
                    break
            time.sleep(moments.uniform(0, 0.05))
            for pid in pids:
                os.kill(pid, kind)
        else:
            heard = b""
        said, codes = finish(pids, pipe)
        said = heard.decode() + said
        listed = Checkpoints(killed)
        damaged = [step for step in listed.steps() if not listed.intact(step)]
        results.append({"kind": kind.name, "codes": codes, "said": said, "damaged": damaged})
        if all(code == 0 for code in codes):
            break
    same = said.split("=")[1] == whole
    print(
        json.dumps(
            {"codes": codes, "losses": losses, "same": same, "runs": results, "seconds": time.monotonic() - began}
        )
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
