"""Directories with a plugin.toml."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.errors import InvalidInputError, NotFoundError, PluginManagerError
from plugin_manager.model import EntryPoint, Platform
from plugin_manager.publishing._source import Glob, parse_description, read_directory
from tests.publishing.helpers import PLUGIN, make_plugin

FULL = """\
[plugin]
name = "acme/maps"
version = "2.1"
summary = "Maps."
description = "Long."
license = "MIT"
homepage = "https://example.org/"
platform = "cp311-cp311-manylinux_2_17_x86_64"
files = "payload"
include = ["lib/**", "data/*.bin"]
exclude = ["**/*.orig"]

[requires]
host = ">=1,<3"
python = ">=3.11"
memory_bytes = 1000
disk_bytes = 2000
plugins = ["acme/greetings>=1"]

[entry-points."maps.layers"]
roads = "maps.layers:Roads.make"

[python]
root = "lib"

[tags]
"lib/**/*.so" = "cp311"
"""


def test_every_key_of_plugin_toml_arrives() -> None:
    found = parse_description(FULL)
    assert str(found.release) == "acme/maps 2.1 (cp311-cp311-manylinux_2_17_x86_64)"
    assert (found.about.summary, found.about.license) == ("Maps.", "MIT")
    assert (found.about.description, found.about.homepage) == ("Long.", "https://example.org/")
    assert found.files == "payload"
    assert [glob.text for glob in (*found.include, *found.exclude)] == [
        "lib/**",
        "data/*.bin",
        "**/*.orig",
    ]
    assert [str(requirement) for requirement in found.requirements] == ["acme/greetings>=1"]
    assert (str(found.needs.host), str(found.needs.python)) == ("<3,>=1", ">=3.11")
    assert (found.needs.memory_bytes, found.needs.disk_bytes) == (1000, 2000)
    assert found.entry_points == (EntryPoint("maps.layers", "roads", "maps.layers:Roads.make"),)
    assert found.python_root == "lib"
    assert [(glob.text, tag) for glob, tag in found.tags] == [("lib/**/*.so", "cp311")]


def test_all_faults_are_named_at_once_with_their_places() -> None:
    text = """
[plugin]
name = "Acme"
version = "1.0.0-rc1"
sumary = "typing error"
files = "../elsewhere"
include = [1]
[requires]
python = "three"
memory_bytes = -1
plugins = ["acme/ok", "??"]
[entry-points.g]
n = "a b!"
[tags]
"*.so" = "CP 311"
[extra]
"""
    with pytest.raises(InvalidInputError) as caught:
        parse_description(text, "x/plugin.toml")
    places = [fault.partition(":")[0] for fault in caught.value.faults]
    assert sorted(places) == sorted(
        [
            "plugin.name",
            "plugin.version",
            "plugin.files",
            "plugin.include",
            "requires.plugins[1]",
            "requires.python",
            "requires.memory_bytes",
            "entry-points.g.n",
            "tags.*.so",
            "plugin.sumary",
            "extra",
        ]
    )
    assert caught.value.message.startswith("x/plugin.toml: ")


@pytest.mark.parametrize("text", ["[plugin", "plugin = 1\nplugin = 2", "a = " + "[" * 3000])
def test_what_is_not_toml_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^p\.toml: is not TOML"):
        parse_description(text, "p.toml")


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
KEYS = """
    plugin requires entry-points python tags name version files root platform include exclude
    host plugins memory_bytes summary
"""
keys = st.sampled_from(KEYS.split())


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {as_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    text = "".join(f"\\U{ord(char):08x}" for char in str(value))
    return f'"{text}"'


documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text("ab/", max_size=3), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(keys, documents, max_size=6))
def test_no_document_does_more_than_raise_one_clear_error(value: dict[str, object]) -> None:
    text = "\n".join(f'"{key}" = {as_toml(item)}' for key, item in value.items())
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        pytest.fail("the strategy must write TOML")
    try:
        parse_description(text, "plugin.toml")
    except InvalidInputError as error:
        assert error.message.startswith("plugin.toml: ")  # noqa: PT017 - or it was a good document


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_description(text)


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("*.py", "a.py", True),
        ("*.py", "a/b.py", False),
        ("**/*.py", "b.py", True),
        ("**/*.py", "a/c/b.py", True),
        ("docs/**", "docs/a/b", True),
        ("docs/**", "docsx/a", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
        ("[x]", "x", False),
    ],
)
def test_globs_match_whole_paths(glob: str, path: str, meant: bool) -> None:
    assert Glob(glob).matches(path) is meant


def test_files_are_chosen_by_include_and_exclude_and_caches_stay_behind(tmp_path: Path) -> None:
    toml = PLUGIN.format(version="1.0") + 'include = ["lib/**", "a"]\nexclude = ["**/*.orig"]\n'
    toml += '[tags]\n"lib/**/*.so" = "cp311"\n'
    files = ["lib/x.so", "lib/d/y.orig", "lib/d/y", "lib/__pycache__/z.pyc", "a", "b"]
    source = make_plugin(tmp_path, dict.fromkeys(files, b"x"), toml=toml)
    (tmp_path / "files" / "a").chmod(0o755)
    found = read_directory(source)
    assert [(file.path, file.executable, file.tag) for file in found.files] == [
        ("a", True, ""),
        ("lib/x.so", False, "cp311"),
        ("lib/d/y", False, ""),
    ]


def test_the_platform_may_be_given_instead(tmp_path: Path) -> None:
    source = make_plugin(tmp_path, {"a": b"x"})
    platform = Platform.parse("py3-none-win_amd64")
    assert read_directory(source, platform=platform).release.platform == platform


def test_what_is_no_regular_file_is_refused_all_at_once_by_path(tmp_path: Path) -> None:
    source = make_plugin(tmp_path, {"good": b"x", "CON.txt": b"x", "trailing.": b"x"})
    (source / "files" / "link").symlink_to("good")
    (source / "files" / "link_to_directory").symlink_to("/etc")
    os.mkfifo(source / "files" / "pipe")
    with pytest.raises(InvalidInputError) as caught:
        read_directory(source)
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 5
    for name in (
        "link: is a symbolic link",
        "link_to_directory: is a symbolic link",
        "pipe: is not",
    ):
        assert f"{source}/files/{name}" in text
    assert "'CON.txt' has a part that names a device" in text
    assert "'trailing.' has a part ending with a dot" in text


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ('files = "nowhere"', "plugin.files: there is no directory"),
        ('include = ["*.nothing"]', "plugin.include: '*.nothing' matches no file"),
        ('[tags]\n"*.so" = "cp311"', "tags: '*.so' matches no file"),
        ('[python]\nroot = "lib"', "python.root: there are no files below 'lib'"),
    ],
)
def test_a_path_that_names_nothing_is_a_fault_of_plugin_toml(
    tmp_path: Path, more: str, fault: str
) -> None:
    source = make_plugin(tmp_path, {"a": b"x"}, toml=PLUGIN.format(version="1.0") + more)
    with pytest.raises(InvalidInputError) as caught:
        read_directory(source)
    assert str(source / "plugin.toml") in caught.value.message
    assert any(fault in each for each in (*caught.value.faults, caught.value.message))


def test_a_directory_without_plugin_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has no plugin\.toml"):
        read_directory(tmp_path)
    with pytest.raises(NotFoundError, match="none does not exist"):
        read_directory(tmp_path / "none")


def test_a_plugin_toml_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PluginManagerError, match="is not UTF-8"):
        read_directory(tmp_path)


def test_a_plugin_toml_is_read_up_to_a_bound(tmp_path: Path) -> None:
    toml = PLUGIN.format(version="1.0")
    source = make_plugin(tmp_path, {"a": b"x"}, toml=toml.ljust(1024 * 1024, "\n"))
    assert str(read_directory(source).release) == "acme/maps 1.0"
    make_plugin(tmp_path, {}, toml=toml.ljust(1024 * 1024 + 1, "\n"))
    with pytest.raises(InvalidInputError, match="is larger than 1048576 bytes") as caught:
        read_directory(source)
    assert caught.value.remedy
