"""Two devices give what one gives on the same global batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

_PRELUDE = """
import sys
sys.path.insert(0, {here!r})
import json
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tiny
from realmix_tf.training.engine import Engine

def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def halves(values):
    # What TrainingInput makes for two replicas: the parts in order of position.
    half = tiny.ROWS // 2
    cut = lambda a: [a[:half], a[half:]]
    return [tiny.Batch({{"weak": i}}, l, {{}})
            for b in values for i, l in zip(cut(b.labeled["weak"]), cut(b.labels))]

def largest(one, other):
    assert one.keys() == other.keys()
    return {{n: float(np.abs(one[n].astype(np.float64) - other[n]).max()) for n in one}}
"""


def _output_of(code: str) -> dict:
    prelude = _PRELUDE.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


_SAME = """
values = tiny.batches(5)
poisoned = values[3].labeled["weak"].copy()
poisoned[-1] = np.nan                        # on the second replica only
values[3] = values[3]._replace(labeled={"weak": poisoned})
settings = tiny.settings(lr=0.01, wd=1.0, ema=0.9)
one = Engine(tiny.method("supervised"), tiny.SPEC, settings)
start = tiny.snapshot(one)
metrics = tiny.run(one, values)
two = Engine(tiny.method("supervised"), tiny.SPEC, settings, strategy=strategy(), synchronized=True)
found = two.run(two.iterator(tiny.dataset(halves(values))), 0, 5)
finite = lambda m: {n: np.nan_to_num(v) for n, v in m.items()}
print(json.dumps({
    "variables": largest(tiny.snapshot(one), tiny.snapshot(two)),
    "moved": largest(tiny.snapshot(one), start),
    "metrics": largest(finite(metrics), finite(found)),
    "skipped": found["updates/skipped"].tolist(),
}))
"""


def test_weights_averages_and_metrics_are_those_of_one_device():
    result = _output_of(_SAME)
    assert result["skipped"] == [0, 0, 0, 1, 0]
    assert {name.partition("/")[0] for name in result["variables"]} == {"net", "ema", "optimizer"}
    for name, difference in result["variables"].items():
        assert difference < 2e-5, (name, difference)
    for name, difference in result["metrics"].items():
        assert difference < 1e-4, (name, difference)
    assert result["moved"]["net/conv0/kernel"] > 1e-2
    assert result["moved"]["net/norm4/moving_mean"] > 1e-4


_CONTEXT = """
class Sums(tiny.Method):
    Config = tiny.NoOptions

    def initial_state(self):
        return {"labels": tf.zeros([])}

    def losses(self, batch, network, context):
        network(batch.labeled["weak"], training=True, update_stats=True)
        rows = tf.cast(batch.labels, tf.float32)
        mask = tf.cast(rows >= 2, tf.float32)
        total = context.total(tf.reduce_sum(rows))
        terms = {
            "mean": tiny.Term(context.mean(rows)),
            "masked": tiny.Term(context.masked_mean(rows, mask)),
            "none": tiny.Term(context.masked_mean(rows, 0.0 * mask)),
        }
        draw = tf.random.stateless_uniform([], context.seed("draw"))
        metrics = {"total/max": total, "draw/min": draw, "draw/max": draw,
                   "rows/min": tf.reduce_min(rows), "rows/max": tf.reduce_max(rows)}
        return tiny.StepResult(terms, metrics, {"labels": context.state["labels"] + total})

values = tiny.batches(4)
labels = [np.array([0, 1, 0, 2, 3, 3]), np.array([2, 3, 2, 0, 1, 0]), np.array([0, 1, 0, 1, 0, 1]),
          np.array([3, 3, 3, 3, 3, 3])]    # kept rows lie on one replica, the other, none, both
values = [b._replace(labels=l) for b, l in zip(values, labels)]
method = Sums(tiny.NoOptions(), tiny.TASK)
engine = Engine(method, tiny.SPEC, tiny.settings(), strategy=strategy())
found = engine.run(engine.iterator(tiny.dataset(halves(values))), 0, 4)
state = [float(v) for v in engine.strategy.experimental_local_results(engine.state["labels"])]
print(json.dumps({"found": {n: v.tolist() for n, v in found.items()},
                  "labels": [l.tolist() for l in labels], "state": state}))
"""


def test_sums_and_masked_means_are_over_the_global_batch():
    result = _output_of(_CONTEXT)
    found = result["found"]
    for update, labels in enumerate(result["labels"]):
        kept = [label for label in labels if label >= 2]
        assert found["loss/mean"][update] == pytest.approx(sum(labels) / len(labels))
        assert found["loss/masked"][update] == pytest.approx(sum(kept) / max(len(kept), 1))
        assert found["loss/none"][update] == 0
        assert found["total/max"][update] == sum(labels)
        assert found["rows/min"][update] == min(labels)
        assert found["rows/max"][update] == max(labels)
        assert found["draw/min"][update] != found["draw/max"][update]  # replicas mix on their own
    assert result["state"] == [float(sum(map(sum, result["labels"])))] * 2


_REALMIX = """
def parts(values):
    half = tiny.ROWS // 2
    for b in values:
        for cut in (slice(0, half), slice(half, None)):
            views = {name: view[cut] for name, view in b.unlabeled.items()}
            yield tiny.Batch({"weak": b.labeled["weak"][cut]}, b.labels[cut], views)

method = tiny.method("realmix", percent_mask=0.5, p_unlabeled="4,3,2,1", warmup_kimg=0.01)
engine = Engine(method, tiny.SPEC, tiny.settings(lr=0.01, ema=0.9), strategy=strategy())
data = tiny.dataset(list(parts(tiny.batches(4, views=2))))
found = engine.run(engine.iterator(data), 0, 4)
differences = {}
for name, variable in engine.variables().items():
    copies = engine.strategy.experimental_local_results(getattr(variable, "value", variable)
        if not isinstance(variable, tf.Variable) else variable)
    copies = [np.asarray(c) for c in copies]
    differences[name] = [len(copies), float(np.abs(copies[0] - copies[-1]).max())]
history = engine.state["class_history"].numpy()
print(json.dumps({"found": {n: v.tolist() for n, v in found.items()}, "differences": differences,
                  "history": [history.shape, history.sum(1).tolist(), float(np.ptp(history[-5]))]}))
"""


def test_realmix_keeps_its_replicas_alike_and_masks_on_each():
    result = _output_of(_REALMIX)
    # Unsynchronised batch statistics differ between replicas; their moving averages may not.
    for name, (copies, difference) in result["differences"].items():
        assert copies == 2, name
        assert difference == 0, (name, difference)
    found = result["found"]
    assert found["kept/unlabeled"] == pytest.approx([0.5] * 4)
    assert found["updates/skipped"] == [0] * 4
    assert all(loss > 0 for loss in found["loss/l2u"])
    shape, sums, oldest_spread = result["history"]
    assert shape == [128, 4]
    assert sums == pytest.approx([1.0] * 128)
    assert oldest_spread == 0  # four updates pushed four rows; the fifth last is still uniform


_METHODS = """
from dataclasses import asdict, replace
from test_every_method import EVERYTHING
from realmix_tf.methods.registry import get_method

ROWS = 8

def halves(values):
    for b in values:
        for part in range(2):
            yield tf.nest.map_structure(lambda a: np.array_split(a, 2)[part], b)

both = strategy()    # one for all: collectives of several strategies get mixed up

def trained(name):
    found = get_method(name)
    known = found.Config.__dataclass_fields__
    options = {k: v for k, v in EVERYTHING.items() if k in known}
    if name == "crmatch":
        options["w_rot"] = 0.0    # each replica turns its own first images
    method = found(found.Config(**options), replace(tiny.TASK, batch=ROWS))
    numbers = tiny.settings(batch=ROWS, lr=0.01, ema=0.9)
    values = tiny.batches_for(method, 3, ROWS)
    one = Engine(method, tiny.SPEC, numbers)
    metrics = tiny.run(one, values)
    two = Engine(method, tiny.SPEC, numbers, strategy=both, synchronized=True)
    found = two.run(two.iterator(tiny.dataset(list(halves(values)))), 0, 3)
    copies = {}
    for key, variable in two.variables().items():
        variable = variable if isinstance(variable, tf.Variable) else variable.value
        local = [np.asarray(c) for c in two.strategy.experimental_local_results(variable)]
        copies[key] = [len(local), float(np.abs(local[0] - local[-1]).max())]
    return {"variables": largest(tiny.snapshot(one), tiny.snapshot(two)),
             "metrics": largest(metrics, found), "copies": copies,
             "skipped": float(found["updates/skipped"].sum())}

print(json.dumps({name: trained(name) for name in NAMES}))
"""

# Those whose only random numbers are the input's give what one device gives.
ALIKE = ["mean_teacher", "flexmatch", "freematch", "softmatch", "dash", "simmatch", "comatch",
         "crmatch", "defixmatch", "uda"]  # fmt: skip
# Those that draw numbers inside the step draw others on each replica.
DRAWING = ["remixmatch", "adamatch", "vat", "ict"]


def test_methods_keep_on_two_devices_what_they_keep_on_one():
    for name, result in _output_of(_METHODS.replace("NAMES", repr(ALIKE))).items():
        assert result["skipped"] == 0
        for kind in ("variables", "metrics"):
            for key, difference in result[kind].items():
                assert difference < 2e-4, (name, key, difference)


def test_methods_that_draw_numbers_keep_the_same_on_both_devices():
    for name, result in _output_of(_METHODS.replace("NAMES", repr(DRAWING))).items():
        assert result["skipped"] == 0
        for key, (copies, difference) in result["copies"].items():
            assert copies == 2, (name, key)
            assert difference == 0, (name, key, difference)


_LEARNED = """
import test_learned_views as learned
values = learned.batches(3)
halves = [tf.nest.map_structure(lambda a: np.array_split(a, 2)[part], b)
          for b in values for part in range(2)]
one = learned.engine(lr=0.01)
metrics = learned.run(one, values)
two = Engine(learned.method(), tiny.SPEC, tiny.settings(ema=0.9, lr=0.01), strategy=strategy(),
             synchronized=True, learned=learned.LEARNED)
found = two.run(two.iterator(tiny.dataset(halves)), 0, 3)
rates = two.strategy.experimental_local_results(two.views.variables()["rates"])
print(json.dumps({"variables": largest(tiny.snapshot(one), tiny.snapshot(two)),
                  "metrics": largest(metrics, found),
                  "rates": [float(np.min(r[r > 0])) for r in map(np.asarray, rates)]}))
"""


def test_learned_augmentation_is_that_of_one_device():
    result = _output_of(_LEARNED)
    for kind in ("variables", "metrics"):
        for name, difference in result[kind].items():
            assert difference < 1e-4, (name, difference)
    assert "augment/rates" in result["variables"]
    assert len(result["rates"]) == 2
    assert result["rates"][0] == result["rates"][1] < 1
