"""Relaxed CSLS: the loss, and the map trained on it."""

import pytest
import torch
from torch.autograd import gradcheck

from relreps import ProcrustesTranslator
from relreps.correspondence import csls
from relreps.translate import RCSLSTranslator, rcsls_loss
from tests._data import normal

close = torch.testing.assert_close


def test_rcsls_loss_is_minus_the_mean_score_of_the_pairs():
    x, y = (torch.nn.functional.normalize(normal(20, 5)) for _ in range(2))
    close(rcsls_loss(x, y, 4), -csls(x, y, 4).diagonal().mean())
    x, y = normal(6, 3).requires_grad_(), normal(6, 3).requires_grad_()
    assert gradcheck(lambda a, b: rcsls_loss(a, b, 2), (x, y))


def test_rcsls_loss_is_convex_in_the_map():
    x, y = normal(30, 4), normal(30, 5)
    a, b = normal(4, 5), normal(4, 5)
    for t in (0.25, 0.5, 0.9):
        mixed = rcsls_loss(x @ (t * a + (1 - t) * b), y, 5)
        assert mixed <= t * rcsls_loss(x @ a, y, 5) + (1 - t) * rcsls_loss(x @ b, y, 5)


@pytest.mark.parametrize("lr", [1.0, 1e6])
def test_rcsls_never_ends_above_its_start_and_stays_in_the_ball(lr):
    x = normal(200, 6)
    y = x @ normal(6, 4) + 0.1 * normal(200, 4)
    t = RCSLSTranslator(6, 4, lr=lr, max_iterations=10).double().fit(x, y)

    def loss(matrix):
        rows = [(side - side.mean(0)) for side in (x, y)]
        rows = [side / side.norm(dim=1, keepdim=True) for side in rows]
        return rcsls_loss(rows[0] @ matrix, rows[1])

    close(t.loss, loss(t.matrix))
    start = ProcrustesTranslator(6, 4, pre="unit").double()
    start.fit(x - x.mean(0), y - y.mean(0))
    assert t.loss < loss(start.matrix)
    assert torch.linalg.matrix_norm(t.matrix, 2) <= 1 + 1e-12


def test_rcsls_refuses_weights_and_too_few_pairs():
    x = normal(20, 4)
    with pytest.raises(ValueError, match="takes no `weights`"):
        RCSLSTranslator(4, 4).fit(x, x, torch.ones(20))
    with pytest.raises(ValueError, match="`k` must be at most"):
        RCSLSTranslator(4, 4, k=30).fit(x, x)


@pytest.mark.parametrize("constant", ["x", "y"])
def test_rcsls_refuses_constant_rows(constant):
    x, y = normal(30, 4), normal(30, 4)
    x, y = (x[:1].expand(30, 4), y) if constant == "x" else (x, y[:1].expand(30, 4))
    with pytest.raises(ValueError, match=r"RCSLSTranslator cannot be fitted.*rank 0"):
        RCSLSTranslator(4, 4).fit(x, y)
