"""The README's table of kinds is what the plug-ins declare."""

from pathlib import Path
from typing import get_args

from diag.kinds import TITLES, table
from study.reading import READINGS
from study.task import Kind

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_table_in_the_readme_is_the_one_that_is_generated() -> None:
    said = (
        README.read_text("utf-8").partition("<!-- python -m diag.kinds -->\n")[2].partition("<!-- end -->")[0]
    )
    assert said == table(), "paste what `python -m diag.kinds` prints"


def test_every_kind_has_a_title_and_is_read() -> None:
    assert set(TITLES) == set(get_args(Kind))
    assert set(READINGS) <= set(TITLES)
