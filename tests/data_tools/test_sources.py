from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_archives
from file_server import serving
from tiny_archives import Tiny

from data_tools.parallel import in_order
from data_tools.sources import (
    BENCHMARKS,
    building,
    check_names,
    digits,
    discard_archives,
    download,
    get_source,
)
from data_tools.sources.building import BuildOptions, Source
from data_tools.sources.download import Access
from realmix_tf.data import manifest as manifests
from realmix_tf.data.images import decode_pngs
from realmix_tf.data.manifest import Manifest, manifest_path, read_manifest
from realmix_tf.data.records import RecordReader
from realmix_tf.errors import DataError, ResourceError, UsageError

PUBLISHED = [name for name in BENCHMARKS if name != "digits"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, tuple[Tiny, Path]]:
    found = {}
    for name in PUBLISHED:
        folder = tmp_path_factory.mktemp(name)
        found[name] = (tiny_archives.make(name, folder), folder)
    return found


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    from data_tools.sources import archives

    monkeypatch.setattr(archives, "BLOCK_BYTES", 10_000)


def options(tmp_path: Path, archive_dir: Path | None, **more) -> BuildOptions:
    access = Access(offline=True, archive_dir=archive_dir)
    return BuildOptions(tmp_path / "data", access=access, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check(source: Source, parts, classes, folder: Path) -> None:
    for role, path in source.record_files(folder).items():
        expected = parts[role]
        with RecordReader(path) as reader:
            reader.verify()
            assert reader.manifest is not None
            assert reader.manifest.role == role
            assert reader.classes == classes
            assert reader.image_shape == source.shape
            np.testing.assert_array_equal(reader.labels, expected.labels)
            np.testing.assert_array_equal(reader.labeled, expected.labels >= 0)
            images = decode_pngs([reader.image(i) for i in range(len(reader))])
            np.testing.assert_array_equal(images, expected.images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_become_records(tiny, tmp_path, small_blocks, name) -> None:
    (source, parts, classes), archives = tiny[name]
    opts = options(tmp_path, archives)
    result = building.build(source, opts)
    check(source, parts, classes, opts.data_dir)
    assert not result.already_there
    assert result.facts == source.records
    assert {path.name for path in result.files} == set(contents(opts.data_dir)) - {
        manifest_path(path).name for path in source.record_files(opts.data_dir).values()
    }
    mapping = json.loads((opts.data_dir / f"{name}_class_mappings.json").read_text())
    assert mapping == {str(i): text for i, text in enumerate(classes)}
    manifest = read_manifest(opts.data_dir / f"{name}-test.tfrecord")
    assert manifest is not None
    assert manifest.provenance["command"] == f"create_datasets {name}"
    assert manifest.provenance["archives"] == [
        {"file": archive.name, "sha256": archive.sha256} for archive in source.archives
    ]
    first = contents(opts.data_dir)
    again = building.build(source, opts)
    assert again.already_there
    assert again.facts["state"] == "already there and verified"
    building.build(source, dataclasses.replace(opts, overwrite=True))
    assert contents(opts.data_dir) == first


def test_folds_lie_beside_stl10(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["stl10"]
    opts = options(tmp_path, archives)
    building.build(source, opts)
    folds = opts.data_dir / "stl10_fold_indices.txt"
    lines = [list(map(int, line.split())) for line in folds.read_text().splitlines()]
    assert [len(line) for line in lines] == [10] * 10
    folds.write_text("0 1 2\n")
    assert "fold_indices.txt differs" in building.build(source, opts).facts["state"]
    folds.unlink()
    assert "fold_indices.txt is missing" in building.build(source, opts).facts["state"]
    assert len(folds.read_text().splitlines()) == 10


def test_the_published_sets_are_described_as_published() -> None:
    sources = {name: get_source(name, BuildOptions(Path())) for name in BENCHMARKS}
    counts = {name: dict(source.records) for name, source in sources.items()}
    assert counts["cifar10"] == counts["cifar100"] == {"train": 50_000, "test": 10_000}
    assert counts["svhn"] == {"train": 73_257, "test": 26_032, "extra": 531_131}
    assert counts["svhn_noextra"] == {"train": 73_257, "test": 26_032}
    assert counts["stl10"] == {"train": 5_000, "test": 8_000, "unlabeled": 100_000}
    assert counts["fashion_mnist"] == {"train": 60_000, "test": 10_000}
    for source in sources.values():
        assert next(iter(source.records)) == "train"
        for archive in source.archives:
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert archive.urls[0].startswith("https://")
            assert all(url.endswith("/" + archive.name) for url in archive.urls)


def test_the_pins_are_those_of_tensorflow_datasets() -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = Path(tfds.__file__).parent
    published = {}
    for file in (
        *(
            folder / "url_checksums" / f"{name}.txt"
            for name in ("cifar10", "cifar100", "fashion_mnist")
        ),
        *(folder / "datasets" / name / "checksums.tsv" for name in ("svhn_cropped", "stl10")),
    ):
        for line in file.read_text().splitlines():
            url, size, digest, _ = line.split("\t")
            published[url] = (int(size), digest)
    for name in PUBLISHED:
        for archive in get_source(name, BuildOptions(Path())).archives:
            assert published[archive.urls[-1]] == (archive.size, archive.sha256)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: damage(folder / "svhn-extra.tfrecord"), "svhn-extra.tfrecord: record"),
        (lambda folder: (folder / "svhn-test.tfrecord").unlink(), "svhn-test.tfrecord is missing"),
        (
            lambda folder: (folder / "svhn-train.tfrecord.json").write_text("{"),
            "this is not a readable JSON file",
        ),
        (
            lambda folder: (folder / "svhn-train.tfrecord.json").write_text('{"incomplete": true}'),
            "svhn-train.tfrecord: its writing was interrupted",
        ),
        (
            lambda folder: (folder / "svhn_class_mappings.json").write_text('{"0": "x"}'),
            "svhn_class_mappings.json differs",
        ),
    ],
)
def test_a_damaged_set_is_built_again_and_it_says_why(tiny, tmp_path, spoil, reason) -> None:
    (source, _, _), archives = tiny["svhn"]
    opts = options(tmp_path, archives)
    building.build(source, opts)
    before = contents(opts.data_dir)
    spoil(opts.data_dir)
    assert reason in building.plan(source, opts).facts["state"]
    result = building.build(source, opts)
    assert result.facts["state"].startswith("built again, because")
    assert reason in result.facts["state"]
    assert contents(opts.data_dir) == before


def test_a_set_with_other_numbers_is_not_the_published_one(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["cifar100"]
    opts = options(tmp_path, archives)
    building.build(source, opts)
    more = dataclasses.replace(source, records={**source.records, "train": 13})
    with pytest.raises(DataError, match=r"'train.bin' has .* bytes instead of"):
        building.build(more, opts)
    assert building.build(source, opts).already_there


def test_what_other_tools_made_is_left_alone(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["fashion_mnist"]
    opts = options(tmp_path, archives)
    building.build(source, opts)
    train = opts.data_dir / "fashion_mnist-train.tfrecord"
    manifest = json.loads(manifest_path(train).read_text())
    manifest_path(train).unlink()
    before = contents(opts.data_dir)
    result = building.build(source, opts)
    assert result.already_there
    assert "no manifest: other tools made it; --overwrite" in result.facts["state"]
    assert building.plan(source, opts).writes == ()
    origin = {**manifest["provenance"], "command": "create_datasets custom"}
    manifest_path(train).write_text(json.dumps({**manifest, "provenance": origin}))
    assert "made by 'create_datasets custom'" in building.build(source, opts).facts["state"]
    manifest_path(train).write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(DataError, match=r"schema version 99.*newer version.*or --overwrite"):
        building.build(source, opts)
    manifest_path(train).unlink()
    assert contents(opts.data_dir) == before
    damage(train)
    with pytest.raises(DataError, match=r"damaged, and has no manifest.*--overwrite"):
        building.build(source, opts)
    replaced = building.build(source, dataclasses.replace(opts, overwrite=True))
    assert not replaced.already_there
    assert building.build(source, opts).facts["state"] == "already there and verified"


def test_bad_contents_leave_nothing_half_made(tiny, tmp_path) -> None:
    (source, _, _), _ = tiny["cifar10"]
    bad = tmp_path / "bad"
    bad.mkdir()
    name = source.archives[0].name

    def refused(members: dict[str, bytes], message: str) -> None:
        tiny_archives.write_tar(bad / name, members)
        changed = dataclasses.replace(source, archives=tiny_archives.pinned(bad, source.archives))
        opts = options(tmp_path, bad)
        with pytest.raises(DataError, match=message):
            building.build(changed, opts)
        assert not opts.data_dir.exists() or contents(opts.data_dir) == {}

    top = "cifar-10-batches-bin"
    batches = {f"{top}/data_batch_{i}.bin": bytes(4 * 3073) for i in range(1, 6)}
    names = {f"{top}/batches.meta.txt": b"a\nb\n"}
    good = {**names, **batches, f"{top}/test_batch.bin": bytes(6 * 3073)}
    refused({**good, f"{top}/data_batch_3.bin": b"\x02" * (4 * 3073)}, "label 2 is none of the 2")
    refused({**good, f"{top}/batches.meta.txt": b"a\na\n"}, "twice")
    refused({**good, f"{top}/batches.meta.txt": b"\xff"}, "not a text")
    refused({**good, f"{top}/test_batch.bin": bytes(5 * 3073)}, "'test_batch.bin' has")
    refused({**names, **batches}, "no member 'test_batch.bin'")
    refused({"../x": b"", **good}, "leads out")


def test_labels_out_of_range_are_no_unlabelled_records(tiny, tmp_path) -> None:
    import scipy.io

    (source, parts, _), _ = tiny["svhn_noextra"]
    bad = tmp_path / "bad"
    tiny_archives.make("svhn_noextra", bad)
    labels = parts["test"].labels[:, None] + 1.0
    labels[3] = 0
    images = parts["test"].images.transpose(1, 2, 3, 0)
    scipy.io.savemat(bad / "test_32x32.mat", {"X": images, "y": labels})
    changed = dataclasses.replace(source, archives=tiny_archives.pinned(bad, source.archives))
    with pytest.raises(DataError, match=r"out of range \(svhn_noextra, test, record 3"):
        building.build(changed, options(tmp_path, bad))


def test_downloads_are_kept_for_a_rebuild(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download, "_reached", {})
    (source, parts, classes), folder = tiny["svhn"]
    with serving() as server:
        server.files.update(contents(folder))
        server.faults = ["cut", "good"]
        monkeypatch.setattr(download, "LONGEST_PAUSE", 0)
        opts = BuildOptions(tmp_path / "data", access=Access(mirror=server.address))
        plan = building.plan(source, opts)
        assert plan.facts["download"] == sum(archive.size for archive in source.archives)
        assert not opts.data_dir.exists()
        assert not server.requests
        building.build(source, opts)
        assert len(server.requests) == 4
    check(source, parts, classes, opts.data_dir)
    names = sorted(path.name for path in opts.archives.iterdir())
    assert names == ["extra_32x32.mat", "test_32x32.mat", "train_32x32.mat"]
    damage(opts.data_dir / "svhn-test.tfrecord")
    assert not building.build(source, options(tmp_path, None)).already_there


def test_downloads_can_be_thrown_away(tmp_path) -> None:
    opts = options(tmp_path, None)
    opts.archives.mkdir(parents=True)
    for name in ("cifar-10-binary.tar.gz", "stl10_binary.tar.gz"):
        (opts.archives / name).touch()
    own = dataclasses.replace(opts, access=Access(archive_dir=opts.archives))
    discard_archives(["cifar10"], own)
    assert len(contents(opts.archives)) == 2
    discard_archives(["cifar10", "svhn", "custom", "tfds:beans"], opts)
    assert list(contents(opts.archives)) == ["stl10_binary.tar.gz"]


def test_room_is_asked_for_before_anything_is_fetched(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["cifar10"]
    many = dataclasses.replace(source, records={"train": 1 << 50, "test": 1})
    for call in (building.build, building.plan):
        with pytest.raises(ResourceError, match=r"cifar10 .*records.* needs about"):
            call(many, options(tmp_path, archives))
    assert not (tmp_path / "data").exists()


def test_plans_say_what_would_happen(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["stl10"]
    opts = options(tmp_path, archives)
    plan = building.plan(source, opts)
    assert [use.path for use in plan.reads] == [str(archives / "stl10_binary.tar.gz")]
    assert plan.facts["download"] == 0
    assert plan.seconds is not None
    assert not opts.data_dir.exists()
    building.build(source, opts)
    for use in plan.writes:
        size = Path(use.path).stat().st_size
        assert 0.9 * use.bytes < size <= use.bytes
    done = building.plan(source, opts)
    assert done.writes == ()
    assert done.facts["state"] == "already there and verified"
    with pytest.raises(ResourceError, match="--offline forbids"):
        building.plan(source, options(tmp_path / "other", None))


def test_digits_are_one_more_source(tmp_path) -> None:
    result = digits.build(tmp_path)
    assert result.facts == {"train": 1297, "test": 500}
    with RecordReader(tmp_path / "digits-train.tfrecord") as reader:
        assert reader.manifest is not None
        assert reader.manifest.provenance["seed"] == 0
        assert reader.manifest.provenance["origin"] == "sklearn.datasets.load_digits"
    assert digits.build(tmp_path).already_there


def test_names_are_checked_with_the_nearest() -> None:
    check_names(["cifar10", "tfds:beans", "custom"], ["custom"])
    for name, nearest in (
        ("cifar", "cifar10"),
        ("fashion-mnist", "fashion_mnist"),
        ("pets", "one of cifar10, .*tfds:NAME"),
        ("tfds:", "one of"),
    ):
        with pytest.raises(UsageError, match=f"no dataset '{name}'.*{nearest}"):
            check_names([name], ["custom"])


def test_threads_keep_the_order_and_stop_at_an_error() -> None:
    barrier = threading.Event()

    def slow_first(i: int) -> int:
        if i == 0:
            barrier.wait(5)
        else:
            barrier.set()
        return i * i

    assert list(in_order(slow_first, range(20))) == [i * i for i in range(20)]
    seen: list[int] = []

    def failing(i: int) -> int:
        seen.append(i)
        if i == 3:
            raise DataError("three")
        return i

    with pytest.raises(DataError, match="three"):
        list(in_order(failing, range(10_000)))
    assert len(seen) < 100


@pytest.mark.parametrize("role", ["test", "train"])
def test_a_first_build_that_fails_at_its_end_leaves_nothing(
    tiny, tmp_path, monkeypatch, role
) -> None:
    (source, _, _), archives = tiny["stl10"]
    opts = options(tmp_path, archives)
    write, full = manifests.write_manifest, [role]

    def on_a_full_disk(path: Path, manifest: Manifest) -> None:
        if manifest.role in full:
            raise ResourceError("no space left on the disk", path)
        write(path, manifest)

    monkeypatch.setattr(manifests, "write_manifest", on_a_full_disk)
    with pytest.raises(ResourceError, match="no space"):
        building.build(source, opts)
    assert not opts.data_dir.exists()
    full.clear()
    building.build(source, opts)
    before = contents(opts.data_dir)
    full.append(role)
    with pytest.raises(ResourceError, match="no space"):
        building.build(source, dataclasses.replace(opts, overwrite=True))
    full.clear()
    assert set(contents(opts.data_dir)) == set(before)
    # It is not taken for a set that is complete.
    assert "built again" in building.build(source, opts).facts["state"]
    assert contents(opts.data_dir) == before


def test_a_plan_refuses_a_folder_that_cannot_be_written(tiny, tmp_path) -> None:
    (source, _, _), archives = tiny["cifar10"]
    (tmp_path / "data").touch()
    opts = options(tmp_path, archives)
    for work in (building.plan, building.build):
        with pytest.raises(ResourceError, match=r"data\)"):
            work(source, dataclasses.replace(opts, data_dir=tmp_path / "data"))
