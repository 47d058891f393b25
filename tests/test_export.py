"""The model as a library: of other number types, of no images, and on its way to other programs."""

import copy

import pytest
import torch
from torch import nn

from model import ConvVAE


class Part(nn.Module):
    """One method of the model as a module of its own: what torch.export and ONNX want."""

    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x):
        return getattr(self.model, self.method)(x)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ConvVAE(latent_dim=6, hidden_dim=32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def parts(model):
    """{name: (module, a function that makes n inputs for it)}"""
    generator = torch.Generator().manual_seed(0)

    def images(n):
        return torch.rand(n, 1, 28, 28, generator=generator)

    def latents(n):
        return torch.randn(n, 6, generator=generator)

    return {
        name: (Part(model, name).eval(), made) for name, made in (("encode", images), ("decode", latents))
    }


def test_no_images_at_all(model):
    assert model.sample(0).shape == model.decode(torch.zeros(0, 6)).shape == (0, 1, 28, 28)
    mu, logvar = model.encode(torch.zeros(0, 1, 28, 28))
    assert mu.shape == logvar.shape == (0, 6)


@pytest.mark.parametrize("dtype, atol", [(torch.half, 2e-3), (torch.bfloat16, 2e-2), (torch.double, 1e-5)])
def test_model_of_another_number_type(model, parts, dtype, atol):
    """It takes and gives float32, whatever its weights are, and says much the same."""
    other = copy.deepcopy(model).to(dtype)
    images = [m.sample(5, generator=torch.Generator().manual_seed(1)) for m in (other, model)]
    assert images[0].dtype == torch.float32
    torch.testing.assert_close(*images, rtol=0, atol=atol)
    x = parts["encode"][1](5)
    for found, expected in zip(other.encode(x), model.encode(x), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and still how many models travel
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_traced_and_exported_models_take_any_batch(parts, name):
    module, inputs = parts[name]
    batch = {0: torch.export.Dim("batch")}
    others = [
        torch.jit.trace(module, inputs(3)),
        torch.export.export(module, (inputs(3),), dynamic_shapes={"x": batch}).module(),
    ]
    for n in (1, 2, 17):
        x = inputs(n)
        for other in others:
            torch.testing.assert_close(other(x), module(x), rtol=0, atol=1e-6)


def test_training_pass_can_be_exported(model, parts):
    """Its z is random, so what is compared is what does not depend on it."""
    batch = {0: torch.export.Dim("batch")}
    example = (parts["encode"][1](3),)
    exported = torch.export.export(model, example, dynamic_shapes={"x": batch})
    x = parts["encode"][1](7)
    logits, mu, logvar = exported.module()(x)
    torch.testing.assert_close((mu, logvar), model.encode(x), rtol=0, atol=1e-6)
    assert logits.shape == x.shape


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_onnx_takes_any_batch_and_says_the_same(parts, name, own_folder):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, inputs = parts[name]
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        module, (inputs(3),), "part.onnx", dynamo=True, dynamic_shapes={"x": batch}, external_data=False
    )
    session = runtime.InferenceSession("part.onnx")
    for n in (1, 2, 17):
        x = inputs(n)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = module(x) if name == "encode" else (module(x),)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=0, atol=1e-5)
