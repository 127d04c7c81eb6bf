"""The module that an ``--arch`` factory makes, or that its name stands for."""

from typing import TYPE_CHECKING

from study.errors import InputError
from study.user_code import call_factory as call_factory  # noqa: PLC0414 - asked for here by other loaders
from study.user_code import import_attribute as import_attribute  # noqa: PLC0414
from study.user_code import open_user_folder as open_user_folder  # noqa: PLC0414
from study.user_code import run_user_code as run_user_code  # noqa: PLC0414

if TYPE_CHECKING:
    import torch


def build_module(
    spec: str, args_json: str = "{}", what: str = "--arch", *, drawn: bool = False
) -> "torch.nn.Module":
    """The module that an ``--arch`` factory makes, or that its name stands for, seeded, to be loaded into.

    ``drawn``: it is to be trained, and its weights are what the factory draws. ``what`` is the option that
    named it.

    Raises:
        InputError: the factory fails, or gives no ``nn.Module``.
    """
    import copy

    import torch

    from study.loading.undrawn import made_undrawn

    # What a state dict does not hold (a random projection kept in a plain attribute) must not differ between
    # two loads of one model, and the caller's own random numbers must not depend on them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        named = import_attribute(spec, what)
        if isinstance(named, torch.nn.Module):
            return copy.deepcopy(named)
        made = (
            call_factory(spec, args_json, what)
            if drawn
            else made_undrawn(lambda: call_factory(spec, args_json))
        )
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"{what} {spec} gave {_a(made)}, not a torch.nn.Module: return the module from it.")
    return made


def _a(thing: object) -> str:
    return "nothing" if thing is None else f"a {type(thing).__name__}"
