"""What ``--steps`` says: a tree of steps, checked whole before the first one runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from export.change import PASSES
from export.settings import make_pass
from study.errors import InputError, did_you_mean

AS_IT_CAME = "as_it_came"
CHOSEN, NEAREST = "chosen", "nearest"
"""The last step of a search: the artifact that it chose, or that came nearest where it chose none."""
LONGEST = 60
"""Characters of a step's name."""
TOKEN = re.compile(r"\s*([(),|]|[^\s(),|]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the plan: what was typed, its unique name, and the step whose artifact it takes.

    ``parent`` is an index into the plan; the model as it came is step 0 and has none.
    """

    typed: str
    name: str
    parent: int | None

    @property
    def word(self) -> str:
        """The pass: what stands before the colon."""
        return self.typed.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, each after its parent; ``notes`` say what was put in or left out."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def folder(self, index: int) -> str:
        """The folder of a step: ``02_int8``."""
        return folder_of(index, self.steps[index])

    def grown(self, typed: str, parent: int, unsaid: str = "") -> Step:
        """A step that may be added to these; its name leaves out the settings ``unsaid`` at its end."""
        name = slug(typed.removesuffix(f":{unsaid}"))
        return Step(typed, _unique(name, {step.name for step in self.steps}), parent)

    def needs_calibration(self) -> bool:
        """Whether any step reads calibration rows."""
        passes = (step.word for step in self.steps[1:] if step.word in PASSES)
        return any(PASSES.get(word).needs_calibration for word in passes)


def folder_of(index: int, step: Step) -> str:
    """The folder of a step: ``02_int8``."""
    return f"{index:02d}_{step.name}"


def given(names: Sequence[str]) -> Plan:
    """A plan of models that are all given, one step a model, none made from another."""
    taken: set[str] = set()
    return Plan(tuple(Step(name, _unique(slug(name), taken), None) for name in names))


def slug(text: str) -> str:
    """A step's name as typed, lower case, with every run of other characters turned to ``_``.

    One that many settings make too long for a folder keeps its start and a hash of the whole.
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "model"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9].strip('_')}_{sha256(text.encode()).hexdigest()[:8]}"


def parse(text: str, artifact: str) -> Plan:
    """The plan of ``prune:0.3,onnx,(int8|fp16)`` for a model of that format with precision.

    ``onnx`` is put in where a later step needs it, and left out where the model is ONNX already.

    Raises:
        InputError: the text is no plan, a step is unknown, or a step cannot take what the one before gives.
    """
    tree = _Reader(text).whole()
    return _Grower(artifact).grow(tree)


Chain: TypeAlias = "list[str | list[Chain]]"
"""Steps in order; a list among them is a branch of chains."""


class _Reader:
    """Reads ``chain := item (',' item)*`` with ``item := step | '(' chain ('|' chain)* ')'``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = TOKEN.findall(text)
        self._at = 0

    def whole(self) -> Chain:
        chain = self._chain()
        if self._at < len(self._tokens):
            raise self._wrong()
        return chain

    def _chain(self) -> Chain:
        chain: Chain = [self._item()]
        while self._take(","):
            chain.append(self._item())
        return chain

    def _item(self) -> "str | list[Chain]":
        if self._take("("):
            chains = [self._chain()]
            while self._take("|"):
                chains.append(self._chain())
            if not self._take(")"):
                raise self._wrong()
            return chains
        if self._at >= len(self._tokens) or self._tokens[self._at] in "(),|":
            raise self._wrong()
        self._at += 1
        return str(self._tokens[self._at - 1])

    def _take(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _wrong(self) -> InputError:
        found = f"at '{self._tokens[self._at]}'" if self._at < len(self._tokens) else "at its end"
        return InputError(
            f"'{self._text}' is no list of steps ({found}): a comma chains, (a|b) branches, "
            "for example prune:0.3,onnx,(int8|fp16)."
        )


class _Grower:
    """Grows the plan from the model as it came, one step on one parent at a time."""

    def __init__(self, artifact: str) -> None:
        self._came = artifact
        self._steps = [Step(AS_IT_CAME, AS_IT_CAME, None)]
        self._artifacts = [artifact]
        self._taken = {AS_IT_CAME}
        self._notes: dict[str, None] = {}

    def grow(self, chain: Chain) -> Plan:
        self._follow(chain, [0])
        return Plan(tuple(self._steps), tuple(self._notes))

    def _follow(self, chain: Chain, ends: list[int]) -> list[int]:
        for item in chain:
            if isinstance(item, str):
                ends = [self._add(item, parent) for parent in ends]
            else:
                ends = [end for parent in ends for branch in item for end in self._follow(branch, [parent])]
        return ends

    def _add(self, typed: str, parent: int) -> int:
        artifact = self._artifacts[parent]
        if typed == "onnx" and artifact.startswith("onnx/"):
            self._notes["The model is ONNX already: the step onnx was left out."] = None
            return parent
        takes, gives = _terms(typed)
        if artifact not in takes:
            if not artifact.startswith("onnx/") and any(taken.startswith("onnx/") for taken in takes):
                if self._steps[parent].word != "onnx":
                    self._notes[f"The step onnx was put in before {typed}, which needs it."] = None
                return self._add(typed, self._add("onnx", parent))
            if (
                artifact != self._came or parent != 0
            ):  # the model as it came may be what no plan could foresee
                raise InputError(_order(typed, takes, self._steps[parent], artifact))
        for index, step in enumerate(self._steps):
            if step.parent == parent and step.typed == typed:
                return index
        self._steps.append(Step(typed, _unique(slug(typed), self._taken), parent))
        self._artifacts.append(gives)
        return len(self._steps) - 1


def _terms(typed: str) -> tuple[tuple[str, ...], str]:
    """What a step takes and gives, once its number has been looked at."""
    word = typed.partition(":")[0]
    if word not in PASSES:
        raise InputError(f"There is no step '{word}'.{did_you_mean(word, PASSES)}")
    made = make_pass(typed)
    return made.takes, made.gives


def _order(typed: str, takes: tuple[str, ...], before: Step, artifact: str) -> str:
    if artifact.startswith("onnx/") and not any(taken.startswith("onnx/") for taken in takes):
        return f"Step '{typed}' works on the PyTorch model: put it before onnx."
    return (
        f"Step '{typed}' takes {takes[0]}, and '{before.typed}' before it gives {artifact}: "
        f"branch instead, for example ({before.typed}|{typed})."
    )


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with ``_2``, ``_3`` … for a repeat."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique
