"""Whether the kernel killed for want of memory: its own counters, from before a server started to after its end.

The control group's counter (memory.events in version 2, memory.oom_control in version 1) counts its processes killed by
any out-of-memory killer of the kernel (Documentation/admin-guide/cgroup-v2.rst, memory.events: oom_kill). Where it
cannot be read, /proc/vmstat counts those of the whole machine. What user space kills (systemd-oomd, earlyoom, an
orchestrator) is in neither.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class MemoryVerdict:
    """Whether the kernel killed for want of memory (None: not known), and the sentence that says how that is known."""

    happened: bool | None
    words: str


NOT_LOOKED = MemoryVerdict(
    None,
    "Whether memory ran out is not in this log: `dmesg` (Out of memory: Killed process …) and memory.events of the "
    "server's control group say it.",
)


@dataclass(frozen=True)
class MemoryKills:
    """The counters as they were when this was made; `verdict` compares them with what they are now."""

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")
    before: dict[Path, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", self._read())

    def verdict(self) -> MemoryVerdict:
        now = self._read()
        machine = self.proc / "vmstat"
        for path, count in sorted(now.items(), key=lambda item: item[0] == machine):
            if path not in self.before:
                continue
            seen = f"oom_kill in {path}: {self.before[path]} before the start, {count} now"
            if count <= self.before[path]:
                return MemoryVerdict(
                    False,
                    f"By the kernel's count it was not for want of memory ({seen}): somebody, or a program that "
                    "watches over memory or time, sent the signal.",
                )
            if path != machine:
                return MemoryVerdict(True, f"The kernel killed it because memory ran out ({seen}).")
            return MemoryVerdict(
                None,
                f"The kernel killed some process of this machine for want of memory meanwhile ({seen}); `dmesg` says "
                "whether it was this one.",
            )
        return MemoryVerdict(
            None,
            "Whether memory ran out is not known: the kernel's counters cannot be read here. `dmesg`, or whoever runs "
            "this container, can say.",
        )

    def _read(self) -> dict[Path, int]:
        found = {}
        for path in (*self._of_group(), self.proc / "vmstat"):
            try:
                match = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
            except (OSError, ValueError):
                continue
            if match:
                found[path] = int(match[1])
        return found

    def _of_group(self) -> list[Path]:
        """The files of this process's control group that may hold its counter; in a container, those at the top."""
        try:
            lines = (self.proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        found = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                found += [self.cgroups / path.lstrip("/") / "memory.events"]
            elif "memory" in controllers.split(","):
                found += [self.cgroups / "memory" / path.lstrip("/") / "memory.oom_control"]
        return found
