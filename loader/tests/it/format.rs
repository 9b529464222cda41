//! Bytes on disk: what is written is read, the same input gives the same bytes, and no damage gets through.

use std::fs;
use std::path::Path;

use loader::Error;
use loader::shard::{BLOCK_BYTES, FORMAT_VERSION, Manifest, Shard, ShardSummary, ShardWriter, Tokens};
use proptest::prelude::*;

use crate::fixture::{some_documents, write_folder};

/// The tokens in as few bytes as they fit in.
fn in_few_bytes(tokens: &[u32]) -> Option<Vec<u16>> {
    tokens.iter().map(|&token| u16::try_from(token).ok()).collect()
}

fn write(dir: &Path, token_bytes: u8, train: &[Vec<u32>], held_out: &[Vec<u32>]) -> ShardSummary {
    let mut writer = ShardWriter::create(dir, "a.tokens", token_bytes).unwrap();
    train.iter().for_each(|tokens| writer.push(tokens).unwrap());
    held_out.iter().for_each(|tokens| writer.push_held_out(tokens).unwrap());
    writer.seal().unwrap()
}

/// A small intact shard as bytes.
fn small(token_bytes: u8) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), token_bytes, &[vec![1, 2, 3], vec![4], vec![5, 6]], &[vec![7, 8]]);
    fs::read(dir.path().join("a.tokens")).unwrap()
}

/// Everything a reader can do to a file: whatever it holds, this returns.
fn read_all(path: &Path) -> Result<Vec<Vec<u32>>, Error> {
    let shard = Shard::open(path)?;
    let documents = (0..shard.documents()).map(|i| Ok(shard.tokens(i)?.to_vec())).collect();
    assert!(matches!(shard.tokens(shard.documents()), Err(Error::OutOfRange { .. })));
    assert!(matches!(shard.tokens(u64::MAX), Err(Error::OutOfRange { .. })));
    shard.verify()?;
    documents
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn documents(token_bytes: u8) -> impl Strategy<Value = (u8, Vec<Vec<u32>>, Vec<Vec<u32>>)> {
    let most = if token_bytes == 2 { u32::from(u16::MAX) } else { u32::MAX };
    let some = || prop::collection::vec(prop::collection::vec(0..=most, 1..20), 0..12);
    (Just(token_bytes), some(), some())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn how_wide_tokens_come_makes_no_difference((width, train, held_out) in prop_oneof![documents(2), documents(4)]) {
        let [wide, narrow] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let expected = write(wide.path(), width, &train, &held_out);
        let mut writer = ShardWriter::create(narrow.path(), "a.tokens", width).unwrap();
        for (documents, held_out) in [(&train, false), (&held_out, true)] {
            for tokens in documents {
                match in_few_bytes(tokens) {
                    Some(few) => writer.append(Tokens::U16(&few), held_out).unwrap(),
                    None => writer.append(Tokens::U32(tokens), held_out).unwrap(),
                }
            }
        }
        prop_assert_eq!(writer.seal().unwrap(), expected);
    }

    #[test]
    fn what_is_written_is_read((width, train, held_out) in prop_oneof![documents(2), documents(4)]) {
        let dir = tempfile::tempdir().unwrap();
        let summary = write(dir.path(), width, &train, &held_out);
        let path = dir.path().join("a.tokens");
        let shard = Shard::open(&path).unwrap();
        let all: Vec<Vec<u32>> = train.iter().chain(&held_out).cloned().collect();
        prop_assert_eq!(read_all(&path).unwrap(), all.clone());
        prop_assert_eq!(summary, ShardSummary {
            bytes: fs::metadata(&path).unwrap().len(),
            blake3: blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string(),
            documents: all.len() as u64,
            held_out: held_out.len() as u64,
            tokens: all.concat().len() as u64,
            held_out_tokens: held_out.concat().len() as u64,
        });
        prop_assert_eq!((shard.token_bytes(), shard.held_out()), (width, held_out.len() as u64));
    }

    /// Any change of any bytes is an error: at the latest `verify` sees it, and nothing before that panics.
    #[test]
    fn changed_bytes_are_found(
        width in prop_oneof![Just(2u8), Just(4)],
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        let intact = small(width);
        let mut file = intact.clone();
        changes.iter().for_each(|(at, change)| file[at.index(intact.len())] ^= change);
        prop_assume!(file != intact);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tokens");
        fs::write(&path, &file).unwrap();
        let error = read_all(&path).unwrap_err();
        prop_assert!(error.to_string().contains("a.tokens"), "{}", error);
    }

    /// Sections with arbitrary content behind valid checksums: look-ups answer with an error or with what is there.
    #[test]
    fn hostile_offsets_are_survived(offsets in prop::collection::vec(prop_oneof![0..12u64, any::<u64>()], 5)) {
        let mut file = small(2);
        for (i, offset) in offsets.iter().enumerate() {
            file[144 + 8 * i..152 + 8 * i].copy_from_slice(&offset.to_le_bytes());
        }
        let end = file.len();
        let crc = crc32c::crc32c(&file[128..end - 4]);
        file[end - 4..].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&file[end - 4..]);
        file[84..88].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&file[..124]);
        file[124..128].copy_from_slice(&crc.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tokens");
        fs::write(&path, &file).unwrap();
        let read = read_all(&path);
        let intact = [0, 3, 4, 6, 8];
        prop_assert_eq!(read.is_ok(), offsets == intact, "{:?}", read);
        let shard = Shard::open(&path).unwrap();
        for document in 0..4 {
            let (start, end) = (offsets[document], offsets[document + 1]);
            let expected = (start < end && end <= 8).then(|| (start as u32 + 1..=end as u32).collect::<Vec<_>>());
            prop_assert_eq!(shard.tokens(document as u64).ok().map(|tokens| tokens.to_vec()), expected);
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tokens");
    for width in [2, 4] {
        let intact = small(width);
        for len in 0..intact.len() {
            fs::write(&path, &intact[..len]).unwrap();
            let error = Shard::open(&path).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{len} bytes: {error}");
        }
        fs::write(&path, [&intact[..], &[0]].concat()).unwrap();
        assert!(matches!(Shard::open(&path), Err(Error::Corrupt { .. })), "a byte too many");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tokens");
    let intact = small(2);
    for bit in 0..intact.len() * 8 {
        let mut file = intact.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &file).unwrap();
        assert!(read_all(&path).is_err(), "bit {bit}");
    }
}

/// The bytes themselves: a change of the format shows here, and means a new format version.
#[test]
fn the_bytes_are_those_of_the_format() {
    let file = small(2);
    assert_eq!(FORMAT_VERSION, 1);
    assert_eq!(&file[..8], b"TESSERA\0");
    let words = |range: std::ops::Range<usize>| -> Vec<u64> {
        file[range].chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    };
    assert_eq!(&file[8..16], [1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(words(16..80), [4, 1, 8, 2, 128, 144, 184, 188]);
    assert_eq!(&file[128..144], [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0]);
    assert_eq!(words(144..184), [0, 3, 4, 6, 8]);
    assert_eq!(file.len(), 188);
    assert_eq!(
        blake3::hash(&file).to_hex().as_str(),
        "f2524611253eb3650d8f56f1661e148928bb3ee7146a2c3a1e8ef0bf2fbc8b41"
    );
}

#[test]
fn verify_names_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Vec<u32>> = (0..40).map(|i| vec![i; 40_000]).collect();
    write(dir.path(), 2, &documents, &[]);
    let path = dir.path().join("a.tokens");
    assert!(Shard::open(&path).unwrap().verify().is_ok());
    let mut file = fs::read(&path).unwrap();
    let bad = 128 + 2 * BLOCK_BYTES as usize;
    file[bad + 77] ^= 4;
    fs::write(&path, &file).unwrap();
    let error = Shard::open(&path).unwrap().verify().unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset, .. } if offset == bad as u64), "{error}");
    assert!(error.to_string().contains(&format!("damaged at byte {bad}")), "{error}");
}

#[test]
fn an_unsealed_shard_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), "a.tokens", 2).unwrap();
    writer.push(&[1, 2]).unwrap();
    assert_eq!((writer.documents(), writer.tokens()), (1, 2));
    assert!(names(dir.path())[0].starts_with("a.tokens.tmp-"));
    drop(writer);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_writer_refuses_what_the_format_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(ShardWriter::create(dir.path(), "a", 3), Err(Error::TokenWidth { token_bytes: 3, .. })));
    let mut writer = ShardWriter::create(dir.path(), "a", 2).unwrap();
    assert!(matches!(writer.push(&[]), Err(Error::EmptyDocument { .. })));
    assert!(matches!(writer.push(&[1, 65_536]), Err(Error::TokenTooLarge { token: 65_536, .. })));
    assert!(matches!(writer.push_held_out(&[70_000]), Err(Error::TokenTooLarge { .. })));
    writer.push(&[65_535]).unwrap();
    writer.seal().unwrap();
    assert_eq!(read_all(&dir.path().join("a")).unwrap(), [[65_535]]);
}

#[test]
fn a_missing_shard_and_another_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tokens");
    let message = Shard::open(&path).unwrap_err().to_string();
    assert!(message.starts_with("cannot open ") && message.ends_with("a.tokens"), "{message}");
    fs::write(&path, vec![b'x'; 500]).unwrap();
    assert!(matches!(Shard::open(&path), Err(Error::NotAShard { .. })));
}

#[test]
fn a_manifest_reads_back_and_its_hash_is_that_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_folder(dir.path(), 2, &some_documents(2, 20, 30));
    let read = Manifest::read(dir.path()).unwrap();
    assert_eq!(read, written);
    let file = fs::read(dir.path().join("manifest.json")).unwrap();
    assert_eq!(read.blake3(), blake3::hash(&file).to_hex().to_string());
}

#[test]
fn a_manifest_that_is_wrong_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 2, &some_documents(2, 20, 30));
    let path = dir.path().join("manifest.json");
    let intact = fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("\"format_version\": 1", "\"format_version\": 7", "format version 7, this program reads version 1"),
        ("\"program\"", "\"programme\"", "unknown field `programme`"),
        ("\"token_bytes\": 2", "\"token_bytes\": 3", "token_bytes is 3, expected 2 or 4"),
        ("\"vocab_size\": 1000", "\"vocab_size\": 1025", "model_vocab_size is 1024, expected 1088"),
        ("\"vocab_size\": 1000", "\"vocab_size\": 0", "vocab_size is 0"),
        ("\"mask\": 103", "\"mask\": 1000", "special id 1000 is outside the vocabulary"),
        ("\"documents\": 40", "\"documents\": 41", "documents is 41, but its shards hold 40"),
        ("shard-00001-0000.tokens", "../b.tokens", "\"../b.tokens\" is not the name of a file"),
        ("shard-00001-0000.tokens", "shard-00000-0000.tokens", "shard-00000-0000.tokens is listed twice"),
        ("\"input\": 1", "\"input\": 2", "came from input 2 of 2"),
        (
            "\"held_out\": 2",
            "\"held_out\": 18446744073709551615",
            "but its shards hold more than 64 bits hold",
        ),
        ("{", "[", "not a valid manifest"),
    ] {
        let wrong = intact.replacen(from, to, 1);
        assert_ne!(wrong, intact, "{from}");
        fs::write(&path, wrong).unwrap();
        let message = Manifest::read(dir.path()).unwrap_err().to_string();
        assert!(message.contains(reason) && message.contains("manifest.json"), "{message}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(Manifest::read(dir.path()), Err(Error::NoManifest { .. })));
}

#[test]
fn a_manifest_cut_anywhere_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 2, &some_documents(1, 5, 5));
    let path = dir.path().join("manifest.json");
    let intact = fs::read(&path).unwrap();
    for len in 0..intact.len() - 1 {
        fs::write(&path, &intact[..len]).unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(Error::Manifest { .. })), "{len} bytes");
    }
}
