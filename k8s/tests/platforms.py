#!/usr/bin/env python3
"""The command lines and settings of the platform templates in docs/operations/platforms.

    .riacho/venv/bin/python k8s/tests/platforms.py       # JSON on standard output, for the test that gives them to the binary
"""

import json
import re
import shlex
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

import yaml

import render

PLATFORMS = render.ROOT / "docs/operations/platforms"


def env_file(path):
    """The variables of a file as systemd and Railway read it."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def unit(path):
    """The lines of a unit file as pairs; a key may be there several times."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "["))]
    return [tuple(line.split("=", 1)) for line in lines]


def program(name, words, env):
    words = shlex.split(words) if isinstance(words, str) else words
    if words[0] in ("riacho", "/usr/local/bin/riacho"):
        words = words[1:]
    return {"name": name, "args": words, "env": env}


def systemd():
    folder = PLATFORMS / "systemd"
    common = env_file(folder / "common.env")
    service = unit(folder / "riacho@.service")
    own = dict(value.split("=", 1) for key, value in service if key == "Environment")
    command = dict(service)["ExecStart"]
    for instance in re.findall(r"riacho@([a-z-]+)\.service", dict(unit(folder / "riacho.target"))["Wants"]):
        env = {**common, **env_file(folder / f"{instance}.env"), **own}
        yield program(f"systemd {instance}", command.replace("%i", instance), env)
    migrate = unit(folder / "riacho-migrate.service")
    yield program("systemd migrate", dict(migrate)["ExecStart"], common)


def render_blueprint():
    blueprint = yaml.load((PLATFORMS / "render/render.yaml").read_text(), render.LOADER)
    groups = {group["name"]: group["envVars"] for group in blueprint["envVarGroups"]}
    for service in (one for one in blueprint["services"] if "dockerCommand" in one):
        listed = [variable for entry in service["envVars"] for variable in groups.get(entry.get("fromGroup"), [entry])]
        env = {variable["key"]: variable.get("value") for variable in listed}
        for words in filter(None, (service["dockerCommand"], service.get("preDeployCommand"))):
            yield program(f"Render {service['name']}", words, env)


def railway():
    folder = PLATFORMS / "railway"
    env = env_file(folder / "variables.env")
    for path in sorted(folder.glob("*.json")):
        deploy = json.loads(path.read_text())["deploy"]
        for words in (deploy["startCommand"], *deploy.get("preDeployCommand", [])):
            yield program(f"Railway {path.stem}", words, env)


def fly():
    if tomllib is None:
        return
    config = tomllib.loads((PLATFORMS / "fly/fly.toml").read_text())
    for name, words in {**config["processes"], "release": config["deploy"]["release_command"]}.items():
        yield program(f"Fly.io {name}", words, config["env"])


def ecs():
    for path in sorted((PLATFORMS / "ecs").glob("*.json")):
        for container in json.loads(path.read_text())["containerDefinitions"]:
            env = {variable["name"]: variable["value"] for variable in container["environment"]}
            env |= {secret["name"]: None for secret in container["secrets"]}
            yield program(f"ECS {path.stem}", [*container["entryPoint"], *container["command"]], env)


def programs():
    """Every process that a template starts. A value that the platform fills in is None."""
    for source in (systemd, render_blueprint, railway, fly, ecs):
        for one in source():
            one["env"] = {name: None if value and "${{" in value else value for name, value in one["env"].items()}
            yield one


if __name__ == "__main__":
    json.dump(list(programs()), sys.stdout)
