//! Forwards of others, as peers of the tunnel: a process or two between the client and the target.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use postern_chaos::live::{Process, free_port, run, wait_until};
use postern_runtime::pki::self_signed_listener;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use crate::ways::UP;

/// A forward of OpenSSH: a client and a server of it in between.
pub(crate) struct Ssh {
    pub(crate) port: u16,
    _server: Process,
    _client: Process,
    _folder: TempDir,
}

/// A haproxy that takes TLS and goes on in clear, as an agent does.
pub(crate) struct Haproxy {
    pub(crate) port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Ssh {
    pub(crate) fn start(target: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ssh-bench-").tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        for key in ["host", "user"] {
            let mut make = std::process::Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
            run(make, "", UP)?.ok()?;
        }
        fs::copy(at("user.pub"), at("authorized"))?;
        let (server, forward) = (free_port()?, free_port()?);
        fs::write(
            at("sshd_config"),
            format!(
                "Port {server}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
                 PasswordAuthentication no\nAllowTcpForwarding yes\nPermitRootLogin yes\n",
                at("host"),
                at("authorized")
            ),
        )?;
        let sshd = Path::new("/usr/sbin/sshd");
        ensure!(sshd.exists(), "OpenSSH's server is not installed: run `scripts/bootstrap.sh bench`");
        fs::create_dir_all("/run/sshd").context("the folder that sshd wants")?;
        let arguments = ["-D", "-e", "-f", &at("sshd_config")].map(str::to_owned);
        let server_process = Process::start("sshd", sshd, &arguments, &[], None, folder.path())?;
        let (port, to) = (server.to_string(), format!("{forward}:127.0.0.1:{target}"));
        let user = format!("{}@127.0.0.1", postern_benches::output_of("id", &["-un"]));
        let (key, known) = (at("user"), at("known"));
        let arguments = [
            "-N",
            "-F",
            "none",
            "-p",
            &port,
            "-i",
            &key,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            &format!("UserKnownHostsFile={known}"),
            "-o",
            "ExitOnForwardFailure=yes",
            "-L",
            &to,
            &user,
        ]
        .map(str::to_owned);
        wait_until(UP, "sshd", || Ok(listening(server)))?;
        let client = Process::start("ssh", Path::new("/usr/bin/ssh"), &arguments, &[], None, folder.path())?;
        wait_until(UP, "the forward", || Ok(listening(forward)))
            .with_context(|| format!("{}{}", client.stderr(), server_process.stderr()))?;
        Ok(Self { port: forward, _server: server_process, _client: client, _folder: folder })
    }
}

impl Haproxy {
    pub(crate) fn start(target: u16) -> Result<Self> {
        let program = Path::new("/usr/sbin/haproxy");
        ensure!(program.exists(), "haproxy is not installed: run `scripts/bootstrap.sh bench`");
        let folder = tempfile::Builder::new().prefix("haproxy-bench-").tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key) = self_signed_listener(&["localhost".to_owned()])?;
        fs::write(at("certificate.pem"), format!("{certificate}{}", key.expose_secret()))?;
        let port = free_port()?;
        fs::write(
            at("haproxy.cfg"),
            format!(
                "global\n  maxconn 1000\n  tune.ssl.default-dh-param 2048\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
                 listen forward\n  bind 127.0.0.1:{port} ssl crt {} ssl-min-ver TLSv1.3\n  server target 127.0.0.1:{target}\n",
                at("certificate.pem")
            ),
        )?;
        let arguments = ["-db", "-f", &at("haproxy.cfg")].map(str::to_owned);
        let process = Process::start("haproxy", program, &arguments, &[], None, folder.path())?;
        wait_until(UP, "haproxy", || Ok(listening(port))).with_context(|| process.stderr())?;
        Ok(Self { port, _process: process, _folder: folder })
    }
}

fn listening(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
