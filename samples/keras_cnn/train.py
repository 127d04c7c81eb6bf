"""Train a CNN with Keras itself, on torch, on digits of 28x28x1, and save it whole as ``.keras``."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from diag.demo import Digits, enlarged_digits
from study.storage import written

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported
HERE = Path(__file__).resolve().parent
SIDE = 28


def keras_cnn() -> Any:
    """Convolutions of 32 and 64 channels with pooling, 128 hidden units, ten probabilities."""
    from keras import Input, Sequential, layers

    return Sequential(
        [
            Input((SIDE, SIDE, 1), name="image"),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(64, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="keras_cnn",
    )


def channels_last(digits: Digits) -> Digits:
    """The images as Keras takes them: height, width, channels."""
    return Digits(np.ascontiguousarray(np.moveaxis(digits.images, 1, -1)), digits.labels)


def main(out: Path = HERE, *, epochs: int = 3) -> float:
    """Train, write the files, say what to type next; gives the accuracy on the rows that judge."""
    import keras

    keras.utils.set_random_seed(0)
    train, test = (channels_last(part) for part in enlarged_digits(SIDE, SIDE))
    with keras.device("cpu"):
        model = keras_cnn()
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(train.images, train.labels, batch_size=32, epochs=epochs, verbose=0)
        answers = model.predict(test.images, verbose=0)
    out.mkdir(parents=True, exist_ok=True)
    with written(out / "model.keras") as beside:
        whole = beside.with_name("whole.keras")  # Keras asks for the ending
        model.save(whole)
        whole.replace(beside)
    test.save(out / "test.npz")
    train.save(out / "train.npz")
    reached = float((answers.argmax(axis=1) == test.labels).mean())
    print(f"Accuracy on {len(test)} judged rows: {reached:.3f}")
    files = [shlex.quote(_named(out / name)) for name in ("model.keras", "test.npz", "train.npz")]
    place = "" if Path.cwd() == HERE else f"cd {shlex.quote(os.path.relpath(HERE))} && "
    print("Next: {}diag run {} --data {} --train {}".format(place, *files))
    return reached


def _named(path: Path) -> str:
    """The file's name where it lies beside this script, else its whole path."""
    return path.name if path.resolve().parent == HERE else str(path.resolve())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where model.keras and the data go")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.out, epochs=arguments.epochs)
