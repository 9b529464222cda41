//! The same documents give the same tokens, whatever they lie in.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::fixtures::{Corpus, content, fail, manifest, program, succeed};

/// Names of one corpus in all formats.
pub(crate) const FORMATS: [&str; 6] =
    ["a.json.gz", "a.jsonl", "a.jsonl.zst", "a.parquet", "a.arrow", "a.arrows"];

/// 200 documents in all formats, each file in a folder of its own.
pub(crate) fn every_format() -> Corpus {
    let corpus = Corpus::of(1, 200);
    let text = lines(&corpus);
    for name in FORMATS {
        fs::create_dir_all(corpus.path(name)).unwrap();
    }
    let path = |name: &str| corpus.path(&format!("{name}/{name}"));
    fs::rename(corpus.path("c4.00000.json.gz"), path("a.json.gz")).unwrap();
    fs::write(path("a.jsonl"), &text).unwrap();
    // Two frames, as parallel packers write them.
    let (one, two) = text.as_bytes().split_at(text.len() / 3);
    let frames = [one, two].map(|part| zstd::encode_all(part, 3).unwrap());
    fs::write(path("a.jsonl.zst"), frames.concat()).unwrap();
    let batch = table(&text);
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(30))
        .set_compression(Compression::SNAPPY)
        .build();
    let mut parquet =
        ArrowWriter::try_new(File::create(path("a.parquet")).unwrap(), batch.schema(), Some(properties))
            .unwrap();
    parquet.write(&batch).unwrap();
    parquet.close().unwrap();
    let mut file = FileWriter::try_new(File::create(path("a.arrow")).unwrap(), &batch.schema()).unwrap();
    let mut stream = StreamWriter::try_new(File::create(path("a.arrows")).unwrap(), &batch.schema()).unwrap();
    for start in (0..batch.num_rows()).step_by(64) {
        let part = batch.slice(start, 64.min(batch.num_rows() - start));
        file.write(&part).unwrap();
        stream.write(&part).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    corpus
}

fn lines(corpus: &Corpus) -> String {
    let mut text = String::new();
    let file = File::open(corpus.path("c4.00000.json.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    text
}

fn table(lines: &str) -> RecordBatch {
    let rows: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[name].as_str().unwrap())))
    };
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.len() as i64));
    RecordBatch::try_from_iter([
        ("number", number),
        ("url", column("url")),
        ("text", column("text")),
        ("timestamp", column("timestamp")),
    ])
    .unwrap()
}

const OPTIONS: [&str; 4] = ["--shard-tokens", "2500", "--held-out", "0.1"];

fn shards(corpus: &Corpus, name: &str, options: &[&str]) -> PathBuf {
    let out = corpus.path(&format!("{name}-out"));
    succeed(program(&["c4"]).arg(corpus.path(name)).arg("--out").arg(&out).args(OPTIONS).args(options));
    out
}

#[test]
fn six_formats_of_one_corpus_give_the_same_tokens() {
    let corpus = every_format();
    let tokens = FORMATS.map(|name| {
        let out = shards(&corpus, name, &[]);
        succeed(program(&["verify"]).arg(&out));
        let document = succeed(program(&["inspect", "--doc", "7", "--json"]).arg(&out)).replace(name, "NAME");
        let mut files = content(&out);
        files.retain(|name, _| name.ends_with(".tokens"));
        (files, document)
    });
    assert!(tokens[0].0.len() > 4, "{:?}", tokens[0].0.keys());
    for (name, found) in FORMATS.iter().zip(&tokens) {
        assert!(*found == tokens[0], "{name} differs");
    }
}

#[test]
fn content_decides_not_the_name() {
    let corpus = every_format();
    fs::create_dir(corpus.path("wrong")).unwrap();
    for (i, name) in FORMATS.iter().enumerate() {
        fs::copy(corpus.path(&format!("{name}/{name}")), corpus.path(&format!("wrong/{i}.json"))).unwrap();
    }
    let manifest = manifest(&shards(&corpus, "wrong", &[]));
    for input in manifest["ingest"]["inputs"].as_array().unwrap() {
        assert_eq!(input["documents"], 200, "{input}");
    }
}

#[test]
fn standard_input_is_read_once() {
    let corpus = every_format();
    let piped = |name: &str, out: &str| {
        let mut command = program(&["c4", "-", "--out"]);
        command.arg(corpus.path(out)).args(OPTIONS);
        command.stdin(Stdio::from(File::open(corpus.path(&format!("{name}/{name}"))).unwrap()));
        command
    };
    let expected = content(&shards(&corpus, "a.jsonl", &[]));
    for name in ["a.json.gz", "a.jsonl", "a.jsonl.zst", "a.arrow", "a.arrows"] {
        succeed(&mut piped(name, &format!("{name}-piped")));
        let found = content(&corpus.path(&format!("{name}-piped")));
        for (name, bytes) in expected.iter().filter(|(name, _)| name.ends_with(".tokens")) {
            assert!(found[name] == *bytes, "{name}");
        }
    }
    let said = fail(&mut piped("a.parquet", "parquet-piped"));
    assert!(said.contains("save it as a file"), "{said}");
    let said = fail(&mut piped("a.jsonl", "a.jsonl-piped"));
    assert!(said.contains("was begun from standard input, which cannot be read again"), "{said}");
    let said = fail(program(&["c4", "-", "--out", "unused"]).arg(corpus.path("a.jsonl")));
    assert!(said.contains("`-` stands for standard input and must be the only input"), "{said}");
}

#[test]
fn an_interrupted_ingest_continues_within_a_table() {
    let corpus = every_format();
    for name in ["a.parquet", "a.arrow", "a.jsonl.zst"] {
        let whole = shards(&corpus, name, &[]);
        // An input behind it is broken, so that it ends with all parts sealed; then one of them is lost.
        let out = corpus.path(&format!("{name}-again"));
        let mut ingest = program(&["c4"]);
        ingest.arg(corpus.path(name)).arg("--out").arg(&out).args(OPTIONS).args(["--workers", "1"]);
        let last = corpus.path(&format!("{name}/z.json"));
        fs::write(&last, "broken\n").unwrap();
        fail(&mut ingest);
        fs::remove_file(out.join("shard-00000-0003.tokens")).unwrap();
        let said = succeed(ingest.args(["--skip-bad-lines", "1"]));
        assert!(said.contains("from earlier runs"), "{said}");
        let (whole, found) = (content(&whole), content(&out));
        for name in whole.keys().filter(|name| name.ends_with(".tokens")) {
            assert!(found[name] == whole[name], "{name}");
        }
    }
}

#[test]
fn a_cut_file_of_any_format_is_an_error() {
    let corpus = every_format();
    for name in FORMATS {
        let path = corpus.path(&format!("{name}/{name}"));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let out = corpus.path("cut-out");
        let said = fail(program(&["c4"]).arg(&path).arg("--out").arg(&out));
        assert!(said.contains(name), "{said}");
        assert!(!out.join("manifest.json").exists());
        let _ = fs::remove_dir_all(out);
    }
}
