"""Where settings come from: flag, environment, file, default; a file that is changed with care."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager import configuration
from plugin_manager.configuration import ConfigurationFile, explain, option, read, user_file
from plugin_manager.errors import InvalidInputError, RefusedError


@pytest.fixture
def file(tmp_path: Path) -> ConfigurationFile:
    return ConfigurationFile(tmp_path / "sub" / "config.toml")


def written(file: ConfigurationFile, text: str) -> ConfigurationFile:
    file.path.parent.mkdir(exist_ok=True)
    file.path.write_text(text)
    return ConfigurationFile(file.path)


def test_the_first_that_says_anything_counts(file: ConfigurationFile) -> None:
    file = written(file, 'max_store = "1GB"\njobs = 5\nkeep_previous = 2\ninsecure_http = true\n')
    environment = {"PLUGINCTL_MAX_STORE": "2GB", "PLUGINCTL_JOBS": "6", "PLUGINCTL_METERED": ""}
    found = read({"max_store": "3GB", "root": None}, environment, file)
    assert found.limits.max_store_bytes == 3_000_000_000
    assert found.queue.jobs_at_once == 6
    assert found.limits.keep_previous == 2
    assert found.insecure_http is True
    assert found.queue.metered == "allow"
    origins = {one.option.name: one for one in explain({"max_store": "3GB"}, environment, file)}
    assert [origins[name].source for name in ("max_store", "jobs", "keep_previous", "metered")] == [
        "flag", "environment", "file", "default",
    ]  # fmt: skip
    assert (origins["max_store"].place, origins["jobs"].place) == ("--max-store", "PLUGINCTL_JOBS")
    assert origins["keep_previous"].place == str(file.path)


def test_no_file_says_nothing_unless_it_was_named(file: ConfigurationFile) -> None:
    assert read({}, {}, file) == read({}, {})
    with pytest.raises(InvalidInputError, match="no such file"):
        read({}, {}, ConfigurationFile(file.path, required=True))


def test_paths_in_a_file_are_relative_to_it(file: ConfigurationFile) -> None:
    found = read({}, {}, written(file, 'root = "root.json"\nstore = "~/plugins"\n'))
    assert found.root == file.path.parent / "root.json"
    assert found.store == Path.home() / "plugins"


def test_lists_are_read_too(file: ConfigurationFile) -> None:
    text = 'mirrors = ["https://a/", "https://b/"]\nquiet_hours = ["08:00-18:00", "22:00-06:00"]\n'
    found = read({}, {}, written(file, text))
    assert found.mirrors == ("https://a/", "https://b/")
    assert len(found.queue.quiet_hours) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_stoer = 1", "Did you mean max_store?"),
        ("nothing-like-it = 1", "'pluginctl config' lists the settings"),
        ("jobs = 1979-05-27", "must be text, a number"),
        ("[jobs]\nx = 1", "must be text, a number"),
        ('jobs = "many"', "jobs: 'many' is not a whole number"),
        ("jobs = ", "is not TOML"),
        ('repository = "https://me:s3cret@a/"', "must not hold credentials"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    file: ConfigurationFile, text: str, said: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read({}, {}, written(file, text))
    assert str(file.path) in caught.value.message
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_everybody_may_write_to_is_refused(file: ConfigurationFile) -> None:
    written(file, "jobs = 2\n")
    file.path.chmod(0o646)
    with pytest.raises(InvalidInputError, match="everybody may write"):
        read({}, {}, file)
    file.path.chmod(0o644)
    assert read({}, {}, file).queue.jobs_at_once == 2, "control"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a" * 300_000, b"x = '\0'"])
def test_what_is_no_text_is_refused(file: ConfigurationFile, data: bytes) -> None:
    written(file, "")
    file.path.write_bytes(data)
    with pytest.raises(InvalidInputError):
        read({}, {}, file)


def test_what_is_wrong_is_explained_and_no_password_shown(file: ConfigurationFile) -> None:
    environment = {"PLUGINCTL_REPOSITORY": "https://me:s3cret@a/", "PLUGINCTL_JOBS": "0"}
    origins = {one.option.name: one for one in explain({}, environment, file)}
    assert origins["jobs"].error is not None
    assert origins["jobs"].text == "0"
    assert origins["repository"].error is not None
    assert "s3cret" not in repr(origins)


def test_tokens_are_named_by_their_file_only(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("https://a.example.org s3cret\n")
    tokens.chmod(0o600)
    given = explain({}, {"PLUGINCTL_TOKENS": str(tokens)})
    assert str(tokens) in repr(given)
    assert "s3cret" not in repr(given)
    assert "s3cret" not in repr(explain({"tokens": {"https://a": "s3cret"}}, {}))


# --- changing ------------------------------------------------------------------------------------


def test_setting_changes_one_line_only(file: ConfigurationFile) -> None:
    before = "# ours\nmax_store = '1GB'  # small\n\n  jobs = 2\n"
    written(file, before)
    file.set("max-store", "20GB")
    file.set("--metered", "ask")
    assert file.path.read_text() == (
        '# ours\nmax_store = "20GB"  # small\n\n  jobs = 2\nmetered = "ask"\n'
    )
    assert file.texts == {"max_store": "20GB", "jobs": "2", "metered": "ask"}
    assert file.unset("jobs") is True
    assert file.unset("jobs") is False
    assert "jobs" not in file.path.read_text()


@pytest.mark.parametrize("value", ['"a # b" # c', "'# # ' # c", '"\\"#" # c', "'x'\t# c # d"])
def test_only_what_is_a_comment_is_kept_as_one(file: ConfigurationFile, value: str) -> None:
    file = written(file, f"agent_command = {value}\n")
    file.set("agent_command", "new")
    kept = "\t# c # d" if "d" in value else " # c"
    assert file.path.read_text() == f'agent_command = "new"{kept}\n'


def test_the_ends_of_lines_stay_as_they_are(file: ConfigurationFile) -> None:
    file = written(file, "")
    file.path.write_bytes(b"# of\xe2\x80\xa8Windows\r\njobs = 2\r\nmetered = 'ask' # or not")
    file.set("jobs", "4")
    file.set("max_store", "20GB")
    file.set("metered", "allow")
    assert file.path.read_bytes() == (
        b"# of\xe2\x80\xa8Windows\r\n"
        b'jobs = "4"\r\nmetered = "allow" # or not\r\nmax_store = "20GB"\r\n'
    )


def test_what_is_refused_is_not_written(file: ConfigurationFile) -> None:
    before = "[table]\nx = 1\n"
    file = written(file, before)
    with pytest.raises(InvalidInputError, match="there is no setting 'table'"):
        file.set("jobs", "5")
    assert file.path.read_text() == before


@pytest.mark.parametrize("name", ["root", "ca_bundle"])
def test_a_file_that_is_not_there_is_not_written_down(
    file: ConfigurationFile, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInputError, match="there is no file"):
        file.set(name, str(tmp_path / "missing"))
    (tmp_path / "there").touch()
    file.set(name, str(tmp_path / "there"))
    assert file.texts == {name: str(tmp_path / "there")}


def test_the_file_is_made_for_its_owner(
    file: ConfigurationFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("root.json").touch()
    file.set("root", "root.json")
    assert file.texts == {"root": str(tmp_path / "root.json")}
    if os.name == "posix":
        assert file.path.parent.stat().st_mode & 0o077 == 0


def test_nothing_wrong_is_ever_written(file: ConfigurationFile) -> None:
    for name, text in (("jobs", "many"), ("jbos", "2"), ("repository", "ftp://a")):
        with pytest.raises(InvalidInputError):
            file.set(name, text)
    assert not file.path.exists()


@pytest.mark.parametrize(
    "text",
    [
        'mirrors = [\n  "https://a/",\n]\n',
        '"mirrors" = ["https://a/"]\n',
        'x = """\nmirrors = 1\n"""\n',
    ],
)
def test_what_only_a_person_can_change_is_left_alone(file: ConfigurationFile, text: str) -> None:
    written(file, text)
    with pytest.raises(RefusedError, match="only a person"):
        file.set("mirrors", "https://b/")
    assert file.path.read_text() == text


def test_a_link_stays_a_link(file: ConfigurationFile, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("jobs = 2\n")
    file.path.parent.mkdir()
    file.path.symlink_to(real)
    file.set("jobs", "4")
    assert file.path.is_symlink()
    assert real.read_text() == 'jobs = "4"\n'


@given(st.text())
def test_any_text_is_quoted_so_that_toml_gives_it_back(text: str) -> None:
    import tomllib  # noqa: PLC0415

    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return
    assert tomllib.loads(f"x = {configuration._quoted(text)}") == {"x": text}


def test_the_user_s_file_is_where_platformdirs_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for given_directory in ("", str(tmp_path)):
        monkeypatch.setenv("XDG_CONFIG_HOME", given_directory)
        expected = platformdirs.user_config_path("plugin-manager", appauthor=False) / "config.toml"
        assert user_file(os.environ) == expected
    assert user_file({"PLUGINCTL_CONFIG": "/etc/x.toml"}) == Path("/etc/x.toml")


def test_options_are_found_however_they_are_written() -> None:
    for name in ("max_store", "max-store", "--max-store", "PLUGINCTL_MAX_STORE"):
        assert option(name).name == "max_store"
