"""YAML that a parser takes and a person misreads: keys that are there twice, words that become truth values, odd indentation."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import render

RULES = {
    "extends": "default",
    # Generated (rules.py).
    "ignore": ["prometheus-rule.yaml"],
    "rules": {
        "line-length": {"max": 180},
        "document-start": "disable",
        "comments": {"min-spaces-from-content": 1},
        # `on` is a key of workflows.
        "truthy": {"check-keys": False},
        "braces": {"max-spaces-inside": 1},
    },
}


def yamllint(*paths):
    command = [sys.executable, "-B", "-m", "yamllint", "--strict", "--format=parsable", "-d", json.dumps(RULES), *paths]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Yaml(unittest.TestCase):
    def test_files_are_in_good_form(self):
        done = yamllint(*(render.ROOT / folder for folder in ("k8s", ".github", "docs")))
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_mistakes_are_found(self):
        with tempfile.TemporaryDirectory() as scratch:
            for text, said in (("a: 1\na: 2\n", "key-duplicates"), ("a: yes\n", "truthy"), ("a:\n  b: 1\n   \n", "trailing-spaces")):
                path = Path(scratch) / "file.yaml"
                path.write_text(text)
                self.assertIn(said, yamllint(path).stdout)


if __name__ == "__main__":
    unittest.main()
