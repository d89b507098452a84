"""Named data: variants, splits, the search for files, downloads; tiny MNIST files written here, real ones where present."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from pooch import HTTPDownloader

from pyrovae.data import Binarize, available, batches, load, loading, locate, named

NUM_TRAIN, NUM_TEST = 60, 20


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny_mnist() -> dict[str, bytes]:
    """Unzipped files like MNIST's, of 60 and 20 images."""
    rng = np.random.default_rng(0)
    files = {}
    for part, rows in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        images = rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        images[:, :5] = 0
        images[:, 5:8] = 255
        files[f"mnist/{part}-images-idx3-ubyte.gz"] = idx(images)
        files[f"mnist/{part}-labels-idx1-ubyte.gz"] = idx(rng.integers(0, 10, rows, dtype=np.uint8))
    return {name: files[name] for name in named.MNIST_SHA256}


def raw(name: str = "mnist/train-images-idx3-ubyte.gz") -> torch.Tensor:
    return torch.frombuffer(bytearray(tiny_mnist()[name][16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch) -> Path:
    """A machine without data and without the internet."""

    def refuse(self, url, output_file, pooch, check_only=False):
        raise ConnectionError("no route to host")

    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(HTTPDownloader, "__call__", refuse)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in tiny_mnist().items()}
    monkeypatch.setattr(named, "MNIST_SHA256", sums)
    zipped = {name: hashlib.md5(gzip.compress(content, mtime=0)).hexdigest() for name, content in tiny_mnist().items()}
    monkeypatch.setattr(named, "MNIST_MD5", {name: f"md5:{value}" for name, value in zipped.items()})
    return tmp_path


def put(folder: Path, zipped: bool = True) -> None:
    for name, content in tiny_mnist().items():
        path = folder / (name if zipped else name.removesuffix(".gz"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.fixture
def mnist(empty: Path) -> Path:
    put(empty / "cache" / "pyrovae")
    return empty / "cache" / "pyrovae" / "mnist"


def internet(monkeypatch, content: dict[str, bytes]) -> list[str]:
    """An internet that holds these files, and the list of what was asked for."""
    asked = []

    def answer(self, url, output_file, pooch, check_only=False):
        asked.append(url)
        Path(output_file).write_bytes(content["mnist/" + url.rsplit("/", 1)[1]])

    monkeypatch.setattr(HTTPDownloader, "__call__", answer)
    return asked


def zipped_mnist() -> dict[str, bytes]:
    return {name: gzip.compress(content, mtime=0) for name, content in tiny_mnist().items()}


def test_digits_are_counts_or_sixteenths():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    counts, scaled = load("digits"), load("digits", variant="scaled")
    np.testing.assert_array_equal(counts.x.reshape(1797, 64).numpy(), pixels)
    np.testing.assert_allclose(scaled.x.reshape(1797, 64).numpy(), pixels / 16)
    np.testing.assert_array_equal(counts.label.numpy(), labels)
    assert (counts.variant, scaled.variant, counts.x.dtype) == ("counts", "scaled", torch.float32)
    assert counts.event_shape == (1, 8, 8)


def test_splits_are_seeded_partitions():
    digits, again, other = load("digits"), load("digits"), load("digits", seed=1)
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [1258, 180, 359]
    assert [part.split for part in parts] == ["train", "validation", "test"]
    rows = torch.cat(list(digits.parts.values()))
    assert torch.equal(rows.sort().values, torch.arange(1797))
    assert digits.test.fingerprint() == again.test.fingerprint() != other.test.fingerprint()
    assert (digits.test.seed, other.test.seed) == (0, 1)


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        (0.5, 10, [889, 898, 10]),
        (0, 300, [1497, 300]),
        (100, 0, [1697, 100]),
        (0, 0, [1797]),
        (0.0001, 1, [1795, 1, 1]),
    ],
)
def test_sizes_are_counts_or_fractions(validation, test, sizes):
    data = load("digits", validation=validation, test=test)
    assert [len(rows) for rows in data.parts.values()] == sizes


def test_mnist_keeps_its_order_and_its_test_set(mnist: Path):
    data = load("mnist", "uint8")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55, 5, NUM_TEST]
    assert torch.equal(torch.cat([data.train.x, data.validation.x]), raw())
    assert torch.equal(data.test.x, raw("mnist/t10k-images-idx3-ubyte.gz"))
    assert data.train.x.data_ptr() == data.x.data_ptr()
    labels = np.frombuffer(tiny_mnist()["mnist/t10k-labels-idx1-ubyte.gz"][8:], np.uint8)
    np.testing.assert_array_equal(data.test.label.numpy(), labels)
    assert len(load("mnist", "uint8", validation=12).train) == 48
    assert list(load("mnist", "uint8", validation=0).parts) == ["train", "test"]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("uint8", lambda x: x), ("grey", lambda x: x.float() / 255), ("threshold", lambda x: (x >= 128).float())],
)
def test_variants_of_mnist_without_chance(mnist: Path, variant: str, expected):
    data = load("mnist", variant)
    torch.testing.assert_close(data.x[:NUM_TRAIN], expected(raw()), rtol=1e-6, atol=0)
    assert (data.variant, data.train.transform) == (variant, None)
    assert data.train.x.dtype == expected(raw()).dtype


def test_static_mnist_names_its_seed(mnist: Path):
    first, second = load("mnist", "static"), load("mnist", "static", seed=7)
    assert (first.variant, second.variant, second.seed) == ("static(seed=0)", "static(seed=7)", 7)
    assert set(first.x.unique().tolist()) == {0.0, 1.0}
    assert first.fingerprint() != second.fingerprint() == load("mnist", "static(seed=7)").fingerprint()
    assert bool((first.x[:, :, :5] == 0).all())
    assert bool((first.x[:, :, 5:8] == 1).all())
    level = torch.cat([raw(), raw("mnist/t10k-images-idx3-ubyte.gz")]).double() / 255
    spread = (level * (1 - level)).sum().sqrt()
    assert abs((first.x - level).sum()) < 5 * spread


def test_dynamic_mnist_redraws_training_rows_only(mnist: Path):
    data, static = load("mnist"), load("mnist", "static")
    assert (data.variant, data.train.transform) == ("dynamic", Binarize())
    torch.testing.assert_close(data.train.x, raw()[:55].float() / 255, rtol=1e-6, atol=0)
    for part in ("validation", "test"):
        fixed = getattr(data, part)
        assert fixed.transform is None
        assert fixed.fingerprint() == getattr(static, part).fingerprint()
    loader = batches(data.train, 55, shuffle=False, generator=torch.Generator().manual_seed(0))
    first, second = (next(iter(loader)).x for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)


def test_the_test_set_does_not_depend_on_the_split(mnist: Path):
    assert load("mnist", validation=5).test.fingerprint() == load("mnist", validation=20).test.fingerprint()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_data_folder_comes_before_the_cache(empty: Path, monkeypatch, zipped: bool):
    put(empty / "mine", zipped)
    put(empty / "cache" / "pyrovae")
    monkeypatch.setenv("PYROVAE_DATA", str(empty / "mine"))
    assert locate.find("mnist/train-images-idx3-ubyte.gz").is_relative_to(empty / "mine")
    assert available()[1].where == str(empty / "mine" / "mnist")
    assert len(load("mnist")) == NUM_TRAIN + NUM_TEST
    monkeypatch.setenv("PYROVAE_DATA", str(empty / "nowhere"))
    assert len(load("mnist")) == NUM_TRAIN + NUM_TEST


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the variable is Linux's own")
def test_the_cache_folder_is_where_the_user_wants_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert locate.cache_folder() == Path("/x/pyrovae")


def test_mnist_is_downloaded_once_and_verified(empty: Path, monkeypatch):
    asked = internet(monkeypatch, zipped_mnist())
    first = load("mnist")
    assert [url.removeprefix(named.MNIST_MIRRORS[0]) for url in asked] == [Path(name).name for name in tiny_mnist()]
    assert load("mnist").fingerprint() == first.fingerprint()
    assert len(asked) == 4
    folder = empty / "cache" / "pyrovae" / "mnist"
    assert sorted(path.name for path in folder.iterdir()) == sorted(Path(name).name for name in tiny_mnist())


@pytest.mark.parametrize(
    "wrong",
    [b"<html>log in to the hotel's network</html>", gzip.compress(b"other"), gzip.compress(bytes(99))[:-9]],
    ids=["a page", "another file", "cut short"],  # a compressed file holds the time, and workers must agree on names
)
def test_a_wrong_download_is_never_kept(empty: Path, monkeypatch, wrong: bytes):
    asked = internet(monkeypatch, dict.fromkeys(tiny_mnist(), wrong))
    with pytest.raises(FileNotFoundError, match="downloading failed"):
        load("mnist")
    assert len(asked) == len(named.MNIST_MIRRORS)
    assert list((empty / "cache" / "pyrovae" / "mnist").iterdir()) == []


def test_a_broken_download_is_never_kept(empty: Path, monkeypatch):
    def broken(self, url, output_file, pooch, check_only=False):
        Path(output_file).write_bytes(b"half of it")
        raise ConnectionError("connection reset by peer")

    monkeypatch.setattr(HTTPDownloader, "__call__", broken)
    with pytest.raises(FileNotFoundError, match="connection reset by peer"):
        load("mnist")
    assert list((empty / "cache" / "pyrovae" / "mnist").iterdir()) == []


def test_the_second_mirror_is_tried(empty: Path, monkeypatch):
    asked = internet(monkeypatch, zipped_mnist())
    answer = HTTPDownloader.__call__

    def first_is_down(self, url, *args, **options):
        if url.startswith(named.MNIST_MIRRORS[0]):
            raise requests.HTTPError("503: down")
        return answer(self, url, *args, **options)

    monkeypatch.setattr(HTTPDownloader, "__call__", first_is_down)
    assert len(load("mnist")) == NUM_TRAIN + NUM_TEST
    assert all(url.startswith(named.MNIST_MIRRORS[1]) for url in asked)


def test_without_internet_the_error_says_what_to_put_where(empty: Path, monkeypatch):
    monkeypatch.setenv("PYROVAE_DATA", str(empty / "mine"))
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist")
    told = str(caught.value)
    for part in (*named.MNIST_SHA256, str(empty / "mine"), "no route to host", named.MNIST_MIRRORS[0]):
        assert part in told
    assert f"into {empty / 'cache' / 'pyrovae' / 'mnist'}, or set PYROVAE_DATA to the folder that holds mnist/" in told


def test_only_missing_files_are_asked_for(mnist: Path):
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected the data files mnist/t10k-labels-idx1-ubyte.gz, found in none"
    ):
        load("mnist")


def test_nothing_is_downloaded_unasked(empty: Path, monkeypatch):
    asked = internet(monkeypatch, {})
    with pytest.raises(FileNotFoundError, match="expected the data files mnist/train-images"):
        load("mnist", download=False)
    assert asked == []
    assert [listing.where for listing in available()] == [
        "comes with scikit-learn",
        f"downloaded when first loaded, to {empty / 'cache' / 'pyrovae' / 'mnist'}",
        f"put freyfaces.npz (array 'images') into {empty / 'cache' / 'pyrovae' / 'freyfaces'}",
    ]


def test_a_cache_that_cannot_be_written_is_said(empty: Path, monkeypatch):
    internet(monkeypatch, zipped_mnist())
    (empty / "cache").write_text("a file where a folder should be")
    with pytest.raises(FileNotFoundError, match=r"downloading failed .*Not a directory.*set PYROVAE_DATA"):
        load("mnist")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda content: gzip.compress(content)[:-20],
            "cannot be read .*damaged or of another kind: get or save it anew",
        ),
        (lambda content: b"not zipped", "cannot be read .Not a gzipped file"),
        (lambda content: gzip.compress(content[:-1] + b"\1\1"), "expected .* to have SHA-256 .* got .* remove it"),
    ],
)
def test_damaged_mnist_files_are_refused(mnist: Path, spoil, message: str):
    name = "train-images-idx3-ubyte.gz"
    (mnist / name).write_bytes(spoil(tiny_mnist()[f"mnist/{name}"]))
    with pytest.raises(ValueError, match=message):
        load("mnist")


def test_freyfaces(empty: Path):
    path = empty / "cache" / "pyrovae" / "freyfaces" / "freyfaces.npz"
    with pytest.raises(
        FileNotFoundError, match=f"expected the data files freyfaces/freyfaces.npz.* into {path.parent}"
    ):
        load("freyfaces")
    path.parent.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (100, 28, 20), dtype=np.uint8)
    np.savez(path, images=frames)
    data = load("freyfaces")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [80, 10, 10]
    np.testing.assert_array_equal(data.x[:, 0].numpy(), frames)
    np.testing.assert_allclose(load("freyfaces", "grey").x[:, 0].numpy(), frames / 255, rtol=1e-6)
    np.savez(path, images=frames[:, :5])
    with pytest.raises(ValueError, match=r"expected an array 'images' of shape \(1965, 28, 20\).*got \(100, 5, 20\)"):
        load("freyfaces")


def test_listings_agree_with_what_is_loaded():
    digits = load("digits")
    listing = available()[0]
    assert (listing.name, listing.rows, listing.event_shape) == (digits.name, len(digits), tuple(digits.event_shape))
    assert listing.variants == tuple(loading.SOURCES["digits"].variants)


@pytest.fixture(scope="module")
def real() -> None:
    files = [*named.MNIST_SHA256, "freyfaces/freyfaces.npz"]
    lacking = [file for file in files if locate.find(file) is None]
    if lacking or not os.environ.get("PYROVAE_DATA"):
        pytest.skip(f"needs the real data in the folder PYROVAE_DATA; not found: {', '.join(lacking or files)}")


@pytest.mark.parametrize(
    ("variant", "fingerprint"),
    [
        ("dynamic", "342558d8020129a3ecaf2d9d2248bc51"),
        ("static", "342558d8020129a3ecaf2d9d2248bc51"),
        ("grey", "d2f014b5ec1b814b67a83dc2e8b3dc58"),
        ("threshold", "91f4a9404f7812df6a88b7666ece08c2"),
        ("uint8", "a232a147430869fe41e1156e557f39f2"),
    ],
)
@pytest.mark.usefixtures("real")
def test_the_real_test_sets_are_those_of_the_reported_numbers(variant: str, fingerprint: str):
    data = load("mnist", variant)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55_000, 5_000, 10_000]
    assert data.test.fingerprint() == fingerprint
    assert data.test.label[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.usefixtures("real")
def test_the_real_frey_faces():
    data = load("freyfaces")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1565, 200, 200]
    assert (data.event_shape, data.x.dtype) == ((1, 28, 20), torch.uint8)


@pytest.mark.usefixtures("real")
def test_listings_agree_with_the_real_files():
    for listing in available()[1:]:
        data = load(listing.name)
        assert (listing.rows, listing.event_shape) == (len(data), tuple(data.event_shape))
        assert Path(listing.where).is_dir()


def test_the_digits_are_those_of_scikit_learn(monkeypatch):
    """Its file is read without it; where the file is not there, by it."""
    from sklearn import datasets

    asked, load_digits = [], datasets.load_digits
    monkeypatch.setattr(datasets, "load_digits", lambda: asked.append(1) or load_digits())
    read = named._read_digits(False)
    assert not asked
    monkeypatch.setattr(named, "find_spec", lambda name: None)
    loaded = named._read_digits(False)
    assert asked
    assert torch.equal(read.levels, loaded.levels)
    assert torch.equal(read.labels, loaded.labels)
    assert (read.levels.dtype, read.labels.dtype) == (loaded.levels.dtype, loaded.labels.dtype)
