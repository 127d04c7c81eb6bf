"""Train two fully connected networks on handwritten digits of 28x28: 784-128-64-10, and a wide 784-256-10."""

import argparse
from pathlib import Path

import torch
from torch import nn

from diag.demo import accuracy, enlarged_digits, fit, seeded, write

HERE = Path(__file__).resolve().parent


def mlp() -> nn.Sequential:
    """784-128-64-10."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def wide_mlp() -> nn.Sequential:
    """784-256-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def main(out: Path = HERE, *, epochs: int = 15) -> tuple[float, float]:
    """Train both, write the files, say what to type next; gives their accuracies on the rows that judge."""
    train, test = enlarged_digits(28, 28)
    deep, wide = seeded(mlp, 0), seeded(wide_mlp, 0)
    for model in (deep, wide):
        fit(model, train.images, train.labels, epochs=epochs)
    files = write(out, deep, "train:mlp", test=test, train=train)
    torch.save(wide.state_dict(), out / "wide.pt")
    reached = accuracy(deep, test), accuracy(wide, test)
    print(f"Accuracy on {len(test)} judged rows: 784-128-64-10 {reached[0]:.3f}, 784-256-10 {reached[1]:.3f}")
    print(f"Next: {files.command(HERE)}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where the models and the data go")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
