"""Networks with recurrent layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .family import Family


class DanQLike(nn.Module):
    """Convolution, pool, bidirectional LSTM over (L, N, C), flatten, two linear layers. (N, 4, 84) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 12, 9)
        self.lstm = nn.LSTM(12, 6, bidirectional=True)
        self.fc1, self.fc2 = nn.Linear(12 * 19, 16), nn.Linear(16, 5)
        self.drop1, self.drop2 = nn.Dropout(0.2), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop1(F.max_pool1d(F.relu(self.conv(x)), 4))
        h, _ = self.lstm(h.permute(2, 0, 1))
        h = self.drop2(h.permute(1, 0, 2).reshape(x.shape[0], -1))
        return torch.sigmoid(self.fc2(F.relu(self.fc1(h))))


class ConvGRULike(nn.Module):
    """Two batch-normed convolutions, two GRU layers, final states of the last layer. (N, 60, 4) -> (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 10, 7, padding=3), nn.BatchNorm1d(10), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(10, 7, 5, padding=2), nn.BatchNorm1d(7), nn.ELU(), nn.MaxPool1d(3),
        )  # fmt: skip
        self.gru = nn.GRU(7, 5, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3)
        self.norm, self.out = nn.BatchNorm1d(10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(self.body(x.transpose(1, 2)).transpose(1, 2))
        last = state.view(2, 2, x.shape[0], 5)[-1]
        return self.out(self.norm(last.transpose(0, 1).reshape(x.shape[0], -1)))


class SatoriLike(nn.Module):
    """Convolution, bidirectional LSTM, multi-head attention, pooled over positions. (N, 4, 66) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 12, 7), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(3))
        self.lstm = nn.LSTM(12, 8, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.attention = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(self.conv(x).mT)
        h = self.norm(h + self.attention(h, h, h)[0])
        return self.out(h.mean(1))


class SummedDirections(nn.Module):
    """A projecting LSTM with a learned initial state; its directions are summed. (N, 4, 40) -> (N, 2, 40)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 5, padding=2)
        self.lstm = nn.LSTM(6, 8, bidirectional=True, batch_first=True, proj_size=4)
        self.h0, self.c0 = nn.Parameter(torch.randn(2, 1, 4)), nn.Parameter(torch.randn(2, 1, 8))
        self.out = nn.Conv1d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        states = [s.expand(-1, n, -1).contiguous() for s in (self.h0, self.c0)]
        y, _ = self.lstm(torch.tanh(self.conv(x)).mT, tuple(states))
        return self.out(y.view(n, -1, 2, 4).sum(2).mT)


class EncoderDecoder(nn.Module):
    """One recurrence starts from another's final state; attention pooling over positions. (N, 4, 30) -> (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.RNN(4, 6, bidirectional=True, batch_first=True, bias=False)
        self.second = nn.GRU(12, 6, bidirectional=True, batch_first=True)
        self.score, self.out = nn.Linear(12, 1), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.first(x.mT)
        y, _ = self.second(y, state)
        return self.out((y * self.score(y).softmax(1)).sum(1))


FAMILIES = [Family(DanQLike, torch.zeros(3, 4, 84))]

ZOO = [
    Family(ConvGRULike, torch.zeros(3, 60, 4)),
    Family(SatoriLike, torch.zeros(3, 4, 66)),
    Family(SummedDirections, torch.zeros(3, 4, 40), {"outputs": "+-"}),
    Family(EncoderDecoder, torch.zeros(3, 4, 30)),
]
