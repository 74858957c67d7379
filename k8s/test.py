"""Delivers the lines of the sample application from an object to a customer's log group. See `test`.

Usage: test.py MINISTACK LOGFERRY FOLDER
"""

import gzip
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

import botocore.session
from botocore.config import Config


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what, attempt):
    """Tries until the attempt returns something, for a minute at most."""
    deadline = time.monotonic() + 60
    while not (found := attempt()):
        if time.monotonic() > deadline:
            sys.exit(f"k8s/test: not within a minute: {what}")
        time.sleep(0.2)
    return found


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def settings_of(manifests, endpoint, folder):
    """The worker's variables and file of the rendered overlay, with this ministack instead of the cluster's."""
    variables, config = {}, folder / "logferry.toml"
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "ConfigMap" and name.startswith("logferry-settings"):
            variables = {key: text.replace("http://ministack.ministack:4566", endpoint) for key, text in manifest["data"].items()}
        elif manifest["kind"] == "ConfigMap" and name.startswith("logferry-worker"):
            config.write_text(manifest["data"]["logferry.toml"])
    assert variables["AWS_ENDPOINT_URL"] == endpoint and config.exists(), "the overlay has the worker's settings"
    return variables | {"LOGFERRY_CONFIG": str(config)}


def main(ministack, logferry, checked, folder):
    checked, home, port = pathlib.Path(checked), pathlib.Path(folder), free_port()
    endpoint = f"http://127.0.0.1:{port}"
    quiet = {"stdin": subprocess.DEVNULL, "stdout": (home / "log").open("wb"), "stderr": subprocess.STDOUT}
    surroundings = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder}
    emulator = surroundings | {
        "AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "EDGE_PORT": str(port), "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "STATE_DIR": f"{folder}/state", "S3_DATA_DIR": f"{folder}/s3",
    }
    manifests = json.loads((checked / "worker-local.json").read_text())
    records = json.loads((checked / "records.json").read_text())
    variables = settings_of(manifests, endpoint, home)
    listen = f"127.0.0.1:{free_port()}"
    processes = [subprocess.Popen([ministack], env=emulator, **quiet)]
    try:
        eventually("ministack answers", lambda: answers(f"{endpoint}/_ministack/health"))
        create = [sys.executable, "docker/local/setup.py", "create"]
        subprocess.run(create, env=surroundings | {key: variables[key] for key in ("AWS_ENDPOINT_URL", "AWS_REGION")}, check=True)
        worker = surroundings | variables | {"LOGFERRY_HTTP__LISTEN": listen}
        processes.append(subprocess.Popen([logferry, "worker"], env=worker, **quiet))
        eventually("the worker is ready", lambda: answers(f"http://{listen}/readyz"))

        def client(service, account):
            return botocore.session.get_session().create_client(
                service, region_name=variables["AWS_REGION"], endpoint_url=endpoint, aws_access_key_id=account,
                aws_secret_access_key="test", config=Config(s3={"addressing_style": "path"}),
            )

        key = f"{records[0]['key_prefix']}{int(time.time())}-{uuid.uuid4()}.json.gz"
        body = gzip.compress(json.dumps([one["record"] for one in records]).encode())
        s3, sqs = client("s3", "111111111111"), client("sqs", "111111111111")
        # The notification leaves out objects without a tenant, which come first here.
        s3.put_object(Bucket="logferry-staging", Key=f"unroutable/{key}", Body=body)
        s3.put_object(Bucket="logferry-staging", Key=key, Body=body)
        logs = client("logs", "222222222222")

        def delivered():
            events = logs.filter_log_events(logGroupName="/managed-kubernetes/acme-corp")["events"]
            return events if len(events) == len(records) else None

        found = sorted((event["message"], event["timestamp"]) for event in eventually("the lines are delivered", delivered))
        wanted = sorted((one["record"]["message"], one["milliseconds"]) for one in records)
        if found != wanted:
            sys.exit(f"k8s/test: delivered {found}, not {wanted}")

        def messages(variable):
            names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
            attributes = sqs.get_queue_attributes(QueueUrl=variables[variable], AttributeNames=names)["Attributes"]
            return sum(int(number) for number in attributes.values())

        eventually("the queue is empty", lambda: messages("SQS_QUEUE_URL") == 0)
        if messages("LOGFERRY_QUEUE__DEAD_LETTER_URL"):
            sys.exit("k8s/test: there is a dead letter")
    except BaseException:
        sys.stderr.write((home / "log").read_text()[-4000:])
        raise
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)
    print(f"k8s/test: {len(records)} lines of s3://logferry-staging/{key} were delivered, each with its time")


with tempfile.TemporaryDirectory() as place:
    main(*sys.argv[1:], place)
