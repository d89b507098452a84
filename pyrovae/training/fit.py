"""``fit``: train any model and guide by stochastic variational inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.data import Data
from pyrovae.files import CheckpointStore
from pyrovae.programs import Program
from pyrovae.programs import beta as beta_handler
from pyrovae.schedules import Progress
from pyrovae.training.atoms import warn_of_atoms
from pyrovae.training.history import History
from pyrovae.training.loop import Loop, Number, Plan, value_of
from pyrovae.training.optimizer import Factory, TorchOptimizer
from pyrovae.training.rehearsal import check_beta_sites
from pyrovae.training.saving import Saver
from pyrovae.training.setup import (
    bar_of,
    betas_by_site,
    check_arguments,
    divide,
    placed,
    placed_source,
    quiet_about_nan,
    randomness,
    rehearse_on,
    training_mode,
)
from pyrovae.training.step import Step
from pyrovae.training.validation import Evaluation
from pyrovae.training.weights import Weights


def fit(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    variant: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    drop_last: bool = False,
    transform: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
    objective: ELBO | None = None,
    beta: Number | Mapping[str, Number] = 1.0,
    optimizer: Factory | None = None,
    learning_rate: Number | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    validation: Any = None,
    patience: int | None = None,
    keep_best: bool | None = None,
    callbacks: Sequence[Callable[[History], Any]] = (),
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    max_skipped: int = 10,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float | None = 1.0,
) -> History:
    r"""Train a program by stochastic variational inference, on gradients and losses per row of the data.

    .. math::
        \mathcal{L}_\beta = \frac1N \sum_i \mathbb{E}_{q(z_i \mid x_i)}\bigl[\log p(x_i \mid z_i)\bigr]
        - \beta\, \mathrm{KL}\bigl(q(z_i \mid x_i)\,\|\,p(z_i)\bigr)

    Args:
        program: anything with ``.model`` and ``.guide``, a tuple ``(model, guide)``, or a ``pyro.infer.SVI``.
        data: a tensor, array, DataFrame, scipy CSR matrix, :class:`~pyrovae.data.Data`, a dict or tuple of these, or a torch
            ``Dataset`` or ``DataLoader``; NaN is missing.
        covariates: for rows in memory a tensor for each name; for a loader the names of the parts that are covariates.
        variant: what kind of numbers bare arrays are, printed beside every result.
        epochs: passes through the data; or give ``steps``. The default is 50 epochs.
        steps: optimizer steps in all, instead of ``epochs``.
        batch_size: rows in a batch; rows that fill one batch keep their order.
        drop_last: leave an incomplete last batch out.
        transform: ``transform(x, generator)`` on each training batch, e.g. a fresh binarization; the default is the data's own.
        objective: an ELBO of Pyro or pyrovae; ``Trace_ELBO()`` by default.
        beta: weight of the divergence: a number, a schedule (any callable of a ``Progress``), or a mapping by site.
        optimizer: takes the parameters and returns a torch optimizer; the default is a fused Adam.
        learning_rate: a number or a schedule; 1e-3 by default, and left to ``optimizer`` where one is given.
        scheduler: takes the torch optimizer and returns a ``torch.optim.lr_scheduler``, stepped each step.
        weight_decay: decoupled weight decay of the default optimizer.
        clip_norm: clip the norm of the per-row gradient to this.
        validation: data, or the fraction of the training rows to hold out; its ELBO at beta 1 is computed each epoch. Its
            covariates come with it: ``as_data(x, covariates)``.
        patience: stop after this many epochs without a better validation ELBO, and keep the best weights.
        keep_best: end with the weights of the best validation ELBO; by default where ``patience`` is given.
        callbacks: called with the history after each epoch; a true answer stops training.
        seed: the source of all randomness here; the global generator is then left as it was. By default the global one.
        device: where to train; a module is moved there.
        progress: True shows a bar, False none; by default there is one on a terminal.
        max_skipped: steps in a row whose loss or gradient may be non-finite (they are skipped) before an error is raised.
        checkpoint: a folder for checkpoints; it must hold none yet unless ``resume``.
        resume: go on from the newest checkpoint in it, if there is one.
        checkpoint_steps: write a checkpoint every so many steps.
        checkpoint_minutes: write a checkpoint every so many minutes.

    Returns:
        The table of training, one row an epoch. Ctrl-C returns what there is so far.

    Raises:
        TypeError: an argument of the wrong kind; an optimizer whose state cannot be saved.
        ValueError: an argument out of range, a wrong objective, or data that the program refuses.
        FloatingPointError: too many steps in a row were not finite; the weights are those before them.

    >>> import pyro.distributions as dist, pyrovae as pvae, torch
    >>> vae = pvae.VAE(
    ...     prior=pvae.standard_normal(2),
    ...     likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(2, (8,)), event_shape=5),
    ...     posterior=pvae.Factorized(dist.Normal, pvae.MLP(5, (8,)), event_shape=2),
    ... )
    >>> history = fit(vae, torch.ones(32, 5), epochs=3, seed=0)
    >>> len(history), history.ended
    (3, 'finished')
    """
    check_arguments(
        epochs,
        steps,
        patience,
        keep_best,
        validation,
        max_skipped,
        learning_rate,
        scheduler,
        optimizer,
        resume,
        checkpoint,
        callbacks,
    )
    source_program, betas = Program.of(program), betas_by_site(beta)
    placed(source_program.owners, device)
    with randomness(seed), ExitStack() as modes, quiet_about_nan():
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        data, validation = divide(data, covariates, variant, transform, validation, seed)
        source, rows, place = placed_source(source_program, data, covariates, batch_size, drop_last, device, generator)
        plan = Plan(
            total_steps=steps if steps is not None else (50 if epochs is None else epochs) * len(source),
            steps_per_epoch=len(source),
            beta=betas,
            learning_rate=1e-3 if learning_rate is None and optimizer is None else learning_rate,
            patience=patience,
            keep_best=patience is not None if keep_best is None else keep_best,
            callbacks=tuple(callbacks),
        )
        objective = Trace_ELBO() if objective is None else objective
        beta_is_one = all(number == 1.0 for number in betas.values())
        rehearsal = rehearse_on(source_program, source, objective, beta_is_one)
        announced = rehearsal.announced
        modes.enter_context(training_mode(announced.modules.values()))
        check_beta_sites(betas, rehearsal)
        warn_of_atoms(rehearsal.model_trace)
        evaluation = Evaluation(
            source_program,
            announced.modules.values(),
            rows,
            validation,
            place,
            0 if seed is None else seed,
            whole=len(source) == 1,
        )
        evaluation.check()
        tensors = _tensors(betas, len(source))
        step = Step(
            source_program,
            (lambda bound: bound) if beta_is_one else functools.partial(_scaled, tensors=tensors),
            objective,
            _optimizer(announced.trained, optimizer, weight_decay, clip_norm, scheduler),
            announced.modules.values(),
            announced.trained,
            max_skipped,
        )
        loop = Loop(
            plan,
            step,
            source,
            tensors,
            Weights(announced.tensors),
            evaluation,
            History(variant=variant if rows is None else rows.variant),
            bar_of(plan.total_steps, progress),
            objective,
        )
        if checkpoint is None:
            return loop.run()
        store = CheckpointStore(checkpoint, every_steps=checkpoint_steps, every_minutes=checkpoint_minutes)
        saver = Saver(store, _settings(loop, rows, batch_size, seed))
        saver.check(loop)
        with store:
            _attach(loop, saver, resume)
            return loop.run()


def _tensors(betas: Mapping[str | None, Number], steps_per_epoch: int) -> dict[str | None, Tensor]:
    start = Progress.at(0, steps_per_epoch)
    return {site: torch.tensor(value_of(number, start), dtype=torch.float64) for site, number in betas.items()}


def _scaled(program: Program, tensors: Mapping[str | None, Tensor]) -> Program:
    weight = tensors[None] if None in tensors else {site: value for site, value in tensors.items() if site is not None}
    return Program(beta_handler(program.model, weight), beta_handler(program.guide, weight))


def _optimizer(
    trained: Mapping[str, Any],
    optimizer: Factory | None,
    weight_decay: float,
    clip_norm: float | None,
    scheduler: Callable[[Optimizer], LRScheduler] | None,
) -> TorchOptimizer:
    if optimizer is not None and weight_decay:
        raise ValueError(
            "weight_decay is for the default optimizer: give it to your own, partial(AdamW, weight_decay=...)"
        )
    factory = optimizer or functools.partial(AdamW if weight_decay else Adam, fused=True, weight_decay=weight_decay)
    return TorchOptimizer(factory, trained.values(), clip_norm=clip_norm, scheduler=scheduler)


def _settings(loop: Loop, rows: Data | None, batch_size: int, seed: int | None) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was saved."""
    return {
        "batch_size": batch_size,
        "steps_per_epoch": loop.plan.steps_per_epoch,
        "seed": seed,
        "objective": type(loop.objective).__name__,
        "shapes": {name: list(parameter.shape) for name, parameter in loop.step.names.items()},
        "data": None if rows is None else rows.fingerprint(),
    }


def _attach(loop: Loop, saver: Saver, resume: bool) -> None:
    if resume:
        saver.resume(loop)
        if loop.state.step > loop.plan.total_steps:
            raise ValueError(
                f"the checkpoint has {loop.state.step} steps, more than the {loop.plan.total_steps} asked for (epochs= or "
                f"steps=): ask for at least {-(-loop.state.step // loop.plan.steps_per_epoch)} epochs"
            )
    else:
        saver.store.require_empty()
    loop.checkpoint = saver
