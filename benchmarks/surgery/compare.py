"""Networks of torchvision and timm with 30 % of their channels gone: thrifty and Torch-Pruning.

Question: which networks can be made smaller with equal outputs?
Run:      python benchmarks/surgery/compare.py --rivals-python PATH    (an hour; --help for more)
Last:     README.md; results/surgery holds a row for every network

PATH is the Python of an environment of its own:
    python -m venv rivals
    rivals/bin/pip install -c constraints.txt torch torchvision timm torch-pruning==1.6.1
Every network and tool is a process of its own.  Equal means: on other inputs than the tool was
given, the largest difference from the network in which the removed channels are made by zeros
is at most 1e-4 of the largest output (at least of 1) and at most 1 % of what the cut does.
"""

import argparse
import csv
import fnmatch
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from networks import HUGE, names
from trial import LIMIT_S, MARK

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from timing import conditions  # noqa: E402 (of the folder above)

TOOLS = {"thrifty": "ours.py", "Torch-Pruning": "theirs.py"}
WALL_S = 15 * LIMIT_S
GOALS = {"torchvision": 75 / 78, "timm": 0.95}

Row = dict[str, Any]


def attempt(python: str, tool: str, network: str, memory_gb: float) -> Row:
    """The outcome of one tool on one network."""
    code = [python, "-W", "ignore", str(HERE / TOOLS[tool]), network]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    failed = {"network": network, "tool": tool, "outcome": "failed", "seconds": {}, "groups": {}}

    def limit() -> None:
        import resource

        size = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    try:
        done = subprocess.run(
            code, capture_output=True, text=True, timeout=WALL_S, env=environment, preexec_fn=limit
        )
    except subprocess.TimeoutExpired:
        return {**failed, "outcome": "slow", "reason": f"more than {WALL_S} s of the clock"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    said = " ".join(done.stderr.split())[-200:]
    return {**failed, "reason": f"the process ended with {done.returncode}: {said}"}


def share(row: Row) -> str:
    """Parameters gone."""
    before, after = row.get("before"), row.get("after")
    return f"{1 - after / before:.0%}" if before and after else ""


def seconds(row: Row) -> float:
    """To find the groups and to cut."""
    return sum(row["seconds"].get(step, 0.0) for step in ("groups", "cut"))


def line(row: Row) -> str:
    """One outcome, one line."""
    difference = row.get("difference")
    far = f"{difference:.0e}" if difference is not None else ""
    why = row.get("reason", "")[:110]
    return (
        f"{row['network']:<44}{row['tool']:<14}{row['outcome']:<7}{far:>7}"
        f"{share(row):>5} gone {seconds(row):6.2f} s  {why}"
    )


def totals(rows: Sequence[Row]) -> str:
    """How many of each outcome, for either zoo and tool."""
    out = []
    for zoo, goal in GOALS.items():
        for tool in TOOLS:
            mine = [r for r in rows if r["tool"] == tool and r["network"].startswith(f"{zoo}:")]
            if not mine:
                continue
            kinds = Counter(r["outcome"] for r in mine)
            equal = [r for r in mine if r["outcome"] == "equal"]
            ran = sum(kinds[k] for k in ("equal", "other", "runs"))
            times = sorted(seconds(r) for r in mine)
            gone = sorted(1 - r["after"] / r["before"] for r in mine if r.get("after"))
            text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
            out.append(
                f"{zoo}, {tool}: of {len(mine)} {len(equal)} with equal outputs, {ran} through a "
                f"forward pass ({text}); {times[len(times) // 2]:.2f} s in the middle, "
                f"{times[-1]:.1f} s at most"
                + (
                    f"; {gone[len(gone) // 2]:.0%} of the parameters gone in the middle"
                    if gone
                    else ""
                )
            )
            if tool == "thrifty":
                met = "met" if len(equal) >= goal * len(mine) else "missed"
                out.append(f"  goal, {goal:.0%} with equal outputs: {met}")
    return "\n".join(out)


def read(folder: Path) -> dict[tuple[str, str], Row]:
    """Outcomes of earlier runs."""
    file = folder / "outcomes.jsonl"
    rows = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    return {(row["network"], row["tool"]): row for row in rows}


def write(folder: Path, rows: Sequence[Row]) -> None:
    """``outcomes.jsonl`` with everything, ``networks.csv`` with a line a network and tool."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "outcomes.jsonl").write_text(text)
    heads = "network tool outcome difference effect before after groups_s cut_s cut whole reason"
    with (folder / "networks.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, heads.split(), extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow(_flat(row))


def _flat(row: Row) -> Row:
    groups = row["groups"]
    return {
        **row,
        "difference": _short(row.get("difference")),
        "effect": _short(row.get("effect")),
        "groups_s": row["seconds"].get("groups", ""),
        "cut_s": row["seconds"].get("cut", ""),
        "cut": groups.get("cut", ""),
        "whole": sum(groups["whole"].values()) if "whole" in groups else "",
    }


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rivals-python", help="without it only thrifty is tried")
    parser.add_argument("--only", default="*", help="pattern of names, such as 'timm:*vit*'")
    parser.add_argument("--tool", choices=[*TOOLS], help="one of the two")
    parser.add_argument(
        "--huge", action="store_true", help="networks of 600 million parameters too"
    )
    parser.add_argument("--missing", action="store_true", help="only what has no outcome yet")
    parser.add_argument("--memory-gb", type=float, default=14.0, help="limit of every process")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "results" / "surgery")
    args = parser.parse_args()
    pythons = {"thrifty": sys.executable, "Torch-Pruning": args.rivals_python}
    tools = [t for t in TOOLS if pythons[t] and args.tool in (None, t)]
    order = names()
    rows = read(args.out)
    print(conditions())
    for network in fnmatch.filter(order, args.only):
        if network in HUGE and not args.huge:
            continue
        for tool in tools:
            if args.missing and (network, tool) in rows:
                continue
            rows[network, tool] = attempt(pythons[tool], tool, network, args.memory_gb)
            print(line(rows[network, tool]), flush=True)
            ranks = {name: rank for rank, name in enumerate(order)}
            chosen = sorted(rows, key=lambda k: (ranks.get(k[0], len(order)), [*TOOLS].index(k[1])))
            write(args.out, [rows[key] for key in chosen])
    print(totals([*rows.values()]))


if __name__ == "__main__":
    main()
