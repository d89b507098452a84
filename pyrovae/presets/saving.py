"""A trained VAE into a folder."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrovae import __version__
from pyrovae.errors import refusal
from pyrovae.files import parts_of, replaced_run, save_file_atomic, save_state, write_json_atomic
from pyrovae.files.config import CONFIG, DTYPES, FIGURE, FORMAT, HISTORY, STATE, VERSION, digest, sealed
from pyrovae.presets.build import build_vae
from pyrovae.presets.spec import Spec

_PACKAGES = ("torch", "pyro-ppl", "numpy", "safetensors")
_DATA = ("name", "variant", "split", "seed", "event_shape", "columns", "levels", "kinds")


def save(
    vae: nn.Module,
    folder: str | os.PathLike[str],
    *,
    history: Any = None,
    data: Any = None,
    figures: Mapping[str, Any] | None = None,
    seed: int | None = None,
    command: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a trained VAE into a folder; ``load`` gives it back.

    The folder's run is replaced as a whole or not at all, on a full disk too; other files in the folder stay.

    Args:
        vae: a VAE of ``build_vae``, or any module of one's own; then ``load`` needs ``into=``.
        folder: the run's folder; made if need be.
        history: what ``fit`` returned.
        data: the :class:`~pyrovae.data.Data` trained on; its description is kept, not its rows.
        figures: matplotlib figures, or the bytes of PNG files, by name (letters, digits, ``_`` and ``-``).
        seed: the seed of the training.
        command: the command that made it, such as ``sys.argv``.
        settings: how it was trained: anything that JSON can hold.
        results: numbers to remember, such as the test ELBO in nats per datum.
        overwrite: replace a run that stands there.

    Returns:
        The folder.

    Raises:
        TypeError: ``vae`` is no module.
        ValueError: there is a run already, a figure's name is not plain, or the settings are no JSON.
        InUseError: another process writes into the folder.
        OSError: the folder cannot be written; nothing in it has changed.

    >>> import tempfile
    >>> import pyrovae as pvae
    >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pvae.load(pvae.save(vae, folder)).encode(torch.ones(3, 5)).shape
    torch.Size([3, 2])
    """
    if not isinstance(vae, nn.Module):
        raise refusal(
            f"expected a VAE or another torch module, got {type(vae).__name__}: a pair of functions keeps its "
            "parameters in Pyro's store; save pyro.get_param_store().get_state() by pyrovae.files.save_state",
            "vae",
            TypeError,
        )
    for name in figures or ():
        if not FIGURE.fullmatch(f"figures/{name}.png"):
            raise refusal(
                f"a figure's name has letters, digits, _ and - only (at most 100), got {name!r}", argument="figures"
            )
    dtypes = [value.dtype for value in vae.state_dict().values() if value.is_floating_point()]
    dtype = str(dtypes[0] if dtypes else torch.get_default_dtype()).removeprefix("torch.")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    spec = _spec_of(vae, dtype)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "spec": None if spec is None else spec.to_json(),
        "class": f"{type(vae).__module__}.{type(vae).__qualname__}",
        "parts": parts_of(vae),
        "dtype": dtype,
        "data": None if data is None else _plain({name: getattr(data, name) for name in _DATA}),
        "seed": seed,
        "command": None if command is None else [str(part) for part in command],
        "settings": _plain(settings or {}),
        "results": _plain(results or {}),
        "versions": {"pyrovae": __version__, "python": platform.python_version(), **versions},
    }
    if data is not None:
        read = {name for names in data.names().values() for name in names or ()} | {*(data.covariates or {})}
        levels = {name: own for name, own in config["data"]["levels"].items() if name in read}  # no ids of groups
        config["data"] |= {"levels": levels, "rows": len(data), "fingerprint": data.fingerprint()}
    json.dumps(config, allow_nan=False)
    with replaced_run(folder, overwrite) as staged:
        paths = [save_state(staged / STATE, dict(vae.state_dict()), "weights")]
        if history is not None:
            paths.append(save_file_atomic(staged / HISTORY, history.to_text().encode()))
        for name, figure in (figures or {}).items():
            drawn = figure if isinstance(figure, bytes) else partial(figure.savefig, format="png", bbox_inches="tight")
            paths.append(save_file_atomic(staged / "figures" / f"{name}.png", drawn))
        files = {path.relative_to(staged).as_posix(): digest(path) for path in paths}
        write_json_atomic(staged / CONFIG, sealed({**config, "files": files}))
    return Path(folder)


def _spec_of(vae: nn.Module, dtype: str) -> Spec | None:
    """The spec, if what it builds is what stands here."""
    spec = getattr(vae, "spec", None)
    if not isinstance(spec, Spec):
        return None
    again = build_vae(spec, seed=0).to(DTYPES.get(dtype))
    outlines = [
        (one.name, repr(one), {name: (value.shape, value.dtype) for name, value in one.state_dict().items()})
        for one in (again, vae)
    ]
    if outlines[0] == outlines[1]:
        return spec
    warnings.warn(
        "this VAE is no longer what build_vae made of its spec (a part was changed), so it is saved as a composition of "
        "your own: load it with pyrovae.load(folder, into=vae)",
        stacklevel=3,
    )
    return None


def _plain(value: Any) -> Any:
    """The value as JSON has it: tuples as lists, numbers that are not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
