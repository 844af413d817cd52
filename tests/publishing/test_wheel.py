"""Wheels: read by their own metadata, checked by their RECORD."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager.errors import InvalidInputError, NotFoundError, PluginManagerError
from plugin_manager.model import EntryPoint
from plugin_manager.publishing._wheel import read_wheel, unpack
from tests.publishing.helpers import make_wheel

INFO = "demo-1.0.dist-info"
Members = dict[str, bytes]


def test_a_wheel_says_what_it_is(tmp_path: Path) -> None:
    wheel = read_wheel(
        make_wheel(
            tmp_path,
            "My.Demo",
            "1.0",
            requires=["other>=1; extra == 'more'", "third"],
            metadata="Requires-Python: >=3.9\nSummary: A demo.\nLicense: MIT\n"
            "Home-page: https://example.org/\n\nLong text.\n",
            entry_points="[demo.group]\nCamel = demo.mod:Thing.make [more]\n"
            "[console_scripts]\ndemo = demo:main\n",
        )
    )
    assert (wheel.name, str(wheel.version)) == ("my-demo", "1.0")
    assert str(wheel.requires_python) == ">=3.9"
    assert [str(requirement) for requirement in wheel.requires] == [
        'other>=1; extra == "more"',
        "third",
    ]
    assert (wheel.about.summary, wheel.about.license) == ("A demo.", "MIT")
    assert wheel.about.homepage == "https://example.org/"
    assert "Long text." in wheel.about.description
    assert set(wheel.entry_points) == {
        EntryPoint("demo.group", "Camel", "demo.mod:Thing.make"),
        EntryPoint("console_scripts", "demo", "demo:main"),
    }


def test_a_licence_text_in_the_licence_field_is_left_to_the_dist_info(tmp_path: Path) -> None:
    wheel = read_wheel(make_wheel(tmp_path, metadata=f"License: {'long ' * 200}"))
    assert wheel.about.license == ""


def test_files_lie_as_in_site_packages_and_record_follows(tmp_path: Path) -> None:
    path = make_wheel(
        tmp_path,
        files={
            "demo/__init__.py": "x = 1\n",
            "demo/tool": "#!/bin/sh\n",
            "demo/__pycache__/old.cpython-39.pyc": b"old",
            "demo-1.0.data/purelib/extra/__init__.py": "y = 2\n",
            "demo-1.0.data/platlib/native.so": b"\x7fELF",
            "demo-1.0.data/scripts/demo": "#!python\n",
            "demo-1.0.data/data/share/x": "x",
        },
        modes={"demo/tool": 0o100755},
    )
    files, notes = unpack(read_wheel(path), tmp_path / "out")
    found = {str(file.path): file for file in files}
    assert sorted(found) == [
        f"{INFO}/METADATA",
        f"{INFO}/RECORD",
        f"{INFO}/WHEEL",
        "demo/__init__.py",
        "demo/tool",
        "extra/__init__.py",
        "native.so",
    ]
    assert found["extra/__init__.py"].source.read_text() == "y = 2\n"
    assert [path for path, file in found.items() if file.executable] == ["demo/tool"]
    record = found[f"{INFO}/RECORD"].source.read_text()
    assert "\nextra/__init__.py,sha256=" in record
    assert ".data" not in record
    assert notes == [f"{path.name}: left out its data", f"{path.name}: left out its scripts"]


def test_an_untouched_wheel_keeps_its_record_byte_for_byte(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    files, notes = unpack(read_wheel(path), tmp_path / "out")
    record = next(file for file in files if file.path.endswith("RECORD"))
    with zipfile.ZipFile(path) as archive:
        assert record.source.read_bytes() == archive.read(f"{INFO}/RECORD")
    assert notes == []


def set_member(name: str, data: bytes) -> Callable[[Members], None]:
    return lambda members: members.__setitem__(name, data)


def drop(name: str) -> Callable[[Members], None]:
    return lambda members: members.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (set_member("demo/__init__.py", b"evil"), "demo/__init__.py: does not match its hash"),
        (set_member("demo/more.py", b"evil"), "demo/more.py: is not in RECORD"),
        (drop("demo/__init__.py"), "demo/__init__.py: is in RECORD, but not in the wheel"),
        (
            lambda members: members.update(
                {f"{INFO}/RECORD": members[f"{INFO}/RECORD"].replace(b"sha256=", b"md5=")}
            ),
            "RECORD has no good hash for it (md5)",
        ),
        (set_member(f"{INFO}/RECORD", b"demo/__init__.py,sha256=abc\n"), "line 1 has 2 fields"),
        (set_member(f"{INFO}/RECORD", b"\xff"), f"{INFO}/RECORD: is not UTF-8"),
        (drop(f"{INFO}/RECORD"), f"{INFO}/RECORD: is missing"),
    ],
)
def test_a_wheel_that_its_record_does_not_describe_is_refused(
    tmp_path: Path, change: Callable[[Members], None], fault: str
) -> None:
    path = make_wheel(tmp_path, change_after_record=change)
    with pytest.raises(InvalidInputError) as caught:
        unpack(read_wheel(path), tmp_path / "out")
    assert caught.value.message.startswith(f"{path}: ")
    assert fault in caught.value.message


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            set_member(f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: x\nVersion: 1.0\n\n"),
            "x 1.0",
        ),
        (set_member(f"{INFO}/METADATA", b"Metadata-Version: 2.1\nName: demo\n\n"), "version"),
        (
            set_member(
                f"{INFO}/METADATA",
                b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Dist: a b c\n\n",
            ),
            "a b c",
        ),
        (set_member(f"{INFO}/METADATA", b"\xff\xfe\0"), f"{INFO}/METADATA"),
        (drop(f"{INFO}/METADATA"), f"{INFO}/METADATA: is missing"),
        (set_member(f"{INFO}/WHEEL", b"Wheel-Version: 2.0\n"), "this program reads 1.x"),
        (drop(f"{INFO}/WHEEL"), f"{INFO}/WHEEL: is missing"),
        (
            set_member(f"{INFO}/entry_points.txt", b"no section\n"),
            "entry_points.txt: cannot be read",
        ),
        (set_member(f"{INFO}/entry_points.txt", b"[g]\nn = a b!\n"), "the value 'a b!'"),
        (
            set_member("other-2.dist-info/METADATA", b""),
            "must have one .dist-info directory, has 2",
        ),
    ],
)
def test_malformed_metadata_is_one_error_naming_wheel_and_place(
    tmp_path: Path, change: Callable[[Members], None], fault: str
) -> None:
    path = make_wheel(tmp_path, change=change)
    with pytest.raises(InvalidInputError) as caught:
        read_wheel(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert fault in caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/etc/evil",
        "demo\\evil.py",
        "demo/../../evil",
        "CON",
        "C:/evil",
        "demo/a.",
        "a//b",
    ],
)
def test_names_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    path = make_wheel(tmp_path, files={"demo/__init__.py": "", name: "evil"})
    with pytest.raises(InvalidInputError) as caught:
        unpack(read_wheel(path), tmp_path / "deep" / "out")
    assert "file name" in caught.value.message
    assert not list(tmp_path.rglob("*evil*"))


@pytest.fixture(autouse=True)
def deep(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()


def test_a_symbolic_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, files={"demo/l": "/etc/passwd"}, modes={"demo/l": 0o120777})
    with pytest.raises(InvalidInputError, match="demo/l: is a symbolic link"):
        unpack(read_wheel(path), tmp_path / "out")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("demo/__init__.py", "second")
    with pytest.raises(InvalidInputError, match="holds a name twice"):
        read_wheel(path)


@pytest.mark.parametrize("name", ["demo.whl", "demo-1.0.whl", "demo-x!-py3-none-any.whl"])
def test_a_file_name_that_is_none_of_a_wheel_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="is not the file name of a wheel"):
        read_wheel(tmp_path / name)


def test_a_missing_wheel_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_wheel(tmp_path / "demo-1.0-py3-none-any.whl")


@given(position=st.integers(0), flip=st.integers(1, 255), data=st.data())
def test_any_flipped_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    path = make_wheel(directory, entry_points="[g]\nn = demo:x\n")
    good, _ = unpack(read_wheel(path), directory / "good")
    expected = {str(file.path): file.source.read_bytes() for file in good}
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= flip
    path.write_bytes(raw)
    try:
        files, _ = unpack(read_wheel(path), directory / "flipped")
    except PluginManagerError as error:
        assert str(path) in error.message  # noqa: PT017 - or it was harmless
    else:
        found = {str(file.path): file.source.read_bytes() for file in files}
        # RECORD cannot list its own hash; what it says about the rest was checked.
        record = f"{INFO}/RECORD"
        assert {k: v for k, v in found.items() if k != record} == {
            k: v for k, v in expected.items() if k != record
        }
