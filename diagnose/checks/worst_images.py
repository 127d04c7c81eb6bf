"""The images on which a detector or a segmentation errs most, drawn."""

from dataclasses import dataclass
from typing import ClassVar, final

from diagnose.check import Check
from diagnose.tide import TYPES
from diagnose.worst_images import erring, ids_of
from diagnose.worst_masks import worst_masks
from study.errors import counted
from study.record import Cell, Picture, Record, Table, Verdict
from study.task import Kind
from study.view import View


@final
@dataclass(frozen=True, slots=True)
class WorstImages(Check):
    """The images with most errors: what is there, and what was found right, wrong and not at all.

    Of a segmentation those with the smallest overlap, the largest missed objects and most wrong pixels.
    """

    needs: ClassVar[tuple[str, ...]] = ("predictions", "drawn")
    kinds: ClassVar[frozenset[Kind]] = frozenset({"detection", "segmentation"})

    shown: int = 100

    def check(self, view: View) -> Record:
        if view.task.kind == "segmentation":
            return worst_masks(view)
        seen = erring(view)
        order = seen.order
        if not len(order):
            said = f"There are no errors among the finds with a score from {seen.score:.2f} on."
            return Record("worst-images", Verdict.GOOD, said)
        shown = order[: self.shown]
        names = ids_of(view, seen.found.position[shown])
        counts = {name: seen.count(name) for name in TYPES}
        objects, hits = seen.objects, seen.hits
        rows: list[tuple[Cell, ...]] = [
            (
                names[int(seen.found.position[at])],
                int(objects[at]),
                int(hits[at]),
                *(int(counts[name][at]) for name in TYPES),
            )
            for at in shown.tolist()
        ]
        drawn = view.table("drawn").collect()
        pictures = tuple(Picture(title, "image", *rest) for title, *rest in drawn.iter_rows())
        said = (
            f"{counted(len(order), 'image')} of {len(seen.found)} have errors among the finds with a score "
        )
        said += (
            f"from {seen.score:.2f} on. Drawn are the worst of them: objects in white, right finds in green, "
        )
        said += "wrong ones in orange with their type, missed objects in yellow."
        table = Table("Images with most errors", ("id", "objects", "right", *TYPES), tuple(rows))
        return Record("worst-images", Verdict.NOTED, said, tables=(table,), pictures=pictures)
