"""What has to hold between the objects of an overlay. Each check gives the problems that it found."""

import re

WORKLOADS = ("Deployment", "StatefulSet", "Job")
STAGES = {"extractor": "extract", "embedder": "embed", "indexer": "index"}


def name_of(one):
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def template(workload):
    return workload["spec"]["template"]


def containers(workload):
    spec = template(workload)["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in (selector or {}).items())


def selected(objects, selector):
    """The workloads whose pods have the labels of a selector."""
    return [one for one in of_kind(objects, *WORKLOADS) if matches(selector, template(one)["metadata"]["labels"])]


def ports(workload):
    return [port for container in containers(workload) for port in container.get("ports", [])]


def has_port(workload, wanted):
    return any(wanted in (port.get("name"), port["containerPort"]) for port in ports(workload))


def selectors(objects):
    """Whatever selects pods selects some, and those that it means."""
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        if not matches(one["spec"]["selector"]["matchLabels"], template(one)["metadata"]["labels"]):
            yield f"{name_of(one)} does not select its own pods"
        found = selected(objects, one["spec"]["selector"]["matchLabels"])
        if found != [one]:
            yield f"{name_of(one)} selects {[name_of(other) for other in found]}"
    for one in of_kind(objects, "PodDisruptionBudget"):
        if len(selected(objects, one["spec"]["selector"]["matchLabels"])) != 1:
            yield f"{name_of(one)} is not of one workload"
    for one in of_kind(objects, "Service"):
        if not selected(objects, one["spec"]["selector"]):
            yield f"{name_of(one)} selects no pod"
    for one in of_kind(objects, "NetworkPolicy"):
        if not selected(objects, one["spec"]["podSelector"].get("matchLabels")):
            yield f"{name_of(one)} selects no pod"
    for one in of_kind(objects, "ServiceMonitor"):
        found = [s for s in of_kind(objects, "Service") if matches(one["spec"]["selector"]["matchLabels"], s["metadata"].get("labels", {}))]
        if not found:
            yield f"{name_of(one)} selects no service"
        if any(service["metadata"]["labels"].get(one["spec"]["jobLabel"]) != "riacho" for service in found):
            yield f"{name_of(one)}: the job is not called riacho, as the alert rules have it"
        for endpoint in one["spec"]["endpoints"]:
            if not all(endpoint["port"] in [port["name"] for port in service["spec"]["ports"]] for service in found):
                yield f"{name_of(one)} scrapes port {endpoint['port']}, which a service does not have"


def probes_and_ports(objects):
    """Ports that are named are there."""
    for one in of_kind(objects, *WORKLOADS):
        for container in containers(one):
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                action = container.get(kind, {}).get("httpGet") or container.get(kind, {}).get("tcpSocket")
                known = [p.get("name") for p in container.get("ports", [])] + [p["containerPort"] for p in container.get("ports", [])]
                if action and action["port"] not in known:
                    yield f"{name_of(one)}: {kind} asks port {action['port']}, which is not there"
            if one["kind"] == "Deployment" and not {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys():
                yield f"{name_of(one)}: a probe is missing"
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            for one in selected(objects, service["spec"]["selector"]):
                if not has_port(one, port["targetPort"]):
                    yield f"{name_of(service)} leads to port {port['targetPort']}, which {name_of(one)} does not have"
    for ingress in of_kind(objects, "Ingress"):
        for path in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
            backend = path["backend"]["service"]
            there = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == backend["name"]]
            if not any(backend["port"]["name"] == port["name"] for s in there for port in s["spec"]["ports"]):
                yield f"{name_of(ingress)} leads to {backend}, which is not there"


def policies(objects):
    """Everything is denied by default, and named ports of what is allowed are there."""
    all_policies = of_kind(objects, "NetworkPolicy")
    deny = [p for p in all_policies if p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    if not deny:
        yield "no policy denies by default"
    for policy in all_policies:
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                for one in selected(objects, policy["spec"]["podSelector"].get("matchLabels")):
                    if not has_port(one, port["port"]):
                        yield f"{name_of(policy)} allows port {port['port']}, which {name_of(one)} does not have"
        for rule in policy["spec"].get("egress", []):
            for peer in (peer for peer in rule.get("to", []) if "podSelector" in peer and "namespaceSelector" not in peer):
                found = selected(objects, peer["podSelector"]["matchLabels"])
                if not found or not all(has_port(one, port["port"]) for one in found for port in rule["ports"]):
                    yield f"{name_of(policy)} allows the way to {peer['podSelector']}, which has no such port or is not there"
    for one in of_kind(objects, "Deployment"):
        labels = template(one)["metadata"]["labels"]
        allowed = [rule for p in all_policies if matches(p["spec"]["podSelector"].get("matchLabels"), labels)
                   for rule in p["spec"].get("ingress", [])]
        for port in ports(one):
            if not any(port["name"] in [allowed_port["port"] for allowed_port in rule["ports"]] for rule in allowed):
                yield f"{name_of(one)}: nobody may reach port {port['name']}"


def references(objects):
    """What pods mount and read is there."""
    def data(kind, name):
        found = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
        return set(found[0].get("data", {})) if found else None

    accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    claims = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
    for one in of_kind(objects, *WORKLOADS):
        spec = template(one)["spec"]
        if "serviceAccountName" in spec and spec["serviceAccountName"] not in accounts:
            yield f"{name_of(one)}: no service account {spec['serviceAccountName']}"
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"]: claim for claim in one["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            secret, claim = volume.get("secret"), volume.get("persistentVolumeClaim")
            if secret and not {item["key"] for item in secret["items"]} <= (data("Secret", secret["secretName"]) or set()):
                yield f"{name_of(one)}: volume {volume['name']} wants keys that the Secret does not have"
            if claim and claim["claimName"] not in claims:
                yield f"{name_of(one)}: no claim {claim['claimName']}"
        for container in containers(one):
            mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
            if not mounts.keys() <= volumes.keys():
                yield f"{name_of(one)}: mounts of volumes that are not there: {mounts.keys() - volumes.keys()}"
                continue
            files = {f"{path}/{item['path']}" for name, path in mounts.items() for item in volumes[name].get("secret", {}).get("items", [])}
            for variable in container.get("env", []):
                if variable["name"].endswith("_FILE") and variable["value"] not in files:
                    yield f"{name_of(one)}: {variable['name']} names {variable['value']}, which is not mounted"
            for source in container.get("envFrom", []):
                if data("ConfigMap", source["configMapRef"]["name"]) is None:
                    yield f"{name_of(one)}: no ConfigMap {source['configMapRef']['name']}"
    for monitor in of_kind(objects, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            wanted = endpoint["authorization"]["credentials"]
            if wanted["key"] not in (data("Secret", wanted["name"]) or set()):
                yield f"{name_of(monitor)}: the Secret has no {wanted['key']}"


def restricted(objects):
    """The restricted Pod Security Standard, and a root file system that nobody writes."""
    for one in of_kind(objects, *WORKLOADS):
        spec = template(one)["spec"]
        pod = spec.get("securityContext", {})
        if not pod.get("runAsNonRoot") or not pod.get("runAsUser") or pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name_of(one)}: the pod may run as root, or without a seccomp profile"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")) or spec.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)}: the pod has what is the host's or the cluster's"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name_of(one)}: services become variables"
        allowed = {"emptyDir", "secret", "persistentVolumeClaim", "configMap", "projected"}
        for volume in spec.get("volumes", []):
            if not volume.keys() - {"name"} <= allowed:
                yield f"{name_of(one)}: volume {volume['name']} is of a kind that is not allowed"
        for container in containers(one):
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            if container.get("securityContext") != wanted:
                yield f"{name_of(one)}: container {container['name']} may more than it needs"


def resources(objects):
    """Requests and limits of each container, and limits that hold the children of extractor and gateway."""
    for one in of_kind(objects, *WORKLOADS):
        for container in containers(one):
            wanted = container.get("resources", {})
            if not {"cpu", "memory"} <= wanted.get("requests", {}).keys() or "memory" not in wanted.get("limits", {}):
                yield f"{name_of(one)}: container {container['name']} has no requests or no limit of memory"
            elif wanted["requests"]["memory"] != wanted["limits"]["memory"] and quantity(wanted["requests"]["memory"]) > quantity(wanted["limits"]["memory"]):
                yield f"{name_of(one)}: container {container['name']} requests more than its limit"
        if one["metadata"]["name"] == "extractor":
            container = containers(one)[0]
            env = {v["name"].removeprefix("RIACHO__EXTRACTOR__"): v["value"] for v in container["env"]}
            parsers = int(env["PARSER__PROCESSES"]) + int(env["PARSER__INTERACTIVE_PROCESSES"])
            # Each parser may have a recogniser at work.
            needed = parsers * (int(env["PARSER__MEMORY_BYTES"]) + int(env["OCR__MEMORY_BYTES"])) + int(env["ORIGINALS_BYTES"])
            if needed > quantity(container["resources"]["limits"]["memory"]):
                yield f"{name_of(one)}: children and originals may take {needed} bytes, more than the limit"
        if one["metadata"]["name"] == "gateway":
            container = containers(one)[0]
            env = {v["name"].removeprefix("RIACHO__GATEWAY__BULK__"): v["value"] for v in container["env"] if "value" in v}
            needed = int(env["MAX_REQUESTS"]) * int(env["UNPACK_MEMORY_BYTES"]) + quantity(container["resources"]["requests"]["memory"])
            if needed > quantity(container["resources"]["limits"]["memory"]):
                yield f"{name_of(one)}: it and what unpacks archives may take {needed} bytes, more than the limit"


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", text).groups()
    return int(number) * {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def grace(objects):
    """A pod is not killed before its service's own grace period has passed."""
    for one in of_kind(objects, "Deployment"):
        spec = template(one)["spec"]
        container = spec["containers"][0]
        own = max([int(v["value"]) for v in container["env"] if v["name"].endswith("__GRACE_SECONDS")], default=20)
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if spec.get("terminationGracePeriodSeconds", 30) < own + before + 5:
            yield f"{name_of(one)}: killed after {spec.get('terminationGracePeriodSeconds')} s, but it stops for {own + before} s"


def scalers(objects):
    """Scalers have a target whose number of replicas nobody else sets, and ask for the right backlog."""
    deployments = {one["metadata"]["name"]: one for one in of_kind(objects, "Deployment")}
    for one in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = deployments.get(one["spec"]["scaleTargetRef"]["name"])
        if target is None or "replicas" in target["spec"]:
            yield f"{name_of(one)}: its target is not there, or has a number of replicas of its own"
            continue
        stage = STAGES.get(target["metadata"]["name"])
        if one["kind"] == "ScaledObject":
            query = one["spec"]["triggers"][0]["metadata"]["query"]
            where = f'namespace="{one["metadata"]["namespace"]}"'
            backlog = f'riacho_stage_backlog{{{where},stage="{stage}"}}'
            is_fresh = f'time() - riacho_figures_timestamp_seconds{{{where}}} < 60'
            is_wanted = f'(1 - max(riacho_stage_pause_requested{{{where},stage="{stage}"}}))'
            if query != f'max({backlog} and on (instance) {is_fresh}) * {is_wanted}':
                yield f"{name_of(one)}: asks for something else than the backlog of {stage}"
            if one["spec"]["minReplicaCount"] != 0:
                yield f"{name_of(one)}: does not go to zero"
        else:
            metric = one["spec"]["metrics"][0]["external"]["metric"]
            if metric != {"name": "riacho_stage_backlog", "selector": {"matchLabels": {"stage": stage}}}:
                yield f"{name_of(one)}: asks for something else than the backlog of {stage}"
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")}
    for name, one in deployments.items():
        if name not in scaled and "replicas" not in one["spec"]:
            yield f"{name_of(one)}: nobody says how many replicas"


def images(objects):
    """Images are of one version, and named."""
    own = set()
    for one in of_kind(objects, *WORKLOADS):
        for container in containers(one):
            if not re.search(r":[^/:]+$", container["image"]) or container["image"].endswith(":latest"):
                yield f"{name_of(one)}: image {container['image']} has no version"
            if container["image"].split(":")[0].endswith("riacho"):
                own.add(container["image"])
    if len(own) != 1:
        yield f"services of several images: {sorted(own)}"


ALL = (selectors, probes_and_ports, policies, references, restricted, resources, grace, scalers, images)
