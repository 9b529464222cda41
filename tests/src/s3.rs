//! An S3 server on this machine, and a way to it that breaks.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The one bucket of a [`Server`].
pub const BUCKET: &str = "bucket";
const KEY: &str = "a-key";
const SECRET: &str = "a-secret";

/// An S3 server over a temporary folder; it ends when dropped.
pub struct Server {
    folder: TempDir,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When this machine has none.
    pub fn start() -> Self {
        Self::serve(true)
    }

    /// As [`Self::start`], one that lets in everybody.
    ///
    /// # Panics
    /// See [`Self::start`].
    pub fn public() -> Self {
        Self::serve(false)
    }

    fn serve(guarded: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let mut service =
            S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a file system"));
        if guarded {
            service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = service.build();
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |mut request: Request<Incoming>| {
                        if !guarded {
                            // Whoever shows a ticket is let in as well.
                            request.headers_mut().remove(AUTHORIZATION);
                        }
                        Service::call(&service, request)
                    });
                    let builder = Builder::new(TokioExecutor::new());
                    // A client that goes away is no concern of the server.
                    let _ = builder.serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { folder, address, _runtime: runtime }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file that holds an object.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// Puts a file into the bucket.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, key: &str, content: impl AsRef<[u8]>) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        std::fs::write(path, content).expect("an object");
    }
}

/// The variables with which a program finds the S3 server at `address` and is let in.
pub fn environment(address: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ]
}

/// The variables with which a program takes the [public](Server::public) server at `address` for Google's: what is done with
/// single objects and lists is the same in both protocols.
pub fn as_google(address: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
        (
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            format!(
                r#"{{"gcs_base_url": "http://{address}", "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}}"#
            ),
        ),
    ]
}

/// A way to a server that is cut again and again: each connection after so many bytes in one direction, until it has
/// been cut so often.
pub struct Breaking {
    address: SocketAddr,
    cuts: Arc<AtomicU64>,
}

/// Which bytes of a connection count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    FromServer,
    ToServer,
}

impl Breaking {
    /// Starts it on a free port; what the server sends counts.
    ///
    /// # Panics
    /// When this machine has none.
    pub fn before(server: SocketAddr, bytes: u64, times: u64) -> Self {
        Self::start(server, Counted::FromServer, bytes, times)
    }

    /// The same, but what is sent to the server counts.
    ///
    /// # Panics
    /// When this machine has no free port.
    pub fn sending(server: SocketAddr, bytes: u64, times: u64) -> Self {
        Self::start(server, Counted::ToServer, bytes, times)
    }

    fn start(server: SocketAddr, counted: Counted, bytes: u64, times: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let cuts = Arc::new(AtomicU64::new(0));
        let count = cuts.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || forward(client, server, counted, bytes, times, &count));
            }
        });
        Self { address, cuts }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it has cut a connection.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// A way to a server on which some requests are never answered: those whose first bytes name a file that ends in `ending`.
/// Gives its address.
///
/// # Panics
/// When this machine has no free port.
pub fn silent_about(ending: &'static str, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || pass_on(client, server, ending));
        }
    });
    address
}

/// Carries one connection to the server and back, until a request is not to be answered.
fn pass_on(mut client: TcpStream, server: SocketAddr, ending: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut answers, &mut back));
    let mut buffer = [0; 1 << 16];
    loop {
        let read = client.read(&mut buffer)?;
        let request = String::from_utf8_lossy(&buffer[..read]);
        let path = request.split([' ', '?']).nth(1).unwrap_or_default();
        while path.ends_with(ending) {
            thread::park();
        }
        if read == 0 {
            return server.shutdown(Shutdown::Write);
        }
        server.write_all(&buffer[..read])?;
    }
}

/// Carries one connection to the server and back, until `bytes` have gone in the direction that counts.
fn forward(
    client: TcpStream,
    server: SocketAddr,
    counted: Counted,
    bytes: u64,
    times: u64,
    cuts: &AtomicU64,
) -> Option<()> {
    let server = TcpStream::connect(server).ok()?;
    let back = (server.try_clone().ok()?, client.try_clone().ok()?);
    let (counting, other) = match counted {
        Counted::FromServer => (back, (client, server)),
        Counted::ToServer => ((client, server), back),
    };
    let (mut from, mut to) = other;
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let ((mut from, mut to), mut left) = (counting, bytes);
    let mut buffer = [0; 4096];
    loop {
        let Some(read) = from.read(&mut buffer).ok().filter(|read| *read > 0) else {
            let _ = to.shutdown(Shutdown::Write);
            return None;
        };
        let passed = (read as u64).min(left) as usize;
        to.write_all(&buffer[..passed]).ok()?;
        left -= passed as u64;
        if left > 0 {
            continue;
        }
        if cuts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| (cuts < times).then_some(cuts + 1))
            .is_ok()
        {
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return None;
        }
        to.write_all(&buffer[passed..read]).ok()?;
        left = u64::MAX;
    }
}
