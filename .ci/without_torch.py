"""A packed network where thrifty lies beside numpy and zstandard alone (docs/without-torch.md).

    python .ci/without_torch.py make FOLDER    with torch: writes a network, an input, its answers
    python .ci/without_torch.py check FOLDER   without: loads and runs it, compares, measures

The import is timed in fresh processes, for what counts is what a user waits.  The figures are
printed; only a much slower import fails, for the machine may be busy.
"""

import importlib.util
import statistics
import subprocess
import sys
from pathlib import Path

MOST_SECONDS = 0.5  # 0.15 is the goal on a quiet machine
MOST_MB = 60.0
TIMED = (
    "import time; start = time.perf_counter(); import thrifty.engine; "
    "print(time.perf_counter() - start)"
)


def make(folder: Path) -> None:
    """ResNet-20 without nine weights of ten, packed with its program, and what torch answers."""
    import numpy as np
    import torch

    import thrifty
    from thrifty.pack.packing import pack

    torch.manual_seed(0)
    model = thrifty.resolve("resnet20", classes=10, shape=(3, 32, 32)).eval()
    masks = thrifty.prune(model, "magnitude", thrifty.Budget(0.9))
    thrifty.apply(model, masks)
    folder.mkdir(parents=True, exist_ok=True)
    pack(model, folder / "net.thrifty")
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        np.savez(folder / "answers.npz", x=x.numpy(), y=model(x).numpy())


def check(folder: Path) -> None:
    """The answers of the packed network, the time of the import, the memory of this process."""
    there = [name for name in ("torch", "pydantic", "rich") if importlib.util.find_spec(name)]
    assert not there, f"this is no bare environment: it has {there}"

    import numpy as np

    from thrifty import engine

    net = engine.load(folder / "net.thrifty")
    with np.load(folder / "answers.npz") as known:
        x, wanted = known["x"], known["y"]
    for batch in (1, 5):
        far = float(abs(net(x[:batch]) - wanted[:batch]).max())
        assert far <= 1e-4 * (1 + abs(wanted).max()), f"answers differ by {far}"
    used = peak_mb()
    times = [
        float(subprocess.run([sys.executable, "-c", TIMED], capture_output=True, check=True).stdout)
        for _ in range(7)
    ]
    middle = statistics.median(times)
    print(f"import thrifty.engine: {middle:.3f} s, the median of 7 (shortest {min(times):.3f} s)")
    print(f"peak memory with a network loaded and run: {used:.1f} MB")
    assert middle < MOST_SECONDS, "the import is slow"
    assert used < MOST_MB, "the process is large"


def peak_mb() -> float:
    """The most memory that this process has held, in millions of bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("/proc/self/status tells no peak")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
