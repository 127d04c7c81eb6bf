"""Docstrings of four packages, to be told apart by the package that they are from."""

import ast
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("numpy", "scipy", "sklearn", "torch")
NAMES = re.compile(
    r"\b(numpy|np|scipy|sklearn|scikit[- ]learn|scikits?|(?:py|lib)?torch|aten)\b[.:]*", re.IGNORECASE
)
"""What would give the package away."""
WORDS = (8, 90)
"""The fewest and the most words of a text; what is longer is cut."""
A_PACKAGE = 700


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning of one docstring."""

    text: str
    package: str
    module: str
    """The part of the package: ``scipy.stats``."""
    name: str
    """Of the function or class, without its module."""


def docstrings() -> tuple[list[Text], list[Text]]:
    """The texts to train on and those that judge, about one in five.

    All that bear one name (``fit``, ``sum``) lie on one side, and of those that begin with the same words
    only one is kept.
    """
    train: list[Text] = []
    test: list[Text] = []
    seen: set[str] = set()
    for package in PACKAGES:
        count = 0
        for text in _of(package):
            beginning = " ".join(re.findall(r"[a-z]+", text.text.lower())[: WORDS[0]])
            if beginning in seen:
                continue
            seen.add(beginning)
            (test if zlib.crc32(text.name.encode()) % 5 == 0 else train).append(text)
            count += 1
            if count == A_PACKAGE:
                break
    return train, test


def _of(package: str) -> Iterator[Text]:
    """The docstrings in a package's sources, file by file in a random order; they are read, not imported."""
    spec = find_spec(package)
    assert spec is not None
    root = Path((spec.submodule_search_locations or [""])[0])
    files = [path.relative_to(root) for path in root.rglob("*.py")]
    for file in sorted(files, key=lambda file: zlib.crc32(file.as_posix().encode())):
        parts = file.with_suffix("").parts
        if {"tests", "testing", "_vendor", "externals", "array_api_compat"} & set(parts):
            continue
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                prose, _, _ = (ast.get_docstring(node) or "").partition(">>>")
                words = NAMES.sub(" ", prose).split()
                if len(words) >= WORDS[0]:
                    text = " ".join(words[: WORDS[1]])
                    yield Text(text, package, ".".join((package, *parts[:1])), node.name)
