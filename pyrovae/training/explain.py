"""Why a step is not finite: the first site, the rows and the parameter at which a program stops being finite."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine

from pyrovae.data import Batch
from pyrovae.missing import rows_text
from pyrovae.programs.sites import Site, sites_of
from pyrovae.programs.supports import check_data, is_about_parameters
from pyrovae.training.loss import Loss


def is_about_numbers(loss: Loss, error: Exception, batch: Batch) -> bool:
    """Whether an error of a step is what NaN runs into: a distribution whose parameters violate their constraints.

    Raises:
        ValueError: the data lie outside the support, which comes first.
    """
    program, args, kwargs, _ = loss.arguments(batch)
    if not is_about_parameters(error):
        try:
            with torch.no_grad(), pyro.validation_enabled(True), poutine.block():
                program.guide(*args, **kwargs)
                program.model(*args, **kwargs)
        except (ValueError, RuntimeError) as checked:
            error = checked
    if is_about_parameters(error):
        check_data(program, args, kwargs)
    return is_about_parameters(error)


def explain(loss: Loss, batch: Batch) -> str:
    """Say where a program stops being finite: the first such site with its rows, and the first such parameter.

    The gradient of the step is computed once more; it stays in the parameters.
    """
    program, args, kwargs, _ = loss.arguments(batch)
    state = torch.get_rng_state()
    with torch.no_grad(), pyro.validation_enabled(False):
        try:
            guide = poutine.trace(program.guide).get_trace(*args, **kwargs)
            model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(*args, **kwargs)
        except RuntimeError as error:
            found = [f"The program does not run: {str(error).splitlines()[0]}."]
        else:
            sites = (("guide", guide), ("model", model))
            found = [text for role, trace in sites for site in sites_of(trace) if (text := _bad_site(role, site))]
        torch.set_rng_state(state)
    with pyro.validation_enabled(False):
        try:
            value = loss(batch)
            if value.requires_grad:
                value.backward()
        except (ValueError, RuntimeError):  # said above
            pass
    parameters = loss.announced.trained
    bad = [f"The parameter {name!r} is not finite." for name, tensor in parameters.items() if not _finite(tensor)]
    bad += [
        f"The parameter {name!r} has a gradient that is not finite."
        for name, tensor in parameters.items()
        if tensor.grad is not None and not _finite(tensor.grad)
    ]
    where = found[0] if found else "Every site is finite."
    return f"{where} {bad[0] if bad else 'All parameters and their gradients are finite.'}"


def _bad_site(role: str, site: Site) -> str:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    for what, tensor in (("value", site["value"]), ("log density", log_prob)):
        if not _finite(tensor):
            where = f"{rows_text(~tensor.isfinite())} of the batch" if tensor.ndim else "its only value"
            return f"In the {role}, site {site['name']!r} has a {what} that is not finite in {where}."
    return ""


def _finite(tensor: Any) -> bool:
    return bool(torch.as_tensor(tensor).isfinite().all())
