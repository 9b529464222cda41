//! A short list of ids in sixteen bytes, as the caches keep it.
//!
//! ```text
//! ids of at most sixteen bits (`narrow`; BERT's are):   id id id count │ id id id id      up to seven
//! wider ones:                                            id      ·  count │ id     id        up to three
//! ```
//!
//! Unpacking always writes all of them and the caller advances by the number, so there is no loop and no branch on it.

/// Ids written by [`unpack`], whatever the number that counts.
pub(super) const UNPACKED: usize = 8;

/// What a string encodes to, if that fits: two words of sixteen-bit fields, the lowest first.
pub(super) type Value = [u64; 2];

/// Where the number of ids stands in the first word.
const COUNT_AT: u32 = 48;
/// A number of ids that no value has.
const NO_COUNT: u64 = 0xffff;

/// The first word of what stands for a value that is not known.
pub(super) const MISS: u64 = NO_COUNT << COUNT_AT;

/// Whether a value is not known.
#[inline(always)]
pub(super) fn is_miss(value: &Value) -> bool {
    value[0] == MISS
}

/// Packs `ids`, if they fit.
#[inline]
pub(super) fn pack(ids: &[u32], narrow: bool) -> Option<Value> {
    let id = |at: usize| u64::from(ids.get(at).copied().unwrap_or(0));
    let count = (ids.len() as u64) << COUNT_AT;
    if narrow {
        let high = id(3) | id(4) << 16 | id(5) << 32 | id(6) << 48;
        (ids.len() <= 7).then(|| [id(0) | id(1) << 16 | id(2) << 32 | count, high])
    } else {
        (ids.len() <= 3).then(|| [id(0) | count, id(1) | id(2) << 32])
    }
}

/// Writes the ids of `value` to the front of `out` and returns their number; what lies behind them is noise.
#[inline(always)]
pub(super) fn unpack(value: &Value, narrow: bool, out: &mut [u32; UNPACKED]) -> usize {
    let &[low, high] = value;
    if narrow {
        let fields = |word: u64| -> [u32; 4] {
            let fields: [u16; 4] = zerocopy::transmute!(word.to_le());
            fields.map(|field| u32::from(u16::from_le(field)))
        };
        // The number of ids is written where the fourth comes then.
        out[..4].copy_from_slice(&fields(low));
        out[3..7].copy_from_slice(&fields(high));
    } else {
        out[..3].copy_from_slice(&[low as u32, high as u32, (high >> 32) as u32]);
    }
    (low >> COUNT_AT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_as_they_went_in_up_to_what_fits() {
        for (narrow, fits, largest) in [(true, 7, 0xffff), (false, 3, u32::MAX)] {
            for len in 0..=8 {
                let ids: Vec<u32> = (0..len).map(|i| largest - i).collect();
                let packed = pack(&ids, narrow);
                assert_eq!(packed.is_some(), len <= fits, "{len} ids, narrow: {narrow}");
                if let Some(value) = packed {
                    assert!(!is_miss(&value));
                    let mut out = [0; UNPACKED];
                    let count = unpack(&value, narrow, &mut out);
                    assert_eq!(out[..count], ids[..], "narrow: {narrow}");
                }
            }
        }
    }
}
