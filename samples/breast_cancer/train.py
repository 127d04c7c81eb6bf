"""Train a binary classifier on a table: is a tumour malignant, from ten measurements of its cells."""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from diag.demo import DemoFiles, fit, outputs, seeded

HERE = Path(__file__).resolve().parent
METADATA = ("worst_area", "worst_smoothness")
"""Columns that the model does not see; diag looks for slices in them."""


def classifier() -> nn.Sequential:
    """10-32-16-1: one logit, of malignant. The first layer brings the measurements to one scale."""
    return nn.Sequential(
        nn.BatchNorm1d(10, affine=False),
        nn.Linear(10, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 1),
    )


def table() -> pl.DataFrame:
    """The ten means, the metadata and the label, ``benign`` or ``malignant``, one line a tumour."""
    source = load_breast_cancer()
    names = [name.replace(" ", "_") for name in source.feature_names]
    every = pl.DataFrame(source.data, schema=names)
    label = pl.Series("label", np.where(source.target == 0, "malignant", "benign"))
    return every.select(pl.col("^mean_.*$"), *METADATA).with_columns(label)


def measured(rows: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """What the model takes."""
    return rows.select(pl.col("^mean_.*$")).to_numpy().astype(np.float32)


def malignant(rows: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The labels, 1 where malignant."""
    return (rows["label"] == "malignant").to_numpy().astype(np.float32)[:, None]


def logistic(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of one logit."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def main(out: Path = HERE, *, epochs: int = 30) -> float:
    """Train, write the files, say what to type next; gives the accuracy on the rows that judge."""
    every = table()
    train, test = train_test_split(every, test_size=0.3, random_state=0, stratify=every["label"].to_list())
    model = seeded(classifier, 0)
    fit(model, measured(train), malignant(train), loss=logistic, epochs=epochs, batch_size=32)

    out.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(out / "model.pt", out / "test.csv", out / "train.csv", "train:classifier")
    torch.save(model.state_dict(), files.model)
    test.write_csv(files.data)
    train.write_csv(files.train)
    reached = float(((outputs(model, measured(test)) > 0) == malignant(test)).mean())
    inputs = ",".join(name for name in test.columns if name.startswith("mean_"))
    print(f"Accuracy on {len(test)} judged rows: {reached:.3f}")
    print(f"Next: {files.command(HERE, '--classes', 'benign,malignant', '--columns', inputs)}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
