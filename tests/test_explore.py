"""The page that explore.py writes: its network is torch's, its formulas are the project's; its controls."""

import base64
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import explore
from data import to_float
from interpolate import walk
from mixture import fit_mixture
from model import ConvVAE, kl_divergence
from settings import Settings
from support.checkpoint import Run, load_checkpoint, save_checkpoint
from support.errors import UserError
from support.layers import network_layers, run_decoder, run_encoder
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
        *("reshape", "linear", "residual"),
    ]
    # of the two batch normalisations of a block one is folded
    assert [layer["kind"] for layer in network["encoder"][2]["body"]] == [
        "scale",
        "leaky",
        "conv",
        "leaky",
        "conv",
    ]


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

    def opened(path, width=1280, height=900, **options):
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
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()


def save_untrained(path, images, labels, latent_dim, mixture=True, **settings):
    """A checkpoint of a small model that was never trained, with weights that have an effect."""
    torch.manual_seed(1)
    model = ConvVAE(latent_dim=latent_dim, hidden_dim=64)
    with torch.no_grad():
        model.decoder_fc[2].weight *= 5  # else every z looks alike
        model.mu_head.weight *= 8
    unsettled(model, images)
    with torch.no_grad():
        mu, _ = model.encode(images)
    run = Run(Settings(latent_dim=latent_dim, **settings), source="full", classes=list("0123456789"))
    if mixture:
        # some classes are ten times as frequent as others
        run.mixture = fit_mixture(mu, labels) | {"share": torch.linspace(0.1, 1, 10) / 5.5}
    save_checkpoint(path, model, run)
    return path


@pytest.fixture(scope="module")
def untrained(digits, images):
    """A function that writes such a checkpoint."""
    labels = torch.from_numpy(digits.test[1]).long()

    def untrained(path, latent_dim, **options):
        return save_untrained(path, images, labels, latent_dim, **options)

    return untrained


@pytest.fixture(scope="module")
def written(run, untrained, data_dir, tmp_path_factory):
    """A function that has explore.py write a page by name, once: its path, its model and its run."""
    folder, pages = tmp_path_factory.mktemp("pages"), {}

    def written(name):
        if name not in pages:
            path = {"shipped": SHIPPED, "binarized": BINARIZED}.get(name)
            path = path or untrained(folder / "plane.pt", 2)
            page = folder / f"{name}.html"
            result = run("explore", "--checkpoint", path, "--data-dir", data_dir, "--out", page, cwd=folder)
            assert result.code == 0 and not result.err, result.err
            assert f"wrote {page}" in result.out
            model, state = load_checkpoint(path)
            pages[name] = SimpleNamespace(path=page, model=model.requires_grad_(False), run=state)
        return pages[name]

    return written


@pytest.fixture(scope="module")
def shipped(written, opened):
    """The shipped model's page, open: tests share it, and expect no state of it."""
    page = opened(written("shipped").path)
    yield page
    assert page.errors == []


def call_each(page, function, rows):
    """A JavaScript function, given as source, of every row of a tensor: a list."""
    script = f"rows => rows.map(row => ({function})(Float32Array.from(row)))"
    return page.evaluate(script, [row.flatten().tolist() for row in rows])


DECODE = "z => Array.from(convvae.decode(z))"
ENCODE = "x => { const {mu, logvar} = convvae.encode(x); return [Array.from(mu), Array.from(logvar)] }"


@pytest.mark.parametrize("name", ["shipped", "plane", "binarized"])
def test_network_agrees_with_torch_and_asks_nobody(written, opened, images, name):
    made = written(name)
    page, model = opened(made.path), made.model
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
    assert page.errors == []
    assert made.path.stat().st_size < 15_000_000


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
def test_class_probabilities_are_the_mixtures(written, opened, name):
    mixture = written(name).run.mixture
    density = MixtureSameFamily(
        Categorical(mixture["weights"]), MultivariateNormal(mixture["means"], scale_tril=mixture["cholesky"])
    )
    # in the classes, between them, and far from all
    z = torch.cat([mixture["means"][:, 0], mixture["means"].mean(1), mixture["means"][:, 0] + 3])
    expected = (density.log_prob(z[:, None]) + mixture["share"].log()).softmax(1)
    found = torch.tensor(call_each(opened(written(name).path), "classProbabilities", z))
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
    model, x = written("shipped").model, images[:3]
    bce, kld = elbo_terms(model, [x], draws=400, generator=torch.Generator().manual_seed(0))
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
    assert shipped.inner_text("#verdict").startswith("taken for a 7: ")
    bce, kld, loss = (float(shipped.inner_text(f"#{name}")) for name in ("bce", "kld", "loss"))
    assert kld == pytest.approx(kl_divergence(mu, logvar).sum().item(), abs=0.2)
    assert bce + kld == pytest.approx(loss, abs=0.011) and 30 < bce < 300
    samples = shipped.locator("#samples canvas")
    assert samples.count() == 8
    assert all(pixels(shipped, f"#samples canvas:nth-child({i})")[..., 0].max() > 100 for i in range(1, 9))
    shipped.click("#clear")
    assert shipped.inner_text("#loss") == "\u2013"
    assert pixels(shipped, "#pad").max() == 0


def test_a_model_of_black_and_white_pixels_is_given_some(written, opened):
    page = opened(written("binarized").path)
    stroke(page, [(0.2, 0.2), (0.5, 0.2), (0.3, 0.7)])
    assert set(np.unique(pixels(page, "#written")[..., :3])) == {0, 255}
    assert "black and white only" in page.inner_text("#writing-help")
    assert page.errors == []


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
        assert shipped.inner_text("#verdict").startswith(f"taken for a {label}: ")
    shipped.locator("#temperature").fill("0.9")


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


def test_every_control_has_a_name(shipped):
    nameless = shipped.evaluate(
        """() => Array.from(document.querySelectorAll("button, input, canvas[role]"))
            .filter(e => !e.getAttribute("aria-label") && !e.textContent.trim() && !e.labels?.length)
            .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_narrow_window_and_a_finger(written, opened):
    made = written("shipped")
    page = opened(made.path, width=390, height=844, has_touch=True, is_mobile=True, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    before = present(page)
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert not torch.equal(present(page), before) and shows(page, made.model)
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


# Bad input


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
