//! The gzip reader and flate2 agree on any bytes: both refuse them, or both unpack them to the same.
//!
//! The first byte chooses what is read: the bytes as they are, the bytes behind a member's header, or the bytes packed,
//! then damaged in the place that the next two name.

#![no_main]

use std::io::{BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, write::GzEncoder};
use ingest::source::Gzip;
use libfuzzer_sys::fuzz_target;

fn compare(file: &[u8], buffer: usize) {
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    let oracle = MultiGzDecoder::new(file).read_to_end(&mut expected);
    let ours = Gzip::new(BufReader::with_capacity(buffer, file)).read_to_end(&mut found);
    match (oracle, ours) {
        (Ok(_), Ok(_)) => assert!(found == expected, "unpacked to something else"),
        (Err(_), Err(_)) => {}
        (oracle, ours) => panic!("flate2 says {oracle:?}, the reader {ours:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [mode, a, b, rest @ ..] = bytes else { return };
    let buffer = [1, 7, 19, 4096][usize::from(mode >> 2 & 3)];
    match mode & 3 {
        0 => compare(rest, buffer),
        1 => compare(&[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], rest].concat(), buffer),
        mode => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::new(u32::from(*b) % 10));
            packed.write_all(rest).expect("memory takes everything");
            let mut packed = packed.finish().expect("memory takes everything");
            if mode == 3 {
                let at = usize::from(u16::from_le_bytes([*a, *b])) % packed.len();
                packed[at] ^= 1 << (a % 8);
            }
            compare(&packed, buffer);
        }
    }
});
