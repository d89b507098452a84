"""A whole VAE from its spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyrovae.conditionals import Factorized
from pyrovae.errors import refusal
from pyrovae.graphs import VAE
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, Network
from pyrovae.presets.spec import Spec
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS

if TYPE_CHECKING:
    from pyrovae.presets.tables import Preprocess

START_ROWS = 10_000
"""As many rows of ``start`` are used."""
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
    spec: Spec | int | Sequence[int], *, start: Tensor | None = None, seed: int | None = None, **fields: Any
) -> VAE:
    r"""Build a VAE from its spec, or from the fields of `Spec` as keywords.

    .. math:: p(z)\, p(x \mid z), \qquad q(z \mid x)

    Args:
        spec: a `Spec`, whose fields given beside it are changed; or the shape of one datum.
        start: rows of the training data ``(rows, *event_shape)``, from which the decoder starts at the data's mean, the
            encoder's input is standardized and pseudo-inputs are taken.
        seed: the seed of the initial weights, the global generator left as it was; by default the global generator.
        fields: the fields of `Spec`; ``likelihood`` at least, unless ``spec`` has it.

    Returns:
        The VAE, on the CPU, in torch's default dtype. Its attribute ``spec`` is the spec with all defaults filled in, and
        ``build_vae(vae.spec)`` is the same again.

    Raises:
        TypeError: an unknown field, or one of the wrong kind.
        ValueError: an unknown word, a number out of range, or fields that do not go together.

    >>> vae = build_vae((1, 8, 8), likelihood="binomial", levels=17, latent_dim=5, hidden=(32,))
    >>> vae.spec.likelihood, vae.encode(torch.zeros(3, 1, 8, 8)).shape
    ('binomial', torch.Size([3, 5]))
    """
    given = vars(spec) if isinstance(spec, Spec) else {"event_shape": spec}
    spec = Spec.from_json({**given, **fields}).resolved()
    start = None if start is None else start[:START_ROWS].to(torch.get_default_dtype())
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        encoder, decoder = _networks(spec)
        posterior = POSTERIORS[spec.posterior](encoder, spec.latent_dim, _preprocess(spec, start))
        likelihood = LIKELIHOODS[spec.likelihood].make(decoder, spec)
        if start is not None and isinstance(likelihood, Factorized):
            likelihood.initialize(start)
        vae = VAE(PRIORS[spec.prior](spec, posterior, start), likelihood, posterior, name=spec.name)
    vae.spec = spec  # type: ignore[assignment]  # a plain attribute, in no state_dict
    return vae


def suggest(x: Tensor, name: str | None = None, variant: str | None = None) -> dict[str, Any]:
    """Suggest a likelihood whose support holds data such as these; a start, not a judgement.

    Args:
        x: some rows of the training data, transformed as in training; NaN is missing.
        name: the data's name; the variants of named data are known.
        variant: the data's variant.

    Returns:
        The fields ``likelihood`` and, where it needs them, ``levels``.

    Raises:
        ValueError: there is no finite entry.

    >>> suggest(torch.tensor([[0.0, 1.0, 1.0]])), suggest(torch.tensor([[0.0, 7.0]]))
    ({'likelihood': 'bernoulli'}, {'likelihood': 'negative_binomial'})
    """
    if name in _NAMED and (known := _VARIANTS.get((variant or "").split("(")[0])):
        return dict(known)
    seen = x[x.isfinite()].double()
    if not len(seen):
        raise refusal("expected data with some entries that are finite, got none", "data")
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


def _networks(spec: Spec) -> tuple[Network, Network]:
    options: dict[str, Any] = {
        "activation": ACTIVATIONS[spec.activation],
        "normalization": NETWORKS[spec.network][spec.normalization],
    }
    decoder_hidden = spec.decoder_hidden or ()
    if spec.network == "convolutional":
        options["residual_blocks"] = int(spec.residual)
        encoder: Network = ConvEncoder(spec.event_shape, spec.hidden, **options)
        return encoder, ConvDecoder(spec.latent_dim, decoder_hidden, **options)
    options |= {"dropout": spec.dropout, "gated": spec.gated, "residual": spec.residual}
    if spec.gated:
        options["activation"] = None
    return MLP(spec.event_shape, spec.hidden, **options), MLP(spec.latent_dim, decoder_hidden, **options)


def _preprocess(spec: Spec, start: Tensor | None) -> Preprocess | None:
    """What the encoder's input goes through; to standardize without rows leaves it as it is."""
    if spec.preprocess == "none":
        return None
    if spec.preprocess == "log1p":
        return torch.log1p
    loc, scale = torch.zeros(spec.event_shape), torch.ones(spec.event_shape)
    if spec.preprocess == "levels":
        scale.fill_(LIKELIHOODS[spec.likelihood].bounds(spec)[1])
    elif start is not None:
        loc = start.nanmean(0).nan_to_num()
        scale = (start - loc).square().nanmean(0).sqrt().nan_to_num()
        scale = torch.where(scale > 1e-6, scale, 1.0)
    return Standardize(loc, scale)
