#!/usr/bin/env bash
# Loads beside peers, in one run on one machine; writes docs/benchmarks.md, part by part:
#   sessions   pgbench through Postern, beside direct and pgbouncer
#   enforcement  small operations and long results through the gateway with policies and masks, beside direct and pgbouncer
#   control    writes to three members of the control plane, beside three of etcd; then the leader is killed, again and again
#   watch      how soon a change of policy reaches a thousand gateways, and what a watcher costs
#   idle       what thousands of idle sessions cost the gateway, beside pgbouncer
#   setup      what lies between a client and its server, hop by hop: sessions opened, statements, rows
#   tunnel     bytes through a tunnel and an agent, beside TCP, TLS and a forward of OpenSSH
#   revocations  what a million revoked tokens weigh, and what it costs to look one up
#   redecide   how soon a write of an administrator ends open sessions, and what a change costs that concerns none
#   fleet      hundreds to thousands of agents and 20 gateways: the leader's work, and storms when gateways are killed
#   flood      what a flood costs the operations of others, beside those without one
#   operation  criterion's figures of one operation inside the gateway
# ONLY=control,operation runs those parts alone. ROUNDS (3), SECONDS_EACH (5) and KILLS (30) set how long; SMOKE=1 only proves that it
# runs, and writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted() { [ -z "${ONLY:-}" ] || [[ ",$ONLY," == *",$1,"* ]]; }

if [ -n "${SMOKE:-}" ]; then
    cargo build --locked -p postern -p postern-benches
    export ROUNDS=1 SECONDS_EACH=1 KILLS=1 WATCHERS=50 CHANGES=5 SUBSCRIBERS=500 SESSIONS=100 COUNT=20000 SCALE=1 ROWS=10000 LOGINS=20 MEGABYTES=5 AGENTS=20 GATEWAYS=4 STEADY=2 OUTPUT=/dev/stdout
    binary=debug
else
    # The clients too: a slow client would measure itself.
    cargo build --locked --release -p postern -p postern-benches
    binary=release
fi
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target="$PWD/$target" ;; esac
export POSTERN_BIN="$target/$binary/postern"
if wanted sessions; then "$target/$binary/load"; fi
if wanted enforcement; then "$target/$binary/enforcement"; fi
if wanted control; then "$target/$binary/control"; fi
if wanted watch; then "$target/$binary/watch"; fi
if wanted idle; then "$target/$binary/idle"; fi
if wanted setup; then "$target/$binary/setup"; fi
if wanted tunnel; then "$target/$binary/tunnel"; fi
if wanted revocations; then "$target/$binary/revocations"; fi
if wanted redecide; then "$target/$binary/redecide"; fi
# Thousands of sockets' buffers are mostly never touched: memory that is mapped for each, and not recycled, costs nothing until it is.
if wanted fleet; then MALLOC_MMAP_THRESHOLD_=1048576 "$target/$binary/fleet"; fi
if wanted flood; then "$target/$binary/flood"; fi
if [ -z "${SMOKE:-}" ] && wanted operation; then
    cargo bench --locked -p postern-benches --bench micro -- --quiet | tee "$target/criterion.txt"
    "$target/$binary/load" --append-micro "$target/criterion.txt"
fi
