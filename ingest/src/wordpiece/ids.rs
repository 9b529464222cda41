//! A short list of ids in sixteen bytes, as the caches keep it.
//!
//! ```text
//! ids of at most sixteen bits (`narrow`; BERT's are):   id id id id │ id id id count      up to seven
//! wider ones:                                            id    id    │ id    ·  count      up to three
//! ```
//!
//! Unpacking always copies all of it and goes on by the number, so there is no loop and no branch on it.

/// What a string encodes to, if that fits: two words of sixteen-bit fields, the lowest first.
pub(super) type Value = [u64; 2];

/// Sixteen-bit fields of a value.
const FIELDS: usize = 8;

/// Where the number of ids stands in the second word.
const COUNT_AT: u32 = 48;
/// A number of ids that no value has.
const NO_COUNT: u64 = 0xffff;

/// The second word of what stands for a value that is not known.
pub(super) const MISS: u64 = NO_COUNT << COUNT_AT;

/// Whether a value is not known.
#[inline(always)]
pub(super) fn is_miss(value: &Value) -> bool {
    value[1] == MISS
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

/// Fields that `value` begins with and that are ids.
#[inline(always)]
fn used<const NARROW: bool>(value: &Value) -> usize {
    (value[1] >> COUNT_AT) as usize * if NARROW { 1 } else { 2 }
}

/// Appends the ids that `fields` are.
#[inline(always)]
fn extend<const NARROW: bool>(ids: &mut Vec<u32>, fields: &[u16]) {
    if NARROW {
        ids.extend(fields.iter().map(|&id| u32::from(id)));
    } else {
        let pairs = fields.as_chunks::<2>().0.iter();
        ids.extend(pairs.map(|&[low, high]| u32::from(low) | u32::from(high) << 16));
    }
}

/// Appends the ids of `value`.
#[inline]
pub(super) fn unpack<const NARROW: bool>(value: &Value, ids: &mut Vec<u32>) {
    extend::<NARROW>(ids, &fields(value)[..used::<NARROW>(value)]);
}

/// Ids of fewer than `VALUES` values, and one more behind each, on their way to the others. The last place is for the noise
/// behind them.
///
/// How many fields are filled is the caller's to remember, so that it stays in a register.
#[derive(Debug)]
pub(super) struct Staged<const VALUES: usize>([[u16; FIELDS]; VALUES]);

impl<const VALUES: usize> Staged<VALUES> {
    pub(super) fn new() -> Self {
        Self([[0; FIELDS]; VALUES])
    }

    /// Puts the ids of `value` behind the first `len` fields; returns how many there are then.
    #[inline(always)]
    pub(super) fn push<const NARROW: bool>(&mut self, len: usize, value: &Value) -> usize {
        let room = self.0.as_flattened_mut()[len..].first_chunk_mut();
        *room.expect("there is room for all values") = fields(value);
        len + used::<NARROW>(value)
    }

    /// Puts the id below `above` there, unless that is zero.
    #[inline(always)]
    pub(super) fn push_below<const NARROW: bool>(&mut self, len: usize, above: u32) -> usize {
        let id = above.wrapping_sub(1);
        let room = &mut self.0.as_flattened_mut()[len..];
        room[0] = id as u16;
        if NARROW {
            return len + usize::from(above != 0);
        }
        room[1] = (id >> 16) as u16;
        len + 2 * usize::from(above != 0)
    }

    /// Appends the first `len` fields to `ids`.
    #[inline(always)]
    pub(super) fn copy<const NARROW: bool>(&self, len: usize, ids: &mut Vec<u32>) {
        extend::<NARROW>(ids, &self.0.as_flattened()[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists_come_back<const NARROW: bool>(fits: u32, largest: u32) {
        let mut staged = Staged::<20>::new();
        let (mut filled, mut all, mut expected) = (0, Vec::new(), Vec::new());
        for len in 0..=8 {
            let ids: Vec<u32> = (0..len).map(|i| largest - i).collect();
            let packed = pack(&ids, NARROW);
            assert_eq!(packed.is_some(), len <= fits, "{len} ids, narrow: {NARROW}");
            if let Some(value) = packed {
                assert!(!is_miss(&value));
                let mut out = vec![7];
                unpack::<NARROW>(&value, &mut out);
                assert_eq!(out[1..], ids[..], "narrow: {NARROW}");
                for above in [0, largest] {
                    filled = staged.push::<NARROW>(filled, &value);
                    filled = staged.push_below::<NARROW>(filled, above);
                    expected.extend(&ids);
                    expected.extend(above.checked_sub(1));
                }
            }
        }
        staged.copy::<NARROW>(filled, &mut all);
        assert_eq!(all, expected, "narrow: {NARROW}");
    }

    #[test]
    fn lists_come_back_as_they_went_in_up_to_what_fits() {
        lists_come_back::<true>(7, 0xffff);
        lists_come_back::<false>(3, u32::MAX);
    }
}
