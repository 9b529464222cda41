//! Which tokens a model must predict and what it sees in their place: BERT's 80/10/10 rule (Devlin et al., 2019), with
//! the details of Hugging Face's `DataCollatorForLanguageModeling`.
//!
//! Each token is chosen with the same probability, special tokens never. Of the chosen, 80 % become `[MASK]`, 10 % a
//! token drawn uniformly from the whole real vocabulary (special ids and the token itself included, the model's padding
//! ids not), 10 % stay. The label is the original token.
//!
//! The mask of a sample is a pure function of seed, epoch, sample number and rate: it does not depend on the batch that
//! the sample is in. One random word of 32 bits decides for a token: if it is among the lowest `rate * 2^32` the token is
//! chosen, where among them says what becomes of it, and its place among those that stand for a replacement is the
//! replacement. So a token chosen at one rate is also chosen at every higher rate. Which word is which token's is laid out
//! in [`Purpose`](crate::philox).
//!
//! `portable` is the definition; `avx2` and `avx512` compute the same bits 8 and 16 tokens at a time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod draw;
mod portable;
mod whole_word;

pub use draw::Draw;
pub use whole_word::Continuations;

use crate::philox::{Key, LANES, Purpose};
use crate::plan::SampleId;
use crate::shard::{SpecialTokens, TokenizerInfo, Tokens};

/// Tokens that share eight blocks of random words.
const CHUNK: usize = 4 * LANES;

/// Masks samples of one vocabulary under one seed.
#[derive(Clone, Debug)]
pub struct Masker {
    rule: Rule,
    /// Where whole words are masked.
    continuations: Option<Continuations>,
    code: Code,
}

/// The instructions that a mask is computed with; the result is the same with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// Those that every processor has.
    Portable,
    /// AVX2, of x86-64 processors since about 2013.
    Avx2,
    /// AVX-512 F, BW and VL, of many x86-64 processors since about 2017.
    Avx512,
}

impl Instructions {
    /// All kinds, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];
}

/// What runs, with what it has prepared.
#[derive(Clone, Debug)]
enum Code {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Box<avx2::Avx2>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

/// What masking a sample found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    /// Number of tokens chosen for prediction.
    pub chosen: usize,
    /// The largest token id of the text. When it is outside the vocabulary, so is some label.
    pub largest: u32,
}

/// Where a masked sample goes.
#[derive(Debug)]
pub struct Room<'a> {
    /// What the model sees, one for each token of the text.
    pub ids: &'a mut [i32],
    /// Positions of the chosen tokens, rising: room for as many as there are tokens. What stands behind the chosen ones
    /// afterwards has no meaning.
    pub positions: &'a mut [i32],
    /// The tokens to predict there; the same holds.
    pub labels: &'a mut [i32],
}

/// What does not change from sample to sample.
#[derive(Clone, Debug)]
struct Rule {
    key: Key,
    vocab_size: u32,
    special: [u32; 5],
    mask: u32,
}

impl Rule {
    #[inline(always)]
    fn is_special(&self, token: u32) -> bool {
        self.special.iter().fold(false, |found, special| found | (token == *special))
    }

    /// The lowest special id, and how far above it the highest is.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn special_span(&self) -> (u32, u32) {
        let [a, b, c, d, e] = self.special;
        let lowest = a.min(b).min(c).min(d).min(e);
        (lowest, a.max(b).max(c).max(d).max(e) - lowest)
    }
}

impl Masker {
    /// A masker for the ids of a tokenizer.
    pub fn new(seed: u64, tokenizer: &TokenizerInfo) -> Self {
        let special: &SpecialTokens = &tokenizer.special;
        let key = Key::derive(seed, Purpose::Mask);
        let rule = Rule { key, vocab_size: tokenizer.vocab_size, special: special.ids(), mask: special.mask };
        let portable = Self { rule, continuations: None, code: Code::Portable };
        let kinds = Instructions::ALL
            .into_iter()
            .filter(|kind| cfg!(feature = "simd") || *kind == Instructions::Portable);
        let fastest = kinds.into_iter().find_map(|kind| portable.using(kind));
        fastest.unwrap_or(portable)
    }

    /// The same, for whole words, which are masked in plain Rust.
    pub fn whole_words(self, continuations: Continuations) -> Self {
        Self { continuations: Some(continuations), ..self }
    }

    /// The same with given instructions; nothing when this processor does not have them.
    pub fn using(&self, instructions: Instructions) -> Option<Self> {
        let code = match instructions {
            Instructions::Portable => Code::Portable,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => Code::Avx2(Box::new(avx2::Avx2::detect(self.rule.key)?)),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => Code::Avx512(avx512::Avx512::detect(self.rule.key)?),
            #[cfg(not(target_arch = "x86_64"))]
            _ => return None,
        };
        Some(Self { code, ..self.clone() })
    }

    /// What [`mask`](Masker::mask) and [`count`](Masker::count) need to know of a rate: the fraction of tokens to choose,
    /// above 0 and up to 1. Rates below 2.4e-9 count as that.
    pub fn draw(&self, rate: f64) -> Draw {
        Draw::new(rate, self.rule.vocab_size)
    }

    /// Masks the text of a sample. `first` is added to the positions.
    ///
    /// # Panics
    /// When the room is smaller than the text.
    pub fn mask(&self, draw: &Draw, id: SampleId, text: Tokens<'_>, first: usize, room: Room<'_>) -> Masked {
        let len = text.len();
        let room = Room {
            ids: &mut room.ids[..len],
            positions: &mut room.positions[..len],
            labels: &mut room.labels[..len],
        };
        let (rule, counter) = (&self.rule, counter(id));
        if let Some(words) = &self.continuations {
            return match text {
                Tokens::U16(text) => whole_word::mask(words, rule, draw, counter, text, first, room),
                Tokens::U32(text) => whole_word::mask(words, rule, draw, counter, text, first, room),
            };
        }
        match (&self.code, text) {
            (Code::Portable, Tokens::U16(text)) => portable::mask(rule, draw, counter, text, first, room),
            (Code::Portable, Tokens::U32(text)) => portable::mask(rule, draw, counter, text, first, room),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx2(avx2), Tokens::U16(text)) => avx2.mask(rule, draw, counter, text, first, room),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx2(avx2), Tokens::U32(text)) => avx2.mask(rule, draw, counter, text, first, room),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx512(avx512), Tokens::U16(text)) => avx512.mask(rule, draw, counter, text, first, room),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx512(avx512), Tokens::U32(text)) => avx512.mask(rule, draw, counter, text, first, room),
        }
    }

    /// What [`mask`](Masker::mask) would find, without writing anything.
    pub fn count(&self, draw: &Draw, id: SampleId, text: Tokens<'_>) -> Masked {
        let (rule, counter) = (&self.rule, counter(id));
        if let Some(words) = &self.continuations {
            return match text {
                Tokens::U16(text) => whole_word::count(words, rule, draw, counter, text),
                Tokens::U32(text) => whole_word::count(words, rule, draw, counter, text),
            };
        }
        match (&self.code, text) {
            (Code::Portable, Tokens::U16(text)) => portable::count(rule, draw, counter, text),
            (Code::Portable, Tokens::U32(text)) => portable::count(rule, draw, counter, text),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx2(avx2), Tokens::U16(text)) => avx2.count(rule, draw, counter, text),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx2(avx2), Tokens::U32(text)) => avx2.count(rule, draw, counter, text),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx512(avx512), Tokens::U16(text)) => avx512.count(rule, draw, counter, text),
            #[cfg(target_arch = "x86_64")]
            (Code::Avx512(avx512), Tokens::U32(text)) => avx512.count(rule, draw, counter, text),
        }
    }
}

/// The words of a sample's counters that follow the block.
fn counter(id: SampleId) -> [u32; 3] {
    [id.epoch as u32, id.sample as u32, (id.sample >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const VOCAB: u32 = 30_522;

    fn tokenizer(vocab_size: u32) -> TokenizerInfo {
        TokenizerInfo {
            file: "tokenizer.json".into(),
            blake3: String::new(),
            vocab_size,
            model_vocab_size: TokenizerInfo::model_vocab_size(vocab_size),
            special: SpecialTokens { pad: 0, unk: 100, cls: 101, sep: 102, mask: 103 },
        }
    }

    /// The text of a sample: 126 tokens, none of them special.
    fn sample(number: u64) -> Vec<u16> {
        (0..126).map(|i| 1000 + ((number * 126 + i) * 2_654_435_761 % 29_000) as u16).collect()
    }

    /// What the model sees, and the chosen positions with their labels.
    type Seen = (Vec<i32>, Vec<(usize, i32)>);

    fn mask(masker: &Masker, rate: f64, id: SampleId, text: Tokens<'_>, first: usize) -> Seen {
        let len = text.len();
        let (mut ids, mut positions, mut labels) = (vec![-1; len], vec![-1; len], vec![-1; len]);
        let room = Room { ids: &mut ids, positions: &mut positions, labels: &mut labels };
        let draw = masker.draw(rate);
        let masked = masker.mask(&draw, id, text, first, room);
        assert_eq!(masker.count(&draw, id, text), masked);
        assert_eq!(masked.largest, text.iter().max().unwrap_or(0));
        let choices = positions.into_iter().map(|position| position as usize).zip(labels);
        (ids, choices.take(masked.chosen).collect())
    }

    fn masked(masker: &Masker, rate: f64, epoch: u64, number: u64, text: &[u16]) -> Seen {
        mask(masker, rate, SampleId { epoch, sample: number }, Tokens::U16(text), 0)
    }

    /// Fails when `count` of `trials` is improbable for probability `p`: five standard deviations, which a right
    /// program passes all but once in 1.7 million.
    fn assert_rate(what: &str, count: u64, trials: u64, p: f64) {
        let (mean, deviation) = (trials as f64 * p, (trials as f64 * p * (1.0 - p)).sqrt());
        let off = (count as f64 - mean) / deviation;
        assert!(
            off.abs() < 5.0,
            "{what}: {count} of {trials}, expected {mean:.0}, off by {off:.1} deviations"
        );
    }

    #[test]
    fn rates_of_choice_and_of_what_becomes_of_the_chosen() {
        let masker = Masker::new(1, &tokenizer(VOCAB));
        for rate in [0.15, 0.30, 1.0] {
            let (mut tokens, mut chosen, mut hidden, mut kept) = (0, 0, 0, 0);
            for number in 0..2000 {
                let text = sample(number);
                let (ids, choices) = masked(&masker, rate, 0, number, &text);
                tokens += text.len() as u64;
                chosen += choices.len() as u64;
                for (at, label) in choices {
                    assert_eq!(label, i32::from(text[at]));
                    hidden += u64::from(ids[at] == 103);
                    kept += u64::from(ids[at] == i32::from(text[at]));
                }
            }
            // A random token is [MASK], or the token itself, with probability 1 / 30522 each.
            let lucky = 0.1 / f64::from(VOCAB);
            if rate < 1.0 {
                assert_rate("chosen", chosen, tokens, rate);
            } else {
                assert_eq!(chosen, tokens);
            }
            assert_rate("become [MASK]", hidden, chosen, 0.8 + lucky);
            assert_rate("stay", kept, chosen, 0.1 + lucky);
        }
    }

    #[test]
    fn what_is_not_chosen_stays_and_positions_rise() {
        let masker = Masker::new(2, &tokenizer(VOCAB));
        for number in 0..100 {
            let text = sample(number);
            let (ids, choices) = masked(&masker, 0.3, 1, number, &text);
            assert!(choices.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let chosen: Vec<usize> = choices.iter().map(|(at, _)| *at).collect();
            for at in (0..ids.len()).filter(|at| !chosen.contains(at)) {
                assert_eq!(ids[at], i32::from(text[at]));
            }
        }
    }

    #[test]
    fn special_tokens_are_never_chosen() {
        let masker = Masker::new(3, &tokenizer(VOCAB));
        let text: Vec<u16> = (0..60).map(|i| [0, 100, 101, 102, 103, 5000][i % 6]).collect();
        for number in 0..200 {
            let (ids, choices) = masked(&masker, 1.0, 0, number, &text);
            assert_eq!(choices.len(), 10);
            assert!(choices.iter().all(|(at, label)| *label == 5000 && at % 6 == 5));
            assert!(ids.iter().zip(&text).all(|(id, token)| *token == 5000 || *id == i32::from(*token)));
        }
    }

    /// Over a vocabulary of 120 ids: every id, special ones too, is equally likely, and none beyond the real vocabulary
    /// (the model has 128) ever appears. Five standard deviations of chi-square.
    #[test]
    fn replacements_are_uniform_over_the_real_vocabulary() {
        let masker = Masker::new(4, &tokenizer(120));
        let mut counts = [0u64; 128];
        for number in 0..4000 {
            let (ids, _) = masked(&masker, 1.0, 0, number, &[110; 126]);
            ids.iter().for_each(|id| counts[*id as usize] += 1);
        }
        assert_eq!(counts[120..], [0; 8]);
        // 103 is also the mask, 110 also what stays: the other 118 are hit by replacement alone.
        let others: Vec<f64> =
            (0..120).filter(|id| ![103, 110].contains(id)).map(|id: usize| counts[id] as f64).collect();
        let total: f64 = others.iter().sum();
        assert_rate("replaced by another", total as u64, 4000 * 126, 0.1 * 118.0 / 120.0);
        let expected = total / others.len() as f64;
        let chi2: f64 = others.iter().map(|count| (count - expected).powi(2) / expected).sum();
        let freedom = others.len() as f64 - 1.0;
        assert!((chi2 - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "chi-square {chi2} of {freedom}");
    }

    /// Choices at neighbouring positions, neighbouring samples and consecutive epochs coincide as independent ones do,
    /// and so do those of tokens whose words come from the same block, eight positions apart.
    #[test]
    fn choices_are_independent_of_their_neighbours() {
        let masker = Masker::new(5, &tokenizer(VOCAB));
        let pattern = |epoch, number| {
            let mut chosen = [false; 126];
            for (at, _) in masked(&masker, 0.3, epoch, number, &sample(number)).1 {
                chosen[at] = true;
            }
            chosen
        };
        let both = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && **b).count() as u64;
        let (mut neighbours, mut blocks, mut samples, mut epochs) = (0, 0, 0, 0);
        for number in 0..2000 {
            let here = pattern(0, 2 * number);
            neighbours += both(&here[..125], &here[1..]);
            blocks += both(&here[..118], &here[8..]);
            samples += both(&here, &pattern(0, 2 * number + 1));
            epochs += both(&here, &pattern(1, 2 * number));
        }
        assert_rate("neighbouring positions", neighbours, 2000 * 125, 0.09);
        assert_rate("positions eight apart", blocks, 2000 * 118, 0.09);
        assert_rate("neighbouring samples", samples, 2000 * 126, 0.09);
        assert_rate("consecutive epochs", epochs, 2000 * 126, 0.09);
    }

    /// Every fourth token begins a word of four; the rest are continuations.
    fn words_of_four() -> (Masker, Vec<u16>) {
        let continuations = Continuations::from_ids(2000..VOCAB, VOCAB);
        let text = (0..124).map(|i| if i % 4 == 0 { 1000 + i } else { 5000 + i }).collect();
        (Masker::new(7, &tokenizer(VOCAB)).whole_words(continuations), text)
    }

    #[test]
    fn whole_words_are_chosen_or_none_of_their_tokens() {
        let (masker, text) = words_of_four();
        for rate in [0.15, 0.30] {
            let (mut chosen, mut hidden, mut kept) = (0, 0, 0);
            for number in 0..4000 {
                let (ids, choices) = masked(&masker, rate, 0, number, &text);
                for word in choices.chunks(4) {
                    let at: Vec<usize> = word.iter().map(|(at, _)| *at).collect();
                    assert!(
                        at.len() == 4
                            && at[0].is_multiple_of(4)
                            && at.windows(2).all(|pair| pair[0] + 1 == pair[1])
                    );
                }
                chosen += choices.len() as u64;
                hidden += choices.iter().filter(|(at, _)| ids[*at] == 103).count() as u64;
                kept += choices.iter().filter(|(at, _)| ids[*at] == i32::from(text[*at])).count() as u64;
            }
            // Tokens of a word are chosen together, so it is words that are counted.
            assert_rate("words chosen", chosen / 4, 4000 * 31, rate);
            let lucky = 0.1 / f64::from(VOCAB);
            assert_rate("become [MASK]", hidden, chosen, 0.8 + lucky);
            assert_rate("stay", kept, chosen, 0.1 + lucky);
        }
    }

    /// What becomes of one token of a word says nothing about the next.
    #[test]
    fn tokens_of_a_chosen_word_have_fates_of_their_own() {
        let (masker, text) = words_of_four();
        let (mut pairs, mut both) = (0, 0);
        for number in 0..4000 {
            let (ids, choices) = masked(&masker, 0.3, 0, number, &text);
            for word in choices.chunks(4) {
                let hidden: Vec<bool> = word.iter().map(|(at, _)| ids[*at] == 103).collect();
                pairs += 3;
                both += hidden.windows(2).filter(|pair| pair[0] && pair[1]).count() as u64;
            }
        }
        // The pairs of a word share tokens, which widens the spread by less than the five deviations leave room for.
        assert_rate("neighbours both [MASK]", both, pairs, 0.64);
    }

    #[test]
    fn what_follows_a_special_token_or_a_cut_begins_a_word() {
        let continuations = Continuations::from_ids(2000..VOCAB, VOCAB);
        let masker = Masker::new(8, &tokenizer(VOCAB)).whole_words(continuations);
        let mut apart = 0;
        for number in 0..400 {
            // The rest of a word, an unknown token, and what cannot be a part of it.
            let (_, choices) = masked(&masker, 0.5, 0, number, &[5000, 5001, 100, 5002, 5003]);
            let chosen = |at| choices.iter().any(|(chosen, _)| *chosen == at);
            assert!(chosen(0) == chosen(1) && chosen(3) == chosen(4) && !chosen(2));
            apart += u64::from(chosen(0) != chosen(3));
        }
        assert_rate("chosen apart", apart, 400, 0.5);
    }

    #[test]
    fn a_higher_rate_only_adds_choices() {
        let masker = Masker::new(6, &tokenizer(VOCAB));
        let (_, low) = masked(&masker, 0.15, 0, 1, &sample(1));
        let (_, high) = masked(&masker, 0.30, 0, 1, &sample(1));
        assert!(low.len() < high.len() && low.iter().all(|choice| high.contains(choice)));
    }

    #[test]
    fn seeds_and_far_samples_have_masks_of_their_own() {
        let at = |seed, epoch, number| {
            masked(&Masker::new(seed, &tokenizer(VOCAB)), 0.3, epoch, number, &sample(1))
        };
        let all = [at(1, 0, 0), at(2, 0, 0), at(1 << 32, 0, 0), at(1, 0, 1 << 32), at(1, 1, 0)];
        for (i, seen) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != seen));
        }
    }

    proptest! {
        /// Also where the room ends with the text, so that whole vectors do not fit behind the last choices.
        #[test]
        fn every_implementation_and_token_width_gives_the_same(
            text in vec(prop_oneof![0..30_522u16, 98..106u16, any::<u16>()], 0..200),
            rate in prop_oneof![Just(1.0), Just(0.3), 0.0..1.0f64],
            (seed, epoch, number) in any::<(u64, u64, u64)>(),
            first in 0..1_000_000_000usize,
        ) {
            let masker = Masker::new(seed, &tokenizer(VOCAB));
            let id = SampleId { epoch, sample: number };
            let wide: Vec<u32> = text.iter().map(|token| u32::from(*token)).collect();
            let portable = masker.using(Instructions::Portable).unwrap();
            // Text without continuations is masked the same for whole words.
            let words = masker.clone().whole_words(Continuations::from_ids([], VOCAB));
            prop_assert_eq!(
                mask(&words, rate, id, Tokens::U16(&text), first),
                mask(&portable, rate, id, Tokens::U16(&text), first)
            );
            let expected = mask(&portable, rate, id, Tokens::U16(&text), first);
            for masker in Instructions::ALL.into_iter().filter_map(|kind| masker.using(kind)) {
                prop_assert_eq!(&mask(&masker, rate, id, Tokens::U16(&text), first), &expected);
                prop_assert_eq!(&mask(&masker, rate, id, Tokens::U32(&wide), first), &expected);
            }
        }
    }
}
