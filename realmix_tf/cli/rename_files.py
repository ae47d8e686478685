"""The command rename_files: pictures become {number}_{class}.ext, with a plan and an undo."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import Interrupted, UsageError

NAME = "rename_files"
SUMMARY = "renames pictures in place to {number}_{class}.ext; shows its plan first."
EXAMPLE = "rename_files --targetdir=pets/train"
USAGE = f"""

examples:
  {EXAMPLE}                   shows what would be renamed
  {EXAMPLE} --yes             renames
  {EXAMPLE} --undo            takes the last renaming back

Files in a class folder stay in it and get its name; files in no class folder keep the class that
their own name states, as in 007_red_fox.png. --targetdir may also hold such folders as train, test
and unlabeled. Numbers count through all folders. No file is ever replaced. An interrupted renaming
is completed by --yes or taken back by --undo."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_string(
        "targetdir",
        None,
        "Folder of the pictures; looked for in the folder of the datasets too.",
        short_name="t",
        flag_values=values,
    )
    flags.DEFINE_integer("index", 0, "The first number.", short_name="i", flag_values=values)
    flags.DEFINE_string(
        "filetype",
        "",
        "How to write the extension of such files: png, jpg, jpeg, webp, gif, bmp, tif or tiff. "
        "The content decides what a file is; no file is converted.",
        short_name="f",
        flag_values=values,
    )
    flags.DEFINE_bool("yes", False, "Rename, instead of showing the plan.", flag_values=values)
    flags.DEFINE_bool("undo", False, "Take the last renaming back.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Shows, renames or takes back."""
    if arguments:
        raise UsageError(f"there is nothing to do with {arguments[0]!r}", "", EXAMPLE)
    if not values.targetdir:
        raise UsageError("--targetdir is missing", "", EXAMPLE)
    if values.yes and values.undo:
        raise UsageError("--yes and --undo were given", "", "one of them")
    folder = app.input_file(values, values.targetdir)
    from data_tools.folders import renaming

    options = renaming.RenameOptions(folder, values.index, values.filetype)
    if values.undo:
        if values.dry_run:
            return app.plan_result(values, renaming.plan_undo(folder))
        return _done(values, _interruptible(folder, lambda: renaming.undo(folder)))
    if values.yes and not values.dry_run:
        return _done(values, _interruptible(folder, lambda: renaming.rename(options)))
    return _show(values, options)


def _show(values: flags.FlagValues, options: Any) -> Any:
    from data_tools.folders import renaming

    journal = renaming.pending(options.folder)
    if journal is not None:
        what = "an undo" if journal.backwards else "a renaming"
        places = journal.places()
        if values.json:
            return {"dry_run": True, "interrupted": what, "names": places}
        return (
            f"{what} of {len(journal.moves)} files was interrupted: {places['old']} have their old "
            f"name, {places['new']} their new one, {places['hidden']} a hidden one in between\n"
            f"nothing was changed; "
            + ("--undo completes it" if journal.backwards else renaming.COMPLETE_OR_UNDO)
        )
    found = renaming.preview(options)
    plan = renaming.plan_of(found)
    if values.json:
        return {
            **plan.as_json(),
            "names": renaming.names_json(found.moves),
            "left_out": renaming.left_out_json(found),
        }
    for remark in found.notes:
        app.note(f"note: {remark}")
    end = "nothing was renamed; --yes does it" if found.moves else "there is nothing to rename"
    return f"{renaming.describe(found)}\n{end}"


def _interruptible(folder: Path, work: Any) -> Any:
    """Does the work; what interrupts it is told how to go on."""
    from data_tools.folders import renaming

    try:
        return work()
    except KeyboardInterrupt as error:
        if renaming.pending(folder) is None:
            raise
        number = signal.SIGTERM if isinstance(error, app.Terminated) else signal.SIGINT
        raise Interrupted(
            number, "interrupted, some files are renamed", folder, renaming.COMPLETE_OR_UNDO
        ) from error


def _done(values: flags.FlagValues, result: Any) -> Any:
    from data_tools.folders import renaming

    plan = result.renaming
    notes = [] if plan is None else list(plan.notes)
    if result.missing:
        notes.append(
            f"{len(result.missing)} files were not there any more, such as {result.missing[0]!r}"
        )
    if values.json:
        return {
            "action": result.action,
            "files": len(result.moves),
            "names": renaming.names_json(result.moves),
            "missing": [app.printable(name) for name in result.missing],
            "left_out": [] if plan is None else renaming.left_out_json(plan),
            "notes": [app.printable(note) for note in notes],
        }
    for remark in notes:
        app.note(f"note: {remark}")
    count = len(result.moves) - len(result.missing)
    return {
        "renamed": f"renamed {count} files; --undo takes it back",
        "completed": f"completed the interrupted renaming of {count} files; --undo takes it back",
        "undone": f"gave {count} files their old names back",
        "nothing": "there is nothing to rename, all files have their names already",
    }[result.action]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
