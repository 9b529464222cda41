//! The charts of a report: what was measured, against steps, tokens, time and money.

use super::COLOURS;
use super::chart::{Chart, Mark, Series, Unit};
use super::runs::RunData;
use crate::metrics::{EvalRecord, TrainRecord};

/// A number of a training record, where it has one.
type Quantity = fn(&TrainRecord) -> Option<f64>;
/// A number of an evaluation.
type Evaluated = fn(&EvalRecord) -> f64;

/// What stands on the x axis.
#[derive(Clone, Copy, PartialEq)]
enum Against {
    Steps,
    Tokens,
    Time,
    Dollars,
}

use Against::{Dollars, Steps, Time, Tokens};

impl Against {
    fn label(self) -> (&'static str, Unit) {
        match self {
            Steps => ("steps", Unit::Number),
            Tokens => ("tokens", Unit::Number),
            Time => ("time", Unit::Seconds),
            Dollars => ("dollars", Unit::Number),
        }
    }

    /// Where something of a run stands that happened at a step, after so many tokens and seconds; nowhere without a price.
    fn of(self, run: &RunData, step: u64, tokens: f64, elapsed_s: f64) -> Option<f64> {
        match self {
            Steps => Some(step as f64),
            Tokens => Some(tokens),
            Time => Some(elapsed_s),
            Dollars => run.dollars(elapsed_s),
        }
    }
}

/// Charts under their headings; those without anything to draw are left out.
pub(super) fn groups(runs: &[RunData]) -> Vec<(&'static str, Vec<Chart>)> {
    let loss = |against| {
        let chart = curve(runs, "Loss", Unit::Number, against, |r| Some(r.loss), Some(|r| r.loss));
        Chart { references: unigrams(runs), ..chart }
    };
    let accuracy = |against| {
        let (train, eval): (Quantity, Evaluated) = (|r| Some(r.accuracy), |r| r.accuracy);
        from_zero(curve(runs, "Accuracy", Unit::Share, against, train, Some(eval)))
    };
    let over_steps = |title, unit, of: Quantity| from_zero(curve(runs, title, unit, Steps, of, None));
    // Of one run, tokens are steps by another name.
    let losses = [Steps, Tokens, Time, Dollars].into_iter().filter(|x| *x != Tokens || runs.len() > 1);
    let groups = [
        ("Loss", losses.map(loss).collect()),
        ("Accuracy", vec![accuracy(Steps), accuracy(Time)]),
        (
            "Throughput",
            vec![
                over_steps("Tokens per second", Unit::Number, |r| Some(r.tokens_per_s)),
                // Runs of earlier versions have not measured it.
                over_steps("Model TFLOP/s", Unit::Number, |r| {
                    Some(r.model_tflops).filter(|rate| *rate > 0.0)
                }),
                over_steps("Model FLOPs utilisation (MFU)", Unit::Share, |r| r.mfu),
                over_steps("Share of time spent waiting for data", Unit::Share, |r| Some(r.wait_share)),
            ],
        ),
        (
            "Optimization",
            vec![
                over_steps("Learning rate", Unit::Scientific, |r| Some(r.lr)),
                over_steps("Gradient norm", Unit::Number, |r| Some(r.grad_norm)),
            ],
        ),
    ];
    let drawn = |charts: Vec<Chart>| charts.into_iter().filter(|chart| !chart.is_empty()).collect::<Vec<_>>();
    groups
        .into_iter()
        .map(|(heading, charts)| (heading, drawn(charts)))
        .filter(|(_, charts)| !charts.is_empty())
        .collect()
}

/// One reference line for each corpus: runs on the same one share it.
fn unigrams(runs: &[RunData]) -> Vec<(f64, String)> {
    let mut unigrams: Vec<f64> = runs.iter().filter_map(|run| Some(run.evals.last()?.unigram_loss)).collect();
    unigrams.sort_by(f64::total_cmp);
    unigrams.dedup_by(|a, b| (*a - *b).abs() < 0.005);
    unigrams.iter().map(|value| (*value, format!("unigram {value:.2}"))).collect()
}

fn from_zero(chart: Chart) -> Chart {
    Chart { from_zero: true, ..chart }
}

/// One quantity of all runs, as measured in training and, where it exists, on held-out documents.
fn curve(
    runs: &[RunData],
    name: &str,
    y_unit: Unit,
    against: Against,
    train: Quantity,
    eval: Option<Evaluated>,
) -> Chart {
    let (x_label, x_unit) = against.label();
    let mut series = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let colour = index % COLOURS;
        let points = run
            .trains
            .iter()
            .filter_map(|r| Some((against.of(run, r.step, r.tokens as f64, r.elapsed_s)?, train(r)?)))
            .collect();
        series.push(Series { colour, name: run.name.clone(), mark: Mark::Line, points });
        if let Some(eval) = eval {
            let points = run
                .evals
                .iter()
                .filter_map(|r| Some((against.of(run, r.step, run.tokens_at(r.step), r.elapsed_s)?, eval(r))))
                .collect();
            let name = format!("{}, held out", run.name);
            series.push(Series { colour, name, mark: Mark::Dots, points });
        }
    }
    let title = match eval {
        Some(_) => format!("{name} over {x_label}"),
        None => name.to_owned(),
    };
    Chart { title, x_label, x_unit, x_log: false, y_unit, from_zero: false, series, references: Vec::new() }
}
