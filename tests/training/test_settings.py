"""The numbers of a run: ranges, and how kimg become updates."""

from __future__ import annotations

import pytest

from realmix_tf.errors import UsageError
from realmix_tf.training.settings import TrainSettings

NAN, INF = float("nan"), float("inf")


def test_the_published_defaults():
    settings = TrainSettings()
    assert (settings.batch, settings.lr, settings.wd, settings.ema) == (64, 0.002, 0.02, 0.999)
    assert (settings.train_kimg, settings.report_kimg, settings.save_kimg) == (65536, 64, 64)
    assert (settings.keep_ckpt, settings.epochs, settings.shuffle) == (50, 1024, 8192)


def test_a_kimg_is_1024_labelled_images():
    settings = TrainSettings()
    assert settings.updates(64) == 1024
    assert settings.updates(1024) == 16384
    assert settings.total_updates == 2**20


@pytest.mark.parametrize(
    ("batch", "kimg", "updates"), [(64, 1, 16), (100, 1, 10), (1, 0.001, 1), (48, 0.1, 2)]
)
def test_only_whole_updates_count(batch, kimg, updates):
    settings = TrainSettings(batch=batch, train_kimg=kimg, report_kimg=kimg, save_kimg=kimg)
    assert settings.total_updates == updates


def test_epochs_stop_a_run_after_so_many_report_periods():
    assert TrainSettings(epochs=3, report_kimg=16).total_updates == 3 * 256
    assert TrainSettings(epochs=3, report_kimg=16, train_kimg=32).total_updates == 512


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"batch": 1 << 17},
        {"lr": -0.1},
        {"lr": NAN},
        {"lr": INF},
        {"wd": -1.0},
        {"wd": NAN},
        {"ema": 1.0},
        {"ema": -0.1},
        {"ema": NAN},
        {"train_kimg": 0.0},
        {"train_kimg": 0.01},
        {"train_kimg": NAN},
        {"train_kimg": INF},
        {"report_kimg": 0.0},
        {"report_kimg": NAN},
        {"save_kimg": 0.03},
        {"save_kimg": INF},
        {"keep_ckpt": 0},
        {"epochs": 0},
        {"seed": -1},
        {"seed": 2**31},
        {"precision": "float16"},
        {"shuffle": -1},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_a_usage_error_that_names_the_flag(change):
    with pytest.raises(UsageError, match=f"--{next(iter(change))}"):
        TrainSettings(**change)
