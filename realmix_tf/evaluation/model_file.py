"""A model as files: ``model.json`` (what it is) and ``weights.npz`` (numbers). No TensorFlow.

Both come from strangers: sizes are bounded, types are checked and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realmix_tf.data.manifest import RESIZES
from realmix_tf.errors import CheckpointError, DataError
from realmix_tf.files import atomic_write, human_bytes, read_json, resource_error
from realmix_tf.nets.spec import NetworkSpec

SCHEMA = 1
WEIGHTS = ("ema", "raw")
_MAX_JSON_BYTES = 32 << 20
_MAX_WEIGHTS_BYTES = 8 << 30
_MAX_HEADER_BYTES = 4096
_MAX_NAME = 1000
_MAX_LIST = 64

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ModelDescription:
    """Everything about a classifier but its weights; key ``model`` of a run's args.json.

    Attributes:
      spec: the network.
      classes: the class names, one an output, all different.
      preprocessing: how a picture becomes the network's input: ``resize`` (``stretch``, or
        ``center``, which is ``crop`` of ``decode_image``), ``background`` (red, green, blue in
        0..255 under transparent pixels), ``channels``. Further values are text, numbers, truth
        values, or lists of them.
      provenance: where it comes from: ``dataset``, ``images`` (seen in training), ``weights``
        (``ema`` or ``raw``) and whatever else is worth knowing; JSON-able.
    """

    spec: NetworkSpec
    classes: tuple[str, ...]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_classes(self.classes, self.spec.num_classes)
        _check_preprocessing(self.preprocessing, self.spec.channels)
        weights = self.provenance.get("weights", "ema")
        if weights not in WEIGHTS:
            raise CheckpointError(f"the weights are called {weights!r}, not 'ema' or 'raw'")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping that ``from_json`` takes back."""
        return {
            "schema": SCHEMA,
            "spec": self.spec.to_json(),
            "classes": list(self.classes),
            "preprocessing": dict(self.preprocessing),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, value: object, where: object = "") -> ModelDescription:
        """Rebuilds a description from untrusted JSON; further keys are ignored.

        Raises:
          CheckpointError: a key is missing or a value is not usable.
        """
        if not isinstance(value, dict):
            raise CheckpointError("the model's description is not a JSON object", where)
        if value.get("schema") != SCHEMA:
            raise CheckpointError(
                f"the model's description has schema {value.get('schema')!r}, not {SCHEMA}",
                where,
                "a version of this package that fits the model",
            )
        classes, preprocessing = value.get("classes"), value.get("preprocessing")
        provenance = value.get("provenance", {})
        if not isinstance(classes, list):
            raise CheckpointError("the model's description has no list of classes", where)
        if not isinstance(preprocessing, dict) or not isinstance(provenance, dict):
            raise CheckpointError("the model's preprocessing or provenance is no mapping", where)
        try:
            spec = NetworkSpec.from_json(value.get("spec"))
            return cls(spec, tuple(classes), preprocessing, provenance)
        except CheckpointError as error:
            raise CheckpointError(error.what, where, error.remedy) from error


def read_model_json(path: Path) -> Any:
    """Reads a JSON file that describes a model.

    Raises:
      CheckpointError: it is missing, not a regular file, too large or not JSON.
    """
    if not path.is_file():
        raise CheckpointError("there is no such file", path, "a run folder or an exported model")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(
            f"this file is larger than {human_bytes(_MAX_JSON_BYTES)}: it is no model", path
        )
    try:
        return read_json(path)
    except DataError as error:
        raise CheckpointError(error.what, path, error.remedy) from error


def write_weights(path: Path, arrays: Arrays) -> str:
    """Writes numeric arrays as an .npz file, atomically; the same arrays give the same bytes.

    Returns:
      The file's SHA-256 in hexadecimal.

    Raises:
      ResourceError: the file cannot be written.
    """
    # numpy.savez stamps the time of day into the archive; a model's hash must not depend on it.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                values = np.ascontiguousarray(arrays[name])
                np.lib.format.write_array(member, values, allow_pickle=False)
    data = buffer.getbuffer()
    with atomic_write(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: Path, sha256: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """Reads what ``write_weights`` wrote.

    Args:
      path: the .npz file.
      sha256: what the file's SHA-256 must be; not checked when None.

    Raises:
      CheckpointError: it is missing, too large, damaged, another file than expected, compressed,
        or holds anything but numeric arrays.
    """
    if not path.is_file():
        raise CheckpointError("the weights are missing", path, "export the model again")
    if path.stat().st_size > _MAX_WEIGHTS_BYTES:
        raise CheckpointError(f"the weights exceed {human_bytes(_MAX_WEIGHTS_BYTES)}", path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise resource_error(error, path) from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            "the weights are not those that model.json describes (SHA-256 differs)",
            path,
            "copy the whole model folder again",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                _read_member(archive, entry, arrays)
    except CheckpointError as error:
        raise CheckpointError(error.what, path, error.remedy) from error
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, KeyError, NotImplementedError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise CheckpointError(f"the weights cannot be read: {reason}", path) from e
    except (RuntimeError, SyntaxError, TypeError, OverflowError, MemoryError) as e:
        raise CheckpointError(f"the weights are damaged ({type(e).__name__})", path) from e
    return arrays


def check_weights(expected: Mapping[str, tuple[int, ...]], arrays: Arrays) -> None:
    """Checks that ``arrays`` are exactly the float32 arrays ``expected`` names, all finite.

    Raises:
      CheckpointError: naming the first difference in order of names.
    """
    remedy = "the model or checkpoint that belongs to this description"
    for name in sorted({*expected, *arrays}):
        if name not in arrays:
            raise CheckpointError("the weights lack a variable of the network", name, remedy)
        if name not in expected:
            raise CheckpointError("the network has no such variable", name, remedy)
        value = arrays[name]
        if value.shape != tuple(expected[name]):
            raise CheckpointError(
                f"the weights have shape {value.shape}, the network {tuple(expected[name])}",
                name,
                remedy,
            )
        if value.dtype != np.float32:
            raise CheckpointError(f"the weights are {value.dtype}, not float32", name, remedy)
        if not np.isfinite(value).all():
            raise CheckpointError("the weights hold numbers that are not finite", name)


def require_plausible(spec: NetworkSpec, values: int) -> None:
    """Refuses a description whose network has certainly more weights than there are ``values``.

    So that a few bytes of JSON cannot make us build a network larger than the memory.

    Raises:
      CheckpointError: the description asks for more.
    """
    least = spec.fewest_weights()
    if values < least:
        raise CheckpointError(
            f"the description asks for more than {least} weights but the file holds {values}"
        )


def _read_member(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, arrays: dict[str, npt.NDArray[Any]]
) -> None:
    name = entry.filename.removesuffix(".npy")
    if name in arrays or name == entry.filename or not name:
        raise CheckpointError(f"the weights have an unexpected part {entry.filename!r}")
    # Stored members only: what is unpacked is then never larger than the file itself.
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise CheckpointError(f"part {entry.filename!r} of the weights is compressed")
    with archive.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise CheckpointError(f"part {entry.filename!r} has an unknown format")
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member, max_header_size=_MAX_HEADER_BYTES)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise CheckpointError(f"part {entry.filename!r} is not numeric ({dtype})")
        if any(side < 0 for side in shape):
            raise CheckpointError(f"part {entry.filename!r} has the impossible shape {shape}")
        count = 1
        for side in shape:
            count *= side
        # Compared before anything is allocated, and exact: a rest would be hidden cargo.
        if count * dtype.itemsize != entry.file_size - member.tell():
            raise CheckpointError(f"part {entry.filename!r} is not as long as its shape {shape}")
        flat = np.frombuffer(member.read(), dtype)
    arrays[name] = flat.reshape(shape, order="F" if fortran else "C")


def _check_classes(classes: tuple[str, ...], count: int) -> None:
    if len(classes) != count:
        raise CheckpointError(f"the model names {len(classes)} classes but has {count} outputs")
    for name in classes:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            raise CheckpointError(f"a class is called {str(name)[:80]!r}, which is no usable name")
    if len(set(classes)) != count:
        twice = next(name for name in classes if classes.count(name) > 1)
        raise CheckpointError(f"two classes are called {twice!r}")


def _check_preprocessing(preprocessing: dict[str, Any], channels: int) -> None:
    if len(preprocessing) > _MAX_LIST:
        raise CheckpointError("the model's preprocessing has too many entries")
    for key, value in preprocessing.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        plain = all(item is None or type(item) in (str, int, float, bool) for item in values)
        if not isinstance(key, str) or not plain or len(values) > _MAX_LIST:
            raise CheckpointError(f"the model's preprocessing has an unusable {str(key)[:80]!r}")
    if preprocessing.get("resize", RESIZES[0]) not in RESIZES:
        raise CheckpointError(
            f"the model asks for pictures resized by {preprocessing['resize']!r}, not "
            + " or ".join(map(repr, RESIZES)),
            "",
            "a version of this package that fits the model",
        )
    background = preprocessing.get("background", (0, 0, 0))
    if (
        not isinstance(background, (list, tuple))
        or [type(v) is int and 0 <= v <= 255 for v in background] != [True] * 3
    ):
        raise CheckpointError("the model's background is not three whole numbers in 0..255")
    if preprocessing.get("channels", channels) != channels:
        raise CheckpointError(
            f"the model's preprocessing makes {preprocessing['channels']!r} channels, "
            f"its network reads {channels}"
        )


def is_model_folder(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder that holds an exported model."""
    return os.path.isfile(os.path.join(path, "model.json"))


def is_run_or_model_folder(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is an exported model, or a run with its settings or its model."""
    of_run = os.path.isfile(os.path.join(path, "args", "args.json"))
    return of_run or is_model_folder(path) or is_model_folder(os.path.join(path, "model"))
