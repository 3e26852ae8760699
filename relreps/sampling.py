"""Batches made of whole groups per class, and the schedule that goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Sampler

from relreps._core import checks, draws


class ClassBatchSampler(Sampler[list[int]]):
    r"""Batches of the same number of samples from each of several classes.

    Every epoch the members of each class are shuffled anew and cut into groups of
    ``samples_per_class``, without replacement: no index occurs twice in an epoch. A batch is one
    group from each of ``classes_per_batch`` different classes, one group after the other, classes
    ascending, so ``z.unflatten(0, (-1, samples_per_class))`` is one cloud a class.

    An epoch is as long as it can be with unequal classes and nothing drawn twice: classes with more
    groups left are taken more often, and a class of :math:`g_c` groups is in at most
    :math:`\min(g_c, T)` of the T batches,

    .. math:: T = \max\Bigl\{ t : \sum_c \min(g_c, t) \ge t \cdot
              \text{classes per batch} \Bigr\}.

    With all classes in every batch the smallest class therefore sets the length, and with one class
    a batch every whole group is used. Members that are left over wait for another epoch's shuffle.
    With ``batches_per_epoch`` it is as long as you say, whatever the sizes are: each batch then
    draws its classes and their members anew, so a sample may come again in another batch of the
    epoch, but never twice in one, where the two would be points without a distance.

    Each iteration is a new epoch, until `set_epoch` is called: from then on the epoch is the one
    set, as in `torch.utils.data.DistributedSampler`, so call it before every epoch. The batches of
    an epoch depend on ``seed``, epoch and labels alone. Replicas share one epoch: batch t goes to
    replica t mod ``num_replicas``, all get equally many, and up to ``num_replicas - 1`` batches are
    left out. Which replica this is, is asked whenever an epoch begins or the length is wanted, so
    the sampler may be made before the process group. Lightning, which puts a sampler of its own
    into loaders, is told by ``Trainer(use_distributed_sampler=False)`` to leave this one as it is.
    O(N log N + T C log C) an epoch, for N samples and C classes.

    Args:
        labels: Class of each sample, integers.
        samples_per_class: Samples :math:`b` drawn from a class for a batch.
        classes_per_batch: Classes in a batch; all of them by default.
        num_replicas: Number of processes; by default those of the process group, or one.
        rank: Which of them this is; by default that of the process group.
        seed: Seed of the shuffles, the same on all replicas.
        batches_per_epoch: Number of batches of an epoch, over all replicas. By default an epoch
            draws no sample twice.

    Raises:
        ValueError: If a class is too small (every such class is named), there are fewer classes
            than asked for, or fewer batches than replicas.
        RuntimeError: If it was used before the process group was made, as the one replica that
            there was then.

    Example:
        >>> sampler = ClassBatchSampler([0, 1, 0, 1, 1, 1, 0, 0], 2)
        >>> [[batch[0] in (0, 2, 6, 7), len(batch)] for batch in sampler]
        [[True, 4], [True, 4]]
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        samples_per_class: int,
        classes_per_batch: int | None = None,
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        batches_per_epoch: int | None = None,
    ) -> None:
        samples_per_class = checks.check_size("samples_per_class", samples_per_class)
        seed = checks.check_size("seed", seed, minimum=0)
        self.labels = _checked_labels(labels)
        self.samples_per_class = samples_per_class
        self._sizes = _class_sizes(self.labels, samples_per_class)
        classes = len(self._sizes) if classes_per_batch is None else classes_per_batch
        classes = checks.check_size("classes_per_batch", classes)
        if classes > len(self._sizes):
            raise ValueError(
                f"`classes_per_batch` must be at most the number of classes, got {classes} and "
                f"{len(self._sizes)} classes in `labels`. Lower it, or None takes all classes."
            )
        self.classes_per_batch = classes
        self.num_replicas, self.rank = num_replicas, rank
        self.seed = seed
        if batches_per_epoch is not None:
            checks.check_size("batches_per_epoch", batches_per_epoch)
        self.batches_per_epoch = batches_per_epoch
        self._groups = torch.div(self._sizes, samples_per_class, rounding_mode="floor")
        self._batches = batches_per_epoch or _most_batches(self._groups, classes)
        self._used: tuple[int, int] | None = None
        self._shares(_replica(num_replicas, rank))
        self._epoch = 0
        self._counting = True

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every iteration from now on."""
        epoch = checks.check_size("epoch", epoch, minimum=0)
        self._epoch = epoch
        self._counting = False

    def __len__(self) -> int:
        return self._shares(self._here())

    def __iter__(self) -> Iterator[list[int]]:
        here = self._here()
        epoch = self._epoch
        self._epoch += self._counting
        return self._draw(epoch, here)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.labels)} labels, {self.samples_per_class}, "
            f"{self.classes_per_batch})"
        )

    def _here(self) -> tuple[int, int]:
        """Number of replicas and which of them this is, the same as ever since the first use."""
        here = _replica(self.num_replicas, self.rank)
        self._shares(here)
        if self._used not in (None, here):
            raise RuntimeError(
                "The sampler was used as replica {1} of {0} and is now, by the process group, "
                "replica {3} of {2}: batches and lengths so far were those of another number of "
                "processes. Use it only once the group is there, make another sampler, or give "
                "`num_replicas` and `rank`.".format(*(self._used or here), *here)
            )
        self._used = here
        return here

    def _shares(self, here: tuple[int, int]) -> int:
        """Batches of an epoch that each replica gets; none are refused."""
        length = self._batches // here[0]
        if not length:
            raise ValueError(
                f"`num_replicas` must be at most the number of batches in an epoch, got "
                f"{here[0]} and {self._batches} batches. Use fewer processes, smaller "
                "batches or more samples."
            )
        return length

    def _draw(self, epoch: int, here: tuple[int, int]) -> Iterator[list[int]]:
        # On the CPU also where another device is the default one.
        generator = torch.Generator("cpu").manual_seed(self.seed + epoch)
        count = self._shares(here) * here[0]
        batches = self._without_repeats if self.batches_per_epoch is None else self._with_repeats
        for batch, groups in enumerate(islice(batches(generator), count)):
            if batch % here[0] == here[1]:
                yield [i for members in groups for i in members.tolist()]

    def _with_repeats(self, generator: torch.Generator) -> Iterator[list[Tensor]]:
        """Groups of each batch, drawn independently of those of other batches."""
        members = self.labels.argsort(stable=True).split(self._sizes.tolist())
        while True:
            classes = (
                draws.shuffled(len(members), generator)[: self.classes_per_batch].sort().values
            )
            yield [
                members[c][draws.shuffled(len(members[c]), generator)[: self.samples_per_class]]
                for c in classes.tolist()
            ]

    def _without_repeats(self, generator: torch.Generator) -> Iterator[list[Tensor]]:
        """Groups of each batch, none of which shares a member with another one."""
        shuffled = draws.shuffled(len(self.labels), generator)
        members = shuffled[self.labels[shuffled].argsort(stable=True)].split(self._sizes.tolist())
        groups = [iter(m.split(self.samples_per_class)) for m in members]
        for classes in self._plan(generator):
            yield [next(groups[c]) for c in classes]

    def _plan(self, generator: torch.Generator) -> Iterator[list[int]]:
        """Classes of each batch of the epoch."""
        # Of T batches of p classes, a class of g groups is in min(g, T) at most. These add up to at
        # least T p, and are lowered until they add up to it. Now let the numbers left be at most R,
        # with R batches left, and add up to R p: then at most p are R, and at least p are not zero.
        # A batch that takes those that are R, and others that are not zero, leaves numbers of at
        # most R - 1 that add up to (R - 1) p. So every batch can be filled.
        left = self._groups.clamp(max=self._batches)
        # Fewer groups than a batch holds are too many: the largest classes spare them.
        ties = torch.rand(len(left), generator=generator, device="cpu")
        for _ in range(int(left.sum()) - self._batches * self.classes_per_batch):
            left[(left + ties).argmax()] -= 1
        left = left.double()
        for remaining in range(self._batches, 0, -1):
            # Drawn without replacement, weighted by the groups left (Efraimidis and Spirakis). A
            # class with as many groups as there are batches left has to be in each of them.
            draw = draws.uniform(len(left), generator)
            keys = torch.where(left == remaining, 1.0, draw.log() / left)
            classes = keys.topk(self.classes_per_batch).indices.sort().values
            left[classes] -= 1
            yield cast(list[int], classes.tolist())


def cyclic_annealing(step: float, total: float, cycles: int = 4, ratio: float = 0.75) -> float:
    r"""Weight in [0, 1] that rises from 0 to 1 and drops again, several times over a run.

    .. math:: w(t) = \min\Bigl(1, \tfrac{1}{\rho}
              \bigl(\tfrac{c\,t}{T} \bmod 1\bigr)\Bigr), \quad 0 \le t < T, \qquad
              w(t) = 1, \quad t \ge T.

    A function of the step alone, so there is nothing to save or resume.

    Args:
        step: Optimiser step t, from 0.
        total: Number of steps T.
        cycles: Number of cycles c.
        ratio: Part :math:`\rho` of a cycle in which the weight rises; it is 1 in the rest.

    Example:
        >>> [round(cyclic_annealing(step, 40), 3) for step in (0, 1, 7, 8, 9, 10, 40)]
        [0.0, 0.133, 0.933, 1.0, 1.0, 0.0, 1.0]

    References:
        Fu et al., arXiv:1903.10145; for a topological loss, arXiv:2409.10967.
    """
    checks.check_number("step", step, 0, float("inf"))
    checks.check_positive("total", total)
    cycles = checks.check_size("cycles", cycles)
    checks.check_number("ratio", ratio, 0, 1)
    if step >= total:
        return 1.0
    position = step * cycles / total % 1
    return 1.0 if position >= ratio else position / ratio


def _checked_labels(labels: Tensor | Sequence[int]) -> Tensor:
    """Labels as a tensor of integers on the CPU, one at least."""
    try:
        found = torch.as_tensor(labels, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`labels` must be integers, one a sample, got {labels!r}.") from error
    if not found.numel():
        raise ValueError("`labels` must name at least one sample, got none.")
    checks.check_labels(found, found.numel())
    return found


def _class_sizes(labels: Tensor, least: int) -> Tensor:
    """Number of samples of each class, ascending by class; smaller classes are refused."""
    values, counts = labels.unique(return_counts=True)
    small = [f"{int(v)} ({int(n)})" for v, n in zip(values, counts, strict=True) if n < least]
    if small:
        raise ValueError(
            f"`samples_per_class` must be at most the size of every class, got "
            f"{least} and smaller classes, with their sizes: {', '.join(small)}. "
            "Lower `samples_per_class` or leave these classes out."
        )
    sizes: Tensor = counts
    return sizes


def _most_batches(groups: Tensor, classes: int) -> int:
    """Largest T with ``sum(min(groups, T)) >= T * classes``."""
    low, high = 0, int(groups.sum()) // classes
    while low < high:
        middle = (low + high + 1) // 2
        if int(groups.clamp(max=middle).sum()) >= middle * classes:
            low = middle
        else:
            high = middle - 1
    return low


def _replica(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """Checked number of processes and index of this one."""
    group = torch.distributed
    known = group.is_available() and group.is_initialized()
    if num_replicas is None:
        num_replicas = group.get_world_size() if known else 1
    if rank is None:
        rank = group.get_rank() if known else 0
    num_replicas = checks.check_size("num_replicas", num_replicas)
    rank = checks.check_size("rank", rank, minimum=0)
    if rank >= num_replicas:
        raise ValueError(f"`rank` must be below `num_replicas`, got rank {rank} of {num_replicas}.")
    return num_replicas, rank
