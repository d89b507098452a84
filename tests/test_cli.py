"""The command line: what it writes, what it says, and its exit codes."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from pyrovae import runs
from pyrovae.cli import app


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
    assert runs.load(tmp_path / "run").encode


def test_the_data_command_lists_what_there_is():
    done = invoke("data")
    assert done.exit_code == 0
    for name in ("digits", "mnist", "freyfaces", "dynamic"):
        assert name in done.output


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
