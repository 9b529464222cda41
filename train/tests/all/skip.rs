//! Steps whose loss or gradient is not finite change nothing and are counted.

use std::path::Path;
use std::sync::Arc;

use loader::{Corpus, Loader, LoaderConfig};
use model::MaskedLm;
use tch::{Device, Kind, Tensor, no_grad};
use train::config::Config;
use train::layers;
use train::optimizer::DecoupledAdamW;
use train::step::{StepOutcome, step};

use crate::command::{Bench, fail};
use crate::corpus::{self, VOCAB};

fn config() -> Config {
    let vocabulary = format!("model.vocab_size={VOCAB}");
    let sets = [&vocabulary, "model.hidden_size=32", "train.batch_size=8", "train.seq_len=24"];
    layers::resolve("tiny", None, &sets.map(str::to_owned)).unwrap()
}

/// Model, optimizer and loader as a run has them.
fn parts(config: &Config, shards: &Path) -> (MaskedLm, DecoupledAdamW, Loader) {
    let model = MaskedLm::new(&config.model, config.seed, Device::Cpu, Kind::Float).unwrap();
    let optimizer = DecoupledAdamW::of(config.optimizer.clone(), &model, None).unwrap();
    let loader_config: LoaderConfig = config.loader_config();
    let corpus: Arc<Corpus> = Corpus::open(&[shards]).unwrap();
    (model, optimizer, Loader::start(corpus, &loader_config, 0, 1, 0, 3).unwrap())
}

fn values(model: &MaskedLm) -> Vec<Tensor> {
    model.parameters().iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

/// A step in whose middle one weight is poisoned is as if it had not been made: the steps after it are those of a twin that
/// never saw it.
#[test]
fn a_poisoned_step_leaves_weights_moments_and_the_count_of_updates_alone() {
    let dir = tempfile::tempdir().unwrap();
    corpus::write(dir.path(), 100, "words");
    let config = config();
    let [mut hurt, mut twin] = [(); 2].map(|()| parts(&config, dir.path()));
    for poison in [f64::NAN, f64::INFINITY] {
        let (model, optimizer, _) = &mut hurt;
        let before = values(model);
        let weight = model.parameters().find("cls.predictions.transform.dense.weight").unwrap(); // [D, D]
        let good = weight.detach().copy();
        let _ = no_grad(|| weight.detach().fill_(poison));
        let batch = Loader::start(Corpus::open(&[dir.path()]).unwrap(), &config.loader_config(), 0, 1, 9, 10)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let outcome: StepOutcome =
            step(model, optimizer, &batch, 1e-3, config.seed, Device::Cpu).unwrap().outcome().unwrap();
        assert!(!outcome.updated && !outcome.loss.is_finite(), "{outcome:?}");
        no_grad(|| weight.detach().copy_(&good));
        assert!(before.iter().zip(values(model)).all(|(one, other)| one.equal(&other)));
        assert_eq!(optimizer.updates(), 0);
    }
    for _ in 0..3 {
        for (model, optimizer, loader) in [&mut hurt, &mut twin] {
            let batch = loader.next().unwrap().unwrap();
            let outcome =
                step(model, optimizer, &batch, 1e-3, config.seed, Device::Cpu).unwrap().outcome().unwrap();
            assert!(outcome.updated && outcome.grad_norm > 0.0);
        }
    }
    assert!(values(&hurt.0).iter().zip(values(&twin.0)).all(|(one, other)| one.equal(&other)));
    assert!(hurt.1.state().zip(twin.1.state()).all(|(one, other)| one.1.equal(other.1)));
}

/// A learning rate that blows the weights up after a good checkpoint: nothing that is not finite is ever saved.
#[test]
fn a_run_that_blows_up_keeps_its_last_good_checkpoint() {
    let bench = Bench::new();
    let sets = [
        "optimizer.lr=1e38",
        "schedule.warmup_fraction=0.05",
        "checkpoint.every_steps=1",
        "checkpoint.keep=0",
        "train.max_skipped_in_a_row=3",
    ];
    let message = fail(bench.start("run", 40, &sets));
    // The first update has a learning rate of 0.
    assert!(message.contains("the last good checkpoint is run/checkpoints/step-000001"), "{message}");
    assert!(message.contains("not finite"), "{message}");
    let weights = Tensor::read_safetensors(bench.checkpoint("run", 1).join("model.safetensors")).unwrap();
    assert!(weights.iter().all(|(_, tensor)| tensor.isfinite().all().int64_value(&[]) == 1));
}
