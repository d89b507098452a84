"""One or more small networks of every class, with inputs for them: what the tests of the contract run over."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from pyrovae.networks import (
    GRU,
    MLP,
    Additive,
    BatchAxes,
    Chain,
    ConcatCovariates,
    ConvDecoder,
    ConvEncoder,
    Embed,
    EmbedSteps,
    FiLM,
    Network,
    Transformer,
)
from pyrovae.networks.entries import Plain


class Case(NamedTuple):
    """How to make a closed network, the shapes of the covariates' entries, and the names of those that hold codes."""

    make: Callable[[], Network]
    covariates: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    codes: tuple[str, ...] = ()

    def build(self) -> Network:
        torch.manual_seed(0)
        return self.make()

    def inputs(self, *batch: int, seed: int = 1, dtype: torch.dtype = torch.float32):
        """A value (None where there is none) and covariates with these batch axes; codes run over 0, 1, 2."""
        net, generator = self.build(), torch.Generator().manual_seed(seed)

        def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
            if name in self.codes:
                return torch.randint(3, (*batch, *shape), generator=generator)
            return torch.randn((*batch, *shape), generator=generator, dtype=torch.float64).to(dtype)

        value = None if net.in_shape == (0,) else draw("value", net.in_shape)
        return value, {name: draw(name, shape) for name, shape in self.covariates.items()}


def backbone() -> nn.Module:
    """A convolutional module with batch norm, as a user may bring one: (1, 5, 7) to 6."""
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(45, 6))


def label() -> dict:
    return {"label": Embed(3, 4)}


OPEN = {
    "mlp": lambda: MLP((2, 3), (8, 8)),
    "linear": lambda: MLP((2, 3), ()),
    "conv": lambda: ConvEncoder((2, 7, 5), (4, 6)),
    "deconv": lambda: ConvDecoder(3, (6, 4)),
    "gru": lambda: GRU((6, 2), 5),
    "gru-vector": lambda: GRU(4, 5),
    "transformer": lambda: Transformer((6, 2), 8, layers=1),
    "transformer-vector": lambda: Transformer(4, 8, layers=1),
    "concat": lambda: ConcatCovariates(MLP(10, (8,)), (2, 3), label()),
    "film": lambda: FiLM(MLP(6, (8,)), label()),
    "chain": lambda: Chain(MLP((2, 3), (8,), 5), MLP(5, (8,))),
}
"""Open networks, each of which closes with the output shape (2, 6, 5)."""

NORMALISED = {
    "mlp": lambda: MLP((2, 3), (8, 8), 4, normalization=nn.BatchNorm1d),
    "headed": lambda: MLP((2, 3), (8, 8), normalization=nn.BatchNorm1d).close(4),
    "conv": lambda: ConvEncoder((1, 5, 7), (4,), 4, normalization=nn.BatchNorm2d, residual_blocks=1),
    "deconv": lambda: ConvDecoder(3, (4, 2), (1, 5, 7), normalization=nn.BatchNorm2d),
    "module": lambda: BatchAxes(backbone(), (1, 5, 7), 6),
    "chain": lambda: Chain(BatchAxes(backbone(), (1, 5, 7), 6), MLP(6, (8,), 2)),
}
"""Networks with batch norm."""

CASES = {
    "MLP": Case(lambda: MLP((2, 3), (8, 8), (2, 5))),
    "MLP linear of a scalar": Case(lambda: MLP((), (), 5)),
    "MLP to a scalar": Case(lambda: MLP(3, (8,), ())),
    "MLP residual, layer norm": Case(
        lambda: MLP(6, (8, 8), 5, normalization=nn.LayerNorm, residual=True, activation=nn.Tanh)
    ),
    "MLP gated, batch norm, dropout": Case(
        lambda: MLP(6, (8, 8), 5, normalization=nn.BatchNorm1d, gated=True, dropout=0.3)
    ),
    "Additive": Case(lambda: Additive((2, 3), 4, (2, 5))),
    "Headed MLP": Case(lambda: MLP((2, 3), (8, 8)).close((2, 5))),
    "Headed ConvDecoder": Case(lambda: ConvDecoder(3, (6, 4)).close((2, 1, 9, 7))),
    "BatchAxes": Case(lambda: BatchAxes(backbone(), (1, 5, 7), 6)),
    "BatchAxes of FiLM": Case(lambda: BatchAxes(FiLM(MLP(6, (8,), 5), label()), 6, 5), {"label": ()}, ("label",)),
    "Chain": Case(lambda: Chain(BatchAxes(backbone(), (1, 5, 7), 6), MLP(6, (8,), (2, 5)))),
    "Chain with FiLM inside": Case(
        lambda: Chain(MLP(6, (8,), 8), FiLM(MLP(8, (8,), 5), label(), MLP(4, (8,))), MLP(5, (), 3)),
        {"label": ()},
        ("label",),
    ),
    "Chain with FiLM first": Case(lambda: Chain(FiLM(MLP(6, (8,), 5), {"size": 3}), MLP(5, (), 3)), {"size": (3,)}),
    "ConvEncoder": Case(lambda: ConvEncoder((2, 9, 5), (4, 6), 5, normalization=nn.BatchNorm2d)),
    "ConvEncoder residual": Case(
        lambda: ConvEncoder((2, 9, 5), (4, 6), 5, residual_blocks=1, normalization=partial(nn.GroupNorm, 2))
    ),
    "ConvDecoder": Case(lambda: ConvDecoder((3, 2), (6, 4, 4), (2, 3, 11, 6), normalization=nn.BatchNorm2d)),
    "ConvDecoder residual": Case(lambda: ConvDecoder(3, (6, 4), (7, 5), residual_blocks=2, activation=nn.ELU)),
    "GRU": Case(lambda: GRU((6, 2), 5, (2, 3), layers=2)),
    "GRU both ways, per step": Case(lambda: GRU((6, 2), 5, (2, 6, 3), bidirectional=True, per_step=True)),
    "GRU of a vector": Case(lambda: GRU(4, 5, (2, 6, 3))),
    "Transformer": Case(lambda: Transformer((6, 2), 8, (2, 3), layers=1, heads=2)),
    "Transformer per step": Case(lambda: Transformer((6, 2), 8, (6, 3), per_step=True, dropout=0.2)),
    "Transformer that looks back": Case(lambda: Transformer((6, 2), 8, (6, 3), layers=1, per_step=True, causal=True)),
    "Transformer of a vector": Case(lambda: Transformer(4, 8, (2, 6, 3), layers=1)),
    "Embed": Case(lambda: Embed(3, (2, 4)), codes=("value",)),
    "EmbedSteps": Case(lambda: EmbedSteps(3, 6, 4), codes=("value",)),
    "Plain": Case(lambda: Plain((2, 3))),
    "ConcatCovariates": Case(
        lambda: ConcatCovariates(MLP(6 + 4 + 3, (8,), 5), (2, 3), {"label": Embed(3, 4), "size": 3}),
        {"label": (), "size": (3,)},
        ("label",),
    ),
    "ConcatCovariates of channels": Case(
        lambda: ConcatCovariates(ConvEncoder((2 + 4 + 1, 5, 7), (4,), 5), (2, 5, 7), {**label(), "mask": (1, 5, 7)}),
        {"label": (), "mask": (1, 5, 7)},
        ("label",),
    ),
    "ConcatCovariates of a sequence": Case(
        lambda: ConcatCovariates(GRU((6, 2 + 4 + 3), 5, 4), (6, 2), {**label(), "time": (6, 3)}),
        {"label": (), "time": (6, 3)},
        ("label",),
    ),
    "ConcatCovariates without a value": Case(
        lambda: ConcatCovariates(MLP(4 + 3, (8,), 5), None, {"label": Embed(3, 4), "size": 3}),
        {"label": (), "size": (3,)},
        ("label",),
    ),
    "ConcatCovariates around FiLM": Case(
        lambda: ConcatCovariates(FiLM(MLP(6 + 3, (8,), 5), label()), 6, {"size": 3}),
        {"label": (), "size": (3,)},
        ("label",),
    ),
    "FiLM": Case(
        lambda: FiLM(MLP(6, (8,), 5), {"label": Embed(3, 4), "size": (2, 1)}),
        {"label": (), "size": (2, 1)},
        ("label",),
    ),
    "FiLM of channels": Case(
        lambda: FiLM(ConvEncoder((2, 5, 7), (4,), 5), {"size": 3}, generator=MLP(3, (8,))), {"size": (3,)}
    ),
    "FiLM of a sequence": Case(lambda: FiLM(Transformer((6, 2), 8, 4), {"size": 3}, axis=-1), {"size": (3,)}),
}
"""Closed networks: every class of the room, by the first word of the name."""
