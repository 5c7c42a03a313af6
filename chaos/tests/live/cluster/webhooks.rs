//! A webhook is told what happened under a leader that is dead, by the one that came after.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use postern_chaos::live::cluster::Gateway;
use postern_chaos::live::{Postgres, PostgresOptions, Process, wait_until};

use super::cluster;

/// Takes what is posted, one line of JSON each, to the file that it is given. Python's own HTTP server, and its own HMAC.
const ENDPOINT: &str = r#"
import base64, hashlib, hmac, http.server, sys
key = b"not-guessed-91d7"
class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        good = hmac.compare_digest(wanted, self.headers["webhook-signature"])
        with open(sys.argv[2], "ab") as out:
            out.write((body if good else b"forged") + b"\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint).serve_forever()
"#;

#[test]
fn the_next_leader_tells_what_the_last_one_could_not() {
    let postgres = Postgres::start(PostgresOptions::default()).unwrap();
    let mut cluster = cluster();
    let gateway = Gateway::start(&cluster, &postgres).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let objects = format!(
        "apiVersion: postern/v1\nkind: Secret\nmetadata: {{name: hook}}\nspec: {{value: not-guessed-91d7}}\n---\n\
         apiVersion: postern/v1\nkind: Webhook\nmetadata: {{name: ops}}\n\
         spec: {{url: \"http://127.0.0.1:{port}/\", secret: hook}}\n"
    );
    let limit = Duration::from_secs(30);
    wait_until(limit, "the webhook", || Ok(cluster.cli().try_apply(&objects)?.status.success())).unwrap();

    // Nobody listens yet.
    let connection = gateway.connection("robot-1", &["robots"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut psql = connection.psql().start("held", "DELETE FROM orders WHERE id = 7", folder.path()).unwrap();
    wait_until(limit, "the client's notice", || Ok(psql.stderr().contains("held by Postern"))).unwrap();
    let leader = cluster.leader().unwrap();
    cluster.member(leader).unwrap().kill9().unwrap();
    let file = folder.path().join("told");
    let arguments = ["-c".to_owned(), ENDPOINT.to_owned(), port.to_string(), file.display().to_string()];
    let _endpoint = Process::start("endpoint", Path::new("/usr/bin/python3"), &arguments, &[], None, folder.path());
    let told = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until(Duration::from_secs(60), "the request to be told", || Ok(told().contains("approval.requested")))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    psql.kill9().unwrap();
    wait_until(Duration::from_secs(60), "the withdrawal to be told", || Ok(told().contains("approval.withdrawn")))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.logs()));
    assert!(!told().contains("forged"));
    assert!(told().contains("DELETE FROM orders WHERE id = 7"));
}
