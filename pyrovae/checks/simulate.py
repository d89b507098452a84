"""Data simulated from a model, with the latents that made them; and programs run at latents that are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Covariates = Mapping[str, Tensor]


class Simulated(NamedTuple):
    """Rows simulated from a model: the data as the program takes them, and the latents by site."""

    x: Any
    latents: dict[str, Tensor]
    size: int

    def __len__(self) -> int:
        return self.size


class Substitute(Messenger):
    """Sets latent sites to given values, whatever the program would draw; the sites stay latent."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


def take(tree: Any, index: Tensor | slice) -> Any:
    """The same rows of every tensor in a tensor, tuple or dict; None stays None.

    >>> take({"a": torch.arange(3)}, slice(1, 3))
    {'a': tensor([1, 2])}
    """
    return None if tree is None else tree_map(lambda leaf: leaf[index], tree)


def num_rows(x: Any) -> int:
    """The number of rows of the data, whatever their structure.

    Raises:
        ValueError: no tensor in it, or their rows differ.
    """
    rows = {leaf.shape[0] for leaf in tree_flatten(x)[0] if isinstance(leaf, Tensor) and leaf.ndim}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(
            f"expected data with one positive number of rows along the first axis, got {sorted(rows) or 'none'}"
        )
    return rows.pop()


def simulate(model: Callable, size: int, x: Any = None, covariates: Covariates | None = None) -> Simulated:
    """Draws ``size`` rows of latents and data from a model, never from its guide.

    A model with an argument ``size`` is called without data. Any other is called on rows of ``x``, which give shapes
    alone: its observations are released. Rows of ``x`` and of the covariates are used in turn, again and again.

    Args:
        model: a Pyro program with one plate ``data``.
        size: the number of rows.
        x: data whose shapes are taken; needed where the model cannot be called without.
        covariates: a tensor of rows for each name.

    Raises:
        ValueError: the model needs an ``x`` to be called, or its data sites cannot be told from its latents.
    """
    covariates = None if covariates is None else {n: v[torch.arange(size) % len(v)] for n, v in covariates.items()}
    given = {} if covariates is None else {"covariates": covariates}
    with torch.no_grad():
        if _runs_without_data(model):
            trace = poutine.trace(model).get_trace(size=size, **given)
            return _split(trace, x if x is not None else trace.nodes["_RETURN"]["value"], size, None)
        if x is None:
            raise ValueError(
                "this model cannot be called without data: pass x=, whose shapes are used and "
                "whose values are not, or write def model(x=None, size=None)"
            )
        template = take(x, torch.arange(size) % num_rows(x))
        released = poutine.trace(poutine.uncondition(model)).get_trace(*_positional(template), **given)
        names = [n for n, site in released.nodes.items() if site["type"] == "sample" and _was_observed(site)]
        return _split(released, template, size, names)


def _runs_without_data(model: Callable) -> bool:
    target = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(target).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return not needed and any(p.name == "size" for p in parameters)


def _positional(x: Any) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _was_observed(site: dict[str, Any]) -> bool:
    return bool(site["infer"].get("was_observed", False))


def _split(trace: poutine.Trace, like: Any, size: int, names: list[str] | None) -> Simulated:
    sites = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
    if names is None:
        names = _returned(sites, trace.nodes["_RETURN"]["value"])
    latents = {n: v for n, v in sites.items() if n not in names}
    return Simulated(_like(like, {n: sites[n] for n in names}), latents, size)


def _returned(sites: dict[str, Tensor], returned: Any) -> list[str]:
    leaves = tree_flatten(returned)[0]
    names = [name for leaf in leaves for name, value in sites.items() if value is leaf]
    if not names or len(names) != len(leaves):
        raise ValueError(
            "the data sites cannot be told from the latents: let the model return the data that it samples "
            '(return pyro.sample("x", ..., obs=x)), or pass x= to a model without an argument size'
        )
    return names


def _like(like: Any, sites: dict[str, Tensor]) -> Any:
    """Simulated sites in the structure of the program's argument: by name in a dict, else in order."""
    leaves, spec = tree_flatten(like)
    if isinstance(like, Mapping) and set(sites) <= set(like):
        return {**like, **sites}
    if len(leaves) != len(sites):
        raise ValueError(
            f"the model has {len(sites)} data sites ({', '.join(sites)}) and its argument {len(leaves)} tensors: give "
            "the data as a dict from site names to tensors"
        )
    return tree_unflatten(list(sites.values()), spec)


__all__ = ["Covariates", "Simulated", "Substitute", "num_rows", "simulate", "take"]
