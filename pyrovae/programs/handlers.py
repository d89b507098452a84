"""Effect handlers: they change what a program's log density means from outside the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.errors import refusal
from pyrovae.programs.sites import DATA, is_delta

Beta = float | Tensor | Mapping[str, float | Tensor]


class BetaMessenger(ScaleMessenger):
    """Scales the latent sites inside the data plate; global latents and data sites keep their weight."""

    def __init__(self, beta: Beta) -> None:
        Messenger.__init__(self)  # Pyro's own constructor refuses 0, where a warm-up starts
        self.scale: Mapping[Any, float | Tensor] = beta if isinstance(beta, Mapping) else {None: beta}
        self._draws: dict[str, float | Tensor] = {}
        self._transformed = False

    def __enter__(self) -> BetaMessenger:
        self._draws, self._transformed = {}, False
        return super().__enter__()

    def _process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or site_is_subsample(msg):
            return
        weight = self._weight(msg)
        if msg["infer"].get("is_auxiliary"):
            if self._transformed:  # auxiliary draws after a Delta site are those of the next one
                self._draws, self._transformed = {}, False
            self._draws[msg["name"]] = weight
        elif is_delta(msg["fn"]):
            self._check_draws(msg["name"], weight)
        msg["scale"] = weight * msg["scale"]

    def _weight(self, msg: dict[str, Any]) -> float | Tensor:
        name = msg["name"]
        if any(frame.name == DATA for frame in msg["cond_indep_stack"]):
            return self.scale.get(name, self.scale.get(None, 1.0))
        if name in self.scale:
            raise ValueError(f"beta names {name!r}, which lies outside the plate {DATA!r} and is never scaled")
        return 1.0

    def _check_draws(self, name: str, weight: float | Tensor) -> None:
        self._transformed = True
        for draw, other in self._draws.items():
            tensors = isinstance(weight, Tensor), isinstance(other, Tensor)
            if weight != other if not any(tensors) else not all(tensors):  # the values of tensors are not read
                raise ValueError(
                    f"beta weights the latent {name!r} by {weight}, but the guide's auxiliary draw {draw!r}, which holds its "
                    f"density, by {other}: name both with one weight, or give beta as one number. A draw outside the plate "
                    f"{DATA!r} is never weighted: use a guide that draws each row by itself"
                )


def beta(program: Callable, beta: Beta) -> Callable:
    r"""A model or guide whose latent log densities are scaled by beta; apply it to both.

    .. math:: \mathrm{ELBO}_\beta = \mathbb{E}_q[\log p(x \mid z)] - \beta\, \mathrm{KL}(q(z \mid x)\,\|\,p(z))

    Beta stays outside the program: inside, it would silently change every evidence that is reported later.

    Args:
        program: a model or a guide with a plate ``data``.
        beta: a number or 0-dim tensor of at least 0, or ``{"z2": 0.3}`` by site (sites not named keep weight 1; a name
            that is not sampled, or observed, in a call has no effect there). A tensor is read when the program runs, so
            it may be updated in place between steps. Latents outside the plate (global ones) are not scaled. Name an
            auxiliary draw of the guide with the latent made of it.

    Returns:
        A callable with the arguments of ``program``.

    Raises:
        ValueError: beta is a negative or non-finite number; said when the program runs: beta names a site outside the
            plate, or weights a latent and the auxiliary draw before it unequally.
        TypeError: beta is neither a number, a tensor nor a mapping of them.

    Reference: Higgins et al. 2017, beta-VAE (openreview.net/forum?id=Sy2fzU9gl).

    >>> import pyro, pyro.distributions as dist
    >>> def model():
    ...     with pyro.plate("data", 2):
    ...         pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> pyro.poutine.trace(globals()["beta"](model, 0.25)).get_trace().nodes["z"]["scale"]
    0.25
    """
    for value in beta.values() if isinstance(beta, Mapping) else (beta,):
        check_beta(value)
    return BetaMessenger(beta)(program)


def check_beta(value: Any) -> None:
    """Refuse a weight that is neither a number of at least 0 nor a 0-dim tensor."""
    if isinstance(value, Tensor):
        if value.ndim:
            message = f"beta must be a number or a 0-dim tensor, got a tensor of shape {tuple(value.shape)}"
            raise refusal(message, "beta")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"beta must be a number, a 0-dim tensor, a schedule or a mapping from sites to them, got {value!r}"
        raise refusal(message, "beta", TypeError)
    elif not 0 <= value < float("inf"):
        raise refusal(f"beta must be finite and at least 0, got {value}", "beta")
