"""What a report is about: a run, with its VAE and its data where they can be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pyrovae import data as data_room
from pyrovae.data import Data
from pyrovae.data.files import of_file
from pyrovae.data.kinds import kind_words
from pyrovae.errors import refusal
from pyrovae.files import Run
from pyrovae.graphs import VAE
from pyrovae.presets import Reading, load
from pyrovae.presets.options import options_of


@dataclass(frozen=True)
class Subject:
    """A run and what belongs to it.

    Attributes:
        run: what the folder says.
        name: what the page calls it.
        vae: the VAE; None where it is a composition that no file can rebuild.
        data: the data with its splits; None where it cannot be found.
        missing: why something is None, in words.
    """

    run: Run
    name: str
    vae: Any
    data: Data | None
    missing: tuple[str, ...]

    @property
    def kept(self) -> Mapping[str, Any]:
        """What the run remembers of its data; empty where it remembers nothing."""
        return self.run.config["data"] or {}

    @property
    def results(self) -> Mapping[str, Any]:
        """The numbers that the run remembers."""
        return _mapping(self.run.config.get("results"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was trained, as far as the run remembers."""
        return _mapping(self.run.config.get("settings"))

    @property
    def data_name(self) -> str:
        """The data's name with its variant."""
        name, variant = self.kept.get("name"), self.variant
        return f"{Path(str(name)).name if name else 'unnamed data'}{f' ({variant})' if variant else ''}"

    @property
    def variant(self) -> str | None:
        """The data's variant."""
        return self.kept.get("variant")

    @property
    def covariates(self) -> tuple[str, ...]:
        """The names of the data's covariates."""
        return tuple((None if self.data is None else self.data.covariates) or ())

    @property
    def num_parameters(self) -> int | None:
        """How many numbers were trained."""
        return None if self.vae is None else sum(parameter.numel() for parameter in self.vae.parameters())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def data_of(run: Run, path: str | None = None) -> Data:
    """The data that a run was trained on, loaded anew and compared with what the run remembers.

    Args:
        run: the run.
        path: where they lie now, if they are no longer where they were.

    Raises:
        ValueError: the run does not say, or the data are no longer the same.
        FileNotFoundError: the data are nowhere.
    """
    kept = run.config["data"]
    if kept is None:
        raise ValueError(f"{run.folder} does not say what data it was trained on: save it with data=")
    source = path or str(run.config["settings"].get("data", kept["name"]))
    try:
        rows = data_room.load(source, kept["variant"], seed=kept["seed"], **reading_of(run))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; if they lie elsewhere now, say where by data") from None
    check_rows(run, rows)
    return rows


def reading_of(run: Run, is_later: bool = False) -> dict[str, Any]:
    """How the run's table was read, as keywords of ``pyrovae.data.load``: its columns have the kinds that they had.

    Args:
        run: the run.
        is_later: for other files, of which the columns that the VAE reads are needed alone.
    """
    settings, kept = run.config["settings"], run.config["data"] or {}
    plain: dict[str, Any] = {name: settings.get(name) for name in options_of(Reading)}
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in plain.items() if v is not None}
    reading = Reading(**given)
    kinds: dict[str, Any] = {"kinds": kind_words(kept["kinds"], kept.get("levels") or {})} if kept.get("kinds") else {}
    if is_later and kinds:
        reading = Reading(covariates=reading.covariates, header=reading.header, missing=reading.missing)
        kinds["only"] = [*kept["columns"], *reading.covariates]
    return replace(reading, kinds=()).for_load(has_kinds=False) | kinds


def columns_of(run: Run) -> Data:
    """A row that stands for the run's training rows: their columns, levels, kinds and shape, by which others are matched."""
    kept = run.config["data"] or {}
    return Data(
        torch.zeros(1, *kept["event_shape"]),
        columns=None if kept.get("columns") is None else tuple(kept["columns"]),
        levels={name: tuple(names) for name, names in (kept.get("levels") or {}).items()},
        kinds=kept.get("kinds") or {},
        covariates={name: torch.zeros(1) for name in run.config["settings"].get("covariates") or ()} or None,
    )


def rows_of(run: Run, source: str) -> Data:
    """All rows of a data set or file, in the variant and with the columns, levels and kinds of the run's training rows.

    Raises:
        ValueError: the columns are others, or a level is new; or the run does not say what data it was trained on.
    """
    kept = run.config["data"]
    if kept is None:
        raise ValueError(f"{run.folder} does not say what data it was trained on: save it with data=")
    variant, reading = kept["variant"] if source == kept["name"] else None, reading_of(run, is_later=True)
    rows = data_room.load(source, variant, seed=kept["seed"] or 0, **reading)
    with of_file(Path(source), reading.get("header")):
        return columns_of(run).matched(rows.drawn(kept["seed"] or 0))


def check_rows(run: Run, rows: Data) -> None:
    """Refuse rows that are not those of a run.

    Raises:
        ValueError: the training rows differ.
    """
    kept = run.config["data"]
    if kept is not None and rows.train.fingerprint() != kept["fingerprint"]:
        was = "" if rows.name == kept["name"] else f", once {kept['name']!r},"
        raise ValueError(f"the data {rows.name!r}{was} is no longer what {run.folder} was trained on: restore the file")


_DIFFERENCES = {"name": "data", "variant": "variant", "seed": "split seed", "rows": "number of training rows"} | {
    "kinds": "kinds of columns"
}


def require_same_rows(kept: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare runs whose training rows differ, and say in what; ``kept`` is by run what it remembers of its data.

    Raises:
        ValueError: the training rows differ.
    """
    if len({data.get("fingerprint") for data in kept.values()}) < 2:
        return
    found = {word: {run: str(data.get(name)) for run, data in kept.items()} for name, word in _DIFFERENCES.items()}
    differing = [
        f"{word} ({', '.join(f'{run}: {value}' for run, value in values.items())})"
        for word, values in found.items()
        if len(set(values.values())) > 1
    ]
    raise ValueError(
        f"the runs were trained on different rows or variants, so nothing compares them; they differ in "
        f"{', '.join(differing) or 'the rows themselves: the file was changed between them'}. Train them on the same data, "
        "variant and --split-seed; --seed may differ"
    )


def read_subject(folder: Path, name: str | None = None, vae: VAE | None = None, data: Data | None = None) -> Subject:
    """A run in a folder, with its VAE and its data where they are given or can be found.

    Raises:
        FileNotFoundError: there is no run.
        DamagedError: a file of it was altered or is truncated.
        ValueError: the data given are not those of the run.
    """
    run = Run.read(folder)
    missing: list[str] = []
    if vae is None and run.spec is None:
        missing.append(
            "The run is a composition of one's own, which no file can rebuild: what needs the VAE is left out. Build it "
            "as it was built, fill it by pyrovae.load(folder, into=vae), and write the report with vae=."
        )
    elif vae is None:
        vae = load(folder)
    if data is not None:
        if not isinstance(data, Data) or not {"train", "test"} <= set(data.parts):
            raise refusal(
                f"data must be rows with a train and a test part, got {data if isinstance(data, Data) else type(data).__name__}: "
                "write pyrovae.data.Data(x, covariates=covariates, parts={'train': slice(0, 800), 'test': slice(800, 1000)})",
                "data",
            )
        check_rows(run, data)
    else:
        try:
            data = data_of(run)
        except (OSError, ValueError, TypeError, LookupError) as error:
            missing.append(f"The data cannot be had, so what needs rows is left out: {error}")
    return Subject(run, name or folder.resolve().name, vae, data, tuple(missing))
