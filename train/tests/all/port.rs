//! Into the program and out of it again: import, export, filling in and embedding.

use std::fs;
use std::io::Write;
use std::path::Path;

use model::TokenBatch;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};
use train::export::{Architecture, Format, export};
use train::import::import;
use train::model_folder::ModelFolder;

use crate::command::{Bench, errors, fail, succeed};
use crate::hugging_face::{Golden, folder};

pub(crate) fn open(path: &Path) -> ModelFolder {
    ModelFolder::open(path, |error| panic!("{error}")).unwrap()
}

/// The real tokens of a padded batch, packed, each of them masked.
pub(crate) fn pack(ids: &Tensor, mask: &Tensor) -> TokenBatch {
    let rows = |tensor: &Tensor| -> Vec<Vec<i64>> {
        (0..tensor.size()[0])
            .map(|b| Vec::<i64>::try_from(tensor.get(b).to_kind(Kind::Int64)).unwrap())
            .collect()
    };
    let (mut packed, mut ends) = (Vec::new(), vec![0]);
    for (ids, mask) in rows(ids).iter().zip(rows(mask)) {
        packed.extend(ids.iter().zip(mask).filter(|(_, real)| *real != 0).map(|(id, _)| *id as i32));
        ends.push(packed.len() as i32);
    }
    let positions: Vec<i64> = (0..packed.len() as i64).collect();
    let labels = vec![0; packed.len()];
    TokenBatch::from_host(&packed, &ends, &positions, &labels, Device::Cpu).unwrap()
}

pub(crate) fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Rows of the golden logits: the labelled tokens among the real ones.
fn labelled(golden: &Golden) -> Tensor {
    let real = golden.get("attention_mask").flatten(0, -1).nonzero().flatten(0, -1); // [T]
    golden.get("labels").flatten(0, -1).index_select(0, &real).ne(-100).nonzero().flatten(0, -1) // [M]
}

#[test]
fn models_of_others_give_what_their_own_code_gives() {
    let dir = tempfile::tempdir().unwrap();
    for (name, source, positions) in
        [("hf-bert.safetensors", "Hugging Face BERT", 48), ("mosaicbert-12h.safetensors", "MosaicBERT", 512)]
    {
        let golden = Golden::read(name);
        let config = golden.config(&[]);
        let words = config["vocab_size"].as_u64().unwrap() as usize;
        // As it is, and inside another module with the decoder's tensors named twice, as training frameworks save it.
        let plain = golden.parameters();
        let mut wrapped: Vec<(String, Tensor)> =
            plain.iter().map(|(name, tensor)| (format!("model.{name}"), tensor.shallow_clone())).collect();
        let embedding = plain.iter().find(|(name, _)| name.ends_with("word_embeddings.weight")).unwrap();
        wrapped.push(("model.cls.predictions.decoder.weight".to_owned(), embedding.1.copy()));
        wrapped.push((
            "model.bert.embeddings.position_ids".to_owned(),
            Tensor::arange(9, (Kind::Int64, Device::Cpu)),
        ));
        wrapped.push((
            "model.cls.seq_relationship.weight".to_owned(),
            Tensor::zeros([2, 64], (Kind::Float, Device::Cpu)),
        ));
        for (kind, tensors) in [("plain", plain), ("wrapped", wrapped)] {
            let from = folder(&dir.path().join(format!("{name}-{kind}")), &config, &tensors, words);
            let out = dir.path().join(format!("{name}-{kind}-model"));
            let imported = import(&from, &out, None).unwrap();
            assert_eq!(
                (imported.source.as_str(), imported.config.max_position_embeddings),
                (source, positions)
            );
            assert_eq!(imported.notes.len(), usize::from(kind == "wrapped"), "{:?}", imported.notes);

            let model = open(&out).masked_lm(Device::Cpu, Kind::Float).unwrap();
            let batch = pack(golden.get("input_ids"), golden.get("attention_mask"));
            let (hidden, logits) = no_grad(|| (model.hidden(&batch).unwrap(), model.logits(&batch).unwrap()));
            let off = difference(&hidden, golden.get("hidden"));
            assert!(off < 1e-5, "{name} {kind}: hidden states are off by {off}");
            let off = difference(&logits.index_select(0, &labelled(&golden)), golden.get("logits_masked"));
            assert!(off < 1e-4, "{name} {kind}: logits are off by {off}");
        }
    }
}

#[test]
fn rows_are_filled_up_and_a_bare_encoder_needs_a_head_to_predict() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Golden::read("hf-bert.safetensors");
    let words = "embeddings.word_embeddings.weight";
    let bare: Vec<(String, Tensor)> = golden
        .parameters()
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("bert.")?.to_owned(), tensor)))
        .map(|(name, tensor)| if name == words { (name, tensor.narrow(0, 0, 380)) } else { (name, tensor) })
        .collect();
    let from = folder(&dir.path().join("from"), &golden.config(&[("vocab_size", json!(380))]), &bare, 380);
    let out = dir.path().join("model");
    let imported = import(&from, &out, None).unwrap();
    assert_eq!(imported.config.vocab_size, 384);
    assert!(
        imported.notes[0].contains("380 rows and was filled up with zeros to 384"),
        "{:?}",
        imported.notes
    );
    assert!(imported.notes[1].contains("no masked-LM head"), "{:?}", imported.notes);
    let model = open(&out);
    let message = model.masked_lm(Device::Cpu, Kind::Float).unwrap_err().to_string();
    assert!(message.contains("has no masked-LM head"), "{message}");
    let encoder = model.encoder(Device::Cpu, Kind::Float).unwrap();
    let embedding = encoder.parameters().find("bert.embeddings.word_embeddings.weight").unwrap();
    assert_eq!(embedding.narrow(0, 380, 4).abs().sum(Kind::Float).double_value(&[]), 0.0);
}

/// Everything an export writes is what an import reads: the tensors come back bit for bit, through each layout.
#[test]
fn an_exported_model_imports_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    for (name, format, architecture) in [
        ("hf-bert.safetensors", Format::HuggingFace, Architecture::Bert),
        ("mosaicbert-12h.safetensors", Format::HuggingFace, Architecture::MosaicBert),
        ("mosaicbert-12h.safetensors", Format::JinaBert, Architecture::JinaBert),
    ] {
        let golden = Golden::read(name);
        let config = golden.config(&[]);
        let words = config["vocab_size"].as_u64().unwrap() as usize;
        let path = |part: &str| dir.path().join(format!("{name}-{architecture:?}-{part}"));
        let from = folder(&path("from"), &config, &golden.parameters(), words);
        import(&from, &path("model"), None).unwrap();
        let model = open(&path("model"));
        assert_eq!(export(&model, &path("export"), format).unwrap(), architecture);
        import(&path("export"), &path("again"), None).unwrap();
        let again = open(&path("again"));
        assert_eq!(again.config, model.config);
        assert_eq!(again.tokenizer.bytes(), model.tokenizer.bytes());
        let (before, after) = (model.tensors().unwrap(), again.tensors().unwrap());
        assert_eq!(before.len(), after.len());
        for (name, tensor) in &before {
            let found = after.iter().find(|(have, _)| have == name).unwrap();
            assert!(found.1.equal(tensor), "{name}");
        }
        let card = fs::read_to_string(path("export").join("README.md")).unwrap();
        assert!(card.starts_with("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n"), "{card}");
        assert!(!card.contains(&dir.path().display().to_string()), "a card names no folder of this machine");
        assert_eq!(
            path("export").join("modeling_mosaic_bert.py").exists(),
            architecture == Architecture::MosaicBert
        );
    }
    let bert = open(&dir.path().join("hf-bert.safetensors-Bert-model"));
    let message = export(&bert, &dir.path().join("no"), Format::JinaBert).unwrap_err().to_string();
    assert!(message.contains("cannot be exported as jina-bert: JinaBERT has ALiBi and GeGLU"), "{message}");
}

#[test]
fn what_cannot_be_imported_is_named_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Golden::read("hf-bert.safetensors");
    let out = dir.path().join("model");
    let try_import = |config: Value, tensors: &[(String, Tensor)], words: usize, expected: &str| {
        let from = folder(&dir.path().join("from"), &config, tensors, words);
        let message = import(&from, &out, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected:?} is not in {message}");
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["from"], "{expected}");
    };
    let (plain, config) = (golden.parameters(), golden.config(&[]));
    let set = |key: &'static str, value: Value| golden.config(&[(key, value)]);
    try_import(
        set("model_type", json!("roberta")),
        &plain,
        384,
        "model_type is \"roberta\", expected \"bert\"",
    );
    try_import(
        set("hidden_act", json!("gelu_new")),
        &plain,
        384,
        "hidden_act is \"gelu_new\", expected \"gelu\"",
    );
    try_import(set("position_embedding_type", json!("relative_key")), &plain, 384, "position_embedding_type");
    try_import(
        set("hidden_size", json!("wide")),
        &plain,
        384,
        "hidden_size is \"wide\", expected a whole number",
    );
    try_import(set("vocab_size", json!(512)), &plain, 384, "has 384 rows, vocab_size in config.json is 512");
    try_import(config.clone(), &plain, 400, "has 384 rows, its tokenizer 400 tokens");
    let less = |part: &str| -> Vec<(String, Tensor)> {
        plain
            .iter()
            .filter(|(name, _)| !name.contains(part))
            .map(|(n, t)| (n.clone(), t.shallow_clone()))
            .collect()
    };
    try_import(
        config.clone(),
        &less("layer.1.output.dense.bias"),
        384,
        "layer.1.output.dense.bias expected and not found",
    );
    try_import(config.clone(), &less("word_embeddings"), 384, "it is no BERT");
    try_import(set("intermediate_size", json!(161)), &plain, 384, "has shape [160, 64], expected [161, 64]");
    let with = |name: &str, tensor: Tensor| {
        let mut tensors = less("nothing");
        tensors.push((name.to_owned(), tensor));
        tensors
    };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    try_import(
        config.clone(),
        &with("cls.predictions.decoder.weight", zeros(&[384, 64])),
        384,
        "only models that tie",
    );
    try_import(
        config.clone(),
        &with("bert.encoder.layer.0.lora_A", zeros(&[4, 64])),
        384,
        "bert.encoder.layer.0.lora_A",
    );

    let from = dir.path().join("from");
    fs::rename(from.join("model.safetensors"), from.join("pytorch_model.bin")).unwrap();
    let message = import(&from, &out, None).unwrap_err().to_string();
    assert!(message.contains("a Python pickle") && message.contains("weights_only=True"), "{message}");
    let message = ModelFolder::open(&from, |_| ()).err().unwrap().to_string();
    assert!(message.contains("make a model of it first: train import --from"), "{message}");
    let message = ModelFolder::open(dir.path(), |_| ()).err().unwrap().to_string();
    assert!(message.contains("holds no model: it has no checkpoints"), "{message}");
}

/// A run that has learnt that each word is followed by its successor.
fn trained() -> Bench {
    let bench = Bench::new();
    succeed(bench.start(
        "run",
        1000,
        &["optimizer.lr=1e-2", "checkpoint.every_steps=0", "eval.every_steps=0"],
    ));
    bench
}

#[test]
fn a_trained_run_fills_in_embeds_exports_and_is_trained_on() {
    let bench = trained();
    fills_in(&bench);
    embeds(&bench);
    is_trained_on(&bench);
    let said = succeed(bench.command(&["export", "--from", "run", "--out", "hf"]));
    assert!(String::from_utf8_lossy(&said.stdout).contains("trust_remote_code=True"));
    let card = fs::read_to_string(bench.path("hf/README.md")).unwrap();
    assert!(card.contains("| held-out loss |") && card.contains("| corpus | 600 documents"), "{card}");
    let message = fail(bench.command(&["export", "--from", "run", "--out", "hf"]));
    assert!(message.contains("hf is there already"), "{message}");
}

fn fills_in(bench: &Bench) {
    let sentences = ["w20 w21 [MASK] w23 w24", "w70 [MASK] w72 w73 [MASK] w75"];
    let output = succeed(bench.command(&["fill", sentences[0], sentences[1], "--from", "run", "--json"]));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let masks: Vec<usize> = lines.iter().map(|line| line["masks"].as_array().unwrap().len()).collect();
    assert_eq!(masks, [1, 2]);
    for (line, mask, word) in [(0, 0, "w22"), (1, 0, "w71"), (1, 1, "w74")] {
        let candidates = lines[line]["masks"][mask]["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 5);
        let shares: Vec<f64> = candidates.iter().map(|c| c["probability"].as_f64().unwrap()).collect();
        assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]) && shares.iter().sum::<f64>() <= 1.0 + 1e-6);
        assert!(candidates.iter().any(|c| c["token"] == word), "{word} is not in {candidates:?}");
    }
    let output = succeed(bench.command(&["fill", sentences[0], "--from", "run", "--top", "2"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.starts_with("w20 w21 w"), "{text}");
    let message = fail(bench.command(&["fill", "w20 w21", "--from", "run"]));
    assert!(message.contains("\"w20 w21\" has no [MASK]"), "{message}");
}

/// The numbers of an array of float32 that is whole.
fn npy(path: &Path, width: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let numbers: Vec<f32> =
        bytes[128..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    numbers.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

fn embeds(bench: &Bench) {
    let texts: Vec<String> = (0..40)
        .map(|i| {
            (0..=(i * 7 % 19)).map(|j| format!("w{}", 5 + (i * 3 + j) % 120)).collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mut file = fs::File::create(bench.path("texts.jsonl")).unwrap();
    texts.iter().for_each(|text| writeln!(file, "{}", json!({ "body": text })).unwrap());
    let embed = |out: &str, more: &[&str]| {
        let mut command =
            bench.command(&["embed", "texts.jsonl", "--text", "body", "--from", "run", "--out", out]);
        command.args(more);
        command
    };
    let said = errors(&succeed(embed("all.npy", &["--batch-tokens", "64"])));
    assert!(said.contains("40 texts, 32 numbers each"), "{said}");
    let all = npy(&bench.path("all.npy"), 32);
    assert_eq!(all.len(), 40);

    // The mean of the hidden states of each text by itself, in the order of the file.
    let folder = open(&bench.path("run"));
    let model = folder.encoder(Device::Cpu, Kind::Float).unwrap();
    for (text, found) in texts.iter().zip(&all) {
        let mut ids = vec![2];
        ids.extend(text.split(' ').map(|word| word[1..].parse::<i32>().unwrap()));
        ids.push(3);
        let batch =
            TokenBatch::from_host::<i32>(&ids, &[0, ids.len() as i32], &[], &[], Device::Cpu).unwrap();
        let mean = no_grad(|| model.hidden(&batch).unwrap().mean_dim([0i64].as_slice(), false, Kind::Float)); // [D]
        let off = difference(&Tensor::from_slice(found), &mean);
        assert!(off < 1e-5, "{text}: off by {off}");
    }

    succeed(embed("unit.npy", &["--normalize"]));
    for (unit, plain) in npy(&bench.path("unit.npy"), 32).iter().zip(&all) {
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm(unit) - 1.0).abs() < 1e-5);
        assert!(unit.iter().zip(plain).all(|(u, p)| (u * norm(plain) - p).abs() < 1e-5));
    }
    succeed(embed("cut.npy", &["--max-tokens", "3"]));
    assert_ne!(npy(&bench.path("cut.npy"), 32), all);

    succeed(embed("all.parquet", &[]));
    let rows = parquet_rows(&bench.path("all.parquet"));
    assert_eq!(rows.len(), 40);
    for ((row, tokens, embedding), (number, expected)) in rows.iter().zip(all.iter().enumerate()) {
        assert_eq!((*row, *tokens), (number as u64, texts[number].split(' ').count() as u32 + 2));
        assert!(embedding.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    writeln!(file, "{{\"body\": 3}}").unwrap();
    let message = fail(embed("bad.npy", &[]));
    assert!(message.contains("row 41, is no text"), "{message}");
    assert!(!bench.path("bad.npy").exists());
    let message = fail(embed("all.npy", &[]));
    assert!(message.contains("all.npy is there already"), "{message}");
    let message = fail(embed("all.csv", &[]));
    assert!(message.contains("give it .parquet or .npy"), "{message}");
}

/// Row, tokens and embedding of each row of a table.
fn parquet_rows(path: &Path) -> Vec<(u64, u32, Vec<f32>)> {
    use arrow::array::{Array, FixedSizeListArray, Float32Array, UInt32Array, UInt64Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let numbers = column("row").as_any().downcast_ref::<UInt64Array>().unwrap();
        let tokens = column("tokens").as_any().downcast_ref::<UInt32Array>().unwrap();
        let vectors = column("embedding").as_any().downcast_ref::<FixedSizeListArray>().unwrap();
        for i in 0..batch.num_rows() {
            let vector = vectors.value(i);
            let vector = vector.as_any().downcast_ref::<Float32Array>().unwrap().values().to_vec();
            rows.push((numbers.value(i), tokens.value(i), vector));
        }
    }
    rows
}

/// A run that begins from another's weights and hardly moves has the other's loss.
fn is_trained_on(bench: &Bench) {
    let last_eval = |run: &str| {
        let text = fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
        let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.rfind(|record| record["kind"] == "eval").unwrap()["loss"].as_f64().unwrap()
    };
    let mut command =
        bench.command(&["--shards", "shards", "--out", "on", "--preset", "tiny", "--init-from", "run"]);
    command.args(["--device", "cpu", "--set", "train.steps=1", "--set", "optimizer.lr=1e-9"]);
    command.args(["--set", "train.seq_len=24", "--set", "train.threads=1", "--set", "eval.max_samples=0"]);
    succeed(command);
    let (before, after) = (last_eval("run"), last_eval("on"));
    assert!((before - after).abs() < 1e-3, "held-out loss {before}, then {after}");
    let provenance: Value =
        serde_json::from_str(&fs::read_to_string(bench.path("on/provenance.json")).unwrap()).unwrap();
    assert_eq!(provenance["init_from"]["step"], 1000);
    assert!(provenance["init_from"]["path"].as_str().unwrap().ends_with("step-001000"));
    let config = fs::read_to_string(bench.path("on/config.toml")).unwrap();
    assert!(config.contains("hidden_size = 32"), "the architecture is the other's: {config}");

    // Resuming needs the other run no more.
    fs::rename(bench.path("run"), bench.path("elsewhere")).unwrap();
    succeed(bench.command(&["--resume", "on"]));
    fs::rename(bench.path("elsewhere"), bench.path("run")).unwrap();

    // The same ids mean other words under another vocabulary.
    crate::corpus::write(
        &bench.path("others"),
        40,
        &crate::hugging_face::tokenizer_json(128).replace("w77", "x77"),
    );
    let message = fail(bench.command(&[
        "--shards",
        "others",
        "--out",
        "no",
        "--preset",
        "tiny",
        "--device",
        "cpu",
        "--init-from",
        "run",
    ]));
    assert!(message.contains("has another vocabulary than the shards"), "{message}");
    assert!(!bench.path("no").exists());
}
