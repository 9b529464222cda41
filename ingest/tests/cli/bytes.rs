//! The same inputs and options give the same bytes: whatever the number of workers and wherever they lie.

use std::fs;

use crate::fixtures::{Corpus, assert_same_content, content, fail, manifest, program, succeed};

/// Small parts, so that one file gives several.
const SMALL_PARTS: [&str; 4] = ["--shard-tokens", "3000", "--held-out", "0.1"];

#[test]
fn the_number_of_workers_does_not_matter() {
    let corpus = Corpus::of(3, 120);
    let one = corpus.shards("one", &[&SMALL_PARTS[..], &["--workers", "1"]].concat());
    let two = corpus.shards("two", &[&SMALL_PARTS[..], &["--workers", "2"]].concat());
    let shards = manifest(&one)["shards"].as_array().unwrap().len();
    assert!(shards > 6, "only {shards} shards");
    assert_same_content(&one, &two);
}

#[test]
fn where_the_corpus_lies_does_not_matter() {
    let (here, there) = (Corpus::of(2, 20), Corpus::of(2, 20));
    assert_same_content(&here.shards("out", &[]), &there.shards("out", &[]));
}

#[test]
fn packed_in_one_member_in_many_or_not_at_all_is_the_same_text() {
    let corpus = Corpus::empty();
    let rows: Vec<String> = (0..40).map(|row| format!("{{\"text\":\"Page {row} of a book.\"}}\n")).collect();
    for (folder, pack) in [("one", 40), ("many", 3), ("plain", 0)] {
        fs::create_dir(corpus.path(folder)).unwrap();
        let name = format!("{folder}/a.json");
        if pack == 0 {
            corpus.write(&name, rows.concat());
            continue;
        }
        let members = rows
            .chunks(pack)
            .enumerate()
            .flat_map(|(i, rows)| fs::read(corpus.pack(&format!("{i}.part"), rows.concat())).unwrap());
        corpus.write(&name, members.collect::<Vec<u8>>());
    }
    let shards = ["one", "many", "plain"].map(|folder| {
        let out = corpus.path(&format!("{folder}-out"));
        succeed(program(&["c4"]).arg(corpus.path(folder)).arg("--out").arg(&out));
        content(&out).remove("shard-00000-0000.tokens").unwrap()
    });
    assert_eq!(shards[0], shards[1]);
    assert_eq!(shards[0], shards[2]);
}

#[test]
fn equal_documents_land_on_the_same_side() {
    let corpus = Corpus::empty();
    let rows =
        |from: u32| (from..from + 60).map(|row| format!("{{\"text\":\"page {row}\"}}\n")).collect::<String>();
    corpus.pack("a.json.gz", rows(0));
    corpus.pack("b.json.gz", rows(0));
    let manifest = manifest(&corpus.shards("out", &["--held-out", "0.3"]));
    let held_out: Vec<_> =
        manifest["shards"].as_array().unwrap().iter().map(|shard| &shard["held_out"]).collect();
    assert_eq!(held_out[0], held_out[1]);
    assert!((1..60).contains(&held_out[0].as_u64().unwrap()), "{held_out:?}");
}

#[test]
fn a_sealed_part_is_not_made_again() {
    let corpus = Corpus::of(1, 150);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    // The last line is broken, so that all parts but the last are sealed when it fails.
    let path = corpus.path("c4.00000.json.gz");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    let end = bad.len();
    bad[end - 8] ^= 1; // the checksum of the member
    fs::write(&path, &bad).unwrap();
    fail(&mut corpus.ingest("out", &SMALL_PARTS));
    let sealed = corpus.path("out/shard-00000-0000.tokens");
    let inode = fs::metadata(&sealed).unwrap().modified().unwrap();

    // Mended, it is another file, and nothing is mixed up.
    fs::write(&path, &good).unwrap();
    let said = fail(&mut corpus.ingest("out", &SMALL_PARTS));
    assert!(said.contains("the content of input c4.00000.json.gz"), "{said}");

    fs::write(&path, &bad).unwrap();
    fail(&mut corpus.ingest("out", &SMALL_PARTS));
    assert_eq!(fs::metadata(&sealed).unwrap().modified().unwrap(), inode);
    let (whole, out) = (content(&whole), content(&corpus.path("out")));
    assert_eq!(whole["shard-00000-0000.tokens"], out["shard-00000-0000.tokens"]);
    assert!(out.contains_key("unfinished/part-00000-0000.json"), "{:?}", out.keys());
    assert!(!out.contains_key("manifest.json"));
}

#[test]
fn a_part_that_lost_its_file_is_made_again() {
    let corpus = Corpus::of(2, 100);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    corpus.pack("c4.00001.json.gz", "{\"text\":\"a\"}\nnot json\n");
    fail(&mut corpus.ingest("out", &[&SMALL_PARTS[..], &["--workers", "1"]].concat()));
    fs::remove_file(corpus.path("out/shard-00000-0001.tokens")).unwrap();
    fs::write(corpus.path("out/shard-00000-0002.docs.parquet"), "cut").unwrap();
    succeed(&mut corpus.ingest("out", &[&SMALL_PARTS[..], &["--skip-bad-lines", "1"]].concat()));
    let (whole, out) = (content(&whole), content(&corpus.path("out")));
    for name in whole.keys().filter(|name| name.starts_with("shard-00000-")) {
        assert_eq!(whole[name], out[name], "{name}");
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let corpus = Corpus::of(1, 30);
    let whole = corpus.shards("whole", &[]);
    fs::create_dir_all(corpus.path("out/unfinished")).unwrap();
    corpus.write("out/unfinished/identity.json.tmp-x1", "{");
    succeed(&mut corpus.ingest("out", &[]));
    assert_same_content(&whole, &corpus.path("out"));
    corpus.write("out/shard-00007-0000.tokens.tmp-Ab3", "half");
    fs::create_dir_all(corpus.path("out/unfinished")).unwrap();
    corpus.write("out/unfinished/part-00000-0000.json", "{}");
    let said = succeed(&mut corpus.ingest("out", &[]));
    assert!(said.contains("is finished already"), "{said}");
    assert_same_content(&whole, &corpus.path("out"));
}
