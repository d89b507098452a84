"""Where to decode: paths between two latents, grids over two, and one dimension at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pyrovae.errors import check_integer
from pyrovae.plots.arrays import check_mass

if TYPE_CHECKING:
    from pyrovae.plots.arrays import Values


def _path(start: Values, end: Values, num: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ends, each of shape (*batch, 1, latent_dim), and the positions between them, of shape (num, 1)."""
    first, last = _latent("start", start), _latent("end", end)
    if first.shape != last.shape:
        raise ValueError(
            f"start and end should have one shape (*batch, latent_dim), got {tuple(first.shape)} and {tuple(last.shape)}"
        )
    t = torch.linspace(0, 1, check_integer("num", num, 2), dtype=first.dtype, device=first.device)[:, None]
    return first[..., None, :], last[..., None, :], t


def _latent(name: str, values: Values) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(f"{name} should have shape (*batch, latent_dim) and not be empty, got {tuple(tensor.shape)}")
    return tensor


def linear_path(start: Values, end: Values, num: int = 10) -> torch.Tensor:
    r"""Latents on the straight line between two.

    .. math:: z(t) = (1 - t)\, z_0 + t\, z_1

    Args:
        start: ``(*batch, latent_dim)``.
        end: of the same shape.
        num: how many latents, both ends included.

    Returns:
        ``(*batch, num, latent_dim)``.

    Raises:
        ValueError: the shapes differ, or ``num`` is below 2.

    >>> linear_path([0.0, 0.0], [2.0, 4.0], num=3)
    tensor([[0., 0.],
            [1., 2.],
            [2., 4.]])
    """
    first, last, t = _path(start, end, num)
    return (1 - t) * first + t * last


def spherical_path(start: Values, end: Values, num: int = 10) -> torch.Tensor:
    r"""Latents on the great arc between two, so that their length does not shrink half way.

    .. math:: z(t) = \frac{\sin((1 - t)\,\omega)}{\sin \omega} z_0 + \frac{\sin(t\,\omega)}{\sin \omega} z_1

    with omega the angle between the two. A straight line between two draws of a standard normal in many dimensions
    passes nearer to the origin than any draw does. Where the two and the origin lie on one line no arc is defined,
    and the straight line is taken.

    Args:
        start: ``(*batch, latent_dim)``.
        end: of the same shape.
        num: how many latents, both ends included.

    Returns:
        ``(*batch, num, latent_dim)``.

    Raises:
        ValueError: the shapes differ, or ``num`` is below 2.

    References:
        T. White, "Sampling generative networks" (2016), arXiv:1609.04468.

    >>> spherical_path([1.0, 0.0], [0.0, 1.0], num=3).norm(dim=-1)
    tensor([1.0000, 1.0000, 1.0000])
    """
    first, last, t = _path(start, end, num)
    omega = torch.nn.functional.cosine_similarity(first, last, dim=-1).clamp(-1, 1)[..., None].acos()
    arc = (((1 - t) * omega).sin() * first + (t * omega).sin() * last) / omega.sin()
    apart = omega.sin() > 10 * torch.finfo(first.dtype).eps ** 0.5
    nonzero = (first != 0).any(-1, keepdim=True) & (last != 0).any(-1, keepdim=True)
    return torch.where(apart & nonzero, arc, (1 - t) * first + t * last)


def latent_grid(num: int = 15, *, prob: float = 0.95, limits: tuple[float, float] | None = None) -> torch.Tensor:
    r"""A square grid over two latent dimensions, for :func:`plot_manifold`.

    By default the coordinates are quantiles of a standard normal, so that neighbors hold equal prior mass:

    .. math:: z_i = \Phi^{-1}(u_i), \qquad u_i \text{ equally spaced in the central } \texttt{prob}

    Args:
        num: points along each dimension.
        prob: the prior mass between the outermost points, in (0, 1).
        limits: the outermost coordinates instead, equally spaced between: for a prior that is not standard normal.

    Returns:
        ``(num, num, 2)``: the first dimension grows to the right, the second one upwards.

    Raises:
        ValueError: ``num`` is below 2, ``prob`` outside (0, 1), or the limits are not in order.

    References:
        D. P. Kingma and M. Welling, "Auto-encoding variational Bayes" (2014), arXiv:1312.6114, figure 4.

    >>> latent_grid(3, limits=(-2, 2))[0]
    tensor([[-2.,  2.],
            [ 0.,  2.],
            [ 2.,  2.]])
    """
    check_integer("num", num, 2)
    check_mass("prob", prob)
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits should be (low, high), got {limits}")
    tail = (1 - prob) / 2
    points = (
        torch.special.ndtri(torch.linspace(tail, 1 - tail, num)) if limits is None else torch.linspace(*limits, num)
    )
    return torch.stack(torch.meshgrid(points, points.flip(0), indexing="xy"), dim=-1)


def traversal_grid(center: Values, values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3)) -> torch.Tensor:
    r"""A latent with one dimension at a time set to each of some values, for :func:`plot_traversals`.

    Args:
        center: ``(latent_dim,)``, where the other dimensions stay.
        values: what the one dimension is set to, in the latent's units.

    Returns:
        ``(latent_dim, values, latent_dim)``.

    Raises:
        ValueError: ``center`` is no vector, or there are no values.

    >>> traversal_grid([0.0, 0.0], values=(-1, 1))
    tensor([[[-1.,  0.],
             [ 1.,  0.]],
    <BLANKLINE>
            [[ 0., -1.],
             [ 0.,  1.]]])
    """
    middle = _latent("center", center)
    steps = _latent("values", list(values)).to(middle)
    if middle.ndim != 1 or steps.ndim != 1:
        raise ValueError(f"center should have shape (latent_dim,), got {tuple(middle.shape)}; write z.mean(0)")
    dims = torch.arange(len(middle), device=middle.device)
    grid = middle.expand(len(middle), len(steps), -1).clone()
    grid[dims, :, dims] = steps
    return grid
