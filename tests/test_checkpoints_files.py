"""A file is whole or absent: full disks, unwritable folders, killed writers."""

import contextlib
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from pyrovae.files import (
    CheckpointStore,
    DamagedError,
    read_json,
    remove_leftovers,
    save_file_atomic,
    write_json_atomic,
)

NOBODY = 65534


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def tmpfs(folder, *options):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=256k", *options]), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def somebody_else():
    """The superuser writes everywhere, so become nobody for a while; others lose the right by the folder's mode."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def tree(step, size=1000):
    return {"step": step, "weights": torch.full((size,), float(step))}


def assert_intact(folder, step):
    """The newest checkpoint is the one of `step`, whole, and no temporary file is left."""
    loaded, _ = CheckpointStore(folder).load_latest()
    assert loaded["step"] == step
    assert torch.equal(loaded["weights"], tree(step, len(loaded["weights"]))["weights"])
    assert all(path.name.startswith("checkpoint-") for path in Path(folder).iterdir())


def assert_refused(store, message, number):
    big = tree(2, 1_000_000)
    with pytest.raises(OSError, match=message) as caught:
        store.save(big, 2)
    assert caught.value.errno == number
    assert store.folder.name in str(caught.value)
    assert big["step"] == 2
    assert bool((big["weights"] == 2.0).all())


def test_a_file_size_limit_leaves_the_earlier_checkpoint_and_no_trace(tmp_path):
    store = CheckpointStore(tmp_path / "run")
    store.save(tree(1), 1)
    with file_size_limit(1_000_000):
        assert_refused(store, "file-size limit: raise it", errno.EFBIG)
    assert_intact(store.folder, 1)
    store.save(tree(3), 3)
    assert_intact(store.folder, 3)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_trace(tmp_path):
    with tmpfs(tmp_path / "disk") as folder:
        store = CheckpointStore(folder)
        store.save(tree(1), 1)
        assert_refused(store, "the disk is full: free some space", errno.ENOSPC)
        assert_intact(folder, 1)


def test_a_read_only_disk_is_refused(tmp_path):
    with tmpfs(tmp_path / "disk", "ro") as folder, pytest.raises(OSError, match="read-only: choose another folder"):
        CheckpointStore(folder / "run").save(tree(1), 1)


def test_an_unwritable_folder_is_refused_and_keeps_its_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "run")
    store.save(tree(1), 1)
    store.folder.chmod(0o555)
    with somebody_else():
        assert_refused(store, "not writable: choose another one, or change its permissions", errno.EACCES)
    store.folder.chmod(0o755)
    assert_intact(store.folder, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file/run/a.json", "is in the way: choose another folder"),
        ("file/a.json", "is in the way: choose another folder"),
        ("folder", "is in the way: choose another folder"),
        ("n" * 300, "too long for this disk"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path, path, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=message):
        save_file_atomic(tmp_path / path, b"x")
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_writer_that_fails_half_way_changes_nothing(tmp_path):
    path = save_file_atomic(tmp_path / "figure.png", b"old")

    def write(file):
        file.write(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_file_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    log = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        log.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (log.append("rename"), replace(*paths)))
    save_file_atomic(tmp_path / "a", b"x")
    assert log == ["file", "rename", "folder"]


def test_a_writer_killed_half_way_leaves_the_old_file_and_one_leftover_that_is_removed(tmp_path):
    path = save_file_atomic(tmp_path / "a.json", b"old")
    code = (
        "import os, signal, sys; from pyrovae.files import save_file_atomic;"
        "save_file_atomic(sys.argv[1], lambda f: (f.write(b'ne'), f.flush(), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)])
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    assert len(remove_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_running_process_and_files_of_others_are_left_alone(tmp_path):
    keep = [f".a.{os.getppid()}-0123abcd.pyrovae-tmp", ".a.tmp", "a.1-0123abcd.pyrovae-tmp", ".a.1-xyz.pyrovae-tmp"]
    drop = [
        f".a.{os.getpid()}-0123abcd.pyrovae-tmp",
        f".b.{2**22 + 1}-0123abcd.pyrovae-tmp",
        ".c.1-00000000.pyrovae-tmp",
    ]
    for name in [*keep, *drop]:
        (tmp_path / name).write_text("x")
    os.utime(tmp_path / drop[2], (0, 0))  # process 1 always runs, but nobody has written here for an hour
    (tmp_path / f".d.{os.getpid()}-0123abcd.pyrovae-tmp").mkdir()
    assert sorted(path.name for path in remove_leftovers(tmp_path)) == sorted(drop)
    assert len(list(tmp_path.iterdir())) == len(keep) + 1


def save_for_ever(folder):
    store, step = CheckpointStore(folder), 0
    if found := store.load_latest():
        step = found[0]["step"]
    while True:
        step += 1
        store.save(tree(step, 20_000), step)


def test_a_training_killed_20_times_while_it_saves_always_finds_a_whole_checkpoint(tmp_path):
    moments, last = random.Random(0), 0
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's idle threads
            child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                save_for_ever(tmp_path)
            os._exit(1)
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        loaded, _ = CheckpointStore(tmp_path).load_latest()
        assert loaded["step"] >= last
        last = loaded["step"]
        assert torch.equal(loaded["weights"], tree(last, 20_000)["weights"])
    assert last > 20
    assert_intact(tmp_path, last)


def test_json_is_written_readably_and_read_back(tmp_path):
    value = {"seed": 0, "hidden": [128, 64], "variant": "dynamic", "beta": None, "name": "Grüße", "scale": 0.1}
    path = write_json_atomic(tmp_path / "config.json", value)
    assert read_json(path) == value
    assert path.read_text().count("\n") > 5
    assert "Grüße" in path.read_text()


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, {(1, 2): 3}, [torch.zeros(1)], "\ud800"])
def test_what_is_no_json_is_refused_and_not_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"cannot write 'config.json': expected dicts with string keys"):
        write_json_atomic(tmp_path / "config.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "a key is given twice"),
        (b"[NaN]", "NaN is no JSON number"),
        (b"[1e999]", "overflows"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"9" * 10_000, "not valid JSON"),
        (b" " * (2**24 + 1), "larger than"),
    ],
)
def test_strange_json_is_refused(tmp_path, raw, message):
    path = save_file_atomic(tmp_path / "config.json", raw)
    with pytest.raises(DamagedError, match=message):
        read_json(path)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DamagedError, match="not a regular file"):
        read_json(tmp_path / "config.json")


def test_json_numbers_keep_their_bits(tmp_path):
    values = [random.Random(i).gauss(0, 10.0 ** (i % 300 - 150)) for i in range(200)]
    assert read_json(write_json_atomic(tmp_path / "a.json", values)) == values
    assert json.loads((tmp_path / "a.json").read_text()) == values
