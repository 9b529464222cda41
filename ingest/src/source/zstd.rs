//! A zstd file as a stream of unpacked bytes.

use std::io::{self, BufRead, BufReader, Read};

use zstd::stream::read::Decoder;

use super::Unpacked;
use super::gzip::Counted;

/// Bytes unpacked at once.
const UNPACK_BYTES: usize = 128 << 10;
/// The largest window of `zstd --long=31`: 2 GiB, of which only what a file uses is taken.
const WINDOW_LOG_MAX: u32 = 31;

/// A zstd file of any number of frames, unpacked.
pub(crate) struct Zstd<R: BufRead>(BufReader<Decoder<'static, Counted<R>>>);

impl<R: BufRead> Zstd<R> {
    /// Unpacks what `file` yields.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn new(file: R) -> io::Result<Self> {
        let mut decoder = Decoder::with_buffer(Counted::new(file))?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(Self(BufReader::with_capacity(UNPACK_BYTES, decoder)))
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Zstd<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

impl<R: BufRead> Unpacked for Zstd<R> {
    fn position(&self) -> u64 {
        self.0.get_ref().get_ref().position()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        Zstd::new(packed)?.read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn frames_are_read_as_one_stream() {
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let packed = [frame(b"one\ntw"), skipped, frame(b""), frame(b"o\n")].concat();
        assert_eq!(unpack(&packed).unwrap(), b"one\ntwo\n");
        let mut zstd = Zstd::new(&packed[..]).unwrap();
        zstd.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(zstd.position(), packed.len() as u64);
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        let packed = frame(b"a line that is long enough to be packed, packed, packed\n");
        for end in 1..packed.len() {
            assert!(unpack(&packed[..end]).is_err(), "cut after {end} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&[&frame(b"")[..4], &bytes].concat());
            let _ = unpack(&bytes);
        }
    }
}
