"""Files: what stands at a path decides how it is written, and a place that cannot be is found out first."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from support.errors import UserError
from support.files import check_outputs, reserved, write_file


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


def test_links_that_go_round_in_a_circle(own_folder):
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    with pytest.raises(OSError):
        write_file("a", b"new")
    assert Path("a").is_symlink() and Path("b").is_symlink()


def test_pipe_is_written_into(own_folder):
    os.mkfifo("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()), daemon=True)
    reader.start()
    check_outputs("pipe")
    write_file("pipe", b"numbers")
    reader.join(timeout=10)
    assert read == [b"numbers"] and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_device_is_written_into(own_folder):
    """One of our own: a fault here must not cost the machine its /dev/null, as it would if root ran this."""
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        Path("null").write_bytes(b"")
    except OSError:
        pytest.skip("no devices can be made here")
    check_outputs("null")
    write_file("null", b"numbers")
    assert stat.S_ISCHR(os.stat("null").st_mode)


@pytest.mark.parametrize("to_file", [True, False])
def test_own_output_is_written_after_what_was_printed(own_folder, to_file):
    """As with --json /dev/stdout, by a name that nothing can be put in the place of; a file or a pipe."""
    code = "from support.files import write_file; print(1); write_file('/dev/fd/1', b'2\\n'); print(3)"
    with open("all", "wb") as file:
        stdout = file if to_file else subprocess.PIPE
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, check=True)
    assert (Path("all").read_bytes() if to_file else result.stdout) == b"1\n2\n3\n"


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
    check_outputs("here", "not/there/yet", "/dev/null", None)
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


@pytest.mark.parametrize("folder", [True, False])
def test_one_lock_for_all_names_of_a_place(own_folder, folder):
    Path("real").mkdir() if folder else Path("real").touch()
    Path("link").symlink_to("real")
    with (
        reserved(Path("link"), "--flag", folder),
        pytest.raises(UserError, match="another training is writing real"),
        reserved(Path("real"), "--flag", folder),
    ):
        pass


def test_lock_of_the_folder_that_one_is_in(own_folder):
    with reserved(Path("."), "--out", folder=True):
        assert os.listdir() == [".lock"]


def test_what_a_dead_training_did_not_finish_is_removed(own_folder):
    for name in ("vae.pt.12.tmp", "out/film.gif.34.tmp", "out/own.tmp", "mine.pt.56.tmp"):
        path = own_folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with reserved(Path("vae.pt"), "--checkpoint"), reserved(Path("out"), "--out", folder=True):
        left = sorted(path.name for path in own_folder.rglob("*.tmp"))
    assert left == ["mine.pt.56.tmp", "own.tmp"]


def test_lock_that_cannot_be_had(own_folder, capsys, monkeypatch):
    """A folder in its place; and a disk that knows no locks, where one can train nevertheless."""
    Path("vae.pt.lock").mkdir()
    with pytest.raises(OSError, match="lock"), reserved(Path("vae.pt"), "--checkpoint"):
        pass

    def no_locks(self):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "_acquire", no_locks)
    with reserved(Path("other.pt"), "--checkpoint"):
        assert "warning: " in capsys.readouterr().err


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_no_file_or_folder_is_not_trained_into(own_folder, folder):
    os.mkfifo("pipe")
    with pytest.raises(UserError, match="pipe is not a"), reserved(Path("pipe"), "--flag", folder):
        pass
    assert os.listdir() == ["pipe"]
