"""Checks rendered manifests beyond the schemas of Kubernetes, and what belongs together in several files.

Usage: check.py FOLDER     checks every file in the folder: NAME.yaml is a rendered overlay
"""

import pathlib
import re
import sys
import tomllib

import check_collector
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

MODELS = {
    "ScaledObject": ScaledObject,
    "TriggerAuthentication": TriggerAuthentication,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
    "ServiceMonitor": ServiceMonitor,
}
# KEDA 2.17 has this field; the models are those of KEDA 2.16.
NEWER_THAN_MODELS = {"ScaledObject.spec.fallback.behavior"}
# KEDA's schema does not cover the fields of a trigger. Source: KEDA's documentation, "AWS SQS Queue".
SQS_TRIGGER = {
    "queueURL", "queueURLFromEnv", "queueLength", "activationQueueLength", "scaleOnInFlight", "scaleOnDelayed",
    "awsRegion", "awsEndpoint",
}
# The fields of OpenShift's SecurityContextConstraints and their types. Source: OpenShift's "Security APIs".
CONSTRAINTS = {
    "allowHostDirVolumePlugin": bool, "allowHostIPC": bool, "allowHostNetwork": bool, "allowHostPID": bool,
    "allowHostPorts": bool, "allowPrivilegedContainer": bool, "readOnlyRootFilesystem": bool,
    "allowPrivilegeEscalation": bool, "allowedCapabilities": list, "defaultAddCapabilities": list,
    "requiredDropCapabilities": list, "fsGroup": dict, "runAsUser": dict, "seLinuxContext": dict, "supplementalGroups": dict,
    "seccompProfiles": list, "volumes": list, "users": list, "groups": list, "apiVersion": str, "kind": str, "metadata": dict,
}
# Kinds whose objects have no namespace.
CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "SecurityContextConstraints"}
WORKLOADS = {"Deployment", "DaemonSet", "CronJob"}


def dropped(given, kept, path):
    """Yields the path of every key in `given` that is missing in `kept`: the model does not know it, and dropped it."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from dropped(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        for index, (value, other) in enumerate(zip(given, kept)):
            yield from dropped(value, other, f"{path}.{index}")


def schema_problems(manifest):
    """kubernetes-validate checks Kubernetes' own kinds; this checks all others."""
    kind, group = manifest["kind"], manifest["apiVersion"].rpartition("/")[0]
    if kind in MODELS:
        try:
            kept = MODELS[kind].model_validate(manifest).model_dump(by_alias=True, exclude_unset=True, mode="json")
        except ValueError as error:
            yield f"{kind}: {error}"
            return
        for path in sorted(set(dropped(manifest, kept, kind)) - NEWER_THAN_MODELS):
            yield f"{path} is not a field of the schema"
    elif kind == "SecurityContextConstraints":
        for name, value in manifest.items():
            if not isinstance(value, CONSTRAINTS.get(name, ())):
                yield f"{kind}.{name} is not a field of the schema, or of another type"
        yield from (f"{kind}.{name} is missing" for name in list(CONSTRAINTS)[:7] if name not in manifest)
    elif "." in group and not group.endswith(".k8s.io"):
        yield f"{kind}: no schema of {manifest['apiVersion']} is known"


def of_kind(manifests, *kinds):
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def template_of(manifest):
    spec = manifest["spec"]
    return spec["jobTemplate"]["spec"]["template"] if manifest["kind"] == "CronJob" else spec["template"]


def pod_of(manifest):
    return template_of(manifest)["spec"]


def restricted_problems(name, pod):
    """What the level `restricted` of Pod Security refuses, as far as these manifests could have it."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{name}: {field}"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield f"{name}: a hostPath volume"
    if pod["securityContext"].get("runAsNonRoot") is not True or pod["securityContext"].get("runAsUser") == 0:
        yield f"{name}: may run as root"
    if pod["securityContext"].get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: no seccompProfile"
    for container in pod["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: {container['name']} may gain privileges"


def overlay_problems(manifests):
    """What every overlay must keep: objects in its own namespace, names that exist, selectors that select."""
    namespaces = {manifest["metadata"]["name"]: manifest["metadata"] for manifest in of_kind(manifests, "Namespace")}
    if len(namespaces) != 1:
        yield f"an overlay has one Namespace, not {sorted(namespaces)}"
        return
    namespace, metadata = namespaces.popitem()
    level = metadata["labels"].get("pod-security.kubernetes.io/enforce")
    if level not in ("restricted", "privileged"):
        yield f"the Namespace {namespace} enforces no level of Pod Security"
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    workloads = of_kind(manifests, *WORKLOADS)
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        yield from schema_problems(manifest)
        wanted = None if kind in CLUSTER_WIDE else namespace
        if manifest["metadata"].get("namespace") != wanted:
            yield f"{kind} {name} is in the namespace {manifest['metadata'].get('namespace')}, not {wanted}"
    for manifest in workloads:
        pod, name = pod_of(manifest), f"{manifest['kind']} {manifest['metadata']['name']}"
        wanted = [("ConfigMap", volume["configMap"]["name"]) for volume in pod.get("volumes", []) if "configMap" in volume]
        wanted += [
            ("ConfigMap", source["configMapRef"]["name"])
            for container in pod["containers"]
            for source in container.get("envFrom", [])
        ]
        wanted += [("ServiceAccount", pod[field]) for field in ["serviceAccountName"] if field in pod]
        wanted += [("PriorityClass", pod[field]) for field in ["priorityClassName"] if field in pod]
        yield from (f"{name} names a {kind} that does not exist: {other}" for kind, other in wanted if (kind, other) not in names)
        if level == "restricted":
            yield from restricted_problems(name, pod)
        mounted = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        if mounted != {volume["name"] for volume in pod.get("volumes", [])}:
            yield f"{name}: the volumes and the mounts differ"
        for container in pod["containers"]:
            if ":" not in container["image"] and "@" not in container["image"]:
                yield f"{name}: the image {container['image']} has no tag"
    labels = [template_of(manifest)["metadata"]["labels"] for manifest in workloads]
    ports = {port["name"] for manifest in workloads for c in pod_of(manifest)["containers"] for port in c.get("ports", [])}
    services = of_kind(manifests, "Service")
    for manifest in manifests:
        kind, spec, selected = manifest["kind"], manifest.get("spec", {}), labels
        if kind in ("PodDisruptionBudget", "PodMonitor"):
            selector = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            selector = spec["podSelector"].get("matchLabels", {})
        elif kind == "Service":
            selector = spec["selector"]
        elif kind == "ServiceMonitor":
            selector, selected = spec["selector"]["matchLabels"], [service["metadata"]["labels"] for service in services]
        else:
            continue
        what = f"{kind} {manifest['metadata']['name']}"
        if not any(selector.items() <= other.items() for other in selected):
            yield f"{what} selects nothing"
        named = [port.get("targetPort") for port in spec.get("ports", [])] if kind == "Service" else []
        named += [endpoint["port"] for endpoint in spec.get("podMetricsEndpoints", [])]
        named += [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
        yield from (f"{what} names the port {port}, which no container has" for port in named if port not in ports)
        if kind == "ServiceMonitor":
            offered = {port["name"] for service in services for port in service["spec"]["ports"]}
            yield from (f"{what}: no Service has the port {end['port']}" for end in spec["endpoints"] if end["port"] not in offered)
    for binding in of_kind(manifests, "ClusterRoleBinding"):
        if ("ClusterRole", binding["roleRef"]["name"]) not in names:
            yield "the ClusterRoleBinding names a ClusterRole that does not exist"
        for subject in binding["subjects"]:
            if (subject["kind"], subject["name"]) not in names or subject["namespace"] != namespace:
                yield "the ClusterRoleBinding names a ServiceAccount that does not exist"
    for constraints in of_kind(manifests, "SecurityContextConstraints"):
        accounts = {f"system:serviceaccount:{namespace}:{account['metadata']['name']}" for account in of_kind(manifests, "ServiceAccount")}
        if set(constraints["users"]) != accounts:
            yield "the SecurityContextConstraints are not for the ServiceAccount of the overlay"
        used = {next(key for key in volume if key != "name") for manifest in workloads for volume in pod_of(manifest)["volumes"]}
        if set(constraints["volumes"]) != used | {"projected"}:
            yield "the SecurityContextConstraints do not allow exactly the volumes that are used, and tokens (projected)"


def data_of(manifests, prefix):
    """The data of the ConfigMap whose name is `prefix`, with or without kustomize's hash."""
    for manifest in of_kind(manifests, "ConfigMap"):
        if re.fullmatch(re.escape(prefix) + r"(-[0-9a-z]{10})?", manifest["metadata"]["name"]):
            return manifest["data"]
    return {}


def worker_problems(manifests):
    [deployment] = of_kind(manifests, "Deployment")
    pod = pod_of(deployment)
    container = pod["containers"][0]
    for job in of_kind(manifests, "CronJob"):
        if deployment["spec"]["selector"]["matchLabels"].items() <= template_of(job)["metadata"]["labels"].items():
            yield f"the Deployment selects the pods of the CronJob {job['metadata']['name']}"
    settings = tomllib.loads(data_of(manifests, "logferry-worker").get("logferry.toml", ""))
    worker = settings["worker"]
    grace = re.fullmatch(r"(\d+)s", worker["grace_period"])
    if not grace or pod["terminationGracePeriodSeconds"] <= int(grace[1]):
        yield "terminationGracePeriodSeconds is not longer than worker.grace_period (in seconds)"
    port = settings["http"]["listen"].rpartition(":")[2]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    if {port} != {str(container["ports"][0]["containerPort"]), annotations["prometheus.io/port"]}:
        yield "the container's port, its annotation and http.listen differ"

    scalers = of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler")
    if len(scalers) > 1:
        yield "two autoscalers set the number of replicas"
    if scalers and "replicas" in deployment["spec"]:
        yield "an apply would reset the number of replicas that the autoscaler has set"
    for scaler in scalers:
        if scaler["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
            yield f"the {scaler['kind']} names a Deployment that does not exist"
    for scaled in of_kind(manifests, "ScaledObject"):
        trigger = scaled["spec"]["triggers"][0]
        given = trigger["metadata"]
        yield from (f"{key} is not a field of KEDA's SQS trigger" for key in given.keys() - SQS_TRIGGER)
        [authentication] = of_kind(manifests, "TriggerAuthentication")
        if trigger["authenticationRef"]["name"] != authentication["metadata"]["name"]:
            yield "the trigger names a TriggerAuthentication that does not exist"
        variables = data_of(manifests, "logferry-settings")
        if given["queueURLFromEnv"] not in variables:
            yield "the trigger takes the queue from a variable that the worker does not have"
        if not given["awsRegion"] or given["awsRegion"] != variables["AWS_REGION"]:
            yield "the trigger's Region is not the worker's"
        if int(given["queueLength"]) != worker["concurrency"] + settings["queue"]["max_hidden"]:
            yield "queueLength is not the sum of worker.concurrency and queue.max_hidden"
        if 4 * settings["queue"]["max_hidden"] != worker["concurrency"]:
            yield "queue.max_hidden is not a quarter of worker.concurrency"
        if given.get("scaleOnDelayed") != "false":
            yield "messages that wait in the queue's delay would start replicas: scaleOnDelayed is not false"


def autoscaler_problems():
    """KEDA's numbers and the HorizontalPodAutoscaler's are the same, and its metric is the one of the documentation."""
    folder = pathlib.Path("k8s/worker/components")
    keda = next(yaml.safe_load_all((folder / "keda/scaled-object.yaml").read_text()))["spec"]
    plain = yaml.safe_load((folder / "hpa/horizontal-pod-autoscaler.yaml").read_text())["spec"]
    external = plain["metrics"][0]["external"]
    numbers = (keda.get("minReplicaCount"), keda.get("maxReplicaCount"), keda["triggers"][0]["metadata"]["queueLength"])
    if (plain["minReplicas"], plain["maxReplicas"], external["target"]["averageValue"]) != numbers:
        yield "hpa and keda have different numbers"
    if plain["behavior"] != keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]:
        yield "hpa and keda have different behaviors"
    [rule] = yaml.safe_load((folder / "hpa/prometheus-adapter.yaml").read_text())["rules"]["external"]
    if rule["name"]["as"] != external["metric"]["name"]:
        yield "the HorizontalPodAutoscaler names a metric that prometheus-adapter does not make"
    query = rule["metricsQuery"].replace(", <<.LabelMatchers>>", "")
    if f"\n    {query}\n" not in pathlib.Path("docs/metrics.md").read_text() or rule["seriesQuery"] not in query:
        yield "prometheus-adapter's query is not that of docs/metrics.md"


def version_problems():
    """The overlays for production name images of this version."""
    version = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["workspace"]["package"]["version"]
    for path in pathlib.Path("k8s").glob("*/overlays/production/kustomization.yaml"):
        for image in yaml.safe_load(path.read_text())["images"]:
            if image.get("newTag", version) != version:
                yield f"{path}: the tag {image['newTag']} of {image['name']} is not the version {version}"


def main(folder):
    problems = []
    rendered = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in sorted(pathlib.Path(folder).glob("*.yaml"))}
    for name, manifests in rendered.items():
        found = list(overlay_problems(manifests))
        # The base has no image and no values.
        found = [problem for problem in found if not (name.endswith("-base") and "has no tag" in problem)]
        if name.startswith("worker"):
            found += worker_problems(manifests)
        if name.startswith("collector"):
            found += check_collector.problems(name, manifests, data_of)
        problems += (f"{name}: {problem}" for problem in found)
    problems += autoscaler_problems()
    problems += version_problems()
    problems += check_collector.problems_of_files(rendered["worker-production"], data_of)
    for problem in problems:
        print(f"k8s/check.py: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


main(*sys.argv[1:])
