//! A model's parameters: which there are, what they are called, how they begin, and their way to and from files.
//!
//! Names are those of MosaicML's and Hugging Face's checkpoints. The decoder's weight is the word embedding itself
//! and therefore appears once, as `bert.embeddings.word_embeddings.weight`.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use crate::config::{FeedForwardKind, PositionEmbedding};
use crate::heads::Head;
use crate::init::{self, Init};
use crate::tensor_file::{self, TensorFile};
use crate::{Error, ModelConfig};

/// One parameter as the architecture asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Its name in checkpoints.
    pub name: String,
    /// Its shape; `[out, in]` for the weights of linear maps.
    pub shape: Vec<i64>,
    /// Its first values.
    pub init: Init,
}

impl ModelConfig {
    /// The parameters of this architecture under `head`, in the order of the forward pass.
    pub fn parameter_specs(&self, head: Head) -> Vec<ParameterSpec> {
        let (v, d, i) = (self.vocab_size, self.hidden_size, self.intermediate_size);
        let mut specs = Specs(Vec::new());
        specs.push("bert.embeddings.word_embeddings.weight", &[v, d], Init::NormalButFirstRow);
        if self.position_embedding == PositionEmbedding::Learned {
            let shape = [self.max_position_embeddings, d];
            specs.push("bert.embeddings.position_embeddings.weight", &shape, Init::Normal);
        }
        let shape = [self.type_vocab_size, d];
        specs.push("bert.embeddings.token_type_embeddings.weight", &shape, Init::Normal);
        specs.layer_norm("bert.embeddings.LayerNorm", d);
        for layer in 0..self.num_hidden_layers {
            let attention = format!("bert.encoder.layer.{layer}.attention");
            match self.position_embedding {
                PositionEmbedding::Alibi => specs.linear(&format!("{attention}.self.Wqkv"), d, 3 * d),
                PositionEmbedding::Learned => {
                    for part in ["query", "key", "value"] {
                        specs.linear(&format!("{attention}.self.{part}"), d, d);
                    }
                }
            }
            specs.linear(&format!("{attention}.output.dense"), d, d);
            specs.layer_norm(&format!("{attention}.output.LayerNorm"), d);
            let layer = format!("bert.encoder.layer.{layer}");
            match self.feed_forward {
                FeedForwardKind::Geglu => {
                    specs.push(&format!("{layer}.mlp.gated_layers.weight"), &[2 * i, d], Init::Normal);
                    specs.linear(&format!("{layer}.mlp.wo"), i, d);
                    specs.layer_norm(&format!("{layer}.mlp.layernorm"), d);
                }
                FeedForwardKind::Gelu => {
                    specs.linear(&format!("{layer}.intermediate.dense"), d, i);
                    specs.linear(&format!("{layer}.output.dense"), i, d);
                    specs.layer_norm(&format!("{layer}.output.LayerNorm"), d);
                }
            }
        }
        match head {
            Head::MaskedLm => {
                specs.linear("cls.predictions.transform.dense", d, d);
                specs.layer_norm("cls.predictions.transform.LayerNorm", d);
                specs.push(self.decoder_bias_name(), &[v], Init::Zeros);
            }
            Head::Classifier { num_labels } => {
                specs.linear("bert.pooler.dense", d, d);
                specs.linear("classifier", d, num_labels);
            }
        }
        specs.0
    }

    /// The decoder's bias hangs on the decoder in MosaicML's model and beside it in Hugging Face's.
    pub(crate) fn decoder_bias_name(&self) -> &'static str {
        match self.position_embedding {
            PositionEmbedding::Alibi => "cls.predictions.decoder.bias",
            PositionEmbedding::Learned => "cls.predictions.bias",
        }
    }

    /// Number of parameters of the masked-LM model; shared ones count once. Nothing is allocated.
    pub fn parameter_count(&self) -> i64 {
        self.parameter_specs(Head::MaskedLm).iter().map(|spec| spec.shape.iter().product::<i64>()).sum()
    }
}

/// A list of specifications in the making.
struct Specs(Vec<ParameterSpec>);

impl Specs {
    fn push(&mut self, name: &str, shape: &[i64], init: Init) {
        self.0.push(ParameterSpec { name: name.to_owned(), shape: shape.to_vec(), init });
    }

    fn linear(&mut self, name: &str, inputs: i64, outputs: i64) {
        self.push(&format!("{name}.weight"), &[outputs, inputs], Init::Normal);
        self.push(&format!("{name}.bias"), &[outputs], Init::Zeros);
    }

    fn layer_norm(&mut self, name: &str, width: i64) {
        self.push(&format!("{name}.weight"), &[width], Init::Ones);
        self.push(&format!("{name}.bias"), &[width], Init::Zeros);
    }
}

/// Named tensors in a fixed order, each of which requires a gradient.
///
/// The model's layers share these tensors' memory: an optimizer that writes to them in place, or
/// [`Parameters::load`], changes the model.
#[derive(Debug)]
pub struct Parameters {
    entries: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
}

impl Parameters {
    /// Fresh parameters. Their values depend on `seed`, name and shape alone: not on the device, on torch's generator,
    /// or on which other parameters there are, so that the same encoder begins the same under every head.
    pub fn init(config: &ModelConfig, head: Head, seed: u64, device: Device, kind: Kind) -> Parameters {
        let specs = config.parameter_specs(head);
        Parameters::of(specs.into_iter().map(|spec| {
            let values = init::values(&spec, config.initializer_range, seed);
            let tensor = Tensor::from_slice(&values).view(spec.shape.as_slice());
            (spec.name, tensor.to_kind(kind).to_device(device))
        }))
    }

    /// Parameters from tensors by name, in any order; they are copied to `device` and become `kind`. `origin` says in
    /// messages where they came from.
    ///
    /// # Errors
    /// [`Error::Names`] and [`Error::Shape`], when they are not exactly this architecture's.
    pub fn from_tensors(
        config: &ModelConfig,
        head: Head,
        tensors: Vec<(String, Tensor)>,
        origin: &str,
        device: Device,
        kind: Kind,
    ) -> Result<Parameters, Error> {
        let specs = config.parameter_specs(head);
        let expected: Vec<_> = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.clone())).collect();
        let tensors = matched(&expected, tensors, origin)?;
        let names = specs.into_iter().map(|spec| spec.name);
        Ok(Parameters::of(
            names.zip(tensors.iter().map(|t| t.detach().to_kind(kind).to_device(device).copy())),
        ))
    }

    /// Parameters of another head over a trained encoder: the encoder's come from `tensors`, which must have all of
    /// them; the head's too where they are there in its shape, and are fresh elsewhere. Tensors of other heads are left
    /// out. Returns the names of the fresh ones.
    ///
    /// # Errors
    /// [`Error::Names`] and [`Error::Shape`], when the encoder's tensors are not exactly this architecture's, or one is
    /// of no head.
    pub fn with_head(
        config: &ModelConfig,
        head: Head,
        tensors: Vec<(String, Tensor)>,
        origin: &str,
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<(Parameters, Vec<String>), Error> {
        let specs = config.parameter_specs(head);
        let known = |name: &str| {
            specs.iter().any(|spec| spec.name == name)
                || (!is_encoders(name)
                    && [Head::MaskedLm, Head::Classifier { num_labels: 1 }]
                        .iter()
                        .any(|&other| config.parameter_specs(other).iter().any(|spec| spec.name == name)))
        };
        let unexpected: Vec<String> =
            tensors.iter().filter(|(name, _)| !known(name)).map(|(name, _)| name.clone()).collect();
        let mut by_name: HashMap<String, Tensor> = tensors.into_iter().collect();
        let (mut chosen, mut fresh, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for spec in &specs {
            let found = by_name.remove(&spec.name);
            match found.filter(|found| is_encoders(&spec.name) || found.size() == spec.shape) {
                Some(found) => chosen.push((spec.name.clone(), found)),
                None if is_encoders(&spec.name) => missing.push(spec.name.clone()),
                None => {
                    let values = init::values(spec, config.initializer_range, seed);
                    let tensor = Tensor::from_slice(&values).view(spec.shape.as_slice());
                    chosen.push((spec.name.clone(), tensor));
                    fresh.push(spec.name.clone());
                }
            }
        }
        if !(missing.is_empty() && unexpected.is_empty()) {
            return Err(Error::Names { origin: origin.to_owned(), missing, unexpected });
        }
        Ok((Parameters::from_tensors(config, head, chosen, origin, device, kind)?, fresh))
    }

    /// Replaces all values by those in the safetensors file `path`, in place.
    ///
    /// # Errors
    /// Those of [`TensorFile::read`]; [`Error::Names`], [`Error::Shape`] or [`Error::Kind`] when the file is not of
    /// exactly this model. Nothing is changed then.
    pub fn load(&self, path: &Path) -> Result<(), Error> {
        let origin = path.display().to_string();
        let expected: Vec<_> = self.iter().map(|(name, tensor)| (name, tensor.size())).collect();
        let tensors = matched(&expected, TensorFile::read(path)?.tensors, &origin)?;
        for ((name, own), read) in self.iter().zip(&tensors) {
            if own.kind() != read.kind() {
                let (name, found, expected) = (name.to_owned(), read.kind(), own.kind());
                return Err(Error::Kind { origin, name, found, expected });
            }
        }
        no_grad(|| {
            for ((_, own), read) in self.iter().zip(&tensors) {
                own.shallow_clone().copy_(read);
            }
        });
        Ok(())
    }

    /// Writes all values to the safetensors file `path`, atomically.
    ///
    /// # Errors
    /// Those of [`tensor_file::write`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        tensor_file::write(path, self.iter())
    }

    /// Names and tensors in the order of [`ModelConfig::parameter_specs`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A handle on the parameter of that name, if there is one.
    pub fn find(&self, name: &str) -> Option<Tensor> {
        self.index.get(name).map(|&i| self.entries[i].1.shallow_clone())
    }

    /// A handle on a parameter that this crate's own list of names contains.
    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.find(name)
            .unwrap_or_else(|| panic!("no parameter {name}; parameter_specs and the layers disagree"))
    }

    /// Takes ownership of `entries` and makes each a leaf that requires a gradient.
    fn of(entries: impl Iterator<Item = (String, Tensor)>) -> Parameters {
        let entries: Vec<_> = entries.map(|(name, tensor)| (name, tensor.set_requires_grad(true))).collect();
        let index = entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Parameters { entries, index }
    }
}

/// Whether a name is that of an encoder's parameter, not of a head's.
fn is_encoders(name: &str) -> bool {
    name.starts_with("bert.embeddings.") || name.starts_with("bert.encoder.")
}

/// The tensors in the order of `expected`, after checking that names and shapes are exactly those.
fn matched(
    expected: &[(&str, Vec<i64>)],
    tensors: Vec<(String, Tensor)>,
    origin: &str,
) -> Result<Vec<Tensor>, Error> {
    let mut by_name: HashMap<String, Tensor> = tensors.into_iter().collect();
    let mut found = Vec::with_capacity(expected.len());
    let mut missing = Vec::new();
    for (name, shape) in expected {
        match by_name.remove(*name) {
            Some(tensor) => found.push((name, shape, tensor)),
            None => missing.push((*name).to_owned()),
        }
    }
    if !(missing.is_empty() && by_name.is_empty()) {
        let mut unexpected: Vec<String> = by_name.into_keys().collect();
        unexpected.sort();
        return Err(Error::Names { origin: origin.to_owned(), missing, unexpected });
    }
    for (name, shape, tensor) in &found {
        if tensor.size() != **shape {
            return Err(Error::Shape {
                origin: origin.to_owned(),
                name: (**name).to_owned(),
                found: tensor.size(),
                expected: shape.to_vec(),
            });
        }
    }
    Ok(found.into_iter().map(|(_, _, tensor)| tensor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        ModelConfig {
            vocab_size: 40,
            hidden_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 24,
            max_position_embeddings: 8,
            ..ModelConfig::mosaic_bert_base()
        }
    }

    fn init(config: &ModelConfig, seed: u64) -> Parameters {
        Parameters::init(config, Head::MaskedLm, seed, Device::Cpu, Kind::Float)
    }

    /// Sum over embeddings, layers and head, with the sizes written out.
    #[test]
    fn published_sizes() {
        assert_eq!(ModelConfig::mosaic_bert_base().parameter_count(), 137_400_384);
        assert_eq!(ModelConfig::mosaic_bert_large().parameter_count(), 435_221_312);
        // Hugging Face's bert-base-uncased for masked LM has 109,514,298 with 30,522 words; six more rows and biases.
        assert_eq!(ModelConfig::bert_base().parameter_count(), 109_514_298 + 6 * (768 + 1));
    }

    #[test]
    fn names_are_distinct() {
        for config in [ModelConfig::mosaic_bert_base(), ModelConfig::bert_base()] {
            for head in [Head::MaskedLm, Head::Classifier { num_labels: 3 }] {
                let mut names: Vec<_> = config.parameter_specs(head).into_iter().map(|s| s.name).collect();
                let count = names.len();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), count);
            }
        }
    }

    #[test]
    fn saved_parameters_come_back_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (saved, other) = (init(&tiny(), 1), init(&tiny(), 2));
        let shared = other.get("bert.embeddings.word_embeddings.weight");
        saved.save(&path).unwrap();
        other.load(&path).unwrap();
        for ((name, a), (_, b)) in saved.iter().zip(other.iter()) {
            assert!(a.equal(b), "{name}");
            assert!(b.requires_grad() && b.is_leaf(), "{name}");
        }
        assert!(shared.equal(&saved.get("bert.embeddings.word_embeddings.weight")));
    }

    #[test]
    fn another_models_file_is_refused_by_name_and_shape_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let parameters = init(&tiny(), 1);
        let refusal = |other: &Parameters| {
            other.save(&path).unwrap();
            let error = parameters.load(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            error
        };

        let wider = init(&ModelConfig { intermediate_size: 32, ..tiny() }, 2);
        let error = refusal(&wider);
        assert!(
            error.contains(
                "tensor bert.encoder.layer.0.mlp.gated_layers.weight has shape [64, 16], expected [48, 16]"
            ),
            "{error}"
        );

        let deeper = init(&ModelConfig { num_hidden_layers: 3, ..tiny() }, 2);
        let error = refusal(&deeper);
        assert!(
            error.contains("no tensor expected and not found and 11 tensors found and not expected"),
            "{error}"
        );

        let bert = init(&ModelConfig { position_embedding: PositionEmbedding::Learned, ..tiny() }, 2);
        let error = refusal(&bert);
        assert!(
            error.contains(
                "5 tensors expected and not found (first: bert.encoder.layer.0.attention.self.Wqkv.weight)"
            ),
            "{error}"
        );

        let doubles = Parameters::init(&tiny(), Head::MaskedLm, 2, Device::Cpu, Kind::Double);
        let error = refusal(&doubles);
        assert!(error.contains("has element type Double, expected Float"), "{error}");

        for ((name, a), (_, b)) in parameters.iter().zip(init(&tiny(), 1).iter()) {
            assert!(a.equal(b), "{name} was changed");
        }
    }

    #[test]
    fn another_head_takes_the_encoder_and_is_fresh_where_it_has_to_be() {
        let with = |head, tensors: &Parameters| {
            let tensors = tensors.iter().map(|(name, t)| (name.to_owned(), t.shallow_clone())).collect();
            Parameters::with_head(&tiny(), head, tensors, "m", 7, Device::Cpu, Kind::Float)
        };
        let two = Head::Classifier { num_labels: 2 };
        let (classifier, fresh) = with(two, &init(&tiny(), 1)).unwrap();
        let head =
            ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"];
        assert_eq!(fresh, head);
        let expected = Parameters::init(&tiny(), two, 7, Device::Cpu, Kind::Float);
        for (name, tensor) in classifier.iter() {
            let source =
                if fresh.iter().any(|f| f == name) { expected.get(name) } else { init(&tiny(), 1).get(name) };
            assert!(tensor.equal(&source), "{name}");
        }
        // Another number of labels: the pooler stays, the last map is fresh.
        let (_, fresh) = with(Head::Classifier { num_labels: 3 }, &classifier).unwrap();
        assert_eq!(fresh, ["classifier.weight", "classifier.bias"]);
        // An encoder that is not whole is refused, and so is what belongs to no head.
        let bert = init(&ModelConfig { position_embedding: PositionEmbedding::Learned, ..tiny() }, 2);
        let error = with(two, &bert).unwrap_err().to_string();
        assert!(
            error.contains("4 tensors expected and not found") && error.contains("found and not expected"),
            "{error}"
        );
    }

    #[test]
    fn first_values_depend_on_the_seed_and_not_on_the_head() {
        let (one, same, other) = (init(&tiny(), 1), init(&tiny(), 1), init(&tiny(), 2));
        let head = Head::Classifier { num_labels: 3 };
        let classifier = Parameters::init(&tiny(), head, 1, Device::Cpu, Kind::Float);
        for (name, tensor) in one.iter() {
            assert!(tensor.equal(&same.get(name)), "{name}");
            if let Some(shared) = classifier.find(name) {
                assert!(tensor.equal(&shared), "{name}");
            }
        }
        let name = "bert.encoder.layer.1.mlp.wo.weight";
        assert!(!one.get(name).equal(&other.get(name)));
        assert!(!one.get(name).equal(&one.get("bert.encoder.layer.0.mlp.wo.weight")));
    }
}
