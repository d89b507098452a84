"""Milliseconds per training step of pyrovae and its peers, in processes that take turns.

    python tests/benchmarks/speed/run.py --peers FOLDER --install       once: the peers' own environment
    python tests/benchmarks/speed/run.py --peers FOLDER [--only digits mnist] [--rounds 9] [--ways numpyro compile ...]
                                         [--threads 1 2] [--cpu] [--minutes 5.5] [--json FILE] [--figure FILE]

Each way trains in a fresh process of its own; the processes take turns, one training a round, so that whatever slows the
machine slows all of them. The ratio is the median over rounds of the ratio of a round to the first way's, with the second lowest
and the second highest beside it. With one thread all processes are bound to one core. On a busy machine ``--cpu`` measures the
processor's time instead, of one thread. No round is begun after ``--minutes``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from ways import SIZES, WAYS

HERE = Path(__file__).resolve()
SECONDS = 0.6
"""About how long one training of a round takes."""


def install(folder: Path) -> None:
    """Make the peers' environment: NumPyro, JAX and pythae beside the packages of this interpreter, which stay as they are."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run([python, "-m", "pip", "install", "-q", "numpyro", "jax"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "pythae"], check=True)


def work(way: str, name: str, threads: int, cpu: bool) -> None:
    """The other side: trains once for each line that it reads, and writes the milliseconds of a step."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clock = time.process_time if cpu else time.perf_counter
    if not way.startswith("numpyro"):
        import torch

        torch.set_num_threads(threads)
    run = WAYS[way][1](SIZES[name], clock)
    epochs = 1
    for _ in range(2):
        epochs = max(1, int(SECONDS / (SIZES[name].steps * run(epochs))))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(1e3 * run(epochs), flush=True)


class Worker:
    """A process that trains in one way whenever it is asked to."""

    def __init__(self, way: str, name: str, threads: int, cpu: bool, peers: Path | None) -> None:
        python = sys.executable if not WAYS[way][2] else str(peers / "bin" / "python")
        single = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "XLA_FLAGS": single,
        }
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[3]), os.environ.get("PYTHONPATH", "")])
        command = [python, str(HERE), "--work", way, name, str(threads), str(int(cpu))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def answer(self) -> str | None:
        """The next line that is a number or "ready"; None where the process has ended."""
        for line in self.process.stdout:
            if line.strip() == "ready" or line.strip().replace(".", "").replace("e-", "").isdigit():
                return line
        return None

    def time(self) -> float:
        """The milliseconds of a step."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def measure(
    name: str, ways: list[str], threads: int, options: argparse.Namespace, until: float
) -> dict[str, list[float]]:
    """By way, the milliseconds of a step in each round; a way that does not run is left out."""
    workers = {}
    try:
        for way in ways:  # one after the other: what they build, they build alone
            worker = Worker(way, name, threads, options.cpu, options.peers)
            workers[way] = worker
            if worker.answer() is None:
                print(f"  {way} does not run here", flush=True)
                worker.close()
                del workers[way]
        times: dict[str, list[float]] = {way: [] for way in workers}
        for number in range(options.rounds):
            if time.monotonic() > until and number > 2:
                break
            for way in workers if number % 2 else reversed(workers):
                times[way].append(workers[way].time())
    finally:
        for worker in workers.values():
            worker.close()
    return times


def ratio(times: list[float], to: list[float]) -> tuple[float, float, float]:
    """The median of the ratios round by round, and the second lowest and second highest of them."""
    ratios = sorted(a / b for a, b in zip(times, to, strict=True))
    inner = ratios[1:-1] if len(ratios) > 2 else ratios
    return statistics.median(ratios), inner[0], inner[-1]


def show(found: list[dict]) -> None:
    """One table of everything."""
    for entry in found:
        size, times = SIZES[entry["size"]], entry["ms"]
        shape = f"{size.data_dim}-{size.hidden}-{size.latent_dim}, batch {size.batch_size}"
        how = f"{entry['threads']} thread(s), {entry['clock']}, {len(next(iter(times.values()), []))} rounds"
        print(f"\n{entry['size']} {shape}, {how}, load {entry['load']:.1f}")
        first = next(iter(times), None)
        for way, values in times.items():
            middle, low, high = ratio(values, times[first])
            print(
                f"  {WAYS[way][0]:32}{statistics.median(values):8.3f} ms a step   {middle:6.2f} [{low:.2f}, {high:.2f}]"
            )


def draw(found: list[dict], path: Path) -> None:
    """One figure: bars of milliseconds a step, a panel for each size and number of threads."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 3), squeeze=False, layout="constrained")
    for axis, entry in zip(axes[0], found, strict=True):
        ways = list(reversed(entry["ms"]))
        values = [statistics.median(entry["ms"][way]) for way in ways]
        bars = axis.barh(
            [WAYS[way][0] for way in ways], values, color=["C0" if "fit" in WAYS[w][0] else "0.7" for w in ways]
        )
        axis.bar_label(bars, fmt="%.2f", padding=3)
        threads = "one thread" if entry["threads"] == 1 else f"{entry['threads']} threads"
        axis.set(title=f"{entry['size']}, {threads}", xlabel="milliseconds a step")
        axis.margins(x=0.15)
    figure.savefig(path)


def main() -> None:
    if "--work" in sys.argv:
        way, name, threads, cpu = sys.argv[2:]
        work(way, name, int(threads), bool(int(cpu)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder of the peers' environment; without it they are left out")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="*", help="by default one for digits, two for mnist")
    parser.add_argument("--only", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.install:
        install(options.peers)
        return
    ways = [way for way in options.ways if options.peers or not WAYS[way][2]]
    runs = [(name, threads) for name in options.only for threads in options.threads or [SIZES[name].threads]]
    runs = [(name, 1) for name, _ in runs] if options.cpu else runs
    found, began = [], time.monotonic()
    for number, (name, threads) in enumerate(runs, 1):
        until = began + 60 * options.minutes * number / len(runs)
        times = measure(name, ways, threads, options, until)
        clock = "CPU time" if options.cpu else "wall time"
        found.append({"size": name, "threads": threads, "clock": clock, "load": os.getloadavg()[0], "ms": times})
        show(found[-1:])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
