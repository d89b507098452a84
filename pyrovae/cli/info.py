"""``pyrovae info``."""

from __future__ import annotations

from typing import Any

import pyrovae as pvae
from pyrovae.cli.options import RunFolder
from pyrovae.cli.output import say, show
from pyrovae.presets.options import kinds_in_words

UNITS = {
    **dict.fromkeys(("elbo", "kl", "reconstruction"), " nats per datum"),
    "bits_per_dim": " bits",
    "training_seconds": " s",
}


def info(run: RunFolder) -> None:
    """Print what is in a run: the spec, the data, the settings, the results, the versions."""
    config = pvae.files.Run.read(run).config
    for name in ("spec", "data", "settings", "results", "versions"):
        if config[name]:
            show(False, name, ["", ""], [(key, _shown(key, value)) for key, value in config[name].items()])
    if config["command"]:
        say(False, "command  " + " ".join(config["command"]))


def _shown(key: str, value: Any) -> str:
    """A value of a run, rounded, with its unit."""
    if words := kinds_in_words(value):
        return words
    unit = UNITS.get(key.removesuffix("_error").removesuffix("_range"), "")
    form, joint = (".2f", " to ") if "nats" in unit else (".4g", ", ")
    parts = value if isinstance(value, list) else [value]
    text = joint.join(format(part, form) if isinstance(part, float) else str(part) for part in parts)
    return text + (unit if isinstance(value, float | list) else "")
