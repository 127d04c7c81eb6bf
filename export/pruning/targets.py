"""Pruning until a latency or a size is reached: ratios are tried, each as the ONNX model that comes of it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from export.change import Pass
from export.graphs.exporters import Source, exported
from export.graphs.files import write_model
from export.graphs.layers import layers_of
from export.pruning.channels import Cut
from export.settings import make_pass
from export.timing.paired import Paired
from study.amounts import milliseconds, share, size
from study.errors import InputError, SkipError
from study.progress import Progress
from study.record import Cell, Table

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.examples import Batch
    from study.subject import Machine, Model, Subject

MOST: Final = 0.9
"""No more is tried: of ten channels one is left."""
FINE: Final = 0.02
"""Ratios that lie closer are not told apart."""
EXPORTERS: Final = ("torchscript", "dynamo")
"""The first takes a tenth of the time; kernels and sizes come out the same."""
LARGEST: Final = 1e9
"""Bytes of weights of which no second and third copy is run to be timed."""
BRIEFLY: Final = {"int8": "int8:quick:calibrator=minmax:rows=32"}
"""Steps that are as fast and as small with less care for the answers."""


@dataclass(frozen=True, slots=True)
class Then:
    """The steps after pruning and export for which a latency or a size is meant; none: of the float ONNX."""

    subject: "Subject"
    words: tuple[str, ...] = ()

    def __call__(self, model: "Model", folder: Path, machine: "Machine") -> "Model":
        """The float model after these steps.

        Raises:
            SkipError: one of them cannot change it.
        """
        for word in self.words:
            subject = replace(self.subject, model=model)
            model = followed(word).apply(subject, folder / word, machine, Progress()).model
        return model

    def __str__(self) -> str:
        """What comes of it."""
        return " ".join((*reversed(self.words), "ONNX"))


def followed(word: str) -> Pass:
    """The pass of a step after pruning and export, with its quickest settings.

    Raises:
        InputError: there is no such step, or it takes no ONNX model.
    """
    made = make_pass(BRIEFLY.get(word, word))
    if not any(artifact.startswith("onnx/") for artifact in made.takes):
        raise InputError(f"prune takes then=int8 and others that change an ONNX model, and not '{word}'.")
    return made


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: at most so many milliseconds or bytes, or such a share of what it was."""

    latency_ms: float | None = None
    latency_share: float | None = None
    bytes: float | None = None
    bytes_share: float | None = None

    @classmethod
    def of(cls, latency: str, bytes_: str) -> Self | None:
        """Of ``5ms`` or ``50%``, and ``2MB`` or ``50%``; None where both are empty.

        Raises:
            InputError: one of them is neither.
        """
        if not (latency or bytes_):
            return None
        shares = [share(text) if text.endswith("%") else None for text in (latency, bytes_)]
        made = cls(
            None if shares[0] else milliseconds(latency),
            shares[0],
            None if shares[1] else size(bytes_),
            shares[1],
        )
        for name, text, read, like in (
            ("latency", latency, made.latency_ms or made.latency_share, "5ms or 50%"),
            ("size", bytes_, made.bytes or made.bytes_share, "2MB or 50%"),
        ):
            if text and not read:
                raise InputError(f"'{text}' is no {name} for prune: type for example {name}={like}.")
        return made

    def reached_by(self, trial: "Trial") -> bool:
        """Whether the whole interval of a measurement lies within; a size has none."""
        return all(
            (
                self.latency_ms is None or trial.timed.second.high <= self.latency_ms,
                self.latency_share is None or 1 / trial.timed.speedup.low <= self.latency_share,
                self.bytes is None or trial.made.bytes <= self.bytes,
                self.bytes_share is None or trial.made.bytes <= self.bytes_share * trial.before.bytes,
            )
        )

    def __str__(self) -> str:
        """In words."""
        told = []
        if self.latency_ms is not None:
            told.append(f"a latency of {self.latency_ms:g} ms")
        if self.latency_share is not None:
            told.append(f"{self.latency_share:.0%} of the latency")
        if self.bytes is not None:
            told.append(f"a size of {self.bytes / 1e6:g} MB")
        if self.bytes_share is not None:
            told.append(f"{self.bytes_share:.0%} of the size")
        return " and ".join(told)


@dataclass(frozen=True, slots=True)
class Exported:
    """A module as ONNX; ``macs`` are those of one row."""

    model: "Model"
    macs: int

    @property
    def bytes(self) -> int:
        """Of its file."""
        return self.model.bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """What one ratio came to, as an ONNX model beside the unpruned one; ``form`` says what kind of one."""

    ratio: float
    parameters: int
    made: "Exported"
    before: "Exported"
    timed: Paired
    form: str = "ONNX"

    def __str__(self) -> str:
        """In words."""
        now, before, faster = self.timed.second, self.timed.first, self.timed.speedup
        return (
            f"as {self.form} {self.made.bytes / 1e6:.3g} MB instead of {self.before.bytes / 1e6:.3g} MB and "
            f"{now.value:.3g} ms [{now.low:.3g}, {now.high:.3g}] instead of {before.value:.3g} ms for one "
            f"row ({faster.value:.3g}x, 95 % interval {faster.low:.3g} to {faster.high:.3g}; noise floor "
            f"{self.timed.floor:.1%}: {self.timed.word})"
        )

    @property
    def gain(self) -> str:
        """In three words or so, what came of it."""
        smaller = "smaller" if self.made.bytes < self.before.bytes else "no smaller"
        return {"faster": f"{smaller} and faster", "slower": f"{smaller}, but slower"}.get(
            self.timed.word, f"{smaller}, not faster"
        )


@dataclass(slots=True)
class Bench:
    """The unpruned model as ONNX, and the rows and the machine that others are timed with beside it."""

    folder: Path
    example: "dict[str, torch.Tensor]"
    outputs: tuple[str, ...]
    row: "Batch"
    machine: "Machine"
    then: Then
    unpruned: Exported
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        module: "nn.Module",
        example: "dict[str, torch.Tensor]",
        outputs: tuple[str, ...],
        row: "Batch",
        machine: "Machine",
        folder: Path,
        then: Then,
    ) -> Self:
        """Export the unpruned model.

        Raises:
            SkipError: no exporter can, or it is too large to be timed beside others.
        """
        weights = sum(one.numel() * one.element_size() for one in module.parameters())
        if weights > LARGEST:
            raise SkipError(f"{weights / 1e9:.2g} GB of weights are too many to be timed beside others")
        source = Source(module, example, outputs, EXPORTERS)
        unpruned = _quick(source, row, folder / "unpruned", then, machine)
        return cls(folder, example, outputs, row, machine, then, unpruned)

    def try_out(self, ratio: float, module: "nn.Module") -> Trial:
        """Export a pruned module, and time it beside the unpruned one."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            source = Source(module, self.example, self.outputs, EXPORTERS)
            made = _quick(source, self.row, Path(folder), self.then, self.machine)
            timed = Paired.of(self.unpruned.model, made.model, self.row, self.machine)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        trial = Trial(ratio, parameters, made, self.unpruned, timed, str(self.then))
        self.trials.append(trial)
        return trial

    def table(self, kept: Trial, goal: "Goal") -> Table:
        """One line a trial, in the order in which they were made."""
        rows: list[tuple[Cell, ...]] = [
            (
                one.ratio,
                one.parameters,
                one.made.macs,
                one.made.bytes,
                one.timed.second.value,
                one.timed.second.low,
                one.timed.second.high,
                one.timed.speedup.value,
                one.timed.speedup.low,
                one.timed.speedup.high,
                "kept" if one is kept else "reached" if goal.reached_by(one) else "not reached",
            )
            for one in self.trials
        ]
        columns = (
            "ratio",
            "parameters",
            "MACs",
            "bytes",
            "median ms",
            "low",
            "high",
            "times faster",
            "low",
            "high",
            "",
        )
        return Table("Ratios tried", columns, tuple(rows))


def reach(
    goal: Goal,
    bench: Bench,
    make: "Callable[[float], tuple[nn.Module, Cut]]",
    progress: Progress,
) -> "tuple[Trial, nn.Module, Cut]":
    """The smallest ratio tried that reaches the goal, by bisection.

    Raises:
        SkipError: the most that is tried does not reach it; the message says what that gives.
    """
    low, high = 0.0, MOST
    known: dict[str, Trial] = {}
    best: tuple[Trial, nn.Module, Cut] | None = None
    steps = 6
    for step in progress.over(range(steps), "trying ratios", steps):
        ratio = high if step == 0 else round((low + high) / 2, 3)
        module, cut = make(ratio)
        widths = str((cut.widths, cut.units, {name: len(left) for name, (_, left) in cut.heads.items()}))
        trial = known.get(widths) or bench.try_out(ratio, module)
        known[widths] = trial
        if goal.reached_by(trial):
            high, best = ratio, (trial, module, cut)
        elif best is None:
            raise SkipError(
                f"{goal} cannot be reached: at the ratio {ratio:g}, the most that is tried, it is {trial}"
            )
        else:
            low = ratio
        if high - low < FINE:
            break
    assert best is not None
    return best


def _quick(source: Source, row: "Batch", folder: Path, then: Then, machine: "Machine") -> Exported:
    """As ONNX, with the batch free, and after the steps; not verified, for it is only timed.

    Raises:
        SkipError: no exporter can.
    """
    reasons = []
    for exporter in source.exporters:
        try:
            graph = exported(source, exporter, ())
            layers = layers_of(graph, {name: array.shape for name, array in row.items()})
            model = then(write_model(graph, folder, "fp32"), folder, machine)
            return Exported(model, sum(layer.macs or 0 for layer in layers))
        except SkipError as error:
            reasons.append(str(error))
    raise SkipError("; ".join(dict.fromkeys(reasons)))
