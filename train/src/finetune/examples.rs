//! Texts and pairs of texts as a model reads them: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` with the second text, and
//! the `[SEP]` behind it, in segment 1.

use std::thread;

use ingest::{Encode, EncoderChoice, TokenizerFile};
use model::TokenBatch;
use tch::{Device, Kind, Tensor};

use super::FinetuneError;
use crate::error::Error;

/// A text, perhaps a second one, and the label.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text.
    pub first: String,
    /// The text it is paired with.
    pub second: Option<String>,
    /// The class, from 0, or the number to predict; of no meaning where none is known.
    pub label: f64,
}

/// A text as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Token ids, special tokens included.
    pub ids: Vec<i32>,
    /// Tokens in segment 0; those behind them are in segment 1.
    pub first_segment: usize,
    /// As in [`Text`].
    pub label: f64,
}

/// Encodes `texts` on all processors; none is longer than `seq_len` tokens.
///
/// # Errors
/// [`FinetuneError::Encode`] where the tokenizer fails.
pub fn encode(texts: &[Text], tokenizer: &TokenizerFile, seq_len: usize) -> Result<Vec<Example>, Error> {
    let encoder = tokenizer.encoder(EncoderChoice::Auto)?;
    let special = &tokenizer.info().special;
    let (cls, sep) = (special.cls as i32, special.sep as i32);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = texts.len().div_ceil(threads).max(1);
    let parts: Vec<Result<Vec<Example>, Error>> = thread::scope(|scope| {
        let workers: Vec<_> = texts
            .chunks(part)
            .enumerate()
            .map(|(number, texts)| {
                let mut worker = encoder.worker();
                scope.spawn(move || {
                    let texts = texts.iter().enumerate();
                    texts
                        .map(|(at, text)| {
                            encode_one(text, worker.as_mut(), [cls, sep], seq_len).map_err(|reason| {
                                FinetuneError::Encode { example: number * part + at, reason }.into()
                            })
                        })
                        .collect()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(parts.concat())
}

fn encode_one(
    text: &Text,
    encoder: &mut dyn Encode,
    [cls, sep]: [i32; 2],
    seq_len: usize,
) -> Result<Example, String> {
    let mut ids_of = |text: &str| {
        let mut ids = Vec::new();
        encoder.encode(text, &mut ids)?;
        Ok::<_, String>(ids.into_iter().map(|id| id as i32).collect::<Vec<i32>>())
    };
    let mut first = ids_of(&text.first)?;
    let Some(second) = &text.second else {
        first.truncate(seq_len.saturating_sub(2));
        let ids = [&[cls], first.as_slice(), &[sep]].concat();
        return Ok(Example { first_segment: ids.len(), ids, label: text.label });
    };
    let mut second = ids_of(second)?;
    let [keep_first, keep_second] = fit_pair(first.len(), second.len(), seq_len.saturating_sub(3));
    first.truncate(keep_first);
    second.truncate(keep_second);
    let ids = [&[cls], first.as_slice(), &[sep], second.as_slice(), &[sep]].concat();
    Ok(Example { ids, first_segment: first.len() + 2, label: text.label })
}

/// How many tokens of each text of a pair are kept so that both fit into `room`: the longer one is cut first, as
/// `longest_first` of the `tokenizers` crate does it, and so Hugging Face's fast tokenizers.
fn fit_pair(first: usize, second: usize, room: usize) -> [usize; 2] {
    if first + second <= room {
        return [first, second];
    }
    let (short, long) = (first.min(second), first.max(second));
    let (short, long) = match short <= room && short <= room - short {
        true => (short, long.min(room - short)),
        false => (room / 2, room - room / 2),
    };
    if first > second { [long, short] } else { [short, long] }
}

impl Example {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// Packs examples into a batch on `device`.
///
/// # Shape
/// `T` tokens, `B` examples: ids and segments `[T]`, boundaries `[B + 1]`
///
/// # Errors
/// [`Error::Model`] when the device refuses.
pub fn pack<'a>(
    examples: impl IntoIterator<Item = &'a Example>,
    device: Device,
) -> Result<TokenBatch, Error> {
    let (mut ids, mut types, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
    let mut paired = false;
    for example in examples {
        ids.extend_from_slice(&example.ids);
        types.extend((0..example.tokens()).map(|at| i32::from(at >= example.first_segment)));
        paired |= example.first_segment < example.tokens();
        cu_seqlens.push(ids.len() as i32);
    }
    let batch = TokenBatch::from_host::<i64>(&ids, &cu_seqlens, &[], &[], device)?;
    Ok(if paired { batch.with_token_types(&types) } else { batch })
}

/// The labels of examples: classes as i64, numbers (`num_labels` = 1) as float32.
///
/// # Shape
/// - result: `[B]`
pub fn labels<'a>(
    examples: impl IntoIterator<Item = &'a Example>,
    num_labels: i64,
    device: Device,
) -> Tensor {
    let labels: Vec<f64> = examples.into_iter().map(|example| example.label).collect();
    let kind = if num_labels == 1 { Kind::Float } else { Kind::Int64 };
    Tensor::from_slice(&labels).to_kind(kind).to_device(device) // [B]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(first: &str, second: Option<&str>) -> Text {
        Text { first: first.to_owned(), second: second.map(str::to_owned), label: 1.0 }
    }

    /// The ids are those of `transformers`' `BertTokenizerFast("bert-base-uncased")`.
    #[test]
    fn texts_and_pairs_have_berts_layout() {
        let tokenizer = TokenizerFile::bundled().unwrap();
        let texts = [text("Hello, world!", None), text("Hello world", Some("hello"))];
        let examples = encode(&texts, &tokenizer, 16).unwrap();
        assert_eq!(examples[0].ids, [101, 7592, 1010, 2088, 999, 102]);
        assert_eq!(examples[0].first_segment, 6);
        assert_eq!(examples[1].ids, [101, 7592, 2088, 102, 7592, 102]);
        assert_eq!(examples[1].first_segment, 4);
        let batch = pack(&examples, Device::Cpu).unwrap();
        assert_eq!(batch.cu_seqlens, [0, 6, 12]);
        let types = Vec::<i64>::try_from(batch.token_type_ids.unwrap().to_kind(Kind::Int64)).unwrap();
        assert_eq!(types, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        let short = encode(&[text("Hello, world!", None)], &tokenizer, 4).unwrap();
        assert_eq!(short[0].ids, [101, 7592, 1010, 102]);
    }

    /// Against the `tokenizers` crate's own truncation, for every length of both texts.
    #[test]
    fn pairs_are_cut_as_the_tokenizers_crate_cuts_them() {
        for (room, first, second) in
            (0..12).flat_map(|room| (0..14).flat_map(move |a| (0..14).map(move |b| (room, a, b))))
        {
            // tokenizers/src/utils/truncation.rs, LongestFirst, in its words.
            let expected = if first + second <= room {
                [first, second]
            } else {
                let swap = first > second;
                let mut n1 = first.min(second);
                let mut n2 = if n1 > room { n1 } else { n1.max(room - n1) };
                if n1 + n2 > room {
                    n1 = room / 2;
                    n2 = n1 + room % 2;
                }
                if swap { [n2, n1] } else { [n1, n2] }
            };
            let expected = [expected[0].min(first), expected[1].min(second)];
            assert_eq!(fit_pair(first, second, room), expected, "{first} and {second} into {room}");
        }
    }

    #[test]
    fn labels_are_classes_or_numbers() {
        let example = |label| Example { ids: vec![1], first_segment: 1, label };
        let examples = [example(2.0), example(0.0)];
        assert_eq!(labels(&examples, 3, Device::Cpu).kind(), Kind::Int64);
        let numbers = labels(&[example(2.5)], 1, Device::Cpu);
        assert_eq!((numbers.kind(), numbers.double_value(&[0])), (Kind::Float, 2.5));
    }
}
