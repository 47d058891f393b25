#!/usr/bin/env bash
# Pillow 13.0.0 and TIFFs of more than 8 bits: where 0 is white (photometric interpretation 0), 8 bits are
# turned round, so that 0 is black, and 16 bits are not; and unsigned 32 bits are read as signed ones, so
# that white is -1. Written by tifffile 2025.5.10, which reads all three as they are.
# Output seen:
#   8 bits, 0 is white: 255 in the file, L 0
#   16 bits, 0 is white: 65535 in the file, I;16 65535
#   32 bits: 4294967295 in the file, I -1
# In the product: support/images.py goes by the tags; rows of DATA.md.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pip install -q --target "$folder/packages" pillow==13.0.0 tifffile==2025.5.10 numpy
cat > "$folder/read.py" <<'PYTHON'
import sys

import numpy as np
import tifffile
from PIL import Image

path = sys.argv[1] + "/gray.tif"
for name, kind, photometric in (
    ("8 bits, 0 is white", np.uint8, "miniswhite"),
    ("16 bits, 0 is white", np.uint16, "miniswhite"),
    ("32 bits", np.uint32, "minisblack"),
):
    tifffile.imwrite(path, np.full((4, 4), np.iinfo(kind).max, kind), photometric=photometric)
    with Image.open(path) as image:
        print(f"{name}: {tifffile.imread(path)[0, 0]} in the file, {image.mode} {np.asarray(image)[0, 0]}")
PYTHON
seen=$(PYTHONPATH="$folder/packages" python3 "$folder/read.py" "$folder")
echo "$seen"
expected="8 bits, 0 is white: 255 in the file, L 0
16 bits, 0 is white: 65535 in the file, I;16 65535
32 bits: 4294967295 in the file, I -1"
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
