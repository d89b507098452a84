"""Data outside a likelihood's support, named before a network computes NaN from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.errors import plain_errors
from pyrovae.missing import rows_text, support_text
from pyrovae.programs.program import Program
from pyrovae.programs.running import bounds
from pyrovae.programs.sites import Site, sites_of


@contextmanager
def data_named(program: Program, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Where a program fails, look first whether the data have a wrong shape or lie outside their support, and say so.

    Args:
        program: the program that runs inside the ``with`` block.
        args: positional arguments of both functions.
        kwargs: keyword arguments of both functions.

    Raises:
        ValueError: the data lie outside their support or have a wrong shape; or the program gives a distribution NaN.
    """
    try:
        yield
    except RuntimeError:  # two shapes that do not broadcast, most often
        with suppress(RuntimeError):
            check_data(program, args, kwargs)
        raise
    except ValueError as error:
        if not is_about_parameters(error):
            raise
        check_data(program, args, kwargs)
        said = str(error).partition(", but found")[0]
        raise ValueError(f"the program gives a distribution parameters that it does not have: {said}") from error


class Inside(Messenger):
    """Refuses draws of a guide outside the support of their prior, before anything is computed from them.

    Args:
        names: of the latents whose guide reaches beyond the prior's support.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            check_inside(msg["name"], msg["fn"], msg["value"])


def check_inside(name: str, prior: Any, value: Tensor) -> None:
    """Refuse draws of a latent outside the support of its prior.

    Raises:
        ValueError: some lie outside.
    """
    low, high = bounds(prior)
    if ((value < low) | (value > high)).any():
        ends = f"from {low.min():.5g} to {high.max():.5g}"
        raise ValueError(
            f"the guide draws latent {name!r} outside the support of its prior, {ends}: give the guide a distribution on that "
            "support (for a positive latent LogNormal or Gamma, for an angle VonMises)"
        )


def is_about_parameters(error: Exception) -> bool:
    """Whether it is Pyro's check of a distribution's parameters: what NaN runs into while validation is on."""
    return isinstance(error, ValueError) and "to satisfy the constraint" in str(error)


def check_data(program: Program, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Run the model on its own latents, so that data outside a support is named before the guide computes NaN from it.

    Raises:
        ValueError: the data lie outside the likelihood's support, or have a wrong shape.
    """
    with plain_errors(), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(True), poutine.block():
        try:
            trace = poutine.trace(program.model).get_trace(*args, **kwargs)
        except NotImplementedError:  # an improper prior cannot be sampled
            return
        except ValueError as error:
            if is_about_parameters(error):
                return
            raise
        for site in sites_of(trace):
            inside = inside_support(site) if site["is_observed"] else None
            if inside is not None and not inside.all():
                base, missing = getattr(site["fn"], "base_dist", site["fn"]), site["value"].isnan()
                if missing.any():
                    raise ValueError(
                        f"{site['name']} holds NaN in {rows_text(missing if missing.ndim else missing[None])}, which the program "
                        "does not take for missing entries: observe through pyrovae.missing.observed, as a VAE does, or leave "
                        "these rows out"
                    )
                raise ValueError(
                    f"{site['name']} holds values outside the support of {support_text(base)} in "
                    f"{rows_text(~inside if inside.ndim else ~inside[None])}: transform the data into the support, mark "
                    "missing entries by NaN, or use another likelihood"
                )


def inside_support(site: Site) -> Tensor | None:
    """Where a site's value lies in the support; None where the support is unknown."""
    try:
        support = site["fn"].support
        return None if support is None or not isinstance(site["value"], Tensor) else support.check(site["value"])
    except (NotImplementedError, AttributeError):
        return None
