"""The helper that takes real wheels: it shares, never shows half, and skips only for cause."""

import sys
import zipfile
from pathlib import Path

import pytest

from tests.wheels import wheels


@pytest.fixture
def offline_index(tmp_path, monkeypatch) -> Path:
    """A directory with one tiny wheel, the only place pip may look at."""
    links = tmp_path / "links"
    links.mkdir()
    with zipfile.ZipFile(links / "tiny-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr(
            "tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
        )
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return links


@pytest.fixture
def unreachable_index(monkeypatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nothing listens on port 1
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)


def test_wheels_are_downloaded_once_and_then_shared(tmp_path, offline_index):
    first = wheels("tiny", cache=tmp_path / "cache")
    assert [path.name for path in first.iterdir()] == ["tiny-1.0-py3-none-any.whl"]
    (offline_index / "tiny-1.0-py3-none-any.whl").unlink()
    assert wheels("tiny", cache=tmp_path / "cache") == first


def test_other_requirements_and_other_order_have_their_own_and_the_same_directory(
    tmp_path, offline_index
):
    cache = tmp_path / "cache"
    assert wheels("tiny", cache=cache) != wheels("tiny==1.0", cache=cache)
    assert wheels("tiny", "tiny==1.0", cache=cache) == wheels("tiny==1.0", "tiny", cache=cache)


def test_a_package_that_the_index_lacks_fails_and_leaves_no_directory(tmp_path, offline_index):
    with pytest.raises(pytest.fail.Exception, match="absent-package"):
        wheels("absent-package", cache=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


def test_an_unreachable_index_skips_outside_ci_only(tmp_path, unreachable_index, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no package index can be reached"):
        wheels("tiny", cache=tmp_path)
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="tiny"):
        wheels("tiny", cache=tmp_path)


@pytest.mark.network
def test_a_real_package_comes_with_what_it_depends_on(tmp_path):
    names = {path.name.split("-")[0].lower() for path in wheels("jinja2").iterdir()}
    assert names == {"jinja2", "markupsafe"}, sys.version
