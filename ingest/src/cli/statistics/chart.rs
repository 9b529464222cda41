//! Charts as inline SVG that take colours and fonts from the page's style sheet, so they follow light and dark mode.

use std::fmt::Write;

use crate::cli::format;

/// Drawing area in SVG units; the page scales it to the column's width.
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 40.0;

/// How numbers of an axis are placed and written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From zero.
    Count,
    /// Shares from zero, in per cent.
    Share,
    /// Counts by powers of ten.
    LogCount,
    /// Shares by powers of ten.
    LogShare,
}

/// What is drawn.
pub(crate) enum Shape {
    /// Bars from one x to another, as high as y, each with what it says when pointed at.
    Bars(Vec<(f64, f64, f64, String)>),
    /// A line through points.
    Line(Vec<(f64, f64)>),
    /// Dots with a label and what they say when pointed at.
    Dots(Vec<(f64, f64, String, String)>),
}

/// One chart.
pub(crate) struct Chart {
    /// What it shows, for those who cannot see it.
    pub(crate) title: String,
    /// The x axis: name, scale, from, to.
    pub(crate) x: (&'static str, Scale, f64, f64),
    /// The y axis: scale, from, to.
    pub(crate) y: (Scale, f64, f64),
    /// What is drawn, the last on top.
    pub(crate) shapes: Vec<Shape>,
    /// Vertical lines with a label.
    pub(crate) marks: Vec<(f64, String)>,
}

impl Scale {
    /// Where `value` lies between `from` and `to`, from 0 to 1.
    fn place(self, value: f64, from: f64, to: f64) -> f64 {
        let place = match self {
            Self::Count | Self::Share => (value - from) / (to - from),
            Self::LogCount | Self::LogShare => (value.ln() - from.ln()) / (to.ln() - from.ln()),
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(self, from: f64, to: f64) -> Vec<f64> {
        match self {
            Self::Count | Self::Share => {
                let step = nice((to - from) / 5.0);
                (0..)
                    .map(|i| (from / step).ceil() * step + i as f64 * step)
                    .take_while(|t| *t <= to * 1.0001)
                    .collect()
            }
            Self::LogCount | Self::LogShare => {
                let few = (to / from).log10() < 3.5;
                let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
                let steps = if few { &[1.0, 2.0, 5.0][..] } else { &[1.0] };
                let ticks =
                    decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
                ticks.filter(|tick| (from * 0.999..=to * 1.001).contains(tick)).collect()
            }
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Self::Count | Self::LogCount => short(value),
            Self::Share | Self::LogShare => {
                let percent = value * 100.0;
                let digits = if percent == 0.0 { 0 } else { (-percent.log10().floor()).max(0.0) as usize };
                format!("{percent:.digits$} %")
            }
        }
    }
}

impl Chart {
    /// The chart as one `<svg>` element.
    pub(crate) fn svg(&self) -> String {
        let (x_name, x_scale, x_from, x_to) = self.x;
        let (y_scale, y_from, y_to) = self.y;
        let bottom = HEIGHT - BOTTOM;
        let x = |value: f64| LEFT + x_scale.place(value, x_from, x_to) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| bottom - y_scale.place(value, y_from, y_to) * (bottom - TOP);

        let label = escape(&self.title);
        let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">"#);
        for tick in y_scale.ticks(y_from, y_to) {
            let (at, text) = (y(tick), y_scale.text(tick));
            let _ = write!(svg, r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/>"#, WIDTH - RIGHT);
            let _ = write!(svg, r#"<text class="end" x="{}" y="{:.1}">{text}</text>"#, LEFT - 8.0, at + 3.5);
        }
        for shape in &self.shapes {
            draw(&mut svg, shape, &x, &y);
        }
        let _ = write!(svg, r#"<path class="axis" d="M{LEFT} {bottom}H{:.1}"/>"#, WIDTH - RIGHT);
        for tick in x_scale.ticks(x_from, x_to) {
            let (at, text) = (x(tick), x_scale.text(tick));
            let _ = write!(svg, r#"<path class="axis" d="M{at:.1} {bottom}v4"/>"#);
            let _ = write!(svg, r#"<text class="mid" x="{at:.1}" y="{}">{text}</text>"#, bottom + 17.0);
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = write!(svg, r#"<text class="label mid" x="{middle}" y="{}">{x_name}</text>"#, HEIGHT - 5.0);
        for (value, label) in &self.marks {
            let (at, label) = (x(*value), escape(label));
            let _ = write!(svg, r#"<path class="mark" d="M{at:.1} {TOP}V{bottom}"/>"#);
            let _ = write!(svg, r#"<text class="note mid" x="{at:.1}" y="{}">{label}</text>"#, TOP - 7.0);
        }
        svg.push_str("</svg>");
        svg
    }
}

fn draw(svg: &mut String, shape: &Shape, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    match shape {
        Shape::Bars(bars) => {
            for (from, to, value, says) in bars {
                let (left, right, top) = (x(*from) + 0.5, x(*to) - 0.5, y(*value));
                let (width, height) = ((right - left).max(0.5), (HEIGHT - BOTTOM - top).max(0.0));
                let says = escape(says);
                let _ = write!(
                    svg,
                    r#"<rect class="bar" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"><title>{says}</title></rect>"#
                );
            }
        }
        Shape::Line(points) => {
            let mut path = String::new();
            for (i, (a, b)) in points.iter().enumerate() {
                let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x(*a), y(*b));
            }
            let _ = write!(svg, r#"<path class="line" d="{path}"/>"#);
        }
        Shape::Dots(dots) => {
            for (a, b, label, says) in dots {
                let (at, up, label, says) = (x(*a), y(*b), escape(label), escape(says));
                let _ = write!(
                    svg,
                    r#"<circle class="dot" cx="{at:.1}" cy="{up:.1}" r="4"><title>{says}</title></circle>"#
                );
                let _ = write!(
                    svg,
                    r#"<text class="value end" x="{:.1}" y="{:.1}">{label}</text>"#,
                    at - 8.0,
                    up - 5.0
                );
            }
        }
    }
}

/// The next of 1, 2, 5 times a power of ten that is at least `rough`.
pub(crate) fn nice(rough: f64) -> f64 {
    let power = 10f64.powf(rough.max(f64::MIN_POSITIVE).log10().floor());
    // The slack keeps 0.2 / 0.1 = 2.0000000000000004 from becoming 5.
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough)
}

/// A count in a few characters: 20,000 as 20 k.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        0.0..1e4 => return format::count(value.round() as u64),
        1e4..1e6 => (value / 1e3, " k"),
        1e6..1e9 => (value / 1e6, " M"),
        _ => (value / 1e9, " G"),
    };
    format!("{}{unit}", (value * 10.0).round() / 10.0)
}

/// Text as it may stand in SVG and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        assert_eq!(Scale::Count.ticks(0.0, 9000.0), [0.0, 2000.0, 4000.0, 6000.0, 8000.0]);
        assert_eq!(Scale::LogCount.ticks(1.0, 9000.0), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale::LogCount.ticks(40.0, 300.0), [50.0, 100.0, 200.0]);
        assert_eq!([0.0, 0.05, 0.25].map(|share| Scale::Share.text(share)), ["0 %", "5 %", "25 %"]);
        assert_eq!([0.001, 1e-7].map(|share| Scale::LogShare.text(share)), ["0.1 %", "0.00001 %"]);
        assert_eq!([0.0, 1234.0, 20_000.0, 2.5e6].map(short), ["0", "1,234", "20 k", "2.5 M"]);
    }

    #[test]
    fn what_is_drawn_stays_within_the_frame_and_is_escaped() {
        let chart = Chart {
            title: "a \"b\"".into(),
            x: ("tokens", Scale::LogCount, 1.0, 100.0),
            y: (Scale::Count, 0.0, 10.0),
            shapes: vec![
                Shape::Bars(vec![(1.0, 10.0, 5.0, "<5>".into())]),
                Shape::Line(vec![(0.1, -3.0), (1e9, 99.0)]),
            ],
            marks: vec![(10.0, "median".into())],
        };
        let svg = chart.svg();
        assert!(
            svg.contains("a &quot;b&quot;") && svg.contains("&lt;5&gt;") && svg.contains("median"),
            "{svg}"
        );
        assert!(svg.contains(r#"d="M66.0 260.0L606.0 22.0""#), "{svg}");
    }
}
