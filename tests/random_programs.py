"""Small random programs: plates, families, enumeration, masks, scales and parameters, each a function of a seed.

    python tests/random_programs.py FIRST LAST

compares the graphs of these seeds with the programs, and prints those that differ or are not traced.
"""

from __future__ import annotations

import random
import sys

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch.distributions import constraints

ROWS, COLUMNS = 7, 3
FAMILIES = {
    "Normal": (lambda loc: dist.Normal(loc, 1.0), lambda loc, scale: dist.Normal(loc, scale)),
    "Laplace": (lambda loc: dist.Laplace(loc, 1.0), lambda loc, scale: dist.Normal(loc, scale)),
    "StudentT": (lambda loc: dist.StudentT(5.0, loc, 1.0), lambda loc, scale: dist.StudentT(9.0, loc, scale)),
    "LogNormal": (lambda loc: dist.LogNormal(loc.tanh(), 0.5), lambda loc, scale: dist.LogNormal(loc, scale)),
    "Gamma": (
        lambda loc: dist.Gamma(1.0 + loc.exp().clamp(max=3.0), 2.0),
        lambda loc, scale: dist.Gamma(1.0 + scale, 1.0 + scale),
    ),
    "Beta": (lambda loc: dist.Beta(1.0 + loc.sigmoid(), 1.5), lambda loc, scale: dist.Beta(1.0 + scale, 1.0 + scale)),
}
LIKELIHOODS = {
    "Normal": lambda loc: dist.Normal(loc, 0.7),
    "Poisson": lambda loc: dist.Poisson(loc.clamp(-3.0, 3.0).exp()),
    "Bernoulli": lambda loc: dist.Bernoulli(logits=loc),
    "NegativeBinomial": lambda loc: dist.NegativeBinomial(4.0, logits=loc),
}


def random_program(seed):
    """A model, a guide, their data and an objective."""
    draw = random.Random(seed)
    latents = [(draw.choice(list(FAMILIES)), draw.random() < 0.3) for _ in range(draw.randint(1, 3))]
    latents.sort(key=lambda latent: not latent[1])  # what is drawn outside the plate comes first
    likelihood, masked, scaled = draw.choice(list(LIKELIHOODS)), draw.random() < 0.4, draw.random() < 0.3
    inner, enumerated = draw.random() < 0.4, draw.choice([None, None, "model", "guide", "score"])
    scaled &= enumerated != "model"  # Pyro refuses other scales than that of the enumerated site
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(ROWS, COLUMNS, generator=generator).mul(3).floor().clamp(max=1 if likelihood == "Bernoulli" else 9)
    weights = torch.randn(len(latents) + 2, COLUMNS, generator=generator)
    mask = torch.rand(ROWS, generator=generator) < 0.7

    def scope():
        return poutine.scale(scale=1.7) if scaled else poutine.scale(scale=1.0)

    def model(x):
        bias = pyro.param("bias", torch.zeros(COLUMNS))
        scale = pyro.param("scale", torch.tensor(1.3), constraint=constraints.positive)
        above = bias.sum() * 0.1
        for number, (family, is_global) in enumerate(latents):
            if is_global:
                above = pyro.sample(f"z{number}", FAMILIES[family][0](above)) * scale
        with pyro.plate("data", len(x), dim=-2 if inner else -1):
            place = x.new_zeros(len(x), 1) if inner else x.new_zeros(len(x))
            for number, (family, is_global) in enumerate(latents):
                if not is_global:
                    above = pyro.sample(f"z{number}", FAMILIES[family][0](above + place)) * scale
            if enumerated:
                infer = {"enumerate": "parallel"} if enumerated != "score" else {}
                above = above + pyro.sample("k", dist.Bernoulli(place + 0.3), infer=infer)
            with poutine.mask(mask=(mask[:, None] if inner else mask) if masked else True), scope():
                if inner:
                    with pyro.plate("columns", COLUMNS, dim=-1):
                        pyro.sample("x", LIKELIHOODS[likelihood](above + bias * weights[-1]), obs=x)
                else:
                    logits = above[..., None] * weights[0] + bias
                    pyro.sample("x", LIKELIHOODS[likelihood](logits).to_event(1), obs=x)

    def guide(x):
        features = x @ pyro.param("slope", 0.1 * weights.T)
        for number, (family, is_global) in enumerate(latents):
            spread = pyro.param(f"spread{number}", torch.tensor(0.6), constraint=constraints.positive)
            if is_global:
                pyro.sample(f"z{number}", FAMILIES[family][1](features[:, number].mean(), spread))
        with pyro.plate("data", len(x), dim=-2 if inner else -1):
            for number, (family, is_global) in enumerate(latents):
                spread = pyro.param(f"spread{number}", torch.tensor(0.6), constraint=constraints.positive)
                if not is_global:
                    loc = features[:, number, None] if inner else features[:, number]
                    pyro.sample(f"z{number}", FAMILIES[family][1](loc, spread + 0 * loc))
            if enumerated in ("guide", "score"):
                infer = {"enumerate": "parallel"} if enumerated == "guide" else {}
                logits = features[:, -1, None] if inner else features[:, -1]
                pyro.sample("k", dist.Bernoulli(logits=logits), infer=infer)

    nesting = 1 + inner
    if enumerated in ("model", "guide"):
        objective = TraceEnum_ELBO(max_plate_nesting=nesting)
    elif enumerated == "score":
        objective = draw.choice([Trace_ELBO(), TraceGraph_ELBO()])
    else:
        vectorized = Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=nesting)
        objective = draw.choice([Trace_ELBO(), Trace_ELBO(2), vectorized, TraceMeanField_ELBO(), TraceGraph_ELBO()])
    return (model, guide), x, objective


def main():
    from test_compiling_table import compare
    from traceable import Made

    first, last = map(int, sys.argv[1:])
    found = {"equal": 0}
    for seed in range(first, last):
        pyro.clear_param_store()
        torch.manual_seed(seed)
        program, x, objective = random_program(seed)
        try:
            compare(Made(program, x, None, objective))
            found["equal"] += 1
        except Exception as error:
            print(
                seed,
                type(objective).__name__,
                type(error).__name__,
                str(error).strip().splitlines()[0][:150],
                flush=True,
            )
    print(f"{found['equal']} of {last - first} equal")


if __name__ == "__main__":
    main()
