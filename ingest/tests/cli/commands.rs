//! What the commands print, and where they refuse.

use std::fs;

use proptest::prelude::*;
use serde_json::Value;

use crate::fixtures::{Corpus, content, fail, manifest, program, succeed};

#[test]
fn a_finished_folder_is_recognised_and_left_alone() {
    let corpus = Corpus::of(2, 20);
    let said = succeed(&mut corpus.ingest("out", &[]));
    for piece in ["documents", "40", "held out", "tokens/s", "skipped lines", "is finished"] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    let before = content(&corpus.path("out"));
    let said = succeed(&mut corpus.ingest("out", &["--workers", "1", "--skip-bad-lines", "5"]));
    assert!(said.contains("is finished already, from the same inputs and options"), "{said}");
    assert!(before == content(&corpus.path("out")));
}

#[test]
fn a_folder_from_something_else_is_refused_with_what_differs() {
    let corpus = Corpus::of(2, 20);
    let out = corpus.shards("out", &[]);
    let before = content(&out);
    let said = fail(&mut corpus.ingest("out", &["--held-out", "0.25"]));
    assert!(said.contains("was made from something else: --held-out is 0.25 now, 0.005 then"), "{said}");
    let said = fail(&mut corpus.ingest("out", &["--shard-tokens", "5"]));
    assert!(said.contains("--shard-tokens is 5 now, 67108864 then"), "{said}");
    let other = corpus.write(
        "tokenizer.json",
        include_str!("../../assets/bert-base-uncased/tokenizer.json")
            .replace("\"lowercase\": true", "\"lowercase\": false"),
    );
    let said = fail(corpus.ingest("out", &["--tokenizer"]).arg(other));
    assert!(said.contains("the BLAKE3 of the tokenizer is "), "{said}");
    corpus.pack("c4.00002.json.gz", "{\"text\":\"more\"}\n");
    let said = fail(&mut corpus.ingest("out", &[]));
    assert!(said.contains("the input c4.00002.json.gz is there now and was not then"), "{said}");
    assert!(before == content(&out), "a refusal changes nothing");
}

#[test]
fn an_unfinished_folder_of_something_else_is_refused_too() {
    let corpus = Corpus::of(1, 20);
    corpus.pack("c4.00001.json.gz", "broken\n");
    fail(&mut corpus.ingest("out", &[]));
    let said = fail(&mut corpus.ingest("out", &["--held-out", "0.25", "--skip-bad-lines", "1"]));
    assert!(said.contains("was begun from something else: --held-out is 0.25 now"), "{said}");
    let said = fail(program(&["inspect"]).arg(corpus.path("out")));
    assert!(said.contains("has no manifest.json, so it is not a finished shard folder"), "{said}");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let corpus = Corpus::of(1, 2);
    let said = fail(&mut corpus.ingest("out", &["--held-out", "1"]));
    assert!(said.contains("--held-out is 1, expected a share from 0 to below 1"), "{said}");
    let said = fail(&mut corpus.ingest("out", &["--shard-tokens", "0"]));
    assert!(said.contains("--shard-tokens is 0, expected at least 1"), "{said}");
    assert!(!corpus.path("out").exists());
}

#[test]
fn the_summary_is_written_for_scripts() {
    let corpus = Corpus::of(2, 20);
    let json = corpus.path("summary.json");
    succeed(corpus.ingest("out", &["--json"]).arg(&json));
    let summary: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let manifest = manifest(&corpus.path("out"));
    for key in ["documents", "held_out_documents", "tokens", "text_bytes"] {
        assert_eq!(summary[key], manifest[key], "{key}");
    }
    assert!(summary["tokens_per_s"].as_f64().unwrap() > 0.0 && summary["mb_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_manifest_tells_what_there_is() {
    let corpus = Corpus::of(2, 60);
    let out = corpus.shards("out", &["--shard-tokens", "2000", "--held-out", "0.2"]);
    let manifest = manifest(&out);
    assert_eq!(manifest["documents"], 120);
    assert_eq!(manifest["tokenizer"]["vocab_size"], 30522);
    assert_eq!(manifest["tokenizer"]["model_vocab_size"], 30528);
    assert_eq!(manifest["ingest"]["inputs"][1]["path"], "c4.00001.json.gz");
    assert_eq!(manifest["ingest"]["inputs"][1]["rows"], 60);
    // The parts of an input cover its rows without gap or overlap.
    let mut next = [0, 0];
    for shard in manifest["shards"].as_array().unwrap() {
        let input = shard["input"].as_u64().unwrap() as usize;
        assert_eq!(shard["first_row"], next[input]);
        next[input] += shard["rows"].as_u64().unwrap();
    }
    assert_eq!(next, [60, 60]);

    let shown = succeed(program(&["inspect"]).arg(&out));
    for piece in ["120", "shard-00000-0000.tokens", "c4.00001.json.gz", "30,528 for the model", "[MASK] 103"]
    {
        assert!(shown.contains(piece), "{piece} is not in:\n{shown}");
    }
    let json: Value = serde_json::from_str(&succeed(program(&["inspect", "--json"]).arg(&out))).unwrap();
    assert_eq!(json, manifest);
}

#[test]
fn every_document_is_found_with_its_origin() {
    let corpus = Corpus::of(2, 30);
    let out = corpus.shards("out", &["--shard-tokens", "1000", "--held-out", "0.2"]);
    let manifest = manifest(&out);
    let mut seen = Vec::new();
    for document in (0..60).step_by(7) {
        let shown = succeed(program(&["inspect", "--json", "--doc", &document.to_string()]).arg(&out));
        let found: Value = serde_json::from_str(&shown).unwrap();
        let (file, row) = (found["source"].as_str().unwrap(), found["row"].as_u64().unwrap());
        let book = &file[file.len() - 9..file.len() - 8];
        assert!(
            found["text"].as_str().unwrap().starts_with(&format!("page {row} of book {book}. the quick")),
            "{shown}"
        );
        assert_eq!(found["url"], format!("https://example.org/{book}/{row}"));
        let shard = manifest["shards"]
            .as_array()
            .unwrap()
            .iter()
            .find(|shard| shard["file"] == found["shard"])
            .unwrap();
        let training = shard["documents"].as_u64().unwrap() - shard["held_out"].as_u64().unwrap();
        assert_eq!(found["held_out"], found["document_in_shard"].as_u64().unwrap() >= training);
        seen.push((book.to_owned(), row));
    }
    seen.dedup();
    assert_eq!(seen.len(), 9);
    let said = fail(program(&["inspect", "--doc", "60"]).arg(&out));
    assert!(
        said.contains("there is no document 60: ") && said.contains("holds 60, counted from 0"),
        "{said}"
    );
}

#[test]
fn verify_accepts_what_was_written_and_names_what_is_missing() {
    let corpus = Corpus::of(1, 30);
    let out = corpus.shards("out", &[]);
    let said = succeed(program(&["verify"]).arg(&out));
    assert!(said.contains("all 4 files are as they were written"), "{said}");
    fs::remove_file(out.join("shard-00000-0000.docs.parquet")).unwrap();
    let said = fail(program(&["verify"]).arg(&out));
    assert!(said.contains("shard-00000-0000.docs.parquet: offset 0: cannot be read"), "{said}");
}

#[test]
fn verify_names_file_and_offset_on_the_command_line() {
    let corpus = Corpus::of(1, 30);
    let out = corpus.shards("out", &[]);
    let path = out.join("shard-00000-0000.tokens");
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let said = fail(program(&["verify"]).arg(&out));
    assert!(said.contains("shard-00000-0000.tokens: offset 128: found checksum"), "{said}");
    assert!(said.contains("1 of 4 files differ"), "{said}");
}

#[test]
fn verify_finds_any_flipped_bit_in_any_file() {
    let corpus = Corpus::of(1, 40);
    let out = corpus.shards("out", &["--shard-tokens", "3000", "--held-out", "0.2"]);
    let files: Vec<(String, Vec<u8>)> = content(&out).into_iter().collect();
    assert!(ingest::verify(&out, |_| ()).unwrap().is_empty());
    let flip = (0..files.len(), any::<prop::sample::Index>(), 0..8u32);
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) }, |((file, at, bit) in flip)| {
        let (name, bytes) = &files[file];
        let at = at.index(bytes.len());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        fs::write(out.join(name), flipped).unwrap();
        let verified = ingest::verify(&out, |_| ());
        fs::write(out.join(name), bytes).unwrap();
        // A shard's header of 128 bytes has one checksum, so any place in it is named for any other.
        let near = |damage: &ingest::Damage| damage.offset <= at as u64 || (damage.offset < 128 && at < 128);
        let named = match &verified {
            // The hash beside the manifest and the manifest differ from each other; which is right nobody knows.
            Ok(damages) => damages.iter().any(|damage| {
                near(damage) && (damage.file == *name || damage.what.contains(&**name))
            }),
            Err(error) => error.to_string().contains(&**name),
        };
        prop_assert!(named, "bit {bit} of byte {at} of {name}: {verified:?}");
    });
    assert!(ingest::verify(&out, |_| ()).unwrap().is_empty());
}

#[test]
fn help_says_what_each_option_does() {
    let help = succeed(&mut program(&["c4", "--help"]));
    for piece in
        ["--out <DIR>", "--tokenizer <FILE>", "bert-base-uncased", "--skip-bad-lines <N>", "[default: 0.005]"]
    {
        assert!(help.contains(piece), "{piece} is not in:\n{help}");
    }
}

#[test]
fn a_dry_run_tells_what_to_expect_and_writes_nothing() {
    let corpus = Corpus::of(4, 200);
    let json = corpus.path("estimate.json");
    let said = succeed(corpus.ingest("out", &["--dry-run", "--json"]).arg(&json));
    for piece in ["to read", "4 files", "tokens", "free", "of text a second"] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    assert!(!corpus.path("out").exists());
    // So small a corpus is sampled as a whole, so the counts are exact.
    let estimate: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let manifest = manifest(&corpus.shards("out", &[]));
    for key in ["documents", "tokens", "text_bytes"] {
        assert_eq!(estimate[key], manifest[key], "{key}");
    }
    let written: usize = content(&corpus.path("out")).values().map(Vec::len).sum();
    let expected = estimate["output_bytes"].as_f64().unwrap();
    assert!(
        (0.9..1.2).contains(&(expected / written as f64)),
        "{expected} bytes expected, {written} written"
    );
    // A share is estimated as such.
    succeed(corpus.ingest("other", &["--dry-run", "--task", "1/4", "--json"]).arg(&json));
    let share: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(share["files"], 1);
    assert!(share["tokens"].as_u64() < estimate["tokens"].as_u64());
}
