"""Chains of parametrizations and how they are stored."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._library.custom_ops import CustomOpDef as CustomOpDef


def chains(module: nn.Module) -> dict[str, Any]:
    """The lists of parametrizations of a module by the name of the parameter; empty without any."""
    return dict(module.parametrizations.items()) if nn.utils.parametrize.is_parametrized(module) else {}  # type: ignore[union-attr,operator]


class WeightNormKeys:
    """What renames the keys of old checkpoints for ``weight_norm``: torch's is a local function, this can be pickled.

    Args:
        name: of the normed parameter.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, state_dict: dict[str, Any], prefix: str, *given: Any) -> None:
        """Rename the two keys of a normed parameter, in place."""
        keys = [f"{prefix}{self.name}_{part}" for part in "gv"]
        if all(key in state_dict for key in keys):
            for i, key in enumerate(keys):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(key)


def make_hooks_picklable(module: nn.Module) -> None:
    """Put `WeightNormKeys` in the place of torch's own, in a module that ``weight_norm`` was applied to."""
    table: dict[int, Any] = module._load_state_dict_pre_hooks
    for key, wrapped in table.items():
        hook = getattr(wrapped, "hook", wrapped)
        if getattr(hook, "__qualname__", "") == "weight_norm.<locals>._weight_norm_compat_hook":
            name = hook.__closure__[hook.__code__.co_freevars.index("name")].cell_contents
            table[key] = type(wrapped)(WeightNormKeys(name)) if wrapped is not hook else WeightNormKeys(name)


def stored_name(path: str, leaf: str) -> str:
    """The key in ``state_dict`` of what a parametrized parameter is computed from."""
    return f"{path}.parametrizations.{leaf}.original".lstrip(".")


def own_copying(module: nn.Module) -> Any:
    """``__deepcopy__`` as torch put it on the class of a parametrized module; None if the user's class has one."""
    return vars(type(module)).get("__deepcopy__")
