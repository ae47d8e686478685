#!/usr/bin/env python3
"""Times one update of a method on WRN-28-2 against the same update on stock Keras layers.

Every variant lives in a process of its own and waits; they are asked in turn, round after round, so
that a machine whose speed drifts treats all alike. A matrix multiplication is timed in every round,
too: it is the machine's limit at that moment. Where PyTorch is installed (it is no dependency) the
same network and update are timed there.

  python benchmarks/train_step.py --rounds=7 --method=mixmatch
  python benchmarks/train_step.py --rounds=7 --method=fixmatch --only=bfloat16
  python benchmarks/train_step.py --every_method --rounds=5
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZE, CHANNELS, CLASSES, FILTERS, REPEAT, SCALES = 32, 3, 10, 32, 4, 3
URATIO = 7
LABELED, UNLABELED = 250, 50_000
MATMUL = 2048
VARIANTS = {
    "ours float32": ("ours", "float32"),
    "stock Keras float32": ("stock", "float32"),
    "ours bfloat16": ("ours", "mixed_bfloat16"),
    "stock Keras bfloat16": ("stock", "mixed_bfloat16"),
    "PyTorch float32": ("torch", "float32"),
    "PyTorch bfloat16 channels-last": ("torch", "mixed_bfloat16"),
    "matmul float32": ("matmul", "float32"),
    "matmul bfloat16": ("matmul", "mixed_bfloat16"),
}
PEERED = ("supervised", "mixmatch", "realmix", "fixmatch")


def forward_flop() -> int:
    """Floating point operations of the network's convolutions for one image, forward."""
    flop = 2 * 9 * CHANNELS * 16 * SIZE * SIZE
    inputs, side = 16, SIZE
    for scale in range(SCALES):
        outputs = FILTERS << scale
        for unit in range(REPEAT):
            side = side // 2 if scale and not unit else side
            flop += 2 * 9 * (inputs + outputs) * outputs * side * side
            flop += 2 * inputs * outputs * side * side * (inputs != outputs)
            inputs = outputs
    return flop + 2 * inputs * CLASSES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="mixmatch")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="comma-separated words a variant must contain")
    parser.add_argument(
        "--every_method", action="store_true", help="all methods at automatic precision"
    )
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.method, arguments.batch)
    if arguments.every_method:
        return every_method(arguments.batch, arguments.rounds)
    names = [n for n in VARIANTS if "PyTorch" not in n or importlib.util.find_spec("torch")]
    if arguments.method not in PEERED:
        names = [n for n in names if n.startswith(("ours", "matmul"))]
    if arguments.only:
        words = [*arguments.only.split(","), "matmul"]
        names = [n for n in names if any(word in n for word in words)]
    workers = {name: Worker(name, arguments.method, arguments.batch) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for _ in range(arguments.rounds):
        for name, worker in workers.items():
            answer = worker.ask()
            seconds[name].append(answer["seconds"])
            memory[name] = answer["memory"]
    flop = max(worker.ready["flop"] for worker in workers.values())
    if not flop:
        raise SystemExit("error: --only leaves out our own variants, which count the operations")
    for worker in workers.values():
        worker.close()
    report(arguments.method, arguments.batch, flop, seconds, memory)
    return 0


def every_method(batch: int, rounds: int) -> int:
    """One method after the other, each interleaved with a matrix multiplication of its kind."""
    sys.path.insert(0, str(ROOT))
    from realmix_tf.methods.registry import FILES
    from realmix_tf.training.devices import resolve_precision

    low = resolve_precision("auto") == "mixed_bfloat16"
    kind = "bfloat16" if low else "float32"
    control = Worker(f"matmul {kind}", "supervised", batch)
    print(
        f"one update, WRN-28-2, batch {batch}, {SIZE}x{SIZE}x{CHANNELS}, {kind}; {rounds} rounds "
        "in turn with a matrix multiplication"
    )
    head = ("method", "GFLOP", "min s", "median s", "GFLOP/s", "of matmul", "memory MB", "own")
    print("{:<18}{:>7}{:>8}{:>10}{:>9}{:>11}{:>11}{:>8}".format(*head))
    for file in FILES:
        method = file.__name__.rpartition(".")[2]
        worker = Worker(f"ours {kind}", method, batch)
        seconds, limits, own, memory = [], [], [], 0.0
        for _ in range(rounds):
            answer = worker.ask()
            seconds.append(answer["seconds"])
            own.append(answer["own"] / answer["seconds"])
            memory = answer["memory"]
            limits.append(control.ask()["seconds"])
        flop = worker.ready["flop"]
        worker.close()
        middle, peak = statistics.median(seconds), 2 * MATMUL**3 / statistics.median(limits)
        print(
            f"{method:<18}{flop / 1e9:>7.0f}{min(seconds):>8.3f}{middle:>10.3f}"
            f"{flop / middle / 1e9:>9.0f}{100 * flop / middle / peak:>9.0f} %"
            f"{memory / 1e6:>11.0f}{100 * statistics.median(own):>6.1f} %",
            flush=True,
        )
    control.close()
    print(
        "own: what the method does besides running the network (views cut and mixed, targets,\n"
        "masks, losses, what it keeps), timed with a network that costs nothing, as a share of "
        "the update"
    )
    return 0


class Worker:
    """A process that times one update each time it is asked."""

    def __init__(self, name: str, method: str, batch: int) -> None:
        words = [sys.executable, __file__, "--worker", name, "--method", method]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*words, "--batch", str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.lines = iter(self.process.stdout or ())
        self.name = name
        self.ready = self._answer()  # compiled and warm

    def ask(self) -> dict[str, float]:
        """Seconds an update, of them the method's own, and the process's peak memory in bytes."""
        # Where it has ended, the answer says so.
        with contextlib.suppress(BrokenPipeError):
            print("go", file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        line = next(self.lines, "")
        if not line:
            raise SystemExit(
                f"error: the worker for {self.name!r} ended early; where all do not fit into the "
                "memory at once: --only=bfloat16"
            )
        return json.loads(line)


def report(
    method: str,
    batch: int,
    flop: float,
    seconds: dict[str, list[float]],
    memory: dict[str, float],
) -> None:
    print(
        f"one {method} update, WRN-28-2, batch {batch}, {SIZE}x{SIZE}x{CHANNELS}, "
        f"{flop / 1e9:.0f} GFLOP; {len(next(iter(seconds.values())))} rounds in turn"
    )
    head = (
        "variant",
        "min s",
        "median s",
        "max s",
        "images/s",
        "GFLOP/s",
        "of matmul",
        "memory MB",
    )
    print("{:<32}{:>8}{:>10}{:>8}{:>10}{:>9}{:>11}{:>11}".format(*head))
    for name, values in seconds.items():
        work = 2 * MATMUL**3 if "matmul" in name else flop
        kind = "bfloat16" if "bfloat16" in name else "float32"
        limit = seconds.get(f"matmul {kind}")
        share = ""
        if limit:
            peak = 2 * MATMUL**3 / statistics.median(limit)
            share = f"{100 * work / statistics.median(values) / peak:.0f} %"
        middle = statistics.median(values)
        rate = "" if "matmul" in name else f"{batch / middle:.0f}"
        print(
            f"{name:<32}{min(values):>8.3f}{middle:>10.3f}{max(values):>8.3f}{rate:>10}"
            f"{work / middle / 1e9:>9.0f}{share:>11}{memory[name] / 1e6:>11.0f}"
        )
    for kind in ("float32", "bfloat16"):
        for other in (f"stock Keras {kind}", *(n for n in seconds if "PyTorch" in n and kind in n)):
            ours = seconds.get(f"ours {kind}")
            if ours and other in seconds:
                ratios = [b / a for a, b in zip(ours, seconds[other], strict=True)]
                print(
                    f"{other} / ours {kind}: median of the rounds {statistics.median(ratios):.2f}, "
                    f"of the minima {min(seconds[other]) / min(ours):.2f}"
                )


def work(name: str, method: str, batch: int) -> int:
    kind, precision = VARIANTS[name]
    update, own, flop = MAKERS[kind](method, precision, batch)
    for _ in range(2):
        update()
        own()

    def answer(seconds: float, own_seconds: float) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        numbers = {"seconds": seconds, "own": own_seconds, "memory": memory, "flop": flop}
        print(json.dumps(numbers), flush=True)

    answer(0.0, 0.0)
    for _ in sys.stdin:
        start = time.perf_counter()
        update()
        middle = time.perf_counter()
        own()
        answer(middle - start, time.perf_counter() - middle)
    return 0


def nothing() -> None:
    """Stands where a variant has no part of its own to time."""


def ours(method: str, precision: str, batch: int) -> tuple[Callable[[], object], ...]:
    """An update of this project's engine on a fixed batch, through its public parts."""
    import tensorflow as tf

    from realmix_tf.methods.base import Batch, Task
    from realmix_tf.methods.registry import get_method
    from realmix_tf.nets.spec import NetworkSpec
    from realmix_tf.training.engine import Engine
    from realmix_tf.training.settings import TrainSettings

    method_class = get_method(method)
    task = Task(CLASSES, LABELED, UNLABELED, batch, (SIZE, SIZE))
    instance = method_class(method_class.Config(), task)
    spec = NetworkSpec(num_classes=CLASSES, height=SIZE, width=SIZE, filters=FILTERS, repeat=REPEAT)
    settings = TrainSettings(batch=batch, **vars(method_class.recipe))
    engine = Engine(instance, spec, settings, precision)
    views = instance.views()
    images = tf.random.stateless_uniform([batch, SIZE, SIZE, CHANNELS], [1, 2], -1, 1)
    many = tf.random.stateless_uniform([batch * views.ratio, *images.shape[1:]], [3, 4], -1, 1)
    labels = tf.range(batch, dtype=tf.int64) % CLASSES
    index = tf.range(batch * views.ratio, dtype=tf.int64)
    fixed = Batch(
        dict.fromkeys(views.labeled, images),
        labels,
        dict.fromkeys(views.unlabeled, many),
        index[:batch] % LABELED,
        index,
    )
    iterator = engine.iterator(tf.data.Dataset.from_tensors(fixed).repeat().prefetch(2))
    counter = iter(range(1 << 30))

    def update() -> object:
        return engine.run(iterator, next(counter), 1)

    own, rows = own_work(engine, fixed)
    return update, own, forward_flop() * rows


def own_work(engine: Any, batch: Any) -> tuple[Callable[[], object], int]:
    """What a method does besides running the network, and the passes' cost in forward rows.

    The method runs with a network that costs nothing: its outputs are variables plus the mean of
    its input, so that all the method makes of images is made, and gradients end at the variables.
    A trained row costs three forward rows (forward, and backward to inputs and to weights), a row
    without gradient costs one; one whose gradient goes to its images alone, as VAT's search does,
    two.
    """
    import tensorflow as tf

    from realmix_tf.nets.layers import Output
    from realmix_tf.training.engine import StepContext

    network, method = engine.network, engine.method
    shapes = ([network.spec.num_classes], [network.feature_size], network.feature_map_shape)
    passes: list[tuple[int, Any]] = []

    def free(images: Any, **_: Any) -> Any:
        number = len(passes)
        if number >= len(ends):
            ends.append([tf.Variable(tf.zeros([images.shape[0], *shape])) for shape in shapes])
        mean = tf.reduce_mean(images, [1, 2, 3])
        tensors = [tf.convert_to_tensor(v) for v in ends[number]]
        passes.append((int(images.shape[0]), tensors))
        outputs = [t + tf.reshape(mean, [-1] + [1] * (len(t.shape) - 1)) for t in tensors]
        outputs[2] = tf.cast(outputs[2], network.compute)
        return Output(*outputs)

    ends: list[list[Any]] = []

    def step() -> Any:
        passes.clear()
        update = tf.constant(1, tf.int64)
        with tf.GradientTape() as tape:
            weights = {n: tf.convert_to_tensor(v) for n, v in engine.heads.items()}
            context = StepContext(update, engine.settings, engine.state, weights, 1, free)
            result = method.losses(batch, free, context)
            total = tf.add_n([term.value * term.weight for term in result.terms.values()])
        sources = [tensor for _, tensors in passes for tensor in tensors]
        gradients = tape.gradient(total, [*sources, *weights.values()])
        for name, value in result.state.items():
            engine.state[name].assign(value)
        reached = [g for g in gradients if g is not None]
        kept = [tf.reduce_sum(g) for g in reached] + list(result.metrics.values())
        return tf.add_n([tf.cast(tf.reduce_sum(k), tf.float32) for k in kept]), gradients

    gradients = step()[1]
    rows = 0
    for number, (count, _) in enumerate(passes):
        trained = any(g is not None for g in gradients[3 * number : 3 * number + 3])
        searched = method.name == "vat" and number == len(passes) - 2
        rows += count * (3 if trained else 2 if searched else 1)
    compiled = tf.function(lambda: step()[0])
    return lambda: compiled().numpy(), rows


def stock(method: str, precision: str, batch: int) -> tuple[Any, ...]:
    """The same network and update written plainly with Keras's own layers."""
    import keras
    import tensorflow as tf

    keras.mixed_precision.set_global_policy(precision)
    layers = keras.layers

    def activate(x):
        return layers.LeakyReLU(0.1)(layers.BatchNormalization(momentum=0.999, epsilon=1e-3)(x))

    def conv(x, filters, size, stride=1):
        return layers.Conv2D(filters, size, stride, "same", kernel_initializer="he_normal")(x)

    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = conv(inputs, 16, 3)
    for scale in range(SCALES):
        for unit in range(REPEAT):
            filters, stride = FILTERS << scale, 2 if scale and not unit else 1
            h = activate(x)
            y = conv(activate(conv(h, filters, 3, stride)), filters, 3)
            straight = h if not scale and not unit else x
            if straight.shape[-1] != filters:
                straight = conv(straight, filters, 1, stride)
            x = layers.Add()([straight, y])
    x = layers.GlobalAveragePooling2D()(activate(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, dtype="float32")(x))
    optimizer: Any = keras.optimizers.Adam(0.002, epsilon=1e-8)
    if method == "fixmatch":
        optimizer = keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    shadows = [tf.Variable(v) for v in model.trainable_variables]
    images = tf.random.stateless_uniform([batch, SIZE, SIZE, CHANNELS], [1, 2], -1, 1)
    labels = tf.one_hot(tf.range(batch) % CLASSES, CLASSES)

    def mixmatch_loss():
        views = [images[::-1], images[::-1]]
        guess = tf.add_n([tf.nn.softmax(model(view, training=True)) for view in views]) / 2
        guess = guess**2 / tf.reduce_sum(guess**2, -1, keepdims=True)
        everything = tf.concat([images, *views], 0)
        targets = tf.concat([labels, *[tf.stop_gradient(guess)] * 2], 0)
        rows = 3 * batch
        gammas = tf.random.gamma([2, rows], 0.5)
        ratio = gammas[0] / (gammas[0] + gammas[1])
        ratio = tf.maximum(ratio, 1 - ratio)
        partner = tf.random.shuffle(tf.range(rows))
        wide = ratio[:, None, None, None]
        mixed = everything * wide + tf.gather(everything, partner) * (1 - wide)
        targets = targets * ratio[:, None] + tf.gather(targets, partner) * (1 - ratio[:, None])
        logits = tf.concat([model(b, training=True) for b in tf.split(mixed, 3)], 0)
        entropy = tf.nn.softmax_cross_entropy_with_logits(targets[:batch], logits[:batch])
        distance = tf.reduce_mean((targets[batch:] - tf.nn.softmax(logits[batch:])) ** 2)
        return tf.reduce_mean(entropy) + 100.0 * distance

    def supervised_loss():
        logits = model(images, training=True)
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))

    def fixmatch_loss():
        unlabeled = tf.tile(images[::-1], [URATIO, 1, 1, 1])
        logits = model(tf.concat([images, unlabeled, unlabeled], 0), training=True)
        sizes = [batch, URATIO * batch, URATIO * batch]
        labeled, weak, strong = tf.split(logits, sizes)
        guess = tf.stop_gradient(tf.nn.softmax(weak))
        mask = tf.cast(tf.reduce_max(guess, -1) >= 0.95, tf.float32)
        pseudo = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.argmax(guess, -1), strong)
        entropy = tf.nn.softmax_cross_entropy_with_logits(labels, labeled)
        kernels = [v for v in model.trainable_variables if v.name == "kernel"]
        decay = 5e-4 * tf.add_n([tf.nn.l2_loss(v.value) for v in kernels])
        return tf.reduce_mean(entropy) + tf.reduce_mean(mask * pseudo) + decay

    losses = {"supervised": supervised_loss, "fixmatch": fixmatch_loss}

    @tf.function
    def update():
        with tf.GradientTape() as tape:
            loss = losses.get(method, mixmatch_loss)()
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        for shadow, variable in zip(shadows, model.trainable_variables, strict=True):
            if variable.name == "kernel" and method != "fixmatch":
                variable.assign(variable * (1 - 0.02 * 0.002))
            shadow.assign_sub((shadow - variable) * 0.001)
        return loss

    return lambda: update().numpy(), nothing, 0


def torch_update(method: str, precision: str, batch: int) -> tuple[Any, ...]:
    """The same network and update in PyTorch; bfloat16 by autocast, channels last."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Unit(nn.Module):
        def __init__(self, inputs, outputs, stride, first):
            super().__init__()
            self.first = first
            self.norm1 = nn.BatchNorm2d(inputs, 1e-3, 0.001)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
            self.norm2 = nn.BatchNorm2d(outputs, 1e-3, 0.001)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.short = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None

        def forward(self, x):
            h = functional.leaky_relu(self.norm1(x), 0.1)
            y = self.conv2(functional.leaky_relu(self.norm2(self.conv1(h)), 0.1))
            x = h if self.first else x
            return y + (x if self.short is None else self.short(x))

    parts, inputs = [nn.Conv2d(CHANNELS, 16, 3, 1, 1)], 16
    for scale in range(SCALES):
        for unit in range(REPEAT):
            outputs, stride = FILTERS << scale, 2 if scale and not unit else 1
            parts.append(Unit(inputs, outputs, stride, not scale and not unit))
            inputs = outputs
    parts += [nn.BatchNorm2d(inputs, 1e-3, 0.001), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(inputs, CLASSES))
    low = precision == "mixed_bfloat16"
    layout = torch.channels_last
    model = model.to(memory_format=layout)
    optimizer: Any = torch.optim.Adam(model.parameters(), 0.002, eps=1e-8, fused=True)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    if method == "fixmatch":
        parts = [
            {"params": kernels, "weight_decay": 5e-4},
            {"params": [p for p in model.parameters() if p.ndim == 1]},
        ]
        optimizer = torch.optim.SGD(parts, 0.03, 0.9, nesterov=True, fused=True)
    shadows = [p.detach().clone() for p in model.parameters()]
    images = (torch.rand(batch, CHANNELS, SIZE, SIZE) * 2 - 1).to(memory_format=layout)
    labels = functional.one_hot(torch.arange(batch) % CLASSES, CLASSES).float()

    def forward(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return model(x).float()

    def mixmatch_loss():
        views = [images.flip(0), images.flip(0)]
        with torch.no_grad():
            guess = sum(forward(view).softmax(-1) for view in views) / 2
            guess = guess**2 / (guess**2).sum(-1, keepdim=True)
        everything = torch.cat([images, *views])
        targets = torch.cat([labels, guess, guess])
        ratio = torch.distributions.Beta(0.5, 0.5).sample([3 * batch])
        ratio = torch.maximum(ratio, 1 - ratio)
        partner = torch.randperm(3 * batch)
        wide = ratio[:, None, None, None]
        mixed = everything * wide + everything[partner] * (1 - wide)
        targets = targets * ratio[:, None] + targets[partner] * (1 - ratio[:, None])
        logits = torch.cat([forward(block) for block in mixed.split(batch)])
        entropy = -(targets[:batch] * logits[:batch].log_softmax(-1)).sum(-1).mean()
        distance = ((targets[batch:] - logits[batch:].softmax(-1)) ** 2).mean()
        return entropy + 100 * distance

    def fixmatch_loss():
        unlabeled = images.flip(0).repeat(URATIO, 1, 1, 1)
        everything = torch.cat([images, unlabeled, unlabeled]).contiguous(memory_format=layout)
        labeled, weak, strong = forward(everything).split([batch, URATIO * batch, URATIO * batch])
        confidence, guess = weak.detach().softmax(-1).max(-1)
        pseudo = functional.cross_entropy(strong, guess, reduction="none")
        entropy = -(labels * labeled.log_softmax(-1)).sum(-1).mean()
        return entropy + ((confidence >= 0.95).float() * pseudo).mean()

    def update():
        if method == "supervised":
            loss = -(labels * forward(images).log_softmax(-1)).sum(-1).mean()
        elif method == "fixmatch":
            loss = fixmatch_loss()
        else:
            loss = mixmatch_loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            if method != "fixmatch":
                torch._foreach_mul_(kernels, 1 - 0.02 * 0.002)
            torch._foreach_lerp_(shadows, list(model.parameters()), 0.001)
        return loss.item()

    return update, nothing, 0


def matmul(method: str, precision: str, batch: int) -> tuple[Any, ...]:
    """A product of two 2048×2048 matrices, the machine's limit."""
    import tensorflow as tf

    matrix = tf.random.stateless_normal([2048, 2048], [1, 2])
    matrix = tf.cast(matrix, tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)[0]))
    return lambda: product().numpy(), nothing, 0


MAKERS = {"ours": ours, "stock": stock, "torch": torch_update, "matmul": matmul}

if __name__ == "__main__":
    sys.exit(main())
