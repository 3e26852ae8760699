"""Sums over the processes of a ``torch.distributed`` group, refused by all of them or by none."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor

#: Bytes that a process says about itself: a digest that is compared, and a text that is shown.
_DIGEST, _TEXT = 16, 240


def check_agreement(
    name: str, signature: str | None, group: dist.ProcessGroup | None = None
) -> str | None:
    """The one ``signature`` of all processes; if there are several, an error on every process.

    Messages of a fixed size are exchanged, so that processes that disagree do not wait for each
    other for ever, as they would in a sum of tensors of different sizes.

    Args:
        name: What has to agree, for the message.
        signature: What this process has; None if it has none and goes along with any.
        group: The processes; all of them by default.

    Raises:
        ValueError: There are different signatures. The message shows them by rank.
        RuntimeError: There is no process group.
    """
    device = _device(group)
    told = b"" if signature is None else signature.encode()
    message = torch.zeros(_DIGEST + _TEXT, dtype=torch.uint8, device="cpu")
    if signature is not None:
        content = hashlib.sha256(told).digest()[:_DIGEST] + told[:_TEXT]
        message[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    gathered = torch.empty(
        dist.get_world_size(group), len(message), dtype=torch.uint8, device=device
    )
    dist.all_gather(list(gathered), message.to(device), group=group)
    said = {rank: bytes(row) for rank, row in enumerate(gathered.tolist()) if any(row)}
    texts = {m: m[_DIGEST:].rstrip(b"\0").decode(errors="replace") for m in said.values()}
    if len(texts) > 1:
        listed = ", ".join(f"rank {rank}: {texts[m]}" for rank, m in said.items())
        raise ValueError(
            f"{name} must be the same in every process, got {listed}. "
            "Build the module alike, and give it rows of one type, on all of them."
        )
    return next(iter(texts.values()), None)


def all_reduce_sum(*tensors: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, ...]:
    """The sum of each tensor over all processes, by one ``all_reduce`` of them laid end to end.

    Call `check_agreement` on the sizes first. The sums are new tensors on the devices of the old
    ones, and of one type, to which all are promoted.
    """
    device = _device(group)
    flat = torch.cat([t.detach().reshape(-1).to(device) for t in tensors])
    dist.all_reduce(flat, group=group)
    parts = flat.split([t.numel() for t in tensors])
    return tuple(p.reshape(t.shape).to(t.device) for p, t in zip(parts, tensors, strict=True))


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """A device whose tensors the group takes; also refuses where there is no group."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "There is no process group to sum over. Call "
            "`torch.distributed.init_process_group(...)` first, or run under `torchrun`."
        )
    on_cpu = "cpu:" in dist.get_backend_config(group)
    return torch.device("cpu" if on_cpu else torch.device("cuda", torch.cuda.current_device()))
