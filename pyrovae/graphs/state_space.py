"""Sequences: states that follow each other, each of which emits one step of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyrovae.data import as_data
from pyrovae.distributions.path import MarkovPath
from pyrovae.errors import check_integer, refusal
from pyrovae.graphs.graph import Covariates, Graph
from pyrovae.graphs.rows import Rows
from pyrovae.missing import observed

if TYPE_CHECKING:
    import xarray as xr


class StateSpaceVAE(Graph):
    r"""A deep state-space model (deep Markov model).

    .. math:: \prod_t p(z_t \mid z_{t-1}, c_t)\, p(x_t \mid z_t), \qquad q(z_{1:T} \mid x_{1:T})

    Data have the shape ``(rows, T, *event_shape)``; NaN is missing, and a shorter sequence ends in NaN. The site ``z`` is
    the path of states, ``(rows, T, state)``. Covariates have a row for each step, ``(rows, T, ...)``: controls of the
    transition, or the time since the step before where gaps are irregular.

    Args:
        dynamics: the prior of a path, :class:`~pyrovae.conditionals.Dynamics`.
        emission: module with ``forward(z, covariates=None)`` returning the distribution of one step of the data.
        posterior: the posterior of a path, :class:`~pyrovae.conditionals.Smoother` or a module with its ``forward``.
        num_steps: T of sequences that are simulated without data.
        name: the prefix of the parameters' names in Pyro.

    Reference: Krishnan, Shalit & Sontag 2017, Structured inference networks for nonlinear state space models,
    arXiv:1609.09869.

    >>> import pyro.distributions as dist, pyrovae as pvae
    >>> from pyrovae.conditionals import Dynamics, Smoother
    >>> vae = StateSpaceVAE(
    ...     Dynamics(pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 2), state=2),
    ...     emission=pvae.Factorized(dist.Bernoulli, pvae.MLP(2, (8,)), 5),
    ...     posterior=Smoother(pvae.GRU((20, 6), 8, (20, 8)), pvae.Factorized(dist.Normal, pvae.MLP(10, (8,)), 2)),
    ...     num_steps=20,
    ... )
    >>> x = vae.sample(4)
    >>> pvae.elbo(vae, x, seed=0).elbo.shape, vae.forecast(x, 3, num_samples=10).shape
    ((4,), torch.Size([10, 4, 3, 5]))
    """

    covariates_per_step = True
    model_parts = ("dynamics", "emission")
    guide_parts = ("posterior", "dynamics")
    dynamics: Any
    emission: nn.Module

    def __init__(
        self, dynamics: nn.Module, emission: nn.Module, posterior: nn.Module, num_steps: int, name: str = "ssm"
    ) -> None:
        self.num_steps = check_integer("num_steps", num_steps)
        super().__init__(name, dynamics=dynamics, emission=emission, posterior=posterior)

    @contextmanager
    def rows(
        self,
        parts: Sequence[str],
        data: Any = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Iterator[Rows]:
        """As :meth:`Graph.rows`; covariates have a row for each step of the data.

        Raises:
            ValueError: a covariate has other steps than the data, or none.
        """
        with super().rows(parts, data, covariates, size, index) as rows:
            for name, value in rows.covariates.items():
                steps = self.num_steps if data is None else data.shape[1]
                if value.ndim < 2 or (data is not None and value.shape[1] != steps):
                    raise ValueError(
                        f"covariates[{name!r}] has the shape {tuple(value.shape)}, expected ({len(value)}, {steps}, ...), a row "
                        "for each step: repeat what belongs to a whole sequence; a forecast needs the steps ahead, too"
                    )
            yield rows

    def model(
        self,
        x: Tensor | None = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The generative program: sites ``z`` and ``x``; arguments as in :meth:`VAE.model`."""
        with self.rows(self.model_parts, x, covariates, size, index) as rows:
            z = rows.sample("z", "dynamics", self.num_steps if x is None else x.shape[1])
            return rows.observe("x", rows.distribution("emission", z).to_event(1), value=rows.data)

    def guide(
        self,
        x: Tensor,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The guide: the path ``z``, which it returns."""
        with self.rows(self.guide_parts, x, covariates, size, index) as rows:
            seen, mask = rows.seen(rows.data)
            transition = self.dynamics.steps(rows.read("dynamics"))
            return rows.sample("z", "posterior", seen, self.dynamics.start, transition, mask=mask)

    def steps(
        self, x: Tensor, covariates: Covariates | None = None
    ) -> tuple[MarkovPath, MarkovPath, Callable[[Tensor, slice], Tensor]]:
        """The prior and the posterior of the path given some rows, and the log density of steps of the data given states."""
        with poutine.block(), self.rows((*self.model_parts, "posterior"), x, covariates) as rows:
            seen, mask = rows.seen(rows.data)
            prior, read = rows.distribution("dynamics", x.shape[1]), rows.read("emission") or {}
            transition = self.dynamics.steps(rows.read("dynamics"))
            posterior = rows.distribution("posterior", seen, self.dynamics.start, transition, mask=mask)

        def emit(state: Tensor, times: slice) -> Tensor:
            now = {name: value[:, times] for name, value in read.items()} or None
            distribution, filled = observed(self.emission(state, covariates=now), rows.data[:, times])
            return distribution.log_prob(filled)  # type: ignore[no-any-return]

        return prior, posterior, emit

    def forecast(
        self, data: Any, steps: int, covariates: Any = None, *, num_samples: int = 100, batch_size: int = 1024
    ) -> Tensor:
        """Draws of the steps after the data, ``(num_samples, N, steps, *event_shape)``, from the guide's last states.

        Args:
            data: N sequences of T steps; those that are drawn follow the last step that is seen of each.
            steps: how many steps to draw.
            covariates: for each name, N rows of T + steps steps.
            num_samples: draws for each sequence.
            batch_size: rows at a time.
        """

        def part(x: Tensor, own: Covariates | None) -> Tensor:
            longer = torch.cat([x, x.new_full((len(x), steps, *x.shape[2:]), torch.nan)], 1)
            places = torch.arange(len(x)).unsqueeze(1), _ends(x) + torch.arange(steps, device=x.device)
            return self._emitted(longer, own, num_samples)[:, *places]

        return self._over(part, as_data(data, covariates), batch_size, dim=1)  # type: ignore[no-any-return]

    def forecast_scores(
        self,
        data: Any,
        steps: int,
        covariates: Any = None,
        *,
        num_samples: int = 199,
        level: float = 0.9,
        batch_size: int = 256,
    ) -> xr.Dataset:
        r"""How well the last steps of sequences are forecast from those before them, by horizon.

        .. math:: \mathrm{CRPS}(y) = \mathbb{E}|X - y| - \tfrac12\, \mathbb{E}|X - X'|

        X and X' are draws of :meth:`forecast`. The score is in the units of the data, less is better, and on average no
        other forecast has less than the true one.

        Args:
            data: N sequences; the last ``steps`` that are seen of each are hidden and forecast.
            steps: how many.
            covariates: for each name, N rows of as many steps as the data.
            num_samples: draws for each sequence.
            level: of the central intervals whose coverage is counted; discrete data are covered more often.
            batch_size: rows at a time.

        Returns:
            A Dataset over ``horizon`` (1 to ``steps``): ``crps`` and ``coverage``, means over rows and entries, with their
            standard errors ``..._error`` between rows.

        Raises:
            ValueError: a sequence has no step before the hidden ones; the level lies outside (0, 1).

        Reference: Gneiting & Raftery 2007, doi:10.1198/016214506000001437.
        """
        import xarray as xr

        if not 0 < level < 1:
            raise refusal(f"level is the probability of an interval, between 0 and 1, got {level}", "level")
        outside = max(1, round((num_samples + 1) * (1 - level) / 2))

        def part(x: Tensor, own: Covariates | None) -> Tensor:
            every, entries = torch.arange(x.shape[1], device=x.device), x.flatten(2)
            ends = _ends(x)
            if bool((ends <= steps).any()):
                raise refusal(f"a sequence of {int(ends.min())} steps is too short to forecast {steps}", "steps")
            ahead, row = every >= ends - steps, torch.arange(len(x), device=x.device).unsqueeze(1)
            hidden = x.masked_fill(ahead.reshape(*ahead.shape, *[1] * (x.ndim - 2)), torch.nan)
            places = row, ends - steps + every[:steps]
            truth = entries[places]  # (rows, steps, entries)
            draws = self._emitted(hidden, own, num_samples).flatten(3)[:, *places].sort(0).values
            rank = torch.arange(1, num_samples + 1, device=x.device).to(draws)
            spread = (2 * rank - num_samples - 1) / (num_samples * max(num_samples - 1, 1))
            crps = (draws - truth).abs().mean(0) - torch.einsum("s...,s->...", draws, spread)
            covered = (draws[outside - 1] <= truth) & (truth <= draws[-outside])
            both = torch.stack([crps, covered.to(crps)], -1)
            return torch.where(truth.isnan().unsqueeze(-1), torch.nan, both).nanmean(2)

        found = self._over(part, as_data(data, covariates), batch_size).double()
        count = (~found.isnan()).sum(0)
        error = ((found - found.nanmean(0)).square().nansum(0) / (count - 1).clamp_min(1) / count).sqrt()
        columns = {"crps": 0, "coverage": 1}
        values = {name: ("horizon", found.nanmean(0)[:, i].numpy()) for name, i in columns.items()}
        errors = {f"{name}_error": ("horizon", error[:, i].numpy()) for name, i in columns.items()}
        return xr.Dataset({**values, **errors}, {"horizon": range(1, steps + 1)}, {"level": level})

    def _emitted(self, x: Tensor, covariates: Covariates | None, num_samples: int) -> Tensor:
        """Draws of all steps of the data given those that are seen, ``(num_samples, rows, T, *event_shape)``."""
        with poutine.block(), pyro.plate("draws", num_samples, dim=-2):
            z = self.guide(x, covariates=covariates)
        with self.rows(("emission",), None, covariates, len(x)) as rows:
            return rows.distribution("emission", z).sample()  # type: ignore[no-any-return]


def _ends(x: Tensor) -> Tensor:
    """How many steps each sequence has up to the last one that is seen, ``(rows, 1)``."""
    seen = (~x.isnan()).reshape(*x.shape[:2], -1).any(-1)
    return (seen * torch.arange(1, x.shape[1] + 1, device=x.device)).amax(1, keepdim=True)
