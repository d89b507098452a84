"""Anomalies: scores in closed form, exact conformal validity, what is said beforehand, drift, features, refusals."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from guided import MissingPPCA
from oracles import PPCA, EnumeratedMixture

import pyrovae as pvae
from pyrovae.data import as_data
from pyrovae.uses import anomaly_scores, calibration_needed, conformal_p_values, detect
from pyrovae.uses.scores import SIMULATIONS

MODEL = PPCA.random(2, 6, exact=True)
ROWS = MODEL.simulate(40, seed=5)
KNOWN = MODEL.simulate(199, seed=6)
ELSEWHERE = PPCA.random(2, 6, exact=True, seed=9)


def test_the_score_is_minus_the_evidence_and_its_error_is_that_of_the_weights():
    found = anomaly_scores(MODEL, ROWS, num_samples=50, seed=0)
    np.testing.assert_allclose(found.score, -MODEL.log_evidence(ROWS), atol=1e-9)
    assert found.error.max() < 1e-9
    mixture = EnumeratedMixture()
    x = mixture.simulate(200)
    rough = anomaly_scores(mixture, x, num_samples=400, seed=0)
    distance = (rough.score.values + mixture.log_evidence(x).numpy()) / rough.error.values
    assert np.abs(distance).max() < 6
    assert 0.7 < distance.std() < 1.4


def test_the_other_scores_are_what_they_are_called():
    bound = PPCA.random(2, 6, guide_shift=0.3)
    found = anomaly_scores(bound, ROWS, score="elbo", num_samples=3000, seed=0)
    assert (np.abs(found.score + bound.elbo(ROWS).numpy()) / found.error).max() < 5
    log_p, other = (-m.log_evidence(ROWS).numpy() for m in (MODEL, ELSEWHERE))
    ratio = anomaly_scores(MODEL, ROWS, score="likelihood_ratio", background=ELSEWHERE, num_samples=20, seed=0)
    np.testing.assert_allclose(ratio.score, log_p - other, atol=1e-9)
    own = anomaly_scores(MODEL, ROWS, score=lambda program, rows: rows.x[:, 0])
    np.testing.assert_array_equal(own.score, ROWS[:, 0])
    assert own.error.isnull().all()


def test_typicality_is_the_distance_from_the_entropy():
    entropy, log_p = MODEL.marginal().entropy().item(), -MODEL.log_evidence(ROWS).numpy()
    found = anomaly_scores(MODEL, ROWS, score="typicality", num_samples=20, seed=0)
    sd = float(MODEL.log_evidence(KNOWN).std())
    assert abs(found.typical - entropy) < 4 * sd / SIMULATIONS**0.5
    np.testing.assert_allclose(found.score, np.abs(log_p - found.typical), atol=1e-9)
    given = anomaly_scores(MODEL, ROWS, score="typicality", reference=KNOWN, num_samples=20, seed=0)
    assert given.typical == pytest.approx(-float(MODEL.log_evidence(KNOWN).mean()))


def test_a_window_is_scored_by_the_mean_of_its_rows():
    log_p = -MODEL.log_evidence(ROWS).numpy()
    found = anomaly_scores(MODEL, ROWS[:38], window=4, num_samples=20, seed=0)
    np.testing.assert_allclose(found.score, log_p[:36].reshape(9, 4).mean(1), atol=1e-9)
    assert found["first"].values.tolist() == list(range(0, 36, 4))
    typical = anomaly_scores(MODEL, ROWS, score="typicality", reference=KNOWN, window=4, num_samples=20, seed=0)
    expected = np.abs(log_p.reshape(10, 4).mean(1) - typical.typical)
    np.testing.assert_allclose(typical.score, expected, atol=1e-9)


def test_errors_of_a_window_add_up_as_variances():
    shifted = PPCA.random(2, 6, guide_shift=0.3)
    one, four = (anomaly_scores(shifted, ROWS, window=w, num_samples=100, seed=0).error.values for w in (1, 4))
    np.testing.assert_allclose(four, np.sqrt((one.reshape(10, 4) ** 2).sum(1)) / 4)


@pytest.mark.parametrize(("size", "alpha"), [(59, 0.05), (58, 0.05), (99, 0.1), (37, 0.3)])
def test_conformal_p_values_are_exactly_valid(size, alpha):
    """Of n + 1 exchangeable rows each is as likely the new one: exactly floor(alpha (n + 1)) of the n + 1 choices alarm."""
    scores = anomaly_scores(MODEL, MODEL.simulate(size + 1), num_samples=5, seed=0).score.values
    p = [conformal_p_values(scores[i], np.delete(scores, i)) for i in range(size + 1)]
    np.testing.assert_allclose(np.sort(p), np.arange(1, size + 2) / (size + 1))
    assert np.mean(np.array(p) <= alpha + 1e-12) == pytest.approx(math.floor(alpha * (size + 1)) / (size + 1))


def test_ties_make_p_values_larger_never_smaller():
    assert conformal_p_values([2.0, np.inf, -np.inf], [1.0, 2.0, 2.0]).tolist() == [0.75, 0.25, 1.0]


def test_false_alarms_of_the_whole_procedure_are_as_many_as_promised():
    """300 splits of an exact model: p <= .05 in floor(.05 * 60) / 60 of the rows; 5 standard errors, the same at each run."""
    alarms = []
    for split in range(300):
        x = -MODEL.log_evidence(MODEL.simulate(99, seed=100 + split)).numpy()
        alarms.append((conformal_p_values(x[59:], x[:59]) <= 0.05).mean())
    error = np.std(alarms, ddof=1) / 300**0.5
    assert abs(np.mean(alarms) - 3 / 60) < 5 * error
    assert error < 0.003


def test_strange_rows_are_discovered_and_explained_by_their_feature():
    x = ROWS.clone()
    x[3, 2] += 12.0
    x[17, 5] -= 12.0
    known = MODEL.simulate(999, seed=7)
    found = detect(MODEL, x, calibration=known, train=MODEL.simulate(50, seed=8), explain=2, num_samples=2000, seed=0)
    assert set(np.flatnonzero(found.dataset.discovered)) == {3, 17}
    first = found.reasons.groupby("row").first()
    assert first["feature"].to_dict() == {3: "x[2]", 17: "x[5]"}
    assert first["value"][3] == pytest.approx(float(x[3, 2]))
    assert "x[2]" in found.to_frame()["features"].iloc[0] + found.to_frame()["features"].iloc[1]
    assert "NaN" not in repr(found)


def test_the_surprise_of_a_feature_is_its_conditional_density_below_the_usual_one():
    found = detect(MODEL, ROWS, calibration=KNOWN, explain=40, num_samples=3000, seed=0)
    covariance = MODEL.marginal().covariance_matrix.detach()
    precision = torch.linalg.inv(covariance)

    def left_out(x):
        mean = x - (x - MODEL.mean.detach()) @ precision / precision.diagonal()
        return torch.distributions.Normal(mean, precision.diagonal().rsqrt()).log_prob(x).numpy()

    usual = np.median(left_out(KNOWN), 0)
    good = found.reasons[found.reasons["pareto_k"] < 0.5]
    assert len(good) > 60
    exact = [
        usual[int(f[2])] - left_out(ROWS)[row, int(f[2])] for row, f in zip(good["row"], good["feature"], strict=True)
    ]
    np.testing.assert_allclose(good["surprise"], exact, atol=0.3)


def test_the_surprise_of_a_strange_feature_is_exact_where_entries_may_be_missing():
    """The draws for the whole row would be off by many nats: a strange value moves the posterior far."""
    model = MissingPPCA.random(2, 4, exact=True)
    x, known = model.simulate(20, seed=1), model.simulate(99, seed=2)
    x[3, 1] += 12.0
    x[5] += 6.0
    x[5, 0] = torch.nan
    found = detect(model, x, calibration=known, explain=2, seed=0)
    covariance, mean = model.marginal().covariance_matrix.detach(), model.mean.detach()

    def left_out(row, j):
        there = [i for i in range(4) if i != j and not row[i].isnan()]
        slope = torch.linalg.solve(covariance[there][:, there], covariance[there, j])
        center = mean[j] + slope @ (row[there] - mean[there])
        return float(dist.Normal(center, (covariance[j, j] - slope @ covariance[there, j]).sqrt()).log_prob(row[j]))

    usual = [np.median([left_out(row, j) for row in known]) for j in range(4)]
    exact = {i: {j: usual[j] - left_out(x[i], j) for j in range(4) if not x[i, j].isnan()} for i in (3, 5)}
    assert min(max(of.values()) for of in exact.values()) > 15
    for i, reasons in found.reasons.groupby("row"):
        expected = sorted(exact[i].items(), key=lambda item: -item[1])[:3]
        assert reasons["feature"].tolist() == [f"x[{j}]" for j, _ in expected]
        np.testing.assert_allclose(reasons["surprise"], [value for _, value in expected], atol=0.2)
    assert not any("uncertain" in note for note in found.notes)
    rough = detect(MODEL, ROWS + 20 * torch.eye(6)[torch.arange(40) % 6], calibration=KNOWN, explain=2, seed=0)
    assert any("5 of 6 surprises are uncertain" in note for note in rough.notes)


def test_discoveries_are_those_of_the_step_up_procedure():
    x = MODEL.simulate(60, seed=3)
    x[:20] += torch.linspace(0, 4, 20, dtype=x.dtype)[:, None]
    found = detect(MODEL, x, calibration=KNOWN, fdr=0.2, num_samples=5, seed=0)
    p = np.sort(found.dataset.p_value.values)
    k = max([k for k in range(1, 61) if p[k - 1] <= 0.2 * k / 60 + 1e-12], default=0)
    assert 3 < k < 20
    assert int(found.dataset.discovered.sum()) == k


@pytest.mark.parametrize(("num_rows", "discoveries", "fdr"), [(40, 1, 0.1), (40, 3, 0.1), (7, 2, 0.05)])
def test_the_rows_needed_for_discoveries_are_the_fewest(num_rows, discoveries, fdr):
    needed = calibration_needed(num_rows, discoveries, fdr)
    assert 1 / (needed + 1) <= fdr * discoveries / num_rows + 1e-12
    assert 1 / needed > fdr * discoveries / num_rows


@pytest.mark.parametrize(("size", "possible"), [(8, False), (9, True)])
def test_so_few_calibration_rows_that_nothing_can_be_discovered_are_refused(size, possible):
    if possible:
        assert "40 or more are" in " ".join(detect(MODEL, ROWS, calibration=KNOWN[:size], num_samples=5, seed=0).notes)
        return
    with pytest.raises(ValueError, match=r"1 / 9.*give 9 or more") as caught:
        detect(MODEL, ROWS, calibration=KNOWN[:size], num_samples=5)
    assert caught.value.argument == "calibration"


@pytest.mark.parametrize(("size", "said"), [(398, True), (399, False)])
def test_it_is_said_beforehand_when_a_single_row_cannot_be_discovered(size, said):
    found = detect(MODEL, ROWS, calibration=MODEL.simulate(size, seed=2), num_samples=5, seed=0)
    assert any("399 calibration rows" in note for note in found.notes) == said


def test_training_rows_are_refused_whatever_their_order_and_type():
    train = torch.cat([MODEL.simulate(50, seed=1), KNOWN.flip(0)])
    with pytest.raises(ValueError, match="199 of 199 rows are training rows, whose scores are too small") as caught:
        detect(MODEL, ROWS, calibration=KNOWN.numpy(), train=train)
    assert caught.value.argument == "calibration"
    with pytest.raises(ValueError, match="the rows are training rows, whose scores") as caught:
        detect(MODEL, ROWS, calibration=pvae.data.split(as_data(KNOWN), 0.1)[0])
    assert caught.value.argument == "calibration"


def test_rows_that_are_calibration_or_training_rows_are_named():
    x = torch.cat([ROWS, KNOWN[:3]])
    notes = " ".join(detect(MODEL, x, calibration=KNOWN, train=ROWS[:5], num_samples=5, seed=0).notes)
    assert "3 of the rows equal calibration rows" in notes
    assert "5 of the rows equal training rows" in notes
    notes = " ".join(detect(MODEL, KNOWN[[0, 0, 1]], calibration=KNOWN, num_samples=5, seed=0).notes)
    assert "3 of the rows equal calibration rows" in notes


def drifted(x, known):
    return any("drifted" in note for note in detect(MODEL, x, calibration=known, num_samples=5, seed=0).notes)


def test_a_drift_of_usual_rows_is_said_and_anomalies_are_none():
    known, x = MODEL.simulate(500, seed=4), MODEL.simulate(300, seed=3)
    strange, first = x.clone(), x.clone()
    strange[::10] += 20.0
    first[:59] += 20.0
    assert not drifted(x, known)
    assert not drifted(strange, known)
    assert not drifted(first, known)
    assert drifted(MODEL.mean.detach() + 0.6 * (x - MODEL.mean.detach()), known)  # nearer to the mean than usual
    assert drifted(MODEL.mean.detach() + torch.linspace(0.7, 1.4, 300)[:, None] * (x - MODEL.mean.detach()), known)


@pytest.mark.parametrize("shift", [0.8, 2.0, 4.0])
def test_a_shift_of_all_rows_is_said_however_large(shift):
    assert drifted(MODEL.simulate(100, seed=3) + shift, MODEL.simulate(299, seed=4))


def test_drifts_are_found_as_often_as_is_stated():
    """Normal scores, 100 beside 300, p < .01; the same at each run."""
    from pyrovae.uses.anomalies import _drift

    rng = np.random.default_rng(0)
    moves = {
        "up": 1.0,
        "down": -0.6,
        "in order": np.linspace(0, 1.5, 100),
        "none": 0.0,
        "first": 9.0 * (np.arange(100) < 20),
    }
    found = {
        name: np.mean([_drift(rng.normal(size=100) + move, rng.normal(size=300)) < 0.01 for _ in range(50)])
        for name, move in moves.items()
    }
    assert max(found["none"], found["first"]) <= 0.04
    assert min(found["up"], found["down"], found["in order"]) > 0.8


def test_the_test_of_drift_raises_no_more_alarms_than_it_should():
    """Under exchangeability p <= .2 in at most a fifth of 200 draws, beyond 4 standard errors."""
    from pyrovae.uses.anomalies import _drift

    rng = np.random.default_rng(0)
    alarms = sum(_drift(rng.normal(size=50), rng.normal(size=80)) <= 0.2 for _ in range(200))
    assert 5 <= alarms <= 40 + 4 * (200 * 0.2 * 0.8) ** 0.5
    assert sum(_drift(rng.normal(size=3), rng.normal(size=80)) < 0.01 for _ in range(200)) <= 2 + 4 * 1.4


def test_equal_scores_are_in_no_order():
    from pyrovae.uses.anomalies import _drift

    rng = np.random.default_rng(0)
    tied = [_drift(rng.poisson(0.3, 300), rng.poisson(0.3, 300)) for _ in range(40)]
    assert np.mean(np.array(tied) < 0.05) <= 0.15


def test_a_missing_entry_is_no_reason():
    vae = pvae.build_vae(6, likelihood="normal", latent_dim=2, hidden=(4,), seed=0)
    x = ROWS[:2].clone()
    x[0, 2:], x[1] = torch.nan, torch.nan
    reasons = detect(vae, x, calibration=KNOWN, explain=2, num_samples=20, seed=0).reasons
    assert set(reasons["row"]) == {0}
    assert sorted(reasons["feature"]) == ["x[0]", "x[1]"]


def test_a_score_of_nan_has_no_p_value():
    for scores, calibration, name in (([np.nan], [1.0], "scores"), ([1.0], [np.nan, 2.0], "calibration")):
        with pytest.raises(ValueError, match=f"{name} hold 1 NaN, in rows 0"):
            conformal_p_values(scores, calibration)


def test_alarms_a_day_and_their_cost():
    found = detect(MODEL, ROWS, calibration=KNOWN, num_samples=5, seed=0)
    table = found.alarms(rows_per_day=1000, cost=3.0)
    assert table.index.tolist() == [0.005, 0.01, 0.05, 0.1]  # 1 of 200 is the smallest p-value
    np.testing.assert_allclose(table["false_alarms_per_day"], [5, 10, 50, 100])
    seen = 1000 * (found.dataset.p_value.values <= 0.05).mean()
    assert table.loc[0.05, ["alarms_per_day", "cost_per_day"]].tolist() == pytest.approx([seen, 3 * seen])


def test_the_table_names_the_rows_and_the_figure_tells_the_discoveries():
    frame = pd.DataFrame(ROWS.numpy(), index=[f"sample {n}" for n in range(40)])
    frame.iloc[7] += 20.0
    found = detect(MODEL, frame, calibration=MODEL.simulate(999, seed=2), num_samples=5, seed=0)
    first = found.to_frame().iloc[0]
    assert (first["row"], first["name"], first["p_value"], first["discovered"]) == (7, "sample 7", 0.001, True)
    assert repr(found).startswith(
        "1 of 40 rows discovered at a false discovery rate of 0.1, beside 999 calibration rows"
    )
    assert found.plot().get_title(loc="left") == "1 of 40 discovered"


def test_one_row_and_missing_entries():
    x = ROWS[:1].clone()
    found = detect(MODEL, x, calibration=KNOWN, num_samples=5, seed=0)
    assert found.dataset.sizes["data"] == 1
    vae = pvae.build_vae(6, likelihood="normal", latent_dim=2, hidden=(4,), seed=0)
    x[0, 1] = torch.nan
    notes = detect(vae, x, calibration=KNOWN, num_samples=5, seed=0).notes
    assert any("missing in some rows" in note for note in notes)


def test_a_row_of_a_table_is_explained_by_its_column():
    def table(frame):
        return as_data(frame, kinds=dict.fromkeys("abc", "real"))

    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 3)), columns=list("abc"))
    known, x = frame[30:], frame[:30].copy()
    x.iloc[4, 1] = 40.0
    vae = pvae.build_vae(table(known), latent_dim=1, hidden=(4,), seed=0)
    found = detect(vae, table(x), calibration=table(known), explain=1, num_samples=100, seed=0)
    assert found.reasons["row"].tolist() == [4, 4, 4]
    assert found.reasons["feature"].iloc[0] == "b"


def test_hiding_gives_the_conditional_density():
    """Of a normal with its exact guide, whose entries may be missing."""
    from pyrovae.uses import anomalies

    model = MissingPPCA.random(2, 4, exact=True)
    x = model.simulate(10)
    precision = torch.linalg.inv(model.marginal().covariance_matrix.detach())
    mean = x - (x - model.mean.detach()) @ precision / precision.diagonal()
    exact = torch.distributions.Normal(mean, precision.diagonal().rsqrt()).log_prob(x)
    plan = {"num_samples": 50, "seed": 0, "progress": False, "max_bytes": 2**31}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anomalies, "leave_one_feature_out", refused)
        elpd, k = anomalies._left_out(model, as_data(x), plan)
    np.testing.assert_allclose(elpd, exact, atol=1e-6)
    assert k.shape == (10, 4)


def refused(*args, **options):
    raise ValueError("joint")


@pytest.mark.parametrize(
    ("options", "message", "argument"),
    [
        ({"score": "evidense"}, "did you mean 'evidence'", "score"),
        ({"score": "likelihood_ratio"}, "needs the program of a background", "background"),
        ({"background": ELSEWHERE}, "takes no background", "background"),
        ({"score": lambda program, rows: rows.x}, "one number per row", "score"),
        ({"score": lambda program, rows: rows.x[:, 0] * np.nan}, "with NaN", "score"),
        ({"window": 0}, "window must be from 1 to 40", "window"),
        ({"window": 41}, "window must be from 1 to 40", "window"),
    ],
)
def test_what_cannot_be_scored_is_refused(options, message, argument):
    with pytest.raises(ValueError, match=message) as caught:
        anomaly_scores(MODEL, ROWS, **options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("options", "argument"),
    [({"fdr": 1.0}, "fdr"), ({"explain": 1, "window": 2}, "explain"), ({"explain": -1}, "explain")],
)
def test_what_cannot_be_detected_is_refused(options, argument):
    with pytest.raises(ValueError, match=argument) as caught:
        detect(MODEL, ROWS, calibration=KNOWN, **options)
    assert caught.value.argument == argument
