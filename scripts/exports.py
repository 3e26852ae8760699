"""Where each kind of layer can be taken to: compiled, exported, traced, to ONNX.

    python scripts/exports.py           # the table of docs/export.md, in Markdown
    python scripts/exports.py --onnx    # with ONNX: needs `onnx`, `onnxscript`, `onnxruntime`

Each layer is compiled in one graph, or saved, loaded and run on a batch of another size; what comes
out has to be what the layer itself gives. "yes" is that; anything else is "no".
"""

from __future__ import annotations

import argparse
import io
import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import relreps

D, A = 6, 9


class Codes(nn.Module):
    """The sparse code in its fixed shape, as tensors."""

    def __init__(self, sparse: relreps.SparseRelativeProjection) -> None:
        super().__init__()
        self.sparse = sparse

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and indices."""
        code = self.sparse.topk(x)
        return code.values, code.indices


def layers() -> dict[str, Callable[[], nn.Module]]:
    """A fitted layer of each kind, by its name in the table."""
    rows = torch.randn(30, D, generator=torch.Generator().manual_seed(1))
    anchors, twice = rows[:A], rows[:, :4] + 1

    def onto(similarity: relreps.similarity.SimilarityLike, **options: nn.Module) -> nn.Module:
        return relreps.RelativeProjection(D, A, similarity, **options).set_anchors(anchors)

    def encoder() -> nn.Module:
        relative = relreps.RelativeProjection(4, A)
        return relreps.RelativeEncoder(nn.Linear(D, 4), relative, anchors).eval().refresh()

    parts = ("cosine", "l1")
    return {
        "`RelativeProjection`: cosine, angular, inner": lambda: nn.Sequential(
            onto("cosine"), relreps.RelativeProjection(A, A, "angular").set_anchors(torch.eye(A))
        ),
        "`RelativeProjection`: euclidean": lambda: onto("euclidean"),
        "`RelativeProjection`: l1, linf": lambda: relreps.ProductProjection(
            [relreps.RelativeProjection(D, A, name) for name in ("l1", "linf")]
        ).set_anchors(anchors),
        "`RelativeProjection`: basis": lambda: onto("basis"),
        "`RelativeProjection` with `pre`": lambda: onto("cosine", pre=relreps.Whiten(D)),
        "`GraphGeodesic`": lambda: onto(relreps.GraphGeodesic(rows, 4)),
        "`RelativeGeodesic`": lambda: onto(relreps.RelativeGeodesic(nn.Linear(D, 3), 3)),
        "`SubspaceProjection`": lambda: relreps.SubspaceProjection(D, A, 2).set_anchors(anchors),
        "`ProductProjection`": lambda: (
            relreps.ProductProjection(
                [relreps.RelativeProjection(D, A, name) for name in parts], "attention"
            )
            .set_anchors(anchors)
            .eval()
        ),
        "`ParsevalFrame`": lambda: relreps.ParsevalFrame(D, A).set_anchors(anchors),
        "`SparseRelativeProjection.topk`": lambda: Codes(
            relreps.SparseRelativeProjection(D, A, 3).set_anchors(anchors)
        ),
        "`SparseRelativeProjection`": lambda: relreps.SparseRelativeProjection(D, A, 3).set_anchors(
            anchors
        ),
        "`RelativeEncoder`, in eval after `refresh`": encoder,
        "`StandardScale`": lambda: relreps.StandardScale(D).fit(rows),
        "`ProcrustesTranslator`": lambda: relreps.ProcrustesTranslator(D, 4).fit(rows, twice),
    }


def compiled(module: nn.Module, x: Tensor, other: Tensor) -> object:
    """In one graph."""
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="eager")(other)


def exported(module: nn.Module, x: Tensor, other: Tensor) -> object:
    """By `torch.export`, with a batch of any size, saved and loaded."""
    batch = torch.export.Dim("batch", min=2, max=4096)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()(other)


def traced(module: nn.Module, x: Tensor, other: Tensor) -> object:
    """By `torch.jit.trace`, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    return torch.jit.load(file)(other)


def onnx(module: nn.Module, x: Tensor, other: Tensor) -> object:
    """By `torch.onnx.export`, run by another runtime."""
    import onnxruntime

    file, batch = io.BytesIO(), torch.export.Dim("batch", min=2, max=4096)
    torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False).save(
        file
    )  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(file.getvalue())
    outputs = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    return tuple(map(torch.from_numpy, outputs)) if len(outputs) > 1 else torch.tensor(outputs[0])


def onnx_by_trace(module: nn.Module, x: Tensor, other: Tensor) -> object:
    """The same by the older exporter, which goes by a trace."""
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(
        module, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    )
    outputs = onnxruntime.InferenceSession(file.getvalue()).run(None, {"x": other.numpy()})
    return tuple(map(torch.from_numpy, outputs)) if len(outputs) > 1 else torch.tensor(outputs[0])


WAYS = {"`torch.compile`": compiled, "`torch.export`": exported, "`torch.jit.trace`": traced}
ONNX = {"ONNX": onnx, "ONNX, `dynamo=False`": onnx_by_trace}


def arrives(way: Callable[..., object], build: Callable[[], nn.Module]) -> bool:
    """Whether what comes out is what the layer gives, also for a batch of another size."""
    torch.manual_seed(0)
    module, x, other = build(), torch.randn(4, D), torch.randn(7, D)
    wanted = module(other)
    if isinstance(module, relreps.RelativeEncoder):
        module.refresh()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = way(module, x, other)
    except Exception:
        return False
    try:
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    except (AssertionError, ValueError):
        return False
    return True


def table(ways: dict[str, Callable[..., object]]) -> str:
    """In Markdown."""
    lines = ["| | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for name, build in layers().items():
        cells = ["yes" if arrives(way, build) else "no" for way in ways.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--onnx", action="store_true", help="with the columns of ONNX")
    logging.disable(logging.CRITICAL)
    print(table(WAYS | (ONNX if parser.parse_args().onnx else {})))
