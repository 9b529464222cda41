//! DEFLATE (RFC 1951), unpacked block by block into a window that its reader empties.
//!
//! Written for this pipeline because unpacking is a third of it, and what a stream can be read with elsewhere is half
//! as fast: libdeflate wants whole files in memory, zlib keeps its window apart from its output. Here the output *is*
//! the window, decoding is libdeflate's (see [`super::huffman`]), and a stream stops wherever the window is full.
//!
//! Bits wait in a 64-bit word, lowest first. One load of eight bytes fills it up to at least 56 bits: enough for two
//! literals of the first table and a length (15 + 5 bits), and after another load for a distance (15 + 13 bits). Close to the
//! end of what the reader has buffered, symbols are taken one by one.

use std::io::{self, BufRead};

use super::huffman::{BadCode, CodeLengthTable, DistanceTable, Entry, LiteralTable};
use crate::processor::{self, Work};

/// The farthest a match reaches back.
const HISTORY: usize = 32 << 10;
/// Bytes unpacked before the reader is asked to take them.
const FRESH: usize = 128 << 10;
/// Room for what one step of the decoder writes: three literals, the longest match, and copying in pieces.
const SLACK: usize = 512;
const WINDOW: usize = HISTORY + FRESH + SLACK;
/// Bytes copied at once.
const PIECE: usize = 16;

/// Bits that one step of the decoder needs at most: a length and a distance with their extra bits.
const STEP_BITS: u32 = 48;

/// Bytes that one step of the fast decoder may look at, and some more: three loads, of which each goes on by at most seven.
const AT_HAND: usize = 32;

const NO_LITERAL: &str = "a literal or length has no such code";
const NO_DISTANCE: &str = "a distance has no such code";
const TOO_FAR: &str = "a distance reaches back before the start";

/// The order in which the lengths of the code of code lengths come.
const CODE_LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A stream of bits on top of a reader. All bits of `word` above `count` are zero or what will come there.
#[derive(Debug, Default)]
pub(super) struct Bits {
    word: u64,
    count: u32,
}

impl Bits {
    /// Adds the next eight bytes' worth; there are at least 56 bits afterwards.
    #[inline(always)]
    fn load(&mut self, bytes: &[u8], at: &mut usize) {
        if let Some(eight) = bytes[*at..].first_chunk() {
            self.word |= u64::from_le_bytes(*eight) << self.count;
            *at += (63 - self.count as usize) >> 3;
            self.count |= 56;
        }
    }

    #[inline(always)]
    fn take(&mut self, count: u32) {
        self.word >>= count;
        self.count -= count;
    }

    /// Makes sure of `count` bits, at most 56.
    fn need(&mut self, count: u32, input: &mut impl BufRead) -> io::Result<()> {
        while self.count < count {
            let bytes = fill(input)?;
            let Some(&byte) = bytes.first() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            let mut used = 0;
            if bytes.len() >= 8 {
                self.load(bytes, &mut used);
            } else {
                self.word |= u64::from(byte) << self.count;
                self.count += 8;
                used = 1;
            }
            input.consume(used);
        }
        Ok(())
    }

    /// The next `count` bits, at most 32, as a number.
    fn number(&mut self, count: u32, input: &mut impl BufRead) -> io::Result<u32> {
        self.need(count, input)?;
        let number = self.word & ((1 << count) - 1);
        self.take(count);
        Ok(number as u32)
    }

    /// Drops what is left of the byte under way.
    fn align(&mut self) {
        self.take(self.count % 8);
        if self.count == 0 {
            self.word = 0;
        }
    }

    /// The next whole byte of an aligned stream; nothing at its end.
    pub(super) fn byte(&mut self, input: &mut impl BufRead) -> io::Result<Option<u8>> {
        if self.count >= 8 {
            let byte = self.word as u8;
            self.take(8);
            self.align();
            return Ok(Some(byte));
        }
        let byte = fill(input)?.first().copied();
        input.consume(usize::from(byte.is_some()));
        Ok(byte)
    }
}

/// What the reader has buffered, or can buffer; empty at its end.
fn fill(input: &mut impl BufRead) -> io::Result<&[u8]> {
    // A reader that was interrupted is asked again. (Returning its answer from within a loop is beyond the borrow
    // checker, so what it buffered is fetched once more.)
    while let Err(error) = input.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    input.fill_buf()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("corrupt deflate stream: {what}"))
}

/// Where in the stream the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a block.
    Between,
    /// In a block that is stored as it is, of which so many bytes are left.
    Stored(usize),
    /// In a block of codes.
    Coded,
    /// Behind the last block.
    End,
}

/// The decoder of one stream after another.
#[derive(Debug)]
pub(super) struct Inflate {
    bits: Bits,
    state: State,
    /// Whether the block under way is the last.
    last: bool,
    literals: LiteralTable,
    distances: DistanceTable,
    code_lengths: CodeLengthTable,
    window: Box<[u8; WINDOW]>,
    /// The first byte in the window of the stream under way.
    stream_start: usize,
    /// The first byte that the reader has not taken.
    taken: usize,
    /// Behind the last byte unpacked.
    end: usize,
}

impl Inflate {
    pub(super) fn new() -> Self {
        Self {
            bits: Bits::default(),
            state: State::End,
            last: false,
            literals: LiteralTable::new(),
            distances: DistanceTable::new(),
            code_lengths: CodeLengthTable::new(),
            window: Box::new([0; WINDOW]),
            stream_start: 0,
            taken: 0,
            end: 0,
        }
    }

    /// Expects a new stream; what was unpacked before can still be taken.
    pub(super) fn start(&mut self) {
        self.state = State::Between;
        self.stream_start = self.end;
    }

    /// Bytes from the input behind the end of a stream.
    pub(super) fn bits(&mut self) -> &mut Bits {
        &mut self.bits
    }

    /// What is unpacked and not taken.
    pub(super) fn unpacked(&self) -> &[u8] {
        &self.window[self.taken..self.end]
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.end);
    }

    /// Unpacks more, once all was taken; nothing more comes once it returns false.
    pub(super) fn more(&mut self, input: &mut impl BufRead) -> io::Result<bool> {
        debug_assert_eq!(self.taken, self.end);
        if self.end > HISTORY {
            let dropped = self.end - HISTORY;
            self.window.copy_within(dropped..self.end, 0);
            (self.taken, self.end) = (HISTORY, HISTORY);
            self.stream_start = self.stream_start.saturating_sub(dropped);
        }
        while self.end < HISTORY + FRESH {
            match self.state {
                State::Between if self.last => {
                    self.last = false;
                    self.bits.align();
                    self.state = State::End;
                }
                State::Between => self.block(input)?,
                State::Stored(left) => self.stored(left, input)?,
                State::Coded => self.coded(input)?,
                State::End => break,
            }
        }
        Ok(self.end > self.taken || self.state != State::End)
    }

    /// The head of a block.
    fn block(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        self.last = self.bits.number(1, input)? == 1;
        match self.bits.number(2, input)? {
            0 => {
                self.bits.align();
                let (len, complement) = (self.bits.number(16, input)?, self.bits.number(16, input)?);
                if len != !complement & 0xffff {
                    return Err(damaged("the length of a stored block disagrees with its complement"));
                }
                self.state = State::Stored(len as usize);
            }
            1 => {
                let lengths: [u8; 288] = std::array::from_fn(|symbol| match symbol {
                    0..=143 => 8,
                    144..=255 => 9,
                    256..=279 => 7,
                    _ => 8,
                });
                let fixed = self.literals.literals_and_lengths(&lengths);
                fixed.and_then(|()| self.distances.distances(&[5; 32])).map_err(bad_code)?;
                self.state = State::Coded;
            }
            2 => {
                self.codes(input)?;
                self.state = State::Coded;
            }
            _ => return Err(damaged("a block has the reserved type")),
        }
        Ok(())
    }

    /// The codes of a block that brings its own.
    fn codes(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        let Self { bits, literals, distances, code_lengths, .. } = self;
        let literal_count = bits.number(5, input)? as usize + 257;
        let distance_count = bits.number(5, input)? as usize + 1;
        let code_length_count = bits.number(4, input)? as usize + 4;
        if literal_count > 286 || distance_count > 30 {
            return Err(damaged("a block has more codes than there are"));
        }
        let mut lengths = [0; 19];
        for &symbol in &CODE_LENGTH_ORDER[..code_length_count] {
            lengths[symbol] = bits.number(3, input)? as u8;
        }
        code_lengths.code_lengths(&lengths).map_err(bad_code)?;

        let mut lengths = [0; 286 + 30];
        let count = literal_count + distance_count;
        let mut at = 0;
        while at < count {
            // A code of up to 7 bits and a number of up to 7; more follows than that in every stream.
            bits.need(14, input)?;
            let entry = code_lengths.first(bits.word);
            if entry.is_unusual() {
                return Err(damaged("a code length has no such code"));
            }
            bits.take(entry.take());
            let (length, times) = match entry.value() {
                16 if at == 0 => return Err(damaged("the first code length repeats one before")),
                16 => (lengths[at - 1], 3 + bits.number(2, input)?),
                17 => (0, 3 + bits.number(3, input)?),
                18 => (0, 11 + bits.number(7, input)?),
                length => (length as u8, 1),
            };
            let repeated = lengths[..count].get_mut(at..at + times as usize);
            repeated.ok_or_else(|| damaged("code lengths repeat beyond their number"))?.fill(length);
            at += times as usize;
        }
        if lengths[256] == 0 {
            return Err(damaged("a block has no code for its end"));
        }
        literals.literals_and_lengths(&lengths[..literal_count]).map_err(bad_code)?;
        distances.distances(&lengths[literal_count..count]).map_err(bad_code)
    }

    fn stored(&mut self, left: usize, input: &mut impl BufRead) -> io::Result<()> {
        if left == 0 {
            self.state = State::Between;
            return Ok(());
        }
        let used = if self.bits.count > 0 {
            let byte = self.bits.byte(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.window[self.end] = byte;
            1
        } else {
            let bytes = fill(input)?;
            let count = bytes.len().min(left).min(HISTORY + FRESH - self.end);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.window[self.end..self.end + count].copy_from_slice(&bytes[..count]);
            input.consume(count);
            count
        };
        self.end += used;
        self.state = State::Stored(left - used);
        Ok(())
    }

    /// Symbols, until the block ends, the window is full or the reader has to buffer more.
    fn coded(&mut self, input: &mut impl BufRead) -> io::Result<()> {
        let bytes = fill(input)?;
        let used = processor::run(CodedFast { inflate: &mut *self, bytes })?;
        input.consume(used);
        if self.state == State::Coded && self.end < HISTORY + FRESH {
            // More bits than that follow every symbol: the code of the end of the block, and the trailer of the file.
            self.bits.need(STEP_BITS, input)?;
            let entry = self.literals.first(self.bits.word);
            let more = step(
                &mut self.bits,
                entry,
                &self.literals,
                &self.distances,
                &mut self.window,
                &mut self.end,
                self.stream_start,
            )?;
            if !more {
                self.state = State::Between;
            }
        }
        Ok(())
    }

    /// Symbols while at least [`AT_HAND`] bytes are; returns how many were used.
    ///
    /// The entry of the next symbol is always asked for before the bits are filled up and before a match is copied, so
    /// that waiting for it costs nothing.
    #[inline(always)]
    fn coded_fast(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { literals, distances, window, .. } = self;
        let Some(last) = bytes.len().checked_sub(AT_HAND) else { return Ok(0) };
        let mut bits = Bits { word: self.bits.word, count: self.bits.count };
        let (mut end, mut at) = (self.end, 0);
        bits.load(bytes, &mut at);
        let mut entry = literals.first(bits.word);
        let mut more = true;
        while end < HISTORY + FRESH && at <= last {
            // The first literal without a branch: whether one follows a match cannot be foreseen, and what is written
            // for none is written over.
            let literal = u32::from(entry.is_literal());
            window[end] = entry.value() as u8;
            end += literal as usize;
            bits.take(entry.take() & literal.wrapping_neg());
            entry = literals.first(bits.word);
            if entry.is_literal() {
                bits.take(entry.take());
                window[end] = entry.value() as u8;
                end += 1;
                entry = literals.first(bits.word);
                if entry.is_literal() {
                    bits.take(entry.take());
                    window[end] = entry.value() as u8;
                    end += 1;
                    entry = literals.first(bits.word);
                    bits.load(bytes, &mut at);
                    continue;
                }
            }
            if entry.is_unusual() {
                if entry.is_second() {
                    bits.take(entry.take());
                    entry = literals.second(entry, bits.word);
                }
                if entry.is_literal() {
                    bits.take(entry.take());
                    window[end] = entry.value() as u8;
                    end += 1;
                    entry = literals.first(bits.word);
                    bits.load(bytes, &mut at);
                    continue;
                }
                if entry.is_end() {
                    bits.take(entry.take());
                    more = false;
                    break;
                }
                if entry.is_unusual() {
                    return Err(damaged(NO_LITERAL));
                }
            }
            let length = value(&mut bits, entry);
            entry = distances.first(bits.word);
            bits.load(bytes, &mut at);
            if entry.is_unusual() {
                if entry.is_second() {
                    bits.take(entry.take());
                    entry = distances.second(entry, bits.word);
                }
                if entry.is_unusual() {
                    return Err(damaged(NO_DISTANCE));
                }
            }
            let distance = value(&mut bits, entry);
            if distance > end - self.stream_start {
                return Err(damaged(TOO_FAR));
            }
            entry = literals.first(bits.word);
            bits.load(bytes, &mut at);
            copy(window, end, distance, length);
            end += length;
        }
        self.bits = bits;
        self.end = end;
        if !more {
            self.state = State::Between;
        }
        Ok(at)
    }
}

/// [`Inflate::coded_fast`], for processors that shift faster.
struct CodedFast<'a, 'b> {
    inflate: &'a mut Inflate,
    bytes: &'b [u8],
}

impl Work for CodedFast<'_, '_> {
    type Result = io::Result<usize>;

    #[inline(always)]
    fn run(self) -> io::Result<usize> {
        self.inflate.coded_fast(self.bytes)
    }
}

/// One symbol, of which `entry` is what the first table says, with its distance. False at the end of a block.
#[inline(always)]
fn step(
    bits: &mut Bits,
    mut entry: Entry,
    literals: &LiteralTable,
    distances: &DistanceTable,
    window: &mut [u8; WINDOW],
    end: &mut usize,
    stream_start: usize,
) -> io::Result<bool> {
    if entry.is_unusual() {
        if entry.is_second() {
            bits.take(entry.take());
            entry = literals.second(entry, bits.word);
        }
        if entry.is_end() {
            bits.take(entry.take());
            return Ok(false);
        }
        if entry.is_unusual() {
            return Err(damaged(NO_LITERAL));
        }
    }
    if entry.is_literal() {
        bits.take(entry.take());
        window[*end] = entry.value() as u8;
        *end += 1;
        return Ok(true);
    }
    let length = value(bits, entry);

    let mut entry = distances.first(bits.word);
    if entry.is_unusual() {
        if entry.is_second() {
            bits.take(entry.take());
            entry = distances.second(entry, bits.word);
        }
        if entry.is_unusual() {
            return Err(damaged(NO_DISTANCE));
        }
    }
    let distance = value(bits, entry);
    if distance > *end - stream_start {
        return Err(damaged(TOO_FAR));
    }
    copy(window, *end, distance, length);
    *end += length;
    Ok(true)
}

/// The base of `entry` and the number in the bits behind its code, all of which are taken.
#[inline(always)]
fn value(bits: &mut Bits, entry: Entry) -> usize {
    let extra = (bits.word & ((1 << entry.take()) - 1)) >> entry.code_bits();
    bits.take(entry.take());
    entry.value() as usize + extra as usize
}

/// Repeats `length` bytes from `distance` before `end`; may write up to two pieces more.
#[inline(always)]
fn copy(window: &mut [u8; WINDOW], end: usize, distance: usize, length: usize) {
    let from = end - distance;
    if distance >= PIECE {
        // Most matches are shorter than two pieces.
        window.copy_within(from..from + PIECE, end);
        window.copy_within(from + PIECE..from + 2 * PIECE, end + PIECE);
        let mut done = 2 * PIECE;
        while done < length {
            window.copy_within(from + done..from + done + PIECE, end + done);
            done += PIECE;
        }
    } else {
        for i in 0..length {
            window[end + i] = window[from + i];
        }
    }
}

fn bad_code(bad: BadCode) -> io::Error {
    damaged(match bad {
        BadCode::TooMany => "a block has code lengths that are too short for its symbols",
        BadCode::TooFew => "a block has code lengths that leave codes without a symbol",
    })
}
