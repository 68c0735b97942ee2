"""What a converted model says of a checkpoint of the plain class: it names the function that loads one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from .._torch import stored_name
from .hooks import Numbered

TOLD = (
    "This is a checkpoint of the plain model, and the model is converted: rcps_convert.load_plain_state_dict(model, "
    "state_dict) loads it."
)
"""What is said, once for all parameters."""


class PlainKey(Numbered):
    """The hook of a module with a tied parameter that runs before its state is loaded.

    Args:
        name: of the parameter.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *given: Any) -> None:
        """Note an error, the last of the arguments, where the state has the plain weight and not what is stored."""
        errors = given[-1]
        plain, stored = f"{prefix}{self.name}" in state_dict, f"{prefix}{stored_name('', self.name)}" in state_dict
        if plain and not stored and TOLD not in errors:
            errors.append(TOLD)


def expect_stored(module: nn.Module, name: str) -> RemovableHandle:
    """Attach a `PlainKey` to a module, for a tied parameter.

    Args:
        module: changed in place.
        name: of the parameter.

    Returns: what detaches it.
    """
    hook = PlainKey(name)
    hook.handle = module.register_load_state_dict_pre_hook(hook)
    return hook.handle
