"""Checks at the boundary. Each error names the argument, what was wanted, what came, what to do.

Functions that look at shape and dtype only are safe inside ``forward``. `check_finite` looks at
values, hence synchronises with the host: it belongs in ``fit``, ``set_anchors`` and samplers.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

#: Types in which numbers are computed, or that are brought to one in which they are.
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_floating(name: str, x: Tensor) -> None:
    """Refuse what is not a dense, real floating-point tensor."""
    if not isinstance(x, Tensor):
        raise not_a_tensor(name, x)
    if x.dtype not in _FLOATS:
        raise TypeError(
            f"`{name}` must be a floating-point tensor, got {x.dtype}. {_numbers_of(name, x)}"
        )
    if x.layout != torch.strided:
        raise TypeError(
            f"`{name}` must be a dense tensor, got one of layout {x.layout}. Convert it with "
            "`.to_dense()`."
        )


def not_a_tensor(name: str, value: object, wanted: str = "a torch.Tensor") -> TypeError:
    """The error for what is no tensor, with what makes one of it."""
    if hasattr(value, "to_numpy"):  # of pandas and Polars
        cure = f"Convert it with `torch.from_numpy({name}.to_numpy())`."
    elif type(value).__module__.partition(".")[0] == "numpy":
        cure = f"Convert it with `torch.from_numpy({name})`."
    elif hasattr(value, "__dlpack__"):
        cure = f"Convert it with `torch.from_dlpack({name})`."
    elif isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        cure = f"Join its parts with `torch.stack` or `torch.cat`, or take one, as `{name}[0]`."
    elif isinstance(value, list | tuple):
        cure = f"Convert it with `torch.tensor({name})`."
    elif hasattr(value, "last_hidden_state"):
        cure = f"Take a tensor out of it, such as `{name}.last_hidden_state[:, 0]`."
    else:
        cure = "Give one row per sample."
    return TypeError(f"`{name}` must be {wanted}, got {type(value).__name__}. {cure}")


def _numbers_of(name: str, x: Tensor) -> str:
    """What makes floating-point numbers of a tensor of another type."""
    if x.is_complex():
        return f"Its parts are real features: `torch.view_as_real({name}).flatten(-2)`."
    if x.is_quantized:
        return "Convert it with `.dequantize()`."
    if x.is_floating_point() or x.dtype == torch.bool:
        return "Convert it with `.float()`."
    return (
        f"Indices select vectors before, as `vectors[{name}]`; whole numbers that are features "
        "convert with `.float()`."
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
    if x.is_meta or not x.numel():
        return
    if not readable(x):
        raise _hidden(name)
    low, high = x.aminmax()
    if bool(low.isfinite() & high.isfinite()):
        return
    bad = (~x.isfinite()).reshape(x.shape[0], -1).any(-1).nonzero().flatten()
    raise ValueError(
        f"`{name}` must be finite, got NaN or infinity in {len(bad)} of {x.shape[0]} rows "
        f"(the first is row {int(bad[0])}). Drop or repair these rows."
    )


def check_readable(name: str, x: Tensor) -> None:
    """Refuse what has no values that a choice could depend on."""
    if x.is_meta:
        raise ValueError(f"`{name}` must have values to be looked at, got a tensor on `meta`.")
    if not readable(x):
        raise _hidden(name)


def _hidden(name: str) -> RuntimeError:
    return RuntimeError(
        f"`{name}` must have values to be looked at, which `torch.vmap` hides. Loop over its first "
        "axis instead."
    )


def check_anchors(anchors: Tensor, num_anchors: int, features: int) -> None:
    """Refuse what is not ``(num_anchors, features)``."""
    shape = tuple(getattr(anchors, "shape", ()))
    if shape == (features, num_anchors) and num_anchors != features:
        raise ValueError(
            f"`anchors` must have shape ({num_anchors}, {features}), one row for each anchor, got "
            f"{shape}: the transpose, or sizes in the other order."
        )
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
    if x.device != y.device:
        raise _apart(x, y, names)


def check_device(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse two tensors on different devices."""
    if x.device != y.device:
        raise _apart(x, y, names)


def _apart(x: Tensor, y: Tensor, names: tuple[str, str]) -> ValueError:
    return ValueError(
        f"`{names[0]}` and `{names[1]}` must be on one device, got {x.device} and {y.device}. "
        "Move one by `.to`."
    )


def check_size(name: str, value: int, minimum: int = 1) -> int:
    """The integer; refuse what is none, such as a bool, or is less than ``minimum``."""
    size = value if isinstance(value, int) else _whole(value)
    if size is None or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, got {type(value).__name__} ({value!r}).")
    if size < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {size}.")
    return size


def _whole(value: Any) -> int | None:
    """An integer of another type, such as NumPy's, or None if it is no integer."""
    if isinstance(value, Tensor) or str(getattr(value, "dtype", "")) == "bool":
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is not a real number in ``[low, high]``."""
    if isinstance(value, bool) or not isinstance(value, Real):
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


def check_k(k: int, size: int, what: str = "rows") -> int:
    """The number of neighbours; refuse one outside ``1..size``."""
    k = check_size("k", k)
    if k > size:
        raise ValueError(
            f"`k` must be at most the number of {what} to choose from, got k={k} and {size} "
            f"{what}. Lower `k` or give more {what}."
        )
    return k


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
        raise not_a_tensor("labels", labels, "an integer tensor")
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
    return traced() or bool(exporting())


def traced() -> bool:
    """Whether `torch.jit.trace` runs, or an exporter that goes by it."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def concrete(*tensors: Tensor) -> bool:
    """Whether all hold values: outside of tracing, `torch.func.grad`, `torch.vmap` and so on."""
    if torch.compiler.is_compiling():
        return False
    return not any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def readable(*tensors: Tensor) -> bool:
    """Whether the values of all may be looked at: outside of tracing and `torch.vmap`."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    for x in tensors:
        while functorch.is_functorch_wrapped_tensor(x):
            if functorch.is_batchedtensor(x):
                return False
            x = functorch.get_unwrapped(x)
    return True


def plain() -> bool:
    """Outside of tracing and of every transform of `torch.func`, whatever tensors they act on."""
    return eager() and torch._C._functorch.peek_interpreter_stack() is None


def on_host(x: Tensor) -> bool:
    """Whether values may be looked at, and host libraries used: on the CPU, outside of tracing."""
    return x.device.type == "cpu" and concrete(x)
