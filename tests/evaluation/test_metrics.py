import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from realmix_tf.errors import DataError
from realmix_tf.evaluation import metrics


def draw(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.4), count).astype(np.float32)
    return probabilities, random.integers(0, classes, count)


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (7, 5), (300, 4), (50, 30)])
def test_agrees_with_scikit_learn(count: int, classes: int) -> None:
    p, y = draw(count, classes, count)
    guess = p.argmax(1)
    result = metrics.classification_metrics(p, y)
    assert result["count"] == count
    assert result["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    for average in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(y, guess, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert result[f"{average}_{name}"] == pytest.approx(value), (average, name)
    wide = p.astype(float)
    expected_nll = sk.log_loss(y, wide / wide.sum(1, keepdims=True), labels=range(classes))
    assert result["nll"] == pytest.approx(expected_nll, rel=1e-5)
    table = metrics.confusion_matrix(p, y, classes)
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table, sk.confusion_matrix(y, guess, labels=range(classes)))


def slow_calibration(p: np.ndarray, y: np.ndarray, bins: int) -> tuple[float, list[int]]:
    total, counts = 0.0, []
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        rows = [
            i
            for i in range(len(y))
            if (low < float(p[i].max()) <= high) or (b == 0 and p[i].max() == 0)
        ]
        counts.append(len(rows))
        if rows:
            right = sum(p[i].argmax() == y[i] for i in rows) / len(rows)
            sure = sum(float(p[i].max()) for i in rows) / len(rows)
            total += len(rows) / len(y) * abs(right - sure)
    return total, counts


@pytest.mark.parametrize("classes", [2, 10])
def test_calibration_agrees_with_a_plain_loop(classes: int) -> None:
    p, y = draw(400, classes, 3)
    expected, counts = slow_calibration(p, y, 15)
    assert metrics.classification_metrics(p, y)["ece"] == pytest.approx(expected, abs=1e-9)
    bins = metrics.reliability(p, y)
    assert bins["count"] == counts
    for share, count in zip(bins["accuracy"], counts, strict=True):
        assert (share is None) == (count == 0)


def test_per_class_accuracy_and_absent_classes() -> None:
    p = np.eye(4)[[0, 0, 1, 3]]
    result = metrics.classification_metrics(p, np.array([0, 1, 1, 1]))
    assert result["per_class_accuracy"] == [1.0, pytest.approx(1 / 3), None, None]
    assert metrics.reliability(p, np.array([0, 1, 1, 1]))["count"][-1] == 4


def test_probabilities_of_exactly_zero_stay_finite_and_json_able() -> None:
    p = np.eye(3, dtype=np.float32)[[0, 1, 2]]
    result = metrics.full_evaluation(p, np.array([1, 2, 0]), ["a", "b", "c"])
    assert math.isfinite(result["nll"])
    assert result["nll"] > 80
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("p", "y", "text"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no images"),
        (np.ones((2, 2)) / 2, np.array([0]), "2 whole numbers"),
        (np.ones((2, 2)) / 2, np.array([0.0, 1.0]), "whole numbers"),
        (np.ones((2, 2)) / 2, np.array([0, 2]), "label 2"),
        (np.ones((2, 2)) / 2, np.array([-1, 0]), "label -1"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), np.array([0, 1]), "row 1"),
        (np.array([[0.5, 0.7]]), np.array([0]), "not distributions"),
        (np.array([[1.5, -0.5]]), np.array([0]), "not distributions"),
        (np.ones((2, 2), int), np.array([0, 1]), "must be float"),
    ],
)
def test_what_is_no_prediction_is_refused(p: np.ndarray, y: np.ndarray, text: str) -> None:
    with pytest.raises(DataError, match=text):
        metrics.classification_metrics(p, y)


def test_number_of_classes_is_checked() -> None:
    with pytest.raises(DataError, match="2 classes where 3"):
        metrics.full_evaluation(np.ones((1, 2)) / 2, np.array([0]), ["a", "b", "c"])


def test_interval_is_wilsons() -> None:
    # Wilson 1927, as tabulated for 81 of 263: 0.2553 to 0.3662.
    assert metrics.accuracy_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.accuracy_interval(1.0, 10)[1] == 1.0
    low, high = metrics.accuracy_interval(0.0, 10)
    assert low == 0.0
    assert 0.2 < high < 0.35
    with pytest.raises(DataError):
        metrics.accuracy_interval(0.5, 0)
