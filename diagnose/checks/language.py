"""How well it predicts the next token: loss and perplexity, where they are high, and what they became."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from diagnose.check import Check
from diagnose.parted import Parted, mean_loss, read_parted
from diagnose.spoken import by_frequency, by_place, spans_of, table_of
from study.bootstrap import Floats, bootstrap
from study.errors import SkipError
from study.record import Finding, Metric, Picture, Record, Table, Verdict
from study.show import show_figures, show_rows
from study.task import Kind
from study.view import View

TWO = 2
MOST = 700.0
"""Nats whose exponential is still a number."""


@final
@dataclass(frozen=True, slots=True)
class Language(Check):
    """How surprised the model is by the judged texts: loss and perplexity, by place and frequency."""

    needs: ClassVar[tuple[str, ...]] = ("predictions",)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"language"})

    rise: float = 0.05
    """A rise of the perplexity since the model as it came that matters, as a part of it."""
    shown: int = 20

    def check(self, view: View) -> Record:
        every = read_parted(view)
        parted = every.only(every.finite)
        if parted.units < TWO:
            raise SkipError("an interval needs two texts (or groups) with finite outputs")
        loss = mean_loss(parted)
        metrics = {"loss": _in_nats(loss), "perplexity": perplexity_of(loss)}
        findings = _worse_than_guessing(view, parted, loss)
        said = [_summary(parted, metrics)]
        if view.origin is not None:
            compared, risen = self._compared(view, parted)
            metrics |= compared
            findings += risen
            said.append(_change(compared))
        tables = self._tables(view, parted)
        spans = tables[-1].rows
        if spans:
            said.append(f"What surprised it most is {_quoted(spans[0])}")
        settled = view.origin is not None and "perplexity_ratio" in metrics
        fine = settled and metrics["perplexity_ratio"].high < 1 + self.rise
        verdict = Verdict.BAD if findings else Verdict.GOOD if fine else Verdict.NOTED
        pictures = tuple(
            Picture(table.title, "bars", table.title, "Mean loss in nats a token, with its interval.")
            for table in tables[:-1]
            if len(table.rows) > 1
        )
        return Record("language", verdict, " ".join(said), "", metrics, tuple(findings), tables, pictures)

    def _tables(self, view: View, parted: Parted) -> tuple[Table, ...]:
        places, seen = by_place(view, parted.position), by_frequency(view, parted.position)
        return (
            table_of("Loss by place in the text", "tokens before it", places, parted.groups),
            table_of("Loss by how often the token occurs", "times in the judged texts", seen, parted.groups),
            spans_of(view, parted.position, self.shown),
        )

    def _compared(self, view: View, parted: Parted) -> tuple[dict[str, Metric], list[Finding]]:
        """What the perplexity became since the model as it came, on the texts that both judged."""
        assert view.origin is not None
        came = read_parted(view.origin)
        came = came.only(came.finite)
        _, mine, theirs = np.intersect1d(parted.position, came.position, return_indices=True)
        after, before = parted.only(mine), came.only(theirs)
        if after.units < TWO:
            return {}, []
        ratio, change = _paired(before, after)
        found = {"perplexity_ratio": ratio, "perplexity@change": change}
        if ratio.low <= 1 or ratio.value < 1 + self.rise:
            return found, []
        worst = np.argsort(before.loss - after.loss, kind="stable")
        risen = Finding(
            f"The perplexity rose by {100 * (ratio.value - 1):.1f} % since the model as it came.",
            rows=int((after.loss > before.loss).sum()),
            effect=ratio,
            certainty=ratio.level,
            cause="this step: both models saw the same texts",
            do="Use a milder step (a higher precision, a lower ratio), or more calibration texts.",
            show=show_rows(view, after.position[worst]),
        )
        return found, [risen]


def perplexity_of(loss: Metric) -> Metric:
    """The exponential of a loss in nats, with its interval."""
    value, low, high = (float(np.exp(min(end, MOST))) for end in (loss.value, loss.low, loss.high))
    return Metric(value, low, high, loss.n, better="lower", level=loss.level)


def _in_nats(loss: Metric) -> Metric:
    return Metric(loss.value, loss.low, loss.high, loss.n, "nats", "lower", loss.level)


def _paired(before: Parted, after: Parted) -> tuple[Metric, Metric]:
    """The ratio of the perplexities and their difference; whole texts (or groups) are resampled together."""
    sums = np.column_stack([before.loss * before.parts, after.loss * after.parts, before.parts])

    def both(totals: Floats) -> Floats:
        first, second = (np.minimum(totals[:, at] / totals[:, 2], MOST) for at in (0, 1))
        changed: Floats = np.column_stack([np.exp(second - first), np.exp(second) - np.exp(first)])
        return changed

    values = both(sums.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(sums, both, groups=after.groups)
    ratio, change = (
        Metric(value, min(value, float(a)), max(value, float(b)), len(sums), unit, "lower")
        for value, a, b, unit in zip(values.tolist(), low, high, ("x", ""), strict=True)
    )
    return ratio, change


def _summary(parted: Parted, metrics: dict[str, Metric]) -> str:
    perplexity, loss = metrics["perplexity"], metrics["loss"]
    ends = (perplexity.value, perplexity.low, perplexity.high)
    value, low, high = (f"{one:,.0f}" if one >= 1000 else f"{one:.4g}" for one in ends)  # noqa: PLR2004
    tokens = int(parted.parts.sum())
    return (
        f"The perplexity is {value} [{low}, {high}], "
        f"{loss.value:.3f} nats a token [{loss.low:.3f}, {loss.high:.3f}], over {tokens} tokens of "
        f"{len(parted)} texts."
    )


def _change(compared: dict[str, Metric]) -> str:
    ratio = compared.get("perplexity_ratio")
    if ratio is None:
        return "The model as it came has no texts in common with it."
    return (
        f"That is {ratio.value:.4f} times [{ratio.low:.4f}, {ratio.high:.4f}] the perplexity of the model "
        "as it came."
    )


def _worse_than_guessing(view: View, parted: Parted, loss: Metric) -> list[Finding]:
    """Surely worse than to call every token equally likely: the tokens are not those of the model."""
    guess = float(np.log(parted.task.width))
    if loss.low <= guess:
        return []
    return [
        Finding(
            f"It is worse than to call each of {parted.task.width} tokens equally likely "
            f"({loss.value:.2f} nats a token against {guess:.2f}).",
            rows=len(parted),
            effect=_in_nats(loss),
            certainty=loss.level,
            cause="The tokenizer is not the one that the model was trained with, or nothing was trained.",
            do="Give the tokenizer that the model was trained with (--tokenizer).",
            show=show_figures(view),
        )
    ]


def _quoted(span: "tuple[object, ...]") -> str:
    row, start, _, loss, text = span
    return f"'{str(text).strip()}' in text '{row}', from token {start} ({float(str(loss)):.2f} nats a token)."
