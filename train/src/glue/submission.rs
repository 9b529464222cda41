//! Predictions as files: GLUE's submission format for the test sets, and the development sets with their labels.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::results::{SeedResult, make_dir, write_bytes};
use super::tasks::TaskSpec;
use crate::error::Error;
use crate::finetune::examples::Text;

/// A prediction as the leaderboard wants it: a class's number or word, or a score of STS-B from 0 to 5.
fn written(spec: &TaskSpec, prediction: f64) -> String {
    match (spec.classes, spec.words) {
        ([], _) => format!("{:.3}", prediction.clamp(0.0, 5.0)),
        (classes, true) => classes.get(prediction as usize).copied().unwrap_or_default().to_owned(),
        (_, false) => format!("{}", prediction as u64),
    }
}

/// `index`, `prediction`, in the order of the test set.
pub fn submission(spec: &TaskSpec, predictions: &[f64]) -> String {
    let mut text = String::from("index\tprediction\n");
    for (index, &prediction) in predictions.iter().enumerate() {
        let _ = writeln!(text, "{index}\t{}", written(spec, prediction));
    }
    text
}

/// `index`, `prediction`, `label`, in the order of the development set; numbers of a regression as they are.
pub fn with_labels(spec: &TaskSpec, predictions: &[f64], texts: &[Text]) -> String {
    let mut text = String::from("index\tprediction\tlabel\n");
    for (index, (&prediction, example)) in predictions.iter().zip(texts).enumerate() {
        let (prediction, label) = match spec.classes {
            [] => (prediction.to_string(), example.label.to_string()),
            _ => (written(spec, prediction), written(spec, example.label)),
        };
        let _ = writeln!(text, "{index}\t{prediction}\t{label}");
    }
    text
}

/// Copies the test predictions of the seed that is best on the development set to `OUT/submission`. Returns that seed, or
/// none where there are no test predictions.
///
/// # Errors
/// When a file cannot be read or written.
pub fn collect(out: &Path, spec: &TaskSpec, seeds: &[SeedResult]) -> Result<Option<u64>, Error> {
    let Some(best) = seeds.iter().max_by(|a, b| a.score.total_cmp(&b.score)) else { return Ok(None) };
    let dir = super::run::seed_dir(out, best.task, best.seed);
    let mut any = None;
    for name in spec.test.iter().filter_map(|split| split.submission) {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| Error::Read { path, source })?;
        make_dir(&out.join("submission"))?;
        write_bytes(&out.join("submission").join(name), &bytes)?;
        any = Some(best.seed);
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glue::tasks::Task;

    #[test]
    fn classes_are_numbers_or_words_and_scores_stay_in_range() {
        let of = |task: Task, predictions: &[f64]| submission(task.spec(), predictions);
        assert_eq!(of(Task::Cola, &[1.0, 0.0]), "index\tprediction\n0\t1\n1\t0\n");
        assert_eq!(of(Task::Rte, &[1.0]), "index\tprediction\n0\tnot_entailment\n");
        assert_eq!(of(Task::Mnli, &[2.0]), "index\tprediction\n0\tcontradiction\n");
        assert_eq!(
            of(Task::Stsb, &[5.3, -0.2, 2.34567]),
            "index\tprediction\n0\t5.000\n1\t0.000\n2\t2.346\n"
        );
        let text = Text { first: String::new(), second: None, label: 2.5 };
        assert_eq!(
            with_labels(Task::Stsb.spec(), &[5.25], &[text]),
            "index\tprediction\tlabel\n0\t5.25\t2.5\n"
        );
    }
}
