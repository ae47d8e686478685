#!/usr/bin/env python3
"""Speed and memory of the data tools; prints one table, a limit of the machine beside each figure.

Usage: benchmarks/data_tools.py [--images=4000] [--records=60000]

The limits are measured in the same run on the same processors, as machines swing: what the same
work would cost if nothing but its unavoidable part were done.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from realmix_tf.data.images import decode_pngs, encode_pngs  # noqa: E402
from realmix_tf.data.manifest import provenance  # noqa: E402
from realmix_tf.data.records import RecordReader, RecordWriter, encode_example  # noqa: E402

COMMANDS = ("create_datasets", "create_split", "make_aug_copy", "filter_dataset", "verify")


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
    with RecordWriter(
        path,
        dataset="bench",
        role="train",
        classes=[str(c) for c in range(10)],
        shape=(32, 32, 3),
        provenance=provenance("benchmark"),
    ) as writer:
        for i in range(records):
            label = i * 7 % 10
            writer.write(encode_example(pngs[i % len(pngs)], label, name=f"{i}.png"), label)


def run(*words: str) -> tuple[float, int]:
    """Runs a command; its seconds, and the peak resident bytes of its whole process tree."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
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


def rate(function: object, items: list[object], count: int) -> float:
    """Items a second of ``function`` over ``items`` on all processors, the best of three."""
    best = 0.0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in range(3):
            begin = time.perf_counter()
            list(pool.map(function, items))  # type: ignore[arg-type]
            best = max(best, count / (time.perf_counter() - begin))
    return best


def pillow_png(image: np.ndarray) -> bytes:
    """The same image through Pillow's encoder at its lowest compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def deflate(rows: np.ndarray) -> bytes:
    """The part of PNG encoding that cannot be left out."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    return compressor.compress(rows) + compressor.flush()


def png_rows(images: np.ndarray) -> tuple[list[tuple[str, str, str]], float]:
    """Speed and size of our PNGs beside Pillow's; the rows, and images encoded a second."""
    blocks = [images[i : i + 500] for i in range(0, len(images), 500)]
    flat = [png for block in blocks for png in encode_pngs(block)]
    ours = rate(encode_pngs, blocks, len(images))
    plain = rate(pillow_png, list(images), len(images))
    zipped = rate(deflate, list(images - np.roll(images, 1, axis=2)), len(images))
    size = sum(map(len, flat)) / len(images)
    pillow_size = sum(len(pillow_png(image)) for image in images) / len(images)
    decoded = rate(decode_pngs, [flat[i : i + 500] for i in range(0, len(flat), 500)], len(images))
    by_pillow = rate(lambda png: np.asarray(Image.open(io.BytesIO(png))), flat, len(images))
    return [
        ("PNG encode, images/s", f"{ours:,.0f}", f"Pillow {plain:,.0f}, zlib {zipped:,.0f}"),
        (
            "PNG bytes an image",
            f"{size:,.0f}",
            f"Pillow {pillow_size:,.0f} ({100 * (size / pillow_size - 1):+.1f} %)",
        ),
        ("PNG decode, images/s", f"{decoded:,.0f}", f"Pillow {by_pillow:,.0f}"),
    ], ours


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000, help="images copied")
    parser.add_argument("--records", type=int, default=60_000, help="records split")
    options = parser.parse_args()
    images = natural_images(min(options.images, 4000))
    rows, ours = png_rows(images)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split_input = folder / "bench-train.tfrecord"
        write_records(split_input, images, options.records)
        begin = time.perf_counter()
        with RecordReader(split_input) as reader:
            walked = time.perf_counter()
            _ = reader.index
            rows.append(
                (
                    f"open and index {options.records} records, s",
                    f"{time.perf_counter() - begin:.2f}",
                    f"framing {walked - begin:.2f}",
                )
            )
        begin = time.perf_counter()
        content = split_input.read_bytes()
        (folder / "copy").write_bytes(content)
        copied = time.perf_counter() - begin
        seconds, peak = run(
            "scripts/create_split.py", "--seed=1", "--label_split_size=250",
            str(folder / "SSL" / "bench"), str(split_input),
        )  # fmt: skip
        rows.append(
            (
                f"create_split of {options.records}, s all in",
                f"{seconds:.2f}",
                f"plain copy {copied:.2f}; peak {peak >> 20} MiB",
            )
        )

        write_records(folder / "SSL" / "copies.1@10-unlabel.tfrecord", images, options.images)
        peaks, times = {}, {}
        for copies in (10, 50):
            times[copies], peaks[copies] = run(
                "scripts/make_aug_copy.py", "--aug_dataset=copies.1@10", f"--aug_copy={copies}",
                "--augment=cifar10", f"--data_dir={folder}",
            )  # fmt: skip
        # The difference leaves out the start of Python and TensorFlow, which both runs share.
        speed = 40 * options.images / (times[50] - times[10])
        rows.append(
            ("make_aug_copy, 32x32 copies/s", f"{speed:,.0f}", f"PNG encode alone {ours:,.0f}")
        )
        rows.append(
            (
                "make_aug_copy with 50 copies, copies/s all in",
                f"{50 * options.images / times[50]:,.0f}",
                f"{times[50]:.1f} s",
            )
        )
        rows.append(
            (
                "make_aug_copy peak MiB, 50 copies",
                f"{peaks[50] >> 20}",
                f"10 copies {peaks[10] >> 20} ({100 * (peaks[50] / peaks[10] - 1):+.1f} %)",
            )
        )
    bare = min(run("-c", "import absl.flags")[0] for _ in range(3))
    for command in COMMANDS:
        seconds = min(run(f"scripts/{command}.py", "--help")[0] for _ in range(3))
        rows.append(
            (f"{command} --help, s", f"{seconds:.2f}", f"python with absl alone {bare:.2f}")
        )
    width = max(len(row[0]) for row in rows)
    print(f"{'measured':<{width}}  {'value':>10}  limit")
    for label, value, limit in rows:
        print(f"{label:<{width}}  {value:>10}  {limit}")


if __name__ == "__main__":
    main()
