#!/usr/bin/env bash
# Suites that PostgreSQL and its drivers are tested by, run direct and through Postern, and compared. Everything is granted: there must be no difference.
# SUITE=regress|classification|asyncpg|psycopg|node|node-own|rust|jdbc|live runs one. Sources come from the package managers, by the versions that are installed. Minutes, not for CI: a part of
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

# Lists of packages in a folder of their own, from the archive that this machine installs from: FOLDER/apt.conf says so to apt.
archive() { # folder, another release of Debian
    local folder=$1 release=${2:-} uri
    mkdir -p "$folder/lists/partial"
    if [ -z "$release" ]; then
        sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$folder/src.sources"
    else
        uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources | head -1)
        printf 'Types: deb deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$uri" "$release" >"$folder/src.sources"
    fi
    printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "-";\nDir::State::lists "%s";\nAPT::Sandbox::User "root";\n' \
        "$folder/src.sources" "$folder/lists" >"$folder/apt.conf"
}

# Of PostgreSQL, into $source; $major, $own and $headers are the version, Debian's release that has it, and where the headers of its server are.
sources() {
    own=
    case $wanted_version in
    17) own=trixie ;;
    18) own=sid ;;
    esac
    version=$(dpkg-query -W -f '${source:Version}' "$(dpkg -S "$(readlink -f "$(command -v /usr/lib/postgresql/*/bin/postgres | tail -1)")" | cut -d: -f1)")
    # No release of Debian has 16: it is given the suite of 15.
    major=${own:+$wanted_version}
    major=${major:-${version%%.*}}
    headers=$work/src/headers/usr/include/postgresql/$major/server
    source=("$work"/src/postgresql-"$major".*/src/test/regress)
    [ -d "${source[0]}" ] && { newer_client; return; }
    # The sources of the release from the archive that this machine installs from, and the server's headers, for the functions in C that some tests call.
    mkdir -p "$work/src"
    archive "$work" "$own"
    if [ -z "$own" ]; then
        packages=("postgresql-server-dev-$major=$version" "libpq-dev=$version")
        wanted_source=postgresql-$major=$version
    else
        packages=("postgresql-server-dev-$major" "postgresql-client-$major" libc6)
        wanted_source=postgresql-$major
    fi
    (cd "$work/src" && export APT_CONFIG=$work/apt.conf && apt-get update -qq && apt-get source -qq --download-only "$wanted_source" && tar xjf postgresql-*.orig.tar.bz2)
    (cd "$work/src" && { [ -z "$own" ] || export APT_CONFIG=$work/apt.conf; } && apt-get download -qq "${packages[@]}" && for deb in *.deb; do dpkg -x "$deb" headers; done)
    source=("$work"/src/postgresql-"$major".*/src/test/regress)
    newer_client
}

# psql of another release than this machine's, run by its own libc and the libpq of the server that it goes to: nothing is installed.
newer_client() {
    [ -n "$own" ] || return 0
    local libraries loader
    libraries=$work/src/headers/usr/lib/$(uname -m)-linux-gnu
    loader=$(compgen -G "$libraries/ld-linux*.so.*" | head -1)
    mkdir -p "$work/bin"
    printf '#!/bin/sh\nexec %s --library-path %s:%s:%s %s "$@"\n' "$loader" "$libraries" "$POSTERN_TEST_PG_BIN/../lib" \
        "/usr/lib/$(uname -m)-linux-gnu" "$work/src/headers/usr/lib/postgresql/$major/bin/psql" >"$work/bin/psql"
    chmod 755 "$work/bin/psql"
    PATH=$work/bin:$PATH
}

if wanted regress; then
    echo "== PostgreSQL's own regression suite, by psql"
    sources
    export PG_SERVER_HEADERS=$headers
    for way in direct through; do
        python3 "$suites/regress.py" $way "${source[0]}" "$work/regress/$way"
    done
    judge regress "$work/regress/direct/results" "$work/regress/through/results"
fi

if wanted classification; then
    echo "== classification, against what PostgreSQL itself says of its own suite's statements"
    sources
    # The document is of Debian's version.
    document=docs/classification-score.md
    [ -z "$wanted_version" ] || document=$work/classification-score.md
    cargo run --locked -q -p postern-chaos --bin classification -- "${source[0]}" "$document" || failed=1
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
if wanted node-own; then
    echo "== node-postgres' own tests"
    own=$work/node-own
    if [ ! -d "$own/node_modules/pg/test" ]; then
        # The packages of npm hold no tests: those are in Debian's source, of its newest release.
        mkdir -p "$own/src"
        archive "$own" sid
        (cd "$own" && export APT_CONFIG=$own/apt.conf && apt-get update -qq && apt-get source -qq --download-only node-postgres
            tar xzf node-postgres_*.orig.tar.gz -C src --strip-components 1) # Its other archives are not needed.
        version=$(node -p "require('$own/src/packages/pg/package.json').version")
        (cd "$own" && npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts "pg@$version" pg-cursor@2 pg-query-stream@4 async@2.6.4 bluebird@3.7.2 co@4.6.0 pg-copy-streams@0.3.0)
        cp -r "$own/src/packages/pg/test" "$own/src/packages/pg/script" "$own/node_modules/pg/"
        # A debug build is slower than five seconds allow: one test makes 5000 round trips.
        sed -i 's/this.timeout = 5000/this.timeout = 50000/' "$own/node_modules/pg/test/suite.js"
    fi
    mapfile -t files < <(cd "$own/node_modules/pg" && find test/integration -name '*-tests.js' | sort)
    SUITE_LOGINS=1 both node-own python3 "$suites/node_postgres.py" "$own/node_modules/pg" "${files[@]}"
    judge pytest "$own/direct.out" "$own/through.out"
fi
if wanted rust; then
    echo "== tokio-postgres' own tests"
    version=$(sed -n '/^name = "tokio-postgres"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    cargo fetch --locked -q
    crates=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/tokio-postgres-"$version")
    mkdir -p "$work/rust"
    python3 "$suites/rust_postgres.py" "${crates[0]}" "$work/rust/crate"
    test=$(cd "$work/rust/crate" && CARGO_TARGET_DIR=$work/rust/target CARGO_PROFILE_DEV_DEBUG=0 cargo test -q --all-features --test test --no-run --message-format json |
        sed -n 's/.*"name":"test".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    SUITE_LOGINS=1 both rust "$test" --test-threads 4
    judge cargo "$work/rust/direct.out" "$work/rust/through.out"
fi
if wanted jdbc; then
    echo "== what pgjdbc can do"
    mkdir -p "$work/jdbc"
    command -v java >/dev/null || apt-get install -y -qq --no-install-recommends default-jdk-headless
    [ -d "$work/jdbc/usr" ] || (cd "$work/jdbc" && apt-get download -qq libpostgresql-jdbc-java && dpkg -x libpostgresql-jdbc-java_*.deb .)
    SUITE_LOGINS=1 both jdbc java -cp "$work/jdbc/usr/share/java/postgresql.jar" "$suites/DriverJdbc.java"
    judge lines "$work/jdbc/direct.out" "$work/jdbc/through.out"
fi
# Of Postern's own tests, with another server; only where one is named: `make test` runs them with Debian's.
if [ -n "$wanted_version" ] && { [ -z "$only" ] || [ "$only" = live ]; }; then
    echo "== live tests, with PostgreSQL $wanted_version"
    cargo build --locked -p postern --bins --examples && cargo test --locked -p postern-chaos --test live -- --test-threads=2 || failed=1
fi
exit $failed
