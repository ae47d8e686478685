"""create_datasets as users type it: everything that can go wrong around the archives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from file_server import serving

from realmix_tf.data.images import decode_png
from realmix_tf.data.records import RecordReader

ROOT = Path(__file__).resolve().parents[2]
FIRST = "cifar-10-binary.tar.gz"
SIZE = 170_052_171  # the pinned one

pytestmark = pytest.mark.process


def start(*words: object) -> subprocess.Popen[str]:
    environment = {
        key: value
        for key, value in os.environ.items()
        if key != "ML_DATA" and not key.lower().endswith("_proxy")
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "create_datasets.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run(*words: object, code: int = 0) -> tuple[str, str]:
    process = start(*words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    if code:
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1, err
    return out, err


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def server():
    with serving() as running:
        # As long as the published archive, though of other content.
        running.files[FIRST] = bytes(SIZE)
        yield running


def test_without_names_everything_that_can_be_had_is_built(tmp_path) -> None:
    """No network is the same for a user as a mirror that does not answer."""
    words = (f"--data_dir={tmp_path}", "--mirror=http://127.0.0.1:9", "--json")
    out, err = run(*words, code=4)
    result = json.loads(out)
    assert [item["dataset"] for item in result["datasets"]] == ["digits"]
    missing = ["cifar10", "cifar100", "svhn", "svhn_noextra", "stl10", "fashion_mnist"]
    assert [item["dataset"] for item in result["failed"]] == missing
    assert all("no connection to 127.0.0.1" in item["reason"] for item in result["failed"])
    assert "error: 6 of 7 datasets could not be built" in err
    files = ["digits-test.tfrecord", "digits-test.tfrecord.json", "digits-train.tfrecord",
             "digits-train.tfrecord.json", "digits_class_mappings.json"]  # fmt: skip
    assert listing(tmp_path) == files
    out, err = run(f"--data_dir={tmp_path}", "--offline", "digits", "cifar10", code=4)
    assert "digits: already there and verified" in out
    assert "cifar10: not built: " in err
    assert listing(tmp_path) == files


def test_offline_says_what_is_needed_and_where_to_put_it(tmp_path) -> None:
    _, err = run("svhn", "--offline", f"--data_dir={tmp_path / 'data'}", code=4)
    for text in ("train_32x32.mat (173.6 MiB, https://", "extra_32x32.mat (1.2 GiB",
                 "--archive_dir", str(tmp_path / "data" / "archives")):  # fmt: skip
        assert text in err
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("faults", "code", "message", "left"),
    [
        (["good"], 3, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", False),
        (["missing"], 4, "HTTP status 404 no\\x07such file", False),
        (["busy"], 4, "(attempt 2, the last)", False),
        (["wrong_length"], 3, f"announces {SIZE + 5} bytes, the published file has {SIZE}", False),
        (["redirect_file"], 4, "is not allowed", False),
        (["stall"], 4, "no byte for 0.5 s (attempt 2, the last)", True),
    ],
)
def test_what_servers_do_wrong_ends_cleanly(tmp_path, server, faults, code, message, left) -> None:
    server.faults = list(faults)
    if left:
        server.files[FIRST] = bytes(1 << 18)
        server.pretended = SIZE
    _, err = run("cifar10", f"--data_dir={tmp_path}", f"--mirror={server.address}", "--retries=1",
                 "--timeout=0.5", code=code)  # fmt: skip
    assert message in err
    assert "--archive_dir=FOLDER" in err
    assert listing(tmp_path) == ([f"archives/.tmp-{FIRST}.part"] if left else [])


def partial_when(process: subprocess.Popen[str], path: Path, size: int) -> None:
    """Waits until a download has got that far."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.005)
    pytest.fail("the download did not get that far")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_download_continues_where_it_was(tmp_path, number) -> None:
    part = tmp_path / "archives" / f".tmp-{FIRST}.part"
    with serving() as server:
        server.files[FIRST], server.pretended = bytes(1 << 20), SIZE
        server.faults = ["stall"]
        words = ("cifar10", f"--data_dir={tmp_path}", f"--mirror={server.address}", "--retries=0")
        process = start(*words)
        partial_when(process, part, 1 << 19)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
        assert process.returncode == codes[number], err
        assert listing(tmp_path) == [f"archives/.tmp-{FIRST}.part"]
        assert ("what arrived is kept" in err) == (number != signal.SIGKILL)
        have = part.stat().st_size
        assert have == 1 << 19
        server.faults = ["forbidden"]
        _, err = run(*words, code=4)
        assert server.requests[-1] == (f"/files/{FIRST}", f"bytes={have}-")
        assert "continues after 512.0 KiB" in err
        assert part.stat().st_size == have


def test_own_archives_are_never_changed(tmp_path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / FIRST).write_bytes(b"something else")
    _, err = run("cifar10", f"--archive_dir={own}", f"--data_dir={tmp_path / 'data'}", code=3)
    assert f"the archive has 14 bytes, the published one {SIZE}" in err
    with open(own / FIRST, "r+b") as file:
        file.truncate(SIZE)
    words = ("cifar10", f"--archive_dir={own}", f"--data_dir={tmp_path / 'data'}")
    _, err = run(*words, code=3)
    assert "the archive has the SHA-256 " in err
    assert (own / FIRST).stat().st_size == SIZE
    out, _ = run(*words, "--dry_run", "--json")
    assert json.loads(out)["reads"] == [{"path": str(own / FIRST), "bytes": SIZE}]
    assert listing(tmp_path) == [f"own/{FIRST}"]


def test_a_dry_run_asks_nobody_and_writes_nothing(tmp_path, server) -> None:
    data = tmp_path / "data"
    words = (f"--data_dir={data}", f"--mirror={server.address}", "--dry_run")
    out, err = run(*words, "--json")
    plan = json.loads(out)
    assert plan["facts"]["svhn"]["extra"] == 531_131
    assert {"path": f"{server.address}/{FIRST}", "bytes": SIZE} in plan["reads"]
    # Archives that two sets share are counted once.
    assert len(plan["reads"]) == len({item["path"] for item in plan["reads"]}) == 10
    assert plan["seconds"] > 0
    assert plan["memory"] > 0
    assert "without the download" in err
    out, _ = run(*words, "cifar10")
    assert "reads 162.2 MiB" in out
    _, err = run(*words, "--offline", "cifar10", code=4)
    assert "--offline forbids" in err
    out, err = run(*words, "--offline", "cifar10", "digits", "--json", code=4)
    assert json.loads(out)["facts"]["digits"] == {"train": 1297, "test": 500, "download": 0}
    assert json.loads(out)["failed"][0]["dataset"] == "cifar10"
    assert not server.requests
    assert not data.exists()


def test_sets_that_are_there(tmp_path) -> None:
    run("digits", f"--data_dir={tmp_path}")
    train = tmp_path / "digits-train.tfrecord"
    good = train.read_bytes()
    damaged = bytearray(good)
    damaged[1000] ^= 1
    train.write_bytes(damaged)
    out, _ = run("digits", f"--data_dir={tmp_path}", "--json")
    facts = json.loads(out)["datasets"][0]["facts"]
    assert facts["state"].startswith("built again, because digits-train.tfrecord: record")
    assert train.read_bytes() == good
    train.with_name(train.name + ".json").unlink()
    out, _ = run("digits", f"--data_dir={tmp_path}")
    assert "left alone" in out
    assert "--overwrite" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["cifr10"], 2, "cifar10"),
        (["digits", "pets"], 2, "one of cifar10"),
        (["digits", "--mirror=file:///etc"], 2, "--mirror"),
        (["digits", "--retries=-1"], 2, "--retries"),
        (["digits", "--timeout=0"], 2, "--timeout"),
        (["digits", "--archive_dir=/nowhere"], 3, "/nowhere"),
        (["custom_extra", "--name=a", "--traindir=b", "--testdir=c"], 2, "--unlabeldir"),
        (["cifar10", "--img_size=64"], 2, "--img_size is for custom and tfds:NAME only"),
        (["digits", "-n", "pets"], 2, "--name is for custom only"),
        (["tfds:no/../way"], 2, "tfds:NAME"),
        (["tfds:namespace:name"], 2, "tfds:NAME"),
        (["tfds:beens"], 2, "tfds:beans"),
        (["tfds:beans", "--offline"], 4, "--tfds_dir"),
        (["tfds:ag_news_subset"], 3, "it has description, label, title"),
    ],
)
def test_bad_calls_say_what_to_do(tmp_path, words, code, message) -> None:
    if words[0].startswith("tfds:"):
        words = [*words, f"--tfds_dir={tmp_path / 't'}"]
    _, err = run(*words, f"--data_dir={tmp_path / 'data'}", code=code)
    assert message in err
    assert not (tmp_path / "data").exists()


# A set of two sizes of images, with a validation split and unlabelled images; one of these is cut.
PREPARE = """
import io, os, sys
os.environ["NO_GCE_CHECK"] = "true"
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

def encoded(pixels, cut=False):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = file.getvalue()
    return io.BytesIO(data[: len(data) // 2] if cut else data)

class TinyPets(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dog", "cat"]),
            "score": np.float32,
        }))

    def _split_generators(self, manager):
        counts = {"train": 30, "validation": 8, "unlabelled": 5, "odd": 1}
        return {name: self._examples(name, count) for name, count in counts.items()}

    def _generate_examples(self):
        return ()

    def _examples(self, name, count):
        for i in range(count):
            pixels = np.full((10 + i % 2, 12, 3), (i, 2 * i, 100), np.uint8)
            cut = name == "unlabelled" and i == 2
            label = -1 if name == "unlabelled" else i % 2
            yield i, {"image": encoded(pixels, cut), "label": label, "score": 0.5}

tfds.disable_progress_bar()
TinyPets(data_dir=sys.argv[1]).download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")
    program = folder / "prepare.py"
    program.write_text(PREPARE)
    result = subprocess.run(
        [sys.executable, program, folder / "sets"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / "sets"


def test_a_set_of_tensorflow_datasets(prepared, tmp_path) -> None:
    data = tmp_path / "data"
    words = ("tfds:tiny_pets", f"--tfds_dir={prepared}", f"--data_dir={data}", "--offline")
    _, err = run(*words, code=2)
    assert "--img_size" in err
    out, err = run(*words, "--img_size=6x7", "--dry_run", "--json")
    assert json.loads(out)["facts"]["train"] == 30
    assert len(json.loads(out)["reads"]) == 3
    assert "the validation split is taken for testing" in err
    assert not data.exists()
    out, err = run(*words, "--img_size=6x7", "--json")
    facts = json.loads(out)["datasets"][0]["facts"]
    assert (facts["train"], facts["test"], facts["unlabeled"]) == (30, 8, 4)
    assert "1 unlabelled images could not be read" in err
    assert "not used: the splits odd" in err
    report = json.loads((data / "tiny_pets-report.json").read_text())
    assert len(report["unreadable"]) == 1
    with RecordReader(data / "tiny_pets-train.tfrecord") as reader:
        reader.verify()
        assert reader.classes == ("dog", "cat")
        assert reader.image_shape == (6, 7, 3)
        colors = [decode_png(reader.image(i))[0, 0] for i in range(30)]
        assert sorted(int(color[0]) for color in colors) == list(range(30))
        assert [int(color[0]) % 2 for color in colors] == reader.labels.tolist()
    with RecordReader(data / "tiny_pets-unlabeled.tfrecord") as reader:
        assert not reader.labeled.any()
        np.testing.assert_array_equal(reader.labels, [-1] * 4)
    first = (data / "tiny_pets-train.tfrecord").read_bytes()
    # What is built needs TensorFlow Datasets no more.
    out, _ = run("tfds:tiny_pets", f"--tfds_dir={tmp_path}", f"--data_dir={data}", "--offline")
    assert "already there and verified" in out
    _, err = run(*words, "--img_size=8", code=2)
    assert "exists with images of 6x7" in err
    run(*words, "--img_size=6x7", "--overwrite")
    assert (data / "tiny_pets-train.tfrecord").read_bytes() == first


def test_damaged_pictures_of_tensorflow_datasets_end_the_build(prepared, tmp_path) -> None:
    import shutil

    from realmix_tf.data.records import frame_of

    shutil.copytree(prepared, tmp_path / "sets")
    file = next((tmp_path / "sets").rglob("tiny_pets-train.tfrecord*"))
    with RecordReader(file) as reader:
        frames = [bytes(reader.frame(i)) for i in range(len(reader))]
    words = ("tfds:tiny_pets", f"--tfds_dir={tmp_path / 'sets'}", f"--data_dir={tmp_path / 'd'}",
             "--img_size=8")  # fmt: skip
    broken = frames[4][12:-4].replace(b"IDAT", b"IDAX")
    file.write_bytes(b"".join([*frames[:4], frame_of(broken), *frames[5:]]))
    _, err = run(*words, code=3)
    assert "record 4" in err
    file.write_bytes(b"".join(frames[:-1]))
    _, err = run(*words, code=3)
    assert "29 records instead of 30" in err
    assert listing(tmp_path / "d") == []
