//! What must hold of the model whatever its parameters are: packing and padding change nothing, and randomness comes
//! from dropout alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::config::{FeedForwardKind, LayerNormPrecision, Padding, PositionEmbedding};
use model::{Error, MaskedLm, ModelConfig, SequenceClassifier, TokenBatch};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

/// Longest sequence in these tests.
const LONGEST: i64 = 12;

/// MosaicBERT in small, without dropout; weights large enough that attention is far from uniform.
fn mosaic() -> ModelConfig {
    ModelConfig {
        vocab_size: 64,
        hidden_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 20,
        max_position_embeddings: LONGEST,
        hidden_dropout_prob: 0.0,
        initializer_range: 0.3,
        ..ModelConfig::mosaic_bert_base()
    }
}

/// BERT in small, without dropout.
fn bert() -> ModelConfig {
    ModelConfig {
        position_embedding: PositionEmbedding::Learned,
        feed_forward: FeedForwardKind::Gelu,
        layer_norm: LayerNormPrecision::Full,
        ..mosaic()
    }
}

fn model(config: &ModelConfig, kind: Kind) -> MaskedLm {
    tch::set_num_threads(1); // tests run side by side, and the matrices are small
    MaskedLm::new(config, 11, Device::Cpu, kind).unwrap()
}

/// A batch of sequences of these lengths; every third token is masked.
fn batch(lengths: &[usize]) -> TokenBatch {
    let sequences: Vec<Vec<i32>> = (0..).zip(lengths).map(|(b, &length)| sequence(b, length)).collect();
    pack(&sequences)
}

/// The ids of sequence `b`.
fn sequence(b: i32, length: usize) -> Vec<i32> {
    (0..length as i32).map(|i| (b * 17 + i * i * 5 + 3) % 64).collect()
}

fn pack(sequences: &[Vec<i32>]) -> TokenBatch {
    let ids = sequences.concat();
    let mut cu_seqlens = vec![0];
    let mut masked = Vec::new();
    for sequence in sequences {
        let start = *cu_seqlens.last().unwrap();
        masked.extend(
            (0..sequence.len() as i64)
                .filter(|i| i % 3 == 1 || sequence.len() == 1)
                .map(|i| i64::from(start) + i),
        );
        cu_seqlens.push(start + sequence.len() as i32);
    }
    let labels: Vec<i64> = masked.iter().map(|&p| i64::from(ids[p as usize]) * 7 % 64).collect();
    TokenBatch::from_host(&ids, &cu_seqlens, &masked, &labels, Device::Cpu).unwrap()
}

/// Loss, hidden states and all gradients.
fn run(
    config: &ModelConfig,
    kind: Kind,
    batches: &[TokenBatch],
) -> (f64, Vec<Tensor>, Vec<(String, Tensor)>) {
    let model = model(config, kind);
    let mut loss = 0.0;
    for batch in batches {
        let output = model.loss(batch, true, 10.0).unwrap();
        output.loss.backward();
        loss += output.loss.double_value(&[]);
    }
    let hidden = batches.iter().map(|batch| model.hidden(batch).unwrap().detach()).collect();
    let gradients = model.parameters().iter().map(|(name, p)| (name.to_owned(), p.grad())).collect();
    (loss, hidden, gradients)
}

fn assert_same(
    config: &ModelConfig,
    (found, expected): (&ModelConfig, &ModelConfig),
    (batches, alone): (&[TokenBatch], &[TokenBatch]),
) {
    let (loss, hidden, gradients) = run(found, Kind::Double, batches);
    let (expected_loss, expected_hidden, expected_gradients) = run(expected, Kind::Double, alone);
    assert!((loss - expected_loss).abs() <= 1e-12 * expected_loss.abs(), "{loss} is not {expected_loss}");
    let (hidden, expected_hidden) = (Tensor::cat(&hidden, 0), Tensor::cat(&expected_hidden, 0));
    assert!(hidden.allclose(&expected_hidden, 1e-10, 1e-12, false), "hidden states of {config:?}");
    for ((name, found), (_, expected)) in gradients.iter().zip(&expected_gradients) {
        assert!(found.allclose(expected, 1e-8, 1e-11, false), "gradient of {name} of {config:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn padding_changes_nothing(lengths in prop::collection::vec(0..=LONGEST as usize, 1..6)) {
        prop_assume!(lengths.iter().sum::<usize>() > 0);
        for config in [mosaic(), bert()] {
            let padded = ModelConfig { padding: Padding::Padded, ..config.clone() };
            let unpadded = ModelConfig { padding: Padding::Unpadded, ..config.clone() };
            assert_same(&config, (&unpadded, &padded), (&[batch(&lengths)], &[batch(&lengths)]));
        }
    }

    #[test]
    fn sequences_of_a_batch_do_not_see_each_other(lengths in prop::collection::vec(1..=LONGEST as usize, 1..6)) {
        for config in [mosaic(), bert()] {
            let alone: Vec<TokenBatch> =
                (0..).zip(&lengths).map(|(b, &length)| pack(&[sequence(b, length)])).collect();
            assert_same(&config, (&config, &config), (&[batch(&lengths)], &alone));
        }
    }
}

/// The float32 path of attention is another one than float64's.
#[test]
fn float32_agrees_with_float64() {
    for config in [mosaic(), bert()] {
        let lengths = [5, 0, 12, 1];
        let (loss, hidden, _) = run(&config, Kind::Float, &[batch(&lengths)]);
        let (expected, expected_hidden, _) = run(&config, Kind::Double, &[batch(&lengths)]);
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} is not {expected}");
        let error =
            (hidden[0].to_kind(Kind::Double) - &expected_hidden[0]).norm() / expected_hidden[0].norm();
        assert!(error.double_value(&[]) < 1e-5, "hidden states differ by {error}");
    }
}

#[test]
fn a_batch_without_tokens_has_no_loss() {
    for config in [mosaic(), bert()] {
        for lengths in [&[][..], &[0, 0]] {
            let (loss, hidden, gradients) = run(&config, Kind::Float, &[batch(lengths)]);
            assert_eq!((loss, hidden[0].size()[0]), (0.0, 0));
            for (name, gradient) in gradients {
                assert!(!gradient.defined() || gradient.abs().max().double_value(&[]) == 0.0, "{name}");
            }
        }
    }
}

#[test]
fn the_normalizer_divides_loss_and_gradients() {
    let (one, ten) = (model(&mosaic(), Kind::Double), model(&mosaic(), Kind::Double));
    let batch = batch(&[7, 12]);
    one.loss(&batch, true, 1.0).unwrap().backward().unwrap();
    ten.loss(&batch, true, 10.0).unwrap().backward().unwrap();
    for ((name, one), (_, ten)) in one.parameters().iter().zip(ten.parameters().iter()) {
        assert!(one.grad().allclose(&(ten.grad() * 10.0), 1e-10, 1e-13, false), "{name}");
    }
}

#[test]
fn an_empty_sequence_cannot_be_classified() {
    let classifier = SequenceClassifier::new(&mosaic(), 2, 1, Device::Cpu, Kind::Float).unwrap();
    let error = classifier.logits(&batch(&[3, 0])).unwrap_err().to_string();
    assert!(error.contains("a text is empty in sequence 1, expected at least one token"), "{error}");
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let config = ModelConfig { hidden_size: 25, ..mosaic() };
    let error = MaskedLm::new(&config, 1, Device::Cpu, Kind::Float).unwrap_err();
    assert!(matches!(error, Error::Config { field: "hidden_size", .. }), "{error}");
}

/// torch's generator is one for all threads of a process.
static GENERATOR: Mutex<()> = Mutex::new(());

fn seeded(seed: i64) -> MutexGuard<'static, ()> {
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

fn with_dropout() -> [ModelConfig; 3] {
    [
        ModelConfig { hidden_dropout_prob: 0.1, ..mosaic() },
        ModelConfig { hidden_dropout_prob: 0.1, ..bert() },
        ModelConfig { attention_probs_dropout_prob: 0.1, ..bert() },
    ]
}

#[test]
fn training_with_one_seed_is_one_computation() {
    for config in with_dropout() {
        let step = |seed| {
            let _guard = seeded(seed);
            run(&config, Kind::Float, &[batch(&[7, 12, 3])])
        };
        let (first, again, other) = (step(5), step(5), step(6));
        assert_eq!(first.0.to_bits(), again.0.to_bits());
        for ((name, a), (_, b)) in first.2.iter().zip(&again.2) {
            assert!(a.equal(b), "{name}");
        }
        assert_ne!(first.0.to_bits(), other.0.to_bits());
    }
}

#[test]
fn evaluation_drops_nothing() {
    for config in with_dropout() {
        let none =
            ModelConfig { hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0, ..config.clone() };
        let batch = batch(&[7, 12, 3]);
        let (model, plain) = (model(&config, Kind::Double), model(&none, Kind::Double));
        let _guard = seeded(5);
        let evaluated = model.loss(&batch, false, 7.0).unwrap().loss;
        assert!(evaluated.equal(&plain.loss(&batch, true, 7.0).unwrap().loss));
        assert!(model.hidden(&batch).unwrap().equal(&plain.hidden(&batch).unwrap()));
        assert!(model.logits(&batch).unwrap().equal(&plain.logits(&batch).unwrap()));
        assert!(!evaluated.equal(&model.loss(&batch, true, 7.0).unwrap().loss));
    }
}

/// Dropout keeps the expectation: the mean over many seeds comes back to the value without, as 1 / sqrt(n).
#[test]
fn dropout_is_unbiased_at_the_embedding() {
    let config = ModelConfig { hidden_dropout_prob: 0.1, initializer_range: 0.02, ..mosaic() };
    let (model, batch) = (model(&config, Kind::Double), batch(&[12, 12]));
    let _guard = seeded(7);
    let expected = model.loss(&batch, false, 8.0).unwrap().loss.double_value(&[]);
    let losses: Vec<f64> =
        (0..200).map(|_| model.loss(&batch, true, 8.0).unwrap().loss.double_value(&[])).collect();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean - expected).abs() < 0.05 * expected, "mean {mean}, without dropout {expected}");
    assert!(losses.iter().any(|loss| (loss - expected).abs() > 1e-6));
}
