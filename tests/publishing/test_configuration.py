"""repository.toml."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.publishing import SigningKey
from plugin_manager.publishing._configuration import (
    DEFAULT_EXPIRY,
    TOP_LEVEL,
    Configuration,
    RolePolicy,
    parse,
    read,
    render,
)


def make_key(uri: str = "pkcs8:keys/x.pem") -> SigningKey:
    return SigningKey(uri, CryptoSigner.generate_ed25519().public_key)


def make_configuration() -> Configuration:
    return Configuration(
        {role: RolePolicy(1, DEFAULT_EXPIRY[role], (make_key(),)) for role in TOP_LEVEL},
        {"acme": RolePolicy(1, timedelta(days=30), (make_key(), evolve(make_key(), retired=True)))},
    )


CONFIGURATION = make_configuration()


@given(
    uri=st.text(min_size=1, max_size=20),
    threshold=st.integers(1, 2),
    days=st.integers(1, 1000),
    publisher=st.sampled_from(["a", "some-one", "0"]),
)
def test_what_is_written_reads_back(uri: str, threshold: int, days: int, publisher: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError:
        return
    policy = RolePolicy(threshold, timedelta(days=days), (make_key(uri), make_key()))
    made = CONFIGURATION.with_role("root", policy).with_role(f"publisher-{publisher}", policy)
    assert parse(render(made)) == made
    assert render(parse(render(made))) == render(made)


def test_all_faults_are_named_with_their_places() -> None:
    text = render(CONFIGURATION)
    text = text.replace("[roles.timestamp]\nthreshold = 1", "[roles.timestamp]\nthreshold = 0")
    text = text.replace("[publishers.acme]", "[publishers.Acme]\nexpiry = 1", 1)
    text = text.replace("[[publishers.acme.keys]]", "[[publishers.Acme.keys]]")
    text = text.replace("expiry_days = 7", "expiry_days = 0")
    with pytest.raises(InvalidInputError) as caught:
        parse(text, "R/repository.toml")
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "roles.snapshot.expiry_days",
        "roles.timestamp.threshold",
        "publishers.Acme",
        "publishers.Acme.expiry",
    ]
    assert caught.value.message.startswith("R/repository.toml: ")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("format = 1", "format = 2", "this program reads format 1 only"),
        ("format = 1", "format", "is not TOML"),
        ("[roles.root]\nthreshold = 1", "[roles.root]\nthreshold = 2", "roles.root.threshold"),
        ('scheme = "ed25519"', "scheme = 1", "scheme: must be text"),
        ("[roles.targets]", "[roles.goals]", "roles.targets"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(old: str, new: str, fault: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(render(CONFIGURATION).replace(old, new))
    assert fault in "\n".join((caught.value.message, *caught.value.faults))


def test_a_key_twice_is_a_fault() -> None:
    key = make_key()
    twice = CONFIGURATION.with_role("root", RolePolicy(1, timedelta(days=1), (key, key)))
    with pytest.raises(InvalidInputError, match="names a key twice"):
        parse(render(twice))


@given(st.text(max_size=100))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


def test_a_directory_without_it_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not a repository"):
        read(tmp_path / "repository.toml")
    (tmp_path / "repository.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        read(tmp_path / "repository.toml")


def test_retired_keys_are_in_no_metadata() -> None:
    delegations = CONFIGURATION.delegations()
    active, retired = CONFIGURATION.publishers["acme"].keys
    assert list(delegations.keys) == [active.keyid]
    assert delegations.roles is not None
    role = delegations.roles["publisher-acme"]
    assert (role.keyids, role.paths, role.terminating) == ([active.keyid], ["acme/*/*"], True)
    assert retired.keyid not in role.keyids


def test_an_unknown_role_is_named_with_those_there_are() -> None:
    with pytest.raises(NotFoundError) as caught:
        CONFIGURATION.role("publisher-globex")
    assert "publisher-acme" in caught.value.remedy
