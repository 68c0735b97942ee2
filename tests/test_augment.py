"""Augmentation: samples and their targets are mirrored together, and the choices are seeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcps_convert import NeedsChoiceError, ReverseComplementAugment, Tokens, Tracks, reverse_complement


def sequence(n: int, length: int = 30) -> Tensor:
    return F.one_hot(torch.randint(4, (n, length)), 4).mT.float()


TARGETS: list[tuple[Any, Any, Any]] = [
    ("invariant", torch.randn(40), lambda y: y),
    ("invariant", torch.randint(2, (40, 3)), lambda y: y),
    ("+-", torch.randn(40, 2, 30), lambda y: y.flip(1, 2)),
    ("+-", torch.randn(40, 2), lambda y: y.flip(1)),
    (".", torch.randn(40, 25), lambda y: y.flip(1)),
    ("...", torch.randn(40, 3, 25), lambda y: y.flip(2)),
    ("antisymmetric", torch.randn(40, 1), lambda y: -y),
    (Tracks("+-.", layout="n l c"), torch.randn(40, 3, 3), lambda y: y[:, :, [1, 0, 2]].flip(1)),
]


@pytest.mark.parametrize(("spec", "target", "mirror"), TARGETS)
def test_samples_and_targets_are_mirrored_together(spec: Any, target: Tensor, mirror: Any) -> None:
    x = sequence(40)
    augment = ReverseComplementAugment(targets=spec, seed=1)
    chosen = ReverseComplementAugment(seed=1).choose(40)
    assert 8 < int(chosen.sum()) < 32
    new, y = augment(x, target)
    for given, found, turned in ((x, new, x.flip(1, 2)), (target, y, mirror(target))):
        assert torch.equal(found[chosen], turned[chosen])
        assert torch.equal(found[~chosen], given[~chosen])


def test_nested_batches() -> None:
    batch = {"dna": sequence(6), "control": torch.rand(6, 2, 30), "cell": torch.rand(6, 5)}
    target = (torch.rand(6, 2, 30), torch.rand(6))
    augment = ReverseComplementAugment(
        {"dna": "ACGT", "control": "+-", "cell": "invariant"}, ("+-", "invariant"), p=1.0
    )
    new, (profile, counts) = augment(batch, target)
    assert torch.equal(new["dna"], batch["dna"].flip(1, 2))
    assert torch.equal(new["control"], batch["control"].flip(1, 2))
    assert new["cell"] is batch["cell"]
    assert torch.equal(profile, target[0].flip(1, 2))
    assert counts is target[1]


def test_tokens_and_other_layouts() -> None:
    ids = torch.randint(5, (6, 12))
    assert torch.equal(ReverseComplementAugment(Tokens("ACGTN"), p=1)(ids), reverse_complement(ids, Tokens("ACGTN")))
    x = sequence(6, 4)
    assert torch.equal(ReverseComplementAugment(layout="n l c", p=1)(x), x.flip(1, 2))
    assert torch.equal(ReverseComplementAugment(p=0)(sequence(6) * 0 + 1), torch.ones(6, 4, 30))


def test_the_seed_makes_the_choices() -> None:
    x = sequence(64)
    one, two, other = (ReverseComplementAugment(seed=s) for s in (5, 5, 6))
    state = torch.get_rng_state()
    first = one(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, two(x))
    assert not torch.equal(first, other(x))
    assert not torch.equal(one(x), first)


def test_in_a_data_loader() -> None:
    x, y = sequence(32), torch.randn(32, 2)
    augment = ReverseComplementAugment(targets="+-", p=1.0)

    def collate(samples: list[tuple[Tensor, Tensor]]) -> Any:
        return augment(*torch.utils.data.default_collate(samples))

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8, collate_fn=collate)
    batches = list(loader)
    assert torch.equal(torch.cat([b[0] for b in batches]), x.flip(1, 2))
    assert torch.equal(torch.cat([b[1] for b in batches]), y.flip(1))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        ReverseComplementAugment(p=1.5)
    with pytest.raises(NeedsChoiceError, match="have no batch of 4 in front"):
        ReverseComplementAugment(targets="+-")(sequence(4), torch.rand(5, 2))
    with pytest.raises(NeedsChoiceError, match="have no batch of 4 in front"):
        ReverseComplementAugment()(sequence(4)[0])
    with pytest.raises(NeedsChoiceError, match=r"shape \(4, 4, 4\) can be read as"):
        ReverseComplementAugment()(sequence(4, 4))
    with pytest.raises(TypeError, match="one target"):
        ReverseComplementAugment()(sequence(4), 1, 2)
