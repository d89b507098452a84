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

from pyrovae.objectives.divergence import check_reparameterized
from pyrovae.programs import PARTICLES, Program, check_latents, plate_nesting
from pyrovae.programs.sites import Site, check_plates, expanded, frame_of, sites_of
from pyrovae.programs.terms import Axes

GRADIENTS = ("reparam", "dreg", "stl")


class Weights(NamedTuple):
    r"""The log weights of one evaluation, split into the terms of the model and those of the guide.

    .. math:: \log w_{ki} = \mathrm{model}_{ki} - \mathrm{guide}_{ki}

    Masks, beta and other scales are applied; the scale of the data plate (rows of the data set over rows of the batch) is
    not, since it stands outside the logarithm of the bound.
    """

    model: Tensor
    """The model's log densities inside the data plate, of shape ``(particles, data)``."""
    guide: Tensor
    """The guide's log densities inside the data plate, of shape ``(particles, data)``."""
    outside: Tensor | None
    """The model's minus the guide's log densities outside the data plate, of shape ``(particles,)``; None without any."""
    plate_scale: Any
    """The scale of the data plate."""

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the weights, of shape ``(particles, data)``."""
        return self.model - self.guide


class ImportanceWeightedELBO(ELBO):
    r"""The importance-weighted bound of each datum, summed over data; with ``alpha`` Rényi's bound.

    .. math:: \mathcal{L} = \frac{N}{B} \sum_{i \in \mathrm{batch}} \frac{1}{1 - \alpha}
        \log \frac1K \sum_{k=1}^K w_{ki}^{1 - \alpha}, \qquad
        \log w_{ki} = \log p(x_i \mid z_{ki}) + \beta\,[\log p(z_{ki}) - \log q(z_{ki} \mid x_i)]

    The scale N/B of the data plate stays outside the logarithm; beta (``pyrovae.beta``) and all other scales go inside.
    With alpha = 0 it is the importance-weighted bound, with alpha = 1 the ELBO.

    Three estimators of its gradient are offered. Let :math:`\hat w_{ki} \propto w_{ki}^{1 - \alpha}` be the weights,
    normalized over k. For the parameters :math:`\phi` of the guide, ``"dreg"`` and ``"stl"`` differentiate through the draws
    alone, and leave out the direct derivative of :math:`\log q_\phi`:

    .. math:: \sum_k c_{ki}\, \frac{\partial \log w_{ki}}{\partial z_{ki}}\, \frac{\partial z_{ki}}{\partial \phi}, \qquad
        c^{\mathrm{stl}} = \hat w, \qquad c^{\mathrm{dreg}} = \hat w - \beta (1 - \alpha)\, \hat w (1 - \hat w)

    Args:
        num_particles: K, the draws per datum, along an axis left of every plate.
        gradient: ``"reparam"``, the plain derivative; ``"dreg"``, doubly reparameterized: unbiased, with a signal-to-noise
            ratio that grows with K for the guide's parameters too; ``"stl"``, sticking the landing: biased for K > 1.
        alpha: the order of Rényi's divergence, any real number.
        max_plate_nesting: the number of nested plates; inf finds it at the first call, without using random numbers.

    Raises:
        ValueError: an argument is out of range; a latent has no reparameterized draws (evaluation alone needs none), is
            enumerated, or lies outside the data plate while ``num_particles > 1``.

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
        """Minus the bound, a 0-dim tensor whose derivative is the chosen estimator of the gradient."""
        if self.gradient != "reparam":
            return -self._surrogate(model, guide, args, kwargs)
        traces = self._traces(model, guide, args, kwargs)
        check_reparameterized(sites_of(traces[1]))
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
        """Trace a function with the particles along an axis left of every plate."""
        particles = pyro.plate(PARTICLES, self.num_particles, dim=-1 - int(self.max_plate_nesting))
        return poutine.trace(particles(function)).get_trace(*args, **kwargs)

    def _weights(self, model_trace: Trace, guide_trace: Trace) -> Weights:
        model, guide = sites_of(model_trace), sites_of(guide_trace)
        check_plates([*model, *guide])
        axes = Axes.of(model)
        frame = next(frame_of(site) for site in model if frame_of(site))
        scale = frame.full_size / frame.size
        own, other = (
            _added([axes.keep(_scaled(s, scale), axes.particles, axes.data) for s in sites if frame_of(s)])
            for sites in (model, guide)
        )
        signed = [(site, sign) for sites, sign in ((model, 1), (guide, -1)) for site in sites if not frame_of(site)]
        if signed and self.num_particles > 1:
            raise ValueError(
                f"sites {[site['name'] for site, _ in signed]} lie outside the data plate, so the bound is no sum over data: "
                "use num_particles=1 or pyro.infer.Trace_ELBO"
            )
        outside = (
            _added([sign * axes.keep(_scaled(site, 1.0), axes.particles) for site, sign in signed]) if signed else None
        )
        return Weights(own, other, outside, scale)

    def _per_datum(self, log_weights: Tensor) -> Tensor:
        """The bound of each datum."""
        if self.alpha == 1.0:
            return log_weights.mean(0)
        power = 1.0 - self.alpha
        return ((power * log_weights).logsumexp(0) - math.log(len(log_weights))) / power

    def _total(self, weights: Weights, per_datum: Tensor) -> Tensor:
        """The bound of the whole data set."""
        total = weights.plate_scale * per_datum.sum()
        return total if weights.outside is None else total + weights.outside.mean()

    def _surrogate(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A tensor whose value is the bound, and whose derivative is the estimator ``"dreg"`` or ``"stl"``.

        The guide runs twice. The first run draws z. The second run, and the model, are evaluated at copies of z that are
        leaves of the graph of derivatives, so that the derivative with respect to a leaf holds no direct derivative of the
        guide's density, whichever module a parameter belongs to. The chain rule through the first run then gives the
        derivative with respect to the guide's parameters. The model's parameters have their plain derivative, also where
        the prior shares the guide's network.
        """
        self._find_nesting(model, guide, args, kwargs)
        random_state = torch.get_rng_state()
        drawn = self._run(guide, args, kwargs)
        check_reparameterized(sites_of(drawn))
        leaves = {s["name"]: s["value"].detach().requires_grad_() for s in sites_of(drawn) if not s["is_observed"]}
        fixed = drawn.copy()
        for name, leaf in leaves.items():
            fixed.nodes[name] = {**fixed.nodes[name], "value": leaf}
        with torch.random.fork_rng():
            torch.set_rng_state(random_state)  # for the same dropout masks as in the first run
            guide_trace = self._run(poutine.replay(guide, trace=fixed), args, kwargs)
        model_trace = self._run(poutine.replay(model, trace=fixed), args, kwargs)
        check_latents(model_trace, guide_trace)
        weights = self._weights(model_trace, guide_trace)
        through_draws = sum(
            (slope * drawn.nodes[name]["value"]).sum()
            for name, slope in self._slopes(weights, guide_trace, leaves).items()
        )
        direct = weights.plate_scale * (self._normalized(weights.log_weights) * weights.model).sum()
        direct = direct + sum(_scaled(site, 1.0).sum() for site in sites_of(model_trace) if not frame_of(site))
        gradient = through_draws + direct
        return self._total(weights, self._per_datum(weights.log_weights)).detach() + gradient - gradient.detach()

    def _slopes(self, weights: Weights, guide_trace: Trace, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """The factor of each draw's derivative in the estimator: the sum of c times the derivative of log w by the draw."""
        coefficient = normalized = self._normalized(weights.log_weights)
        if self.gradient == "dreg":
            beta = _common_scale(guide_trace, weights.plate_scale)
            coefficient = normalized - beta * (1 - self.alpha) * normalized * (1 - normalized)
        target = weights.plate_scale * (coefficient * weights.log_weights).sum()
        target = target if weights.outside is None else target + weights.outside.sum()
        slopes = torch.autograd.grad(target, list(leaves.values()), retain_graph=True, allow_unused=True)
        return {name: slope for name, slope in zip(leaves, slopes, strict=True) if slope is not None}

    def _normalized(self, log_weights: Tensor) -> Tensor:
        """The weights to the power 1 - alpha, normalized over the particles, without a derivative."""
        return ((1.0 - self.alpha) * log_weights).softmax(0).detach()


class StickingTheLanding(ImportanceWeightedELBO):
    r"""The plain ELBO with a gradient that leaves the guide's score out: it has no noise where the guide is exact.

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


def _added(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


def _scaled(site: Site, plate_scale: float) -> Tensor:
    """A site's log density over all of its plates, with its mask and all scales but the data plate's."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return expanded(scale_and_mask(log_prob, site["scale"] / plate_scale, site["mask"]), site)


def _common_scale(guide_trace: Trace, plate_scale: float) -> Any:
    """The beta of the guide's latents, which must be the same for all: it stands in the coefficient of ``"dreg"``."""
    scales = [s["scale"] / plate_scale for s in sites_of(guide_trace) if frame_of(s) and not s["is_observed"]]
    numbers = {float(scale) for scale in scales if not isinstance(scale, Tensor)}
    if len(numbers) > 1 or (numbers and any(isinstance(scale, Tensor) for scale in scales)):
        raise ValueError("doubly reparameterized gradients need one beta for all sites: use gradient='reparam'")
    return scales[0]
