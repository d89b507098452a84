"""Files and folders of rows."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pyrovae.data import ImageRows, batches, load

TABLE = np.arange(60.0).reshape(20, 3)


def rows(data) -> np.ndarray:
    return data.dense().x.numpy()


def save_open(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, TABLE)


def write_csv(path: Path) -> None:
    pd.DataFrame(TABLE, columns=list("abc")).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.npy", lambda path: np.save(path, TABLE)),
        ("rows.NPY", save_open),
        ("rows.npz", lambda path: np.savez(path, TABLE)),
        ("rows.csv", write_csv),
        ("rows.csv.gz", write_csv),
        ("rows.parquet", lambda path: pd.DataFrame(TABLE, columns=list("abc")).to_parquet(path)),
    ],
)
def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path, name: str, write):
    write(tmp_path / name)
    data = load(tmp_path / name, variant="counts")
    np.testing.assert_array_equal(rows(data), TABLE)
    assert (data.name, data.variant, data.seed) == (name, "counts", 0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 2, 2]
    assert data.columns == (("a", "b", "c") if "csv" in name or "parquet" in name else None)
    assert load(str(tmp_path / name)).test.fingerprint() == data.test.fingerprint()
    assert load(tmp_path / name, test=0.5, validation=1).train.x.shape == (9, 3)


def test_a_few_rows_are_not_split_unasked(tmp_path: Path):
    np.save(tmp_path / "rows.npy", TABLE[:9])
    assert load(tmp_path / "rows.npy").parts == {}
    assert len(load(tmp_path / "rows.npy", validation=2).train) == 6


def test_an_npz_of_several_arrays(tmp_path: Path):
    np.savez(tmp_path / "rows.npz", images=TABLE, digit=np.arange(20), other=TABLE[:5])
    data = load(tmp_path / "rows.npz", array="images", labels="digit")
    np.testing.assert_array_equal(rows(data), TABLE)
    assert data.label.tolist() == list(range(20))
    np.savez(tmp_path / "pair.npz", images=TABLE, digit=np.arange(20))
    assert load(tmp_path / "pair.npz", labels="digit").event_shape == (3,)


@pytest.mark.parametrize(
    ("text", "expected", "columns"),
    [
        ("a,b\n1,2\n3,\n", [[1, 2], [3, np.nan]], ("a", "b")),
        ("1.5,2\n3,4\n", [[1.5, 2], [3, 4]], ("0", "1")),
        ("0,1\n3,4\n", [[3, 4]], ("0", "1")),
        (",0,1\n7,3,4\n8,5,6\n", [[3, 4], [5, 6]], ("0", "1")),
        (",a,b\n0,3,4\n1,5,6\n", [[3, 4], [5, 6]], ("a", "b")),
        ("1,1,1\n1,1,2\n", [[1, 1, 1], [1, 1, 2]], ("0", "1", "2")),
        ("2,,\n,3,4\n", [[2, np.nan, np.nan], [np.nan, 3, 4]], ("0", "1", "2")),
    ],
)
def test_tables_of_text(tmp_path: Path, text: str, expected, columns):
    (tmp_path / "rows.csv").write_text(text)
    data = load(tmp_path / "rows.csv")
    np.testing.assert_array_equal(rows(data), expected)
    assert data.columns == columns


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        (["dog", "cat", "dog"], [1, 0, 1]),
        ([5, 3, 5], [5, 3, 5]),
        (["b", None, "a"], [1, -1, 0]),
        ([0.5, 2, 1], [0.5, 2, 1]),
    ],
)
def test_a_column_of_labels(tmp_path: Path, column, codes):
    pd.DataFrame({"a": [1, 2, 3], "kind": column}).to_csv(tmp_path / "rows.csv", index=False)
    data = load(tmp_path / "rows.csv", labels="kind")
    assert (data.label.tolist(), data.columns) == (codes, ("a",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_idx_files_by_path(tmp_path: Path, zipped: bool, code: int, dtype: str):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = struct.pack(">4B3I", 0, 0, code, 3, 2, 3, 4) + values.tobytes()
    path = tmp_path / ("any-idx3-ubyte" + ".gz" * zipped)
    path.write_bytes(gzip.compress(content) if zipped else content)
    data = load(path)
    assert data.event_shape == (1, 3, 4)
    np.testing.assert_array_equal(data.x[:, 0].numpy(), values)


def pictures(folder: Path, names: list[str], mode: str = "L") -> np.ndarray:
    levels = np.random.default_rng(0).integers(0, 256, (len(names), 5, 4, 3), dtype=np.uint8)
    for name, pixels in zip(names, levels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if mode == "RGB" else pixels[..., 0]).save(folder / name)
    return levels.transpose(0, 3, 1, 2) if mode == "RGB" else levels[..., 0][:, None]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images(tmp_path: Path, mode: str):
    levels = pictures(tmp_path, [f"{n}.png" for n in "cabd"], mode)[[1, 2, 0, 3]]
    (tmp_path / "notes.txt").write_text("no image")
    data, grey = load(tmp_path), load(tmp_path, "grey")
    assert isinstance(data.x, ImageRows)
    assert (data.variant, data.labels, data.name) == ("uint8", None, tmp_path.name)
    np.testing.assert_array_equal(rows(data), levels)
    np.testing.assert_allclose(rows(grey), levels / 255, rtol=1e-6)
    np.testing.assert_array_equal(rows(data[[3, 1]]), levels[[3, 1]])
    for batch in batches(data, 3):
        np.testing.assert_array_equal(batch.x.numpy(), levels[batch.index.numpy()])
    assert data.event_shape == grey.event_shape == levels.shape[1:]
    assert (data.x.dtype, grey.x.dtype) == (data.dense().x.dtype, grey.dense().x.dtype) == (torch.uint8, torch.float32)


def test_images_are_read_when_they_are_wanted(tmp_path: Path):
    pictures(tmp_path, ["a.png", "b.png"])
    data = load(tmp_path)
    (tmp_path / "b.png").unlink()
    assert data.x.take(torch.tensor([0])).shape == (1, 1, 5, 4)
    with pytest.raises(ValueError, match=r"expected an image, got .*b\.png, which cannot be read"):
        data.dense()


def test_subfolders_are_classes(tmp_path: Path):
    pictures(tmp_path, ["dog/1.png", "dog/2.jpg", "cat/1.png", "cat/old/2.bmp"])
    data = load(tmp_path)
    assert data.label.tolist() == [0, 0, 1, 1]
    assert [path.relative_to(tmp_path).as_posix() for path in data.x.paths][:2] == ["cat/1.png", "cat/old/2.bmp"]
    pictures(tmp_path, ["loose.png"])
    assert load(tmp_path).labels is None


def test_grey_and_colour_together_are_colour(tmp_path: Path):
    grey = pictures(tmp_path, ["a.png"])
    pictures(tmp_path, ["b.png"], "RGB")
    data = load(tmp_path)
    assert data.event_shape == (3, 5, 4)
    np.testing.assert_array_equal(rows(data)[0], np.repeat(grey[0], 3, axis=0))
