"""What verifies imports no signers; whoever wants them finds the library as it always is."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAN = "import plugin_manager.trust._judge"
PLAIN = "import tuf.api.metadata"
SIGNERS = "'securesystemslib.signer._gpg_signer' in sys.modules"


def told(*lines: str) -> str:
    """What a new process prints that runs `lines`."""
    program = "\n".join(["import sys", *lines])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_verifying_imports_no_signers() -> None:
    assert told(LEAN, f"print({SIGNERS})") == "False"


def test_control_python_tuf_by_itself_imports_them() -> None:
    assert told(PLAIN, f"print({SIGNERS})") == "True"


@pytest.mark.parametrize(
    "use",
    [
        "from securesystemslib.signer import SIGNER_FOR_URI_SCHEME as found; found = [*found]",
        # A name that the lean import knows, too: its table must be full for who uses it.
        (
            "from securesystemslib.signer import Signer\n"
            "from securesystemslib.signer._signer import SIGNER_FOR_URI_SCHEME as found"
        ),
        "from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME as found",
        "from securesystemslib.signer import *; found = [n for n in dir() if n.endswith('Signer')]",
        (
            "import securesystemslib.signer as s; s.CryptoSigner\n"
            "found = [n for n in dir(s) if n[0] != '_']"
        ),
        (
            "from securesystemslib.signer import Key\n"
            "key = lambda s: {'keytype': 'rsa', 'scheme': s, 'keyval': {'public': 'p'}}\n"
            "kinds = ('rsassa-pss-sha256', 'rsa-pkcs1v15-sha512')\n"
            "found = [Key.from_dict('k', key(s)).scheme for s in kinds]"
        ),
        (
            "from securesystemslib.signer import Signature; import tuf.api.metadata as t\n"
            "found = [t.Signature is Signature]"
        ),
        "import tuf.ngclient, tuf.api.dsse; found = [hasattr(tuf.ngclient, 'Updater')]",
    ],
)
def test_the_library_is_whole_for_others(use: str) -> None:
    show = "print(sorted(map(str, found)))"
    assert told(LEAN, use, show) == told(PLAIN, use, show) != "[]"


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "none"])
def test_other_kinds_of_keys_are_judged_as_without_it(kind: str) -> None:
    scheme = {"rsa": "pgp+rsa-pkcsv1.5", "ecdsa": "ecdsa-sha2-nistp256"}.get(kind, "none")
    use = (
        "import tuf.api.metadata as t\n"
        "try:\n"
        f"    found = t.Key.from_dict('k', dict(keytype={kind!r}, scheme={scheme!r},"
        " keyval={'public': 'p'}))\n"
        "except ValueError as error:\n"
        "    found = error\n"
        "print(type(found).__name__, getattr(found, 'scheme', found))"
    )
    assert told(LEAN, use) == told(PLAIN, use)


def test_another_thread_gets_the_whole_package_meanwhile() -> None:
    assert (
        told(
            "from concurrent.futures import ThreadPoolExecutor",
            "from plugin_manager.trust._lean import lean_import",
            "def other():",
            "    from securesystemslib.signer import Signer, _signer",
            "    return len(_signer.SIGNER_FOR_URI_SCHEME) > 5",
            "with ThreadPoolExecutor(4) as pool, lean_import():",
            f"    assert not {SIGNERS}",
            "    print({one.result() for one in [pool.submit(other) for _ in range(4)]})",
        )
        == "{True}"
    )
