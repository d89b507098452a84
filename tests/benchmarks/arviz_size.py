"""What `from_pyro_svi` costs on many rows: seconds, the most memory, and the file's size.

    python tests/benchmarks/arviz_size.py [--rows 10000] [--draws 200] [--latents 50] [--features 784]

Each line runs in a process of its own, so that the memory is its own: the peak over what the process held before.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

WAYS = ("memory", "memory, then netCDF", "zarr stream")
LATENT_GROUPS = ("posterior", "sample_stats", "observed_data", "amortized_diagnostics")


def program(latents, features):
    import pyro.distributions as dist
    import torch

    import pyrovae as pvae

    torch.manual_seed(0)
    vae = pvae.VAE(
        pvae.standard_normal(latents),
        pvae.Factorized(dist.Bernoulli, pvae.MLP(latents, (400,)), event_shape=features),
        pvae.Factorized(dist.Normal, pvae.MLP(features, (400,)), event_shape=latents),
    )
    return vae, lambda rows: torch.bernoulli(torch.full((rows, features), 0.2))


def measure(way, options):
    import torch

    import pyrovae as pvae
    from pyrovae.arviz import import_arviz, to_netcdf

    torch.set_num_threads(options.threads)
    import_arviz()
    vae, simulate = program(options.latents, options.features)
    x = simulate(options.rows)
    settings = {"num_samples": options.draws, "groups": LATENT_GROUPS, "seed": 0, "progress": False}
    pvae.from_pyro_svi(vae, x[:64], **settings)
    before, start = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "posterior"
        if way == "zarr stream":
            pvae.from_pyro_svi(vae, x, store=place, **settings)
        else:
            idata = pvae.from_pyro_svi(vae, x, **settings)
            if way == "memory, then netCDF":
                to_netcdf(idata, place)
        seconds = time.perf_counter() - start
        files = [place] if place.is_file() else list(place.rglob("*"))
        size = sum(path.stat().st_size for path in files if path.is_file())
    print(f"{way:22}{seconds:10.1f}{(peak() - before) / 1024:10.0f}{size / 2**20:10.0f}", flush=True)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 10_000, "draws": 200, "latents": 50, "features": 784, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    options = parser.parse_args()
    if options.way:
        measure(options.way, options)
        return
    held = 4 * options.rows * options.draws * (options.latents + 3) / 2**20
    print(f"{options.rows} rows x {options.draws} draws x {options.latents} latents, {options.features} features")
    print(f"posterior and sample_stats alone: {held:.0f} MiB\n")
    print(f"{'':22}{'seconds':>10}{'peak MiB':>10}{'file MiB':>10}", flush=True)
    for way in WAYS:
        subprocess.run([sys.executable, *sys.argv, "--way", way], check=True)


if __name__ == "__main__":
    main()
