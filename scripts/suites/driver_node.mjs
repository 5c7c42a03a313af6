// What node-postgres can do, told line by line: compared direct and through Postern. Process ids and OIDs are not told.
import pg from 'pg';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import { pipeline } from 'node:stream/promises';
import { Readable, Writable } from 'node:stream';

const tell = (name, value) => console.log(`${name}: ${JSON.stringify(value)}`);
const plain = ({ severity, code, detail, hint, position, where, schema, table, column, constraint, file, line, routine, message }) =>
  ({ severity, code, detail, hint, position, where, schema, table, column, constraint, file, line, routine, message });
const fails = async (name, run) => {
  try { tell(name, await run()); } catch (error) { tell(name, plain(error)); }
};

const client = new pg.Client();
await client.connect();
const rows = async (text, values) => (await client.query(text, values)).rows;
await fails('types', () => rows(`SELECT 1::int2 a, 2::int8 b, 1.5::float8 c, 1.5::numeric d, 'x'::text e, '\\x00ff'::bytea f, true g, NULL h, '2026-11-22'::date i, '{1,2}'::int[] j, '{"a":1}'::jsonb k`));
for (const value of [1, 'text', true, null, new Date(0), [1, 2], { a: 1 }, Buffer.from([0, 255])]) await fails('parameter', () => rows('SELECT $1 AS v', [value]));
await fails('array mode', async () => (await client.query({ text: 'SELECT 1, 2', rowMode: 'array' })).rows);
await fails('fields', async () => (await client.query('SELECT 1 AS a, now() AS b')).fields.map(({ name, dataTypeID, dataTypeSize, format }) => [name, dataTypeID, dataTypeSize, format]));
for (let i = 0; i < 3; i++) await fails('named', () => rows({ name: 'named', text: 'SELECT $1::int + 1 AS n', values: [i] }));
await fails('several', async () => (await client.query('SELECT 1 AS a; SELECT 2 AS b; SET work_mem = 1024')).map((r) => [r.command, r.rowCount, r.rows]));
await fails('error', () => rows('SELECT * FROM nowhere'));
await fails('error', () => rows('SELEC'));
await fails('error', () => rows('SELECT $1::int', ['no number']));
await client.query('CREATE TEMP TABLE t (a int PRIMARY KEY, b text)');
await client.query('BEGIN');
await fails('insert', async () => (await client.query('INSERT INTO t VALUES ($1, $2) RETURNING *', [1, 'x'])).rows);
await fails('duplicate', () => rows('INSERT INTO t VALUES ($1, $2)', [1, 'x']));
await fails('aborted', () => rows('SELECT 1'));
await client.query('ROLLBACK');
// Without waiting in between: node-postgres queues.
await fails('queued', async () => (await Promise.all([...Array(50).keys()].map((n) => client.query('SELECT $1::int AS n', [n])))).map((r) => r.rows[0].n));
const cursor = client.query(new Cursor('SELECT * FROM generate_series(1, $1) n', [25]));
await fails('cursor', async () => { const parts = []; let part; do { part = await cursor.read(10); parts.push(part.length); } while (part.length); return parts; });
await cursor.close();
const early = client.query(new Cursor('SELECT * FROM generate_series(1, 100000) n'));
await fails('cursor that is closed early', async () => { const part = await early.read(3); await early.close(); return part; });
await fails('stream', async () => { let sum = 0; for await (const row of client.query(new QueryStream('SELECT n FROM generate_series(1, 5000) n', [], { batchSize: 77 }))) sum += row.n; return sum; });
await fails('copy in', async () => { await pipeline(Readable.from(Array.from({ length: 5000 }, (_, n) => `${n + 10}\tline ${n}\n`)), client.query(copyFrom('COPY t FROM STDIN'))); return rows('SELECT count(*)::int AS n FROM t'); });
await fails('copy out', async () => { let size = 0; await pipeline(client.query(copyTo('COPY t TO STDOUT')), new Writable({ write(chunk, _, done) { size += chunk.length; done(); } })); return size; });
await fails('broken copy', () => pipeline(Readable.from(['no number\n']), client.query(copyFrom('COPY t FROM STDIN'))));
await fails('lives', () => rows('SELECT 1 AS a'));
const heard = [];
client.on('notification', ({ channel, payload, processId }) => heard.push([channel, payload, processId === client.processID]));
client.on('notice', ({ severity, code, message }) => heard.push([severity, code, message]));
await client.query(`LISTEN c; NOTIFY c, 'own'; DO $$ BEGIN RAISE NOTICE 'noticed'; END $$`);
await fails('heard', async () => { await rows('SELECT 1'); return heard; });
await fails('own pid', async () => (await rows('SELECT pg_backend_pid() AS pid'))[0].pid === client.processID);
await fails('timeout', async () => { await client.query('SET statement_timeout = 200'); return rows('SELECT pg_sleep(10)'); });
await client.query('RESET statement_timeout');
await fails('empty', async () => (await client.query('')).rowCount);
await fails('no columns', async () => (await client.query('SELECT')).rows);
await fails('large', async () => (await rows('SELECT repeat($1, 1000000) AS v', ['0123456789']))[0].v.length);
await client.end();
const pool = new pg.Pool({ max: 5, application_name: 'pooled', statement_timeout: 5000, options: '-c search_path=pg_catalog' });
await fails('pool', async () => (await Promise.all([...Array(20).keys()].map(() => pool.query(`SELECT current_setting('application_name') a, current_setting('search_path') b, current_setting('statement_timeout') c`)))).length);
await fails('pool', async () => (await pool.query(`SELECT current_setting('application_name') a, current_setting('search_path') b, current_setting('statement_timeout') c`)).rows);
await pool.end();
const killed = new pg.Client();
await killed.connect();
const gone = new Promise((resolve) => killed.on('error', (error) => resolve(plain(error))));
const other = new pg.Client();
await other.connect();
await other.query('SELECT pg_terminate_backend($1)', [killed.processID]);
tell('terminated', await gone);
await other.end();
