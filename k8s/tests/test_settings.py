"""Every setting that a file for deploying names is one of the configuration."""

import unittest

import checks
import render
import settings

# Where settings are given to the binary. A folder that is not there has no settings.
FOLDERS = ("k8s", "compose", "docs/operations")
SUFFIXES = (".yaml", ".yml", ".toml", ".json", ".md", ".env", ".example", ".service", ".conf", ".sh", ".template")


def files():
    for folder in FOLDERS:
        for path in sorted((render.ROOT / folder).rglob("*")):
            if path.is_file() and (path.suffix in SUFFIXES or path.name == "Dockerfile") and "tests" not in path.parts:
                yield path


class Settings(unittest.TestCase):
    def test_variables_in_files_are_settings(self):
        named = 0
        for path in files():
            for variable in settings.VARIABLE.findall(path.read_text()):
                # A pattern in prose, such as RIACHO__SECTION__KEY.
                if "SECTION" not in variable:
                    named += 1
                    self.assertIsNone(settings.problem(variable), path)
        self.assertGreater(named, 30)

    def test_values_in_manifests_fit(self):
        for variant in render.VARIANTS:
            objects = render.render(variant)
            pairs = [pair for one in checks.of_kind(objects, "ConfigMap") for pair in one["data"].items()]
            pairs += [(variable["name"], variable["value"]) for one in checks.of_kind(objects, *checks.WORKLOADS)
                      for container in checks.containers(one) for variable in container.get("env", [])]
            pairs = [pair for pair in pairs if pair[0].startswith("RIACHO__")]
            self.assertGreater(len(pairs), 30)
            self.assertEqual([said for said in (settings.problem(*pair) for pair in pairs) if said], [])

    def test_mistakes_are_found(self):
        for variable, value, is_fine in (
            ("RIACHO__EMBEDDER__CONCURRENCY", "4", True),
            ("RIACHO__EMBEDDER__CONCURRENCY", "four", False),
            ("RIACHO__EMBEDDER__CONCURENCY", "4", False),
            ("RIACHO__EMBEDDER", "4", False),
            ("RIACHO__OBJECTS__STORE", "s3", True),
            ("RIACHO__OBJECTS__STORE", "s4", False),
            ("RIACHO__DATABASE__READ_URL_FILE", "/run/secrets/url", True),
            ("RIACHO__LOG__FILTER_FILE", "/run/filter", False),
            ("RIACHO__GATEWAY__TRUST_FORWARDED_FOR", "true", True),
            ("RIACHO__GATEWAY__TRUST_FORWARDED_FOR", "yes", False),
            ("RIACHO__MODELS__SPACES__NEXT__PROVIDER", "openai", True),
            ("RIACHO__STAGE__LANES__EMBED__BULK__CONCURRENCY", "3", True),
            ("RIACHO__HTTP__LISTEN", "0.0.0.0:8000", True),
        ):
            with self.subTest(variable, value=value):
                self.assertEqual(settings.problem(variable, value) is None, is_fine)


if __name__ == "__main__":
    unittest.main()
