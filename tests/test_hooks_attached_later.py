"""Forward hooks that users attach to a converted model, or take off it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import bases, mirror, worst
from planned import remembered
from tiers import some
from torch import Tensor, nn
from torch.nn.modules import module as hooked
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from rcps_convert import ConversionError, bake, convert_model
from rcps_convert.convert import measured_call
from rcps_convert.tie.parts import OtherPartError
from rcps_convert.tie.watched_hooks import WatchedHook

DNA = torch.zeros(2, 4, 21)
TOLERANCE = 1e-10
X = bases(3)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(4)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.act(self.conv(x))).mean(-1))


def converted() -> Any:
    return remembered(Tower, DNA).double().eval()


def written(module: Any, given: Any, y: Tensor) -> None:
    y.mul_(torch.arange(8.0)[:, None])


def ramped_in_place(model: Any) -> None:
    model.act.register_forward_hook(written)


def summed(model: Any) -> None:
    model.act.register_forward_hook(lambda module, given, y: y.cumsum(-1))


def cropped(model: Any) -> None:
    model.act.register_forward_hook(lambda module, given, y: y[..., 3:])


def summed_before(model: Any) -> None:
    model.pool.register_forward_pre_hook(lambda module, given: (given[0].cumsum(-1),))


def summed_before_all(model: Any) -> None:
    model.register_forward_pre_hook(lambda module, given: (given[0].cumsum(-1),))


def by_name(model: Any) -> None:
    model.act.register_forward_hook(lambda module, given, named, y: y.cumsum(-1), with_kwargs=True)


HARMFUL = [summed, ramped_in_place, cropped, summed_before, summed_before_all, by_name]


@pytest.mark.parametrize("attach", some(HARMFUL, 3))
def test_a_hook_that_breaks_the_law_is_refused(attach: Callable[[Any], None]) -> None:
    model = converted()
    attach(model)
    for _ in range(2):
        with pytest.raises(OtherPartError, match="attached after the conversion changes what it is given"):
            model(X)


@pytest.mark.parametrize("twin", [copy.deepcopy])
def test_a_copy_refuses_it_too_and_a_baked_one_computes_with_it(twin: Any) -> None:
    model = converted()
    summed(model)
    with pytest.raises(OtherPartError, match="where  act"):
        twin(model)(X)
    plain = bake(model)
    assert not any(isinstance(hook, WatchedHook) for hook in plain.act._forward_hooks.values())
    assert worst(plain(mirror(X)), plain(X)) > 1e-3


def patched(model: Any) -> None:
    before = model.act.forward
    model.act.forward = lambda h: before(h).cumsum(-1)


def patched_as_a_whole(model: Any) -> None:
    before = model.forward
    model.forward = lambda x: before(x.cumsum(-1))


class Summing(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).cumsum(-1)


def of_another_class(model: Any) -> None:
    model.act.__class__ = Summing


@pytest.mark.parametrize("change", some([patched, patched_as_a_whole, of_another_class], 3))
def test_another_forward_of_a_module_is_measured(change: Any) -> None:
    model = converted()
    model(X)
    change(model)
    for _ in range(2):
        with pytest.raises(OtherPartError, match=r"a forward was set on a module|forward is not what it was"):
            model(X)


def test_a_forward_that_keeps_the_law_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted()
    before = model.act.forward
    model.act.forward = lambda h: before(h) * 2
    y = model(X)
    monkeypatch.setattr(measured_call, "fault_of", lambda *_: "measured again")
    assert worst(model(mirror(X)), y) < TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_quantization_of_a_tied_layer_says_what_to_do() -> None:
    model = converted().float()
    for inplace in (False, True):
        with pytest.raises(ConversionError, match=r"quantize bake\(model\)"):
            torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=inplace)
    assert not hasattr(model.out, "qconfig")
    quantized = torch.ao.quantization.quantize_dynamic(bake(model), {nn.Linear}, dtype=torch.qint8)
    x = X.float()
    step = float(quantized(x).abs().max()) / 64  # rounding may move what is quantized by a step
    assert torch.allclose(quantized(mirror(x)), quantized(x), rtol=0, atol=step)


def doubled(model: Any) -> None:
    model.conv.register_forward_hook(lambda module, given, y: y * 2)


def halves(model: Any) -> None:
    model.register_forward_hook(lambda module, given, y: y / 2)


@pytest.mark.parametrize("attach", some([doubled, halves], 1))
def test_a_hook_that_keeps_the_law_is_measured_once(attach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted()
    before = model(X)
    attach(model)
    after = model(X)
    assert worst(before, after) > 1e-3
    monkeypatch.setattr(measured_call, "fault_of", lambda *_: "measured again")
    assert worst(model(mirror(X)), after) < TOLERANCE


def test_a_hook_that_looks_is_run_once_a_call_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_call, "fault_of", lambda *_: "measured")
    model = converted()
    seen: list[Any] = []
    handle = model.act.register_forward_hook(lambda module, given, y: seen.append(y[..., 3:].sum()))
    model.pool.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    before = model(X)
    assert len(seen) == 2
    handle.remove()
    assert torch.equal(model(X), before)
    assert len(seen) == 3


def seen_by_gradients(module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    """As captum's DeepLIFT looks at the gradients of what a module is given: on a copy, for which it is exchanged."""
    given[0].register_hook(lambda g: g)
    return given[0].clone()


GIVING_BACK: list[Callable[[Any], Any]] = [
    lambda m: m.act.register_forward_pre_hook(seen_by_gradients),
    lambda m: m.act.register_forward_pre_hook(lambda module, given: (given[0].view_as(given[0]),)),
    lambda m: m.pool.register_forward_pre_hook(
        lambda module, given, named: ((given[0] * 1,), {**named}), with_kwargs=True
    ),
    lambda m: m.conv.register_forward_hook(lambda module, given, y: y.clone()),
    lambda m: m.act.register_forward_hook(lambda module, given, named, y: y + 0, with_kwargs=True),
]


@pytest.mark.parametrize("attach", GIVING_BACK)
def test_a_hook_that_gives_back_what_it_was_given_only_looks(attach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_call, "fault_of", lambda *_: "measured")
    model = converted()
    before = model(X.requires_grad_())
    attach(model)
    y = model(X)
    assert torch.equal(y, before)
    y.sum().backward()


def test_a_hook_that_gives_its_input_for_the_output_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_call, "fault_of", lambda *_: "measured")
    model = converted()
    model.act.register_forward_hook(lambda module, given, y: given[0])
    with pytest.raises(OtherPartError, match="changes what it is given"):
        model(X)


class Counts:
    """A hook that is an object, and is found by its class, as those of torch's pruning and norms are."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: Any, given: Any) -> None:
        self.calls += 1


@pytest.mark.parametrize("twin", [lambda model: model, copy.deepcopy])
def test_a_hook_that_is_watched_is_found_by_its_class(twin: Any) -> None:
    model = converted()
    model.pool.register_forward_pre_hook(Counts())
    model(X)
    model = twin(model)
    model(X)
    ((key, hook),) = [(k, h) for k, h in model.pool._forward_pre_hooks.items() if isinstance(h, Counts)]
    assert hook.calls == 2
    assert isinstance(hook, WatchedHook)
    del model.pool._forward_pre_hooks[key]
    assert worst(model(X), model(mirror(X))) < TOLERANCE


@pytest.mark.parametrize("name", ["prune", "spectral norm"])
def test_what_torch_applied_by_a_hook_can_be_taken_off_again(name: str) -> None:
    class Scored(Tower):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.head = nn.Linear(8, 1), nn.Linear(1, 3)  # the second has nothing to tie

        def forward(self, x: Tensor) -> Tensor:
            return self.head(super().forward(x))

    torch.manual_seed(0)
    model: Any = convert_model(Scored(), DNA, verify=False).double().eval()
    before = model(X)
    if name == "prune":
        prune.random_unstructured(model.head, "weight", 0.5)
    else:
        nn.utils.spectral_norm(model.head)
    assert worst(model(X), before) > 1e-6
    prune.remove(model.head, "weight") if name == "prune" else nn.utils.remove_spectral_norm(model.head)
    assert worst(model(X), model(mirror(X))) < TOLERANCE


def for_all(module: Any, given: Any, y: Any) -> Any:
    """Acts on the activation, wherever there is one."""
    return y.cumsum(-1) if isinstance(module, nn.ReLU) else None


def for_all_before(module: Any, given: Any) -> Any:
    return (given[0] * torch.arange(21.0),) if given[0].shape[1:] == (4, 21) else None


def scaled_for_all(module: Any, given: Any, y: Any) -> Any:
    return 2 * y if isinstance(module, nn.ReLU) else None


@pytest.mark.parametrize(
    ("register", "hook"),
    [
        (hooked.register_module_forward_hook, for_all),
        (hooked.register_module_forward_pre_hook, for_all_before),
    ],
)
def test_a_hook_around_every_module_is_judged_where_it_runs(register: Any, hook: Any) -> None:
    model, other = converted(), nn.Sequential(nn.ReLU())
    before = model(X)
    handle = register(hook)
    try:
        with pytest.raises(OtherPartError, match="changes what it is given"):
            model(X)
        assert worst(other(X), X) > 1
    finally:
        handle.remove()
    assert torch.equal(model(X), before)


def test_a_hook_around_every_module_that_keeps_the_law_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, measured = converted(), list[int]()
    measure = measured_call.fault_of
    monkeypatch.setattr(measured_call, "fault_of", lambda *given: measured.append(1) or measure(*given))
    seen: list[Any] = []
    handles = [hooked.register_module_forward_hook(lambda module, given, y: seen.append(type(module)))]
    try:
        model(X)
        once = len(seen)
        assert (measured, seen.count(nn.ReLU)) == ([], 1)
        handles.append(hooked.register_module_forward_hook(scaled_for_all))
        for _ in range(3):
            assert worst(model(X), model(mirror(X))) < TOLERANCE
        assert (measured, len(seen)) == ([1], 7 * once)
    finally:
        for handle in handles:
            handle.remove()


def test_operations_of_a_converted_model_are_counted_as_before() -> None:
    model = converted()
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            model(X)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_a_hook_that_was_converted_may_not_be_taken_off() -> None:
    class Cut(Tower):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(x)[..., :3].mean(-1))

    plain = Cut()
    plain.conv.register_forward_hook(lambda module, given, y: y.mean(-1, keepdim=True).expand_as(y))
    model: Any = convert_model(plain, DNA, verify=False)
    handle = next(iter(model.conv._forward_hooks))
    model(DNA)
    del model.conv._forward_hooks[handle]
    with pytest.raises(OtherPartError, match="that was there when the model was converted is gone"):
        model(DNA)


# --- models that read both strands ---

RAMP = torch.arange(21.0)


def for_all(module: nn.Module, given: Any) -> Any:
    return (given[0] * RAMP.to(given[0]),) if given[0].shape[-1] == 21 else None


def on_result(module: nn.Module, given: Any, y: Tensor) -> Tensor:
    return y * (2 + given[0][::2, :1, 0])  # both strands were given, one sample after the other


AROUND_BOTH: dict[str, Callable[[Any], Any]] = {
    "pre-hook of all modules": lambda m: hooked.register_module_forward_pre_hook(for_all),
    "first pre-hook": lambda m: m.register_forward_pre_hook(for_all, prepend=True),
    "hook of the model": lambda m: m.register_forward_hook(on_result),
}
"""Each changes what is given before both strands are read, or what is returned after."""

INSIDE: dict[str, Callable[[Any], Any]] = {
    "hook of all modules": lambda m: hooked.register_module_forward_hook(lambda m, given, y: y * 2),
    "pre-hook": lambda m: m.register_forward_pre_hook(for_all),
    "pre-hook of a layer": lambda m: m.act.register_forward_pre_hook(for_all),
}


@pytest.mark.parametrize("name", [*AROUND_BOTH, *INSIDE])
def test_hooks_around_a_model_that_reads_both_strands_are_measured(name: str) -> None:
    torch.manual_seed(0)
    model = convert_model(Tower(), DNA, strategy="conjoined", verify=False).double().eval()
    handle = {**AROUND_BOTH, **INSIDE}[name](model)
    try:
        if name in AROUND_BOTH:
            with pytest.raises(OtherPartError, match="attached after the conversion changes what it is given"):
                model(X)
        else:
            assert worst(model(X), model(mirror(X))) < TOLERANCE
    finally:
        handle.remove()
    assert worst(model(X), model(mirror(X))) < TOLERANCE


class Gated(nn.Module):
    """A convolution behind a gate that weights like the model's own leave closed. (N, 4, L) -> (N, 2)"""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scan, self.shut, self.out = nn.Conv1d(4, 8, 3), nn.Conv1d(4, 8, 3), nn.Linear(8, 2)
        self.gate = gate
        with torch.no_grad():
            self.shut.bias.fill_(-4)
            self.shut.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.scan(x) * self.gate(self.shut(x))).mean(-1) + x.sum((1, 2))[:, None] / 9)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "by the largest": lambda g: g.amax(-1, keepdim=True).relu(),
    "everywhere": lambda g: g.relu(),
    "by a comparison": lambda g: (g > 0).to(g.dtype) * g,
}


@pytest.mark.parametrize("gate", GATES)
def test_a_hook_behind_a_gate_is_measured_with_weights_that_open_it(gate: str) -> None:
    def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return torch.cat([2 * out[:, :1], out[:, 1:]], 1)

    model = convert_model(Gated(GATES[gate]), (2, 4, 20), verify=False).double().eval()
    model.scan.register_forward_hook(doubled)
    with pytest.raises(OtherPartError, match=r"(?s)changes what it is given.*strands disagree: error"):
        model(bases(3, 20))
