//! The encoder: embeddings, then layers of attention and feed-forward. The file to read first.
//!
//! Architecture: Portes et al., "MosaicBERT", <https://arxiv.org/abs/2312.17482>; reference implementation:
//! `bert_layers.py` in <https://github.com/mosaicml/examples/tree/main/examples/benchmarks/bert>. LayerNorm follows
//! every residual sum, as in BERT (<https://arxiv.org/abs/1810.04805>).

use tch::{Kind, Tensor};

use crate::attention::{Attention, AttentionBias};
use crate::config::Padding;
use crate::embed::Embeddings;
use crate::feed_forward::FeedForward;
use crate::unpad::Layout;
use crate::{ModelConfig, Parameters, TokenBatch};

/// Embeddings and layers.
#[derive(Debug)]
pub(crate) struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    slopes: Option<Vec<f64>>,
    padding: Padding,
    compute_kind: Kind,
}

impl Encoder {
    pub(crate) fn new(parameters: &Parameters, config: &ModelConfig, compute_kind: Kind) -> Encoder {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::new(parameters, &format!("bert.encoder.layer.{i}"), config, compute_kind))
            .collect();
        Encoder {
            embeddings: Embeddings::new(parameters, config, compute_kind),
            layers,
            slopes: AttentionBias::slopes(config),
            padding: config.padding,
            compute_kind,
        }
    }

    /// The last layer's output: of all T tokens, or of the tokens at `positions` alone. In the latter case the last
    /// layer's output projection, LayerNorms and feed-forward are computed nowhere else; the values are the same.
    ///
    /// # Shape
    /// - `positions`: `[R]`, i64
    /// - result: `[T, D]`, or `[R, D]` with `positions`
    pub(crate) fn forward(&self, batch: &TokenBatch, positions: Option<&Tensor>, train: bool) -> Tensor {
        let layout = Layout::new(batch, self.padding);
        let bias =
            AttentionBias::new(self.slopes.as_deref(), &layout, self.compute_kind, batch.input_ids.device());
        let rows = positions.map(|positions| layout.rows_of(positions)); // [R]
        let mut x = self.embeddings.forward(batch, &layout, train); // [N, D]
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            x = layer.forward(&x, &layout, &bias, rows.as_ref().filter(|_| last), train); // [N, D], at last [R, D]
        }
        match rows {
            Some(_) => x,
            None => layout.leave(&x), // [T, D]
        }
    }
}

/// Attention, then feed-forward.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    feed_forward: FeedForward,
}

impl Layer {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig, compute_kind: Kind) -> Layer {
        Layer {
            attention: Attention::new(parameters, &format!("{name}.attention"), config, compute_kind),
            feed_forward: FeedForward::new(parameters, name, config, compute_kind),
        }
    }

    /// # Shape
    /// - `x`: `[N, D]`
    /// - `rows`: `[R]`, the rows to compute what follows attention for; all N when `None`
    /// - result: `[N, D]` or `[R, D]`
    fn forward(
        &self,
        x: &Tensor,
        layout: &Layout,
        bias: &AttentionBias,
        rows: Option<&Tensor>,
        train: bool,
    ) -> Tensor {
        let context = self.attention.context(x, layout, bias, train); // [N, D]
        let x = match rows {
            None => self.attention.output(&context, x, train), // [N, D]
            Some(rows) => {
                let (context, x) = (context.index_select(0, rows), x.index_select(0, rows)); // [R, D]
                self.attention.output(&context, &x, train) // [R, D]
            }
        };
        self.feed_forward.forward(&x, train) // [N, D] or [R, D]
    }
}
