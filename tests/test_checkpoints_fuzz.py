"""Files from strangers: whatever stands in them, a message or the same state; never code, never much memory or time."""

import contextlib
import hashlib
import json
import os
import random
import resource
import sys
import time
import tracemalloc

import pytest
import safetensors.torch
import torch

from pyrovae.files import DamagedError, NewerFormatError, load_tree, save_file_atomic, save_tree
from pyrovae.files.header import HEADER_LIMIT

CODE_EVENTS = {"exec", "compile", "import", "pickle.find_class", "marshal.loads", "os.system", "subprocess.Popen"}
WATCHED: list[tuple] | None = None


def watch(event, arguments):
    if WATCHED is not None and (event in CODE_EVENTS or event == "open"):
        WATCHED.append((event, str(arguments[0])))


sys.addaudithook(watch)  # cannot be taken away again, so it sleeps unless a list is there


@contextlib.contextmanager
def on_a_short_leash(path, memory=2**26, seconds=2.0):
    """Fails if the block runs code, opens another file, takes more memory than a few copies of this one, or long."""
    global WATCHED
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, hard))
    tracemalloc.start()
    start, WATCHED = time.perf_counter(), []
    try:
        yield
    finally:
        seen, WATCHED = WATCHED, None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert [entry for entry in seen if entry != ("open", str(path))] == []
    assert time.perf_counter() - start < seconds
    assert peak < 20 * os.path.getsize(path) + 2**20


def state():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 5, generator=generator)
    return {
        "model": {"encoder.weight": weight, "tied": weight, "mask": torch.tensor([True, False])},
        "other": torch.randn(8, 5, generator=generator),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(8, 5)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
        "history": {"loss": [1.0 / (i + 1) for i in range(40)], "beta": [float("inf"), 0.5]},
        "layout": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
    }


def flat(tree):
    """The state as text, every number by its exact value."""
    return repr(torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: (t.dtype, t.tolist()), tree))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = save_tree(tmp_path_factory.mktemp("original") / "state.safetensors", state())
    load_tree(path)  # whatever is imported late is imported now
    return path.read_bytes()


def split(raw):
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header, data, length=None, text=None):
    """A file with a header of ours, and the checksum that belongs to it: a forger can compute one too."""
    header = {**header, "__metadata__": {**header["__metadata__"], "sha256": "0" * 64}} if text is None else header
    head = json.dumps(header).replace('"sha256": "', '"sha256":"').encode() if text is None else text
    raw = (len(head) if length is None else length).to_bytes(8, "little") + head + data
    return raw.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(raw).hexdigest().encode(), 1)


# 200 mutations without regard for the checksum, 25 of each kind


def flip(raw, rng):
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def flip_header(raw, rng):
    raw = bytearray(raw)
    raw[rng.randrange(8 + int.from_bytes(raw[:8], "little"))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def truncate(raw, rng):
    return raw[: rng.randrange(len(raw))]


def insert(raw, rng):
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.randbytes(rng.choice([1, 8, 1000])) + raw[at:]


def huge_header(raw, rng):
    return (
        rng.choice([2**63, 2**64 - 1, HEADER_LIMIT, HEADER_LIMIT + 1, 10**8, rng.randrange(2**64)]).to_bytes(
            8, "little"
        )
        + raw[8:]
    )


def swap_tensors(raw, rng):
    header, data = split(raw)
    one, other = rng.sample(sorted(set(header) - {"__metadata__"}), 2)
    header[one], header[other] = header[other], header[one]
    return rng.choice([lambda: join(header, data), lambda: join(header, data)[:-1] + b"\x7f"])()


def wrong_shape(raw, rng):
    header, data = split(raw)
    entry = header[rng.choice(sorted(set(header) - {"__metadata__"}))]
    entry["shape"] = rng.choice(
        [[*entry["shape"], 1], [2**40, 2**40], [-1], [], entry["shape"][::-1], [0], [[1]], None]
    )
    return join(header, data)


def rename(raw, rng):
    header, data = split(raw)
    name = rng.choice(sorted(set(header) - {"__metadata__"}))
    new = rng.choice(["../../etc/passwd", "/etc/passwd", "..", "\x00", "C:\\x", "a" * 10_000, "", "%s%n", "model/tied"])
    return join({new if key == name else key: value for key, value in header.items()}, data)


MUTATIONS = [flip, flip_header, truncate, insert, huge_header, swap_tensors, wrong_shape, rename]


def load_or_reason(path):
    try:
        return load_tree(path)
    except (DamagedError, NewerFormatError) as error:
        return str(error)


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_200_mutated_files_are_refused_with_a_message_or_loaded_equal(mutate, original, tmp_path):
    rng, path, expected, outcomes = random.Random(mutate.__name__), tmp_path / "state.safetensors", flat(state()), []
    for _ in range(25):
        path.write_bytes(mutate(original, rng))
        with on_a_short_leash(path):
            outcomes.append(load_or_reason(path))
    loaded = [tree for tree in outcomes if not isinstance(tree, str)]
    assert all(str(path) in reason and len(reason) < 1000 for reason in outcomes if isinstance(reason, str))
    if mutate in (swap_tensors, wrong_shape):
        # Consistent forgeries: another state of a valid form, which the model's own shapes must judge.
        assert len(loaded) < 25
    else:
        assert all(flat(tree) == expected for tree in loaded)
        assert len(loaded) <= 3


def test_every_single_bit_that_changes_is_noticed(tmp_path):
    """Exhaustive on a small file: each of its bits flipped in turn."""
    path = save_tree(tmp_path / "state.safetensors", {"w": torch.ones(2)})
    raw = path.read_bytes()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises((DamagedError, NewerFormatError)):
            load_tree(path)


# Forgeries with a right checksum


def header_of(**entries):
    return {"__metadata__": {"format": "pyrovae-checkpoint", "version": "1", "tree": "null"}, **entries}


def forged_tensor(data=b"\0" * 8, tree='{"$":"tensor","name":"w"}', **changes):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    entry = {key: value for key, value in entry.items() if value != "absent"}
    return join({"__metadata__": {**header_of()["__metadata__"], "tree": tree}, "w": entry}, data)


def forged_tree(tree, **texts):
    return join({"__metadata__": {**header_of()["__metadata__"], "tree": tree, **texts}}, b"")


def two(first, second, data=b"\0" * 16):
    entries = [{"dtype": "F32", "shape": [(b - a) // 4], "data_offsets": [a, b]} for a, b in (first, second)]
    tree = '[{"$":"tensor","name":"a"},{"$":"tensor","name":"b"}]'
    return join({"__metadata__": {**header_of()["__metadata__"], "tree": tree}, "a": entries[0], "b": entries[1]}, data)


def text(content, data=b""):
    return join(None, data, text=content)


def node(**fields):
    return json.dumps({"$" if key == "tag" else key: value for key, value in fields.items()})


FORGERIES = {
    "nothing": (b"", "truncated: 0 bytes"),
    "seven bytes": (b"\0" * 7, "truncated: 7 bytes"),
    "eight zeros": (b"\0" * 8, "not valid JSON"),
    "a pickle": (b"\x80\x04\x95" + b"cos\nsystem\n(S'touch /tmp/pwned'\ntR." * 9, "not a safetensors file"),
    "a zip": (b"PK\x03\x04" + bytes(2000), "truncated|not a safetensors"),
    "header beyond the file": ((10**6).to_bytes(8, "little") + b"{}", "truncated: its header has 1000000 bytes"),
    "header of 2^63": ((2**63).to_bytes(8, "little") + b"{}", f"more than the limit of {HEADER_LIMIT}"),
    "header no table": (text(b"[]"), "not a table of tensors"),
    "header no text": (text(b"\xff\xff"), "not valid JSON"),
    "header cut": (text(b'{"a"'), "not valid JSON"),
    "header nested": (text(b'{"a":' * 50_000), "nested too deep"),
    "header lists nested": (text(b"[" * 10**6), "nested too deep"),
    "header long integer": (text(b'{"a":' + b"9" * 10**5 + b"}"), "not valid JSON"),
    "name twice": (text(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'), "a key is given twice"),
    "key twice": (text(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "a key is given twice"),
    "metadata no table": (text(b'{"__metadata__":[]}'), "metadata of .* are not a table"),
    "metadata numbers": (text(b'{"__metadata__":{"format":1}}'), "metadata of .* are not a table"),
    "no metadata": (safetensors.torch.save({"w": torch.ones(2)}), "safetensors file of another origin"),
    "another origin": (safetensors.torch.save({"w": torch.ones(2)}, {"format": "pt"}), "a 'pt' file, expected"),
    "another kind": (
        join({"__metadata__": {"format": "pyrovae-model", "version": "1"}}, b""),
        "a 'pyrovae-model' file",
    ),
    "no version": (join({"__metadata__": {"format": "pyrovae-checkpoint"}}, b""), "no valid format version"),
    "odd version": (forged_tree("null", version="٣"), "no valid format version"),
    "long version": (forged_tree("null", version="9" * 10**5), "no valid format version"),
    "newer version": (forged_tree("null", version="7"), "format version 7, this pyrovae reads up to 1: upgrade it"),
    "no checksum": (text(b'{"__metadata__":{"format":"pyrovae-checkpoint","version":"1"}}'), "carries no checksum"),
    "text of half a character": (forged_tree("null", note="\ud800"), "metadata of .* are not a table"),
    "checksum of half characters": (text(b'{"__metadata__":{"sha256":"' + rb"\ud800" * 64 + b'"}}'), "metadata of"),
    "name of half a character": (join(header_of(**{"\ud800": {}}), b""), "lacks one of"),
    "entry no table": (join(header_of(w=[1]), b""), "lacks one of"),
    "entry empty": (join(header_of(w={}), b""), "lacks one of dtype, shape, data_offsets"),
    "entry with more": (forged_tensor(extra=1), "or has more than these"),
    "dtype unknown": (forged_tensor(dtype="F128"), "has dtype 'F128'; known are F64"),
    "dtype a list": (forged_tensor(dtype=["F32"]), "has dtype"),
    "shape absent": (forged_tensor(shape="absent"), "lacks one of"),
    "shape text": (forged_tensor(shape="22"), "no valid shape"),
    "shape negative": (forged_tensor(shape=[-1, -2]), "no valid shape"),
    "shape real": (forged_tensor(shape=[2.0]), "no valid shape"),
    "shape boolean": (forged_tensor(shape=[2, True]), "no valid shape"),
    "shape huge": (forged_tensor(shape=[2**40, 2**40]), "no valid shape"),
    "shape of long integers": (forged_tensor(shape=[10**4000]), "no valid shape"),
    "shape huge and empty": (forged_tensor(b"", shape=[0, 2**40, 2**40], data_offsets=[0, 0]), "no valid shape"),
    "shape of 65 axes": (forged_tensor(shape=[1] * 64 + [2]), "no valid shape"),
    "shape wrong": (forged_tensor(shape=[3]), r"shape \[3\] of F32 does not fill the bytes \[0, 8\]"),
    "offsets reversed": (forged_tensor(data_offsets=[8, 0]), "does not fill"),
    "offsets negative": (forged_tensor(data_offsets=[-8, 0]), "no valid offsets"),
    "offsets of three": (forged_tensor(data_offsets=[0, 8, 8]), "no valid offsets"),
    "offsets real": (forged_tensor(data_offsets=[0.0, 8.0]), "no valid offsets"),
    "offsets beyond": (forged_tensor(data_offsets=[8, 16]), "overlap or leave a gap at byte 0"),
    "data missing": (forged_tensor(b"\0" * 4), "truncated: its tensors have 8 bytes, 4 stand there"),
    "data left over": (forged_tensor(b"\0" * 12), "longer than it says: its tensors have 8 bytes, 12"),
    "terabytes": (forged_tensor(shape=[2**38], data_offsets=[0, 2**40]), "truncated"),
    "overlap": (two((0, 12), (8, 16)), "overlap or leave a gap at byte 12"),
    "the same bytes": (two((0, 8), (0, 8), b"\0" * 8), "overlap or leave a gap at byte 8"),
    "gap": (two((0, 4), (8, 16)), "overlap or leave a gap at byte 4"),
    "booleans of 2": (forged_tensor(b"\x02\x01", dtype="BOOL", data_offsets=[0, 2]), "holds other bytes than 0 and 1"),
    "tree absent": (join({"__metadata__": {"format": "pyrovae-checkpoint", "version": "1"}}, b""), "not valid JSON"),
    "tree no JSON": (forged_tree("{"), "the state is not valid JSON"),
    "tree not finite": (forged_tree("[NaN]"), "NaN is no JSON number"),
    "tree overflows": (forged_tree("1e999"), "overflows"),
    "tree nested": (forged_tree("[" * 10**5 + "]" * 10**5), "nested too deep"),
    "tree nested somewhat": (forged_tree("[" * 200 + "]" * 200), "the state is nested too deep"),
    "key of a table twice": (forged_tree('{"a":1,"a":2}'), "a key is given twice"),
    "unknown form": (forged_tree(node(tag="object", name="os.system")), "the unknown form 'object'"),
    "form no text": (forged_tree(node(tag=["tensor"])), "the unknown form"),
    "tensor absent": (forged_tree(node(tag="tensor", name="w")), "names the tensor 'w', which the file lacks"),
    "tensor unnamed": (forged_tree(node(tag="tensor")), "no valid 'name'"),
    "tensor spare": (forged_tensor(tree="null"), "'w' belongs to no place in the state"),
    "axes text": (forged_tensor(tree=node(tag="tensor", name="w", axes="0")), "no valid 'axes'"),
    "axes wrong": (forged_tensor(tree=node(tag="tensor", name="w", axes=[1])), "no valid axes"),
    "axes too many": (forged_tensor(tree=node(tag="tensor", name="w", axes=[0, 0])), "no valid axes"),
    "axes boolean": (forged_tensor(tree=node(tag="tensor", name="w", axes=[False])), "no valid axes"),
    "floats of float32": (forged_tensor(tree=node(tag="floats", name="w")), "is no list of floats"),
    "ints of float32": (forged_tensor(tree=node(tag="ints", name="w")), "is no list of ints"),
    "array of bfloat16": (
        forged_tensor(b"\0" * 4, node(tag="array", name="w"), dtype="BF16", data_offsets=[0, 4]),
        "is no array",
    ),
    "tuple of text": (forged_tree(node(tag="tuple", items="ab")), "a tuple has no valid items"),
    "tuple of none": (forged_tree(node(tag="tuple")), "a tuple has no valid items"),
    "number of text": (forged_tree(node(tag="float", value="1_0")), "a number is given as '1_0'"),
    "dict of text": (forged_tree(node(tag="dict", items="ab")), "no valid 'items'"),
    "dict of triples": (forged_tree(node(tag="dict", items=[[1, 2, 3]])), "an item that is no pair"),
    "dict of text pairs": (forged_tree(node(tag="dict", items=["ab"])), "an item that is no pair"),
    "dict key a list": (forged_tree(node(tag="dict", items=[[[], 1]])), "a key that cannot be one"),
    "dict key twice": (forged_tree(node(tag="dict", items=[[1, 1], [True, 2]])), "the same key twice"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_with_a_right_checksum_is_refused_with_its_reason(name, tmp_path):
    raw, message = FORGERIES[name]
    path = save_file_atomic(tmp_path / "state.safetensors", raw)
    with on_a_short_leash(path), pytest.raises((DamagedError, NewerFormatError), match=message) as caught:
        load_tree(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_forger_s_tools_make_valid_files_too(tmp_path):
    """Otherwise the forgeries above could be refused for the tool's sake."""
    path = save_file_atomic(tmp_path / "state.safetensors", forged_tensor(b"\0\0\x80\x3f" * 2))
    assert torch.equal(load_tree(path), torch.ones(2))
    save_file_atomic(path, two((0, 8), (8, 16)))
    assert [len(tensor) for tensor in load_tree(path)] == [2, 2]


def test_names_are_never_paths(tmp_path):
    tree = {"../outside": torch.ones(1), "/etc/passwd": torch.zeros(1), "..": {"..": torch.zeros(2)}}
    path = save_tree(tmp_path / "run" / "state.safetensors", tree)
    with on_a_short_leash(path):
        assert load_tree(path)["../outside"] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_and_never_read(make, tmp_path):
    make(tmp_path / "state.safetensors")
    with pytest.raises(DamagedError, match="not a regular file"):
        load_tree(tmp_path / "state.safetensors")


def test_a_file_of_many_terabytes_that_is_all_holes_is_not_read(tmp_path):
    path = tmp_path / "state.safetensors"
    with open(path, "wb") as file:
        file.truncate(2**42)
    with pytest.raises(DamagedError):
        load_tree(path)
