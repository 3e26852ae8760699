"""The bound on the concentration of mass."""

import pytest
import torch
from scipy.stats import multinomial

from relreps import mass_concentration_bound
from tests.topo_loss._clouds import close


def disconnected(p, q, b, width):
    """The sum over all outcomes, by SciPy."""
    return sum(
        multinomial.pmf((u, b - u - w, w), b, (p, q - p, 1 - q))
        for u in range(1, b)
        for w in range(1, b - u + 1)
        if b - u - w < width
    )


def test_the_mass_bound_of_the_paper():
    """Published setting (b = 16), least mass on a grid of 20000 points."""
    p = torch.tensor([0.2, 0.2, 0.2, 0.05, 0.4], dtype=torch.float64)
    c = torch.tensor([0.9, 0.9, 0.99, 0.9, 0.9], dtype=torch.float64)
    wanted = torch.tensor([0.3332, 0.6386, 0.7690, 0.4586, 0.8379], dtype=torch.float64)
    bounds = torch.stack([mass_concentration_bound(p, 16, width, c) for width in (1, 5)])
    found = torch.cat((bounds[0, :1], bounds[1, 1:]))
    close(found, wanted, atol=1e-4, rtol=0)
    assert mass_concentration_bound(0.2, 16, 5, 0.9) == found[1]


@pytest.mark.parametrize(
    ("p", "b", "width", "c"), [(0.1, 5, 2, 0.8), (0.3, 9, 12, 0.95), (0.5, 3, 1, 0.5)]
)
def test_the_mass_bound_is_where_the_sum_meets_the_level(p, b, width, c):
    q = mass_concentration_bound(p, b, width, c).item()
    assert p <= q <= 1
    assert disconnected(p, q, b, width) == pytest.approx(1 - c, rel=1e-9)


def test_the_mass_bound_at_its_edges():
    assert mass_concentration_bound(0.3, 16, 5, 0.0) == 0.3  # nothing is known
    assert mass_concentration_bound(0.3, 16, 5, 1.0) == pytest.approx(1)
    assert mass_concentration_bound(0.0, 16, 5, 0.9) == 0
    assert mass_concentration_bound(1.0, 16, 5, 0.9) == 1
    assert mass_concentration_bound(0.3, 1, 5, 0.9) == 0.3  # one point is connected
    p = torch.linspace(0, 1, 11).view(1, 11)
    c = torch.tensor([[0.5], [0.9], [0.999]])
    bounds = mass_concentration_bound(p, 16, 3, c)
    assert bounds.shape == (3, 11)
    assert bounds.dtype == torch.float64
    assert (bounds.diff(dim=0) >= 0).all()
    assert (bounds >= p.double() - 1e-12).all()
    assert mass_concentration_bound(1e-6, 4000, 500, 0.999).isfinite()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.5, 16, 5, 0.9), "p"),
        ((torch.tensor([0.2, -0.1]), 16, 5, 0.9), "p"),
        ((0.2, 0, 5, 0.9), "b"),
        ((0.2, 16, 0, 0.9), "l"),
        ((0.2, 16, 5, 1.1), "c"),
    ],
)
def test_bad_bounds(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        mass_concentration_bound(*arguments)
