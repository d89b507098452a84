"""Steps and functions as shared libraries: built by a process of their own, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pyrovae.compiling.step import Recipe

COMPILERS = ("g++", "clang++", "c++")


def cache_folder() -> Path:
    """The folder for libraries: ``PYROVAE_CACHE``, or one in the user's cache folder, by the platform's convention."""
    import pooch

    given = os.environ.get("PYROVAE_CACHE")
    return Path(given).expanduser() if given else Path(pooch.os_cache("pyrovae")) / "compiled"


def has_compiler() -> bool:
    """Whether there is a C++ compiler: the one that ``CXX`` names, or a usual one."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name)


class Library:
    """The shared library of a step or of a function: found in the cache, or built in the background.

    Its name is a hash of the recipe, the shapes of the tensors, torch's version, the processor's capability, the number of
    threads and the code that builds it, so that a changed program is another library.

    Args:
        recipe: what the step does; or the source of a function of tensors.
        inputs: the tensors that it reads and writes.
        threads: the threads of a step.
    """

    def __init__(self, recipe: Recipe | str, inputs: Sequence[Tensor], threads: int) -> None:
        shapes = [(list(t.shape), list(t.stride()), str(t.dtype).removeprefix("torch.")) for t in inputs]
        wanted = recipe if isinstance(recipe, str) else asdict(recipe)
        self.job = json.dumps({"recipe": wanted, "inputs": shapes, "threads": threads})
        builders = [Path(__file__).with_name(name).read_text() for name in ("build.py", "step.py")]
        machine = [torch.__version__, torch.backends.cpu.get_cpu_capability(), *builders]
        name = hashlib.blake2b(json.dumps([self.job, machine]).encode(), digest_size=16).hexdigest()
        self.path = cache_folder() / f"{name}.so"
        self.process: subprocess.Popen | None = None
        self.work: Path | None = None
        """The folder of a build that is under way."""

    @property
    def is_begun(self) -> bool:
        """Whether it is in the cache, or being built."""
        return self.process is not None or self.is_built

    @property
    def is_built(self) -> bool:
        """Whether it is in the cache."""
        return self.path.exists()

    def start(self) -> None:
        """Begin to build it.

        Raises:
            RuntimeError: there is no C++ compiler.
        """
        if not has_compiler():
            raise RuntimeError(f"no C++ compiler was found ({', '.join(COMPILERS)}, or the one that CXX names)")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.work = Path(tempfile.mkdtemp(prefix=f"{self.path.stem}.", dir=self.path.parent))
        (self.work / "job").write_text(self.job)
        command = [sys.executable, "-m", "pyrovae.compiling.build", str(self.work)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if not environment.get("CXX"):  # set, and empty: torch would call a compiler without a name
            environment.pop("CXX", None)
        with (self.work / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def finish(self, wait: bool = False) -> None:
        """Put the library into the cache when it is built.

        Args:
            wait: wait until it is.

        Raises:
            RuntimeError: it could not be built; the text is the last line of the compiler's process.
        """
        if self.process is None or self.work is None or (not wait and self.process.poll() is None):
            return
        code = self.process.wait()
        words = (self.work / "log").read_text().strip().splitlines()
        if not code:
            # names the operations that are called through torch's dispatcher; which name the file has depends on torch's version
            for extern in (*self.work.glob("step.json"), *self.work.glob("*.wrapper.json")):
                os.replace(extern, self.path.with_suffix(".json"))
            os.replace(self.work / "step.so", self.path)
        self.close()
        if code:  # below 0 it is a signal, and the last line is not about it
            raise RuntimeError(words[-1] if words and code > 0 else f"the compiler's process ended with code {code}")

    def function(self, wait: bool = False) -> Callable[[list[Tensor]], list[Tensor]] | None:
        """The compiled function of the tensors, once it is there; else it is being built, and the answer is None.

        Args:
            wait: wait until it is built.

        Raises:
            RuntimeError: it cannot be built, or not be loaded, and is then removed from the cache.
        """
        if not self.is_begun:
            self.start()
        self.finish(wait)
        if not self.is_built:
            return None
        try:
            return torch._C._aoti.AOTIModelContainerRunnerCpu(str(self.path), 1).run  # type: ignore[attr-defined]
        except RuntimeError:
            self.path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Stop a build that is under way, and remove its files."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work = None
