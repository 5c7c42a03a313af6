//! `postern env`: what clients of a target read.

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use crate::args::ConnectionArgs;
use crate::client_args::{EnvArgs, EnvFormat};
use crate::credentials;
use crate::failure::Failure;
use crate::output;
use crate::reach::Reach;

/// A service file is far smaller.
const MAX_SERVICES: u64 = 1 << 20;

pub(crate) async fn run(args: &EnvArgs, connection: &ConnectionArgs) -> Result<(), Failure> {
    let reach = Reach::find(&args.reach, connection).await?;
    let mut all = reach.variables().await?;
    let token = reach.token().await?;
    let service = args.write || args.format == EnvFormat::Pgservice;
    if args.passfile || service {
        let file = credentials::home()?.join("passwords").join(format!("{}.pgpass", reach.target));
        // Any host, port and database: there is one user in it (libpq, the password file).
        let line = format!("*:*:*:{}:{}\n", reach.target, token.token.expose_secret());
        credentials::write_own(&file, &line)?;
        all.push(("PGPASSFILE", file.display().to_string()));
    } else {
        all.push(("PGPASSWORD", token.token.expose_secret().to_owned()));
    }
    if args.write {
        let path = services()?;
        let entry = entry(reach.target.as_str(), &all)?;
        write_entry(&path, reach.target.as_str(), &entry)?;
        output::note(format!(
            "service={} is in {}; its token is good until {}: run this again for another.",
            reach.target,
            path.display(),
            super::when_exactly(token.expires_at)
        ));
        return Ok(());
    }
    output::note(format!("The token is good until {}.", super::when_exactly(token.expires_at)));
    let text = match args.format {
        EnvFormat::Shell => lines(&all, |name, value| format!("export {name}={}", shell(value))),
        EnvFormat::Fish => lines(&all, |name, value| format!("set -gx {name} {}", fish(value))),
        EnvFormat::Dotenv => lines(&all, |name, value| format!("{name}={}", dotenv(value))),
        EnvFormat::Json => {
            let all: Map<_, _> =
                all.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
            return output::json(&Value::Object(all));
        }
        EnvFormat::Pgservice => entry(reach.target.as_str(), &all)?,
    };
    output::raw(text.as_bytes())
}

fn lines(all: &[(&str, String)], line: impl Fn(&str, &str) -> String) -> String {
    all.iter().map(|(name, value)| line(name, value) + "\n").collect()
}

/// POSIX shells: nothing within single quotes means anything.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn fish(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

fn dotenv(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | '$' | '`' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            _ => out.push(c),
        }
    }
    out + "\""
}

/// libpq's names of the same things.
fn entry(name: &str, all: &[(&str, String)]) -> Result<String, Failure> {
    let keys = [
        ("PGHOST", "host"),
        ("PGHOSTADDR", "hostaddr"),
        ("PGPORT", "port"),
        ("PGUSER", "user"),
        ("PGDATABASE", "dbname"),
        ("PGSSLMODE", "sslmode"),
        ("PGSSLROOTCERT", "sslrootcert"),
        ("PGPASSFILE", "passfile"),
    ];
    let mut out = format!("[{name}]\n");
    for (variable, value) in all {
        let Some((_, key)) = keys.iter().find(|(known, _)| known == variable) else { continue };
        // There is no quoting in such a file.
        if value.contains(['\n', '\r']) || value.trim() != value {
            return Err(Failure::failed(format!("{variable} cannot stand in a service file")));
        }
        out.push_str(&format!("{key}={value}\n"));
    }
    Ok(out)
}

fn services() -> Result<PathBuf, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PGSERVICEFILE")
        .or_else(|| set("HOME").map(|home| home.join(".pg_service.conf")))
        .ok_or_else(|| Failure::failed("where is your home? set HOME or PGSERVICEFILE"))
}

/// Puts the entry into the file, in marks of our own; what others wrote stays as it is.
fn write_entry(path: &Path, name: &str, entry: &str) -> Result<(), Failure> {
    let cannot = |why: String| Failure::failed(format!("{}: {why}", path.display()));
    // A link is followed: what it leads to is replaced, and not the link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = match std::fs::metadata(&path) {
        Ok(about) if about.len() > MAX_SERVICES => return Err(cannot("it is larger than 1 MiB".to_owned())),
        Ok(_) => std::fs::read_to_string(&path).map_err(|error| cannot(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot(error.to_string())),
    };
    let after = with_entry(&before, name, entry).map_err(cannot)?;
    if after != before {
        postern_runtime::pki::write_private(&path, after.as_bytes())
            .map_err(|error| Failure::failed(error.to_string()))?;
    }
    Ok(())
}

fn with_entry(before: &str, name: &str, entry: &str) -> Result<String, String> {
    let (begin, end) = (format!("# postern {name}: begin\n"), format!("# postern {name}: end\n"));
    let block = format!("{begin}{entry}{end}");
    let heading = format!("[{name}]");
    let (head, tail) = match before.split_once(&begin) {
        Some((head, rest)) => {
            let (_, tail) = rest.split_once(&end).ok_or("the mark of its entry's end is missing: mend it by hand")?;
            (head.to_owned(), tail)
        }
        None => {
            let joint = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            (format!("{before}{joint}"), "")
        }
    };
    // libpq takes the first.
    if head.lines().chain(tail.lines()).any(|line| line.trim() == heading) {
        return Err(format!("there is another entry {heading} in it"));
    }
    Ok(format!("{head}{block}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_so_that_nothing_in_them_runs() {
        let odd = "a'b\"c$(touch x)`y`\\ z";
        let out = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", shell(odd))]).output().unwrap();
        assert_eq!(std::str::from_utf8(&out.stdout).unwrap(), odd);
        assert_eq!(fish("a'b\\c"), r"'a\'b\\c'");
        assert_eq!(dotenv("a\"b$c\\d"), r#""a\"b\$c\\d""#);
    }

    #[test]
    fn an_entry_is_put_in_its_own_place() {
        let others = "# mine\n[other]\nhost=x\n";
        let first = with_entry(others, "shop", "[shop]\nhost=a\n").unwrap();
        assert_eq!(first, format!("{others}# postern shop: begin\n[shop]\nhost=a\n# postern shop: end\n"));
        assert_eq!(with_entry(&first, "shop", "[shop]\nhost=a\n").unwrap(), first);
        let with_more = format!("{first}[last]\nhost=y\n");
        let second = with_entry(&with_more, "shop", "[shop]\nhost=b\n").unwrap();
        assert_eq!(second, with_more.replace("host=a", "host=b"));
        assert!(with_entry("[shop]\nhost=mine\n", "shop", "[shop]\n").unwrap_err().contains("another entry"));
        assert!(with_entry("# postern shop: begin\n[shop]\n", "shop", "[shop]\n").is_err());
        assert_eq!(with_entry("x", "a", "[a]\n").unwrap(), "x\n# postern a: begin\n[a]\n# postern a: end\n");
        let bad = [("PGHOST", "a\nb".to_owned())];
        assert!(entry("shop", &bad).is_err());
    }
}
