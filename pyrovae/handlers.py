"""Effect handlers: they change what a program's log density means from outside the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Beta = float | Tensor | Mapping[str, float | Tensor]


class BetaMessenger(ScaleMessenger):
    """Scales the latent sites inside the data plate; global latents and data sites keep their weight."""

    def __init__(self, beta: Beta, plate: str = "data") -> None:
        Messenger.__init__(self)  # Pyro's own constructor refuses 0, where a warm-up starts
        self.scale: Mapping[Any, float | Tensor] = beta if isinstance(beta, Mapping) else {None: beta}
        self.plate = plate
        self._seen: set[str] = set()

    def __enter__(self) -> BetaMessenger:
        self._seen = set()
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        unknown = [name for name in self.scale if name is not None and name not in self._seen]
        if kind is None and unknown:
            raise ValueError(
                f"beta names {unknown[0]!r}, which the program has not sampled; there are: {', '.join(sorted(self._seen))}"
            )

    def _process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or site_is_subsample(msg):
            return
        self._seen.add(msg["name"])
        if msg["is_observed"]:
            return
        if not any(frame.name == self.plate for frame in msg["cond_indep_stack"]):
            return
        scale = self.scale.get(msg["name"], self.scale.get(None))
        if scale is not None:
            msg["scale"] = scale * msg["scale"]


def beta(program: Callable, beta: Beta, plate: str = "data") -> Callable:
    r"""A model or guide whose latent log densities are scaled by beta; apply it to both.

    .. math:: \mathrm{ELBO}_\beta = \mathbb{E}_q[\log p(x \mid z)] - \beta\, \mathrm{KL}(q(z \mid x)\,\|\,p(z))

    Beta stays outside the program: inside, it would silently change every evidence that is reported later.

    Args:
        program: a model or a guide with a plate ``plate``.
        beta: a number or 0-dim tensor of at least 0, or ``{"z2": 0.3}`` by site (sites not named keep weight 1). A
            tensor is read when the program runs, so it may be updated in place between steps.
        plate: the name of the plate over data; latent sites outside of it (global ones) are not scaled.

    Returns:
        A callable with the arguments of ``program``.

    Raises:
        ValueError: beta is a negative or non-finite number, or names a site that the program does not sample (said when it
            runs).
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
        _check_beta(value)
    return BetaMessenger(beta, plate)(program)


def _check_beta(value: float | Tensor) -> None:
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(f"beta must be a number or a 0-dim tensor, got a tensor of shape {tuple(value.shape)}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"beta must be a number, a 0-dim tensor or a mapping from sites to them, got {value!r}")
    elif not 0 <= value < float("inf"):
        raise ValueError(f"beta must be finite and at least 0, got {value}")


__all__ = ["Beta", "BetaMessenger", "beta"]
