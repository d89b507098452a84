"""Who may import whom, and what importing the package does to a process."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

import pyrovae

PACKAGE = pathlib.Path(pyrovae.__file__).parent
HEAVY = ["pandas", "xarray", "arviz", "matplotlib", "zuko", "sklearn", "lightning", "typer", "torch._dynamo"]

ROOMS = {
    "errors": (),
    "limits": (),
    "schedules": (),
    "plots": (),
    "networks": (),
    "distributions": (),
    "missing": ("distributions",),
    "conditionals": ("distributions", "missing", "networks"),
    "data": (),
    "files": (),
    "programs": ("data", "distributions", "files", "missing", "networks"),
    "graphs": ("conditionals", "data", "distributions", "missing", "networks", "programs"),
    "presets": ("conditionals", "data", "distributions", "files", "graphs", "networks", "schedules"),
    "objectives": ("programs",),
    "compiling": ("objectives", "programs"),
    "training": (
        "compiling",
        "conditionals",
        "data",
        "distributions",
        "files",
        "missing",
        "networks",
        "objectives",
        "plots",
        "programs",
        "schedules",
    ),
    "evaluation": ("compiling", "data", "plots", "programs"),
    "comparison": ("data", "evaluation", "plots", "programs"),
    "arviz": ("data", "evaluation", "programs"),
    "checks": ("arviz", "data", "evaluation", "plots", "programs"),
    "uses": (
        *("checks", "comparison", "conditionals", "data", "distributions", "evaluation", "graphs", "missing", "plots"),
        *("programs", "training"),
    ),
    "sklearn": ("evaluation", "presets", "schedules", "training"),
    "report": (
        *("checks", "comparison", "data", "evaluation", "files", "graphs", "plots", "presets", "programs"),
        *("schedules", "uses"),
    ),
    "cli": (
        "arviz",
        "checks",
        "data",
        "evaluation",
        "files",
        "plots",
        "presets",
        "programs",
        "report",
        "uses",
    ),  # the rest by public names
    "__main__": ("cli",),
}
"""The rooms in their order, each with those that it uses: all of them stand before it."""
SHARED = {"errors", "limits"}
"""What every room may use without a word in the table."""


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """The rooms that a file imports, at its top or inside functions, annotations' imports left out."""
    tree = ast.parse(path.read_text())
    typing_only = {id(n) for block in ast.walk(tree) if _is_typing_block(block) for n in ast.walk(block)}
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pyrovae.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "pyrovae":
            rooms |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyrovae."):
            rooms.add(node.module.split(".")[1])
    return rooms


def _is_typing_block(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_earlier_rooms(path):
    room = room_of(path)
    assert room in ROOMS, f"{room} is a new room: say in this table what it may import"
    assert imported_rooms(path) - SHARED - {room} <= set(ROOMS[room])


def test_every_room_of_the_table_exists_and_every_entry_is_used():
    used = {room: set() for room in ROOMS}
    for path in FILES:
        used[room_of(path)] |= imported_rooms(path) - SHARED - {room_of(path)}
    assert used == {room: set(uses) for room, uses in ROOMS.items()}


def test_a_room_uses_only_rooms_before_it():
    order = list(ROOMS)
    assert [(room, use) for room in order for use in ROOMS[room] if order.index(use) >= order.index(room)] == []


def run_fresh(code):
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_touching_every_public_name_loads_nothing_heavy():
    code = """
import json, sys
import pyro, pyro.infer, pyro.optim, pyro.distributions
before = set(sys.modules)
import pyrovae
for name in pyrovae.__all__:
    getattr(pyrovae, name)
loaded = set(sys.modules) - before
print(json.dumps([name for name in %r if any(m == name or m.startswith(name + ".") for m in loaded)]))
"""
    assert run_fresh(code % HEAVY) == []


def test_importing_changes_no_global_state():
    code = """
import json, os, random, sys, warnings
import numpy, torch, pyro
def state():
    return [
        torch.distributions.Distribution._validate_args, pyro.distributions.util.is_validation_enabled(),
        str(torch.get_default_dtype()), torch.get_num_threads(), torch.get_rng_state().tolist(),
        str(random.getstate()), str(numpy.random.get_state()), [str(f) for f in warnings.filters],
        torch.is_grad_enabled(), sorted(os.environ.items()), pyro.settings.get(), str(sys.path), os.getcwd(),
    ]
state()
torch.distributions.Distribution(torch.Size(), validate_args=False)
before = json.dumps(state(), default=str)
import pyrovae
for name in pyrovae.__all__:
    getattr(pyrovae, name)
print(json.dumps(json.dumps(state(), default=str) == before))
"""
    assert run_fresh(code) is True


def test_the_map_of_names_names_what_there_is():
    lines = [line.split(":", 1)[-1] for line in pyrovae.__doc__.splitlines() if re.match(r"[A-Z][^.]*:  |    ", line)]
    words = re.findall(r"[A-Za-z_]+(?=[,;)\s]|$|\.)", re.sub(r"\([^)]*\)", "", " ".join(lines)))
    prose: set[str] = set()
    unknown = {word for word in words if word not in prose and word not in pyrovae.__all__}
    assert len(words) > 55
    assert unknown == set()


def test_the_public_names_are_these():
    names = pathlib.Path(__file__).with_name("public_names.txt").read_text().split()
    assert sorted(pyrovae.__all__) == names


def test_an_unknown_name_is_refused_by_name():
    with pytest.raises(AttributeError, match="VEA"):
        pyrovae.VEA  # noqa: B018
