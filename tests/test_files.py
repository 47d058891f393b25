"""Files: what stands at a path decides how it is written, and a place that cannot be is found out first."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from settings import Settings
from support.checkpoint import Run
from support.errors import UserError
from support.files import check_outputs, from_here, locked, write_file, write_table
from support.runs import claim_folder


@pytest.fixture
def no_place(own_folder):
    """A folder in which nothing can be made, not even by root."""
    if os.geteuid() == 0:
        return Path("/proc")
    folder = own_folder / "read-only"
    folder.mkdir(mode=0o555)
    return folder


def test_link_stays_a_link_and_its_target_is_written(own_folder):
    Path("far").mkdir()
    Path("far/target").write_text("old")
    Path("link").symlink_to("far/target")
    Path("dangling").symlink_to("new/place")
    for name in ("link", "dangling"):
        write_file(name, b"new")
        assert Path(name).is_symlink() and Path(name).read_bytes() == b"new"
    assert Path("far/target").read_bytes() == Path("new/place").read_bytes() == b"new"


def test_pipe_is_refused(own_folder):
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=r"cannot write pipe \(not a regular file\): choose another"):
        check_outputs("pipe")
    with pytest.raises(OSError, match="not a regular file"):
        write_file("pipe", b"numbers")
    assert Path("pipe").is_fifo()


def test_private_file_stays_private(own_folder):
    Path("private").touch(mode=0o600)
    write_file("private", b"new")
    assert stat.S_IMODE(os.stat("private").st_mode) == 0o600


def test_two_writers_of_one_file_leave_one_whole_content(own_folder, monkeypatch):
    """The second begins and ends while the first is at work."""
    fsync = os.fsync

    def let_another_write(file):
        monkeypatch.setattr(os, "fsync", fsync)
        code = "from support.files import write_file; import sys; write_file(sys.argv[1], b'second')"
        subprocess.run([sys.executable, "-c", code, own_folder / "file"], cwd=ROOT, check=True)
        assert Path("file").read_bytes() == b"second"

    monkeypatch.setattr(os, "fsync", let_another_write)
    write_file("file", b"first" * 1000)
    assert Path("file").read_bytes() == b"first" * 1000
    assert os.listdir() == ["file"]


def test_good_places_are_left_as_they_were(own_folder):
    Path("here").write_text("old")
    check_outputs("here", "not/there/yet", None)
    assert os.listdir() == ["here"] and Path("here").read_text() == "old"


def test_bad_places_are_found_out(own_folder, no_place):
    Path("file").touch()
    Path("folder").mkdir()
    Path("link").symlink_to(no_place / "new")
    for place in (no_place / "new", no_place / "new" / "file", "link", "file/new", "folder"):
        with pytest.raises(UserError, match=f"cannot write {place} .*: choose another"):
            check_outputs(place)
    assert sorted(set(os.listdir()) - {"read-only"}) == ["file", "folder", "link"]


def test_input_is_no_output(own_folder):
    Path("file").touch()
    Path("link").symlink_to("file")
    with pytest.raises(UserError, match="link"):
        check_outputs("link", spare=["file"])


def test_table_has_no_formulas(own_folder):
    write_table("t.csv", [["=1+1", "@x", "+y", "-z", "x=1"], ["-5", "+1e3", -5, 0.1, ""]])
    assert Path("t.csv").read_text() == "'=1+1,'@x,'+y,'-z,x=1\n-5,+1e3,-5,0.1,\n"


def test_way_to_a_file_does_not_name_the_home_folder(own_folder, monkeypatch):
    monkeypatch.setenv("HOME", "/users/zoe")
    assert from_here(own_folder / "a" / "b.png") == "a/b.png" == from_here("a/b.png")
    assert from_here(own_folder.parent / "b.png") == "../b.png"
    assert from_here("/scratch/zoe/photos") == "photos" == from_here("/users/zoe/photos")


def test_one_lock_for_all_names_of_a_checkpoint(own_folder):
    Path("real").touch()
    Path("link").symlink_to("real")
    with (
        locked(Path("link")),
        pytest.raises(UserError, match="another run is writing real"),
        locked(Path("real")),
    ):
        pass


def test_what_a_dead_run_did_not_finish_is_removed(own_folder):
    for name in ("vae.pt.12.tmp", "own.tmp", "mine.pt.56.tmp"):
        (own_folder / name).touch()
    with locked(Path("vae.pt")):
        left = sorted(path.name for path in own_folder.rglob("*.tmp"))
    assert left == ["mine.pt.56.tmp", "own.tmp"]


def test_lock_that_cannot_be_had(own_folder, capsys, monkeypatch):
    """A folder in its place; and a disk that knows no locks, where one can train nevertheless."""
    Path("vae.pt.lock").mkdir()
    with pytest.raises(OSError, match="lock"), locked(Path("vae.pt")):
        pass

    def no_locks(self):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "_acquire", no_locks)
    with locked(Path("other.pt")):
        assert "warning: " in capsys.readouterr().err


def test_pipe_is_not_trained_into(own_folder):
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=r"pipe \(not a regular file"), locked(Path("pipe")):
        pass
    assert os.listdir() == ["pipe"]


# The folder of a run


@pytest.fixture
def new_run(own_folder):
    return lambda: Run(Settings(), out="pictures")


def test_folder_with_what_is_not_a_runs_is_taken_and_kept(new_run):
    Path("pictures").mkdir()
    Path("pictures/notes.txt").write_text("keep me")
    claim_folder(new_run(), overwrite=False)
    assert Path("pictures/notes.txt").read_text() == "keep me"


def test_folder_of_another_run_is_refused_and_overwritten_when_asked(new_run):
    first, second = new_run(), new_run()
    claim_folder(first, overwrite=False)
    for name in ("metrics.csv", "img_from_epoch0.png", "film.gif.34.tmp", ".run.56.tmp", "own.tmp"):
        Path("pictures", name).write_text("of the first")
    with pytest.raises(UserError, match="pictures of another run"):
        claim_folder(second, overwrite=False)
    claim_folder(first, overwrite=False)  # its own, on which it goes on
    assert sorted(os.listdir("pictures")) == [".run", "img_from_epoch0.png", "metrics.csv", "own.tmp"]
    claim_folder(second, overwrite=True)
    assert sorted(os.listdir("pictures")) == [".run", "own.tmp"]


def test_pictures_that_nobody_marked_are_nobodys_to_replace(new_run):
    Path("pictures").mkdir()
    Path("pictures/metrics.csv").write_text("mine")
    with pytest.raises(UserError, match="pictures of another run"):
        claim_folder(new_run(), overwrite=False)
    assert os.listdir("pictures") == ["metrics.csv"]
