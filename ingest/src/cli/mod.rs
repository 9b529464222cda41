//! The commands, one a file, and what they print with.

pub(crate) mod c4;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod verify;
pub(crate) mod vocab;

mod estimate;
mod filters;
mod format;
mod meter;
mod statistics;
mod summary;
mod task;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::{Context, Result};

/// Prints a line. Nobody reading on, as after `| head`, is no error.
fn print(line: impl Display) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}
