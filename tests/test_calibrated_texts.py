"""Calibration by the length of texts: against plain sums, and no finding where there is none."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from diagnose.calibrated_texts import NAMES
from study.record import Record, Verdict, record_to_json
from study.task import Task
from tests.prediction_tables import checked, table_of, view_of

TASK = Task("binary", "probabilities", ("no", "yes"))


def record_of(
    folder: Path, *, boast: float, seed: int = 0, rows: int = 900, groups: bool = False, short: bool = False
) -> Record:
    """Texts of 3 to 60 tokens; of the longest (or shortest) third the confidence is too high by ``boast``."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 61, rows)
    chance = rng.uniform(0.55, 0.85, rows)
    labels = (rng.random(rows) < chance).astype(np.int64)
    ends = np.quantile(tokens, [1 / 3, 2 / 3])
    said = chance + boast * ((tokens <= ends[0]) if short else (tokens > ends[1]))
    table = table_of(
        TASK,
        said[:, None].astype(np.float32),
        labels,
        [f"g{at // 2}" for at in range(rows)] if groups else None,
    )
    return checked("calibration", view_of(folder, TASK, table.with_columns(pl.Series("text.tokens", tokens))))


def table_in(record: Record) -> list[dict]:
    (table,) = (one for one in record.tables if one.title.startswith("Calibration by length"))
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


@pytest.mark.parametrize("groups", [False, True])
def test_long_texts_that_boast_are_found(groups: bool, tmp_path: Path) -> None:  # noqa: FBT001
    record = record_of(tmp_path, boast=0.14, groups=groups)
    (found,) = (one for one in record.findings if "texts are worse" in one.what)
    assert found.what.startswith("Long texts are worse calibrated: with 4")
    assert found.effect is not None
    assert found.effect.low <= 0.14 <= found.effect.high
    assert record.verdict is Verdict.NOTED
    assert f"ece@{NAMES[2]}_third" in record.metrics
    record_to_json(record)


def test_short_texts_that_boast_are_found(tmp_path: Path) -> None:
    record = record_of(tmp_path, boast=0.14, short=True, rows=2400)
    assert any(one.what.startswith("Short texts are worse calibrated: with 3 to ") for one in record.findings)


def test_the_table_is_that_of_plain_sums(tmp_path: Path) -> None:
    record = record_of(tmp_path, boast=0.1)
    frame = pl.read_parquet(tmp_path / "predictions.parquet").sort("text.tokens")
    ends = np.quantile(frame["text.tokens"].to_numpy(), [1 / 3, 2 / 3])
    lengths = frame["text.tokens"].to_numpy()
    parts = (lengths <= ends[0], (lengths > ends[0]) & (lengths <= ends[1]), lengths > ends[1])
    for line, part in zip(table_in(record), parts, strict=True):
        inside = frame.filter(pl.Series(part))
        right = (inside["label"] == inside["prediction"]).to_numpy()
        confidence = inside["confidence"].to_numpy().astype(np.float64)
        assert line["rows"] == part.sum()
        assert line["confidence - accuracy"] == pytest.approx(confidence.mean() - right.mean(), abs=1e-6)
        error = 0.0
        for low in np.linspace(0, 1, 16)[:-1]:  # Guo et al.'s bins, one by one
            members = (confidence > low) & (confidence <= low + 1 / 15)
            if members.any():
                error += members.mean() * abs(confidence[members].mean() - right[members].mean())
        assert line["calibration error"] == pytest.approx(error, abs=1e-6)
        assert line["calibration error low"] <= line["calibration error"] <= line["calibration error high"]


def test_texts_that_are_all_calibrated_are_hardly_ever_told_apart(tmp_path: Path) -> None:
    wrong = [
        any(
            "texts are worse" in one.what
            for one in record_of(tmp_path / str(seed), boast=0, seed=seed).findings
        )
        for seed in range(40)
    ]
    assert sum(wrong) <= 3


def test_few_texts_and_texts_of_one_length_say_nothing_of_lengths(tmp_path: Path) -> None:
    assert not any("length" in one.title for one in record_of(tmp_path / "few", boast=0.1, rows=80).tables)
    table = table_of(TASK, np.full((300, 1), 0.7, np.float32), np.arange(300) % 2)
    same = view_of(tmp_path / "same", TASK, table.with_columns(pl.lit(8).alias("text.tokens")))
    assert not any("length" in one.title for one in checked("calibration", same).tables)


def test_rows_that_are_no_texts_have_no_such_table(tmp_path: Path) -> None:
    table = table_of(TASK, np.full((300, 1), 0.7, np.float32), np.arange(300) % 2)
    assert len(checked("calibration", view_of(tmp_path, TASK, table)).tables) == 1
