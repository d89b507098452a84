"""The report of a run: what it says, that it says it safely, and that a browser needs nothing else to show it."""

import csv
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import pyrovae as pvae
from pyrovae.checks.findings import Finding, some_rows
from pyrovae.cli import app
from pyrovae.data.splits import parts_of_rows
from pyrovae.files import DamagedError
from pyrovae.files.config import sealed
from pyrovae.report.evidence import Evidence, Mean, read_evaluated, remembered
from pyrovae.report.page import RunPage, shown_value
from pyrovae.report.pictures import draw_figures, view_pictures
from pyrovae.report.render import signed
from pyrovae.report.snippet import fit_snippet, load_snippet
from pyrovae.report.subject import read_subject
from pyrovae.report.views import views

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
pytestmark = pytest.mark.usefixtures("small_pages")
VOID = {"meta", "br", "hr", "img", "link", "input"}


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def train(folder, *words):
    done = invoke("train", "--epochs", 3, "--hidden", 16, "--latent-dim", 3, "--no-figures", "--out", folder, *words)
    assert done.exit_code == 0, done.output
    return folder, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that `pyrovae train` made, with its report."""
    return train(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "mixture", "--prior", "mixture", "--no-report")[0]


@pytest.fixture(scope="module")
def versus(run, other, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "comparison.html"
    done = invoke("report", run[0], other, "--out", path, "--rows", 20)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "report.html"))


def rewrite(folder, **changes):
    """Change the config as someone who knows the checksum could."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if key != "sha256"}
    (folder / "config.json").write_text(json.dumps(sealed(config)))


class Page(HTMLParser):
    """The elements of a page: balanced, with their attributes, and the text between them."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(path):
    return Page(Path(path).read_text(encoding="utf-8"))


# What it says


def test_training_writes_the_report_and_says_where(run):
    folder, output = run
    assert "report.html" in output
    page = page_of(folder / "report.html")
    config = json.loads((folder / "config.json").read_text())
    results = config["results"]
    for words in (
        "digits (counts)",
        "standard normal prior, a binomial likelihood and a normal posterior",
        "3 latent dimensions",
        f"{results['elbo']:.2f}".replace("-", "−"),
        f"± {results['elbo_error']:.2f}",
        f"{results['bits_per_dim']:.3f}",
        "359 test rows",
        "Held-out log p(x)",
        "nats per datum",
        "Monte-Carlo error of the mean",
        "validation rows 180",
        f"batch size {config['settings']['batch_size']}",
        config["versions"]["torch"],
        " ".join(config["command"][:2]),
        "k-hat is above",
        "Simulation-based calibration",
    ):
        assert words in page.text, words


def test_the_option_leaves_it_out(other):
    assert not (other / "report.html").exists()


def test_every_line_of_evidence_names_the_variant(run):
    source = (run[0] / "report.html").read_text(encoding="utf-8")
    evidence = re.search(r'<section id="evidence".*?</table>', source, re.DOTALL)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", evidence)[1:]
    assert len(rows) >= 7
    assert all(row.endswith("<td>counts</td>") for row in rows)


def test_a_warm_up_is_shown_where_it_was_in_force(copy):
    assert not re.search("(?<!beta )warm up", page_of(pvae.write_report(copy, rows=10)).text)
    config = json.loads((copy / "config.json").read_text())
    rewrite(copy, settings={**config["settings"], "learning_rate": 0.01})
    assert re.search("(?<!beta )warm up 0.1", page_of(pvae.write_report(copy, rows=10)).text)


def test_the_numbers_are_those_of_the_library(run):
    subject = read_subject(run[0])
    page = RunPage(subject, rows=20)
    rows = subject.data.test[torch.randperm(359, generator=torch.Generator().manual_seed(0))[:20].sort().values]
    expected = pvae.log_marginal(subject.vae, rows, method="importance", num_samples=1000, seed=0, progress=False)
    assert "unreliable" in expected.attrs["notes"]
    mean = page.evidence.lines["log p(x), importance sampling"]
    assert mean.value == pytest.approx(float(expected["log_marginal"].mean()), abs=1.0)
    assert mean.error == pytest.approx(float(expected["log_marginal"].std(ddof=1)) / 20**0.5, rel=0.1)
    assert mean.mcse == pytest.approx(float(np.sqrt((expected["mcse"] ** 2).mean() / 20)), rel=0.5)
    assert page.evidence.test["elbo"].value == subject.results["elbo"]
    whole = page.evidence.log_marginal
    gap = mean.value - page.evidence.lines["ELBO of the same rows"].value
    assert whole.value == pytest.approx(page.evidence.test["elbo"].value + gap)
    assert whole.rows == 359
    assert page.skipped == {}
    measured = {line[0]: line[1] for line in page.numbers}
    assert "median k-hat" in measured
    assert not {"ELBO", "log p(x)", "KL"} & set(measured)  # which have one value, in the table of evidence
    assert measured["SBC p-value (Bonferroni)"] == "< 0.001"


def estimates(elbo, log_p, k=0.2, **attributes):
    rows = len(elbo)
    columns = {"elbo": elbo, "log_marginal": log_p, "mcse": np.full(rows, 0.01), "pareto_k": np.full(rows, k)}
    attributes = {"num_samples": 1000, **attributes}
    return xr.Dataset({name: ("data", values) for name, values in columns.items()}, attrs=attributes)


def test_every_figure_of_a_run_says_what_it_shows(run):
    subject = read_subject(run[0])
    drawn = draw_figures(subject.vae, subject.data.test[:50], subject.run.history, None, 0)
    titles = {name: figure.axes[0].get_title(loc="left") for name, figure in drawn.items()}
    assert titles["samples"] == "Means of the likelihood at 50 draws of the prior."
    assert "posterior means" in titles["reconstructions"]
    assert titles["latent"] == "50 data by their 3 dimensions; larger dots: wider posteriors"
    assert all(titles.values())


def test_few_rows_stand_for_all_by_their_gap():
    """Of rows whose ELBO and gap are known: unbiased, and its standard error is that of repetitions."""
    generator = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(2000):
        elbo = generator.normal(-100.0, 10.0, size=300)
        log_p = 0.9 * elbo - 5.0 + generator.normal(0.0, 1.0, size=300)
        some = generator.permutation(300)[:40]
        own = estimates(elbo[some], log_p[some])
        whole = Evidence({"elbo": Mean.of(elbo, 10)}, own).log_marginal
        found.append(whole.value)
        errors.append(whole.error)
    assert np.mean(found) == pytest.approx(-95.0, abs=4 * np.std(found) / 2000**0.5)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.07)  # 1.6 % by chance


def kept(method, rows, k, gap=3.0):
    elbo = np.linspace(-110.0, -90.0, rows)
    return estimates(elbo, elbo + gap, k, method=method, file=f"evidence-{method}.csv")


def own(rows, k=0.9):
    elbo = np.linspace(-110.0, -90.0, rows)
    return estimates(elbo, elbo + 1.0, k)


@pytest.mark.parametrize(
    ("found", "gap", "is_low"),
    [
        ({"own": own(40)}, 1.0, True),
        ({"own": own(40, k=0.2)}, 1.0, False),
        ({"own": own(40), "kept": kept("refined", 20, 0.2)}, 3.0, False),
        ({"own": own(40), "kept": kept("refined", 20, 0.69)}, 3.0, True),  # above the limit for 1,000
        ({"own": own(40), "kept": kept("ais", 20, np.inf)}, 3.0, True),
        ({"own": own(40), "kept": kept("importance", 20, 0.9)}, 1.0, True),
        ({"own": own(40), "kept": kept("importance", 80, 0.9)}, 3.0, True),
    ],
)
def test_log_p_is_taken_from_the_best_estimate_and_said_to_be_low(found, gap, is_low):
    evidence = Evidence({"elbo": Mean(-95.0, 1.0, -120.0, -80.0, 300, 10)}, **found)
    assert evidence.log_marginal.value == pytest.approx(-95.0 + gap)
    assert evidence.is_low == is_low
    assert (f"log p(x) of all test rows{', at least' * is_low}") in evidence.lines
    source = evidence.source
    is_kept = source is found.get("kept")
    which = f"the first {source.sizes['data']}" if is_kept else "a random 40"
    assert f"300 test rows, extrapolated from {which}: test ELBO plus the gap found on those by" in evidence.how()
    tone = "caution" if evidence.own["pareto_k"][0] > 0.67 else "good"
    (finding,) = evidence.judged(
        [Finding(tone, "evidence", "K-hat is this. There importance sampling errs.", "Refine.")]
    )
    better = is_kept and source.attrs["method"] != "importance"
    assert finding.tone == ("caution" if is_low else "good")
    assert (finding.advice == "Refine.") == (not better)
    assert ("So log p(x) is taken from evidence-" in finding.claim) == better


@pytest.mark.filterwarnings("ignore")
def test_what_was_evaluated_is_taken_up(copy):
    asked = invoke("evaluate", copy, "--method", "refined", "--steps", 50, "--num-samples", 100, "--rows", 15)
    assert asked.exit_code == 0, asked.output
    text = page_of(pvae.write_report(copy, rows=10)).text
    assert "extrapolated from the first 15: test ELBO plus the gap" in text
    assert "pyrovae evaluate --method refined (evidence-refined.csv)" in text
    assert "So log p(x) is taken from evidence-refined.csv" in text
    table = pd.read_csv(copy / "evidence-refined.csv")
    assert f"log p(x), evidence-refined.csv {signed(table['log_marginal'].mean())}" in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ["weights", "table", "rows", "unsealed", "nothing"])
def test_what_was_evaluated_of_something_else_is_left(copy, change):
    assert invoke("evaluate", copy, "--method", "importance", "--num-samples", 30, "--rows", 5).exit_code == 0
    path = copy / "evidence-importance.json"
    known = json.loads(path.read_text())
    if change in known:
        path.write_text(json.dumps({**known, change: "0" * 32}))
    elif change == "unsealed":
        path.unlink()
    subject = read_subject(copy)
    found = read_evaluated(subject.run, subject.data.test)
    assert (found is not None) == (change == "nothing")


def test_the_same_run_gives_the_same_page(copy):
    first = pvae.write_report(copy, rows=10).read_bytes()
    assert pvae.write_report(copy, rows=10).read_bytes() == first


def test_it_leaves_the_generators_alone_and_shows_bars_where_it_is_asked_to(copy, capsys):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pvae.write_report(copy, rows=10, progress=True)
    assert torch.equal(torch.get_rng_state(), before)
    shown = capsys.readouterr().err
    assert all(f"{label}: " in shown for label in ("reliability", "draws", "sbc", "typicality", "replicates"))


@pytest.mark.parametrize(
    ("keys", "classes", "shown"),
    [
        ((), 2, ["0", "0"]),  # the patients
        (("patient",), 2, ["well", "ill"]),
        (("patient", "state"), 2, None),
        (("patient",), 60, None),  # names of too many classes
    ],
)
def test_latents_are_colored_by_labels_and_not_by_the_groups_of_the_split(keys, classes, shown):
    rows = 120
    names = ["well", "ill"] if classes == 2 else [f"state {number}" for number in range(classes)]
    labels = {"patient": torch.arange(rows) // 3, "state": [names[number % classes] for number in range(rows)]}
    data = replace(pvae.data.as_data(torch.randn(rows, 3), labels=labels), keys=keys)
    vae = pvae.build_vae(3, likelihood="normal", latent_dim=2, hidden=(4,), seed=0)
    found = views(vae, data, seed=0).label
    assert (found is None) is (shown is None)
    if shown is not None:
        assert [str(value) for value in found[:2].tolist()] == shown
    many = views(vae, replace(data, labels={"age": torch.arange(rows)}, keys=()), seed=0)
    assert many.label.dtype == torch.float64  # a number, with a bar of colors
    assert view_pictures(many)["latent"].draw().figure.axes[1].get_ylabel() == "age"


def test_a_run_without_results_is_evaluated(tmp_path):
    digits = pvae.data.load("digits")
    vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=2, hidden=(8,), seed=0)
    page = page_of(pvae.write_report(pvae.save(vae, tmp_path / "run", data=digits.train), rows=10))
    assert "Test ELBO" in page.text
    assert "359 test rows" in page.text
    assert "Training curves" not in page.text


def test_vectors_get_a_table_of_columns(tmp_path):
    generator = np.random.default_rng(0)
    with (tmp_path / "<b>.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "<i>width</i>", "c", "habit"])
        habits = itertools.cycle(["non-smoker", "smoker", "non-smoker"])
        writer.writerows([*row, next(habits)] for row in generator.normal(size=(60, 3)).tolist())
    done = invoke(
        "train", tmp_path / "<b>.csv", "--epochs", 1, "--hidden", 8, "--no-figures", "--out", tmp_path / "table"
    )
    assert done.exit_code == 0, done.output
    page = page_of(tmp_path / "table" / "report.html")
    assert "height" in page.text
    assert "<i>width</i>" in page.text
    assert page.all("i") == []
    assert re.search(r"non-smoker \d+%", page.text)  # the shares of its levels, not the mean of their codes
    assert "columns" in {figure["id"] for figure in page.all("figure")}


# Findings


def test_findings_put_what_presses_first(run):
    page = RunPage(read_subject(run[0]), rows=20)
    order = ["problem", "caution", "open", "good"]
    tones = [order.index(f["tone"]) for f in page.findings]
    assert tones == sorted(tones)
    assert all(f["advice"] for f in page.findings if f["tone"] != "good")
    shown = page_of(run[0] / "report.html").text
    assert {"training length", "collapse", "overfitting"} <= {f["about"] for f in page.findings}
    assert all(f["about"][1:] in shown for f in page.findings)


def test_the_page_the_terminal_and_the_library_find_the_same(run):
    subject = read_subject(run[0])
    page = RunPage(subject, rows=20)
    history = {**subject.run.history, "best_epoch": subject.results["best_epoch"]}
    found = pvae.diagnose(
        subject.vae, some_rows(subject.data.test, 20, 0), checks=["training", "reliability"], history=history, seed=0
    )
    shown = {f["claim"] for f in page.findings}
    assert {f.claim for f in found.findings()} <= shown


def test_a_collapsed_posterior_is_a_problem(copy):
    subject = read_subject(copy)
    for parameter in subject.vae.posterior.parameters():
        parameter.data.zero_()
    first = RunPage(subject, rows=10).findings[0]
    assert (first["about"], first["tone"]) == ("collapse", "problem")


def test_bits_are_of_masses_alone(tmp_path):
    """Of a density they depend on the unit of the data, and are not shown, whether the run remembers its results or not."""
    digits = pvae.data.load("digits", "scaled")
    for likelihood, shown in (("normal", False), ("discretized_normal", True)):
        levels = {"levels": 17} if shown else {}
        vae = pvae.build_vae((1, 8, 8), likelihood=likelihood, latent_dim=2, hidden=(8,), seed=0, **levels)
        data = digits if likelihood == "normal" else pvae.data.load("digits")
        folder = pvae.save(vae, tmp_path / likelihood, data=data.train)
        page = RunPage(read_subject(folder), rows=10)
        assert ("Bits per dimension" in {entry["name"] for entry in page.key}) == shown


def test_results_that_are_no_numbers_are_not_believed():
    assert remembered({"elbo": "<b>", "kl": None, "reconstruction": True, "test_rows": 3}) == {}


# Any graph


def conditional_run(tmp_path):
    """A conditional VAE of one's own on counts, with a covariate that every part of the page must hand on."""
    torch.manual_seed(0)
    shift = torch.randint(3, (300, 1)).float()
    x = torch.poisson((shift + torch.randn(300, 1)).exp().expand(300, 4))
    data = replace(pvae.data.as_data(x, {"shift": shift}), parts=parts_of_rows(300, {"test": 100}, 0))
    vae = pvae.VAE(
        pvae.standard_normal(2),
        pvae.Factorized(dist.Poisson, pvae.ConcatCovariates(pvae.MLP(3, (16,)), 2, {"shift": 1}), 4),
        pvae.Factorized(dist.Normal, pvae.ConcatCovariates(pvae.MLP(5, (16,)), 4, {"shift": 1}), 2),
    )
    history = pvae.fit(vae, data.train, epochs=3, seed=0, progress=False)
    return pvae.save(vae, tmp_path / "run", data=data.train, history=history), vae, data


def test_a_conditional_vae_is_reported_with_its_covariates(tmp_path):
    folder, vae, data = conditional_run(tmp_path)
    page = page_of(pvae.write_report(folder, vae=vae, data=data, rows=20))
    assert "What could not be done" not in page.text
    assert "given shift" in page.text
    assert "covariates shift" in page.text
    assert "zeros of samples" in page.text  # counts
    names = {figure["id"] for figure in page.all("figure")}
    assert {"history", "latent", "structure", "reliability", "calibration", "predictive"} <= names
    assert "Held-out log p(x)" in page.text


class TwoLayers(torch.nn.Module):
    """z2 -> z1 -> a sequence of six steps with two entries each, under a name that is not x."""

    def __init__(self):
        super().__init__()
        self.down, self.out = torch.nn.Linear(1, 3), torch.nn.Linear(3, 12)
        self.up = torch.nn.Linear(12, 4)

    def model(self, rows=None, size=None):
        pvae.register(program=self)
        with pyro.plate("data", size or len(rows)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2), 1.0).to_event(1))
            loc = self.out(z1).unflatten(-1, (6, 2))
            return pyro.sample("steps", dist.Normal(loc, 1.0).to_event(2), obs=rows)

    def guide(self, rows, size=None):
        pvae.register(program=self)
        with pyro.plate("data", len(rows)):
            loc = self.up(rows.flatten(1))
            pyro.sample("z1", dist.Normal(loc[..., :3], 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(loc[..., 3:], 0.5).to_event(1))


@pytest.mark.parametrize("rows", [torch.zeros(20, 4), pvae.data.as_data(torch.zeros(20, 4))])
def test_data_without_parts_are_refused(tmp_path, rows):
    folder = pvae.save(torch.nn.Linear(4, 1), tmp_path / "run")
    with pytest.raises(ValueError, match="data must be rows with a train and a test part, got"):
        pvae.write_report(folder, vae=torch.nn.Linear(4, 1), data=rows)


def test_the_operations_of_a_path_with_missing_steps_are_counted():
    import behavior_graphs

    from pyrovae.report.evidence import affordable_rows

    kind = behavior_graphs.state_space("state_space")
    dynamics = pvae.conditionals.Dynamics(pvae.Factorized(dist.Normal, pvae.MLP(2, (4,)), 2), 2)
    program = pvae.StateSpaceVAE(dynamics, kind.program.emission, kind.program.posterior, num_steps=4).double()
    assert affordable_rows(program, pvae.data.as_data(kind.data), 1000) == 200


def test_any_graph_is_reported_by_its_own_sites(tmp_path):
    torch.manual_seed(0)
    data = replace(pvae.data.as_data(torch.randn(200, 6, 2)), parts=parts_of_rows(200, {"test": 80}, 0))
    program = TwoLayers()
    folder = pvae.save(program, tmp_path / "run", data=data.train)
    page = page_of(pvae.write_report(folder, vae=program, data=data, rows=20))
    assert "What could not be done" not in page.text
    names = {figure["id"] for figure in page.all("figure")}
    assert {"sequences", "latent-z1", "latent-z2", "structure"} <= names
    assert "4 of 4 latent entries are active" in page.text


# Code


@pytest.mark.parametrize("number", [0, 1])
def test_the_code_on_the_page_runs(run, number, tmp_path):
    source = (run[0] / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<pre[^>]*aria-label="Python code[^>]*><code>(.*?)</code>', source, re.DOTALL)
    assert len(blocks) == 2
    script = tmp_path / "snippet.py"
    script.write_text(html.unescape(blocks[number]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert ("test ELBO in nats per datum: -" if number == 0 else "History(3 epochs, finished") in done.stdout


def test_the_code_trains_what_the_command_trained(run):
    """The same words, data, seeds and settings; the command's products have fewer bits, so not to the last digit."""
    folder, _ = run
    source = (folder / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<pre[^>]*aria-label="Python code[^>]*><code>(.*?)</code>', source, re.DOTALL)
    names = {}
    exec(html.unescape(blocks[1]), names)
    kept = pvae.files.Run.read(folder).history
    assert names["history"]["validation_elbo"] == pytest.approx(kept["validation_elbo"], rel=0.02)
    names["vae"].load_state_dict(pvae.load(folder).state_dict())


def test_the_code_knows_both_seeds(copy):
    config = json.loads((copy / "config.json").read_text())
    rewrite(copy, seed=5, data={**config["data"], "seed": 7})
    code = fit_snippet(read_subject(copy))
    assert "pvae.data.load('digits', 'counts', seed=7)" in code
    assert code.count("seed=5") == 2  # of the weights and rows to start from, and of training


def test_code_of_a_hostile_config_is_only_literals(copy):
    rewrite(copy, data={**json.loads((copy / "config.json").read_text())["data"], "name": '"); import os; ("'})
    settings = json.loads((copy / "config.json").read_text())["settings"]
    rewrite(copy, settings={**settings, "data": '"); import os; ("', "batch_size": "64); import os; ("})
    source = pvae.write_report(copy, rows=10).read_text(encoding="utf-8")
    for block in re.findall(r'<pre[^>]*aria-label="Python code[^>]*><code>(.*?)</code>', source, re.DOTALL):
        assert "\nimport os" not in html.unescape(block)
        assert "import os" not in re.sub(r"'[^']*'", "", html.unescape(block))


# Safety


EVIL = '<script>alert(1)</script><img src="https://example.org/x.png" onerror=alert(1)>`'


def test_a_hostile_config_stays_text(copy):
    config = json.loads((copy / "config.json").read_text())
    rewrite(
        copy,
        command=["pyrovae", EVIL],
        settings={**config["settings"], EVIL: EVIL},
        versions={EVIL: EVIL},
        data={**config["data"], "name": EVIL, "variant": EVIL, "rows": EVIL, "event_shape": EVIL},
        results={EVIL: EVIL, "elbo": EVIL, "best_epoch": EVIL},
    )
    page = page_of(pvae.write_report(copy, rows=10))
    assert page.all("script") == []
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<script>alert(1)</script>" in page.text


def test_a_hostile_folder_name_stays_text(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "a<img src=x>b", ignore=shutil.ignore_patterns("checkpoints"))
    assert page_of(pvae.write_report(folder, rows=10)).all("img") == []


@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_page_refers_to_nothing_outside_itself(run, versus, kind):
    path = run[0] / "report.html" if kind == "one" else versus
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=\s]+", "", source).replace("http-equiv", "")
    assert "@import" not in source
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                target = attributes[name]
                assert target.startswith("data:image/png;base64,") or target.removeprefix("#") in anchors
    for target in re.findall(r"url\(([^)]*)\)", source):
        assert target.removeprefix("#") in anchors
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form"} == set()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_page_is_well_made(run, versus, kind):
    page = page_of(run[0] / "report.html" if kind == "one" else versus)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labeled = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert len(labeled) == len(page.all("section"))
    assert set(labeled) <= set(ids)
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("html")[0]["lang"] == "en"
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == len(page.all("svg")) == len(page.all("figure")) > 0
    assert all(len(svg["aria-label"]) > 20 for svg in pictures)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_the_default_page_is_small(run):
    assert (run[0] / "report.html").stat().st_size < 1_000_000


# Bad input


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = invoke("report", tmp_path)
    assert done.exit_code == 2
    assert "holds no run" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_run_is_refused_and_the_old_page_stands(copy):
    (copy / "report.html").write_text("old")
    weights = copy / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DamagedError, match="altered, truncated"):
        pvae.write_report(copy)
    assert (copy / "report.html").read_text() == "old"


@pytest.mark.parametrize("out", ["blocked/report.html", "taken"])
def test_an_unwritable_place_is_said(copy, tmp_path, out):
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "taken").mkdir()
    done = invoke("report", copy, "--rows", 10, "--out", tmp_path / out)
    assert done.exit_code in (1, 2)
    assert "cannot write" in done.output
    assert "Traceback" not in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", "copy", "taken"]


def test_a_page_that_cannot_be_finished_leaves_the_old_one(copy, monkeypatch):
    path = copy / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        pvae.write_report(copy, rows=10)
    assert path.read_text() == "old"
    assert [found.name for found in copy.iterdir() if "tmp" in found.name] == []


@pytest.mark.parametrize("rows", [0, 1, -3])
def test_too_few_rows_are_refused(copy, rows):
    with pytest.raises(ValueError, match="rows must be at least 2"):
        pvae.write_report(copy, rows=rows)


def test_missing_data_leave_the_rest(tmp_path):
    source = tmp_path / "numbers.csv"
    np.savetxt(source, np.random.default_rng(0).normal(size=(60, 3)), delimiter=",", header="a,b,c", comments="")
    folder = tmp_path / "run"
    done = invoke("train", source, "--epochs", 2, "--hidden", 8, "--no-figures", "--no-report", "--out", folder)
    assert done.exit_code == 0, done.output
    source.unlink()
    page = page_of(pvae.write_report(folder))
    assert "The data cannot be had" in page.text
    assert "Test ELBO" in page.text
    assert "Training curves" in page.text
    assert "Held-out log p(x)" not in page.text


def test_changed_data_are_not_taken_for_the_runs_own(copy):
    data = json.loads((copy / "config.json").read_text())["data"]
    rewrite(copy, data={**data, "fingerprint": "0" * 32})
    assert "no longer what" in page_of(pvae.write_report(copy)).text
    with pytest.raises(ValueError, match="no longer what"):
        pvae.write_report(copy, data=pvae.data.load("digits"))


def test_a_composition_of_ones_own_is_reported_as_far_as_it_goes(tmp_path):
    digits = pvae.data.load("digits")
    vae = pvae.build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=2, hidden=(8,))
    del vae.spec
    folder = pvae.save(vae, tmp_path / "run", data=digits.train)
    assert "which no file can rebuild" in page_of(pvae.write_report(folder)).text
    whole = page_of(pvae.write_report(folder, vae=vae, data=digits, rows=10))
    assert "Held-out log p(x)" in whole.text
    assert "which no file can rebuild" not in whole.text


def test_a_posterior_without_a_mean_in_closed_form_is_drawn_from(tmp_path):
    folder = tmp_path / "run"
    done = invoke(
        "train", "--posterior", "affine_flow", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--out", folder
    )
    assert done.exit_code == 0, done.output
    page = page_of(folder / "report.html")
    assert "What could not be done" not in page.text
    assert {"latent", "reconstructions", "reliability"} <= {figure["id"] for figure in page.all("figure")}
    done = invoke("encode", folder)
    assert done.exit_code == 2
    assert "num_samples" in done.output


def test_a_part_that_fails_is_named_and_the_rest_stands(copy, monkeypatch):
    from pyrovae.checks import calibration

    def fail(*_, **__):
        raise RuntimeError("<b>broken</b>")

    monkeypatch.setattr(calibration, "sbc", fail)
    page = page_of(pvae.write_report(copy, rows=10))
    assert "calibration : <b>broken</b>" in page.text
    assert "Held-out log p(x)" in page.text


# Several runs


def test_runs_are_compared_row_by_row(run, other, versus):
    page = page_of(versus)
    subjects = [read_subject(folder) for folder in (run[0], other)]
    rows = subjects[0].data.test[torch.randperm(359, generator=torch.Generator().manual_seed(0))[:20].sort().values]
    models = {subject.name: subject.vae for subject in subjects}
    compared = pvae.compare(models, rows, method="importance", num_samples=1000, seed=0, progress=False)
    result = compared.per_datum()
    assert compared.lead() in page.text
    for name in ("digits", "mixture"):
        assert f"{result.loc[name, 'elpd']:.2f}".replace("-", "−") in page.text
    assert f"{result['elpd_diff'].iloc[1]:.2f}".replace("-", "−") in page.text
    assert f"{result['dse'].iloc[1]:.2f}" in page.text
    for words in ("stacking weight", "same 20 test rows", "counts", "Before believing the order"):
        assert words in page.text
    differences = re.search(r'id="differences".*?</section>', versus.read_text(), re.DOTALL)[0]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', differences) == [
        ("prior", "standard_normal", "mixture")
    ]


def test_what_holds_over_refits_is_on_their_page_and_on_no_other(run, versus, tmp_path):
    again, _ = train(tmp_path / "again", "--seed", 1, "--no-report")
    done = invoke("report", run[0], again, "--out", tmp_path / "page.html", "--rows", 30)
    assert done.exit_code == 0, done.output
    page = page_of(tmp_path / "page.html")
    assert "What holds over these refits" in page.text
    assert re.search(r"Latents that hold over refits .*z\[\d\] in [12] of 2", page.text)
    assert "What holds over these refits" not in page_of(versus).text
    few = invoke("report", run[0], again, "--out", tmp_path / "few.html", "--rows", 5)
    assert few.exit_code == 0, few.output
    assert "Agreement of the latents, not done: expected more than 11 rows" in page_of(tmp_path / "few.html").text


def test_runs_on_different_data_are_not_compared(run, tmp_path):
    split_anew, _ = train(tmp_path / "other", "--split-seed", 1, "--no-report")
    done = invoke("report", run[0], split_anew, "--out", tmp_path / "page.html")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "different rows or variants" in said
    assert f"they differ in split seed ({run[0].name}: 0, other: 1). Train them" in said
    assert not (tmp_path / "page.html").exists()


def test_one_run_is_not_compared_with_itself(run):
    with pytest.raises(ValueError, match="different runs"):
        pvae.write_report([run[0], run[0]])
    with pytest.raises(ValueError, match="different runs"):
        pvae.write_report([])


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    twin = shutil.copytree(run[0], tmp_path / "digits", ignore=shutil.ignore_patterns("checkpoints"))
    page = page_of(pvae.write_report([run[0], twin], tmp_path / "page.html", rows=10))
    assert str(twin) in page.text
    assert "Nothing that the runs remember" in page.text


def test_runs_whose_data_are_gone_show_what_they_remember(run, other, tmp_path):
    folders = [
        shutil.copytree(f, tmp_path / f.name, ignore=shutil.ignore_patterns("checkpoints")) for f in (run[0], other)
    ]
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        rewrite(folder, settings={**config["settings"], "data": "gone.csv"})
    page = page_of(pvae.write_report(folders, tmp_path / "page.html"))
    assert "Not done: it needs the data" in page.text
    assert "What each run reached" in page.text


def test_open_shows_the_page_in_the_browser(copy, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not shown.append(address))
    assert invoke("report", copy, "--rows", 10, "--open").exit_code == 0
    assert shown == [(copy / "report.html").resolve().as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert "no browser was found" in invoke("report", copy, "--rows", 10, "--open").output


# In a browser

OWN_HOSTS = (".google.com", ".googleapis.com", ".gvt1.com", ".gstatic.com")
"""Whom the browser itself asks, whatever the page."""
PROBE = """<!doctype html><body><iframe id="f" src="{address}" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="found"></pre><script>
document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument;
  for (const closed of page.querySelectorAll("details")) closed.open = true;
  const wide = [...page.querySelectorAll("pre, .scroll")].filter(box => box.scrollWidth > box.clientWidth).length;
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth, scroll: page.documentElement.scrollWidth, boxes: wide,
    ink: page.defaultView.getComputedStyle(page.body).color, paper: page.defaultView.getComputedStyle(page.body).backgroundColor
  }});
}};
</script>"""


def browse(address, folder, *options):
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command = [
        CHROMIUM,
        *words,
        "--enable-logging=stderr",
        "--allow-file-access-from-files",
        *options,
        "--dump-dom",
        address,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def asked_by(path, folder):
    """What the browser writes to its console for a page, and the addresses that the page asks for."""
    folder.mkdir(exist_ok=True)
    log = folder / "net.json"
    done = browse(path.as_uri(), folder, f"--log-net-log={log}")
    assert "<h1>" in done.stdout
    found = set(re.findall(r'"url":"(https?://[^"]*)"', log.read_text()))
    foreign = {url for url in found if not (urlsplit(url).hostname or "").endswith(OWN_HOSTS)}
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], foreign


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_browser_shows_it_at_any_width(run, versus, tmp_path, kind, width, scheme):
    path = run[0] / "report.html" if kind == "one" else versus
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(address=path.as_uri(), width=width))
    preferred = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    done = browse(probe.as_uri(), tmp_path, preferred, "--window-size=1400,1000", "--virtual-time-budget=5000")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout)[1]))
    assert found["scroll"] <= found["width"] <= width
    assert found["boxes"] > 0 or width > 390
    assert found["paper"] == ("rgb(20, 23, 27)" if scheme == "dark" else "rgb(255, 255, 255)")


@needs_browser
@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_browser_complains_of_nothing_and_asks_for_nothing(run, versus, tmp_path, kind):
    path = run[0] / "report.html" if kind == "one" else versus
    console, asked = asked_by(path, tmp_path)
    assert console == []
    assert asked == set()


@needs_browser
def test_the_browser_would_have_been_heard(run, tmp_path):
    """The test above can fail: a foreign picture is refused by the page's policy, aloud, and asked for without one."""
    source = (run[0] / "report.html").read_text(encoding="utf-8")
    foreign = source.replace("</main>", '<img src="https://pictures.test/x.png"></main>')
    path = tmp_path / "page.html"
    path.write_text(foreign, encoding="utf-8")
    console, asked = asked_by(path, tmp_path / "1")
    assert "violates the following Content Security Policy" in console[0]
    assert asked == set()
    path.write_text(foreign.replace("http-equiv", "data-was"), encoding="utf-8")
    assert asked_by(path, tmp_path / "2")[1] == {"https://pictures.test/x.png"}


def test_the_code_of_a_table_reads_it_as_the_run_did(tmp_path, capsys):
    rng = np.random.default_rng(0)
    columns = {
        "size": rng.normal(size=40),
        "pet": rng.choice(["cat", "dog"], 40),
        "grade": rng.integers(1, 5, 40),
        "id": range(40),
    }
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    data = pvae.data.load(tmp_path / "t.csv", kinds={"grade": "ordinal"}, drop=["id"])
    vae = pvae.build_vae(data.train, latent_dim=1, hidden=(4,), seed=0)
    settings = {"data": str(tmp_path / "t.csv"), "drop": ["id"]}
    subject = read_subject(pvae.save(vae, tmp_path / "run", data=data.train, settings=settings))
    assert subject.data.kinds == {"size": "real", "pet": "binary", "grade": "ordinal"}
    exec(load_snippet(subject), {})
    assert "test ELBO in nats per datum" in capsys.readouterr().out
    assert "1 real, 1 binary, 1 ordinal" in shown_value(subject.run.spec["columns"])
