//! Decoupled AdamW and the linear schedule against tensors computed by Composer's own code.

use std::path::Path;

use tch::{Kind, Tensor};
use train::optimizer::{DecoupledAdamW, OptimizerConfig};
use train::schedule::{ScheduleConfig, Shape};

/// The metadata entry `config` of the golden file.
#[derive(serde::Deserialize)]
struct Golden {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    schedule: String,
}

/// Absolute difference allowed in float64; the values are of the order of one.
const TOLERANCE: f64 = 1e-12;

#[test]
fn twelve_steps_equal_composers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decoupled-adamw.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let golden: Golden = serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap();
    assert_eq!(golden.schedule, "linear warm-up over 3 of 12 steps, then linear to 0.02x at step 12");
    let tensors = Tensor::read_safetensors(&path).unwrap();
    let tensor = |name: &str| &tensors.iter().find(|(n, _)| n == name).unwrap().1;

    let schedule = ScheduleConfig {
        shape: Shape::Linear,
        warmup_fraction: 3.0 / 12.0,
        decay_fraction: 0.1,
        final_fraction: 0.02,
    };
    let [p, q] = ["p0", "q0"].map(|name| tensor(name).copy().set_requires_grad(true)); // [7, 5] and [5]
    let config = OptimizerConfig {
        lr: golden.lr,
        betas: golden.betas,
        eps: golden.eps,
        weight_decay: golden.weight_decay,
        clip_norm: 0.0,
    };
    let mut optimizer = DecoupledAdamW::new(config, [("p", &p), ("q", &q)]);
    for step in 0..12 {
        let lr = golden.lr * schedule.factor(step as f64 / 12.0);
        assert!((lr - tensor("lr").double_value(&[step])).abs() < TOLERANCE, "learning rate of step {step}");
        // The gradient of Σ p·g with respect to p is g.
        let loss = (&p * tensor("p_grads").get(step)).sum(Kind::Double)
            + (&q * tensor("q_grads").get(step)).sum(Kind::Double);
        loss.backward();
        let loss = loss.detach().view(1); // [1]
        optimizer.step_if_finite(lr, &loss, &loss).unwrap();
        for (name, ours) in [("p_after", &p), ("q_after", &q)] {
            let error = (ours - tensor(name).get(step)).abs().max().double_value(&[]);
            assert!(error <= TOLERANCE, "{name} at step {step}: off by {error:e}");
        }
    }
}
