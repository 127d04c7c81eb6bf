"""The nets that ``benchmarks/export.py`` sends through the chain, where no sample has them."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
SIDE = 224
CLASSES = 10


def sample(name: str) -> ModuleType:
    """The ``train.py`` of a sample."""
    found = importlib.util.spec_from_file_location(f"{name}_train", SAMPLES / name / "train.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def resnet18() -> nn.Module:
    """The sample's ResNet-18 for images of three channels and ten classes."""
    net: nn.Module = sample("digits_resnet").ResNet18(CLASSES)
    net.stem[0] = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)  # type: ignore[operator]  # it is a Sequential
    return net


def enlarged(image: np.ndarray) -> Mapping[str, np.ndarray]:
    """An image of 32x32 in bytes as the net takes it: 3x224x224, between -1 and 1."""
    return {"x": enlarge(torch.from_numpy(np.ascontiguousarray(image))[None], SIDE)[0].numpy()}


def enlarge(images: Tensor, side: int) -> Tensor:
    """Images in bytes, channels last, as the net takes them."""
    floats = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.interpolate(floats, size=(side, side), mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """A text encoder of BERT-base's size with random weights, from token ids."""

    def __init__(self, layers: int = 12) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        self.bert = BertModel(BertConfig(num_hidden_layers=layers), add_pooling_layer=False)
        self.head = nn.Linear(768, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.bert(input_ids=input_ids).last_hidden_state[:, 0])
        return scores


def encoder(layers: int = 12) -> nn.Module:
    """What ``--arch nets:encoder`` builds."""
    return Encoder(layers)
