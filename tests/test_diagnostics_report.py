"""One call, one report."""

import html

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from guided import correlated, exact
from programs import counts, counts_vae

import pyrovae as pvae
from pyrovae.checks import Case, Check, Finding, diagnose, headline
from pyrovae.checks.overfitting import OVERFITTING
from pyrovae.checks.training import TRAINING
from pyrovae.data import as_data

FEW = {"num_samples": 200, "num_simulations": 300, "max_rows": 100, "seed": 0}


@pytest.fixture(scope="module")
def report():
    program = correlated(exact)
    x = program.simulate(200)
    return diagnose(program, x, train=program.simulate(150, seed=2), **FEW)


def test_every_part_is_there_and_said_in_words(report):
    assert list(report) == [
        "reliability",
        "structure",
        "calibration",
        "typicality",
        "predictive",
        "prior",
        "overfitting",
    ]
    assert not report.skipped
    text = repr(report)
    for words in (
        "ELBO",
        "k-hat",
        "in use",
        "No sign of miscalibration",
        "atypical",
        "reproduces",
        "Training less other rows",
    ):
        assert words in text
    assert headline(report.findings()) in text
    assert "bad model" not in text


def test_the_table_holds_the_numbers_of_the_parts(report):
    table = {line.quantity: line for line in report.table()}
    program = correlated(exact)
    expected = program.log_evidence(program.simulate(200))
    assert table["log p(x)"].value == pytest.approx(expected.mean().item(), abs=1e-6)
    assert table["log p(x)"].error == pytest.approx(expected.std().item() / np.sqrt(200), rel=1e-6)
    assert table["active units"].value == 3
    assert table["rows with k-hat above 0.57"].value == 0
    assert table["training - other rows, ELBO"].value == pytest.approx(report.overfitting.elbo)
    assert "No sign of overfitting" in report.overfitting.summary()


def test_every_result_draws_itself_and_goes_to_a_file(report, tmp_path):
    import xarray as xr

    drawn = report.plot()
    assert list(drawn) == ["reliability", "structure", "calibration", "typicality", "predictive", "prior"]
    assert all(axes.has_data() for axes in drawn.values())
    for name in report:
        path = tmp_path / f"{name}.nc"
        report[name].dataset.to_netcdf(path, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as kept:
            check = report.checks[name]
            assert check.judge(kept.load()) == report[name].findings()


def test_results_of_training_and_evaluation_draw_themselves():
    vae, x = counts_vae(), counts(20)
    history = pvae.fit(vae, x, epochs=2, seed=0, progress=False)
    x[0, 0] = torch.nan
    drawn = [*history.plot()]
    drawn.append(pvae.impute(vae, x, num_samples=2, num_proposals=50, seed=0).plot())
    assert all(axes.has_data() for axes in drawn)


def test_the_findings_are_the_same_everywhere(report):
    findings = report.findings()
    tones = ["problem", "caution", "open", "good"]
    assert [tones.index(f.tone) for f in findings] == sorted(tones.index(f.tone) for f in findings)
    assert all(str(f) in report.summary() for f in findings)
    assert all(html.escape(str(f)) in report._repr_html_() for f in findings)


@pytest.mark.parametrize(
    ("numbers", "tone", "words"),
    [
        ((1.1, 0.5, 1.1, 0.5), "caution", "model explains its training rows better"),
        ((0.9, 0.5, 0.9, 0.5), "good", "No sign"),
        ((1.2, 0.5, 0.1, 0.5), "caution", "The guide does, beyond the model"),
        ((5.0, 0.5, 3.0, 0.5), "caution", "The guide does, too"),
        ((1.0, 0.5, 0.1, 0.5), "good", "No sign"),
    ],
)
def test_overfitting_is_a_difference_beyond_two_errors_of_model_or_guide(numbers, tone, words):
    names = ("elbo", "elbo_error", "log_marginal", "log_marginal_error")
    (finding,) = OVERFITTING.judge(xr.Dataset(dict(zip(names, numbers, strict=True))))
    assert finding.tone == tone
    assert words in finding.claim


@pytest.mark.parametrize("fell", [True, False])
def test_only_a_training_whose_validation_fell_is_told_to_stop_earlier(fell):
    found = xr.Dataset({"elbo": 5.0, "elbo_error": 0.5, "log_marginal": 5.0, "log_marginal_error": 0.5})
    (finding,) = OVERFITTING.judge(found.assign_attrs(fell=int(fell)))
    assert ("Stop earlier" in finding.advice) is fell
    assert "egularize" in finding.advice


@pytest.mark.parametrize(("offset", "tone"), [(0.0, "good"), (4.0, "caution")])
def test_generated_data_are_judged_apart_from_replicated_data(offset, tone):
    """Latents that lie ``offset`` from the prior are followed by the guide: only draws of the prior miss the data's mean."""

    def model(x=None, size=None):
        with pyro.plate("data", len(x) if size is None else size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z[..., None], 0.1).expand([*z.shape, 4]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(400 * x.mean(-1) / 401, 401**-0.5))

    torch.manual_seed(0)
    x = offset + torch.randn(200, 1) + 0.1 * torch.randn(200, 4)
    found = diagnose((model, guide), x, checks=["predictive", "prior"], **FEW)
    tones = {finding.about: finding.tone for finding in found.findings()}
    assert tones == {"replicated data": "good", "generated data": tone}
    assert ("learned prior" in found.prior.summary()) is (tone == "caution")


HISTORY = {"epoch": list(range(1, 21)), "skipped": [0] * 20}


@pytest.mark.parametrize(
    ("last", "best", "tone", "claim", "advice"),
    [
        (-99.79, None, "caution", "still rose by 0.21 nats over the last tenth of 20 epochs", "Train longer"),
        (-99.81, None, "good", "had settled: +0.19 nats", ""),
        (-100.19, None, "good", "had settled: -0.19 nats", ""),
        (-100.19, 18, "good", "over the last tenth of 20 epochs. The weights of epoch 18 were kept.", ""),
        (-100.0, 20, "good", "over the last tenth of 20 epochs.", ""),
        (-100.21, None, "caution", "fell by 0.21 nats", "Keep the best weights"),
        (
            -100.21,
            18,
            "good",
            "fell by 0.21 nats over the last tenth of 20 epochs. The weights of epoch 18 were kept.",
            "",
        ),
    ],
)
def test_training_still_rises_falls_or_has_settled(last, best, tone, claim, advice):
    history = {**HISTORY, "validation_elbo": [-120.0] + [-100.0] * 18 + [last], "best_epoch": best}
    (finding,) = TRAINING.judge(TRAINING.run(Case(None, None, history=history)))
    assert (finding.tone, finding.about) == (tone, "training length")
    assert claim in finding.claim
    assert ("were kept" in finding.claim) is (best == 18)
    assert finding.advice.startswith(advice)
    assert bool(finding.advice) == bool(advice)


@pytest.mark.parametrize(("tenth", "tone"), [(-101.0, "caution"), (-102.8, "caution"), (-103.0, "good")])
def test_the_flat_end_of_an_annealed_rate_is_not_a_settled_curve(tenth, tone):
    """While the rate was hot, the epochs from 2 to 5 won 6 nats; those to 10 won 3, 1.2 or 1: halved again 1.5, .24 or .17."""
    values = [-110.0, -110.0, -106.0, -105.0, -104.0, *[-103.5] * 4, tenth, *[tenth + 2] * 10]
    rates = [1.0] * 10 + [0.1] * 10
    history = {**HISTORY, "validation_elbo": values, "learning_rate": rates}
    (finding,) = TRAINING.judge(TRAINING.run(Case(None, None, history=history)))
    assert finding.tone == tone
    assert ("more in twice the 20 epochs" in finding.claim) is (tone == "caution")
    (steady,) = TRAINING.judge(TRAINING.run(Case(None, None, history={**history, "learning_rate": [1.0] * 20})))
    assert steady.tone == "caution"  # at a steady rate it rose until epoch 11


@pytest.mark.parametrize("values", [None, [None] * 20, [-100.0] + [None] * 19])
def test_a_training_without_validation_is_said_not_to_be_judged(values):
    history = HISTORY if values is None else {**HISTORY, "validation_elbo": values}
    (finding,) = TRAINING.judge(TRAINING.run(Case(None, None, history=history)))
    assert (finding.tone, finding.about, finding.advice) == ("open", "training length", "Give `validation=` to `fit`.")
    assert headline([finding]) == "None asks for attention. Open: training length."


@pytest.mark.parametrize(("epochs", "over"), [(19, "the last of 19 epochs"), (20, "the last tenth of 20 epochs")])
def test_the_end_of_a_short_training_is_its_last_epoch(epochs, over):
    history = {"epoch": list(range(epochs)), "validation_elbo": [-100.0] * epochs}
    (finding,) = TRAINING.judge(TRAINING.run(Case(None, None, history=history)))
    assert over in finding.claim


def test_skipped_steps_are_counted():
    history = {**HISTORY, "skipped": [0] * 19 + [2]}
    finding, _ = TRAINING.judge(TRAINING.run(Case(None, None, history=history)))
    assert "2 steps were skipped" in finding.claim


def test_one_finding_a_check_asks_for_attention():
    findings = [
        Finding("good", "a", "."),
        Finding("caution", "a", "."),
        Finding("open", "b", "."),
        Finding("good", "c", "."),
    ]
    assert headline(findings) == "1 of 3 checks asks for attention: a. Open: b."
    assert headline(findings[2:]) == "None asks for attention. Open: b."
    assert headline(findings[3:]) == "All 1 checks are fine; none asks for attention."
    assert headline([]) == "Nothing could be checked."
    assert headline(findings[2:], ["x", "y"]) == "None asks for attention. Open: b. 2 not done: x, y."
    assert headline(findings[:2], ["x"]) == "1 of 1 checks asks for attention: a. 1 not done: x."
    assert headline(findings[3:], ["x"]) == (
        "All 1 checks that were done are fine; none asks for attention. 1 not done: x."
    )
    assert headline([], {"x": "why"}) == "Nothing could be checked. 1 not done: x."


def test_a_check_of_ones_own_is_a_run_and_a_judgment():
    def count(case):
        return xr.Dataset({"rows": len(case.some)})

    dead = Check("rows", count, lambda found: [Finding("good", "rows", f"{int(found['rows'])} rows.")])
    result = dead.result(dead.run(Case(None, as_data(torch.zeros(5, 2)), max_rows=3)))
    assert (result.rows, result.summary(), result.notes) == (3, "3 rows.", ())
    with pytest.raises(NotImplementedError, match="no figure"):
        result.plot()
    with pytest.raises(AttributeError, match="its Dataset holds rows"):
        result.columns  # noqa: B018


def test_checks_are_chosen_by_name_and_an_unmet_need_is_named():
    program = correlated(exact)
    report = diagnose(program, program.simulate(20), checks=["typicality", "overfitting"], **FEW)
    assert list(report) == ["typicality"]
    assert report.skipped == {"overfitting": "it needs train"}
    with pytest.raises(ValueError, match="checks must be one of training, reliability"):
        diagnose(program, program.simulate(20), checks=["sbc"], **FEW)


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
    assert result.overfitting.log_marginal > 50
    assert "Stop earlier" in result.overfitting.summary()


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
    assert len(report.reliability.elbo) == 60
    assert np.isfinite([line.value for line in report.table()]).all()
    assert "imputation" in report
    assert "overfitting" not in report
    assert vae.training


@pytest.mark.parametrize("weighed", [False, True])
def test_what_cannot_be_done_is_left_out_with_the_reason(weighed):
    def model(x):
        with pyro.plate("data", len(x["a"])):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x["a"])), 1.0))
            if weighed:
                pyro.factor("penalty", 0.0 * z)
            pyro.sample("a", dist.Normal(z, 1.0), obs=x["a"])
            pyro.sample("b", dist.Normal(z, 1.0), obs=x["b"])

    def guide(x):
        with pyro.plate("data", len(x["a"])):
            pyro.sample("z", dist.Normal((x["a"] + x["b"]) / 3, 3**-0.5))

    torch.manual_seed(0)
    z = torch.randn(50)
    report = diagnose((model, guide), {"a": z + torch.randn(50), "b": z + torch.randn(50)}, **FEW)
    assert list(report.skipped) == (["calibration", "typicality", "prior"] if weighed else [])
    assert ("not done: the model weighs its draws by the factor 'penalty'" in report.summary()) is weighed
    assert {"mean of a", "mean of b"} < set(report.predictive.p_values)
    assert weighed or report.calibration.p_value > 1e-4


@pytest.mark.parametrize(
    ("check", "labels", "options"),
    [
        (pvae.sbc, ["sbc"], {"num_simulations": 20, "num_samples": 9}),
        (pvae.checks.typicality, ["typicality"], {"num_simulations": 20, "num_samples": 4}),
        (pvae.checks.latent_structure, ["draws", "aggregate posterior"], {"num_samples": 4}),
    ],
)
def test_checks_that_take_long_show_bars_where_they_are_asked_to(check, labels, options, capsys):
    program = correlated(exact)
    x = program.simulate(20)
    check(program, x, **options, seed=0, progress=False)
    assert capsys.readouterr().err == ""
    check(program, x, **options, seed=0, progress=True)
    shown = capsys.readouterr().err
    assert all(f"{label}: " in shown for label in labels)
