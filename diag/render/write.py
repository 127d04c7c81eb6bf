"""The report in every format, written into the run folder; and written again from its ``report.json``."""

from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from diag.render import json as json_format
from diag.render.report import Report
from study.errors import InputError, did_you_mean
from study.storage import written

FORMATS: Mapping[str, tuple[str, str]] = {
    "html": ("diag.render.html", "report.html"),
    "json": ("diag.render.json", "report.json"),
    "md": ("diag.render.markdown", "report.md"),
}
"""A format, the module whose ``render(report, folder)`` gives its text, and its file."""


def write_reports(report: Report, folder: Path, formats: tuple[str, ...] = tuple(FORMATS)) -> list[Path]:
    """Write the report in these formats, all of them or none; the files."""
    files = []
    with ExitStack() as stack:
        for form in formats:
            module, name = FORMATS[form]
            beside = stack.enter_context(written(folder / name))
            beside.write_text(import_module(module).render(report, folder), encoding="utf-8")
            files.append(folder / name)
    return files


def write_again(run: Path, form: str = "") -> list[Path]:
    """Render a run folder's ``report.json`` again, in one format or in all.

    Raises:
        InputError: there is no report in the folder, or no such format.
    """
    if form and form not in FORMATS:
        raise InputError(f"There is no format '{form}'.{did_you_mean(form, FORMATS)}")
    return write_reports(read_report(run), run, (form,) if form else tuple(FORMATS))


def read_report(run: Path) -> Report:
    """The report of a run folder.

    Raises:
        InputError: there is none.
    """
    file = run / "report.json"
    if not file.is_file():
        raise InputError(
            f"There is no report in {run}: name a run folder (one that holds report.json), or run it again."
        )
    return json_format.parse(file.read_text(encoding="utf-8"))
