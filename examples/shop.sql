-- A small shop, for the demo and to play with. Run as the owner of an empty database.
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    card text NOT NULL,
    city text NOT NULL,
    since date NOT NULL
);

CREATE TABLE products (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0)
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    product_id bigint NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'shipped', 'cancelled')),
    ordered_at timestamptz NOT NULL
);

-- Nobody is granted this one.
CREATE TABLE payroll (
    employee text PRIMARY KEY,
    salary numeric(10, 2) NOT NULL
);

INSERT INTO customers (name, email, card, city, since) VALUES
    ('Ada Lovelace', 'ada@example.com', '4111111111111111', 'London', '2021-03-14'),
    ('Grace Hopper', 'grace@example.com', '5500005555555559', 'New York', '2022-07-01'),
    ('Alan Turing', 'alan@example.com', '340000000000009', 'Manchester', '2022-11-23'),
    ('Katherine Johnson', 'katherine@example.com', '30000000000004', 'Hampton', '2023-02-20'),
    ('Edsger Dijkstra', 'edsger@example.com', '6011000000000004', 'Nuenen', '2024-05-11');

INSERT INTO products (name, price) VALUES
    ('Notebook', 4.50), ('Fountain pen', 39.00), ('Slide rule', 24.90), ('Desk lamp', 61.25);

INSERT INTO orders (customer_id, product_id, quantity, status, ordered_at)
SELECT 1 + n % 5, 1 + n % 4, 1 + n % 3, (ARRAY['open', 'paid', 'shipped', 'cancelled'])[1 + n % 4],
       timestamptz '2026-01-05 09:00:00+00' + n * interval '7 hours'
FROM generate_series(0, 39) AS n;

INSERT INTO payroll VALUES ('Charles Babbage', 90000), ('Mary Somerville', 95000);
