//! The results of a fine-tuning for people: measures and a confusion matrix, on the terminal and as Markdown.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::dataset::Target;
use super::job::FinetuneResults;

/// Classes whose confusion fits a page.
const CLASSES_SHOWN: usize = 30;

/// The measures, one a line: name and value.
fn measures(results: &FinetuneResults) -> Vec<(String, String)> {
    let metrics = results.metrics.iter();
    let mut lines: Vec<_> =
        metrics.map(|(metric, value)| (metric.name().to_owned(), format!("{value:.4}"))).collect();
    if let Some(error) = results.mean_squared_error {
        lines.push(("mean squared error".to_owned(), format!("{error:.4}")));
    }
    lines
}

/// Header and rows of the confusion matrix; none of a regression, or of too many classes.
fn confusion(results: &FinetuneResults) -> Option<(Vec<String>, Vec<Vec<String>>)> {
    let Target::Classes(names) = &results.task.target else { return None };
    if names.len() > CLASSES_SHOWN {
        return None;
    }
    let header = std::iter::once("label \\ predicted".to_owned()).chain(names.iter().cloned()).collect();
    let rows = names
        .iter()
        .zip(&results.confusion)
        .map(|(name, counts)| {
            std::iter::once(name.clone()).chain(counts.iter().map(u64::to_string)).collect()
        })
        .collect();
    Some((header, rows))
}

fn sentence(results: &FinetuneResults) -> String {
    format!(
        "{} examples trained on for {} steps, {} evaluated ({}); {:.0} s on {}",
        results.train_examples,
        results.fitted.steps,
        results.dev_examples,
        results.split,
        results.seconds,
        results.device
    )
}

/// For a terminal.
pub fn terminal(results: &FinetuneResults) -> String {
    let mut text = format!("{}\n\n", sentence(results));
    for (name, value) in measures(results) {
        let _ = writeln!(text, "{name:<20} {value:>8}");
    }
    if let Some((header, rows)) = confusion(results) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header);
        rows.into_iter().for_each(|row| {
            table.add_row(row);
        });
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _ = write!(text, "\n{table}\n");
    }
    text
}

/// As Markdown.
pub fn markdown(results: &FinetuneResults) -> String {
    let cell = |text: &String| text.replace('|', "\\|").replace('\n', " ");
    let mut text =
        format!("# Fine-tuning\n\n{}.\n\n| measure | value |\n| --- | ---: |\n", sentence(results));
    for (name, value) in measures(results) {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    if let Some((header, rows)) = confusion(results) {
        let line =
            |cells: &[String]| format!("| {} |\n", cells.iter().map(cell).collect::<Vec<_>>().join(" | "));
        let _ = write!(text, "\n{}| --- |{}\n", line(&header), " ---: |".repeat(header.len() - 1));
        rows.iter().for_each(|row| text.push_str(&line(row)));
    }
    let _ = writeln!(text, "\nWritten by {} on {}.", results.program, results.created);
    text
}
