"""A trained VAE into a folder."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from pyrovae import __version__
from pyrovae.files import remove_leftovers, save_file_atomic, save_tree, write_json_atomic
from pyrovae.files.config import CONFIG, DTYPES, FIGURE, FORMAT, HISTORY, MODEL, VERSION, digest, sealed
from pyrovae.presets.build import build_vae
from pyrovae.presets.spec import Spec

_PACKAGES = ("torch", "pyro-ppl", "numpy", "safetensors")


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
    """Save a trained VAE into a folder; `load` gives it back.

    Each file is written atomically and ``config.json``, which holds the others' checksums, last: a run that was cut
    short is no run, never a wrong one.

    Args:
        vae: A VAE of `pyrovae.presets.build_vae`, or any module of one's own; then `load` needs ``into=``.
        folder: The run's folder; made if need be.
        history: What `pyrovae.fit` returned.
        data: The `pyrovae.data.Data` trained on; its name, variant, split's seed, shape and fingerprint are kept, not its
            rows.
        figures: Matplotlib figures, or the bytes of PNG files, by name (letters, digits, ``_`` and ``-``).
        seed: The seed of the training.
        command: The command that made it, such as ``sys.argv``.
        settings: How it was trained: anything that JSON can hold.
        results: Numbers to remember, such as the test ELBO in nats per datum.
        overwrite: Replace a run that stands there.

    Returns:
        The folder.

    Raises:
        TypeError: `vae` is no module.
        ValueError: There is a run already, a figure's name is not plain, or the settings are no JSON.
        OSError: The folder cannot be written; nothing is half written.

    Example:
        >>> import tempfile
        >>> import pyrovae as pvae
        >>> vae = pvae.build_vae(5, likelihood="poisson", latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pvae.load(pvae.save(vae, folder)).encode(torch.ones(3, 5)).shape
        torch.Size([3, 2])
    """
    folder = Path(folder)
    _check_save(vae, folder, figures or {}, overwrite)
    spec = _spec_of(vae)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "spec": None if spec is None else spec.to_json(),
        "class": f"{type(vae).__module__}.{type(vae).__qualname__}",
        "dtype": _dtype_of(vae),
        "data": None if data is None else _describe(data),
        "seed": seed,
        "command": None if command is None else [str(part) for part in command],
        "settings": _plain(settings or {}),
        "results": _plain(results or {}),
        "versions": {"pyrovae": __version__, "python": platform.python_version(), **_versions()},
    }
    json.dumps(config, allow_nan=False)
    remove_leftovers(folder)
    paths = [save_tree(folder / MODEL, _state_of(vae), "model")]
    if history is not None:
        paths.append(save_file_atomic(folder / HISTORY, history.to_text().encode()))
    paths += [_save_figure(folder, name, figure) for name, figure in (figures or {}).items()]
    files = {path.relative_to(folder).as_posix(): digest(path) for path in paths}
    write_json_atomic(folder / CONFIG, sealed({**config, "files": files}))
    return folder


def _check_save(vae: nn.Module, folder: Path, figures: Mapping[str, Any], overwrite: bool) -> None:
    if not isinstance(vae, nn.Module):
        raise TypeError(
            f"expected a VAE or another torch module, got {type(vae).__name__}: a pair of functions keeps its "
            "parameters in Pyro's store; save pyro.get_param_store().get_state() by pyrovae.files.save_tree"
        )
    for name in figures:
        if not FIGURE.fullmatch(f"figures/{name}.png"):
            raise ValueError(f"a figure's name has letters, digits, _ and - only (at most 100), got {name!r}")
    if (folder / CONFIG).exists() and not overwrite:
        raise ValueError(f"{str(folder)!r} holds a run already: choose another folder, or write overwrite=True")


def _spec_of(vae: nn.Module) -> Spec | None:
    """The spec, if what it builds is what stands here."""
    spec = getattr(vae, "spec", None)
    if not isinstance(spec, Spec):
        return None
    again = build_vae(spec, seed=0).to(DTYPES.get(_dtype_of(vae)))
    if _outline(again) == _outline(vae):
        return spec
    warnings.warn(
        "this VAE is no longer what build_vae made of its spec (a part was changed), so it is saved as a composition of "
        "your own: load it with pyrovae.load(folder, into=vae)",
        stacklevel=3,
    )
    return None


def _outline(vae: nn.Module) -> tuple[Any, str, dict[str, tuple[torch.Size, torch.dtype]]]:
    return vae.name, repr(vae), {name: (value.shape, value.dtype) for name, value in vae.state_dict().items()}


def _dtype_of(vae: nn.Module) -> str:
    floating = [value.dtype for value in vae.state_dict().values() if value.is_floating_point()]
    return str(floating[0] if floating else torch.get_default_dtype()).removeprefix("torch.")


def _state_of(vae: nn.Module) -> dict[str, Any]:
    """The state, each tensor in row-major order, so that other readers of the file find the usual shapes."""
    return {n: v.contiguous() if isinstance(v, Tensor) else v for n, v in vae.state_dict().items()}


def _describe(data: Any) -> dict[str, Any]:
    return {
        "name": data.name,
        "variant": data.variant,
        "split": data.split,
        "seed": data.seed,
        "rows": len(data),
        "event_shape": _plain(data.event_shape),
        "fingerprint": data.fingerprint(),
    }


def _plain(value: Any) -> Any:
    """The value as JSON has it: tuples as lists, numbers that are not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _save_figure(folder: Path, name: str, figure: Any) -> Path:
    def draw(file: BinaryIO) -> None:
        figure.savefig(file, format="png", bbox_inches="tight")

    return save_file_atomic(folder / "figures" / f"{name}.png", figure if isinstance(figure, bytes) else draw)
