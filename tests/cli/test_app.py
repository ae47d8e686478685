"""What every command shares: flags, help, one-line errors, exit codes, --json."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags as absl_flags

from realmix_tf import errors, version
from realmix_tf.cli import app, options
from realmix_tf.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]


def define(values: absl_flags.FlagValues) -> None:
    app.define_data_dir(values)
    options.define_fields(values, TrainSettings, {"lr": 0.03})


def execute(words: list[str], run=lambda values, rest: None) -> int:
    return app.execute("tool", "does a thing", define, run, words, "FILE…")


def raising(error: BaseException):
    def run(values, rest):
        raise error

    return run


def one_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err[len("error: ") : -1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.ResourceError("x"), 4),
        (errors.CheckpointError("x"), 5),
        (errors.DivergedError("x"), 6),
        (errors.Interrupted(15, "x"), 143),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 4),
        (PermissionError(errno.EACCES, "Permission denied", "a.bin"), 4),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.bin"), 3),
    ],
    ids=repr,
)
def test_every_error_is_one_line_on_stderr_with_its_exit_code(capsys, error, code):
    assert execute([], raising(error)) == code
    text = one_line(capsys)
    if isinstance(error, OSError):
        assert "a.bin" in text


def test_ctrl_c_exits_with_130(capsys):
    assert execute([], raising(KeyboardInterrupt())) == 130
    text = "interrupted; what is not complete does not count as finished"
    assert capsys.readouterr().err == f"{text}; try: the same command again\n"


def test_sigterm_cleans_up_and_exits_with_143(capsys):
    assert execute([], raising(app.Terminated())) == 143
    assert "interrupted" in capsys.readouterr().err


def test_control_characters_in_an_error_are_escaped(capsys):
    assert execute([], raising(errors.DataError("bad\x1b[2J\nname", "a\rb"))) == 3
    assert one_line(capsys) == r"bad\x1b[2J\nname (a\rb)"


def test_debug_shows_the_trace_and_the_same_line(capsys):
    assert execute(["--debug"], raising(errors.DataError("bad"))) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: bad\n")


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--batchsize=3", "--batch"),
        ("--train_kim=3", "--train_kimg"),
        ("--datadir=x", "--data_dir"),
    ],
)
def test_a_misspelt_flag_gets_the_nearest(capsys, word, nearest):
    assert execute([word]) == 2
    assert one_line(capsys) == f"there is no flag {word.partition('=')[0]}; try: {nearest}"


@pytest.mark.parametrize(
    "words",
    [
        ["--batch=many"],
        ["--lr=fast"],
        ["--batch"],
        ["--json=perhaps"],
        ["--flagfile=missing.txt"],
        ["--zzzzzz"],
    ],
)
def test_a_value_that_does_not_fit_is_a_usage_error(capsys, words):
    assert execute(words) == 2
    assert "tool --help" in one_line(capsys)


def test_flags_come_from_the_words_or_a_file_and_the_rest_are_arguments(tmp_path):
    seen = {}

    def run(values, rest):
        seen.update(batch=values["batch"].value, lr=values["lr"].value, rest=rest)

    file = tmp_path / "preset.flags"
    file.write_text("# a preset\n--batch=7\n--lr=0.5\n")
    assert execute(["a.png", f"--flagfile={file}", "--lr", "0.25", "b.png"], run) == 0
    assert seen == {"batch": 7, "lr": 0.25, "rest": ["a.png", "b.png"]}


def test_a_flag_file_that_cannot_be_read_is_named_and_the_nearest_offered(tmp_path, capsys):
    (tmp_path / "cifar10_250_fixmatch.flags").write_text("--lr=0.5\n")
    (tmp_path / "bytes.flags").write_bytes(b"--lr=\xff\xfe\n")
    misspelt = tmp_path / "cifar10_250_fixmach.flags"
    assert execute([f"--flagfile={misspelt}"]) == 2
    line = one_line(capsys)
    assert line.startswith(f"cannot read the flag file: No such file or directory ({misspelt})")
    assert line.endswith(f"try: --flagfile={tmp_path / 'cifar10_250_fixmatch.flags'}")
    assert execute([f"--flagfile={tmp_path / 'gone' / 'a.flags'}"]) == 2
    assert "try: tool --help" in one_line(capsys)
    assert execute([f"--flagfile={tmp_path / 'bytes.flags'}"]) == 2
    assert f"the flag file is not text ({tmp_path / 'bytes.flags'})" in one_line(capsys)


def test_help_names_every_flag_its_default_and_the_exit_codes(capsys):
    assert execute(["--help"], raising(AssertionError("must not run"))) == 0
    text = capsys.readouterr().out
    assert text.startswith("tool: does a thing\n")
    assert "usage: tool [flags] FILE…" in text
    for name, item in TrainSettings.__dataclass_fields__.items():
        assert f"--{name}" in text
        assert item.metadata["help"].split()[0] in text
    assert "(default: 0.03)" in text
    assert "130/143" in text


def test_version(capsys):
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"tool {version.__version__}\n"


def test_results_are_text_or_json_on_stdout(capsys):
    result = {"accuracy": {"test": 0.5, "valid": float("nan")}, "files": ["a", "b"], "n": 3}
    assert execute([], lambda *_: result) == 0
    assert capsys.readouterr() == (
        "accuracy  test: 0.5, valid: nan\nfiles     a, b\nn         3\n",
        "",
    )
    assert execute(["--json"], lambda *_: result) == 0
    out, err = capsys.readouterr()
    assert json.loads(out, parse_constant=pytest.fail)["accuracy"] == {"test": 0.5, "valid": None}
    assert err == ""
    assert execute([], lambda *_: None) == 0
    assert capsys.readouterr() == ("", "")


def test_json_results_carry_a_schema(capsys):
    for result, schema in (({"n": 3}, 1), ({"n": 3, "schema": 2}, 2)):
        assert execute(["--json"], lambda *_, result=result: result) == 0
        assert json.loads(capsys.readouterr().out) == {"n": 3, "schema": schema}


def test_an_input_file_is_as_given_else_in_the_data_folder(tmp_path, monkeypatch):
    seen = []

    def run(values, rest):
        seen.append(app.input_file(values, rest[0]))

    (tmp_path / "data").mkdir()
    inside, outside = tmp_path / "data" / "a", tmp_path / "b"
    inside.touch()
    outside.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ML_DATA", raising=False)
    for words in (
        ["--data_dir=data", "a"],
        ["--data_dir=data", "b"],
        ["--data_dir=data", "c"],
        ["a"],
        ["--data_dir=data", str(outside)],
    ):
        assert execute(words, run) == 0
    assert list(map(str, seen)) == ["data/a", "b", "c", "a", str(outside)]


def test_notes_go_to_stderr_and_are_printable(capsys):
    app.note("one\x1b[2J")
    assert capsys.readouterr() == ("", "one\\x1b[2J\n")


def test_the_data_folder_is_the_flag_s_then_the_environment_s(capsys, monkeypatch):
    def run(values, rest):
        return app.data_dir(values)

    monkeypatch.setenv("ML_DATA", "from-environment")
    assert execute([], run) == 0
    assert execute(["--data_dir=given"], run) == 0
    assert capsys.readouterr().out == "from-environment\ngiven\n"
    monkeypatch.delenv("ML_DATA")
    assert execute([], run) == 2
    assert one_line(capsys) == "no folder for datasets was given; try: --data_dir=FOLDER"


def test_flags_become_the_dataclass_and_are_checked(capsys):
    made = []

    def run(values, rest):
        made.append(options.collect(values, TrainSettings))

    assert execute(["--batch=32", "--ema=0.5", "--precision=float32", "--seed=9"], run) == 0
    assert made == [TrainSettings(batch=32, ema=0.5, precision="float32", lr=0.03, seed=9)]
    assert execute(["--ema=1.5"], run) == 2
    assert "--ema" in one_line(capsys)
    assert execute(["--lr=nan"], run) == 2
    assert "--lr" in one_line(capsys)


def _installed() -> dict[str, str]:
    """[project.scripts] of pyproject.toml (tomllib is not in Python 3.10)."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.scripts]\n")[2].partition("\n[")[0]
    return dict(re.findall(r'^([\w-]+) = "([\w.:]+)"$', section, re.MULTILINE))


_HELP = """
import importlib, json, sys
for name, place in json.loads(sys.argv[1]).items():
    module, function = place.split(":")
    print("#", name, flush=True)
    code = getattr(importlib.import_module(module), function)(["--help"])
    assert code == 0, (name, code)
    assert "tensorflow" not in sys.modules, name
"""


@pytest.mark.process
def test_help_of_every_installed_command_works_without_tensorflow():
    commands = _installed()
    assert len(commands) >= 10
    done = subprocess.run(
        [sys.executable, "-c", _HELP, json.dumps(commands)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    pages = dict(page.split("\n", 1) for page in done.stdout.removeprefix("# ").split("\n# "))
    assert set(pages) == set(commands)
    for name, page in pages.items():
        assert "usage: " in page, name
        assert "exit codes: 0 ok" in page, name


_COMMAND = """
import sys
from realmix_tf.cli import app
from realmix_tf.methods import registry
from realmix_tf.training import settings
from realmix_tf.nets import spec
code = app.execute("tool", "does", lambda values: None, lambda values, rest: "x\\n" * 100_000)
assert "tensorflow" not in sys.modules
sys.exit(code)
"""


@pytest.mark.process
def test_flags_are_known_without_tensorflow_and_a_closed_pipe_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.stderr == ""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
