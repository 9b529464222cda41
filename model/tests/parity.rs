//! The model against tensors computed by MosaicML's and Hugging Face's own code in float64.
//!
//! Read are the files of `tests/golden` and of the folder that the environment variable GOLDEN_DIR names, if it does.
//! Each holds parameters (`param.NAME`), an input, and what the other implementation made of them: `loss`, `hidden`,
//! `logits_masked` or `logits`, and the gradient of every parameter (`grad.NAME`). The architecture is read from the
//! names and shapes of the parameters, and the number of heads from the metadata's `config`.
//!
//! The measure of an error is |found - expected| / |expected| with Euclidean norms over the whole tensor. One case
//! needs a floor: a gradient that is zero in exact arithmetic, as that of the bias of attention's keys, is nothing but
//! rounding. So a gradient is measured against its own norm or a millionth of the norm of all gradients together,
//! whichever is larger.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use model::config::{FeedForwardKind, LayerNormPrecision, Padding, PositionEmbedding};
use model::tensor_file::TensorFile;
use model::{Head, MaskedLm, ModelConfig, Parameters, SequenceClassifier, TokenBatch};
use tch::{Device, Kind, Tensor};

/// Largest relative error of any tensor.
const TOLERANCE: f64 = 1e-9;

/// Gradients smaller than this share of all gradients are measured against that share.
const GRADIENT_FLOOR: f64 = 1e-6;

/// The label of a token that is not masked.
const NOT_MASKED: i64 = -100;

#[test]
fn agrees_with_the_reference_implementations_in_float64() {
    tch::set_num_threads(1); // the matrices are small
    let mut failures = Vec::new();
    for folder in folders() {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .collect();
        paths.sort();
        let mut compared = 0;
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let Some(golden) = Golden::read(&path) else {
                show(&format!("{name:<36} skipped: it holds no parameters and inputs of a model"));
                continue;
            };
            compared += 1;
            for padding in [Padding::Unpadded, Padding::Padded] {
                let errors = golden.compare(padding);
                show(&format!("{name:<36} {:<8} {errors}", format!("{padding:?}").to_lowercase()));
                failures.extend(errors.beyond(TOLERANCE).map(|e| format!("{name} ({padding:?}): {e}")));
            }
        }
        assert!(compared > 0, "{} holds no .safetensors file of a model to compare with", folder.display());
    }
    assert!(failures.is_empty(), "errors above {TOLERANCE:e}:\n{}", failures.join("\n"));
}

/// The committed folder, and GOLDEN_DIR's; a relative path starts where cargo runs tests or at the workspace.
fn folders() -> Vec<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![package.join("tests/golden")];
    if let Some(named) = std::env::var_os("GOLDEN_DIR") {
        let named = PathBuf::from(named);
        let from_workspace = package.parent().unwrap().join(&named);
        folders.push(if named.is_dir() { named } else { from_workspace });
    }
    folders
}

/// Prints a row past the test harness, which would keep it to itself.
fn show(row: &str) {
    std::io::stdout().write_all(format!("{row}\n").as_bytes()).unwrap();
}

/// The relative error of each tensor compared.
struct Errors(Vec<(String, f64)>);

impl Errors {
    fn beyond(&self, tolerance: f64) -> impl Iterator<Item = String> {
        // Written so that NaN is beyond, too.
        let beyond = self.0.iter().filter(move |(_, error)| !matches!(error, e if *e <= tolerance));
        beyond.map(|(what, error)| format!("{what}: {error:.2e}"))
    }
}

impl std::fmt::Display for Errors {
    /// Outputs one by one, then the number of gradients and the worst of them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (gradients, outputs): (Vec<_>, Vec<_>) = self.0.iter().partition(|(w, _)| w.starts_with("grad."));
        for (what, error) in outputs {
            write!(f, "{what} {error:.1e}  ")?;
        }
        let worst =
            gradients.iter().max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("every model has gradients");
        write!(f, "{} gradients, worst {:.1e} ({})", gradients.len(), worst.1, worst.0)
    }
}

/// A file of reference tensors.
struct Golden {
    config: ModelConfig,
    tensors: HashMap<String, Tensor>,
    parameters: Vec<(String, Tensor)>,
    origin: String,
}

impl Golden {
    /// `None` for a file that is of something else than a model.
    fn read(path: &Path) -> Option<Golden> {
        let file = TensorFile::read(path).unwrap();
        let mut tensors: HashMap<String, Tensor> = file.tensors.into_iter().collect();
        let word = "param.bert.embeddings.word_embeddings.weight";
        if !(tensors.contains_key(word) && tensors.contains_key("input_ids")) {
            return None;
        }
        // The decoder's weight is the word embedding; a file may name it twice.
        if let Some(decoder) = tensors.remove("param.cls.predictions.decoder.weight") {
            assert!(decoder.equal(&tensors[word]), "{}: the decoder is not tied", path.display());
        }
        // So may Hugging Face's for the decoder's bias.
        if tensors.contains_key("param.cls.predictions.bias") {
            tensors.remove("param.cls.predictions.decoder.bias");
        }
        let metadata = file.metadata.get("config").expect("metadata `config`");
        let metadata: serde_json::Value = serde_json::from_str(metadata).expect("metadata `config` is JSON");
        let parameters: Vec<(String, Tensor)> = tensors
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("param.")?.to_owned(), t.shallow_clone())))
            .collect();
        let config = architecture(&parameters, &metadata);
        Some(Golden { config, tensors, parameters, origin: path.display().to_string() })
    }

    /// Runs the model and measures everything the file knows.
    fn compare(&self, padding: Padding) -> Errors {
        let config = ModelConfig { padding, ..self.config.clone() };
        let (lengths, real) = self.sequences();
        let batch = self.batch(&lengths, &real);
        let mut errors = Vec::new();
        let parameters = |head| {
            Parameters::from_tensors(
                &config,
                head,
                self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect(),
                &self.origin,
                Device::Cpu,
                Kind::Double,
            )
            .unwrap()
        };
        match self.tensors.get("param.classifier.weight").map(|weight| weight.size()[0]) {
            None => {
                let model =
                    MaskedLm::from_parameters(&config, parameters(Head::MaskedLm), Kind::Double).unwrap();
                let masked = batch.labels.size()[0];
                let output = model.loss(&batch, true, masked as f64);
                output.loss.backward();
                let logits = model.logits(&batch);
                self.measure("loss", &output.loss, &mut errors);
                self.measure_hidden(&model.hidden(&batch), &real, &mut errors);
                self.measure("logits_masked", &logits, &mut errors);
                let correct = logits.argmax(-1, false).eq_tensor(&batch.labels).sum(Kind::Int64);
                assert_eq!(output.correct.int64_value(&[]), correct.int64_value(&[]));
                self.measure_gradients(model.parameters(), &mut errors);
            }
            Some(num_labels) => {
                let parameters = parameters(Head::Classifier { num_labels });
                let model =
                    SequenceClassifier::from_parameters(&config, num_labels, parameters, Kind::Double)
                        .unwrap();
                let labels = &self.tensors["labels"];
                let output = model.loss(&batch, labels, true, labels.size()[0] as f64);
                output.loss.backward();
                self.measure("loss", &output.loss, &mut errors);
                self.measure_hidden(&model.hidden(&batch), &real, &mut errors);
                self.measure("logits", &output.logits, &mut errors);
                self.measure("logits", &model.logits(&batch), &mut errors);
                self.measure_gradients(model.parameters(), &mut errors);
            }
        }
        Errors(errors)
    }

    /// The number of tokens of each sequence, and the places of real tokens in the flattened `[B, S]`.
    fn sequences(&self) -> (Vec<i32>, Tensor) {
        let ids = &self.tensors["input_ids"];
        let mask = match self.tensors.get("attention_mask") {
            Some(mask) => mask.ne(0),
            None => ids.ones_like().ne(0),
        }; // [B, S]
        let lengths = Vec::<i64>::try_from(mask.sum_dim_intlist(1, false, Kind::Int64)).unwrap();
        for (b, &length) in (0..).zip(&lengths) {
            let prefix = mask.get(b).narrow(0, 0, length).all();
            assert_eq!(prefix.int64_value(&[]), 1, "{}: sequence {b} has padding inside", self.origin);
        }
        (lengths.iter().map(|&n| n as i32).collect(), mask.flatten(0, -1).nonzero().flatten(0, -1))
    }

    fn batch(&self, lengths: &[i32], real: &Tensor) -> TokenBatch {
        let packed = |name: &str| {
            let tensor = self.tensors.get(name)?.flatten(0, -1).index_select(0, real); // [T]
            Some(Vec::<i64>::try_from(tensor.to_kind(Kind::Int64)).unwrap())
        };
        let narrow = |ids: Vec<i64>| -> Vec<i32> { ids.into_iter().map(|id| id as i32).collect() };
        let mut cu_seqlens = vec![0];
        cu_seqlens.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let token_labels =
            if self.tensors["labels"].dim() == 2 { packed("labels").unwrap() } else { Vec::new() };
        let (positions, labels): (Vec<i64>, Vec<i64>) =
            (0..).zip(token_labels).filter(|&(_, label)| label != NOT_MASKED).unzip();
        let ids = narrow(packed("input_ids").unwrap());
        let batch = TokenBatch::from_host(&ids, &cu_seqlens, &positions, &labels, Device::Cpu).unwrap();
        match packed("token_type_ids") {
            Some(types) => batch.with_token_types(&narrow(types)),
            None => batch,
        }
    }

    /// Records the error of `found`, if the file has a tensor of that name.
    fn measure(&self, name: &str, found: &Tensor, errors: &mut Vec<(String, f64)>) {
        if let Some(expected) = self.tensors.get(name) {
            assert_eq!(found.numel(), expected.numel(), "{}: size of {name}", self.origin);
            let found = found.view_as(expected);
            errors.push((name.to_owned(), norm(&(found - expected)) / norm(expected)));
        }
    }

    /// Hidden states are compared at real tokens, whether the file has them alone or in a rectangle.
    fn measure_hidden(&self, found: &Tensor, real: &Tensor, errors: &mut Vec<(String, f64)>) {
        if let Some(expected) = self.tensors.get("hidden") {
            let packed = match expected.dim() {
                3 => expected.flatten(0, 1).index_select(0, real),
                _ => expected.shallow_clone(),
            }; // [T, D]
            assert_eq!(found.size(), packed.size(), "{}: shape of hidden", self.origin);
            errors.push(("hidden".to_owned(), norm(&(found - &packed)) / norm(&packed)));
        }
    }

    /// Records the error of every parameter's gradient; one the file does not have is expected to be zero.
    fn measure_gradients(&self, parameters: &Parameters, errors: &mut Vec<(String, f64)>) {
        let expected = |name: &str| self.tensors.get(&format!("grad.{name}"));
        let all = parameters.iter().filter_map(|(name, _)| expected(name)).map(|g| norm(g).powi(2));
        let floor = GRADIENT_FLOOR * all.sum::<f64>().sqrt();
        assert!(floor > 0.0, "{}: no gradients", self.origin);
        for (name, parameter) in parameters.iter() {
            let zero = parameter.zeros_like();
            let expected = expected(name).unwrap_or(&zero);
            let found = parameter.grad();
            assert!(found.defined(), "{}: {name} has no gradient", self.origin);
            assert_eq!(found.size(), expected.size(), "{}: shape of grad.{name}", self.origin);
            let error = norm(&(found - expected)) / norm(expected).max(floor);
            errors.push((format!("grad.{name}"), error));
        }
    }
}

/// What architecture these parameters are of.
fn architecture(parameters: &[(String, Tensor)], metadata: &serde_json::Value) -> ModelConfig {
    let shape = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.size());
    let number = |key: &str| metadata.get(key).and_then(serde_json::Value::as_i64);
    let word = shape("bert.embeddings.word_embeddings.weight").expect("word embeddings");
    let layers = parameters
        .iter()
        .filter_map(|(name, _)| {
            name.strip_prefix("bert.encoder.layer.")?.split('.').next()?.parse::<i64>().ok()
        })
        .max();
    let positions = shape("bert.embeddings.position_embeddings.weight").map(|shape| shape[0]);
    let gated = shape("bert.encoder.layer.0.mlp.wo.weight").map(|shape| shape[1]);
    let plain = shape("bert.encoder.layer.0.intermediate.dense.weight").map(|shape| shape[0]);
    ModelConfig {
        vocab_size: word[0],
        hidden_size: word[1],
        num_hidden_layers: layers.expect("at least one layer") + 1,
        num_attention_heads: number("num_attention_heads").expect("num_attention_heads in the metadata"),
        intermediate_size: gated.or(plain).expect("a feed-forward block"),
        max_position_embeddings: positions.unwrap_or(512),
        type_vocab_size: shape("bert.embeddings.token_type_embeddings.weight").expect("segment embeddings")
            [0],
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        layer_norm_eps: metadata.get("layer_norm_eps").and_then(serde_json::Value::as_f64).unwrap_or(1e-12),
        initializer_range: 0.02,
        position_embedding: match positions {
            Some(_) => PositionEmbedding::Learned,
            None => PositionEmbedding::Alibi,
        },
        feed_forward: if gated.is_some() { FeedForwardKind::Geglu } else { FeedForwardKind::Gelu },
        padding: Padding::Unpadded,
        layer_norm: LayerNormPrecision::Full,
    }
}

/// Euclidean norm over all elements.
fn norm(tensor: &Tensor) -> f64 {
    tensor.detach().to_kind(Kind::Double).norm().double_value(&[])
}
