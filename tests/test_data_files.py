"""Files and folders of rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from pyrovae.data import ImageRows, batches, load
from pyrovae.data.delimited import read_delimited

NAN = float("nan")
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


TEXTS = {
    "an empty cell": ("a,b\n1,2\n3,\n", [[1, 2], [3, NAN]], ("a", "b"), "separator ,, names in the first line: a, b"),
    "no names": ("1.5,2\n3,4\n", [[1.5, 2], [3, 4]], ("0", "1"), "no names: the first line holds data"),
    "counts from 0": ("0,1\n3,4\n", [[0, 1], [3, 4]], ("0", "1"), "no names"),
    "a column from 0": ("0\n7\n", [[0], [7]], ("0",), "no names"),
    "pandas' names": (
        "0,1,2,3\n3,4,5,6\n",
        [[3, 4, 5, 6]],
        ("0", "1", "2", "3"),
        "names in the first line: 0, 1, 2, 3",
    ),
    "pandas' names and index": (",0,1\n7,3,4\n8,5,6\n", [[3, 4], [5, 6]], ("0", "1"), "names of the rows"),
    "pandas' index": (",a,b\n0,3,4\n1,5,6\n", [[3, 4], [5, 6]], ("a", "b"), "names of the rows"),
    "the same line twice": ("1,1,1\n1,1,2\n", [[1, 1, 1], [1, 1, 2]], ("0", "1", "2"), "no names"),
    "holes in the first line": ("2,,\n,3,4\n", [[2, NAN, NAN], [NAN, 3, 4]], ("0", "1", "2"), "no names"),
    "NA in the first line": ("NA,2\n3,4\n", [[NAN, 2], [3, 4]], ("0", "1"), "no names"),
    "a comma at each line's end": ("a,b,c\n1,2,3,\n4,5,6,\n", [[1, 2, 3], [4, 5, 6]], ("a", "b", "c"), "left out"),
    "commas at all ends": ("a,b,\n1,2,\n3,4,\n", [[1, 2], [3, 4]], ("a", "b"), "left out"),
    "commas at all ends, no names": ("1,2,\n3,4,\n", [[1, 2], [3, 4]], ("0", "1"), "no names"),
    "decimal commas": ("a;b\n1,75;70,5\n2;3\n", [[1.75, 70.5], [2, 3]], ("a", "b"), "separator ;, decimal comma"),
    "decimal commas, no names": ("1,75;70,5\n2,5;3\n", [[1.75, 70.5], [2.5, 3]], ("0", "1"), "decimal comma, no names"),
    "decimal commas, a hole at the end": (
        "a;b;c\n1,5;2;3,5\n1;2,5;\n;2;1\n",
        [[1.5, 2, 3.5], [1, 2.5, NAN], [NAN, 2, 1]],
        ("a", "b", "c"),
        "separator ;, decimal comma",
    ),
    "a hole at each end": ("a;b\n1;\n;2\n", [[1, NAN], [NAN, 2]], ("a", "b"), "separator ;"),
    "semicolons": ("a;b\n1.5;2\n", [[1.5, 2]], ("a", "b"), "separator ;, names"),
    "tabs": ("a\tb\n1,5\t2\n", [[1.5, 2]], ("a", "b"), "separator tab, decimal comma"),
    "bars": ("a|b\n1|2\n", [[1, 2]], ("a", "b"), "separator |"),
    "spaces": ("a  b\n1  2.5\n3 4\n", [[1, 2.5], [3, 4]], ("a", "b"), "separator space"),
    "Excel's first line": ("sep=;\na;b\n1,5;2\n", [[1.5, 2]], ("a", "b"), "separator ;, decimal comma"),
    "years": ("2019,2020,2021\n1,2,3\n", [[1, 2, 3]], ("2019", "2020", "2021"), "names in the first line: 2019"),
    "years and text": ("who,2019,2020\n7,1,2\n", [[7, 1, 2]], ("who", "2019", "2020"), "names in the first line"),
    "rows of years": ("2019,2020\n2017,2018\n", [[2019, 2020], [2017, 2018]], ("0", "1"), "no names"),
    "quoted names": ('"a, b","c"\n1,2\n', [[1, 2]], ("a, b", "c"), "names in the first line: a, b, c"),
    "names with spaces": (" a b , c\n1, 2\n", [[1, 2]], ("a b", "c"), "names"),
    "numpy's names": ("# a,b\n1,2\n", [[1, 2]], ("a", "b"), "names in the first line: a, b"),
    "blank lines": ("\na,b\n\n1,2\n\n", [[1, 2]], ("a", "b"), "names"),
    "Windows' line ends": ("a,b\r\n1,2\r\n", [[1, 2]], ("a", "b"), "names"),
    "a line of holes": ("a,b\n1,2\n,\n", [[1, 2], [NAN, NAN]], ("a", "b"), "names"),
    "a missing name and no values": ("a,,b\n1,,2\n", [[1, 2]], ("a", "b"), "without a name and without values"),
    "integers with holes": ("a,b\n1,2\n,4\n", [[1, 2], [NAN, 4]], ("a", "b"), "names"),
}


@pytest.mark.parametrize(("text", "expected", "columns", "note"), TEXTS.values(), ids=TEXTS)
def test_tables_of_text(tmp_path: Path, text: str, expected, columns, note):
    (tmp_path / "rows.csv").write_bytes(text.encode())
    data = load(tmp_path / "rows.csv")
    np.testing.assert_array_equal(rows(data), expected)
    assert data.columns == columns
    assert note in "; ".join(data.notes)


REFUSED = {
    "more fields than names": (
        "a,b\n1,2\n1,2,3\n",
        "line 3 has 3 fields, and the first line has 2 .separator ','.: write",
    ),
    "R's names of rows": ("a,b\nx,1,2\ny,3,4\n", "line 2 has 3 fields, and the first line has 2"),
    "fewer": ("a,b,c\n1,2,3\n1,2\n", "line 3 has 2 fields, and the first line has 3"),
    "a column of decimal commas": ("a\n1,5\n2,5\n", "line 2 has 2 fields, and the first line has 1"),
    "a blank line among numbers": ("a\n1\n\n2\n", "line 3 is blank: write NaN where a value is missing"),
    "a name twice": ("a,a\n1,2\n", "expected each column of x once, got 'a' twice"),
    "no name": ("a,\n1,2\n3,4\n", "column 2 has values and no name: write a name for each column"),
    "no name, twice the same": (",a\n1,2\n1,4\n", "column 1 has values and no name"),
    "an open quote": ('a,b\n1,"2\n' + "3,4\n" * 9, "EOF inside string"),
    "names or data": ("x,3\ny,4\nz,5\n", "its first line, x, 3, may hold names or data: say which by header"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_tables_that_could_be_misread_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"rows\.csv.*{message}"):
        load(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("text", "has_names"),
    [
        ("sepal,species\n5.1,setosa\n4.9,virginica\n", True),
        ("5.1,setosa\n4.9,setosa\n6.0,virginica\n", False),
        ("5.1,iris-a\n4.9,iris-b\n", False),
        ("yes,no\nno,no\nyes,yes\n", False),
        ("smoker,drinks\nno,no\nyes,yes\n", True),
    ],
)
def test_the_first_line_of_categories(tmp_path: Path, text: str, has_names: bool):
    (tmp_path / "rows.csv").write_text(text)
    frame, notes = read_delimited(tmp_path / "rows.csv")
    assert len(frame) == text.count("\n") - has_names
    assert ("names in the first line" in notes[0]) is has_names


def test_the_first_line_is_what_header_says(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n5,6\n")
    assert load(tmp_path / "rows.csv", header=True).columns == ("1", "2")
    (tmp_path / "rows.csv").write_text("2019,2020\n3,4\n")
    np.testing.assert_array_equal(rows(load(tmp_path / "rows.csv", header=False)), [[2019, 2020], [3, 4]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("zipped", ["", ".gz", ".bz2", ".xz", ".zip"])
def test_encodings_and_compressed_files(tmp_path: Path, encoding: str, zipped: str):
    content = "größe,größe²\n1,2\n".encode(encoding)
    path = tmp_path / f"rows.csv{zipped}"
    if zipped == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rows.csv", content)
    else:
        path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[zipped](content))
    data = load(path)
    assert data.columns == ("größe", "größe²")
    assert ("encoding" in "; ".join(data.notes)) is (encoding != "utf-8")


def test_columns_are_picked_by_name(tmp_path: Path):
    frame = pd.DataFrame({"id": range(12), "a": np.arange(12.0), "batch": list("yx") * 6, "kind": list("ppq") * 4})
    for name, write in {
        "rows.tsv": lambda path: frame.to_csv(path, sep="\t", index=False),
        "rows.parquet": frame.to_parquet,
    }.items():
        write(tmp_path / name)
        data = load(tmp_path / name, covariates=["batch"], labels="kind", drop=["id"])
        assert data.columns == ("a",)
        assert data.levels == {"batch": ("x", "y"), "kind": ("p", "q")}
        assert data.test.levels == data.levels
        assert data.covariates["batch"].tolist() == [1, 0] * 6
        with pytest.raises(ValueError, match=f"{name}: expected a column 'ID' to drop, got: 'id', 'a'"):
            load(tmp_path / name, drop=["ID"])
        with pytest.raises(TypeError, match="expected covariates, drop and missing to be lists of names"):
            load(tmp_path / name, drop="id")
        with pytest.raises(
            TypeError, match=rf"{name}: expected x to hold columns of numbers, got 'id' .ids: make it the index"
        ):
            load(tmp_path / name, covariates=["batch"], labels="kind")


def test_categories_become_codes_on_request(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("size,kind\n1.5,dog\n2.5,cat\n3,\n")
    data = load(tmp_path / "rows.csv", kinds={})
    np.testing.assert_array_equal(rows(data), [[1.5, 1], [2.5, 0], [3, NAN]])
    assert data.levels == {"kind": ("cat", "dog")}
    with pytest.raises(TypeError, match=r"rows.csv: .* got 'kind' .the levels 'cat', 'dog': give it"):
        load(tmp_path / "rows.csv")


def test_anndata_by_path(tmp_path: Path):
    counts = scipy.sparse.csr_matrix(TABLE.astype("float32"))
    cells = anndata.AnnData(counts, obs=pd.DataFrame({"batch": list("ab") * 10}, [f"c{n}" for n in range(20)]))
    cells.layers["double"] = counts * 2
    cells.write_h5ad(tmp_path / "cells.h5ad")
    data = load(tmp_path / "cells.h5ad", covariates=["batch"])
    np.testing.assert_array_equal(rows(data), TABLE)
    assert data.levels["batch"] == ("a", "b")
    np.testing.assert_array_equal(rows(load(tmp_path / "cells.h5ad", array="double")), TABLE * 2)
    with pytest.raises(ValueError, match="expected a layer 'raw', got: 'double'; correct array="):
        load(tmp_path / "cells.h5ad", array="raw")


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
    assert data.levels == {"label": ("cat", "dog")}
    assert [path.relative_to(tmp_path).as_posix() for path in data.x.paths][:2] == ["cat/1.png", "cat/old/2.bmp"]
    pictures(tmp_path, ["loose.png"])
    assert load(tmp_path).labels is None


def test_grey_and_color_together_are_color(tmp_path: Path):
    grey = pictures(tmp_path, ["a.png"])
    pictures(tmp_path, ["b.png"], "RGB")
    data = load(tmp_path)
    assert data.event_shape == (3, 5, 4)
    np.testing.assert_array_equal(rows(data)[0], np.repeat(grey[0], 3, axis=0))
