"""The two optimisers of the published recipes, and the learning rate's way from start to end."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from realmix_tf.training.settings import TrainSettings

_ADAM_EPSILON = 1e-8  # TensorFlow 1's default, which the published results were made with


class CurrentRate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of the current update, which the engine sets (0 skips an update)."""

    def __init__(self, variable: tf.Variable) -> None:
        super().__init__()
        self.variable = variable

    def __call__(self, step: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self.variable)

    def get_config(self) -> dict[str, Any]:
        return {}


class NesterovMomentum(keras.optimizers.Optimizer):
    """a ← m·a + g, then v ← v − lr·(g + m·a): Nesterov's momentum of TensorFlow 1 and PyTorch.

    Keras's SGD multiplies the gradient by the learning rate before it is accumulated, which is
    another rule where the rate changes with time.
    """

    def __init__(self, rate: CurrentRate, momentum: float) -> None:
        super().__init__(learning_rate=rate, name="nesterov")
        self.momentum = momentum
        self._sums: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        super().build(variables)
        self._sums = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        gradient = tf.cast(gradient, variable.dtype)
        total = self._sums[self._get_variable_index(variable)]
        moved = self.momentum * tf.convert_to_tensor(total) + gradient
        self.assign(total, moved)
        self.assign_sub(variable, learning_rate * (gradient + self.momentum * moved))

    def get_config(self) -> dict[str, Any]:
        return {"momentum": self.momentum}


def build_optimizer(
    settings: TrainSettings, rate: tf.Variable, variables: list[Any]
) -> keras.optimizers.Optimizer:
    """The optimiser of ``settings``, its own variables made.

    Args:
      rate: scalar float32, the learning rate of the current update.
      variables: what it moves.
    """
    current = CurrentRate(rate)
    if settings.optimizer == "sgd":
        optimizer = NesterovMomentum(current, settings.momentum)
    else:
        optimizer = keras.optimizers.Adam(current, epsilon=_ADAM_EPSILON)
    optimizer.build(variables)
    return optimizer


def learning_rate(settings: TrainSettings, progress: tf.Tensor) -> tf.Tensor:
    """lr(t) = lr·cos(t·arccos(lr_final)), float32 scalar.

    FixMatch's cos(7πt/16) (section 2.3) is lr_final = cos(7π/16) = 0.19509, AdaMatch's is 0.25.

    Args:
      progress: t in [0, 1], images seen over images planned.
    """
    if settings.lr_final == 1.0:
        return tf.constant(settings.lr, tf.float32)
    angle = math.acos(settings.lr_final)
    return settings.lr * tf.cos(tf.clip_by_value(progress, 0.0, 1.0) * angle)
