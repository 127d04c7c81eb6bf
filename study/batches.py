"""What a model is fed: arrays matched with its inputs by name, and cut to a batch size that is fixed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from study.errors import InputError, few
from study.subject import InputSpec


def matched(
    batch: Mapping[str, Any], needed: Sequence[str], optional: Sequence[str] | None = ()
) -> dict[str, Any]:
    """The arrays by the model's own names; a single array goes to a single input whatever its name.

    ``optional`` names are taken where given; None takes any name. A needed name that is also optional may be
    missing while another is there (a ``forward`` in which every input has a default).

    Raises:
        InputError: an input has no array, or an array no input.
    """
    if len(batch) == 1 and len(needed) == 1:
        name, array = next(iter(batch.items()))
        free = optional is not None and name in optional and needed[0] in optional
        return {name if free else needed[0]: array}
    missing = [name for name in needed if name not in batch and name not in (optional or ())]
    unknown = [name for name in batch if optional is not None and name not in (*needed, *optional)]
    if missing or unknown:
        raise InputError(
            f"The model's inputs are {few(needed)} and the data has {few(batch)}: name the data's columns "
            "or arrays as the inputs, or pick them with --columns or --preprocess."
        )
    order = [*needed, *(name for name in batch if name not in needed)]
    return {name: batch[name] for name in order if name in batch}


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """The only number of rows that the model takes at once; None where any fits or the file does not say."""
    firsts = {spec.shape[0] for spec in inputs if spec.shape}
    return firsts.pop() if len(firsts) == 1 else None


def said_of_batch(inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """What a batch size that the file fixes means, in a sentence; nothing where any fits."""
    size = fixed_batch(inputs)
    if size is None:
        return ()
    cost = "several rows are as many calls"
    if size > 1:
        cost = f"the last batch is filled up, and a single row costs as much as {size}"
    rows = "one row" if size == 1 else f"{size} rows"
    return (f"The model's file fixes its batches at {rows}: {cost} (a dynamic batch axis frees them).",)


def rows_of(batch: Mapping[str, Any]) -> int:
    """How many rows a batch has.

    Raises:
        InputError: its arrays disagree.
    """
    sizes = {name: len(array) for name, array in batch.items() if getattr(array, "ndim", 0)}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"The inputs have different numbers of rows: {few(f'{k}: {v}' for k, v in sizes.items())}."
        )
    return next(iter(sizes.values()), 0)


def pieces(batch: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """Pieces of exactly ``size`` rows; the last one is filled up with its last row.

    The arrays may be numpy's or torch's; both take a list of positions.
    """
    rows = rows_of(batch)
    for start in range(0, rows, size):
        positions = [min(start + at, rows - 1) for at in range(size)]
        yield {name: array[positions] if array.ndim else array for name, array in batch.items()}


def checked_shapes(batch: Mapping[str, Any], inputs: Sequence[InputSpec]) -> None:
    """Compare arrays with the shapes that the file states, the batch axis left aside.

    Raises:
        InputError: one does not fit; the sentence names what is expected and what was given.
    """
    for spec in inputs:
        if spec.shape is None or spec.name not in batch:
            continue
        given = tuple(batch[spec.name].shape)
        fits = len(given) == len(spec.shape) and all(
            want is None or want == have for want, have in list(zip(spec.shape, given, strict=True))[1:]
        )
        if not fits:
            wanted = "x".join("any" if size is None else str(size) for size in spec.shape)
            has = "x".join(map(str, given)) or "a single number"
            raise InputError(
                f"The input '{spec.name}' takes {wanted} and the data has {has}: give data of that shape, "
                "or bring it there with --preprocess."
            )


def lacking(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """By how much each shape is smaller than the largest, axis by axis, the first (rows) left aside.

    Outputs of several batches differ so where each holds as many detections as were found in it.
    """
    most = [max(sizes) for sizes in zip(*(shape[1:] for shape in shapes), strict=True)]
    return [[wide - size for wide, size in zip(most, shape[1:], strict=True)] for shape in shapes]
