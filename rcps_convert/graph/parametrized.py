"""The classes of parametrized modules: one of its own for each module; they are copied and pickled like any class.

torch gives a module with parametrizations a dynamic subclass of its class, which refuses to be pickled, as no other
process could find it. Here the user's class is pickled instead, with the names of the parametrized parameters, and the
subclass is made anew when the module is loaded.
"""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.utils import parametrize

from .._torch import (
    OPERATORS,
    CustomOpDef,
    caches_weights,
    calling_modules,
    chains,
    forget_transformed,
    is_asked_by,
    is_recorded,
    is_unwatched,
    made_before,
    make_hooks_picklable,
    only_step,
    own_copying,
    pytree,
    read_by,
    refresh_recurrent,
    stock_code,
)
from .values import leaves_of

SHARED = (types.ModuleType, *OPERATORS, CustomOpDef)
"""What has no state that a copy could have of its own, and cannot be copied."""


WHOLE = object()
"""Its id is a key of the memo of a whole model: no module in it needs a look of its own."""


def computed(modules: Iterable[nn.Module]) -> dict[int, Any]:
    """A memo for ``deepcopy``: tensors that modules keep of an earlier computation are copied as values.

    Old-style weight norm keeps such a tensor, ``weight``; ``deepcopy`` refuses them. Operators and Python modules
    are the same for the copy.
    """
    modules = [*modules]
    for module in modules:
        forget_transformed(module)
    held = [*leaves_of(v for m in modules for v in vars(m).values())]
    found = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    return {**found, **{id(v): v for v in held if isinstance(v, SHARED)}}


# --- classes ------------------------------------------------------------------------------------


def own_classes(model: nn.Module) -> None:
    """Give each parametrized module of a model a dynamic class of its own."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            own_class(module)


def own_class(module: nn.Module) -> None:
    """Give a parametrized module a dynamic class of its own."""
    cls = type(module)
    own = {name: value for name, value in vars(cls).items() if name != "__getstate__"}
    module.__class__ = _quiet_class(cls.__name__, cls.__bases__[0], {**own, **PICKLING})
    keep_copyable(module)
    make_hooks_picklable(module)


def parametrized_class(cls: type) -> type:
    """A new subclass for a module that gets parametrizations: it is copied and pickled as one of the class itself.

    It stands where that class does: ``torch.fx`` looks into other modules than torch's, and would read a weight once.

    Args:
        cls: the module's class.
    """
    own: dict[str, Any] = {} if hasattr(cls, "__deepcopy__") else {"__deepcopy__": TORCHS_COPYING}
    own["__module__"] = cls.__module__
    return _quiet_class(f"Parametrized{cls.__name__}", cls, {**own, **PICKLING, **SETTING})


def _quiet_class(name: str, base: type, own: dict[str, Any]) -> type:
    """A subclass that the base does not hear of.

    The user's ``__init_subclass__`` may ask for arguments or keep a list of classes; a class that only carries
    parametrizations is none of its business.

    Args:
        name: of the class.
        base: its only base.
        own: what it has of its own.
    """
    own = {key: value for key, value in own.items() if key not in ("__dict__", "__weakref__")}
    if not hasattr(base.__init_subclass__, "__func__"):  # nobody wants to hear
        return type(name, (base,), own)
    made = type(name, (_Unheard, base), own)
    made.__bases__ = (base,)
    return made


def _registered(module: Any, name: str, parameter: Any) -> None:
    """The ``register_parameter`` of a parametrized module: a new parameter in the place of a tied one is stored.

    ``module.weight = nn.Parameter(w)`` comes here too. torch would say that the name is taken.
    """
    chain = chains(module).get(name)
    if hasattr(chain, "take"):
        chain.take(parameter)  # type: ignore[union-attr,operator]
    else:
        _next_class(module, _registered, "register_parameter").register_parameter(module, name, parameter)


def _deleted(module: Any, name: str) -> None:
    """The ``__delattr__`` of a parametrized module: a tied weight says what to do instead."""
    chain = chains(module).get(name)
    if hasattr(chain, "refuse_removal"):
        chain.refuse_removal(name)  # type: ignore[union-attr,operator]
    _next_class(module, _deleted, "__delattr__").__delattr__(module, name)


def _next_class(module: nn.Module, method: Any, name: str) -> Any:
    """The class below the one that has a method of this file."""
    cls: type = next(c for c in type(module).__mro__ if vars(c).get(name) is method)
    return cls.__bases__[0]


def _no_qconfig(module: Any) -> Any:
    """Nothing: how to quantize is not kept on a module whose weights are computed."""
    raise AttributeError("qconfig")


def _quantized(module: Any, how: Any) -> None:
    """What ``torch.ao.quantization`` sets on each module: a tied weight says what to do instead."""
    for chain in chains(module).values():
        if how is not None and hasattr(chain, "refuse_quantizing"):
            chain.refuse_quantizing()


SETTING: dict[str, Any] = {
    "register_parameter": _registered,
    "__delattr__": _deleted,
    "qconfig": property(_no_qconfig, _quantized),
}
"""What the class of a parametrized module has of its own for parameters that are set anew or deleted."""


class _Unheard:
    """Stands before a class whose ``__init_subclass__`` is not to be called."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


def add_property(module: nn.Module, name: str) -> None:
    """Make reading an attribute of a parametrized module compute it, as torch does, by a shorter way.

    torch calls the list of parametrizations and each of them as modules. A single one that is marked ``direct`` is
    given what is stored at once where a module's forward reads, unless torch's cache is on, or a compiler or recorder
    watches. It is told where the forward of torch's own layers reads, which writes into no weight.

    Args:
        module: its class is its own.
        name: of the attribute.
    """
    parametrize._inject_property(module, name)
    usual: Any = vars(type(module))[name]
    code = stock_code(type(module))

    def read(self: nn.Module) -> Tensor:
        known = made_before(code, self, name)
        if known is not None:
            return known
        stored, step = read_by(code, self, name)
        if type(stored) is Parameter and getattr(step, "direct", False):
            return step.in_stock_call(stored)
        if stored is None and not is_recorded() and not caches_weights():
            stored, step = only_step(self, name)
            if stored is not None and getattr(step, "direct", False) and (is_asked_by(code) or _inside_a_call()):
                return step.in_call(stored)
        return usual.fget(self)

    setattr(type(module), name, property(read, usual.fset))


def _inside_a_call() -> bool:
    """Whether some module's forward is running."""
    return next(calling_modules(), None) is not None


def to_compute_with(module: nn.Module, name: str) -> Any:
    """An attribute of a module, for code that writes into no weight: a parametrized one by the shortest way."""
    if parametrize.is_parametrized(module, name) and is_unwatched():
        stored, step = only_step(module, name)
        if type(stored) is Parameter and getattr(step, "direct", False):
            return step.in_stock_call(stored)
    return getattr(module, name)


# --- copies -------------------------------------------------------------------------------------


def _torchs_copying() -> Any:
    """How torch copies a parametrized module."""
    module = nn.Module()
    parametrize._inject_new_class(module)
    return vars(type(module))["__deepcopy__"]


TORCHS_COPYING = _torchs_copying()
"""The ``__deepcopy__`` that torch gives a parametrized module."""


def keep_copyable(module: nn.Module) -> None:
    """Let ``deepcopy`` take the values of what a parametrized module keeps of its last call.

    A recurrent layer keeps the weights it was called with; when they were computed, ``deepcopy`` would
    refuse them. One that is no longer parametrized gets its parameters back.
    """
    if parametrize.is_parametrized(module):
        _copy_values(module)
    elif isinstance(module, nn.RNNBase):
        refresh_recurrent(module)


def _copy_values(module: nn.Module) -> None:
    own = own_copying(module)
    if own is not None and not isinstance(own, _CopyOfValues):
        type(module).__deepcopy__ = _CopyOfValues(own)  # type: ignore[attr-defined]


def copies_attributes(module: nn.Module) -> bool:
    """Whether the class of a parametrized module copies it as torch has it: all attributes, and nothing else."""
    own = own_copying(module)
    own = own.copy_module if isinstance(own, _CopyOfValues) else own
    slots = copyreg._slotnames(type(module))  # type: ignore[attr-defined]
    return getattr(own, "__code__", None) is TORCHS_COPYING.__code__ and not slots


class _CopyOfValues:
    """A ``__deepcopy__`` that takes computed tensors as values, and gives the copy a class of its own."""

    def __init__(self, copy_module: Any) -> None:
        self.copy_module = copy_module

    def __get__(self, module: nn.Module, cls: type) -> Any:
        def copied(memo: dict[int, Any]) -> Any:
            if id(WHOLE) not in memo:
                memo.update({k: v for k, v in computed(module.modules()).items() if k not in memo})
            twin = self.copy_module(module, memo)
            own_class(twin)
            return twin

        return copied


# --- pickles ------------------------------------------------------------------------------------


@dataclass
class _Carried:
    """The state of a module whose class has a reduction of its own, and what that may leave out.

    Attributes:
        state: as the class gives it; None for none.
        parametrizations: of the module.
        setter: what the class gives to set the state with.
    """

    state: Any
    parametrizations: Any
    setter: Callable[[Any, Any], None] | None = None


def _reduced(module: nn.Module, protocol: Any) -> Any:
    """The ``__reduce_ex__`` of a parametrized module: how its class reduces, and the parametrizations on top."""
    cls: type = next(c for c in type(module).__mro__ if vars(c).get("__reduce_ex__") is _reduced)
    base: Any = cls.__bases__[0]
    forget_transformed(module)
    reduction = super(cls, module).__reduce_ex__(max(2, protocol))  # type: ignore[arg-type]
    if type(module) is not cls or isinstance(reduction, str):  # another library's class on top
        return reduction
    function, args, *rest = reduction
    function = base if function is cls else function
    args = tuple(base if value is cls else value for value in args)
    state, listed, named, setter = (*rest, None, None, None, None)[:4]
    state = _values(state)
    if (base.__reduce__, base.__reduce_ex__) != (object.__reduce__, object.__reduce_ex__):
        state = _Carried(state, module.parametrizations, setter)
    return _made, (function, args, tuple(chains(module))), state, listed, named


def _values(state: Any) -> Any:
    """A state with tensors of an earlier computation as values: they cannot go to another process as they are."""
    if not isinstance(state, dict):
        return state
    return {
        name: _detached(value) if isinstance(value, (Tensor, list, tuple)) else value for name, value in state.items()
    }


def _detached(value: Any) -> Any:
    held = [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]
    if all(t.is_leaf for t in held):
        return value
    return pytree.tree_map_only(Tensor, lambda t: t if t.is_leaf else t.detach(), value)


def _made(function: Callable[..., Any], args: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """A module that is loaded, as its class makes it, ready for the state of one with parametrizations.

    Args:
        function, args: what the class makes it with.
        names: of the parametrized parameters.
    """
    module = function(*args)
    if not parametrize.is_parametrized(module):
        module.__class__ = parametrized_class(type(module))
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
            add_property(module, name)
        _copy_values(module)
    return module


def _set_state(module: Any, state: Any) -> None:
    """The ``__setstate__`` of a parametrized module."""
    cls: type = next(c for c in type(module).__mro__ if vars(c).get("__setstate__") is _set_state)
    carried = state if isinstance(state, _Carried) else _Carried(state, None)
    if carried.setter is not None:
        carried.setter(module, carried.state)
    elif carried.state is not None:
        super(cls, module).__setstate__(carried.state)  # type: ignore[arg-type]
    if carried.parametrizations is not None:
        module.parametrizations = carried.parametrizations


PICKLING: dict[str, Any] = {"__reduce_ex__": _reduced, "__setstate__": _set_state}
"""What the class of a parametrized module has of its own to be pickled."""
