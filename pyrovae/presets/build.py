"""A whole VAE from its spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import conditionals, distributions
from pyrovae.conditionals import ColumnFeatures, Factorized, TableLikelihood, TableNetwork
from pyrovae.data import Data, ImageRows, as_data
from pyrovae.distributions import TableSchema
from pyrovae.distributions.table import fit_column
from pyrovae.errors import refusal
from pyrovae.graphs import VAE
from pyrovae.graphs.graph import WEIGHT
from pyrovae.networks import MLP, ConcatCovariates, ConvDecoder, ConvEncoder, Network
from pyrovae.presets.spec import Spec
from pyrovae.presets.tables import ACTIVATIONS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS

IMAGE_CHANNELS = {2: (16, 64), 3: (16, 32, 64), 4: (8, 16, 32, 64), 5: (8, 16, 32, 64, 64)}
"""The channels of convolutional networks that are suggested for images, by the number of halvings down to about 8 pixels."""
MIXTURE_COMPONENTS = 3
"""The most components of a mixture likelihood: each costs as much again, in every pixel of every channel."""
START_ROWS = 5000
"""So many rows of ``start``, chosen at random, are used."""
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


def build_vae(spec: Any, *, start: Any = None, seed: int | None = None, **fields: Any) -> VAE:
    r"""Build a VAE from its spec, or from the fields of `Spec` as keywords.

    .. math:: p(z)\, p(x \mid z), \qquad q(z \mid x)

    Args:
        spec: a `Spec`, whose fields given beside it are changed; or the shape of one datum; or the training data, as
            :func:`pyrovae.fit` takes rows in memory, which are then ``start`` too, and suggest a likelihood where none is
            given: for a table with ``kinds`` that of its columns.
        start: the training data, as :func:`pyrovae.fit` takes rows in memory: the decoder starts at their mean, the
            encoder's input is standardized by their moments, and pseudo-inputs are some of them.
        seed: the seed of the initial weights, the global generator left as it was; by default the global generator. Given to
            ``fit`` as well, one number covers weights, split and training.
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
    if not isinstance(spec, (Spec, int, Sequence)):
        spec = as_data(spec)
        start = spec if start is None else start
        suggested = beside(suggest(spec, seed), fields) if "likelihood" not in fields else {}
        spec, fields = tuple(spec.event_shape), {**suggested, **fields}
    given = vars(spec) if isinstance(spec, Spec) else {"event_shape": spec}
    spec = Spec.from_json({**given, **fields}).resolved()
    start = None if start is None else some_rows(start, seed)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        encoder, decoder = _networks(spec)
        posterior = _posterior(spec, encoder, _preprocess(spec, start))
        likelihood = _likelihood(spec, decoder)
        if start is not None and isinstance(likelihood, Factorized):
            likelihood.initialize(start)
        vae = VAE(_prior(spec, posterior, start), likelihood, posterior, name=spec.name)
    vae.spec = spec  # type: ignore[assignment]  # a plain attribute, in no state_dict
    vae.weights_seed = seed  # type: ignore[assignment]
    return vae


def some_rows(data: Any, seed: int | None = None) -> Tensor:
    """Some rows chosen at random, as training sees them, ``(rows, *event_shape)``."""
    rows, number = as_data(data), 0 if seed is None else seed
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(number))
    x = rows[order[:START_ROWS]].drawn(number).dense().x.to(torch.get_default_dtype())
    flat, limits = x.reshape(len(x), -1), torch.finfo(x.dtype)
    largest = flat.abs().nan_to_num(0.0, torch.inf).amax(0)
    spread = flat.nan_to_num(-torch.inf).amax(0) - flat.nan_to_num(torch.inf).amin(0)
    for wrong, what, values, fault in (
        (largest > limits.max**0.5, "holds", largest, "overflows"),
        ((spread > 0) & (spread < limits.tiny**0.5), "varies by", spread, "vanishes"),
    ):
        if wrong.any():
            column = int(wrong.nonzero()[0, 0])
            name = repr(rows.columns[column]) if isinstance(rows.columns, tuple) else column
            held = f"column {name} {what} {float(values[column]):.3g}, whose square {fault} in single precision"
            raise refusal(f"{held}: scale the data", "start")
    return x


def suggest(data: Any, seed: int | None = None) -> dict[str, Any]:
    """Suggest a likelihood whose support holds data such as these; a start, not a judgment.

    Args:
        data: the training data; NaN is missing. The variants of named data are known.
        seed: of the rows that are looked at.

    Returns:
        The fields ``likelihood`` and, where it needs them, ``levels``; for a table whose kinds are known ``columns``, for
        data with covariates of one number per row ``covariate_columns``, for levels of images (uint8, uint16, or a folder)
        ``network`` and ``hidden``.

    Raises:
        ValueError: there is no finite entry.

    >>> suggest(torch.tensor([[0.0, 1.0, 1.0]])), suggest(torch.tensor([[0.0, 7.0]]))
    ({'likelihood': 'bernoulli'}, {'likelihood': 'negative_binomial'})
    """
    rows = as_data(data)
    given = _covariate_columns(rows)
    if rows.name in _NAMED and (known := _VARIANTS.get((rows.variant or "").split("(")[0])):
        return {**known, **given}
    if images := _images(rows):
        return {**images, **given}
    if rows.kinds:
        return {"likelihood": "table", "columns": TableSchema.of(rows).to_json(), **given}
    x = some_rows(rows, seed)
    seen = x[x.isfinite()].double()
    if not len(seen):
        raise refusal("expected data with some entries that are finite, got none", "data")
    whole = bool((seen == seen.round()).all())
    if bool((seen < 0).any()) or (seen.max() > 1 and not whole):
        return {"likelihood": "normal", **given}
    if seen.max() <= 1:
        return {"likelihood": "bernoulli" if whole else "continuous_bernoulli", **given}
    return {"likelihood": "negative_binomial", **given}


def beside(suggested: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is suggested beside given fields: where these say how many latents images have, latents have no place in the image."""
    if suggested.get("network") != "local":
        return suggested
    if (
        any(name in given for name in ("network", "hidden", "latent_dim"))
        or given.get("posterior", "normal") != "normal"
    ):
        suggested = {**suggested, "network": "convolutional", "latent_dim": 64}
    if given.get("network") == "mlp":
        suggested = {name: value for name, value in suggested.items() if name not in ("network", "hidden")}
    return suggested


def are_images(rows: Data) -> bool:
    """Whether rows are images: levels of 8 or 16 bits, or files, with axes for channels, height and width."""
    levels = isinstance(rows.x, Tensor) and (
        rows.x.dtype == torch.uint8 or (rows.x.dtype == torch.int32 and rows.variant == "uint16")
    )
    return (
        (levels or isinstance(rows.x, ImageRows))
        and isinstance(rows.event_shape, torch.Size)
        and len(rows.event_shape) == 3
    )


def levels_of(rows: Data) -> int:
    """The number of levels of images."""
    return getattr(rows.x, "levels", 2**16 if rows.variant == "uint16" else 2**8)


def _images(rows: Data) -> dict[str, Any]:
    """Levels of images get a likelihood on these levels, and images of 16 pixels or more convolutional networks."""
    if not are_images(rows) or rows.covariates:
        return {}
    x, (channels, height, width) = rows.x, rows.event_shape
    halvings = min(max(round(math.log2(min(height, width) / 8)), 2), 5)
    size: dict[str, Any] = {}
    if min(height, width) >= 16:
        places = math.ceil(height / 2**halvings) * math.ceil(width / 2**halvings)
        size = {"network": "local", "hidden": IMAGE_CHANNELS[halvings], "latent_dim": 2**halvings * places}
    if x.dtype.is_floating_point:
        return {"likelihood": "continuous_bernoulli", **size}
    likelihood = "logistic_mixture" if channels == 3 else "discretized_logistic"
    return {"likelihood": likelihood, "levels": levels_of(rows), **size}


def _covariate_columns(rows: Data) -> dict[str, Any]:
    """The covariates as columns: categories where they have levels, else numbers in units of their spread."""
    found = [
        fit_column(name, "category" if name in rows.levels else "real", values, rows.levels.get(name, ()))
        for name, values in (rows.covariates or {}).items()
        if values.ndim == 1 and name != WEIGHT
    ]
    return {"covariate_columns": TableSchema(tuple(found)).to_json()} if found else {}


class Standardize(nn.Module):
    r"""Shift and scale entries by fixed numbers, which are saved with the weights.

    .. math:: y = (x - \mathrm{loc}) / \mathrm{scale}

    Args:
        loc: broadcasts against a datum.
        scale: positive, broadcasts against a datum.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """The shifted and scaled entries, of the shape of ``x``."""
        return (x - self.loc) / self.scale


def _networks(spec: Spec) -> tuple[Network, Network]:
    """The encoder and the decoder, both open: the distributions that they serve size their heads."""
    made = {"LeakyReLU": partial(nn.LeakyReLU, 0.2), "GroupNorm": partial(nn.GroupNorm, 1), "": None}
    activation, normalization = (
        made[name] if name in made else getattr(nn, name)
        for name in (ACTIVATIONS[spec.activation], NETWORKS[spec.network][spec.normalization])
    )
    options: dict[str, Any] = {"activation": None if spec.gated else activation, "normalization": normalization}
    decoder_hidden = spec.decoder_hidden or ()
    if spec.network != "mlp":
        options |= {"residual_blocks": int(spec.residual), "local": spec.network == "local"}
        encoder: Network = ConvEncoder(spec.event_shape, spec.hidden, **options)
        return encoder, ConvDecoder(spec.latent_dim, decoder_hidden, **options)
    options |= {"dropout": spec.dropout, "gated": spec.gated, "residual": spec.residual}
    entries = {
        column.name: ColumnFeatures(column) for column in TableSchema.from_json(spec.covariate_columns or ()).columns
    }

    def reading(in_shape: tuple[int, ...], hidden: Sequence[int]) -> Network:
        if not entries:
            return MLP(in_shape, hidden, **options)
        size = math.prod(in_shape) + sum(entry.closed_shape.numel() for entry in entries.values())
        return ConcatCovariates(MLP(size, hidden, **options), in_shape, dict(entries))

    decoder = reading((spec.latent_dim,), decoder_hidden)
    if spec.likelihood != "table":
        return reading(spec.event_shape, spec.hidden), decoder
    return TableNetwork(reading((_schema(spec).num_features,), spec.hidden), _schema(spec)), decoder


def _schema(spec: Spec) -> TableSchema:
    return TableSchema.from_json(spec.columns or ())


def _likelihood(spec: Spec, decoder: Network) -> nn.Module:
    if spec.likelihood == "table":
        return TableLikelihood(decoder, schema=_schema(spec))
    family, sized_by, scaled, *_ = LIKELIHOODS[spec.likelihood]
    given: dict[str, Any] = {}
    if spec.levels:
        given[sized_by] = spec.levels - (sized_by == "total_count")
    if family == "LogisticMixture":
        given["num_components"] = min(spec.components, MIXTURE_COMPONENTS)
    if hasattr(conditionals, family):
        return getattr(conditionals, family)(decoder, spec.event_shape, **given)
    if scaled and spec.scale != "network":
        shape = spec.event_shape if len(spec.event_shape) == 1 else ()  # a table has one noise per column
        given["scale"] = nn.Parameter(torch.ones(shape)) if spec.scale == "learned" else spec.scale
    return Factorized(getattr(distributions, family, None) or getattr(dist, family), decoder, spec.event_shape, **given)


def _posterior(spec: Spec, encoder: Network, preprocess: Callable[[Tensor], Tensor] | None) -> nn.Module:
    name, size = POSTERIORS[spec.posterior], spec.latent_dim
    if name == "Normal":
        return Factorized(dist.Normal, encoder, size, preprocess=preprocess)
    given = {"rank": min(2, size)} if name == "LowRank" else {}
    return getattr(conditionals, name)(encoder, size, preprocess=preprocess, **given)


def _prior(spec: Spec, posterior: nn.Module, start: Tensor | None) -> nn.Module:
    name, size = PRIORS[spec.prior], spec.latent_dim
    if name == "VampPrior":
        bounds = LIKELIHOODS[spec.likelihood].bounds(spec)
        return conditionals.VampPrior(posterior, _pseudo_inputs(spec, start, *bounds), bounds=bounds)
    if name == "standard_normal":
        return conditionals.standard_normal(size)
    given = {"num_components": spec.components} if name == "GaussianMixture" else {}
    return getattr(conditionals, name)(event_shape=size, **given)


def _pseudo_inputs(spec: Spec, start: Tensor | None, lower: float, upper: float) -> Tensor:
    """Some rows of the data; without data noise within the bounds, which saved weights then replace."""
    if start is None:
        noise, width = torch.rand(spec.components, *spec.event_shape), upper - lower
        return noise * width + lower if math.isfinite(width) else noise
    filled = torch.where(start.isnan(), start.nanmean(0).nan_to_num(), start)
    few = len(filled) < spec.components
    chosen = torch.randint(len(filled), (spec.components,)) if few else torch.randperm(len(filled))
    return filled[chosen[: spec.components]]


def _preprocess(spec: Spec, start: Tensor | None) -> Callable[[Tensor], Tensor] | None:
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
