"""The operator's commands for jobs: what is being fetched, stopping it, going on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from plugin_manager._values import job_json
from plugin_manager.cli import _output
from plugin_manager.cli._change import change
from plugin_manager.cli._opening import open_manager
from plugin_manager.cli._options import json_option, known_jobs
from plugin_manager.cli._output import Session
from plugin_manager.errors import RefusedError
from plugin_manager.manager import Job, JobState, Plan, PluginManager, Progress
from plugin_manager.model import size_text, utc_text

__all__ = ["COMMANDS"]

jobs_argument = click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=known_jobs)


@click.command("jobs")
@json_option
def list_(as_json: bool) -> None:
    """List jobs: what is being fetched or waits for it, and what became of it."""
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        found, paused = manager.jobs.all(), manager.jobs.paused
    session.result({"paused": paused, "jobs": [job_json(job) for job in found]})
    if paused:
        session.say("All jobs are paused; 'pluginctl resume' lifts it.")
    if found:
        session.table([_HEADS, *map(_row, found)], right={2, 3})
    else:
        session.say("There are no jobs.")


_HEADS = ("JOB", "STATE", "PRIORITY", "DONE", "WHAT", "WHY")


def _row(job: Job) -> tuple[str, ...]:
    progress = job.progress
    done = f"{progress.percent}% of {size_text(progress.total_bytes)}" if progress else "-"
    return job.id[:8], job.state.value, str(job.priority), done, str(job), job.why


@click.command()
@jobs_argument
@json_option
def pause(jobs: tuple[str, ...], as_json: bool) -> None:
    """Stop jobs until they are resumed; where none is named all, also those to come."""
    _tell(jobs, "paused", as_json, lambda manager, job: manager.jobs.pause(job))


@click.command()
@jobs_argument
@click.option("--remove", is_flag=True, help="Remove what has arrived, rather than keep it.")
@click.option("--all", "every", is_flag=True, help="Cancel all that are not over.")
@json_option
def cancel(jobs: tuple[str, ...], remove: bool, every: bool, as_json: bool) -> None:
    """End jobs; what has arrived is kept for another time, unless it shall be removed."""
    if bool(jobs) == every:
        raise click.UsageError("Give either JOBs or --all.")
    _tell(
        jobs, "cancelled", as_json, lambda manager, job: manager.jobs.cancel(job, keep=not remove)
    )


def _tell(
    jobs: tuple[str, ...],
    verb: str,
    as_json: bool,
    act: Callable[[PluginManager, str | None], None],
) -> None:
    session = Session(as_json=as_json)
    with open_manager(session) as manager:
        found = [manager.jobs.get(job) for job in jobs]  # all of them, before any is touched
        for job in found:
            act(manager, job.id)
        if not found:
            act(manager, None)
        after = [manager.jobs.get(job.id) for job in found]
    session.result({"jobs": [job_json(job) for job in after], "all": not found})
    session.tell(*[f"{verb} {job}" for job in found] or [f"{verb} all jobs"])


@click.command()
@click.argument("job", required=False, metavar="[JOB]", shell_complete=known_jobs)
@json_option
def resume(job: str | None, as_json: bool) -> None:
    """Go on with a job, here and now; or, where none is named, lift the pause of all.

    Fetches what is not on this disk already. A job that failed or was cancelled begins anew.
    """
    if job is None:
        session = Session(as_json=as_json)
        with open_manager(session) as manager:
            manager.jobs.resume()
        session.result({"paused": False})
        session.tell("jobs may run again")
        return

    def carry_out(manager: PluginManager) -> Plan:
        known = manager.jobs.get(job)
        if known.state is JobState.RUNNING:
            raise RefusedError(
                f"{known} is running already", remedy="'pluginctl watch' shows how far it is."
            )
        acts = {"install": manager.install, "fetch": manager.fetch}
        return acts.get(known.action, manager.upgrade)(*known.requests)

    change(as_json, dry_run=False, plan_only=carry_out, carry_out=carry_out)


@click.command()
@jobs_argument
@json_option
def watch(jobs: tuple[str, ...], as_json: bool) -> None:
    """Show how jobs go on (all, where none is named), until they are over or paused."""
    from plugin_manager.cli._progress import Reporter  # noqa: PLC0415 - who only looks has none

    session = Session(as_json=as_json)
    reporter = Reporter(quiet=session.as_json or session.quiet)
    with open_manager(session) as manager:
        known = [manager.jobs.get(job) for job in jobs] or manager.jobs.active()
        wanted = dict.fromkeys(job.id for job in known)  # in order, each once
        last: dict[str, Job] = {}
        for job in manager.jobs.watch(*wanted):
            before = last.get(job.id)
            last[job.id] = job
            if before is None or (before.state, before.why) != (job.state, job.why):
                reporter.clear()
                session.say(_line(job))
            if progress := _together(last.values()):
                reporter(progress)
            still = {one.id for one in last.values() if one.state in _STILL or one.state.final}
            if wanted.keys() <= still:
                break  # nothing will happen until somebody resumes them
    session.result({"jobs": [job_json(job) for job in last.values()]})
    if not last:
        session.say("No job is active.")
    error = next((job.error for job in last.values() if job.error), None)
    if error:
        click.get_current_context().exit(_output.exit_code(error))


def _together(jobs: Iterable[Job]) -> Progress | None:
    """How far those of `jobs` are that are running, all of them together; None where none tells."""
    each = [job.progress for job in jobs if job.state is JobState.RUNNING and job.progress]
    transfers = tuple(one for progress in each for one in progress.transfers)
    if not transfers:
        return None
    return Progress(
        None,
        sum(one.transferred_bytes for one in each),
        sum(one.total_bytes for one in each),
        sum(one.reused_bytes for one in each),
        sum(one.bytes_per_second for one in each),
        all(one.done for one in each),
        transfers,
    )


_STILL = {JobState.PAUSED}


def _line(job: Job) -> str:
    parts = [f"{job}: {job.state.value}"]
    progress = job.progress
    if progress and not job.state.final:
        parts.append(f"{progress.percent}% of {size_text(progress.total_bytes)}")
        parts.append(f"{size_text(progress.bytes_per_second)}/s")
    if job.state is JobState.PAUSED:
        parts.append(f"'pluginctl resume {job.id[:8]}' goes on with it")
    elif job.why:
        parts.append(job.why)
    if job.retry_at:
        parts.append(f"again at {utc_text(job.retry_at)}")
    return ", ".join(parts)


COMMANDS = [list_, pause, resume, cancel, watch]
