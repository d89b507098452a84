"""What ``fit`` does before the first step: arguments checked, data split, the module placed, the bar drawn."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from pyrovae.data import Batch, Data, as_data, split
from pyrovae.programs import DryRun, Program, announced_like
from pyrovae.training.loop import Number
from pyrovae.training.rehearsal import check_batches, check_objective, check_rows, rehearse
from pyrovae.training.sources import Source, source_of

Transform = Callable[[Tensor, "torch.Generator | None"], Tensor]


def check_arguments(
    epochs: int | None,
    steps: int | None,
    patience: int | None,
    keep_best: bool | None,
    validation: Any,
    max_skipped: int,
    learning_rate: Number | None,
    scheduler: Any,
    optimizer: Any,
    resume: bool,
    checkpoint: Any,
    callbacks: Any,
) -> None:
    """Refuse arguments of ``fit`` that are out of range or contradict each other."""
    if epochs is not None and steps is not None:
        raise ValueError("give epochs= or steps=, not both")
    for name, value in (("epochs", epochs), ("steps", steps), ("patience", patience)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if not isinstance(max_skipped, int) or max_skipped < 0:
        raise ValueError(f"max_skipped must be an integer of at least 0, got {max_skipped!r}")
    if isinstance(learning_rate, (int, float)) and not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}")
    if not (learning_rate is None or callable(learning_rate) or isinstance(learning_rate, (int, float))):
        raise TypeError(f"learning_rate must be a number or a schedule, got {learning_rate!r}")
    if learning_rate is not None and callable(learning_rate) and scheduler is not None:
        raise ValueError("both learning_rate (a schedule) and scheduler set the learning rate: give one of them")
    if isinstance(optimizer, PyroOptim) or (optimizer is not None and not callable(optimizer)):
        raise TypeError(
            f"optimizer takes a function of the parameters that returns a torch optimizer, got {type(optimizer).__name__}: "
            "write functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    if validation is None and (patience is not None or keep_best):
        raise ValueError(
            "patience and keep_best need validation=, data or the fraction of the training rows to hold out"
        )
    uncallable = [callback for callback in callbacks if not callable(callback)]
    if uncallable:
        raise TypeError(f"callbacks must be functions of the history, got {uncallable[0]!r}")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs checkpoint=, the folder that holds the checkpoints")


def betas_by_site(beta: Number | Mapping[str, Number]) -> dict[str | None, Number]:
    """Beta as a number or schedule by site; the key None stands for all sites.

    Raises:
        TypeError: neither a number nor a schedule.
        ValueError: a negative or non-finite number.
    """
    betas: dict[Any, Number] = dict(beta) if isinstance(beta, Mapping) else {None: beta}
    if not betas:
        raise ValueError("beta names no site, got an empty mapping: write beta=1.0 or {'z': 0.5}")
    for value in betas.values():
        if callable(value):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"beta must be a number, a schedule or a mapping by site, got {value!r}")
        if not 0 <= value < math.inf:
            raise ValueError(f"beta must be finite and at least 0, got {value}")
    return betas


def divide(
    data: Any, covariates: Any, variant: str | None, transform: Transform | None, validation: Any, seed: int | None
) -> tuple[Any, Data | None]:
    """The training data and the validation data, the latter drawn once."""
    if isinstance(data, (DataLoader, Dataset)):
        if isinstance(validation, float):
            raise ValueError("a loader cannot be divided: give validation= as data")
        if transform is not None:
            raise ValueError("transform= is for rows in memory: transform inside the Dataset")
        return data, None if validation is None else as_data(validation)
    if covariates is not None and not isinstance(covariates, Mapping):
        raise TypeError(f"covariates must be a mapping from names to arrays, got {type(covariates).__name__}")
    rows = as_data(data, covariates, variant)
    _require_observed(rows)
    rows = rows if transform is None else replace(rows, transform=transform)
    seed = rows.seed or 0 if seed is None else seed
    if isinstance(validation, float):
        return split(rows, validation, seed)
    if validation is None:
        return rows, None
    held_out = as_data(validation).drawn(seed)
    lacking = [name for name in rows.covariates or () if name not in (held_out.covariates or ())]
    if lacking:
        raise ValueError(
            f"validation= lacks the covariates {lacking[0]!r} that the training rows have: write "
            f"validation=pyrovae.data.as_data(x, {{{lacking[0]!r}: values}})"
        )
    return rows, held_out


def _require_observed(rows: Data) -> None:
    """Refuse data in which every entry is missing: rows without any are valid, a data set of them is a mistake."""
    for first in range(0, len(rows), 4096):
        leaves = tree_leaves(rows[first : first + 4096].dense().x)
        if not all(bool(leaf.isnan().all()) for leaf in leaves):
            return
    raise ValueError(
        f"expected data with observed entries, got NaN (missing) in every entry of {len(rows)} rows; look at how they were "
        "read: a column of text, or a wrong separator, becomes NaN"
    )


def rehearse_on(program: Program, source: Source, objective: ELBO, beta_is_one: bool) -> DryRun:
    """Run the program once on the first batch and check the objective against it; no random state is used up."""
    batch = _first_batch(source)
    bound, args, kwargs, _ = source.arguments(batch)
    rehearsal = rehearse(bound, args, kwargs)
    source.full_size = check_rows(rehearsal, len(batch.index))
    if len(source) > 1:
        check_batches(bound, rehearsal, len(batch.index), scaled=source.sized or source.full_size is not None)
    check_objective(objective, rehearsal, beta_is_one=beta_is_one, subsampled=len(source) > 1)
    return rehearsal


def _first_batch(source: Source) -> Batch:
    before = source.generator.get_state()
    with torch.random.fork_rng():
        batch = next(iter(source.along(source.order(), 0)))
    source.generator.set_state(before)
    return batch


def placed_source(
    program: Program,
    data: Any,
    covariates: Any,
    batch_size: int,
    drop_last: bool,
    device: str | torch.device | None,
    generator: torch.Generator,
) -> tuple[Source, Data | None, dict[str, Any]]:
    """The batches, the rows in memory, and the device and dtype of both; of a program without a module by what it announces."""
    source, rows = source_of(program, data, covariates, batch_size, drop_last, {"device": device}, generator)
    like = announced_like(program, lambda: source.arguments(_first_batch(source))[:3])
    if like is None:
        return source, rows, {"device": device}
    place = {"device": like.device, "dtype": like.dtype}
    return *source_of(program, data, covariates, batch_size, drop_last, place, generator), place


@contextmanager
def randomness(seed: int | None) -> Iterator[None]:
    """Randomness from a seed, the global generator left as it was; without a seed, from the global generator."""
    with contextlib.nullcontext() if seed is None else torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


def placed(modules: Iterable[nn.Module], device: str | torch.device | None) -> None:
    """Move modules to a device, if one is asked for."""
    if device is not None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device {str(device)!r} was asked for, and torch sees no GPU: leave device out, or write 'cpu'"
            )
        for module in modules:
            module.to(device)


@contextmanager
def training_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Train mode, frozen parts in eval mode; every part's own mode is restored."""
    modules = tuple(modules)
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        _set_training(module)
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _set_training(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    module.training = True
    for child in module.children():
        _set_training(child)


@contextmanager
def quiet_about_nan() -> Iterator[None]:
    """Without Pyro's warning about a loss that is not finite: such a step is skipped, counted and explained."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered")
        yield


def bar_of(total: int, progress: bool | None) -> Any:
    """A tqdm bar; by default shown on a terminal alone."""
    from tqdm.auto import tqdm

    hidden = not sys.stderr.isatty() if progress is None else not progress
    return tqdm(total=total, disable=hidden, unit="step", dynamic_ncols=True)
