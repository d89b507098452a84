"""All rows of some data in one call of a program: for what cannot be cut into batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrovae.programs.draws import Call, Draws

UNBOUNDED = 2**40


def whole(program: Any, x: Any, covariates: Mapping[str, Any] | None, seed: int) -> tuple[Draws, Call]:
    """A program ready to be evaluated, and its call on all rows at once.

    Raises:
        ValueError: the program has global latents, which no diagnostic of single rows can place.
    """
    draws = Draws(program, x, covariates, 1, UNBOUNDED, seed=seed, progress=False)
    check_local(draws)
    return draws, draws.call(next(iter(draws.batches)))


def stream(seed: int, number: int = 0) -> int:
    """A seed whose numbers do not repeat those of the plain seed, with which the caller may have made the data."""
    return (seed * 6364136223846793005 + (number + 1) * 1442695040888963407) % 2**63


def check_local(draws: Draws) -> None:
    """Refuse programs with latents outside the data plate.

    Raises:
        ValueError: naming them.
    """
    if draws.global_sites:
        raise ValueError(
            f"these diagnostics take the rows one by one, and {draws.global_sites} lie outside the plate 'data': fix the "
            "global latents, e.g. at their posterior means by pyro.poutine.condition on both model and guide"
        )
