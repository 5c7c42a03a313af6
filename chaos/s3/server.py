"""An object store for the tests: moto's S3, over TLS, that wants signed requests, and that fails as it is told to.

usage: server.py PORT CONTROL FOLDER; FOLDER gets ca.crt, access_key_id and secret_access_key, and `ready` once it serves.

moto keeps objects in memory, checks signatures and policies of IAM, and knows versions, locks, conditions and uploads in parts. What this
adds are the faults and a look at the objects, by plain HTTP on the port CONTROL: `GET /fault?do=NAME`, `GET /objects?bucket=NAME`.
"""

import datetime
import ipaddress
import json
import os
import socket
import sys
import threading
import time
import urllib.parse
from pathlib import Path

# What is done to set it up; from then on requests must be signed.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "7"

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

PORT, CONTROL, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
RULES = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::recordings*", "arn:aws:s3:::keys*"]},
    ],
}


class Faulty:
    """Stands before the store and does what it was told."""

    def __init__(self, store):
        self.store, self.does, self.seen, self.lock = store, "well", None, threading.Lock()

    def __call__(self, environ, start):
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        does = self.does
        writes = method in ("PUT", "POST")
        until = time.monotonic() + 120
        while does == "hang" and self.does == "hang" and time.monotonic() < until:
            time.sleep(0.05)
        if does == "away":
            return refuse(environ, start, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        if does == "full" and writes:
            return refuse(environ, start, "507 Insufficient Storage", "XMinioStorageFull", "The disk is full.")
        if does == "forget" and writes and b"uploadId" not in environ["QUERY_STRING"].encode():
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("200 OK", [("ETag", '"00000000000000000000000000000000"'), ("Content-Length", "0")])
            return [b""]
        if method != "GET" or not path.endswith(".rec"):
            return self.store(environ, start)
        return self.answer(does, environ, start)

    def answer(self, does, environ, start):
        """A recording, or what is said to be one."""
        kept = {}

        def keep(status, headers, exc_info=None):
            kept.update(status=status, headers=headers)

        body = b"".join(self.store(environ, keep))
        status, headers = kept["status"], kept["headers"]
        with self.lock:
            if status.startswith("200"):
                stale, self.seen = self.seen, (environ["PATH_INFO"], body)
                if does == "other" and stale and stale[0] != environ["PATH_INFO"]:
                    body, self.seen = stale[1], stale
                elif does == "flip":
                    middle = len(body) // 2
                    body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
                elif does == "short":
                    body = body[: len(body) // 2]
                headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
                headers.append(("Content-Length", str(len(body))))
                if does == "cut":
                    body = body[: len(body) // 2]
        start(status, headers)
        return [body]

    def told(self, environ, start):
        what = environ["PATH_INFO"].strip("/")
        query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
        answer = {}
        if what == "fault":
            self.does = query["do"]
        elif what == "objects":
            found = client().list_objects_v2(Bucket=query["bucket"]).get("Contents", [])
            answer = {each["Key"]: each["Size"] for each in found}
        elif what == "delete":
            client().delete_object(Bucket=query["bucket"], Key=query["key"])
        elif what == "lock":
            found = client().head_object(Bucket=query["bucket"], Key=query["key"])
            answer = {"mode": found.get("ObjectLockMode"), "until": found.get("ObjectLockRetainUntilDate")}
        body = json.dumps(answer, default=str).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def refuse(environ, start, status, code, message):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


KEY = {}


def client(service="s3"):
    return boto3.client(
        service,
        endpoint_url=f"https://127.0.0.1:{PORT}",
        region_name="eu-central-1",
        aws_access_key_id=KEY.get("AccessKeyId", "none"),
        aws_secret_access_key=KEY.get("SecretAccessKey", "none"),
        verify=str(FOLDER / "ca.crt"),
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def certificates():
    """An authority, and a certificate of this machine's."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def named(name, key, issuer, signer, authority):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            made = made.add_extension(here, critical=False)
        return made.sign(signer, hashes.SHA256())

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = named("tests' object store", authority, None, authority, True)
    leaf = named("127.0.0.1", own, root.subject, authority, False)
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (FOLDER / "ca.crt").write_bytes(root.public_bytes(pem))
    (FOLDER / "own.crt").write_bytes(leaf.public_bytes(pem))
    (FOLDER / "own.key").write_bytes(own.private_bytes(pem, *form))
    return str(FOLDER / "own.crt"), str(FOLDER / "own.key")


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code="-", size="-"):
        print(self.requestline, code, flush=True)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    store = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1", PORT, store, threaded=True, request_handler=Handler, ssl_context=certificates()
    )
    control = make_server("127.0.0.1", CONTROL, store.told, threaded=True, request_handler=Handler)
    for each in (server, control):
        threading.Thread(target=each.serve_forever, daemon=True).start()
    iam, s3 = client("iam"), client()
    iam.create_user(UserName="postern")
    iam.put_user_policy(UserName="postern", PolicyName="recordings", PolicyDocument=json.dumps(RULES))
    key = iam.create_access_key(UserName="postern")["AccessKey"]
    here = {"LocationConstraint": "eu-central-1"}
    s3.create_bucket(Bucket="recordings", CreateBucketConfiguration=here)
    s3.create_bucket(Bucket="keys", CreateBucketConfiguration=here)
    s3.create_bucket(Bucket="recordings-locked", CreateBucketConfiguration=here, ObjectLockEnabledForBucket=True)
    s3.put_object_lock_configuration(
        Bucket="recordings-locked",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}},
        },
    )
    KEY.update(key)
    for name, value in (("access_key_id", key["AccessKeyId"]), ("secret_access_key", key["SecretAccessKey"])):
        (FOLDER / name).write_text(value + "\n")
    (FOLDER / "ready").write_text("")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
