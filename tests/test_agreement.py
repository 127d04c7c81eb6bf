"""The check that compares an artifact with the model as it came."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from diagnose.checks.agreement import Agreement
from study.errors import SkipError
from study.record import Record, Table, Verdict
from study.runtime import Runtimes
from study.subject import Artifact, Data, Machine, Model, Split, Subject
from study.task import Kind, Task
from study.view import View

CLASSES = ("cat", "dog", "<eel>")
ROWS = 600


def step(folder: Path, columns: dict[str, object], kind: Kind, origin: View | None = None) -> View:
    folder.mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(folder / "predictions.parquet")
    model = Model(folder / "model.onnx", "onnx")
    task = Task(kind, "value" if kind == "regression" else "logits", CLASSES)
    subject = Subject(model, judged=Split(Data("rows.csv")), task=task)
    return View(Artifact(folder.name, folder, model), subject, Machine(), Runtimes(), origin, origin)


def predictions(
    label: np.ndarray, said: np.ndarray, *, labelled: bool = True, noise: float = 0.0, **more: object
) -> dict[str, object]:
    n = len(said)
    scores = np.eye(3)[said] * 4.0 + noise * np.random.default_rng(1).normal(size=(n, 3))
    return {
        "position": np.arange(n) * 2,
        "id": [f"r{place}" for place in range(n)],
        "label": label if labelled else pl.Series([None] * n, dtype=pl.Int64),
        "prediction": said,
        "confidence": pl.Series(np.linspace(0.5, 0.99, n), dtype=pl.Float32),
        "loss": pl.Series(np.where(said == label, 0.1, 3.0), dtype=pl.Float32),
        "output": pl.Series(scores.tolist(), dtype=pl.List(pl.Float32)),
        **more,
    }


def people() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, ROWS)
    return label, np.where(rng.random(ROWS) < 0.92, label, (label + 1) % 3)


def compared(
    folder: Path, before: dict[str, object], after: dict[str, object], kind: Kind = "multiclass"
) -> Record:
    origin = step(folder / "00_as_it_came", before, kind)
    return Agreement().check(step(folder / "01_int8", after, kind, origin))


def titled(record: Record, title: str) -> Table:
    return next(table for table in record.tables if table.title == title)


def test_an_artifact_and_itself(tmp_path: Path) -> None:
    label, said = people()
    record = compared(tmp_path, predictions(label, said), predictions(label, said))
    assert record.by == "agreement"
    assert record.verdict is Verdict.GOOD
    assert record.findings == ()
    assert record.metrics["agreement"].value == 1
    for name in ("negative_flip_rate", "positive_flip_rate", "worst_slice_drop", "max_abs_error"):
        assert record.metrics[name].value == 0
    assert "sqnr_db" not in record.metrics
    assert "identical" in record.summary


def test_outputs_that_move_without_a_flip(tmp_path: Path) -> None:
    label, said = people()
    record = compared(tmp_path, predictions(label, said), predictions(label, said, noise=0.01))
    assert record.verdict is Verdict.GOOD
    assert 0 < record.metrics["max_abs_error"].value < 0.1
    assert 40 < record.metrics["sqnr_db"].value < 60
    assert record.metrics["sqnr_db"].unit == "dB"
    assert "moved a little" in record.summary


def test_a_few_flips_are_noted_and_shown_worst_first(tmp_path: Path) -> None:
    label, said = people()
    after = said.copy()
    wrong, right = np.flatnonzero(said != label), np.flatnonzero(said == label)
    after[wrong[:3]] = label[wrong[:3]]
    after[right[[4, 9]]] = (label[right[[4, 9]]] + 2) % 3
    after[wrong[5]] = (label[wrong[5]] + 2) % 3
    record = compared(tmp_path, predictions(label, said), predictions(label, after))
    assert record.verdict is Verdict.NOTED
    assert record.metrics["agreement"].value == pytest.approx(1 - 6 / ROWS)
    assert record.metrics["negative_flip_rate"].value == pytest.approx(2 / ROWS)
    assert record.metrics["positive_flip_rate"].value == pytest.approx(3 / ROWS)
    shown = titled(record, "Flipped rows")
    order = [f"r{place}" for place in (right[9], right[4], wrong[5], *wrong[[2, 1, 0]])]
    assert [row[0] for row in shown.rows] == order
    assert shown.columns == ("id", "label", "before", "after", "confidence before", "confidence after")
    assert shown.rows[0][1] == CLASSES[label[right[9]]]
    assert shown.rows[0][3] == CLASSES[(label[right[9]] + 2) % 3]
    (found,) = record.findings
    assert found.what.startswith(
        "6 answers changed: 2 rows were right and are wrong, 3 were wrong and are right"
    )
    assert found.show.startswith("diag explain ")
    assert "--data rows.csv" in found.show


def test_a_drop_that_is_no_chance_is_bad(tmp_path: Path) -> None:
    label, said = people()
    lost = np.flatnonzero(said == label)[::25]
    after = said.copy()
    after[lost] = (label[lost] + 2) % 3
    record = compared(tmp_path, predictions(label, said), predictions(label, after))
    assert record.verdict is Verdict.BAD
    found = record.findings[0]
    assert found.what.startswith(f"accuracy fell by {100 * len(lost) / ROWS:.1f} points")
    assert found.certainty > 0.95
    assert found.effect is not None
    assert found.effect.value == pytest.approx(-len(lost) / ROWS)


def test_as_many_flips_both_ways_are_not_bad(tmp_path: Path) -> None:
    label, said = people()
    wrong = np.flatnonzero(said != label)[:20]
    right = np.flatnonzero(said == label)[::30][:20]
    after = said.copy()
    after[wrong] = label[wrong]
    after[right] = (label[right] + 1) % 3
    record = compared(tmp_path, predictions(label, said), predictions(label, after))
    assert record.verdict is Verdict.NOTED


def test_a_slice_that_loses_is_bad_though_the_whole_does_not(tmp_path: Path) -> None:
    label, said = people()
    site = np.where(np.arange(ROWS) % 12 == 0, "C", "A")
    lost = np.flatnonzero((site == "C") & (said == label))[:14]
    won = np.flatnonzero((site == "A") & (said != label))[:14]
    after = said.copy()
    after[lost] = (label[lost] + 1) % 3
    after[won] = label[won]
    columns = {"meta.site": site}
    record = compared(tmp_path, predictions(label, said, **columns), predictions(label, after, **columns))
    assert record.verdict is Verdict.BAD
    assert record.findings[0].where == "site = C"
    assert record.findings[0].rows == (site == "C").sum()
    assert record.findings[0].show.startswith("diag compare ")
    drop = record.metrics["worst_slice_drop"]
    assert drop.value == pytest.approx(14 / (site == "C").sum())
    assert 0 < drop.low < drop.value < drop.high
    drawn = titled(record, record.pictures[0].source)
    assert drawn.columns == ("slice", "drop", "low", "high")
    assert drawn.rows[0][0] == "site = C"
    assert not any("predicted" in str(row[0]) for row in drawn.rows)


def test_outputs_that_became_nan_are_bad(tmp_path: Path) -> None:
    label, said = people()
    after = predictions(label, said)
    confidence = np.linspace(0.5, 0.99, ROWS)
    confidence[7] = np.nan
    scores = np.eye(3)[said] * 4.0
    scores[7] = np.nan
    after["confidence"] = pl.Series(confidence, dtype=pl.Float32)
    after["output"] = pl.Series(scores.tolist(), dtype=pl.List(pl.Float32))
    record = compared(tmp_path, predictions(label, said), after)
    assert record.verdict is Verdict.BAD
    assert record.findings[0].what.startswith(f"NaN or infinite outputs on 1 of {ROWS} rows")
    assert record.metrics["max_abs_error"].n == ROWS - 1
    assert titled(record, "Flipped rows").rows[0][5] is None


def test_a_model_that_gives_nan_agrees_with_itself(tmp_path: Path) -> None:
    label, said = people()
    nothing = predictions(label, said)
    nothing["confidence"] = pl.Series([float("nan")] * ROWS, dtype=pl.Float32)
    nothing["output"] = pl.Series([[float("nan")] * 3] * ROWS, dtype=pl.List(pl.Float32))
    record = compared(tmp_path, nothing, nothing)
    assert record.verdict is Verdict.GOOD
    assert record.metrics["agreement"].value == 1
    assert "max_abs_error" not in record.metrics


def test_without_labels_agreement_is_left(tmp_path: Path) -> None:
    label, said = people()
    after = said.copy()
    after[:4] = (after[:4] + 1) % 3
    record = compared(
        tmp_path, predictions(label, said, labelled=False), predictions(label, after, labelled=False)
    )
    assert record.verdict is Verdict.NOTED
    assert set(record.metrics) == {"agreement", "max_abs_error", "sqnr_db"}
    assert "without labels" in record.summary


def test_rows_that_only_one_of_them_judged(tmp_path: Path) -> None:
    label, said = people()
    after = {name: column[5:] for name, column in predictions(label, said).items()}
    record = compared(tmp_path, predictions(label, said), after)
    assert record.metrics["agreement"].n == ROWS - 5
    assert "5 rows were judged only before" in record.summary
    assert record.verdict is Verdict.NOTED


def test_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.normal(size=200)

    def values(said: np.ndarray) -> dict[str, object]:
        return {
            "position": np.arange(200),
            "id": [f"r{place}" for place in range(200)],
            "label": label,
            "prediction": said,
            "confidence": pl.Series([None] * 200, dtype=pl.Float32),
            "loss": pl.Series((said - label) ** 2, dtype=pl.Float32),
            "output": pl.Series(said[:, None].tolist(), dtype=pl.List(pl.Float32)),
        }

    moved = label + 0.001
    moved[[3, 8]] += [1.0, 2.0]
    record = compared(tmp_path, values(label), values(moved), "regression")
    assert record.verdict is Verdict.NOTED
    assert record.metrics["agreement"].value == pytest.approx(0.99)
    assert set(record.metrics) == {"agreement", "max_abs_error", "sqnr_db"}
    assert "flips are not defined for values" in record.summary
    assert [row[0] for row in titled(record, "Values that moved").rows] == ["r8", "r3"]


def test_several_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (100, 3))

    def several(said: np.ndarray) -> dict[str, object]:
        return {
            "position": np.arange(100),
            "id": [f"r{place}" for place in range(100)],
            "label": pl.Series(label.tolist(), dtype=pl.List(pl.Int8)),
            "prediction": pl.Series(said.tolist(), dtype=pl.List(pl.Int8)),
            "confidence": pl.Series([0.8] * 100, dtype=pl.Float32),
            "loss": pl.Series([0.2] * 100, dtype=pl.Float32),
            "output": pl.Series((said - 0.5).tolist(), dtype=pl.List(pl.Float32)),
        }

    after = label.copy()
    after[5] = [0, 0, 1] if label[5].tolist() != [0, 0, 1] else [1, 1, 1]
    record = compared(tmp_path, several(label), several(after), "multilabel")
    assert record.metrics["agreement"].value == pytest.approx(0.99)
    assert record.metrics["negative_flip_rate"].value == pytest.approx(0.01)
    names = ", ".join(name for name, there in zip(CLASSES, label[5], strict=True) if there) or "none"
    assert titled(record, "Flipped rows").rows[0][1:3] == (names, names)


def test_the_model_as_it_came_is_compared_with_nothing(tmp_path: Path) -> None:
    label, said = people()
    with pytest.raises(SkipError, match="nothing to compare"):
        Agreement().check(step(tmp_path / "00_as_it_came", predictions(label, said), "multiclass"))


def test_no_row_in_common_is_a_reason(tmp_path: Path) -> None:
    label, said = people()
    after = predictions(label, said) | {"position": np.arange(ROWS) * 2 + 1}
    with pytest.raises(SkipError, match="no row in common"):
        compared(tmp_path, predictions(label, said), after)
