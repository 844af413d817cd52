"""The judge alone: bytes in, verdict out. Each attack has a control in which its defence is off."""

from __future__ import annotations

import json

import pytest
from attrs import evolve
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Targets

from plugin_manager.bundle import encode_head
from plugin_manager.catalogue import catalogue_path
from plugin_manager.errors import BlockedError, InvalidInputError, UntrustedError
from plugin_manager.model import PluginName, PluginRequirement, Withdrawal, WithdrawalKind
from plugin_manager.trust import _judge
from plugin_manager.trust._judge import Chain, Publisher, pinned_root
from tests.trust.repository import Repository, custom_of, make_manifest, make_release, soon

MAPS = PluginName.parse("acme/maps")


@pytest.fixture
def repository() -> Repository:
    repository = Repository("acme", "globex")
    repository.add("acme/maps 1.0")
    repository.add("globex/model 1.0")
    repository.publish()
    return repository


def chain_of(repository: Repository, **changed: bytes) -> Chain:
    files = repository.local_files() | {f"{name}.json": data for name, data in changed.items()}
    return Chain.verify(repository.pinned, files, "")


def publisher_of(repository: Repository, publisher: str = "acme") -> Publisher:
    return chain_of(repository).publisher(publisher, repository.role_file(publisher))


def catalogue_bytes(repository: Repository, plugin: PluginName) -> bytes:
    entry = repository.roles[plugin.publisher].targets[catalogue_path(plugin)]
    return repository.files["targets/" + entry.get_prefixed_paths()[0]]


def vouch(repository: Repository, text: str = "acme/maps 1.0", head: bytes | None = None):
    release = make_release(text)
    publisher = publisher_of(repository, release.plugin.publisher)
    data = catalogue_bytes(repository, release.plugin)
    catalogue = publisher.catalogue(release.plugin, data, "catalogue.json")
    return publisher.vouch(release, catalogue, head or repository.heads[release])


@pytest.fixture
def signatures_off(monkeypatch):
    """The control: a judge that never looks at signatures."""

    def off() -> None:
        for delegator in (Root, Targets):
            monkeypatch.setattr(delegator, "verify_delegate", lambda *_: None)

    return off


@pytest.fixture
def versions_off(monkeypatch):
    """The control: a judge that does not hold metadata against what lists it."""

    def off() -> None:
        monkeypatch.setattr(_judge, "_check_version", lambda *_: None)

    return off


def test_whole_chain_is_accepted(repository):
    head = vouch(repository)
    assert head.manifest.release == make_release("acme/maps 1.0")
    assert head.length == len(repository.heads[head.manifest.release])


# --- signatures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_signed_by_a_stranger_is_refused(repository, signatures_off, role):
    repository.signers[role] = CryptoSigner.generate_ed25519()
    forged = repository.seal(role, getattr(repository, role))
    with pytest.raises(UntrustedError, match=rf"{role}\.json: {role} was signed by 0/1 keys"):
        chain_of(repository, **{role: forged})
    signatures_off()
    chain_of(repository, **{role: forged})


def test_publisher_cannot_sign_for_another(repository, signatures_off):
    repository.signers["publisher-acme"] = repository.signers["publisher-globex"]
    forged = repository.seal("publisher-acme", repository.roles["acme"])
    chain = chain_of(repository)
    with pytest.raises(UntrustedError, match="publisher-acme was signed by 0/1 keys"):
        chain.publisher("acme", forged)
    signatures_off()
    chain.publisher("acme", forged)


def test_publisher_has_no_say_over_anothers_paths(repository):
    repository.roles["globex"].targets.update(repository.roles["acme"].targets)
    repository.publish()
    globex = publisher_of(repository, "globex")
    with pytest.raises(UntrustedError, match="has no say over acme/maps/maps-1"):
        globex.bundle(make_release("acme/maps 1.0"))


def test_threshold_counts(repository):
    repository.root.roles["targets"].threshold = 2
    second = CryptoSigner.generate_ed25519()
    repository.root.add_key(second.public_key, "targets")
    repository.pinned = repository.sign_root()
    with pytest.raises(UntrustedError, match="targets was signed by 1/2 keys"):
        chain_of(repository)
    metadata = Metadata(repository.targets)
    metadata.sign(repository.signers["targets"])
    metadata.sign(second, append=True)
    chain_of(repository, targets=metadata.to_bytes())


def test_metadata_of_one_role_cannot_stand_for_another(repository, signatures_off):
    snapshot = repository.local_files()["snapshot.json"]
    signatures_off()  # even where keys are shared between roles
    with pytest.raises(UntrustedError, match=r"timestamp\.json: is 'snapshot' metadata"):
        chain_of(repository, timestamp=snapshot)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"signed": {"_type": "root"}}', b"[" * 100_000]
)
def test_what_is_not_metadata_is_refused(repository, data):
    with pytest.raises(UntrustedError, match=r"targets\.json: is not TUF metadata"):
        chain_of(repository, targets=data)
    with pytest.raises(InvalidInputError, match="pinned root: is not TUF metadata"):
        pinned_root(data)


# --- versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_old_metadata_beside_new_is_refused(repository, versions_off, role):
    old = repository.local_files()[f"{role}.json"]
    repository.publish()
    with pytest.raises(UntrustedError, match=rf"{role}\.json: is version 2, expected 3"):
        chain_of(repository, **{role: old})
    versions_off()
    chain_of(repository, **{role: old})


def test_old_publisher_role_beside_new_is_refused(repository, versions_off):
    old = repository.role_file("acme")
    repository.publish()
    chain = chain_of(repository)
    with pytest.raises(UntrustedError, match=r"publisher-acme\.json: is version 2, expected 3"):
        chain.publisher("acme", old)
    versions_off()
    chain.publisher("acme", old)


def test_hashes_that_a_listing_gives_are_verified(repository, versions_off):
    data = repository.local_files()["snapshot.json"]
    repository.timestamp.snapshot_meta = MetaFile.from_data(2, data + b"other", ["sha256"])
    forged = repository.seal("timestamp", repository.timestamp)
    with pytest.raises(UntrustedError, match=r"snapshot\.json: Observed length"):
        chain_of(repository, timestamp=forged)
    versions_off()
    chain_of(repository, timestamp=forged)


def test_role_that_the_snapshot_does_not_list_is_refused(repository):
    del repository.snapshot.meta["publisher-acme.json"]
    repository.sign("snapshot", repository.snapshot)
    repository.sign("timestamp", repository.timestamp)
    with pytest.raises(UntrustedError, match=r"snapshot\.json: does not list publisher-acme\.json"):
        publisher_of(repository)


# --- roots --------------------------------------------------------------------------------------


def test_chain_of_roots_is_followed_over_an_expired_one(repository):
    repository.root.expires = soon(-100)
    repository.rotate("root")
    repository.root.expires = soon(100)
    repository.rotate("timestamp")
    repository.sign("timestamp", repository.timestamp)
    chain = chain_of(repository)
    assert chain.root.version == 3
    assert chain.expiries["root"] == repository.root.expires


def test_root_not_signed_by_the_one_before_is_refused(repository, signatures_off):
    repository.rotate("root")
    repository.sign_root()  # by the new key alone
    with pytest.raises(UntrustedError, match=r"2\.root\.json: root was signed by 0/1 keys"):
        chain_of(repository)
    signatures_off()
    assert chain_of(repository).root.version == 2


def test_root_not_signed_by_itself_is_refused(repository, signatures_off):
    old = repository.rotate("root")
    repository.signers["root"] = old
    repository.sign_root()
    with pytest.raises(UntrustedError, match=r"2\.root\.json: root was signed by 0/1 keys"):
        chain_of(repository)
    signatures_off()
    assert chain_of(repository).root.version == 2


def test_root_that_leaps_is_refused(repository):
    files = repository.local_files()
    repository.root.version = 3
    files["root_history/2.root.json"] = repository.sign_root()
    with pytest.raises(UntrustedError, match=r"2\.root\.json: is version 3, expected 2"):
        Chain.verify(repository.pinned, files, "")


def test_missing_root_in_the_middle_is_named(repository):
    repository.rotate("root")
    repository.rotate("root")
    files = repository.local_files()
    del files["root_history/2.root.json"]
    with pytest.raises(UntrustedError, match=r"2\.root\.json: is missing"):
        Chain.verify(repository.pinned, files, "")


def test_pinned_root_must_be_signed_by_itself(repository):
    broken = json.loads(repository.pinned)
    broken["signed"]["expires"] = "2099-01-01T00:00:00Z"
    with pytest.raises(InvalidInputError, match="pinned root: root was signed by 0/1 keys"):
        pinned_root(json.dumps(broken).encode())
    with pytest.raises(InvalidInputError, match="pinned root: is 'targets' metadata"):
        pinned_root(repository.local_files()["targets.json"])


def test_local_root_of_the_pinned_version_is_never_used(repository):
    """The root of trust comes from the host alone."""
    files = repository.local_files() | {"root_history/1.root.json": b"forged"}
    assert Chain.verify(repository.pinned, files, "").root.version == 1


def test_repository_without_consistent_snapshots_is_refused(repository):
    repository.root.consistent_snapshot = False
    repository.pinned = repository.sign_root()
    with pytest.raises(UntrustedError, match="consistent snapshots are off"):
        chain_of(repository)


# --- delegations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("other", {"paths": ["acme/*/*"]}),
        ("publisher-globex", {"paths": ["globex/*/*", "acme/maps/*"]}),
        ("publisher-*", {"paths": ["*/*/*"]}),
        ("publisher-a[b-d]me", {"paths": ["a[b-d]me/*/*"]}),
        ("bins", {"paths": None, "path_hash_prefixes": [f"{digit:x}" for digit in range(16)]}),
    ],
)
def test_delegation_that_reaches_into_a_publishers_paths_is_refused(
    repository, monkeypatch, name, changes
):
    repository.add_publisher("evil", name=name, **changes)
    repository.sign("targets", repository.targets)
    repository.sign("snapshot", repository.snapshot)
    repository.sign("timestamp", repository.timestamp)
    with pytest.raises(UntrustedError, match=r"targets\.json: delegates acme/maps/.* as well"):
        vouch(repository)
    monkeypatch.setattr(Chain, "check_exclusive", lambda *_: None)
    vouch(repository)


@pytest.mark.parametrize("changes", [{"terminating": False}, {"paths": ["acme/maps/*"]}])
def test_delegation_that_is_not_exactly_ours_is_refused(repository, monkeypatch, changes):
    repository.add_publisher("acme", **changes)
    repository.publish()
    with pytest.raises(UntrustedError, match="delegates to publisher-acme in another way"):
        vouch(repository)
    monkeypatch.setattr(_judge, "_exactly_one_publisher", lambda _: True)
    vouch(repository)


def test_harmless_other_delegation_is_let_be(repository):
    repository.add_publisher("mirrors", name="mirrors", paths=["mirrors/*"])
    repository.publish()
    vouch(repository)


def test_target_listed_beside_its_publisher_is_refused(repository):
    path = catalogue_path(MAPS)
    repository.targets.targets[path] = repository.roles["acme"].targets[path]
    repository.publish()
    with pytest.raises(UntrustedError, match=r"lists acme/maps/catalogue\.json beside"):
        vouch(repository)


def test_removed_publisher_is_not_vouched_for(repository):
    role = repository.role_file("acme")
    del repository.targets.delegations.roles["publisher-acme"]
    repository.publish()
    chain = chain_of(repository)
    assert not chain.delegates_to("acme")
    with pytest.raises(UntrustedError, match="does not vouch for publisher acme"):
        chain.publisher("acme", role)


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", [["md5"], ["sha1"], ["sha256", "md5"], ["sha512"]])
def test_target_with_other_hashes_than_allowed_is_refused(repository, monkeypatch, hashes):
    data = catalogue_bytes(repository, MAPS)
    repository.put_target(catalogue_path(MAPS), data, hashes=hashes)
    repository.publish()
    with pytest.raises(UntrustedError, match=r"has the hashes .*, not sha256"):
        publisher_of(repository).catalogue(MAPS, data, "")
    if "sha256" in hashes:
        monkeypatch.setattr(_judge, "ALLOWED_HASHES", frozenset({"sha256", "md5"}))
        publisher_of(repository).catalogue(MAPS, data, "")


def test_sha512_beside_sha256_is_accepted(repository):
    data = catalogue_bytes(repository, MAPS)
    repository.put_target(catalogue_path(MAPS), data, hashes=["sha256", "sha512"])
    repository.publish()
    assert publisher_of(repository).catalogue(MAPS, data, "").plugin == MAPS


def test_changed_catalogue_is_refused(repository, monkeypatch):
    data = catalogue_bytes(repository, MAPS)
    changed = data.replace(b'"summary": ""', b'"summary": "x"')
    publisher = publisher_of(repository)
    for wrong in (changed, data[:-1], b""):
        with pytest.raises(UntrustedError, match=r"here/catalogue\.json: Observed length"):
            publisher.catalogue(MAPS, wrong, "here/catalogue.json")
    monkeypatch.setattr(Publisher, "check_catalogue", lambda *_: None)
    assert publisher.catalogue(MAPS, changed, "").summary == "x"


def test_catalogue_of_another_plugin_is_refused(repository):
    repository.add("acme/other 1.0")
    other = catalogue_bytes(repository, PluginName.parse("acme/other"))
    repository.put_target(catalogue_path(MAPS), other)
    repository.publish()
    with pytest.raises(UntrustedError, match="is the catalogue of acme/other, not of acme/maps"):
        publisher_of(repository).catalogue(MAPS, other, "")


def test_signed_nonsense_is_an_input_error_naming_its_place(repository):
    repository.put_target(catalogue_path(MAPS), b'{"format": 2}')
    repository.publish()
    with pytest.raises(InvalidInputError, match="this program reads format 1 only"):
        publisher_of(repository).catalogue(MAPS, b'{"format": 2}', "")


@pytest.mark.parametrize(
    ("custom", "fault"),
    [
        (None, "custom: must be a table"),
        ({}, "custom.plugin-manager: must be a table"),
        ({"format": 2}, "custom.plugin-manager.format: this program reads 1"),
        ({"format": 1}, "custom.plugin-manager.head: must be a table"),
        ({"format": 1, "head": {"length": 0, "sha256": "0" * 64}}, "head.length: must be from 1"),
        ({"format": 1, "head": {"length": 10**9, "sha256": "0" * 64}}, "head.length: must be from"),
        (
            {"format": 1, "head": {"length": "9", "sha256": "0" * 64}},
            "head.length: must be a whole",
        ),
        ({"format": 1, "head": {"length": 9, "sha256": "0" * 63}}, "head.sha256: '000"),
        ({"format": 1, "head": {"length": 9, "sha256": "A" * 64}}, "head.sha256: 'AAA"),
    ],
)
def test_head_is_described_exactly_or_not_at_all(repository, custom, fault):
    release = make_release("acme/maps 1.0")
    entry = repository.roles["acme"].targets[release.target_path]
    whole = custom if custom in (None, {}) else {"plugin-manager": custom}
    entry.unrecognized_fields["custom"] = whole
    repository.publish()
    with pytest.raises(InvalidInputError) as caught:
        publisher_of(repository).bundle(release)
    assert str(caught.value).startswith(f"publisher-acme.json: {release.target_path}: custom")
    assert fault in str(caught.value)


def test_bundle_target_says_where_and_what(repository):
    release = make_release("acme/maps 1.0")
    target = publisher_of(repository).bundle(release)
    whole = repository.files["targets/" + target.path]
    head = repository.heads[release]
    assert target.path == f"acme/maps/{target.sha256}.maps-1.0-any.tar.zst"
    assert (target.length, target.head_length) == (len(whole), len(head))
    assert whole.startswith(head)


# --- heads --------------------------------------------------------------------------------------


def test_head_with_any_changed_byte_is_refused(repository):
    good = repository.heads[make_release("acme/maps 1.0")]
    vouch(repository, head=good)
    for at in range(0, len(good), 7):
        with pytest.raises(UntrustedError, match=r"manifest of acme/maps 1\.0: is not the one"):
            vouch(repository, head=good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    for wrong in (good[:-1], good + b"\0"):
        with pytest.raises(UntrustedError, match="is not the one that was signed"):
            vouch(repository, head=wrong)


def test_release_of_another_plugin_under_this_ones_name_is_refused(repository):
    other = make_release("acme/other 1.0")
    repository.add("acme/maps 2.0", manifest_release=other)
    repository.publish()
    with pytest.raises(UntrustedError, match=r"manifest of acme/maps 2\.0: is that of acme/other"):
        vouch(repository, "acme/maps 2.0")


def test_old_release_under_a_new_number_is_refused(repository):
    repository.add("acme/maps 2.0", manifest_release=make_release("acme/maps 1.0"))
    repository.publish()
    with pytest.raises(
        UntrustedError, match=r"manifest of acme/maps 2\.0: is that of acme/maps 1\.0"
    ):
        vouch(repository, "acme/maps 2.0")


def test_catalogue_that_promises_something_else_is_refused(repository):
    requirements = (PluginRequirement.parse("globex/model>=2"),)
    repository.add("acme/maps 2.0", requirements=requirements)
    repository.publish()
    assert vouch(repository, "acme/maps 2.0").manifest.requirements == requirements
    repository.change_catalogue(
        MAPS, lambda entries: [evolve(entry, requirements=()) for entry in entries]
    )
    repository.publish()
    with pytest.raises(UntrustedError, match="requires something else than the catalogue says"):
        vouch(repository, "acme/maps 2.0")


def test_lengths_must_agree(repository):
    release = make_release("acme/maps 1.0")
    repository.change_catalogue(
        MAPS, lambda entries: [evolve(entry, length=entry.length + 1) for entry in entries]
    )
    repository.publish()
    with pytest.raises(UntrustedError, match=r"and the catalogue says \d+"):
        vouch(repository)
    manifest, frame = make_manifest(release, b"content")
    head = encode_head(manifest)
    repository.put_target(release.target_path, head + frame + b"more", custom_of(head))
    repository.publish()
    with pytest.raises(UntrustedError, match=r"makes a bundle of \d+ bytes"):
        vouch(repository)


def test_blocked_release_is_refused_with_the_publishers_reason(repository):
    release = make_release("acme/maps 1.0")
    repository.withdraw(release, Withdrawal(WithdrawalKind.BLOCKED, "leaks your position"))
    repository.publish()
    with pytest.raises(BlockedError, match="leaks your position") as caught:
        vouch(repository)
    assert caught.value.reason == "leaks your position"


def test_blocked_release_says_so_even_when_its_bundle_is_gone(repository):
    release = make_release("acme/maps 1.0")
    repository.withdraw(release, Withdrawal(WithdrawalKind.BLOCKED, "stolen key"))
    del repository.roles["acme"].targets[release.target_path]
    repository.publish()
    with pytest.raises(BlockedError, match="stolen key"):
        vouch(repository)


def test_yanked_release_goes_on_loading(repository):
    release = make_release("acme/maps 1.0")
    repository.withdraw(release, Withdrawal(WithdrawalKind.YANKED, "slow"))
    repository.publish()
    assert vouch(repository).manifest.release == release


def test_release_that_is_listed_no_more_is_refused(repository):
    release = make_release("acme/maps 1.0")
    entry = repository.roles["acme"].targets.pop(release.target_path)
    repository.publish()
    with pytest.raises(UntrustedError, match=r"does not vouch for acme/maps 1\.0"):
        vouch(repository)
    repository.roles["acme"].targets[release.target_path] = entry
    repository.change_catalogue(MAPS, lambda _: ())
    repository.publish()
    with pytest.raises(UntrustedError, match=r"does not list acme/maps 1\.0"):
        vouch(repository)


def test_judging_leaves_what_it_was_given_alone(repository):
    """The chain is shared between loads: judging twice gives the same."""
    chain = chain_of(repository)
    first = chain.publisher("acme", repository.role_file("acme"))
    again = chain.publisher("acme", repository.role_file("acme"))
    assert first.bundle(make_release("acme/maps 1.0")) == again.bundle(
        make_release("acme/maps 1.0")
    )
    assert isinstance(first.role, Targets)
    assert isinstance(chain.root, Root)
