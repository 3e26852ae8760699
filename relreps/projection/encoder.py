"""Encoders whose anchors follow them as they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from relreps._core import checks
from relreps._core.modules import refuse_class, tensor_of
from relreps._core.state import Stateful, write_all
from relreps.anchors import EMAAnchors
from relreps.projection.base import Projection
from relreps.projection.fingerprint import SIZE, alike, fingerprint


class RelativeEncoder(Stateful):
    r"""An encoder whose output is relative: it re-encodes the anchor samples as it learns.

    The anchors are encodings of fixed samples by the encoder itself, so they move at every step.
    While training they are encoded anew at every ``refresh_every``-th forward; in eval, at every
    forward that records gradients of the encoder, and otherwise only if something has changed
    since: evaluate under `torch.no_grad`. The encoder runs in whatever mode it is in, for anchors
    as for samples.

    A change is seen through the version counters of parameters, buffers and anchors, and a switch
    between train and eval counts as one. What PyTorch does not count (edits through ``.data``; in
    eval, any edit if this module as a whole is compiled) needs a call of `refresh`. Exported in
    eval right after a `refresh`, the anchors are constants of the program; otherwise it encodes
    them at every call. Cost: one pass of the encoder over the anchor samples per refresh; with
    ``detach_anchors=False`` also their backward pass.

    Args:
        encoder: Maps ``anchor_inputs`` and batches of the same kind to ``(rows, in_features)``.
        projection: The projection after it: `RelativeProjection`, `SubspaceProjection`,
            `ProductProjection`, or another `Projection`.
        anchor_inputs: The anchor samples as the encoder takes them: a tensor, or dicts, lists and
            tuples of tensors. They move with the module. The checkpoint has a fingerprint of them,
            and is refused where others were given, or in another order.
        refresh_every: Training forwards per refresh.
        detach_anchors: If false, gradients reach the encoder through the anchors too.
        ema: Running average that the anchors follow, for encoders that drift. It takes one step at
            each training refresh; in eval its anchors are used as they are.

    Shape:
        - Input: a batch of N samples. Output: :math:`(N, A)`.

    Example:
        >>> encoder = RelativeEncoder(nn.Linear(4, 3), RelativeProjection(3, 2), torch.eye(4)[:2])
        >>> encoder(torch.ones(5, 4)).shape
        torch.Size([5, 2])

    References:
        Moschella et al., arXiv:2209.15430, section 4.
    """

    fingerprint: Tensor
    _optional = ("configuration", "fingerprint")

    def __init__(
        self,
        encoder: nn.Module,
        projection: Projection,
        anchor_inputs: Any,
        *,
        refresh_every: int = 1,
        detach_anchors: bool = True,
        ema: EMAAnchors | None = None,
    ) -> None:
        super().__init__()
        refresh_every = checks.check_size("refresh_every", refresh_every)
        refuse_class("encoder", encoder)
        refuse_class("projection", projection)
        if not hasattr(projection, "project"):
            raise TypeError(
                "`projection` must take anchors at the call (a method `project`), got "
                f"{type(projection).__name__}."
            )
        if ema is not None and not detach_anchors:
            raise ValueError("`ema` averages detached anchors; it needs `detach_anchors=True`.")
        self.ema = ema
        self.encoder = encoder
        self.projection = projection
        self.refresh_every = refresh_every
        self.detach_anchors = detach_anchors
        self.anchor_inputs = anchor_inputs
        self.register_buffer("fingerprint", torch.zeros(SIZE, dtype=torch.long))
        self._forwards = 0
        self._stale = True
        self._encoded = False
        self._seen: list[tuple[int, int]] = []

    def forward(self, x: Any) -> Tensor:
        """Relative code of a batch."""
        if checks.recording():
            return self._recorded_code(x)
        if self.training or self._records_gradients():
            # Gradients may be waiting for earlier codes, so nothing they hold is written to.
            code: Tensor = self.projection.project(self._encode(x), self._live_anchors())
            self._stale = True
            return code
        if self._is_stale():
            self._encode_anchors(detach=True)
        code = self.projection(self._encode(x))
        return code

    def refresh(self) -> Self:
        """Encode the anchors now."""
        self._encode_anchors(detach=True)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch between train and eval; the next eval forward then re-encodes the anchors."""
        self._stale = self._stale or mode != self.training
        return super().train(mode)

    def extra_repr(self) -> str:
        """Constructor call, modules aside."""
        return f"refresh_every={self.refresh_every}, detach_anchors={self.detach_anchors}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._stale = True
        self.anchor_inputs = tree_map_only(Tensor, fn, self.anchor_inputs)
        return self

    def _save_to_state_dict(self, *arguments: Any) -> None:
        if not self.fingerprint.is_meta:
            self.fingerprint.copy_(self._of_inputs())
        super()._save_to_state_dict(*arguments)

    def _check_state(self, state: dict[str, Any], prefix: str) -> None:
        super()._check_state(state, prefix)
        own = self._of_inputs()
        saved = state.setdefault(f"{prefix}fingerprint", own)
        if not (saved.is_meta or alike(saved.cpu().view(torch.float64), own.view(torch.float64))):
            raise ValueError(
                "The state is that of a RelativeEncoder with other `anchor_inputs`, or the same in "
                "another order, to whose codes those of this one would not compare. Build it with "
                f"the same inputs; to go on with these, delete '{prefix}fingerprint' from the "
                "state before it is loaded."
            )

    def _of_inputs(self) -> Tensor:
        # As integers, which no `half()` rounds.
        return fingerprint(self.anchor_inputs).view(torch.long)

    def _on_load(self) -> None:
        self._stale, self._encoded = True, self.projection.has_anchors()

    def _encode(self, inputs: Any) -> Tensor:
        return tensor_of("encoder", self.encoder, inputs)

    def _recorded_code(self, x: Any) -> Tensor:
        """What a recording has in it: no state is written there, and no switch of gradients."""
        rows = self._encode(x)
        if self._stale or not self.projection.has_anchors():
            code: Tensor = self.projection.project(rows, self._encode(self.anchor_inputs))
        else:
            code = self.projection(rows)
        return code

    def _records_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())

    def _live_anchors(self) -> Tensor:
        """Anchors for a forward whose graph outlives the next refresh."""
        if not self.training:
            keep = self.ema is not None and self._encoded
            return self._kept_anchors() if keep else self._encode_anchors(self.detach_anchors)
        # A projection without anchors, as one put in later, would give zeros.
        fresh = self._forwards == 0 or not self.projection.has_anchors()
        anchors = self._encode_anchors(self.detach_anchors) if fresh else self._kept_anchors()
        # Counted once it has succeeded: a refresh that failed is tried again.
        self._forwards = (self._forwards + 1) % self.refresh_every
        return anchors

    def _kept_anchors(self) -> Tensor:
        anchors: Tensor = self.projection.anchors
        return anchors.clone()

    def _is_stale(self) -> bool:
        if self.ema is not None:  # moved by training alone
            return not self._encoded
        return self._stale or (checks.eager() and self._seen != self._versions())

    def _encode_anchors(self, detach: bool) -> Tensor:
        wanted = (self.projection.num_anchors, self.projection.in_features)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            try:
                anchors = self._encode(self.anchor_inputs)
            except (RuntimeError, ValueError) as error:
                shape = tuple(getattr(self.anchor_inputs, "shape", ()))
                what = {wanted: "that of encoded anchors", wanted[:1]: "that of indices"}.get(shape)
                if what is None:
                    raise
                raise ValueError(
                    f"`encoder` does not take `anchor_inputs` of shape {shape}, which is {what}. "
                    "Give the samples themselves: they are encoded here."
                ) from error
        if tuple(anchors.shape) != wanted:
            raise ValueError(
                f"`encoder` must map `anchor_inputs` to shape {wanted}, got "
                f"{tuple(anchors.shape)}. The projection needs one row for each of its anchors."
            )
        average = []
        if self.ema is not None:
            anchors = self.ema.step(anchors)
            average = self.ema.writes(anchors)
        state = self.projection.state_of(anchors.detach())
        write_all([*average, *self.projection.writes(state)])
        self.projection.remember(state)
        self._stale, self._encoded = False, True
        if checks.eager():
            self._seen = self._versions()
        return anchors

    def _versions(self) -> list[tuple[int, int]]:
        """One entry for each thing the code depends on, which changes when it is written."""
        tensors = [*self.encoder.parameters(), *self.encoder.buffers(), self.projection.anchors]
        tensors += [leaf for leaf in tree_leaves(self.anchor_inputs) if isinstance(leaf, Tensor)]
        versions = [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
        return versions + [(id(module), 0) for module in self.encoder.modules()]
