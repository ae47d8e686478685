"""One run, composed: data, method, network, engine, evaluation, report.

This is where the halves of the house meet; commands and notebooks both come through here.
"""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from realmix_tf import version
from realmix_tf.augment import codes
from realmix_tf.augment.ctaugment import CTAugment
from realmix_tf.augment.slots import slot_policies
from realmix_tf.augment.views import to_float
from realmix_tf.data.stores import ImageStore
from realmix_tf.data.training_data import DataSettings, TrainingData, load_training_data
from realmix_tf.errors import CheckpointError, UsageError, printable
from realmix_tf.evaluation.accuracy import summarize_accuracy
from realmix_tf.evaluation.classifier import Classifier, Predictor, assign_weights
from realmix_tf.evaluation.metrics import classification_metrics, full_evaluation
from realmix_tf.evaluation.model_file import ModelDescription
from realmix_tf.evaluation.report import write_report
from realmix_tf.evaluation.run_reader import load_run
from realmix_tf.files import FolderLock, atomic_write, json_text, read_json, write_json
from realmix_tf.methods.annealing import KIMG
from realmix_tf.methods.base import Method, Task
from realmix_tf.methods.registry import get_method, recipe_of
from realmix_tf.nets.build import build_network
from realmix_tf.nets.spec import NetworkOptions, NetworkSpec
from realmix_tf.training import checkpoint, devices, logs, loop
from realmix_tf.training.engine import Engine
from realmix_tf.training.input import TrainingInput
from realmix_tf.training.run_folder import RunFolder, path_word, run_name
from realmix_tf.training.settings import TrainSettings

_MOST_LABELED = 10_000  # labelled images evaluated each report, as published
_MOST_UNLABELED = 20_000  # unlabelled images ranked by confidence at the end
_VIEW_IMAGES = 16
_TIMES_AVERAGED = 5  # lengths of an average's memory that a run should have


@dataclass(frozen=True)
class RunRequest:
    """Everything a run is.

    Attributes:
      method: name of the method; config: its ``Config``, or None for the defaults.
      data: which dataset, where.
      settings: numbers of the run.
      network: the network.
      train_dir: folder that receives ``<dataset>/<run name>``.
      load_checkpoint: a checkpoint or run to start the weights from (all but the head); or empty.
      baseline: a run folder the report compares with; or empty.
      fresh: discard what the run folder holds and start again.
      command: the words that reproduce the run.
    """

    method: str
    data: DataSettings
    settings: TrainSettings
    network: NetworkOptions = field(default_factory=NetworkOptions)
    config: Any = None
    train_dir: Path = Path("experiments")
    load_checkpoint: str = ""
    baseline: str = ""
    fresh: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Attributes:
      folder: the run folder; report: its report.html.
      accuracy: set → accuracy of the averaged weights after the last update, in [0, 1].
      images: labelled images seen in all; trained: updates made by this call.
    """

    folder: Path
    report: Path
    accuracy: dict[str, float]
    images: int
    trained: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return {
            "schema": 1,
            "run": str(self.folder),
            "report": str(self.report),
            "accuracy": self.accuracy,
            "images": self.images,
            "updates_trained_now": self.trained,
        }


def folder_of(request: RunRequest) -> Path:
    """The run folder a request trains in."""
    method = get_method(request.method)
    changed: dict[str, Any] = {}
    recipe = asdict(method.recipe)
    for name, value in asdict(request.settings).items():
        default = recipe.get(name, TrainSettings.__dataclass_fields__[name].default)
        if name not in ("seed", "keep_ckpt") and value != default:
            changed[name] = value
    config = request.config or method.Config()
    for item in fields(config):
        if getattr(config, item.name) != item.default:
            changed[item.name] = getattr(config, item.name)
    changed |= request.network.changed()
    if request.data.use_pseudo_labels:
        changed["use_pseudo_labels"] = True
    for name in ("train_record", "test_record"):
        if getattr(request.data, name):
            changed[name] = getattr(request.data, name)
    paths = {"from": request.load_checkpoint, "class_mapping": request.data.class_mapping}
    changed |= {name: path_word(path) for name, path in paths.items() if path}
    name = run_name(method.__name__, changed, request.settings.seed)
    return request.train_dir / str(request.data.name) / name


def run(request: RunRequest, progress: logs.Progress | None = None) -> RunResult:
    """Trains, or continues, or finds finished; evaluates, exports and reports.

    Raises:
      RealmixError: see ``realmix_tf.errors`` for the kinds and their exit codes.
    """
    settings = request.settings
    say = progress or logs.Progress(settings.total_updates, settings.batch)
    prepared = _prepare(request, say)
    data, engine, identity = prepared.data, prepared.engine, prepared.identity
    # Everything that can be refused has been looked at before anything is made or changed.
    folder = RunFolder(folder_of(request))
    with FolderLock(folder.path):
        if request.fresh:
            _discard(folder)
        else:
            loop.find_checkpoint(folder, settings, identity, lambda text: None)
        _describe(request, folder, data, prepared.spec, identity, prepared.precision)
        _introduce(say, request, data, prepared.precision, folder)
        evaluator = Evaluator(data, prepared.spec)
        _save_views(folder, prepared.source, engine)
        outcome = loop.train(engine, prepared.source, folder, settings, identity, evaluator, say)
        finished = outcome.trained == 0 and folder.evaluation.exists() and folder.model.is_dir()
        if finished:
            say.line(f"already finished after {outcome.images} images: {folder.path}")
        else:
            _conclude(folder, engine, data, evaluator, outcome)
        report = write_report(folder.path, Path(request.baseline) if request.baseline else None)
        accuracy = {
            name: value["accuracy"] for name, value in read_json(folder.evaluation)["sets"].items()
        }
        return RunResult(folder.path, report, accuracy, outcome.images, outcome.trained)


@dataclass(frozen=True)
class _Prepared:
    """A run before anything is made or changed; everything that can be refused was looked at."""

    data: TrainingData
    spec: NetworkSpec
    precision: str
    source: TrainingInput
    engine: Engine
    identity: dict[str, Any]


def _prepare(request: RunRequest, say: logs.Progress) -> _Prepared:
    method_class = get_method(request.method)
    settings = request.settings
    # Before anything else of TensorFlow, which could not split the processor afterwards.
    strategy = devices.strategy_for(settings.devices)
    if request.baseline:
        load_run(Path(request.baseline))
    augmentation = codes.parse(settings.augment, request.data.name.dataset, method_class.augment)
    data = _load(request, method_class, say)
    spec = _spec(request, data)
    method = method_class(request.config or method_class.Config(), _task(data, settings.batch))
    for note in _too_short_for(settings, spec.bn_decay, method.config):
        say.line(f"note: {note}")
    method.check(replicas=settings.devices)
    views = method.views()
    strong = augmentation.strong.strong
    if strong and not any(name.startswith("strong") for name in views.labeled + views.unlabeled):
        raise UsageError(
            f"{request.method} reads no strong view, so {strong.text} would do nothing",
            "--augment",
            "d for the third part",
        )
    learner = CTAugment(settings.adepth, settings.ath, settings.adecay)
    source = TrainingInput(
        data,
        views,
        slot_policies(augmentation, learner),
        settings.batch,
        settings.seed,
        settings.devices,
        shuffle=settings.shuffle > 0,
    )
    precision = devices.resolve_precision(settings.precision)
    identity = _identity(request, method, spec, precision, data, augmentation.name)
    # Batch statistics over all devices, so that several do what one would.
    engine = Engine(
        method, spec, settings, precision, strategy, synchronized=True, learned=source.learned
    )
    # A run that has a checkpoint of its own no longer needs what it started from.
    if request.load_checkpoint and not _continues(request, identity):
        _start_from(engine, request.load_checkpoint)
    return _Prepared(data, spec, precision, source, engine, identity)


@dataclass(frozen=True)
class Forecast:
    """What a run would be.

    Attributes:
      folder: where it would write.
      files: what it reads.
      images: set → number of images.
      seen: labelled images that a run in the folder has seen already.
      planned: labelled images in all.
      seconds: for the updates that are left, from some updates made on this machine; the
        evaluations come on top.
      checkpoint_bytes: of one checkpoint; ``checkpoints``: how many would be kept.
      notes: what the user should be told.
    """

    folder: Path
    files: tuple[Path, ...]
    images: dict[str, int]
    seen: int
    planned: int
    seconds: float
    checkpoint_bytes: int
    checkpoints: int
    notes: list[str]


def forecast(request: RunRequest) -> Forecast:
    """Prepares a run as ``run`` does and makes some updates to see how long they take.

    Nothing is written.

    Raises:
      RealmixError: what ``run`` would refuse.
    """
    settings = request.settings
    said = io.StringIO()
    prepared = _prepare(request, logs.Progress(settings.total_updates, settings.batch, said))
    notes = [line.removeprefix("note: ") for line in said.getvalue().splitlines()]
    folder = RunFolder(folder_of(request))
    found = None
    if not request.fresh:
        found = loop.find_checkpoint(folder, settings, prepared.identity, notes.append)
    seen = 0 if found is None else found.images
    left = settings.total_updates - seen // settings.batch
    seconds = loop.measure(prepared.engine, prepared.source) * left if left else 0.0
    saves = -(-settings.total_updates // settings.updates(settings.save_kimg))
    return Forecast(
        folder=folder.path,
        files=prepared.data.files,
        images=prepared.data.counts(),
        seen=seen,
        planned=settings.total_updates * settings.batch,
        seconds=seconds,
        checkpoint_bytes=checkpoint.size(prepared.engine.variables()),
        checkpoints=min(saves, settings.keep_ckpt),
        notes=notes,
    )


class Evaluator:
    """Evaluates raw and averaged weights on the sets, always in float32.

    The weights are copied into a network of its own, so training's weights are never touched.
    """

    def __init__(self, data: TrainingData, spec: NetworkSpec) -> None:
        self.network = build_network(spec, "float32", load_pretrained=False)
        self.predictor = Predictor(self.network)
        self.stop: Callable[[], bool] = lambda: False
        self.sets = {
            name: store
            for name, store in (
                ("labeled", data.labeled),
                ("valid", data.valid),
                ("test", data.test),
            )
            if store is not None
        }

    def __call__(self, engine: Engine, stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        self.stop = stop
        return {
            "ema": self.evaluate(engine.weights(averaged=True), classification_metrics),
            "raw": self.evaluate(engine.weights(averaged=False), classification_metrics),
        }

    def evaluate(
        self,
        weights: Mapping[str, np.ndarray],
        measure: Callable[[np.ndarray, np.ndarray], dict[str, Any]],
    ) -> dict[str, Any]:
        """set → ``measure(probabilities, labels)``."""
        assign_weights(self.network, weights)
        result = {}
        for name, store in self.sets.items():
            most = _MOST_LABELED if name == "labeled" else len(store)
            result[name] = measure(self.probabilities(store, most), store.labels[:most])
        return result

    def probabilities(self, store: ImageStore, most: int) -> np.ndarray:
        """float32 [min(N, most), classes] of a set's first images."""
        batch = self.predictor.batch * 8
        stop = min(most, len(store))
        parts = []
        for start in range(0, stop, batch):
            # A signal must not wait for the evaluation of a large set.
            if self.stop():
                raise loop.EvaluationStopped
            parts.append(
                self.predictor.probabilities(store.images(start, min(start + batch, stop)))
            )
        return np.concatenate(parts)


def _load(request: RunRequest, method: type[Method], say: logs.Progress) -> TrainingData:
    views = method(request.config or method.Config(), Task()).views()
    needed = bool(views.unlabeled)
    data = load_training_data(replace(request.data, need_unlabeled=needed))
    for note in data.notes:
        say.line(f"note: {note}")
    unknown = sorted(set(range(len(data.classes))) - set(data.labeled.labels.tolist()))
    if unknown:
        names = ", ".join(printable(data.classes[number]) for number in unknown[:10])
        say.line(
            f"warning: {len(unknown)} of {len(data.classes)} classes have no labelled image to "
            f"train on: {names}"
        )
    if data.unlabeled is not None:
        rows = request.settings.batch * views.ratio
        if len(data.unlabeled) < rows:
            smaller = "a smaller batch" if views.ratio == 1 else "a smaller batch or --uratio"
            raise UsageError(
                f"an update reads {rows} unlabelled images but there are {len(data.unlabeled)}",
                "--batch",
                smaller,
            )
    return data


def _too_short_for(settings: TrainSettings, bn_decay: float, config: Any) -> Iterator[str]:
    """Which settings, made for published lengths, a run would end before they take effect."""
    updates = settings.total_updates
    averages = {"ema": settings.ema, "bn_decay": bn_decay}
    slow = [name for name, decay in averages.items() if (1 - decay) * updates < _TIMES_AVERAGED]
    if slow:
        enough = f"{max(0.0, 1 - 2 * _TIMES_AVERAGED / updates):.2g}"
        yield (
            f"{updates} updates are few for "
            f"{' and '.join(f'--{name}={averages[name]:g}' for name in slow)}, averages over the "
            f"last {1 / (1 - max(averages[name] for name in slow)):.0f}; "
            f"try: {' '.join(f'--{name}={enough}' for name in slow)}"
        )
    kimg = settings.batch * updates / KIMG
    if updates < settings.updates(settings.train_kimg):
        yield (
            f"the run ends after {settings.epochs} report periods (--epochs), at {kimg:g} of "
            f"{settings.train_kimg:g} kimg; try: a larger --epochs or --report_kimg"
        )
    if getattr(config, "warmup_kimg", 0) > kimg:
        yield (
            f"the run ends at {kimg:g} kimg, before --warmup_kimg={config.warmup_kimg:g} is over; "
            f"try: --warmup_kimg={kimg:g} or less"
        )


def _task(data: TrainingData, batch: int) -> Task:
    unlabeled = 0 if data.unlabeled is None else len(data.unlabeled)
    height, width, _ = data.shape
    return Task(len(data.classes), len(data.labeled), unlabeled, batch, (height, width))


def _spec(request: RunRequest, data: TrainingData) -> NetworkSpec:
    options = asdict(request.network)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if options.pop("whiten"):
        mean, std = channel_statistics(data)
    height, width, channels = data.shape
    return NetworkSpec(
        num_classes=len(data.classes),
        height=height,
        width=width,
        channels=channels,
        mean=mean,
        std=std,
        **options,
    )


def channel_statistics(data: TrainingData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel of all training images, in the range [−1, 1]."""
    count, total, square = 0, np.zeros(data.shape[2]), np.zeros(data.shape[2])
    for store in (data.labeled, data.unlabeled):
        for block in store.batches(4096) if store is not None else ():
            values = block.reshape(-1, data.shape[2]).astype(np.float64) * (2 / 255) - 1
            count += len(values)
            total += values.sum(0)
            square += (values**2).sum(0)
    mean = total / count
    # A channel that never changes would otherwise be divided by zero.
    std = np.sqrt(np.maximum(square / count - mean**2, 1e-6))
    return tuple(map(float, mean)), tuple(map(float, std))


def _identity(
    request: RunRequest,
    method: Method,
    spec: NetworkSpec,
    precision: str,
    data: TrainingData,
    policy: str,
) -> dict[str, Any]:
    """What must not change while a run continues; compared as JSON."""
    settings = asdict(request.settings) | {"precision": precision, "augment": policy}
    del settings["keep_ckpt"]
    # What came later is named only where it is used, so that runs of earlier versions can be
    # continued.
    if settings["devices"] == 1:
        del settings["devices"]
    identity: dict[str, Any] = {"method": method.name, **settings, **asdict(method.config)}
    identity |= {f"network {name}": value for name, value in spec.to_json().items()}
    identity |= {f"{role} set's SHA-256": s["sha256"] for role, s in data.sources.items()}
    identity |= {f"{role} images": count for role, count in data.counts().items()}
    identity["classes"] = list(data.classes)
    start = request.load_checkpoint
    identity["weights from"] = os.path.abspath(start) if start else ""
    if request.data.use_pseudo_labels:
        identity["use_pseudo_labels"] = True
    return json.loads(json_text(identity))


def _continues(request: RunRequest, identity: dict[str, Any]) -> bool:
    """Whether there is a checkpoint that the run would go on from."""
    if request.fresh:
        return False
    folder = RunFolder(folder_of(request))
    found = loop.find_checkpoint(folder, request.settings, identity, lambda text: None)
    return found is not None


def _start_from(engine: Engine, source: str) -> None:
    """Takes over another classifier's weights, all but the head, raw and averaged alike."""
    try:
        donor = Classifier.load(source)
    except CheckpointError as error:
        remedy = "a run folder, its model/ or a checkpoint for --load_checkpoint"
        raise CheckpointError(error.what, error.where, remedy) from error
    values = {name: v.numpy() for name, v in donor.network.variables_by_name().items()}
    for name, variable in engine.network.variables_by_name().items():
        if name.startswith("head/"):
            continue
        if name not in values or tuple(values[name].shape) != tuple(variable.shape):
            raise CheckpointError(
                f"its network has no {name!r} of shape {tuple(variable.shape)}",
                source,
                "the same --arch, --filters, --repeat, --scales and image channels",
            )
        variable.assign(values[name])
        if name in engine.ema:
            engine.ema[name].assign(values[name])


def _description(data: TrainingData, spec: NetworkSpec, request: RunRequest) -> ModelDescription:
    return ModelDescription(
        spec,
        data.classes,
        {"resize": data.resize, "background": [255, 255, 255], "channels": data.shape[2]},
        {"dataset": str(request.data.name), "method": request.method},
    )


def _describe(
    request: RunRequest,
    folder: RunFolder,
    data: TrainingData,
    spec: NetworkSpec,
    identity: dict[str, Any],
    precision: str,
) -> None:
    write_json(
        folder.args,
        {
            "schema": 1,
            "method": request.method,
            "dataset": str(request.data.name),
            "settings": asdict(request.settings),
            "config": asdict(request.config or get_method(request.method).Config()),
            "network": asdict(request.network),
            "load_checkpoint": request.load_checkpoint,
            "allow_overlap": request.data.allow_overlap,
            "use_pseudo_labels": request.data.use_pseudo_labels,
            "counts": data.counts(),
            "notes": data.notes,
            "identity": identity,
            "model": _description(data, spec, request).to_json(),
        },
    )
    write_json(
        folder.env,
        {
            "command": list(request.command),
            "device": devices.describe(request.settings.devices),
            "precision": precision,
            "versions": {
                "realmix-tf": version.__version__,
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            },
            "platform": f"{platform.system()} {platform.machine()}",
            "data": data.sources,
        },
    )


def _introduce(
    say: logs.Progress, request: RunRequest, data: TrainingData, precision: str, folder: RunFolder
) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in data.counts().items() if count)
    settings = request.settings
    say.line(f"{request.method} on {request.data.name}: {counts}; {len(data.classes)} classes")
    say.line(
        f"{devices.describe(settings.devices)}, {precision}, batch {settings.batch}, "
        f"{settings.total_updates} updates; {folder.path}"
    )


def _discard(folder: RunFolder) -> None:
    """Removes what earlier runs of this project left in the folder, and nothing else."""
    checkpoint.clean(folder.checkpoints)
    for prefix in checkpoint.committed(folder.checkpoints):
        for path in folder.checkpoints.glob(f"{prefix.name}.*"):
            path.unlink()
    if folder.checkpoints.is_dir():
        for pattern in ("model.ckpt-*.index", "model.ckpt-*.data-*", "events.out.tfevents.*"):
            for path in folder.checkpoints.glob(pattern):
                path.unlink()
    for path in (folder.metrics, folder.timing, folder.evaluation):
        path.unlink(missing_ok=True)


def _save_views(folder: RunFolder, source: TrainingInput, engine: Engine) -> None:
    """The first batch's views, so that wrong augmentation shows in a minute.

    ``mixed.npz`` holds what the network is then trained on, where the method mixes the views.
    """
    batch = engine.finished(source.part(tf.constant(0, tf.int64)))
    read = engine.first_input(batch)
    fed = None if read is None else _pixels(read)
    plain = [_pixels(view) for view in batch.labeled.values()]
    if fed is not None and not any(np.array_equal(fed, view) for view in plain):
        _save_arrays(folder.views / "mixed.npz", {"images": fed})
    labels = batch.labels.numpy()[:_VIEW_IMAGES]
    for kind, views in (("labeled", batch.labeled), ("unlabeled", batch.unlabeled)):
        for view_name, view in views.items():
            name = kind if kind == "labeled" and len(views) == 1 else f"{kind}_{view_name}"
            arrays = {"images": _pixels(view)} | ({"labels": labels} if kind == "labeled" else {})
            _save_arrays(folder.views / f"{name}.npz", arrays)


def _pixels(view: tf.Tensor) -> np.ndarray:
    """float32 [N, H, W, C] in [−1, 1] → uint8, the first images."""
    return np.round((view.numpy()[:_VIEW_IMAGES] + 1) * 127.5).astype(np.uint8)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _conclude(
    folder: RunFolder,
    engine: Engine,
    data: TrainingData,
    evaluator: Evaluator,
    outcome: loop.Outcome,
) -> None:
    """After the last update: full evaluation, ranked unlabelled images, exported model."""

    def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        return full_evaluation(probabilities, labels, data.classes)

    raw = evaluator.evaluate(engine.weights(averaged=False), measure)
    averaged = evaluator.evaluate(engine.weights(averaged=True), measure)
    if data.unlabeled is not None:
        _rank_unlabeled(folder, data.unlabeled, evaluator)
    described = read_json(folder.args)["model"]
    description = ModelDescription.from_json(described, folder.args)
    final = replace(
        description,
        provenance=description.provenance | {"images": outcome.images, "weights": "ema"},
    )
    Classifier.create(final, engine.weights(averaged=True)).save(folder.model)
    summarize_accuracy(folder.path)
    write_json(
        folder.evaluation,
        {"images": outcome.images, "weights": "ema", "sets": averaged, "raw": raw},
    )


def _rank_unlabeled(folder: RunFolder, store: ImageStore, evaluator: Evaluator) -> None:
    """Saves the unlabelled images the network is surest and least sure of."""
    probabilities = evaluator.probabilities(store, _MOST_UNLABELED)
    confidence = probabilities.max(1)
    order = np.argsort(confidence, kind="stable")
    for name, chosen in (
        ("unlabeled_doubtful", order[:_VIEW_IMAGES]),
        ("unlabeled_confident", order[::-1][:_VIEW_IMAGES]),
    ):
        images = np.concatenate([store.images(int(i), int(i) + 1) for i in chosen])
        arrays = {
            "images": images,
            "probability": confidence[chosen],
            "predicted": probabilities[chosen].argmax(1),
            "ranked": np.int64(len(confidence)),
            "of": np.int64(len(store)),
        }
        _save_arrays(folder.views / f"{name}.npz", arrays)


def default_settings(method: str, recipe: str = "", **changes: Any) -> TrainSettings:
    """``TrainSettings`` with the method's own ``Recipe`` where not given.

    Args:
      recipe: ``adam`` or ``sgd`` instead of the method's own; empty for that.
    """
    chosen = recipe_of(get_method(method), recipe)
    return TrainSettings(**{**asdict(chosen), **changes})


def evaluate_checkpoint(request: RunRequest, path: str) -> dict[str, Any]:
    """Accuracy of a checkpoint: raw, averaged, and both with re-estimated batch statistics.

    Args:
      request: names the data; the network comes from the checkpoint's run.
      path: prefix of a checkpoint, or a run folder for its newest.

    Returns:
      weights → set → accuracy in [0, 1].

    Raises:
      CheckpointError: the checkpoint cannot be used with these data.
    """
    if Path(path).is_dir():
        found = checkpoint.newest(RunFolder(Path(path)).checkpoints, lambda text: None)
        if found is None:
            raise CheckpointError("there is no checkpoint", path, "…/tf/model.ckpt-<images>")
        path = str(found.prefix)
    classifier = Classifier.load(path)
    data = load_training_data(replace(request.data, need_unlabeled=False))
    spec = classifier.spec
    if (
        data.shape != (spec.height, spec.width, spec.channels)
        or len(data.classes) != spec.num_classes
    ):
        raise CheckpointError(
            f"it reads {spec.height}×{spec.width}×{spec.channels} images of {spec.num_classes} "
            f"classes, the data are {data.shape} of {len(data.classes)}",
            path,
            "the dataset it was trained on",
        )
    evaluator = Evaluator(data, spec)
    result: dict[str, Any] = {"schema": 1}
    for kind in ("raw", "ema"):
        network = Classifier.load(path, weights=kind).network
        weights = {name: v.numpy() for name, v in network.variables_by_name().items()}
        result[kind] = evaluator.evaluate(weights, _accuracy)
        tuned = weights | estimate_batch_statistics(spec, weights, data.labeled)
        result[f"tuned_{kind}"] = evaluator.evaluate(tuned, _accuracy)
    return result


def _accuracy(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return classification_metrics(probabilities, labels)["accuracy"]


def estimate_batch_statistics(
    spec: NetworkSpec, weights: Mapping[str, np.ndarray], store: ImageStore, images: int = 16384
) -> dict[str, np.ndarray]:
    """Moving means and variances as plain averages over batches of training images.

    Args:
      weights: the network's variables by name.
      store: whose images; at most ``images`` of them are read, in batches of 256.

    Returns:
      The ``moving_mean`` and ``moving_variance`` variables by name.
    """
    # With decay 0 the moving averages hold exactly the last batch's statistics.
    network = build_network(replace(spec, bn_decay=0.0), "float32", load_pretrained=False)
    assign_weights(network, weights)
    averages = {n: v for n, v in network.variables_by_name().items() if "/moving_" in n}
    seed = tf.constant([0, 0]) if network.stochastic else None
    forward = tf.function(
        lambda x: network(to_float(x), training=True, update_stats=True, seed=seed),
        autograph=False,
    )
    sums = {name: np.zeros(v.shape) for name, v in averages.items()}
    seen = 0
    for batch in store.batches(256):
        if seen >= images or (seen and len(batch) < 2):
            break
        forward(tf.constant(batch))
        for name, variable in averages.items():
            sums[name] += variable.numpy() * len(batch)
        seen += len(batch)
    return {name: (value / seen).astype(np.float32) for name, value in sums.items()}
