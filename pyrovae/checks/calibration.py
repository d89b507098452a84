"""Simulation-based calibration of an amortized guide: truths that the model made, ranked among the guide's draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrovae.checks.calls import whole
from pyrovae.checks.entries import Site, array, entry_kl, rows_second, sampled_traces
from pyrovae.checks.simulate import Covariates, Simulated, Substitute, simulate
from pyrovae.checks.uniformity import (
    Array,
    Band,
    central_coverage,
    density_coverage,
    ecdf,
    ecdf_band,
    ranks_among,
    uniformity_p_value,
)
from pyrovae.checks.words import entry_names, listed
from pyrovae.programs import Program, Terms, eval_mode, latent_names, log_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG_JOINT = "log_joint"
COLLAPSED_KL = 0.01
"""Nats below which a latent carries nothing, so that its ranks are uniform whatever the guide does."""


@dataclass(frozen=True, repr=False)
class SBC:
    """What :func:`sbc` found: ranks, their p-values, and the KL beside them.

    Attributes:
        ranks: by latent site, integers from 0 to ``num_draws``, shape ``(num_simulations, *event_shape)``.
        log_joint_ranks: ranks of log p(x, z), shape ``(num_simulations,)``.
        log_q_ranks: ranks of log q(z | x), shape ``(num_simulations,)``.
        kl: by latent site, nats of each entry averaged over simulations, shape ``(*event_shape,)``.
        num_draws: the number of guide draws behind each rank.
        p_values: by latent site and ``log_joint``, of each entry alone.
    """

    ranks: dict[str, NDArray[np.int64]]
    log_joint_ranks: NDArray[np.int64]
    log_q_ranks: NDArray[np.int64]
    kl: dict[str, Array]
    num_draws: int
    p_values: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        quantities = {**self.ranks, LOG_JOINT: self.log_joint_ranks}
        values = {name: uniformity_p_value(ranks, self.num_draws) for name, ranks in quantities.items()}
        object.__setattr__(self, "p_values", values)

    @property
    def num_simulations(self) -> int:
        """The number of simulated rows."""
        return len(self.log_joint_ranks)

    @property
    def num_tests(self) -> int:
        """The number of p-values: one for each entry of each latent, and one for log p(x, z)."""
        return sum(int(np.size(values)) for values in self.p_values.values())

    @property
    def p_value(self) -> float:
        """The smallest p-value times the number of tests (Bonferroni), at most 1."""
        return min(1.0, self.num_tests * min(float(np.min(values)) for values in self.p_values.values()))

    def adjusted(self, name: str) -> Array:
        """The Bonferroni-adjusted p-values of one latent site, or of ``log_joint``."""
        return np.minimum(1.0, self.num_tests * np.asarray(self.p_values[name]))

    def ecdf(self, name: str) -> Array:
        """The empirical distribution of the ranks of a site or of ``log_joint``: ``(num_draws + 1, *event_shape)``."""
        return ecdf(self.log_joint_ranks if name == LOG_JOINT else self.ranks[name], self.num_draws)

    def band(self, level: float = 0.95) -> Band:
        """The simultaneous limits of :func:`ecdf_band` for these numbers of simulations and draws."""
        return ecdf_band(self.num_simulations, self.num_draws, level)

    def coverage(self, levels: Array) -> dict[str, Array]:
        """Expected coverage at each level: of each latent's central intervals, and of the guide's density regions.

        Returns:
            By site ``(num_levels, *event_shape)``, and under ``"joint"`` ``(num_levels,)``.
        """
        central = {name: central_coverage(ranks, self.num_draws, levels) for name, ranks in self.ranks.items()}
        return {**central, "joint": density_coverage(self.log_q_ranks, self.num_draws, levels)}

    def summary(self, level: float = 0.01) -> str:
        """The findings in words, with what to do about each.

        Args:
            level: the Bonferroni-adjusted p-value below which a rank is called not uniform.
        """
        return "\n".join(_findings(self, level))

    def __repr__(self) -> str:
        title = f"SBC({self.num_simulations} simulations x {self.num_draws} draws, p = {self.p_value:.2g})"
        return f"{title}\n{self.summary()}"


def sbc(
    program: Any,
    num_simulations: int = 2000,
    num_draws: int = 99,
    *,
    x: Any = None,
    covariates: Covariates | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> SBC:
    r"""Ranks simulated latents, and log p(x, z), among the guide's draws; an exact guide makes them uniform.

    .. math:: z^*, x \sim p(z, x), \qquad z_s \sim q(z \mid x), \qquad
        r = \#\{s : f(z_s, x) < f(z^*, x)\} \sim \mathrm{Uniform}\{0, \ldots, S\}

    for every entry of z and for f = log p(x, z), which alone sees lost correlations between latents. No refit is
    needed: the guide is amortized. A latent that carries nothing passes; the KL beside its ranks tells.

    Args:
        program: anything with ``model`` and ``guide``, a pair of them, or a ``pyro.infer.SVI``; local latents only.
        num_simulations: rows simulated from the model.
        num_draws: guide draws a row.
        x: rows whose shapes are used (not their values), where the model cannot be called without data.
        covariates: a tensor of rows for each name, used in turn.
        batch_size: rows at a time.
        seed: of the simulations and the draws.

    Returns:
        An :class:`SBC`: the ranks by latent site and of log p(x, z), their p-values, the KL beside them, and in words
        (``summary()``) what is wrong with the guide.

    Raises:
        ValueError: fewer than two simulations or draws; the model cannot be simulated.

    Reference: Talts et al. 2018, arXiv:1804.06788; Modrák et al. 2023, arXiv:2211.02383 (log p(x, z) among the
    test quantities).

    >>> import pyrovae as pvae, pyro.distributions as dist, torch
    >>> _ = torch.manual_seed(0)
    >>> vae = pvae.VAE(pvae.standard_normal(2), pvae.Factorized(dist.Normal, pvae.MLP(2, (8,)), 5, scale=1.0),
    ...     pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), 2))
    >>> sbc(vae, num_simulations=100, num_draws=19).ranks["z"].shape
    (100, 2)
    """
    if num_simulations < 2 or num_draws < 2:
        raise ValueError(f"expected at least 2 simulations and 2 draws, got {num_simulations} and {num_draws}")
    source, rng = Program.of(program), np.random.default_rng(seed)
    with torch.random.fork_rng(), torch.no_grad(), eval_mode(source.owners):
        torch.manual_seed(seed)
        parts = list(_batches(source, num_simulations, num_draws, x, covariates, batch_size, rng))
    sites = parts[0].ranks
    return SBC(
        {name: np.concatenate([p.ranks[name] for p in parts]) for name in sites},
        np.concatenate([p.log_joint for p in parts]),
        np.concatenate([p.log_q for p in parts]),
        {name: np.concatenate([p.kl[name] for p in parts]).mean(0) for name in sites},
        num_draws,
    )


@dataclass(frozen=True)
class _Part:
    ranks: dict[str, NDArray[np.int64]]
    log_joint: NDArray[np.int64]
    log_q: NDArray[np.int64]
    kl: dict[str, Array]


def _batches(
    program: Program,
    size: int,
    num_draws: int,
    x: Any,
    covariates: Covariates | None,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[_Part]:
    for start in range(0, size, batch_size):
        rows = min(batch_size, size - start)
        own = {n: v[torch.arange(start, start + rows) % len(v)] for n, v in covariates.items()} if covariates else None
        yield _part(program, simulate(program.model, rows, x, own), own, num_draws, rng)


def _part(
    program: Program, truth: Simulated, covariates: Covariates | None, num_draws: int, rng: np.random.Generator
) -> _Part:
    _, call = whole(program, truth.x, covariates, 0)
    fixed = call._replace(program=replace(call.program, guide=Substitute(truth.latents)(call.program.guide)))
    model_trace, guide_trace = sampled_traces(call, num_draws)
    exact_model, exact_guide = sampled_traces(fixed, 1)
    drawn, exact = log_terms(model_trace, guide_trace), log_terms(exact_model, exact_guide)
    return _Part(
        {n: _site_ranks(exact_guide.nodes[n], guide_trace.nodes[n], rng) for n in latent_names(guide_trace)},
        ranks_among(_joint(exact)[0], _joint(drawn), rng),
        ranks_among(array(exact.log_guide)[0], array(drawn.log_guide), rng),
        {name: array(kl) for name, kl in entry_kl(model_trace, guide_trace).items()},
    )


def _site_ranks(truth: Site, draws: Site, rng: np.random.Generator) -> NDArray[np.int64]:
    values = rows_second(draws["value"], draws)
    exact = truth["value"].expand(1, *draws["value"].shape[1:])
    return ranks_among(array(rows_second(exact, draws)[0]), array(values), rng)


def _joint(terms: Terms) -> NDArray[np.float64]:
    return array(terms.reconstruction + terms.log_prior)


def _findings(result: SBC, level: float) -> list[str]:
    found: dict[str, list[str]] = {}
    for site, ranks in result.ranks.items():
        flat, wrong = ranks.reshape(len(ranks), -1), np.ravel(result.adjusted(site) < level)
        names = entry_names(site, np.ones(ranks.shape[1:], dtype=bool))
        for j in np.flatnonzero(wrong):
            found.setdefault(_pattern(flat[:, j], result.num_draws), []).append(names[j])
    lines = [f"{listed(names)}: {_WORDS[pattern]}" for pattern, names in found.items()]
    if float(result.adjusted(LOG_JOINT)) < level:
        lines.append(_WORDS["joint"] if not found else "log p(x, z): its ranks are not uniform either.")
    if not lines:
        lines.append(
            "Every rank is uniform as far as these simulations tell: the guide's draws can stand for the posterior."
        )
    empty = [n for site, kl in result.kl.items() for n in entry_names(site, kl < COLLAPSED_KL)]
    return [*lines, f"{listed(empty)}: {_WORDS['empty']}"] if empty else lines


_WORDS = {
    "shifted": "the guide's mean is off to one side; train longer, or refine per datum.",
    "narrow": "the guide is too narrow (truths fall in its tails); refine per datum, or use a richer guide.",
    "shifted narrow": (
        "the guide's mean is off to one side, and the guide is too narrow (truths fall in its tails); refine per datum, or "
        "use a richer guide."
    ),
    "shifted wide": (
        "the guide's mean is off to one side, and the guide is too wide; train longer, or refine per datum."
    ),
    "wide": "the guide is too wide (truths fall near its middle); train longer, or refine per datum.",
    "uneven": "the guide has another shape than the posterior; use a richer guide, such as a flow or a mixture.",
    "joint": (
        "log p(x, z): not uniform though every latent alone is; the guide loses the correlations between latents: use "
        "a full-covariance guide or a flow, or correct its draws (method='psis')."
    ),
    "empty": f"KL below {COLLAPSED_KL} nats; it follows its prior, so that its ranks pass whatever the data say.",
}


LIMIT = 3.0
"""Standard errors from which on a defect of the ranks is named."""


def _pattern(ranks: NDArray[np.int64], num_draws: int) -> str:
    """What is wrong with ranks, read off their normal scores: mean off zero, and width beside a mere shift's."""
    from scipy.stats import norm

    grid = norm.ppf((np.arange(num_draws + 1) + 0.5) / (num_draws + 1))
    scores, count = grid[ranks], len(ranks)
    shift = abs(scores.mean()) / np.sqrt(max(scores.var(), 1e-12) / count)
    variance, error = _shifted_variance(grid, float(scores.mean()))
    width = (scores.var() - variance) / (error / np.sqrt(count))
    named = {"shifted": shift > LIMIT, "narrow": width > LIMIT, "wide": width < -LIMIT}
    return " ".join(name for name, found in named.items() if found) or "uneven"


def _shifted_variance(grid: Array, mean: float) -> tuple[float, float]:
    """The variance of scores whose guide is off to one side and else right, so that their mean is this; its error."""
    from scipy.stats import norm

    edges = norm.ppf(np.linspace(0.0, 1.0, len(grid) + 1))
    offsets = np.linspace(-8.0, 8.0, 801)
    shares = np.diff(norm.cdf(edges - offsets[:, None]))
    share = shares[np.abs(shares @ grid - mean).argmin()]
    centered = grid - share @ grid
    variance = share @ centered**2
    return float(variance), float(np.sqrt(max(share @ centered**4 - variance**2, 1e-6)))
