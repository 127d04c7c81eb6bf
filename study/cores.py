"""How many threads compute: OMP_NUM_THREADS, or one a physical core that this process may use."""

import os
from functools import cache
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@cache
def cores() -> int:
    """Physical cores, no more than the process is allowed to run on; at least one.

    ``OMP_NUM_THREADS`` wins, as in torch: whoever sets it shares the machine with others.
    """
    import psutil  # type: ignore[import-untyped]  # it ships no types

    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, min(psutil.cpu_count(logical=False) or allowed(), allowed()))


def allowed() -> int:
    """Processors that this process may use at once: by its affinity and by the quota of its container."""
    by_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(CGROUP)
    return by_affinity if quota is None else max(1, min(by_affinity, int(quota)))


def quota_of(group: Path) -> float | None:
    """Processors that a control group (version 2, or 1) grants; None where it sets no limit.

    A part of one counts for nothing: a thread more than the quota feeds is stopped in every period.
    """
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
            quota, period = ((group / name).read_text(encoding="utf-8").strip() for name in names)
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None
