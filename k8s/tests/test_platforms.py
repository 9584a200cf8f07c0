"""The templates of platforms: they parse, and what they say to the binary is known."""

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import platforms
import render
import settings
import yaml

SERVICES = {"ingest-gateway", "extractor", "embedder", "indexer", "janitor"}


def services_of(args):
    """The services that a command line runs."""
    return set(args[2].split(",")) if args[:2] == ["work", "--stages"] else {args[0]}


class Platforms(unittest.TestCase):
    def test_each_platform_migrates_and_runs_every_service_once(self):
        by_platform = {}
        for one in platforms.programs():
            by_platform.setdefault(one["name"].split()[0], []).append(one)
        # Python 3.10 has nothing that reads TOML.
        fly = {"Fly.io"} if platforms.tomllib else set()
        self.assertEqual(set(by_platform), {"systemd", "Render", "Railway", "ECS"} | fly)
        for name, programs in by_platform.items():
            with self.subTest(name):
                ran = sorted(service for one in programs for service in services_of(one["args"]))
                self.assertEqual(ran, sorted(SERVICES | {"migrate"}))

    def test_settings_fit(self):
        checked = 0
        for one in platforms.programs():
            for variable, value in one["env"].items():
                if variable.startswith("RIACHO__"):
                    checked += 1
                    self.assertIsNone(settings.problem(variable, value), one["name"])
                elif variable != "PORT":
                    self.assertIn(variable, settings.USUAL, one["name"])
        self.assertGreater(checked, 60)

    def test_processes_of_one_machine_do_not_share_a_port(self):
        ports = [one["env"].get("RIACHO__HTTP__OPS_LISTEN") for one in platforms.systemd() if "migrate" not in one["name"]]
        self.assertEqual(len(ports), len(set(ports)))

    def test_nothing_is_stopped_before_its_grace_has_passed(self):
        limits = {"systemd": int(dict(platforms.unit(platforms.PLATFORMS / "systemd/riacho@.service"))["TimeoutStopSec"])}
        blueprint = yaml.load((platforms.PLATFORMS / "render/render.yaml").read_text(), render.LOADER)
        limits |= {f"Render {one['name']}": one["maxShutdownDelaySeconds"] for one in blueprint["services"] if "dockerCommand" in one}
        for path in (platforms.PLATFORMS / "railway").glob("*.json"):
            limits[f"Railway {path.stem}"] = json.loads(path.read_text())["deploy"]["drainingSeconds"]
        for path in (platforms.PLATFORMS / "ecs").glob("*.json"):
            limits[f"ECS {path.stem}"] = json.loads(path.read_text())["containerDefinitions"][0]["stopTimeout"]
        if platforms.tomllib:
            limits["Fly.io"] = platforms.tomllib.loads((platforms.PLATFORMS / "fly/fly.toml").read_text())["kill_timeout"]
        for one in platforms.programs():
            if one["args"][0] != "migrate":
                limit = limits.get(one["name"]) or limits[one["name"].split()[0]]
                is_gateway = one["args"][0] == "ingest-gateway"
                grace = 10 if is_gateway else int(one["env"].get("RIACHO__STAGE__GRACE_SECONDS", 20))
                self.assertGreaterEqual(limit, grace + 5, one["name"])

    def test_containers_of_ecs_may_no_more_than_they_need(self):
        for path in (platforms.PLATFORMS / "ecs").glob("*.json"):
            task = json.loads(path.read_text())
            for container in task["containerDefinitions"]:
                # The gateway keeps archives on disk, and volumes of Fargate are root's.
                self.assertEqual(container["readonlyRootFilesystem"], container["command"] != ["ingest-gateway"], path)
                self.assertEqual(container["user"], "10001:10001", path)
                self.assertEqual(container["linuxParameters"]["capabilities"], {"drop": ["ALL"]}, path)
                for variable in container["environment"]:
                    schemas, _ = settings.find(variable["name"])
                    self.assertFalse(any(one.get("format") == "password" for one in schemas), "a secret in the clear")

    def test_systemd_takes_the_units(self):
        folder = platforms.PLATFORMS / "systemd"
        for path in folder.glob("*.service"):
            keys = [key for key, _ in platforms.unit(path)]
            self.assertIn("NoNewPrivileges", keys, path)
            self.assertIn("ProtectSystem", keys, path)
        # A container without systemd has no program that knows more.
        if shutil.which("systemd-analyze"):
            with tempfile.TemporaryDirectory() as scratch:
                self.assertEqual(self.verify(Path(scratch), lambda text: text), "")
                self.assertIn("NoNewPriviliges", self.verify(Path(scratch), lambda text: text.replace("NoNewPrivileges", "NoNewPriviliges")))

    def verify(self, scratch, change):
        """What systemd-analyze says of the units, with a program in place of the binary, which is not installed here."""
        for path in (platforms.PLATFORMS / "systemd").iterdir():
            if path.suffix in (".service", ".target"):
                (scratch / path.name).write_text(change(path.read_text()).replace("/usr/local/bin/riacho", "/bin/true"))
        units = [scratch / "riacho@janitor.service", scratch / "riacho-migrate.service", scratch / "riacho.target"]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
        return done.stderr.replace("\n\n", "\n").strip()


if __name__ == "__main__":
    unittest.main()
