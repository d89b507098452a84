"""What is refused before the first step: programs, objectives and rows that would train wrongly and without a word."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.elbo import ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from pyrovae.data import Batch, Batches, Data
from pyrovae.data.rows import leaves
from pyrovae.distributions.precise import check_exact
from pyrovae.errors import refusal
from pyrovae.missing import interior_point, numbered_rows, rows_text
from pyrovae.networks import check_covariates, least_rows
from pyrovae.objectives import CapacityELBO, FreeBitsELBO, ImportanceWeightedELBO
from pyrovae.programs import DATA, DryRun, Program, dry_run, eval_mode, foreign_names
from pyrovae.programs.dry_run import listening
from pyrovae.programs.program import unwrapped
from pyrovae.programs.sites import check_data_plate, data_sites, expanded, frame_of, has_parents_before, sites_of
from pyrovae.programs.supports import check_data, inside_support, is_about_parameters
from pyrovae.training.loss import Loss
from pyrovae.training.rows import Memory, Rows

ATOM_SHARE, ATOM_ROWS = 0.25, 20
_NO_SPREAD = frozenset({"loc", "df"})


def checked_loss(
    program: Program, objective: Any, rows: Rows, held_out: Batches | None, numbers: Mapping[str, float]
) -> Loss:
    """The loss of a program under an objective, after one run on the first batch and a look at all rows.

    Args:
        program: the program.
        objective: an ELBO; None takes ``TraceEnum_ELBO`` where a latent is marked to be enumerated, the importance-weighted
            bound of a graph that asks for several draws, else ``Trace_ELBO``.
        rows: the training rows.
        held_out: the validation rows.
        numbers: the betas and the capacity to begin with; without betas they are 1 throughout.
    """
    own = rows.loader if isinstance(rows, Memory) and rows.loader.data.transform is None else None
    if rows.data is not None:  # before an unknown code reaches a network
        _check_covariates(program.owners, rows.data)
        for module in (module for owner in program.owners for module in owner.modules()):
            if callable(check := getattr(module, "check_size", None)):  # a part that knows its training rows by number
                check(rows.num_rows)
    batch = rows.first()
    bound = program.on(batch.x, batch.covariates, rows.num_rows, batch.index)
    with listening(program), rows.numbered(batch):  # in eval mode, so that buffers stay as they are
        check_data(*bound)
    with pyro.validation_enabled(False):  # the steps skip, count and explain what is not finite
        found = dry_run(*bound)
    _check_program(found, len(batch.index))
    if program.sized:
        _check_size(found, rows.num_rows)
    _check_store(program, found)
    if objective is None:
        latents = [
            s for trace in (found.guide_trace, found.model_trace) for s in sites_of(trace) if not s["is_observed"]
        ]
        draws = max((getattr(owner, "training_draws", 1) for owner in program.owners), default=1)
        objective = Trace_ELBO() if draws == 1 else ImportanceWeightedELBO(draws)
        if any(s["infer"].get("enumerate") for s in latents):
            objective = TraceEnum_ELBO()
    _check_objective(objective, found, numbers, subsampled=rows.steps > 1)
    known = [
        site["name"] for site in sites_of(found.model_trace) if site["is_observed"] and inside_support(site) is not None
    ]
    loss = Loss(program, objective, found, rows.num_rows, numbers, checked=() if own is not None else known)
    with torch.random.fork_rng(), pyro.validation_enabled(True), eval_mode(loss.announced.modules.values()):
        try:  # with Pyro's own checks, which are off in the steps
            with FlopCounterMode(display=False) as counted:
                loss.by_objective(*loss.arguments(batch)[:3])
            loss.operations = counted.get_total_flops()
        except (ValueError, RuntimeError) as error:
            if isinstance(error, NotImplementedError) or (
                isinstance(error, ValueError) and not is_about_parameters(error)
            ):
                raise
    if rows.steps > 1:
        loss.indexed = _check_batches(loss, found, batch)
    support = _fixed_support(found, batch)
    for loader, name in ((own, ""), (held_out, "validation: ")):
        if loader is not None:
            _check_covariates(loss.announced.modules.values(), loader.data)
            _check_rows(program, loader, support, name)
    _warn_of_atoms(found)
    return loss


def _check_program(found: DryRun, rows: int) -> None:
    check_data_plate(sites_of(found.model_trace))
    frames = [frame for site in sites_of(found.model_trace) if (frame := frame_of(site))]
    other = [frame.size for frame in frames if frame.size != rows]
    if other:
        raise ValueError(
            f"the plate {DATA!r} holds {other[0]} rows of a batch of {rows}: do not subsample in the program; fit draws "
            "the batches (batch_size=), and gives a model that takes it the size of the whole data: "
            f"pyro.plate({DATA!r}, size, subsample=x)"
        )
    if not found.announced.trained:
        raise ValueError(
            "the program announces no parameter that requires a gradient, so nothing would train: call "
            "pyrovae.register(module) in the model or the guide, or unfreeze a part"
        )


def _check_size(found: DryRun, num_rows: int) -> None:
    """Refuse a program that takes ``size``, and whose plate over the data has another: each batch would pass for all rows."""
    if _scales_itself(found):
        return
    for function, trace in (("model", found.model_trace), ("guide", found.guide_trace)):
        for frame in filter(None, map(frame_of, sites_of(trace))):
            if (size := frame.full_size or frame.size) != num_rows:
                raise ValueError(
                    f"the {function} takes size, and its plate {DATA!r} does not use it: the plate stands for {size} rows where "
                    f"size={num_rows} was handed in, so that global latents would be counted once for each batch. Write "
                    f"pyro.plate({DATA!r}, size or len(x), subsample=torch.arange(len(x))) in model and guide, or give a "
                    "batch_size of all rows"
                )


def _check_store(program: Program, found: DryRun) -> None:
    """Refuse a program in place of whose modules Pyro's store holds others; warn where it goes on with another's numbers."""
    modules, parameters = foreign_names(program, found)
    remedy = "or call pyro.clear_param_store() if the program that used it before is no longer needed"
    if modules:
        raise ValueError(
            f"Pyro's parameter store holds another module under the name {modules[0]!r}, so that the one of this program would "
            f"not be trained: give pyro.module another name, write pyrovae.register(module) in its place, {remedy}"
        )
    if parameters:
        warnings.warn(
            f"Pyro's parameter store holds {', '.join(map(repr, parameters))} from another program: this training starts "
            f"from those numbers and changes them for both programs. Give the parameters other names, {remedy}",
            UserWarning,
            stacklevel=4,
        )


def _check_objective(objective: Any, found: DryRun, numbers: Mapping[str, float], *, subsampled: bool) -> None:
    """Refuse objectives and betas that would be silently wrong for this program; warn where one falls back silently."""
    betas = [name.partition("/")[2] for name in numbers if name.startswith("beta")]
    guide = {site["name"]: site for site in sites_of(found.guide_trace)}
    order = [[site["name"] for site in sites_of(trace)] for trace in (found.model_trace, found.guide_trace)]
    if isinstance(objective, type) or not isinstance(objective, ELBO):
        message = f"objective takes an instance of an ELBO, e.g. pyro.infer.Trace_ELBO(), got {objective!r}"
        raise refusal(message, "objective", TypeError)
    if isinstance(objective, JitTrace_ELBO):
        message = "JitTrace_ELBO cannot trace parameters that live in modules: use pyro.infer.Trace_ELBO()"
        raise refusal(message, "objective")
    if isinstance(objective, ReweightedWakeSleep | TraceTailAdaptive_ELBO):
        message = (
            f"{type(objective).__name__} has no single loss whose gradient is taken: use pyro.infer.SVI with it, or "
        )
        raise refusal(message + "fit with pyrovae.ImportanceWeightedELBO", "objective")
    if isinstance(objective, RenyiELBO) and (subsampled or betas):
        raise refusal(
            "pyro.infer.RenyiELBO takes plate and beta scales inside its logsumexp, which is a wrong bound under mini-batches "
            "or beta: use pyrovae.ImportanceWeightedELBO",
            "objective",
        )
    known = [name for name, site in guide.items() if frame_of(site) and not site["is_observed"]]
    unknown = [site for site in betas if site and site not in known]
    if unknown:  # it would silently train at beta 1
        message = f"beta names {unknown[0]!r}, which is no latent site per datum; there are: {', '.join(known)}"
        raise refusal(message, "beta")
    for site in sites_of(found.model_trace):
        name, enumerated = site["name"], site["infer"].get("enumerate") is not None and not site["is_observed"]
        if isinstance(objective, TraceEnum_ELBO) and betas and enumerated and name not in guide:
            raise refusal(
                f"site {name!r} is enumerated in the model alone, where beta other than 1 has no meaning: enumerate it in the "
                "guide, or train at beta=1",
                "beta",
            )
        if isinstance(objective, TraceMeanField_ELBO) and name in guide:
            try:
                kl_divergence(guide[name]["fn"], site["fn"])
                if not (isinstance(objective, CapacityELBO | FreeBitsELBO) or has_parents_before(name, *order)):
                    raise refusal(
                        f"the guide draws {name!r} before a latent that its prior may depend on (bottom-up), where the closed "
                        "form of TraceMeanField_ELBO is wrong: use Trace_ELBO(), or draw latents in the model's order",
                        "objective",
                    )
            except NotImplementedError:
                q, p = (type(getattr(fn, "base_dist", fn)).__name__ for fn in (guide[name]["fn"], site["fn"]))
                warnings.warn(
                    f"site {name!r} has no closed-form divergence between {q} and {p}: TraceMeanField_ELBO estimates it from "
                    "draws there, as Trace_ELBO does everywhere",
                    UserWarning,
                    stacklevel=4,
                )


def _check_batches(loss: Loss, found: DryRun, batch: Batch) -> bool:
    """Refuse programs for which a batch cannot stand for the whole data; whether the guide looks its rows up by ``index``."""
    outside = [s["name"] for s in sites_of(found.model_trace) if not s["is_observed"] and not frame_of(s)]
    if outside and not (loss.program.sized or loss.full_size or _scales_itself(found)):
        raise ValueError(
            f"the latent {outside[0]!r} lies outside the plate {DATA!r}, and the model takes no size: it would learn from "
            f"{len(batch.index)} rows at a time as if they were all. Write def model(x, size=None) with pyro.plate({DATA!r}, "
            "size or len(x), subsample=x), and the guide likewise, or give a batch_size of all rows"
        )
    follows = _row_parameters(loss, batch)
    if follows == "position":
        guide = unwrapped(loss.unweighted.guide)
        raise ValueError(
            f"{getattr(guide, '__name__', type(guide).__name__)} holds parameters for each row of a batch, and the next batch "
            "has other rows: let guide and model take index, the numbers of the batch's rows (loc[index], "
            f"pyro.plate({DATA!r}, size, subsample=index)), give a batch_size of all rows, or an amortized guide"
        )
    return follows == "index"


def _scales_itself(found: DryRun) -> bool:
    """Whether a data site is scaled up by more than its plates, by ``poutine.scale``."""
    for site in sites_of(found.model_trace):
        plates = math.prod((frame.full_size or frame.size) / frame.size for frame in site["cond_indep_stack"])
        if site["is_observed"] and frame_of(site) and float(torch.as_tensor(site["scale"]).max()) > 1.001 * plates:
            return True
    return False


def _row_parameters(loss: Loss, batch: Batch) -> str | None:
    """Whether the guide holds parameters for each row, found by the row's "position" in the batch or by its "index".

    The first and the last row are looked at: which entries of a parameter with as many entries as rows they depend on.
    Entries that stay where they are when the rows are reversed are no function of the data, as an embedding's would be.
    """
    rows = len(batch.index)
    tensors = [tensor for tensor in loss.announced.trained.values() if {rows, loss.num_rows} & set(tensor.shape)]
    if rows < 2 or not tensors:
        return None
    x, covariates = tree_map_only(Tensor, lambda leaf: leaf.flip(0), (batch.x, batch.covariates))
    reversed_rows, reversed_index = (
        Batch(batch.index, x, covariates),
        Batch(batch.index.flip(0), batch.x, batch.covariates),
    )
    with torch.random.fork_rng(), eval_mode(loss.announced.modules.values()), pyro.validation_enabled(False):
        here, there, indexed = (_entries(loss, some, tensors) for some in (batch, reversed_rows, reversed_index))
    for number, (first, last) in enumerate(here):
        if first and last and not first & last and there[number] == here[number]:
            return "position" if indexed[number] == here[number] else "index"
    return None


def _entries(loss: Loss, batch: Batch, tensors: list[Tensor]) -> list[tuple[set[int], ...]]:
    """For each tensor, the entries that the guide's latents of the batch's first row depend on, and those of its last."""
    program, args, kwargs, _ = loss.arguments(batch, weighted=False)
    trace = poutine.trace(program.guide).get_trace(*args, **kwargs)
    ends = [torch.zeros(()), torch.zeros(())]
    for site in sites_of(trace):
        if (frame := frame_of(site)) and not site["is_observed"]:
            density = site["fn"].log_prob(site["value"])
            numbers = expanded(density + site["value"].reshape(*density.shape, -1).sum(-1), site)
            ends = [end + numbers.select(frame.dim, place).sum() for end, place in zip(ends, (0, -1), strict=True)]
    found = []
    for end in ends:
        gradients = torch.autograd.grad(end, tensors, retain_graph=True, allow_unused=True) if end.requires_grad else ()
        found.append([set() if g is None else set(g.flatten().nonzero()[:, 0].tolist()) for g in gradients])
    return list(zip(*found, strict=True))


def check_least(loss: Loss, rows: Rows) -> None:
    """Refuse a batch of one row under batch norm in train mode, before the first step rather than after the first epoch."""
    if rows.least < max((least_rows(module) for module in loss.announced.modules.values()), default=1):
        remedy = (
            f"and {rows.num_rows} rows leave one at the end of an epoch: write drop_last=True, or another batch_size"
        )
        if rows.num_rows == rows.least:
            remedy = "and there is no other row: give more rows, or leave batch norm out"
        raise refusal(f"batch norm cannot normalize a batch of {rows.least} row, {remedy}", "batch_size")


def _check_covariates(modules: Iterable[nn.Module], data: Data) -> None:
    for module in modules:
        check_covariates(module, data.covariates or {}, data.levels)


def _check_rows(program: Program, loader: Batches, support: Any, name: str) -> None:
    """Compare all rows with their support, a block at a time; where it is not known, the model does it."""
    data = loader.data
    size = max(1024, 2**22 // sum(math.prod(leaf.shape[1:]) for leaf, _ in leaves(data.x)))
    for rows in Batches(data, size, False, None, False, loader.place).along(None):
        with listening(program), numbered_rows(rows.index, len(data)):
            wrong = None
            if support is not None:
                filled = rows.x
                if not data.complete:
                    filled = torch.where(filled.isnan(), interior_point(support, filled), filled)
                if support.is_discrete:
                    check_exact(filled, f"{name}x")
                wrong = ~support.check(filled)
                if not wrong.any():
                    continue
            try:
                check_data(*program.on(rows.x, rows.covariates, len(data), rows.index))
            except ValueError as error:
                raise ValueError(f"{name}{error}") from error
            if wrong is not None:
                raise ValueError(f"{name}values outside the support {support} in {rows_text(wrong)}")


def _fixed_support(found: DryRun, batch: Batch) -> Any:
    """The support of the only data site, where it is the same for all rows and the site shows them as they are; or None."""
    sites = data_sites(found.model_trace)
    x = batch.x
    if len(sites) != 1 or batch.covariates or not isinstance(x, Tensor) or inside_support(sites[0]) is None:
        return None
    fn, value = sites[0]["fn"], sites[0]["value"]
    shown = value.shape == x.shape and fn.event_shape == x.shape[1:] and bool(((value == x) | x.isnan()).all())
    return fn.support if shown and _is_fixed(fn.support) else None


def _is_fixed(support: Any) -> bool:
    """Whether no bound of a support is a tensor of several numbers."""
    return all(
        _is_fixed(part) if hasattr(part, "check") else not isinstance(part, Tensor) or part.numel() == 1
        for part in vars(support).values()
    )


def _warn_of_atoms(found: DryRun) -> None:
    r"""Warn where more than a quarter of a column's rows are one value, and a density with a learned spread is fitted to it.

    .. math:: \log \mathcal{N}(x_j;\ x_j, \sigma^2) = -\log \sigma + \mathrm{const} \to \infty \quad (\sigma \to 0)

    There the bound has no maximum: it measures the smallest spread that the parametrization allows.

    Reference: Mattei & Frellsen 2018, Leveraging the exact likelihood of deep latent variable models, arXiv:1802.04826.
    """
    for site in sites_of(found.model_trace):
        base, mask, rows = site["fn"], None, site["value"]
        while isinstance(base, (torch.distributions.Independent, MaskedDistribution)):
            mask = base._mask if isinstance(base, MaskedDistribution) else mask
            base = base.base_dist
        if not site["is_observed"] or not torch.is_tensor(rows) or len(rows) < ATOM_ROWS or not _learns_spread(base):
            continue
        rows = rows if not torch.is_tensor(mask) else torch.where(mask, rows, torch.nan)
        rows = rows.detach().reshape(len(rows), -1)
        often = [rows.nanmedian(0).values, rows.nan_to_num(torch.inf).amin(0), rows.nan_to_num(-torch.inf).amax(0)]
        share = torch.stack([(rows == value).to(rows.dtype).mean(0) for value in often]).amax(0)
        columns, worst = int((share > ATOM_SHARE).sum()), int(share.argmax())
        if columns:
            warnings.warn(
                f"{columns} of {rows.shape[1]} columns of {site['name']!r} take one value in more than a quarter of the rows "
                f"(column {worst}: {float(share[worst]):.0%}), and {type(base).__name__} is a density with a learned spread: "
                "it grows without bound there, and ELBO and evidence measure the smallest spread allowed. Use a likelihood of "
                "masses (DiscretizedLogistic, DiscretizedNormal, Binomial, ...), leave such columns out, or fix the spread",
                UserWarning,
                stacklevel=4,
            )


def _learns_spread(base: Any) -> bool:
    """Whether it is a univariate density with a learned parameter other than its location."""
    support = getattr(base, "support", None)
    if support is None or support.is_discrete or base.event_shape:
        return False
    values = (getattr(base, name, None) for name in base.arg_constraints if name not in _NO_SPREAD)
    return any(torch.is_tensor(value) and value.requires_grad for value in values)
