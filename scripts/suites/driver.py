"""Runs a command against a server of its own: `driver.py direct|through FOLDER COMMAND ...`; it finds the server in libpq's environment.
With SUITE_LOGINS the server has TLS, and users by each method of authentication."""

import os
import pathlib
import subprocess
import sys

from rig import Postern, Server


def main():
    way, folder = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder / "server", logins=bool(os.environ.get("SUITE_LOGINS")))
    postern = Postern(server, folder / "postern") if way == "through" else None
    environment = {**os.environ, **(postern or server).environment, "PGDATABASE": "postgres"}
    try:
        return subprocess.run(sys.argv[3:], env=environment, timeout=1800).returncode
    finally:
        if postern:
            postern.stop()
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
