"""A far line for benchmarks: real TCP over IP packets that are delayed, queued and lost.

Linux's netem does this, but few kernels of containers and small machines have it. So two TUN
devices, one here and one in a network namespace of its own, and between them a process that hands
each packet over as a line would. Servers run here, clients inside (`Line.inside` is what to put
before a command). Needs root, /dev/net/tun, iproute2 and util-linux; no kernel module besides TUN.
The namespace and both devices live as long as that process, and it as long as whoever began it.

What is real: both ends' TCP with its handshakes, slow start, congestion control (of the server's
kernel: "cubic", "bbr"), retransmissions, receive windows and delayed acknowledgements; every packet
is of at most 1500 bytes, and none is merged or split on the way (no offloading).

What is modelled, each way by itself:
    queue   packets wait for the line, first come first served; one that finds more than
            `queue_bytes` waiting is dropped (drop tail)
    rate    a packet of n bytes (with its IP header, without any link's framing) takes
            8n / `bits_per_second`
    loss    after that it is lost with probability `loss`, each by itself
    delay   it arrives half of `round_trip_seconds` later, in order

Limits: real lines lose packets in bursts, jitter and carry others' traffic. Packets are handed over
every half millisecond, so a few at a time. The line takes CPU (a quarter of a core at 200 Mbit/s)
beside the clients, before whom it has precedence; what it could not do in time it tells: see
`Account`.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import asdict, define, frozen

__all__ = ["Account", "Line", "absent", "far"]

PROJECT = Path(__file__).resolve().parents[1]
_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_PACKET_BYTES = 1500
_TICK_SECONDS = 0.0005
_DEVICE_PACKETS = 20_000  # more than a window: only our own queue may drop
_LATE_SECONDS = 0.005


@frozen
class Line:
    """What lies between a client and a server, and where both are.

    `inside` is what to put before a client's command; `server` the address that it then reaches.
    """

    inside: tuple[str, ...]
    server: str
    client: str

    def forget(self) -> None:
        """Have the kernel forget what it learned of this line, as a server that never saw it."""
        # Fails where there is nothing to forget.
        subprocess.run(
            ["ip", "tcp_metrics", "delete", self.client], capture_output=True, check=False
        )


@define
class Account:
    """What a line did one way, in packets; `late` are those it handed over 5 ms too late or more.

    Where these are many, the machine was too busy for the line to be what it should be.
    """

    packets: int = 0
    lost: int = 0
    overflowed: int = 0
    late: int = 0


class _Way:
    """Packets on their way from one device to the other."""

    def __init__(
        self, source: int, target: int, rate: float, delay: float, loss: float, queue_bytes: int
    ) -> None:
        self.account = Account()
        self._source, self._target = source, target
        self._seconds_per_byte, self._delay = 8 / rate, delay
        self._most_wait = queue_bytes * self._seconds_per_byte
        self._draw, self._loss = random.Random(), loss
        self._free_at = 0.0  # when the line is done with what it has
        self._flying: deque[tuple[float, bytes]] = deque()

    def accept(self) -> None:
        """Take all packets that the source has."""
        account, now = self.account, time.monotonic()
        while True:
            try:
                packet = os.read(self._source, _PACKET_BYTES)
            except BlockingIOError:
                return
            account.packets += 1
            begin = max(self._free_at, now)
            if begin - now > self._most_wait:
                account.overflowed += 1
                continue
            self._free_at = begin + len(packet) * self._seconds_per_byte
            if self._draw.random() < self._loss:
                account.lost += 1
                continue
            self._flying.append((self._free_at + self._delay, packet))

    def release(self) -> bool:
        """Hand over what has arrived; whether more is on its way."""
        flying, now = self._flying, time.monotonic()
        while flying and flying[0][0] <= now:
            due, packet = flying.popleft()
            self.account.late += now - due > _LATE_SECONDS
            os.write(self._target, packet)
        return bool(flying)


def forward(
    near: int,
    far: int,
    bits_per_second: float,
    round_trip_seconds: float,
    loss: float,
    queue_bytes: int,
) -> None:
    """Carry packets between two TUN devices from a line on standard input to its end.

    Prints "ready" before, and both ways' accounts afterwards.
    """
    for descriptor in (near, far):
        os.set_blocking(descriptor, False)
    with suppress(OSError):  # a line does not wait for those who use it
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    rest = bits_per_second, round_trip_seconds / 2, loss, queue_bytes
    ways = {"down": _Way(near, far, *rest), "up": _Way(far, near, *rest)}
    print("ready", flush=True)
    control = sys.stdin.fileno()
    os.read(control, 1)
    told: list[int] = []
    while control not in told:
        for way in ways.values():
            way.accept()
        busy = [way.release() for way in ways.values()]
        if any(busy):
            told, _, _ = select.select([control], [], [], _TICK_SECONDS)
        else:
            told, _, _ = select.select([control, near, far], [], [])
    print(json.dumps({name: asdict(way.account) for name, way in ways.items()}), flush=True)


def absent() -> str:
    """What this machine lacks for a far line; empty where it has all."""
    if os.geteuid():
        return "a far line needs root"
    if not all(map(shutil.which, ("ip", "unshare", "nsenter"))) or not _TUN.exists():
        return "a far line needs ip (iproute2), unshare and nsenter (util-linux), and /dev/net/tun"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "a far line needs network namespaces" if made.returncode else ""


@contextmanager
def far(
    *,
    bits_per_second: float = 200e6,
    round_trip_seconds: float = 0.08,
    loss: float = 0.0,
    queue_bytes: int | None = None,
    congestion: str = "cubic",
    accounts: dict[str, Account] | None = None,
) -> Iterator[Line]:
    """A line while the context lasts; `queue_bytes` None: what is under way in one round trip.

    `congestion` is the server's control, one of net.ipv4.tcp_available_congestion_control;
    `accounts` is given "down" (to the client) and "up" at the end.
    """
    if lack := absent():
        raise SystemExit(lack)
    number, name = os.getpid() % 16384, f"line{os.getpid()}"
    # 198.18.0.0/15 is set aside for benchmarks (RFC 2544): four addresses for each process.
    base = f"198.{18 + number // 8192 % 2}.{number // 64 % 128}"
    server, client = (f"{base}.{number % 64 * 4 + last}" for last in (1, 2))
    queue = queue_bytes or int(bits_per_second * round_trip_seconds / 8)
    devices = [_tun(f"{name}n"), _tun(f"{name}f")]
    numbers = (*devices, bits_per_second, round_trip_seconds, loss, queue)
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", "benchmarks.line", *map(str, numbers)],
        cwd=PROJECT,
        pass_fds=devices,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the line did not start")
        inside = ("nsenter", f"--target={process.pid}", "--net")
        _run("ip", "link", "set", f"{name}f", "netns", str(process.pid))
        for prefix, device, address in (((), f"{name}n", server), (inside, f"{name}f", client)):
            length = str(_DEVICE_PACKETS)
            _run(*prefix, "ip", "address", "add", f"{address}/30", "dev", device)
            up = ("up", "mtu", str(_PACKET_BYTES), "txqueuelen", length)
            _run(*prefix, "ip", "link", "set", device, *up)
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run("ip", "route", "replace", client, "dev", f"{name}n", "congctl", congestion)
        process.stdin.write("\n")
        process.stdin.flush()
        yield Line(inside, server, client)
    finally:
        told = process.communicate()[0]
        for descriptor in devices:
            os.close(descriptor)
    if accounts is not None:
        accounts.update({way: Account(**one) for way, one in json.loads(told).items()})


def _tun(name: str) -> int:
    """A new TUN device, which lives as long as this descriptor is open."""
    descriptor = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


if __name__ == "__main__":
    near, far_, bits, seconds, loss_, queue = sys.argv[1:]
    forward(int(near), int(far_), float(bits), float(seconds), float(loss_), int(queue))
