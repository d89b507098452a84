"""How ``pyrovae train`` trains: its options, and their values for each data set where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pyrovae import schedules
from pyrovae.errors import check_word
from pyrovae.presets.options import Option

PRECISIONS = ("highest", "high", "medium")


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of one training: what the command line offers, and what a run's settings keep.

    >>> Training(epochs=3, beta_warm_up=2).for_fit()["beta"]
    linear(0.0, 1.0, epochs=2)
    """

    variant: Annotated[str | None, Option("variant of the data; the first that `pyrovae data` lists")] = None
    split_seed: Annotated[
        int, Option("seed of the split and of data drawn once; runs that differ in the other seed can be compared")
    ] = 0
    seed: Annotated[int, Option("seed of first weights, order and noise")] = 0
    epochs: Annotated[int, Option("passes through the data")] = 50
    batch_size: Annotated[int, Option("rows in a batch")] = 128
    learning_rate: Annotated[float, Option("peak of the learning rate's one cycle")] = 1e-3
    warm_up: Annotated[float, Option("share of training up to that peak, before a cosine takes it to zero")] = 0.1
    weight_decay: Annotated[float, Option("decoupled weight decay")] = 0.0
    clip_norm: Annotated[float | None, Option("clip the gradient's norm to this")] = None
    beta: Annotated[float, Option("weight of the divergence")] = 1.0
    beta_warm_up: Annotated[float, Option("epochs over which beta climbs from 0")] = 0.0
    patience: Annotated[int | None, Option("stop after so many epochs without a better validation ELBO")] = None
    device: Annotated[str | None, Option("device to train on, such as cuda")] = None
    matmul_precision: Annotated[
        str,
        Option("precision of training's matrix products; medium is bfloat16 where the processor has it", PRECISIONS),
    ] = "medium"

    def __post_init__(self) -> None:
        check_word("matmul_precision", self.matmul_precision, PRECISIONS)

    def for_fit(self) -> dict[str, Any]:
        """The keywords of ``fit`` that these options stand for; ``fit`` checks them."""
        same = ("epochs", "batch_size", "weight_decay", "clip_norm", "patience", "seed", "device")
        warm_up = self.beta_warm_up
        return {name: getattr(self, name) for name in same} | {
            "learning_rate": schedules.one_cycle(self.learning_rate, warm_up=self.warm_up, epochs=max(self.epochs, 1)),
            "beta": schedules.linear(0.0, self.beta, epochs=warm_up) if warm_up else self.beta,
        }


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "digits": {"hidden": (128, 128), "epochs": 60, "batch_size": 64, "learning_rate": 3e-3},
    "mnist": {"latent_dim": 40, "hidden": (400, 400), "normalization": "batch"}
    | {"epochs": 55, "batch_size": 256, "learning_rate": 4e-3},
    "freyfaces": {"latent_dim": 20, "hidden": (256, 256), "epochs": 200, "batch_size": 64},
    "files": {"hidden": (128, 128)},
}
"""By data set the fields of `Spec` and `Training` that differ from their defaults; ``files`` are the user's own."""
