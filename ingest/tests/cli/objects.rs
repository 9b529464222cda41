//! Inputs from an S3 server, also over a connection that breaks.

use std::fs;
use std::process::Command;

use tests::s3::{Breaking, Server, environment};

use crate::fixtures::{Corpus, assert_same_content, content, fail, program, succeed};
use crate::formats::{FORMATS, every_format};

fn on(address: std::net::SocketAddr, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command.envs(environment(address));
    command
}

#[test]
fn objects_of_every_format_are_inputs() {
    let (corpus, server) = (every_format(), Server::start());
    for name in FORMATS {
        server.put(&format!("corpus/{name}"), fs::read(corpus.path(&format!("{name}/{name}"))).unwrap());
    }
    // A folder, and the same by a pattern.
    let ingest = |input: &str, out: &str| {
        succeed(on(server.address(), &["c4", input, "--out"]).arg(corpus.path(out)));
        corpus.path(out)
    };
    let from_s3 = ingest("s3://bucket/corpus", "folder");
    assert_same_content(&from_s3, &ingest("s3://bucket/corpus/a.*", "pattern"));
    succeed(program(&["verify"]).arg(&from_s3));
    let local = corpus.shards_of("a.jsonl", "local");
    let found = content(&from_s3);
    for file in 0..FORMATS.len() {
        let name = format!("shard-{file:05}-0000.tokens");
        assert!(found[&name] == content(&local)["shard-00000-0000.tokens"], "{name}");
    }
    let said = fail(&mut on(server.address(), &["c4", "s3://bucket/none/*.gz", "--out", "unused"]));
    assert!(said.contains("no file matches s3://bucket/none/*.gz"), "{said}");
    let said = fail(&mut on(server.address(), &["c4", "s3://bucket/none", "--out", "unused"]));
    assert!(said.contains("no file matches s3://bucket/none"), "{said}");
}

#[test]
fn a_connection_that_breaks_changes_nothing() {
    let (corpus, server) = (Corpus::of(2, 3000), Server::start());
    for name in ["c4.00000.json.gz", "c4.00001.json.gz"] {
        server.put(&format!("c/{name}"), fs::read(corpus.path(name)).unwrap());
    }
    let whole = corpus.shards("whole", &[]);
    let way = Breaking::before(server.address(), 6_000, 5);
    succeed(on(way.address(), &["c4", "s3://bucket/c", "--out"]).arg(corpus.path("out")));
    assert!(way.cuts() >= 2, "{}", way.cuts());
    let (whole, out) = (content(&whole), content(&corpus.path("out")));
    for name in whole.keys().filter(|name| name.ends_with(".tokens")) {
        assert!(whole[name] == out[name], "{name}");
    }
}

#[test]
fn an_object_that_changed_between_two_runs_is_an_error() {
    let (corpus, server) = (Corpus::of(1, 50), Server::start());
    server.put("c/a.json.gz", fs::read(corpus.path("c4.00000.json.gz")).unwrap());
    corpus.pack("bad.json.gz", "{\"text\":\"good\"}\nbad\n");
    server.put("c/b.json.gz", fs::read(corpus.path("bad.json.gz")).unwrap());
    let ingest = || {
        let mut command = on(server.address(), &["c4", "s3://bucket/c", "--out"]);
        command.arg(corpus.path("out"));
        command
    };
    let said = fail(&mut ingest());
    assert!(said.contains("s3://bucket/c/b.json.gz line 2"), "{said}");
    corpus.pack("new.json.gz", "{\"text\":\"good\"}\nnew\n");
    server.put("c/b.json.gz", fs::read(corpus.path("new.json.gz")).unwrap());
    let said = fail(&mut ingest());
    assert!(said.contains("was begun from something else"), "{said}");
    assert!(said.contains("b.json.gz"), "{said}");
}
