"""What the package uses of torch beyond its documentation: one test each, which says what breaks without it."""

import copy
import inspect
import pickle
import threading
import warnings
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiers import some
from torch import Tensor, nn
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from rcps_convert import _torch
from rcps_convert._torch import pytree
from rcps_convert.errors import TraceError
from rcps_convert.graph.export import trace


class Seen(TorchFunctionMode):
    """Notes the functions that a mode is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


class Lined(nn.Module):
    """A call on a line of its own, in a function that forward calls."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return torch.sin(x) + y


class Halves(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.flip(0)])

    def right_inverse(self, x: Tensor) -> Tensor:
        return x[: len(x) // 2]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Inner()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            scale = x.sum() * 2
        return {"y": self.block(x) * scale, "z": x + 1}


def exported(model: nn.Module, *args: Tensor) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, strict=False)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return exported(Model().train(), torch.zeros(2, 4, 9))


def nodes(program: torch.export.ExportedProgram, name: str) -> list:
    return [n for n in program.graph.nodes if n.op == "call_function" and _torch.op_name(n.target) == name]


# --- function modes ------------------------------------------------------------------------------


def test_a_mode_does_not_see_our_own_calls() -> None:
    """Else a re-anchored call would meet its own arithmetic, and refuse it as unplanned."""
    with Seen() as seen, _torch.unseen():
        torch.relu(torch.zeros(2))
    assert seen.functions == []


@pytest.mark.parametrize(
    ("call", "function"),
    [
        (lambda x: F.max_pool1d(x, 2), "max_pool1d"),
        (lambda x: nn.MaxPool1d(2)(x), "max_pool1d"),
        (lambda x: F.pad(x, (1, 0)), "pad"),
        (lambda x: nn.Conv1d(3, 2, 2)(x), "conv1d"),
        (lambda x: nn.Conv1d(3, 2, 2, padding="same")(x), "conv1d"),
        (lambda x: nn.ConvTranspose1d(3, 2, 2)(x), "conv_transpose1d"),
        (lambda x: x[..., 1:], "getitem"),
        (lambda x: F.interpolate(x, scale_factor=2), "interpolate"),
    ],
)
def test_a_mode_sees_the_calls_that_are_re_anchored(call, function) -> None:
    """Else a call that reads one edge goes by, and the model is refused when it is verified."""
    from rcps_convert.geometry.table import EDGE_FUNCTIONS

    with Seen() as seen:
        call(torch.zeros(1, 3, 8))
    assert function in [EDGE_FUNCTIONS[f].name.strip("_") for f in seen.functions if f in EDGE_FUNCTIONS]


def test_pads_are_known_by_every_name() -> None:
    """Else pads are not re-anchored."""
    with Seen() as seen:
        F.pad(torch.zeros(1, 3, 8), (1, 0))
    assert set(seen.functions) & set(_torch.PADS)


def test_names_of_functions() -> None:
    """They are in tables and messages."""
    assert [_torch.function_name(f) for f in (F.pad, Tensor.__getitem__, torch.conv1d)] == ["pad", "getitem", "conv1d"]


# --- vmap ----------------------------------------------------------------------------------------


def test_a_running_vmap_is_seen_and_can_be_left() -> None:
    """Else its calls would be re-anchored one by one, or a failed call would hide dimensions for good."""
    found = []
    torch.vmap(lambda x: found.append(_torch.transform_level()) or x)(torch.zeros(3))
    assert found == [1]
    torch.vmap(lambda x: found.append(_torch.is_mapped()) or x)(torch.zeros(3))
    torch.func.grad(lambda x: found.append(_torch.is_mapped()) or x)(torch.zeros(()))
    assert found[1:] == [True, False]
    assert not _torch.is_mapped()
    assert _torch.transform_level() is None
    torch._C._functorch._vmap_increment_nesting(3, "error")
    assert _torch.transform_level() == 1
    _torch.leave_map()
    assert _torch.transform_level() is None


def test_a_vmap_leaves_its_names_in_a_graph() -> None:
    """Else it has no rule."""

    class Mapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(torch.sin)(x)

    program = exported(Mapped(), torch.zeros(3, 2))
    assert len(nodes(program, _torch.ENTER)) == len(nodes(program, _torch.LEAVE)) == 1


# --- autograd and checkpoints --------------------------------------------------------------------


def test_a_backward_pass_is_seen() -> None:
    """Else a mixed model under checkpointing would be taken for a layer called outside of its model."""
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(_torch.in_backward())
        return x.sin()

    checkpoint(function, torch.zeros(2, requires_grad=True), use_reentrant=False).sum().backward()
    assert seen == [False, True]


def test_forward_mode_is_seen() -> None:
    """Else an operator without a rule for forward-mode differentiation would be met by it."""
    assert not _torch.forward_gradients()
    with torch.autograd.forward_ad.dual_level():
        assert _torch.forward_gradients()
    assert not _torch.forward_gradients()


def test_writes_change_a_tensor_s_version() -> None:
    """Else a module that writes into what it was given would be taken for a function of it."""
    x = torch.zeros(2)
    before = _torch.version(x)
    x[:1].add_(1)
    assert _torch.version(x) > before


def test_a_checkpoint_between_a_call_and_its_module_is_seen() -> None:
    """Else a call is re-anchored in the forward pass and not when the backward pass repeats it."""
    seen = []

    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(_torch.is_recomputed())
            return x

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def function(y: Tensor) -> Tensor:
                seen.append(_torch.is_recomputed())
                return y

            return checkpoint(function, checkpoint(Calls(), x, use_reentrant=False), use_reentrant=False)

    Model()(torch.zeros(2, requires_grad=True))
    assert seen == [False, True]


# --- the compiler --------------------------------------------------------------------------------


def test_the_compiler_keeps_a_pad_whole() -> None:
    """Else a mode does not see pads in compiled models."""
    _torch.keep_whole(F.pad)
    names = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        names.extend(getattr(n.target, "__name__", "") for n in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda x: F.pad(x, (1, 0)) + 1, backend=backend)(torch.zeros(2, 3))
    assert "pad" in names


# --- exported programs ---------------------------------------------------------------------------


def test_nodes_know_their_modules(program) -> None:
    """Else no message and no table names a module."""
    (conv,) = nodes(program, "conv1d")
    assert [path for path, _ in _torch.scope(conv)] == ["", "block", "block.conv"]


def test_nodes_know_their_lines(program) -> None:
    """Else no message names the user's line."""
    (conv,) = nodes(program, "conv1d")
    line = inspect.getsourcelines(Inner.forward)[1] + 1
    assert (__file__, line) in _torch.frames(conv)


def test_nodes_know_their_shapes(program) -> None:
    """Else nothing can be inferred."""
    (conv,) = nodes(program, "conv1d")
    assert tuple(_torch.value(conv).shape) == (2, 6, 7)


def test_printed_stacks_are_read() -> None:
    """Else refusals name no line."""
    assert _torch.frames_in('File "a.py", line 3, in f\n  x\n  File "b.py", line 41, in g') == [
        ("a.py", 3),
        ("b.py", 41),
    ]


RECURRENT = [
    nn.LSTM(2, 3, batch_first=True, bidirectional=True, num_layers=2),
    nn.LSTM(2, 3, proj_size=1),
    nn.GRU(2, 3, bidirectional=True, dropout=0.1, num_layers=2),
    nn.RNN(2, 3, batch_first=True, bias=False),
]


class AfterALayer(nn.Module):
    """A recurrence of what is computed from weights: torch then writes out its steps."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.first, self.recurrent = nn.Linear(2, 2), recurrent

    def forward(self, x):
        return self.recurrent(self.first(x))


@pytest.mark.parametrize("layer", some(RECURRENT, 2), ids=str)
def test_recurrent_layers_have_the_shapes_of_their_results_from_one_step(layer: nn.RNNBase, monkeypatch) -> None:
    """Else what reads the last state of a recurrent layer is refused, or tracing takes seconds at long lengths."""
    module = import_module("torch._decomp.decompositions")
    before, steps = (module.select_one_layer_lstm_function, module.one_layer_rnn), []
    for cell in ("lstm_cell", "gru_cell"):
        run = getattr(module, cell)
        monkeypatch.setattr(module, cell, lambda *a, run=run, **kw: [steps.append(1), run(*a, **kw)][1])
    x = torch.zeros(4, 5, 2)
    with _torch.recurrent_shapes():
        program = exported(AfterALayer(layer), x)
    assert (module.select_one_layer_lstm_function, module.one_layer_rnn) == before
    made = [v for name in ("lstm", "gru", "rnn_tanh") for n in nodes(program, name) for v in _torch.value(n)]
    out, states = AfterALayer(layer)(x)
    states = states if isinstance(states, tuple) else (states,)
    assert [(v.shape, v.stride(), v.dtype) for v in made] == [(y.shape, y.stride(), y.dtype) for y in (out, *states)]
    assert len(steps) <= 2 * layer.num_layers


@pytest.mark.slow
def test_the_steps_of_a_recurrence_that_are_recorded_are_all_recorded() -> None:
    """Else a graph that is written out in steps would hold one of them."""
    model, x = AfterALayer(nn.GRU(2, 3)), torch.randn(4, 5, 2)
    with _torch.recurrent_shapes():
        short = exported(model, x).run_decompositions()
    assert torch.allclose(short.module()(x)[0], model(x)[0])
    assert not nodes(short, "gru")


def test_graphs_that_are_read_have_lines_and_no_code() -> None:
    """Else tracing takes a fifth longer, or errors name no line."""
    module = import_module("torch.fx.proxy")
    before = module.CapturedTraceback
    with _torch.quick_graphs():
        program = exported(Lined(), torch.zeros(2, 3))
    assert module.CapturedTraceback is before
    usual = exported(Lined(), torch.zeros(2, 3))
    for made in (program, usual):
        (node,) = nodes(made, "sin")
        file, line = next(f for f in reversed(_torch.frames(node)) if f[0] == __file__)
        assert inspect.getsourcelines(Lined.forward)[1] < line
        assert "torch.sin(x)" in Path(file).read_text().splitlines()[line - 1]
    assert [n.name for n in program.graph.nodes] == [n.name for n in usual.graph.nodes]
    assert torch.equal(program.module()(torch.ones(2, 3)), usual.module()(torch.ones(2, 3)))


class Sampled(nn.Module):
    """A distribution, whose parameters torch looks at."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(x, x.exp()).cdf(x + 1)


def test_distributions_do_not_look_at_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model with one cannot be traced."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # a compiler switches it off for good
    with pytest.raises(Exception, match="data-dependent"):
        exported(Sampled(), torch.zeros(2, 3))
    with _torch.unvalidated_distributions():
        assert nodes(exported(Sampled(), torch.zeros(2, 3)), "erf")
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(torch.zeros(2), -torch.ones(2))


def test_an_export_leaves_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else graphs that are made later lack their code, and distributions their checks."""
    module, kind = import_module("torch.fx.proxy"), torch.distributions.Distribution
    monkeypatch.setattr(kind, "_validate_args", True)
    before = module.CapturedTraceback, kind._validate_args, _torch.ModeState()

    def fail() -> None:
        assert module.CapturedTraceback is not before[0]
        assert not kind._validate_args
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), _torch.exporting():
        fail()
    assert (module.CapturedTraceback, kind._validate_args) == before[:2]
    assert not before[2].differ()


def test_blocks_without_gradient_are_nested_graphs(program) -> None:
    """Else they have no rule."""
    (block,) = [n for n in program.graph.nodes if n.op == "call_function" and _torch.is_wrapper(n)]
    modules = [a for a in block.args if isinstance(a, torch.fx.Node) and a.op == "get_attr"]
    assert len(modules) == 1
    assert isinstance(getattr(program.graph_module, str(modules[0].target)), torch.fx.GraphModule)


def test_inputs_of_a_program(program) -> None:
    """Else no parameter is known in the graph."""
    found = {(kind, target) for _, kind, target in _torch.inputs_of(program)}
    assert ("PARAMETER", "block.conv.weight") in found
    assert ("BUFFER", "block.norm.running_mean") in found
    assert {kind for kind, _ in found} == {"PARAMETER", "BUFFER", "USER_INPUT"}
    placeholders = [n.name for n in program.graph.nodes if n.op == "placeholder"]
    assert [name for name, _, _ in _torch.inputs_of(program)] == placeholders


def test_outputs_of_a_program(program) -> None:
    """Else outputs of the graph are taken for those of the model."""
    assert sum(_torch.returned(program)) == 2
    assert pytree.tree_unflatten([1, 2], _torch.out_spec(program)) == {"y": 1, "z": 2}


def test_a_program_s_module_can_be_pickled_and_takes_other_lengths() -> None:
    """Else a baked mixed model cannot be saved, or works at one length."""
    shapes = {"input": {2: torch.export.Dim.AUTO}}
    program = torch.export.export(nn.Conv1d(4, 2, 3), (torch.zeros(2, 4, 9),), dynamic_shapes=shapes, strict=False)
    graph = _torch.picklable(_torch.unguarded(program), "Conv1d")
    again = pickle.loads(pickle.dumps(graph))
    assert again(torch.zeros(2, 4, 12)).shape == (2, 2, 10)


def test_export_reads_the_signature_of_a_forward_that_is_set() -> None:
    """Else a re-anchored model cannot be exported."""

    class Forward:
        def __init__(self, module: nn.Module) -> None:
            self.module = module

        def __call__(self, *args, **kwargs):
            return type(self.module).forward(self.module, *args, **kwargs)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(type(self.module).forward.__get__(self.module))

        @property
        def __code__(self):
            return type(self.module).forward.__code__

        @property
        def __name__(self) -> str:
            return "forward"

    model = Inner()
    model.forward = Forward(model)
    assert exported(model, torch.zeros(2, 4, 9)).module()(torch.ones(2, 4, 9)).shape == (2, 6, 7)


def test_the_keys_of_weight_norm_are_renamed_by_a_hook_that_can_be_pickled() -> None:
    """Else a converted model with weight norm cannot be pickled."""
    old = nn.utils.weight_norm(nn.Conv1d(4, 8, 5)).state_dict()  # of `weight_g` and `weight_v`
    expected, model = (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 8, 5)) for _ in range(2))
    with pytest.raises(AttributeError, match="local object"):
        pickle.dumps(model._load_state_dict_pre_hooks)
    _torch.make_hooks_picklable(model)
    hooks = pickle.loads(pickle.dumps(model._load_state_dict_pre_hooks))
    assert [type(h.hook) for h in hooks.values()] == [_torch.WeightNormKeys]
    for m in (expected, model):
        m.load_state_dict(old)
    assert torch.equal(model.weight, expected.weight)
    assert torch.equal(model.parametrizations.weight.original0, old["weight_g"])


# --- operators -----------------------------------------------------------------------------------


def test_operators_have_names_and_schemas() -> None:
    """Else in-place writes and views go unseen."""
    aten = torch.ops.aten
    assert _torch.op_name(aten.conv1d.padding) == "conv1d"
    assert [_torch.writes(a) for a in _torch.arguments(aten.add_.Tensor)] == [True, False, False]
    viewed = _torch.arguments(aten.view.default)[0]
    assert viewed.alias_info is not None
    assert not _torch.writes(viewed)
    assert _torch.arguments(print) == ()


def test_in_place_operators_are_named_after_plain_ones() -> None:
    """Else in-place operators have no rules."""
    assert _torch.plain_twin(torch.ops.aten.add_.Tensor) is torch.ops.aten.add.Tensor
    assert _torch.plain_twin(torch.ops.aten.zero_.default) is torch.ops.aten.zero.default


@pytest.mark.parametrize("name", ["relu", "sigmoid", "exp", "add", "elu"])
def test_pointwise_operators_are_tagged(name) -> None:
    """Else they have no rules."""
    packet = getattr(torch.ops.aten, name)
    assert torch.Tag.pointwise in (packet.Tensor if name == "add" else packet.default).tags


def test_operators_are_told_from_other_things() -> None:
    """Else `rule` takes what no graph ever holds."""
    relu = torch.ops.aten.relu
    assert _torch.is_operator(relu)
    assert _torch.is_operator(relu.default)
    assert not _torch.is_operator(torch.relu)
    assert relu.default in _torch.overloads(relu)
    assert _torch.overloads(relu.default) == [relu.default]


def test_a_custom_operator_s_definition_holds_its_operator() -> None:
    """Else `rule` takes ``torch.ops.mylib.name`` only, and models that keep a definition cannot be copied."""

    @torch.library.custom_op("rcps_private::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    assert isinstance(twice, _torch.CustomOpDef)
    assert _torch.is_operator(twice)
    assert _torch.overloads(twice) == [torch.ops.rcps_private.twice.default]


def test_random_operators_are_tagged() -> None:
    """Else noise is held to an equation."""
    aten = torch.ops.aten
    for overload in (aten.rand.default, aten.normal_.default, aten.exponential_.default, aten.bernoulli.default):
        assert _torch.draws_random_numbers(overload)
    assert not _torch.draws_random_numbers(aten.relu.default)


def test_operators_pass_a_mode_on_their_way_to_a_device() -> None:
    """Else random numbers inside of torch's own functions are not held."""

    class Seen(_torch.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(_torch.op_name(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    with Seen():
        nn.functional.gumbel_softmax(torch.zeros(3))
    assert "exponential_" in names


def test_a_thread_knows_that_its_calls_are_exported() -> None:
    """Else guards refuse what an export calls, or let pass what another thread does meanwhile."""

    class Asking(nn.Module):
        def forward(self, x):
            answers.append((_torch.is_compiling(), _torch.is_recorded()))
            return x + 1

    answers: list[tuple[bool, bool]] = []
    torch.export.export(Asking(), (torch.zeros(2),), strict=False)
    torch.jit.trace(Asking(), torch.zeros(2))
    Asking()(torch.zeros(2))
    assert answers[0] == (True, True)
    assert (False, True) in answers
    assert answers[-1] == (False, False)
    assert torch.compile(lambda x: x + _torch.is_compiling(), backend="eager", fullgraph=True)(torch.zeros(1)) == 1


# --- modules -------------------------------------------------------------------------------------


class PreHook:
    def __call__(self, module, args, kwargs):
        return args, kwargs


class Hook:
    def __call__(self, module, args, kwargs, output):
        return output


def test_hooks_are_taken_off_by_class() -> None:
    """Else untying leaves hooks behind, or takes the user's."""
    module, own = nn.Linear(2, 2), []
    module.register_forward_pre_hook(lambda m, a: own.append("before"))
    module.register_forward_hook(lambda m, a, o: own.append("after"), always_call=True)
    plain = {name: dict(table) for name, table in vars(module).items() if name.startswith("_forward")}
    module.register_forward_pre_hook(PreHook(), with_kwargs=True)
    module.register_forward_hook(Hook(), with_kwargs=True, always_call=True)
    assert isinstance(_torch.pre_hooks(module)[1], PreHook)
    _torch.drop_hooks(module, lambda hook: isinstance(hook, (PreHook, Hook)))
    assert {name: dict(table) for name, table in vars(module).items() if name.startswith("_forward")} == plain
    module(torch.zeros(1, 2))
    assert own == ["before", "after"]


def test_hooks_around_every_module_lie_in_two_tables() -> None:
    from torch.nn.modules import module

    def hook(*_: Any) -> None: ...

    handles = [module.register_module_forward_pre_hook(hook), module.register_module_forward_hook(hook)]
    assert [hook in table.values() for table in _torch.tables_for_all()] == [True, True]
    for handle in handles:
        handle.remove()
    assert [hook in table.values() for table in _torch.tables_for_all()] == [False, False]


def test_a_hook_that_is_attached_is_counted_and_says_what_it_takes() -> None:
    """Else a hook that is attached to a converted model, and changes what it computes, is not seen."""
    module, before = nn.Linear(2, 2), _torch.hooks_so_far()
    module.register_forward_pre_hook(print)
    module.register_forward_pre_hook(print, with_kwargs=True)
    assert _torch.hooks_so_far() > before
    assert [_torch.takes_kwargs(module, key) for key in _torch.hook_tables(module)[0]] == [False, True]


def test_modes_are_put_aside() -> None:
    """Else what a user's hook computes is taken for calls of forward."""
    outer, inner = Seen(), Seen()
    with outer, FlopCounterMode(display=False), inner:
        before = _torch.function_modes()
        with _torch.modes_aside(Seen):
            torch.ones(2).sin()
            assert _torch.function_modes() == [mode for mode in before if mode not in (outer, inner)]
        assert _torch.function_modes() == before
        assert not outer.functions
        torch.ones(2).sin()
    assert torch.Tensor.sin in outer.functions
    with _torch.modes_aside(Seen):
        assert not _torch.function_modes()


def test_a_module_s_tables_are_what_it_holds() -> None:
    """Else a failed conversion leaves traces, and hooks of the user run on tensors without values."""
    module = nn.BatchNorm1d(2)
    child = nn.Linear(1, 1)
    module.add_module("child", child)
    module.register_forward_hook(print)
    held = {k: v for table in _torch.member_tables(module) for k, v in table.items()}
    assert held["weight"] is module.weight
    assert held["running_mean"] is module.running_mean
    assert held["child"] is child
    assert [id(t) for t in _torch.own_tensors(module)][:2] == [id(module.weight), id(module.bias)]
    held = [(m, name) for m, name, b in _torch.buffers_of([module, child]) if b is getattr(m, name)]
    assert held == [(module, name) for name, _ in module.named_buffers()]
    assert not _torch.buffers_of([nn.BatchNorm1d(2, track_running_stats=False)])
    assert _torch.is_held(module, "running_mean", module.running_mean)
    assert not _torch.is_held(module, "running_mean", module.running_mean.clone())
    assert [list(table.values()) for table in _torch.hook_tables(module)] == [[], [print]]
    assert _torch.parameter_order(module) == ["weight", "bias"]


def test_replicas_are_made_by_a_method() -> None:
    """Else a replica of a converted model computes with the original's weights."""
    module = nn.Linear(2, 2)
    made = _torch.replica(module)
    assert hasattr(module, _torch.REPLICATE)
    assert type(made) is nn.Linear
    assert made is not module


def test_running_modules_are_found() -> None:
    """Else a weight that was left untied is refused when it is looked at from outside of any call."""
    seen = []

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(list(_torch.calling_modules()))
            return x

    module = Looking()
    nn.Sequential(module)(torch.zeros(1))
    assert seen[0][0] is module
    assert any(isinstance(m, nn.Sequential) for m in seen[0])
    assert list(_torch.calling_modules()) == []


def test_what_a_compiler_notes_on_a_tensor_is_told_from_the_users_attributes() -> None:
    x: Any = torch.ones(2, 3)
    torch._dynamo.mark_dynamic(x, 1)
    assert vars(x)
    assert _torch.own_attributes(x) == {}
    x.tag = 1
    assert _torch.own_attributes(x) == {"tag": 1}


@pytest.mark.parametrize(("stands", "worked"), [(True, 0), (False, 3)])
def test_a_compiler_takes_an_answer_for_a_constant_and_calls_work_as_it_is(stands: bool, worked: int) -> None:
    asked, done = list[bool](), list[Any]()

    def ask() -> bool:
        asked.append(torch.compiler.is_dynamo_compiling())
        return stands

    told = _torch.told_to_compiler(ask)
    work = _torch.not_compiled(lambda x: done.append((type(x), torch.compiler.is_dynamo_compiling())), "for no reason")

    def run(x: Tensor) -> Tensor:
        if not told():
            work(x)
        return x + 1

    torch._dynamo.reset()
    call = torch.compile(run, backend="eager", dynamic=False)
    for x in (torch.ones(2), torch.ones(2), torch.ones(3)):
        assert torch.equal(call(x), x + 1)
    assert set(asked) == {False}
    assert len(asked) == (2 if stands else 4)  # the second length is compiled anew; a break is met twice
    assert done == [(Tensor, False)] * worked
    torch._dynamo.reset()
    with nullcontext() if stands else pytest.raises(torch._dynamo.exc.Unsupported, match="for no reason"):
        torch.compile(run, backend="eager", fullgraph=True)(torch.ones(2))


def test_a_call_of_a_module_is_found_whatever_its_forward_is() -> None:
    class Checking:
        def __init__(self, module: nn.Module) -> None:
            self.module = module

        def __call__(self, x: Any, k: Any = None) -> Any:
            return forward(x, k)

    def forward(x: Any, k: Any = None) -> Any:
        found.append(_torch.call_of(module, Checking.__call__.__code__))
        return x

    found: list[Any] = []
    module: Any = nn.Identity()
    forward(0)
    module.forward = forward
    module(1, k=2)
    module.forward(3)
    module.forward = Checking(module)
    module(4)
    assert found == [None, ((1,), {"k": 2}), ((3, None), {}), None]


def test_the_module_that_is_called_is_found_and_shares_its_tables_with_a_shallow_copy() -> None:
    def forward(x: Tensor) -> Tensor:
        found.append(_torch.module_called())
        return x

    found: list[Any] = []
    module, other = nn.Identity(), nn.Identity()
    module.forward = forward
    twin = copy.copy(module)
    module(torch.ones(1))
    twin(torch.ones(1))
    module.forward(torch.ones(1))
    assert found == [module, twin, None]
    assert _torch.share_parts(twin, module)
    assert not _torch.share_parts(other, module)
    assert _torch.may_share_parts(module)
    assert not _torch.may_share_parts(other)
    del twin
    found.clear()
    assert not _torch.may_share_parts(module)


def test_whether_a_mode_is_active_and_whether_weights_are_cached() -> None:
    assert not _torch.has_modes()
    assert not _torch.caches_weights()
    with Seen(), torch.nn.utils.parametrize.cached():
        assert _torch.has_modes()
        assert _torch.caches_weights()
    assert not _torch.has_modes()
    assert not _torch.caches_weights()


def test_what_watches_a_call_is_seen() -> None:
    """Else a tied weight is read by the short way where somebody follows how it is computed."""
    seen, uncaught = [], []

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(_torch.is_unwatched())
            uncaught.append(_torch.is_uncaught())
            assert seen[-1] is (short(Looking.forward.__code__)[0] is not None)
            return x + 1

    def short(code: object) -> Any:
        return _torch.read_by(code, tied, "weight")

    tied = nn.Linear(2, 2)
    torch.nn.utils.parametrize.register_parametrization(tied, "weight", nn.Identity())

    module, x = Looking(), torch.zeros(2)
    module(x)
    with Seen():
        module(x)
    with FlopCounterMode(display=False):
        module(x)
    with torch.nn.utils.parametrize.cached():
        module(x)
    torch.func.vmap(module)(x)
    torch.jit.trace(module, x, check_trace=False)
    torch.export.export(module, (x,))
    module(x)
    assert seen[0]
    assert seen[-1]
    assert not any(seen[1:-1])
    assert len(seen) >= 8
    assert uncaught[:5] == [True, False, True, True, True]  # modes below, torch's cache and transforms catch no calls
    assert uncaught[-1]
    assert not any(uncaught[5:-1])


class Doubled(nn.Module):
    """A parametrization that keeps what it made last, as ties do."""

    owner: dict[str, Any]
    usual: Any

    def forward(self, stored: Tensor) -> Tensor:
        self.seen = _torch.MadeOf(stored, lambda numbers: numbers * 2)
        return 2 * stored


def test_what_was_made_before_is_read_where_nothing_asks_for_more() -> None:
    """Else a layer computes with a weight that is no longer what is stored, or that no gradient reaches."""
    tied, step = nn.Linear(2, 2), Doubled()
    torch.nn.utils.parametrize.register_parametrization(tied, "weight", step)
    chain: Any = tied.parametrizations["weight"]

    def caller() -> Any:
        return asked()

    def asked(code: Any = caller.__code__) -> Any:
        return _torch.made_before(code, tied, "weight")

    step.owner, step.usual = {"forward": caller}, caller
    assert caller() is None  # a gradient may be recorded
    with torch.no_grad():
        assert caller() is step.seen.made
        step.owner = {"forward": asked}
        assert caller() is None
        step.owner = {}
        assert caller() is None
        step.owner = {"forward": caller}
        assert asked() is None  # another function asks
        compiled = torch.compile(lambda x: x + (caller() is None), backend="eager", fullgraph=True)
        assert compiled(torch.zeros(1)) == 1
        for watching in (Seen(), FlopCounterMode(display=False), torch.nn.utils.parametrize.cached()):
            with watching:
                assert caller() is None
        chain.original.data[0, 0] += 1
        assert caller() is None
        step(chain.original)
        assert torch.equal(caller(), 2 * chain.original)
        handle = chain.register_forward_hook(lambda *given: None)
        assert caller() is None
        handle.remove()
        step.seen = {"the user's own": 1}  # type: ignore[assignment]
        assert caller() is None
    for name in ("seen", "original"):
        delattr(step if name == "seen" else chain, name)
        assert caller() is None


def test_compiled_functions_run_as_they_were_written() -> None:
    """Else what a model that was compiled computes with cannot be told."""
    seen = []

    def backend(module: nn.Module, inputs: object) -> Any:
        def run(*args: Tensor) -> Any:
            seen.append("compiled")
            return module(*args)

        return run

    compiled, x = torch.compile(lambda x: x.sin(), backend=backend), torch.ones(2)
    with _torch.uncompiled():
        assert torch.equal(compiled(x), x.sin())
    assert seen == []
    assert torch.equal(compiled(x), x.sin())
    assert seen == ["compiled"]


def test_code_of_layers_of_torch_is_known() -> None:
    """Else a tied weight that a forward of the user's writes into is taken for one that nobody does."""

    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    class Derived(nn.Linear):
        pass

    assert _torch.stock_code(nn.Linear) is nn.Linear.forward.__code__
    assert _torch.stock_code(Derived) is nn.Linear.forward.__code__
    assert _torch.stock_code(Own) is None

    module = nn.Linear(2, 2)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", step := nn.Identity())

    def caller(code: object) -> Any:
        return asked(code)

    def asked(code: object) -> Any:
        return _torch.read_by(code, module, "weight")

    assert caller(caller.__code__)[1] is step
    assert caller(asked.__code__) == caller(nn.Linear.forward.__code__) == (None, None)
    with Seen(), torch.nn.utils.parametrize.cached():
        assert caller(caller.__code__) == (None, None)


def test_the_only_parametrization_of_a_tensor() -> None:
    module, steps = nn.Linear(2, 2), [nn.Identity(), nn.Identity()]
    for number, step in enumerate(steps):
        torch.nn.utils.parametrize.register_parametrization(module, "weight", step)
        stored, found = _torch.only_step(module, "weight")
        assert stored is (module.parametrizations["weight"].original if number == 0 else None)
        assert found is (step if number == 0 else None)


def test_all_modules_of_a_model_in_their_order() -> None:
    """Else copies and modes pass over a module."""
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(shared, nn.TransformerEncoderLayer(4, 2, 8)))
    model.register_module("none", None)
    model[2].add_module("round", model)
    assert _torch.all_modules(model) == [*model.modules()]
    assert {*map(id, _torch.own_parameters(model))} == {*map(id, model.parameters())}


def test_modes_that_were_not_left_are() -> None:
    """Else an interruption at the wrong moment changes what the rest of the program computes."""
    before, seen = _torch.ModeState(), Seen()
    seen.__enter__()
    assert _torch.function_modes() == [seen]
    torch._C.DisableTorchFunction().__enter__()
    before.restore()
    assert _torch.function_modes() == []
    with Seen() as again:
        torch.zeros(1)
    assert again.functions


def test_modes_that_an_exception_did_not_leave_are_left() -> None:
    """Else, under torch 2.9, everything after an export that failed runs in its modes."""
    outer = Seen()

    def fail() -> None:
        Seen().__enter__()
        raise ZeroDivisionError

    with outer:
        with pytest.raises(ZeroDivisionError), _torch.modes_left():
            fail()
        assert _torch.function_modes() == [outer]
    with _torch.modes_left():  # what a block enters and does not fail in is its own
        outer.__enter__()
    assert _torch.function_modes() == [outer]
    outer.__exit__(None, None, None)


class Judged(nn.Module):
    """``quantile`` looks at numbers under torch 2.9, this module everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return x.quantile(0.3, dim=1) if x.equal(x * 1) else x


def test_an_export_that_fails_leaves_no_mode() -> None:
    with pytest.raises(TraceError):
        trace(Judged(), torch.zeros(2, 4, 9))
    assert _torch.function_modes() == []


def included(key: str) -> bool:
    return torch._C._dispatch_tls_is_dispatch_key_included(getattr(torch._C.DispatchKey, key))


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("PreDispatch", lambda: FunctionalTensorMode(pre_dispatch=True)),
        ("PythonDispatcher", torch._C._EnablePythonDispatcher),
    ],
)
def test_what_an_export_switches_on_is_off_again(key, make) -> None:
    """Else whatever runs after an interrupted export is taken for a part of it."""
    before = _torch.ModeState()
    held = make()
    held.__enter__()
    assert included(key)
    _torch.ModeState().restore()  # what was on before stays on
    assert included(key)
    before.restore()
    assert not included(key)
    assert torch._ops._len_torch_dispatch_stack_pre_dispatch() == 0
    del held
    assert not included(key)


def test_the_recording_of_another_thread_goes_on() -> None:
    """Else a conversion beside an export takes its modes away."""
    with FunctionalTensorMode(pre_dispatch=True):
        thread = threading.Thread(target=lambda: _torch.ModeState().restore())
        thread.start()
        thread.join()
        assert torch._ops._len_torch_dispatch_stack_pre_dispatch() == 1


def test_parameters_are_put_in_order() -> None:
    """Else a baked model's ``state_dict`` has another order."""
    module = nn.Linear(2, 2)
    _torch.order_parameters(module, ["bias", "absent"])
    assert list(module.state_dict()) == ["bias", "weight"]


def test_buffers_are_hidden() -> None:
    """Else a baked mixed model's ``state_dict`` has our tables."""
    module = nn.BatchNorm1d(2)
    module.register_buffer("table", torch.zeros(2))
    _torch.hide_buffers(module, like=nn.BatchNorm1d(2))
    assert "table" not in module.state_dict()
    assert "running_var" in module.state_dict()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.SyncBatchNorm])
def test_norms_have_one_base(kind) -> None:
    """Else running statistics are not pooled over strands."""
    assert issubclass(kind, _torch.NormBase)
    assert issubclass(kind, _torch.InstanceNorm) == (kind is nn.InstanceNorm1d)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_a_convolution_with_another_weight(padding_mode) -> None:
    """Else a mixed model cannot read the other strand."""
    conv, x = nn.Conv1d(4, 6, 3, padding=1, padding_mode=padding_mode), torch.randn(2, 4, 9)
    assert conv.bias is not None
    torch.testing.assert_close(_torch.convolve(conv, x, conv.weight) + conv.bias[:, None], conv(x))


def test_the_padding_of_a_transposed_convolution() -> None:
    """Else a mixed model with transposed convolutions fails at some lengths."""
    conv = nn.ConvTranspose1d(4, 6, 3, stride=2)
    assert isinstance(conv, _torch.ConvTransposeNd)
    x = torch.zeros(1, 4, 5)
    assert list(_torch.output_padding(conv, x, [12])) == [1]
    assert conv(x, output_size=[12]).shape[-1] == 12


def test_a_recurrent_layer_reads_its_weights_anew() -> None:
    """Else an untied layer still computes with the tied weights."""
    layer = nn.GRU(2, 3)
    layer._parameters["weight_ih_l0"] = nn.Parameter(torch.zeros(9, 2))
    _torch.refresh_recurrent(layer)
    with torch.no_grad():
        expected = nn.GRU(2, 3)
        expected.load_state_dict(layer.state_dict())
        x = torch.randn(4, 1, 2)
        torch.testing.assert_close(layer(x), expected(x))


# --- parametrizations ----------------------------------------------------------------------------


@pytest.fixture
def tied() -> nn.Module:
    module = nn.Linear(3, 4, bias=False)
    parametrize.register_parametrization(module, "weight", Halves(), unsafe=True)
    return module


def test_parametrizations_are_listed(tied) -> None:
    """Else ties are not found."""
    assert {leaf: [type(p) for p in chain] for leaf, chain in _torch.chains(tied).items()} == {"weight": [Halves]}
    assert _torch.chains(nn.Linear(1, 1)) == {}


def test_the_stored_parameter_has_its_name(tied) -> None:
    """Else checkpoints of tied models cannot be read."""
    assert list(tied.state_dict()) == [_torch.stored_name("", "weight")]
    assert list(nn.Sequential(tied).state_dict()) == [_torch.stored_name("0", "weight")]


def test_removing_a_parametrization_keeps_the_parameter(tied) -> None:
    """Else an optimizer loses the parameter when a model is untied."""
    stored = next(tied.parameters())
    parametrize.remove_parametrizations(tied, "weight", leave_parametrized=True)
    assert tied.weight is stored
    assert stored.shape == (4, 3)


def test_parametrized_classes_copy_in_their_own_way(tied) -> None:
    """Else a recurrent layer whose weights were computed cannot be copied."""
    assert callable(_torch.own_copying(tied))
    assert _torch.own_copying(nn.Linear(1, 1)) is None


def test_who_reads_a_parametrized_weight_is_found() -> None:
    """Else torch's pruning of a tied weight fails in words of its own."""
    found = []

    class Reading(Halves):
        def forward(self, x: Tensor) -> Tensor:
            found.append(here())
            return super().forward(x)

    def here() -> tuple[str, str]:
        return _torch.reader()

    module = nn.Linear(3, 4, bias=False)
    parametrize.register_parametrization(module, "weight", Reading(), unsafe=True)
    found.clear()
    assert module.weight.shape == (4, 3)
    assert found[0] == (__name__, "forward")
    assert _torch.reader()[0] != __name__  # the frame that called this one


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripting_is_seen() -> None:
    """Else ``torch.jit.script`` of a converted model fails in words of its own."""
    seen = []

    class Asking(nn.Module):
        @property
        def __jit_ignored_attributes__(self) -> list[str]:
            seen.append(_torch.is_scripting())
            raise ValueError("asked")

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="asked"):
        torch.jit.script(Asking())
    assert seen == [True]
    assert not _torch.is_scripting()


def test_what_a_module_holds_is_compared() -> None:
    """Else a call of a model whose layers were replaced is not noticed."""
    model = Model()
    held = _torch.held_by([model, model.block])
    assert [tuple(table.values()) for table in held] == [_torch.holds(model), _torch.holds(model.block)]
    assert held[1] == {"conv": model.block.conv, "norm": model.block.norm}
    assert _torch.tables_of([model, model.block]) == held
    model.block.conv = nn.Conv1d(4, 6, 3)
    assert _torch.tables_of([model, model.block]) != held
    assert _torch.are_empty([model.block.conv, nn.ReLU()])
    assert not _torch.are_empty([nn.ReLU(), model])


def test_numbers_are_compared_where_they_lie() -> None:
    """Else a weight is put together anew in each call, or kept though what is stored has changed."""
    x = torch.arange(12.0).reshape(3, 4)
    kept = _torch.Numbers(x)
    for same in (x, nn.Parameter(x), x.T.contiguous().T):
        assert kept.are_in(same)
    for i in range(12):
        other = x.clone()
        other.view(-1)[i] += 1
        assert not kept.are_in(other)
        assert not kept.are_in(other.T.contiguous().T)
    assert not any(map(kept.are_in, (x.double(), x.view(4, 3), x.view(torch.int32), torch.zeros(0, 4), x.to("meta"))))
    assert kept.are_in(x)
    x.untyped_storage().resize_(0)  # as `fully_shard` does between calls
    assert not kept.are_in(x)


def test_what_was_made_of_numbers_is_kept_until_they_change_or_somebody_writes_into_it() -> None:
    """Else a layer computes with the weight of another call, or with what somebody made of it."""
    x, other = torch.arange(4.0), torch.ones(4)
    kept = _torch.MadeOf(x, lambda numbers: numbers * 2)
    made = kept.of(x)
    assert made is kept.of(x.clone())
    assert torch.equal(made, x * 2)
    assert kept.of(other) is kept.of(x.double()) is None
    x.data[3] = 7  # no version counts this
    assert kept.of(x) is None
    x.data[3] = 3
    assert kept.of(x) is made
    made.add_(1)
    assert kept.of(x) is None


def test_the_code_that_asks_is_known() -> None:
    """Else a weight that is read outside of any call counts as one that a layer reads."""

    def caller(code: object) -> bool:
        return asked(code)

    def asked(code: object) -> bool:
        return _torch.is_asked_by(code)

    assert caller(caller.__code__)
    assert not caller(asked.__code__)
    assert not caller(None)


def test_writes_into_several_tensors_are_counted() -> None:
    """Else a buffer that forward wrote into is not given its value back."""
    tensors = torch.zeros(2), torch.zeros(3)
    before = _torch.versions(tensors)
    tensors[1].add_(1)
    assert _torch.versions(tensors) == [before[0], before[1] + 1]


STILL = [
    nn.BatchNorm1d(4),
    nn.BatchNorm1d(4, affine=False),
    nn.BatchNorm2d(4, eps=0.1),
    nn.BatchNorm3d(4, momentum=None),
]


@pytest.mark.parametrize("norm", STILL, ids=str)
def test_batch_norms_compute_in_eval_mode_what_they_do_by_the_shorter_way(norm: Any) -> None:
    """Else a converted model whose channels share their statistics computes something else than torch's norm."""
    x = torch.randn(3, 4, 5, 6, 7) if isinstance(norm, nn.BatchNorm3d) else torch.randn(3, 4, 5)
    x = x[..., None] if isinstance(norm, nn.BatchNorm2d) else x
    twin = copy.deepcopy(norm)
    for value in (twin.running_mean, twin.running_var, *twin.parameters()):
        value.data.uniform_(0.5, 2)
    assert torch.equal(_torch.normed_in_eval(twin.eval(), x), twin(x))  # type: ignore[arg-type]
    assert _torch.normed_in_eval(twin.train(), x) is None
    with pytest.raises(ValueError, match="expected"):
        _torch.normed_in_eval(twin.eval(), torch.randn(3))


class OwnNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_other_norms_are_left_to_their_forward() -> None:
    for norm in (
        OwnNorm(4),
        nn.InstanceNorm1d(4, track_running_stats=True),
        nn.BatchNorm1d(4, track_running_stats=False),
    ):
        assert _torch.normed_in_eval(norm.eval(), torch.randn(2, 4, 3)) is None
    assert _torch.normed_in_eval(_torch.replica(nn.BatchNorm1d(4).eval()), torch.randn(2, 4, 3)) is None


def test_empty_places_are_known() -> None:
    """Else a bias that is set where there was none is not noticed."""
    module = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.BatchNorm1d(1, affine=False, track_running_stats=False))
    assert _torch.empty_places(module[0]) == ["bias"]
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert sorted(_torch.empty_places(module[1])) == sorted(names)
    assert not _torch.is_filled(module[0], "bias")
    module[0].bias = nn.Parameter(torch.zeros(1))
    module[1].running_mean = torch.zeros(1)
    assert _torch.is_filled(module[0], "bias")
    assert _torch.is_filled(module[1], "running_mean")


def test_who_reads_a_weight_for_a_functional_call_is_known() -> None:
    """Else a full weight that is given to ``functional_call`` would get no gradient, and nothing would say so."""
    assert torch.nn.utils.stateless.NamedMemberAccessor.__module__ == _torch.FUNCTIONAL_CALL


def test_a_symbolic_trace_of_a_whole_model_is_seen() -> None:
    """Else ``torch.fx.symbolic_trace`` of a model on both strands gives one that reads one of them."""
    asked = []

    class Asked:
        @property
        def __class__(self) -> type:
            asked.append(_torch.looks_for_symbols())
            return type(self)

    outer = nn.Sequential(nn.Linear(1, 1))
    outer[0].inner = Asked()
    assert isinstance(outer[0].inner, Asked)
    torch.fx.symbolic_trace(outer)
    assert not any(asked)
    outer.held = Asked()
    torch.fx.symbolic_trace(outer)
    assert any(asked)


def test_a_symbolic_trace_records() -> None:
    """Else it reads a tied weight once and for all."""

    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(_torch.is_recorded())
            return x

    asked: list[bool] = []
    torch.fx.symbolic_trace(Asking())
    assert asked == [True]
    assert not _torch.is_recorded()


def test_replicas_are_known() -> None:
    """Else a replica of ``nn.DataParallel`` is taken for a model whose layers were replaced."""
    module = nn.Linear(1, 1)
    assert not _torch.is_replica(module)
    assert _torch.is_replica(_torch.replica(module))


def test_subclasses_are_computed_with_as_tensors() -> None:
    """Else reading a tied weight never ends."""

    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise AssertionError(func)

    x = torch.ones(2)
    with _torch.plain_tensors():
        assert type(x.as_subclass(Loud) + 1) is Tensor


# --- nesting -------------------------------------------------------------------------------------


def test_nested_structures() -> None:
    """Else nothing with several inputs or outputs can be converted."""
    nested = {"a": (1, [2, None]), "b": torch.zeros(2)}
    leaves, spec = pytree.tree_flatten(nested)
    assert pytree.tree_unflatten(leaves, spec).keys() == nested.keys()
    assert pytree.tree_structure(nested) == spec
    assert pytree.tree_leaves((1, {"k": [2]})) == [1, 2]
    assert pytree.tree_map(lambda x: x, nested, is_leaf=lambda x: isinstance(x, tuple))["a"] == (1, [2, None])
    assert pytree.tree_map_only(int, lambda n: n + 1, [1, "s"]) == [2, "s"]
    assert pytree.tree_map(lambda a, b: a + b, [1, (2,)], [10, (20,)]) == [11, (22,)]


class Calls(nn.Module):
    """Calls a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function()


def test_the_line_of_a_call_is_the_user_s_or_nobody_s() -> None:
    def asked() -> tuple[str, int] | None:
        return _torch.users_line(1)

    line = asked()
    assert line is not None
    assert line[0] == __file__
    assert asked() == (__file__, line[1] + 3)
    assert Calls(asked)(None) == (__file__, Calls.forward.__code__.co_firstlineno + 1)
    assert Calls(lambda: _torch.users_line(2))(None) is None  # torch's own code calls forward


def test_a_layer_s_question_is_told_from_the_user_s() -> None:
    """Else every forward with a norm seems to ask for sizes, and is run at all sizes of a ladder."""
    found: list[tuple[str, bool]] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if not (result is None or isinstance(result, Tensor)):
                found.append((_torch.function_name(func), _torch.is_asked_by_layer()))
            return result

    x, norm = torch.zeros(2, 4, 3), nn.BatchNorm1d(4)
    with Watching():
        norm(x)
        assert found
        assert all(by_layer for _, by_layer in found)
        found.clear()
        assert (x.size(0), len(x), x.shape[1]) == (2, 2, 4)
    assert [by_layer for _, by_layer in found] == [False] * 3


def test_who_asks_for_an_attribute_is_told_from_torch() -> None:
    class Asked(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(_torch.asked_by_user())
            return func(*args, **(kwargs or {}))

    seen: list[bool] = []
    x, norm = torch.zeros(2, 4, 3), nn.BatchNorm1d(4)
    with Asked():
        x.dtype  # noqa: B018
    assert seen == [True]
    with Asked():
        norm(x)
    assert len(seen) > 1
    assert not any(seen[1:])


def test_a_subclass_of_tensors_has_plain_results() -> None:
    """Else all that sizes are used for, an activation too, becomes a size."""

    class Size(Tensor):
        __torch_function__ = _torch.as_plain_tensor

    two = torch.tensor(2).as_subclass(Size)
    assert type(two * 3) is Tensor
    assert type(torch.zeros(4, 3).view(two, -1)) is Tensor


def test_a_recurrent_layer_that_keeps_wrappers_reads_its_weights_anew() -> None:
    """Else a model that ran in a transform could not be copied: wrappers of a transform that has ended have no data."""
    cell, kept = nn.GRU(2, 3), []
    torch.func.grad(lambda w: (kept.append(w * 2), w.sum())[1])(cell.weight_ih_l0.detach())
    cell._flat_weights[0] = kept[0]
    _torch.forget_transformed(cell)
    assert [*map(id, cell._flat_weights)] == [*map(id, cell.parameters())]
    held = cell._flat_weights
    _torch.forget_transformed(cell)
    assert cell._flat_weights is held


def test_parameters_are_kept_in_a_dict_of_another_kind() -> None:
    class Own(dict[str, Any]):
        pass

    layer = nn.Linear(2, 3)
    before = dict(layer._parameters)
    _torch.hold_parameters(layer, Own)
    table = layer._parameters
    _torch.hold_parameters(layer, Own)
    assert type(table) is Own
    assert layer._parameters is table
    assert dict(table) == before


@pytest.mark.parametrize("size", [1, 63, 64, 65, 5000, 2**20])
def test_a_sample_of_memory_changes_with_its_ends_and_with_most_of_it(size: int) -> None:
    x = torch.arange(size, dtype=torch.int64).to(torch.uint8)
    samples = [_torch.sample_of(x), _torch.sample_of(x.numpy())]
    assert samples[0] == samples[1]
    for at in (slice(0, 1), slice(-1, None), slice(size // 4, size // 4 + max(1, size // 8))):
        y = x.clone()
        y[at] += 1
        assert _torch.sample_of(y) != samples[0]
    assert _torch.sample_of(torch.zeros(4, 3).mT) == _torch.sample_of(torch.zeros(4, 3).mT.numpy()) == ()
    freed = torch.zeros(3)
    freed.untyped_storage().resize_(0)
    assert _torch.sample_of(freed) == ()


def test_tensors_may_have_shapes_and_no_numbers() -> None:
    """Without it long forwards would be run at every length that is looked at, which takes minutes each."""
    x, layer = torch.ones(2, 3), nn.BatchNorm1d(3)
    with _torch.without_numbers():
        y = layer(x) @ torch.ones(3, 4)
        assert y.shape == (2, 4)
        with pytest.raises(RuntimeError):
            float(y[0, 0])
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_what_a_trace_or_a_transform_left_behind_has_no_numbers() -> None:
    """A list of the user's that forward fills holds such tensors once a model was converted; nothing can read them."""
    kept: list[Tensor] = []
    torch.export.export(Keeps(kept), (torch.zeros(2),))
    torch.func.grad(lambda x: (kept.append(x * 2), x.sum())[1])(torch.ones(2))
    torch.vmap(lambda x: (kept.append(x * 2), x)[1])(torch.ones(2, 2))
    kept.append(torch.zeros(2, device="meta"))
    assert len(kept) >= 4
    assert not any(map(_torch.has_numbers, kept))
    assert _torch.has_numbers(torch.ones(2))
    assert _torch.has_numbers(nn.Parameter(torch.ones(2)))


class Keeps(nn.Module):
    """Its forward keeps what it is given."""

    def __init__(self, kept: list[Tensor]) -> None:
        super().__init__()
        self.kept = lambda x: kept.append(x)

    def forward(self, x: Tensor) -> Tensor:
        self.kept(x)
        return x + 1


def test_a_graph_refuses_another_size() -> None:
    """Without it a graph that was baked for one length would compute another function at others, in silence."""
    graph = torch.fx.symbolic_trace(nn.ReLU())
    first = next(iter(graph.graph.nodes))
    _torch.require_size(graph, first, first, 1, 3, "three")
    graph.recompile()
    assert torch.equal(graph(torch.ones(2, 3)), torch.ones(2, 3))
    with pytest.raises(AssertionError, match="three"):
        graph(torch.ones(2, 4))
