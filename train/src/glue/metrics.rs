//! The measures of GLUE: accuracy, F1, Matthews' correlation, Pearson's and Spearman's.
//!
//! They are scikit-learn's and SciPy's, the sources of GLUE's own numbers, to 1e-12 (`tests/golden/glue-metrics.json`),
//! degenerate cases included: where a quotient has a zero below, the value is 0.

use serde::{Deserialize, Serialize};

/// A measure of predictions against labels. Larger is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of predictions that are right.
    Accuracy,
    /// Harmonic mean of precision and recall: of class 1 where there are two classes, else the mean over the classes.
    F1,
    /// Matthews' correlation coefficient.
    Matthews,
    /// Pearson's correlation coefficient.
    Pearson,
    /// Spearman's rank correlation coefficient.
    Spearman,
    /// Accuracy on MNLI's mismatched dev set.
    AccuracyMismatched,
}

impl Metric {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "F1",
            Metric::Matthews => "Matthews",
            Metric::Pearson => "Pearson",
            Metric::Spearman => "Spearman",
            Metric::AccuracyMismatched => "accuracy mm",
        }
    }

    /// The measure of `predictions` against `labels`: classes from 0, or numbers for the two correlations.
    ///
    /// # Panics
    /// When their lengths differ.
    pub fn of(self, labels: &[f64], predictions: &[f64]) -> f64 {
        let classes = |values: &[f64]| values.iter().map(|&value| value as usize).collect::<Vec<_>>();
        match self {
            Metric::Accuracy | Metric::AccuracyMismatched => {
                accuracy(&classes(labels), &classes(predictions))
            }
            Metric::F1 => f1(&classes(labels), &classes(predictions)),
            Metric::Matthews => matthews(&classes(labels), &classes(predictions)),
            Metric::Pearson => pearson(labels, predictions),
            Metric::Spearman => spearman(labels, predictions),
        }
    }
}

/// How often each label was predicted as each class: `counts[label][prediction]`.
///
/// # Panics
/// When the lengths differ.
pub fn confusion(labels: &[usize], predictions: &[usize], classes: usize) -> Vec<Vec<u64>> {
    assert_eq!(labels.len(), predictions.len(), "a prediction for each label");
    let largest = labels.iter().chain(predictions).max().map_or(0, |class| class + 1);
    let classes = classes.max(largest);
    let mut counts = vec![vec![0; classes]; classes];
    for (&label, &prediction) in labels.iter().zip(predictions) {
        counts[label][prediction] += 1;
    }
    counts
}

/// Share of predictions that are right; 0 of none.
///
/// # Panics
/// When the lengths differ.
pub fn accuracy(labels: &[usize], predictions: &[usize]) -> f64 {
    assert_eq!(labels.len(), predictions.len(), "a prediction for each label");
    let right = labels.iter().zip(predictions).filter(|(label, prediction)| label == prediction).count();
    ratio(right as f64, labels.len() as f64)
}

/// F1 of class 1 where there are two classes; else the mean over all classes (scikit-learn's `binary` and `macro`).
///
/// # Panics
/// When the lengths differ.
pub fn f1(labels: &[usize], predictions: &[usize]) -> f64 {
    let counts = confusion(labels, predictions, 2);
    let of = |class: usize| {
        let hits = counts[class][class] as f64;
        let predicted: u64 = counts.iter().map(|row| row[class]).sum();
        let labelled: u64 = counts[class].iter().sum();
        (ratio(2.0 * hits, (predicted + labelled) as f64), predicted + labelled > 0)
    };
    if counts.len() == 2 {
        return of(1).0;
    }
    // Classes that occur on neither side do not count, as in scikit-learn.
    let values: Vec<f64> = (0..counts.len()).map(of).filter(|entry| entry.1).map(|entry| entry.0).collect();
    mean(&values)
}

/// Matthews' correlation of any number of classes (Gorodkin 2004, as scikit-learn computes it).
///
/// # Panics
/// When the lengths differ.
pub fn matthews(labels: &[usize], predictions: &[usize]) -> f64 {
    let counts = confusion(labels, predictions, 2);
    let total = labels.len() as f64;
    let labelled: Vec<f64> = counts.iter().map(|row| row.iter().sum::<u64>() as f64).collect();
    let predicted: Vec<f64> =
        (0..counts.len()).map(|class| counts.iter().map(|row| row[class]).sum::<u64>() as f64).collect();
    let right: f64 = counts.iter().enumerate().map(|(class, row)| row[class] as f64).sum();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let covariance = right * total - product(&labelled, &predicted);
    let of_labels = total * total - product(&labelled, &labelled);
    let of_predictions = total * total - product(&predicted, &predicted);
    ratio(covariance, (of_labels * of_predictions).sqrt())
}

/// Pearson's correlation. Where one side is constant it is 0 here; SciPy answers NaN and a warning, and an average must
/// stay a number.
///
/// # Panics
/// When the lengths differ.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "a prediction for each label");
    let centred = |values: &[f64]| {
        let mean = mean(values);
        values.iter().map(|value| value - mean).collect::<Vec<f64>>()
    };
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (x, y) = (centred(x), centred(y));
    let (x_norm, y_norm) = (norm(&x), norm(&y));
    let product: f64 = x.iter().zip(&y).map(|(a, b)| ratio(*a, x_norm) * ratio(*b, y_norm)).sum();
    product.clamp(-1.0, 1.0)
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank.
///
/// # Panics
/// When the lengths differ.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1; equal values get the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|&&at| values[at] == values[order[start]]).count().max(1);
        let rank = start as f64 + (tied as f64 + 1.0) / 2.0;
        order[start..start + tied].iter().for_each(|&at| ranks[at] = rank);
        start += tied;
    }
    ranks
}

/// The mean; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    ratio(values.iter().sum(), values.len() as f64)
}

/// The sample's standard deviation (n − 1 below); 0 of fewer than two.
pub fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// `above / below`, and 0 where that is nothing over nothing.
fn ratio(above: f64, below: f64) -> f64 {
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Deserialize)]
    struct Golden<'a> {
        #[serde(borrow)]
        cases: Vec<HashMap<&'a str, &'a RawValue>>,
    }

    /// Read by the standard library: serde_json may be off by the last bit, and scores that differ in that bit alone have
    /// ranks of their own.
    fn numbers(list: &RawValue) -> Vec<f64> {
        let numbers = list.get().trim_matches(['[', ']']).split(',');
        numbers.map(|number| number.trim().parse().unwrap()).collect()
    }

    /// scikit-learn's and SciPy's values; the last case has one class alone.
    #[test]
    fn equal_to_scikit_learn_and_scipy() {
        let golden: Golden<'_> =
            serde_json::from_str(include_str!("../../tests/golden/glue-metrics.json")).unwrap();
        let mut compared = 0;
        for case in golden.cases {
            for (metric, name, labels, predictions) in [
                (Metric::Accuracy, "accuracy", "labels", "preds"),
                (Metric::F1, "f1", "labels", "preds"),
                (Metric::Matthews, "matthews", "labels", "preds"),
                (Metric::Pearson, "pearson", "scores", "pred_scores"),
                (Metric::Spearman, "spearman", "scores", "pred_scores"),
            ] {
                let Some(expected) = case.get(name).and_then(|value| value.get().parse::<f64>().ok()) else {
                    continue;
                };
                let found = metric.of(&numbers(case[labels]), &numbers(case[predictions]));
                assert!((found - expected).abs() < 1e-12, "{name}: {found}, expected {expected}");
                compared += 1;
            }
        }
        assert_eq!(compared, 18);
    }

    #[test]
    fn three_classes() {
        // sklearn: f1_score(average="macro") and matthews_corrcoef of these.
        let (labels, predictions) = ([0, 1, 2, 0, 1, 2, 2], [0, 2, 2, 0, 1, 1, 2]);
        let expected = (1.0 + 0.5 + 2.0 / 3.0) / 3.0;
        assert!((f1(&labels, &predictions) - expected).abs() < 1e-12);
        // Right 5 of 7, labels and predictions 2, 2, 3 each: (5·7 − 17) / (49 − 17).
        assert!((matthews(&labels, &predictions) - 18.0 / 32.0).abs() < 1e-12);
    }

    #[test]
    fn degenerate_cases_are_numbers() {
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]), 0.0);
        assert_eq!(spearman(&[1.0, 1.0], &[0.0, 4.0]), 0.0);
        assert_eq!((accuracy(&[], &[]), f1(&[], &[]), matthews(&[], &[])), (0.0, 0.0, 0.0));
        assert_eq!(matthews(&[1, 1, 0], &[1, 1, 1]), 0.0);
        assert_eq!((standard_deviation(&[3.0]), standard_deviation(&[1.0, 3.0])), (0.0, 2f64.sqrt()));
    }

    #[test]
    fn tied_values_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
    }
}
