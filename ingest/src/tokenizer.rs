//! The tokenizer file: what it must have and what the manifest says of it.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use loader::shard::{SpecialTokens, TokenizerInfo};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    TokenizerImpl,
};

use crate::encoder::{Encoder, EncoderChoice};
use crate::error::Error;

/// BERT's uncased English vocabulary; see the note beside it.
const BUNDLED: &[u8] = include_bytes!("../assets/bert-base-uncased/tokenizer.json");
/// Name of the bundled tokenizer in messages.
const BUNDLED_NAME: &str = "bert-base-uncased (bundled)";
/// Name of the tokenizer's copy in a shard folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// A tokenizer that fits masked-language modelling.
#[derive(Clone)]
pub struct TokenizerFile {
    name: String,
    bytes: Cow<'static, [u8]>,
    tokenizer: Tokenizer,
    /// The tokens of its model with their ids, in no order.
    tokens: Vec<(String, u32)>,
    info: TokenizerInfo,
}

impl TokenizerFile {
    /// The tokenizer that is part of this program: bert-base-uncased.
    ///
    /// # Errors
    /// None, unless the program was built with a broken file.
    pub fn bundled() -> Result<Self, Error> {
        Self::parse(BUNDLED_NAME.to_owned(), Cow::Borrowed(BUNDLED))
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::MissingSpecialTokens`], or an error of reading.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::io("read the tokenizer", path))?;
        Self::parse(path.display().to_string(), Cow::Owned(bytes))
    }

    /// The content of a `tokenizer.json`; `name` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::MissingSpecialTokens`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::parse(name.to_owned(), Cow::Owned(bytes))
    }

    fn parse(name: String, bytes: Cow<'static, [u8]>) -> Result<Self, Error> {
        // Documents are spread over our own threads.
        tokenizers::utils::parallelism::set_parallelism(false);
        let refused = |reason: String| Error::Tokenizer { name: name.clone(), reason };
        let mut tokenizer = load(&bytes).map_err(|error| refused(error.to_string()))?;
        // What a file says of lengths is meant for samples; whole documents are stored.
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        tokenizer.with_padding(None);
        let special = special_tokens(&name, &tokenizer)?;
        let tokens = tokens(tokenizer.get_model());
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder().keys().copied();
        let largest = tokens.iter().map(|(_, id)| *id).chain(added).max().unwrap_or(0);
        let vocab_size =
            largest.checked_add(1).ok_or_else(|| refused(format!("its largest id is {largest}")))?;
        let info = TokenizerInfo {
            file: TOKENIZER_FILE.to_owned(),
            blake3: blake3::hash(&bytes).to_hex().to_string(),
            vocab_size,
            model_vocab_size: TokenizerInfo::model_vocab_size(vocab_size),
            special,
        };
        Ok(Self { name, bytes, tokenizer, tokens, info })
    }

    /// The file, or the name of the bundled tokenizer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the manifest says of it.
    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// Bytes a token in shards: 2 where all ids fit, else 4.
    pub fn token_bytes(&self) -> u8 {
        if self.info.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// The encoder of a run.
    ///
    /// # Errors
    /// [`Error::NoFastEncoder`] when the fast one is asked for and cannot stand in for this tokenizer.
    pub fn encoder(&self, choice: EncoderChoice) -> Result<Encoder, Error> {
        Encoder::choose(&self.tokenizer, &self.tokens, choice)
            .map_err(|reason| Error::NoFastEncoder { name: self.name.clone(), reason: reason.to_string() })
    }

    /// A token as the tokenizer writes it, such as `##ing`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Whether every id stands for the same token in `other`. The files may still differ, in what they say of lengths or in
    /// their layout.
    pub fn same_vocabulary(&self, other: &Self) -> bool {
        self.info.blake3 == other.info.blake3
            || self.tokenizer.get_vocab(true) == other.tokenizer.get_vocab(true)
    }

    /// The text of token ids, as far as it can be told: an uncased vocabulary has lost the case.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when it cannot decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        let decoded = self.tokenizer.decode(ids, false);
        decoded.map_err(|error| Error::Tokenizer { name: self.name.clone(), reason: error.to_string() })
    }
}

/// A tokenizer whose model is known to be WordPiece.
type WordPieceTokenizer =
    TokenizerImpl<WordPiece, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// The tokenizer in the bytes of a `tokenizer.json`.
///
/// To find out which of its models a file has, the `tokenizers` crate builds a tree of all of it first, which takes five times
/// as long as reading a WordPiece vocabulary. So that is tried first; for any other file its own way decides, and words the
/// error.
pub(crate) fn load(json: &[u8]) -> tokenizers::Result<Tokenizer> {
    match serde_json::from_slice::<WordPieceTokenizer>(json) {
        Ok(tokenizer) => Ok(tokenizer.into()),
        Err(_) => Tokenizer::from_bytes(json),
    }
}

/// The tokens of a model with their ids, in no order.
///
/// The `tokenizers` crate hands out its table only as a copy, which takes longer than asking for every id. That finds all
/// tokens if as many ids from 0 on have one as there are tokens; nearly always.
pub(crate) fn tokens(model: &impl Model) -> Vec<(String, u32)> {
    let by_id = (0..model.get_vocab_size() as u32).map(|id| Some((model.id_to_token(id)?, id)));
    by_id.collect::<Option<_>>().unwrap_or_else(|| model.get_vocab().into_iter().collect())
}

fn special_tokens(name: &str, tokenizer: &Tokenizer) -> Result<SpecialTokens, Error> {
    let mut missing = Vec::new();
    let mut id = |token| {
        tokenizer.token_to_id(token).unwrap_or_else(|| {
            missing.push(token);
            0
        })
    };
    let special = SpecialTokens {
        pad: id("[PAD]"),
        unk: id("[UNK]"),
        cls: id("[CLS]"),
        sep: id("[SEP]"),
        mask: id("[MASK]"),
    };
    if missing.is_empty() {
        return Ok(special);
    }
    Err(Error::MissingSpecialTokens { name: name.to_owned(), missing: missing.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bundled file with something in it replaced.
    fn altered(from: &str, to: &str) -> Result<TokenizerFile, Error> {
        let text = std::str::from_utf8(BUNDLED).unwrap();
        assert!(text.contains(from));
        TokenizerFile::parse("t.json".to_owned(), Cow::Owned(text.replace(from, to).into_bytes()))
    }

    fn ids(file: &TokenizerFile, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        file.encoder(EncoderChoice::Tokenizers).unwrap().worker().encode(text, &mut ids).unwrap();
        ids
    }

    #[test]
    fn the_bundled_tokenizer_is_bert_base_uncased() {
        let file = TokenizerFile::bundled().unwrap();
        let info = file.info();
        assert_eq!((info.vocab_size, info.model_vocab_size, file.token_bytes()), (30522, 30528, 2));
        assert_eq!(info.special.ids(), [0, 100, 101, 102, 103]);
        // The example of the BERT repository's README.
        let tokens: Vec<_> = ids(&file, "John Johanson's house")
            .into_iter()
            .map(|id| file.tokenizer.id_to_token(id).unwrap())
            .collect();
        assert_eq!(tokens, ["john", "johan", "##son", "'", "s", "house"]);
    }

    #[test]
    fn no_special_tokens_are_added_and_nothing_is_cut() {
        let file = altered(
            "\"truncation\": null",
            "\"truncation\": {\"direction\":\"Right\",\"max_length\":4,\"strategy\":\"LongestFirst\",\"stride\":0}",
        )
        .unwrap();
        assert_eq!(ids(&file, &"a ".repeat(1000)).len(), 1000);
        assert!(ids(&file, " \n").is_empty());
    }

    #[test]
    fn the_fast_encoder_steps_aside_with_the_reason() {
        let file = altered("\"type\": \"BertPreTokenizer\"", "\"type\": \"Whitespace\"").unwrap();
        let encoder = file.encoder(EncoderChoice::Auto).unwrap();
        assert!(
            encoder.describe().starts_with("the tokenizers crate (the pre-tokenizer is "),
            "{}",
            encoder.describe()
        );
        let error = file.encoder(EncoderChoice::Fast).err().unwrap().to_string();
        assert!(
            error.contains("t.json") && error.contains("pre-tokenizer") && error.contains("--encoder"),
            "{error}"
        );
        let bundled = TokenizerFile::bundled().unwrap();
        assert_eq!(bundled.encoder(EncoderChoice::Auto).unwrap().describe(), "the fast WordPiece encoder");
    }

    /// However a file is read, the tokenizer is the one that the `tokenizers` crate reads.
    #[test]
    fn a_word_piece_file_and_any_other_are_read_as_the_crate_reads_them() {
        let text = std::str::from_utf8(BUNDLED).unwrap();
        let without_type = text.replace("\"type\": \"WordPiece\", ", "");
        assert_ne!(text, without_type);
        let levels =
            r#"{"model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}}"#;
        let broken = text.replace("\"unk_token\"", "\"unknown\"");
        for json in [text, &without_type, levels, &broken] {
            let as_text = |read: tokenizers::Result<Tokenizer>| {
                read.map(|read| read.to_string(false).unwrap()).map_err(|error| error.to_string())
            };
            assert_eq!(as_text(load(json.as_bytes())), as_text(Tokenizer::from_bytes(json)));
        }
    }

    #[test]
    fn a_tokenizer_without_mask_is_refused_by_name() {
        let error = altered("[MASK]", "<mask>").err().unwrap();
        assert!(
            error.to_string().starts_with("the tokenizer t.json has no [MASK]; a masked language model"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused() {
        let parsed = TokenizerFile::parse("t.json".to_owned(), Cow::Borrowed(b"{\"a\": 1}"));
        let error = parsed.err().unwrap().to_string();
        assert!(error.starts_with("t.json is not a tokenizer that can be used: "), "{error}");
    }
}
