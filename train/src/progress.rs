//! What a person sees while a run trains: a bar on a terminal, plain lines where the output goes to a file.

use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::metrics::{EvalRecord, TrainRecord};

/// The progress display of one run; everything goes to standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// The run's number of steps; none as long as it is not known.
    steps: Option<u64>,
    silent: bool,
}

impl Progress {
    /// One that shows nothing, for processes of which another one shows it.
    pub fn silent() -> Progress {
        Progress { bar: ProgressBar::hidden(), steps: None, silent: true }
    }

    /// A display for a run of `steps`, if that is known already, of which `done` were made before.
    pub fn new(steps: Option<u64>, done: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr_with_hz(5));
        // The numbers have a line of their own: beside the bar they would be cut off.
        let style = ProgressStyle::with_template("{bar:28.cyan/dim} {pos}/{len}  {prefix}\n{wide_msg}")
            .expect("the template is constant and valid")
            .progress_chars("━━─");
        bar.set_style(style);
        bar.set_position(done);
        bar.reset_eta();
        Progress { bar, steps, silent: false }
    }

    /// The run's number of steps has been estimated anew.
    pub fn set_steps(&mut self, steps: Option<u64>) {
        self.steps = steps;
        if let Some(steps) = steps {
            self.bar.set_length(steps);
        }
    }

    /// `12/700`, aligned.
    fn count(&self, step: u64) -> String {
        match self.steps {
            Some(steps) => format!("{step:>width$}/{steps}", width = steps.to_string().len()),
            None => format!("{step}/?"),
        }
    }

    /// One step was made.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Shows a training record: below the bar, or as a line of its own.
    pub fn train(&self, record: &TrainRecord) {
        if self.silent {
            return;
        }
        let left = match record.remaining_s {
            Some(left) => format!("{} left", HumanDuration(Duration::from_secs_f64(left.clamp(0.0, 1e9)))),
            None => "time left not known yet".to_owned(),
        };
        if self.bar.is_hidden() {
            eprintln!("step {}  {}  {left}", self.count(record.step), describe(record));
        } else {
            self.bar.set_prefix(left);
            self.bar.set_message(describe(record));
        }
    }

    /// Shows an evaluation as a line of its own.
    pub fn eval(&self, record: &EvalRecord) {
        self.line(&format!("step {}  held-out {}", self.count(record.step), describe_eval(record)));
    }

    /// Prints a line without tearing the bar.
    pub fn line(&self, text: &str) {
        if self.silent {
            return;
        }
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Ends the display, leaving the bar as it stands.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}

/// The numbers of a training record in a line.
pub fn describe(record: &TrainRecord) -> String {
    let mfu = record.mfu.map_or(String::new(), |mfu| format!(" ({:.1} % MFU)", 100.0 * mfu));
    format!(
        "loss {:.3}  accuracy {:.1} %  lr {:.2e}  {:.0} samples/s  {} tokens/s  {}{mfu}  waiting {:.0} %",
        record.loss,
        100.0 * record.accuracy,
        record.lr,
        record.samples_per_s,
        thousands(record.tokens_per_s),
        flops(record.model_tflops),
        100.0 * record.wait_share,
    )
}

/// The numbers of an evaluation in a line.
pub fn describe_eval(record: &EvalRecord) -> String {
    format!(
        "loss {:.3} (unigram {:.3})  accuracy {:.1} %  over {} masked tokens",
        record.loss,
        record.unigram_loss,
        100.0 * record.accuracy,
        record.masked_tokens,
    )
}

/// A processor's TFLOP/s are better read as GFLOP/s.
fn flops(tflops: f64) -> String {
    match tflops {
        t if t >= 100.0 => format!("{t:.0} TFLOP/s"),
        t if t >= 1.0 => format!("{t:.1} TFLOP/s"),
        t => format!("{:.1} GFLOP/s", 1e3 * t),
    }
}

/// `1234567.8` as `1.23 M`, `4321` as `4.3 k`.
fn thousands(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_shortened() {
        assert_eq!(thousands(950.0), "950");
        assert_eq!(thousands(43_210.0), "43.2 k");
        assert_eq!(thousands(1_234_567.0), "1.23 M");
        assert_eq!([411.6, 38.21, 0.0123].map(flops), ["412 TFLOP/s", "38.2 TFLOP/s", "12.3 GFLOP/s"]);
    }
}
