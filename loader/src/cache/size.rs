//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::invalid;
use crate::error::Error;

/// What a unit stands for, the largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes, read and written as `50GiB`, `500MB` or plain `1000`.
///
/// ```
/// let size: loader::ByteSize = "1.5GiB".parse()?;
/// assert_eq!((size.0, size.to_string()), (3 << 29, "1536MiB".to_owned()));
/// # Ok::<(), loader::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (number, unit) =
            text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
        let unit = unit.trim();
        let factor = match unit {
            "" => Some(1),
            _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor),
        };
        let number = number.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        match (number, factor) {
            (Some(number), Some(factor)) => Ok(Self((number * factor as f64) as u64)),
            _ => Err(invalid("a size", format!("`{text}`"), "a number with a unit, as in 50GiB or 500MB")),
        }
    }
}

/// Exact: the largest unit that leaves no fraction.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl ByteSize {
    /// For messages: one digit after the point.
    pub(crate) fn about(self) -> String {
        let fits = UNITS[..4].iter().find(|(_, unit)| self.0 >= *unit);
        fits.map_or(format!("{} bytes", self.0), |(name, unit)| {
            format!("{:.1} {name}", self.0 as f64 / *unit as f64)
        })
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for ByteSize {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_exactly() {
        for (text, bytes, written) in [
            ("50GiB", 50 << 30, "50GiB"),
            ("500 MB", 500_000_000, "500MB"),
            ("1.5tib", 3 << 39, "1536GiB"),
            ("1001", 1001, "1001B"),
            ("0", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, written));
            assert_eq!(written.parse::<ByteSize>().unwrap(), size);
        }
        for wrong in ["", "GiB", "-1GB", "5 parsecs", "1e400"] {
            let message = wrong.parse::<ByteSize>().unwrap_err().to_string();
            assert!(message.contains("as in 50GiB"), "{message}");
        }
        assert_eq!(ByteSize(1_600_000_000).about(), "1.5 GiB");
    }
}
