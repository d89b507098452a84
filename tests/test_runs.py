"""A trained VAE goes into a folder and comes back the same; altered, foreign and impossible folders are refused."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings

import pandas
import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from disks import another_process, tmpfs
from oracles import bound
from torch import nn

import pyrovae as pvae
from pyrovae.conditionals import GaussianMixture
from pyrovae.files import DamagedError, InUseError, NewerFormatError, Run
from pyrovae.files.config import digest, read_config_file, sealed
from pyrovae.presets import build_vae, load, save
from pyrovae.training import History

X = torch.randint(0, 17, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


def vae_of(**more):
    fields = {"likelihood": "binomial", "levels": 17, "latent_dim": 3, "hidden": (12,), "components": 4, "seed": 0}
    return build_vae((1, 8, 8), **fields | more)


class Own(nn.Module):
    """A user's own composition: a mixture prior, and a posterior that the prior's network does not know."""

    def __init__(self):
        super().__init__()
        self.vae = pvae.VAE(
            prior=GaussianMixture(event_shape=3, num_components=5),
            likelihood=pvae.Factorized(dist.Poisson, pvae.MLP(3, (7,), normalization=nn.BatchNorm1d), (1, 8, 8)),
            posterior=pvae.Factorized(dist.Normal, pvae.MLP((1, 8, 8), (7,), dropout=0.2), 3),
        )
        self.model, self.guide = self.vae.model, self.vae.guide


def composition():
    torch.manual_seed(3)
    return Own().vae


def trained(vae):
    return vae, pvae.fit(vae, X, epochs=2, batch_size=8, seed=1, validation=0.25)


def numbers(vae):
    """What must be equal to the last bit: latents, reconstructions, draws and an ELBO with fixed noise."""
    torch.manual_seed(4)
    z = vae.encode(X, num_samples=1)[0]  # a flow has no closed-form mean
    torch.manual_seed(6)
    return [z, vae.decode(z), vae.sample(3), bound(vae, X, num_samples=2, seed=5).elbo]


def assert_equal(left, right):
    for one, other in zip(numbers(left), numbers(right), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prior": "vamp"},
        {"prior": "mixture", "posterior": "full_normal"},
        {"prior": "affine_flow", "posterior": "spline_flow"},
        {"network": "convolutional", "normalization": "batch", "hidden": (4, 8)},
        {"normalization": "batch", "dropout": 0.3},
        {"prior": "uniform_direction", "posterior": "spherical"},
    ],
)
def test_a_trained_vae_comes_back_the_same(tmp_path, more):
    vae, _ = trained(vae_of(**more))
    back = load(save(vae, tmp_path))
    assert back is not vae
    assert back.spec == vae.spec
    assert_equal(vae, back)


def test_a_standardized_vae_and_its_dtype_come_back(tmp_path):
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1)) * 9 + 4
    vae = build_vae(6, likelihood="normal", latent_dim=2, prior="vamp", components=7, start=x, seed=0).double()
    back = load(save(vae, tmp_path))
    assert torch.equal(vae.encode(x), back.encode(x))
    assert back.encode(x).dtype == torch.float64


READER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import test_runs
from pyrovae.presets import load
into = test_runs.composition() if sys.argv[4] == "own" else None
torch.save(test_runs.numbers(load(sys.argv[2], into=into)), sys.argv[3])
"""


@pytest.mark.parametrize("kind", ["preset", "own"])
def test_another_process_computes_the_same_bits(tmp_path, kind):
    vae, _ = trained(composition() if kind == "own" else vae_of(prior="vamp", normalization="batch", dropout=0.3))
    save(vae, tmp_path / "run")
    tests = os.path.dirname(__file__)
    command = [sys.executable, "-c", READER, tests, str(tmp_path / "run"), str(tmp_path / "numbers"), kind]
    subprocess.run(command, check=True)
    for one, other in zip(numbers(vae), torch.load(tmp_path / "numbers", weights_only=True), strict=True):
        assert torch.equal(one, other)


def test_a_composition_is_filled_and_without_into_refused(tmp_path):
    vae, _ = trained(composition())
    save(vae, tmp_path)
    other = composition()
    assert load(tmp_path, into=other) is other
    assert_equal(vae, other)
    with pytest.raises(
        ValueError, match=r"a composition of one's own \(pyrovae.graphs.vae.VAE\).*load\(folder, into=vae\)"
    ):
        load(tmp_path)


def test_a_composition_that_does_not_fit_is_refused_and_unchanged(tmp_path):
    save(composition(), tmp_path)
    other = vae_of()
    before = numbers(other)
    with pytest.raises(
        ValueError, match=r"other parts than this VAE has: prior has .* there, .* here. Build it as"
    ) as caught:
        load(tmp_path, into=other)
    assert caught.value.argument == "into"
    assert all(torch.equal(a, b) for a, b in zip(before, numbers(other), strict=True))


def family_of(family, noise="normal"):
    """VAEs whose tensors have the same names and shapes, whatever the family."""
    torch.manual_seed(0)
    likelihood = pvae.Factorized(family, pvae.MLP(2, (8,)), 4, scale=1.0)
    posterior = pvae.Factorized(dist.Normal, pvae.MLP(4, (8,), activation=noise), 2)
    return pvae.VAE(pvae.standard_normal(2), likelihood, posterior)


def test_weights_of_another_family_are_refused_where_names_and_shapes_agree(tmp_path):
    silu, relu = nn.SiLU, nn.ReLU
    save(family_of(dist.Normal, silu), tmp_path)
    for other, message in (
        (family_of(dist.Laplace, silu), r"likelihood has .Normal, event_shape=.* there, .Laplace, event_shape=.* here"),
        (family_of(dist.Normal, relu), r"posterior has '.*SiLU\(\)' there, '.*ReLU\(\)' here"),
    ):
        before = other.state_dict()["likelihood.net.head.weight"].clone()
        with pytest.raises(ValueError, match=message):
            load(tmp_path, into=other)
        assert torch.equal(other.state_dict()["likelihood.net.head.weight"], before)
    assert load(tmp_path, into=family_of(dist.Normal, silu)) is not None


CHANGES = {
    "part": lambda vae: setattr(vae, "prior", pvae.Factorized(dist.Laplace, event_shape=3, loc=0.0, scale=1.0)),
    "name": lambda vae: setattr(vae, "name", "other"),
    "option": lambda vae: setattr(next(m for m in vae.modules() if isinstance(m, nn.Dropout)), "p", 0.5),
    "dtype of a part": lambda vae: vae.posterior.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_preset_is_saved_as_a_composition_and_says_so(tmp_path, change):
    vae = vae_of(dropout=0.1)
    change(vae)
    with pytest.warns(
        UserWarning, match=r"no longer what build_vae made .* load it with pyrovae.load\(folder, into=vae\)"
    ):
        save(vae, tmp_path)
    with pytest.raises(ValueError, match="a composition of one's own"):
        load(tmp_path)


def test_shared_modules_are_saved_once_and_stay_shared(tmp_path):
    vae, _ = trained(vae_of(prior="vamp"))
    save(vae, tmp_path)
    names = set(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert not [name for name in names if name.startswith("prior.posterior")] or not [
        name for name in names if name.startswith("posterior.net")
    ]
    back = load(tmp_path)
    assert back.prior.posterior is back.posterior


def test_other_readers_of_the_file_find_the_usual_names_and_shapes(tmp_path):
    vae = vae_of(network="convolutional", hidden=(4, 8)).to(memory_format=torch.channels_last)
    save(vae, tmp_path)
    read = safetensors.torch.load_file(tmp_path / "state.safetensors")
    assert {name: value.shape for name, value in read.items()} == {n: v.shape for n, v in vae.state_dict().items()}
    assert all(torch.equal(read[name], value) for name, value in vae.state_dict().items())


def test_saving_draws_nothing_and_leaves_the_store_empty(tmp_path):
    vae = vae_of(prior="mixture")
    state = torch.get_rng_state()
    load(save(vae, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert not pyro.get_param_store().keys()


def full_run(folder):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    data = pvae.data.load("digits")
    vae = build_vae(data.event_shape, likelihood="binomial", levels=17, latent_dim=2, hidden=(8,), seed=0)
    history = pvae.fit(vae, data.train[:64], epochs=2, seed=0)
    figure = Figure()
    figure.add_subplot().plot(history["loss"])
    save(
        vae,
        folder,
        history=history,
        data=data.train,
        figures={"history": figure, "raw-bytes_1": b"\x89PNG"},
        seed=0,
        command=["pyrovae", "train", "digits"],
        settings={"epochs": 2, "beta": 1.0, "hidden": (8,)},
        results={"elbo": -123.4, "best": float("-inf")},
    )
    return vae, history


def test_a_run_says_what_it_is(tmp_path):
    _, history = full_run(tmp_path / "run")
    run = Run.read(tmp_path / "run")
    assert run.config["data"] == {
        "name": "digits",
        "variant": "counts",
        "split": "train",
        "seed": 0,
        "rows": 1258,
        "event_shape": [1, 8, 8],
        "columns": None,
        "levels": {},
        "kinds": {},
        "fingerprint": pvae.data.load("digits").train.fingerprint(),
    }
    assert run.config["seed"] == 0
    assert run.config["command"] == ["pyrovae", "train", "digits"]
    assert run.config["settings"] == {"epochs": 2, "beta": 1.0, "hidden": [8]}
    assert run.config["results"] == {"elbo": -123.4, "best": "-inf"}
    assert {"pyrovae", "python", "torch", "pyro-ppl", "numpy", "safetensors"} == set(run.config["versions"])
    assert run.spec["likelihood"] == "binomial"
    assert run.history == history.to_dict()
    assert [path.name for path in run.figures] == ["history.png", "raw-bytes_1.png"]
    assert run.figures[0].read_bytes()[:4] == b"\x89PNG"
    assert "binomial" in repr(run)
    assert "variant='counts'" in repr(run)


def test_the_columns_and_levels_of_a_table_are_kept(tmp_path):
    frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0], "b": ["low", "high", "low"]})
    vae = build_vae(2, likelihood="normal", latent_dim=2, seed=0)
    save(vae, tmp_path, data=pvae.data.as_data(frame, kinds={}))
    kept = Run.read(tmp_path).config["data"]
    assert kept["columns"] == ["a", "b"]
    assert kept["levels"] == {"b": ["high", "low"]}


# A run is replaced as a whole or not at all


def test_a_run_is_not_overwritten_unasked(tmp_path):
    save(vae_of(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match="holds a run already: choose another folder, resume or overwrite it"
    ) as caught:
        save(vae_of(latent_dim=4), tmp_path)
    assert caught.value.argument == "overwrite"
    assert (tmp_path / "config.json").read_bytes() == before
    assert load(save(vae_of(latent_dim=4), tmp_path, overwrite=True)).spec.latent_dim == 4


def first_and_second():
    """Two runs that differ in every file; the second lacks the first's history and one of its figures."""
    vaes = [vae_of(seed=seed) for seed in (1, 2)]
    history = History([{"epoch": 1, "loss": 3.0}])
    first = {"history": history, "figures": {"old": b"old", "both": b"1"}, "results": {"run": 1}}
    second = {"figures": {"new": b"new", "both": b"2"}, "results": {"run": 2}}
    return vaes, (first, second)


def assert_is_run(folder, number):
    run, loaded = Run.read(folder), load(folder)
    vaes, contents = first_and_second()
    assert run.config["results"] == {"run": number}
    assert_equal(loaded, vaes[number - 1])
    assert {path.stem: path.read_bytes() for path in run.figures} == contents[number - 1]["figures"]
    assert bool(run.history) == (number == 1)


def test_a_run_that_is_replaced_leaves_none_of_its_files_and_all_of_others(tmp_path):
    vaes, (first, second) = first_and_second()
    save(vaes[0], tmp_path, **first)
    mine = ["notes.txt", "figures/mine.png", "checkpoints/checkpoint-000000000001.safetensors"]
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    save(vaes[1], tmp_path, overwrite=True, **second)
    assert_is_run(tmp_path, 2)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"config.json", "state.safetensors", "figures/new.png", "figures/both.png", *mine}
    assert all((tmp_path / name).read_text() == "mine" for name in mine)


def die_at(moment):
    """Die at the n-th change to the disk from now."""
    left = [moment]

    def counted(original):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in ("open", "replace", "rename", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def save_killed_at(moment, vae, folder, **contents):
    """A save in another process that dies at its n-th change to the disk; whether it died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's idle threads
        child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            die_at(moment)
            save(vae, folder, overwrite=True, **contents)
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_a_save_killed_at_any_change_to_the_disk_leaves_the_one_run_or_the_other(tmp_path):
    vaes, (first, second) = first_and_second()
    save(vaes[0], tmp_path / "first", **first)
    found = []
    for moment in itertools.count():
        folder = shutil.copytree(tmp_path / "first", tmp_path / str(moment))
        if not save_killed_at(moment, vaes[1], folder, **second):
            break
        found.append(Run.read(folder).config["results"]["run"])
        assert_is_run(folder, found[-1])
        shutil.copytree(folder, tmp_path / f"{moment}-copied")
        assert_is_run(tmp_path / f"{moment}-copied", found[-1])  # also half moved, a run can be copied
        with pytest.raises(ValueError, match="holds a run already"):
            save(vaes[1], folder)
        assert_is_run(folder, found[-1])
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert (folder / "figures" / "old.png").exists() == (found[-1] == 1)
    assert found == sorted(found)
    assert found.count(1) > 10
    assert found.count(2) > 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_save_that_fails_half_way_leaves_the_former_run_and_no_trace(tmp_path, monkeypatch, error):
    vaes, (first, second) = first_and_second()
    save(vaes[0], tmp_path, **first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr("pyrovae.presets.saving.write_json_atomic", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises((KeyboardInterrupt, OSError)):
        save(vaes[1], tmp_path, overwrite=True, **second)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises((KeyboardInterrupt, OSError)):
        save(vaes[1], tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_leaves_the_former_run(tmp_path):
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        vaes, (first, second) = first_and_second()
        save(vaes[0], disk / "run", **first)
        second["figures"]["big"] = bytes(3_000_000)
        with pytest.raises(
            OSError, match=r"cannot write 'big.png' in '.*/run/figures': the disk is full.*is unchanged"
        ):
            save(vaes[1], disk / "run", overwrite=True, **second)
        assert_is_run(disk / "run", 1)
        del second["figures"]["big"]
        save(vaes[1], disk / "run", overwrite=True, **second)
        assert_is_run(disk / "run", 2)


def test_a_run_on_a_read_only_disk_is_loaded(tmp_path):
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        vaes, contents = first_and_second()
        save(vaes[0], disk / "run", **contents[0])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_is_run(disk / "run", 1)
        with pytest.raises(OSError, match="mounted read-only: choose another folder"):
            save(vaes[1], disk / "run", overwrite=True)


def test_a_run_into_a_folder_that_another_process_holds_is_refused(tmp_path):
    with another_process("lock", tmp_path / "run"), pytest.raises(InUseError, match="run' is in use by process"):
        save(vae_of(), tmp_path / "run")
    save(vae_of(), tmp_path / "run")


@pytest.mark.parametrize("way", ["state.safetensors", "figures"])
def test_a_file_or_folder_in_the_way_of_a_run_is_refused_before_anything_moves(tmp_path, way):
    vaes, (first, _) = first_and_second()
    if way == "figures":
        (tmp_path / way).write_text("mine")
    else:
        (tmp_path / way).mkdir()
    with pytest.raises(OSError, match=f"cannot write .*{way}.* is in the way: choose another folder"):
        save(vaes[0], tmp_path, **first)
    assert [path.name for path in tmp_path.iterdir()] == [way]


def test_a_pending_run_from_a_stranger_moves_and_removes_nothing_else(tmp_path):
    """The files of ``.next`` and of a former config are named by files, which may come from anybody."""
    vaes, (first, second) = first_and_second()
    save(vaes[0], tmp_path / "run", **first)
    save(vaes[1], tmp_path / "run" / ".next", **second)
    (tmp_path / "outside").write_text("mine")
    for folder in (tmp_path / "run" / ".next", tmp_path / "run"):
        config = json.loads((folder / "config.json").read_text())
        whole = (folder / "config.json").read_bytes()
        rewrite(folder, files={**config["files"], "../outside": "0"})
        with pytest.raises(DamagedError, match=r"lists a file '../outside', which no run has"):
            read_config_file(folder / "config.json")
        if folder.name == ".next":
            with pytest.raises(DamagedError, match=r"lists a file '../outside', which no run has"):
                save(vaes[0], tmp_path / "run", overwrite=True)
            (folder / "config.json").write_bytes(whole)
    save(vaes[0], tmp_path / "run", overwrite=True, **first)
    assert_is_run(tmp_path / "run", 1)
    assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vae": (print, print)}, TypeError, "expected a VAE or another torch module, got tuple"),
        ({"figures": {"../evil": b""}}, ValueError, "a figure's name has letters, digits"),
        ({"figures": {"a/b": b""}}, ValueError, "a figure's name has letters, digits"),
        ({"figures": {"": b""}}, ValueError, "a figure's name has letters, digits"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        save(**{"vae": vae_of(), "folder": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_a_folder_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="is in the way: choose another folder"):
        save(vae_of(), tmp_path / "file")


# Reading with suspicion


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    full_run(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def rewrite(folder, **changes):
    """A config with changes and the checksum that belongs to it: a forger can compute one too."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if key != "sha256" and value != "absent"}
    (folder / "config.json").write_text(json.dumps(sealed(config)))


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_run_is_named(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    for read in (load, Run.read):
        with pytest.raises(FileNotFoundError, match=r"holds no run \(there is no config.json\): give the folder"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["state.safetensors", "history.csv", "figures/history.png"])
def test_a_missing_or_swapped_file_is_named(copy, name):
    read = load if name == "state.safetensors" else Run.read
    (copy / name).write_bytes(b"another file")
    with pytest.raises(DamagedError, match=f"{name} was altered, truncated, or belongs to another run"):
        read(copy)
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}, which belongs to the run: copy the whole folder"):
        read(copy)


def test_the_weights_of_another_run_are_refused(copy, tmp_path):
    save(vae_of(), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "state.safetensors", copy / "state.safetensors")
    with pytest.raises(DamagedError, match="belongs to another run"):
        load(copy)


SPEC = {"event_shape": [1, 8, 8], "likelihood": "binomial", "levels": 17, "latent_dim": 2, "hidden": [8]}
FORGED = [
    ({"format": "absent"}, DamagedError, "is not of a pyrovae run"),
    ({"version": "1"}, DamagedError, "no valid format version"),
    ({"version": True}, DamagedError, "no valid format version"),
    ({"version": 9}, NewerFormatError, "format version 9, this pyrovae reads up to 1: upgrade it"),
    ({"version": 10**4000}, NewerFormatError, "format version 1000"),
    ({"spec": 3}, DamagedError, "no valid 'spec'"),
    ({"spec": "absent"}, DamagedError, "no valid 'spec'"),
    ({"spec": {}}, DamagedError, "the spec lacks event_shape"),
    ({"spec": {**SPEC, "likelihood": "os.system"}}, DamagedError, "likelihood must be one of"),
    ({"spec": {**SPEC, "start": [1]}}, DamagedError, "a spec has no field 'start'"),
    ({"spec": {**SPEC, "latent_dim": 3}}, ValueError, "does not fit this VAE: .* there, .* here"),
    ({"spec": {**SPEC, "prior": "mixture"}}, ValueError, "does not fit this VAE"),
    (
        {"spec": {**SPEC, "hidden": [65536, 65536]}},
        DamagedError,
        "far more numbers than the weights beside it hold",
    ),
    ({"spec": {**SPEC, "hidden": [65536] * 60}}, DamagedError, "far more numbers than the weights"),
    ({"spec": {**SPEC, "hidden": [4000] * 64}}, DamagedError, "far more numbers than the weights"),  # each layer fits
    ({"spec": {**SPEC, "event_shape": [2**22], "hidden": [65536]}}, DamagedError, "far more numbers"),
    ({"spec": {**SPEC, "latent_dim": 4096, "posterior": "full_normal"}}, DamagedError, "far more numbers"),
    (
        {"spec": {**SPEC, "prior": "mixture", "components": 65536, "latent_dim": 4096}},
        DamagedError,
        "far more numbers",
    ),
    (
        {"spec": {**SPEC, "likelihood": "categories", "levels": 65536, "event_shape": [2**20]}},
        DamagedError,
        "far more",
    ),
    ({"spec": {**SPEC, "prior": "vamp", "components": 65536, "event_shape": [2**20]}}, DamagedError, "far more"),
    ({"spec": {**SPEC, "posterior": "spline_flow", "latent_dim": 4096}}, DamagedError, "far more"),
    ({"dtype": "float16"}, DamagedError, "the dtype 'float16'; known are float64"),
    ({"dtype": "float64"}, ValueError, "is torch.float32 there, torch.float64 here"),
    ({"dtype": ["float32"]}, DamagedError, "no valid 'dtype'"),
    ({"files": {}}, DamagedError, "lists no state.safetensors"),
    ({"files": {"../../etc/passwd": "0"}}, DamagedError, "lists a file '../../etc/passwd', which no run has"),
    ({"files": {"figures/../x.png": "0"}}, DamagedError, "which no run has"),
    ({"files": {"state.safetensors": 0}}, DamagedError, "no valid 'files'"),
    ({"parts": {"prior": 1}}, DamagedError, "no valid 'parts'"),
    ({"parts": None}, DamagedError, "no valid 'parts'"),
    ({"files": ["state.safetensors"]}, DamagedError, "no valid 'files'"),
    ({"settings": 3}, DamagedError, "no valid 'settings'"),
    ({"results": [1.0]}, DamagedError, "no valid 'results'"),
    ({"versions": "1"}, DamagedError, "no valid 'versions'"),
    ({"command": "pyrovae train"}, DamagedError, "no valid 'command'"),
    ({"command": ["pyrovae", 3]}, DamagedError, "no valid 'command'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), FORGED)
def test_a_forged_config_is_refused_with_its_reason(copy, changes, error, message):
    rewrite(copy, **changes)
    with pytest.raises(error, match=message) as caught:
        load(copy)
    assert len(str(caught.value)) < 1000


def test_the_forger_s_tool_makes_a_valid_config_too(copy, saved):
    rewrite(copy)
    assert_equal(load(copy), load(saved))


def test_a_config_edited_by_hand_is_refused(copy):
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace("counts", "scaled"))
    with pytest.raises(DamagedError, match=r"config.json was altered: its checksum"):
        Run.read(copy)


def test_a_config_laid_out_anew_is_read(copy, saved):
    (copy / "config.json").write_text(json.dumps(json.loads((copy / "config.json").read_text()), sort_keys=True))
    assert Run.read(copy).config == Run.read(saved).config


@pytest.mark.parametrize("text", ["a,a\n1\n", "a,b\n1\n", "a\nx\n", 'a\n"1\n', "", "\xff"])
def test_a_history_that_is_no_table_is_refused(copy, text):
    (copy / "history.csv").write_bytes(text.encode("latin1"))
    files = (
        {**Run.read(copy.parent / "copy").config["files"]} if False else json.loads((copy / "config.json").read_text())
    )
    rewrite(copy, files={**files["files"], "history.csv": digest(copy / "history.csv")})
    with pytest.raises(DamagedError, match="is no table of numbers"):
        Run.read(copy)


def mutate(raw, rng):
    raw = bytearray(raw)
    kind = rng.choice(["flip", "flips", "truncate", "insert", "zeros", "swap"])
    at = rng.randrange(len(raw))
    if kind == "flip":
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == "flips":
        for _ in range(20):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del raw[at:]
    elif kind == "insert":
        raw[at:at] = rng.randbytes(rng.choice([1, 100]))
    elif kind == "zeros":
        raw[at : at + 50] = bytes(len(raw[at : at + 50]))
    else:
        other = rng.randrange(len(raw))
        raw[at], raw[other] = raw[other], raw[at]
    return bytes(raw)


@pytest.mark.parametrize("name", ["config.json", "state.safetensors", "history.csv", "figures/history.png"])
def test_200_mutated_files_are_refused_with_a_message_or_read_equal(copy, saved, name):
    rng, original = random.Random(name), (saved / name).read_bytes()
    expected, vae, refused = Run.read(saved), load(saved), 0
    for _ in range(50):
        (copy / name).write_bytes(mutate(original, rng))
        try:
            run, loaded = Run.read(copy), load(copy)
        except (DamagedError, NewerFormatError) as error:
            refused += 1
            assert str(copy) in str(error), error  # noqa: PT017
            continue
        assert (run.config, run.history) == (expected.config, expected.history)
        assert all(torch.equal(value, vae.state_dict()[n]) for n, value in loaded.state_dict().items())
    assert refused >= 40
