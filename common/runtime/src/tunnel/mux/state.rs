//! The multiplexer without its connection: frames in, frames out, who is to be woken.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::{Buf as _, BytesMut};

use super::frame::{self, Frame, HEADER, MAX_PAYLOAD};
use super::{MuxFault, Side};
use crate::tunnel::{STREAM_WINDOW, cause};

/// Bytes that a stream holds for sending, past what the peer has granted.
pub(super) const SEND_BUFFER: usize = 128 << 10;
/// What was read is granted again in portions of this size.
const GRANT: u32 = STREAM_WINDOW / 4;
/// Refusals of streams that wait to be sent; a peer that goes on opening meanwhile floods.
const MAX_REFUSALS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Sending {
    pub(super) buffer: BytesMut,
    credit: u32,
    /// `finish` was called.
    pub(super) finished: bool,
    fin_sent: bool,
    /// To be sent, then sent.
    pub(super) reset: Option<u32>,
    reset_sent: bool,
    pub(super) stopped: Option<u32>,
    pub(super) dropped: bool,
    pub(super) waker: Option<Waker>,
    pub(super) stop_wakers: Vec<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Receiving {
    pub(super) buffer: BytesMut,
    /// What the peer may still send.
    window: u32,
    /// What was read and not yet granted again.
    pub(super) owed: u32,
    pub(super) finished: bool,
    pub(super) reset: Option<u32>,
    pub(super) stop: Option<u32>,
    stop_sent: bool,
    pub(super) dropped: bool,
    pub(super) waker: Option<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    ours: bool,
    open_sent: bool,
    queued: bool,
    pub(super) send: Sending,
    pub(super) recv: Receiving,
}

impl Sending {
    pub(super) fn done(&self) -> bool {
        self.fin_sent || self.reset_sent
    }

    fn has_work(&self) -> bool {
        if self.done() {
            return false;
        }
        self.reset.is_some()
            || (self.credit > 0 && !self.buffer.is_empty())
            || (self.finished && self.buffer.is_empty())
    }

    fn wake_all(&mut self) {
        self.waker.take().into_iter().chain(self.stop_wakers.drain(..)).for_each(Waker::wake);
    }
}

impl Receiving {
    fn ended(&self) -> bool {
        self.finished || self.reset.is_some()
    }

    fn done(&self) -> bool {
        self.ended() || self.stop_sent
    }

    fn has_work(&self) -> bool {
        (self.stop.is_some() && !self.stop_sent && !self.ended()) || (self.owed >= GRANT && !self.done())
    }
}

impl Stream {
    fn has_work(&self) -> bool {
        (self.ours && !self.open_sent) || self.send.has_work() || self.recv.has_work()
    }

    fn over(&self) -> bool {
        self.send.dropped && self.recv.dropped && self.send.done() && self.recv.done()
    }
}

#[derive(Debug)]
pub(super) struct State {
    next: u32,
    newest_of_peer: Option<u32>,
    pub(super) max_incoming: usize,
    max_outgoing: usize,
    pub(super) streams: BTreeMap<u32, Stream>,
    /// Streams that have something to send, in turn.
    ready: VecDeque<u32>,
    pub(super) accepted: VecDeque<u32>,
    refusals: VecDeque<u32>,
    pub(super) ping: Option<u64>,
    pong: Option<u64>,
    /// What the peer sent back last.
    pub(super) answered: Option<u64>,
    pub(super) close: Option<(u32, String)>,
    close_sent: bool,
    /// Over, and why.
    pub(super) closed: Option<String>,
    /// Frames that this build does not know.
    pub(super) unknown: u64,
    /// Streams that were one too many, since somebody looked.
    pub(super) over: u64,
}

impl State {
    pub(super) fn new(side: Side, max_incoming: usize, max_outgoing: usize) -> Self {
        Self {
            next: u32::from(side == Side::Listener),
            newest_of_peer: None,
            max_incoming,
            max_outgoing,
            streams: BTreeMap::new(),
            ready: VecDeque::new(),
            accepted: VecDeque::new(),
            refusals: VecDeque::new(),
            ping: None,
            pong: None,
            answered: None,
            close: None,
            close_sent: false,
            closed: None,
            unknown: 0,
            over: 0,
        }
    }

    fn add(&mut self, id: u32, ours: bool) {
        let mut stream = Stream { ours, ..Stream::default() };
        stream.send.credit = STREAM_WINDOW;
        stream.recv.window = STREAM_WINDOW;
        self.streams.insert(id, stream);
    }

    /// A new stream of ours.
    pub(super) fn open(&mut self) -> Result<u32, MuxFault> {
        let ours = self.streams.values().filter(|stream| stream.ours).count();
        if ours >= self.max_outgoing {
            return Err(MuxFault::TooManyStreams);
        }
        let id = self.next;
        self.next = id.checked_add(2).ok_or(MuxFault::TooManyStreams)?;
        self.add(id, true);
        Ok(id)
    }

    fn is_ours(&self, id: u32) -> bool {
        id % 2 == self.next % 2
    }

    /// Has the stream take its turn, if it has anything to send; forgets it when it is over.
    pub(super) fn touch(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.has_work() {
            if !stream.queued {
                stream.queued = true;
                self.ready.push_back(id);
            }
            return true;
        }
        if stream.over() && !stream.queued {
            self.streams.remove(&id);
        }
        false
    }

    /// Takes a frame in; whether there is something to send now.
    pub(super) fn receive(&mut self, id: u32, frame: Frame) -> Result<bool, MuxFault> {
        match frame {
            Frame::Open => return self.opened(id),
            Frame::Ping(value) => {
                self.pong = Some(value);
                return Ok(true);
            }
            Frame::Pong(value) => {
                self.answered = Some(value);
                return Ok(false);
            }
            Frame::Close(cause, why) => {
                self.end(format!("closed by the peer: {why} (cause {cause})"));
                return Ok(false);
            }
            Frame::Unknown(_) => {
                self.unknown = self.unknown.saturating_add(1);
                return Ok(false);
            }
            _ => {}
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // Forgotten already is no fault; never opened is.
            let known =
                if self.is_ours(id) { id < self.next } else { self.newest_of_peer.is_some_and(|newest| id <= newest) };
            return if known { Ok(false) } else { Err(MuxFault::NoSuchStream(id)) };
        };
        match frame {
            Frame::Data(bytes) => {
                let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if stream.recv.ended() {
                    return Err(MuxFault::AfterTheEnd(id));
                }
                stream.recv.window = stream.recv.window.checked_sub(size).ok_or(MuxFault::OverTheWindow(id))?;
                if stream.recv.stop.is_none() {
                    stream.recv.buffer.extend_from_slice(&bytes);
                    stream.recv.waker.take().into_iter().for_each(Waker::wake);
                }
            }
            Frame::Fin => {
                stream.recv.finished = true;
                stream.recv.waker.take().into_iter().for_each(Waker::wake);
            }
            Frame::Reset(cause) => {
                if !stream.recv.finished {
                    stream.recv.reset = Some(cause);
                    stream.recv.buffer = BytesMut::new();
                }
                stream.recv.waker.take().into_iter().for_each(Waker::wake);
            }
            Frame::Stop(cause) => {
                if !stream.send.done() {
                    stream.send.stopped.get_or_insert(cause);
                    stream.send.reset.get_or_insert(cause);
                    stream.send.buffer = BytesMut::new();
                }
                stream.send.wake_all();
            }
            Frame::Credit(more) => {
                stream.send.credit = stream
                    .send
                    .credit
                    .checked_add(more)
                    .filter(|credit| *credit <= STREAM_WINDOW)
                    .ok_or(MuxFault::OverTheWindow(id))?;
            }
            _ => {}
        }
        Ok(self.touch(id))
    }

    fn opened(&mut self, id: u32) -> Result<bool, MuxFault> {
        if self.is_ours(id) || self.newest_of_peer.is_some_and(|newest| id <= newest) {
            return Err(MuxFault::NoSuchStream(id));
        }
        self.newest_of_peer = Some(id);
        let theirs = self.streams.values().filter(|stream| !stream.ours).count();
        if theirs >= self.max_incoming {
            if self.refusals.len() >= MAX_REFUSALS {
                return Err(MuxFault::Flood);
            }
            self.refusals.push_back(id);
            self.over = self.over.saturating_add(1);
            return Ok(true);
        }
        self.add(id, false);
        self.accepted.push_back(id);
        Ok(false)
    }

    /// Appends frames to `out` until it holds `enough` bytes or there are none.
    pub(super) fn produce(&mut self, out: &mut BytesMut, enough: usize) {
        if let Some(value) = self.pong.take() {
            Frame::Pong(value).encode(0, out);
        }
        if let Some(value) = self.ping.take() {
            Frame::Ping(value).encode(0, out);
        }
        while let Some(id) = self.refusals.pop_front() {
            Frame::Reset(cause::LIMIT).encode(id, out);
            Frame::Stop(cause::LIMIT).encode(id, out);
        }
        while out.len() < enough {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            stream.produce(id, out);
            self.touch(id);
        }
        if let Some((cause, why)) = &self.close
            && !self.close_sent
        {
            self.close_sent = true;
            Frame::Close(*cause, why.clone()).encode(0, out);
        }
    }

    /// Bytes that wait to be sent, over all streams.
    pub(super) fn queued(&self) -> usize {
        self.streams.values().map(|stream| stream.send.buffer.len()).fold(0, usize::saturating_add)
    }

    /// All is over: whoever waits is told.
    pub(super) fn end(&mut self, why: String) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(why);
        for stream in self.streams.values_mut() {
            stream.send.wake_all();
            stream.recv.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Stream {
    /// What it has to say: at most one portion of its bytes, so that others have their turn.
    fn produce(&mut self, id: u32, out: &mut BytesMut) {
        if self.ours && !self.open_sent {
            self.open_sent = true;
            Frame::Open.encode(id, out);
        }
        if let Some(cause) = self.recv.stop.filter(|_| !self.recv.stop_sent && !self.recv.ended()) {
            self.recv.stop_sent = true;
            Frame::Stop(cause).encode(id, out);
        }
        if self.recv.owed >= GRANT && !self.recv.done() {
            self.recv.window = self.recv.window.saturating_add(self.recv.owed);
            Frame::Credit(self.recv.owed).encode(id, out);
            self.recv.owed = 0;
        }
        let send = &mut self.send;
        if send.done() {
            return;
        }
        if let Some(cause) = send.reset {
            send.reset_sent = true;
            Frame::Reset(cause).encode(id, out);
            send.wake_all();
            return;
        }
        let granted = usize::try_from(send.credit).unwrap_or(usize::MAX);
        let size = send.buffer.len().min(MAX_PAYLOAD).min(granted);
        if size > 0 {
            out.reserve(size.saturating_add(HEADER));
            frame::data(id, send.buffer.get(..size).unwrap_or_default(), out);
            send.buffer.advance(size);
            send.credit = send.credit.saturating_sub(u32::try_from(size).unwrap_or(u32::MAX));
            if send.buffer.is_empty() {
                // Idle streams hold no memory.
                send.buffer = BytesMut::new();
            }
            send.waker.take().into_iter().for_each(Waker::wake);
        }
        if send.finished && send.buffer.is_empty() {
            send.fin_sent = true;
            Frame::Fin.encode(id, out);
            send.wake_all();
        }
    }
}
