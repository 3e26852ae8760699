"""The Wasserstein distance of diagrams of death times."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from relreps.topo_loss import wasserstein_h0
from tests.topo_loss._clouds import close, cloud, grad


def assignment(a, b, q):
    """The usual definition: every point may go to its own place on the diagonal."""
    m, n = len(a), len(b)
    if q == math.inf:  # the least length up to which all can be assigned
        cost = np.full((m + n, m + n), 1e9)
        cost[:m, :n] = np.abs(a[:, None] - b)
        cost[:m, n:][np.eye(m, dtype=bool)] = a / 2
        cost[m:, :n][np.eye(n, dtype=bool)] = b / 2
        cost[m:, n:] = 0
        lengths = np.unique(np.append(cost, 0))
        return next(t for t in lengths if not (cost > t)[linear_sum_assignment(cost > t)].any())
    cost = np.zeros((m + n, m + n))
    cost[:m, :n] = np.abs(a[:, None] - b) ** q
    cost[:m, n:] = np.where(np.eye(m), (a[:, None] / 2) ** q, 1e9)
    cost[m:, :n] = np.where(np.eye(n), (b / 2) ** q, 1e9)
    return cost[linear_sum_assignment(cost)].sum() ** (1 / q)


lengths = st.lists(st.integers(0, 8), max_size=7)


@settings(max_examples=150, deadline=None)
@given(lengths, lengths, st.sampled_from([1.0, 1.5, 2.0, 4.0, math.inf]))
def test_wasserstein_is_the_best_assignment(a, b, q):
    a, b = (torch.tensor(d, dtype=torch.float64) for d in (a, b))
    close(wasserstein_h0(a, b, q), torch.tensor(assignment(a.numpy(), b.numpy(), q)).double())


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0])
def test_wasserstein_is_that_of_gudhi(q):
    wasserstein = pytest.importorskip("gudhi.wasserstein")
    for m, n in ((40, 40), (30, 60), (0, 5), (1, 1)):
        a, b = cloud(m).exp(), 2 * cloud(n).exp()
        diagrams = [np.stack((np.zeros(len(d)), d.numpy()), 1) for d in (a, b)]
        wanted = wasserstein.wasserstein_distance(*diagrams, order=q, internal_p=np.inf)
        close(wasserstein_h0(a, b, q), torch.tensor(float(wanted), dtype=torch.float64))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("q", [1.0, 2.0])
def test_wasserstein_is_a_metric_on_multisets(diagonal, q):
    a, b, c = cloud(3, 12).abs()

    def w(a, b):
        return wasserstein_h0(a, b, q, diagonal=diagonal)

    close(w(a, b), w(b, a))
    close(w(a[torch.randperm(12)], b), w(a, b))
    assert w(a, a) == 0
    assert w(a, c) <= w(a, b) + w(b, c) + 1e-12
    for scale in (1e-200, 7.0, 1e200):
        close(w(scale * a, scale * b), scale * w(a, b), rtol=1e-9, atol=0)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("q", [1.0, 2.0, 3.0, 10.0, 100.0, math.inf])
def test_near_diagrams_keep_their_distance_and_their_gradient(q, diagonal):
    """A distance a ten-thousandth of the times, whose powers vanish beside those of the times."""
    a = torch.linspace(0.5, 1.5, 100)
    b = a + 1e-4
    gap = b.double() - a.double()
    wanted = gap.max() * (gap / gap.max()).pow(q).sum() ** (1 / q) if q < math.inf else gap.max()
    value = wasserstein_h0(a, b, q, diagonal=diagonal)
    close(value.double(), wanted, rtol=1e-5, atol=0)
    slope = -((gap / wanted) ** (q - 1)) if q < math.inf else -(gap == wanted).double()
    slope = slope / (-slope.sum() if q == math.inf else 1)  # the largest share it
    (found,) = grad(lambda a: wasserstein_h0(a, b, q, diagonal=diagonal), a)
    close(found.double(), slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("q", [50.0, 300.0])
def test_high_orders_go_to_the_bottleneck(q):
    a, b = cloud(9).abs(), cloud(12).abs()
    bottleneck = wasserstein_h0(a, b, math.inf)
    assert bottleneck <= wasserstein_h0(a, b, q) <= bottleneck * 21 ** (1 / q) * (1 + 1e-12)
    close(bottleneck, torch.tensor(assignment(a.numpy(), b.numpy(), math.inf)))


@pytest.mark.parametrize("q", [1.0, 2.0, math.inf])
def test_nan_among_death_times_is_nan_where_it_cannot_be_seen(q):
    a, b = cloud(2, 6).abs(), cloud(2, 9).abs()
    a[0, 2], b[1, 4] = torch.nan, torch.nan
    assert torch.vmap(lambda a, b: wasserstein_h0(a, b, q))(a, b).isnan().all()


@pytest.mark.parametrize("q", [2.0, 3.0])
def test_second_derivatives_and_transforms(q):
    a, b = (0.1 + cloud(2, 5).abs()).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, b: wasserstein_h0(a, b, q), (a, b))
    hessian = torch.autograd.functional.hessian(lambda a: wasserstein_h0(a, b, q), a.detach())
    by_func = torch.func.jacrev(torch.func.grad(lambda a: wasserstein_h0(a, b.detach(), q)))
    close(by_func(a.detach()), hessian)


def test_complete_matching():
    a, b = cloud(2, 12).abs()
    wanted = (a.sort().values - b.sort().values).abs().square().sum().sqrt()
    close(wasserstein_h0(a, b, 2, diagonal=False), wanted)
    far = torch.tensor([1.0]), torch.tensor([4.0])  # the diagonal is cheaper beyond a ratio of 3
    assert wasserstein_h0(*far, diagonal=False) == 3
    assert wasserstein_h0(*far) == 2.5


def test_wasserstein_in_leading_axes():
    a, b = cloud(2, 3, 6).abs(), cloud(2, 3, 9).abs()
    close(wasserstein_h0(a, b, 2)[1, 2], wasserstein_h0(a[1, 2], b[1, 2], 2))
    assert wasserstein_h0(a[..., :0], b[..., :0]).shape == (2, 3)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("q", [1.0, 2.0, 2.5, math.inf])
def test_gradients_of_wasserstein(diagonal, q):
    def f(a, b):
        return wasserstein_h0(a, b, q, diagonal=diagonal)

    a, b = (0.1 + cloud(2, 7).abs()).requires_grad_()
    assert torch.autograd.gradcheck(f, (a, b))
    for pair in ((a, a), (torch.zeros(7), torch.zeros(7)), (torch.zeros(7), torch.ones(7))):
        assert all(g.isfinite().all() for g in grad(f, *pair))


def test_wasserstein_on_meta_and_compiled():
    a, b = cloud(2, 2).abs(), cloud(2, 3).abs()
    assert wasserstein_h0(a.to("meta"), b.to("meta")).shape == (2,)
    torch._dynamo.reset()
    close(
        torch.compile(wasserstein_h0, fullgraph=True, backend="eager")(a, b), wasserstein_h0(a, b)
    )


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (torch.ones(3), torch.ones(2), {"diagonal": False}, "`a` and `b` must have one shape"),
        (torch.ones(2, 3), torch.ones(3), {}, "`a` and `b` must have the same leading axes"),
        (torch.tensor([-1.0]), torch.ones(3), {}, "`a` must hold death times"),
        (torch.ones(3), torch.tensor([torch.nan]), {}, "`b` must hold death times"),
        (torch.tensor([torch.inf]), torch.ones(3), {}, "leave them out"),
        (torch.tensor(1.0), torch.ones(3), {}, r"`a` must have shape \(\.\.\., m\)"),
        (torch.ones(3), torch.ones(3), {"q": 0.5}, "`q` must be in"),
    ],
)
def test_bad_diagrams(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        wasserstein_h0(a, b, **options)
