#!/usr/bin/env python3
"""Proves the house's rules that neither the compiler nor cargo-deny checks: who may import whom, purity, sizes, words, and that every file is compiled.

Prints every fault, not the first. Exits 1 when there is one. Needs cargo and Python 3.9; no network.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT)
faults: list[str] = []

# Who may import whom (ARCHITECTURE.md). Dev-dependencies count too.
ANY = None
MAY_IMPORT: dict[str, set[str] | None] = {
    "postern-proto": set(),
    "postern-core": {"postern-proto"},
    "postern-runtime": {"postern-core", "postern-proto"},
    "postern-state": {"postern-core", "postern-proto"},
    "postern-protocols": {"postern-core", "postern-proto"},
    "postern-server": {"postern-core", "postern-proto", "postern-runtime", "postern-state"},
    "postern-gateway": {"postern-core", "postern-proto", "postern-runtime", "postern-protocols"},
    "postern-agent": {"postern-core", "postern-proto", "postern-runtime", "postern-protocols"},
    "postern": {
        "postern-core", "postern-proto", "postern-runtime", "postern-protocols", "postern-server", "postern-gateway",
        "postern-agent",
    },
    "postern-chaos": ANY,
    "postern-benches": ANY,
}

# No I/O, clock, threads or randomness: these never stand below a pure crate. chrono without its clock, which iana-time-zone comes with, is arithmetic.
PURE = {
    "postern-core": "common/core",
    "postern-state": "control-plane/state",
    "postern-protocols": "data-plane/protocols",
}
IMPURE = re.compile(
    r"^(tokio|tokio-.*|mio|socket2|async-.*|futures-executor|sled|raft|raft-proto|tonic|tonic-.*|quinn|quinn-.*|hyper|hyper-.*"
    r"|axum|axum-.*|rand|rand_.*|getrandom|fastrand|iana-time-zone|time|tracing-subscriber|opentelemetry.*|metrics|rayon|crossbeam.*"
    r"|parking_lot|dashmap|notify|dirs|tempfile)$"
)
MUST_BAN_IN_PURE = [
    "std::time::Instant::now", "std::time::SystemTime::now", "std::collections::HashMap", "std::collections::HashSet",
    "std::thread::spawn", "std::env::var",
]

MAX_LINES = 500
LONG_FILES: dict[str, str] = {}  # path -> why it may be longer


def cargo(*args: str) -> str:
    run = subprocess.run(["cargo", *args], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"check_deps: cargo {' '.join(args)} failed:\n{run.stderr}")
    return run.stdout


def metadata() -> dict:
    return json.loads(cargo("metadata", "--locked", "--format-version", "1"))


def tree(*args: str) -> set[str]:
    return {line.split()[0] for line in cargo("tree", "--locked", "--prefix", "none", "-f", "{p}", *args).splitlines() if line}


def imports(meta: dict) -> None:
    members = {p["name"]: p for p in meta["packages"] if p["id"] in set(meta["workspace_members"])}
    for name, package in sorted(members.items()):
        if name not in MAY_IMPORT:
            faults.append(f"{name}: a crate that the import rules do not know; add it to ARCHITECTURE.md and to {__file__}")
            continue
        allowed = MAY_IMPORT[name]
        ours = {d["name"] for d in package["dependencies"] if d["name"] in members}
        if allowed is not ANY:
            for other in sorted(ours - allowed):
                faults.append(f"{name} imports {other}: against ARCHITECTURE.md, who may import whom")
        manifest = Path(package["manifest_path"]).read_text()
        if not re.search(r"^\[lints\]\s*\nworkspace = true", manifest, re.M):
            faults.append(f"{name}: Cargo.toml does not take the workspace's lints (unsafe code is forbidden there)")
    if 'unsafe_code = "forbid"' not in Path("Cargo.toml").read_text():
        faults.append("Cargo.toml: the workspace no longer forbids unsafe code")


def purity() -> None:
    root = [line.strip() for line in Path("clippy.toml").read_text().splitlines() if "path =" in line]
    for name, folder in PURE.items():
        below = tree("-p", name, "-e", "normal,no-proc-macro")
        for crate in sorted(c for c in below if IMPURE.match(c)):
            faults.append(f"{name} is pure, yet depends on {crate}: cargo tree -p {name} -e normal -i {crate}")
        config = Path(folder, "clippy.toml")
        text = config.read_text() if config.exists() else ""
        # clippy reads the nearest file alone, so it must repeat the root's bans.
        for line in root + [f'"{path}"' for path in MUST_BAN_IN_PURE]:
            if line not in text:
                faults.append(f"{config}: lacks the ban {line}")


def text_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and Path(name).is_file()]


def sizes_and_words() -> None:
    # Put together here, so that this file does not find itself.
    machine = "/" + "work/", "/" + "root/", "/" + "home/"
    hosts = "crates" + ".io", "py" + "pi.org", "pythonhosted" + ".org", "deb.debian" + ".org", "registry.npm" + "js"
    words = re.compile("|".join(re.escape(word) for word in machine + hosts) + r"|\bissue #?[0-9]+\b", re.I)
    for path in text_files():
        if path.name == "Cargo.lock":
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        if path.suffix == ".rs" and len(lines) > MAX_LINES and str(path) not in LONG_FILES:
            faults.append(f"{path}: {len(lines)} lines; split it by state, message or concern ({MAX_LINES} at most)")
        for number, line in enumerate(lines, 1):
            found = words.search(line)
            if found:
                faults.append(f"{path}:{number}: names a machine's path, a registry's host or an issue: {found.group(0)!r}")


MODULE = re.compile(r'(?:#\[path = "([^"]+)"\]\s*(?:#\[[^\]]*\]\s*)*)?^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);', re.M)


def modules() -> None:
    """Every source file is compiled: a merge that loses a `mod` line loses the tests in it without a word."""
    files = {path for path in text_files() if path.suffix == ".rs" and path.parts[0] != "fuzz"}
    roots = [path for path in files if path.name in ("lib.rs", "main.rs", "build.rs") or path.parent.name in ("bin", "examples")]
    named, waiting = set(roots), list(roots)
    while waiting:
        path = waiting.pop()
        inside = path.parent if path in roots or path.name == "mod.rs" else path.with_suffix("")
        for place, name in MODULE.findall(path.read_text()):
            candidates = [path.parent / place] if place else [inside / f"{name}.rs", inside / name / "mod.rs"]
            found = {Path(os.path.normpath(candidate)) for candidate in candidates} & files - named
            named |= found
            waiting += found
    faults.extend(f"{path}: no `mod` names it, so it is never compiled" for path in sorted(files - named))


def main() -> None:
    meta = metadata()
    imports(meta)
    purity()
    sizes_and_words()
    modules()
    for fault in faults:
        print(f"check_deps: {fault}", file=sys.stderr)
    if faults:
        sys.exit(f"check_deps: {len(faults)} faults")
    print("check_deps: import rules, purity, sizes, words and modules are as they should be")


if __name__ == "__main__":
    main()
