"""Weights in several files, with an index that says which tensor lies in which."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from study.errors import InputError, few
from study.loading.weight_file import WeightFile
from study.subject import Model

if TYPE_CHECKING:
    import torch

ENDING: Final = ".index.json"
"""``model.safetensors.index.json``, ``pytorch_model.bin.index.json``."""


@final
class Shards(WeightFile):
    """JSON with a ``weight_map``: tensor name -> the file beside it, safetensors or of torch.save."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the ending and the map."""
        return path.name.endswith(ENDING) and bool(_map(path))

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The index, and every shard that it names."""
        shards = sorted(set(_map(path).values()))
        outside = [name for name in shards if Path(name).is_absolute() or ".." in Path(name).parts]
        missing = [name for name in shards if not (path.parent / name).is_file()]
        if outside:
            raise InputError(f"{path} names {few(outside)} outside its folder: put the shards beside it.")
        if missing:
            raise InputError(f"{path} names {few(missing)}, which is not there: copy it too.")
        return [path, *(path.parent / name for name in shards)]

    @classmethod
    def read(cls, path: Path) -> "Iterator[tuple[str, torch.Tensor]]":
        """Shard by shard, each mapped; what a shard lacks of the index is named."""
        import torch

        from study.loading.states import read_checkpoint, state_of

        seen: set[str] = set()
        for shard in cls.files(path)[1:]:
            state = state_of(read_checkpoint(Model(shard, "weights")), shard)
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    seen.add(name)
                    yield name, value
        lacking = sorted(_map(path).keys() - seen)
        if lacking:
            raise InputError(f"{path} names {few(lacking)}, which no shard holds: copy the shards again.")


def index_in(folder: Path) -> Path:
    """The one index of shards in a folder; the folder itself where there is none, or are several."""
    found = sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []
    return found[0] if len(found) == 1 else folder


def _map(path: Path) -> dict[str, str]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(file) for name, file in said["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
