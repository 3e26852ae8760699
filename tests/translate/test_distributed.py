"""Two processes that each saw a part fit what one would that saw all, or both refuse."""

import os

import pytest
import torch

from relreps import (
    AffineTranslator,
    CCATranslator,
    LinearTranslator,
    LOrthoTranslator,
    Moments,
    ProcrustesTranslator,
)
from relreps._core.distributed import all_reduce_sum, check_agreement
from relreps.moments import FeatureMoments
from relreps.translate import (
    PermutationTranslator,
    ProcrustesRidgeTranslator,
    ReducedRankTranslator,
    WhitenedTranslator,
)
from tests._data import sums

close = torch.testing.assert_close

TRANSLATORS = [
    lambda: ProcrustesTranslator(6, 5, scale="umeyama"),
    lambda: ProcrustesTranslator(6, 5, pre="standard"),
    lambda: ProcrustesTranslator(6, 5, scale="norm", pre="unit"),
    lambda: LinearTranslator(6, 5),
    lambda: AffineTranslator(6, 5, ridge="gcv"),
    lambda: ProcrustesRidgeTranslator(6, 5),
    lambda: ReducedRankTranslator(6, 5, 2),
    lambda: LOrthoTranslator(6, 5),
    lambda: CCATranslator(6, 5, max_rank=3),
    lambda: WhitenedTranslator(6, 5),
    lambda: PermutationTranslator(6, 5, signed=True),
]


def pairs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, 6, dtype=torch.float64, generator=generator) + 100
    mix = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    return x, x @ mix + torch.randn(70, 5, dtype=torch.float64, generator=generator) - 300


def share(rank, first):
    """The rows of this process, if the first process has ``first`` of them."""
    return slice(0, first) if rank == 0 else slice(first, None)


def in_one_of_two(rank, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    all_refuse(rank)
    sums_agree(rank)
    torch.distributed.barrier()  # neither leaves while the other still receives
    os._exit(0)  # what has passed is not undone by gloo's threads, which may abort at a normal exit


def sums_agree(rank):
    x, y = pairs()
    w = torch.arange(70).double() % 5  # some pairs do not count
    for first in (20, 0, 70):
        some = share(rank, first)
        for make in TRANSLATORS:
            t, whole = make().double(), make().double().fit(x, y, w)
            for rows in (slice(0, 3), slice(3, None)):  # one of the chunks may have no rows
                t.partial_fit(x[some][rows], y[some][rows], w[some][rows])
            t.all_reduce().solve()
            for name, value in whole.state_dict().items():
                close(t.state_dict()[name], value, atol=1e-10, rtol=1e-10)
        t = make().double()  # a process that was given no rows has not called `partial_fit`
        if len(x[some]):
            t.partial_fit(x[some], y[some], w[some])
        close(t.all_reduce().solve()(x), whole(x), atol=1e-10, rtol=1e-10)
        for stale in (t, t.partial_fit(x, y)):  # it has the pairs of both already
            with pytest.raises(RuntimeError, match=r"pairs of all processes already.*Moments"):
                stale.all_reduce()
        moments = Moments(6, 5, exact=True).update(x[some], y[some], w[some]).all_reduce()
        at_once = Moments(6, 5, exact=True).update(x, y, w)
        close(sums(moments.state()), sums(at_once.state()), atol=1e-9, rtol=1e-12)
        if t.pre != "unit":
            close(make().double().solve(moments)(x), whole(x), atol=1e-10, rtol=1e-10)
        features = FeatureMoments(6).update(x[some]).all_reduce()
        close(features.variance, x.var(0, correction=0))
    some = share(rank, 20)
    mixed = AffineTranslator(6, 5).partial_fit(*(s[some].float() if rank else s for s in (x, y)))
    assert mixed.all_reduce()._seen.eps == torch.finfo(torch.float32).eps  # the coarser one
    alone = [torch.distributed.new_group([r]) for r in range(2)][rank]
    t = TRANSLATORS[0]().double().partial_fit(x[:40], y[:40]).all_reduce(alone).solve()
    close(t(x), TRANSLATORS[0]().double().fit(x[:40], y[:40])(x), atol=1e-10, rtol=1e-10)
    with pytest.raises(RuntimeError, match="ProcrustesTranslator has seen no pairs"):
        TRANSLATORS[0]().all_reduce().solve()


def all_refuse(rank):
    x, y = pairs()
    narrow = 5 + rank
    for make, message in (
        (lambda: Moments(narrow).update(x[:, :narrow]), "The stream must be the same"),
        (lambda: (FeatureMoments(6), Moments(6))[rank].update(x), "rank 0: FeatureMoments"),
        (lambda: AffineTranslator(narrow, 5).partial_fit(x[:, :narrow], y), "translator must be"),
        (lambda: AffineTranslator(6, 5, ridge=rank).partial_fit(x, y), r"rank 1: .*ridge=1"),
    ):
        stream = make()
        before = {name: value.clone() for name, value in stream.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            stream.all_reduce()
        close(stream.state_dict(), before, atol=0, rtol=0)
    long = "x" * 1000  # differs only beyond what is shown
    with pytest.raises(ValueError, match="Names must be the same in every process"):
        check_agreement("Names", f"{long}{rank}")
    assert check_agreement("Names", None if rank else "a") == "a"
    assert check_agreement("Names", None) is None
    total, vector = all_reduce_sum(torch.tensor(1.5), torch.tensor([rank, 1], dtype=torch.int32))
    assert total == 3
    assert vector.tolist() == [1, 2]


def test_two_processes(tmp_path):
    """What they disagree on both refuse, neither hangs, and then they go on to agree."""
    torch.multiprocessing.spawn(in_one_of_two, (tmp_path / "store",), nprocs=2)


@pytest.mark.parametrize("make", [lambda: Moments(3), lambda: AffineTranslator(3, 3)])
def test_without_a_process_group(make):
    with pytest.raises(RuntimeError, match=r"no process group to sum over.*init_process_group"):
        make().all_reduce()
