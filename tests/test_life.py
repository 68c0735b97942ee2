"""Life after conversion: initialised anew, loaded, frozen, pruned, hooked, given a new head."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_law, some_error
from planned import remembered
from tiers import chosen, some
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from rcps_convert import (
    ConversionError,
    Tokens,
    Tracks,
    apply_recipe,
    bake,
    convert_model,
    extend,
    load_plain_state_dict,
    recipe,
)
from rcps_convert.convert.state import is_converted
from rcps_convert.testing import assert_equivariant
from rcps_convert.tie.checks import checks_of
from rcps_convert.tie.parts import OtherPartError, Parts
from rcps_convert.tie.writing import TiedWeight

TOLERANCE = 1e-10
"""Relative error in float64: sums of networks this size round to about 1e-15."""

DNA = torch.zeros(2, 4, 40)


class Profiles(nn.Module):
    """In the style of BPNet: dilated convolutions with residual connections, a profile and counts."""

    def __init__(self, filters: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, filters, 7, padding=3)
        self.tower = nn.ModuleList(nn.Conv1d(filters, filters, 3, padding=2**i, dilation=2**i) for i in range(1, 4))
        self.profile, self.counts = nn.Conv1d(filters, 1, 9, padding=4), nn.Linear(filters, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x).relu()
        for layer in self.tower:
            h = h + layer(h).relu()
        return self.profile(h), self.counts(h.mean(-1))


class Classifier(nn.Sequential):
    """In the style of Basset: batch norms and pools; the second norm has an odd number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4)),
            *(nn.Conv1d(8, 7, 3, padding=1), nn.BatchNorm1d(7), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        )
        self.head = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1))


class Recurrent(nn.Module):
    """Convolution, bidirectional LSTM, mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 6, 3, padding=1), nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.conv(x).transpose(1, 2))[0].mean(1))


MODELS = [Profiles, Classifier, Recurrent]
each_model = pytest.mark.parametrize("make", MODELS)


def converted(make: Callable[[], nn.Module] = Classifier, **how: Any) -> nn.Module:
    return remembered(make, DNA, **{"verify": False, **how})


def exact(model: nn.Module) -> None:
    """The law, of the model as it is."""
    assert_law(model, DNA, tolerance=TOLERANCE, randomise=False, modes=("eval",))


def tied_names(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with a tied weight."""
    return {p: m for p, m in model.named_modules() if parametrize.is_parametrized(m, "weight")}


def train(model: nn.Module, steps: int = 2) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        made = model.train()(F.one_hot(torch.randint(4, (8, 40)), 4).transpose(1, 2).float())
        loss = sum(y.square().mean() for y in (made if isinstance(made, tuple) else (made,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --- writing into tied weights ------------------------------------------------------------------

INITIALISERS: list[Callable[[Tensor], Any]] = [
    nn.init.normal_,
    nn.init.xavier_uniform_,
    nn.init.kaiming_normal_,
    nn.init.orthogonal_,
    lambda w: nn.init.trunc_normal_(w, std=0.3),
    lambda w: w.data.uniform_(-1, 1),
    lambda w: w.detach().copy_(torch.randn_like(w)),
    lambda w: setattr(w, "data", torch.randn(w.shape)),
    lambda w: w.data.mul_(3.0),
    lambda w: w.data.view(-1)[:7].fill_(0.5),
]


@pytest.mark.parametrize("initialise", some(INITIALISERS, 5))
@pytest.mark.parametrize("leaf", some(["features.0", "features.4", "head.0"], 1))
def test_what_is_written_into_a_tied_weight_is_stored(initialise: Callable[[Tensor], Any], leaf: str) -> None:
    model = converted()
    layer: Any = model.get_submodule(leaf)
    before = layer.weight.detach().clone()
    initialise(layer.weight)
    after = layer.weight.detach().clone()
    assert float((after - before).abs().max()) > 0.05
    exact(model)
    assert torch.equal(bake(model).get_submodule(leaf).weight, after)  # type: ignore[arg-type]


def test_an_initialiser_keeps_its_variance() -> None:
    model = converted()
    layer: Any = model.get_submodule("features.0")
    nn.init.normal_(layer.weight, std=2.0)
    assert 1.6 < float(layer.weight.detach().std()) < 2.4
    whole = torch.randn(8, 4, 5)
    layer.weight.data = whole
    assert torch.equal(layer.weight[:4], whole[:4])  # the representatives


def test_one_written_entry_takes_its_mirror_image_along() -> None:
    layer: Any = converted().get_submodule("features.0")
    with torch.no_grad():
        layer.weight[6, 1, 0] = 5.0  # in the second half, which is computed
        layer.weight[1, 3, 4] = 7.0
    made = layer.weight.detach()
    assert made[2, 2, 4] == made[6, 1, 0] == 5.0
    assert made[1, 3, 4] == made[5, 0, 0] == 7.0
    assert int((made > 4).sum()) == 4


@each_model
def test_a_model_is_initialised_anew(make: Callable[[], nn.Module]) -> None:
    def initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            nn.init.constant_(module.weight, 0.25)
            module.bias.data.zero_()

    model = converted(make)
    model.apply(initialise)
    found = [m.weight for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    assert len(found) >= 2
    assert all(bool((w == 0.25).all()) for w in found)
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear, nn.LSTM, nn.BatchNorm1d)):
            module.reset_parameters()
    assert all(float(w.std()) > 0.01 for w in (m.weight for m in model.modules() if isinstance(m, nn.Conv1d)))
    exact(model)
    train(model)
    exact(model)


def test_a_mirrored_weight_sets_the_one_it_is_computed_from() -> None:
    model = converted(Recurrent)
    lstm: Any = model.get_submodule("lstm")
    nn.init.orthogonal_(lstm.weight_hh_l0_reverse)
    written = lstm.weight_hh_l0_reverse.detach().clone()
    assert float((written[:5].T @ written[:5] - torch.eye(5)).abs().max()) < 1  # columns of one orthogonal matrix
    assert torch.allclose(written.T @ written, torch.eye(5), atol=1e-5)
    exact(model)


def test_calls_compute_with_plain_tensors() -> None:
    seen: list[type] = []

    class Watching(nn.Conv1d):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(type(self.weight))
            return super().forward(x)

    model = convert_model(nn.Sequential(Watching(4, 8, 5), nn.Flatten(), nn.Linear(8 * 36, 1)), DNA, verify=False)
    layer: Any = model[0]  # type: ignore[index]
    seen.clear()
    model(torch.randn(2, 4, 40))
    assert {*seen} == {Tensor}  # a list that forward fills is measured as it grows
    assert type(layer.weight) is TiedWeight
    assert type(layer.weight + 1) is type(layer.weight.clone()) is type(layer.weight.sum()) is Tensor


def test_a_tied_weight_is_read_as_any_tensor() -> None:
    layer: Any = converted().get_submodule("features.0")
    loss = layer.weight.square().sum()
    loss.backward()
    assert float(layer.parametrizations.weight.original.grad.abs().max()) > 0
    file = io.BytesIO()
    torch.save({"w": layer.weight.detach()}, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["w"], layer.weight)
    twin = copy.deepcopy(layer.weight.detach())
    assert type(twin) is Tensor
    twin.zero_()
    assert float(layer.weight.abs().max()) > 0
    assert type(layer.weight.shape) is torch.Size
    assert repr(layer.weight.detach()).startswith("tensor(")
    free = layer.weight.detach().requires_grad_()  # a leaf of its own, as it is of any weight
    free.square().sum().backward()
    assert torch.equal(free.grad, 2 * free.detach())
    own = nn.Parameter(layer.weight.clone())
    assert isinstance(own, nn.Parameter)


def test_values_of_another_shape_are_refused() -> None:
    model = converted()
    layer: Any = model.get_submodule("features.0")
    with pytest.raises(ConversionError, match="another shape"):
        layer.weight.data = torch.ones(8, 4, 7)
    norm: Any = model.get_submodule("features.1")
    norm.weight.data = torch.ones(8)
    with pytest.raises(ConversionError, match="BatchNorm1d was set to 8 values"):
        model(torch.randn(2, 4, 40))
    norm.weight.data = torch.ones(4)
    exact(model)


def test_a_weight_is_cast_by_its_data() -> None:
    layer: Any = converted().get_submodule("features.0")
    before = layer.weight.detach().clone()
    layer.weight.data = layer.weight.data.to(torch.float64)
    assert layer.weight.dtype == torch.float64
    assert torch.equal(layer.weight.float(), before)


@pytest.mark.parametrize("freeze", [lambda w: setattr(w, "requires_grad", False), lambda w: w.requires_grad_(False)])
def test_a_tied_weight_is_frozen(freeze: Callable[[Tensor], Any]) -> None:
    model = converted(Recurrent)
    conv: Any = model.get_submodule("conv")
    lstm: Any = model.get_submodule("lstm")
    freeze(conv.weight)
    freeze(lstm.weight_ih_l0_reverse)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert "conv.parametrizations.weight.original" in frozen
    assert "lstm.weight_ih_l0" in frozen
    before = [conv.weight.clone(), lstm.weight_ih_l0.clone(), lstm.weight_hh_l0.clone()]
    train(model)
    after = [conv.weight, lstm.weight_ih_l0, lstm.weight_hh_l0]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False]
    conv.weight.requires_grad = True
    assert conv.weight.requires_grad
    exact(model)


REPLACING: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda m: prune.l1_unstructured(m, "weight", amount=0.3),
    "global": lambda m: prune.global_unstructured([(m, "weight")], prune.L1Unstructured, amount=0.3),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "the older weight_norm": nn.utils.weight_norm,
    "the older spectral_norm": nn.utils.spectral_norm,
    "the older spectral_norm of the bias": lambda m: nn.utils.spectral_norm(m, "bias"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("replace", REPLACING.values(), ids=REPLACING.keys())
def test_what_would_replace_a_tied_weight_is_refused(replace: Callable[[nn.Module], Any]) -> None:
    model = converted()
    with pytest.raises(ConversionError, match=r"(?s)on a tied weight.*before convert_model|bake"):
        replace(model.get_submodule("head.0"))
    exact(model)


class Spare(nn.Sequential):
    """A scan for motifs, and a layer that forward does not read. (N, 4, L) -> (N, 1)"""

    def __init__(self) -> None:
        super().__init__(nn.Conv1d(4, 8, 5), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 1))
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self[3](self[2](self[1](self[0](x))))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*no trace")
@pytest.mark.parametrize("name", ["prune", "global", "the older weight_norm"])
def test_what_would_replace_a_weight_that_no_trace_reads_is_refused(name: str) -> None:
    """What is stored of it is all of it: reading it gives the parameter itself."""
    model = convert_model(Spare(), torch.zeros(2, 4, 20))
    before = [*model.state_dict()]
    with pytest.raises(ConversionError, match=r"(?s)on a tied weight.*before convert_model|bake"):
        REPLACING[name](model.spare)
    assert [*model.state_dict()] == before
    assert torch.isfinite(model(torch.zeros(1, 4, 20))).all()


def test_the_older_spectral_norm_is_refused_of_a_copy_and_works_on_a_baked_layer() -> None:
    model = converted()
    for one in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ConversionError, match="spectral_norm on a tied weight"):
            nn.utils.spectral_norm(one.get_submodule("head.0"))
    layer = bake(model).get_submodule("head.0")
    assert type(layer._parameters) is dict
    nn.utils.spectral_norm(layer)
    with pytest.raises(KeyError, match="none such"):
        model.get_submodule("head.0")._parameters["none such"]


def test_what_is_stored_can_be_pruned() -> None:
    model = converted()
    layer: Any = model.get_submodule("features.0")
    prune.l1_unstructured(layer.parametrizations.weight, "original", amount=0.4)
    assert float((layer.weight == 0).double().mean()) == 0.4
    exact(model)
    train(model)
    assert float((layer.weight == 0).double().mean()) == 0.4
    exact(model)
    prune.remove(layer.parametrizations.weight, "original")
    exact(model)
    assert float((bake(model).get_submodule("features.0").weight == 0).double().mean()) == 0.4  # type: ignore[operator]


# --- hooks, scripts, checkpoints -----------------------------------------------------------------


def test_hooks_of_the_user_see_the_whole_norm() -> None:
    model = converted()
    seen: list[tuple[int, ...]] = []
    for place in ("features.1", "features.5"):
        norm = model.get_submodule(place)
        norm.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
        norm.register_forward_hook(lambda module, args, out: seen.extend([tuple(args[0].shape), tuple(out.shape)]))
    model(torch.randn(3, 4, 40))
    assert seen == [(3, 8, 40)] * 3 + [(3, 7, 10)] * 3
    scaled = model.get_submodule("features.1").register_forward_hook(lambda module, args, out: out * 2)
    exact(model)
    scaled.remove()


@pytest.mark.parametrize(
    ("how", "what"),
    some(
        [
            ({}, "tied weights"),
            ({"strategy": "conjoined"}, "both strands"),
            ({"example": torch.zeros(2, 4, 42), "baked": True}, "both edges"),
        ],
        2,
    ),
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripting_says_what_it_cannot_read(how: dict[str, Any], what: str) -> None:
    given = dict(how)
    baked, example = given.pop("baked", False), given.pop("example", DNA)
    model = convert_model(Classifier(), example, verify=False, **given)
    with pytest.raises(ConversionError, match=rf"(?s)torch\.jit\.script.*{what}.*torch\.export"):
        torch.jit.script(bake(model) if baked else model)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_baked_model_is_scripted() -> None:
    layers = (nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 1))
    model = bake(convert_model(nn.Sequential(*layers), DNA)).eval()
    x = torch.randn(2, 4, 40)
    assert torch.equal(torch.jit.script(model)(x), model(x))


@each_model
@pytest.mark.parametrize("strict", [True, False])
def test_a_plain_checkpoint_is_never_half_loaded(make: Callable[[], nn.Module], strict: bool) -> None:
    model = converted(make)
    with pytest.raises(RuntimeError, match=r"load_plain_state_dict\(model, state_dict\)"):
        model.load_state_dict(make().state_dict(), strict=strict)


class Renamed(Classifier):
    """A class whose older checkpoints have other keys, a part without tensors, and a buffer that is averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 2
        self.register_load_state_dict_pre_hook(self._rename)

    @staticmethod
    def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *given: Any) -> None:
        for key in [k for k in state if k.startswith(f"{prefix}trunk.")]:
            state[key.replace("trunk.", "features.", 1)] = state.pop(key)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": self.version}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.version = state["version"]


@pytest.mark.parametrize("strategy", some(["tied", "conjoined", "mixed"], 1))
def test_keys_are_renamed_by_the_class(strategy: str) -> None:
    torch.manual_seed(1)
    other = Renamed()
    other.version = 5
    state = {key.replace("features.", "trunk.", 1): value for key, value in other.state_dict().items()}
    model = convert_model(Renamed(), DNA, strategy=strategy, verify=False)
    given = dict(state)
    load_plain_state_dict(model, given, init="keep") if strategy == "tied" else load_plain_state_dict(model, given)
    assert given.keys() == state.keys()
    assert model.version == 5
    wanted = convert_model(other, DNA, strategy=strategy, verify=False).eval()
    x = torch.randn(2, 4, 40)
    torch.testing.assert_close(model.eval()(x), wanted(x), rtol=0, atol=0)
    assert float(wanted(x).abs().max()) > 1e-3


# --- a model that is no longer what was converted -------------------------------------------------


def new_head(model: Any) -> None:
    model.head = nn.Linear(7, 3)


def same_head(model: Any) -> None:
    model.head[2] = nn.Linear(6, 1)


def fewer(model: Any) -> None:
    del model.head[2]


def deeper(model: Any) -> None:
    model.head.append(nn.Linear(1, 2))


def untied(model: Any) -> None:
    parametrize.remove_parametrizations(model.head[0], "weight")


def synchronised(model: Any) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(model.features[1:3])
    model.features[1] = nn.SyncBatchNorm.convert_sync_batchnorm(model.features[1])


class Adapted(nn.Module):
    """A low-rank adapter around a layer, as LoRA has it."""

    def __init__(self, base: nn.Module, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )  # type: ignore[arg-type]
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapted(model: Any) -> None:
    model.head[0] = Adapted(model.head[0])


CHANGES = [new_head, same_head, fewer, deeper, untied, synchronised, adapted]


@pytest.mark.parametrize("change", some(CHANGES, 4))
def test_a_changed_model_says_so_when_it_is_called(change: Callable[[Any], None]) -> None:
    model = converted()
    for twin in (copy.deepcopy(model), apply_recipe(Classifier(), recipe(model))):
        change(twin)
        if change is not synchronised:
            plain = bake(twin).eval()
            assert torch.isfinite(plain(torch.randn(2, 4, 40))).all()
        with pytest.raises(OtherPartError, match=r"(?s)no longer what was converted.*where  .*(head|features).*extend"):
            twin(torch.randn(2, 4, 40))
    exact(model)


def new_head(model: Any) -> None:
    model.head[2] = nn.Linear(6, 1)


def exchanged(model: Any) -> None:
    model.features[2], model.features[6] = model.features[6], model.features[2]


def shorter(model: Any) -> None:
    del model.features[6]


COMPILERS: list[Callable[[nn.Module], Any]] = [
    lambda model: torch.compile(model, backend="eager")(DNA),
    lambda model: torch.compile(model, backend="eager", fullgraph=True)(DNA),
    lambda model: torch.export.export(model, (DNA,), strict=False),
]


@pytest.mark.parametrize("change", some([new_head, exchanged, shorter], 3))
@pytest.mark.parametrize("compiled", some(COMPILERS, 1))
def test_a_compiler_is_told_of_a_changed_model(change: Callable[[Any], None], compiled: Callable[..., Any]) -> None:
    model = converted().eval()
    change(model)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="the model is no longer what was converted"):
        compiled(model)
    torch._dynamo.reset()


def test_what_is_not_called_may_be_added() -> None:
    model: Any = converted(Profiles)
    model.criterion = nn.MSELoss()
    model.extra = nn.ModuleList([nn.Conv1d(8, 8, 1)])
    x = torch.randn(2, 4, 40)
    for _ in range(2):
        model.criterion(model(x)[0], torch.ones(2, 1, 40)).backward()
        model.extra[0](torch.randn(2, 8, 40))
    exact(model)
    model.tower.append(nn.Identity())  # forward calls what is in its list
    with pytest.raises(OtherPartError, match=r"tower\.3"):
        model(x)
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(OtherPartError):
        again(x)


def test_wrappers_of_torch_are_seen_through() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model: Any = converted()
    model.features[4] = torch.compile(model.features[4], backend="eager")
    model.head[0] = checkpoint_wrapper(model.head[0])
    exact(model)
    model.head[0] = nn.Sequential(nn.Linear(7, 6))
    with pytest.raises(OtherPartError):
        model(torch.randn(2, 4, 40))


def test_baking_and_copies_keep_no_watch_on_another_model() -> None:
    model: Any = converted()
    twin = copy.deepcopy(model)
    same_head(twin)
    exact(model)
    assert not any(isinstance(check, Parts) for check in checks_of(bake(model)))
    parts = bake(twin, in_place=True)
    parts(torch.randn(2, 4, 40))


@pytest.mark.parametrize("strategy", ["conjoined", "mixed"])
def test_models_that_read_both_strands_take_any_new_part(strategy: str) -> None:
    model: Any = convert_model(Classifier(), DNA, strategy=strategy, verify=False)
    same_head(model)
    adapted(model)
    exact(model)
    with pytest.raises(ConversionError, match=r"(?s)extend is for tied weights.*call it as it is"):
        extend(model, DNA)


# --- extending ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    chosen([c for c in CHANGES if c not in (synchronised, fewer)], lambda change: change is adapted),
)
@pytest.mark.parametrize("in_place", some([False, True], 1))
def test_what_was_added_is_tied(change: Callable[[Any], None], in_place: bool) -> None:
    model: Any = converted()
    train(model)
    model.eval()
    features = model.features(torch.ones(2, 4, 40)).detach()
    change(model)
    before = {name: p for name, p in model.named_parameters() if name.startswith("features")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a new head of three outputs has two independent values
        extended: Any = extend(model, DNA, in_place=in_place)
    assert (extended is model) == in_place
    assert is_converted(extended)
    assert torch.equal(extended.features(torch.ones(2, 4, 40)), features)
    if in_place:
        assert {name: p for name, p in model.named_parameters() if name.startswith("features")} == before
    else:
        with pytest.raises(OtherPartError):
            model(torch.randn(2, 4, 40))
    exact(extended)
    train(extended)
    exact(extended)
    assert some_error(bake(extended), DNA) < 1e-5
    exact(pickle.loads(pickle.dumps(extended)))


def test_an_optimiser_goes_on_with_what_was_tied_before() -> None:
    model: Any = converted()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.randn(4, 4, 40)
    model(x).square().mean().backward()
    optimizer.step()
    adapted(model)
    before = bake(model).eval()(x)
    extend(model, DNA, in_place=True)
    assert torch.equal(model.eval()(x), before)  # adapters start at zero
    optimizer.add_param_group({"params": [*model.head[0].down.parameters(), *model.head[0].up.parameters()]})
    model.train()(x).square().mean().backward()
    optimizer.step()
    exact(model)
    assert float(model.head[0].up.weight.abs().max()) > 0


@pytest.mark.slow
@pytest.mark.variation
def test_a_deeper_tower_is_tied() -> None:
    model: Any = converted(Profiles)
    model.tower.append(nn.Conv1d(8, 8, 3, padding=16, dilation=16))
    with pytest.raises(OtherPartError, match=r"tower\.3"):
        model(torch.randn(2, 4, 40))
    extended: Any = extend(model, DNA)
    exact(extended)
    assert len(tied_names(extended)) == len(tied_names(converted(Profiles))) + 1
    extended.profile = nn.Conv1d(8, 2, 9, padding=4)
    exact_tracks = extend(extended, DNA, outputs=("+-", "invariant"))
    assert_law(exact_tracks, DNA, outputs=("+-", "invariant"), tolerance=TOLERANCE, randomise=False, modes=("eval",))


def test_what_cannot_be_added_leaves_the_model_as_it_is() -> None:
    class Running(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(-1)

    model: Any = converted()
    model.features[2] = Running()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for in_place in (False, True):
        with pytest.raises(ConversionError, match="cumsum"):
            extend(model, DNA, in_place=in_place)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    model.features[2] = nn.ReLU()
    exact(extend(model, DNA))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "was set to no tensor.*got +None, and the weight is"),
        (1.0, "was set to no tensor.*got +1.0"),
        (torch.zeros(3), r"values of another shape.*got +\(3,\)"),
        (torch.zeros(8, 4, 7), r"values of another shape.*got +\(8, 4, 7\)"),
    ],
)
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_what_is_no_value_of_a_tied_weight_is_refused(name: str, value: Any, words: str) -> None:
    model: Any = converted()
    layer = next(m for m in model.modules() if isinstance(m, nn.Conv1d))
    before = getattr(layer, name).clone()
    with pytest.raises(ConversionError, match=rf"(?s)a tied weight .*{words}.*call extend"):
        setattr(layer, name, value)
    assert torch.equal(getattr(layer, name), before)
    exact(model)


def test_other_values_of_what_was_tied_are_refused() -> None:
    model: Any = converted()
    fewer(model)  # the hidden layer becomes the output, so its values have to become invariant
    with pytest.raises(ConversionError, match=r"(?s)head\.0\.weight.*gets other values.*what the model has learned"):
        extend(model, DNA)
    again = convert_model(bake(model), DNA, init="project", verify=False)
    exact(again)


def test_only_a_converted_model_is_extended() -> None:
    with pytest.raises(ConversionError, match=r"(?s)is not converted.*call convert_model"):
        extend(Classifier(), DNA)
    outer = nn.Sequential(converted())
    with pytest.raises(ConversionError, match=r"(?s)converted inside of it: 0.*extend\(model\.0, example\)"):
        extend(outer, DNA)


class Reading(nn.Module):
    """A read-out behind a nonlinearity, which runs on both strands, and positions, which fix the length."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.place = nn.Conv1d(4, 8, 5, padding=2), nn.Parameter(torch.randn(1, 8, 40))
        layers = (nn.Conv1d(8, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.readout, self.head = nn.Sequential(*layers), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.readout((self.conv(x) + self.place).relu()))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_runs_on_both_strands_and_what_is_refused_stays_so() -> None:
    torch.manual_seed(3)  # weights with which five channels listened in order along the one sequence that was drawn
    model: Any = convert_model(Reading(), DNA)
    before = model.readout[0].weight.detach().clone()
    model.conv = nn.Conv1d(4, 8, 7, padding=3)
    extended: Any = extend(model, DNA)
    exact(extended)
    assert torch.equal(extended.readout[0].weight, before)
    with pytest.raises(ConversionError, match="41 positions"):
        extended(torch.randn(2, 4, 41))
    extended.head = nn.Linear(5, 3)  # now pairs of channels could be averaged, where each was on its own
    with pytest.raises(ConversionError, match="readout, which runs on both strands"):
        extend(extended, DNA)


def test_specs_are_remembered_also_in_a_file() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv, self.head = nn.Embedding(6, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.conv(self.embed(ids).mT).relu().mT)

    ids, vocabulary = torch.zeros(2, 12, dtype=torch.int64), ["[PAD]", "A", "C", "G", "T", "N"]
    specs = {"inputs": Tokens(vocabulary), "outputs": Tracks("+-", layout="n l c")}
    model = convert_model(Reader(), ids, verify=False, **specs)
    for twin in (model, apply_recipe(Reader(), json.loads(json.dumps(recipe(model))))):
        twin.conv = nn.Conv1d(8, 8, 5, padding=2)
        extended = extend(twin, ids)
        assert_equivariant(extended, ids, **specs)
    assert recipe(extended)["settings"] == recipe(model)["settings"]


@pytest.mark.slow
@pytest.mark.variation
@pytest.mark.parametrize("in_place", some([False, True], 1))
def test_warnings_point_at_the_line_that_extends(in_place: bool) -> None:
    model: Any = converted()
    model.head = nn.Linear(7, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        extend(model, DNA, in_place=in_place)
    assert [w.filename for w in caught] == [__file__]
