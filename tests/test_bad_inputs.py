"""Bad inputs of every public function of a program and data: one sentence of the library's own, and nothing has changed.

The functions are found by inspection, as in `test_behavior.py`; each is called with each bad program, data, covariates and
keyword that it takes. The error must be a ValueError or TypeError raised in the package (not in Pyro, torch, numpy or pandas),
in one line; weights, modes, gradients, random states and the parameter store stay as they were.
"""

from __future__ import annotations

import functools
import inspect
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_behavior import FUNCTIONS

import pyrovae as pvae

PACKAGE = Path(pvae.__file__).parent
ROWS = torch.poisson(torch.full((12, 4), 3.0), generator=torch.Generator().manual_seed(0))


def program(covariate=False):
    torch.manual_seed(0)
    given = {"size_factor": pvae.FromCovariate("size")} if covariate else {}
    likelihood = pvae.Factorized(pvae.SizedPoisson, pvae.MLP(2, (8,)), 4, **given)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(4, (8,)), 2, preprocess=torch.log1p)
    return pvae.VAE(pvae.standard_normal(2), likelihood, posterior)


def spoiled(value, row=7):
    x = ROWS.clone()
    x[row, 2] = value
    return x


BAD_DATA = {
    "None": None,
    "a name": "digits",
    "a number": 3.0,
    "text": np.array([["a", "b", "c", "d"]] * 12),
    "no rows": ROWS[:0],
    "no columns": ROWS[:, :0],
    "fewer columns": ROWS[:, :3],
    "one column": ROWS[:, :1],
    "one axis": ROWS[:, 0],
    "three axes": ROWS[:, None],
    "ragged": [[1.0, 2.0], [1.0]],
    "complex": ROWS.to(torch.complex64),
    "objects": np.array([[object()] * 4] * 12),
    "dates": pd.DataFrame({name: pd.date_range("2024-01-01", periods=12) for name in "abcd"}),
    "infinite": spoiled(math.inf),
    "negative": spoiled(-1.0),
    "halves": spoiled(0.5),
    "beyond 2**24": spoiled(3e8),
    "a dict by another name": {"counts": ROWS},
    "a function": len,
}
BAD_PROGRAMS = {
    "None": None,
    "a number": 3,
    "text": "vae",
    "one function": (len,),
    "no functions": (1, 2),
    "a class": pvae.VAE,
    "a plain module": torch.nn.Linear(4, 2),
}
BAD_COVARIATES = {
    "a list": [1.0],
    "text": "size",
    "a tensor": torch.ones(12),
    "fewer rows": {"size": torch.ones(11)},
    "a number": {"size": 1.0},
    "another name": {"sizes": torch.ones(12)},
    "nothing": {},
    "missing": {"size": torch.tensor([1.0] * 11 + [math.nan])},
    "zero": {"size": torch.tensor([1.0] * 11 + [0.0])},
    "negative": {"size": torch.tensor([-1.0] + [1.0] * 11)},
    "infinite": {"size": torch.tensor([math.inf] + [1.0] * 11)},
    "a column": {"size": torch.ones(12, 3)},
    "text in a dict": {"size": ["a"] * 12},
}
ACCEPTED = {("sbc", "None"), ("sbc", "negative"), ("sbc", "halves"), ("sbc", "beyond 2**24"), ("sbc", "zero")}
"""Simulation-based calibration takes shapes, missing entries and covariates from rows chosen at random, and simulates values."""
COUNT = (0, -3, 2.5, "many", True, math.nan, [5])
BAD_KEYWORDS = {
    **dict.fromkeys(
        ("num_samples", "num_simulations", "num_proposals", "num_steps", "num_chains", "epochs", "steps", "batch_size"),
        COUNT,
    ),
    "max_bytes": (0, -1, 1.5, "1G"),
    "seed": (-1, 1.5, "zero", True, [1]),
    "method": ("guess", 3, ["importance"]),
    "kind": ("other", 3),
    "family": ("cauchy", 3),
    "learning_rate": (0.0, -1.0, math.nan, math.inf, "fast"),
    "beta": (-1.0, math.nan, "one", {"y": 1.0}, {}),
    "validation": (0.0, 1.5, -0.2, "half", ROWS[:, :3]),
    "patience": (0, -1, 1.5, "long"),
    "clip_norm": (0.0, -1.0, math.nan, "high"),
    "weight_decay": (-1.0, math.nan, "some"),
    "compile": ("fast", 3),
    "precision": ("fp8", 16),
    "objective": ("elbo", 3, pvae.ImportanceWeightedELBO),
    "optimizer": ("adam", 3),
    "callbacks": ("f", 3, [3]),
    "device": ("gpu7", 3.5),
    "variant": (3,),
    "transform": ("log", 3),
    "max_skipped": (-1, 1.5, "ten"),
    "checkpoint": (3, 2.5),
    "resume": (3,),
    "checks": ("all", ["weather"], 3),
    "vectorize": ("no",),
}
PLAN = {
    "num_samples": 3,
    "num_simulations": 4,
    "num_proposals": 30,
    "num_steps": 2,
    "epochs": 1,
    "seed": 0,
    "progress": False,
}


def takes(name):
    return inspect.signature(FUNCTIONS[name]).parameters


def cases():
    for name in sorted(FUNCTIONS):
        given = takes(name)
        for label in BAD_PROGRAMS:
            yield name, "program", label, BAD_PROGRAMS[label]
        for label in () if "data" not in given else BAD_DATA:
            if (name, label) not in ACCEPTED:
                yield name, "data", label, BAD_DATA[label]
        for label in BAD_COVARIATES:
            if (name, label) not in ACCEPTED - {("sbc", "negative")}:
                yield name, "covariates", label, BAD_COVARIATES[label]
        for keyword, values in BAD_KEYWORDS.items():
            if keyword in given:
                for value in values:
                    yield name, keyword, repr(value)[:30], value


def prepared(name, argument, value):
    """The program, and the call."""
    function, given = FUNCTIONS[name], takes(name)
    first = program(argument == "covariates")
    covariates = {"size": torch.ones(12)} if argument == "covariates" else None
    positional = {"program": first, "data": ROWS, "covariates": covariates}
    options = {key: plan for key, plan in PLAN.items() if key in given}
    if "calibration" in given:
        options["calibration"] = pvae.data.as_data(ROWS, covariates)
    if "given" in given:
        options["given"] = torch.tensor([True, False, False, False])
    if argument == "steps":
        options.pop("epochs", None)
    (positional if argument in positional else options)[argument] = value
    if "data" not in given:
        positional.pop("data")
    own, (first, *others) = first, positional.values()
    if next(iter(given)) != "program":
        first = {"one": first}
    simulations = (options.pop("num_simulations", 3),) if name == "bdmc" else ()
    return own, functools.partial(function, first, *simulations, *others, **options)


def state(own):
    """What a refused call must leave as it was."""
    tensors = [*own.state_dict().values(), *(p.grad for p in own.parameters() if p.grad is not None)]
    return [torch.get_rng_state(), *(tensor.clone() for tensor in tensors)], [part.training for part in own.modules()]


STRIDE = 5
CASES = list(cases())[::STRIDE]
"""Every fifth, so that each kind of bad input meets some functions."""


@pytest.mark.parametrize(("name", "argument", "label", "value"), CASES, ids=[" ".join(case[:3]) for case in CASES])
def test_it_is_refused(name, argument, label, value):
    own, call = prepared(name, argument, value)
    (tensors, modes), store = state(own), dict(pyro.get_param_store())
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    frame = caught.traceback[-1]
    assert Path(str(frame.path)).is_relative_to(PACKAGE), f"raised in {frame.path}: {caught.value}"
    assert "\n" not in str(caught.value)
    after, modes_after = state(own)
    assert modes == modes_after
    assert len(tensors) == len(after)
    assert all(map(torch.equal, tensors, after))
    assert store == dict(pyro.get_param_store())
