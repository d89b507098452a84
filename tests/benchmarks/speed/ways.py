"""The same variational autoencoder trained in different ways; each gives a function of epochs that returns seconds a step.

One hidden layer each way with softplus units, Bernoulli pixels, a normal guide, Adam at 1e-3, batches in a new order each epoch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))


class Size(NamedTuple):
    """Widths of the networks, rows in a batch and in all; the threads at which the size is looked at by default."""

    data_dim: int
    hidden: int
    latent_dim: int
    batch_size: int
    rows: int
    threads: int

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.rows // self.batch_size


SIZES = {"digits": Size(64, 64, 8, 64, 1792, 1), "mnist": Size(784, 400, 50, 128, 25_600, 2)}
Run = Callable[[int], float]
"""From a number of epochs to the seconds of a step, by the clock that it was made with."""


def rows_of(size: Size) -> np.ndarray:
    """Random binary rows."""
    return (np.random.default_rng(0).random((size.rows, size.data_dim)) < 0.3).astype(np.float32)


def timed(run: Callable[[int], object], size: Size, clock: Callable[[], float]) -> Run:
    """A training timed from outside."""

    def seconds(epochs: int) -> float:
        started = clock()
        run(epochs)
        return (clock() - started) / (epochs * size.steps)

    return seconds


def vae_of(size: Size) -> Any:
    """The variational autoencoder that ``pyrovae.fit`` trains."""
    import pyro.distributions as dist
    import torch
    from torch import nn

    import pyrovae as pvae

    torch.manual_seed(0)
    mlp = functools.partial(pvae.MLP, activation=nn.Softplus)
    return pvae.VAE(
        pvae.standard_normal(size.latent_dim),
        pvae.Factorized(dist.Bernoulli, mlp(size.latent_dim, (size.hidden,)), event_shape=size.data_dim),
        pvae.Factorized(dist.Normal, mlp(size.data_dim, (size.hidden,)), event_shape=size.latent_dim),
    )


def by_fit(size: Size, clock: Callable[[], float], **options: object) -> Run:
    """``pyrovae.fit``, the second half of a training: its history's columns and its audits included, the preparation not."""
    import torch

    import pyrovae as pvae
    from pyrovae.training import loop

    loop.time = SimpleNamespace(monotonic=clock)  # the history's seconds by this clock
    vae = vae_of(size)
    x = torch.from_numpy(rows_of(size))
    given = {"batch_size": size.batch_size, "seed": 0, "progress": False, "learning_rate": 1e-3, **options}

    def seconds(epochs: int) -> float:
        history = pvae.fit(vae, x, epochs=2 * epochs + 1, **given)
        wanted = {"trace": "traced", "compile": "compiled"}.get(str(options.get("compile")), "eager")
        if not history.engine.startswith(wanted):
            raise RuntimeError(history.engine)
        return (history["seconds"][-1] - history["seconds"][epochs]) / (epochs * size.steps)

    return seconds


def networks(size: Size) -> tuple[object, object]:
    """Encoder and decoder of plain torch."""
    from pyro_example import Decoder, Encoder

    return Encoder(size.data_dim, size.hidden, size.latent_dim), Decoder(size.latent_dim, size.hidden, size.data_dim)


def by_torch(size: Size, clock: Callable[[], float], compiled: bool = False) -> Run:
    """A loop by hand: the closed form of nothing, one draw, one fused Adam."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    encoder, decoder = networks(size)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer, x = torch.optim.Adam(parameters, lr=1e-3, fused=True), torch.from_numpy(rows_of(size))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        mean, scale = encoder(batch)
        noise = torch.randn_like(mean)
        z = mean + scale * noise
        logits = decoder.last(nn.functional.softplus(decoder.first(z)))
        log_ratio = 0.5 * (noise.square() - z.square()) + scale.log()
        reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
        return (reconstruction - log_ratio.sum()) / len(batch)

    loss = torch.compile(loss) if compiled else loss

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(size.batch_size):
                optimizer.zero_grad()
                loss(x[rows]).backward()
                optimizer.step()

    return timed(run, size, clock)


def by_example(size: Size, clock: Callable[[], float]) -> Run:
    """Pyro's own example."""
    import torch
    from pyro_example import train

    x = torch.from_numpy(rows_of(size))
    return timed(lambda epochs: train(x, size.batch_size, epochs, size.hidden, size.latent_dim), size, clock)


def by_numpyro(size: Size, clock: Callable[[], float], whole: bool = True) -> Run:
    """NumPyro, a whole epoch in one compiled loop over rows that lie with the program; or a compiled call for each step."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.optim import Adam

    encode = stax.serial(
        stax.Dense(size.hidden),
        stax.Softplus,
        stax.FanOut(2),
        stax.parallel(stax.Dense(size.latent_dim), stax.serial(stax.Dense(size.latent_dim), stax.Exp)),
    )
    decode = stax.serial(stax.Dense(size.hidden), stax.Softplus, stax.Dense(size.data_dim))

    def model(batch: jax.Array) -> None:
        net = numpyro.module("decoder", decode, (size.batch_size, size.latent_dim))
        with numpyro.plate("data", size.batch_size):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([size.latent_dim]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=batch)

    def guide(batch: jax.Array) -> None:
        net = numpyro.module("encoder", encode, (size.batch_size, size.data_dim))
        with numpyro.plate("data", size.batch_size):
            mean, scale = net(batch)
            numpyro.sample("z", dist.Normal(mean, scale).to_event(1))

    svi, x = SVI(model, guide, Adam(1e-3), Trace_ELBO()), jnp.asarray(rows_of(size))
    state = svi.init(jax.random.PRNGKey(0), x[: size.batch_size])

    @jax.jit
    def epoch(state: object, key: jax.Array) -> tuple[object, jax.Array]:
        order = jax.random.permutation(key, size.rows)

        def step(number: int, carried: tuple) -> tuple:
            state, total = carried
            rows = jax.lax.dynamic_slice_in_dim(order, number * size.batch_size, size.batch_size)
            state, loss = svi.update(state, x[rows])
            return state, total + loss

        return jax.lax.fori_loop(0, size.steps, step, (state, jnp.zeros(())))

    step = jax.jit(svi.update)

    def steps(state: object, seed: int) -> tuple[object, jax.Array]:
        order = np.random.default_rng(seed).permutation(size.rows)[: size.steps * size.batch_size]
        for rows in order.reshape(size.steps, -1):
            state, loss = step(state, x[rows])
        return state, loss

    def run(epochs: int) -> None:
        nonlocal state
        for number in range(epochs):
            state, loss = epoch(state, jax.random.PRNGKey(number)) if whole else steps(state, number)
            loss.block_until_ready()

    return timed(run, size, clock)


def by_pythae(size: Size, clock: Callable[[], float]) -> Run:
    """pythae's own training pipeline."""
    import logging
    import tempfile

    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    encoder, decoder = networks(size)

    class Encode(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = encoder

        def forward(self, x: torch.Tensor) -> ModelOutput:
            mean, scale = self.net(x.reshape(len(x), -1))
            return ModelOutput(embedding=mean, log_covariance=2 * scale.log())

    class Decode(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = decoder

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z))

    config = VAEConfig(input_dim=(size.data_dim,), latent_dim=size.latent_dim, reconstruction_loss="bce")
    model, x = VAE(config, Encode(), Decode()), torch.from_numpy(rows_of(size))
    from pythae.data.datasets import BaseDataset

    rows = BaseDataset(x, torch.zeros(len(x)))

    def run(epochs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            training = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                per_device_train_batch_size=size.batch_size,
                learning_rate=1e-3,
                no_cuda=True,
                steps_saving=None,
            )
            BaseTrainer(model=model, train_dataset=rows, training_config=training).train()

    return timed(run, size, clock)


WAYS: dict[str, tuple[str, Callable[[Size, Callable[[], float]], Run], bool]] = {
    "numpyro": ("NumPyro, a jitted epoch", by_numpyro, True),
    "numpyro step": ("NumPyro, a jitted step", functools.partial(by_numpyro, whole=False), True),
    "compile": ('fit(compile="compile")', functools.partial(by_fit, compile="compile"), False),
    "bf16": ('fit(compile="compile"), bf16', functools.partial(by_fit, compile="compile", precision="bf16"), False),
    "trace": ('fit(compile="trace")', functools.partial(by_fit, compile="trace"), False),
    "fit": ("fit(compile=False)", functools.partial(by_fit, compile=False), False),
    "torch": ("torch by hand, fused Adam", by_torch, False),
    "torch.compile": ("torch by hand, torch.compile", functools.partial(by_torch, compiled=True), False),
    "example": ("Pyro's example", by_example, False),
    "pythae": ("pythae", by_pythae, True),
}
"""By name: the words of the table, the function, and whether it needs the peers' own environment."""
