"""Keras models as networks: those of keras.applications, and a user's own.

A model is put together again layer by layer, with stand-ins for the layers that do not keep the
contract (``keras_layers.stand_in``), names that are the same in every process, the network's
precision, and initial weights that depend on the seed and the names only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from realmix_tf.errors import UsageError
from realmix_tf.keys import key
from realmix_tf.nets import pretrained
from realmix_tf.nets.applications import is_application
from realmix_tf.nets.keras_layers import FixedScale, Noise, Normalization, passing, stand_in
from realmix_tf.nets.layers import Network, share
from realmix_tf.nets.registry import registered_networks
from realmix_tf.nets.spec import NetworkSpec

# Layers that read pixel values: in bfloat16 they would round them.
_EXACT = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Resizing)
_NUMBERED_VARIABLE = re.compile(r"variable(_\d+)?")
_RANDOM = re.compile(r"(Random|TruncatedNormal|ParameterizedTruncated|Multinomial)")


class _Place(NamedTuple):
    """Where a variable is: an attribute of a layer."""

    layer: keras.layers.Layer
    attribute: str

    @property
    def variable(self) -> keras.Variable:
        return getattr(self.layer, self.attribute)


class KerasNetwork(Network):
    """A Keras model without classifier, and our own classifier on its global mean.

    Args:
      spec, precision, seed, synchronized: see ``build_network``.
      load: whether ``spec.pretrained`` fetches the weights. Without it they are drawn like others,
        for a caller who assigns all of them.

    Raises:
      UsageError: the model cannot keep the contract of a network; the message says why.
      ResourceError: the ImageNet weights cannot be had.
    """

    def __init__(
        self, spec: NetworkSpec, precision: str, seed: int, synchronized: bool, load: bool
    ) -> None:
        super().__init__(spec, precision, seed, synchronized)
        self._prepare = None
        if is_application(spec.arch):
            self._prepare = pretrained.preparation(spec)
            template = pretrained.application_model(spec)
        else:
            template = _own_model(spec)
        self._clones: list[tuple[str, keras.layers.Layer]] = []
        self.body = self._put_together(template)
        # Not through Keras, which would look for layers in it.
        object.__setattr__(self, "_places", self._find_weights())
        clones = [layer for _, layer in self._clones]
        self.stochastic |= any(isinstance(layer, Noise) and layer.amount > 0 for layer in clones)
        if load and spec.pretrained:
            self._take_over(pretrained.imagenet_model(spec))
        shape = tuple(self.body.output_shape[1:])
        self.finish(*shape) if len(shape) == 3 else self.finish(1, 1, *shape)
        if self._prepare is None and not tf.distribute.has_strategy():
            self._require_contract()

    def embed(
        self, images: tf.Tensor, training: bool, update_stats: bool, seed: tf.Tensor | None
    ) -> tf.Tensor:
        if self._prepare is not None:
            images = self._prepare(images)
        with passing(update_stats, seed):
            y = self.body(images, training=training)
        return tf.reshape(tf.cast(y, self.compute), [-1, *self.feature_map_shape])

    def variables_by_name(self) -> dict[str, keras.Variable]:
        return self._of_body() | super().variables_by_name()

    def _of_body(self) -> dict[str, keras.Variable]:
        return {name: place.variable for name, place in self._places.items()}

    def _share_with(self, other: Any) -> None:
        for name, place in self._places.items():
            if not place.variable.trainable:
                share(place.layer, other._places[name].layer, place.attribute)

    def _put_together(self, template: keras.Model) -> keras.Model:
        paths = layer_paths(template)

        def clone(layer: Any) -> Any:
            if not isinstance(layer, keras.layers.Layer):
                return layer  # an operation on tensors, without state
            made = self._layer(layer, f"body/{paths[id(layer)]}")
            self._clones.append((f"body/{paths[id(layer)]}", made))
            return made

        try:
            # Initialisers that a layer hides inside draw their seed from Python's generator.
            with _python_random(key(self.seed, f"initial/{self.spec.arch}")):
                return keras.models.clone_model(template, clone_function=clone, recursive=True)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise _refused(self.spec, " ".join(str(error).split())) from error

    def _layer(self, layer: keras.layers.Layer, path: str) -> keras.layers.Layer:
        # With the prefix no layer can be called like an operation, which Keras numbers.
        name = path.replace("/", ".")
        config = _seeded(layer.get_config(), path, self.seed)
        made = stand_in(
            layer, config, name, path, self.spec.bn_decay, self.synchronized, self.precision
        )
        if made is not None:
            return made
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            return FixedScale(layer, name, pretrained.scale_after_statistics(self.spec))
        config["name"] = name
        if "dtype" in config:
            config["dtype"] = "float32" if isinstance(layer, _EXACT) else self.precision
        made = type(layer).from_config(config)
        made.trainable = layer.trainable
        return made

    def _find_weights(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for path, layer in self._clones:
            if isinstance(layer, Normalization):
                norm = layer.norm
                places |= {name: _Place(norm, name.rpartition("/")[2]) for name in norm.named}
                continue
            held = {
                id(value): _Place(holder, attribute)
                for holder in (layer, *layer._flatten_layers(include_self=False))
                for attribute, value in vars(holder).items()
                if isinstance(value, keras.Variable)
            }
            for name, weight in _weights(layer, path).items():
                if weight.dtype != "float32":
                    raise _refused(self.spec, f"{name} is {weight.dtype}, not float32")
                if id(weight) not in held:
                    raise _refused(self.spec, f"{name} is in a list or dictionary of its layer")
                places[name] = held[id(weight)]
        return places

    def _take_over(self, source: keras.Model) -> None:
        """Assigns the weights of a model of the same layers."""
        theirs: dict[str, Any] = {}
        paths = layer_paths(source)
        for layer in _innermost(source):
            theirs |= _weights(layer, f"body/{paths[id(layer)]}")
        for name, variable in self._of_body().items():
            variable.assign(np.asarray(theirs[name]))

    def _require_contract(self) -> None:
        """Traces a training pass and looks for what it must not do."""
        spec = self.spec
        run = tf.function(
            lambda images, seed: self(images, training=True, update_stats=False, seed=seed).logits,
            autograph=False,  # as the engine's updates are
        )
        try:
            graph = run.get_concrete_function(
                tf.TensorSpec([2, spec.height, spec.width, spec.channels]),
                tf.TensorSpec([2], tf.int32),
            ).graph.as_graph_def()
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise _refused(spec, " ".join(str(error).split())[:500]) from error
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        for node in nodes:
            if node.op.startswith("Assign"):
                raise _refused(spec, f"a training pass changes a variable ({node.name})")
            if _RANDOM.match(node.op):
                raise _refused(
                    spec, f"a training pass draws numbers that no seed decides ({node.name})"
                )


def layer_paths(model: keras.Model, prefix: str = "") -> dict[int, str]:
    """id of a layer → its path within a model, such as ``stem/conv2d_1``.

    Names that Keras made up count the layers of a process; here they count those of the model, or
    of the model within the model.
    """
    paths: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for layer in model.layers:
        path = prefix + _plain_name(layer, numbers)
        paths.setdefault(id(layer), path)
        if _is_container(layer):
            for inner, inner_path in layer_paths(layer, f"{path}/").items():
                paths.setdefault(inner, inner_path)
    return paths


def _innermost(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models within it."""
    for layer in model.layers:
        if _is_container(layer):
            yield from _innermost(layer)
        else:
            yield layer


def _is_container(layer: Any) -> bool:
    """Whether a layer is a model that cloning takes apart."""
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def _plain_name(layer: keras.layers.Layer, numbers: dict[str, int]) -> str:
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    made_up = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    if not re.fullmatch(rf"{re.escape(made_up)}(_\d+)?", layer.name):
        return str(layer.name).replace("/", "_")
    number = numbers.get(made_up, 0)
    numbers[made_up] = number + 1
    return f"{made_up}_{number}" if number else made_up


def _weights(layer: keras.layers.Layer, path: str) -> dict[str, keras.Variable]:
    """A layer's weights by name, those of layers inside it included; kernels end in ``/kernel``."""
    named: dict[str, keras.Variable] = {}
    inside: set[int] = set()
    numbers: dict[str, int] = {}
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        named |= _weights(inner, f"{path}/{_plain_name(inner, numbers)}")
        inside |= {id(weight) for weight in inner.weights}
    for weight in layer.weights:
        if id(weight) in inside:
            continue
        name = weight.name
        if _NUMBERED_VARIABLE.fullmatch(name):
            attributes = (a for a, value in vars(layer).items() if value is weight)
            name = next(attributes, name).lstrip("_")
        name = re.sub(r"_kernel$", "/kernel", name)
        while f"{path}/{name}" in named:
            name += "_"
        named[f"{path}/{name}"] = weight
    return named


def _own_model(spec: NetworkSpec) -> keras.Model:
    model = registered_networks()[spec.arch](spec)
    if not _is_container(model):
        raise _refused(spec, "its builder returns no Functional or Sequential keras.Model")
    wanted = (None, spec.height, spec.width, spec.channels)
    if not model.built or model.input_shape not in (wanted, (None, None, None, spec.channels)):
        found = model.input_shape if model.built else "none yet"
        raise _refused(spec, f"its input shape is {found}, not {wanted}")
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) not in (2, 4) or None in shape[1:]:
        raise _refused(spec, f"its output is {shape}, not one [N, h, w, D] or [N, D]")
    return model


def _refused(spec: NetworkSpec, reason: str) -> UsageError:
    return UsageError(
        f"the network {spec.arch!r} cannot be used: {reason}", "--arch", "see docs/python_api.md"
    )


def _seeded(value: Any, path: str, seed: int) -> Any:
    """A layer's configuration with a seed of its own for every initialiser."""
    if isinstance(value, dict):
        inner = value.get("config")
        if "class_name" in value and isinstance(inner, dict) and "seed" in inner:
            own = key(seed, f"initial/{path}") & 0x7FFFFFFF
            return {**value, "config": {**inner, "seed": own}}
        return {name: _seeded(part, f"{path}/{name}", seed) for name, part in value.items()}
    if isinstance(value, list):
        return [_seeded(part, f"{path}/{index}", seed) for index, part in enumerate(value)]
    return value


@contextmanager
def _python_random(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
