"""The tables that a module keeps, and methods of its own that are not public."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef as CustomOpDef
from torch.nn.modules import module as _module
from torch.utils.hooks import RemovableHandle


def pre_hooks(module: nn.Module) -> list[Any]:
    """What runs before a module's forward, in order."""
    return list(module._forward_pre_hooks.values())


def hook_tables(module: nn.Module) -> list[Any]:
    """A module's tables of what runs before its forward and after it."""
    return [module._forward_pre_hooks, module._forward_hooks]


def tables_for_all() -> list[Any]:
    """The tables of what runs before, and after, the forward of every module in this process."""
    return [_module._global_forward_pre_hooks, _module._global_forward_hooks]


def hooks_so_far() -> int:
    """How many hooks were attached in this process, to anything: where it is as before, no hook is new."""
    return RemovableHandle.next_id


def takes_kwargs(module: nn.Module, key: int) -> bool:
    """Whether a hook that runs before a module's forward is given its keyword arguments too.

    Args:
        module: what it runs before.
        key: of the hook.
    """
    return key in module._forward_pre_hooks_with_kwargs


def drop_hooks(module: nn.Module, matches: Callable[[Any], bool]) -> None:
    """Remove the hooks around a module's forward that match, and what the module notes of them."""
    pre = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    post = (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
    for hooks, *flags in (pre, post):
        for key in [k for k, h in hooks.items() if matches(h)]:
            del hooks[key]
            for table in flags:
                table.pop(key, None)


def holds(module: nn.Module) -> tuple[nn.Module | None, ...]:
    """What is in the places for submodules of a module."""
    return tuple(module._modules.values())


def tables_of(modules: Iterable[nn.Module]) -> list[dict[str, nn.Module | None]]:
    """The tables of submodules of some modules: quick, as they are asked for at each call of a model."""
    return [*map(_MODULES, modules)]


def are_empty(modules: Iterable[nn.Module]) -> bool:
    """Whether none of some modules has a table with a submodule in it."""
    return not any(map(_MODULES, modules))


def held_by(modules: Iterable[nn.Module]) -> list[dict[str, nn.Module | None]]:
    """What is in these tables now."""
    return [table.copy() for table in tables_of(modules)]


_MODULES = attrgetter("_modules")


def all_modules(model: nn.Module) -> list[nn.Module]:
    """A model and the modules it holds, each once, in the order of ``modules()``, which takes twice as long."""
    found: dict[nn.Module, None] = {}
    rest: list[nn.Module | None] = [model]
    while rest:
        module = rest.pop()
        if module is not None and module not in found:
            found[module] = None
            rest += reversed(module._modules.values())
    return [*found]


def own_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers that a module holds itself, as they are stored."""
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def own_parameters(model: nn.Module) -> list[Tensor]:
    """The parameters of a model as they are stored, as often as each is held: quicker than ``parameters()``."""
    return [p for m in all_modules(model) for p in m._parameters.values() if p is not None]


def buffers_of(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """The buffers that modules hold themselves, each with its module and its name there."""
    return [(m, name, b) for m in modules if m._buffers for name, b in m._buffers.items() if b is not None]


def is_held(module: nn.Module, name: str, buffer: Tensor) -> bool:
    """Whether a module has a buffer in its place."""
    return module._buffers.get(name) is buffer


def empty_places(module: nn.Module) -> list[str]:
    """The names of the parameters and buffers that a module has a place for, and does not have."""
    return [name for table in (module._parameters, module._buffers) for name, value in table.items() if value is None]


def is_filled(module: nn.Module, name: str) -> bool:
    """Whether a module has a parameter or a buffer of a name."""
    return module._parameters.get(name) is not None or module._buffers.get(name) is not None


def member_tables(module: nn.Module) -> list[dict[str, Any]]:
    """What a module holds: its attributes, parameters, buffers and submodules."""
    return [vars(module), module._parameters, module._buffers, module._modules]


def parameter_order(module: nn.Module) -> list[str]:
    """The names of a module's own parameters, in the order of ``state_dict``."""
    return list(module._parameters)


def share_parts(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same table of submodules, as those of ``copy.copy`` do."""
    return vars(one).get("_modules") is other._modules


def may_share_parts(module: nn.Module) -> bool:
    """Whether anything beside a module holds its table of submodules, as a shallow copy does: quick to ask."""
    return sys.getrefcount(module._modules) > _HELD_BY_ONE


_SAMPLE = nn.Module()
_HELD_BY_ONE = sys.getrefcount(_SAMPLE._modules)


REPLICATE = "_replicate_for_data_parallel"
"""The method of a module that makes a replica for ``nn.DataParallel``."""


def is_replica(module: nn.Module) -> bool:
    """Whether a module is a replica that ``nn.DataParallel`` made."""
    return "_is_replica" in vars(module)


def replica(module: nn.Module) -> Any:
    """A replica for ``nn.DataParallel``, as the module's class makes it."""
    return type(module)._replicate_for_data_parallel(module)  # type: ignore[operator]


def hold_parameters(module: nn.Module, kind: type[dict[str, Any]]) -> None:
    """Keep a module's parameters in a dict of a kind of its own."""
    if type(module._parameters) is not kind:
        module._parameters = kind(module._parameters)


def order_parameters(module: nn.Module, order: list[str]) -> None:
    """Bring a module's own parameters into an order; those not named come last."""
    here = module._parameters
    module._parameters = {n: here[n] for n in [*(n for n in order if n in here), *(n for n in here if n not in order)]}


def hide_buffers(module: nn.Module, like: nn.Module) -> None:
    """Keep the buffers of a module that another one does not have out of its ``state_dict``."""
    module._non_persistent_buffers_set |= module._buffers.keys() - like._buffers.keys()


def convolve(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution would compute with another weight and no bias."""
    return module._conv_forward(x, weight, None)  # type: ignore[operator,union-attr]


def normed_in_eval(module: nn.Module, x: Tensor) -> Tensor | None:
    """What a batch norm of torch's own computes in eval mode, by a shorter way; None for other norms and modes."""
    if module.training or type(module).forward is not _BATCH_NORM:
        return None
    held, kept = module._parameters, module._buffers
    mean, var = kept.get("running_mean"), kept.get("running_var")
    if mean is None or var is None or "weight" not in held or "bias" not in held:
        return None
    module._check_input_dim(x)  # type: ignore[operator]
    quick = not x.is_cuda or torch.backends.cudnn.enabled
    return torch.batch_norm(x, held["weight"], held["bias"], mean, var, False, 0.0, module.eps, quick)  # type: ignore[arg-type]


_BATCH_NORM: Any = nn.BatchNorm1d.forward


def output_padding(module: nn.Module, x: Tensor, size: list[int]) -> list[int]:
    """What a transposed convolution pads so that its result has a size."""
    rank = len(module.kernel_size)  # type: ignore[arg-type]
    return module._output_padding(x, size, module.stride, module.padding, module.kernel_size, rank, module.dilation)  # type: ignore[operator,union-attr]


def refresh_recurrent(module: nn.RNNBase) -> None:
    """Let a recurrent layer read its weights anew."""
    module._init_flat_weights()


def forget_transformed(module: nn.Module) -> None:
    """Let a recurrent layer read its weights anew, if it keeps those of a transform that has ended.

    ``vmap``, ``grad`` and their like give it wrappers of its computed weights, which nobody can copy or pickle later.
    """
    if isinstance(module, nn.RNNBase):
        held = [w for w in module._flat_weights if w is not None]
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, held)):
            refresh_recurrent(module)
