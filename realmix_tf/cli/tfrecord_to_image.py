"""The command tfrecord_to_image: records back to image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from realmix_tf.cli import app
from realmix_tf.errors import UsageError

NAME = "tfrecord_to_image"
SUMMARY = "writes the images of a record file as PNG files, a folder a class."
EXAMPLE = "tfrecord_to_image data/digits-test.tfrecord --output=digits"
USAGE = f"""FILE --output=FOLDER

example:
  {EXAMPLE}

writes digits/<class>/<number>.png, the number being the position in the record file, images
without a true label in digits/unlabeled, and digits/classes.json with the true class names. The
folder can be given to create_datasets again."""


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    flags.DEFINE_string("output", None, "The folder to make.", flag_values=values)
    flags.DEFINE_integer("first", None, "Only this many first records.", flag_values=values)
    flags.DEFINE_string(
        "grid",
        "",
        "Also write the first images of every class as this PNG file, outside of --output.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace a folder that this command wrote, and that PNG file.",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Writes the files."""
    if len(arguments) != 1:
        raise UsageError("one record file is needed", " ".join(arguments), EXAMPLE)
    if not values.output:
        raise UsageError("--output is missing", "", EXAMPLE)
    from data_tools.folders.export import ExportOptions, export, plan_export

    options = ExportOptions(
        source=app.input_file(values, arguments[0]),
        output=Path(values.output),
        first=values.first,
        grid=Path(values.grid) if values.grid else None,
        overwrite=values.overwrite,
    )
    if values.dry_run:
        return app.plan_result(values, plan_export(options))
    result = export(options)
    for remark in result.notes:
        app.note(f"note: {remark}")
    files = sum(result.folders.values())
    if values.json:
        return {
            "output": str(result.output),
            "files": files,
            "folders": result.folders,
            "classes": result.classes,
            "notes": list(result.notes),
        }
    return {"output": str(result.output), "files": files, **result.folders}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
