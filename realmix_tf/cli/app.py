"""What every command shares: flags, help, errors, exit codes, quiet TensorFlow.

A command is a function ``define(flags)`` and a function ``run(values, arguments)``; ``execute``
does the rest. TensorFlow is imported by ``run`` at the earliest, so ``--help`` stays quick.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from realmix_tf import version
from realmix_tf.errors import RealmixError, UsageError, printable
from realmix_tf.files import json_text, resource_error

if TYPE_CHECKING:
    from data_tools.plan import Plan

Define = Callable[[absl_flags.FlagValues], None]
Run = Callable[[absl_flags.FlagValues, list[str]], Any]

SCHEMA = 1  # of what --json prints

EXIT_CODES = (
    "exit codes: 0 ok, 2 usage, 3 bad data, 4 resources, 5 checkpoint or model unusable, "
    "6 diverged, 130/143 interrupted and saved"
)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; raised so that everything under way cleans up as for Ctrl-C."""


def execute(
    name: str,
    summary: str,
    define: Define,
    run: Run,
    argv: Sequence[str] | None = None,
    usage: str = "",
    groups: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Parses the command line, runs the command and returns its exit code.

    Args:
      name: the command as a user types it.
      summary: one or two lines on what it does; the head of ``--help``.
      define: adds the command's flags to a fresh ``FlagValues``.
      run: does the work; what it returns (if not None) is printed to stdout, as JSON with --json.
      argv: the words after the command's name; ``sys.argv[1:]`` when None.
      usage: the arguments after the flags and an example, for ``--help``.
      groups: titles and their flags, for ``--help``; ``define`` may fill it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    values = absl_flags.FlagValues()
    absl_flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    absl_flags.DEFINE_bool("version", False, "Print the version.", flag_values=values)
    absl_flags.DEFINE_bool("debug", False, "Show the full trace of an error.", flag_values=values)
    absl_flags.DEFINE_bool("json", False, "Print the result as JSON.", flag_values=values)
    absl_flags.DEFINE_string("flagfile", "", "Read flags from this file.", flag_values=values)
    debug = "--debug" in words
    # The shells' default for a closed pipe (`... | head`): end quietly.
    if argv is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _terminate)
    try:
        define(values)
        rest = parse(values, words, name)
        if values["help"].value:
            print(help_text(name, summary, usage, values, groups))
            return 0
        if values["version"].value:
            print(f"{name} {version.__version__}")
            return 0
        result = run(values, rest)
        if result is not None:
            print(result_json(result) if values["json"].value else result_text(result))
        return 0
    except RealmixError as error:
        return _fail(error, error.exit_code, debug)
    except KeyboardInterrupt as error:
        text = "interrupted; what is not complete does not count as finished"
        print(f"{text}; try: the same command again", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    except MemoryError as error:
        return _fail(error, 4, debug, "out of memory; try: a smaller --batch or smaller images")
    except OSError as error:
        translated = resource_error(error, error.filename or "")
        return _fail(translated, translated.exit_code, debug)


def parse(
    values: absl_flags.FlagValues, words: Sequence[str], name: str, known_only: bool = False
) -> list[str]:
    """Parses flags and returns the remaining arguments.

    Args:
      known_only: leave flags that are not defined among the arguments.

    Raises:
      UsageError: an unknown flag (with the nearest known one), a value that does not fit, or a
        flag file that cannot be read.
    """
    try:
        return list(values([name, *words], known_only=known_only))[1:]
    except absl_flags.UnrecognizedFlagError as error:
        nearest = difflib.get_close_matches(error.flagname, [*values], n=1, cutoff=0.5)
        remedy = f"--{nearest[0]}" if nearest else f"{name} --help"
        raise UsageError(f"there is no flag --{error.flagname}", "", remedy) from error
    except (absl_flags.CantOpenFlagFileError, UnicodeDecodeError) as error:
        raise _unreadable_flagfile(error, words, name) from error
    except absl_flags.Error as error:
        message = " ".join(str(error).split()).removeprefix("ERROR:: ")
        raise UsageError(message, "", f"{name} --help") from error


def _unreadable_flagfile(error: Exception, words: Sequence[str], name: str) -> UsageError:
    """The refusal of a flag file, with the file of the nearest name in its folder."""
    reason = error.__context__
    if not isinstance(reason, OSError) or not reason.filename:
        files = [word.partition("=")[2] for word in words if word.startswith("--flagfile=")]
        return UsageError("the flag file is not text", ", ".join(files), f"{name} --help")
    path = Path(reason.filename)
    with suppress(OSError):
        others = [
            other.name
            for other in path.parent.iterdir()
            if other.suffix == path.suffix and other.is_file()
        ]
        if nearest := difflib.get_close_matches(path.name, others, n=1):
            remedy = f"--flagfile={path.with_name(nearest[0])}"
            return UsageError(f"cannot read the flag file: {reason.strerror}", str(path), remedy)
    return UsageError(f"cannot read the flag file: {reason.strerror}", str(path), f"{name} --help")


def help_text(
    name: str,
    summary: str,
    usage: str,
    values: absl_flags.FlagValues,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The help page: the summary, the usage, every flag with its default, the exit codes.

    Args:
      groups: title → flags that stand under it; the others follow by name.
    """
    lines = [f"{name}: {summary}", "", f"usage: {name} [flags] {usage}".rstrip()]
    rest = {values[flag].name: values[flag] for flag in values if flag != "h"}
    for title, names in (groups or {}).items():
        lines += ["", f"{title}:", *(_flag_line(rest.pop(flag)) for flag in names)]
    lines += ["", "other flags:" if groups else "flags:"]
    lines += [_flag_line(rest[flag_name]) for flag_name in sorted(rest)]
    return "\n".join([*lines, "", EXIT_CODES])


def _flag_line(flag: absl_flags.Flag) -> str:
    default = flag.default
    text = " ".join((flag.help or "").split())
    if isinstance(default, bool) or default is None or default in ("", []):
        suffix = " (default: true)" if default is True else ""
    else:
        value = ",".join(map(str, default)) if isinstance(default, list) else default
        short = f"{value:.5g}" if isinstance(value, float) and len(str(value)) > 8 else value
        suffix = f" (default: {short})"
    head = f"  --{flag.name}" if not flag.boolean else f"  --[no]{flag.name}"
    line = f"{text}{suffix}"
    return f"{head:<24} {line}" if len(head) < 24 else f"{head}\n{'':<25}{line}"


def result_text(result: Any) -> str:
    """A result for people: text as it is, mappings as aligned lines."""
    if isinstance(result, dict):
        width = max((len(str(key)) for key in result), default=0)
        return "\n".join(f"{key!s:<{width}}  {_plain(value)}" for key, value in result.items())
    return str(result)


def result_json(result: Any) -> str:
    """A result as JSON; mappings without a ``schema`` get one."""
    return json_text({"schema": SCHEMA, **result} if isinstance(result, dict) else result)


def load_tensorflow() -> None:
    """Imports TensorFlow and finds the devices without its start-up chatter.

    The chatter comes from C++ before any log level applies, so the file descriptor itself is turned
    aside meanwhile. What was said is shown after all if the import fails. Afterwards only what ends
    the process is logged from C++: errors come as exceptions, and what it calls one besides, such
    as a kernel that is chosen instead of another, is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except Exception:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def define_dry_run(values: absl_flags.FlagValues) -> None:
    """Adds --dry_run."""
    absl_flags.DEFINE_bool(
        "dry_run",
        False,
        "Write nothing; show what would be read and written, bytes, memory and time.",
        flag_values=values,
    )


def plan_result(values: absl_flags.FlagValues, plan: Plan) -> Any:
    """What a command returns for --dry_run; the plan's remarks go to stderr."""
    for remark in plan.notes:
        note(f"note: {remark}")
    return plan.as_json() if values["json"].value else plan.text()


def data_dir(values: absl_flags.FlagValues) -> str:
    """The folder of the datasets: --data_dir, else the environment variable ML_DATA.

    Raises:
      UsageError: neither is given.
    """
    folder = values["data_dir"].value or os.environ.get("ML_DATA", "")
    if not folder:
        raise UsageError("no folder for datasets was given", "", "--data_dir=FOLDER")
    return str(folder)


def define_data_dir(values: absl_flags.FlagValues) -> None:
    """Adds --data_dir."""
    absl_flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the datasets; the environment variable ML_DATA is used when it is not given.",
        flag_values=values,
    )


def input_file(values: absl_flags.FlagValues, text: str) -> Path:
    """An input file: as given, else in the folder of the datasets."""
    path = Path(text)
    if path.exists() or path.is_absolute() or not (values.data_dir or os.environ.get("ML_DATA")):
        return path
    within = Path(data_dir(values), path)
    return within if within.exists() else path


def note(message: str) -> None:
    """A line about the work, on stderr (stdout is for results)."""
    print(printable(message), file=sys.stderr, flush=True)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _terminate(number: int, frame: object) -> None:
    # A second one ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    raise Terminated


def _fail(error: BaseException, code: int, debug: bool, text: str = "") -> int:
    if debug:
        traceback.print_exception(error)
    print(f"error: {text or printable(str(error))}", file=sys.stderr, flush=True)
    return code
