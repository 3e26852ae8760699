"""Anchors that follow an encoder: averages that move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from relreps._core import checks


class EMAAnchors(nn.Module):
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
        num_anchors: Number of anchors A.
        in_features: Width D of the space.
        decay: :math:`\alpha` in [0, 1], or a function from the number of earlier updates to it.

    Example:
        >>> ema = EMAAnchors(1, 2, decay=0.5)
        >>> ema.update(torch.zeros(1, 2)).update(torch.ones(1, 2)).anchors
        tensor([[0.5000, 0.5000]])

    References:
        R3L, arXiv:2404.12917.
    """

    anchors: Tensor
    updates: Tensor

    def __init__(
        self, num_anchors: int, in_features: int, decay: float | Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        checks.check_size("num_anchors", num_anchors)
        checks.check_size("in_features", in_features)
        if not callable(decay):
            _check_decay(decay)
        self.decay = decay
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, anchors: Tensor) -> Self:
        """Take one step towards new encodings ``(A, D)`` of the anchor samples."""
        checks.check_floating("anchors", anchors)
        if anchors.shape != self.anchors.shape:
            raise ValueError(
                f"`anchors` must have shape {tuple(self.anchors.shape)}, "
                f"got {tuple(anchors.shape)}."
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
        self.anchors.copy_(torch.where(self.updates == 0, new, mixed))
        self.updates.add_(1)
        return self

    def extra_repr(self) -> str:
        """Constructor call."""
        decay = getattr(self.decay, "__name__", self.decay)
        return f"{self.anchors.shape[0]}, {self.anchors.shape[1]}, decay={decay}"


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
