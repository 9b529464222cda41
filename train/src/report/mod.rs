//! `train report`: one self-contained HTML page for one run or several overlaid ones.
//!
//! The page needs nothing but itself: charts are inline SVG ([`chart`]), styles are inline, there is no script. It
//! follows light and dark mode and prints. Of several runs, [`curves`] draws the loss against what it had cost, and
//! [`compare`] sets the configurations side by side.

pub(crate) mod chart;
mod compare;
mod curves;
pub(crate) mod facts;
mod figures;
mod runs;

use std::path::{Path, PathBuf};

use askama::Template;

use self::compare::{Comparison, Section};
use self::facts::Group;
use self::figures::{Summary, Tile};
use self::runs::RunData;
use crate::error::Error;
use crate::host::{PROGRAM, now};

/// Colours the style sheet has; further runs start over.
const COLOURS: usize = 6;

/// Renders the report of `runs` to `out`; `prices` are dollars an hour of the machine that trained: none, one for all
/// runs, or one for each.
///
/// # Errors
/// A folder that is no run, a run without metrics, or `out` cannot be written.
///
/// # Panics
/// When there are several prices, and not as many as runs.
pub fn write(runs: &[PathBuf], prices: &[f64], out: &Path) -> Result<(), Error> {
    use std::io::Write;
    let mut runs = runs.iter().map(|path| RunData::read(path)).collect::<Result<Vec<_>, _>>()?;
    assert!(
        prices.len() <= 1 || prices.len() == runs.len(),
        "{} prices for {} runs",
        prices.len(),
        runs.len()
    );
    for (run, price) in runs.iter_mut().zip(prices.iter().cycle()) {
        run.price = Some(*price);
    }
    runs::distinguish(&mut runs);
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
    /// Headings, each with captions and charts as SVG.
    charts: Vec<(&'static str, Vec<(String, String)>)>,
    /// What differs between several runs.
    comparison: Option<Comparison>,
    /// What is the same in all runs.
    sections: Vec<Section>,
    facts: Vec<(&'static str, Vec<Group>)>,
    footer: String,
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
            tiles: single.then(|| figures::tiles(&runs[0])),
            summary: figures::summary(runs),
            eval_rate: facts::percent(runs[0].config.eval.mask_rate),
            charts: curves::groups(runs)
                .into_iter()
                .map(|(heading, charts)| {
                    (heading, charts.into_iter().map(|chart| (chart.title.clone(), chart.svg())).collect())
                })
                .collect(),
            comparison: (!single).then(|| compare::comparison(runs)),
            sections: compare::sections(runs),
            facts: vec![("Data", facts::data(runs)), ("Machine and program", facts::machine(runs))],
            footer: format!("Written by {PROGRAM} on {}.", now()),
        }
    }
}
