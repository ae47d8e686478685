"""Numbers that say how good predictions are. NumPy only.

Everywhere ``probabilities`` is float [N, C], one distribution a row, and ``labels`` is int [N] in
[0, C). Accuracies and other shares are fractions in [0, 1]; entropies and likelihoods are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from realmix_tf.errors import DataError

BINS = 15
_ROW_SUM_TOLERANCE = 1e-3
# The smallest normal float32: what a probability of exactly 0 counts as in a logarithm.
_SMALLEST = float(np.finfo(np.float32).tiny)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def classification_metrics(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, Any]:
    """The metrics of one set of images, ready for JSON.

    Precision, recall and F1 of a class are 0 where their denominator is. Macro averages run over
    the classes that occur among the labels or the predictions, as scikit-learn's do; weighted
    averages weigh each class by its number of labels. A tie goes to the smaller class id.

    Args:
      probabilities: float [N, C].
      labels: int [N].

    Returns:
      ``count`` (int), ``accuracy``, ``nll`` (mean negative log-likelihood in nats, finite),
      ``ece`` (expected calibration error over 15 bins), ``macro_precision``, ``macro_recall``,
      ``macro_f1``, ``weighted_precision``, ``weighted_recall``, ``weighted_f1`` and
      ``per_class_accuracy`` (a list of C; None where no image has the class).

    Raises:
      DataError: no images, shapes that do not fit, labels outside [0, C), or rows that are not
        distributions.
    """
    p, y = _checked(probabilities, labels)
    table = _confusion(p, y)
    per_class = class_table(table)
    support = table.sum(1)
    occurs = (support + table.sum(0)) > 0
    weights = support / support.sum()
    likelihood = np.maximum(p[np.arange(len(y)), y], _SMALLEST)
    result: dict[str, Any] = {
        "count": len(y),
        "accuracy": float(np.trace(table) / len(y)),
        "nll": float(-np.log(likelihood).mean()),
        "ece": _calibration_error(p, y),
    }
    for name in ("precision", "recall", "f1"):
        result[f"macro_{name}"] = float(per_class[name][occurs].mean())
        result[f"weighted_{name}"] = float((per_class[name] * weights).sum())
    result["per_class_accuracy"] = [
        float(recall) if count else None
        for recall, count in zip(per_class["recall"], support, strict=True)
    ]
    return result


def class_table(confusion: npt.ArrayLike) -> dict[str, FloatArray]:
    """Precision, recall and F1 of every class, each float64 [C], from counts [C, C].

    Rows of ``confusion`` are true classes. A value is 0 where its denominator is.
    """
    table = np.asarray(confusion, np.float64)
    hits = np.diag(table)
    return {
        "precision": _ratio(hits, table.sum(0)),
        "recall": _ratio(hits, table.sum(1)),
        "f1": _ratio(2 * hits, table.sum(0) + table.sum(1)),
    }


def confusion_matrix(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int
) -> IntArray:
    """Counts, int64 [C, C]: row = true class, column = predicted class.

    Raises:
      DataError: as ``classification_metrics``, or ``num_classes`` is not C.
    """
    p, y = _checked(probabilities, labels)
    if p.shape[1] != num_classes:
        raise DataError(f"predictions have {p.shape[1]} classes where {num_classes} were expected")
    return _confusion(p, y)


def reliability(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS
) -> dict[str, list[Any]]:
    """What a reliability diagram shows: how often predictions of a given confidence are right.

    Confidence is the largest probability of a row; the bins are equally wide, open at the left
    and closed at the right (0 belongs to the first).

    Returns:
      ``confidence`` and ``accuracy``, means a bin (None for an empty one), and ``count``.

    Raises:
      DataError: as ``classification_metrics``.
    """
    p, y = _checked(probabilities, labels)
    count, confidence, correct = _binned(p, y, bins)
    filled = np.maximum(count, 1)
    return {
        "confidence": _or_none(confidence / filled, count),
        "accuracy": _or_none(correct / filled, count),
        "count": [int(n) for n in count],
    }


def full_evaluation(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]
) -> dict[str, Any]:
    """``classification_metrics`` with ``confusion`` (a list of rows) and ``reliability`` added.

    Args:
      probabilities: float [N, C].
      labels: int [N].
      classes: the C class names.

    Raises:
      DataError: as ``classification_metrics``, or the number of names is not C.
    """
    return {
        **classification_metrics(probabilities, labels),
        "confusion": confusion_matrix(probabilities, labels, len(classes)).tolist(),
        "reliability": reliability(probabilities, labels),
    }


def accuracy_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share ``accuracy`` found in ``count`` independent trials.

    It covers the sampling of the test images only, not the training's own randomness.

    Raises:
      DataError: ``count`` is below 1 or ``accuracy`` outside [0, 1].
    """
    if count < 1 or not 0 <= accuracy <= 1:
        raise DataError(f"a share of {accuracy!r} among {count!r} images has no interval")
    z = 1.959963984540054
    scale = 1 + z * z / count
    centre = (accuracy + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(accuracy * (1 - accuracy) / count + z * z / (4 * count * count))
    # At the ends one bound is the share itself; rounding must not put it on the other side.
    return max(0.0, min(centre - half, accuracy)), min(1.0, max(centre + half, accuracy))


def _checked(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    p, y = np.asarray(probabilities), np.asarray(labels)
    if p.ndim != 2 or not np.issubdtype(p.dtype, np.floating) or p.shape[1] < 1:
        raise DataError(f"predictions must be float [images, classes], not {p.dtype} {p.shape}")
    if len(p) == 0:
        raise DataError("there are no images to measure on")
    if y.shape != p.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"labels must be {len(p)} whole numbers, not {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        outside = int(y.min() if y.min() < 0 else y.max())
        raise DataError(f"label {outside} is not in [0, {p.shape[1]})")
    p = p.astype(np.float64)
    if not np.isfinite(p).all():
        row = int(np.argmin(np.isfinite(p).all(1)))
        raise DataError(
            f"the network's predictions are not finite, first in row {row}",
            "",
            "a smaller learning rate, or weights that have not diverged",
        )
    wrong = (p < 0).any(1) | (np.abs(p.sum(1) - 1) > _ROW_SUM_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{int(wrong.sum())} predictions are not distributions, first in row {row}")
    return p, y.astype(np.int64)


def _confusion(p: FloatArray, y: IntArray) -> IntArray:
    classes = p.shape[1]
    cells = np.bincount(y * classes + p.argmax(1), minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def _binned(p: FloatArray, y: IntArray, bins: int) -> tuple[IntArray, FloatArray, FloatArray]:
    confidence = p.max(1)
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    correct = (p.argmax(1) == y).astype(np.float64)
    return (
        np.bincount(index, minlength=bins).astype(np.int64),
        np.bincount(index, confidence, bins).astype(np.float64),
        np.bincount(index, correct, bins).astype(np.float64),
    )


def _calibration_error(p: FloatArray, y: IntArray) -> float:
    _, confidence, correct = _binned(p, y, BINS)
    return float(np.abs(confidence - correct).sum() / len(y))


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _or_none(values: FloatArray, count: IntArray) -> list[float | None]:
    return [float(v) if n else None for v, n in zip(values, count, strict=True)]
