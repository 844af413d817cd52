"""The operator's commands for what there is to have: search, info, outdated. Offline."""

from __future__ import annotations

import click

from plugin_manager._values import offer_json
from plugin_manager.cli._client import open_manager
from plugin_manager.cli._options import json_option, offered_argument
from plugin_manager.cli._output import Session, marked
from plugin_manager.manager import Offer, Offered
from plugin_manager.model import one_line, size_text

__all__ = ["COMMANDS"]

_MOST_RELEASES = 10

update_option = click.option("--update", is_flag=True, help="First bring fresh signed metadata.")


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@update_option
@json_option
def search(words: tuple[str, ...], update: bool, as_json: bool) -> None:
    """Search names, summaries and descriptions for every WORD (none: list all there is).

    Knows what the last 'pluginctl update' brought. An asterisk marks what is installed.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update()
        found = manager.search(" ".join(words))
    session.result([offer_json(offer) for offer in found])
    if found:
        session.table([_FOUND, *map(_found, found)], right={2})
    else:
        session.say("Nothing was found. 'pluginctl update' brings what there is to have.")


_FOUND = ("", "PLUGIN", "NEWEST", "SUMMARY")


def _found(offer: Offer) -> tuple[str, ...]:
    newest = offer.newest or offer.newest_any
    summary = offer.about.summary
    if offer.newest is None and offer.reasons:
        summary = f"{summary} ({one_line(offer.reasons[0])})".strip()
    return "*" if offer.active else "", str(offer.plugin), str(newest or "-"), summary


@click.command()
@offered_argument
@update_option
@json_option
def info(name: str, update: bool, as_json: bool) -> None:
    """Tell what is known of a plugin: what it is, its releases, which fits and why others do not.

    Knows what the last 'pluginctl update' brought.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update(name)
        offer = manager.info(name)
    session.result(lambda: offer_json(offer))
    about = offer.about
    session.say(f"{offer.plugin}  {about.summary}".rstrip(), style="bold")
    for word, text in (("license", about.license), ("homepage", about.homepage)):
        if text:
            session.say(f"{word:10}{text}")
    session.say(f"{'newest':10}{_newest(offer)}")
    if offer.active:
        marks = marked({"held": offer.active.held, "pinned": offer.active.pinned})
        active = offer.active.release.version
        session.say(f"{'installed':10}{active}{f' ({marks})' if marks else ''}")
        for verb, reason in (("blocked", offer.blocked), ("yanked", offer.yanked)):
            if reason:
                session.say(f"{'':10}{verb}: {reason}", style="red" if verb == "blocked" else "")
    for reason in offer.reasons:
        session.say(f"{'':10}{one_line(reason)}")
    if about.description:
        session.say()
        session.say(*(f"  {line}" for line in about.description.strip().splitlines()))
    if offer.releases:
        session.say()
        rows = [_release(one) for one in offer.releases[:_MOST_RELEASES]]
        session.table([("RELEASE", "PLATFORM", "SIZE", ""), *rows], right={2})
    older = offer.older + max(len(offer.releases) - _MOST_RELEASES, 0)
    if older:
        session.say(f"... and {older} older", style="faint")


def _newest(offer: Offer) -> str:
    if offer.newest is None:
        return f"{offer.newest_any or 'none'}, which does not fit" if offer.newest_any else "none"
    if offer.newest != offer.newest_any:
        return f"{offer.newest} ({offer.newest_any} does not fit)"
    return str(offer.newest)


def _release(one: Offered) -> tuple[str, ...]:
    reasons = list(one.reasons)
    if one.blocked or one.yanked:
        reasons.insert(0, f"{'blocked' if one.blocked else 'yanked'}: {one.blocked or one.yanked}")
    return str(one.version), str(one.platform), size_text(one.size_bytes), "; ".join(reasons)


@click.command()
@update_option
@json_option
def outdated(update: bool, as_json: bool) -> None:
    """List the installed plugins of which a newer release fits.

    Knows what the last 'pluginctl update', installation or upgrade brought.
    """
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        if update:
            manager.update()
        found = manager.outdated()
    session.result([offer_json(offer) for offer in found])
    if found:
        session.table([_OUTDATED, *map(_outdated, found)], right={1, 2})
    else:
        session.say("Nothing newer is known.")


_OUTDATED = ("PLUGIN", "INSTALLED", "NEWEST", "")


def _outdated(offer: Offer) -> tuple[str, ...]:
    assert offer.active
    marks = {
        "held": offer.active.held,
        f"blocked: {offer.blocked}": offer.blocked,
        f"yanked: {offer.yanked}": offer.yanked,
        f"{offer.newest_any} does not fit": offer.newest_any != offer.newest,
    }
    release = offer.active.release
    return str(release.plugin), str(release.version), str(offer.newest), marked(marks)


COMMANDS = [search, info, outdated]
