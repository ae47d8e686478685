"""Commands as users type them, for tests: started, waited for, with bounds of the system."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def start(
    command: str,
    *words: object,
    cwd: Path = ROOT,
    prepare: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """Starts scripts/<command>.py; ``prepare`` is called in the child before it begins."""
    environment = {key: value for key, value in os.environ.items() if key != "ML_DATA"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{command}.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        preexec_fn=prepare,
    )


def run(
    command: str,
    *words: object,
    code: int = 0,
    cwd: Path = ROOT,
    prepare: Callable[[], None] | None = None,
    timeout: float = 120,
) -> tuple[str, str]:
    """Runs scripts/<command>.py to its end, which must be ``code`` and, if not 0, one error line.

    Returns:
      what it wrote to stdout and to stderr.
    """
    with start(command, *words, cwd=cwd, prepare=prepare) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    if code:
        assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1, err
        assert err.splitlines()[-1].startswith("error: "), err
    return out, err


def listing(folder: Path) -> list[str]:
    """Everything below a folder, hidden or not, by name."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def files_up_to(size: int) -> Callable[[], None]:
    """For ``prepare``: no file may grow past ``size`` bytes, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def mortal() -> None:
    """For ``prepare``: makes the permission bits of files count for root too."""
    drop_capability, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        if ctypes.CDLL(None).prctl(drop_capability, capability, 0, 0, 0):
            raise OSError("capabilities cannot be dropped")


def need_permissions(folder: Path) -> None:
    """Skips the test where permissions bind nobody; ``folder`` exists and can be changed."""
    folder.chmod(0)
    try:
        done = subprocess.run(["ls", folder], capture_output=True, preexec_fn=mortal)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("permissions do not bind this user")
    finally:
        folder.chmod(0o700)
    if done.returncode == 0:
        pytest.skip("permissions do not bind this user")
