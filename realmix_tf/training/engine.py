"""One update, its state, and the loop on the device that runs many of them a call.

Order of an update: views by learned rates → gradients → optimiser → decay of kernels → method state
→ averaged weights → rates by a probe. The same code runs on one device and on several: every loss
term is a replica's share of a mean over the global batch, so the optimiser may add the replicas'
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from realmix_tf.augment.ctaugment import CTAugment
from realmix_tf.methods.base import Batch, Method, StepResult
from realmix_tf.nets.build import build_network
from realmix_tf.nets.layers import Network, Output
from realmix_tf.nets.spec import NetworkSpec
from realmix_tf.randomness import key
from realmix_tf.training.learned_views import LearnedViews
from realmix_tf.training.optimizers import build_optimizer, learning_rate
from realmix_tf.training.settings import TrainSettings


class StepContext:
    """``realmix_tf.methods.base.Context`` inside one replica's step.

    Args:
      update: int64 scalar, the update's number.
      settings: numbers of the run.
      state, weights: the method's own, by name.
      replicas: how many work on the batch.
      teacher: the network with the averaged weights, or None.
    """

    def __init__(
        self,
        update: tf.Tensor,
        settings: TrainSettings,
        state: Mapping[str, tf.Variable],
        weights: Mapping[str, tf.Tensor],
        replicas: int,
        teacher: Callable[..., Output] | None = None,
    ) -> None:
        self.images = tf.cast(update, tf.float32) * settings.batch
        self.progress = tf.cast(update, tf.float32) / settings.total_updates
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        self.replica = tf.cast(replica, tf.int32)
        self.state, self.weights = state, weights
        self._update, self._seed, self._replicas = update, settings.seed, replicas
        self._teacher = None if teacher is None else Passes(teacher, self.seed, "teacher")

    def seed(self, purpose: str) -> tf.Tensor:
        words = key(self._seed, f"step/{purpose}")
        base = tf.constant([words & 0x7FFFFFFF, (words >> 32) & 0x7FFFFFFF], tf.int32)
        folded = tf.random.fold_in(base, tf.cast(self._update, tf.int32))
        return tf.random.fold_in(folded, self.replica)

    def mean(self, per_row: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(per_row) / self._replicas

    def masked_mean(self, per_row: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        kept = tf.stop_gradient(self.total(tf.reduce_sum(mask)))
        return tf.reduce_sum(per_row * mask) / tf.maximum(kept, 1.0)

    def total(self, value: tf.Tensor) -> tf.Tensor:
        if self._replicas == 1:
            return value
        return tf.distribute.get_replica_context().all_reduce("sum", value)

    def batch_mean(self, rows: tf.Tensor) -> tf.Tensor:
        return self.total(tf.reduce_mean(rows, 0)) / self._replicas

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        if self._replicas == 1:
            return rows
        return tf.distribute.get_replica_context().all_gather(rows, axis=0)

    def teacher(self, images: tf.Tensor) -> Output:
        if self._teacher is None:
            raise ValueError("a method that calls the teacher must say so: reads_teacher = True")
        output = self._teacher(images, training=True, update_stats=False)
        return Output(*map(tf.stop_gradient, output))


class Passes:
    """A network as a method calls it: every pass of a step gets random numbers of its own."""

    def __init__(
        self, network: Callable[..., Output], seed: Callable[[str], tf.Tensor], name: str
    ) -> None:
        self._network, self._seed, self._name, self._count = network, seed, name, 0

    def __call__(self, images: tf.Tensor, *, training: bool, update_stats: bool) -> Output:
        seed = self._seed(f"{self._name}/{self._count}")
        self._count += 1
        return self._network(images, training=training, update_stats=update_stats, seed=seed)


def _undo(variable: Any, value: tf.Tensor, skipped: tf.Tensor) -> Any:
    return variable.assign(tf.where(skipped, value, variable))


class Engine:
    """The state of a run and the compiled loop over its updates.

    Args:
      method: what to minimise.
      spec: the network.
      settings: numbers of the run.
      precision: ``float32`` or ``mixed_bfloat16``.
      strategy: a tf.distribute strategy; everything is created in its scope.
      synchronized: batch statistics over all replicas.
      learned: what finishes views inside the update, as ``TrainingInput.learned``.
    """

    def __init__(
        self,
        method: Method,
        spec: NetworkSpec,
        settings: TrainSettings,
        precision: str = "float32",
        strategy: tf.distribute.Strategy | None = None,
        synchronized: bool = False,
        learned: Mapping[str, CTAugment] | None = None,
    ) -> None:
        self.method, self.settings = method, settings
        self.strategy = strategy or tf.distribute.get_strategy()
        self.metric_names: tuple[str, ...] = ()
        with self.strategy.scope():
            self.network = build_network(spec, precision, settings.seed, synchronized)
            heads = method.heads(
                settings.seed, self.network.feature_size, self.network.feature_map_shape
            )
            self.heads = {
                name: keras.Variable(value, dtype="float32", name=f"heads_{name.replace('/', '_')}")
                for name, value in heads.items()
            }
            self._trainable = self.network.trainable_by_name()
            self._moved = self._trainable | {f"heads/{n}": v for n, v in self.heads.items()}
            self._batch_averages = [
                v for n, v in self.network.variables_by_name().items() if n not in self._trainable
            ]
            self.teacher: Network | None = None
            if method.reads_teacher or learned:
                self.teacher = build_network(spec, precision, settings.seed, synchronized)
                self.teacher.share_statistics(self.network)
                shadows = self.teacher.trainable_by_name()
                self.ema = {name: shadows[name].value for name in self._trainable}
                for name, variable in self._trainable.items():
                    self.ema[name].assign(tf.convert_to_tensor(variable))
            else:
                self.ema = {
                    name: tf.Variable(tf.convert_to_tensor(v), trainable=False, name=f"ema_{name}")
                    for name, v in self._trainable.items()
                }
            self.state = {
                name: tf.Variable(value, trainable=False, name=name)
                for name, value in method.initial_state().items()
            }
            self.views = LearnedViews(learned or {})
            self._rate = tf.Variable(
                settings.lr,
                trainable=False,
                dtype=tf.float32,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            self.optimizer = build_optimizer(settings, self._rate, list(self._moved.values()))
        self._loop = tf.function(self._run)

    def variables(self) -> dict[str, Any]:
        """Every variable a checkpoint holds, by plain name."""
        named: dict[str, Any] = {}
        named |= {f"net/{n}": v for n, v in self.network.variables_by_name().items()}
        named |= {f"heads/{n}": v for n, v in self.heads.items()}
        named |= {f"ema/{n}": v for n, v in self.ema.items()}
        named |= {f"method/{n}": v for n, v in self.state.items()}
        named |= {f"augment/{n}": v for n, v in self.views.variables().items()}
        # Keras numbers the optimisers of a process; that number is no part of the name.
        named |= {f"optimizer/{v.path.partition('/')[2]}": v for v in self.optimizer.variables}
        return named

    def first_input(self, batch: Batch) -> tf.Tensor | None:
        """The images the first trained pass of update 0 would read: float32 [N, H, W, C].

        None where no pass moves the statistics of batch normalisation.

        The method runs with a stand-in for the network, so this costs no computation of note.

        Args:
          batch: of update 0, its views finished (see ``finished``).
        """
        fed: list[tf.Tensor] = []
        network = self.network

        def blank(images: tf.Tensor, update_stats: bool, **_: Any) -> Output:
            if update_stats:
                fed.append(images)
            rows = images.shape[0]
            return Output(
                tf.zeros([rows, network.spec.num_classes]),
                tf.zeros([rows, network.feature_size]),
                tf.zeros([rows, *network.feature_map_shape]),
            )

        update, weights = tf.constant(0, tf.int64), self._head_weights()
        context = StepContext(update, self.settings, self.state, weights, 1, blank)
        self.method.losses(batch, blank, context)
        return fed[0] if fed else None

    def finished(self, batch: Batch) -> Batch:
        """A batch of the input as ``losses`` reads it: learned views made by the current rates."""
        return self.views.finish(batch)[0]

    def weights(self, averaged: bool) -> dict[str, np.ndarray]:
        """The network's variables by name, for evaluation and export.

        Args:
          averaged: EMA weights instead of the raw ones; batch normalisation's moving averages are
            always the live ones, as in the published code.
        """
        values = {name: np.asarray(v) for name, v in self.network.variables_by_name().items()}
        if averaged:
            values |= {name: v.numpy() for name, v in self.ema.items()}
        return values

    def iterator(self, dataset: tf.data.Dataset) -> Iterator[Any]:
        """An iterator whose elements reach the replicas in turn."""
        if self.strategy.num_replicas_in_sync == 1:
            return iter(dataset)
        distributed = self.strategy.distribute_datasets_from_function(lambda context: dataset)
        return iter(distributed)

    def run(self, iterator: Iterator[Any], start: int, count: int) -> dict[str, np.ndarray]:
        """Runs ``count`` updates and returns each update's metrics.

        Args:
          iterator: from ``iterator``, standing at update ``start``.
          start: number of the first update.
          count: how many, at least 1.

        Returns:
          metric name → float32 [count]; among them ``loss/total``, every term as ``loss/<name>``,
          and ``updates/skipped`` (1 where the gradient was not finite and the
          weights were left alone).
        """
        rows = self._loop(iterator, tf.constant(start, tf.int64), tf.constant(count, tf.int64))
        return dict(zip(self.metric_names, rows.numpy().T, strict=True))

    def _run(self, iterator: Any, start: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        rows = tf.TensorArray(tf.float32, size=tf.cast(count, tf.int32), element_shape=[None])
        for index in tf.range(count):
            rows = rows.write(tf.cast(index, tf.int32), self._update(next(iterator), start + index))
        return rows.stack()

    @tf.autograph.experimental.do_not_convert
    def _update(self, batch: Batch, update: tf.Tensor) -> tf.Tensor:
        before = [(v.value, tf.convert_to_tensor(v)) for v in self._batch_averages]
        metrics, state, probe = self.strategy.run(self._replica_step, args=(batch, update))
        skipped = self._combined("updates/skipped", metrics["updates/skipped"]) > 0.5
        for variable, value in before:
            self.strategy.extended.update(variable, _undo, args=(value, skipped))
        for name, value in state.items():
            self.state[name].assign(self._local(value)[0])
        self._decay_and_average(skipped)
        if probe:
            rates = self.strategy.run(self._probe_step, args=(probe, update, skipped))
            for name, variable in self.views.variables().items():
                variable.assign(self._local(rates[name])[0])
        self.metric_names = tuple(metrics)
        return tf.stack([self._combined(name, value) for name, value in metrics.items()])

    def _replica_step(
        self, batch: Batch, update: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], Any]:
        replicas = self.strategy.num_replicas_in_sync
        batch, probe = self.views.finish(batch)
        teacher = self.teacher if self.method.reads_teacher else None
        variables = [v.value for v in self._moved.values()]
        with tf.GradientTape() as tape:
            weights = self._head_weights()
            context = StepContext(update, self.settings, self.state, weights, replicas, teacher)
            network = Passes(self.network, context.seed, "pass")
            result: StepResult = self.method.losses(batch, network, context)
            terms = {name: term.value for name, term in result.terms.items()}
            total = tf.add_n([term.value * term.weight for term in result.terms.values()])
            if self.settings.wd_mode == "l2" and self.settings.wd:
                squares = [tf.nn.l2_loss(v.value) for v in self._kernels()]
                terms["l2"] = tf.add_n(squares) / replicas
                total += self.settings.wd * terms["l2"]
        gradients = tape.gradient(
            total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # One number tells whether any gradient on any replica is not finite.
        square = context.total(tf.add_n([tf.reduce_sum(g * g) for g in gradients]))
        finite = tf.math.is_finite(square) & tf.math.is_finite(context.total(total))
        # No tf.cond around apply: it is not possible under a strategy. A rate of 0 and gradients
        # of 0 leave every weight as it is.
        gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
        rate = learning_rate(self.settings, context.progress)
        self._rate.assign(tf.where(finite, rate, 0.0))
        self.optimizer.apply(gradients, list(self._moved.values()))
        metrics = {"loss/total": total}
        metrics |= {f"loss/{name}": value for name, value in terms.items()}
        metrics |= result.metrics
        metrics["lr"] = self._rate / replicas
        metrics["updates/skipped"] = tf.cast(~finite, tf.float32) / replicas
        state = {
            name: tf.where(finite, value, self.state[name]) for name, value in result.state.items()
        }
        return metrics, state, probe

    def _probe_step(self, probe: Any, update: tf.Tensor, skipped: tf.Tensor) -> dict[str, Any]:
        """New rates of the learned policy, from how well the averaged weights know the probe."""
        replicas = self.strategy.num_replicas_in_sync
        context = StepContext(update, self.settings, self.state, {}, replicas)

        def predict(images: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(self.teacher(images, training=False).logits)  # type: ignore[misc]

        rates = self.views.learn(probe, predict, context.gather)
        return {n: tf.where(skipped, self.views.variables()[n], v) for n, v in rates.items()}

    def _head_weights(self) -> dict[str, tf.Tensor]:
        return {name: tf.convert_to_tensor(v) for name, v in self.heads.items()}

    def _kernels(self) -> list[Any]:
        return [v for name, v in self._moved.items() if name.endswith("/kernel")]

    def _decay_and_average(self, skipped: tf.Tensor) -> None:
        shrink = 1.0 - self.settings.wd * self._rate
        move = tf.where(skipped, 0.0, 1.0 - self.settings.ema)

        def decay(variable: Any, factor: tf.Tensor) -> Any:
            return variable.assign(variable * factor)

        def average(shadow: Any, variable: Any) -> Any:
            return shadow.assign_sub((shadow - variable) * move)

        if self.settings.wd and self.settings.wd_mode == "decoupled":
            for variable in self._kernels():
                self.strategy.extended.update(variable.value, decay, args=(shrink,))
        for name, variable in self._trainable.items():
            self.strategy.extended.update(self.ema[name], average, args=(variable.value,))

    def _local(self, value: Any) -> tuple[tf.Tensor, ...]:
        return self.strategy.experimental_local_results(value)

    def _combined(self, name: str, value: Any) -> tf.Tensor:
        parts = tf.stack(self._local(value))
        if name.endswith("/min"):
            return tf.reduce_min(parts)
        return tf.reduce_max(parts) if name.endswith("/max") else tf.reduce_sum(parts)
