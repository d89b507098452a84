"""One call, one report."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from guided import correlated, exact
from programs import counts, counts_vae

from pyrovae.checks import diagnose
from pyrovae.checks.report import Gap

FEW = {"num_samples": 200, "num_simulations": 300, "max_rows": 100}


@pytest.fixture(scope="module")
def report():
    program = correlated(exact)
    x = program.simulate(200)
    return diagnose(program, x, train=program.simulate(150, seed=2), **FEW)


def test_every_part_is_there_and_said_in_words(report):
    assert list(report.parts()) == ["reliability", "structure", "sbc", "typicality", "predictive", "gap"]
    assert not report.skipped
    text = repr(report)
    for words in ("Report(200 rows)", "ELBO", "k-hat", "in use", "uniform", "atypical", "reproduces", "train - test"):
        assert words in text
    assert "bad model" not in text


def test_the_table_holds_the_numbers_of_the_parts(report):
    table = {line.quantity: line for line in report.table()}
    program = correlated(exact)
    expected = program.log_evidence(program.simulate(200))
    assert table["log p(x)"].value == pytest.approx(expected.mean().item(), abs=1e-6)
    assert table["log p(x)"].error == pytest.approx(expected.std().item() / np.sqrt(200), rel=1e-6)
    assert table["active units"].value == 3
    assert table["rows with k-hat above 0.57"].value == 0
    assert table["train - test ELBO"].value == pytest.approx(report.gap.elbo)
    assert "No sign of overfitting" in report.gap.summary()


def test_the_figures_are_drawn_from_the_arrays(report):
    import matplotlib.pyplot as plt

    from pyrovae import plots

    sbc, levels = report.sbc, np.linspace(0.1, 0.9, 5)
    axes = [
        plots.plot_sbc_ecdf({**sbc.ranks, "log_joint": sbc.log_joint_ranks}, sbc.num_draws),
        plots.plot_coverage(levels, sbc.coverage(levels), sbc.num_simulations),
        plots.plot_khat(report.reliability.pareto_k, report.reliability.num_samples),
        plots.plot_kl_per_dimension(report.structure.kl["z"], report.structure.mean_variance["z"]),
        plots.plot_predictive(report.predictive.replicated["sd"], report.predictive.observed["sd"], name="sd"),
    ]
    assert all(ax.figure is not None for ax in axes)
    plt.close("all")


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Gap(5.0, 0.5, 5.0, 0.5), "model explains its training rows better"),
        (Gap(5.0, 0.5, 0.1, 0.5), "guide does, too"),
        (Gap(0.3, 0.5, 0.1, 0.5), "No sign"),
    ],
)
def test_the_gap_tells_model_from_guide(gap, words):
    assert words in gap.summary()


def test_a_memorized_training_set_shows_a_gap():
    torch.manual_seed(0)
    train = torch.randn(8, 20)

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(8)))
            pyro.sample("x", dist.Normal(train[k], 0.3).to_event(1), obs=x)

    def guide(x):
        logits = -((x[:, None] - train) ** 2).sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits))

    result = diagnose((model, guide), torch.randn(30, 20), train=train, **FEW)
    assert result.gap.log_marginal > 50
    assert "stop earlier" in result.gap.summary()


def test_one_seed_gives_one_report_and_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    vae, x = counts_vae(), counts(60)
    tables = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        legacy = np.random.mtrand._rand  # the state behind np.random.normal and the like
        legacy.seed(global_seed)
        before, numpys = torch.get_rng_state(), legacy.get_state()[1].copy()
        tables.append([line.value for line in diagnose(vae, x, **FEW).table()])
        assert torch.equal(torch.get_rng_state(), before)
        assert (legacy.get_state()[1] == numpys).all()
    assert tables[0] == tables[1]


def test_a_vae_with_missing_entries_is_diagnosed():
    vae = counts_vae()
    x = counts(60)
    x[:5, 1] = torch.nan
    report = diagnose(vae, x, **FEW)
    assert report.num_data == 60
    assert np.isfinite([line.value for line in report.table()]).all()
    assert report.gap is None
    assert vae.training


def test_what_cannot_be_done_is_left_out_with_the_reason():
    def model(x):
        with pyro.plate("data", len(x["a"])):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x["a"])), 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x["a"])
            pyro.sample("b", dist.Normal(z, 1.0), obs=x["b"])

    def guide(x):
        with pyro.plate("data", len(x["a"])):
            pyro.sample("z", dist.Normal((x["a"] + x["b"]) / 3, 3**-0.5))

    torch.manual_seed(0)
    z = torch.randn(50)
    report = diagnose((model, guide), {"a": z + torch.randn(50), "b": z + torch.randn(50)}, **FEW)
    assert list(report.skipped) == ["predictive"]
    assert "not done: predictive checks take programs with one data site" in report.summary()
    assert report.sbc.p_value > 1e-4
