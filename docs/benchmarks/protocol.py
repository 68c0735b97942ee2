"""How every network of the comparison is trained and scored, whatever its strategy.

Adam (rate 2e-3, weight decay 1e-5), batches of 64, a fixed number of epochs; the epoch that is best on the validation
split is tested. All strategies with a seed see the same batches. Networks of several seeds train side by side: on a
GPU each has a stream of its own, and one step of all is captured as a CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tasks import Split, Task
from torch import Tensor, nn
from train_ctcf import auroc

from rcps_convert import ReverseComplementAugment, reverse_complement

BATCH = 64
POSITIONS = 51_200
"""Positions read in one call when a network is scored, so that a GPU's memory holds many of them."""

RATE, TUNED_RATE = 2e-3, 5e-4
"""Learning rates from scratch, and for a network that is trained on."""


def task_loss(kind: str, f: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of logits, squared error, or the Poisson likelihood of log rates (up to a constant)."""
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(f, y)
    return F.mse_loss(f, y) if kind == "regression" else (f.exp() - y * f).mean()


def distance(kind: str, f: Tensor, g: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler distance between two answers: Bernoulli, Gaussian of variance 1, or Poisson."""
    if kind == "regression":
        return (f - g).square().mean()
    mean = torch.sigmoid if kind == "binary" else torch.exp
    return ((mean(f) - mean(g)) * (f - g)).mean()


class Learner:
    """A network in training.

    Args:
        model: on the CPU; it is moved.
        train: the split to learn from, on the device.
        task: its kind says the loss.
        seed: of the order of samples and of the augmentation.
        augmented, each, consistency: see `ways.Way`.
        answers: the labels are another network's answers, learned by squared error.
        rate: learning rate.
    """

    def __init__(
        self, model: nn.Module, train: Split, task: Task, seed: int, *, augmented: bool = False, each: bool = False,
        consistency: float = 0.0, rate: float = RATE, answers: bool = False,
    ) -> None:  # fmt: skip
        device = train[0].device
        self.model, self.task, self.seed = model.to(device), task, seed
        self.answers, self.augmented, self.each, self.consistency = answers, augmented, each, consistency
        self.source = train
        self.x, self.y = (train[0].clone(), train[1].clone()) if augmented else train
        self.order = torch.arange(len(self.x), device=device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self.lane = torch.arange(BATCH, device=device)
        how = {"capturable": True, "fused": True} if device.type == "cuda" else {}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-5, **how)
        self.best: tuple[float, int, dict[str, Tensor]] = (-np.inf, 0, {})

    def begin(self, epoch: int) -> None:
        """Another order, and other samples mirrored; the same for all strategies."""
        seed = 1000 * self.seed + epoch
        self.order.copy_(torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)))
        self.cursor.zero_()
        if self.augmented:
            augment = ReverseComplementAugment(targets=self.task.outputs, seed=seed)
            for kept, new in zip((self.x, self.y), augment(*self.source), strict=True):
                kept.copy_(new)

    def step(self) -> None:
        """The next batch: loss, gradient, a step of Adam."""
        index = self.order.index_select(0, self.cursor + self.lane)
        self.cursor += BATCH
        x, y = self.x.index_select(0, index).float(), self.y.index_select(0, index)
        f = self.model(x)
        loss = F.mse_loss(f, y) if self.answers else task_loss(self.task.kind, f, y)
        if self.each or self.consistency:
            g = self.task.mirrored(self.model(x.flip(1, 2)))
            if self.each:
                loss = (loss + task_loss(self.task.kind, g, y)) / 2
            if self.consistency:
                loss = loss + self.consistency * distance(self.task.kind, f, g)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def validate(self, split: Split, epoch: int) -> None:
        """Keep the state if it is the best so far."""
        value = primary(self.task.kind, answers(self.model, split[0]), split[1])
        if value > self.best[0]:
            self.best = (value, epoch, {k: v.clone() for k, v in self.model.state_dict().items()})

    def finish(self) -> nn.Module:
        """The network of the best epoch."""
        self.model.load_state_dict(self.best[2])
        return self.model


def answers(model: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a network says in eval mode; in float64 a copy of it."""
    model = copy.deepcopy(model).to(dtype) if dtype is not torch.float32 else model
    training = model.training
    with torch.no_grad():
        found = torch.cat([model.eval()(part.to(dtype)) for part in x.split(max(32, POSITIONS // x.shape[-1]))])
    model.train(training)
    return found


class Steps:
    """One training step of several learners: side by side on a GPU, in turns on a CPU."""

    def __init__(self, learners: Sequence[Learner], graphs: bool = True) -> None:
        self.learners = learners
        self.device = learners[0].x.device
        self.graph: Any = None
        if self.device.type == "cuda":
            self.main = torch.cuda.Stream()
            self.streams = [torch.cuda.Stream() for _ in learners]
        self.graphs = graphs and self.device.type == "cuda"

    def run(self, n: int) -> None:
        """n steps of each learner."""
        if self.device.type != "cuda":
            for _ in range(n):
                for learner in self.learners:
                    learner.step()
            return
        self.main.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.main):
            if self.graphs and self.graph is None:
                early = min(n, 3)
                for _ in range(early):  # these steps count; they also set up what a capture must not
                    self._side_by_side()
                n -= early
                self._capture()
            for _ in range(n):
                if self.graph is None:
                    self._side_by_side()
                else:
                    self.graph.replay()
        torch.cuda.current_stream().wait_stream(self.main)

    def _side_by_side(self) -> None:
        for learner, stream in zip(self.learners, self.streams, strict=True):
            stream.wait_stream(self.main)
            with torch.cuda.stream(stream):
                learner.step()
        for stream in self.streams:
            self.main.wait_stream(stream)

    def _capture(self) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.main, capture_error_mode="thread_local"):
            self._side_by_side()
        self.graph = graph


def fit(learners: Sequence[Learner], validation: Split, epochs: int, graphs: bool = True) -> list[nn.Module]:
    """Train; the networks of their best epochs."""
    steps = Steps(learners, graphs)
    for epoch in range(1, epochs + 1):
        for learner in learners:
            learner.model.train()
            learner.begin(epoch)
        steps.run(len(learners[0].x) // BATCH)
        for learner in learners:
            learner.validate(validation, epoch)
    return [learner.finish() for learner in learners]


# --- scores -------------------------------------------------------------------------------------


def primary(kind: str, f: Tensor, y: Tensor) -> float:
    """auROC, Pearson correlation, or the mean Pearson correlation of profiles."""
    if not torch.isfinite(f).all():
        return -1.0
    if kind == "binary":
        return auroc(f.cpu(), y.cpu())
    return pearson(f, y) if kind == "regression" else profile_pearson(f, y)


def pearson(f: Tensor, y: Tensor) -> float:
    """Of two vectors; 0 where one is constant."""
    both = torch.stack([f.double(), y.double()])
    value = torch.corrcoef(both)[0, 1]
    return float(torch.nan_to_num(value))


def profile_pearson(f: Tensor, y: Tensor) -> float:
    """Correlation of expected and counted reads over both strands of a sequence, mean over sequences."""
    rates, counts = f.double().exp().flatten(1), y.double().flatten(1)
    rates, counts = (v - v.mean(1, keepdim=True) for v in (rates, counts))
    norms = rates.norm(dim=1) * counts.norm(dim=1)
    return float(torch.nan_to_num((rates * counts).sum(1) / norms).mean())


def average_precision(f: Tensor, y: Tensor) -> float:
    """Area under the precision-recall curve, in steps; equal scores make one step."""
    scores, labels = f.cpu().numpy(), y.cpu().numpy()
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[last]
    recall = np.concatenate([[0.0], hits / hits[-1]])
    return float(np.sum(np.diff(recall) * hits / (last + 1)))


def calibration(kind: str, f: Tensor, y: Tensor) -> float:
    """Binary: expected calibration error, ten bins of equal size. Others: slope of measured on predicted, 1 is best.

    Of profiles, measured and predicted are total counts of reads.
    """
    f, y = f.double().cpu(), y.double().cpu()
    if kind == "binary":
        p, order = f.sigmoid(), f.argsort()
        gaps = [len(i) * float((p[i].mean() - y[i].mean()).abs()) for i in order.tensor_split(10)]
        return sum(gaps) / len(f)
    if kind == "profile":
        f, y = f.exp().sum((1, 2)), y.sum((1, 2))
    f, y = f - f.mean(), y - y.mean()
    return float((f * y).sum() / f.square().sum().clamp_min(1e-30))


def flipped(kind: str, f: Tensor, g: Tensor) -> float:
    """Share of sequences whose verdict depends on the strand.

    Binary: which label is likelier. Regression: above or below the median. Profiles: where the highest rate is.
    """
    if kind == "profile":
        return float((f.flatten(1).argmax(1) != g.flatten(1).argmax(1)).double().mean())
    middle = f.median() if kind == "regression" else torch.zeros((), device=f.device)
    return float(((f > middle) != (g > middle)).double().mean())


def scored(model: nn.Module, task: Task, split: Split) -> dict[str, Any]:
    """Every figure of a network on a split, in float64: read as written, mirrored, and on both strands."""
    x, y = split
    f = answers(model, x, torch.float64)
    g = task.mirrored(answers(model, reverse_complement(x), torch.float64))
    found: dict[str, Any] = {
        "discordance": float((f - g).abs().mean() / f.std().clamp_min(1e-30)),
        "flip rate": flipped(task.kind, f, g),
    }
    for name, value in (("x", f), ("rc", g), ("both", (f + g) / 2)):
        found[name] = {"score": primary(task.kind, value, y), "calibration": calibration(task.kind, value, y)}
        if task.kind == "binary":
            found[name]["auprc"] = average_precision(value, y)
    return found


def on_device(task: Task, device: str) -> dict[str, Split]:
    """The splits, with regression labels in units of the training labels' mean and standard deviation."""
    mean, sd = 0.0, 1.0
    if task.kind == "regression":
        labels = task.splits["train"][1]
        mean, sd = float(labels.mean()), float(labels.std())
    return {name: (x.to(device), ((y - mean) / sd).to(device)) for name, (x, y) in task.splits.items()}
