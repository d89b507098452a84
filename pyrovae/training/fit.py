"""``fit``: train any model and guide by stochastic variational inference."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any

import torch
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.data import Batches
from pyrovae.errors import check_integer, check_positive, check_seed, refusal
from pyrovae.files import CheckpointStore
from pyrovae.objectives import CapacityELBO
from pyrovae.programs import Program, eval_mode
from pyrovae.programs.handlers import check_beta
from pyrovae.schedules import Progress, default_decay, default_epochs, default_rate
from pyrovae.training.checks import check_least, checked_loss
from pyrovae.training.engine import State
from pyrovae.training.history import History
from pyrovae.training.levels import engine_of, threads_of
from pyrovae.training.loop import Asked, Bar, Best, Epochs, Loop, Number, value_of
from pyrovae.training.optimizer import Factory, TorchOptimizer
from pyrovae.training.rows import divide, placed_rows
from pyrovae.training.saving import checkpoints
from pyrovae.training.start import OWN_RATE, single_numbers, start_likelihoods
from pyrovae.training.traced import Traced
from pyrovae.training.validation import BATCH_SIZE, Evaluation, are_many

TURN = threading.RLock()
"""Held while a program trains: Pyro has one stack of handlers for all threads, so that threads that train take turns."""
UNSEEDED = (
    "seed={seed} covers split and training; the first weights came from torch's random state when the VAE was built: "
    "build_vae(seed={seed}) makes them reproducible, too"
)
"""The note on a VAE that was built without the seed that its training has."""


def fit(
    program: Any,
    data: Any,
    covariates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    # the rows
    variant: str | None = None,
    transform: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
    batch_size: int = 128,
    drop_last: bool = False,
    # how long
    epochs: int | None = None,
    steps: int | None = None,
    start_at_data: bool = True,
    # the loss
    objective: ELBO | None = None,
    beta: Number | Mapping[str, Number] = 1.0,
    # the optimizer
    optimizer: Factory | None = None,
    learning_rate: Number | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    # held-out rows
    validation: Any = None,
    patience: int | None = None,
    keep_best: bool | None = None,
    # the run
    callbacks: Sequence[Callable[[History], Any]] = (),
    seed: int | None = None,
    device: str | torch.device | None = None,
    compile: str | bool = "auto",  # noqa: A002
    precision: str | None = None,
    progress: bool | Callable[[History], object] | None = None,
    max_skipped: int = 10,
    # files
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
        transform: ``transform(x, generator)`` on each training batch, e.g. a fresh binarization; the default is the data's own.
            It draws from torch's global generator, which is seeded for each step.
        batch_size: rows in a batch; rows that fill one batch keep their order.
        drop_last: leave an incomplete last batch out.
        epochs: passes through the data; or give ``steps``. By default 50, and up to 500 where that is fewer than 5,000 steps.
        steps: optimizer steps in all, instead of ``epochs``.
        start_at_data: fit the constants of likelihoods that are as they were made to the data, before the first step
            (:meth:`pyrovae.conditionals.Conditional.initialize`).
        objective: an ELBO of Pyro or pyrovae, left as it was; by default ``TraceEnum_ELBO()`` where a latent is marked to be
            enumerated, ``ImportanceWeightedELBO(20)`` for a ``MissingnessModel``, else ``Trace_ELBO()``.
        beta: weight of the divergence: a number, a schedule (any callable of a ``Progress``), or a mapping by site.
        optimizer: takes the parameters and returns a torch optimizer; the default is a fused Adam.
        learning_rate: a number or a schedule. By default one cycle over all steps, whose peak falls with their number; left
            to ``optimizer`` and ``scheduler`` where one is given. By default, too, single learned numbers (a common scale)
            learn ten times as fast as weights, and Adam averages squared gradients over a twentieth of all steps.
        scheduler: takes the torch optimizer and returns a ``torch.optim.lr_scheduler``, stepped each step.
        weight_decay: decoupled weight decay of the default optimizer.
        clip_norm: clip the norm of the per-row gradient to this.
        validation: rows in memory (no loader), or the fraction of the training rows to hold out; its ELBO at beta 1 is
            computed each epoch. Its covariates come with it: ``as_data(x, covariates)``. With few rows it guards against
            overfitting.
        patience: stop after this many epochs without a better validation ELBO, and keep the best weights.
        keep_best: end with the weights of the best validation ELBO; by default where there are validation rows.
        callbacks: called with the history after each epoch; a true answer stops training. They may change parameters in place.
        seed: the source of all randomness here; the global generator is then left as it was. By default one number is drawn
            from the global generator. The first weights are older than this call: give the seed to ``build_vae``, too.
        device: where to train; the modules are moved there.
        compile: how steps are taken, with the same noise. False runs the program at every step. ``"trace"`` replays a graph of
            loss and gradients, traced once for each shape of a batch. ``"compile"`` makes one compiled call of each step, kept
            on disk for the next time (it needs a C++ compiler, and some ten seconds at first). ``"auto"`` runs the program in
            trainings of fewer than 300 steps, on other devices than the processor, and on incomplete batches where these are
            few; else it replays a graph, takes a compiled step that is on disk, and compiles in the background where replayed
            steps would go on for another 45 seconds. A program that cannot be traced is run: the history's ``engine`` says why.
        precision: ``"bf16"`` rounds the factors of products of matrices in the steps to bfloat16, and adds up in single
            precision, where the processor multiplies these faster (AMX), and changes nothing elsewhere; log densities, moments
            and the history's columns are as exact as before.
        progress: True shows a bar, False none; by default there is one on a terminal. A function is called with the history
            after each epoch in place of the bar; unlike a callback it must leave the program alone.
        max_skipped: steps in a row whose loss or gradient may be non-finite (they are skipped) before an error is raised.
        checkpoint: a folder for checkpoints; it must hold none yet unless ``resume``.
        resume: go on from the newest checkpoint in it, if there is one; data, parts, objective, beta, optimizer and the other
            settings must be those of the run that was saved.
        checkpoint_steps: write a checkpoint every so many steps.
        checkpoint_minutes: write a checkpoint every so many minutes.

    Returns:
        The table of training, one row an epoch. Ctrl-C returns what there is so far.

    Raises:
        TypeError: an argument of the wrong kind; an optimizer whose state cannot be saved.
        ValueError: an argument out of range, a wrong objective, or data that the program refuses.
        FloatingPointError: too many steps in a row were not finite; the weights are those before them.
        OSError: the checkpoint folder cannot be written, or another process writes into it.

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
    if epochs is not None and steps is not None:
        raise refusal("give epochs or steps, not both", "steps")
    if resume and checkpoint is None:
        raise refusal("resume needs checkpoint, the folder that holds the checkpoints", "resume")
    epochs, steps = (n if n is None else check_integer(name, n) for name, n in (("epochs", epochs), ("steps", steps)))
    best, asked = Best(patience, keep_best, validation is not None), Asked(callbacks)
    check_seed(seed)
    check_positive("weight_decay", weight_decay, or_zero=True)
    unseeded = seed is not None and getattr(program, "weights_seed", seed) is None
    program = Program.of(program)
    numbers = _numbers(beta, learning_rate, objective)
    factory = _factory(optimizer, weight_decay, learning_rate, scheduler)
    with TURN, _randomness(seed) as noise, ExitStack() as stack:
        data, validation = divide(program, data, covariates, variant, transform, validation, seed)
        rows, place = placed_rows(program, data, covariates, batch_size, drop_last, device, noise)
        held_out = None if validation is None else Batches(validation, BATCH_SIZE, False, None, False, place)
        loss = checked_loss(program, objective, rows, held_out, _start(numbers, rows.steps))
        stack.enter_context(eval_mode(loss.parts))  # every part's own mode is restored
        check_least(loss.train(), rows)
        total = steps or (epochs or default_epochs(rows.steps)) * rows.steps
        if optimizer is None and learning_rate is None and scheduler is None:
            numbers["learning_rate"], own = default_rate(total), single_numbers(loss.announced.trained)
            factory = functools.partial(factory, own=own, betas=(0.9, default_decay(total)))
        stack.enter_context(threads_of(loss))
        trained = TorchOptimizer(factory, loss.announced.trained.values(), clip_norm=clip_norm, scheduler=scheduler)
        engine = stack.enter_context(
            engine_of(compile, precision, loss, rows, total, max_skipped, is_asked=bool(callbacks))
        )
        bar = stack.enter_context(Bar(total, progress))
        replays = isinstance(engine, Traced) and (not engine.is_quiet or are_many(total / rows.steps))
        evaluation = Evaluation(loss, rows, held_out, 0 if seed is None else seed, replays, bool(callbacks))
        stack.callback(evaluation.close)
        engine.beside = functools.partial(evaluation.compile, total / rows.steps, waits=compile == "compile")
        loop = Loop(
            state=State(loss.announced.tensors, trained, noise, loss.like.new_zeros((), dtype=torch.float32)),
            engine=engine,
            rows=rows,
            numbers=numbers,
            total=total,
            history=History(variant=None if rows.data is None else rows.data.variant),
            evaluation=evaluation,
            callbacks=[Epochs(), best, bar, asked],
        )
        if checkpoint is not None:
            store = CheckpointStore(checkpoint, every_steps=checkpoint_steps, every_minutes=checkpoint_minutes)
            given: dict[str, Any] = {
                "beta": beta,
                "learning_rate": learning_rate,
                "scheduler": scheduler,
                "clip_norm": clip_norm,
            }
            given |= {"batch_size": batch_size, "drop_last": drop_last, "seed": seed, "precision": precision}
            stack.enter_context(checkpoints(loop, store, best, held_out, resume, **given))
        if unseeded and loop.state.step == 0:
            loop.history.notes.append(UNSEEDED.format(seed=seed))
        if start_at_data and loop.state.step == 0:
            start_likelihoods(program, rows, noise)
        return loop.run()


def _numbers(beta: Number | Mapping[str, Number], learning_rate: Number | None, objective: Any) -> dict[str, Number]:
    """Beta (``beta`` or ``beta/<site>``), learning rate and capacity by name: numbers or schedules."""
    betas = {f"beta/{site}": value for site, value in beta.items()} if isinstance(beta, Mapping) else {"beta": beta}
    if not betas:
        raise refusal("beta names no site, got an empty mapping: write beta=1.0 or {'z': 0.5}", "beta")
    for value in betas.values():
        if not callable(value):
            check_beta(value)
    capacity = objective.schedule if isinstance(objective, CapacityELBO) else None
    others = {"learning_rate": learning_rate, "capacity": capacity}
    return {**betas, **{name: number for name, number in others.items() if number is not None}}


def _start(numbers: Mapping[str, Number], steps_per_epoch: int) -> dict[str, float]:
    """The numbers that the loss begins with; without the betas, where they are 1 throughout."""
    is_one = numbers.get("beta") == 1.0
    at = Progress.at(0, steps_per_epoch)
    return {name: value_of(n, at) for name, n in numbers.items() if not (is_one and name.startswith("beta"))}


def _factory(
    optimizer: Factory | None, weight_decay: float, learning_rate: Number | None, scheduler: Any
) -> Callable[..., Optimizer]:
    """The function that makes the torch optimizer, at the learning rate with which it begins."""
    if not (learning_rate is None or callable(learning_rate) or isinstance(learning_rate, (int, float))):
        message = f"learning_rate must be a number or a schedule, got {learning_rate!r}"
        raise refusal(message, "learning_rate", TypeError)
    if isinstance(learning_rate, (int, float)) and not 0 < learning_rate < math.inf:
        raise refusal(f"learning_rate must be positive and finite, got {learning_rate}", "learning_rate")
    if callable(learning_rate) and scheduler is not None:
        raise refusal(
            "both learning_rate (a schedule) and scheduler set the learning rate: give one of them", "scheduler"
        )
    if isinstance(optimizer, PyroOptim) or (optimizer is not None and not callable(optimizer)):
        raise refusal(
            f"optimizer takes a function of the parameters that returns a torch optimizer, got {type(optimizer).__name__}: "
            "write functools.partial(torch.optim.Adam, lr=1e-3)",
            "optimizer",
            TypeError,
        )
    if optimizer is not None and weight_decay:
        raise refusal(
            "weight_decay is for the default optimizer: give it to your own, partial(AdamW, weight_decay=...)",
            "weight_decay",
        )
    make = optimizer or functools.partial(AdamW if weight_decay else Adam, fused=True, weight_decay=weight_decay)

    def begun(parameters: Iterable[Any], own: Collection[int] = (), **options: Any) -> Optimizer:
        groups = [[p for p in parameters if (id(p) in own) is alone] for alone in (False, True)] if own else []
        rates = {0: 1.0, 1: OWN_RATE}
        made = make(
            [{"params": g, "rate": rates[n]} for n, g in enumerate(groups) if g] if own else parameters, **options
        )
        if isinstance(learning_rate, (int, float)):
            for group in made.param_groups:
                group["lr"] = learning_rate
        return made

    return begun


@contextmanager
def _randomness(seed: int | None) -> Iterator[int]:
    """The seed of all noise, by default drawn from the global generator, which is left as it is otherwise.

    Pyro's warning of a loss that is not finite is silent: such a step is skipped, counted and explained.
    """
    noise = int(torch.randint(2**62, ())) if seed is None else seed
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered")
        torch.manual_seed(noise)
        yield noise
