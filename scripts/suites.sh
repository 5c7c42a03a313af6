#!/usr/bin/env bash
# Suites that PostgreSQL and its drivers are tested by, run direct and through Postern, and compared. Everything is granted: there must be no difference.
# SUITE=regress|classification|asyncpg|psycopg|node|live runs one. Sources come from the package managers, by the versions that are installed. Minutes, not for CI: a part of
# it is (chaos/tests/live/everything.rs). VERSION=16|17|18 runs regress, classification and live with a server of that version, in the place of Debian's.
set -uo pipefail
cd "$(dirname "$0")/.."
work=${SUITES_DIR:-/tmp/postern-suites}
only=${SUITE:-}
wanted_version=${VERSION:-}
suites=$PWD/scripts/suites
if [ -n "$wanted_version" ]; then
    servers=("$PWD"/.tools/postgres/node_modules/postgres-"$wanted_version"-*/native/bin)
    [ -x "${servers[0]}/initdb" ] || { echo "suites: PostgreSQL $wanted_version is not installed: VERSION is 16, 17 or 18, and scripts/bootstrap.sh test installs them" >&2; exit 2; }
    export POSTERN_TEST_PG_BIN=${servers[0]}
    work=$work/$wanted_version
fi
mkdir -p "$work"
chmod 755 "$work"
cargo build --locked -p postern || exit 1
failed=0

wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
both() { # name, command
    local name=$1 way
    shift
    for way in direct through; do
        mkdir -p "$work/$name"
        python3 "$suites/driver.py" $way "$work/$name/$way" "$@" >"$work/$name/$way.out" 2>&1
    done
}
judge() { # kind, direct, through
    python3 "$suites/compare.py" "$@" || failed=1
}

sources() { # of PostgreSQL, into $source
    version=$(dpkg-query -W -f '${source:Version}' "$(dpkg -S "$(readlink -f "$(command -v /usr/lib/postgresql/*/bin/postgres | tail -1)")" | cut -d: -f1)")
    major=${version%%.*}
    source=("$work"/src/postgresql-"$major".*/src/test/regress)
    if [ ! -d "${source[0]}" ]; then
        # The sources of the installed release, from the same archive; and the server's headers, for the functions in C that some tests call.
        mkdir -p "$work/src" "$work/lists/partial"
        sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/src.sources"
        printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "-";\nDir::State::lists "%s";\nAPT::Sandbox::User "root";\n' \
            "$work/src.sources" "$work/lists" >"$work/apt.conf"
        (cd "$work/src" && export APT_CONFIG=$work/apt.conf && apt-get update -qq && apt-get source -qq --download-only "postgresql-$major=$version" &&
            tar xjf postgresql-*.orig.tar.bz2)
        (cd "$work/src" && apt-get download -qq "postgresql-server-dev-$major=$version" "libpq-dev=$version" && for deb in *.deb; do dpkg -x "$deb" headers; done)
        source=("$work"/src/postgresql-"$major".*/src/test/regress)
    fi
}

if wanted regress; then
    echo "== PostgreSQL's own regression suite, by psql"
    sources
    export PG_SERVER_HEADERS=$work/src/headers/usr/include/postgresql/$major/server
    for way in direct through; do
        python3 "$suites/regress.py" $way "${source[0]}" "$work/regress/$way"
    done
    judge regress "$work/regress/direct/results" "$work/regress/through/results"
fi

if wanted classification; then
    echo "== classification, against what PostgreSQL itself says of its own suite's statements"
    sources
    cargo run --locked -q -p postern-chaos --bin classification -- "${source[0]}" docs/classification-score.md || failed=1
fi
if wanted asyncpg || wanted psycopg; then
    python=$work/python/bin/python
    [ -x "$python" ] || { python3 -m venv "$work/python" && "$work/python/bin/pip" install -q 'psycopg[binary]==3.3.9' asyncpg==0.32.0 pytest pytest-timeout distro; }
fi
if wanted asyncpg; then
    echo "== asyncpg's own tests"
    if [ ! -d "$work/asyncpg/tests" ]; then
        mkdir -p "$work/asyncpg"
        "$work/python/bin/pip" download -q --no-deps --no-binary :all: -d "$work/asyncpg" asyncpg==0.32.0
        tar xzf "$work"/asyncpg/asyncpg-*.tar.gz -C "$work/asyncpg" --strip-components 1 --wildcards '*/tests'
    fi
    both asyncpg "$python" -m pytest -q -rA --timeout 60 -p no:cacheprovider "$work/asyncpg/tests"
    judge pytest "$work/asyncpg/direct.out" "$work/asyncpg/through.out"
fi
if wanted psycopg; then
    echo "== what psycopg can do"
    both psycopg "$python" "$suites/driver_psycopg.py"
    judge lines "$work/psycopg/direct.out" "$work/psycopg/through.out"
fi
if wanted node; then
    echo "== what node-postgres can do"
    if [ ! -d "$work/node/node_modules/pg" ]; then
        mkdir -p "$work/node"
        (cd "$work/node" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts pg@8 pg-cursor@2 pg-query-stream@4 pg-copy-streams@7)
    fi
    cp "$suites/driver_node.mjs" "$work/node/"
    both node node --no-deprecation "$work/node/driver_node.mjs"
    judge lines "$work/node/direct.out" "$work/node/through.out"
fi
# Of Postern's own tests, with another server; only where one is named: `make test` runs them with Debian's.
if [ -n "$wanted_version" ] && { [ -z "$only" ] || [ "$only" = live ]; }; then
    echo "== live tests, with PostgreSQL $wanted_version"
    cargo build --locked -p postern --bins --examples && cargo test --locked -p postern-chaos --test live -- --test-threads=2 || failed=1
fi
exit $failed
