//! The framing of event files, TFRecord: each record is its length, that length's checksum, the bytes, their checksum.
//!
//! ```text
//! u64 length | u32 masked CRC-32C of the length | length bytes | u32 masked CRC-32C of the bytes      all little-endian
//! ```
//!
//! Source: <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>.

/// Appends one record to `out`.
pub(super) fn append(out: &mut Vec<u8>, record: &[u8]) {
    let length = (record.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(record);
    out.extend(masked_crc(record).to_le_bytes());
}

/// CRC-32C, rotated and shifted so that the checksum of bytes that hold checksums is a good one too.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Takes the first record off `bytes`; `None` where it is torn or altered.
#[cfg(test)]
pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let (length_crc, rest) = rest.split_at_checked(4)?;
    if length_crc != masked_crc(length).to_le_bytes() {
        return None;
    }
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let (record, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let (crc, rest) = rest.split_at_checked(4)?;
    if crc != masked_crc(record).to_le_bytes() {
        return None;
    }
    *bytes = rest;
    Some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, B.4: 32 bytes of zeros, and 0 to 31.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c::crc32c(&ascending), 0x46dd_794e);
    }

    proptest! {
        #[test]
        fn records_come_back_and_damage_is_seen(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..5),
            at in any::<prop::sample::Index>(), bit in 0..8u32,
        ) {
            let mut bytes = Vec::new();
            records.iter().for_each(|record| append(&mut bytes, record));
            let mut rest = bytes.as_slice();
            for record in &records {
                prop_assert_eq!(take(&mut rest), Some(record.as_slice()));
            }
            prop_assert!(rest.is_empty());

            let at = at.index(bytes.len());
            let mut torn = &bytes[..at];
            while take(&mut torn).is_some() {}
            bytes[at] ^= 1 << bit;
            let mut altered = bytes.as_slice();
            let whole = std::iter::from_fn(|| take(&mut altered)).count();
            prop_assert!(whole < records.len());
        }
    }
}
