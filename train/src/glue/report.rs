//! The results of GLUE for people: a table on the terminal, Markdown, and a page.

use std::fmt::Write;
use std::path::Path;

use askama::Template;
use comfy_table::{CellAlignment, Table, presets};

use super::metrics::Metric;
use super::results::{GlueResults, Statistic, TaskResult, write_bytes};
use crate::error::Error;

/// The table, one row a task.
struct Row {
    task: String,
    score: String,
    values: String,
    metrics: String,
    examples: String,
    start: String,
    time: String,
}

const HEADER: [&str; 7] = ["task", "score", "each seed", "measures", "train / dev", "started from", "time"];

impl Row {
    fn of(result: &TaskResult) -> Row {
        let several = |statistic: &Statistic| {
            statistic.values.iter().map(|value| percent(*value)).collect::<Vec<_>>().join(" ")
        };
        let metric = |(metric, statistic): (&Metric, &Statistic)| {
            format!("{} {}", metric.name(), mean_and_std(statistic))
        };
        Row {
            task: format!("{}{}", result.task.spec().name, if result.official { "" } else { " *" }),
            score: mean_and_std(&result.score),
            values: several(&result.score),
            metrics: result.metrics.iter().map(metric).collect::<Vec<_>>().join(", "),
            examples: format!("{} / {}", result.train_examples, result.dev_examples),
            start: result.started_from.clone(),
            time: format!("{:.0} s", result.seconds),
        }
    }

    fn cells(self) -> [String; 7] {
        [self.task, self.score, self.values, self.metrics, self.examples, self.start, self.time]
    }
}

/// `91.23 ± 0.45`, in hundredths; without a spread where there is one seed.
fn mean_and_std(statistic: &Statistic) -> String {
    match statistic.values.len() {
        0 | 1 => percent(statistic.mean),
        _ => format!("{} ± {}", percent(statistic.mean), percent(statistic.std)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// Which tasks are averaged, and the average.
fn average(results: &GlueResults) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(glue) = results.average.glue {
        lines.push(format!("GLUE (mean of all eight tasks, as the paper averages): {}", percent(glue)));
    } else if let Some(mean) = results.average.mean {
        let names: Vec<&str> = results.average.tasks.iter().map(|task| task.spec().name).collect();
        lines.push(format!(
            "Mean of {} official {} ({}): {}. It is not GLUE's average, which takes all eight.",
            names.len(),
            if names.len() == 1 { "task" } else { "tasks" },
            names.join(", "),
            percent(mean)
        ));
    } else {
        lines.push("None of these tasks is the official one: there is no average.".to_owned());
    }
    lines
}

/// What is to be known about each task.
fn notes(results: &GlueResults) -> Vec<String> {
    let of = |result: &TaskResult| {
        let mark = if result.official { "" } else { " *" };
        let note = result.notes.join("; ");
        format!("{}{mark}: {note}", result.task.spec().name)
    };
    let mut notes: Vec<String> = results.tasks.iter().filter(|task| !task.notes.is_empty()).map(of).collect();
    if results.tasks.iter().any(|task| !task.official) {
        notes.push("* not the official files; left out of every average".to_owned());
    }
    notes
}

/// The model in a sentence.
fn model(results: &GlueResults) -> String {
    let progress = match &results.model.progress {
        Some(progress) => format!(
            ", after {} steps ({} samples, {:.2} h of training)",
            progress.step,
            progress.samples,
            progress.elapsed_s / 3600.0
        ),
        None => String::new(),
    };
    format!(
        "{}{progress}; recipe {}, {} order, on {}",
        results.model.path.display(),
        results.recipe,
        format!("{:?}", results.settings.order).to_lowercase(),
        results.device
    )
}

/// The table for a terminal.
pub fn terminal(results: &GlueResults) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(HEADER);
    for task in &results.tasks {
        table.add_row(Row::of(task).cells());
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}\n\n{table}\n\n", model(results));
    for line in average(results).into_iter().chain(notes(results)) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The same as Markdown.
pub fn markdown(results: &GlueResults) -> String {
    let mut text = format!("# GLUE\n\n{}.\n\n", model(results));
    let _ = writeln!(text, "| {} |", HEADER.join(" | "));
    let _ = writeln!(text, "| --- | ---: | --- | --- | ---: | --- | ---: |");
    for task in &results.tasks {
        let _ =
            writeln!(text, "| {} |", Row::of(task).cells().map(|cell| cell.replace('*', "\\*")).join(" | "));
    }
    text.push('\n');
    for line in average(results).into_iter().chain(notes(results)) {
        let _ = writeln!(text, "{}\n", line.replace('*', "\\*"));
    }
    let _ = writeln!(
        text,
        "Scores are in hundredths, mean ± standard deviation over the seeds. Written by {} on {}.",
        results.program, results.created
    );
    text
}

/// A self-contained page.
#[derive(Template)]
#[template(path = "glue.html")]
struct Page {
    lead: String,
    average: Vec<String>,
    header: [&'static str; 7],
    rows: Vec<[String; 7]>,
    notes: Vec<String>,
    recipe: String,
    footer: String,
}

/// Writes `report.md` and `report.html` into `out`.
///
/// # Errors
/// When they cannot be written.
pub fn write(results: &GlueResults, out: &Path) -> Result<(), Error> {
    write_bytes(&out.join("report.md"), markdown(results).as_bytes())?;
    let page = Page {
        lead: model(results),
        average: average(results),
        header: HEADER,
        rows: results.tasks.iter().map(|task| Row::of(task).cells()).collect(),
        notes: notes(results),
        recipe: toml::to_string(&results.settings).expect("a recipe has only strings, numbers and tables"),
        footer: format!("Written by {} on {}.", results.program, results.created),
    };
    let page = page.render().expect("rendering into memory does not fail");
    write_bytes(&out.join("report.html"), page.as_bytes())
}
