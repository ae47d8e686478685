"""Chains of commands: every step is a real command, shown as a user types it, and never repeated.

A step that ended well leaves a record: the command, the SHA-256 of the files it read and wrote, and
its result. While all of these are unchanged the step is skipped, so a chain that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from realmix_tf import version
from realmix_tf.cli import app
from realmix_tf.errors import DataError, RealmixError
from realmix_tf.files import read_json, sha256_file, write_json

# What a training leaves and later steps rely on, below its run folder.
RUN_FILES = ("stats/evaluation.json", "model/model.json", "model/weights.npz", "report.html")


class StepFailed(RealmixError):
    """A command of a chain failed or was stopped; its own message was shown."""

    def __init__(self, command: str, code: int) -> None:
        ended = "was stopped" if code in (130, 143) else "failed, see above"
        super().__init__(f"this step {ended}; what was done before it is kept", command)
        self.exit_code = code


def place(path: str | os.PathLike[str], root: Path) -> Path:
    """A user's path as commands that run in ``root`` read it, as short as possible."""
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(root) if absolute.is_relative_to(root) else absolute


class Steps:
    """A chain of commands.

    Args:
      folder: receives the records of the steps.
      root: the project's folder; commands run in it, and their paths count from it.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root

    def command(
        self,
        name: str,
        words: Sequence[str],
        inputs: Iterable[Path] = (),
        outputs: Iterable[Path] = (),
    ) -> dict[str, Any]:
        """Runs a command that builds data, unless it is done. It is given --overwrite where needed.

        Args:
          name: of the step, unique in the chain.
          words: the script and its flags.
          inputs: files it reads.
          outputs: files it writes.

        Returns:
          The step's record, with ``seconds``.
        """
        record = self._done(name, words, inputs)
        if record is None:
            files = list(outputs)
            again = ["--overwrite"] if any(self._path(path).exists() for path in files) else []
            begin = time.monotonic()
            self._start(name, words, inputs)
            self._run([*words, *again])
            record = self._finish(name, words, inputs, files, {}, begin)
        return record

    def training(
        self, name: str, words: Sequence[str], inputs: Iterable[Path] = ()
    ) -> dict[str, Any]:
        """Runs a training, or continues it, unless it is done.

        Args:
          name: of the step, unique in the chain.
          words: the script and its flags, without --json.
          inputs: files it reads.

        Returns:
          The step's record, with ``result`` (what the command printed as JSON) and ``seconds``.
        """
        words = [*words, "--json"]
        record = self._done(name, words, inputs)
        if record is None:
            before = self._record(name)
            # A run of other data, or whose results were changed, cannot be continued.
            stale = before is not None and (
                "outputs" in before or before["inputs"] != self._hashes(inputs)
            )
            begin = time.monotonic()
            self._start(name, words, inputs)
            result = _result([*words], self._run([*words, *(["--fresh"] if stale else [])], True))
            files = [Path(result["run"], file) for file in RUN_FILES]
            record = self._finish(name, words, inputs, files, result, begin)
        return record

    def query(
        self, name: str, words: Sequence[str], inputs: Iterable[Path], outputs: Iterable[Path]
    ) -> dict[str, Any]:
        """Runs a command for its JSON result, unless it is done.

        Args and returns: as ``training``; ``outputs`` are the files it writes.
        """
        words = [*words, "--json"]
        record = self._done(name, words, inputs)
        if record is None:
            begin = time.monotonic()
            self._start(name, words, inputs)
            result = _result(words, self._run(words, True))
            record = self._finish(name, words, inputs, list(outputs), result, begin)
        return record

    def _path(self, path: Path) -> Path:
        return self._root / path

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            value = read_json(self._file(name))
        except DataError:
            return None
        known = isinstance(value, dict) and {"command", "inputs", "version"} <= set(value)
        return value if known else None

    def _hashes(self, paths: Iterable[Path]) -> dict[str, str]:
        return {str(path): sha256_file(self._path(path)) for path in paths}

    def _done(
        self, name: str, words: Sequence[str], inputs: Iterable[Path]
    ) -> dict[str, Any] | None:
        record = self._record(name)
        if record is None or "outputs" not in record:
            return None
        if record["command"] != list(words) or record["version"] != version.__version__:
            return None
        try:
            unchanged = record["inputs"] == self._hashes(inputs) and record[
                "outputs"
            ] == self._hashes(map(Path, record["outputs"]))
        except RealmixError:  # a file is missing
            return None
        if not unchanged:
            return None
        app.note(f"done before: {_shown(words)}")
        return record

    def _start(self, name: str, words: Sequence[str], inputs: Iterable[Path]) -> None:
        write_json(self._file(name), self._head(words, inputs))

    def _head(self, words: Sequence[str], inputs: Iterable[Path]) -> dict[str, Any]:
        return {
            "schema": 1,
            "version": version.__version__,
            "command": list(words),
            "inputs": self._hashes(inputs),
        }

    def _finish(
        self,
        name: str,
        words: Sequence[str],
        inputs: Iterable[Path],
        outputs: Iterable[Path],
        result: dict[str, Any],
        begin: float,
    ) -> dict[str, Any]:
        seconds = round(time.monotonic() - begin, 1)
        record = self._head(words, inputs) | {
            "outputs": self._hashes(outputs),
            "result": result,
            "seconds": seconds,
        }
        write_json(self._file(name), record)
        return record

    def _run(self, words: Sequence[str], keep: bool = False) -> str:
        """Runs a command and returns its stdout if it is kept; else that is shown on stderr.

        Raises:
          StepFailed: the command failed; its exit code is passed on.
        """
        app.note(f"$ {_shown(words)}")
        out = subprocess.PIPE if keep else sys.stderr
        with (
            subprocess.Popen(
                [sys.executable, *words], cwd=self._root, stdout=out, text=True
            ) as run,
            _signals_for(run),
        ):
            text = run.communicate()[0]
        if run.returncode:
            # A negative code is the signal that ended it; shells add it to 128.
            code = run.returncode if run.returncode > 0 else 128 - run.returncode
            raise StepFailed(_shown(words), code)
        return text or ""


@contextlib.contextmanager
def _signals_for(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leaves stopping to the command, which saves its work: this process waits for it."""
    # Ctrl-C reaches the whole group, so the command has it already; SIGTERM is passed on.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _result(words: Sequence[str], text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError("the command did not print JSON", _shown(words)) from error
    if not isinstance(value, dict):
        raise DataError("the command did not print a JSON object", _shown(words))
    return value


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["python", *words])
