//! The fused path against the reference path in float64, on a CUDA card. Elsewhere there is nothing to test, and a line says so.
//!
//! Both compute from the same parameters and batch. In any gradient the fused path may be off by twice what the
//! reference path is in the same type, bf16; and, where weights are as large as a fresh model's, by 1.5 %, or by a tenth more
//! than the reference path where that is further off by itself. An error of 0.4 % is rounding, whatever the reference path's is.

mod golden;

use std::path::Path;

use golden::Golden;
use model::config::{FeedForwardKind, LayerNormPrecision, PositionEmbedding};
use model::{Head, MaskedLm, ModelConfig, Parameters, SequenceClassifier, TokenBatch};
use tch::{Device, Kind, Tensor, no_grad};

const CARD: Device = Device::Cuda(0);

/// The largest relative error of a gradient of a model with weights of a fresh one.
const LIMIT: f64 = 1.5e-2;

/// What rounding to bf16 may cost twice, by half of the distance between two neighbours each time.
const ROUNDING: f64 = 4e-3;

/// What is granted to a gradient of fewer than eight numbers: twice the largest error of the reference path's that was seen.
const A_FEW_NUMBERS: f64 = 6e-2;

/// How much further off than the reference path's a gradient of the fused path may be. Of 2,643 gradients on an H200 the most, where
/// the reference path is 0.75 % off or more, was 1.47 for a model of five texts and 1.36 for a masked language model.
const FURTHER: f64 = 2.0;

/// The same for models whose gradients are held to [`LIMIT`], where the reference path itself exceeds that.
const FURTHER_AT_THE_LIMIT: f64 = 1.1;

/// Gradients smaller than this share of all gradients are measured against that share: the keys' bias has a gradient of zero,
/// and so have queries and keys of a single token, up to the rounding of float32 sums.
const GRADIENT_FLOOR: f64 = 2e-5;

fn has_card(test: &str) -> bool {
    let found = model::torch::load_cuda() && model::torch::cuda_available();
    if !found {
        eprintln!("{test}: skipped, there is no CUDA card");
    }
    found
}

fn mosaic() -> ModelConfig {
    ModelConfig {
        vocab_size: 1000,
        hidden_size: 192,
        num_hidden_layers: 3,
        num_attention_heads: 3,
        intermediate_size: 328,
        hidden_dropout_prob: 0.0,
        // Weights large enough for attention and gates to be far from uniform.
        initializer_range: 0.1,
        ..ModelConfig::mosaic_bert_base()
    }
}

/// BERT in the same size, without dropout.
fn bert() -> ModelConfig {
    ModelConfig {
        max_position_embeddings: 600,
        position_embedding: PositionEmbedding::Learned,
        feed_forward: FeedForwardKind::Gelu,
        layer_norm: LayerNormPrecision::Full,
        ..mosaic()
    }
}

/// Both, in either precision of LayerNorm.
fn architectures() -> [(&'static str, ModelConfig); 4] {
    let with = |layer_norm, config| ModelConfig { layer_norm, ..config };
    [
        ("mosaic", mosaic()),
        ("mosaic full", with(LayerNormPrecision::Full, mosaic())),
        ("bert", bert()),
        ("bert low", with(LayerNormPrecision::Low, bert())),
    ]
}

/// A model of the same first values, which depend on the seed alone.
fn model(config: &ModelConfig, device: Device, kind: Kind) -> MaskedLm {
    let model = MaskedLm::new(config, 11, device, kind).unwrap();
    stir(model.parameters());
    model
}

/// A classifier of the same first values.
fn classifier(config: &ModelConfig, labels: i64, device: Device, kind: Kind) -> SequenceClassifier {
    let model = SequenceClassifier::new(config, labels, 11, device, kind).unwrap();
    stir(model.parameters());
    model
}

/// Biases of zero and LayerNorms of one would hide mistakes.
fn stir(parameters: &Parameters) {
    no_grad(|| {
        for (i, (_, parameter)) in parameters.iter().enumerate() {
            if parameter.dim() == 1 {
                tch::manual_seed(i as i64);
                let noise = Tensor::randn(parameter.size(), (Kind::Float, Device::Cpu)) * 0.1; // [any]
                let noise = noise.to_kind(parameter.kind()).to_device(parameter.device()); // [any]
                let _ = parameter.shallow_clone().g_add_(&noise);
            }
        }
    });
}

fn batch(lengths: &[i32], device: Device) -> TokenBatch {
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    let tokens = starts[starts.len() - 1];
    let ids: Vec<i32> = (0..tokens).map(|i| (i * 7919 + 13) % 1000).collect();
    let masked: Vec<i64> = (0..i64::from(tokens)).filter(|i| i % 3 == 0).collect();
    let labels: Vec<i64> = masked.iter().map(|i| (i * 31 + 5) % 1000).collect();
    TokenBatch::from_host(&ids, &starts, &masked, &labels, device).unwrap()
}

/// Lengths of up to 600 tokens, drawn by `seed`; one sequence is empty, and one a single token.
fn drawn_lengths(seed: i64) -> Vec<i32> {
    tch::manual_seed(seed);
    let drawn = Tensor::randint_low(1, 601, [6], (Kind::Int, Device::Cpu)); // [6]
    let mut lengths = Vec::<i32>::try_from(drawn).unwrap();
    lengths.insert(2, 0);
    lengths.push(1);
    lengths
}

fn on_host(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double)
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (on_host(found), on_host(expected));
    norm(&(found - &expected)) / norm(&expected)
}

/// A gradient in its parts: those of queries, keys and values stand beside each other, and the values' is by far the largest.
fn parts(name: &str, gradient: &Tensor) -> Vec<(String, Tensor)> {
    if !name.contains("Wqkv") {
        return vec![(name.to_owned(), gradient.shallow_clone())];
    }
    let thirds = gradient.chunk(3, 0).into_iter(); // 3 × [D, D] or [D]
    ["queries", "keys", "values"]
        .into_iter()
        .zip(thirds)
        .map(|(of, part)| (format!("{name} ({of})"), part))
        .collect()
}

/// Checks every gradient of the fused path. An error up to `granted` always passes, one above `limit` never.
fn compare(
    what: &str,
    exact: &[(String, Tensor)],
    reference: &Parameters,
    fused: &Parameters,
    [granted, limit]: [f64; 2],
) {
    let all = exact.iter().map(|(_, gradient)| norm(gradient).powi(2)).sum::<f64>().sqrt();
    let mut wrong = Vec::new();
    for (((name, exact), (_, reference)), (_, fused)) in exact.iter().zip(reference.iter()).zip(fused.iter())
    {
        let of = |parameter: &Tensor| parts(name, &on_host(&parameter.grad()));
        for (((name, exact), (_, reference)), (_, fused)) in
            parts(name, exact).iter().zip(of(reference)).zip(of(fused))
        {
            let scale = norm(exact).max(GRADIENT_FLOOR * all);
            let error = |found: &Tensor| norm(&(found - exact)) / scale;
            let (by_fused, by_reference) = (error(&fused), error(&reference));
            eprintln!("{what}: {name:<60} fused {by_fused:.2e} reference {by_reference:.2e}");
            // The sum of a few rounded differences has no more digits than chance leaves it.
            let granted = if exact.numel() < 8 { granted.max(A_FEW_NUMBERS) } else { granted };
            // A gradient below the floor is rounding and nothing else: of the reference path's it may be all gone.
            let granted = if norm(exact) < scale { granted.max(LIMIT) } else { granted };
            let limit = limit.max(FURTHER_AT_THE_LIMIT * by_reference);
            let allowed = (FURTHER * by_reference).max(granted).min(limit);
            if by_fused > allowed {
                wrong.push(format!("{name}: {by_fused:.2e}, reference path {by_reference:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
}

/// Loss, correct predictions and gradients after one backward pass.
fn run(model: &MaskedLm, batch: &TokenBatch) -> (f64, i64) {
    let output = model.loss(batch, true, batch.labels.size()[0] as f64).unwrap();
    output.backward().unwrap();
    (output.loss.double_value(&[]), output.correct.int64_value(&[]))
}

fn gradients(parameters: &Parameters) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(name, parameter)| (name.to_owned(), parameter.grad().copy())).collect()
}

#[test]
fn loss_and_every_gradient_agree_with_float64() {
    if !has_card("every gradient") {
        return;
    }
    for (name, config) in architectures() {
        let fresh = ModelConfig { initializer_range: 0.02, ..config.clone() };
        for (config, limit) in [(config, f64::INFINITY), (fresh, LIMIT)] {
            let lengths = [vec![128, 1, 0, 17, 64, 100], vec![300, 65, 513, 2, 0], vec![1]];
            for lengths in lengths.into_iter().chain([drawn_lengths(1), drawn_lengths(2)]) {
                let exact = model(&config, Device::Cpu, Kind::Double);
                let reference = model(&config, CARD, Kind::BFloat16);
                let mut fused = model(&config, CARD, Kind::BFloat16);
                fused.use_fused_path().unwrap();
                let expected = run(&exact, &batch(&lengths, Device::Cpu));
                let on_reference = run(&reference, &batch(&lengths, CARD));
                let found = run(&fused, &batch(&lengths, CARD));
                let what = format!("{name}, weights of {}, lengths {lengths:?}", config.initializer_range);
                eprintln!("{what}: loss {expected:?}, reference path {on_reference:?}, fused path {found:?}");
                // A single token's loss is one rounded logit: there the reference path is as far off.
                let error = |found: f64| (found - expected.0).abs();
                let allowed = (2e-3 * expected.0.abs().max(1.0)).max(2.0 * error(on_reference.0));
                assert!(
                    error(found.0) <= allowed,
                    "{found:?}, reference path {on_reference:?}, exact {expected:?}"
                );
                let exact: Vec<_> =
                    gradients(exact.parameters()).into_iter().map(|(name, g)| (name, on_host(&g))).collect();
                compare(&what, &exact, reference.parameters(), fused.parameters(), [ROUNDING, limit]);
            }
        }
    }
}

/// Classification of pairs of texts and regression of single ones: the last layer is computed at first tokens alone, and
/// segments have an embedding.
#[test]
fn a_classifiers_every_gradient_agrees_with_float64() {
    if !has_card("a classifier's gradients") {
        return;
    }
    let lengths = [128, 1, 17, 64, 300];
    for (name, config) in architectures() {
        for labels in [3, 1] {
            let pairs = labels == 3;
            let of = |device: Device| {
                let batch = batch(&lengths, device);
                let types: Vec<i32> = (0..batch.tokens() as i32).map(|i| i / 29 % 2).collect();
                if pairs { batch.with_token_types(&types) } else { batch }
            };
            let run = |model: &SequenceClassifier, device: Device| {
                let targets = match labels {
                    1 => Tensor::from_slice(&[0.5, -1.0, 2.0, 0.0, 1.5]),
                    _ => Tensor::from_slice(&[0_i64, 2, 1, 1, 0]),
                }; // [B]
                let output = model.loss(&of(device), &targets.to_device(device), true, 5.0).unwrap();
                output.backward().unwrap();
                output.loss.double_value(&[])
            };
            let exact = classifier(&config, labels, Device::Cpu, Kind::Double);
            let reference = classifier(&config, labels, CARD, Kind::BFloat16);
            let mut fused = classifier(&config, labels, CARD, Kind::BFloat16);
            fused.use_fused_path().unwrap();
            let (expected, on_reference, found) =
                (run(&exact, Device::Cpu), run(&reference, CARD), run(&fused, CARD));
            let what = format!("{name} classifier of {labels}");
            eprintln!("{what}: loss {expected}, reference path {on_reference}, fused path {found}");
            // Five texts: loss and the head's gradients are a handful of rounded numbers, where chance decides who is closer.
            let allowed = (LIMIT * expected.abs()).max(2.0 * (on_reference - expected).abs());
            assert!((found - expected).abs() <= allowed, "{what}: {found}, exact {expected}");
            let exact: Vec<_> =
                gradients(exact.parameters()).into_iter().map(|(name, g)| (name, on_host(&g))).collect();
            let bounds = [LIMIT, f64::INFINITY];
            compare(&what, &exact, reference.parameters(), fused.parameters(), bounds);
        }
    }
}

/// MosaicML's own code in float64, by the file that the reference path is tested with.
#[test]
fn every_gradient_agrees_with_mosaicmls_model() {
    if !has_card("MosaicML's model") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mosaicbert-3h-d64.safetensors");
    let golden = Golden::read(&path).expect("a file of a model");
    let (lengths, real) = golden.sequences();
    for layer_norm in [LayerNormPrecision::Full, LayerNormPrecision::Low] {
        let config = ModelConfig { layer_norm, ..golden.config.clone() };
        let model = || {
            let parameters = golden.parameters(&config, Head::MaskedLm, CARD);
            MaskedLm::from_parameters(&config, parameters, Kind::BFloat16).unwrap()
        };
        let (reference, mut fused, batch) = (model(), model(), golden.batch(&lengths, &real, CARD));
        fused.use_fused_path().unwrap();
        let _ = run(&reference, &batch);
        let (loss, _) = run(&fused, &batch);
        let expected = golden.tensors["loss"].double_value(&[0]);
        assert!((loss - expected).abs() <= 2e-3 * expected, "{loss} {expected}");
        let hidden = relative(&fused.hidden(&batch).unwrap(), &golden.tensors["hidden"]);
        let logits = relative(&fused.logits(&batch).unwrap(), &golden.tensors["logits_masked"]);
        assert!(hidden <= LIMIT && logits <= LIMIT, "hidden {hidden:.2e}, logits {logits:.2e}");
        let gradient = |name: &str, parameter: &Tensor| match golden.tensors.get(&format!("grad.{name}")) {
            Some(gradient) => gradient.shallow_clone(),
            None => Tensor::zeros(parameter.size(), (Kind::Double, Device::Cpu)),
        };
        let exact = fused.parameters().iter().map(|(name, p)| (name.to_owned(), gradient(name, p)));
        let what = format!("golden, LayerNorm {layer_norm:?}");
        let bounds = [ROUNDING, f64::INFINITY];
        compare(&what, &exact.collect::<Vec<_>>(), reference.parameters(), fused.parameters(), bounds);
    }
}

/// With dropout, gradients follow the loss under the same masks: it changes along the gradient of a bias as that says. The
/// values' bias has its own way there when probabilities are dropped.
#[test]
fn gradients_are_those_of_the_masks_that_were_drawn() {
    if !has_card("gradients under dropout") {
        return;
    }
    let config = ModelConfig { attention_probs_dropout_prob: 0.5, hidden_dropout_prob: 0.1, ..mosaic() };
    let mut fused = model(&config, CARD, Kind::BFloat16);
    fused.use_fused_path().unwrap();
    let batch = batch(&[128, 3, 60, 300], CARD);
    let loss = || {
        tch::manual_seed(5);
        run(&fused, &batch).0
    };
    let _ = loss();
    let name = "bert.encoder.layer.1.attention.self.Wqkv.bias";
    let (_, bias) = fused.parameters().iter().find(|(found, _)| *found == name).unwrap();
    let (before, gradient) = (bias.detach().copy(), bias.grad().copy());
    let step = 0.05 / norm(&gradient).powi(2); // so far that the loss should change by 0.05 on either side
    let beside = |factor: f64| {
        no_grad(|| bias.shallow_clone().copy_(&(&before + &gradient * (factor * step))));
        loss()
    };
    let change = (beside(1.0) - beside(-1.0)) / 2.0;
    assert!((change / 0.05 - 1.0).abs() < 0.2, "the loss changed by {change}, expected 0.05");
}

/// The same seed, the same bits; micro-batches add up; and outside training nothing is dropped.
#[test]
fn steps_repeat_bit_for_bit_with_dropout() {
    if !has_card("repeated steps") {
        return;
    }
    let config = ModelConfig { hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1, ..mosaic() };
    let once = || {
        let mut fused = model(&config, CARD, Kind::BFloat16);
        fused.use_fused_path().unwrap();
        tch::manual_seed(7);
        let batch = batch(&[128, 60, 300], CARD);
        let losses = [run(&fused, &batch), run(&fused, &batch)];
        (losses, gradients(fused.parameters()), fused)
    };
    let (losses, first, fused) = once();
    let (again, second, _) = once();
    assert_eq!(losses, again);
    assert_ne!(losses[0].0, losses[1].0, "two passes have different masks");
    for ((name, a), (_, b)) in first.iter().zip(&second) {
        assert!(a.equal(b), "{name}");
    }
    let batch = batch(&[128, 60, 300], CARD);
    let evaluate = || no_grad(|| fused.loss(&batch, false, 1.0).unwrap().loss.double_value(&[]));
    assert_eq!(evaluate(), evaluate());
}

/// Training follows the formula, and what torch writes to a parameter reaches the next forward pass.
#[test]
fn the_optimizer_updates_parameters_and_copies() {
    if !has_card("the optimizer") {
        return;
    }
    let mut fused = model(&mosaic(), CARD, Kind::BFloat16);
    fused.use_fused_path().unwrap();
    let moments: Vec<[Tensor; 2]> =
        fused.parameters().iter().map(|(_, p)| [(); 2].map(|()| p.detach().zeros_like())).collect();
    let moments: Vec<_> = moments.iter().map(|moments| moments.each_ref()).collect();
    assert!(fused.fused_adamw(&moments[1..]).unwrap_err().to_string().contains("parameters"));
    let optimizer = fused.fused_adamw(&moments).unwrap();
    let batch = batch(&[128, 60], CARD);
    let before: Vec<_> = fused.parameters().iter().map(|(_, p)| p.detach().copy()).collect();
    let (first_loss, _) = run(&fused, &batch);
    // The first step: m / (1 - b1) = g and v / (1 - b2) = g².
    let after = |(before, (_, gradient)): (&Tensor, (String, Tensor))| {
        before * (1.0 - 1e-3) - &gradient / (gradient.abs() + 1e-6) * 1e-3
    };
    let expected: Vec<_> = before.iter().zip(gradients(fused.parameters())).map(after).collect();
    let factor = |value: f64| Tensor::from_slice(&[value]).to_device(CARD); // [1]
    optimizer.update(1e-3, [0.9, 0.98], 1e-6, 1.0 - 1e-3, &factor(1.0)).unwrap();
    for (((name, parameter), expected), before) in fused.parameters().iter().zip(&expected).zip(&before) {
        let moved = relative(&(parameter.detach() - before), &(expected - before));
        assert!(moved < 1e-3, "{name}: {moved:.2e}");
        assert_eq!(parameter.grad().abs().max().double_value(&[]), 0.0, "{name}");
    }
    let second_loss = run(&fused, &batch).0;
    optimizer.update(1e-3, [0.9, 0.98], 1e-6, 1.0, &factor(0.0)).unwrap();
    assert_eq!(optimizer.updates(), 1);
    assert_eq!(run(&fused, &batch).0, second_loss, "a factor of zero changes no weight");
    let mut loss = second_loss;
    for _ in 0..10 {
        optimizer.update(1e-3, [0.9, 0.98], 1e-6, 1.0, &factor(1.0)).unwrap();
        loss = run(&fused, &batch).0;
    }
    assert_eq!(optimizer.updates(), 11);
    assert!(loss < first_loss - 0.5, "{loss} after ten updates, {first_loss} before");

    no_grad(|| {
        for ((_, parameter), before) in fused.parameters().iter().zip(&before) {
            parameter.shallow_clone().copy_(before);
        }
    });
    assert_eq!(run(&fused, &batch).0, first_loss);
}
