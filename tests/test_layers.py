"""The drop-in layers: against rcps-pytorch, and where they go further, against the law."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_law
from tiers import chosen
from torch import Tensor, nn

from rcps_convert import check_equivariance, convert_model, layers, plan_conversion, reverse_complement

try:
    import rcps
except ImportError:
    rcps = None

needs_rcps = pytest.mark.skipif(rcps is None, reason="rcps-pytorch is not installed")


def sequence(n: int, length: int, alphabet: int = 4) -> Tensor:
    return F.one_hot(torch.randint(alphabet, (n, length)), alphabet).mT.double()


def network(kit: Any, kernel: int = 3) -> nn.Module:
    """The network of rcps-pytorch's README."""
    return nn.Sequential(
        kit.RCPSInput(out_kernels=8, kernel_size=kernel, padding="same"),
        kit.RCPS(8, 16, kernel, padding="same"),
        kit.RCPSBatchNorm(16),
        kit.RCPS(16, 3, kernel, padding="same"),
        kit.RCPSBatchNorm(3),
        kit.RCPSOutput(),
    ).double()


def plain(kernel: int = 3) -> nn.Module:
    """The same network, without a thought of strands."""
    return nn.Sequential(
        nn.Conv1d(4, 8, kernel, padding="same", bias=False),
        nn.Conv1d(8, 16, kernel, padding="same", bias=False),
        nn.BatchNorm1d(16),
        nn.Conv1d(16, 3, kernel, padding="same", bias=False),
        nn.BatchNorm1d(3),
    ).double()


def carried_over(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the rcps network under the keys of the plain one."""
    return {k.replace("weights", "weight").replace("batch_norm.", ""): v for k, v in weights.items()}


def trio() -> tuple[nn.Module, nn.Module, nn.Module]:
    """The network of rcps-pytorch, of our layers, and the plain one conjoined, with the same random weights."""
    torch.manual_seed(0)
    theirs, ours, own = network(rcps), network(layers), plain()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    own.load_state_dict(carried_over(theirs.state_dict()), strict=True)
    conjoined = convert_model(own, torch.zeros(2, 4, 13), strategy="conjoined", merge="sum", outputs=PER_INDEX)
    return theirs, ours, conjoined


PER_INDEX = "invariant"
"""RCPSOutput adds both strands index by index: its result does not change."""


@needs_rcps
def test_same_results_and_running_statistics_before_and_after_training() -> None:
    models = trio()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in models]
    for step in range(21):
        x, y = sequence(4, 37), torch.randn(4, 3, 37, dtype=torch.float64)
        outputs = [m.train()(x) for m in models]
        for out in outputs[1:]:
            torch.testing.assert_close(out, outputs[0], rtol=0, atol=1e-10)
        with torch.no_grad():
            evaluated = [m.eval()(x) for m in models]
        for out in evaluated[1:]:
            torch.testing.assert_close(out, evaluated[0], rtol=0, atol=1e-10)
        if step < 20:
            for out, optimizer in zip(outputs, optimizers, strict=True):
                optimizer.zero_grad()
                F.mse_loss(out, y).backward()
                optimizer.step()
    theirs, ours, conjoined = (m.state_dict() for m in models)
    assert not torch.equal(theirs["0.weights"], network(rcps).state_dict()["0.weights"])
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-10)
    for key, value in carried_over(theirs).items():
        torch.testing.assert_close(conjoined[key], value, rtol=0, atol=1e-10)


def test_the_readme_sample_runs_with_only_the_import_changed() -> None:
    sample = """
import torch.nn as nn
import torch

fwd_seq = torch.Tensor([[
    [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1],
    [0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0],
]])
example_model = nn.Sequential(
    RCPSInput(out_kernels=8, kernel_size=3, padding="same"),
    RCPS(8, 16, 3, padding="same"),
    RCPSBatchNorm(16),
    RCPS(16, 3, 3, padding="same"),
    RCPSBatchNorm(3),
    RCPSOutput(),
)
out_fwd = example_model(fwd_seq)
out_rc = example_model(fwd_seq.flip(-1, -2))
same = torch.isclose(out_fwd, out_rc, atol=1e-6).all()
"""
    found: dict[str, Any] = {}
    exec("from rcps_convert.layers import RCPSInput, RCPS, RCPSBatchNorm, RCPSOutput" + sample, found)
    assert found["same"]


@needs_rcps
def test_the_same_seed_draws_the_same_weights() -> None:
    torch.manual_seed(3)
    theirs = network(rcps)
    torch.manual_seed(3)
    ours = network(layers)
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in theirs.state_dict().items())


def as_theirs(x: Tensor) -> Tensor:
    """Our intermediate tensor in rcps-pytorch's coordinates, and back."""
    one, two = x.chunk(2, 1)
    return torch.cat([one, two.flip(1, 2)], 1)


@needs_rcps
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("training", [True, False])
def test_every_layer_alone_is_theirs_in_other_coordinates(padding: str, training: bool) -> None:
    x, h = sequence(3, 20), torch.randn(3, 10, 20, dtype=torch.float64)
    for name, args, how, given_ in (
        ("RCPSInput", (), {"out_kernels": 5, "kernel_size": 7, "padding": padding}, x),
        ("RCPS", (5, 4, 3), {"padding": padding}, h),
        ("RCPSBatchNorm", (5,), {}, h),
    ):
        theirs = getattr(rcps, name)(*args, **how).double().train(training)
        ours = getattr(layers, name)(*args, **how).double().train(training)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        expected = theirs(given_)
        found = ours(given_ if name == "RCPSInput" else as_theirs(given_))
        torch.testing.assert_close(as_theirs(found), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(layers.RCPSOutput()(as_theirs(h)), rcps.RCPSOutput()(h), rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 3]),
    padding=st.sampled_from(["valid", "same", 2]),
    bias=st.booleans(),
    length=st.integers(20, 31),
    alphabet=st.sampled_from(["ACGT", "ATCG", "ACGTN"]),
    align=st.booleans(),
)
def test_what_rcps_pytorch_lacks_obeys_the_law(
    kernel: int,
    stride: int,
    dilation: int,
    groups: int,
    padding: Any,
    bias: bool,
    length: int,
    alphabet: str,
    align: bool,
) -> None:
    stride = 1 if padding == "same" else stride
    how: dict[str, Any] = {"padding": padding, "bias": bias, "stride": stride, "dilation": dilation}
    model = nn.Sequential(
        layers.RCPSInput(6, kernel, alphabet=alphabet, **how),
        nn.ReLU(),
        nn.MaxPool1d(2),
        layers.RCPS(6, 6, 1, bias=bias, groups=groups),
        layers.RCPSBatchNorm(6),
        layers.RCPSOutput(align=align),
    ).double()
    x = sequence(2, length, len(alphabet))
    y, mirrored = model(x), copy.deepcopy(model)(reverse_complement(x, alphabet, layout="n c l"))
    torch.testing.assert_close(mirrored, y.flip(2) if align else y, rtol=0, atol=1e-12)


def test_each_strand_is_an_ordinary_convolution() -> None:
    layer = layers.RCPS(6, 4, 3, padding=1, bias=True, stride=2, dilation=2, groups=2).double()
    own = nn.Conv1d(6, 4, 3, padding=1, stride=2, dilation=2, groups=2).double()
    own.load_state_dict({"weight": layer.weights, "bias": layer.bias})
    h = torch.randn(3, 12, 21, dtype=torch.float64)
    one, two = layer(h).chunk(2, 1)
    torch.testing.assert_close(one, own(h[:, :6]), rtol=0, atol=1e-12)
    torch.testing.assert_close(two, own(h[:, 6:]), rtol=0, atol=1e-12)
    assert layers.RCPS(6, 4, 3, padding=1, bias=True, stride=2, groups=2).extra_repr() == (
        "6, 4, 3, padding=1, stride=2, groups=2, bias=True"
    )


def test_nothing_is_copied_between_the_layers() -> None:
    h = torch.randn(3, 12, 21)
    norm = layers.RCPSBatchNorm(6)
    seen: list[Tensor] = []
    norm.batch_norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    norm(h)
    assert seen[0].data_ptr() == h.data_ptr()
    assert seen[0].shape == (6, 6, 21)


def test_aligned_output_is_a_profile_to_the_checker() -> None:
    model = network(layers, kernel=4)
    model[-1] = layers.RCPSOutput(align=True)
    assert check_equivariance(model, torch.zeros(2, 4, 30), outputs="...", tolerance=1e-10)
    assert_law(model, torch.zeros(2, 4, 30), outputs="...", tolerance=1e-10)
    model[-1] = layers.RCPSOutput()
    assert not check_equivariance(model, torch.zeros(2, 4, 30), outputs="...")


def test_wrong_arguments_and_channels_are_named() -> None:
    with pytest.raises(ValueError, match="groups=4"):
        layers.RCPS(6, 8, 3, groups=4)
    with pytest.raises(ValueError, match="needs stride=1"):
        layers.RCPSInput(6, 3, "same", stride=2)
    with pytest.raises(ValueError, match="12 channels expected"):
        layers.RCPS(6, 4, 3)(torch.zeros(2, 6, 20))
    with pytest.raises(ValueError, match="complement of A"):
        layers.RCPSInput(8, 3, alphabet="ACG")


def test_copies_and_pickles() -> None:
    model = network(layers).eval()
    x = sequence(2, 30)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x), model(x))


@pytest.mark.slow
@pytest.mark.variation
def test_compiles() -> None:
    model = network(layers).eval()
    x = sequence(2, 30)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-10)


@needs_rcps
@pytest.mark.parametrize("strategy", chosen(["tied", "conjoined"], lambda strategy: strategy == "tied"))
def test_a_network_of_the_old_layers_is_sent_to_the_page_on_migrating(strategy: str) -> None:
    with pytest.warns(UserWarning, match=r"layers of rcps-pytorch \(RCPSInput, .*migrating-from-rcps-pytorch\.md"):
        convert_model(network(rcps), torch.zeros(2, 4, 50), strategy=strategy)
    plan = plan_conversion(network(rcps), torch.zeros(2, 4, 50), strategy=strategy, verify=strategy == "tied")
    assert "the model has layers of rcps-pytorch" in str(plan)
    ours = plan_conversion(network(layers), torch.zeros(2, 4, 50), strategy=strategy)
    assert "rcps-pytorch" not in str(ours)
