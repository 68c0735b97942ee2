"""The fuzzer: its oracle sees what is wrong, its minimiser makes it small, and a few models pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from fuzz import grammar, oracle, trial
from fuzz.campaign import finished, one, run, table
from fuzz.minimise import minimise, snippet
from tiers import some
from torch import Tensor, nn
from torch.nn import functional as F

SHORT, LONG = 6, 400


def case(outputs: str = "t") -> grammar.Case:
    """One-hot DNA of 12 positions and one output."""
    slots = [grammar.Slot("x", '"ACGT"', "t[:, [3, 2, 1, 0]].flip(-1)", "onehot", ("N", 4, "L"))]
    return grammar.Case("", slots, [grammar.Slot("o0", '"auto"', outputs, "invariant")], 12, {}, "yes", [], "single")


class Pooled(nn.Module):
    """Equivariant by hand: a sum over strands. `broken` says where it is not."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.conv, self.broken = nn.Conv1d(4, 3, 3, padding=1).double(), broken

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).amax(-1) + self.conv(x.flip(1, 2)).amax(-1)
        if self.broken == "small":
            return torch.cat([y * 1e9, self.conv(x)[..., 0]], 1)
        if self.broken == "padded":
            return y + (x.sum(1)[:, -1:] == 0)
        if self.broken == "samples":
            return y - self.conv(x).mean((0, 2))
        return torch.complex(y, self.conv(x)[..., 0]) if self.broken == "imaginary" else y


def test_the_oracle_passes_what_is_right() -> None:
    judge = oracle.Judge(case(), Pooled())
    for way in oracle.DRAWS:
        judge.law("law", 3, 12, way)
        judge.law("law", 3, 12, way, chosen=[1])


@pytest.mark.parametrize(("broken", "way"), [("small", "random"), ("padded", "padded"), ("imaginary", "random")])
def test_the_oracle_sees(broken: str, way: str) -> None:
    with pytest.raises(oracle.Wrong):
        oracle.Judge(case(), Pooled(broken)).law("law", 3, 12, way)


def test_the_oracle_sees_samples_that_influence_each_other() -> None:
    with pytest.raises(oracle.Wrong):
        oracle.Judge(case(), Pooled("samples")).law("law", 3, 12, "random", chosen=[1])


def test_rounding_is_no_error_and_a_wrong_sign_is() -> None:
    class Cancels(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return (y + 1e12) - 1e12

    oracle.Judge(case(), Cancels()).law("law", 3, 12, "random")
    with pytest.raises(oracle.Wrong):
        oracle.Judge(case("-t"), Pooled()).law("law", 3, 12, "random")


class Counted(nn.Module):
    """Keeps a running mean; `strand` says whether it is of the strand that was read, `output` what comes out."""

    def __init__(self, strand: str, output: str) -> None:
        super().__init__()
        self.conv, self.strand, self.output = nn.Conv1d(4, 6, 3, padding=1).double(), strand, output
        self.register_buffer("mean", torch.zeros(6, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).amax(-1)
        h = h if self.strand == "one" else h + self.conv(x.flip(1, 2)).amax(-1)
        if self.training:
            self.mean.copy_(0.9 * self.mean + 0.1 * h.detach().mean(0))
        h = h + self.mean
        return F.layer_norm(h, (6,)).sum(1) if self.output == "rounding" else h.sum(1)


def test_statistics_of_one_strand_are_seen_and_rounding_is_no_error() -> None:
    torch.manual_seed(0)
    for strand, output in (("both", "rounding"), ("one", "rounding"), ("both", "sum")):
        model = Counted(strand, output)
        trial._statistics(case(), model, oracle.Judge(case(), model))
    model = Counted("one", "sum")
    with pytest.raises(oracle.Wrong, match="depends on the strand trained on"):
        trial._statistics(case(), model, oracle.Judge(case(), model))


def test_a_refusal_without_a_reason_is_marked_in_its_line() -> None:
    program = grammar.draw(0)
    found = [trial.as_line(trial.Result(0, "refused", fate=fate), program) for fate in ("yes", "maybe", "never")]
    assert [line.get("unreasonable", False) for line in found] == [True, False, False]


def test_outputs_are_opened_and_nothing_measured_is_an_error() -> None:
    with pytest.raises(oracle.Wrong, match="without entries"):
        oracle.excess(torch.zeros(0), torch.zeros(0), 0.0, torch.float64)
    with pytest.raises(oracle.Wrong, match="NoneType"):
        list(oracle.opened([torch.zeros(1), None]))


@pytest.mark.parametrize("constant", [-1e9, 1e12, 5e4])
def test_the_oracle_sees_an_entry_among_many_that_stand_for_infinity(constant: float) -> None:
    wanted = torch.tensor([constant] * 7 + [0.3, 0.4], dtype=torch.float64)
    got = wanted.clone()
    got[-1] += 1e-6
    assert oracle.excess(got, wanted, 0.0, torch.float64) > 100
    assert oracle.excess(wanted, wanted, 0.0, torch.float64) == 0


@pytest.mark.parametrize("seed", some(range(8), 4))
def test_a_seed_is_a_program_and_the_program_a_text(seed: int) -> None:
    first, second = grammar.render(grammar.draw(seed)), grammar.render(grammar.draw(seed))
    assert (first.source, first.ask) == (second.source, second.ask)
    a, b = grammar.build(first.source, seed), grammar.build(second.source, seed)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_the_minimiser_keeps_the_kind_of_failure() -> None:
    program = grammar.Program(
        ["onehot", [3, 1, 2, 4]], [["conv", [2, 1, 4]], ["loops", [0]], ["norm", [5, 3]]], ["mean_read", []],
        [["linear", [7]]], [["plain_head", [1]], ["counts_head", [2]]], [5, 3],
    )  # fmt: skip

    def judged(p: grammar.Program) -> tuple[str, str]:
        return ("wrong", "a scan") if "for i in range" in grammar.render(p).source else ("converted", "")

    small = minimise(program, judged)
    assert [row[0] for row in small.steps] == ["loops"]
    assert (len(small.tail), len(small.heads), any(small.ask)) == (0, 1, False)
    text = snippet(grammar.render(small), 0, "a scan", "two\nlines")
    compile(text, "snippet", "exec")


def test_a_second_run_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def judged(seed: int, *_: object) -> dict[str, object]:
        done.append(seed)
        return {"seed": seed, "outcome": "converted"}

    monkeypatch.setattr("fuzz.campaign.one", judged)
    out = tmp_path / "results.jsonl"
    run(0, 3, 1.0, out)
    out.write_text(out.read_text() + '{"seed": 3, "outc')
    assert len(finished(out)) == 3
    out.write_text("".join(f"{line}\n" for line in out.read_text().splitlines()[:3]))
    assert len(run(0, 5, 1.0, out)) == 5
    assert done == [0, 1, 2, 3, 4]


def faults(first: int, count: int) -> list[str]:
    """What is wrong or foreign among the models of some seeds; the table is printed."""
    lines = [one(seed, 0) for seed in range(first, first + count)]
    print(table(lines))
    assert Counter(line["outcome"] for line in lines)["converted"] >= count // 5
    return [f"{line['seed']}: {line['reason']}" for line in lines if line["outcome"] in ("wrong", "foreign", "fuzzer")]


@pytest.mark.parametrize("count", some([2, SHORT], 1))
def test_random_programs_are_right_or_refused(count: int) -> None:
    assert faults(0, count) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(5))
def test_many_random_programs_are_right_or_refused(shard: int) -> None:
    assert faults(10_000 + shard * LONG // 5, LONG // 5) == []


def test_a_foreign_exception_is_named() -> None:
    with pytest.raises(trial.Foreign) as caught, trial.ours("convert"):
        raise KeyError("x")
    assert caught.value.reason == "convert: KeyError"


def test_what_rounding_is_tried_with_leaves_buffers_as_they_were() -> None:
    model = nn.Sequential(nn.Conv1d(4, 5, 3, padding=1), nn.BatchNorm1d(5)).eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    judge = oracle.Judge(case(), model)
    x = judge.inputs(3, 12)
    with oracle.Rounding(judge.generator):
        moved = judge.run(x)
    assert not torch.equal(moved[0], judge.run(x)[0])
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
