"""What an agent is told by the environment."""

from __future__ import annotations

import pytest

from plugin_manager.configuration import from_environment
from plugin_manager.errors import InvalidInputError
from plugin_manager.settings import AgentPolicy


def policy(**variables: str) -> AgentPolicy:
    environment = {f"PLUGINCTL_AGENT_{name}": value for name, value in variables.items()}
    return from_environment(environment).agent


def test_nothing_said_gives_the_defaults() -> None:
    assert policy() == AgentPolicy()


def test_every_variable_is_read() -> None:
    assert policy(
        UPDATE_HOURS="0.5",
        UPGRADES="Install",
        COOLDOWN_DAYS="7",
        SCRUB_DAYS="0",
        SCRUB_RATE="5MB/s",
        REPAIR="no",
        COLLECT_HOURS="0",
        IDLE_EXIT="0",
        START="yes",
        DESKTOP="no",
        WEBHOOK="https://hooks.example.org/T0KEN",
        COMMAND="/usr/bin/tell --to 'the team'",
    ) == AgentPolicy(
        update_hours=0.5,
        upgrades="install",
        cooldown_days=7,
        scrub_days=0,
        scrub_bytes_per_second=5_000_000,
        repair=False,
        collect_hours=0,
        idle_exit_seconds=0,
        start=True,
        desktop=False,
        webhook="https://hooks.example.org/T0KEN",
        command=("/usr/bin/tell", "--to", "the team"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPDATE_HOURS", "often"),
        ("UPGRADES", "always"),
        ("COOLDOWN_DAYS", "-1"),
        ("SCRUB_RATE", "0"),
        ("REPAIR", "perhaps"),
        ("IDLE_EXIT", "nan"),
        ("COMMAND", "tell 'the team"),
        ("WEBHOOK", "http://hooks.example.org/"),
        ("WEBHOOK", "https://me:secret@hooks.example.org/"),
        ("WEBHOOK", "https://"),
        ("WEBHOOK", "https://hooks.example.org/a b"),
        ("WEBHOOK", "https://hooks.example.org:x/"),
        ("WEBHOOK", "file:///etc/passwd"),
    ],
)
def test_mistakes_are_named_with_a_remedy_and_without_secrets(name: str, value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        policy(**{name: value})
    assert f"PLUGINCTL_AGENT_{name}" in caught.value.message
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_a_webhook_may_be_http_on_this_machine_or_where_http_is_allowed() -> None:
    assert policy(WEBHOOK="http://127.0.0.1:8080/x").webhook
    environment = {
        "PLUGINCTL_AGENT_WEBHOOK": "http://hooks.example.org/",
        "PLUGINCTL_INSECURE_HTTP": "1",
    }
    assert from_environment(environment).agent.webhook


def test_where_it_posts_to_is_not_shown() -> None:
    shown = repr(policy(WEBHOOK="https://hooks.example.org/T0KEN", COMMAND="tell S3CRET"))
    assert "T0KEN" not in shown
    assert "S3CRET" not in shown
