"""Convolutional networks for images of any size: an encoder that halves them, a decoder that doubles them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pyrovae.networks.base import Shape, as_shape
from pyrovae.networks.layers import (
    MakeActivation,
    MakeNormalization,
    Residual,
    flat_rows,
    new_activation,
    new_normalization,
    sequential,
)
from pyrovae.networks.trunk import Trunk, VectorTrunk


class ConvEncoder(VectorTrunk):
    r"""A convolutional network from an image to a vector: each stage halves height and width, rounding up.

    .. math:: h_{l+1} = \mathrm{blocks}\bigl(a(\mathrm{norm}(W_l * h_l))\bigr), \qquad y = W\,\mathrm{vec}(h_L) + b

    Args:
        in_shape: shape of one image, (channels, height, width); any size, odd ones too.
        channels: number of channels after each stage.
        out_shape: shape of one output; None leaves the network open.
        residual_blocks: number of residual blocks in each stage, each two convolutions before an activation.
        activation: class of the activation.
        normalization: class called with a number of channels, ``nn.BatchNorm2d`` or
            ``functools.partial(nn.GroupNorm, 8)``; statistics of the former run over all leading axes.
        local: whether the outputs are numbers of each place in the smallest feature maps, computed there in one way for all
            places: ``(numbers, height, width)`` flattened.

    Raises:
        ValueError: ``in_shape`` is no image, there is no stage, or the normalization does not take images.

    Reference: He et al. 2016, Identity mappings in deep residual networks, arXiv:1603.05027 (residual blocks).

    >>> ConvEncoder((3, 27, 31), (8, 16), out_shape=20, residual_blocks=1)(torch.zeros(4, 5, 3, 27, 31)).shape
    torch.Size([4, 5, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        channels: Shape = (32, 64),
        out_shape: Shape | None = None,
        *,
        residual_blocks: int = 0,
        activation: MakeActivation = nn.SiLU,
        normalization: MakeNormalization | None = None,
        local: bool = False,
    ) -> None:
        image = as_shape(in_shape, "in_shape")
        if len(image) != 3:
            raise ValueError(
                f"ConvEncoder expected in_shape=(channels, height, width), got {tuple(image)}: "
                f"write in_shape={(1, *image) if len(image) == 2 else (1, 28, 28)}, say"
            )
        widths = [image[0], *_channels("ConvEncoder", channels)]
        size = _sizes(image[1:], len(widths) - 1)[0]
        super().__init__(image, widths[-1] * math.prod(size))
        self.maps = (widths[-1], *size) if local else None
        stages = []
        for before, after in itertools.pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1)
            stages.append(nn.Sequential(convolution, _refine(after, residual_blocks, activation, normalization)))
        self.body = nn.Sequential(*stages)
        self.finish(out_shape)

    def make_head(self, out_shape: torch.Size) -> nn.Module:
        """Return a linear map from the features to the flattened output, or one from each place to its numbers."""
        if self.maps is None:
            return super().make_head(out_shape)
        channels, *size = self.maps
        numbers = _numbers_of_a_place("ConvEncoder", math.prod(out_shape), size)
        return nn.Sequential(nn.Unflatten(-1, self.maps), nn.Conv2d(channels, numbers, 1), nn.Flatten())

    def features(self, rows: Tensor) -> Tensor:
        """Return the flattened feature maps of images ``(rows, channels, height, width)``."""
        return self.body(rows).flatten(1)


class ConvDecoder(Trunk):
    r"""A convolutional network from a vector to an image: each stage doubles height and width, cropped to size.

    .. math:: h_0 = W z + b, \qquad h_{l+1} = \mathrm{blocks}\bigl(a(\mathrm{norm}(\mathrm{crop}(W_l *^\top h_l)))\bigr)

    The output has exactly the size asked for. While the network is open that size is not known yet: closing adds the
    linear map into the smallest feature maps and the last convolution, and shares what lies between.

    Args:
        in_shape: shape of one input, flattened; an integer for a vector.
        channels: number of channels before each doubling.
        out_shape: shape of one output, (..., height, width); None leaves the network open.
        residual_blocks: number of residual blocks before each doubling, each two convolutions before an activation.
        activation: class of the activation.
        normalization: class called with a number of channels, as in :class:`ConvEncoder`.
        local: whether the input is numbers of each place, as a local :class:`ConvEncoder` of as many stages gives them.

    Raises:
        ValueError: ``out_shape`` is no image, there is no stage, or the normalization does not take images.

    Reference: Radford, Metz & Chintala 2016, arXiv:1511.06434 (transposed convolutions).

    >>> ConvDecoder(20, (16, 8)).close((2, 3, 27, 31))(torch.zeros(4, 5, 20)).shape
    torch.Size([4, 5, 2, 3, 27, 31])
    """

    def __init__(
        self,
        in_shape: Shape,
        channels: Shape = (64, 32),
        out_shape: Shape | None = None,
        *,
        residual_blocks: int = 0,
        activation: MakeActivation = nn.SiLU,
        normalization: MakeNormalization | None = None,
        local: bool = False,
    ) -> None:
        super().__init__(in_shape)
        self.channels, self.local = _channels("ConvDecoder", channels), local
        self.ups = nn.ModuleList(_double(a, b) for a, b in itertools.pairwise(self.channels))
        self.refines = nn.ModuleList(
            _refine(width, residual_blocks, activation, normalization) for width in self.channels
        )
        self.finish(out_shape)

    def make_head(self, out_shape: torch.Size) -> nn.Module:
        """Return the parts that depend on the image: the map into the smallest feature maps, and the last doubling."""
        return Canvas(math.prod(self.in_shape), self.channels, out_shape, self.local)

    def run(self, rows: Tensor, head: nn.Module) -> Tensor:
        """Return the images ``(rows, channels, height, width)`` of ``(rows, *in_shape)``, of the head's size."""
        head = cast(Canvas, head)
        h = self.refines[0](head.stem(flat_rows(rows)).unflatten(-1, head.first_maps))
        for up, refine, (height, width) in zip(self.ups, self.refines[1:], head.sizes, strict=True):
            h = refine(up(h)[..., :height, :width])
        return head(h)


class Canvas(nn.Module):
    """The parts of a decoder that belong to one image size: the first map and the last doubling."""

    def __init__(self, in_features: int, channels: Sequence[int], out_shape: torch.Size, local: bool = False) -> None:
        super().__init__()
        if len(out_shape) < 2:
            raise ValueError(
                f"ConvDecoder expected an image (..., height, width) for its output, got {tuple(out_shape)}: "
                "write out_shape=(1, 28, 28), say, or use MLP"
            )
        self.image_size = (out_shape[-2], out_shape[-1])
        smallest, *self.sizes = _sizes(self.image_size, len(channels))[:-1]
        self.first_maps = (channels[0], *smallest)
        self.stem: nn.Module = nn.Linear(in_features, math.prod(self.first_maps))
        if local:
            numbers = _numbers_of_a_place("ConvDecoder", in_features, smallest)
            convolution = nn.Conv2d(numbers, channels[0], 3, padding=1)
            self.stem = nn.Sequential(nn.Unflatten(-1, (numbers, *smallest)), convolution, nn.Flatten())
        self.last = _double(channels[-1], math.prod(out_shape[:-2]))

    def forward(self, h: Tensor) -> Tensor:
        """Return the images ``(rows, channels, height, width)`` of the largest feature maps."""
        return self.last(h)[..., : self.image_size[0], : self.image_size[1]]


def _numbers_of_a_place(who: str, total: int, size: Sequence[int]) -> int:
    places = math.prod(size)
    if total % places:
        raise ValueError(
            f"{who} expected numbers for each of {size[0]} x {size[1]} places, got {total}: give a multiple of {places}"
        )
    return total // places


def _sizes(image_size: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """The sizes of feature maps from the smallest to the image itself, each half of the next, rounded up."""
    height, width = image_size
    return [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(halvings, -1, -1)]


def _double(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)


def _refine(
    width: int, blocks: int, activation: MakeActivation, normalization: MakeNormalization | None
) -> nn.Sequential:
    remedy = "nn.BatchNorm2d or functools.partial(nn.GroupNorm, 8)"

    def before() -> nn.Sequential:
        norm = normalization and new_normalization(normalization, width, (4, 4), remedy)
        return sequential(norm, new_activation(activation))

    def convolution() -> nn.Module:
        return nn.Conv2d(width, width, 3, padding=1)

    residuals = [Residual(nn.Sequential(before(), convolution(), before(), convolution())) for _ in range(blocks)]
    return sequential(before(), *residuals)


def _channels(who: str, channels: Shape) -> torch.Size:
    widths = as_shape(channels, "channels")
    if not widths:
        raise ValueError(f"{who} expected at least one number of channels, got (): write channels=(32, 64), or use MLP")
    return widths
