"""Comparisons of layers against measures of outputs that are computed by hand."""

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
)

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


def test_what_one_layer_needs_is_computed_once_for_it(monkeypatch):
    """Moments of a batch are taken once, of 4 + 2 layers with themselves and 4 * 2 pairs."""
    import relreps.metrics._grids as grids

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


def test_constant_layers_are_nan_with_a_warning():
    a = net(D, 5)
    nn.init.zeros_(a.linear0.weight)
    for measure in (CKA, MinibatchCKA, partial(mutual_knn, k=3)):
        with pytest.warns(NumericalWarning):
            scores = compare_layers(a, net(D, 7), data(), measure).scores
        assert scores.isnan().all()


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
        (Tuples(), data(), {}, TypeError, "`model_a.lstm` is a tuple. Name another layer"),
        (Twice(), data(), {}, RuntimeError, "`model_a.act` ran again"),
        (MODEL, [torch.full((B, D), torch.nan)], {}, ValueError, "`model_a.linear0` must be fin"),
        (MODEL, data(), {"pool": lambda z: z[0]}, ValueError, r"`model_a.linear0` must have shape"),
        (MODEL, [(data()[0], data()[0][1:])], {}, ValueError, "`model_a.linear0` and `model_b.lin"),
        (MODEL, data(size=3), {"measure": MinibatchCKA}, ValueError, "at least 4 rows, got 3"),
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
    assert hooks(model) == hooks(MODEL) == 0


def test_a_missing_layer_of_the_second_network_is_named():
    with pytest.raises(ValueError, match=r"`model_b`, got 'act1', which is none.*nearest .*act0"):
        compare_layers(net(D, 5, 4), net(D, 7), data(), CKA, ["act1"])
