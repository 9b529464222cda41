//! One frame of a run: what it is, how far it is, curves, and its newest records.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, GraphType, LineGauge, Paragraph, Widget};

use super::status::Status;
use crate::metrics::{EvalRecord, TrainRecord};
use crate::progress;
use crate::report::facts::{count, duration, percent, short};

/// What stands on the x axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    Steps,
    Time,
}

/// What is drawn.
pub(super) struct Frame<'a> {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) end: Option<u64>,
    pub(super) status: Status,
    pub(super) trains: &'a [TrainRecord],
    pub(super) evals: &'a [EvalRecord],
    pub(super) against: Against,
}

/// A curve: its title, how its numbers are written, whether its axis begins at zero, and what it is of a record.
struct Curve {
    title: &'static str,
    show: fn(f64) -> String,
    from_zero: bool,
    train: fn(&TrainRecord) -> f64,
    eval: Option<fn(&EvalRecord) -> f64>,
}

const CURVES: [Curve; 4] = [
    Curve {
        title: "loss",
        show: |v| format!("{v:.2}"),
        from_zero: false,
        train: |r| r.loss,
        eval: Some(|r| r.loss),
    },
    Curve {
        title: "accuracy",
        show: percent,
        from_zero: true,
        train: |r| r.accuracy,
        eval: Some(|r| r.accuracy),
    },
    Curve {
        title: "learning rate",
        show: |v| format!("{v:.1e}"),
        from_zero: true,
        train: |r| r.lr,
        eval: None,
    },
    Curve { title: "tokens/s", show: short, from_zero: true, train: |r| r.tokens_per_s, eval: None },
];

const TRAIN: Color = Color::Cyan;
const EVAL: Color = Color::Yellow;

/// A chart that is lower or narrower shows nothing.
const LEAST_HEIGHT: u16 = 7;
const LEAST_WIDTH: u16 = 36;

impl Frame<'_> {
    fn headline(&self) -> Line<'static> {
        let colour = match self.status {
            Status::Starting | Status::Training => Color::Green,
            Status::Finished => Color::Blue,
            Status::Stopped { .. } | Status::Nothing => Color::Yellow,
            Status::Silent(_) | Status::Died { .. } => Color::Red,
        };
        let status = self.status.text(&self.path);
        Line::from(vec![self.name.clone().bold(), Span::raw("  "), Span::styled(status, colour)])
    }

    /// How far the run is.
    fn position(&self) -> (f64, String) {
        let last = self.trains.last();
        let step = last.map_or(0, |record| record.step);
        let mut text = match self.end {
            Some(end) => format!("step {} of {}", count(step), count(end)),
            None => format!("step {}", count(step)),
        };
        if let Some(record) = last {
            text += &format!("  {} trained", duration(record.elapsed_s));
            if let Some(left) = record.remaining_s.filter(|left| *left > 0.0) {
                text += &format!("  {} left", duration(left));
            }
        }
        // A budget in tokens or time is further than its steps where their number is only estimated.
        let ratio = match (self.end, last) {
            (Some(end), Some(_)) => step as f64 / end.max(1) as f64,
            (None, Some(record)) => record.progress,
            _ => 0.0,
        };
        (ratio.clamp(0.0, 1.0), text)
    }

    fn newest(&self) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        if let Some(record) = self.trains.last() {
            lines.push(Line::from(vec![
                Span::styled("training  ", TRAIN),
                Span::raw(progress::describe(record)),
            ]));
        }
        if let Some(record) = self.evals.last() {
            lines.push(Line::from(vec![
                Span::styled("held out  ", EVAL),
                Span::raw(format!("step {}  {}", count(record.step), progress::describe_eval(record))),
            ]));
        }
        lines
    }

    fn x(&self, step: u64, elapsed_s: f64) -> f64 {
        match self.against {
            Against::Steps => step as f64,
            Against::Time => elapsed_s,
        }
    }

    fn draw(&self, curve: &Curve, area: Rect, buffer: &mut Buffer) {
        // Two points stand side by side in a character.
        let most = 2 * usize::from(area.width);
        let train: Vec<(f64, f64)> =
            self.trains.iter().map(|r| (self.x(r.step, r.elapsed_s), (curve.train)(r))).collect();
        let eval: Vec<(f64, f64)> = match curve.eval {
            Some(of) => self.evals.iter().map(|r| (self.x(r.step, r.elapsed_s), of(r))).collect(),
            None => Vec::new(),
        };
        let (train, eval) = (thin(&train, most), thin(&eval, most));
        let all = || train.iter().chain(&eval);
        let [left, right] = bounds(all().map(|point| point.0));
        let [low, high] = bounds(all().map(|point| point.1));
        let low = if curve.from_zero { low.min(0.0) } else { low };
        let show_x = |value: f64| match self.against {
            Against::Steps => count(value.round().max(0.0) as u64),
            Against::Time => duration(value.max(0.0)),
        };
        let datasets = vec![
            Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(TRAIN).data(&train),
            Dataset::default().marker(Marker::Dot).graph_type(GraphType::Scatter).style(EVAL).data(&eval),
        ];
        let faint = Style::new().fg(Color::DarkGray);
        let block = Block::bordered().border_type(BorderType::Rounded).border_style(faint);
        let y_labels = [low, (low + high) / 2.0, high].map(curve.show);
        Chart::new(datasets)
            .block(block.title(Span::raw(format!(" {} ", curve.title)).bold()))
            .x_axis(Axis::default().style(faint).bounds([left, right]).labels([show_x(left), show_x(right)]))
            .y_axis(Axis::default().style(faint).bounds([low, high]).labels(y_labels))
            .render(area, buffer);
    }
}

impl Widget for Frame<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let newest = self.newest();
        let wrapped: u16 = newest.iter().map(|line| rows(line.width(), area.width)).sum();
        let [head, gauge, charts, foot] = Layout::vertical([
            Constraint::Length(rows(self.headline().width(), area.width)),
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(wrapped),
        ])
        .areas(area);
        let wrap =
            |lines| Paragraph::new::<Vec<Line<'static>>>(lines).wrap(ratatui::widgets::Wrap { trim: true });
        wrap(vec![self.headline()]).render(head, buffer);
        let (ratio, label) = self.position();
        LineGauge::default()
            .ratio(ratio)
            .label(label)
            .filled_style(TRAIN)
            .unfilled_style(Color::DarkGray)
            .render(gauge, buffer);
        wrap(newest).render(foot, buffer);
        if self.trains.is_empty() {
            return;
        }
        let columns = if charts.width >= 2 * LEAST_WIDTH { 2 } else { 1 };
        let fitting = usize::from(charts.height / LEAST_HEIGHT).min(CURVES.len().div_ceil(columns));
        if charts.width < LEAST_WIDTH || fitting == 0 {
            return;
        }
        let mut curves = CURVES.iter();
        for row in Layout::vertical(vec![Constraint::Fill(1); fitting]).split(charts).iter() {
            for area in Layout::horizontal(vec![Constraint::Fill(1); columns]).split(*row).iter() {
                if let Some(curve) = curves.next() {
                    self.draw(curve, *area, buffer);
                }
            }
        }
    }
}

/// Rows that a line takes where it is wrapped; words may leave room at the ends of rows.
fn rows(length: usize, width: u16) -> u16 {
    let width = usize::from(width.max(1));
    let rows = length.div_ceil(width);
    u16::try_from(if rows > 1 { (length + rows * 8).div_ceil(width) } else { rows }).unwrap_or(u16::MAX)
}

/// The least and the greatest of the finite values, a little apart where they are the same.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
    let finite = values.filter(|value| value.is_finite());
    let low = finite.clone().fold(f64::INFINITY, f64::min);
    let high = finite.fold(f64::NEG_INFINITY, f64::max);
    match high - low {
        apart if apart > 0.0 => [low, high],
        0.0 => [low - 0.5 * low.abs().max(1e-9), high + 0.5 * high.abs().max(1e-9)],
        _ => [0.0, 1.0],
    }
}

/// Averages neighbours until at most `most` points are left.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let bucket = points.len().div_ceil(most.max(1)).max(1);
    let mean = |points: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        points.iter().map(of).sum::<f64>() / points.len() as f64
    };
    points.chunks(bucket).map(|chunk| (mean(chunk, |p| p.0), mean(chunk, |p| p.1))).collect()
}
