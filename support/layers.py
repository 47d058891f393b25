"""A ConvVAE as lists of layers: what explore.py gives to the page.

Nothing here knows the network's sizes: another latent size, other channels, more layers of
these kinds and residual blocks need no change. A layer is a dict; all are as in eval mode,
and images are (B, H, W, C), channels last, in which a convolution reads whole rows and the
step from maps to a vector moves nothing:

    conv         weight (out, k, k, in), bias (out,), stride, padding
    transposed   weight (k, k, out, in), bias (out,), stride, padding
    linear       weight (out, in), bias (out,)
    scale        scale (C,), shift (C,): a batch normalisation
    leaky        slope
    maxpool      size
    reshape      shape [H, W, C]
    residual     body, a list of layers: x + body(x)
"""

import torch
from torch import nn
from torch.nn import functional as F

from model import LOGVAR_RANGE
from support.errors import UserError

PARTS = ("encoder", "encoder_fc", "mu_head", "logvar_head", "decoder_fc", "decoder")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def network_layers(model, x):
    """The lists of layers ``{"encoder", "mu", "logvar", "decoder"}`` of a model in eval mode on the CPU.

    x (B, 1, H, W) are images to try them on: raises UserError if the network has other layers
    than those above, or if the lists do not do what the model does.
    """
    if not all(isinstance(getattr(model, part, None), nn.Module) for part in PARTS):
        raise UserError(f"the page knows networks of the parts {', '.join(PARTS)}, and this one has others")
    inner = []  # shape of the maps that the decoder starts from: (C, H, W)
    hook = model.decoder.register_forward_pre_hook(lambda _, inputs: inner.extend(inputs[0].shape[1:]))
    mu, logvar = model.encode(x)
    decoded = model.decode(mu)
    hook.remove()
    channels, height, width = inner
    to_vector = {"kind": "reshape", "shape": [1, 1, model.encoder(x[:1]).numel()]}
    to_maps = {"kind": "reshape", "shape": [height, width, channels]}
    network = {
        "encoder": [*_layers(model.encoder), to_vector, *_layers(model.encoder_fc)],
        "mu": _layers(model.mu_head),
        "logvar": _layers(model.logvar_head),
        "decoder": [*_layers(model.decoder_fc), to_maps, *_layers(model.decoder)],
    }
    pairs = zip((mu, logvar, decoded), (*run_encoder(network, x), run_decoder(network, mu)), strict=True)
    if not all(a.shape == b.shape and torch.allclose(a, b, atol=1e-3, rtol=1e-3) for a, b in pairs):
        raise UserError("the list of layers does not do what the model does: teach it to support/layers.py")
    return network


def _layers(*modules):
    """The list of layers that do what the modules do one after the other, in eval mode."""
    layers = []
    for module in modules:
        if isinstance(module, nn.Sequential):
            layers += _layers(*module)
        elif isinstance(module, BATCH_NORMS) and module.affine and module.track_running_stats:
            scale = module.weight * (module.running_var + module.eps).rsqrt()
            shift = module.bias - module.running_mean * scale
            layers.append({"kind": "scale", "scale": scale, "shift": shift})
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and _is_plain(module):
            kind, axes = ("transposed", (2, 3, 1, 0)) if module.transposed else ("conv", (0, 2, 3, 1))
            options = {"stride": module.stride[0], "padding": module.padding[0]}
            weight, bias = module.weight.permute(axes), _bias(module, module.out_channels)
            layers.append({"kind": kind, "weight": weight, "bias": bias, **options})
        elif isinstance(module, nn.Linear):
            bias = _bias(module, module.out_features)
            layers.append({"kind": "linear", "weight": module.weight, "bias": bias})
        elif isinstance(module, nn.LeakyReLU):
            layers.append({"kind": "leaky", "slope": module.negative_slope})
        elif isinstance(module, nn.MaxPool2d) and module.padding == 0 and module.stride == module.kernel_size:
            layers.append({"kind": "maxpool", "size": module.kernel_size})
        elif isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Identity)):
            pass  # nothing, in eval mode
        elif [name for name, _ in module.named_children()] == ["body"]:  # x + body(x), or the trial tells
            layers.append({"kind": "residual", "body": _layers(module.body)})
        else:
            raise UserError(f"the page cannot run this layer of the network: {module}")
    return layers


def _is_plain(module):
    """Whether a convolution has none of torch's rarer options."""
    square = len({*module.kernel_size}) == len({*module.stride}) == len({*module.padding}) == 1
    usual = (module.groups, module.padding_mode, *module.dilation) == (1, "zeros", 1, 1)
    return square and usual and not any(module.output_padding)


def _bias(module, outputs):
    """The bias (out,), zeros where the module has none."""
    return torch.zeros(outputs) if module.bias is None else module.bias


# What the page does with such lists, in torch: it is how the lists are tried, and defines them.


def run_encoder(network, x):
    """Images x (B, 1, H, W) -> mu, logvar, (B, latent_dim) each."""
    h = run(network["encoder"], x.permute(0, 2, 3, 1))
    return run(network["mu"], h).flatten(1), run(network["logvar"], h).flatten(1).clamp(*LOGVAR_RANGE)


def run_decoder(network, z):
    """z (B, latent_dim) -> images (B, 1, H, W)."""
    return run(network["decoder"], z[:, None, None]).sigmoid().permute(0, 3, 1, 2)


def run(layers, h):
    """h (B, H, W, C) through the layers: (B, H, W, C), with a vector as (B, 1, 1, C)."""
    for layer in layers:
        h = _run_layer(h, **layer)
    return h


def _run_layer(h, kind, weight=None, bias=None, **rest):
    if kind == "linear":
        return F.linear(h, weight, bias)
    if kind == "scale":
        return h * rest["scale"] + rest["shift"]
    if kind == "leaky":
        return F.leaky_relu(h, rest["slope"])
    if kind == "reshape":
        return h.reshape(-1, *rest["shape"])
    if kind == "residual":
        return h + run(rest["body"], h)
    h = h.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
    if kind == "conv":
        h = F.conv2d(h, weight.permute(0, 3, 1, 2), bias, **rest)
    elif kind == "transposed":
        h = F.conv_transpose2d(h, weight.permute(3, 2, 0, 1), bias, **rest)
    else:
        h = F.max_pool2d(h, rest["size"])
    return h.permute(0, 2, 3, 1)
