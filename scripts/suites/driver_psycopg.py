"""What psycopg 3 can do, as one long story: what it prints is compared, direct and through Postern. Process ids and OIDs are not printed."""

import asyncio
import datetime
import decimal
import re
import sys
import threading
import time

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

def tell(name, value):
    print(f"{name}: {value!r}", flush=True)


def fails(name, run):
    try:
        tell(name, run())
    except psycopg.Error as error:
        diag = error.diag
        fields = [getattr(diag, field) for field in dir(diag) if not field.startswith("_") and isinstance(getattr(diag, field), (str, type(None)))]
        tell(name, (type(error).__name__, error.sqlstate, re.sub("port [0-9]+", "port N", str(error)), fields))


def types(conn):
    values = [
        1, -(2**40), 1.5, decimal.Decimal("12345678901234567890.0123456789"), "text \N{SNOWMAN}", b"\x00\xff", True, None,
        datetime.date(2026, 11, 22), datetime.datetime(2026, 11, 22, 8, 17, 31, 5, datetime.timezone.utc),
        datetime.timedelta(days=3, seconds=4), [1, 2, None], [["a"], ["b"]], Jsonb({"a": [1, None]}),
    ]
    for binary in (False, True):
        for value in values:
            fails(f"type {binary} {value!r}", lambda: conn.cursor(binary=binary).execute("SELECT %s", [value]).fetchone()[0])
    tell("composite", conn.execute("SELECT ROW(1, 'x', NULL)").fetchone())
    tell("range", conn.execute("SELECT int4range(1, 5), numrange(NULL, 3, '[]')").fetchone())
    tell("columns", [(c.name, c.type_code, c.internal_size, c.precision) for c in conn.execute("SELECT 1 AS a, 'x'::varchar(7) AS b, 1.5::numeric(5,2) c").description])
    tell("no columns", [conn.execute("SELECT FROM generate_series(1, 3)").rowcount, conn.execute("SELECT").fetchall()])


def transactions(conn):
    conn.execute("CREATE TEMP TABLE t (id serial PRIMARY KEY, a int UNIQUE, b text)")
    with conn.transaction():
        conn.execute("INSERT INTO t (a) VALUES (1)")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO t (a) VALUES (1)")
        except psycopg.errors.UniqueViolation as error:
            tell("violation", (error.diag.message_detail, error.diag.constraint_name, error.diag.table_name, error.diag.source_function))
        tell("status", conn.info.transaction_status)
    with conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO t (a) VALUES (2)")
    tell("rows", conn.execute("SELECT a FROM t").fetchall())
    fails("aborted", lambda: conn.execute("BEGIN; SELECT 1/0; SELECT 1"))
    fails("in failed", lambda: conn.execute("SELECT 1"))
    tell("status", conn.info.transaction_status)
    conn.execute("ROLLBACK")
    tell("many", conn.execute("SELECT 1; SELECT 2; UPDATE t SET b = 'x'").nextset())
    cursor = conn.cursor()
    cursor.executemany("INSERT INTO t (a, b) VALUES (%s, %s) RETURNING a", [(n, str(n)) for n in range(10, 15)], returning=True)
    rows = []
    while True:
        rows.append(cursor.fetchall())
        if not cursor.nextset():
            break
    tell("executemany", rows)


def prepared(conn):
    for _ in range(8):
        tell("prepared", conn.execute("SELECT count(*) FROM t WHERE a > %s", [0], prepare=True).fetchone())
    conn.execute("ALTER TABLE t ADD c int DEFAULT 7")
    fails("after alter", lambda: conn.execute("SELECT * FROM t WHERE a = %s", [1], prepare=True).fetchall())
    conn.execute("ALTER TABLE t DROP c")
    fails("after alter", lambda: conn.execute("SELECT * FROM t WHERE a = %s", [1], prepare=True).fetchall())
    conn.execute("DEALLOCATE ALL")
    tell("after deallocate", conn.execute("SELECT a FROM t WHERE a = %s", [1]).fetchall())


def pipeline(conn):
    with conn.pipeline() as pipe:
        one, two = conn.execute("SELECT 1"), conn.execute("SELECT %s", [2])
        pipe.sync()
        tell("pipeline", (one.fetchone(), two.fetchone()))
    try:
        with conn.pipeline() as pipe:
            conn.execute("INSERT INTO t (a) VALUES (100)")
            bad = conn.execute("SELECT 1/0")
            conn.execute("INSERT INTO t (a) VALUES (101)")
            pipe.sync()
            conn.execute("INSERT INTO t (a) VALUES (102)")
    except psycopg.Error as error:
        tell("pipeline error", (type(error).__name__, error.sqlstate, str(error)))
    tell("after pipeline", conn.execute("SELECT a FROM t WHERE a >= 100 ORDER BY a").fetchall())
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s, repeat('x', %s)", [n, n], prepare=n % 2 == 0) for n in range(300)]
    tell("many in a pipeline", sum(len(c.fetchone()[1]) for c in cursors))


def copy(conn):
    cursor = conn.cursor()
    conn.execute("CREATE TEMP TABLE c (a int, b text, d date)")
    with cursor.copy("COPY c FROM STDIN") as rows:
        for n in range(1000):
            rows.write_row((n, f"line\t{n}\n", datetime.date(2026, 1, 1)))
    tell("copied", cursor.rowcount)
    with cursor.copy("COPY c FROM STDIN (FORMAT binary)") as rows:
        rows.set_types(["int4", "text", "date"])
        rows.write_row((5000, "binary", datetime.date(2026, 2, 2)))
    with cursor.copy("COPY c FROM STDIN (FORMAT csv)") as rows:
        rows.write("1,\"a,\"\"b\",2026-03-03\n")
    for options in ("", "(FORMAT csv, HEADER)", "(FORMAT binary)"):
        with cursor.copy(f"COPY (SELECT * FROM c WHERE a < 3 OR a > 4000 ORDER BY a, b) TO STDOUT {options}") as rows:
            tell(f"copy out {options}", b"".join(bytes(part) for part in rows))
    with cursor.copy("COPY (SELECT a, b FROM c ORDER BY a, b LIMIT 2) TO STDOUT (FORMAT binary)") as rows:
        rows.set_types(["int4", "text"])
        tell("rows", list(rows.rows()))

    def broken():
        with cursor.copy("COPY c FROM STDIN") as rows:
            rows.write("no number\tx\t\n")

    def given_up():
        with cursor.copy("COPY c FROM STDIN") as rows:
            rows.write_row((1, "x", None))
            raise ValueError("given up")

    fails("broken copy", broken)
    try:
        given_up()
    except (ValueError, psycopg.Error) as error:
        tell("given up", (type(error).__name__, str(error)))
    tell("lives", conn.execute("SELECT count(*) FROM c").fetchone())


def cursors(conn):
    with conn.transaction():
        with conn.cursor("named", scrollable=True) as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT n, repeat('y', n) FROM generate_series(1, 50) n")
            tell("first", cursor.fetchmany(3))
            tell("rest", sum(row[0] for row in cursor))
            cursor.scroll(-5)
            tell("scrolled", cursor.fetchone()[0])
    with conn.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT 1 UNION SELECT 2 ORDER BY 1")
        tell("held", cursor.fetchall())
    tell("stream", sum(row[0] for row in conn.cursor().stream("SELECT generate_series(1, 2000)")))
    tell("dicts", conn.cursor(row_factory=dict_row).execute("SELECT 1 AS a, 2 AS b").fetchone())
    tell("client cursor", psycopg.ClientCursor(conn).execute("SELECT %s, %s", ["it's", 2]).fetchone())


def notices(conn, connect):
    heard = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity, diag.sqlstate, diag.message_primary)))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'a notice %', 1; RAISE WARNING 'and a warning'; END $$")
    tell("notices", heard)
    got = []
    conn.add_notify_handler(got.append)
    conn.execute("LISTEN channel")
    with connect() as other:
        other.execute("SELECT pg_notify('channel', 'from another')")
        sender = other.info.backend_pid
    conn.execute("NOTIFY channel, 'own'")
    until = time.monotonic() + 10
    while len(got) < 2 and time.monotonic() < until:
        conn.execute("SELECT 1")
    got = sorted((n.channel, n.payload, n.pid == sender, n.pid == conn.info.backend_pid) for n in got)
    tell("notifications", got)
    tell("own pid", conn.info.backend_pid == conn.execute("SELECT pg_backend_pid()").fetchone()[0])


def cancel(conn):
    for how in (conn.cancel, getattr(conn, "cancel_safe", conn.cancel)):
        timer = threading.Timer(0.5, how)
        timer.start()
        begun = time.monotonic()
        fails("cancelled", lambda: conn.execute("SELECT pg_sleep(20)"))
        tell("in time", time.monotonic() - begun < 10)
        timer.join()


def two_phase(connect):
    with connect() as conn:
        if conn.execute("SHOW max_prepared_transactions").fetchone() == ("0",):
            return
    for finish in ("tpc_commit", "tpc_rollback"):
        conn = connect(autocommit=False)
        conn.tpc_begin(conn.xid(1, f"gtrid {finish}", "bqual"))
        conn.execute("CREATE TABLE IF NOT EXISTS tpc (a int)")
        conn.tpc_prepare()
        with connect() as other:
            tell("prepared xids", [xid.gtrid for xid in other.tpc_recover()])
        getattr(conn, finish)()
        conn.close()


def settings(conn, connect):
    tell("parameters", [conn.info.parameter_status(name) for name in ("server_version", "client_encoding", "TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings", "is_superuser", "session_authorization", "integer_datetimes", "application_name")])
    conn.execute("SET TIME ZONE 'Asia/Tokyo'")
    tell("reported", conn.info.parameter_status("TimeZone"))
    with connect(options="-c search_path=pg_catalog -c statement_timeout=1234", application_name="named") as other:
        tell("options", other.execute("SELECT current_setting('search_path'), current_setting('statement_timeout'), current_setting('application_name')").fetchone())
    for encoding in ("latin1", "sjis", "euc_jp"):
        with connect(client_encoding=encoding) as other:
            tell(encoding, other.execute("SELECT %s || chr(65)", ["a\\b"]).fetchone())
            fails(encoding, lambda: other.execute("SELECT chr(9731)").fetchone())
    fails("bad setting", lambda: psycopg.connect(options="-c work_mem=nonsense"))
    large = "x" * 3_000_000
    tell("large parameter", conn.execute("SELECT length(%s)", [large]).fetchone())
    tell("large value", len(conn.execute("SELECT repeat('z', 30000000)").fetchone()[0]))
    identifier = sql.Identifier("odd \"name\"")
    conn.execute(sql.SQL("CREATE TEMP TABLE {} (a int)").format(identifier))
    tell("composed", conn.execute(sql.SQL("SELECT count(*) FROM {}").format(identifier)).fetchone())


def lost(connect):
    with connect() as one, connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [one.info.backend_pid])
        fails("terminated", lambda: one.execute("SELECT 1"))
        tell("closed", one.closed)
    gone = connect()
    gone.close()
    fails("after close", lambda: gone.execute("SELECT 1"))


async def asynchronous():
    async with await psycopg.AsyncConnection.connect(autocommit=True) as conn:
        async with conn.pipeline():
            cursors = [await conn.execute("SELECT %s", [n]) for n in range(50)]
        tell("async pipeline", [(await c.fetchone())[0] for c in cursors])
        async with conn.cursor() as cursor:
            async with cursor.copy("COPY (SELECT generate_series(1, 5)) TO STDOUT") as rows:
                tell("async copy", [bytes(part) async for part in rows])
        if not hasattr(conn, "cancel_safe"):
            return
        task = asyncio.create_task(conn.execute("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.5)
        task.cancel()
        try:
            await task
        except (asyncio.CancelledError, psycopg.Error) as error:
            tell("async cancelled", type(error).__name__)
        tell("async lives", (await (await conn.execute("SELECT 1")).fetchone()))


def main():
    def connect(autocommit=True, **more):
        return psycopg.connect(autocommit=autocommit, **more)

    with connect() as conn:
        for part in (types, transactions, prepared, pipeline, copy, cursors):
            tell("part", part.__name__)
            part(conn)
        notices(conn, connect)
        cancel(conn)
        settings(conn, connect)
    two_phase(connect)
    lost(connect)
    asyncio.run(asynchronous())


if __name__ == "__main__":
    sys.exit(main())
