"""Coloured words on the page: escaped, and as strong as what was attributed."""

from diag.render.texts import Word, coloured
from study.record import Picture, Table

TABLE = Table(
    "t",
    ("row", "word", "attribution"),
    (("row 1", "good", 2.0), ("row 1", "<b>", -1.0), ("row 1", "dull", 0.1), ("row 2", "flat", 0.0)),
)


def test_words_are_as_strong_as_their_share_of_the_loudest():
    (shown,) = coloured([Picture("Texts", "text", "t", "said")], [TABLE])
    assert [one.title for one in shown.passages] == ["row 1", "row 2"]
    assert shown.passages[0].words == (
        Word("good", 4, "for", "+2"),
        Word("<b>", 2, "against", "-1"),
        Word("dull"),
    )
    assert shown.passages[1].words == (Word("flat"),)


def test_charts_are_no_texts():
    assert coloured([Picture("Bars", "bars", "t")], [TABLE]) == ()
