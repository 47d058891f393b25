#!/usr/bin/env bash
# torch 2.14.1 on a CPU: torch.compile (inductor) gives wrong values, in silence, for a LeakyReLU right
# before a batch norm in training mode, in float32, on images in channels_last that have more than 4,096
# values a channel. Which numbers of channels are wrong depends on the CPU's vectors. Of 8, 16, 20, 24, 28,
# 40 and 48 it is 8, 20, 24 and 40 with AVX-512, and 20 and 28 with AVX2: so what a test finds right on one
# machine is wrong on another. As it comes ("eager"), and in the usual layout, it is right.
# Output seen: "channels_last, 8 channels: off by 4.3e+01" and the like for the wrong ones, 1e-5 for others.
# In the product: nothing is compiled; an entry of STUDY.md. It needs a C++ compiler, and takes minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
cat > "$folder/compile.py" <<'PYTHON'
import torch
from torch import nn

wrong = []
with torch.no_grad():
    for layout in (torch.channels_last, torch.contiguous_format):
        for channels in (8, 16, 20, 24, 28, 40, 48):
            torch._dynamo.reset()
            torch.manual_seed(0)
            layers = nn.Sequential(nn.LeakyReLU(0.1), nn.BatchNorm2d(channels)).train()
            x = torch.randn(128, channels, 14, 14).to(memory_format=layout)  # 25,088 values a channel
            error = (torch.compile(layers)(x) - layers(x)).abs().max().item()
            name = str(layout).removeprefix("torch.")
            print(f"{name}, {channels} channels: off by {error:.1e}")
            wrong += [f"{name} {channels}"] if error > 1e-3 else []
print("wrong with", torch.backends.cpu.get_cpu_capability() + ":", ", ".join(wrong))
PYTHON
seen=$("$folder/venv/bin/python" "$folder/compile.py" 2> "$folder/log") || { cat "$folder/log" >&2; exit 1; }
echo "$seen"
case "${seen##*$'\n'}" in
    "wrong with AVX512: channels_last 8, channels_last 20, channels_last 24, channels_last 40") ;;
    "wrong with AVX2: channels_last 20, channels_last 28") ;;
    *) echo "this has changed, or is another kind of CPU" >&2; exit 1 ;;
esac
