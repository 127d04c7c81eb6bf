"""What can be done with each kind of task, as a Markdown table: read off what the plug-ins declare."""

from collections.abc import Mapping

from diagnose.check import CHECKS
from explain.method import METHODS
from export.change import PASSES
from study.reading import READINGS
from study.task import Kind

TITLES: Mapping[Kind, str] = {
    "binary": "binary",
    "multiclass": "multi-class",
    "multilabel": "multi-label",
    "regression": "regression",
    "forecasting": "forecasting",
    "language": "language model",
    "tokens": "token classification",
    "segmentation": "segmentation",
    "detection": "detection",
}


def table() -> str:
    """One line a kind that can be read, with the names of its checks, methods and steps."""
    lines = ["| Kind | Diagnose | Explain | Export |", "|---|---|---|---|"]
    for kind, title in TITLES.items():
        if kind not in READINGS:
            continue
        checks = [name for name in CHECKS if kind in CHECKS.get(name).kinds]
        methods = [name for name in METHODS if kind in METHODS.get(name).kinds]
        steps = [name for name in PASSES if kind in PASSES.get(name).kinds]
        cells = (", ".join(names) or "-" for names in (checks, methods, steps))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
