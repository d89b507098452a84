"""The covariates that a network reads: checked, cast, and encoded by one network each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn

from pyrovae.errors import check_integer, refusal
from pyrovae.networks.base import Covariates, Network, Shape, as_shape, check_input

Entry = Shape | Network


class Embed(Network):
    r"""A learned vector for each category, :math:`y = E_c`.

    Args:
        categories: the number of categories, or the names of their levels (``data.levels["batch"]``, say); the codes are
            0, 1, ..., in a tensor of any dtype.
        out_shape: shape of the vector; an integer for its length.

    Raises:
        ValueError: there is no category; in the call, a code is none of the categories'.

    >>> Embed(10, 4)(torch.tensor([3, 1])).shape
    torch.Size([2, 4])
    >>> Embed(["cat", "dog"], 4)
    Embed(2 categories (cat, dog) -> (4,))
    """

    def __init__(self, categories: int | Sequence[str], out_shape: Shape) -> None:
        super().__init__((), as_shape(out_shape, "out_shape"))
        is_names = isinstance(categories, Sequence) and not isinstance(categories, str)
        self.levels = tuple(map(str, categories)) if is_names else None  # type: ignore[arg-type]
        number = check_integer("categories", categories if self.levels is None else len(self.levels))
        self.table = nn.Parameter(torch.randn(number, *self.closed_shape))

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the vectors ``(*batch, *out_shape)`` of codes ``(*batch,)``.

        Fractions are refused while Pyro's validation is on; without it they give NaN, and no value is read.
        """
        codes, batch_shape = check_input(self, x)
        whole = codes.long()
        if codes.is_floating_point() and is_validation_enabled():
            self.check_codes(codes, "Embed's input")
        try:
            vectors = nn.functional.embedding(whole, self.table.flatten(1))
        except IndexError:
            self.check_codes(codes, "Embed's input")
            raise
        if codes.is_floating_point():
            vectors = vectors.masked_fill((whole != codes).unsqueeze(-1), torch.nan)
        return vectors.reshape(batch_shape + self.closed_shape)

    def check_codes(self, values: Tensor, what: str, levels: Sequence[str] | None = None) -> None:
        """Refuse a number that is no code of a category, by its row, and levels other than these."""
        number = len(self.table)
        wrong = ~((values == values.long()) & (values >= 0) & (values < number))
        if bool(wrong.any()):
            row, code = (
                int(wrong.reshape(len(wrong) if wrong.ndim else 1, -1).any(1).nonzero()[0]),
                values[wrong][0].item(),
            )
            raise refusal(
                f"{what} has the code {code:g} in row {row}, Embed({number}, {', '.join(map(str, self.closed_shape))}) knows "
                f"0..{number - 1}: categories are integers from 0 on (-1 is pandas' code for a missing one)",
                "covariates",
            )
        own = self.levels or tuple(map(str, range(number)))
        if levels is not None and (tuple(levels) != own if self.levels else len(levels) != number):
            raise refusal(
                f"{what} has the levels {', '.join(levels)}, Embed knows {', '.join(own)}: give a pandas.Categorical with "
                "these categories in this order, and Embed(levels, ...) the names",
                "covariates",
            )

    def extra_repr(self) -> str:
        """The number of categories, their names if known, and the vector's shape."""
        named = f" ({', '.join(self.levels)})" if self.levels else ""
        return f"{len(self.table)} categories{named} -> {tuple(self.closed_shape)}"


class Plain(Network):
    r"""An entry as it is, :math:`y = x`, cast to this module's dtype: counts, masks and one-hot codes may be integers.

    Args:
        shape: shape of one entry; an integer for a vector.

    >>> Plain(3).double()(torch.ones(2, 3, dtype=torch.bool)).dtype
    torch.float64
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, as_shape(shape, "a covariate's shape"))
        self.like: Tensor
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor | None, covariates: Covariates | None = None) -> Tensor:
        """Return the entry ``(*batch, *shape)``, cast."""
        return check_input(self, x)[0].to(self.like.dtype)


class Entries(nn.Module):
    """The covariates that the network ``who`` reads, each through a network of its own: their names, shapes and values."""

    def __init__(self, who: str, covariates: Mapping[str, Entry]) -> None:
        super().__init__()
        if not isinstance(covariates, Mapping) or not covariates:
            remedy = "write covariates={'label': 10}, say, or leave this network out"
            raise ValueError(f"{who} expected covariates={{name: shape or network}}, got {covariates!r}: {remedy}")
        self.who = who
        self.own_names = tuple(covariates)
        self.encoders = nn.ModuleList(e if isinstance(e, Network) else Plain(e) for e in covariates.values())
        for name, encoder in self.items():
            if encoder.out_shape is None:
                raise ValueError(
                    f"{who} expected a closed network for {name!r}, got an open one: write out_shape=... there"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are read, those that the entries' networks read included."""
        return (*self.own_names, *[name for _, encoder in self.items() for name in encoder.covariate_names])

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """The shape of each encoded entry."""
        return tuple(encoder.closed_shape for _, encoder in self.items())

    def items(self) -> list[tuple[str, Network]]:
        """Each name and its network."""
        return list(zip(self.own_names, self.encoders, strict=True))  # type: ignore[arg-type]

    def forward(self, covariates: Covariates | None) -> tuple[list[Tensor], list[torch.Size]]:
        """Return the encoded entries, each ``(*batch, *shape)``, and the leading axes of each."""
        values = [self._encode(name, encoder, covariates) for name, encoder in self.items()]
        return values, [value.shape[: value.ndim - len(s)] for value, s in zip(values, self.shapes, strict=True)]

    def _encode(self, name: str, encoder: Network, covariates: Covariates | None) -> Tensor:
        if covariates is None or name not in covariates:
            came = "no covariates" if covariates is None else f"the names {sorted(covariates)}"
            raise ValueError(
                f"{self.who} reads the covariate {name!r}, got {came}: pass covariates={{{name!r}: tensor}}"
            )
        try:
            return encoder(covariates[name], covariates)
        except (TypeError, ValueError) as error:
            remedy = "; a category's code needs Embed(categories, dim)" if isinstance(encoder, Plain) else ""
            raise type(error)(f"covariate {name!r} of {self.who}: {error}{remedy}") from None

    def check_covariates(self, covariates: Covariates, levels: Mapping[str, Sequence[str]]) -> None:
        """Refuse covariates of all rows whose shape or codes do not fit: see :func:`check_covariates`."""
        for name, encoder in self.items():
            if name not in covariates:
                continue
            value, shape = covariates[name], tuple(encoder.in_shape)
            if value.shape[1:] != encoder.in_shape:
                remedy = f"reshape it to (rows, {', '.join(map(str, shape))})"
                if math.prod(shape) == math.prod(value.shape[1:]) == 1:
                    remedy = f"write {name}[{', '.join([':', *['0'] * (value.ndim - 1), *['None'] * len(shape)])}]"
                elif value.ndim == 1 and isinstance(encoder, Plain):
                    remedy = f"a category's code needs Embed(categories, dim) in {self.who}"
                raise refusal(
                    f"covariate {name!r} has shape {tuple(value.shape)}, expected {shape} for each row in {self.who}: {remedy}",
                    "covariates",
                )
            encoder.check_codes(value, f"covariate {name!r}", levels.get(name))


def check_covariates(
    module: nn.Module, covariates: Covariates, levels: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Check the covariates of all rows, once, by every part of a module with a method ``check_covariates(covariates, levels)``.

    Where a module says ``covariates_per_step = True``, covariates have a row for each step of a sequence: ``(rows, T, ...)``.

    Args:
        module: a network, a conditional, a graph.
        covariates: for each name, a tensor of ``rows`` rows.
        levels: the names behind the codes, for each covariate that has them.

    Raises:
        ValueError: a shape does not fit, a code is none of the categories', or levels are others; names covariate and row.

    >>> from pyrovae import MLP, FiLM
    >>> net = FiLM(MLP(4, (), 2), {"batch": Embed(3, 4)})
    >>> check_covariates(net, {"batch": torch.tensor([0, 2, -1])})
    Traceback (most recent call last):
    ValueError: covariate 'batch' has the code -1 in row 2, Embed(3, 4) knows 0..2: categories are integers from 0 on (-1 is ...
    """
    if getattr(module, "covariates_per_step", False):  # a sequence's steps are its rows here
        covariates = {name: value.flatten(0, 1) if value.ndim > 1 else value for name, value in covariates.items()}
    check = getattr(module, "check_covariates", None)
    if check is not None:
        check(covariates, levels or {})
    for part in module.children():
        check_covariates(part, covariates, levels)
