"""The search, on records that were made up: what comes next, what is chosen, and why the others lost."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from diag.candidates import best, candidates_of, compared, front
from diag.growing import Tried
from diag.ladder import Goal, next_ratio
from diag.plan import CHOSEN, NEAREST, Step
from diag.policy import Budget
from diag.request import Part
from diag.search import Search
from study.record import Finding, Metric, Record, Verdict

SIZES = {"onnx": 8e6, "fuse": 8e6, "int8_dynamic": 3e6, "int8": 2e6, "int4": 1e6}
MILLISECONDS = {"as_it_came": 4.0, "onnx": 2.0, "fuse": 2.0, "int8_dynamic": 1.5, "int8": 0.5, "int4": 1.0}


def metric(value: float, wide: float = 0.0, unit: str = "", better: str = "lower") -> Metric:
    return Metric(value, value - wide, value + wide, 500, unit, better)  # type: ignore[arg-type]


def figures(name: str, drop: float = 0.0, flips: float = 0.0, slice_drop: float = 0.0, wide: float = 0.001):
    """The metrics of a whole look."""
    time = MILLISECONDS.get(name, 1.0)
    found = {
        "accuracy": metric(0.95 - drop, 0.02, better="higher"),
        "size_bytes": metric(SIZES.get(name, 4e6), unit="B"),
        "latency_p50_ms": metric(time, 0.02 * time, "ms"),
        "latency_noise_floor": metric(0.02),
    }
    if name != "as_it_came":
        found |= {
            "accuracy@change": metric(-drop, wide, better="higher"),
            "negative_flip_rate": metric(flips, wide),
            "worst_slice_drop": metric(slice_drop, wide),
        }
    return found


def step(name: str, parent: int | None, metrics: dict[str, Metric], typed: str = "") -> Tried:
    form = "pytorch" if name == "as_it_came" or name.startswith(("prune", "distill")) else "onnx"
    if form == "pytorch" and parent is not None:  # which is not asked how fast and small it is
        metrics = {key: one for key, one in metrics.items() if key not in ("latency_p50_ms", "size_bytes")}
    record = Record("all", Verdict.NOTED, "made up", metrics=metrics)
    return Tried(Step(typed or name.replace("_", "-"), name, parent), form, (record,), task="classification")


def came() -> Tried:
    return step("as_it_came", None, figures("as_it_came"), "as_it_came")


def budgets(**most: float) -> tuple[Budget, ...]:
    return tuple(Budget(kind, value) for kind, value in most.items())  # type: ignore[arg-type]


def searched(goal: Goal, known: dict[str, dict[str, Metric]], most: int = 30) -> list[Tried]:
    """The whole search, where each step has the metrics known of its name, else those of a good one."""
    search, tried = Search(goal), [came()]
    while (following := search.step(tried)) is not None:
        name = following.name
        assert len(tried) < most
        one = step(name, following.parent, known.get(name, figures(name)), following.typed)
        said = search.says([*tried, one])
        tried.append(Tried(one.step, one.format, (*one.records, *said), task=one.task))
    return tried


def end(tried: Sequence[Tried]) -> tuple[str, str]:
    """The last step, and what it was made from."""
    last = tried[-1].step
    assert last.parent is not None
    return last.typed, tried[last.parent].step.name


def test_the_fastest_that_keeps_all_budgets_is_chosen() -> None:
    tried = searched(Goal(budgets(drop=0.005, flips=0.01)), {})
    assert [one.step.typed for one in tried] == ["as_it_came", "onnx", "fuse", "int8-dynamic", "int8", CHOSEN]
    assert end(tried) == (CHOSEN, "int8")


def test_a_metric_that_is_missing_fails_its_budget() -> None:
    without = {name: one for name, one in figures("int8").items() if name != "worst_slice_drop"}
    tried = searched(Goal(budgets(slice=0.02)), {"int8": without})
    assert end(tried) == (CHOSEN, "int8_dynamic")
    lost = next(row for row in tried[-1].record("search").tables[0].rows if row[0] == "int8")  # type: ignore[union-attr]
    assert "was not measured, missing" in str(lost[1])


def test_the_same_accuracy_with_flips_is_not_let_through() -> None:
    tried = searched(Goal(budgets(drop=0.005, flips=0.01)), {"int8": figures("int8", drop=0.0, flips=0.03)})
    assert end(tried) == (CHOSEN, "int8_dynamic")
    assert searched(Goal(budgets(drop=0.005)), {"int8": figures("int8", flips=0.03)})[-1].step.parent == 4


def test_a_slice_that_loses_five_points_is_not_let_through_though_the_mean_loses_little() -> None:
    lost = figures("int8", drop=0.002, slice_drop=0.05)
    assert end(searched(Goal(budgets(drop=0.005, slice=0.02)), {"int8": lost})) == (CHOSEN, "int8_dynamic")
    assert end(searched(Goal(budgets(drop=0.005)), {"int8": lost})) == (CHOSEN, "int8")


def test_what_may_be_noise_is_not_called_faster_and_the_one_before_is_kept() -> None:
    quick = figures("int8") | {"speedup@int8_dynamic": metric(1.03, 0.05, "x", "higher")}
    tried = searched(Goal(budgets(drop=0.005)), {"int8": quick})
    assert end(tried) == (CHOSEN, "int8_dynamic")
    told = tried[-1].record("search")
    assert told is not None
    assert [found.where for found in told.findings] == ["int8"], "a fresh search may choose it"
    lost = next(row for row in told.tables[0].rows if row[0] == "int8")
    told_of = dict(zip(told.tables[0].columns, lost, strict=True))
    assert "smaller, not faster than int8_dynamic" in str(told_of["what became of it"])
    assert told_of["from"] == "onnx"


@pytest.mark.parametrize(("low", "word"), [(1.01, "no measurable difference"), (1.05, "faster")])
def test_the_noise_floor_of_the_race_counts(low: float, word: str) -> None:
    ratio = Metric(1.1, low, 1.2, 25, "x", "higher")
    one = step("int8", 1, figures("int8") | {"speedup@onnx": ratio})
    _, first, second = candidates_of([came(), step("onnx", 0, figures("onnx")), one])
    assert compared(second, first)[0] == word


def test_without_a_race_only_medians_with_intervals_apart_differ() -> None:
    apart, near = figures("onnx"), figures("int8") | {"latency_p50_ms": metric(1.97, 0.02, "ms")}
    _, onnx, close, quick = candidates_of(
        [came(), step("onnx", 0, apart), step("int8", 1, near), step("int4", 1, figures("int4"))]
    )
    assert compared(close, onnx)[0] == "no measurable difference"
    assert compared(quick, onnx)[0] == "faster"
    assert compared(onnx, quick)[0] == "slower"


def test_where_nothing_keeps_all_budgets_the_nearest_is_named_and_nothing_chosen() -> None:
    shares = {"int8": 0.02, "int8_dynamic": 0.03, "fp16": 0.04}
    bad = {name: figures(name, flips=share) for name, share in shares.items()}
    tried = searched(Goal(budgets(flips=0.01, size=3e6)), bad)
    assert end(tried) == (NEAREST, "int8")
    told = tried[-1].record("search")
    assert told is not None
    assert told.verdict is Verdict.BAD
    assert "--max-flips" in told.summary
    assert "int8 comes nearest" in told.summary


def test_the_front_is_of_those_that_no_other_beats() -> None:
    tried = [
        came(),
        step("onnx", 0, figures("onnx")),
        step("int8_dynamic", 1, figures("int8_dynamic", drop=0.01)),
        step("int8", 1, figures("int8", drop=0.005)),
        step("int4", 1, figures("int4", drop=0.02)),
    ]
    assert [one.name for one in front(candidates_of(tried))] == ["onnx", "int8", "int4"]


def test_a_step_that_surely_breaks_a_budget_is_looked_at_no_further() -> None:
    search = Search(Goal(budgets(flips=0.01, size=5e6)))
    onnx = step("onnx", 0, figures("onnx"))
    glanced = {"negative_flip_rate@glance": metric(0.2, 0.05), "size_bytes": metric(1e6)}
    assert search.parts([came(), onnx, step("int8_dynamic", 1, {})]) == {"size"}
    assert search.parts([came(), onnx, step("int8_dynamic", 1, {"size_bytes": metric(6e6)})]) == frozenset()
    looked = step("int8_dynamic", 1, glanced)
    assert search.parts([came(), onnx, looked]) == frozenset()
    assert not best(candidates_of([came(), onnx, looked]), search.goal.budgets)
    unsure = {"negative_flip_rate@glance": metric(0.02, 0.015), "size_bytes": metric(1e6)}
    known = step("int8_dynamic", 1, unsure)
    looked_at = frozenset({"size", "glance"})
    assert search.parts([came(), onnx, Tried(known.step, "onnx", known.records, looked_at, known.task)]) == {
        "latency"
    }


def test_int8_that_loses_too_much_is_tried_again_without_the_layers_that_are_to_blame() -> None:
    goal = Goal(budgets(flips=0.01))
    blamed = Finding("2 layers should stay in float", do='Give --steps "onnx,int8:exclude=conv1+fc".')
    found = Record("sensitivity", Verdict.NOTED, "made up", findings=(blamed,))
    lost = step("int8", 1, figures("int8", flips=0.05))
    tried = [came(), step("onnx", 0, figures("onnx")), step("fuse", 1, figures("fuse"))]
    tried += [step("int8_dynamic", 1, figures("int8_dynamic")), lost]
    search = Search(goal)
    assert search.parts(tried) == {"sensitivity"}
    tried[-1] = replace(lost, records=(*lost.records, found))
    following = search.step(tried)
    assert following is not None
    assert (following.typed, following.parent) == ("int8:exclude=conv1+fc", 1)
    tried[-1] = replace(lost, records=(*lost.records, replace(found, findings=())))
    assert search.step(tried) == Step(CHOSEN, "chosen", 3), "no layer is to blame"


def test_layers_are_asked_about_only_where_int8_beats_what_is_kept_already() -> None:
    search = Search(Goal(budgets(flips=0.01)))
    before = [came(), step("onnx", 0, figures("onnx")), step("int8_dynamic", 1, figures("int8_dynamic"))]

    def asked(metrics: dict[str, Metric], *looked: Part) -> frozenset[Part]:
        one = step("int8", 1, metrics)
        return search.parts([*before, replace(one, looked=frozenset(looked))])

    few = {"negative_flip_rate@glance": metric(0.2, 0.05), "size_bytes": metric(2e6)}
    assert asked(few, "size", "glance") == {"latency"}, "it is surely beyond, and may be no faster"
    slow = {"latency_p50_ms": metric(1.5, 0.01)}
    assert asked(few | slow, "size", "glance", "latency") == frozenset()
    quick = {"latency_p50_ms": metric(0.5, 0.01)}
    assert asked(few | quick, "size", "glance", "latency") == {"sensitivity"}
    assert asked(few | quick, "size", "glance", "latency", "sensitivity") == frozenset()
    unsure = {"negative_flip_rate@glance": metric(0.02, 0.015), "size_bytes": metric(2e6)}
    assert asked(unsure | quick, "size", "glance", "latency") == {"diagnose"}, "few rows do not judge"
    whole = figures("int8", flips=0.02, wide=0.015)
    assert asked(whole, "size", "glance", "latency", "diagnose") == {"sensitivity"}


def test_with_training_rows_channels_go_and_the_best_steps_follow() -> None:
    quick = {
        f"int8_{at}": figures("int8") | {"latency_p50_ms": metric(0.4 / at, 0.001)} for at in (2, 3, 4, 5)
    }
    tried = searched(Goal(budgets(drop=0.005), training=True), quick)
    typed = [one.step.typed for one in tried]
    assert typed[5:] == [
        *("prune:0.3", "onnx", "int8", "prune:0.5", "onnx", "int8"),
        *("prune:0.7", "onnx", "int8", "prune:0.85", "onnx", "int8", CHOSEN),
    ]
    assert tried[6].step.parent == 5
    assert end(tried) == (CHOSEN, "int8_5")
    assert "--steps prune:0.85,onnx,int8." in tried[-1].record("search").summary  # type: ignore[union-attr]
    enough = searched(Goal(budgets(drop=0.005, latency=1.0), training=True), quick)
    assert end(enough) == (CHOSEN, "int8"), "a latency was asked for and is kept: nothing dearer is tried"


def test_pruning_that_is_no_faster_goes_no_further() -> None:
    same = {"int8_2": figures("int8") | {"latency_p50_ms": metric(0.5, 0.02)}}
    tried = searched(Goal(budgets(drop=0.005), training=True), same)
    assert [one.step.typed for one in tried][5:] == ["prune:0.3", "onnx", "int8", CHOSEN]
    assert end(tried) == (CHOSEN, "int8")


def test_a_latency_is_pruned_to_as_the_steps_after_it_will_make_it() -> None:
    quick = {name: figures(name) | {"latency_p50_ms": metric(ms)} for name, ms in {"int8_2": 0.19}.items()}
    goal = Goal(budgets(drop=0.005, latency=0.2), training=True, recovery="epochs=3:augment=flip")
    tried = searched(goal, quick)
    assert [one.step.typed for one in tried][5:] == [
        *("prune:latency=0.2ms:then=int8:epochs=3:augment=flip", "onnx", "int8", CHOSEN)
    ]
    assert end(tried) == (CHOSEN, "int8_2")
    assert tried[5].step.name == "prune_latency_0_2ms_then_int8", "how it was trained is in its record"


def test_what_was_begun_is_finished_though_the_float_model_keeps_the_budgets_already() -> None:
    fast = {"onnx_2": 0.19, "int8_2": 0.1}
    quick = {name: figures(name) | {"latency_p50_ms": metric(ms)} for name, ms in fast.items()}
    tried = searched(Goal(budgets(drop=0.005, latency=0.2), training=True, student=True), quick)
    assert [one.step.typed for one in tried][6:] == ["onnx", "int8", CHOSEN], "and no student is asked"
    assert end(tried) == (CHOSEN, "int8_2")


@pytest.mark.parametrize(
    ("first", "drop", "again"),
    [
        (0.3, 0.0, "0.1293"),  # slower than it seemed: further
        (0.3, 0.02, ""),  # and the answers suffer already
        (0.1, 0.02, "0.4"),  # too far, and the answers suffered: less
        (0.199, 0.02, ""),  # there is no room
        (0.201, 0.0, "0.193"),  # it breaks the budget, by however little
        (0.19, 0.02, ""),  # another fit would not be worth it
    ],
)
def test_what_missed_is_pruned_once_more_by_as_much(first: float, drop: float, again: str) -> None:
    lost = figures("int8_2", drop=drop) | {"latency_p50_ms": metric(first)}
    good = figures("int8_3") | {"latency_p50_ms": metric(0.19)}
    tried = searched(Goal(budgets(drop=0.005, latency=0.2), training=True), {"int8_2": lost, "int8_3": good})
    typed = [one.step.typed for one in tried][8:]
    once_more = [f"prune:latency={again}ms:then=int8", "onnx", "int8", CHOSEN]
    assert typed == (once_more if again else [NEAREST])


@pytest.mark.parametrize(
    ("wide", "then"),
    [
        (0.015, ["prune:latency=0.2ms:then=int8", "prune:latency=0.1848ms:then=int8"]),
        (0.002, ["prune:latency=0.2ms:then=int8-dynamic"]),
    ],
    ids=["may be lost", "surely lost"],
)
def test_few_rows_say_that_answers_are_lost_only_where_they_are_sure(wide: float, then: list[str]) -> None:
    """A step that is too slow is never judged on all rows: one flip among few would end the search."""

    def glanced(name: str, milliseconds: float) -> dict[str, Metric]:
        known = {"size_bytes": metric(SIZES.get(name, 4e6)), "latency_p50_ms": metric(milliseconds, 0.001)}
        return known | {"negative_flip_rate@glance": metric(0.02, wide)}

    slow = {"int8": glanced("int8", 0.5), "int8_2": glanced("int8_2", 0.21)}
    for name in ("int8_3", "int8_dynamic_2"):
        slow[name] = figures(name) | {"latency_p50_ms": metric(0.19)}
    tried = searched(Goal(budgets(flips=0.01, latency=0.2), training=True), slow)
    assert [one.step.typed for one in tried if one.step.typed.startswith("prune")] == then
    assert end(tried)[0] == CHOSEN


def test_a_size_is_pruned_to_and_the_tighter_budget_counts() -> None:
    goal = Goal(budgets(drop=0.005, size=5e5, latency=0.2), training=True)
    first = figures("int8_2") | {"size_bytes": metric(4e5), "latency_p50_ms": metric(0.4)}
    second = figures("int8_3") | {"size_bytes": metric(2e5), "latency_p50_ms": metric(0.2)}
    tried = searched(goal, {"int8_2": first, "int8_3": second})
    assert [one.step.typed for one in tried][5:] == [
        *("fp16", "prune:latency=0.2ms:size=500000B:then=int8", "onnx", "int8"),
        *("prune:latency=0.097ms:size=242500B:then=int8", "onnx", "int8", CHOSEN),
    ]


def test_the_second_aim_is_by_what_the_step_itself_saw() -> None:
    seen = {"latency_p50_ms@onnx_after_pruning": Metric(0.15, 0.14, 0.16, 30, "ms")}
    lost = figures("int8_2") | {"latency_p50_ms": metric(0.21)}
    good = figures("int8_3") | {"latency_p50_ms": metric(0.19)}
    name = "prune_latency_0_2ms_then_int8"
    known = {name: figures(name) | seen, "int8_2": lost, "int8_3": good}
    tried = searched(Goal(budgets(drop=0.005, latency=0.2), training=True), known)
    assert tried[8].step.typed == "prune:latency=0.1478ms:then=int8", "at 0.2 ms it would do the same again"
    assert end(tried) == (CHOSEN, "int8_3")


@pytest.mark.parametrize(
    ("known", "following"),
    [
        ({}, 0.3),
        ({0.3: True}, 0.5),
        ({0.3: True, 0.5: True}, 0.7),
        ({0.3: True, 0.5: True, 0.7: True}, 0.85),
        ({0.3: True, 0.5: True, 0.7: True, 0.85: True}, None),
        ({0.3: False}, 0.15),
        ({0.3: False, 0.15: False}, None),
        ({0.3: False, 0.15: True}, None),
        ({0.3: True, 0.5: False}, 0.4),
        ({0.3: True, 0.5: False, 0.4: True}, None),
    ],
)
def test_ratios_rise_while_the_answers_are_kept_and_then_close_in(known, following) -> None:
    assert next_ratio(known) == following


def test_the_student_is_tried_where_there_is_one() -> None:
    tried = searched(
        Goal(budgets(drop=0.005), training=True, student=True), {"int8_2": figures("int8_2", drop=1)}
    )
    typed = [one.step.typed for one in tried]
    assert typed[typed.index("distill") :] == ["distill", "onnx", "int8", CHOSEN]


def test_an_onnx_model_is_a_candidate_itself_and_kept_where_nothing_is_faster() -> None:
    given = replace(came(), format="onnx")
    slow = {name: figures("as_it_came") for name in ("fuse", "int8_dynamic", "int8")}
    search, tried = Search(Goal(budgets(drop=0.005))), [given]
    while (following := search.step(tried)) is not None:
        tried.append(step(following.name, following.parent, slow.get(following.name, {}), following.typed))
    assert [one.step.typed for one in tried] == ["as_it_came", "fuse", "int8-dynamic", "int8", CHOSEN]
    assert tried[-1].step.parent == 0


def test_the_same_records_give_the_same_plan_and_choice() -> None:
    goal = Goal(budgets(drop=0.005, flips=0.01, size=5e6))
    tried = searched(goal, {"int8": figures("int8", flips=0.02)})
    again = Search(goal)
    assert [again.step(tried[:at]) for at in range(1, len(tried))] == [one.step for one in tried[1:]]
