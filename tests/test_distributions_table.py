"""Tables of mixed columns: the schema from pandas, coding and back, the likelihood and what a posterior sees."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pvae
from pyrovae import conditionals
from pyrovae import distributions as parts


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "height": [1.8, np.nan, 1.6, 1.7],
            "price": [10.0, 100.0, np.nan, 1.0],
            "visits": pd.array([0, 3, None, 2], dtype="Int64"),
            "change": [-1, 2, 0, 4],
            "color": ["red", None, "blue", "red"],
            "size": pd.Categorical(["S", "L", None, "S"], categories=["S", "M", "L"], ordered=True),
            "member": [True, False, True, True],
        }
    )


KINDS = {"height": "real", "price": "positive", "visits": "count", "change": "real"}


def data() -> pvae.data.Data:
    return pvae.data.as_data(frame(), kinds=KINDS)


def schema() -> parts.TableSchema:
    return parts.TableSchema.of(data())


def test_kinds_are_those_given_or_guessed():
    kinds = [column.kind for column in schema().columns]
    assert kinds == ["real", "positive", "count", "real", "binary", "ordinal", "binary"]
    assert schema().columns[4].levels == ("blue", "red")
    assert schema().columns[5].levels == ("S", "M", "L")
    assert schema().columns[6].levels == ("False", "True")


def test_codes_and_frames_are_inverse_and_keep_missing_entries():
    coded = data()
    assert coded.x.shape == (4, 7)
    assert np.array_equal(coded.x.isnan(), frame().isna().to_numpy())
    back = coded.to_frame()
    for name in ("height", "price", "change"):
        assert np.allclose(back[name], frame()[name].astype(float), equal_nan=True)
    assert back["color"].tolist() == ["red", np.nan, "blue", "red"]
    assert back["size"].tolist()[1] == "L"
    assert back["size"].cat.ordered
    again = coded.matched(pvae.data.as_data(back, kinds=KINDS | {"member": "binary"}))
    assert np.array_equal(again.x, coded.x, equal_nan=True)


def test_likelihood_is_the_sum_of_its_columns_in_their_own_units():
    table = schema()
    likelihood = conditionals.TableLikelihood(pvae.MLP(2, (8,)), schema=table).double()
    d = likelihood(torch.randn(3, 2, dtype=torch.float64))
    x = torch.tensor([1.7, 20.0, 1, 3, 0, 2, 1], dtype=torch.float64)
    height, (noise, _) = table.columns[0], d.shared[:2]
    scale = height.scale * (torch.nn.functional.softplus(noise) + 1e-6)
    wanted = torch.distributions.Normal(height.loc + height.scale * d.located[:, 0], scale).log_prob(x[0])
    assert torch.allclose(d.column("height").log_prob(x[0]), wanted, atol=1e-12)
    terms = [d.column(column.name).log_prob(value) for column, value in zip(table.columns, x, strict=True)]
    assert torch.allclose(d.log_prob(x), sum(terms), atol=1e-12)


@pytest.mark.parametrize("kind", ["real", "student_t", "positive", "bounded:-2000:8000"])
def test_a_change_of_unit_shifts_the_evidence_by_its_jacobian(kind):
    """Trained alike, the model of kilograms and that of grams differ by log 1000 per row, to rounding."""
    torch.manual_seed(0)
    x = 5 * (torch.randn(200, 1) @ torch.randn(1, 3) + 0.5 * torch.randn(200, 3)).double()
    x = x.exp() if kind == "positive" else x
    found = []
    for unit in (1.0, 1000.0):
        own = "bounded:-2:8" if kind.startswith("bounded") and unit == 1.0 else kind
        values = (x.clamp(-2, 8) if kind.startswith("bounded") else x) * unit
        table = parts.TableSchema.of(
            pvae.data.as_data(pd.DataFrame(values, columns=list("abc")), kinds=dict.fromkeys("abc", own))
        )
        torch.manual_seed(1)
        vae = pvae.VAE(
            pvae.standard_normal(1),
            conditionals.TableLikelihood(pvae.MLP(1, (8,)), schema=table),
            pvae.Factorized(
                dist.Normal, conditionals.TableNetwork(pvae.MLP(table.num_features, (8,)), table), event_shape=1
            ),
        ).double()
        pvae.fit(vae, values, epochs=3, seed=0, progress=False)
        found.append(pvae.elbo(vae, values, num_samples=4, seed=0, progress=False).elbo.values)
    assert np.allclose(found[0] - found[1], 3 * np.log(1000.0), atol=1e-6)


def test_missing_entries_of_every_kind_are_left_out_and_gradients_are_finite():
    table = schema()
    torch.manual_seed(0)
    vae = pvae.VAE(
        pvae.standard_normal(2),
        conditionals.TableLikelihood(pvae.MLP(2, (8,)), schema=table),
        pvae.Factorized(
            dist.Normal, conditionals.TableNetwork(pvae.MLP(table.num_features, (8,)), table), event_shape=2
        ),
    )
    x = data().x.float()
    x = torch.cat([x, torch.full((1, 7), float("nan"))])
    trace = pyro.poutine.trace(pyro.poutine.replay(vae.model, pyro.poutine.trace(vae.guide).get_trace(x))).get_trace(x)
    trace.compute_log_prob()
    found, z = trace.nodes["x"]["log_prob"], trace.nodes["z"]["value"]
    rows = vae.likelihood(z)
    columns = [rows.column(column.name) for column in table.columns]
    for row in range(5):
        terms = [c.log_prob(x[row, j].nan_to_num(1.0))[row] for j, c in enumerate(columns) if not x[row, j].isnan()]
        assert abs(found[row] - sum(terms, torch.zeros(()))) < 1e-4
    pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


def test_posterior_sees_zeros_for_what_is_missing_and_the_mask():
    table = schema()
    x = data().x
    mask = ~x.isnan()
    features = table.features(torch.where(mask, x, 123.0), mask)
    assert features.shape == (4, table.num_features)
    assert torch.equal(features, table.features(torch.where(mask, x, 3.0), mask))
    assert features[1, 0] == 0
    assert torch.equal(features[:, -7:].bool(), mask)
    assert abs(features[mask[:, 0], 0].mean()) < 1e-6


def test_likelihood_starts_at_the_columns_marginals():
    table = schema()
    d = conditionals.TableLikelihood(schema=table)()
    mean = d.mean
    assert torch.allclose(mean[0], torch.tensor(table.columns[0].loc))
    assert torch.allclose(mean[2], torch.tensor(table.columns[2].mean), rtol=1e-4)
    for name in ("color", "size", "member"):
        column = next(column for column in table.columns if column.name == name)
        masses = [d.column(name).log_prob(torch.tensor(float(k))).exp().item() for k in range(len(column.levels))]
        assert np.allclose(masses, column.frequencies, atol=1e-5)
    assert mean[6] == 1


@pytest.mark.parametrize("kind", ["real", "student_t", "positive", "bounded", "count", "binary", "category", "ordinal"])
def test_columns_come_back_from_json(kind):
    table = of({"a": kind}, a=[0, 1, 1] if kind != "positive" else [1, 2, 3])
    assert parts.TableSchema.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_probabilities_of_levels_are_given_by_column():
    table = schema()
    torch.manual_seed(0)
    d = conditionals.TableLikelihood(pvae.MLP(2, (8,)), schema=table)(torch.randn(5, 2))
    found = d.probabilities()
    assert {name: tuple(masses.shape) for name, masses in found.items()} == {
        "color": (5, 2),
        "size": (5, 3),
        "member": (5, 2),
    }
    for name, masses in found.items():
        assert torch.allclose(masses.sum(-1), torch.ones(5), atol=1e-5)
        place = [column.name for column in table.columns].index(name)
        assert torch.equal(masses.argmax(-1).float(), d.mean[:, place])


def test_measures_are_known_by_column():
    table = schema()
    assert (
        parts.TableDistribution(table, *table.start()).support.measure
        == "density, and mass of visits, color, size, member"
    )
    for names, measure in ((["height", "price"], "density"), (["visits", "color"], "mass")):
        few = parts.TableSchema(tuple(column for column in table.columns if column.name in names))
        assert parts.TableDistribution(few, *few.start()).support.measure == measure


def of(kinds: dict[str, str] | None = None, **columns: object) -> parts.TableSchema:
    return parts.TableSchema.of(pvae.data.as_data(pd.DataFrame(columns), kinds=kinds))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: of({"weight": "real"}, a=[1.5, 2.5]), "expected a column 'weight' in x, got: 'a'"),
        (lambda: of({"a": "positive"}, a=[-1.0, 2.0]), "cannot be positive, since it holds -1"),
        (lambda: of({"a": "count"}, a=[0.5, 2.0]), "cannot be count, since it holds 0.5"),
        (lambda: of({"a": "bounded:0:1"}, a=[0.5, 2.0]), "cannot be bounded, since it holds 2"),
        (lambda: of({"a": "bounded:0"}, a=[0.5, 2.0]), "bounds are written bounded:0:10, got 'bounded:0'"),
        (lambda: of({"a": "binary"}, a=[0, 1, 2]), "3 level.s., which is not binary"),
        (lambda: of({"a": "catgory"}, a=[0, 1, 2]), "did you mean 'category'"),
        (lambda: of({}, a=[1.5, 1.5]), "constant"),
        (lambda: of({}, a=[np.nan, np.nan]), "'a' is empty or constant"),
        (lambda: of({}, a=["x", "x"]), "'a' is empty or constant"),
        (lambda: of(None, a=[1.5, 2.5]), "kinds of the columns are not known"),
        (lambda: data().matched(pvae.data.as_data(frame().assign(color="green"), kinds={})), "level 'green' in row 0"),
        (lambda: conditionals.TableNetwork(pvae.MLP(3, (8,)), schema()), "in_shape=schema.num_features"),
    ],
)
def test_bad_tables_are_refused_with_the_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_fit_takes_a_table_and_a_count_network():
    table = schema()
    posterior = pvae.Factorized(
        dist.Normal, conditionals.TableNetwork(pvae.MLP(table.num_features, (8,)), table), event_shape=2
    )
    vae = pvae.VAE(pvae.standard_normal(2), conditionals.TableLikelihood(pvae.MLP(2, (8,)), schema=table), posterior)
    rows = data().x.float().repeat(20, 1)
    history = pvae.fit(vae, rows, epochs=30, batch_size=20, learning_rate=1e-2, seed=0)
    assert history["elbo"][-1] > history["elbo"][0]


def test_trace_mean_field_without_a_closed_form_says_so():
    net = pvae.MLP(3, (8,))
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=3)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, conditionals.AffineFlow(net, 2))
    with pytest.warns(UserWarning, match="closed"):
        pvae.fit(vae, torch.randn(8, 3), steps=1, objective=pyro.infer.TraceMeanField_ELBO(), seed=0)
