"""The Python API: its page's example runs, and its errors name what to do."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags
from PIL import Image

from realmix_tf import api
from realmix_tf.cli import train
from realmix_tf.errors import UsageError
from realmix_tf.methods.registry import FILES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python_api.md"


def run_python(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python(["-c", code], cwd)


@pytest.mark.process
def test_the_example_of_the_page_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    done = python(blocks[0], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str({str(digit): 4 for digit in range(10)})
    assert 0 <= float(lines[1].split()[0]) <= 1
    assert (tmp_path / lines[1].split()[1]).is_file()
    assert [line.split()[0] for line in lines[2:]] == [f"pictures/{i}.png" for i in range(6)]
    own = python(blocks[1], tmp_path)
    assert own.returncode == 0, own.stderr
    assert own.stdout.splitlines()[-1] == "mynet"
    folder = next(tmp_path.glob("experiments/digits.1@40-100/Supervised_archmynet*"))
    elsewhere = python(f"from realmix_tf import api; api.load({str(folder)!r})", tmp_path)
    assert "register_network('mynet', builder)" in elsewhere.stderr


@pytest.mark.process
def test_the_worked_example_of_a_method_runs(tmp_path):
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    done = python(blocks[0], tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy, report = done.stdout.split()
    assert 0 <= float(accuracy) <= 1
    lines = (tmp_path / report).parent.joinpath("metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])["train"]
    assert last["loss/entropy"] > 0
    assert last["confidence/max"] > 0.1


def test_every_method_stands_in_the_table_of_the_page():
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert rows == [file.__name__.rpartition(".")[2] for file in FILES]


def test_importing_the_api_does_not_import_tensorflow(tmp_path):
    code = "import sys; import realmix_tf.api; sys.exit('tensorflow' in sys.modules)"
    assert python(code, tmp_path).returncode == 0


def test_build_and_split_digits(tmp_path):
    built = api.build_benchmark("digits", tmp_path)
    assert not built.already_there
    assert api.build_digits(tmp_path).already_there
    drawn = api.split("digits", 20, tmp_path, seed=1)
    assert drawn.label_file == tmp_path / "SSL" / "digits.1@20-label.tfrecord"
    assert sum(drawn.labeled.values()) == 20
    with pytest.raises(UsageError):
        api.split("digits", 20, tmp_path, seed=1)
    api.split("digits", 20, tmp_path, seed=1, overwrite=True)


def test_an_unknown_option_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"'class_balanced'.*try: class_balance"):
        api.split("digits", 20, tmp_path, class_balanced=True)
    with pytest.raises(UsageError, match=r"'percent_masks'.*try: percent_mask"):
        api.train("digits.1@20-0", tmp_path, percent_masks=0.5)
    with pytest.raises(UsageError, match="percent_mask"):
        api.train("digits.1@20-0", tmp_path, method="supervised", percent_mask=0.5)


def test_options_are_checked_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="--percent_mask"):
        api.train("digits.1@20-0", tmp_path, percent_mask=2.0)
    with pytest.raises(UsageError, match="'no' is not True or False"):
        api.train("digits.1@20-0", tmp_path, ema_guess="no")
    with pytest.raises(UsageError, match="is not a whole number"):
        api.train("digits.1@20-0", tmp_path, seed=1.5)
    with pytest.raises(UsageError, match="not a dataset name"):
        api.train("digits", tmp_path)


def test_the_size_of_own_pictures_has_one_name(tmp_path):
    with pytest.raises(UsageError, match=r"no option 'size'.*try: img_size"):
        api.build_custom("pets", tmp_path, tmp_path, tmp_path, size=(32, 32))


@pytest.mark.process
def test_a_plain_script_decodes_pictures_in_processes(tmp_path):
    """Without a guard against being imported, which a script of three lines does not have."""
    for place, color in {"train/a": 10, "train/b": 90, "test/a": 20, "test/b": 80}.items():
        folder = tmp_path / place
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (color, 0, 0)).save(folder / "picture.png")
    script = tmp_path / "script.py"
    script.write_text(
        "from realmix_tf import api\n"
        'print("here")\n'
        'print(api.build_custom("pets", "data", "train", "test").facts["labeled"])\n'
    )
    done = run_python([str(script)], tmp_path)
    assert done.stdout == "here\n2\n", done.stderr


@pytest.fixture
def requested(monkeypatch):
    """The requests that ``api.train`` makes; nothing is trained."""
    from realmix_tf import run

    requests = []
    monkeypatch.setattr(run, "run", requests.append)
    return requests


def test_what_to_read_is_an_option_under_its_flags_name(tmp_path, requested):
    api.train(
        "digits.1@20-0",
        tmp_path,
        class_mapping=tmp_path / "names.json",
        nclass=10,
        img_size=8,
        memoize=False,
        train_record="a.tfrecord",
        test_record="b.tfrecord",
    )
    data = requested[0].data
    assert (data.num_classes, data.image_size, data.in_memory) == (10, 8, False)
    assert data.class_mapping == str(tmp_path / "names.json")
    assert (data.train_record, data.test_record) == ("a.tfrecord", "b.tfrecord")


def test_the_command_of_a_run_is_complete(tmp_path, requested):
    api.train("digits.1@20-0", tmp_path, baseline="b", load_checkpoint="c", fresh=True, seed=3)
    api.train("digits.1@20-0", tmp_path)
    long, short = (request.command for request in requested)
    assert {"--baseline=b", "--load_checkpoint=c", "--fresh=True", "--seed=3"} <= set(long)
    assert short == (
        "realmix",
        "--method=realmix",
        "--dataset=digits.1@20-0",
        f"--data_dir={tmp_path}",
        "--train_dir=experiments",
    )


@pytest.mark.parametrize("method", ["realmix", "mixup_supervised"])
def test_the_page_states_which_flags_are_options(tmp_path, requested, method):
    values = absl_flags.FlagValues()
    train._define(values, method, "cifar10-5000", True)
    table = re.findall(r"^\| (`.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    refused = set(re.findall(r"`(\w+)`", " ".join(table)))
    shared = {"json", "debug", "help", "version", "flagfile"}
    assert shared <= refused <= shared | set(values)
    own = set(inspect.signature(api.train).parameters) - {"options"}
    accepted = {name: values[name].value for name in set(values) - refused - own}
    api.train("digits.1@20-0", tmp_path, method=method, **accepted)
    assert len(requested) == 1
    for name in refused:
        with pytest.raises(UsageError, match=f"no option '{name}'"):
            api.train("digits.1@20-0", tmp_path, method=method, **{name: 1})
