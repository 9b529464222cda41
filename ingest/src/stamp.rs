//! Notices an input that is written to while it is being read: nothing of it is sealed then.

use std::fs;
use std::time::SystemTime;

use crate::error::Error;
use crate::source::Input;

/// Size and time of an input when it was opened.
#[derive(Clone, Copy)]
pub(crate) struct Stamp<'a> {
    input: &'a Input,
    /// Nothing where there is no file that could be asked.
    seen: Option<(u64, Option<SystemTime>)>,
}

impl<'a> Stamp<'a> {
    /// Looks at an input that is about to be opened.
    pub(crate) fn of(input: &'a Input) -> Self {
        Self { input, seen: look(input) }
    }

    /// Looks again. A file that was removed meanwhile is no error: what was opened can be read to its end.
    ///
    /// # Errors
    /// [`Error::InputWritten`] when the file is another or has been written to.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match (self.seen, look(self.input)) {
            (Some(then), Some(now)) if then != now => Err(Error::InputWritten {
                path: self.input.path.clone(),
                found: now.0,
                expected: self.input.bytes,
            }),
            _ => Ok(()),
        }
    }
}

fn look(input: &Input) -> Option<(u64, Option<SystemTime>)> {
    let found = fs::metadata(&input.path).ok()?;
    Some((found.len(), found.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_is_noticed_and_one_that_is_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "{}").unwrap();
        let input = Input { path: path.clone(), name: "a.json".into(), bytes: 2, ..Input::default() };
        let stamp = Stamp::of(&input);
        stamp.check().unwrap();
        fs::write(&path, "{}{}").unwrap();
        let said = stamp.check().unwrap_err().to_string();
        assert!(said.contains("a.json changed while it was being read (4 bytes now, 2 when"), "{said}");
        fs::remove_file(&path).unwrap();
        stamp.check().unwrap();
    }
}
