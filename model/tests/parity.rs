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

mod golden;

use std::io::Write;
use std::path::{Path, PathBuf};

use golden::Golden;
use model::config::Padding;
use model::{Head, MaskedLm, ModelConfig, Parameters, SequenceClassifier};
use tch::{Device, Kind, Tensor};

/// Largest relative error of any tensor.
const TOLERANCE: f64 = 1e-9;

/// Gradients smaller than this share of all gradients are measured against that share.
const GRADIENT_FLOOR: f64 = 1e-6;

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

impl Golden {
    /// Runs the model and measures everything the file knows.
    fn compare(&self, padding: Padding) -> Errors {
        let config = ModelConfig { padding, ..self.config.clone() };
        let (lengths, real) = self.sequences();
        let batch = self.batch(&lengths, &real, Device::Cpu);
        let mut errors = Vec::new();
        match self.tensors.get("param.classifier.weight").map(|weight| weight.size()[0]) {
            None => {
                let model = MaskedLm::from_parameters(
                    &config,
                    self.parameters(&config, Head::MaskedLm, Device::Cpu),
                    Kind::Double,
                )
                .unwrap();
                let masked = batch.labels.size()[0];
                let output = model.loss(&batch, true, masked as f64).unwrap();
                output.loss.backward();
                let logits = model.logits(&batch).unwrap();
                self.measure("loss", &output.loss, &mut errors);
                self.measure_hidden(&model.hidden(&batch).unwrap(), &real, &mut errors);
                self.measure("logits_masked", &logits, &mut errors);
                let correct = logits.argmax(-1, false).eq_tensor(&batch.labels).sum(Kind::Int64);
                assert_eq!(output.correct.int64_value(&[]), correct.int64_value(&[]));
                self.measure_gradients(model.parameters(), &mut errors);
            }
            Some(num_labels) => {
                let parameters = self.parameters(&config, Head::Classifier { num_labels }, Device::Cpu);
                let model =
                    SequenceClassifier::from_parameters(&config, num_labels, parameters, Kind::Double)
                        .unwrap();
                let labels = &self.tensors["labels"];
                let output = model.loss(&batch, labels, true, labels.size()[0] as f64).unwrap();
                output.loss.backward();
                self.measure("loss", &output.loss, &mut errors);
                self.measure_hidden(&model.hidden(&batch).unwrap(), &real, &mut errors);
                self.measure("logits", &output.logits, &mut errors);
                self.measure("logits", &model.logits(&batch).unwrap(), &mut errors);
                self.measure_gradients(model.parameters(), &mut errors);
            }
        }
        Errors(errors)
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

/// Euclidean norm over all elements.
fn norm(tensor: &Tensor) -> f64 {
    tensor.detach().to_kind(Kind::Double).norm().double_value(&[])
}
