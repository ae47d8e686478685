#!/usr/bin/env python3
"""Accuracy on scikit-learn's digits: methods × labels × seeds, one table.

Every cell is a split and a training with the same updates, batch, network and weak augmentation;
only the method differs. Finished trainings are reused, so a study that was stopped goes on.

  python benchmarks/digits.py --folder=/tmp/digits-study
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARED = {
    "arch": "small",
    "filters": 32,
    "ema": 0.99,
    "bn_decay": 0.99,
    "train_kimg": 96.0,
    "report_kimg": 16.0,
    "save_kimg": 96.0,
}
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {},
    "mixup_supervised": {},
    "mixmatch": {"warmup_kimg": 16.0},
    "realmix": {"warmup_kimg": 16.0},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True, help="for datasets and runs; reused")
    parser.add_argument("--labels", default="20,40", help="labels of the splits")
    parser.add_argument(
        "--seeds", default="1,2,3", help="of split, weights, order and augmentation"
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()

    from realmix_tf import api

    folder = Path(arguments.folder)
    data_dir, train_dir = folder / "data", folder / "experiments"
    api.build_digits(data_dir)
    seeds = [int(word) for word in arguments.seeds.split(",")]
    rows = []
    for labels in (int(word) for word in arguments.labels.split(",")):
        for seed in seeds:
            if not (data_dir / "SSL" / f"digits.{seed}@{labels}-map.json").exists():
                api.split("digits", labels, data_dir, seed=seed)
        for method in arguments.methods.split(","):
            scores, seconds = [], []
            for seed in seeds:
                start = time.monotonic()
                result = api.train(
                    f"digits.{seed}@{labels}-0",
                    data_dir,
                    method=method,
                    train_dir=train_dir,
                    seed=seed,
                    **SHARED,
                    **METHODS[method],
                )
                scores.append(100 * result.accuracy["test"])
                if result.trained:
                    seconds.append(time.monotonic() - start)
            rows.append((labels, method, scores, seconds))
    updates = int(SHARED["train_kimg"] * 1024) // 64
    print(
        f"digits, 8x8, 500 test images; {updates} updates of 64, small network, shifts of one pixel"
    )
    columns = ("labels", "method", "test accuracy", "over supervised", "s a run", "runs")
    print("{:>6}  {:<17}{:>15}{:>17}{:>9}  {}".format(*columns))
    baseline = 0.0
    for labels, method, scores, seconds in rows:
        mean = statistics.mean(scores)
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
        if method == "supervised":
            baseline = mean
        took = f"{statistics.median(seconds):.0f}" if seconds else "reused"
        print(
            f"{labels:>6}  {method:<17}{mean:>8.1f} ± {error:<4.1f}{mean - baseline:>+15.1f}"
            f"{took:>11}  {' '.join(f'{score:.1f}' for score in scores)}"
        )
    table = [
        {"labels": labels, "method": method, "accuracy": scores}
        for labels, method, scores, _ in rows
    ]
    (folder / "digits.json").write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
