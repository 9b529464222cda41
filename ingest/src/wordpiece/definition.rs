//! Deciding whether the fast encoder can stand in for a tokenizer, and taking over its tables.
//!
//! A `tokenizer.json` is read by the `tokenizers` crate itself, so defaults, duplicate keys and the ids of added
//! tokens come out as they do there; what follows only looks at the result.

use thiserror::Error;
use tokenizers::{Model, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::ids::{Mark, mark};
use super::normalize::{Ascii, Normalizer};
use super::split::is_separator;
use super::trie::{MAX_ID, Root, Trie};

/// Why the fast encoder cannot stand in for a tokenizer definition.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The `tokenizers` crate does not accept the definition.
    #[error("the definition cannot be read: {0}")]
    Unreadable(String),
    /// Another model than WordPiece.
    #[error("the model is {0}, not WordPiece")]
    Model(&'static str),
    /// Another normalizer than BertNormalizer.
    #[error("the normalizer is {0}, not BertNormalizer")]
    Normalizer(&'static str),
    /// Another pre-tokenizer than BertPreTokenizer.
    #[error("the pre-tokenizer is {0}, not BertPreTokenizer")]
    PreTokenizer(&'static str),
    /// A post-processor that changes more than special tokens.
    #[error("the post-processor does more than put special tokens around one text")]
    PostProcessor,
    /// Special tokens in the text are set to be encoded as ordinary text.
    #[error("special tokens in the text are set to be encoded as ordinary text")]
    EncodedSpecialTokens,
    /// Truncation is set.
    #[error("the definition truncates; whole documents are needed, set \"truncation\" to null")]
    Truncation,
    /// Padding is set.
    #[error("the definition pads; bare documents are needed, set \"padding\" to null")]
    Padding,
    /// The vocabulary lacks the unknown token, so that some texts cannot be encoded at all.
    #[error("the unknown token {0:?} is not in the vocabulary")]
    NoUnknownToken(String),
    /// An id above what the trie can hold.
    #[error("the vocabulary has id {0}, above the highest supported, {MAX_ID}")]
    LargeId(u32),
    /// An added token that is not matched literally on the raw text.
    #[error("the added token {token:?} has {flag:?} set")]
    AddedTokenFlag {
        /// Its content.
        token: String,
        /// The flag that is not supported.
        flag: &'static str,
    },
    /// An added token that contains a separator of raw chunks.
    #[error("the added token {0:?} contains white space")]
    AddedTokenSpace(String),
}

/// Everything about a tokenizer that encoding needs; immutable and shared by all workers.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) normalizer: Normalizer,
    /// What becomes of each ASCII character.
    pub(super) ascii: [Ascii; 128],
    /// ASCII punctuation that may be cut off the end of a chunk; no mark for all other bytes.
    pub(super) marks: [Mark; 256],
    /// The bit by which ASCII letters differ in case where keys are blind to it, else 0.
    pub(super) case: u8,
    /// Whether no added token can lie in a chunk of ASCII letters, digits and `marks`, because none ends with such.
    pub(super) plain: bool,
    trie: Trie,
    word_start: Root,
    continuation: Root,
    added: Root,
    added_lowercase: Root,
    /// The bytes added tokens begin with, in either case.
    added_first: [bool; 256],
    /// Characters above which a word is unknown.
    max_word_chars: usize,
    unknown: u32,
    /// Whether all ids fit sixteen bits.
    pub(super) narrow: bool,
}

impl Definition {
    /// Takes over what `tokenizer` is made of, whose model has the tokens `vocab`.
    pub(super) fn new(tokenizer: &Tokenizer, vocab: &[(String, u32)]) -> Result<Definition, Unsupported> {
        if tokenizer.get_encode_special_tokens() {
            return Err(Unsupported::EncodedSpecialTokens);
        }
        if tokenizer.get_truncation().is_some() {
            return Err(Unsupported::Truncation);
        }
        if tokenizer.get_padding().is_some() {
            return Err(Unsupported::Padding);
        }
        let normalizer = match tokenizer.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(bert)) => Normalizer {
                clean_text: bert.clean_text,
                handle_chinese_chars: bert.handle_chinese_chars,
                strip_accents: bert.strip_accents.unwrap_or(bert.lowercase),
                lowercase: bert.lowercase,
            },
            other => return Err(Unsupported::Normalizer(other.map_or("missing", normalizer_name))),
        };
        match tokenizer.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) => {}
            other => return Err(Unsupported::PreTokenizer(other.map_or("missing", pre_tokenizer_name))),
        }
        check_post_processor(tokenizer)?;
        let model = match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => model,
            ModelWrapper::BPE(_) => return Err(Unsupported::Model("BPE")),
            ModelWrapper::WordLevel(_) => return Err(Unsupported::Model("WordLevel")),
            ModelWrapper::Unigram(_) => return Err(Unsupported::Model("Unigram")),
        };

        let Some(unknown) = model.token_to_id(&model.unk_token) else {
            return Err(Unsupported::NoUnknownToken(model.unk_token.clone()));
        };
        let added = added_tokens(tokenizer)?;
        let highest = vocab.iter().chain(&added).map(|(_, id)| *id).max().unwrap_or(0);
        if highest > MAX_ID {
            return Err(Unsupported::LargeId(highest));
        }
        let ascii = normalizer.ascii();
        let is_mark = |byte: u8| matches!(ascii.get(usize::from(byte)), Some(Ascii::Punctuation(_)));
        let mut added_first = [false; 256];
        for (content, _) in &added {
            let first = content.as_bytes()[0];
            added_first[usize::from(first.to_ascii_lowercase())] = true;
            added_first[usize::from(first.to_ascii_uppercase())] = true;
        }

        // Sorted once for both: without the prefix the order is the same.
        let mut tokens: Vec<(u64, &str, u32)> =
            vocab.iter().map(|(token, id)| (first_eight(token), token.as_str(), *id)).collect();
        tokens.sort_unstable();
        let tokens = || tokens.iter().map(|&(_, token, id)| (token, id));
        let mut trie = Trie::new();
        let word_start = trie.insert(tokens());
        let prefix = model.continuing_subword_prefix.as_str();
        let continuation =
            trie.insert(tokens().filter_map(|(token, id)| Some((token.strip_prefix(prefix)?, id))));
        let added_root = trie.insert(added.iter().map(|(content, id)| (content.as_str(), *id)));
        let lowercase: Vec<String> = added.iter().map(|(content, _)| content.to_ascii_lowercase()).collect();
        let added_lowercase = trie.insert(lowercase.iter().map(|content| (content.as_str(), 0)));
        trie.finish();

        let mut definition = Definition {
            normalizer,
            ascii,
            marks: [0; 256],
            case: if normalizer.lowercase { 0x20 } else { 0 },
            plain: added
                .iter()
                .all(|(content, _)| content.bytes().last().is_some_and(|byte| !byte.is_ascii_alphanumeric())),
            trie,
            word_start,
            continuation,
            added: added_root,
            added_lowercase,
            added_first,
            max_word_chars: model.max_input_chars_per_word,
            unknown,
            narrow: highest <= u32::from(u16::MAX),
        };
        let mut ids = Vec::new();
        for byte in (0..128).filter(|&byte| is_mark(byte)) {
            if added.iter().all(|(content, _)| content.as_bytes().last() != Some(&byte)) {
                ids.clear();
                definition.push_word(&[byte], &mut ids);
                definition.marks[usize::from(byte)] = mark(ids[0]);
            }
        }
        Ok(definition)
    }

    /// WordPiece: appends the ids of one pre-token, which must be valid UTF-8; none if it is empty.
    #[inline]
    pub(super) fn push_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        // A word has no more characters than bytes, so short ones need no count.
        if word.len() > self.max_word_chars && count_chars(word) > self.max_word_chars {
            return ids.push(self.unknown);
        }
        let before = ids.len();
        let mut rest = word;
        let mut root = self.word_start;
        while !rest.is_empty() {
            let Some((id, len)) = self.trie.longest_prefix(root, rest) else {
                ids.truncate(before);
                return ids.push(self.unknown);
            };
            ids.push(id);
            rest = &rest[len..];
            root = self.continuation;
        }
    }

    /// The first added token in `text`: where it starts, where it ends, its id. Of several that start at the same
    /// place, the longest.
    #[inline]
    pub(super) fn find_added(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        (0..bytes.len()).filter(|&start| self.added_first[usize::from(bytes[start])]).find_map(|start| {
            let (id, len) = self.trie.longest_prefix(self.added, &bytes[start..])?;
            Some((start, start + len, id))
        })
    }

    /// Whether lower-casing the ASCII letters of `chunk` and of an added token would make the token part of the chunk.
    #[inline]
    pub(super) fn has_added_in_any_case(&self, chunk: &str) -> bool {
        let bytes = chunk.as_bytes();
        bytes.iter().any(|&byte| self.added_first[usize::from(byte)]) && {
            let bytes = chunk.to_ascii_lowercase().into_bytes();
            (0..bytes.len())
                .any(|start| self.trie.longest_prefix(self.added_lowercase, &bytes[start..]).is_some())
        }
    }
}

/// The first bytes of `token` as a number: where two differ they are in the order of the tokens, and compared sooner.
fn first_eight(token: &str) -> u64 {
    let mut first = [0; 8];
    let len = token.len().min(8);
    first[..len].copy_from_slice(&token.as_bytes()[..len]);
    u64::from_be_bytes(first)
}

/// Characters of valid UTF-8: the bytes that do not continue one.
fn count_chars(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Contents and ids of the added tokens, checked to be plain literals.
fn added_tokens(tokenizer: &Tokenizer) -> Result<Vec<(String, u32)>, Unsupported> {
    let mut tokens = Vec::new();
    for (&id, token) in tokenizer.get_added_vocabulary().get_added_tokens_decoder() {
        let flags = [
            ("single_word", token.single_word),
            ("lstrip", token.lstrip),
            ("rstrip", token.rstrip),
            ("normalized", token.normalized),
        ];
        if let Some((flag, _)) = flags.into_iter().find(|(_, set)| *set) {
            return Err(Unsupported::AddedTokenFlag { token: token.content.clone(), flag });
        }
        if token.content.bytes().any(is_separator) {
            return Err(Unsupported::AddedTokenSpace(token.content.clone()));
        }
        tokens.push((token.content.clone(), id));
    }
    Ok(tokens)
}

/// Post-processors run even when no special tokens are asked for. Bert's and Roberta's then change no id; a template
/// does, unless it names the text exactly once.
fn check_post_processor(tokenizer: &Tokenizer) -> Result<(), Unsupported> {
    let processor = serde_json::to_value(tokenizer.get_post_processor())
        .map_err(|e| Unsupported::Unreadable(e.to_string()))?;
    let harmless = match processor["type"].as_str() {
        None => processor.is_null(),
        Some("BertProcessing" | "RobertaProcessing") => true,
        Some("TemplateProcessing") => {
            let single = processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
            single.iter().filter_map(|piece| piece["Sequence"]["id"].as_str()).eq(["A"])
        }
        Some(_) => false,
    };
    if harmless { Ok(()) } else { Err(Unsupported::PostProcessor) }
}

fn normalizer_name(normalizer: &NormalizerWrapper) -> &'static str {
    match normalizer {
        NormalizerWrapper::BertNormalizer(_) => "BertNormalizer",
        NormalizerWrapper::StripNormalizer(_) => "Strip",
        NormalizerWrapper::StripAccents(_) => "StripAccents",
        NormalizerWrapper::NFC(_) => "NFC",
        NormalizerWrapper::NFD(_) => "NFD",
        NormalizerWrapper::NFKC(_) => "NFKC",
        NormalizerWrapper::NFKD(_) => "NFKD",
        NormalizerWrapper::Sequence(_) => "a Sequence",
        NormalizerWrapper::Lowercase(_) => "Lowercase",
        NormalizerWrapper::Nmt(_) => "Nmt",
        NormalizerWrapper::Precompiled(_) => "Precompiled",
        NormalizerWrapper::Replace(_) => "Replace",
        NormalizerWrapper::Prepend(_) => "Prepend",
        NormalizerWrapper::ByteLevel(_) => "ByteLevel",
    }
}

fn pre_tokenizer_name(pre_tokenizer: &PreTokenizerWrapper) -> &'static str {
    match pre_tokenizer {
        PreTokenizerWrapper::BertPreTokenizer(_) => "BertPreTokenizer",
        PreTokenizerWrapper::ByteLevel(_) => "ByteLevel",
        PreTokenizerWrapper::Delimiter(_) => "CharDelimiterSplit",
        PreTokenizerWrapper::Metaspace(_) => "Metaspace",
        PreTokenizerWrapper::Whitespace(_) => "Whitespace",
        PreTokenizerWrapper::Sequence(_) => "a Sequence",
        PreTokenizerWrapper::Split(_) => "Split",
        PreTokenizerWrapper::Punctuation(_) => "Punctuation",
        PreTokenizerWrapper::WhitespaceSplit(_) => "WhitespaceSplit",
        PreTokenizerWrapper::Digits(_) => "Digits",
        PreTokenizerWrapper::UnicodeScripts(_) => "UnicodeScripts",
        PreTokenizerWrapper::FixedLength(_) => "FixedLength",
    }
}
