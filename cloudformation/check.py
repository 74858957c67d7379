"""Checks the templates beyond cfn-lint, and reads checkov's report.

Usage: check.py CHECKOV_REPORT, in the root of the repository. The report is JSON.
"""

import json
import pathlib
import re
import sys
import tomllib

import yaml

from templates import listed, templates as read, texts

# Actions of IAM whose call has another name. Source: Service Authorization Reference.
CALLS = {
    "ListBucket": ("HeadBucket", "ListObjectsV2"),
    "GetObjectVersion": ("version id", "GetObjectVersion"),
    "PutObjectAcl": ("ACL",),
    "BatchCheckLayerAvailability": ("Pull",),
    "BatchGetImage": ("Pull",),
    "GetDownloadUrlForLayer": ("Pull",),
}
# Statements of resource policies that allow nothing.
NEED_NO_CALL = {"NothingWithoutTls"}


def walk(value):
    """Yields every mapping and list below a value, itself included."""
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(child)


def nesting(templates):
    """main.yaml must give the nested templates what they need, and take from them what they have."""
    main = templates["main"]
    for name, resource in main["Resources"].items():
        child = templates[name.lower()]
        given, known = resource["Properties"]["Parameters"], child.get("Parameters", {})
        yield from (f"main.yaml gives {name} the unknown parameter {key}" for key in given.keys() - known.keys())
        needed = {key for key, parameter in known.items() if "Default" not in parameter}
        yield from (f"main.yaml does not give {name} the parameter {key}" for key in needed - given.keys())
        for key, value in given.items():
            own = main["Parameters"].get(value.get("Ref") if isinstance(value, dict) else None, {})
            if "Default" in own and "Default" in known.get(key, {}) and str(own["Default"]) != str(known[key]["Default"]):
                yield f"main.yaml and {name.lower()}.yaml have different defaults of {key}"
    for child, output in re.findall(r"\b(\w+)\.Outputs\.(\w+)", texts()["main"]):
        if output not in templates[child.lower()]["Outputs"]:
            yield f"main.yaml takes the unknown output {output} of {child}"


def settings(templates):
    """Workers get the same variables everywhere."""
    shell = templates["main"]["Outputs"]["Settings"]["Value"]["Fn::Sub"]
    shell = {line.split("=")[0] for line in shell.splitlines()}
    containers = templates["ecs"]["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"]
    task = {entry["Name"] for entry in containers[0]["Environment"] if "Name" in entry}
    function = templates["lambda"]["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
    # Lambda sets AWS_REGION itself, and refuses it here.
    function = function.keys() - {"LOGFERRY_WORKER__CONCURRENCY"} | {"AWS_REGION", "LOGFERRY_QUEUE__MAX_HIDDEN"}
    for where, names in (("ecs.yaml", task), ("lambda.yaml", function)):
        yield from (f"{where}: {name} is not in Settings of main.yaml, or only there" for name in sorted(shell ^ names))


def explained(name, lines):
    """The comment before each statement of a policy must name the calls that need its actions."""
    for number, line in enumerate(lines):
        if re.match(r"\s*- Effect:", line):
            yield f"{name}:{number + 1}: a statement without a Sid"
        found = re.match(r"\s*- Sid: (\w+)", line)
        if not found or found[1] in NEED_NO_CALL:
            continue
        above = number - 1
        while re.match(r"\s*- (Fn::If:|[A-Z][A-Za-z]+)$", lines[above]):
            above -= 1
        comment = []
        while lines[above].strip().startswith("#"):
            comment.append(lines[above].strip(" #"))
            above -= 1
        comment, where = " ".join(reversed(comment)), f"{name}:{number + 1}: {found[1]}"
        if not comment:
            yield f"{where}: no comment says which call needs the statement"
            continue
        depth, text = len(line) - len(line.lstrip()), []
        for further in lines[number + 1:]:
            if len(further) - len(further.lstrip()) <= depth:
                break
            text.append(further)
        actions = re.search(r"Action:(.*?)(Resource:|Principal:|Condition:|$)", " ".join(text), re.DOTALL)[1]
        for action in re.findall(r"(?:s3|sqs|sns|sts|dynamodb|logs|ecs|ecr|ssm):(\w+)", actions):
            if not any(call in comment for call in CALLS.get(action, (action,))):
                yield f"{where}: the comment does not name the call of {action}"


def partitions(name, lines):
    """ARNs and host names must hold in aws-cn and aws-us-gov too."""
    services = r"(s3|sns|ecs-tasks|lambda|scheduler|pods\.eks)\.amazonaws\.com\}"
    for number, line in enumerate(lines):
        text = line.split("#")[0] if not line.strip().startswith("#") else ""
        if re.search(r"(Sub|:|\")\s*\"?arn:aws", text) and "Description" not in text:
            yield f"{name}:{number + 1}: an ARN with a fixed partition"
        host = re.sub(services, "", text).replace("Default: sts.amazonaws.com", "")
        if "amazonaws.com" in host and "for example" not in host:
            yield f"{name}:{number + 1}: a host name with a fixed suffix"


def seconds(text):
    return sum(int(count) * {"s": 1, "m": 60, "h": 3600}[unit] for count, unit in re.findall(r"(\d+)([smh])", text))


def toml(path):
    return tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def numbers(templates):
    """Limits of the templates that depend on the program's defaults, on the manifests, or on each other."""
    config = toml("config/logferry.toml")
    queue, worker = config["queue"], config["worker"]
    waits = seconds(queue["max_age"]) + seconds(queue["max_retry_delay"])
    sqs, main = templates["sqs"]["Resources"], templates["main"]
    kept, letters = (sqs[name]["Properties"]["MessageRetentionPeriod"] for name in ("Queue", "DeadLetterQueue"))
    if kept <= waits:
        yield f"the queue keeps messages for {kept} s, and a worker retries them for {waits} s"
    if letters <= kept:
        yield "the dead-letter queue must keep messages longer than the queue"
    days = templates["core"]["Parameters"]["StagingDays"]["MinValue"]
    if days * 86400 < waits + letters:
        yield f"StagingDays may be {days}, and a dead letter needs its object for {(waits + letters) / 86400:.1f} days"
    if seconds(config["ledger"]["retention"]) < waits + letters:
        yield "ledger.retention is shorter than the life of a message and its dead letter"
    task = templates["ecs"]["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"][0]
    if task["StopTimeout"] <= seconds(worker["grace_period"]):
        yield "StopTimeout must be longer than worker.grace_period"
    compaction = templates["ecs"]["Resources"]["CompactionTask"]["Properties"]
    job = yaml.safe_load(pathlib.Path("k8s/worker/components/compaction/cron-job.yaml").read_text(encoding="utf-8"))
    limit = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    if int(compaction["Memory"]) < int(limit.removesuffix("Gi")) * 1024:
        yield f"CompactionTask has less memory than the limit of the CronJob, {limit}"
    port = config["http"]["listen"].rpartition(":")[2]
    [ingress] = templates["ecs"]["Resources"]["SecurityGroup"]["Properties"]["SecurityGroupIngress"]["Fn::If"][1]
    exposed = re.findall(r"^EXPOSE (.*)$", pathlib.Path("docker/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if {port} != {str(value) for value in (task["PortMappings"][0]["ContainerPort"], ingress["FromPort"], ingress["ToPort"], *exposed)}:
        yield f"ecs.yaml and docker/Dockerfile do not have the port {port} of http.listen"
    scaled = pathlib.Path("k8s/worker/components/keda/scaled-object.yaml").read_text(encoding="utf-8")
    if next(yaml.safe_load_all(scaled))["spec"]["maxReplicaCount"] != templates["ecs"]["Parameters"]["MaxTasks"]["Default"]:
        yield "MaxTasks is not KEDA's maxReplicaCount"
    hidden = next(int(entry["Value"]) for entry in task["Environment"] if entry.get("Name") == "LOGFERRY_QUEUE__MAX_HIDDEN")
    if templates["ecs"]["Parameters"]["BacklogPerTask"]["Default"] != worker["concurrency"] + hidden:
        yield "BacklogPerTask is not the sum of worker.concurrency and LOGFERRY_QUEUE__MAX_HIDDEN"
    mapping = main["Mappings"]["VisibilityTimeout"]
    if set(mapping) != set(main["Parameters"]["LambdaTimeout"]["AllowedValues"]):
        yield "VisibilityTimeout does not have the allowed values of LambdaTimeout"
    for timeout, visibility in mapping.items():
        if visibility["Seconds"] < 6 * int(timeout):
            yield f"the visibility timeout for functions of {timeout} s is less than six times that"


def keys(templates):
    """Collector, notification, policies and worker agree on the keys of objects."""
    default = {name: parameter.get("Default") for name, parameter in templates["core"]["Parameters"].items()}
    sinks = yaml.safe_load(pathlib.Path("k8s/collector/base/staging.yaml").read_text(encoding="utf-8"))["sinks"]
    for sink, parameter in (("staging", "KeyPrefix"), ("unroutable", "UnroutablePrefix")):
        if not sinks[sink]["key_prefix"].startswith(default[parameter]):
            yield f"the collector's sink {sink} does not write below {parameter}"
        if not f".{sinks[sink]['filename_extension']}".endswith(default["KeySuffix"]):
            yield f"the keys of the collector's sink {sink} do not end with KeySuffix"
    layout = templates["core"]["Outputs"]["KeyLayout"]["Value"]["Fn::Sub"].replace("${KeyPrefix}", default["KeyPrefix"])
    if layout != toml("k8s/worker/base/logferry.toml")["source"]["key_layout"]:
        yield "the output KeyLayout is not source.key_layout of k8s/worker/base/logferry.toml"
    quarantine = toml("config/logferry.toml")["quarantine"]["prefix"].partition("{")[0]
    for name in re.findall(r"QuarantineBucket\.Arn\}/(\w[^\s\"]*)", texts()["core"]):
        if not name.startswith(quarantine):
            yield f"a policy allows {name} in the quarantine bucket, and quarantine.prefix is {quarantine}"


def kept(templates):
    """docs/security.md says how long data is kept."""
    page = pathlib.Path("docs/security.md").read_text(encoding="utf-8")
    queues = (templates["sqs"]["Resources"][name]["Properties"]["MessageRetentionPeriod"] // 86400 for name in ("Queue", "DeadLetterQueue"))
    times = ["{} and {} days".format(*queues), f"`ledger.retention`, {seconds(toml('config/logferry.toml')['ledger']['retention']) // 86400} days"]
    times += (f"`{name}`, {templates['core']['Parameters'][name]['Default']}" for name in ("StagingDays", "QuarantineDays"))
    yield from (f"docs/security.md does not say that data is kept for {time}" for time in times if f"| {time} |" not in page)


def allowed(*policies):
    """The actions that the given policy documents allow, without those of KMS, which encrypt what other actions read and write."""
    found = set()
    for node in walk([policy for policy in policies]):
        if isinstance(node, dict) and node.get("Effect") == "Allow":
            found.update(action for action in listed(node["Action"]) if not action.startswith("kms:"))
    return found


def documented(page, heading):
    """The actions of IAM that a section of a page names in back-quotes. A bare name belongs to the service before it."""
    text = pathlib.Path("docs", page).read_text(encoding="utf-8")
    section = text[text.index(heading):]
    section = re.split(r"^## ", section[len(heading):], maxsplit=1, flags=re.MULTILINE)[0] if heading else section
    found, service = set(), None
    for name in re.findall(r"`([^`\n]+)`", section):
        if known := re.fullmatch(r"(s3|sqs|sns|dynamodb):([A-Z]\w+)", name):
            service = known[1]
            found.add(name)
        elif service == "dynamodb" and re.fullmatch(r"(Query|Scan|(Put|Update|Delete)Item)", name):
            found.add(f"dynamodb:{name}")
    return found


def permissions(templates):
    """The policies of the provider's side have exactly the actions that the pages of the commands list."""
    policies = {
        (file, name): resource["Properties"]["PolicyDocument"]
        for file in ("core", "sqs")
        for name, resource in templates[file]["Resources"].items()
        if resource["Type"] == "AWS::IAM::ManagedPolicy"
    }
    worker = allowed(policies["core", "DeliveryPolicy"], policies["sqs", "WorkerPolicy"]) - {"sts:AssumeRole"}
    wanted = documented("run.md", "## Credentials and permissions")
    yield from (f"docs/run.md and the worker's policies differ in {action}" for action in sorted(worker ^ wanted))
    operator = allowed(policies["core", "OperatorPolicy"], policies["sqs", "RedrivePolicy"])
    wanted = (
        documented("doctor.md", "## What it needs")
        | documented("doctor.md", "## What it leaves behind")
        | documented("dead-letters.md", "## What `redrive` does to the dead-letter queue")
        | documented("tenants.md", "# Add, change and remove a customer")
        | documented("ledger.md", "# Deliver an object again")
        | documented("replay.md", "# Deliver what the bucket has")
        | documented("shadow.md", "## Compare")
    )
    yield from (f"no page of a command lists {action} of the operator's policies" for action in sorted(operator - wanted))
    missing = wanted - operator - worker
    yield from (f"the operator's policies lack {action}, which a page of a command lists" for action in sorted(missing))


def checkov(templates, report):
    """Every check of checkov passes, or the template skips it with a reason and it would fail otherwise."""
    yield from (f"checkov cannot read {file}" for file in report["results"]["parsing_errors"])
    for check in report["results"]["failed_checks"]:
        yield f"{check['file_path'].strip('/')}: {check['resource']}: {check['check_id']} ({check['check_name']})"
    if report["summary"]["passed"] < 100:
        yield "checkov has read nothing"
    used = {
        (check["file_path"].strip("/"), check["resource"].split(".")[1], check["check_id"])
        for check in report["results"]["skipped_checks"]
    }
    for name, template in templates.items():
        for resource, content in template["Resources"].items():
            for skip in content.get("Metadata", {}).get("checkov", {}).get("skip", ()):
                where = f"{name}.yaml: {resource} skips {skip['id']}"
                if len(skip.get("comment", "")) < 30:
                    yield f"{where} without a reason"
                if (f"{name}.yaml", resource, skip["id"]) not in used:
                    yield f"{where}, which does not exist or does not apply"


def problems():
    templates = read()
    for name, text in texts().items():
        yield from explained(f"{name}.yaml", text.splitlines())
        yield from partitions(f"{name}.yaml", text.splitlines())
    yield from nesting(templates)
    yield from settings(templates)
    yield from numbers(templates)
    yield from keys(templates)
    yield from kept(templates)
    yield from permissions(templates)
    with open(sys.argv[1], encoding="utf-8") as file:
        yield from checkov(templates, json.load(file))


found = list(problems())
print(*(f"cloudformation/check.py: {problem}" for problem in found), sep="\n", end="\n" if found else "")
sys.exit(bool(found))
