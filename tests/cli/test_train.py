"""``realmix.py`` through its real command line: training, resuming, refusing."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import squares

from realmix_tf.cli.train import main

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.process


def command(*words: str, script: str = "realmix.py") -> list[str]:
    return [sys.executable, str(ROOT / script), *words]


def run(*words: str, script: str = "realmix.py", **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, script=script), capture_output=True, text=True, timeout=200, **more
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares.write_split(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """An uninterrupted RealMix run: its folder, its JSON result, its stderr."""
    train_dir = tmp_path_factory.mktemp("whole")
    done = run("--json", *REALMIX, *squares.small_flags(data, train_dir))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return Path(result["run"]), result, done.stderr


REALMIX = ["--method=realmix", "--warmup_kimg=0.5", "--percent_mask=0.2", "--tsa=linear_schedule"]


def tensors(folder: Path, images: int = 1024) -> dict[str, bytes]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "tf" / f"model.ckpt-{images:08d}"))
    return {name: reader.get_tensor(name).tobytes() for name in reader.get_variable_to_shape_map()}


def test_training_leaves_the_whole_run_folder(finished) -> None:
    folder, result, stderr = finished
    assert result["images"] == 1024
    assert result["updates_trained_now"] == 64
    assert set(result["accuracy"]) == {"labeled", "valid", "test"}
    assert result["accuracy"]["test"] > 0.6
    for name in (
        "args/args.json",
        "env.json",
        "metrics.jsonl",
        "timing.jsonl",
        "stats/accuracy.json",
        "stats/evaluation.json",
        "report.html",
        "model/model.json",
        "model/weights.npz",
        "views/labeled.npz",
        "views/unlabeled_weak1.npz",
        "views/unlabeled_doubtful.npz",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tf").glob("events.*"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [256, 512, 768, 1024]
    assert 0.7 < lines[0]["train"]["kept/unlabeled"] < 0.9
    assert "2 classes" not in stderr
    assert "12 labeled, 98 unlabeled, 10 valid, 60 test; 3 classes" in stderr
    assert "images/s" in stderr


def test_the_same_command_again_says_it_is_finished(finished, data: Path) -> None:
    folder, result, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("model.ckpt-*")}
    again = run("--json", *REALMIX, *squares.small_flags(data, folder.parents[1]))
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stderr
    assert json.loads(again.stdout)["accuracy"] == result["accuracy"]
    assert json.loads(again.stdout)["updates_trained_now"] == 0
    assert {path: path.read_bytes() for path in folder.rglob("model.ckpt-*")} == before


def test_a_dry_run_writes_nothing_and_refuses_what_the_run_would(
    finished, data: Path, tmp_path: Path
) -> None:
    words = ["--json", "--dry_run", *REALMIX, *squares.small_flags(data, tmp_path / "runs")]
    planned = run(*words)
    assert planned.returncode == 0, planned.stderr
    assert not (tmp_path / "runs").exists()
    plan = json.loads(planned.stdout)
    assert plan["facts"]["images"] == {"labeled": 12, "unlabeled": 98, "valid": 10, "test": 60}
    assert (plan["facts"]["seen"], plan["facts"]["planned"]) == (0, 1024)
    assert plan["seconds"] > 0
    assert {use["bytes"] for use in plan["reads"]} == {
        Path(use["path"]).stat().st_size for use in plan["reads"]
    }
    folder = finished[0]
    (name,) = {Path(use["path"]).name for use in plan["writes"]}
    assert name == folder.name
    size = sum(path.stat().st_size for path in folder.glob("tf/model.ckpt-*.data*"))
    assert 0.9 < plan["writes"][0]["bytes"] / size < 1.1
    refused = run(*words, "--batch=4096")
    assert refused.returncode == 2
    assert "less than one update" in refused.stderr


def test_settings_for_longer_runs_are_named_before_one_starts(data: Path, tmp_path: Path) -> None:
    words = ["--dry_run", *squares.small_flags(data, tmp_path), "--train_kimg=2", "--report_kimg=1"]
    long_enough = run(*words, "--method=mixmatch", "--warmup_kimg=1")
    assert "few for" not in long_enough.stderr
    assert "warmup" not in long_enough.stderr
    short = run(*words, "--method=mixmatch", "--ema=0.999", "--epochs=1")
    assert short.returncode == 0
    assert "note: 64 updates are few for --ema=0.999, averages over the last 1000; " in short.stderr
    assert "try: --ema=0.84\n" in short.stderr
    assert (
        "ends at 1 kimg, before --warmup_kimg=1024 is over; try: --warmup_kimg=1 or less\n"
        in short.stderr
    )


def test_killed_again_and_again_it_ends_bit_for_bit_the_same(
    finished, data: Path, tmp_path: Path
) -> None:
    whole, _, _ = finished
    words = command("--json", *REALMIX, *squares.small_flags(data, tmp_path))
    rng = random.Random(3)
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "first update" in line:
                break
        time.sleep(rng.random() * 0.7)
        process.send_signal(kill)
        rest = process.stderr.read()
        code = process.wait()
        if code == 0:
            break
        assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(kill, -9), rest
        if kill != signal.SIGKILL:
            assert "try: the same command again" in rest.splitlines()[-1]
    last = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert last.returncode == 0, last.stderr
    resumed = Path(json.loads(last.stdout)["run"])
    assert tensors(resumed) == tensors(whole)
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_killed_run_that_learns_its_augmentation_ends_bit_for_bit_the_same(
    data: Path, tmp_path: Path, devices: int
) -> None:
    method = ["--method=fixmatch", "--uratio=2", "--confidence=0.5", "--train_kimg=0.5"]
    method.append(f"--devices={devices}")
    folders = []
    for name, kill in (("whole", False), ("killed", True)):
        flags = squares.small_flags(data, tmp_path / name)
        words = command("--json", *flags, *method)
        if kill:
            process = subprocess.Popen(
                words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
            )
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("kimg"):  # past the first checkpoints
                    process.kill()
                    break
            process.wait()
        done = subprocess.run(words, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert ("continuing from" in done.stderr) == kill
        folders.append(Path(json.loads(done.stdout)["run"]))
    values = [tensors(folder, 512) for folder in folders]
    assert values[0]["augment/rates"] != bytes(len(values[0]["augment/rates"]))
    assert values[0] == values[1]
    whole, killed = ((folder / "metrics.jsonl").read_bytes() for folder in folders)
    assert whole == killed


def test_two_devices_train_what_one_trains(data: Path, tmp_path: Path) -> None:
    words = ["--json", *squares.small_flags(data, tmp_path), "--method=uda", "--uratio=2"]
    reports, models = [], []
    for devices in (1, 2):
        done = run(*words, "--train_kimg=0.25", f"--devices={devices}")
        assert done.returncode == 0, done.stderr
        assert ("as 2 devices" in done.stderr) == (devices == 2)
        folder = Path(json.loads(done.stdout)["run"])
        reports.append(json.loads((folder / "metrics.jsonl").read_text()))
        models.append(np.load(folder / "model" / "weights.npz"))
        assert ("devices2" in folder.name) == (devices == 2)
    one, two = (report["train"] for report in reports)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name in models[0]:
        np.testing.assert_allclose(models[1][name], models[0][name], rtol=1e-2, atol=1e-3)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    finished, data: Path, tmp_path: Path
) -> None:
    whole, _, _ = finished
    copy = tmp_path / whole.parent.name / whole.name
    shutil.copytree(whole, copy)
    newest = copy / "tf" / "model.ckpt-00001024.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    done = run("--json", *REALMIX, *squares.small_flags(data, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert "continuing from model.ckpt-00000896" in done.stderr
    assert tensors(copy) == tensors(whole)
    assert (copy / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()

    for mark in (copy / "tf").glob("model.ckpt-*.json"):
        mark.write_text("{")
    refused = run(*REALMIX, *squares.small_flags(data, tmp_path))
    assert refused.returncode == 5
    assert "none of the checkpoints can be used" in refused.stderr


def test_other_settings_or_data_do_not_continue_a_run(finished, data: Path, tmp_path: Path) -> None:
    whole, _, _ = finished
    shutil.copytree(whole, tmp_path / "squares.1@12-10" / whole.name)
    other = squares.write_split(tmp_path / "other", total=119)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    refused = run(*REALMIX, *squares.small_flags(other, tmp_path))
    assert refused.returncode == 5
    assert "this run was started with" in refused.stderr
    fresh = [*REALMIX, *squares.small_flags(data, tmp_path), "--fresh", "--baseline=nowhere"]
    assert run(*fresh).returncode == 3
    for path, content in before.items():
        assert path.read_bytes() == content


def test_a_second_process_on_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    words = ["--method=supervised", *squares.small_flags(data, tmp_path), "--train_kimg=4000"]
    first = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        for line in first.stderr:
            if "first update" in line:
                break
        second = run(*words)
        assert second.returncode == 4
        assert f"process {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_a_loss_that_is_not_finite_stops_with_its_own_code(data: Path, tmp_path: Path) -> None:
    done = run("--method=supervised", *squares.small_flags(data, tmp_path), "--lr=1e30")
    assert done.returncode == 6, done.stderr
    assert "no finite gradient" in done.stderr
    assert "a smaller --lr" in done.stderr
    for line in next(tmp_path.rglob("metrics.jsonl"), Path(os.devnull)).read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))


def test_the_baselines_have_their_own_commands(data: Path, tmp_path: Path) -> None:
    flags = [
        word
        for word in squares.small_flags(data, tmp_path)
        if not word.startswith(("--dataset", "--train_kimg"))
    ]
    for script in ("fs_baseline", "fs_mixup"):
        done = run(
            "--json",
            "--dataset=squares-20",
            "--train_kimg=0.5",
            "--nclass=3",
            "--img_size=8",
            "--custom_dataset",
            "--train_record=squares-train.tfrecord",
            "--test_record=squares-test.tfrecord",
            *flags,
            script=f"fully_supervised/{script}.py",
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["images"] == 512


def test_eval_ckpt_prints_raw_averaged_and_reestimated(finished, data: Path) -> None:
    folder, result, _ = finished
    prefix = folder / "tf" / "model.ckpt-00001024"
    done = run("--json", f"--eval_ckpt={prefix}", *squares.small_flags(data, folder.parents[1]))
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert set(values) == {"schema", "raw", "ema", "tuned_raw", "tuned_ema"}
    assert values["ema"]["test"] == pytest.approx(result["accuracy"]["test"])
    assert set(values["tuned_raw"]) == {"labeled", "valid", "test"}


def test_fine_tuning_starts_from_all_but_the_head(finished, data: Path, tmp_path: Path) -> None:
    folder, _, _ = finished
    flags = [*squares.small_flags(data, tmp_path), "--lr=0", "--wd=0", "--train_kimg=0.25"]
    done = run("--json", "--method=supervised", f"--load_checkpoint={folder}", *flags)
    assert done.returncode == 0, done.stderr
    new = np.load(Path(json.loads(done.stdout)["run"]) / "model" / "weights.npz")
    old = np.load(folder / "model" / "weights.npz")
    np.testing.assert_array_equal(new["conv3/kernel"], old["conv3/kernel"])
    assert not np.array_equal(new["head/kernel"], old["head/kernel"])


def test_a_fine_tuned_run_needs_its_donor_only_to_start(
    finished, data: Path, tmp_path: Path
) -> None:
    folder, _, _ = finished
    runs = []
    for name in ("one", "two"):
        donor = tmp_path / name / "model"
        shutil.copytree(folder / "model", donor)
        words = ["--json", "--method=supervised", f"--load_checkpoint={donor}"]
        words += [*squares.small_flags(data, tmp_path / "runs"), "--train_kimg=0.25"]
        started = run(*words)
        assert started.returncode == 0, started.stderr
        shutil.rmtree(donor)
        again = run(*words)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["updates_trained_now"] == 0
        runs.append(json.loads(again.stdout)["run"])
    assert runs[0] != runs[1]
    refused = run(*words, "--fresh")
    assert refused.returncode == 5
    assert "for --load_checkpoint" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--methd=realmix"], 2, "--method"),
        (["--method=relmix"], 2, "--method=realmix"),
        (["--percent_mask=2"], 2, "--percent_mask"),
        (["--method=fixmtach"], 2, "--method=fixmatch"),
        (["--method=fixmatch", "--confidence=1.5"], 2, "--confidence"),
        (["--method=fixmatch"], 2, "an update reads 112 unlabelled images but there are 98"),
        (["--method=fixmatch", "--uratio=0"], 2, "--uratio"),
        (["--method=fixmatch", "--dataset=squares-10"], 2, "reads unlabelled images"),
        (["--method=remixmatch", "--batch=14"], 2, "do not divide into 4 blocks"),
        (["--method=freematch", "--clip_low=0.9", "--clip_high=0.5", "--uratio=2"], 2, "--clip"),
        (["--method=mixmatch", "--p_unlabeled=0.5,0.5"], 2, "--p_unlabeled"),
        (["--method=remixmatch", "--nouse_dm", "--p_unlabeled=1"], 2, "leave out --nouse_dm"),
        (["--recipe=lion"], 2, "--recipe"),
        (["--augment=d.d.rax"], 2, "strong slot"),
        (["--augment=d.rac.d"], 2, "weak slot"),
        (["--augment=d.d.rac"], 2, "realmix reads no strong view, so rac would do nothing"),
        (["--dataset=squares"], 2, "is not a dataset name"),
        (["--dataset=circles.1@12-10"], 3, "create_datasets"),
        (["--nclass=7"], 2, "--nclass is 7 but the data have 3 classes"),
        (["--batch=512", "--train_kimg=8", "--report_kimg=8", "--save_kimg=8"], 2, "--batch"),
        (["--augment=stl10"], 2, "needs images of 13 pixels"),
        (["--load_checkpoint=nowhere"], 5, "nowhere"),
        (["--baseline=nowhere"], 3, "there is no such run folder"),
        (["--label_size=13"], 2, "--label_size is 13 but"),
    ],
)
def test_bad_requests_end_in_one_line_and_their_code(
    words: list[str],
    code: int,
    expected: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In this process: TensorFlow starts once instead of once a case.
    assert main([*squares.small_flags(data, tmp_path), *words]) == code
    stderr = capsys.readouterr().err
    error = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert expected in error[0]
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())  # no run folder is left behind


def test_help_is_quick_and_needs_no_tensorflow() -> None:
    code = (
        "import sys; from realmix_tf.cli.train import main; "
        "assert main(['--method=mixmatch', '--help']) == 0; "
        "assert not any(m.split('.')[0] in ('tensorflow', 'keras') for m in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--w_match" in done.stdout
    assert "--tsa" not in done.stdout


def test_help_shows_the_method_s_own_recipe_and_the_one_asked_for(capsys) -> None:
    for words, lr, decay in (
        (["--method=fixmatch"], "0.03", "l2"),
        (["--method=fixmatch", "--recipe=adam"], "0.002", "decoupled"),
        (["--method=mixmatch"], "0.002", "decoupled"),
        (["--method=mixmatch", "--recipe=sgd"], "0.03", "l2"),
    ):
        assert main([*words, "--help"]) == 0
        out = capsys.readouterr().out
        assert re.search(rf"^  --lr .*\(default: {lr}\)$", out, re.MULTILINE)
        assert re.search(rf"^  --wd_mode .*\(default: {decay}\)$", out, re.MULTILINE)
        groups = re.findall(r"^(\w.*):$", out, re.MULTILINE)
        assert groups[0].startswith(f"{words[0].partition('=')[2]}: ")
        assert groups[1:3] == ["data", "optimisation"]
        assert groups[3] in ("augmentation (auto: d.d.ctac)", "augmentation (auto: d.d.d)")
        assert groups[-1] == "other flags"


def test_a_record_damaged_under_a_run_that_reads_from_its_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares.write_split(tmp_path / "data")
    path = data / "SSL" / "squares.1@12-unlabel.tfrecord"
    # Without a manifest nothing but the record's own checksum can tell.
    Path(f"{path}.json").unlink()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    flags = [*squares.small_flags(data, tmp_path), "--nomemoize", "--dataset=squares.1@12-0"]
    assert main(["--method=mixmatch", *flags]) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "record" in error
    assert path.name in error
