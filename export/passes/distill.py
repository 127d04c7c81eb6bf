"""A smaller model that answers as the one at hand does."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from export.change import Change, Pass
from export.pruning.recovery import NO_ROWS, Teaching, figures_of, settings_told, told_of
from export.quiet import library
from study.errors import InputError, SkipError
from study.feed import Feed, Piece
from study.fits import Fitted
from study.loading.calling import named_outputs
from study.losses import ONE_OF_SEVERAL, must_be_fitted
from study.progress import Progress
from study.record import Metric, Record, Verdict
from study.scale import one_of_several, tolerance_of
from study.subject import Machine, Subject
from study.task import EVERY, PARTS, VALUES, Kind, Task, scored_output
from study.taught import Caller

if TYPE_CHECKING:
    import torch
    from torch import nn

FIRST_ROWS: Final = 8
"""Rows that show whether the student takes and gives what the teacher does."""
NEEDS_STUDENT: Final = "distill needs --student module:factory, which builds the smaller model."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Distill(Pass, Teaching):
    """A student of another architecture learns to answer as the model does (Hinton et al. 2015)."""

    takes: ClassVar[tuple[str, ...]] = ("pytorch/fp32",)
    gives: ClassVar[str] = "pytorch/fp32"
    kinds: ClassVar[frozenset[Kind]] = EVERY - {"detection"}
    init: str = "own"
    """``own``: as the factory makes it. ``teacher``: the teacher's tensors of the same names and shapes."""

    def __post_init__(self) -> None:
        """Settings out of their range are found before anything runs."""
        self.fit()
        if self.init not in ("own", "teacher"):
            raise InputError(f"There is no init={self.init}: own (as the factory makes it) or teacher.")

    def apply(self, subject: Subject, out: Path, machine: Machine, progress: Progress) -> Change:
        import torch

        from study.loading import load_module, save_module
        from study.loading.eager import new_module

        asked = subject.student
        if asked is None:
            raise InputError(NEEDS_STUDENT)
        if subject.training is None or subject.task is None:
            raise SkipError(f"{NO_ROWS}: the few that calibrate would not train a student")
        must_be_fitted(subject.task)
        teacher, student = load_module(subject.model), new_module(asked.arch, asked.arch_args, "--student")
        begun = _begun(student, teacher) if self.init == "teacher" else 0
        before, after = (sum(one.numel() for one in part.parameters()) for part in (teacher, student))
        _must_answer_alike(student, teacher, subject, asked.arch)
        device = torch.device(machine.device)
        fitted = self.taught(student.to(device), teacher.to(device), subject, machine, progress)
        out.mkdir(parents=True, exist_ok=True)
        model = save_module(student.cpu().eval(), out / "model.pt", asked)
        settings = settings_told(self.fit(machine.seed), fitted)
        provenance = {
            "torch": version("torch"),
            "student": f"{asked.arch} {asked.arch_args}",
            "init": self.init,
            **settings,
        }
        return Change(model, (_record(before, after, begun, fitted),), provenance)


def _begun(student: "nn.Module", teacher: "nn.Module") -> int:
    """Copy what has the same name and shape; how many tensors these were.

    Raises:
        SkipError: none has.
    """
    known, own = teacher.state_dict(), student.state_dict()
    same = {name: one for name, one in known.items() if name in own and own[name].shape == one.shape}
    if not same:
        raise SkipError(
            "no tensor of the student has the name and shape of one of the teacher (init=teacher)"
        )
    student.load_state_dict(same, strict=False)
    return len(same)


def _must_answer_alike(student: "nn.Module", teacher: "nn.Module", subject: Subject, arch: str) -> None:
    """Compare what both say of the first training rows.

    Raises:
        SkipError: there are none, or the teacher does not run on them.
        InputError: the student does not, or its answers are of another kind.
    """
    assert subject.training is not None
    assert subject.task is not None
    feed = Feed.open(subject.training, subject.inputs)
    piece = next((piece for piece in feed.pieces(FIRST_ROWS) if len(piece)), None)
    if piece is None:
        raise SkipError("none of the training rows can be used")
    wanted = _shown(teacher, subject.task, piece)
    try:
        given = _shown(student, subject.task, piece)
    except (SkipError, InputError) as error:
        raise InputError(f"--student {arch} does not do what the model does: {error}") from error
    if given.shape != wanted.shape:
        raise InputError(
            f"--student {arch} gives {_sizes(given)} for {len(piece)} rows, and the model {_sizes(wanted)}: "
            "build it with as many outputs."
        )
    if not _fits(subject.task, given):
        raise InputError(
            f"The model gives {subject.task.output}, and --student {arch} does not: end its forward as the "
            "model's ends."
        )


def _shown(module: "nn.Module", task: Task, piece: Piece) -> "torch.Tensor":
    """The scored output of some rows."""
    import torch

    call = Caller(module.eval())
    with library("its forward"), torch.no_grad():
        outputs = dict(named_outputs(call(call.tensors(piece)), ""))
    output = scored_output(task, outputs)
    if not isinstance(output, torch.Tensor):
        raise SkipError(f"the scored output is no tensor but a {type(output).__name__}")
    return output


def _fits(task: Task, output: "torch.Tensor") -> bool:
    """Whether scores are what the task says (probabilities, logits), as far as they show it beyond doubt.

    The logarithms of probabilities are logits too.
    """
    if task.kind in VALUES:
        return True
    axis = task.class_axis if task.kind in PARTS else -1
    lines = output.float().movedim(axis, -1).flatten(0, -2).numpy().astype(np.float64)
    if task.kind not in ONE_OF_SEVERAL or lines.shape[-1] == 1:
        return task.output != "probabilities" or bool(((lines >= 0) & (lines <= 1)).all())
    scale = one_of_several(lines, tolerance_of(lines))
    return scale == task.output or (scale, task.output) == ("log-probabilities", "logits")


def _sizes(output: "torch.Tensor") -> str:
    return "x".join(str(size) for size in output.shape)


def _record(before: int, after: int, begun: int, fitted: Fitted) -> Record:
    smaller = 1 - after / before
    size = f"{smaller:.1%} fewer" if smaller > 0 else f"{-smaller:.1%} more"
    summary = f"The student has {after:,} parameters, {size} than the model's {before:,}."
    if begun:
        summary += f" It began with {begun} of the model's tensors."
    metrics = {
        "parameters@before_distillation": Metric.exact(before, 1, better="lower"),
        "parameters@after_distillation": Metric.exact(after, 1, better="lower"),
        **figures_of(fitted, "distillation"),
    }
    return Record("distill", Verdict.NOTED, f"{summary} {told_of(fitted, 'distillation')}", metrics=metrics)
