"""Models of keras.applications: how they are built, what they read, where their weights are."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import keras
import numpy as np
import tensorflow as tf

from realmix_tf.errors import ResourceError, UsageError
from realmix_tf.nets.applications import PREFIX
from realmix_tf.nets.spec import NetworkSpec

_PROBE_SECONDS = 2.5
_STALL_SECONDS = 30.0  # a download from which nothing comes for so long is given up
# EfficientNet's weights belong to images divided by the deviation's square root once more.
_EFFICIENTNET_DEVIATION = (0.229, 0.224, 0.225)


def application_model(spec: NetworkSpec, weights: str | None = None) -> keras.Model:
    """A model of keras.applications without its classifier, for the images of ``spec``.

    Args:
      spec: its ``arch`` is ``keras:<name>``.
      weights: None for Keras's own random ones, or ``imagenet``.

    Raises:
      UsageError: Keras refuses these images, or has no such model (an older version).
    """
    build = _function(spec)
    channels = 3 if spec.pretrained else spec.channels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(
                include_top=False,
                weights=weights,
                input_shape=(spec.height, spec.width, channels),
            )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{spec.arch} cannot be built: {reason}", "--arch") from error


def imagenet_model(spec: NetworkSpec) -> keras.Model:
    """``application_model`` with its ImageNet weights, from Keras's cache or downloaded.

    Raises:
      ResourceError: they are not in the cache and the server does not answer or fails, or the file
        is damaged. Known within three seconds where there is no network.
    """
    with _fetching(spec.arch, sys.modules[_function(spec).__module__]):
        return application_model(spec, "imagenet")


def preparation(spec: NetworkSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    """What turns images, float32 in [−1, 1], into what the model of ``spec`` reads.

    With ImageNet weights that is what they were trained on: three channels, 0 to 255, through the
    application's ``preprocess_input``. Without, images are read as they are, in 0 to 255 by those
    models that scale them inside.
    """
    preprocess = sys.modules[_function(spec).__module__].preprocess_input
    sample = np.array([0.0, 100.0, 255.0], np.float32).reshape(1, 1, 1, 3)
    scales_inside = np.array_equal(preprocess(sample.copy()), sample)

    def prepare(images: tf.Tensor) -> tf.Tensor:
        if spec.pretrained and spec.channels == 1:
            images = tf.repeat(images, 3, -1)
        if spec.pretrained or scales_inside:
            images = (images + 1.0) * 127.5
        return preprocess(images) if spec.pretrained and not scales_inside else images

    return prepare


def scale_after_statistics(spec: NetworkSpec) -> tuple[float, ...] | None:
    """Factors a channel that Keras puts behind an EfficientNet's statistics with its weights."""
    if spec.pretrained and spec.arch.startswith(f"{PREFIX}EfficientNetB"):
        return tuple(deviation**-0.5 for deviation in _EFFICIENTNET_DEVIATION)
    return None


def _function(spec: NetworkSpec) -> Callable[..., keras.Model]:
    name = spec.arch.removeprefix(PREFIX)
    found = getattr(keras.applications, name, None)
    if found is None:
        raise UsageError(
            f"keras.applications has no {name} in Keras {keras.__version__}",
            "--arch",
            "a newer Keras",
        )
    return found


@contextmanager
def _fetching(arch: str, module: Any) -> Iterator[None]:
    """Inside, Keras looks whether a download is possible before it tries one.

    Left to itself it waits as long as the system does, and prints to stdout, which is for results.
    """
    files = module.file_utils
    fetch = files.get_file

    def checked(fname: str, origin: str, *arguments: Any, **options: Any) -> str:
        path = _cached(fname, str(options.get("cache_subdir", "datasets")))
        remedy = f"put {origin} there, or leave out --pretrained"
        if not path.is_file() and not _reachable(origin):
            host = urlsplit(origin).hostname
            raise ResourceError(
                f"the ImageNet weights of {arch} are not there and {host} does not answer",
                path,
                remedy,
            )
        try:
            return str(fetch(fname, origin, *arguments, **options))
        except Exception as error:
            raise ResourceError(
                f"the ImageNet weights of {arch} could not be fetched: {error}", path, remedy
            ) from error

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    files.get_file = checked
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (OSError, KeyError) as error:
        raise ResourceError(
            f"the ImageNet weights of {arch} cannot be read: {error}",
            _cached("", "models"),
            "delete them there, so that they are fetched again",
        ) from error
    finally:
        files.get_file = fetch
        socket.setdefaulttimeout(before)


def _cached(name: str, folder: str) -> Path:
    """Where Keras keeps a file it fetched."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    if not os.access(home, os.W_OK):
        usual = Path("/tmp")  # noqa: S108 (Keras's own second choice)
        home = Path(usual if usual.is_dir() else tempfile.gettempdir(), ".keras")
    return home / folder / name


def _reachable(address: str) -> bool:
    """Whether something accepts a connection for an address, or at the proxy in front of it."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        door = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = door.hostname or "", door.port or 80
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
        except (OSError, ValueError):
            return
        connected.set()

    # Looking up a name cannot be given a time limit; a thread does it, which may be left behind.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return connected.is_set()
