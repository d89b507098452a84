"""The spec of a VAE: the arguments of ``build_vae``, the options of the command line and the config of a saved run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Annotated, Any

from pyrovae.errors import check_integer, check_word, did_you_mean, refusal
from pyrovae.presets.options import Option, described, options_of, to_plain
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS

MAX_ENTRIES, MAX_LAYERS = 2**22, 64
"""A spec may come from a file: the sizes it may ask for are bounded. A VAE composed of classes has no such bounds."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a VAE is built of, in words and numbers; checked when it is made, so that a spec in hand is valid.

    Raises:
        TypeError: a field is of the wrong kind.
        ValueError: an unknown word, a number out of range, or fields that do not go together.

    >>> Spec(event_shape=5, likelihood="poisson", hidden=[64, 32]).resolved().decoder_hidden
    (32, 64)
    """

    event_shape: Annotated[tuple[int, ...], Option("the shape of one datum; an integer for a vector", most=MAX_ENTRIES)]
    likelihood: Annotated[str, Option("the distribution of the data given the latents", LIKELIHOODS)]
    latent_dim: Annotated[int, Option("the number of latent dimensions", most=2**12)] = 10
    hidden: Annotated[
        tuple[int, ...], Option("widths of the encoder's hidden layers, or channels of its stages", most=2**16)
    ] = (128,)
    decoder_hidden: Annotated[
        tuple[int, ...] | None, Option("those of the decoder; None mirrors the encoder", most=2**16)
    ] = None
    prior: Annotated[str, Option("the distribution of the latents", PRIORS)] = "standard_normal"
    posterior: Annotated[str, Option("the guide's distribution of the latents given the data", POSTERIORS)] = "normal"
    network: Annotated[str, Option("the kind of encoder and decoder", NETWORKS)] = "mlp"
    levels: Annotated[
        int | None, Option("for likelihoods on the integers 0 to levels - 1, their number", least=2, most=2**16)
    ] = None
    scale: Annotated[
        float | str,
        Option(
            "of a normal, Laplace or log-normal likelihood: a number, 'learned' (one for all entries) or 'network' "
            "(computed by the decoder)"
        ),
    ] = "learned"
    components: Annotated[
        int,
        Option(
            "components of a mixture prior, pseudo-inputs of a VampPrior; a mixture likelihood takes at most 10",
            most=2**16,
        ),
    ] = 50
    activation: Annotated[str, Option("the nonlinearity of the networks", ACTIVATIONS)] = "silu"
    normalization: Annotated[str | None, Option("the normalization of hidden layers", NETWORKS["mlp"])] = None
    dropout: Annotated[float, Option("dropout probability after each hidden layer, in [0, 1)")] = 0.0
    residual: Annotated[
        bool, Option("shortcuts: in an mlp between layers of equal width, in a convolutional network one block a stage")
    ] = False
    gated: Annotated[bool, Option("gated layers, in an mlp")] = False
    preprocess: Annotated[
        str | None,
        Option(
            "what is done to the encoder's input: levels divides by levels - 1, standardize takes the moments of the "
            "training data; None takes what suits the likelihood",
            (None, "none", "log1p", "levels", "standardize"),
        ),
    ] = None
    name: Annotated[str, Option("the prefix of the parameters' names in Pyro")] = "vae"

    def __post_init__(self) -> None:
        if isinstance(self.event_shape, int):
            object.__setattr__(self, "event_shape", (self.event_shape,))
        for name, option in _OPTIONS.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), option))
        if not 1 <= len(self.event_shape) <= 8 or math.prod(self.event_shape) > MAX_ENTRIES:
            message = f"event_shape must have 1 to 8 axes and at most {MAX_ENTRIES} entries, got {self.event_shape}"
            raise refusal(message, "event_shape")
        self._check_likelihood()
        self._check_network()
        if (self.prior == "uniform_direction") != (self.posterior == "spherical"):
            raise refusal(
                "the prior uniform_direction and the posterior spherical live on the sphere, the others do not: give both "
                "or none",
                "prior" if self.prior == "uniform_direction" else "posterior",
            )

    def _check_likelihood(self) -> None:
        likelihood = LIKELIHOODS[self.likelihood]
        if likelihood.leveled and self.levels is None:
            message = f"the likelihood {self.likelihood} needs levels, such as 256 for data in 0..255: give levels"
            raise refusal(message, "levels")
        if not likelihood.leveled and self.levels is not None:
            raise refusal(f"the likelihood {self.likelihood} takes no levels: leave levels out", "levels")
        if not likelihood.scaled and self.scale != "learned":
            raise refusal(f"the likelihood {self.likelihood} takes no scale: leave scale out", "scale")
        if not likelihood.leveled and self.preprocess == "levels":
            message = "preprocess 'levels' is for likelihoods of levels: take 'none', 'log1p' or 'standardize'"
            raise refusal(message, "preprocess")

    def _check_network(self) -> None:
        if self.network == "mlp":
            return
        if len(self.event_shape) != 3:
            raise refusal(
                "the convolutional network is for images (channels, height, width), got event_shape="
                f"{self.event_shape}: take network mlp",
                "network",
            )
        for name in ("gated", "dropout"):
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
        """Make a spec of plain values, whoever wrote them.

        Args:
            values: the fields by name; ``event_shape`` and ``likelihood`` at least.

        Raises:
            TypeError: a field is missing, unknown or of the wrong kind.
            ValueError: as for `Spec`.

        >>> spec = Spec(event_shape=5, likelihood="poisson")
        >>> Spec.from_json(spec.to_json()) == spec
        True
        """
        known = _OPTIONS
        for name in values:
            if name not in known:
                raise refusal(f"a spec has no field {name!r:.50}{did_you_mean(name, known)}", str(name), TypeError)
        for name, option in known.items():
            if option.default is MISSING and name not in values:
                raise refusal(f"the spec lacks {name}, which has no default: give {name}", name, TypeError)
        return cls(**values)


_OPTIONS = options_of(Spec)
Spec.__doc__ = f"{Spec.__doc__}\n    Args:\n{described(Spec)}"  # each meaning is written once, beside its field


def _integer(name: str, value: Any, option: Option) -> int:
    return check_integer(name, value, option.least, option.most)


def _sizes(name: str, value: Any, option: Option) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_LAYERS:
        message = f"{name} must be a list of at most {MAX_LAYERS} integers, got {value!r:.100}"
        raise refusal(message, name, TypeError)
    return tuple(check_integer(name, size, option.least, option.most) for size in value)


def _probability(name: str, value: Any, option: Option) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise refusal(f"{name} must be a probability in [0, 1), got {value!r:.100}", name)
    return float(value)


def _scale(name: str, value: Any, option: Option) -> float | str:
    if value in ("learned", "network"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise refusal(f"{name} must be a positive number, 'learned' or 'network', got {value!r:.100}", name)
    return float(value)


def _flag(name: str, value: Any, option: Option) -> bool:
    if not isinstance(value, bool):
        raise refusal(f"{name} must be true or false, got {value!r:.100}", name, TypeError)
    return value


def _text(name: str, value: Any, option: Option) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        message = f"{name} must be a non-empty string of at most 100 characters, got {value!r:.100}"
        raise refusal(message, name, TypeError)
    return value


_CHECKS: Mapping[Any, Callable[[str, Any, Option], Any]] = {
    int: _integer,
    tuple[int, ...]: _sizes,
    float: _probability,
    float | str: _scale,
    bool: _flag,
    str: _text,
}


def _checked(name: str, value: Any, option: Option) -> Any:
    """The value of one field, if it is of the field's kind and in its range."""
    if option.known:
        return check_word(name, value, option.known)
    return None if value is None and option.optional else _CHECKS[option.kind](name, value, option)
