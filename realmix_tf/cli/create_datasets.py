"""The command create_datasets: records from published sets or from a user's own images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from realmix_tf.cli import app, custom_dataset
from realmix_tf.errors import DataError, RealmixError, ResourceError, UsageError

if TYPE_CHECKING:
    from data_tools.plan import Plan
    from data_tools.sources import SourceResult
    from data_tools.sources.building import BuildOptions

NAME = "create_datasets"
SUMMARY = "builds datasets (record files) from published sets or from folders of images."
USAGE = """[NAME]...

examples:
  create_datasets digits --data_dir=data
  create_datasets cifar10 svhn --data_dir=data
  create_datasets --data_dir=data --offline --archive_dir=/mnt/archives
  create_datasets tfds:beans --img_size=64 --data_dir=data
  create_datasets custom --name=pets --traindir=pets/train --unlabeldir=pets/unlabeled \\
      --testdir=pets/test --img_size=32 --data_dir=data

names; without any, every benchmark set:
  cifar10 cifar100 svhn svhn_noextra stl10 fashion_mnist
                 benchmark sets; their archives are downloaded, checked by size and SHA-256, and
                 kept in DATA_DIR/archives
  digits         1,797 handwritten digits that need no network
  tfds:NAME      a set of TensorFlow Datasets with the features image and label; or NAME/CONFIG
  custom         --traindir and --testdir hold a folder per class, or files named
                 {number}_{class}.ext; --unlabeldir holds images in any arrangement
  custom_extra   the same, with --unlabeldir required

A set that is there and verified is left alone, a damaged one is built again, and one that other
tools made is replaced with --overwrite only. When several sets are asked for, those that cannot be
had are listed and the others are built."""

_CUSTOM = ("custom", "custom_extra")

_Result = TypeVar("_Result")


def define(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    app.define_data_dir(values)
    app.define_dry_run(values)
    custom_dataset.define(values)
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Build again what is complete, and replace what other tools made.",
        flag_values=values,
    )
    flags.DEFINE_bool("offline", False, "Do not touch the network.", flag_values=values)
    flags.DEFINE_string(
        "archive_dir", None, "Folder with archives that you have; only read.", flag_values=values
    )
    flags.DEFINE_string(
        "mirror",
        "",
        "Address of a folder to download all archives from, instead of the published addresses.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "keep_archives", True, "Keep downloaded archives for a rebuild.", flag_values=values
    )
    flags.DEFINE_integer(
        "retries", 4, "Attempts after a failed one, in a row, at one address.", flag_values=values
    )
    flags.DEFINE_float(
        "timeout", 30.0, "Seconds without a byte that end an attempt.", flag_values=values
    )
    flags.DEFINE_string(
        "tfds_dir",
        None,
        "Folder of TensorFlow Datasets; its own default (~/tensorflow_datasets) when not given.",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> Any:
    """Builds what the arguments name, or every benchmark set."""
    from data_tools.sources import BENCHMARKS, check_names, discard_archives

    options = _options(values)
    names = list(dict.fromkeys(arguments or BENCHMARKS))
    check_names(names, _CUSTOM)
    _check_flags(values, names)
    if values.dry_run:
        return _dry_run(values, names, options)
    results, failed = _each(names, lambda name: _build(values, name, options))
    if not values.keep_archives:
        done = [name for name in names if name not in failed]
        discard_archives(done, options)
    if values.json:
        built = [
            {**dataclasses.asdict(result), "files": [str(path) for path in result.files]}
            for result in results
        ]
        return _report({"datasets": built, **_failures(failed)}, values, failed, len(names))
    text = "\n".join(_text(result) for result in results)
    return _report(text, values, failed, len(names))


def _check_flags(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Refuses flags that would have no effect: whoever gave them expects one.

    Raises:
      UsageError: a flag belongs to sets that were not asked for.
    """
    from data_tools.sources import TFDS

    of_custom = flags.FlagValues()
    custom_dataset.define(of_custom)
    custom = any(name in _CUSTOM for name in names)
    tfds = any(name.startswith(TFDS) for name in names)
    for flag in sorted({of_custom[name].name for name in of_custom} | {"tfds_dir"}):
        used = tfds if flag == "tfds_dir" else custom or (tfds and flag == "img_size")
        if values[flag].present and not used:
            owners = {"tfds_dir": f"{TFDS}NAME", "img_size": f"custom and {TFDS}NAME"}
            raise UsageError(
                f"--{flag} is for {owners.get(flag, 'custom')} only",
                "",
                f"{NAME} {' '.join(names)} without it",
            )


def _options(values: flags.FlagValues) -> BuildOptions:
    from data_tools.sources.building import BuildOptions
    from data_tools.sources.download import Access
    from realmix_tf.data.images import parse_size

    access = Access(
        offline=values.offline,
        archive_dir=Path(values.archive_dir) if values.archive_dir else None,
        mirror=values.mirror,
        retries=values.retries,
        timeout=values.timeout,
        note=app.note,
    )
    access.check()
    return BuildOptions(
        data_dir=Path(app.data_dir(values)),
        overwrite=values.overwrite,
        access=access,
        size=parse_size(values.img_size) if values.img_size else None,
        tfds_dir=Path(values.tfds_dir) if values.tfds_dir else None,
    )


def _build(values: flags.FlagValues, name: str, options: BuildOptions) -> SourceResult:
    from data_tools.sources import build

    if name in _CUSTOM:
        result = custom_dataset.build(values, options.data_dir, extra=name == "custom_extra")
    else:
        result = build(name, options)
    for remark in result.facts.get("notes", ()):
        app.note(f"{result.dataset}: {remark}")
    return result


def _plan(values: flags.FlagValues, name: str, options: BuildOptions) -> Plan:
    from data_tools.sources import plan

    if name in _CUSTOM:
        return custom_dataset.plan(values, options.data_dir, extra=name == "custom_extra")
    return plan(name, options)


def _each(
    names: Sequence[str], work: Callable[[str], _Result]
) -> tuple[list[_Result], dict[str, RealmixError]]:
    """Does ``work`` for every name, going on after those that fail if there are several."""
    results: list[_Result] = []
    failed: dict[str, RealmixError] = {}
    for name in names:
        try:
            results.append(work(name))
        except RealmixError as error:
            if len(names) == 1:
                raise
            failed[name] = error
            app.note(f"{name}: not built: {error}")
    return results, failed


def _report(
    result: Any, values: flags.FlagValues, failed: dict[str, RealmixError], asked: int
) -> Any:
    """Returns the result; when sets are missing, prints it and raises.

    Raises:
      RealmixError: of the kind that kept all of them from being built, else ``ResourceError``.
    """
    if not failed:
        return result
    # The result belongs to stdout also when the command fails.
    if result:
        print(app.result_json(result) if values.json else result, flush=True)
    kinds = {type(error) for error in failed.values()}
    raise (kinds.pop() if kinds < {UsageError, DataError} else ResourceError)(
        f"{len(failed)} of {asked} datasets could not be built, as the lines above say: "
        + ", ".join(failed)
    )


def _failures(failed: dict[str, RealmixError]) -> dict[str, Any]:
    listed = [
        {"dataset": name, "reason": str(error), "exit_code": error.exit_code}
        for name, error in failed.items()
    ]
    return {"failed": listed} if listed else {}


def _dry_run(values: flags.FlagValues, names: Sequence[str], options: BuildOptions) -> Any:
    if len(names) == 1:
        return app.plan_result(values, _plan(values, names[0], options))
    plans, failed = _each(names, lambda name: (name, _plan(values, name, options)))
    result: Any = app.plan_result(values, _together(dict(plans))) if plans else ""
    if values.json:
        result = {**(result or {}), **_failures(failed)}
    return _report(result, values, failed, len(names))


def _together(plans: dict[str, Plan]) -> Plan:
    """One plan of several sets, which are built one after the other."""
    from data_tools.plan import Plan

    # An archive that two sets need is read from one place and kept once.
    reads = {use.path: use for plan in plans.values() for use in plan.reads}
    writes = {use.path: use for plan in plans.values() for use in plan.writes}
    times = [plan.seconds for plan in plans.values() if plan.seconds is not None]
    return Plan(
        reads=tuple(reads.values()),
        writes=tuple(writes.values()),
        memory=max(plan.memory for plan in plans.values()),
        seconds=sum(times) if times else None,
        facts={name: plan.facts for name, plan in plans.items()},
        notes=tuple(dict.fromkeys(note for plan in plans.values() for note in plan.notes)),
    )


def _text(result: SourceResult) -> str:
    lines = [f"{result.dataset}: {result.facts.get('state', 'built')}"]
    for key, value in result.facts.items():
        if isinstance(value, dict):
            lines.append(
                f"  {key}: " + ", ".join(f"{name} {count}" for name, count in value.items())
            )
        elif key not in ("state", "notes"):
            lines.append(f"  {key}: {value}")
    return "\n".join([*lines, *(f"  {path}" for path in result.files)])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return app.execute(NAME, SUMMARY, define, run, argv, USAGE)
