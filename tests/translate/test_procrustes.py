"""Translation: planted maps are found again, outside oracles agree, and bad pairs are refused."""

import warnings

import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch.autograd import gradcheck

from relreps import (
    AffineTranslator,
    FunctionalMapTranslator,
    GeneralizedProcrustes,
    InverseRelativeTranslator,
    NumericalWarning,
    ProcrustesTranslator,
    RefinedProcrustesTranslator,
    TransportTranslator,
    linear_map,
    procrustes,
)
from relreps.correspondence import functional_map
from relreps.parity import SGDAffineTranslator
from relreps.translate import PermutationTranslator, RCSLSTranslator

close = torch.testing.assert_close
SCALES = ["none", "umeyama", "norm"]
PRES = ["center", "standard", "unit", None]
WIDTHS = [(6, 6), (4, 7), (7, 4)]
each_scale = pytest.mark.parametrize("scale", SCALES)
each_pre = pytest.mark.parametrize("pre", PRES)
each_width = pytest.mark.parametrize("widths", WIDTHS, ids=str)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def orthogonal(rows, columns):
    """A random matrix with orthonormal rows or columns."""
    q = torch.linalg.qr(normal(max(rows, columns), max(rows, columns))).Q
    return q[:rows, :columns]


def planted(dx=6, dy=6, n=40, scale=1.0, noise=0.0):
    """Pairs that differ by a rotation, a shift and a scale, with noise on y; and the rotation."""
    x, shift, r = normal(n, dx) + 3, 5 * normal(dy), orthogonal(dx, dy)
    y = scale * ((x - x.mean(0)) @ r + shift)
    return x, y + noise * normal(n, dy), r


def translator(x, y, **options):
    return ProcrustesTranslator(x.shape[1], y.shape[1], **options).double()


def fitted(x, y, weights=None, **options):
    return translator(x, y, **options).fit(x, y, weights)


# procrustes


@pytest.mark.parametrize("sides", [(5, 5), (3, 5), (5, 3)], ids=str)
def test_procrustes_is_the_best_of_all_orthogonal_maps(sides):
    x, y = normal(20, sides[0]), normal(20, sides[1])
    r = procrustes(x, y)
    assert all((r * (x.mT @ y)).sum() >= (orthogonal(*sides) * (x.mT @ y)).sum() for _ in range(50))


def test_procrustes_is_that_of_scipy():
    x, y = normal(20, 5), normal(20, 5)
    oracle, _ = scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())
    close(procrustes(x, y), torch.from_numpy(oracle))


@pytest.mark.parametrize("sides", [(3, 5), (5, 3)], ids=str)
def test_procrustes_of_different_widths_is_zero_padding_cropped(sides):
    x, y = normal(20, sides[0]), normal(20, sides[1])
    padded = (torch.nn.functional.pad(side, (0, 5 - side.shape[1])) for side in (x, y))
    oracle, _ = scipy.linalg.orthogonal_procrustes(*(side.numpy() for side in padded))
    close(procrustes(x, y), torch.from_numpy(oracle)[: sides[0], : sides[1]])


@pytest.mark.parametrize("size_x", [1e-40, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("size_y", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("sides", [(5, 5), (3, 5), (5, 3)], ids=str)
def test_procrustes_does_not_depend_on_sizes(size_x, size_y, sides):
    """The squares of these are no float32 numbers, and some of them are subnormal themselves."""
    x, y = normal(20, sides[0]).float(), normal(20, sides[1]).float()
    coarse = 2e-4 if size_x < 1e-38 else 1e-6  # what subnormal numbers hold
    close(procrustes(size_x * x, size_y * y), procrustes(x, y), atol=10 * coarse, rtol=0)
    wide = procrustes(x.double() * 1e-200, y.double() * 1e200)
    close(wide, procrustes(x.double(), y.double()))


def test_one_extreme_row_leaves_the_others_their_say():
    x, y = normal(200, 6).float(), normal(200, 6).float()
    y = x @ orthogonal(6, 6).float() + 0.1 * y
    x[0], y[0] = 1e4 * x[0], 1e4 * y[0]
    close(procrustes(x, y).double(), procrustes(x.double(), y.double()), atol=1e-5, rtol=0)


def test_no_features_have_a_map_without_entries():
    for dx, dy in ((0, 3), (3, 0), (0, 0)):
        assert procrustes(torch.ones(4, dx), torch.ones(4, dy)).shape == (dx, dy)
        assert linear_map(torch.ones(4, dx), torch.ones(4, dy)).shape == (dx, dy)


@pytest.mark.parametrize("sides", [(4, 2), (5, 3), (7, 1), (6, 5)], ids=str)
def test_the_minimum_of_unequal_widths_is_that_of_a_search(sides):
    """Against a descent along the tangents of the manifold, from many starts."""
    x = normal(40, sides[0]) * torch.linspace(2, 0.3, sides[0])
    y = 0.5 * x @ normal(*sides) + normal(40, sides[1])

    def error(r):
        return (x @ r - y).square().sum()

    def searched():
        free = normal(*sides).requires_grad_()
        steps = torch.optim.LBFGS([free], max_iter=300, line_search_fn="strong_wolfe")

        def closure():
            steps.zero_grad()
            loss = error(torch.linalg.qr(free).Q)
            loss.backward()
            return loss

        steps.step(closure)
        return float(error(torch.linalg.qr(free.detach()).Q))

    r = procrustes(x, y, minimize=True)
    close(r.mT @ r, torch.eye(sides[1]).double())
    assert float(error(r)) <= min(searched() for _ in range(8)) * (1 + 1e-6)
    assert error(r) < error(procrustes(x, y))
    assert error(procrustes(x, y, minimize=True, max_iterations=1)) >= error(r)
    close(procrustes(1e3 * x, 1e3 * y, minimize=True), r)
    close(procrustes(x.float(), y.float(), minimize=True), r.float(), atol=1e-3, rtol=0)


def test_the_minimum_of_other_widths_is_the_closed_form():
    x, y = normal(40, 3), normal(40, 5)
    for a, b in ((x, y), (y, y.flip(1))):
        close(procrustes(a, b, minimize=True), procrustes(a, b), atol=0, rtol=0)
    r = procrustes(x, y)
    best = (x @ r - y).square().sum()
    assert all((x @ orthogonal(3, 5) - y).square().sum() >= best for _ in range(50))


def test_the_minimum_has_a_gradient():
    x = normal(20, 4).requires_grad_()
    procrustes(x, normal(20, 2), minimize=True).square().mul(torch.arange(2)).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


@pytest.mark.parametrize("tied", [False, True])
def test_procrustes_gradient(tied):
    x = orthogonal(8, 4) if tied else normal(8, 4)
    y = x @ orthogonal(4, 4) if tied else normal(8, 4)
    assert gradcheck(procrustes, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_procrustes_keeps_the_type(dtype):
    x, y = normal(20, 5), normal(20, 5)
    r = procrustes(x.to(dtype), y.to(dtype))
    assert r.dtype == dtype
    close(r.double(), procrustes(x, y), atol=0.05, rtol=0)
    assert procrustes(x.to(dtype), y).dtype == torch.float64


def test_procrustes_refuses_rows_that_are_not_finite():
    with pytest.raises(ValueError, match=r"`x` must be finite.*the first is row 2"):
        procrustes(normal(3, 2).index_fill(0, torch.tensor(2), torch.nan), normal(3, 2))


def test_procrustes_refuses_unpaired_rows():
    with pytest.raises(ValueError, match="paired row by row, got 3 and 4"):
        procrustes(normal(3, 2), normal(4, 2))


# What is recovered


@each_width
@pytest.mark.parametrize(
    ("scale", "planted_scale"), [("none", 1.0), ("umeyama", 3.0), ("umeyama", 1e-6), ("norm", 3.0)]
)
def test_a_planted_map_is_recovered(widths, scale, planted_scale):
    x, y, r = planted(*widths, scale=planted_scale)
    if widths[0] > widths[1]:  # what the map drops has to be absent, or it is correlated by chance
        x = x @ r @ r.mT
        y = planted_scale * (x - x.mean(0)) @ r + y.mean(0)
    t = fitted(x, y, scale=scale)
    close(t(x), y, atol=1e-10, rtol=1e-10)
    assert int(t.rank) == min(widths)
    if widths[0] <= widths[1]:
        close(t.rotation, r, atol=1e-10, rtol=0)
        close(t.scaling, torch.tensor(planted_scale).double())


def test_unit_rows_are_recovered_up_to_their_length():
    x, r = normal(40, 6), orthogonal(6, 6)
    y = 3 * x @ r * (0.1 + torch.rand(40, 1, dtype=torch.float64))
    t = fitted(x, y, pre="unit")
    cosine = torch.nn.functional.cosine_similarity(t(x), y)
    close(cosine, torch.ones_like(cosine))
    close(t(x).norm(dim=1), y.norm(dim=1).mean().expand(40))


def test_standardised_features_are_recovered_whatever_their_units():
    x, r = normal(40, 6), orthogonal(6, 6)
    x = (x - x.mean(0)) @ torch.linalg.cholesky(torch.linalg.inv(x.T.cov(correction=0)))
    units_x, units_y = 10 ** normal(6), 10 ** normal(6)
    y = x @ r * units_y + 7
    close(fitted(x * units_x + 5, y, pre="standard")(x * units_x + 5), y)


def test_without_pre_processing_the_origin_stays():
    x, y, _ = planted()
    t = fitted(x, y, pre=None)
    assert (t(torch.zeros(1, 6, dtype=torch.float64)) == 0).all()
    close(t.rotation, procrustes(x, y))


def test_reflections_are_a_choice():
    x = normal(40, 3)
    y = x * torch.tensor([1.0, 1.0, -1.0])
    free, proper = (fitted(x, y, allow_reflection=allow) for allow in (True, False))
    close(free(x), y)
    close(torch.linalg.det(free.rotation), -torch.ones_like(free.scaling))
    close(torch.linalg.det(proper.rotation), torch.ones_like(proper.scaling))
    assert (proper(x) - y).norm() > 0.1 * y.norm()
    rotated = x @ orthogonal(3, 3)
    rotated[:, 0] *= torch.linalg.det(procrustes(x, rotated)).sign()
    close(fitted(x, rotated, allow_reflection=False)(x), rotated)


# Scale


@each_width
@pytest.mark.parametrize("allow_reflection", [True, False])
@pytest.mark.parametrize("pre", ["center", None])
def test_umeyama_is_the_least_squares_scale(widths, allow_reflection, pre):
    if not allow_reflection:
        widths = (widths[0], widths[0])
    x, y, _ = planted(*widths, scale=2.0, noise=1.0)
    t = fitted(x, y, scale="umeyama", pre=pre, allow_reflection=allow_reflection)
    rotation = t.rotation

    def error(s):
        t.matrix.copy_(s * rotation)
        return float((t(x) - y).square().sum())

    found = float(t.scaling)
    assert found == pytest.approx(scipy.optimize.minimize_scalar(error).x, rel=1e-6)


def test_umeyama_shrinks_under_noise_and_norm_does_not():
    y, x, _ = planted(n=2000, noise=2.0)  # x is y turned, with variance 5 for 1
    assert float(fitted(x, y, scale="umeyama").scaling) == pytest.approx(1 / 5, rel=0.1)
    assert float(fitted(x, y, scale="norm").scaling) == pytest.approx(1 / 5**0.5, rel=0.1)


@each_width
@pytest.mark.parametrize("pre", ["center", None])
def test_norm_keeps_the_mean_square_length(widths, pre):
    x, y, _ = planted(*widths, scale=2.0, noise=1.0)
    t = fitted(x, y, scale="norm", pre=pre)
    origin = 0 if pre is None else y.mean(0)
    close((t(x) - origin).square().sum(), (y - origin).square().sum())


def test_umeyama_refuses_a_mirror_image_when_only_rotations_are_allowed():
    x = normal(10, 1)
    t = translator(x, x, scale="umeyama", allow_reflection=False)
    with pytest.raises(ValueError, match=r"`scale='umeyama'` finds no positive scale.*reflections"):
        t.fit(x, -x)


# Inverse


@each_width
@each_scale
@each_pre
def test_inverse(widths, scale, pre):
    x, y, _ = planted(*widths, scale=2.0, noise=0.3)
    t = fitted(x, y, scale=scale, pre=pre)

    def same(a, b):
        if pre == "unit":
            a, b = (torch.nn.functional.normalize(side) for side in (a, b))
        close(a, b)

    if widths[0] <= widths[1]:
        same(t.inverse(t(x)), x)
    if widths[0] >= widths[1]:
        same(t(t.inverse(y)), y)
    if widths[0] > widths[1]:
        origin = t.inverse(t.mean_y)
        units = [side.std(0, correction=0) if pre == "standard" else 1 for side in (x, y)]
        shortest = (t.inverse(y) - origin) / units[0]
        rotation = (t.rotation.mT * units[0]).mT / units[1]
        dropped = torch.linalg.svd(rotation).U[:, widths[1] :]
        close(shortest @ dropped, torch.zeros(len(x), widths[0] - widths[1]).double())


def test_there_and_back_between_real_widths():
    z, wide, narrow = normal(1000, 32), normal(32, 768), normal(32, 384)
    x, y = z @ narrow, z @ wide
    with pytest.warns(NumericalWarning, match="1000 pairs determine 32 of 384 directions"):
        t = fitted(x, y, scale="umeyama")
    close(t.inverse(t(x)), x)
    close(t(normal(5, 384)).shape, torch.Size([5, 768]))
    assert (t(x) - y).norm() < 0.5 * (y - y.mean(0)).norm()
    with pytest.warns(NumericalWarning, match="32 of 384"):
        back = fitted(y, x, scale="norm")
    close((back(y) - x.mean(0)).norm(), (x - x.mean(0)).norm())


# Weights


@each_pre
@each_scale
def test_integer_weights_are_repeated_pairs(pre, scale):
    x, y, _ = planted(noise=0.5)
    weights = torch.randint(1, 4, (len(x),))
    t = fitted(x, y, weights.double(), pre=pre, scale=scale)
    repeated = fitted(*(s.repeat_interleave(weights, 0) for s in (x, y)), pre=pre, scale=scale)
    close(t(x), repeated(x))


@each_pre
def test_pairs_of_weight_zero_do_not_count(pre):
    x, y, _ = planted(noise=0.5)
    weights = (torch.arange(len(x)) < 30).double()
    t = fitted(torch.where(weights[:, None] > 0, x, 99.0), y, weights, pre=pre, scale="umeyama")
    close(t(x), fitted(x[:30], y[:30], pre=pre, scale="umeyama")(x))


# Ugly data


@each_width
def test_float32_far_from_the_origin_fits_as_well_as_centred(widths):
    x, y, _ = planted(*widths, noise=0.1)
    x, y = x.float() - x.float().mean(0), y.float() - y.float().mean(0)
    far = ProcrustesTranslator(*widths).fit(x + 1000, y - 1000)
    near = ProcrustesTranslator(*widths).fit(x, y)
    close(far.rotation, near.rotation, atol=1e-4, rtol=0)
    close(far(x + 1000) + 1000, near(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_units_do_not_matter(size):
    x, y, _ = planted(scale=2.0)
    t = ProcrustesTranslator(6, 6, scale="umeyama").fit((x * size).float(), y.float())
    close(t((x * size).float()), y.float(), atol=1e-4, rtol=0)


@each_scale
@pytest.mark.parametrize("pre", ["center", "unit", None])
@pytest.mark.parametrize("complete", [False, True])
def test_few_pairs_are_finite_bounded_and_warned_about(pre, scale, complete):
    x, y, _ = planted(40, 40, n=5)
    rank = 4 if pre == "center" else 5
    with pytest.warns(NumericalWarning, match=f"5 pairs determine {rank} of 40") as caught:
        t = fitted(x, y, pre=pre, scale=scale, complete=complete)
    assert caught[0].filename == __file__
    assert int(t.rank) == rank
    kept = torch.linalg.svdvals(t.rotation)
    wanted = (torch.arange(40) < (40 if complete else rank)).double()
    close(kept, wanted, atol=1e-10, rtol=0)
    assert t(normal(100, 40)).abs().max() < 10 * y.abs().max()


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_rounding_far_from_the_origin_is_no_direction(offset):
    x, y = normal(300, 3) @ normal(3, 64), normal(300, 3) @ normal(3, 64)
    with pytest.warns(NumericalWarning, match="determine 3 of 64"):
        t = ProcrustesTranslator(64, 64).fit(x.float() + offset, y.float() - offset)
    assert t.rank == 3
    close(torch.linalg.svdvals(t.rotation), (torch.arange(64) < 3).float(), atol=1e-5, rtol=0)


def test_weak_directions_of_both_sides_count():
    """Spreads of 3e-4 are far above what float32 rounds, their product of 1e-7 is not."""
    spread = torch.logspace(0, -3.5, 6)
    x = normal(300, 6).float() * spread
    q = torch.linalg.qr(normal(6, 6)).Q.float()
    t = ProcrustesTranslator(6, 6).fit(x, x @ q)
    assert t.rank == 6
    close(t.rotation, q, atol=1e-3, rtol=0)


def test_enough_pairs_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(*planted()[:2])


def test_directions_without_pairs_stay_as_they_are():
    """Features that are dead in both spaces map to themselves, not to an arbitrary mixture."""
    x, y, _ = planted(3, 3)
    dead = torch.full((40, 2), 7.0).double()
    with pytest.warns(NumericalWarning, match="3 of 5"):
        t = fitted(torch.cat((x, dead), 1), torch.cat((y, dead), 1), scale="none", complete=True)
    new = normal(10, 5)
    close(t(new)[:, 3:], new[:, 3:])


@each_scale
@each_width
def test_directions_without_pairs_are_dropped(widths, scale):
    """What is left is the map of a basis of the span of the pairs: nothing is made up."""
    x, y, _ = planted(*widths, n=4, scale=2.0)
    with pytest.warns(NumericalWarning, match="4 pairs determine 3 of .*the others are dropped"):
        t = fitted(x, y, scale=scale)
    u = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:3].mT
    v = torch.linalg.svd(y - y.mean(0), full_matrices=False).Vh[:3].mT
    narrow = ProcrustesTranslator(3, 3, scale=scale).double().fit(x @ u, y @ v)
    new = normal(10, widths[0])
    close(t(new) - y.mean(0), (narrow(new @ u) - (y @ v).mean(0)) @ v.mT)
    close(t.inverse(t(new)), (new - x.mean(0)) @ u @ u.mT + x.mean(0))
    parts = translator(x, y, scale=scale).partial_fit(x[:2], y[:2]).partial_fit(x[2:], y[2:])
    with pytest.warns(NumericalWarning):
        close(parts.solve()(new), t(new))


def test_the_scale_is_that_of_the_directions_that_are_carried():
    """One side varies in more directions than the other: the moved pairs still have its length."""
    x, y, _ = planted(6, 6, noise=0.3)
    y = y @ torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]).double())
    for dropping in (fitted, lambda *s, **o: translator(*s, **o).partial_fit(*s).solve()):
        with pytest.warns(NumericalWarning, match="determine 3 of 6"):
            t = dropping(x, y)
        close((t(x) - y.mean(0)).square().sum(), (y - y.mean(0)).square().sum())


def test_few_rotations_need_no_reflection():
    """A map that drops directions can be completed to a rotation, whatever it carries."""
    x = normal(3, 5)
    y = x * torch.tensor([-1.0, 1, 1, 1, 1])
    with pytest.warns(NumericalWarning, match="2 of 5"):
        t = fitted(x, y, allow_reflection=False)
    close(t(x), y)


def test_moved_rows_of_another_size_are_found_by_default():
    """The scale of the target is restored, so that moved rows are near their partners."""
    x, y, _ = planted(8, 8, n=200, noise=0.5)
    moved = ProcrustesTranslator(8, 8).double().fit(x / 20, y)(x / 20)
    nearest = torch.cdist(moved, y).argmin(1)
    assert (nearest == torch.arange(200)).double().mean() > 0.5


@pytest.mark.parametrize("n", [8, 16])
def test_few_pairs_find_more_of_an_index_when_free_directions_are_dropped(n):
    """Moved rows are searched by new vectors: what no pair determines is noise in each of them."""
    z = normal(600, 60) * torch.arange(1, 61).double() ** -0.5
    x, y = z @ orthogonal(60, 60), z @ orthogonal(60, 60) + 0.02 * normal(600, 60)
    shares = []
    for complete in (False, True):
        with pytest.warns(NumericalWarning):
            t = fitted(x[:n], y[:n], complete=complete)
        first = torch.cdist(y, t(x)).argmin(1)
        shares.append(float((first == torch.arange(600))[n:].double().mean()))
    assert shares[0] > 1.3 * shares[1]


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.0])
def test_constant_features_standardise_to_the_mean_and_back(value):
    x, y, _ = planted()
    x, y = x.float(), y.float()
    x[:, 2], y[:, 4] = value, value
    with pytest.warns(NumericalWarning, match="5 of 6"):
        t = ProcrustesTranslator(6, 6, pre="standard").fit(x, y)
    out = t(x + torch.eye(6)[2])
    close(out, t(x))
    close(out[:, 4], torch.full((40,), value))
    close(t.inverse(t(x))[:, 2], torch.full((40,), value))


@each_pre
def test_a_zero_row_gives_finite_output_and_gradient(pre):
    x, y, _ = planted()
    t = fitted(x, y, pre=pre)
    zero = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    t(zero).sum().backward()
    assert t(zero).isfinite().all()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize(
    "change", ["all-equal", "nearly-equal", "one-pair", "one-weight", "unrelated"]
)
@pytest.mark.parametrize("pre", ["center", "standard"])
def test_pairs_that_determine_nothing(change, pre):
    x, y = planted()[:2]
    x, y = x.float() + 0.1, y.float() + 0.1
    weights = None
    if change == "all-equal":
        x = x[:1].expand(40, 6)
    elif change == "nearly-equal":  # as a network returns equal inputs, up to rounding
        x = x[:1] * (1 + 1e-7 * torch.randn(40, 6))
    elif change == "one-pair":
        x, y = x[:1], y[:1]
    elif change == "one-weight":
        weights = torch.zeros(40)
        weights[3] = 0.3
    else:  # x and y vary, but never together
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        x, y = (signs[:, i : i + 1] * row[:1] / 3 for i, row in enumerate((x, y)))
    with pytest.raises(ValueError, match=r"`x` and `y` must vary together.*rank 0.*two pairs"):
        ProcrustesTranslator(6, 6, pre=pre).fit(x, y, weights)


BAD = {
    "unpaired": (lambda x, y: (x[1:], y), ValueError, "paired row by row, got 39 and 40"),
    "x-width": (lambda x, y: (x[:, 1:], y), ValueError, r"`x` must have shape \(rows, 6\)"),
    "y-width": (lambda x, y: (x, y[:, 1:]), ValueError, r"`y` must have shape \(rows, 6\)"),
    "x-nan": (lambda x, y: (x.log(), y), ValueError, "`x` must be finite"),
    "y-infinite": (lambda x, y: (x, y / 0), ValueError, "`y` must be finite"),
    "integer": (lambda x, y: (x.long(), y), TypeError, "`x` must be a floating-point.*int64"),
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, r"at least 1 row\(s\), got 0"),
    "constant": (lambda x, y: (0 * x, y), ValueError, "rank 0"),
    "weights": (lambda x, y: (x, y, x[1:, 0].abs()), ValueError, "`weights` must have one entry"),
    "negative": (lambda x, y: (x, y, -x[:, 0].abs()), ValueError, "`weights` must be non-negative"),
    "zero": (lambda x, y: (x, y, 0 * x[:, 0]), ValueError, "at least one positive entry"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_a_failed_fit_leaves_the_module_as_it_was(change, error, message):
    x, y, _ = planted()
    t = fitted(x, y)
    before = {name: tensor.clone() for name, tensor in t.state_dict().items()}
    with pytest.raises(error, match=message):
        t.fit(*change(x - 3, y + 1))
    close(t.state_dict(), before, atol=0, rtol=0)
    new = translator(x, y)
    with pytest.raises(error, match=message):
        new.fit(*change(x - 3, y + 1))
    with pytest.raises(RuntimeError, match="no state yet"):
        new(x)


def test_a_warning_made_an_error_leaves_the_module_as_it_was():
    x, y, _ = planted(n=3)
    t = translator(x, y)
    with pytest.raises(NumericalWarning):
        t.fit(x, y)
    assert not t.fitted


@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_bad_calls(method):
    x, y, _ = planted()
    t = translator(x, y)
    with pytest.raises(RuntimeError, match=r"ProcrustesTranslator has no state yet. Call `fit"):
        getattr(t, method)(x)
    t.fit(x, y)
    with pytest.raises(ValueError, match=r"must have shape \(..., 6\), got \(40, 5\)"):
        getattr(t, method)(x[:, 1:])
    with pytest.raises(TypeError, match="must be a floating-point tensor"):
        getattr(t, method)(x.long())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scale": "umayama"}, ValueError, "`scale` must be one of .*Did you mean 'umeyama'"),
        ({"pre": "centre"}, ValueError, "`pre` must be one of .*Did you mean 'center'"),
        ({"in_features": 0}, ValueError, "`in_features` must be at least 1, got 0"),
        ({"out_features": 2.0}, TypeError, "`out_features` must be an int, got float"),
        ({"allow_reflection": False}, ValueError, "`allow_reflection=False` needs equal widths"),
    ],
)
def test_bad_constructor(arguments, error, message):
    with pytest.raises(error, match=message):
        ProcrustesTranslator(**{"in_features": 3, "out_features": 4, **arguments})


def test_repr_is_the_constructor_call():
    t = ProcrustesTranslator(3, 4, scale="norm", pre=None)
    assert repr(t) == (
        "ProcrustesTranslator(3, 4, scale='norm', allow_reflection=True, complete=False, "
        "pre=None, post=None)"
    )
    assert repr(eval(repr(t))) == repr(t)


# Promises of all of them

SEEDS = torch.arange(20), torch.arange(20)


def with_seeds(cls, **options):
    return lambda x, y, dtype: cls(6, 6, **options).to(dtype).fit(x, y, SEEDS)


def with_pairs(cls, *arguments, **options):
    return lambda x, y, dtype: cls(6, 6, *arguments, **options).to(dtype).fit(x, y)


FITTED = {
    "procrustes": with_pairs(ProcrustesTranslator, scale="umeyama"),
    "affine": with_pairs(AffineTranslator),
    "sgd": with_pairs(SGDAffineTranslator, max_iterations=20),
    "permutation": with_pairs(PermutationTranslator),
    "rcsls": with_pairs(RCSLSTranslator, max_iterations=3),
    "relative": with_pairs(InverseRelativeTranslator, 90),
    "relative-source": with_pairs(InverseRelativeTranslator, 90, rescale="source"),
    "refined": with_seeds(RefinedProcrustesTranslator),
    "transport": with_seeds(TransportTranslator),
    "functional": with_seeds(FunctionalMapTranslator, num_functions=20, k=20),
    "generalized": lambda x, y, dtype: GeneralizedProcrustes([6, 6], 6).to(dtype).fit([x, y]),
}
each_class = pytest.mark.parametrize("fit", FITTED.values(), ids=FITTED)


def moved(t, x):
    return t.translate(x, 0, 1) if isinstance(t, GeneralizedProcrustes) else t(x)


@each_class
def test_autocast_and_inference_mode_change_nothing(fit):
    x, y = (side.float() for side in planted(n=90, noise=0.1)[:2])
    modes = (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode(),
    )
    torch.manual_seed(1)
    wanted = fit(x, y, torch.float32)
    for mode in modes:
        torch.manual_seed(1)
        with mode:
            inside = fit(x, y, torch.float32)
            close(moved(inside, x), moved(wanted, x))
        close(inside.state_dict(), wanted.state_dict())


@pytest.mark.parametrize(
    "function",
    [procrustes, linear_map, lambda a, b: functional_map(a, b, *torch.rand(2, len(a)), alpha=0.5)],
)
def test_autocast_spoils_no_function(function):
    x, y = torch.randn(8, 5), torch.randn(8, 5)
    torch.manual_seed(1)
    wanted = function(x, y)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(function(x, y), wanted)
    assert function(x, y.double()).dtype == torch.float64
    assert function(x.half(), y.half()).dtype == torch.float16


@each_class
@pytest.mark.parametrize("size", [1e6, 1e-9])
def test_what_half_precision_cannot_hold_is_said(fit, size):
    """Either the map is as good as half precision allows, or the error names what is lost."""
    x, y = (side.float() for side in planted(n=90, noise=0.01)[:2])
    for a, b in ((x, size * y), (size * x, y)):
        try:
            t = fit(a, b, torch.float16)
        except ValueError:
            with pytest.raises(ValueError, match=r"cannot keep `.*` in torch.float16"):
                fit(a, b, torch.float16)
        else:
            wanted = moved(fit(a, b, torch.float64), a.double())
            close(moved(t, a).double(), wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)


@each_class
def test_rows_of_two_types(fit):
    x, y = planted(n=90, noise=0.1)[:2]
    torch.manual_seed(1)
    wanted = fit(x, y, torch.float64)
    for a, b in ((x.float(), y), (x, y.float())):
        torch.manual_seed(1)
        close(moved(fit(a, b, torch.float64), x), moved(wanted, x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("make", "saved", "wanted"),
    [
        (lambda pre: ProcrustesTranslator(6, 6, pre=pre), "standard", "center"),
        (lambda pre: ProcrustesTranslator(6, 6, pre=pre), None, "unit"),
        (lambda pre: AffineTranslator(6, 6, pre=pre), "center", "standard"),
        (lambda pre: RefinedProcrustesTranslator(6, 6, pre=pre), "unit", None),
        (lambda rescale: InverseRelativeTranslator(6, 6, 90, rescale=rescale), "source", "mean"),
        (lambda post: ProcrustesTranslator(6, 6, post=post), "unit", None),
        (lambda rescale: AffineTranslator(6, 6, rescale=rescale), True, False),
    ],
)
def test_the_state_of_another_option_is_refused(make, saved, wanted, strict):
    other = make(wanted)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(
        ValueError, match=rf"state is that of.*={saved!r}`.*Build it with `.*={saved!r}"
    ):
        other.load_state_dict(make(saved).state_dict(), strict=strict)
    close(other.state_dict(), before)
    make(saved).load_state_dict(make(saved).half().state_dict())


def test_a_large_constant_feature_does_not_hide_one_that_varies():
    x = torch.randn(50, 3)
    x[:, 0] = 1e9
    y = x[:, [1, 2]] / 2
    t = AffineTranslator(3, 2, ridge=1e-9).fit(x, y)
    close(t(x), y, atol=1e-4, rtol=0)
