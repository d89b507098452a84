"""Time of `import pyrovae` and of `pyrovae --help` beside `import pyro`, in pairs of fresh interpreters.

    python tests/benchmarks/import_time.py [--cpu]

On a busy machine ``--cpu`` measures the processor's time instead.
"""

import os
import statistics
import subprocess
import sys
import time

PAIRS = 10
STATEMENTS = {
    "import pyro": "import pyro",
    "import pyrovae": "import pyrovae",
    "import pyrovae, and every public name": "import pyrovae\nfor name in pyrovae.__all__: getattr(pyrovae, name)",
    "pyrovae --help": "import sys\nfrom pyrovae.cli import main\nsys.argv = ['pyrovae', '--help']\nmain()",
}


def now():
    spent = os.times()
    return spent.children_user + spent.children_system if "--cpu" in sys.argv else time.perf_counter()


def seconds(statement):
    started = now()
    subprocess.run([sys.executable, "-c", statement], check=True, stdout=subprocess.DEVNULL)
    return now() - started


def main():
    for statement in STATEMENTS.values():
        seconds(statement)
    times = {name: [] for name in STATEMENTS}
    for _ in range(PAIRS):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    base = times["import pyro"]
    print(f"{'':42}{'median s':>10}{'ratio to import pyro (median of pairs)':>42}")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"{name:42}{statistics.median(values):10.2f}{ratio:42.2f}")


if __name__ == "__main__":
    main()
