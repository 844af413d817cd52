"""Names, versions, paths and the like: what cannot be right does not get in."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import Version

from plugin_manager import model
from plugin_manager.errors import InvalidInputError
from plugin_manager.model import (
    BundlePath,
    Digest,
    EntryPoint,
    Host,
    Platform,
    PluginName,
    PluginRequirement,
    Release,
    parse_specifier,
    parse_version,
    publisher_role,
    role_publisher,
    utc_text,
)
from tests.strategies import (
    bundle_paths,
    entry_points,
    plugin_names,
    releases,
    requirements,
    versions,
)

PARSERS = [
    PluginName.parse,
    parse_version,
    parse_specifier,
    Platform.parse,
    Digest.parse,
    BundlePath.parse,
    PluginRequirement.parse,
    lambda text: EntryPoint.parse(text, text, text),
]


@given(st.text() | st.text("0123456789.<>=!~@/*+-abc ", max_size=40))
@example("1" * 5000)  # more digits than int() converts
@example("==" + "1" * 5000)
@example("a" + " " * 9000 + "b")  # where a careless pattern takes the cube of the length
@example("\ud800")
@example("")
def test_any_text_is_parsed_or_refused_as_invalid_input(text):
    for parse in PARSERS:
        with contextlib.suppress(InvalidInputError):
            parse(text)


# --- names and versions ------------------------------------------------------------------------


@given(plugin_names)
def test_a_name_is_the_same_after_writing_and_reading(name):
    assert PluginName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "maps",
        "acme/",
        "/maps",
        "acme/maps/x",
        "Acme/maps",
        "acme/-maps",
        "acme/maps-",
        "acme/ma_ps",
        "acme/maps\n",
        " acme/maps",
        "acme/" + "a" * 65,
        "acme/mäps",
        "../maps",
        "con/maps",
        "acme/com1",
    ],
)
def test_what_is_not_a_plugin_name_is_refused_with_a_remedy(text):
    with pytest.raises(InvalidInputError) as caught:
        PluginName.parse(text)
    assert caught.value.remedy


def test_names_of_64_characters_on_each_side_are_accepted():
    assert PluginName.parse(f"{'a' * 64}/{'b' * 64}")


@given(versions())
def test_a_version_is_the_same_after_writing_and_reading(version):
    assert str(parse_version(str(version))) == str(version)


@pytest.mark.parametrize("text", ["1.0-1", "v1.0", "1.0.RC1", " 1.0", "1.0\n", "01.0", "1.0-post1"])
def test_a_version_in_another_spelling_is_refused_naming_the_right_one(text):
    with pytest.raises(InvalidInputError, match="normal form") as caught:
        parse_version(text)
    assert str(Version(text)) in caught.value.remedy


def test_a_version_too_long_for_a_file_name_is_refused():
    assert parse_version("1." + "1" * 62)
    with pytest.raises(InvalidInputError, match="longer than 64 characters"):
        parse_version("1." + "1" * 63)


@given(requirements)
def test_a_requirement_is_the_same_after_writing_and_reading(requirement):
    assert PluginRequirement.parse(str(requirement)) == requirement


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("acme/maps", "acme/maps"),
        ("acme/maps@2.1", "acme/maps==2.1"),
        (" acme/maps >=2, <3 ", "acme/maps<3,>=2"),
        ("acme/maps~=2.1", "acme/maps~=2.1"),
    ],
)
def test_requirements_may_be_written_in_the_usual_ways(text, normal):
    assert str(PluginRequirement.parse(text)) == normal


@pytest.mark.parametrize(
    "text", ["acme/maps@", "acme/maps>=", "acme/maps 2", "maps>=2", "acme/maps; x"]
)
def test_a_requirement_that_says_nothing_clear_is_refused(text):
    with pytest.raises(InvalidInputError):
        PluginRequirement.parse(text)


@given(releases)
def test_a_release_has_a_target_path_of_three_parts_that_is_safe_on_any_file_system(release):
    assert BundlePath.parse(release.target_path).parts[:2] == (
        release.plugin.publisher,
        release.plugin.name,
    )
    assert len(release.target_path.split("/")) == 3


def test_two_versions_that_are_equal_make_equal_releases():
    plugin = PluginName("acme", "maps")
    assert Release(plugin, Version("1.0")) == Release(plugin, Version("1.0.0"))


# --- platforms ---------------------------------------------------------------------------------


def test_a_host_ranks_platforms_by_its_tags_and_any_last():
    host = Host(Version("3.11"), ("cp311-cp311-manylinux_2_17_x86_64", "py3-none-any"), "cp311")
    assert host.rank("any") > 1  # after all that name a platform
    assert host.rank("cp310.cp311-cp311-win_amd64.manylinux_2_17_x86_64") == 0
    assert host.rank("py2.py3-none-any") == 1
    assert host.rank("cp311-cp311-win_amd64") is None


@pytest.mark.parametrize(
    "text",
    [
        "Any",
        "cp311",
        "cp311-cp311",
        "a-b-c-d",
        "cp311-cp311-../x",
        "a..b-c-d",
        "a-b-c\n",
        "",
        ".".join("a" * 80) + "-b-c",
        "-".join([".".join("abcdef")] * 3),
    ],  # sets so large that their product would be a burden
)
def test_what_is_not_a_platform_is_refused(text):
    with pytest.raises(InvalidInputError):
        Platform.parse(text)


# --- paths -------------------------------------------------------------------------------------

BAD_PATHS = {
    "": "empty",
    "/etc/passwd": "absolute",
    "a//b": "empty part",
    "a/": "empty part",
    ".": "part '.'",
    "..": "part '..'",
    "a/../b": "part '..'",
    "a/./b": "part '.'",
    "a/\u200d": "part",
    "a/..\u200d/b": "part",
    "a\\b": "the character",
    "c:x": "the character ':'",
    "a/b:stream": "the character ':'",
    "nul\0": "the character",
    "line\nbreak": "the character",
    "tab\t": "the character",
    "escape\x1b[2J": "the character",
    "next\x85line": "the character",
    "separator\u2028": "the character",
    "txt\u202eexe.py": "the character",
    "a*": "the character '*'",
    "a?b": "the character '?'",
    'a"b': "the character",
    "a<b": "the character",
    "a|b": "the character",
    "trailing.": "ending with a dot or a space",
    "trailing ": "ending with a dot or a space",
    "dir./x": "ending with a dot or a space",
    "dir /x": "ending with a dot or a space",
    "...": "ending with a dot or a space",
    "con": "names a device",
    "CON": "names a device",
    "a/nul.txt": "names a device",
    "aux.tar.gz": "names a device",
    "com1/x": "names a device",
    "Lpt9.log": "names a device",
    "com².x": "names a device",
    "conin$": "names a device",
    "con .txt": "names a device",
    "cafe\u0301": "normal form NFC",
    "\u212bngstrom": "normal form NFC",
    "half\ud800": "not valid Unicode",
    "x" * 256: "longer than 255 bytes",
    "é" * 128: "longer than 255 bytes",
    "/".join(["x" * 200] * 6): "longer than 1024 bytes",
}


@pytest.mark.parametrize(("text", "why"), BAD_PATHS.items())
def test_an_unsafe_path_is_refused_saying_why(text, why):
    with pytest.raises(InvalidInputError) as caught:
        BundlePath.parse(text)
    assert why in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a/b.py",
        ".hidden/x",
        "with space.txt",
        "a b/c d",
        "console.py",
        "nulls",
        "com10",
        "auxiliary/x",
        "café",
        "x" * 255,
        "é" * 127,
        "日本/語.txt",
        "__pycache__/x.cpython-311.pyc",
        "a+b=c,d@e",
        "~x",
        "a..b",
        "libopenblas-r0.so.3",
        "x.dist-info/RECORD",
        "#x",
        "it's",
        "100%",
        "my con",
        "xcon.nul",
    ],
)
def test_an_ordinary_path_is_accepted_as_it_is(text):
    assert BundlePath.parse(text) == text


_NEARLY_PLAIN = st.lists(
    st.sampled_from(
        ["a", "Z9", "con", "Aux", "com1", "nul", "x" * 250, ".", "/", " ", "-", "é", "$"]
    ),
    min_size=1,
    max_size=8,
).map("".join)


@given(_NEARLY_PLAIN)
def test_the_quick_way_for_plain_paths_accepts_exactly_what_the_rules_accept(text):
    try:
        BundlePath.parse(text)
    except InvalidInputError:
        accepted = False
    else:
        accepted = True
    assert accepted == (model._path_fault(text) == "")


def test_control_the_quick_pattern_alone_would_let_device_names_pass():
    passed = [text for text in BAD_PATHS if model._PLAIN_PATH.fullmatch(text)]
    assert {"con", "a/nul.txt", "com1/x"} <= set(passed)
    assert all("device" in BAD_PATHS[text] or "longer" in BAD_PATHS[text] for text in passed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README", "readme"),
        ("straße", "STRASSE"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("É", "é"),
        ("\u1fb3", "\u0391\u0399"),  # alpha with iota below: folds only after decomposition
        ("\u017f", "S"),  # the long s
        ("ab", "a\u200db"),  # a joiner, which HFS+ and ext4's casefold ignore
        ("a\ufe0f.png", "A.png"),
    ],
)
def test_names_that_some_file_system_takes_for_one_fold_alike(one, other):
    assert BundlePath.parse(one).folded() == BundlePath.parse(other).folded()


@given(bundle_paths)
def test_folding_twice_changes_nothing_more(path):
    assert BundlePath(path.folded()).folded() == path.folded()


# --- entry points, digests, times --------------------------------------------------------------


@given(entry_points)
def test_an_entry_point_is_the_same_after_writing_and_reading(entry):
    assert EntryPoint.parse(entry.group, entry.name, entry.value) == entry
    assert entry.value == f"{entry.module}:{entry.attribute}".rstrip(":")


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("mod", "mod"),
        (" mod : attr.x ", "mod:attr.x"),
        ("pkg.mod:attr [extra]", "pkg.mod:attr"),
        ("mod[extra1,extra2]", "mod"),
    ],
)
def test_entry_points_may_be_written_as_wheels_write_them(value, normal):
    assert EntryPoint.parse("group", "name", value).value == normal


@pytest.mark.parametrize(
    "value", ["", ":x", "a:", "a b", "a:b:c", "a-b", "1a", "a.", "a[", "a[x]b"]
)
def test_what_is_not_an_entry_point_is_refused(value):
    with pytest.raises(InvalidInputError, match="has the value"):
        EntryPoint.parse("group", "name", value)


@pytest.mark.parametrize(
    "label", ["", " x", "x ", "a=b", "[x]", "a\nb = evil:run", "#x", ";x", "a\x1b"]
)
def test_labels_that_would_break_a_line_of_entry_points_txt_are_refused(label):
    for group, name in ((label, "name"), ("group", label)):
        with pytest.raises(InvalidInputError, match="cannot be the group or name"):
            EntryPoint.parse(group, name, "module")


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", "\u0660" * 64])
def test_what_is_not_a_digest_is_refused(text):
    with pytest.raises(InvalidInputError):
        Digest.parse(text)


@given(plugin_names)
def test_a_publishers_role_names_the_publisher(name):
    assert role_publisher(publisher_role(name.publisher)) == name.publisher


@pytest.mark.parametrize(
    "role", ["", "acme", "targets", "publisher-", "publisher-*", "publisher-A", "Publisher-acme"]
)
def test_other_roles_are_no_publishers(role):
    assert role_publisher(role) is None


def test_moments_are_written_in_utc_whatever_their_zone_and_century():
    assert utc_text(datetime(2026, 11, 20, 12, 0, 0, 5, tzinfo=UTC)) == "2026-11-20T12:00:00Z"
    east = timezone(timedelta(hours=2))
    assert utc_text(datetime(2026, 11, 20, 12, tzinfo=east)) == "2026-11-20T10:00:00Z"
    assert utc_text(datetime(7, 1, 1, tzinfo=UTC)) == "0007-01-01T00:00:00Z"
