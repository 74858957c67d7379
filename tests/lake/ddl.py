"""Checks what `logferry lake ddl` prints. The script `ddl` beside this file calls it.

Every statement is parsed in Athena's dialect. The templates have the same tables, and cfn-lint accepts them. Then lakes are
written whose folders are in every state of a compaction, duckdb gets the tables as the statements describe them, and the view
must show each record exactly once. Last, the queries of docs/lake.md run on generated records, and their results are compared
with what Python calculates.

duckdb has no partition projection. So this script reads a table's files by its own properties: a file belongs to the table if
its folder matches `storage.location.template`, and the values are those that the projection has.
"""

import base64
import collections
import datetime
import gzip
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import duckdb
import pyarrow
import pyarrow.parquet
import sqlglot
from sqlglot import exp

LOGFERRY, CFN_LINT = os.environ["LOGFERRY"], os.environ["CFN_LINT"]
REGIONS = ("us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1")
UTC = datetime.timezone.utc
STRINGS = ("message", "tenant", "cluster", "application", "pod", "stream", "namespace", "container", "node", "level", "rest")
SCHEMA = pyarrow.schema(
    [pyarrow.field("timestamp", pyarrow.timestamp("ms", tz="UTC"), nullable=False)]
    + [pyarrow.field(name, pyarrow.string()) for name in STRINGS]
)
APPLICATIONS = ("web", "api", "worker")
# The day on which the queries of the page run.
TODAY = datetime.date(2026, 11, 28)

failures = []


def fail(text):
    failures.append(text)
    print(f"tests/lake/ddl: {text}", file=sys.stderr)


# -- The program's output

def row(**fields):
    return {
        "tenant_id": "acme", "type": "s3#lake", "enabled": True, "target_region": "us-east-1", "bucket_name": "acme-lake",
        "bucket_prefix": "logs/", "bucket_owner": "222222222222", "format": "parquet", **fields,
    }


def ddl(given, *options):
    command = [LOGFERRY, "lake", "ddl", "--row", "-", "--since", "2025", *options]
    return subprocess.run(command, input=json.dumps(given), check=True, capture_output=True, text=True).stdout


class Lake:
    """The tables of one row, parsed."""

    def __init__(self, given, *options):
        self.given = given
        self.statements = json.loads(ddl(given, *options, "--format", "json"))
        trees = [sqlglot.parse_one(statement, dialect="athena") for statement in self.statements]
        for statement, tree in zip(self.statements, trees):
            # sqlglot keeps what it does not understand as a command.
            if not isinstance(tree, exp.Create):
                fail(f"not understood: {statement}")
        if ";\n\n".join(self.statements) + ";\n" != ddl(given, *options):
            fail(f"--format json and --format sql differ for {given}")
        kinds = [tree.args["kind"] for tree in trees]
        if kinds != ["DATABASE", "TABLE", "TABLE", "VIEW"]:
            fail(f"the statements create {kinds}")
        self.files, self.manifests = Table(trees[1]), Table(trees[2])
        self.view = trees[3]
        self.template(json.loads(ddl(given, *options, "--format", "cloudformation")))

    def template(self, template):
        """The template has the same tables as the statements, and cfn-lint accepts it."""
        with tempfile.NamedTemporaryFile("w", suffix=".template.json") as file:
            json.dump(template, file)
            file.flush()
            linted = subprocess.run([CFN_LINT, "--regions", *REGIONS, "--", file.name], capture_output=True, text=True)
        if linted.returncode:
            fail(f"cfn-lint: {linted.stdout}{linted.stderr}")
        tables = {name: resource["Properties"]["TableInput"] for name, resource in template["Resources"].items() if name != "LakeDatabase"}
        for table, found in ((self.files, tables["LakeFiles"]), (self.manifests, tables["LakeManifests"])):
            pairs = lambda columns: [(column["Name"], "".join(column["Type"].split())) for column in columns]
            compare("columns of the template", table.columns, pairs(found["StorageDescriptor"]["Columns"]))
            compare("partitions of the template", table.partitions, pairs(found["PartitionKeys"]))
            compare("properties of the template", table.properties | {"EXTERNAL": "TRUE"}, found["Parameters"])
            compare("location of the template", table.location, found["StorageDescriptor"]["Location"])
        join = tables["LakeView"]["ViewOriginalText"]["Fn::Join"][1]
        # What CloudFormation makes of the join is what Athena reads.
        text = join[0] + base64.b64encode(join[1]["Fn::Base64"].encode()).decode() + join[2]
        found = re.fullmatch(r"/\* Presto View: ([A-Za-z0-9+/=]+) \*/", text)
        view = json.loads(base64.b64decode(found[1]))
        if sqlglot.parse_one(view["originalSql"], dialect="athena") != self.view.expression:
            fail("the view of the template is not the view of the statements")
        names = [column["name"] for column in view["columns"]]
        compare("columns of the view", self.view.expression.named_selects, names)
        compare("columns of the view", names, [column["Name"] for column in tables["LakeView"]["StorageDescriptor"]["Columns"]])
        self.shown = {column["name"]: column["type"] for column in view["columns"]}


class Table:
    """An external table, as its statement describes it."""

    def __init__(self, tree):
        self.name = tree.this.this.name
        properties = tree.args["properties"].expressions
        plain = lambda kind: "".join(kind.sql("hive").lower().split())
        columns = lambda definitions: [(column.name, plain(column.kind)) for column in definitions]
        self.columns = columns(tree.this.expressions)
        self.types = {column.name: column.kind.sql("duckdb") for column in tree.this.expressions}
        self.partitions, self.properties, self.location, self.serde = [], {}, None, None
        for found in properties:
            match found:
                case exp.PartitionedByProperty():
                    self.partitions = columns(found.this.expressions)
                case exp.LocationProperty():
                    self.location = found.this.this
                case exp.RowFormatSerdeProperty():
                    self.serde = found.this.this
                case exp.FileFormatProperty() | exp.ExternalProperty() | exp.SerdeProperties():
                    pass
                case exp.Property():
                    self.properties[found.this.this] = found.args["value"].this
                case other:
                    fail(f"{self.name} has {other!r}")
        serde = tree.find(exp.SerdeProperties)
        pairs = serde.expressions if serde else []
        self.mappings = {pair.this.this.removeprefix("mapping."): pair.args["value"].this for pair in pairs}

    def values(self, key):
        """The values of the partitions of a file, or None if the file is not in the table."""
        template = self.properties["storage.location.template"]
        if not template.endswith("/") or set(re.findall(r"\$\{(\w+)\}", template)) != {name for name, _ in self.partitions}:
            fail(f"{self.name} has the template {template}")
        parts = re.split(r"\$\{(\w+)\}", template)
        pattern = "".join(f"(?P<{part}>[^/]*?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
        found = re.fullmatch(pattern + "[^/]+", key)
        if not found or not all(self.projected(name, value) for name, value in found.groupdict().items()):
            return None
        return {name: int(found[name]) if kind == "int" else found[name] for name, kind in self.partitions}

    def projected(self, name, value):
        of = {key.removeprefix(f"projection.{name}."): value for key, value in self.properties.items() if key.startswith(f"projection.{name}.")}
        match of["type"]:
            case "integer":
                first, last = map(int, of["range"].split(","))
                return value.isdigit() and len(value) == int(of["digits"]) and first <= int(value) <= last
            case "enum":
                return value in of["values"].split(",")
            case "date":
                first, last = of["range"].split(",")
                assert last.startswith("NOW+1")
                # Java's letters as Python's.
                form = re.sub(r"'([^']*)'", r"\1", of["format"])
                for java, python in (("yyyy", "%Y"), ("MM", "%m"), ("dd", "%d"), ("HH", "%H")):
                    form = form.replace(java, python)
                try:
                    return datetime.datetime.strptime(value, form) >= datetime.datetime.strptime(first, form)
                except ValueError:
                    return False
            case "injected":
                return True
        fail(f"{self.name} projects {name} as {of}")
        return False

    def fill(self, database, root, bucket, ending):
        """Creates the table in duckdb with the rows of all its files whose names have this ending."""
        columns = [f'"{name}" {"TIMESTAMP" if kind == "TIMESTAMP" else kind}' for name, kind in self.types.items()]
        columns += [f'"{name}" {"INTEGER" if kind == "int" else "VARCHAR"}' for name, kind in self.partitions]
        database.execute(f'CREATE OR REPLACE TABLE {self.name} ({", ".join(columns)}, "$path" VARCHAR)')
        for file in sorted(path for path in root.rglob("*") if path.is_file() and path.name.endswith(ending)):
            key = f"s3://{bucket}/{file.relative_to(root)}"
            values = self.values(key)
            if values is None:
                continue
            names = ", ".join(f'"{self.mappings.get(name, name)}"' for name in self.types)
            if self.serde:
                types = {self.mappings.get(name, name): kind for name, kind in self.types.items()}
                source = f"read_json($file, format = 'newline_delimited', columns = {types})"
            else:
                source = "read_parquet($file, hive_partitioning = false)"
            partitions = "".join(f", ${name}" for name in values)
            database.execute(f"INSERT INTO {self.name} SELECT {names}{partitions}, $path FROM {source}", {"file": str(file), "path": key, **values})


def compare(what, wanted, found):
    if wanted != found:
        fail(f"{what}: {found}, not {wanted}")


def duckdb_sql(tree):
    """A query for Athena as a query for duckdb. Names have no database, and today is the day of the page."""
    def changed(node):
        if isinstance(node, exp.CurrentDate):
            return exp.cast(exp.Literal.string(TODAY.isoformat()), "date")
        if isinstance(node, exp.Table):
            node.set("db", None)
        if isinstance(node, exp.Length) and isinstance(node.this, exp.Encode):
            # duckdb's length is not for bytes.
            return exp.Anonymous(this="strlen", expressions=[node.this.this])
        if isinstance(node, exp.FromISO8601Timestamp):
            # Trino's function drops further digits; duckdb would round them when it casts.
            time = exp.Cast(this=node.this, to=exp.DataType.build("timestamptz"))
            return exp.Anonymous(this="date_trunc", expressions=[exp.Literal.string("millisecond"), time])
        return node
    return tree.transform(changed).sql("duckdb")


def database_of(lake, root, ending=""):
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    for table in (lake.files, lake.manifests):
        table.fill(database, root, lake.given["bucket_name"], ending)
    database.execute(f"CREATE VIEW logs AS {duckdb_sql(lake.view.expression)}")
    return database


# -- Lakes

def record(moment, application, pod, number, message, **more):
    return {
        "timestamp": moment, "message": message, "tenant": "acme", "cluster": "c1", "application": application, "pod": pod,
        "stream": "stdout", "namespace": "shop", "container": application, "node": f"node-{number % 3}", "level": None, "rest": None, **more,
    }


def key_of(given, record, name):
    """The key of a file by the row's layout."""
    layout = given.get("layout", "source={application}/year=YYYY/month=MM/day=DD/hour=HH/{file}")
    moment = record["timestamp"]
    for letters, value in (("YYYY", moment.strftime("%Y")), ("MM", moment.strftime("%m")), ("DD", moment.strftime("%d")), ("HH", moment.strftime("%H"))):
        layout = layout.replace(letters, value)
    for label in ("tenant", "cluster", "application", "pod"):
        layout = layout.replace(f"{{{label}}}", record[label])
    ending = "parquet" if given["format"] == "parquet" else "ndjson.gz"
    return given["bucket_prefix"] + layout.replace("{file}", f"{name}.{ending}")


def vector(record):
    """A record as Vector writes it."""
    pod = {"pod_name": record["pod"], "pod_namespace": record["namespace"], "container_name": record["container"], "pod_node_name": record["node"]}
    written = {
        "customer_id": record["tenant"], "cluster_id": record["cluster"], "application": record["application"], "pod_name": record["pod"],
        # Nanoseconds, and another time zone: the view has milliseconds in UTC.
        "timestamp": record["timestamp"].astimezone(datetime.timezone(datetime.timedelta(hours=2))).isoformat(timespec="microseconds").replace("+", "123+"),
        "message": record["message"], "stream": record["stream"], "kubernetes": pod | {"pod_labels": {"app.kubernetes.io/name": "x"}}, "unknown": [1, {"a": None}],
    }
    return written | ({"level": record["level"].upper()} if record["level"] else {})


def write(root, given, key, records):
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    if given["format"] == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, SCHEMA), path, compression="zstd")
        return
    members = given.get("fields", "all")
    keep = lambda written: written if members == "all" else {name: written[name] for name in members.split(",") if name in written}
    path.write_bytes(gzip.compress("".join(json.dumps(keep(vector(record))) + "\n" for record in records).encode()))


def write_manifest(root, given, key, lines):
    """The manifest of the folder of `key`."""
    folder = key.removeprefix(given["bucket_prefix"]).split("/")[:-1]
    times = [segment for segment in folder if re.search(r"^(year|month|day|hour|dt|at)=", segment)]
    path = root / given["bucket_prefix"] / "manifests" / "/".join(times) / f"{abs(hash(key)):016x}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


# States of a folder: what is there of two sources, of the merged file and of the manifest. A later small file is always there.
STATES = {
    "no compaction": {"sources": 2, "merged": 0, "state": None},
    "a merge that has begun": {"sources": 2, "merged": 0, "state": "merging"},
    "a merge that has written its file": {"sources": 2, "merged": 1, "state": "merging"},
    "a file of a merge that was given up": {"sources": 2, "merged": 1, "state": "abandoned"},
    "a file that no manifest knows": {"sources": 2, "merged": 1, "state": None},
    "merged, sources there": {"sources": 2, "merged": 1, "state": "merged"},
    "merged, one source gone": {"sources": 1, "merged": 1, "state": "merged"},
    "merged, sources gone": {"sources": 0, "merged": 1, "state": "merged"},
    "merged, and a source came back": {"sources": 1, "merged": 1, "state": "merged"},
    "replaced by a file that no line calls merged": {"sources": 2, "merged": 1, "state": "replaced"},
    "merged twice": {"sources": 2, "merged": 1, "state": "merged", "again": True},
}


def compactions(root, given):
    """Writes an hour for each state. Returns the records."""
    records, bucket, at = [], given["bucket_name"], "2026-12-31T08:00:00Z"
    for number, (application, (name, state)) in enumerate(itertools.product(APPLICATIONS, STATES.items())):
        # Eight hours before and after the end of a year.
        start = datetime.datetime(2026, 12, 31, 20, tzinfo=UTC) + datetime.timedelta(hours=number % len(STATES))
        files = []
        for file in range(3):
            label = lambda index: f"{name}: {application}, file {file}, record {index}, it's \"quoted\" 日本"
            files.append([record(start + datetime.timedelta(minutes=file, milliseconds=123), application, f"{application}-0", index, label(index)) for index in range(5)])
        records += itertools.chain(*files)
        keys = [key_of(given, files[0][0], f"{number}-{file}") for file in range(3)]
        merged, again = (key_of(given, files[0][0], f"compacted-{hash:016x}") for hash in (number, 1000 + number))
        for key, content in list(zip(keys, files))[2 - state["sources"]:]:
            write(root, given, key, content)
        uri = lambda key: f"s3://{bucket}/{key}"
        replaced = lambda keys, by: [{"file": uri(key), "state": "replaced", "at": at, "by": uri(by), "records": 5, "etag": "\"e\""} for key in keys]
        if state["merged"]:
            write(root, given, merged, files[0] + files[1])
        if state["state"] == "merging":
            write_manifest(root, given, merged, [{"file": uri(merged), "state": "merging", "at": at, "merge": "d5a1", "sources": [uri(key) for key in keys[:2]]}])
        if state["state"] == "abandoned":
            write_manifest(root, given, merged, [{"file": uri(merged), "state": "abandoned", "at": at}])
        if state["state"] == "merged":
            write_manifest(root, given, merged, replaced(keys[:2], merged) + [{"file": uri(merged), "state": "merged", "at": at}])
        if state["state"] == "replaced":
            write_manifest(root, given, merged, replaced(keys[:2], merged))
        if state.get("again"):
            # The later file became another merged file, and a redelivery brought it back.
            write(root, given, again, files[2])
            write_manifest(root, given, merged, replaced(keys[2:], again) + [{"file": uri(again), "state": "merged", "at": at}])
    return records


def shows_each_record_once(lake, columns):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        wanted = compactions(root, lake.given)
        database = database_of(lake, root)
        names = ", ".join(f'"{name}"' for name in columns)
        found = database.execute(f"SELECT {names} FROM logs").fetchall()
        plain = lambda value: value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime.datetime) else value
        rows = collections.Counter(tuple(plain(one[name]) for name in columns) for one in wanted)
        for one, count in (rows - collections.Counter(found)).items():
            fail(f"{lake.given.get('layout', lake.given['format'])}: {count} times too seldom: {one}")
        for one, count in (collections.Counter(found) - rows).items():
            fail(f"{lake.given.get('layout', lake.given['format'])}: {count} times too often: {one}")
        reads_manifests_of_the_hours_alone(lake, database)
        if lake.given == row():
            shows_each_record_once_in_duckdb(lake, root, wanted)
    print(f"{lake.given['format']} {lake.given.get('layout', '')}: {len(found)} records")


def shows_each_record_once_in_duckdb(lake, root, wanted):
    """The view that docs/lake.md has for duckdb."""
    page = pathlib.Path("docs/lake.md").read_text(encoding="utf-8")
    [view] = re.findall(r"^```sql\n(CREATE VIEW .*?)^```$", page, re.MULTILINE | re.DOTALL)
    base = f"s3://{lake.given['bucket_name']}/{lake.given['bucket_prefix']}"
    here = f"{root}/{lake.given['bucket_prefix']}"
    view = view.replace("s3://acme-corp-logs/lake/", here).replace("m.file", f"replace(m.file, '{base}', '{here}')")
    database = duckdb.connect()
    database.execute(view)
    found = sorted(message for [message] in database.execute("SELECT message FROM logs").fetchall())
    compare("the view for duckdb", sorted(one["message"] for one in wanted), found)


def reads_manifests_of_the_hours_alone(lake, database):
    """A condition on a partition of time reaches the manifests, in duckdb's plan at least."""
    name, _ = lake.manifests.partitions[-1]
    found = database.execute(f'SELECT DISTINCT "{name}" FROM {lake.manifests.name} LIMIT 1').fetchall()
    if not found:
        return fail(f"{lake.manifests.name} has no lines")
    value = found[0][0] if isinstance(found[0][0], int) else f"'{found[0][0]}'"
    [[_, plan]] = database.execute(f'EXPLAIN (FORMAT JSON) SELECT count(*) FROM logs WHERE "{name}" = {value}').fetchall()

    def scans(node):
        for child in node if isinstance(node, list) else node.get("children", []):
            yield from scans(child)
        if isinstance(node, dict) and "SCAN" in node["name"]:
            yield node["extra_info"]
    filters = {scan["Table"].split(".")[-1]: str(scan.get("Filters", "")) for scan in scans(json.loads(plan))}
    if set(filters) != {lake.files.name, lake.manifests.name} or not all(name in text for text in filters.values()):
        fail(f"a condition on {name} does not reach the manifests: {filters}")


for given, options, columns in (
    (row(), ["--values", "source=web,api,worker"], SCHEMA.names),
    (row(), [], SCHEMA.names),
    (row(layout="year=YYYY/month=MM/day=DD/hour=HH/application={application}/{file}"), [], SCHEMA.names),
    (row(layout="a/tenant={tenant}/env=prod/dt=YYYY-MM-DD/hour=hHH/app={cluster}-{application}/{file}"), [], SCHEMA.names),
    (row(layout="at=tYYYYMMDDTHH/pod={pod}/{file}", bucket_prefix="it's \\ \"x\"/"), [], SCHEMA.names),
    (row(layout="dt=YYYY-MM-DD/hour=HH/pod={pod}/{file}", bucket_prefix=""), ["--values", "pod=web-0,api-0,worker-0"], SCHEMA.names),
    (row(format="ndjson"), ["--database", "other", "--values", "source=web", "--values", "source=api,worker"], SCHEMA.names[:-1]),
    (row(format="ndjson", layout="tenant={tenant}/dt=YYYY-MM-DD/hour=HH/{file}"), [], SCHEMA.names[:-1]),
    (row(format="ndjson", fields="timestamp,message,application"), [], ["timestamp", "message", "application"]),
    (row(format="ndjson", fields="message"), [], ["message", "application"]),
):
    shows_each_record_once(Lake(given, *options), columns)


# -- The queries of docs/lake.md

def generated():
    """Records of three days around the day before TODAY, with what the queries look for, and what they must not find."""
    chance = random.Random(18)
    records = []
    start = datetime.datetime(2026, 11, 26, 22, tzinfo=UTC)
    for number in range(6000):
        application = chance.choice(APPLICATIONS)
        moment = start + datetime.timedelta(milliseconds=chance.randrange(28 * 3600 * 1000))
        level = chance.choice((None, "info", "info", "info", "warn", "error", "fatal"))
        message = chance.choice((f"took {number} ms", f"request req-{number % 3 * 21:06} is done", "Started in 4 s", f"Ärger, {number % 7} left"))
        records.append(record(
            moment, application, f"{application}-{number % 4}", number, message, level=level,
            namespace=chance.choice(("shop", "payments")), rest='{"a":1}' if number % 2 else None,
        ))
    return sorted(records, key=lambda record: record["timestamp"])


def answers(records):
    """What each query of the page must give, by its heading."""
    bare = lambda record: record["timestamp"].replace(tzinfo=None)
    size = lambda record: len(record["message"].encode())
    of = lambda **wanted: [one for one in day if all(one[name] == value for name, value in wanted.items())]
    day = [one for one in records if one["timestamp"].date() == datetime.date(2026, 11, 27)]
    bad = lambda one: one["level"] in ("error", "fatal")

    def groups(records, key):
        found = collections.defaultdict(list)
        for one in records:
            found[key(one)].append(one)
        return found.items()

    yield "Errors of an application, yesterday", [(bare(one), one["pod"], one["level"], one["message"]) for one in of(application="web") if bad(one)]
    since = datetime.datetime(2026, 11, 27, 13, 25, tzinfo=UTC)
    yield "One pod's last hour", [
        (bare(one), one["stream"], one["message"]) for one in of(pod="web-0") if since <= one["timestamp"] and one["timestamp"].hour in (13, 14)
    ]
    yield "Bytes by application and day", [
        (*key, sum(map(size, group)), len(group))
        for key, group in groups(records, lambda one: (one["application"], one["timestamp"].year, one["timestamp"].month, one["timestamp"].day))
    ]
    forms = groups(of(application="api"), lambda one: re.sub("[0-9]+", "N", one["message"]))
    yield "Top messages", [(form, len(group)) for form, group in forms]
    yield "A request id in all applications", [
        (bare(one), one["application"], one["pod"], one["message"]) for one in day if one["timestamp"].hour == 13 and "req-000042" in one["message"]
    ]
    yield "Volume by node", [(node, len(group), sum(map(size, group))) for node, group in groups(day, lambda one: one["node"])]
    starts = groups((one for one in of(application="worker") if one["message"].startswith("Started ")), lambda one: (one["pod"], one["container"]))
    yield "Restarts of containers", [(*key, len(group), max(map(bare, group))) for key, group in starts if len(group) > 1]
    yield "Errors by hour, for a chart", [
        (hour, sum(map(bad, group)), len(group)) for hour, group in groups(day, lambda one: bare(one).replace(minute=0, second=0, microsecond=0))
    ]
    yield "One namespace", [(bare(one), one["application"], one["pod"], one["message"]) for one in of(namespace="payments") if one["timestamp"].hour in (8, 9)]
    yield "When each pod was last seen", [
        (*key, max(map(bare, group)), len(group)) for key, group in groups(day, lambda one: (one["application"], one["pod"]))
    ]


def queries_of_the_page(given):
    page = pathlib.Path("docs/lake.md").read_text(encoding="utf-8")
    queries = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    lake, records = Lake(given, "--values", "source=web,api,worker"), generated()
    wanted = dict(answers(records))
    compare("queries of docs/lake.md", sorted(wanted), sorted(queries))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        files = collections.defaultdict(list)
        for number, one in enumerate(records):
            files[key_of(given, one, f"{one['pod']}-{number % 2}")].append(one)
        for key, content in files.items():
            write(root, given, key, content)
        database = database_of(lake, root)
        for name, query in queries.items():
            found = database.execute(duckdb_sql(sqlglot.parse_one(query, dialect="athena"))).fetchall()
            if len(found) < 2:
                fail(f"{name}: only {found}")
            if collections.Counter(found) != collections.Counter(wanted[name]):
                fail(f"{given['format']}: {name}: {found[:3]}, not {wanted[name][:3]}")
    print(f"{given['format']}: {len(queries)} queries on {len(files)} files")


# -- Files that a worker wrote

def reads_files_of_a_worker(folder):
    """The view shows the records of lakes that the black-box suite left with LOGFERRY_LAKE_FILES."""
    with (folder / "expected.jsonl").open(encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    names = [name for name in ("timestamp", *STRINGS) if all(name in one for one in expected)]
    epoch = datetime.datetime(1970, 1, 1)
    # A line of NDJSON has only the labels that the record has.
    members = {"tenant": "customer_id", "cluster": "cluster_id", "pod": "pod_name"}

    def plain(name, one, form):
        if name == "timestamp":
            return epoch + datetime.timedelta(milliseconds=one[name])
        if form == "parquet" or name not in members:
            return one[name]
        return one["record"].get(members[name], one["record"].get("kubernetes", {}).get(f"{name}_name"))

    for form in ("parquet", "ndjson"):
        wanted = collections.Counter(tuple(plain(name, one, form) for name in names) for one in expected)
        lake = Lake(row(tenant_id=folder.name, bucket_prefix="", format=form))
        database = database_of(lake, folder / "files", ".parquet" if form == "parquet" else ".ndjson.gz")
        columns = ", ".join(f'"{name}"' for name in names)
        found = collections.Counter(database.execute(f"SELECT {columns} FROM logs").fetchall())
        for what, rest in (("missing", wanted - found), ("too many", found - wanted)):
            if rest:
                fail(f"{folder} as {form}: {rest.total()} records are {what}, for example {next(iter(rest))}")
        print(f"{folder.name} as {form}: {found.total()} records with {', '.join(names)}")


queries_of_the_page(row())
queries_of_the_page(row(format="ndjson"))
for left in sys.argv[1:]:
    folders = sorted(path.parent for path in pathlib.Path(left).glob("*/expected.jsonl"))
    if not folders:
        fail(f"{left} has no lakes")
    for folder in folders:
        reads_files_of_a_worker(folder)
sys.exit(bool(failures))
