"""The package as a notebook uses it: build, split, copy, train, load, predict.

Every function does what the command of the same purpose does and raises the errors of
``realmix_tf.errors``. TensorFlow is imported by the first function that needs it. See
docs/python_api.md for an example.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realmix_tf.data.names import DatasetName
from realmix_tf.errors import UsageError

if TYPE_CHECKING:
    from data_tools.records.copies import CopyResult
    from data_tools.records.splits import SplitResult
    from data_tools.sources import SourceResult
    from realmix_tf.evaluation.classifier import Classifier
    from realmix_tf.evaluation.inference import Result
    from realmix_tf.run import RunResult

PathLike = str | os.PathLike[str]

# Options of ``train`` that say what to read: flag → field of ``DataSettings``.
_DATA_OPTIONS = {
    "allow_overlap": "allow_overlap",
    "class_mapping": "class_mapping",
    "nclass": "num_classes",
    "img_size": "image_size",
    "memoize": "in_memory",
    "train_record": "train_record",
    "use_pseudo_labels": "use_pseudo_labels",
    "test_record": "test_record",
}

__all__ = [
    "build_benchmark",
    "build_custom",
    "build_digits",
    "load",
    "make_copies",
    "predict",
    "split",
    "train",
]


def build_benchmark(name: str, data_dir: PathLike, **options: Any) -> SourceResult:
    """Writes the records of a published set, downloading its archives where they are missing.

    Args:
      name: a name of ``data_tools.sources.BENCHMARKS``, such as ``"cifar10"``, or
        ``"tfds:<name>"``.
      data_dir: folder of the datasets.
      **options: more fields of ``data_tools.sources.building.BuildOptions``.
    """
    from data_tools.sources import build
    from data_tools.sources.building import BuildOptions

    return build(name, BuildOptions(Path(data_dir), **options))


def build_digits(data_dir: PathLike, overwrite: bool = False) -> SourceResult:
    """Writes ``digits-{train,test}.tfrecord``: the digits that scikit-learn ships.

    Args:
      data_dir: folder of the datasets.
      overwrite: build again what is there and complete.
    """
    from data_tools.sources.digits import build

    return build(Path(data_dir), overwrite)


def build_custom(
    name: str,
    data_dir: PathLike,
    train_dir: PathLike,
    test_dir: PathLike,
    unlabel_dir: PathLike | None = None,
    img_size: int | tuple[int, int] = 32,
    **options: Any,
) -> SourceResult:
    """Writes ``<name>-{train,test}.tfrecord`` from folders of pictures.

    Args:
      name: of the dataset.
      data_dir: folder of the datasets.
      train_dir: labelled pictures, a folder a class.
      test_dir: labelled pictures to measure with.
      unlabel_dir: pictures without labels, in any arrangement.
      img_size: side, or (height, width), in pixels.
      **options: further fields of ``data_tools.sources.folders.CustomOptions``, such as
        ``channels`` (3 or 1) and ``overwrite``.
    """
    from data_tools.sources.folders import CustomOptions
    from data_tools.sources.folders import build_custom as build

    # The size has a name of its own here, the flag's.
    names = {item.name for item in fields(CustomOptions)} - {"size"} | {"img_size"}
    _known(options, names, "build_custom")
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    unlabeled = None if unlabel_dir is None else Path(unlabel_dir)
    return build(
        CustomOptions(
            name=name,
            data_dir=Path(data_dir),
            train_dir=Path(train_dir),
            test_dir=Path(test_dir),
            unlabel_dir=unlabeled,
            size=size,
            **options,
        )
    )


def split(
    dataset: str, labels: int, data_dir: PathLike, seed: int = 0, **options: Any
) -> SplitResult:
    """Draws which images of ``<dataset>-train`` keep their labels.

    Args:
      dataset: name of a built dataset.
      labels: how many to draw.
      data_dir: folder of the datasets.
      seed: of the draw; 0 takes the first of each class.
      **options: further fields of ``data_tools.records.splits.SplitOptions``, such as
        ``class_balance``.
    """
    from data_tools.records.splits import SplitOptions, create_split

    _known(options, {item.name for item in fields(SplitOptions)}, "split")
    name = DatasetName(dataset, None, seed, labels, 0)
    settings: dict[str, Any] = {
        "target": Path(data_dir, "SSL", dataset),
        "inputs": (name.train_file(data_dir),),
        **options,
    }
    return create_split(SplitOptions(labels=labels, seed=seed, **settings))


def make_copies(
    name: str, copies: int, data_dir: PathLike, augment: str = "cifar10", **options: Any
) -> CopyResult:
    """Writes augmented copies of the unlabelled images of a split.

    Args:
      name: the split, such as ``digits.1@20``.
      copies: of every unlabelled image.
      data_dir: folder of the datasets.
      augment: a weak policy, see ``realmix_tf.augment``.
      **options: further fields of ``data_tools.records.copies.CopyOptions``: ``seed``,
        ``overwrite``, ``threads``.
    """
    from data_tools.records import copies as tool

    _known(options, {item.name for item in fields(tool.CopyOptions)}, "make_copies")
    parsed = DatasetName.parse_split(name)
    return tool.make_copies(
        tool.CopyOptions(Path(data_dir), parsed, copies=copies, augment=augment, **options)
    )


def train(
    dataset: str,
    data_dir: PathLike,
    method: str = "realmix",
    train_dir: PathLike = "experiments",
    baseline: PathLike | None = None,
    load_checkpoint: PathLike | None = None,
    fresh: bool = False,
    recipe: str = "",
    **options: Any,
) -> RunResult:
    """Trains, or continues, or finds finished; evaluates, exports and reports.

    Args:
      dataset: ``<dataset>[_aug<N>].<seed>@<labels>-<valid>`` or ``<dataset>-<valid>``.
      data_dir: folder of the datasets.
      method: what ``realmix.py --method`` takes.
      train_dir: folder that receives ``<dataset>/<run>``.
      baseline: a run folder the report compares with.
      load_checkpoint: a checkpoint or run to start the weights from, all but the head.
      fresh: discard what the run folder holds and start again.
      recipe: ``adam`` or ``sgd``, whose optimisation is the default instead of the method's own.
      **options: any option of the run, the network or the method under its flag's name, such as
        ``seed``, ``train_kimg``, ``arch`` or ``percent_mask``; and of the data ``class_mapping``,
        ``nclass``, ``img_size``, ``memoize``, ``train_record`` and ``test_record``.

    Raises:
      UsageError: an unknown option (with the nearest known one) or a value out of range.
      RealmixError: see ``realmix_tf.errors`` for the kinds.
    """
    from realmix_tf.methods.registry import get_method
    from realmix_tf.nets.spec import NetworkOptions
    from realmix_tf.options import check_options
    from realmix_tf.training.settings import TrainSettings

    config_class = get_method(method).Config
    name = DatasetName.parse(dataset)
    parts = (TrainSettings, NetworkOptions, config_class)
    names = [{item.name for item in fields(part)} for part in parts]
    _known(options, set(_DATA_OPTIONS).union(*names), f"train with method={method!r}")
    of_data: dict[str, Any] = {
        _DATA_OPTIONS[key]: os.fspath(value) if isinstance(value, os.PathLike) else value
        for key, value in options.items()
        if key in _DATA_OPTIONS
    }
    of_run, of_network, of_method = (
        {key: value for key, value in options.items() if key in known} for known in names
    )
    network = NetworkOptions(**of_network)
    config = config_class(**of_method)
    check_options(config)

    # Only now, so that a misspelt option is said at once.
    from realmix_tf import run as runs
    from realmix_tf.data.training_data import DataSettings

    start = "" if load_checkpoint is None else os.fspath(load_checkpoint)
    compared = "" if baseline is None else os.fspath(baseline)
    request = runs.RunRequest(
        method=method,
        data=DataSettings(name, Path(data_dir), **of_data),
        settings=runs.default_settings(method, recipe, **of_run),
        network=network,
        config=config,
        train_dir=Path(train_dir),
        load_checkpoint=start,
        baseline=compared,
        fresh=fresh,
        command=_as_command(
            {
                "method": method,
                "dataset": dataset,
                "data_dir": os.fspath(data_dir),
                "train_dir": os.fspath(train_dir),
                **({"load_checkpoint": start} if start else {}),
                **({"baseline": compared} if compared else {}),
                **({"fresh": True} if fresh else {}),
                **({"recipe": recipe} if recipe else {}),
                **options,
            }
        ),
    )
    return runs.run(request)


def load(path: PathLike) -> Classifier:
    """Loads a trained classifier from a run folder, an exported model or a checkpoint."""
    from realmix_tf.evaluation.classifier import Classifier

    return Classifier.load(os.fspath(path))


def predict(
    classifier: Classifier | PathLike, pictures: PathLike | Sequence[PathLike], top_k: int = 5
) -> Result:
    """Classifies picture files.

    Args:
      classifier: what ``load`` returned, or a path for ``load``.
      pictures: a folder, a file, or a list of these.
      top_k: classes to list a picture.

    Returns:
      ``rows``, one an input in stable order, ``probabilities`` of those that could be read, and
      ``evaluation`` where the folder has a subfolder for each class.
    """
    from realmix_tf.evaluation.inference import classify

    loaded = load(classifier) if isinstance(classifier, (str, os.PathLike)) else classifier
    paths = [pictures] if isinstance(pictures, (str, os.PathLike)) else list(pictures)
    return classify(paths, loaded, top_k)


def _known(options: Mapping[str, Any], names: set[str], where: str) -> None:
    for name in options:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise UsageError(
                f"there is no option {name!r}", where, nearest[0] if nearest else "help(...)"
            )


def _as_command(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """The command line that does the same."""
    return ("realmix", *(f"--{name}={value}" for name, value in flags.items()))
