"""Reruns the numbers of the table in tests/benchmarks/README.md and prints each beside what is stated there.

    python tests/benchmarks/readme_numbers.py [--minutes 5] [--only digits psis] [--root CHECKOUT]

Commands that take longer than ``--minutes`` on two idle cores are listed, not run. Each command runs in a process and a folder
of its own. "Allowed" is the error that the README states, or else the spread between seeds and machines; timings are printed
without a verdict. Exits with 1 where a number lies outside of its error.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

NUMBER = r"\s*([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
README_TABLE = r"^\| what \| result \| command \|\n\|[-|]+\|\n(.*?)\n\n"


@dataclass(frozen=True)
class Claim:
    """One number: what the README states, the error allowed, and the text of the output that comes before it.

    ``minus`` is a second such text, whose number is subtracted; ``allowed`` None marks a timing.
    """

    what: str
    stated: float
    allowed: float | None
    before: str
    minus: str | None = None

    def measured(self, output: str) -> float:
        value = _after(self.before, output)
        return value if self.minus is None else value - _after(self.minus, output)


@dataclass(frozen=True)
class Row:
    """A row of the table: the command as the README writes it, its minutes on two idle cores, and its numbers."""

    name: str
    command: str
    minutes: float
    claims: tuple[Claim, ...] = ()


def _after(before: str, output: str) -> float:
    found = re.search(before + NUMBER, output, re.M)
    if found is None:
        raise ValueError(f"the output has no number after {before!r}")
    return float(found.group(1))


def _likelihood(name: str, stated: float) -> Claim:
    return Claim(f"digits, {name}", stated, 1.0, rf"^{name} {{2,}}")


def _snr(estimator: str, first: float, last: float) -> tuple[Claim, Claim]:
    return (
        Claim(f"signal-to-noise, {estimator}, K = 1", first, 0.05 * first, rf"^ *{estimator}"),
        Claim(f"signal-to-noise, {estimator}, K = 256", last, 0.05 * last + 0.002, rf"^ *{estimator}.*(?=  )"),
    )


def _imputed(table: str, method: str, stated: float, allowed: float) -> Claim:
    return Claim(f"imputing {table}, {method}", stated, allowed, rf"^{table} +{method} +")


ROWS = (
    Row(
        "digits",
        "pyrovae train --out run",
        0.5,
        (
            Claim("digits, default run: test ELBO", -94.9, 1.1, r"│"),
            Claim("the same: bits/dim", 2.18, 0.03, r"│[^│\n]*│[^│\n]*│[^│\n]*│"),
        ),
    ),
    Row(
        "mnist",
        "pyrovae train mnist --variant dynamic --out runs/mnist",
        5.0,
        (Claim("MNIST (dynamic), default run: test ELBO", -91.7, 0.2, r"│"),),
    ),
    Row("mnist-evaluate", "pyrovae evaluate runs/mnist --method importance --num-samples 5000", 8.5),
    Row(
        "likelihoods",
        "python tests/benchmarks/digits_likelihoods.py",
        3.0,
        (
            _likelihood("beta-binomial", -83.4),
            _likelihood("discretized logistic", -85.4),
            _likelihood("binomial", -91.1),
            _likelihood("Poisson", -98.3),
        ),
    ),
    Row("mnist-latents", "python tests/benchmarks/mnist_latents.py --epochs 12", 60.0),
    Row(
        "freyfaces",
        "python tests/benchmarks/freyfaces_bits.py",
        5.0,
        (
            Claim("Frey Faces, one learned noise: bits/dim", 5.21, 0.05, r"^normal, one learned noise.*% +"),
            Claim("the same, discretized logistic", 4.65, 0.05, r"^discretized logistic, predicted scale.*% +"),
            Claim("the same, mixture of three", 4.50, 0.05, r"^mixture of 3 discretized logistics.*% +"),
        ),
    ),
    Row(
        "counts",
        "python tests/benchmarks/simulated_counts.py",
        4.0,
        (
            Claim(
                "counts, negative binomial ahead of Poisson",
                435,
                141,
                r"^negative binomial {2,}",
                r"^Poisson {2,}",
            ),
            Claim(
                "counts, what the size factor is worth",
                3.5,
                0.4,
                r"^negative binomial {2,}",
                r"^negative binomial without sizes {2,}",
            ),
        ),
    ),
    Row(
        "imputation",
        "python tests/benchmarks/table_imputation.py",
        3.0,
        (
            _imputed("wine", "VAE", 0.76, 0.03),
            _imputed("wine", "IterativeImputer", 0.91, 0.03),
            _imputed("wine", "column mean", 1.01, 0.03),
            _imputed("breast cancer", "IterativeImputer", 0.42, 0.03),
            _imputed("breast cancer", "VAE", 0.52, 0.03),
            _imputed("diabetes", "IterativeImputer", 0.76, 0.03),
            _imputed("diabetes", "VAE", 0.78, 0.03),
        ),
    ),
    Row(
        "psis",
        "python tests/benchmarks/psis.py",
        0.2,
        (
            Claim("k-hat: times faster than ArviZ", 3.9, None, r"^pareto_k +\d+\.\d+"),
            Claim("k-hat: largest difference", 6e-15, 1e-13, r"^largest difference of k:"),
        ),
    ),
    Row(
        "snr",
        "python tests/benchmarks/gradient_snr.py",
        0.2,
        (*_snr("reparam", 0.075, 0.015), *_snr("dreg", 0.29, 1.57), *_snr("stl", 0.29, 3.08)),
    ),
    Row(
        "closed-form",
        "python tests/benchmarks/evidence_closed_form.py",
        1.5,
        (
            Claim("probabilistic PCA, refined full, K = 1,000: bias", 0.0, 0.0005, r"^refined full +1000"),
            Claim("the same, importance sampling", -0.09, 0.02, r"^importance +1000"),
        ),
    ),
    Row("mnist-evidence", "python tests/benchmarks/evidence_mnist.py", 30.0),
)


def run(row: Row, root: Path) -> str:
    words = row.command.split()
    program = [sys.executable, "-m", "pyrovae"] if words[0] == "pyrovae" else [sys.executable, str(root / words[1])]
    rest = words[1:] if words[0] == "pyrovae" else words[2:]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "120"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(program + rest, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def judge(claim: Claim, output: str) -> tuple[str, bool]:
    value = claim.measured(output)
    if claim.allowed is None:
        return f"{value:12.4g}   (a timing)", True
    inside = abs(value - claim.stated) <= claim.allowed + 1e-9
    return f"{value:12.4g}   {'as stated' if inside else 'DIFFERS'}", inside


def unlisted(root: Path) -> list[str]:
    """Commands of the README's table that this file does not know."""
    table = re.search(README_TABLE, (root / "tests/benchmarks/README.md").read_text(), re.M | re.S)
    commands = re.findall(r"\| `([^`]+)` \|$", table.group(1), re.M) if table else []
    known = {row.command.removesuffix(" --out run") for row in ROWS}
    return [command for command in commands if command not in known]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", nargs="*", help="names of rows", choices=[row.name for row in ROWS])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2])
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    wanted = [row for row in ROWS if row.claims and row.minutes <= arguments.minutes]
    wanted = [row for row in wanted if not arguments.only or row.name in arguments.only]
    print(f"{'':52}{'stated':>12}{'allowed':>12}{'measured':>12}", flush=True)
    wrong = 0
    for row in wanted:
        started = time.perf_counter()
        try:
            output, failure = run(row, root), ""
        except ValueError as error:
            output, failure = "", str(error)
        print(f"{row.command}: {time.perf_counter() - started:.0f} s {failure}")
        for claim in row.claims:
            try:
                words, inside = judge(claim, output)
            except ValueError as error:
                words, inside = f"   FAILED: {error}", False
            wrong += not inside
            allowed = "" if claim.allowed is None else f"{claim.allowed:.4g}"
            print(f"  {claim.what:50}{claim.stated:12.4g}{allowed:>12}{words}", flush=True)
    left = [f"{row.command} ({row.minutes:g} minutes)" for row in ROWS if row not in wanted]
    print("\nNot rerun:", *left, sep="\n  ")
    for command in unlisted(root):
        print(f"  {command} (not known to this script)")
    print(f"\n{wrong} of {sum(len(row.claims) for row in wanted)} numbers are not as stated")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
