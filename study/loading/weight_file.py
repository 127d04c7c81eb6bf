"""Files of named tensors and nothing else: a state dict in another container than torch's own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from study.catalog import Catalog

if TYPE_CHECKING:
    import torch


class WeightFile(ABC):
    """One container: recognised by what is in the file, and read without running anything from it."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file is such a container; no framework is imported.

        Raises:
            InputError: it is, and cut off.
        """

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """The files that hold the weights.

        Raises:
            InputError: one is missing.
        """
        return [path]

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> "Iterator[tuple[str, torch.Tensor]]":
        """The tensors by name, on the CPU; whatever it raises says that the file is damaged."""


WEIGHT_FILES: Catalog[WeightFile] = Catalog(
    "weight file",
    {
        "safetensors": "study.loading.safetensors:Safetensors",
        "shards": "study.loading.shards:Shards",
    },
)
"""In the order in which they are asked whether they recognise a file."""


def weight_file(path: Path) -> type[WeightFile] | None:
    """The container that this file is; None where it is torch's own or ONNX."""
    kinds = (WEIGHT_FILES.get(name) for name in WEIGHT_FILES)
    return next((kind for kind in kinds if kind.recognises(path)), None)
