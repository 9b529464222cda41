//! Files as streams of unpacked bytes that know their position in the file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::Unpacked;

/// Bytes unpacked at once.
const UNPACK_BYTES: usize = 128 << 10;

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

/// A gzip file of any number of members, unpacked.
pub(crate) struct Gzip<R = BufReader<File>>(BufReader<MultiGzDecoder<Counted<R>>>);

impl<R: BufRead> Gzip<R> {
    pub(crate) fn new(file: R) -> Self {
        Self(BufReader::with_capacity(UNPACK_BYTES, MultiGzDecoder::new(Counted::new(file))))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Gzip<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

impl<R: BufRead> Unpacked for Gzip<R> {
    fn position(&self) -> u64 {
        self.0.get_ref().get_ref().consumed
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text).unwrap();
        packed.finish().unwrap()
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
}
