#!/usr/bin/env bash
# torch 2.14.1 on a CPU with AVX-512: torch.compile (inductor) gives wrong values, in silence, where a
# LeakyReLU stands right before a batch norm in training mode, in float32, with more than 4,096 values a
# channel; which channels are wrong depends on their number. Compiled as it comes ("eager") it is right.
# Output seen: 8, 20, 24 and 40 channels off by 0.1 to 3, 16, 28 and 48 by 1e-6 at most.
# In the product: nothing is compiled; an entry of STUDY.md. Needs a C++ compiler.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
cat > "$folder/compile.py" <<'PYTHON'
import torch
from torch import nn

wrong = []
for channels in (8, 16, 20, 24, 28, 40, 48):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.LeakyReLU(0.1), nn.BatchNorm2d(channels)).train()
    x = torch.randn(32, channels, 14, 14)  # 6,272 values a channel
    error = (torch.compile(layers)(x) - layers(x)).abs().max().item()
    print(f"{channels} channels: off by {error:.1e}")
    wrong += [channels] if error > 1e-3 else []
print("wrong:", wrong)
PYTHON
seen=$("$folder/venv/bin/python" "$folder/compile.py")
echo "$seen"
[ "${seen##*$'\n'}" = "wrong: [8, 20, 24, 40]" ] || { echo "this has changed" >&2; exit 1; }
