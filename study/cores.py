"""How many threads compute: OMP_NUM_THREADS, or one a physical core that this process may use."""

import os
from functools import cache


@cache
def cores() -> int:
    """Physical cores, no more than the process is allowed to run on; at least one.

    ``OMP_NUM_THREADS`` wins, as in torch: whoever sets it shares the machine with others.
    """
    import psutil  # type: ignore[import-untyped]  # it ships no types

    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
