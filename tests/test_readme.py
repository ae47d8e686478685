"""The tours of the documents: their commands work as written, on tiny folders."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^<!-- tested -->\n```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Appended to trainings: later flags win.
SHORT = (
    "--arch=small --filters=8 --batch=8 --train_kimg=0.125 --report_kimg=0.0625 --save_kimg=0.125"
)
CONSOLE = re.compile(r"^(realmix[a-z-]*) ")


def commands(text: str) -> list[str]:
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


def write_pictures(folder: Path, count: int, shade: int, seed: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        pixels = random.integers(0, 100, (20, 24, 3)) + shade
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


def run_all(lines: list[str], folder: Path) -> list[str]:
    """Runs a tour in a folder with pictures; returns what each command printed."""
    for part, count in (("train", 25), ("test", 4)):
        write_pictures(folder / "pets" / part / "cat", count, 0, ("train", "test").index(part))
        write_pictures(folder / "pets" / part / "dog", count, 150, 2 + count)
    write_pictures(folder / "pets" / "unlabeled", 12, 75, 3)
    write_pictures(folder / "holiday", 3, 0, 4)
    for name in ("scripts", "realmix.py"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    printed = []
    for command in lines:
        line = f"{command} {SHORT}" if " realmix.py --method" in command else command
        installed = CONSOLE.match(line)
        if installed and not (Path(sys.executable).parent / installed[1]).exists():
            module = installed[1].removeprefix("realmix-").replace("-", "_")
            code = f"import sys; from realmix_tf.cli.{module} import main; sys.exit(main())"
            line = f"python -c {shlex.quote(code)} {line.removeprefix(installed[0])}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return printed


@pytest.mark.process
def test_the_tour_works_as_written(tmp_path):
    lines = commands(README)
    assert len(lines) == 7
    printed = run_all(lines, tmp_path)
    assert "classified 3 of 3 pictures" in printed[4]
    reports = list(tmp_path.glob("experiments/*/*/report.html"))
    assert len(reports) == 3


@pytest.mark.process
def test_the_data_workshop_works_as_written(tmp_path):
    lines = commands((ROOT / "docs" / "data_workshop.md").read_text("utf-8"))
    assert len(lines) == 18
    printed = run_all(lines, tmp_path)
    assert "dry run: nothing was written" in printed[0]
    for name in ("pets.png", "pets_again", "pets/small", "data/more-train.tfrecord"):
        assert (tmp_path / name).exists(), name


def test_every_file_the_readme_names_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    scripts = re.findall(
        r"`((?:scripts|fully_supervised|presets|docs|realmix_tf)/[\w./-]+)`", README
    )
    assert len(links) > 5
    assert len(scripts) > 5
    for name in [*links, *scripts]:
        assert (ROOT / name).exists(), name


def test_every_console_script_of_the_readme_is_installed_by_the_package():
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in set(re.findall(r"`(realmix-[a-z-]+)`", README)):
        assert re.search(rf"^{name} = ", declared, re.MULTILINE), name


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for name in set(re.findall(r"`?make (\w+)\b(?:`|  )", README)):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
