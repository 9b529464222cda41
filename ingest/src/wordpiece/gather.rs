//! Looking up the chunks of a window in the front table.
//!
//! Nearly all of the text passes through this one loop, so its instructions are counted: it has no branch that depends on
//! what is found, no place that has to be checked, and all its tables lie in one piece of memory, so that one register says
//! where they are and none of the others has to wait on the stack.

use memmap2::MmapMut;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::batch::{BATCH, Batch, Chunk};
use super::cache::{Front, Key, Sets};
use super::ids::{Fields, Mark, Value, is_miss};
use super::split::Window;

/// As many gaps as sixteen bits count, so that no place has to be checked; a window has fewer chunks. Those that are never
/// written take no memory.
const GAPS: usize = 1 << 16;

/// What gathering reads and writes.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub(super) struct Tables {
    pub(super) front: Front,
    /// What may be cut off the end of a chunk, by its byte.
    marks: [Mark; 256],
    batch: Batch,
    pub(super) window: Window,
    /// Ids of the window's chunks that are in front.
    pub(super) staged: Fields,
    /// The window's chunks that are not.
    pub(super) gaps: [Gap; GAPS],
    /// What those encode to; a miss for one that is not known.
    pub(super) values: [Value; GAPS],
    /// All ids.
    pub(super) emitted: Fields,
}

/// A chunk whose ids are missing among the staged ones.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Gap {
    pub(super) chunk: Chunk,
    /// The fields staged before it.
    pub(super) staged: u32,
    /// Up to a whole number of chunks.
    unused: u32,
}

/// What was gathered of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gathered {
    /// Fields staged.
    pub(super) staged: u32,
    pub(super) gaps: u32,
    /// Where the chunk begins that may go on behind the window.
    pub(super) rest: u32,
}

/// The memory that [`Tables`] are in.
#[derive(Debug)]
pub(super) struct Gatherer(MmapMut);

impl Gatherer {
    /// An empty front, for chunks off whose ends `marks` may be cut.
    pub(super) fn new(marks: &[Mark; 256]) -> Gatherer {
        let memory =
            MmapMut::map_anon(size_of::<Tables>()).expect("four megabytes of address space are left");
        // A wish: where it is not granted small pages do, and cost a few percent.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut gatherer = Gatherer(memory);
        let tables = gatherer.tables();
        tables.marks = *marks;
        gatherer
    }

    #[inline]
    pub(super) fn tables(&mut self) -> &mut Tables {
        Tables::mut_from_bytes(&mut self.0).expect("a map is page-aligned and has this size")
    }
}

impl Tables {
    /// The key of the chunk of `len` bytes that starts at `start` of the window.
    #[inline(always)]
    pub(super) fn key(&self, start: u16, len: u16) -> Key {
        Key::of(self.window.load(start), len)
    }

    /// Looks for the chunks that were not in front in their sets.
    #[inline(never)]
    pub(super) fn look_up_gaps(&mut self, gathered: Gathered, sets: Sets<'_>) {
        for at in 0..gathered.gaps as u16 {
            let Chunk { slot, start, len } = self.gaps[usize::from(at)].chunk;
            let key = self.key(start, len);
            let value = sets.get(slot, key);
            self.values[usize::from(at)] = value;
            self.front.insert(slot, key, value);
        }
    }

    /// Stages the ids of the window's chunks that are in front and notes the others.
    #[inline(never)]
    pub(super) fn gather<const NARROW: bool>(&mut self, sets: Sets<'_>) -> Gathered {
        let all = self.window.ends().len();
        let mut gathered = Gathered::default();
        let mut done = 0;
        while done < all {
            let count = (all - done).min(BATCH);
            gathered.rest = self.prepare(done, count, gathered.rest);
            let before = gathered.gaps;
            self.look_up::<NARROW>(count, &mut gathered);
            done += count;
            // While memory brings the sets more is gathered.
            self.gaps[before as usize..gathered.gaps as usize]
                .iter()
                .for_each(|gap| sets.prefetch(gap.chunk.slot));
        }
        gathered
    }

    /// Gives the `count` chunks from the window's end `first` on their keys and asks for their entries in front. The first begins
    /// at `start`; returns where the one behind the last does.
    #[inline(always)]
    fn prepare(&mut self, first: usize, count: usize, start: u32) -> u32 {
        let Tables { front, marks, window, batch, .. } = self;
        let ends: &[u16; BATCH] = window.ends_from(first);
        batch.fill(window, ends, count, start as u16, marks);
        batch.iter(count).for_each(|(chunk, ..)| front.prefetch(chunk.slot));
        u32::from(ends[count - 1]) + 1
    }

    /// Looks up the first `count` of the prepared chunks.
    #[inline(always)]
    fn look_up<const NARROW: bool>(&mut self, count: usize, gathered: &mut Gathered) {
        let Tables { front, batch, gaps, staged, .. } = self;
        for (chunk, key, mark) in batch.iter(count) {
            let value = front.get(chunk.slot, key);
            let gap = &mut gaps[usize::from(gathered.gaps as u16)];
            (gap.chunk, gap.staged) = (chunk, gathered.staged);
            gathered.gaps += u32::from(is_miss(&value));
            let filled = staged.push::<NARROW>(gathered.staged, &value);
            gathered.staged = staged.push_mark::<NARROW>(filled, mark);
        }
    }
}
