"""Compares the calls of a test run with the policies of the templates, in both directions.

Usage: calls.py FOLDER [--write], in the root of the repository. Tests write the permissions that their calls needed into FOLDER,
if LOGFERRY_PERMISSIONS names it. docs/permissions.md must have the table that follows; with --write it gets the table.
"""

import json
import pathlib
import re
import sys

from templates import listed, templates

PAGE = pathlib.Path("docs/permissions.md")
MARKS = "<!-- The table is written by cloudformation/calls.py. -->\n", "<!-- End of the table. -->\n"
OPERATORS = ("doctor", "ledger", "manual", "redrive", "replay", "shadow", "tenant")
# The role of each caller: the commands of the provider's side, and the roles of the two hops. And the role's policies.
ROLES = {
    "worker": (("worker", "compact"), (("core", "DeliveryPolicy"), ("core", "WorkerRole"), ("core", "CompactionPolicy"), ("sqs", "WorkerPolicy"))),
    "Lambda function": (("lambda",), (("core", "DeliveryPolicy"), ("lambda", "Policy"))),
    "operator": (
        OPERATORS,
        (("core", "DeliveryPolicy"), ("core", "OperatorPolicy"), ("sqs", "WorkerPolicy"), ("sqs", "RedrivePolicy")),
    ),
    "central": ((), (("core", "CentralRole"),)),
    "customer": ((), (("customer", "Role"),)),
}
# Resources of the tests, by the ends of their names: see crates/testbed/src/provision.rs.
RECORDED = (
    (r":sqs:.*-dead-letters$", "dead-letter queue"),
    (r":sqs:.*-logs$", "queue"),
    (r":dynamodb:.*-tenants$", "tenant table"),
    (r":dynamodb:.*-ledger$", "ledger"),
    (r":s3:::[^/]*-staging$", "staging bucket"),
    (r":s3:::[^/]*-staging/.*logferry-doctor/$", "doctor's marker"),
    (r":s3:::[^/]*-staging/", "staged objects"),
    (r":s3:::[^/]*-staging-quarantine$", "quarantine bucket"),
    (r":s3:::[^/]*-staging-quarantine/.*logferry-doctor", "doctor's file in the quarantine"),
    (r":s3:::[^/]*-staging-quarantine/", "quarantine files"),
    (r":s3:::[^/]+/", "customer's objects"),
    (r":sns:.*-events$", "topic"),
    (r"^\*$", "any resource"),
    (r":role/(.*/)?[^/]*-central-log-distribution$", "central role"),
    (r":iam:.*:role/", "customers' roles"),
    (r":logs:.*:log-stream:.+", "log streams"),
    (r":logs:", "log group"),
)
# Resources that tests name and that do not exist, or are not the provider's.
OTHERS = re.compile(r"(nowhere|no-such-table|-missing|table/other-\w+|-staging-other|:s3:::[^/]+)$")
# Resources of the templates.
WRITTEN = (
    (r"StagingBucket\.Arn\}/\$\{KeyPrefix\}\*/logferry-doctor/", {"doctor's marker"}),
    (r"(StagingBucket\.Arn\}|-staging-\*)/\$\{KeyPrefix\}\*", {"staged objects", "doctor's marker"}),
    (r"QuarantineBucket\.Arn\}/quarantine/logferry-doctor/", {"doctor's file in the quarantine"}),
    (r"QuarantineBucket\.Arn\}/quarantine/\*", {"quarantine files", "doctor's file in the quarantine"}),
    (r"StagingBucket", {"staging bucket"}),
    (r"QuarantineBucket", {"quarantine bucket"}),
    (r"TenantTable", {"tenant table"}),
    (r"LedgerTable", {"ledger"}),
    (r"DeadLetter", {"dead-letter queue"}),
    (r"Queue", {"queue"}),
    (r"Topic", {"topic"}),
    (r'^"\*"$', {"any resource"}),
    (r"role/logferry-\$\{Environment\}-central", {"central role"}),
    (r"CustomerRoles|::\*:role/", {"customers' roles"}),
    (r"CopyTargets", {"customer's objects"}),
    (r"LakeBucketName\}/", {"customer's objects"}),
    (r"LakeBucketName\}", {"customer's bucket"}),
    (r"LogGroupName", {"log group", "log streams"}),
)
# Calls that no shipped policy allows, and why.
NOT_SHIPPED = {
    ("customer", "logs:CreateLogGroup"): "customer.yaml creates the group",
    ("customer", "logs:PutRetentionPolicy"): "customer.yaml sets the retention",
    ("customer", "s3:"): "the bucket's policy in customer.yaml lets the central role copy, for rows without a role",
    ("worker", "logs:"): "rows of the provider's own account need no second hop; their roles are the provider's matter",
    ("Lambda function", "logs:"): "rows of the provider's own account need no second hop; their roles are the provider's matter",
}
# Permissions that a role has and no call of a test needs, and why the role has them.
NOT_SEEN = {
    ("Lambda function", "sqs:ReceiveMessage", "queue"): "Lambda's event source mapping receives with the function's role",
    ("Lambda function", "sqs:DeleteMessage", "queue"): "Lambda's event source mapping deletes with the function's role",
    ("Lambda function", "sqs:GetQueueAttributes", "queue"): "Lambda's event source mapping reads the queue's length with the function's role",
    ("Lambda function", "s3:ListBucket", "staging bucket"): "not called, but with it S3 answers 404 for a missing object, not 403",
    ("customer", "s3:ListBucket", "customer's bucket"): "`compact` lists the lake's folders; the record leaves out the buckets of customers",
}


def recorded(folder):
    """Yields (role, command, action, resource) of each call."""
    for file in pathlib.Path(folder).glob("*.tsv"):
        for line in file.read_text(encoding="utf-8").splitlines():
            application, caller, action, resource = line.split("\t")
            command = application.removeprefix("logferry-")
            kind = next((kind for pattern, kind in RECORDED if re.search(pattern, resource)), None)
            if OTHERS.search(resource) and kind in (None, "tenant table", "ledger", "queue", "dead-letter queue", "customer's objects"):
                continue
            if kind is None:
                sys.exit(f"cloudformation/calls.py: a test calls {action} on {resource}, which RECORDED does not know")
            if re.search(r":role/(.*/)?[^/]*-central-log-distribution$", caller):
                role = "central"
            elif re.search(r":role/(.*/)?[^/]*-logferry-worker$|:root$", caller):
                role = next(role for role, (commands, _) in ROLES.items() if command in commands)
            else:
                role = "customer"
            # A customer's bucket may have the name of a staging bucket, and a test may have a further staging bucket.
            if kind in ("customer's objects", "staged objects") and action in ("s3:PutObject", "s3:PutObjectAcl"):
                kind = "customer's objects"
            elif kind == "customer's objects" and role not in ("central", "customer"):
                kind = "staged objects"
            yield role, command, action, kind


def statements(resource):
    """The statements of a managed policy, or of a role's own policies."""
    properties = resource["Properties"]
    policies = properties.get("Policies", [properties])
    for policy in policies:
        for statement in policy["PolicyDocument"]["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def allowed(policies, files):
    """Yields (policy, statement, action, resource) of what the policies allow. Keys of KMS encrypt what other actions read and write."""
    for file, name in policies:
        for statement in statements(files[file]["Resources"][name]):
            actions = [action for action in listed(statement["Action"]) if not action.startswith("kms:")]
            if statement["Effect"] != "Allow" or not actions:
                continue
            for resource in listed(statement["Resource"]):
                text = json.dumps(resource)
                if "${LogGroup.Arn}" in text:
                    continue  # The function's own log.
                kinds = next((kinds for pattern, kinds in WRITTEN if re.search(pattern, text)), None)
                if kinds is None:
                    sys.exit(f"cloudformation/calls.py: {file}.yaml: {statement['Sid']} names {text}, which WRITTEN does not know")
                for action in actions:
                    yield name, statement["Sid"], action, kinds


def main():
    calls = {}
    for role, command, action, kind in recorded(sys.argv[1]):
        calls.setdefault((role, action, kind), set()).add(command)
    if not calls:
        sys.exit(f"cloudformation/calls.py: {sys.argv[1]} has no calls")
    files, problems, rows, shipped = templates(), [], [], set()
    for role, (_, policies) in ROLES.items():
        permitted = list(allowed(policies, files))
        shipped |= {(role, action, kind) for _, _, action, kinds in permitted for kind in kinds}
        for (caller, action, kind), commands in sorted(calls.items()):
            reasons = [why for (of, start), why in NOT_SHIPPED.items() if of == caller and action.startswith(start)]
            if caller == role and not reasons and not any(action == known and kind in kinds for _, _, known, kinds in permitted):
                problems.append(f"the role {role!r} lacks {action} on {kind}, which is called by {', '.join(sorted(commands))}")
        for policy, sid, action, kinds in permitted:
            commands = set().union(*(calls.get((role, action, kind), set()) for kind in kinds))
            reasons = [NOT_SEEN[role, action, kind] for kind in kinds if (role, action, kind) in NOT_SEEN]
            if not (commands or reasons):
                problems.append(f"no test needs {action} on {' or '.join(sorted(kinds))} for the role {role!r}, which {policy}: {sid} allows")
            needed = ", ".join(f"`{command}`" for command in sorted(commands)) or "; ".join(reasons)
            rows.append(f"| {role} | {policy}: {sid} | `{action}` | {', '.join(sorted(kinds))} | {needed} |\n")
    problems.extend(f"NOT_SEEN has {' '.join(reason)}, which a test needs" for reason in NOT_SEEN if reason in calls)
    problems.extend(f"NOT_SEEN has {' '.join(reason)}, which no policy allows" for reason in NOT_SEEN if reason not in shipped)
    table = "| Role | Statement | Action | Resource | Called by, or the reason |\n|---|---|---|---|---|\n" + "".join(dict.fromkeys(rows))
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    written, after = rest.split(MARKS[1])
    if "--write" in sys.argv:
        PAGE.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")
    elif written != table:
        problems.append(f"the table of {PAGE} is old: run cloudformation/calls.py {sys.argv[1]} --write")
    print(*(f"cloudformation/calls.py: {problem}" for problem in problems), sep="\n", end="\n" if problems else "")
    if not problems:
        print(f"cloudformation/calls.py: {len(calls)} calls and {len(set(rows))} permissions agree")
    sys.exit(bool(problems))


main()
