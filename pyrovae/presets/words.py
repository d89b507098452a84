"""The words of a VAE, checked before anything is built of them: they may come from a file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS, Likelihood

LIMITS: Mapping[str, int] = {
    "event_shape": 2**22,  # entries in all
    "latent_dim": 2**12,
    "layers": 64,
    "width": 2**16,
    "levels": 2**16,
    "components": 2**16,
}
"""The largest sizes that words may ask for; a composition of one's own has no such limits."""


@dataclass(frozen=True)
class Words:
    """The words of one VAE, as ``build_vae`` takes them; ``check_words`` makes checked ones.

    >>> Words(event_shape=5, likelihood="poisson").latent_dim
    10
    """

    event_shape: Any
    likelihood: str
    latent_dim: int = 10
    hidden: Sequence[int] = (128,)
    decoder_hidden: Sequence[int] | None = None
    prior: str = "standard_normal"
    posterior: str = "normal"
    network: str = "mlp"
    levels: int | None = None
    scale: float | str = "learned"
    components: int = 50
    activation: str = "silu"
    normalization: str | None = None
    dropout: float = 0.0
    residual: bool = False
    gated: bool = False
    preprocess: str | None = None
    name: str = "vae"

    @property
    def top_level(self) -> int:
        """The highest level of data in levels."""
        return (self.levels or 1) - 1


def check_words(words: Mapping[str, Any], have_start: bool = False) -> Words:
    """Check the words of ``build_vae``, whoever wrote them, before anything is built.

    Args:
        words: the words by name; ``event_shape`` and ``likelihood`` at least.
        have_start: whether rows to start from are at hand.

    Returns:
        The words with every default filled in.

    Raises:
        TypeError: a word is missing, unknown or of the wrong kind.
        ValueError: an unknown or unsuitable value.

    >>> check_words({"event_shape": 5, "likelihood": "poisson"}).preprocess
    'log1p'
    """
    known = Words.__dataclass_fields__
    if unknown := [key for key in words if key not in known]:
        raise TypeError(f"unknown word {unknown[0]!r}{_close(unknown[0], known)}")
    if missing := [key for key in ("event_shape", "likelihood") if key not in words]:
        raise TypeError(f"the word {missing[0]!r} is missing")
    given = Words(**words)
    likelihood = LIKELIHOODS[_word("likelihood", given.likelihood, LIKELIHOODS)]
    network = _word("network", given.network, NETWORKS)
    hidden = _sizes("hidden", given.hidden)
    checked = replace(
        given,
        event_shape=_event_shape(given.event_shape),
        latent_dim=_size("latent_dim", given.latent_dim, LIMITS["latent_dim"]),
        hidden=hidden,
        decoder_hidden=_sizes("decoder_hidden", hidden[::-1] if given.decoder_hidden is None else given.decoder_hidden),
        prior=_word("prior", given.prior, PRIORS),
        posterior=_word("posterior", given.posterior, POSTERIORS),
        components=_size("components", given.components, LIMITS["components"]),
        activation=_word("activation", given.activation, ACTIVATIONS),
        normalization=_word("normalization", given.normalization, NETWORKS[network]),
        levels=_checked_levels(given.levels, given.likelihood, likelihood.leveled),
        scale=_checked_scale(given.scale, given.likelihood, likelihood.scaled),
        dropout=_checked_dropout(given.dropout, network),
        preprocess=_checked_preprocess(given.preprocess, likelihood, have_start),
    )
    _check_together(checked)
    return checked


def _check_together(words: Words) -> None:
    for key in ("residual", "gated"):
        if not isinstance(getattr(words, key), bool):
            raise TypeError(f"{key} must be true or false, got {getattr(words, key)!r}")
    if not isinstance(words.name, str) or not 0 < len(words.name) <= 100:
        raise TypeError(f"name must be a non-empty string of at most 100 characters, got {words.name!r}")
    if words.gated and words.network != "mlp":
        raise ValueError("gated layers are for network='mlp': leave gated out")
    if words.network == "convolutional" and len(words.event_shape) != 3:
        raise ValueError(
            f"network='convolutional' is for images (channels, height, width), got event_shape={words.event_shape}: "
            "write network='mlp'"
        )
    if (words.prior == "uniform_direction") != (words.posterior == "spherical"):
        raise ValueError(
            "prior='uniform_direction' and posterior='spherical' live on the sphere, the others do not: give both or none"
        )


def _word(key: str, value: Any, table: Mapping[Any, Any]) -> Any:
    if isinstance(value, str | None) and value in table:
        return value
    known = ", ".join(str(name) for name in table)
    raise ValueError(f"{key} must be one of {known}, got {value!r}{_close(value, table)}")


def _close(value: Any, table: Mapping[Any, Any]) -> str:
    near = difflib.get_close_matches(str(value)[:100], [str(name) for name in table], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _size(key: str, value: Any, limit: int, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{key} must be an integer, got {value!r:.100}")
    if not least <= value <= limit:
        raise ValueError(f"{key} must be from {least} to {limit}, got {value}")
    return value


def _sizes(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > LIMITS["layers"]:
        raise TypeError(f"{key} must be a list of at most {LIMITS['layers']} widths, got {value!r:.100}")
    return tuple(_size(key, width, LIMITS["width"]) for width in value)


def _event_shape(value: Any) -> tuple[int, ...]:
    axes = [value] if isinstance(value, int) else value
    if not isinstance(axes, list | tuple) or not 1 <= len(axes) <= 8:
        raise TypeError(f"event_shape must be an integer or a list of 1 to 8 integers, got {value!r:.100}")
    shape = tuple(_size("event_shape", axis, LIMITS["event_shape"]) for axis in axes)
    if math.prod(shape) > LIMITS["event_shape"]:
        raise ValueError(f"event_shape must have at most {LIMITS['event_shape']} entries, got {shape}")
    return shape


def _checked_levels(value: Any, likelihood: str, leveled: bool) -> int | None:
    if not leveled:
        if value is not None:
            raise ValueError(f"likelihood={likelihood!r} takes no levels: leave levels out")
        return None
    if value is None:
        raise ValueError(f"likelihood={likelihood!r} needs levels, such as 256 for data in 0..255: give levels")
    return _size("levels", value, LIMITS["levels"], least=2)


def _checked_scale(value: Any, likelihood: str, scaled: bool) -> float | str:
    if value != "learned" and not scaled:
        raise ValueError(f"likelihood={likelihood!r} takes no scale: leave scale out")
    if value in ("learned", "network"):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"scale must be a positive number, 'learned' or 'network', got {value!r}")
    return float(value)


def _checked_dropout(value: Any, network: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"dropout must be a probability in [0, 1), got {value!r}")
    if value and network != "mlp":
        raise ValueError("dropout is for network='mlp': leave dropout out")
    return float(value)


def _checked_preprocess(value: Any, likelihood: Likelihood, have_start: bool) -> str:
    if value is None:
        suits = likelihood.preprocess
        return "none" if suits == "standardize" and not have_start else suits
    _word("preprocess", value, dict.fromkeys(("none", "log1p", "levels", "standardize")))
    if value == "levels" and not likelihood.leveled:
        raise ValueError("preprocess='levels' is for likelihoods of levels: write 'none', 'log1p' or 'standardize'")
    return value
