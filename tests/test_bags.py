"""Bags of embeddings on rows that are filled up, against torch's own on the same texts."""

import copy

import pytest
import torch
from torch import nn

from study.loading.bags import takes_offsets, without_bags

TEXTS = [[3, 4, 5], [7], [2, 0, 9, 6, 6]]
FLAT = [token for text in TEXTS for token in text]


class Classifier(nn.Module):
    """As in torch's tutorial on text classification."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(10, 4, **settings)
        self.fc = nn.Linear(4, 2)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("padding", [None, 0])
def test_filled_up_rows_with_their_lengths_give_what_offsets_give(mode: str, padding: int | None) -> None:
    net = Classifier(mode=mode, padding_idx=padding)
    assert takes_offsets(net)
    lengths = torch.tensor([len(text) for text in TEXTS])
    expected = net(torch.tensor(FLAT), lengths.cumsum(0) - lengths)
    dense = without_bags(copy.deepcopy(net))
    padded = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in TEXTS], batch_first=True)
    assert torch.allclose(dense(padded, lengths), expected, atol=1e-6)
    assert torch.equal(dense(torch.tensor(FLAT), lengths.cumsum(0) - lengths), expected)
    assert dense.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("padding", [None, 3])
def test_rows_of_one_length_give_what_torch_gives(mode: str, padding: int | None) -> None:
    bag = nn.Sequential(nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding))
    ids = torch.tensor([[3, 4, 5], [3, 3, 3], [0, 9, 0]])
    assert torch.allclose(without_bags(copy.deepcopy(bag))(ids), bag(ids), atol=1e-6)


def test_weights_of_samples_and_a_largest_norm() -> None:
    bag = nn.EmbeddingBag(10, 4, mode="sum")
    ids, weights = torch.tensor([[3, 4], [5, 6]]), torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    dense = without_bags(nn.Sequential(copy.deepcopy(bag)))
    assert torch.allclose(dense[0](ids, None, weights), bag(ids, None, weights), atol=1e-6)
    changes_its_weights = nn.Sequential(nn.EmbeddingBag(10, 4, max_norm=1.0))
    assert isinstance(without_bags(changes_its_weights)[0], nn.EmbeddingBag)


def test_other_models_take_no_offsets() -> None:
    assert not takes_offsets(nn.Sequential(nn.EmbeddingBag(10, 4)))
    assert not takes_offsets(nn.Linear(2, 2))
