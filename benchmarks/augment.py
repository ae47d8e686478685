#!/usr/bin/env python3
"""Weak and strong views a second, beside the same policies done with Pillow in one process a core.

A pair is a weak and a strong view of one 32×32 image, as a network reads them: float32 in [−1, 1],
in batches. Ours come out of a tf.data pipeline. Each Pillow process fills batches of its own and
hands nothing over. Pillow's side is as quick as plain Python makes it: crops by index tables,
lookup tables made once, no masks (what geometry uncovers is black there, not grey).

Everything takes turns, round after round, so that a machine whose speed drifts treats all alike.
Times are by the wall clock, of both cores together, with the time of processors beside them, which
other work on the machine disturbs less.

  python benchmarks/augment.py --rounds=9
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDE, PAD, IMAGES, CORES = 32, 4, 4096, 2
POLICIES = {
    "rac": "RandAugment of FixMatch, cutout",
    "aac": "AutoAugment, cutout",
    "ctac": "CTAugment, cutout",
}
BATCHES = (448, 64)
PROBES = 64
# The operations of chain.Op that are timed alone, with amount and option.
ALONE = {
    "autocontrast": (1, 0),
    "equalize": (1, 0),
    "invert": (1, 0),
    "posterize": (3, 0),
    "solarize": (128, 0),
    "brightness": (0.7, 0),
    "color": (0.7, 0),
    "contrast": (0.7, 0),
    "sharpness": (0.7, 0),
    "smooth": (0.7, 0),
    "blur": (0.7, 0),
    "rotate": (20, 0),
    "shear_x": (0.2, 0),
    "translate_x": (5, 0),
    "rescale": (0.1, 0),
}


class Took(NamedTuple):
    """Microseconds an item: by the wall clock of all cores, and of processors."""

    wall: float
    processor: float


def pictures() -> np.ndarray:
    """uint8 [IMAGES, 32, 32, 3], smooth with some noise, as photographs are."""
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (IMAGES, 6, 6, 3), dtype=np.uint8)
    large = np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in small])
    return np.clip(large + rng.normal(0, 8, large.shape), 0, 255).astype(np.uint8)


def rates() -> np.ndarray:
    """CTAugment's rates after some training: about half of the bins are not drawn."""
    from realmix_tf.augment.ctaugment import initial_rates

    spread = np.random.default_rng(0).uniform(0.6, 1, (19, 2, 17))
    return (initial_rates() * spread).astype(np.float32)


class Pillow:
    """The policies with Pillow, one image at a time."""

    def __init__(self) -> None:
        from PIL import Image, ImageEnhance, ImageFilter, ImageOps

        from realmix_tf.augment import autoaugment, ctaugment, levels
        from realmix_tf.augment.chain import Op

        self.image, self.op = Image, Op
        self.pixels = pictures()
        self.pictures = [Image.fromarray(one) for one in self.pixels]
        columns = np.pad(np.arange(SIDE), PAD, mode="reflect")
        self.shifts = [columns[at : at + SIDE] for at in range(2 * PAD + 1)]
        values = range(256)
        self.inverted = [255 - i for i in values] * 3
        self.posterized = [[i & (256 - (1 << (8 - b))) for i in values] * 3 for b in range(9)]
        self.solarized = [[i if i < t else 255 - i for i in values] * 3 for t in range(257)]
        self.effects: dict[Op, Callable] = {
            Op.AUTOCONTRAST: ImageOps.autocontrast,
            Op.EQUALIZE: ImageOps.equalize,
            Op.INVERT: lambda image: image.point(self.inverted),
            Op.SMOOTH: lambda image: image.filter(ImageFilter.SMOOTH),
            Op.BLUR: lambda image: image.filter(ImageFilter.BLUR),
        }
        self.enhancers = {
            Op.BRIGHTNESS: ImageEnhance.Brightness,
            Op.COLOR: ImageEnhance.Color,
            Op.CONTRAST: ImageEnhance.Contrast,
            Op.SHARPNESS: ImageEnhance.Sharpness,
        }
        self.filters = (1, 3, 2, 4, 5, 0)
        self.random, self.pairs = levels.RANDOM, autoaugment.CIFAR10
        self.amounts = {op: [levels.code_amount(op, m, SIDE, SIDE) for m in range(10)] for op in Op}
        self.operations, self.upto = ctaugment.OPERATIONS, []
        for (_, bins), rate in zip(self.operations, rates(), strict=True):
            weights = [rate[i, :count] + 0.01 for i, count in enumerate(bins)]
            weights = [w / w.max() for w in weights]
            self.upto.append([np.where(w < 0.8, 0, w).cumsum().tolist() for w in weights])
        self.draw = {"rac": self.randaugment, "aac": self.autoaugment, "ctac": self.ctaugment}

    def weak(self, pixels: np.ndarray) -> np.ndarray:
        rows, columns = random.choice(self.shifts), random.choice(self.shifts)
        return pixels.take(rows, 0).take(columns[::-1] if random.random() < 0.5 else columns, 1)

    def apply(self, image: Any, op: int, amount: float, option: int) -> Any:
        of = self.op
        if op in self.effects:
            result = self.effects[op](image)
            return result if amount == 1 else self.image.blend(image, result, amount)
        if op in self.enhancers:
            return self.enhancers[op](image).enhance(amount)
        if op == of.POSTERIZE:
            return image.point(self.posterized[int(amount)])
        if op == of.SOLARIZE:
            return image.point(self.solarized[int(amount)])
        if op == of.ROTATE:
            return image.rotate(amount)
        if op == of.RESCALE:
            low, high = amount * SIDE, SIDE * (1 - amount)
            return image.crop((low, low, high, high)).resize(image.size, self.filters[option])
        entries = [1, 0, 0, 0, 1, 0]
        entries[{of.SHEAR_X: 1, of.SHEAR_Y: 3, of.TRANSLATE_X: 2, of.TRANSLATE_Y: 5}[op]] = amount
        return image.transform(image.size, self.image.Transform.AFFINE, entries)

    def randaugment(self) -> list:
        chain = []
        for _ in range(2):
            op, level = random.choice(self.random), random.randint(1, 9)
            if random.random() < 0.5 and op:
                chain.append((op, self.signed(op, self.amounts[op][level]), 0))
        return chain

    def autoaugment(self) -> list:
        return [
            (op, self.signed(op, self.amounts[op][level]), 0)
            for op, probability, level in random.choice(self.pairs)
            if random.random() < probability
        ]

    def signed(self, op: int, amount: float) -> float:
        return -amount if op >= self.op.ROTATE and random.random() < 0.5 else amount

    def ctaugment(self) -> list:
        chain, of = [], self.op
        for _ in range(2):
            number = random.randrange(len(self.operations))
            op, bins = self.operations[number]
            if not bins:
                continue
            values = []
            for upto, count in zip(self.upto[number], bins, strict=True):
                place = random.random() * upto[-1]
                values.append((sum(u <= place for u in upto) + random.random()) / count)
            v, amount = values[0], values[0]
            if op in self.enhancers:
                amount = 0.1 + 1.9 * v
            elif op in (of.SHEAR_X, of.SHEAR_Y):
                amount = (2 * v - 1) * 0.3
            elif op in (of.TRANSLATE_X, of.TRANSLATE_Y):
                amount = (2 * v - 1) * 0.3 * SIDE
            elif op is of.ROTATE:
                amount = round((2 * v - 1) * 45)
            elif op is of.POSTERIZE:
                amount = 1 + int(v * 7.999)
            elif op is of.SOLARIZE:
                amount = int(v * 255.999)
            elif op is of.RESCALE:
                amount = v * 0.25
            elif op is of.CUTOUT:
                amount = 1 + int(v * SIDE * 0.499)
            chain.append((op, amount, int(values[-1] * 5.99)))
        return chain

    def strong(self, code: str, pixels: np.ndarray, out: np.ndarray) -> None:
        chain, windows = self.draw[code](), [16]
        image = self.image.fromarray(pixels) if chain else pixels
        for op, amount, option in chain:
            if op is self.op.CUTOUT:
                windows.append(amount)
            else:
                image = self.apply(image, op, amount, option)
        np.multiply(np.asarray(image), np.float32(2 / 255), out=out)
        out -= 1
        for side in windows:
            half, row, column = side // 2, random.randrange(SIDE), random.randrange(SIDE)
            out[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 0

    def batch(self, code: str, size: int) -> tuple[np.ndarray, np.ndarray]:
        weak = np.empty((size, SIDE, SIDE, 3), np.float32)
        strong = np.empty_like(weak)
        for i in range(size):
            pixels = self.pixels[random.randrange(IMAGES)]
            np.multiply(self.weak(pixels), np.float32(2 / 255), out=weak[i])
            self.strong(code, self.weak(pixels), strong[i])
        weak -= 1
        return weak, strong

    def alone(self, name: str, size: int) -> None:
        op = self.op[name.upper()]
        for image in self.pictures[:size]:
            self.apply(image, op, *ALONE[name])


def pillow_process(pipe: Connection, seed: int) -> None:
    """Works as told, (code or operation, batch, seconds), and says how much it got done."""
    random.seed(seed)
    pillow = Pillow()
    pipe.send(None)
    while task := pipe.recv():
        name, batch, seconds = task
        done, start, busy = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            if name in POLICIES:
                pillow.batch(name, batch)
            else:
                pillow.alone(name, batch)
            done += batch
        pipe.send((done, time.perf_counter() - start, time.process_time() - busy))


class PillowProcesses:
    """One process a core."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for core in range(CORES):
            ours, theirs = context.Pipe()
            context.Process(target=pillow_process, args=(theirs, core), daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def timer(self, name: str, batch: int) -> Callable[[float], Took]:
        def took(seconds: float) -> Took:
            for pipe in self.pipes:
                pipe.send((name, batch, seconds))
            answers = [pipe.recv() for pipe in self.pipes]
            rate = sum(done / wall for done, wall, _ in answers)
            processor = sum(busy for _, _, busy in answers) / sum(done for done, _, _ in answers)
            return Took(1e6 / rate, 1e6 * processor)

        return took


class Ours:
    """A tf.data pipeline a policy and batch size, and graphs of single operations."""

    def __init__(self) -> None:
        import tensorflow as tf

        from realmix_tf.augment import codes, slots, views
        from realmix_tf.data.sampling import permuted
        from realmix_tf.randomness import uniforms

        self.tf, self.views = tf, views
        self.permuted, self.uniforms = permuted, uniforms
        self.images, self.rates = tf.constant(pictures()), tf.constant(rates())
        parsed = {code: codes.parse(f"d.d.{code}", "cifar10") for code in POLICIES}
        self.weak = slots.slot_policy(parsed["rac"].weak)
        self.strong = {code: slots.slot_policy(one.strong) for code, one in parsed.items()}

    def pairs(self, code: str, batch: int) -> Callable[[float], Took]:
        tf, strong = self.tf, self.strong[code]
        more = (self.rates,) if strong.learned else ()

        def part(number: Any) -> tuple:
            start = number * batch
            chosen = self.permuted(start + tf.range(batch, dtype=tf.int64), IMAGES, 0, "pairs")
            images = tf.ensure_shape(tf.gather(self.images, chosen), [batch, SIDE, SIDE, 3])
            for_weak = self.uniforms(0, "weak", start, batch, self.weak.width)
            for_strong = self.uniforms(0, "strong", start, batch, strong.width)
            return (
                self.views.to_float(self.weak(images, for_weak)),
                self.views.to_float(strong(images, for_strong, *more)),
            )

        dataset = tf.data.Dataset.range(tf.int64.max).map(part, num_parallel_calls=CORES)
        options = tf.data.Options()
        options.autotune.enabled = False
        iterator = iter(dataset.prefetch(4).with_options(options))

        def took(seconds: float) -> Took:
            for _ in range(8):  # what was ready before the clock starts does not count
                next(iterator)
            return self._clock(lambda: next(iterator), batch, seconds)

        return took

    def graph(self, function: Callable, *arguments: Any) -> Callable[[float], Took]:
        graph, rows = self.tf.function(function), arguments[0].shape[0]
        graph(*arguments)
        return lambda seconds: self._clock(lambda: graph(*arguments), rows, seconds)

    @staticmethod
    def _clock(work: Callable, rows: int, seconds: float) -> Took:
        done, start, busy = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            work()
            done += rows
        wall, busy = time.perf_counter() - start, time.process_time() - busy
        return Took(1e6 * wall / done, 1e6 * busy / done)

    def alone(self, name: str, batch: int) -> Callable[[float], Took]:
        from realmix_tf.augment import chain

        tf, op, (amount, option) = self.tf, chain.Op[name.upper()], ALONE[name]
        step = (
            tf.fill([batch], int(op)),
            tf.fill([batch], tf.constant(float(amount), tf.float64)),
            tf.fill([batch], option),
        )
        return self.graph(
            lambda images, *parts: chain.run(images, [chain.Step(*parts)], [op], amount != 1),
            self.images[:batch],
            *step,
        )

    def cta_views(self, batch: int) -> Callable[[float], Took]:
        policy = self.strong["ctac"]
        return self.graph(
            lambda *arguments: self.views.to_float(policy(*arguments)),
            self.images[:batch],
            self.uniforms(0, "strong", 0, batch, policy.width),
            self.rates,
        )

    def cta_probes(self, batch: int) -> Callable[[float], Took]:
        policy, tf = self.strong["ctac"], self.tf

        def probe(images: Any, numbers: Any, rates: Any) -> Any:
            view, drawn = policy.probe(images, numbers)
            omega = tf.reduce_mean(tf.abs(self.views.to_float(view)), [1, 2, 3])
            return policy.strong.updated(rates, drawn, omega)

        numbers = self.uniforms(0, "probe", 0, batch, policy.probe_width)
        return self.graph(probe, self.images[:batch], numbers, self.rates)


class Row(NamedTuple):
    """A line of the table."""

    name: str
    mine: Callable[[float], Took]
    theirs: Callable[[float], Took] | None
    scale: float  # from microseconds an item to what the table says
    took: list[tuple[Took, Took | None]]

    def text(self) -> str:
        wall = [self.scale * mine.wall for mine, _ in self.took]
        busy = self.scale * statistics.median(mine.processor for mine, _ in self.took)
        text = f"  {self.name:37s}{min(wall):9.2f}{statistics.median(wall):9.2f}"
        pairs = [(mine, theirs) for mine, theirs in self.took if theirs is not None]
        if not pairs:
            return f"{text}{'':30s}{busy:10.2f}"
        their_wall = [self.scale * theirs.wall for _, theirs in pairs]
        their_busy = self.scale * statistics.median(theirs.processor for _, theirs in pairs)
        ratios = [
            statistics.median(getattr(theirs, kind) / getattr(mine, kind) for mine, theirs in pairs)
            for kind in ("wall", "processor")
        ]
        return (
            f"{text}{min(their_wall):12.2f}{statistics.median(their_wall):9.2f}{ratios[0]:9.2f}"
            f"{busy:10.2f}{their_busy:9.2f}{ratios[1]:9.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of every pipeline, every round")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pillow, ours = PillowProcesses(), Ours()
    pairs = [
        Row(f"{name}: {batch}", ours.pairs(code, batch), pillow.timer(code, batch), 1, [])
        for code, name in POLICIES.items()
        for batch in BATCHES
    ]
    alone = [
        Row(name, ours.alone(name, BATCHES[0]), pillow.timer(name, PROBES), 1, []) for name in ALONE
    ]
    calls = [
        Row(f"CTAugment, views: {batch}", ours.cta_views(batch), None, batch / 1000, [])
        for batch in BATCHES
    ]
    calls.append(
        Row(
            f"CTAugment, probes and update: {PROBES}",
            ours.cta_probes(PROBES),
            None,
            PROBES / 1000,
            [],
        )
    )
    for _ in range(arguments.rounds):
        for rows, seconds in ((pairs, 1.0), (alone, 0.1), (calls, 0.2)):
            seconds *= arguments.seconds
            for row in rows:
                row.took.append((row.mine(seconds), row.theirs(seconds) if row.theirs else None))
    print(f"{SIDE}×{SIDE}×3, {CORES} cores, {arguments.rounds} rounds in turn")
    print(f"{'':39s}{'wall clock':>18s}{'':30s}{'processors, median':>28s}")
    heads = ("ours min", "median", "Pillow min", "median", "ratio", "ours", "Pillow", "ratio")
    print(f"{'':39s}" + "".join(f"{h:>{w}s}" for h, w in zip(heads, _WIDTHS, strict=True)))
    print("microseconds a pair, weak and strong, float32, out of a pipeline; batch size")
    for row in pairs:
        rate = 1e6 / statistics.median(mine.wall for mine, _ in row.took)
        print(f"{row.text()}   {rate:8.0f} pairs/s")
    print(f"microseconds a view, one operation in a graph, uint8, {BATCHES[0]} images")
    for row in alone:
        print(row.text())
    print("milliseconds a call, in a graph, float32; images")
    for row in calls:
        print(row.text())
    return 0


_WIDTHS = (9, 9, 12, 9, 9, 10, 9, 9)

if __name__ == "__main__":
    sys.exit(main())
