"""Transfer learning: a ResNet-18 that learnt the digits 0-4 learns 5-9 from 100 rows.

The same network from scratch on the same 100 rows is trained beside it, to see what the transfer is worth.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from diag.demo import Digits, accuracy, enlarged_digits, fit, outputs, seeded, write

HERE = Path(__file__).resolve().parent
CLASSES = 5
FEW = 100
"""How many rows of 5-9 there are to learn from."""
BATCH = 20


class Block(nn.Module):
    """Two 3x3 convolutions with a way around them (He et al. 2015, figure 2)."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(taken, given, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(given)
        self.conv2 = nn.Conv2d(given, given, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(given)
        self.relu = nn.ReLU()
        self.around: nn.Module = nn.Identity()
        if stride != 1 or taken != given:
            self.around = nn.Sequential(
                nn.Conv2d(taken, given, 1, stride=stride, bias=False), nn.BatchNorm2d(given)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(inner + self.around(x))
        return out


class ResNet18(nn.Module):
    """ResNet-18 for images of one channel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc: nn.Module = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.pool(features).flatten(1))
        return logits


def resnet18() -> ResNet18:
    """What ``--arch train:resnet18`` builds: five classes."""
    return ResNet18(CLASSES)


def transferred(learnt: nn.Module, few: Digits, *, epochs: int) -> nn.Module:
    """A copy of what was learnt with a new head: the head is trained on frozen features, then everything."""
    model = seeded(resnet18, 1)
    body = {name: tensor for name, tensor in learnt.state_dict().items() if not name.startswith("fc.")}
    model.load_state_dict(body, strict=False)
    head, model.fc = model.fc, nn.Identity()
    fit(head, outputs(model, few.images), few.labels, epochs=40, learning_rate=1e-2, batch_size=BATCH)
    model.fc = head
    # Gently: at the rate of a training from scratch, a hundred rows undo what was learnt.
    fit(model, few.images, few.labels, epochs=epochs, learning_rate=3e-4, batch_size=BATCH)
    return model


def split() -> tuple[Digits, Digits, Digits]:
    """The digits 0-4, a hundred rows of 5-9 (twenty a digit), and all other rows of 5-9; labels from 0."""
    train, test = enlarged_digits(32, 32)
    low = train.where(train.labels < CLASSES)
    every = Digits(
        np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]) - CLASSES
    )
    high = every.where(every.labels >= 0)
    chosen = np.zeros(len(high), dtype=bool)
    for label in range(CLASSES):
        chosen[np.flatnonzero(high.labels == label)[: FEW // CLASSES]] = True
    return low, high.where(chosen), high.where(~chosen)


def main(out: Path = HERE, *, epochs: int = 8) -> tuple[float, float]:
    """Train, write the files, say what to type next; gives the accuracies with transfer and from scratch."""
    low, few, judged = split()
    learnt = seeded(resnet18, 0)
    fit(learnt, low.images, low.labels, epochs=max(epochs // 2, 1))
    model = transferred(learnt, few, epochs=epochs)
    scratch = seeded(resnet18, 1)
    fit(scratch, few.images, few.labels, epochs=epochs, batch_size=BATCH)
    files = write(out, model, "train:resnet18", test=judged, train=few)
    reached = accuracy(model, judged), accuracy(scratch, judged)
    print(f"Accuracy on {len(judged)} judged rows: transferred {reached[0]:.3f}, scratch {reached[1]:.3f}")
    print(f"(after {epochs} passes over {len(few)} rows each; after twenty, both reach nearly 0.9)")
    print(f"Next: {files.command(HERE, '--classes', '5,6,7,8,9')}")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.pt and the data go")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the rows, in each training")
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
