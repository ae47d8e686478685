from __future__ import annotations

import hashlib
import json
from collections import defaultdict

import numpy as np
import pytest

from data_tools.records.ordering import (
    KeyedPermutation,
    by_class,
    class_mixed_order,
    proportional_turns,
)
from data_tools.records.splits import (
    SplitOptions,
    create_split,
    describe,
    draw_labels,
    plan_split,
    read_fold,
    unlabeled_order,
)
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance, read_manifest
from realmix_tf.data.names import read_map
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
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
    assert draw_labels(labels, 40, seed, classes=len(shares)).tolist() == drawn
    assert unlabeled_order(labels, np.array(drawn), classes=len(shares)).tolist() == rest


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
    rest = unlabeled_order(labels, drawn, classes=4)
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
    assert sorted(unlabeled_order(labels, drawn[:4], classes=3)) == sorted(drawn[4:])


def plain_turns(counts, available, uniform):
    """One turn after the other, as published."""
    shares = np.ones(len(counts)) if uniform else counts / max(counts.max(), 1)
    shares[(counts == 0) & (not uniform)] = -np.inf
    taken = np.zeros(len(counts), np.int64)
    turns = []
    while True:
        c = int(np.argmax(shares - taken / max(taken.max(), 1)))
        if taken[c] == available[c]:
            return turns, c
        turns.append((c, int(taken[c])))
        taken[c] += 1


def test_turns_computed_at_once_are_the_plain_ones() -> None:
    random = np.random.RandomState(3)
    for trial in range(150):
        counts = random.randint(trial % 2, random.choice([2, 5, 30, 120]), random.randint(1, 12))
        if trial % 5 == 0:
            counts[:] = counts[0]
        if trial % 7 == 0:
            counts = 3 * counts + trial % 3
        counts[random.randint(len(counts))] += 1
        available = counts - np.minimum(counts, random.randint(0, 4, len(counts)) * (trial % 3))
        for uniform in (False, True):
            expected, exhausted = plain_turns(counts, available, uniform)
            turns = proportional_turns(counts, available, uniform=uniform)
            assert list(zip(*(part.tolist() for part in turns[:2]), strict=True)) == expected
            assert turns.exhausted == exhausted
            some = proportional_turns(counts, available, uniform=uniform, most=9)
            assert some.classes.tolist() == [c for c, _ in expected[:9]]
            assert some.exhausted == (exhausted if len(expected) < 9 else -1)


def test_members_of_classes_are_listed_in_order() -> None:
    labels = np.array([2, 0, -1, 2, 0, 5])
    assert [part.tolist() for part in by_class(labels, 4)] == [[1, 4], [], [0, 3], []]
    assert by_class(np.zeros(0, np.int64), 0) == []


@pytest.mark.parametrize(
    ("uneven", "size", "seed", "digest"),
    [
        (False, 40, 1, "2a79a99fa6bc43d0"),
        (False, 15, 1, "744a627d74797348"),
        (True, 40, 2, "699912b6bab9e4d1"),
        (True, 250, 3, "20d24094d68e2618"),
    ],
)
def test_draw_and_order_are_those_of_the_first_version(uneven, size, seed, digest) -> None:
    """Digests of the ids that the published algorithm, run record by record, gave."""
    classes = np.repeat(np.arange(10), SVHN if uneven else 5000)
    labels = np.random.RandomState(0).permutation(classes)
    drawn = draw_labels(labels, size, seed, classes=10)
    rest = unlabeled_order(labels, drawn, classes=10)
    found = hashlib.sha256(np.concatenate([drawn, rest]).astype("<i8").tobytes()).hexdigest()
    assert found[:16] == digest


def write(path, labels, manifest=True, classes=4, sources=None, role="train"):
    with RecordWriter(
        path,
        dataset="t",
        role=role,
        classes=[f"c{i}" for i in range(classes)],
        shape=(2, 2, 1),
        provenance=provenance("test"),
    ) as writer:
        for i, label in enumerate(labels):
            image = encode_png(np.full((2, 2, 1), i % 256, np.uint8))
            source = sources[i] if sources and sources[i] >= 0 else None
            example = encode_example(image, label, labeled=label >= 0, name=f"{i}", source=source)
            writer.write(example, label)
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


def folds(path, count=10, length=1000, most=1040):
    random = np.random.RandomState(4)
    lines = [" ".join(map(str, random.permutation(most)[:length])) + " " for _ in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_stl10_folds_are_lines_of_their_file(tmp_path) -> None:
    train = write(tmp_path / "stl10-train.tfrecord", [i % 4 for i in range(1040)])
    pool = write(tmp_path / "stl10-unlabeled.tfrecord", [-1] * 60, role="unlabeled")
    lines = folds(tmp_path / "stl10_fold_indices.txt")
    for seed, inputs, shift in ((0, (train,), 0), (7, (train, pool), 0), (7, (pool, train), 60)):
        result = create_split(options(tmp_path, *inputs, labels=1000, seed=seed, overwrite=True))
        ids = json.loads(result.map_file.read_text())["label"]
        assert ids == sorted(int(word) + shift for word in lines[seed].split())
        assert not result.notes
    assert read_manifest(result.label_file).provenance["draw"].startswith("fold 7")
    with pytest.raises(UsageError, match=r"--seed is 10.*0\.\.9"):
        create_split(options(tmp_path, train, labels=1000, seed=10))
    assert plan_split(options(tmp_path, train, labels=1000, seed=3)).reads[1].path.endswith(".txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", r"1000 different ids .*line 5"),
        (" ".join(["1"] * 1000), r"1000 different ids .*line 5"),
        (" ".join(map(str, range(999))) + " -1", r"1000 different ids .*line 5"),
        (" ".join(map(str, range(999))) + " ٣", r"1000 different ids .*line 5"),
        ("1 2\n3", "10 lines"),
    ],
)
def test_folds_of_another_form_are_refused(tmp_path, line, message) -> None:
    path = tmp_path / "stl10_fold_indices.txt"
    lines = folds(path)
    path.write_text("\n".join([*lines[:4], line, *lines[5:]]))
    with pytest.raises(DataError, match=message):
        read_fold(path, 0)


def test_folds_must_belong_to_the_input(tmp_path) -> None:
    train = write(tmp_path / "stl10-train.tfrecord", [i % 4 for i in range(1010)])
    folds(tmp_path / "stl10_fold_indices.txt")
    with pytest.raises(DataError, match=r"no record with a true label of stl10-train"):
        create_split(options(tmp_path, train, labels=1000))
    assert not (tmp_path / "SSL").exists()


def with_copies(tmp_path, name="t-train", shift=0):
    """40 originals of 4 classes, 20 without a label, then copies of every third record."""
    labels = [i % 4 for i in range(40)] + [-1] * 20
    sources = [-1] * 60
    for i in range(0, 60, 3):
        labels += [labels[i]] * 2
        sources += [i] * 2
    return write(tmp_path / f"{name}.tfrecord", labels, sources=sources), np.array(sources)


def test_copies_go_where_their_original_goes(tmp_path) -> None:
    source, sources = with_copies(tmp_path)
    plain = write(tmp_path / "p-train.tfrecord", [i % 4 for i in range(40)] + [-1] * 20)
    result = create_split(options(tmp_path, source, labels=8, validation=5))
    mapping = json.loads(result.map_file.read_text())
    drawn = [i for i in mapping["label"] if i < 60]
    without = create_split(options(tmp_path / "plain", plain, labels=8))
    assert drawn == json.loads(without.map_file.read_text())["label"]
    labeled = set(drawn)
    for i in range(60, 100):
        assert (i in mapping["label"]) == (sources[i] in labeled)
    assert sorted(mapping["label"] + mapping["unlabel"]) == list(range(100))
    assert result.copies == (len(mapping["label"]) - 8, 100 - 60 - len(mapping["label"]) + 8)
    assert sum(result.copies) == 40
    with RecordReader(result.unlabel_file) as reader:
        reader.verify()
        np.testing.assert_array_equal(reader.sources, sources[mapping["unlabel"]])
        places = np.flatnonzero(reader.labeled & (reader.sources < 0))[:5]
    held = [mapping["unlabel"][i] for i in places]
    assert mapping["valid"] == held
    assert names(result.label_file) == mapping["label"] == sorted(mapping["label"])
    assert "copies with their originals" in describe(result)


def test_ids_of_originals_count_through_all_inputs(tmp_path) -> None:
    one, sources = with_copies(tmp_path, "a-train")
    two, _ = with_copies(tmp_path, "b-train")
    result = create_split(options(tmp_path, one, two, labels=16))
    mapping = json.loads(result.map_file.read_text())
    expected = np.concatenate([sources, np.where(sources >= 0, sources + 100, -1)])
    for file, key in ((result.label_file, "label"), (result.unlabel_file, "unlabel")):
        with RecordReader(file) as reader:
            reader.verify()
            np.testing.assert_array_equal(reader.sources, expected[mapping[key]])
        assert names(file) == [i % 100 for i in mapping[key]]


def test_copies_without_their_original_are_refused(tmp_path) -> None:
    for k, sources in enumerate(([-1, 0, 7, -1], [-1, 0, 1, -1], [0, -1, -1, -1])):
        path = write(tmp_path / f"{k}-train.tfrecord", [0, 0, 0, 0], sources=sources)
        with pytest.raises(DataError, match="no original of this file"):
            create_split(options(tmp_path, path, labels=1))
    path = write(tmp_path / "t.1@2-unlabel.tfrecord", [0, 0], sources=[90, 91], role="unlabel")
    with pytest.raises(DataError, match="another split's map"):
        create_split(options(tmp_path, path, labels=1))


def test_labels_can_be_counted_by_class(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(60)])
    result = create_split(
        options(tmp_path, source, labels=None, class_counts=(("c1", 5), ("3", 2), ("c0", 0)))
    )
    assert result.labeled == {"c0": 0, "c1": 5, "c2": 0, "c3": 2}
    assert result.name == "t.1@7-0"
    assert result.label_file.name == "t.1@7-label.tfrecord"
    assert result.notes == ("2 of 4 classes get no label: c0, c2",)
    drawn = json.loads(result.map_file.read_text())["label"]
    queue = draw_labels(np.arange(60) % 4, 60, 1, classes=4)
    assert sorted(drawn) == sorted(
        [*queue[queue % 4 == 1][:5].tolist(), *queue[queue % 4 == 3][:2].tolist()]
    )
    create_split(options(tmp_path, source, labels=7, class_counts=(("1", 7),), overwrite=True))
    with pytest.raises(UsageError, match="adds up to 7, --label_split_size is 8"):
        create_split(options(tmp_path, source, class_counts=(("1", 7),)))
    with pytest.raises(UsageError, match="given twice"):
        create_split(options(tmp_path, source, labels=None, class_counts=(("1", 7), ("c1", 1))))
    with pytest.raises(UsageError, match=r"no class 'c11'.*try: c1"):
        create_split(options(tmp_path, source, labels=None, class_counts=(("c11", 2),)))
    with pytest.raises(UsageError, match="contradict"):
        create_split(options(tmp_path, source, labels=None, class_counts=(("1", 7),),
                             class_balance=True))  # fmt: skip
    with pytest.raises(DataError, match=r"16 labels of class 'c1'.*only 15"):
        create_split(options(tmp_path, source, labels=None, class_counts=(("1", 16),)))


def test_validation_images_are_those_that_training_holds_out(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [0] * 40 + [1] * 10 + [-1] * 50)
    result = create_split(options(tmp_path, source, labels=10, validation=12))
    mapping = json.loads(result.map_file.read_text())
    with RecordReader(result.unlabel_file) as reader:
        first = np.flatnonzero(reader.labeled)[:12]
    assert mapping["valid"] == [mapping["unlabel"][i] for i in first]
    assert sum(result.valid.values()) == 12
    assert result.name == "t.1@10-12"
    assert any("no validation image: c2, c3" in note for note in result.notes)
    table = describe(result)
    assert "nothing lost: 100 = 10 labelled + 90 unlabelled" in table
    assert "of these validation" in table
    assert "--dataset=t.1@10-12" in table
    with pytest.raises(DataError, match=r"only 40 .*--validation=40 or less"):
        create_split(options(tmp_path / "x", source, labels=10, validation=41))
    assert not (tmp_path / "x").exists()


def test_validation_images_are_not_labelled_ones(tmp_path) -> None:
    # Record i shows the same as record i + 256.
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(300)])
    result = create_split(options(tmp_path, source, labels=120, validation=100))
    mapping = json.loads(result.map_file.read_text())
    labeled = {i % 256 for i in mapping["label"]}
    fine = [i for i in mapping["unlabel"] if i % 256 not in labeled]
    assert mapping["valid"] == fine[:100]
    assert mapping["valid"] != mapping["unlabel"][:100]
    with pytest.raises(DataError, match=f"--validation={len(fine)} or less"):
        create_split(options(tmp_path / "x", source, labels=120, validation=len(fine) + 1))


def test_plans_refuse_what_the_split_would_and_write_nothing(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [i % 4 for i in range(60)] + [-1] * 20)
    before = sorted(tmp_path.iterdir())
    plan = plan_split(options(tmp_path, source, validation=4))
    assert sorted(tmp_path.iterdir()) == before
    result = create_split(options(tmp_path, source, validation=4))
    assert plan.facts["labeled"] == result.labeled
    assert plan.facts["dataset"] == result.name
    for use, path in zip(
        plan.writes, (result.label_file, result.unlabel_file, result.map_file), strict=True
    ):
        assert use.path == str(path)
        assert abs(use.bytes - path.stat().st_size) <= 0.2 * path.stat().st_size + 40
    with pytest.raises(UsageError, match="exists"):
        plan_split(options(tmp_path, source))
    with pytest.raises(DataError, match="only 60"):
        plan_split(options(tmp_path, source, labels=61))


def test_an_input_is_never_replaced(tmp_path) -> None:
    path = write(tmp_path / "t.1@8-label.tfrecord", [i % 4 for i in range(60)])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="replace the source"):
        create_split(options(tmp_path, path, target=tmp_path / "t", overwrite=True))
    assert path.read_bytes() == before


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
