"""torchvision imports, whatever build of it stands beside torch."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_and_open_clip_import_after_it():
    done = run(
        "import lumiere.compat, torchvision, open_clip; from torchvision.transforms import v2; print('whole')"
    )
    assert done.stdout.strip() == "whole", done.stderr


def test_is_needed_or_does_nothing():
    """It declares operators exactly where a plain import fails."""
    plain = run("import torchvision")
    patched = run("import lumiere.compat as c; print(c._library is not None)")
    assert patched.stdout.strip() == str(plain.returncode != 0), patched.stderr
