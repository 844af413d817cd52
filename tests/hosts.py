"""Host processes that have the project and what it depends on, and nothing else installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent


def own_dependencies() -> set[str]:
    """The distributions that the default install brings, canonical names."""
    found: set[str] = set()
    waiting = ["plugin-manager"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        for text in required:
            requirement = Requirement(text)
            # securesystemslib's extra [crypto] is what python-tuf asks of it.
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": "crypto"})
            if wanted:
                waiting.append(requirement.name)
    return found - {"plugin-manager"}


class BareHost:
    """A Python without site-packages whose path holds the project and its own dependencies only."""

    def __init__(self, directory: Path) -> None:
        self.site = directory / "site"
        self.site.mkdir(parents=True)
        for name in own_dependencies():
            for file in distribution(name).files or []:
                if file.parts[0] in {"..", "__pycache__"}:
                    continue
                top = Path(str(distribution(name).locate_file(""))) / file.parts[0]
                place = self.site / file.parts[0]
                if not place.exists():
                    place.symlink_to(top)

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `code` with `arguments` in sys.argv[1:]."""
        setup = f"import sys; sys.path += {[str(PROJECT), str(self.site)]!r}\n"
        command = [sys.executable, "-I", "-S", "-c", setup + code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def json(self, code: str, *arguments: str) -> object:
        """The JSON value that `code` prints as its last line; a failure shows what it said."""
        done = self.run(code, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
