"""Hypothesis strategies for the core's values."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import evolve
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from plugin_manager.catalogue import Catalogue, CatalogueEntry
from plugin_manager.errors import InvalidInputError
from plugin_manager.manifest import About, Manifest, PythonLayout, path_collisions
from plugin_manager.model import (
    BundlePath,
    EntryPoint,
    HostNeeds,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    Withdrawal,
    WithdrawalKind,
    parse_version,
)
from tests.bundles import make_bundle

__all__ = [
    "bundle_paths",
    "catalogues",
    "entry_points",
    "manifests",
    "plain_documents",
    "plugin_names",
    "releases",
    "requirements",
    "specifiers",
    "versions",
]


def _is_plugin_name(text: str) -> bool:
    try:
        PluginName.parse(text)
    except InvalidInputError:
        return False
    return True


plugin_names = (
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?/[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?")
    .map(str.strip)
    .filter(_is_plugin_name)
    .map(PluginName.parse)
)

_numbers = st.integers(0, 10**6)


@st.composite
def versions(draw: st.DrawFn) -> Version:
    """Versions of every shape that PEP 440 has, in normal form."""
    text = ".".join(str(number) for number in draw(st.lists(_numbers, min_size=1, max_size=4)))
    if draw(st.booleans()):
        text = f"{draw(st.integers(1, 9))}!{text}"
    for part in ("a{}", ".post{}", ".dev{}", "+local.{}"):
        if draw(st.booleans()):
            text += part.format(draw(_numbers))
    return parse_version(text)


specifiers = st.lists(
    st.builds(
        lambda operator, version: f"{operator}{version.public}",
        st.sampled_from([">=", "<", "==", "!=", "<=", ">"]),
        versions(),
    ),
    max_size=3,
).map(lambda parts: SpecifierSet(",".join(parts)))

platforms = st.sampled_from(
    ["any", "cp311-cp311-manylinux_2_17_x86_64", "cp39.cp310-abi3-macosx_11_0_arm64.win_amd64"]
).map(Platform.parse)

releases = st.builds(Release, plugin_names, versions(), platforms)
requirements = st.builds(PluginRequirement, plugin_names, specifiers)
needs = st.builds(
    HostNeeds, specifiers, specifiers, st.integers(0, 2**63 - 1), st.integers(0, 2**40)
)

_words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
_dotted = st.lists(_words, min_size=1, max_size=3).map(".".join)
entry_points = st.builds(
    lambda group, name, module, attribute: EntryPoint.parse(
        group, name, f"{module}:{attribute}" if attribute else module
    ),
    _dotted,
    st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True),
    _dotted,
    st.none() | _dotted,
)


def _bundle_path(text: str) -> BundlePath | None:
    try:
        return BundlePath.parse(text)
    except InvalidInputError:
        return None


_part = st.from_regex(r"[A-Za-z0-9_. -]{1,12}", fullmatch=True) | st.text(min_size=1, max_size=8)
bundle_paths = (
    st.lists(_part, min_size=1, max_size=4)
    .map("/".join)
    .map(_bundle_path)
    .filter(lambda path: path is not None)
)

texts = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests of files of no, one or several chunks."""
    found = draw(st.lists(bundle_paths, max_size=6, unique=True))
    colliding = {found[index] for index, _ in path_collisions(found)}
    paths = [path for path in found if path not in colliding]
    chosen = st.sampled_from(paths) if paths else st.nothing()
    sizes = st.sampled_from([0, 1, 700])
    bundle = make_bundle(
        "acme/maps 1.0",
        {path: draw(st.binary(max_size=20)) * draw(sizes) for path in paths},
        executable=frozenset(draw(st.sets(chosen))),
        tags=draw(st.dictionaries(chosen, st.sampled_from(["cp311", "cp312"]))),
    )
    entries = draw(st.lists(entry_points, max_size=3, unique_by=lambda e: (e.group, e.name)))
    return evolve(
        bundle.head.manifest,
        release=draw(releases),
        about=draw(st.builds(About, texts, texts, texts, texts)),
        requirements=tuple(draw(st.lists(requirements, max_size=2))),
        needs=draw(needs),
        entry_points=tuple(entries),
        python=PythonLayout(draw(bundle_paths | st.just("")), tuple(draw(st.lists(_words)))),
    )


_moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001 - made aware next
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """Catalogues in which each release is listed once."""
    plugin = draw(plugin_names)
    entries = draw(
        st.lists(
            st.builds(
                CatalogueEntry,
                release=st.builds(Release, st.just(plugin), versions(), platforms),
                length=st.integers(1, 2**63 - 1),
                content_length=st.integers(0, 2**63 - 1),
                published=_moments,
                requirements=st.lists(requirements, max_size=2).map(tuple),
                needs=needs,
                withdrawal=st.none()
                | st.builds(Withdrawal, st.sampled_from(WithdrawalKind), texts),
            ),
            max_size=5,
            unique_by=lambda entry: entry.release,
        )
    )
    return Catalogue(plugin, draw(texts), tuple(sorted(entries, key=lambda entry: entry.release)))


_leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts
plain_documents = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
"""Whatever JSON can say (and msgpack, apart from bytes)."""
