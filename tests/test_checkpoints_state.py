"""A nested state comes back from its file bit for bit; what no file could keep is refused by its path."""

import enum
import json
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from pyrovae.files import check_state, load_state, save_state
from pyrovae.files.state import _DTYPES, HEADER_LIMIT

INF, NAN = float("inf"), float("nan")


def bits(tensor):
    """The bytes in row-major order, as NumPy gives them (which lacks bfloat16)."""
    plain = tensor.resolve_conj().resolve_neg()
    return plain.float().numpy().tobytes() if plain.dtype == torch.bfloat16 else plain.numpy().tobytes()


def assert_same(left, right, path="tree"):
    """Equal types, structures and bits: NaN equals NaN, 0.0 does not equal -0.0."""
    assert type(left) is type(right), path
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), path
        assert bits(left) == bits(right), path
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes()), path
    elif isinstance(left, dict):
        assert list(left) == list(right), path
        assert list(map(type, left)) == list(map(type, right)), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    else:
        assert repr(left) == repr(right), path


TREES = {
    "scalars": [None, True, False, 0, -1, 2**63, -(2**200), 0.1, -0.0, 1e-320, 1e308, 1.0, "", "Grüße \ud800 \x00 ∞"],
    "not finite": {"a": INF, "b": -INF, "c": NAN, "d": [INF, NAN]},
    "long numbers": {"floats": [0.1 * i for i in range(50)] + [INF, NAN, -0.0], "ints": list(range(-20, 20))},
    "almost numbers": [[1.0] * 20 + [1], [1] * 20 + [2**63], [True] * 20, [None] * 20, ["a"] * 20, [1.0] * 15],
    "tuples": ((), (1, (2, [3, (4.0,)])), tuple(range(100))),
    "keys": {0: "a", "0": "b", None: 1, True: 2, 1.5: 3, INF: 4, (1, ("x", INF)): {"$": "tensor", "name": "w"}},
    "mappings": {"ordered": OrderedDict(b=1, a=2), "counter": Counter({3: 2, 7: 1}), "empty": {}},
    "names that collide": {
        0: torch.tensor(0),
        "0": torch.tensor(1),
        "a/b": torch.tensor(2),
        "a": {"b": torch.tensor(3)},
    },
    "odd names": {
        "../../x": torch.ones(1),
        "": torch.ones(2),
        "__metadata__": torch.ones(3),
        "ß\ud800\n": torch.ones(4),
    },
    "arrays": [np.arange(6).reshape(2, 3).astype(d) for d in ("u1", "i8", "u4", "u8", "f2", "f4", "f8", "c8", "?")],
    "odd arrays": [np.array(1.5), np.zeros((0, 3)), np.arange(8)[::2], np.asfortranarray(np.eye(3)[:, :2])],
    "dtypes": {str(dtype): torch.arange(12).reshape(3, 4).to(dtype) for dtype in _DTYPES},
    "shapes": [
        torch.tensor(3.5),
        torch.zeros(0),
        torch.zeros(2, 0, 3),
        torch.zeros(1, 1, 1),
        torch.tensor([NAN, -0.0]),
    ],
    "keys that look like ours": {"$tensor": "w", "a": {"$": 1, "b": torch.ones(2)}, "$dict": [["a", 1]]},
    "channels last": [torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)],
    "views": [torch.eye(4)[::2], torch.eye(3).T, torch.ones(3, 1).expand(3, 5), torch.arange(6)[1:4], torch.eye(2)[1]],
    "views of one memory": [
        part for base in [torch.arange(9.0)] for part in (base.view(3, 3), base.view(3, 3).T, base[:3])
    ],
    "empties": [part for base in [torch.arange(9.0)] for part in (base[:0], base[3:3], base[3:3].view(0, 2), base)],
    "lazy views": [part for z in [torch.tensor([1 + 2j, 3j])] for part in (z, z.conj(), z.imag, z.conj().imag)],
    "numbers cut from a row": [torch.arange(12.0).reshape(3, 4)[:1, :1], torch.arange(12)[3::20], torch.eye(3)[2, 2]],
}


@pytest.mark.parametrize("name", TREES)
def test_every_state_comes_back_from_a_file_bit_for_bit(name, tmp_path):
    assert_same(load_state(save_state(tmp_path / "state.safetensors", TREES[name])), TREES[name])


@pytest.mark.parametrize("value", [np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True), np.str_("a")])
def test_numpy_scalars_come_back_as_equal_python_values(value, tmp_path):
    back = load_state(save_state(tmp_path / "state.safetensors", [value]))[0]
    assert back == value
    assert not isinstance(back, np.generic)


def test_a_size_and_a_parameter_come_back_as_a_tuple_and_a_plain_tensor(tmp_path):
    state = [torch.Size([2, 3]), nn.Parameter(torch.ones(2))]
    size, weight = load_state(save_state(tmp_path / "state.safetensors", state))
    assert type(size) is tuple
    assert size == (2, 3)
    assert type(weight) is torch.Tensor
    assert not weight.requires_grad


def test_a_shared_tensor_is_saved_once_and_comes_back_shared(tmp_path):
    weight = nn.Parameter(torch.randn(100, 100))
    path = save_state(tmp_path / "state.safetensors", {"encoder": weight, "pseudo": [weight.data, weight.detach()]})
    assert path.stat().st_size < 2 * weight.nbytes
    back = load_state(path)
    assert back["encoder"] is back["pseudo"][0]
    assert back["encoder"] is back["pseudo"][1]
    assert torch.equal(back["encoder"], weight)


def test_tensors_that_overlap_come_back_equal(tmp_path):
    base = torch.arange(20.0)
    tree = {
        "whole": base,
        "head": base[:7],
        "tail": base[5:],
        "square": base[:16].view(4, 4),
        "bits": base.view(torch.int32),
    }
    assert_same(load_state(save_state(tmp_path / "state.safetensors", tree)), tree)


def test_what_comes_back_shares_no_memory_with_the_file_nor_with_what_was_saved(tmp_path):
    weight, array = torch.zeros(3), np.zeros(3)
    path = save_state(tmp_path / "state.safetensors", [weight, array])
    back = load_state(path)
    path.write_bytes(b"x" * path.stat().st_size)
    weight += 1
    array += 1
    assert back[0].tolist() == back[1].tolist() == [0.0, 0.0, 0.0]
    back[0] += 1
    back[1] += 1


def test_safetensors_itself_reads_the_file_and_finds_the_same(tmp_path):
    tree = {"a": torch.randn(3), "b": {"c": torch.arange(5), "d": torch.zeros(0, 2)}}
    path = save_state(tmp_path / "state.safetensors", tree)
    read = safetensors.torch.load_file(path)
    assert {name: tuple(value.shape) for name, value in read.items()} == {"a": (3,), "b/c": (5,), "b/d": (0, 2)}
    assert torch.equal(read["b/c"], tree["b"]["c"])
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["pyrovae"])["kind"] == "checkpoint"


def test_equal_states_give_equal_files_in_every_process(tmp_path):
    code = (
        "import sys, torch; from pyrovae.files import save_state;"
        "save_state(sys.argv[1], {'b': torch.arange(3), 'a': [torch.ones(2), {'x': 1.5, 'y': None}]})"
    )
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in zip("12", files, strict=True):
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, env={"PYTHONHASHSEED": seed})
    assert files[0].read_bytes() == files[1].read_bytes()


class Color(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")
circle: list = []
circle.append(circle)
deep: list = []
for _ in range(10_000):
    deep = [deep]

UNKEPT = {
    "function": (
        {"optimizer": {"state": {0: {"closure": lambda: None}}}},
        r"^optimizer\.state\.0\.closure is of type function",
    ),
    "module": ([nn.Linear(1, 1)], r"^0 is of type Linear"),
    "top level": (object(), r"^the state is of type object"),
    "set": ({"names": {1, 2}}, r"^names is of type set"),
    "enum": ({"color": Color.RED}, r"^color is of type Color"),
    "named tuple": ({"at": Point(1, 2)}, r"^at is of type Point"),
    "dtype": ({"dtype": torch.float32}, r"^dtype is of type dtype"),
    "complex": ([1j], r"^0 is of type complex"),
    "long double": ([np.longdouble(1)], r"^0 is of type longdouble"),
    "date": ([np.datetime64("2020-01-01")], r"^0 is of type date"),
    "object array": ([np.array([None])], r"^0 is an array of object"),
    "text array": ([np.array(["a"])], r"^0 is an array of <U1"),
    "long double array": ([np.zeros(1, np.longdouble)], r"^0 is an array of (float128|longdouble)"),
    "big complex": ([torch.zeros(1, dtype=torch.complex128)], r"^0 is a strided tensor of torch.complex128"),
    "sparse": ([torch.eye(2).to_sparse()], r"^0 is a sparse_coo tensor"),
    "meta": ([torch.zeros(1, device="meta")], r"^0 is a strided tensor of torch.float32 on meta"),
    "lazy": ([nn.UninitializedParameter()], r"^0 is of type UninitializedParameter"),
    "key": ({"state": {torch.zeros(1): 1}}, r"^state is a dict with a key of type Tensor"),
    "key in a tuple": ({"state": {(1, len): 1}}, r"^state\.1 is of type builtin_function"),
    "circle": (circle, r"nested too deep, or in a circle"),
    "deep": (deep, r"nested too deep"),
}


@pytest.mark.parametrize("name", UNKEPT)
def test_what_cannot_be_kept_is_refused_by_its_path_before_anything_is_written(name, tmp_path):
    tree, message = UNKEPT[name]
    with pytest.raises((TypeError, ValueError), match=message):
        check_state(tree)
    with pytest.raises((TypeError, ValueError), match=message):
        save_state(tmp_path / "state.safetensors", tree)
    assert not list(tmp_path.iterdir())


def test_the_root_is_named_in_the_refusal():
    with pytest.raises(
        TypeError, match=r"^optimizer\.state\.0 is of type function.* A state holds .* Leave it out of the state"
    ):
        check_state({"state": [lambda: None]}, "optimizer")


@pytest.mark.parametrize(("length", "refused"), [(700, False), (1000, True)])
def test_texts_beyond_the_header_s_limit_are_refused_before_writing(tmp_path, monkeypatch, length, refused):
    monkeypatch.setattr("pyrovae.files.state.HEADER_LIMIT", 1000)
    if not refused:
        save_state(tmp_path / "state.safetensors", ["x" * length])
        return
    with pytest.raises(ValueError, match="the limit is 1000: put long lists of numbers into tensors"):
        save_state(tmp_path / "state.safetensors", ["x" * length])
    assert not list(tmp_path.iterdir())


def test_the_limit_is_what_safetensors_itself_reads(tmp_path):
    """A header of that length and of one more byte, full of blanks that the file's reader sees first."""
    path = tmp_path / "state.safetensors"
    for length, message in ((HEADER_LIMIT, "invalid header length"), (HEADER_LIMIT + 1, "header too large")):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(safetensors.SafetensorError, match=message), safetensors.safe_open(path, "pt"):
            pass
