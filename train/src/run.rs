//! A training run: its parts, and the loop feed → step → log → evaluate → save.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use loader::{Corpus, Loader};
use model::MaskedLm;
use tch::Device;

use crate::checkpoint::{self, Identity, State, Window};
use crate::config::{Config, DeviceChoice, PathChoice};
use crate::device;
use crate::error::Error;
use crate::eval;
use crate::folder::{RunFolder, RunLock};
use crate::host::{self, Data, Host, Provenance, Resumption};
use crate::metrics::{EvalRecord, MetricsWriter, Record, TrainRecord};
use crate::optimizer::DecoupledAdamW;
use crate::progress::Progress;
use crate::step::{Launched, StepOutcome, step};
use crate::stop::Stop;

/// A run that is ready to train.
#[derive(Debug)]
pub struct Run {
    folder: RunFolder,
    _lock: RunLock,
    config: Config,
    corpus: Arc<Corpus>,
    device: Device,
    model: MaskedLm,
    optimizer: DecoupledAdamW,
    state: State,
    metrics: MetricsWriter,
    /// Unigram cross-entropy of the corpus in nats.
    unigram: f64,
}

/// A step that the device is busy with, and the size of its batch.
struct UnderWay {
    launched: Launched,
    samples: u64,
    tokens: u64,
    masked: u64,
}

/// Wall-clock measurements since the last training record.
struct Watch {
    since: Instant,
    waited_s: f64,
    steps: u64,
    samples: u64,
    tokens: u64,
}

impl Run {
    /// A new run in `out`, trained on `shards`.
    ///
    /// # Errors
    /// A folder that holds a run already, shards that cannot be read or do not fit the model, no such device.
    pub fn start(out: &Path, shards: &[PathBuf], config: Config) -> Result<Run, Error> {
        // Everything that can be wrong is found before anything is written.
        let corpus = Corpus::open(shards)?;
        check_vocabulary(&config, &corpus)?;
        let device = device::choose(config.train.device)?;
        let (folder, lock) = RunFolder::create(out)?;
        let (model, optimizer) = build(&config, device)?;
        let provenance = Provenance {
            program: host::PROGRAM.to_owned(),
            commit: host::commit(),
            torch: host::TORCH.to_owned(),
            started: host::now(),
            command: std::env::args().collect(),
            host: Host::detect(),
            device: device::name(device).to_owned(),
            threads: tch::get_num_threads() as usize,
            data: describe(&corpus, shards)?,
            parameters: config.model.parameter_count() as u64,
            resumptions: Vec::new(),
        };
        provenance.write(&folder.provenance())?;
        folder.write_config(&config)?;
        let state = State::start(identity(&provenance.data));
        Run::assemble(folder, lock, config, corpus, device, model, optimizer, state)
    }

    /// The run in `path`, from its newest usable checkpoint, or from the beginning when it has not saved yet.
    /// `shards` and `device` replace where the data lies and what computes; both must give the same results.
    ///
    /// # Errors
    /// A folder that holds no run, one that another process trains in, checkpoints that are all unusable, or a
    /// checkpoint of another model or other data.
    pub fn resume(path: &Path, shards: &[PathBuf], device: Option<DeviceChoice>) -> Result<Run, Error> {
        let folder = RunFolder::open(path)?;
        let lock = folder.lock()?;
        let mut config = folder.read_config()?;
        config.train.device = device.unwrap_or(config.train.device);
        config.validate()?;
        let mut provenance = Provenance::read(&folder.provenance())?;
        let shards = if shards.is_empty() { provenance.data.shards.clone() } else { shards.to_vec() };
        let corpus = Corpus::open(&shards)?;
        check_vocabulary(&config, &corpus)?;
        let data = describe(&corpus, &shards)?;
        let device = device::choose(config.train.device)?;
        fs::create_dir_all(folder.checkpoints())
            .map_err(|source| Error::Write { path: folder.checkpoints(), source })?;
        checkpoint::remove_unfinished(&folder.checkpoints())?;
        let found = checkpoint::latest(path, |error| eprintln!("{error}; trying the one before"))?;
        let (model, mut optimizer) = build(&config, device)?;
        let state = match found {
            Some(checkpoint) => {
                checkpoint.check(&config, identity(&data))?;
                checkpoint.load_parameters(model.parameters())?;
                checkpoint.load_optimizer(&mut optimizer)?;
                eprintln!("resuming from {}", checkpoint.path.display());
                checkpoint.state
            }
            None => {
                eprintln!("{} has no checkpoint yet; starting from step 0", path.display());
                State::start(identity(&data))
            }
        };
        let program = host::PROGRAM.to_owned();
        provenance.resumptions.push(Resumption { step: state.step, at: host::now(), program });
        provenance.data = data;
        provenance.write(&folder.provenance())?;
        Run::assemble(folder, lock, config, corpus, device, model, optimizer, state)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the structure, collected in two ways")]
    fn assemble(
        folder: RunFolder,
        lock: RunLock,
        config: Config,
        corpus: Arc<Corpus>,
        device: Device,
        model: MaskedLm,
        optimizer: DecoupledAdamW,
        state: State,
    ) -> Result<Run, Error> {
        let metrics = MetricsWriter::resume(&folder.metrics(), state.step)?;
        let unigram = eval::unigram(&corpus, config.loader.policy, config.train.seq_len)?;
        Ok(Run { folder, _lock: lock, config, corpus, device, model, optimizer, state, metrics, unigram })
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The model as it stands.
    pub fn model(&self) -> &MaskedLm {
        &self.model
    }

    /// Trains to the last step, or until a stop is requested: then the step under way is finished and saved. Does nothing
    /// when the run has reached its last step already.
    ///
    /// # Errors
    /// A damaged shard, a run that diverges, a checkpoint that cannot be saved. The last good checkpoint stays.
    pub fn train(&mut self, stop: &Stop) -> Result<(), Error> {
        let steps = self.config.train.steps;
        let first = self.state.step;
        if first >= steps {
            eprintln!("{} is finished: all {steps} steps are done", self.folder.path().display());
            return Ok(());
        }
        let config = self.config.loader_config();
        let mut loader = Loader::start(Arc::clone(&self.corpus), &config, 0, 1, first, steps)?;
        let progress = Progress::new(steps, first);
        let (begun, elapsed_before) = (Instant::now(), self.state.elapsed_s);
        let mut watch = Watch::start();
        let mut under_way: Option<UnderWay> = None;
        loop {
            let asked = Instant::now();
            let Some(batch) = loader.next().transpose()? else { break };
            watch.waited_s += asked.elapsed().as_secs_f64();

            let done = batch.step + 1;
            let lr = self.config.optimizer.lr * self.config.schedule.factor(batch.step, steps);
            let launched = step(&self.model, &mut self.optimizer, &batch, lr, self.config.seed, self.device)?;
            let (samples, tokens, masked) = (batch.samples, batch.tokens, batch.masked_tokens);
            loader.recycle(batch);
            // The device works on this step while the host learns how the one before went.
            if let Some(before) = under_way.replace(UnderWay { launched, samples, tokens, masked }) {
                self.account(before, &mut watch, &progress)?;
            }
            let (last, stopping) = (done == steps, stop.requested());
            let due = |every| last || is_due(done, every);
            let (log, evaluate, save) = (
                due(self.config.train.log_every_steps),
                due(self.config.eval.every_steps),
                due(self.config.checkpoint.every_steps) || stopping,
            );
            if !(log || evaluate || save) {
                continue;
            }
            let this = under_way.take().expect("it has just been launched");
            let grad_norm = self.account(this, &mut watch, &progress)?;
            self.state.elapsed_s = elapsed_before + begun.elapsed().as_secs_f64();
            if log {
                self.log(lr, grad_norm, &watch, &progress)?;
                watch = Watch::start();
            }
            let paused = Instant::now();
            if evaluate {
                self.evaluate(&progress)?;
            }
            if save {
                self.state.elapsed_s = elapsed_before + begun.elapsed().as_secs_f64();
                self.save()?;
            }
            watch.skip(paused);
            if stopping && !last {
                let run = self.folder.path().display();
                progress.line(&format!(
                    "stopped after step {done}, which is saved; continue with `train --resume {run}`"
                ));
                break;
            }
        }
        progress.finish();
        Ok(())
    }

    /// Waits for a step, adds it to the counters and gives the norm of its gradient. A step without update counts towards
    /// the end of a diverging run.
    fn account(&mut self, under_way: UnderWay, watch: &mut Watch, progress: &Progress) -> Result<f64, Error> {
        let UnderWay { launched, samples, tokens, masked } = under_way;
        let outcome = launched.outcome()?;
        let state = &mut self.state;
        state.step += 1;
        state.samples += samples;
        state.tokens += tokens;
        watch.steps += 1;
        watch.samples += samples;
        watch.tokens += tokens;
        progress.step();
        if outcome.updated {
            state.skipped_in_a_row = 0;
            state.window.loss += outcome.loss * masked as f64;
            state.window.correct += outcome.correct;
            state.window.masked += masked;
            return Ok(outcome.grad_norm);
        }
        state.skipped += 1;
        state.skipped_in_a_row += 1;
        let StepOutcome { loss, grad_norm, .. } = outcome;
        progress
            .line(&format!("step {}: loss {loss}, gradient norm {grad_norm}; update skipped", state.step));
        if state.skipped_in_a_row < self.config.train.max_skipped_in_a_row {
            return Ok(grad_norm);
        }
        let (streak, step) = (state.skipped_in_a_row, state.step);
        Err(Error::Diverged { streak, step, last_good: self.last_good() })
    }

    /// Writes a training record and empties the window. Nothing is written when every step of it was skipped.
    fn log(&mut self, lr: f64, grad_norm: f64, watch: &Watch, progress: &Progress) -> Result<(), Error> {
        let state = &mut self.state;
        let Window { loss, correct, masked } = std::mem::take(&mut state.window);
        if masked == 0 {
            return Ok(());
        }
        let seconds = watch.since.elapsed().as_secs_f64().max(1e-9);
        let record = TrainRecord {
            step: state.step,
            loss: loss / masked as f64,
            accuracy: correct as f64 / masked as f64,
            lr,
            // A skipped step's norm is not a number JSON can hold.
            grad_norm: if grad_norm.is_finite() { grad_norm } else { 0.0 },
            samples_per_s: watch.samples as f64 / seconds,
            tokens_per_s: watch.tokens as f64 / seconds,
            wait_share: watch.waited_s / seconds,
            samples: state.samples,
            tokens: state.tokens,
            skipped: state.skipped,
            elapsed_s: state.elapsed_s,
        };
        progress.train(&record, seconds / watch.steps as f64);
        self.metrics.write(&Record::Train(record))
    }

    /// Evaluates and writes the record.
    fn evaluate(&mut self, progress: &Progress) -> Result<(), Error> {
        let config = self.config.held_out_config();
        let evaluation = eval::evaluate(&self.model, &self.corpus, &config, self.device)?;
        let record = EvalRecord {
            step: self.state.step,
            loss: evaluation.loss,
            accuracy: evaluation.accuracy,
            masked_tokens: evaluation.masked_tokens,
            unigram_loss: self.unigram,
            elapsed_s: self.state.elapsed_s,
        };
        progress.eval(&record);
        self.metrics.write(&Record::Eval(record))
    }

    /// Saves a checkpoint, then removes those that are no longer to be kept.
    fn save(&mut self) -> Result<(), Error> {
        self.metrics.sync()?;
        self.state.updates = self.optimizer.updates();
        let (dir, state) = (self.folder.checkpoints(), self.state.clone());
        let saved = checkpoint::save(
            &dir,
            state,
            &self.config,
            self.corpus.tokenizer_json(),
            self.model.parameters(),
            &self.optimizer,
        );
        if let Err(source) = saved {
            let (step, last_good) = (self.state.step, self.last_good());
            return Err(Error::SaveFailed { step, last_good, source: Box::new(source) });
        }
        checkpoint::retain(&dir, self.config.checkpoint.keep)
    }

    /// The newest checkpoint, as a part of a sentence.
    fn last_good(&self) -> String {
        match checkpoint::list(&self.folder.checkpoints()).unwrap_or_default().pop() {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no earlier checkpoint".to_owned(),
        }
    }
}

impl Watch {
    fn start() -> Watch {
        Watch { since: Instant::now(), waited_s: 0.0, steps: 0, samples: 0, tokens: 0 }
    }

    /// Takes the time since `paused` out of the measurement.
    fn skip(&mut self, paused: Instant) {
        self.since += paused.elapsed();
    }
}

/// Whether something that happens every `every` steps (0: never) happens after step `done`.
fn is_due(done: u64, every: u64) -> bool {
    // Zero divides nothing but zero, and `done` is at least one.
    done.is_multiple_of(every)
}

/// Model and optimizer of a configuration, with initial weights.
pub(crate) fn build(config: &Config, device: Device) -> Result<(MaskedLm, DecoupledAdamW), Error> {
    device::set_threads(config.train.threads);
    let mut model = MaskedLm::new(&config.model, config.seed, device, device::compute_kind(device))?;
    match config.train.path {
        PathChoice::Fused => model.use_fused_path()?,
        PathChoice::Auto if device.is_cuda() => {
            if let Err(reason) = model.use_fused_path() {
                eprintln!("note: training on the reference path, which is slower: {reason}");
            }
        }
        PathChoice::Auto | PathChoice::Reference => {}
    }
    let optimizer = DecoupledAdamW::of(config.optimizer.clone(), &model)?;
    Ok((model, optimizer))
}

/// Refuses shards whose ids the model has no rows for.
pub(crate) fn check_vocabulary(config: &Config, corpus: &Corpus) -> Result<(), Error> {
    let (found, expected) = (config.model.vocab_size, corpus.tokenizer().model_vocab_size);
    match found == i64::from(expected) {
        true => Ok(()),
        false => Err(Error::Vocabulary { found, expected }),
    }
}

fn identity(data: &Data) -> Identity<'_> {
    Identity { manifest_blake3: &data.manifest_blake3, tokenizer_blake3: &data.tokenizer_blake3 }
}

/// Describes a corpus for the provenance.
fn describe(corpus: &Corpus, shards: &[PathBuf]) -> Result<Data, Error> {
    let absolute =
        |path: &PathBuf| fs::canonicalize(path).map_err(|source| Error::Read { path: path.clone(), source });
    let manifests = corpus.manifests();
    let sums: Vec<String> = manifests.iter().map(|manifest| manifest.blake3()).collect();
    let manifest_blake3 = match sums.as_slice() {
        [one] => one.clone(),
        _ => blake3::hash(sums.concat().as_bytes()).to_hex().to_string(),
    };
    Ok(Data {
        shards: shards.iter().map(absolute).collect::<Result<_, _>>()?,
        manifest_blake3,
        tokenizer_blake3: corpus.tokenizer().blake3.clone(),
        vocab_size: corpus.tokenizer().vocab_size,
        documents: manifests.iter().map(|manifest| manifest.documents).sum(),
        held_out_documents: manifests.iter().map(|manifest| manifest.held_out_documents).sum(),
        tokens: manifests.iter().map(|manifest| manifest.tokens).sum(),
        text_bytes: manifests.iter().map(|manifest| manifest.text_bytes).sum(),
        inputs: manifests
            .iter()
            .flat_map(|manifest| &manifest.ingest.inputs)
            .map(|input| input.path.rsplit('/').next().unwrap_or_default().to_owned())
            .collect(),
    })
}
