"""Lines of Shakespeare, character by character: a latent for each line beside the same decoder without one.

Importance-weighted perplexity per character (ends of lines count) of held-out lines, and what it costs to shuffle the latents
between lines; then a few interpolations. The baseline is the same graph whose likelihood is given zeros. Both decoders go on
from that of a model without latents, and are trained as long; ``--anneal`` passes raise the weight of the divergence from
zero, after which the decoder knows what the latents say. ``python tests/benchmarks/shakespeare.py``.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch

import pyrovae as pvae
from pyrovae.conditionals import Tokens


class Blind(torch.nn.Module):
    """A likelihood that is given zeros in place of the latent."""

    def __init__(self, likelihood: Tokens) -> None:
        super().__init__()
        self.likelihood, self.num_steps = likelihood, likelihood.num_steps

    def forward(self, z: torch.Tensor, covariates: Any = None) -> Any:
        return self.likelihood(torch.zeros_like(z), covariates)


def model(vocabulary: pvae.data.Vocabulary, options: argparse.Namespace, sees: bool) -> pvae.SentenceVAE:
    steps, tokens, hidden, latents = options.steps, len(vocabulary), options.hidden, options.latents
    torch.manual_seed(options.seed)
    decoder = pvae.GRU((steps, 32 + latents), hidden, per_step=True)
    dropout = options.word_dropout if sees else 0.0
    likelihood: Any = Tokens(decoder, tokens, latents, word_dropout=dropout)
    read = pvae.Chain(
        pvae.networks.EmbedSteps(tokens, steps, 32), pvae.GRU((steps, 32), hidden // 2, bidirectional=True)
    )
    posterior = pvae.Factorized(dist.Normal, read, latents)
    return pvae.SentenceVAE(
        pvae.standard_normal(latents), likelihood if sees else Blind(likelihood), posterior, vocabulary
    )


def trained(
    vae: pvae.SentenceVAE, x: torch.Tensor, folder: Path, epochs: int, free_nats: float | None = None, anneal: int = 0
) -> pvae.SentenceVAE:
    objective = None if free_nats is None else pvae.FreeBitsELBO(free_nats)
    options = {"batch_size": 64, "objective": objective, "seed": 0, "progress": False, "compile": "trace"}
    options |= {"checkpoint": folder, "resume": True}
    options |= {"beta": pvae.schedules.linear(0.0, 1.0, epochs=anneal)} if anneal else {}
    print(f"{pvae.fit(vae, x, epochs=epochs, **options)['elbo'][-1]:.2f} nats per line of training", flush=True)
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    numbers = {
        "lines": 12000,
        "steps": 48,
        "hidden": 128,
        "latents": 16,
        "epochs": 8,
        "more": 6,
        "anneal": 0,
        "draws": 100,
        "seed": 0,
    }
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--word-dropout", type=float, default=0.0)
    parser.add_argument("--free-nats", type=float, default=0.2, help="for each entry of the latent")
    parser.add_argument("--folder", type=Path, default=Path("build/shakespeare"), help="for checkpoints")
    options = parser.parse_args()
    path = Path(os.environ["PYROVAE_DATA"]) / "text/tinyshakespeare.txt.gz"
    lines = [line for line in gzip.decompress(path.read_bytes()).decode().split("\n") if 10 < len(line) < options.steps]
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    train = [lines[i] for i in order[:-300][: options.lines]]
    test = [lines[i] for i in order[-300:]]
    vocabulary = pvae.data.Vocabulary.of(train)
    x, held_out = (vocabulary.encode(part, options.steps) for part in (train, test))
    characters = int((~held_out.isnan()).sum())
    print(f"{len(train)} lines for training, {len(test)} held out, {vocabulary}", flush=True)
    begun = trained(model(vocabulary, options, sees=False), x, options.folder / "begun", options.epochs)
    for sees in (False, True):
        vae = model(vocabulary, options, sees)
        decoder: Any = vae.likelihood if sees else vae.likelihood.likelihood
        decoder.load_state_dict(begun.likelihood.likelihood.state_dict())
        folder = options.folder / ("with" if sees else "without")
        trained(vae, x, folder, options.more, *((options.free_nats, options.anneal) if sees else ()))
        draws = options.draws if sees else 1
        found = pvae.log_marginal(vae, held_out, method="importance", num_samples=draws, seed=0, progress=False)
        perplexity = math.exp(-float(found.log_marginal.sum()) / characters)
        print(f"{'with' if sees else 'without'} a latent: perplexity {perplexity:.3f}, ", end="")
        print(f"{float(found.log_marginal.mean()):.2f} nats per line", flush=True)
    bound = pvae.elbo(vae, held_out, num_samples=1, seed=0, progress=False)
    seen, mask = held_out.nan_to_num(), ~held_out.isnan()
    with torch.no_grad():
        z = vae.encode(held_out, num_samples=1)[0]
        own, other = (vae.likelihood(latents).mask_entries(mask).log_prob(seen).mean() for latents in (z, z.roll(1, 0)))
    print(f"KL {float(bound.kl.mean()):.2f} nats; shuffled latents cost {float(own - other):.2f} nats per line")
    for one, two in zip(test[:6:2], test[1:6:2], strict=True):
        print("\n".join(["", one, *(f"    {line}" for line in vae.interpolate(one, two, 5, draw=True)), two]))


if __name__ == "__main__":
    main()
