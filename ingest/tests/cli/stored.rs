//! Shards to an S3 server, also over a connection that breaks, by processes that are killed, and by tasks.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::azure;
use tests::s3::{Breaking, Server, as_google, environment};

use crate::fixtures::{Corpus, assert_same_content, fail, noise, program, succeed};

/// Several shards an input.
const SMALL_PARTS: [&str; 4] = ["--shard-tokens", "6000", "--held-out", "0.1"];

fn on(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command.envs(environment(address));
    command
}

/// The command that ingests all packed files of the corpus to the location `out`.
fn ingest(corpus: &Corpus, address: SocketAddr, out: &str, options: &[&str]) -> Command {
    let mut command = on(address, &["c4"]);
    command.arg(corpus.path("*.json.gz")).args(["--out", out]).args(SMALL_PARTS).args(options);
    command
}

#[test]
fn shards_in_a_store_are_those_of_a_folder() {
    let (corpus, server) = (Corpus::of(2, 200), Server::start());
    let whole = corpus.shards("whole", &SMALL_PARTS);
    let out = "s3://bucket/a folder/shards";
    let said = succeed(&mut ingest(&corpus, server.address(), out, &[]));
    assert!(said.contains("s3://bucket/a folder/shards is finished"), "{said}");
    assert_same_content(&whole, &server.path("a folder/shards"));
    let said = succeed(&mut ingest(&corpus, server.address(), out, &[]));
    assert!(said.contains("is finished already"), "{said}");
    let said = fail(&mut ingest(&corpus, server.address(), out, &["--text-field", "url"]));
    assert!(said.contains("was made from something else: --text-field"), "{said}");

    let read = |arguments: &[&str]| succeed(&mut on(server.address(), arguments));
    let said = read(&["verify", out]);
    assert!(said.contains("files are as they were written"), "{said}");
    for options in [&["--json"][..], &["--doc", "250"], &["--stats", "--json"]] {
        let there = read(&[&["inspect", out], options].concat());
        let here = succeed(program(&["inspect"]).arg(&whole).args(options));
        assert_eq!(there, here);
    }
    let shard = server.path("a folder/shards/shard-00001-0000.tokens");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[5000] ^= 1;
    fs::write(&shard, bytes).unwrap();
    fs::remove_file(server.path("a folder/shards/shard-00000-0000.docs.parquet")).unwrap();
    let said = fail(&mut on(server.address(), &["verify", out]));
    assert!(said.contains("shards/shard-00001-0000.tokens: offset 128: found"), "{said}");
    assert!(
        said.contains("shard-00000-0000.docs.parquet: offset 0: cannot be read: there is no object"),
        "{said}"
    );
}

/// Shards made in `out`, which a program with `environment` reaches, are as they should be.
fn assert_there(corpus: &Corpus, whole: &Path, out: &str, environment: &[(&str, String)]) {
    let with = |arguments: &[&str]| {
        let mut command = program(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
    };
    let ingest = |out: &str| {
        let mut command = with(&["c4"]);
        command.arg(corpus.path("*.json.gz")).args(["--out", out]).args(SMALL_PARTS);
        command
    };
    let said = succeed(&mut ingest(out));
    assert!(said.contains(&format!("{out} is finished")), "{said}");
    let said = succeed(&mut ingest(out));
    assert!(said.contains("is finished already"), "{said}");
    let said = succeed(&mut with(&["verify", out]));
    assert!(said.contains("files are as they were written"), "{said}");
    for options in [&["--json"][..], &["--doc", "250"], &["--stats", "--json"]] {
        let there = succeed(&mut with(&[&["inspect", out], options].concat()));
        let here = succeed(program(&["inspect"]).arg(whole).args(options));
        assert_eq!(there, here);
    }
    let (scheme, _) = out.split_once("://").unwrap();
    let said = fail(&mut ingest(&format!("{scheme}://nowhere/shards")));
    assert!(said.contains("://nowhere/shards: there is no such"), "{said}");
    assert!(said.contains("create it first, or check its name"), "{said}");
}

/// Google's own service is not at hand; what is done here is the same in its protocol and in Amazon's.
#[test]
fn shards_go_to_google_and_come_from_there() {
    let (corpus, server) = (Corpus::of(2, 200), Server::public());
    let whole = corpus.shards("whole", &SMALL_PARTS);
    assert_there(&corpus, &whole, "gs://bucket/shards", &as_google(server.address()));
    assert_same_content(&whole, &server.path("shards"));

    let (input, there) = (corpus.path("c4.00000.json.gz"), corpus.path("there"));
    server.put("text/c4.00000.json.gz", fs::read(&input).unwrap());
    let mut command = program(&["c4", "gs://bucket/text/*.json.gz", "--out"]);
    succeed(command.arg(&there).args(SMALL_PARTS).envs(as_google(server.address())));
    let tokens = |folder: &Path| fs::read(folder.join("shard-00000-0000.tokens")).unwrap();
    assert_eq!(tokens(&whole), tokens(&there));
}

/// To Azurite, Microsoft's emulator of its blob storage, where `make test-azure` has started it.
#[test]
fn shards_go_to_azure_and_come_from_there() {
    let Some(container) = azure::container() else { return };
    let corpus = Corpus::of(2, 200);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    assert_there(&corpus, &whole, &format!("{container}/shards-{}", std::process::id()), &[]);
}

#[test]
fn what_is_not_for_shards_is_refused() {
    let (corpus, server) = (Corpus::of(1, 20), Server::start());
    server.put("mine/letter.txt", "dear");
    let said = fail(&mut ingest(&corpus, server.address(), "s3://bucket/mine", &[]));
    assert!(
        said.contains("s3://bucket/mine is not empty and no shard folder (letter.txt is in it)"),
        "{said}"
    );
    let said = fail(&mut ingest(&corpus, server.address(), "http://localhost/shards", &[]));
    assert!(said.contains("http://localhost/shards is on a web server, which takes no files"), "{said}");
    let said = fail(&mut ingest(&corpus, server.address(), "s3://nowhere/shards", &[]));
    assert!(
        said.contains(
            "cannot list s3://nowhere/shards: there is no such bucket; create it first, or check its name"
        ),
        "{said}"
    );
    let said = fail(&mut on(server.address(), &["verify", "s3://bucket/none"]));
    assert!(said.contains("s3://bucket/none"), "{said}");
}

#[test]
fn a_connection_that_breaks_while_shards_are_sent_changes_nothing() {
    let (corpus, server) = (Corpus::of(2, 300), Server::start());
    let whole = corpus.shards("whole", &SMALL_PARTS);
    let way = Breaking::sending(server.address(), 9_000, 6);
    succeed(&mut ingest(&corpus, way.address(), "s3://bucket/shards", &["--workers", "1"]));
    assert!(way.cuts() >= 3, "{}", way.cuts());
    assert_same_content(&whole, &server.path("shards"));
}

#[test]
fn killed_over_and_over_it_ends_with_the_same_objects() {
    let (corpus, server) = (Corpus::of(3, 200), Server::start());
    let whole = corpus.shards("whole", &SMALL_PARTS);
    // What a killed process leaves of its own is looked for here.
    let passing = corpus.path("passing");
    fs::create_dir(&passing).unwrap();
    let run = || {
        let mut command = ingest(&corpus, server.address(), "s3://bucket/shards", &["--no-space-check"]);
        command.env("TMPDIR", &passing);
        command
    };
    let mut kills = 0;
    while kills < 8 && !server.path("shards/manifest.json").exists() {
        let mut child = run().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 * (kills + 1)) + Duration::from_micros(noise() % 30_000));
        child.kill().unwrap();
        kills += u64::from(child.wait().unwrap().code().is_none());
    }
    succeed(&mut run());
    assert!(kills > 0);
    assert_same_content(&whole, &server.path("shards"));
    // The last run has taken away its own folder; those of killed ones are the system's to remove.
    assert!(fs::read_dir(&passing).unwrap().count() as u64 <= kills);
}

#[test]
fn tasks_in_a_store_are_merged_by_the_store() {
    let (corpus, server) = (Corpus::of(3, 100), Server::start());
    let whole = corpus.shards("whole", &SMALL_PARTS);
    let out = "s3://bucket/shards";
    let merge = || on(server.address(), &["merge", out]);
    succeed(&mut ingest(&corpus, server.address(), out, &["--task", "0/2"]));
    let said = fail(&mut merge());
    assert!(said.contains("of the 2 tasks these are missing: 1"), "{said}");
    let said = fail(&mut ingest(&corpus, server.address(), out, &[]));
    assert!(said.contains("holds folders of an ingest by 2 tasks"), "{said}");
    succeed(&mut ingest(&corpus, server.address(), out, &["--task", "1/2"]));
    let said = succeed(&mut merge());
    assert!(said.contains("2 tasks merged"), "{said}");
    assert_same_content(&whole, &server.path("shards"));
    let said = succeed(&mut merge());
    assert!(said.contains("is merged already"), "{said}");
    let said = succeed(&mut ingest(&corpus, server.address(), out, &["--task", "1/2"]));
    assert!(said.contains("is finished already"), "{said}");
}
