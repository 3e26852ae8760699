"""What every module of this package promises, as checks to run on any module of the kind.

Each check takes ``make``, which builds a fitted module anew with the same state every time, and
``x``, a float64 batch ``(N, D)`` that it accepts. If it is broken the entry of `CONTRACT` raises
AssertionError: with its name, the promise, and what was found, or raised on the way.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

#: Builds the module under test; with ``fitted=False``, as constructed.
Make = Callable[..., nn.Module]
Check = Callable[[Make, Tensor], None]


def check_leading_axes(make: Make, x: Tensor) -> None:
    """Extra leading axes, or none, only reshape the output."""
    module = make().double()
    flat = module(x)
    _close(module(x.reshape(1, x.shape[0], 1, -1)), flat.reshape(1, x.shape[0], 1, -1))
    _close(module(x[0]), flat[0])


def check_rows_are_independent(make: Make, x: Tensor) -> None:
    """The output for a row does not depend on the rest of the batch."""
    module = make().double()
    _close(module(x[:1]), module(x)[:1])


def check_empty_batch(make: Make, x: Tensor) -> None:
    """A batch of no rows gives no rows."""
    module = make().double()
    wanted = (0, *module(x).shape[1:])
    _require(module(x[:0]).shape == wanted, f"shape {tuple(module(x[:0]).shape)}, not {wanted}")


def check_dtype_is_kept(make: Make, x: Tensor) -> None:
    """The output has the type of the input, also where the module has another."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for module in (make().to(dtype), make()):
            out = module(x.to(dtype))
            _require(out.dtype == dtype, f"{dtype} in, {out.dtype} out")
            _require(bool(out.isfinite().all()), f"output is not finite in {dtype}")


def check_gradients(make: Make, x: Tensor) -> None:
    """The gradient is right, in float64."""
    module = make().double()
    x = x[:3].clone().requires_grad_()
    torch.autograd.gradcheck(module, (x,))


def check_zero_row(make: Make, x: Tensor) -> None:
    """A zero row gives finite output and finite gradients in every type."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = torch.zeros_like(x[:2], dtype=dtype).requires_grad_()
        out = make().to(dtype)(rows)
        out.float().sum().backward()
        _require(bool(out.isfinite().all()), f"output is not finite in {dtype}")
        finite = rows.grad is not None and bool(rows.grad.isfinite().all())
        _require(finite, f"gradient is not finite in {dtype}")


def check_compiles_in_one_graph(make: Make, x: Tensor) -> None:
    """``torch.compile(fullgraph=True)`` finds no graph break."""
    module = make().double()
    torch._dynamo.reset()
    _close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))


def check_exports(make: Make, x: Tensor) -> None:
    """``torch.export`` takes it with a dynamic batch."""
    module = make().double().eval()
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(module, (x,), dynamic_shapes=((batch, None),))
    _close(program.module()(x[:3]), module(x[:3]))


def check_runs_on_meta(make: Make, x: Tensor) -> None:
    """It runs without data: nothing in ``forward`` looks at values."""
    module = make().double()
    out = copy.deepcopy(module).to("meta")(x.to("meta"))
    _require(out.is_meta, f"output is on {out.device}")
    _require(out.shape == module(x).shape, f"shape {tuple(out.shape)} on meta")


def check_fresh_instance_loads(make: Make, x: Tensor) -> None:
    """A module as constructed loads the checkpoint of a fitted one, and then agrees with it."""
    module = make()
    fresh = make(fitted=False)
    fresh.load_state_dict(module.state_dict())
    _close(fresh(x.float()), module(x.float()))


def check_loads_onto_meta(make: Make, x: Tensor) -> None:
    """A module built on the meta device takes over a checkpoint with ``assign=True``."""
    module = make()
    with torch.device("meta"):
        fresh = make(fitted=False)
    fresh.load_state_dict(module.state_dict(), assign=True)
    _close(fresh(x.float()), module(x.float()))


def check_safetensors(make: Make, x: Tensor) -> None:
    """The state goes through safetensors."""
    from safetensors.torch import load, save

    module = make()
    fresh = make(fitted=False)
    fresh.load_state_dict(load(save(module.state_dict())))
    _close(fresh(x.float()), module(x.float()))


def check_copies(make: Make, x: Tensor) -> None:
    """Pickle, ``torch.save`` and deepcopy give modules that agree."""
    module = make()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
        copy.deepcopy(module),
    ):
        _close(other(x.float()), module(x.float()))


def check_moves(make: Make, x: Tensor) -> None:
    """To float64 and back changes nothing, and float64 is reached in full."""
    module = make()
    wide = make().double()
    _close(wide(x), module(x.float()).double(), tolerance=1e-4)
    _close(wide.float()(x.float()), module(x.float()))


def check_autocast(make: Make, x: Tensor) -> None:
    """Under bfloat16 autocast it stays near the full precision, and in float64 as it is."""
    module = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x.float())
    _close(out.float(), module(x.float()), tolerance=0.1)
    wide = make().double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = wide(x)
    _close(out, wide(x))


def check_transforms(make: Make, x: Tensor) -> None:
    """``torch.vmap`` takes it row by row, and ``torch.func.jacrev`` gives its derivatives."""
    module = make().double()
    wanted = torch.autograd.functional.jacobian(module, x[0])
    with warnings.catch_warnings():  # torch takes some operations one after the other, and says so
        warnings.filterwarnings("ignore", "There is a performance drop")
        _close(torch.vmap(module)(x), module(x))
        _close(torch.func.jacrev(module)(x[0]), wanted)


def check_repr(make: Make, x: Tensor) -> None:
    """``str`` names the class and its sizes."""
    module = make()
    text = str(module)
    _require(text.startswith(f"{type(module).__name__}("), text)
    _require(str(x.shape[-1]) in text or not list(module.buffers()), text)


def _promise(name: str, check: Check) -> Check:
    """The check, with whatever goes wrong in it told as a promise that is not kept."""
    promise = (check.__doc__ or "").partition("\n")[0]

    @functools.wraps(check)
    def kept(make: Make, x: Tensor) -> None:
        try:
            check(make, x)
        except Exception as error:
            found = str(error) if isinstance(error, AssertionError) else repr(error)
            raise AssertionError(f"{name} is not kept. {promise}\n{found}") from error

    return kept


#: Every check, by name.
CONTRACT: dict[str, Check] = {
    name.removeprefix("check_"): _promise(name.removeprefix("check_"), check)
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _close(a: Tensor, b: Tensor, tolerance: float | None = None) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
