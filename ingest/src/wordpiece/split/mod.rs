//! Cutting text into raw chunks at ASCII whitespace, some kilobytes at a time.
//!
//! # Why this never changes ids
//!
//! Let `S` be the four bytes space, tab, line feed and carriage return, and let the text be `x s y` with `s` in `S`.
//! Then `ids(x s y) = ids(x) ids(y)`, step by step of the pipeline:
//!
//! 1. *Added tokens* are found leftmost-longest. [`super::definition`] refuses definitions in which one contains a
//!    character of `S`, so no match spans `s`, and a scan of `x s y` makes the decisions of a scan of `x` followed
//!    by one of `y`.
//! 2. *Cleaning*, *Chinese spacing* and *lower-casing* work on one character at a time (`char::to_lowercase` knows
//!    no context). Cleaning keeps `s`, as a space; without cleaning it stays what it is.
//! 3. *NFD* decomposes one character at a time, then sorts runs of characters whose combining class is not zero.
//!    The class of `s` is zero and nothing decomposes to a character of `S` or combines with it, so no run spans it.
//! 4. *The pre-tokenizer* splits at `char::is_whitespace`, which holds for all of `S` and for the space cleaning
//!    leaves, and drops the separator.
//! 5. *WordPiece* sees one pre-token at a time.
//!
//! Vertical tab and form feed are *not* in `S`: cleaning deletes them and so joins their neighbours.

#[cfg(target_arch = "x86_64")]
mod avx2;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::processor::{self, Work};

/// Bytes looked at in one step.
const BLOCK: usize = 64;

/// Bytes of text looked at together: so many that leaving the loops over them costs little, so few that what is made of
/// them stays in the processor's first-level cache.
pub(super) const WINDOW: usize = 4096;

/// Bytes that can be loaded at most from any place in a window.
const LOAD: usize = BLOCK;

/// Whether `byte` separates raw chunks.
pub(super) const fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Blocks of a window, and one for what is left of the text.
const BLOCKS: usize = WINDOW / BLOCK + 1;

/// Blocks in which every place that sixteen bits can say can be loaded from, so that none has to be checked, and one before.
/// Those behind a window are never written and take no memory.
const PLACES: usize = 1 + (1 << 16) / BLOCK + 1;

/// A stretch of text: where its chunks end, and its bytes as keys want them. All zeros to begin with.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Window {
    /// How many ends there are.
    count: u64,
    /// Up to a whole cache line.
    unused: [u64; 6],
    /// One bit a byte, set where a separator is.
    masks: [u64; BLOCKS],
    /// The places where chunks end, ascending.
    ends: [u16; WINDOW + BLOCK],
    /// A block of zeros and the text, ASCII letters in lower case if that was asked for. What lies behind it is noise.
    bytes: [[u8; BLOCK]; PLACES],
}

impl Window {
    /// Looks at `text`, at most [`WINDOW`] bytes; `case` is 0x20 to have letters in lower case, else 0. Where all of the text
    /// `ends` with the window, a chunk does too.
    pub(super) fn fill(&mut self, text: &[u8], case: u8, ends: bool) {
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        let mut last = [b'.'; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let whole = blocks.len().min(BLOCKS - 1);
        let (bytes, masks) = (&mut self.bytes[1..], &mut self.masks);
        look_at(blocks, case, &mut bytes[..whole], &mut masks[..whole]);
        look_at(&[last], case, &mut bytes[whole..=whole], &mut masks[whole..=whole]);
        let mut count = processor::run(NoteAll { window: self, blocks: whole + 1 });
        if ends {
            self.ends[count] = text.len() as u16;
            count += 1;
        }
        self.count = count as u64;
    }

    /// Notes the places of separators, eight at a time: how many there are in a block is hard to foresee, but mostly
    /// it is one of two cases. There are `count` before; returns how many there are then.
    #[inline(always)]
    fn note(&mut self, count: usize, base: usize, mut separators: u64) -> usize {
        let all = separators.count_ones() as usize;
        let mut done = 0;
        loop {
            let places = self.ends[count + done..].first_chunk_mut::<8>().expect("there is a block more");
            for place in places {
                *place = (base as u32 + separators.trailing_zeros()) as u16;
                separators &= separators.wrapping_sub(1);
            }
            done += 8;
            if done >= all {
                break;
            }
        }
        count + all
    }

    /// The places where chunks end, ascending: those of the separators, and the end of the text.
    pub(super) fn ends(&self) -> &[u16] {
        &self.ends[..(self.count as usize).min(WINDOW + 1)]
    }

    /// As many of the places where chunks end as asked for, from the `first` on; those behind the last are noise.
    #[inline(always)]
    pub(super) fn ends_from<const MANY: usize>(&self, first: usize) -> &[u16; MANY] {
        self.ends[first..].first_chunk().expect("there is a block more")
    }

    /// The bytes from `at` on, which lies within the text.
    #[inline(always)]
    pub(super) fn load<const MANY: usize>(&self, at: u16) -> &[u8; MANY] {
        const { assert!(MANY <= LOAD) };
        self.bytes.as_flattened()[BLOCK + usize::from(at)..].first_chunk().expect("there is a block more")
    }

    /// The bytes behind the one at `at`, which lies within the text.
    #[inline(always)]
    pub(super) fn load_behind<const MANY: usize>(&self, at: u16) -> &[u8; MANY] {
        const { assert!(MANY < LOAD) };
        self.bytes.as_flattened()[BLOCK + 1 + usize::from(at)..].first_chunk().expect("there is a block more")
    }

    /// The byte before `at`, which lies within the text or ends it; zero where the text begins.
    #[inline(always)]
    pub(super) fn byte_before(&self, at: u16) -> u8 {
        self.bytes.as_flattened()[BLOCK + usize::from(at) - 1]
    }
}

/// Notes the places of the separators in the first blocks of a window; says how many there are.
struct NoteAll<'a> {
    window: &'a mut Window,
    blocks: usize,
}

impl Work for NoteAll<'_> {
    type Result = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Self { window, blocks } = self;
        let mut count = 0;
        for block in 0..blocks {
            count = window.note(count, block * BLOCK, window.masks[block]);
        }
        count
    }
}

/// Puts the bytes of each block, ASCII letters with the bit `case` set, into `bytes` and its separators into `masks`.
fn look_at(blocks: &[[u8; BLOCK]], case: u8, bytes: &mut [[u8; BLOCK]], masks: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if avx2::look_at(blocks, case, bytes, masks).is_some() {
        return;
    }
    look_at_portably(blocks, case, bytes, masks);
}

fn look_at_portably(blocks: &[[u8; BLOCK]], case: u8, bytes: &mut [[u8; BLOCK]], masks: &mut [u64]) {
    for ((block, bytes), mask) in blocks.iter().zip(bytes).zip(masks) {
        *bytes = block.map(|byte| byte | (u8::from(byte.wrapping_sub(b'A') < 26) << 5) & case);
        *mask = separators(block);
    }
}

/// One bit a byte of the block, set where a separator is; bit 0 is the first byte.
#[inline(always)]
fn separators(block: &[u8; BLOCK]) -> u64 {
    places(block, |byte| (byte == b' ') | (byte == b'\t') | (byte == b'\n') | (byte == b'\r'))
}

/// One bit a byte, of at most 64, set where `is` says so; bit 0 is the first byte.
///
/// Comparisons become vector instructions by themselves. The multiplication gathers eight flags into eight bits:
/// the flag of byte `i` lands in bit `i` of the product's top byte, and nothing else reaches that byte.
#[inline(always)]
pub(super) fn places<const MANY: usize>(block: &[u8; MANY], is: impl Fn(u8) -> bool) -> u64 {
    let flags = block.map(|byte| u8::from(is(byte)));
    flags.as_chunks::<8>().0.iter().enumerate().fold(0, |mask, (i, eight)| {
        mask | (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i)
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn masks_agree_with_the_definition_for_every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..BLOCK {
                for filler in [b'a', 0, 255, b' '] {
                    let mut block = [filler; BLOCK];
                    block[place] = byte;
                    let expected = (0..BLOCK).map(|i| u64::from(is_separator(block[i])) << i).sum::<u64>();
                    assert_eq!(separators(&block), expected, "byte {byte} at {place}");
                }
            }
        }
    }

    #[test]
    fn every_byte_is_folded_the_same_way_with_and_without_vectors() {
        for byte in 0..=255u8 {
            for case in [0, 0x20] {
                let block: [u8; BLOCK] = std::array::from_fn(|i| byte.wrapping_add(i as u8));
                let (mut bytes, mut masks) = ([[[0; BLOCK]; 1]; 2], [[0; 1]; 2]);
                look_at(&[block], case, &mut bytes[0], &mut masks[0]);
                look_at_portably(&[block], case, &mut bytes[1], &mut masks[1]);
                assert_eq!((bytes[0], masks[0]), (bytes[1], masks[1]), "from {byte} on, case {case}");
                let expected = block.map(|byte| if case == 0 { byte } else { byte.to_ascii_lowercase() });
                assert_eq!(bytes[0][0], expected);
            }
        }
    }

    #[test]
    fn a_window_has_the_ends_of_all_chunks_and_its_text_in_lower_case() {
        let mut window: Box<Window> = Box::new(Window::new_zeroed());
        for len in [0, 1, 63, 64, 65, 4000, WINDOW] {
            for every in [1, 2, 7, 13, 64, 5000] {
                let text: Vec<u8> = (0..len)
                    .map(|i| if i % every == every - 1 { b'\n' } else { b'?' + (i % 29) as u8 })
                    .collect();
                for case in [0, 0x20] {
                    let mut expected: Vec<u16> =
                        (0..len).filter(|&i| is_separator(text[i])).map(|i| i as u16).collect();
                    window.fill(&text, case, false);
                    assert_eq!(window.ends(), expected, "{len} bytes, every {every}");
                    expected.push(len as u16);
                    window.fill(&text, case, true);
                    assert_eq!(window.ends(), expected, "{len} bytes that end, every {every}");
                    for (i, &byte) in text.iter().enumerate() {
                        let expected = if case == 0 { byte } else { byte.to_ascii_lowercase() };
                        let at = i as u16;
                        assert_eq!(
                            (window.byte_before(at + 1), window.load::<1>(at)[0]),
                            (expected, expected)
                        );
                    }
                }
            }
        }
    }
}
