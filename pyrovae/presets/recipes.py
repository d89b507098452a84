"""How ``pyrovae train`` trains: its options, and their values for each data set where nothing else is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pyrovae import schedules
from pyrovae.errors import check_word, refusal
from pyrovae.presets.options import Option

PRECISIONS = ("highest", "high", "medium")
WARM_UP = 0.1
Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is read: what the command line offers, and what a run's settings keep.

    >>> Reading(kinds=("smoker=category", "share=bounded:0:1"), drop=("id",)).for_load()["kinds"]
    {'smoker': 'category', 'share': 'bounded:0:1'}
    """

    kinds: Annotated[
        Names,
        Option(
            "kinds of columns where the guess is wrong, as in smoker=category,size=ordinal:S:M:L,share=bounded:0:1 (a star "
            "stands for any text, as in q*=ordinal); others are real, positive, student_t, count and binary"
        ),
    ] = ()
    labels: Annotated[str | None, Option("column of labels, for figures and scores; the model does not see it")] = None
    covariates: Annotated[Names, Option("columns that encoder and decoder are given")] = ()
    drop: Annotated[Names, Option("columns to leave out")] = ()
    groups: Annotated[str | None, Option("column whose values keep rows together when the rows are split")] = None
    time: Annotated[str | None, Option("column of numbers or dates: the last rows are the test")] = None
    weights: Annotated[str | None, Option("column of how often each row counts in training")] = None
    header: Annotated[bool | None, Option("whether the first line holds names")] = None
    missing: Annotated[
        Names, Option("how missing entries are written, as in -99,? (empty cells and NA are missing)")
    ] = ()

    def for_load(self, has_kinds: bool = True) -> dict[str, Any]:
        """The keywords of ``pyrovae.data.load`` that these options stand for.

        Args:
            has_kinds: whether kinds are guessed where none is given: False for what is no table, or read as plain numbers.
        """
        kinds = {}
        for part in self.kinds:
            name, equals, kind = part.partition("=")
            if not (name and equals and kind):
                raise refusal(f"kinds are written column=kind, got {part!r}", "kinds")
            kinds[name] = kind
        given = {
            name: getattr(self, name)
            for name in ("labels", "covariates", "drop", "groups", "time", "weights", "header", "missing")
        }
        given = {name: value for name, value in given.items() if value not in (None, ())}
        return given | ({"kinds": kinds} if kinds or has_kinds else {})


@dataclass(frozen=True, kw_only=True)
class Training:
    """The options of one training: what the command line offers, and what a run's settings keep. None is left to ``fit``.

    >>> Training(epochs=3, beta_warm_up=2).for_fit()["beta"]
    linear(0.0, 1.0, epochs=2)
    """

    variant: Annotated[str | None, Option("variant of the data; the first that `pyrovae data` lists")] = None
    split_seed: Annotated[
        int, Option("seed of the split and of data drawn once; runs that differ in the other seed can be compared")
    ] = 0
    seed: Annotated[int, Option("seed of first weights, order and noise")] = 0
    epochs: Annotated[
        int | None,
        Option(
            "passes through the data: 50, or up to 500 where these are fewer than 5,000 steps; for images by their size"
        ),
    ] = None
    batch_size: Annotated[int, Option("rows in a batch")] = 128
    learning_rate: Annotated[
        float | None, Option("peak of the learning rate's one cycle: the lower, the more steps there are")
    ] = None
    warm_up: Annotated[
        float, Option("share of training up to a peak of your own, before a cosine takes it to zero")
    ] = WARM_UP
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
        if self.learning_rate is not None and self.epochs is None:
            raise refusal("a learning_rate of your own needs the length of its cycle: give epochs too", "epochs")
        if self.learning_rate is None and self.warm_up != WARM_UP:
            raise refusal("warm_up is the share of a cycle of your own: give learning_rate too", "learning_rate")

    def for_fit(self) -> dict[str, Any]:
        """The keywords of ``fit`` that these options stand for; ``fit`` checks them."""
        same = ("epochs", "batch_size", "weight_decay", "clip_norm", "patience", "seed", "device")
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        given["beta"] = schedules.linear(0.0, self.beta, epochs=self.beta_warm_up) if self.beta_warm_up else self.beta
        if self.learning_rate is not None and self.epochs is not None:
            given["learning_rate"] = schedules.one_cycle(
                self.learning_rate, warm_up=self.warm_up, epochs=max(self.epochs, 1)
            )
        return given


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "digits": {"hidden": (128, 128)},
    "mnist": {"latent_dim": 40, "hidden": (400, 400), "normalization": "batch"}
    | {"epochs": 55, "batch_size": 256, "learning_rate": 4e-3},
    "freyfaces": {"latent_dim": 20, "hidden": (256, 256)},
    "tables": {"hidden": (32,), "batch_size": 64, "learning_rate": 1e-2},
    "files": {"hidden": (128, 128)},
    "images": {"batch_size": 32},
}
"""By data set the fields of `Spec` and `Training` that differ from their defaults; tables, files and images are the user's."""
TABLE_STEPS = 2500
"""Steps that a table's training takes by default, unless its 50 epochs take more."""
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "tables": {"latent_dim": "half the columns (2 to 10)", "epochs": f"50 or more ({TABLE_STEPS:,} steps)"},
    "images": {"latent_dim": ""},
}
"""The defaults that depend on the data, in words; none where the meaning of the option says them."""
IMAGE_ENTRIES, IMAGE_STEPS = 1e8, 300
"""Entries that the training on a folder of images reads by default, which takes some minutes, and the fewest steps."""


def image_epochs(entries: int, rows: int, batch_size: int) -> int:
    """Epochs of a folder of images where nothing else is asked for: by their cost, at most as many as elsewhere.

    Args:
        entries: of one image: channels times height times width.
        rows: training rows.
        batch_size: rows in a batch.

    >>> image_epochs(3 * 32 * 32, 160, 32), image_epochs(3 * 64 * 64, 10_000, 32), image_epochs(3 * 256 * 256, 160, 32)
    (204, 1, 60)
    """
    per_epoch = math.ceil(rows / batch_size)
    steps = max(IMAGE_ENTRIES / (entries * min(batch_size, rows)), IMAGE_STEPS)
    return min(math.ceil(steps / per_epoch), schedules.default_epochs(per_epoch))
