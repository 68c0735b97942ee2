"""Decorators for classes of modules: `rc_equivariant` converts each new instance, `rc_leaf` declares how one acts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..algebra.arguments import checked_example, is_shape
from ..errors import ConversionError
from ..infer.cuts import Declaration
from .convert import planned
from .settings import DEFAULTS, Keywords, Settings

CPU = torch.device("cpu")

if TYPE_CHECKING:
    from typing_extensions import Unpack

C = TypeVar("C", bound=type[nn.Module])
M = TypeVar("M", nn.Module, type[nn.Module])

_BUILDING: ContextVar[frozenset[int]] = ContextVar("building", default=frozenset())
"""The instances whose ``__init__`` is running."""


def rc_leaf(action: str | Callable[..., Any]) -> Callable[[M], M]:
    """Declare how reverse complement passes through a module, which conversions then do not look into.

    For modules that ``torch.export`` cannot trace, or whose steps no rule covers, and that are known to
    their author.

    Args:
        action: one of

            * ``"commutes"``: each output acts like the first input that depends on the sequence, whatever
              the parameters are. They stay untied. The conversion verifies it.
            * ``"both_strands"``: the module runs on both strands, and its two readings, the second mapped
              back, are averaged. Its parameters stay untied, and it costs two passes.
            * a law: a function in the form of a `rule`. It is called like the module's forward, after a first
              argument `node`, with an `Action` in the place of each tensor, and returns an `Action` in the
              place of each tensor the forward returns. ``node.parameters["weight"]`` is the action of the
              module's parameter of that name; the parameters it asks for are tied, the others stay untied.

    Returns: a decorator for a class of modules (its subclasses included) or for one module; it returns the same
        object.

    Raises:
        ValueError: another text.
        TypeError: it is used without an argument, or on something that is no module.

    Example:
        >>> @rc_leaf("commutes")
        ... class Clip(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x if x.max() < 1 else x / x.max()
    """
    if isinstance(action, (type, nn.Module)) or not (isinstance(action, str) or callable(action)):
        raise TypeError('rc_leaf needs to be told how the module acts: @rc_leaf("commutes"), for example')
    if isinstance(action, str) and action not in ("commutes", "both_strands"):
        raise ValueError(f"rc_leaf({action!r}): use 'commutes', 'both_strands' or a function")

    def declare(module: M) -> M:
        is_class = isinstance(module, type) and issubclass(module, nn.Module)
        if not is_class and not isinstance(module, nn.Module):
            raise TypeError(f"rc_leaf declares modules; for an operator use rule (got {module!r})")
        module._rc_leaf = Declaration(action)  # type: ignore[union-attr,assignment,attr-defined]
        return module

    return declare


@dataclass(frozen=True)
class _Converted:
    """How new instances of a class are converted.

    Attributes:
        example: what the model is called with: see `rc_equivariant`.
        settings: of the conversion.
    """

    example: Any
    settings: Settings


def rc_equivariant(example: Any, **settings: Unpack[Keywords]) -> Callable[[C], C]:
    """Convert every new instance of a class, once its ``__init__`` is done.

    The class itself is returned: its name, ``isinstance``, subclasses and pickling of the class are as
    before. A subclass is converted after its own ``__init__``; one that is decorated itself, by its own
    settings. Copies, and instances that are unpickled, are not converted again.

    Args:
        example: what the model is called with: a shape such as ``(2, 4, 1000)``, a tensor, a tuple or a
            dict of these, or a function of the instance that returns one.
        settings: any keyword of `convert_model` but `in_place`.

    Returns: a decorator.

    Raises:
        TypeError: a keyword `convert_model` does not have, or something that is no class of modules.
        ValueError: settings that do not go together.
        ConversionError: when an instance is made and cannot be converted, as in `convert_model`, or its
            parameters have no values yet (the meta device).

    Example:
        >>> @rc_equivariant(example=(2, 4, 100))
        ... class Net(torch.nn.Sequential):
        ...     def __init__(self):
        ...         super().__init__(torch.nn.Conv1d(4, 8, 5), torch.nn.Flatten(), torch.nn.Linear(768, 1))
        >>> Net()[0].weight.shape, sum(p.numel() for p in Net().parameters())
        (torch.Size([8, 4, 5]), 469)
    """
    unknown = settings.keys() - DEFAULTS.keys()
    if unknown:
        raise TypeError(f"rc_equivariant has no settings {', '.join(sorted(unknown))}: it takes those of convert_model")
    checked = Settings(**settings)
    if not callable(example) or isinstance(example, Tensor):
        checked_example(example if is_shape(example) else _tensors(example, CPU), torch.float32, CPU)

    def decorate(cls: C) -> C:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"rc_equivariant decorates classes of modules, not {cls!r}; for a model use convert_model")
        before = {name: vars(cls)[name] for name in WRAPPED if name in vars(cls)}
        try:
            if "_rc_settings" not in cls.__dict__ and getattr(cls, "_rc_settings", None) is None:
                _wrap_subclasses(cls)
                _wrap_init(cls)
            cls._rc_settings = _Converted(example, checked)  # type: ignore[attr-defined]
        except BaseException:
            _set_back(cls, before)
            raise
        return cls

    return decorate


WRAPPED = ("__init_subclass__", "__init__", "_rc_settings")
"""What a decorated class has of its own."""


def _set_back(cls: type, before: Mapping[str, Any]) -> None:
    for name in WRAPPED:
        if name in before:
            setattr(cls, name, before[name])
        elif name in vars(cls):
            delattr(cls, name)


def _wrap_subclasses(cls: type[nn.Module]) -> None:
    """Let each new subclass convert its instances after its own ``__init__``."""
    own = cls.__dict__.get("__init_subclass__")

    def __init_subclass__(sub: type[nn.Module], /, **kwargs: Any) -> None:  # noqa: N807
        if own is not None:
            own.__get__(None, sub)(**kwargs)
        else:
            super(cls, sub).__init_subclass__(**kwargs)
        _wrap_init(sub)

    cls.__init_subclass__ = classmethod(__init_subclass__)  # type: ignore[assignment,arg-type]


def _wrap_init(cls: type[nn.Module]) -> None:
    """Convert after ``__init__``, if no other ``__init__`` of the instance is still running."""
    init = cls.__init__

    @functools.wraps(init)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        running = _BUILDING.get()
        if id(self) in running:
            init(self, *args, **kwargs)
            return
        try:
            _BUILDING.set(running | {id(self)})
            init(self, *args, **kwargs)
        finally:
            _BUILDING.set(running)
        _plan(self).convert(self, in_place=True, stacklevel=3)

    cls.__init__ = wrapped  # type: ignore[method-assign]


def _plan(model: nn.Module) -> Any:
    """The plan for a new instance."""
    how: _Converted = type(model)._rc_settings  # type: ignore[attr-defined,assignment]
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ConversionError(
            f"a new {type(model).__name__} has no values yet: its parameters are on the meta device",
            why="what a model does is verified by running it",
            do="make it on a real device, or leave the class undecorated and call convert_model once it has values",
        )
    given = how.example
    example = given(model) if callable(given) and not isinstance(given, Tensor) else given
    made = example if is_shape(example) else _tensors(example, _device(model))
    return planned(model, made, how.settings)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _tensors(example: Any, device: torch.device) -> Any:
    """An example with zeros in the place of shapes."""
    if isinstance(example, Tensor):
        return example if example.is_meta else example.to(device)
    if isinstance(example, Mapping):
        return {name: _tensors(value, device) for name, value in example.items()}
    if isinstance(example, (tuple, list)):
        if is_shape(example):
            return checked_example(example, torch.float32, device)
        return tuple(_tensors(value, device) for value in example)
    return example
