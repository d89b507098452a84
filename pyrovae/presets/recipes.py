"""How ``pyrovae train`` trains: its options, and their values for each data set where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pyrovae import schedules
from pyrovae.presets.options import Option


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of one training: what the command line offers, and what a run's settings keep.

    >>> Training(epochs=3, beta_warm_up=2).for_fit()["beta"]
    linear(0.0, 1.0, epochs=2)
    """

    epochs: Annotated[int, Option("passes through the data")] = 50
    batch_size: Annotated[int, Option("rows in a batch")] = 128
    learning_rate: Annotated[float, Option("peak of the learning rate's one cycle")] = 1e-3
    warm_up: Annotated[
        float,
        Option("share of training over which the learning rate climbs to its peak; a cosine then takes it to zero"),
    ] = 0.1
    weight_decay: Annotated[float, Option("decoupled weight decay")] = 0.0
    clip_norm: Annotated[float | None, Option("clip the gradient's norm to this")] = None
    beta: Annotated[float, Option("weight of the divergence")] = 1.0
    beta_warm_up: Annotated[float, Option("epochs over which beta climbs from 0")] = 0.0
    patience: Annotated[int | None, Option("stop after so many epochs without a better validation ELBO")] = None
    seed: Annotated[int, Option("seed of first weights, order and noise")] = 0
    device: Annotated[str | None, Option("device to train on: cpu, cuda, ...")] = None
    matmul_precision: Annotated[
        str,
        Option(
            "precision of the matrix products in training; medium is bfloat16, faster where the processor has it",
            ("highest", "high", "medium"),
        ),
    ] = "medium"

    def for_fit(self) -> dict[str, Any]:
        """The keywords of ``fit`` that these options stand for."""
        same = ("epochs", "batch_size", "weight_decay", "clip_norm", "patience", "seed", "device")
        warm_up = self.beta_warm_up
        return {name: getattr(self, name) for name in same} | {
            "learning_rate": schedules.one_cycle(self.learning_rate, warm_up=self.warm_up, epochs=max(self.epochs, 1)),
            "beta": schedules.linear(0.0, self.beta, epochs=warm_up) if warm_up else self.beta,
        }


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "latent_dim": 10,
        "hidden": (128, 128),
        "epochs": 60,
        "batch_size": 64,
        "learning_rate": 3e-3,
    },
    "mnist": {
        "latent_dim": 40,
        "hidden": (400, 400),
        "normalization": "batch",
        "epochs": 55,
        "batch_size": 256,
        "learning_rate": 4e-3,
    },
    "freyfaces": {
        "latent_dim": 20,
        "hidden": (256, 256),
        "epochs": 200,
        "batch_size": 64,
        "learning_rate": 1e-3,
    },
    "files": {"latent_dim": 10, "hidden": (128, 128)},
}
"""By data set the fields of `Spec` and `Training` that differ from their defaults; ``files`` are the user's own."""
