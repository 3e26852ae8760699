"""Streams against one call on all rows; two processes against one; torchmetrics against both."""

import copy
import os
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import distributed as dist
from torchmetrics import Metric, MetricCollection

from relreps import NumericalWarning, metrics
from relreps.integrations import torchmetrics as adapters
from relreps.metrics import MutualKNN, RetrievalScores, mutual_knn, retrieval_scores
from tests._data import interrupted

#: The biased form is meant here, of whatever few rows.
pytestmark = pytest.mark.filterwarnings("ignore:Biased CKA of so few rows")

D, K = 5, 3
close = torch.testing.assert_close
SIZES = (7, 1, 0, 12)

STREAMS = {
    "RetrievalScores": (lambda: RetrievalScores(K), lambda x, y: retrieval_scores(x, y, K)),
    "MutualKNN": (lambda: MutualKNN(K), lambda x, y: mutual_knn(x, y, K)),
    "MutualKNN-calibrated": (
        lambda: MutualKNN(K, calibrated=True),
        lambda x, y: mutual_knn(x, y, K, calibrated=True),
    ),
}
each_stream = pytest.mark.parametrize(("make", "function"), STREAMS.values(), ids=STREAMS)

METRICS = {
    "CKA": (lambda **o: adapters.CKA(D, D, **o), lambda: metrics.CKA(D, D)),
    "CKA-debiased": (lambda **o: adapters.CKA(D, D, True, **o), lambda: metrics.CKA(D, D, True)),
    "RetrievalScores": (lambda **o: adapters.RetrievalScores(K, **o), lambda: RetrievalScores(K)),
    "MutualKNN": (lambda **o: adapters.MutualKNN(K, **o), lambda: MutualKNN(K)),
}
each_metric = pytest.mark.parametrize(("make", "plain"), METRICS.values(), ids=METRICS)


def batches(sizes=SIZES, dtype=torch.float64):
    return [
        (x, x + 0.5 * torch.randn_like(x))
        for x in (torch.randn(size, D, dtype=dtype) for size in sizes)
    ]


def joined(pairs):
    return [torch.cat(side) for side in zip(*pairs, strict=True)]


def fed(measure, pairs):
    for x, y in pairs:
        measure.update(x, y)
    return measure


def values(result):
    return dict(result._asdict()) if hasattr(result, "_asdict") else result


@each_stream
def test_a_stream_equals_one_call(make, function):
    pairs = batches()
    stream = fed(make(), pairs)
    assert stream.count == sum(SIZES)
    close(stream.compute(), function(*joined(pairs)), atol=0, rtol=0)
    close(stream.compute(), fed(make(), [joined(pairs)]).compute(), atol=0, rtol=0)


@each_stream
def test_merged_streams_keep_the_order(make, function):
    pairs = batches()
    left, right = fed(make(), pairs[:1]), fed(make(), pairs[1:])
    assert left.merge(right) is left
    close(left.compute(), function(*joined(pairs)), atol=0, rtol=0)
    close(right.compute(), function(*joined(pairs[1:])), atol=0, rtol=0)
    assert left.merge(left).count == 2 * sum(SIZES)


@each_stream
def test_reset_forgets(make, function):
    pairs = batches()
    stream = fed(make(), batches()).reset()
    assert stream.count == 0
    close(fed(stream, pairs).compute(), function(*joined(pairs)), atol=0, rtol=0)


@each_stream
def test_later_changes_of_a_batch_do_not_reach_the_stream(make, function):
    ((x, y),) = batches((9,))
    stream = make().update(x.requires_grad_(), y)
    expected = function(x, y)
    with torch.no_grad():
        x.zero_()
    close(stream.compute(), expected)


@each_stream
def test_copies_and_pickles_carry_the_rows(make, function):
    stream = fed(make(), batches())
    for other in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        close(other.compute(), stream.compute())


def test_spaces_may_have_different_widths_where_the_measure_allows():
    x, y = torch.randn(2, 6, D), torch.randn(2, 6, D + 2)
    stream = fed(MutualKNN(K), zip(x, y, strict=True))
    close(stream.compute(), mutual_knn(x.flatten(0, 1), y.flatten(0, 1), K))


@each_stream
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ((3, D), (4, D), ValueError, "paired row by row, got 3 and 4"),
        ((3, D + 1), (3, D), ValueError, r"`x` must have shape \(rows, 5\), got \(3, 6\)"),
        ((3, D), (3, D, 1), ValueError, r"`y` must have shape \(rows, 5\)"),
    ],
)
def test_bad_batches_leave_the_stream_as_it_was(make, function, x, y, error, message):
    pairs = batches()
    stream = fed(make(), pairs)
    with pytest.raises(error, match=message):
        stream.update(torch.randn(x), torch.randn(y))
    with pytest.raises(ValueError, match="`y` must be finite"):
        stream.update(torch.ones(3, D), torch.full((3, D), torch.nan))
    close(stream.compute(), function(*joined(pairs)))


@each_stream
def test_what_is_said_of_misuse(make, function):
    with pytest.raises(RuntimeError, match=r"k=3.* has seen no rows yet. Call `update"):
        make().compute()
    with pytest.raises(ValueError, match=r"`other` must be a .*k=3.*, got .*k=4"):
        make().merge(type(make())(4))
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        type(make())(0)
    with pytest.raises(ValueError, match=r"`k` must be at most .* k=3|at least 3 row\(s\), got 2"):
        fed(make(), batches((2,))).compute()
    with pytest.raises(RuntimeError, match="init_process_group"):
        make().all_reduce()


@each_metric
def test_a_metric_is_its_stream(make, plain):
    pairs = batches()
    metric = fed(make(), pairs)
    assert isinstance(metric, Metric)
    close(metric.compute(), values(fed(plain(), pairs).compute()))
    metric.reset()
    pairs = batches()
    close(fed(metric, pairs).compute(), values(fed(plain(), pairs).compute()))


@each_metric
def test_forward_gives_the_batch_and_adds_it(make, plain):
    pairs = batches((6, 8, 9))
    metric = make()
    for x, y in pairs:
        close(metric(x, y), values(plain().update(x, y).compute()))
    close(metric.compute(), values(fed(plain(), pairs).compute()))


@each_metric
def test_metrics_merge(make, plain):
    pairs = batches((6, 8, 9))
    left, right = fed(make(), pairs[:1]), fed(make(), pairs[1:])
    left.merge_state(right)
    close(left.compute(), values(fed(plain(), pairs).compute()))


@each_metric
def test_metrics_are_copied_pickled_and_collected(make, plain):
    pairs = batches()
    metric = fed(make(), pairs)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        close(other.compute(), metric.compute())
    collection = MetricCollection({"one": make(), "more": make()})
    fed(collection, pairs)
    assert len(collection.compute()) >= 2


@each_metric
def test_a_metric_checks_its_batches(make, plain):
    with pytest.raises(ValueError, match="paired row by row, got 3 and 4"):
        make().update(torch.randn(3, D), torch.randn(4, D))
    metric = fed(make(), batches())
    before = metric.compute()
    with pytest.raises(ValueError, match=r"`x` must have shape \(rows, 5\), got \(4, 6\)"):
        metric.update(torch.randn(4, D + 1), torch.randn(4, D))
    close(metric.compute(), before)


@each_metric
def test_later_changes_of_a_batch_do_not_reach_the_metric(make, plain):
    ((x, y),) = batches((9,))
    expected = values(plain().update(x, y).compute())
    metric = fed(make(), [(x, y)])
    x.normal_()
    close(metric.compute(), expected)


SHORT = {
    "CKA": (METRICS["CKA"], 1),
    "CKA-debiased": (METRICS["CKA-debiased"], 3),
    "RetrievalScores": (METRICS["RetrievalScores"], K - 1),
    "MutualKNN": (METRICS["MutualKNN"], K),
}


@pytest.mark.parametrize(("kind", "rows"), SHORT.values(), ids=SHORT)
def test_a_short_last_batch_has_no_value_and_counts(kind, rows):
    make, plain = kind
    pairs = batches((8, 9, rows))
    metric = make()
    for x, y in pairs[:-1]:
        metric(x, y)
    with pytest.warns(NumericalWarning, match=f"The batch has {rows} rows.*its own value is NaN"):
        value = metric(*pairs[-1])
    for number in value.values() if isinstance(value, dict) else (value,):
        assert number.isnan()
    close(metric.compute(), values(fed(plain(), pairs).compute()))


@each_metric
def test_a_forward_that_fails_changes_nothing(make, plain):
    pairs = batches((8, 9))
    metric = make()
    for x, y in pairs:
        metric(x, y)
    with pytest.raises(ValueError, match="paired row by row, got 6 and 5"):
        metric(torch.randn(6, D), torch.randn(5, D))
    assert metric.update_count == 2
    close(metric.compute(), values(fed(plain(), pairs).compute()))
    more = batches((7,))
    metric(*more[0])
    close(metric.compute(), values(fed(plain(), [*pairs, *more]).compute()))


@each_metric
def test_metrics_plot_a_value_and_several(make, plain):
    metric = make()
    steps = [metric(x, y) for x, y in batches((8, 9, 12))]
    for val in (None, steps[0], steps):
        figure, axes = metric.plot(val)
        assert isinstance(figure, Figure)
        assert isinstance(axes, Axes)
        plt.close(figure)
    figure, own = plt.subplots()
    assert metric.plot(ax=own)[1] is own
    plt.close(figure)


KEPT = {"CKA": lambda: metrics.CKA(D, D, True), "MutualKNN": lambda: MutualKNN(K)}


@pytest.mark.parametrize(
    ("kind", "call"), [("CKA", "update"), ("MutualKNN", "update"), ("MutualKNN", "merge")]
)
def test_an_interrupt_finds_all_of_a_batch_or_nothing(kind, call):
    make = KEPT[kind]

    def kept(stream):
        if isinstance(stream, MutualKNN):
            return [side for pair in stream._batches for side in pair]
        return list(stream.buffers())

    first, second = batches((9, 8))
    start = make().update(*first)
    calls = {
        "update": lambda s: s.update(*second),
        "merge": lambda s: s.merge(make().update(*second)),
    }
    after = calls[call](copy.deepcopy(start))
    line, stream = 1, copy.deepcopy(start)
    while interrupted(partial(calls[call], stream), line):
        torch.set_grad_enabled(True)  # an interrupt may come between a `with` block and its end
        held = kept(stream)
        assert any(
            len(held) == len(whole) and all(map(torch.equal, held, whole))
            for whole in (kept(start), kept(after))
        )
        line, stream = line + 3, copy.deepcopy(start)
    assert line > 3


def test_without_torchmetrics_the_extra_is_named():
    module = "relreps.integrations.torchmetrics"
    code = f"import sys; sys.modules['torchmetrics'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "torchmetrics needs torchmetrics, which is not installed" in done.stderr
    assert "pip install 'relreps[torchmetrics]'" in done.stderr


def cka_in_two_processes(rank):
    """Uneven shards with different shifts and units; one process may have seen nothing."""
    x = torch.randn(60, D, dtype=torch.float64)
    x = (x + torch.linspace(0, 9, 60)[:, None]) * torch.logspace(0, 3, 60)[:, None]
    y = x + 100 * torch.randn_like(x)
    rows = slice(0, 17) if rank == 0 else slice(17, None)
    for debiased in (False, True):
        wanted = metrics.linear_cka(x, y, debiased)
        stream = metrics.CKA(D, D, debiased).update(x[rows], y[rows])
        close(stream.all_reduce().compute(), wanted)
        alone = metrics.CKA(D, D, debiased)
        if rank:
            alone.update(x, y)
        close(alone.all_reduce().compute(), wanted)
    half = slice(0, 30) if rank == 0 else slice(30, None)
    stream = metrics.MinibatchCKA().update(x[half], y[half])
    close(stream.all_reduce().compute(), metrics.minibatch_cka(x, y, 30))


def disagreements_in_two_processes(rank):
    """Measures that are not alike are refused by both processes, and are what they were."""
    x, y = torch.randn(20, 4), torch.randn(20, 4)
    narrow = metrics.CKA(4, 3 + rank).update(x, y[:, : 3 + rank])
    before = narrow.compute()
    with pytest.raises(ValueError, match=r"The measure must be the same.*out_features=3.*=4"):
        narrow.all_reduce()
    close(narrow.compute(), before, atol=0, rtol=0)
    kernel = ("linear", "rbf")[rank]
    stream = metrics.MinibatchCKA(kernel).update(x, y)
    before = stream.compute()
    with pytest.raises(ValueError, match=r"The measure must be the same.*linear.*rbf"):
        stream.all_reduce()
    close(stream.compute(), before, atol=0, rtol=0)
    for make in (
        lambda: adapters.CKA(4, 3 + rank),
        lambda: adapters.MutualKNN(3 + rank),
        lambda: adapters.RetrievalScores(3 + rank),
    ):
        metric = make()
        metric.update(x, y[:, : 3 + rank] if isinstance(metric, adapters.CKA) else y)
        with pytest.raises(ValueError, match="must be the same in every process"):
            metric.compute()
    pairs = batches((7, 4, 12))
    for make, plain in METRICS.values():  # one process has no rows
        close(fed(make(), pairs if rank else []).compute(), values(fed(plain(), pairs).compute()))


def in_two_processes(rank, path):
    """Uneven shards, one of them empty in the end; the rows are those of one process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    pairs = batches((7, 4, 12), dtype=torch.bfloat16)
    mine = pairs[:1] if rank == 0 else pairs[1:]
    for make, function in STREAMS.values():
        close(fed(make(), mine).all_reduce().compute(), function(*joined(pairs)), atol=0, rtol=0)
        first = fed(make(), pairs if rank == 0 else []).all_reduce()
        close(first.compute(), function(*joined(pairs)), atol=0, rtol=0)
        second = fed(make(), pairs if rank == 1 else []).all_reduce()
        close(second.compute(), function(*joined(pairs)), atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"must be the same in every process.*k=3.*k=4"):
        MutualKNN(3 + rank).all_reduce()
    uneven = MutualKNN(K).update(torch.randn(4, D + rank), torch.randn(4, D))
    with pytest.raises(ValueError, match=r"`x` must have shape \(rows, 5\), got \(4, 6\)"):
        uneven.all_reduce()
    assert uneven.count == 4
    torch.manual_seed(0)  # what came before drew more numbers in one process than in the other
    pairs = batches((7, 4, 12))
    mine = pairs[:1] if rank == 0 else pairs[1:]
    for make, plain in METRICS.values():
        close(fed(make(), mine).compute(), values(fed(plain(), pairs).compute()))
    cka_in_two_processes(rank)
    disagreements_in_two_processes(rank)
    dist.barrier()  # neither leaves while the other still receives
    os._exit(0)  # what has passed is not undone by gloo's threads, which may abort at a normal exit


def test_two_processes_see_what_one_would(tmp_path):
    torch.multiprocessing.spawn(in_two_processes, (tmp_path / "store",), nprocs=2)
