"""Kill a training 20 times with SIGKILL, each time in a fresh process, and compare its end with an uninterrupted one.

    python tests/benchmarks/kill_resume.py [KILLS] [SEED] [LEVEL]

The moments are spread over data, forward pass, update, validation and the stages of writing a checkpoint, and over the
whole course of training; every fourth kill comes from outside at a random time. Dropout, batch norm, dynamic binarization,
clipping, beta and learning-rate schedules are on. The level is ``trace`` or ``compile``; without one, steps are eager.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))


from pyrovae.files import CheckpointStore, load_state  # noqa: E402

LEVEL = ["--level", sys.argv[3]] if len(sys.argv) > 3 else []
MOMENTS = ["data", "forward", "updated", "validation", "half written", "written", "renamed", "rotated"]


def command(folder, result, *options):
    return [sys.executable, str(TESTS / "killed.py"), str(folder), str(result), *LEVEL, *options]


def step_of(folder):
    found = CheckpointStore(folder).load_latest()
    return 0 if found is None else found[0]["counters"]["step"]


def kill_inside(folder, result, rng):
    """The process kills itself at a chosen moment."""
    moment = f"{rng.choice(MOMENTS)}:{rng.randint(1, 6)}"
    return moment, subprocess.run(command(folder, result, "--moment", moment)).returncode


def kill_outside(folder, result, rng):
    """This process kills it at a random time after it began to train."""
    before = {path.name for path in folder.glob("*")}
    child = subprocess.Popen(command(folder, result))
    while child.poll() is None and {path.name for path in folder.glob("*")} == before:
        time.sleep(0.001)
    delay = rng.uniform(0.0, 0.2)
    time.sleep(delay)
    child.kill()
    return f"from outside after {1000 * delay:.0f} ms", child.wait()


def main(kills=20, seed=0):
    """Print one row a kill, and whether the two ends are equal."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        subprocess.run(command(root / "whole", root / "expected"), check=True)
        (root / "run").mkdir()
        print(f"{'kill':>4}  {'moment':28}  {'died':5}  resumes from step")
        died = 0
        while died < kills:
            kill = kill_outside if died % 4 == 3 else kill_inside
            moment, code = kill(root / "run", root / "unused", rng)
            died += code == -signal.SIGKILL
            print(f"{died:4}  {moment:28}  {code == -signal.SIGKILL!s:5}  {step_of(root / 'run')}", flush=True)
            if code == 0:  # it came to its end first: begin again, so that every kill falls into training
                compare(load_state(root / "unused"), load_state(root / "expected"))
                for path in (root / "run").iterdir():
                    path.unlink()
        subprocess.run(command(root / "run", root / "result"), check=True)
        compare(load_state(root / "result"), load_state(root / "expected"))
        left = sorted(path.name for path in (root / "run").iterdir())
    print(f"files in the folder at the end: {', '.join(left)}")


def compare(result, expected):
    equal = all(torch.equal(value, expected["state"][name]) for name, value in result["state"].items())
    same = {name: result[name] == expected[name] for name in ("history", "ended", "best_epoch")}
    print(
        f"      at the end: weights and buffers equal: {equal}; {', '.join(f'{k} equal: {v}' for k, v in same.items())}"
    )
    if not (equal and all(same.values())):
        raise SystemExit("the resumed run differs from the uninterrupted one")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
