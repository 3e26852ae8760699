"""Batches by class and the annealing schedule."""

import itertools
import os
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from relreps import ClassBatchSampler
from relreps.sampling import cyclic_annealing

LABELS = torch.tensor([5, 7, 5, 9, 7, 5, 9, 5, 7, 9, 5, 9, 7, 7, 9, 5])  # six, five, five


def epoch(sampler):
    return [list(batch) for batch in sampler]


def is_valid(batches, labels, samples_per_class, classes_per_batch):
    """Whole groups of different classes, ascending, and no index twice in the epoch."""
    drawn = [i for batch in batches for i in batch]
    for batch in batches:
        of = labels[batch].view(classes_per_batch, samples_per_class)
        if not (of == of[:, :1]).all() or (of[:, 0].diff() <= 0).any():
            return False
    return len(set(drawn)) == len(drawn)


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 4), st.integers(1, 6), st.integers(0, 100))
def test_every_epoch_is_valid_and_as_long_as_it_can_be(counts, b, p, seed):
    counts, p = [n + b - 1 for n in counts], min(p, len(counts))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels))]
    sampler = ClassBatchSampler(labels, b, p, seed=seed)
    batches = epoch(sampler)
    assert len(batches) == len(sampler)
    assert is_valid(batches, labels, b, p)
    groups = [n // b for n in counts]
    t = len(sampler)
    assert sum(min(g, t) for g in groups) >= p * t
    assert sum(min(g, t + 1) for g in groups) < p * (t + 1)


def test_one_class_a_batch_uses_every_whole_group():
    sampler = ClassBatchSampler(LABELS, 2, 1)
    assert len(sampler) == 3 + 2 + 2
    assert Counter(int(LABELS[batch[0]]) for batch in sampler) == {5: 3, 7: 2, 9: 2}


def test_all_classes_by_default_and_the_smallest_sets_the_length():
    batches = epoch(ClassBatchSampler(LABELS, 2))
    assert [len(batch) for batch in batches] == [6, 6]
    assert all(set(LABELS[batch].tolist()) == {5, 7, 9} for batch in batches)


def test_members_and_classes_change_between_epochs():
    labels = torch.arange(400) % 10
    sampler = ClassBatchSampler(labels, 4, 3)
    first, second = epoch(sampler), epoch(sampler)
    groups = [{frozenset(b[i : i + 4]) for b in e for i in (0, 4, 8)} for e in (first, second)]
    assert len(groups[0] & groups[1]) == 0
    combinations = {tuple(labels[batch[::4]].tolist()) for batch in first}
    assert len(combinations) > len(first) / 2
    assert {i for e in (first, second) for b in e for i in b} > {i for b in first for i in b}


def test_no_class_is_left_out_for_long():
    """One group a class and batches of three of ten: each epoch one class waits, not always one."""
    sampler = ClassBatchSampler(torch.arange(10), 1, 3)
    left = [set(range(10)) - set(itertools.chain(*epoch(sampler))) for _ in range(20)]
    assert all(len(rest) == 1 for rest in left)
    assert len(set().union(*left)) > 4


def test_epochs_count_themselves_until_one_is_set():
    sampler, other = (
        ClassBatchSampler(LABELS, 2, 2, seed=3),
        ClassBatchSampler(LABELS, 2, 2, seed=3),
    )
    epochs = [epoch(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for number in (2, 0, 1):
        other.set_epoch(number)
        assert epoch(other) == epochs[number]
        assert epoch(other) == epochs[number]
    assert epoch(ClassBatchSampler(LABELS, 2, 2, seed=4)) != epochs[0]


def test_two_iterations_at_once_do_not_mix():
    sampler, other = ClassBatchSampler(LABELS, 2, 2), ClassBatchSampler(LABELS, 2, 2)
    together = list(zip(iter(sampler), iter(sampler), strict=True))
    assert [first for first, _ in together] == epoch(other)
    assert [second for _, second in together] == epoch(other)


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_an_epoch(replicas):
    labels = torch.arange(130) % 5
    whole = ClassBatchSampler(labels, 3, 2)
    ranks = [
        ClassBatchSampler(labels, 3, 2, num_replicas=replicas, rank=r) for r in range(replicas)
    ]
    for _ in range(2):
        parts = [epoch(sampler) for sampler in ranks]
        assert {len(part) for part in parts} == {len(ranks[0])} == {len(whole) // replicas}
        drawn = [i for part in parts for batch in part for i in batch]
        assert len(set(drawn)) == len(drawn)
        together = [batch for step in zip(*parts, strict=True) for batch in step]
        assert together == epoch(whole)[: len(together)]


def in_two_processes(rank, path):
    """The group is made after one sampler and before another; both know of it."""
    torch.set_num_threads(1)
    before, used = ClassBatchSampler(LABELS, 2, 1), ClassBatchSampler(LABELS, 2, 1)
    assert len(used) == 7
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    whole = epoch(ClassBatchSampler(LABELS, 2, 1, num_replicas=1, rank=0))
    for sampler in (before, ClassBatchSampler(LABELS, 2, 1)):
        assert len(sampler) == 3
        mine = epoch(sampler)
        assert mine == whole[rank:6:2]
        both = [None, None]
        dist.all_gather_object(both, mine)
        drawn = [i for part in both for batch in part for i in batch]
        assert len(set(drawn)) == len(drawn) == 12
    for use in (len, iter):
        with pytest.raises(RuntimeError, match=f"as replica 0 of 1 and is now, .* {rank} of 2"):
            use(used)
    with pytest.raises(ValueError, match=r"`num_replicas` .* got 2 and 1 batches"):
        ClassBatchSampler(LABELS, 4)
    dist.barrier()  # neither leaves while the other still receives
    os._exit(0)  # what has passed is not undone by gloo's threads, which may abort at a normal exit


def test_the_process_group_is_asked_when_batches_are(tmp_path):
    torch.multiprocessing.spawn(in_two_processes, (tmp_path / "store",), nprocs=2)


def test_an_epoch_as_long_as_wanted():
    """Of small classes, too: groups are drawn anew, and none holds a sample twice."""
    sampler = ClassBatchSampler(LABELS, 5, 2, batches_per_epoch=30)
    assert len(ClassBatchSampler(LABELS, 5)) == 1
    batches = epoch(sampler)
    assert len(batches) == len(sampler) == 30
    assert all(is_valid([batch], LABELS, 5, 2) for batch in batches)
    assert {i for batch in batches for i in batch} == set(range(16))
    assert len({LABELS[batch[0]].item() for batch in batches}) == 2
    assert len({tuple(sorted(batch)) for batch in batches}) > 3
    assert epoch(sampler) != batches
    sampler.set_epoch(0)
    assert epoch(sampler) == batches
    options = {"batches_per_epoch": 30, "num_replicas": 4}
    parts = [epoch(ClassBatchSampler(LABELS, 5, 2, rank=r, **options)) for r in range(4)]
    assert [batch for step in zip(*parts, strict=True) for batch in step] == batches[:28]


@pytest.mark.parametrize("options", [{}, {"batches_per_epoch": 3}])
def test_another_default_device_does_not_matter(options):
    wanted = epoch(ClassBatchSampler(LABELS, 2, **options))
    with torch.device("meta"):
        assert epoch(ClassBatchSampler(LABELS.tolist(), 2, **options)) == wanted


def test_global_randomness_is_neither_used_nor_moved():
    state = torch.get_rng_state()
    first = epoch(ClassBatchSampler(LABELS, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert epoch(ClassBatchSampler(LABELS, 2)) == first


def test_in_a_data_loader():
    data = TensorDataset(torch.arange(len(LABELS)), LABELS)
    sampler = ClassBatchSampler(LABELS, 2, 2)
    loader = DataLoader(data, batch_sampler=sampler)
    batches = list(loader)
    assert len(loader) == len(batches) == len(sampler)
    for _, labels in batches:
        assert torch.equal(labels[::2], labels[1::2])
        assert labels[0] < labels[2]


def test_repr_and_length_draw_nothing():
    sampler = ClassBatchSampler(LABELS, 2, 2)
    assert repr(sampler) == "ClassBatchSampler(16 labels, 2, 2)"
    assert epoch(sampler) == epoch(ClassBatchSampler(LABELS, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((LABELS, 6), {}, ValueError, r"`samples_per_class` .* got 6 .* sizes: 7 \(5\), 9 \(5\)\."),
        ((LABELS, 2, 4), {}, ValueError, "`classes_per_batch` .* got 4 and 3 classes"),
        ((LABELS, 0), {}, ValueError, "`samples_per_class` must be at least 1"),
        ((LABELS, 2, 0), {}, ValueError, "`classes_per_batch` must be at least 1"),
        ((LABELS.float(), 2), {}, TypeError, "`labels` must be an integer tensor"),
        ((LABELS.view(4, 4), 2), {}, ValueError, "`labels` must have one entry"),
        ((LABELS[:0], 2), {}, ValueError, "`labels` must name at least one sample"),
        (([], 2), {}, ValueError, "`labels` must name at least one sample"),
        ((["cat", "dog"], 1), {}, TypeError, "`labels` must be integers, .* 'dog'"),
        ((None, 1), {}, TypeError, "`labels` must be integers, .* got None"),
        ((LABELS, 2), {"seed": -1}, ValueError, "`seed`"),
        ((LABELS, 2), {"batches_per_epoch": 0}, ValueError, "`batches_per_epoch`"),
        ((LABELS, 2), {"num_replicas": 2, "rank": 2}, ValueError, "`rank` must be below"),
        ((LABELS, 2), {"num_replicas": 3, "rank": 0}, ValueError, "`num_replicas` .* 2 batches"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ClassBatchSampler(*arguments, **options)


def test_a_bad_epoch():
    with pytest.raises(ValueError, match="`epoch` must be at least 0"):
        ClassBatchSampler(LABELS, 2).set_epoch(-1)


def test_the_schedule_at_its_corners():
    values = [cyclic_annealing(step, 40) for step in range(45)]
    assert values[:10] == pytest.approx([i / 7.5 for i in range(8)] + [1, 1])
    assert values[10:40] == pytest.approx(values[:10] * 3)
    assert values[40:] == [1] * 5
    assert cyclic_annealing(7.5, 40) == cyclic_annealing(9.999, 40) == 1
    assert cyclic_annealing(10, 40) == 0
    assert cyclic_annealing(3, 10, cycles=1, ratio=1) == pytest.approx(0.3)
    assert cyclic_annealing(0, 10, ratio=0) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((-1, 10), "step"), ((0, 0), "total"), ((0, 10, 0), "cycles"), ((0, 10, 4, 1.5), "ratio")],
)
def test_a_bad_schedule(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        cyclic_annealing(*arguments)
