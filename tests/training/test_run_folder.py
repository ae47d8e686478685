"""Names of run folders."""

from __future__ import annotations

from pathlib import Path

from realmix_tf.training.run_folder import RunFolder, path_word, run_name


def test_a_name_lists_what_differs_sorted_by_flag_and_the_seed():
    changed = {"w_match": 50.0, "filters": 16, "tsa": "linear_schedule", "percent_mask": 0.5}
    assert run_name("RealMix", changed, 3) == (
        "RealMix_filters16_percent_mask0.5_tsalinear_schedule_w_match50_seed3"
    )
    assert run_name("Supervised", {}, 0) == "Supervised_seed0"


def test_what_differs_a_little_has_another_name():
    near = [run_name("M", {"lr": value}, 0) for value in (0.1, 0.1000000001, 0.10000000001)]
    assert near[0] == "M_lr0.1_seed0"
    assert len(set(near)) == 3
    assert path_word("a/model") != path_word("b/model")
    assert path_word("a/model") == path_word("./a/../a/model/")
    assert path_word("a/model").startswith("model-")


def test_hostile_values_cannot_leave_the_folder():
    name = run_name("M", {"from": "../../etc/passwd", "x": "a b\n$(c)"}, 0)
    assert Path(name).name == name
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._,+-")


def test_a_name_too_long_for_file_systems_is_shortened_and_stays_distinct():
    names = {run_name("M", {"text": "x" * 300 + str(i)}, 1) for i in range(5)}
    assert len(names) == 5
    assert all(len(name.encode()) <= 180 and name.endswith("_seed1") for name in names)


def test_everything_lies_inside_the_folder():
    folder = RunFolder(Path("run"))
    paths = {k: v for k, v in vars(folder).items() if k != "path"}
    assert all(Path("run") in path.parents for path in paths.values())
    assert len(set(paths.values())) == len(paths)
    assert folder.metrics.name == "metrics.jsonl"
    assert folder.checkpoints == Path("run/tf")
