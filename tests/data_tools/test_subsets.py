"""Filtering, merging and sampling record files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_tools.records.filters import FilterOptions, filter_dataset, plan_filter
from data_tools.records.subsets import (
    MergeOptions,
    SampleOptions,
    merge,
    plan_merge,
    plan_sample,
    sample,
)
from data_tools.records.transfer import RecordPool
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_png
from realmix_tf.data.manifest import manifest_path, provenance, read_manifest
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError

ANIMALS = ("cat", "dog", "owl")


def write(
    path: Path,
    labels,
    *,
    classes=ANIMALS,
    sources=None,
    pseudo=None,
    first=0,
    role="train",
    shape=(2, 2, 1),
) -> Path:
    """Record i holds an image of value first + i and the name ``<first + i>``."""
    with RecordWriter(
        path, dataset="t", role=role, classes=classes, shape=shape, provenance=provenance("test")
    ) as writer:
        for i, label in enumerate(labels):
            image = np.full(shape, (first + i) % 256, np.uint8)
            image[0, 0] = (first + i) // 256
            writer.write(
                encode_example(
                    encode_png(image),
                    label,
                    labeled=label >= 0,
                    name=str(first + i),
                    source=sources[i] if sources and sources[i] >= 0 else None,
                    pseudo=pseudo[i] if pseudo else None,
                )
            )
    return path


def names(path: Path) -> list[int]:
    with RecordReader(path) as reader:
        reader.verify()
        return [int(reader.record(i).name) for i in range(len(reader))]


def test_copies_are_filtered_with_their_originals(tmp_path) -> None:
    source = write(
        tmp_path / "t-train.tfrecord",
        [0, 1, 2, -1, 0, 2, 1],
        sources=[-1, -1, -1, -1, 0, 2, 1],
    )
    result = filter_dataset(FilterOptions(source, tmp_path / "u-train.tfrecord", ("owl", "dog")))
    assert (result.kept, result.dropped, result.dropped_without_label) == (
        {"dog": 2, "owl": 2},
        2,
        1,
    )
    with RecordReader(result.file) as reader:
        assert names(result.file) == [1, 2, 5, 6]
        assert reader.labels.tolist() == [0, 1, 1, 0]
        assert reader.sources.tolist() == [-1, -1, 1, 0]
    mixed = write(tmp_path / "v-train.tfrecord", [0, 1, 1], sources=[-1, 0, -1])
    result = filter_dataset(FilterOptions(mixed, tmp_path / "w-train.tfrecord", ("dog",)))
    assert names(result.file) == [2]
    assert result.notes == ("1 copies were dropped, since their originals are",)


def test_sources_of_a_splits_files_stay_what_they_are(tmp_path) -> None:
    source = write(
        tmp_path / "t_aug2.1@2-unlabel.tfrecord", [0, 1, 0, 1], sources=[70, 80, 80, 70],
        role="unlabel",
    )  # fmt: skip
    result = filter_dataset(FilterOptions(source, tmp_path / "u-unlabel.tfrecord", ("dog",)))
    with RecordReader(result.file) as reader:
        assert reader.sources.tolist() == [80, 70]
    drawn = sample(SampleOptions(source, tmp_path / "v-unlabel.tfrecord", size=4))
    with RecordReader(drawn.file) as reader:
        assert reader.sources.tolist() == [70, 80, 80, 70]
    with pytest.raises(DataError, match="map of their split"):
        merge(MergeOptions(tmp_path / "w.tfrecord", (source, result.file)))


def test_filter_plans_refuse_what_the_filter_would(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", [0, 1, 2] * 20)
    options = FilterOptions(source, tmp_path / "new" / "u-train.tfrecord", ("1", "owl"))
    plan = plan_filter(options)
    assert not (tmp_path / "new").exists()
    result = filter_dataset(options)
    assert plan.facts["kept"] == result.kept
    assert plan.writes[0].bytes == result.file.stat().st_size
    assert plan.memory > 1 << 20
    with pytest.raises(UsageError, match="exists"):
        plan_filter(options)
    with pytest.raises(UsageError, match=r"no class 'owls'.*try: owl"):
        plan_filter(FilterOptions(source, tmp_path / "x.tfrecord", ("owls",)))


def test_files_are_merged_in_order(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, -1, 1], sources=[-1, -1, -1, 1])
    two = write(
        tmp_path / "b-train.tfrecord", [2, -1, 2], sources=[-1, -1, 0], pseudo=[-1, 1, -1], first=10
    )
    result = merge(MergeOptions(tmp_path / "c-train.tfrecord", (one, two)))
    assert (result.records, result.without_label, result.duplicates) == (7, 2, 0)
    assert result.labeled == {"cat": 1, "dog": 2, "owl": 2}
    assert names(result.file) == [0, 1, 2, 3, 10, 11, 12]
    with RecordReader(result.file) as reader:
        assert reader.labels.tolist() == [0, 1, -1, 1, 2, -1, 2]
        assert reader.sources.tolist() == [-1, -1, -1, 1, -1, -1, 4]
        assert reader.pseudo_labels.tolist() == [-1] * 5 + [1, -1]
        assert reader.manifest is not None
        assert (reader.manifest.dataset, reader.manifest.role) == ("c", "train")
        parents = reader.manifest.provenance["parents"]
    assert [parent["sha256"] for parent in parents] == [
        read_manifest(path).sha256 for path in (one, two)
    ]
    assert str(tmp_path) not in manifest_path(result.file).read_text()


def test_classes_can_be_joined_by_name(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, 2], first=0)
    two = write(
        tmp_path / "b-test.tfrecord", [0, 1, 2, -1], classes=("fox", "owl", "cat"), first=10,
        pseudo=[-1, -1, -1, 1], role="test",
    )  # fmt: skip
    options = MergeOptions(tmp_path / "c-extra.tfrecord", (one, two))
    with pytest.raises(DataError, match=r"classes are not those of a-train.*--classes=union"):
        merge(options)
    result = merge(MergeOptions(options.output, (one, two), classes="union"))
    with RecordReader(result.file) as reader:
        reader.verify()
        assert reader.classes == ("cat", "dog", "owl", "fox")
        assert reader.labels.tolist() == [0, 1, 2, 3, 2, 0, -1]
        assert reader.pseudo_labels.tolist() == [-1] * 6 + [2]
        assert reader.manifest is not None
        assert reader.manifest.role == "extra"
    manifest_path(two).unlink()
    with pytest.raises(DataError, match="no names to join"):
        merge(MergeOptions(tmp_path / "d.tfrecord", (one, two), classes="union"))


def test_equal_images_are_counted_and_kept(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, 2])
    two = write(tmp_path / "b-train.tfrecord", [2, 1, 0, 0], first=1)
    result = merge(MergeOptions(tmp_path / "c-train.tfrecord", (one, two)))
    assert (result.records, result.duplicates) == (7, 2)
    assert "2 records have the same image" in result.notes[0]


def test_labels_must_belong_to_the_classes_of_the_others(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, 2])
    two = write(tmp_path / "b-train.tfrecord", [0, 3, 1], classes=("a", "b", "c", "d"))
    manifest_path(two).unlink()
    with pytest.raises(DataError, match=r"label 3 is none of the 3 classes.*record 1\b"):
        merge(MergeOptions(tmp_path / "c-train.tfrecord", (one, two)))
    three = write(tmp_path / "d-train.tfrecord", [0], shape=(2, 3, 1))
    with pytest.raises(DataError, match="2x3x1 do not fit"):
        merge(MergeOptions(tmp_path / "c-train.tfrecord", (one, three)))
    with pytest.raises(UsageError, match="at least two"):
        merge(MergeOptions(tmp_path / "c-train.tfrecord", (one,)))
    with pytest.raises(UsageError, match="replace the source"):
        merge(MergeOptions(one, (two, one), overwrite=True))
    with pytest.raises(UsageError, match=r"must end in \.tfrecord"):
        plan_merge(MergeOptions(tmp_path / "c", (one, one)))
    with pytest.raises(ResourceError, match="a file, not a folder"):
        merge(MergeOptions(one / "c.tfrecord", (one, one)))


def test_merge_plans_write_nothing(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, 2])
    two = write(tmp_path / "b-train.tfrecord", [0, 1, 2], first=9)
    options = MergeOptions(tmp_path / "c-train.tfrecord", (one, two))
    plan = plan_merge(options)
    assert not options.output.exists()
    assert plan.facts["labeled"] == merge(options).labeled
    assert plan.writes[0].bytes == options.output.stat().st_size


LABELS = [0] * 70 + [1] * 25 + [2] * 5 + [-1] * 40


@pytest.mark.parametrize("size", [1, 7, 10, 33, 139, 140])
def test_samples_keep_the_shares_to_within_one(tmp_path, size) -> None:
    labels = np.random.RandomState(0).permutation(LABELS)
    source = write(tmp_path / "t-train.tfrecord", labels.tolist())
    result = sample(SampleOptions(source, tmp_path / "s-train.tfrecord", size=size))
    found = names(result.file)
    assert found == sorted(set(found))
    assert len(found) == size == result.records
    kept = labels[found]
    for c, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert abs((kept == c).sum() - size * count / 140) < 1
    with RecordReader(result.file) as reader:
        assert reader.labels.tolist() == kept.tolist()
    assert read_manifest(result.file).role == "train"


def test_samples_depend_on_the_seed_alone(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", LABELS)

    def drawn(name: str, **more) -> list[int]:
        return names(sample(SampleOptions(source, tmp_path / f"{name}.tfrecord", **more)).file)

    first = drawn("a", size=28)
    assert drawn("b", fraction=0.2) == first
    assert (tmp_path / "a.tfrecord").read_bytes() == (tmp_path / "b.tfrecord").read_bytes()
    other = drawn("c", size=28, seed=1)
    assert first != other
    assert set(first) <= set(drawn("d", size=70))
    # Every record has the same chance.
    hits = np.zeros(140)
    for seed in range(60):
        ids = drawn("e", size=70, seed=seed)
        (tmp_path / "e.tfrecord").unlink()
        manifest_path(tmp_path / "e.tfrecord").unlink()
        hits[ids] += 1
    assert hits.min() > 12
    assert hits.max() < 48


def test_samples_can_be_balanced_and_unlabelled(tmp_path) -> None:
    source = write(tmp_path / "t-train.tfrecord", LABELS)
    result = sample(
        SampleOptions(source, tmp_path / "s.tfrecord", size=14, class_balance=True, unlabeled=True)
    )
    assert result.labeled == {"cat": 5, "dog": 5, "owl": 4}
    assert any("left out" in note for note in result.notes)
    with RecordReader(result.file) as reader:
        reader.verify()
        assert len(reader) == 14
        assert not reader.labeled.any()
    with pytest.raises(DataError, match=r"'owl' has only 5 records, 6 .*--size=15 or less"):
        plan_sample(SampleOptions(source, tmp_path / "x.tfrecord", size=18, class_balance=True))


def test_copies_come_along_with_sampled_originals(tmp_path) -> None:
    labels, sources = [i % 3 for i in range(60)], [-1] * 60
    labels += [i % 3 for i in range(0, 60, 2) for _ in range(2)]
    sources += [i for i in range(0, 60, 2) for _ in range(2)]
    source = write(tmp_path / "t-train.tfrecord", labels, sources=sources)
    result = sample(SampleOptions(source, tmp_path / "s-train.tfrecord", size=30, seed=2))
    found = names(result.file)
    originals = [i for i in found if i < 60]
    assert len(originals) == 30
    assert result.copies == len(found) - 30
    assert set(found) == set(originals) | {i for i in range(60, 120) if sources[i] in originals}
    with RecordReader(result.file) as reader:
        for place, i in enumerate(found):
            expected = found.index(sources[i]) if i >= 60 else -1
            assert reader.sources[place] == expected
    assert f"{result.copies} came along, {60 - result.copies} were left out" in result.notes[0]
    # What was written is a valid input again.
    with RecordPool([result.file]) as pool:
        assert len(pool) == len(found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, UsageError, "either --size or --fraction"),
        ({"size": 3, "fraction": 0.5}, UsageError, "either"),
        ({"size": 0}, UsageError, "at least 1"),
        ({"fraction": 0.0}, UsageError, "above 0"),
        ({"fraction": 1.5}, UsageError, "at most 1"),
        ({"fraction": float("nan")}, UsageError, "above 0"),
        ({"size": 3, "seed": -1}, UsageError, "4294967295"),
        ({"size": 141}, DataError, "there are 140"),
    ],
)
def test_samples_that_make_no_sense_are_refused(tmp_path, change, error, message) -> None:
    source = write(tmp_path / "t-train.tfrecord", LABELS)
    with pytest.raises(error, match=message):
        sample(SampleOptions(source, tmp_path / "new" / "s.tfrecord", **change))
    assert not (tmp_path / "new").exists()


def test_pools_read_records_of_all_files_in_any_order(tmp_path) -> None:
    one = write(tmp_path / "a-train.tfrecord", [0, 1, 2])
    two = write(tmp_path / "b-train.tfrecord", [0, 1, 2, 0], first=3)
    with RecordPool([one, two]) as pool, RecordReader(one) as a, RecordReader(two) as b:
        frames = [bytes(a.frame(i)) for i in range(3)] + [bytes(b.frame(i)) for i in range(4)]
        for ids in ([6, 0, 3, 1], [0, 1, 2], [4, 3], []):
            got = pool.frames(np.array(ids, np.int64), None) if ids else b""
            joined = got if isinstance(got, bytes) else b"".join(got)
            assert joined == b"".join(frames[i] for i in ids)
            assert pool.sizes(np.array(ids, np.int64)).tolist() == [len(frames[i]) for i in ids]
