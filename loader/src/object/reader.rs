//! An object as a stream that ends where the object ends, whatever the connection does.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, GetRange};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{Location, Meta, ObjectError, Scheme, store};
use crate::error::Error;

/// Pieces, as they come from the connection, that wait to be read: some megabytes at most.
const PIECES: usize = 64;
/// How often a stream is begun again without bringing a byte.
const ATTEMPTS: u32 = 6;
/// The first wait between two attempts; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// Reads an object from its first byte to its last.
///
/// Fails with [`ObjectError::Changed`] when another object took its place, and with [`ObjectError::Broken`] when it
/// cannot be read to its end; the errors of [`Read`] hold a [`crate::Error`].
pub struct Reader {
    location: Location,
    meta: Meta,
    pieces: Receiver<Result<Bytes, Error>>,
    piece: Option<Bytes>,
    /// Bytes of `piece` that were read.
    taken: usize,
    /// Bytes of the object that were read.
    position: u64,
}

impl Reader {
    pub(super) fn start(location: Location, meta: Meta) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        let stream = Stream { location: location.clone(), meta: meta.clone(), sender, at: 0, ranges: true };
        store::runtime().spawn(stream.run());
        Self { location, meta, pieces, piece: None, taken: 0, position: 0 }
    }

    /// What the store said of the object.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = &self.piece {
                let left = &piece[self.taken..];
                let read = left.len().min(buffer.len());
                buffer[..read].copy_from_slice(&left[..read]);
                self.taken += read;
                self.position += read as u64;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                self.piece = None;
            }
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => (self.piece, self.taken) = (Some(piece), 0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                None if self.position == self.meta.bytes => return Ok(0),
                None => {
                    let (found, expected) = (self.position, self.meta.bytes);
                    let error = ObjectError::Cut { url: self.location.to_string(), found, expected };
                    return Err(io::Error::other(Error::from(error)));
                }
            }
        }
    }
}

/// The other end: takes pieces from the store as fast as they are read.
struct Stream {
    location: Location,
    meta: Meta,
    sender: Sender<Result<Bytes, Error>>,
    /// Bytes handed on.
    at: u64,
    /// Whether the server may know how to begin in the middle.
    ranges: bool,
}

/// Why a connection brought no more.
enum Stop {
    /// The reader is gone.
    Unread,
    /// It will not get better.
    For(Error),
    /// It may get better.
    Broke(Option<object_store::Error>),
}

impl Stream {
    async fn run(mut self) {
        let mut failures = 0;
        while self.at < self.meta.bytes {
            let before = self.at;
            let source = match self.connection().await {
                Ok(()) => None,
                Err(Stop::Unread) => return,
                Err(Stop::For(error)) => return drop(self.sender.send(Err(error)).await),
                Err(Stop::Broke(source)) => source,
            };
            if self.at == self.meta.bytes {
                return;
            }
            failures = if self.at > before { 1 } else { failures + 1 };
            if failures == ATTEMPTS {
                let (url, bytes) = (self.location.to_string(), self.meta.bytes);
                let source = source.map(Into::into);
                let broken = ObjectError::Broken { url, at: self.at, bytes, attempts: ATTEMPTS, source };
                return drop(self.sender.send(Err(broken.into())).await);
            }
            tokio::time::sleep(FIRST_WAIT * (1 << failures)).await;
        }
    }

    /// Hands on what one request brings, from the byte reached.
    async fn connection(&mut self) -> Result<(), Stop> {
        let ranged = self.at > 0 && self.ranges;
        let options = GetOptions {
            range: ranged.then_some(GetRange::Bounded(self.at..self.meta.bytes)),
            if_match: self.meta.strong_etag(),
            ..GetOptions::default()
        };
        let answer = self.location.store.client.get_opts(&self.location.key, options).await;
        let answer = answer.map_err(|error| self.no_answer(error, ranged))?;
        self.location.refuse_changed(&self.meta, &Meta::of(&answer.meta)).map_err(Stop::For)?;
        // A server that always begins at the beginning is read again up to the byte reached.
        let mut pass_over = if ranged { 0 } else { self.at };
        let mut pieces = answer.into_stream();
        while let Some(piece) = pieces.next().await {
            let mut piece = piece.map_err(|error| Stop::Broke(Some(error)))?;
            let passed = pass_over.min(piece.len() as u64);
            pass_over -= passed;
            piece = piece.slice(passed as usize..);
            if piece.is_empty() {
                continue;
            }
            let end = self.at + piece.len() as u64;
            if end > self.meta.bytes {
                let (url, expected) = (self.location.to_string(), self.meta.bytes);
                return Err(Stop::For(ObjectError::Cut { url, found: end, expected }.into()));
            }
            self.sender.send(Ok(piece)).await.map_err(|_| Stop::Unread)?;
            self.at = end;
        }
        Ok(())
    }

    fn no_answer(&mut self, error: object_store::Error, ranged: bool) -> Stop {
        if matches!(error, object_store::Error::Precondition { .. }) {
            let expected = self.meta.to_string();
            let (url, found) = (self.location.to_string(), "another object".to_owned());
            return Stop::For(ObjectError::Changed { url, found, expected }.into());
        }
        if ranged && self.location.scheme() == Scheme::Http {
            // Simple web servers answer a request for a range with the whole file, which the client refuses.
            self.ranges = false;
            return Stop::Broke(Some(error));
        }
        // The client has tried it several times already.
        Stop::For(self.location.failed("read", error))
    }
}
