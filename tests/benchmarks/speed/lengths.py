"""Seconds of whole calls of ``fit``, preparation included, by the number of steps and the level.

    python tests/benchmarks/speed/lengths.py [--steps 100 300 1000 10000 100000] [--rounds 3] [--only digits] [--wall]

One process, one thread; the levels take turns. The seconds are the processor's, or with ``--wall`` those of the clock. Libraries
are in the cache from a first call, so that ``compile`` shows what it costs when it is not built anew; a compiler beside the
training is another process, and the processor's seconds do not count it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from ways import SIZES, Size, rows_of, vae_of

LEVELS = {"eager": False, "trace": "trace", "compile": "compile", "auto": "auto"}
MOST = {"eager": 3000, "trace": 30_000}
"""Steps above which a level is left out."""


def seconds(size: Size, level: str, steps: int, clock: Callable[[], float]) -> tuple[float, str]:
    """The seconds of a training, and how its steps were taken."""
    import pyrovae as pvae

    vae = vae_of(size)
    x, given = torch.from_numpy(rows_of(size)), {"batch_size": size.batch_size, "seed": 0, "progress": False}
    started = clock()
    history = pvae.fit(vae, x, steps=steps, compile=LEVELS[level], **given)
    return clock() - started, history.engine


def show_break_even(medians: dict[int, dict[str, float]]) -> None:
    """Print, for the levels by pairs, the steps from which on the second one's preparation has paid.

    A level's seconds are a line through its first and its last length.
    """
    lines = {}
    for level in ("eager", "trace", "compile"):
        lengths = [steps for steps, found in medians.items() if level in found]
        first, last = min(lengths), max(lengths)
        slope = (medians[last][level] - medians[first][level]) / max(last - first, 1)
        lines[level] = medians[first][level] - slope * first, slope
    for one, other in (("eager", "trace"), ("eager", "compile"), ("trace", "compile")):
        (start, step), (later, faster) = lines[one], lines[other]
        steps = max(0.0, (later - start) / (step - faster)) if step > faster else float("inf")
        print(f"{other} takes {later - start:+.2f} s more to prepare than {one}, and pays from {steps:.0f} steps on")


def main() -> None:
    """Print, for each number of steps, the median seconds by level, and that of ``auto`` over the best of the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=[100, 300, 1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SIZES, default=["digits"])
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    torch.set_num_threads(1)
    for name in options.only:
        for level in ("compile", "eager"):  # what is imported and built at first is not counted
            seconds(SIZES[name], level, 2 * SIZES[name].steps, clock)
        medians: dict[int, dict[str, float]] = {}
        for steps in options.steps:
            levels = [level for level in LEVELS if steps <= MOST.get(level, steps)]
            found: dict[str, list[float]] = {level: [] for level in levels}
            how = ""
            for number in range(options.rounds):
                for level in levels if number % 2 else reversed(levels):
                    taken, engine = seconds(SIZES[name], level, steps, clock)
                    found[level].append(taken)
                    how = engine if level == "auto" else how
            middle = medians[steps] = {level: statistics.median(times) for level, times in found.items()}
            best = min(value for level, value in middle.items() if level != "auto")
            print(
                f"{name} {steps:7} steps: "
                + ", ".join(f"{level} {value:.2f}" for level, value in middle.items())
                + f"; auto over the best {middle['auto'] / best:.2f} ({how})",
                flush=True,
            )
        if len(medians) > 1:
            show_break_even(medians)


if __name__ == "__main__":
    main()
