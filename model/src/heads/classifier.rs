//! Classification and regression of whole sequences.
//!
//! The first token passes through BERT's pooler, `tanh(dense(h))`, dropout and a linear map to the labels.

use tch::{Device, Kind, Tensor};

use crate::encoder::Encoder;
use crate::fused::{AdamW, Fused};
use crate::heads::{Head, parameter_kind};
use crate::linear::Linear;
use crate::torch::caught;
use crate::{Error, ModelConfig, Parameters, TokenBatch, loss};

/// What errors say was asked of libtorch.
const FORWARD: &str = "forward pass";

/// An encoder with pooler and classifier.
#[derive(Debug)]
pub struct SequenceClassifier {
    config: ModelConfig,
    parameters: Parameters,
    num_labels: i64,
    compute_kind: Kind,
    encoder: Encoder,
    pooler: Linear,
    classifier: Linear,
    dropout: f64,
    fused: Option<Fused>,
}

/// What a step needs to know.
#[derive(Debug)]
pub struct ClassifierOutput {
    /// Sum over sequences of the cross-entropy in nats (of the squared error when there is one label), divided by the
    /// normalizer: a scalar.
    pub loss: Tensor,
    /// The scores, `[B, num_labels]`.
    pub logits: Tensor,
}

impl SequenceClassifier {
    /// A fresh model on `device`; types as for [`MaskedLm::new`](crate::MaskedLm::new).
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::ComputeKind`].
    pub fn new(
        config: &ModelConfig,
        num_labels: i64,
        seed: u64,
        device: Device,
        compute_kind: Kind,
    ) -> Result<SequenceClassifier, Error> {
        config.validate()?;
        let head = Head::Classifier { num_labels };
        let parameters = Parameters::init(config, head, seed, device, parameter_kind(compute_kind)?);
        SequenceClassifier::from_parameters(config, num_labels, parameters, compute_kind)
    }

    /// A model over existing parameters, which must be [`Head::Classifier`]'s of the same configuration.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::ComputeKind`].
    pub fn from_parameters(
        config: &ModelConfig,
        num_labels: i64,
        parameters: Parameters,
        compute_kind: Kind,
    ) -> Result<SequenceClassifier, Error> {
        config.validate()?;
        parameter_kind(compute_kind)?;
        Ok(SequenceClassifier {
            config: config.clone(),
            num_labels,
            compute_kind,
            encoder: Encoder::new(&parameters, config, compute_kind),
            pooler: Linear::new(&parameters, "bert.pooler.dense", compute_kind),
            classifier: Linear::new(&parameters, "classifier", compute_kind),
            dropout: config.hidden_dropout_prob,
            fused: None,
            parameters,
        })
    }

    /// From now on the encoder computes on the fused path; see [`MaskedLm::use_fused_path`](crate::MaskedLm::use_fused_path).
    ///
    /// # Errors
    /// Those of that function: the classifier then stays on the reference path.
    pub fn use_fused_path(&mut self) -> Result<(), Error> {
        let head = Head::Classifier { num_labels: self.num_labels };
        self.fused = Some(Fused::new(&self.parameters, &self.config, head, self.compute_kind)?);
        Ok(())
    }

    /// From now on computes on the reference path, where every model begins.
    pub fn use_reference_path(&mut self) {
        self.fused = None;
    }

    /// Whether the encoder is on the fused path.
    pub fn is_fused(&self) -> bool {
        self.fused.is_some()
    }

    /// As [`MaskedLm::fused_adamw`](crate::MaskedLm::fused_adamw).
    ///
    /// # Errors
    /// Those of that function.
    pub fn fused_adamw(&self, moments: &[[&Tensor; 2]]) -> Result<AdamW, Error> {
        let reason = "the model is on the reference path".to_owned();
        self.fused.as_ref().ok_or(Error::Fused { reason })?.adamw(&self.parameters, moments)
    }

    /// The number of labels; 1 is a regression.
    pub fn num_labels(&self) -> i64 {
        self.num_labels
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters, which the layers share: changing them in place changes the model.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The encoder's output for every token, without dropout.
    ///
    /// # Shape
    /// - result: `[T, D]`
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn hidden(&self, batch: &TokenBatch) -> Result<Tensor, Error> {
        caught(FORWARD, || self.encode(batch, None, false))
    }

    /// The scores of each sequence, without dropout.
    ///
    /// # Shape
    /// - result: `[B, num_labels]`
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn logits(&self, batch: &TokenBatch) -> Result<Tensor, Error> {
        caught(FORWARD, || self.classify(batch, false))
    }

    /// Loss and scores. `labels` are classes (i64), or numbers when there is one label; the mean over the batch
    /// has `normalizer` = B. Dropout is applied when `train`.
    ///
    /// # Shape
    /// - `labels`: `[B]`
    ///
    /// # Errors
    /// [`Error::Batch`] when a sequence is empty: it has no first token. [`Error::OutOfMemory`]; [`Error::Torch`] where
    /// libtorch refuses for another reason.
    pub fn loss(
        &self,
        batch: &TokenBatch,
        labels: &Tensor,
        train: bool,
        normalizer: f64,
    ) -> Result<ClassifierOutput, Error> {
        caught(FORWARD, || {
            let logits = self.classify(batch, train)?; // [B, num_labels]
            let loss = match self.num_labels {
                1 => loss::squared_error(&logits.squeeze_dim(-1), labels, normalizer),
                _ => loss::cross_entropy(&logits, labels, normalizer),
            };
            Ok(ClassifierOutput { loss, logits })
        })
    }

    /// The encoder's output on the path the model is on, where the kernels reach as far as this batch's sequences.
    fn encode(&self, batch: &TokenBatch, positions: Option<&Tensor>, train: bool) -> Result<Tensor, Error> {
        match self.fused.as_ref().filter(|fused| fused.fits(batch.max_seqlen)) {
            Some(fused) => fused.encode(batch, positions, train),
            None => Ok(self.encoder.forward(batch, positions, train)),
        }
    }

    /// # Shape
    /// - result: `[B, num_labels]`
    fn classify(&self, batch: &TokenBatch, train: bool) -> Result<Tensor, Error> {
        if let Some(empty) = batch.cu_seqlens.windows(2).position(|pair| pair[0] == pair[1]) {
            let found = format!("empty in sequence {empty}");
            return Err(Error::Batch { what: "a text", found, expected: "at least one token".to_owned() });
        }
        let first = self.encode(batch, Some(&batch.first_tokens()?), train)?; // [B, D]
        let pooled = self.pooler.forward(&first).tanh().dropout(self.dropout, train); // [B, D]
        Ok(self.classifier.forward(&pooled)) // [B, num_labels]
    }
}

impl ClassifierOutput {
    /// Adds the gradient of the loss to that of every parameter.
    ///
    /// # Errors
    /// Those of [`SequenceClassifier::loss`]; the gradients are then worth nothing.
    pub fn backward(&self) -> Result<(), Error> {
        self.loss.f_backward().map_err(|error| Error::torch("backward pass", &error.to_string()))
    }
}
