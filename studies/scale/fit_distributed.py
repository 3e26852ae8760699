"""Fit a translator on pairs that are spread over processes, with one all-reduce.

    torchrun --nproc-per-node 2 studies/scale/fit_distributed.py \\
        --source old.npy --target new.npy --out map.pt

Each process adds up the moments of its share of the rows, chunk by chunk from a file that is
mapped into memory; `all_reduce` adds the moments of all processes, and every process solves for the
same map. The size of what is exchanged depends on the widths alone. Process 0 writes the map, which
`apply_with_ray.py` reads.

Without a GPU the processes meet through gloo; with `--backend nccl` each takes the GPU of its rank.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import relreps

CHUNK = 8192


def share(rows: int) -> slice:
    """The rows of this process."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    return slice(rows * rank // processes, rows * (rank + 1) // processes)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="vectors of the old model")
    parser.add_argument("--target", type=Path, required=True, help="of the new model, row by row")
    parser.add_argument("--out", type=Path, required=True, help="where the map is kept")
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo", help="of torchrun")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    dist.init_process_group(options.backend)
    device = torch.device("cpu")
    if options.backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)

    source, target = (np.load(path, mmap_mode="r") for path in (options.source, options.target))
    if len(source) != len(target):
        raise SystemExit(f"The files must be paired, got {len(source)} and {len(target)} rows.")
    arguments = {
        "in_features": source.shape[1],
        "out_features": target.shape[1],
        "ridge": "gcv",
    }
    translator = relreps.AffineTranslator(**arguments).to(device)
    mine = share(len(source))
    for start in range(mine.start, mine.stop, CHUNK):
        rows = slice(start, min(start + CHUNK, mine.stop))
        x, y = (torch.from_numpy(np.array(side[rows])).to(device) for side in (source, target))
        translator.partial_fit(x, y)
    translator.all_reduce().solve()

    if dist.get_rank() == 0:
        part = options.out.with_name(options.out.name + ".part")
        state = {name: value.cpu() for name, value in translator.state_dict().items()}
        saved = {"translator": "AffineTranslator", "arguments": arguments, "state": state}
        torch.save(saved, part)
        os.replace(part, options.out)
        print(f"{len(source)} pairs, {dist.get_world_size()} processes: {options.out}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
