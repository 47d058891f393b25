#!/usr/bin/env bash
# torch 2.14.1 on a CPU, Linux with glibc 2.36: a tensor above 32 MiB is mapped anew every time that one is made,
# and each of its pages costs a fault at the first write. PyTorch keeps no memory of freed tensors on a CPU, as
# it does on a GPU, and 32 MiB is as far as glibc's malloc raises the size from which it asks the system. So a
# forward pass of 1,000 images takes longer, image by image, than one of 250: 16 feature maps at 28 x 28 have
# 48 MiB then. Smaller tensors often find memory that is there, though not always; with MALLOC_MMAP_THRESHOLD_
# and MALLOC_TRIM_THRESHOLD_ raised, all do.
# Output seen: "600 images at a time, 29 MiB: 0 to 7,347 page faults", "700 images at a time, 33 MiB: 8,574 to
# 8,578", "1,000 images at a time, 48 MiB: 12,251 to 12,252"; with the thresholds raised "0 to 0" for both.
# In the product: encode_all and decode_all take 250 images at a time (model.py); STUDY.md.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy
cat > "$folder/faults.py" <<'PYTHON'
import resource

import torch
from torch import nn

torch.set_num_threads(1)
layer = nn.Conv2d(1, 16, 3, padding=1).to(memory_format=torch.channels_last)


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


with torch.no_grad():
    for images in (600, 700, 1000):
        x = torch.rand(images, 1, 28, 28)
        counts = []
        for _ in range(30):
            before = faults()
            layer(x)
            counts.append(faults() - before)
        size = images * 16 * 28 * 28 * 4 / 2**20
        counts = counts[5:]  # glibc learns from what is freed
        print(f"{images:,} images at a time, {size:.0f} MiB: {min(counts):,} to {max(counts):,} page faults")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/faults.py")
raised=$(MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=100000000000 "$folder/venv/bin/python" "$folder/faults.py")
echo "$seen"
echo "with the thresholds raised:"
echo "$raised"
least() { grep "^$1 images" <<< "$2" | sed 's/.*: //; s/ to.*//; s/,//'; }
most() { grep "^$1 images" <<< "$2" | sed 's/.* to //; s/ page.*//; s/,//'; }
# of a tensor that is mapped anew each 2 MiB are a fault at least, where pages are huge
if [ "$(least 600 "$seen")" -gt 5 ] || [ "$(least 700 "$seen")" -lt 16 ] \
    || [ "$(least 1,000 "$seen")" -lt 24 ] || [ "$(most 1,000 "$raised")" -gt 12 ]; then
    echo "this has changed, or is another C library" >&2
    exit 1
fi
