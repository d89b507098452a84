"""Where training starts: likelihoods at the data, and numbers that learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from pyrovae.conditionals import Conditional
from pyrovae.programs import Program
from pyrovae.programs.dry_run import listening
from pyrovae.programs.sites import sites_of
from pyrovae.training.rows import Rows

OWN_RATE = 10.0
"""How many times faster single numbers learn than weights: a scale or a dispersion has no large input to be moved by."""
START_ROWS = 5000
"""So many rows, chosen at random, are looked at to start the likelihoods."""


def single_numbers(parameters: Mapping[str, Tensor]) -> set[int]:
    """The ids of the parameters that learn at a rate of their own.

    Args:
        parameters: by name; tensors without axes are meant, and what ``Factorized`` learns without a network.
    """
    names = (name for name, p in parameters.items() if p.ndim == 0 or ".unconstrained_" in f".{name}")
    return {id(parameters[name]) for name in names}


def start_likelihoods(program: Program, rows: Rows, seed: int) -> None:
    """Start the likelihoods that are as they were made at the fit of one constant to their data.

    A run finds which conditional observes a site: the site holds the numbers of its distribution.

    Args:
        program: the program.
        rows: the training rows; of a loader the first batch is taken.
        seed: of the rows that are drawn.
    """
    batch = rows.first()
    made: list[tuple[Conditional, Any]] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, Conditional):
            made.append((module, output))

    bound, args, kwargs = program.on(batch.x, batch.covariates, rows.num_rows, batch.index)
    hook = register_module_forward_hook(note)
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(),
            poutine.block(),
            pyro.validation_enabled(False),
            listening(bound),
        ):
            sites = sites_of(poutine.trace(bound.model).get_trace(*args, **kwargs))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # the checks that follow say why
        return
    finally:
        hook.remove()
    own = [
        (module, site)
        for site in sites
        for module, distribution in made
        if site["is_observed"] and _is_open(module) and _tensors(distribution) & _tensors(site["fn"])
    ]
    if not own:
        return
    x = batch.x
    if rows.data is not None:
        order = torch.randperm(len(rows.data), generator=torch.Generator().manual_seed(seed))
        x = rows.data[order[:START_ROWS]].drawn(seed).dense().x
    with torch.random.fork_rng():
        for module, site in own:
            part = x[site["name"]] if isinstance(x, Mapping) and site["name"] in x else x
            if isinstance(part, Tensor) and part.shape[1:] == module.event_shape:
                try:
                    module.initialize(part)
                except ValueError as error:  # one that reads a covariate has no constant to start at
                    if getattr(error, "argument", None) == "data":
                        raise


def _is_open(module: Conditional) -> bool:
    """Whether nobody has trained, started or frozen it."""
    return module.untrained and all(parameter.requires_grad for parameter in module.parameters())


def _tensors(distribution: Any) -> set[int]:
    """Where the numbers of a distribution lie, under events, masks and expansions, which copy none."""
    while (base := getattr(distribution, "base_dist", None)) is not None:
        distribution = base
    return {value.data_ptr() for value in vars(distribution).values() if isinstance(value, Tensor)}
