"""The package by room: lines, lines of code, the share that raises, single-use private functions, and function lengths.

    python tests/benchmarks/house.py [ROOT]

ROOT is a checkout; by default the one that holds this script. Code lines are neither blank, nor comments, nor docstrings.
Raising lines are ``raise`` statements with the ``if`` or ``except`` around them that does nothing else. A private function is
single-use where its file names it once beside its definition. A function's length is that of its body without the docstring.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_FUNCTION, LONGEST_FILE = 60, 400
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Room:
    """What is counted of the files of a room."""

    files: int = 0
    lines: int = 0
    code: int = 0
    raising: int = 0
    single: int = 0
    sizes: list[int] = field(default_factory=list)
    long: list[str] = field(default_factory=list)

    def add(self, path: Path, root: Path) -> None:
        source = path.read_text()
        tree, lines = ast.parse(source), source.splitlines()
        functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTION)]
        sizes = [(node, node.end_lineno - _body(node)[0].lineno + 1) for node in functions]
        self.files += 1
        self.lines += len(lines)
        self.code += len(_code(tree, lines))
        self.raising += len(_raising(tree))
        self.single += sum(_is_single_use(node.name, source) for node in functions)
        self.sizes += [size for _, size in sizes]
        name = path.relative_to(root)
        self.long += [f"{name}: {len(lines)} lines"] if len(lines) > LONGEST_FILE else []
        self.long += [f"{name}:{n.lineno} {n.name}: {size} lines" for n, size in sizes if size > LONGEST_FUNCTION]

    def row(self, name: str) -> str:
        share, rate = 100 * self.raising / max(self.code, 1), 1000 * self.single / max(self.lines, 1)
        sizes = sorted(self.sizes) or [0]
        return (
            f"{name:16}{self.files:6}{self.lines:8,}{self.code:8,}{share:9.1f} %{self.single:8}{rate:8.1f}"
            f"{len(self.sizes):8}{statistics.median(sizes):8.0f}{sizes[int(0.9 * (len(sizes) - 1))]:6}{sizes[-1]:6}"
        )


def _body(node: ast.AST) -> list[ast.stmt]:
    has_docstring = ast.get_docstring(node, clean=False) is not None and len(node.body) > 1
    return node.body[1:] if has_docstring else node.body


def _span(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, node.end_lineno + 1))


def _docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Also the strings that explain an attribute, written below it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def _code(tree: ast.AST, lines: list[str]) -> set[int]:
    texts = {number for node in _docstrings(tree) for number in _span(node)}
    written = {i for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")}
    return written - texts


def _raising(tree: ast.AST) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        only_raises = isinstance(node, ast.If | ast.ExceptHandler) and all(isinstance(n, ast.Raise) for n in node.body)
        if isinstance(node, ast.Raise):
            found |= _span(node)
        elif only_raises:
            found |= set(range(node.lineno, node.body[-1].end_lineno + 1))
    return found


def _is_single_use(name: str, source: str) -> bool:
    private = name.startswith("_") and not name.startswith("__")
    return private and len(re.findall(rf"\b{name}\b", source)) == 2


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    rooms: dict[str, Room] = {}
    whole = Room()
    for path in sorted((root / "pyrovae").rglob("*.py")):
        parts = path.relative_to(root / "pyrovae").parts
        for room in (rooms.setdefault(parts[0] if len(parts) > 1 else "(top)", Room()), whole):
            room.add(path, root)
    print(f"{'room':16}{'files':>6}{'lines':>8}{'code':>8}{'raising':>11}{'single':>8}{'/1,000':>8}", end="")
    print(f"{'funcs':>8}{'median':>8}{'90 %':>6}{'max':>6}")
    for name, room in rooms.items():
        print(room.row(name))
    print(whole.row("all"))
    print(f"\nFiles above {LONGEST_FILE} lines and functions above {LONGEST_FUNCTION}: {len(whole.long) or 'none'}")
    print("\n".join(f"  {line}" for line in whole.long))


if __name__ == "__main__":
    main()
