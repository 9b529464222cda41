//! Clients of the stores, one a bucket, and the threads they run on.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use tokio::runtime::{Builder, Runtime};

/// A request may take this long; a longer stream is continued with another request.
const REQUEST_TIMEOUT: &str = "300 seconds";
/// Nothing at all may come for this long.
const READ_TIMEOUT: &str = "60 seconds";
/// How often a request that failed for a reason that may pass is made again, waiting twice as long each time: with the
/// first wait of 0.1 s that is about 25 s.
const RETRIES: usize = 8;

/// The kind of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon's S3 and everything that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A web server.
    Http,
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(scheme: &str) -> Result<Self, String> {
        match scheme {
            "s3" | "s3a" => Ok(Self::S3),
            "gs" => Ok(Self::Gs),
            "az" | "azure" | "abfs" | "abfss" => Ok(Self::Az),
            "http" | "https" => Ok(Self::Http),
            other => {
                Err(format!("{other}:// is not known; expected s3://, gs://, az://, http:// or https://"))
            }
        }
    }
}

impl Scheme {
    /// What stands after the `://`.
    pub(super) fn container(self) -> &'static str {
        match self {
            Self::S3 | Self::Gs => "bucket",
            Self::Az => "container",
            Self::Http => "host",
        }
    }

    /// How to be let in.
    pub(super) fn credentials(self) -> &'static str {
        match self {
            Self::S3 => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION), or AWS_SKIP_SIGNATURE=true for a public \
                 bucket"
            }
            Self::Gs => {
                "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or GOOGLE_SKIP_SIGNATURE=true for a public \
                 bucket"
            }
            Self::Az => "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            Self::Http => "only files that anyone may read can be read; download it first",
        }
    }
}

/// A bucket and the client that talks to it.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) scheme: Scheme,
    pub(super) client: Arc<dyn ObjectStore>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.client, f)
    }
}

impl Store {
    /// The store that `url`, such as `s3://bucket`, names. One client serves all objects of a bucket, with its
    /// connections and its credentials.
    pub(super) fn open(scheme: Scheme, url: &str) -> object_store::Result<Self> {
        static CLIENTS: LazyLock<Mutex<HashMap<String, Arc<dyn ObjectStore>>>> =
            LazyLock::new(Mutex::default);
        let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match clients.get(url) {
            Some(client) => client.clone(),
            None => {
                let client = connect(scheme, url)?;
                clients.insert(url.to_owned(), client.clone());
                client
            }
        };
        Ok(Self { scheme, client })
    }
}

fn connect(scheme: Scheme, url: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Nothing else in a process chooses how to encrypt; if something does, its choice is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    use ClientConfigKey::{AllowHttp, ReadTimeout, Timeout};
    let timeouts = [(Timeout, REQUEST_TIMEOUT), (ReadTimeout, READ_TIMEOUT)];
    Ok(match scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retries());
            let builder = timeouts.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Gs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retries());
            let builder = timeouts.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Az => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retries());
            let builder = timeouts.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Http => {
            let builder =
                HttpBuilder::new().with_url(url).with_retry(retries()).with_config(AllowHttp, "true");
            let builder =
                timeouts.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(builder.build()?)
        }
    })
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: Duration::from_secs(180),
    }
}

/// The threads on which the clients run. Two are enough to keep many connections busy.
pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("object-store").enable_all();
        builder.build().expect("the system gives two threads")
    });
    &RUNTIME
}

/// Waits for a future on the calling thread.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}
