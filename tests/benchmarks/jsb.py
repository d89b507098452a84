"""JSB chorales: one draw's bound per time step of the test set, of a deep state-space model without a flow.

Published by Pyro's example (5,000 epochs): 6.87 nats per step without a flow, 6.80 with two. Here the transition is gated as
there; what is ahead is read by dilated convolutions in place of a recurrent network, which are as good for few steps ahead and
need no loop. Batches hold sequences of like length. What is evaluated is a moving average of the weights; the line of the best
validation value counts. Training goes on from its checkpoint: ``python tests/benchmarks/jsb.py --minutes 60``.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import pyrovae as pvae
from pyrovae.conditionals import Dynamics, Smoother
from pyrovae.evaluation import SMC

NOTES, LOWEST = 88, 21


def chorales() -> dict[str, list[torch.Tensor]]:
    """For each split the piano rolls ``(steps, notes)``."""
    path = Path(os.environ["PYROVAE_DATA"]) / "jsb/jsb-chorales-quarter.json.gz"
    rolls: dict[str, list[torch.Tensor]] = {}
    for split, sequences in json.loads(gzip.decompress(path.read_bytes())).items():
        rolls[split] = [torch.zeros(len(sequence), NOTES) for sequence in sequences]
        for roll, sequence in zip(rolls[split], sequences, strict=True):
            for step, notes in enumerate(sequence):
                roll[step, [note - LOWEST for note in notes]] = 1.0
    return rolls


def padded(rolls: list[torch.Tensor]) -> torch.Tensor:
    """Sequences as one tensor, NaN after the end."""
    return nn.utils.rnn.pad_sequence(rolls, batch_first=True, padding_value=torch.nan)


class OfLikeLength(torch.utils.data.Dataset):
    """Sequences sorted by length in four parts, each padded to its longest; and as a sampler, batches of one part."""

    def __init__(self, rolls: list[torch.Tensor], batch_size: int, passes: int) -> None:
        rolls = sorted(rolls, key=len)
        size = -(-len(rolls) // 4)
        self.parts = [padded(rolls[start : start + size]) for start in range(0, len(rolls), size)]
        self.batch_size, self.passes = batch_size, passes
        self.batches = [b for part in self.parts for b in torch.arange(len(part)).split(batch_size)]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def loader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self, batch_sampler=Sampler(self))

    def __getitem__(self, place: tuple[int, int]) -> torch.Tensor:
        return self.parts[place[0]][place[1]]


class Sampler:
    """Some passes through the rows."""

    def __init__(self, rows: OfLikeLength) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.passes * len(self.rows.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for _ in range(self.rows.passes):
            batches = [
                [(n, i) for i in batch.tolist()]
                for n, part in enumerate(self.rows.parts)
                for batch in torch.randperm(len(part)).split(self.rows.batch_size)
            ]
            yield from (batches[i] for i in torch.randperm(len(batches)))


class Gated(nn.Module):
    """A transition: the state mapped linearly, at first to itself, or a proposal, as a gate decides for each entry."""

    def __init__(self, state: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(state, hidden), nn.SiLU(), nn.Linear(hidden, 3 * state))
        self.linear = nn.Linear(state, state)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: torch.Tensor, covariates: Any = None) -> Any:
        gate, proposal, scale = self.body(z).chunk(3, -1)
        mean = torch.lerp(self.linear(z), proposal, gate.sigmoid())
        return dist.Normal(mean, nn.functional.softplus(scale) + 1e-3).to_event(1)


class Behind(nn.Module):
    """Features of each step and those before it, by dilated convolutions over time: ``(rows, T, ...)`` to the same."""

    def __init__(self, size: int, hidden: int, dropout: float, layers: int = 4) -> None:
        super().__init__()
        self.enter, self.drop = nn.Linear(size, hidden), nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.Conv1d(hidden, hidden, 2, dilation=2**n) for n in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(self.drop(x)).transpose(-1, -2)
        for layer in self.layers:
            h = h + layer(nn.functional.silu(nn.functional.pad(h, (layer.dilation[0], 0))))
        return self.drop(h.transpose(-1, -2))


def model(steps: int, arguments: argparse.Namespace) -> pvae.StateSpaceVAE:
    state, hidden = arguments.state, arguments.hidden
    combine = pvae.MLP(state + hidden, (hidden,), activation=nn.Tanh)
    return pvae.StateSpaceVAE(
        Dynamics(Gated(state, hidden), state),
        emission=pvae.Factorized(dist.Bernoulli, pvae.MLP(state, (100, 100)), NOTES),
        posterior=Smoother(Behind(NOTES + 1, hidden, arguments.dropout), pvae.Factorized(dist.Normal, combine, state)),
        num_steps=steps,
    )


def per_step(vae: pvae.StateSpaceVAE, x: torch.Tensor, seed: int) -> float:
    steps = int((~x.isnan()).all(-1).sum())
    return -float(pvae.elbo(vae, x, num_samples=1, seed=seed, progress=False).elbo.sum()) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which training ends")
    parser.add_argument("--passes", type=int, default=5000, help="through the training rows, at most")
    parser.add_argument(
        "--anneal", type=int, default=200, help="passes in which the weight of the divergence rises from .2"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="at first; it falls as the root of the passes"
    )
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--state", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=29)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", type=Path, help="begin with the weights of the newest checkpoint in this folder")
    parser.add_argument("--folder", type=Path, default=Path("build/jsb"))
    arguments = parser.parse_args()
    rolls, every = chorales(), 10
    valid, test = padded(rolls["valid"]), padded(rolls["test"])
    torch.manual_seed(arguments.seed)
    vae = model(max(map(len, rolls["train"])), arguments)
    vae.emission.initialize(torch.cat(rolls["train"]))
    if arguments.begin:
        saved = load_file(max(arguments.begin.glob("checkpoint-*.safetensors")))
        weights = {name.removeprefix("weights/"): value for name, value in saved.items() if name.startswith("weights/")}
        vae.load_state_dict(weights)
    average, started, spent, best = copy.deepcopy(vae), time.monotonic(), time.process_time(), [torch.inf, torch.inf]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: arguments.folder.parent / f"{arguments.folder.name}_{name}.safetensors" for name in ("average", "best")
    }
    is_begun = kept["average"].exists()
    if kept["best"].exists():
        average.load_state_dict(load_file(kept["best"]))
        best[:] = [per_step(average, x, 1) for x in (valid, test)]
    if is_begun:
        average.load_state_dict(load_file(kept["average"]))

    def tell(history: pvae.training.History) -> bool:
        nonlocal is_begun
        with torch.no_grad():
            for mean, own in zip(average.parameters(), vae.parameters(), strict=True):
                mean.lerp_(own, 0.1 if is_begun and every * len(history) > arguments.anneal else 1.0)
        is_begun = True
        if len(history) % 2 == 0:
            found = [round(per_step(average, x, 1), 4) for x in (valid, test)]
            if found < best:
                best[:] = found
                save_file(average.state_dict(), kept["best"])
            save_file(average.state_dict(), kept["average"])
            minutes = (time.process_time() - spent) / 60
            print(
                f"{every * len(history)} passes, {minutes:.1f} min of CPU: loss {history['loss'][-1]:.1f} per sequence, "
                f"validation {found[0]}, test {found[1]}; best {best}",
                flush=True,
            )
        return time.monotonic() - started > 60 * arguments.minutes

    def rate(progress: pvae.schedules.Progress) -> float:
        return arguments.learning_rate / (1 + every * progress.epoch / 100) ** 0.5

    history = pvae.fit(
        vae,
        OfLikeLength(rolls["train"], arguments.batch_size, every).loader(),
        epochs=arguments.passes // every,
        learning_rate=rate,
        weight_decay=arguments.weight_decay,
        beta=pvae.schedules.linear(0.2, 1.0, epochs=arguments.anneal / every) if arguments.anneal else 1.0,
        start_at_data=not arguments.begin,
        clip_norm=10.0,
        callbacks=[tell],
        checkpoint=arguments.folder,
        resume=True,
        checkpoint_minutes=2.0,
        seed=arguments.seed,
        progress=False,
        compile="trace",
    )
    print(history.engine, f"validation and test at the best validation value: {best}", flush=True)
    if kept["best"].exists():
        average.load_state_dict(load_file(kept["best"]))
        found = pvae.log_marginal(average, test, method=SMC(64), num_samples=4, seed=0, progress=False)
        steps = int((~test.isnan()).all(-1).sum())
        print(
            f"sequential Monte Carlo, 64 particles: {-float(found.log_marginal.sum()) / steps:.4f} per step of the test set"
        )


if __name__ == "__main__":
    main()
