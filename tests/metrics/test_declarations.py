"""What each measure declares is measured: what it says holds, and what it does not say fails."""

import inspect
import warnings

import pytest
import torch

from relreps import IsotropicScale, NumericalWarning, StandardScale, metrics
from relreps._core.invariance import TRANSFORMATIONS
from relreps.metrics import MEASURES, measures_markdown
from relreps.testing import random_transformation

N, D, DRAWS = 40, 5, 3
SIDES = {"x": (True, False), "y": (False, True), "alike": (True, True)}

#: They search the rows of ``y`` alone.
RETRIEVAL = ("mean_reciprocal_rank", "jaccard_at_k", "recall_at_k")

each_measure = pytest.mark.parametrize("name", MEASURES)


def spaces():
    """Off the origin and of unequal spread, so that no invariance holds by accident."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normal(N, D)
    y = (x + 0.5 * normal(N, D)) @ normal(D, D)
    return x * torch.logspace(-1.5, 0.5, D, dtype=torch.float64) + normal(D), y + normal(D)


def call(name, x, y):
    measure = MEASURES[name]
    given = {"anchors": torch.arange(0, max(len(x), 1), 4)}
    return measure.function(x, y, **{key: given[key] for key in measure.arguments})


def changed_alike(change, x, y):
    """Both sides by the same transformation, which for rows is one of the stacked rows."""
    both = change(torch.cat((x, y)))
    return both[:N], both[N:]


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("side", SIDES)
@each_measure
def test_invariances(name, side, transformation):
    x, y = spaces()
    generator = torch.Generator().manual_seed(0)
    before = call(name, x, y)
    largest = 0.0
    for _ in range(DRAWS):
        change = random_transformation(transformation, D, generator=generator)
        new_x, new_y = changed_alike(change, x, y)
        of_x, of_y = SIDES[side]
        after = call(name, new_x if of_x else x, new_y if of_y else y)
        largest = max(largest, abs(float(after - before)))
    if transformation in getattr(MEASURES[name], side):
        assert largest < 1e-9
    else:
        assert largest > 1e-6


@each_measure
def test_range_and_best_value(name):
    measure = MEASURES[name]
    x, y = spaces()
    equal = float(call(name, x, x))
    apart = [float(call(name, x, z)) for z in (y, torch.randn_like(x), -x, x.flip(0))]
    assert equal == pytest.approx(measure.equal, abs=1e-7)
    tolerance = 1e-9
    assert all(measure.low - tolerance <= v <= measure.high + tolerance for v in [equal, *apart])
    assert all((v < equal) == measure.higher_is_better for v in apart[:2])


@each_measure
@pytest.mark.filterwarnings("ignore::relreps.NumericalWarning")
def test_range_of_few_rows(name):
    """Where estimates are at their worst; NaN is no value."""
    measure = MEASURES[name]
    k = {"k": 2} if "k" in inspect.signature(measure.function).parameters else {}
    given = {"anchors": torch.tensor([0, 1])}
    more = {key: given[key] for key in measure.arguments} | k
    values = []
    for n in (4, 5, 7):
        for _ in range(30):
            x, y = torch.randn(2, n, 2, dtype=torch.float64)
            values += [float(measure.function(x, z, **more)) for z in (y, x, x + 0.3 * y)]
    values = [v for v in values if v == v]
    assert values
    assert measure.low - 1e-9 <= min(values) <= max(values) <= measure.high + 1e-9


@each_measure
def test_symmetry(name):
    x, y = spaces()
    difference = float((call(name, x, y) - call(name, y, x)).abs())
    assert (difference < 1e-12) == MEASURES[name].symmetric


@each_measure
def test_gradients_flow_where_they_are_declared(name):
    sides = [side.requires_grad_() for side in spaces()]
    value = call(name, *sides)
    assert value.requires_grad == MEASURES[name].differentiable
    if value.requires_grad:
        for gradient in torch.autograd.grad(value, sides):
            assert gradient.abs().max() > 1e-6
        if name != "kernel_cka":  # its bandwidth takes no part in the gradient: see test_cka.py
            few = [side.detach()[:14].requires_grad_() for side in sides]
            assert torch.autograd.gradcheck(lambda x, y: call(name, x, y), few)


@each_measure
def test_gradients_are_finite_at_equal_spaces_and_at_copies_of_a_row(name):
    measure = MEASURES[name]
    if not measure.differentiable:
        return
    x, y = (side.detach() for side in spaces())
    y[1] = y[0]
    for first, second in ((x, x), (y, y), (x, y)):
        sides = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        for gradient in torch.autograd.grad(call(name, *sides), sides):
            assert gradient.isfinite().all()


@each_measure
def test_a_loss_leads_somewhere(name):
    """A few small steps along the gradient bring a space nearer to the other one."""
    measure = MEASURES[name]
    if not measure.differentiable:
        return
    x, y = (side.detach() for side in spaces())
    y.requires_grad_()
    optimizer = torch.optim.Adam([y], lr=1e-3)
    sign = -1 if measure.higher_is_better else 1
    first = float(call(name, x, y).detach())
    for _ in range(10):
        optimizer.zero_grad()
        (sign * call(name, x, y)).backward()
        optimizer.step()
    assert sign * float(call(name, x, y).detach()) < sign * first


@each_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_of_the_result(name, dtype):
    x, y = (side.to(dtype) for side in spaces())
    value = call(name, x, y)
    assert value.shape == ()
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert float(value) == pytest.approx(float(call(name, x.double(), y.double())), abs=2e-5)
    assert call(name, x, y.double()).dtype == torch.float64


@each_measure
def test_autocast_changes_nothing(name):
    x, y = (side.float() for side in spaces())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = call(name, x, y)
    torch.testing.assert_close(inside, call(name, x, y), atol=0, rtol=0)


@each_measure
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_tiny_and_huge_numbers(name, scale):
    x, y = (side.float() for side in spaces())
    assert float(call(name, x * scale, y)) == pytest.approx(float(call(name, x, y)), abs=2e-5)


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if "sample_scale" in m.x])
def test_rows_of_very_different_lengths(name):
    x, y = (side.float() for side in spaces())
    lengths = torch.logspace(-25, 25, N)[torch.randperm(N)][:, None]
    assert float(call(name, x * lengths, y)) == pytest.approx(float(call(name, x, y)), abs=1e-5)


@each_measure
def test_sides_on_two_devices_are_refused(name):
    x, y = spaces()
    with pytest.raises(ValueError, match="`x` and `y` must be on one device, got cpu and meta"):
        call(name, x, y.to("meta"))


# Queries that are all the same find what chance lets them find; keys have to differ.
@pytest.mark.parametrize(
    ("name", "side"), [(n, side) for n in MEASURES for side in (0, 1) if side or n not in RETRIEVAL]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_space_is_nan_with_a_warning(name, side, dtype):
    pair = [space.to(dtype) for space in spaces()]
    pair[side] = pair[side][:1].expand(N, -1)
    with pytest.warns(NumericalWarning, match="NaN"):
        assert call(name, *pair).isnan()


def ones_but_one(roundings, dtype):
    """Ones, of which one is so many roundings larger, beside a space that is not constant."""
    x = torch.ones(100, D, dtype=dtype)
    x[0, 0] += roundings * torch.finfo(dtype).eps
    return x, torch.randn(100, D, dtype=dtype)


def is_refused(normalizer, x):
    try:
        normalizer.fit(x)
    except ValueError as error:
        assert "equal" in str(error)  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("roundings", "constant"), [(10, True), (1000, False)])
def test_normalizers_agree_with_the_measures_on_what_is_constant(roundings, constant, dtype):
    x, _ = ones_but_one(roundings, dtype)
    for normalizer in (StandardScale(D), IsotropicScale(D)):
        assert is_refused(normalizer, x) == constant


@pytest.mark.parametrize(
    ("name", "side"), [(n, side) for n in MEASURES for side in (0, 1) if side or n not in RETRIEVAL]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_measures_agree_on_what_is_constant(name, side, dtype):
    """Ten roundings of one number among a hundred are none; a thousand are something."""
    for roundings, constant in ((10, True), (1000, False)):
        pair = ones_but_one(roundings, dtype)[:: 1 - 2 * side]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = call(name, *pair)
        said = [str(w.message) for w in caught if issubclass(w.category, NumericalWarning)]
        assert any("the same" in text or "constant" in text for text in said) == constant
        assert not constant or value.isnan()


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(("roundings", "constant"), [(10, True), (1000, False)])
def test_streams_agree_on_what_is_constant(debiased, roundings, constant):
    x, y = ones_but_one(roundings, torch.float32)
    stream = metrics.CKA(D, D, debiased)
    for batch in zip(x.split(30), y.split(30), strict=True):
        stream.update(*batch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = stream.compute()
    assert any("all rows of `x` are the same" in str(w.message) for w in caught) == constant
    assert value.isnan() == (constant or debiased)  # all but one are alike: no debiased product


def test_a_constant_feature_far_away_hides_no_other():
    """About a mean of 1e9 it is rounded by more than the other feature does."""
    x = torch.cat((torch.full((50, 1), 1e9), torch.randn(50, 1)), 1)
    for name in ("linear_cka", "procrustes_distance", "mean_cca", "regression_r2"):
        assert float(call(name, x, x[:, 1:])) == pytest.approx(MEASURES[name].equal, abs=1e-6)


@each_measure
def test_both_spaces_constant(name):
    x = torch.full((N, D), 0.1)
    with pytest.warns(NumericalWarning, match="NaN"):
        assert call(name, x, 3 * x).isnan()


@each_measure
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x[1:], y), ValueError, r"paired row by row, got 39 and 40"),
        (lambda x, y: (x / 0, y), ValueError, r"`x` must be finite.*first is row 0"),
        (lambda x, y: (x, (y - y[:1]) * torch.inf), ValueError, r"`y` must be finite"),
        (lambda x, y: (x.long(), y), TypeError, r"`x` must be a floating-point.*int64"),
        (lambda x, y: (x, y[0]), ValueError, r"`y` must have shape \(rows, features\)"),
        (lambda x, y: (x.tolist(), y), TypeError, r"`x` must be a torch.Tensor, got list"),
        (lambda x, y: (x[:0], y[:0]), ValueError, r"must have at least \d row.*got 0"),
    ],
    ids=["unpaired", "infinite", "nan", "integer", "one-row", "list", "empty"],
)
def test_bad_rows(name, change, error, message):
    with pytest.raises(error, match=message):
        call(name, *change(*spaces()))


def test_every_measure_is_declared():
    """Every public function of two spaces that gives one number is in the table."""
    functions = {
        name
        for name, value in vars(metrics).items()
        if inspect.isfunction(value)
        and list(inspect.signature(value).parameters)[:2] == ["x", "y"]
        and inspect.signature(value).return_annotation == "Tensor"
        and name != "retrieval_ranks"
    }
    assert functions == {name.partition(",")[0] for name in MEASURES}


def test_the_table_shows_every_declaration():
    table = measures_markdown()
    assert "| `pwcca` | yes | y | yes | yes | y | · | y | y |" in table
    assert "| `mean_reciprocal_rank` | alike | alike | · | yes | · | yes | · | · |" in table
    assert "| `shape_distance` | 0 to π/2 | 0 | yes | yes |" in table
    assert all(table.count(f"| `{name}` |") == 2 for name in MEASURES)
