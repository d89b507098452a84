"""Importance weights per sample and datum: the raw material of every estimate of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.evaluation.compiled import compiled
from pyrovae.programs.rows import MAX_BYTES, Block, RowWork
from pyrovae.programs.terms import concatenate


def log_weights(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    max_bytes: int = MAX_BYTES,
    vectorize: bool = True,
    seed: int | None = None,
    progress: bool | None = None,
) -> Tensor:
    r"""The log importance weights of fresh draws from the guide, per sample and datum.

    .. math:: \log w_{si} = \log p(x_i \mid z_{si}) + \log p(z_{si}) - \log q(z_{si} \mid x_i)

    Always at beta 1, unscaled by plates, masks respected, in eval mode; discrete sites marked for enumeration in model or
    guide are summed out. With global latents all rows share each draw of them, and the weights are those given it.

    Args:
        program: an object with ``.model`` and ``.guide``, a tuple of both, or a ``pyro.infer.SVI``.
        data: the data, N rows; NaN is a missing entry.
        covariates: for each name, a tensor of N rows.
        num_samples: draws per datum, S.
        max_bytes: refuse what needs more memory.
        vectorize: False runs the program once for each draw, for programs that cannot broadcast.
        seed: makes the draws reproducible; None uses torch's random state.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        Nats, of shape ``(samples, data)``, float64, on the CPU.

    Raises:
        ValueError: model and guide have different latents or mask them differently, the guide has no density or draws outside
            the prior's support, or a draw means another thing beside others than alone.

    Reference: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
    >>> log_weights((model, guide), torch.zeros(3), num_samples=10, seed=0).shape
    torch.Size([10, 3])
    """
    plan: dict[str, Any] = {"vectorize": vectorize, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, num_samples=num_samples, share="guide", **plan)

    def task(block: Block) -> dict[str, Tensor]:
        return {"log_weights": block.log_weights()}

    with compiled(work):
        return work.run(task, "log_weights", dim=1)["log_weights"]


def joint_log_weights(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 100,
    max_bytes: int = MAX_BYTES,
    vectorize: bool = True,
    seed: int | None = None,
    progress: bool | None = None,
) -> Tensor:
    r"""The log importance weights of the whole data set: the rows' terms given a global draw, and the globals once.

    .. math:: \log w_s = \sum_i \log w_{si} + \log p(\theta_s) - \log q(\theta_s)

    Args:
        program: as in :func:`log_weights`.
        data: the data, N rows.
        covariates: for each name, a tensor of N rows.
        num_samples: draws, S.
        max_bytes: refuse what needs more memory.
        vectorize: False runs the program once for each draw.
        seed: makes the draws reproducible.
        progress: True shows a bar, False none; by default there is one on a terminal.

    Returns:
        Nats, of shape ``(samples,)``, float64.

    >>> import torch, pyrovae as pvae
    >>> vae = pvae.build_vae(3, likelihood="poisson", latent_dim=1)
    >>> pvae.evaluation.joint_log_weights(vae, torch.ones(4, 3), num_samples=5).shape
    torch.Size([5])
    """
    plan: dict[str, Any] = {"vectorize": vectorize, "seed": seed, "max_bytes": max_bytes, "progress": progress}
    work = RowWork(program, data, covariates, num_samples=num_samples, share="guide", **plan)

    def task(block: Block) -> dict[str, Tensor]:
        terms = concatenate(list(block.terms()))
        outside = terms.outside if terms.outside is not None else torch.zeros(num_samples, dtype=torch.float64)
        return {"rows": terms.log_weights, "outside": outside[:, None]}

    found = work.run(task, "joint_log_weights", dim=1)
    return found["rows"].sum(1) + found["outside"][:, 0]
