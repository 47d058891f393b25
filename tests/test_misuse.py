"""A campaign of misuse: every script in odd surroundings, with odd files, and with nowhere to write to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import benchmark
from model import ConvVAE
from support.checkpoint import load_checkpoint

# what to run, and under which flags each script writes what
COMMANDS = {
    "train": ("--epochs", 1, "--batch-size", 100, "--latent-dim", 4),
    "generate": ("--n", 4),
    "interpolate": ("--steps", 3),
    "tsne": ("--n", 50, "--perplexity", 5),
    "evaluate": ("--draws", 1),
    "benchmark": ("--rounds", 1, "--steps", 1, "--batch-size", 32),
}
OUTPUTS = {
    "train": {"--checkpoint": "new.pt", "--out": "training"},
    "generate": {"--out": "grid.png", "--save-images": "digits"},
    "interpolate": {"--out": "strip.png"},
    "tsne": {"--out": "map.png"},
    "evaluate": {"--json": "numbers.json"},
    "benchmark": {"--json": "ratios.json"},
}
PLACES = [(script, flag) for script, outputs in OUTPUTS.items() for flag in outputs]


@pytest.fixture(scope="module")
def arguments(trained, data_dir):
    def arguments(script, **outputs):
        """All of a script's arguments, with outputs in the working folder or at other places."""
        places = OUTPUTS[script] | outputs
        files = () if script == "generate" else ("--data-dir", data_dir)
        if script not in ("train", "benchmark"):
            files += ("--checkpoint", trained.checkpoint)
        return [*COMMANDS[script], *files, *(part for pair in places.items() for part in pair)]

    return arguments


@pytest.fixture(scope="module")
def bare(arguments, tmp_path_factory):
    """Every script at once as with ``env -i``, in a folder of an odd name, as a notebook would start it.

    Without stderr and printing what ASCII lacks: {script: (folder, process)}.
    """
    started = {}
    for script in COMMANDS:
        folder = tmp_path_factory.mktemp(f"Größe 'n\n ☃ {script}")
        command = [sys.executable, ROOT / f"{script}.py", "--device", "cpu", *arguments(script)]
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *map(str, command)],
            cwd=folder,
            stdout=subprocess.PIPE,
            env={"MPLBACKEND": "module://of_a_notebook", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        )
        started[script] = folder, process
    yield started
    for _, process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("script", COMMANDS)
def test_bare_surroundings(bare, script):
    folder, process = bare[script]
    out, _ = process.communicate(timeout=170)
    assert process.returncode == 0, out
    for name in OUTPUTS[script].values():
        assert (folder / name).exists()


@pytest.fixture(scope="module")
def unheard(arguments, tmp_path_factory):
    """Every script at once, as in ``python script.py | head -0``: {script: (folder, process)}."""
    started = {}
    for script in COMMANDS:
        folder = tmp_path_factory.mktemp(script)
        command = [sys.executable, ROOT / f"{script}.py", "--device", "cpu", *arguments(script)]
        nobody, stdout = os.pipe()
        os.close(nobody)
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # which would end train.py at its first line
        )
        started[script] = folder, process
        os.close(stdout)
    return started


@pytest.mark.parametrize("script", COMMANDS)
def test_reader_who_has_enough(unheard, script):
    """The script ends as others do, with the status of SIGPIPE and without complaint."""
    folder, process = unheard[script]
    _, err = process.communicate(timeout=170)
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert process.returncode == 141, err
    if script == "train":  # which can go on
        assert len(lines) == 1 and "--resume" in lines[0]
        assert load_checkpoint(folder / "new.pt")[1].optimizer is not None
    else:
        assert lines == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_under_the_output(arguments, refusal, own_folder):
    command = [sys.executable, ROOT / "generate.py", *arguments("generate")]
    with open("/dev/full", "w") as full:
        result = subprocess.run(list(map(str, command)), stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: No space left") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("script, flag", PLACES)
def test_link_for_an_output(call, arguments, own_folder, script, flag):
    """The link stays, and what it points to is written: a file, or a folder that is there."""
    name = OUTPUTS[script][flag]
    is_folder = name in ("training", "digits")
    Path("far").mkdir()
    Path(name).symlink_to(Path("far", name))
    if is_folder:
        Path("far", name).mkdir()
    assert call(script, *arguments(script)).code == 0
    assert Path(name).is_symlink() and Path(name).resolve() == own_folder / "far" / name
    assert any(Path("far", name).iterdir()) if is_folder else Path("far", name).stat().st_size > 0


@pytest.fixture
def no_work(monkeypatch):
    """Fails the test as soon as a network has anything to do."""

    def work(*args):
        raise AssertionError("begins to work")

    for method in ("encode", "decode_logits"):
        monkeypatch.setattr(ConvVAE, method, work)
    monkeypatch.setattr(benchmark, "seconds", work)


@pytest.mark.parametrize("script, flag", PLACES)
@pytest.mark.parametrize("place", ["/proc", "file", "folder"])
def test_output_that_cannot_be_written_is_found_out_before_the_work(
    call, refusal, arguments, no_work, own_folder, script, flag, place
):
    name = OUTPUTS[script][flag]
    Path("file").write_text("keep me")
    if place == "/proc" and not os.path.exists(place):
        pytest.skip("no folder here that even root cannot write to")
    if place == "folder":
        if name in ("training", "digits"):
            pytest.skip("a folder is what it should be")
        Path("folder", name).mkdir(parents=True)
    line = refusal(call(script, *arguments(script, **{flag: f"{place}/{name}"})))
    assert f"{place}/{name}" in line
    assert Path("file").read_text() == "keep me"
    left = {path.name for path in own_folder.rglob("*") if path.is_file()}
    assert left <= {"file", "new.pt.lock"}


def test_home_folder_is_meant_by_a_tilde(call, trained, own_folder, monkeypatch):
    """Which no shell expands in --out=~/grid.png."""
    monkeypatch.setenv("HOME", str(own_folder / "home"))
    assert call("generate", "--checkpoint", trained.checkpoint, "--out=~/grid.png").code == 0
    assert (own_folder / "home" / "grid.png").exists() and not Path("~").exists()
    assert call("generate", f"--checkpoint={trained.checkpoint}", "--out=~nobody_at_all/grid.png").code == 2
    assert call("generate", "--out=").code == call("generate", "--checkpoint=").code == 2


def test_evaluation_does_not_overwrite_what_it_measures(call, refusal, trained, data_dir, own_folder):
    before = trained.checkpoint.read_bytes()
    Path("link.json").symlink_to(trained.checkpoint)
    for name in (trained.checkpoint, "link.json"):
        options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--json", name)
        assert str(name) in refusal(call("evaluate", *options))
    assert trained.checkpoint.read_bytes() == before


def test_terminal_of_no_width(run, own_folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    result = run("generate", "--help", cwd=own_folder)
    assert result.code == 0 and "--save-images" in result.out
