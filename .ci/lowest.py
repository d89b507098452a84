"""Prints the lowest versions that pyproject.toml declares, as constraints for pip; names given as arguments are left out.

python .ci/lowest.py [NAME ...] > constraints.txt
"""

import re
import sys
import tomllib
from pathlib import Path

TOOLS = {"mypy", "ruff"}  # judge the code, and are none of its dependencies


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = [requirement for group in project["optional-dependencies"].values() for requirement in group]
    for requirement in [*project["dependencies"], *extras]:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if found and found[1] not in {*TOOLS, *sys.argv[1:]}:
            print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
