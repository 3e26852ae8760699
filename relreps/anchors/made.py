"""Anchors that are averages: of the samples of a class, or of an encoder over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, full_precision
from relreps._core.state import Stateful, write_all


def prototypes(x: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    r"""The mean of the samples of each class, as anchors.

    .. math:: A_c = \frac{1}{n_c} \sum_{i : y_i = c} x_i

    Labels belong to the samples, so the same labels give anchors that are parallel in every space,
    and an affine map of the space maps its prototypes along: ``prototypes(x @ m + t, labels)`` is
    ``prototypes(x, labels) @ m + t``. Averaging M samples divides the noise of an anchor by
    :math:`\sqrt M`. Without classes, `cluster_labels` of one of the spaces will do.
    Differentiable. O(ND) time; sums are in float64.

    Args:
        x: Samples.
        labels: Class of each sample, in [0, C).
        num_classes: Number of classes C; one more than the largest label if not given.

    Shape:
        - x: :math:`(N, D)`. labels: :math:`(N,)`. Output: :math:`(C, D)`.

    Raises:
        ValueError: If a class has no sample: the rows of two spaces would not be parallel.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
        >>> prototypes(x, torch.tensor([0, 0, 1]))
        tensor([[2., 0.],
                [0., 2.]])

    References:
        Prototypes as the reference points of relative codes in semantic channel equalisation,
        arXiv:2411.19719.
    """
    checks.check_rows("x", x)
    if checks.readable(x):
        checks.check_finite("x", x)
    checks.check_labels(labels, x.shape[0])
    if num_classes is not None:
        num_classes = checks.check_size("num_classes", num_classes)
    labels = labels.long()
    counts = _counts(labels, num_classes)
    total = as_float64(x[:0]).new_zeros(len(counts), x.shape[1])
    step = blocks.rows_at_once(x.shape[1], torch.float64, x.device)
    with full_precision(x):
        for rows, members in zip(x.split(step), labels.split(step), strict=True):
            total = total.index_add(0, members.to(total.device), as_float64(rows))
        return (total / counts.to(total.device)[:, None]).to(x)


def _counts(labels: Tensor, num_classes: int | None) -> Tensor:
    """Samples of each class; every class must have one."""
    low, high = (int(end) for end in labels.aminmax())
    classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= classes:
        raise ValueError(
            f"`labels` must lie in [0, {classes}), got {low} to {high}. Number the classes from 0."
        )
    # Not by counting up to the largest label, which may be far more than there are samples.
    counts: Tensor
    present, counts = labels.unique(return_counts=True)
    empty = classes - len(present)
    if empty:
        named = set(present.tolist())
        absent = [c for c in range(min(classes, len(named) + 5)) if c not in named][:5]
        listed = ", ".join(map(str, absent)) + (", ..." if empty > 5 else "")
        raise ValueError(
            f"`labels` must name every class in [0, {classes}), got no sample of {empty} "
            f"class(es): {listed}. Renumber the classes, or add samples of these."
        )
    return counts


class EMAAnchors(Stateful):
    r"""Anchors that follow an encoder as it drifts, by an exponential moving average.

    .. math:: A_0 = E_0, \qquad A_t = \alpha A_{t-1} + (1 - \alpha) E_t

    The first update copies, so no zeros are averaged in. Updates carry no gradient, and the state,
    the step count included, is in the checkpoint. Keep it in float32: in a half type, steps of
    :math:`1 - \alpha = 0.001` are lost to rounding. O(AD) an update.

    In distributed training every process that is given the same encodings keeps the same anchors:
    the update is arithmetic on buffers, in place, with no communication. Encode the same anchor
    samples everywhere, in eval mode if batch statistics differ; `DistributedDataParallel` also
    sends the buffers of the first process to all others at each forward, unless told not to.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A.
        decay: :math:`\alpha` in [0, 1], or a function from the number of earlier updates to it.

    Example:
        >>> ema = EMAAnchors(2, 1, decay=0.5)
        >>> ema.update(torch.zeros(1, 2)).update(torch.ones(1, 2)).anchors
        tensor([[0.5000, 0.5000]])

    References:
        R3L, arXiv:2404.12917.
    """

    anchors: Tensor
    updates: Tensor

    def __init__(
        self, in_features: int, num_anchors: int, decay: float | Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        num_anchors = checks.check_size("num_anchors", num_anchors)
        if not callable(decay):
            _check_decay(decay)
        self.in_features, self.num_anchors, self.decay = in_features, num_anchors, decay
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def update(self, anchors: Tensor) -> Self:
        """Take one step towards new encodings ``(A, D)`` of the anchor samples."""
        write_all(self.writes(self.step(anchors)))
        return self

    def writes(self, step: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The buffers that `update` fills, and with what, for what `step` gave."""
        return [(self.anchors, step), (self.updates, self.updates + 1)]

    @torch.no_grad()
    def step(self, anchors: Tensor) -> Tensor:
        """Where an `update` with new encodings ``(A, D)`` leads; nothing is written."""
        checks.check_floating("anchors", anchors)
        if anchors.shape != self.anchors.shape:
            raise ValueError(
                f"`anchors` must have shape {tuple(self.anchors.shape)}, (num_anchors, "
                f"in_features), got {tuple(anchors.shape)}. The sizes of EMAAnchors are "
                "(in_features, num_anchors), in this order."
            )
        checks.check_finite("anchors", anchors)  # one NaN would stay for good
        new = anchors.to(self.anchors)
        if not new.is_meta and not bool(new.isfinite().all()):
            raise ValueError(
                f"`anchors` must fit in {new.dtype}, the type of the buffer, got entries up to "
                f"{float(anchors.abs().max()):.3g}. Keep the module in float32."
            )
        alpha = self.decay(self.updates.clone()) if callable(self.decay) else self.decay
        _check_decay(alpha)
        mixed = self.anchors * alpha + new * (1 - alpha)
        return torch.where(self.updates == 0, new, mixed)

    def extra_repr(self) -> str:
        """Constructor call."""
        decay = getattr(self.decay, "__name__", self.decay)
        return f"{self.in_features}, {self.num_anchors}, decay={decay}"


def _check_decay(decay: float | Tensor) -> None:
    """Refuse what is not one real number in [0, 1]."""
    if isinstance(decay, Tensor):
        number = decay.numel() == 1 and decay.dtype != torch.bool and not decay.is_complex()
        came = f"a tensor of shape {tuple(decay.shape)} and type {decay.dtype}"
    else:
        number = isinstance(decay, int | float) and not isinstance(decay, bool)
        came = f"{type(decay).__name__} ({decay!r})"
    if not number:
        raise TypeError(f"`decay` must be a number in [0, 1], or a function to one, got {came}.")
    if not 0 <= decay <= 1:
        raise ValueError(f"`decay` must be in [0, 1], got {float(decay)}.")
