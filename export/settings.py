"""A pass as it is typed: ``prune:0.3``, ``prune:latency=5ms``, ``int8:exclude=fc1+fc2:calibrator=entropy``.

The fields of a pass that hold a number, a text, a truth value or names are its settings. One is
``name=value``, with ``-`` for ``_`` and ``+`` between names; the field named by ``Pass.argument`` needs no
name, and neither does a truth value that is to be true.
"""

from dataclasses import fields
from typing import get_type_hints

from export.change import PASSES, Pass
from study.errors import InputError, did_you_mean

Value = float | int | str | bool | tuple[str, ...]
READERS = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    tuple[str, ...]: "names with + between them",
}
"""The types of a field that can be typed, and what each takes, in words."""
TRUTH = {"true": True, "false": False}


def make_pass(typed: str) -> Pass:
    """The pass of a step, with its settings.

    Raises:
        InputError: no such step or setting, or a value that it does not take.
    """
    word, *texts = typed.split(":")
    kind = PASSES.get(word)
    known = settings_of(kind)
    if not texts and kind.argument:
        raise InputError(f"Step '{word}' needs a {kind.argument}: type for example '{word}:0.3'.")
    given: dict[str, Value] = {}
    for text in texts:
        name, value = _setting(typed, text, kind.argument, known)
        if name in given:
            raise InputError(f"Step '{typed}' says its {_typed(name)} twice: say it once.")
        given[name] = value
    return kind(**given)


def settings_of(kind: type[Pass]) -> dict[str, object]:
    """The settings of a pass: name of the field, and its type."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind) if hints[one.name] in READERS}  # type: ignore[arg-type]  # every pass is a dataclass


def _setting(typed: str, text: str, argument: str, known: dict[str, object]) -> tuple[str, Value]:
    word = typed.partition(":")[0]
    before, equals, after = text.partition("=")
    name = before.replace("-", "_")
    if not equals and known.get(name) is bool:
        return name, True
    if not equals:
        if not argument:
            what = "no number" if not known else "no number without a name"
            instead = f"'{word}'" if not known else f"for example '{word}:{_typed(next(iter(known)))}=…'"
            raise InputError(f"Step '{word}' takes {what}: type {instead}.")
        name, after = argument, text
    elif name not in known:
        names = [_typed(one) for one in known]
        raise InputError(f"Step '{word}' has no setting '{before}'.{did_you_mean(before, names)}")
    return name, _value(typed, after, known[name])


def _value(typed: str, text: str, kind: object) -> Value:
    if kind == tuple[str, ...]:
        return tuple(filter(None, text.split("+")))
    if kind is str and text:
        return text
    if kind is bool and text in TRUTH:
        return TRUTH[text]
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        pass
    word = typed.partition(":")[0]
    wanted = READERS[kind]  # type: ignore[index]  # one of its keys, as settings_of saw
    said = f"'{text}' in step '{typed}' is no {wanted.removeprefix('a ')}"
    raise InputError(f"{said}: type for example '{word}:0.3'." if kind is float else f"{said}.")


def _typed(name: str) -> str:
    return name.replace("_", "-")
