"""Settings of a manager: given by the host, or taken from the environment by the command line.

PLUGINCTL_STORE          directory of the store; default: the user's data directory
PLUGINCTL_REPOSITORY     address of the repository (holding metadata/ and targets/)
PLUGINCTL_ROOT           file with the pinned root metadata
PLUGINCTL_HOST_VERSION   version of the host application, which releases may ask for
PLUGINCTL_GRACE_DAYS     for how long expired metadata is still accepted at load; default 30
PLUGINCTL_LOCK_TIMEOUT   seconds to wait for another writer; default: for ever
PLUGINCTL_CA_BUNDLE      file with further certificate authorities for https
PLUGINCTL_INSECURE_HTTP  1: allow plain http to other machines (content is signed all the same)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from attrs import field, frozen
from packaging.version import Version
from platformdirs import user_data_path

from plugin_manager.errors import InvalidInputError
from plugin_manager.model import parse_version

__all__ = ["Settings", "from_environment"]

DEFAULT_GRACE = timedelta(days=30)
MAX_ROOT_BYTES = 512_000  # python-tuf's own bound for root metadata


@frozen
class Settings:
    """Everything a manager is told from outside; `repository` ends with "/" or is "".

    `root` is the pinned root metadata itself, or the file that holds it, or None: then only
    commands work that neither load nor fetch anything.
    """

    store: Path
    repository: str = ""
    root: bytes | Path | None = field(default=None, repr=False)
    host_version: Version | None = None
    grace: timedelta = DEFAULT_GRACE
    lock_timeout_seconds: float = -1
    ca_bundle: Path | None = None
    insecure_http: bool = False

    def pinned_root(self) -> bytes:
        """The pinned root's bytes; raises InvalidInputError where there is none."""
        if isinstance(self.root, bytes):
            return self.root
        if self.root is None:
            raise InvalidInputError(
                "no root of trust is given",
                remedy="Pass root=, or --root FILE, or set PLUGINCTL_ROOT.",
            )
        try:
            with self.root.open("rb") as file:
                data = file.read(MAX_ROOT_BYTES + 1)
        except OSError as error:
            raise InvalidInputError(
                f"root of trust {self.root}: {error.strerror}",
                remedy="Give the file that the repository's owner published.",
            ) from error
        if len(data) > MAX_ROOT_BYTES:
            raise InvalidInputError(
                f"root of trust {self.root}: larger than {MAX_ROOT_BYTES} bytes"
            )
        return data

    @property
    def root_name(self) -> str:
        """What the pinned root is called in errors: its file, where it has one."""
        return f"root of trust {self.root}" if isinstance(self.root, Path) else "pinned root"

    def base_url(self) -> str:
        """The repository's address; raises InvalidInputError where there is none."""
        if not self.repository:
            raise InvalidInputError(
                "no repository is given",
                remedy="Pass repository=, or --repository URL, or set PLUGINCTL_REPOSITORY.",
            )
        return self.repository


def parse_repository(text: str) -> str:
    """The repository address in `text`, ending with "/"; raises InvalidInputError."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises where the port is not a number
    except ValueError as error:
        raise InvalidInputError(f"repository {text!r} is not an address ({error})") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError(
            f"repository {text!r} is not an address",
            remedy="Write for instance https://plugins.example.org/.",
        )
    if parts.query or parts.fragment or parts.username or parts.password:
        raise InvalidInputError(
            "the repository's address must hold neither credentials nor a query",
            remedy="Put credentials into ~/.netrc.",
        )
    return text if text.endswith("/") else f"{text}/"


def default_store() -> Path:
    """The store of this user where nothing else is said."""
    return user_data_path("plugin-manager", appauthor=False) / "store"


def from_environment(
    environment: Mapping[str, str],
    *,
    store: str | Path | None = None,
    repository: str | None = None,
    root: str | Path | bytes | None = None,
    host_version: str | Version | None = None,
    lock_timeout_seconds: float | None = None,
) -> Settings:
    """The settings that arguments and, where they are None, `environment` give.

    Raises InvalidInputError naming the variable that is wrong.
    """
    store = store or environment.get("PLUGINCTL_STORE")
    repository = repository or environment.get("PLUGINCTL_REPOSITORY", "")
    root = root or environment.get("PLUGINCTL_ROOT")
    host_version = host_version or environment.get("PLUGINCTL_HOST_VERSION")
    ca_bundle = environment.get("PLUGINCTL_CA_BUNDLE")
    if lock_timeout_seconds is None:
        lock_timeout_seconds = _number(environment, "PLUGINCTL_LOCK_TIMEOUT", -1)
    return Settings(
        store=Path(store).expanduser().absolute() if store else default_store(),
        repository=parse_repository(repository) if repository else "",
        root=Path(root) if isinstance(root, str) else root,
        host_version=parse_version(host_version) if isinstance(host_version, str) else host_version,
        grace=timedelta(days=_number(environment, "PLUGINCTL_GRACE_DAYS", DEFAULT_GRACE.days)),
        lock_timeout_seconds=lock_timeout_seconds,
        ca_bundle=Path(ca_bundle) if ca_bundle else None,
        insecure_http=environment.get("PLUGINCTL_INSECURE_HTTP", "") == "1",
    )


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= 0 or value > 36_500:  # also false for nan
        raise InvalidInputError(f"{name}: {text!r} is not a number of 0 or more")
    return value
