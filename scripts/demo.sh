#!/usr/bin/env bash
# The walk through Postern that `make demo` shows: every line after a $ is run as it stands, and what follows is its true output.
# Exits non-zero at the first step that is not as said. KEEP=1 leaves everything running.
set -euo pipefail
cd "$(dirname "$0")/.."

KEEP=${KEEP:-0}
BIN=${POSTERN_BIN:-${CARGO_TARGET_DIR:-target}/debug/postern}
[[ -x $BIN ]] || { echo "demo: $BIN is not there: run \`make demo\`, or \`cargo build -p postern\` first" >&2; exit 1; }
PATH="$(cd "$(dirname "$BIN")" && pwd):$PATH"

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' OFF=$'\e[0m'; else BOLD='' DIM='' OFF=''; fi

# ---- where things are, and how they end -------------------------------------------------------------------------------

work=$(mktemp -d "${TMPDIR:-/tmp}/postern-demo.XXXXXX")
chmod 711 "$work" # PostgreSQL's user must be able to pass through
postern_pid='' psql_pid='' as_pg=() pg_bin=''

stop_all() {
    [[ -z $psql_pid ]] || kill "$psql_pid" 2>/dev/null || true
    if [[ -n $postern_pid ]] && kill -INT "$postern_pid" 2>/dev/null; then wait "$postern_pid" || true; fi
    # From a folder that its user may read.
    [[ ! -f $work/pg/data/postmaster.pid ]] || (cd "$work" && "${as_pg[@]}" "$pg_bin/pg_ctl" -D "$work/pg/data" -m fast -w stop) >/dev/null || true
}
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [[ $code -eq 0 && $KEEP == 1 ]]; then return; fi
    if [[ $code -ne 0 ]]; then
        echo >&2
        echo "demo: FAILED; the logs' last lines:" >&2
        tail -n 15 "$work/postern.log" "$work/pg/log" 2>/dev/null >&2 || true
    fi
    stop_all
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- telling ----------------------------------------------------------------------------------------------------------

number=0
step() { number=$((number + 1)); printf '\n%s%d. %s%s\n' "$BOLD" "$number" "$1" "$OFF"; }
# show COMMAND: prints it, runs it, prints what it prints; its exit code and output stay in $code and $out.
show() {
    printf '%s$ %s%s\n' "$DIM" "$1" "$OFF"
    code=0
    eval "$1" >"$work/out" 2>&1 || code=$?
    out=$(<"$work/out")
    [[ -z $out ]] || printf '%s\n' "$out"
}
fail() { echo "demo: step $number is not as said: $1" >&2; exit 1; }
says() { [[ $out == *"$1"* ]] || fail "expected to see: $1"; }
hides() { [[ $out != *"$1"* ]] || fail "this should not be seen: $1"; }
succeeds() { [[ $code -eq 0 ]] || fail "exit code $code"; }
fails() { [[ $code -ne 0 ]] || fail 'it should have been refused'; }
# until_ok SECONDS COMMAND...
until_ok() {
    local left=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [[ $left -gt 0 ]] || return 1
        sleep 0.05
    done
}

# ---- a real PostgreSQL with a small shop ------------------------------------------------------------------------------

for dir in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
    [[ -x $dir/initdb ]] && pg_bin=$dir
done
[[ -n $pg_bin ]] || fail 'PostgreSQL is not installed (Debian: apt-get install postgresql)'
command -v psql >/dev/null || fail 'psql is not installed (Debian: apt-get install postgresql-client)'

mkdir "$work/pg"
if [[ $(id -u) -eq 0 ]]; then # PostgreSQL refuses to run as root
    user=$(id -un postgres 2>/dev/null || echo nobody)
    chown "$user" "$work/pg"
    as_pg=(runuser -u "$user" --)
else
    as_pg=(env)
fi
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}
random() { od -An -N 16 -tx1 /dev/urandom | tr -d ' \n'; }
OWNER_PASSWORD=$(random)
SHOP_PASSWORD=$(random)
export SHOP_PASSWORD
DB_PORT=$(free_port)

echo "Starting PostgreSQL on 127.0.0.1:$DB_PORT with the sample database of examples/shop.sql ..."
(
    cd "$work/pg"
    umask 077
    printf '%s\n' "$OWNER_PASSWORD" >pw
    [[ $(id -u) -ne 0 ]] || chown "$user" pw
    "${as_pg[@]}" "$pg_bin/initdb" -D "$work/pg/data" -U postgres -A scram-sha-256 --pwfile="$work/pg/pw" -E UTF8 --no-sync >/dev/null
    "${as_pg[@]}" "$pg_bin/pg_ctl" -D "$work/pg/data" -l "$work/pg/log" -w \
        -o "-p $DB_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/pg" start >/dev/null
)
direct="host=127.0.0.1 port=$DB_PORT"
PGPASSWORD=$OWNER_PASSWORD psql -qX -v ON_ERROR_STOP=1 "$direct user=postgres dbname=postgres" <<SQL
CREATE ROLE shop_app LOGIN PASSWORD '$SHOP_PASSWORD';
CREATE DATABASE shop OWNER shop_app;
SQL
PGPASSWORD=$SHOP_PASSWORD psql -qX -v ON_ERROR_STOP=1 "$direct user=shop_app dbname=shop" -f examples/shop.sql

# ---- Postern ----------------------------------------------------------------------------------------------------------

export POSTERN_DATA_DIR=$work/data
echo 'Starting postern dev: control plane, gateway, agent and issuer, data in '"$POSTERN_DATA_DIR"' ...'
postern dev --admin-listen 127.0.0.1:0 --postgres-listen 127.0.0.1:0 --tunnel-listen 127.0.0.1:0 \
    --issuer-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 >"$work/postern.out" 2>"$work/postern.log" &
postern_pid=$!
up() { [[ -f $POSTERN_DATA_DIR/endpoints.json ]] || ! kill -0 "$postern_pid"; }
until_ok 60 up || fail 'postern dev is not ready in a minute'
[[ -f $POSTERN_DATA_DIR/endpoints.json ]] || fail 'postern dev ended'
PORT=$(sed -n 's/.*"postgres": "[^"]*:\([0-9]*\)".*/\1/p' "$POSTERN_DATA_DIR/endpoints.json")
GATE="host=127.0.0.1 port=$PORT user=shop dbname=shop"
export PORT GATE
export PSQLRC=/dev/null PGCONNECT_TIMEOUT=20 PAGER=cat

step 'Declare the target, its policies and masks'
show 'sed "s/127.0.0.1:5432/127.0.0.1:$DB_PORT/" examples/10-target.yaml | postern apply -f -'
succeeds && says 'target/shop created'
show 'postern apply -f examples/20-policies.yaml -f examples/30-masking.yaml'
succeeds && says 'policy/agents-change-orders created' && says 'maskingrule/customer-email created'
show 'postern apply -f examples/20-policies.yaml'
succeeds && says 'policy/analysts-read unchanged'
show 'postern get policies'
succeeds && says 'agents-change-orders'

step 'A permitted query: the client is a stock psql, its password a token. Two columns are masked'
show 'export PGPASSWORD=$(postern dev token --subject alice --group analysts)'
show 'psql "$GATE" -c "SELECT name, email, card, city FROM customers ORDER BY id LIMIT 3"'
succeeds && says 'Ada Lovelace' && says '****' && says '1111' && hides 'ada@example.com' && hides '4111111111111111'
show 'psql "$GATE" -c "COPY (SELECT lower(email) FROM customers) TO STDOUT"'
hides '@example.com'

step 'A blocked DROP, a DELETE with no WHERE and a table outside the grant; the connection lives on'
show 'psql "$GATE" -v VERBOSITY=verbose -c "DROP TABLE orders" -c "SELECT count(*) FROM orders"'
says '42501' && says 'nothing-is-destroyed' && says 'decision dec_' && says '(1 row)'
show 'psql "$GATE" -c "SELECT * FROM payroll"'
fails && says 'decision dec_' && hides 'Babbage'
agent_token=$(postern dev token --subject order-bot --group agents)
show 'PGPASSWORD=$(postern dev token --subject order-bot --group agents) psql "$GATE" -c "DELETE FROM orders"'
fails && says 'sql:delete' && says 'decision dec_'

step 'A held DELETE: an agent asks, and waits for a person'
held='PGPASSWORD=$(postern dev token --subject order-bot --group agents) psql "$GATE" -c "DELETE FROM orders WHERE id = 4"'
printf '%s$ %s &%s\n' "$DIM" "$held" "$OFF"
eval "$held" >"$work/held" 2>&1 &
psql_pid=$!
until_ok 20 grep -q 'apr_' "$work/held" || fail "no NOTICE of an approval: $(cat "$work/held")"
cat "$work/held"
grep -q 'NOTICE' "$work/held" || fail 'expected a NOTICE'
ID=$(grep -o 'apr_[0-9a-z]*' "$work/held" | head -n 1)
export ID
show 'postern approvals list'
succeeds && says "$ID" && says 'DELETE FROM orders WHERE id = 4'
export POSTERN_TOKEN=$agent_token
printf '%s# The agent itself:%s\n' "$DIM" "$OFF"
show 'postern approvals approve "$ID"'
fails && kill -0 "$psql_pid" || fail 'the requester must not approve'
POSTERN_TOKEN=$(postern dev token --subject bob --group reviewers)
printf '%s# Bob, one of the reviewers:%s\n' "$DIM" "$OFF"
show 'postern approvals show "$ID"'
succeeds && says 'DELETE FROM orders WHERE id = 4' && says 'dev/order-bot'
show 'postern approvals approve "$ID" --comment "order 4 was cancelled twice"'
succeeds && says "$ID"
unset POSTERN_TOKEN
wait "$psql_pid" || fail "psql: $(cat "$work/held")"
psql_pid=''
printf '%s# And psql, which had waited:%s\n' "$DIM" "$OFF"
tail -n 1 "$work/held"
grep -q 'DELETE 1' "$work/held" || fail 'the DELETE did not run'

step 'What was recorded'
ended() { ! postern sessions list -o json | grep -q '"state": "open"'; }
until_ok 20 ended || fail 'the sessions are not sealed'
show 'postern sessions list'
succeeds && says 'dev/order-bot' && says 'dev/alice'
SESSION=$(postern approvals list --all -o json | sed -n 's/.*"session": "\(ses_[0-9a-z]*\)".*/\1/p' | head -n 1)
export SESSION
show 'postern sessions replay "$SESSION"'
succeeds && says 'HOLD' && says 'approved by dev/bob' && says 'DELETE 1'
QUERY=$(postern sessions list --principal dev/alice -o json | sed -n 's/.*"id": "\(ses_[0-9a-z]*\)".*/\1/p' | tail -n 1)
show "postern sessions replay $QUERY"
succeeds && says 'Ada Lovelace' && hides 'ada@example.com'

step 'The recording proves its own integrity, with the public authority certificate alone'
show 'postern sessions verify "$SESSION"'
succeeds && says 'verified'
show "postern sessions export \"\$SESSION\" -o $work/copy.rec"
succeeds
show "postern certs ca > $work/ca.crt; postern sessions verify $work/copy.rec --ca $work/ca.crt"
succeeds && says 'verified'
show "LC_ALL=C sed 's/id = 4/id = 5/' $work/copy.rec > $work/tampered.rec; postern sessions verify $work/tampered.rec --ca $work/ca.crt"
fails && says 'NOT verified' && says 'hash mismatch'

printf '\n%sAll of it as said.%s\n' "$BOLD" "$OFF"
if [[ $KEEP == 1 ]]; then
    cat <<HINTS

Everything still runs. To try by hand:

  export PATH=$(dirname "$(command -v postern)"):\$PATH POSTERN_DATA_DIR=$POSTERN_DATA_DIR
  export PGPASSWORD=\$(postern dev token --subject alice --group analysts)
  psql "$GATE"
  postern sessions list
  postern describe policy agents-change-orders

To stop it and remove its data:

  kill -INT $postern_pid; sleep 2; ${as_pg[*]} $pg_bin/pg_ctl -D $work/pg/data -m fast stop; rm -rf $work
HINTS
    disown "$postern_pid"
else
    cat <<'HINTS'

To try by hand, keep it running:

  make demo KEEP=1

or start your own, and apply your own files:

  postern dev --data-dir ./postern-data
HINTS
fi
