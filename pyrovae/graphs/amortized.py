"""An amortized guide for a model of your own: local latents from an encoder, global ones from learned distributions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from torch import Tensor, nn
from torch.distributions import biject_to

from pyrovae.conditionals import Factorized, FullNormal, LowRank
from pyrovae.distributions.links import OneSided
from pyrovae.errors import refusal
from pyrovae.graphs.graph import Covariates, Graph
from pyrovae.networks.base import Network
from pyrovae.programs import announcements_off
from pyrovae.programs.program import parameters_of
from pyrovae.programs.sites import Site, frame_of, sites_of

START = 0.1
"""The standard deviations with which global latents start: many rows tell much of them."""
FAMILIES: Mapping[str, Callable[[Any, int], nn.Module]] = {
    "diagonal": lambda net, size: _learned(size) if net is None else Factorized(dist.Normal, net, size),
    "full": lambda net, size: _narrow(FullNormal(net, size), slice(size, 2 * size)),
    "low_rank": lambda net, size: _narrow(LowRank(net, size, rank=min(size, 4)), 1),
}


class Piece(NamedTuple):
    """A latent site as a part of an unconstrained vector."""

    name: str
    transform: Any
    shape: torch.Size
    """Of the unconstrained value: an axis for each plate around a global latent, then the event."""
    plates: tuple[Any, ...]
    event_dim: int


class AmortizedGuide(Graph):
    r"""A guide for a model of your own with one plate ``data``, and both together as a program.

    .. math:: q(\theta) \prod_i q(u_i \mid x_i, \theta), \qquad z_i = T(u_i)

    One run of the model tells its latents: those inside the plate come from the encoder in unconstrained space, with the
    Jacobian of the map T onto their support; those outside have a learned distribution of the same family. Both are drawn
    by one guide, under mini-batches too if the model takes ``size``. Train it by ``fit(guide, data)``. An encoder that
    lists a global latent among its ``covariate_names`` is given its draw. For held-out rows, ``log_marginal`` averages
    p(x_i | theta) over draws of the global latents and charges no divergence of them; ``joint_log_weights`` is the
    evidence of the training rows together, which charges them once. Checks of single rows take ``hold_globals()``, and so does
    ``write_report(folder, vae=guide.hold_globals(), ...)``. Run ``guide.guide(x)`` once before weights are loaded into it.

    A weight of a ``VAE`` becomes a global latent by Pyro's ``lift``: ``poutine.lift(vae.model, prior={name: prior})``, with a
    name such as ``"vae.likelihood.net.head.bias"``, is then the model, and ``vae.posterior`` the encoder. Evidence takes
    ``vectorize=False``, since a network has one set of weights at a time.

    Args:
        model: your model; its data go first, and it may take ``covariates``, ``size`` and ``index``.
        encoder: an open :class:`~pyrovae.networks.Network` for all local latents together, or a dict with one for each
            local site, which makes these independent. A module that is no network is taken as the conditional itself.
        covariance: ``"diagonal"``, ``"full"``, ``"low_rank"`` (of rank 4), or a function ``(net, size)`` of your own that
            returns a conditional, such as ``pyrovae.AffineFlow``.
        features: from the data to the input of the encoder; by default the data with zeros for missing entries.
        name: the prefix of the parameters' names in Pyro.

    Raises:
        ValueError: another word for the covariance; said at the first run: a discrete latent that the model does not
            enumerate, a latent in a further plate inside ``data``, a local site without an encoder.

    Reference: Kucukelbir et al. 2017, arXiv:1603.00788 (the map to unconstrained space).

    >>> import pyrovae as pvae
    >>> def model(x, size=None):
    ...     rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    ...     with pyro.plate("data", size or len(x), subsample=torch.arange(len(x))):
    ...         z = pyro.sample("z", dist.Exponential(rate))
    ...         pyro.sample("x", dist.Poisson(z.unsqueeze(-1)).to_event(1), obs=x)
    >>> guide = AmortizedGuide(model, pvae.MLP(1, (8,)), features=torch.log1p)
    >>> _ = pvae.fit(guide, torch.ones(32, 1), epochs=2, batch_size=16, seed=0)
    >>> guide.encode(torch.ones(4, 1)).shape
    torch.Size([4])
    """

    model_parts: tuple[str, ...] = ()
    guide_parts: tuple[str, ...] = ()
    global_posterior: nn.Module

    def __init__(
        self,
        model: Callable,
        encoder: nn.Module | Mapping[str, nn.Module],
        covariance: str | Callable[[Any, int], nn.Module] = "diagonal",
        *,
        features: Callable[[Any], Any] | None = None,
        name: str = "guide",
    ) -> None:
        super().__init__(name)
        if not callable(covariance) and covariance not in FAMILIES:
            raise refusal(
                f"covariance must be one of {', '.join(FAMILIES)} or a function of a network and a size, got {covariance!r}",
                "covariance",
            )
        self.model, self.features = model, features
        self.family = covariance if callable(covariance) else FAMILIES[covariance]
        self.encoder = nn.ModuleDict(encoder) if isinstance(encoder, Mapping) else encoder
        self.local: dict[str, list[Piece]] = {}
        self.globals: list[Piece] = []

    def hold_globals(self) -> tuple[Callable, Callable]:
        """Model and guide with the global latents held at the mean of their posterior in unconstrained space, for checks of rows.

        Raises:
            ValueError: the guide has not run yet, so that its latents are not known.
        """
        if not self.guide_parts:
            raise ValueError(
                "the latents of this guide are not known before its first run: train it first, fit(guide, data)"
            )
        values: dict[str, Tensor] = {}
        if self.globals:
            with torch.no_grad(), torch.random.fork_rng(), poutine.block():
                posterior = self.global_posterior(covariates=None)
                try:
                    mean = posterior.mean
                except NotImplementedError:  # of a flow
                    mean = posterior.sample((10_000,)).mean(0)
                values = poutine.condition(_draw, {"_globals": mean})("_globals", posterior, self.globals)
        return poutine.condition(self.model, values), partial(self.guide, held=values)

    def guide(
        self,
        *args: Any,
        covariates: Covariates | None = None,
        size: int | None = None,
        held: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The guide: global latents, then the local ones inside the plate ``data``; arguments as those of the model.

        Global latents that are ``held`` at values are not drawn.
        """
        if not self.guide_parts:
            given = {"covariates": covariates, "size": size, **kwargs}
            self._set_up(args, {name: v for name, v in given.items() if name in parameters_of(self.model)})
        self.announce(self.guide_parts)
        shared = dict(held or {})
        if held is None and self.globals:
            shared = _draw("_globals", self.global_posterior(covariates=None), self.globals)
        own = {name: v for name, v in (covariates or {}).items() if name in self.covariate_names}
        with self.rows(self.guide_parts, args if len(args) > 1 else args[0], own, size) as rows:
            seen, mask = rows.seen(rows.data) if self.features is None else (self.features(rows.data), None)
            given = {"mask": mask, **shared} if mask is not None else shared
            for group, pieces in self.local.items():
                shared |= _draw(f"_{group}", rows.distribution(group, seen, **given), pieces)
        return shared

    def _set_up(self, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Make the parts, once the latents are known from a run of the model."""
        with torch.no_grad(), torch.random.fork_rng(), announcements_off(), poutine.block():
            trace = poutine.trace(self.model).get_trace(*args, **kwargs)
        sites = [s for s in sites_of(trace) if not s["is_observed"] and not s["infer"].get("enumerate")]
        local = [_piece(s) for s in sites if frame_of(s)]
        self.globals = [_piece(s) for s in sites if not frame_of(s)]
        encoders = self.encoder if isinstance(self.encoder, nn.ModuleDict) else {"local": self.encoder}
        self.local = {f"{k}_posterior": [p for p in local if k in ("local", p.name)] for k in encoders}
        lacking = {p.name for p in local} - {p.name for pieces in self.local.values() for p in pieces}
        if lacking or not all(self.local.values()):
            raise ValueError(
                f"expected an encoder for each local latent {[p.name for p in local]}, got {list(encoders)}"
            )
        like = self._like()
        for (group, pieces), net in zip(self.local.items(), encoders.values(), strict=True):
            self.add_module(group, self.family(net, _size(pieces)) if isinstance(net, Network) else net)
        if self.globals:
            self.add_module("global_posterior", self.family(None, _size(self.globals)))
        del self.encoder  # its parts hold it now
        self.to(device=like.device, dtype=like.dtype)
        self.provided = tuple(p.name for p in self.globals)
        self.guide_parts = (*(["global_posterior"] if self.globals else []), *self.local)


def _learned(size: int) -> nn.Module:
    loc, scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.full((size,), START))
    return Factorized(dist.Normal, None, size, loc=loc, scale=scale)


def _narrow(part: Any, scales: Any) -> nn.Module:
    """A normal whose raw scales start low, where it has no network."""
    if part.net is None:
        with torch.no_grad():
            part.value[scales] = OneSided(0.0).inverse(torch.tensor(START))
    return part  # type: ignore[no-any-return]


def _size(pieces: list[Piece]) -> int:
    return sum(piece.shape.numel() for piece in pieces)


def _piece(site: Site) -> Piece:
    """How a latent site lies in an unconstrained vector."""
    name, fn, is_local = site["name"], site["fn"], frame_of(site) is not None
    plates = tuple(f for f in site["cond_indep_stack"] if f.vectorized and not (is_local and f is frame_of(site)))
    if fn.support.is_discrete or (is_local and plates):
        what = "is discrete" if fn.support.is_discrete else f"lies in the plate {plates[0].name!r} inside 'data'"
        raise ValueError(
            f"the latent {name!r} {what}, which an encoder of unconstrained vectors cannot draw: mark a discrete site "
            "infer={'enumerate': 'parallel'} to sum it out, and write an inner plate as the site's event (to_event)"
        )
    transform = biject_to(_fixed(fn.support, name))
    sizes = [1] * max((-frame.dim for frame in plates), default=0)
    for frame in plates:
        sizes[frame.dim] = frame.size
    return Piece(name, transform, torch.Size([*sizes, *transform.inverse_shape(fn.event_shape)]), plates, fn.event_dim)


def _fixed(support: Any, name: str) -> Any:
    """A support whose bounds are single numbers."""
    found = copy.copy(support)
    for key, bound in vars(support).items():
        if isinstance(bound, Tensor):
            if bool((bound != bound.reshape(-1)[0]).any()):
                raise ValueError(
                    f"the support of the latent {name!r} differs between rows or entries: sample it on a fixed support, and "
                    "shift or scale its value in the model"
                )
            setattr(found, key, bound.reshape(-1)[0])
        elif isinstance(bound, torch.distributions.constraints.Constraint):
            setattr(found, key, _fixed(bound, name))
    return found


def _draw(name: str, distribution: Any, pieces: list[Piece]) -> dict[str, Tensor]:
    """Draw an unconstrained vector, and from it the sites, each with the Jacobian of its map."""
    u, start, values = pyro.sample(name, distribution, infer={"is_auxiliary": True}), 0, {}
    for piece in pieces:
        size = piece.shape.numel()
        depth = max((-frame.dim for frame in piece.plates), default=0)
        lead = u.shape[:-1][: max(u.ndim - 1 - depth, 0)]
        flat = u[..., start : start + size].reshape((*lead, *piece.shape))
        value = piece.transform(flat)
        jacobian = piece.transform.log_abs_det_jacobian(flat, value)
        jacobian = sum_rightmost(jacobian, jacobian.ndim - value.ndim + piece.event_dim)
        with ExitStack() as stack:
            for frame in piece.plates:
                stack.enter_context(pyro.plate(frame.name, frame.size, dim=frame.dim))
            values[piece.name] = pyro.sample(piece.name, dist.Delta(value, -jacobian, event_dim=piece.event_dim))
        start += size
    return values
