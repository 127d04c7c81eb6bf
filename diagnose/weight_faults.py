"""What may be wrong with weights, and how sure that is; thresholds stand where no healthy model was found."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from diagnose.tensor_facts import TensorFacts
from study.errors import are

HUGE = 1e15
"""The square of it is out of float32's range by a few sums; no trained weight comes near."""
FAR_OUT = 1000.0
OUTLYING = 100.0
BLOWN_UP = 300.0
FADED = 1e-3
APART = 100.0
"""A blown-up or faded matrix is so many times the median matrix of its own model."""
COLLAPSED = 0.9999
NEARLY_COLLAPSED = 0.99
MOST = 0.5
PRUNED = 0.1
FEW = 16
"""Smaller matrices are not judged by their spread."""
UNITS_NAMED = 8
_EMBEDDING = re.compile(r"emb|wte|wpe|vocab|lookup", re.IGNORECASE)
_ADAPTER = re.compile(r"lora_b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something about one tensor; ``bad`` when someone must act before shipping."""

    tensor: TensorFacts
    bad: bool
    what: str
    cause: str
    do: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All tensors of one model, in order."""

    tensors: tuple[TensorFacts, ...]

    @property
    def matrices(self) -> list[TensorFacts]:
        """Those with units, each once."""
        return [tensor for tensor in self.tensors if tensor.role == "matrix" and not tensor.shared]

    @property
    def is_pruned(self) -> bool:
        """Units were zeroed on purpose: there are pruning masks, or most matrices have lost a tenth."""
        if any(tensor.name.endswith("weight_mask") for tensor in self.tensors):
            return True
        lost = sum(tensor.zero_units >= PRUNED * tensor.units for tensor in self.matrices)
        return len(self.matrices) > 1 and lost >= MOST * len(self.matrices)


def not_finite(seen: Seen) -> Iterator[Fault]:
    """NaN and infinities. Infinities of a buffer without NaN are a mask that also holds other numbers."""
    for tensor in seen.tensors:
        if (
            tensor.role == "mask"
            or not tensor.nan + tensor.inf
            or (tensor.role == "buffer" and not tensor.nan)
        ):
            continue
        kinds = [
            f"{count} {kind}" for count, kind in ((tensor.nan, "NaN"), (tensor.inf, "infinite")) if count
        ]
        half = tensor.dtype == "float16" and not tensor.nan
        yield Fault(
            tensor,
            bad=True,
            what=f"{' and '.join(kinds)} of {tensor.size} values, the first at [{tensor.bad_at}]",
            cause="a value beyond 65504 became infinite in fp16"
            if half
            else "training diverged when this was saved, or the file was damaged since",
            do="Keep this tensor in fp32 or bf16."
            if half
            else "Go back to the last checkpoint without it; for training, clip gradients or lower the rate.",
        )


def all_zero(seen: Seen) -> Iterator[Fault]:
    """Matrices that pass nothing on."""
    for tensor in seen.matrices:
        if not tensor.all_zero:
            continue
        adapter = bool(_ADAPTER.search(tensor.name))
        yield Fault(
            tensor,
            bad=not adapter,
            what=f"all {tensor.size} values are zero: the layer gives the same whatever it is given",
            cause="an adapter that was not trained yet" if adapter else "it was never filled, or overwritten",
            do="Train it, or leave it out." if adapter else "Check how the checkpoint was put together.",
        )


def batch_norm(seen: Seen) -> Iterator[Fault]:
    """Running statistics that cannot be, or were never taken."""
    named = {tensor.name: tensor for tensor in seen.tensors}
    fresh = [
        name for name, tensor in named.items() if tensor.role == "running_var" and _never_updated(named, name)
    ]
    every = [tensor for tensor in seen.tensors if tensor.role == "running_var"]
    for variance in every:
        low, high = variance.low, variance.high
        if low is None or high is None:
            continue
        do = "Estimate the statistics again: run training rows through the model in train mode."
        if low < 0:
            what = f"a negative running variance, {low:.3g}: its root is NaN"
            yield Fault(variance, bad=True, what=what, cause="the file was damaged or merged wrongly", do=do)
        elif variance.all_zero:
            what = "all running variances are zero: any difference is blown up some 300 times"
            yield Fault(variance, bad=True, what=what, cause="it was overwritten, or saw constants", do=do)
        elif variance.zeros > 0:
            count = round(variance.zeros * variance.size)
            what = f"{count} of {variance.size} channels have a running variance of zero"
            cause = "these channels were constant on all training rows, as dead ones are"
            yield Fault(
                variance, bad=False, what=what, cause=cause, do="Prune them, or see why they are dead."
            )
        elif variance.name in fresh:
            # A model as it was initialised has them all so, and scales of one; only then is it no fault.
            trained = len(fresh) < len(every) or _scale_moved(named, variance.name)
            yield Fault(
                variance,
                bad=trained,
                what="the running statistics were never updated (mean 0, variance 1), "
                + ("but the model was trained" if trained else "and the scale is as initialised"),
                cause="they were reset, or the layer was in eval mode all through training"
                if trained
                else "the model has not been trained, or not this layer",
                do=do,
            )


def _never_updated(named: dict[str, TensorFacts], variance: str) -> bool:
    prefix = variance.removesuffix("running_var")
    mean, counter = named.get(f"{prefix}running_mean"), named.get(f"{prefix}num_batches_tracked")
    return (
        named[variance].low == named[variance].high == 1.0
        and mean is not None
        and mean.all_zero
        and (counter is None or counter.high == 0)
    )


def _scale_moved(named: dict[str, TensorFacts], variance: str) -> bool:
    """A scale or shift that is no constant was trained (initialised: all ones or all zeros)."""
    prefix = variance.removesuffix("running_var")
    parts = [named[name] for name in (f"{prefix}weight", f"{prefix}bias") if name in named]
    return any(part.low != part.high for part in parts if part.shape == named[variance].shape)


def outliers(seen: Seen) -> Iterator[Fault]:
    """Single values far from all others of their tensor."""
    for tensor in seen.tensors:
        if tensor.role in ("mask", "buffer", "counter") or tensor.low is None or tensor.high is None:
            continue
        top = max(abs(tensor.low), abs(tensor.high))
        ratio = tensor.outlier if tensor.role == "matrix" and tensor.size >= FEW else None
        far = ratio is not None and ratio >= FAR_OUT
        if top < HUGE and (ratio is None or ratio < OUTLYING):
            continue
        beside = f", {ratio:.3g} times the usual one" if ratio is not None else ""
        yield Fault(
            tensor,
            bad=far or top >= HUGE,
            what=f"a value of magnitude {top:.3g} at [{tensor.largest_at}]{beside}",
            cause="one bit of its exponent is wrong, or training blew up here"
            if far or top >= HUGE
            else "a channel that carries far more than the others",
            do="Restore it from another copy of the checkpoint."
            if far or top >= HUGE
            else "Quantize it per channel or not at all: one scale for all would round the rest to 0.",
        )


def scale(seen: Seen) -> Iterator[Fault]:
    """Matrices on another scale than all others of the model."""
    sized = [
        (tensor, tensor.gain)
        for tensor in seen.matrices
        if tensor.gain and tensor.size >= FEW and not _EMBEDDING.search(tensor.name)
        if tensor.outlier is None or tensor.outlier < FAR_OUT
    ]
    if len(sized) < 3:  # noqa: PLR2004 - of two, nobody can say which is off
        return
    for tensor, gain in sized:
        usual = median(other for one, other in sized if one is not tensor)
        blown, faded = gain >= max(BLOWN_UP, APART * usual), gain <= min(FADED, usual / APART)
        if not blown and not faded:
            continue
        # The scale of unnormalised inputs or targets is rightly in the first or last matrix.
        outer = tensor is sized[0][0] or tensor is sized[-1][0]
        yield Fault(
            tensor,
            bad=not outer,
            what=f"it {'multiplies' if blown else 'shrinks'} what it is given by about {gain:.2g}, where the "
            f"model's median matrix does by {usual:.2g}",
            cause="the scale of the inputs or targets, or of another file"
            if outer
            else "it was scaled, or comes from another file",
            do="Compare it with the training checkpoint.",
        )


def rank(seen: Seen) -> Iterator[Fault]:
    """Matrices all of whose units are multiples of one."""
    for tensor in seen.matrices:
        explained = tensor.zero_units + tensor.constant_units + tensor.copied_units
        share = tensor.first_rank
        if share is None or share < NEARLY_COLLAPSED or explained >= MOST * tensor.units:
            continue
        yield Fault(
            tensor,
            bad=share >= COLLAPSED,
            what=f"one direction explains {100 * share:.3f} % of it: its {tensor.units} units say the same",
            cause="its training collapsed, or it was replaced by a low-rank one",
            do="Train this layer again, or replace it by a single unit.",
        )


def zero_units(seen: Seen) -> Iterator[Fault]:
    """Units that are zero; the padding row of an embedding is none."""
    for tensor in seen.matrices:
        padding = tensor.zero_units == 1 and _EMBEDDING.search(tensor.name) and tensor.zero_at[0] == 0
        if not tensor.zero_units or tensor.all_zero or padding:
            continue
        most = tensor.zero_units > MOST * tensor.units
        yield Fault(
            tensor,
            bad=most and not seen.is_pruned,
            what=f"{tensor.zero_units} of {tensor.units} units {are(tensor.zero_units)} zero: "
            f"{_units(tensor.zero_at, tensor.zero_units)}",
            cause="they were pruned" if seen.is_pruned else "they were zeroed, or decayed to nothing",
            do="Remove them: --steps prune takes such units first.",
        )


def constant_units(seen: Seen) -> Iterator[Fault]:
    """Units whose weights are all the same number."""
    for tensor in seen.matrices:
        if not tensor.constant_units:
            continue
        most = tensor.constant_units > MOST * tensor.units and not _one_channel(tensor)
        yield Fault(
            tensor,
            bad=most,
            what=f"{tensor.constant_units} of {tensor.units} units "
            f"{'weighs all its' if tensor.constant_units == 1 else 'weigh all their'} inputs alike: "
            f"{_units(tensor.constant_at, tensor.constant_units)}",
            cause="they were set to a constant, and never trained",
            do="Initialise them at random and train them.",
        )


def copied_units(seen: Seen) -> Iterator[Fault]:
    """Units that are exactly equal."""
    for tensor in seen.matrices:
        if not tensor.copied_units:
            continue
        group = tensor.copies[0]
        more = f" and {len(tensor.copies) - 1} more groups" if len(tensor.copies) > 1 else ""
        yield Fault(
            tensor,
            bad=tensor.copied_units > MOST * tensor.units and not _one_channel(tensor),
            what=f"{tensor.copied_units} of {tensor.units} units "
            f"{'repeats' if tensor.copied_units == 1 else 'repeat'} another one: "
            f"{_units(group, len(group))} are equal{more}",
            cause="they were initialised alike and got the same gradients, or were copied",
            do="Merge them: one unit with the sum of their outgoing weights computes the same.",
        )


def same_bytes(seen: Seen) -> Iterator[Fault]:
    """Matrices that are a copy of another one, not tied to it."""
    for tensor in seen.matrices:
        if not tensor.same_as or tensor.low == tensor.high or tensor.size < FEW:
            continue
        yield Fault(
            tensor,
            bad=False,
            what=f"it has the same bytes as {tensor.same_as}",
            cause="tied in a format that does not keep ties, cloned and not trained since, or copied over by "
            "mistake",
            do="Tie them where that is meant: it saves the second copy.",
        )


def _units(places: list[int], count: int) -> str:
    named = ", ".join(str(place) for place in places[:UNITS_NAMED])
    return named if count <= UNITS_NAMED else f"{named}, …"


def _one_channel(tensor: TensorFacts) -> bool:
    """Each unit may see another channel (a depthwise convolution): equal ones are then no copies."""
    return len(tensor.shape) > 2 and tensor.shape[1] == 1  # noqa: PLR2004 - more than out and in


FAULTS: tuple[Callable[[Seen], Iterator[Fault]], ...] = (
    not_finite,
    all_zero,
    batch_norm,
    outliers,
    scale,
    rank,
    zero_units,
    constant_units,
    copied_units,
    same_bytes,
)
"""In order: a tensor with a bad fault is not looked at for the later ones."""
