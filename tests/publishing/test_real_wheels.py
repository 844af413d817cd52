"""Wheels as the world has them become bundles."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from plugin_manager.publishing._wheel import read_wheel
from tests.publishing.helpers import bundle_file, contents, head_of, make_repository
from tests.wheels import wheels

pytestmark = pytest.mark.network


def only(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


def test_datasette_comes_with_all_it_depends_on(tmp_path: Path) -> None:
    shelf = wheels("datasette", "datasette-cluster-map")
    repository = make_repository(tmp_path / "repository")
    published = repository.publish(
        only(shelf, "datasette_cluster_map-*.whl"),
        publisher="acme",
        with_dependencies=shelf,
        provided=["pip", "setuptools"],
    )
    manifest = head_of(repository, published).manifest
    assert {"datasette", "jinja2", "pluggy", "markupsafe"} <= set(manifest.python.vendored)
    assert [(entry.group, entry.value) for entry in manifest.entry_points] == [
        ("datasette", "datasette_cluster_map")
    ]
    found = contents(repository, published)
    for name in manifest.python.vendored:
        (wheel,) = [w for w in shelf.glob("*.whl") if read_wheel(w).name == name]
        record = read_wheel(wheel).record
        missing = {path for path in record if path not in found}
        assert not {path for path in missing if ".data/" not in path and "/bin/" not in path}
    assert published.release.platform != "any"  # markupsafe is native


def test_a_native_wheel_keeps_its_platform_and_extracts_with_tar(tmp_path: Path) -> None:
    shelf = wheels("cryptography")
    repository = make_repository(tmp_path / "repository")
    wheel = only(shelf, "cryptography-*.whl")
    published = repository.publish(wheel, publisher="acme")
    assert published.release.platform in wheel.name.replace("manylinux2014", "manylinux_2_17")
    assert published.length < wheel.stat().st_size * 1.1
    if not (shutil.which("tar") and shutil.which("zstd")):
        pytest.skip("tar and zstd are not installed")
    out = tmp_path / "out"
    out.mkdir()
    archive = bundle_file(repository, published)
    subprocess.run(["tar", "--zstd", "-xf", os.fspath(archive), "-C", out], check=True)
    found = contents(repository, published)
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == set(found)
    native = next(path for path in found if path.endswith(".so"))
    assert (out / native).read_bytes() == found[native]
