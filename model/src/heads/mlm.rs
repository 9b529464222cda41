//! The masked language model.
//!
//! `decoder(LN(gelu(dense(h))))` at the masked positions, where the decoder's weight is the word embedding. Nothing is
//! computed at other positions: in the last layer and the head only the masked tokens count (MosaicML's model keeps
//! the first token of each sequence in the last layer too, for a pooler that masked-LM training does not have).

use tch::{Device, Kind, Tensor};

use crate::encoder::Encoder;
use crate::fused::{AdamW, Fused};
use crate::heads::{Head, parameter_kind};
use crate::layer_norm::LayerNorm;
use crate::linear::Linear;
use crate::torch::caught;
use crate::{Error, ModelConfig, Parameters, TokenBatch, loss};

/// What errors say was asked of libtorch.
const FORWARD: &str = "forward pass";

/// An encoder with the masked-LM head.
#[derive(Debug)]
pub struct MaskedLm {
    config: ModelConfig,
    parameters: Parameters,
    compute_kind: Kind,
    encoder: Encoder,
    transform: Linear,
    layer_norm: LayerNorm,
    decoder_weight: Tensor,
    decoder_bias: Tensor,
    fused: Option<Fused>,
}

/// What a step needs to know.
#[derive(Debug)]
pub struct MlmOutput {
    /// Sum of the cross-entropies of the masked tokens, in nats, divided by the normalizer: a scalar, float32, or
    /// float64 in a float64 model.
    pub loss: Tensor,
    /// Number of masked tokens whose most probable prediction is right: a scalar, i64, on the device.
    pub correct: Tensor,
}

impl MlmOutput {
    /// Adds the gradient of the loss to that of every parameter.
    ///
    /// # Errors
    /// Those of [`MaskedLm::loss`]; the gradients are then worth nothing.
    pub fn backward(&self) -> Result<(), Error> {
        self.loss.f_backward().map_err(|error| Error::torch("backward pass", &error.to_string()))
    }
}

impl MaskedLm {
    /// A fresh model on `device`. It computes in `compute_kind`; its parameters are float32 when that is `Float` or
    /// `BFloat16`, and float64 when it is `Double`.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::ComputeKind`].
    pub fn new(
        config: &ModelConfig,
        seed: u64,
        device: Device,
        compute_kind: Kind,
    ) -> Result<MaskedLm, Error> {
        config.validate()?;
        let kind = parameter_kind(compute_kind)?;
        MaskedLm::from_parameters(
            config,
            Parameters::init(config, Head::MaskedLm, seed, device, kind),
            compute_kind,
        )
    }

    /// A model over existing parameters, which must be [`Head::MaskedLm`]'s of the same configuration.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::ComputeKind`].
    pub fn from_parameters(
        config: &ModelConfig,
        parameters: Parameters,
        compute_kind: Kind,
    ) -> Result<MaskedLm, Error> {
        config.validate()?;
        parameter_kind(compute_kind)?;
        let transform = "cls.predictions.transform";
        Ok(MaskedLm {
            config: config.clone(),
            compute_kind,
            encoder: Encoder::new(&parameters, config, compute_kind),
            transform: Linear::new(&parameters, &format!("{transform}.dense"), compute_kind),
            layer_norm: LayerNorm::new(&parameters, &format!("{transform}.LayerNorm"), config, compute_kind),
            decoder_weight: parameters.get("bert.embeddings.word_embeddings.weight"),
            decoder_bias: parameters.get(config.decoder_bias_name()),
            fused: None,
            parameters,
        })
    }

    /// From now on computes on the fused path, which gives the same results faster: MosaicBERT or BERT, in bf16 on a CUDA
    /// card. Padding is not computed on there, whatever the configuration says.
    ///
    /// # Errors
    /// [`Error::Fused`] where the model, its type or its device is another, [`Error::Library`], [`Error::Kernel`] and
    /// [`Error::Cuda`] where driver or compiler stand in the way. The model then stays on the reference path.
    pub fn use_fused_path(&mut self) -> Result<(), Error> {
        self.fused = Some(Fused::new(&self.parameters, &self.config, Head::MaskedLm, self.compute_kind)?);
        Ok(())
    }

    /// From now on computes on the reference path, where every model begins.
    pub fn use_reference_path(&mut self) {
        self.fused = None;
    }

    /// Whether the model is on the fused path.
    pub fn is_fused(&self) -> bool {
        self.fused.is_some()
    }

    /// AdamW's update of this model in one pass over memory, for the fused path, whose bf16 copies it keeps up to date.
    /// `moments` are the first and second of each parameter, in the order of [`Parameters::iter`]: float32 tensors of its
    /// shape on the card, which stay the caller's to save and load in place.
    ///
    /// # Errors
    /// [`Error::Fused`] on the reference path, or where the moments do not match the parameters.
    pub fn fused_adamw(&self, moments: &[[&Tensor; 2]]) -> Result<AdamW, Error> {
        let reason = "the model is on the reference path".to_owned();
        self.fused.as_ref().ok_or(Error::Fused { reason })?.adamw(&self.parameters, moments)
    }

    /// As [`Self::fused_adamw`], over pieces of parameters: each with its gradient and its two moments as they lie in memory,
    /// one-dimensional float32 tensors of one length on the card. The bf16 copies follow once the caller has counted the
    /// update as a write ([`crate::torch::count_write`]).
    ///
    /// # Errors
    /// [`Error::Fused`] on the reference path, or where the four are not alike.
    pub fn fused_adamw_of_pieces(&self, pieces: Vec<[Tensor; 4]>) -> Result<AdamW, Error> {
        let reason = "the model is on the reference path".to_owned();
        self.fused.as_ref().ok_or(Error::Fused { reason })?.adamw_of_pieces(pieces)
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

    /// The scores of every word at the masked positions, without dropout.
    ///
    /// # Shape
    /// - result: `[M, V]`
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn logits(&self, batch: &TokenBatch) -> Result<Tensor, Error> {
        caught(FORWARD, || {
            let hidden = self.encode(batch, Some(&batch.masked_positions), false)?; // [M, D]
            let (weight, bias) = self.decoder(); // [V, D], [V]
            Ok(self.transform(&hidden).linear(&weight, Some(bias))) // [M, V]
        })
    }

    /// The loss on the masked tokens, divided by `normalizer`: the number of masked tokens in the whole global batch.
    /// Dropout is applied when `train`. The result carries the graph for `backward` unless gradients are off.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Torch`] and [`Error::Cuda`] where libtorch or the driver refuse for another reason.
    pub fn loss(&self, batch: &TokenBatch, train: bool, normalizer: f64) -> Result<MlmOutput, Error> {
        caught(FORWARD, || {
            let hidden = self.encode(batch, Some(&batch.masked_positions), train)?; // [M, D]
            let y = self.transform(&hidden); // [M, D]
            if let Some(fused) = self.fused_for(batch) {
                let (loss, correct) = fused.loss(&y, &batch.labels, normalizer)?;
                return Ok(MlmOutput { loss, correct });
            }
            let (weight, bias) = self.decoder(); // [V, D], [V]
            let (loss, correct) =
                loss::vocabulary_cross_entropy(&y, &weight, &bias, &batch.labels, normalizer);
            Ok(MlmOutput { loss, correct })
        })
    }

    /// The encoder's output on the path the model is on; see [`Encoder::forward`].
    fn encode(&self, batch: &TokenBatch, positions: Option<&Tensor>, train: bool) -> Result<Tensor, Error> {
        match self.fused_for(batch) {
            Some(fused) => fused.encode(batch, positions, train),
            None => Ok(self.encoder.forward(batch, positions, train)),
        }
    }

    /// The fused path, where the model is on it and the kernels reach as far as this batch's sequences.
    fn fused_for(&self, batch: &TokenBatch) -> Option<&Fused> {
        self.fused.as_ref().filter(|fused| fused.fits(batch.max_seqlen))
    }

    /// # Shape
    /// - `hidden` and result: `[M, D]`
    fn transform(&self, hidden: &Tensor) -> Tensor {
        let y = self.transform.forward(hidden).gelu("none"); // [M, D]
        self.layer_norm.forward(&y).to_kind(self.compute_kind) // [M, D]
    }

    /// The decoder's weight `[V, D]` and bias `[V]` in the compute type.
    fn decoder(&self) -> (Tensor, Tensor) {
        (self.decoder_weight.to_kind(self.compute_kind), self.decoder_bias.to_kind(self.compute_kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> TokenBatch {
        let ids: Vec<i32> = (0..11).map(|i| 5 + i * 3 % 30).collect();
        TokenBatch::from_host(&ids, &[0, 5, 5, 6, 11], &[0, 1, 4, 5, 9], &[7, 8, 9, 10, 11], Device::Cpu)
            .unwrap()
    }

    fn config() -> ModelConfig {
        ModelConfig {
            vocab_size: 40,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 24,
            hidden_dropout_prob: 0.0,
            initializer_range: 0.5,
            ..ModelConfig::mosaic_bert_base()
        }
    }

    /// The last layer over all tokens and the logits at once, against the last layer where it is needed and the
    /// logits in pieces.
    #[test]
    fn the_part_of_the_last_layer_gives_the_loss_and_gradients_of_the_whole() {
        for config in [config(), ModelConfig { hidden_dropout_prob: 0.0, ..bert() }] {
            let model = || MaskedLm::new(&config, 3, Device::Cpu, Kind::Double).unwrap();
            let (part, whole, batch) = (model(), model(), batch());
            let found = part.loss(&batch, true, 5.0).unwrap().loss;
            found.backward();

            let masked = whole.hidden(&batch).unwrap().index_select(0, &batch.masked_positions); // [M, D]
            let (weight, bias) = whole.decoder();
            let logits = whole.transform(&masked).linear(&weight, Some(bias)); // [M, V]
            let expected = loss::cross_entropy(&logits, &batch.labels, 5.0);
            expected.backward();

            assert!(found.allclose(&expected, 1e-12, 0.0, false), "{found} is not {expected}");
            for ((name, found), (_, expected)) in part.parameters.iter().zip(whole.parameters.iter()) {
                assert!(found.grad().allclose(&expected.grad(), 1e-10, 1e-13, false), "{name}");
            }
        }
    }

    fn bert() -> ModelConfig {
        use crate::config::{FeedForwardKind, LayerNormPrecision, Padding, PositionEmbedding};
        ModelConfig {
            max_position_embeddings: 8,
            position_embedding: PositionEmbedding::Learned,
            feed_forward: FeedForwardKind::Gelu,
            padding: Padding::Padded,
            layer_norm: LayerNormPrecision::Full,
            ..config()
        }
    }

    /// bf16 keeps 8 bits of a number: outputs agree to about 1 %, and nothing that is summed or stored is bf16.
    #[test]
    fn bf16_computes_with_float32_parameters_and_loss() {
        for config in [config(), bert()] {
            let model = |kind| MaskedLm::new(&config, 3, Device::Cpu, kind).unwrap();
            let (exact, rounded, batch) = (model(Kind::Float), model(Kind::BFloat16), batch());
            let loss = |model: &MaskedLm| model.loss(&batch, false, 5.0).unwrap().loss;
            let (expected, found) = (loss(&exact), loss(&rounded));
            found.backward();
            assert_eq!(found.kind(), Kind::Float);
            let error = (found.double_value(&[]) / expected.double_value(&[]) - 1.0).abs();
            assert!(error < 0.02 && error > 0.0, "relative error {error}");
            for (name, parameter) in rounded.parameters().iter() {
                assert_eq!((parameter.kind(), parameter.grad().kind()), (Kind::Float, Kind::Float), "{name}");
            }
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let error = MaskedLm::new(&config(), 3, Device::Cpu, Kind::Half).unwrap_err().to_string();
        assert_eq!(error, "the model does not compute in Half; use Float, BFloat16 or Double");
    }
}
