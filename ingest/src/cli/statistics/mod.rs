//! `ingest inspect --stats`: what a corpus is like, on the terminal, as JSON or as a page.

mod chart;
mod page;

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Result;
use indicatif::ProgressBar;
use ingest::Statistics;
use ingest::statistics::LengthBin;
use loader::atomic;

use super::{format, print};

/// Most frequent tokens shown on the terminal; `--json` has more.
const LISTED: usize = 20;
/// Characters of the longest bar.
const BAR: usize = 40;

/// Counts, and writes the page `html` or prints.
pub(crate) fn run(dir: &Path, json: bool, html: Option<&Path>) -> Result<()> {
    let spinner =
        if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let statistics = Statistics::of(dir, |shard| {
        spinner.set_message(shard.to_owned());
        spinner.tick();
    });
    spinner.finish_and_clear();
    let statistics = statistics?;
    if let Some(path) = html {
        let page = page::render(dir, &ingest::read_manifest(dir)?, &statistics);
        atomic::write_file(path, |file| file.write_all(page.as_bytes()))?;
    }
    if json {
        print(serde_json::to_string_pretty(&statistics)?)?;
    } else if let Some(path) = html {
        print(format_args!("{} is written", path.display()))?;
    } else {
        print_tables(&statistics)?;
    }
    Ok(())
}

fn print_tables(statistics: &Statistics) -> Result<()> {
    let document = &statistics.document_tokens;
    let unknown = &statistics.unknown;
    print(format::pairs([
        ("documents", format::count(statistics.documents)),
        ("tokens", format::count(statistics.tokens)),
        ("text", format::bytes(statistics.text_bytes)),
        ("text bytes a token", format!("{:.3}", statistics.bytes_a_token)),
        (
            "tokens a document",
            format!(
                "mean {:.1}, median {}, 95 % up to {}, from {} to {}",
                document.mean,
                format::count(document.median),
                format::count(document.p95),
                format::count(document.least),
                format::count(document.most)
            ),
        ),
        (
            "[UNK]",
            format!(
                "{} ({} of the tokens), in {}",
                format::count(unknown.tokens),
                format::share(unknown.share),
                format::counted(unknown.documents, "document")
            ),
        ),
        (
            "vocabulary",
            format!(
                "{} of {} ids occur",
                format::count(statistics.vocabulary_used),
                format::count(statistics.vocabulary)
            ),
        ),
    ]))?;
    let most = doublings(&statistics.lengths).iter().map(|bin| bin.documents).max().unwrap_or(0);
    let lengths = doublings(&statistics.lengths).into_iter().map(|bin| {
        [
            format!("{} to {}", format::count(bin.from), format::count(bin.to)),
            format::count(bin.documents),
            format::share(bin.documents as f64 / statistics.documents.max(1) as f64),
            format::share(bin.tokens as f64 / statistics.tokens.max(1) as f64),
            bar(bin.documents, most),
        ]
    });
    print(left_aligned_last(format::columns(
        ["tokens", "documents", "share", "of the tokens", ""],
        lengths,
    )))?;
    let lengths = statistics.sequence_lengths.iter().map(|of| {
        [
            format::count(of.seq_len),
            format::share(of.truncate_share),
            format::share(of.fitting_share),
            format::count(of.chunk_samples),
            format!("{:.1}", of.chunk_mean),
        ]
    });
    let header =
        ["sequence length", "truncate: tokens kept", "documents that fit", "chunk: samples", "mean length"];
    print(format::columns(header, lengths))?;
    let tokens = statistics.most_frequent.iter().take(LISTED).map(|token| {
        let most = statistics.most_frequent[0].count;
        let id = token.id.to_string();
        [
            token.token.clone(),
            id,
            format::count(token.count),
            format::share(token.share),
            bar(token.count, most),
        ]
    });
    print(left_aligned_last(format::columns(["token", "id", "count", "share", ""], tokens)))
}

/// The bins of a doubling of the length made one.
fn doublings(bins: &[LengthBin]) -> Vec<LengthBin> {
    let mut doublings: Vec<LengthBin> = Vec::new();
    for bin in bins {
        match doublings.last_mut() {
            Some(last) if last.from.ilog2() == bin.from.ilog2() => {
                last.to = bin.to;
                last.documents += bin.documents;
                last.tokens += bin.tokens;
            }
            _ => doublings.push(*bin),
        }
    }
    doublings
}

/// A bar of blocks, an eighth of a character fine.
fn bar(part: u64, whole: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part as f64 / whole.max(1) as f64 * (8 * BAR) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

fn left_aligned_last(mut table: comfy_table::Table) -> comfy_table::Table {
    if let Some(column) = table.column_iter_mut().last() {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_joined_to_doublings() {
        let bin = |from, to| LengthBin { from, to, documents: 1, tokens: from };
        let joined = doublings(&[bin(5, 5), bin(6, 6), bin(7, 7), bin(8, 9), bin(10, 11)]);
        assert_eq!(
            joined,
            [
                LengthBin { from: 5, to: 7, documents: 3, tokens: 18 },
                LengthBin { from: 8, to: 11, documents: 2, tokens: 18 }
            ]
        );
    }

    #[test]
    fn the_longest_bar_is_full() {
        assert_eq!(bar(5, 5), "█".repeat(BAR));
        assert_eq!(bar(1, 16), "██▌");
        assert_eq!(bar(0, 0), "");
    }
}
