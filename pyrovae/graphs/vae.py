"""Graphical models: one class for each graph, each with a ``model`` and a ``guide`` that are plain Pyro programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.missing import fill_zeros, observed
from pyrovae.programs import register

Covariates = Mapping[str, Tensor]
PROVIDED = ("mask",)
"""Names that the program itself adds to the covariates: the mask of observed entries of ``x``."""


class VAE(nn.Module):
    r"""A variational autoencoder: one latent, one data site, and three conditional distributions.

    .. math::
        z_i \sim p(z \mid c_i), \qquad x_i \sim p(x \mid z_i, c_i), \qquad q(z_i \mid x_i, c_i)

    ``vae.model`` and ``vae.guide`` go straight into ``pyro.infer.SVI`` and everything else in Pyro.

    Args:
        prior: module with ``forward(covariates=None)`` returning the distribution of ``z``.
        likelihood: module with ``forward(z, covariates=None)`` returning the distribution of ``x``.
        posterior: module with ``forward(x, covariates=None)`` returning the guide's distribution of ``z``.
        name: the prefix of the parameters' names in Pyro; two VAEs inside one bigger model need two names.

    A conditional that reads the covariates lists the names in an attribute ``covariate_names``; the name ``"mask"`` is
    provided by the program (True where ``x`` is observed).

    Raises:
        TypeError: a part is not a module, or its ``forward`` has other arguments.
        ValueError: the prior shares a posterior that is not this one.

    Reference: Kingma & Welling 2014, arXiv:1312.6114; Rezende, Mohamed & Wierstra 2014, arXiv:1401.4082.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> vae = VAE(
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(2, (16,)), event_shape=5),
    ...     posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (16,)), event_shape=2),
    ... )
    >>> vae.model(torch.zeros(3, 5)).shape, vae.guide(torch.zeros(3, 5)).shape
    (torch.Size([3, 5]), torch.Size([3, 2]))
    """

    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module
    spec: Any
    """The `presets.Spec` of a VAE that ``build_vae`` made."""

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module, name: str = "vae") -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a non-empty string, got {name!r}")
        self.name = name
        for role, part in (("prior", prior), ("likelihood", likelihood), ("posterior", posterior)):
            _check_conditional(role, part)
            self.add_module(role, part)
        self._check_shared_posterior()

    def model(self, x: Tensor | None = None, covariates: Covariates | None = None, size: int | None = None) -> Tensor:
        """The generative program: sites ``z`` and ``x`` inside the plate ``data``; without ``x`` it samples data.

        Args:
            x: data of shape ``(rows, *event_shape)``; NaN is missing.
            covariates: a tensor of ``rows`` rows for each name that the parts read.
            size: the number of rows of the whole data set, by default the rows of ``x`` or of the covariates (else 1).

        Returns:
            The data, missing entries filled; shape ``(rows, *event_shape)``.

        Raises:
            ValueError: wrong shapes, values outside the support, missing or unread covariates.
        """
        self._check_shared_posterior()
        register(**{f"{self.name}.prior": self.prior, f"{self.name}.likelihood": self.likelihood})
        x = self._cast(x)
        covariates = self._covariates(covariates, ("prior", "likelihood"))
        with _data_plate(x, covariates, size):
            z = pyro.sample("z", _of_pyro(self.prior(covariates=_read(self.prior, covariates)), "prior"))
            likelihood = _of_pyro(self.likelihood(z, covariates=_read(self.likelihood, covariates)), "likelihood")
            if x is None:
                return pyro.sample("x", likelihood)
            _check_axes(x, likelihood.event_shape)
            distribution, filled = observed(likelihood, x)
            return pyro.sample("x", distribution, obs=filled)

    def guide(self, x: Tensor, covariates: Covariates | None = None, size: int | None = None) -> Tensor:
        """The amortized guide: site ``z`` inside the plate ``data``; arguments as in :meth:`model`.

        Returns:
            A draw of the latents, of shape ``(rows, *latent_shape)``.
        """
        register(**{f"{self.name}.posterior": self.posterior})
        x = self._cast_rows(x)
        covariates = self._covariates(covariates, ("posterior",))
        with _data_plate(x, covariates, size):
            return pyro.sample("z", self._posterior(x, covariates))

    def encode(
        self, x: Tensor, covariates: Covariates | None = None, num_samples: int | None = None, batch_size: int = 1024
    ) -> Tensor:
        """The posterior's mean for each datum, or draws from it; no gradient, in eval mode.

        Returns:
            On the CPU: ``(rows, *latent_shape)``, or ``(num_samples, rows, *latent_shape)``.

        Raises:
            NotImplementedError: the posterior has no closed-form mean: ask for ``num_samples``.
        """

        def part(rows: slice) -> Tensor:
            own = _slice(covariates, rows)
            posterior = self._posterior(self._cast_rows(x[rows]), self._covariates(own, ("posterior",)))
            return _mean(posterior, "posterior") if num_samples is None else posterior.sample((num_samples,))

        return self._in_batches(part, len(x), batch_size, dim=0 if num_samples is None else 1)

    def decode(self, z: Tensor, covariates: Covariates | None = None, batch_size: int = 1024) -> Tensor:
        """The likelihood's mean given latents of shape ``(rows, *latent_shape)``: shape ``(rows, *event_shape)``."""

        def part(rows: slice) -> Tensor:
            own = self._covariates(_slice(covariates, rows), ("likelihood",))
            return _mean(
                self.likelihood(self._cast_rows(z[rows]), covariates=_read(self.likelihood, own)), "likelihood"
            )

        return self._in_batches(part, len(z), batch_size)

    def reconstruct(
        self, x: Tensor, covariates: Covariates | None = None, num_samples: int | None = None, batch_size: int = 1024
    ) -> Tensor:
        """The likelihood's mean at the posterior's mean, or its average over ``num_samples`` draws: the shape of ``x``."""
        if num_samples is None:
            return self.decode(self.encode(x, covariates, batch_size=batch_size), covariates, batch_size)
        draws = self.encode(x, covariates, num_samples, batch_size)
        return torch.stack([self.decode(z, covariates, batch_size) for z in draws]).mean(0)

    def sample(self, num_samples: int, covariates: Covariates | None = None, batch_size: int = 1024) -> Tensor:
        """Data simulated from the model, one datum a row of the covariates if there is one: ``(num_samples, *event_shape)``.

        Raises:
            ValueError: the covariates have another number of rows than ``num_samples``.
        """
        _check_rows(num_samples, covariates)

        def part(rows: slice) -> Tensor:
            size = len(range(*rows.indices(num_samples)))
            with pyro.poutine.block():
                return self.model(covariates=_slice(covariates, rows), size=size)

        return self._in_batches(part, num_samples, batch_size)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The names that some part reads from the covariates."""
        names = [name for role in ("prior", "likelihood", "posterior") for name in _names(getattr(self, role))]
        return tuple(dict.fromkeys(name for name in names if name not in PROVIDED))

    def _posterior(self, x: Tensor, covariates: dict[str, Tensor]) -> dist.TorchDistribution:
        filled, mask = fill_zeros(x)
        return self.posterior(filled, covariates=_read(self.posterior, {**covariates, "mask": mask}))

    def _cast(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else self._cast_rows(x)

    def _cast_rows(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch tensor here, got {type(x).__name__}: write torch.as_tensor(x)")
        return x.to(self._like())

    def _like(self) -> Tensor:
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)

    def _covariates(self, covariates: Covariates | None, roles: tuple[str, ...]) -> dict[str, Tensor]:
        covariates = {} if covariates is None else covariates
        if not isinstance(covariates, Mapping):
            raise TypeError(f"covariates must be a mapping from names to tensors, got {type(covariates).__name__}")
        known = self.covariate_names
        unread = [name for name in covariates if name not in known]
        if unread:
            raise ValueError(
                f"no part reads {unread[0]!r} from the covariates; it is read for: {', '.join(known) or 'nothing'}"
            )
        needed = {name for role in roles for name in _names(getattr(self, role)) if name not in PROVIDED}
        missing = sorted(needed - set(covariates))
        if missing:
            raise ValueError(
                f"covariates lack {missing[0]!r}: pass covariates={{{missing[0]!r}: tensor}} with one row a datum"
            )
        like = self._like()
        return {n: v.to(like) if v.is_floating_point() else v.to(like.device) for n, v in covariates.items()}

    def _check_shared_posterior(self) -> None:
        shared = getattr(self.prior, "posterior", self.posterior)
        if shared is not self.posterior:
            raise ValueError(
                "the prior shares a posterior that is not this VAE's posterior (a stale copy would not train): build the "
                "prior with the same module, or set vae.prior.posterior = vae.posterior"
            )

    def _in_batches(self, part: Callable[[slice], Tensor], num_rows: int, batch_size: int, dim: int = 0) -> Tensor:
        if num_rows < 1 or batch_size < 1:
            raise ValueError(
                f"expected at least one row and a batch_size of at least 1, got {num_rows} and {batch_size}"
            )
        with torch.no_grad(), _evaluating(self):
            return torch.cat([part(slice(i, i + batch_size)).cpu() for i in range(0, num_rows, batch_size)], dim)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _data_plate(x: Tensor | None, covariates: Mapping[str, Tensor], size: int | None) -> pyro.plate:
    """The plate over data: ``size`` rows in all, of which these are a batch; the scale is their ratio."""
    rows = _check_rows(None if x is None else x.shape[0], covariates)
    if size is not None and size < (rows or 1):
        raise ValueError(
            f"size is the number of rows of the whole data set, got {size} for a batch of {rows or 1} rows"
        )
    if rows is None:
        return pyro.plate("data", 1 if size is None else size, dim=-1)
    device = x.device if x is not None else next(iter(covariates.values())).device
    return pyro.plate("data", size or rows, subsample=torch.arange(rows, device=device), dim=-1)


def _check_rows(rows: int | None, covariates: Mapping[str, Tensor] | None) -> int | None:
    for name, value in (covariates or {}).items():
        if value.ndim == 0:
            raise ValueError(f"covariates[{name!r}] must have one row a datum, got a number: write tensor.expand(rows)")
        if rows is not None and value.shape[0] != rows:
            raise ValueError(f"covariates[{name!r}] has {value.shape[0]} rows, expected {rows}: one row a datum")
        rows = value.shape[0]
    if rows == 0:
        raise ValueError("the data has no rows: expected at least one")
    return rows


def _names(part: nn.Module) -> tuple[str, ...]:
    return tuple(getattr(part, "covariate_names", ()))


def _read(part: nn.Module, covariates: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    return {name: covariates[name] for name in _names(part)} or None


def _slice(covariates: Covariates | None, rows: slice) -> dict[str, Tensor] | None:
    return None if covariates is None else {name: value[rows] for name, value in covariates.items()}


def _mean(distribution: dist.TorchDistribution, role: str) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        raise NotImplementedError(
            f"the {role}'s {type(distribution).__name__} has no closed-form mean: ask for draws with num_samples="
        ) from None


def _check_conditional(role: str, part: nn.Module) -> None:
    if not isinstance(part, nn.Module):
        raise TypeError(
            f"{role} must be a torch module whose forward returns a Pyro distribution, got {type(part).__name__}"
        )
    arguments = {"prior": (), "likelihood": ("z",), "posterior": ("x",)}[role]
    try:
        inspect.signature(part.forward).bind(*arguments, covariates=None)
    except TypeError as error:
        wanted = ", ".join(["self", *arguments, "covariates=None"])
        raise TypeError(f"{type(part).__name__} cannot be a {role}: write def forward({wanted}) ({error})") from None


def _check_axes(x: Tensor, event_shape: torch.Size) -> None:
    """Refuse more or fewer axes than one of rows: they would be broadcast against the latents' rows."""
    if x.ndim != 1 + len(event_shape):
        raise ValueError(
            f"x must have shape (rows, {', '.join(map(str, event_shape))}) for this likelihood, one axis of rows before those "
            f"of a datum, got {tuple(x.shape)}: reshape the data, or change the likelihood's event_shape"
        )


def _of_pyro(distribution: Any, role: str) -> Any:
    """Refuse what ``pyro.sample`` cannot take, naming the part that returned it."""
    if not isinstance(distribution, TorchDistributionMixin):
        raise TypeError(
            f"the {role}'s forward must return a distribution of pyro.distributions, got {type(distribution).__module__}."
            f"{type(distribution).__name__}: write import pyro.distributions as dist, and dist.Normal(...).to_event(1)"
        )
    return distribution
