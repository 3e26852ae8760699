"""Streams that something happens to: an interrupt, a process that dies, rows beyond squaring."""

import itertools

import pytest
import torch
import torch.distributed as dist

from relreps.moments import FeatureMoments, Moments
from tests._data import interrupted

X, Y = torch.randn(30, 4) + 3, torch.randn(30, 3)


def seen(*rows):
    return Moments(4, 3).update(X[rows[0] : rows[1]], Y[rows[0] : rows[1]])


def state(stream):
    return {name: value.clone() for name, value in stream.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], value) for name, value in b.items())


CALLS = {
    "update": (lambda: seen(0, 10), lambda m: m.update(X[10:], Y[10:])),
    "weights": (lambda: seen(0, 10), lambda m: m.update(X[10:], Y[10:], torch.ones(20))),
    "merge": (lambda: seen(0, 10), lambda m: m.merge(seen(10, 30))),
    "subtract": (lambda: seen(0, 30), lambda m: m.subtract(seen(10, 30))),
    "decay": (lambda: seen(0, 30), lambda m: m.decay(0.5)),
    "reset": (lambda: seen(0, 30), lambda m: m.reset()),
}


@pytest.mark.parametrize(("make", "call"), CALLS.values(), ids=CALLS)
def test_an_interrupt_finds_all_or_nothing(make, call):
    stream = make()
    before = state(stream)
    after = state(call(stream))
    for line in itertools.count(1):
        stream = make()
        if not interrupted(lambda s=stream: call(s), line):
            break
        found = state(stream)
        assert same(found, before) or same(found, after), line
    assert line > 10


@pytest.mark.parametrize("survives", range(3))
def test_a_process_that_dies_leaves_the_others_what_they_had(survives, monkeypatch, tmp_path):
    """Whichever of the messages is the first that has no answer."""
    calls = iter([*[True] * survives, *[False] * 9])

    def fails(function):
        def call(*args, **options):
            if not next(calls):
                raise RuntimeError("Connection closed by peer")
            return function(*args, **options)

        return call

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 's'}", rank=0, world_size=1)
    try:
        stream = seen(0, 10)
        before = state(stream)
        monkeypatch.setattr(dist, "all_reduce", fails(dist.all_reduce))
        monkeypatch.setattr(dist, "all_gather", fails(dist.all_gather))
        with pytest.raises(RuntimeError, match="by peer"):
            stream.all_reduce()
        assert same(state(stream), before)
        monkeypatch.undo()
        assert stream.all_reduce().count == 10
    finally:
        dist.destroy_process_group()


def test_streams_agree_on_more_than_their_names(monkeypatch, tmp_path):
    """Sizes, products and types are compared, of subclasses that do not print them, too."""
    told = []

    class Plain(Moments):
        def extra_repr(self):
            return ""

    monkeypatch.setattr(
        "relreps.moments.stream.check_agreement", lambda _, text, __: told.append(text)
    )
    for stream in (Plain(3), Plain(4), Plain(3, 3), FeatureMoments(3), Moments(3)):
        with pytest.raises(RuntimeError, match="no process group"):
            stream.all_reduce()
    assert len(set(told)) == 5
    assert "0x" not in "".join(told)


def test_squares_that_are_no_numbers_are_said():
    stream = Moments(2).update(torch.randn(5, 2, dtype=torch.float64) * 1e200)
    assert stream.mean_x.isfinite().all()
    with pytest.raises(ValueError, match=r"squares are no float64 numbers.*Divide all rows by one"):
        stream.cov_xx  # noqa: B018


@pytest.mark.parametrize("sizes", [[300], [1] * 300, [17, 1, 282], [100] * 3], ids=str)
def test_one_extreme_row_in_any_chunk(sizes):
    x = torch.randn(300, 4) @ torch.randn(4, 4) + 1
    x[17] *= 1e4
    stream = Moments(4)
    for chunk in x.split(sizes):
        stream.update(chunk)
    wanted = x.double().T.cov(correction=0)
    units = wanted.diagonal().sqrt()
    error = (stream.cov_xx - wanted) / units / units[:, None]
    assert error.abs().max() < 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("weights", [None, torch.ones(30), (torch.arange(30) != 3).float()])
def test_what_is_not_finite_never_enters(bad, weights):
    x = X.clone()
    x[3, 1] = bad
    for stream in (Moments(4), FeatureMoments(4), Moments(4, exact=True)):
        with pytest.raises(ValueError, match="the first is row 3"):
            stream.update(x, weights=weights)
        assert stream.count == 0


def test_a_stream_begun_in_inference_mode_goes_on_outside():
    with torch.inference_mode():
        stream = Moments(4).update(X).double()
    torch.testing.assert_close(stream.update(X).cov_xx, Moments(4).update(X).cov_xx)
    stream.load_state_dict(Moments(4).update(X[:5]).state_dict())
    assert stream.reset().count == 0
