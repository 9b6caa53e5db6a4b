"""The wheel that `make wheel` or `make dist` made last, for the tests that install it."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def latest():
    wheels = [*TARGET.glob("wheel/dist/*.whl"), *TARGET.glob("dist/*.whl")]
    if not wheels:
        sys.exit("FAILED: there is no wheel below %s: make wheel" % TARGET)
    return max(wheels, key=lambda path: path.stat().st_mtime)
