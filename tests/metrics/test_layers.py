"""Comparisons of layers against measures of outputs that are computed by hand."""

import pickle
from collections import OrderedDict
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import relreps
from relreps import NumericalWarning, compare_layers
from relreps.metrics import (
    CKA,
    LayerComparison,
    MinibatchCKA,
    MutualKNN,
    linear_cka,
    mutual_knn,
    procrustes_distance,
    retrieval_scores,
)
from relreps.metrics.taps import mean_over_positions

#: The biased form is meant here, of whatever few rows.
pytestmark = pytest.mark.filterwarnings("ignore:Biased CKA of so few rows")

B, D = 12, 6
close = torch.testing.assert_close


class Counted(nn.Sequential):
    """Knows how often it was called, and in which mode."""

    calls = 0
    modes = ()

    def forward(self, x):
        self.calls += 1
        self.modes = (*self.modes, self.training)
        return super().forward(x)


def net(*widths, dtype=torch.float32):
    parts = []
    for i, (a, b) in enumerate(pairwise(widths)):
        parts += [(f"linear{i}", nn.Linear(a, b, dtype=dtype)), (f"act{i}", nn.ReLU(inplace=True))]
    return Counted(OrderedDict(parts))


def data(batches=3, size=B, features=D):
    return list(torch.randn(batches, size, features))


def outputs(model, x):
    """Each layer's output, by hand."""
    found = {}
    for name, layer in model.named_children():
        x = layer(x.clone())
        found[name] = x.clone()
    return found


def by_hand(a, b, x, y, measure):
    with torch.no_grad():
        first, second = outputs(a, x), outputs(b, y)
    scores = [[float(measure(p, q)) for q in second.values()] for p in first.values()]
    return torch.tensor(scores, dtype=torch.float64)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


STREAMING = {
    "CKA": (CKA, linear_cka),
    "CKA-debiased": (partial(CKA, debiased=True), partial(linear_cka, debiased=True)),
    "MutualKNN": (partial(MutualKNN, k=5), partial(mutual_knn, k=5)),
    "function": (linear_cka, linear_cka),
    "partial": (partial(mutual_knn, k=5), partial(mutual_knn, k=5)),
    "distance": (procrustes_distance, procrustes_distance),
}


@pytest.mark.parametrize(("measure", "function"), STREAMING.values(), ids=STREAMING)
def test_equal_to_the_measure_of_all_rows(measure, function):
    a, b, batches = net(D, 5, 4), net(D, 7), [*data(), torch.randn(4, D)]
    result = compare_layers(a, b, batches, measure)
    assert isinstance(result, LayerComparison)
    assert result.layers_a == ["linear0", "act0", "linear1", "act1"]
    assert result.layers_b == ["linear0", "act0"]
    x = torch.cat(batches)
    close(result.scores, by_hand(a, b, x, x, function), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_equal_to_minibatch_cka_of_every_pair(kernel):
    a, b, batches = net(D, 5, 4), net(D, 7), [*data(), torch.randn(5, D)]
    result = compare_layers(a, b, batches, partial(MinibatchCKA, kernel))
    streams = [[MinibatchCKA(kernel) for _ in result.layers_b] for _ in result.layers_a]
    with torch.no_grad():
        for x in batches:
            first, second = outputs(a, x), outputs(b, x)
            for row, p in zip(streams, first.values(), strict=True):
                for stream, q in zip(row, second.values(), strict=True):
                    stream.update(p, q)
    expected = torch.tensor([[float(stream.compute()) for stream in row] for row in streams])
    close(result.scores, expected.double(), atol=1e-6, rtol=1e-5)


def test_a_kernel_may_be_a_function():
    def product(a, b):
        return a @ b.mT

    a, b, batches = net(D, 5), net(D, 7), data()
    wanted = compare_layers(a, b, batches, MinibatchCKA).scores
    got = compare_layers(a, b, batches, partial(MinibatchCKA, product)).scores
    close(got, wanted, atol=1e-5, rtol=0)


def test_what_one_layer_needs_is_computed_once_for_it(monkeypatch):
    """Moments of a batch are taken once, of 4 + 2 layers with themselves and 4 * 2 pairs."""
    import relreps.metrics.grids as grids

    taken = []
    monkeypatch.setattr(
        grids, "row_moments", lambda *sides, **o: taken.append(o) or moments(*sides, **o)
    )
    moments = relreps.moments.row_moments
    compare_layers(net(D, 5, 4), net(D, 7), data(3), CKA)
    assert [len(options["pairs"]) for options in taken] == [4 + 2 + 4 * 2] * 3


def test_each_network_runs_once_a_batch_on_its_own_inputs():
    a, b = net(D, 5), net(3, 4)
    pairs = [(torch.randn(B, D), torch.randn(B, 3)) for _ in range(3)]
    result = compare_layers(a, b, pairs, linear_cka)
    assert a.calls == b.calls == 3
    x, y = map(torch.cat, zip(*pairs, strict=True))
    close(result.scores, by_hand(a, b, x, y, linear_cka), atol=1e-5, rtol=1e-5)


def test_a_network_may_be_compared_with_itself():
    model, batches = net(D, 5, 4), data()
    result = compare_layers(model, model, batches, CKA)
    assert model.calls == 6
    close(result.scores, result.scores.mT)
    close(result.scores.diagonal(), torch.ones(4, dtype=torch.float64))


def test_mappings_are_keyword_arguments():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(D, 3)

        def forward(self, *, x, scale):
            return self.inner(x) * scale

    model, batches = Keyword(), data()
    named = [{"x": x, "scale": 2} for x in batches]
    result = compare_layers(model, model, named, CKA, ["inner"])
    close(result.scores, torch.ones(1, 1, dtype=torch.float64))


def test_layers_are_those_asked_for_in_that_order():
    a, b, batches = net(D, 5, 4), net(D, 7), data()
    everything = compare_layers(a, b, batches, CKA)
    some = compare_layers(a, b, batches, CKA, ["act1", "linear0"], ["act0"])
    assert (some.layers_a, some.layers_b) == (["act1", "linear0"], ["act0"])
    close(some.scores, everything.scores[[3, 0]][:, [1]])
    same = compare_layers(a, b, batches, CKA, ["act0"])
    assert (same.layers_a, same.layers_b) == (["act0"], ["act0"])
    whole = compare_layers(a, b, batches, CKA, [""], ["act0"])
    close(whole.scores, everything.scores[3:, 1:])


def test_convolutions_are_flattened_or_pooled():
    a = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True))
    batches = list(torch.randn(3, B, 2, 5, 5))
    x = torch.cat(batches)
    flat = compare_layers(a, a, batches, linear_cka)
    close(flat.scores, by_hand(a, a, x, x, lambda p, q: linear_cka(p.flatten(1), q.flatten(1))))
    pooled = compare_layers(a, a, batches, linear_cka, pool=lambda z: z.mean((2, 3)))
    expected = by_hand(a, a, x, x, lambda p, q: linear_cka(p.mean((2, 3)), q.mean((2, 3))))
    close(pooled.scores, expected)
    assert (flat.scores - pooled.scores).abs().max() > 0.01


def test_networks_may_differ_in_type():
    a, b = net(D, 5), net(D, 7, dtype=torch.float64)
    pairs = [(x, x.double()) for x in data()]
    for measure in (CKA, MinibatchCKA, mutual_knn, partial(MutualKNN, k=3)):
        assert compare_layers(a, b, pairs, measure).scores.isfinite().all()


def test_layers_that_do_not_run_are_left_out_by_default():
    class WithSpare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(D, 3), nn.Linear(D, 3)

        def forward(self, x):
            return self.used(x)

    model = WithSpare()
    assert compare_layers(model, model, data(), CKA).layers_a == ["used"]
    with pytest.raises(RuntimeError, match="forward of `model_a` calls, but 'spare' did not run"):
        compare_layers(model, model, data(), CKA, ["used", "spare"])


@pytest.mark.parametrize("training", [True, False])
def test_models_come_back_as_they_were(training):
    a, b = net(D, 5).train(training), net(D, 7)
    b.act0.eval()
    compare_layers(a, b, data(), CKA)
    assert a.modes == (False,) * 3
    assert a.training is training
    assert b.training
    assert not b.act0.training
    assert hooks(a) == hooks(b) == 0
    assert all(p.grad is None for p in a.parameters())


@pytest.mark.parametrize("where", ["model", "measure", "loader", "pool"])
def test_hooks_are_gone_after_an_error(where):
    def fail(*_):
        raise ZeroDivisionError

    a, b = net(D, 5), net(D, 7)
    options = {"pool": fail} if where == "pool" else {}
    if where == "model":
        b.append(nn.Sequential()).forward = fail
    loader = (fail() if where == "loader" and i else x for i, x in enumerate(data()))
    with pytest.raises(ZeroDivisionError):
        compare_layers(a, b, loader, fail if where == "measure" else CKA, ["act0"], **options)
    assert hooks(a) == hooks(b) == 0
    assert a.training


@pytest.mark.parametrize("measure", [CKA, MinibatchCKA, linear_cka, partial(mutual_knn, k=3)])
def test_constant_layers_are_nan_with_one_warning_each(measure):
    a = net(D, 5)
    nn.init.zeros_(a.linear0.weight)
    with pytest.warns(NumericalWarning) as caught:
        scores = compare_layers(a, net(D, 7, 7), data(), measure).scores
    assert scores.isnan().all()
    assert sorted(str(w.message).count("`model_a.linear0`") for w in caught) == [0, 1]
    assert sorted(str(w.message).count("`model_a.act0`") for w in caught) == [0, 1]
    assert {w.filename for w in caught} == {__file__}


@pytest.mark.parametrize("measure", [CKA, partial(CKA, debiased=True), MinibatchCKA])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_a_network_changes_nothing(measure, scale):
    a, b, batches = nn.Linear(D, 5, bias=False), nn.Linear(D, 4), data()
    wanted = compare_layers(a, b, [(x, x) for x in batches], measure).scores
    scores = compare_layers(a, b, [(x * scale, x) for x in batches], measure).scores
    close(scores, wanted, atol=1e-5, rtol=0)


def test_a_loader_of_single_tensors_gives_them_in_lists():
    x = torch.randn(20, D)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 10)
    model = net(D, 5)
    close(
        compare_layers(model, model, loader, CKA).scores,
        compare_layers(model, model, x.split(10), CKA).scores,
    )


class Real(nn.Module):
    """What real networks have: integers, a position table, a tuple, an activation used twice."""

    def __init__(self):
        super().__init__()
        self.ids, self.words, self.places = nn.Identity(), nn.Embedding(9, 4), nn.Embedding(7, 4)
        self.lstm, self.act, self.head = nn.LSTM(4, 3, batch_first=True), nn.ReLU(), nn.Linear(3, 2)
        self.size = nn.Flatten(0)

    def forward(self, x):
        z = self.words(self.ids(x)) + self.places(torch.arange(x.shape[1])[None])
        z = self.act(self.head(self.act(self.lstm(z)[0][:, -1])))
        return self.size(z[:, 0])


def test_what_cannot_be_compared_is_left_out_by_default_and_named_once():
    model, batches = Real(), list(torch.randint(0, 9, (3, B, 7)))
    with pytest.warns(UserWarning, match="left out") as caught:
        result = compare_layers(model, model, [{"x": batch} for batch in batches], CKA)
    assert result.layers_a == result.layers_b == ["words", "head"]
    (warning,) = (w for w in caught if w.category is UserWarning)
    assert warning.filename == __file__
    for why in (
        "`model_a.ids` gives torch.int64;",
        "`model_a.places` gives 1 rows for 12 samples;",
        "`model_a.lstm` gives a tuple;",
        "`model_b.act` runs more than once;",
        r"`model_b.size` gives shape (12,)",
    ):
        assert why in str(warning.message)
    with pytest.raises(TypeError, match=r"`model_a.ids` must be a floating-point"):
        compare_layers(model, model, batches, CKA, ["ids"])


def test_a_comparison_is_a_table_of_scores():
    result = LayerComparison(scores=torch.rand(1, 2), layers_a=["x"], layers_b=["one", "two"])
    assert result.table[1:] == (result.layers_a, result.layers_b)
    assert result._asdict().keys() == {"scores", "layers_a", "layers_b"}
    scores, layers_a, layers_b = pickle.loads(pickle.dumps(result))
    close(scores, result.scores)
    assert (layers_a, layers_b) == (["x"], ["one", "two"])


def test_markdown():
    result = LayerComparison(torch.tensor([[0.5, torch.nan]]), ["x|y"], ["one", "two"])
    assert result.to_markdown(1).splitlines() == [
        "| a \\ b | one | two |",
        "| ----- | --: | --: |",
        "| x\\|y  | 0.5 | n/a |",
    ]


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(D, 3)

    def forward(self, x):
        return self.lstm(x)[0]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.act(x))


MODEL = net(D, 5)


def named(layer):
    return {"layers": [layer], "layers_b": ["act0"]}


@pytest.mark.parametrize(
    ("model", "loader", "options", "error", "message"),
    [
        (MODEL, data(), {"layers": ["linear9"]}, ValueError, "`model_a`, got 'linear9'.*'linear0'"),
        (MODEL, data(), {"layers": []}, ValueError, "`layers` must be different names"),
        (MODEL, data(), {"layers": "act0"}, ValueError, "`layers` must be different names"),
        (MODEL, data(), {"layers": ["act0"] * 2}, ValueError, "`layers` must be different names"),
        (MODEL, [], {}, ValueError, "`loader` must give at least one batch"),
        (MODEL, [(1, 2, 3)], {}, ValueError, "pairs .* got a tuple of 3"),
        (MODEL, [[data()[0], torch.arange(B)]], {}, ValueError, "looks like labels. Take them out"),
        (Tuples(), data(), named("lstm"), TypeError, "`model_a.lstm` is a tuple. Name another"),
        (Twice(), data(), named("act"), RuntimeError, "`model_a.act` ran again"),
        (Twice(), data(), {}, ValueError, "by default none is left. `model_a.act` runs more than"),
        (print, data(), {}, TypeError, "`model_a` must be a torch.nn.Module, got builtin"),
        (MODEL, data(), {"measure": "cka"}, TypeError, "`measure` must be a function .* got 'cka'"),
        (MODEL, data(), {"measure": CKA(5, 5)}, TypeError, "not an instance.*got a CKA"),
        (MODEL, data(), {"measure": MutualKNN()}, TypeError, "not an instance.*got a MutualKNN"),
        (
            MODEL,
            data(),
            {"measure": partial(retrieval_scores, k=2)},
            TypeError,
            "`measure` must give one number for two spaces, got a RetrievalResult",
        ),
        (MODEL, [torch.full((B, D), torch.nan)], {}, ValueError, "`model_a.linear0` must be fin"),
        (MODEL, data(), {"pool": lambda z: z[0]}, ValueError, r"`model_a.linear0` must have shape"),
        (MODEL, [(data()[0], data()[0][1:])], {}, ValueError, "`model_a.linear0` and `model_b.lin"),
        (MODEL, data(size=3), {"measure": MinibatchCKA}, ValueError, "rows, got 3.*drop_last=True"),
    ],
    ids=[
        "missing",
        "none",
        "string",
        "repeated",
        "no-batch",
        "triple",
        "labels",
        "tuple",
        "again",
        "nothing",
        "no-module",
        "name",
        "module",
        "instance",
        "tuple-of-scores",
        "nan",
        "pool",
        "unpaired",
        "few",
    ],
)
def test_bad_input(model, loader, options, error, message):
    options = {"measure": CKA, **options}
    with pytest.raises(error, match=message):
        compare_layers(model, MODEL, loader, **options)
    assert hooks(MODEL) == 0
    assert not isinstance(model, nn.Module) or hooks(model) == 0


def test_a_missing_layer_of_the_second_network_is_named():
    with pytest.raises(ValueError, match=r"`model_b`, got 'act1', which is none.*nearest .*act0"):
        compare_layers(net(D, 5, 4), net(D, 7), data(), CKA, ["act1"])


def test_products_that_do_not_fit_are_refused_before_they_are_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU())
    with pytest.raises(ValueError, match=r'`model_a.0`, has 65536 features.*pool="mean"'):
        compare_layers(net, net, torch.randn(1, 4, 3, 32, 32), CKA)
    pooled = compare_layers(net, net, torch.randn(2, 8, 3, 32, 32), CKA, pool="mean")
    assert pooled.scores.diagonal().tolist() == pytest.approx([1, 1])


def test_the_mean_over_positions_by_name():
    maps, sequence = torch.randn(B, 2, 5, 7), torch.randn(B, 9, 4)
    close(mean_over_positions(maps), maps.mean((2, 3)))
    close(mean_over_positions(sequence), sequence.mean(1))
    close(mean_over_positions(sequence[:, 0]), sequence[:, 0])
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    batches = [torch.randn(B, length, 4) for length in (5, 9, 7)]
    named = compare_layers(net, net, batches, mutual_knn, pool="mean").scores
    close(named, compare_layers(net, net, batches, mutual_knn, pool=lambda z: z.mean(1)).scores)
    with pytest.raises(ValueError, match="`pool` must be one of 'mean', got 'max'"):
        compare_layers(net, net, batches, mutual_knn, pool="max")


@pytest.mark.parametrize("measure", [mutual_knn, CKA, MinibatchCKA])
def test_batches_of_another_length_are_refused_where_they_come(measure):
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    batches = [torch.randn(B, length, 4) for length in (5, 9)]
    with pytest.raises(ValueError, match=r"`model_a.0` must give rows of one.*15.*27.*mean"):
        compare_layers(net, net, batches, measure)


def test_the_best_pair_of_layers():
    nan = torch.nan
    table = LayerComparison(
        torch.tensor([[0.2, nan, 0.9], [0.9, 0.1, nan]]), ["a", "b"], list("xyz")
    )
    assert table.best() == ("a", "z", pytest.approx(0.9))
    assert table.best(lowest=True) == ("b", "y", pytest.approx(0.1))
    with pytest.raises(ValueError, match="all of them are NaN"):
        table._replace(scores=torch.full((2, 3), nan)).best()
