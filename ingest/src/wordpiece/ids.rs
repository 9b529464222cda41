//! A short list of ids in sixteen bytes, as the cache keeps it.
//!
//! Where all ids fit sixteen bits (`narrow`; BERT's do), a value holds up to seven of them; otherwise up to three of
//! thirty-two bits. The last of the eight fields is their number. Unpacking always writes eight ids and the caller
//! advances by the number, so there is no loop and no branch on the length.

use super::cache::Value;

/// Ids written by [`unpack`], whatever the number that counts.
pub(super) const UNPACKED: usize = 8;

/// Packs `ids`, if they fit.
#[inline]
pub(super) fn pack(ids: &[u32], narrow: bool) -> Option<Value> {
    let mut value = [0; 8];
    if narrow {
        if ids.len() > 7 {
            return None;
        }
        for (field, &id) in value.iter_mut().zip(ids) {
            *field = id as u16;
        }
    } else {
        if ids.len() > 3 {
            return None;
        }
        for (fields, &id) in value.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
            *fields = [id as u16, (id >> 16) as u16];
        }
    }
    value[7] = ids.len() as u16;
    Some(value)
}

/// Writes the ids of `value` to the front of `out` and returns their number; what lies behind them is noise.
#[inline]
pub(super) fn unpack(value: &Value, narrow: bool, out: &mut [u32; UNPACKED]) -> usize {
    let value = *value;
    if narrow {
        for (id, field) in out.iter_mut().zip(value) {
            *id = u32::from(field);
        }
    } else {
        for (id, &[low, high]) in out.iter_mut().zip(value.as_chunks::<2>().0) {
            *id = u32::from(low) | u32::from(high) << 16;
        }
    }
    usize::from(value[7])
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
                    let mut out = [0; UNPACKED];
                    let count = unpack(&value, narrow, &mut out);
                    assert_eq!(out[..count], ids[..], "narrow: {narrow}");
                }
            }
        }
    }
}
