// What pgjdbc can do, told line by line: compared direct and through Postern. Process ids and OIDs are not told.
import java.io.*;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import javax.sql.XAConnection;
import javax.transaction.xa.*;
import org.postgresql.*;
import org.postgresql.copy.*;
import org.postgresql.largeobject.*;
import org.postgresql.util.*;
import org.postgresql.xa.PGXADataSource;

public class DriverJdbc {
    interface Step { Object run() throws Exception; }

    static String place() {
        return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/postgres";
    }

    static Connection connect(String... settings) throws SQLException {
        Properties of = new Properties();
        of.put("user", "postgres");
        of.put("password", System.getenv("PGPASSWORD"));
        of.put("sslmode", "disable");
        for (int i = 0; i < settings.length; i += 2) of.put(settings[i], settings[i + 1]);
        return DriverManager.getConnection(place(), of);
    }

    static String plain(Throwable error) {
        StringBuilder told = new StringBuilder();
        // The schema of temporary tables has a number.
        for (Throwable at = error; at != null; at = at instanceof SQLException next && next.getNextException() != null ? next.getNextException() : at.getCause()) {
            told.append(at.getClass().getSimpleName()).append(' ').append(at.getMessage());
            if (at instanceof SQLException sql) told.append(" [").append(sql.getSQLState()).append(']');
            ServerErrorMessage m = at instanceof PSQLException sql ? sql.getServerErrorMessage() : null;
            if (m != null)
                told.append(Arrays.asList(m.getSeverity(), m.getPosition(), m.getDetail(), m.getHint(), m.getWhere(), m.getSchema(), m.getTable(),
                    m.getColumn(), m.getConstraint(), m.getInternalQuery(), m.getFile(), m.getLine(), m.getRoutine()));
            told.append("; ");
        }
        return told.toString().replaceAll("pg_temp_\\d+", "pg_temp");
    }

    static void tell(String name, Step step) {
        String value;
        try { value = String.valueOf(step.run()); } catch (Throwable error) { value = plain(error); }
        System.out.println(name + ": " + value.replace("\n", "\\n"));
    }

    static List<List<Object>> rows(ResultSet set) throws SQLException {
        List<List<Object>> all = new ArrayList<>();
        while (set.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= set.getMetaData().getColumnCount(); i++) {
                Object value = set.getObject(i);
                row.add(value instanceof byte[] bytes ? Arrays.toString(bytes) : value instanceof java.sql.Array array ? array.toString() : value);
            }
            all.add(row);
        }
        return all;
    }

    static List<List<Object>> query(Connection on, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = on.prepareStatement(text)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            return statement.execute() ? rows(statement.getResultSet()) : List.of(List.of(statement.getUpdateCount()));
        }
    }

    static void run(Connection on, String text) throws SQLException {
        try (Statement statement = on.createStatement()) { statement.execute(text); }
    }

    public static void main(String[] words) throws Exception {
        try (Connection on = connect("ApplicationName", "story")) {
            run(on, "CREATE TABLE IF NOT EXISTS j (id serial PRIMARY KEY, name text UNIQUE, n int CHECK (n > 0)); TRUNCATE j RESTART IDENTITY");
            statements(on);
            batches();
            portals(on);
            copy(on);
            largeObjects(on);
            notifications(on);
            cancels(on);
            transactions(on);
            procedures(on);
            metadata(on);
        }
        autosave();
        twoPhase();
        connections();
        System.exit(0);
    }

    static void statements(Connection on) throws Exception {
        tell("application name", () -> query(on, "SHOW application_name"));
        tell("types", () -> query(on, "SELECT 1::int2, 2::int4, 3::int8, 1.5::float4, 2.5::float8, 1.25::numeric, 'x'::text, '\\x00ff'::bytea, true, NULL, date '2026-11-22', "
            + "time '10:00', timestamp '2026-11-22 10:00', timestamptz '2026-11-22 10:00+00', interval '1 day', '{1,2}'::int[], '{\"a\":1}'::jsonb, "
            + "'00000000-0000-0000-0000-000000000001'::uuid, point '(1,2)', '1 2 3'::tsvector, money '1.50', 'a=>b'::text, inet '::1'"));
        // The sixth run is a named statement, with results in binary.
        try (PreparedStatement named = on.prepareStatement("SELECT ?::int8 + 1, ?::bytea, ?::timestamptz, ?::float8, ?::uuid, ?::int[]")) {
            named.unwrap(PGStatement.class).setPrepareThreshold(3);
            for (long i = 0; i < 8; i++) {
                long value = i;
                named.setLong(1, value);
                named.setBytes(2, new byte[] {0, (byte) value});
                named.setTimestamp(3, new Timestamp(value * 1000));
                named.setDouble(4, value / 3.0);
                named.setObject(5, new UUID(value, value));
                named.setArray(6, on.createArrayOf("int4", new Object[] {1, null, (int) value}));
                tell("named", () -> rows(named.executeQuery()) + " " + named.unwrap(PGStatement.class).isUseServerPrepare());
            }
            tell("parameters", () -> named.getParameterMetaData().getParameterTypeName(6));
        }
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything"))
            try (Connection other = connect("preferQueryMode", mode, "prepareThreshold", "1", "binaryTransfer", "true")) {
                for (int i = 0; i < 3; i++) tell(mode, () -> query(other, "SELECT ?::int + 1, now() IS NOT NULL, '{1}'::int8[]", 41));
                tell(mode, () -> { run(other, "SELECT 1; SELECT 2; SELECT 3"); return "several"; });
            }
        for (String text : List.of("SELEC", "SELECT * FROM nowhere", "SELECT 'x'::int", "SELECT 1/0", "INSERT INTO j (name, n) VALUES ('a', -1)", "SELECT $9", "SELECT 1; SELEC; SELECT 2",
            "DO $$ BEGIN RAISE EXCEPTION 'own' USING DETAIL = 'd', HINT = 'h', ERRCODE = 'P0099'; END $$", "DO $$ BEGIN EXECUTE 'SELECT * FROM nowhere'; END $$"))
            tell("error", () -> query(on, text));
        tell("keys", () -> {
            try (PreparedStatement insert = on.prepareStatement("INSERT INTO j (name, n) VALUES (?, 1), (?, 2)", Statement.RETURN_GENERATED_KEYS)) {
                insert.setString(1, "one");
                insert.setString(2, "two");
                insert.executeUpdate();
                return rows(insert.getGeneratedKeys());
            }
        });
        tell("duplicate", () -> query(on, "INSERT INTO j (name, n) VALUES (?, 1)", "one"));
        tell("warnings", () -> {
            try (Statement statement = on.createStatement()) {
                statement.execute("DO $$ BEGIN RAISE NOTICE 'noticed'; RAISE WARNING 'warned'; END $$");
                return statement.getWarnings() + " " + statement.getWarnings().getNextWarning();
            }
        });
        tell("updatable", () -> {
            try (Statement statement = on.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE); ResultSet set = statement.executeQuery("SELECT id, name, n FROM j ORDER BY id")) {
                set.absolute(2);
                set.updateInt("n", 22);
                set.updateRow();
                set.moveToInsertRow();
                set.updateString("name", "inserted");
                set.updateInt("n", 5);
                set.insertRow();
            }
            return query(on, "SELECT name, n FROM j ORDER BY id");
        });
        run(on, "CREATE TEMP TABLE planned (a int); INSERT INTO planned VALUES (1)");
        try (PreparedStatement planned = on.prepareStatement("SELECT * FROM planned")) {
            for (int i = 0; i < 7; i++) planned.executeQuery();
            run(on, "ALTER TABLE planned ADD b text");
            tell("another plan", () -> rows(planned.executeQuery()));
            on.setAutoCommit(false);
            for (int i = 0; i < 7; i++) planned.executeQuery();
            run(on, "ALTER TABLE planned ADD c text");
            tell("another plan in a transaction", () -> rows(planned.executeQuery()));
            on.rollback();
            on.setAutoCommit(true);
            for (String text : List.of("DEALLOCATE ALL", "DISCARD ALL")) {
                try (PreparedStatement prepared = on.prepareStatement("SELECT ?::int")) {
                    for (int i = 0; i < 7; i++) { prepared.setInt(1, i); prepared.executeQuery(); }
                    run(on, text);
                    prepared.setInt(1, 7);
                    tell(text, () -> rows(prepared.executeQuery()));
                }
            }
        }
        tell("large", () -> query(on, "SELECT length(?), md5(?)", "0123456789".repeat(200000), "x".repeat(3000000)));
    }

    static void batches() throws Exception {
        for (String rewrite : List.of("false", "true"))
            try (Connection on = connect("reWriteBatchedInserts", rewrite)) {
                run(on, "CREATE TEMP TABLE b (a int PRIMARY KEY, t text)");
                try (PreparedStatement insert = on.prepareStatement("INSERT INTO b VALUES (?, ?)")) {
                    for (int i = 0; i < 1000; i++) { insert.setInt(1, i); insert.setString(2, "t" + i); insert.addBatch(); }
                    tell("batch", () -> Arrays.hashCode(insert.executeBatch()));
                    for (int i = 998; i < 1003; i++) { insert.setInt(1, i); insert.setString(2, null); insert.addBatch(); }
                    tell("broken batch", () -> Arrays.toString(insert.executeBatch()));
                }
                // More than goes through the sockets' buffers without being read.
                try (PreparedStatement update = on.prepareStatement("UPDATE b SET t = ? WHERE a = ? RETURNING *", Statement.RETURN_GENERATED_KEYS)) {
                    for (int i = 0; i < 3000; i++) { update.setString(1, "wide".repeat(200)); update.setInt(2, i % 1000); update.addBatch(); }
                    tell("wide batch", () -> { update.executeBatch(); int n = 0; ResultSet keys = update.getGeneratedKeys(); while (keys.next()) n++; return n; });
                }
                tell("count", () -> query(on, "SELECT count(*), sum(length(t)) FROM b"));
            }
    }

    static void portals(Connection on) throws Exception {
        on.setAutoCommit(false);
        try (PreparedStatement statement = on.prepareStatement("SELECT n, repeat('x', n) FROM generate_series(1, ?) n")) {
            statement.setFetchSize(100);
            statement.setInt(1, 1234);
            tell("fetched", () -> { long sum = 0; ResultSet set = statement.executeQuery(); while (set.next()) sum += set.getInt(1) + set.getString(2).length(); return sum; });
            ResultSet early = statement.executeQuery();
            early.next();
            early.close();
            ResultSet one = statement.executeQuery();
            one.next();
            tell("beside a portal", () -> query(on, "SELECT 1"));
            tell("the portal still", () -> { int n = 1; while (one.next()) n++; return n; });
            statement.setMaxRows(7);
            tell("at most", () -> rows(statement.executeQuery()).size());
        }
        on.commit();
        tell("cursor", () -> {
            run(on, "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM generate_series(1, 10)");
            return query(on, "FETCH 3 FROM c") + " " + query(on, "FETCH ABSOLUTE 9 FROM c") + " " + query(on, "CLOSE c");
        });
        on.commit();
        on.setAutoCommit(true);
    }

    static void copy(Connection on) throws Exception {
        CopyManager manager = on.unwrap(PGConnection.class).getCopyAPI();
        run(on, "CREATE TEMP TABLE c (a int, b text)");
        tell("copy in", () -> manager.copyIn("COPY c FROM STDIN WITH (FORMAT csv)", new StringReader("1,one\n2,\"t,wo\"\n".repeat(5000))));
        tell("copy out", () -> { StringWriter to = new StringWriter(); return manager.copyOut("COPY c TO STDOUT", to) + " " + to.toString().hashCode(); });
        tell("copy binary", () -> { ByteArrayOutputStream to = new ByteArrayOutputStream(); manager.copyOut("COPY c TO STDOUT (FORMAT binary)", to);
            return to.size() + " " + manager.copyIn("COPY c FROM STDIN (FORMAT binary)", new ByteArrayInputStream(to.toByteArray())); });
        tell("broken copy", () -> manager.copyIn("COPY c FROM STDIN", new StringReader("x\ty\n")));
        tell("cancelled copy", () -> { CopyIn in = manager.copyIn("COPY c FROM STDIN"); in.writeToCopy("1\ta\n".getBytes(), 0, 4); in.cancelCopy(); return in.isActive(); });
        // The cancel request may come late, to the next statement: on a connection of its own.
        try (Connection other = connect()) {
            tell("cancelled copy out", () -> { CopyOut out = other.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY (SELECT generate_series(1, 10000000)) TO STDOUT"); out.readFromCopy(); out.cancelCopy(); return out.isActive(); });
        }
        tell("copied", () -> query(on, "SELECT count(*) FROM c"));
    }

    static void largeObjects(Connection on) throws Exception {
        on.setAutoCommit(false);
        tell("large object", () -> {
            LargeObjectManager manager = on.unwrap(PGConnection.class).getLargeObjectAPI();
            long id = manager.createLO();
            LargeObject object = manager.open(id);
            object.write("0123456789".repeat(100000).getBytes());
            object.seek(5);
            String read = new String(object.read(7));
            object.truncate(20);
            long size = object.size();
            object.close();
            manager.delete(id);
            return read + " " + size;
        });
        tell("no large object", () -> on.unwrap(PGConnection.class).getLargeObjectAPI().open(999999999L));
        on.rollback();
        on.setAutoCommit(true);
    }

    static void notifications(Connection on) throws Exception {
        run(on, "LISTEN here");
        try (Connection other = connect()) { run(other, "NOTIFY here, 'said'; NOTIFY here, 'twice'"); }
        tell("heard", () -> { List<String> heard = new ArrayList<>(); while (heard.size() < 2) for (PGNotification one : on.unwrap(PGConnection.class).getNotifications(5000)) heard.add(one.getName() + " " + one.getParameter()); return heard; });
        tell("own", () -> { run(on, "NOTIFY here"); return on.unwrap(PGConnection.class).getNotifications()[0].getPID() == on.unwrap(PGConnection.class).getBackendPID(); });
        run(on, "UNLISTEN *");
    }

    static void cancels(Connection on) throws Exception {
        try (Statement statement = on.createStatement()) {
            statement.setQueryTimeout(1);
            tell("query timeout", () -> statement.executeQuery("SELECT pg_sleep(30)"));
            statement.setQueryTimeout(0);
            ScheduledExecutorService later = Executors.newSingleThreadScheduledExecutor();
            later.schedule(() -> { statement.cancel(); return null; }, 300, TimeUnit.MILLISECONDS);
            tell("cancelled", () -> statement.executeQuery("SELECT pg_sleep(30)"));
            later.shutdown();
            tell("lives", () -> rows(statement.executeQuery("SELECT 1")));
        }
        Connection slow = connect();
        slow.setNetworkTimeout(Runnable::run, 300);
        tell("network timeout", () -> query(slow, "SELECT pg_sleep(30)"));
        tell("closed", slow::isClosed);
    }

    static void transactions(Connection on) throws Exception {
        on.setReadOnly(true);
        on.setAutoCommit(false);
        tell("read only", () -> query(on, "INSERT INTO j (name, n) VALUES ('r', 1)"));
        on.rollback();
        on.setReadOnly(false);
        on.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        tell("isolation", () -> query(on, "SHOW transaction_isolation"));
        Savepoint named = on.setSavepoint("named");
        tell("in a savepoint", () -> query(on, "SELECT 1/0"));
        tell("aborted", () -> query(on, "SELECT 1"));
        on.rollback(named);
        tell("after it", () -> query(on, "SELECT 1"));
        on.releaseSavepoint(on.setSavepoint());
        on.commit();
        on.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        on.setAutoCommit(true);
        tell("schema", () -> { on.setSchema("pg_catalog"); String name = on.getSchema(); on.setSchema("public"); return name; });
    }

    static void procedures(Connection on) throws Exception {
        run(on, "CREATE OR REPLACE FUNCTION twice(IN a int, OUT b int, OUT c text) LANGUAGE sql AS 'SELECT a * 2, a::text'");
        run(on, "CREATE OR REPLACE PROCEDURE raised(INOUT a int) LANGUAGE plpgsql AS 'BEGIN a := a + 1; COMMIT; END'");
        run(on, "CREATE OR REPLACE FUNCTION refs() RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'ref'; BEGIN OPEN c FOR SELECT generate_series(1, 5); RETURN c; END $$");
        tell("out parameters", () -> { try (CallableStatement call = on.prepareCall("{call twice(?, ?, ?)}")) { call.setInt(1, 21); call.registerOutParameter(2, Types.INTEGER); call.registerOutParameter(3, Types.VARCHAR); call.execute(); return call.getInt(2) + call.getString(3); } });
        try (Connection other = connect("escapeSyntaxCallMode", "callIfNoReturn")) {
            tell("procedure", () -> { try (CallableStatement call = other.prepareCall("{call raised(?)}")) { call.setInt(1, 1); call.registerOutParameter(1, Types.INTEGER); call.execute(); return call.getInt(1); } });
        }
        on.setAutoCommit(false);
        tell("refcursor", () -> { try (CallableStatement call = on.prepareCall("{? = call refs()}")) { call.registerOutParameter(1, Types.REF_CURSOR); call.execute(); return rows((ResultSet) call.getObject(1)); } });
        on.commit();
        on.setAutoCommit(true);
    }

    static void metadata(Connection on) throws Exception {
        DatabaseMetaData about = on.getMetaData();
        tell("product", () -> about.getDatabaseProductName() + about.getDatabaseProductVersion() + about.getMaxConnections() + about.getUserName());
        tell("tables", () -> rows(about.getTables(null, "pg_catalog", "%", null)).size());
        tell("columns", () -> rows(about.getColumns(null, "public", "j", "%")));
        tell("keys", () -> rows(about.getPrimaryKeys(null, "public", "j")) + " " + rows(about.getImportedKeys(null, null, "j")) + rows(about.getExportedKeys(null, null, "j")));
        tell("indexes", () -> rows(about.getIndexInfo(null, "public", "j", false, true)));
        tell("functions", () -> rows(about.getFunctions(null, "public", "%")).size() + " " + rows(about.getProcedures(null, "public", "%")).size() + " " + rows(about.getFunctionColumns(null, "public", "twice", "%")).size());
        tell("rest", () -> rows(about.getSchemas()) + " " + rows(about.getTypeInfo()).size() + " " + rows(about.getTablePrivileges(null, "public", "j")) + " " + rows(about.getColumnPrivileges(null, "public", "j", "%")).size()
            + about.getSQLKeywords().length() + rows(about.getVersionColumns(null, "public", "j")) + rows(about.getBestRowIdentifier(null, "public", "j", 0, true)));
        tell("of a result", () -> { try (PreparedStatement one = on.prepareStatement("SELECT id AS x, name FROM j")) { ResultSetMetaData of = one.getMetaData(); PGResultSetMetaData own = of.unwrap(PGResultSetMetaData.class); return own.getBaseTableName(1) + own.getBaseColumnName(1) + own.getBaseSchemaName(1) + of.isNullable(1) + of.isAutoIncrement(1); } });
        tell("valid", () -> on.isValid(5));
        tell("client info", () -> { on.setClientInfo("ApplicationName", "renamed"); return on.getClientInfo() + " " + query(on, "SHOW application_name"); });
        tell("parameters", () -> { Map<String, String> of = new TreeMap<>(on.unwrap(PGConnection.class).getParameterStatuses()); return of; });
    }

    static void autosave() throws Exception {
        for (String mode : List.of("always", "conservative", "never"))
            try (Connection on = connect("autosave", mode, "cleanupSavepoints", "true")) {
                on.setAutoCommit(false);
                tell(mode, () -> query(on, "SELECT 1"));
                tell(mode, () -> query(on, "SELECT 1/0"));
                tell(mode, () -> query(on, "SELECT 2"));
                tell(mode, () -> { run(on, "CREATE TEMP TABLE s (a int)"); return "made"; });
                tell(mode, () -> { on.commit(); return "committed"; });
            }
    }

    static void twoPhase() throws Exception {
        PGXADataSource source = new PGXADataSource();
        source.setUrl(place());
        source.setUser("postgres");
        source.setPassword(System.getenv("PGPASSWORD"));
        source.setSslMode("disable");
        XAConnection both = source.getXAConnection();
        XAResource resource = both.getXAResource();
        Connection on = both.getConnection();
        for (boolean commit : new boolean[] {true, false}) {
            byte[] branch = {(byte) (commit ? 1 : 2)};
            Xid id = new Xid() {
                public int getFormatId() { return 7; }
                public byte[] getGlobalTransactionId() { return new byte[] {9, 9}; }
                public byte[] getBranchQualifier() { return branch; }
            };
            tell("two-phase", () -> {
                resource.start(id, XAResource.TMNOFLAGS);
                query(on, "INSERT INTO j (name, n) VALUES (?, 3)", "xa" + commit);
                resource.end(id, XAResource.TMSUCCESS);
                int vote = resource.prepare(id);
                int waiting = resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length;
                if (commit) resource.commit(id, false); else resource.rollback(id);
                return vote + " " + waiting + " " + query(on, "SELECT name FROM j WHERE name LIKE 'xa%'");
            });
        }
        both.close();
    }

    static void connections() throws Exception {
        String[][] ways = {{"sslmode", "require"}, {"sslmode", "prefer"}, {"sslmode", "allow"}, {"options", "-c search_path=pg_catalog -c statement_timeout=5s"}, {"currentSchema", "pg_catalog"},
            {"readOnly", "true", "readOnlyMode", "always"}, {"targetServerType", "primary"}, {"targetServerType", "secondary"}, {"assumeMinServerVersion", "15"}, {"binaryTransfer", "false"},
            {"gssEncMode", "prefer"}, {"loginTimeout", "10"}, {"socketTimeout", "10", "tcpKeepAlive", "true"}, {"defaultRowFetchSize", "2"}, {"stringtype", "unspecified"}, {"hideUnprivilegedObjects", "true"},
            {"replication", "database", "preferQueryMode", "simple", "assumeMinServerVersion", "15"}};
        for (String[] way : ways)
            try (Connection on = connect(way)) {
                tell(String.join(" ", way), () -> query(on, "SELECT current_setting('search_path'), current_setting('statement_timeout'), current_setting('transaction_read_only')"));
            } catch (SQLException error) {
                tell(String.join(" ", way), () -> error.getMessage().replaceAll(":\\d+", ""));
            }
        tell("several hosts", () -> {
            Properties of = new Properties();
            of.put("user", "postgres");
            of.put("password", System.getenv("PGPASSWORD"));
            of.put("sslmode", "disable");
            of.put("targetServerType", "any");
            try (Connection on = DriverManager.getConnection("jdbc:postgresql://127.0.0.1:1," + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/postgres", of)) { return query(on, "SELECT 1"); }
        });
        Connection killed = connect();
        try (Connection other = connect()) { query(other, "SELECT pg_terminate_backend(?)", killed.unwrap(PGConnection.class).getBackendPID()); }
        // What ends the connection after that is the network's word: a reset or an end.
        tell("terminated", () -> { try { return query(killed, "SELECT 1"); } catch (SQLException error) { return error.getMessage() + error.getSQLState(); } });
        tell("closed", killed::isClosed);
    }
}
