"""`python -m tests.crash BATTERY [OPTIONS]` runs one battery; its exit status says how it went."""

import sys
from importlib import import_module
from pathlib import Path

BATTERIES = ("kills", "power", "faults", "bits", "crowd")

if __name__ == "__main__":
    there = [name for name in BATTERIES if Path(__file__).with_name(f"{name}.py").exists()]
    if sys.argv[1:2] and sys.argv[1] in there:
        sys.exit(import_module(f"tests.crash.{sys.argv[1]}").main(sys.argv[2:]))
    sys.exit(f"Name a battery: {', '.join(there)}; each has --help.")
