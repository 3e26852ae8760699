"""Checks at the boundary. Each error names the argument, what was wanted, what came, what to do.

Functions that look at shape and dtype only are safe inside ``forward``. `check_finite` looks at
values, hence synchronises with the host: it belongs in ``fit``, ``set_anchors`` and samplers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor


def check_floating(name: str, x: Tensor) -> None:
    """Refuse what is not a real floating-point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(
            f"`{name}` must be a floating-point tensor, got {x.dtype}. Convert it with `.float()`."
        )


def check_features(name: str, x: Tensor, features: int) -> None:
    """Refuse what is not ``(..., features)``."""
    check_floating(name, x)
    if x.dim() == 0 or x.shape[-1] != features:
        raise ValueError(
            f"`{name}` must have shape (..., {features}), got {tuple(x.shape)}. "
            "Features come last, one row per sample."
        )


def check_rows(name: str, x: Tensor, features: int | None = None, minimum: int = 1) -> None:
    """Refuse what is not ``(N, features)`` with at least ``minimum`` rows."""
    check_floating(name, x)
    wanted = "features" if features is None else str(features)
    if x.dim() != 2 or (features is not None and x.shape[-1] != features):
        raise ValueError(
            f"`{name}` must have shape (rows, {wanted}), got {tuple(x.shape)}. "
            "One row per sample; flatten other axes first."
        )
    if x.shape[0] < minimum:
        raise ValueError(f"`{name}` must have at least {minimum} row(s), got {x.shape[0]}.")


def check_finite(name: str, x: Tensor) -> None:
    """Refuse NaN and infinity, and say which row is the first bad one. Synchronises."""
    if x.is_meta or not x.numel() or bool(torch.stack(x.aminmax()).isfinite().all()):
        return
    bad = (~x.isfinite()).reshape(x.shape[0], -1).any(-1).nonzero().flatten()
    raise ValueError(
        f"`{name}` must be finite, got NaN or infinity in {len(bad)} of {x.shape[0]} rows "
        f"(the first is row {int(bad[0])}). Drop or repair these rows."
    )


def check_anchors(anchors: Tensor, num_anchors: int, features: int) -> None:
    """Refuse what is not ``(num_anchors, features)``."""
    check_rows("anchors", anchors, features)
    if anchors.shape[0] != num_anchors:
        raise ValueError(
            f"`anchors` must have {num_anchors} rows, got {anchors.shape[0]}. Give that many, or "
            "build the module for another number of anchors."
        )


def check_paired(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse two sets of rows of unequal length: pairing is the contract."""
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must be paired row by row, got {x.shape[0]} and "
            f"{y.shape[0]} rows. Select the same samples, in the same order, on both sides."
        )


def check_size(name: str, value: int, minimum: int = 1) -> None:
    """Refuse what is not an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, got {type(value).__name__} ({value!r}).")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not a real number in ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__} ({value!r}).")
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be in [{low}, {high}], got {value}.")


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a positive, finite number."""
    check_number(name, value, -math.inf, math.inf)
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value}.")


def check_nonnegative(name: str, value: float) -> None:
    """Refuse what is not a finite number from 0."""
    check_number(name, value, 0, math.inf)
    if value == math.inf:
        raise ValueError(f"`{name}` must be finite, got inf.")


def check_k(k: int, size: int, what: str = "rows") -> None:
    """Refuse a number of neighbours outside ``1..size``."""
    check_size("k", k)
    if k > size:
        raise ValueError(
            f"`k` must be at most the number of {what} to choose from, got k={k} and {size} "
            f"{what}. Lower `k` or give more {what}."
        )


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a name outside ``choices``; the nearest one is offered."""
    valid = list(choices)
    if value in valid:
        return
    near = difflib.get_close_matches(str(value), [str(v) for v in valid], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`{name}` must be one of {', '.join(repr(v) for v in valid)}, got {value!r}.{hint}"
    )


def check_generator(generator: torch.Generator | None) -> None:
    """Refuse what is not a source of randomness, a seed among others."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"`generator` must be a torch.Generator or None, got {type(generator).__name__}. "
            "A seed makes one by `torch.Generator().manual_seed(seed)`."
        )


def check_labels(labels: Tensor, rows: int) -> None:
    """Refuse labels that are not one integer a row."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"`labels` must be an integer tensor, got {type(labels).__name__}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"`labels` must be an integer tensor, got {labels.dtype}. Convert it with `.long()`."
        )
    if labels.shape != (rows,):
        raise ValueError(
            f"`labels` must have one entry for each of the {rows} rows, shape ({rows},), "
            f"got {tuple(labels.shape)}."
        )


def check_weights(weights: Tensor, rows: int) -> None:
    """Refuse weights that are not one non-negative finite number a row, some of them positive."""
    check_floating("weights", weights)
    if weights.shape != (rows,):
        raise ValueError(
            f"`weights` must have one entry for each of the {rows} rows, shape ({rows},), "
            f"got {tuple(weights.shape)}."
        )
    check_finite("weights", weights)
    if not weights.is_meta and (bool((weights < 0).any()) or not bool((weights > 0).any())):
        raise ValueError("`weights` must be non-negative with at least one positive entry.")


def eager() -> bool:
    """True outside of tracing, where looking at values is possible."""
    return not torch.compiler.is_compiling()


def recording() -> bool:
    """Whether a program is recorded, to be run elsewhere: by `torch.export`, or a trace."""
    exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # from torch 2.7
    return torch.jit.is_tracing() or bool(exporting())


def concrete(x: Tensor) -> bool:
    """Whether ``x`` holds values: outside of tracing, `torch.func.grad`, `torch.vmap` and so on."""
    if torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def on_host(x: Tensor) -> bool:
    """Whether values may be looked at, and host libraries used: on the CPU, outside of tracing."""
    return x.device.type == "cpu" and concrete(x)
