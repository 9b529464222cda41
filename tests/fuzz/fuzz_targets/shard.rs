//! Any bytes as a shard: refused or read, never a panic, and never a token from outside the file.
#![no_main]

use std::cell::RefCell;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use loader::shard::Shard;
use tempfile::NamedTempFile;

thread_local! {
    static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().unwrap());
}

/// What the format says of a header, so that the fuzzer reaches what lies behind its checksum: the first byte of the input
/// says whether it is made right.
fn with_checksum(data: &[u8]) -> Vec<u8> {
    let Some((&choice, rest)) = data.split_first() else { return Vec::new() };
    let mut file = rest.to_vec();
    if choice & 1 == 1 && file.len() >= 128 {
        file[..8].copy_from_slice(b"TESSERA\0");
        file[8..12].copy_from_slice(&1u32.to_le_bytes());
        file[80..84].copy_from_slice(&(1u32 << 20).to_le_bytes());
        file[88..124].fill(0);
        if choice & 2 == 2 {
            // Positions that follow from small counts.
            let number = |at: usize, file: &[u8]| u64::from(file[at]);
            let (documents, tokens) = (number(16, &file), number(32, &file));
            let width = if file[12] & 1 == 1 { 4 } else { 2 };
            let offsets_at = (128 + tokens * width).next_multiple_of(8);
            let checksums_at = offsets_at + 8 * (documents + 1);
            let bytes = checksums_at + 4 * (checksums_at - 128).div_ceil(1 << 20);
            file.resize(bytes as usize, 0);
            file[12..16].copy_from_slice(&(width as u32).to_le_bytes());
            let (held_out, held_out_tokens) = (number(24, &file), number(40, &file));
            let fields = [documents, held_out, tokens, held_out_tokens, 128, offsets_at, checksums_at, bytes];
            for (at, field) in fields.into_iter().enumerate() {
                file[16 + 8 * at..24 + 8 * at].copy_from_slice(&field.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&file[..124]);
        file[124..128].copy_from_slice(&crc.to_le_bytes());
    }
    file
}

fuzz_target!(|data: &[u8]| {
    FILE.with_borrow_mut(|file| {
        let bytes = with_checksum(data);
        // No map of an earlier input is left when the file changes.
        file.as_file().set_len(0).unwrap();
        std::io::Seek::rewind(file).unwrap();
        file.write_all(&bytes).unwrap();
        let Ok(shard) = Shard::open(file.path()) else { return };
        assert_eq!(shard.bytes(), bytes.len() as u64);
        assert!(shard.held_out() <= shard.documents());
        let right = shard.verify().is_ok();
        let mut tokens = 0;
        for document in 0..shard.documents().min(300) {
            match shard.tokens(document) {
                Ok(found) => {
                    assert!(!found.is_empty() && found.len() == shard.document_len(document).unwrap());
                    tokens += found.iter().count() as u64;
                }
                Err(_) => assert!(!right, "a shard that was found right has a document that is wrong"),
            }
        }
        assert!(!right || shard.documents() > 300 || tokens == shard.token_count());
        assert!(shard.tokens(shard.documents()).is_err());
    });
});
