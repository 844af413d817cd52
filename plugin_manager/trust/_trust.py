"""Trust in one repository: `update` online, `local` offline; the judge wired to files and net."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from plugin_manager.catalogue import MAX_CATALOGUE_BYTES, Catalogue, catalogue_path
from plugin_manager.durable import disk_errors
from plugin_manager.errors import (
    ExpiredError,
    InvalidInputError,
    NetworkError,
    NotFoundError,
    PluginManagerError,
    UntrustedError,
)
from plugin_manager.index import MAX_INDEX_BYTES, Index, index_path
from plugin_manager.manifest import TELL_PUBLISHER
from plugin_manager.model import PluginName, Release, publisher_role, utc_text
from plugin_manager.trust._sets import (
    SetGoneError,
    Sets,
    StoredSet,
    own_directory,
    remove_directory,
)
from plugin_manager.trust._values import (
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    BundleTarget,
    ExpiredRole,
    Expiry,
    catalogue_file,
    catalogue_plugin,
    index_file,
    index_publisher,
    publisher_file,
    root_file,
    root_version,
)

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]  # a re-export

    from plugin_manager.bundle import Head
    from plugin_manager.trust._client import Client
    from plugin_manager.trust._judge import Chain, Publisher

__all__ = ["Trust", "Update", "Vouching"]

T = TypeVar("T")

_log = logging.getLogger("plugin_manager")

STAGING = "staging"


def _now() -> datetime:
    return datetime.now(UTC)


def garbage(directory: Path) -> list[Path]:
    """What interrupted updates left in the trust directory `directory`, and nobody needs.

    For the holder of the store's writer lock; needs no root.
    """
    with disk_errors(directory):
        staging = directory / STAGING
        return [*Sets(directory).garbage(), *([staging] if os.path.lexists(staging) else [])]


def collect(directory: Path) -> None:
    """Remove what `garbage` lists, for the holder of the store's writer lock."""
    with disk_errors(directory):
        Sets(directory).collect()
        remove_directory(directory / STAGING)


def _refuse_older(found: Chain, newest: Chain) -> None:
    """Raise UntrustedError where `found` is of an earlier time than `newest`, verified before."""
    if found.order < newest.order:
        raise UntrustedError(
            f"{found.place} holds older metadata than was verified before: "
            f"{_named(found)}, after {_named(newest)}",
            where=found.place,
            remedy="Run 'pluginctl update'; where that does not help, tell the repository's owner.",
        )


def _named(chain: Chain) -> str:
    return f"timestamp {chain.timestamp.version} of root {chain.root.version}"


# What the disk refuses is not among them: what was not written must not be taken for what is there.
_TOLD_IN_TURN = (InvalidInputError, NetworkError, NotFoundError, UntrustedError)


class Trust:
    """What `pinned_root`, the host's own root metadata, vouches for; kept below `directory`.

    `root_name` names it in errors. `metadata_url` is where the repository serves its metadata,
    `targets_url` its targets ("": in `targets/` beside it). `fetch(url, most_bytes)` returns a
    body of at most that length, or raises NetworkError with its `status`; `fetch_many` does the
    same for several at a time, and returns bodies and errors in their order: what is sure to be
    needed is then fetched side by side (None: all one after the other). `expiry` is the policy for
    `local`; `now` the clock for it (python-tuf asks the system's own in an update). Touches
    neither disk nor network by itself.

    A malformed pinned root is an InvalidInputError at the first use. `local` may be called from
    several threads and processes, also during an update.
    """

    def __init__(
        self,
        directory: Path,
        pinned_root: bytes,
        *,
        metadata_url: str,
        fetch: Callable[[str, int], bytes],
        fetch_many: Callable[[Sequence[tuple[str, int]]], list[bytes | PluginManagerError]]
        | None = None,
        targets_url: str = "",
        root_name: str = "pinned root",
        expiry: Expiry = Expiry.STRICT,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self.metadata_url = f"{metadata_url.rstrip('/')}/"
        beside = self.metadata_url.rstrip("/").rpartition("/")[0]
        self.targets_url = f"{(targets_url or f'{beside}/targets').rstrip('/')}/"
        self.directory = directory
        self._pinned_root = pinned_root
        self._root_name = root_name
        self._fetch, self._fetch_many = fetch, fetch_many
        self._expiry = expiry
        self._now = now
        self._sets = Sets(directory)
        self._verified: _Verified | None = None
        self._lock = Lock()

    def check_root(self) -> None:
        """Raise InvalidInputError naming the pinned root where it is not sound."""
        from plugin_manager.trust._judge import pinned_root  # noqa: PLC0415 - imports tuf

        pinned_root(self._pinned_root, self._root_name)

    def local(self) -> Vouching:
        """The chain from the pinned root over the local files, verified whole; no network.

        What this object has verified before is not read again while the same set is current;
        expiry is judged anew each time. Older metadata than that is refused. Raises NotFoundError
        where nothing was ever fetched, UntrustedError, ExpiredError, CorruptError naming the file,
        StoreAccessError.
        """
        return Vouching(self._current, self._expiry, self._now())

    def _current(self) -> _Verified:
        """What is verified of the current set; of the set that replaced it where it was gone."""
        newest = verified = self._verified
        if verified is None:
            self.check_root()
        with disk_errors(self.directory):
            while verified is None or self._sets.pointer() != verified.stored.pointer:
                with contextlib.suppress(SetGoneError):
                    known = verified.known_indexes if verified else {}
                    verified = _Verified.load(self._pinned_root, self._sets.current(), known)
        if newest is not None:
            _refuse_older(verified.chain, newest.chain)
        with self._lock:
            # Another thread may have met a newer one meanwhile, which must not be forgotten.
            if self._verified is None or self._verified.chain.order <= verified.chain.order:
                self._verified = verified
        return verified

    @contextlib.contextmanager
    def update(
        self, plugins: Iterable[PluginName] = (), *, every_index: bool = False
    ) -> Iterator[Update]:
        """A conversation with the repository, its top-level metadata brought up to date already.

        The catalogues of `plugins` are going to be asked for: they come as `Update.prefetch` says.
        The caller holds the store's writer lock. Leaving the block makes everything that was
        fetched the current local metadata at once; leaving it with an exception changes nothing,
        as does a crash at any instant. Every catalogue known before is brought up to date with
        the rest, asked for or not, so that no chain breaks: where that cannot be done, nothing
        changes either. The indexes of the publishers that are met, and those known before, come
        along, with `every_index` those of all publishers; one that cannot be had is done without.
        Raises NetworkError, UntrustedError, ExpiredError, NoSpaceError,
        StoreAccessError.
        """
        from plugin_manager.trust._client import Client  # noqa: PLC0415 - imports tuf's client

        self.check_root()
        staging = self.directory / STAGING
        with disk_errors(self.directory):
            carried = self._sets.salvage()
            own_directory(self.directory)
            remove_directory(staging)
            self._prepare(staging, carried)
        try:
            with disk_errors(self.directory):
                client = Client(
                    staging,
                    self._pinned_root,
                    metadata_url=self.metadata_url,
                    targets_url=self.targets_url,
                    fetch=self._fetch,
                    fetch_many=self._fetch_many,
                )
                newest = self._verified
                update = Update(
                    client,
                    self._pinned_root,
                    self.metadata_url,
                    carried,
                    plugins,
                    every_index=every_index,
                )
                if newest is not None:
                    _refuse_older(update.chain, newest.chain)
            yield update
            with disk_errors(self.directory):
                self._sets.commit(update.finish())
        finally:
            with disk_errors(self.directory):
                remove_directory(staging)

    def _prepare(self, staging: Path, carried: dict[str, bytes]) -> None:
        """Lay out what is known for the client, which judges each file before it relies on it."""
        from plugin_manager.trust._judge import next_root, pinned_root  # noqa: PLC0415 - as above

        root = pinned_root(self._pinned_root)
        with contextlib.suppress(UntrustedError, KeyError):
            while True:
                name = root_file(root.version + 1)
                root = next_root(root, carried[name], name)
        staging.mkdir()
        for name, data in carried.items():
            # Not the roots behind one that does not hold: the client would leave them lying there.
            target = name.startswith(("catalogues/", "indexes/"))
            if root_version(name) <= root.version and not target:
                path = staging / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)


class Update:
    """An update under way; made by `Trust.update`. For one thread."""

    def __init__(
        self,
        client: Client,
        pinned_root: bytes,
        place: str,
        carried: dict[str, bytes],
        plugins: Iterable[PluginName],
        *,
        every_index: bool = False,
    ) -> None:
        from plugin_manager.trust._judge import Chain  # noqa: PLC0415 - imports tuf

        catalogues = {catalogue_plugin(name): data for name, data in carried.items()}
        self._catalogues = {plugin: data for plugin, data in catalogues.items() if plugin}
        indexes = {index_publisher(name): data for name, data in carried.items()}
        self._indexes = {publisher: data for publisher, data in indexes.items() if publisher}
        expected = dict.fromkeys([*plugins, *self._catalogues])
        self._client = client
        self._top = client.refresh(
            dict.fromkeys([*(plugin.publisher for plugin in expected), *self._indexes])
        )
        self.chain: Chain = Chain.verify(pinned_root, self._top, place)
        self._roles: dict[str, Publisher] = {}
        self._role_files: dict[str, bytes] = {}
        self._expired: dict[str, ExpiredError] = {}
        # Plugins whose stored catalogue is what the repository says now, or that it says are gone.
        self._settled: set[PluginName] = set()
        self._parsed: dict[PluginName, Catalogue] = {}
        # Publishers whose index is wanted, and those of which it is known what becomes of it.
        self._listing = {*self._indexes, *(self.chain.publishers if every_index else ())}
        self._listed: set[str] = set()
        self.prefetch(expected)

    def prefetch(self, plugins: Iterable[PluginName]) -> Collection[PluginName]:
        """Those of `plugins` whose catalogues are at hand, after fetching them side by side.

        Why the others are not, `catalogue` says. Does nothing where there is no `fetch_many`.
        """
        if not self._client.goes_ahead:
            return ()
        wanted = dict.fromkeys(plugins)
        of_publisher: dict[str, list[PluginName]] = {
            publisher: []
            for publisher in sorted(self._listing - self._listed)
            if self.chain.delegates_to(publisher)
        }
        for plugin in wanted:
            if plugin not in self._settled and self.chain.delegates_to(plugin.publisher):
                of_publisher.setdefault(plugin.publisher, []).append(plugin)
        unknown = [publisher for publisher in of_publisher if publisher not in self._roles]
        for publisher in self._client.publishers_ahead(unknown):
            with contextlib.suppress(*_TOLD_IN_TURN):
                path = next(map(catalogue_path, of_publisher[publisher]), index_path(publisher))
                self._role_for(publisher, path)
        for key in self._client.targets_ahead(self._lacking_of(of_publisher)):
            with contextlib.suppress(*_TOLD_IN_TURN):
                if isinstance(key, PluginName):
                    self._settle(self._roles[key.publisher], key)
                else:
                    self._settle_index(key)
        return [plugin for plugin in wanted if self._is_at_hand(plugin)]

    def _lacking_of(
        self, of_publisher: Mapping[str, Iterable[PluginName]]
    ) -> dict[PluginName | str, TargetFile]:
        """The entries of what is lacking: catalogues by plugin, indexes by publisher."""
        lacking: dict[PluginName | str, TargetFile] = {}
        for publisher in of_publisher.keys() & self._roles.keys():
            for plugin in of_publisher[publisher]:
                with contextlib.suppress(*_TOLD_IN_TURN):
                    if entry := self._lacking(self._roles[publisher], plugin):
                        lacking[plugin] = entry
        for publisher in of_publisher.keys() & self._roles.keys():  # what matters more comes first
            if entry := self._lacking_index(publisher):
                lacking[publisher] = entry
        return lacking

    def _is_at_hand(self, plugin: PluginName) -> bool:
        return plugin in self._settled and plugin in self._catalogues

    def catalogue(self, plugin: PluginName) -> Catalogue:
        """The plugin's catalogue as the repository has it now.

        Raises NotFoundError where there is none; ExpiredError where the publisher's role has
        expired, whatever the policy (role and catalogue are kept all the same, so that `local`
        can judge them); InvalidInputError where the publisher signed nonsense; UntrustedError,
        NetworkError. A caller may go on without this plugin after any of these.
        """
        role = self._role(plugin)
        data = self._settle(role, plugin)
        if error := self._expired.get(plugin.publisher):
            raise ExpiredError(
                f"the metadata of publisher {plugin.publisher} expired on "
                f"{utc_text(role.role.expires)}",
                role=publisher_role(plugin.publisher),
                expires=role.role.expires,
                remedy="The publisher has to sign it anew.",
            ) from error
        if plugin not in self._parsed:
            self._parsed[plugin] = role.catalogue(plugin, data, catalogue_path(plugin))
        return self._parsed[plugin]

    def _role(self, plugin: PluginName) -> Publisher:
        publisher, path = plugin.publisher, catalogue_path(plugin)
        if not self.chain.delegates_to(publisher):
            raise self._gone(plugin, f"publisher {publisher!r}")
        return self._role_for(publisher, path)

    def _role_for(self, publisher: str, path: str) -> Publisher:
        """The role of `publisher`, which the repository knows, fetched to look up `path`."""
        self.chain.check_exclusive(path)
        if publisher not in self._roles:
            try:
                data = self._client.publisher(publisher, path)
            except ExpiredError as error:
                version = self.chain.publisher_version(publisher)
                data = self._client.expired_publisher(publisher, version)
                self._expired[publisher] = error
            self._roles[publisher] = self.chain.publisher(publisher, data)
            self._role_files[publisher] = data
        return self._roles[publisher]

    def _settle_indexes(self) -> None:
        """Have the indexes that are wanted, as far as can be: none is a reason to fail a change."""
        for publisher in sorted({*self._listing, *self._roles}):
            if not self.chain.delegates_to(publisher):
                continue
            try:
                self._settle_index(publisher)
            except _TOLD_IN_TURN as error:
                _log.warning("the index of publisher %s could not be had: %s", publisher, error)
                if isinstance(error, NetworkError) and error.status is None:
                    return  # who does not answer is not waited for once more for each of them

    def _settle_index(self, publisher: str) -> None:
        """Have the publisher's index as the repository has it now, or none."""
        if publisher in self._listed:
            return
        if publisher not in self._roles:
            self._role_for(publisher, index_path(publisher))
        if entry := self._lacking_index(publisher):
            data = self._client.download(entry)
            self._roles[publisher].check_index(data, entry.path)
            self._indexes[publisher] = data
            self._listed.add(publisher)

    def _lacking_index(self, publisher: str) -> TargetFile | None:
        """The entry of the publisher's index; None where it is known, or there is none."""
        if publisher in self._listed:
            return None
        role, path = self._roles[publisher], index_path(publisher)
        data = self._indexes.pop(publisher, b"")  # nothing is better than what was not signed
        try:
            entry = role.entry(path)
        except UntrustedError:
            entry = None
        if entry is None or entry.length > MAX_INDEX_BYTES:
            self._listed.add(publisher)
            return None
        with contextlib.suppress(UntrustedError):
            role.check_index(data, path)
            self._indexes[publisher] = data
            self._listed.add(publisher)
            return None
        return entry

    def _settle(self, role: Publisher, plugin: PluginName) -> bytes:
        """The signed bytes of the plugin's catalogue, fetched unless they are known already."""
        if not self._is_at_hand(plugin) and (entry := self._lacking(role, plugin)):
            data = self._client.download(entry)
            role.check_catalogue(plugin, data, entry.path)
            self._keep(plugin, data)
        return self._catalogues[plugin]

    def _lacking(self, role: Publisher, plugin: PluginName) -> TargetFile | None:
        """The entry of the plugin's catalogue; None where what is known is what was signed."""
        path = catalogue_path(plugin)
        try:
            entry = role.entry(path)
        except UntrustedError:
            self._forget(plugin)  # the publisher signed it so: its own doing, and only its harm
            raise
        if entry is None:
            raise self._gone(plugin, f"plugin {plugin}")
        if entry.length > MAX_CATALOGUE_BYTES:
            self._forget(plugin)
            raise InvalidInputError(
                f"{path}: is larger than {MAX_CATALOGUE_BYTES} bytes",
                where=path,
                remedy=TELL_PUBLISHER,
            )
        data = self._catalogues.get(plugin, b"")
        try:
            role.check_catalogue(plugin, data, path)
        except UntrustedError:
            return entry
        self._keep(plugin, data)
        return None

    def _keep(self, plugin: PluginName, data: bytes) -> None:
        self._catalogues[plugin] = data
        self._settled.add(plugin)

    def _gone(self, plugin: PluginName, what: str) -> NotFoundError:
        self._forget(plugin)
        return NotFoundError(
            f"the repository has no {what}",
            plugin=str(plugin),
            remedy="Check the plugin's name and the repository's address.",
        )

    def _forget(self, plugin: PluginName) -> None:
        self._catalogues.pop(plugin, None)
        self._settled.add(plugin)

    def finish(self) -> dict[str, bytes]:
        """The files of the new set: all that was known or asked for, as the repository has it.

        Raises what `catalogue` raises where a catalogue that was known cannot be had.
        """
        for plugin in sorted(set(self._catalogues) - self._settled):
            try:
                self.catalogue(plugin)
            except PluginManagerError:
                if plugin not in self._settled:
                    raise
        self._settle_indexes()
        files = dict(self._top)
        for publisher in self._listed & self._indexes.keys():
            data = self._indexes[publisher]
            files[index_file(publisher)] = data
            files[publisher_file(publisher)] = self._role_files[publisher]
        for plugin, data in self._catalogues.items():
            files[catalogue_file(plugin)] = data
            files[publisher_file(plugin.publisher)] = self._role_files[plugin.publisher]
        return files


class _Verified:
    """What this process has verified of one set. Grows; threads may verify a thing twice."""

    def __init__(self, stored: StoredSet, chain: Chain, known: Mapping[str, Index]) -> None:
        self.stored = stored
        self.chain = chain
        self._publishers: dict[str, Publisher] = {}
        self._catalogues: dict[PluginName, Catalogue] = {}
        self._indexes: dict[str, Index] = {}
        self._known = {key: known[key] for key in known.keys() & set(stored.digests.values())}

    @classmethod
    def load(cls, pinned_root: bytes, stored: StoredSet, known: Mapping[str, Index]) -> _Verified:
        """The top level of `stored`, verified; raises SetGoneError and what `Trust.local` does.

        `known` are indexes by the digests of their files: those need not be parsed once more.
        """
        from plugin_manager.trust._judge import Chain  # noqa: PLC0415 - imports tuf

        names = [
            n for n in stored.digests if root_version(n) or n in {TIMESTAMP, SNAPSHOT, TARGETS}
        ]
        files = {name: stored.read(name) for name in names}
        return cls(stored, Chain.verify(pinned_root, files, stored.place), known)

    def publisher(self, publisher: str, asked: PluginName | None = None) -> Publisher:
        """The role of `publisher`, whose plugin `asked` is asked about."""
        found = self._publishers.get(publisher)
        if found is None:
            whose = str(asked or f"publisher {publisher}")
            data = self._read(publisher_file(publisher), whose)
            found = self._publishers[publisher] = self.chain.publisher(publisher, data)
        return found

    @property
    def publisher_expiries(self) -> dict[str, datetime]:
        """When the publishers' roles expire that were asked for so far, by role."""
        found = self._publishers.items()
        return {publisher_role(name): publisher.role.expires for name, publisher in found}

    def index(self, publisher: str) -> Index:
        """The publisher's index."""
        found = self._indexes.get(publisher)
        if found is None:
            name = index_file(publisher)
            data = self._read(name, f"publisher {publisher}")
            known = self._known.get(self.stored.digests[name])
            found = self.publisher(publisher).index(data, self.stored.place + name, known)
            self._indexes[publisher] = found
        return found

    @property
    def known_indexes(self) -> dict[str, Index]:
        """The indexes that were parsed, by the digests of their files."""
        digests = self.stored.digests
        read = {digests[index_file(name)]: index for name, index in self._indexes.copy().items()}
        return self._known | read

    def catalogue(self, plugin: PluginName) -> Catalogue:
        """The plugin's catalogue."""
        found = self._catalogues.get(plugin)
        if found is None:
            name = catalogue_file(plugin)
            data = self._read(name, str(plugin))
            publisher = self.publisher(plugin.publisher, plugin)
            found = publisher.catalogue(plugin, data, self.stored.place + name)
            self._catalogues[plugin] = found
        return found

    def _read(self, name: str, whose: str) -> bytes:
        if name not in self.stored.digests:
            what = "catalogue" if "/" in whose else "index"
            raise NotFoundError(
                f"no {what} of {whose} is stored here",
                plugin=whose,
                remedy="Run 'pluginctl update'.",
            )
        return self.stored.read(name)


class Vouching:
    """What the pinned root vouches for, by the local metadata, at the moment it was asked.

    Made by `Trust.local`; meant for one command or load, not to be kept. Where an update replaces
    the metadata meanwhile, later answers may come from the newer set.
    """

    def __init__(self, current: Callable[[], _Verified], expiry: Expiry, moment: datetime) -> None:
        self._current = current
        self._expiry = expiry
        self._moment = moment
        self._expired: dict[str, ExpiredRole] = {}
        self._verified = current()
        self._judge_top()

    @property
    def expired_roles(self) -> tuple[ExpiredRole, ...]:
        """The roles relied on so far that have expired, within the policy: worth a warning."""
        return tuple(self._expired.values())

    def expiries(self) -> Mapping[str, datetime]:
        """When the top-level roles, and those of the publishers relied on so far, expire."""
        return {**self._verified.chain.expiries, **self._verified.publisher_expiries}

    def _judge_top(self) -> None:
        for role, expires in self._verified.chain.expiries.items():
            self._judge(role, expires)

    def _judge(self, role: str, expires: datetime) -> None:
        if expired := self._expiry.judge(role, expires, self._moment):
            self._expired[role] = expired

    def _publisher(self, name: str, asked: PluginName | None = None) -> Publisher:
        publisher = self._verified.publisher(name, asked)
        self._judge(publisher_role(name), publisher.role.expires)
        return publisher

    def _ask(self, question: Callable[[], T]) -> T:
        while True:
            try:
                with disk_errors(self._verified.stored.directory):
                    return question()
            except SetGoneError:
                self._verified = self._current()
                self._judge_top()

    def catalogue(self, plugin: PluginName) -> Catalogue:
        """The plugin's catalogue as last fetched.

        Raises NotFoundError where it never was, UntrustedError, ExpiredError, CorruptError,
        InvalidInputError where the publisher signed nonsense.
        """

        def question() -> Catalogue:
            self._publisher(plugin.publisher, plugin)
            return self._verified.catalogue(plugin)

        return self._ask(question)

    def listed_publishers(self) -> tuple[str, ...]:
        """The publishers whose index is stored here, in the order of their names."""
        found = map(index_publisher, self._verified.stored.digests)
        return tuple(sorted(publisher for publisher in found if publisher))

    def index(self, publisher: str) -> Index:
        """The publisher's index as last fetched; raises as `catalogue` does."""

        def question() -> Index:
            self._publisher(publisher)
            return self._verified.index(publisher)

        return self._ask(question)

    def refuse_blocked(self, release: Release) -> None:
        """Raise BlockedError where the publisher blocked `release`; else as `catalogue` does."""
        if entry := self.catalogue(release.plugin).entry(release):
            entry.refuse_if_blocked()

    def target(self, release: Release) -> BundleTarget:
        """The release's bundle as its publisher signed it, whether withdrawn or not.

        Raises as `catalogue` does; UntrustedError where the publisher does not vouch for it.
        """
        return self._ask(
            lambda: self._publisher(release.plugin.publisher, release.plugin).bundle(release)
        )

    def vouch(self, release: Release, head: bytes) -> Head:
        """The head of the release's bundle, if `head` is what its publisher signed as that.

        Raises as `target` does; BlockedError with the publisher's reason; UntrustedError where
        the bytes are not the signed ones, or name another release, or promise something else
        than the catalogue.
        """

        def question() -> Head:
            publisher = self._publisher(release.plugin.publisher, release.plugin)
            return publisher.vouch(release, self._verified.catalogue(release.plugin), head)

        return self._ask(question)
