"""Milliseconds per step of eager training: `pyrovae.fit`, plain SVI with one fused Adam, and Pyro's own example.

    python tests/benchmarks/eager.py [--rounds 9] [--threads 1 2] [--only digits mnist] [--quick] [--json FILE]

Each way trains in a fresh process of its own; the processes take turns, one training a round, so that whatever slows the
machine slows all of them. A step's time is the time of a whole training, its beginning included, divided by its steps. The
ratio is the median over rounds of the ratio of a round, with the second lowest and the second highest beside it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve()


class Size(NamedTuple):
    """Widths of the networks, rows in a batch and in all, and the epochs of one training."""

    data_dim: int
    hidden: int
    latent_dim: int
    batch_size: int
    rows: int
    epochs: int


SIZES = {"digits": Size(64, 64, 8, 64, 1280, 40), "mnist": Size(784, 400, 50, 128, 25_600, 1)}
WAYS = ("fit", "svi", "example")
NAMES = {"fit": "pyrovae.fit", "svi": "SVI, one fused Adam, validation off", "example": "Pyro's example"}


def by_fit(size: Size, epochs: int) -> Callable[[], object]:
    import pyrovae as pvae

    vae, x = _vae(size), _data(size)
    return lambda: pvae.fit(vae, x, epochs=epochs, batch_size=size.batch_size, seed=0, progress=False)


def by_svi(size: Size, epochs: int) -> Callable[[], object]:
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO

    import pyrovae as pvae

    pyro.enable_validation(False)
    vae, x = _vae(size), _data(size)
    adam = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
    svi = SVI(vae.model, vae.guide, pvae.training.TorchOptimizer(adam, vae.parameters()), Trace_ELBO())

    def run() -> None:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(size.batch_size):
                svi.step(x[rows], size=len(x))

    return run


def by_example(size: Size, epochs: int) -> Callable[[], object]:
    from pyro_example import train

    x = _data(size)
    return lambda: train(x, size.batch_size, epochs, size.hidden, size.latent_dim)


def _vae(size: Size) -> object:
    import pyro.distributions as dist
    import torch

    import pyrovae as pvae

    torch.manual_seed(0)
    return pvae.VAE(
        pvae.standard_normal(size.latent_dim),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(size.latent_dim, (size.hidden,)), event_shape=size.data_dim),
        pvae.Factorized(dist.Normal, pvae.MLP(size.data_dim, (size.hidden,)), event_shape=size.latent_dim),
    )


def _data(size: Size) -> object:
    import torch

    return torch.bernoulli(torch.full((size.rows, size.data_dim), 0.3), generator=torch.Generator().manual_seed(0))


def work(way: str, size: Size, epochs: int, threads: int) -> None:
    """The other side: trains once for each line it reads, and writes the milliseconds of a step."""
    import torch

    torch.set_num_threads(threads)
    make = {"fit": by_fit, "svi": by_svi, "example": by_example}[way]
    make(size, 1)()
    run, steps = make(size, epochs), epochs * -(-size.rows // size.batch_size)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(1e3 * (time.perf_counter() - started) / steps, flush=True)


def measure(name: str, threads: int, rounds: int, epochs: int) -> dict[str, list[float]]:
    """By way, the milliseconds of a step in each round."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE), "--work", name, str(threads), str(epochs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = {way: subprocess.Popen([*command, way], **pipes) for way in WAYS}
    try:
        for worker in workers.values():
            _answer(worker)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                workers[way].stdin.write("go\n")
                workers[way].stdin.flush()
                times[way].append(float(_answer(workers[way])))
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return times


def _answer(worker: subprocess.Popen) -> str:
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit code {worker.wait()}")
    return line


def ratio(times: dict[str, list[float]], way: str, to: str) -> tuple[float, float, float]:
    """The median of the ratios round by round, and the second lowest and second highest of them."""
    ratios = sorted(a / b for a, b in zip(times[way], times[to], strict=True))
    inner = ratios[1:-1] if len(ratios) > 2 else ratios
    return statistics.median(ratios), inner[0], inner[-1]


def main() -> None:
    if "--work" in sys.argv:
        name, threads, epochs, way = sys.argv[2:]
        work(way, SIZES[name], int(epochs), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--only", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the epochs and three rounds: to see that it works"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    for name in arguments.only:
        size = SIZES[name]
        epochs = max(1, size.epochs // 10) if arguments.quick else size.epochs
        shape = f"{size.data_dim}-{size.hidden}-{size.latent_dim}, batch {size.batch_size}"
        for threads in arguments.threads:
            times = measure(name, threads, 3 if arguments.quick else arguments.rounds, epochs)
            found.append({"size": name, "shape": shape, "threads": threads, "load": os.getloadavg()[0], "ms": times})
            print(f"{name} {shape}, {threads} thread(s), load {found[-1]['load']:.1f}")
            for way in WAYS:
                by_fit_, low, high = ratio(times, "fit", way)
                beside = "" if way == "fit" else f"   fit is {by_fit_:.2f} of it [{low:.2f}, {high:.2f}]"
                print(f"  {NAMES[way]:38}{statistics.median(times[way]):8.3f} ms a step{beside}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
