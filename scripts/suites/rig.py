"""A PostgreSQL and a Postern before it, of one's own, for suites that are run direct and through."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "superuser-of-the-suites"
# What may be done is everything: whoever is let through must see no difference.
OBJECTS = """
apiVersion: postern/v1
kind: Secret
metadata: {{name: suites}}
spec: {{value: "{password}"}}
---
apiVersion: postern/v1
kind: Target
metadata: {{name: postgres}}
spec:
  protocol: postgres
  address: "127.0.0.1:{port}"
  tls: {{mode: disable}}
  credential: {{username: postgres, secret: suites}}
---
apiVersion: postern/v1
kind: Policy
metadata: {{name: everything}}
spec:
  effect: permit
  principals: {{groups: [everyone]}}
  targets: {{names: ["*"]}}
  actions: ["*"]
"""
# The logins that drivers' own tests are about, and how the server asks for each of their passwords.
METHODS = {"pass-user": "password", "md5-user": "md5", "scram-user": "scram-sha-256"}
LOGIN = """---
apiVersion: postern/v1
kind: Target
metadata: {{name: {name}}}
spec:
  protocol: postgres
  address: "127.0.0.1:{port}"
  tls: {{mode: require}}
  credential: {{username: {name}, secret: suites}}
"""
SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
autovacuum = off
max_prepared_transactions = 8
wal_level = logical
max_connections = 120
lc_messages = 'C'
unix_socket_directories = '{folder}'
log_min_messages = fatal
"""


def free_port():
    for port in range(21000 + os.getpid() % 3000, 32000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SystemExit("no free port")


def binaries():
    if folder := os.environ.get("POSTERN_TEST_PG_BIN"):
        return pathlib.Path(folder)
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        raise SystemExit("PostgreSQL's server is not installed: run scripts/bootstrap.sh test")
    return found[-1].parent


def until(what, check, seconds=60):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A PostgreSQL with a superuser `postgres`; with `logins`, also with TLS, a user for each method, and the extensions whose types drivers know."""

    def __init__(self, folder, logins=False):
        self.folder = pathlib.Path(folder)
        self.logins = METHODS if logins else {}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.as_user = []
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self.as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]
        data, secret = self.folder / "data", self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [*self.as_user, binaries() / "initdb", *initdb, "-D", data, "--pwfile", secret],
            check=True, stdout=subprocess.DEVNULL, cwd=self.folder,
        )
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS.format(folder=self.folder))
        with open(data / "pg_hba.conf", "a") as hba:
            hba.write("host replication all 127.0.0.1/32 scram-sha-256\n")
        if logins:
            self.prepare_logins(data)
        self.port = free_port()
        self.process = subprocess.Popen(
            [*self.as_user, binaries() / "postgres", "-D", data, "-p", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=open(self.folder / "log", "w"), cwd=self.folder,
        )
        until("PostgreSQL", lambda: "ready to accept" in (self.folder / "log").read_text() or answers(self.port))
        self.environment = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGPASSWORD": PASSWORD,
                            "PGSSLMODE": "disable"}
        for name, method in self.logins.items():
            kept = "md5" if method == "md5" else "scram-sha-256"
            self.psql(f"""SET password_encryption = '{kept}'; CREATE USER "{name}" PASSWORD '{PASSWORD}'""")
        if logins:
            self.psql("CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree")

    def prepare_logins(self, data):
        lines = "".join(f'host all "{name}" 127.0.0.1/32 {method}\n' for name, method in self.logins.items())
        hba = data / "pg_hba.conf"
        hba.write_text(lines + hba.read_text())
        subprocess.run(
            [*self.as_user, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-keyout", data / "server.key", "-out", data / "server.crt"],
            check=True, capture_output=True, cwd=self.folder,
        )
        with open(data / "postgresql.conf", "a") as conf:
            conf.write("ssl = on\n")

    def psql(self, text):
        environment = {**os.environ, **self.environment, "PGDATABASE": "postgres"}
        subprocess.run(["psql", "-Xqc", text], env=environment, check=True)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


class Postern:
    """`postern dev` before `server`, where policy permits everything."""

    def __init__(self, server, folder):
        self.binary = pathlib.Path(os.environ.get("POSTERN_BIN") or target() / "debug/postern")
        if not self.binary.exists():
            raise SystemExit(f"{self.binary} is not there: run `cargo build -p postern`")
        self.folder = pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.data = self.folder / "data"
        flags = ["--admin-listen", "--postgres-listen", "--tunnel-listen", "--issuer-listen", "--ops-listen"]
        listens = [word for flag in flags for word in (flag, "127.0.0.1:0")]
        self.process = subprocess.Popen(
            [self.binary, "dev", "--data-dir", self.data, *listens],
            stdout=subprocess.DEVNULL, stderr=open(self.folder / "log", "w"),
        )
        endpoints = self.data / "endpoints.json"
        until("postern dev", endpoints.exists)
        port = json.loads(endpoints.read_text())["postgres"].rsplit(":", 1)[1]
        until("the gateway", lambda: answers(int(port)))
        objects = self.folder / "objects.yaml"
        logins = "".join(LOGIN.format(name=name, port=server.port) for name in server.logins)
        objects.write_text(OBJECTS.format(password=PASSWORD, port=server.port) + logins)
        self.cli("apply", "-f", str(objects))
        token = self.cli("dev", "token", "--subject", "suites", "--group", "everyone", "--ttl", "12h").strip()
        self.environment = {**server.environment, "PGPORT": port, "PGPASSWORD": token}
        until("a session", lambda: subprocess.run(
            ["psql", "-Xc", "SELECT 1"], env={**os.environ, **self.environment, "PGDATABASE": "postgres"},
            capture_output=True).returncode == 0)

    def cli(self, *words):
        environment = {**os.environ, "POSTERN_DATA_DIR": str(self.data)}
        done = subprocess.run([self.binary, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"postern {' '.join(words)}: {done.stderr}")
        return done.stdout

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def progress(text):
    print(text, file=sys.stderr, flush=True)
