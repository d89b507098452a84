"""Generated digits: a VAE by its prior and by a mixture on its latents, a plain autoencoder, a small GAN, beside training rows.

The features are the last layer of a classifier trained here on the labels of half of the training rows. Run:
python tests/benchmarks/generation.py [--epochs 150]
"""

import argparse

import pyro.distributions as dist
import torch
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import pyrovae as pvae
from pyrovae.conditionals import Point
from pyrovae.uses import generation_quality


def classifier(x, labels, test, test_labels, epochs=60):
    """The features of a small network that tells digits apart, and their name with its accuracy."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, weight_decay=1e-5)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(net(x[batch] / 16), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = float((net(test / 16).argmax(1) == test_labels).double().mean())
    return lambda rows: net[:5](rows / 16), f"a classifier of digits, {100 * accuracy:.1f} % accurate"


def vae(x, epochs):
    model = pvae.build_vae(x, likelihood="beta_binomial", levels=17, latent_dim=10, hidden=(128, 128), seed=0)
    pvae.fit(model, x, epochs=epochs, seed=0, progress=False)
    return model


def mixture_draws(model, x, count, draw):
    """Decoded draws of a mixture of normals that was fitted to the latents."""
    z = model.encode(x, num_samples=1)[0] if draw else model.encode(x)
    mixture = GaussianMixture(30, reg_covar=1e-4, random_state=0).fit(z.double().numpy())
    return model.decode(torch.from_numpy(mixture.sample(count)[0]).float(), draw=draw)


def autoencoder(x, epochs):
    torch.manual_seed(0)
    likelihood = pvae.Factorized(dist.Normal, pvae.MLP(10, (128, 128)), (1, 8, 8), scale=1.0)
    encoder = Point(pvae.MLP((1, 8, 8), (128, 128)), 10)
    model = pvae.VAE(pvae.standard_normal(10), likelihood, encoder)
    pvae.fit(model, x, epochs=epochs, beta=0.0, seed=0, progress=False)
    return model


def gan_draws(x, epochs, count):
    torch.manual_seed(0)
    layers = [part for sizes in ((10, 128), (128, 128)) for part in (nn.Linear(*sizes), nn.BatchNorm1d(128), nn.ReLU())]
    generator = nn.Sequential(*layers, nn.Linear(128, 64), nn.Sigmoid())
    layers = [part for size in (64, 128) for part in (nn.Linear(size, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3))]
    critic = nn.Sequential(*layers, nn.Linear(128, 1))
    optimizers = [torch.optim.Adam(net.parameters(), lr=5e-4, betas=(0.5, 0.999)) for net in (generator, critic)]
    rows = x.flatten(1) / 16
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(60):
            made = generator(torch.randn(len(batch), 10))
            optimizers[1].zero_grad()
            (softplus(-critic(rows[batch])) + softplus(critic(made.detach()))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            softplus(-critic(made)).mean().backward()
            optimizers[0].step()
    generator.eval()
    with torch.no_grad():
        return (16 * generator(torch.randn(count, 10))).reshape(-1, 1, 8, 8)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = pvae.data.load("digits", "counts", seed=0)
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
    x, labels = data.x[order], data.label[order]
    train, test = x[:900], x[900:1300]
    features, name = classifier(x[:900], labels[:900], x[1300:], labels[1300:])
    model, plain = vae(train, options.epochs), autoencoder(train, options.epochs)
    draws = {
        "VAE, its prior": model.sample(400),
        "VAE, mixture on latents": mixture_draws(model, train, 400, True),
        "VAE, mixture, means": mixture_draws(model, train, 400, False),
        "autoencoder, mixture on latents": mixture_draws(plain, train, 400, False),
        "GAN": gan_draws(train, 4 * options.epochs, 400),
        "other test rows": x[1300:1700],
    }
    print(f"features: {name}; 400 draws against 400 test rows, 900 rows trained each model")
    for number, (who, rows) in enumerate(draws.items()):
        found = generation_quality(rows.clamp(0, 16), test, train, features=features, name=name, seed=0)
        if not number:
            print(f"{'':34}" + "".join(f"{metric:>16}" for metric in found["metric"].values))
            floors = zip(found["floor"].values, found["floor_error"].values, strict=True)
            print(f"{'training rows (the floor)':34}" + "".join(f"{f'{v:.3f} ± {e:.3f}':>16}" for v, e in floors))
        numbers = zip(found["value"].values, found["error"].values, strict=True)
        print(f"{who:34}" + "".join(f"{f'{v:.3f} ± {e:.3f}':>16}" for v, e in numbers), flush=True)


if __name__ == "__main__":
    main()
