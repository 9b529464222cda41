//! `train report`: one self-contained HTML page for one run or several overlaid ones.
//!
//! The page needs nothing but itself: charts are inline SVG ([`chart`]), styles are inline, there is no script. It
//! follows light and dark mode and prints.

pub(crate) mod chart;
pub(crate) mod facts;
mod runs;

use std::path::{Path, PathBuf};

use askama::Template;

use self::chart::{Chart, Mark, Series, Unit};
use self::facts::Group;
use self::runs::RunData;
use crate::error::Error;
use crate::host::{PROGRAM, now};
use crate::metrics::{EvalRecord, TrainRecord};

/// Colours the style sheet has; further runs start over.
const COLOURS: usize = 6;

/// Renders the report of `runs` to `out`.
///
/// # Errors
/// A folder that is no run, a run without metrics, or `out` cannot be written.
pub fn write(runs: &[PathBuf], out: &Path) -> Result<(), Error> {
    use std::io::Write;
    let runs = runs.iter().map(|path| RunData::read(path)).collect::<Result<Vec<_>, _>>()?;
    let page = Page::new(&runs).render().expect("rendering into memory does not fail");
    Ok(loader::atomic::write_file(out, |file| file.write_all(page.as_bytes()))?)
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    title: String,
    lead: String,
    /// One run's key figures; several runs have the summary table instead.
    tiles: Option<Vec<Tile>>,
    summary: Summary,
    eval_rate: String,
    charts: Vec<(String, String)>,
    /// What differs between several runs.
    comparison: Option<Comparison>,
    /// What is the same in all runs.
    sections: Vec<Section>,
    facts: Vec<(&'static str, Vec<Group>)>,
    footer: String,
}

struct Tile {
    value: String,
    label: String,
}

struct Summary {
    columns: Vec<&'static str>,
    rows: Vec<SummaryRow>,
}

struct SummaryRow {
    colour: usize,
    name: String,
    cells: Vec<String>,
}

struct Section {
    name: String,
    rows: Vec<(String, String)>,
}

struct Comparison {
    note: String,
    rows: Vec<ComparisonRow>,
}

struct ComparisonRow {
    key: String,
    values: Vec<String>,
}

impl Page {
    fn new(runs: &[RunData]) -> Page {
        let single = runs.len() == 1;
        Page {
            title: match runs {
                [run] => format!("Pretraining run {}", run.name),
                _ => format!("{} pretraining runs compared", runs.len()),
            },
            lead: match runs {
                [run] => run.sentence(),
                _ => "Masked-language-model pretraining. Loss is the mean cross-entropy of masked tokens in nats.".into(),
            },
            tiles: single.then(|| tiles(&runs[0])),
            summary: summary(runs),
            eval_rate: facts::percent(runs[0].config.eval.mask_rate),
            charts: charts(runs)
                .into_iter()
                .filter(|chart| !chart.is_empty())
                .map(|chart| (chart.title.clone(), chart.svg()))
                .collect(),
            comparison: (!single).then(|| comparison(runs)),
            sections: sections(runs),
            facts: vec![("Data", facts::data(runs)), ("Machine and program", facts::machine(runs))],
            footer: format!("Written by {PROGRAM} on {}.", now()),
        }
    }
}

/// The figures of one run, each with its label, in the order of importance.
fn figures(run: &RunData) -> Vec<(&'static str, String)> {
    let mut figures = Vec::new();
    if let Some(eval) = run.evals.last() {
        figures.push(("held-out loss", format!("{:.3}", eval.loss)));
        figures.push(("held-out accuracy", facts::percent(eval.accuracy)));
        figures.push(("unigram cross-entropy", format!("{:.3}", eval.unigram_loss)));
    }
    let last = run.last();
    figures.push(("training loss", format!("{:.3}", last.loss)));
    figures.push(("samples per second", facts::count(run.samples_per_s().round() as u64)));
    figures.push(("steps", facts::count(last.step)));
    figures.push(("tokens seen", facts::short(last.tokens as f64)));
    figures.push(("training time", facts::duration(run.elapsed_s())));
    figures
}

fn tiles(run: &RunData) -> Vec<Tile> {
    figures(run).into_iter().map(|(label, value)| Tile { value, label: label.to_owned() }).collect()
}

fn summary(runs: &[RunData]) -> Summary {
    let columns: Vec<&'static str> = runs
        .iter()
        .map(|run| figures(run).into_iter().map(|figure| figure.0).collect::<Vec<_>>())
        .max_by_key(Vec::len)
        .unwrap_or_default();
    let rows = runs
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let figures = figures(run);
            let cell =
                |column| figures.iter().find(|figure| figure.0 == column).map_or("–", |figure| &figure.1);
            SummaryRow {
                colour: index % COLOURS,
                name: run.name.clone(),
                cells: columns.iter().map(|column| cell(*column).to_owned()).collect(),
            }
        })
        .collect();
    Summary { columns, rows }
}

/// A number of a training record.
type Quantity = fn(&TrainRecord) -> f64;

/// What stands on the x axis.
#[derive(Clone, Copy)]
enum Against {
    Steps,
    Time,
}

fn charts(runs: &[RunData]) -> Vec<Chart> {
    use Against::{Steps, Time};
    let mut charts = Vec::new();
    for (title, against) in [("Loss over steps", Steps), ("Loss over time", Time)] {
        charts.push(curve(runs, title, Unit::Number, against, |r| r.loss, Some(|r| r.loss)));
    }
    // One line for each corpus: runs on the same one share it.
    let mut unigrams: Vec<f64> = runs.iter().filter_map(|run| Some(run.evals.last()?.unigram_loss)).collect();
    unigrams.sort_by(f64::total_cmp);
    unigrams.dedup_by(|a, b| (*a - *b).abs() < 0.005);
    for chart in &mut charts {
        chart.references = unigrams.iter().map(|value| (*value, format!("unigram {value:.2}"))).collect();
    }
    for (title, against) in [("Accuracy over steps", Steps), ("Accuracy over time", Time)] {
        let accuracy = curve(runs, title, Unit::Share, against, |r| r.accuracy, Some(|r| r.accuracy));
        charts.push(Chart { from_zero: true, ..accuracy });
    }
    let plain: [(&str, Unit, Quantity); 4] = [
        ("Learning rate", Unit::Scientific, |r| r.lr),
        ("Gradient norm", Unit::Number, |r| r.grad_norm),
        ("Tokens per second", Unit::Number, |r| r.tokens_per_s),
        ("Share of time spent waiting for data", Unit::Share, |r| r.wait_share),
    ];
    for (title, unit, value) in plain {
        charts.push(Chart { from_zero: true, ..curve(runs, title, unit, Steps, value, None) });
    }
    charts
}

/// One quantity of all runs, as measured in training and, where it exists, on held-out documents.
fn curve(
    runs: &[RunData],
    title: &str,
    y_unit: Unit,
    against: Against,
    train: Quantity,
    eval: Option<fn(&EvalRecord) -> f64>,
) -> Chart {
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let x = |step: u64, elapsed_s: f64| match against {
            Against::Steps => step as f64,
            Against::Time => elapsed_s,
        };
        let colour = index % COLOURS;
        let points = run.trains.iter().map(|r| (x(r.step, r.elapsed_s), train(r))).collect();
        series.push(Series { colour, name: run.name.clone(), mark: Mark::Line, points });
        if let Some(eval) = eval {
            let points = run.evals.iter().map(|r| (x(r.step, r.elapsed_s), eval(r))).collect();
            let name = format!("{}, held out", run.name);
            series.push(Series { colour, name, mark: Mark::Dots, points });
        }
    }
    let (x_label, x_unit) = match against {
        Against::Steps => ("steps", Unit::Number),
        Against::Time => ("time", Unit::Seconds),
    };
    Chart {
        title: title.to_owned(),
        x_label,
        x_unit,
        x_log: false,
        y_unit,
        from_zero: false,
        series,
        references: Vec::new(),
    }
}

/// The settings on which all runs agree, by section.
fn sections(runs: &[RunData]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (key, value) in runs[0].settings.iter().filter(|(key, _)| !differs(runs, key)) {
        let (section, name) = key.split_once('.').unwrap_or(("run", key));
        let row = (name.to_owned(), value.clone());
        match sections.iter_mut().find(|known| known.name == section) {
            Some(known) => known.rows.push(row),
            None => sections.push(Section { name: section.to_owned(), rows: vec![row] }),
        }
    }
    sections
}

/// The settings in which the runs differ.
fn comparison(runs: &[RunData]) -> Comparison {
    let rows: Vec<ComparisonRow> = runs[0]
        .settings
        .iter()
        .filter(|(key, _)| differs(runs, key))
        .map(|(key, _)| ComparisonRow {
            key: key.clone(),
            values: runs.iter().map(|run| run.setting(key)).collect(),
        })
        .collect();
    let note = match rows.len() {
        0 => "All settings are the same.".to_owned(),
        1 => "One setting differs, all others are the same.".to_owned(),
        n => format!("{n} settings differ, all others are the same."),
    };
    Comparison { note, rows }
}

fn differs(runs: &[RunData], key: &str) -> bool {
    runs.iter().any(|run| run.setting(key) != runs[0].setting(key))
}
