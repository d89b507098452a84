"""The bridge to ArviZ on generated arrays; the same file runs under ArviZ 0.23 and 1.x, and needs no torch."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from pyrovae import arviz as bridge
from pyrovae.arviz import (
    as_coordinate,
    check_bytes,
    datasets_of,
    from_netcdf,
    from_zarr,
    import_arviz,
    split_chains,
    to_arviz,
    to_compare_frame,
    to_datasets,
    to_elpd_data,
    to_netcdf,
    to_zarr,
    zarr_stream,
)

# What ArviZ 0.23 says about its own calls of newer pandas and matplotlib.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values is deprecated"),
    pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping to normalize_kwargs is deprecated"),
]

ROWS, DRAWS, LATENT, FEATURES = 12, 400, 3, 4
FEATURE_NAMES = ["height", "width", "depth", "mass"]
DIMS = {"z": ["data", "latent_dim"], "x": ["data", "feature"], "size": ["data"], "batch": ["data"]} | {
    name: ["data"] for name in ("lp", "log_q", "log_weight")
}
PER_DATUM = ("elbo", "log_marginal", "mcse", "pareto_k", "ess", "kl")
REPOSITORY = pathlib.Path(__file__).parents[1]


def generated(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x = normal(ROWS, FEATURES)
    means = 0.1 * normal(1, DRAWS, 1, FEATURES)
    log_likelihood = -0.5 * ((x - means) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    x[2, 1] = np.nan
    return {
        "posterior": {"z": normal(1, DRAWS, ROWS, LATENT), "mu": normal(1, DRAWS)},
        "sample_stats": {name: normal(1, DRAWS, ROWS) for name in ("lp", "log_q", "log_weight")},
        "posterior_predictive": {"x": normal(1, DRAWS, ROWS, FEATURES)},
        "prior": {"z": normal(1, DRAWS, ROWS, LATENT), "mu": normal(1, DRAWS)},
        "prior_predictive": {"x": normal(1, DRAWS, ROWS, FEATURES)},
        "predictions": {"x": normal(1, DRAWS, 5, FEATURES)},
        "observed_data": {"x": x},
        "constant_data": {"size": np.arange(ROWS), "batch": np.array(["north", "south"] * 6)},
        "log_likelihood": {"x": log_likelihood.sum(-1)},
        "amortized_diagnostics": {name: normal(ROWS) for name in PER_DATUM},
        "prior_sbc": {"z": rng.uniform(size=(1, 50, LATENT))},
    }


@pytest.fixture(scope="module")
def az():
    module = import_arviz()
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    return module


@pytest.fixture(scope="module")
def datasets():
    return to_datasets(generated(), dims=DIMS, coords={"feature": FEATURE_NAMES}, attrs={"inference_library": "pyro"})


@pytest.fixture(scope="module")
def idata(datasets):
    return to_arviz(datasets, attrs={"title": "generated"})


@pytest.fixture
def rows(idata):
    """Two rows and one column: what a reader would look at, never all of them."""
    return idata.sel(data=[0, 3], feature=["height"])


# ---------------------------------------------------------------------------------------------- datasets


def test_every_group_has_the_dimensions_of_the_schema(datasets):
    sample = {"chain": 1, "draw": DRAWS}
    latent, features = {"data": ROWS, "latent_dim": LATENT}, {"data": ROWS, "feature": FEATURES}
    assert {group: dict(data.sizes) for group, data in datasets.items()} == {
        "posterior": sample | latent,
        "sample_stats": sample | {"data": ROWS},
        "posterior_predictive": sample | features,
        "prior": sample | latent,
        "prior_predictive": sample | features,
        "predictions": sample | {"new_data": 5, "feature": FEATURES},
        "observed_data": features,
        "constant_data": {"data": ROWS},
        "log_likelihood": sample | {"data": ROWS},
        "amortized_diagnostics": {"data": ROWS},
        "prior_sbc": {"chain": 1, "draw": 50, "latent_dim": LATENT},
    }
    assert datasets["posterior"]["z"].dims == ("chain", "draw", "data", "latent_dim")
    assert datasets["posterior"]["mu"].dims == ("chain", "draw")


def test_rules_that_arviz_relies_on(datasets):
    for data in datasets.values():
        assert set(data.dims) == set(data.coords)
        assert not set(data.data_vars) & set(data.dims)
        assert all(isinstance(value, str | int | float) for value in data.attrs.values())
        assert data.attrs["inference_library"] == "pyro"
        assert data.attrs["creation_library"] == "pyrovae"


def test_values_are_not_copied_and_missing_entries_stay():
    groups = generated()
    datasets = to_datasets(groups, dims=DIMS)
    assert np.shares_memory(datasets["posterior"]["z"].values, groups["posterior"]["z"])
    assert np.isnan(datasets["observed_data"]["x"].values[2, 1])


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ({}, ("chain", "draw", "w_dim_0", "w_dim_1")),
        ({"w": ["data"]}, ("chain", "draw", "data", "w_dim_0")),
        ({"w": ["data", None]}, ("chain", "draw", "data", "w_dim_0")),
        ({"w": [None, "time"]}, ("chain", "draw", "w_dim_0", "time")),
        ({"w": ["chain", "draw", "data", "time"]}, ("chain", "draw", "data", "time")),
    ],
)
def test_dims_name_what_follows_the_leading_ones(dims, expected):
    built = to_datasets({"posterior": {"w": np.zeros((1, 5, 2, 3))}}, dims=dims)
    assert built["posterior"]["w"].dims == expected


@pytest.mark.parametrize(("shape", "expected"), [((1, 5, 2), ("data",)), ((1, 5, 2, 3), ("data", "time"))])
def test_log_likelihood_may_lack_event_dimensions(shape, expected):
    built = to_datasets({"log_likelihood": {"w": np.zeros(shape)}}, dims={"w": ["data", "time"]})
    assert built["log_likelihood"]["w"].dims == ("chain", "draw", *expected)


def test_frames_label_their_dimensions_in_every_group():
    import pandas as pd

    frame = pd.DataFrame(np.zeros((2, 3)), columns=["a", "b", "c"], index=["first", "second"])
    groups = {
        "posterior_predictive": {"x": np.zeros((1, 4, 2, 3))},
        "observed_data": {"x": frame},
        "constant_data": {"size": pd.Series([1, 2], index=frame.index)},
    }
    built = to_datasets(groups, dims={"x": ["data"], "size": ["data"]})
    for group in built.values():
        assert list(group["data"].values) == ["first", "second"]
    for group in ("posterior_predictive", "observed_data"):
        assert list(built[group]["x_dim_0"].values) == ["a", "b", "c"]
    named = to_datasets(groups, dims={"x": ["data", "column"], "size": ["data"]}, coords={"column": [10, 20, 30]})
    assert list(named["posterior_predictive"]["column"].values) == [10, 20, 30]


def test_a_ready_dataset_joins_the_rest():
    import pandas as pd

    own = xr.Dataset({"rate": ("data", [1.0, 2.0])})
    observed = pd.DataFrame(np.zeros((2, 1)), index=["r1", "r2"])
    built = to_datasets({"my_group": own, "observed_data": {"x": observed}}, dims={"x": ["data"]})
    assert list(built["my_group"]["data"].values) == ["r1", "r2"]
    assert "data" not in own.coords


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (range(3), np.arange(3)),
        (["a", None], np.array(["a", "None"])),
        (np.array([b"a", b"bc"]), np.array(["a", "bc"])),
        ([("a", 1), ("b", 2)], None),
        (np.array(["2020-01-01"], dtype="datetime64[ns]"), np.array(["2020-01-01"], dtype="datetime64[ns]")),
    ],
    ids=str,
)
def test_labels(labels, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"form a list, but these have shape \(2, 2\)"):
            as_coordinate(labels)
    else:
        np.testing.assert_array_equal(as_coordinate(labels), expected)
        assert as_coordinate(labels).dtype.kind == expected.dtype.kind


@pytest.mark.parametrize("column", ["strings", "levels", "halves"])
def test_types_that_files_cannot_hold_are_turned_into_those_they_can(column):
    import pandas as pd

    values = {
        "strings": np.array(["a", "b"], dtype=object),
        "levels": pd.Series(["a", "b"], dtype="category"),
        "halves": np.array([0.5, 2.0], dtype=np.float16),
    }[column]
    built = to_datasets({"constant_data": {"c": values}})["constant_data"]["c"]
    assert built.dtype == (np.float32 if column == "halves" else np.dtype("<U1"))
    assert list(built.values) == list(values)


ZEROS = np.zeros((1, 5, 2))


@pytest.mark.parametrize(
    ("groups", "options", "error", "message"),
    [
        ({"posterior_preditive": {"x": ZEROS}}, {}, ValueError, "unknown group 'posterior_preditive'; the groups are"),
        (
            {"posterior": {"z": np.zeros(5)}},
            {},
            ValueError,
            r"has shape \(5,\), but its dimensions are \('chain', 'dra",
        ),
        ({"posterior": {"z": ZEROS}}, {"dims": {"z": ["data", "k"]}}, ValueError, "'data', 'k'.: give an array with"),
        ({"posterior": {"z": ZEROS}}, {"coords": {"z_dim_0": "abc"}}, ValueError, "form a list"),
        (
            {"posterior": {"z": ZEROS}},
            {"coords": {"z_dim_0": list("abc")}},
            ValueError,
            "3 labels, but posterior has 2",
        ),
        ({"posterior": {"data": ZEROS}}, {}, ValueError, r"named like dimensions, \['data'\]: rename the sites"),
        (
            {"posterior": {"k": ZEROS, "z": ZEROS}},
            {"dims": {"z": ["k"]}},
            ValueError,
            r"named like dimensions, \['k'\]",
        ),
        ({"constant_data": {"draw": np.zeros(2)}}, {}, ValueError, r"named like dimensions, \['draw'\]"),
        ({"constant_data": {"c": np.zeros((2, 2))}}, {"dims": {"c": ["k", "k"]}}, ValueError, "has a dimension twice"),
        ({"constant_data": {"c": np.array([object()])}}, {}, TypeError, "dtype object, which netCDF and zarr cannot"),
        ({"constant_data": {"c": np.zeros(2, complex)}}, {}, TypeError, "dtype complex128"),
        ({"posterior": {"z": ZEROS}}, {"attrs": {"seed": None}}, ValueError, "attribute 'seed' is None"),
        (
            {"observed_data": {"x": np.zeros((3, 2)), "y": np.zeros(2)}},
            {"dims": {"x": ["data"], "y": ["data"]}},
            ValueError,
            "data",
        ),
    ],
)
def test_refused(groups, options, error, message):
    with pytest.raises(error, match=message):
        to_datasets(groups, **options)


def test_attributes_are_plain():
    attrs = {"steps": np.int64(3), "done": True, "loss": np.float32(0.5), "name": "vae"}
    built = to_datasets({"posterior": {"z": ZEROS}}, attrs=attrs)["posterior"].attrs
    assert {name: built[name] for name in attrs} == {"steps": 3, "done": 1, "loss": 0.5, "name": "vae"}
    assert type(built["steps"]) is int
    assert type(built["done"]) is int


def test_too_many_bytes_are_refused_with_the_remedy():
    sizes = {"posterior": 4 * 1000 * 10_000 * 50, "prior": 4 * 1000 * 10_000 * 10}
    check_bytes(sizes, 2_400_000_000)
    message = r"2.24 GiB \(posterior 1.86 GiB, prior 0.373 GiB\), above max_bytes = 1 GiB.*45%.*store=.*"
    with pytest.raises(ValueError, match=message):
        check_bytes(sizes, 2**30)


# ---------------------------------------------------------------------------------------------- containers


def test_container_of_the_installed_line(az, idata, datasets):
    expected = az.InferenceData if az.__version__.startswith("0.") else xr.DataTree
    assert type(idata) is expected
    assert idata.attrs == {"title": "generated"}
    back = datasets_of(idata)
    assert set(back) == set(datasets)
    for group, data in datasets.items():
        xr.testing.assert_identical(back[group], data)


def test_split_chains_keeps_every_draw_in_order(idata):
    split = datasets_of(split_chains(idata, 4))
    for group, data in datasets_of(idata).items():
        if "draw" not in data.dims or group == "prior_sbc":
            xr.testing.assert_identical(split[group], data)
            continue
        assert split[group].sizes["chain"] == 4
        for name, values in data.items():
            parts = split[group][name].transpose("chain", "draw", ...).values
            np.testing.assert_array_equal(parts.reshape(values.shape), values.values)


@pytest.mark.parametrize(("num_chains", "again"), [(3, False), (0, False), (2, True)])
def test_draws_that_do_not_divide_are_refused(num_chains, again, idata):
    start = split_chains(idata, 2) if again else idata
    with pytest.raises(ValueError, match=rf"draws, which do not make {num_chains} chains out of one"):
        split_chains(start, num_chains)


def test_empty_groups_are_left_out(datasets):
    assert set(datasets_of(to_arviz({**datasets, "empty": xr.Dataset()}))) == set(datasets)


def test_other_objects_are_no_containers():
    with pytest.raises(TypeError, match="expected an InferenceData, a DataTree or a dict of datasets, but a list came"):
        datasets_of([1])


def run_python(code, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("cache", ["fresh", "unwritable"])
def test_importing_arviz_survives_its_daily_warning_and_its_cache_folder(cache, tmp_path):
    place = tmp_path / "cache" if cache == "fresh" else "/dev/null"
    code = "from pyrovae.arviz import import_arviz; print(import_arviz().__name__)"
    done = run_python(code, XDG_CACHE_HOME=str(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "arviz\n"


def test_importing_the_bridge_loads_nothing_heavy():
    heavy = ("torch", "pyro", "arviz", "arviz_base", "xarray", "pandas", "matplotlib", "zarr", "h5netcdf")
    done = run_python(f"import sys, pyrovae.arviz; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_building_and_writing_needs_no_torch(tmp_path):
    code = (
        "import sys, numpy as np; from pyrovae import arviz as io; "
        "sets = io.to_datasets({'posterior': {'z': np.zeros((1, 5, 2))}}); "
        f"print(io.to_netcdf(io.to_arviz(sets), {str(tmp_path / 'a.nc')!r}).name, 'torch' in sys.modules)"
    )
    done = run_python(code)
    assert done.stdout == "a.nc False\n", done.stderr


def test_public_names_are_documented():
    needs_torch = set() if importlib.util.find_spec("torch") else {"from_pyro_svi"}
    for name in set(bridge.__all__) - {"GROUPS"} - needs_torch:
        assert getattr(bridge, name).__doc__, name


# ---------------------------------------------------------------------------------------------- ArviZ's functions


def old(az):
    return az.__version__.startswith("0.")


def test_selecting_rows_reaches_every_group_that_has_them(rows):
    sizes = {group: dict(data.sizes) for group, data in datasets_of(rows).items()}
    assert sizes["posterior"]["data"] == sizes["observed_data"]["data"] == sizes["amortized_diagnostics"]["data"] == 2
    assert sizes["predictions"]["new_data"] == 5


def test_summary_gives_the_moments(az, rows):
    table = az.summary(rows, round_to=8 if old(az) else "none")
    z = datasets_of(rows)["posterior"]["z"]
    for data in (0, 3):
        for latent in range(LATENT):
            draws = z.sel(data=data, latent_dim=latent).values.ravel()
            row = table.loc[f"z[{data}, {latent}]"]
            assert float(row["mean"]) == pytest.approx(draws.mean(), abs=1e-6)
            assert float(row["sd"]) == pytest.approx(draws.std(ddof=1), rel=1e-2)
            assert float(row["ess_bulk"]) > DRAWS / 3
    assert len(table) == 2 * LATENT + 1


def test_hdi_holds_its_mass(az, rows):
    options = {"hdi_prob": 0.8} if old(az) else {"prob": 0.8}
    found = az.hdi(rows, **options)
    bound = "hdi" if old(az) else "ci_bound"
    low, high = (found["z"].isel({bound: i}) for i in (0, 1))
    z = datasets_of(rows)["posterior"]["z"]
    inside = ((z >= low) & (z <= high)).mean(["chain", "draw"])
    np.testing.assert_allclose(inside, 0.8, atol=2 / DRAWS)


def test_extract_stacks_the_draws(az, rows):
    stacked = az.extract(rows)
    assert stacked["z"].sizes == {"data": 2, "latent_dim": LATENT, "sample": DRAWS}
    z = datasets_of(rows)["posterior"]["z"]
    np.testing.assert_array_equal(stacked["z"].transpose("sample", ...).values, z.values[0])


def conjugate(noise_scale, seed=3, num_rows=40, num_draws=4000):
    """Rows x_i ~ N(mu, noise_scale) with mu ~ N(0, 1), exact posterior draws, exact leave-one-out elpd."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.7, 1.0, size=num_rows)
    variance = 1 / (1 + num_rows / noise_scale**2)
    mu = rng.normal(variance * x.sum() / noise_scale**2, np.sqrt(variance), size=(1, num_draws))
    log_likelihood = normal_log_density(x, mu[..., None], noise_scale**2)
    left = 1 / (1 + (num_rows - 1) / noise_scale**2)
    exact = normal_log_density(x, left * (x.sum() - x) / noise_scale**2, left + noise_scale**2).sum()
    groups = {"posterior": {"mu": mu}, "log_likelihood": {"x": log_likelihood}, "observed_data": {"x": x}}
    return to_arviz(to_datasets(groups, dims={"x": ["data"]})), exact


def normal_log_density(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def test_loo_is_the_exact_one_of_a_conjugate_pair(az):
    idata, exact = conjugate(1.0)
    found = az.loo(idata, pointwise=True)
    assert found.n_data_points == 40
    assert (found.elpd_loo if old(az) else found.elpd) == pytest.approx(exact, abs=0.02)
    assert float(np.max(found.pareto_k)) < 0.5


def test_compare_ranks_the_right_noise_first(az):
    right, wrong = conjugate(1.0)[0], conjugate(3.0)[0]
    table = az.compare({"wrong": wrong, "right": right}, **({} if old(az) else {"round_to": 4}))
    assert list(table.index) == ["right", "wrong"]
    assert float(table["weight"]["right"]) > 0.8
    difference = abs(float(table["elpd_diff"]["wrong"]))
    assert difference == pytest.approx(conjugate(1.0)[1] - conjugate(3.0)[1], abs=0.02)


def draw_latents(az, rows):
    return az.plot_posterior(rows, var_names=["z"]) if old(az) else az.plot_dist(rows, var_names=["z"])


def draw_pair(az, rows):
    return az.plot_pair(rows.sel(data=[0]), var_names=["z"])


def draw_rank(az, rows):
    # 1.x compares chains unless it is asked for the envelope of each.
    return az.plot_rank(rows, var_names=["z"]) if old(az) else az.plot_rank(rows, var_names=["z"], method="envelope")


def draw_predictive_check(az, rows):
    if old(az):
        return az.plot_ppc(rows, num_pp_samples=20, random_seed=0)
    return az.plot_ppc_dist(rows, num_samples=20)


def draw_ecdf(az, rows):
    if old(az):
        draws = datasets_of(rows)["posterior"]["z"].values.ravel()
        return az.plot_ecdf(draws, eval_points=np.linspace(-2, 2, 9))
    return az.plot_dist(rows, var_names=["z"], kind="ecdf")


def draw_calibration(az, rows):
    ranks = datasets_of(rows)["prior_sbc"]["z"]
    if old(az):
        uniform = {"cdf": lambda u: np.clip(u, 0.0, 1.0), "eval_points": np.linspace(0, 1, 9)}
        return az.plot_ecdf(ranks.values.ravel(), **uniform)
    return az.plot_ecdf_pit(rows)


def draw_khat(az, rows):
    return az.plot_khat(az.loo(conjugate(1.0)[0], pointwise=True))


FIGURES = {
    "posterior": draw_latents,
    "forest": lambda az, rows: az.plot_forest(rows, var_names=["z"]),
    "pair": draw_pair,
    "trace": lambda az, rows: az.plot_trace(rows, var_names=["z"]),
    "rank": draw_rank,
    "rank of chains": lambda az, rows: az.plot_rank(split_chains(rows, 4), var_names=["z"]),
    "ppc": draw_predictive_check,
    "ecdf": draw_ecdf,
    "ecdf_pit": draw_calibration,
    "khat": draw_khat,
    "compare": lambda az, rows: az.plot_compare(az.compare({"a": conjugate(1.0)[0], "b": conjugate(3.0)[0]})),
}


def axes_of(drawn):
    """The axes of a figure, whatever ArviZ returned for it."""
    if isinstance(drawn, np.ndarray):
        return list(drawn.ravel())
    if not hasattr(drawn, "viz"):
        return [drawn]
    import matplotlib.pyplot as plt

    return plt.gcf().axes


@pytest.mark.parametrize("name", FIGURES)
def test_figures(az, rows, name):
    import matplotlib.pyplot as plt

    axes = axes_of(FIGURES[name](az, rows))
    assert any(ax is not None and ax.has_data() for ax in axes)
    plt.close("all")


def test_guide_and_chains_share_a_forest(az, rows):
    import matplotlib.pyplot as plt

    chains = {"posterior": {"z": np.random.default_rng(1).normal(size=(4, 100, 2, LATENT))}}
    reference = to_arviz(to_datasets(chains, dims=DIMS, coords={"data": [0, 3]}))
    rows = split_chains(rows, 4)
    if old(az):
        axes = list(az.plot_forest([rows, reference], model_names=["guide", "nuts"], var_names=["z"]).ravel())
    else:
        axes = axes_of(az.plot_forest({"guide": rows, "nuts": reference}, var_names=["z"]))
    assert any(ax.has_data() for ax in axes)
    plt.close("all")


# ------------------------------------------------------------------------------------------ comparison


def pointwise(seed, shift):
    return np.random.default_rng(seed).normal(size=50) - 3.0 - shift


def comparison_of(models):
    """What `pyrovae.compare` returns, by numpy."""
    import pandas as pd

    sums = {name: values.sum() for name, values in models.items()}
    best = max(sums, key=sums.get)
    rows = {
        name: {
            "elpd": sums[name],
            "elpd_diff": sums[name] - sums[best],
            "weight": 1 / len(models),
            "se": np.sqrt(len(values) * values.var()),
            "dse": np.sqrt(len(values) * (values - models[best]).var()),
            "pct_bad_k": 0.0,
        }
        for name, values in sorted(models.items(), key=lambda item: -sums[item[0]])
    }
    frame = pd.DataFrame(rows).T
    frame.insert(0, "rank", range(len(frame)))
    points = {name: SimpleNamespace(log_p=values, num_samples=100) for name, values in models.items()}
    return SimpleNamespace(frame=frame, pointwise=points)


def test_held_out_densities_are_compared_by_arviz(az):
    models = {"a": pointwise(0, 0.0), "b": pointwise(1, 0.5), "c": pointwise(2, 1.0)}
    exact = {} if old(az) else {"round_to": "none"}
    comparison = comparison_of(models)
    theirs, ours = az.compare(to_elpd_data(comparison), **exact), comparison.frame
    assert list(theirs.index) == list(ours.index) == ["a", "b", "c"]
    column, sign = ("elpd_loo", -1) if old(az) else ("elpd", 1)
    np.testing.assert_allclose(theirs[column].astype(float), ours["elpd"], atol=1e-6)
    np.testing.assert_allclose(theirs["elpd_diff"].astype(float), sign * ours["elpd_diff"], atol=1e-6)
    np.testing.assert_allclose(theirs["dse"].astype(float), ours["dse"], atol=1e-6)


def test_arviz_draws_a_table_of_comparison(az):
    import matplotlib.pyplot as plt

    frame = to_compare_frame(comparison_of({"a": pointwise(0, 0.0), "b": pointwise(1, 0.5)}))
    assert (frame["elpd_diff"] >= 0).all() if old(az) else (frame["elpd_diff"] <= 0).all()
    assert any(ax.has_data() for ax in axes_of(az.plot_compare(frame)))
    plt.close("all")


def test_what_is_no_comparison_is_refused():
    for convert in (to_elpd_data, to_compare_frame):
        with pytest.raises(TypeError, match=r"expected what pyrovae.compare returned, got ndarray; write compare"):
            convert(np.zeros(3))


# ---------------------------------------------------------------------------------------------- files


def assert_same(found, expected):
    found, expected = datasets_of(found), datasets_of(expected)
    assert set(found) == set(expected)
    for group, data in expected.items():
        xr.testing.assert_identical(found[group].load(), data)
        assert {n: d.dtype for n, d in found[group].items()} == {n: d.dtype for n, d in data.items()}


@pytest.mark.parametrize(("write", "read", "name"), [(to_netcdf, from_netcdf, "p.nc"), (to_zarr, from_zarr, "p.zarr")])
def test_round_trip(write, read, name, idata, tmp_path):
    assert write(idata, tmp_path / name) == tmp_path / name
    found = read(tmp_path / name)
    assert type(found) is type(idata)
    assert found.attrs == {"title": "generated"}
    assert_same(found, idata)
    assert os.listdir(tmp_path) == [name]


def test_arviz_reads_the_netcdf(az, idata, tmp_path):
    to_netcdf(idata, tmp_path / "p.nc")
    found = az.from_netcdf(str(tmp_path / "p.nc"))
    assert_same(found, idata)


def test_arviz_reads_the_zarr_store(az, idata, tmp_path):
    to_zarr(idata, tmp_path / "p.zarr")
    if old(az):  # 0.23 refuses zarr 3, and names this way out
        found = az.InferenceData.from_datatree(xr.open_datatree(tmp_path / "p.zarr", engine="zarr"))
    else:
        found = az.from_zarr(tmp_path / "p.zarr")
    assert_same(found, idata)


def test_one_format_into_the_other(idata, tmp_path):
    to_zarr(idata, tmp_path / "p.zarr")
    to_netcdf(from_zarr(tmp_path / "p.zarr"), tmp_path / "p.nc")
    to_zarr(from_netcdf(tmp_path / "p.nc"), tmp_path / "p.zarr", overwrite=True)
    assert_same(from_zarr(tmp_path / "p.zarr"), idata)


@pytest.mark.parametrize(("write", "read", "name"), [(to_netcdf, from_netcdf, "p.nc"), (to_zarr, from_zarr, "p.zarr")])
def test_values_are_written_as_they_are_not_as_they_were_once_stored(write, read, name, tmp_path):
    dataset = xr.Dataset({"z": ("data", [0.25, 0.5])}, coords={"data": [0, 1]})
    dataset["z"].encoding = {"dtype": "int16", "scale_factor": 1.0}
    write({"posterior": dataset}, tmp_path / name)
    np.testing.assert_array_equal(datasets_of(read(tmp_path / name))["posterior"]["z"], [0.25, 0.5])


def unwritable():
    """Two groups, of which the second cannot be written."""
    broken = xr.Dataset({"w": ("data", np.array([object()]))})
    return {"posterior": xr.Dataset({"z": ("data", [2.0])}), "constant_data": broken}


@pytest.mark.parametrize(("write", "read", "name"), [(to_netcdf, from_netcdf, "p.nc"), (to_zarr, from_zarr, "p.zarr")])
def test_a_failed_write_leaves_what_was_there(write, read, name, tmp_path):
    before = {"posterior": xr.Dataset({"z": ("data", [1.0])}, coords={"data": [0]})}
    write(before, tmp_path / name)
    options = {"overwrite": True} if write is to_zarr else {}
    with pytest.raises((TypeError, ValueError)):
        write(unwritable(), tmp_path / name, **options)
    assert os.listdir(tmp_path) == [name]
    assert_same(read(tmp_path / name), before)


def test_netcdf_replaces_its_file(tmp_path):
    for value in (1.0, 2.0):
        to_netcdf({"posterior": xr.Dataset({"z": ("data", [value])})}, tmp_path / "p.nc")
    assert datasets_of(from_netcdf(tmp_path / "p.nc"))["posterior"]["z"].values == [2.0]


def blocks(idata, size):
    return [datasets_of(idata.isel(data=slice(i, i + size), new_data=slice(0, 5))) for i in range(0, ROWS, size)]


@pytest.mark.parametrize("size", [5, 6, 12])
def test_streamed_blocks_are_the_whole(size, idata, tmp_path):
    with zarr_stream(tmp_path / "p.zarr", attrs={"title": "generated"}) as stream:
        for block in blocks(idata, size):
            stream.append(block)
            assert not (tmp_path / "p.zarr").exists()
    found = from_zarr(tmp_path / "p.zarr")
    assert found.attrs == {"title": "generated"}
    assert_same(found, idata)
    assert os.listdir(tmp_path) == ["p.zarr"]


def test_a_block_is_a_chunk(idata, tmp_path):
    with zarr_stream(tmp_path / "p.zarr") as stream:
        for block in blocks(idata, 5):
            stream.append(block)
    z = datasets_of(from_zarr(tmp_path / "p.zarr"))["posterior"]["z"]
    assert z.encoding["chunks"] == (1, DRAWS, 5, LATENT)


def test_large_blocks_are_cut_into_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.arviz.files._CHUNK_BYTES", 4000)
    to_zarr({"posterior": xr.Dataset({"z": (("draw", "data"), np.zeros((10, 100)))})}, tmp_path / "p.zarr")
    z = datasets_of(from_zarr(tmp_path / "p.zarr"))["posterior"]["z"]
    assert z.encoding["chunks"] == (10, 50)


def test_an_interrupted_stream_leaves_nothing(idata, tmp_path):
    def interrupted():
        with zarr_stream(tmp_path / "p.zarr") as stream:
            stream.append(blocks(idata, 6)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda block: {group: data for group, data in block.items() if group != "prior"},
        lambda block: block | {"posterior": block["posterior"].drop_vars("mu")},
        lambda block: block | {"posterior": block["posterior"].astype("float64")},
        lambda block: block | {"observed_data": block["observed_data"].assign_coords(data=list("abcdef"))},
    ],
    ids=["group", "variable", "type", "labels"],
)
def test_a_block_unlike_the_first_is_refused(change, idata, tmp_path):
    first, second = blocks(idata, 6)
    with zarr_stream(tmp_path / "p.zarr") as stream:
        stream.append(first)
        with pytest.raises(ValueError, match="every block has the variables and types of the first"):
            stream.append(change(second))


def test_stores_that_are_there_are_kept_unless_asked(tmp_path):
    one = {"posterior": xr.Dataset({"z": ("data", [1.0])})}
    to_zarr(one, tmp_path / "p.zarr")
    with pytest.raises(ValueError, match=r"p.zarr exists: give another path, or overwrite=True"):
        to_zarr(one, tmp_path / "p.zarr")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_keep.txt").write_text("dear")
    with pytest.raises(ValueError, match="no zarr store, so it is left alone"):
        to_zarr(one, tmp_path / "letters", overwrite=True)
    assert (tmp_path / "letters" / "to_keep.txt").read_text() == "dear"


@pytest.mark.parametrize("write", [to_netcdf, to_zarr])
def test_paths_that_cannot_be_written(write, tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"the folder {tmp_path / 'nowhere'} does not exist")):
        write({}, tmp_path / "nowhere" / "p")
    if write is to_netcdf:
        with pytest.raises(ValueError, match=r"is a folder: give the name of a file, such as .*posterior.nc"):
            write({}, tmp_path)
