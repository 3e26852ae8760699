"""What is done to moved rows at the end: the spread of the target restored, rows of length one."""

import warnings

import pytest
import torch

from relreps import (
    AffineTranslator,
    CCATranslator,
    LinearTranslator,
    LOrthoTranslator,
    NumericalWarning,
    ProcrustesTranslator,
    RefinedProcrustesTranslator,
)
from relreps.normalization import unit_norm
from relreps.parity import SGDAffineTranslator
from relreps.translate import (
    PermutationTranslator,
    ProcrustesRidgeTranslator,
    RCSLSTranslator,
    ReducedRankTranslator,
    WhitenedTranslator,
)
from tests._data import normal, orthogonal

close = torch.testing.assert_close

MATRICES = {
    "procrustes": ProcrustesTranslator,
    "procrustes-standard": lambda d, e, **o: ProcrustesTranslator(d, e, pre="standard", **o),
    "procrustes-none": lambda d, e, **o: ProcrustesTranslator(d, e, pre=None, **o),
    "l-ortho": LOrthoTranslator,
    "permutation": PermutationTranslator,
    "rcsls": lambda d, e, **o: RCSLSTranslator(d, e, max_iterations=2, **o),
    "sgd": lambda d, e, **o: SGDAffineTranslator(d, e, max_iterations=2, **o),
}
SHRINKING = {
    "affine": AffineTranslator,
    "affine-ridge": lambda d, e, **o: AffineTranslator(d, e, ridge=1.0, **o),
    "affine-standard": lambda d, e, **o: AffineTranslator(d, e, ridge=1.0, pre="standard", **o),
    "linear": lambda d, e, **o: LinearTranslator(d, e, ridge=1.0, **o),
    "linear-unit": lambda d, e, **o: LinearTranslator(d, e, ridge=1.0, pre="unit", **o),
    "procrustes-ridge": ProcrustesRidgeTranslator,
    "reduced-rank": lambda d, e, **o: ReducedRankTranslator(d, e, 3, **o),
    "cca": lambda d, e, **o: CCATranslator(d, e, ridge=0.1, **o),
    "whitened": lambda d, e, **o: WhitenedTranslator(d, e, ridge=0.1, **o),
}
each_matrix = pytest.mark.parametrize(
    "make", (MATRICES | SHRINKING).values(), ids=MATRICES | SHRINKING
)
each_shrinking = pytest.mark.parametrize("make", SHRINKING.values(), ids=SHRINKING)


def pairs(n=80, d=6, e=5, noise=1.0):
    x = normal(n, d) @ normal(d, d) + 3
    return x, x @ normal(d, e) + 2 + noise * normal(n, e)


def fit(make, x, y, weights=None, **options):
    """A fitted map; the start of the one that has a random start is the same each time."""
    torch.manual_seed(5)
    t = make(x.shape[1], y.shape[1], **options).double()
    return t.fit(x, y) if weights is None else t.fit(x, y, weights)


@each_matrix
def test_post_unit_is_the_direction_of_what_is_moved(make):
    x, y = pairs()
    plain, unit = fit(make, x, y), fit(make, x, y, post="unit")
    close(unit(x), unit_norm(plain(x)))
    close(unit(x.float()), unit_norm(plain(x)).float(), atol=1e-5, rtol=0)
    close(unit(x).norm(dim=1), torch.ones(80).double())
    fresh = make(6, 5, post="unit").double()
    fresh.load_state_dict(unit.state_dict())
    close(fresh(x), unit(x), atol=0, rtol=0)
    assert "post='unit'" in repr(unit)


@each_shrinking
@pytest.mark.parametrize("weighted", [False, True])
def test_rescale_puts_rows_as_far_from_the_mean_as_the_target_has_them(make, weighted):
    x, y = pairs()
    w = torch.rand(80).double() + 0.1 if weighted else None
    plain, t = fit(make, x, y, w), fit(make, x, y, w, rescale=True)
    centre, lengths, target = t.mean_y, torch.ones(80).double(), y
    if t.pre == "unit":  # rows of length one, and then of the average length
        lengths = y.norm(dim=1)
        target = unit_norm(y)
    share = torch.full((80,), 1 / 80).double() if w is None else w / w.sum()
    rho = (share @ (target - centre).square().sum(1)).sqrt()
    rho = rho * (share @ lengths)
    close((t(x) - centre).norm(dim=1), rho.expand(80))
    close(unit_norm(t(x) - centre), unit_norm(plain(x) - centre))
    both = fit(make, x, y, w, rescale=True, post="unit")
    close(both(x), unit_norm(t(x)))


@each_shrinking
def test_rescale_follows_from_moments(make):
    x, y = pairs()
    t = make(6, 5, rescale=True).double()
    for some in (slice(0, 30), slice(30, 80)):
        t.partial_fit(x[some], y[some])
    close(t.solve()(x), fit(make, x, y, rescale=True)(x))


def test_the_inverse_gives_back_the_direction_from_the_mean():
    x = normal(50, 4) + 2
    t = fit(AffineTranslator, x, x @ normal(4, 4) + 1, rescale=True)
    close(unit_norm(t.inverse(t(x)) - x.mean(0)), unit_norm(x - x.mean(0)))


def test_a_row_at_the_mean_stays_there():
    x, y = pairs()
    t = fit(AffineTranslator, x, y, rescale=True)
    at = t.mean_x[None].clone().requires_grad_()
    close(t(at)[0], y.mean(0))
    t(at).sum().backward()
    assert at.grad.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_moved_and_fresh_rows_of_one_index_are_found_alike(seed):
    """Half of an index is moved by ridge, the other half encoded afresh; the truth is one half."""
    torch.manual_seed(seed)
    z = normal(1000, 40) * torch.arange(1, 41).double() ** -0.5
    x = z @ orthogonal(40, 40) + 0.3 * normal(1000, 40)
    y = unit_norm(z @ orthogonal(40, 40) + 0.3 * normal(1000, 40) + 0.7)  # narrow, as encoders are
    queries, n = y[800:], 60
    truth = (queries @ y[:800].mT).topk(10).indices

    def found(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            t = fit(AffineTranslator, x[:n], y[:n], ridge="gcv", post="unit", **options)
        index = torch.cat((t(x[:400]), y[400:800]))
        near = (queries @ index.mT).topk(10).indices
        hits = (near[:, :, None] == truth[:, None, :]).any(2).double().mean()
        return float((near >= 400).double().mean()), float(hits)

    plain, rescaled = found(), found(rescale=True)
    assert abs(rescaled[0] - 0.5) < 0.2 < abs(plain[0] - 0.5)
    assert rescaled[1] > plain[1]


# Targets of length one


def unit_pairs(noise=0.3):
    x, _ = pairs(d=5)
    return x, unit_norm(x @ orthogonal(5, 5) + noise * normal(80, 5))


@each_matrix
def test_lost_lengths_are_said_once(make):
    x, y = unit_pairs()
    for rows in (y, y.float(), unit_norm(y.half())):
        if make(5, 5).pre == "unit" and make is SHRINKING["linear-unit"]:
            continue
        with pytest.warns(NumericalWarning, match=r"rows of `y` have length one.*post='unit'") as w:
            fit(make, x.to(rows.dtype), rows)
        assert len(w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(make, x, y, post="unit")
        fit(make, x, 1.2 * y)
        fit(make, x, torch.cat((2 * y[:40], 1e-3 * y[40:])) / 2**0.5)  # one in the mean square


def test_lengths_that_are_kept_are_not_spoken_of():
    x = unit_norm(normal(80, 5))
    y = x @ orthogonal(5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProcrustesTranslator(5, 5).double().fit(x, y)
        ProcrustesTranslator(5, 5, pre="unit").double().fit(3 * x, y + 0.1 * y.flip(0) * 0)


def test_pairs_that_are_found_have_the_option():
    x = unit_norm(normal(200, 4))
    y = x.flip(1)
    seeds = torch.arange(8), torch.arange(8)
    t = RefinedProcrustesTranslator(4, 4, post="unit").double().fit(x, y, seeds)
    close(t(2 * x).norm(dim=1), torch.ones(200).double())
    assert t.post == "unit"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"post": "units"}, "`post` must be one of None, 'unit', got 'units'. Did you mean 'unit'"),
        ({"rescale": "yes"}, "`rescale` must be one of False, True, got 'yes'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AffineTranslator(3, 3, **options)
