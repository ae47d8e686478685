"""What info and inspect_variables say about runs, checkpoints, models and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fake_run import make_run
from small_model import random_weights

from realmix_tf.errors import CheckpointError, DataError
from realmix_tf.evaluation.run_info import diff_runs, model_facts
from realmix_tf.evaluation.variables import describe, read_variables
from realmix_tf.files import read_json, write_json
from realmix_tf.training import checkpoint


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    variables = {
        "net/a/kernel": tf.Variable(np.array([[1.0, np.nan], [3.0, np.inf]], np.float32)),
        "optimizer/iteration": tf.Variable(7, dtype=tf.int64),
    }
    return checkpoint.save(tmp_path / "run" / "tf", 640, variables, {"best": None})


def test_variables_of_a_checkpoint_and_its_run(prefix: Path) -> None:
    by = (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", prefix.parents[1])
    for found in map(read_variables, by):
        assert [v.name for v in found.variables] == ["net/a/kernel", "optimizer/iteration"]
        kernel, count = found.variables
        assert (kernel.shape, kernel.dtype, kernel.size) == ((2, 2), "float32", 4)
        assert (kernel.mean, kernel.std, kernel.not_finite) == (2.0, 1.0, 2)
        assert (count.shape, count.lowest, count.highest) == ((), 7.0, 7.0)
        assert found.totals()["all"] == {"variables": 2, "numbers": 5, "bytes": 24}
        assert "NOT FINITE: net/a/kernel" in describe(found)
        json.dumps(found.as_json())


def test_variables_of_a_model(model_folder: Path) -> None:
    weights = random_weights(8)
    for path in (model_folder, model_folder.parent):
        found = read_variables(path)
        assert {v.name: v.shape for v in found.variables} == {
            name: value.shape for name, value in weights.items()
        }
        first = found.variables[0]
        assert first.mean == pytest.approx(float(weights[first.name].mean()), rel=1e-5)


def test_damage_is_found_before_anything_is_read(prefix: Path, model_folder: Path) -> None:
    data = Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    for call in (read_variables, model_facts):
        with pytest.raises(CheckpointError, match="damaged"):
            call(prefix)
    weights = model_folder / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1])
    for call in (read_variables, model_facts):
        with pytest.raises(CheckpointError, match="SHA-256 differs"):
            call(model_folder)
    Path(f"{prefix}.json").unlink()
    for call in (read_variables, model_facts):
        with pytest.raises(CheckpointError, match=r"no .*complete checkpoint"):
            call(prefix)
    with pytest.raises(CheckpointError, match="a run folder"):
        read_variables(prefix.parents[2])


def test_facts_of_checkpoints_models_and_predictions(
    prefix: Path, model_folder: Path, tmp_path: Path
) -> None:
    found = model_facts(prefix)
    assert found is not None
    assert (found["kind"], found["images_seen"]) == ("checkpoint", 640)
    found = model_facts(model_folder)
    assert found is not None
    assert (found["kind"], found["classes"]) == ("model", ["ant", "bee", "cat", "dog"])
    folder = tmp_path / "predictions"
    folder.mkdir()
    rows = [{"class_name": "a"}, {"class_name": "a"}, {"class_name": None}, 3]
    write_json(folder / "predictions.json", {"predictions": rows, "counts": {"inputs": 4}})
    found = model_facts(folder)
    assert found is not None
    assert found["predicted"] == {"a": 2}
    write_json(folder / "predictions.json", {"predictions": 1})
    with pytest.raises(DataError, match="no predictions of ours"):
        model_facts(folder)
    assert model_facts(tmp_path) is None
    assert model_facts(tmp_path / "nothing") is None


def test_runs_and_their_differences(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", method="mixmatch")
    args = read_json(second / "args/args.json")
    write_json(
        second / "args/args.json", {**args, "use_pseudo_labels": True, "settings": {"lr": 1}}
    )
    found = model_facts(first)
    assert found is not None
    assert (found["kind"], found["method"]) == ("run", "realmix")
    assert found["accuracy_at_last_report"]["test (ema)"] > 0.5
    assert found["settings"]["allow_overlap"] is False
    differing = diff_runs(first, second)
    assert differing["method"] == ["realmix", "mixmatch"]
    assert differing["lr"][1] == 1
    assert differing["use_pseudo_labels"] == [False, True]
    assert diff_runs(first, first) == {}
    with pytest.raises(DataError, match="no such file"):
        diff_runs(first, tmp_path)
