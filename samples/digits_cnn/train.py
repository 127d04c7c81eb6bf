"""Train a small CNN on handwritten digits of 1x64x64: the sample that ``diag demo`` uses too."""

import argparse
from pathlib import Path

from diag.demo import accuracy, digits_cnn, train_digits_cnn, write

__all__ = ["digits_cnn"]  # what --arch train:digits_cnn builds; it is written out in diag/demo.py

HERE = Path(__file__).resolve().parent


def main(out: Path = HERE, *, epochs: int = 3) -> float:
    """Train, write the files, say what to type next; gives the accuracy on the rows that judge."""
    model, train, test = train_digits_cnn(epochs=epochs)
    files = write(out, model, "train:digits_cnn", test=test, train=train)
    reached = accuracy(model, test)
    print(f"Accuracy on {len(test)} judged rows: {reached:.3f}")
    print(f"Next: {files.command(HERE)}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
