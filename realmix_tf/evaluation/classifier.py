"""The one way from pictures to probabilities, and classifiers as files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from realmix_tf import version
from realmix_tf.augment.ops import to_float
from realmix_tf.errors import CheckpointError, DataError, UsageError
from realmix_tf.evaluation import model_file
from realmix_tf.evaluation.model_file import ModelDescription
from realmix_tf.files import write_json
from realmix_tf.nets.build import build_network
from realmix_tf.nets.layers import Network
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.training import checkpoint

# Of one batch; larger images get smaller batches, so that memory stays bounded.
_MOST_PIXELS = 1 << 24
_PREFIX = re.compile(r"(?P<prefix>.*model\.ckpt-(?P<images>\d{1,18}))(\.index|\.json|\.data-.*)?$")


class Predictor:
    """Pictures to probabilities: periodic and final evaluation and inference all use this.

    Args:
      network: used in inference mode (batch normalisation's moving averages); its weights may
        change between calls.
      batch: images a pass. The last pass is padded to it, so that every image meets the same
        program whatever its company.

    Raises:
      UsageError: ``batch`` is below 1.
    """

    def __init__(self, network: Network, batch: int = 256) -> None:
        if batch < 1:
            raise UsageError(f"the batch is {batch}, not at least 1", "--batch")
        spec = network.spec
        self.network = network
        self.shape = (spec.height, spec.width, spec.channels)
        self.batch = max(1, min(batch, _MOST_PIXELS // (spec.height * spec.width)))
        signature = tf.TensorSpec([self.batch, *self.shape], tf.uint8)
        # Not converted, as updates are not: a network is the same in training and here.
        self._run = tf.function(self._forward, input_signature=[signature], autograph=False)

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, C] → float32 [N, classes], each row summing to 1.

        Raises:
          DataError: another shape or type than the network reads.
        """
        return self._all(images)[0]

    def features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, C] → float32 [N, D]: what the network's last layer reads.

        Raises:
          DataError: another shape or type than the network reads.
        """
        return self._all(images)[1]

    def _forward(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        output = self.network(to_float(images), training=False, update_stats=False)
        return tf.nn.softmax(tf.cast(output.logits, tf.float32)), output.features

    def _all(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        if images.dtype != np.uint8 or images.shape[1:] != self.shape or images.ndim != 4:
            raise DataError(
                f"the network reads uint8 images of {self.shape}, not {images.dtype} "
                f"{images.shape[1:]}"
            )
        parts: tuple[list[Any], list[Any]] = ([], [])
        # At least one pass, so that no images give arrays of the right width.
        for start in range(0, max(1, len(images)), self.batch):
            chunk = images[start : start + self.batch]
            kept = len(chunk)
            if kept < self.batch:
                padding = np.zeros((self.batch - kept, *self.shape), np.uint8)
                chunk = np.concatenate([chunk, padding])
            for part, value in zip(parts, self._run(tf.constant(chunk)), strict=True):
                part.append(value.numpy()[:kept])
        return [np.concatenate(part) for part in parts]


@dataclass
class Classifier:
    """A trained network with all that is needed to use it.

    Attributes:
      spec: the network's description.
      classes: the class names, one an output.
      preprocessing: how a picture becomes the network's input (see ``ModelDescription``).
      network: in float32.
      predictor: on ``network``.
      provenance: where it comes from (see ``ModelDescription``).
    """

    spec: NetworkSpec
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    network: Network
    predictor: Predictor
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        description: ModelDescription,
        weights: Mapping[str, npt.NDArray[Any]],
        batch: int = 256,
    ) -> Classifier:
        """Builds the network in float32 and gives it ``weights`` (name → float32 array).

        Raises:
          CheckpointError: the weights are not exactly those of the network.
        """
        spec = description.spec
        model_file.require_plausible(spec, sum(value.size for value in weights.values()))
        network = build_network(spec, "float32", load_pretrained=False)
        assign_weights(network, weights)
        return cls(
            spec,
            description.classes,
            dict(description.preprocessing),
            network,
            Predictor(network, batch),
            dict(description.provenance),
        )

    @property
    def description(self) -> ModelDescription:
        """Everything but the weights."""
        return ModelDescription(self.spec, self.classes, self.preprocessing, self.provenance)

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, C] → probabilities float32 [N, classes].

        Raises:
          DataError: another shape or type than the network reads.
        """
        return self.predictor.probabilities(images)

    def save(self, folder: str | Path) -> None:
        """Writes ``folder/weights.npz`` and then ``folder/model.json``, each atomically.

        The JSON names the weights' SHA-256, so a model whose saving was cut off is noticed.

        Raises:
          ResourceError: the folder cannot be written.
        """
        folder = Path(folder)
        description = self.description
        weights = {
            name: np.asarray(variable.numpy(), np.float32)
            for name, variable in self.network.variables_by_name().items()
        }
        digest = model_file.write_weights(folder / "weights.npz", weights)
        versions = {
            "realmix-tf": version.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        }
        contents = {**description.to_json(), "versions": versions, "weights_sha256": digest}
        write_json(folder / "model.json", contents)

    @classmethod
    def load(cls, path: str | Path, weights: str = "ema", batch: int = 256) -> Classifier:
        """Loads a classifier; every file is treated as untrusted.

        Args:
          path: a run folder (its exported model), a model folder, or a checkpoint's prefix
            ``…/tf/model.ckpt-<images>``.
          weights: which weights of a checkpoint, ``ema`` or ``raw``. An exported model holds one
            kind; ``ema`` loads it whichever it is, ``raw`` only if it says that it is raw.
          batch: images a pass, see ``Predictor``.

        Raises:
          UsageError: ``raw`` of an exported model that holds the averages.
          CheckpointError: nothing usable is there; the first difference is named.
        """
        if weights not in model_file.WEIGHTS:
            raise UsageError(f"there are no weights {weights!r}", "", "ema or raw")
        path = Path(path)
        if path.is_dir():
            return cls._load_model(_model_folder(path), weights, batch)
        match = _PREFIX.match(str(path))
        if match is None:
            raise CheckpointError(
                "this is no run folder, model folder or checkpoint",
                path,
                "--inference_ckpt=experiments/…/<run>, or …/tf/model.ckpt-<images>",
            )
        return cls._load_checkpoint(match["prefix"], int(match["images"]), weights, batch)

    @classmethod
    def _load_model(cls, folder: Path, weights: str, batch: int) -> Classifier:
        contents = model_file.read_model_json(folder / "model.json")
        description = ModelDescription.from_json(contents, folder / "model.json")
        if weights == "raw" and description.provenance.get("weights") != "raw":
            present = checkpoint.committed(folder.absolute().parent / "tf")
            raise UsageError(
                "an exported model holds only the averaged (ema) weights",
                folder,
                f"a checkpoint, {present[-1] if present else '…/tf/model.ckpt-<images>'}",
            )
        digest = contents.get("weights_sha256")
        if not isinstance(digest, str):
            raise CheckpointError("weights_sha256 is missing", folder / "model.json")
        arrays = model_file.read_weights(folder / "weights.npz", digest)
        return cls._create_from(folder, description, arrays, batch)

    @classmethod
    def _load_checkpoint(cls, prefix: str, images: int, weights: str, batch: int) -> Classifier:
        # <run>/tf/model.ckpt-<images>
        args = Path(prefix).absolute().parent.parent / "args" / "args.json"
        contents = model_file.read_model_json(args)
        model = contents.get("model") if isinstance(contents, dict) else None
        if model is None:
            raise CheckpointError("the run's settings do not describe a model", args)
        described = ModelDescription.from_json(model, args)
        provenance = {**described.provenance, "images": images, "weights": weights}
        description = ModelDescription(
            described.spec, described.classes, described.preprocessing, provenance
        )
        arrays = read_checkpoint(prefix, weights)
        return cls._create_from(Path(prefix), description, arrays, batch)

    @classmethod
    def _create_from(
        cls, where: Path, description: ModelDescription, arrays: Any, batch: int
    ) -> Classifier:
        try:
            return cls.create(description, arrays, batch)
        except CheckpointError as error:
            place = f"{where}: {error.where}" if error.where else where
            raise CheckpointError(error.what, place, error.remedy) from error


def assign_weights(network: Network, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Gives a network its weights, after checking names, shapes and types both ways.

    Args:
      network: the network to change; untouched if anything differs.
      weights: float32 arrays under the names of ``network.variables_by_name()``.

    Raises:
      CheckpointError: naming the first difference.
    """
    variables = network.variables_by_name()
    model_file.check_weights({name: tuple(v.shape) for name, v in variables.items()}, weights)
    for name, variable in variables.items():
        variable.assign(weights[name])


def read_checkpoint(prefix: str, weights: str = "ema") -> dict[str, npt.NDArray[Any]]:
    """A network's weights out of a training checkpoint.

    Args:
      prefix: ``…/tf/model.ckpt-<images>``.
      weights: ``raw``: everything under ``net/``; ``ema``: the moving averages of the weights
        (under ``ema/``) where they exist, and the rest (batch normalisation) from ``net/``.

    Raises:
      CheckpointError: it is missing, incomplete, damaged or has no such weights.
    """
    _check_commit(prefix)
    arrays: dict[str, npt.NDArray[Any]] = {}
    shadows = 0
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in sorted(reader.get_variable_to_shape_map()):
            group, _, rest = name.partition("/")
            if group == "net":
                arrays.setdefault(rest, np.asarray(reader.get_tensor(name)))
            elif group == "ema" and weights == "ema":
                # 'ema/' sorts before 'net/', so a shadow is there before what it replaces.
                arrays[rest] = np.asarray(reader.get_tensor(name))
                shadows += 1
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the checkpoint cannot be read: {reason}", prefix) from error
    if not arrays or (weights == "ema" and not shadows):
        raise CheckpointError(f"the checkpoint has no {weights} weights", prefix)
    return arrays


def _check_commit(prefix: str) -> None:
    """Checks the checkpoint's files against its .json, which is written last."""
    mark = Path(f"{prefix}.json")
    if not mark.is_file():
        present = [path.name for path in checkpoint.committed(mark.parent)]
        remedy = f"one of {', '.join(present[-3:])}" if present else "the folder of a finished run"
        raise CheckpointError("there is no such complete checkpoint", prefix, remedy)
    model_file.read_model_json(mark)
    checkpoint.check(Path(prefix))


def _model_folder(path: Path) -> Path:
    for folder in (path / "model", path):
        if model_file.is_model_folder(folder):
            return folder
    present = checkpoint.committed(path / "tf")
    if present:
        raise CheckpointError(
            "this run has not exported a model yet", path, f"its checkpoint {present[-1]}"
        )
    raise CheckpointError("there is no model in this folder", path, "a run folder")
