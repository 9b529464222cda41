//! A short list of ids in sixteen bytes, as the caches keep it.
//!
//! ```text
//! ids of at most sixteen bits (`narrow`; BERT's are):   id id id id │ id id id count      up to seven
//! wider ones:                                            id    id    │ id    ·  count      up to three
//! ```
//!
//! Unpacking always copies all of it and goes on by the number, so there is no loop and no branch on it.

use std::ops::Range;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::split::WINDOW;
use super::trie::MAX_ID;

/// What a string encodes to, if that fits: two words of sixteen-bit fields, the lowest first.
pub(super) type Value = [u64; 2];

/// Sixteen-bit fields of a value.
const FIELDS: usize = 8;

/// Where the number of ids stands in the second word.
const COUNT_AT: u32 = 48;

/// The second word of what stands for a value that is not known: its number of ids is zero, and a bit above says why.
pub(super) const MISS: u64 = 1 << MISS_AT;

/// Where the bit of a miss stands in the second word.
const MISS_AT: u32 = 56;

/// Whether a value is not known.
#[inline(always)]
pub(super) fn is_miss(value: &Value) -> bool {
    value[1] >> MISS_AT != 0
}

/// Packs `ids`, if they fit.
#[inline]
pub(super) fn pack(ids: &[u32], narrow: bool) -> Option<Value> {
    let id = |at: usize| u64::from(ids.get(at).copied().unwrap_or(0));
    let count = (ids.len() as u64) << COUNT_AT;
    if narrow {
        let low = id(0) | id(1) << 16 | id(2) << 32 | id(3) << 48;
        (ids.len() <= 7).then(|| [low, id(4) | id(5) << 16 | id(6) << 32 | count])
    } else {
        (ids.len() <= 3).then(|| [id(0) | id(1) << 32, id(2) | count])
    }
}

#[inline(always)]
fn fields(value: &Value) -> [u16; FIELDS] {
    let fields: [u16; FIELDS] = zerocopy::transmute!(value.map(u64::to_le));
    fields.map(u16::from_le)
}

/// Fields that `value` begins with and that are ids; none of a miss.
#[inline(always)]
fn used<const NARROW: bool>(value: &Value) -> usize {
    usize::from((value[1] >> COUNT_AT) as u8) * if NARROW { 1 } else { 2 }
}

/// An id as the encoder hands it out: `u32`, or `u16` where all ids are so narrow.
pub(super) trait Id: Copy {
    /// `id`, which must fit.
    fn of(id: u32) -> Self;

    /// Appends the ids that `fields` are.
    fn extend<const NARROW: bool>(ids: &mut Vec<Self>, fields: &[u16]);
}

impl Id for u32 {
    fn of(id: u32) -> u32 {
        id
    }

    #[inline(always)]
    fn extend<const NARROW: bool>(ids: &mut Vec<u32>, fields: &[u16]) {
        if NARROW {
            ids.extend(fields.iter().map(|&id| u32::from(id)));
        } else {
            let pairs = fields.as_chunks::<2>().0.iter();
            ids.extend(pairs.map(|&[low, high]| u32::from(low) | u32::from(high) << 16));
        }
    }
}

impl Id for u16 {
    fn of(id: u32) -> u16 {
        id as u16
    }

    #[inline(always)]
    fn extend<const NARROW: bool>(ids: &mut Vec<u16>, fields: &[u16]) {
        const { assert!(NARROW, "wider ids do not fit") };
        ids.extend_from_slice(fields);
    }
}

/// Ids of values, one behind another.
///
/// How many fields are filled is the caller's to remember, so that it stays in a register; it never exceeds [`FILLED`].
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Fields([u16; FILLED + BLOCK]);

/// As many fields as sixteen bits count, so that no place has to be checked. Those that are never written take no memory.
const FILLED: usize = 1 << 16;

/// Fields copied in one step.
const BLOCK: usize = 32;

// A chunk of a window takes two bytes with its separator and has at most a value's fields with the mark behind it, or, where
// that is not enough for it, at most two fields a byte.
const _: () = assert!((WINDOW / 2 + 1) * FIELDS < FILLED);

/// An id that is put behind a value, or none: a bit above the id says that there is one.
pub(super) type Mark = u32;

/// Where that bit stands: above all ids.
const MARK_AT: u32 = 31;

const _: () = assert!(MAX_ID < 1 << MARK_AT);

/// The mark that `id` is.
pub(super) fn mark(id: u32) -> Mark {
    id | 1 << MARK_AT
}

/// The bytes that a mark takes: one, or none if there is no mark.
#[inline(always)]
pub(super) fn mark_len(mark: Mark) -> u16 {
    (mark >> MARK_AT) as u16
}

impl Fields {
    /// The places from `len` on.
    #[inline(always)]
    fn room<const MANY: usize>(&mut self, len: u32) -> &mut [u16; MANY] {
        self.0[usize::from(len as u16)..].first_chunk_mut().expect("there is room for a block more")
    }

    /// Puts the ids of `value` behind the first `len` fields; returns how many there are then.
    #[inline(always)]
    pub(super) fn push<const NARROW: bool>(&mut self, len: u32, value: &Value) -> u32 {
        *self.room(len) = fields(value);
        len + used::<NARROW>(value) as u32
    }

    /// Puts `mark` behind the first `len` fields; returns how many there are then.
    #[inline(always)]
    pub(super) fn push_mark<const NARROW: bool>(&mut self, len: u32, mark: Mark) -> u32 {
        let room: &mut [u16; 2] = self.room(len);
        room[0] = mark as u16;
        if NARROW {
            return len + u32::from(mark_len(mark));
        }
        room[1] = ((mark & !(1 << MARK_AT)) >> 16) as u16;
        len + 2 * u32::from(mark_len(mark))
    }

    /// Puts the fields of `range` of others behind the first `len`; returns how many there are then.
    #[inline(always)]
    pub(super) fn copy(&mut self, len: u32, others: &Fields, range: Range<u32>) -> u32 {
        for at in range.clone().step_by(BLOCK) {
            let block: &[u16; BLOCK] =
                others.0[usize::from(at as u16)..].first_chunk().expect("there is a block more");
            *self.room(len + (at - range.start)) = *block;
        }
        len + (range.end - range.start)
    }

    /// Puts `ids` behind the first `len` fields; returns how many there are then.
    pub(super) fn push_ids<const NARROW: bool>(&mut self, len: u32, ids: &[u32]) -> u32 {
        ids.iter().fold(len, |len, &id| self.push_mark::<NARROW>(len, mark(id)))
    }

    /// The value of the ids in `range`, if they fit.
    pub(super) fn value<const NARROW: bool>(&self, range: Range<u32>) -> Option<Value> {
        let (width, most) = if NARROW { (1, FIELDS - 1) } else { (2, FIELDS - 2) };
        if range.len() > most {
            return None;
        }
        let fields = &self.0[range.start as usize..range.end as usize];
        let mut ids = [0; FIELDS - 1];
        for (id, fields) in ids.iter_mut().zip(fields.chunks_exact(width)) {
            *id = fields.iter().rev().fold(0, |high, &low| high << 16 | u32::from(low));
        }
        pack(&ids[..fields.len() / width], NARROW)
    }

    /// Appends the first `len` fields to `ids`.
    #[inline(always)]
    pub(super) fn append<const NARROW: bool, I: Id>(&self, len: u32, ids: &mut Vec<I>) {
        I::extend::<NARROW>(ids, &self.0[..len as usize]);
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn lists_come_back<const NARROW: bool>(fits: u32, largest: u32) {
        let mut staged: Box<Fields> = Box::new(Fields::new_zeroed());
        let (mut filled, mut all, mut expected) = (0, Vec::new(), Vec::new());
        for len in 0..=8 {
            let ids: Vec<u32> = (0..len).map(|i| largest - i).collect();
            let packed = pack(&ids, NARROW);
            assert_eq!(packed.is_some(), len <= fits, "{len} ids, narrow: {NARROW}");
            if let Some(value) = packed {
                assert!(!is_miss(&value));
                for behind in [None, Some(largest)] {
                    let before = filled;
                    filled = staged.push::<NARROW>(filled, &value);
                    assert_eq!(staged.value::<NARROW>(before..filled), Some(value), "narrow: {NARROW}");
                    filled = staged.push_mark::<NARROW>(filled, behind.map_or(0, mark));
                    expected.extend(&ids);
                    expected.extend(behind);
                }
            }
        }
        let ids: Vec<u32> = (0..=fits).collect();
        let end = staged.push_ids::<NARROW>(filled, &ids);
        assert_eq!(staged.value::<NARROW>(filled..end), None, "one too many, narrow: {NARROW}");
        expected.extend(ids);
        staged.append::<NARROW, u32>(end, &mut all);
        assert_eq!(all, expected, "narrow: {NARROW}");
    }

    #[test]
    fn lists_come_back_as_they_went_in_up_to_what_fits() {
        lists_come_back::<true>(7, 0xffff);
        lists_come_back::<false>(3, MAX_ID);
    }
}
