"""Augmented copies: threads, plans, and where copies of copies say they come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_tools.records.copies import CopyOptions, make_copies, plan_copies
from realmix_tf.augment.names import POLICY_NAMES
from realmix_tf.data.examples import encode_example
from realmix_tf.data.images import encode_pngs
from realmix_tf.data.manifest import provenance
from realmix_tf.data.names import DatasetName
from realmix_tf.data.record_writer import RecordWriter
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.files import write_json

IMAGES = 12
IDS = [3 * i + 1 for i in range(IMAGES)]


@pytest.fixture
def split(tmp_path) -> CopyOptions:
    random = np.random.default_rng(0)
    pngs = encode_pngs(random.integers(0, 256, (IMAGES, 28, 28, 3), np.uint8))
    with RecordWriter(
        tmp_path / "SSL" / "a.1@4-unlabel.tfrecord",
        dataset="a",
        role="unlabel",
        classes=("x", "y"),
        shape=(28, 28, 3),
        provenance=provenance("test"),
    ) as writer:
        for i, png in enumerate(pngs):
            # The last two are copies that balancing made of the picture with the id 4.
            source = 4 if i >= IMAGES - 2 else None
            writer.write(encode_example(png, i % 2, source=source), i % 2)
    write_json(tmp_path / "SSL" / "a.1@4-map.json", {"label": [0], "unlabel": IDS})
    return CopyOptions(tmp_path, DatasetName.parse_split("a.1@4"), copies=3, augment="cifar10")


def test_the_number_of_threads_does_not_matter(split):
    contents = [
        make_copies(dataclasses.replace(split, threads=threads, overwrite=True)).file.read_bytes()
        for threads in (1, 3)
    ]
    assert contents[0] == contents[1]


def test_a_copy_of_a_copy_names_the_picture_itself(split):
    with RecordReader(make_copies(split).file) as reader:
        counts = np.bincount(reader.sources)
    expected = dict.fromkeys(IDS[:-2], 3)
    expected[4] += 2 * 3
    assert {i: n for i, n in enumerate(counts.tolist()) if n} == expected


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_makes_copies(split, policy):
    result = make_copies(dataclasses.replace(split, augment=policy, copies=1))
    with RecordReader(result.file) as reader:
        reader.verify()
        assert len(reader) == IMAGES
        assert reader.image_shape == (28, 28, 3)


def test_a_plan_writes_nothing_and_foretells(split):
    before = sorted(split.data_dir.rglob("*"))
    plan = plan_copies(split)
    assert sorted(split.data_dir.rglob("*")) == before
    assert plan.facts == {"images": IMAGES, "copies": 3 * IMAGES}
    assert [use.path for use in plan.reads] == [str(split.parent)]
    assert plan.seconds is not None
    assert plan.seconds > 0
    result = make_copies(split)
    assert [use.path for use in plan.writes] == [str(result.file)]
    assert result.bytes <= plan.writes[0].bytes <= 2 * result.bytes


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"copies": 0}, UsageError),
        ({"threads": 0}, UsageError),
        ({"augment": "none of these"}, UsageError),
        ({"unlabel_size": 5}, DataError),
    ],
)
def test_a_plan_refuses_what_the_work_refuses(split, change, error):
    with pytest.raises(error) as planned:
        plan_copies(dataclasses.replace(split, **change))
    with pytest.raises(error) as done:
        make_copies(dataclasses.replace(split, **change))
    assert str(planned.value) == str(done.value)


def test_copies_that_do_not_fit_are_refused_beforehand(split, monkeypatch):
    monkeypatch.setattr("realmix_tf.files.free_bytes", lambda folder: 1000)
    for work in (plan_copies, make_copies):
        with pytest.raises(ResourceError, match="36 copies needs about"):
            work(split)
    assert list((split.data_dir / "SSL").glob("*aug*")) == []
    assert Path(split.parent).exists()
