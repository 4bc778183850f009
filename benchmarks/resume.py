"""Kill a run at random moments, resume it, and compare weights and metrics bit for bit with an uninterrupted run.

    python benchmarks/resume.py --kills 20

Every trial starts a fresh process, kills it with SIGKILL, resumes it in another process, and compares all files that
do not hold times. Writes docs/results/resume.json and resume.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

FILES = ("metrics.jsonl", "model.safetensors", "masks.safetensors", "config.json", "recipe.json")
RUN = ["run", "--epochs", "40", "--stop-at", "1.0", "--patience", "0", "--threads", "1", "--no-plots", "--quiet"]
RUNS = {  # live counts in memory; counts on drawn images, Adam's moments in the optimizer
    "activation, sgd": ["--method", "activation"],
    "activation_literal, adamw": ["--method", "activation_literal", "--optimizer", "adamw", "--lr", "0.002"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        trials = measure(Path(scratch), asked.kills, chance)
    report(trials, asked.out)
    sys.exit(0 if all(trial["identical"] for trial in trials) else 1)


def measure(scratch: Path, kills: int, chance: random.Random) -> list[dict]:
    """``kills`` trials, the runs taking turns."""
    whole, lasting = {}, {}
    for name, options in RUNS.items():
        folder = scratch / f"whole {name}"
        begun = time.perf_counter()
        finish([*RUN, *options, "--out", str(folder)])
        whole[name] = evidence(folder)
        lasting[name] = time.perf_counter() - begun
    trials = []
    for number in range(kills):
        name = list(RUNS)[number % len(RUNS)]
        moment, seen = killed(scratch / str(number), [*RUN, *RUNS[name]], lasting[name], chance)
        folder = scratch / str(number)
        if (folder / "config.json").exists():
            finish(["resume", str(folder), "--no-plots", "--quiet"])
        else:  # killed before anything was stored: the same command again
            finish([*RUN, *RUNS[name], "--out", str(folder)])
        found = evidence(folder)
        different = sorted(key for key in whole[name] | found if whole[name].get(key) != found.get(key))
        trials.append({
            "trial": number + 1, "run": name, "killed_after_s": round(moment, 3), "epochs_stored": seen,
            "identical": not different, "different": different,
        })  # fmt: skip
        print(f"{number + 1:3}  {name:26}  killed after {moment:6.3f} s, {seen:2} epochs stored  "
              f"{'identical' if not different else 'DIFFERENT: ' + ', '.join(different)}", flush=True)  # fmt: skip
    return trials


def killed(folder: Path, command: list[str], lasting: float, chance: random.Random) -> tuple[float, int]:
    """Start, kill at a random moment of the process' life; (seconds it lived, epochs in metrics.jsonl)."""
    while True:
        begun = time.perf_counter()
        process = start([*command, "--out", str(folder)])
        # half of the kills from the first file on, where all the writing happens; half at any moment
        if chance.random() < 0.5:
            while process.poll() is None and not (folder / "environment.json").exists():
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.5 * lasting))
        else:
            time.sleep(chance.uniform(0.2 * lasting, lasting))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL and not (folder / "summary.json").exists():
            lines = folder / "metrics.jsonl"
            return time.perf_counter() - begun, lines.read_bytes().count(b"\n") if lines.exists() else 0
        command = [*command, "--overwrite"]  # it was faster than the kill: once more


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "actprune.lab.cli", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def finish(arguments: list[str]) -> None:
    if start(arguments).wait() != 0:
        sys.exit(f"actprune {' '.join(arguments)} failed")


def evidence(folder: Path) -> dict[str, bytes]:
    """Contents of all files that must be equal."""
    files = {name: (folder / name).read_bytes() for name in FILES}
    return files | {path.name: path.read_bytes() for path in (folder / "pruning_steps").iterdir()}


def report(trials: list[dict], out: Path) -> None:
    """resume.json and resume.md."""
    same = sum(trial["identical"] for trial in trials)
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(), "threads": 1}
    command = f"python benchmarks/resume.py --kills {len(trials)}"
    out.mkdir(parents=True, exist_ok=True)
    stored = {"command": command, "machine": machine, "identical": same, "trials": trials}
    (out / "resume.json").write_text(json.dumps(stored, indent=2) + "\n")
    rows = [
        f"| {trial['trial']} | {trial['run']} | {trial['killed_after_s']:.3f} | {trial['epochs_stored']} | "
        f"{'yes' if trial['identical'] else 'NO: ' + ', '.join(trial['different'])} |"
        for trial in trials
    ]
    text = [
        "# Resume after kill -9", "",
        f"{same} of {len(trials)} runs on digits (article's network, 40 epochs) that were killed with SIGKILL at a "
        f"random moment and resumed ended with the same weights, masks, counts and metrics, bit for bit. `{command}`, "
        f"torch {machine['torch']}, 1 thread.", "",
        "| trial | run | killed after (s) | epochs stored | bit-identical |",
        "| ---: | :--- | ---: | ---: | :--- |", *rows,
    ]  # fmt: skip
    (out / "resume.md").write_text("\n".join(text) + "\n")
    print(f"{same} of {len(trials)} identical; wrote {out / 'resume.md'}")


if __name__ == "__main__":
    main()
