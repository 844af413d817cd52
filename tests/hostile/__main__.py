"""Installs and upgrades from a server that answers each request in a way chosen at random.

Run: .venv/bin/python -m tests.hostile [--rounds 500] [--seed 1]
Each round has its own store (empty, or with the release before), its own share of bad answers, and
either virtual time and one connection or real time and several. It must end well or in an error
that says so, and then pass the judge of `stage`. A round is repeated by its seed: --seed SEED
--rounds 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from attrs import define, evolve, field

from plugin_manager.transfer import Policy
from tests.hostile.stage import PATIENCE, PLACES, Asked, Host, RealTime, Script, Stage, VirtualTime
from tests.hostile.ways import EDITIONS, RANGED, WAYS, Way, mutated, silent
from tests.transfer.server import Behaviour

HASTE = Policy(
    connections=6,
    read_timeout_seconds=0.5,
    rate_window_seconds=0.2,
    least_bytes_per_second=4096,
    pause_seconds=0.001,
    most_pause_seconds=0.01,
    most_retry_after_seconds=0.01,
)
# A conflict: the timestamp of before is signed and not yet expired, and knows no newer release.
VERDICTS = ("", "network", "untrusted", "expired", "conflict")


@define
class Tally:
    """What `rounds` brought about, and what the judge disliked, by the round's seed."""

    rounds: int = 0
    requests: int = 0
    ways: Counter[str] = field(factory=Counter)
    verdicts: Counter[str] = field(factory=Counter)
    faults: dict[int, list[str]] = field(factory=dict)


def choosing(chance: Random, tally: Tally, *, real: bool) -> Script:
    """A script that answers badly as often, and in such places, as chance wants."""
    rate = chance.choice([0.05, 0.2, 0.5, 1.0])
    places = chance.choice([PLACES, ("head", "body"), ("body",), (chance.choice(PLACES),)])

    def way_for(asked: Asked) -> tuple[str, Way]:
        ways = {**WAYS, **EDITIONS}
        if asked.place in {"head", "body"}:
            ways |= RANGED
        ways["mutated header"] = mutated(chance.randrange(2**32), header=True)
        ways["mutated body"] = mutated(chance.randrange(2**32), header=False)
        if real:
            ways["silent"] = silent
        name = chance.choice(sorted(ways))
        return name, ways[name]

    def script(asked: Asked) -> Behaviour | None:
        # A root that is not there is how the search for roots ends.
        known = asked.content is not None or asked.place == "root"
        if asked.place not in places or not known or chance.random() >= rate:
            return None
        name, way = way_for(asked)
        tally.ways[name] += 1
        return way(asked)

    return script


def run_round(stage: Stage, directory: Path, seed: int, tally: Tally) -> None:
    """One round; its faults go to `tally`."""
    chance = Random(seed)
    real = chance.random() < 0.3
    make = Host.installed if chance.random() < 0.6 else Host.empty
    host = make(stage, directory, HASTE if real else PATIENCE)
    script = choosing(chance, tally, real=real)
    attempt = host.attempt(script, time=RealTime() if real else VirtualTime())
    # What came right now and then was progress: each frame and file may cost as many failures.
    host.policy = evolve(host.policy, connections=1, read_timeout_seconds=30)
    faults = host.judge(attempt, *VERDICTS, calls=len(PLACES) + 3)
    tally.rounds += 1
    tally.requests += len(attempt.asked)
    tally.verdicts[attempt.verdict or "installed"] += 1
    if faults:
        tally.faults[seed] = faults


def battery(directory: Path, rounds: int, seed: int) -> Tally:
    """Rounds with the seeds from `seed` on."""
    tally, stage = Tally(), Stage(directory / "stage")
    for number in range(seed, seed + rounds):
        run_round(stage, directory / "host", number, tally)
    return tally


def main() -> int:
    """Run it as published; the exit code is 0 where the judge had nothing to say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as text:
        tally = battery(Path(text), arguments.rounds, arguments.seed)
    for seed, faults in tally.faults.items():
        print(f"seed {seed}:", *faults, sep="\n  ")
    print(
        f"hostile: {tally.rounds} rounds, {len(tally.faults)} with faults; {tally.requests} "
        f"requests, {tally.ways.total()} of them answered in {len(tally.ways)} bad ways; "
        f"{', '.join(f'{count} {verdict}' for verdict, count in sorted(tally.verdicts.items()))}; "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
