"""Sparse networks in thrifty's engine against dense runtimes: the whole table.

Question: how many times faster than the best dense runtime, by network, sparsity, batch, threads?
Run:      python benchmarks/engine/speed.py --json speed.json
          python benchmarks/engine/speed.py --networks resnet20 --sparsity .9 --batch 1 --rounds 10

Answers are compared with torch's first.  All contenders have their turn in every round, and a
ratio is the median of those of the rounds, with the interval at 95 %.  What is done is in the
JSON file after each network and sparsity, and is not done again when the program is started anew
with that file.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))

import torch
from networks import NETWORKS, pruned

from thrifty.lab.contenders import OURS, Comparison, compare
from thrifty.lab.verdicts import verdicts
from thrifty.shown import text_table

PRECISIONS = ("f32", "bf16")


def main() -> None:
    """Build, prune, compare, print, write."""
    said = _arguments()
    file = Path(said.json) if said.json else None
    done: list[dict[str, Any]] = json.loads(file.read_text()) if file and file.exists() else []
    for name in said.networks:
        for sparsity in said.sparsity:
            entry = _entry(said, name, sparsity)
            if any(all(old[k] == v for k, v in entry.items()) for old in done):
                continue
            start = time.perf_counter()
            found = measured(said, name, sparsity)
            done.append(entry | told(found))
            if file:
                file.write_text(json.dumps(done, indent=1) + "\n")
            print(f"\n{NETWORKS[name].title}, {sparsity:.0%} zeros ({said.allocation})", flush=True)
            print(text_table([_cells(row) for row in found.to_rows()]))
            print("\n".join(verdicts(found.rows)), flush=True)
            print(f"{time.perf_counter() - start:.0f} s; {found.conditions}", flush=True)
    print("\n" + summary(done))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.8, 0.9, 0.95])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--allocation", default="uniform")
    parser.add_argument("--against", nargs="+", help="all rivals that are installed if not given")
    parser.add_argument("--json", help="write every row there")
    return parser.parse_args()


def _entry(said: argparse.Namespace, name: str, sparsity: float) -> dict[str, Any]:
    return {
        "network": name,
        "sparsity": sparsity,
        "allocation": said.allocation,
        "batches": said.batch,
        "thread_counts": said.threads,
        "asked_rounds": said.rounds,
    }


def measured(said: argparse.Namespace, name: str, sparsity: float) -> Comparison:
    """All contenders on one network."""
    model = pruned(name, sparsity, said.allocation)
    shape = NETWORKS[name].shape
    example = torch.randn(max(said.batch), *shape, generator=torch.Generator().manual_seed(2))
    return compare(
        model,
        example,
        against=said.against,
        batches=said.batch,
        threads=said.threads,
        rounds=said.rounds,
    )


def told(found: Comparison) -> dict[str, Any]:
    """What goes into the JSON file."""
    return {
        "rows": found.to_rows(),
        "verdicts": verdicts(found.rows),
        "left_out": found.left_out,
        "conditions": found.conditions,
    }


def _cells(row: dict[str, Any]) -> dict[str, str]:
    ratio = row["ratio"]
    return {
        "contender": row["contender"],
        "batch": str(row["batch"]),
        "threads": str(row["threads"]),
        "ms": "" if row["median"] is None else f"{row['median']:.4g}",
        "least ms": "" if row["least"] is None else f"{row['least']:.4g}",
        "time / base": "" if ratio is None else f"{ratio['middle']:.2f}",
        "95 %": ""
        if ratio is None or math.isnan(ratio["low"])
        else f"{ratio['low']:.2f} to {ratio['high']:.2f}",
        "equal": f"{'yes' if row['equal'] else 'NO'}, {row['difference']:.1e}",
    }


def summary(done: Iterable[dict[str, Any]]) -> str:
    """Ours against the best dense of each precision, and geometric means over networks."""
    ratios: dict[tuple[float, int, int, str], dict[str, float]] = {}
    for entry in done:
        for batch, threads in {(r["batch"], r["threads"]) for r in entry["rows"]}:
            those = [r for r in entry["rows"] if (r["batch"], r["threads"]) == (batch, threads)]
            for precision in PRECISIONS:
                best = _best(those, precision)
                if best is not None:
                    key = (entry["sparsity"], batch, threads, precision)
                    ratios.setdefault(key, {})[entry["network"]] = best
    if not ratios:
        return f"{OURS} did not run: no summary"
    names = [n for n in NETWORKS if any(n in found for found in ratios.values())]
    rows = []
    for (sparsity, batch, threads, precision), found in sorted(ratios.items()):
        mean = math.exp(sum(map(math.log, found.values())) / len(found))
        rows.append(
            {
                "zeros": f"{sparsity:.0%}",
                "batch": str(batch),
                "threads": str(threads),
                "against": precision,
                **{n: f"{found[n]:.2f}" if n in found else "" for n in names},
                "mean": f"{mean:.2f}",
            }
        )
    return "times faster than the best dense runtime\n" + text_table(rows)


def _best(rows: list[dict[str, Any]], precision: str) -> float | None:
    """The ratio of the best rival to ours; None where one of them has no time."""
    found = [
        row["ratio"]["middle"]
        for row in rows
        if row["base"] == OURS
        and row["contender"] != OURS
        and row["precision"] == precision
        and row["ratio"] is not None
    ]
    return min(found) if found else None


if __name__ == "__main__":
    main()
