"""The manifests: rendered by kustomize, valid for the API, and right in what they say of each other."""

import copy
import json
import re
import unittest
from pathlib import Path

import jsonschema_rs
import yaml

import checks
import render
import rules

ROOT = render.ROOT
API_SCHEMAS = ROOT / ".riacho/tools/schemas"
# The oldest and the newest version that the manifests are for.
KUBERNETES = ("1.33", "1.37")
OWN_SCHEMAS = Path(__file__).parent / "schemas"
RENDERED = {variant: render.render(variant) for variant in render.VARIANTS}


class Schemas:
    """Validators of one version of the API, strict: fields that it does not know are errors."""

    def __init__(self, version):
        self.folder = API_SCHEMAS / f"kubernetes-{version}"
        definitions = json.loads((self.folder / "_definitions.json").read_text())
        self.registry = jsonschema_rs.Registry([(definitions["$id"], definitions)])
        self.known = {}

    def validator(self, one):
        group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", one["apiVersion"])
        path = self.folder / f"{one['kind'].lower()}-{group}.json"
        if path not in self.known:
            # What the API itself does not have is a custom resource.
            text = (path if path.exists() else OWN_SCHEMAS / f"{one['kind'].lower()}.json").read_text()
            self.known[path] = jsonschema_rs.validator_for(json.loads(text), registry=self.registry, offline=True)
        return self.known[path]

    def problems(self, objects):
        for one in objects:
            for error in self.validator(one).iter_errors(one):
                yield f"{checks.name_of(one)}: {'.'.join(map(str, error.instance_path))}: {error.message}"


SCHEMAS = {version: Schemas(version) for version in KUBERNETES}


def problems(objects):
    found = [problem for schemas in SCHEMAS.values() for problem in schemas.problems(objects)]
    # What has another shape than the API's cannot be compared.
    return found or [problem for check in checks.ALL for problem in check(objects)]


def find(objects, kind, name):
    return next(one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name)


class Manifests(unittest.TestCase):
    def test_each_overlay_is_valid_and_consistent(self):
        for variant, objects in RENDERED.items():
            with self.subTest(variant):
                self.assertGreater(len(objects), 20)
                self.assertEqual(problems(objects), [])

    def test_each_overlay_has_every_service_and_a_budget_of_disruptions_for_it(self):
        for variant, objects in RENDERED.items():
            for kind in ("Deployment", "PodDisruptionBudget"):
                names = {one["metadata"]["name"] for one in checks.of_kind(objects, kind)}
                self.assertEqual(names, {"gateway", "extractor", "embedder", "indexer", "janitor"}, variant)

    def test_production_uses_a_cluster_partitions_and_the_replica(self):
        objects = RENDERED["prod"]
        job = find(objects, "Job", "migrate")["spec"]["template"]["spec"]
        self.assertEqual(job["containers"][0]["command"] + job["containers"][0]["args"], ["riacho", "partitions", "set", "16"])
        self.assertEqual(job["initContainers"][0]["command"], ["riacho", "migrate"])
        example = (ROOT / "k8s/overlays/prod/secrets.env.example").read_text()
        self.assertRegex(example, r"(?m)^redis-url=rediss-cluster://")
        readers = [one["metadata"]["name"] for one in checks.of_kind(objects, "Deployment")
                   for variable in checks.containers(one)[0]["env"] if variable["name"] == "RIACHO__DATABASE__READ_URL_FILE"]
        self.assertEqual(readers, ["gateway"])

    def test_only_what_changes_the_schema_has_the_owners_login(self):
        for objects in RENDERED.values():
            holders = [one["metadata"]["name"] for one in checks.of_kind(objects, *checks.WORKLOADS)
                       if "database-migrate-url" in json.dumps(one)]
            self.assertEqual(sorted(holders), ["janitor", "migrate"])

    def test_whoever_embeds_has_the_providers_key_and_nobody_else(self):
        objects = RENDERED["prod+provider"]
        holders = [one["metadata"]["name"] for one in checks.of_kind(objects, *checks.WORKLOADS) if "models-api-key" in json.dumps(one)]
        self.assertEqual(sorted(holders), ["embedder", "gateway", "janitor", "migrate"])
        self.assertNotIn("models-api-key", json.dumps(RENDERED["prod"]))

    def test_a_collector_is_named_and_reached_with_its_component_only(self):
        endpoint, port = "RIACHO__TRACES__ENDPOINT", 4318
        policy = find(RENDERED["prod+traces"], "NetworkPolicy", "traces-to-collector")["spec"]
        self.assertEqual(policy["egress"][0]["ports"], [{"protocol": "TCP", "port": port}])
        self.assertNotIn("podSelector", policy["egress"][0]["to"][0])
        settings = [one["data"] for one in checks.of_kind(RENDERED["prod+traces"], "ConfigMap") if endpoint in one.get("data", {})]
        self.assertEqual([data[endpoint].rpartition(":")[2] for data in settings], [str(port)])
        for variant in set(RENDERED) - {"prod+traces"}:
            self.assertNotIn(endpoint, json.dumps(RENDERED[variant]), variant)
            self.assertNotIn(str(port), json.dumps(checks.of_kind(RENDERED[variant], "NetworkPolicy")), variant)

    def test_the_alert_rules_are_those_of_compose(self):
        self.assertEqual(rules.TARGET.read_text(), rules.rendered(),
                         "run .riacho/venv/bin/python k8s/tests/rules.py")

    def test_no_secret_is_in_the_repository(self):
        self.assertIn("/k8s/overlays/*/secrets.env", (ROOT / ".gitignore").read_text().splitlines())
        for path in (ROOT / "k8s").rglob("*.yaml"):
            for one in yaml.load_all(path.read_text(), render.LOADER):
                self.assertNotEqual((one or {}).get("kind"), "Secret", path)
        for line in (ROOT / "k8s/overlays/prod/secrets.env.example").read_text().splitlines():
            self.assertTrue(line.startswith("#") or "CHANGE_ME" in line, line)


# What a manifest could say wrongly, and what is then said of it.
MISTAKES = {
    "a field that the API does not know": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"].update(restartpolicy="Always"), "restartpolicy"),
    "a value of another type": (
        lambda o: find(o, "Service", "gateway")["spec"]["ports"][0].update(port="http"), "Service/gateway: spec.ports.0.port"),
    "a field that KEDA does not know": (
        lambda o: find(o, "ScaledObject", "indexer")["spec"].update(minReplicas=0), "minReplicas"),
    "a missing query": (
        lambda o: find(o, "ScaledObject", "indexer")["spec"]["triggers"][0]["metadata"].pop("query"), "query"),
    "an interval that is none": (
        lambda o: find(o, "ServiceMonitor", "riacho")["spec"]["endpoints"][0].update(interval="often"), "interval"),
    "a selector of no pod": (
        lambda o: find(o, "Service", "gateway")["spec"].update(selector={"app": "gateway"}), "Service/gateway selects no pod"),
    "a deployment that does not find its pods": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["selector"]["matchLabels"].update(a="b"), "does not select its own pods"),
    "two deployments with the same pods": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"), "selects ["),
    "a budget of everything": (
        lambda o: find(o, "PodDisruptionBudget", "indexer")["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"),
        "is not of one workload"),
    "a policy of no pod": (
        lambda o: find(o, "NetworkPolicy", "gateway-from-ingress")["spec"]["podSelector"]["matchLabels"].update(a="b"),
        "NetworkPolicy/gateway-from-ingress selects no pod"),
    "a monitor of no service": (
        lambda o: find(o, "ServiceMonitor", "riacho")["spec"]["selector"]["matchLabels"].update(a="b"), "selects no service"),
    "a job of another name": (
        lambda o: find(o, "ServiceMonitor", "riacho")["spec"].update(jobLabel="app.kubernetes.io/component"), "the job is not called riacho"),
    "a probe of a port that is not there": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"].update(port="web"),
        "readinessProbe asks port web"),
    "no probe": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"]["containers"][0].pop("livenessProbe"), "a probe is missing"),
    "a service that leads nowhere": (
        lambda o: find(o, "Service", "metrics")["spec"]["ports"][0].update(targetPort=9101), "leads to port 9101"),
    "an ingress that leads nowhere": (
        lambda o: find(o, "Ingress", "gateway")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(name="web"),
        "Ingress/gateway leads to"),
    "nothing denied": (lambda o: o.remove(find(o, "NetworkPolicy", "default-deny")), "no policy denies by default"),
    "a port that nobody may reach": (
        lambda o: o.remove(find(o, "NetworkPolicy", "metrics-from-monitoring")), "nobody may reach port ops"),
    "a secret that is not mounted": (
        lambda o: find(o, "Deployment", "gateway")["spec"]["template"]["spec"]["volumes"][1]["secret"]["items"].pop(),
        "which is not mounted"),
    "a key that the secret does not have": (
        lambda o: next(one for one in o if one["kind"] == "Secret")["data"].pop("redis-url"), "keys that the Secret does not have"),
    "no account": (lambda o: o.remove(find(o, "ServiceAccount", "riacho")), "no service account"),
    "root": (
        lambda o: find(o, "Job", "migrate")["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "a writable root": (
        lambda o: find(o, "Job", "migrate")["spec"]["template"]["spec"]["initContainers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
        "may more than it needs"),
    "a directory of the host": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        "of a kind that is not allowed"),
    "no limit": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"]["containers"][0]["resources"].pop("limits"), "no limit"),
    "parsers that do not fit": (
        lambda o: find(o, "Deployment", "extractor")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="2Gi"),
        "more than the limit"),
    "killed too early": (
        lambda o: find(o, "Deployment", "extractor")["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=60), "killed after 60 s"),
    "a scaler beside a number of replicas": (
        lambda o: find(o, "Deployment", "extractor")["spec"].update(replicas=3), "a number of replicas of its own"),
    "the backlog of another stage": (
        lambda o: find(o, "ScaledObject", "indexer")["spec"]["triggers"][0]["metadata"].update(
            query='max(riacho_stage_backlog{namespace="riacho",stage="embed"})'), "something else than the backlog of index"),
    "no version": (
        lambda o: find(o, "Deployment", "indexer")["spec"]["template"]["spec"]["containers"][0].update(image="riacho"), "has no version"),
}


class Mistakes(unittest.TestCase):
    def test_mistakes_are_found(self):
        for name, (make, said) in MISTAKES.items():
            with self.subTest(name):
                objects = copy.deepcopy(RENDERED["prod"])
                make(objects)
                found = problems(objects)
                self.assertTrue(any(said in problem for problem in found), found)


if __name__ == "__main__":
    unittest.main()
