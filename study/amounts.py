"""Amounts as people type them: ``5ms``, ``2MB``, ``1%``."""

import math
import re

AMOUNT = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*([a-zA-Zµ%]*)\s*")
MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
SHARES = {"": 1.0, "%": 0.01}


def milliseconds(text: str) -> float | None:
    """``5ms``, ``0.2s`` and ``300us`` in milliseconds; None where it is no time above zero."""
    return _positive(_read(text, MILLISECONDS))


def size(text: str) -> float | None:
    """``5MB`` and ``300kB`` in bytes, ``kB`` being a thousand and ``KiB`` 1,024; None where it is no size."""
    return _positive(_read(text, BYTES))


def share(text: str) -> float | None:
    """``5%`` and ``0.05`` as a share from 0 to 1; None where it is none."""
    value = _read(text, SHARES)
    return value if value is not None and value <= 1 else None


def _read(text: str, units: dict[str, float]) -> float | None:
    match = AMOUNT.fullmatch(text)
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        return None
    try:
        value = float(match[1]) * unit
    except ValueError:  # several points
        return None
    return value if math.isfinite(value) else None


def _positive(value: float | None) -> float | None:
    return value or None
