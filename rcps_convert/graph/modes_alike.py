"""Whether the train-mode forward makes the calls of the eval-mode forward, so that one trace stands for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .._torch import NormBase, pytree
from ..algebra.arguments import Example, leaves, with_leaves
from .sandbox import call, fresh_copy, mode, quiet, undisturbed_rng
from .users_state import caches_kept_clean

SWITCHES: dict[Any, tuple[int, tuple[str, ...]]] = {F.instance_norm: (5, ("use_input_stats",))}
"""Functions told the mode, and the place and names of that argument: how reverse complement passes is the same.

To attention the mode is told as how often it drops a weight."""

for _functions, _switch in (
    ((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout), (2, ("training", "train"))),
    ((F.alpha_dropout, F.feature_alpha_dropout), (2, ("training",))),
    ((F.batch_norm, torch.batch_norm), (5, ("training",))),
    ((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), (6, ("train",))),
    ((F.multi_head_attention_forward,), (13, ("training",))),
    ((F.scaled_dot_product_attention,), (4, ("dropout_p",))),
):
    SWITCHES.update(dict.fromkeys(_functions, _switch))


LOOKS = {
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.is_contiguous),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__, torch.is_floating_point, torch.is_complex),
}
"""Functions that say what a tensor is, not what is in it: a trace has none of them."""


class _Calls(TorchFunctionMode):
    """Notes every call: the function, where its tensors come from, and its other arguments but for the mode.

    Looks at the shape, precision or place of a tensor are left out.

    Args:
        own: names of tensors that are there before the first call.
        counters: tensors that count batches; what is done to them is no matter.
    """

    def __init__(self, own: list[tuple[str, Tensor]], counters: list[Tensor]) -> None:
        super().__init__()
        self.places = WeakTensorKeyDictionary()
        for name, tensor in own:
            self.places[tensor] = name
        self.counters = {id(t) for t in counters}
        self.found: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS or (args and id(args[0]) in self.counters):
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "__get__" and not isinstance(seen := func(*args, **kwargs), Tensor):
            return seen
        self.found.append((func, *self._described(func, args, kwargs)))
        result = func(*args, **kwargs)
        for i, made in enumerate(pytree.tree_leaves(result)):
            if isinstance(made, Tensor) and not isinstance(self.places.get(made), str):
                self.places[made] = (len(self.found), i)
        return result

    def _described(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Any]:
        """The arguments; a tensor that no call made stands for itself."""
        place, names = SWITCHES.get(func, (-1, ()))
        kept = [a for i, a in enumerate(args) if i != place], {k: v for k, v in kwargs.items() if k not in names}
        for leaf in pytree.tree_leaves(kept):
            if isinstance(leaf, Tensor):
                yield self.places.get(leaf) or leaf
            else:
                yield type(leaf), leaf


def modes_alike(model: nn.Module, example: Example) -> bool:
    """Whether forward makes the same calls on the same tensors in train and in eval mode.

    Dropout and norms are told the mode; beside that, every function, its other arguments, and where its tensors
    come from must be the same, and so must the nesting of what is returned.

    Args:
        model: copied, never touched.
        example: what it is called with.
    """
    twin = fresh_copy(model)
    values = [x.clone() if isinstance(x, Tensor) else x for x in leaves(example)]
    own = [*twin.named_parameters(), *twin.named_buffers()]
    own += [(f"input {i}", x) for i, x in enumerate(values) if isinstance(x, Tensor)]
    norms = [m for m in twin.modules() if isinstance(m, NormBase)]
    counters = [c for m in norms if isinstance(c := m.num_batches_tracked, Tensor)]
    runs: list[Any] = []
    try:
        with undisturbed_rng(), quiet(), caches_kept_clean(twin):  # gradients as in a trace
            for training in (False, True):
                with mode(twin, training), _Calls(own, counters) as calls:
                    made = pytree.tree_structure(call(twin, with_leaves(example, values)))
                runs.append((made, calls.found))
        return _same(runs[0], runs[1])
    except Exception:  # a batch norm of a single value, arguments that cannot be compared
        return False


def _same(a: Any, b: Any) -> bool:
    """Equality, of tensors by identity."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
