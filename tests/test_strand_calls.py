"""Models that read both strands: however they are called, whatever is raised, whoever holds their forward."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faults import picture
from oracle import assert_law
from planned import remembered
from tiers import chosen, some
from torch import Tensor, nn

from rcps_convert import ConversionError, bake, check_equivariance, convert_model, plan_conversion, unwrap
from rcps_convert.graph.held_forward import held_forward
from rcps_convert.strands.mixed import mixed_layers

DNA = torch.zeros(2, 4, 30)


def sequence(n: int = 3, length: int = 30) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.double()


def rc(x: Tensor) -> Tensor:
    return x.flip(1, 2)


class Net(nn.Module):
    """(N, 4, L) to (N, 2), or a profile."""

    def __init__(self, profile: bool = False) -> None:
        super().__init__()
        self.stem, self.body, self.out = nn.Conv1d(4, 6, 5, padding=2), nn.Conv1d(6, 6, 3, padding=1), nn.Linear(6, 2)
        self.profile, self.fails = profile, None

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.stem(x).relu()).relu()
        if self.fails is not None:
            raise self.fails
        return self.out(h.mT).mT if self.profile else self.out(h.mean(-1))


def converted(strategy: str, model: nn.Module | None = None, **how: Any) -> nn.Module:
    if model is None:
        made = remembered(Net, DNA, strategy=strategy, **how).double().eval()
    else:
        made = convert_model(model, DNA, strategy=strategy, **how).double().eval()
    torch.manual_seed(0)
    for layer in mixed_layers(made).values():
        nn.init.normal_(layer.cross_weight, std=0.1)  # type: ignore[arg-type]
    return made


def by_hand(model: nn.Module, x: Tensor, profile: bool = False) -> Tensor:
    """The mean of both readings of the plain model."""
    plain = unwrap(model)
    other = plain(rc(x))
    return (plain(x) + (other.flip(2) if profile else other)) / 2


# --- model.forward ------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [False, True])
def test_forward_reads_both_strands_as_a_call_does(profile: bool) -> None:
    model, x = converted("conjoined", Net(profile)), sequence()
    expected = by_hand(model, x, profile)
    torch.testing.assert_close(model.forward(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.forward(x=x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(model).forward(x), expected, rtol=0, atol=1e-12)


def test_forward_of_a_mixed_model_is_the_call() -> None:
    model, x = converted("mixed"), sequence()
    assert torch.equal(model.forward(x), model(x))
    torch.testing.assert_close(model.forward(rc(x)), model.forward(x), rtol=0, atol=1e-12)


def test_a_method_that_calls_forward_reads_both_strands() -> None:
    class Embeds(Net):
        def embed(self, x: Tensor) -> Tensor:
            return self.forward(x).tanh()

    model, x = converted("conjoined", Embeds()), sequence()
    torch.testing.assert_close(model.embed(rc(x)), model.embed(x), rtol=0, atol=1e-12)


def test_a_forward_that_calls_the_model_again_is_read_once_on_both_strands() -> None:
    class Twice(Net):
        def forward(self, x: Tensor, depth: int = 1) -> Tensor:
            if depth:
                return super().forward(x) + 0.5 * self(x * 2, 0) + 0.25 * self.forward(x * 3, 0)
            return super().forward(x).tanh()

    model, x = converted("conjoined", Twice()), sequence()
    torch.testing.assert_close(model(x), by_hand(model, x), rtol=0, atol=1e-12)


def test_post_hoc_forward_reads_one_strand_in_train_mode_only() -> None:
    model, x = converted("conjoined", post_hoc=True), sequence()
    torch.testing.assert_close(model.forward(x), by_hand(model, x), rtol=0, atol=1e-12)
    assert torch.equal(model.train().forward(x), unwrap(model)(x))


def test_another_forward_set_afterwards_is_merged_too() -> None:
    model, x = converted("conjoined"), sequence()
    plain = unwrap(model)
    model.forward = lambda x: plain.forward(x) * 2
    torch.testing.assert_close(model(x), plain(x) + plain(rc(x)), rtol=0, atol=1e-12)


def test_unwrapped_in_place_has_its_own_forward_back() -> None:
    model = converted("mixed")
    for layer in mixed_layers(model).values():
        nn.init.zeros_(layer.cross_weight)  # type: ignore[arg-type]
    unwrap(model, in_place=True)
    assert "forward" not in vars(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not model._forward_hooks_always_called


# --- after an exception -------------------------------------------------------------------------


@pytest.mark.parametrize("exception", some([KeyboardInterrupt, ValueError, MemoryError], 1))
@pytest.mark.parametrize("direct", [False, True])
def test_after_an_exception_a_mixed_layer_does_not_run_alone(exception: type[BaseException], direct: bool) -> None:
    model, x = converted("mixed"), sequence()
    expected = model(x)
    model.fails = exception("stop")
    with pytest.raises(exception, match="stop"):
        (model.forward if direct else model)(x)
    model.fails = None
    with pytest.raises(ConversionError, match="outside of its model"):
        model.body(torch.zeros(4, 6, 30, dtype=torch.float64))
    assert torch.equal(model(x), expected)
    assert torch.equal(model.forward(x), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("which", ["pre", "post"])
def test_after_an_exception_in_a_hook_of_the_user_forward_reads_both_strands(which: str) -> None:
    model, x = converted("conjoined"), sequence()
    expected = model(x)

    def raises(*given: Any) -> None:
        raise ValueError("stop")

    register = model.register_forward_pre_hook if which == "pre" else model.register_forward_hook
    handle = register(raises)
    with pytest.raises(ValueError, match="stop"):
        model(x)
    handle.remove()
    assert torch.equal(model.forward(x), expected)
    assert torch.equal(model(x), expected)


def test_threads_call_one_model() -> None:
    model = converted("mixed")
    wrong: list[Any] = []

    def run(seed: int) -> None:
        x = F.one_hot(torch.randint(4, (3, 30), generator=torch.Generator().manual_seed(seed)), 4).mT.double()
        for i in range(20):
            y, z = (model if i % 2 else model.forward)(x), model(rc(x))
            if not torch.allclose(y, z, rtol=0, atol=1e-12):
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- a forward that someone else holds ----------------------------------------------------------


class RunsAFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.run = lambda x: self.net(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class KeepsAMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.calls = {"main": self.net.forward}

    def forward(self, x: Tensor) -> Tensor:
        return self.calls["main"](x)


def wrapped_forward() -> nn.Module:
    model = Net()
    own = model.forward
    model.forward = lambda x: own(x).tanh()  # type: ignore[method-assign]
    return model


def wrapped_part() -> nn.Module:
    """In one submodule only, frozen: no gradient shows it."""
    model = Net().requires_grad_(False)
    own = model.body.forward
    model.body.forward = lambda x: own(x)  # type: ignore[method-assign]
    return model


class Compiled(nn.Module):
    """``torch.compile`` in the constructor, of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.run = torch.compile(self.net.forward, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def held_by_a_buffer() -> nn.Module:
    """The function reads nothing but a buffer."""
    model = nn.Sequential(nn.Conv1d(4, 6, 5), nn.BatchNorm1d(6, affine=False)).eval()
    norm = model[1]
    norm.forward = lambda x: F.batch_norm(x, norm.running_mean, norm.running_var)
    return model


HELD = [RunsAFunction, wrapped_forward, wrapped_part, Compiled, held_by_a_buffer]


@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
@pytest.mark.parametrize("make", chosen(HELD, lambda make: make is not Compiled))
def test_a_copy_that_would_compute_with_the_original_s_weights_is_refused(
    make: Callable[[], nn.Module], strategy: str
) -> None:
    model = make()
    before = picture(model)
    with pytest.raises(ConversionError, match="a copy of the model computes with the original's") as refused:
        convert_model(model, DNA, strategy=strategy)
    assert "in_place=True" in str(refused.value)
    assert picture(model) == before


@pytest.mark.parametrize("make", chosen(HELD, lambda make: make in (wrapped_part, held_by_a_buffer)))
def test_in_place_it_reads_both_strands_with_its_own_weights(make: Callable[[], nn.Module]) -> None:
    model, x = make().train(), sequence().float()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    plain = make()
    plain.load_state_dict(state)
    result = convert_model(model, DNA, strategy="conjoined", in_place=True)
    assert result is model
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
        next(plain.parameters()).mul_(1.5)
    ours = model.eval()(x)
    other = plain.eval()(rc(x))
    expected = (plain(x) + (other.flip(2) if other.dim() == 3 else other)) / 2
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def without_python(graph: nn.Module, inputs: object) -> Callable[..., Any]:
    """A backend whose code is like machine code: no function mode sees what it computes with."""

    def run(*operands: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return graph(*operands)

    return run


def compiled_before(**options: Any) -> nn.Module:
    """Frozen, so that no gradient shows whose weights it computes with, and compiled for its example."""
    torch._dynamo.reset()
    model = Net().requires_grad_(False).eval()
    model.forward = torch.compile(model.forward, backend=without_python, options=options)  # type: ignore[method-assign]
    model(DNA)
    return model


def test_code_that_is_never_compiled_again_does_not_hide_whose_weights_it_computes_with() -> None:
    model = compiled_before(guard_filter_fn=lambda guards: [False] * len(guards))
    assert "a copy of the model computes with the original's" in str(held_forward(model, DNA))


def test_nor_does_code_that_may_not_be_compiled_again() -> None:
    """An error while the model is looked at would tell nothing; what the user chose is chosen again afterwards."""
    model = compiled_before()
    with torch.compiler.set_stance("fail_on_recompile"):
        assert "a copy of the model computes with the original's" in str(held_forward(model, DNA))
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            model(DNA.double())


class CompiledWhole(nn.Module):
    """What ``torch.compile`` makes of a module is copied with it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(Net(), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("make", chosen([CompiledWhole, KeepsAMethod], lambda make: make is not CompiledWhole))
def test_what_is_copied_with_the_model_has_its_own_weights(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), sequence().float()
    before = model(x)
    made = convert_model(model, DNA, strategy="conjoined")
    with torch.no_grad():
        for p in made.parameters():
            p.zero_()
    assert not made(x).any()
    assert torch.equal(model(x), before)


def test_a_copy_that_shares_a_parameter_with_the_original_is_refused() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 6, 5)

        def __deepcopy__(self, memo: Any) -> nn.Module:
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean(-1)

    for strategy in ("tied", "conjoined"):
        with pytest.raises(ConversionError, match=r"shares .*conv\.weight with the original"):
            convert_model(nn.Sequential(Frozen()), DNA, strategy=strategy)


# --- outputs that look to one side --------------------------------------------------------------


class Causal(nn.Module):
    """Entry i sees positions up to i; `side` -1 turns it round."""

    def __init__(self, side: int = 1) -> None:
        super().__init__()
        self.side, self.stem, self.out = side, nn.Conv1d(4, 8, 3), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pad = (2, 0) if self.side > 0 else (0, 2)
        return self.out(self.stem(F.pad(x, pad)).relu())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.mT)[0]).mT


class Attention(nn.Module):
    """A causal mask, and every second position as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).mT
        return self.out(F.scaled_dot_product_attention(h, h, h, is_causal=True).mT)[..., ::2]


@pytest.mark.parametrize("strategy", some(["conjoined", "mixed"], 1))
@pytest.mark.parametrize(
    ("make", "word"),
    some(
        [
            (Causal, "later"),
            (lambda: Causal(-1), "earlier"),
            (Recurrent, "later"),
            (Attention, "later"),
        ],
        2,
    ),
)
def test_outputs_that_look_to_one_side_are_named(make: Callable[[], nn.Module], word: str, strategy: str) -> None:
    how: dict[str, Any] = {"outputs": "ACGT", "strategy": strategy, "merge": "max" if strategy == "mixed" else "mean"}
    plan = plan_conversion(make(), DNA, **how)
    if plan.problems:
        assert strategy == "mixed"  # no layer left to mix
        return
    assert f"does not depend on {word} positions" in str(plan)
    assert "shift the output" in str(plan)
    with pytest.warns(UserWarning, match=f"does not depend on {word} positions"):
        plan.apply(make())


@pytest.mark.parametrize(
    "model",
    some(
        [
            nn.Conv1d(4, 4, 3, padding=1),
            nn.Conv1d(4, 4, 1),
            nn.Conv1d(4, 4, 9, padding=4),
            nn.Sequential(nn.Conv1d(4, 4, 5), nn.AdaptiveAvgPool1d(1)),
        ],
        2,
    ),
)
def test_other_outputs_are_not(model: nn.Module, recwarn: Any) -> None:
    how = {} if isinstance(model, nn.Sequential) else {"outputs": "ACGT"}
    converted = convert_model(model, DNA, strategy="conjoined", **how)
    assert not recwarn.list
    assert check_equivariance(converted, DNA, **how)
    assert_law(converted, DNA, **how)


def test_what_the_note_says_is_so() -> None:
    """A next-base predictor on a sequence of period 4: the mean is of two bases, the shifted output is right."""
    text = "ACGG" * 10
    x = F.one_hot(torch.tensor(["ACGT".index(c) for c in text]), 4).mT.double()[None]

    class Predicts(nn.Module):
        """Knows what follows each base pair, on either strand; entry i predicts base i + 1, or base i if shifted."""

        def __init__(self, shift: bool) -> None:
            super().__init__()
            known = {p: n for s in (text, text[::-1].translate(str.maketrans("ACGT", "TGCA"))) for p, n in pairs(s)}
            self.table, self.shift = torch.zeros(16, 4, dtype=torch.float64), shift
            for (a, b), n in known.items():
                self.table["ACGT".index(a) * 4 + "ACGT".index(b), "ACGT".index(n)] = 1
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            before = F.pad(x, (1, 0))[..., :-1]
            both = (before[:, :, None] * x[:, None]).flatten(1, 2)
            y = torch.einsum("npl,pc->ncl", both, self.table.to(x.dtype)) * self.weight
            return F.pad(y, (1, 0))[..., :-1] if self.shift else y

    scores = []
    for shift in (False, True):
        with pytest.warns(UserWarning, match="does not depend on later positions"):
            model = convert_model(Predicts(shift), x.expand(2, -1, -1), strategy="conjoined", outputs="ACGT")
        y, true = model(x)[0, :, 4:-4].argmax(0), x[0].argmax(0)
        scores.append(float((y == (true[4:-4] if shift else true[5:-3])).double().mean()))
    assert scores[0] < 0.9
    assert scores[1] == 1


def pairs(text: str) -> list[tuple[str, str]]:
    return [(text[i : i + 2], text[i + 2]) for i in range(len(text) - 2)]


@pytest.mark.slow
@pytest.mark.variation
def test_a_converted_model_is_baked_and_compiled_as_before() -> None:
    model, x = converted("conjoined"), sequence()
    expected = model(x)
    assert torch.equal(bake(model)(x), expected)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-12)
    exported = torch.export.export(model, (x,), strict=False).module()
    torch.testing.assert_close(exported(x), expected, rtol=0, atol=1e-12)


def peak(net: Net, x: Tensor) -> Tensor:
    return net.out(net.body(net.stem(x).relu()).relu().amax(-1))


def doubled(module: nn.Module) -> nn.Module:
    """A replica as ``nn.DataParallel`` makes it, with twice the parameters in the place of those of another device."""
    made = module._replicate_for_data_parallel()  # type: ignore[operator]
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else doubled(child)
    for name, value in module._parameters.items():
        object.__setattr__(made, name, None if value is None else value.detach() * 2)
    return made


@pytest.mark.parametrize("strategy", ["tied", "conjoined", "mixed"])
@pytest.mark.parametrize("own", some([True, False], 1))
def test_a_replica_computes_with_its_own_weights(strategy: str, own: bool) -> None:
    """Also where the user had set a forward on the model, and where the replica's forward is called by itself."""
    net = Net()
    if own:
        net.forward = MethodType(peak, net)  # type: ignore[method-assign]
    model, x = converted(strategy, net), sequence()
    twin, twice = doubled(model), copy.deepcopy(model)
    with torch.no_grad():
        for p in twice.parameters():
            p.mul_(2)
        wanted = twice(x)
        assert float((wanted - model(x)).abs().max()) > 1e-3
        for found in (twin(x), twin.forward(x)):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
