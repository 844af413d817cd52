"""Keys: where a private key is (a URI), its public part, and signing with it.

A private key on disk is a passphrase-encrypted PKCS#8 PEM file named `pkcs8:PATH`. Every other URI
(`file2:`, `hsm:`, `awskms:`, `gcpkms:`, `azurekms:`, `hv:`, ...) is securesystemslib's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import (  # type: ignore[attr-defined]  # re-exported implicitly
    CryptoSigner,
    Key,
    Signer,
    SSlibKey,
)
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata
from tuf.api.serialization.json import JSONSerializer

from plugin_manager._attrs import frozen
from plugin_manager.document import Document
from plugin_manager.errors import InvalidInputError, NotFoundError, RefusedError

__all__ = [
    "KeyRing",
    "Passphrase",
    "SigningKey",
    "generate_key",
    "key_document",
    "parse_key",
    "read_public_key",
]

PKCS8 = "pkcs8:"
BRING_KEY = "Bring the key file, or correct its URI in repository.toml."

Passphrase = str | Callable[[str], str]
"""The passphrase of the key files, or what is asked for it with the path of a key file."""


@frozen
class SigningKey:
    """A key that signs for a role: `uri` says where its private part is, `public` is the other.

    A `retired` key is no longer listed in new metadata; it signs once more, for the hand-over.
    """

    uri: str
    public: Key
    retired: bool = False

    @property
    def keyid(self) -> str:
        """The name of the key in TUF metadata."""
        return self.public.keyid


def _ask(passphrase: Passphrase, name: str) -> str:
    return passphrase if isinstance(passphrase, str) else passphrase(name)


def generate_key(path: Path, passphrase: Passphrase) -> SigningKey:
    """A new ed25519 key, its private part in `path` (mode 0600), encrypted with the passphrase.

    Raises RefusedError where `path` exists, InvalidInputError where the passphrase is empty.
    """
    if path.exists() or path.is_symlink():
        raise RefusedError(
            f"{path} exists, and keys are never overwritten",
            remedy="Choose another directory for the keys, or move the file away.",
            path=str(path),
        )
    secret = _ask(passphrase, str(path)).encode()
    if not secret:
        raise InvalidInputError(
            "the passphrase is empty", remedy="Give a passphrase: keys are only stored encrypted."
        )
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(secret),
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Born with mode 0600: a file that is narrowed afterwards was open to others for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return SigningKey(f"{PKCS8}{path}", SSlibKey.from_crypto(private.public_key()))


def read_public_key(path: Path) -> Key:
    """The public key in the PEM file `path`, with the usual signature scheme for its kind.

    Raises InvalidInputError naming the file, NotFoundError where there is none.
    """
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(path.read_bytes()))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no public key file {path}", remedy="Check the path.", path=str(path)
        ) from error
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(
            f"{path}: is not a public key ({error})",
            remedy="Give a PEM file that begins with BEGIN PUBLIC KEY.",
            path=str(path),
        ) from error


class KeyRing:
    """Signs with the keys of a repository in `directory`, against which relative paths are read.

    Private keys are opened when they are first needed and kept in memory only.
    """

    def __init__(self, directory: Path, passphrase: Passphrase) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._signers: dict[str, Signer] = {}

    @contextmanager
    def new_key(self, role: str, directory: Path) -> Iterator[SigningKey]:
        """A new key file for `role`, under a free name in `directory`; removed on failure."""
        path, number = directory / f"{role}.pem", 1
        while path.exists():
            number += 1
            path = directory / f"{role}-{number}.pem"
        key = generate_key(path, self._passphrase)
        if path.is_relative_to(self._directory):
            # So the repository can be moved together with its keys.
            key = evolve(key, uri=f"{PKCS8}{path.relative_to(self._directory).as_posix()}")
        try:
            yield key
        except BaseException:
            path.unlink()  # it never signed anything that was published
            raise

    def sign(
        self, metadata: Metadata[Any], role: str, keys: Sequence[SigningKey], *, threshold: int
    ) -> bytes:
        """`metadata` of `role` as bytes, signed with all of `keys` whose private part is here.

        Raises NotFoundError where fewer than `threshold` are, InvalidInputError for a bad key file
        or passphrase.
        """
        absent = []
        metadata.signatures.clear()
        for key in keys:
            try:
                signer = self._signer(key)
            except NotFoundError as error:
                absent.append(error)
                continue
            try:
                metadata.sign(signer, append=True)
            except UnsignedMetadataError as error:
                raise InvalidInputError(
                    f"key {key.uri} did not sign ({error})", remedy="Check the key and its device."
                ) from error
        if len(metadata.signatures) < threshold:
            missing = "; ".join(error.message for error in absent)
            raise NotFoundError(
                f"role {role} needs {threshold} of its keys to sign, and "
                f"{len(metadata.signatures)} can: {missing}",
                remedy="Bring the missing key, or run this where it is.",
            )
        return metadata.to_bytes(JSONSerializer(compact=True))

    def _signer(self, key: SigningKey) -> Signer:
        signer = self._signers.get(key.keyid)
        if signer is None:
            signer = self._open(key)
            self._signers[key.keyid] = signer
        return signer

    def _open(self, key: SigningKey) -> Signer:
        if key.uri.startswith(PKCS8):
            return self._open_file(self._directory / key.uri.removeprefix(PKCS8), key)
        try:
            return Signer.from_priv_key_uri(key.uri, key.public, self._secret)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no key file for {key.uri}", remedy=BRING_KEY) from error
        except Exception as error:
            # The signers of other schemes raise what their libraries raise; all of it means that
            # this key cannot be used as it is configured.
            raise InvalidInputError(
                f"key {key.uri} cannot be used ({type(error).__name__}: {error})",
                remedy="See the documentation of securesystemslib for this kind of key.",
            ) from error

    def _secret(self, name: str) -> str:
        return _ask(self._passphrase, name)

    def _open_file(self, path: Path, key: SigningKey) -> Signer:
        try:
            pem = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(
                f"there is no key file {path}", remedy=BRING_KEY, path=str(path)
            ) from error
        if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in pem:
            raise InvalidInputError(
                f"{path}: is not an encrypted PKCS#8 private key in PEM form",
                remedy="Keys of this form are made by 'pluginctl repo key generate'.",
                path=str(path),
            )
        try:
            secret = _ask(self._passphrase, str(path)).encode()
            private = serialization.load_pem_private_key(pem, secret)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInputError(
                f"{path}: cannot be opened with this passphrase, or is damaged",
                remedy="Check the passphrase.",
                path=str(path),
            ) from error
        try:
            found = SSlibKey.from_crypto(private.public_key(), scheme=key.public.scheme)
            matches = found.keyval == key.public.keyval
        except ValueError:
            matches = False
        if not matches or not isinstance(key.public, SSlibKey):
            raise InvalidInputError(
                f"{path}: holds another key than repository.toml names (key {key.keyid})",
                remedy="Bring back the right file.",
                path=str(path),
            )
        return CryptoSigner(private, key.public)


def key_document(key: SigningKey) -> Mapping[str, object]:
    """The key as repository.toml has it."""
    document: dict[str, object] = {
        "uri": key.uri,
        "keyid": key.keyid,
        "keytype": key.public.keytype,
        "scheme": key.public.scheme,
        "public": key.public.keyval["public"],
    }
    return document | ({"retired": True} if key.retired else {})


def parse_key(document: Document) -> SigningKey | None:
    """The counterpart of `key_document`; None after a fault."""
    uri = document.text("uri")
    keyid, keytype = document.text("keyid"), document.text("keytype")
    scheme, public = document.text("scheme"), document.text("public")
    retired = document.boolean("retired", default=False)
    if not (uri and keyid and keytype and scheme and public):
        return None
    try:
        key = Key.from_dict(
            keyid, {"keytype": keytype, "scheme": scheme, "keyval": {"public": public}}
        )
    except (ValueError, KeyError, TypeError) as error:
        document.fault("public", f"is not a public key ({error})")
        return None
    return SigningKey(uri, key, retired)
