"""Signal-to-noise of the guide's gradient against the number of particles, for each gradient estimator.

On a linear model with a guide off its optimum (Rainforth et al. 2018, arXiv:1802.04537; Tucker et al. 2019,
arXiv:1810.04152): the plain estimator's falls with K, the doubly reparameterized one's rises.
Run: python tests/benchmarks/gradient_snr.py [FIGURE.png]
"""

import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyrovae.objectives import ImportanceWeightedELBO
from pyrovae.plots.style import color, finding, legend, line, marker, one_panel

PARTICLES = (1, 4, 16, 64, 256)
DRAWS = 2000
NAMES = {"reparam": "reparameterized", "stl": "sticking the landing (biased)", "dreg": "doubly reparameterized"}


class Linear(nn.Module):
    """z ~ N(mu, I), x ~ N(z, I), q(z | x) = N(A x + b, 2/3 I), as in the paper; A and b a little off."""

    def __init__(self, size=20):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        noise = 0.1 * torch.randn(size, size + 1, generator=generator, dtype=torch.float64)
        self.mu = torch.zeros(size, dtype=torch.float64)
        self.shift = nn.Parameter(noise[:, 0])
        self.matrix = 0.5 * torch.eye(size, dtype=torch.float64) + 0.1 * noise[:, 1:]

    def model(self, x, shift):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, shift):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.matrix.T + shift, (2 / 3) ** 0.5).to_event(1))


def snr(program, x, gradient, particles):
    """Every row is the same datum with a parameter of its own, so one call gives as many independent gradients."""
    objective = ImportanceWeightedELBO(particles, gradient, max_plate_nesting=1)
    gradients = []
    pyro.set_rng_seed(0)
    at_once = max(1, 20_000 // particles)
    for start in range(0, DRAWS, at_once):
        rows = min(at_once, DRAWS - start)
        shift = program.shift.detach().expand(rows, -1).clone().requires_grad_()
        objective.differentiable_loss(program.model, program.guide, x.expand(rows, -1), shift).backward()
        gradients.append(shift.grad)
    values = torch.cat(gradients)
    return (values.mean(0).abs() / values.std(0)).mean().item()


def main():
    program = Linear()
    x = torch.randn(1, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2**0.5
    print(f"signal-to-noise of d bound / d b, mean over {x.shape[1]} parameters, {DRAWS} gradients")
    print(f"{'K':>8}" + "".join(f"{k:>9}" for k in PARTICLES))
    curves = {}
    for gradient in ("reparam", "stl", "dreg"):
        curves[gradient] = [snr(program, x, gradient, k) for k in PARTICLES]
        print(f"{gradient:>8}" + "".join(f"{value:9.3f}" for value in curves[gradient]), flush=True)
    if len(sys.argv) > 1:
        ax = one_panel(None, 5.4, 3.6)
        for index, (name, values) in enumerate(curves.items()):
            ax.loglog(PARTICLES, values, marker(index) + line(index), color=color(index), label=NAMES[name])
        ax.set(xlabel="particles K", ylabel="signal-to-noise of the guide's gradient")
        finding(ax, "mean over 20 parameters, 2,000 gradients each")
        legend(ax)
        ax.figure.savefig(sys.argv[1], dpi=150)


if __name__ == "__main__":
    main()
