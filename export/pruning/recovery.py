"""The fit that mends a model which a step changed, or trains its student: rows, words and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from export.quiet import library
from study.errors import SkipError
from study.feed import Feed
from study.fits import Fit, Fitted
from study.progress import Progress
from study.record import Metric
from study.subject import Machine, Subject
from study.training import fit

if TYPE_CHECKING:
    from torch import nn

NO_ROWS = "no training rows were given (--train)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What the passes that train have in common: how long and how hard, as their settings."""

    epochs: int = 20
    seconds: float = 300.0
    rate: float = 0.0
    batch: int = 64
    teacher: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    augment: tuple[str, ...] = ()

    def fit(self, seed: int = 0) -> Fit:
        """The settings of the fit."""
        return Fit(
            epochs=self.epochs,
            seconds=self.seconds,
            learning_rate=self.rate,
            batch_size=self.batch,
            distillation=self.teacher,
            temperature=self.temperature,
            features=self.features,
            augment=self.augment,
            seed=seed,
        )

    def taught(
        self,
        module: "nn.Module",
        teacher: "nn.Module",
        subject: Subject,
        machine: Machine,
        progress: Progress,
    ) -> Fitted:
        """Train the module in place on the training rows, to answer as the teacher does.

        Raises:
            SkipError: there are no training rows, or none that a fit could use; the message is the reason.
            InputError: the settings do not fit the data.
        """
        import torch

        from study.cores import cores

        if subject.training is None or subject.task is None:
            raise SkipError(NO_ROWS)
        torch.set_num_threads(machine.threads or cores())
        feed = Feed.open(subject.training, subject.inputs)
        with library("the fit", streams=False):
            return fit(module, feed, subject.task, self.fit(machine.seed), progress, teacher)


def figures_of(fitted: Fitted, what: str) -> Mapping[str, Metric]:
    """``loss@before_recovery``, ``agreement@after_recovery`` … for ``what`` = ``recovery``."""
    figures = {}
    for when, judged in (("before", fitted.before), ("after", fitted.after)):
        place = f"{when}_{what}"
        figures[f"loss@{place}"] = Metric.exact(judged.loss, fitted.held_out, better="lower")
        if judged.agreement is not None:
            figures[f"agreement@{place}"] = judged.agreement
    return figures


def told_of(fitted: Fitted, what: str) -> str:
    """One or two sentences of what the fit did."""
    told = (
        f"{fitted.epochs} epoch{'s' if fitted.epochs > 1 else ''} of {what} on {fitted.rows} training rows "
        f"took the loss on {fitted.held_out} held-out ones, which chose the weights, from "
        f"{fitted.before.loss:.3g} to {fitted.after.loss:.3g} ({fitted.ended})."
    )
    same = fitted.after.agreement
    if same is not None:
        told += (
            f" {same.value:.1%} [{same.low:.1%}, {same.high:.1%}] of the answers to these are the original's."
        )
    return told


def settings_told(settings: Fit, fitted: Fitted) -> Mapping[str, str]:
    """What would do it again."""
    told = {
        "epochs": f"{fitted.epochs} of {settings.epochs}",
        "seconds": f"at most {settings.seconds:g}",
        "rate": f"{fitted.learning_rate:g}{'' if settings.learning_rate else ' (tried)'}",
        "batch": str(settings.batch_size),
        "teacher": f"{settings.distillation:g} of the loss at temperature {settings.temperature:g}",
        "ended": fitted.ended,
    }
    if settings.features:
        told["features"] = f"{settings.features:g}, of {', '.join(fitted.hints) or 'no layer: none match'}"
    if settings.augment:
        told["augment"] = "+".join(settings.augment)
    return told
