"""Compares what a suite said direct and through: `compare.py regress|lines|pytest|cargo DIRECT THROUGH`. Prints every difference, then one line of numbers."""

import difflib
import pathlib
import re
import sys

# What a run says of itself: its folders, ports, and processes.
OWN = [(re.compile(r"/[^ '\"]*/(direct|through)/"), "/X/"), (re.compile(r"port \d+"), "port N"), (re.compile(r"\(node:\d+\)"), "(node)")]


def plain(path):
    text = path.read_text(errors="surrogateescape")
    for pattern, word in OWN:
        text = pattern.sub(word, text)
    return text.splitlines()


def differences(name, one, other):
    lines = list(difflib.unified_diff(one, other, f"{name} direct", f"{name} through", lineterm="", n=0))
    print("\n".join(lines[:60]).encode(errors="replace").decode())
    return len([line for line in lines[2:] if line[:1] in "+-"])


def regress(direct, through):
    files = sorted(path.name for path in direct.glob("*.out"))
    other, lines = 0, 0
    for name in files:
        one, two = plain(direct / name), plain(through / name) if (through / name).exists() else []
        lines += len(one)
        other += bool(one != two and differences(name, one, two))
    print(f"{len(files) - other} of {len(files)} files the same, {lines} lines")
    return other


def lines(direct, through):
    one, two = plain(direct), plain(through)
    other = differences(direct.name, one, two) if one != two else 0
    print(f"{len(one)} lines, {other} that differ")
    return other


def outcomes(path):
    found = {}
    for line in path.read_text(errors="replace").splitlines():
        if match := re.match(r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+::\S+)", line):
            found[match[2]] = match[1]
    return found


def cargo_outcomes(path):
    found = re.findall(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", path.read_text(errors="replace"), re.M)
    return {name: "PASSED" if outcome == "ok" else outcome for name, outcome in found}


def cargo(direct, through):
    return tests(cargo_outcomes(direct), cargo_outcomes(through))


def pytest(direct, through):
    return tests(outcomes(direct), outcomes(through))


def tests(one, two):
    other = [name for name in sorted(one | two) if one.get(name) != two.get(name)]
    for name in other:
        print(f"{name}: {one.get(name)} direct, {two.get(name)} through")
    passed = sum(outcome == "PASSED" for outcome in two.values())
    print(f"{passed} of {len(two)} tests pass through Postern, {len(other)} end otherwise than direct")
    # Nothing compared is no result.
    return len(other) or not two


if __name__ == "__main__":
    compare = {"regress": regress, "lines": lines, "pytest": pytest, "cargo": cargo}[sys.argv[1]]
    sys.exit(bool(compare(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))))
