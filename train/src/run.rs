//! A training run: its parts, and the loop feed → step → log → evaluate → save.

mod length;
mod open;
mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use loader::{Corpus, Loader, LoaderConfig};
use model::{MaskedLm, Work};
use tch::Device;

use crate::checkpoint::{Saver, State, Window};
use crate::config::Config;
use crate::distributed::Ranks;
use crate::error::Error;
use crate::eval;
use crate::folder::{RunFolder, RunLock};
use crate::host::unix_time;
use crate::journal::{Journal, Outlets};
use crate::metrics::{EvalRecord, Record, TrainRecord};
use crate::micro_batch;
use crate::optimizer::DecoupledAdamW;
use crate::pace::UNMEASURED;
use crate::progress::Progress;
use crate::step::{Launched, StepOutcome, step, step_seed};
use crate::stop::Stop;

pub(crate) use open::{build, check_vocabulary};

/// How long a run waits for a batch before it looks whether it has been asked to stop.
const ATTENTION: Duration = Duration::from_millis(100);

/// A run that is ready to train.
#[derive(Debug)]
pub struct Run {
    folder: RunFolder,
    /// In a job rank 0 has it.
    _lock: Option<RunLock>,
    config: Config,
    corpus: Arc<Corpus>,
    device: Device,
    model: MaskedLm,
    optimizer: DecoupledAdamW,
    state: State,
    /// In a job rank 0 has it.
    journal: Option<Journal>,
    saver: Saver,
    /// Unigram cross-entropy of the corpus in nats, once it is known. In a job rank 0 has it.
    unigram: Option<f64>,
    /// bf16 peak of all ranks' cards in TFLOP/s, where they are known ones.
    peak: Option<f64>,
    /// The processes that make the run together.
    ranks: Ranks,
}

/// A step that the device is busy with, and the size of its batch.
struct UnderWay {
    launched: Launched,
    samples: u64,
    tokens: u64,
    masked: u64,
    /// Floating-point operations of this rank's part.
    flops: f64,
}

/// The rates of the last step that was launched, and what became of it.
struct Last {
    progress: f64,
    lr: f64,
    mask_rate: f64,
    grad_norm: f64,
}

/// The seconds of a run, over all its processes.
struct Clock {
    begun: Instant,
    before_s: f64,
}

/// Wall-clock measurements since the last training record.
struct Watch {
    since: Instant,
    waited_s: f64,
    steps: u64,
    samples: u64,
    tokens: u64,
    /// Floating-point operations of this rank.
    flops: f64,
}

impl Run {
    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The model as it stands.
    pub fn model(&self) -> &MaskedLm {
        &self.model
    }

    /// Lets the run be watched. In a job that is rank 0's.
    ///
    /// # Errors
    /// [`Error::Write`] for a file of Prometheus text that cannot be written.
    pub fn publish(&mut self, outlets: &Outlets) -> Result<(), Error> {
        let command: Vec<String> = std::env::args().collect();
        // Markdown shows lines that are indented by four as they are.
        let verbatim = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let texts =
            vec![("config", verbatim(&self.config.to_toml())), ("command", verbatim(&command.join(" ")))];
        match &mut self.journal {
            Some(journal) => journal.publish(outlets, &self.folder, self.state.step, texts),
            None => Ok(()),
        }
    }

    /// Trains to the last step, or until a stop is requested: then the step under way is finished and saved. Does nothing
    /// when the run has reached its last step already.
    ///
    /// # Errors
    /// A damaged shard, a run that diverges, a checkpoint that cannot be saved. The last good checkpoint stays.
    pub fn train(&mut self, stop: &Stop) -> Result<(), Error> {
        let first = self.state.step;
        let ranks = self.ranks.clone();
        let mut progress = match ranks.is_first() {
            true => Progress::new(self.state.pace.end(), first),
            false => Progress::silent(),
        };
        if self.state.pace.ends_at(first) {
            progress
                .line(&format!("{} is finished: all {first} steps are done", self.folder.path().display()));
            return Ok(());
        }
        let _working = ranks.working(first);
        let clock = Clock { begun: Instant::now(), before_s: self.state.elapsed_s };
        let mut watch = Watch::start();
        let mut under_way: Option<UnderWay> = None;
        // Where documents are cut into samples, their lengths are fetched first.
        let fetching = self.corpus.stored().map(|_| stop.at_once());
        let (mut feed, mut loader) = self.feed()?;
        drop(fetching);
        loop {
            self.saver.poll()?;
            let (asked, reading) = (Instant::now(), ranks.resting());
            // A store may take its time. Alone, nobody who asks for a stop needs to wait for it; the ranks of a job decide
            // together, after a step.
            while !ranks.is_job() && !loader.wait(ATTENTION) {
                if stop.requested() {
                    if let Some(before) = under_way.take() {
                        self.account(before, &mut watch, &progress)?;
                    }
                    return self.leave(first, &clock, &progress);
                }
            }
            let Some(batch) = loader.next().transpose()? else { break };
            drop(reading);
            watch.waited_s += asked.elapsed().as_secs_f64();

            let done = batch.step + 1;
            let at = self.state.pace.progress(batch.step);
            let lr = self.config.optimizer.lr * self.config.schedule.factor(at);
            let launched = step(&self.model, &mut self.optimizer, &batch, lr, self.config.seed, self.device);
            let launched = match launched {
                Err(source @ Error::Model(model::Error::OutOfMemory { .. })) => {
                    if let Some(before) = under_way.take() {
                        self.account(before, &mut watch, &progress)?;
                    }
                    return Err(self.too_large(source, first, &clock));
                }
                other => other?,
            };
            let mut last = Last { progress: at, lr, mask_rate: batch.mask_rate, grad_norm: 0.0 };
            let (samples, tokens, masked) = (batch.samples, batch.tokens, batch.masked_tokens);
            let mut work = Work::default();
            for micro_batch in &batch.micro_batches {
                work.add(&micro_batch.cu_seqlens, micro_batch.labels.len());
            }
            let flops = self.config.model.training_flops(work);
            loader.recycle(batch);
            // The device works on this step while the host learns how the one before went.
            if let Some(before) = under_way.replace(UnderWay { launched, samples, tokens, masked, flops }) {
                self.account(before, &mut watch, &progress)?;
            }
            let late = length::is_late(self.config.train.budget, &self.state, done, clock.seconds());
            // One decision for all ranks: a signal may reach any of them, and the clock is that of rank 0.
            let [stopping, late] = ranks.any([stop.requested(), late && ranks.is_first()])?;
            let measured = late || self.state.pace.is_due(done) || self.is_marked(done);
            if !(stopping || measured || self.is_due(done) || self.state.pace.ends_at(done)) {
                continue;
            }
            let this = under_way.take().expect("it has just been launched");
            last.grad_norm = self.account(this, &mut watch, &progress)?;
            self.state.elapsed_s = clock.seconds();
            self.measure(late, &mut progress)?;
            let ends = self.state.pace.ends_at(done);
            if ends || is_due(done, self.config.train.log_every_steps) {
                self.log(&last, &watch, &progress)?;
                watch = Watch::start();
            }
            let (paused, resting) = (Instant::now(), ranks.resting());
            if ends || is_due(done, self.config.eval.every_steps) {
                self.evaluate(&progress)?;
            }
            // While steps are skipped there is nothing new that is worth keeping.
            let good = self.state.skipped_in_a_row == 0;
            if ends || stopping || good && is_due(done, self.config.checkpoint.every_steps) {
                self.save(&clock, paused)?;
            }
            drop(resting);
            self.state.paused_s += paused.elapsed().as_secs_f64();
            watch.skip(paused);
            if ends {
                break;
            }
            if stopping {
                return self.stopped(&progress);
            }
            if self.feed_config() != feed {
                (feed, loader) = self.feed()?;
            }
        }
        self.saver.wait()?;
        progress.finish();
        Ok(())
    }

    /// Saves what has been done since step `first`, the first of this process, where the next batch is not waited for. A run of
    /// no step is saved too, so that all can be continued alike.
    fn leave(&mut self, first: u64, clock: &Clock, progress: &Progress) -> Result<(), Error> {
        self.saver.wait()?;
        let step = self.state.step;
        let is_saved = self.saver.written() == Some(step) || (step == first && first > 0);
        if !is_saved {
            self.state.elapsed_s = clock.seconds();
            self.save(clock, Instant::now())?;
        }
        self.stopped(progress)
    }

    /// Says how to go on after a stop, once the last step is saved.
    fn stopped(&mut self, progress: &Progress) -> Result<(), Error> {
        self.saver.wait()?;
        let (done, run) = (self.state.step, self.folder.path().display());
        progress.line(&format!(
            "stopped after step {done}, which is saved; continue with `train --resume {run}`"
        ));
        progress.finish();
        Ok(())
    }

    /// Whether step `done` is to be logged, evaluated or saved.
    fn is_due(&self, done: u64) -> bool {
        let config = &self.config;
        [config.train.log_every_steps, config.eval.every_steps, config.checkpoint.every_steps]
            .into_iter()
            .any(|every| is_due(done, every))
    }

    /// Whether a measurement begins after step `done`: when the first steps, which are unlike the others, are over.
    fn is_marked(&self, done: u64) -> bool {
        done == self.state.pace.first() + UNMEASURED
    }

    /// Begins a measurement, or ends one and estimates from it how many steps are left, where that is due or `late`.
    /// In a job it is the clock of rank 0 that counts.
    fn measure(&mut self, late: bool, progress: &mut Progress) -> Result<(), Error> {
        let step = self.state.step;
        if late || self.state.pace.is_due(step) {
            let left = length::steps_left(self.config.train.budget, &self.state);
            let left = self.ranks.from_first(left)?;
            self.state.pace.extend(step, left);
            self.state.mark = self.state.spent();
            progress.set_steps(self.state.pace.end());
        } else if self.is_marked(step) {
            self.state.mark = self.state.spent();
        }
        Ok(())
    }

    /// The loader's settings for the steps that the present leg of the pace decides.
    fn feed_config(&self) -> LoaderConfig {
        let (pace, leg) = (&self.state.pace, self.state.pace.leg());
        let mask_rate = self.config.train.mask_rate.over_steps(pace.progress(leg.from), leg.from, leg.end);
        LoaderConfig { mask_rate, ..self.config.loader_config() }
    }

    /// A loader from the next step on, and its settings. Where these change with the next leg, so does the loader: what it
    /// has prepared beyond the present one is thrown away.
    fn feed(&self) -> Result<(LoaderConfig, Loader), Error> {
        let (config, leg) = (self.feed_config(), self.state.pace.leg());
        let end = leg.end.filter(|end| *end == leg.until).unwrap_or(u64::MAX);
        let (rank, world_size) = (self.ranks.rank(), self.ranks.world_size());
        let loader =
            Loader::start(Arc::clone(&self.corpus), &config, rank, world_size, self.state.step, end)?;
        Ok((config, loader))
    }

    /// Waits for a step, adds it to the counters and gives the norm of its gradient. A step without update counts towards
    /// the end of a diverging run.
    fn account(&mut self, under_way: UnderWay, watch: &mut Watch, progress: &Progress) -> Result<f64, Error> {
        let UnderWay { launched, samples, tokens, masked, flops } = under_way;
        let waiting = self.ranks.waiting();
        let outcome = launched.outcome()?;
        drop(waiting);
        let state = &mut self.state;
        state.step += 1;
        self.ranks.done(state.step);
        state.samples += samples;
        state.tokens += tokens;
        watch.steps += 1;
        watch.samples += samples;
        watch.tokens += tokens;
        watch.flops += flops;
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
        self.saver.wait()?;
        Err(Error::Diverged { streak, step, last_good: self.saver.last_good() })
    }

    /// The error for a step that memory does not hold: saves what has been trained since step `first` and finds out what
    /// would fit.
    fn too_large(&mut self, source: Error, first: u64, clock: &Clock) -> Error {
        if self.ranks.is_job() {
            // The others are in the middle of a step that this rank cannot finish.
            let (step, last_good) = (self.state.step + 1, self.saver.last_good());
            let advice = "lower it with --micro-batch-tokens".to_owned();
            let micro_batch_tokens = self.config.train.micro_batch_tokens;
            return Error::StepTooLarge {
                step,
                micro_batch_tokens,
                advice,
                last_good,
                source: Box::new(source),
            };
        }
        self.optimizer.zero_gradients();
        if self.state.step > first
            && let Err(error) = self.save(clock, Instant::now()).and_then(|()| self.saver.wait())
        {
            return error;
        }
        let micro_batch_tokens = self.config.train.micro_batch_tokens;
        let fitting = micro_batch::largest(
            &self.model,
            &self.optimizer,
            &self.config,
            self.device,
            micro_batch_tokens.saturating_sub(1),
        );
        let advice = match fitting {
            Ok(Some(tokens)) => format!(
                "{tokens} fit: continue with `train --resume {} --micro-batch-tokens {tokens}`",
                self.folder.path().display()
            ),
            Ok(None) => {
                "nor does any smaller one; a shorter train.seq_len or a smaller model may fit".to_owned()
            }
            Err(error) => {
                format!("lower it with --micro-batch-tokens (what fits could not be tried: {error})")
            }
        };
        let (step, last_good) = (self.state.step + 1, self.saver.last_good());
        Error::StepTooLarge { step, micro_batch_tokens, advice, last_good, source: Box::new(source) }
    }

    /// Writes a training record and empties the window. Nothing is written when every step of it was skipped.
    fn log(&mut self, last: &Last, watch: &Watch, progress: &Progress) -> Result<(), Error> {
        let seconds = watch.since.elapsed().as_secs_f64().max(1e-9);
        let mut flops = [watch.flops];
        self.ranks.sum(&mut flops)?;
        let state = &mut self.state;
        let Window { loss, correct, masked } = std::mem::take(&mut state.window);
        if masked == 0 {
            return Ok(());
        }
        let model_tflops = flops[0] / seconds / 1e12;
        let record = TrainRecord {
            step: state.step,
            loss: loss / masked as f64,
            accuracy: correct as f64 / masked as f64,
            progress: last.progress,
            lr: last.lr,
            mask_rate: last.mask_rate,
            // A skipped step's norm is not a number JSON can hold.
            grad_norm: if last.grad_norm.is_finite() { last.grad_norm } else { 0.0 },
            samples_per_s: watch.samples as f64 / seconds,
            tokens_per_s: watch.tokens as f64 / seconds,
            wait_share: watch.waited_s / seconds,
            model_tflops,
            mfu: self.peak.map(|peak| model_tflops / peak),
            samples: state.samples,
            tokens: state.tokens,
            skipped: state.skipped,
            end: state.pace.end(),
            remaining_s: length::seconds_left(
                self.config.train.budget,
                state,
                seconds / watch.steps.max(1) as f64,
            ),
            elapsed_s: state.elapsed_s,
            time: unix_time(),
        };
        progress.train(&record);
        self.write(&Record::Train(record), progress)
    }

    /// Evaluates and writes the record.
    fn evaluate(&mut self, progress: &Progress) -> Result<(), Error> {
        let config = self.config.held_out_config();
        let evaluation = eval::evaluate(&self.model, &self.corpus, &config, self.device, &self.ranks)?;
        let unigram_loss = match (self.unigram, &self.journal) {
            (Some(known), _) => known,
            (None, None) => 0.0,
            (None, Some(_)) => {
                let found =
                    eval::unigram(&self.corpus, self.config.loader.policy, self.config.train.seq_len)?;
                *self.unigram.insert(found)
            }
        };
        let record = EvalRecord {
            step: self.state.step,
            loss: evaluation.loss,
            accuracy: evaluation.accuracy,
            masked_tokens: evaluation.masked_tokens,
            unigram_loss,
            elapsed_s: self.state.elapsed_s,
            time: unix_time(),
        };
        progress.eval(&record);
        self.write(&Record::Eval(record), progress)
    }

    /// Writes a record, where there is a journal for it.
    fn write(&mut self, record: &Record, progress: &Progress) -> Result<(), Error> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.write(record, |text| progress.line(text)))
    }

    /// Begins to save a checkpoint; the clock has stood at a pause since `paused`.
    fn save(&mut self, clock: &Clock, paused: Instant) -> Result<(), Error> {
        self.saver.wait()?;
        self.state.updates = self.optimizer.updates();
        self.state.generator_seed = step_seed(self.config.seed, self.state.step);
        let mut state = self.state.clone();
        state.elapsed_s = clock.seconds();
        state.paused_s += paused.elapsed().as_secs_f64();
        self.begin_to_save(state)
    }

    /// Begins to save a checkpoint, which rank 0 writes in a job.
    fn begin_to_save(&mut self, state: State) -> Result<(), Error> {
        let moments = self.optimizer.whole_state()?;
        match &self.journal {
            Some(journal) => self.saver.begin(state, self.model.parameters(), &moments, journal.handle()?),
            None => Ok(()),
        }
    }
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.before_s + self.begun.elapsed().as_secs_f64()
    }
}

impl Watch {
    fn start() -> Watch {
        Watch { since: Instant::now(), waited_s: 0.0, steps: 0, samples: 0, tokens: 0, flops: 0.0 }
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
