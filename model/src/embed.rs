//! Token embeddings: word, segment and, in BERT, position; then LayerNorm and dropout.

use tch::Tensor;

use crate::layer_norm::LayerNorm;
use crate::unpad::Layout;
use crate::{ModelConfig, Parameters, TokenBatch};

/// Row 0 of the word embedding, `[PAD]`: it receives no gradient from the input side.
const PAD: i64 = 0;

/// The tables and their LayerNorm.
#[derive(Debug)]
pub(crate) struct Embeddings {
    word: Tensor,
    segment: Tensor,
    position: Option<Tensor>,
    layer_norm: LayerNorm,
    dropout: f64,
}

impl Embeddings {
    pub(crate) fn new(parameters: &Parameters, config: &ModelConfig, compute_kind: tch::Kind) -> Embeddings {
        Embeddings {
            word: parameters.get("bert.embeddings.word_embeddings.weight"),
            segment: parameters.get("bert.embeddings.token_type_embeddings.weight"),
            position: parameters.find("bert.embeddings.position_embeddings.weight"),
            layer_norm: LayerNorm::new(parameters, "bert.embeddings.LayerNorm", config, compute_kind),
            dropout: config.hidden_dropout_prob,
        }
    }

    /// Looks up in the tables' own type and adds there; LayerNorm rounds to the stream's.
    ///
    /// # Shape
    /// - result: `[N, D]`
    pub(crate) fn forward(&self, batch: &TokenBatch, layout: &Layout, train: bool) -> Tensor {
        let ids = layout.enter(&batch.input_ids); // [N]
        let mut x = Tensor::embedding(&self.word, &ids, PAD, false, false); // [N, D]
        x = match &batch.token_type_ids {
            Some(types) => x + self.segment.index_select(0, &layout.enter(types)), // [N, D]
            None => x + self.segment.get(0),                                       // [N, D]
        };
        if let Some(position) = &self.position {
            x += position.index_select(0, &layout.positions()); // [N, D]
        }
        self.layer_norm.forward(&x).dropout(self.dropout, train) // [N, D]
    }
}
