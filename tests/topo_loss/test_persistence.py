"""Functions of death times, the connectivity loss, and how a scale is chosen."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

from relreps import death_times
from relreps.topo_loss import (
    ConnectivityLoss,
    death_time_quantiles,
    persistent_entropy,
    total_persistence,
)
from tests.topo_loss._clouds import close, cloud, grad, matrix

# Death times


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_total_persistence_is_a_sum_over_the_tree(p):
    x = cloud(3, 12, 4)
    values = total_persistence(death_times(x), p)
    wanted = [minimum_spanning_tree(matrix(c)).power(p).sum() for c in x]
    close(values, torch.tensor(wanted))
    assert torch.autograd.gradcheck(
        lambda x: total_persistence(death_times(x), p), x.requires_grad_()
    )
    (slope,) = grad(lambda d: total_persistence(d, p), torch.tensor([0.0, 1.0]))
    close(slope, torch.tensor([0.0, p]))
    assert total_persistence(torch.ones(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("f", [total_persistence, persistent_entropy])
def test_what_is_no_death_time_is_refused_or_spoils_the_value(f):
    for bad in (math.nan, -1.0, math.inf):
        d = torch.tensor([1.0, bad])
        with pytest.raises(ValueError, match="`deaths` must hold death times"):
            f(d)
    d = torch.tensor([[1.0, math.nan]])
    assert torch.vmap(f)(d).isnan()  # where values cannot be looked at


def test_persistent_entropy():
    d = cloud(4, 9).abs()
    p = d / d.sum(-1, keepdim=True)
    close(persistent_entropy(d), -(p * p.log()).sum(-1))
    close(persistent_entropy(1e100 * d), persistent_entropy(d))
    close(persistent_entropy(torch.ones(2, 9)), torch.full((2,), math.log(9)))
    assert persistent_entropy(torch.tensor([0.0, 3.0])) == 0
    assert torch.autograd.gradcheck(persistent_entropy, d.requires_grad_())
    for zeros in (torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])):
        assert persistent_entropy(zeros).isfinite()
        assert grad(persistent_entropy, zeros)[0].isfinite().all()
    assert persistent_entropy(torch.ones(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("branches", [1, 3])
def test_the_connectivity_loss_is_its_formula(branches):
    z = cloud(4, 10, 6)
    parts = [part for c in z for part in c.chunk(branches, -1)]
    wanted = np.mean([np.abs(minimum_spanning_tree(matrix(p, "l1")).data - 2).sum() for p in parts])
    close(ConnectivityLoss(branches=branches)(z), torch.tensor(wanted))


def test_the_connectivity_loss_brings_every_edge_to_its_length():
    z = cloud(16, 8).requires_grad_()
    loss = ConnectivityLoss(scale=1.5, metric="l2")
    optimizer = torch.optim.SGD([z], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, total_iters=250)
    for _ in range(250):
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
        schedule.step()
    close(death_times(z.detach()), torch.full((15,), 1.5, dtype=torch.float64), atol=1e-2, rtol=0)


def test_the_connectivity_loss_at_its_edges():
    loss = ConnectivityLoss(branches=2)
    for shape in ((1, 4), (0, 4), (0, 5, 4)):
        z = torch.ones(shape, requires_grad=True)
        assert loss(z) == 0
        assert loss(z).requires_grad
    z = torch.zeros(5, 4, requires_grad=True)
    close(loss(z), torch.tensor(8.0))
    assert grad(loss, z)[0].isfinite().all()
    assert loss(torch.ones(7, 4, device="meta")).shape == ()
    torch._dynamo.reset()
    z = cloud(4, 4)
    close(torch.compile(loss, fullgraph=True, backend="eager")(z), loss(z))
    assert torch.autograd.gradcheck(loss, z.requires_grad_())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConnectivityLoss(branches=3)(torch.ones(4, 4)), "`branches` must divide .* got 3"),
        (lambda: ConnectivityLoss(scale=-1.0), "`scale`"),
        (lambda: ConnectivityLoss(scale=math.inf), "`scale` must be finite"),
        (lambda: ConnectivityLoss(metric="precomputed"), "`metric`"),
        (lambda: ConnectivityLoss(metric="l3"), "`metric`"),
        (lambda: ConnectivityLoss()(torch.ones(4, 4) / 0), "`z` must be finite"),
        (lambda: total_persistence(torch.ones(3), 0), "`p`"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_repr_names_the_options():
    assert str(ConnectivityLoss(2)) == "ConnectivityLoss(scale=2, metric='l1', branches=1)"


# Choosing a scale


def test_quantiles_of_each_class():
    x = cloud(40, 3).float()
    labels = torch.arange(40) % 3 + 5
    q = (0.0, 0.3, 1.0)
    found = death_time_quantiles(x, labels, q)
    wanted = [torch.quantile(death_times(x[labels == c]), torch.tensor(q)) for c in (5, 6, 7)]
    close(found, torch.stack(wanted))
    close(death_time_quantiles(x[labels == 6], quantiles=q), found[1:2])
    assert not death_time_quantiles(x.requires_grad_()).requires_grad


def test_quantiles_of_smaller_clouds_are_longer():
    x = cloud(200, 3)
    labels = torch.arange(200) % 2
    small = death_time_quantiles(x, labels, samples_per_class=8)
    assert (small[:, 1:] > death_time_quantiles(x, labels)[:, 1:]).all()
    draws = [
        death_time_quantiles(
            x, labels, samples_per_class=8, generator=torch.Generator().manual_seed(s)
        )
        for s in (0, 0, 1)
    ]
    close(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.tensor([0, 0, 0, 4, 5])}, r"at least 2 .* 4 \(1\), 5 \(1\)"),
        ({"samples_per_class": 6}, r"at least 6 .* 0 \(5\)"),
        ({"samples_per_class": 1}, "`samples_per_class`"),
        ({"quantiles": (0.5, 1.5)}, "`quantiles`"),
        ({"quantiles": []}, "`quantiles` must be a sequence of numbers"),
        ({"quantiles": 0.5}, "`quantiles` must be a sequence of numbers"),
        ({"metric": "precomputed"}, "`metric`"),
        ({"labels": torch.zeros(4).long()}, "`labels`"),
    ],
)
def test_bad_questions(options, message):
    with pytest.raises(ValueError, match=message):
        death_time_quantiles(torch.ones(5, 2), **options)
