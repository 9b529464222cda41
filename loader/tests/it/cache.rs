//! Shards in stores: the batches are those of the folder, whatever the store does and however small the cache is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use loader::{
    ByteSize, CacheConfig, Corpus, Error, HeldOutConfig, Loader, LoaderConfig, MicroBatch, SamplePolicy,
    ShardFolder, Split, StepBatch, held_out_batches, unigram_entropy,
};
use tempfile::TempDir;
use tests::s3::{BUCKET, Breaking, Server};

use crate::batches::batches;
use crate::fixture::{config, some_documents, write_folder};
use crate::object::with_s3;

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A bit of what is sent is another.
    Flip,
    /// The connection breaks in the middle.
    Cut,
    /// There is no such file.
    Missing,
    /// No answer comes.
    Silence,
}

/// A web server over a folder.
struct Web {
    url: String,
    /// Requests for whole files, by name.
    whole: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// Starts one; `fault` decides about each request for content by the name of the file and how often it was asked for.
fn serve(dir: &Path, fault: fn(&str, u64) -> Fault) -> Web {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/shards", listener.local_addr().unwrap());
    let (whole, asked) = (Arc::default(), Arc::new(Mutex::new(BTreeMap::new())));
    let (dir, counts) = (dir.to_owned(), Arc::clone(&whole));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (dir, counts, asked) = (dir.clone(), Arc::clone(&counts), Arc::clone(&asked));
            thread::spawn(move || while answer(&client, &dir, fault, &counts, &asked).is_some() {});
        }
    });
    Web { url, whole }
}

/// One request and its answer; nothing when the connection is at its end.
fn answer(
    mut client: &TcpStream,
    dir: &Path,
    fault: fn(&str, u64) -> Fault,
    whole: &Mutex<BTreeMap<String, u64>>,
    asked: &Mutex<BTreeMap<String, u64>>,
) -> Option<()> {
    let mut lines = BufReader::new(client).lines();
    let request = lines.next()?.ok()?;
    let (method, path) = request.split_once(' ')?;
    let name = path.split(' ').next()?.rsplit('/').next()?.to_owned();
    let mut range = None;
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bounds) = line.strip_prefix("range: bytes=") {
            let (start, last) = bounds.split_once('-')?;
            range = Some(start.parse::<usize>().ok()?..last.parse::<usize>().ok()? + 1);
        }
    }
    let is_head = method == "HEAD";
    let fault = if is_head {
        Fault::None
    } else {
        let mut asked = asked.lock().unwrap();
        let number = asked.entry(name.clone()).and_modify(|number| *number += 1).or_insert(1);
        if range.is_none() {
            *whole.lock().unwrap().entry(name.clone()).or_default() += 1;
        }
        fault(&name, *number)
    };
    if fault == Fault::Silence {
        loop {
            thread::park();
        }
    }
    let Some(content) = fs::read(dir.join(&name)).ok().filter(|_| fault != Fault::Missing) else {
        write!(client, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
        return Some(());
    };
    let status = match &range {
        Some(range) => {
            let (last, size) = (range.end - 1, content.len());
            format!("206 Partial\r\nContent-Range: bytes {}-{last}/{size}", range.start)
        }
        None => "200 OK".to_owned(),
    };
    let mut body = range.map_or(content.clone(), |range| content[range].to_vec());
    let length = body.len();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"same\"\r\n\r\n").ok()?;
    if is_head {
        return Some(());
    }
    match fault {
        Fault::Flip => body[length / 2] ^= 4,
        Fault::Cut => {
            client.write_all(&body[..length / 2]).ok()?;
            client.shutdown(Shutdown::Both).ok()?;
            return None;
        }
        Fault::None | Fault::Missing | Fault::Silence => {}
    }
    client.write_all(&body).ok()
}

const SHARDS: u64 = 12;
/// Documents of a shard, a tenth of them held out.
const DOCUMENTS: u64 = 40;

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 2, &some_documents(SHARDS, DOCUMENTS, 30));
    dir
}

fn cached(dir: &Path, bytes: u64) -> CacheConfig {
    CacheConfig { dir: Some(dir.to_owned()), size: ByteSize(bytes) }
}

fn open(url: &str, cache: &CacheConfig) -> Arc<Corpus> {
    Corpus::open_cached(&[PathBuf::from(url).into()], cache).unwrap()
}

/// Settings with which a batch reads from one shard or two: blocks of the training documents of a shard, one at a time.
fn local_order() -> LoaderConfig {
    LoaderConfig { shuffle_block: DOCUMENTS - DOCUMENTS / 10, shuffle_window: 1, ..config() }
}

/// Two epochs and a bit.
const STEPS: std::ops::Range<u64> = 0..80;

fn held_out(corpus: &Arc<Corpus>) -> Vec<MicroBatch> {
    let config = HeldOutConfig { seq_len: 16, micro_batch_tokens: 40, ..HeldOutConfig::default() };
    held_out_batches(Arc::clone(corpus), &config).unwrap().map(Result::unwrap).collect()
}

/// Sizes of what a cache holds.
fn sizes(cache: &Path) -> BTreeMap<String, u64> {
    let files = fs::read_dir(cache).unwrap().flatten();
    files
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len()))
        .filter(|(name, _)| name != "lock")
        .collect()
}

#[test]
fn batches_of_a_store_are_those_of_the_folder() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |_, _| Fault::None);
    let here = Corpus::open(&[dir.path()]).unwrap();
    let there = open(&web.url, &cached(cache.path(), 1 << 30));
    let stored = there.stored().unwrap();
    assert_eq!((stored.shards as u64, here.stored()), (SHARDS, None));
    // What needs the ends of shards only fetches nothing else.
    assert_eq!(held_out(&there), held_out(&here));
    let entropy = |corpus| unigram_entropy(corpus, SamplePolicy::Chunk, 16, Some(200)).unwrap();
    assert_eq!(entropy(&there), entropy(&here));
    let count = |corpus: &Arc<Corpus>| corpus.samples(Split::Train, SamplePolicy::Chunk, 16).unwrap().len();
    assert_eq!(count(&there), count(&here));
    let of_shards = |(name, _): &(&String, &u64)| name.ends_with(".tokens");
    assert_eq!(web.whole.lock().unwrap().iter().filter(of_shards).count(), 0);

    for config in [
        config(),
        LoaderConfig { policy: SamplePolicy::Chunk, workers: 3, ..config() },
        LoaderConfig { batch_tokens: 150, batch_warmup_steps: 7, batch_warmup_from: 0.5, ..config() },
    ] {
        assert_eq!(batches(&there, &config, 0, 1, STEPS), batches(&here, &config, 0, 1, STEPS));
        assert_eq!(batches(&there, &config, 1, 3, 9..12), batches(&here, &config, 1, 3, 9..12));
    }
    assert_eq!(there.document(Split::Train, 77).unwrap(), here.document(Split::Train, 77).unwrap());
    // Each shard was fetched once, for all of this; and by a second start, not at all.
    let again = open(&web.url, &cached(cache.path(), 1 << 30));
    assert_eq!(batches(&again, &config(), 0, 1, STEPS), batches(&here, &config(), 0, 1, STEPS));
    let whole = web.whole.lock().unwrap();
    let shards: Vec<u64> = whole.iter().filter(of_shards).map(|(_, times)| *times).collect();
    assert_eq!(shards, [1; SHARDS as usize]);
}

#[test]
fn folders_of_both_kinds_are_mixed_by_weights() {
    let (dir, other, cache) = (folder(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_folder(other.path(), 2, &some_documents(3, 25, 20));
    let web = serve(dir.path(), |_, _| Fault::None);
    let open = |path: PathBuf| {
        let folders = [
            ShardFolder { path, weight: Some(0.7) },
            ShardFolder { path: other.path().to_owned(), weight: Some(0.3) },
        ];
        Corpus::open_cached(&folders, &cached(cache.path(), 1 << 30)).unwrap()
    };
    let (here, there) = (open(dir.path().to_owned()), open(web.url.into()));
    assert_eq!(batches(&there, &config(), 0, 1, STEPS), batches(&here, &config(), 0, 1, STEPS));
    assert_eq!(held_out(&there), held_out(&here));
}

#[test]
fn a_cache_smaller_than_the_corpus_is_enough() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |_, _| Fault::None);
    let here = Corpus::open(&[dir.path()]).unwrap();
    let largest = here.manifests()[0].shards.iter().map(|shard| shard.bytes).max().unwrap();
    let limit = 4 * largest;
    let there = open(&web.url, &cached(cache.path(), limit));
    let expected = batches(&here, &local_order(), 0, 1, STEPS);
    let loader = Loader::start(Arc::clone(&there), &local_order(), 0, 1, STEPS.start, STEPS.end).unwrap();
    let mut found = Vec::new();
    for batch in loader {
        found.push(StepBatch::clone(&batch.unwrap()));
        let kept: u64 = sizes(cache.path()).values().sum();
        assert!(kept <= limit, "{kept} bytes are kept, {limit} allowed");
    }
    assert_eq!(found, expected);
    assert!(sizes(cache.path()).len() <= 4);
    // Each epoch reads each shard while it is there; what is fetched again is for the next epoch.
    let whole = web.whole.lock().unwrap();
    let fetched: u64 =
        whole.iter().filter(|(name, _)| name.ends_with(".tokens")).map(|(_, times)| times).sum();
    assert!((SHARDS..=3 * SHARDS + 8).contains(&fetched), "{fetched}");
}

#[test]
fn a_batch_that_does_not_fit_says_what_to_do() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |_, _| Fault::None);
    let there = open(&web.url, &cached(cache.path(), 5000));
    let mut loader = Loader::start(there, &config(), 0, 1, 0, 5).unwrap();
    let error = loader.find_map(Result::err).unwrap();
    assert!(matches!(error, Error::CacheTooSmall { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("may hold no more than 5kB; raise --shard-cache-size"), "{said}");
}

#[test]
fn what_comes_damaged_cut_or_not_at_all_is_fetched_again() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |name, times| match (name, times) {
        ("shard-00001-0000.tokens", 1) => Fault::Flip,
        ("shard-00002-0000.tokens", 1 | 2) => Fault::Cut,
        ("shard-00003-0000.tokens", 1) => Fault::Missing,
        _ => Fault::None,
    });
    let here = Corpus::open(&[dir.path()]).unwrap();
    let there = open(&web.url, &cached(cache.path(), 1 << 30));
    assert_eq!(batches(&there, &config(), 0, 1, STEPS), batches(&here, &config(), 0, 1, STEPS));
    assert_eq!(web.whole.lock().unwrap()["shard-00001-0000.tokens"], 2);
    // The ends of shards as well.
    let web = serve(dir.path(), |name, times| match (name.contains("-00004-"), times) {
        (true, 2) => Fault::Flip,
        _ => Fault::None,
    });
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(held_out(&open(&web.url, &cached(cache.path(), 1 << 30))), held_out(&here));
}

#[test]
fn what_stays_damaged_or_missing_is_an_error_that_names_it() {
    let dir = folder();
    let first_error = |fault| {
        let (web, cache) = (serve(dir.path(), fault), tempfile::tempdir().unwrap());
        let there = open(&web.url, &cached(cache.path(), 1 << 30));
        let mut loader = Loader::start(there, &config(), 0, 1, 0, 50).unwrap();
        let said = loader.find_map(Result::err).unwrap().to_string();
        assert!(loader.next().is_none());
        said
    };
    let said = first_error(|name, _| if name.contains("-00005-") { Fault::Flip } else { Fault::None });
    assert!(
        said.contains("/shards/shard-00005-0000.tokens does not match its manifest: the BLAKE3"),
        "{said}"
    );
    let said = first_error(|name, _| if name.contains("-00005-") { Fault::Missing } else { Fault::None });
    assert!(said.contains("there is no object http"), "{said}");
    assert!(said.contains("/shards/shard-00005-0000.tokens"), "{said}");
}

/// As the ranks of one machine, each with its own loader.
/// Workers that wait for a shard which never comes, and one that waits for room.
#[test]
fn a_loader_that_waits_for_a_store_can_be_left() {
    let dir = folder();
    let web = serve(dir.path(), |name, _| match name.ends_with(".tokens") {
        true => Fault::Silence,
        false => Fault::None,
    });
    let cache = tempfile::tempdir().unwrap();
    let shard = fs::metadata(dir.path().join("shard-00000-0000.tokens")).unwrap().len();
    let corpus = open(&web.url, &cached(cache.path(), 3 * shard));
    let config = LoaderConfig { workers: 3, ..local_order() };
    let mut loader = Loader::start(corpus, &config, 0, 1, 0, 100).unwrap();
    assert!(!loader.wait(Duration::from_millis(200)));
    assert!(loader.waited() >= Duration::from_millis(200));
    // Ends, though the workers get nothing.
    drop(loader);
}

#[test]
fn two_trainings_share_a_folder() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |_, _| Fault::None);
    let here = Corpus::open(&[dir.path()]).unwrap();
    thread::scope(|scope| {
        for rank in 0..3 {
            let (cache, web, here) = (cached(cache.path(), 1 << 30), &web, &here);
            scope.spawn(move || {
                let there = open(&web.url, &cache);
                assert_eq!(
                    batches(&there, &config(), rank, 3, STEPS),
                    batches(here, &config(), rank, 3, STEPS)
                );
            });
        }
    });
    assert!(web.whole.lock().unwrap().values().all(|times| *times <= 3));
    let whole = web.whole.lock().unwrap();
    assert!(whole.iter().filter(|(name, _)| name.ends_with(".tokens")).all(|(_, times)| *times == 1));
}

#[test]
fn what_a_killed_process_left_is_no_hindrance() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let web = serve(dir.path(), |_, _| Fault::None);
    let here = Corpus::open(&[dir.path()]).unwrap();
    let manifest = &here.manifests()[0];
    let largest = manifest.shards.iter().map(|shard| shard.bytes).max().unwrap();
    let file =
        |entry: usize, kind: &str| cache.path().join(format!("{}.{kind}", manifest.shards[entry].blake3));
    // Half a shard under its final name, as a disk may leave it; half a one beside; one of another corpus.
    fs::write(file(0, "tokens"), b"TESSERA\0 and no more").unwrap();
    fs::write(file(1, "tokens.part"), b"TESSERA\0").unwrap();
    fs::write(cache.path().join("0000.tokens.part"), vec![0; 3 * largest as usize]).unwrap();
    fs::write(cache.path().join("1111.tokens"), vec![0; 3 * largest as usize]).unwrap();
    fs::write(cache.path().join("letter.txt"), b"dear").unwrap();
    let there = open(&web.url, &cached(cache.path(), 4 * largest));
    assert_eq!(batches(&there, &local_order(), 0, 1, 0..30), batches(&here, &local_order(), 0, 1, 0..30));
    let left = sizes(cache.path());
    assert!(left.contains_key("letter.txt") && !left.contains_key("1111.tokens"), "{left:?}");
    assert!(!left.contains_key("0000.tokens.part"), "{left:?}");
}

#[test]
fn folders_that_are_not_there_are_named() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let cache = cached(cache.path(), 1 << 30);
    let web = serve(dir.path(), |name, _| match name {
        "manifest.json" => Fault::Missing,
        _ => Fault::None,
    });
    let error = Corpus::open_cached(&[PathBuf::from(&web.url).into()], &cache).unwrap_err().to_string();
    assert!(error.contains(&format!("{} has no manifest.json", web.url)), "{error}");
    let web = serve(dir.path(), |_, _| Fault::None);
    let twice = [web.url.clone(), format!("{}/", web.url)].map(|url| PathBuf::from(url).into());
    let error = Corpus::open_cached(&twice, &cache).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn a_real_server_gives_the_same_also_over_a_connection_that_breaks() {
    let (dir, server) = (folder(), Server::start());
    for file in fs::read_dir(dir.path()).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        server.put(&format!("a folder/{name}"), fs::read(file.path()).unwrap());
    }
    with_s3("cache::s3_gives_the_batches_of_the_folder", server.address());
    let way = Breaking::before(server.address(), 2500, 12);
    with_s3("cache::s3_gives_the_batches_of_the_folder", way.address());
    assert!(way.cuts() >= 6, "{}", way.cuts());
}

#[test]
#[ignore = "is started by another test, with a server"]
fn s3_gives_the_batches_of_the_folder() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let here = Corpus::open(&[dir.path()]).unwrap();
    let there = open(&format!("s3://{BUCKET}/a folder"), &cached(cache.path(), 1 << 30));
    assert_eq!(batches(&there, &config(), 0, 1, STEPS), batches(&here, &config(), 0, 1, STEPS));
    assert_eq!(held_out(&there), held_out(&here));
}
