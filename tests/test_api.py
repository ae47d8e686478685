"""The Python API: its page's example runs, and its errors name what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from realmix_tf import api
from realmix_tf.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python_api.md"


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.process
def test_the_example_of_the_page_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    done = python(blocks[0], tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str({str(digit): 4 for digit in range(10)})
    assert 0 <= float(lines[1].split()[0]) <= 1
    assert (tmp_path / lines[1].split()[1]).is_file()
    assert [line.split()[0] for line in lines[2:]] == [f"pictures/{i}.png" for i in range(6)]


def test_importing_the_api_does_not_import_tensorflow(tmp_path):
    code = "import sys; import realmix_tf.api; sys.exit('tensorflow' in sys.modules)"
    assert python(code, tmp_path).returncode == 0


def test_build_and_split_digits(tmp_path):
    built = api.build_digits(tmp_path)
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
    with pytest.raises(UsageError, match="not a dataset name"):
        api.train("digits", tmp_path)
