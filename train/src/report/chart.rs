//! Line charts as inline SVG, drawn by hand so that they take their colours and fonts from the page's style sheet
//! and therefore follow light mode, dark mode and print.

use std::fmt::Write;

/// Drawing area in SVG units; the page scales it to the column's width.
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// More points than this are averaged in buckets: beyond it a line only gets thicker, not truer.
const MAX_POINTS: usize = 400;

/// What an axis measures, which decides how its ticks are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// A plain number.
    Number,
    /// A share, written in per cent.
    Share,
    /// Seconds, written in the largest fitting unit.
    Seconds,
    /// A small number, written in scientific notation.
    Scientific,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mark {
    /// A line.
    Line,
    /// A thin line through dots with a tooltip each.
    Dots,
    /// A dashed line with small dots: what others have published.
    Reference,
}

/// One curve.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Index into the style sheet's palette.
    pub(crate) colour: usize,
    /// What the tooltip calls it.
    pub(crate) name: String,
    /// Line or dots.
    pub(crate) mark: Mark,
    /// Ascending x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// One chart: two axes, any number of curves, and horizontal reference lines.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Heading above the chart.
    pub(crate) title: String,
    /// Name of the x axis.
    pub(crate) x_label: &'static str,
    /// Unit of the x axis.
    pub(crate) x_unit: Unit,
    /// Whether the x axis is logarithmic; every x is then above 0.
    pub(crate) x_log: bool,
    /// Unit of the y axis.
    pub(crate) y_unit: Unit,
    /// Whether the y axis starts at zero.
    pub(crate) from_zero: bool,
    /// The curves.
    pub(crate) series: Vec<Series>,
    /// Horizontal lines with a label.
    pub(crate) references: Vec<(f64, String)>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The chart as one `<svg>` element.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_max = points().map(|point| point.0).fold(0.0, f64::max);
        let values = || points().map(|point| point.1).chain(self.references.iter().map(|line| line.0));
        let y_min = if self.from_zero { 0.0 } else { values().fold(f64::INFINITY, f64::min) };
        let y_max = values().fold(f64::NEG_INFINITY, f64::max);
        let (x_scale, y_scale) =
            (Scale::new(0.0, x_max, 7, self.x_unit), Scale::new(y_min, y_max, 5, self.y_unit));
        let x_min = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        // A logarithmic axis begins a little before the data.
        let (log_from, log_to) = (x_min.ln() - 0.1, x_max.ln() + 0.1);
        // The x axis ends with the data, the y axis at a tick.
        let x = |value: f64| {
            let share = match self.x_log {
                true => (value.ln() - log_from) / (log_to - log_from),
                false => value / x_max.max(f64::MIN_POSITIVE),
            };
            LEFT + share * (WIDTH - LEFT - RIGHT)
        };
        let y = |value: f64| {
            let share = (value - y_scale.from) / (y_scale.to - y_scale.from);
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };

        let mut svg = format!(
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            escape(&format!("{} against {}", self.title, self.x_label))
        );
        let bottom = HEIGHT - BOTTOM;
        for tick in y_scale.ticks() {
            let (at, text) = (y(tick), self.y_unit.format(tick, &y_scale));
            let _ = write!(svg, r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/>"#, WIDTH - RIGHT);
            let _ =
                write!(svg, r#"<text class="tick end" x="{}" y="{:.1}">{text}</text>"#, LEFT - 8.0, at + 3.5);
        }
        let _ = write!(svg, r#"<path class="axis" d="M{LEFT} {bottom}H{:.1}"/>"#, WIDTH - RIGHT);
        let x_ticks: Vec<(f64, String)> = match self.x_log {
            true => log_ticks(log_from.exp(), log_to.exp(), self.x_unit),
            false => x_scale
                .ticks()
                .filter(|tick| *tick <= x_max * (1.0 + 1e-9))
                .map(|tick| (tick, self.x_unit.format(tick, &x_scale)))
                .collect(),
        };
        for (tick, text) in x_ticks {
            let at = x(tick);
            let _ = write!(svg, r#"<path class="axis" d="M{at:.1} {bottom}v4"/>"#);
            let _ = write!(svg, r#"<text class="tick mid" x="{at:.1}" y="{}">{text}</text>"#, bottom + 17.0);
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = write!(
            svg,
            r#"<text class="label mid" x="{middle}" y="{}">{}</text>"#,
            HEIGHT - 5.0,
            self.x_label
        );
        for (value, label) in &self.references {
            let at = y(*value);
            let _ = write!(svg, r#"<path class="reference" d="M{LEFT} {at:.1}H{:.1}"/>"#, WIDTH - RIGHT);
            let (label, right) = (escape(label), WIDTH - RIGHT - 2.0);
            let _ = write!(svg, r#"<text class="note end" x="{right}" y="{:.1}">{label}</text>"#, at - 5.0);
        }
        for series in &self.series {
            self.draw(&mut svg, series, &x, &y);
        }
        svg.push_str("</svg>");
        svg
    }

    /// Appends one curve.
    fn draw(&self, svg: &mut String, series: &Series, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
        let (colour, points) = (series.colour, thin(&series.points));
        let path = points
            .iter()
            .enumerate()
            .map(|(index, point)| {
                format!("{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, x(point.0), y(point.1))
            })
            .collect::<String>();
        let class = match series.mark {
            Mark::Line => "line",
            Mark::Dots => "thin",
            Mark::Reference => "dashed",
        };
        let _ = write!(svg, r#"<path class="{class} c{colour}" d="{path}"/>"#);
        if series.mark != Mark::Line {
            let radius = if series.mark == Mark::Reference { 1.8 } else { 3.2 };
            for point in &points {
                let _ = write!(
                    svg,
                    r#"<circle class="dot c{colour}" cx="{:.1}" cy="{:.1}" r="{radius}"><title>{}: {} at {}</title></circle>"#,
                    x(point.0),
                    y(point.1),
                    escape(&series.name),
                    self.y_unit.precise(point.1),
                    self.x_unit.precise(point.0),
                );
            }
        }
    }
}

/// An axis rounded outwards to ticks of 1, 2 or 5 times a power of ten (or of a clock's divisions).
struct Scale {
    from: f64,
    to: f64,
    tick: f64,
}

impl Scale {
    fn new(min: f64, max: f64, about: usize, unit: Unit) -> Scale {
        // A constant curve still needs a height.
        let (min, max) = if max > min { (min, max) } else { (min.min(0.0), max.max(min + 1e-9)) };
        let rough = (max - min) / about as f64;
        let tick = match unit {
            Unit::Seconds if rough > 1.0 => [
                2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0,
                14400.0, 21600.0, 43200.0, 86400.0,
            ]
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or_else(|| nice(rough / 86400.0) * 86400.0),
            _ => nice(rough),
        };
        Scale { from: (min / tick).floor() * tick, to: (max / tick).ceil() * tick, tick }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.to - self.from) / self.tick).round() as usize;
        let (from, tick) = (self.from, self.tick);
        (0..=count).map(move |index| from + index as f64 * tick)
    }
}

/// Ticks of a logarithmic axis: powers of ten, with 2 and 5 times them where there are few.
fn log_ticks(from: f64, to: f64, unit: Unit) -> Vec<(f64, String)> {
    let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let factors: &[f64] = match (to / from).log10() {
        decades if decades > 4.0 => &[1.0],
        decades if decades > 1.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
    };
    powers
        .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
        .filter(|tick| (from..=to).contains(tick))
        .map(|tick| (tick, unit.alone(tick)))
        .collect()
}

/// The next of 1, 2, 5 times a power of ten that is at least `rough`.
fn nice(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    // The slack keeps 0.2 / 0.1 = 2.0000000000000004 from becoming 5.
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough)
}

impl Unit {
    /// A tick's text, with as many decimals as tell neighbours apart.
    fn format(self, value: f64, scale: &Scale) -> String {
        let decimals = |tick: f64| (-(tick * 1.001).log10().floor()).clamp(0.0, 8.0) as usize;
        match self {
            Unit::Number | Unit::Seconds | Unit::Scientific if value == 0.0 => "0".to_owned(),
            Unit::Number if scale.to.abs() >= 1e6 => format!("{} M", trim(value / 1e6)),
            Unit::Number if scale.to.abs() >= 1e4 => format!("{} k", trim(value / 1e3)),
            Unit::Number => format!("{value:.*}", decimals(scale.tick)),
            Unit::Share => format!("{:.*} %", decimals(100.0 * scale.tick), 100.0 * value),
            Unit::Seconds if scale.to >= 86400.0 * 3.0 => format!("{} d", trim(value / 86400.0)),
            Unit::Seconds if scale.to >= 3600.0 * 2.0 => format!("{} h", trim(value / 3600.0)),
            Unit::Seconds if scale.to >= 180.0 => format!("{} min", trim(value / 60.0)),
            Unit::Seconds => format!("{} s", trim(value)),
            Unit::Scientific => format!("{value:.1e}"),
        }
    }

    /// A tick's text where neighbours say nothing about the decimals.
    fn alone(self, value: f64) -> String {
        match self {
            Unit::Number if value >= 1e9 => format!("{} B", trim(value / 1e9)),
            Unit::Number if value >= 1e6 => format!("{} M", trim(value / 1e6)),
            Unit::Number if value >= 1e3 => format!("{} k", trim(value / 1e3)),
            Unit::Number if value < 0.001 => format!("{value:.1e}").replace(".0e", "e"),
            // Two digits tell the ticks of a logarithmic axis apart.
            Unit::Number if value < 0.1 => format!("{value:.4}").trim_end_matches('0').to_owned(),
            Unit::Number => trim(value),
            Unit::Scientific => format!("{value:.1e}").replace(".0e", "e"),
            Unit::Share | Unit::Seconds => self.precise(value),
        }
    }

    /// A value's text in a tooltip.
    fn precise(self, value: f64) -> String {
        match self {
            Unit::Number if value.fract() == 0.0 => format!("{value}"),
            Unit::Number => format!("{value:.4}"),
            Unit::Share => format!("{:.2} %", 100.0 * value),
            Unit::Seconds => format!("{value:.1} s"),
            Unit::Scientific => format!("{value:.2e}"),
        }
    }
}

/// At most two decimals, no trailing zeros.
fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Averages neighbouring points until at most [`MAX_POINTS`] are left.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let bucket = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |values: &[(f64, f64)]| {
        let n = values.len() as f64;
        (values.iter().map(|p| p.0).sum::<f64>() / n, values.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(bucket).map(mean).collect()
}

/// Text safe inside an element or a quoted attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "Loss <train>".into(),
            x_label: "steps",
            x_unit: Unit::Number,
            x_log: false,
            y_unit: Unit::Number,
            from_zero: false,
            series: vec![Series { colour: 0, name: "a \"run\"".into(), mark: Mark::Dots, points }],
            references: vec![(6.9, "unigram".into())],
        }
    }

    #[test]
    fn ticks_are_round_and_enclose_the_data() {
        let scale = Scale::new(5.13, 10.4, 5, Unit::Number);
        assert_eq!((scale.from, scale.to, scale.tick), (4.0, 12.0, 2.0));
        assert_eq!(Scale::new(0.0, 100.0, 5, Unit::Seconds).tick, 30.0);
        assert_eq!(Scale::new(0.0, 1.0, 5, Unit::Share).ticks().count(), 6);
    }

    #[test]
    fn a_single_point_or_a_constant_still_draws() {
        for points in [vec![(1.0, 2.0)], vec![(0.0, 0.0)], vec![(1.0, 3.0), (2.0, 3.0)]] {
            let mut chart = chart(points);
            chart.references.clear();
            let svg = chart.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_logarithmic_axis_has_round_ticks_and_keeps_all_inside() {
        let texts =
            |from, to, unit| log_ticks(from, to, unit).into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(texts(0.09, 12.0, Unit::Number), ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
        assert_eq!(texts(9e16, 2.1e18, Unit::Scientific), ["1e17", "2e17", "5e17", "1e18", "2e18"]);
        assert_eq!(texts(0.009, 0.032, Unit::Number), ["0.01", "0.015", "0.02", "0.03"]);
        assert_eq!(texts(9e11, 3.2e12, Unit::Scientific), ["1e12", "1.5e12", "2e12", "3e12"]);
        for points in [vec![(0.1, 2.0)], vec![(0.1, 1.0), (10.0, 2.0)]] {
            let svg = Chart { x_log: true, references: Vec::new(), ..chart(points) }.svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let svg = chart(vec![(1.0, 2.0), (2.0, 1.0)]).svg();
        assert!(svg.contains("Loss &lt;train&gt;") && svg.contains("a &quot;run&quot;"), "{svg}");
    }

    #[test]
    fn long_curves_keep_their_ends_and_lose_their_length() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (i as f64, 1.0)).collect();
        let thinned = thin(&points);
        assert!(thinned.len() <= MAX_POINTS && thinned[0].0 < 50.0 && thinned.last().unwrap().0 > 9_950.0);
    }
}
