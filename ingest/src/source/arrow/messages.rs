//! Looks at what a stream says of its sizes before the `arrow` crate believes it.
//!
//! A compressed buffer begins with the number of bytes it unpacks to, and the crate asks for that much memory at once. A
//! damaged number can be more than any machine has, and a program that is refused memory ends on the spot, without an
//! error that could be told. So no more is let through than the compressed bytes can hold.

use std::collections::VecDeque;
use std::io::{self, Read};

use arrow::ipc::{CompressionType, RecordBatch, root_as_message};

/// What begins a message; old writers left it out.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes of the number at the start of a compressed buffer.
const CLAIM: usize = 8;

/// A compressed buffer of the message under way.
#[derive(Clone, Copy)]
struct Compressed {
    codec: CompressionType,
    /// Where it begins in the message's body.
    at: u64,
    /// Its bytes, the number included.
    bytes: u64,
}

impl Compressed {
    /// What it can unpack to: a byte of LZ4 gives at most 255, and the smallest block of Zstandard, four bytes, 128 KiB.
    fn most(self) -> u64 {
        self.bytes.saturating_mul(if self.codec == CompressionType::LZ4_FRAME { 255 } else { 32 << 10 })
    }
}

/// A stream of messages as it is, or an error in place of a size that cannot be true.
pub(super) struct Messages<R> {
    inner: R,
    /// Read but not handed on.
    held: VecDeque<u8>,
    /// Bytes of the message's body that were read, and that there are.
    body: (u64, u64),
    /// Compressed buffers that were not reached yet, in order.
    compressed: VecDeque<Compressed>,
    /// Whether the stream has ended; what follows is none of it.
    ended: bool,
}

impl<R: Read> Messages<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, held: VecDeque::new(), body: (0, 0), compressed: VecDeque::new(), ended: false }
    }

    pub(super) fn inner(&self) -> &R {
        &self.inner
    }

    pub(super) fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Holds up to `count` bytes more; how many there were. Memory grows with what is there, not with `count`.
    fn hold(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.inner.by_ref().take(count).read_to_end(&mut bytes)?;
        self.held.extend(&bytes);
        Ok(bytes)
    }

    /// Reads what stands before the body of the next message.
    fn head(&mut self) -> io::Result<()> {
        let mut length = self.hold(4)?;
        if length == CONTINUATION {
            length = self.hold(4)?;
        }
        let length = <[u8; 4]>::try_from(length).map_or(0, i32::from_le_bytes);
        self.ended = length <= 0;
        if self.ended {
            return Ok(());
        }
        let metadata = self.hold(length as u64)?;
        // What is wrong with it the reader will say.
        let Ok(message) = root_as_message(&metadata) else { return Ok(()) };
        self.body = (0, message.bodyLength().try_into().unwrap_or(0));
        let dictionary = message.header_as_dictionary_batch().and_then(|batch| batch.data());
        if let Some(batch) = message.header_as_record_batch().or(dictionary) {
            self.compressed = compressed(batch);
        }
        Ok(())
    }

    /// Reads the number at the start of a compressed buffer.
    fn claim(&mut self, buffer: Compressed) -> io::Result<()> {
        let claim = self.hold(CLAIM as u64)?;
        self.body.0 += claim.len() as u64;
        // -1 is a buffer that is not compressed after all.
        let claim = <[u8; CLAIM]>::try_from(claim).map_or(0, i64::from_le_bytes);
        if claim > 0 && claim as u64 > buffer.most() {
            let what = format!("a buffer of {} bytes claims to be {claim} bytes unpacked", buffer.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
    }
}

/// The compressed buffers of a batch, in the order of its body.
fn compressed(batch: RecordBatch<'_>) -> VecDeque<Compressed> {
    let (Some(compression), Some(buffers)) = (batch.compression(), batch.buffers()) else {
        return VecDeque::new();
    };
    let codec = compression.codec();
    let mut found: Vec<_> = buffers
        .iter()
        .map(|buffer| (u64::try_from(buffer.offset()), u64::try_from(buffer.length())))
        .filter_map(|(at, bytes)| Some(Compressed { codec, at: at.ok()?, bytes: bytes.ok()? }))
        .filter(|buffer| buffer.bytes >= CLAIM as u64)
        .collect();
    found.sort_by_key(|buffer| (buffer.at, buffer.bytes));
    found.dedup_by_key(|buffer| buffer.at);
    found.into()
}

impl<R: Read> Read for Messages<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() && !self.ended {
            let (read, all) = self.body;
            match self.compressed.front().copied() {
                Some(buffer) if buffer.at < read => {
                    let what = "the buffers of a batch overlap";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                Some(buffer) if buffer.at == read && read < all => {
                    self.compressed.pop_front();
                    self.claim(buffer)?;
                }
                next if read < all => {
                    let until = next.map_or(all, |buffer| buffer.at.min(all));
                    let room = out.len().min((until - read).try_into().unwrap_or(usize::MAX));
                    let done = self.inner.read(&mut out[..room])?;
                    self.body.0 += done as u64;
                    return Ok(done);
                }
                _ => {
                    self.compressed.clear();
                    self.head()?;
                }
            }
        }
        if self.held.is_empty() { self.inner.read(out) } else { self.held.read(out) }
    }
}
