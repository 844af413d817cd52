"""The publisher's commands: `pluginctl repo …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from plugin_manager.catalogue import CatalogueEntry
from plugin_manager.cli._options import Group, json_option
from plugin_manager.cli._output import Session
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import (
    Platform,
    PluginName,
    Release,
    WithdrawalKind,
    parse_version,
    size_text,
    utc_text,
)
from plugin_manager.publishing import (
    Published,
    Repository,
    RoleStatus,
    SigningKey,
    read_public_key,
    serve,
)

__all__ = ["repo"]

PASSPHRASE_VARIABLE = "PLUGINCTL_PASSPHRASE"  # noqa: S105 - the name of a variable, not a secret

F = TypeVar("F", bound=Callable[..., Any])

PathType = click.Path(path_type=Path)
keys_option = click.option(
    "--keys-directory",
    type=PathType,
    metavar="DIR",
    help="Where new keys go. [keys, in the repository]",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=PathType,
    metavar="FILE",
    help=f"File with the keys' passphrase. [{PASSPHRASE_VARIABLE}, or a prompt]",
)
signer_options = (
    click.option("--uri", help="Use this signer (file2:, hsm:, awskms:, …) instead of a new key."),
    click.option("--public-key", type=PathType, metavar="FILE", help="Its public key, as PEM."),
)


def _of_repository(command: F) -> F:
    """Add the options that all commands on an existing repository share."""
    directory = click.option(
        "--directory",
        type=PathType,
        default=Path(),
        metavar="DIR",
        help="The repository. [the current directory]",
    )
    return json_option(directory(command))


def _in_repository(command: F) -> F:
    """Add the options of those commands that sign, and so need private keys."""
    return _of_repository(passphrase_option(command))


def _external(command: F) -> F:
    for option in reversed(signer_options):
        command = option(command)
    return command


def _passphrase(file: Path | None, *, confirm: bool = False) -> Callable[[str], str]:
    """What is asked for a passphrase: the file, the environment, or (once) the person."""
    known: list[str] = []

    def ask(name: str) -> str:
        if not known:
            known.append(_ask(file, name, confirm=confirm))
        return known[0]

    return ask


def _ask(file: Path | None, name: str, *, confirm: bool) -> str:
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"{file}: cannot be read ({error})",
                remedy="Name a readable file that holds the passphrase, as UTF-8.",
                path=str(file),
            ) from error
    if (value := os.environ.get(PASSPHRASE_VARIABLE)) is not None:
        return value
    if not sys.stdin.isatty():
        raise InvalidInputError(
            f"there is no passphrase for {name}",
            remedy=f"Set {PASSPHRASE_VARIABLE}, or give --passphrase-file.",
        )
    answer: str = click.prompt(
        f"Passphrase of {name}", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return answer


def _signing_key(uri: str | None, public_key: Path | None) -> SigningKey | None:
    if uri is None and public_key is None:
        return None
    if uri is None or public_key is None:
        raise click.UsageError("--uri and --public-key go together.")
    return SigningKey(uri, read_public_key(public_key))


def _open(directory: Path, passphrase_file: Path | None, *, confirm: bool = False) -> Repository:
    return Repository.open(directory, passphrase=_passphrase(passphrase_file, confirm=confirm))


@click.group(cls=Group)
def repo() -> None:
    """Make, sign and publish a repository of plugins (docs/publishing.md)."""


@repo.command()
@click.argument("directory", type=PathType)
@keys_option
@click.option(
    "--key",
    "keys",
    nargs=3,
    multiple=True,
    metavar="ROLE URI PUBLIC",
    help="Use this signer for a role (PUBLIC: its public key, as PEM). Repeatable.",
)
@passphrase_option
@json_option
def init(
    *,
    directory: Path,
    keys_directory: Path | None,
    keys: tuple[tuple[str, str, str], ...],
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make an empty, signed repository in DIRECTORY, with a new key for each role."""
    given: dict[str, list[SigningKey]] = {}
    for role, uri, public in keys:
        given.setdefault(role, []).append(SigningKey(uri, read_public_key(Path(public))))
    repository = Repository.create(
        directory,
        passphrase=_passphrase(passphrase_file, confirm=True),
        keys_directory=keys_directory,
        keys=given,
    )
    session = Session(as_json=as_json)
    root = repository.public / "metadata" / "1.root.json"
    roles = repository.status().roles
    session.result({"directory": str(repository.directory), "root": str(root), **_roles(roles)})
    session.tell(f"Made a repository in {repository.directory}.")
    session.tell(f"Hosts pin {root}.")
    session.tell(f"A web server serves {repository.public}, and nothing beside it.")
    session.tell("Next: pluginctl repo add-publisher NAME")


@repo.group()
def key() -> None:
    """Make, show and retire keys."""


@key.command("generate")
@click.argument("role")
@_external
@keys_option
@_in_repository
def key_generate(
    *,
    role: str,
    uri: str | None,
    public_key: Path | None,
    keys_directory: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Let one more key sign for ROLE (root, targets, snapshot, timestamp, publisher-NAME)."""
    repository = _open(directory, passphrase_file, confirm=True)
    signing_key = repository.add_key(
        role, key=_signing_key(uri, public_key), keys_directory=keys_directory
    )
    _show_change(Session(as_json=as_json), repository, role, signing_key, "now also signs for")


@key.command("retire")
@click.argument("role")
@click.argument("keyid")
@_in_repository
def key_retire(
    role: str, keyid: str, directory: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Trust the key KEYID (its first digits will do) no longer for ROLE."""
    repository = _open(directory, passphrase_file)
    retired = repository.retire_key(role, keyid)
    _show_change(Session(as_json=as_json), repository, role, retired, "no longer signs for")


def _show_change(
    session: Session, repository: Repository, role: str, signing_key: SigningKey, what: str
) -> None:
    root = next(status for status in repository.status().roles if status.name == "root")
    session.result({"role": role, **_key(signing_key), "root_version": root.version})
    session.tell(f"Key {signing_key.keyid[:12]} ({signing_key.uri}) {what} {role}.")
    session.tell(f"Root is at version {root.version}.")


@key.command("show")
@_of_repository
def key_show(directory: Path, as_json: bool) -> None:
    """List the keys of each role."""
    keys = Repository.open(directory).keys()
    session = Session(as_json=as_json)
    session.result(
        {"keys": {role: [_key(k) for k in role_keys] for role, role_keys in keys.items()}}
    )
    for role, role_keys in keys.items():
        for signing_key in role_keys:
            note = "  retired" if signing_key.retired else ""
            session.say(f"{role:20} {signing_key.keyid[:12]}  {signing_key.uri}{note}")


@repo.command("add-publisher")
@click.argument("name")
@_external
@keys_option
@_in_repository
def add_publisher(
    *,
    name: str,
    uri: str | None,
    public_key: Path | None,
    keys_directory: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Let publisher NAME publish plugins NAME/…, with a key of its own."""
    repository = _open(directory, passphrase_file, confirm=True)
    signing_key = repository.add_publisher(
        name, key=_signing_key(uri, public_key), keys_directory=keys_directory
    )
    session = Session(as_json=as_json)
    session.result({"publisher": name, **_key(signing_key)})
    session.tell(f"Publisher {name} signs with {signing_key.uri} (key {signing_key.keyid[:12]}).")


@repo.command()
@click.argument("sources", nargs=-1, required=True, type=PathType, metavar="SOURCE...")
@click.option("--publisher", metavar="NAME", help="Who publishes; needed for a wheel.")
@click.option("--platform", metavar="TAG", help="Instead of the platform that SOURCE says.")
@click.option(
    "--with-dependencies",
    type=PathType,
    metavar="DIR",
    help="Bring along what a wheel requires, from this directory of wheels.",
)
@click.option(
    "--provided",
    multiple=True,
    metavar="DISTRIBUTION",
    help="What every host has, and is not brought along. Repeatable.",
)
@click.option("--bytecode/--no-bytecode", default=True, help="Ship compiled Python. [yes]")
@_in_repository
def publish(
    *,
    sources: tuple[Path, ...],
    publisher: str | None,
    platform: str | None,
    with_dependencies: Path | None,
    provided: tuple[str, ...],
    bytecode: bool,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Publish each SOURCE: a directory with plugin.toml, or a wheel.

    One after the other; where one fails, those before it are published.
    """
    repository = _open(directory, passphrase_file)
    session = Session(as_json=as_json)
    results = []
    for source in sources:
        published = repository.publish(
            source,
            publisher=publisher,
            platform=platform,
            with_dependencies=with_dependencies,
            provided=provided,
            bytecode=bytecode,
        )
        results.append(_published(published))
        _say_published(session, published)
    session.result({"published": results})


def _say_published(session: Session, published: Published) -> None:
    if not published.changed:
        session.tell(f"{published.release} was published already, byte for byte the same.")
        return
    share = 100 * published.length / max(published.content_length, 1)
    session.tell(
        f"Published {published.release}: {published.file_count} files, "
        f"{size_text(published.content_length)}, bundle {size_text(published.length)} "
        f"({share:.0f}%), "
        f"{published.new_chunk_count} of {published.chunk_count} chunks new."
    )
    for note in published.notes:
        session.tell(f"note: {note}")


@repo.command()
@_in_repository
def refresh(directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign a new timestamp, and whatever else expires soon. Run it several times a day."""
    refreshed = _open(directory, passphrase_file).refresh()
    session = Session(as_json=as_json)
    session.result({**_roles(refreshed.signed), "notes": list(refreshed.notes)})
    for role in refreshed.signed:
        session.tell(f"Signed {role.name} {role.version}, good until {utc_text(role.expires)}.")
    for note in refreshed.notes:
        session.aside(f"note: {note}")


@repo.command()
@click.argument("release", metavar="NAME==VERSION")
@click.option("--yank", "kind", flag_value=WithdrawalKind.YANKED.value, help="Not picked anew.")
@click.option("--block", "kind", flag_value=WithdrawalKind.BLOCKED.value, help="Refused at load.")
@click.option("--unblock", is_flag=True, help="With --yank: let a blocked release load again.")
@click.option("--reason", required=True, help="Why; shown to people.")
@click.option("--platform", metavar="TAG", help="Only the release for this platform.")
@_in_repository
def withdraw(
    *,
    release: str,
    kind: str | None,
    unblock: bool,
    reason: str,
    platform: str | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Withdraw a release: --yank (what is installed goes on) or --block (refuses to load)."""
    if kind is None:
        raise click.UsageError("Say how far: --yank or --block.")
    if unblock and kind == WithdrawalKind.BLOCKED:
        raise click.UsageError("--unblock goes with --yank.")
    name, equals, version = release.partition("==")
    if not equals:
        raise InvalidInputError(
            f"{release!r} does not name one release", remedy="Write NAME==VERSION."
        )
    withdrawn = _open(directory, passphrase_file).withdraw(
        PluginName.parse(name),
        parse_version(version),
        WithdrawalKind(kind),
        reason,
        platform=Platform.parse(platform) if platform is not None else None,
        unblock=unblock,
    )
    session = Session(as_json=as_json)
    session.result(
        {"withdrawn": [_release(one) for one in withdrawn], "kind": kind, "reason": reason}
    )
    for one in withdrawn:
        session.tell(f"{one} is {kind}: {reason}")


@repo.command()
@_of_repository
def status(directory: Path, as_json: bool) -> None:
    """Show roles and releases, after verifying the repository's signatures."""
    found = Repository.open(directory).status()
    session = Session(as_json=as_json)
    entries = [entry for catalogue in found.catalogues for entry in catalogue.entries]
    session.result({**_roles(found.roles), "releases": [_entry(entry) for entry in entries]})
    for role in found.roles:
        session.say(
            f"{role.name:20} version {role.version}, {role.threshold} of {len(role.keyids)} keys, "
            f"good until {utc_text(role.expires)}"
        )
    for entry in entries:
        withdrawal = entry.withdrawal
        note = f"  {withdrawal.kind}: {withdrawal.reason}" if withdrawal else ""
        session.say(f"{entry.release!s:40} {size_text(entry.length):>10}{note}")


@repo.command("serve")
@click.argument("directory", type=PathType, default=Path())
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True)
@json_option
def serve_command(directory: Path, port: int, as_json: bool) -> None:
    """Serve a repository on loopback, for development; docs/publishing.md shows nginx."""
    session = Session(as_json=as_json)

    def served(method: str, path: str, code: int, count: int) -> None:
        session.aside(f"{method} {path} {code} {count}")

    # An interruption is the way to end it, and may come at any moment.
    with suppress(KeyboardInterrupt), serve(directory, port, served=served) as server:
        session.result({"base_url": server.base_url})
        session.tell(f"Serving {directory} at {server.base_url} until interrupted.")
        server.wait()


# --- as JSON -----------------------------------------------------------------------------------


def _key(signing_key: SigningKey) -> dict[str, object]:
    return {
        "keyid": signing_key.keyid,
        "uri": signing_key.uri,
        "scheme": signing_key.public.scheme,
        "retired": signing_key.retired,
    }


def _roles(roles: tuple[RoleStatus, ...]) -> dict[str, Any]:
    return {
        "roles": [
            {
                "name": role.name,
                "version": role.version,
                "expires": utc_text(role.expires),
                "threshold": role.threshold,
                "keyids": list(role.keyids),
            }
            for role in roles
        ]
    }


def _release(release: Release) -> dict[str, str]:
    return {
        "plugin": str(release.plugin),
        "version": str(release.version),
        "platform": str(release.platform),
    }


def _entry(entry: CatalogueEntry) -> Mapping[str, object]:
    withdrawal = entry.withdrawal
    return {
        **_release(entry.release),
        "length": entry.length,
        "content_length": entry.content_length,
        "published": utc_text(entry.published),
        "withdrawn": {"kind": withdrawal.kind.value, "reason": withdrawal.reason}
        if withdrawal
        else None,
    }


def _published(published: Published) -> Mapping[str, object]:
    return {
        **_release(published.release),
        "target_path": published.target_path,
        "length": published.length,
        "sha256": str(published.sha256),
        "head_length": published.head_length,
        "content_length": published.content_length,
        "files": published.file_count,
        "chunks": published.chunk_count,
        "new_chunks": published.new_chunk_count,
        "changed": published.changed,
        "notes": list(published.notes),
    }
