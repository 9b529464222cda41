//! What `inspect --stats` counts, prints and draws.

use std::fs;

use serde_json::Value;

use crate::fixtures::{Corpus, fail, program, succeed};

/// 96 short documents, three long ones and one of which the vocabulary knows nothing.
fn corpus() -> Corpus {
    let corpus = Corpus::empty();
    let mut rows: Vec<String> =
        (0..96).map(|row| format!("{{\"text\":\"{}\"}}\n", "the < cat ".repeat(1 + row % 4))).collect();
    rows.extend((0..3).map(|_| format!("{{\"text\":\"{}\"}}\n", "the ".repeat(1000))));
    rows.push("{\"text\":\"\u{13000} \u{13001}\"}\n".to_owned());
    corpus.pack("c4.00000.json.gz", rows[..50].concat());
    corpus.pack("c4.00001.json.gz", rows[50..].concat());
    corpus
}

#[test]
fn statistics_are_those_of_the_documents() {
    let corpus = corpus();
    let out = corpus.shards("out", &["--held-out", "0.2", "--shard-tokens", "100"]);
    let printed = succeed(program(&["inspect", "--stats", "--json"]).arg(&out));
    let statistics: Value = serde_json::from_str(&printed).unwrap();
    // 24 each of 3, 6, 9 and 12 tokens, three of 1000, one of two unknown ones.
    let tokens = 24 * (3 + 6 + 9 + 12) + 3000 + 2;
    assert_eq!((&statistics["documents"], &statistics["tokens"]), (&100.into(), &tokens.into()));
    let document = &statistics["document_tokens"];
    assert_eq!(
        [&document["least"], &document["median"], &document["p95"], &document["most"]],
        [2, 9, 12, 1000]
    );
    assert_eq!(document["mean"].as_f64().unwrap(), f64::from(tokens) / 100.0);
    assert_eq!(
        (&statistics["unknown"]["tokens"], &statistics["unknown"]["documents"]),
        (&2.into(), &1.into())
    );
    assert_eq!(statistics["vocabulary_used"], 4);
    let most = &statistics["most_frequent"][0];
    assert_eq!((&most["token"], &most["count"]), (&"the".into(), &(3000 + 240).into()));
    let lengths = statistics["lengths"].as_array().unwrap();
    assert_eq!(lengths.iter().map(|bin| bin["documents"].as_u64().unwrap()).sum::<u64>(), 100);
    // Three documents of 1000 tokens, in pieces of 126, are eight samples each.
    let short = &statistics["sequence_lengths"][0];
    assert_eq!((&short["seq_len"], &short["chunk_samples"]), (&128.into(), &(97 + 24).into()));
    assert_eq!(short["fitting_share"].as_f64().unwrap(), 0.97);

    let printed = succeed(program(&["inspect", "--stats"]).arg(&out));
    for piece in
        ["median 9, 95 % up to 12, from 2 to 1,000", "4 of 30,522 ids occur", "in 1 document", "512 to 1,023"]
    {
        assert!(printed.contains(piece), "{piece} is not in:\n{printed}");
    }
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let corpus = corpus();
    let out = corpus.shards("out", &[]);
    let path = corpus.path("page.html");
    let said = succeed(program(&["inspect", "--html"]).arg(&path).arg(&out));
    assert!(said.contains("page.html is written"), "{said}");
    let page = fs::read_to_string(&path).unwrap();
    for foreign in ["http", "src=", "<link", "<script", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign} is in the page");
    }
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(
        page.contains("<code>&lt;</code>") || page.contains("<code>&#60;</code>"),
        "a token is not escaped"
    );
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(!page.contains("NaN") && !page.contains("inf "), "a number of the page is none");
    // Each element is closed in the order in which it was opened.
    let mut open: Vec<&str> = Vec::new();
    let body = page.split_once("<body>").unwrap().1.split_once("</body>").unwrap().0;
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split_whitespace().next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_folder_without_documents_has_statistics_too() {
    let corpus = Corpus::empty();
    corpus.pack("c4.00000.json.gz", "{\"text\":\" \"}\n");
    let out = corpus.shards("out", &[]);
    let page = corpus.path("page.html");
    succeed(program(&["inspect", "--stats"]).arg(&out));
    succeed(program(&["inspect", "--html"]).arg(&page).arg(&out));
    assert!(!fs::read_to_string(&page).unwrap().contains("NaN"));
    let said = fail(program(&["inspect", "--stats"]).arg(corpus.path("none")));
    assert!(said.contains("has no manifest.json"), "{said}");
}
