#!/usr/bin/env bash
# numpy 1.26.4: loadtxt() into a small integer type wraps what does not fit, and cuts fractions, with no
# more than a DeprecationWarning, which Python does not show outside of __main__. numpy 2.4.6 raises.
# Output seen: "numpy 1.26.4 [44 255 0]", then "numpy 2.4.6 ValueError".
# In the product: support/arrays.py makes the warning an error, and reads such a table as floats.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/read.py" <<'PYTHON'
import numpy as np

try:
    print("numpy", np.__version__, np.loadtxt(["300", "-1", "0.5"], np.uint8))
except ValueError as error:
    print("numpy", np.__version__, type(error).__name__)
PYTHON
# numpy 1.26 has no wheels for Python above 3.12: its source is built then
pip install -q --target "$folder/old" numpy==1.26.4
pip install -q --target "$folder/new" numpy==2.4.6
seen=$(for which in old new; do PYTHONPATH="$folder/$which" python3 -W ignore "$folder/read.py"; done)
echo "$seen"
[ "$seen" = $'numpy 1.26.4 [ 44 255   0]\nnumpy 2.4.6 ValueError' ] || { echo "this has changed" >&2; exit 1; }
