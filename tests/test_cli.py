"""The command line: what it writes, what it says, and its exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import pyrovae
from pyrovae.cli import app
from pyrovae.cli.app import COMMANDS
from pyrovae.cli.begun import CHANGEABLE
from pyrovae.cli.output import kinds_table
from pyrovae.evaluation.estimators import METHODS
from pyrovae.files import Run
from pyrovae.files.config import sealed
from pyrovae.presets import Reading, Spec, Training, load
from pyrovae.presets.options import options_of
from pyrovae.report.evidence import METHODS as REPORTED
from pyrovae.report.render import rows_shown

pytestmark = pytest.mark.usefixtures("small_pages")


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
    assert {path.name for path in folder.iterdir()} >= {"config.json", "state.safetensors", "history.csv", "figures"}
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"history", "reconstructions", "samples", "latent", "manifold"}
    for word in ("ELBO", "KL", "reconstruction", "bits/dim", "seconds", "counts", "history.png"):
        assert word in output
    assert len(pd.read_csv(folder / "history.csv")) == 2
    assert load_file(folder / "state.safetensors")
    results = json.loads((folder / "config.json").read_text())["results"]
    assert results["elbo"] == pytest.approx(results["reconstruction"] - results["kl"])
    assert results["bits_per_dim"] == pytest.approx(-results["elbo"] / (64 * np.log(2)))


def test_quiet_prints_nothing(tmp_path):
    done = invoke("train", "--epochs", 1, "--hidden", 8, "--no-figures", "--quiet", "--out", tmp_path / "run")
    assert (done.exit_code, done.output) == (0, "")


def test_the_commands_on_a_run(run, tmp_path):
    folder, _ = run
    done = invoke("evaluate", folder, "--method", "importance", "--num-samples", 20, "--rows", 30, "--quiet")
    assert done.exit_code == 0, done.output
    evidence = pd.read_csv(folder / "evidence-importance.csv")
    assert len(evidence) == 30
    assert (evidence["log_marginal"] >= evidence["elbo"]).mean() > 0.9
    assert invoke("sample", folder, "-n", 5, "--out", tmp_path / "s.npz").exit_code == 0
    assert np.load(tmp_path / "s.npz")["x"].shape == (5, 1, 8, 8)
    assert (tmp_path / "s.png").exists()
    assert invoke("reconstruct", folder, "--rows", 4, "--out", tmp_path / "r.npz").exit_code == 0
    assert np.load(tmp_path / "r.npz")["reconstruction"].shape == (4, 1, 8, 8)
    assert invoke("encode", folder, "--out", tmp_path / "z.npz", "--num-samples", 3).exit_code == 0
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
    done = invoke("compare", "a", "b", "--method", "importance", "--num-samples", 10, "--rows", 10)
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
    assert (
        invoke("evaluate", tmp_path, "--method", "importance", "--num-samples", 5, "--rows", 5, "--quiet").exit_code
        == 0
    )
    assert invoke("info", tmp_path).exit_code == 0


def test_resuming_takes_up_the_options_of_the_start_and_refuses_others(tmp_path):
    out = ["--out", tmp_path / "run", "--no-figures", "--no-report", "--quiet"]
    begun = ["--split-seed", 1, "--likelihood", "beta_binomial", "--beta", 4, "--dropout", 0.5, "--learning-rate", 0.01]
    begun += ["--hidden", 8, "--latent-dim", 2, "--seed", 3]
    assert invoke("train", *begun, *out, "--epochs", 1).exit_code == 0
    (tmp_path / "run" / "config.json").unlink()  # as if it had been killed
    assert invoke("train", *out, "--epochs", 2, "--resume").exit_code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: config["spec"][name] for name in ("likelihood", "dropout", "hidden", "latent_dim")} == {
        "likelihood": "beta_binomial",
        "dropout": 0.5,
        "hidden": [8],
        "latent_dim": 2,
    }
    kept = {name: config["settings"][name] for name in ("beta", "learning_rate", "split_seed", "seed", "epochs")}
    assert kept == {"beta": 4.0, "learning_rate": 0.01, "split_seed": 1, "seed": 3, "epochs": 2}
    for option, value in {"--beta": 1, "--split-seed": 0, "--hidden": "9", "--variant": "scaled"}.items():
        done = invoke("train", *out, option, value, "--epochs", 3, "--resume")
        assert done.exit_code == 2
        assert f"{option}: {tmp_path / 'run'} was begun with" in " ".join(done.output.split())
    pd.DataFrame(np.ones((50, 3)) * np.arange(50)[:, None]).to_csv(tmp_path / "rows.csv", index=False)
    done = invoke("train", tmp_path / "rows.csv", *out, "--resume")
    assert done.exit_code == 2
    assert "DATA: " in done.output
    assert set(CHANGEABLE) <= set(options_of(Training))
    again = invoke("train", *out, "--beta", 4, "--hidden", 8, "--variant", "counts", "--epochs", 3, "--resume")
    assert again.exit_code == 0, again.output  # options may be repeated


def test_a_stopped_training_keeps_what_it_was_begun_on(tmp_path):
    words = [*SMALL, "--out", tmp_path / "run"]
    assert invoke(*words).exit_code == 0
    (tmp_path / "run" / "config.json").unlink()  # as if it had been killed
    done = invoke(*words, "--split-seed", 1)
    assert done.exit_code == 2
    assert "--resume: " in done.output
    assert "resume goes on from there" in " ".join(done.output.split())
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


def test_help_lists_every_option_its_words_and_its_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = " ".join(invoke("train", "--help").output.replace("│", " ").split())
    for name, option in {**options_of(Reading), **options_of(Spec), **options_of(Training)}.items():
        if name not in ("event_shape", "columns", "covariate_columns"):
            assert f"--{name.replace('_', '-')} " in said
            assert option.help[1:] in said
            assert all(word in said for word in option.known if word)
    assert "; by default 55 for mnist, 50 or more (2,500 steps) for tables." in said
    assert "by default 128,128 for digits" in said
    assert "by default what suits the data" in said
    assert "weight of the divergence; by default 1." in said.lower()
    assert "decoupled weight decay; by default 0." in said.lower()
    assert "10 for digits, 40 for mnist, 20 for freyfaces, half the columns (2 to 10) for tables" in said
    assert "Draw figures" in said
    assert "by default yes" not in said


def test_every_command_stands_in_a_file_of_its_name():
    files = {path.stem for path in Path(pyrovae.cli.__file__).parent.glob("*.py")}
    assert set(COMMANDS) <= files
    assert all(command in invoke("--help").output for command in COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["train", "--no-such-option"]])
def test_help_and_version_need_no_torch(words):
    code = f"""
import sys
from pyrovae.cli import app
try:
    app({words!r})
except SystemExit:
    pass
print([name for name in ("torch", "pandas", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_method():
    said = " ".join(invoke("evaluate", "--help").output.replace("│", " ").split())
    *first, last = METHODS
    assert f"{', '.join(first)} or {last}." in said
    assert set(METHODS) - {"auto"} == set(REPORTED)  # which keeps the name of what it came to


def test_the_version_is_printed():
    assert invoke("--version").output == f"pyrovae {pyrovae.__version__}\n"


@pytest.mark.filterwarnings("default")
def test_evaluation_speaks_in_sentences_and_options(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = run[0]
    by_guide = ["evaluate", folder, "--method", "importance", "--num-samples", 100, "--rows", 20]
    done = invoke(*by_guide)
    assert done.exit_code == 0, done.output
    assert "k-hat > 0.50" in done.output  # the limit for 100 samples
    assert "note: importance-sampling estimates with this guide are unreliable" in done.output
    assert "search for modes (method 'mixture')" in done.output
    assert "UserWarning" not in done.output
    assert ".py:" not in done.output
    quiet = invoke(*by_guide, "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    refined = ["evaluate", folder, "--method", "refined", "--num-samples", 50, "--rows", 5]
    few, many = ((invoke(*refined, "--steps", n), pd.read_csv(folder / "evidence-refined.csv")) for n in (1, 60))
    assert few[0].exit_code == many[0].exit_code == 0
    assert many[1]["log_marginal"].mean() > few[1]["log_marginal"].mean() + 1
    annealed = invoke("evaluate", folder, "--method", "ais", "--num-samples", 4, "--steps", 3, "--rows", 5)
    assert annealed.exit_code == 0, annealed.output
    assert "k-hat" not in annealed.output  # four chains have no tail


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "importance", "--steps", 5], "--steps: the method importance takes no steps"),
        (["--method", "refined", "--steps", 0], "Invalid value for '--steps'"),
        (["--method", "exact"], "--method: method must be one of auto, importance, refined, mixture, ais"),
    ],
)
def test_steps_that_nobody_takes_are_refused(run, options, message):
    done = invoke("evaluate", run[0], *options)
    assert done.exit_code == 2
    assert message in done.output


def test_a_comparison_says_what_it_writes_and_overwrites_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "twin", ignore=shutil.ignore_patterns("checkpoints"))
    words = ["compare", run[0], "twin", "--method", "importance", "--num-samples", 5, "--rows", 5]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "table  comparison.csv\nfigure  comparison.png" in done.output
    before = Path("comparison.csv").stat().st_mtime_ns
    done = invoke(*words)
    assert done.exit_code == 2
    assert (
        "--out: comparison.csv and comparison.png would be overwritten: choose another path, or say --force"
        in done.output
    )
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
    assert re.search(r"kl_range +│ +-?\d+\.\d\d to \d+\.\d\d nats per datum", said)
    assert re.search(r"training_seconds +│ +[\d.]+ s", said)
    assert not re.search(r"\d\.\d{7}", said)


@pytest.mark.filterwarnings("default")
def test_a_table_without_a_variant_has_a_plain_title(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = np.random.default_rng(0).normal(size=(60, 3))
    pd.DataFrame(rows, columns=list("abc")).to_csv(tmp_path / "[b]rows.csv", index=False)
    words = ["train", tmp_path / "[b]rows.csv", *SMALL[1:], "--out", tmp_path / "run"]
    assert invoke(*words).exit_code == 0
    done = invoke("evaluate", tmp_path / "run", "--num-samples", 5)
    assert "[b]rows.csv, 6 test rows, mixture: nats per datum" in done.output
    assert (tmp_path / "run" / "evidence-mixture.csv").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "nonsense"], 2, "expected one of digits, mnist, freyfaces"),
        (["train", "--prior", "nonsense"], 2, "--prior: prior must be one of"),
        (["train", "--matmul-precision", "low"], 2, "--matmul-precision: matmul_precision must be one of highest"),
        (["train", "--dropout", 1], 2, "--dropout: dropout must be a probability in [0, 1)"),
        (["train", "--scale", "learnt"], 2, "--scale: scale must be a positive number"),
        (["train", "--latent-dim", "x"], 2, "Invalid value for '--latent-dim'"),
        (["train", "--likelihood", "bernoulli", "--epochs", 1], 2, "outside the support of Bernoulli"),
        (["train", "--variant", "grey"], 2, "counts"),
        (["train", "--epochs", 0], 2, "epochs must be at least 1, got 0"),
        (["train", "--hidden", "a,b"], 2, "expected integers with commas between them"),
        (["train", "--learning-rate", -1], 2, ""),
        (["train", "--resume"], 2, "--resume: give --out, the folder of the run that was stopped"),
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


def test_ten_rows_are_enough_to_split_and_nine_are_not(tmp_path):
    for rows in (9, 10):
        table = np.random.default_rng(0).normal(size=(rows, 2))
        np.savetxt(tmp_path / f"{rows}.csv", table, delimiter=",", header="a,b", comments="")
    done = invoke("train", tmp_path / "9.csv", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "DATA: 9 rows cannot be split" in " ".join(done.output.split())
    done = invoke("train", tmp_path / "10.csv", *SMALL[1:-1], "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "nan" not in done.output


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


def test_epochs_are_told_in_lines_where_there_is_no_terminal(run):
    lines = [line for line in run[1].splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all(re.search(r"ELBO -\d+\.\d\d, validation -\d+\.\d\d nats per datum", line) for line in lines)


def test_tables_fit_eighty_columns(run, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "twin", ignore=shutil.ignore_patterns("checkpoints"))
    outputs = [run[1], invoke("info", run[0]).output, invoke("data").output]
    commands = (["evaluate", run[0]], ["compare", run[0], "twin"])
    outputs += [invoke(*words, "--method", "importance", "--num-samples", 30).output for words in commands]
    for output in outputs:
        table = [line for line in output.splitlines() if line[:1] in "┏┡└│┃"]
        assert table
        assert max(map(len, table)) <= 80
        assert "…" not in output


def test_fewer_rows_do_not_replace_the_estimates_of_more(run):
    folder = run[0]
    kept = folder / "evidence-importance.csv"
    for path in (kept, kept.with_suffix(".json")):
        path.unlink(missing_ok=True)
    more = ["evaluate", folder, "--method", "importance", "--num-samples", 5]
    assert invoke(*more, "--rows", 6, "--quiet").exit_code == 0
    fewer = invoke(*more, "--rows", 5)
    assert fewer.exit_code == 0
    assert "keeps its estimates of 6 rows by this method: --out keeps these as well" in " ".join(fewer.output.split())
    assert len(pd.read_csv(kept)) == 6
    assert invoke(*more, "--rows", 5, "--out", folder / "few.csv").exit_code == 0
    assert (len(pd.read_csv(folder / "few.csv")), len(pd.read_csv(kept))) == (5, 6)
    assert invoke(*more, "--rows", 6).exit_code == 0  # as many replace them
    assert invoke(*more, "--rows", 7).exit_code == 0
    assert len(pd.read_csv(kept)) == 7


def test_a_run_that_cannot_be_written_is_evaluated_nevertheless(run, monkeypatch, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "run")
    before = sorted(copy.rglob("*"))
    monkeypatch.setattr("pyrovae.cli.evaluate.why_not_writable", lambda folder: "Read-only file system")
    done = invoke("evaluate", copy, "--method", "importance", "--num-samples", 5, "--rows", 5)
    assert done.exit_code == 0
    assert "log p(x)" in done.output
    assert "cannot be written (Read-only file system), so the estimates are not kept" in " ".join(done.output.split())
    assert invoke("evaluate", copy, "--num-samples", 5, "--rows", 5, "--out", tmp_path / "e.csv").exit_code == 0
    assert len(pd.read_csv(tmp_path / "e.csv")) == 5
    assert sorted(copy.rglob("*")) == before


@pytest.mark.filterwarnings("default")
def test_encoding_takes_the_variant_that_the_run_was_trained_on(tmp_path):
    assert invoke(*SMALL, "--variant", "scaled", "--out", tmp_path / "run").exit_code == 0
    assert invoke("encode", tmp_path / "run", "digits", "--out", tmp_path / "z.npz").exit_code == 0
    x = pyrovae.data.load("digits", "scaled").x
    expected = load(tmp_path / "run").encode(x).numpy()
    assert np.array_equal(np.load(tmp_path / "z.npz")["z"], expected)


def test_a_page_is_not_replaced_by_a_poorer_one(tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=list("abc"))
    table.to_csv(tmp_path / "t.csv", index=False)
    assert invoke("train", tmp_path / "t.csv", *SMALL[1:], "--out", tmp_path / "run").exit_code == 0
    page = tmp_path / "run" / "report.html"
    assert invoke("report", tmp_path / "run", "--quiet").exit_code == 0
    full, rows = page.read_bytes(), rows_shown(page)
    assert rows > 2
    done = invoke("report", tmp_path / "run", "--rows", rows - 1, "--quiet")
    assert done.exit_code == 2
    assert f"shows the evidence of {rows} rows, more than {rows - 1}" in " ".join(done.output.split())
    assert page.read_bytes() == full
    assert invoke("report", tmp_path / "run", "--rows", rows, "--quiet").exit_code == 0  # as rich a page replaces it
    full = page.read_bytes()
    (tmp_path / "t.csv").unlink()
    done = invoke("report", tmp_path / "run", "--quiet")
    assert done.exit_code == 2
    assert "may hold more than this page would" in " ".join(done.output.split())
    assert page.read_bytes() == full
    assert invoke("report", tmp_path / "run", "--quiet", "--force").exit_code == 0
    assert page.read_bytes() != full
    assert rows_shown(page) == 0


def test_a_posterior_is_written_on_request_and_its_size_said_before(run, monkeypatch):
    folder = run[0]
    monkeypatch.setattr(pyrovae, "diagnose", partial(pyrovae.diagnose, num_samples=200, num_simulations=100))
    assert invoke("diagnose", folder, "--rows", 20, "--quiet").exit_code == 0
    assert (folder / "report.txt").exists()
    assert not (folder / "posterior.nc").exists()
    done = invoke("diagnose", folder, "--rows", 20, "--posterior", 30)
    assert done.exit_code == 0, done.output
    said = float(re.search(r"posterior.nc will take about (\d+) MB for 30 rows", done.output)[1])
    assert (folder / "posterior.nc").stat().st_size / 1e6 == pytest.approx(said, rel=0.5, abs=0.6)


def test_a_folder_in_use_is_refused_and_an_interrupted_training_is_kept_and_ends_with_code_130(tmp_path):
    np.savetxt(
        tmp_path / "t.csv", np.random.default_rng(0).normal(size=(60, 3)), delimiter=",", header="a,b,c", comments=""
    )
    words = ["train", str(tmp_path / "t.csv"), "--epochs", "100000", "--no-figures", "--no-report"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pyrovae", *words, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert any(line.startswith("epoch 1 of 100000: ") for line in process.stdout)  # training has begun
        second = invoke(*words[:2], "--epochs", 1, "--out", tmp_path / "run")
        assert second.exit_code == 1
        assert "is in use by process" in " ".join(second.output.split())
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "--resume goes on from there" in " ".join(output.split())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["results"]["ended"] == "interrupted"


def test_a_training_interrupted_in_its_first_epoch_ends_with_code_130(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.cli.train._fit", lambda *_: pyrovae.training.History(ended="interrupted"))
    done = invoke(*SMALL, "--out", tmp_path / "run")
    assert (done.exit_code, done.output) == (130, "pyrovae: interrupted\n")
    assert not (tmp_path / "run" / "config.json").exists()


def test_columns_of_a_table_are_matched_by_name(tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 3)) * [1, 10, 100]
    table = pd.DataFrame(rows, columns=["a", "b", "c"])
    table.to_csv(tmp_path / "t.csv", index=False)
    table[["c", "a", "b"]].to_csv(tmp_path / "other.csv", index=False)
    table.rename(columns={"c": "d"}).to_csv(tmp_path / "wrong.csv", index=False)
    assert invoke("train", tmp_path / "t.csv", *SMALL[1:], "--out", tmp_path / "run").exit_code == 0
    for name in ("t", "other"):
        assert (
            invoke("encode", tmp_path / "run", tmp_path / f"{name}.csv", "--out", tmp_path / f"{name}.npz").exit_code
            == 0
        )
    assert np.array_equal(np.load(tmp_path / "t.npz")["z"], np.load(tmp_path / "other.npz")["z"])
    done = invoke("encode", tmp_path / "run", tmp_path / "wrong.csv", "--out", tmp_path / "wrong.npz")
    assert done.exit_code == 2
    assert "expected a column 'c' in the table" in done.output
    assert not (tmp_path / "wrong.npz").exists()


@pytest.mark.filterwarnings("default")
def test_a_damaged_file_of_progress_is_begun_anew(run):
    (run[0] / ".evaluate-importance").mkdir()
    (run[0] / ".evaluate-importance" / "00000000.safetensors").write_bytes(b"PK\x03\x04" + b"x" * 99)
    done = invoke("evaluate", run[0], "--method", "importance", "--num-samples", 5, "--rows", 5)
    assert done.exit_code == 0, done.output
    assert "is damaged: the work on its rows begins anew" in " ".join(done.output.split())


def own_table(rows=60):
    rng = np.random.default_rng(0)
    z = rng.normal(size=rows)
    frame = {
        "length [mm]": 1e-3 * (5 + z),
        "income": np.exp(10 + z),
        "visits": rng.poisson(np.exp(1 + z)),
        "smoker": (z > 0).astype(int),
        "color": rng.choice(["red", "blue"], rows),
        "clinic": 1 + np.arange(rows) % 12,
        "one": 1,
    }
    return pd.DataFrame(frame).astype(object).mask(rng.random((rows, 7)) < [0.1] * 5 + [0, 0])


def test_a_table_of_ones_own_is_read_by_kinds_and_moves_with_its_run(tmp_path):
    path, moved = tmp_path / "my.csv", tmp_path / "moved.csv"
    own_table().to_csv(path, index=False)
    words = ["train", path, "--epochs", 2, "--latent-dim", 2, "--no-figures", "--no-report", "--out", tmp_path / "run"]
    words += ["--kinds", "visits=count,length [mm]=bounded:0:1", "--groups", "clinic", "--weights", "clinic"]
    done = invoke(*words, "--labels", "color")
    assert done.exit_code == 0, done.output
    assert "left out, since they hold one value or none: one" in done.output
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.output.splitlines()]
    assert ["weight", "weights (clinic)", "0.153846 to 1.84615, mean 1", "0%"] in lines
    assert ["clinic", "groups", "12 distinct", "0%"] in lines
    assert [line[:3] for line in lines if line[:1] == ["color"]] == [["color", "labels", "blue, red"]]
    kept = Run.read(tmp_path / "run").config
    assert kept["data"]["kinds"] == {
        "length [mm]": "bounded:0:1",
        "income": "positive",
        "visits": "count",
        "smoker": "binary",
    }
    assert [column["kind"] for column in kept["spec"]["columns"]] == ["bounded", "positive", "count", "binary"]
    path.rename(moved)
    lost = invoke("evaluate", tmp_path / "run", "--num-samples", 5, "--quiet")
    assert lost.exit_code == 2
    assert "say where by data" in lost.output
    words = ["evaluate", tmp_path / "run", "--data", moved, "--num-samples", 5, "--quiet"]
    assert invoke(*words).exit_code == 0
    own_table().iloc[1:].to_csv(tmp_path / "cut.csv", index=False)
    changed = " ".join(invoke("evaluate", tmp_path / "run", "--data", tmp_path / "cut.csv").output.split())
    assert "the data 'cut.csv', once 'my.csv', is no longer what" in changed
    other = own_table().iloc[:5, 4::-1]
    other.to_csv(tmp_path / "later.csv", index=False)
    done = invoke("encode", tmp_path / "run", tmp_path / "later.csv", "--out", tmp_path / "z.npz")
    assert done.exit_code == 0, done.output
    other.iloc[:, ::-1].to_csv(tmp_path / "same.csv", index=False)
    assert invoke("encode", tmp_path / "run", tmp_path / "same.csv", "--out", tmp_path / "same.npz").exit_code == 0
    found, same = (np.load(tmp_path / name)["z"] for name in ("z.npz", "same.npz"))
    assert found.shape == (5, 2)
    assert np.array_equal(found, same)  # columns in another order


@pytest.mark.parametrize(("likelihood", "kind"), [("normal", "real"), ("student_t", "student_t")])
def test_a_likelihood_that_is_a_kind_is_that_of_all_columns(tmp_path, likelihood, kind):
    own_table()[["length [mm]", "smoker"]].to_csv(tmp_path / "t.csv", index=False)
    words = ["--epochs", 1, "--no-figures", "--no-report", "--out", tmp_path / "run"]
    done = invoke("train", tmp_path / "t.csv", "--likelihood", likelihood, *words)
    assert done.exit_code == 0, done.output
    assert {column["kind"] for column in Run.read(tmp_path / "run").config["spec"]["columns"]} == {kind}


def test_ids_of_groups_and_labels_do_not_reach_the_run(tmp_path):
    frame = own_table()[["income", "color"]].assign(person=[f"Ann {number // 3}" for number in range(60)])
    frame.fillna({"color": "red"}).assign(kind=["Zoe", "Max"] * 30).to_csv(tmp_path / "t.csv", index=False)
    words = [
        "--groups",
        "person",
        "--labels",
        "kind",
        "--covariates",
        "color",
        "--epochs",
        1,
        "--out",
        tmp_path / "run",
    ]
    done = invoke("train", tmp_path / "t.csv", *words, "--no-figures", "--no-report")
    assert done.exit_code == 0, done.output
    assert Run.read(tmp_path / "run").config["data"]["levels"] == {"color": ["blue", "red"]}
    assert invoke("evaluate", tmp_path / "run", "--num-samples", 5, "--quiet").exit_code == 0
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert kept
    assert not any(name in path.read_bytes() for path in kept for name in (b"Ann", b"Zoe"))


def test_rows_of_a_group_are_never_split(tmp_path):
    own_table().to_csv(tmp_path / "t.csv", index=False)
    data = pyrovae.data.load(tmp_path / "t.csv", kinds={}, groups="clinic", drop=["one"])
    parts = [set(part.labels["clinic"].tolist()) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == 12
    assert len(data.train) + len(data.validation) + len(data.test) == 60
    assert len(data.test) in (5, 6)
    assert (data.keys, data.label) == (("clinic",), None)
    assert pyrovae.data.load(tmp_path / "t.csv", kinds={}, groups="clinic", labels="clinic").keys == ()
    with pytest.raises(ValueError, match="expected more groups than 2"):
        pyrovae.data.load(tmp_path / "t.csv", kinds={}, groups="one")


def dated(rows=60):
    """Rows in no order, five of each day, written the way that does not sort as text."""
    days = pd.Timestamp("2024-01-20") + pd.to_timedelta(np.random.default_rng(0).permutation(rows) // 5, "D")
    return own_table(rows)[["length [mm]", "visits"]].assign(day=days.strftime("%d %b %Y"))


def test_the_last_rows_are_the_test_where_a_time_is_given(tmp_path):
    dated().to_csv(tmp_path / "t.csv", index=False)
    data = pyrovae.data.load(tmp_path / "t.csv", kinds={}, time="day")
    assert data.columns == ("length [mm]", "visits")
    days = [part.labels["day"] for part in (data.train, data.validation, data.test)]
    assert [sorted(set(part.tolist())) for part in days] == [list(range(10)), [10], [11]]
    assert [len(part) for part in days] == [50, 5, 5]
    done = invoke("train", tmp_path / "t.csv", "--time", "day", "--epochs", 1, "--no-report", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert Run.read(tmp_path / "run").config["settings"]["time"] == "day"
    for name, words in (
        ("length [mm]", "of time 'length .mm.' in each row, got none in line [0-9]+: fill it in, or drop the row"),
        ("color", "numbers or dates written in one way, got 'color'"),
    ):
        own_table().to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ValueError, match=words):
            pyrovae.data.load(tmp_path / "t.csv", kinds={}, drop=["one"], time=name)


def test_rows_are_split_by_groups_or_by_time_in_python():
    data = pyrovae.data.as_data(torch.arange(40.0)[:, None], labels={"site": ["a", "b", "c", "d"] * 10})
    first, second = pyrovae.data.split(data, 0.25, groups="site")
    assert set(first.labels["site"].tolist()).isdisjoint(second.labels["site"].tolist())
    times = pd.date_range("2024-01-01", periods=40)[::-1]
    first, second = pyrovae.data.split(data, 0.25, time=times)
    assert second.x[:, 0].tolist() == list(range(10))
    written = pd.Series(times.strftime("%d.%m.%Y"))  # text, which sorts in another order
    assert torch.equal(pyrovae.data.split(data, 0.25, time=written)[1].x, second.x)
    shuffled = pd.Series(range(40)).sample(frac=1, random_state=0)
    named = pyrovae.data.as_data(pd.DataFrame({"x": range(40)}))
    assert pyrovae.data.split(named, 0.25, time=shuffled)[1].x[:, 0].tolist() == list(range(30, 40))
    abroad = [
        str(time) for time in pd.date_range("2020-10-24", periods=40, freq="h", tz="Europe/Berlin")
    ]  # a clock change
    for given in (list(map(str, range(40))), abroad):
        assert pyrovae.data.split(data, 0.25, time=given)[1].x[:, 0].tolist() == list(range(30, 40))
    with pytest.raises(ValueError, match="one value per row"):
        pyrovae.data.split(data, 0.25, time=times[:3])
    with pytest.raises(ValueError, match="got 'time', which holds 'x'"):
        pyrovae.data.split(data, 0.25, time=["x"] * 40)


def test_groups_with_times_stay_whole_in_the_order_of_their_last_rows(tmp_path):
    frame = pd.DataFrame({"x": np.arange(40) ** 0.5, "site": ["d", "a", "c", "b"] * 10, "hour": range(40)})
    frame.loc[frame["site"] == "a", "hour"] += 100  # its rows are the last
    frame.loc[2, "hour"] = 99  # one row of c comes late, so that c does
    data = pyrovae.data.as_data(frame[["x"]], labels=frame[["site", "hour"]])
    for time in ("hour", frame["hour"]):
        first, second = pyrovae.data.split(data, 0.5, groups="site", time=time)
        assert [set(part.labels["site"].tolist()) for part in (first, second)] == [{1, 3}, {0, 2}]  # b, d; a, c
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "t.csv", index=False)
    read = pyrovae.data.load(tmp_path / "t.csv", kinds={}, groups="site", time="hour")
    assert read.columns == ("x",)
    parts = [
        {read.levels["site"][code] for code in part.labels["site"]} for part in (read.train, read.validation, read.test)
    ]
    assert parts == [{"b", "d"}, {"c"}, {"a"}]


@pytest.mark.parametrize(("each", "refused"), [(4, True), (5, False)])
def test_a_column_of_many_levels_is_an_id_unless_its_kind_is_named(tmp_path, each, refused):
    frame = own_table(25 * each)[["income"]].assign(person=[f"p{number // each}" for number in range(25 * each)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["train", tmp_path / "t.csv", "--epochs", 1, "--no-figures", "--no-report", "--out"]
    done = invoke(*words, tmp_path / "run")
    assert done.exit_code == (2 if refused else 0), done.output
    assert (
        "25 distinct in 100 rows: make it the index, keep the rows of one id" in " ".join(done.output.split())
    ) == refused
    for number, remedy in enumerate((["--drop", "person"], ["--groups", "person"], ["--kinds", "person=category"])):
        done = invoke(*words, tmp_path / f"remedy{number}", *remedy)
        assert done.exit_code == 0, done.output
        kinds = Run.read(tmp_path / f"remedy{number}").config["data"]["kinds"]
        assert kinds.get("person") == ("category" if number == 2 else None)


def test_covariates_of_a_table_condition_encoder_and_decoder(tmp_path):
    own_table().to_csv(tmp_path / "t.csv", index=False)
    words = ["--covariates", "clinic,one", "--drop", "color", "--epochs", 1, "--no-figures", "--no-report"]
    done = invoke("train", tmp_path / "t.csv", *words, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "'one' is constant" in done.output
    words[1] = "clinic"
    done = invoke("train", tmp_path / "t.csv", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    vae = load(tmp_path / "run")
    assert vae.covariate_names == ("clinic",)
    assert invoke("sample", tmp_path / "run", "-n", 7).exit_code == 0
    drawn = pd.read_csv(tmp_path / "run" / "samples.csv")
    assert list(drawn) == ["length [mm]", "income", "visits", "smoker"]
    assert set(drawn["smoker"]) <= {0, 1}
    own_table().drop(columns=["color", "one"]).to_csv(tmp_path / "later.csv", index=False)
    assert invoke("encode", tmp_path / "run", tmp_path / "later.csv", "--out", tmp_path / "z.npz").exit_code == 0


def test_missing_entries_are_filled_once_and_several_times(tmp_path):
    rng = np.random.default_rng(0)
    size = rng.normal(170, 10, 80)
    frame = pd.DataFrame(
        {"size": size, "weight": size - 100 + rng.normal(0, 5, 80), "pet": rng.choice(["cat", "dog"], 80)}
    )
    frame["visits"], frame["room"] = rng.poisson(30, 80), rng.integers(1, 90, 80)
    frame = frame.mask(rng.random(frame.shape) < 0.2).assign(name=[f"person {number}" for number in range(80)])
    frame.astype({"visits": "Int64", "room": "Int64"}).to_csv(tmp_path / "t.csv", index=False)
    words = ["--epochs", 2, "--hidden", 8, "--latent-dim", 2, "--drop", "name,room", "--no-figures", "--no-report"]
    done = invoke("train", tmp_path / "t.csv", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    impute = ["impute", tmp_path / "run", tmp_path / "t.csv", "--out", tmp_path / "filled.csv"]
    done = invoke(*impute, "--tables", 2, "--num-samples", 20)
    assert done.exit_code == 0, done.output
    missing = frame.drop(columns="room").isna().sum().sum()
    assert f"{missing} missing entries of 80 rows" in done.output
    made = [pd.read_csv(tmp_path / f"filled{end}.csv") for end in ("", "-1", "-2")]
    seen = frame.notna()
    for table in made:
        pd.testing.assert_frame_equal(table.where(seen), frame)  # what was observed stays, columns beside the model too
        assert table.drop(columns="room").notna().all(axis=None)
        assert set(table["pet"]) == {"cat", "dog"}
    assert (made[1]["size"] != made[2]["size"])[~seen["size"]].all()
    for end, whole in (("", seen["visits"]), ("-1", slice(None))):  # means are no integers, draws are
        written = pd.read_csv(tmp_path / f"filled{end}.csv", dtype=str)
        assert written["visits"].str.fullmatch(r"\d+")[whole].all()
        assert written["room"].dropna().str.fullmatch(r"\d+").all()
    cells = pd.read_csv(tmp_path / "filled-cells.csv")
    assert len(cells) == missing
    numbers = cells[cells["column"] != "pet"]
    assert numbers["estimate"].astype(float).between(numbers["low"], numbers["high"]).mean() > 0.9
    assert cells.loc[cells["column"] == "pet", "probability"].between(0.5, 1.0).all()
    before = made[0]
    done = invoke(*impute)
    assert (done.exit_code, "--force" in done.output) == (2, True)
    assert invoke(*impute, "--force", "--num-samples", 20, "--quiet").output == ""
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "filled.csv"), before)
    frame.assign(pet=None, size=None, visits=None).to_csv(
        tmp_path / "none.csv", index=False
    )  # not one entry of three columns
    done = invoke("impute", tmp_path / "run", tmp_path / "none.csv", "--out", tmp_path / "all.csv", "--num-samples", 20)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "all.csv")
    assert set(table["pet"]) <= {"cat", "dog"}
    assert table.drop(columns="room").notna().all(axis=None)


def test_errors_about_rows_of_a_file_name_its_lines(tmp_path):
    rows = [f"{number}.5,{'ab'[number % 2]}" for number in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["x,pet", "", *rows]))  # a blank line
    words = ["--epochs", 1, "--no-figures", "--no-report", "--out", tmp_path / "run"]
    done = invoke("train", tmp_path / "t.csv", *words)
    assert done.exit_code == 0, done.output
    for place, row, says in (
        (0, "1.5,c", "'pet' has the level 'c' in line 3"),
        (1, '"1,5",a', "text among numbers, '1,5' in line 4"),
        (19, "inf,a", "the first in line 22"),
    ):
        later = [*rows[:place], row, *rows[place + 1 :]]
        (tmp_path / "later.csv").write_text("\n".join(["x,pet", "", *later]))
        done = invoke("encode", tmp_path / "run", tmp_path / "later.csv", "--out", tmp_path / "z.npz")
        assert done.exit_code == 2
        assert says in " ".join(done.output.split())
    (tmp_path / "later.csv").write_text(
        "\n".join(["x,pet,day", "", *(f"{row},{len(row) if k else ''}" for k, row in enumerate(rows))])
    )
    with pytest.raises(ValueError, match=r"later.csv: expected a value of time 'day' in each row, got none in line 3"):
        pyrovae.data.load(tmp_path / "later.csv", kinds={}, time="day")


def test_a_table_without_holes_is_not_imputed(tmp_path):
    own_table()[["length [mm]", "smoker"]].dropna().to_csv(tmp_path / "t.csv", index=False)
    done = invoke("train", tmp_path / "t.csv", "--epochs", 1, "--no-figures", "--no-report", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    done = invoke("impute", tmp_path / "run", tmp_path / "t.csv", "--out", tmp_path / "filled.csv")
    assert done.exit_code == 2
    assert "nothing to impute" in done.output


def test_strange_rows_are_found_from_a_run_folder_alone(tmp_path):
    rng = np.random.default_rng(0)
    size = rng.normal(170, 10, 400)
    frame = pd.DataFrame({"size": size, "weight": size - 100 + rng.normal(0, 5, 400)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["--epochs", 30, "--hidden", 8, "--latent-dim", 1, "--no-figures", "--no-report", "--out", tmp_path / "run"]
    assert invoke("train", tmp_path / "t.csv", *words).exit_code == 0
    later = pd.DataFrame({"size": rng.normal(170, 1, 20), "weight": rng.normal(70, 2, 20)})
    later.loc[13, "weight"] = 250.0
    later.to_csv(tmp_path / "later.csv", index=False)
    detect = ["detect", tmp_path / "run", tmp_path / "later.csv", "--num-samples", 50]
    done = invoke(*detect, "--explain", 1, "--fdr", 0.5, "--rows-per-day", 1000, "--cost", 2)
    assert done.exit_code == 0, done.output
    assert "1000 a day, 2 for each alarm" in done.output
    assert "48.78" in done.output.split("for each alarm")[1]  # 2 of 41 p-values are at most .05
    assert "40 calibration rows; to discover a single one of 20 rows it takes 39" in done.output
    table = pd.read_csv(tmp_path / "run" / "anomalies.csv")
    assert table["row"].iloc[0] == 13
    assert bool(table["discovered"].iloc[0])
    assert "weight" in table["features"].iloc[0]
    done = invoke(*detect, "--calibration", tmp_path / "t.csv")
    assert (done.exit_code, "--calibration: 320 of 400 rows are training rows" in done.output) == (2, True)
    (tmp_path / "t.csv").rename(tmp_path / "elsewhere.csv")
    done = invoke(*detect)
    assert (done.exit_code, "say where by data" in done.output) == (2, True)
    done = invoke(*detect, "--calibration", tmp_path / "elsewhere.csv")
    assert (done.exit_code, "cannot be recognized" in done.output) == (0, True)
    assert invoke(*detect, "--data", tmp_path / "elsewhere.csv", "--quiet").output == ""
    out = tmp_path / "found.csv"
    assert invoke(*detect, "--data", tmp_path / "elsewhere.csv", "--window", 2, "--out", out).exit_code == 0
    assert len(pd.read_csv(out)) == 10
    assert "--force" in invoke(*detect, "--data", tmp_path / "elsewhere.csv", "--out", out).output
    assert "--out: the output must end in .csv" in invoke(*detect, "--out", tmp_path / "found.txt").output
    ratio = ["--score", "likelihood_ratio", "--calibration", tmp_path / "elsewhere.csv"]
    assert "--background: " in invoke(*detect, *ratio).output
    assert invoke(*detect, *ratio, "--background", tmp_path / "run").exit_code == 0
    assert pd.read_csv(tmp_path / "run" / "anomalies.csv")["score"].abs().max() < 3  # against itself nothing is strange


def test_labels_with_holes_are_described_by_what_they_hold():
    labels = {"age": torch.tensor([30.0, torch.nan, 50.0]), "dose": torch.full((3,), torch.nan)}
    data = pyrovae.data.as_data(pd.DataFrame({"x": [0.0, 1.0, 3.0]}), labels=labels, kinds={})
    rows = {name: (shown, missing) for name, _, shown, missing in kinds_table(data, {"age": "labels"})[1]}
    assert rows == {
        "x": ("0 to 3, mean 1.333", "0%"),
        "age": ("30 to 50, mean 40", "33%"),
        "dose": ("none", "100%"),
    }


def test_columns_beyond_forty_are_counted():
    frame = pd.DataFrame({f"c{number}": np.arange(30.0) + 0.5 for number in range(41)}).assign(pet=["cat", "dog"] * 15)
    few, many = frame.iloc[:, :40], frame
    heads, cells = kinds_table(pyrovae.data.as_data(few, kinds={}), {})
    assert (heads[1], len(cells), cells[-1][:2]) == ("kind", 40, ["c39", "real"])
    _, cells = kinds_table(pyrovae.data.as_data(many, kinds={}), {})
    assert cells[40:] == [["2 more", "", "1 real, 1 binary", "0%"]]


def test_a_number_of_latents_is_chosen(tmp_path):
    words = ["choose", "digits", "--latent-dim", "1..2", "--budget", 8, "--refits", 2, "--method", "importance"]
    words += ["--out", tmp_path / "choice"]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "latent_dim=" in done.output
    assert pd.read_csv(tmp_path / "choice" / "choice.csv")["model"].str.contains("latent_dim=[12]").all()
    assert (tmp_path / "choice" / "choice.png").exists()
    trainings = {path: path.stat().st_mtime_ns for path in (tmp_path / "choice").glob("*.npz")}
    assert len(trainings) == 4
    assert invoke(*words).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "choice").glob("*.npz")} == trainings
    assert "--latent-dim: expected numbers" in invoke("choose", "digits", "--latent-dim", "two").output
