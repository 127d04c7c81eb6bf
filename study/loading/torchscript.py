"""TorchScript archives: torch reads them without Python's pickle."""

import warnings
from typing import TYPE_CHECKING

from study.errors import InputError
from study.subject import Model

if TYPE_CHECKING:
    import torch


def load_script(model: Model) -> "torch.jit.ScriptModule":
    """The scripted or traced module, in eval mode, on the CPU.

    Raises:
        InputError: torch cannot read it.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated since torch 2.10: that is why people bring them
            module: torch.jit.ScriptModule = torch.jit.load(str(model.path), map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types there
    except (RuntimeError, ValueError, OSError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"{model.path} is TorchScript that torch {torch.__version__} cannot read: {line}"
        ) from error
    module.eval()
    return module
