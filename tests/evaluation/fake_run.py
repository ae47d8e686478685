"""A run folder as the engine leaves it, made from real predictions on digits without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from realmix_tf.evaluation.metrics import classification_metrics, full_evaluation
from realmix_tf.files import write_json
from realmix_tf.nets.spec import NetworkSpec

PERIOD = 2048


def make_run(
    folder: Path,
    classes: list[str] | None = None,
    method: str = "realmix",
    labels: int = 60,
    evaluations: int = 12,
    valid: bool = True,
    unlabeled: bool = True,
    seed: int = 0,
) -> Path:
    """Writes everything a report reads; more ``labels`` make a better run."""
    images, targets = load_digits(return_X_y=True)
    names = classes or [f"digit {i}" for i in range(10)]
    order = np.random.default_rng(1).permutation(len(images))
    pixels = np.clip(images * 16, 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    sets = {"labeled": order[:labels], "test": order[-400:]}
    if valid:
        sets["valid"] = order[200:300]
    model = LogisticRegression(max_iter=200, C=1.0).fit(
        images[order[:labels]] / 16, targets[order[:labels]]
    )
    final = {name: model.predict_proba(images[i] / 16) for name, i in sets.items()}
    random = np.random.default_rng(seed)
    lines, timing = [], []
    for step in range(1, evaluations + 1):
        trust = 1 - 0.9 ** (4 * step)
        line: dict[str, Any] = {"images": step * PERIOD, "updates": step * 32, "ema": {}, "raw": {}}
        for name, ids in sets.items():
            noise = random.dirichlet(np.ones(10), len(ids))
            for key, part in (("ema", trust), ("raw", trust * 0.9)):
                mixed = part * final[name] + (1 - part) * noise
                line[key][name] = classification_metrics(mixed, targets[ids])
        line["train"] = {
            "loss/total": 2.3 * 0.8**step + 0.1,
            "loss/xe": 2.1 * 0.8**step + 0.05,
            "kept/labeled": 1.0,
            "lr": 0.002,
            "updates/skipped": 0,
        }
        if unlabeled:
            line["train"] |= {
                "loss/l2u": 0.02 + 0.002 * step,
                "kept/unlabeled": 0.35 + 0.5 * trust,
                "confidence/min": 0.15,
                "confidence/mean": 0.4 + 0.5 * trust,
                "confidence/max": 0.99,
                "mask/threshold": 0.7,
            }
        lines.append(line)
        rate = {"images_per_second": 800.0 + step, "input_wait_share": 0.004}
        timing.append({"images": step * PERIOD, "seconds": 2.56, **rate})
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("metrics.jsonl", lines), ("timing.jsonl", timing)):
        (folder / name).write_text("".join(json.dumps(v) + "\n" for v in values))
    evaluation = {
        weights: {n: full_evaluation(final[n], targets[i], names) for n, i in sets.items()}
        for weights in ("sets", "raw")
    }
    done = {"images": evaluations * PERIOD, "weights": "ema", **evaluation}
    write_json(folder / "stats" / "evaluation.json", done)
    spec = NetworkSpec("small", 10, 8, 8, 1, 32)
    description = {
        "schema": 1,
        "spec": spec.to_json(),
        "classes": names,
        "preprocessing": {"resize": "stretch", "channels": 1},
        "provenance": {"dataset": f"digits.1@{labels}-100", "weights": "ema"},
    }
    settings = {
        "method": method,
        "dataset": f"digits.1@{labels}-100",
        "settings": {"batch": 64, "lr": 0.002, "seed": seed},
        "config": {"nu": 2, "w_match": 75.0, "tsa": "none"},
        "counts": {n: len(i) for n, i in sets.items()} | {"unlabeled": 1200 * unlabeled},
        "model": description,
    }
    write_json(folder / "args" / "args.json", settings)
    hashes = {
        role: {"file": f"digits-{role}.tfrecord", "sha256": f"{i:064x}", "records": 100 * i}
        for i, role in enumerate(("labeled", "pool", "test"), 1)
    }
    environment = {
        "command": ["python", "realmix.py", f"--method={method}", "--dataset=digits.1@40-100"],
        "versions": {"tensorflow": "2.21.0", "keras": "3.15.1", "python": "3.11.7"},
        "device": "CPU",
        "precision": "float32",
        "data": hashes,
    }
    write_json(folder / "env.json", environment)
    views = folder / "views"
    views.mkdir(exist_ok=True)
    np.savez(views / "labeled.npz", images=pixels[order[:16]], labels=targets[order[:16]])
    if unlabeled:
        pool = order[300:1300]
        guess = model.predict_proba(images[pool] / 16)
        ranked = np.argsort(guess.max(1))
        for name, chosen in (("confident", ranked[::-1][:16]), ("doubtful", ranked[:16])):
            np.savez(
                views / f"unlabeled_{name}.npz",
                images=pixels[pool[chosen]],
                probability=guess[chosen].max(1).astype(np.float32),
                predicted=guess[chosen].argmax(1),
                ranked=np.int64(len(pool)),
                of=np.int64(1200),
            )
        for view in range(2):
            np.savez(
                views / f"unlabeled_weak{view}.npz", images=pixels[pool[:16], ::1, :: 1 - 2 * view]
            )
        mixed = (pixels[pool[:16]] // 3 * 2 + pixels[pool[16:32]] // 3).astype(np.uint8)
        np.savez(views / "mixed.npz", images=mixed)
    return folder
