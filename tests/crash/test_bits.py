"""A slice of the battery; `python -m tests.crash bits` flips every bit."""

from __future__ import annotations

from tests.crash.bits import battery, flips, tears


def test_no_damaged_byte_is_ever_loaded_and_a_repair_heals() -> None:
    tally, missed = battery(every=499, repair_every=60)
    assert not tally.losses
    assert tally.repairs > 20
    assert not missed, "controls: a store that believes its disk went unnoticed"


def test_every_bit_is_flipped_once() -> None:
    changed = [int.from_bytes(data, "little") ^ int.from_bytes(b"ab", "little")
               for _, data in flips(b"ab", 1)]  # fmt: skip
    assert changed == [1 << bit for bit in range(16)]


def test_tears_zero_replace_cut_off_and_extend() -> None:
    made = dict(tears(b"x" * 600, {"other": b"y" * 700}))
    assert made["cut off at 512"] == b"x" * 512
    assert made["block 512-600 zeroed"] == b"x" * 512 + bytes(88)
    assert made["block 0-512 of other"] == b"y" * 512 + b"x" * 88
    assert made["all of other"] == b"y" * 700
    assert made["1 zeros appended"] == b"x" * 600 + b"\0"
