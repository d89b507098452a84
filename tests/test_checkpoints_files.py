"""A file is whole or absent: full disks, unwritable folders, killed writers."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from disks import another_process, file_size_limit, somebody_else, tmpfs

from pyrovae.files import (
    CheckpointStore,
    DamagedError,
    InUseError,
    locked,
    read_json,
    save_file_atomic,
    write_json_atomic,
)
from pyrovae.files.lock import remove_leftovers


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


@pytest.fixture
def reachable():
    """A folder whose path everybody may walk."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_an_unwritable_folder_is_refused_and_keeps_its_checkpoint(reachable):
    store = CheckpointStore(reachable / "run")
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


def test_what_a_running_process_writes_and_files_of_others_are_left_alone(tmp_path):
    keep = [".a.tmp", "a.0123abcd.pyrovae-tmp", ".a.xyz.pyrovae-tmp", ".a.pyrovae-tmp"]
    drop = [".a.0123abcd.pyrovae-tmp", ".b.c.00000000.pyrovae-tmp"]
    for name in [*keep, *drop]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".run.0123abcd.pyrovae-tmp" / "figures").mkdir(parents=True)
    with another_process("write", tmp_path / "d"):
        removed = remove_leftovers(tmp_path)
        assert sorted(path.name for path in removed) == sorted([*drop, ".run.0123abcd.pyrovae-tmp"])
        [written] = tmp_path.glob(".d.*.pyrovae-tmp")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*keep, written.name])
    assert remove_leftovers(tmp_path) == [written]


# One writer


def test_a_folder_that_another_process_holds_is_refused_until_that_process_dies(tmp_path):
    folder = tmp_path / "run"
    with another_process("lock", folder) as process:
        for hold in (locked(folder), CheckpointStore(folder)):
            with pytest.raises(InUseError, match=f"run' is in use by process {process.pid} on .*: wait until"), hold:
                pass
        with pytest.raises(InUseError):
            CheckpointStore(folder).save({}, 1)
        assert [path.name for path in folder.iterdir()] == [".lock"]
        process.kill()
        process.wait()
        with locked(folder):
            pass
    assert not list(folder.iterdir())


def test_a_folder_that_another_thread_holds_is_refused_and_stays_locked(tmp_path):
    seen = []

    def work():
        try:
            with locked(tmp_path / "link"):
                seen.append("held by both")
        except InUseError as error:
            seen.append(str(error))

    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with locked(tmp_path / "run"), locked(tmp_path / "run"):
        for _ in range(2):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert ["another thread of this process" in text for text in seen] == [True, True]
    work()
    assert seen[2:] == ["held by both"]


def test_a_nested_lock_leaves_the_folder_to_the_outer_one(tmp_path):
    code = "import sys; from pyrovae.files import locked\nwith locked(sys.argv[1]):\n    pass"
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        CheckpointStore(tmp_path).save({}, 1)
        blocked = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert "InUseError" in blocked.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0


def test_a_child_of_the_holder_is_no_holder(tmp_path):
    with locked(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            code = 2
            with contextlib.suppress(BaseException):
                try:
                    with locked(tmp_path):
                        code = 1
                except InUseError:
                    code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_two_processes_that_take_turns_never_hold_a_folder_together(tmp_path):
    """The lock file is removed on release, while others may have opened it already."""
    code = (
        "import os, sys, time; from pyrovae.files import InUseError, locked\n"
        "held = 0\nstop = time.monotonic() + 1.5\n"
        "while time.monotonic() < stop:\n"
        "    try:\n        with locked(sys.argv[1]):\n"
        "            os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))\n"
        "            held += 1\n            os.unlink(sys.argv[2])\n"
        "    except InUseError:\n        pass\n"
        "sys.exit(held < 10)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "token")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    results = [(process.communicate()[1], process.returncode) for process in processes]
    assert results == [("", 0)] * 3


def test_an_unwritable_folder_is_found_when_it_is_taken_and_can_still_be_read(reachable):
    store = CheckpointStore(reachable / "run")
    store.save(tree(1), 1)
    (store.folder / ".lock").touch()  # of a killed process: it could be opened
    (store.folder / ".lock").chmod(0o666)
    store.folder.chmod(0o555)
    refused = pytest.raises(PermissionError, match=r"cannot write 'run' in .*not writable: choose another one")
    with somebody_else():
        with refused, store:
            pass
        assert store.load_latest()[0]["step"] == 1
    store.folder.chmod(0o755)


def test_a_read_only_disk_is_found_when_a_folder_on_it_is_taken(tmp_path):
    with tmpfs(tmp_path / "disk") as folder:
        CheckpointStore(folder / "run").save(tree(1), 1)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        store = CheckpointStore(folder / "run")
        with pytest.raises(OSError, match="mounted read-only: choose another folder"), store:
            pass
        assert store.load_latest()[0]["step"] == 1


def test_a_lock_clears_the_folder_of_leftovers_and_a_store_that_only_reads_does_not(tmp_path):
    leftover = tmp_path / ".checkpoint-000000000001.safetensors.0123abcd.pyrovae-tmp"
    leftover.write_text("half")
    CheckpointStore(tmp_path).load_latest()
    assert leftover.exists()
    with CheckpointStore(tmp_path):
        assert not leftover.exists()


def newest(folder):
    return max((int(path.stem[-12:]) for path in CheckpointStore(folder).paths), default=0)


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
        deadline = time.monotonic() + 60
        while newest(tmp_path) <= last and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        loaded, _ = CheckpointStore(tmp_path).load_latest()
        assert loaded["step"] > last
        last = loaded["step"]
        assert torch.equal(loaded["weights"], tree(last, 20_000)["weights"])
    assert last >= 20
    with CheckpointStore(tmp_path):
        pass
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
        (b"[NaN]", "not valid JSON"),
        (b"[1e999]", "not valid JSON"),
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
