//! MosaicBERT, and the BERT it is compared with, on libtorch.
//!
//! - MosaicBERT: Portes et al. 2023, <https://arxiv.org/abs/2312.17482>, built from [ALiBi](alibi) (Press et al.,
//!   <https://arxiv.org/abs/2108.12409>), GeGLU (Shazeer, <https://arxiv.org/abs/2002.05202>) and unpadding (Zeng et
//!   al., <https://arxiv.org/abs/2208.08124>).
//! - BERT: Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>, as Hugging Face implements it.
//!
//! Both are one [`ModelConfig`]. A [`TokenBatch`] of packed sequences goes into a [`MaskedLm`] (pretraining) or a
//! [`SequenceClassifier`] (fine-tuning); a loss comes out, whose `backward` fills the gradients of the
//! [`Parameters`]. The model knows nothing of data, optimizers or files of tokens.
//!
//! # Example
//!
//! ```
//! use model::{MaskedLm, ModelConfig, TokenBatch};
//! use tch::{Device, Kind};
//!
//! // A small MosaicBERT.
//! let config = ModelConfig {
//!     vocab_size: 64,
//!     hidden_size: 32,
//!     num_hidden_layers: 2,
//!     num_attention_heads: 4,
//!     intermediate_size: 64,
//!     ..ModelConfig::mosaic_bert_base()
//! };
//! let model = MaskedLm::new(&config, 17, Device::Cpu, Kind::Float)?;
//!
//! // Two sequences of 4 and 3 tokens. Tokens 1 and 5 were 9 and 12 before they were masked (3).
//! let batch = TokenBatch::from_host(&[1, 3, 8, 2, 1, 3, 2], &[0, 4, 7], &[1, 5], &[9, 12], Device::Cpu)?;
//! let output = model.loss(&batch, true, 2.0)?;
//! output.backward()?;
//!
//! // An untrained model finds all 64 words about equally likely.
//! assert!((output.loss.double_value(&[]) - 64f64.ln()).abs() < 0.5);
//! for (name, parameter) in model.parameters().iter() {
//!     assert!(parameter.grad().defined(), "{name}");
//! }
//! # Ok::<(), model::Error>(())
//! ```
//!
//! # Letters in shapes
//!
//! | letter | size |
//! | --- | --- |
//! | T | tokens of the packed batch |
//! | B | sequences in it |
//! | S | tokens of the longest sequence |
//! | N | rows the encoder works on: T, or B·S where padding is computed on |
//! | R | rows chosen from them |
//! | M | masked tokens |
//! | D | width of the residual stream, `hidden_size` |
//! | H, K | attention heads, and the width of one: D = H·K |
//! | I | width of the feed-forward block, `intermediate_size` |
//! | V | words, `vocab_size` |
//!
//! # Where to look
//!
//! `encoder.rs` first; then `embed.rs`, `attention.rs` with `alibi.rs` and `unpad.rs`, `feed_forward.rs`, `heads/`
//! and `loss.rs`. `parameters.rs` lists every parameter by name. `fused/` is the same model over our own CUDA kernels
//! (`csrc/kernels`), which [`MaskedLm::use_fused_path`] switches to; `torch/` is what it needs of libtorch and CUDA.

pub mod alibi;
mod attention;
mod batch;
pub mod config;
mod embed;
mod encoder;
mod error;
mod feed_forward;
mod flops;
mod fused;
mod heads;
mod init;
mod layer_norm;
mod linear;
mod loss;
mod parameters;
pub mod tensor_file;
pub mod torch;
mod unpad;

pub use batch::TokenBatch;
pub use config::ModelConfig;
pub use error::Error;
pub use flops::Work;
pub use fused::AdamW;
pub use heads::{ClassifierOutput, Head, MaskedLm, MlmOutput, SequenceClassifier};
pub use init::Init;
pub use parameters::{ParameterSpec, Parameters};
