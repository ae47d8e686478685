#!/usr/bin/env python3
"""Speed and memory of the data tools; prints one table, a limit of the machine beside each figure.

Usage: benchmarks/data_tools.py [--pictures=FOLDER] [--only=png,custom,...] [--times=10]

The limits are measured in the same run on the same processors, as machines swing: what the same
work would cost if nothing but its unavoidable part were done, or what another tool takes. Times of
commands are all in, from the start of Python to its end; memory is the peak resident size of the
whole process tree.

--pictures names a folder with train/<class>/ and test/<class>/ of small pictures, such as CIFAR-10
as JPEG files; without it, pictures of that size are generated.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from realmix_tf.data.examples import encode_example  # noqa: E402
from realmix_tf.data.images import decode_pngs, encode_pngs  # noqa: E402
from realmix_tf.data.manifest import provenance  # noqa: E402
from realmix_tf.data.record_writer import RecordWriter  # noqa: E402

COMMANDS = (
    "create_datasets", "create_split", "make_aug_copy", "filter_dataset", "merge", "sample",
    "check_split", "inspect_dataset", "info", "verify", "rename_files", "tfrecord_to_image",
    "preprocess_crops",
)  # fmt: skip
PHOTO_SIZE = 96
RECORD_BYTES = 3000

Row = tuple[str, str, str]

# A plain program that makes a folder of pictures into PNG bytes, as one would write it first.
PILLOW_LOOP = """
import io, os, sys
from PIL import Image
total = 0
for folder, _, names in sorted(os.walk(sys.argv[1])):
    for name in sorted(names):
        with Image.open(os.path.join(folder, name)) as image:
            small = image.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        total += len(buffer.getvalue())
"""
TFDS_LOOP = """
import sys
import tensorflow_datasets as tfds
builder = tfds.ImageFolder(sys.argv[1])
for split in builder.info.splits:
    for example in tfds.as_numpy(builder.as_dataset(split=split)):
        assert example["image"].dtype == "uint8"
"""


def natural_images(count: int) -> np.ndarray:
    """uint8 [count, 32, 32, 3]: smooth shapes with noise, which compress about like photographs."""
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (count, 5, 5, 3)).astype(np.uint8)
    smooth = [
        np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse
    ]
    noise = random.normal(0, 6, (count, 32, 32, 3))
    return np.clip(np.stack(smooth) + noise, 0, 255).astype(np.uint8)


def write_records(path: Path, images: np.ndarray, records: int) -> None:
    """A record file of ``records`` images of ten classes, repeating ``images``."""
    pngs = encode_pngs(images)
    with bench_writer(path) as writer:
        for i in range(records):
            label = i * 7 % 10
            writer.write(encode_example(pngs[i % len(pngs)], label, name=f"{i}.png"), label)


def bench_writer(path: Path) -> RecordWriter:
    """A writer of 32×32 records of ten classes."""
    return RecordWriter(
        path,
        dataset="bench",
        role="unlabel" if "-unlabel" in path.name else "train",
        classes=[str(c) for c in range(10)],
        shape=(32, 32, 3),
        provenance=provenance("benchmark"),
    )


def write_heavy_records(path: Path, records: int) -> None:
    """Records of about 3 kB that only look like pictures: a PNG's head and zeros.

    The tools under test copy records and never decode them.
    """
    head = encode_pngs(np.zeros((1, 32, 32, 3), np.uint8))[0][:33]
    image = head + bytes(RECORD_BYTES - 80 - len(head))
    with bench_writer(path) as writer:
        for i in range(records):
            label = i * 7 % 10
            writer.write(encode_example(image, label, name=f"train/{i:07}.jpg"), label)


def run(*words: str) -> tuple[float, int]:
    """Runs a command; its seconds, and the peak resident bytes of its whole process tree."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    error = process.communicate()[1]
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{words} failed: {error.decode()}")
    return time.perf_counter() - begin, peak


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants (Linux)."""
    total = 0
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            total = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                total += sum(tree_bytes(int(child)) for child in file.read().split())
    except (OSError, ValueError):
        pass
    return total


def rate(function: Callable[..., object], items: list[object], count: int) -> float:
    """Items a second of ``function`` over ``items`` on all processors, the best of three."""
    best = 0.0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in range(3):
            begin = time.perf_counter()
            list(pool.map(function, items))
            best = max(best, count / (time.perf_counter() - begin))
    return best


def mib(count: int) -> str:
    """Bytes in whole MiB."""
    return f"{count >> 20} MiB"


# --- the pictures in records ------------------------------------------------------------------


def pillow_png(image: np.ndarray) -> bytes:
    """The same image through Pillow's encoder at its lowest compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def deflate(rows: np.ndarray) -> bytes:
    """The part of PNG encoding that cannot be left out."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    return compressor.compress(rows) + compressor.flush()


def png(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Speed and size of our PNGs beside Pillow's."""
    images = natural_images(4000)
    blocks = [images[i : i + 500] for i in range(0, len(images), 500)]
    flat = [data for block in blocks for data in encode_pngs(block)]
    ours = rate(encode_pngs, blocks, len(images))
    plain = rate(pillow_png, list(images), len(images))
    zipped = rate(deflate, list(images - np.roll(images, 1, axis=2)), len(images))
    size = sum(map(len, flat)) / len(images)
    pillow_size = sum(len(pillow_png(image)) for image in images) / len(images)
    decoded = rate(decode_pngs, [flat[i : i + 500] for i in range(0, len(flat), 500)], len(images))
    by_pillow = rate(lambda data: np.asarray(Image.open(io.BytesIO(data))), flat, len(images))
    return [
        ("PNG encode, images/s", f"{ours:,.0f}", f"Pillow {plain:,.0f}, zlib {zipped:,.0f}"),
        (
            "PNG bytes an image",
            f"{size:,.0f}",
            f"Pillow {pillow_size:,.0f} ({100 * (size / pillow_size - 1):+.1f} %)",
        ),
        ("PNG decode, images/s", f"{decoded:,.0f}", f"Pillow {by_pillow:,.0f}"),
    ]


# --- folders of pictures ----------------------------------------------------------------------


def small_pictures(options: argparse.Namespace, folder: Path) -> tuple[Path, int]:
    """A folder with train/<class>/ and test/<class>/, and how many pictures it has."""
    if options.pictures:
        root = Path(options.pictures)
        return root, sum(len(files) for _, _, files in os.walk(root))
    root = folder / "pictures"
    images = natural_images(2000)
    for part, count in (("train", 50_000), ("test", 10_000)):
        for c in range(10):
            (root / part / f"class{c}").mkdir(parents=True)
        for i in range(count):
            path = root / part / f"class{i % 10}" / f"{i:05}.jpg"
            Image.fromarray(images[i % len(images)]).save(path, quality=90)
    return root, 60_000


def build(root: Path, target: Path, *more: str) -> tuple[float, int]:
    """create_datasets custom on a folder; seconds and peak bytes."""
    unlabeled = [f"--unlabeldir={root / 'unlabeled'}"] if (root / "unlabeled").is_dir() else []
    return run(
        "scripts/create_datasets.py", "custom", "--name=bench", f"--traindir={root / 'train'}",
        f"--testdir={root / 'test'}", f"--data_dir={target}", *unlabeled, *more,
    )  # fmt: skip


def repeat(root: Path, target: Path, times: int) -> None:
    """The same folders with every file ``times`` times, as hard links where that is possible."""
    for place, _, names in os.walk(root):
        into = target / Path(place).relative_to(root)
        into.mkdir(parents=True)
        for name in names:
            for k in range(times):
                copy = into / f"{k}_{name}"
                try:
                    os.link(Path(place, name), copy)
                except OSError:
                    shutil.copyfile(Path(place, name), copy)


def custom(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Small JPEG files to records, beside Pillow and TensorFlow Datasets; and memory for more."""
    root, count = small_pictures(options, folder)
    times, peaks, loops, datasets = [], [], [], []
    for k in range(options.rounds):
        seconds, peak = build(root, folder / f"data{k}")
        times.append(seconds)
        peaks.append(peak)
        loops.append(run("-c", PILLOW_LOOP, str(root))[0])
        datasets.append(run("-c", TFDS_LOOP, str(root))[0])
        shutil.rmtree(folder / f"data{k}")
    ours = count / statistics.median(times)
    rows = [
        (
            f"custom, {count:,} small JPEG files, images/s all in",
            f"{ours:,.0f}",
            f"Pillow loop, one process {count / statistics.median(loops):,.0f}; "
            f"TFDS ImageFolder, reading only {count / statistics.median(datasets):,.0f}",
        )
    ]
    many = ""
    if options.times > 1:
        repeat(root, folder / "many", options.times)
        seconds, peak = build(folder / "many", folder / "data-many")
        shutil.rmtree(folder / "many")
        shutil.rmtree(folder / "data-many")
        many = (
            f"{options.times}x the images {mib(peak)} ({peak / max(peaks):.2f}x), "
            f"{options.times * count / seconds:,.0f}/s"
        )
    rows.append(("custom, peak memory", mib(max(peaks)), many))
    return rows


def write_photos(folder: Path, count: int) -> None:
    """JPEG photographs of 2 to 12 megapixels: smooth colours with texture, quality 88."""
    random = np.random.RandomState(0)
    sizes = ((1632, 1224), (2592, 1944), (3264, 2448), (4000, 3000))
    folder.mkdir(parents=True)
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        coarse = Image.fromarray(random.randint(0, 256, (24, 32, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        texture = random.normal(0, 12, (height // 2, width // 2, 1)).astype(np.int16)
        texture = texture.repeat(2, axis=0).repeat(2, axis=1)
        pixels = np.clip(smooth[: len(texture)] + texture, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}.jpg", quality=88)


def draft_and_resize(path: str) -> int:
    """What cannot be left out of shrinking a photograph: Pillow's draft decoding and resizing."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * PHOTO_SIZE, 2 * PHOTO_SIZE))
        small = image.convert("RGB").resize((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.LANCZOS)
    return small.width


POOL = """
import sys
sys.path[:0] = {paths!r}
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from data_tools_benchmark import draft_and_resize
if __name__ == "__main__":
    paths = [str(path) for path in sorted(Path(sys.argv[1]).rglob("*.jpg"))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draft_and_resize, paths, chunksize=4))
"""


def photos(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Large photographs to 96×96 records beside Pillow alone, a process a processor."""
    root = folder / "photos"
    write_photos(root / "train" / "a", options.photos // 20)
    repeat(root / "train" / "a", root / "train" / "b", 19)
    (root / "test" / "a").mkdir(parents=True)
    (root / "test" / "b").mkdir(parents=True)
    for c in "ab":
        os.link(next((root / "train" / c).iterdir()), root / "test" / c / "0.jpg")
    count = sum(len(files) for _, _, files in os.walk(root))
    # The pool's children import the function by name.
    shutil.copyfile(__file__, folder / "data_tools_benchmark.py")
    script = folder / "pool.py"
    script.write_text(POOL.format(paths=[str(folder), str(ROOT)]), "utf-8")
    ours, alone = [], []
    for k in range(options.rounds):
        seconds, _ = build(root, folder / f"photos{k}", f"--img_size={PHOTO_SIZE}")
        ours.append(seconds)
        alone.append(run(str(script), str(root))[0])
    ratio = statistics.median(b / a for a, b in zip(ours, alone, strict=True))
    return [
        (
            f"custom, {count} photographs of 2-12 MP to {PHOTO_SIZE}x{PHOTO_SIZE}, images/s all in",
            f"{count / statistics.median(ours):,.1f}",
            f"Pillow's draft and resize alone {count / statistics.median(alone):,.1f} "
            f"({100 * ratio:.0f} %)",
        )
    ]


# --- records to records -----------------------------------------------------------------------


def copies(options: argparse.Namespace, folder: Path) -> list[Row]:
    """make_aug_copy: speed, and memory that does not grow with the number of copies."""
    images = natural_images(4000)
    write_records(folder / "SSL" / "copies.1@10-unlabel.tfrecord", images, options.copied)
    peaks, times = {}, {}
    for number in (10, 50):
        times[number], peaks[number] = run(
            "scripts/make_aug_copy.py", "--aug_dataset=copies.1@10", f"--aug_copy={number}",
            "--augment=cifar10", f"--data_dir={folder}",
        )  # fmt: skip
        for path in (folder / "SSL").glob(f"copies_aug{number}.*"):
            path.unlink()
    # The difference leaves out the start of Python and TensorFlow, which both runs share.
    speed = 40 * options.copied / (times[50] - times[10])
    encode = rate(encode_pngs, [images[i : i + 500] for i in range(0, 4000, 500)], 4000)
    growth = 100 * (peaks[50] / peaks[10] - 1)
    return [
        ("make_aug_copy, 32x32 copies/s", f"{speed:,.0f}", f"PNG encode alone {encode:,.0f}"),
        (
            f"make_aug_copy {options.copied:,} x 50, copies/s all in",
            f"{50 * options.copied / times[50]:,.0f}",
            f"{times[50]:.1f} s",
        ),
        (
            "make_aug_copy peak memory, 50 copies",
            mib(peaks[50]),
            f"10 copies {mib(peaks[10])} ({growth:+.1f} %)",
        ),
    ]


def plain_copy(source: Path, target: Path) -> float:
    """Seconds to copy a file and have it on the disk, which the tools wait for too.

    The first copy only brings the system's memory into the state that it leaves for what comes
    next: on virtual machines memory that was not used for a while is several times slower.
    """
    return [_copy(source, target) for _ in range(2)][1]


def _copy(source: Path, target: Path) -> float:
    begin = time.perf_counter()
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def subsets(options: argparse.Namespace, folder: Path) -> list[Row]:
    """create_split, filter_dataset and sample on many records, beside a copy of the file."""
    rows: list[Row] = []
    small, large = folder / "small-train.tfrecord", folder / "large-train.tfrecord"
    write_heavy_records(small, options.records // 10)
    write_heavy_records(large, options.records)
    share = options.records * 8 // 10

    def words(tool: str, source: Path, count: int) -> list[str]:
        output = str(folder / "out" / "o-train.tfrecord")
        return {
            "create_split": ["--seed=1", "--label_split_size=250", str(folder / "out" / "o"),
                             str(source)],
            "filter_dataset": ["--class_filter=0,1,2,3,4,5,6,7", f"--filter_dataset={source}",
                               f"--save_name={output}"],
            "sample": [output, str(source), f"--size={count * share // options.records}"],
        }[tool]  # fmt: skip

    for tool in ("create_split", "filter_dataset", "sample"):
        # Which part of the input the output is.
        part = 1.0 if tool == "create_split" else 0.8
        times, copied, peak, tenth = [], [], 0, []
        for _ in range(options.rounds):
            copied.append(plain_copy(large, folder / "copy"))
            seconds, peak = run(f"scripts/{tool}.py", *words(tool, large, options.records))
            times.append(seconds)
            shutil.rmtree(folder / "out")
            tenth.append(run(f"scripts/{tool}.py", *words(tool, small, options.records // 10))[0])
            shutil.rmtree(folder / "out")
        ratio = statistics.median(part * b / a for a, b in zip(times, copied, strict=True))
        median = statistics.median(times)
        rows.append(
            (
                f"{tool}, {options.records:,} records of {RECORD_BYTES} B, s all in",
                f"{median:.2f}",
                f"copying {'as much' if part < 1 else 'the file'} "
                f"{part * statistics.median(copied):.2f} ({100 * ratio:.0f} % of its speed); "
                f"a tenth {statistics.median(tenth):.2f}; peak {mib(peak)}",
            )
        )
    return rows


def overlap(options: argparse.Namespace, folder: Path) -> list[Row]:
    """check_split on two sets of 60,000 records: exact pixels, then near-duplicates too."""
    random = np.random.RandomState(1)
    images = natural_images(60_000)
    write_records(folder / "one-train.tfrecord", images, len(images))
    other = np.clip(images + random.normal(0, 40, images.shape), 0, 255).astype(np.uint8)
    other[:100] = images[:100]
    write_records(folder / "two-test.tfrecord", other, len(other))
    files = [str(folder / "one-train.tfrecord"), str(folder / "two-test.tfrecord")]
    decode = rate(
        decode_pngs, [encode_pngs(images[i : i + 500]) for i in range(0, 4000, 500)], 4000
    )
    exact, exact_peak = run("scripts/check_split.py", *files, "--nonear")
    near, near_peak = run("scripts/check_split.py", *files)
    return [
        (
            "check_split, exact, 60,000 against 60,000, s all in",
            f"{exact:.1f}",
            f"decoding alone {2 * len(images) / decode:.1f}; peak {mib(exact_peak)}",
        ),
        ("check_split, near-duplicates too, s all in", f"{near:.1f}", f"peak {mib(near_peak)}"),
    ]


def helps(options: argparse.Namespace, folder: Path) -> list[Row]:
    """How long the help pages take."""
    bare = min(run("-c", "import absl.flags")[0] for _ in range(3))
    return [
        (
            f"{command} --help, s",
            f"{min(run(f'scripts/{command}.py', '--help')[0] for _ in range(3)):.2f}",
            f"python with absl alone {bare:.2f}",
        )
        for command in COMMANDS
    ]


PARTS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "png": png,
    "custom": custom,
    "photos": photos,
    "copies": copies,
    "subsets": subsets,
    "overlap": overlap,
    "help": helps,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--pictures", help="folder of small pictures (train/<class>, test/<class>)")
    parser.add_argument("--times", type=int, default=10, help="how often the large folder repeats")
    parser.add_argument("--photos", type=int, default=1000, help="photographs shrunk")
    parser.add_argument("--copied", type=int, default=50_000, help="images copied 50 times")
    parser.add_argument("--records", type=int, default=1_000_000, help="records split and filtered")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; medians are shown")
    parser.add_argument("--folder", help="where to work (needs some 20 GB); a temporary folder")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {min(unknown)!r}; parts: {', '.join(PARTS)}")
    for part in options.only.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            for label, value, limit in PARTS[part](options, Path(name)):
                print(f"{label:<74} {value:>9}  {limit}", flush=True)


if __name__ == "__main__":
    main()
