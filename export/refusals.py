"""Why a model cannot be exported: the line of its own code that is the reason, and what usually helps."""

import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from linecache import getline
from pathlib import Path
from traceback import extract_tb
from types import FrameType
from typing import Any, Final

from study.errors import SkipError

HOUSE: Final = Path(__file__).resolve().parents[1]
EXPORTERS: Final = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "functorch", "sympy", "numpy")
"""Packages whose lines are never the reason."""
TRACED = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


class RefusalError(SkipError):
    """A model that cannot be exported as it is written, for a reason that is known."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A known reason: what the library says, or what the line looks like; what it means, and what helps."""

    said: str
    line: str
    means: str
    helps: str

    def fits(self, said: str, line: str) -> bool:
        """Whether both patterns are found; an empty one fits all."""
        return bool(re.search(self.said, said) and re.search(self.line, line))


UNKNOWN: Final = (
    r"data-dependent|unbacked|TracerWarning|aten::_local_scalar_dense|cannot be called when exporting"
)
PACKS: Final = (
    "it packs sequences by their lengths, which have no place in an ONNX graph",
    (
        "feed the padded rows to the recurrent layer as they are and pick each row's last step with gather, "
        "or give the lengths as a tensor and not as a list"
    ),
)
CAUSES: Final = (
    Cause("", r"pack_padded_sequence|pad_packed_sequence|pack_sequence|PackedSequence", *PACKS),
    Cause(r"zeros\(\): argument 'size' failed to unpack", "", *PACKS),  # a recurrent layer over packed rows
    Cause(
        r"no fake impl|fake impl registered|does not support running with fake tensors",
        "",
        "it calls an operator of its own that does not say the shape of its answer",
        "register one with torch.library.register_fake, or write the operator in torch's own",
    ),
    Cause(
        r"No ONNX function found|No decompositions registered|unrecognized namespace|not currently supported",
        "",
        "it calls an operator that ONNX has no counterpart of",
        "write it with operators of torch that ONNX has, or compute it before the model or behind it",
    ),
    Cause(
        r"\.numpy\(\)|numpy\(\) on|__array__|as a NumPy array|convert.*to numpy|__array_function__",
        "",
        "it leaves torch for numpy, where no exporter follows",
        "compute it with torch's own functions",
    ),
    Cause(
        UNKNOWN,
        r"\bwhile\b",
        "it goes on until the numbers in a tensor say so",
        "take a fixed number of steps, each of which keeps what is done already with torch.where",
    ),
    Cause(
        UNKNOWN,
        r"\.item\(\)|\.tolist\(\)|\bint\(|\bfloat\(|\bbool\(|\blen\(",
        "it turns numbers of a tensor into Python's, which are those of the example for ever",
        "keep them in a tensor: without .item(), .tolist(), int() and float()",
    ),
    Cause(
        UNKNOWN,
        r"\bif\b|\bassert\b|\band\b|\bor\b|\bany\(|\ball\(",
        "it decides by the numbers in a tensor, and an exporter can follow one way alone",
        "compute both ways and choose with torch.where",
    ),
    Cause(
        r"specialized (integer|float)",
        "",
        "numbers of a tensor have become Python's, by .item(), .tolist() or int()",
        "keep them in a tensor",
    ),
    Cause(
        UNKNOWN,
        "",
        "what it does depends on the numbers in a tensor, not on shapes alone",
        "keep the shapes of its tensors the same for all rows: a mask in place of a choice of rows",
    ),
    Cause(
        r"autograd\.Function|'FunctionMeta'|Unsupported: .*autograd",
        "",
        "it calls an autograd.Function of its own that no exporter looks into",
        "where the model is not trained, call what its forward does in plain torch",
    ),
)
"""The first that fits is said."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line of somebody's code: a file's name without its folders, which are this machine's."""

    file: str
    number: int
    function: str
    line: str

    def __str__(self) -> str:
        """`` in forward, net.py line 8 (`x.item()`)``."""
        code = f" (`{self.line}`)" if self.line else ""
        return f" in {self.function}, {self.file} line {self.number}{code}"


def place_of(error: BaseException) -> Place | None:
    """The innermost line of the model's own code that was running; else that of the library it is from.

    Where an exporter fails on an operator long after the model ran, the operator knows the line.
    """
    traced = [*_frames(error), *_of_operators(error)]
    for passed in (_is_theirs, _is_of_a_library):
        own = [(file, number, name) for file, number, name in traced if passed(file)]
        if own:
            file, number, _ = own[-1]
            names = [name for _, _, name in own if not name.startswith("<")]
            line = " ".join(getline(file, number).split())
            return Place(Path(file).name, number, names[-1] if names else own[-1][2], line)
    return None


@dataclass(frozen=True, slots=True)
class Reason:
    """Where a library failed, and why, in words; empty where that is not known."""

    place: str
    advice: str


def reason_for(error: BaseException) -> Reason:
    """`` in forward, net.py line 8 (`x.item()`)`` and ``it decides by …: compute both ways …``."""
    place = place_of(error)
    said = "\n".join(f"{type(one).__name__}: {one}" for one in _chain(error))
    line = place.line if place else ""
    found = next((cause for cause in CAUSES if cause.fits(said, line)), None)
    return Reason(str(place or ""), f"{found.means}: {found.helps}" if found else "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _frames(error: BaseException) -> list[tuple[str, int, str]]:
    """File, line and function of all frames, those of what was raised first last."""
    return [
        (frame.filename, frame.lineno or 0, frame.name)
        for one in _chain(error)
        for frame in extract_tb(one.__traceback__)
    ]


def _of_operators(error: BaseException) -> list[tuple[str, int, str]]:
    """The lines that an exporter itself names: in its message, or of the operator that it was at."""
    found: list[tuple[str, int, str]] = []
    for one in _chain(error):
        found += [(file, int(number), name) for file, number, name in TRACED.findall(str(one))]
        trace = one.__traceback__
        while trace is not None:
            noted = _noted(trace.tb_frame)
            found += [(file, int(number), name) for file, number, name in TRACED.findall(noted)]
            trace = trace.tb_next
    return found


def _noted(frame: FrameType) -> str:
    if Path(frame.f_code.co_filename).name != "_core.py":
        return ""
    node: Any = frame.f_locals.get("node")
    meta = getattr(node, "meta", None)
    return str(meta.get("stack_trace") or "") if isinstance(meta, dict) else ""


def _folders(*names: str) -> tuple[str, ...]:
    return tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in names})


def _is_theirs(file: str) -> bool:
    """Neither Python's, nor installed, nor ours."""
    ours = tuple(f"{HOUSE / name}{os.sep}" for name in ("study", "diagnose", "explain", "export", "diag"))
    return not file.startswith((*_folders("stdlib", "platstdlib", "purelib", "platlib"), *ours, "<"))


def _is_of_a_library(file: str) -> bool:
    """Installed, and no exporter."""
    return any(
        file.startswith(folder) and Path(file).relative_to(folder).parts[0] not in EXPORTERS
        for folder in _folders("purelib", "platlib")
    )
