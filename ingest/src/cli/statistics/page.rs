//! The statistics as one page that needs nothing but itself: no script, no font, no picture from elsewhere.

use std::path::Path;

use askama::Template;
use ingest::Statistics;
use loader::shard::Manifest;

use super::chart::{Chart, Scale, Shape, nice};
use crate::cli::format;

/// Most frequent tokens on the page.
const LISTED: usize = 60;
/// Points of a line: more only make it thicker.
const POINTS: usize = 300;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    title: String,
    lead: String,
    tiles: Vec<(String, &'static str)>,
    charts: Vec<(&'static str, &'static str, String)>,
    sequence_lengths: Vec<[String; 5]>,
    /// Token, count, share, width of its bar in per cent.
    tokens: Vec<(String, String, String, String)>,
    facts: Vec<(&'static str, String)>,
    footer: String,
}

/// The page of the folder `dir`.
pub(crate) fn render(dir: &Path, manifest: &Manifest, statistics: &Statistics) -> String {
    let page = Page {
        title: name(dir),
        lead: lead(manifest, statistics),
        tiles: tiles(statistics),
        charts: vec![
            (
                "Tokens a document",
                "Documents by length, in bins that grow with it",
                lengths(statistics).svg(),
            ),
            (
                "Tokens that training sees",
                "When every document is one sample and what exceeds the sequence length is cut off (policy truncate)",
                kept(statistics).svg(),
            ),
            ("Token frequencies", "Share of each token, by rank", frequencies(statistics).svg()),
        ],
        sequence_lengths: sequence_lengths(statistics),
        tokens: tokens(statistics),
        facts: facts(manifest),
        footer: format!("Written by {} from every token of the folder.", ingest::PROGRAM),
    };
    page.render().expect("rendering into memory does not fail")
}

fn name(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    real.file_name().unwrap_or(real.as_os_str()).to_string_lossy().into_owned()
}

fn lead(manifest: &Manifest, statistics: &Statistics) -> String {
    format!(
        "{} of text from {} became {}, {} of them held out from training, with {}.",
        format::bytes(statistics.text_bytes),
        format::counted(manifest.ingest.inputs.len() as u64, "file"),
        format::counted(statistics.documents, "document"),
        format::count(manifest.held_out_documents),
        format::counted(statistics.tokens, "token"),
    )
}

fn tiles(statistics: &Statistics) -> Vec<(String, &'static str)> {
    let document = &statistics.document_tokens;
    vec![
        (format::count(statistics.documents), "documents"),
        (format::count(statistics.tokens), "tokens"),
        (format!("{:.1}", document.mean), "tokens a document, mean"),
        (format::count(document.median), "median"),
        (format::count(document.p95), "95 % have no more"),
        (format!("{:.2}", statistics.bytes_a_token), "bytes of text a token"),
        (format::share(statistics.unknown.share), "of the tokens are [UNK]"),
        (
            format::share(statistics.vocabulary_used as f64 / statistics.vocabulary.max(1) as f64),
            "of the vocabulary occurs",
        ),
    ]
}

fn lengths(statistics: &Statistics) -> Chart {
    let bins = &statistics.lengths;
    let bars = bins.iter().map(|bin| {
        let says = format!(
            "{} to {} tokens: {}, {} of the tokens",
            format::count(bin.from),
            format::count(bin.to),
            format::counted(bin.documents, "document"),
            format::share(bin.tokens as f64 / statistics.tokens.max(1) as f64)
        );
        (bin.from as f64, (bin.to + 1) as f64, bin.documents as f64, says)
    });
    let highest = bins.iter().map(|bin| bin.documents).max().unwrap_or(1).max(1) as f64;
    let step = nice(highest / 5.0);
    let document = &statistics.document_tokens;
    Chart {
        title: "Documents by their length in tokens".into(),
        x: ("tokens", Scale::LogCount, first(statistics), last(statistics)),
        y: (Scale::Count, 0.0, (highest / step).ceil() * step),
        shapes: vec![Shape::Bars(bars.collect())],
        marks: vec![
            (document.median as f64, format!("median: {}", format::count(document.median))),
            (document.p95 as f64, format!("95 %: {}", format::count(document.p95))),
        ],
    }
}

/// Where the axes of lengths begin and end.
fn first(statistics: &Statistics) -> f64 {
    statistics.lengths.first().map_or(1.0, |bin| bin.from as f64)
}

fn last(statistics: &Statistics) -> f64 {
    statistics.lengths.last().map_or(10.0, |bin| (bin.to + 1) as f64).max(first(statistics) * 10.0)
}

fn kept(statistics: &Statistics) -> Chart {
    let (from, to) = (first(statistics).max(8.0), last(statistics).max(2500.0));
    let share = |body: f64| {
        let kept = statistics
            .exact_lengths
            .iter()
            .map(|(length, documents)| (*length as f64).min(body) * *documents as f64);
        kept.sum::<f64>() / statistics.tokens.max(1) as f64
    };
    let points = (0..=POINTS).map(|i| from * (to / from).powf(i as f64 / POINTS as f64));
    let dots = statistics.sequence_lengths.iter().map(|of| {
        let share = format::share(of.truncate_share);
        let says = format!("sequence length {}: {share} of the tokens", of.seq_len);
        (of.seq_len as f64, of.truncate_share, format!("{}: {share}", of.seq_len), says)
    });
    Chart {
        title: "Share of the tokens that training sees, by sequence length".into(),
        x: ("sequence length", Scale::LogCount, from, to),
        y: (Scale::Share, 0.0, 1.0),
        // Two tokens of a sample are [CLS] and [SEP].
        shapes: vec![
            Shape::Line(points.map(|length| (length, share((length - 2.0).max(0.0)))).collect()),
            Shape::Dots(dots.collect()),
        ],
        marks: Vec::new(),
    }
}

fn frequencies(statistics: &Statistics) -> Chart {
    let counts = &statistics.counts;
    let share = |count: u64| count as f64 / statistics.tokens.max(1) as f64;
    let most = counts.len().max(10) as f64;
    let mut ranks: Vec<usize> =
        (0..=POINTS).map(|i| most.powf(i as f64 / POINTS as f64).round() as usize).collect();
    ranks.dedup();
    let points = ranks.into_iter().filter_map(|rank| Some((rank as f64, share(*counts.get(rank - 1)?))));
    let highest = share(counts.first().copied().unwrap_or(1));
    let lowest = share(counts.last().copied().unwrap_or(1));
    let top = 10f64.powf(highest.log10().ceil());
    let bottom = 10f64.powf(lowest.log10().floor()).min(top / 10.0);
    Chart {
        title: "Share of each token by its rank".into(),
        x: ("rank", Scale::LogCount, 1.0, most),
        y: (Scale::LogShare, bottom, top),
        shapes: vec![Shape::Line(points.collect())],
        marks: Vec::new(),
    }
}

fn sequence_lengths(statistics: &Statistics) -> Vec<[String; 5]> {
    let row = |of: &ingest::statistics::SequenceLength| {
        [
            format::count(of.seq_len),
            format::share(of.truncate_share),
            format::share(of.fitting_share),
            format::count(of.chunk_samples),
            format!("{:.1}", of.chunk_mean),
        ]
    };
    statistics.sequence_lengths.iter().map(row).collect()
}

fn tokens(statistics: &Statistics) -> Vec<(String, String, String, String)> {
    let most = statistics.most_frequent.first().map_or(1, |token| token.count);
    let row = |token: &ingest::statistics::TokenCount| {
        let width = token.count as f64 / most as f64 * 100.0;
        (token.token.clone(), format::count(token.count), format::share(token.share), format!("{width:.1}"))
    };
    statistics.most_frequent.iter().take(LISTED).map(row).collect()
}

fn facts(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let tokenizer = &manifest.tokenizer;
    vec![
        ("written by", format!("{}, format {}", manifest.program, manifest.format_version)),
        ("shards", format::count(manifest.shards.len() as u64)),
        ("bytes a token", manifest.token_bytes.to_string()),
        (
            "vocabulary",
            format!(
                "{} ids, {} for the model",
                format::count(tokenizer.vocab_size.into()),
                format::count(tokenizer.model_vocab_size.into())
            ),
        ),
        ("tokenizer BLAKE3", tokenizer.blake3.clone()),
        ("corpus BLAKE3", manifest.blake3()),
        ("options", manifest.ingest.options.to_string()),
    ]
}
