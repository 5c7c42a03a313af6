"""Prepares tokio-postgres' own tests: `rust_postgres.py CRATE FOLDER`. CRATE is the unpacked crate, FOLDER gets a package of its tests.

They expect a server at port 5433 that trusts `postgres`, and users with the password `password`: the place and the passwords are taken from libpq's environment instead."""

import pathlib
import re
import shutil
import sys

HELPER = '''
fn here(config: &str) -> String {
    let of = |name| std::env::var(name).unwrap();
    let config = config.replace("5433", &of("PGPORT")).replace("password=password", &format!("password={}", of("PGPASSWORD")));
    let config = config.replace("_user", "-user"); // as a target may be named
    if config.contains("user=postgres") { format!("{config} password={}", of("PGPASSWORD")) } else { config }
}
'''


def main():
    crate, folder = map(pathlib.Path, sys.argv[1:])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(crate, folder, ignore=shutil.ignore_patterns(".cargo*"))
    manifest = (folder / "Cargo.toml").read_text()
    manifest = re.sub(r"\[\[bench\]\]\n(?:.+\n)+", "", manifest)
    manifest = re.sub(r"\[dev-dependencies\.criterion\]\n(?:.+\n)+", "", manifest)
    (folder / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
    tests = folder / "tests/test"
    text = (tests / "main.rs").read_text()
    text = text.replace('TcpStream::connect("127.0.0.1:5433")', 'TcpStream::connect(here("127.0.0.1:5433"))')
    text = text.replace("s.parse::<Config>()", "here(s).parse::<Config>()")
    (tests / "main.rs").write_text(text + HELPER)
    text = (tests / "runtime.rs").read_text()
    text = re.sub(r'tokio_postgres::connect\(\s*(s|"[^"]*")', r"tokio_postgres::connect(&crate::here(\1)", text)
    (tests / "runtime.rs").write_text(text)


if __name__ == "__main__":
    main()
