"""Tables of mixed columns: the schema from pandas, coding and back, the likelihood and what a posterior sees."""

from __future__ import annotations

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


def schema() -> parts.TableSchema:
    return parts.TableSchema.from_frame(frame(), kinds={"price": parts.Positive})


def test_schema_reads_kinds_from_dtypes():
    kinds = [type(column).__name__ for column in schema().columns]
    assert kinds == ["Real", "Positive", "Count", "Real", "Category", "Category", "Category"]
    assert schema().columns[4].levels == ("blue", "red")
    assert schema().columns[5].levels == ("S", "M", "L")
    assert schema().columns[6].levels == (False, True)


def test_encoding_and_decoding_are_inverse_and_keep_missing_entries():
    table = schema()
    coded = table.encode(frame())
    assert coded.shape == (4, 7)
    assert np.array_equal(np.isnan(coded), frame().isna().to_numpy())
    back = table.decode(coded)
    for name in ("height", "price", "change"):
        assert np.allclose(back[name], frame()[name].astype(float), equal_nan=True)
    assert back["color"].tolist()[0] == "red"
    assert back["size"].tolist()[1] == "L"
    assert np.array_equal(table.encode(back), coded, equal_nan=True)


def test_likelihood_is_the_sum_of_its_columns_in_their_own_units():
    table = schema()
    likelihood = conditionals.TableLikelihood(pvae.MLP(2, (8,)), schema=table).double()
    z = torch.randn(3, 2, dtype=torch.float64)
    d = likelihood(z)
    x = torch.tensor([1.7, 20.0, 1, 3, 0, 2, 1], dtype=torch.float64)
    height = table.columns[0]
    raw = d.raw[:, :2]
    scale = height.scale * (torch.nn.functional.softplus(raw[:, 1]) + 1e-6)
    wanted = torch.distributions.Normal(height.loc + height.scale * raw[:, 0], scale).log_prob(x[0])
    assert torch.allclose(d.columns[0].log_prob(x[0]), wanted, atol=1e-12)
    assert torch.allclose(d.log_prob(x), sum(c.log_prob(v) for c, v in zip(d.columns, x, strict=True)), atol=1e-12)


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
    x = torch.as_tensor(table.encode(frame()), dtype=torch.float32)
    x = torch.cat([x, torch.full((1, 7), float("nan"))])
    trace = pyro.poutine.trace(pyro.poutine.replay(vae.model, pyro.poutine.trace(vae.guide).get_trace(x))).get_trace(x)
    trace.compute_log_prob()
    found, z = trace.nodes["x"]["log_prob"], trace.nodes["z"]["value"]
    columns = vae.likelihood(z).columns
    for row in range(5):
        terms = [c.log_prob(x[row, j].nan_to_num(1.0))[row] for j, c in enumerate(columns) if not x[row, j].isnan()]
        assert abs(found[row] - sum(terms, torch.zeros(()))) < 1e-4
    pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters())


def test_posterior_sees_zeros_for_what_is_missing_and_the_mask():
    table = schema()
    x = torch.as_tensor(table.encode(frame()))
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
    assert torch.allclose(d.columns[4].probs, torch.tensor(table.columns[4].frequencies))
    assert mean[6] == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: parts.TableSchema.from_frame(frame(), kinds={"weight": parts.Real}), "weight"),
        (lambda: parts.TableSchema.from_frame(frame(), kinds={"change": parts.Positive}), "cannot be positive"),
        (lambda: parts.TableSchema.from_frame(pd.DataFrame({"a": [1.0, 1.0]})), "constant"),
        (lambda: parts.TableSchema.from_frame(pd.DataFrame({"a": ["x", "x"]})), "two or more"),
        (lambda: schema().encode(frame().drop(columns="price")), "lacks the column 'price'"),
        (lambda: schema().encode(frame().assign(color="green")), "unknown to the schema"),
        (lambda: schema().encode(frame().assign(visits=0.5)), "row 0 holds 0.5"),
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
    data = torch.as_tensor(table.encode(pd.concat([frame()] * 20)), dtype=torch.float32)
    history = pvae.fit(vae, data, epochs=30, batch_size=20, learning_rate=1e-2, seed=0)
    assert history["elbo"][-1] > history["elbo"][0]


def test_trace_mean_field_without_a_closed_form_says_so():
    net = pvae.MLP(3, (8,))
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), event_shape=3)
    vae = pvae.VAE(pvae.standard_normal(2), likelihood, conditionals.AffineFlow(net, 2))
    with pytest.warns(UserWarning, match="closed"):
        pvae.fit(vae, torch.randn(8, 3), steps=1, objective=pyro.infer.TraceMeanField_ELBO(), seed=0)
