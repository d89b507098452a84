"""Does my prior matter: conclusions over priors held against refits, decisions on each side, refusals."""

import numpy as np
import pytest
import torch
from oracles import PPCA
from scipy import stats

import pyrovae as pvae
from pyrovae.uses import prior_sensitivity
from pyrovae.uses.priors import dataset_of, judge


class Announced(PPCA):
    """A model whose weights training knows."""

    def model(self, x=None, size=None):
        pvae.register(self)
        return super().model(x, size)


def values(apart, priors=2, refits=2):
    """Refits one apart on both sides of their mean, and the last prior's mean so far from the first's."""
    found = np.zeros((priors, refits, 1)) + np.array([-0.5, 0.5])[:, None]
    found[-1] += apart
    return found


@pytest.mark.parametrize("priors", [2, 3])
def test_the_statistic_and_its_p_value_are_those_of_numpy(priors):
    found = dataset_of(values(2.0, priors), list("abc")[:priors], ["c"], np.zeros((priors, 2)))
    assert found["statistic"].item() == pytest.approx(2.0 / np.sqrt(0.5))  # of variances 1/2 of single refits
    expected = min(1.0, 2 * (priors - 1) * stats.t.sf(2.0 / np.sqrt(0.5), priors))
    assert found["p_value"].item() == pytest.approx(expected)


def test_of_conclusions_that_no_prior_moves_one_in_twenty_is_called():
    value = np.random.default_rng(0).normal(size=(2, 3, 5000))
    p = dataset_of(value, ["a", "b"], [str(k) for k in range(5000)], np.zeros((2, 3)))["p_value"].values
    assert abs((p < 0.05).mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 5000)


@pytest.mark.parametrize(("apart", "held"), [(0.0, True), (3.0, True), (3.1, False)])
def test_a_conclusion_depends_on_the_prior_beyond_what_refits_differ(apart, held):
    """Two refits each: Student's t with 2 degrees of freedom is at 5 % at 4.303, here at 3.04."""
    finding = judge(dataset_of(values(apart), ["a", "b"], ["c"], np.zeros((2, 2))))[1]
    assert finding.tone == ("good" if held else "caution")
    assert finding.claim.startswith("c is not told apart between priors" if held else "c depends on the prior")
    assert f"largest difference from a {apart:.3g} ± 3 (95% interval)" in finding.claim  # 4.303 / sqrt(2)
    assert "hold" not in finding.claim


def test_conclusions_without_spread_hold_only_where_they_are_equal():
    value = np.zeros((2, 2, 2))
    value[1, :, 1] = 1e-3
    p = dataset_of(value, ["a", "b"], ["same", "other"], np.zeros((2, 2)))["p_value"].values
    np.testing.assert_array_equal(p, [1.0, 0.0])


def test_what_the_prior_moves_is_told_from_what_it_leaves_alone():
    """Refits that differ by a little: of a scale that the latents take up and the predictions do not."""
    base = torch.tensor([[2.0], [1.0], [-1.0], [0.5]], dtype=torch.float64)
    x = PPCA(base, 0.01).simulate(200)

    def make(scale):
        return Announced(scale * base * (1 + 0.02 * torch.randn(4, 1).double()), 0.01, exact=True)

    conclusions = {
        "spread of z": lambda program, rows: program.posterior(rows.x).loc.std(),
        "means": lambda program, rows: (program.posterior(rows.x).loc @ program.weight.T)[:2, 0],
    }
    untrained = {"epochs": 1, "batch_size": 200, "learning_rate": 1e-12}
    options = {"fit_options": untrained, "method": "importance", "num_samples": 20, "refits": 3, "progress": False}
    found = prior_sensitivity(make, x, {"scale": [1.0, 2.0]}, conclusions=conclusions, **options)
    assert found.dataset["conclusion"].values.tolist() == ["spread of z", "means[0]", "means[1]"]
    assert found.dataset["prior"].values.tolist() == ["scale=1.0", "scale=2.0"]
    assert found.value.shape == (2, 3, 3)
    assert found.p_value[0] < 0.01 < 0.05 < found.p_value[1:].min()
    assert found.mean[1, 0] == pytest.approx(found.mean[0, 0] / 2, rel=0.1)
    assert (found.sd > 0).all(), "each refit has weights of its own"
    assert found.comparison.frame["num_refits"].tolist() == [3, 3]
    np.testing.assert_allclose(found.elpd.mean(1)[0], found.comparison.per_datum().loc["scale=1.0", "elpd"])
    ax = found.plot()
    assert ax.get_title(loc="left") == "1 of 3 conclusions depend on the prior"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["spread of z", "means[0]", "means[1]"]


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"prior": ["a"]}, {}, "two priors or more"),
        ({"prior": ["a", "b"]}, {"conclusions": {}}, "a conclusion or more"),
        ({"prior": ["a", "b"]}, {"refits": 1}, "refits must be at least 2"),
        ({"prior": ["a", "b"]}, {"conclusions": {"c": lambda vae, rows: float("nan")}}, "finite numbers of one shape"),
    ],
)
def test_what_cannot_be_compared_over_priors_is_refused(grid, options, message):
    def make(prior):
        return pvae.build_vae(3, likelihood="normal", latent_dim=1, hidden=(4,))

    plan = {
        "conclusions": {"c": lambda vae, rows: 1.0},
        "fit_options": {"epochs": 1},
        "num_samples": 5,
        "progress": False,
    }
    with pytest.raises(ValueError, match=message):
        prior_sensitivity(make, torch.randn(20, 3), grid, **{**plan, **options})
