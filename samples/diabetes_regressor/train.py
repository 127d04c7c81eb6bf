"""Train a tabular regressor: how far diabetes has gone a year later, from ten measurements of a patient."""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import nn

from diag.demo import DemoFiles, fit, outputs, seeded

HERE = Path(__file__).resolve().parent


def regressor() -> nn.Sequential:
    """10-32-16-1; the first layer brings the measurements to one scale."""
    return nn.Sequential(
        nn.BatchNorm1d(10, affine=False),
        nn.Linear(10, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 1),
    )


def rescale(head: nn.Linear, mean: float, spread: float) -> None:
    """Let a head that was trained on standardised targets answer in the targets' own units."""
    with torch.no_grad():
        head.weight.mul_(spread)
        head.bias.mul_(spread).add_(mean)


def main(out: Path = HERE, *, epochs: int = 60) -> float:
    """Train, write the files, say what to type next; gives R2 on the rows that judge."""
    source = load_diabetes(scaled=False)
    patients = pl.DataFrame(source.data, schema=source.feature_names).with_columns(target=source.target)
    train, test = train_test_split(patients, test_size=0.25, random_state=0)
    x = train.drop("target").to_numpy().astype(np.float32)
    y = train["target"].to_numpy().astype(np.float32)[:, None]
    mean, spread = float(y.mean()), float(y.std())

    model = seeded(regressor, 0)
    fit(model, x, (y - mean) / spread, loss=nn.functional.mse_loss, epochs=epochs, batch_size=32)
    head = model.get_submodule("5")
    assert isinstance(head, nn.Linear)
    rescale(head, mean, spread)

    out.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(out / "model.pt", out / "test.csv", out / "train.csv", "train:regressor")
    torch.save(model.state_dict(), files.model)
    test.write_csv(files.data)
    train.write_csv(files.train)
    predicted = outputs(model, test.drop("target").to_numpy().astype(np.float32))[:, 0]
    reached = float(r2_score(test["target"].to_numpy(), predicted))
    print(f"R2 on {len(test)} judged rows: {reached:.3f}")
    print(f"Next: {files.command(HERE)}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
