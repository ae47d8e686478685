"""The Makefile on machines that are not ready, with stand-ins for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = """#!/bin/sh
case "$*" in
  *version_info*) exit {unsupported} ;;
  *ensurepip*) exit {cannot} ;;
  *--version*) echo "Python 3.12.0" ;;
  *print*) echo "{print}" ;;
  "-m venv --clear .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >> calls ;;
  *"pip "*" install"*) echo pip >> calls; exit {pip} ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def stand_in(path: Path, **answers: object) -> Path:
    given = {"unsupported": 0, "cannot": 0, "print": "3.12", "pip": 0} | answers
    path.write_text(STAND_IN.format(**given))
    path.chmod(0o755)
    return path


@pytest.fixture
def project(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    stand_in(tmp_path / "python3.12")
    return tmp_path


def make(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # Only the stand-ins count as Python; the shell and its tools are still found.
    tools = project / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sh", "mkdir", "cp", "rm", "touch", "find", "test", "echo"):
        if (found := shutil.which(name)) and not (tools / name).exists():
            (tools / name).symlink_to(found)
    environment = {"PATH": f"{project}:{tools}", "HOME": os.environ.get("HOME", "/")}
    program = shutil.which("make")
    assert program
    return subprocess.run(
        [program, *words], cwd=project, env=environment, capture_output=True, text=True
    )


def calls(project: Path) -> list[str]:
    path = project / "calls"
    return path.read_text().split() if path.exists() else []


def test_a_second_call_installs_nothing(project):
    first = make(project, "env")
    assert first.returncode == 0, first.stderr
    assert "Python 3.12.0" in first.stdout
    assert calls(project) == ["venv", "pip"]
    again = make(project, "env")
    assert again.returncode == 0, again.stderr
    assert calls(project) == ["venv", "pip"]


def test_changed_requirements_are_installed(project):
    make(project, "env")
    later = (project / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(project / "requirements.txt", (later, later))
    make(project, "env")
    assert calls(project) == ["venv", "pip", "pip"]


def test_an_interrupted_installation_is_made_anew(project):
    stand_in(project / "python3.12", pip=1)
    assert make(project, "env").returncode != 0
    stand_in(project / "python3.12")
    assert make(project, "env").returncode == 0
    assert calls(project) == ["venv", "pip", "venv", "pip"]


def test_a_broken_environment_is_made_anew(project):
    make(project, "env")
    (project / ".venv" / "bin" / "python").unlink()
    assert make(project, "env").returncode == 0
    assert calls(project) == ["venv", "pip", "venv", "pip"]


def test_another_python_makes_another_environment(project):
    make(project, "env")
    stand_in(project / "other", print="3.11")
    assert make(project, "env", "PYTHON=./other").returncode == 0
    assert calls(project) == ["venv", "pip", "venv", "pip"]


@pytest.mark.parametrize(
    ("answers", "words", "message"),
    [
        ({"unsupported": 1}, [], "no Python 3.10, 3.11, 3.12 or 3.13 was found"),
        ({"unsupported": 1}, ["PYTHON=python3.12"], "is not a Python from 3.10 to 3.13"),
        ({"cannot": 1}, [], "ensurepip is missing"),
    ],
)
def test_a_machine_that_is_not_ready(project, answers, words, message):
    stand_in(project / "python3.12", **answers)
    done = make(project, "env", *words)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not (project / ".venv").exists()
