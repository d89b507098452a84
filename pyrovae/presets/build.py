"""A whole VAE from its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.conditionals import Factorized
from pyrovae.graphs import VAE
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, Network
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS, Preprocess
from pyrovae.presets.words import Words, check_words

_START_ROWS = 10_000
_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "counts": {"likelihood": "binomial", "levels": 17},
    "scaled": {"likelihood": "continuous_bernoulli"},
    "grey": {"likelihood": "continuous_bernoulli"},
    "dynamic": {"likelihood": "bernoulli"},
    "static": {"likelihood": "bernoulli"},
    "threshold": {"likelihood": "bernoulli"},
    "uint8": {"likelihood": "discretized_logistic", "levels": 256},
}
_NAMED = frozenset({"digits", "mnist", "freyfaces"})


def build_vae(
    event_shape: int | Sequence[int],
    *,
    likelihood: str,
    latent_dim: int = 10,
    hidden: Sequence[int] = (128,),
    decoder_hidden: Sequence[int] | None = None,
    prior: str = "standard_normal",
    posterior: str = "normal",
    network: str = "mlp",
    levels: int | None = None,
    scale: float | str = "learned",
    components: int = 50,
    activation: str = "silu",
    normalization: str | None = None,
    dropout: float = 0.0,
    residual: bool = False,
    gated: bool = False,
    preprocess: str | None = None,
    name: str = "vae",
    start: Tensor | None = None,
    seed: int | None = None,
) -> VAE:
    r"""Build a VAE from words and numbers; ``vae.words`` holds them, and ``build_vae(**vae.words)`` is the same again.

    .. math:: p(z)\, p(x \mid z), \qquad q(z \mid x)

    Args:
        event_shape: the shape of one datum; an integer for a vector.
        likelihood: a key of ``LIKELIHOODS``.
        latent_dim: the number of latent dimensions.
        hidden: widths of the encoder's hidden layers, or channels of its stages.
        decoder_hidden: those of the decoder; by default the encoder's in reverse.
        prior: a key of ``PRIORS``.
        posterior: a key of ``POSTERIORS``.
        network: ``mlp`` or ``convolutional``.
        levels: for likelihoods of levels, their number: the data are the integers from 0 to ``levels - 1``.
        scale: of a normal, Laplace or log-normal likelihood: a number, ``learned`` (one for all entries) or ``network``.
        components: components of a mixture prior, pseudo-inputs of a VampPrior; a mixture likelihood takes at most 10.
        activation: a key of ``ACTIVATIONS``.
        normalization: ``layer``, ``batch`` or None.
        dropout: probability in [0, 1), after each hidden layer of an ``mlp``.
        residual: shortcuts, in an ``mlp`` between layers of equal width, else one block a stage.
        gated: gated layers in an ``mlp``.
        preprocess: what the encoder's input goes through: ``none``, ``log1p``, ``levels`` (divide by ``levels - 1``) or
            ``standardize`` (by the moments of ``start``); by default what suits the likelihood.
        name: the prefix of the parameters' names in Pyro.
        start: rows of the training data ``(rows, *event_shape)``, from which the decoder starts at the data's mean, the
            encoder's input is standardized and pseudo-inputs are taken.
        seed: the seed of the initial weights, the global generator left as it was; by default the global generator.

    Returns:
        The VAE, on the CPU, in torch's default dtype.

    Raises:
        TypeError: a word is of the wrong kind.
        ValueError: an unknown word, a number out of range, or words that do not go together.

    >>> vae = build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=5, hidden=(32,))
    >>> vae.words["likelihood"], vae.encode(torch.zeros(3, 1, 8, 8)).shape
    ('binomial', torch.Size([3, 5]))
    """
    words = check_words(
        {key: value for key, value in locals().items() if key not in ("start", "seed")}, have_start=start is not None
    )
    start = None if start is None else start[:_START_ROWS].to(torch.get_default_dtype())
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        vae = _build(words, start)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(words).items()}
    vae.words = plain  # type: ignore[assignment]  # a plain attribute, in no state_dict
    return vae


def suggest(x: Tensor, name: str | None = None, variant: str | None = None) -> dict[str, Any]:
    """The words of a likelihood that holds data such as these; a suggestion, not a judgement.

    Args:
        x: some rows of the training data, transformed as in training; NaN is missing.
        name: the data's name; the variants of named data are known.
        variant: the data's variant.

    Returns:
        ``likelihood``, and ``levels`` where it needs them.

    Raises:
        ValueError: there is no finite entry.

    >>> suggest(torch.tensor([[0.0, 1.0, 1.0]])), suggest(torch.tensor([[0.0, 7.0]]))
    ({'likelihood': 'bernoulli'}, {'likelihood': 'negative_binomial'})
    """
    if name in _NAMED and (known := _VARIANTS.get((variant or "").split("(")[0])):
        return dict(known)
    seen = x[x.isfinite()].double()
    if not len(seen):
        raise ValueError("expected data with some entries that are finite, got none")
    if bool((seen < 0).any()):
        return {"likelihood": "normal"}
    if bool((seen == seen.round()).all()):
        return {"likelihood": "bernoulli" if seen.max() <= 1 else "negative_binomial"}
    return {"likelihood": "continuous_bernoulli" if seen.max() <= 1 else "normal"}


class Standardize(nn.Module):
    r"""Shift and scale entries by fixed numbers, which are saved with the weights.

    .. math:: y = (x - \mathrm{loc}) / \mathrm{scale}

    Args:
        loc: broadcasts against a datum.
        scale: positive, broadcasts against a datum.

    >>> Standardize(torch.zeros(3), torch.full((3,), 16.0))(torch.full((2, 3), 8.0))
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000]])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    loc: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The shifted and scaled entries, of the shape of ``x``."""
        return (x - self.loc) / self.scale


def _build(words: Words, start: Tensor | None) -> VAE:
    encoder, decoder = _networks(words)
    posterior = POSTERIORS[words.posterior](encoder, words.latent_dim, _preprocess(words, start))
    likelihood = LIKELIHOODS[words.likelihood].make(decoder, words)
    if start is not None and isinstance(likelihood, Factorized):
        likelihood.initialize(start)
    return VAE(PRIORS[words.prior](words, posterior, start), likelihood, posterior, name=words.name)


def _networks(words: Words) -> tuple[Network, Network]:
    options: dict[str, Any] = {
        "activation": ACTIVATIONS[words.activation],
        "normalization": NETWORKS[words.network][words.normalization],
    }
    if words.network == "convolutional":
        options["residual_blocks"] = int(words.residual)
        encoder: Network = ConvEncoder(words.event_shape, words.hidden, **options)
        return encoder, ConvDecoder(words.latent_dim, words.decoder_hidden or (), **options)
    options |= {"dropout": words.dropout, "gated": words.gated, "residual": words.residual}
    if words.gated:
        options["activation"] = None
    return MLP(words.event_shape, words.hidden, **options), MLP(words.latent_dim, words.decoder_hidden or (), **options)


def _preprocess(words: Words, start: Tensor | None) -> Preprocess | None:
    if words.preprocess == "none":
        return None
    if words.preprocess == "log1p":
        return torch.log1p
    loc, scale = torch.zeros(words.event_shape), torch.ones(words.event_shape)
    if words.preprocess == "levels":
        scale.fill_(words.top_level)
    elif start is not None:
        loc = start.nanmean(0).nan_to_num()
        scale = (start - loc).square().nanmean(0).sqrt().nan_to_num()
        scale = torch.where(scale > 1e-6, scale, 1.0)
    return Standardize(loc, scale)
