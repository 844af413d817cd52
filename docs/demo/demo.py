"""The product in one minute: publish, install, load, upgrade, roll back, refuse tampering.

Run it with `make demo`. Everything happens below `.demo/` and on loopback; keys are made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from plugin_manager import PluginManager, PluginManagerError, PluginName
from plugin_manager.model import WithdrawalKind, parse_version
from plugin_manager.publishing import Published, Repository, serve

PROJECT = Path(__file__).resolve().parents[2]
WORK = PROJECT / ".demo"
SOURCES = PROJECT / "manifests"
ROOT = PROJECT / "keys" / "demo-root.json"
HOST = PROJECT / "docs" / "demo" / "host.py"

GREETER, FRENCH, MODEL = "acme/greeter", "acme/greeter-french", "globex/tiny-model"


def chapter(number: int, title: str) -> None:
    click.secho(f"\n{number}. {title}", bold=True, fg="cyan")


def tell(text: str) -> None:
    click.echo(f"   {text}")


def kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f} kB"


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    took = f"{(time.perf_counter() - begun) * 1000:.0f} ms"
    tell(click.style("ok", fg="green") + f"  {what}  " + click.style(took, dim=True))


def refused(what: str, error: PluginManagerError) -> None:
    tell(click.style("refused", fg="red", bold=True) + f"  {what}")
    tell(f"         {type(error).__name__}: {error}")


class Demo:
    def __init__(self) -> None:
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir()
        self.requested: list[tuple[str, int]] = []

    def served(  # the callback of serve(); two of its facts are of no interest here
        self, _method: str, path: str, _status: int, body_bytes: int
    ) -> None:
        self.requested.append((path, body_bytes))

    def fetched(self) -> str:
        metadata = sum(count for path, count in self.requested if path.startswith("/metadata/"))
        catalogues = sum(count for path, count in self.requested if path.endswith("catalogue.json"))
        bundles = sum(count for path, count in self.requested if path.endswith(".tar.zst"))
        requests = f"{len(self.requested)} request{'s' if len(self.requested) > 1 else ''}"
        self.requested.clear()
        return (
            f"fetched in {requests}: bundles {kilobytes(bundles)}, "
            f"signed metadata {kilobytes(metadata)}, catalogues {kilobytes(catalogues)}"
        )

    def source(self, plugin: str, version: str) -> Path:
        source = WORK / "sources" / plugin / version
        shutil.copytree(SOURCES / plugin / version, source)
        maker = SOURCES / plugin / "make_weights.py"
        if maker.exists():
            subprocess.run([sys.executable, maker, version, source / "files"], check=True)
        return source

    def publish(self, repository: Repository, plugin: str, version: str) -> Published:
        with timed(f"{plugin} {version} signed by publisher-{plugin.partition('/')[0]}"):
            published = repository.publish(self.source(plugin, version))
        tell(
            f"      {published.file_count} files, {kilobytes(published.content_length)}, in a "
            f"bundle of {kilobytes(published.length)}; {published.new_chunk_count} of "
            f"{published.chunk_count} chunks are new"
        )
        return published

    def run_host(self, base_url: str) -> None:
        """The small host application, in a process of its own as in real life."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, str(HOST), str(WORK / "store"), base_url, str(ROOT)]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        for line in (answer.stdout + answer.stderr).splitlines():
            tell(click.style("host  ", fg="yellow") + line)

    def run(self) -> None:
        chapter(1, "A publisher's side: keys, a repository, two publishers")
        with timed("root, targets, snapshot and timestamp keys made, encrypted, outside git"):
            repository = Repository.create(
                WORK / "repository", keys_directory=WORK / "keys", passphrase="demo"
            )
            repository.add_publisher("acme")
            repository.add_publisher("globex")
        ROOT.write_bytes(repository.root_bytes())
        tell(f"The host pins one public file, {ROOT.relative_to(PROJECT)}; all trust follows.")

        chapter(2, "Publish: each publisher signs only what is its own")
        for plugin, version in ((GREETER, "1.0.0"), (MODEL, "1.0")):
            self.publish(repository, plugin, version)

        with serve(WORK / "repository", served=self.served) as server:
            self.online(repository, server.base_url)
            base_url = server.base_url
        self.offline(base_url)
        with serve(WORK / "repository", served=self.served) as server:
            self.attacked(repository, server.base_url)
        click.secho("\nThat was all real: TUF signatures, HTTP ranges, BLAKE3 chunks.", bold=True)
        tell(f"Look around: .venv/bin/pluginctl --store {WORK.name}/store list (or history)")

    def online(self, repository: Repository, base_url: str) -> None:
        chapter(3, "Install from a plain HTTP server on loopback")
        manager = PluginManager.open(WORK / "store", base_url, ROOT, host_version="1.0")
        with timed(f"installed {GREETER} and {MODEL}"):
            manager.install(GREETER, MODEL)
        tell(self.fetched())
        tell("verified: root -> targets -> publisher -> bundle entry -> manifest -> every chunk")

        chapter(4, "Load: the host application, three lines, everything verified at that load")
        self.run_host(base_url)

        self.publish(repository, GREETER, "2.0.0")
        try:
            manager.install(f"{GREETER}==2.0.0")
        except PluginManagerError as error:
            refused(f"installing {GREETER} 2.0.0, which asks for another host", error)

        chapter(5, "Upgrade: only what changed is fetched")
        for plugin, version in ((GREETER, "1.1.0"), (MODEL, "1.1"), (FRENCH, "1.0.0")):
            self.publish(repository, plugin, version)
        self.requested.clear()
        with timed(f"upgraded, and installed {FRENCH}, which requires {GREETER}>=1.1"):
            manager.upgrade()
            manager.install(FRENCH)
        tell(self.fetched())
        self.run_host(base_url)

    def offline(self, base_url: str) -> None:
        chapter(6, "Roll back, offline: the server is stopped now")
        manager = PluginManager.open(WORK / "store", base_url, ROOT, host_version="1.0")
        with timed(f"rolled {MODEL} back"):
            plan = manager.rollback(MODEL)
        tell(f"{plan.steps[0]}; {plan.notes[-1]}")
        self.run_host(base_url)

    def attacked(self, repository: Repository, base_url: str) -> None:
        chapter(7, "Tampering: one byte of an installed file is changed")
        manager = PluginManager.open(WORK / "store", base_url, ROOT, host_version="1.0")
        victim = next(manager.path(MODEL).rglob("*.bin"))
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.unlink()
        victim.write_bytes(data)
        try:
            manager.load(MODEL)
        except PluginManagerError as error:
            refused(f"loading {MODEL}", error)
        self.requested.clear()
        with timed("repaired: only the part with the damaged chunk was fetched"):
            manager.repair(MODEL)
        tell(self.fetched())
        with timed("loaded again, verified"):
            manager.load(MODEL)

        chapter(8, "Tampering: the mirror serves other bytes")
        bundle = next((WORK / "repository/public/targets/acme").rglob("*.greeter-french-*.tar.zst"))
        honest = bundle.read_bytes()
        bundle.write_bytes(honest[:-200] + bytes(100) + honest[-100:])
        other = PluginManager.open(WORK / "other-store", base_url, ROOT, host_version="1.0")
        try:
            other.install(FRENCH)
        except PluginManagerError as error:
            refused(f"installing {FRENCH}", error)
        bundle.write_bytes(honest)
        tell(f"installed there meanwhile: {len(other.installed())} plugins")

        chapter(9, "A publisher blocks a release: hosts refuse it at the next load")
        repository.withdraw(
            PluginName.parse(GREETER), parse_version("1.1.0"), WithdrawalKind.BLOCKED,
            "greets the wrong people",
        )  # fmt: skip
        manager.upgrade(FRENCH)  # any look at the repository brings the news
        try:
            manager.load(GREETER)
        except PluginManagerError as error:
            refused(f"loading {GREETER}", error)


if __name__ == "__main__":
    Demo().run()
