"""The report, parsed as a browser would."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import PERIOD, make_run
from PIL import Image

from realmix_tf.errors import DataError
from realmix_tf.evaluation import page, plots, report
from realmix_tf.evaluation.report import write_report

VOID = {"meta", "img", "source", "br"}
NASTY = "<script>alert(1)</script>&\"'$x_{1$ ../../etc=cmd() \u202eabc"


class Page(HTMLParser):
    """Collects what a page refers to and shows, and checks that its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.raw = path.read_text(encoding="utf-8")
        self.feed(self.raw)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "srcset", "href", "data", "action", "poster"):
                self.references.append(value or "")
            if name == "style":
                assert "url" not in (value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check(path: Path) -> Page:
    """What holds for every report: it is whole, loads nothing and runs nothing."""
    found = Page(path)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(found.tags)
    for reference in found.references:
        assert reference.startswith("data:image/png;base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(reference.partition(",")[2])))
        picture.load()
        assert picture.format == "PNG"
    assert "http://" not in found.raw
    assert "https://" not in found.raw
    assert "url(" not in found.raw
    assert "@import" not in found.raw
    return found


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves the time where the dark edition of the plots does not matter."""

    def plot(self: Any, name: str, alt: str, draw: Callable[[plots.Theme], bytes]) -> page.Html:
        light = draw(plots.LIGHT)
        return page.picture(light, light, alt)

    monkeypatch.setattr(report._Pictures, "plot", plot)
    monkeypatch.setattr(plots, "_DPI", 50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "RealMix_seed0", labels=200)
    make_run(root / "Supervised_seed0", method="supervised", unlabeled=False)
    return root


def test_complete(runs: Path) -> None:
    run = runs / "RealMix_seed0"
    path = write_report(run, runs / "Supervised_seed0")
    assert path == run / "report.html"
    found = check(path)
    evaluation = json.loads((run / "stats" / "evaluation.json").read_text())
    test = evaluation["sets"]["test"]
    assert f"{100 * test['accuracy']:.1f} %" in found.text
    assert f"of {test['count']} test images; 95% interval" in found.text
    for expected in (
        "RealMix on digits.1@200-100",
        "seed 0",
        "baseline: Supervised",
        "points",
        "1,200",
        "digit 7",
        "Confusion matrix, test set",
        "Reliability, test set",
        "Most confident",
        "Least confident",
        "Labelled",
        "Unlabelled, weak view 2",
        "after augmentation, before the method mixes any of them",
        "“Mixed” is what the network was fed after MixUp",
        "Of 1,000 of the 1,200 unlabelled images; the others were not ranked.",
        "python realmix.py --method=realmix --dataset=digits.1@40-100",
        "tensorflow 2.21.0",
        f"{3:064x}",
        "config.w_match",
        "75.0",
        "Median test accuracy of the last 12 evaluations",
        "Validation would choose",
    ):
        assert expected in found.text, expected
    names = {p.stem for p in (run / "plots").iterdir()}
    assert {"accuracy", "losses", "kept", "confidence", "confusion", "reliability"} <= names
    assert {
        "labeled",
        "unlabeled_weak0",
        "unlabeled_weak1",
        "mixed",
        "unlabeled_confident",
    } <= names
    for picture in (run / "plots").iterdir():
        with Image.open(picture) as image:
            image.load()
            assert image.getbbox() is not None


@pytest.mark.usefixtures("drawn_once")
def test_the_same_run_gives_the_same_report(runs: Path) -> None:
    first = write_report(runs / "RealMix_seed0").read_bytes()
    assert write_report(runs / "RealMix_seed0").read_bytes() == first


@pytest.mark.usefixtures("drawn_once")
def test_an_unfair_comparison_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", evaluations=2, unlabeled=False)
    other = make_run(tmp_path / "b", evaluations=3, unlabeled=False)
    environment = json.loads((other / "env.json").read_text())
    environment["data"]["test"]["sha256"] = "f" * 64
    (other / "env.json").write_text(json.dumps(environment))
    text = check(write_report(run, other)).text
    assert "other test images" in text
    assert f"{2 * PERIOD:,} labelled images seen here, {3 * PERIOD:,} by the baseline" in text


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("views", "pictures of the views"),
        ("env.json", "no env.json"),
        ("args", "no args/args.json"),
        ("timing.jsonl", "no timing.jsonl"),
        ("metrics.jsonl", "no metrics.jsonl"),
        ("stats", "last evaluation in metrics.jsonl"),
    ],
)
def test_pieces_may_be_missing(tmp_path: Path, missing: str, said: str) -> None:
    run = make_run(tmp_path / "run", evaluations=1, unlabeled=False)
    target = run / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    text = check(write_report(run)).text
    assert said in text
    assert "no baseline was named" in text


@pytest.mark.usefixtures("drawn_once")
def test_one_evaluation_no_validation_no_unlabelled_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=1, valid=False, unlabeled=False)
    text = check(write_report(run)).text
    for expected in (
        "no validation set, so no point was chosen",
        "there is no validation set",
        "most confident unlabelled images: not recorded",
        "unlabelled images none",
        "share of unlabelled images kept: this method logs none",
        "A single evaluation is a dot",
    ):
        assert expected in text, expected


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize("counts", [{}, {"ranked": 1200, "of": 1200}, {"ranked": "x", "of": 2}])
def test_all_ranked_or_not_recorded(tmp_path: Path, counts: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", evaluations=1)
    (run / "views" / "mixed.npz").unlink()
    for path in (run / "views").glob("unlabeled_*.npz"):
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        np.savez(path, **{**{k: v for k, v in arrays.items() if v.shape}, **counts})
    text = check(write_report(run)).text
    assert "Most confident" in text
    assert "not ranked" not in text
    assert "MixUp" not in text
    assert "after augmentation, before the method mixes any of them." in text


@pytest.mark.usefixtures("drawn_once")
def test_no_test_set(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=2)
    evaluation = json.loads((run / "stats" / "evaluation.json").read_text())
    del evaluation["sets"]["test"], evaluation["raw"]["test"]
    (run / "stats" / "evaluation.json").write_text(json.dumps(evaluation))
    text = check(write_report(run)).text
    assert "There is no test set" in text
    assert "Confusion matrix, validation set" in text


@pytest.mark.usefixtures("drawn_once")
def test_averages_that_lag_are_pointed_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=1, unlabeled=False)
    assert "lag behind" not in check(write_report(run)).text
    evaluation = json.loads((run / "stats" / "evaluation.json").read_text())
    evaluation["sets"]["valid"]["accuracy"] = 0.1
    (run / "stats" / "evaluation.json").write_text(json.dumps(evaluation))
    assert "The averaged weights lag behind" in check(write_report(run)).text


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "no")
    with pytest.raises(DataError, match="not been evaluated"):
        write_report(tmp_path)


@pytest.mark.usefixtures("drawn_once")
def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [f"{NASTY}{i}" for i in range(10)], evaluations=2)
    for file, key in (("args/args.json", "method"), ("env.json", "device")):
        contents = json.loads((run / file).read_text())
        contents[key] = f"<b>{NASTY}</b>"
        if key == "method":
            contents["<i>setting"] = {"<u>": "</details><script>"}
            contents["dataset"] = f'"><img src=x onerror=alert(1)>{NASTY}'
        else:
            contents["command"] = ["python", "a b;rm -rf $HOME", "<x>"]
        (run / file).write_text(json.dumps(contents))
    found = check(write_report(run))
    assert "<script>alert(1)</script>" in found.text
    assert "'a b;rm -rf $HOME' '<x>'" in found.text
    assert "\u202e" not in found.raw


@pytest.mark.usefixtures("drawn_once")
def test_damaged_pieces_become_notes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=2, unlabeled=False)
    for i, damage in enumerate((b"", b"no", b"PK\x03\x04" + bytes(50))):
        (run / "views" / f"damaged{i}.npz").write_bytes(damage)
    np.savez(run / "views" / "odd.npz", images=np.array([{}], object))
    np.savez(run / "views" / "flat.npz", images=np.zeros(3, np.uint8))
    (run / "env.json").write_bytes(b"{")
    with open(run / "metrics.jsonl", "a") as file:
        file.write("{\n")
    text = check(write_report(run)).text
    for name in ("damaged0", "damaged1", "damaged2", "odd", "flat"):
        assert f"views/{name}.npz" in text
    assert "env.json cannot be read" in text
    assert "damaged (metrics.jsonl, line 3)" in text


@pytest.mark.parametrize("theme", [plots.LIGHT, plots.DARK])
@pytest.mark.parametrize("size", [2, 25, 130])
def test_confusion_of_many_classes(theme: plots.Theme, size: int) -> None:
    table = np.eye(size, dtype=int) * 3
    table[0] = 0
    png = plots.confusion(table, [f"class ${i}^{{" for i in range(size)], theme)
    with Image.open(io.BytesIO(png)) as image:
        assert min(image.size) > 300
        assert image.getpixel((0, 0))[3] == 0


def test_grids_enlarge_with_square_pixels() -> None:
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
    with Image.open(io.BytesIO(plots.grid(images, columns=2))) as sheet:
        assert sheet.size == (2 * 68 + 4, 2 * 68 + 4)
        pixels = np.asarray(sheet)[4:68, 4:68, 0]
    np.testing.assert_array_equal(pixels[::8, ::8], images[0, ..., 0])
    np.testing.assert_array_equal(pixels, images[0, ..., 0].repeat(8, 0).repeat(8, 1))
    large = np.zeros((1, 400, 200, 3), np.uint8)
    with Image.open(io.BytesIO(plots.grid(large))) as sheet:
        assert sheet.size == (96 + 8, 192 + 8)
