"""``report.json``: unrounded numbers, UTF-8, all keys always there."""

import json
import re
from pathlib import Path

from diag.render.report import Report, from_json, to_json
from study.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")


def render(report: Report, _folder: Path | None = None) -> str:
    """The report as indented JSON."""
    return _written(json.dumps(to_json(report), ensure_ascii=False, allow_nan=False, indent=1)) + "\n"


def embed(report: Report) -> str:
    """The same on one line, safe inside a ``<script>``: it holds no ``<``."""
    text = json.dumps(to_json(report), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _written(text).replace("<", "\\u003c")


def parse(text: str) -> Report:
    """The report that was written.

    Raises:
        InputError: it is not JSON, or no report.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError("The report is no JSON: run the command that wrote it again.") from error
    if not isinstance(data, dict):
        raise InputError("The report is no JSON object: run the command that wrote it again.")
    return from_json(data)


def _written(text: str) -> str:
    # Half of a surrogate pair (a file name with a bad byte) has no UTF-8; JSON can still say it.
    return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
