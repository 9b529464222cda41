//! `ingest merge`: the folders of tasks become one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::{format, print};

/// Makes one shard folder of those that the tasks of an ingest (--task) wrote.
///
/// Files are renamed, not copied, and the tasks' folders are gone afterwards: the result is to the byte what one ingest of
/// everything would have written. Refuses tasks that are missing, unfinished, there twice or of different ingests. May be
/// interrupted at any moment: the same command continues.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The folder that the tasks were given as --out, or the folders of single tasks (task-00000-of-...)
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The shard folder, on the same file system; without it, the one folder given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let out = match (&arguments.out, &*arguments.dirs) {
        (Some(out), _) => out,
        (None, [dir]) => dir,
        (None, _) => bail!("several folders are given; say with --out where to merge them"),
    };
    let merged = ingest::merge(&arguments.dirs, out)?;
    if merged.tasks == 0 {
        print(format_args!("{} is merged already; nothing to do", out.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let manifest = &merged.manifest;
    print(format_args!(
        "{}: {} merged, {}, {}, {} held out, {}",
        out.display(),
        format::counted(merged.tasks as u64, "task"),
        format::counted(manifest.shards.len() as u64, "shard"),
        format::counted(manifest.documents, "document"),
        format::count(manifest.held_out_documents),
        format::counted(manifest.tokens, "token"),
    ))?;
    Ok(ExitCode::SUCCESS)
}
