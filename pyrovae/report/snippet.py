"""The code that brings a run back in Python: loaded, or trained anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyrovae.presets import Spec, Training
from pyrovae.presets.options import options_of
from pyrovae.report.subject import Subject, reading_of
from pyrovae.schedules import Schedule

_LOAD = """\
import pyrovae as pvae

run = pvae.files.Run.read({folder})
vae = pvae.load({folder})
{data}print(vae, run.config["results"])
"""
_HELD_OUT = """\
data = pvae.data.load({name}, {variant}, seed={split_seed}{reading})
test = pvae.elbo(vae, data.test, num_samples=10, seed=0)
print("test ELBO in nats per datum:", float(test.elbo.mean()))
"""
_FIT = """\
import pyrovae as pvae

data = pvae.data.load({name}, {variant}, seed={split_seed}{reading})
vae = pvae.build_vae(
{spec}    start=data.train,
    seed={seed},
)
history = pvae.fit(
    vae,
    data.train,
{options}    validation=data.validation,
    seed={seed},
)
print(history)
"""
_NUMBERS = ("batch_size", "weight_decay", "clip_norm", "beta", "patience")


def load_snippet(subject: Subject) -> str | None:
    """Code that loads the run, and its data where they have a name; None for a composition of one's own."""
    if subject.run.spec is None:
        return None
    held_out = _HELD_OUT.format(**_data(subject)) if subject.data is not None and _is_named(subject) else ""
    return _LOAD.format(folder=repr(str(subject.run.folder)), data=held_out)


def fit_snippet(subject: Subject) -> str | None:
    """Code that builds the same VAE from its spec and trains it anew; None where the run does not say enough."""
    if subject.run.spec is None or not _is_named(subject):
        return None
    spec = dict(vars(Spec.from_json(subject.run.spec)))
    written = f"    {spec.pop('event_shape')!r},\n"
    written += "".join(f"    {key}={value!r},\n" for key, value in spec.items())
    options = "".join(f"    {key}={value},\n" for key, value in _options(subject).items())
    return _FIT.format(spec=written, options=options, **_data(subject))


def _is_named(subject: Subject) -> bool:
    return isinstance(_name(subject), str) and isinstance(subject.kept.get("seed"), int)


def _name(subject: Subject) -> Any:
    return subject.settings.get("data", subject.kept.get("name"))


def _data(subject: Subject) -> dict[str, str]:
    kept, seed = subject.kept, subject.run.config.get("seed")
    split_seed = int(kept["seed"])
    return {
        "reading": "".join(f", {name}={value!r}" for name, value in reading_of(subject.run).items()),
        "name": repr(_name(subject)),
        "variant": repr(kept.get("variant")),
        "split_seed": repr(split_seed),
        "seed": repr(int(seed) if isinstance(seed, int) else split_seed),
    }


def _options(subject: Subject) -> dict[str, str]:
    """What `fit` was given, as far as the run says it: all that `pyrovae train` offers, or some numbers."""
    settings: Mapping[str, Any] = subject.settings
    if set(options_of(Training)) <= set(settings):
        given = Training(**{name: settings[name] for name in options_of(Training)}).for_fit()
    else:
        given = {name: settings.get(name) for name in ("epochs", "learning_rate", *_NUMBERS)}
    given["epochs"] = len(subject.run.history.get("epoch", ())) or given["epochs"]
    numbers = {name: repr(value) for name, value in given.items() if _is_number(value) and name != "seed"}
    plans = {name: f"pvae.schedules.{plan!r}" for name, plan in given.items() if isinstance(plan, Schedule)}
    return numbers | plans


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
