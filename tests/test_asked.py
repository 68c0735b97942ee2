"""Constructs that published models ask for: exact at other lengths too, or refused with the true reason."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lawful import assert_exact
from models import FAMILIES, MORE, ZOO, asked
from models.family import Family
from tiers import some
from torch import Tensor, nn

from rcps_convert import ConversionError, apply_recipe, convert_model, plan_conversion, recipe

TOLERANCE = 1e-10


def converted(family: Family) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_model(family.make(), family.example, **family.how)


def refused(model: nn.Module, example: Any, **how: Any) -> str:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ConversionError) as caught:
        convert_model(model, example, **how)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return str(caught.value)


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", some([asked.SinusoidsCut, asked.SinusoidsFirst], 1))
def test_a_cut_table_of_positions_names_its_buffer(make: Any) -> None:
    words = refused(make(), (2, 4, 24))
    assert "what forward reads of the buffer pe is not invariant" in words
    assert "symmetrise_buffers=True" in words


def test_an_averaged_table_still_tells_positions_apart() -> None:
    model = converted(next(f for f in asked.ZOO if f.name == "SinusoidsCut"))
    table = model.pe[0]
    assert torch.equal(table, table.flip(0).roll(6, 1))
    assert len({tuple(row.tolist()) for row in table}) == len(table)
    assert list(plan_conversion(asked.SinusoidsCut(), (2, 4, 24), symmetrise_buffers=True, verify=False).averaged) == [
        "pe"
    ]


@pytest.mark.slow
def test_rotary_tables_of_a_float32_buffer_are_exact() -> None:
    plan = plan_conversion(asked.EsmLike(), asked.ZOO[0].example, inputs=asked.IDS)
    assert not plan.problems
    assert not any("rounding" in note for note in plan.notes)
    assert len(plan.tested) == 2


# --- weights that are no parameters, or change in forward -----------------------------------------


class Small(nn.Module):
    """(N, 4, 24) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv1d(4, 8, 5, padding=2), nn.Linear(8, 2)

    def top(self, h: Tensor) -> Tensor:
        return self.out(torch.tanh(h).mean(-1))


class PlainWeights(Small):
    """As deepRAM keeps its weights: tensors that are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.wConv = torch.randn(8, 4, 5, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(F.conv1d(x, self.wConv, padding=2))


class PlainList(Small):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.kernels = [torch.randn(8, 4, 5), torch.randn(8, 8, 3)]

    def forward(self, x: Tensor) -> Tensor:
        return self.top(F.conv1d(F.conv1d(x, self.inner.kernels[0]), self.inner.kernels[1]))


@pytest.mark.parametrize(("make", "name"), [(PlainWeights, "wConv"), (PlainList, "inner.kernels[0]")])
def test_weights_that_are_no_parameters_are_named(make: Any, name: str) -> None:
    words = refused(make(), (2, 4, 24))
    assert f"the tensor {name} is not invariant" in words
    assert "no parameter" in words
    assert "nn.Parameter" in words


class DataSet(Small):
    """As HeartENN renormalises its weights."""

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data = self.conv.weight.data / self.conv.weight.data.norm()
        return self.top(self.conv(x))


class DataCopied(Small):
    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data.copy_(torch.renorm(self.conv.weight.data, 2, 0, 1.0))
        return self.top(self.conv(x))


class Divided(Small):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.conv.weight.div_(self.conv.weight.norm(dim=(1, 2), keepdim=True).clamp(min=1.0))
        return self.top(self.conv(x))


@pytest.mark.parametrize(("make", "by"), [(DataSet, "setting .data"), (DataCopied, "copy_"), (Divided, "div_")])
def test_weights_that_change_in_forward_are_named_with_their_line(make: Any, by: str) -> None:
    words = refused(make(), (2, 4, 24))
    line = make.forward.__code__.co_firstlineno + (2 if make is Divided else 1)
    assert f"{by} changes the parameter conv.weight in forward" in words
    assert f"test_asked.py:{line}" in words
    assert "w / w.norm()" in words


class DataRead(Small):
    """Weights read without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.top(F.conv1d(x, self.conv.weight.data, self.conv.bias.data, padding=2))


def test_data_that_are_read_are_traced() -> None:
    model = convert_model(DataRead(), (2, 4, 24))
    assert_exact(model, torch.zeros(2, 4, 24), lengths=(24, 31), tolerance=TOLERANCE)


# --- what torch.export says ------------------------------------------------------------------------


class Branching(Small):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.top(h / 2 if h.max() > 1 else h)


class Counting(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.conv(x)[..., : int(x.sum().item()) % 3 + 1])


class Numpy(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.top(torch.from_numpy(np.tanh(self.conv(x).detach().numpy())))


class Selecting(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.conv(x)[..., x.sum((0, 1)).nonzero().flatten()])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Branching, "forward asks for the value of a tensor"),
        (Counting, "forward asks for the value of a tensor"),
        (Numpy, "forward leaves torch for numpy"),
        (Selecting, "depends on the values of a tensor"),
    ],
)
def test_texts_of_torch_are_translated(make: Any, why: str) -> None:
    words = refused(make(), (2, 4, 24))
    assert why in words
    assert f"test_asked.py:{make.forward.__code__.co_firstlineno + (2 if make is Branching else 1)}" in words
    assert not any(word in words for word in ("Guard", "fake", "u0", "<string>"))


# --- pieces of a length ------------------------------------------------------------------------------


class Pieces(asked.InPieces):
    """What becomes of the two halves of a length."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        return self.out(self.how(self, a, b).mean(1))


@pytest.mark.parametrize(
    "how",
    some(
        [
            lambda m, a, b: torch.cat([m.f(a), m.g(b)], 1),
            lambda m, a, b: torch.cat([m.f(a), m.f(a)], 1),
            lambda m, a, b: torch.cat([m.f(a) * 2, m.f(b) * 3], 1),
            lambda m, a, b: torch.cat([m.f(a), m.f(b) + m.g(a)], 1),
            lambda m, a, b: m.f(a),
            lambda m, a, b: m.f(a) + 2 * m.f(b),
        ],
        3,
    ),
    ids=[
        "two layers",
        "one twice",
        "two numbers",
        "one reads the other",
        "one left out",
        "weighed differently",
    ],
)
def test_pieces_that_are_not_treated_alike_are_refused(how: Any) -> None:
    assert "cuts a length of 24 into pieces of 12, 12" in refused(Pieces(how), (2, 4, 24))


def test_pieces_may_be_joined_in_the_other_order() -> None:
    model = convert_model(Pieces(lambda m, a, b: torch.cat([m.f(b), m.f(a)], 1)), (2, 4, 24), verify=False)
    assert_exact(model, torch.zeros(2, 4, 24), tolerance=TOLERANCE)


def test_lengths_that_do_not_divide_are_refused_when_called() -> None:
    model = convert_model(asked.InPieces(), (2, 4, 24))
    with pytest.raises(ConversionError, match="26"):
        model(torch.zeros(2, 4, 26))


class PositionKernel(Small):
    """A kernel that a network makes of the positions in it, as CKConv and Hyena have it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("at", torch.linspace(-1, 1, size)[:, None])
        self.first, self.last = nn.Linear(1, 6), nn.Linear(6, 64)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.last(torch.sin(30 * self.first(self.at))).T.unflatten(0, (8, 8))
        return self.out(F.conv1d(torch.tanh(self.conv(x)), kernel, padding="same").mean(-1))


@pytest.mark.parametrize("size", some([15, 31, 127, 1021], 1))
def test_positions_whose_middle_was_rounded_change_their_sign(size: int) -> None:
    """In float32 ``linspace(-1, 1, 15)`` holds -4.5e-8 in its middle."""
    assert PositionKernel(size).at[size // 2] != 0
    model = convert_model(PositionKernel(size), (2, 4, 24), verify=False)
    assert_exact(model, torch.zeros(2, 4, 24), lengths=(24, 31), tolerance=1e-6)


# --- what is padded on one side, and masked --------------------------------------------------------------


class MaskedPool(nn.Module):
    """Attention pooling as Enformer writes it: what does not divide is padded on one side and masked."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.score = nn.Conv2d(c, c, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        mask = torch.zeros(len(h), 1, h.shape[-1], dtype=torch.bool)
        if h.shape[-1] % 2:
            h, mask = F.pad(h, (0, 1)), F.pad(mask, (0, 1), value=True)
        h, mask = h.unflatten(-1, (-1, 2)), mask.unflatten(-1, (-1, 2))
        weights = self.score(h).masked_fill(mask, -1e9).softmax(-1)
        return (h * weights).sum(-1)


class CountedPool(MaskedPool):
    """The mean of the positions that a window has."""

    def forward(self, h: Tensor) -> Tensor:
        pad = (0, -h.shape[-1] % 3)
        h, count = (F.pad(t, pad).unflatten(-1, (-1, 3)).sum(-1) for t in (h, torch.ones_like(h[:1, :1])))
        return h / count


class LastPool(MaskedPool):
    """Channels last; what is masked gets a large negative score."""

    def forward(self, h: Tensor) -> Tensor:
        h, pad = h.mT, (0, 0, 0, -h.shape[-1] % 4)
        kept = F.pad(torch.ones_like(h[..., :1]), pad)
        h, kept = (F.pad(h, pad)).unflatten(1, (-1, 4)), kept.unflatten(1, (-1, 4))
        weights = (self.score(h.movedim(-1, 1)).movedim(1, -1) + (1 - kept) * -1e9).softmax(2)
        return (h * weights).sum(2).mT


class PooledSoftly(Small):
    def __init__(self, pool: Callable[[], nn.Module] = MaskedPool) -> None:
        super().__init__()
        self.pool = pool()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(torch.tanh(self.conv(x))).mean(-1))


ONE_SIDED = [(MaskedPool, 25), (MaskedPool, 24), (CountedPool, 25), (LastPool, 25)]


@pytest.mark.parametrize(("pool", "length"), some(ONE_SIDED, 1))
def test_a_masked_pool_is_exact_whatever_remainder_is_left(pool: Callable[[], nn.Module], length: int) -> None:
    """The mask gets an entry for each channel: half of the channels are padded on the other side."""
    model = convert_model(PooledSoftly(pool), (2, 4, length), verify=False)
    assert_exact(model, torch.zeros(2, 4, length), lengths=(24, 25, 30, 31), tolerance=TOLERANCE)


def test_a_mask_for_each_channel_goes_through_recipes_and_copies() -> None:
    model = convert_model(PooledSoftly(), (2, 4, 25), verify=False)
    twin = apply_recipe(PooledSoftly(), json.loads(json.dumps(recipe(model))))
    twin.load_state_dict(model.state_dict())
    x = torch.rand(3, 4, 25)
    assert torch.equal(twin(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


# --- what cannot be tied ------------------------------------------------------------------------------


class ViewedMask(MaskedPool):
    """A view that has room for one channel only."""

    def forward(self, h: Tensor) -> Tensor:
        pad = (0, h.shape[-1] % 2)
        kept = F.pad(torch.ones_like(h[:1, :1]), pad).view(1, 1, -1, 2)
        h = F.pad(h, pad).unflatten(-1, (-1, 2))
        return (h * (self.score(h) + (1 - kept) * -1e9).softmax(-1)).sum(-1)


class WithoutChannels(MaskedPool):
    """A mask that has no axis of channels."""

    def forward(self, h: Tensor) -> Tensor:
        pad = (0, h.shape[-1] % 2)
        mask = F.pad(torch.zeros(h.shape[-1], dtype=torch.bool), pad, value=True).unflatten(-1, (-1, 2))
        h = F.pad(h, pad).unflatten(-1, (-1, 2))
        return (h * self.score(h).masked_fill(mask, -1e9).softmax(-1)).sum(-1)


@pytest.mark.parametrize("pool", some([ViewedMask, WithoutChannels], 1))
def test_a_mask_that_takes_no_channels_is_refused_where_a_remainder_is_left(pool: Callable[[], nn.Module]) -> None:
    words = refused(PooledSoftly(pool), (2, 4, 25))
    assert "not invariant under reverse complement" in words
    assert 'pass on_unsupported="both_strands" to run pool on both strands' in words
    model = convert_model(PooledSoftly(pool), (2, 4, 25), on_unsupported="both_strands", verify=False)
    assert_exact(model, torch.zeros(2, 4, 25), lengths=(25, 24, 31), tolerance=TOLERANCE)


class Spectrum(Small):
    """FNet: positions and channels mixed by a Fourier transform that is not undone."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv(x)).mT
        return self.out((h + torch.fft.fft(torch.fft.fft(h, dim=-1), dim=-2).real).amax(1))


def test_a_spectrum_is_refused_by_its_operator() -> None:
    assert "no rule for aten.fft_fft" in refused(Spectrum(), (2, 4, 24))


# --- how refusals are told ----------------------------------------------------------------------------


class Unrolled(Small):
    """A recurrence written out, with a layer of its own at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(8, 8) for _ in range(24)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv(x))
        return sum(self.out(step(h[..., i])) for i, step in enumerate(self.steps))


def test_many_problems_of_a_kind_are_told_once() -> None:
    words = refused(Unrolled(), (2, 4, 24))
    plan = plan_conversion(Unrolled(), (2, 4, 24))
    assert len(plan.problems) == 24
    assert "24 problems, the first: select of the first position" in words
    assert "more of this kind" in words
    assert len(words.splitlines()) < 30
    assert str(plan).count("select of") < 5


def test_a_dict_of_arguments_shows_the_form_of_its_specs() -> None:
    example = {"dna": torch.zeros(2, 4, 24), "cell": torch.zeros(2, 3), "ids": torch.zeros(2, 24, dtype=torch.long)}
    form = 'inputs={"dna": "ACGT", "cell": "invariant", "ids": Tokens(...)}'
    for given in ("ACGT", {"dna": "ACGT"}, ("ACGT", "invariant", "invariant")):
        assert form in refused(Small(), example, inputs=given)


# --- the page of published models ---------------------------------------------------------------------

PUBLISHED = {
    "DeepBind": "DeepBindLike",
    "Basset": "BassetLike",
    "DeepSEA": "DeepSEALike",
    "DanQ": "DanQLike",
    "SATORI": "SatoriLike",
    "BPNet": "BPNetLike",
    "ChromBPNet": "ChromBPNetLike",
    "ProCapNet": "ProCapNetLike",
    "Basenji": "BasenjiLike",
    "Enformer": "EnformerLike",
    "SpliceAI": "SpliceAILike",
    "Pangolin": "PangolinLike",
    "DeepSTARR": "DeepStarrLike",
    "Malinois": "MalinoisLike",
    "LegNet": "LegNetLike",
    "Xpresso": "XpressoLike",
    "ExplaiNN": "ExplaiNNLike",
    "Akita": "AkitaLike",
    "Orca": "OrcaLike",
    "Sei": "SeiLike",
    "Puffin": "PuffinLike",
    "Puffin's convolutions by Fourier transforms": "FourierKernel",
    "scBasset": "ScBassetLike",
    "the attention of ESM-2 and the Nucleotide Transformer": "EsmLike",
    "the rotary attention of LLaMA": "RotaryCasts",
    "Hyena's long convolutions, not causal": "LongConvolution",
    "the complement inside ConvNova": "Complemented",
    "the codes of GPN": "WideOneHot",
    "ASAP": "Written",
    "CLIPNET": "WrittenStrands",
    "AttentiveChrome": "Marks",
    "two LSTMs, one for each direction": "TwoLstms",
    "Caduceus without shared weights: a scan of Mamba from either end": "TwoScans",
    "Caduceus as a language model: its scans share their projections": "CaduceusLike",
    "Borzoi": "BorzoiLike",
    "SpliceTransformer": "SpliceTransformerLike",
    "C.Origami": "COrigamiLike",
    "the end of Akita, contacts above a diagonal": "UpperContacts",
    "the first BPNet, transposed convolutions for each task": "TaskHeads",
    "the winner of the DREAM challenge, six channels and bins": "DreamLike",
    "ConvNeXt": "ConvNeXtLike",
    "DenseNet, checkpointed": "DenseNetLike",
    "strides behind a smoothing kernel, spectral and weight norm": "AntiAliased",
    "a U-net of valid convolutions, its skips cropped": "CroppedSkips",
    "a U-net that is interpolated and padded": "PaddedSkips",
    "a first layer that reads both strands by hand (RC convolution)": "HandMadeFirstLayer",
    "reference and alternative allele through one encoder": "TwoAlleles",
    "regions of a gene under gated attention": "Regions",
    "a variational autoencoder of sequences": "Autoencoder",
    "Performer": "Performer",
    "`nn.Transformer` with a query per cell type": "CellTypeQueries",
    "MLP-Mixer": "MixerLike",
    "a capsule network": "Capsules",
    "additive attention over a GRU (Bahdanau)": "AdditiveAttention",
    "kernels that a cell type makes": "MadeKernels",
    "a loss inside of forward, as in Hugging Face's models": "WithLabels",
    "axial attention on all pairs of bins": "AxialMap",
    "long causal convolutions from either end, by Fourier transforms": "TwoLongConvolutions",
    "a spatial transformer": "SpatialTransformer",
    "distances to prototypes (ProtoPNet)": "Prototypes",
    "k-max pooling that keeps the order": "KMaxPool",
    "AlphaGenome": "AlphaGenomeLike",
    "Lyra, its S4D read from either end": "LyraLike",
    "HyenaDNA's mixer, read from either end": "BothWaysHyena",
    "PARM, with the pool of enformer-pytorch": "ParmLike",
    "a bidirectional LSTM written out with cells": "TwoCells",
    "DNABERT-2: a bias by distance, a mask of numbers": "DnaBert2Like",
    "GPN with RoFormer's rotary attention": "RoFormerLike",
    "D3, discrete diffusion": "DiscreteDiffusion",
    "DeepCpG, bases beside methylation": "DeepCpGLike",
    "DeepGRN": "DeepGrnLike",
    "Leopard": "LeopardLike",
    "DeepTACT, promoter and enhancer": "DeepTactLike",
    "Puffin-D": "PuffinDLike",
    "Dirichlet flow matching": "FlowLike",
    "StarSpace's bags of k-mers, as in BindSpace": "BagOfKmers",
    "distributions of `torch.distributions` at the end": "CountDistribution",
    "Beluga": "BelugaLike",
    "Basset as Kipoi has it": "KipoiBassetLike",
    "APARENT, a score for each cut and one for none": "AparentLike",
    "CamFormers": "CamFormersLike",
    "Saluki, bases beside codons and splice sites": "SalukiLike",
    "contacts of two halves of the channels": "HalvedContacts",
    "channels shuffled before pools that leave a remainder (ShuffleNet)": "ShuffledPools",
    "a mixture of experts, two for each position": "RoutedExperts",
    "Perceiver": "PerceiverLike",
    "Griffin's gated recurrence, from either end": "GatedRecurrence",
    "the attention of T5, a bias by buckets of distances": "T5Like",
    "SegmentNT: k-mers in, elements of each nucleotide out": "SegmentNTLike",
    "GPN-MSA, aligned genomes beside one": "GpnMsaLike",
    "StripedHyena's short filters between attention": "StripedHyenaLike",
    "DragoNNFruit, layers that a cell scales": "DragonnfruitLike",
    "EPInformer, a promoter and its enhancers": "EPInformerLike",
    "Mamba-2, its scan as a matrix, from either end": "ScanAsMatrix",
    "shifted windows (Swin)": "ShiftedWindows",
    "neighbourhood attention": "Neighbourhoods",
    "Nystrom attention": "Landmarks",
    "learned functions on a grid (KAN)": "SplinesOfChannels",
    "channels shifted to either neighbour (TSM), by `torch.roll`": "ShiftedChannels",
    "the same, written into zeros": "WrittenShift",
    "groups of channels shifted by several bins (AS-MLP)": "AxialShift",
    "Haar wavelets, of bases and of channels, and back": "Wavelets",
    "DeepHistone, a sequence beside its openness": "DeepHistoneLike",
    "DNA-Diffusion, its U-net over bases and positions": "DnaDiffusionLike",
    "CRISPR-Net, a guide and its target": "CrisprNetLike",
    "MuAt, the mutations of a tumour": "MuAtLike",
    "BigBird's blocks of neighbours, as in GENA-LM": "BlockSparse",
    "RWKV, its weights by distance on both sides": "BothSidesRwkv",
}
"""Published architectures, and the networks of the zoo that were written after them."""


def said(value: Any) -> str:
    """A spec as it may be written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}": {said(v)}' for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(said, value))}{',' * (len(value) == 1)})"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{type(value).__name__}(...)" if not isinstance(value, bool) else str(value)


def published_row(architecture: str) -> str:
    """The row of the page."""
    name = PUBLISHED[architecture]
    family = next(f for f in [*FAMILIES, *ZOO, *MORE] if f.name == name)
    how = ", ".join(f"`{k}={said(v)}`" for k, v in family.how.items())
    return f"| {architecture} | `{name}` | {how or 'nothing'} |"


def test_the_page_of_published_models_lists_what_the_zoo_converts() -> None:
    page = (Path(__file__).parents[1] / "docs" / "published-models.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "| `" in line and "Network in" not in line]
    assert rows == list(map(published_row, PUBLISHED))


# --- what is refused with its own reason ------------------------------------------------------------------


class BuiltLater(Small):
    """A layer that the first call builds."""

    def __init__(self) -> None:
        super().__init__()
        self.deep: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).tanh().flatten(1)
        if self.deep is None:
            self.deep = nn.Linear(h.shape[1], 3).to(h)
        return self.deep(h)


class MadeLater(Small):
    """A parameter that the first call makes."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).tanh().mean(-1)
        if not hasattr(self, "w"):
            self.w = nn.Parameter(torch.ones(h.shape[1], 2))
        return h @ self.w


@pytest.mark.parametrize(("make", "name"), some([(BuiltLater, "deep.weight"), (MadeLater, "w")], 1))
def test_parameters_that_the_first_call_makes_are_named(make: Any, name: str) -> None:
    words = refused(make(), (2, 4, 24))
    assert f"forward makes parameters when it is called first: {name}" in words
    assert "call the model once before converting it" in words
    called = make()
    called(torch.zeros(2, 4, 24))
    assert_exact(convert_model(called, (2, 4, 24)), torch.zeros(2, 4, 24), tolerance=TOLERANCE)


class Pairs(Small):
    """Scores of channels, some of which swap as bases do; contacts above a diagonal."""

    def __init__(self, contacts: bool) -> None:
        super().__init__()
        self.contacts = contacts

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).tanh()
        if not self.contacts:
            return torch.cat([x.mean(-1), h.mean((1, 2))[:, None]], 1)
        i, j = torch.triu_indices(24, 24, 2)
        return (h.mT @ h)[:, i, j]


@pytest.mark.parametrize(("contacts", "spec"), [(False, "Tracks.pairs([3, 2, 1, 0, 4])"), (True, "UpperTriangle(")])
def test_a_permuted_output_is_told_its_spec(contacts: bool, spec: str) -> None:
    assert f"state how it transforms in outputs=: {spec}" in refused(Pairs(contacts), (2, 4, 24))


class RunningSum(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.conv(x).cumsum(-1))


class Masked(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(8) < 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, self.kept].mean(-1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Spectrum, "a Fourier transform mixes all positions"),
        (RunningSum, "on the other strand that lies to the right: one from either end"),
        (Masked, "choose entries by a list of numbers that __init__ makes"),
    ],
)
def test_operators_without_a_rule_say_why(make: Any, says: str) -> None:
    assert says in refused(make(), (2, 4, 24))
