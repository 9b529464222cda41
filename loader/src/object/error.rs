//! What can go wrong with objects.

use std::fmt;

use super::Scheme;

/// An error of an object store. Messages name the object, what was found and what to do; what the store said is in
/// [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// A URL that leads nowhere.
    #[error("{url} cannot be reached: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },

    /// There is no such object.
    #[error("there is no object {url}; check its name, and whether your credentials may see it")]
    NotFound {
        /// The object.
        url: String,
        /// What the store said.
        source: Said,
    },

    /// There is no such bucket.
    #[error("cannot {action} {url}: there is no such {container}; create it first, or check its name")]
    NoContainer {
        /// What was tried, as a verb.
        action: &'static str,
        /// The object.
        url: String,
        /// What a bucket is called there.
        container: &'static str,
    },

    /// The store wants other credentials.
    #[error("cannot {action} {url}: the store refuses; {hint}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// The object.
        url: String,
        /// How to give credentials.
        hint: &'static str,
        /// What the store said.
        source: Said,
    },

    /// Another object stands where one was being read.
    #[error(
        "{url} has changed while it was in use: it is {found} now, {expected} before; start over with the new one"
    )]
    Changed {
        /// The object.
        url: String,
        /// What stands there.
        found: String,
        /// What stood there.
        expected: String,
    },

    /// The connection broke too often.
    #[error(
        "{url} cannot be read past byte {at} of {bytes}: {attempts} attempts in a row brought nothing; run the same \
         command again when the connection is better"
    )]
    Broken {
        /// The object.
        url: String,
        /// Bytes read.
        at: u64,
        /// Bytes it has.
        bytes: u64,
        /// How often it was tried.
        attempts: u32,
        /// The last thing that went wrong; nothing when the store just ended early.
        source: Option<Said>,
    },

    /// An object has another size than it should have.
    #[error("{url} gave {found} bytes, expected {expected}; run the same command again")]
    Cut {
        /// The object.
        url: String,
        /// Bytes it gave.
        found: u64,
        /// Bytes it should have.
        expected: u64,
    },

    /// Web servers have no lists of what they hold.
    #[error("{url} is on a web server, which can be asked for single files only; name the files")]
    NoLists {
        /// What was to be listed.
        url: String,
    },

    /// Objects are moved by their store, which knows its own only.
    #[error("{from} lies in another bucket than {to}; copy it there with the store's own tools first")]
    OtherBucket {
        /// What was to be moved.
        from: String,
        /// Where to.
        to: String,
    },

    /// Anything else that a store says.
    #[error("cannot {action} {url}")]
    Store {
        /// What was tried, as a verb.
        action: &'static str,
        /// The object.
        url: String,
        /// What the store said.
        source: Said,
    },
}

/// What a store said, in one line. It stands for the whole chain of causes, which the store's own errors repeat in their text.
#[derive(Debug)]
pub struct Said(object_store::Error);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server's answer may be a page of XML.
        let text = self.0.to_string();
        let words: Vec<&str> = text.split_whitespace().collect();
        f.write_str(words.join(" ").trim_end_matches([':', ' ']))
    }
}

impl std::error::Error for Said {}

impl From<object_store::Error> for Said {
    fn from(error: object_store::Error) -> Self {
        Self(error)
    }
}

/// The codes with which S3, Google and Azure say that there is no such bucket.
const NO_CONTAINER: [&str; 2] = ["<Code>NoSuchBucket</Code>", "<Code>ContainerNotFound</Code>"];

impl ObjectError {
    pub(super) fn of(action: &'static str, url: &str, scheme: Scheme, source: object_store::Error) -> Self {
        use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
        let url = url.to_owned();
        let text = source.to_string();
        if NO_CONTAINER.iter().any(|code| text.contains(code)) {
            return Self::NoContainer { action, url, container: scheme.container() };
        }
        match source {
            NotFound { .. } => Self::NotFound { url, source: source.into() },
            PermissionDenied { .. } | Unauthenticated { .. } => {
                Self::Refused { action, url, hint: scheme.credentials(), source: source.into() }
            }
            _ => Self::Store { action, url, source: source.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn of(answer: &str) -> ObjectError {
        let error = object_store::Error::Generic { store: "S3", source: answer.into() };
        ObjectError::of("list", "s3://corpus/c4", Scheme::S3, error)
    }

    #[test]
    fn what_a_store_says_is_said_once_and_in_a_line() {
        let error = of("500 Internal Server Error: <Error>\n  <Code>InternalError</Code>\n</Error>: ");
        assert_eq!(error.to_string(), "cannot list s3://corpus/c4");
        let said = error.source().unwrap();
        assert_eq!(
            said.to_string(),
            "Generic S3 error: 500 Internal Server Error: <Error> <Code>InternalError</Code> </Error>"
        );
        assert!(said.source().is_none());
    }

    #[test]
    fn a_bucket_that_is_not_there_is_named() {
        for code in ["NoSuchBucket", "ContainerNotFound"] {
            let error = of(&format!("404 Not Found: <Error><Code>{code}</Code></Error>"));
            assert_eq!(
                error.to_string(),
                "cannot list s3://corpus/c4: there is no such bucket; create it first, or check its name"
            );
            assert!(error.source().is_none());
        }
    }
}
