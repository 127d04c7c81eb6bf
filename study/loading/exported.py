"""torch.export archives: read without a full unpickle, and refused where they were captured in train mode."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from study.errors import InputError, few
from study.subject import Model

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def load_program(model: Model) -> "ExportedProgram":
    """The exported program.

    Raises:
        InputError: torch cannot read it, or it was captured in train mode.
    """
    import torch

    try:
        # An open file, not a path: torch complains of a path that does not end in .pt2.
        with (
            _no_full_unpickle(trust=model.trust),
            warnings.catch_warnings(),
            model.path.open("rb") as file,
        ):
            warnings.simplefilter("ignore")
            program = torch.export.load(file)
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{model.path} is a torch.export archive that torch {torch.__version__} cannot read "
            f"({line[:200]}): export it again with this version."
        ) from error
    training = [node.name for node in program.graph.nodes if _trains(node)]
    if training:
        raise InputError(
            f"{model.path} was captured in train mode ({few(training)}): call model.eval() first and export "
            "it again."
        )
    return program


@contextmanager
def _no_full_unpickle(*, trust: bool) -> Iterator[None]:
    """Forbid the full unpickle that torch.export.load falls back to for what lies in the archive."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    if not trust:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _trains(node: "Node") -> bool:
    """Whether an operator does what it does in training alone: drops values, or takes batch statistics."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    given: dict[str, Any] = {argument.name: argument.default_value for argument in schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    if given.get("dropout_p"):
        return True  # attention has no flag: it drops where it was captured with a probability
    if not (given.get("training") or given.get("train")):
        return False
    chances = [given[name] for name in ("p", "dropout") if name in given]
    if chances:
        return bool(chances[0])
    # A norm that keeps no running statistics takes those of the batch in eval mode too.
    return "running_mean" not in given or given["running_mean"] is not None
