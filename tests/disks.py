"""Small disks, unwritable folders and other processes, for the tests of files."""

import contextlib
import os
import resource
import subprocess
import sys

import pytest

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


HOLDER = """
import sys, time
from pyrovae.files import locked, save_file_atomic

def wait(file=None):
    print("ready", flush=True)
    sys.stdin.readline()

if sys.argv[1] == "write":
    save_file_atomic(sys.argv[2], wait)
else:
    with locked(sys.argv[2]):
        wait()
"""


@contextlib.contextmanager
def another_process(what, path):
    """Another process that is in the middle of writing a file, or that holds a folder, until it is killed."""
    command = [sys.executable, "-c", HOLDER, what, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
