"""Real wheels for tests, taken from whatever package index pip is configured for."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

__all__ = ["wheels"]

CACHE = Path(__file__).parent.parent / ".cache" / "wheels"

# What pip and its HTTP library print where no answer came, as against an answer that says no.
_UNREACHABLE = re.compile(
    r"connection broken by|NewConnectionError|NameResolutionError|ConnectTimeoutError"
    r"|ReadTimeoutError|ProxyError|MaxRetryError|Network is unreachable",
)


def wheels(*requirements: str, cache: Path = CACHE) -> Path:
    """A directory holding the wheels of `requirements` and of all they depend on.

    The first call for a set of requirements downloads them for this interpreter and platform;
    later ones, also of other processes, get the same directory (delete `cache` for newer
    versions). Do not write to it. Where no index can be reached the test is skipped, but fails
    where the environment variable CI is set; any other trouble fails it.
    """
    directory = cache / _key(requirements)
    cache.mkdir(parents=True, exist_ok=True)
    # One downloads, the others wait for it; the rename makes a half-filled directory impossible.
    with FileLock(cache / f"{directory.name}.lock"):
        if not directory.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=cache))
            try:
                _download(requirements, partial)
                partial.rename(directory)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return directory


def _key(requirements: tuple[str, ...]) -> str:
    """A directory name that says what is inside, one for each set, interpreter and platform."""
    facts = [sys.implementation.cache_tag, sysconfig.get_platform(), *sorted(requirements)]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(sorted(requirements)))[:60].strip("-.")
    return f"{readable}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def _download(requirements: tuple[str, ...], directory: Path) -> None:
    options = ["--only-binary", ":all:", "--dest", str(directory), "--retries", "2", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
    result = subprocess.run(
        [*command, *requirements], capture_output=True, text=True, check=False, errors="replace"
    )
    if result.returncode == 0:
        return
    said = (result.stdout + result.stderr).strip()[-2000:]
    if _UNREACHABLE.search(said) and not os.environ.get("CI"):
        pytest.skip(f"no package index can be reached for {' '.join(requirements)}")
    pytest.fail(f"pip cannot take wheels of {' '.join(requirements)}:\n{said}", pytrace=False)
