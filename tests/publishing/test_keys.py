"""Key files and signers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Timestamp

from plugin_manager.errors import InvalidInputError, NotFoundError, RefusedError
from plugin_manager.publishing import SigningKey, read_public_key
from plugin_manager.publishing._keys import KeyRing, generate_key

SECRET = "open sesame"


def sign(key: SigningKey, directory: Path, passphrase: str = SECRET) -> bytes:
    ring = KeyRing(directory, passphrase)
    return ring.sign(Metadata(Timestamp()), "timestamp", [key], threshold=1)


def test_a_new_key_is_encrypted_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "root.pem"
    key = generate_key(path, SECRET)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    serialization.load_pem_private_key(path.read_bytes(), SECRET.encode())
    assert key.public.keyid.encode() in sign(key, tmp_path)


def test_a_key_is_never_overwritten_nor_stored_without_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    generate_key(path, SECRET)
    before = path.read_bytes()
    with pytest.raises(RefusedError, match="keys are never overwritten"):
        generate_key(path, SECRET)
    assert path.read_bytes() == before
    with pytest.raises(InvalidInputError, match="passphrase is empty"):
        generate_key(tmp_path / "other.pem", "")
    assert not (tmp_path / "other.pem").exists()


def test_the_passphrase_is_asked_for_once_a_key_and_only_when_it_signs(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        return SECRET

    key = generate_key(tmp_path / "root.pem", SECRET)
    ring = KeyRing(tmp_path, ask)
    assert asked == []
    for _ in range(2):
        ring.sign(Metadata(Timestamp()), "timestamp", [key], threshold=1)
    assert asked == [str(tmp_path / "root.pem")]


def test_a_wrong_passphrase_is_one_clear_error_without_the_secret(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "root.pem", SECRET)
    with pytest.raises(InvalidInputError, match="cannot be opened with this passphrase") as caught:
        sign(key, tmp_path, "wrong horse")
    assert str(tmp_path / "root.pem") in caught.value.message
    assert "wrong horse" not in str(caught.value)


@given(position=st.integers(0), data=st.data())
def test_a_damaged_key_file_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, position: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("keys")
    path = directory / "root.pem"
    key = generate_key(path, SECRET)
    pem = path.read_bytes()
    path.write_bytes(pem[: position % (len(pem) - 40)])
    with pytest.raises(InvalidInputError) as caught:
        sign(key, directory)
    assert str(path) in caught.value.message


def test_a_key_file_of_another_key_is_refused(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "root.pem", SECRET)
    (tmp_path / "root.pem").unlink()
    generate_key(tmp_path / "root.pem", SECRET)
    with pytest.raises(InvalidInputError, match=r"holds another key than repository\.toml names"):
        sign(key, tmp_path)


def test_an_unencrypted_key_file_is_refused(tmp_path: Path) -> None:
    key = generate_key(tmp_path / "root.pem", SECRET)
    plain = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "root.pem").write_bytes(plain)
    with pytest.raises(InvalidInputError, match="is not an encrypted PKCS#8 private key"):
        sign(key, tmp_path)


def make_plain_key(directory: Path) -> tuple[Path, Path]:
    """An unencrypted ECDSA key pair as other tools make it."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem, public = directory / "ec.pem", directory / "ec.pub"
    pem.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return pem, public


def test_another_uri_is_a_signer_of_securesystemslib(tmp_path: Path) -> None:
    pem, public = make_plain_key(tmp_path)
    key = SigningKey(f"file2:{pem}", read_public_key(public))
    assert key.public.keytype == "ecdsa"
    assert key.keyid.encode() in sign(key, tmp_path)


@pytest.mark.parametrize("uri", ["nonsense:x", "file2:", "no scheme", "hsm:2?label=x"])
def test_a_uri_that_cannot_be_used_is_one_clear_error(tmp_path: Path, uri: str) -> None:
    _, public = make_plain_key(tmp_path)
    with pytest.raises((InvalidInputError, NotFoundError)) as caught:
        sign(SigningKey(uri, read_public_key(public)), tmp_path)
    assert uri in caught.value.message


def test_a_signer_that_fails_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, public = make_plain_key(tmp_path)
    key = SigningKey(f"file2:{pem}", read_public_key(public))

    def unplugged(*_: object) -> None:
        raise OSError("the token was unplugged")

    monkeypatch.setattr(CryptoSigner, "sign", unplugged)
    with pytest.raises(InvalidInputError, match="did not sign") as caught:
        sign(key, tmp_path)
    assert key.uri in caught.value.message


def test_keys_that_are_away_are_missed_only_below_the_threshold(tmp_path: Path) -> None:
    here, away = (generate_key(tmp_path / f"{name}.pem", SECRET) for name in ("here", "away"))
    (tmp_path / "away.pem").unlink()
    ring = KeyRing(tmp_path, SECRET)
    assert ring.sign(Metadata(Timestamp()), "root", [away, here], threshold=1)
    with pytest.raises(NotFoundError) as caught:
        ring.sign(Metadata(Timestamp()), "root", [away, here], threshold=2)
    assert "role root needs 2 of its keys to sign, and 1 can" in caught.value.message
    assert str(tmp_path / "away.pem") in caught.value.message


@pytest.mark.parametrize("data", [b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\nx\n", b"{}"])
def test_a_file_that_is_no_public_key_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "k.pub").write_bytes(data)
    with pytest.raises(InvalidInputError, match="is not a public key"):
        read_public_key(tmp_path / "k.pub")
    with pytest.raises(NotFoundError):
        read_public_key(tmp_path / "none")
