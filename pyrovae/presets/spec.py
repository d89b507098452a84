"""The spec of a VAE: the arguments of ``build_vae``, the options of the command line and the config of a saved run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Annotated, Any

from pyrovae.errors import check_integer, check_word, did_you_mean, refusal
from pyrovae.presets.options import Option, options_of, to_plain
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PREPROCESSES, PRIORS

MAX_ENTRIES, MAX_LAYERS = 2**22, 64
"""A spec may come from a file: the sizes it may ask for are bounded. A VAE composed of classes has no such bounds."""
Sizes = tuple[int, ...]
Columns = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a VAE is built of, in words and numbers; checked when it is made, so that a spec in hand is valid.

    Raises:
        TypeError: a field is of the wrong kind.
        ValueError: an unknown word, a number out of range, or fields that do not go together.

    >>> Spec(event_shape=5, likelihood="poisson", hidden=[64, 32]).resolved().decoder_hidden
    (32, 64)
    """

    event_shape: Annotated[Sizes, Option("shape of one datum; an integer for a vector", most=MAX_ENTRIES)]
    likelihood: Annotated[str, Option("distribution of the data given the latents", LIKELIHOODS)]
    latent_dim: Annotated[int, Option("latent dimensions; a folder of images has some for each place", most=2**12)] = 10
    hidden: Annotated[Sizes, Option("widths of the encoder's layers, or channels of its stages", most=2**16)] = (128,)
    decoder_hidden: Annotated[Sizes | None, Option("those of the decoder; None mirrors the encoder", most=2**16)] = None
    prior: Annotated[str, Option("distribution of the latents", PRIORS)] = "standard_normal"
    posterior: Annotated[str, Option("guide's distribution of the latents given the data", POSTERIORS)] = "normal"
    network: Annotated[
        str, Option("kind of encoder and decoder; local: convolutions whose latents keep their places", NETWORKS)
    ] = "mlp"
    levels: Annotated[int | None, Option("number of levels, for integers 0 to levels - 1", least=2, most=2**16)] = None
    scale: Annotated[
        float | str,
        Option("scale of the data's distribution: a number, learned (one for all entries) or network (by the decoder)"),
    ] = "learned"
    components: Annotated[
        int, Option("components of a mixture (of a mixture likelihood at most 3); pseudo-inputs of vamp", most=2**16)
    ] = 50
    activation: Annotated[str, Option("nonlinearity of the networks", ACTIVATIONS)] = "silu"
    normalization: Annotated[str | None, Option("normalization of hidden layers", NETWORKS["mlp"])] = None
    dropout: Annotated[float, Option("dropout probability after each hidden layer of an mlp")] = 0.0
    residual: Annotated[bool, Option("shortcuts between layers of equal width; else one residual block a stage")] = (
        False
    )
    gated: Annotated[bool, Option("gated layers in an mlp")] = False
    preprocess: Annotated[
        str | None,
        Option("change of the encoder's input: levels divides by the highest, standardize takes moments", PREPROCESSES),
    ] = None
    columns: Annotated[Columns | None, Option("columns of a table, each a kind with its units and levels")] = None
    covariate_columns: Annotated[
        Columns | None, Option("covariates that encoder and decoder read, each as a column")
    ] = None
    name: Annotated[str, Option("prefix of the parameters' names in Pyro")] = "vae"

    def __post_init__(self) -> None:
        if isinstance(self.event_shape, int):
            object.__setattr__(self, "event_shape", (self.event_shape,))
        for name, option in _OPTIONS.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), option))
        if not 1 <= len(self.event_shape) <= 8 or math.prod(self.event_shape) > MAX_ENTRIES:
            message = f"event_shape must have 1 to 8 axes and at most {MAX_ENTRIES} entries, got {self.event_shape}"
            raise refusal(message, "event_shape")
        likelihood = LIKELIHOODS[self.likelihood]
        if likelihood.leveled and self.levels is None:
            message = f"the likelihood {self.likelihood} needs levels, such as 256 for data in 0..255: give levels"
            raise refusal(message, "levels")
        is_table = self.likelihood == "table"
        if is_table and (self.columns is None or self.event_shape != (len(self.columns),)):
            raise refusal(
                f"the likelihood table needs one entry of columns for each of {self.event_shape}: build_vae(**suggest(data))",
                "columns",
            )
        if is_table and (self.network != "mlp" or self.prior == "vamp"):
            raise refusal(
                "a table's columns are of different kinds: take network mlp, and another prior than vamp", "likelihood"
            )
        for name, allowed, default in (
            ("levels", likelihood.leveled, None),
            ("scale", likelihood.scaled, "learned"),
            ("columns", is_table, None),
        ):
            if not allowed and getattr(self, name) != default:
                raise refusal(f"the likelihood {self.likelihood} takes no {name}: leave {name} out", name)
        if self.preprocess == "levels" and not likelihood.leveled:
            message = "preprocess 'levels' is for likelihoods of levels: take 'none', 'log1p' or 'standardize'"
            raise refusal(message, "preprocess")
        if self.network != "mlp":
            self._check_convolutional()
        if (self.prior == "uniform_direction") != (self.posterior == "spherical"):
            raise refusal(
                "the prior uniform_direction and the posterior spherical live on the sphere, the others do not: give both "
                "or none",
                "prior" if self.prior == "uniform_direction" else "posterior",
            )

    def _check_convolutional(self) -> None:
        if len(self.event_shape) != 3:
            raise refusal(
                "the convolutional network is for images (channels, height, width), got event_shape="
                f"{self.event_shape}: take network mlp",
                "network",
            )
        if self.network == "local" and self.posterior != "normal":
            raise refusal("the local network codes each place by itself: take posterior normal", "posterior")
        places = math.prod(math.ceil(side / 2 ** len(self.hidden)) for side in self.event_shape[1:])
        if self.network == "local" and self.latent_dim % places:
            raise refusal(
                f"the local network has {places} places, each with as many latents: take a latent_dim that is a multiple of "
                f"{places}, got {self.latent_dim}",
                "latent_dim",
            )
        for name in ("gated", "dropout", "covariate_columns"):
            if getattr(self, name):
                raise refusal(f"{name} is for network mlp: leave {name} out", name)

    def resolved(self) -> Spec:
        """The same spec with the defaults that depend on other fields filled in."""
        mirrored = self.hidden[::-1] if self.decoder_hidden is None else self.decoder_hidden
        suited = LIKELIHOODS[self.likelihood].preprocess if self.preprocess is None else self.preprocess
        return replace(self, decoder_hidden=mirrored, preprocess=suited)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them; `from_json` gives the spec back."""
        return to_plain(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Spec:
        """Make a spec of plain values by name, whoever wrote them; errors as for `Spec`, unknown names are a TypeError.

        >>> spec = Spec(event_shape=5, likelihood="poisson")
        >>> Spec.from_json(spec.to_json()) == spec
        True
        """
        for name in values:
            if name not in _OPTIONS:
                raise refusal(f"a spec has no field {name!r:.50}{did_you_mean(name, _OPTIONS)}", str(name), TypeError)
        for name, option in _OPTIONS.items():
            if option.default is MISSING and name not in values:
                raise refusal(f"the spec lacks {name}, which has no default: give {name}", name, TypeError)
        return cls(**values)


_OPTIONS = options_of(Spec)
_FIELDS = "\n".join(f"        {name}: {option.help}." for name, option in _OPTIONS.items())
Spec.__doc__ = (
    f"{(Spec.__doc__ or '').rstrip()}\n\n    Args:\n{_FIELDS}"  # each meaning is written once, beside its field
)

_EXPECTED: Mapping[Any, tuple[str, type | tuple[type, ...], Callable[[Any], bool]]] = {
    float: ("a probability in [0, 1)", (int, float), lambda value: 0 <= value < 1),
    float | str: (
        "a positive number, 'learned' or 'network'",
        (int, float, str),
        lambda value: value in ("learned", "network") if isinstance(value, str) else 0 < value < math.inf,
    ),
    bool: ("true or false", bool, lambda value: True),
    str: ("a non-empty string of at most 100 characters", str, lambda value: 0 < len(value) <= 100),
}
"""Of each kind of field but words and integers what it may hold, in words, by type and by a test."""


def _checked(name: str, value: Any, option: Option) -> Any:
    """The value of one field, if it is of the field's kind and in its range."""
    if option.known:
        return check_word(name, value, option.known)
    if value is None and option.optional:
        return None
    if option.kind is int:
        return check_integer(name, value, option.least, option.most)
    if option.kind == Sizes:
        if not isinstance(value, list | tuple) or len(value) > MAX_LAYERS:
            message = f"{name} must be a list of at most {MAX_LAYERS} integers, got {value!r:.100}"
            raise refusal(message, name, TypeError)
        return tuple(check_integer(name, size, option.least, option.most) for size in value)
    if option.kind == Columns:
        if not isinstance(value, list | tuple) or not all(isinstance(column, Mapping) for column in value):
            raise refusal(f"{name} must be a list of columns as JSON holds them, got {value!r:.100}", name, TypeError)
        return tuple(value)
    words, types, holds = _EXPECTED[option.kind]
    if not isinstance(value, types) or (isinstance(value, bool) and option.kind is not bool):
        raise refusal(f"{name} must be {words}, got {value!r:.100}", name, TypeError)
    if not holds(value):
        raise refusal(f"{name} must be {words}, got {value!r:.100}", name)
    return float(value) if isinstance(value, int) and option.kind is not bool else value
