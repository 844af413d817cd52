"""What a manager is told: arguments before variables, and every mistake named with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import time, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_manager import settings
from plugin_manager.configuration import OPTIONS, from_environment
from plugin_manager.errors import InvalidInputError
from plugin_manager.settings import Limits, Settings, parse_repository

T = TypeVar("T")

VARIABLES = (
    "PLUGINCTL_STORE",
    "PLUGINCTL_REPOSITORY",
    "PLUGINCTL_ROOT",
    "PLUGINCTL_HOST_VERSION",
    "PLUGINCTL_GRACE_DAYS",
    "PLUGINCTL_LOCK_TIMEOUT",
    "PLUGINCTL_MAX_STORE",
    "PLUGINCTL_MIN_FREE",
    "PLUGINCTL_KEEP_PREVIOUS",
    "PLUGINCTL_KEEP_GENERATIONS",
    "PLUGINCTL_TRIAL_ATTEMPTS",
    "PLUGINCTL_SYSTEM_STORE",
    "PLUGINCTL_MIRRORS",
    "PLUGINCTL_TOKENS",
    "PLUGINCTL_MAX_RATE",
    "PLUGINCTL_METERED",
    "PLUGINCTL_QUIET_HOURS",
    "PLUGINCTL_JOBS",
    "PLUGINCTL_AGENT_UPDATE_HOURS",
    "PLUGINCTL_AGENT_UPGRADES",
    "PLUGINCTL_AGENT_COOLDOWN_DAYS",
    "PLUGINCTL_AGENT_SCRUB_DAYS",
    "PLUGINCTL_AGENT_SCRUB_RATE",
    "PLUGINCTL_AGENT_REPAIR",
    "PLUGINCTL_AGENT_COLLECT_HOURS",
    "PLUGINCTL_AGENT_IDLE_EXIT",
    "PLUGINCTL_AGENT_START",
    "PLUGINCTL_AGENT_DESKTOP",
    "PLUGINCTL_AGENT_WEBHOOK",
    "PLUGINCTL_AGENT_COMMAND",
    "PLUGINCTL_CA_BUNDLE",
    "PLUGINCTL_INSECURE_HTTP",
)

# Arbitrary text seldom looks like an address or a number; these come close.
near_text = st.one_of(
    st.text(),
    st.text(alphabet="htps:/.@?#[]%0129abc \t\x00~-").map("https://a".__add__),
    st.text(alphabet="~/\x00\ud800u.").map("~".__add__),
    st.floats().map(str),
    st.sampled_from(["1", "TRUE", "no", "1.0", "https://plugins.example.org"]),
)


def refusal(environment=None, **arguments) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        from_environment(environment or {}, **arguments)
    assert caught.value.remedy
    return caught.value


def given_or_refused(call: Callable[[], T]) -> T | None:
    """What `call` gives; None after an InvalidInputError, which must have a remedy."""
    remedy = None
    try:
        return call()
    except InvalidInputError as error:
        remedy = error.remedy
    assert remedy
    return None


def test_every_documented_variable_is_read_and_arguments_come_first(tmp_path):
    assert tuple(option.variable for option in OPTIONS) == VARIABLES
    assert all(option.description and option.default for option in OPTIONS)
    environment = {
        "PLUGINCTL_STORE": str(tmp_path),
        "PLUGINCTL_REPOSITORY": "https://plugins.example.org/a",
        "PLUGINCTL_ROOT": "root.json",
        "PLUGINCTL_HOST_VERSION": "2.1",
        "PLUGINCTL_GRACE_DAYS": "1.5",
        "PLUGINCTL_LOCK_TIMEOUT": "0",
        "PLUGINCTL_MAX_STORE": "20GB",
        "PLUGINCTL_MIN_FREE": "5%",
        "PLUGINCTL_KEEP_PREVIOUS": "2",
        "PLUGINCTL_KEEP_GENERATIONS": "9",
        "PLUGINCTL_TRIAL_ATTEMPTS": "0",
        "PLUGINCTL_SYSTEM_STORE": "/srv/plugins",
        "PLUGINCTL_CA_BUNDLE": "ca.pem",
        "PLUGINCTL_INSECURE_HTTP": "yes",
    }
    found = from_environment(environment)
    assert (found.store, found.root, found.ca_bundle) == (
        tmp_path, Path("root.json"), Path("ca.pem"),
    )  # fmt: skip
    assert found.repository == found.base_url() == "https://plugins.example.org/a/"
    assert str(found.host_version) == "2.1"
    assert found.grace == timedelta(days=1.5)
    assert found.lock_timeout_seconds == 0
    assert found.insecure_http is True
    assert found.limits == Limits(20_000_000_000, None, 5.0, 2, 9)
    assert found.trial_attempts == 0
    assert found.system_store == Path("/srv/plugins")
    other = from_environment(
        environment, store="~/there", repository="http://b", root=b"{}", host_version="3",
        lock_timeout_seconds=7, max_store_bytes=5, system_store="/other",
    )  # fmt: skip
    assert (other.store, other.repository) == (Path.home() / "there", "http://b/")
    assert (other.pinned_root(), str(other.host_version)) == (b"{}", "3")
    assert other.lock_timeout_seconds == 7
    assert (other.limits.max_store_bytes, other.system_store) == (5, Path("/other"))


def test_nothing_said_and_empty_variables_give_the_defaults():
    nothing = from_environment({})
    assert nothing == from_environment(dict.fromkeys(VARIABLES, ""))
    assert nothing.lock_timeout_seconds == -1, "wait for ever"
    assert nothing.grace == settings.DEFAULT_GRACE
    assert nothing.insecure_http is False
    for missing in (nothing.pinned_root, nothing.base_url):
        with pytest.raises(InvalidInputError) as caught:
            missing()
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "true", "True", "YES")),
        *((text, False) for text in ("0", "false", "FALSE", "no", "No")),
    ],
)
def test_switches_are_read_in_any_case(text, value):
    assert from_environment({"PLUGINCTL_INSECURE_HTTP": text}).insecure_http is value


@pytest.mark.parametrize("text", ["2", "on", "y", " 1", "ja"])
def test_a_switch_that_is_neither_yes_nor_no_is_named(text):
    assert "PLUGINCTL_INSECURE_HTTP" in refusal({"PLUGINCTL_INSECURE_HTTP": text}).message


@pytest.mark.parametrize("variable", ["PLUGINCTL_LOCK_TIMEOUT", "PLUGINCTL_GRACE_DAYS"])
@pytest.mark.parametrize("text", ["nan", "-1", "inf", "1e9", "soon", "36501"])
def test_numbers_out_of_bounds_are_named_with_the_bounds(variable, text):
    error = refusal({variable: text})
    assert error.message == f"{variable}: {text!r} is not a number from 0 to 36500"


@pytest.mark.parametrize("seconds", [float("nan"), -1, -0.5, float("inf"), 36_501])
def test_a_lock_timeout_given_as_argument_is_held_to_the_same_bounds(seconds):
    assert "from 0 to 36500" in refusal(lock_timeout_seconds=seconds).message
    assert from_environment({}, lock_timeout_seconds=36_500).lock_timeout_seconds == 36_500


def test_a_wrong_host_version_says_whose_it_is():
    assert refusal(host_version="one").message == "the host's version: 'one' is not a version"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plugins.example.org", "is not an address"),
        ("ftp://plugins.example.org/", "is not an address"),
        ("https://", "is not an address"),
        ("https://a:port/", "is not an address (Port"),
        ("https://[a/", "is not an address"),
        ("https://a/two words/", "holds a space or a control character"),
        (" https://a/", "holds a space or a control character"),
        ("https://a/\n", "holds a space or a control character"),
        ("https://a/\x00", "holds a space or a control character"),
        ("https://a/\u202eb", "holds a space or a control character"),
        ("https://a/?", "holds a query or a fragment"),
        ("https://a/?b=c", "holds a query or a fragment"),
        ("https://a/#b", "holds a query or a fragment"),
        ("https://@a/", "must not hold credentials"),
    ],
)
def test_what_is_no_address_of_a_repository_is_refused(text, said):
    assert said in refusal(repository=text).message
    assert said in refusal({"PLUGINCTL_REPOSITORY": text}).message


@pytest.mark.parametrize(
    "text",
    ["http://me:secret@a/", "http://me:secret@a:x/", "http://me:secret/@a/", "ftp://me:secret@a",
     "http://me:secret@a/ b", "http://me:secret@a/?b"],
)  # fmt: skip
def test_a_password_in_an_address_is_not_shown(text):
    error = refusal(repository=text)
    assert "secret" not in f"{error} {error.context}"


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "a\x00b", "~\x00", "a\ud800"])
def test_what_is_no_path_is_refused(text):
    assert "is not a path" in refusal(store=text).message
    assert "is not a path" in refusal(root=text).message
    assert "is not a path" in refusal({"PLUGINCTL_CA_BUNDLE": text}).message


def test_a_root_that_cannot_be_read_or_is_far_too_large_is_refused(tmp_path):
    large = tmp_path / "disk.img"
    with large.open("wb") as file:
        file.truncate(settings.MAX_ROOT_FILE_BYTES + 1)
    for path, said in ((tmp_path / "none", "No such file"), (large, "larger than")):
        with pytest.raises(InvalidInputError, match=said) as caught:
            Settings(tmp_path, root=path).pinned_root()
        assert str(path) in caught.value.message
        assert caught.value.remedy


@given(near_text)
def test_any_text_is_an_address_or_refused(text):
    address = given_or_refused(lambda: parse_repository(text))
    if address is None:
        return
    assert address.startswith(text)
    assert address.endswith("/")
    assert parse_repository(address) == address
    assert urlsplit(f"{address}metadata/1.root.json").path.endswith("/metadata/1.root.json")


@given(
    environment=st.dictionaries(st.sampled_from(VARIABLES), near_text),
    seconds=st.none() | st.floats(),
)
def test_any_environment_gives_settings_or_a_refusal(environment, seconds):
    found = given_or_refused(lambda: from_environment(environment, lock_timeout_seconds=seconds))
    if found is None:
        return
    assert found.store.is_absolute()
    assert found.lock_timeout_seconds == -1 or 0 <= found.lock_timeout_seconds <= 36_500


def test_control_the_strategy_reaches_both_ends():
    """Both outcomes of the properties above occur, or they would show nothing."""
    outcomes = set()

    @given(near_text)
    def reach(text):
        try:
            outcomes.add(parse_repository(text).startswith("http"))
        except InvalidInputError:
            outcomes.add(None)

    reach()
    assert outcomes == {True, None}


# --- network and queue -----------------------------------------------------------------------


def test_mirrors_are_addresses_too() -> None:
    text = "https://a.example.org/x  https://b.example.org/"
    found = from_environment({"PLUGINCTL_MIRRORS": text}).mirrors
    assert found == ("https://a.example.org/x/", "https://b.example.org/")
    assert "ftp" in refusal({"PLUGINCTL_MIRRORS": "ftp://a.example.org"}).message


@pytest.mark.parametrize(
    ("text", "rate"), [("", None), ("5MB", 5_000_000), ("5MB/s", 5_000_000), ("64KiB", 65536)]
)
def test_a_rate_is_an_amount_a_second(text: str, rate: int | None) -> None:
    assert from_environment({"PLUGINCTL_MAX_RATE": text}).max_bytes_per_second == rate


def test_a_rate_that_is_none_names_the_variable() -> None:
    assert "PLUGINCTL_MAX_RATE" in refusal({"PLUGINCTL_MAX_RATE": "fast"}).message


def test_the_queue_s_policy() -> None:
    queue = from_environment(
        {
            "PLUGINCTL_METERED": "Ask",
            "PLUGINCTL_JOBS": "7",
            "PLUGINCTL_QUIET_HOURS": "22:00-06:00, 12:00 - 13:30",
        }
    ).queue
    assert (queue.metered, queue.jobs_at_once) == ("ask", 7)
    assert [str(hours) for hours in queue.quiet_hours] == ["22:00-06:00", "12:00-13:30"]
    night, noon = queue.quiet_hours
    covered = [text for text in ("05:59", "06:00", "21:59", "22:00", "23:59", "00:00")
               if night.covers(time.fromisoformat(text))]  # fmt: skip
    assert covered == ["05:59", "22:00", "23:59", "00:00"]
    assert noon.covers(time(12))
    assert not noon.covers(time(13, 30))


@pytest.mark.parametrize(
    "environment",
    [
        {"PLUGINCTL_METERED": "never"},
        {"PLUGINCTL_JOBS": "0"},
        {"PLUGINCTL_QUIET_HOURS": "24:00-06:00"},
        {"PLUGINCTL_QUIET_HOURS": "06:00"},
        {"PLUGINCTL_QUIET_HOURS": "06:00-06:00"},
    ],
)
def test_a_policy_that_is_none_is_refused(environment: dict[str, str]) -> None:
    refusal(environment)


def test_tokens_are_read_from_a_file_of_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(
        "# servers\n\nhttps://A.example.org s3cret\nhttps://b.example.org:8443/ other\n"
    )
    path.chmod(0o600)
    found = from_environment({"PLUGINCTL_TOKENS": str(path)})
    assert found.tokens == {
        "https://a.example.org": "s3cret",
        "https://b.example.org:8443": "other",
    }
    assert "s3cret" not in repr(found)


def test_a_file_of_tokens_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("https://a.example.org s3cret\n")
    path.chmod(0o640)
    assert "chmod 600" in refusal({"PLUGINCTL_TOKENS": str(path)}).remedy


@pytest.mark.parametrize(
    "line",
    ["https://a.example.org", "a s3cret", "https://a.example.org/x s3cret",
     "https://u@a.example.org s3cret", "s3cret https://a.example.org",
     "https://a.example.org s3cret\nhttps://a.example.org/ s3cret2",
     "https://a.example.org s3cr\xe9t"],
)  # fmt: skip
def test_a_line_that_is_no_token_is_refused_without_showing_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(line + "\n")
    path.chmod(0o600)
    assert "s3cr" not in str(refusal({"PLUGINCTL_TOKENS": str(path)}))


def test_a_rate_of_nothing_and_mirrors_that_are_none_name_where_they_were_given() -> None:
    assert "pause" in refusal({"PLUGINCTL_MAX_RATE": "0"}).remedy
    assert (
        "PLUGINCTL_MIRRORS: mirror 'nonsense'" in refusal({"PLUGINCTL_MIRRORS": "nonsense"}).message
    )
