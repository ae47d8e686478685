"""Which pictures sets share: exactly, and as near-duplicates."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import squares
from PIL import Image
from sklearn.datasets import load_digits

from data_tools.looking import near_duplicates, overlap
from data_tools.looking.inputs import Inputs, dataset_name, parse_inputs
from data_tools.looking.near_duplicates import Describer, confirmed_pairs, join, working_size
from data_tools.looking.overlap import OverlapOptions, describe, find_overlap, plan_overlap
from realmix_tf.data.names import DatasetName
from realmix_tf.errors import DataError, UsageError


def scenes(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Colour pictures with the spectrum of photographs, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    shape = np.where(frequency > 0, 1 / np.maximum(frequency, 1) ** 1.2, 0)
    noise = rng.normal(size=(count, 4, side, side))
    planes = np.fft.ifft2(np.fft.fft2(noise) * shape).real
    planes /= planes.std((2, 3), keepdims=True)
    images = 128 + 42 * planes[:, :1] + 14 * planes[:, 1:]
    return np.clip(images.transpose(0, 2, 3, 1), 0, 255).astype(np.uint8)


def encoded(images: np.ndarray, quality: int) -> np.ndarray:
    out = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(stream)))
    return np.stack(out)


def changed(images: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    values = (images.astype(np.float64) - 128) * contrast + 128 + brightness
    return np.clip(values, 0, 255).astype(np.uint8)


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = images.shape[1:3]
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


CHANGES = {
    "encoded again": lambda images: encoded(images, 75),
    "encoded badly": lambda images: encoded(images, 35),
    "brighter": lambda images: changed(images, 1, 25),
    "less contrast": lambda images: changed(images, 0.8, 0),
    "shifted": lambda images: shifted(images, 1, 0),
    "shifted both ways": lambda images: shifted(images, -1, 1),
    "mirrored": lambda images: images[:, :, ::-1],
    "all": lambda images: encoded(changed(shifted(images[:, :, ::-1], 0, 1), 0.9, 12), 60),
}


def pairs_among(*sets: np.ndarray) -> set[tuple[int, int]]:
    shapes = [images.shape[1:] for images in sets]
    describer = Describer(working_size(shapes), all(shape[2] == 3 for shape in shapes))
    found = join([describer(np.ascontiguousarray(images)) for images in sets])
    pairs: set[tuple[int, int]] = set()
    for i, j, correlation in confirmed_pairs(found, lambda i, j: np.ones(len(i), np.bool_)):
        assert (correlation >= found.least).all()
        pairs |= set(zip(i.tolist(), j.tolist(), strict=True))
    return pairs


@pytest.mark.parametrize("change", CHANGES)
def test_changed_pictures_are_found_and_no_others(change) -> None:
    images = scenes(150, 1)
    pairs = pairs_among(images, CHANGES[change](images))
    same = {(k, k + 150) for k in range(150)}
    assert len(pairs & same) >= 147
    assert not pairs - same


def test_larger_pictures_are_compared_with_smaller_ones() -> None:
    images = scenes(60, 2, 96)
    small = np.stack([np.asarray(Image.fromarray(i).resize((32, 32), 5)) for i in images])
    assert pairs_among(images, small) == {(k, k + 60) for k in range(60)}
    grey = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in small])[..., None]
    assert pairs_among(small, grey) == {(k, k + 60) for k in range(60)}


def test_unlike_pictures_do_not_match() -> None:
    assert not pairs_among(scenes(600, 3))
    rng = np.random.default_rng(0)
    assert not pairs_among(rng.integers(0, 256, (300, 32, 32, 3)).astype(np.uint8))
    # Flat ones have nothing to compare, whatever noise they carry.
    flat = rng.integers(100, 103, (100, 32, 32, 3)) + rng.integers(0, 90, (100, 1, 1, 1))
    assert not pairs_among(flat.astype(np.uint8))
    assert not pairs_among(np.full((5, 32, 32, 3), 255, np.uint8))


def test_different_digits_do_not_match() -> None:
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)[..., None]
    pairs = pairs_among(images)
    assert len(pairs) <= 10
    assert all(digits.target[i] == digits.target[j] for i, j in pairs)
    again = np.stack([encoded(images[:100, :, :, 0], 90)]).reshape(100, 8, 8, 1)
    assert len(pairs_among(images[:100], again) & {(k, k + 100) for k in range(100)}) >= 98


@pytest.mark.parametrize("count", [1, 2, 700])
def test_every_pair_is_compared_once(monkeypatch, count) -> None:
    """Against all pairs at once, whatever the blocks are."""
    monkeypatch.setattr(near_duplicates, "ROWS", 64)
    monkeypatch.setattr(near_duplicates, "COLUMNS", 100)
    images = scenes(count, 4)
    images[count // 2 :] = images[: count - count // 2][:, :, ::-1]
    describe_all = Describer(working_size([images.shape[1:]]), True)
    found = describe_all(images)
    cosine = found.even @ found.even.T + np.abs(found.odd @ found.odd.T)
    i, j = np.nonzero(np.triu(cosine >= near_duplicates.CANDIDATE_COSINE, 1))
    good = near_duplicates.correlation(found, i, j) >= found.least
    expected = set(zip(i[good].tolist(), j[good].tolist(), strict=True))
    told: list[int] = []
    got: list[tuple[int, int]] = []
    for a, b, _ in confirmed_pairs(found, lambda i, j: np.ones(len(i), np.bool_), told.append):
        got += zip(a.tolist(), b.tolist(), strict=True)
    assert len(got) == len(set(got))
    assert set(got) == expected
    assert sum(told) == near_duplicates.pairs_of(count)


# The sets of a dataset.


def write_sets(folder: Path) -> np.ndarray:
    """A split whose sets share some pictures; the pictures it began with."""
    images = scenes(200, 5)
    labels = np.arange(200) % 3
    train, test = images[:120].copy(), images[120:].copy()
    test[4] = train[3]  # labelled and test
    test[6] = shifted(train[40:41], 1, 0)[0]  # unlabelled and test, nearly
    train[60] = train[20]  # unlabelled and validation
    train[70] = encoded(train[5:6], 60)[0]  # unlabelled and labelled, nearly
    stem = folder / "SSL" / "scenes.1@12"
    squares.write(folder / "scenes-train.tfrecord", train, labels[:120], "train")
    squares.write(folder / "scenes-test.tfrecord", test, labels[120:], "test")
    squares.write(Path(f"{stem}-label.tfrecord"), train[:12], labels[:12], "label")
    # The last record is a copy of the one before it.
    sources = np.full(109, -1)
    sources[108] = 119
    squares.write(
        Path(f"{stem}-unlabel.tfrecord"),
        np.concatenate([train[12:], train[119:]]),
        np.append(labels[12:120], labels[119]),
        "unlabel",
        sources=sources,
    )
    ids = {"label": list(range(12)), "unlabel": list(range(12, 121))}
    Path(f"{stem}-map.json").write_text(json.dumps(ids))
    return train


def options(folder: Path, name: str, **more) -> OverlapOptions:
    return OverlapOptions(Inputs(name=DatasetName.parse(name), data_dir=folder), **more)


def test_the_sets_of_a_split_are_compared(tmp_path) -> None:
    write_sets(tmp_path)
    result = find_overlap(options(tmp_path, "scenes.1@12-10", pictures=tmp_path / "pairs.png"))
    assert [(s.name, s.images, s.repeats, s.copies) for s in result.sets] == [
        ("labeled", 12, 0, 0),
        ("unlabeled", 99, 0, 1),  # a copy is no repeat
        ("validation", 10, 0, 0),
        ("test", 80, 0, 0),
    ]
    assert result.exact == ((0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))
    assert result.near == ((0, 1, 0, 0), (1, 0, 0, 1), (0, 0, 0, 0), (0, 1, 0, 0))
    assert result.leaks == (
        "LEAK: labeled and test share 1 pictures",
        "LEAK: unlabeled and validation share 1 pictures",
    )
    exact = [(p.first.set, p.first.record, p.second.set, p.second.record)
             for p in result.pairs if p.exact]  # fmt: skip
    assert exact == [("labeled", 3, "test", 4), ("unlabeled", 48, "validation", 8)]
    near = {(p.first.set, p.first.record, p.second.set, p.second.record)
            for p in result.pairs if not p.exact}  # fmt: skip
    assert near == {("unlabeled", 28, "test", 6), ("labeled", 5, "unlabeled", 58)}
    text = describe(result)
    assert "LEAK: labeled and test share 1 pictures" in text
    assert json.loads(json.dumps(result.as_json()))["exact"]["labeled"]["test"] == 1
    with Image.open(tmp_path / "pairs.png") as image:
        assert image.width > 300
    with pytest.raises(UsageError, match="exists already"):
        find_overlap(options(tmp_path, "scenes.1@12-10", pictures=tmp_path / "pairs.png"))
    only = find_overlap(options(tmp_path, "scenes.1@12-10", near=False))
    assert (only.exact, only.near) == (result.exact, None)


def test_the_plan_writes_nothing_and_refuses_the_same(tmp_path) -> None:
    write_sets(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    plan = plan_overlap(options(tmp_path, "scenes.1@12-10", pictures=tmp_path / "pairs.png"))
    assert sorted(tmp_path.rglob("*")) == before
    assert plan.facts["images"] == {"labeled": 12, "unlabeled": 99, "validation": 10, "test": 80}
    assert len(plan.reads) == 3
    assert plan.seconds is not None
    with pytest.raises(UsageError, match=r"500 validation images"):
        plan_overlap(options(tmp_path, "scenes.1@12-500"))


def test_files_are_compared_as_they_are(tmp_path) -> None:
    train = write_sets(tmp_path)
    files = (tmp_path / "scenes-train.tfrecord", tmp_path / "scenes-test.tfrecord")
    result = find_overlap(OverlapOptions(Inputs(files), near=False))
    # 20 and 60 are one picture; 3 is in the test set.
    assert result.exact == ((1, 1), (1, 0))
    assert result.leaks == ("LEAK: scenes-train and scenes-test share 1 pictures",)
    for path in files:
        path.with_name(path.name + ".json").unlink()
    assert find_overlap(OverlapOptions(Inputs(files), near=False)).exact == ((1, 1), (1, 0))
    mixed = tmp_path / "large-test.tfrecord"
    large = np.stack([np.asarray(Image.fromarray(i).resize((64, 64), 3)) for i in train[:20]])
    squares.write(mixed, large, np.arange(20) % 3, "test")
    result = find_overlap(OverlapOptions(Inputs((files[0], mixed))))
    assert result.exact[0][1] == 0
    assert result.near is not None
    assert result.near[1][0] == 20


def test_many_equal_pictures_are_quickly_told(tmp_path) -> None:
    """A crowd of pictures that are all alike must not take quadratic memory or time."""
    images = np.repeat(scenes(1, 6), 600, axis=0)
    images[:, 0, 0, 0] = np.arange(600) % 251
    squares.write(tmp_path / "a.tfrecord", images, np.zeros(600, int), "train")
    result = find_overlap(OverlapOptions(Inputs((tmp_path / "a.tfrecord",))))
    assert result.exact == ((349,),)
    assert result.near == ((600,),)
    assert len(result.pairs) == 40


def test_kinds_that_must_not_overlap() -> None:
    assert overlap.is_leak("labeled", "test")
    assert overlap.is_leak("unlabeled", "validation")
    assert overlap.is_leak("other", "test")
    assert not overlap.is_leak("unlabeled", "test")
    assert not overlap.is_leak("labeled", "unlabeled")


def test_names_and_files_are_told_apart(tmp_path) -> None:
    write_sets(tmp_path)
    folder = str(tmp_path)
    assert parse_inputs(["scenes-test.tfrecord"], folder).files == (
        tmp_path / "scenes-test.tfrecord",
    )
    assert str(parse_inputs(["scenes.1@12"], folder).name) == "scenes.1@12-0"
    assert str(parse_inputs(["scenes"], folder).name) == "scenes-0"
    assert str(parse_inputs(["scenes-50"], folder).name) == "scenes-50"
    squares.write(tmp_path / "scenes-2-train.tfrecord", scenes(3, 7), np.arange(3), "train")
    assert dataset_name("scenes-2", tmp_path).dataset == "scenes-2"
    for words, kind, message in (
        (["nothing"], DataError, "no dataset 'nothing'"),
        (["scenes.2@12"], DataError, "no split 'scenes.2@12'"),
        (["x.tfrecord"], DataError, "no such record file"),
        (["../x"], UsageError, "cannot name a dataset"),
        (["scenes-test.tfrecord", "scenes"], UsageError, "named alone"),
    ):
        with pytest.raises(kind, match=message):
            parse_inputs(words, folder)
    with pytest.raises(UsageError, match="--data_dir"):
        parse_inputs(["scenes"], "")
