"""The latents of a program as one real vector per datum, with the log densities of model and guide on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.evaluation.coordinates import Coordinates, bijection, bounds, check_bounds
from pyrovae.programs import PARTICLES, Terms, given_terms, latent_names
from pyrovae.programs.call import Call
from pyrovae.programs.masks import Unmask, counted
from pyrovae.programs.running import reaches_beyond
from pyrovae.programs.sites import Site, frame_of, sites_of
from pyrovae.programs.supports import check_inside

CHECKED_DRAWS = 8
"""Draws of the guide at which it is checked what depends on a masked latent."""


class LatentSpace:
    r"""All continuous latents of a datum as one real vector u, constrained ones through their bijection, directions as vectors.

    .. math:: \log p(x, u) = \log p(x, z(u)) + \log |\det \partial z / \partial u|

    Discrete sites are summed out. A masked latent counts as a draw from its prior, which leaves p(x) as it is, since
    nothing that counts depends on it; only where the model alone masks a latent on which something does depend (a factor,
    say), the mask stands for a flat prior.

    Args:
        call: a program with the arguments for one batch of rows.

    Attributes:
        counted: whether the program counts a coordinate, or masks it, of shape (rows, size).
        masked_alike: the guide masks what the model masks, and nothing else.
        flat: the latents with a flat prior.
        wide: the priors of the latents that the guide may draw outside the prior's support.
        varies: some rows may have other bijections than others.

    Raises:
        ValueError: a latent that the guide lacks, one outside the data plate, one that cannot be made unconstrained, a
            discrete one that cannot be enumerated, one whose support depends on another, or one that both functions mask
            and on which something depends.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        with torch.random.fork_rng(), torch.no_grad():
            model_trace, guide_trace = call.traces(1, enumerate_discrete=False)
            again, _ = call.traces(1, enumerate_discrete=False)
        discrete = [name for name in latent_names(model_trace) if _is_discrete(model_trace.nodes[name])]
        self.names = [name for name in latent_names(guide_trace) if name not in discrete]
        self.auxiliary = [name for name in _drawn(guide_trace) if guide_trace.nodes[name]["infer"].get("is_auxiliary")]
        lacking = [name for name in _drawn(model_trace) if name not in (*self.names, *discrete)]
        if lacking:
            raise ValueError(f"the model draws the latents {lacking}, which the guide lacks: sample them in both")
        for name in self.names:
            check_bounds(model_trace.nodes[name], again.nodes[name])
        self.wide = {
            name: model_trace.nodes[name]["fn"]
            for name in self.names
            if reaches_beyond(guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"])
        }
        self.varies = any(bound.numel() > 1 for name in self.names for bound in bounds(model_trace.nodes[name]))
        self.blocks = self._layout([(guide_trace.nodes[name], model_trace.nodes[name]) for name in self.names])
        self.size = self.blocks[-1].coordinates.stop
        frame = frame_of(guide_trace.nodes[self.names[0]])
        self.rows, self.data_dim = frame.size, frame.dim
        value = guide_trace.nodes[self.names[0]]["value"]
        self.like = value.new_empty(0)
        self.flat: frozenset[str] = frozenset()
        self.counted = self._counted(model_trace)
        self.masked_alike = torch.equal(self.counted, self._counted(guide_trace))
        if not self.counted.all():
            self.flat = self._flat(guide_trace)
            for block in self.blocks:
                self.counted[:, block.coordinates] |= block.name in self.flat

    def _counted(self, trace: Trace) -> Tensor:
        """Which coordinates a trace does not mask, of shape (rows, size)."""
        parts = [self._counted_of(trace.nodes[block.name], block) for block in self.blocks]
        return torch.cat(parts, -1)

    def _counted_of(self, site: Site, block: Coordinates) -> Tensor:
        mask = counted(site)
        if mask is None:
            return torch.ones(self.rows, block.size, dtype=torch.bool, device=self.like.device)
        inner = mask.ndim - site["fn"].event_dim + len(block.event_shape)
        mask = mask.reshape([*mask.shape[:inner], *[1] * (inner - mask.ndim)])
        return self._from_plates(mask.expand(*site["fn"].batch_shape, *block.event_shape), block)[0]

    def _flat(self, guide_trace: Trace) -> frozenset[str]:
        """The masked latents on which something that counts depends."""
        with torch.random.fork_rng():
            u = self.guide_draws(CHECKED_DRAWS)
        with torch.enable_grad(), poutine.block():
            u.requires_grad_()
            terms = self._given(self.call.program.model, self.values(u)[0], len(u))
            total = terms.log_weights.sum() + 0.0 * u.sum()
            gradient = torch.autograd.grad(total, u)[0].nan_to_num().abs()
        noise = torch.finfo(u.dtype).eps ** 0.5 * gradient.amax().clamp_min(1.0)
        used = (gradient > noise).any(0) & ~self.counted
        found = [block for block in self.blocks if used[:, block.coordinates].any()]
        for block in found:
            mask = counted(guide_trace.nodes[block.name])
            if mask is not None and not mask.all():
                raise ValueError(
                    f"latent {block.name!r} is masked, and what is not masked depends on it, so that log p(x) would depend "
                    "on the guide: mask what depends on it too, or do not mask it"
                )
        return frozenset(block.name for block in found)

    def _layout(self, pairs: list[tuple[Site, Site]]) -> list[Coordinates]:
        if not pairs:
            raise ValueError("the program has no continuous latent: nothing to refine or to anneal")
        blocks, start = [], 0
        for guide, model in pairs:
            if frame_of(guide) is None:
                raise ValueError(
                    f"latent {guide['name']!r} lies outside the data plate: only latents of a datum can be refined or annealed"
                )
            transform = bijection(model)
            event_dim = model["fn"].event_dim
            shape = transform.inv(guide["value"]).shape
            shape = shape[len(guide["fn"].batch_shape) :]
            plates = tuple(
                (f.name, f.size, f.dim) for f in guide["cond_indep_stack"] if f.name not in (PARTICLES, "data")
            )
            size = math.prod(shape) * math.prod(plate[1] for plate in plates)
            blocks.append(Coordinates(guide["name"], transform, slice(start, start + size), shape, event_dim, plates))
            start += size
        return blocks

    def values(self, u: Tensor, masked: bool = False) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values at vectors of shape (samples, rows, size), and the log Jacobian of shape (samples, rows).

        Args:
            u: the vectors.
            masked: leave coordinates that the program masks out of the Jacobian.
        """
        values, log_det = {}, u.new_zeros(u.shape[:-1])
        for block in self.blocks:
            part = self._to_plates(u[..., block.coordinates], block)
            values[block.name] = block.transform(part)
            kept = self._to_plates(self.counted[None, :, block.coordinates], block) if masked else None
            log_det = log_det + self._per_row(block.log_det(part, values[block.name], kept))
        return values, log_det

    def flatten(self, values: dict[str, Tensor]) -> Tensor:
        """The inverse of :meth:`values`: vectors of shape (samples, rows, size)."""
        parts = [self._from_plates(block.transform.inv(values[block.name]), block) for block in self.blocks]
        return torch.cat(parts, -1)

    def log_joint(self, u: Tensor, masked: bool = False) -> Tensor:
        """The model's log density of data and vector, of shape (samples, rows).

        Args:
            u: vectors of shape (samples, rows, size).
            masked: leave out what the program masks, instead of counting it as drawn from its prior.
        """
        if self.call.densities is not None:
            return self.call.densities.log_joint(self, u, masked)
        return self._log_density(self.call.program.model if masked else self._unmasked_model(), u, masked)

    def on(self, **changes: Any) -> LatentSpace:
        """The same latents of a call with these changes."""
        found = copy(self)
        found.call = self.call._replace(**changes)
        return found

    def log_prior_and_joint(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The model's log density of the vector alone, and with the data, each of shape (samples, rows)."""
        values, log_det = self.values(u)
        trace = self._particles(self._unmasked_model(), len(u), values)
        alone = trace.copy()
        for site in sites_of(trace):
            if site["is_observed"] and site["name"] not in self.names:
                alone.remove_node(site["name"])
        prior, joint = (given_terms(part, self.names).log_weights + log_det for part in (alone, trace))
        return prior, joint

    def _unmasked_model(self) -> Callable:
        return Unmask(set(self.names) - self.flat)(self.call.program.model)

    def log_guide(self, u: Tensor, masked: bool = False) -> Tensor:
        """The guide's log density of the vector, of shape (samples, rows); arguments as :meth:`log_joint`.

        Raises:
            ValueError: the guide draws auxiliary sites, so its density at a given latent is not known.
        """
        if self.auxiliary:
            raise ValueError(
                f"the guide's density at a given latent is unknown (it draws the auxiliary sites {self.auxiliary}): refine "
                "it first"
            )
        guide = self.call.program.guide
        return self._log_density(guide if masked else Unmask(self.names)(guide), u, masked)

    def guide_draws(self, num_samples: int) -> Tensor:
        """Draws of the guide as vectors, of shape (samples, rows, size)."""
        with torch.no_grad(), poutine.block():
            guide_trace = self._particles(self.call.program.guide, num_samples, None)
        values = {name: guide_trace.nodes[name]["value"] for name in self.names}
        for name, prior in self.wide.items():
            check_inside(name, prior, values[name])
        return self.flatten(values)

    def prior_draws(self, num_samples: int) -> Tensor:
        """Draws of the model's prior as vectors, of shape (samples, rows, size)."""
        with torch.no_grad(), poutine.block():
            trace = self._particles(self.call.program.model, num_samples, None)
        return self.flatten({name: trace.nodes[name]["value"] for name in self.names})

    def _log_density(self, function: Callable, u: Tensor, masked: bool) -> Tensor:
        values, log_det = self.values(u, masked)
        return self._given(function, values, len(u)).log_weights + log_det

    def _given(self, function: Callable, values: dict[str, Tensor], num_samples: int) -> Terms:
        return given_terms(self._particles(function, num_samples, values), self.names)

    def _particles(self, function: Callable, num_samples: int, values: dict[str, Tensor] | None) -> Trace:
        nesting = self.call.nesting
        function = pyro.plate(PARTICLES, num_samples, dim=-1 - nesting)(function)
        if values is not None:
            function = poutine.condition(enumerating(function), data=values)
            function = EnumMessenger(-2 - nesting)(function)
        return poutine.trace(function).get_trace(*self.call.args, **self.call.kwargs)

    def _to_plates(self, part: Tensor, block: Coordinates) -> Tensor:
        """(samples, rows, k) -> (samples, *plates in their places, *event)."""
        batch = [part.shape[0], *[1] * self.call.nesting]
        batch[self.data_dim] = self.rows
        sizes = [size for _, size, _ in block.plates]
        part = part.reshape(*part.shape[:2], *sizes, *block.event_shape)
        order = sorted(range(len(sizes)), key=lambda i: block.plates[i][2])
        places = [(self.data_dim, 1), *((block.plates[i][2], 2 + i) for i in order)]
        axes = [0, *(axis for _, axis in sorted(places)), *range(2 + len(sizes), part.ndim)]
        for _, size, dim in block.plates:
            batch[dim] = size
        return part.permute(axes).reshape(*batch, *block.event_shape)

    def _from_plates(self, part: Tensor, block: Coordinates) -> Tensor:
        event = len(block.event_shape)
        data = self.data_dim - event
        dims = [dim - event for _, _, dim in block.plates]
        kept = {0, data % part.ndim, *(d % part.ndim for d in dims), *range(part.ndim - event, part.ndim)}
        axes = [0, data % part.ndim, *(d % part.ndim for d in dims), *range(part.ndim - event, part.ndim)]
        spare = [axis for axis in range(part.ndim) if axis not in kept]
        return part.permute(*axes, *spare).reshape(part.shape[0], self.rows, -1)

    def _per_row(self, jacobian: Tensor) -> Tensor:
        others = [axis for axis in range(jacobian.ndim) if axis not in (0, self._data_axis(jacobian))]
        return jacobian.sum(others) if others else jacobian

    def _data_axis(self, jacobian: Tensor) -> int:
        return 1 + self.call.nesting + self.data_dim


def enumerating(function: Callable) -> Callable:
    """A model or guide whose discrete latents are marked for enumeration."""
    return poutine.infer_config(function, config_fn=_enumerate)


def _drawn(trace: Trace) -> list[str]:
    return [site["name"] for site in sites_of(trace) if not site["is_observed"]]


def _enumerate(site: Any) -> dict[str, str]:
    latent = site["type"] == "sample" and not site["is_observed"]
    return {"enumerate": "parallel"} if latent and _is_discrete(site) else {}


def _is_discrete(site: Site) -> bool:
    support = getattr(site["fn"], "support", None)
    if support is None or not support.is_discrete:
        return False
    if not getattr(site["fn"], "has_enumerate_support", False):
        raise ValueError(f"discrete latent {site['name']!r} cannot be enumerated: use method='importance'")
    return True
