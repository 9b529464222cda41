//! The page of `train pareto`.

use askama::Template;

use super::points::{Point, RunPoints};
use super::{COLOURS, Pareto, Score};
use crate::glue::tasks::{TASKS, Task};
use crate::host::{PROGRAM, now};
use crate::report::facts;

#[derive(Template)]
#[template(path = "pareto.html")]
struct Page {
    title: String,
    lead: String,
    /// Colour and name.
    legend: Vec<(usize, String)>,
    /// The same of the paper's curves.
    paper: Vec<(usize, &'static str)>,
    /// Caption and SVG.
    charts: Vec<(String, String)>,
    header: Vec<&'static str>,
    rows: Vec<(usize, Vec<String>)>,
    notes: Vec<String>,
    footer: String,
}

/// The whole page.
pub(super) fn render(
    pareto: &Pareto,
    lines: &[RunPoints],
    tasks: &[Task],
    charts: Vec<(String, String)>,
) -> String {
    let title = pareto.score.title(tasks);
    let runs = if lines.len() == 1 { "one run".to_owned() } else { format!("{} runs", lines.len()) };
    let colour = |number: usize| number % (COLOURS - 1);
    let mut header = vec!["run", "step", "hours", "samples", "tokens", "FLOPs"];
    header.extend(pareto.price_per_hour.map(|_| "dollars"));
    header.extend(["score", "frontier"]);
    let names = lines.iter().enumerate().map(|(number, line)| (colour(number), line.name.clone()));
    let curves = pareto.paper().iter().enumerate();
    let page = Page {
        lead: format!("{title} of {runs} against what training had cost by then."),
        legend: names.chain(std::iter::once((COLOURS - 1, "frontier".to_owned()))).collect(),
        paper: curves.map(|(number, curve)| (colour(lines.len() + number), curve.name)).collect(),
        charts,
        header,
        rows: lines
            .iter()
            .enumerate()
            .flat_map(|(number, line)| {
                line.points.iter().map(move |point| (colour(number), row(pareto, point, &line.name)))
            })
            .collect(),
        notes: notes(pareto, tasks),
        footer: format!("Written by {PROGRAM} on {}.", now()),
        title,
    };
    page.render().expect("rendering into memory does not fail")
}

fn row(pareto: &Pareto, point: &Point, name: &str) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        facts::count(point.step),
        format!("{:.3}", point.hours),
        facts::short(point.samples),
        facts::short(point.tokens),
        format!("{:.2e}", point.flops),
    ];
    cells.extend(pareto.dollars(point.hours).map(|dollars| format!("{dollars:.2}")));
    let spread = point.spread.map_or(String::new(), |spread| format!(" ± {}", pareto.score.show(spread)));
    cells.push(format!("{}{spread}", pareto.score.show(point.score)));
    cells.push(if point.frontier { "yes" } else { "" }.to_owned());
    cells
}

fn notes(pareto: &Pareto, tasks: &[Task]) -> Vec<String> {
    let mut notes = Vec::new();
    if pareto.score == Score::Glue {
        let names: Vec<&str> = tasks.iter().map(|task| task.spec().name).collect();
        notes.push(format!("Score: mean over {} on the development sets, in hundredths.", names.join(", ")));
        let paper = "The dashed curves are the paper's, Figure 1B, read off the figure to about 1 %";
        notes.push(match tasks.len() == TASKS.len() {
            true => format!("{paper}; recipe and machine are its own."),
            false => format!(
                "{paper}: the mean of all eight tasks. The points are the mean of fewer, so their heights do not compare with the \
                 paper's; shapes and the order of the curves do."
            ),
        });
    }
    notes.push(
        "The frontier joins the points that no other point beats: at least as good for no more. Hours include evaluations and \
         checkpoints, not fine-tuning. Arithmetic is that of the model's matrix products on real tokens."
            .to_owned(),
    );
    if let Some(price) = pareto.price_per_hour {
        let paper = "; the paper's are its own figure of about 20 dollars for 1.13 hours";
        let paper = if pareto.paper().is_empty() { "" } else { paper };
        notes.push(format!("Dollars are hours times {price} dollars{paper}."));
    }
    notes
}
