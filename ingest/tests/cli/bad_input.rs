//! Every broken input gives one clear sentence: the file, the place, what was found, what was expected, what to do.

use std::fs;

use crate::fixtures::{Corpus, assert_same_content, content, fail, manifest, program, succeed};

/// Ingests one file and returns what is said of it, the path of its folder shortened to DIR.
fn said_of(corpus: &Corpus, name: &str, options: &[&str]) -> String {
    let out = corpus.path("out");
    let said = fail(program(&["c4"]).arg(corpus.path(name)).arg("--out").arg(out).args(options));
    let line = said
        .lines()
        .find(|line| line.starts_with("ingest: "))
        .unwrap_or_else(|| panic!("no error in:\n{said}"));
    line.replace(&*corpus.path("").to_string_lossy(), "DIR/")
}

#[test]
fn a_cut_gzip_file() {
    let corpus = Corpus::of(1, 300);
    let whole = fs::read(corpus.path("c4.00000.json.gz")).unwrap();
    let cut = whole.len() / 2;
    corpus.write("cut.json.gz", &whole[..cut]);
    let said = said_of(&corpus, "cut.json.gz", &[]);
    assert!(
        said.contains(&format!(
            "DIR/cut.json.gz is damaged: it cannot be unpacked past byte {cut} of the file"
        )),
        "{said}"
    );
    assert!(said.contains("fetch the file again"), "{said}");
}

#[test]
fn a_gzip_file_with_a_flipped_byte() {
    let corpus = Corpus::of(1, 300);
    let mut bytes = fs::read(corpus.path("c4.00000.json.gz")).unwrap();
    let end = bytes.len();
    bytes[end - 6] ^= 0x10; // the checksum of the text
    corpus.write("flipped.json.gz", &bytes);
    let said = said_of(&corpus, "flipped.json.gz", &[]);
    assert!(said.contains("DIR/flipped.json.gz is damaged: it cannot be unpacked past byte"), "{said}");
    assert!(said.contains("checksum"), "{said}");
}

#[test]
fn a_line_that_is_not_json() {
    let corpus = Corpus::empty();
    corpus.pack("a.json.gz", "{\"text\":\"good\"}\n\n{\"text\": oops}\n");
    assert_eq!(
        said_of(&corpus, "a.json.gz", &[]),
        "ingest: DIR/a.json.gz line 3, column 10: not JSON as expected: expected value; expected one JSON object a line \
         with a string in its text field. Mend the line, or leave such lines out with --skip-bad-lines N (0 allowed now, \
         all are listed in the manifest)"
    );
}

#[test]
fn a_row_without_text() {
    let corpus = Corpus::empty();
    corpus.write("a.jsonl", "{\"body\":\"b\",\"url\":\"u\"}\n");
    let said = said_of(&corpus, "a.jsonl", &[]);
    let expected = "DIR/a.jsonl line 1, no field \"text\" (fields: body, url; --text-field names another)";
    assert!(said.contains(expected), "{said}");
    succeed(
        program(&["c4", "--text-field", "body"])
            .arg(corpus.path("a.jsonl"))
            .arg("--out")
            .arg(corpus.path("body")),
    );
}

#[test]
fn invalid_utf8() {
    let corpus = Corpus::empty();
    corpus.pack("a.json.gz", b"{\"text\":\"ab\xff\"}\n");
    let said = said_of(&corpus, "a.json.gz", &[]);
    assert!(said.contains("DIR/a.json.gz line 1, column 12: byte 0xff is not valid UTF-8"), "{said}");
}

#[test]
fn files_without_content() {
    let corpus = Corpus::empty();
    corpus.write("a.json.gz", "");
    assert!(said_of(&corpus, "a.json.gz", &[]).contains("DIR/a.json.gz holds no rows: the file has 0 bytes"));
    corpus.pack("b.json.gz", "");
    let out = corpus.path("out-b");
    let said = fail(program(&["c4"]).arg(corpus.path("b.json.gz")).arg("--out").arg(out));
    assert!(said.contains("b.json.gz holds no rows: it unpacks to nothing"), "{said}");
}

#[test]
fn files_of_another_format() {
    let corpus = Corpus::empty();
    corpus.write("a.orc", "ORC.....");
    let said = said_of(&corpus, "a.orc", &[]);
    assert!(said.contains("DIR/a.orc starts with the bytes of an ORC file; expected JSON lines"), "{said}");
    fs::remove_dir_all(corpus.path("out")).unwrap();
    corpus.write("a.parquet", "PAR1....");
    let said = said_of(&corpus, "a.parquet", &[]);
    assert!(said.contains("DIR/a.parquet cannot be read at row 0; fetch the file again"), "{said}");
    let said = fail(program(&["c4", "--out", "unused"]).arg(corpus.path("no/*.json.gz")));
    assert!(said.contains("no file matches") && said.contains("no/*.json.gz"), "{said}");
}

#[test]
fn a_tokenizer_without_mask() {
    let corpus = Corpus::of(1, 3);
    let bundled = include_str!("../../assets/bert-base-uncased/tokenizer.json");
    let tokenizer = corpus.write("tokenizer.json", bundled.replace("[MASK]", "[GAP]"));
    let said = fail(corpus.ingest("out", &["--tokenizer"]).arg(&tokenizer));
    assert!(said.contains("tokenizer.json has no [MASK]; a masked language model needs"), "{said}");
    assert!(!corpus.path("out").exists());
    corpus.write("tokenizer.json", "{}");
    let said = fail(corpus.ingest("out", &["--tokenizer"]).arg(&tokenizer));
    assert!(said.contains("tokenizer.json is not a tokenizer that can be used"), "{said}");
}

#[test]
fn bad_lines_are_skipped_up_to_a_number_counted_and_listed() {
    let corpus = Corpus::empty();
    corpus.pack("a.json.gz", "{\"text\":\"one\"}\nx\n{\"text\":\"two\"}\n");
    corpus.pack("b.json.gz", "{\"text\":\" \"}\n{\"text\":7}\n{\"text\":\"three\"}\nlast");
    let said = fail(&mut corpus.ingest("few", &["--skip-bad-lines", "2"]));
    assert!(said.contains("(2 allowed now"), "{said}");

    let out = corpus.shards("out", &["--skip-bad-lines", "3"]);
    let manifest = manifest(&out);
    assert_eq!(manifest["documents"], 3);
    let inputs = &manifest["ingest"]["inputs"];
    assert_eq!(
        inputs[0]["bad_lines"],
        serde_json::json!([{ "line": 2, "reason": "column 1: not JSON as expected: expected value" }])
    );
    assert_eq!(
        inputs[1]["bad_lines"],
        serde_json::json!([
            { "line": 2, "reason": "field \"text\" is a number, not a string" },
            { "line": 4, "reason": "column 1: not JSON as expected: expected value" },
        ])
    );
    assert_eq!((&inputs[1]["rows"], &inputs[1]["empty_documents"]), (&4.into(), &1.into()));
    // How many were allowed does not change the bytes, so a run that failed for it can be continued.
    let said = succeed(&mut corpus.ingest("few", &["--skip-bad-lines", "9"]));
    assert!(said.contains("skipped b.json.gz line 4, column 1"), "{said}");
    assert_same_content(&out, &corpus.path("few"));
    succeed(program(&["verify"]).arg(&out));
}

#[test]
fn a_shard_folder_of_another_format_version() {
    let corpus = Corpus::of(1, 5);
    let out = corpus.shards("out", &[]);
    let path = out.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"format_version\": 1", "\"format_version\": 7", 1)).unwrap();
    for mut command in [corpus.ingest("out", &[]), program(&["inspect"]), program(&["verify"])] {
        if command.get_args().count() == 1 {
            command.arg(&out);
        }
        let said = fail(&mut command);
        assert!(said.contains("manifest.json has format version 7, this program reads version 1"), "{said}");
    }
}

#[test]
fn an_output_folder_that_is_somebody_elses() {
    let corpus = Corpus::of(1, 5);
    fs::create_dir(corpus.path("out")).unwrap();
    corpus.write("out/thesis.txt", "years of work");
    let said = fail(&mut corpus.ingest("out", &[]));
    assert!(
        said.contains("is not empty and no shard folder (thesis.txt is in it); choose a folder"),
        "{said}"
    );
    assert_eq!(content(&corpus.path("out")).len(), 1);
}
