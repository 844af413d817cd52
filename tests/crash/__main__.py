"""`python -m tests.crash [BATTERY [OPTIONS]]` runs one battery, or all as they are published.

The exit status is 0 only if nothing was lost and every broken variant was caught.
"""

import sys
from importlib import import_module

BATTERIES: dict[str, list[str]] = {
    "kills": [],
    "power": ["--cycles", "2000", "--control-cycles", "200"],
    "faults": [],
    "bits": [],
    "crowd": ["--processes", "32", "--operations", "10000"],
    "machine": ["--steps", "100000"],
}


def run(battery: str, options: list[str]) -> int:
    """The exit status of `battery` (0: all went well)."""
    status: int = import_module(f"tests.crash.{battery}").main(options)
    return status


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            failed = [battery for battery, options in BATTERIES.items() if run(battery, options)]
            sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
        case [battery, *options] if battery in BATTERIES:
            sys.exit(run(battery, options))
        case _:
            sys.exit(f"Name a battery: {', '.join(BATTERIES)}; each has --help.")
