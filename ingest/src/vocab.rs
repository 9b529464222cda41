//! Training a WordPiece vocabulary on a sample of the inputs.
//!
//! The sample depends on the inputs and the seed alone. Inputs are taken in an order given by the seed until they are
//! expected to hold some times the text that is wanted, and of their documents a share is kept, so that the sample
//! reaches from the beginning to the end of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer, Trainer,
};

use crate::error::Error;
use crate::source::{Input, Inputs, Row};

/// Sizes are multiples of this: the tiles in which tensor cores multiply.
const SIZE_MULTIPLE: u32 = 64;
/// The tokens that a masked language model needs, in the order of their ids.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Characters that become pieces of their own, the most frequent first; BERT's vocabulary has about as many.
const ALPHABET: usize = 1000;
/// Pieces seen less often say nothing.
const MIN_FREQUENCY: u64 = 2;
/// Text of the chosen inputs for each byte of the sample.
const SPREAD: f64 = 4.0;
/// Bytes of text expected in a byte of a file.
const TEXT_PER_BYTE: f64 = 2.5;
/// Documents on their way to the trainer.
const QUEUE: usize = 256;

/// What a vocabulary is to be.
#[derive(Clone, Debug)]
pub struct VocabOptions {
    /// Pieces, special tokens included; a multiple of 64.
    pub size: u32,
    /// Bytes of text to learn from.
    pub sample_bytes: u64,
    /// Whether upper and lower case, and letters with and without accents, are the same.
    pub lowercase: bool,
    /// Chooses the sample.
    pub seed: u64,
    /// The field of a row that holds the text.
    pub text_field: String,
}

/// A vocabulary and what it was learnt from.
pub struct Vocab {
    /// The `tokenizer.json`.
    pub json: String,
    /// Documents of the sample.
    pub documents: u64,
    /// UTF-8 bytes of their text.
    pub text_bytes: u64,
}

impl VocabOptions {
    /// Checks the size.
    ///
    /// # Errors
    /// [`Error::VocabSize`] with the reason and the nearest sizes, when it is no multiple of 64.
    pub fn validate(&self) -> Result<(), Error> {
        let (size, rest) = (self.size, self.size % SIZE_MULTIPLE);
        if rest == 0 && size >= SIZE_MULTIPLE {
            return Ok(());
        }
        let larger = size.next_multiple_of(SIZE_MULTIPLE).max(SIZE_MULTIPLE);
        let smaller = size - rest;
        let nearest = if rest < SIZE_MULTIPLE / 2 && smaller > 0 { smaller } else { larger };
        Err(Error::VocabSize { size, padding: larger - size, larger, nearest })
    }
}

/// Trains a vocabulary.
///
/// # Errors
/// [`Error::VocabSize`], [`Error::SmallSample`] when the text has too few pieces, or an error of reading.
pub fn train_vocab(inputs: &Inputs, options: &VocabOptions) -> Result<Vocab, Error> {
    options.validate()?;
    tokenizers::utils::parallelism::set_parallelism(true);
    let normalizer = BertNormalizer::new(true, true, None, options.lowercase);
    let alphabet = Mutex::new(Alphabet::default());
    let split = |text: &str| {
        let words = words(text, &normalizer)?;
        alphabet.lock().unwrap_or_else(PoisonError::into_inner).count(&words);
        Ok(words)
    };
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(options.size as usize)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .build();
    let (sender, texts) = mpsc::sync_channel(QUEUE);
    let (sample, fed) = thread::scope(|scope| {
        let sample = scope.spawn(|| Sample::send(inputs, options, sender));
        // The trainer counts words, so the order of the documents does not matter to it.
        let fed = trainer.feed(Texts(texts), split);
        (sample.join(), fed)
    });
    let sample = sample.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let refused = |error: tokenizers::Error| Error::Tokenizer {
        name: "the trained vocabulary".to_owned(),
        reason: error.to_string(),
    };
    fed.map_err(refused)?;
    let (letters, continuations) =
        alphabet.into_inner().unwrap_or_else(PoisonError::into_inner).most_frequent();
    trainer.set_limit_alphabet(Some(letters.len()));
    trainer.set_initial_alphabet(letters.into_iter().collect());
    // The trainer would number continuations as it meets them, in an order that differs from run to run, and break ties
    // between pieces by these numbers. What it takes for special tokens it numbers first.
    let special = SPECIAL.map(|token| AddedToken::from(token, true));
    let continuations =
        continuations.into_iter().map(|letter| AddedToken::from(format!("##{letter}"), false));
    trainer.set_special_tokens(special.iter().cloned().chain(continuations).collect());
    let mut model = WordPiece::default();
    trainer.train(&mut model).map_err(refused)?;

    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(refused)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(WordPieceDecoder::default()));
    tokenizer.add_special_tokens(special).map_err(refused)?;
    let found = tokenizer.get_vocab_size(true) as u32;
    if found != options.size {
        let largest = found - found % SIZE_MULTIPLE;
        return Err(Error::SmallSample { text_bytes: sample.text_bytes, found, size: options.size, largest });
    }
    let id = |token: &str| (token.to_owned(), tokenizer.token_to_id(token).unwrap_or_default());
    let around = BertProcessing::new(id("[SEP]"), id("[CLS]"));
    tokenizer.with_post_processor(Some(around));
    let mut json = tokenizer.to_string(true).map_err(refused)?;
    json.push('\n');
    Ok(Vocab { json, documents: sample.documents, text_bytes: sample.text_bytes })
}

/// The words of a text, as BERT's tokenizer sees them.
fn words(text: &str, normalizer: &BertNormalizer) -> tokenizers::Result<Vec<String>> {
    let mut normal = NormalizedString::from(text);
    normalizer.normalize(&mut normal)?;
    let mut words = PreTokenizedString::from(normal);
    BertPreTokenizer.pre_tokenize(&mut words)?;
    let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
}

/// The letters of the sample.
#[derive(Default)]
struct Alphabet {
    counts: BTreeMap<char, u64>,
    /// Those that occur within a word, not only at its beginning.
    within: BTreeSet<char>,
}

impl Alphabet {
    fn count(&mut self, words: &[String]) {
        for word in words {
            for (i, letter) in word.chars().enumerate() {
                *self.counts.entry(letter).or_default() += 1;
                if i > 0 {
                    self.within.insert(letter);
                }
            }
        }
    }

    /// The letters that become pieces, and those of them that also continue words; sorted.
    fn most_frequent(self) -> (Vec<char>, Vec<char>) {
        let mut letters: Vec<(char, u64)> = self.counts.into_iter().collect();
        letters.sort_by_key(|(letter, count)| (Reverse(*count), *letter));
        letters.truncate(ALPHABET);
        let mut letters: Vec<char> = letters.into_iter().map(|(letter, _)| letter).collect();
        letters.sort_unstable();
        let within = letters.iter().copied().filter(|letter| self.within.contains(letter)).collect();
        (letters, within)
    }
}

/// The documents as they come.
struct Texts(Receiver<String>);

impl Iterator for Texts {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.0.recv().ok()
    }
}

/// What was sent to the trainer.
#[derive(Default)]
struct Sample {
    documents: u64,
    text_bytes: u64,
}

impl Sample {
    fn send(inputs: &Inputs, options: &VocabOptions, texts: SyncSender<String>) -> Result<Self, Error> {
        let (chosen, share) = choose(inputs, options);
        let mut sample = Self::default();
        for input in chosen {
            let mut source = input.open(&options.text_field)?;
            while let Some(row) = source.next_row()? {
                // What is wrong with a row is for the ingest to say.
                let Row::Document(document) = row else { continue };
                if number(options.seed, &input.name, document.row) >= share {
                    continue;
                }
                sample.documents += 1;
                sample.text_bytes += document.text.len() as u64;
                let enough = sample.text_bytes >= options.sample_bytes;
                if texts.send(document.text.into_owned()).is_err() || enough {
                    return Ok(sample);
                }
            }
        }
        Ok(sample)
    }
}

/// The inputs to read, in order, and the share of their documents to keep.
fn choose<'a>(inputs: &'a Inputs, options: &VocabOptions) -> (Vec<&'a Input>, f64) {
    let mut files: Vec<&Input> = inputs.files.iter().collect();
    files.sort_by(|a, b| {
        let order = |input: &Input| number(options.seed, &input.name, u64::MAX);
        order(a).total_cmp(&order(b)).then_with(|| a.name.cmp(&b.name))
    });
    let mut text = 0.0;
    let wanted = options.sample_bytes as f64;
    files.retain(|input| {
        let needed = text < SPREAD * wanted;
        text += if needed { input.bytes as f64 * TEXT_PER_BYTE } else { 0.0 };
        needed
    });
    // Twice the share, since the text is only estimated: the sample ends when it is full.
    (files, if text == 0.0 { 1.0 } else { (2.0 * wanted / text).min(1.0) })
}

/// A number from 0 to 1 that a document, or an input, has for good.
fn number(seed: u64, name: &str, row: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&row.to_le_bytes()).update(name.as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / 2f64.powi(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(size: u32) -> VocabOptions {
        VocabOptions { size, sample_bytes: 1 << 20, lowercase: true, seed: 0, text_field: "text".to_owned() }
    }

    #[test]
    fn sizes_that_are_no_multiple_of_64_are_refused_with_the_reason() {
        options(30528).validate().unwrap();
        let said = options(30522).validate().unwrap_err().to_string();
        assert!(
            said.contains("30522") && said.contains("6 rows") && said.contains("use --size 30528"),
            "{said}"
        );
        let said = options(30000).validate().unwrap_err().to_string();
        assert!(said.contains("use --size 30016"), "{said}");
        assert!(options(1).validate().unwrap_err().to_string().contains("use --size 64"));
        assert!(options(0).validate().is_err());
    }

    #[test]
    fn the_seed_chooses_inputs_and_a_share_of_their_documents() {
        let input = |i: u64| Input { name: format!("{i}.json"), bytes: 1 << 20, ..Input::default() };
        let inputs = Inputs { files: (0..100).map(input).collect(), ignored: Vec::new() };
        let (chosen, share) = choose(&inputs, &options(64));
        assert_eq!((chosen.len(), share), (2, 0.4));
        let (again, _) = choose(&inputs, &options(64));
        assert_eq!(chosen, again);
        let (other, _) = choose(&inputs, &VocabOptions { seed: 1, ..options(64) });
        assert_ne!(chosen, other);
        let (all, share) = choose(&inputs, &VocabOptions { sample_bytes: 1 << 40, ..options(64) });
        assert_eq!((all.len(), share), (100, 1.0));
    }
}
