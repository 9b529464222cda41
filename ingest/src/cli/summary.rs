//! What an ingest came to, for people and for scripts.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use comfy_table::Table;
use ingest::profile::{Stage, Stages};
use ingest::{Outcome, Progress};
use serde::Serialize;

use super::format;

/// The whole folder's counts, and the speed of this run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    documents: u64,
    held_out_documents: u64,
    tokens: u64,
    text_bytes: u64,
    shards: u64,
    /// Bytes of shards and tables.
    bytes: u64,
    skipped_lines: u64,
    empty_documents: u64,
    /// Documents left out by filters, by reason.
    filtered: BTreeMap<String, u64>,
    /// Parts that earlier runs had made.
    found_parts: u64,
    /// Of this run.
    seconds: f64,
    /// Of this run: 10^6 bytes of text a second.
    mb_per_s: f64,
    /// Of this run.
    tokens_per_s: f64,
    /// Where the workers' time went, if that was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<StageTime>,
}

/// Time of all workers together in one stage.
#[derive(Debug, Serialize)]
struct StageTime {
    stage: &'static str,
    seconds: f64,
    /// Of the time of the workers, who do all stages but `seal`.
    share: f64,
}

impl StageTime {
    fn of(stages: &Stages) -> Vec<Self> {
        let times = stages.times();
        let of_workers = times.iter().filter(|(stage, _)| *stage != Stage::Seal);
        let all = of_workers.map(|(_, time)| time.as_secs_f64()).sum::<f64>().max(1e-9);
        let row = |(stage, time): &(Stage, Duration)| {
            let seconds = time.as_secs_f64();
            Self { stage: stage.name(), seconds, share: seconds / all }
        };
        times.iter().map(row).collect()
    }
}

impl Summary {
    pub(crate) fn new(outcome: &Outcome, progress: &Progress, elapsed: Duration) -> Self {
        let manifest = &outcome.manifest;
        let inputs = &manifest.ingest.inputs;
        let seconds = elapsed.as_secs_f64().max(1e-6);
        Self {
            documents: manifest.documents,
            held_out_documents: manifest.held_out_documents,
            tokens: manifest.tokens,
            text_bytes: manifest.text_bytes,
            shards: manifest.shards.len() as u64,
            bytes: manifest.shards.iter().map(|shard| shard.bytes + shard.docs_bytes).sum(),
            skipped_lines: inputs.iter().map(|input| input.bad_lines.len() as u64).sum(),
            empty_documents: inputs.iter().map(|input| input.empty_documents).sum(),
            filtered: inputs.iter().flat_map(|input| &input.filtered).fold(
                BTreeMap::new(),
                |mut sum, (reason, count)| {
                    *sum.entry(reason.clone()).or_default() += count;
                    sum
                },
            ),
            found_parts: outcome.found_parts as u64,
            seconds,
            mb_per_s: progress.text_bytes.load(Ordering::Relaxed) as f64 / 1e6 / seconds,
            tokens_per_s: progress.tokens.load(Ordering::Relaxed) as f64 / seconds,
            profile: StageTime::of(&progress.stages),
        }
    }

    /// The stages with their shares; nothing if they were not measured.
    pub(crate) fn profile_table(&self) -> Option<Table> {
        let rows = self.profile.iter().map(|row| {
            let of = if row.stage == Stage::Seal.name() { ", beside them" } else { "" };
            (row.stage, format!("{:5.1} % of the workers' time, {:.2} s{of}", row.share * 100.0, row.seconds))
        });
        (!self.profile.is_empty()).then(|| format::pairs(rows.collect::<Vec<_>>()))
    }

    pub(crate) fn table(&self) -> Table {
        let mut rows = vec![
            ("documents", format::count(self.documents)),
            ("held out", format::count(self.held_out_documents)),
            ("tokens", format::count(self.tokens)),
            ("text", format::bytes(self.text_bytes)),
            ("shards", format!("{}, {}", format::count(self.shards), format::bytes(self.bytes))),
            ("time", format!("{:.1} s", self.seconds)),
            (
                "speed",
                format!(
                    "{:.1} MB/s of text, {} tokens/s",
                    self.mb_per_s,
                    format::count(self.tokens_per_s as u64)
                ),
            ),
            ("skipped lines", format::count(self.skipped_lines)),
            ("empty documents", format::count(self.empty_documents)),
        ];
        rows.extend(self.filtered.iter().map(|(reason, found)| (reason.as_str(), format::count(*found))));
        if self.found_parts > 0 {
            rows.push(("from earlier runs", format::counted(self.found_parts, "part")));
        }
        format::pairs(rows)
    }
}
