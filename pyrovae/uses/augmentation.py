"""More labeled rows: draws of the model near each row, with its label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyrovae.data import as_data
from pyrovae.errors import check_integer, refusal


def augment(
    program: Any,
    data: Any,
    labels: Any,
    factor: int = 5,
    *,
    draw: bool = True,
    seed: int | None = None,
    batch_size: int = 1024,
) -> tuple[Tensor, Any]:
    r"""Rows and, after them, ``factor`` draws near each one, with its label.

    .. math:: z_{is} \sim q(z \mid x_i), \qquad x_{is} \sim p(x \mid z_{is}), \qquad y_{is} = y_i

    Whether a classifier gains by these is an empirical question: compare it with and without them on other rows.

    Args:
        program: a graph, trained on rows like these, labeled or not.
        data: N rows; :class:`~pyrovae.data.Data` may hold covariates.
        labels: N labels, numbers or words.
        factor: draws for each row.
        draw: False takes the mean of the data given the latents instead of a draw.
        seed: of the draws; None takes one from torch's random state.
        batch_size: rows at a time.

    Returns:
        ``(1 + factor) * N`` rows and as many labels (a tensor of numbers, an array of words); integers become floating point
        numbers where draws or means are none.

    Raises:
        TypeError: the program is no graph.
        ValueError: another number of labels than rows.

    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2, hidden=(8,))
    >>> x, y = augment(vae, torch.ones(4, 5), torch.arange(4), factor=2, seed=0)
    >>> x.shape, y.tolist()
    (torch.Size([12, 5]), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    """
    check_integer("factor", factor)
    if not hasattr(program, "encode") or not hasattr(program, "decode"):
        raise refusal(
            f"expected a graph, which encodes and decodes, got {type(program).__name__}", "program", TypeError
        )
    rows, known = as_data(data), labels if isinstance(labels, Tensor) else np.asarray(labels)
    if len(known) != len(rows) or not isinstance(rows.x, Tensor):
        raise refusal(f"expected one label for each of {len(rows)} rows of one tensor, got {len(known)}", "labels")
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        latents = program.encode(rows, num_samples=factor, batch_size=batch_size)
        near = [
            program.decode(tree_map(lambda z, s=s: z[s], latents), rows.covariates, draw=draw, batch_size=batch_size)
            for s in range(factor)
        ]
    made = torch.cat(near)
    whole = rows.x.is_floating_point() or torch.equal(made, made.to(rows.x.dtype).to(made))
    made = made.to(rows.x.dtype) if whole else made
    numbers = torch.arange(len(rows)).repeat(1 + factor)
    again = known[numbers]
    is_text = isinstance(again, np.ndarray) and again.dtype.kind not in "biuf"
    return torch.cat([rows.x.to(made.dtype), made]), again if is_text else torch.as_tensor(again)
