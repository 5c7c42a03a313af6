"""Runs node-postgres' own tests, one process a file: `node_postgres.py FOLDER FILE ...`. Tells what each test of each file came to, and how the file ended."""

import os
import pathlib
import re
import subprocess
import sys


def main():
    folder = pathlib.Path(sys.argv[1])
    # node-postgres takes libpq's `disable` for the tests' own TLS too.
    environment = {name: value for name, value in os.environ.items() if name != "PGSSLMODE"}
    setup = subprocess.run(["node", "script/create-test-tables.js"], cwd=folder, env=environment, capture_output=True, text=True)
    if setup.returncode:
        sys.exit(setup.stdout + setup.stderr)
    for name in sys.argv[2:]:
        try:
            done = subprocess.run(["node", name], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, said = "time", ""
        for test in re.findall(r"^  (.*?) ✔$", said, re.M):
            print(f"PASSED {name}::{test.replace(' ', '_')}")
        if code:
            print(f"# {name}: {said[-600:]}".replace("\n", "\n# "))
        print(f"{'FAILED' if code else 'PASSED'} {name}::ends", flush=True)


if __name__ == "__main__":
    main()
