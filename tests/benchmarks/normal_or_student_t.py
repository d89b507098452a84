"""Exact Gaussian data from the command line: does ``compare`` prefer the normal to the Student t, or not tell them apart?

500 rows of five columns of a factor model with normal noise, columns of scales 1e-3 to 1e3; two trainings per seed with no
option but ``--likelihood``.

    python tests/benchmarks/normal_or_student_t.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from typer.testing import CliRunner

from pyrovae.cli import app


def invoke(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def one(seed: int, folder: Path) -> tuple[float, float]:
    """The sum of log densities of the Student t less that of the normal on the test rows, and its standard error."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(500, 5))
    pd.DataFrame(x * 10.0 ** np.array([-3, -1, 0, 1, 3]), columns=list("abcde")).to_csv(folder / "x.csv", index=False)
    for likelihood in ("normal", "student_t"):
        options = ["--seed", seed, "--no-report", "--no-figures", "-q", "--out", folder / likelihood]
        invoke("train", folder / "x.csv", "--likelihood", likelihood, *options)
    invoke("compare", folder / "normal", folder / "student_t", "--out", folder / "c", "--num-samples", 300, "-q")
    table = pd.read_csv(folder / "c.csv", index_col=0)
    found = (table["elpd"]["student_t"] - table["elpd"]["normal"], table["dse"].max())
    return float(found[0]), float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    right = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            difference, error = one(seed, Path(folder))
        right += difference <= 2 * error
        print(f"seed {seed}: student_t less normal {difference:.2f} with a standard error of {error:.2f}", flush=True)
    print(f"the normal wins or is not told apart in {right} of {len(seeds)}")


if __name__ == "__main__":
    main()
