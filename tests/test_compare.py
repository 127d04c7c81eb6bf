"""Agreement, flips and distances between two prediction tables, beside plain loops and other libraries."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from sklearn.metrics import accuracy_score

from study import compare
from study.compare import agreement, flips, join, outputs_apart, slice_drops
from study.slices import Slice, one_way
from study.task import Task

CLASSES = Task("multiclass", "logits", ("a", "b", "c"))


def table(
    prediction: object,
    *,
    label: object = None,
    confidence: object = 0.9,
    position: object = None,
    **columns: object,
) -> pl.LazyFrame:
    n = len(prediction)
    where = np.arange(n) if position is None else position
    sure = pl.Series([confidence] * n if isinstance(confidence, float) else confidence, dtype=pl.Float32)
    made = {
        "position": where,
        "id": [f"row {place}" for place in where],
        "label": pl.Series([None] * n, dtype=pl.Int64) if label is None else label,
        "prediction": prediction,
        "confidence": sure,
        **columns,
    }
    return pl.DataFrame(made).lazy()


answers = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60)


@given(answers)
def test_flips_are_those_of_a_plain_loop(rows: list[tuple[int, int, int]]) -> None:
    label, before, after = (list(column) for column in zip(*rows, strict=True))
    both = join(table(before, label=label), table(after, label=label), "multiclass")
    found = flips(both)
    lost = sum(b == y != a for y, b, a in rows)
    won = sum(a == y != b for y, b, a in rows)
    same = sum(b == a for _, b, a in rows)
    n = len(rows)
    assert agreement(both).value == pytest.approx(same / n)
    assert found.negative.value == pytest.approx(lost / n)
    assert found.positive.value == pytest.approx(won / n)
    assert found.change.value == pytest.approx(accuracy_score(label, after) - accuracy_score(label, before))
    assert found.p_value == pytest.approx(binomtest(lost, lost + won).pvalue if lost + won else 1.0)
    for metric in (agreement(both), found.negative, found.positive, found.change):
        assert metric.low <= metric.value <= metric.high
        assert metric.n == n


def test_a_table_and_itself() -> None:
    rng = np.random.default_rng(0)
    said = rng.integers(0, 3, 200)
    output = pl.Series(rng.normal(size=(200, 3)).tolist(), dtype=pl.List(pl.Float32))
    one = table(said, label=rng.integers(0, 3, 200), output=output)
    both = join(one, one, "multiclass")
    found = flips(both)
    assert agreement(both).value == 1
    assert (found.negative.value, found.positive.value, found.change.value, found.p_value) == (0, 0, 0, 1)
    apart = outputs_apart(one, one, CLASSES)
    assert apart is not None
    assert apart.identical
    assert (apart.max_abs_error, apart.sqnr_db, apart.divergence, apart.shift) == (0, None, 0, 0)


def test_rows_in_one_table_alone_are_counted() -> None:
    both = join(
        table([0, 1, 2], position=[4, 1, 2], label=[0, 1, 2]),
        table([2, 1], position=[2, 9], label=[2, 0]),
        "multiclass",
    )
    assert (len(both), both.only_before, both.only_after) == (1, 2, 1)
    assert both.frame["id"].to_list() == ["row 2"]


def test_outputs_that_are_not_finite() -> None:
    """Lost: a flip. Lost in both: no answer twice, never right, and no disagreement."""
    label = [0, 0, 0, 0]
    before = table([0, 0, 0, 0], label=label, confidence=[0.9, 0.9, float("nan"), float("nan")])
    after = table([0, 0, 0, 1], label=label, confidence=[0.9, float("nan"), 0.9, float("nan")])
    both = join(before, after, "multiclass")
    assert both.changed.tolist() == [False, True, True, False]
    assert both.was_right.tolist() == [True, True, False, False]
    assert both.is_right.tolist() == [True, False, True, False]


def test_rows_without_labels_agree_but_do_not_flip() -> None:
    both = join(table([0, 1]), table([0, 2]), "multiclass")
    assert agreement(both).value == 0.5
    assert not both.labelled.any()
    part = pl.Series([None, 1], dtype=pl.Int64)
    both = join(table([0, 1], label=part), table([0, 2], label=part), "multiclass")
    assert flips(both).negative.value == 1.0
    assert flips(both).negative.n == 1


def test_any_label_of_several_is_a_flip() -> None:
    def several(rows: list[list[int]]) -> pl.Series:
        return pl.Series(rows, dtype=pl.List(pl.Int8))

    label = several([[0, 1], [1, 1], [0, 0]])
    both = join(
        table(several([[0, 1], [1, 0], [0, 0]]), label=label),
        table(several([[0, 1], [1, 1], [1, 0]]), label=label),
        "multilabel",
    )
    assert both.changed.tolist() == [False, True, True]
    assert both.was_right.tolist() == [True, False, True]
    assert both.is_right.tolist() == [True, True, False]


def test_values_agree_within_a_twentieth_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=400)
    moved = np.where(np.arange(400) < 100, 0.06, 0.04) * before.std()
    both = join(
        table(before, label=before, confidence=[None] * 400),
        table(before + moved, label=before, confidence=[None] * 400),
        "regression",
    )
    assert both.tolerance == pytest.approx(0.05 * before.std())
    assert both.changed.sum() == 100
    assert not both.labelled.any()


def test_several_targets() -> None:
    before = pl.Series([[0.0, 1.0], [2.0, 3.0]], dtype=pl.List(pl.Float64))
    after = pl.Series([[0.0, 1.0], [2.0, float("nan")]], dtype=pl.List(pl.Float64))
    both = join(table(before, confidence=[None] * 2), table(after, confidence=[None] * 2), "regression")
    assert both.changed.tolist() == [False, True]


def test_groups_vote_once() -> None:
    """One group of 40 rows that all flip is one observation."""
    label = [0] * 60
    before, after = [0] * 60, [1] * 40 + [0] * 20
    group = ["one"] * 40 + [f"g{place}" for place in range(19)] + [None]
    alone = join(table(before, label=label), table(after, label=label), "multiclass")
    grouped = join(
        table(before, label=label, group=group), table(after, label=label, group=group), "multiclass"
    )
    assert flips(alone).p_value < 1e-9
    assert flips(grouped).p_value == 1.0
    wide, narrow = flips(grouped).negative, flips(alone).negative
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert grouped.groups is not None
    assert len(np.unique(grouped.groups)) == 21


def test_distances_are_those_of_numpy_and_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(500, 3)).astype(np.float32)
    after = (before + rng.normal(size=(500, 3)) * 0.01).astype(np.float32)
    tables = [
        table(values.argmax(axis=1), output=pl.Series(values.tolist(), dtype=pl.List(pl.Float32)))
        for values in (before, after)
    ]
    whole = outputs_apart(*tables, CLASSES)
    assert whole is not None
    gap = before.astype(np.float64) - after
    assert whole.rows == 500
    assert whole.max_abs_error == np.abs(gap).max()
    assert whole.sqnr_db == pytest.approx(10 * np.log10((before.astype(float) ** 2).sum() / (gap**2).sum()))
    first, second = (softmax(values.astype(np.float64), axis=1) for values in (before, after))
    assert whole.divergence == pytest.approx(entropy(first, second, axis=1).mean())
    assert whole.shift == pytest.approx(np.abs(first - second).max(axis=1).mean())
    monkeypatch.setattr(compare, "NUMBERS_AT_ONCE", 100)
    pieces = outputs_apart(*tables, CLASSES)
    assert pieces is not None
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db)
    assert pieces.max_abs_error == whole.max_abs_error


@pytest.mark.parametrize(
    "task", [Task("binary", "logits"), Task("multilabel", "probabilities"), Task("regression", "value")]
)
def test_distances_of_other_tasks(task: Task) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.uniform(0.1, 0.9, (2, 50, 1 if task.kind != "multilabel" else 4))
    tables = [table([0] * 50, output=values.tolist()) for values in (before, after)]
    found = outputs_apart(*tables, task)
    assert found is not None
    if task.kind == "regression":
        assert (found.divergence, found.shift) == (None, None)
        return
    first, second = (
        (before, after) if task.kind == "multilabel" else (1 / (1 + np.exp(-x)) for x in (before, after))
    )
    each = first * np.log(first / second) + (1 - first) * np.log((1 - first) / (1 - second))
    assert found.divergence == pytest.approx(each.sum(axis=1).mean())
    assert found.shift == pytest.approx(np.abs(first - second).max(axis=1).mean())


def test_outputs_with_holes_or_none_at_all() -> None:
    before = table([0, 1], output=[[1.0, 2.0], [3.0, 4.0]])
    after = table([0, 1], output=[[1.0, 2.5], [float("nan"), 4.0]])
    found = outputs_apart(before, after, CLASSES)
    assert found is not None
    assert (found.rows, found.max_abs_error) == (1, 0.5)
    assert outputs_apart(before, table([0, 1]), CLASSES) is None
    assert outputs_apart(before, table([0, 1], output=[[1.0], [2.0]]), CLASSES) is None
    assert outputs_apart(before, table([0], position=[7], output=[[1.0, 2.0]]), CLASSES) is None


def test_the_drop_of_each_slice() -> None:
    rng = np.random.default_rng(0)
    site = rng.choice(["A", "B", "C"], 900)
    label = rng.integers(0, 3, 900)
    before = np.where(rng.random(900) < 0.95, label, (label + 1) % 3)
    after = np.where((site == "C") & (rng.random(900) < 0.2), (label + 1) % 3, before)
    both = join(table(before, label=label), table(after, label=label), "multiclass")
    frame = pl.DataFrame({"site": site})
    few = Slice.parse("site = Z")
    drops = slice_drops(both, [*one_way(frame, least=1), few], frame)
    assert str(drops[0].slice) == "site = C"
    assert len(drops) == 3
    for one in drops:
        inside = one.slice.rows(frame)
        assert one.before == pytest.approx((before == label)[inside].mean())
        assert one.after == pytest.approx((after == label)[inside].mean())
        assert one.drop.value == pytest.approx(one.before - one.after)
        assert one.drop.low <= one.drop.value <= one.drop.high
        assert one.drop.n == inside.sum()
    assert drops[0].q < 1e-6
    assert [one.q for one in drops[1:]] == [1.0, 1.0]


def test_the_worst_of_many_slices_is_not_called_a_drop_when_it_is_chance() -> None:
    """Flips at random: of 40 slices the worst looks bad, and its interval and q know that."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        frame = pl.DataFrame({f"c{column}": rng.choice(list("abcd"), 1200) for column in range(10)})
        label = np.zeros(1200, dtype=int)
        before = rng.integers(0, 2, 1200)
        after = np.where(rng.random(1200) < 0.05, 1 - before, before)
        both = join(table(before, label=label), table(after, label=label), "binary")
        drops = slice_drops(both, one_way(frame, least=20), frame)
        assert len(drops) == 40
        alarms += drops[0].q <= 0.05 or drops[0].drop.low > 0
    assert alarms <= 5
