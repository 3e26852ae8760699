"""CKA against slow formulas on Gram matrices, and its streams against one call on all rows."""

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

import relreps
from relreps import NumericalWarning
from relreps.metrics import CKA, MinibatchCKA, kernel_cka, linear_cka, minibatch_cka
from tests._data import Largest, fed, orthogonal
from tests._data import related as spaces

#: The biased form is meant here, of whatever few rows.
pytestmark = pytest.mark.filterwarnings("ignore:Biased CKA of so few rows")

close = torch.testing.assert_close

#: Rows and widths on both sides of the choice between products of features and of rows.
SHAPES = [(50, 5, 7), (300, 9, 4), (20, 30, 6), (10, 40, 50), (6, 6, 6)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_estimator = pytest.mark.parametrize("debiased", [False, True], ids=["biased", "debiased"])


def hsic(k, l, debiased):  # noqa: E741
    """The definitions, in NumPy: with a centring matrix, or by the sums of Song et al."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ l @ h) / (n - 1) ** 2
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    both = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + both - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def reference(k, l, debiased):  # noqa: E741
    return hsic(k, l, debiased) / np.sqrt(hsic(k, k, debiased) * hsic(l, l, debiased))


def linear_reference(x, y, debiased):
    x, y = x.double().numpy(), y.double().numpy()
    return reference(x @ x.T, y @ y.T, debiased)


def rbf(x, bandwidth):
    distances = pdist(x.double().numpy())
    median = np.sort(distances)[(len(distances) - 1) // 2]
    return np.exp(-(squareform(distances) ** 2) / (2 * (bandwidth * median) ** 2))


@each_shape
@each_estimator
@pytest.mark.parametrize("offset", [0, 100])
def test_linear_is_the_definition(shape, debiased, offset):
    x, y = spaces(*shape)
    wanted = linear_reference(x, y, debiased)
    assert float(linear_cka(x + offset, y - offset, debiased)) == pytest.approx(wanted, abs=1e-10)
    narrow = linear_cka(x.float() + offset, y.float() - offset, debiased)
    assert float(narrow) == pytest.approx(wanted, abs=1e-6 if offset == 0 else 1e-4)


@each_estimator
def test_more_rows_than_a_chunk(debiased):
    x, y = spaces(5000, 3, 2)
    a, b = (side.numpy() - side.numpy().mean(0) for side in (x, y))
    r, s, n = (a**2).sum(1), (b**2).sum(1), len(a)

    def product(first, second, u, v):
        bias = n / (n - 2) * u @ v - u.sum() * v.sum() / ((n - 1) * (n - 2))
        return ((first.T @ second) ** 2).sum() - debiased * bias

    squares = product(a, a, r, r) * product(b, b, s, s)
    wanted = product(a, b, r, s) / np.sqrt(squares)
    assert float(linear_cka(x, y, debiased)) == pytest.approx(wanted, abs=1e-12)


@each_estimator
def test_products_of_features_and_of_rows_agree(debiased):
    """Columns of zeros change nothing but which of the two is taken."""
    x, y = spaces(30)
    wider = torch.cat((x, x.new_zeros(30, 200)), 1)
    close(linear_cka(wider, y, debiased), linear_cka(x, y, debiased))


@each_estimator
def test_linear_far_from_the_origin_in_float32(debiased):
    x, y = spaces(500, dtype=torch.float32)
    far = linear_cka(x + 1e4, y - 1e4, debiased)
    rounded = linear_reference((x + 1e4) - 1e4, (y - 1e4) + 1e4, debiased)
    assert float(far) == pytest.approx(rounded, abs=1e-5)


@each_estimator
@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 2.0])
def test_rbf_is_the_definition(debiased, bandwidth):
    x, y = spaces(30)
    wanted = reference(rbf(x, bandwidth), rbf(y, bandwidth), debiased)
    got = kernel_cka(x + 100, y, bandwidth=bandwidth, debiased=debiased)
    assert float(got) == pytest.approx(wanted, abs=1e-10)


@each_estimator
def test_the_linear_kernel_is_linear_cka(debiased):
    x, y = spaces()
    assert kernel_cka(x, y, "linear", debiased=debiased) == linear_cka(x, y, debiased)


def product(a, b):
    return a @ b.mT


@each_estimator
@pytest.mark.parametrize("scale", [1, 1e-9])
def test_a_kernel_may_be_a_function(debiased, scale):
    """It gets rows and rows, in the units they were given in."""
    x, y = spaces()
    shapes, sizes = set(), []

    def kernel(a, b):
        shapes.add((a.shape, b.shape))
        sizes.append(float(a.abs().max()))
        return product(a, b)

    close(kernel_cka(x * scale, y, kernel, debiased=debiased), linear_cka(x, y, debiased))
    assert shapes == {((60, 5), (60, 5)), ((60, 7), (60, 7))}
    assert sizes == [float(side.abs().max()) for side in (x * scale, y)]
    unit = [torch.nn.functional.normalize(side) for side in (x, y)]
    got = kernel_cka(x, y, relreps.similarity.cosine, debiased=debiased)
    close(got, linear_cka(*unit, debiased))


def test_a_kernel_that_is_a_function_in_batches():
    x, y = spaces()
    close(minibatch_cka(x, y, 20, product), minibatch_cka(x, y, 20))
    stream = fed(MinibatchCKA(product), x, y, sizes=[20] * 3)
    close(stream.compute(), fed(MinibatchCKA(), x, y, sizes=[20] * 3).compute())
    close(copy.deepcopy(stream).merge(stream).compute(), stream.compute())
    with pytest.raises(ValueError, match="`other` must be a MinibatchCKA"):
        stream.merge(MinibatchCKA())


def test_a_kernel_that_is_a_function_is_differentiated_and_compiled():
    x, y = spaces(9, 3, 4)
    inputs = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: kernel_cka(a, b, product), inputs)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a, b: kernel_cka(a, b, product), fullgraph=True, backend="eager"
    )
    close(compiled(x, y), kernel_cka(x, y, product))


@each_estimator
def test_each_side_has_the_rounding_of_its_own_type(debiased):
    """Noise of float32 is none beside float64, and float64 varies by less beside float32."""
    simplex = torch.eye(6).double() @ orthogonal(6)
    if debiased:
        with pytest.warns(NumericalWarning, match="of `x`, .*up to rounding"):
            assert linear_cka(simplex.float(), torch.randn(6, 3).double(), True).isnan()
    x, y = spaces()
    near = 1 + 1e-9 * x
    close(linear_cka(near, y.float(), debiased), linear_cka(x, y, debiased), atol=1e-5, rtol=0)
    stream = fed(CKA(5, 7, debiased), near, y.float(), sizes=[20] * 3)
    close(stream.compute(), linear_cka(x, y, debiased), atol=1e-5, rtol=0)


def test_rbf_holds_its_bandwidth_fixed_in_the_gradient():
    x, y = spaces(12)

    def gram(z, median):
        squares = (z[:, None] - z).square().sum(-1)
        k = torch.exp(-squares / (2 * median))
        return k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()

    distances = [np.sort(pdist(side.numpy())) for side in (x, y)]
    medians = [torch.tensor(d[(len(d) - 1) // 2] ** 2) for d in distances]
    x.requires_grad_()
    k, other = gram(x, medians[0]), gram(y, medians[1])
    value = (k * other).sum() / ((k * k).sum() * (other * other).sum()).sqrt()
    (wanted,) = torch.autograd.grad(value, x)
    (got,) = torch.autograd.grad(kernel_cka(x, y), x)
    close(got, wanted)


def test_the_biased_one_is_far_from_zero_on_independent_spaces_and_the_debiased_one_is_not():
    draws = [torch.randn(2, 64, 512) for _ in range(50)]
    assert np.mean([float(linear_cka(x, y)) for x, y in draws]) > 0.8
    assert abs(np.mean([float(linear_cka(x, y, debiased=True)) for x, y in draws])) < 0.02


def test_batches_of_any_size_agree():
    x, y = spaces(4096, 32, 32)
    whole = float(linear_cka(x, y, debiased=True))
    values = {b: float(minibatch_cka(x, y, b)) for b in (16, 64, 256)}
    assert max(values.values()) - min(values.values()) < 0.02
    assert all(abs(value - whole) < 0.02 for value in values.values())
    biased = [
        np.mean([float(linear_cka(a, b)) for a, b in zip(x.split(n), y.split(n), strict=True)])
        for n in (16, 256)
    ]
    assert biased[0] - biased[1] > 0.1


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_minibatch_is_the_ratio_of_averages(kernel):
    x, y = spaces(60)
    sums = np.zeros(3)
    for a, b in zip(x.split(20), y.split(20), strict=True):
        k, other = (
            side.numpy() @ side.numpy().T if kernel == "linear" else rbf(side, 1.0)
            for side in (a, b)
        )
        pairs = ((k, other), (k, k), (other, other))
        sums += [hsic(*pair, debiased=True) for pair in pairs]
    wanted = sums[0] / np.sqrt(sums[1] * sums[2])
    assert float(minibatch_cka(x, y, 20, kernel)) == pytest.approx(wanted, abs=1e-10)
    stream = MinibatchCKA(kernel)
    for a, b in zip(x.split(20), y.split(20), strict=True):
        stream.update(a, b)
    assert float(stream.compute()) == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("n", [4, 6, 7, 11, 14, 15, 19])
def test_no_batch_has_fewer_rows_than_the_estimator_needs(n):
    x = torch.randn(n, 3)
    close(minibatch_cka(x, 2 * x, batch_size=4), torch.tensor(1.0))


def test_one_batch_is_the_whole():
    x, y = spaces()
    close(minibatch_cka(x, y, 1000), linear_cka(x, y, debiased=True))


def test_no_row_is_left_out_of_the_batches():
    x, y = spaces(63)
    before = minibatch_cka(x, y, 20)
    x[-1] += 10
    assert (minibatch_cka(x, y, 20) - before).abs() > 1e-3


@each_estimator
@pytest.mark.parametrize("shape", [(9, 3, 4), (5, 7, 6)], ids=str)
def test_gradients_at_copies_and_lost_directions(debiased, shape):
    x, y = spaces(*shape)
    x[1], x[:, 2], y[:, 1] = x[0], 0, y[:, 0]
    inputs = x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: linear_cka(a, b, debiased), inputs)


@pytest.mark.parametrize(
    "measure", [linear_cka, lambda x, y: linear_cka(x, y, True), kernel_cka, minibatch_cka]
)
def test_compiles_in_one_graph_and_runs_on_meta(measure):
    x, y = spaces(dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(measure, fullgraph=True, backend="eager")
    close(compiled(x, y), measure(x, y))
    close(compiled(x * 1e20, y), measure(x, y))
    assert measure(x.to("meta"), y.to("meta")).shape == ()


@each_estimator
def test_no_matrix_of_rows_by_rows(debiased):
    x, y = spaces(5000, 8, 8, dtype=torch.float32)
    with Largest() as largest:
        linear_cka(x, y, debiased)
    assert largest.size <= x.numel()


# Streams.


@each_estimator
@pytest.mark.parametrize("sizes", [[60], [1, 59], [7, 0, 13, 40], [20] * 3], ids=str)
@pytest.mark.parametrize("offset", [0, 1000])
def test_a_stream_in_any_chunks_is_one_call(debiased, sizes, offset):
    x, y = spaces()
    wanted = linear_cka(x, y, debiased)
    close(fed(CKA(5, 7, debiased), x + offset, y - offset, sizes=sizes).compute(), wanted)


@each_estimator
def test_a_drifting_stream_in_float32(debiased):
    """The shift is the mean of the first batch, and later ones are somewhere else."""
    x, y = spaces(600, dtype=torch.float32)
    x, y = x + torch.linspace(0, 50, 600)[:, None], y - torch.linspace(-20, 20, 600)[:, None]
    value = fed(CKA(5, 7, debiased), x, y, sizes=[100] * 6).compute()
    assert float(value) == pytest.approx(linear_reference(x, y, debiased), abs=1e-6)


@each_estimator
def test_merging_is_updating(debiased):
    x, y = spaces()
    wanted = linear_cka(x, y, debiased)
    parts = [
        fed(CKA(5, 7, debiased), a, b, sizes=[len(a)])
        for a, b in zip(x.split([10, 20, 30]), y.split([10, 20, 30]), strict=True)
    ]
    close(copy.deepcopy(parts[0]).merge(parts[1]).merge(parts[2]).compute(), wanted)
    close(copy.deepcopy(parts[2]).merge(parts[0]).merge(parts[1]).compute(), wanted)
    close(CKA(5, 7, debiased).merge(parts[1]).merge(parts[0]).merge(parts[2]).compute(), wanted)
    close(parts[0].merge(CKA(5, 7, debiased)).merge(parts[1]).merge(parts[2]).compute(), wanted)


@each_estimator
def test_state_goes_through_a_checkpoint_and_through_half(debiased):
    x, y = spaces()
    stream = fed(CKA(5, 7, debiased), x[:20], y[:20], sizes=[20])
    fresh = CKA(5, 7, debiased)
    fresh.load_state_dict(stream.half().state_dict())
    close(fresh.update(x[20:], y[20:]).compute(), linear_cka(x, y, debiased))
    close(fresh.reset().update(x, y).compute(), linear_cka(x, y, debiased))


def test_minibatch_stream_merges_and_resets():
    x, y = spaces(80)
    wanted = fed(MinibatchCKA(), x, y, sizes=[20] * 4).compute()
    left, right = fed(MinibatchCKA(), x[:20], y[:20], sizes=[20]), MinibatchCKA()
    fed(right, x[20:], y[20:], sizes=[20] * 3)
    close(left.merge(right).compute(), wanted)
    fed(left.reset(), x, y, sizes=[20] * 4)
    close(left.compute(), wanted)


def test_a_batch_may_be_constant():
    x, y = spaces(40)
    x[:20] = 1
    stream = fed(MinibatchCKA(), x, y, sizes=[20, 20])
    assert 0 < stream.compute() < 1


HEAD, TAIL = slice(0, 30), slice(30, None)
SCALES = [1e-12, 1e-25, 1e19, 1e25]


@each_estimator
@pytest.mark.parametrize("scale", SCALES)
def test_a_stream_in_any_units_in_float32(debiased, scale):
    x, y = spaces(dtype=torch.float32)
    wanted = linear_reference(x, y, debiased)
    x = x * scale
    assert float(fed(CKA(5, 7, debiased), x, y, sizes=[20] * 3).compute()) == pytest.approx(
        wanted, abs=1e-5
    )
    # The parts of one whole choose units of their own.
    first, rest = (fed(CKA(5, 7, debiased), x[rows], y[rows], sizes=[30]) for rows in (HEAD, TAIL))
    assert float(rest.merge(first).compute()) == pytest.approx(wanted, abs=1e-5)
    assert float(linear_cka(x, y, debiased)) == pytest.approx(wanted, abs=1e-5)


@each_estimator
@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_a_stream_in_any_units_in_float64(debiased, scale):
    x, y = spaces()
    first = fed(CKA(5, 7, debiased), x[:20] * scale, y[:20], sizes=[20])
    rest = fed(CKA(5, 7, debiased), x[20:] * scale, y[20:], sizes=[1, 39])
    close(rest.merge(first).compute(), linear_cka(x, y, debiased))


def test_batches_whose_units_differ():
    x, y = spaces(40)
    x[20:] *= 1e3
    close(fed(CKA(5, 7, True), x * 1e-30, y, sizes=[20, 20]).compute(), linear_cka(x, y, True))
    wanted = fed(MinibatchCKA(), x, y, sizes=[20, 20]).compute()
    for scale in SCALES:
        got = fed(MinibatchCKA(), x.float() * scale, y.float(), sizes=[20, 20]).compute()
        close(got, wanted, atol=1e-5, rtol=0)
        rbf = fed(MinibatchCKA("rbf"), x.float() * scale, y.float(), sizes=[20, 20]).compute()
        close(rbf, fed(MinibatchCKA("rbf"), x, y, sizes=[20, 20]).compute(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="fourth power is a number, got entries up to 2e"):
        MinibatchCKA().update(x[:20] * 1e100, y[:20])


@each_estimator
@pytest.mark.parametrize("offset", [1e7, 1e9])
def test_rounding_is_that_of_the_type(debiased, offset):
    x, y = spaces()
    moved = (x + offset) - offset
    close(
        fed(CKA(5, 7, debiased), x + offset, y, sizes=[20] * 3).compute(),
        linear_cka(moved, y, debiased),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [6, 10])
def test_the_corners_of_a_simplex_have_no_debiased_product(dtype, n):
    """Two of them may not make one either: both would be noise, of any sign."""

    def measures(x, y):
        yield linear_cka(x, y, True)
        yield kernel_cka(x, y, debiased=True)
        yield minibatch_cka(x, y)
        yield minibatch_cka(x, y, kernel="rbf")
        yield CKA(n, y.shape[1], True).update(x, y).compute()
        yield MinibatchCKA().update(x, y).compute()

    other = torch.randn(n, 3, dtype=dtype)
    for _ in range(4):
        simplex = torch.eye(n).double() @ orthogonal(n)
        for y in (other, simplex.to(dtype)):
            with pytest.warns(NumericalWarning, match="of `[xy]`, .*up to rounding"):
                values = torch.stack([value.double() for value in measures(simplex.to(dtype), y)])
            assert values.isnan().all()


@each_estimator
@pytest.mark.parametrize("side", [0, 1])
def test_a_stream_of_one_row_over_and_over_is_nan(debiased, side):
    pair = [*spaces(dtype=torch.float32)]
    pair[side] = pair[side][:1].expand(60, -1) + 100
    stream = fed(CKA(5, 7, debiased), *pair, sizes=[20, 40])
    with pytest.warns(NumericalWarning, match=f"all rows of `{'xy'[side]}` are the same"):
        assert stream.compute().isnan()


def test_constant_batches_are_nan():
    stream = MinibatchCKA().update(torch.ones(5, 2), torch.randn(5, 2))
    with pytest.warns(NumericalWarning, match="NaN"):
        assert stream.compute().isnan()


def test_rbf_without_a_median_distance_is_nan():
    x, y = spaces(10)
    x[2:] = x[2]
    x.requires_grad_()
    with pytest.warns(NumericalWarning, match="of `x`, at least half of the distances are zero"):
        value = kernel_cka(x, y)
    assert value.isnan()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()


def test_a_batch_without_a_median_distance_adds_nothing_for_its_side():
    x, y = spaces(40)
    x[22:] = x[22]
    stream = fed(MinibatchCKA("rbf"), x, y, sizes=[20, 20])
    with torch.no_grad():
        constant = x.clone()
        constant[20:] = 3
    close(stream.compute(), fed(MinibatchCKA("rbf"), constant, y, sizes=[20, 20]).compute())
    close(stream.compute(), minibatch_cka(x, y, 20, "rbf"))


@pytest.mark.parametrize("outlier", [1e2, 3e4, 1e7])
def test_rbf_with_one_row_far_away_in_float32(outlier):
    x, y = spaces(100)
    x[0] += outlier
    narrow = x.float()
    value = kernel_cka(narrow, y.float())
    assert float(value) == pytest.approx(float(kernel_cka(narrow.double(), y)), abs=1e-6)
    wanted = reference(rbf(narrow, 1.0), rbf(y, 1.0), False)
    assert float(value) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: linear_cka(x[:3], y[:3], True), ValueError, "at least 4 rows for the debi"),
        (lambda x, y: linear_cka(x[:1], y[:1]), ValueError, "at least 2 rows"),
        (lambda x, y: kernel_cka(x[:3], y[:3], debiased=True), ValueError, "at least 4 rows"),
        (lambda x, y: kernel_cka(x, y, "RBF"), ValueError, "`kernel` must be one of 'rbf', 'lin"),
        (
            lambda x, y: kernel_cka(x, y, lambda a, b: a),
            ValueError,
            r"`kernel` must give a tensor \(60, 60\) for 60 rows, got a Tensor of shape \(60, 5\)",
        ),
        (lambda x, y: kernel_cka(x, y, lambda a, b: 1.0), ValueError, "got a float of shape"),
        (lambda x, y: kernel_cka(x, y, bandwidth=0.0), ValueError, "`bandwidth` must be positive"),
        (lambda x, y: minibatch_cka(x, y, 3), ValueError, "`batch_size` must be at least 4, got 3"),
        (lambda x, y: minibatch_cka(x[:3], y[:3]), ValueError, "at least 4 rows"),
        (lambda x, y: CKA(5, 7).compute(), ValueError, "at least 2 rows.*got 0"),
        (lambda x, y: CKA(5, 7, True).update(x[:3], y[:3]).compute(), ValueError, "4 rows.*got 3"),
        (lambda x, y: CKA(5, 7).update(x, y[1:]), ValueError, "paired row by row"),
        (lambda x, y: CKA(5, 5).update(x, y), ValueError, r"`y` must have shape \(rows, 5\)"),
        (lambda x, y: CKA(5, 7).update(x, y / 0), ValueError, "`y` must be finite"),
        (lambda x, y: CKA(5, 7, True).update(x, y / 0), ValueError, "`y` must be finite"),
        (
            lambda x, y: CKA(5, 7).merge(CKA(5, 6)),
            ValueError,
            "`other` must be a CKA.in_f",
        ),
        (lambda x, y: CKA(5, 7).merge(CKA(5, 7, True)), ValueError, "debiased=False"),
        (lambda x, y: CKA(0, 7), ValueError, "`in_features` must be at least 1"),
        (lambda x, y: MinibatchCKA("poly"), ValueError, "`kernel` must be one of"),
        (lambda x, y: MinibatchCKA().update(x[:3], y[:3]), ValueError, "at least 4 rows"),
        (lambda x, y: MinibatchCKA().compute(), ValueError, "at least one batch"),
        (lambda x, y: MinibatchCKA().merge(MinibatchCKA("rbf")), ValueError, "`other` must be"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(*spaces())


def test_a_refused_batch_leaves_the_stream_as_it_was():
    x, y = spaces()
    stream = CKA(5, 7, True).update(x, y)
    before = stream.compute()
    with pytest.raises(ValueError, match="finite"):
        stream.update(x, y / 0)
    assert stream.compute() == before


def test_str():
    assert str(CKA(3, 4, True)).startswith("CKA(\n  in_features=3, out_features=4, debiased=True")
    assert "kernel='rbf'" in str(MinibatchCKA("rbf"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("rows", "features"), [(64, 512), (64, 32), (10, 5)])
def test_biased_cka_of_few_rows_is_doubted(stream, rows, features):
    x, y = torch.randn(2, rows, features)

    def cka(debiased=False):
        if stream:
            return CKA(features, features, debiased).update(x, y).compute()
        return linear_cka(x, y, debiased)

    with pytest.warns(NumericalWarning, match=f"so few rows, {rows}, .*`debiased=True`"):
        cka()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cka(debiased=True)


def test_the_doubt_counts_directions_that_matter():
    """400 features, of which two vary."""
    x = torch.randn(64, 2) @ torch.randn(2, 400) + 1e-3 * torch.randn(64, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_cka(x, torch.randn(64, 5))
        kernel_cka(x, torch.randn(64, 5), "linear")


def test_what_biased_cka_is_by_chance_is_its_mean_over_pairings():
    x, y = torch.randn(40, 30), torch.randn(40, 4)
    means = [linear_cka(x, y[torch.randperm(40)]) for _ in range(300)]
    k, l = (s - s.mean(0) for s in (x, y))  # noqa: E741
    k, l = k @ k.T, l @ l.T  # noqa: E741
    chance = k.trace() * l.trace() / k.norm() / l.norm() / 39
    close(torch.stack(means).mean(), chance, atol=5e-3, rtol=0)


@each_estimator
@pytest.mark.parametrize("where", [3, 1103])
def test_one_extreme_row_leaves_the_value_of_float64(debiased, where):
    x = torch.randn(1200, 5)
    y = x @ torch.randn(5, 4) + torch.randn(1200, 4)
    x[where] *= 1e4
    y[where] *= 1e4
    wanted = linear_cka(x.double(), y.double(), debiased).float()
    close(linear_cka(x, y, debiased), wanted, rtol=1e-3, atol=1e-6)
    stream = CKA(5, 4, debiased)
    for part in zip(x.split(50), y.split(50), strict=True):
        stream.update(*part)
    close(stream.compute().float(), wanted, rtol=1e-3, atol=1e-6)
