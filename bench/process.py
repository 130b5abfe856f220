"""What a process uses, as Linux tells it, and which cores it may run on."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. ``note`` tells what is wrong with it, if anything is.

    ``separate``: no two processes share a core, so each may keep its own awake.
    """

    upstream: frozenset[int]
    contender: frozenset[int]
    load: frozenset[int]
    note: str | None = None

    @property
    def separate(self) -> bool:
        return self.note is None

    def __str__(self) -> str:
        def named(cores: frozenset[int]) -> str:
            return ",".join(map(str, sorted(cores)))

        return (
            f"upstream on core {named(self.upstream)}, contender on {named(self.contender)}, "
            f"load on {named(self.load)}"
        )


def share_out(cores: frozenset[int]) -> Cores:
    """A core for the upstream, one for the contender, the rest for the load."""
    first, *rest = sorted(cores)
    if not rest:
        one = frozenset({first})
        return Cores(one, one, one, "One core for everything: times mean little, CPU still does.")
    contender, *others = rest
    if not others:
        shared = frozenset({first})
        note = "Two cores: upstream and load share one, so times mean less than they could."
        return Cores(shared, frozenset({contender}), shared, note)
    return Cores(frozenset({first}), frozenset({contender}), frozenset(others))


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads, in user and in system mode, to the nanosecond."""
    # What clock_getcpuclockid(3) returns on Linux. /proc/PID/stat counts in steps of 10 ms.
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that was resident since ``forget_peak``."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise LookupError(name)
