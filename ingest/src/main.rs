//! `ingest`: text files to packed token shards.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Turns text into packed token shards that `train` reads.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    C4(cli::c4::Arguments),
    Merge(cli::merge::Arguments),
    Inspect(cli::inspect::Arguments),
    Verify(cli::verify::Arguments),
    Vocab(cli::vocab::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::C4(arguments) => cli::c4::run(&arguments),
        Command::Merge(arguments) => cli::merge::run(&arguments),
        Command::Inspect(arguments) => cli::inspect::run(&arguments),
        Command::Verify(arguments) => cli::verify::run(&arguments),
        Command::Vocab(arguments) => cli::vocab::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ingest: {error:#}");
        ExitCode::FAILURE
    })
}
