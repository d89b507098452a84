"""What a graph is: a module of conditionals whose ``model`` and ``guide`` are plain Pyro programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pyrovae.data import as_data, map_batches
from pyrovae.errors import check_integer, plain_errors, refusal
from pyrovae.graphs.rows import Covariates, Rows, covariate_names
from pyrovae.networks import check_covariates
from pyrovae.programs import DATA, Program, eval_mode, latent_names, register, registered
from pyrovae.programs.sites import Site, frame_of
from pyrovae.programs.supports import data_named
from pyrovae.programs.tables import rows_for

RESERVED = ("mask", "index")
"""Names of covariates that every graph provides: the mask of observed entries, and the numbers of the rows in the data set."""
WEIGHT = "weight"
"""The covariate that weighs rows in training: a row's log densities count so often. Evaluation is of single rows."""


class Graph(nn.Module):
    """A graphical model and its guide: conditionals as parts, and two short programs over them (abstract).

    A class of its own names ``model_parts`` and ``guide_parts``, and writes ``model`` and ``guide`` with
    :meth:`rows`; training, evaluation, checks and export need nothing else. See ``VAE`` for an example of 11 lines.

    Args:
        name: the prefix of the parameters' names in Pyro; two graphs inside one bigger model need two names.
        **parts: modules whose ``forward(*values, covariates=None)`` returns a distribution. A part lists the covariates that
            it reads in an attribute ``covariate_names``; one without the attribute reads none.

    Raises:
        TypeError: the name is no string, a part is no module, or its ``forward`` takes no ``covariates``.
    """

    model_parts: Sequence[str]
    guide_parts: Sequence[str]
    inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What the ``forward`` of a part takes by position, by part; parts that are not named are not checked for it."""
    provided: tuple[str, ...] = ()
    """Names of covariates that the graph itself provides, beside ``"mask"`` (of observed entries) and ``"index"`` (of rows)."""
    max_plate_nesting: ClassVar[int] = 1
    training_draws: ClassVar[int] = 1
    """Draws for each row of the importance-weighted bound that ``fit`` takes by default; 1 for the ELBO."""
    model: Callable[..., Any]
    guide: Callable[..., Any]

    def __init__(self, name: str, **parts: nn.Module) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise refusal(f"name must be a non-empty string, got {name!r}", "name", TypeError)
        self.name = name
        for role, part in parts.items():
            _check_part(role, part, type(self))
            self.add_module(role, part)
        self.check_parts()

    def check_parts(self) -> None:
        """Refuse parts that do not fit each other: called when the graph is built, and whenever its programs run."""

    def announce(self, parts: Sequence[str]) -> None:
        """Announce some parts, so that Pyro trains them: :meth:`rows` does, and a program with latents outside its plate."""
        register(**self._announced(parts))

    @contextmanager
    def rows(
        self,
        parts: Sequence[str],
        data: Any = None,
        covariates: Covariates | None = None,
        size: int | None = None,
        index: Tensor | None = None,
    ) -> Iterator[Rows]:
        """Announce some parts, then open the plate over the data.

        Parts are announced before the plate: inside, a weight that is lifted to a latent would get the plate and its scale.
        The parts compute with the values that ``poutine.lift``, ``condition`` or ``replay`` give to weights.

        Args:
            parts: the names of the parts that the program uses.
            data: rows ``(rows, *event_shape)`` or a tree of these; None where the program simulates them.
            covariates: for each name, a tensor of as many rows.
            size: the number of rows of the whole data set; by default those given (else 1).
            index: the numbers of the rows in the data set; by default 0, 1, 2, ...

        Raises:
            TypeError: data or covariates are no tensors.
            ValueError: other numbers of rows; a covariate that a part lacks, or that no part reads.
        """
        covariates = self._placed_covariates(covariates, parts)
        data = None if data is None else tree_map(self._placed, data)
        count = _count(data, covariates)
        if size is not None and size < (count or 1):
            raise refusal(
                f"size is the number of rows of the whole data set, got {size} for a batch of {count or 1} rows", "size"
            )
        subsample = None
        if count is not None:
            device = tree_leaves((data, covariates))[-1].device
            subsample = torch.arange(count, device=device) if index is None else index.to(device)
        weight = covariates.pop(WEIGHT, None)
        weighing = nullcontext() if weight is None else poutine.scale(scale=weight)
        plate = pyro.plate(DATA, size or count or 1, subsample=subsample, dim=-1)
        with registered(**self._announced(parts)), plate, weighing:
            yield Rows(self, data, covariates, subsample)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The names that some part reads from the covariates."""
        parts = dict.fromkeys((*self.model_parts, *self.guide_parts))
        names = dict.fromkeys(name for part in parts for name in covariate_names(getattr(self, part)))
        return tuple(name for name in names if name not in (*RESERVED, *self.provided))

    def encode(
        self, data: Any, covariates: Any = None, *, num_samples: int | None = None, batch_size: int = 1024
    ) -> Any:
        """The guide's means of the latents of each row, or draws of them; no gradient, in eval mode.

        Args:
            data: N rows of any kind that :func:`pyrovae.data.as_data` takes.
            covariates: for each name, N rows.
            num_samples: draws instead of means. The mean of a latent that depends on others is taken at their means.
            batch_size: rows at a time.

        Returns:
            On the CPU: ``(N, *latent_shape)``, or ``(num_samples, N, *latent_shape)``; a dict by site where there are
            several latents.

        Raises:
            NotImplementedError: a posterior has no closed-form mean: ask for ``num_samples``.
        """

        def part(x: Any, own: Covariates | None) -> Any:
            run = self.guide if num_samples is None else self._many(num_samples)
            with data_named(Program.of(self), (x,), {"covariates": own}), Means(num_samples is None):
                trace = poutine.trace(run).get_trace(x, covariates=own)
            local = [trace.nodes[name] for name in latent_names(trace) if frame_of(trace.nodes[name])]
            latents = {site["name"]: _rows_last(site, num_samples) for site in local}
            return next(iter(latents.values())) if len(latents) == 1 else latents

        return self._over(part, rows_for(self, data, covariates), batch_size, dim=0 if num_samples is None else 1)

    def decode(self, latents: Any, covariates: Any = None, *, draw: bool = False, batch_size: int = 1024) -> Any:
        """The data sites' means given the latents of N rows: ``(N, *event_shape)``, a dict by site where there are several.

        Args:
            latents: of shape ``(N, *latent_shape)``, or a dict by site; a site that is left out takes its mean.
            covariates: for each name, N rows.
            draw: draw the data, and the latents that are left out, instead of taking their means.
            batch_size: rows at a time.
        """

        def part(z: Any, own: Covariates | None) -> Any:
            with Means(not draw, z if isinstance(z, Mapping) else {None: z}):
                return self.model(None, covariates=own, size=len(tree_leaves(z)[0]))

        return self._over(part, as_data(latents, covariates), batch_size)

    def reconstruct(
        self, data: Any, covariates: Any = None, *, num_samples: int | None = None, batch_size: int = 1024
    ) -> Any:
        """The data sites' means at the guide's means, or averaged over ``num_samples`` draws: the shape of the data.

        Of a category that is known to be the latent itself (a label), it is the one that is found most often.
        """
        found = rows_for(self, data, covariates)
        latents = self.encode(found, num_samples=num_samples, batch_size=batch_size)
        if num_samples is None:
            return self.decode(latents, found.covariates, batch_size=batch_size)
        draws = [tree_map(lambda z, s=s: z[s], latents) for s in range(num_samples)]
        decoded = [self.decode(z, found.covariates, batch_size=batch_size) for z in draws]
        return tree_map(_average, *decoded)

    def counterfactual(
        self, data: Any, covariates: Any, other: Any, *, num_samples: int = 100, batch_size: int = 1024
    ) -> Any:
        """Draws of the data under other covariates, given the latents that the guide finds under their own.

        What changes is associational: an effect of the covariates only where the latents do not depend on them.
        :func:`pyrovae.checks.covariate_information` tells how far they do, in nats; ``diagnose`` and the report do, too.

        Args:
            data: N rows.
            covariates: for each name, N rows: those of the data.
            other: for each name, N rows: those to draw under.
            num_samples: draws per row.
            batch_size: rows at a time.

        Returns:
            ``(num_samples, N, *event_shape)``, a dict by site where there are several data sites.
        """
        latents = self.encode(data, covariates, num_samples=num_samples, batch_size=batch_size)
        draws = [
            self.decode(tree_map(lambda z, s=s: z[s], latents), other, draw=True, batch_size=batch_size)
            for s in range(num_samples)
        ]
        return tree_map(lambda *x: torch.stack(x), *draws)

    def sample(self, num_samples: int, covariates: Any = None, *, batch_size: int = 1024) -> Any:
        """Data simulated from the model, one datum for each row of the covariates if there are any.

        Raises:
            ValueError: the covariates have another number of rows than ``num_samples``.
        """
        check_integer("num_samples", num_samples)
        for name, value in ({} if covariates is None else covariates).items():
            if len(value) != num_samples:
                raise ValueError(f"covariates[{name!r}] has {len(value)} rows, expected {num_samples}: one row a datum")

        def part(row: Tensor, own: Covariates | None) -> Any:
            with poutine.block():
                return self.model(None, covariates=own, size=len(row))

        return self._over(part, as_data(torch.zeros(num_samples), covariates), batch_size)

    def _announced(self, parts: Sequence[str]) -> dict[str, nn.Module]:
        self.check_parts()
        return {f"{self.name}.{part}": getattr(self, part) for part in parts}

    def _many(self, num_samples: int) -> Callable:
        return pyro.plate("draws", num_samples, dim=-1 - self.max_plate_nesting)(self.guide)

    def _over(self, part: Callable[[Any, Covariates | None], Any], data: Any, batch_size: int, dim: int = 0) -> Any:
        """Apply a function to batches of rows, in eval mode and without gradients; results joined on the CPU."""
        check_integer("batch_size", batch_size)
        check_covariates(self, data.covariates or {}, data.levels)
        with plain_errors(), torch.no_grad(), eval_mode(self):
            function = lambda batch: part(batch.x, batch.covariates)  # noqa: E731
            return map_batches(function, data, like=self._like(), batch_size=batch_size, dim=dim)

    def _like(self) -> Tensor:
        found = (tensor for tensor in chain(self.parameters(), self.buffers()) if tensor.is_floating_point())
        return next(found, torch.empty(0))

    def _placed(self, rows: Any) -> Tensor:
        if not isinstance(rows, Tensor):
            raise TypeError(f"x must be a torch tensor here, got {type(rows).__name__}: write torch.as_tensor(x)")
        return rows.to(self._like())

    def _placed_covariates(self, covariates: Covariates | None, parts: Sequence[str]) -> dict[str, Tensor]:
        if covariates is not None and not isinstance(covariates, Mapping):
            raise TypeError(
                f"covariates must be a mapping from names to tensors, got {type(covariates).__name__}; the parts of a tuple of "
                "data are handed to the model as its arguments: give the data alone"
            )
        known = self.covariate_names
        unread = next((name for name in covariates or () if name not in (*known, WEIGHT)), None)
        if unread is not None:
            raise ValueError(
                f"no part reads {unread!r} from the covariates; it is read for: {', '.join(known) or 'nothing'}"
            )
        needed = {
            n for part in parts for n in covariate_names(getattr(self, part)) if n not in (*RESERVED, *self.provided)
        }
        missing = sorted(needed - set(covariates or ()))
        if missing:
            raise ValueError(
                f"covariates lack {missing[0]!r}: pass covariates={{{missing[0]!r}: tensor}} with one row a datum"
            )
        if not covariates:
            return {}
        like = self._like()
        return {n: v.to(like) if v.is_floating_point() else v.to(like.device) for n, v in covariates.items()}


class Means(Messenger):
    """Sets sites that would be drawn to given values, and the others to the means of their distributions.

    Args:
        active: False leaves the others to be drawn.
        values: by site; the key None stands for the first latent.
    """

    def __init__(self, active: bool, values: Mapping[Any, Tensor] | None = None) -> None:
        super().__init__()
        self.active, self.values = active, dict(values or {})

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        name = msg["name"] if msg["name"] in self.values else None
        if name in self.values or self.active:
            msg["value"] = self.values.pop(name) if name in self.values else _mean(msg["fn"], msg["name"])
            msg["done"] = True


def _mean(distribution: Any, site: str) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        raise NotImplementedError(
            f"{type(distribution).__name__} at site {site!r} has no closed-form mean: ask for draws, encode(..., num_samples=) "
            "or decode(..., draw=True)"
        ) from None


def _average(*draws: Tensor) -> Tensor:
    found = torch.stack(draws)
    return found.mean(0) if found.is_floating_point() else found.mode(0).values


def _rows_last(site: Site, num_samples: int | None) -> Tensor:
    """A latent's value with the draws first, over all rows of its plate."""
    shape = site["value"].shape[site["value"].ndim - len(site["fn"].event_shape) :]
    frames = sorted((f for f in site["cond_indep_stack"] if f.vectorized), key=lambda frame: frame.dim)
    return site["value"].expand((*(frame.size for frame in frames), *shape))


def _count(data: Any, covariates: Covariates) -> int | None:
    """The number of rows; None where there are neither data nor covariates."""
    count = None
    for path, value in (*(("x", leaf) for leaf in tree_leaves(data) if leaf is not None), *covariates.items()):
        name = "x" if path == "x" and path not in covariates else f"covariates[{path!r}]"
        if value.ndim == 0:
            raise ValueError(f"{name} must have one row a datum, got a number: write tensor.expand(rows)")
        if count is not None and value.shape[0] != count:
            raise ValueError(f"{name} has {value.shape[0]} rows, expected {count}: one row a datum")
        count = value.shape[0]
    if count == 0:
        raise ValueError("the data has no rows: expected at least one")
    return count


def _check_part(role: str, part: Any, graph: type[Graph]) -> None:
    """Refuse what is no conditional: ``graph.inputs`` names the values of each part, where the class tells them."""
    if not isinstance(part, nn.Module):
        raise refusal(
            f"{role} must be a torch module whose forward returns a Pyro distribution, got {type(part).__name__}",
            role,
            TypeError,
        )
    values = graph.inputs.get(role)
    signature = inspect.signature(part.forward)
    try:
        signature.bind_partial(covariates=None) if values is None else signature.bind(*values, covariates=None)
    except TypeError as error:
        wanted = ", ".join(["self", *(["*values"] if values is None else values), "covariates=None"])
        raise refusal(
            f"{type(part).__name__} cannot be a {role}: write def forward({wanted}) ({error})", role, TypeError
        ) from None
