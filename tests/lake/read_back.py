"""Reads the files of a lake with duckdb and pyarrow, and compares them with the records that they should have.

Usage: read_back.py FOLDER EXPECTED [--codec ZSTD|SNAPPY]

FOLDER has files whose names end in `.parquet` or `.ndjson.gz` (NDJSON), below folders that are Hive partitions (`name=value`).
EXPECTED has a JSON object on each line, one for each record. All lines have the same members:

    timestamp, message, tenant, ...    columns of the Parquet files: `timestamp` in milliseconds, the others strings or null.
                                       `rest` may be an object: then it is compared as JSON. Columns that are missing are not
                                       compared
    record                             the object that the line of an NDJSON file has
    partition                          the names and values of Hive partitions, as strings

If FOLDER has files of both formats, the files of each format must have all records. The order of records is not compared.
With --codec, the Parquet files must have this codec; else all must have the same.
"""

import argparse
import collections
import gzip
import json
import pathlib
import sys
import urllib.parse

import duckdb
import pyarrow
import pyarrow.parquet

STRINGS = ("message", "tenant", "cluster", "application", "pod", "stream", "namespace", "container", "node", "level", "rest")
COLUMNS = ("timestamp", *STRINGS)
REQUIRED = COLUMNS[:6]
# Differences that are printed for each comparison.
SHOWN = 5

arguments = argparse.ArgumentParser(usage="read_back.py FOLDER EXPECTED [--codec ZSTD|SNAPPY]")
arguments.add_argument("folder", type=pathlib.Path)
arguments.add_argument("expected", type=pathlib.Path)
arguments.add_argument("--codec", choices=("ZSTD", "SNAPPY"))
options = arguments.parse_args()

failures = []


def fail(text):
    failures.append(text)
    print(f"read_back: {text}", file=sys.stderr)


def partition(path):
    """The Hive partitions in a file's path."""
    folders = pathlib.Path(path).relative_to(options.folder).parts[:-1]
    pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
    return {name: urllib.parse.unquote(value) for name, value in pairs}


def canonical(value):
    return json.dumps(value, sort_keys=True)


def compare(what, wanted, found):
    """Compares records, each with its number of occurrences."""
    wanted, found = collections.Counter(map(canonical, wanted)), collections.Counter(map(canonical, found))
    for title, missing in (("missing", wanted - found), ("not expected, or too often", found - wanted)):
        if missing:
            fail(f"{what}: {missing.total()} of {wanted.total()} records {title}:")
            for record in list(missing)[:SHOWN]:
                print(f"    {missing[record]} x {record[:2000]}", file=sys.stderr)


def as_expected(columns, row, path):
    """A row, with what the lines of EXPECTED have."""
    record = {name: row[name] for name in columns}
    if rest_is_json and record.get("rest") is not None:
        record["rest"] = json.loads(record["rest"])
    if has_partition:
        record["partition"] = partition(path)
    return record


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


expected = [json.loads(line) for line in options.expected.read_text("utf-8").split("\n") if line]
members = set(expected[0]) if expected else set()
if any(set(record) != members for record in expected):
    sys.exit(f"{options.expected}: not all lines have the same members")
if unknown := members - {*COLUMNS, "record", "partition"}:
    sys.exit(f"{options.expected}: unknown members: {sorted(unknown)}")
columns = [name for name in COLUMNS if name in members]
has_partition = "partition" in members
rest_is_json = any(isinstance(record.get("rest"), dict) for record in expected)


def check_file(path, codecs):
    """Checks the types, the encodings and the statistics of a Parquet file. Returns its rows, as pyarrow reads them."""
    file = pyarrow.parquet.ParquetFile(path)
    utc = pyarrow.timestamp("ms", tz="UTC")
    wanted = [(name, utc if name == "timestamp" else pyarrow.string(), name not in REQUIRED) for name in COLUMNS]
    found = [(field.name, field.type, field.nullable) for field in file.schema_arrow]
    if found != wanted:
        fail(f"{path}: the columns are {found}")
        return []
    if b"logferry.version" not in (file.metadata.metadata or {}):
        fail(f"{path}: the metadata has no logferry.version")
    table = file.read()
    table = table.set_column(0, "timestamp", table["timestamp"].cast(pyarrow.int64()))
    start = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        rows = table.slice(start, group.num_rows)
        start += group.num_rows
        for index, name in enumerate(COLUMNS):
            where = f"{path}: column {name} of row group {number}"
            chunk = group.column(index)
            codecs.add(chunk.compression)
            dictionary = name not in ("timestamp", "message")
            if dictionary != any("DICTIONARY" in encoding for encoding in chunk.encodings):
                fail(f"{where} has the encodings {chunk.encodings}")
            statistics, values = chunk.statistics, [value for value in rows[name].to_pylist() if value is not None]
            if statistics is None or statistics.null_count != group.num_rows - len(values):
                fail(f"{where} has no statistics, or a wrong number of nulls: {statistics}")
            elif values:
                # Those of long values are cut, so they are limits. pyarrow converts timestamps by their type.
                smallest, largest = statistics.min_raw, statistics.max_raw
                key = (lambda value: value) if name == "timestamp" else (lambda value: value.encode())
                if not statistics.has_min_max:
                    fail(f"{where} has no smallest and largest value")
                elif not smallest <= min(map(key, values)) <= max(map(key, values)) <= largest:
                    fail(f"{where} has values that are not between {smallest!r} and {largest!r}")
    return table.to_pylist()


def check_parquet(files):
    codecs = set()
    rows = [(row, path) for path in files for row in check_file(path, codecs)]
    if (codecs != {options.codec}) if options.codec else (len(codecs) > 1):
        fail(f"the codecs of the Parquet files are {sorted(codecs)}")
    wanted = [without(record, "record") for record in expected]
    compare("pyarrow", wanted, [as_expected(columns, row, path) for row, path in rows])

    paths = [str(path) for path in files]
    source = "read_parquet(?, hive_partitioning = false, filename = true)"
    types = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}", [paths]).fetchall()}
    types.pop("filename")
    if types != {name: "TIMESTAMP WITH TIME ZONE" if name == "timestamp" else "VARCHAR" for name in COLUMNS}:
        fail(f"duckdb reads the columns as {types}")
        return
    query = connection.execute(f'SELECT filename, epoch_ms("timestamp"), {", ".join(STRINGS)} FROM {source}', [paths])
    found = [as_expected(columns, dict(zip(COLUMNS, row)), path) for path, *row in query.fetchall()]
    compare("duckdb", wanted, found)
    check_partitions("read_parquet(?, hive_partitioning = true, hive_types_autocast = false)", paths, COLUMNS)


def check_ndjson(files):
    if expected and "record" not in members:
        sys.exit(f"{options.expected}: its lines have no member `record`, so files of NDJSON cannot be compared")
    paths = [str(path) for path in files]
    wanted = [without(record, *COLUMNS) for record in expected]
    where = lambda path: {"partition": partition(path)} if has_partition else {}
    found = []
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            found += [{"record": json.loads(line), **where(path)} for line in lines]
    compare("NDJSON", wanted, found)

    source = "read_ndjson_objects(?, compression = 'gzip', filename = true)"
    query = connection.execute(f"SELECT filename, json FROM {source}", [paths])
    compare("duckdb (NDJSON)", wanted, [{"record": json.loads(text), **where(path)} for path, text in query.fetchall()])
    check_partitions("read_ndjson_objects(?, compression = 'gzip', hive_partitioning = true)", paths, ("json",))


def check_partitions(source, paths, others):
    """Counts the rows of each partition in SQL."""
    names = sorted({name for path in paths for name in partition(path)} - set(others))
    if not has_partition or not names:
        return
    listed = ", ".join(f'"{name}"::VARCHAR' for name in names)
    counts = connection.execute(f"SELECT {listed}, count(*) FROM {source} GROUP BY ALL", [paths]).fetchall()
    found = collections.Counter({tuple(values): count for *values, count in counts})
    wanted = collections.Counter(tuple(record["partition"].get(name) for name in names) for record in expected)
    if found != wanted:
        fail(f"duckdb counts by {names}: {dict(found - wanted)} too many, {dict(wanted - found)} missing")


parquet = sorted(options.folder.rglob("*.parquet"))
ndjson = sorted(options.folder.rglob("*.ndjson.gz"))
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
if not parquet and not ndjson:
    fail(f"{options.folder} has no files")
if parquet:
    check_parquet(parquet)
if ndjson:
    check_ndjson(ndjson)
if failures:
    sys.exit(f"read_back: {len(failures)} failures")
print(f"read_back: {len(expected)} records in {len(parquet)} Parquet files and {len(ndjson)} NDJSON files")
