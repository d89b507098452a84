"""The command line: what it writes, what it says, and its exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from pyrovae.cli import app
from pyrovae.cli.app import WORDS
from pyrovae.cli.console import in_options
from pyrovae.comparison.table import _remedy
from pyrovae.evaluation import AIS, Importance, Refined
from pyrovae.files import Run
from pyrovae.files.config import sealed
from pyrovae.presets import load
from pyrovae.presets.tables import LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    done = invoke("train", "--epochs", 2, "--hidden", 16, "--latent-dim", 2, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_training_writes_a_run_and_says_what_it_reached(run):
    folder, output = run
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "history.csv", "figures"}
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"history", "reconstructions", "samples", "latent", "manifold"}
    for word in ("ELBO", "KL", "reconstruction", "bits/dim", "seconds", "counts", "model.safetensors", "history.png"):
        assert word in output
    assert len(pd.read_csv(folder / "history.csv")) == 2
    assert load_file(folder / "model.safetensors")
    results = json.loads((folder / "config.json").read_text())["results"]
    assert results["elbo"] == pytest.approx(results["reconstruction"] - results["kl"])
    assert results["bits_per_dim"] == pytest.approx(-results["elbo"] / (64 * np.log(2)))


def test_quiet_prints_nothing(tmp_path):
    done = invoke("train", "--epochs", 1, "--hidden", 8, "--no-figures", "--quiet", "--out", tmp_path / "run")
    assert (done.exit_code, done.output) == (0, "")


def test_the_commands_on_a_run(run, tmp_path):
    folder, _ = run
    done = invoke("evaluate", folder, "--samples", 20, "--rows", 30, "--quiet")
    assert done.exit_code == 0, done.output
    evidence = pd.read_csv(folder / "evidence-importance.csv")
    assert len(evidence) == 30
    assert (evidence["log_marginal"] >= evidence["elbo"]).mean() > 0.9
    assert invoke("sample", folder, "-n", 5, "--out", tmp_path / "s.npz").exit_code == 0
    assert np.load(tmp_path / "s.npz")["x"].shape == (5, 1, 8, 8)
    assert (tmp_path / "s.png").exists()
    assert invoke("reconstruct", folder, "--rows", 4, "--out", tmp_path / "r.npz").exit_code == 0
    assert np.load(tmp_path / "r.npz")["reconstruction"].shape == (4, 1, 8, 8)
    assert invoke("encode", folder, "--out", tmp_path / "z.npz", "--samples", 3).exit_code == 0
    assert np.load(tmp_path / "z.npz")["z"].shape == (3, 359, 2)
    assert invoke("encode", folder, "digits", "--out", tmp_path / "z.parquet").exit_code == 0
    assert list(pd.read_parquet(tmp_path / "z.parquet").columns) == ["z0", "z1", "label"]
    shown = invoke("info", folder)
    assert shown.exit_code == 0
    assert "binomial" in shown.output


def test_draws_repeat_by_their_seed(run, tmp_path):
    folder, _ = run
    for name in ("a", "b"):
        invoke("sample", folder, "-n", 3, "--seed", 7, "--out", tmp_path / f"{name}.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["x"], np.load(tmp_path / "b.npz")["x"])


def test_a_run_resumes_to_more_epochs(tmp_path):
    words = ["train", "--hidden", 8, "--no-figures", "--out", tmp_path / "run", "--quiet"]
    assert invoke(*words, "--epochs", 1).exit_code == 0
    assert invoke(*words, "--epochs", 2).exit_code == 2
    assert invoke(*words, "--epochs", 2, "--resume").exit_code == 0
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 2
    config = (tmp_path / "run" / "config.json").read_bytes()
    fewer = invoke(*words, "--epochs", 1, "--resume")
    assert fewer.exit_code == 2
    assert "ask for at least 2 epochs" in " ".join(fewer.output.split())
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    assert load(tmp_path / "run").encode


SMALL = ["train", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--no-figures", "--no-report", "--quiet"]


def test_runs_of_two_seeds_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, options in {"a": [], "b": ["--seed", 1], "c": ["--split-seed", 1]}.items():
        assert invoke(*SMALL, *options, "--out", name).exit_code == 0
    kept = [json.loads((tmp_path / name / "config.json").read_text()) for name in "abc"]
    assert [(config["seed"], config["settings"]["split_seed"]) for config in kept] == [(0, 0), (1, 0), (0, 1)]
    weights = [load(tmp_path / name).state_dict() for name in "ab"]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    done = invoke("compare", "a", "b", "--samples", 10, "--rows", 10)
    assert done.exit_code == 0, done.output
    done = invoke("compare", "a", "c")
    assert done.exit_code == 2
    assert "they differ in split seed (a: 0, c: 1). Train them on the same data" in " ".join(done.output.split())


def test_a_run_without_the_word_split_seed_is_read(tmp_path):
    """Of a config written before it: the data remember the seed of their split."""
    assert invoke(*SMALL, "--split-seed", 3, "--out", tmp_path).exit_code == 0
    config = json.loads((tmp_path / "config.json").read_text())
    del config["settings"]["split_seed"], config["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(sealed(config)))
    assert invoke("evaluate", tmp_path, "--samples", 5, "--rows", 5, "--quiet").exit_code == 0
    assert invoke("info", tmp_path).exit_code == 0


def test_resuming_wants_the_data_that_were_begun_on(tmp_path):
    words = [*SMALL, "--out", tmp_path / "run"]
    assert invoke(*words, "--split-seed", 1).exit_code == 0
    done = invoke(*words, "--epochs", 2, "--resume")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert (
        "was begun on digits (counts) with --split-seed 1, and this request is for digits (counts) with --split-seed 0"
        in said
    )
    assert invoke(*words, "--epochs", 2, "--split-seed", 1, "--resume").exit_code == 0
    pd.DataFrame(np.ones((50, 3)) * np.arange(50)[:, None]).to_csv(tmp_path / "rows.csv", index=False)
    done = invoke("train", tmp_path / "rows.csv", "--out", tmp_path / "run", "--resume")
    assert done.exit_code == 2
    assert "write pyrovae train digits --variant counts --split-seed 1 --out" in " ".join(done.output.split())


def test_a_stopped_training_keeps_what_it_was_begun_on(tmp_path):
    words = [*SMALL, "--out", tmp_path / "run"]
    assert invoke(*words).exit_code == 0
    (tmp_path / "run" / "config.json").unlink()  # as if it had been killed
    done = invoke(*words, "--split-seed", 1)
    assert done.exit_code == 2
    assert "--resume goes on from there" in " ".join(done.output.split())
    assert invoke(*words, "--epochs", 2, "--resume").exit_code == 0


def test_the_data_command_lists_what_there_is(monkeypatch, tmp_path):
    folder = tmp_path / ("a-long-name-" * 10)
    (folder / "freyfaces").mkdir(parents=True)
    (folder / "freyfaces" / "freyfaces.npz").touch()
    monkeypatch.setenv("PYROVAE_DATA", str(folder))
    done = invoke("data")
    assert done.exit_code == 0
    assert f"freyfaces: {folder}/freyfaces\n" in done.output  # in one piece, however long
    for name in ("digits", "mnist", "freyfaces", "dynamic"):
        assert name in done.output


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "pyrovae", "--help"], capture_output=True, text=True, check=True)
    assert "train" in done.stdout


def test_help_lists_every_word_and_the_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = " ".join(invoke("train", "--help").output.replace("│", " ").split())
    tables = {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIORS, "network": NETWORKS}
    for name, known in tables.items():
        assert [word.split(" (")[0] for word in WORDS[name].split(", ")] == list(known)
        assert WORDS[name] in said
    assert "by default 60 for digits, 55 for mnist, 200 for freyfaces, 50 for files" in said
    assert "by default 128,128 for digits" in said


@pytest.mark.filterwarnings("default")
def test_evaluation_speaks_in_sentences_and_options(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = run[0]
    done = invoke("evaluate", folder, "--samples", 100, "--rows", 20)
    assert done.exit_code == 0, done.output
    assert "k > 0.50" in done.output  # the limit for 100 samples
    assert "note: importance-sampling estimates with this guide are unreliable" in done.output
    assert "--method refined or ais" in done.output
    assert "UserWarning" not in done.output
    assert ".py:" not in done.output
    quiet = invoke("evaluate", folder, "--samples", 100, "--rows", 20, "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    refined = ["evaluate", folder, "--method", "refined", "--samples", 50, "--rows", 5]
    few, many = ((invoke(*refined, "--steps", n), pd.read_csv(folder / "evidence-refined.csv")) for n in (1, 60))
    assert few[0].exit_code == many[0].exit_code == 0
    assert many[1]["log_marginal"].mean() > few[1]["log_marginal"].mean() + 1
    annealed = invoke("evaluate", folder, "--method", "ais", "--samples", 4, "--steps", 3, "--rows", 5)
    assert annealed.exit_code == 0, annealed.output
    assert "k >" not in annealed.output  # four chains have no tail


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 5], "--steps goes with --method refined or ais, importance takes none"),
        (["--method", "refined", "--steps", 0], "--steps must be at least 1, got 0"),
    ],
)
def test_steps_that_nobody_takes_are_refused(run, options, message):
    done = invoke("evaluate", run[0], *options)
    assert done.exit_code == 2
    assert message in done.output


def test_advice_of_the_library_is_said_in_options():
    estimators = [Importance(), Refined(), AIS()]
    said = [in_options(_remedy(repr(estimator))) for estimator in estimators]
    assert said == [
        "refine (--method refined or ais)",
        "take more steps (--steps) or samples, or anneal (--method ais)",
        "take more temperatures (--steps) or chains",
    ]


def test_a_comparison_says_what_it_writes_and_overwrites_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "twin", ignore=shutil.ignore_patterns("checkpoints"))
    words = ["compare", run[0], "twin", "--samples", 5, "--rows", 5]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "table  comparison.csv\nfigure  comparison.png" in done.output
    before = Path("comparison.csv").stat().st_mtime_ns
    done = invoke(*words)
    assert done.exit_code == 2
    assert "comparison.csv and comparison.png would be overwritten: choose another --out, or say --force" in done.output
    assert Path("comparison.csv").stat().st_mtime_ns == before
    assert invoke(*words, "--force").exit_code == 0
    assert Path("comparison.csv").stat().st_mtime_ns > before


def test_figures_go_among_the_figures_and_leave_the_runs_own(run):
    folder = run[0]
    for command, name in {"sample": "drawn", "reconstruct": "reconstructed"}.items():
        done = invoke(command, folder)
        assert done.exit_code == 0, done.output
        assert f"figure  {folder / 'figures' / name}.png\n" in done.output
        assert (folder / "figures" / f"{name}.png").exists()
    assert not list(folder.glob("*.png"))
    Run.read(folder)  # whose checksums still hold


def test_what_a_run_holds_is_rounded_and_has_units(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = invoke("info", run[0]).output
    assert re.search(r"elbo +│ +-\d+\.\d\d nats per datum", said)
    assert re.search(r"kl_range +│ +\d+\.\d\d to \d+\.\d\d nats per datum", said)
    assert re.search(r"training_seconds +│ +[\d.]+ s", said)
    assert not re.search(r"\d\.\d{7}", said)


@pytest.mark.filterwarnings("default")
def test_a_table_without_a_variant_has_a_plain_title(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = np.random.default_rng(0).normal(size=(60, 3))
    pd.DataFrame(rows, columns=list("abc")).to_csv(tmp_path / "[b]rows.csv", index=False)
    words = ["train", tmp_path / "[b]rows.csv", *SMALL[1:], "--out", tmp_path / "run"]
    assert invoke(*words).exit_code == 0
    done = invoke("evaluate", tmp_path / "run", "--samples", 5)
    assert "[b]rows.csv, 6 test rows, importance: nats per datum" in done.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "nonsense"], 2, "expected one of digits, mnist, freyfaces"),
        (["train", "--prior", "nonsense"], 2, "prior must be one of"),
        (["train", "--likelihood", "bernoulli", "--epochs", 1], 2, "outside the support of Bernoulli"),
        (["train", "--variant", "grey"], 2, "counts"),
        (["train", "--epochs", 0], 2, "epochs must be a positive integer"),
        (["train", "--hidden", "a,b"], 2, "--hidden takes numbers"),
        (["train", "--learning-rate", -1], 2, ""),
        (["train", "--resume"], 2, "--resume needs --out"),
        (["info", "no/such/run"], 2, "holds no run"),
        (["evaluate", "no/such/run"], 2, "holds no run"),
        (["train", "--no-such-option"], 2, "No such option"),
    ],
)
def test_wrong_requests_end_with_code_2_and_say_why(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_a_wrong_output_name_is_refused(run):
    done = invoke("encode", run[0], "--out", "z.txt")
    assert done.exit_code == 2
    assert "must end in .npz or .parquet" in done.output


@pytest.mark.skipif(os.geteuid() != 0 and not os.path.isdir("/proc"), reason="needs a folder that nobody can write to")
def test_an_unwritable_folder_is_said_before_training():
    done = invoke("train", "--epochs", 1, "--out", "/proc/run")
    assert done.exit_code in (1, 2)
    assert "/proc" in done.output
    assert "Traceback" not in done.output
