"""PostgreSQL's own regression suite, by psql, file by file: `regress.py direct|through SOURCE RESULTS [TEST ...]`."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from rig import Postern, Server, binaries, progress, until

# What a run says of itself differs from one to the next: its own addresses, folders, times and process ids.
LIMIT = 300


def schedule(source):
    names = []
    for line in (source / "parallel_schedule").read_text().splitlines():
        if line.startswith("test:"):
            names += line.split()[1:]
    return names


def environment(extra, source, results):
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    keep.update(extra)
    # As pg_regress sets it.
    keep.update(
        LC_MESSAGES="C", PGTZ="PST8PDT", PGDATESTYLE="Postgres, MDY", PGOPTIONS="-c intervalstyle=postgres_verbose",
        PG_ABS_SRCDIR=str(source), PG_ABS_BUILDDIR=str(results), PG_LIBDIR=str(results), PG_DLSUFFIX=".so",
    )
    return keep


def regress_so(source, results):
    """Some tests call functions in C."""
    include = os.environ.get("PG_SERVER_HEADERS")
    if not include:
        include = subprocess.run([binaries() / "pg_config", "--includedir-server"], capture_output=True, text=True).stdout.strip()
    for name in ("refint.so", "autoinc.so"):
        for folder in ("lib", "lib/postgresql"):
            if (found := binaries().parent / folder / name).exists():
                shutil.copy(found, results)
    built = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", "-I", include, source / "regress.c", "-o", results / "regress.so"], capture_output=True
    )
    if built.returncode:
        progress("no regress.so: what needs its functions fails alike on both ways")


def main():
    way, source, results = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3]).resolve()
    only = sys.argv[4:]
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    results.chmod(0o777)
    (results / "testtablespace").mkdir()
    (results / "results").mkdir()
    (results / "results").chmod(0o777)
    if os.getuid() == 0:
        shutil.chown(results / "testtablespace", "postgres")
    regress_so(source, results)
    server = Server(results / "server")
    postern = Postern(server, results / "postern") if way == "through" else None
    here = environment((postern or server).environment, source, results)
    direct = environment(server.environment, source, results)
    setup = "CREATE DATABASE regression TEMPLATE template0; " + "".join(
        f"ALTER DATABASE regression SET {name} TO '{value}'; " for name, value in
        [("lc_messages", "C"), ("lc_monetary", "C"), ("lc_numeric", "C"), ("lc_time", "C"),
         ("bytea_output", "hex"), ("timezone_abbreviations", "Default")]
    )
    subprocess.run(["psql", "-Xq", "-d", "postgres"], input=setup, text=True, env=direct, check=True)
    begun = time.monotonic()
    for name in schedule(source):
        if only and name not in only and name != "test_setup":
            continue
        at = time.monotonic()
        with open(source / "sql" / f"{name}.sql") as script, open(results / "results" / f"{name}.out", "w") as out:
            arguments = ["psql", "-X", "-a", "-q", "-d", "regression", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]
            try:
                subprocess.run(arguments, stdin=script, stdout=out, stderr=subprocess.STDOUT, cwd=results, timeout=LIMIT,
                               env={**here, "PGAPPNAME": f"pg_regress/{name}"})
            except subprocess.TimeoutExpired:
                out.write("\n!! not within the limit\n")
        if "server closed the connection" in (results / "results" / f"{name}.out").read_text(errors="replace"):
            # Some tests of a newer release crash the one before it, for which they were written: what comes next waits until it is there again.
            progress(f"{name}: the server ended the session")
            until("recovery", lambda: subprocess.run(["psql", "-XqAtc", "SELECT 1", "-d", "postgres"], env=direct, capture_output=True).returncode == 0)
        if time.monotonic() - at > 10:
            progress(f"{name}: {time.monotonic() - at:.0f} s")
    progress(f"{way}: {time.monotonic() - begun:.0f} s")
    if postern:
        postern.stop()
    server.stop()


main()
