"""Classifying pictures through the real command line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realmix_tf.cli import predict
from realmix_tf.data.images import encode_png
from realmix_tf.errors import UsageError
from realmix_tf.evaluation.classifier import Classifier
from realmix_tf.evaluation.model_file import ModelDescription
from realmix_tf.nets.build import build_network
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.training import checkpoint

ROOT = Path(__file__).parents[2]
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an exported model of arbitrary weights."""
    folder = tmp_path_factory.mktemp("experiments") / "RealMix_seed1"
    spec = NetworkSpec("small", 3, 8, 8, 3, 4)
    weights = {n: v.numpy() for n, v in build_network(spec).variables_by_name().items()}
    description = ModelDescription(spec, CLASSES, {"channels": 3}, {"dataset": "insects"})
    Classifier.create(description, weights).save(folder / "model")
    (folder / "args").mkdir()
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures in class folders, one in another, one at the top and one broken."""
    folder = tmp_path / "photos"
    draw = np.random.default_rng(0)
    for name in ("ant/1.png", "bee/2.png", "wasp/3.png", "4.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)))
    (folder / "5.png").write_text("no picture")
    return folder


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "realmix_tf.cli.predict", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_plan_writes_nothing(run: Path, pictures: Path) -> None:
    before = sorted(run.rglob("*"))
    plan = predict.plan_inference(str(pictures), str(run), top_k=2)
    assert sorted(run.rglob("*")) == before
    assert plan.facts == {"pictures": 5, "classes": 3}
    size = sum(path.stat().st_size for path in pictures.rglob("*.png"))
    assert [(use.path, use.bytes) for use in plan.reads] == [(str(pictures), size)]
    assert plan.writes[0].path == str(run / "predictions" / "photos")
    with pytest.raises(UsageError):
        predict.plan_inference("", str(run))


def test_library_call(run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = predict.run_inference(str(pictures), str(run), top_k=2)
    names = [os.path.relpath(row["path"], pictures) for row in result["predictions"]]
    assert names == ["4.png", "5.png", "ant/1.png", "bee/2.png", "wasp/3.png"]
    assert result["accuracy"]["count"] == 2
    assert result["unknown_folders"] == ["wasp"]
    assert all(len(row["top_k"]) in (0, 2) for row in result["predictions"])
    out = run / "predictions" / "photos"
    assert result["out_dir"] == str(out)
    assert {Path(path).parent for path in result["files"].values()} == {out}
    assert sorted(os.listdir(out)) == [
        "inputs.json",
        "photos_pred.npy",
        "predictions.csv",
        "predictions.json",
    ]
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok", "unreadable", "ok", "ok", "ok"]
    assert np.load(out / "photos_pred.npy", allow_pickle=False).shape == (4, 3)
    text = predict.summary_text(result)
    assert "classified 4 of 5 pictures" in text
    assert "accuracy" in text
    assert "1 of 5 pictures could not be read" in capsys.readouterr().err


def test_where_the_output_goes(tmp_path: Path) -> None:
    (tmp_path / "run" / "args").mkdir(parents=True)
    expected = tmp_path / "run" / "predictions" / "my_photos"
    for name in ("run", "run/", "run/model", "run/tf/model.ckpt-00000640"):
        assert predict.default_out_dir(f"{tmp_path}/{name}", ["x/my photos/"]) == expected
    expected = tmp_path / "pets" / "predictions" / "my_photos"
    assert predict.default_out_dir(str(tmp_path / "pets"), ["my photos"]) == expected


def test_no_input_replaces_the_predictions_of_another(run: Path, tmp_path: Path) -> None:
    folders = []
    for side, color in (("a", "red"), ("b", "blue"), ("a", "green")):
        picture = tmp_path / side / "pets" / "1.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(picture)
        folders.append(predict.run_inference(str(picture.parent), str(run))["out_dir"])
    places = run / "predictions"
    assert folders == [str(places / name) for name in ("pets", "pets-2", "pets")]
    written = json.loads((places / "pets-2" / "predictions.json").read_text())
    assert written["predictions"][0]["path"] == str(tmp_path / "b" / "pets" / "1.png")


def test_an_animation_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    result = predict.run_inference(str(tmp_path / "a.gif"), str(run))
    assert result["predictions"][0]["note"] == "animated, only the first frame is used"
    assert "1 of 1 pictures: animated, only the first frame is used" in capsys.readouterr().err


def test_raw_and_averaged_weights_of_a_checkpoint(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "RealMix_seed2"
    spec = NetworkSpec("small", 3, 8, 8, 3, 4)
    network = build_network(spec)
    # Each kind of weights has a class of its own that it always answers with.
    variables = {f"net/{n}": v.numpy() for n, v in network.variables_by_name().items()}
    variables |= {f"ema/{n}": v.numpy() for n, v in network.trainable_by_name().items()}
    for group, answer in (("net", 2), ("ema", 1)):
        variables[f"{group}/head/kernel"] *= 0
        variables[f"{group}/head/bias"] = np.eye(3, dtype=np.float32)[answer] * 9
    checkpoint.save(experiment / "tf", 640, variables, {})
    description = ModelDescription(spec, CLASSES, {"channels": 3}, {"dataset": "insects"})
    (experiment / "args").mkdir()
    (experiment / "args" / "args.json").write_text(json.dumps({"model": description.to_json()}))
    prefix = experiment / "tf" / "model.ckpt-00000640"
    for weights, answer in (("raw", "cat"), ("ema", "bee")):
        words = [str(pictures), f"--inference_ckpt={prefix}", f"--weights={weights}", "--json"]
        assert predict.main(words) == 0
        printed = json.loads(capsys.readouterr().out)
        assert {row["class_name"] for row in printed["predictions"]} == {answer, None}
        assert printed["model"]["weights"] == weights
        assert printed["out_dir"] == str(experiment / "predictions" / "photos")


def test_output_never_goes_into_the_input(run: Path, pictures: Path) -> None:
    before = sorted(pictures.rglob("*"))
    with pytest.raises(UsageError, match="inside the input"):
        predict.run_inference(str(pictures), str(run), out_dir=str(pictures / "out"))
    with pytest.raises(UsageError, match="inside the input"):
        predict.run_inference(str(run.parent), str(run))
    assert sorted(pictures.rglob("*")) == before


def test_none_readable_is_an_error_with_the_reasons_on_disk(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "a.png", tmp_path / "out"
    picture.write_text("no")
    assert predict.main([str(picture), f"--inference_ckpt={run}", f"--out_dir={out}"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: none of 1 pictures")
    assert "unreadable" in (out / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--inference_ckpt={run}"], 2, "nothing to classify"),
        (["--inference_dir={photos}"], 2, "--inference_ckpt"),
        (["--inference_dir={photos}", "--inference_ckpt={run}", "--top_k=0"], 2, "top_k"),
        (["--inference_dir={photos}", "--inference_ckp={run}"], 2, "--inference_ckpt"),
        (["--inference_dir={photos}/no", "--inference_ckpt={run}"], 3, "no such file"),
        (["--inference_dir={photos}", "--inference_ckpt={run}/no"], 5, "no run folder"),
        (
            ["--inference_dir={photos}", "--inference_ckpt={run}", "--weights=raw"],
            2,
            "ckpt-<images>",
        ),
        (["--inference_list={photos}/no.txt", "--inference_ckpt={run}"], 3, "no such list"),
    ],
)
def test_errors(
    run: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    filled = [word.format(run=run, photos=pictures) for word in words]
    assert predict.main(filled) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert text in printed.err


@pytest.mark.process
def test_command(run: Path, pictures: Path, tmp_path: Path) -> None:
    listing = tmp_path / "more.txt"
    listing.write_text("photos/4.png\n")
    out = tmp_path / "out"
    done = command(
        f"--inference_dir={pictures}",
        f"--inference_list={listing}",
        f"--inference_ckpt={run}",
        f"--out_dir={out}",
        "--top_k=1",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    written = json.loads((out / "predictions.json").read_text())
    assert printed["schema"] == 1
    assert printed["predictions"] == written["predictions"]
    assert len(printed["predictions"]) == 6
    assert printed["predictions"][0]["probability"] == printed["predictions"][5]["probability"]
    assert printed["accuracy"] == written["accuracy"]
    assert "could not be read" in done.stderr
    assert "wasp" in done.stderr


def test_a_second_run_where_pictures_are_expected_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What an unquoted RealMix_* turns into when two runs match.
    other = tmp_path / "RealMix_seed2"
    (other / "args").mkdir(parents=True)
    (other / "args" / "args.json").write_text("{}")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    words = [str(pictures), f"--inference_ckpt={tmp_path}", str(other)]
    assert predict.main(words) == 2
    assert "name one run" in capsys.readouterr().err
