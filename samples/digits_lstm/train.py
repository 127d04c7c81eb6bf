"""Train a two-layer LSTM that reads a handwritten digit row by row: 28 steps of 100 numbers."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from diag.demo import Digits, accuracy, enlarged_digits, fit, seeded, write

HERE = Path(__file__).resolve().parent
STEPS, INPUT, HIDDEN, LAYERS = 28, 100, 256, 2


class RowReader(nn.Module):
    """An LSTM over (rows, steps, 100); its last hidden state is classified. Any number of steps will do."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUT, HIDDEN, num_layers=LAYERS, batch_first=True)
        self.head = nn.Linear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        # The initial state is made here and not passed in: its batch size is the input's.
        state = torch.zeros(LAYERS, x.shape[0], HIDDEN, dtype=x.dtype, device=x.device)
        every, _ = self.lstm(x, (state, torch.zeros_like(state)))
        logits: Tensor = self.head(every[:, -1])
        return logits


def row_reader() -> RowReader:
    """What ``--arch train:row_reader`` builds."""
    return RowReader()


def main(out: Path = HERE, *, epochs: int = 8) -> float:
    """Train, write the files, say what to type next; gives the accuracy on the rows that judge."""
    train, test = (Digits(part.images[:, 0], part.labels) for part in enlarged_digits(STEPS, INPUT))
    model = seeded(row_reader, 0)
    fit(model, train.images, train.labels, epochs=epochs, learning_rate=2e-3, batch_size=32)
    files = write(out, model, "train:row_reader", test=test, train=train)
    reached = accuracy(model, test)
    print(f"Accuracy on {len(test)} judged rows: {reached:.3f}")
    print(f"Next: {files.command(HERE)}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
