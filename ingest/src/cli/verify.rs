//! `ingest verify`: is every byte of a shard folder as it was written?

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;

use super::print;

/// Reads a shard folder again and compares every byte with its checksums.
///
/// Exits with 1 when anything differs, naming the file and the byte offset of each difference.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The shard folder, also an s3://, gs:// or az:// URL
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let mut files = 0;
    let damages = ingest::verify(&arguments.dir, |file| {
        files += 1;
        bar.set_message(file.to_owned());
        bar.tick();
    });
    bar.finish_and_clear();
    let damages = damages?;
    for damage in &damages {
        print(format_args!(
            "{}: offset {}: {}",
            arguments.dir.join(&damage.file).display(),
            damage.offset,
            damage.what
        ))?;
    }
    if damages.is_empty() {
        print(format_args!("{}: all {files} files are as they were written", arguments.dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(format_args!(
        "{}: {} of {files} files differ; restore them from a copy or ingest again",
        arguments.dir.display(),
        damages.len()
    ))?;
    Ok(ExitCode::FAILURE)
}
