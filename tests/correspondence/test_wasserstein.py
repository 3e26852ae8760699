"""Wasserstein-Procrustes: what is coupled, and in how many directions."""

import torch

from relreps.correspondence import wasserstein
from tests._data import normal, orthogonal, seeded


def test_seeded_rows_find_their_partners_at_no_cost():
    x = normal(60, 4)
    order = torch.cat((torch.arange(6), 6 + torch.randperm(54)))
    y = 3 * x[order] @ orthogonal(4) + 1
    i, j, cost, error = wasserstein.coupled(x, y, 6, 0.02, 2, seeded())
    assert torch.equal(order[j], i)
    assert len(i) == 60
    assert cost < 0.05
    assert error < 1e-2


def test_effective_rank():
    assert wasserstein.effective_rank(torch.ones(7)) == 7
    assert wasserstein.effective_rank(torch.tensor([1.0, 0.0, 0.0])) == 1
