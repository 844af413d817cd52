"""Offline: the chain over local files alone; expiry policies; every flipped byte refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Root, Targets

from plugin_manager.errors import (
    BlockedError,
    CorruptError,
    ExpiredError,
    InvalidInputError,
    NotFoundError,
    PluginManagerError,
    UntrustedError,
)
from plugin_manager.model import PluginName, Withdrawal, WithdrawalKind
from plugin_manager.trust import ExpiredRole, Expiry, _sets
from plugin_manager.trust._sets import StoredSet
from tests.trust.repository import (
    Repository,
    current_set,
    make_release,
    seal_set,
    soon,
    update,
)

MAPS = PluginName.parse("acme/maps")
MAPS_1 = make_release("acme/maps 1.0")


@pytest.fixture(scope="module")
def repository() -> Repository:
    repository = Repository("acme", "globex")
    repository.add("acme/maps 1.0")
    repository.add("globex/model 1.0")
    repository.rotate("root")
    repository.publish()
    return repository


@pytest.fixture
def trust(repository, tmp_path):
    trust = repository.trust(tmp_path / "trust")
    update(trust, "acme/maps")
    return trust


def reopened(repository, trust, **changes):
    """The same files as another process would read them, with no network."""

    def fetch(url: str, most_bytes: int) -> bytes:
        raise AssertionError(f"asked the network for {url}")

    return repository.trust(trust.directory, fetch=fetch, **changes)


def test_loads_need_no_network(repository, trust, monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket, "socket", forbidden)
    vouching = reopened(repository, trust).local()
    assert vouching.vouch(MAPS_1, repository.heads[MAPS_1]).manifest.release == MAPS_1
    assert vouching.target(MAPS_1).release == MAPS_1
    assert vouching.catalogue(MAPS).plugin == MAPS


def test_nothing_fetched_yet_is_not_found(repository, tmp_path):
    with pytest.raises(NotFoundError, match="no metadata of the repository is stored here yet"):
        repository.trust(tmp_path / "trust").local()
    assert not (tmp_path / "trust").exists()


def test_plugin_never_asked_for_is_not_found(repository, trust):
    with pytest.raises(NotFoundError, match="no catalogue of globex/model is stored here"):
        trust.local().catalogue(PluginName.parse("globex/model"))


def test_importing_trust_does_not_import_tuf():
    code = "import sys, plugin_manager.trust; sys.exit('tuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_was_verified_is_not_read_again_while_it_is_current(repository, trust, monkeypatch):
    local = reopened(repository, trust)
    local.local().vouch(MAPS_1, repository.heads[MAPS_1])
    with monkeypatch.context() as patched:
        patched.setattr(StoredSet, "read", lambda *_: pytest.fail("read again"))
        local.local().vouch(MAPS_1, repository.heads[MAPS_1])


def test_another_processs_update_is_seen_by_the_next_load(tmp_path):
    repository = Repository("acme")
    repository.add("acme/maps 1.0")
    repository.publish()
    reader, writer = (repository.trust(tmp_path / "trust") for _ in range(2))
    update(writer, "acme/maps")
    held = reader.local()
    assert held.vouch(MAPS_1, repository.heads[MAPS_1])
    repository.withdraw(MAPS_1, Withdrawal(WithdrawalKind.BLOCKED, "bad"))
    repository.publish()
    update(writer)
    with pytest.raises(BlockedError):
        reader.local().vouch(MAPS_1, repository.heads[MAPS_1])


def test_held_vouching_goes_on_with_the_newer_set_when_its_own_is_gone(tmp_path):
    repository = Repository("acme")
    repository.add("acme/maps 1.0")
    repository.publish()
    reader, writer = (repository.trust(tmp_path / "trust") for _ in range(2))
    update(writer, "acme/maps")
    held = reader.local()
    for _ in range(3):
        repository.publish()
        update(writer)
    assert not (tmp_path / "trust" / "sets" / "1").exists()
    assert held.vouch(MAPS_1, repository.heads[MAPS_1]).manifest.release == MAPS_1


# --- older metadata put back --------------------------------------------------------------------


def put_back(directory, older) -> None:
    """Make the files of a copied trust directory the current ones, all digests agreeing."""
    shutil.rmtree(directory)
    shutil.copytree(older, directory)


@pytest.fixture
def upgraded(tmp_path):
    """A repository, its trust that has verified version after version, and copies of each."""
    repository = Repository("acme")
    repository.add("acme/maps 1.0")
    trust = repository.trust(tmp_path / "trust")
    copies = []
    for change in (lambda: None, lambda: repository.rotate("timestamp"), lambda: None):
        change()
        repository.publish()
        update(trust, "acme/maps")
        trust.local()
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(trust.directory, copies[-1])
    return repository, trust, copies


@pytest.mark.parametrize("index", [0, 1], ids=["of an earlier root", "of the same root"])
def test_older_metadata_than_was_verified_before_is_refused_until_the_update(upgraded, index):
    repository, trust, copies = upgraded
    put_back(trust.directory, copies[index])
    with pytest.raises(UntrustedError, match="older metadata") as caught:
        trust.local()
    assert "pluginctl update" in caught.value.remedy
    assert reopened(repository, trust).local().catalogue(MAPS), "control: another process takes it"
    update(trust)
    assert trust.local().catalogue(MAPS)


def test_older_metadata_on_disk_and_on_the_server_stays_refused(upgraded):
    repository, trust, copies = upgraded
    newest = dict(repository.files)
    repository.files["metadata/timestamp.json"] = next(
        copies[1].rglob("timestamp.json")
    ).read_bytes()
    put_back(trust.directory, copies[1])
    with pytest.raises(UntrustedError, match="older metadata"):
        update(trust)
    with pytest.raises(UntrustedError, match="older metadata"):
        trust.local()
    update(repository.trust(trust.directory))  # control: another process takes it
    repository.files.update(newest)
    update(trust)
    assert trust.local().catalogue(MAPS)


def test_a_timestamp_that_a_new_root_begins_anew_is_not_older(upgraded):
    repository, trust, _ = upgraded
    before = repository.versions["timestamp"]
    for role in ("timestamp", "snapshot"):
        repository.rotate(role)
        repository.versions[role] = 0
    repository.publish()
    assert repository.versions["timestamp"] == 1 < before
    update(repository.trust(trust.directory))  # another process
    assert trust.local().catalogue(MAPS)
    update(trust)
    assert trust.local().catalogue(MAPS)


def test_the_newest_is_remembered_whatever_slower_threads_find(upgraded, monkeypatch):
    repository, trust, copies = upgraded
    slow = repository.trust(trust.directory)
    put_back(trust.directory, copies[1])
    read, once = StoredSet.read, []

    def meanwhile(self, name):
        data = read(self, name)
        if not once:
            once.append(name)
            newer = repository.trust(copies[2])
            newer.local()
            slow._verified = newer._verified  # what another thread does in this moment
        return data

    monkeypatch.setattr(StoredSet, "read", meanwhile)
    assert slow.local().catalogue(MAPS)  # it was not known when this one was asked
    with pytest.raises(UntrustedError, match="older metadata"):
        slow.local()


# --- expiry -------------------------------------------------------------------------------------


def after(days: float):
    return lambda: datetime.now(UTC) + timedelta(days=days)


def test_fresh_metadata_passes_under_every_policy(repository, trust):
    for expiry in (Expiry.STRICT, Expiry.grace(timedelta(1)), Expiry.IGNORED_UNSAFE):
        vouching = reopened(repository, trust, expiry=expiry).local()
        vouching.catalogue(MAPS)
        assert vouching.expired_roles == ()


def test_strict_refuses_what_has_expired_naming_role_and_time(repository, trust):
    with pytest.raises(ExpiredError, match=r"'timestamp' expired on .*Z, 2 days ago") as caught:
        reopened(repository, trust, now=after(3.01)).local()
    assert caught.value.context["role"] == "timestamp"
    assert caught.value.context["expires"] == repository.timestamp.expires
    assert "pluginctl update" in caught.value.remedy


def test_expiry_is_exact(repository, trust):
    expires = repository.timestamp.expires
    second = timedelta(seconds=1)
    reopened(repository, trust, now=lambda: expires - second).local()
    with pytest.raises(ExpiredError):
        reopened(repository, trust, now=lambda: expires).local()
    lenient = Expiry.grace(timedelta(hours=1))
    last = expires + timedelta(hours=1) - second
    reopened(repository, trust, now=lambda: last, expiry=lenient).local()
    with pytest.raises(ExpiredError, match=r"\(1:00:00 is tolerated\)"):
        reopened(repository, trust, now=lambda: last + second, expiry=lenient).local()


def test_grace_passes_and_is_visible(repository, trust):
    lenient = Expiry.grace(timedelta(days=30))
    vouching = reopened(repository, trust, now=after(10), expiry=lenient).local()
    assert {role.role for role in vouching.expired_roles} == {"timestamp", "snapshot"}
    assert ExpiredRole("timestamp", repository.timestamp.expires) in vouching.expired_roles
    assert str(vouching.expired_roles[0]).startswith("timestamp expired on ")
    assert vouching.vouch(MAPS_1, repository.heads[MAPS_1])


def test_grace_ends(repository, trust):
    lenient = Expiry.grace(timedelta(days=8))
    with pytest.raises(ExpiredError):
        reopened(repository, trust, now=after(10), expiry=lenient).local()


def test_ignoring_expiry_passes_for_ever_and_is_visible(repository, trust):
    local = reopened(repository, trust, now=after(365 * 1000), expiry=Expiry.IGNORED_UNSAFE)
    vouching = local.local()
    vouching.vouch(MAPS_1, repository.heads[MAPS_1])
    assert {role.role for role in vouching.expired_roles} == {
        "root", "timestamp", "snapshot", "targets", "publisher-acme"
    }  # fmt: skip


def test_time_that_passes_in_one_process_is_noticed(repository, trust):
    moment = datetime.now(UTC)
    local = reopened(repository, trust, now=lambda: moment)
    local.local().catalogue(MAPS)
    moment += timedelta(days=2)
    with pytest.raises(ExpiredError):
        local.local()


def test_expired_publisher_is_found_when_it_is_relied_on(tmp_path):
    repository = Repository("acme")
    repository.add("acme/maps 1.0")
    repository.roles["acme"].expires = soon(0.5)
    repository.publish()
    update(repository.trust(tmp_path), "acme/maps")
    vouching = repository.trust(tmp_path, now=after(0.7)).local()
    for question in (
        lambda: vouching.catalogue(MAPS),
        lambda: vouching.target(MAPS_1),
        lambda: vouching.vouch(MAPS_1, repository.heads[MAPS_1]),
    ):
        with pytest.raises(ExpiredError, match="'publisher-acme' expired on"):
            question()


def test_negative_grace_is_an_input_error():
    with pytest.raises(InvalidInputError, match="negative"):
        Expiry.grace(timedelta(days=-1))


def test_grace_of_any_length_can_be_judged():
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for expiry in (Expiry.grace(timedelta.max), Expiry.IGNORED_UNSAFE):
        assert expiry.judge("root", first, last) == ExpiredRole("root", first)


# --- hostile files ------------------------------------------------------------------------------


def answers(repository, trust) -> object:
    vouching = reopened(repository, trust).local()
    head = vouching.vouch(MAPS_1, repository.heads[MAPS_1])
    return head.digest, vouching.target(MAPS_1), vouching.catalogue(MAPS)


def files_relied_on(trust) -> list:
    """All files of the current set, and the two that say what it is."""
    listed = sorted(p for p in current_set(trust.directory).rglob("*") if p.is_file())
    return [*listed, trust.directory / "current"]


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_byte_is_refused_with_the_files_name(repository, trust, data):
    path = data.draw(st.sampled_from(files_relied_on(trust)))
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(
        good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    )
    try:
        with pytest.raises(PluginManagerError) as caught:
            answers(repository, trust)
        assert isinstance(caught.value, CorruptError)
        named = "".join(caught.value.paths)
        # A damaged `current` may name another set, which then is what is missing.
        assert path.name in {"current", "SHA256SUMS"} or named == str(path)
    finally:
        path.write_bytes(good)
    assert answers(repository, trust)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_forger_who_also_writes_the_digests_meets_the_signatures(repository, trust, data):
    good = answers(repository, trust)
    path = data.draw(st.sampled_from(sorted(current_set(trust.directory).rglob("*.json"))))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    flipped = bytes([content[at] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(content[:at] + flipped + content[at + 1 :])
    seal_set(trust.directory)
    try:
        # A flip in white space, or in a root before the pinned one, changes nothing that counts.
        assert answers(repository, trust) == good
    except UntrustedError as error:
        assert path.name in str(error)  # noqa: PT017 - either of two outcomes is right
    finally:
        path.write_bytes(content)
        seal_set(trust.directory)


def prolonged(trust) -> None:
    """A forger makes the timestamp live longer."""
    path = current_set(trust.directory) / "timestamp.json"
    value = json.loads(path.read_bytes())
    value["signed"]["expires"] = "2999-01-01T00:00:00Z"
    path.write_text(json.dumps(value))
    seal_set(trust.directory)


def test_forged_expiry_is_refused_and_would_pass_without_signatures(repository, trust, monkeypatch):
    prolonged(trust)
    with pytest.raises(
        UntrustedError, match=r"sets/1/timestamp\.json: timestamp was signed by 0/1"
    ):
        reopened(repository, trust, now=after(100)).local()
    for delegator in (Root, Targets):
        monkeypatch.setattr(delegator, "verify_delegate", lambda *_: None)
    lenient = Expiry.grace(timedelta(days=365))
    roles = reopened(repository, trust, now=after(100), expiry=lenient).local().expired_roles
    assert "timestamp" not in {role.role for role in roles}


def test_control_flip_would_pass_without_digests(repository, trust, monkeypatch):
    """White space in JSON is not signed: the recorded digests are what finds a flip there."""
    path = current_set(trust.directory) / "snapshot.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CorruptError, match=r"snapshot\.json is damaged"):
        answers(repository, trust)
    unchecked = lambda self, name: (self.directory / name).read_bytes()  # noqa: E731 - it stands in once
    monkeypatch.setattr(StoredSet, "read", unchecked)
    assert answers(repository, trust)


def test_missing_file_is_named(repository, trust):
    for path in files_relied_on(trust)[:-1]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(CorruptError, match=f"{path.name} is missing"):
            answers(repository, trust)
        path.write_bytes(content)
    assert answers(repository, trust)


@pytest.mark.parametrize("name", ["timestamp.json", "publisher-acme.json"])
def test_role_that_is_listed_no_more_is_refused(repository, trust, name):
    (current_set(trust.directory) / name).unlink()
    seal_set(trust.directory)
    with pytest.raises((UntrustedError, NotFoundError)):
        answers(repository, trust)


def test_files_beside_the_listed_ones_are_never_read(repository, trust):
    (current_set(trust.directory) / "publisher-globex.json").write_bytes(b"nonsense")
    (current_set(trust.directory) / "root_history" / "3.root.json").write_bytes(b"nonsense")
    assert answers(repository, trust)


@pytest.mark.parametrize(
    "line",
    ["../../evil.json", "catalogues/../../x.json", "/etc/passwd", "publisher-A.json", "", "a b"],
)
def test_listing_cannot_name_anything_else(repository, trust, line):
    listing = current_set(trust.directory) / "SHA256SUMS"
    listing.write_text(listing.read_text() + f"{'0' * 64}  {line}\n")
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()
    (trust.directory / "current").write_text(f"1 {digest}\n")
    with pytest.raises(CorruptError, match="SHA256SUMS is not a listing of metadata"):
        answers(repository, trust)


@pytest.mark.parametrize("text", ["", "1\n", "../evil 0\n", f"01 {'0' * 64}\n", f"9 {'0' * 64}\n"])
def test_pointer_is_exact(repository, trust, text):
    (trust.directory / "current").write_text(text)
    with pytest.raises((CorruptError, NotFoundError)):
        answers(repository, trust)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipe_link_and_directory_in_a_files_place_are_refused(repository, trust, tmp_path):
    path = current_set(trust.directory) / "targets.json"
    copy = tmp_path / "copy"
    path.rename(copy)
    os.mkfifo(path)
    with pytest.raises(CorruptError, match=r"targets\.json is not a regular file"):
        answers(repository, trust)
    path.unlink()
    path.symlink_to(copy)
    with pytest.raises(CorruptError, match=r"targets\.json cannot be read"):
        answers(repository, trust)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptError, match=r"targets\.json is not a regular file"):
        answers(repository, trust)


def test_oversized_file_is_refused_without_being_read(repository, trust):
    path = current_set(trust.directory) / "timestamp.json"
    os.truncate(path, 2**40)  # sparse: a terabyte that nobody should read
    with pytest.raises(CorruptError, match=r"timestamp\.json is larger than 16384 bytes"):
        answers(repository, trust)


def test_set_of_another_repository_is_refused(repository, trust, tmp_path):
    other = Repository("acme")
    other.add("acme/maps 1.0")
    other.publish()
    update(other.trust(tmp_path / "other"), "acme/maps")
    stolen = repository.trust(tmp_path / "other")
    with pytest.raises(UntrustedError, match=r"timestamp\.json: timestamp was signed by 0/1 keys"):
        stolen.local()


def test_link_in_a_files_place_would_pass_where_links_are_followed(
    repository, trust, tmp_path, monkeypatch
):
    """The control of the above: following links would read what lies elsewhere."""
    path = current_set(trust.directory) / "targets.json"
    path.rename(tmp_path / "copy")
    path.symlink_to(tmp_path / "copy")
    monkeypatch.setattr(_sets.os, "O_NOFOLLOW", 0)
    assert answers(repository, trust)
