"""Kill, starve and crowd 1,000 saves of one run, and count the runs that are lost, half written or older than promised.

    python tests/benchmarks/kill_saves.py [SAVES] [SEED]

Children are forked from this process, so that a kill costs no import. Of ten attempts six save version after version until
SIGKILL comes at a random moment, one trains with checkpoints until SIGKILL comes, one fills a small disk (a file-size limit
where mounting needs rights that are missing), and two are pairs of writers into one folder, one of them killed. All weights,
the results and the figure of version v hold the number v. After each attempt the run must load as one version, at least the
last that was reported as saved, and the newest checkpoint must load.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import pyrovae as pvae
from pyrovae.files import CheckpointStore
from pyrovae.files.config import read_config

KINDS = ("kill",) * 6 + ("train", "full disk", "two writers", "two writers")


def run_of(version):
    vae = pvae.build_vae(4, likelihood="normal", latent_dim=2, hidden=(8,), seed=0)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(version)
    return vae


def save(folder, version, figure=b"\x89PNG\r\n\x1a\n"):
    pvae.save(run_of(version), folder, results={"version": version}, figures={"f": figure}, overwrite=True)


def version_of(folder):
    """The version of a run, all of whose parts must agree."""
    vae, config = pvae.load(folder), read_config(folder)
    found = {float(parameter.min()) for parameter in vae.parameters()}
    found |= {float(parameter.max()) for parameter in vae.parameters()} | {float(config["results"]["version"])}
    if len(found) > 1:
        raise ValueError(f"one run of several versions: {sorted(found)}")
    return int(found.pop())


def child(task):
    """Fork a child that does a task and reports numbers; its process id and the end of the pipe to read from."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        number = os.fork()
    if number:
        os.close(writing)
        return number, reading
    code = 1
    with contextlib.suppress(BaseException):
        os.close(reading)
        task(lambda version: os.write(writing, f"{version}\n".encode()))
        code = 0
    os._exit(code)


def reported(reading):
    with os.fdopen(reading) as file:
        return [int(line) for line in file.read().split()]


def saver(folder, first):
    def task(report):
        for version in range(first, first + 1000):
            try:
                save(folder, version)
            except OSError:  # another writes
                continue
            report(version)

    return task


def trainer(folder):
    def task(report):
        options = {"checkpoint": folder, "resume": True, "checkpoint_steps": 2, "progress": False, "seed": 0}
        pvae.fit(run_of(0.1), torch.randn(64, 4), epochs=1000, batch_size=16, **options)

    return task


def starved(folder, first, limit):
    """A save that does not fit on the disk, or under a limit of the size of a file."""

    def task(report):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            save(folder, first, figure=b"x" * 3_000_000)
            report(first)

    return task


def disk(root):
    """A small disk of its own, where this process may mount one; else None."""
    folder = root / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    return folder if not os.geteuid() and not subprocess.run(command, capture_output=True).returncode else None


def attempt(kind, folder, first, rng):
    """One attempt; the versions that were reported as saved."""
    tasks = {
        "kill": [saver(folder, first)],
        "train": [trainer(folder / "checkpoints")],
        "full disk": [starved(folder, first, rng.choice([10**3, 10**4, 10**9]))],
        "two writers": [saver(folder, first), saver(folder, first + 1000)],
    }[kind]
    children = [child(task) for task in tasks]
    if kind == "full disk":
        os.waitpid(children[0][0], 0)
        return reported(children[0][1])
    time.sleep(rng.uniform(0.0, 1.0 if kind == "train" else 0.3))
    for number, _ in children:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        time.sleep(rng.uniform(0.0, 0.02))
    return [version for _, reading in children for version in reported(reading)]


def main(saves=1000, seed=0):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rng, faults, counts, versions = random.Random(seed), [], dict.fromkeys(KINDS, 0), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        places = [place for place in (root / "run", disk(root)) if place is not None]
        folders = [places[0], *(place / "run" for place in places[1:])]
        for folder in folders:
            save(folder, 0)
        last = dict.fromkeys(folders, 0)
        pvae.fit(
            run_of(0.1), torch.randn(64, 4), steps=1, checkpoint=folders[0] / "checkpoints", progress=False, seed=0
        )
        for number in range(saves):
            kind = rng.choice(KINDS)
            folder = folders[-1] if kind == "full disk" else rng.choice(folders[:1])
            told = attempt(kind, folder, 2000 * (number + 1), rng)
            counts[kind] += 1
            versions += len(told)
            try:
                found = version_of(folder)
                if (found < max(told, default=0) and kind != "two writers") or found < last[folder]:
                    raise ValueError(f"version {found} stands where {max(told, default=0)} was reported")
                last[folder] = found
                if kind == "train" and CheckpointStore(folder / "checkpoints").load_latest() is None:
                    raise ValueError("no checkpoint")
            except Exception as error:
                faults.append((number, kind, f"{type(error).__name__}: {error}"))
                print(f"attempt {number}, {kind}: {error}", flush=True)
                save(folder, last[folder] + 1)
            if (number + 1) % 100 == 0:
                print(f"{number + 1} attempts {counts}, {versions} saves reported, {len(faults)} faults", flush=True)
        left = [path.name for path in folders[0].iterdir() if path.name.startswith(".")]
        print(
            f"{len(faults)} runs lost, half written or older than reported; {len(left)} hidden files left: {left[:5]}"
        )
        for place in places[1:]:
            subprocess.run(["umount", str(place)])
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
