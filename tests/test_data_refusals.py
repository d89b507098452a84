"""Bad input to the data room: every refusal says what was expected, what came and what to do."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from pyrovae.data import Data, as_data, batches, load, loader_batches, split

NAN, INF = float("nan"), float("inf")
X = torch.arange(12.0).reshape(6, 2)
DATA = Data(X, name="toy")
PAIRS = TensorDataset(X, X)
CSR = scipy.sparse.csr_array([[0.0, INF]])


def loaded(source, **options):
    return list(loader_batches(source, **options))


CASES = {
    "none": (
        lambda: as_data(None),
        TypeError,
        "expected x to be an array of numbers, got None; write pyrovae.data.load",
    ),
    "a name": (
        lambda: as_data("digits"),
        TypeError,
        "expected x to be an array of numbers, got str 'digits'; write .*load",
    ),
    "a loader": (
        lambda: as_data(DataLoader(PAIRS)),
        TypeError,
        r"got DataLoader.*write torch\.stack\(\[row\[0\] for row in value\.dataset",
    ),
    "a number": (
        lambda: as_data(3.0),
        ValueError,
        r"expected x to be an array of rows, got a single number; write \[value\]",
    ),
    "0-dim tensor": (lambda: as_data(torch.tensor(1)), ValueError, "got a single number"),
    "0-dim in a tuple": (lambda: as_data((X, 1.0)), ValueError, r"expected x\[1\] to be an array of rows"),
    "empty list": (lambda: as_data([]), ValueError, r"expected at least one row and one entry, got x of shape \(0,\)"),
    "no rows": (lambda: as_data(X[:0]), ValueError, r"got x of shape \(0, 2\)"),
    "no columns": (lambda: as_data(X[:, :0]), ValueError, r"got x of shape \(6, 0\)"),
    "no rows in a table": (lambda: as_data(pd.DataFrame({"a": []})), ValueError, r"got x of shape \(0, 1\)"),
    "no columns in a table": (lambda: as_data(pd.DataFrame(index=[1, 2])), ValueError, r"got x of shape \(2, 0\)"),
    "empty dict": (lambda: as_data({}), ValueError, "expected data, got an empty dict or tuple"),
    "ragged list": (
        lambda: as_data([[1, 2], [3]]),
        ValueError,
        "rows of x to have one shape, got ragged rows; pad them",
    ),
    "ragged tensors": (lambda: as_data([X[0], X[0, :1]]), ValueError, "rows of x to have one shape, got ragged rows"),
    "objects": (
        lambda: as_data(np.array([{}, {}])),
        TypeError,
        r"expected x to hold numbers, got dtype object; write .*float32",
    ),
    "text": (lambda: as_data([["a"], ["b"]]), TypeError, "expected x to hold numbers, got dtype <U1"),
    "dates": (lambda: as_data(np.array(["2020-01-01"], "M8[D]")), TypeError, r"got dtype datetime64\[D\]"),
    "complex": (lambda: as_data(np.array([1j])), TypeError, "expected x to hold numbers, got dtype complex128"),
    "complex tensor": (
        lambda: as_data(torch.tensor([1j])),
        TypeError,
        "expected x to hold numbers, got dtype torch.complex64",
    ),
    "infinity": (
        lambda: as_data([[1.0, 2.0], [NAN, -INF], [INF, 0.0]]),
        ValueError,
        r"expected x to be finite or NaN \(missing\), got 2 infinite entries, the first in row 1; write NaN where",
    ),
    "infinity in a tree": (lambda: as_data({"a": X, "b": X / 0}), ValueError, r"expected x\['b'\] to be finite or NaN"),
    "infinity, sparse": (lambda: as_data(CSR), ValueError, "got 1 infinite entries; write NaN"),
    "sparse vector": (
        lambda: as_data(scipy.sparse.coo_array(np.ones(3))),
        ValueError,
        r"expected x to be a sparse matrix of rows, got 1 axes",
    ),
    "text columns": (
        lambda: as_data(pd.DataFrame({"a": [1.0], "kind": ["cat"]})),
        TypeError,
        r"expected x to hold columns of numbers, got 'kind' \(the levels 'cat': give it as a covariate or .*kinds",
    ),
    "categorical": (
        lambda: as_data(pd.DataFrame({"k": pd.Categorical([1])})),
        TypeError,
        "got 'k' .the levels '1': give",
    ),
    "dict of lengths": (
        lambda: as_data({"a": X, "b": X[:4]}),
        ValueError,
        r"one row a datum everywhere, got 6 rows in x\['a'\] and 4 in x\['b'\]; give both the same rows",
    ),
    "short labels": (lambda: as_data(X, labels=[1, 2]), ValueError, "got 6 rows in x and 2 in labels"),
    "short covariates": (lambda: as_data(X, {"c": X[:5]}), ValueError, r"got 6 rows in x and 5 in covariates\['c'\]"),
    "covariates are no dict": (
        lambda: as_data(X, X),
        TypeError,
        "expected covariates to be a dict from names to arrays, got Tensor",
    ),
    "missing covariates": (
        lambda: as_data(X, {"c": [0, 0, 0, NAN, 0, 0]}),
        ValueError,
        r"expected covariates\['c'\] without missing entries, got NaN in row 3; only x may be missing",
    ),
    "infinite covariates": (
        lambda: as_data(X, {"c": X / 0}),
        ValueError,
        r"expected covariates\['c'\] to be finite, got",
    ),
    "an array in Data": (
        lambda: Data(np.ones(3)),
        TypeError,
        r"expected x to be a tensor, got ndarray; write .*as_data\(x\)",
    ),
    "labels without a name in Data": (
        lambda: Data(X, labels=X[:, 0]),
        TypeError,
        r"expected labels to be a dict of tensors by name, got Tensor; write pyrovae.data.as_data\(x, labels=...\)",
    ),
    "a number in Data": (lambda: Data(torch.tensor(1.0)), ValueError, "expected x to have rows, got a single number"),
    "one row by number": (
        lambda: DATA[3],
        TypeError,
        r"mask of 6 truth values, got 3; write .* or data\[3:4\] for one row",
    ),
    "row by name": (lambda: DATA["x"], TypeError, "got 'x'; write"),
    "row by fraction": (lambda: DATA[[0.5]], TypeError, r"got \[0.5\]"),
    "short mask": (lambda: DATA[[True, False]], TypeError, "a mask of 6 truth values"),
    "two axes": (lambda: DATA[torch.zeros(2, 2).long()], TypeError, r"mask of 6 truth values, got tensor"),
    "outside": (lambda: DATA[[0, 6]], IndexError, "index 6 is out of bounds .*; the data has 6 rows"),
    "nothing selected": (
        lambda: DATA[6:],
        ValueError,
        r"expected at least one row and one entry, got x of shape \(0, 2\)",
    ),
    "no parts": (
        lambda: DATA.train,
        ValueError,
        r"expected data with a train part.*whose parts are: none; write .*split\(",
    ),
    "no part after rows": (lambda: load("digits")[:9].test, ValueError, r"before the rows: data.test\[:500\]"),
    "fraction 0": (lambda: split(DATA, 0), ValueError, r"expected a fraction in \(0, 1\), got 0; write fraction=0.1"),
    "fraction 1": (lambda: split(DATA, 1.0), ValueError, r"expected a fraction in \(0, 1\), got 1.0"),
    "fraction of one row": (
        lambda: split(DATA[:1], 0.5),
        ValueError,
        "some of the 1 rows to be left for training, got 1 for",
    ),
    "batch size 0": (lambda: batches(X, 0), ValueError, "batch_size must be at least 1, got 0"),
    "batch size 2.5": (lambda: batches(X, 2.5), TypeError, "batch_size must be an integer, got 2.5"),
    "nothing left": (
        lambda: batches(X, 7, drop_last=True),
        ValueError,
        "expected drop_last to leave a batch, got 6 rows for batch_size=7; write batch_size=6 or drop_last=False",
    ),
    "data set without size": (
        lambda: loader_batches(PAIRS),
        ValueError,
        "expected a batch_size for a Dataset, got none",
    ),
    "loader with size": (
        lambda: loader_batches(DataLoader(PAIRS), 4),
        ValueError,
        "got batch_size=4 with a DataLoader",
    ),
    "no loader": (lambda: loader_batches(3), TypeError, "expected a DataLoader, a Dataset or batches, got int"),
    "pair of data": (
        lambda: loaded(PAIRS, batch_size=3),
        ValueError,
        r"expected x and 0 covariates from the loader, got 2 parts; name .*covariates=\['label'\]",
    ),
    "too many names": (
        lambda: loaded(PAIRS, batch_size=3, covariates=["a", "b"]),
        ValueError,
        "x and 2 covariates",
    ),
    "names as text": (
        lambda: loaded(PAIRS, batch_size=3, covariates="label"),
        TypeError,
        r"got 'label'; write \['label'\]",
    ),
    "unread part": (
        lambda: loaded([{"x": X, "label": X}]),
        ValueError,
        r"expected each part beside 'x' to be named as a covariate, got 'label'; write covariates=\['label'\]",
    ),
    "lacking part": (
        lambda: loaded([{"x": X}], covariates=["label"]),
        ValueError,
        "expected the loader to yield a part named 'label', got: 'x'; correct covariates",
    ),
    "spent generator": (
        lambda: loaded(iter(())),
        ValueError,
        "expected batches from the loader, got none; a generator runs",
    ),
    "text among a loader's covariates": (
        lambda: loaded([{"x": X, "batch": list("abcabc")}], covariates=["batch"]),
        TypeError,
        "expected numbers from the loader, got text for 'batch': a batch does not know the levels of the others",
    ),
    "loader of text": (lambda: loaded(["abc"]), TypeError, "expected x to be an array of numbers, got str 'abc'"),
    "unknown name": (
        lambda: load("minst"),
        ValueError,
        "expected one of digits, mnist, .* got 'minst'; did you mean 'mnist'",
    ),
    "strange name": (lambda: load("qqq"), ValueError, "got 'qqq'; correct the name or the path"),
    "unknown variant": (
        lambda: load("digits", "grey"),
        ValueError,
        "variant must be one of counts, scaled, got 'grey'",
    ),
    "load an array": (
        lambda: load(X),
        TypeError,
        r"expected a name or a path, got Tensor; write pyrovae.data.as_data\(x\)",
    ),
    "array= of digits": (
        lambda: load("digits", array="x"),
        ValueError,
        "expected array= with a file only, got it for digits",
    ),
    "too big a part": (
        lambda: load("digits", test=1797),
        ValueError,
        "expected test to be a number of rows below 1797.*got 1797",
    ),
    "negative part": (
        lambda: load("digits", validation=-1),
        ValueError,
        "expected validation to be .* got -1; write validation=0.1",
    ),
    "part of 1.5 rows": (lambda: load("digits", validation=1.5), ValueError, "got 1.5"),
    "nothing to train on": (
        lambda: load("digits", validation=900, test=900),
        ValueError,
        "900 for validation and 900 for test",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2]))


def write_images(*sizes: tuple[int, int], mode: str = "L"):
    def write(path: Path) -> None:
        path.mkdir()
        for number, size in enumerate(sizes):
            Image.new(mode, size).save(path / f"{number}.{'tiff' if mode == 'F' else 'png'}")

    return write


def idx(*header: int, content: bytes = b""):
    return lambda path: path.write_bytes(
        struct.pack(">4B", *header[:4]) + struct.pack(f">{len(header) - 4}I", *header[4:]) + content
    )


FILES = {
    "absent": (
        "a.npy",
        lambda path: None,
        {},
        FileNotFoundError,
        "expected data at .*a.npy, got no such file or folder",
    ),
    "unknown ending": (
        "a.xlsx",
        Path.touch,
        {},
        ValueError,
        r"expected a file that ends in .npy, .npz, .*a.xlsx; save the rows",
    ),
    "pickled npy": (
        "a.npy",
        lambda path: np.save(path, np.array([{}], dtype=object)),
        {},
        ValueError,
        "pickles are never loaded, since they can run any code: save numbers",
    ),
    "a pickle": ("a.npy", write_pickle, {}, ValueError, "pickles are never loaded"),
    "pickled npz": ("a.npz", lambda path: np.savez(path, x=np.array([{}])), {}, ValueError, "pickles are never loaded"),
    "empty npy": ("a.npy", Path.touch, {}, ValueError, "cannot be read .*damaged or of another kind"),
    "short npy": ("a.npy", lambda path: path.write_bytes(_npy()[:-8]), {}, ValueError, "cannot be read .*damaged"),
    "damaged npz": (
        "a.npz",
        lambda path: path.write_bytes(b"PK\3\4 no zip"),
        {},
        ValueError,
        "cannot be read .*damaged",
    ),
    "several arrays": (
        "a.npz",
        lambda path: np.savez(path, images=X, masks=X),
        {},
        ValueError,
        ".*a.npz: expected one array of rows, got: 'images', 'masks'; say which one, array='images'",
    ),
    "no array": ("a.npz", np.savez, {}, ValueError, "expected one array of rows, got: none"),
    "another array": (
        "a.npz",
        lambda path: np.savez(path, images=X),
        {"array": "image"},
        ValueError,
        ".*a.npz: expected an array 'image', got: 'images'; correct array=",
    ),
    "other labels": (
        "a.npz",
        lambda path: np.savez(path, x=X),
        {"labels": "y"},
        ValueError,
        "an array 'y', got: 'x'; correct labels=",
    ),
    "array of npy": (
        "a.npy",
        lambda path: np.save(path, X),
        {"array": "x"},
        ValueError,
        "expected no array= for .*a.npy: this kind of file has none to pick",
    ),
    "infinite npy": (
        "a.npy",
        lambda path: np.save(path, X / 0),
        {},
        ValueError,
        "got 11 infinite entries, the first in row 0",
    ),
    "empty csv": ("a.csv", Path.touch, {}, ValueError, ".*a.csv: it is empty"),
    "csv header only": (
        "a.csv",
        lambda path: path.write_text("a,b\n"),
        {},
        ValueError,
        r"its first line is taken for names \(a, b\), and no row follows",
    ),
    "ragged csv": (
        "a.csv",
        lambda path: path.write_text("a,b\n1,2\n1,2,3\n"),
        {},
        ValueError,
        ".*a.csv: line 3 has 3 fields, and the first line has 2 .separator ','.: write one field",
    ),
    "binary csv": ("a.csv", lambda path: path.write_bytes(b"a,b\n\0\xfe,1\n"), {}, ValueError, "it holds zero bytes"),
    "text in csv": (
        "a.csv",
        lambda path: path.write_text("a,kind\n1,cat\n"),
        {},
        TypeError,
        "columns of numbers, got 'kind' .the levels 'cat': give",
    ),
    "infinite csv": ("a.csv", lambda path: path.write_text("a,b\n1,inf\n"), {}, ValueError, "got 1 infinite entries"),
    "other column": (
        "a.csv",
        lambda path: path.write_text("a,b\n1,2\n"),
        {"labels": "c"},
        ValueError,
        ".*a.csv: expected a column 'c' in the table, got: 'a', 'b'; correct its name",
    ),
    "array of csv": (
        "a.csv",
        lambda path: path.write_text("a\n1\n"),
        {"array": "x"},
        ValueError,
        "expected no array= for",
    ),
    "damaged parquet": ("a.parquet", lambda path: path.write_text("text"), {}, ValueError, "cannot be read .*damaged"),
    "no idx": (
        "a-ubyte",
        lambda path: path.write_bytes(b"\1\2\3\4"),
        {},
        ValueError,
        "'01020304', not those of an IDX file",
    ),
    "empty idx": ("a-ubyte", Path.touch, {}, ValueError, "not those of an IDX file"),
    "idx header": ("a-ubyte", idx(0, 0, 8, 3, 5), {}, ValueError, "its header is cut short; get it anew"),
    "short idx": (
        "a-ubyte",
        idx(0, 0, 8, 2, 2, 3, content=b"12345"),
        {},
        ValueError,
        r"\(2, 3\) asks for 18 bytes, and it has 17",
    ),
    "long idx": ("a-ubyte", idx(0, 0, 8, 1, 2, content=b"123"), {}, ValueError, "asks for 10 bytes, and it has 11"),
    "folder without images": ("a", Path.mkdir, {}, ValueError, "expected images in the folder .*got none; put files"),
    "images of two sizes": (
        "a",
        write_images((3, 2), (2, 3)),
        {},
        ValueError,
        r"expected images of one size, got \(2, 3\) \(height, width\) in .*0.png and \(3, 2\) in .*1.png; crop or resize",
    ),
    "images of floating point": (
        "a",
        write_images((3, 2), mode="F"),
        {},
        ValueError,
        "of 8 or 16 bits a channel, got mode F in .*0.tiff",
    ),
    "levels of deep images": (
        "a",
        write_images((3, 2), mode="I;16"),
        {"variant": "uint8"},
        ValueError,
        "expected variant 'uint16' or 'grey' for these images, got 'uint8'",
    ),
    "image variant": (
        "a",
        write_images((3, 2)),
        {"variant": "static"},
        ValueError,
        "expected variant 'uint8' .*got 'static'",
    ),
    "labels of images": ("a", write_images((3, 2)), {"labels": "y"}, ValueError, "expected no labels= for"),
}


def _npy() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, X.numpy())
    return buffer.getvalue()


@pytest.mark.parametrize("case", FILES)
def test_bad_files(tmp_path: Path, case: str):
    name, write, options, error, message = FILES[case]
    write(tmp_path / name)
    with pytest.raises(error, match=message):
        load(tmp_path / name, **options)


def test_a_broken_image_is_named(tmp_path: Path):
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"expected an image, got .*b.png, which cannot be read .*replace or remove"):
        load(tmp_path)


def test_a_truncated_image_is_named_when_it_is_read(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    data = load(tmp_path)
    with pytest.raises(ValueError, match=r"expected an image, got .*a.png, which cannot be read"):
        data.dense()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch):
    def lacking(path):
        raise ImportError("no engine")

    (tmp_path / "a.parquet").touch()
    monkeypatch.setattr(pd, "read_parquet", lacking)
    with pytest.raises(ImportError, match=r"expected pyarrow.*pip install 'pyrovae\[io\]', or save a .csv"):
        load(tmp_path / "a.parquet")
