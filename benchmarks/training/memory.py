"""Training a ThriftyNet: memory of the process at its peak, with and without checkpointing.

Question: does T = 30 at batch 128 on 32x32 pictures (163 filters, mb1: 39,636 parameters) train
          within 4 GiB, and with checkpointing within 1.5 GiB?
Run:      python benchmarks/training/memory.py
Last:     3.40 GiB, with checkpointing 1.44 GiB; torch 2.13.0 CPU, 1 thread, --steps 1, 2026-11-21

Each row is a process of its own, which trains for some steps on random pictures with the loop of
thrifty and then asks the system for its peak (ru_maxrss: everything, the libraries included).  The
loop is told that memory is short, as it finds by itself where less than 8 GiB are available;
``--plenty`` leaves it to find out.
"""

import argparse
import resource
import subprocess
import sys
import time


def trained(args: argparse.Namespace, checkpointing: bool) -> None:
    """Train in this process and print the peak, what it was before, and seconds a step."""
    import torch

    from thrifty.data import Data, Split
    from thrifty.nets import resolve
    from thrifty.training import memory
    from thrifty.training.loop import train
    from thrifty.training.plan import Plan

    torch.set_num_threads(args.threads)
    if not args.plenty:
        memory.available = lambda: 0
    draw = torch.Generator().manual_seed(0)
    size = args.batch * args.steps
    pictures = torch.randint(0, 256, (size, 3, 32, 32), generator=draw, dtype=torch.uint8)
    split = Split(pictures, torch.randint(0, 10, (size,), generator=draw))
    mean, std = (0.5,) * 3, (0.25,) * 3
    data = Data("random", split, split, classes=10, mean=mean, std=std)
    model = resolve(args.model, classes=10, shape=(3, 32, 32))
    model.checkpointing = checkpointing
    before = peak()
    start = time.perf_counter()
    train(model, data, Plan(epochs=1, batch=args.batch, recalibrate=False))
    seconds = (time.perf_counter() - start) / args.steps
    word = "checkpointing" if checkpointing else "all kept"
    print(
        f"{word:14} {peak():6.2f} GiB at the peak, {before:.2f} GiB before, {seconds:6.1f} s a step"
    )


def peak() -> float:
    """GiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Parse, start a process a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="thriftynet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plenty", action="store_true", help="of memory, if there is")
    parser.add_argument("--only", choices=("kept", "checkpointing"))
    parser.add_argument("--here", action="store_true", help="in this process; needs --only")
    args = parser.parse_args()
    if args.here:
        trained(args, args.only == "checkpointing")
        return
    print(
        f"{args.model}, batch {args.batch}, {args.steps} steps, {args.threads} threads", flush=True
    )
    for which in (args.only,) if args.only else ("kept", "checkpointing"):
        subprocess.run([sys.executable, *sys.argv, "--only", which, "--here"], check=True)


if __name__ == "__main__":
    main()
