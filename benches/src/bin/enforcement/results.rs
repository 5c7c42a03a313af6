//! Long results: as rows, and by COPY.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_benches::progress;
use postern_chaos::live::Connection;
use postern_chaos::live::wire::message;
use tokio_postgres::NoTls;

use crate::stage::Peer;

/// One statement with a long result.
pub(crate) struct Long {
    pub(crate) name: &'static str,
    sql: &'static str,
    /// The gateway masks two columns of it.
    masked: bool,
}

pub(crate) const RESULTS: [Long; 4] = [
    Long { name: "rows", sql: "SELECT * FROM people", masked: false },
    Long { name: "rows, two columns masked", sql: "SELECT * FROM guarded", masked: true },
    Long { name: "COPY", sql: "COPY people TO STDOUT", masked: false },
    Long { name: "COPY, two columns masked", sql: "COPY guarded TO STDOUT", masked: true },
];

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Rows a second.
    pub(crate) rows: f64,
    /// Processor time of the process between, nanoseconds a row.
    pub(crate) processor: f64,
    /// What the process between grew by, kilobytes.
    pub(crate) grown: f64,
}

impl Long {
    pub(crate) fn run(&self, peer: &Peer, rows: u32) -> Result<Measured> {
        let mut stream = login(&peer.connection)?;
        let (processor, memory) = (peer.processor()?, peer.memory()?);
        let start = Instant::now();
        stream.write_all(&message('Q', format!("{}\0", self.sql).as_bytes())?)?;
        let (came, stars) = drain(&mut stream)?;
        let took = start.elapsed().as_secs_f64();
        ensure!(came == u64::from(rows), "{came} rows");
        ensure!(stars == (self.masked && peer.masks), "masked: {stars}");
        Ok(Measured {
            rows: f64::from(rows) / took,
            processor: (peer.processor()? - processor) * 1e9 / f64::from(rows),
            grown: peer.memory()? - memory,
        })
    }
}

/// The driver logs in; then its connection is taken from it, because it would take longer over the rows than whoever is measured.
fn login(to: &Connection) -> Result<TcpStream> {
    let stream = TcpStream::connect((to.host.as_str(), to.port))?;
    stream.set_nodelay(true)?;
    let ours = stream.try_clone()?;
    stream.set_nonblocking(true)?;
    let mut config = tokio_postgres::Config::new();
    config.user(&to.user).dbname(&to.database).password(&to.password);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        // What is not run cannot say goodbye.
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        drop((connection, client));
        anyhow::Ok(())
    })?;
    ours.set_nonblocking(false)?;
    ours.set_read_timeout(Some(Duration::from_secs(120)))?;
    Ok(ours)
}

/// Reads until the server is ready: how many rows came, and whether the first of them has a mask's text.
fn drain(stream: &mut TcpStream) -> Result<(u64, bool)> {
    let mut buffer = vec![0_u8; 256 << 10];
    let (mut start, mut end, mut rows, mut stars) = (0_usize, 0_usize, 0_u64, false);
    loop {
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        let came = stream.read(buffer.get_mut(end..).context("room")?)?;
        ensure!(came > 0, "the session ended");
        end += came;
        while let Some(head) = buffer.get(start..end).and_then(<[u8]>::first_chunk::<5>) {
            let [kind, length @ ..] = *head;
            let whole = usize::try_from(u32::from_be_bytes(length))? + 1;
            let Some(frame) = buffer.get(start..end).and_then(|rest| rest.get(..whole)) else { break };
            match kind {
                b'D' | b'd' => {
                    stars |= rows == 0 && frame.windows(4).any(|bytes| bytes == b"****");
                    rows += 1;
                }
                b'Z' => return Ok((rows, stars)),
                b'E' => bail!("{}", frame.escape_ascii()),
                _ => {}
            }
            start += whole;
        }
    }
}

impl Measured {
    pub(crate) fn tell(&self, round: u32, rounds: u32, long: &Long, peer: &Peer) {
        let Self { rows, processor, grown } = self;
        progress(&format!(
            "{round}/{rounds} {} {}: {rows:.0} rows/s, processor {processor:.0} ns a row, grown by {grown:.0} kB",
            long.name, peer.name
        ));
    }
}
