"""Online: what a hostile or broken server, mirror or publisher can and cannot do to local trust."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest
import requests
import urllib3
from securesystemslib.signer import CryptoSigner

from plugin_manager.catalogue import catalogue_path
from plugin_manager.errors import (
    CorruptError,
    ExpiredError,
    InvalidInputError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    StoreAccessError,
    UntrustedError,
)
from plugin_manager.model import PluginName, Withdrawal, WithdrawalKind
from plugin_manager.trust import Expiry
from plugin_manager.trust._judge import Chain
from tests.trust.repository import BASE, Repository, current_set, make_release, soon, update

MAPS = PluginName.parse("acme/maps")
MODEL = PluginName.parse("globex/model")
MAPS_1 = make_release("acme/maps 1.0")
MODEL_1 = make_release("globex/model 1.0")


@pytest.fixture(params=["one after the other", "side by side"])
def repository(request) -> Repository:
    """Every attack is tried on clients that fetch ahead, too: the verdicts must be the same."""
    repository = Repository("acme", "globex")
    repository.side_by_side = request.param == "side by side"
    repository.add("acme/maps 1.0")
    repository.add("globex/model 1.0")
    repository.publish()
    return repository


@pytest.fixture
def trust(repository, tmp_path):
    """Up to date with both plugins."""
    trust = repository.trust(tmp_path / "trust")
    update(trust, "acme/maps", "globex/model")
    return trust


def tree(directory) -> dict[str, object]:
    """Everything below `directory` with its content and the moment it was written."""
    return {
        str(path): (
            path.stat().st_mtime_ns,
            path.stat().st_ino,
            path.is_file() and path.read_bytes(),
        )
        for path in directory.rglob("*")
    }


def suppress_network(conversation, plugin) -> None:
    with contextlib.suppress(NetworkError):
        conversation.catalogue(plugin)


def vouches(repository, trust, release) -> bool:
    head = trust.local().vouch(release, repository.heads[release])
    return head.manifest.release == release


# --- the plain way ------------------------------------------------------------------------------


def test_first_update_brings_what_loads_need(repository, trust):
    assert vouches(repository, trust, MAPS_1)
    assert trust.local().catalogue(MODEL).entries[0].release == MODEL_1
    assert trust.local().expired_roles == ()


def test_update_without_change_writes_nothing_and_asks_for_two_files(repository, trust):
    before = tree(trust.directory)
    repository.requests.clear()
    update(trust, "acme/maps", "globex/model")
    assert tree(trust.directory) == before
    assert repository.requests == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_update_fetches_only_what_changed(repository, trust):
    repository.add("acme/maps 2.0")
    repository.sign("publisher-acme", repository.roles["acme"])
    repository.sign("snapshot", repository.snapshot)
    repository.sign("timestamp", repository.timestamp)
    repository.requests.clear()
    update(trust, "acme/maps", "globex/model")
    assert [path.split("/")[-1].split(".", 1)[1] for path in repository.requests] == [
        "root.json",
        "json",
        "snapshot.json",
        "publisher-acme.json",
        "catalogue.json",
    ]
    assert vouches(repository, trust, make_release("acme/maps 2.0"))
    assert vouches(repository, trust, MODEL_1)


def test_previous_set_stays_and_older_ones_go(repository, trust):
    for _ in range(3):
        repository.publish()
        update(trust)
    assert sorted(path.name for path in (trust.directory / "sets").iterdir()) == ["3", "4"]
    assert sorted(path.name for path in trust.directory.iterdir()) == ["current", "sets"]


def test_what_was_not_asked_for_is_brought_along(repository, trust):
    repository.add("acme/maps 2.0")
    repository.add("globex/model 2.0")
    repository.publish()
    update(trust)
    assert vouches(repository, trust, make_release("acme/maps 2.0"))
    assert vouches(repository, trust, make_release("globex/model 2.0"))


def test_control_set_that_carried_a_stale_role_would_break_its_chain(repository, trust):
    stale = (current_set(trust.directory) / "publisher-acme.json").read_bytes()
    repository.publish()
    update(trust)
    files = repository.local_files()
    with pytest.raises(UntrustedError, match="is version 2, expected 3"):
        Chain.verify(repository.pinned, files, "").publisher("acme", stale)


def test_leaving_by_an_exception_changes_nothing(repository, trust):
    before = tree(trust.directory)
    repository.add("acme/maps 2.0")
    repository.publish()
    with pytest.raises(NotFoundError), trust.update() as conversation:
        conversation.catalogue(PluginName.parse("acme/nothing"))
    assert tree(trust.directory) == before
    update(trust)
    assert vouches(repository, trust, make_release("acme/maps 2.0"))


def test_urls_are_joined_whatever_their_slashes(repository, tmp_path):
    for number, (metadata, targets) in enumerate(
        [("metadata", ""), ("metadata/", ""), ("metadata", "targets"), ("metadata/", "targets/")]
    ):
        trust = repository.trust(
            tmp_path / str(number),
            metadata_url=BASE + metadata,
            targets_url=BASE + targets if targets else "",
        )
        update(trust, "acme/maps")
        assert trust.targets_url == BASE + "targets/"


# --- attacks ------------------------------------------------------------------------------------


def refused(trust, family: type[Exception], match: str, *plugins: str) -> None:
    """An update fails as expected, and changes nothing."""
    before = tree(trust.directory)
    with pytest.raises(family, match=match) as caught:
        update(trust, *plugins)
    assert type(caught.value) is family
    assert tree(trust.directory) == before


@pytest.mark.parametrize("keep", ["timestamp", "snapshot"])
def test_rollback_attack_is_refused(repository, trust, tmp_path, keep):
    old = dict(repository.files)
    repository.withdraw(MAPS_1, Withdrawal(WithdrawalKind.BLOCKED, "bad"))
    repository.publish()
    update(trust)
    if keep == "snapshot":  # whoever holds the timestamp's key signs the old snapshot anew
        repository.timestamp.snapshot_meta.version = 2
        repository.sign("timestamp", repository.timestamp)
        old["metadata/timestamp.json"] = repository.files["metadata/timestamp.json"]
    repository.files = old
    refused(trust, UntrustedError, "version", "acme/maps")
    # The control: to a client that remembers nothing, the old state looks good.
    update(repository.trust(tmp_path / "fresh"), "acme/maps")


def test_rollback_of_one_role_by_a_new_snapshot_is_refused(repository, trust):
    repository.publish()
    update(trust)
    repository.snapshot.meta["publisher-acme.json"].version = 2
    repository.sign("snapshot", repository.snapshot)
    repository.sign("timestamp", repository.timestamp)
    refused(trust, UntrustedError, "publisher-acme.json version", "acme/maps")


def test_rollback_attack_after_damage_meets_the_set_before(repository, trust, tmp_path):
    old = dict(repository.files)
    repository.publish()
    update(trust)
    middle = dict(repository.files)
    repository.publish()
    update(trust)
    for name in ("timestamp.json", "snapshot.json"):
        (current_set(trust.directory) / name).write_bytes(b"damage")
    repository.files = old
    refused(trust, UntrustedError, "version", "acme/maps")
    repository.files = middle  # as good as what is left of memory
    update(trust, "acme/maps")


def test_fast_forwarded_repository_recovers_by_new_keys(repository, trust):
    good = dict(repository.files), dict(repository.versions)
    repository.sign("snapshot", repository.snapshot, 2**31)
    repository.sign("timestamp", repository.timestamp, 2**31)
    update(trust)
    repository.files, repository.versions = good
    repository.publish()
    refused(trust, UntrustedError, "version")  # the attack worked, and stays until...
    for role in ("snapshot", "timestamp"):
        repository.rotate(role)
    repository.publish()
    update(trust, "acme/maps")
    assert vouches(repository, trust, MAPS_1)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_frozen_repository_is_noticed_by_expiry(repository, trust, role):
    getattr(repository, role).expires = soon(-1)
    repository.publish()
    refused(trust, ExpiredError, f"{role}.* is expired")
    assert vouches(repository, trust, MAPS_1)  # by the set from before


def test_last_root_must_not_have_expired_but_earlier_ones_may(repository, trust):
    repository.root.expires = soon(-10)
    repository.rotate("root")
    refused(trust, ExpiredError, "root.json is expired")
    repository.root.expires = soon(10)
    repository.rotate("root")
    update(trust)
    assert vouches(repository, trust, MAPS_1)


def test_root_rotation_is_followed_and_kept_for_offline_use(repository, trust):
    for role in ("root", "timestamp", "snapshot", "targets", "root"):
        repository.rotate(role)
    repository.publish()
    update(trust)
    names = {path.name for path in (current_set(trust.directory) / "root_history").iterdir()}
    assert names == {f"{version}.root.json" for version in range(1, 7)}
    assert vouches(repository, repository.trust(trust.directory), MAPS_1)


def test_host_with_a_newer_pinned_root_goes_on_with_the_same_files(repository, trust):
    repository.rotate("root")
    repository.publish()
    update(trust)
    newer = repository.trust(trust.directory, pinned_root=repository.files["metadata/2.root.json"])
    assert vouches(repository, newer, MAPS_1)
    repository.publish()
    update(newer)
    # And the host's own older version, pinning the older root, still does.
    assert vouches(repository, repository.trust(trust.directory), MAPS_1)


def test_forged_root_is_refused(repository, trust):
    repository.signers["root"] = CryptoSigner.generate_ed25519()
    repository.root.version = 2
    repository.sign_root()
    refused(trust, UntrustedError, "root was signed by 0/1 keys")


def test_damaged_local_root_does_not_keep_updates_away(repository, trust):
    repository.rotate("root")
    repository.publish()
    update(trust)
    (current_set(trust.directory) / "root_history" / "2.root.json").write_bytes(b"{}")
    with pytest.raises(CorruptError, match=r"2\.root\.json is damaged"):
        repository.trust(trust.directory).local()
    update(trust)
    assert vouches(repository, repository.trust(trust.directory), MAPS_1)


@pytest.mark.parametrize("name", ["snapshot", "targets", "publisher-acme"])
def test_mix_and_match_is_refused(repository, trust, name):
    old = repository.files[f"metadata/2.{name}.json"]
    repository.publish()
    repository.files[f"metadata/3.{name}.json"] = old
    refused(trust, UntrustedError, "Expected|expected", "acme/maps")


def test_changed_catalogue_is_refused(repository, trust):
    repository.add("acme/maps 2.0")
    repository.publish()
    entry = repository.roles["acme"].targets[catalogue_path(MAPS)]
    path = "targets/" + entry.get_prefixed_paths()[0]
    data = repository.files[path]
    repository.files[path] = data.replace(b"2.0", b"9.9")
    refused(trust, UntrustedError, "does not match expected hash", "acme/maps")
    repository.files[path] = data
    update(trust, "acme/maps")


def test_every_fetch_is_bounded_and_more_is_refused(repository, trust):
    limits = {}

    def fetch(url: str, most_bytes: int) -> bytes:
        limits[url.removeprefix(BASE).split(".", 1)[-1]] = most_bytes
        return repository.fetch(url, most_bytes)

    repository.add("acme/maps 2.0")
    repository.publish()
    update(repository.trust(trust.directory, fetch=fetch), "acme/maps")
    entry = repository.roles["acme"].targets[catalogue_path(MAPS)]
    most_of_a_role = 1024 * 1024 if repository.side_by_side else 16 * 1024 * 1024
    assert limits == {
        "root.json": 512_000,
        "json": 16_384,
        "snapshot.json": 4 * 1024 * 1024,
        "targets.json": 16 * 1024 * 1024,
        "publisher-acme.json": most_of_a_role,
        "publisher-globex.json": most_of_a_role,
        "catalogue.json": entry.length,
    }

    def endless(url: str, most_bytes: int) -> bytes:
        return b" " * (most_bytes + 1)

    refused(repository.trust(trust.directory, fetch=endless), UntrustedError, "is longer than")


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff\xfe", b"[" * 10_000])
@pytest.mark.parametrize("name", ["2.root", "timestamp", "3.snapshot", "3.targets"])
def test_nonsense_from_the_server_is_refused(repository, trust, name, data):
    repository.publish()
    repository.files[f"metadata/{name}.json"] = data
    refused(trust, UntrustedError, "http://repository.example/metadata/: ")


def test_other_repositorys_root_does_not_open_this_one(repository, trust):
    other = Repository("acme")
    refused(
        repository.trust(trust.directory, pinned_root=other.pinned), UntrustedError, "signed by 0/1"
    )


@pytest.mark.parametrize("pinned", [b"", b"nonsense", b'{"signed": {}}'])
def test_malformed_pinned_root_is_an_input_error(repository, trust, pinned):
    broken = repository.trust(trust.directory, pinned_root=pinned)
    refused(broken, InvalidInputError, "pinned root: is not TUF metadata")
    with pytest.raises(InvalidInputError, match="pinned root"):
        broken.local()


# --- what is not there, and what does not come --------------------------------------------------


def test_unknown_publisher_and_unknown_plugin_are_not_found(repository, trust):
    refused(trust, NotFoundError, "no publisher 'acmee'", "acmee/maps")
    refused(trust, NotFoundError, "no plugin acme/map", "acme/map")


def test_typing_error_leaves_the_rest_of_an_update_alone(repository, trust):
    repository.add("acme/maps 2.0")
    repository.publish()
    with trust.update() as conversation, pytest.raises(NotFoundError):
        conversation.catalogue(PluginName.parse("acme/mapps"))
    assert vouches(repository, trust, make_release("acme/maps 2.0"))


def test_wrong_address_says_so(repository, tmp_path):
    trust = repository.trust(tmp_path / "trust", metadata_url=BASE + "elsewhere/")
    with pytest.raises(NetworkError) as caught:
        update(trust)
    assert caught.value.status == 404
    assert "Check the repository's address" in str(caught.value)
    assert not (tmp_path / "trust" / "current").exists()


@pytest.mark.parametrize(
    "failure",
    [
        NetworkError("cannot reach the server"),
        NetworkError("server says no", status=503),
        requests.ConnectionError("refused"),
        urllib3.exceptions.ProtocolError("broken off"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError("too slow"),
    ],
)
def test_broken_connection_at_any_request_changes_nothing(repository, trust, failure):
    repository.add("acme/maps 2.0")
    repository.rotate("root")
    repository.publish()

    def breaking_after(left: int):
        def fetch(url: str, most_bytes: int) -> bytes:
            nonlocal left
            if left == 0:
                raise failure
            left -= 1
            return repository.fetch(url, most_bytes)

        return fetch

    for successes in range(8):
        broken = repository.trust(trust.directory, fetch=breaking_after(successes))
        refused(broken, NetworkError, ".", "acme/maps")
        assert vouches(repository, trust, MAPS_1)
    update(trust)
    assert vouches(repository, trust, make_release("acme/maps 2.0"))


def test_status_of_the_server_is_kept(repository, trust):
    def fetch(url: str, most_bytes: int) -> bytes:
        raise NetworkError("server says no", status=503)

    with pytest.raises(NetworkError) as caught:
        update(repository.trust(trust.directory, fetch=fetch))
    assert caught.value.status == 503
    assert isinstance(caught.value.__cause__.__cause__, NetworkError)


# --- publishers by themselves -------------------------------------------------------------------


def test_expired_publisher_breaks_only_itself(repository, trust):
    repository.roles["acme"].expires = soon(-2)
    repository.add("acme/maps 2.0")
    repository.add("globex/model 2.0")
    repository.publish()
    with trust.update() as conversation:
        with pytest.raises(ExpiredError, match="publisher acme expired on") as caught:
            conversation.catalogue(MAPS)
        assert caught.value.context["role"] == "publisher-acme"
        assert len(conversation.catalogue(MODEL).entries) == 2
    assert vouches(repository, trust, make_release("globex/model 2.0"))
    with pytest.raises(ExpiredError, match=r"'publisher-acme' expired on .*, 2 days ago"):
        trust.local().catalogue(MAPS)
    lenient = repository.trust(trust.directory, expiry=Expiry.grace(soon(3) - soon(0)))
    assert vouches(repository, lenient, make_release("acme/maps 2.0"))


def test_expired_publisher_that_nobody_asked_for_does_not_hold_up_others(repository, trust):
    repository.roles["acme"].expires = soon(-2)
    repository.add("globex/model 2.0")
    repository.publish()
    update(trust, "globex/model")
    assert vouches(repository, trust, make_release("globex/model 2.0"))
    update(trust)  # and again, from the set that holds the expired role
    lenient = repository.trust(trust.directory, expiry=Expiry.IGNORED_UNSAFE)
    assert vouches(repository, lenient, MAPS_1)


def test_expired_publisher_is_still_judged_by_its_signature(repository, trust):
    repository.roles["acme"].expires = soon(-2)
    repository.signers["publisher-acme"] = CryptoSigner.generate_ed25519()
    repository.publish()
    refused(trust, UntrustedError, "publisher-acme was signed by 0/1 keys")


def test_publisher_that_expired_long_ago_recovers_by_signing_anew(repository, trust):
    repository.roles["acme"].expires = soon(-2)
    repository.publish()
    update(trust)
    repository.roles["acme"].expires = soon(2)
    repository.publish()
    update(trust, "acme/maps")
    assert vouches(repository, trust, MAPS_1)


def test_publisher_that_cannot_be_brought_along_keeps_all_as_it_was(repository, trust):
    repository.publish()
    del repository.files["metadata/3.publisher-globex.json"]
    refused(trust, NetworkError, "publisher-globex", "acme/maps")
    before = tree(trust.directory)
    with pytest.raises(NetworkError), trust.update() as conversation:
        suppress_network(conversation, MODEL)  # no reason to lose the model
    assert tree(trust.directory) == before
    assert vouches(repository, trust, MODEL_1)


def test_plugin_never_known_may_fail_without_holding_up_the_rest(repository, trust):
    repository.add_publisher("initech")
    repository.add("initech/tool 1.0")
    repository.add("acme/maps 2.0")
    repository.publish()
    del repository.files["metadata/1.publisher-initech.json"]
    with trust.update() as conversation, pytest.raises(NetworkError):
        conversation.catalogue(PluginName.parse("initech/tool"))
    assert vouches(repository, trust, make_release("acme/maps 2.0"))


def test_publisher_that_signs_nonsense_harms_only_itself(repository, trust):
    repository.put_target(catalogue_path(MAPS), b"nonsense")
    repository.add("globex/model 2.0")
    repository.publish()
    update(trust)
    assert vouches(repository, trust, make_release("globex/model 2.0"))
    with pytest.raises(InvalidInputError, match=r"catalogues/acme/maps\.json: is not JSON"):
        trust.local().catalogue(MAPS)
    refused(trust, InvalidInputError, "acme/maps/catalogue.json: is not JSON", "acme/maps")


def test_publisher_that_uses_weak_hashes_harms_only_itself(repository, trust):
    repository.put_target(catalogue_path(MAPS), b"{}", hashes=["md5"])
    repository.publish()
    update(trust)
    assert vouches(repository, trust, MODEL_1)
    with pytest.raises(NotFoundError, match="no catalogue of acme/maps is stored"):
        trust.local().catalogue(MAPS)
    refused(trust, UntrustedError, "has the hashes md5, not sha256", "acme/maps")


def test_removed_plugin_and_removed_publisher_are_dropped(repository, trust):
    del repository.roles["acme"].targets[catalogue_path(MAPS)]
    del repository.targets.delegations.roles["publisher-globex"]
    repository.publish()
    update(trust)
    for plugin in (MAPS, MODEL):
        with pytest.raises(NotFoundError, match=f"no catalogue of {plugin} is stored"):
            trust.local().catalogue(plugin)


def test_block_arrives_with_any_update(repository, trust):
    repository.withdraw(MAPS_1, Withdrawal(WithdrawalKind.BLOCKED, "bad"))
    repository.publish()
    update(trust, "globex/model")
    assert trust.local().catalogue(MAPS).entry(MAPS_1).blocked


def test_delegation_that_hijacks_a_path_is_refused_online(repository, trust):
    repository.add_publisher("evil", name="earlier", paths=["acme/*/*"])
    roles = repository.targets.delegations.roles
    repository.targets.delegations.roles = {"earlier": roles.pop("earlier"), **roles}
    role = repository.roles["acme"]
    repository.signers["earlier"] = repository.signers["publisher-evil"]
    repository.sign("earlier", role)
    repository.publish()
    refused(trust, UntrustedError, "delegates acme/maps/catalogue.json to 'earlier'", "acme/maps")


# --- the disk -----------------------------------------------------------------------------------


def test_damaged_set_heals_by_an_update(repository, trust):
    for path in sorted(trust.directory.rglob("*")):
        if not path.is_file() or (
            "sets" in path.parts and current_set(trust.directory) not in path.parents
        ):
            continue
        path.write_bytes(b"damage")
        update(repository.trust(trust.directory))
        assert vouches(repository, repository.trust(trust.directory), MAPS_1)
        assert vouches(repository, repository.trust(trust.directory), MODEL_1)


def test_full_disk_changes_nothing_and_says_so(repository, trust, monkeypatch):
    repository.publish()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match="the disk is full"):
            update(trust)
    assert vouches(repository, repository.trust(trust.directory), MAPS_1)
    update(trust)


def test_place_that_cannot_be_written_is_named(repository, tmp_path):
    (tmp_path / "store").write_text("a file where the directory should be")
    with pytest.raises(StoreAccessError, match="store"):
        update(repository.trust(tmp_path / "store" / "trust"))
