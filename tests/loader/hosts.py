"""Host processes in which only this project and its dependencies can be imported."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

import plugin_manager
from plugin_manager.manifest import Manifest, render

_START = """
import json, sys
from pathlib import Path
sys.path.append({libraries!r})
from plugin_manager.loader import load
from plugin_manager.manifest import parse
plugins = [load(parse(Path(m).read_bytes()), Path(place)) for m, place in {releases!r}]
plugin = plugins[0]
"""


def _dependencies(project: str) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that `project` needs here, itself not among them."""
    waiting, seen = [project], {project}
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        for text in distribution.requires or ():
            requirement = Requirement(text)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name not in seen:
                seen.add(requirement.name)
                waiting.append(requirement.name)
                yield importlib.metadata.distribution(requirement.name)


def make_libraries(directory: Path) -> None:
    """Fill `directory` with links to this project and what it depends on, and nothing else."""
    directory.mkdir()
    tops = {Path(plugin_manager.__file__).parent}
    for distribution in _dependencies("plugin-manager"):
        for file in distribution.files or ():
            if file.parts[0] not in {"..", "__pycache__"}:
                tops.add(Path(distribution.locate_file(file.parts[0])))
    for top in tops:
        (directory / top.name).symlink_to(top)


def run_host(
    directory: Path, releases: Sequence[tuple[Manifest, Path]], script: str, *, start: str = ""
) -> dict[str, object]:
    """What `script` leaves in its dictionary `out`, run in a new process with `releases` loaded.

    The script has `plugins`, and `plugin`, the first of them; `start` runs before they are loaded.
    """
    libraries = directory / "libraries"
    make_libraries(libraries)
    given = []
    for number, (manifest, place) in enumerate(releases):
        path = directory / f"{number}.manifest"
        path.write_bytes(render(manifest))
        given.append((str(path), str(place)))
    prelude = _START.format(libraries=str(libraries), releases=given)
    head, load_line = prelude.split("plugins = [", 1)
    program = "\n".join(
        [head, textwrap.dedent(start), f"plugins = [{load_line}", "out = {}",
         textwrap.dedent(script), "json.dump(out, sys.stdout)"]
    )  # fmt: skip
    # -I -S: nothing from the environment, the working directory or site-packages.
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program],
        capture_output=True, text=True, check=False, timeout=120, cwd=directory,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-6000:]
    return dict(json.loads(result.stdout))
