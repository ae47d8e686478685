from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_tools.folders import rename_journal
from data_tools.folders.rename_journal import JOURNAL, Journal, rename_exclusively
from data_tools.folders.renaming import (
    RenameOptions,
    describe,
    names_json,
    pending,
    plan_of,
    plan_undo,
    preview,
    rename,
    undo,
)
from realmix_tf.errors import DataError, ResourceError, UsageError
from realmix_tf.files import FolderLock

ROOT = Path(__file__).resolve().parents[2]
SIGNATURES = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff\xe0",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "TIFF": b"II*\0",
    "WEBP": b"RIFF\x10\0\0\0WEBP",
}


def fill(folder: Path, *names: str | bytes, kind: str = "PNG") -> Path:
    """Files that begin like pictures; each contains its own name."""
    for name in names:
        raw = os.fsencode(name)
        path = os.path.join(os.fsencode(folder), raw)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(SIGNATURES[kind] + raw)
    return folder


def visible(folder: Path) -> dict[str, bytes]:
    """Names (relative) and contents of the files that are not hidden."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            if not name.startswith("."):
                full = os.path.join(path, name)
                with open(full, "rb") as file:
                    found[os.path.relpath(full, folder)] = file.read()
    return found


def new_names(folder: Path, **more) -> list[str]:
    return [os.path.join(m.folder, m.new) for m in preview(RenameOptions(folder, **more)).moves]


def test_class_folders_keep_their_files_and_give_their_names(tmp_path) -> None:
    fill(tmp_path, "red_fox/x.png", "red_fox/sub/y.PNG", "football/1.png", "arctic-fox/2.png")
    before = visible(tmp_path)
    assert new_names(tmp_path, index=8) == [
        "arctic-fox/08_arctic-fox.png",
        "football/09_football.png",
        "red_fox/10_red_fox.png",
        "red_fox/sub/11_red_fox.png",
    ]
    assert visible(tmp_path) == before
    assert os.listdir(tmp_path).count(JOURNAL) == 0
    result = rename(RenameOptions(tmp_path, 8))
    assert (result.action, len(result.moves), result.missing) == ("renamed", 4, ())
    after = visible(tmp_path)
    assert sorted(after) == sorted(new_names_of(result))
    assert sorted(after.values()) == sorted(before.values())
    assert rename(RenameOptions(tmp_path, 8)).action == "nothing"
    assert undo(tmp_path).action == "undone"
    assert visible(tmp_path) == before


def new_names_of(result) -> list[str]:
    return [os.path.join(move.folder, move.new) for move in result.moves]


def test_flat_files_keep_the_whole_class_of_their_name(tmp_path) -> None:
    fill(tmp_path, "3_red_fox.png", "12_arctic_fox.png", "7_a.b.png")
    assert sorted(new_names(tmp_path)) == ["0_arctic_fox.png", "1_red_fox.png", "2_a.b.png"]
    fill(tmp_path, "holiday.png")
    with pytest.raises(DataError, match=r"'holiday\.png' gives no class"):
        preview(RenameOptions(tmp_path))


def test_a_folder_of_train_test_and_unlabeled(tmp_path) -> None:
    fill(tmp_path, "train/cat/x.png", "train/dog/x.png", "test/5_dog.png", "unlabeled/p.png",
         "unlabeled/9_cat.png", "unlabeled/more/q.png")  # fmt: skip
    assert new_names(tmp_path) == [
        "test/0_dog.png",
        "train/cat/1_cat.png",
        "train/dog/2_dog.png",
        "unlabeled/3_cat.png",
        "unlabeled/4_unlabeled.png",
        "unlabeled/more/5_more.png",
    ]
    assert len(new_names(tmp_path / "unlabeled")) == 3


def test_a_data_set_with_another_folder_is_no_set_of_classes(tmp_path) -> None:
    fill(tmp_path, "train/cat/x.png", "test/dog/y.png", "small/p.png")
    with pytest.raises(UsageError, match=r"'small' beside them.*--targetdir=.*test"):
        new_names(tmp_path)
    # Classes may be called so where nothing lies in folders below them.
    other = tmp_path / "other"
    other.mkdir()
    fill(other, "train/x.png", "bus/y.png")
    assert sorted(new_names(other)) == ["bus/0_bus.png", "train/1_train.png"]


def test_the_content_decides_the_extension(tmp_path) -> None:
    for kind, name in (("PNG", "a.jpg"), ("JPEG", "b.png"), ("JPEG", "c.JPEG"), ("GIF", "d"),
                       ("TIFF", "e.tiff"), ("WEBP", "f.webp"), ("BMP", "g.x")):  # fmt: skip
        fill(tmp_path, f"c/{name}", kind=kind)
    names = [".png", ".jpg", ".jpeg", ".gif", ".tiff", ".webp", ".bmp"]
    assert [os.path.splitext(name)[1] for name in new_names(tmp_path)] == names
    found = preview(RenameOptions(tmp_path, filetype="jpg"))
    assert [os.path.splitext(move.new)[1] for move in found.moves][1:3] == [".jpg", ".jpg"]
    assert "1 files are PNG pictures and have the extension of these" in found.notes
    assert any("another format than their names say, such as 'a.jpg'" in n for n in found.notes)
    with pytest.raises(UsageError, match="file type"):
        preview(RenameOptions(tmp_path, filetype="psd"))
    with pytest.raises(UsageError, match="index"):
        preview(RenameOptions(tmp_path, index=-1))


def test_every_format_that_pillow_writes_is_recognised(tmp_path) -> None:
    (tmp_path / "c").mkdir()
    for kind in SIGNATURES:
        Image.new("RGB", (4, 4)).save(tmp_path / "c" / kind, kind)
    names = sorted(os.path.splitext(name)[1] for name in new_names(tmp_path))
    assert names == [".bmp", ".gif", ".jpg", ".png", ".tif", ".webp"]


def test_running_it_again_with_another_index_loses_nothing(tmp_path) -> None:
    fill(tmp_path, *(f"a/{i}.png" for i in range(12)))
    rename(RenameOptions(tmp_path))
    for index in (1, 0, 3, 95):
        before = visible(tmp_path)
        found = preview(RenameOptions(tmp_path, index))
        assert any("taken back" in note for note in found.notes)
        rename(RenameOptions(tmp_path, index))
        after = visible(tmp_path)
        assert sorted(after.values()) == sorted(before.values())
        assert len(after) == 12
        undo(tmp_path)
        assert visible(tmp_path) == before
        rename(RenameOptions(tmp_path, index))
    assert not [name for name in os.listdir(tmp_path / "a") if name.startswith(".")]


@pytest.mark.parametrize("taken", ["0_a.png", "0_A.PNG"])
def test_new_names_that_are_taken_stop_it_beforehand(tmp_path, taken) -> None:
    fill(tmp_path, "a/x.png", "a/y.png")
    (tmp_path / "a" / taken).write_text("no picture")
    before = visible(tmp_path)
    with pytest.raises(DataError, match=r"1 of the new names are taken .*0_a\.png"):
        rename(RenameOptions(tmp_path))
    assert visible(tmp_path) == before
    assert not (tmp_path / JOURNAL).exists()


def test_names_that_differ_in_unicode_form_are_the_same(tmp_path) -> None:
    fill(tmp_path, "ä/x.png")
    (tmp_path / "ä" / "0_a\u0308.png").write_text("no picture")
    with pytest.raises(DataError, match="taken"):
        preview(RenameOptions(tmp_path))


def test_a_file_that_appears_meanwhile_is_never_replaced(tmp_path, monkeypatch) -> None:
    fill(tmp_path, "a/w.png", "a/x.png", "a/y.png")
    before = visible(tmp_path)
    create = Journal.create

    def late(root: Path, *rest) -> Journal:
        (root / "a" / "1_a.png").write_text("precious")
        return create(root, *rest)

    monkeypatch.setattr(Journal, "create", late)
    with pytest.raises(DataError, match=r"'1_a\.png' is taken by another file.*--undo"):
        rename(RenameOptions(tmp_path))
    assert (tmp_path / "a" / "1_a.png").read_text() == "precious"
    journal = pending(tmp_path)
    assert journal is not None
    assert journal.places() == {"old": 2, "hidden": 0, "new": 1, "missing": 0}
    undo(tmp_path)
    assert (tmp_path / "a" / "1_a.png").read_text() == "precious"
    (tmp_path / "a" / "1_a.png").unlink()
    assert visible(tmp_path) == before


def test_odd_names_come_back_byte_for_byte(tmp_path) -> None:
    names = [b"a/\xff\xfe.png", b"a/new\nline.png", b"a/-dash.png", b"a/" + b"n" * 255,
             "a/ünï.png".encode(), "a/u\u0308.png".encode(), b"a/ .png", b"a/[x]*.png"]  # fmt: skip
    fill(tmp_path, *names)
    result = rename(RenameOptions(tmp_path))
    json.dumps(names_json(result.moves)).encode("ascii")
    assert len(visible(tmp_path)) == len(names)
    undo(tmp_path)
    assert sorted(map(os.fsencode, visible(tmp_path))) == sorted(names)


def test_what_is_no_picture_is_left_alone(tmp_path) -> None:
    fill(tmp_path, "a/x.png", ".hidden/y.png", "a/.DS_Store", "__MACOSX/a/x.png", "a/Thumbs.db")
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "a" / "page.png").write_text("<html>")
    (tmp_path / "a" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "link.png").symlink_to("x.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "loose.txt").write_text("x")
    found = preview(RenameOptions(tmp_path))
    assert [(m.old, m.new) for m in found.moves] == [
        ("link.png", "0_a.png"),
        ("x.png", "1_a.png"),
    ]
    reasons = {os.path.basename(name): reason for name, reason in found.left_out}
    assert reasons["pipe.png"] == "not a regular file"
    assert reasons["dangling.png"] == "the link leads nowhere"
    assert reasons["empty.png"] == reasons["page.png"] == "no picture of a known format"
    assert "'a/dangling.png'" in " ".join(found.notes)
    rename(RenameOptions(tmp_path))
    # The link is renamed, not what it leads to.
    assert os.readlink(tmp_path / "a" / "0_a.png") == "x.png"
    undo(tmp_path)
    assert (tmp_path / "a" / "link.png").read_bytes().endswith(b"a/x.png")


def test_files_beside_class_folders(tmp_path) -> None:
    fill(tmp_path, "a/x.png", "loose.png")
    assert preview(RenameOptions(tmp_path)).left_out == (("loose.png", "not in a class folder"),)
    fill(tmp_path, "1_b.png")
    with pytest.raises(DataError, match="beside the class folders"):
        preview(RenameOptions(tmp_path))


@pytest.mark.parametrize("name", ["", "x"])
def test_nothing_to_rename_is_an_error(tmp_path, name) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no such folder|no pictures"):
        rename(RenameOptions(tmp_path / "empty" / name))
    with pytest.raises((DataError, UsageError)):
        undo(tmp_path / "empty" / name)
    assert not (tmp_path / "empty" / "x").exists()


def test_names_that_would_be_too_long(tmp_path) -> None:
    fill(tmp_path, "k" * 252 + "/x.png")
    with pytest.raises(DataError, match="longer than 255 bytes"):
        preview(RenameOptions(tmp_path))


def test_plans_and_texts(tmp_path) -> None:
    fill(tmp_path, *(f"a/{i}.png" for i in range(10)))
    found = preview(RenameOptions(tmp_path))
    assert "a/0.png → 0_a.png" in describe(found)
    assert "and 2 more" in describe(found)
    plan = plan_of(preview(RenameOptions(tmp_path))).as_json()
    assert plan["facts"] == {"files": 10, "unchanged": 0, "classes": {"a": 10}, "left_out": 0}
    rename(RenameOptions(tmp_path))
    assert (tmp_path / JOURNAL).stat().st_size <= plan["writes"][0]["bytes"]
    assert plan_undo(tmp_path).facts["names"] == {"old": 0, "hidden": 0, "new": 10, "missing": 0}


def test_undo_refuses_names_that_are_taken_and_goes_on_without_what_is_gone(tmp_path) -> None:
    fill(tmp_path, "a/x.png", "a/y.png", "a/z.png")
    rename(RenameOptions(tmp_path))
    (tmp_path / "a" / "y.png").write_text("new")
    with pytest.raises(DataError, match=r"1 of the old names are taken .*'y\.png'"):
        undo(tmp_path)
    assert pending(tmp_path) is None
    (tmp_path / "a" / "y.png").unlink()
    (tmp_path / "a" / "2_a.png").unlink()
    assert undo(tmp_path).missing == ("a/z.png",)
    assert sorted(visible(tmp_path)) == ["a/x.png", "a/y.png"]
    with pytest.raises(UsageError, match="undone already"):
        undo(tmp_path)


def test_one_at_a_time(tmp_path) -> None:
    fill(tmp_path, "a/x.png")
    with FolderLock(tmp_path), pytest.raises(ResourceError, match="in use"):
        rename(RenameOptions(tmp_path))
    assert list(visible(tmp_path)) == ["a/x.png"]


def test_the_lock_goes_with_its_holder(tmp_path) -> None:
    fill(tmp_path, "a/x.png")
    with pytest.raises(UsageError, match="nothing was renamed"):
        undo(tmp_path)
    assert os.listdir(tmp_path) == ["a"]
    rename(RenameOptions(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [JOURNAL, "a"]
    with FolderLock(tmp_path) as held:
        waiting = os.open(tmp_path / ".lock", os.O_RDONLY)
        held.__exit__()
        with FolderLock(tmp_path):
            # Of the same name, but not the file that was opened before.
            assert not os.path.samestat(os.fstat(waiting), os.stat(tmp_path / ".lock"))
        os.close(waiting)
    assert not (tmp_path / ".lock").exists()


def test_a_lock_never_costs_a_file_of_its_name(tmp_path) -> None:
    fill(tmp_path, "a/x.png")
    lock, own = tmp_path / ".lock", tmp_path / "own"
    for make in (
        lambda: lock.write_text("mine"),
        lambda: lock.symlink_to(own),
        lambda: os.mkfifo(lock),
        lock.mkdir,
    ):
        own.write_text("mine")
        make()
        with pytest.raises((DataError, ResourceError), match=r"\.lock"):
            rename(RenameOptions(tmp_path))
        assert own.read_text() == "mine"
        assert os.path.lexists(lock)
        assert list(visible(tmp_path / "a")) == ["x.png"]
        lock.rmdir() if lock.is_dir() else lock.unlink()


def test_an_interrupted_renaming_below_comes_first(tmp_path) -> None:
    fill(tmp_path, "a/b/x.png", "c/y.png")
    Journal.create(tmp_path / "a" / "b", preview(RenameOptions(tmp_path / "a")).moves, False)
    with pytest.raises(DataError, match=r"interrupted .*a/b"):
        preview(RenameOptions(tmp_path))


def test_without_hard_links(tmp_path, monkeypatch) -> None:
    def no_links(*arguments, **named) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    fill(tmp_path, "a/x.png", "a/\udcff.png")
    before = visible(tmp_path)
    rename(RenameOptions(tmp_path))
    assert sorted(visible(tmp_path)) == ["a/0_a.png", "a/1_a.png"]
    undo(tmp_path)
    assert visible(tmp_path) == before
    with pytest.raises(FileExistsError):
        rename_exclusively(str(tmp_path / "a/x.png"), str(tmp_path / "a/\udcff.png"))
    with pytest.raises(FileNotFoundError):
        rename_exclusively(str(tmp_path / "a/none"), str(tmp_path / "a/y"))
    monkeypatch.setattr(rename_journal.ctypes, "CDLL", lambda *a, **k: object())
    with pytest.raises(ResourceError, match="cannot rename a file without the risk"):
        rename(RenameOptions(tmp_path))
    assert visible(tmp_path) == before


def journal_lines(*moves: dict[str, str], staged: bool = False, mark: str = "done") -> bytes:
    lines = [{"schema": 1, "files": len(moves), "staged": staged}, *moves, {"mark": mark}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"{}\n", b"{}\n{}\n", b"\xff\n\n\n", b"[" * 100_000 + b"\n\n",
        journal_lines().replace(b'"schema": 1', b'"schema": 2'),
        journal_lines().replace(b'"files": 0', b'"files": 9'),
        journal_lines(mark="flying"),
        journal_lines({"folder": "", "old": "../x", "new": "y"}),
        journal_lines({"folder": "..", "old": "x", "new": "y"}),
        journal_lines({"folder": "a/../..", "old": "x", "new": "y"}),
        journal_lines({"folder": "/etc", "old": "x", "new": "y"}),
        journal_lines({"folder": "link", "old": "x", "new": "y"}),
        journal_lines({"folder": "", "old": "x", "new": ""}),
        journal_lines({"folder": "", "old": "x", "new": "y\0"}),
        journal_lines({"folder": "", "old": "x", "new": "y"}, staged=True),
        journal_lines({"folder": "", "old": "x", "new": 3}),
        journal_lines({"folder": "", "old": "x", "new": "y", "z": "z"}),
    ],
)  # fmt: skip
def test_journals_of_strangers_move_nothing(tmp_path, content) -> None:
    folder = fill(tmp_path / "in", "y", "a/y")
    fill(tmp_path, "y", "out/y")
    (folder / "link").symlink_to(tmp_path / "out")
    (folder / JOURNAL).write_bytes(content)
    before = visible(tmp_path)
    for work in (lambda: undo(folder), lambda: rename(RenameOptions(folder))):
        with pytest.raises(DataError, match="journal of the last renaming is damaged"):
            work()
    assert visible(tmp_path) == before


def test_a_journal_that_is_a_link_is_not_followed(tmp_path) -> None:
    folder = fill(tmp_path / "in", "a/y.png")
    (tmp_path / "victim").write_bytes(journal_lines({"folder": "", "old": "x", "new": "y"}))
    (folder / JOURNAL).symlink_to(tmp_path / "victim")
    with pytest.raises(ResourceError):
        rename(RenameOptions(folder))


def test_a_mark_that_was_half_written_does_not_count(tmp_path) -> None:
    fill(tmp_path, "a/x.png", "a/y.png")
    before = visible(tmp_path)
    rename(RenameOptions(tmp_path))
    path = tmp_path / JOURNAL
    content = path.read_bytes()
    start = content.rindex(b'{"mark"')
    for cut in range(start, len(content)):
        path.write_bytes(content[:cut])
        journal = pending(tmp_path)
        assert journal is not None
        assert journal.mark == "placing"
    assert rename(RenameOptions(tmp_path)).action == "completed"
    assert path.read_bytes() == content
    undo(tmp_path)
    assert visible(tmp_path) == before


@pytest.mark.process
def test_killed_at_any_step_it_loses_nothing(tmp_path) -> None:
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rename_faults.py")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    steps = [int(line) for line in result.stdout.split()]
    assert len(steps) == 4
    assert min(steps) >= 8
