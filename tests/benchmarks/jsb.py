"""JSB chorales: one draw's bound per time step of the test set, of a deep state-space model without a flow.

Published by Pyro's example (5,000 epochs): 6.87 nats per step without a flow, 6.80 with two. Training goes on from its
checkpoint: ``python tests/benchmarks/jsb.py --epochs 300``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from pathlib import Path

import pyro.distributions as dist
import torch

import pyrovae as pvae
from pyrovae.conditionals import Dynamics, Smoother

NOTES, LOWEST = 88, 21


def chorales() -> dict[str, torch.Tensor]:
    """For each split the piano rolls ``(sequences, steps, notes)``, NaN after the end of a sequence."""
    path = Path(os.environ["PYROVAE_DATA"]) / "jsb/jsb-chorales-quarter.json.gz"
    splits = json.loads(gzip.decompress(path.read_bytes()))
    longest = max(len(sequence) for sequences in splits.values() for sequence in sequences)
    rolls = {}
    for split, sequences in splits.items():
        rolls[split] = torch.full((len(sequences), longest, NOTES), torch.nan)
        for row, sequence in zip(rolls[split], sequences, strict=True):
            row[: len(sequence)] = 0.0
            for step, notes in enumerate(sequence):
                row[step, [note - LOWEST for note in notes]] = 1.0
    return rolls


def model(steps: int, state: int, hidden: int) -> pvae.StateSpaceVAE:
    net = pvae.GRU((steps, NOTES + 1), hidden, (steps, hidden))
    return pvae.StateSpaceVAE(
        Dynamics(pvae.Factorized(dist.Normal, pvae.MLP(state, (hidden,)), state), state),
        emission=pvae.Factorized(dist.Bernoulli, pvae.MLP(state, (100, 100)), NOTES),
        posterior=Smoother(net, pvae.Factorized(dist.Normal, pvae.MLP(state + hidden, (hidden,)), state)),
        num_steps=steps,
    )


def per_step(vae: pvae.StateSpaceVAE, x: torch.Tensor, seed: int) -> float:
    steps = int((~x.isnan()).all(-1).sum())
    return -float(pvae.elbo(vae, x, num_samples=1, seed=seed, progress=False).elbo.sum()) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--state", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/jsb"))
    arguments = parser.parse_args()
    rolls = chorales()
    torch.manual_seed(arguments.seed)
    vae = model(rolls["train"].shape[1], arguments.state, arguments.hidden)
    vae.emission.initialize(rolls["train"].flatten(0, 1))
    started = time.process_time()

    def tell(history: pvae.training.History) -> None:
        if len(history) % 10 == 0:
            spent = time.process_time() - started
            print(
                f"{len(history)} epochs: test {per_step(vae, rolls['test'], 1):.3f}, {spent:.0f} s of CPU", flush=True
            )

    pvae.fit(
        vae,
        rolls["train"],
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=2e-3,
        beta=pvae.schedules.linear(0.2, 1.0, epochs=max(1, arguments.epochs // 4)),
        clip_norm=10.0,
        callbacks=[tell],
        checkpoint=arguments.folder,
        resume=True,
        checkpoint_minutes=2.0,
        seed=arguments.seed,
        progress=False,
    )
    print({split: round(per_step(vae, x, 1), 4) for split, x in rolls.items()})


if __name__ == "__main__":
    main()
