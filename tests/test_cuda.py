"""What only a machine with a CUDA GPU can show. The other tests see no GPU; these start processes that do."""

import functools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import VISIBLE_GPUS

from data import Split, to_float
from model import ConvVAE
from optimizer import make_optimizer
from settings import Settings
from support.device import STEPS_BEFORE, GraphedStep
from train import train_epoch, train_step


@pytest.fixture(scope="module", autouse=True)
def gpu(environment):
    """For these tests alone the GPUs are seen again, by processes that are started from here."""
    with pytest.MonkeyPatch.context() as patch:
        if VISIBLE_GPUS is None:
            patch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            patch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE_GPUS)
        if not torch.cuda.device_count():  # which asks the driver, and opens no GPU
            pytest.skip("no CUDA GPU")
        yield


def elsewhere(function, *args):
    """What a function returns in a process of its own; if this one opened the GPU, all tests would see it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def epochs_of(images, way):
    """The losses of three epochs, and a weight after them: steps replayed, or each as it comes."""
    torch.manual_seed(0)
    model = ConvVAE(latent_dim=8, hidden_dim=64, dropout=0.1).cuda().to(memory_format=torch.channels_last)
    settings = Settings(epochs=3, batch_size=32, lr=5e-4, latent_dim=8, move_epochs=2, precision="fp32")
    optimizer = make_optimizer(model, settings.lr, settings.weight_decay)
    step = functools.partial(train_step, model, optimizer, settings)
    if way == "replayed":
        step = GraphedStep(step)
    split = Split(images, torch.zeros(len(images), dtype=torch.long), [], "full").to("cuda")
    losses = [train_epoch(model, step, split, epoch, settings) for epoch in (1, 2, 3)]
    assert way != "replayed" or (step.steps_made == STEPS_BEFORE and step.graph is not None)
    return losses, model.mu_head.weight.detach().cpu()


def test_steps_that_are_replayed_are_the_steps_themselves(digits):
    """300 images in batches of 32: the last one is of 12, and never replayed. Sums differ in their order."""
    images = torch.from_numpy(digits.train[0])[:, None]
    losses, weight = elsewhere(epochs_of, images, "replayed")
    expected, expected_weight = elsewhere(epochs_of, images, "as it comes")
    assert expected[0][0] > expected[1][0] > expected[2][0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=2e-3, atol=0.02)
    torch.testing.assert_close(weight, expected_weight, rtol=0, atol=2e-3)


def replays_of_other_inputs(images):
    """The losses of a recorded step with other images and another beta than it was recorded with."""
    model, settings = ConvVAE(latent_dim=8, hidden_dim=64).cuda(), Settings(latent_dim=8, precision="fp32")
    optimizer = make_optimizer(model, settings.lr, 0.0)
    step = GraphedStep(functools.partial(train_step, model, optimizer, settings))
    y, moves = torch.zeros(32, dtype=torch.long).cuda(), torch.zeros(32, 6).cuda()
    for _ in range(STEPS_BEFORE + 2):
        step(to_float(images[:32].cuda()), y, moves, 1e-3, 1, 1.0)
    blank, digits = torch.zeros(32, 1, 28, 28).cuda(), to_float(images[32:64].cuda())
    before = model.mu_head.weight.clone()
    losses = [step(x, y, moves, 0.0, 1.0, 1.0)[0].item() for x in (blank, digits)]
    loss, bce, kld = (value.item() for value in step(digits, y, moves, 0.0, 0.5, 1.0))
    return losses, torch.equal(before, model.mu_head.weight), loss - (bce + 0.5 * kld)


def test_replays_take_their_images_learning_rate_and_beta(digits):
    (blank, written), stood_still, difference = elsewhere(
        replays_of_other_inputs, torch.from_numpy(digits.train[0])[:, None]
    )
    assert written > blank + 50
    assert stood_still
    assert abs(difference) < 1e-3


def test_a_run_on_a_gpu_ends_where_one_on_a_cpu_does(run, trained, data_dir, read_metrics, own_folder):
    """Other noise, and so not the same: three epochs of 300 images, from 500 nats."""
    options = ("--epochs", 3, "--batch-size", 16, "--latent-dim", 8, "--lr", 0.002, "--data-dir", data_dir)
    result = run("train", *options, "--device", "auto", cwd=own_folder)
    assert result.code == 0, result.err
    assert result.out.startswith("cuda, bf16;") or result.out.startswith("cuda, fp32;")
    ours, cpu = read_metrics(own_folder / "outputs/vae")[-1], read_metrics(trained.out)[-1]
    assert ours["train_loss"] == pytest.approx(cpu["train_loss"], rel=0.05)
    assert ours["test_loss"] == pytest.approx(cpu["test_loss"], rel=0.1)


def test_a_run_can_change_devices(start, run, data_dir, read_metrics, own_folder):
    """Begun on either, killed after an epoch, ended on the other. All batches of 300 images are full."""
    options = ("--epochs", 3, "--precision", "fp32", "--batch-size", 20, "--data-dir", data_dir)
    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        files = ("--checkpoint", f"{first}.pt", "--out", first)
        process = start("train", "--device", first, *options, *files, cwd=own_folder)
        for line in process.stdout:
            if line.split()[:2] == [b"epoch", b"1"]:
                process.kill()
                break
        process.communicate(timeout=60)
        result = run("train", "--resume", "--device", second, "--data-dir", data_dir, *files, cwd=own_folder)
        assert result.code == 0, result.err
        losses = [row["train_loss"] for row in read_metrics(own_folder / first)]
        assert len(losses) == 3 and losses[0] > losses[1] > losses[2]


def test_scripts_say_the_same_on_both(run, trained, data_dir, own_folder):
    numbers = numbers_on_both(run, trained.checkpoint, data_dir)
    for name in ("bce_at_mu", "kld", "knn_accuracy"):  # without noise
        assert numbers["cuda"][name] == pytest.approx(numbers["cpu"][name], rel=1e-3)
    assert numbers["cuda"]["negative_elbo"] == pytest.approx(numbers["cpu"]["negative_elbo"], rel=1e-2)
    for script in ("generate", "interpolate", "tsne"):
        data = () if script == "generate" else ("--data-dir", data_dir)
        options = ("--checkpoint", trained.checkpoint, *data, "--device", "cuda")
        result = run(script, *options, cwd=own_folder)
        assert result.code == 0, result.err


def test_black_and_white_pixels_are_the_same_on_both(call, run, data_dir):
    options = ("--epochs", 1, "--binarize", "--checkpoint", "bits.pt", "--data-dir", data_dir)
    assert call("train", *options).code == 0
    numbers = numbers_on_both(run, "bits.pt", data_dir)
    for name in ("bce_at_mu", "kld"):
        assert numbers["cuda"][name] == pytest.approx(numbers["cpu"][name], rel=1e-4)


def numbers_on_both(run, checkpoint, data_dir):
    """What evaluate.py says of a model: {device: numbers}."""
    numbers = {}
    for device in ("cpu", "cuda"):
        options = ("--checkpoint", checkpoint, "--data-dir", data_dir, "--json", f"{device}.json")
        result = run("evaluate", *options, "--device", device, cwd=".")
        assert result.code == 0, result.err
        numbers[device] = json.loads(Path(f"{device}.json").read_text())
        assert numbers[device]["device"] == device
    return numbers


def test_benchmark_on_a_gpu(run, data_dir, own_folder):
    options = ("--rounds", 1, "--steps", 8, "--batch-size", 32, "--data-dir", data_dir)
    result = run("benchmark", *options, "--device", "cuda", "--json", "b.json", cwd=own_folder)
    assert result.code == 0, result.err
    assert json.loads((own_folder / "b.json").read_text())["device"] == "cuda"


def test_importance_samples_on_a_gpu(run, data_dir, read_metrics, own_folder):
    options = ("--epochs", 2, "--batch-size", 16, "--importance-samples", 3, "--data-dir", data_dir)
    result = run("train", *options, "--device", "cuda", cwd=own_folder)
    assert result.code == 0, result.err
    first, second = (row["train_loss"] for row in read_metrics(own_folder / "outputs/vae"))
    assert first > second > 0
