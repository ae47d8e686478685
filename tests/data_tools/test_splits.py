from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest

from data_tools.ordering import KeyedPermutation, class_mixed_order
from data_tools.splits import SplitOptions, create_split, draw_labels, unlabeled_order
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance, read_manifest
from realmix_tf.data.names import read_map
from realmix_tf.data.records import RecordReader, RecordWriter, encode_example
from realmix_tf.errors import DataError, UsageError

SVHN = [13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659, 4948]


def published(labels, size, seed, classes):
    """The published algorithm, plainly: global generator, python lists, one record at a time."""
    per_class = defaultdict(list)
    for i, c in enumerate(labels):
        per_class[c].append(i)
    stats = np.array([len(per_class[c]) for c in range(classes)], np.float64)
    stats /= stats.max()
    state = np.random.get_state()
    if seed:
        np.random.seed(seed)
        for c in range(classes):
            np.random.shuffle(per_class[c])
    np.random.set_state(state)
    count = np.zeros(classes, np.int64)
    drawn = []
    for _ in range(size):
        c = np.argmax(stats - count / max(count.max(), 1))
        drawn.append(per_class[c][count[c]])
        count[c] += 1
    count = np.zeros(classes, np.int64)
    waiting = [[] for _ in range(classes)]
    rest = []
    for i, c in enumerate(labels):
        if i in drawn:
            continue
        waiting[c].append(i)
        while True:
            c = np.argmax(stats - count / max(count.max(), 1))
            if not waiting[c]:
                break
            rest.append(waiting[c].pop(0))
            count[c] += 1
    for queue in waiting:
        rest.extend(queue)
    return drawn, rest


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
@pytest.mark.parametrize("shares", [[1] * 10, [5, 3, 2, 1], [7, 7, 1]])
def test_the_draw_is_the_published_one(seed, shares) -> None:
    random = np.random.RandomState(seed + 7)
    share = np.array(shares) / sum(shares)
    labels = random.choice(len(shares), 1500, p=share)
    drawn, rest = published(labels.tolist(), 40, seed, len(shares))
    assert draw_labels(labels, 40, seed, classes=len(shares)) == drawn
    assert unlabeled_order(labels, set(drawn), classes=len(shares)) == rest


def test_published_vectors() -> None:
    balanced = np.repeat(np.arange(10), 5000)
    drawn = balanced[draw_labels(balanced, 40, 1, classes=10)]
    assert drawn.tolist() == [*range(10)] * 4
    counts = np.bincount(balanced[draw_labels(balanced, 15, 1, classes=10)])
    assert counts.tolist() == [2] * 5 + [1] * 5
    svhn = np.repeat(np.arange(10), SVHN)
    counts = np.bincount(svhn[draw_labels(svhn, 40, 2, classes=10)])
    assert counts.tolist() == [7, 6, 4, 4, 4, 3, 3, 3, 3, 3]
    counts = np.bincount(svhn[draw_labels(svhn, 250, 3, classes=10)])
    assert counts.tolist() == [47, 36, 29, 25, 24, 20, 19, 17, 16, 17]


def test_no_global_generator_is_touched() -> None:
    np.random.seed(5)
    expected = np.random.get_state()[1].tolist()
    draw_labels(np.arange(100) % 4, 10, 3, classes=4)
    assert np.random.get_state()[1].tolist() == expected


def test_unlabelled_records_are_never_drawn_and_are_mixed_in() -> None:
    labels = np.concatenate([np.arange(200) % 4, np.full(600, -1)])
    drawn = draw_labels(labels, 100, 1, classes=4)
    assert (labels[drawn] >= 0).all()
    rest = unlabeled_order(labels, set(drawn), classes=4)
    assert sorted([*drawn, *rest]) == list(range(800))
    assert 0 < (labels[rest[:100]] >= 0).sum() < 80


def test_too_many_labels_say_how_many_there_are() -> None:
    labels = np.array([0, 1, 0, 1, -1, -1])
    with pytest.raises(DataError, match=r"5 labels .* only 4"):
        draw_labels(labels, 5, 1, classes=2)
    with pytest.raises(DataError, match="class 1 has only 1"):
        draw_labels(np.array([0, 0, 0, 1]), 4, 1, classes=2, uniform=True)


def test_classes_without_records_are_passed_over() -> None:
    labels = np.array([1, 2] * 10)
    drawn = draw_labels(labels, 20, 1, classes=3)
    assert sorted(drawn) == list(range(20))
    assert sorted(unlabeled_order(labels, set(drawn[:4]), classes=3)) == sorted(drawn[4:])


def write(path, labels, manifest=True, classes=4):
    with RecordWriter(
        path,
        dataset="t",
        role="train",
        classes=[f"c{i}" for i in range(classes)],
        shape=(2, 2, 1),
        provenance=provenance("test"),
    ) as writer:
        for i, label in enumerate(labels):
            image = encode_png(np.full((2, 2, 1), i % 256, np.uint8))
            writer.write(encode_example(image, label, labeled=label >= 0, name=f"{i}"), label)
    if not manifest:
        manifest_path(path).unlink()
    return path


def options(tmp_path, *inputs, **more):
    return SplitOptions(**{"target": tmp_path / "SSL" / "t", "inputs": inputs, "labels": 8,
                           "seed": 1, **more})  # fmt: skip


def names(path):
    with RecordReader(path) as reader:
        return [int(reader.record(i).name) for i in range(len(reader))]


def test_files_hold_what_the_map_says(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(60)] + [-1] * 20)
    result = create_split(options(tmp_path, source))
    mapping = json.loads(result.map_file.read_text())
    assert names(result.label_file) == mapping["label"] == sorted(mapping["label"])
    assert names(result.unlabel_file) == mapping["unlabel"]
    assert sorted(mapping["label"] + mapping["unlabel"]) == list(range(80))
    assert result.labeled == {f"c{i}": 2 for i in range(4)}
    assert result.without_label == 20
    with RecordReader(result.unlabel_file) as reader, RecordReader(source) as whole:
        reader.verify()
        np.testing.assert_array_equal(reader.labels, whole.labels[mapping["unlabel"]])
    manifest = read_manifest(result.label_file)
    assert manifest is not None
    assert manifest.provenance["parents"][0]["sha256"] == read_manifest(source).sha256
    assert str(tmp_path) not in json.dumps(manifest.provenance)


def test_a_rerun_gives_the_same_bytes(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(60)])
    first = create_split(options(tmp_path, source))
    files = (first.label_file, first.unlabel_file, first.map_file, manifest_path(first.label_file))
    before = [path.read_bytes() for path in files]
    with pytest.raises(UsageError, match="exists"):
        create_split(options(tmp_path, source))
    create_split(options(tmp_path, source, overwrite=True))
    assert [path.read_bytes() for path in files] == before


def test_files_of_the_original_tools_are_read_and_never_replaced(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(60)], manifest=False)
    result = create_split(options(tmp_path, source))
    assert len(result.notes) == 1
    result.map_file.unlink()
    manifest_path(result.label_file).unlink()
    with pytest.raises(UsageError, match="exists"):
        create_split(options(tmp_path, source))


def test_the_labelled_pool_can_be_limited(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(40)] + [-1] * 20)
    result = create_split(options(tmp_path, source, label_pool=16))
    assert max(json.loads(result.map_file.read_text())["label"]) < 16
    with pytest.raises(DataError, match=r"of the first 45 records 5 .*label_size=40"):
        create_split(options(tmp_path, source, labels=9, label_pool=45))
    with pytest.raises(DataError, match="only 16"):
        create_split(options(tmp_path, source, labels=17, label_pool=16))
    with pytest.raises(DataError, match="60 records"):
        create_split(options(tmp_path, source, labels=9, label_pool=61))


def test_pools_of_the_original_tools_are_unlabelled(tmp_path) -> None:
    train = write(tmp_path / "stl10-train.tfrecord", [i % 4 for i in range(40)], manifest=False)
    pool = write(tmp_path / "stl10-unlabeled.tfrecord", [0] * 30, manifest=False)
    result = create_split(options(tmp_path, train, pool))
    mapping = json.loads(result.map_file.read_text())
    assert max(mapping["label"]) < 40
    with RecordReader(result.unlabel_file) as reader:
        reader.verify()
        assert int((~reader.labeled).sum()) == 30


def _uneven(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    source = write(tmp_path / folder / name, [0] * 60 + [1] * 20 + [2] * 20 + [3] * 20)
    result = create_split(options(tmp_path, source, target=tmp_path / folder / "SSL" / "t"))
    manifest = read_manifest(result.label_file)
    assert manifest is not None
    return list(result.labeled.values()), manifest.provenance


def test_only_the_files_own_name_makes_an_stl10_draw(tmp_path) -> None:
    counts, origin = _uneven(tmp_path, "stl10_work", "pets-train.tfrecord")
    assert counts == [4, 2, 1, 1]
    assert (origin["draw"], origin["unlabeled_order"]) == ("by shares", "by shares")
    counts, origin = _uneven(tmp_path, "work", "stl10-train.tfrecord")
    assert counts == [2, 2, 2, 2]
    assert (origin["draw"], origin["unlabeled_order"]) == ("uniform", "uniform")


def test_a_balanced_draw_says_so(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [0] * 30 + [1, 2, 3] * 5)
    result = create_split(options(tmp_path, source, class_balance=True))
    origin = read_manifest(result.label_file).provenance
    assert (origin["draw"], origin["unlabeled_order"]) == ("uniform", "by shares")


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [("stl10-train", 1000, True), ("stl10-train", 40, False), ("t-train", 1000, False)],
)
def test_stl10_with_1000_labels_is_said_not_to_be_the_published_split(
    tmp_path, name, labels, said
) -> None:
    source = write(tmp_path / f"{name}.tfrecord", [i % 4 for i in range(1040)])
    notes = create_split(options(tmp_path, source, labels=labels)).notes
    assert any("stl10_fold_indices" in note for note in notes) == said


def test_the_map_is_read_or_refused(tmp_path) -> None:
    path = tmp_path / "t-map.json"
    path.write_text(json.dumps({"label": [1], "unlabel": [2, 0]}))
    ids = read_map(path, 2)
    assert (ids.dtype, ids.tolist()) == (np.int64, [2, 0])
    with pytest.raises(DataError, match="does not list 3 unlabelled ids"):
        read_map(path, 3)
    for value in ([2, 0], {}, *({"unlabel": [0, wrong]} for wrong in (-1, 1.0, True, "1", 2**63))):
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match="make the split again"):
            read_map(path, 2)
    path.write_text("{")
    with pytest.raises(DataError):
        read_map(path, 2)


def test_inputs_must_belong_together(tmp_path) -> None:
    one = write(tmp_path / "a.tfrecord", [0, 1] * 20)
    two = write(tmp_path / "b.tfrecord", [0, 1] * 20, classes=3)
    with pytest.raises(DataError, match="classes"):
        create_split(options(tmp_path, one, two))
    with pytest.raises(DataError, match="no records"):
        create_split(options(tmp_path, write(tmp_path / "c.tfrecord", [])))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 255, 256, 257, 1000, 5000])
def test_keyed_permutations_are_permutations(size) -> None:
    positions = np.arange(size)
    permuted = KeyedPermutation(size, 1, "x")(positions)
    assert sorted(permuted.tolist()) == positions.tolist()
    np.testing.assert_array_equal(
        KeyedPermutation(size, 1, "x")(positions[size // 2 :]), permuted[size // 2 :]
    )
    if size >= 255:
        assert (permuted != KeyedPermutation(size, 2, "x")(positions)).mean() > 0.9
        assert abs(np.corrcoef(positions, permuted)[0, 1]) < 0.2


def test_keyed_permutations_spread_neighbours_evenly() -> None:
    size, parts = 100_000, 20
    block = KeyedPermutation(size, 3, "x")(np.arange(size // parts)) * parts // size
    counts = np.bincount(block, minlength=parts)
    expected = size / parts / parts
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_class_mixed_orders_keep_every_prefix_in_proportion() -> None:
    labels = [0] * 500 + [1] * 250 + [2] * 10
    order = class_mixed_order(labels, 0)
    assert sorted(order.tolist()) == list(range(760))
    for prefix in (76, 152, 380):
        counts = np.bincount(np.array(labels)[order[:prefix]], minlength=3)
        np.testing.assert_allclose(counts, np.array([500, 250, 10]) * prefix / 760, atol=1.01)
