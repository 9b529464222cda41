//! What filters leave out, and that it is the same however the work is cut.

use std::fs;

use serde_json::{Value, json};

use crate::fixtures::{Corpus, assert_same_content, fail, manifest, succeed};

/// Three files in which texts return, whole or nearly, in the same file and in others.
fn repeating() -> Corpus {
    let corpus = Corpus::empty();
    let page = |number: usize| {
        let words = (0..80).map(|word| format!("word{}", (number * 1009 + word * word * 31) % 5003));
        words.collect::<Vec<_>>().join(" ")
    };
    for file in 0..3 {
        let mut rows = Vec::new();
        for row in 0..100 {
            rows.push(match row % 10 {
                // Of the file before, or its own: the same but for case and white space.
                3 => page(file * 100 + row - 1).to_uppercase().replace(' ', "\n "),
                4 => page((file * 100 + row + 1).saturating_sub(100)),
                // One word of 80 is another.
                6 => page(file * 100 + row - 1).replacen("word", "another", 1),
                _ => page(file * 100 + row),
            });
        }
        let lines = rows.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect::<String>();
        corpus.pack(&format!("{file}.json.gz"), lines);
    }
    corpus
}

fn filtered(manifest: &Value, reason: &str) -> u64 {
    let inputs = manifest["ingest"]["inputs"].as_array().unwrap();
    inputs.iter().map(|input| input["filtered"][reason].as_u64().unwrap_or(0)).sum()
}

#[test]
fn duplicates_are_left_out_but_the_first() {
    let corpus = repeating();
    let all = manifest(&corpus.shards("all", &[]));
    assert_eq!(all["documents"], 300);
    assert!(all["ingest"]["inputs"][0].get("filtered").is_none());
    // 30 in other letters, 20 of the file before, and 10 times the first document in the first file.
    let exact = manifest(&corpus.shards("exact", &["--dedup", "exact"]));
    assert_eq!((&exact["documents"], filtered(&exact, "duplicate")), (&json!(240), 60));
    assert_eq!(exact["ingest"]["inputs"][0]["filtered"]["duplicate"], 20);
    // And those with another word, in all but unlucky cases.
    let near = manifest(&corpus.shards("near", &["--dedup", "near"]));
    let left_out = filtered(&near, "near duplicate");
    assert!((80..=90).contains(&left_out), "{left_out}");
    assert_eq!(near["documents"].as_u64(), Some(300 - left_out));
}

#[test]
fn the_result_does_not_depend_on_workers_or_interruptions() {
    let corpus = repeating();
    for kind in ["exact", "near"] {
        let options = ["--dedup", kind, "--shard-tokens", "4000", "--held-out", "0.1"];
        let one = corpus.shards(&format!("{kind}-one"), &[&options[..], &["--workers", "1"]].concat());
        let three = corpus.shards(&format!("{kind}-three"), &[&options[..], &["--workers", "3"]].concat());
        assert_same_content(&one, &three);
    }
    // The last input cannot be read to its end: neither pass gets beyond it, until it is mended.
    let path = corpus.path("2.json.gz");
    let good = fs::read(&path).unwrap();
    let options =
        ["--dedup", "exact", "--shard-tokens", "4000", "--held-out", "0.1", "--skip-bad-lines", "1"];
    corpus.pack("2.json.gz", "not json\n");
    fail(&mut corpus.ingest("again", &options[..6]));
    assert!(corpus.path("again/unfinished/duplicates/done").exists());
    assert!(corpus.path("again/unfinished/duplicates/rows-00000").exists());
    let said = succeed(&mut corpus.ingest("again", &options));
    assert!(said.contains("from earlier runs"), "{said}");
    fs::write(&path, good).unwrap();
    let (one, again) = (corpus.path("exact-one"), corpus.path("again"));
    for name in ["shard-00000-0000.tokens", "shard-00001-0000.tokens"] {
        assert!(fs::read(one.join(name)).unwrap() == fs::read(again.join(name)).unwrap(), "{name}");
    }
    assert!(!again.join("unfinished").exists());
}

#[test]
fn short_and_foreign_documents_are_counted_by_reason() {
    let corpus = Corpus::empty();
    let english = "The children were playing in the garden, and nobody thought of going home before dark. Their \
                   grandmother watched them through the kitchen window and thought of the summers of long ago.";
    let german =
        "Die Kinder spielten im Garten, und niemand dachte daran, vor der Dunkelheit nach Hause zu gehen.";
    let rows = [english, german, "Short.", english, "a a a a a a a a a a a a a a a a a a"];
    let lines = rows.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect::<String>();
    corpus.pack("a.json.gz", lines);
    let options = ["--min-chars", "10", "--min-tokens", "5", "--language", "en", "--dedup", "exact"];
    let said = succeed(&mut corpus.ingest("out", &options));
    for reason in ["too few characters", "another language", "duplicate"] {
        assert!(said.contains(reason), "{reason} is not in:\n{said}");
    }
    let manifest = manifest(&corpus.path("out"));
    assert_eq!(manifest["documents"], 1);
    assert_eq!(
        manifest["ingest"]["inputs"][0]["filtered"],
        json!({ "another language": 2, "duplicate": 1, "too few characters": 1 })
    );
    let said = fail(&mut corpus.ingest("out", &["--min-chars", "11"]));
    assert!(said.contains("what filters leave out is") && said.contains("\"min_chars\":11"), "{said}");
    let said = fail(&mut corpus.ingest("other", &["--language", "klingon"]));
    assert!(said.contains("the language \"klingon\" is not known"), "{said}");
}
