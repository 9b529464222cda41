//! What MosaicBERT's paper reports, as reference lines: Figure 1B, read off the figure to about 1 %.
//!
//! Intermediate checkpoints of one 70,000-step schedule each, batch 4096, on eight A100 of 80 GB; the score is GLUE's mean of all
//! eight tasks on the development sets. Source: the figure on <https://mosaicbert.github.io>.

/// Samples a step.
const BATCH: f64 = 4096.0;
/// Dollars an hour of that machine: the paper's "about $20" for 1.13 hours.
const DOLLARS_PER_HOUR: f64 = 20.0 / 1.13;

/// One curve of the paper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curve {
    /// What legends call it.
    pub(crate) name: &'static str,
    /// Thousand steps, hours, GLUE in hundredths.
    points: [(f64, f64, f64); 10],
}

/// A point of the paper in this program's units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) hours: f64,
    pub(crate) samples: f64,
    pub(crate) dollars: f64,
    /// From 0 to 1.
    pub(crate) score: f64,
}

/// MosaicBERT-base and the BERT-base it is compared with.
pub(crate) const CURVES: [Curve; 2] = [
    Curve {
        name: "paper: MosaicBERT-base, 8 A100, mean of 8 tasks",
        points: [
            (3.5, 0.49, 76.09),
            (10.5, 1.45, 80.65),
            (17.5, 2.41, 81.80),
            (24.5, 3.37, 82.52),
            (31.5, 4.35, 82.95),
            (42.0, 5.79, 83.53),
            (49.0, 6.75, 83.85),
            (56.0, 7.71, 84.00),
            (63.0, 8.69, 83.98),
            (70.0, 9.65, 84.26),
        ],
    },
    Curve {
        name: "paper: BERT-base, 8 A100, mean of 8 tasks",
        points: [
            (3.5, 0.55, 72.59),
            (10.5, 1.65, 79.88),
            (17.5, 2.75, 80.98),
            (24.5, 3.85, 81.60),
            (31.5, 4.97, 82.15),
            (42.0, 6.61, 82.84),
            (49.0, 7.71, 83.02),
            (56.0, 8.81, 83.11),
            (63.0, 9.93, 83.09),
            (70.0, 11.03, 83.51),
        ],
    },
];

impl Curve {
    /// Its points.
    pub(crate) fn points(&self) -> impl Iterator<Item = Point> {
        self.points.into_iter().map(|(steps, hours, score)| Point {
            hours,
            samples: 1000.0 * steps * BATCH,
            dollars: hours * DOLLARS_PER_HOUR,
            score: score / 100.0,
        })
    }
}
