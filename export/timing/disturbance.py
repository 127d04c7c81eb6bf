"""What other processes took of the machine while something was measured."""

import time
from dataclasses import dataclass
from typing import Self

from study.record import Finding

BUSY = 0.2
"""The share of all cores from which on others disturb."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds so far: of the clock, of all cores busy with anything, and of those busy with us."""

    clock: float
    busy: float
    ours: float

    @classmethod
    def now(cls) -> Self:
        """This process and its children are us."""
        import psutil  # type: ignore[import-untyped]  # it ships no types

        times = psutil.cpu_times()
        me = psutil.Process()
        ours = 0.0
        for process in (me, *me.children(recursive=True)):
            used = process.cpu_times()
            ours += used.user + used.system
        idle = times.idle + getattr(times, "iowait", 0.0)
        return cls(time.monotonic(), sum(times) - idle, ours)


def disturbed(since: Usage, until: Usage, cores: int) -> tuple[Finding, ...]:
    """A finding when others kept the machine busy between the two."""
    available = cores * (until.clock - since.clock)
    others = (until.busy - since.busy) - (until.ours - since.ours)
    share = others / available if available > 0 else 0.0
    if share <= BUSY:
        return ()
    return (
        Finding(
            what=f"other processes kept {100 * share:.0f} % of this machine busy while latency was measured",
            cause="threads that wait for each other wait for those processes too",
            do="Rely on the verdicts, which know this noise, and measure times again on an idle machine.",
        ),
    )
