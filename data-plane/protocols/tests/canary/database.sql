-- Values that are masked hold the word CANARY; no byte of it may leave.
CREATE SCHEMA cn;
SET search_path = cn;
CREATE TABLE people (
    id int PRIMARY KEY, name text, email text, phone varchar(20),
    dom text GENERATED ALWAYS AS (split_part(email, '@', 2)) STORED,
    doc jsonb
);
INSERT INTO people (id, name, email, phone, doc)
    SELECT i, 'n' || i, 'CANARY' || i || '@CANARY.org', 'CANARY' || i, jsonb_build_object('x', 'ok' || i) FROM generate_series(1, 5) i;
CREATE VIEW pv AS SELECT id, name, upper(email) AS up FROM people;
CREATE VIEW pn AS SELECT id, name FROM people;
CREATE VIEW pw AS SELECT p AS r, p.id FROM people p;
CREATE VIEW pvv AS SELECT * FROM pv;
CREATE MATERIALIZED VIEW pm AS SELECT email FROM people;
CREATE TABLE par (id int, email text) PARTITION BY LIST (id);
CREATE TABLE par1 PARTITION OF par FOR VALUES IN (1);
INSERT INTO par VALUES (1, 'CANARYpar');
CREATE TABLE base (id int, secret text);
CREATE TABLE kid (extra text) INHERITS (base);
INSERT INTO kid VALUES (1, 'CANARYkid', 'e');
CREATE FUNCTION leak(p people) RETURNS text LANGUAGE sql STABLE AS 'SELECT p.email';
CREATE FUNCTION leakq() RETURNS SETOF people LANGUAGE sql STABLE AS 'SELECT * FROM cn.people';
CREATE VIEW pf AS SELECT x.id, leak(x) AS l FROM people x;
CREATE TABLE notes (id int, t text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'have %', (SELECT email FROM cn.people LIMIT 1); RETURN NEW; END $$;
CREATE TRIGGER tell BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION tell();
ANALYZE people;
ALTER ROLE owner SET search_path = cn, public;
