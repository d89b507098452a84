"""Importance-weighted bounds, right under plates, subsampling and beta, with low-variance gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.elbo import ELBO
from pyro.infer.util import torch_item
from pyro.poutine.trace_struct import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyrovae.programs import PARTICLES, Program, check_latents, plate_nesting
from pyrovae.programs.sites import Site, check_plates, expanded, frame_of, sites_of
from pyrovae.programs.terms import Axes

GRADIENTS = ("reparam", "dreg", "stl")


class Weights(NamedTuple):
    """The log weights of one evaluation, at the weights' beta; plate scales of the data are left out."""

    model: Tensor
    """Terms of the model, of shape (particles, data)."""
    guide: Tensor
    """Terms of the guide, of shape (particles, data)."""
    outside: Tensor | None
    """Scaled terms outside the data plate, of shape (particles,)."""
    plate_scale: Any
    """The data set's rows over the batch's."""

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the weights."""
        return self.model - self.guide


class ImportanceWeightedELBO(ELBO):
    r"""The importance-weighted bound of each datum, summed over data; with ``alpha`` Rényi's bound.

    .. math:: \mathcal{L} = \frac{N}{B} \sum_{i \in \mathrm{batch}} \frac{1}{1 - \alpha}
        \log \frac1K \sum_{k=1}^K w_{ki}^{1 - \alpha}, \qquad
        \log w_{ki} = \log p(x_i \mid z_{ki}) + \beta\,[\log p(z_{ki}) - \log q(z_{ki} \mid x_i)]

    Plate scales of the data stay outside of the logarithm; beta (``pyrovae.beta``) and all other scales go inside.
    alpha = 0 is the importance-weighted bound, alpha = 1 the ELBO.

    Args:
        num_particles: K, draws per datum, drawn along an axis left of every plate.
        gradient: ``"reparam"``, the plain derivative; ``"dreg"``, doubly reparameterized, whose signal-to-noise ratio
            grows with K for the guide too; ``"stl"``, sticking the landing, without the guide's score: biased for K > 1.
        alpha: Rényi's order, any real number.
        max_plate_nesting: the number of nested plates; inf finds it at the first call, without spending random numbers.

    Raises:
        ValueError: other arguments; a latent without reparameterized draws (not for evaluation alone), enumerated, or
            outside the data plate with ``num_particles > 1``.

    References: Burda et al. 2016, arXiv:1509.00519; Li & Turner 2016, arXiv:1602.02311 (Rényi); Tucker et al. 2019,
    arXiv:1810.04152 and Bauer & Mnih 2021, arXiv:2101.11046 (dreg); Roeder et al. 2017, arXiv:1703.09194 (stl).

    >>> ImportanceWeightedELBO(num_particles=16, gradient="dreg").num_particles
    16
    """

    def __init__(
        self,
        num_particles: int = 8,
        gradient: str = "reparam",
        alpha: float = 0.0,
        max_plate_nesting: float = float("inf"),
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha}")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)
        self.max_plate_nesting: float = max_plate_nesting
        self.gradient, self.alpha = gradient, alpha

    def bound(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The bound on the whole data set's evidence, a 0-dim tensor in nats, with the plain derivative."""
        weights = self._weights(*self._traces(model, guide, args, kwargs))
        return self._total(weights, self._per_datum(weights.log_weights))

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, as a number."""
        with torch.no_grad():
            loss = -torch_item(self.bound(model, guide, *args, **kwargs))
        warn_if_nan(loss, "loss")
        return loss

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, whose derivative is the chosen estimator of the bound's gradient."""
        if self.gradient != "reparam":
            return -self._surrogate(model, guide, args, kwargs)
        traces = self._traces(model, guide, args, kwargs)
        _check_reparameterized(traces[1])
        weights = self._weights(*traces)
        return -self._total(weights, self._per_datum(weights.log_weights))

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Minus the bound as a number, after adding its gradient to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        value = torch_item(loss)
        warn_if_nan(value, "loss")
        return value

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        return self._traces(model, guide, args, kwargs)

    def _traces(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        self._find_nesting(model, guide, args, kwargs)
        guide_trace = self._run(guide, args, kwargs)
        model_trace = self._run(poutine.replay(model, trace=guide_trace), args, kwargs)
        check_latents(model_trace, guide_trace)
        return model_trace, guide_trace

    def _find_nesting(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> None:
        if math.isinf(self.max_plate_nesting):
            self.max_plate_nesting = plate_nesting(Program(model, guide), args, kwargs)

    def _run(self, function: Callable, args: tuple, kwargs: dict) -> Trace:
        particles = pyro.plate(PARTICLES, self.num_particles, dim=-1 - int(self.max_plate_nesting))
        return poutine.trace(particles(function)).get_trace(*args, **kwargs)

    def _weights(self, model_trace: Trace, guide_trace: Trace) -> Weights:
        model, guide = sites_of(model_trace), sites_of(guide_trace)
        check_plates([*model, *guide])
        axes = Axes.of(model)
        frame = next(frame_of(site) for site in model if frame_of(site))
        plate_scale = frame.full_size / frame.size
        local, own = (_sum([s for s in sites if frame_of(s)], axes, plate_scale) for sites in (model, guide))
        outside = [(s, sign) for sites, sign in ((model, 1), (guide, -1)) for s in sites if not frame_of(s)]
        return Weights(local, own, self._outside(outside, axes), plate_scale)

    def _outside(self, sites: list[tuple[Site, int]], axes: Axes) -> Tensor | None:
        if not sites:
            return None
        if self.num_particles > 1:
            names = [site["name"] for site, _ in sites]
            raise ValueError(
                f"sites {names} lie outside the data plate, so the bound is no sum over data: use num_particles=1 or "
                "pyro.infer.Trace_ELBO"
            )
        terms = [sign * axes.keep(_scaled(site, 1.0), axes.particles) for site, sign in sites]
        return sum(terms[1:], terms[0])

    def _per_datum(self, log_weights: Tensor) -> Tensor:
        if self.alpha == 1.0:
            return log_weights.mean(0)
        power = 1.0 - self.alpha
        return ((power * log_weights).logsumexp(0) - math.log(len(log_weights))) / power

    def _total(self, weights: Weights, per_datum: Tensor) -> Tensor:
        total = weights.plate_scale * per_datum.sum()
        return total if weights.outside is None else total + weights.outside.mean()

    def _surrogate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A tensor with the bound's value and the path gradient of the guide.

        The guide runs twice: once to draw, once to be evaluated at copies of the draws that are leaves. The derivative with
        respect to these leaves leaves out everything direct, whichever module a parameter belongs to; the chain rule takes
        it to the draws' own graph. What the model's parameters do directly keeps the plain weights, so a prior that shares
        the guide's network is differentiated right.
        """
        self._find_nesting(model, guide, args, kwargs)
        state = torch.get_rng_state()
        first = self._run(guide, args, kwargs)
        _check_reparameterized(first)
        leaves = {s["name"]: s["value"].detach().requires_grad_() for s in sites_of(first) if not s["is_observed"]}
        held = _replace(first, leaves)
        with torch.random.fork_rng():
            torch.set_rng_state(state)  # the same dropout masks as when drawing
            guide_trace = self._run(poutine.replay(guide, trace=held), args, kwargs)
        model_trace = self._run(poutine.replay(model, trace=held), args, kwargs)
        check_latents(model_trace, guide_trace)
        weights = self._weights(model_trace, guide_trace)
        slopes = self._slopes(weights, guide_trace, leaves)
        path = sum((slopes[name] * first.nodes[name]["value"]).sum() for name in leaves)
        gradient = path + self._direct(weights, model_trace)
        return self._total(weights, self._per_datum(weights.log_weights)).detach() + gradient - gradient.detach()

    def _slopes(self, weights: Weights, guide_trace: Trace, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the guide's draws are pulled by: the removed score returns as a path term where the weights depend on it."""
        normalized = self._normalized(weights.log_weights)
        coefficient = normalized
        if self.gradient == "dreg":
            beta = _common_scale(guide_trace, weights.plate_scale)
            coefficient = normalized - beta * (1 - self.alpha) * normalized * (1 - normalized)
        target = weights.plate_scale * (coefficient * weights.log_weights).sum()
        target = target if weights.outside is None else target + weights.outside.sum()
        slopes = torch.autograd.grad(target, list(leaves.values()), retain_graph=True, allow_unused=True)
        return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), slopes, strict=True)}

    def _direct(self, weights: Weights, model_trace: Trace) -> Tensor:
        """The model's own parameters: as in the plain gradient."""
        direct = weights.plate_scale * (self._normalized(weights.log_weights) * weights.model).sum()
        outside = [site for site in sites_of(model_trace) if not frame_of(site)]
        return direct + sum(_scaled(site, 1.0).sum() for site in outside)

    def _normalized(self, log_weights: Tensor) -> Tensor:
        return ((1.0 - self.alpha) * log_weights).softmax(0).detach()


class StickingTheLanding(ImportanceWeightedELBO):
    r"""The plain ELBO without the guide's score in its gradient, which then vanishes at an exact guide.

    .. math:: \nabla_\phi \mathcal{L} = \mathbb{E}_\epsilon\Bigl[\frac{\partial \log w(z)}{\partial z}
        \frac{\partial z_\phi(\epsilon)}{\partial \phi}\Bigr]

    Args:
        num_particles: draws per datum, averaged.
        max_plate_nesting: the number of nested plates; inf finds it at the first call.

    Reference: Roeder, Wu & Duvenaud 2017, arXiv:1703.09194.

    >>> StickingTheLanding().gradient
    'stl'
    """

    def __init__(self, num_particles: int = 1, max_plate_nesting: float = float("inf")) -> None:
        super().__init__(num_particles, "stl", 1.0, max_plate_nesting)


def _sum(sites: list[Site], axes: Axes, plate_scale: float) -> Tensor:
    terms = [axes.keep(_scaled(site, plate_scale), axes.particles, axes.data) for site in sites]
    return sum(terms[1:], terms[0])


def _scaled(site: Site, plate_scale: float) -> Tensor:
    """The log density with its mask and with all scales but the data plate's."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return expanded(scale_and_mask(log_prob, site["scale"] / plate_scale, site["mask"]), site)


def _common_scale(guide_trace: Trace, plate_scale: float) -> Any:
    """The beta of the guide's sites, which must be one: otherwise the removed scores would need a path of their own each."""
    scales = [s["scale"] / plate_scale for s in sites_of(guide_trace) if frame_of(s) and not s["is_observed"]]
    numbers = {float(scale) for scale in scales if not isinstance(scale, Tensor)}
    if len(numbers) > 1 or (numbers and any(isinstance(scale, Tensor) for scale in scales)):
        raise ValueError("doubly reparameterized gradients need one beta for all sites: use gradient='reparam'")
    return scales[0]


def _replace(trace: Trace, values: dict[str, Tensor]) -> Trace:
    copy = trace.copy()
    for name, value in values.items():
        copy.nodes[name] = {**copy.nodes[name], "value": value}
    return copy


def _check_reparameterized(guide_trace: Trace) -> None:
    for site in sites_of(guide_trace):
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise ValueError(
                f"latent {site['name']!r} has no reparameterized draws, which this objective needs: use a relaxed or "
                "continuous distribution, or pyro.infer.TraceGraph_ELBO / TraceEnum_ELBO"
            )


__all__ = ["ImportanceWeightedELBO", "StickingTheLanding"]
