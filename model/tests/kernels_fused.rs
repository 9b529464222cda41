//! The fused path against the reference path in float64, on a CUDA card. Elsewhere there is nothing to test.
//!
//! Both compute from the same parameters and batch. The fused path may be off by 1.5 % in any gradient, or by twice what the
//! reference path is in the same type, bf16, where that is more.

use model::{MaskedLm, ModelConfig, Parameters, TokenBatch};
use tch::{Device, Kind, Tensor, no_grad};

const CARD: Device = Device::Cuda(0);

fn has_card() -> bool {
    model::torch::load_cuda() && model::torch::cuda_available()
}

fn config() -> ModelConfig {
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

/// A model of the same first values, which depend on the seed alone.
fn model(config: &ModelConfig, device: Device, kind: Kind) -> MaskedLm {
    let model = MaskedLm::new(config, 11, device, kind).unwrap();
    // Biases of zero and LayerNorms of one would hide mistakes.
    no_grad(|| {
        for (i, (_, parameter)) in model.parameters().iter().enumerate() {
            if parameter.dim() == 1 {
                tch::manual_seed(i as i64);
                let noise = Tensor::randn(parameter.size(), (Kind::Float, Device::Cpu)) * 0.1; // [any]
                let _ = parameter.shallow_clone().g_add_(&noise.to_kind(parameter.kind()).to_device(device));
            }
        }
    });
    model
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

fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    let found = found.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    let expected = expected.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    let norm = expected.norm().double_value(&[]);
    (found - expected).norm().double_value(&[]) / norm.max(1e-30)
}

/// Loss, correct predictions and gradients after one backward pass.
fn run(model: &MaskedLm, batch: &TokenBatch) -> (f64, i64) {
    let output = model.loss(batch, true, batch.labels.size()[0] as f64);
    output.loss.backward();
    (output.loss.double_value(&[]), output.correct.int64_value(&[]))
}

fn gradients(parameters: &Parameters) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(name, parameter)| (name.to_owned(), parameter.grad().copy())).collect()
}

#[test]
fn loss_and_every_gradient_agree_with_float64() {
    if !has_card() {
        return;
    }
    for lengths in [&[128, 1, 0, 17, 64, 100][..], &[300, 65, 513, 2, 0], &[1]] {
        let config = config();
        let exact = model(&config, Device::Cpu, Kind::Double);
        let reference = model(&config, CARD, Kind::BFloat16);
        let mut fused = model(&config, CARD, Kind::BFloat16);
        fused.use_fused_path().unwrap();
        let expected = run(&exact, &batch(lengths, Device::Cpu));
        let on_reference = run(&reference, &batch(lengths, CARD));
        let found = run(&fused, &batch(lengths, CARD));
        eprintln!(
            "lengths {lengths:?}: loss {expected:?}, reference path {on_reference:?}, fused path {found:?}"
        );
        assert!((found.0 - expected.0).abs() <= 2e-3 * expected.0.abs().max(1.0), "{found:?} {expected:?}");
        let all = gradients(exact.parameters()).into_iter().zip(gradients(reference.parameters()));
        for (((name, exact), (_, reference)), (_, fused)) in all.zip(gradients(fused.parameters())) {
            let (by_fused, by_reference) = (relative(&fused, &exact), relative(&reference, &exact));
            eprintln!("{name:<60} fused {by_fused:.2e} reference {by_reference:.2e}");
            assert!(
                by_fused <= (2.0 * by_reference).max(1.5e-2),
                "{name}: {by_fused:.2e}, reference path {by_reference:.2e}"
            );
        }
    }
}

/// The same seed, the same bits; micro-batches add up; and outside training nothing is dropped.
#[test]
fn steps_repeat_bit_for_bit_with_dropout() {
    if !has_card() {
        return;
    }
    let config = ModelConfig { hidden_dropout_prob: 0.1, ..config() };
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
    let evaluate = || no_grad(|| fused.loss(&batch, false, 1.0).loss.double_value(&[]));
    assert_eq!(evaluate(), evaluate());
}

/// Training follows the formula, and what torch writes to a parameter reaches the next forward pass.
#[test]
fn the_optimizer_updates_parameters_and_copies() {
    if !has_card() {
        return;
    }
    let mut fused = model(&config(), CARD, Kind::BFloat16);
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
