"""Checks rendered manifests beyond their schemas.

Usage: check.py worker RENDERED LOGFERRY_TOML
       check.py monitoring RENDERED RULES_YAML
"""

import re
import sys
import tomllib

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

KEDA = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}
PROMETHEUS_OPERATOR = {"PrometheusRule": PrometheusRule, "ServiceMonitor": ServiceMonitor}
# KEDA 2.17 has this field; the models are those of KEDA 2.16.
NEWER_THAN_MODELS = {"ScaledObject.spec.fallback.behavior"}
# KEDA's schema does not cover the fields of a trigger. Source: KEDA's documentation, "AWS SQS Queue".
SQS_TRIGGER = {
    "queueURL", "queueURLFromEnv", "queueLength", "activationQueueLength", "scaleOnInFlight", "scaleOnDelayed",
    "awsRegion", "awsEndpoint",
}


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


def strangers(found, models):
    """Yields each field that the models do not know."""
    for kind, model in models.items():
        kept = model.model_validate(found[kind]).model_dump(by_alias=True, exclude_unset=True, mode="json")
        unknown = set(dropped(found[kind], kept, kind)) - NEWER_THAN_MODELS
        yield from (f"{path} is not a field of the schema" for path in sorted(unknown))


def monitoring_problems(manifests, rules):
    found = {manifest["kind"]: manifest for manifest in manifests}
    yield from strangers(found, PROMETHEUS_OPERATOR)
    if found["PrometheusRule"]["spec"] != rules:
        yield "the PrometheusRule differs from observability/rules.yaml: run k8s/monitoring/generate"
    with open("k8s/base/metrics-service.yaml", encoding="utf-8") as file:
        service = yaml.safe_load(file)
    wanted = found["ServiceMonitor"]["spec"]
    if wanted["selector"]["matchLabels"].items() - service["metadata"]["labels"].items():
        yield "the ServiceMonitor does not select the Service of the metrics"
    if wanted["endpoints"][0]["port"] not in {port["name"] for port in service["spec"]["ports"]}:
        yield "the ServiceMonitor names a port that the Service does not have"


def worker_problems(manifests, settings):
    found = {manifest["kind"]: manifest for manifest in manifests}
    yield from strangers(found, KEDA)

    scaled, deployment = found["ScaledObject"]["spec"], found["Deployment"]
    trigger = scaled["triggers"][0]
    yield from (f"{key} is not a field of KEDA's SQS trigger" for key in trigger["metadata"].keys() - SQS_TRIGGER)
    if trigger["authenticationRef"]["name"] != found["TriggerAuthentication"]["metadata"]["name"]:
        yield "the trigger names a TriggerAuthentication that does not exist"
    if scaled["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
        yield "the ScaledObject names a Deployment that does not exist"

    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    maps = {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"}
    from_maps = maps.get(container["envFrom"][0]["configMapRef"]["name"], {})
    if trigger["metadata"]["queueURLFromEnv"] not in from_maps:
        yield "the trigger takes the queue from a variable that the worker does not have"
    if "logferry.toml" not in maps.get(pod["volumes"][0]["configMap"]["name"], {}):
        yield "the mounted ConfigMap has no logferry.toml"

    worker = settings["worker"]
    if int(trigger["metadata"]["queueLength"]) != 4 * worker["concurrency"]:
        yield "queueLength is not four times worker.concurrency"
    if settings["queue"]["max_hidden"] + worker["concurrency"] >= int(trigger["metadata"]["queueLength"]):
        yield "messages that wait hidden would start replicas: queue.max_hidden + worker.concurrency reaches queueLength"
    if trigger["metadata"].get("scaleOnDelayed") != "false":
        yield "messages that wait in the queue's delay would start replicas: scaleOnDelayed is not false"
    grace = re.fullmatch(r"(\d+)s", worker["grace_period"])
    if not grace or pod["terminationGracePeriodSeconds"] <= int(grace[1]):
        yield "terminationGracePeriodSeconds is not longer than worker.grace_period (in seconds)"
    port = settings["http"]["listen"].rpartition(":")[2]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    if {port} != {str(container["ports"][0]["containerPort"]), annotations["prometheus.io/port"]}:
        yield "the container's port, its annotation and http.listen differ"


def main(what, rendered, expected):
    with open(rendered, encoding="utf-8") as file:
        manifests = list(yaml.safe_load_all(file))
    with open(expected, "rb") as file:
        found = list(
            worker_problems(manifests, tomllib.load(file))
            if what == "worker"
            else monitoring_problems(manifests, yaml.safe_load(file))
        )
    for problem in found:
        print(f"{rendered}: {problem}", file=sys.stderr)
    sys.exit(bool(found))


main(*sys.argv[1:])
