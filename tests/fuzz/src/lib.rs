//! What the targets that read whole files share.

use std::path::Path;

use bytes::Bytes;
use ingest::source::{self, Row};

/// Row numbers with their text, nothing for a row that is none; an error where the file cannot be read to its end.
pub fn rows(file: impl Into<Bytes>) -> Result<Vec<(u64, Option<String>)>, ingest::Error> {
    let mut source = source::open_bytes(file.into(), Path::new("file"), "text")?;
    let mut rows = Vec::new();
    while let Some(row) = source.next_row()? {
        rows.push(match row {
            Row::Document(document) => (document.row, Some(document.text.into_owned())),
            Row::Bad(bad) => (bad.row, None),
        });
    }
    Ok(rows)
}

/// Takes the front of what the fuzzer made apart into the numbers that decide what is done with the rest.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next number below `bound`; 0 when there are no more.
    pub fn below(&mut self, bound: usize) -> usize {
        let [low, high, rest @ ..] = self.0 else { return 0 };
        self.0 = rest;
        usize::from(u16::from_le_bytes([*low, *high])) % bound.max(1)
    }

    /// Changes up to three bytes of `file`, in its first or last kilobyte or anywhere; false if it is as it was.
    pub fn damage(&mut self, file: &mut [u8]) -> bool {
        let before = file.to_vec();
        for _ in 0..1 + self.below(3) {
            let near = file.len().min(1024);
            let at = match self.below(3) {
                0 => self.below(near),
                1 => file.len() - 1 - self.below(near),
                _ => (self.below(1 << 16) << 8 | self.below(1 << 8)) % file.len(),
            };
            file[at] ^= self.below(256) as u8;
        }
        file != before
    }

    /// The rest as texts, some of them null.
    pub fn texts(self) -> Vec<Option<String>> {
        let texts = self.0.split(|&byte| byte == b'\n');
        texts.map(|text| (text != [0]).then(|| String::from_utf8_lossy(text).into_owned())).collect()
    }

    /// Has `packed` make a table file of the rest, and reads it: whole (`mode` 1, every text must come back), cut (2, which must
    /// be an error), or damaged (which must end, and no more).
    pub fn read_table(self, mode: usize, packed: impl Fn(&mut Choices<'_>, &[Option<String>]) -> Vec<u8>) {
        let (how, rest) = self.0.split_at(self.0.len().min(32));
        let (mut how, texts) = (Choices(how), Choices(rest).texts());
        let mut file = packed(&mut how, &texts);
        match mode {
            1 => {
                let found: Vec<_> =
                    rows(file).expect("it is whole").into_iter().map(|(_, text)| text).collect();
                assert_eq!(found, texts);
            }
            2 => assert!(
                rows(file[..how.below(file.len())].to_vec()).is_err(),
                "a cut table was read to its end"
            ),
            _ => {
                how.damage(&mut file);
                let _ = rows(file);
            }
        }
    }
}
