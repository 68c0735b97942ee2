"""Tied weights that are read outside of a call: what is written into one is stored, and its mirror image follows.

A tied weight is computed, so what is written into it would be lost with it: ``nn.init.normal_(conv.weight)``,
``conv.weight.data = w``, ``conv.reset_parameters()``. Where no module's forward is running, a weight is therefore read
as a `TiedWeight`. Calls compute with plain tensors.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn.utils.parametrize import ParametrizationList

from .._torch import (
    FUNCTIONAL_CALL,
    calling_modules,
    is_compiling,
    is_recorded,
    is_scripting,
    plain_tensors,
    pytree,
    reader,
    transform_level,
    version,
)
from ..errors import ConversionError, refuse_scripting, refuse_symbols

SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]
SET_REQUIRES_GRAD = torch.Tensor.requires_grad.__set__  # type: ignore[attr-defined]

REPLACING = {
    "torch.nn.utils.prune": (
        "prune",
        "prune what is stored: prune.l1_unstructured(m.parametrizations.weight, 'original', ...); or bake(model) first",
    ),
    "torch.nn.utils.weight_norm": (
        "weight_norm",
        "apply weight_norm to the plain model, before convert_model; or bake(model) first",
    ),
    "torch.nn.utils.spectral_norm": (
        "spectral_norm",
        "apply torch.nn.utils.parametrizations.spectral_norm to the plain model, before convert_model; "
        "or bake(model) first",
    ),
    "torch.nn.utils.fusion": ("fuse_conv_bn_eval", "fuse the layers of bake(model), which have plain weights"),
    FUNCTIONAL_CALL: (
        "functional_call",
        "give it what is stored, by the names of model.named_parameters(); or bake(model) first",
    ),
    "torch.nn.modules.batchnorm.convert_sync_batchnorm": (
        "convert_sync_batchnorm",
        "call it on the plain model, before convert_model; or bake(model) first",
    ),
}
"""What of torch reads a weight to put another in its place: what it is called, and what to do instead."""


class TiedList(ParametrizationList):
    """The parametrization of a tied weight, which is its only one."""

    def forward(self) -> Tensor:
        """The full weight: inside of a call a plain tensor.

        Raises:
            ConversionError: ``torch.fx.symbolic_trace`` reads it.
        """
        if is_recorded() and isinstance(self.original, Proxy):
            raise refuse_symbols("weights that its own forward reads, and that are tied")
        full = super().forward()
        if is_compiling():
            return full
        if _inside_a_call():
            self[0].require_checks()  # type: ignore[operator]
            return full
        _refuse_replacing(*reader())
        return _wrapped(full, self, full) if _can_be_followed(full) else full

    @property
    def __jit_ignored_attributes__(self) -> list[str]:
        if is_scripting():
            raise refuse_scripting("tied weights; bake(model) has plain ones")
        return []

    def append(self, module: Any) -> TiedList:
        """Refuse another parametrization on top.

        Raises:
            ConversionError: always.
        """
        raise ConversionError(
            f"{type(module).__name__} on a tied weight",
            why="the weight is computed from a stored part, and would no longer be its own mirror image",
            do="apply it to the plain model, before convert_model, which ties what it stores; or bake(model) first",
        )

    def write(self, after: Tensor) -> Tensor:
        """Store what a full weight became.

        Args:
            after: the weight with what was written; device and precision are taken over.

        Returns: the tied weight that is stored now.

        Raises:
            ConversionError: it has another shape.
        """
        tie: Any = self[0]
        if after.shape != tie.full_shape:
            raise self._refusal(after)
        with torch.no_grad():
            for stored in self.parameters(recurse=False):
                if (stored.dtype, stored.device) != (after.dtype, after.device):
                    stored.data = stored.data.to(after)
            tie.store(self, super().forward().to(after), after)
            return super().forward()

    def right_inverse(self, value: Any) -> None:
        """Store what is assigned to the weight: all of it, or what is stored of it.

        Raises:
            ConversionError: it is no tensor, or has another shape.
        """
        tie: Any = self[0]
        if not isinstance(value, Tensor) or value.shape not in (tie.full_shape, tie.stored_shape):
            raise self._refusal(value)
        super().right_inverse(value)

    def take(self, value: Any) -> None:
        """Store the values of a parameter that is set in the place of the weight; it is trained if that one would be.

        Raises:
            ConversionError: it is no tensor, or has another shape.
        """
        self.right_inverse(value)
        self.train_stored(value.requires_grad)

    def refuse_removal(self, name: str) -> NoReturn:
        """Refuse to delete the weight.

        Raises:
            ConversionError: always.
        """
        raise ConversionError(
            f"{name} is tied, so it cannot be deleted",
            why="it is computed from a stored part, and no other parameter can take its place",
            do="assign new values to it (they are stored); or put another module in the place of this one, and call "
            "extend(model, example); or bake(model) first",
        )

    def refuse_quantizing(self) -> NoReturn:
        """Refuse to make another layer of the one that holds the weight.

        Raises:
            ConversionError: always.
        """
        raise ConversionError(
            "quantization of a layer with a tied weight",
            why="the weight is computed from a stored part, and another layer would take its place",
            do="quantize bake(model), which has plain weights: rounding them keeps what is equal equal",
        )

    def _refusal(self, value: Any) -> ConversionError:
        is_tensor = isinstance(value, Tensor)
        tie: Any = self[0]
        return ConversionError(
            "a tied weight got values of another shape" if is_tensor else "a tied weight was set to no tensor",
            got=f"{tuple(value.shape) if is_tensor else value}, and the weight is {tuple(tie.full_shape)}",
            why="its tie holds for its shape",
            do="make another module, put it in the place of this one, and call extend(model, example)",
        )

    def train_stored(self, flag: bool) -> None:
        """Whether what is stored is trained."""
        tie: Any = self[0]
        for stored in (*self.parameters(recurse=False), *tie.sources()):
            stored.requires_grad_(flag)


class OwnParameters(dict[str, Any]):
    """The parameters that a layer holds itself, of which none is tied.

    The old ``torch.nn.utils.spectral_norm`` looks for the weight here, where torch has none of a computed one.
    """

    def __missing__(self, name: str) -> NoReturn:
        _refuse_replacing(*reader())
        raise KeyError(name)


def _inside_a_call() -> bool:
    """Whether some module's forward is running."""
    return any(not isinstance(module, ParametrizationList) for module in calling_modules())


def _can_be_followed(full: Tensor) -> bool:
    """Whether writes into a weight can be seen: another library's tensors, and those of transforms, are left alone."""
    return type(full) is Tensor and transform_level() is None and not full.is_inference()


def _refuse_replacing(module: str, function: str) -> None:
    """Refuse a function of torch that puts another parameter in the place of a weight."""
    found = next((name for name in (module, f"{module}.{function}") if name in REPLACING), None)
    if found is not None:
        raise ConversionError(
            f"{REPLACING[found][0]} on a tied weight",
            why="the weight is computed from a stored part, so no other parameter can take its place",
            do=REPLACING[found][1],
        )


class TiedWeight(Tensor):
    """A tied weight as it is read outside of a call, or a view of it.

    Attributes:
        chain: what computes the weight; None for a tensor that has become independent of it.
        full: the whole weight, whose memory this one shares.
        is_view: it is made from the weight that was read.
    """

    chain: TiedList | None
    full: Tensor
    is_view: bool

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; store what it wrote into a weight."""
        kwargs = kwargs or {}
        held = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, TiedWeight) and t.chain is not None]
        with plain_tensors():
            if held and args[:1] and args[0] is held[0]:
                if func in (SET_REQUIRES_GRAD, Tensor.requires_grad_):
                    return _set_requires_grad(held[0], *args[1:], **kwargs)
                if func == SET_DATA:
                    return _set_data(held[0], args[1])
            before = [version(t) for t in held]
            result = func(*args, **kwargs)
            for t, count in zip(held, before, strict=True):
                if version(t) != count:
                    _store(t)
            return _followed(result, held)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return copy.deepcopy(_plain(self), memo)

    def __repr__(self, **how: Any) -> str:  # type: ignore[override]
        return _plain(self).__repr__(**how)


def _wrapped(value: Tensor, chain: TiedList, full: Tensor, is_view: bool = False) -> TiedWeight:
    made = value.as_subclass(TiedWeight)
    made.chain, made.full, made.is_view = chain, full, is_view
    return made


def _plain(weight: TiedWeight) -> Tensor:
    """The same tensor, followed no more."""
    with plain_tensors():
        return weight.as_subclass(Tensor)  # type: ignore[arg-type]


def _followed(value: Any, held: list[TiedWeight]) -> Any:
    """A result of a function: a view of a weight is followed too."""
    if type(value) in (tuple, list):
        return type(value)(_followed(part, held) for part in value)
    if type(value) is not Tensor or not held:
        return value
    place = value.untyped_storage().data_ptr()
    source = next((t for t in held if t.full.untyped_storage().data_ptr() == place), None)
    if source is None or source.chain is None or place == 0:
        return value
    return _wrapped(value, source.chain, source.full, is_view=True)


def _store(weight: TiedWeight) -> None:
    """Store what a weight became, and show in its memory what the tie made of it."""
    assert weight.chain is not None
    full = weight.full.detach()
    full.copy_(weight.chain.write(full))


def _set_data(weight: TiedWeight, value: Tensor) -> None:
    """Set ``weight.data``; of a view only its own, as torch does."""
    assert weight.chain is not None
    if weight.is_view:
        weight.chain = None
        SET_DATA(weight, value)
    else:
        weight.full = weight.chain.write(value.detach()).detach()
        SET_DATA(weight, weight.full)


def _set_requires_grad(weight: TiedWeight, flag: bool = True) -> TiedWeight:
    """Train what is stored, or do not; a view is a tensor of its own from then on, as it is of any weight."""
    assert weight.chain is not None
    if weight.is_view:
        weight.chain = None
        weight.requires_grad_(flag)
    else:
        weight.chain.train_stored(flag)
    return weight
