"""What all normalisers do with rows of any size, with refusals, interrupts and NaN."""

import copy
import itertools

import pytest
import torch

from relreps import Center, IsotropicScale, NormalizerChain, StandardScale, UnitNorm, Whiten
from tests._data import interrupted

D = 4
NORMALIZERS = {
    "Center": lambda: Center(D),
    "IsotropicScale": lambda: IsotropicScale(D),
    "StandardScale": lambda: StandardScale(D),
    "Whiten": lambda: Whiten(D),
    "Whiten-shrunk": lambda: Whiten(D, shrinkage=0.3),
    "chain": lambda: NormalizerChain(UnitNorm(), StandardScale(D), UnitNorm()),
}
EACH = pytest.mark.parametrize("make", NORMALIZERS.values(), ids=NORMALIZERS)
#: Those that refuse rows that are all equal.
REFUSING = pytest.mark.parametrize(
    "make", [NORMALIZERS[name] for name in NORMALIZERS if name != "Center"]
)
SIZES = [
    *((torch.float32, size) for size in (1e-30, 1e-25, 1e-22, 1e-19, 1e19, 1e30)),
    *((torch.float64, size) for size in (1e-300, 1e-160, 1e160, 1e200)),
]


def rows(count=40):
    return torch.randn(count, D, dtype=torch.float64) @ torch.randn(D, D).double() + 1


@EACH
@pytest.mark.parametrize(("dtype", "size"), SIZES, ids=str)
def test_any_size(make, dtype, size):
    """Once, in parts, and inside of a forward: as for the rows near to 1."""
    unit = torch.tensor(size, dtype=torch.float64).log2().floor().exp2()
    near = rows().to(dtype).double()
    x = (near * unit).to(dtype)
    wanted = make().double().fit(near)(near)
    back = unit if isinstance(make(), Center) else 1
    norm = make().to(dtype)
    outputs = [norm.map(x, norm.statistics_of(x)), norm.fit(x)(x)]
    norm = make().to(dtype)
    for part in x.split([0, 30, 10]):
        norm.partial_fit(part)
    for output in (*outputs, norm(x)):
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(output / back, wanted, atol=tolerance, rtol=0, check_dtype=False)
    if not isinstance(norm, NormalizerChain):
        found = norm.inverse(norm(x)).double() / unit
        torch.testing.assert_close(found, near, atol=tolerance, rtol=0)


@EACH
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float32, (1e-25, 1e25)),
        (torch.float32, (1e30, 1.0, 1e-30)),
        (torch.float64, (1e-300, 1e200)),
    ],
    ids=str,
)
def test_parts_of_very_different_sizes(make, dtype, sizes):
    parts = [(rows(20) * size).to(dtype) for size in sizes]
    x = torch.cat(parts)
    norm = make().to(dtype)
    for part in parts:
        norm.partial_fit(part)
    whole = make().to(dtype).fit(x)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value)
    if not isinstance(norm, NormalizerChain):  # which begins with rows of length one
        largest = x.double() / max(sizes)
        wanted = make().double().fit(largest)(largest)
        got = norm(x).double() / (max(sizes) if isinstance(norm, Center) else 1)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_features_of_very_different_sizes():
    near = torch.randn(50, 4, dtype=torch.float64)
    for dtype, powers in (
        (torch.float64, (-900, -500, 0, 600)),
        (torch.float32, (-99, -30, 0, 99)),
    ):
        features = torch.tensor([2.0**p for p in powers], dtype=torch.float64)
        x = (near * features).to(dtype)
        wanted = StandardScale(4).double().fit(near)(near)
        for norm in (StandardScale(4), StandardScale(4)):
            got = norm.to(dtype).fit(x)(x)
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0, check_dtype=False)
            norm.partial_fit(x)


def test_deviations_near_the_least_number():
    """Their reciprocals are infinite."""
    x = torch.tensor([[-1.0], [1.0]]) * 2.0**-140
    torch.testing.assert_close(StandardScale(1).fit(x)(x), torch.tensor([[-1.0], [1.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_deviations_that_vanish_in_the_type_of_the_module_are_refused(dtype):
    tiny = {torch.float16: 1e-9, torch.float32: 1e-300}[dtype]
    x = rows() * torch.tensor([1.0, 1.0, 1.0, tiny], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"do not fit into torch.float.*`std` goes from .* wider"):
        StandardScale(D).to(dtype).fit(x)


@EACH
@pytest.mark.filterwarnings("ignore:Whiten.*is determined poorly")
@pytest.mark.parametrize("sizes", [[300], [1] * 300, [17, 1, 282], [100] * 3], ids=str)
@pytest.mark.parametrize("row", [True, False], ids=["row", "feature"])
def test_one_extreme_row_or_feature_in_any_chunk(make, sizes, row):
    x = rows(300).float()
    if row:
        x[17] *= 1e4
    else:
        x[:, 2] *= 1e3
    norm = make()
    for chunk in x.split(sizes):
        norm.partial_fit(chunk)
    wanted = make().double().fit(x.double())(x.double())
    size = wanted.abs().max()
    torch.testing.assert_close(norm(x).double(), wanted, atol=3e-4 * float(size), rtol=0)


@REFUSING
def test_rows_that_do_not_suffice_after_all_are_refused_until_they_do(make):
    """What one fit of all rows would refuse is not used after parts of them either."""
    x, norm = rows(), make().double()
    x[1:20] = x[0]
    for part in (x[:1], x[1:20]):
        norm.partial_fit(part)
        with pytest.raises(RuntimeError, match=r"do not suffice yet.*"):
            norm(x)
    norm.partial_fit(x[20:])
    torch.testing.assert_close(norm(x), make().double().fit(x)(x))


@pytest.mark.parametrize("name", ["Whiten", "StandardScale"])
def test_later_rows_may_take_a_fit_back(name):
    """A direction that far larger rows drown, a type that later statistics do not fit."""
    x = torch.randn(30, D, dtype=torch.float64)
    norm, direction = NORMALIZERS[name](), torch.ones(D, dtype=torch.float64)
    far = x[:, :1] * direction * 1e12
    if name == "StandardScale":
        norm, far = norm.half(), x * 1e9
    norm.partial_fit(x)(x)
    for _ in range(2):
        norm.partial_fit(far)
        with pytest.raises(RuntimeError, match="do not suffice yet"):
            norm(x)
    assert not norm.fitted
    loaded = NORMALIZERS[name]()
    loaded.load_state_dict(norm.state_dict())
    with pytest.raises(RuntimeError, match="no state yet"):
        loaded(x)
    with pytest.raises(ValueError, match=r"directions|do not fit"):
        copy.deepcopy(norm).fit(torch.cat((x, far)))


@EACH
def test_a_chunk_that_is_refused_is_not_kept(make):
    x, norm = rows(), make().double()
    norm.partial_fit(x[:20])
    for bad in (torch.full((3, D), torch.nan).double(), torch.ones(3, D + 1).double()):
        with pytest.raises(ValueError, match="`x` must"):
            norm.partial_fit(bad)
    norm.partial_fit(x[20:])
    torch.testing.assert_close(norm(x), make().double().fit(x)(x))


@EACH
def test_an_interrupt_finds_old_statistics_or_new_ones(make):
    """At any line; and the same call again gives what one without an interrupt does."""
    x = rows()
    for begin, call in (
        (lambda n: n.fit(x[:20]), lambda n: n.fit(x[20:])),
        (lambda n: n.partial_fit(x[:20]), lambda n: n.partial_fit(x[20:])),
        (lambda n: n, lambda n: n.partial_fit(x[20:])),
    ):
        before = begin(make().double()).state_dict()
        after = call(begin(make().double())).state_dict()
        for line in itertools.count(1):
            norm = begin(make().double())
            if not interrupted(lambda n=norm, f=call: f(n), line):
                break
            now = norm.state_dict()
            done = all(torch.equal(now[name], value) for name, value in after.items())
            assert done or all(torch.equal(now[name], value) for name, value in before.items())
            if not done:
                again = call(norm).state_dict()
                assert all(torch.equal(again[name], value) for name, value in after.items())
        assert line > 10


@EACH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_goes_in_and_comes_out(make, bad):
    x = rows()
    norm = make().double().fit(x)
    for column in range(D):
        new = x[:3].clone()
        new[1, column] = bad
        out = norm(new)
        assert not out[1, column].isfinite()
        assert out[[0, 2]].isfinite().all()
        reference = x.clone()
        reference[3, column] = bad
        for call in (norm.fit, norm.partial_fit, norm.checked_statistics_of):
            with pytest.raises(ValueError, match="the first is row 3"):
                call(reference)
        assert not norm.map(x[:3], norm.statistics_of(reference))[:, column].isfinite().any() or (
            isinstance(norm, NormalizerChain)  # of rows of length one only that one is lost
        )
    if isinstance(norm, IsotropicScale):
        assert not norm.map(x[:3], norm.statistics_of(reference)).isfinite().any()


@EACH
def test_inference_mode_leaves_nothing_that_cannot_be_changed(make):
    x = rows()
    with torch.inference_mode():
        norm = make().double().partial_fit(x[:20])
    norm.partial_fit(x[20:])
    wanted = make().double().fit(x)
    torch.testing.assert_close(norm(x), wanted(x))
    other = copy.deepcopy(norm).float().double()
    other.load_state_dict(wanted.state_dict())
    with torch.inference_mode():
        other.fit(x)
    torch.testing.assert_close(other.fit(x)(x.clone().requires_grad_()), wanted(x))
