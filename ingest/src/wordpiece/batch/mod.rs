//! Some chunks of a window with their keys, made together: many at a time where the processor has the vectors.

#[cfg(target_arch = "x86_64")]
mod avx2;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cache::{Key, Slot};
use super::ids::{Mark, mark_len};
use super::split::Window;

/// Chunks of a batch: so many that all entries in front are asked for long before they are needed.
pub(super) const BATCH: usize = 64;

/// Chunks of which the vectors make the keys in one step.
#[cfg(target_arch = "x86_64")]
const GROUP: usize = 8;

/// A chunk of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
pub(super) struct Chunk {
    /// Where its key belongs.
    pub(super) slot: Slot,
    /// Where it starts in the window.
    pub(super) start: u16,
    /// Its bytes, without a punctuation mark cut off its end.
    pub(super) len: u16,
}

/// Chunks that lie one behind another in a window. What is behind those asked for is noise.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub(super) struct Batch {
    lows: [u64; BATCH],
    highs: [u64; BATCH],
    chunks: [Chunk; BATCH],
    /// What is cut off the end of each.
    marks: [Mark; BATCH],
}

impl Batch {
    /// Becomes the first `count` chunks that end at `ends` of the window, of which the first begins at `start`. What `marks` has for
    /// the last byte of a chunk is cut off.
    ///
    /// An empty chunk, between two separators or before a mark that stands alone, is the empty string, which is known.
    pub(super) fn fill(
        &mut self,
        window: &Window,
        ends: &[u16; BATCH],
        count: usize,
        start: u16,
        marks: &[Mark; 256],
    ) {
        self.fill_marks(window, ends, count, marks);
        #[cfg(target_arch = "x86_64")]
        if avx2::keys(self, window, ends, count, start).is_some() {
            return;
        }
        self.keys(window, ends, count, start);
    }

    #[inline(always)]
    fn fill_marks(&mut self, window: &Window, ends: &[u16; BATCH], count: usize, marks: &[Mark; 256]) {
        for (&end, mark) in ends[..count].iter().zip(&mut self.marks) {
            *mark = marks[usize::from(window.byte_before(end))];
        }
    }

    /// Gives the chunks their keys and places, whose marks are there.
    fn keys(&mut self, window: &Window, ends: &[u16; BATCH], count: usize, start: u16) {
        let mut start = start;
        for (i, &end) in ends[..count].iter().enumerate() {
            let len = end.wrapping_sub(start).wrapping_sub(mark_len(self.marks[i]));
            let key = Key::of(window.load(start), len);
            (self.lows[i], self.highs[i]) = key.words();
            self.chunks[i] = Chunk { slot: Slot::of(key), start, len };
            start = end.wrapping_add(1);
        }
    }

    /// The first `count` chunks, each with its key and the mark cut off.
    #[inline(always)]
    pub(super) fn iter(&self, count: usize) -> impl Iterator<Item = (Chunk, Key, Mark)> {
        let keys = self.lows[..count].iter().zip(&self.highs[..count]);
        let chunks = self.chunks[..count].iter().zip(&self.marks[..count]);
        keys.zip(chunks).map(|((&low, &high), (&chunk, &mark))| (chunk, Key::of_words(low, high), mark))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    use super::super::ids::mark;
    use super::super::split::WINDOW;
    use super::*;

    /// The chunks of a window with this text, made by `keys`.
    fn chunks(
        text: &[u8],
        keys: impl Fn(&mut Batch, &Window, &[u16; BATCH], usize, u16),
    ) -> Vec<(Chunk, Key, Mark)> {
        let mut window: Box<Window> = Box::new(Window::new_zeroed());
        // What lies behind must not matter.
        window.fill(&[b'x'; WINDOW], 0x20, true);
        window.fill(text, 0x20, true);
        let mut marks = [0; 256];
        (marks[usize::from(b'.')], marks[usize::from(b',')]) = (mark(1012), mark(1010));
        let all = window.ends().len();
        let (mut found, mut start) = (Vec::new(), 0u16);
        for first in (0..all).step_by(BATCH) {
            let mut batch: Box<Batch> = Box::new(Batch::new_zeroed());
            let (ends, count) = (window.ends_from(first), BATCH.min(all - first));
            batch.fill_marks(&window, ends, count, &marks);
            keys(&mut batch, &window, ends, count, start);
            found.extend(batch.iter(count));
            start = ends[count - 1].wrapping_add(1);
        }
        found
    }

    /// The same by the definition.
    fn expected(text: &[u8]) -> Vec<(Chunk, Key, Mark)> {
        let mut start = 0;
        let chunk = |bytes: &[u8]| {
            let mark = match bytes.last() {
                Some(b'.') => mark(1012),
                Some(b',') => mark(1010),
                _ => 0,
            };
            let word = &bytes[..bytes.len() - usize::from(mark != 0)];
            let mut load = [0; 16];
            let key = match load.get_mut(..word.len()) {
                Some(place) if word.len() < 16 => {
                    place.copy_from_slice(word);
                    Key::of(&load, word.len() as u16)
                }
                _ => Key::NONE,
            };
            let found = (Chunk { slot: Slot::of(key), start, len: word.len() as u16 }, key, mark);
            start += bytes.len() as u16 + 1;
            found
        };
        text.split(|byte| matches!(byte, b' ' | b'\n')).map(chunk).collect()
    }

    proptest! {
        #[test]
        fn keys_are_those_of_the_text_with_and_without_vectors(text in "([a-z.,\u{e9}]{0,18}[ \n]|[ a.]{1,3}){0,200}") {
            let text = &text.as_bytes()[..text.len().min(WINDOW)];
            let expected = expected(text);
            let plainly = chunks(text, |batch, window, ends, count, start| batch.keys(window, ends, count, start));
            prop_assert_eq!(&plainly, &expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let at_once = chunks(text, |batch, window, ends, count, start| {
                    avx2::keys(batch, window, ends, count, start).unwrap();
                });
                prop_assert_eq!(&at_once, &expected);
            }
        }
    }
}
