"""The workflows of GitHub: of the right shape, safe as far as zizmor sees, and naming what is there."""

import copy
import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import jsonschema_rs
import yaml

import render

ROOT = render.ROOT
FOLDER = ROOT / ".github/workflows"
ZIZMOR = ROOT / ".riacho/tools/bin/zizmor"
SCHEMA = json.loads((ROOT / ".riacho/tools/schemas/github-workflows.json").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
# Lines of a workflow that name an action of elsewhere.
USES = re.compile(r"uses: (?!\./)(\S+)(.*)")


class Loader(render.LOADER):
    """YAML without YAML 1.1's truth of `on`."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first not in "oO"]
    for first, resolvers in render.LOADER.yaml_implicit_resolvers.items()
}


def load(path):
    return yaml.load(path.read_text(), Loader)


WORKFLOWS = {path.name: load(path) for path in sorted(FOLDER.glob("*.yml"))}


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def problems(workflow):
    """What is wrong with a workflow in itself."""
    errors = jsonschema_rs.validator_for(SCHEMA, offline=True).iter_errors(workflow)
    found = [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in errors]
    if found:
        return found
    if workflow.get("permissions") != {}:
        found.append("permissions are not none by default")
    for name, job in workflow["jobs"].items():
        if "permissions" not in job or "timeout-minutes" not in job:
            found.append(f"{name} has no permissions or no time limit of its own")
        needs = job.get("needs", [])
        found += [f"{name} needs {one}, which is no job" for one in ([needs] if isinstance(needs, str) else needs)
                  if one not in workflow["jobs"]]
    for step in (step for step in steps(workflow) if "run" in step):
        script = re.sub(r"\$\{\{.*?\}\}", "value", step["run"])
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        if checked.returncode:
            found.append(f"a script does not parse: {checked.stderr.strip()}")
        found += [f"no target {target} in the Makefile" for target in re.findall(r"^\s*make ([a-z-]+)", script, re.M)
                  if not re.search(rf"^{target}:", MAKEFILE, re.M)]
    return found


def zizmor(*files):
    return subprocess.run([ZIZMOR, "--offline", "--no-progress", "--quiet", "--format=plain", *files],
                          capture_output=True, text=True, check=False)


class Workflows(unittest.TestCase):
    def test_workflows_are_valid(self):
        self.assertEqual(set(WORKFLOWS), {"ci.yml", "release.yml", "deploy.yml"})
        for name, workflow in WORKFLOWS.items():
            with self.subTest(name):
                self.assertEqual(problems(workflow), [])

    def test_zizmor_finds_nothing(self):
        done = zizmor(*FOLDER.glob("*.yml"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_actions_are_pinned_by_their_commit_and_name_the_version(self):
        for path in FOLDER.glob("*.yml"):
            for action, comment in USES.findall(path.read_text()):
                self.assertRegex(action, r"@[0-9a-f]{40}$", path)
                self.assertRegex(comment, r"^ # v\d+\.\d+\.\d+$", path)

    def test_ci_runs_what_people_run(self):
        self.assertIn("make test", [step.get("run") for step in steps(WORKFLOWS["ci.yml"])])

    def test_a_deployment_is_approved_and_has_no_token(self):
        job = WORKFLOWS["deploy.yml"]["jobs"]["deploy"]
        self.assertEqual((job["environment"], job["permissions"]), ("${{ inputs.environment }}", {}))
        self.assertTrue(any("compose/scripts/deploy.sh" in step.get("run", "") for step in job["steps"]))

    def test_mistakes_are_found(self):
        mistakes = {
            "a key that does not exist": (lambda w: w["jobs"]["test"].update(timeout=5), "timeout"),
            "a step that does nothing": (lambda w: w["jobs"]["test"]["steps"].append({"name": "nothing"}), "steps"),
            "all permissions": (lambda w: w.pop("permissions"), "permissions are not none"),
            "no time limit": (lambda w: w["jobs"]["test"].pop("timeout-minutes"), "no time limit"),
            "a job that is not there": (lambda w: w["jobs"]["test"].update(needs="build"), "which is no job"),
            "half a script": (lambda w: w["jobs"]["test"]["steps"].append({"run": "if true"}), "does not parse"),
            "no such target": (lambda w: w["jobs"]["test"]["steps"].append({"run": "make tests"}), "no target tests"),
        }
        for name, (make, said) in mistakes.items():
            with self.subTest(name):
                workflow = copy.deepcopy(WORKFLOWS["ci.yml"])
                make(workflow)
                self.assertTrue(any(said in problem for problem in problems(workflow)), problems(workflow))
        with tempfile.TemporaryDirectory() as scratch:
            unsafe = re.sub(r"@[0-9a-f]{40}", "@main", (FOLDER / "ci.yml").read_text())
            path = Path(scratch) / "ci.yml"
            path.write_text(unsafe)
            self.assertIn("unpinned-uses", zizmor(path).stdout)


if __name__ == "__main__":
    unittest.main()
