//! A small pretrained model for tests: random weights, and the real vocabulary.

use std::path::Path;

use ingest::TokenizerFile;
use model::{Head, ModelConfig, Parameters};
use tch::{Device, Kind};
use train::model_folder::{ModelFolder, ModelProvenance};

/// Writes the folder of a MosaicBERT of two narrow layers.
pub(crate) fn write(path: &Path) {
    let config = ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        hidden_dropout_prob: 0.0,
        ..ModelConfig::mosaic_bert_base()
    };
    write_as(path, &config);
}

/// Writes the folder of a model of another architecture.
pub(crate) fn write_as(path: &Path, config: &ModelConfig) {
    let parameters = Parameters::init(config, Head::MaskedLm, 3, Device::Cpu, Kind::Float);
    let tokenizer = TokenizerFile::bundled().unwrap();
    let provenance = ModelProvenance::now("a test", Path::new("."), &[], Vec::new()).unwrap();
    ModelFolder::write(path, config, tokenizer.bytes(), parameters.iter(), &provenance).unwrap();
}
