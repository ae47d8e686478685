"""The report of a run: one HTML file that opens anywhere, and the same pictures as PNG files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realmix_tf import version
from realmix_tf.errors import DataError
from realmix_tf.evaluation import page, plots
from realmix_tf.evaluation.metrics import accuracy_interval, class_table
from realmix_tf.evaluation.page import Html, tag
from realmix_tf.evaluation.run_reader import SETS, Run, View, dig, load_run, number
from realmix_tf.files import atomic_write, write_text

_NAMES = {"labeled": "labelled", "valid": "validation", "test": "test", "unlabeled": "unlabelled"}
_TILES = 16
_RANKED = ("unlabeled_confident", "unlabeled_doubtful")
_MIXED = "mixed"
_WIDE_CLASSES = 20
_LAG = 0.1
_UNIT = 1000.0
_NOTHING = "\u2013"


def write_report(run_dir: str | Path, baseline: str | Path | None = None) -> Path:
    """Writes ``report.html`` and ``plots/*.png`` into a run folder.

    What is missing in the folder is missing in the report, which says so.

    Args:
      run_dir: a run folder with at least one evaluation.
      baseline: the run folder to compare with, such as the supervised one on the same labels.

    Returns:
      The path of the report.

    Raises:
      DataError: a folder is no evaluated run.
      ResourceError: the folder cannot be written.
    """
    run = load_run(run_dir)
    other = None if baseline is None else load_run(baseline)
    writer = _Pictures(run.folder / "plots")
    body = [
        _header(run),
        _headline(run, other),
        _trained_on(run),
        _numbers(run),
        _course(run, other, writer),
        _mistakes(run, writer),
        _classes(run, other),
        _unlabeled(run, writer),
        _views(run, writer),
        _reproduce(run),
        _settings(run),
        _missing(run, other),
        tag("footer", f"Made by realmix-tf {version.__version__}. This page loads nothing."),
    ]
    target = run.folder / "report.html"
    write_text(target, page.page(f"{run.title} {run.dataset}".strip(), *body))
    return target


class _Pictures:
    """Makes a plot in both themes for the page, and once as a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plot(self, name: str, alt: str, draw: Callable[[plots.Theme], bytes]) -> Html:
        light = draw(plots.LIGHT)
        self.file(name, plots.on_paper(light))
        return page.picture(light, draw(plots.DARK), alt)

    def file(self, name: str, png: bytes) -> None:
        with atomic_write(self._folder / f"{name}.png") as file:
            file.write(png)


def _header(run: Run) -> Html:
    seed = dig(run.args, "settings", "seed")
    images = run.images
    parts = [f"run {run.folder.absolute().name}"]
    if seed is not None:
        parts.append(f"seed {seed}")
    if images is not None:
        parts.append(f"{images:,} labelled images seen")
    return tag(
        "header",
        tag("p", "realmix-tf · training report", class_="kind"),
        tag("h1", f"{run.title} on {run.dataset}" if run.dataset else run.title),
        tag("p", " · ".join(parts), class_="sub"),
    )


def _headline(run: Run, baseline: Run | None) -> Html:
    mine = _score(run)
    if mine is None:
        note = "There is no test set, so this run has no test accuracy."
        valid = number(run.metrics("valid").get("accuracy"))
        if valid is not None:
            note += f" Its validation accuracy is {valid:.1%}; validation may have made choices."
        return tag("div", tag("p", note), class_="card warn headline-note")
    accuracy, count, low, high = mine
    cards = [
        _card("main", f"{run.title}, test accuracy", accuracy, count, low, high),
    ]
    bars = [(run.title, mine, True)]
    remarks = _lagging(run, "The")
    theirs = None if baseline is None else _score(baseline)
    if baseline is not None and theirs is not None:
        cards.append(_card("", f"baseline: {baseline.title}", *theirs))
        cards.append(_difference(mine, theirs))
        bars.append((f"baseline: {baseline.title}", theirs, False))
        remarks += _unfair(run, baseline) + _lagging(baseline, "The baseline's")
    elif baseline is not None:
        remarks.append("The baseline has no test accuracy to compare with.")
    content: list[object] = [tag("div", *cards, class_="headline")]
    if len(bars) > 1:
        content.append(tag("div", *(_bar(*bar) for bar in bars), class_="card bars"))
    if remarks:
        content.append(tag("div", *(tag("p", r) for r in remarks), class_="card warn"))
    content.append(tag("p", _how_measured(run, baseline), class_="note"))
    return page.join(content)


def _card(kind: str, what: str, accuracy: float, count: int, low: float, high: float) -> Html:
    return tag(
        "div",
        tag("span", what, class_="what"),
        tag("span", f"{100 * accuracy:.1f}", tag("small", "%"), class_="big"),
        tag(
            "span",
            f"{round(accuracy * count):,} of {count:,} test images; "
            f"95% interval {100 * low:.1f} to {100 * high:.1f}%",
            class_="why",
        ),
        class_=f"card {kind}".strip(),
    )


def _difference(
    mine: tuple[float, int, float, float], theirs: tuple[float, int, float, float]
) -> Html:
    (p, _, low, high), (q, _, other_low, other_high) = mine, theirs
    # Newcombe's hybrid of the two Wilson intervals, as for two separate samples.
    delta = p - q
    least = delta - math.hypot(p - low, other_high - q)
    most = delta + math.hypot(high - p, q - other_low)
    kind = "up" if least > 0 else "down" if most < 0 else ""
    return tag(
        "div",
        tag("span", "difference", class_="what"),
        tag("span", f"{100 * delta:+.1f}", tag("small", "points"), class_="big"),
        tag(
            "span",
            f"95% interval {100 * least:+.1f} to {100 * most:+.1f}"
            + ("" if kind else "; not distinguishable from none"),
            class_="why",
        ),
        class_=f"card {kind}".strip(),
    )


def _bar(name: str, score: tuple[float, int, float, float], first: bool) -> Html:
    accuracy, _, low, high = score
    return tag(
        "div",
        tag("div", tag("span", name), tag("b", f"{accuracy:.1%}"), class_="name"),
        _track(accuracy, first, (low, high)),
    )


def _track(share: float, first: bool, interval: tuple[float, float] | None = None) -> Html:
    fill = tag("i", class_="first" if first else None, style=f"width:{100 * share:.2f}%")
    whisker: object = ""
    if interval is not None:
        low, high = interval
        whisker = tag("u", style=f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%")
    return tag("span" if interval is None else "div", fill, whisker, class_="track")


def _how_measured(run: Run, baseline: Run | None) -> str:
    text = (
        "Measured with the averaged (EMA) weights at the end of training. The interval is Wilson's "
        "and covers the choice of test images, not that of seed and labels: for those, train "
        "several seeds."
    )
    if baseline is not None:
        text += (
            " The difference's interval treats the two tests as separate samples, which is "
            "cautious where both saw the same images."
        )
    summary = run.accuracy
    if summary is not None and number(summary.get("last20")) is not None:
        used = summary["evaluations_used"]["last20"]
        text += f" Median test accuracy of the last {used} evaluations: {summary['last20']:.1%}."
    best = dig(summary, "best_by_validation")
    if best is not None:
        reached = number(best.get("test_accuracy"))
        text += f" Validation would choose the point at {best['images']:,} images"
        text += f" (test {reached:.1%})." if reached is not None else "."
    elif summary is not None:
        text += " There is no validation set, so no point was chosen."
    return text + " Test accuracy chose nothing."


def _lagging(run: Run, whose: str) -> list[str]:
    """Says when a run was too short for its averages, judged without the test set."""
    name = "valid" if run.metrics("valid") else "labeled"
    averaged, latest = (number(run.metrics(name, w).get("accuracy")) for w in ("ema", "raw"))
    if averaged is None or latest is None or latest - averaged < _LAG:
        return []
    return [
        f"{whose} averaged weights lag behind the latest ones ({averaged:.1%} against {latest:.1%} "
        f"on the {_NAMES[name]} set): the run is short for its ema and bn_decay; train longer or "
        "lower them."
    ]


def _unfair(run: Run, baseline: Run) -> list[str]:
    """What makes a comparison doubtful, as sentences."""
    remarks = []
    for role in ("labeled", "test"):
        hashes = [dig(side.sources, role, "sha256") for side in (run, baseline)]
        if None not in hashes and hashes[0] != hashes[1]:
            remarks.append(f"The baseline used other {_NAMES[role]} images than this run.")
    if run.dataset and baseline.dataset and run.dataset != baseline.dataset and not remarks:
        remarks.append(f"The baseline's dataset is called {baseline.dataset}.")
    if None not in (run.images, baseline.images) and run.images != baseline.images:
        remarks.append(
            f"The budgets differ: {run.images:,} labelled images seen here, {baseline.images:,} "
            "by the baseline."
        )
    return remarks


def _network(spec: dict[str, Any]) -> str:
    filters = spec.get("filters")
    return f"{spec.get('arch')}, {filters} filters" if filters else str(spec.get("arch"))


def _trained_on(run: Run) -> Html:
    counts, classes = run.counts, run.classes
    pairs: list[tuple[object, object]] = [("dataset", run.dataset or "not recorded")]
    for name in ("labeled", "unlabeled", "valid", "test"):
        count = counts.get(name)
        pairs.append((f"{_NAMES[name]} images", f"{count:,}" if count else "none"))
    spec = dig(run.args, "model", "spec")
    if isinstance(spec, dict):
        size = f"{spec.get('height')} \u00d7 {spec.get('width')} \u00d7 {spec.get('channels')}"
        pairs += [
            ("image size", size),
            ("network", _network(spec)),
        ]
    for key in ("device", "precision"):
        if run.env.get(key) is not None:
            pairs.append((key, _plain(run.env[key])))
    rates = [r for r in plots.sequence(run.timing, "images_per_second") if math.isfinite(r)]
    if rates:
        pairs.append(("speed", f"{float(np.median(rates)):,.0f} labelled images/s (median)"))
    seconds = [s for s in plots.sequence(run.timing, "seconds") if math.isfinite(s)]
    if seconds:
        pairs.append(("training time", _duration(sum(seconds))))
    named = f"{len(classes)}: {_some(classes)}" if classes else "not recorded"
    card = tag("div", page.facts(pairs), page.facts([("classes", named)]), class_="card")
    return page.section("What was trained on what", card)


def _numbers(run: Run) -> Html:
    columns = ["macro_precision", "macro_recall", "macro_f1"]
    columns += ["weighted_precision", "weighted_recall", "weighted_f1", "nll", "ece"]
    head = ["set", "weights", "images", "accuracy", "macro P", "R", "F1", "weighted P", "R", "F1"]
    head += ["NLL", "ECE"]
    rows = []
    for name in reversed(SETS):
        for weights in ("ema", "raw"):
            metrics = run.metrics(name, weights)
            if metrics:
                shown = [_share(metrics.get("accuracy"))]
                shown += [_decimal(metrics.get(key)) for key in columns]
                count = number(metrics.get("count"))
                label = "averaged (EMA)" if weights == "ema" else "latest (raw)"
                rows.append([_NAMES[name], label, "" if count is None else f"{count:,.0f}", *shown])
        if not run.metrics(name):
            run.notes.append(f"numbers: there is no {_NAMES[name]} set")
    lead = (
        "P, R and F1 are precision, recall and their harmonic mean, plain (macro) or weighted by "
        "the classes' sizes. NLL is the mean negative log-likelihood in nats, ECE the expected "
        "calibration error over 15 bins: lower is better. Labelled images were trained on."
    )
    return page.section("Numbers", page.table(head, rows, 2), lead=lead)


def _course(run: Run, baseline: Run | None, pictures: _Pictures) -> Html:
    points = [point for point in run.points if isinstance(point.get("ema"), dict)]
    if not run.points:
        return page.section("Course of the training", tag("p", "There is no log.", class_="note"))
    figures = [
        _accuracy_plot(points, baseline, pictures),
        _loss_plot(run.points, pictures),
        _kept_plot(run.points, pictures),
        _confidence_plot(run.points, pictures),
    ]
    shown = [figure for figure in figures if figure is not None]
    if figures[2] is None:
        run.notes.append("share of unlabelled images kept: this method logs none")
    if figures[3] is None:
        run.notes.append("confidence on unlabelled images: this method logs none")
    lead = "A single evaluation is a dot." if len(points) == 1 else ""
    return page.section("Course of the training", tag("div", *shown, class_="plots"), lead=lead)


def _seen(points: Sequence[dict[str, Any]]) -> list[float]:
    return [point["images"] / _UNIT for point in points]


_X = "labelled images seen, thousands"


def _accuracy_plot(
    points: list[dict[str, Any]], baseline: Run | None, pictures: _Pictures
) -> Html | None:
    x = _seen(points)
    lines = []
    for color, name in enumerate(("test", "valid", "labeled")):
        y = plots.sequence(points, "ema", name, "accuracy")
        lines.append(plots.Line(_NAMES[name], x, y, "solid", color))
    raw = plots.sequence(points, "raw", "test", "accuracy")
    lines.append(plots.Line("test, raw weights", x, raw, "dotted", 0))
    if baseline is not None:
        theirs = [point for point in baseline.points if isinstance(point.get("ema"), dict)]
        y = plots.sequence(theirs, "ema", "test", "accuracy")
        lines.append(plots.Line("baseline, test", _seen(theirs), y, "dashed", -1))
    return _curves("accuracy", "Accuracy", lines, pictures, percent=True)


def _loss_plot(points: list[dict[str, Any]], pictures: _Pictures) -> Html | None:
    names = {key for point in points for key in (dig(point, "train") or {})}
    losses = sorted(key for key in names if key.startswith("loss/"))
    losses.sort(key=lambda key: key != "loss/total")
    lines = [
        plots.Line(key[5:], _seen(points), plots.sequence(points, "train", key), "solid", i)
        for i, key in enumerate(losses)
    ]
    return _curves("losses", "Losses (means since the point before)", lines, pictures)


def _kept_plot(points: list[dict[str, Any]], pictures: _Pictures) -> Html | None:
    x = _seen(points)
    kept = plots.sequence(points, "train", "kept/unlabeled")
    labeled = plots.sequence(points, "train", "kept/labeled")
    threshold = plots.sequence(points, "train", "mask/threshold")
    if not any(map(math.isfinite, kept)):
        return None
    lines = [plots.Line("unlabelled kept", x, kept, "solid", 0)]
    if any(value < 1 for value in labeled):
        lines.append(plots.Line("labelled kept", x, labeled, "solid", 2))
    lines.append(plots.Line("threshold of confidence", x, threshold, "dashed", 1))
    return _curves("kept", "Share of images the losses use", lines, pictures, True, True)


def _confidence_plot(points: list[dict[str, Any]], pictures: _Pictures) -> Html | None:
    x = _seen(points)
    least, mean, most = (
        plots.sequence(points, "train", f"confidence/{name}") for name in ("min", "mean", "max")
    )
    lines = [plots.Line("mean", x, mean, "solid", 0)]
    bands = [plots.Band("range", x, least, most, 0)]
    title = "Confidence on unlabelled images: mean and range"
    return _curves("confidence", title, lines, pictures, True, True, bands)


def _curves(
    name: str,
    title: str,
    lines: list[plots.Line],
    pictures: _Pictures,
    percent: bool = False,
    whole: bool = False,
    bands: Sequence[plots.Band] = (),
) -> Html | None:
    drawn = [line for line in lines if any(map(math.isfinite, line.y))]
    if not drawn:
        return None
    image = pictures.plot(
        name,
        title,
        lambda theme: plots.curves(drawn, theme, _X, "", percent, whole, bands),
    )
    return page.figure(image, title)


def _mistakes(run: Run, pictures: _Pictures) -> Html:
    name = "test" if run.metrics("test") else "valid"
    metrics, classes = run.metrics(name), run.classes
    figures = []
    table = _confusion(run, name)
    if table is not None:
        shown = table
        image = pictures.plot(
            "confusion",
            f"confusion matrix of the {_NAMES[name]} set",
            lambda theme: plots.confusion(shown, classes, theme),
        )
        title = f"Confusion matrix, {_NAMES[name]} set"
        figures.append(page.figure(image, title, wide=len(classes) > _WIDE_CLASSES))
    else:
        run.notes.append("confusion matrix: the final evaluation has none")
    bins = metrics.get("reliability")
    if isinstance(bins, dict) and isinstance(bins.get("count"), list) and bins["count"]:
        image = pictures.plot(
            "reliability",
            f"reliability diagram of the {_NAMES[name]} set",
            lambda theme: plots.reliability_diagram(
                bins["confidence"], bins["accuracy"], bins["count"], theme
            ),
        )
        figures.append(page.figure(image, f"Reliability, {_NAMES[name]} set"))
    else:
        run.notes.append("reliability diagram: the final evaluation has none")
    if not figures:
        return page.section("Mistakes", tag("p", "Not evaluated in detail.", class_="note"))
    lead = (
        "Left, what is taken for what (counts; colour is the share of the row). Right, how often "
        "predictions of a given confidence are right: a calibrated model follows the dashed line."
    )
    return page.section("Mistakes", tag("div", *figures, class_="plots"), lead=lead)


def _classes(run: Run, baseline: Run | None) -> Html:
    name = "test" if run.metrics("test") else "valid"
    table, classes = _confusion(run, name), run.classes
    if table is None:
        return Html("")
    numbers = class_table(table)
    theirs = [] if baseline is None else baseline.metrics(name).get("per_class_accuracy") or []
    theirs = theirs if len(theirs) == len(classes) else []
    head = ["class", "most often taken for", "images", "accuracy", "precision", "F1"]
    rows = []
    for i, label in enumerate(classes):
        count = int(table[i].sum())
        wrong = table[i].copy()
        wrong[i] = 0
        taken = f"{classes[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else _NOTHING
        recall = float(numbers["recall"][i])
        accuracy: object = _NOTHING
        if count:
            accuracy = page.join([f"{recall:.1%}", _track(recall, True)])
        row: list[object] = [label, taken, f"{count:,}", accuracy]
        row += [_decimal(float(numbers[key][i])) for key in ("precision", "f1")]
        if theirs:
            before = number(theirs[i])
            row.append(_NOTHING if before is None else f"{before:.1%}")
            known = before is not None and count
            row.append(
                f"{100 * (recall - before):+.1f}" if known and before is not None else _NOTHING
            )
        rows.append(row)
    if theirs:
        head += ["baseline", "points"]
    return page.section(
        "Class by class",
        page.table(head, rows, 2, "tall"),
        lead=f"On the {_NAMES[name]} set, averaged weights.",
    )


def _unlabeled(run: Run, pictures: _Pictures) -> Html:
    content: list[object] = []
    titles = {_RANKED[0]: "Most confident", _RANKED[1]: "Least confident"}
    for name in _RANKED:
        view = run.views.get(name)
        if view is None:
            run.notes.append(f"{titles[name].lower()} unlabelled images: not recorded")
            continue
        captions = _captions(view, run.classes)
        images = view.images[:_TILES]
        content.append(tag("h3", titles[name]))
        ranked, of = (view.counts.get(key, 0) for key in ("ranked", "of"))
        if 0 < ranked < of:
            text = f"Of {ranked:,} of the {of:,} unlabelled images; the others were not ranked."
            content.append(tag("p", text, class_="note"))
        content.append(_tiles(view, captions))
        pictures.file(name, plots.grid(images, captions))
    if not content:
        return Html("")
    lead = (
        "The model's guess and its confidence. Wrong guesses among the most confident ones, or "
        "pictures of no class at all, are worth a look before the model is trusted."
    )
    return page.section("Unlabelled images", tag("div", *content, class_="card"), lead=lead)


def _views(run: Run, pictures: _Pictures) -> Html:
    order = ("labeled", "unlabeled", _MIXED)
    names = [name for name in run.views if name not in _RANKED]
    names.sort(key=lambda name: (next((i for i, o in enumerate(order) if o in name), 9), name))
    content: list[object] = []
    for name in names:
        view = run.views[name]
        content += [
            tag("h3", _view_title(name).capitalize()),
            _tiles(view, _captions(view, run.classes)),
        ]
        pictures.file(name, plots.grid(view.images[:_TILES]))
    if not content:
        return Html("")
    lead = "Images of the first batch after augmentation, before the method mixes any of them"
    lead += "; “Mixed” is what the network was fed after MixUp." if _MIXED in names else "."
    return page.section("Views", tag("div", *content, class_="card"), lead=lead)


def _view_title(name: str) -> str:
    """``unlabeled_weak0`` → ``unlabelled, weak view 1``."""
    kind, _, view = name.partition("_")
    made = view.rstrip("0123456789")
    number = view[len(made) :]
    words = [made, "view", str(int(number) + 1) if number else ""]
    shown = " ".join(word for word in words if word)
    return f"{_NAMES.get(kind, kind)}, {shown}" if view else _NAMES.get(kind, kind)


def _tiles(view: View, captions: Sequence[str]) -> Html:
    images = [plots.image_png(image) for image in view.images[:_TILES]]
    return page.tiles(images, captions)


def _captions(view: View, classes: Sequence[str]) -> list[str]:
    captions = []
    for i in range(min(_TILES, len(view.images))):
        ids = view.numbers.get("predicted", view.numbers.get("labels"))
        words = []
        if ids is not None and 0 <= int(ids[i]) < len(classes):
            words.append(classes[int(ids[i])])
        if "probability" in view.numbers:
            words.append(f"{100 * float(view.numbers['probability'][i]):.0f}%")
        captions.append(" ".join(words))
    return captions


def _reproduce(run: Run) -> Html:
    content: list[object] = []
    command = run.env.get("command")
    if isinstance(command, list) and command:
        content.append(tag("pre", shlex.join(map(str, command))))
    else:
        run.notes.append("the command that reproduces it: env.json does not record it")
    versions = run.env.get("versions")
    if isinstance(versions, dict):
        pairs = [(name, _plain(value)) for name, value in sorted(versions.items())]
        for key in ("device", "precision", "platform"):
            if run.env.get(key) is not None:
                pairs.append((key, _plain(run.env[key])))
        content += [tag("h3", "Versions"), tag("div", page.facts(pairs), class_="card")]
    rows = [
        [
            _NAMES.get(role, role),
            Path(str(facts.get("file", ""))).name,
            tag("span", facts.get("sha256"), class_="mono"),
            _plain(facts.get("records", "")),
        ]
        for role, facts in run.sources.items()
    ]
    if rows:
        head = ["role", "file", "SHA-256", "records"]
        content += [tag("h3", "Data it rests on"), page.table(head, rows, 3)]
    else:
        run.notes.append("hashes of the data: env.json does not record them")
    if not content:
        return Html("")
    return page.section("To reproduce it", *content)


def _settings(run: Run) -> Html:
    # "identity" repeats the settings in the form the engine compares when it continues a run.
    shown = {key: value for key, value in run.args.items() if key != "identity"}
    rows = [[name, _plain(value)] for name, value in _flat(shown)]
    if not rows:
        return Html("")
    inner = page.table(["setting", "value"], rows, 2)
    summary = tag("summary", f"{len(rows)} settings")
    return page.section("All settings", tag("details", summary, inner))


def _missing(run: Run, baseline: Run | None) -> Html:
    notes = [*run.notes]
    if baseline is None:
        notes.append("comparison: no baseline was named")
    else:
        notes += [f"baseline: {note}" for note in baseline.notes]
    if not notes:
        return Html("")
    return page.section("Not in this report", tag("ul", *(tag("li", note) for note in notes)))


def _score(run: Run) -> tuple[float, int, float, float] | None:
    metrics = run.metrics("test")
    accuracy, count = number(metrics.get("accuracy")), number(metrics.get("count"))
    if accuracy is None or count is None:
        return None
    try:
        return accuracy, int(count), *accuracy_interval(accuracy, int(count))
    except DataError:
        return None


def _confusion(run: Run, name: str) -> np.ndarray | None:
    try:
        table = np.asarray(run.metrics(name).get("confusion"), np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    size = len(run.classes)
    return table if table.shape == (size, size) and size else None


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            found += _flat(item, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", item))
    return found


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _NOTHING if value is None else str(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _share(value: object) -> str:
    known = number(value)
    return _NOTHING if known is None else f"{known:.1%}"


def _decimal(value: object) -> str:
    known = number(value)
    return _NOTHING if known is None else f"{known:.3f}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
