//! The key figures of runs.

use super::COLOURS;
use super::facts;
use super::runs::RunData;

/// One run's figure.
pub(super) struct Tile {
    pub(super) value: String,
    pub(super) label: String,
}

/// All runs' figures.
pub(super) struct Summary {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<SummaryRow>,
}

pub(super) struct SummaryRow {
    pub(super) colour: usize,
    pub(super) name: String,
    pub(super) cells: Vec<String>,
}

/// The figures of one run, each with its label, in the order of importance; those that are not known are none.
fn figures(run: &RunData) -> Vec<(&'static str, Option<String>)> {
    let (last, eval) = (run.last(), run.evals.last());
    let whole = |number: f64| facts::count(number.round() as u64);
    vec![
        ("held-out loss", eval.map(|eval| format!("{:.3}", eval.loss))),
        ("held-out accuracy", eval.map(|eval| facts::percent(eval.accuracy))),
        ("unigram cross-entropy", eval.map(|eval| format!("{:.3}", eval.unigram_loss))),
        ("training loss", Some(format!("{:.3}", last.loss))),
        ("steps", Some(facts::count(last.step))),
        ("tokens seen", Some(facts::short(last.tokens as f64))),
        ("training time", Some(facts::duration(run.elapsed_s()))),
        ("cost", run.dollars(run.elapsed_s()).map(|dollars| format!("${dollars:.2}"))),
        ("samples per second", run.median(|record| Some(record.samples_per_s)).map(whole)),
        ("tokens per second", run.median(|record| Some(record.tokens_per_s)).map(facts::short)),
        (
            "model TFLOP/s",
            run.median(|record| Some(record.model_tflops).filter(|rate| *rate > 0.0)).map(three_digits),
        ),
        ("MFU", run.median(|record| record.mfu).map(facts::percent)),
    ]
}

/// Three significant digits.
fn three_digits(number: f64) -> String {
    let decimals = (2.0 - number.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{number:.decimals$}")
}

pub(super) fn tiles(run: &RunData) -> Vec<Tile> {
    figures(run)
        .into_iter()
        .filter_map(|(label, value)| Some(Tile { value: value?, label: label.to_owned() }))
        .collect()
}

pub(super) fn summary(runs: &[RunData]) -> Summary {
    let all: Vec<_> = runs.iter().map(figures).collect();
    let known = |column: &usize| all.iter().any(|figures| figures[*column].1.is_some());
    let columns: Vec<usize> = (0..all[0].len()).filter(known).collect();
    let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    let rows = runs
        .iter()
        .zip(&all)
        .enumerate()
        .map(|(index, (run, figures))| SummaryRow {
            colour: index % COLOURS,
            name: run.name.clone(),
            cells: columns.iter().map(|column| cell(&figures[*column].1)).collect(),
        })
        .collect();
    Summary { columns: columns.iter().map(|column| all[0][*column].0).collect(), rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([411.62, 38.21, 1.234, 0.012345].map(three_digits), ["412", "38.2", "1.23", "0.0123"]);
    }
}
