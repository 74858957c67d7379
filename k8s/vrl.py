"""Runs the transforms of k8s/collector/base/vector.yaml as Vector does, with the VRL that the file has.

Usage: vrl.py tests VECTOR_YAML           runs the file's own `tests`
       vrl.py cases VECTOR_YAML CASES     runs a table of lines and pods through all transforms, and the lines with random changes
       vrl.py sample VECTOR_YAML LINES    says whether each line of a sample gets the time that its shape states
       vrl.py records VECTOR_YAML STAGING_YAML LINES
                                          prints the records and the keys of a sample's lines, as the collector writes them
"""

import base64
import datetime
import json
import random
import re
import sys

import yaml
from vrl_python import VRLRuntime

# A runtime for each program, because a runtime remembers only the last one that it has compiled.
RUNTIMES = {}
# The values that an overlay gives.
VALUES = {"tenant_label": "logferry/tenant", "cluster_id": "prod-cluster-1"}
# VRL in Python takes and gives no timestamps and no bytes. So a program begins by making them from text, and ends by making
# text of them. The condition hides the types from the compiler, because Vector's compiler does not know them either.
BEFORE = """
if exists(.timestamp) { .timestamp = parse_timestamp(.timestamp, "%+") ?? .timestamp }
if exists(.message_base64) { .message = decode_base64!(del(.message_base64)) }
"""
AFTER = """
if is_timestamp(.timestamp) { .timestamp = format_timestamp!(.timestamp, "%Y-%m-%dT%H:%M:%S%.9fZ") }
if is_string(.message) { .message_base64 = encode_base64(string!(.message)) }
.
"""


class Pipeline:
    """The transforms of a configuration."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.config = yaml.safe_load(re.sub(r"SECRET\[values\.(\w+)\]", lambda found: VALUES.get(found[1], "x"), text))
        self.transforms = self.config["transforms"]
        self.first = self.after("kubernetes")
        for name, transform in self.transforms.items():
            if transform["type"] == "remap":
                # Fails if the program does not compile without knowledge of the event.
                VRLRuntime("UTC").compile(transform["source"])
            elif transform["type"] != "route":
                raise ValueError(f"{name}: a transform of the type {transform['type']} cannot be run here")

    def after(self, name):
        """The transform that reads the output `name`; None if a sink reads it."""
        found = [other for other, transform in self.transforms.items() if name in transform["inputs"]]
        assert len(found) < 2, f"{name} has several readers"
        return found[0] if found else None

    def through(self, first, event, last=None, before=BEFORE, passed=None):
        """Sends an event through the transforms from `first` on. Returns the output that it leaves by, and the program that
        makes it what it is there. With `last`, stops at the output of that name. Adds the transforms to `passed`."""
        name, program = first, before
        while name:
            if passed is not None:
                passed.add(name)
            transform, output = self.transforms[name], name
            if transform["type"] == "remap":
                # A block keeps the variables of two transforms apart.
                program += "{\n" + transform["source"] + "\nnull\n}\n"
            else:
                output = f"{name}._unmatched"
                for route, condition in transform["route"].items():
                    if run(program + condition, event)[1] is True:
                        output = f"{name}.{route}"
            if output == last:
                return output, program
            name = self.after(output)
        return output, program


def run(program, event):
    result = RUNTIMES.setdefault(program, VRLRuntime("UTC")).execute(program, event)
    return result.processed_event, result.runtime_result


def run_tests(pipeline):
    """Runs the configuration's `tests`. Returns the problems."""
    tested = set()
    for test in pipeline.config["tests"]:
        reached = {}
        for given in test["inputs"]:
            assert given["type"] == "vrl", f"{test['name']}: only inputs of the type vrl can be run here"
            before = "\n" + given["source"] + "\nif exists(.nothing) { . = {} }\n"
            for output in test["outputs"]:
                wanted = output["extract_from"]
                passed = set()
                found, program = pipeline.through(given["insert_at"], {}, wanted, before, passed)
                if found == wanted:
                    reached.setdefault(wanted, []).append(program)
                    tested |= passed
            for silent in test.get("no_outputs_from", []):
                if pipeline.through(given["insert_at"], {}, silent, before)[0] == silent:
                    yield f"{test['name']}: an event leaves by {silent}"
        for output in test["outputs"]:
            programs = reached.get(output["extract_from"], [])
            if not programs:
                yield f"{test['name']}: no event leaves by {output['extract_from']}"
            for condition in output["conditions"]:
                assert condition["type"] == "vrl"
                for program in programs:
                    try:
                        if run(program + condition["source"], {})[1] is not True:
                            yield f"{test['name']}: the condition is not true"
                    except Exception as error:  # assert! ends the program
                        yield f"{test['name']}: {str(error).strip().splitlines()[0]}"
    yield from (f"no test sends an event through {name}" for name in pipeline.transforms.keys() - tested)


def nanoseconds(text):
    """A time in the one form that this program compares."""
    if isinstance(text, datetime.datetime):
        text = text.isoformat()
    whole, fraction, zone = re.fullmatch(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text).groups()
    moment = datetime.datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + (fraction or "").ljust(9, "0") + "Z"


def message_of(case):
    if "base64" in case:
        return base64.b64decode(case["base64"])
    line = case["line"]
    return line.encode() if isinstance(line, str) else line


def event_of(case, pod):
    kubernetes = {**pod, **case.get("pod", {})}
    event = {"kubernetes": {key: value for key, value in kubernetes.items() if value is not None}, "stream": "stdout"}
    event |= {"file": "/var/log/pods/x.log", "source_type": "kubernetes_logs"}
    if case.get("read") is not None:
        event["timestamp"] = nanoseconds(case["read"])
    message = message_of(case)
    if isinstance(message, bytes):
        event["message_base64"] = base64.b64encode(message).decode()
    else:
        event["message"] = message
    return event


def run_cases(pipeline, table):
    """Runs a table. Returns the problems."""
    for number, case in enumerate(table["lines"] + table["pods"], 1):
        case = {"read": table["read"], "line": "a line", **case}
        what = f"case {number} ({case.get('name') or case['line']!r:.80})"
        event = event_of(case, table["pod"])
        try:
            output, program = pipeline.through(pipeline.first, event)
            found, _ = run(program + AFTER, event)
        except Exception as error:
            yield f"{what}: the program ends with {error}"
            continue
        message = message_of(case)
        kept = base64.b64decode(found.pop("message_base64")) if isinstance(message, bytes) else found.get("message")
        if kept != message:
            yield f"{what}: the message has become {kept!r}"
        if "unroutable" in case:
            if output != "tenants._unmatched" or "customer_id" in found:
                yield f"{what}: leaves by {output}"
            continue
        wanted = {**table["fields"], **case.get("fields", {})}
        given = {name: value for name, value in found.items() if name not in ("message", "timestamp")}
        if output != "set_timestamp" or given != wanted:
            yield f"{what}: leaves by {output} with {given}, not {wanted}"
        time = nanoseconds(case["time"] if case.get("time") else case["read"]) if case["read"] else None
        if time and found.get("timestamp") != time:
            yield f"{what}: has the time {found.get('timestamp')}, not {time}"


def run_changed(pipeline, table, rounds=40):
    """Runs the table's lines with some bytes changed at random, the same ones every time. Whatever a line is, the programs must not
    fail, must keep the message, and may set only a time near the line's own. Returns the problems."""
    chance, own = random.Random(1), nanoseconds(table["read"])
    _, program = pipeline.through(pipeline.first, event_of({"read": own, "line": ""}, table["pod"]))
    parts = [b"{", b'"', b"}", b"[", b"-", b"+", b"0", b"9", b"T", b".", b":", b"\xff", b"\0", b"e9", b'"ts":', b"\\u0000", "\u0660".encode()]
    for case in table["lines"]:
        message = message_of(case)
        for _ in range(rounds if isinstance(message, bytes) else 0):
            changed = bytearray(message)
            for _ in range(chance.randint(1, 4)):
                start = chance.randint(0, len(changed))
                changed[start : start + chance.randint(0, 3)] = chance.choice(parts)
            event = event_of({"read": own, "base64": base64.b64encode(bytes(changed)).decode()}, table["pod"])
            try:
                found, _ = run(program + AFTER, event)
            except Exception as error:
                yield f"{bytes(changed)!r:.120}: the program ends with {error}"
                continue
            if base64.b64decode(found["message_base64"]) != changed or "time_text" in found:
                yield f"{bytes(changed)!r:.120}: the message or the fields have changed"
            ahead = seconds_of(found["timestamp"]) - seconds_of(own)
            if not -7 * 86400 <= ahead <= 2 * 3600:
                yield f"{bytes(changed)!r:.120}: has the time {found['timestamp']}"


def seconds_of(text):
    return datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def sample_table(path):
    """Lines of `sample once`, each after the name of its shape and the time that it states, as a table of cases."""
    lines = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            shape, stated, message = line.rstrip("\n").split("\t", 2)
            lines.append({"name": shape, "line": message} | ({} if stated == "-" else {"time": stated}))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    pod = {
        "namespace_labels": {VALUES["tenant_label"]: "acme-corp"},
        "pod_labels": {"app.kubernetes.io/name": "sample"},
        "pod_name": "sample-7d9f6c5b8b-x2x9q",
        "pod_namespace": "logferry-sample",
        "container_name": "sample",
    }
    fields = {"customer_id": "acme-corp", "cluster_id": VALUES["cluster_id"], "namespace": "logferry-sample"}
    fields |= {"application": "sample", "pod_name": pod["pod_name"], "container_name": "sample", "stream": "stdout"}
    return {"read": now, "pod": pod, "fields": fields, "lines": lines, "pods": []}


def records_of(pipeline, staging, table):
    """What the sink writes: its key's prefix, and the record as the codec json writes it."""
    with open(staging, encoding="utf-8") as file:
        template = yaml.safe_load(file)["sinks"]["staging"]["key_prefix"]
    for case in table["lines"]:
        event = event_of({"read": table["read"], **case}, table["pod"])
        record, _ = run(pipeline.through(pipeline.first, event)[1] + AFTER, event)
        del record["message_base64"]
        stated = nanoseconds(case.get("time", table["read"]))
        prefix = re.sub(r"\{\{ (\w+) \}\}", lambda found: record[found[1]], template)
        yield {"key_prefix": prefix, "record": record, "milliseconds": int(seconds_of(stated)) * 1000 + int(stated[20:23])}


def main(what, path, *rest):
    pipeline = Pipeline(path)
    if what == "records":
        print(json.dumps(list(records_of(pipeline, rest[0], sample_table(rest[1])))))
        return
    if what == "sample":
        table = sample_table(rest[0])
        problems, counted = list(run_cases(pipeline, table)), len(table["lines"])
    elif what == "tests":
        problems, counted = list(run_tests(pipeline)), len(pipeline.config["tests"])
    else:
        with open(rest[0], encoding="utf-8") as file:
            table = yaml.safe_load(file)
        problems, counted = list(run_cases(pipeline, table)), len(table["lines"]) + len(table["pods"])
        problems += run_changed(pipeline, table)
    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    print(f"{path}: {what}: {counted} run, {len(problems)} problems")
    sys.exit(bool(problems))


main(*sys.argv[1:])
