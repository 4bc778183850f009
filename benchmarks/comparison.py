"""The article's comparison, regenerated: every sweep that docs/results/comparison.md shows, and its tables.

    python benchmarks/comparison.py                  # what is missing (two hours on two cores), then --report
    python benchmarks/comparison.py --seeds 0, --jobs 2
    python benchmarks/comparison.py --report         # only tables and plot, from docs/results/comparison.jsonl

The same as the `actprune compare` commands in SWEEPS, one after the other; finished trials are not computed again. The
rows are kept in docs/results/comparison.jsonl; whoever starts without runs/compare starts from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab.sweep import spread, table

RUNS, RESULTS = Path("runs/compare"), Path("docs/results")
STORE = RESULTS / "comparison.jsonl"
LENET = ["--data", "mnist,fashion-mnist", "--model", "lenet-300-100", "--sparsities", "0.9,0.98,0.9894"]
MOVING = ["--data", "mnist", "--model", "lenet-300-100", "--sparsities", "0.9,0.98,0.9894"]
ARTICLE = ["--data", "mnist,fashion-mnist", "--model", "article", "--sparsities", "0.9894"]
SWEEPS = (
    ["--preset", "article"],
    [*LENET, "--methods", "activation-layer,activation-lamp-all,magnitude-global,lamp,dns,random"],
    [*MOVING, "--methods", "rigl,set,movement,synflow,sparsegpt"],
    [*ARTICLE, "--methods", "activation-lamp-all,magnitude-global,lamp"],
)
OURS, HIGH = "activation", 0.9894


def sweep(seeds: str, jobs: int) -> None:
    """Run what is missing; the commands are those a user would type."""
    for options in SWEEPS:
        command = [sys.executable, "-m", "actprune.lab.cli", "compare", *options]
        subprocess.run([*command, "--seeds", seeds, "--jobs", str(jobs), "--out", str(RUNS)], check=True)


def report() -> None:
    """Tables and plot into docs/results."""
    command = [
        sys.executable,
        "-m",
        "actprune.lab.cli",
        "compare",
        "--report",
        str(RUNS),
        "--preset",
        "article",
        "--quiet",
    ]
    subprocess.run(command, check=True)
    for name, target in (
        ("results.jsonl", STORE.name), ("article.md", "comparison-article.md"), ("table.md", "comparison-table.md"),
        ("accuracy.svg", "comparison.svg"), ("accuracy.png", "comparison.png"),
    ):  # fmt: skip
        (RESULTS / target).write_bytes((RUNS / name).read_bytes())
    rows = [json.loads(line) for line in STORE.read_text().splitlines()]
    rows = [row for row in rows if row["status"] == "ok"]
    text = winners(rows) + "\n" + at_the_articles_sparsity(rows)
    (RESULTS / "comparison-winners.md").write_text(text)
    print(text)


def winners(rows: list[dict[str, Any]]) -> str:
    """Best baseline and best activation-based one, where at least four baselines met at one sparsity."""
    found: dict[tuple[str, str, float], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["baseline"] != "dense" and _kept_enough(row):
            found[row["data"], row["model"], row["target"]][row["baseline"]].append(row)
    body = []
    for (data, model, target), field in sorted(found.items()):
        if len(field) < 4:
            continue
        order = sorted(field, key=lambda name: -_mean(field[name]))
        mine = next(name for name in order if name.startswith(OURS))
        other = next(name for name in order if not name.startswith(OURS))
        gap = _mean(field[mine]) - _mean(field[other])
        body.append((
            data, model, f"{100 * target:g}", f"**{order[0]}**", f"{mine} {_spread(field[mine])}", f"{gap:+.2f}",
            f"{other} {_spread(field[other])}", ", ".join(f"{n} {_mean(field[n]):.2f}" for n in order),
        ))  # fmt: skip
    head = ("data", "network", "sparsity %", "best", "best by activation", "difference", "best other",
            "all, by accuracy")  # fmt: skip
    return (
        "Written by `python benchmarks/comparison.py --report`. Test accuracy in %, mean ± std over seeds; n seeds.\n"
        "Whoever kept more weights than asked takes no part.\n\n" + table(head, body)
    )


def at_the_articles_sparsity(rows: list[dict[str, Any]]) -> str:
    """Everybody at 98.94 %, and dense, one column for each data set and network."""
    places = sorted({(row["model"], row["data"]) for row in rows})
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["baseline"] == "dense" or (row["target"] == HIGH and _kept_enough(row)):
            found[row["baseline"]][row["model"], row["data"]].append(row)
    order = sorted(found, key=lambda name: -max(_mean(cell) for cell in found[name].values()))
    body = [
        (name, *(_spread(found[name][place]) if place in found[name] else "" for place in places)) for name in order
    ]
    head = ("baseline", *(f"{data}, {model}" for model, data in places))
    return f"At {100 * HIGH:g} %, test accuracy in %:\n\n" + table(head, body)


def _kept_enough(row: dict[str, Any]) -> bool:
    """Whether it removed as much as was asked."""
    return bool(row["kept"] <= row["weights"] * (1 - row["target"]) + 1)


def _mean(rows: list[dict[str, Any]]) -> float:
    return 100 * mean(row["test_accuracy"] for row in rows)


def _spread(rows: list[dict[str, Any]]) -> str:
    return f"{spread([row['test_accuracy'] for row in rows], 2, 100)}, n {len(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only tables and plot")
    options = parser.parse_args()
    if STORE.exists() and not (RUNS / "results.jsonl").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(STORE, RUNS / "results.jsonl")
    if not options.report:
        sweep(options.seeds, options.jobs)
    report()


if __name__ == "__main__":
    main()
