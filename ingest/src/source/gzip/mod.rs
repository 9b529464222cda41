//! Files as streams of unpacked bytes that know their position in the file: as they are, or gzip (RFC 1952).

mod huffman;
mod inflate;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::Unpacked;
use crate::profile::{self, Stage};
use inflate::Inflate;

/// The first two bytes of every member, and the only method there is.
const MEMBER_START: [u8; 3] = [0x1f, 0x8b, 8];
/// Flags of a member's header.
const HEADER_CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// A file as it is, counting the bytes taken from it.
pub(crate) struct Counted<R = BufReader<File>> {
    inner: R,
    consumed: u64,
}

impl<R: BufRead> Counted<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, consumed: 0 }
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u64;
        self.inner.consume(bytes);
    }
}

impl<R: BufRead> Unpacked for Counted<R> {
    fn position(&self) -> u64 {
        self.consumed
    }
}

/// A gzip file of any number of members, unpacked. Its memory does not depend on the file.
pub struct Gzip<R = BufReader<File>> {
    input: Counted<R>,
    inflate: Box<Inflate>,
    /// Of the member under way.
    checksum: crc32fast::Hasher,
    /// Bytes of the member under way.
    length: u64,
    within: Within,
}

/// Where in the file a [`Gzip`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// Before the first member.
    Start,
    /// In a member.
    Member,
    /// Behind the last.
    End,
}

impl<R: BufRead> Gzip<R> {
    /// Unpacks what `file` yields.
    pub fn new(file: R) -> Self {
        Self {
            input: Counted::new(file),
            inflate: Box::new(Inflate::new()),
            checksum: crc32fast::Hasher::new(),
            length: 0,
            within: Within::Start,
        }
    }

    /// Unpacks until there is something to take, or the file ends.
    fn more(&mut self) -> io::Result<()> {
        loop {
            match self.within {
                Within::End => return Ok(()),
                Within::Start => self.member()?,
                Within::Member => {
                    if self.inflate.more(&mut self.input)? {
                        let unpacked = self.inflate.unpacked();
                        self.checksum.update(unpacked);
                        self.length += unpacked.len() as u64;
                        return Ok(());
                    }
                    self.trailer()?;
                    self.member()?;
                }
            }
        }
    }

    /// The header of the next member, or the end of the file, which may only be behind a member.
    fn member(&mut self) -> io::Result<()> {
        let mut header = crc32fast::Hasher::new();
        let first = self.inflate.bits().byte(&mut self.input)?;
        if first.is_none() && self.within == Within::Member {
            self.within = Within::End;
            return Ok(());
        }
        let first = first.ok_or(io::ErrorKind::UnexpectedEof)?;
        header.update(&[first]);
        let start = [first, self.byte(&mut header)?, self.byte(&mut header)?];
        if start != MEMBER_START {
            let what = format!("the bytes {start:02x?} where a gzip member begins with {MEMBER_START:02x?}");
            return Err(invalid(what));
        }
        let flags = self.byte(&mut header)?;
        if flags & RESERVED != 0 {
            return Err(invalid(format!("a gzip header has reserved flags set: 0x{flags:02x}")));
        }
        // Time, compression level, operating system.
        for _ in 0..6 {
            self.byte(&mut header)?;
        }
        if flags & EXTRA != 0 {
            let length = [self.byte(&mut header)?, self.byte(&mut header)?];
            for _ in 0..u16::from_le_bytes(length) {
                self.byte(&mut header)?;
            }
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                while self.byte(&mut header)? != 0 {}
            }
        }
        if flags & HEADER_CHECKSUM != 0 {
            let expected = header.clone().finalize() as u16;
            let found = u16::from_le_bytes([self.byte(&mut header)?, self.byte(&mut header)?]);
            if found != expected {
                return Err(invalid("a gzip header does not match its checksum".to_owned()));
            }
        }
        self.inflate.start();
        self.checksum.reset();
        self.length = 0;
        self.within = Within::Member;
        Ok(())
    }

    /// What follows a member's data.
    fn trailer(&mut self) -> io::Result<()> {
        let mut unused = crc32fast::Hasher::new();
        let mut bytes = [0; 8];
        for byte in &mut bytes {
            *byte = self.byte(&mut unused)?;
        }
        let [checksum, length] = [0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i])));
        if checksum != self.checksum.clone().finalize() || length != self.length as u32 {
            return Err(invalid("what was unpacked does not match the gzip checksum".to_owned()));
        }
        Ok(())
    }

    fn byte(&mut self, checksum: &mut crc32fast::Hasher) -> io::Result<u8> {
        let byte = self.inflate.bits().byte(&mut self.input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        checksum.update(&[byte]);
        Ok(byte)
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Gzip<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.inflate.unpacked().is_empty() {
            profile::within(Stage::Unpack, || self.more())?;
        }
        Ok(self.inflate.unpacked())
    }

    fn consume(&mut self, bytes: usize) {
        self.inflate.take(bytes);
    }
}

impl<R: BufRead> Unpacked for Gzip<R> {
    fn position(&self) -> u64 {
        self.input.consumed
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::bufread::MultiGzDecoder;
    use flate2::{Compression, GzBuilder, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        packed(text, 6)
    }

    fn packed(text: &[u8], level: u32) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::new(level));
        packed.write_all(text).unwrap();
        packed.finish().unwrap()
    }

    /// A reader that hands out a few bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.fill_buf()?.read(buffer)?;
            self.consume(read);
            Ok(read)
        }
    }

    impl BufRead for Drip<'_> {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            Ok(&self.0[..self.0.len().min(self.1)])
        }
        fn consume(&mut self, bytes: usize) {
            self.0 = &self.0[bytes..];
        }
    }

    fn unpack(file: impl BufRead) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        Gzip::new(file).read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn members_are_read_as_one_stream() {
        let packed = [member(b"one\ntw"), member(b""), member(b"o\n")].concat();
        let mut gzip = Gzip::new(&packed[..]);
        let mut text = String::new();
        gzip.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        assert_eq!(gzip.position(), packed.len() as u64);
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        let packed = member(b"a line that is long enough to be packed, packed, packed\n");
        for end in 1..packed.len() {
            let mut gzip = Gzip::new(&packed[..end]);
            assert!(gzip.read_to_end(&mut Vec::new()).is_err(), "cut after {end} bytes");
            assert!(gzip.position() <= end as u64);
        }
    }

    #[test]
    fn a_stream_with_a_changed_byte_is_an_error_or_the_same() {
        let text: Vec<u8> = (0..3000u32).flat_map(|i| format!("{} ", i * i % 977).into_bytes()).collect();
        let packed = member(&text);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x10;
            if let Ok(found) = unpack(&changed[..]) {
                assert!(found == text && at < 10, "byte {at} of the header says nothing about the data");
            }
        }
    }

    #[test]
    fn headers_may_have_a_name_a_comment_and_more() {
        let mut file = GzBuilder::new().filename("a name").comment("a comment").extra(vec![1; 300]);
        file = file.mtime(7);
        let mut file = file.write(Vec::new(), Compression::fast());
        file.write_all(b"text").unwrap();
        assert_eq!(unpack(&file.finish().unwrap()[..]).unwrap(), b"text");
    }

    #[test]
    fn what_follows_the_last_member_must_be_one() {
        let packed = [member(b"one"), b"garbage".to_vec()].concat();
        let said = unpack(&packed[..]).unwrap_err().to_string();
        assert_eq!(said, "the bytes [67, 61, 72] where a gzip member begins with [1f, 8b, 08]");
    }

    #[test]
    fn an_empty_file_is_no_gzip_file() {
        assert_eq!(unpack(&b""[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Bytes of several kinds of regularity, over several windows, so that codes of all lengths occur.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            (any::<u8>(), 0usize..70_000).prop_map(|(byte, times)| vec![byte; times]),
            (prop::collection::vec(any::<u8>(), 1..40), 0usize..3000)
                .prop_map(|(unit, times)| unit.repeat(times)),
            (0u32..100_000, 0usize..4000).prop_map(|(start, words)| {
                (0..words as u32).flat_map(|i| format!("w{} ", (start + i * i) % 1009).into_bytes()).collect()
            }),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_packed_comes_back(text in texts(), level in 0u32..=9, drip in 1usize..40) {
            let packed = packed(&text, level);
            prop_assert!(unpack(&packed[..]).unwrap() == text);
            prop_assert!(unpack(Drip(&packed, drip)).unwrap() == text);
        }

        #[test]
        fn damage_is_seen_where_zlib_sees_it(text in texts(), level in 0u32..=9, at in any::<prop::sample::Index>(), xor in 1u8..) {
            let mut packed = packed(&text, level);
            let at = at.index(packed.len());
            packed[at] ^= xor;
            let mut expected = Vec::new();
            let expected = MultiGzDecoder::new(&packed[..]).read_to_end(&mut expected).map(|_| expected);
            prop_assert_eq!(unpack(&packed[..]).ok(), expected.ok());
        }

        #[test]
        fn any_bytes_behind_a_header_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let file = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &bytes[..]].concat();
            let mut expected = Vec::new();
            let expected = MultiGzDecoder::new(&file[..]).read_to_end(&mut expected).map(|_| expected);
            prop_assert_eq!(unpack(&file[..]).ok(), expected.ok());
        }
    }
}
