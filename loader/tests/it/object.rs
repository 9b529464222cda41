//! Objects: read whole or not at all, whatever the connection does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, thread};

use loader::Error;
use loader::object::{Location, ObjectError};
use tests::s3::{BUCKET, Breaking, Server, environment};

/// Bytes of which no two stretches are alike.
fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content
}

/// What a web server does with its file.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// Answers requests for ranges.
    Ranges,
    /// Always sends everything.
    Whole,
    /// Has another file after the first answer.
    Replaces,
    /// Announces more than it sends, and closes the connection as if that was all.
    Promises,
}

/// Serves one file at every path, and cuts the first `cuts` answers after `after` bytes of it.
fn web_server(content: Vec<u8>, habit: Habit, cuts: u64, after: usize) -> Location {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let (content, answers) = (Arc::new(content), Arc::new(AtomicU64::new(0)));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (content, answers) = (content.clone(), answers.clone());
            thread::spawn(move || while answer(&client, &content, habit, cuts, after, &answers).is_some() {});
        }
    });
    Location::parse(&url).unwrap().unwrap()
}

/// One request and its answer; nothing when the connection is at its end.
fn answer(
    mut client: &TcpStream,
    content: &[u8],
    habit: Habit,
    cuts: u64,
    after: usize,
    answers: &AtomicU64,
) -> Option<()> {
    let mut lines = BufReader::new(client).lines();
    let request = lines.next()?.ok()?;
    let (mut start, mut is_range) = (0, false);
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=").filter(|_| habit == Habit::Ranges) {
            start = range.split('-').next()?.parse().ok()?;
            is_range = true;
        }
    }
    let is_head = request.starts_with("HEAD");
    let number = if is_head { 0 } else { answers.fetch_add(1, Ordering::SeqCst) + 1 };
    let etag = if habit == Habit::Replaces && number > 1 { "new" } else { "old" };
    let (size, body) = (content.len(), &content[start..]);
    let status = if is_range {
        format!("206 Partial\r\nContent-Range: bytes {start}-{}/{size}", size - 1)
    } else {
        "200 OK".to_owned()
    };
    let length = body.len();
    write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"{etag}\"\r\n\r\n").ok()?;
    if is_head {
        return Some(());
    }
    if number <= cuts {
        client.write_all(&body[..after.min(length)]).ok()?;
        client.shutdown(std::net::Shutdown::Both).ok()?;
        return None;
    }
    client.write_all(if habit == Habit::Promises { &body[..length / 2] } else { body }).ok()?;
    if habit == Habit::Promises {
        client.shutdown(std::net::Shutdown::Both).ok()?;
        return None;
    }
    Some(())
}

fn object_error(error: Error) -> ObjectError {
    match error {
        Error::Object(error) => *error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_is_taken_up_at_the_byte_reached() {
    let whole = content(300_000);
    for habit in [Habit::Ranges, Habit::Whole] {
        let location = web_server(whole.clone(), habit, 4, 90_001);
        assert!(location.read_all().unwrap() == whole);
        let mut reader = location.open().unwrap();
        let mut some = vec![0; 1000];
        reader.read_exact(&mut some).unwrap();
        assert_eq!((reader.position(), &some[..]), (1000, &whole[..1000]));
    }
}

#[test]
fn a_range_is_what_it_should_be() {
    let whole = content(10_000);
    let location = web_server(whole.clone(), Habit::Ranges, 0, 0);
    let meta = location.head().unwrap();
    // This server sends everything after the start of a range, which is not what was asked for.
    assert!(location.read_range(&meta, 4000..9999).is_err());
    assert!(location.read_range(&meta, 4000..10_000).unwrap() == whole[4000..]);
    assert!(location.read_range(&meta, 7..7).unwrap().is_empty());
}

#[test]
fn what_never_comes_is_an_error_and_leaves_no_file() {
    let location = web_server(content(50_000), Habit::Promises, 0, 0);
    let error = object_error(location.read_all().unwrap_err());
    assert!(matches!(error, ObjectError::Broken { at: 25_000, bytes: 50_000, .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be read past byte 25000 of 50000"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    location.download(&dir.path().join("file")).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_object_that_was_replaced_is_an_error() {
    let location = web_server(content(50_000), Habit::Replaces, 1, 20_000);
    let error = object_error(location.read_all().unwrap_err());
    assert!(matches!(error, ObjectError::Changed { .. }), "{error:?}");
    assert!(
        error.to_string().contains("it is 50000 bytes, etag new now, 50000 bytes, etag old before"),
        "{error}"
    );
}

#[test]
fn web_servers_have_no_lists() {
    let location = web_server(Vec::new(), Habit::Whole, 0, 0);
    assert!(matches!(object_error(location.list().unwrap_err()), ObjectError::NoLists { .. }));
    assert!(location.read_all().unwrap().is_empty());
}

/// Runs an ignored test of this program with the variables for the S3 server behind `address`: a process reads them
/// once.
pub(crate) fn with_s3(test: &str, address: std::net::SocketAddr) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored"]).envs(environment(address));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn s3(key: &str) -> Location {
    Location::parse(&format!("s3://{BUCKET}/{key}")).unwrap().unwrap()
}

#[test]
fn s3_keeps_what_it_is_given() {
    with_s3("object::written_listed_read_and_deleted", Server::start().address());
}

#[test]
#[ignore = "is started by another test, with a server"]
fn written_listed_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    // One that is sent at once, and one in three parts.
    for (name, bytes) in [("small", 100_000), ("large file", (33 << 20) + 1)] {
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let whole = content(bytes);
        fs::write(&from, &whole).unwrap();
        let object = s3("folder").join(name);
        assert!(!object.exists().unwrap());
        let written = object.upload(&from).unwrap();
        assert_eq!(written.bytes, bytes as u64);
        assert!(object.exists().unwrap() && object.head().unwrap().is_same(&written));
        assert!(object.download(&to).unwrap().is_same(&written));
        assert!(fs::read(&to).unwrap() == whole, "{name}");
        assert!(object.read_range(&written, 70_000..70_100).unwrap() == whole[70_000..70_100]);
    }
    s3("folder/deeper").write(b"text".to_vec()).unwrap();
    s3("folders/no").write(b"text".to_vec()).unwrap();
    let names = |location: Location| {
        let found = location.list().unwrap();
        found.iter().map(|found| format!("{} {}", found.location, found.meta.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(
        names(s3("folder/")),
        [
            "s3://bucket/folder/deeper 4",
            "s3://bucket/folder/large file 34603009",
            "s3://bucket/folder/small 100000"
        ]
    );
    let small = s3("folder/small");
    small.delete().unwrap();
    small.delete().unwrap();
    assert!(matches!(object_error(small.read_all().unwrap_err()), ObjectError::NotFound { .. }));
    assert!(names(s3("nothing")).is_empty());
}

#[test]
fn s3_behind_a_connection_that_breaks() {
    let server = Server::start();
    server.put("large", content(3_000_000));
    let way = Breaking::before(server.address(), 700_000, 6);
    with_s3("object::a_large_object_arrives_whole", way.address());
    assert!(way.cuts() >= 4, "{}", way.cuts());
}

#[test]
#[ignore = "is started by another test, with a server"]
fn a_large_object_arrives_whole() {
    assert!(s3("large").read_all().unwrap() == content(3_000_000));
}

#[test]
fn s3_with_the_wrong_credentials_says_what_to_set() {
    let server = Server::start();
    server.put("a", "text");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "object::a_refusal_names_the_variables", "--ignored"]);
    command.envs(environment(server.address())).env("AWS_SECRET_ACCESS_KEY", "wrong");
    assert!(command.output().unwrap().status.success());
}

#[test]
#[ignore = "is started by another test, with a server"]
fn a_refusal_names_the_variables() {
    let error = object_error(s3("a").read_all().unwrap_err());
    assert!(matches!(error, ObjectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{error}");
}
