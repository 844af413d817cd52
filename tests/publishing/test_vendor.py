"""Wheels as plugins, alone and with their dependencies."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.tags import sys_tags

from plugin_manager.errors import InvalidInputError, NotFoundError
from plugin_manager.publishing._payload import Payload
from plugin_manager.publishing._vendor import read_wheel_source
from tests.publishing.helpers import make_wheel


def payload(wheel: Path, tmp_path: Path, **options: object) -> Payload:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return read_wheel_source(wheel, work, publisher="acme", **options)  # type: ignore[arg-type]  # options of several types


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "wheels"


def test_a_wheel_alone_is_a_plugin_and_says_what_it_lacks(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "My_Demo",
        requires=["greet>=1", "absent; python_version < '3'"],
        metadata="Requires-Python: >=3.9",
    )
    found = payload(wheel, tmp_path)
    assert str(found.release) == "acme/my-demo 1.0"
    assert str(found.needs.python) == ">=3.9"
    assert found.python.vendored == ()
    assert len(found.notes) == 1
    assert "requires greet, not brought along" in found.notes[0]
    assert payload(make_wheel(tmp_path, "greet"), tmp_path / "deep").notes == ()


@pytest.fixture(autouse=True)
def deep(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()


def test_dependencies_come_along_recursively_by_marker_and_extra(
    tmp_path: Path, shelf: Path
) -> None:
    wheel = make_wheel(tmp_path, requires=["one[more]>=1", "never; python_version < '3'"])
    make_wheel(shelf, "one", requires=["Two.x; extra == 'more'", "three; extra == 'less'"])
    make_wheel(shelf, "two-x", "2.0", requires=["demo>=1", "one"])
    make_wheel(shelf, "three")
    found = payload(wheel, tmp_path, dependencies=shelf)
    assert found.python.vendored == ("one", "two-x")
    paths = {str(file.path) for file in found.files}
    assert {"demo/__init__.py", "one/__init__.py", "two-x/__init__.py"} <= paths
    assert {"one-1.0.dist-info/METADATA", "two_x-2.0.dist-info/RECORD"} <= paths
    assert "three/__init__.py" not in paths
    assert "one 1.0, two-x 2.0" in found.notes[0]


def test_the_best_wheel_fits_what_all_ask_and_this_interpreter(tmp_path: Path, shelf: Path) -> None:
    wheel = make_wheel(tmp_path, requires=["one", "two"])
    for version in ("1.0", "1.5", "2.0", "3.0a1"):
        make_wheel(shelf, "one", version)
    make_wheel(shelf, "one", "1.7", metadata="Requires-Python: <3")
    make_wheel(shelf, "one", "1.8", tag="cp27-cp27m-win32")
    make_wheel(shelf, "two", requires=["one<2"])
    found = payload(wheel, tmp_path, dependencies=shelf)
    assert "one-1.5.dist-info/METADATA" in {str(file.path) for file in found.files}


def test_of_one_version_the_most_specific_wheel_is_taken(tmp_path: Path, shelf: Path) -> None:
    tag = str(next(iter(sys_tags())))
    wheel = make_wheel(tmp_path, requires=["one"])
    make_wheel(shelf, "one")
    make_wheel(shelf, "one", files={"one/native.so": b"x"}, tag=tag)
    found = payload(wheel, tmp_path, dependencies=shelf)
    assert "one/native.so" in {str(file.path) for file in found.files}
    assert found.release.platform == tag


def test_what_the_host_provides_is_not_brought(tmp_path: Path, shelf: Path) -> None:
    wheel = make_wheel(tmp_path, requires=["one", "Plug.gy"])
    make_wheel(shelf, "one", requires=["plug-gy"])
    found = payload(wheel, tmp_path, dependencies=shelf, provided=["plug_gy"])
    assert found.python.vendored == ("one",)


def test_a_missing_wheel_is_one_error_naming_requirement_and_directory(
    tmp_path: Path, shelf: Path
) -> None:
    wheel = make_wheel(tmp_path, requires=["one>=2,<3"])
    make_wheel(shelf, "one")
    with pytest.raises(NotFoundError) as caught:
        payload(wheel, tmp_path, dependencies=shelf)
    assert f"no wheel in {shelf} satisfies one<3,>=2" in caught.value.message
    assert "(required by demo-1.0-py3-none-any.whl)" in caught.value.message
    assert "there is 1.0" in caught.value.message
    with pytest.raises(NotFoundError, match="there is no directory"):
        payload(wheel, tmp_path, dependencies=tmp_path / "none")


def test_a_dependency_that_asks_for_another_version_of_the_plugin_is_refused(
    tmp_path: Path, shelf: Path
) -> None:
    wheel = make_wheel(tmp_path, requires=["one"])
    make_wheel(shelf, "one", requires=["demo>=2"])
    with pytest.raises(InvalidInputError, match=r"requires demo>=2, but this is demo 1\.0"):
        payload(wheel, tmp_path, dependencies=shelf)


def test_the_same_file_in_two_wheels_must_be_the_same(tmp_path: Path, shelf: Path) -> None:
    wheel = make_wheel(tmp_path, requires=["one", "two"])
    make_wheel(shelf, "one", files={"shared/__init__.py": ""})
    make_wheel(shelf, "two", files={"shared/__init__.py": ""})
    assert payload(wheel, tmp_path, dependencies=shelf).python.vendored == ("one", "two")
    make_wheel(shelf, "two", files={"shared/__init__.py": "other"})
    with pytest.raises(InvalidInputError) as caught:
        payload(wheel, tmp_path / "deep", dependencies=shelf)
    assert "one-1.0-py3-none-any.whl and two-1.0-py3-none-any.whl both bring" in str(caught.value)
    assert "shared/__init__.py" in str(caught.value)


def test_needs_are_those_of_all_wheels(tmp_path: Path, shelf: Path) -> None:
    wheel = make_wheel(tmp_path, requires=["one"], metadata="Requires-Python: >=3.9")
    make_wheel(shelf, "one", metadata="Requires-Python: >=3.10")
    assert payload(wheel, tmp_path, dependencies=shelf).needs.python == ">=3.9,>=3.10"
