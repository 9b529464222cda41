//! From short byte strings to ids: a two-way set-associative cache of fixed size.
//!
//! A key is a string of up to fifteen bytes in two words, its length in the top byte; that covers 98.9 % of the
//! whitespace-delimited chunks of English web text. One set is one cache line: two keys and two values. There is no
//! pointer, no chain and no growth: a lookup reads one line, an insertion overwrites one of two entries, so memory is
//! what was allocated at the start, whatever the text.
//!
//! Words of one occurrence keep streaming through. Three of four insertions into a full set therefore replace its
//! second entry, so that a frequent word in the first survives them (Qureshi et al. 2007, bimodal insertion).
//!
//! Most of the cost of a lookup is waiting for memory. Lookups therefore come in batches whose lines are all requested
//! long before they are needed ([`Sets::prefetch`]); the strings most of the text is made of are kept once more in a table that
//! stays in the processor's own cache ([`Front`]); and the sets lie in huge pages where the system has them, which saves
//! the page-table walks: 10 % of the whole encoder's time on a virtual machine.

use std::hint::select_unpredictable;

use memmap2::MmapMut;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ids::{MISS, Value, is_miss};
use crate::processor;

/// Entries in a [`Front`]: 512 KiB, a half to a quarter of common second-level caches; the rest is for the text on its
/// way. They are asked for ahead, and lie in one huge page where the system has them.
const FRONT: usize = 1 << 14;

/// The longest string a key holds.
pub(super) const MAX_KEY: usize = 15;

/// Sets in a cache: 32 MiB, about a million entries. The distinct chunks of 200 MB of web text are 0.8 million.
const SETS: usize = 1 << 19;

/// Of so many insertions into full sets, one replaces the first entry.
const PROMOTE_EVERY: u32 = 4;

/// The length in the key of a string that is too long for one.
pub(super) const NO_LENGTH: i8 = 0x7f;

/// What the words of a key are mixed with before they are hashed: bits in no order.
pub(super) const HASH_LOW: u64 = 0x9e37_79b9_7f4a_7c15;
/// As [`HASH_LOW`].
pub(super) const HASH_HIGH: u64 = 0xd6e8_feb8_6659_fd93;

/// A string of 1 to [`MAX_KEY`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Key {
    low: u64,
    high: u64,
}

/// What makes a key of a sixteen-byte load: the bits to keep, and the length in the top byte.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Length {
    keep: [u64; 2],
    top: u64,
}

/// By the length of the string.
static LENGTHS: [Length; MAX_KEY + 1] = {
    let mut lengths = [Length { keep: [0; 2], top: 0 }; MAX_KEY + 1];
    let mut len = 1;
    while len <= MAX_KEY {
        let mask = (1u128 << (8 * len)) - 1;
        lengths[len].keep = [mask as u64, (mask >> 64) as u64];
        lengths[len].top = (len as u64) << 56;
        len += 1;
    }
    lengths
};

impl Key {
    /// The key of the empty string, and of an entry that was never written.
    const EMPTY: Key = Key { low: 0, high: 0 };

    /// A key that no string has and no entry holds.
    pub(super) const NONE: Key = Key { low: 0, high: (NO_LENGTH as u64) << 56 };

    /// The key of the first `len` of sixteen loaded bytes; none for a string that is too long.
    #[inline(always)]
    pub(super) fn of(load: &[u8; 16], len: u16) -> Key {
        let Some(length) = LENGTHS.get(usize::from(len)) else { return Key::NONE };
        let load = u128::from_le_bytes(*load);
        let [low, high] = length.keep;
        Key { low: load as u64 & low, high: (load >> 64) as u64 & high | length.top }
    }

    /// The key of two words.
    #[inline(always)]
    pub(super) const fn of_words(low: u64, high: u64) -> Key {
        Key { low, high }
    }

    /// The low and the high one.
    #[inline(always)]
    pub(super) const fn words(self) -> (u64, u64) {
        (self.low, self.high)
    }

    /// Multiply and fold, as in wyhash, but the halves of each word with one another: vectors have no wider product.
    #[inline(always)]
    fn hash(self) -> u32 {
        let half = |word: u64| (word & u64::from(u32::MAX)) * (word >> 32);
        let mixed = half(self.low ^ HASH_LOW) ^ half(self.high ^ HASH_HIGH);
        (mixed ^ mixed >> 32) as u32
    }

    /// Zero for equal keys.
    #[inline(always)]
    fn differs(self, other: Key) -> u64 {
        (self.low ^ other.low) | (self.high ^ other.high)
    }
}

/// Two entries in a cache line, empty where the key is all zeros (no string has length zero).
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
struct Set {
    keys: [Key; 2],
    values: [Value; 2],
}

/// Where a key belongs: its set in the cache in the low bits, its entry in the front in the high ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub(super) struct Slot(u32);

const _: () = assert!(SETS <= 1 << 32 && FRONT == 1 << (32 - FRONT_SHIFT));
/// Bits of a slot below those of its entry in the front.
const FRONT_SHIFT: u32 = 18;

impl Slot {
    /// Where `key` belongs.
    #[inline(always)]
    pub(super) fn of(key: Key) -> Slot {
        Slot(key.hash())
    }

    #[inline(always)]
    fn set(self) -> usize {
        self.0 as usize % SETS
    }

    #[inline(always)]
    fn front(self) -> usize {
        (self.0 >> FRONT_SHIFT) as usize
    }
}

/// A key with its value; half a cache line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(32))]
struct Entry {
    key: Key,
    value: Value,
}

/// A small table before the cache, so that the strings most of the text is made of lie densely. In the cache each has a
/// line of its own beside a rare one, and they exceed the processor's second-level cache. All zeros to begin with.
///
/// The empty string has the key of an entry that was never written, whose value is no ids. Its entry is never taken, so it
/// is always known.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Front {
    entries: [Entry; FRONT],
    insertions: u32,
    /// Up to a whole cache line.
    unused: [u32; 15],
}

impl Front {
    /// Asks for the entry of `slot`, which is wanted soon.
    #[inline(always)]
    pub(super) fn prefetch(&self, slot: Slot) {
        processor::prefetch(&self.entries[slot.front()]);
    }

    /// The value of `key`, which belongs to `slot`, or a miss.
    #[inline(always)]
    pub(super) fn get(&self, slot: Slot, key: Key) -> Value {
        let entry = &self.entries[slot.front()];
        let [low, high] = entry.value;
        // Which it is cannot be predicted well.
        [low, select_unpredictable(entry.key.differs(key) == 0, high, MISS)]
    }

    /// Remembers that `key` has `value`, unless that is a miss; in the place of another only now and then, since most that
    /// come along are rare.
    #[inline(always)]
    pub(super) fn insert(&mut self, slot: Slot, key: Key, value: Value) {
        let reserved = Slot::of(Key::EMPTY).front();
        let entry = &mut self.entries[slot.front()];
        self.insertions = self.insertions.wrapping_add(1);
        let takes = (entry.key == Key::EMPTY) | self.insertions.is_multiple_of(PROMOTE_EVERY);
        let takes = takes & (slot.front() != reserved) & !is_miss(&value);
        *entry = select_unpredictable(takes, Entry { key, value }, *entry);
    }
}

/// The cache of one worker.
#[derive(Debug)]
pub(super) struct Cache {
    memory: MmapMut,
    insertions: u32,
}

/// A cache's sets, for lookups.
#[derive(Clone, Copy)]
pub(super) struct Sets<'a>(&'a [Set; SETS]);

impl Cache {
    /// An empty cache. Pages become real as they are written.
    pub(super) fn new() -> Cache {
        let memory = MmapMut::map_anon(SETS * size_of::<Set>()).expect("32 MiB of address space are left");
        // A wish: where it is not granted the cache works with small pages.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Cache { memory, insertions: 0 }
    }

    /// The sets as they are now.
    #[inline]
    pub(super) fn sets(&self) -> Sets<'_> {
        Sets(<[Set; SETS]>::ref_from_bytes(&self.memory).expect("a map is page-aligned and has this size"))
    }

    /// Remembers that `key`, of set `slot`, has `value`.
    #[inline]
    pub(super) fn insert(&mut self, slot: Slot, key: Key, value: Value) {
        let sets =
            <[Set; SETS]>::mut_from_bytes(&mut self.memory).expect("a map is page-aligned and has this size");
        let set = &mut sets[slot.set()];
        self.insertions = self.insertions.wrapping_add(1);
        if set.keys[0] == Key::EMPTY {
            set.keys[0] = key;
            set.values[0] = value;
            return;
        }
        if self.insertions.is_multiple_of(PROMOTE_EVERY) {
            set.keys.swap(0, 1);
            set.values.swap(0, 1);
            set.keys[0] = key;
            set.values[0] = value;
        } else {
            set.keys[1] = key;
            set.values[1] = value;
        }
    }
}

impl<'a> Sets<'a> {
    /// Asks for the line of the set of `slot`, which is wanted soon.
    #[inline(always)]
    pub(super) fn prefetch(self, slot: Slot) {
        processor::prefetch(&self.0[slot.set()]);
    }

    /// The value of `key`, if it is in set `slot`, else a miss.
    #[inline]
    pub(super) fn get(self, slot: Slot, key: Key) -> Value {
        let set = &self.0[slot.set()];
        // Without branches: whether it is there, and which of the two entries it is, cannot be predicted.
        let (first, second) = (set.keys[0].differs(key) == 0, set.keys[1].differs(key) == 0);
        let [low, high] = *select_unpredictable(second, &set.values[1], &set.values[0]);
        [low, select_unpredictable(first | second, high, MISS)]
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn key(bytes: &[u8]) -> Key {
        let mut load = [b'x'; 16];
        load[..bytes.len()].copy_from_slice(bytes);
        Key::of(&load, bytes.len() as u16)
    }

    #[test]
    fn strings_that_differ_in_length_or_in_bytes_behind_the_end_have_their_own_keys() {
        assert_ne!(key(b"a"), key(b"a\0"));
        assert_ne!(key(b"\0"), Key::EMPTY);
        assert_eq!(Key::of(b"abcdefghijklmnop", 3), key(b"abc"));
        assert_eq!(key(b""), Key::EMPTY);
    }

    #[test]
    fn the_empty_string_is_always_in_front() {
        let mut front: Box<Front> = Box::new(Front::new_zeroed());
        let empty = Slot::of(Key::EMPTY);
        for i in 0..100_u32 {
            let key = key(&i.to_le_bytes());
            front.insert(empty, key, [1, 1 << 48]);
            front.insert(Slot::of(key), key, [u64::from(i), 1 << 48]);
        }
        assert_eq!(front.get(empty, Key::EMPTY), [0; 2]);
        let there = (0..100_u32).filter(|i| {
            let key = key(&i.to_le_bytes());
            front.get(Slot::of(key), key) == [u64::from(*i), 1 << 48]
        });
        assert!(there.count() > 90);
    }

    #[test]
    fn entries_are_found_until_replaced_and_a_set_keeps_two() {
        let mut cache = Cache::new();
        let slot = Slot(7);
        let keys: Vec<Key> = (0..40u8).map(|i| key(&[b'k', i])).collect();
        for (i, &key) in keys.iter().enumerate() {
            cache.insert(slot, key, [i as u64; 2]);
            assert_eq!(cache.sets().get(slot, key), [i as u64; 2], "the newest is there");
        }
        let kept: Vec<usize> = (0..40).filter(|&i| !is_miss(&cache.sets().get(slot, keys[i]))).collect();
        assert_eq!(kept.len(), 2);
        for i in kept {
            assert_eq!(cache.sets().get(slot, keys[i]), [i as u64; 2]);
        }
        assert!(is_miss(&cache.sets().get(slot, Key::NONE)));
        assert!(is_miss(&cache.sets().get(Slot(8), Key::NONE)), "an empty set has no entries");
    }
}
