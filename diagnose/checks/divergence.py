"""How far the next-token probabilities moved since the model as it came."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import polars as pl

from diagnose.check import Check
from study.compare import groups_of
from study.errors import SkipError
from study.record import Cell, Metric, Record, Table, Verdict
from study.statistics import count_units, ratio_of, share_of_parts
from study.task import Kind
from study.view import View

TAILS = (50, 95, 99)
"""Percentiles of the tokens that are told."""


@final
@dataclass(frozen=True, slots=True)
class Divergence(Check):
    """How far the next-token probabilities moved: KL divergence, and likeliest tokens that changed."""

    needs: ClassVar[tuple[str, ...]] = ("predictions", "divergence")
    kinds: ClassVar[frozenset[Kind]] = frozenset({"language"})
    compares: ClassVar[bool] = True

    shown: int = 20

    def check(self, view: View) -> Record:
        told = view.table("predictions")
        wanted = [name for name in ("position", "id", "group") if name in told.collect_schema().names()]
        sums = view.table("divergence").select(
            "position",
            "parts",
            "flips",
            total=pl.col("kl").list.sum().cast(pl.Float64),
            most=pl.col("kl").list.max(),
        )
        frame = sums.join(told.select(wanted), on="position").filter(pl.col("parts") > 0).sort("position")
        rows = frame.filter(pl.col("total").is_finite()).collect()
        groups = groups_of(rows)
        if count_units(len(rows), groups) < 2:  # noqa: PLR2004 - an interval needs two
            raise SkipError("an interval needs two texts (or groups) with finite outputs")
        parts, total, flips = (rows[name].to_numpy() for name in ("parts", "total", "flips"))
        mean = ratio_of(total, parts, groups=groups, better="lower", unit="nats")
        flipped = share_of_parts(flips, parts, groups=groups, better="lower")
        tails = _tails(view)
        metrics = {"kl_divergence": mean, "top_token_flips": flipped, **tails}
        said = f"{mean.value:.3g} nats [{mean.low:.3g}, {mean.high:.3g}] (KL divergence, mean a token)"
        summary = (
            f"The next token's probabilities are {said} from those of the model as it came; the likeliest "
            f"token is another one at {int(flips.sum())} of {int(parts.sum())} tokens."
        )
        verdict = Verdict.NOTED if flips.any() else Verdict.GOOD
        return Record("divergence", verdict, summary, metrics=metrics, tables=(self._table(rows),))

    def _table(self, rows: pl.DataFrame) -> Table:
        mean = rows["total"] / rows["parts"]
        order = np.argsort(-mean.to_numpy(), kind="stable")[: self.shown].tolist()
        cells: list[tuple[Cell, ...]] = [
            (rows["id"][at], rows["parts"][at], mean[at], rows["most"][at], rows["flips"][at]) for at in order
        ]
        columns = ("text", "tokens", "mean divergence", "largest", "likeliest changed")
        return Table("Texts that moved most", columns, tuple(cells))


def _tails(view: View) -> dict[str, Metric]:
    """Percentiles over the tokens, as they are."""
    every = view.table("divergence").select(pl.col("kl").explode()).collect()["kl"].drop_nulls()
    finite = every.filter(every.is_finite())
    return {
        f"kl_divergence@p{tail}": Metric.exact(
            float(np.percentile(finite.to_numpy(), tail)), len(finite), "nats", "lower"
        )
        for tail in TAILS
    }
