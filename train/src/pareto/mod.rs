//! `train pareto`: what runs had reached against what they had cost, as the paper draws it.
//!
//! A run's points are its evaluations in `metrics.jsonl` (held-out loss), or the results that `train glue` left of its
//! checkpoints in `RUN/glue/*/results.json`. Costs are wall-clock hours, samples, floating-point operations and dollars.
//! The page needs nothing but itself; beside it are the charts as SVG and all points as CSV.

mod page;
mod paper;
mod points;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::points::{Point, RunPoints, on_frontier};
use crate::config::Config;
use crate::error::Error;
use crate::glue::results::write_bytes;
use crate::glue::tasks::{TASKS, Task};
use crate::report::chart::{Chart, Mark, Series, Unit};

/// Colours the style sheet has; further runs start over. The last one is the frontier's.
const COLOURS: usize = 6;
/// The style of a chart that stands alone, in a light page's colours.
const ALONE: &str = "<style>text{font:11.5px sans-serif;fill:#5b6570}.mid{text-anchor:middle}.end{text-anchor:end}\
path{fill:none}.grid{stroke:#e3e6ea}.axis{stroke:#8b949e}.line{stroke-width:1.7}.thin{stroke-width:1.1;opacity:.55}\
.dashed{stroke-width:1.3;stroke-dasharray:5 4;opacity:.7}.reference{stroke:#8b949e;stroke-dasharray:5 4}\
path.c0{stroke:#1f6fb4}path.c1{stroke:#c8571b}path.c2{stroke:#2a8659}path.c3{stroke:#8250a8}path.c4{stroke:#a37a11}\
path.c5{stroke:#b63a62}circle.c0{fill:#1f6fb4}circle.c1{fill:#c8571b}circle.c2{fill:#2a8659}circle.c3{fill:#8250a8}\
circle.c4{fill:#a37a11}circle.c5{fill:#b63a62}</style>";

/// What to draw.
#[derive(Clone, Debug)]
pub struct Pareto {
    /// Folders of runs.
    pub runs: Vec<PathBuf>,
    /// Further folders that `train glue` wrote, of the runs' checkpoints.
    pub glue: Vec<PathBuf>,
    /// What is on the y axis.
    pub score: Score,
    /// Only results of this recipe.
    pub recipe: Option<String>,
    /// Dollars an hour of the machine.
    pub price_per_hour: Option<f64>,
    /// The page to write.
    pub out: PathBuf,
}

/// What is on the y axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The mean over the official GLUE tasks that all results have.
    Glue,
    /// One task.
    Task(Task),
    /// The loss on held-out documents; smaller is better.
    Loss,
}

/// What is on the x axis.
#[derive(Clone, Copy)]
struct Cost {
    /// The end of the SVG's name.
    key: &'static str,
    title: &'static str,
    label: &'static str,
    unit: Unit,
    of: fn(&Point, f64) -> f64,
    of_paper: Option<fn(&paper::Point) -> f64>,
}

const COSTS: [Cost; 4] = [
    Cost {
        key: "hours",
        title: "against wall-clock time",
        label: "hours of training",
        unit: Unit::Number,
        of: |point, _| point.hours,
        of_paper: Some(|point| point.hours),
    },
    Cost {
        key: "samples",
        title: "against samples",
        label: "samples",
        unit: Unit::Number,
        of: |point, _| point.samples,
        of_paper: Some(|point| point.samples),
    },
    Cost {
        key: "flops",
        title: "against arithmetic",
        label: "floating-point operations",
        unit: Unit::Scientific,
        of: |point, _| point.flops,
        of_paper: None,
    },
    Cost {
        key: "dollars",
        title: "against money",
        label: "dollars",
        unit: Unit::Number,
        of: |point, price| point.hours * price,
        of_paper: Some(|point| point.dollars),
    },
];

/// Mean rate of masking until `progress`.
fn mean_mask_rate(config: &Config, progress: f64) -> f64 {
    // A line's mean is that of its ends.
    let rate = &config.train.mask_rate;
    (rate.at(0.0) + rate.at(progress)) / 2.0
}

impl Score {
    /// What titles call it.
    fn title(self, tasks: &[Task]) -> String {
        match self {
            Score::Loss => "Held-out loss".to_owned(),
            Score::Task(task) => task.spec().name.to_owned(),
            Score::Glue if tasks.len() == TASKS.len() => "GLUE".to_owned(),
            Score::Glue => format!("Mean of {} GLUE tasks", tasks.len()),
        }
    }

    fn unit(self) -> Unit {
        if self == Score::Loss { Unit::Number } else { Unit::Share }
    }

    fn show(self, value: f64) -> String {
        match self {
            Score::Loss => format!("{value:.4}"),
            _ => format!("{:.2}", 100.0 * value),
        }
    }
}

impl Pareto {
    /// Writes the page, the charts and the table of points. Returns the files.
    ///
    /// # Errors
    /// A folder that is no run, runs without results, results of different recipes.
    pub fn write(&self) -> Result<Vec<PathBuf>, Error> {
        let (lines, tasks) = points::collect(&self.runs, &self.glue, self.score, self.recipe.as_deref())?;
        let priced = |cost: &Cost| cost.key != "dollars" || self.price_per_hour.is_some();
        let charts: Vec<(Cost, Chart)> =
            COSTS.into_iter().filter(priced).map(|cost| (cost, self.chart(cost, &lines, &tasks))).collect();
        let drawn = charts.iter().map(|(_, chart)| (chart.title.clone(), chart.svg())).collect();
        write_bytes(&self.out, page::render(self, &lines, &tasks, drawn).as_bytes())?;
        let mut files = vec![self.out.clone()];
        for (cost, chart) in &charts {
            let end = if cost.key == "hours" { ".svg".to_owned() } else { format!("-{}.svg", cost.key) };
            files.push(beside(&self.out, &end));
            write_bytes(&beside(&self.out, &end), alone(&chart.svg()).as_bytes())?;
        }
        files.push(beside(&self.out, ".csv"));
        write_bytes(&beside(&self.out, ".csv"), self.csv(&lines).as_bytes())?;
        Ok(files)
    }

    /// The paper's curves belong to GLUE alone.
    fn paper(&self) -> &'static [paper::Curve] {
        if self.score == Score::Glue { &paper::CURVES } else { &[] }
    }

    fn chart(&self, cost: Cost, lines: &[RunPoints], tasks: &[Task]) -> Chart {
        let price = self.price_per_hour.unwrap_or(0.0);
        let of = |point: &Point| ((cost.of)(point, price), point.score);
        let mut series = Vec::new();
        for (number, curve) in self.paper().iter().enumerate() {
            if let Some(of) = cost.of_paper {
                let points = curve.points().map(|point| (of(&point), point.score)).collect();
                let colour = (lines.len() + number) % (COLOURS - 1);
                series.push(Series { colour, name: curve.name.to_owned(), mark: Mark::Reference, points });
            }
        }
        let all: Vec<(f64, f64)> = lines.iter().flat_map(|line| &line.points).map(of).collect();
        let smaller = self.score == Score::Loss;
        let mut points: Vec<(f64, f64)> =
            all.iter().copied().filter(|&point| on_frontier(&all, point, smaller)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup();
        series.push(Series { colour: COLOURS - 1, name: "frontier".to_owned(), mark: Mark::Line, points });
        for (number, line) in lines.iter().enumerate() {
            let points = line.points.iter().map(of).collect();
            let (colour, name) = (number % (COLOURS - 1), line.name.clone());
            series.push(Series { colour, name, mark: Mark::Dots, points });
        }
        Chart {
            title: format!("{} {}", self.score.title(tasks), cost.title),
            x_label: cost.label,
            x_unit: cost.unit,
            x_log: true,
            y_unit: self.score.unit(),
            from_zero: false,
            series,
            references: Vec::new(),
        }
    }

    /// Dollars of so many hours, where there is a price.
    fn dollars(&self, hours: f64) -> Option<f64> {
        self.price_per_hour.map(|price| hours * price)
    }

    /// All points, the paper's too.
    fn csv(&self, lines: &[RunPoints]) -> String {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let mut text = String::from("source,step,hours,samples,tokens,flops,dollars,score,spread,frontier\n");
        for line in lines {
            for point in &line.points {
                let Point { step, hours, samples, tokens, flops, score, spread, frontier } = point;
                let (dollars, spread) = (number(self.dollars(*hours)), number(*spread));
                let name = quoted(&line.name);
                let _ = writeln!(
                    text,
                    "{name},{step},{hours},{samples},{tokens},{flops},{dollars},{score},{spread},{frontier}"
                );
            }
        }
        for curve in self.paper() {
            for paper::Point { hours, samples, dollars, score } in curve.points() {
                let name = quoted(curve.name);
                let _ = writeln!(text, "{name},,{hours},{samples},,,{dollars:.2},{score:.4},,");
            }
        }
        text
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A file beside the page, with another end of its name.
fn beside(page: &Path, end: &str) -> PathBuf {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    page.with_file_name(format!("{stem}{end}"))
}

/// An inline chart as a file of its own.
fn alone(svg: &str) -> String {
    let svg = svg.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    match svg.find('>') {
        Some(at) => format!("{}{ALONE}{}", &svg[..=at], &svg[at + 1..]),
        None => svg,
    }
}
