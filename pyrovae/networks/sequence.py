"""Networks for sequences (time, features): recurrent, and by attention."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrovae.errors import check_integer
from pyrovae.networks.base import Covariates, Network, Shape, check_input
from pyrovae.networks.entries import Embed
from pyrovae.networks.layers import Residual, new_dropout, sequential
from pyrovae.networks.trunk import Trunk


class SequenceTrunk(Trunk):
    """A trunk that computes features for each time step, and ends in a head for the whole sequence or for each step.

    ``width`` is the length of the vector that enters a step, ``num_features`` that of its features. Each step has an output
    if ``per_step``, and is told its position if ``positions``; both hold where the input is a vector, given to every step.
    """

    def __init__(self, in_shape: Shape, width: int, num_features: int, per_step: bool, positions: bool) -> None:
        super().__init__(in_shape)
        if len(self.in_shape) not in (1, 2):
            raise ValueError(
                f"{type(self).__name__} expected in_shape=(time, features), or a vector, got {tuple(self.in_shape)}: "
                "write in_shape=(20, 3), say"
            )
        self.num_features = num_features
        self.is_vector = len(self.in_shape) == 1
        self.per_step = per_step or self.is_vector
        self.positions = positions or self.is_vector
        self.enter = nn.Linear(self.in_shape[-1], width)

    @abstractmethod
    def steps(self, h: Tensor) -> Tensor:
        """Return features ``(rows, time, num_features)`` of ``(rows, time, width)``."""

    @abstractmethod
    def summary(self, steps: Tensor) -> Tensor:
        """Return features of whole sequences ``(rows, num_features)`` from those of their steps."""

    def make_head(self, out_shape: torch.Size) -> nn.Module:
        """Return a linear map from the sequence's features to the flattened output, or one that all steps share."""
        if not self.per_step:
            return nn.Linear(self.num_features, math.prod(out_shape))
        time = None if self.is_vector else self.in_shape[0]
        return StepHead(type(self).__name__, self.num_features, out_shape, time)

    def run(self, rows: Tensor, head: nn.Module) -> Tensor:
        """Return the output of ``(rows, *in_shape)`` through the steps and this head."""
        h = self.enter(rows)
        if isinstance(head, StepHead):
            h = h.unsqueeze(1).expand(-1, head.time, -1) if self.is_vector else h
        if self.positions:
            h = h + positions_like(h)
        steps = self.steps(h)
        return head(steps if self.per_step else self.summary(steps))


class GRU(SequenceTrunk):
    r"""A gated recurrent network over a sequence; its last state, or each step's, goes through a linear head.

    .. math:: h_t = \mathrm{GRU}(h_{t-1}, W x_t + b), \qquad y = V h_T + c \quad\text{or}\quad y_t = V h_t + c

    Args:
        in_shape: shape of one input: a sequence (time, features); or a vector, as in a decoder, that is given to each
            step together with the step's position.
        hidden: length of the state.
        out_shape: shape of one output; (..., time, features) where each step has one. None leaves the network open.
        layers: number of layers.
        bidirectional: add a network that runs backward; the state is then twice as long.
        per_step: give an output for each step, not for the whole sequence; always so for a vector.

    Raises:
        ValueError: a size is not positive, ``in_shape`` is neither sequence nor vector, or ``out_shape`` does not fit.

    Reference: Cho et al. 2014, arXiv:1406.1078.

    >>> GRU((20, 3), 16, out_shape=(2, 5), bidirectional=True)(torch.zeros(4, 20, 3)).shape
    torch.Size([4, 2, 5])
    >>> GRU(5, 16).close((2, 20, 3))(torch.zeros(7, 4, 5)).shape
    torch.Size([7, 4, 2, 20, 3])
    """

    def __init__(
        self,
        in_shape: Shape,
        hidden: int,
        out_shape: Shape | None = None,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        per_step: bool = False,
    ) -> None:
        check_integer("layers", layers)
        check_integer("hidden", hidden)
        super().__init__(in_shape, hidden, hidden * (2 if bidirectional else 1), per_step, positions=False)
        self.hidden = hidden
        self.body = nn.GRU(hidden, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.finish(out_shape)

    def steps(self, h: Tensor) -> Tensor:
        """Return the state at each step."""
        return self.body(h)[0]

    def summary(self, steps: Tensor) -> Tensor:
        """Return the last state, of either direction."""
        return torch.cat([steps[:, -1, : self.hidden], steps[:, 0, self.hidden :]], -1)


class Transformer(SequenceTrunk):
    r"""A small Transformer over a sequence; the steps' mean, or each step, goes through a linear head.

    .. math::
        h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h)), \qquad h \leftarrow h + \mathrm{mlp}(\mathrm{norm}(h))

    Args:
        in_shape: shape of one input: a sequence (time, features); or a vector, as in a decoder, that is given to each
            step together with the step's position.
        width: length of the vector of each step; a multiple of ``heads``.
        out_shape: shape of one output; (..., time, features) where each step has one. None leaves the network open.
        layers: number of layers.
        heads: number of attention heads.
        per_step: give an output for each step, not for the whole sequence; always so for a vector.
        causal: let a step attend to itself and the steps before it only.
        dropout: probability in [0, 1), after each attention and each fully connected part.

    Raises:
        ValueError: a size is not positive, ``in_shape`` is neither sequence nor vector, or ``out_shape`` does not fit.

    Reference: Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (normalized first).

    >>> Transformer((20, 3), 16, out_shape=(2, 5))(torch.zeros(4, 20, 3)).shape
    torch.Size([4, 2, 5])
    >>> Transformer(5, 16, out_shape=(2, 20, 3))(torch.zeros(7, 4, 5)).shape
    torch.Size([7, 4, 2, 20, 3])
    """

    def __init__(
        self,
        in_shape: Shape,
        width: int,
        out_shape: Shape | None = None,
        *,
        layers: int = 2,
        heads: int = 4,
        per_step: bool = False,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        for name, value in {"width": width, "layers": layers, "heads": heads}.items():
            check_integer(name, value)
        if width % heads:
            raise ValueError(
                f"Transformer expected a width that is a multiple of heads={heads}, got {width}: write {heads * width}"
            )
        super().__init__(in_shape, width, width, per_step, positions=True)
        blocks = [_block(width, heads, dropout, causal) for _ in range(layers)]
        self.body = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.finish(out_shape)

    def steps(self, h: Tensor) -> Tensor:
        """Return the features of each step."""
        return self.body(h)

    def summary(self, steps: Tensor) -> Tensor:
        """Return the mean over the steps."""
        return steps.mean(1)


class EmbedSteps(Network):
    r"""A learned vector for the code of each step, :math:`(c_1, \dots, c_T) \to (E_{c_1}, \dots, E_{c_T})`.

    Args:
        categories: the number of categories; the codes are 0, 1, ..., in a tensor of any dtype.
        num_steps: T.
        width: the length of a vector.

    Raises:
        ValueError: a size is not positive; in the call, a code is none of the categories'.

    >>> EmbedSteps(10, 7, 4)(torch.zeros(2, 7)).shape
    torch.Size([2, 7, 4])
    """

    def __init__(self, categories: int, num_steps: int, width: int) -> None:
        super().__init__(check_integer("num_steps", num_steps), (num_steps, width))
        self.embed = Embed(categories, width)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the vectors ``(*batch, T, width)`` of codes ``(*batch, T)``."""
        return self.embed(check_input(self, x)[0])


class Attention(nn.Module):
    r"""Self-attention with several heads, :math:`\mathrm{softmax}(Q K^\top / \sqrt d)\, V`.

    Written out, so that derivatives of any order and any mode pass through it.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.enter = nn.Linear(width, 3 * width)
        self.leave = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return ``(rows, time, width)`` of the same shape."""
        query, key, value = self.enter(h).unflatten(-1, (3, self.heads, -1)).movedim((2, 3), (0, 2)).unbind(0)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if self.causal:
            scores = scores + scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
        return self.leave((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class StepHead(nn.Module):
    """A linear head shared by all steps, with outputs ``(*parameters, time, features)``; ``time`` is None where unknown."""

    def __init__(self, who: str, num_features: int, out_shape: torch.Size, time: int | None) -> None:
        super().__init__()
        if len(out_shape) < 2 or time not in (None, out_shape[-2]):
            expected = f"(..., {'time' if time is None else time}, features)"
            example = (2, time or 20, 3)
            raise ValueError(
                f"{who} expected out_shape={expected} where each step has an output, got {tuple(out_shape)}: "
                f"write out_shape={example}, say, or give a sequence and per_step=False"
            )
        *self.leading, self.time, features = out_shape
        self.features = features
        self.linear = nn.Linear(num_features, math.prod(self.leading) * features)

    def forward(self, steps: Tensor) -> Tensor:
        """Return ``(rows, *out_shape)`` of ``(rows, time, num_features)``."""
        return self.linear(steps).unflatten(-1, (*self.leading, self.features)).movedim(1, -2)


def positions_like(h: Tensor) -> Tensor:
    """Return sines and cosines of each step's position, ``(time, width)``, for ``h`` of shape ``(rows, time, width)``."""
    time, width = h.shape[-2:]
    exponents = torch.arange(0, width, 2, dtype=h.dtype, device=h.device) / width
    angles = torch.arange(time, dtype=h.dtype, device=h.device).unsqueeze(-1) * 10_000.0**-exponents
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]


def _block(width: int, heads: int, dropout: float, causal: bool) -> nn.Sequential:
    fully_connected = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
    return nn.Sequential(
        Residual(sequential(nn.LayerNorm(width), Attention(width, heads, causal), new_dropout(dropout))),
        Residual(sequential(nn.LayerNorm(width), *fully_connected, new_dropout(dropout))),
    )
