//! What stands on the encoder: masked-LM for pretraining, a classifier for fine-tuning.

mod classifier;
mod mlm;

use tch::Kind;

use crate::Error;

pub use classifier::{ClassifierOutput, SequenceClassifier};
pub use mlm::{MaskedLm, MlmOutput};

/// Which head; it decides which parameters there are besides the encoder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Predicts the masked tokens.
    MaskedLm,
    /// Predicts one label of a sequence; with `num_labels` = 1, a number.
    Classifier {
        /// Number of classes.
        num_labels: i64,
    },
}

/// The type parameters are stored in, for a model that computes in `compute_kind`.
fn parameter_kind(compute_kind: Kind) -> Result<Kind, Error> {
    match compute_kind {
        Kind::Float | Kind::BFloat16 => Ok(Kind::Float),
        Kind::Double => Ok(Kind::Double),
        found => Err(Error::ComputeKind { found }),
    }
}
