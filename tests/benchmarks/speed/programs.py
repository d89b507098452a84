"""Milliseconds per training step of six other programs: ``fit`` at its levels, PyTorch by hand, and NumPyro.

    FOLDER/bin/python tests/benchmarks/speed/programs.py [--only hierarchy vamp ...] [--rounds 5]

FOLDER is the peers' environment that ``run.py --install`` makes; with an interpreter without NumPyro that way is left out. All
ways train in one process on one core, in alternation; the ratio is the median over rounds of a round's time to that of ``fit``
compiled. Networks, batches of 64 rows and Adam are the same in all ways. A convolutional pair, a GRU and a spline flow are not
written in NumPyro; by hand, the spline flow takes zuko's maps without Pyro.
"""

from __future__ import annotations

import os

os.environ |= {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "OMP_NUM_THREADS": "1"}
os.environ |= {"JAX_PLATFORMS": "cpu"}

import argparse
import functools
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import pyrovae as pvae
from pyrovae.conditionals.flow import import_zuko

ROWS, BATCH, DATA, HIDDEN, LATENTS, PSEUDO = 1792, 64, 64, 64, 8, 500
SHAPES = {"convolutions": (1, 28, 28), "gru": (8, 8)}
MLP = functools.partial(pvae.MLP, activation=nn.Softplus)
LOG_TWO_PI = math.log(2 * math.pi)


def rows_of(name: str) -> Tensor:
    """Random binary rows."""
    found = np.random.default_rng(0).random((ROWS, *SHAPES.get(name, (DATA,)))) < 0.3
    return torch.from_numpy(found.astype(np.float32))


def program_of(name: str) -> nn.Module:
    """The program that ``fit`` trains."""
    torch.manual_seed(0)
    shape = SHAPES.get(name, (DATA,))
    decoder: nn.Module = MLP(LATENTS, (HIDDEN,))
    encoder: nn.Module = MLP(DATA, (HIDDEN,))
    if name == "convolutions":
        encoder, decoder = pvae.ConvEncoder(shape, (16, 32)), pvae.ConvDecoder(LATENTS, (32, 16))
    if name == "gru":
        encoder, decoder = pvae.GRU(shape, HIDDEN), pvae.GRU(LATENTS, HIDDEN)
    likelihood = pvae.Factorized(dist.Bernoulli, decoder, event_shape=shape)
    if name == "hierarchy":
        likelihood = pvae.Factorized(dist.Bernoulli, MLP(16, (HIDDEN,)), event_shape=shape)
        upper = pvae.Factorized(dist.Normal, MLP(LATENTS, (HIDDEN,)), event_shape=16)
        first = pvae.Factorized(dist.Normal, encoder, event_shape=16)
        second = pvae.Factorized(dist.Normal, MLP(16, (HIDDEN,)), event_shape=LATENTS)
        return pvae.HierarchicalVAE([upper, pvae.standard_normal(LATENTS)], likelihood, [first, second])
    if name == "covariance":
        return pvae.VAE(pvae.standard_normal(LATENTS), likelihood, pvae.FullNormal(encoder, event_shape=LATENTS))
    if name == "spline":
        return pvae.VAE(pvae.standard_normal(LATENTS), likelihood, pvae.SplineFlow(encoder, event_shape=LATENTS))
    posterior = pvae.Factorized(dist.Normal, encoder, event_shape=LATENTS)
    prior = pvae.VampPrior(posterior, rows_of(name)[:PSEUDO]) if name == "vamp" else pvae.standard_normal(LATENTS)
    return pvae.VAE(prior, likelihood, posterior)


def by_fit(name: str, level: str | bool) -> Callable[[int], float]:
    """The seconds of a step in the second half of a training, see ``ways.py``."""
    program, x = program_of(name), rows_of(name)

    def seconds(epochs: int) -> float:
        given = {"batch_size": BATCH, "seed": 0, "progress": False, "learning_rate": 1e-3, "compile": level}
        history = pvae.fit(program, x, epochs=2 * epochs + 1, **given)
        if not history.engine.startswith({"trace": "traced", "compile": "compiled"}.get(str(level), "eager")):
            raise RuntimeError(history.engine)
        return (history["seconds"][-1] - history["seconds"][epochs]) / (epochs * (ROWS // BATCH))

    return seconds


# By hand


def net(*widths: int) -> nn.Sequential:
    """Linear maps with softplus units between."""
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Softplus())]
    return nn.Sequential(*layers[:-1])


class GRU(nn.Module):
    """A recurrent network from a sequence to a vector, or from a vector to a sequence."""

    def __init__(self, features: int, out: int, steps: int | None = None) -> None:
        super().__init__()
        self.first, self.gru = nn.Linear(features, HIDDEN), nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.last, self.steps = nn.Linear(HIDDEN, out), steps

    def forward(self, x: Tensor) -> Tensor:
        if self.steps is None:
            return self.last(self.gru(self.first(x))[0][:, -1])
        return self.last(self.gru(self.first(x)[:, None].expand(-1, self.steps, -1))[0])


def log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The log density of independent normals, by row."""
    return -(((z - mean) / scale).square() / 2 + scale.log() + LOG_TWO_PI / 2).sum(-1)


def halves(found: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation."""
    mean, scale = found.chunk(2, -1)
    return mean, softplus(scale)


def parts_by_hand(name: str) -> tuple[dict[str, nn.Module], Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Networks, and a function from rows to the log ratio of prior and posterior and the logits."""
    parts: dict[str, nn.Module] = {"encode": net(DATA, HIDDEN, 2 * LATENTS), "decode": net(LATENTS, HIDDEN, DATA)}
    if name == "convolutions":
        down = [nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Flatten()]
        up = [nn.Unflatten(1, (32, 7, 7)), nn.SiLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU()]
        parts["encode"] = nn.Sequential(*down, nn.Linear(32 * 49, 2 * LATENTS))
        parts["decode"] = nn.Sequential(nn.Linear(LATENTS, 32 * 49), *up, nn.ConvTranspose2d(16, 1, 4, 2, 1))
    if name == "gru":
        parts = {"encode": GRU(8, 2 * LATENTS), "decode": GRU(LATENTS, 8, 8)}
    if name == "hierarchy":
        parts = {"encode": net(DATA, HIDDEN, 32), "upward": net(16, HIDDEN, 2 * LATENTS)}
        parts |= {"downward": net(LATENTS, HIDDEN, 32), "decode": net(16, HIDDEN, DATA)}
    if name == "covariance":
        parts["encode"] = net(DATA, HIDDEN, LATENTS + LATENTS * (LATENTS + 1) // 2)
    if name == "spline":
        zuko = import_zuko()
        given = {"context": 32, "hidden_features": (64, 64), "activation": nn.SiLU, "shapes": ((8,), (8,), (7,))}
        autoregressive = functools.partial(
            zuko.flows.autoregressive.MaskedAutoregressiveTransform,
            univariate=zuko.transforms.MonotonicRQSTransform,
            **given,
        )
        parts["encode"] = net(DATA, HIDDEN, 2 * LATENTS + 32)
        parts["flow"] = nn.ModuleList(autoregressive(LATENTS) for _ in range(3))
    if name == "vamp":
        parts["pseudo"] = nn.ParameterList([nn.Parameter(rows_of(name)[:PSEUDO].clone())])
    rows, columns = torch.tril_indices(LATENTS, LATENTS)
    zeros, ones = torch.zeros(LATENTS), torch.ones(LATENTS)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        if name == "spline":
            mean, scale, features = parts["encode"](x).split((LATENTS, LATENTS, 32), -1)
            z = mean + softplus(scale) * torch.randn_like(mean)
            log_q = log_normal(z, mean, softplus(scale))
            for transform in parts["flow"]:
                z, growth = transform(features).call_and_ladj(z)
                log_q = log_q - growth
            return log_normal(z, zeros, ones) - log_q, parts["decode"](z)
        if name == "covariance":
            found = parts["encode"](x)
            lower = found.new_zeros(len(x), LATENTS, LATENTS)
            lower[:, rows, columns] = found[:, LATENTS:]
            diagonal = softplus(lower.diagonal(dim1=1, dim2=2))
            lower = lower.tril(-1) + torch.diag_embed(diagonal)
            noise = torch.randn(len(x), LATENTS)
            z = found[:, :LATENTS] + (lower @ noise[:, :, None])[..., 0]
            log_q = -(noise.square() + LOG_TWO_PI).sum(-1) / 2 - diagonal.log().sum(-1)
            return log_normal(z, zeros, ones) - log_q, parts["decode"](z)
        mean, scale = halves(parts["encode"](x))
        z = mean + scale * torch.randn_like(mean)
        log_q, log_p = log_normal(z, mean, scale), None
        if name == "vamp":
            means, scales = halves(parts["encode"](parts["pseudo"][0]))
            log_p = log_normal(z[:, None], means, scales).logsumexp(-1) - math.log(PSEUDO)
        elif name == "hierarchy":
            above, spread = halves(parts["upward"](z))
            top = above + spread * torch.randn_like(above)
            log_q = log_q + log_normal(top, above, spread)
            log_p = log_normal(top, zeros, ones) + log_normal(z, *halves(parts["downward"](top)))
        else:
            log_p = log_normal(z, zeros, ones)
        return log_p - log_q, parts["decode"](z)

    return parts, run


def by_torch(name: str) -> Callable[[int], float]:
    """A loop by hand with one fused Adam."""
    torch.manual_seed(0)
    parts, run = parts_by_hand(name)
    parameters = [parameter for part in parts.values() for parameter in part.parameters()]
    optimizer, x = torch.optim.Adam(parameters, lr=1e-3, fused=True), rows_of(name)

    def seconds(epochs: int) -> float:
        started = time.perf_counter()
        for _ in range(epochs):
            for rows in torch.randperm(ROWS).split(BATCH):
                batch = x[rows]
                optimizer.zero_grad()
                log_ratio, logits = run(batch)
                loss = binary_cross_entropy_with_logits(logits.view_as(batch), batch, reduction="sum") - log_ratio.sum()
                (loss / len(batch)).backward()
                optimizer.step()
        return (time.perf_counter() - started) / (epochs * (ROWS // BATCH))

    return seconds


# NumPyro


def by_numpyro(name: str) -> Callable[[int], float]:
    """A whole epoch in one jitted loop over rows that lie with the program."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.optim import Adam

    def module(called: str, inputs: int, outputs: int) -> Callable:
        layers = stax.serial(stax.Dense(HIDDEN), stax.Softplus, stax.Dense(outputs))
        return numpyro.module(called, layers, (BATCH, inputs))

    def normal(found: jax.Array) -> dist.Distribution:
        mean, scale = jnp.split(found, 2, -1)
        return dist.Normal(mean, jax.nn.softplus(scale)).to_event(1)

    standard = dist.Normal(0, 1).expand([LATENTS]).to_event(1)

    def prior() -> dist.Distribution:
        if name != "vamp":
            return standard
        pseudo = numpyro.param("pseudo", jnp.asarray(rows_of(name)[:PSEUDO].numpy()))
        parts = normal(module("encoder", DATA, 2 * LATENTS)(pseudo))
        return dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(PSEUDO)), parts)

    def model(batch: jax.Array) -> None:
        decode = module("decoder", 16 if name == "hierarchy" else LATENTS, DATA)
        down = module("downward", LATENTS, 32) if name == "hierarchy" else None
        law = prior()
        with numpyro.plate("data", BATCH):
            z = numpyro.sample("z", law) if down is None else None
            if down is not None:
                z = numpyro.sample("z1", normal(down(numpyro.sample("z2", standard))))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)

    def guide(batch: jax.Array) -> None:
        full = name == "covariance"
        width = {"covariance": LATENTS + LATENTS * (LATENTS + 1) // 2, "hierarchy": 32}.get(name, 2 * LATENTS)
        encode = module("encoder", DATA, width)
        up = module("upward", 16, 2 * LATENTS) if name == "hierarchy" else None
        with numpyro.plate("data", BATCH):
            found = encode(batch)
            if full:
                lower = jnp.zeros((BATCH, LATENTS, LATENTS)).at[:, *jnp.tril_indices(LATENTS)].set(found[:, LATENTS:])
                diagonal = jax.nn.softplus(jnp.diagonal(lower, axis1=1, axis2=2))
                lower = jnp.tril(lower, -1) + diagonal[:, :, None] * jnp.eye(LATENTS)
                numpyro.sample("z", dist.MultivariateNormal(found[:, :LATENTS], scale_tril=lower))
            elif up is not None:
                numpyro.sample("z2", normal(up(numpyro.sample("z1", normal(found)))))
            else:
                numpyro.sample("z", normal(found))

    svi, x = SVI(model, guide, Adam(1e-3), Trace_ELBO()), jnp.asarray(rows_of(name).numpy())
    state, steps = svi.init(jax.random.PRNGKey(0), x[:BATCH]), ROWS // BATCH

    @jax.jit
    def epoch(state: object, key: jax.Array) -> tuple[object, jax.Array]:
        order = jax.random.permutation(key, ROWS)

        def step(number: int, carried: tuple) -> tuple:
            state, total = carried
            state, loss = svi.update(state, x[jax.lax.dynamic_slice_in_dim(order, number * BATCH, BATCH)])
            return state, total + loss

        return jax.lax.fori_loop(0, steps, step, (state, jnp.zeros(())))

    def seconds(epochs: int) -> float:
        nonlocal state
        started = time.perf_counter()
        for number in range(epochs):
            state, loss = epoch(state, jax.random.PRNGKey(number))
            loss.block_until_ready()
        return (time.perf_counter() - started) / (epochs * steps)

    return seconds


WAYS: dict[str, Callable[[str], Callable[[int], float]]] = {
    "compile": functools.partial(by_fit, level="compile"),
    "trace": functools.partial(by_fit, level="trace"),
    "eager": functools.partial(by_fit, level=False),
    "torch": by_torch,
    "numpyro": by_numpyro,
}
IN_NUMPYRO = ("hierarchy", "vamp", "covariance")
PROGRAMS = ("hierarchy", "vamp", "covariance", "spline", "gru", "convolutions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in options.only:
        runs = {}
        for way, make in WAYS.items():
            try:
                if way != "numpyro" or name in IN_NUMPYRO:
                    runs[way] = make(name)
                    runs[way](1)
            except (ImportError, RuntimeError) as error:
                print(f"{name} by {way} does not run here: {error}", flush=True)
                del runs[way]
        times: dict[str, list[float]] = {way: [] for way in runs}
        for number in range(options.rounds):
            for way in runs if number % 2 else reversed(runs):
                times[way].append(1e3 * runs[way](4))
        first = times[next(iter(runs))]
        ratios = {way: statistics.median(a / b for a, b in zip(times[way], first, strict=True)) for way in runs}
        shown = (f"{way} {statistics.median(times[way]):.3f} ms ({ratios[way]:.2f})" for way in runs)
        print(f"{name:14}" + ", ".join(shown), flush=True)


if __name__ == "__main__":
    main()
