//! Lines packed with zstd, in any number of frames, are the rows they are unpacked; a cut file is refused, and a damaged
//! one with checksums is refused or still says the same.

#![no_main]

use std::io::Write;

use fuzz::{Choices, rows};
use libfuzzer_sys::fuzz_target;
use zstd::stream::Encoder;

/// What has to be passed over.
const SKIPPED: [u8; 11] = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'a', b'b', b'c'];

fn packed(text: &[u8], frames: usize, level: i32, skipped: bool) -> Vec<u8> {
    let mut file = Vec::new();
    for piece in text.chunks(text.len().div_ceil(frames).max(1)) {
        if skipped {
            file.extend(SKIPPED);
        }
        let mut encoder = Encoder::new(file, level).expect("there is memory");
        encoder.include_checksum(true).expect("it is a known option");
        encoder.write_all(piece).expect("memory takes everything");
        file = encoder.finish().expect("memory takes everything");
    }
    file
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let mode = choices.below(4);
    if mode == 0 {
        // Whatever it is, it is survived.
        let _ = rows([&[0x28, 0xb5, 0x2f, 0xfd], choices.0].concat());
        return;
    }
    let (frames, level, skipped) = (1 + choices.below(4), choices.below(6) as i32 - 1, choices.below(2) == 1);
    let mut how = Choices(choices.0.get(..16).unwrap_or_default());
    // So that it is known as lines without its name.
    let text = [b"{\"text\":\"first\"}\n", choices.0.get(16..).unwrap_or_default()].concat();
    let mut file = packed(&text, frames, level, skipped);
    let expected = rows(text);
    match mode {
        1 => assert_eq!(rows(file).ok(), expected.ok()),
        2 => {
            let end = how.below(file.len());
            let found = rows(file[..end].to_vec());
            // A cut between two frames, of which one that is passed over is one too, cannot be seen.
            if let (Ok(found), Ok(expected)) = (found, expected) {
                assert!(
                    (frames > 1 || skipped) && found.len() <= expected.len(),
                    "cut to {end} bytes it still has {found:?}"
                );
            }
        }
        _ => {
            how.damage(&mut file);
            // Damage may turn a frame into one that is passed over.
            if let (Ok(found), Ok(expected)) = (rows(file), expected) {
                assert!(found.len() <= expected.len() || frames > 1, "{found:?}");
            }
        }
    }
});
