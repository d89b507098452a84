"""Evidence where it is known and has several modes: rows that an estimator loses in silence, alarms, coverage.

``toys``: two and five equally heavy modes in 2, 10 and 40 dimensions, whose p(x) is a normal. ``digits``: VAEs of digits with two
latents, their p(x) by quadrature on a grid, five trainings. ``networks``: four trained networks of 4 to 10 latents, on rows
simulated from them, whose p(x) comes from annealed chains between bounds (BDMC): the forward chains' estimate, on rows where its
own error is below a fifth of the estimator's and the backward chains, from the latents that made the row, agree with it.
``time``: processor time of a row for each estimator. An alarm is a Pareto shape above the limit, or a flag. ``quick`` takes fewer
rows.
Run: OMP_NUM_THREADS=1 nice python tests/benchmarks/evidence_modes.py [toys] [digits] [networks] [time] [quick]
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles import Turned
from simulated_counts import GENES, likelihoods, simulate

import pyrovae as pvae
from pyrovae.evaluation import AIS, Mixture, Refined, ais, log_marginal
from pyrovae.evaluation.marginal import summary
from pyrovae.evaluation.unconstrained import LatentSpace
from pyrovae.limits import good_k
from pyrovae.programs import Program
from pyrovae.programs.rows import RowWork
from pyrovae.programs.simulate import simulate as simulated

METHODS = ("refined", "auto")
CHAINS = 200
ANNEALING = AIS(100, start=Refined())


def report(name, method, found, exact, seconds, judged=None):
    error, mcse = found["log_marginal"].values - exact, found["mcse"].values
    judged = np.ones(len(error), dtype=bool) if judged is None else judged
    error, mcse = error[judged], mcse[judged]
    alarm = (found["pareto_k"].values > good_k(found.attrs["num_samples"])) | found["flagged"].values
    alarm = alarm[judged]
    low, right = (error < -0.1) & (error < -5 * mcse), np.abs(error) < 0.02
    covered = np.abs(error) < 1.96 * mcse
    print(
        f"{name:26}{method:9}{len(error):5} rows, worst {error.min():+7.2f}, rmse {np.sqrt((error**2).mean()):.4f}, low by .1 "
        f"and 5 mcse {low.sum():4}, of these without an alarm {(low & ~alarm).sum():4}; right within 5 mcse + .01 or alarmed "
        f"{((np.abs(error) < 5 * mcse + 0.01) | alarm).mean():6.1%}; alarms on right rows "
        f"{alarm[right].mean() if right.any() else 0:5.1%}; covered without an alarm {covered[~alarm].mean():5.1%}; "
        f"{1000 * seconds / len(found['mcse']):.0f} ms a row",
        flush=True,
    )
    return covered[~alarm]


def estimated(program, x, method, covariates=None):
    start = time.process_time()
    found = log_marginal(program, x, covariates, method=method, num_samples=1000, seed=1, progress=False)
    return found, time.process_time() - start


def measure(name, program, x, exact):
    covered = {}
    for method in METHODS:
        found, seconds = estimated(program, x, method)
        covered[method] = report(name, method, found, exact, seconds)
    return covered["auto"]


def digits_vae(train, seed, latents=2, full=False):
    torch.manual_seed(seed)
    net = pvae.MLP((1, 8, 8), (128,))
    posterior = pvae.FullNormal(net, latents) if full else pvae.Factorized(dist.Normal, net, latents)
    likelihood = pvae.Factorized(dist.Binomial, pvae.MLP(latents, (128,)), (1, 8, 8), total_count=16)
    vae = pvae.VAE(pvae.standard_normal(latents), likelihood, posterior)
    vae.likelihood.initialize(train)
    rate = pvae.schedules.one_cycle(5e-3, epochs=60)
    pvae.fit(vae, train, epochs=60, batch_size=64, seed=seed, progress=False, learning_rate=rate)
    return vae.eval()


def quadrature(vae, x, points=1201, reach=9.0):
    """log p(x) on a grid over the latents."""
    line = torch.linspace(-reach, reach, points)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    counts, total = x.flatten(1).double(), torch.full(x.shape, -torch.inf).flatten(1)[:, 0].double()
    constant = (torch.lgamma(torch.tensor(17.0)) - torch.lgamma(counts + 1) - torch.lgamma(17 - counts)).sum(1)
    with torch.no_grad(), pyro.validation_enabled(False):
        for z in grid.split(8192):
            logits = vae.likelihood(z).base_dist.logits.flatten(1).double()
            softplus = torch.nn.functional.softplus
            log_lik = -counts @ softplus(-logits).T - (16 - counts) @ softplus(logits).T
            log_prior = vae.prior().log_prob(z).double()
            total = torch.logaddexp(total, (log_lik + log_prior).logsumexp(1))
    return (total + constant + 2 * torch.log((line[1] - line[0]).double())).numpy()


def networks():
    """Four trained networks: their name, the VAE, and the covariates of the rows to simulate."""
    train = pvae.data.load("digits").train.x.float()
    yield "digits, 5 latents", digits_vae(train, 0, 5), None
    yield "digits, 10, full guide", digits_vae(train, 0, 10, full=True), None
    cells = simulate(1000)
    torch.manual_seed(0)
    posterior = pvae.FullNormal(pvae.MLP(GENES, (64,)), 4, preprocess=torch.log1p)
    vae = pvae.VAE(pvae.standard_normal(4), likelihoods(GENES, 4)["negative binomial"](), posterior)
    options = {"epochs": 60, "batch_size": 50, "seed": 0, "progress": False}
    pvae.fit(vae, cells["counts"], {"size_factor": cells["size"]}, **options)
    yield "counts, 4 latents", vae.eval(), {"size_factor": torch.as_tensor(cells["size"])}
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 5, generator=generator)
    x = (
        torch.tanh(z @ torch.randn(5, 50, generator=generator) / 5**0.5)
        @ torch.randn(50, 20, generator=generator)
        / 50**0.5
    )
    x = x + 0.25 * torch.randn(2000, 20, generator=generator)
    torch.manual_seed(0)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(5, (64,)), 20, scale=torch.nn.Parameter(torch.ones(())))
    vae = pvae.VAE(pvae.standard_normal(5), likelihood, pvae.Factorized(dist.Normal, pvae.MLP(20, (64,)), 5))
    pvae.fit(vae, x, **{**options, "batch_size": 100})
    yield "normal, 5 latents", vae.eval(), None


def annealed(vae, latents, x, covariates):
    """Log weights of forward and of backward chains, (chains, rows); the latter start at the latents that made the rows."""
    work = RowWork(vae, x, covariates, num_samples=CHAINS, at_once=CHAINS, seed=2, progress=False)

    def task(block):
        space = LatentSpace(block.call)
        start, schedule = ANNEALING.prepare(block, space)
        forward, _ = ais.anneal(start, schedule, CHAINS)
        made = latents[block.batch.index].expand(CHAINS, -1, -1)
        return {"forward": forward.T, "backward": ais.anneal_back(start, schedule, made).T}

    found = work.run(task)
    return found["forward"].T, found["backward"].T


def by_chains(name, vae, covariates, rows):
    """Coverage on rows simulated from a network, whose p(x) comes from annealed chains."""
    covariates = None if covariates is None else {key: value[:rows] for key, value in covariates.items()}
    with torch.no_grad():
        torch.manual_seed(1)
        made = simulated(Program.of(vae).model, rows, covariates=covariates)
    start = time.process_time()
    forward, backward = annealed(vae, made.latents["z"].reshape(rows, -1), made.x, covariates)
    known, upper = summary(forward), np.log(CHAINS) - backward.logsumexp(0).numpy()
    exact, error = known["log_marginal"].numpy(), known["mcse"].numpy()
    print(
        f"{name}: upper less lower bound {np.mean(upper - exact):.4f} (largest {np.max(np.abs(upper - exact)):.3f}), error of "
        f"the chains {error.mean():.4f}, {1000 * (time.process_time() - start) / rows:.0f} ms a row",
        flush=True,
    )
    found, seconds = estimated(vae, made.x, "auto", covariates)
    mcse = found["mcse"].values
    judged = (error < mcse / 5) & (np.abs(upper - exact) < mcse)
    return report(name, "auto", found, exact, seconds, judged) if judged.any() else np.empty(0)


def times(vae, x):
    for method in ("importance", "refined", "auto", Mixture(robust=True)):
        found, seconds = estimated(vae, x, method)
        name = f"{found.attrs['method']}{', robust' if getattr(method, 'robust', False) else ''}"
        print(f"{name:20}{1000 * seconds / len(x):.1f} ms of processor time a row, {len(x)} rows", flush=True)


def main(words):
    warnings.simplefilter("ignore")
    quick = "quick" in words
    parts = {word for word in words if word != "quick"} or {"toys", "digits", "networks", "time"}
    digits = pvae.data.load("digits")
    train, x = digits.train.x.float(), digits.test.x.float()[: 60 if quick else None]
    if "time" in parts:
        times(digits_vae(train, 0), x)
        times(digits_vae(train, 0, 10, full=True), x)
    if "networks" in parts:
        covered = [by_chains(*one, 20 if quick else 100) for one in networks()]
        print(f"all networks: covered without an alarm {np.concatenate(covered).mean():5.1%}", flush=True)
    for modes in (2, 5) if "toys" in parts else ():
        for dims in (2, 10, 40):
            program = Turned(modes, dims)
            rows = program.simulate(32 if quick else 200)
            measure(f"{modes} modes, {dims} dimensions", program, rows, program.log_evidence(rows).numpy())
    for seed in range(1 if quick else 5) if "digits" in parts else ():
        vae = digits_vae(train, seed)
        measure(f"digits, seed {seed}", vae, x, quadrature(vae, x, 601 if quick else 1201))


if __name__ == "__main__":
    main(sys.argv[1:])
