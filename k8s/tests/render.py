#!/usr/bin/env python3
"""Renders an overlay as a cluster would get it, with the example's secrets.

    .riacho/venv/bin/python k8s/tests/render.py prod        # JSON on standard output, one list

Works on a copy, so that a secrets.env of the person who calls it is neither read nor written.
"""

import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = ROOT / ".riacho/tools/bin/kubectl"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Overlays, the other way to scale one of them, and one with each component that it does not have by itself.
VARIANTS = ("dev", "prod", "prod-hpa", "prod+provider", "prod+traces")


@functools.cache
def render(variant):
    """The objects of an overlay, which nobody may change."""
    rest, _, component = variant.partition("+")
    overlay, _, scaler = rest.partition("-")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "k8s"
        shutil.copytree(ROOT / "k8s", copy, ignore=shutil.ignore_patterns("secrets.env", "tests"))
        folder = copy / "overlays" / overlay
        give_secrets(folder)
        kustomization = folder / "kustomization.yaml"
        if component:
            kustomization.write_text(kustomization.read_text().replace("components:\n", f"components:\n  - ../../components/{component}\n"))
            with (folder / "secrets.env").open("a") as secrets:
                secrets.write("models-api-key=CHANGE_ME\n")
        if scaler:
            text, count = re.subn(r"components/keda$", f"components/{scaler}", kustomization.read_text(), flags=re.M)
            assert count == 1, f"{kustomization} does not name its scaler once"
            kustomization.write_text(text)
        done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"kustomize cannot render {variant}: {done.stderr.strip()}")
    return [one for one in yaml.load_all(done.stdout, LOADER) if one]


def give_secrets(folder):
    """What an operator does before the overlay can be rendered."""
    script, example = folder / "secrets.sh", folder / "secrets.env.example"
    if script.exists():
        subprocess.run(["sh", script], check=True)
    else:
        shutil.copy(example, folder / "secrets.env")


if __name__ == "__main__":
    json.dump(render(sys.argv[1]), sys.stdout)
