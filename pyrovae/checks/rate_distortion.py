"""Rate against distortion of programs that were trained at different beta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyrovae.checks.calls import Covariates, seed_or_drawn
from pyrovae.checks.findings import GOOD, Finding, Result
from pyrovae.evaluation.elbo import elbo
from pyrovae.programs.rows import MAX_BYTES

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]


class RateDistortion(Result):
    """The rate-distortion curve of programs trained at different beta, made by :func:`rate_distortion`."""

    @property
    def elbo(self) -> Array:
        """The ELBO at beta 1: minus rate minus distortion."""
        return -self.rate - self.distortion


def rate_distortion(
    programs: Mapping[float, Any],
    data: Any,
    covariates: Covariates | None = None,
    *,
    num_samples: int = 16,
    seed: int | None = None,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> RateDistortion:
    r"""The rate-distortion curve of programs that were trained at different beta, on the same rows.

    .. math:: R = \mathbb{E}_x \mathrm{KL}(q(z \mid x)\,\|\,p(z)), \qquad D = -\mathbb{E}_x \mathbb{E}_q \log p(x \mid z)

    Along an optimal curve the slope is minus beta: ``dD / dR = -beta``.

    Args:
        programs: from beta to the program trained with it.
        data: data, best held out.
        covariates: for each name, a tensor of rows.
        num_samples: draws per row.
        seed: of the draws, the same for every program; None takes one from torch's random state.
        max_bytes: refuse what needs more memory.
        progress: True shows bars, False none; by default there are some on a terminal.

    Returns:
        A result over ``beta``, in increasing order: ``rate`` (the mean KL) and ``distortion`` (minus the mean
        reconstruction), in nats per datum, each with its standard error over rows ``..._error``.

    Raises:
        ValueError: no programs.

    Reference: Alemi et al. 2018, arXiv:1711.00464.

    >>> import pyrovae as pvae, torch
    >>> vae = pvae.build_vae(5, likelihood="normal", latent_dim=2, hidden=(8,))
    >>> rate_distortion({1.0: vae, 0.5: vae}, torch.zeros(3, 5), seed=0).beta
    array([0.5, 1. ])
    """
    import xarray as xr

    if not programs:
        raise ValueError("rate_distortion needs at least one program: {beta: program trained with that beta}")
    seed, betas = seed_or_drawn(seed), sorted(programs)
    plan: dict[str, Any] = {"num_samples": num_samples, "max_bytes": max_bytes, "progress": progress}
    bounds = [elbo(programs[b], data, covariates, seed=seed, **plan) for b in betas]
    columns = {"rate": [b.kl.values for b in bounds], "distortion": [-b.reconstruction.values for b in bounds]}
    found = xr.Dataset(coords={"beta": np.array(betas, dtype=float)})
    for name, values in columns.items():
        found[name] = ("beta", [v.mean() for v in values])
        found[f"{name}_error"] = ("beta", [v.std(ddof=1) / np.sqrt(len(v)) for v in values])
    return RateDistortion(found, _judge, _draw)


def _judge(found: xr.Dataset) -> list[Finding]:
    elbo = -(found["rate"] + found["distortion"]).values
    best = int(elbo.argmax())
    claim = (
        f"Of {elbo.size} programs the one trained at beta {found['beta'].values[best]:g} has the largest ELBO at beta 1"
    )
    return [Finding(GOOD, "rate and distortion", f"{claim}: {float(elbo[best]):.2f} nats per datum.")]


def _draw(found: xr.Dataset, ax: Any = None) -> Any:
    from pyrovae.plots import plot_rate_distortion

    return plot_rate_distortion(found["rate"].values, found["distortion"].values, found["beta"].values, ax=ax)
