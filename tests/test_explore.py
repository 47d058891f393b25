"""The page that explore.py writes: its network is torch's, its formulas are the project's; its controls."""

import base64
import functools
import io
import itertools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import explore
from data import Split, to_float
from interpolate import walk
from mixture import fit_mixture
from model import ConvVAE, kl_divergence
from settings import Settings
from support.checkpoint import Run, load_checkpoint, save_checkpoint
from support.errors import UserError
from support.layers import network_layers, run_decoder, run_encoder
from support.layers import run as run_layers
from support.measures import elbo_terms

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SHIPPED = ROOT / "checkpoints" / "pretrained.pt"
BINARIZED = ROOT / "checkpoints" / "pretrained_binarized.pt"


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


class Deeper(nn.Module):
    """A network of other sizes than ConvVAE's, with all the kinds of layers that the page knows."""

    encode, encode_all, decode = ConvVAE.encode, ConvVAE.encode_all, ConvVAE.decode
    reparameterize = ConvVAE.reparameterize

    def __init__(self, side=32):
        super().__init__()
        self.side, inner = side, side // 4

        def block(maps):
            return Residual(
                nn.BatchNorm2d(maps),
                nn.LeakyReLU(0.1),
                nn.Conv2d(maps, maps, 3, padding=1, bias=False),
                nn.BatchNorm2d(maps),  # right after a convolution
                nn.LeakyReLU(0.1),
                nn.Conv2d(maps, maps, 3, padding=1),
            )

        self.encoder = nn.Sequential(
            nn.BatchNorm2d(1),  # with nothing before it
            nn.Conv2d(1, 5, 3, padding=1, stride=2),
            block(5),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.5),
            nn.Sequential(nn.Conv2d(5, 6, 1), block(6)),
        )
        self.encoder_fc = nn.Sequential(
            nn.Linear(inner**2 * 6, 20),
            nn.BatchNorm1d(20),
            Residual(nn.LeakyReLU(0.1), nn.Linear(20, 20)),
            nn.Dropout(0.5),
        )
        self.mu_head, self.logvar_head = nn.Linear(20, 3), nn.Linear(20, 3)
        self.decoder_fc = nn.Sequential(nn.Linear(3, inner**2 * 7), nn.LeakyReLU(0.2))
        self.decoder = nn.Sequential(
            block(7),
            nn.ConvTranspose2d(7, 5, 4, stride=2, padding=1),
            nn.BatchNorm2d(5),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose2d(5, 2, 2, stride=2, bias=False),
            nn.Conv2d(2, 1, 3, padding=1),
        )
        self.config = {"latent_dim": 3}

    def decode_logits(self, z):
        h = self.decoder_fc(z).view(len(z), self.side // 4, self.side // 4, -1)
        return self.decoder(h.permute(0, 3, 1, 2))


@torch.no_grad()
def unsettled(model, x):
    """The model in eval mode, with all that batch normalisation has far from its first values."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    model.train()
    for _ in range(4):
        mu, _ = model.encode(x)
        model.decode(mu)
    return model.eval()


@pytest.fixture(scope="module")
def images(digits):
    """float32 (100, 1, 28, 28) in [0, 1]"""
    return to_float(torch.from_numpy(digits.test[0])[:, None])


# The list of layers


def test_layers_of_a_deeper_network_do_what_it_does():
    torch.manual_seed(0)
    x = torch.rand(6, 1, 32, 32)
    model = unsettled(Deeper(), x)
    network = network_layers(model, x)
    with torch.no_grad():
        for ours, theirs in zip(run_encoder(network, x), model.encode(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        z = torch.randn(5, 3)
        torch.testing.assert_close(run_decoder(network, z), model.decode(z), atol=1e-5, rtol=1e-4)
    kinds = [layer["kind"] for layer in network["encoder"]]
    assert kinds == [
        *("scale", "conv", "residual", "maxpool", "conv", "residual"),
        *("reshape", "linear", "scale", "residual"),
    ]
    body = [layer["kind"] for layer in network["encoder"][2]["body"]]
    assert body == ["scale", "leaky", "conv", "scale", "leaky", "conv"]


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.MaxPool2d(3, stride=1, padding=1)]
)
def test_a_layer_that_the_page_does_not_know_is_named(layer):
    model = Deeper()
    model.encoder[5][1] = layer
    with pytest.raises(UserError, match=re.escape(repr(layer))):
        network_layers(model.eval(), torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_a_network_that_does_more_than_its_layers_is_refused(part):
    """Rather than a page that shows something else than the model."""
    model = Deeper().eval()
    if part == "encode":
        encode = model.encode
        model.encode = lambda x: encode(9 * x)
    else:
        decode_logits = model.decode_logits
        model.decode_logits = lambda z: 2 * decode_logits(z)
    with pytest.raises(UserError, match="does not do what the model does"):
        network_layers(model, torch.rand(2, 1, 32, 32))


# The page, in a browser


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"there is no browser here: none of {', '.join(names)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser):
    """A function that opens a page from disk, without a network: Playwright's page, with its errors."""
    contexts = []

    def opened(path, width=1280, height=900, ready=True, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(path.as_uri())
        if ready:
            page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()


def untrained_model(images, labels, latent_dim, classes, mixture=True):
    """A small model that was never trained, with weights that have an effect, and its run."""
    torch.manual_seed(1)
    model = ConvVAE(latent_dim=latent_dim, hidden_dim=64)
    with torch.no_grad():
        model.decoder_fc[2].weight *= 5  # else every z looks alike
        model.mu_head.weight *= 8
    unsettled(model, images)
    run = Run(Settings(latent_dim=latent_dim), source="full", classes=classes)
    if mixture:
        with torch.no_grad():
            mu, _ = model.encode(images)
        share = torch.linspace(
            0.1, 1, len(labels.unique())
        )  # some classes are ten times as frequent as others
        run.mixture = fit_mixture(mu, labels) | {"share": share / share.sum()}
    return model, run


@pytest.fixture(scope="module")
def untrained(digits, images):
    """A function that writes a checkpoint of such a model."""
    labels = torch.from_numpy(digits.test[1]).long()

    def untrained(path, latent_dim, mixture=True):
        save_checkpoint(path, *untrained_model(images, labels, latent_dim, list("0123456789"), mixture))
        return path

    return untrained


@pytest.fixture(scope="module")
def written(untrained, data_dir, tmp_path_factory):
    """A function that has explore.py write a page by name, once: its path, its model and its run."""
    folder, pages = tmp_path_factory.mktemp("pages"), {}

    def written(name):
        if name not in pages:
            path = {"shipped": SHIPPED, "binarized": BINARIZED}.get(name)
            path = path or untrained(folder / "plane.pt", 2)
            page = folder / f"{name}.html"
            flags = ("--checkpoint", path, "--data-dir", data_dir, "--out", page, "--device", "cpu")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["explore.py", *map(str, flags)])
                explore.main()
            model, state = load_checkpoint(path)
            pages[name] = SimpleNamespace(path=page, model=model.requires_grad_(False), run=state)
        return pages[name]

    return written


@pytest.fixture(scope="module")
def shared(written, opened):
    """A function that opens such a page, once: tests share it, and expect no state of it."""
    pages = {}

    def shared(name):
        if name not in pages:
            pages[name] = opened(written(name).path)
        return pages[name]

    yield shared
    for page in pages.values():
        assert page.errors == []


@pytest.fixture
def shipped(shared):
    return shared("shipped")


def call_each(page, function, rows):
    """A JavaScript function, given as source, of every row of a tensor: a list."""
    script = f"rows => rows.map(row => ({function})(Float32Array.from(row)))"
    return page.evaluate(script, [row.flatten().tolist() for row in rows])


DECODE = "z => Array.from(convvae.decode(z))"
ENCODE = "x => { const {mu, logvar} = convvae.encode(x); return [Array.from(mu), Array.from(logvar)] }"


@pytest.mark.parametrize("name", ["shipped", "plane", "binarized"])
def test_network_agrees_with_torch_and_asks_nobody(written, shared, images, name):
    made = written(name)
    page, model = shared(name), made.model
    latent_dim = model.config["latent_dim"]
    assert page.evaluate("convvae.latentDim") == latent_dim
    z = torch.randn(20, latent_dim, generator=torch.Generator().manual_seed(0))
    decoded = torch.tensor(call_each(page, DECODE, z))
    assert decoded.std(0).max() > 0.05  # they are not all the same image
    torch.testing.assert_close(decoded, model.decode(z).flatten(1), atol=0.01, rtol=0)
    x = images[::5].round() if made.run.settings.binarize else images[::5]  # 20
    mu, logvar = torch.tensor(call_each(page, ENCODE, x)).unbind(1)
    theirs = model.encode(x)
    torch.testing.assert_close(mu, theirs[0], atol=0.01, rtol=0)
    torch.testing.assert_close(logvar, theirs[1], atol=0.05, rtol=0)
    assert page.requests == [made.path.as_uri()]
    assert made.path.stat().st_size < 15_000_000


def test_each_kind_of_layer_is_torchs(browser):
    """The network's arithmetic alone, without a page: maps of odd sizes, and of more than one channel."""
    randn = torch.Generator().manual_seed(0)
    randn = functools.partial(torch.randn, generator=randn)
    body = [{"kind": "leaky", "slope": 0.1}, {"kind": "scale", "scale": randn(4), "shift": randn(4)}]
    conv = {"kind": "conv", "bias": randn(5)}
    transposed = {"kind": "transposed", "bias": randn(3)}
    maps, vector = randn(1, 7, 5, 4), randn(1, 1, 1, 4)  # (B, H, W, C)
    page = browser.new_page()
    page.add_script_tag(path=ROOT / "support" / "page" / "network.js")
    for layer, h in (
        (conv | {"weight": randn(5, 3, 3, 4), "stride": 2, "padding": 1}, maps),
        (conv | {"weight": randn(5, 4, 4, 4), "stride": 1, "padding": 0}, maps),
        (transposed | {"weight": randn(4, 4, 3, 4), "stride": 2, "padding": 1}, maps),
        (transposed | {"weight": randn(3, 3, 3, 4), "stride": 1, "padding": 0}, vector),
        ({"kind": "linear", "weight": randn(7, 4), "bias": randn(7)}, vector),
        ({"kind": "maxpool", "size": 2}, maps),
        ({"kind": "reshape", "shape": [5, 7, 4]}, maps),
        ({"kind": "residual", "body": body}, maps),
    ):
        script = "([layers, h]) => { const r = run(layers, h); return {...r, data: Array.from(r.data)} }"
        given = {"data": h.flatten().tolist(), "height": h.shape[1], "width": h.shape[2], "channels": 4}
        found = page.evaluate(script, [as_json([layer]), given])
        expected = run_layers([layer], h)[0]
        assert [found[name] for name in ("height", "width", "channels")] == list(expected.shape)
        torch.testing.assert_close(torch.tensor(found["data"]), expected.flatten(), atol=1e-4, rtol=1e-4)
    page.close()


def as_json(layers):
    """The lists of layers as the page has them, their tensors as lists of numbers."""
    if isinstance(layers, list):
        return [as_json(layer) for layer in layers]
    if isinstance(layers, dict):
        return {name: as_json(value) for name, value in layers.items()}
    if isinstance(layers, torch.Tensor):
        return {"shape": list(layers.shape), "data": layers.flatten().tolist()}
    return layers


def test_deeper_network_runs_in_the_page(call, opened, monkeypatch, data_dir, images, own_folder):
    """Residual blocks, several transposed maps, strides: only the list of layers is another."""
    torch.manual_seed(0)
    model = unsettled(Deeper(side=28), images).requires_grad_(False)
    run = Run(Settings(latent_dim=3), classes=list("0123456789"))
    monkeypatch.setattr(explore, "open_model", lambda path, device, images: (model, run, SHIPPED))
    assert call("explore", "--data-dir", data_dir, "--out", "deeper.html").code == 0
    page = opened(own_folder / "deeper.html")
    z = 3 * torch.randn(20, 3)
    decoded = torch.tensor(call_each(page, DECODE, z))
    torch.testing.assert_close(decoded, model.decode(z).flatten(1), atol=0.01, rtol=0)
    mu, logvar = torch.tensor(call_each(page, ENCODE, images[:20])).unbind(1)
    torch.testing.assert_close(mu, model.encode(images[:20])[0], atol=0.01, rtol=0)
    torch.testing.assert_close(logvar, model.encode(images[:20])[1], atol=0.05, rtol=0)
    assert page.errors == []


# What the page computes, against the project's own


@pytest.mark.parametrize("name", ["shipped", "plane"])
def test_class_probabilities_are_the_mixtures(written, shared, name):
    mixture = written(name).run.mixture
    density = MixtureSameFamily(
        Categorical(mixture["weights"]), MultivariateNormal(mixture["means"], scale_tril=mixture["cholesky"])
    )
    # in the classes, between them, and far from all
    z = torch.cat([mixture["means"][:, 0], mixture["means"].mean(1), mixture["means"][:, 0] + 3])
    expected = (density.log_prob(z[:, None]) + mixture["share"].log()).softmax(1)
    found = torch.tensor(call_each(shared(name), "classProbabilities", z))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (expected.max(1).values < 0.999).any()


def test_samples_of_a_class_have_the_mixtures_moments(written, shipped):
    mixture, label, n = written("shipped").run.mixture, 4, 8000
    weights = mixture["weights"][label]
    mean = weights @ mixture["means"][label]
    offsets = mixture["means"][label] - mean
    within = mixture["cholesky"][label] @ mixture["cholesky"][label].mT
    covariance = (weights[:, None, None] * (within + offsets[:, :, None] * offsets[:, None])).sum(0)
    drawn = shipped.evaluate(f"Array.from({{length: {n}}}, () => Array.from(sampleMixture({label}, 1)))")
    error = 6 * covariance.diagonal().sqrt() / n**0.5  # six standard errors
    assert ((torch.tensor(drawn).mean(0) - mean).abs() < error).all()
    assert torch.allclose(torch.tensor(drawn).T.cov(), covariance, atol=0.15)
    centre = torch.tensor(shipped.evaluate(f"Array.from(sampleMixture({label}, 0))"))
    assert (centre - mixture["means"][label]).abs().amax(1).min() < 1e-6  # no temperature, no spread


def test_negative_elbo_is_the_models(written, shipped, images):
    model, x = written("shipped").model, images[:2]
    bce, kld, *_ = elbo_terms(model, [x], draws=400, generator=torch.Generator().manual_seed(0))
    found = call_each(
        shipped, "x => { const r = negativeElbo(x, convvae.encode(x), 100); return [r.bce, r.kld] }", x
    )
    torch.testing.assert_close(torch.tensor(found)[:, 1], kld, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.tensor(found)[:, 0], bce, atol=2.5, rtol=0)  # nats, a sampled mean
    assert torch.allclose(kld, kl_divergence(*model.encode(x)).sum(1))


@pytest.mark.parametrize("way", ["slerp", "linear"])
def test_way_from_a_to_b_is_interpolates(shipped, way):
    a, b = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    script = f"([a, b]) => [0, 0.25, 0.5, 0.75, 1].map(t => Array.from(between(a, b, t, '{way}')))"
    found = shipped.evaluate(script, [a[0].tolist(), b[0].tolist()])
    torch.testing.assert_close(torch.tensor(found), walk(a, b, 5, way)[0], atol=1e-5, rtol=0)


def test_a_drawing_is_prepared_as_mnists_digits_were(shipped, images):
    """MNIST's own digits, enlarged fivefold and moved aside, come back as they were."""
    function = "drawing => Array.from(prepare(drawing, 160, 160))"
    for x in images[::20, 0]:  # 5
        drawing = torch.zeros(160, 160)
        drawing[17:157, :140] = x.repeat_interleave(5, 0).repeat_interleave(5, 1)
        found = torch.tensor(call_each(shipped, function, [drawing])[0]).view(28, 28)
        shift = [(found.roll((dy, dx), (0, 1)) - x).abs().mean() for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert min(shift) < 0.02 and x.mean() > 0.05  # MNIST's rounding of the centre is not known to a pixel
    blob = torch.zeros(160, 160)
    blob[10:110, 20:60] = 1  # 100 high
    blob[10:60, 60:100] = 0.5  # and 80 wide in all
    found = torch.tensor(call_each(shipped, function, [blob])[0]).view(28, 28)
    rows, columns = found.sum(1).nonzero()[:, 0], found.sum(0).nonzero()[:, 0]
    assert (len(rows), len(columns)) == (20, 16)
    mass = found / found.sum()
    for axis in (0, 1):
        centre = (mass.sum(axis) * (torch.arange(28) + 0.5)).sum()
        assert abs(centre - 14) <= 0.5
    assert shipped.evaluate("prepare(new Float32Array(100), 10, 10)") is None


# What it does when it is touched


def pixels(page, selector):
    """What a canvas shows: uint8 (H, W, 4)."""
    url = page.locator(selector).evaluate("canvas => canvas.toDataURL()")
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def said(page, selector):
    """What an element says, without the marks around names."""
    return page.inner_text(selector).replace("\u2068", "").replace("\u2069", "")


def present(page):
    """The z that is shown, once it is."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return torch.tensor(page.evaluate("Array.from(shown.z)"), dtype=torch.float32)


def shows(page, model):
    """Whether the picture is what the model decodes from the z that is shown."""
    decoded = model.decode(present(page)[None]).flatten()
    found = torch.from_numpy(pixels(page, "#decoded")[..., 0] / 255).flatten()
    return (found - decoded).abs().max() < 0.015


def stroke(page, points):
    """Draw a line through points of the field to write in, given as shares of its width."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    for i, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def test_writing_a_digit(written, shipped):
    model = written("shipped").model
    before = present(shipped)
    stroke(shipped, [(0.2, 0.2), (0.5, 0.2), (0.3, 0.7)])  # a seven, small and aside
    assert not torch.equal(present(shipped), before)
    x = torch.from_numpy(pixels(shipped, "#written")[..., 0] / 255).float()
    rows, columns = x.sum(1).nonzero()[:, 0], x.sum(0).nonzero()[:, 0]
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 == 20
    mu, logvar = model.encode(x[None, None])
    torch.testing.assert_close(present(shipped), mu[0], atol=0.05, rtol=0)  # the canvas has 256 grays
    assert shows(shipped, model)
    assert said(shipped, "#verdict").startswith("taken for a 7: ")
    bce, kld, loss = (float(shipped.inner_text(f"#{name}")) for name in ("bce", "kld", "loss"))
    assert kld == pytest.approx(kl_divergence(mu, logvar).sum().item(), abs=0.2)
    assert bce + kld == pytest.approx(loss, abs=0.011) and 30 < bce < 300
    samples = shipped.locator("#samples canvas")
    assert samples.count() == 8
    assert all(pixels(shipped, f"#samples canvas:nth-child({i})")[..., 0].max() > 100 for i in range(1, 9))
    shipped.click("#clear")
    assert shipped.inner_text("#loss") == "\u2013"
    assert pixels(shipped, "#pad").max() == 0
    source = written("shipped").path.read_text()  # nothing that some browsers falsify, or do not decode
    for name in ("getImageData", "toDataURL", "toBlob", "data:image"):
        assert name not in source


def test_a_model_of_black_and_white_pixels_is_given_some(shared):
    page = shared("binarized")
    stroke(page, [(0.2, 0.2), (0.5, 0.2), (0.3, 0.7)])
    assert set(np.unique(pixels(page, "#written")[..., :3])) == {0, 255}
    assert "black and white only" in page.inner_text("#writing-help")


def test_sliders(written, shipped):
    model, images = written("shipped").model, pixels(shipped, "#decoded")
    names = shipped.locator("#sliders input").evaluate_all("all => all.map(i => i.id)")
    order = [int(name[1:]) for name in names]
    variance = shipped.evaluate("page.latents.variance")
    assert sorted(order) == list(range(16)) and [variance[i] for i in order] == sorted(variance, reverse=True)
    slider = shipped.locator("#sliders input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    before = present(shipped)
    shipped.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shipped.mouse.down()
    seen = []
    for share in (0.6, 0.75, 0.9):
        shipped.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        assert shows(shipped, model)  # while it is dragged
        seen.append(present(shipped)[order[0]].item())
    shipped.mouse.up()
    assert (
        seen == sorted(seen) and seen[0] < seen[2] <= shipped.evaluate("page.latents.high")[order[0]] + 1e-4
    )
    others = [i for i in range(16) if i != order[0]]
    assert torch.equal(present(shipped)[others], before[others])
    assert not np.array_equal(pixels(shipped, "#decoded"), images)
    shipped.keyboard.press("ArrowLeft")
    assert present(shipped)[order[0]] < seen[2]


def test_buttons(written, shipped):
    model = written("shipped").model
    shipped.click("#reset")
    assert not present(shipped).any() and shows(shipped, model)
    shipped.click("#from-prior")
    one = present(shipped)
    shipped.click("#from-prior")
    assert not torch.equal(one, present(shipped)) and shows(shipped, model)
    shipped.locator("#temperature").fill("0.1")
    assert shipped.inner_text("#temperature-value") == "0.10"
    shipped.click("#from-prior")
    assert present(shipped).norm() < 1 < one.norm()
    shipped.click("#from-mixture")
    assert shows(shipped, model) and "mixture" in shipped.inner_text("#caption")
    for label in range(10):
        shipped.locator("#classes button").nth(label).click()
        assert shows(shipped, model)
        assert said(shipped, "#verdict").startswith(f"taken for a {label}: ")
    shipped.locator("#temperature").fill("0.9")


def test_the_address_has_the_present_z(shipped):
    shipped.click("#reset")
    shipped.wait_for_function("location.hash === '#z=' + Array(16).fill(0).join('_')")
    shipped.evaluate("location.hash = '#z=1.5_-0.25' + '_0'.repeat(14)")
    shipped.wait_for_function("kept.z[0] === 1.5")
    assert present(shipped).tolist() == [1.5, -0.25] + 14 * [0]
    assert "address" in shipped.inner_text("#caption")
    for other in ("#z=1_2", "#z=" + 15 * "1_" + "x", "#elsewhere", ""):
        assert shipped.evaluate("hash => { location.hash = hash; return addressState() }", other) is None
    assert present(shipped)[0] == 1.5


def test_from_a_to_b(written, shipped):
    model = written("shipped").model
    ends = []
    for name, label in (("a", 1), ("b", 0)):
        shipped.locator("#classes button").nth(label).click()
        ends.append(present(shipped))
        shipped.click(f"#keep-{name}")
        decoded = model.decode(ends[-1][None])[0, 0].numpy()
        assert np.abs(pixels(shipped, f"#image-{name}")[..., 0] / 255 - decoded).max() < 0.015
    shipped.locator("#walk").fill("0.5")
    slerp = present(shipped)
    torch.testing.assert_close(slerp, walk(ends[0][None], ends[1][None], 3, "slerp")[0, 1], atol=1e-5, rtol=0)
    assert shows(shipped, model)
    shipped.click("label[for=linear]")
    torch.testing.assert_close(present(shipped), sum(ends) / 2, atol=1e-5, rtol=0)
    shipped.click("label[for=slerp]")
    assert torch.equal(present(shipped), slerp)


def test_the_map(written, shipped, images):
    model = written("shipped").model
    shipped.click("#reset")
    shipped.locator("#map").scroll_into_view_if_needed()
    box = shipped.locator("#map").bounding_box()
    assert len(np.unique(pixels(shipped, "#map").reshape(-1, 4), axis=0)) > 20

    def move(x, y):
        shipped.mouse.move(box["x"] + x, box["y"] + y)

    move(box["width"] / 3, box["height"] / 3)
    one = present(shipped)
    move(box["width"] / 2, box["height"] / 2)
    two = present(shipped)
    assert not torch.equal(one, two) and shows(shipped, model)
    plane = shipped.evaluate("page.plane")
    center, directions = torch.tensor(plane["center"]), torch.tensor(plane["directions"])
    for z in (one, two):  # on the plane
        inside = (z - center) @ directions.T
        torch.testing.assert_close(center + inside @ directions, z, atol=1e-4, rtol=0)
    shipped.mouse.move(1, 1)
    assert not present(shipped).any()  # what was there before the mouse came

    place = shipped.evaluate("map.places[17]")
    move(*place)
    shipped.mouse.click(box["x"] + place[0], box["y"] + place[1])
    i = shipped.evaluate("map.nearest(map.places[17])[0]")
    z = present(shipped)  # and with it the picture
    x = torch.from_numpy(pixels(shipped, "#original")[..., 0] / 255).float()
    torch.testing.assert_close(z, model.encode(x[None, None])[0][0], atol=0.01, rtol=0)
    index = shipped.evaluate("i => page.digits.indices[i]", i)
    assert f"test image {index}," in shipped.inner_text("#caption")
    assert np.abs(images[index, 0].numpy() - x.numpy()).max() < 1e-3

    before = pixels(shipped, "#map")
    shipped.click("label[for=tsne]")
    assert not np.array_equal(pixels(shipped, "#map"), before)
    place = shipped.evaluate("map.places[5]")
    move(*place)
    assert shows(shipped, model) and "test image" in shipped.inner_text("#caption")
    shipped.click("label[for=plane]")

    shipped.locator("#map").focus()  # the keyboard
    shipped.keyboard.press("ArrowRight")
    one = present(shipped)
    shipped.keyboard.press("ArrowUp")
    assert not torch.equal(one, present(shipped))
    shipped.keyboard.press("Enter")
    assert shows(shipped, model) and "test image" in shipped.inner_text("#caption")


def test_two_latents_at_once(written, shipped):
    model = written("shipped").model
    shipped.click("label[for=pair]")
    across, up = shipped.evaluate("mostActive.slice(0, 2)")
    assert shipped.locator("#axes select").evaluate_all("all => all.map(s => +s.value)") == [across, up]
    shipped.locator("#map").scroll_into_view_if_needed()
    box = shipped.locator("#map").bounding_box()

    def move_to(index):
        x, y = shipped.evaluate(f"map.placeOf(muOf({index}))")
        shipped.mouse.move(box["x"] + x, box["y"] + y)

    for start in (3, 4):  # of another z the others are others
        shipped.evaluate(f"show(digitState({start}))")
        before, picture = present(shipped), pixels(shipped, "#decoded")
        others = [i for i in range(16) if i not in (across, up)]
        move_to(start)  # the ring
        shipped.mouse.down()
        for index in (17, 42):  # dots, of which only the place matters
            move_to(index)
            z, there = present(shipped), torch.tensor(shipped.evaluate(f"Array.from(muOf({index}))"))
            torch.testing.assert_close(z[[across, up]], there[[across, up]], atol=1e-3, rtol=0)
            assert torch.equal(z[others], before[others]) and shows(shipped, model)
            for i in (across, up):
                slider = shipped.locator(f"#z{i}").input_value()
                assert float(slider) == pytest.approx(z[i].item(), abs=1e-4)
        shipped.mouse.up()
        shipped.mouse.move(1, 1)
        assert torch.equal(present(shipped), z) and not np.array_equal(pixels(shipped, "#decoded"), picture)
        assert said(shipped, "#caption") == f"latents {across} and {up} moved by hand"
    move_to(5)
    shipped.mouse.down()
    shipped.mouse.up()  # a click on a dot, too
    z = present(shipped)
    assert torch.equal(z[others], before[others])

    shipped.locator("#map").focus()  # the keyboard, from the ring on
    for key, i, sign in (("ArrowRight", across, 1), ("ArrowUp", up, 1), ("ArrowLeft", across, -1)):
        before = z
        shipped.keyboard.press(key)
        z = present(shipped)
        moved = (z - before) * sign
        assert 0.02 < moved[i] < 0.5 and moved.abs().sum() == pytest.approx(moved[i].item(), abs=1e-4)
    shipped.keyboard.press("Enter")
    torch.testing.assert_close(present(shipped), z, atol=1e-4, rtol=0)

    shipped.select_option("#up", str(across))  # they change places
    assert shipped.evaluate("map.pair") == [up, across]
    assert shipped.locator("#axes select").evaluate_all("all => all.map(s => +s.value)") == [up, across]
    shipped.select_option("#across", "1")
    shipped.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    changed = (present(shipped) - z).abs() > 1e-3
    assert changed[[1, across]].all() and changed.sum() == 2
    shipped.click("label[for=plane]")
    assert not shipped.locator("#axes").is_visible()


def test_saved_pictures_are_what_is_shown(shared, own_folder):
    page = shared("binarized")

    def saved(button, name):
        with page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename == name
        download.value.save_as(own_folder / name)
        with Image.open(own_folder / name) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            return np.asarray(image)

    def enlarged(*selectors):
        return np.hstack([pixels(page, part)[..., 0] for part in selectors]).repeat(10, 0).repeat(10, 1)

    page.locator("#classes button").nth(5).click()
    present(page)
    picture = enlarged("#decoded")
    assert picture.shape == (280, 280) and picture.std() > 20
    assert np.array_equal(saved("#save-picture", "picture.png"), picture)
    page.click("#keep-b")
    page.click("label[for=linear]")
    strip = enlarged("#image-a", *[f"#strip canvas:nth-child({i})" for i in range(1, 6)], "#image-b")
    assert np.array_equal(strip[:, -280:], picture)
    assert np.array_equal(saved("#save-strip", "a_to_b.png"), strip)


def violations(page):
    """What axe finds wrong for those who read by ear, by keyboard or with little contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [(rule["id"], node["html"]) for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, {"width": 320, "height": 256}, {"forced_colors": "active"}]
)
def test_axe_finds_nothing(written, opened, options):
    page = opened(written("shipped").path, **options)
    page.click("summary")
    page.click("label[for=pair]")
    page.click("#borrow")
    assert violations(page) == []
    page.locator("#up").evaluate("select => select.parentNode.replaceWith(select)")
    assert [rule for rule, _ in violations(page)] == ["select-name"]  # it does look


def test_every_control_has_a_name_and_shows_it(shipped):
    wrong = shipped.evaluate(
        """() => [...document.querySelectorAll("button, input, canvas[role], [aria-label]")].filter(e => {
            const label = e.getAttribute("aria-label"), text = e.matches("button") ? e.innerText.trim() : "";
            if (label && e.matches("div:not([role]), span:not([role])")) return true;  // which have no name
            return label ? !label.includes(text) : !text && !e.labels?.length;
        }).map(e => e.outerHTML)"""
    )
    assert wrong == []


WHERE = """() => {
    const e = document.activeElement, shown = e.matches(".switch input") ? e.nextElementSibling : e;
    const box = shown.getBoundingClientRect(), y = Math.min(box.top + box.height / 2, innerHeight - 1);
    const top = document.elementFromPoint(box.left + box.width / 2, y);
    return [top !== null && shown.contains(top), box.top + scrollY];
}"""


@pytest.mark.parametrize(("width", "height"), [(320, 256), (390, 844), (844, 390), (1280, 900)])
def test_the_tab_key_stops_in_sight(shipped, width, height):
    shipped.set_viewport_size({"width": width, "height": height})
    shipped.locator("summary").focus()
    stops = []
    for _ in range(40):
        shipped.keyboard.press("Tab")
        stops.append(shipped.evaluate(WHERE))
    assert shipped.evaluate("document.activeElement.id") == "save-strip"  # the last one
    assert all(in_sight for in_sight, _ in stops)
    if width < 1180:  # in one column from the top to the bottom, but for what is side by side
        assert all(after > before - 40 for (_, before), (_, after) in itertools.pairwise(stops))
    card = shipped.locator("#picture-card").bounding_box()
    if card["y"] + card["height"] > 0:  # it stays in sight, but does not fill the window
        assert card["width"] * card["height"] < 0.3 * width * height
    assert shipped.evaluate("document.documentElement.scrollWidth") == width
    assert shipped.locator("#map").bounding_box()["height"] < 0.7 * height  # there is room beside it to swipe
    shipped.set_viewport_size({"width": 1280, "height": 900})


def test_forced_colours_and_print_keep_what_is_said_by_colour(shipped):
    def fill(selector):
        return shipped.locator(selector).evaluate("e => getComputedStyle(e).backgroundColor")

    parts = (".class .bar >> nth=3", ".legend i >> nth=3")
    before = [fill(part) for part in parts]
    shipped.emulate_media(forced_colors="active")
    assert [fill(part) for part in parts] == before == ["rgb(200, 67, 79)"] * 2
    assert fill("label[for=plane]") != fill("label[for=tsne]")
    shipped.emulate_media(forced_colors="none", media="print")
    adjust = "e => getComputedStyle(e).printColorAdjust"
    for part in (*parts, "label[for=plane]"):
        assert shipped.locator(part).evaluate(adjust) == "exact"
    shipped.emulate_media(media="screen")


def test_narrow_window_and_a_finger(written, opened):
    made = written("shipped")
    page = opened(made.path, width=390, height=844, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    before = present(page)
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert not torch.equal(present(page), before) and shows(page, made.model)
    page.tap("label[for=pair]")
    page.locator("#map").scroll_into_view_if_needed()
    box, before = page.locator("#map").bounding_box(), present(page)
    page.touchscreen.tap(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    assert (present(page) != before).sum() == 2 and shows(page, made.model)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.mouse.wheel(0, 2000)
    picture = page.locator("#picture-card").bounding_box()
    assert -1 <= picture["y"] < 844  # still in sight
    assert page.errors == []


def test_screenshots_follow_light_and_dark(written, opened):
    brightness = {}
    for scheme in ("light", "dark"):
        page = opened(written("plane").path, color_scheme=scheme)
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
        assert picture.std() > 20  # not blank
        brightness[scheme] = np.median(picture)
        assert page.errors == []
    assert brightness["dark"] < 60 < 200 < brightness["light"]


@pytest.mark.parametrize("name", ["firefox", "webkit"])
def test_other_browsers(written, own_folder, name):
    """Firefox and WebKitGTK, where they are installed, tell by themselves what they decode."""
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    mini = (
        next(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"), None)
        if shutil.which("xvfb-run")
        else None
    )
    commands = {
        "firefox": firefox and [firefox, "--headless", "--no-remote", "--profile", own_folder],
        "webkit": mini and ["xvfb-run", "-a", mini],
    }
    if not commands[name]:
        pytest.skip(f"there is no {name} here")
    heard = queue.Queue()

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made, z = written("plane"), [0.5, -1.0]
    tell = f"""<script>setInterval(async () => {{
        if (!document.documentElement.dataset.ready) return;
        const image = decode(Float32Array.from({z})), file = await (await png([image])).arrayBuffer();
        const heard = [Array.from(image), element("verdict").textContent, Array.from(new Uint8Array(file))];
        const post = {{method: "POST", mode: "no-cors", body: JSON.stringify(heard)}};
        fetch("http://127.0.0.1:{server.server_port}", post);
    }}, 200)</script>"""
    page = own_folder / "telling.html"
    page.write_text(made.path.read_text().replace("</body>", tell + "</body>"))
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("proxy")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([*commands[name], page.as_uri()], env=env | {"HOME": str(own_folder)}, **quiet)
    try:
        decoded, verdict, file = heard.get(timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        server.shutdown()
    torch.testing.assert_close(
        torch.tensor(decoded), made.model.decode(torch.tensor([z])).flatten(), atol=0.01, rtol=0
    )
    assert verdict.startswith("taken for a ")
    saved = np.asarray(Image.open(io.BytesIO(bytes(file))))
    assert np.abs(saved[5::10, 5::10].ravel() / 255 - decoded).max() < 0.003


# Models of all kinds, and bad input


@pytest.mark.parametrize("names", [[], ["cat"], ["apple", "\u05d7\u05ea\u05d5\u05dc", "{{half}}"], 30])
def test_any_number_of_classes(call, opened, monkeypatch, images, own_folder, names):
    """A finished model without classes, too: there is a mixture, and no class part."""
    if names == 30:
        names = [f"a longer name {i}" for i in range(30)]
    labels = torch.arange(len(images)) % max(1, len(names))
    made = untrained_model(images, labels, 4, names)
    split = Split((images * 255).round().byte(), labels, names, "full")
    monkeypatch.setattr(explore, "open_model", lambda path, device, images: (*made, SHIPPED))
    monkeypatch.setattr(explore, "load_split", lambda *args: split)
    assert call("explore", "--out", "page.html").code == 0
    page = opened(own_folder / "page.html")
    assert page.locator(".class").count() == page.locator("#legend li").count() == len(names)
    for part in ("#classes-part", "#legend"):
        assert page.locator(part).is_visible() == bool(names)
    before = pixels(page, "#map")
    for button in (
        "#from-mixture",
        "#borrow",
        "label[for=tsne]",
        "label[for=pair]",
        "label[for=plane]",
        *[".class >> nth=-1"][: len(names)],
    ):
        page.click(button)
        present(page)
    assert not np.array_equal(pixels(page, "#map"), before)  # the ring has moved
    verdict = page.inner_text("#verdict")
    assert (
        re.fullmatch("taken for a \u2068(.*)\u2069: [0-9.]+ %", verdict)[1] in names if names else not verdict
    )
    digit = page.evaluate("digitState(7).caption")
    expected = f", a \u2068{names[labels[page.evaluate('page.digits.indices[7]')]]}\u2069" if names else ""
    assert digit.startswith(
        f"test image {page.evaluate('page.digits.indices[7]')}{expected}, and what is left"
    )
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        places = page.evaluate("map.namePlaces(document.createElement('canvas').getContext('2d'))")
        wide = page.evaluate("map.canvas.clientWidth")
        assert all(name["half"] <= name["x"] <= wide - name["half"] for name in places)
        covered = sum(2 * name["half"] * 22 for name in places)
        assert covered < 0.1 * wide * page.evaluate("map.canvas.clientHeight")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.errors == []
    assert violations(page) == []


POLICY = '<meta http-equiv="Content-Security-Policy" content="default-src {}">'


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("<head>", "<head>" + POLICY.format("'unsafe-inline'")), None),  # no data: images
        (("<head>", "<head>" + POLICY.format("'none'")), "If this stays, the browser does not run"),
        (('id="data-page">{', 'id="data-page">'), "This page could not start: "),
        (('class="half">', 'class="half">%'), "This page could not start: "),
        ("no scripts", "JavaScript is off here"),
    ],
)
def test_what_fails_at_the_start_is_said(written, opened, own_folder, change, sentence):
    path = written("plane").path
    if change != "no scripts":
        text = path.read_text().replace(*change)
        path = own_folder / "changed.html"
        path.write_text(text)
    page = opened(path, ready=sentence is None, java_script_enabled=change != "no scripts")
    if sentence is None:
        assert not page.locator("#trouble").is_visible() and page.locator("#map").is_visible()
    else:
        assert sentence in page.inner_text("#trouble")
        assert page.locator("#trouble").is_visible()


def test_no_mixture(call, opened, untrained, data_dir, own_folder):
    """And a name that would end a script element, if it were let."""
    path = untrained(own_folder / "<script>&amp;.pt", 4, mixture=False)
    assert call("explore", "--checkpoint", path, "--data-dir", data_dir).code == 0
    page = opened(own_folder / "outputs" / "explore.html")
    assert "<script>&amp;.pt" in page.inner_text("#about") and "not yet trained" in page.inner_text("#about")
    for hidden in ("#classes", "#from-mixture"):
        assert not page.locator(hidden).is_visible()
    page.click("#from-prior")
    assert present(page).any()
    assert page.errors == []


def test_a_single_latent_has_a_line_for_a_map(call, opened, untrained, data_dir, own_folder):
    path = untrained(own_folder / "line.pt", 1)
    assert call("explore", "--checkpoint", path, "--data-dir", data_dir, "--out", "line.html").code == 0
    page = opened(own_folder / "line.html")
    assert not page.locator("label[for=pair]").is_visible()
    box = page.locator("#map").bounding_box()
    seen = []
    for x, y in ((0.2, 0.5), (0.8, 0.5), (0.8, 0.2)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        seen.append(present(page))
    assert seen[0] < seen[1] == seen[2]
    for button in ("#keep-a", "#from-mixture", "#keep-b", "label[for=tsne]", "#borrow"):
        page.click(button)
    page.locator("#walk").fill("0.5")
    assert len(present(page)) == 1 and page.errors == []


def test_without_data_the_packaged_digits_step_in(call, own_folder, monkeypatch):
    monkeypatch.setattr(explore, "DIGITS", 40)  # t-SNE of a thousand takes a while
    result = call("explore", "--checkpoint", SHIPPED)
    assert result.code == 0
    assert len(result.err) == 1 and result.err[0].startswith("warning: no MNIST under data")
    text = (own_folder / "outputs" / "explore.html").read_text()
    page = json.loads(re.search(r'id="data-page">(.*?)</script>', text)[1])
    assert page["about"]["digits"] == "40 of the packaged sample, all from MNIST's training set"
    assert len(page["digits"]["labels"]) == 40


def test_a_page_that_cannot_be_written(call, refusal, untrained, data_dir, own_folder):
    path = untrained(own_folder / "small.pt", 2)
    (own_folder / "folder").mkdir()
    (own_folder / "file").write_text("mine")
    for out in ("folder", "file/page.html"):
        assert out.split("/")[0] in refusal(
            call("explore", *("--checkpoint", path, "--data-dir", data_dir), "--out", out)
        )
    assert (own_folder / "file").read_text() == "mine"


def test_too_few_images_for_a_map(call, refusal, write_data, untrained, own_folder):
    path = untrained(own_folder / "small.pt", 2)
    for size in (1, 2, 3):
        few = write_data(own_folder / f"data{size}", test_size=size)
        result = call("explore", "--checkpoint", path, "--data-dir", few)
        assert result.code == 0 if size > 1 else "at least 2" in refusal(result)


def test_weights_beyond_half_precision(call, refusal, untrained, data_dir, own_folder):
    path = untrained(own_folder / "wild.pt", 2)
    model, run = load_checkpoint(path)
    with torch.no_grad():
        model.decoder_fc[0].weight[0, 0] = 1e6
    save_checkpoint(path, model, run)
    assert "half precision" in refusal(call("explore", "--checkpoint", path, "--data-dir", data_dir))


def test_a_model_that_encodes_everything_alike(call, refusal, untrained, data_dir, own_folder):
    path = untrained(own_folder / "dead.pt", 2)
    model, run = load_checkpoint(path)
    with torch.no_grad():
        model.mu_head.weight.zero_()
    save_checkpoint(path, model, run)
    assert "dead.pt" in refusal(call("explore", "--checkpoint", path, "--data-dir", data_dir))


def test_page_names_no_folders_above_the_model(trained):
    model, run = load_checkpoint(trained.checkpoint)
    for path, named in (("checkpoints/own.pt", "checkpoints/own.pt"), ("/home/somebody/own.pt", "own.pt")):
        assert explore.about(model, run, Path(path), 9, "full")["checkpoint"] == named
