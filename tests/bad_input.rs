//! Every broken input gives one clear sentence: the file, what was found, what was expected and what to do.

use std::fs;
use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use tests::{Corpus, fail, program, succeed};

/// Fails with all the given pieces in the message.
macro_rules! assert_says {
    ($said:expr, $($piece:expr),+ $(,)?) => {{
        let said = $said;
        for piece in [$($piece),+] {
            assert!(said.contains(piece), "expected {piece:?} in:\n{said}");
        }
    }};
}

fn gzip(path: &std::path::Path, bytes: &[u8]) {
    let mut file = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
    file.write_all(bytes).unwrap();
    file.finish().unwrap();
}

#[test]
fn a_broken_line_names_file_and_line_and_can_be_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.json.gz");
    gzip(&path, b"{\"text\":\"one good line\"}\n{\"text\": oops}\n{\"body\":\"no text field\"}\n{\"text\":\"another\"}\n");
    let out = folder.path().join("shards");
    let said = fail(program("ingest").arg("c4").arg(&path).arg("--out").arg(&out));
    assert_says!(said, "broken.json.gz", "line 2", "--skip-bad-lines");

    let out = folder.path().join("skipped");
    succeed(program("ingest").arg("c4").arg(&path).arg("--out").arg(&out).args(["--skip-bad-lines", "2"]));
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["ingest"]["inputs"][0]["bad_lines"].as_array().unwrap().len(), 2);
    assert_eq!(manifest["documents"], 2);
}

#[test]
fn a_cut_gzip_file_is_refused() {
    let corpus = Corpus::sentences(1, 200);
    let whole = fs::read_dir(corpus.path()).unwrap().next().unwrap().unwrap().path();
    let cut = corpus.path().join("cut.json.gz");
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let said = fail(program("ingest").arg("c4").arg(&cut).arg("--out").arg(corpus.path().join("shards")));
    assert_says!(said, "cut.json.gz");
}

#[test]
fn shards_of_another_format_version_are_refused() {
    let corpus = Corpus::sentences(1, 30);
    let shards = corpus.ingest("shards", &[]);
    let path = shards.join("manifest.json");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(&path, manifest.replacen("\"format_version\": 1", "\"format_version\": 7", 1)).unwrap();
    let run = corpus.path().join("run");
    let said =
        fail(program("train").arg("--shards").arg(&shards).arg("--out").arg(&run).args(["--preset", "tiny"]));
    assert_says!(said, "manifest.json", "7", "1");
}

#[test]
fn a_flipped_byte_is_found_by_verify_with_its_place() {
    let corpus = Corpus::sentences(1, 200);
    let shards = corpus.ingest("shards", &[]);
    let tokens = shards.join("shard-00000-0000.tokens");
    let mut bytes = fs::read(&tokens).unwrap();
    bytes[1000] ^= 4;
    fs::write(&tokens, bytes).unwrap();
    let output = program("ingest").arg("verify").arg(&shards).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_says!(tests::text(&output), "shard-00000-0000.tokens", "offset");
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_ones() {
    let corpus = Corpus::sentences(1, 30);
    let shards = corpus.ingest("shards", &[]);
    let said = fail(
        program("train").arg("--shards").arg(&shards).arg("--out").arg(corpus.path().join("run")).args([
            "--preset",
            "tiny",
            "--set",
            "train.stepz=3",
        ]),
    );
    assert_says!(said, "train.stepz", "train.steps");
}

#[test]
fn a_folder_without_shards_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let said =
        fail(program("train").arg("--shards").arg(folder.path()).arg("--out").arg(folder.path().join("run")));
    assert_says!(said, "manifest.json", "ingest");
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let corpus = Corpus::sentences(1, 60);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    let run = corpus.path().join("run");
    let tiny =
        ["--preset", "tiny", "--device", "cpu", "--set", "train.steps=2", "--set", "train.batch_size=4"];
    succeed(program("train").arg("--shards").arg(&shards).arg("--out").arg(&run).args(tiny));
    // Another width in the checkpoint's own configuration: its weights no longer fit.
    let checkpoint = fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    fs::write(checkpoint.join("model.safetensors"), b"not weights").unwrap();
    let said = fail(program("train").arg("eval").arg("--from").arg(&checkpoint).arg("--shards").arg(&shards));
    assert_says!(said, "model.safetensors");
}
