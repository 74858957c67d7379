"""Checks of the collector for check.py: Vector's configuration, its manifests, its alerts, and what the worker must have."""

import pathlib
import re
import tomllib

import yaml

BASE = pathlib.Path("k8s/collector/base")
# Vector's own metrics that the alerts may name, as its exporter names them. Source: Vector's documentation of internal_metrics and
# its changelog up to 0.59.
METRICS = {
    "vector_component_errors_total", "vector_component_discarded_events_total", "vector_component_received_events_total",
    "vector_component_sent_events_total", "vector_buffer_size_bytes", "vector_buffer_discarded_events_total",
    "vector_files_unwatched_bytes_unread_total",
    "kube_daemonset_status_number_unavailable",
}
# A sink of the overlay `local` may differ in these.
LOCAL = {"bucket", "region", "endpoint", "auth", "batch"}


def used_values(text):
    return set(re.findall(r"SECRET\[values\.(\w+)\]", text))


def problems(name, manifests, data_of):
    """Problems of a rendered overlay."""
    files = data_of(manifests, "logferry-collector")
    values = data_of(manifests, "logferry-collector-values")
    used = used_values(files["vector.yaml"] + files["staging.yaml"])
    if used - values.keys() and not name.endswith("-base"):
        yield f"values are missing: {sorted(used - values.keys())}"
    if name.endswith("-production") and values.keys() - used:
        yield f"values that nothing uses: {sorted(values.keys() - used)}"
    yield from (f"the value {key} is empty" for key, value in values.items() if not value.strip())
    for file, text in files.items():
        if "${" in text or "dangerously_" in text:
            yield f"{file} has a variable of the environment, or an option that begins with dangerously_"

    [daemon_set] = [manifest for manifest in manifests if manifest["kind"] == "DaemonSet"]
    pod = daemon_set["spec"]["template"]["spec"]
    container = pod["containers"][0]
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    vector = yaml.safe_load(files["vector.yaml"])
    if paths["data"] != vector["data_dir"] or paths["values"] != vector["secret"]["values"]["path"]:
        yield "data_dir or the path of the values is not where the DaemonSet mounts it"
    if sorted(container["args"][1::2]) != sorted(f"{paths['config']}/{file}" for file in files):
        yield "Vector does not read exactly the files of its ConfigMap"
    port = vector["sinks"]["metrics"]["address"].rpartition(":")[2]
    annotations = daemon_set["spec"]["template"]["metadata"]["annotations"]
    if {port} != {str(container["ports"][0]["containerPort"]), annotations["prometheus.io/port"]}:
        yield "the container's port, its annotation and the address of the sink metrics differ"
    read_only = {mount["name"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    if paths.keys() - read_only != {"data"} or not container["securityContext"]["readOnlyRootFilesystem"]:
        yield "something other than the folder of the buffer can be written"
    [role] = [manifest for manifest in manifests if manifest["kind"] == "ClusterRole"]
    if role["rules"] != [{"apiGroups": [""], "resources": ["namespaces", "nodes", "pods"], "verbs": ["list", "watch"]}]:
        yield "the ClusterRole does not have exactly the verbs that kubernetes_logs uses"
    yield from pipeline_problems({**vector, "sinks": vector["sinks"] | yaml.safe_load(files["staging.yaml"])["sinks"]})


def pipeline_problems(vector):
    """Every output is read, and every input exists."""
    outputs = set(vector["sources"])
    for name, transform in vector["transforms"].items():
        routes = [*transform["route"], "_unmatched"] if transform["type"] == "route" else None
        outputs |= {f"{name}.{route}" for route in routes} if routes else {name}
    inputs = {name for part in ("transforms", "sinks") for other in vector[part].values() for name in other["inputs"]}
    yield from (f"Vector: {name} is read, and does not exist" for name in sorted(inputs - outputs))
    yield from (f"Vector: nothing reads {name}, so its events are lost" for name in sorted(outputs - inputs))


def problems_of_files(worker, data_of):
    """Problems that are the same in every overlay. `worker` are the manifests of the worker."""
    vector = yaml.safe_load((BASE / "vector.yaml").read_text())
    sinks = yaml.safe_load((BASE / "staging.yaml").read_text())["sinks"]
    staging, settings = sinks["staging"], tomllib.loads(data_of(worker, "logferry-worker")["logferry.toml"])["source"]

    names = {"customer_id": "tenant", "cluster_id": "cluster", "application": "application", "pod_name": "pod"}
    layout = re.sub(r"\{\{ (\w+) \}\}", lambda found: "{" + names.get(found[1], found[1]) + "}", staging["key_prefix"]) + "{file}"
    if settings["key_layout"] != layout:
        yield f"the worker's source.key_layout is {settings['key_layout']}, and the collector's keys are {layout}"
    if sinks["unroutable"]["key_prefix"].startswith(staging["key_prefix"].partition("{")[0]):
        yield "lines without a tenant go to the prefix that the worker reads"
    longest, unit = re.fullmatch(r"(\d+) (MiB)", settings["max_record"]).groups()
    if 6 * vector["sources"]["kubernetes"]["max_merged_line_bytes"] + 65536 > int(longest) * 1024**2:
        yield f"a line of max_merged_line_bytes can be longer than source.max_record ({longest} {unit})"
    buffer = staging["buffer"]
    if (buffer["type"], buffer["max_size"], buffer["when_full"]) != ("disk", 10 * 1024**3, "block"):
        yield "the sink staging has no disk buffer of 10 GiB that blocks"
    if any(sink["retry_strategy"] != {"type": "all"} or "request" in sink for sink in sinks.values()):
        yield "a sink does not retry every error without end"

    local = yaml.safe_load(pathlib.Path("k8s/collector/overlays/local/staging.yaml").read_text())["sinks"]
    for name in sinks.keys() | local.keys():
        both = [{key: value for key, value in one.get(name, {}).items() if key not in LOCAL} for one in (sinks, local)]
        if both[0] != both[1]:
            yield f"the sink {name} of the overlay local differs from the base in more than {sorted(LOCAL)}"
    image = yaml.safe_load(pathlib.Path("k8s/collector/overlays/local/kustomization.yaml").read_text())["images"][0]
    if f"FROM {image['newName']}:{image['newTag']}\n" not in pathlib.Path("docker/collector.Dockerfile").read_text():
        yield "the overlay local and docker/collector.Dockerfile have different versions of Vector"
    yield from alert_problems(buffer["max_size"], vector, sinks)


def alert_problems(buffer_size, vector, sinks):
    page = pathlib.Path("docs/collector.md").read_text()
    tests = pathlib.Path("observability/collector-rules_test.yaml").read_text()
    sections = {section.partition("\n")[0]: section for section in page.split("\n### ")[1:]}
    alerts = {}
    for file, manifest in {
        "rules.yaml": "k8s/worker/components/monitoring",
        "collector-rules.yaml": "k8s/collector/components/monitoring",
    }.items():
        rules = yaml.safe_load(pathlib.Path("observability", file).read_text())
        if yaml.safe_load(pathlib.Path(manifest, "prometheus-rule.yaml").read_text())["spec"] != rules:
            yield f"{manifest}: the PrometheusRule differs from observability/{file}: run k8s/generate"
        if file != "rules.yaml":
            alerts |= {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    if sections.keys() != alerts.keys():
        yield f"docs/collector.md has not exactly the alerts as sections: {sorted(sections.keys() ^ alerts.keys())}"
    for name, rule in alerts.items():
        parts = [part for part in ("**Means:**", "**Impact:**", "**Do:**", "**Escalate**") if part not in sections.get(name, "")]
        if parts:
            yield f"docs/collector.md: {name} has no {parts}"
        if not re.search(rf'labels: .ALERTS{{alertname="{name}", alertstate="firing"', tests):
            yield f"no case of collector-rules_test.yaml expects {name}"
        if rule["annotations"].keys() != {"summary", "description", "impact", "runbook_url"}:
            yield f"{name}: its annotations are not complete"
        if not rule["annotations"]["runbook_url"].endswith(f"/docs/collector.md#{name.lower()}"):
            yield f"{name}: runbook_url is not the address of its section"
        unknown = set(re.findall(r"\b(?:vector|kube|logferry)_\w+", rule["expr"])) - METRICS
        yield from (f"{name}: {metric} is not a metric that is known" for metric in sorted(unknown))
    if f"> {buffer_size // 2}\n" not in alerts["LogferryCollectorBufferFills"]["expr"] + "\n":
        yield "LogferryCollectorBufferFills does not fire at half of the buffer"
    components = {*vector["sources"], *vector["transforms"], *vector["sinks"], *sinks}
    for name, rule in alerts.items():
        unknown = set(re.findall(r'\b(?:component|buffer)_id!?="(\w+)"', rule["expr"])) - components
        yield from (f"{name}: {component} is no component of Vector's" for component in sorted(unknown))
    [before] = sinks["staging"]["inputs"]
    if f'vector_component_sent_events_total{{component_id="{before}"}}' not in alerts["LogferryCollectorWritesNothing"]["expr"]:
        yield f"LogferryCollectorWritesNothing does not count what {before} sends to the buffer of the sink staging"
