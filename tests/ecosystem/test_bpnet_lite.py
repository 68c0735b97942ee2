"""bpnet-lite and tangermeme: their own `fit` with a tied BPNet and ChromBPNet, files, attribution, mutagenesis."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import assert_law
from torch import Tensor, nn

pytest.importorskip("bpnetlite")
pytest.importorskip("tangermeme")

from bpnetlite import chrombpnet
from bpnetlite.bpnet import BPNet, CountWrapper, ProfileWrapper, _ProfileLogitScaling
from bpnetlite.chrombpnet import ChromBPNet
from tangermeme.deep_lift_shap import _maxpool, _nonlinear, deep_lift_shap
from tangermeme.marginalize import marginalize
from tangermeme.predict import predict
from tangermeme.saturation_mutagenesis import saturation_mutagenesis

from rcps_convert import convert_model, deep_lift_rule

LENGTH, OUT = 300, 140
TOLERANCE = 1e-5
"""Largest deviation of float32 results, in units of the largest entry."""


def bases(n: int, seed: int = 0, length: int = LENGTH) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nn.functional.one_hot(torch.randint(4, (n, length), generator=g), 4).mT.float()


def rc(x: Tensor) -> Tensor:
    return x.flip(-1, -2)


def reads(x: Tensor, strands: int) -> Tensor:
    """Counts around GATA and its reverse complement, (N, strands, OUT)."""
    hits = sum(x[:, b, i : LENGTH - 3 + i] for i, b in enumerate((2, 0, 3, 0))) == 4
    back = sum(x[:, b, i : LENGTH - 3 + i] for i, b in enumerate((3, 0, 3, 1))) == 4
    middle = slice((LENGTH - OUT) // 2, (LENGTH + OUT) // 2)
    both = [nn.functional.pad(h.float(), (1, 2))[:, middle] * 20 + 1 for h in (hits, back)]
    return torch.stack(both if strands == 2 else [both[0] + both[1]], 1)


def apart(a: Tensor, b: Tensor) -> float:
    assert float(a.std()) > 0
    return float((a - b).abs().max() / a.abs().max())


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """A working directory of its own: `fit` writes files where it runs."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def fit(model: nn.Module, strands: int, controls: bool = False) -> None:
    x, valid = bases(64), bases(16, 1)
    control = torch.rand(64, 2, LENGTH)
    labels = torch.ones(64)
    rows = [x, control, reads(x, strands), labels] if controls else [x, reads(x, strands), labels]
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*rows), batch_size=16)
    extra = {"X_ctl_valid": torch.rand(16, 2, LENGTH)} if controls else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.fit(
        data,
        optimizer,
        X_valid=valid,
        y_valid=reads(valid, strands),
        max_epochs=2,
        batch_size=16,
        device="cpu",
        **extra,
    )


def bpnet(name: str, strands: int = 2, controls: int = 0) -> BPNet:
    torch.manual_seed(0)
    return BPNet(
        n_filters=16, n_layers=3, n_outputs=strands, n_control_tracks=controls, name=name, trimming=80, verbose=False
    )


def scored(model: nn.Module, wrapper: Any) -> tuple[Tensor, Tensor]:
    """DeepLIFT attributions of sequences and of their reverse complements, with references that are mirrored too."""
    x, references = bases(4, 2), torch.stack([bases(3, 3 + i) for i in range(4)])
    rules = dict.fromkeys((_ProfileLogitScaling, chrombpnet._Log, chrombpnet._Exp), _nonlinear)
    how: dict[str, Any] = {"device": "cpu", "hypothetical": True, "additional_nonlinear_ops": rules}
    wrapped = wrapper(model.eval())
    return (
        deep_lift_shap(wrapped, x, references=references, **how),
        deep_lift_shap(wrapped, rc(x), references=rc(references), **how),
    )


@pytest.mark.slow
@pytest.mark.parametrize("controls", [False, True])
def test_fit_of_a_tied_bpnet_runs_to_the_end_and_its_file_loads(folder: Path, controls: bool) -> None:
    x = (torch.zeros(2, 4, LENGTH), torch.zeros(2, 2, LENGTH)) if controls else torch.zeros(2, 4, LENGTH)
    inputs: Any = ("ACGT", "+-") if controls else "ACGT"
    outputs = ("+-", "invariant")
    model = convert_model(bpnet("tied", controls=2 * controls), x, inputs=inputs, outputs=outputs)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, 2, controls)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    loaded = torch.load(folder / "tied.final.torch", weights_only=False)
    best = torch.load(folder / "tied.torch", weights_only=False)
    assert type(loaded) is type(model) is BPNet
    given = (bases(3), torch.rand(3, 2, LENGTH)) if controls else (bases(3),)
    for a, b in zip(loaded.eval()(*given), model.eval()(*given), strict=True):
        assert torch.equal(a, b)
    for one in (loaded, best):
        assert_law(one, x, inputs=inputs, outputs=outputs, tolerance=1e-9, randomise=False)


@pytest.mark.slow
def test_fit_of_a_tied_chrombpnet_runs_to_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `fit` names the device "cuda" itself, and reads an `alpha` that its BPNet no longer sets."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(chrombpnet, "predict", lambda *args, **how: predict(*args, **{**how, "device": "cpu"}))
    bias, accessibility = bpnet("bias", strands=1), bpnet("accessibility", strands=1)
    accessibility.alpha = 1.0
    example, specs = torch.zeros(2, 4, LENGTH), (".", "invariant")
    model = convert_model(ChromBPNet(bias, accessibility, name="chrom"), example, outputs=specs)
    before = [p.detach().clone() for p in model.accessibility.parameters()]
    x, valid = bases(64), bases(16, 1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, reads(x, 1)), batch_size=16)
    optimizer = torch.optim.AdamW(model.accessibility.parameters(), lr=3e-3)
    model.fit(data, optimizer, X_valid=valid, y_valid=reads(valid, 1), max_epochs=2, device="cpu", verbose=True)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.accessibility.parameters(), strict=True))
    for name in ("chrom.final.torch", "chrom.torch"):
        loaded = torch.load(folder / name, weights_only=False)
        assert type(loaded) is ChromBPNet
        assert_law(loaded, example, outputs=specs, tolerance=1e-9, randomise=False)
    loaded = torch.load(folder / "chrom.final.torch", weights_only=False).eval()
    for a, b in zip(loaded(valid), model.eval()(valid), strict=True):
        assert torch.equal(a, b)
    for wrapper in (CountWrapper, ProfileWrapper):
        ours, theirs = scored(loaded, wrapper)
        assert apart(ours, rc(theirs)) < 1e-3


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
@pytest.mark.parametrize("wrapper", [CountWrapper, ProfileWrapper])
def test_attributions_are_mirrored(strategy: str, wrapper: Any) -> None:
    x = torch.zeros(2, 4, LENGTH)
    model = convert_model(bpnet("scored"), x, outputs=("+-", "invariant"), strategy=strategy, verify=False)
    ours, theirs = scored(model.double(), lambda m: wrapper(m).double())
    assert apart(ours, rc(theirs)) < 1e-4
    plain, other = scored(bpnet("scored"), wrapper)
    assert apart(plain, rc(other)) > 0.05


class Pooled(nn.Module):
    """Two convolutions and max pools, all of them modules. (N, 4, L) -> (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.p = nn.Conv1d(4, 12, 9, padding=4), nn.ReLU(), nn.MaxPool1d(4)
        self.second, self.b, self.q = nn.Conv1d(12, 12, 5, padding=2), nn.ReLU(), nn.MaxPool1d(3)
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.p(self.a(self.first(x)))
        return self.out(self.q(self.b(self.second(h))).mean(-1))


@pytest.mark.parametrize("length", [96, 97, 98, 101])
@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_deep_lift_through_max_pools_adds_up_at_every_length(strategy: str, length: int) -> None:
    torch.manual_seed(0)
    plain = Pooled()
    model = convert_model(plain, torch.zeros(2, 4, length), strategy=strategy, verify=False).double()
    x, references = bases(4, 1, length).double(), torch.stack([bases(3, 9 + i, length).double() for i in range(4)])

    def attributed(net: nn.Module, turned: bool, hypothetical: bool) -> Tensor:
        given = (rc(x), rc(references)) if turned else (x, references)
        how: dict[str, Any] = {"device": "cpu", "hypothetical": hypothetical, "warning_threshold": 1e-9}
        rules = {nn.MaxPool1d: deep_lift_rule(_maxpool)}
        found = deep_lift_shap(net, given[0], references=given[1], additional_nonlinear_ops=rules, **how)
        return rc(found) if turned else found

    ours, theirs = attributed(model, False, True), attributed(model, True, True)
    assert apart(ours, theirs) < 1e-9
    total = (model(x) - model(references.flatten(0, 1)).view(4, 3).mean(1, keepdim=True)).flatten()
    torch.testing.assert_close(attributed(model, False, False).sum((1, 2)), total, rtol=1e-9, atol=1e-12)
    if strategy == "conjoined":
        one, other = (attributed(plain.double(), turned, True) for turned in (False, True))
        assert apart(ours, (one + other) / 2) < 1e-9


class ReadOut(nn.Module):
    """A pooled activation without a linear layer behind it, which runs on both strands. (N, 4, L) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a = nn.Conv1d(4, 12, 9, padding=4), nn.ReLU()
        self.head = nn.Sequential(nn.Conv1d(12, 3, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(self.first(x)))


def test_deep_lift_through_a_read_out_on_both_strands_adds_up() -> None:
    torch.manual_seed(0)
    model = convert_model(ReadOut(), torch.zeros(2, 4, 60)).double()
    x, references = bases(4, 1, 60).double(), torch.stack([bases(3, 9 + i, 60).double() for i in range(4)])
    how: dict[str, Any] = {"device": "cpu", "warning_threshold": 1e-9, "target": 1}
    found = deep_lift_shap(model, x, references=references, **how)
    total = (model(x) - model(references.flatten(0, 1)).view(4, 3, 3).mean(1))[:, 1]
    torch.testing.assert_close(found.sum((1, 2)), total, rtol=1e-9, atol=1e-12)
    turned = deep_lift_shap(model, rc(x), references=rc(references), **how)
    assert apart(found, rc(turned)) < 1e-9


@pytest.mark.parametrize("strategy", ["tied", "conjoined"])
def test_the_other_tools_of_tangermeme(strategy: str) -> None:
    example = torch.zeros(2, 4, LENGTH)
    model = convert_model(bpnet("used"), example, outputs=("+-", "invariant"), strategy=strategy, verify=False).eval()
    x, how = bases(6), {"device": "cpu", "batch_size": 4}
    profile, counts = predict(model, x, **how)
    mirrored, same = predict(model, rc(x), **how)
    assert apart(profile, mirrored.flip(1, 2)) < TOLERANCE
    assert apart(counts, same) < TOLERANCE
    middle, ends = slice(100, 120), {"start": 100, "end": 120}
    effect = saturation_mutagenesis(CountWrapper(model), x[:2], **ends, hypothetical=True, **how)
    turned = saturation_mutagenesis(
        CountWrapper(model), rc(x[:2]), start=LENGTH - 120, end=LENGTH - 100, hypothetical=True, **how
    )
    assert effect.shape[-1] == middle.stop - middle.start
    assert apart(effect, rc(turned)) < 1e-3
    before, after = marginalize(CountWrapper(model), x, "GATAAG", **how)
    inserted = marginalize(CountWrapper(model), rc(x), "CTTATC", **how)
    assert apart(after - before, inserted[1] - inserted[0]) < 1e-3
