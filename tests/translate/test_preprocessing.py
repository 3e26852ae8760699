"""The pre-processing of a translator is a normaliser: its name, or one that is made."""

import pytest
import torch

from relreps import (
    AffineTranslator,
    CCATranslator,
    Center,
    IsotropicScale,
    LinearTranslator,
    Moments,
    NormalizerChain,
    ProcrustesTranslator,
    StandardScale,
    Translator,
    UnitNorm,
    Whiten,
)
from relreps.parity import SGDAffineTranslator
from relreps.translate import MatrixTranslator, Solution, WhitenedTranslator

close = torch.testing.assert_close
N, D, E = 60, 6, 4


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def pairs():
    x = normal(N, D) * torch.tensor([1.0, 3, 0.2, 1, 10, 0.5]).double() + 4
    return x, x @ normal(D, E) + 0.3 * normal(N, E) - 2


PRES = {
    "center": lambda d: Center(d),
    "standard": lambda d: StandardScale(d),
    "isotropic": lambda d: IsotropicScale(d),
    "whiten": lambda d: Whiten(d),
    "whiten-shrunk": lambda d: Whiten(d, shrinkage=0.3),
    "unit-center": lambda d: NormalizerChain(UnitNorm(), Center(d)),
    "unit-whiten": lambda d: NormalizerChain(UnitNorm(), Whiten(d, shrinkage=0.1)),
    "standard-whiten": lambda d: NormalizerChain(StandardScale(d), Whiten(d, shrinkage=0.5)),
    "isotropic-standard": lambda d: NormalizerChain(IsotropicScale(d), StandardScale(d)),
}
each_pre = pytest.mark.parametrize("make", PRES.values(), ids=PRES)
KINDS = {
    "procrustes": ProcrustesTranslator,
    "affine": AffineTranslator,
    "ridge": lambda d, e, pre: AffineTranslator(d, e, ridge=0.1, pre=pre),
    "gcv": lambda d, e, pre: AffineTranslator(d, e, ridge="gcv", pre=pre),
    "loo": lambda d, e, pre: AffineTranslator(d, e, ridge="loo", pre=pre),
    "cca": CCATranslator,
    "whitened": WhitenedTranslator,
}


@each_pre
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_is_the_map_between_spaces_normalised_by_hand(kind, make, pairs):
    """Fitted between normalised rows without pre-processing, and put back by hand."""
    x, y = pairs
    source, target = make(D).double().fit(x), make(E).double().fit(y)
    inner = kind(D, E, pre="center").double().fit(source(x), target(y))
    moved = inner(source(x))
    if isinstance(target, NormalizerChain) and target.unit_rows:  # lengths are the average one
        moved = list(target)[1].inverse(moved) * y.norm(dim=1).mean()
    else:
        moved = target.inverse(moved)
    if isinstance(inner, AffineTranslator) and inner.ridge in ("gcv", "loo"):
        chosen = kind(D, E, pre=make(D)).double().fit(x, y)
        wanted = AffineTranslator(D, E, ridge=float(chosen.penalty), pre=make(D)).double()
        close(chosen(x), wanted.fit(x, y)(x))
    else:
        close(kind(D, E, pre=make(D)).double().fit(x, y)(x), moved)


@pytest.mark.parametrize("name", ["center", "standard"])
def test_a_name_stands_for_a_normaliser(name, pairs):
    made = {"center": Center, "standard": StandardScale}[name](D)
    for ridge in (0.0, "gcv", "loo"):
        by_name, by_object = (
            AffineTranslator(D, E, ridge=ridge, pre=pre).double().fit(*pairs)
            for pre in (name, made)
        )
        close(by_name(pairs[0]), by_object(pairs[0]))
    close(
        LinearTranslator(D, E, pre="unit").double().fit(*pairs)(pairs[0]),
        LinearTranslator(D, E, pre=UnitNorm()).double().fit(*pairs)(pairs[0]),
    )
    assert not made._fitted  # each side has statistics of its own


@each_pre
def test_in_chunks_from_moments_and_through_a_checkpoint(make, pairs):
    x, y = pairs
    whole = ProcrustesTranslator(D, E, scale="norm", pre=make(D)).double().fit(x, y)
    parts = ProcrustesTranslator(D, E, scale="norm", pre=make(D)).double()
    for rows in (slice(0, 7), slice(7, 7), slice(7, N)):
        parts.partial_fit(x[rows], y[rows])
    close(parts.solve()(x), whole(x))
    if not make(D).unit_rows:
        moments = Moments(D, E, exact=True).update(x, y)
        solved = ProcrustesTranslator(D, E, scale="norm", pre=make(D)).double().solve(moments)
        close(solved(x), whole(x))
    fresh = ProcrustesTranslator(D, E, scale="norm", pre=make(D)).double()
    fresh.load_state_dict(whole.state_dict())
    close(fresh(x), whole(x), atol=0, rtol=0)
    close(fresh(fresh.inverse(y)), y if not make(D).unit_rows else fresh(fresh.inverse(y)))


def test_what_has_no_inverse_covariance_is_refused_by_its_side(pairs):
    x, y = pairs
    flat = torch.cat((y[:, :3], y[:, :1] + y[:, 1:2]), 1)
    t = ProcrustesTranslator(D, E, pre=Whiten(D)).double().fit(x, y)
    before = {name: value.clone() for name, value in t.state_dict().items()}
    with pytest.raises(ValueError, match=r"`y` must vary in all 4 directions to be whitened"):
        t.fit(x, flat)
    close(t.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AffineTranslator(D, E, pre=UnitNorm()), "`pre` must subtract the mean for Affine"),
        (lambda: LinearTranslator(D, E, pre=Center(D)), "`pre` must leave the origin where it is"),
        (lambda: ProcrustesTranslator(D, E, pre=Whiten(E)), "`pre` has in_features=4, the map 6"),
        (lambda: SGDAffineTranslator(D, E, pre=None), "`pre` must be one of 'center', 'standard'"),
        (
            lambda: ProcrustesTranslator(D, E, pre=NormalizerChain(Center(D), UnitNorm())),
            "only its first part may be `UnitNorm`",
        ),
    ],
)
def test_a_normaliser_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_class_of_a_normaliser_is_told_from_an_instance():
    with pytest.raises(TypeError, match=r"`pre` must be .* got the class Center.*Center\(6\)"):
        ProcrustesTranslator(D, E, pre=Center)


def test_a_translator_of_ones_own_is_ten_lines(pairs):
    class Diagonal(MatrixTranslator):
        """Each feature by a factor of its own."""

        def solution(self, problem):
            xx, xy, _ = problem.moments.scatters
            return Solution(torch.diag(xy.diagonal() / xx))

    x = pairs[0]
    t = Diagonal(D, D).double().fit(x, 2 * x + 1)
    close(t(x), 2 * x + 1)
    close(t.inverse(t(x)), x)
    spread = ((x - x.mean(0)).square().sum(1).mean()).sqrt() * 2
    scaled = Diagonal(D, D, rescale=True).double().fit(x, 2 * x + 1)
    close((scaled(x) - scaled.mean_y).norm(dim=1), spread.expand(N))
    assert isinstance(t, Translator)
    assert repr(t) == "Diagonal(6, 6, pre='center', post=None, rescale=None)"
