"""How raw rows became the model's inputs, told to whoever feeds the deployed artifact."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from study.channels import GREY, channels_last
from study.data.rows.pixels import is_images
from study.feed import Feed
from study.matching import match_inputs
from study.preparation import channels_of
from study.record import JSON
from study.subject import Data, InputSpec, Subject
from study.texts import IDS, MASK, is_lengths, text_columns
from study.tokens import Tokenizer

if TYPE_CHECKING:
    from study.data.source import Column

Kind: TypeAlias = Literal["arrays", "images", "columns", "texts", "function"]
PARTS: Final = "token_type_ids"
LARGEST_SOURCE: Final = 1 << 20
"""Bytes of a source file that is copied beside a model."""


@dataclass(frozen=True, slots=True)
class Feeding:
    """What is known of the preparation: as JSON, and the files that belong to it.

    ``kind`` is what the raw rows are; ``files`` are the texts of these, by name.
    """

    kind: Kind
    told: Mapping[str, JSON]
    files: Mapping[str, str]


def feeding_of(subject: Subject) -> Feeding | None:
    """From the first row of the data; None where there is none, so that nothing is known."""
    split = subject.calibration or subject.training or subject.judged
    if split is None:
        return None
    feed = Feed.open(split, subject.inputs)
    rows = feed.source.read(feed.positions[:1])
    data = split.data
    if data.preprocess:
        return _by_function(data)
    raw: dict[str, Column] = dict(rows.inputs)
    texts = text_columns(raw)
    if texts and feed.preparation.tokenizer is not None:
        return _by_tokenizer(data, feed.preparation.tokenizer, subject.inputs, texts)
    names = match_inputs(raw, subject.inputs) if raw else {}
    specs = {spec.name: spec for spec in subject.inputs}
    told: dict[str, JSON] = {}
    kinds: set[Kind] = set()
    for name, source in names.items():
        kind, said = _of_column(
            raw[source], specs.get(name, InputSpec(name)), data, rows.features.get(source, ())
        )
        kinds.add(kind)
        told[name] = {"from": source, "kind": kind, **said, "missing": _missing(data, source)}
    kind = next(iter(kinds)) if len(kinds) == 1 else "arrays"
    return Feeding(kind, {"kind": kind, "inputs": told, "pad": data.pad}, {})


def _of_column(
    column: "Column", spec: InputSpec, data: Data, features: tuple[str, ...]
) -> tuple[Kind, dict[str, JSON]]:
    if is_images(column):
        return "images", _image(column, spec, data)
    if features:
        return "columns", {"columns": list[JSON](features)}
    dtype = column.dtype.name if isinstance(column, np.ndarray) else np.asarray(column[0]).dtype.name
    return "arrays", {"as": "they stand, in the input's dtype", "dtype": dtype}


def _image(column: "Column", spec: InputSpec, data: Data) -> dict[str, JSON]:
    """Decoded pixels become float32 from 0 to 1; nothing is subtracted and nothing else is divided by."""
    count = channels_of(list(column), spec)
    shape = next((one.shape for one in data.shapes if one.shape and one.name in ("", spec.name)), spec.shape)
    last = channels_last(spec.shape)
    sides = (shape[1:3] if last else shape[2:4]) if shape and len(shape) == 4 else ()  # noqa: PLR2004 - of images
    known = [side for side in sides if side is not None]
    return {
        "pixels": "uint8, divided by 255",
        "mean": None,
        "standard_deviation": None,
        "colours": "grey" if count == GREY else "RGB",
        "axes": "height, width, channels" if last else "channels, height, width",
        "size": list[JSON](known) if len(known) == 2 else None,  # noqa: PLR2004 - height and width
        "resized": "bilinear, by Pillow, both sides at once",
    }


def _missing(data: Data, source: str) -> JSON:
    """What stands in for a missing cell; None where a row that lacks one is no row."""
    fill = dict(data.fill).get(source)
    return {"how": data.missing, "values": list[JSON](fill)} if fill else None


def _by_function(data: Data) -> Feeding:
    """The user's own function is named, and its file copied to be read, never run by what we write."""
    module = sys.modules.get(data.preprocess.partition(":")[0])
    file = Path(getattr(module, "__file__", None) or "")
    own = file.suffix == ".py" and "site-packages" not in file.parts and file.stat().st_size <= LARGEST_SOURCE
    files = {f"preprocess/{file.name}": file.read_text(encoding="utf-8")} if own else {}
    told: dict[str, JSON] = {
        "kind": "function",
        "function": data.preprocess,
        "source": next(iter(files), None),
        "note": "The function turns one raw row into the model's inputs; feed what it returns, rows first.",
    }
    return Feeding("function", told, files)


def _by_tokenizer(
    data: Data, tokenizer: Tokenizer, inputs: tuple[InputSpec, ...], texts: list[str]
) -> Feeding:
    name, text = tokenizer.written()
    file = f"tokenizer/{name}"
    told: dict[str, JSON] = {
        "kind": "texts",
        "texts": list[JSON](texts),
        "arrays": {spec.name: _array_of(spec.name) for spec in inputs},
        "tokenizer": {
            **tokenizer.settings(),
            "file": file,
            "pad": tokenizer.pad,
            "unknown": tokenizer.unknown,
            "max_tokens": data.max_tokens or None,
            "longest": data.longest or None,
        },
    }
    return Feeding("texts", told, {file: text})


def _array_of(name: str) -> str:
    """Which array of the tokens an input takes, as ``study.texts.named`` gives them."""
    if name in (IDS, MASK, PARTS):
        return name
    if "mask" in name.lower():
        return MASK
    return "lengths" if is_lengths(name) else IDS
