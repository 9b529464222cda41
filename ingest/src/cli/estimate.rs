//! What an ingest will come to, as people read it before it starts.

use comfy_table::Table;
use ingest::{Estimate, Space};

use super::format;

/// One line, for before a run.
pub(crate) fn line(estimate: &Estimate, space: &Space) -> String {
    format!(
        "expected, from a sample of {}: {} of text, {}, {}, {} of shards ({} free), {}",
        format::bytes(estimate.sampled_text_bytes),
        format::bytes(estimate.text_bytes),
        format::counted(rounded(estimate.documents), "document"),
        format::counted(rounded(estimate.tokens), "token"),
        format::bytes(estimate.output_bytes),
        format::bytes(space.free),
        format::duration(estimate.seconds),
    )
}

/// A table, for a dry run.
pub(crate) fn table(estimate: &Estimate, space: &Space, workers: usize) -> Table {
    let seconds = estimate.seconds.max(1e-9);
    format::pairs([
        (
            "to read",
            format!("{}, {}", format::counted(estimate.files, "file"), format::bytes(estimate.input_bytes)),
        ),
        ("text", format::bytes(estimate.text_bytes)),
        ("documents", format::count(rounded(estimate.documents))),
        ("tokens", format::count(rounded(estimate.tokens))),
        ("shards", format::bytes(estimate.output_bytes)),
        ("free", format!("{} for {}", format::bytes(space.free), space.dir.display())),
        (
            "time",
            format!(
                "{} with {}, {} of text a second",
                format::duration(estimate.seconds),
                format::counted(workers as u64, "worker"),
                format::bytes((estimate.text_bytes as f64 / seconds) as u64)
            ),
        ),
        ("from a sample of", format::bytes(estimate.sampled_text_bytes)),
    ])
}

/// To three digits: a sample tells no more.
fn rounded(number: u64) -> u64 {
    let unit = 10u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(2));
    (number + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_claims_three_digits() {
        assert_eq!([0, 7, 999, 1234, 156_321_000_000].map(rounded), [0, 7, 999, 1230, 156_000_000_000]);
    }
}
