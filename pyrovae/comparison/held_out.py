"""Comparing models by held-out evidence: what is estimated and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrovae.comparison.pointwise import UNKNOWN, Pointwise
from pyrovae.comparison.rows import check_comparable, check_held_out
from pyrovae.comparison.table import WEIGHTS, Comparison
from pyrovae.data import Data, as_data
from pyrovae.errors import check_seed, check_word, refusal
from pyrovae.evaluation.estimators import DEFAULT, Estimator, as_estimator
from pyrovae.evaluation.marginal import fallen_back, marginal_of
from pyrovae.programs import Program, stored_names
from pyrovae.programs.rows import MAX_BYTES, RowWork


def compare(
    models: Mapping[str, Any],
    data: Any = None,
    covariates: Mapping[str, Any] | None = None,
    *,
    method: str | Estimator = DEFAULT,
    num_samples: int | None = None,
    train: Any = None,
    weights: str = "stacking",
    reference: str | None = None,
    in_sample: bool = False,
    max_bytes: int = MAX_BYTES,
    seed: int | None = None,
    progress: bool | None = None,
) -> Comparison:
    r"""Compare models by their log evidence on rows that none of them was trained on.

    .. math:: \mathrm{elpd}_m = \sum_i \log p_m(x_i), \qquad
        \mathrm{dse}^2 = N\, \mathrm{Var}_i[\log p_m(x_i) - \log p_{\mathrm{best}}(x_i)]

    Differences are paired: of the same rows. ``se`` and ``dse`` are over rows, for the weights as they were trained; give a
    list of refits with other seeds to see how much training itself varies.

    Args:
        models: by name, each one of: a program; a list of programs (refits of one model to the same training rows, which
            programs do not remember: their spread is what training adds); what ``log_marginal`` returned;
            an array of log densities in nats, one per row, from elsewhere; a :class:`Pointwise`; a baseline
            (``probabilistic_pca``, ``factor_analysis``, or any function ``(train, x)`` that returns log densities).
        data: the held-out rows; not needed for results alone.
        method: how programs are evaluated, as in :func:`pyrovae.evaluation.log_marginal`; where one of them has no mixture,
            all are evaluated by importance sampling, so that models are estimated alike, and ``notes`` name it.
        num_samples: samples per row.
        covariates: for each name, a tensor of as many rows.
        train: the training rows: for baselines, and to refuse rows that are among them.
        weights: ``"stacking"`` or ``"pseudo-bma"``.
        reference: the model from which differences are taken, fixed before looking; by default the best model. Only against
            such a reference is ``p_worse`` calibrated: among models of equal expected log density, 5 % have p_worse < .05.
        in_sample: accept training rows.
        max_bytes: refuse what needs more memory.
        seed: makes the draws reproducible; all programs use the same.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A :class:`Comparison`: the table ``frame`` (its columns are explained there), each model's results row by row, and
        ``notes``, what to know before believing the order.

    Raises:
        ValueError: programs that share names in Pyro's global parameter store; models with other rows, variants, base measures
            (density and mass), observed numbers (columns that one model leaves out, another scale), estimators or numbers of
            samples; more training rows than chance explains.
        TypeError: a model of an unknown kind.

    Reference: Vehtari, Gelman & Gabry 2017, doi:10.1007/s11222-016-9696-4.

    >>> log_p = np.log([0.5, 0.25, 0.5])
    >>> compare({"a": log_p, "b": log_p - 1.0}).frame["elpd_diff"].tolist()
    [0.0, -3.0]
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            f"expected models by name, got {type(models).__name__}; write compare({{'one': vae, 'two': other}}, x)"
        )
    if not models:
        raise ValueError("expected at least one model")
    check_word("weights", weights, WEIGHTS)
    held_out = None if data is None else as_data(data, covariates)
    about_rows = [] if held_out is None else check_held_out(held_out, train, in_sample)
    estimator, seed = as_estimator(method), check_seed(seed)
    first_seed = int(torch.randint(2**31, ())) if seed is None else seed
    refits: dict[str, list[Any]] = {}
    for name, model in models.items():
        several = isinstance(model, list) and not (model and isinstance(model[0], (int, float)))
        if several and not model:
            raise refusal(f"the list of refits of {name!r} is empty", "models")
        refits[name] = list(model) if several else [model]
    if held_out is not None:
        size = estimator.num_samples if num_samples is None else num_samples
        plan: dict[str, Any] = {"num_samples": size, "at_once": estimator.per_row(size), "max_bytes": max_bytes}
        for found in refits.values():
            for number, refit in enumerate(found):
                if _is_program(refit):
                    found[number] = RowWork(refit, held_out, seed=first_seed + number, progress=progress, **plan)
        _check_names(refits)
        estimator, about = _suited(estimator, refits)
        about_rows = [*about, *about_rows]
    results = {
        name: [
            Pointwise.of_dataset(marginal_of(refit, estimator, num_samples=num_samples))
            if isinstance(refit, RowWork)
            else _evaluated(name, refit, held_out, train)
            for refit in several
        ]
        for name, several in refits.items()
    }
    check_comparable(results, in_sample)
    return Comparison.of(results, weights, about_rows, reference)


def _check_names(models: Mapping[str, list[Any]]) -> None:
    """Refuse programs that use one name in Pyro's global store, each for a module or in a function that is not the other's."""
    owners: dict[str, tuple[str, Any]] = {}
    programs = [(model, refit) for model, refits in models.items() for refit in refits if isinstance(refit, RowWork)]
    for model, work in programs if len(programs) > 1 and pyro.get_param_store() else ():
        for name, owner in stored_names(work.program, work.dry_run).items():
            first, known = owners.setdefault(name, (model, owner))
            if known is not owner:
                raise refusal(
                    f"programs of {first!r} and {model!r} share the name {name.replace('$$$', '.')!r} in Pyro's global parameter "
                    "store, so that training one changed the other: give one of them other names in pyro.module and pyro.param, "
                    "call pyro.clear_param_store(), and train both again",
                    "models",
                )


def _suited(estimator: Estimator, models: Mapping[str, list[Any]]) -> tuple[Estimator, list[str]]:
    """The estimator that all programs have, and a note where it is the fallback of the one that was asked for.

    Densities beside masses are refused before they are evaluated.
    """
    works = {name: refits[0] for name, refits in models.items() if isinstance(refits[0], RowWork)}
    measures = {name: Pointwise(np.zeros(1), measure=work.dry_run.measure) for name, work in works.items()}
    check_comparable({name: [known] for name, known in measures.items() if known.measure not in UNKNOWN}, True)
    found = estimator
    for name, work in works.items():
        found, why = estimator.suited(work)
        if why:
            return found, [f"{name!r}, and with it every program, is {fallen_back(why)}"]
    return found, []


def _is_program(model: Any) -> bool:
    return isinstance(model, tuple) or getattr(model, "guide", None) is not None


def _evaluated(name: str, model: Any, data: Data | None, train: Any) -> Pointwise:
    """The log densities row by row of one model of any kind but a program."""
    if isinstance(model, Pointwise):
        return model
    if type(model).__name__ == "Dataset" and "log_marginal" in model:
        return Pointwise.of_dataset(model)
    if isinstance(model, (np.ndarray, Tensor, list)) or type(model).__name__ in ("DataArray", "Series"):
        return Pointwise(model)
    if callable(model) and getattr(model, "guide", None) is None:
        if train is None or data is None:
            raise refusal(
                f"the baseline {name!r} must be fitted: give the training rows as train, and the data", "train"
            )
        result = model(train, data)
        return result if isinstance(result, Pointwise) else Pointwise(result)
    Program.of(model)  # refuses what is none
    raise refusal(f"{name!r} is a program: give the held-out rows to evaluate it on as data", "data")
