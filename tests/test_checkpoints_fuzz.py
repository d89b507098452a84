"""Files from strangers: whatever stands in them, a message or the same state; never code, never much memory or time."""

import contextlib
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

from pyrovae.files import DamagedError, NewerFormatError, load_state, save_file_atomic, save_state
from pyrovae.files.state import HEADER_LIMIT, VERSION, _checksum

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
    path = save_state(tmp_path_factory.mktemp("original") / "state.safetensors", state())
    load_state(path)  # whatever is imported late is imported now
    return path.read_bytes()


def split(raw):
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header, data, text=None):
    head = json.dumps(header).encode() if text is None else text
    return len(head).to_bytes(8, "little") + head + data


# 480 mutations without regard for the checksum, 60 of each kind


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
        rng.choice([2**63, 2**64 - 1, HEADER_LIMIT, HEADER_LIMIT + 1, rng.randrange(2**64)]).to_bytes(8, "little")
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
        return load_state(path)
    except (DamagedError, NewerFormatError) as error:
        return str(error)


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_480_mutated_files_are_refused_with_a_message_or_loaded_equal(mutate, original, tmp_path):
    rng, path, expected, outcomes = random.Random(mutate.__name__), tmp_path / "state.safetensors", flat(state()), []
    for _ in range(60):
        path.write_bytes(mutate(original, rng))
        with on_a_short_leash(path):
            outcomes.append(load_or_reason(path))
    reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert all(str(path) in reason and len(reason) < 1000 for reason in reasons)
    assert all(flat(outcome) == expected for outcome in outcomes if not isinstance(outcome, str))
    assert len(reasons) >= 50  # of 60: a shape that reads the same backwards is none, for instance


def test_every_single_bit_that_changes_is_noticed(tmp_path):
    """Exhaustive on a small file: each of its bits flipped in turn."""
    path = save_state(tmp_path / "state.safetensors", {"w": torch.ones(2)})
    raw = path.read_bytes()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises((DamagedError, NewerFormatError)):
            load_state(path)


# Forgeries: what is no safetensors file, and files with a right checksum over a state that the library never wrote


def text(content, data=b""):
    return join(None, data, text=content)


def forged(node, tensors=None, **about):
    about = {"kind": "checkpoint", "version": VERSION, "state": node, **about}
    tensors = tensors or {}
    return safetensors.torch.save(tensors, {"pyrovae": json.dumps({**about, "sha256": _checksum(about, tensors)})})


def header(data=b"\0" * 8, **changes):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    entry = {key: value for key, value in entry.items() if value != "absent"}
    about = {"kind": "checkpoint", "version": VERSION, "state": {"w": {"$tensor": "w"}}}
    sealed = {**about, "sha256": _checksum(about, {"w": torch.zeros(2)})}
    return join({"__metadata__": {"pyrovae": json.dumps(sealed)}, "w": entry}, data)


def two(first, second, data=b"\0" * 16):
    entries = [{"dtype": "F32", "shape": [(b - a) // 4], "data_offsets": [a, b]} for a, b in (first, second)]
    return join({"a": entries[0], "b": entries[1]}, data)


def booleans(first, second):
    return {"w": torch.tensor([first, second], dtype=torch.uint8).view(torch.bool)}


def forged_booleans(first, second):
    """The checksum of other bytes, which the library itself would not compute."""
    return forged({"w": {"$tensor": "w"}}, booleans(1, 1)).replace(b"\x01\x01", bytes([first, second]))


ONE = {"w": torch.ones(2)}
DAMAGED = "is damaged, or no checkpoint of pyrovae: "
FORM = f"{DAMAGED}.*"  # the reasons of Python's own errors differ by version
FORGERIES = {
    "nothing": (b"", f"{DAMAGED}Error"),
    "seven bytes": (b"\0" * 7, f"{DAMAGED}Error"),
    "eight zeros": (b"\0" * 8, f"{DAMAGED}Error"),
    "a pickle": (b"\x80\x04\x95" + b"cos\nsystem\n(S'touch /tmp/pwned'\ntR." * 9, f"{DAMAGED}Error"),
    "a zip": (b"PK\x03\x04" + bytes(2000), f"{DAMAGED}Error"),
    "header beyond the file": ((10**6).to_bytes(8, "little") + b"{}", "invalid header length"),
    "header of 2^63": ((2**63).to_bytes(8, "little") + b"{}", "header too large"),
    "header no table": (text(b"[]"), f"{DAMAGED}Error"),
    "header no text": (text(b"\xff\xff"), f"{DAMAGED}Error"),
    "header cut": (text(b'{"a"'), f"{DAMAGED}Error"),
    "header nested": (text(b'{"a":' * 50_000), f"{DAMAGED}Error"),
    "header lists nested": (text(b"[" * 10**6), f"{DAMAGED}Error"),
    "header long integer": (text(b'{"a":' + b"9" * 10**5 + b"}"), f"{DAMAGED}Error"),
    "metadata no table": (text(b'{"__metadata__":[]}'), f"{DAMAGED}Error"),
    "metadata numbers": (text(b'{"__metadata__":{"pyrovae":1}}'), f"{DAMAGED}Error"),
    "no metadata": (safetensors.torch.save({"w": torch.ones(2)}), "safetensors file of another origin"),
    "another origin": (safetensors.torch.save({"w": torch.ones(2)}, {"format": "pt"}), "file of another origin"),
    "another kind": (forged(None, kind="weights"), "it is a 'weights' file"),
    "kind a list": (forged(None, kind=["checkpoint"]), "it is a .* file"),
    "about a list": (safetensors.torch.save({}, {"pyrovae": "[]"}), "file of another origin"),
    "about no JSON": (safetensors.torch.save({}, {"pyrovae": "{"}), FORM),
    "about nested": (safetensors.torch.save({}, {"pyrovae": "[" * 10**5}), FORM),
    "about long integer": (safetensors.torch.save({}, {"pyrovae": "9" * 10**5}), FORM),
    "no version": (forged(None, version=None), "no valid format version"),
    "version a text": (forged(None, version="1"), "no valid format version"),
    "version true": (forged(None, version=True), "no valid format version"),
    "version zero": (forged(None, version=0), "no valid format version"),
    "newer version": (
        forged(None, version=VERSION + 1),
        f"has format version {VERSION + 1}, .* up to {VERSION}: upgrade",
    ),
    "newer by far": (forged(None, version=10**4000), "has format version 1000"),
    "no checksum": (
        safetensors.torch.save({}, {"pyrovae": json.dumps({"kind": "checkpoint", "version": VERSION, "state": 1})}),
        "checksum does not match",
    ),
    "no state": (forged(None).replace(b"state", b"stale"), "checksum does not match"),
    "entry no table": (join({"w": [1]}, b""), f"{DAMAGED}Error"),
    "entry empty": (join({"w": {}}, b""), f"{DAMAGED}Error"),
    "dtype unknown": (header(dtype="F128"), f"{DAMAGED}Error"),
    "dtype a list": (header(dtype=["F32"]), f"{DAMAGED}Error"),
    "dtype another": (header(dtype="I32"), "checksum does not match"),
    "shape absent": (header(shape="absent"), f"{DAMAGED}Error"),
    "shape text": (header(shape="22"), f"{DAMAGED}Error"),
    "shape negative": (header(shape=[-1, -2]), f"{DAMAGED}Error"),
    "shape real": (header(shape=[2.0]), f"{DAMAGED}Error"),
    "shape boolean": (header(shape=[2, True]), f"{DAMAGED}Error"),
    "shape huge": (header(shape=[2**40, 2**40]), f"{DAMAGED}Error"),
    "shape of long integers": (header(shape=[10**4000]), f"{DAMAGED}Error"),
    "shape huge and empty": (header(b"", shape=[0, 2**40, 2**40], data_offsets=[0, 0]), "is damaged"),
    "shape of 65 axes": (header(shape=[1] * 64 + [2]), "is damaged"),
    "shape another": (header(shape=[2, 1]), "checksum does not match"),
    "shape wrong": (header(shape=[3]), f"{DAMAGED}Error"),
    "offsets reversed": (header(data_offsets=[8, 0]), f"{DAMAGED}Error"),
    "offsets negative": (header(data_offsets=[-8, 0]), f"{DAMAGED}Error"),
    "offsets of three": (header(data_offsets=[0, 8, 8]), f"{DAMAGED}Error"),
    "offsets beyond": (header(data_offsets=[8, 16]), f"{DAMAGED}Error"),
    "data missing": (header(b"\0" * 4), f"{DAMAGED}Error"),
    "data left over": (header(b"\0" * 12), f"{DAMAGED}Error"),
    "data another": (header(b"\0" * 7 + b"\1"), "checksum does not match"),
    "terabytes": (header(shape=[2**38], data_offsets=[0, 2**40]), f"{DAMAGED}Error"),
    "overlap": (two((0, 12), (8, 16)), f"{DAMAGED}Error"),
    "the same bytes": (two((0, 8), (0, 8), b"\0" * 8), f"{DAMAGED}Error"),
    "gap": (two((0, 4), (8, 16)), f"{DAMAGED}Error"),
    "booleans of 2": (forged_booleans(2, 1), "is boolean and holds other bytes than 0 and 1"),
    "state not finite": (forged([float("nan")]), "another form"),
    "state nested": (
        safetensors.torch.save({}, {"pyrovae": '{"kind":"checkpoint","version":1,"state":' + "[" * 10**5}),
        FORM,
    ),
    "state nested somewhat": (forged(json.loads("[" * 900 + "]" * 900)), FORM),
    "unknown form": (forged({"$object": "os.system"}), FORM),
    "form and more": (forged({"$tensor": "w", "$float": "nan"}, ONE), FORM),
    "form and a key": (forged({"$tensor": "w", "a": 1}, ONE), FORM),
    "tensor absent": (forged({"$tensor": "w"}), f"{FORM}'w'"),
    "tensor of a list": (forged({"w": {"$tensor": ["w"]}}, ONE), FORM),
    "tensor spare": (forged(None, ONE), "another form"),
    "tensor of another name": (forged({"v": {"$tensor": "w"}}, ONE), "another form"),
    "array of bfloat16": (forged({"w": {"$array": "w"}}, {"w": torch.ones(2).bfloat16()}), FORM),
    "tuple of text": (forged({"$tuple": "ab"}), "another form"),
    "tuple of none": (forged({"$tuple": None}), FORM),
    "finite number as text": (forged({"$float": "1.5"}), "another form"),
    "number of text": (forged({"$float": "1_0"}), "another form"),
    "number of a list": (forged({"$float": [1]}), FORM),
    "dict of text": (forged({"$dict": "ab"}), FORM),
    "dict of triples": (forged({"$dict": [[1, 2, 3]]}), FORM),
    "dict of plain keys": (forged({"$dict": [["a", 1]]}), "another form"),
    "dict key a list": (forged({"$dict": [[[], 1]]}), FORM),
    "dict key twice": (forged({"$dict": [[1, 1], [True, 2]]}), "another form"),
    "counter of lists": (forged({"$Counter": [[1]]}), FORM),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_with_its_reason(name, tmp_path):
    raw, message = FORGERIES[name]
    path = save_file_atomic(tmp_path / "state.safetensors", raw)
    error = NewerFormatError if name.startswith("newer") else DamagedError
    with on_a_short_leash(path), pytest.raises(error, match=message) as caught:
        load_state(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_forger_s_tools_make_valid_files_too(tmp_path):
    """Otherwise the forgeries above could be refused for the tool's sake."""
    path = tmp_path / "state.safetensors"
    for raw, expected in ((header(), torch.zeros(2)), (forged({"w": {"$tensor": "w"}}, ONE), torch.ones(2))):
        assert torch.equal(load_state(save_file_atomic(path, raw))["w"], expected)
    assert load_state(save_file_atomic(path, forged_booleans(1, 1)))["w"].tolist() == [True, True]
    assert load_state(save_file_atomic(path, forged({"$dict": [[1, 1], [2, 2]]}))) == {1: 1, 2: 2}
    assert load_state(save_file_atomic(path, forged(json.loads("[" * 50 + "]" * 50)))) is not None
    save_file_atomic(path, two((0, 8), (8, 16)))
    assert len(safetensors.torch.load_file(path)) == 2


def test_names_are_never_paths(tmp_path):
    tree = {"../outside": torch.ones(1), "/etc/passwd": torch.zeros(1), "..": {"..": torch.zeros(2)}}
    path = save_state(tmp_path / "run" / "state.safetensors", tree)
    with on_a_short_leash(path):
        assert load_state(path)["../outside"] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_and_never_read(make, tmp_path):
    make(tmp_path / "state.safetensors")
    with pytest.raises(DamagedError, match="not a regular file"):
        load_state(tmp_path / "state.safetensors")


def test_a_file_of_many_terabytes_that_is_all_holes_is_not_read(tmp_path):
    path = tmp_path / "state.safetensors"
    with open(path, "wb") as file:
        file.truncate(2**42)
    with pytest.raises(DamagedError):
        load_state(path)
