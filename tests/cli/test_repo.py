"""The publisher's commands, run as a person or a script runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.publishing.helpers import make_plugin, make_wheel, snapshot
from tests.publishing.test_keys import make_plain_key

SECRET = "open sesame"


class Shell:
    """Runs `pluginctl repo …` in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PLUGINCTL_PASSPHRASE": SECRET,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "plugin_manager.cli", "repo", *arguments]

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
        return done

    def json(self, *arguments: str, expect: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", expect=expect).stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def repository(shell: Shell) -> Shell:
    shell.run("init", "R")
    shell.directory /= "R"
    shell.run("add-publisher", "acme")
    return shell


def test_from_nothing_to_a_withdrawn_release(shell: Shell, tmp_path: Path) -> None:
    made = shell.json("init", "R", "--keys-directory", "K")
    assert made["root"] == str(tmp_path / "R" / "public" / "metadata" / "1.root.json")
    assert [role["name"] for role in made["roles"]] == ["root", "targets", "snapshot", "timestamp"]
    at = ("--directory", "R")
    added = shell.json("add-publisher", "acme", "--keys-directory", "K", *at)
    assert added["uri"] == f"pkcs8:{tmp_path / 'K' / 'publisher-acme.pem'}"
    make_plugin(tmp_path / "one", {"a": "x"})
    make_plugin(tmp_path / "two", {"a": "x", "b": "y"}, version="1.1")
    published = shell.json("publish", "one", "two", *at)["published"]
    assert [(item["version"], item["new_chunks"], item["changed"]) for item in published] == [
        ("1.0", 1, True),
        ("1.1", 1, True),
    ]
    text = shell.run("publish", "one", *at).stdout
    assert text == "acme/maps 1.0 was published already, byte for byte the same.\n"
    withdrawn = shell.json("withdraw", "acme/maps==1.0", "--block", "--reason", "Leaks.", *at)
    assert withdrawn["withdrawn"] == [{"plugin": "acme/maps", "version": "1.0", "platform": "any"}]
    status = shell.json("status", *at)
    assert [item["withdrawn"] for item in status["releases"]] == [
        {"kind": "blocked", "reason": "Leaks."},
        None,
    ]
    assert "blocked: Leaks." in shell.run("status", *at).stdout
    yank = ("withdraw", "acme/maps==1.0", "--yank", "--reason", "It did not.", *at)
    assert "--unblock" in shell.json(*yank, expect=7)["error"]["remedy"]
    assert shell.json(*yank, "--unblock")["kind"] == "yanked"
    assert [role["name"] for role in shell.json("refresh", *at)["roles"]] == ["timestamp"]


def test_a_wheel_is_published_in_one_command(repository: Shell, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, requires=["one", "pluggy"], files={"demo/x.py": "x = 1\n"})
    make_wheel(tmp_path / "shelf", "one")
    options = ("--with-dependencies", str(tmp_path / "shelf"), "--provided", "pluggy")
    done = repository.run("publish", str(wheel), "--publisher", "acme", *options, "--no-bytecode")
    assert re.search(r"Published acme/demo 1\.0: 8 files, .* 8 of 8 chunks new\.", done.stdout)
    assert "note: brought along for CPython" in done.stdout
    item = repository.json("publish", str(wheel), "--publisher", "acme", "--platform",
                           "py3-none-win_amd64")["published"][0]  # fmt: skip
    assert item["platform"] == "py3-none-win_amd64"
    assert any("not brought along" in note for note in item["notes"])


def test_keys_are_made_shown_and_retired(repository: Shell, tmp_path: Path) -> None:
    (old,) = repository.json("key", "show")["keys"]["root"]
    new = repository.json("key", "generate", "root")
    assert (new["uri"], new["root_version"]) == ("pkcs8:keys/root-2.pem", 2)
    retired = repository.json("key", "retire", "root", old["keyid"][:12])
    assert (retired["keyid"], retired["root_version"]) == (old["keyid"], 3)
    assert re.search(rf"root +{old['keyid'][:12]}.*retired", repository.run("key", "show").stdout)
    pem, public = make_plain_key(tmp_path)
    signer = ("--uri", f"file2:{pem}", "--public-key", str(public))
    assert repository.json("key", "generate", "targets", *signer)["scheme"] == (
        "ecdsa-sha2-nistp256"
    )
    assert repository.json("add-publisher", "globex", *signer)["publisher"] == "globex"


def test_a_signer_for_a_role_from_the_start(shell: Shell, tmp_path: Path) -> None:
    pem, public = make_plain_key(tmp_path)
    shell.run("init", "R", "--key", "root", f"file2:{pem}", str(public))
    assert not (tmp_path / "R" / "keys" / "root.pem").exists()
    assert shell.json("key", "show", "--directory", "R")["keys"]["root"][0]["uri"] == f"file2:{pem}"


def test_the_passphrase_may_come_from_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    del shell.environment["PLUGINCTL_PASSPHRASE"]
    shell.run("init", "R", "--passphrase-file", "secret")
    shell.run("refresh", "--directory", "R", "--passphrase-file", "secret")
    error = shell.json("refresh", "--directory", "R", expect=3)["error"]
    assert error["message"].startswith("there is no passphrase for ")
    assert error["message"].endswith("R/keys/timestamp.pem")
    assert "PLUGINCTL_PASSPHRASE" in error["remedy"]
    error = shell.json("refresh", "--directory", "R", "--passphrase-file", "none", expect=3)
    assert "none: cannot be read" in error["error"]["message"]
    shell.environment["PLUGINCTL_PASSPHRASE"] = "wrong"
    error = shell.json("refresh", "--directory", "R", expect=3)["error"]
    assert "cannot be opened with this passphrase" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["publish", "nowhere"], 4, "nowhere does not exist"),
        (["publish", "x.whl", "--publisher", "acme"], 3, "x.whl: is not the file name of a wheel"),
        (["publish"], 2, "Missing argument"),
        (["publish", "s", "--platform", "x"], 3, "'x' is not a platform"),
        (["withdraw", "acme/maps", "--yank", "--reason", "r"], 3, "does not name one release"),
        (["withdraw", "acme/maps==1.0", "--reason", "r"], 2, "--yank or --block"),
        (["withdraw", "acme/maps==1.0", "--yank", "--reason", "r"], 4, "has no release 1.0"),
        (["withdraw", "Acme==1.0", "--yank", "--reason", "r"], 3, "'Acme' is not a plugin name"),
        (["add-publisher", "acme"], 7, "has the publisher 'acme' already"),
        (["add-publisher", "A"], 3, "'A' is not a publisher name"),
        (["add-publisher", "b", "--uri", "file2:x"], 2, "go together"),
        (["key", "generate", "nobody"], 4, "there is no role 'nobody'"),
        (["key", "retire", "root", "zz"], 4, "has 0 keys"),
        (["init", "."], 7, "holds a repository already"),
        (["status", "--directory", "none"], 4, "is not a repository"),
        (["withdraw", "acme/maps==1.0", "--block", "--unblock", "--reason", "r"], 2, "--yank"),
        (["serve", "none"], 4, "there is no directory"),
        (["serve", "keys"], 4, "keys is not a repository"),
        (["status", "--passphrase-file", "x"], 2, "No such option"),
        (["key", "show", "--passphrase-file", "x"], 2, "No such option"),
    ],
)
def test_what_goes_wrong_is_said_with_its_code_and_changes_nothing(
    repository: Shell, arguments: list[str], code: int, words: str
) -> None:
    before = snapshot(repository.directory)
    assert words in repository.run(*arguments, expect=code).stderr
    assert snapshot(repository.directory) == before


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_serve_says_where_and_ends_on_interruption(repository: Shell) -> None:
    with subprocess.Popen(
        repository.command("serve", "--port", "0", "--json"),
        cwd=repository.directory,
        env=repository.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdout is not None
        said = "".join(process.stdout.readline() for _ in range(3))
        url = json.loads(said)["base_url"]
        with urllib.request.urlopen(f"{url}metadata/timestamp.json", timeout=20) as response:
            assert json.loads(response.read())["signed"]["_type"] == "timestamp"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "GET /metadata/timestamp.json 200" in errors
