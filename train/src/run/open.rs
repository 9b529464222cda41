//! How a run comes to be: new, branched off another one, or resumed from its newest usable checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use loader::Corpus;
use model::MaskedLm;
use tch::Device;

use super::{Run, length};
use crate::budget::Budget;
use crate::checkpoint::{self, Checkpoint, Identity, Saver, State, Window};
use crate::config::{Config, DeviceChoice, PathChoice};
use crate::device;
use crate::error::Error;
use crate::eval;
use crate::folder::{RunFolder, RunLock};
use crate::host::{self, Data, Host, Provenance, Resumption};
use crate::layers;
use crate::metrics::MetricsWriter;
use crate::micro_batch::{self, MicroBatchTokens};
use crate::model_folder::ModelFolder;
use crate::optimizer::DecoupledAdamW;
use crate::schedule::{MaskSchedule, Shape};

impl Run {
    /// A new run in `out`, trained on `shards`. It begins with the weights of `init`, where given, whose architecture the
    /// configuration must have; everything else begins anew.
    ///
    /// # Errors
    /// A folder that holds a run already, shards that cannot be read or do not fit the model, no such device.
    pub fn start(
        out: &Path,
        shards: &[PathBuf],
        config: Config,
        init: Option<&ModelFolder>,
    ) -> Result<Run, Error> {
        // Everything that can be wrong is found before anything is written.
        let corpus = Corpus::open(shards)?;
        check_vocabulary(&config, &corpus)?;
        let initial = init.map(|init| init.initial(&config, &corpus)).transpose()?;
        let device = device::choose(config.train.device)?;
        let pace = length::pace(&config, &corpus, 0)?;
        let (folder, lock) = RunFolder::create(out)?;
        let (model, optimizer) = build(&config, device)?;
        let mut provenance = provenance(&config, describe(&corpus, shards)?, device);
        provenance.init_from = initial.map(|initial| initial.load(model.parameters())).transpose()?;
        provenance.write(&folder.provenance())?;
        folder.write_config(&config)?;
        let state = State::start(identity(&provenance.data), config.seed, pace);
        Run::assemble(folder, lock, config, corpus, device, model, optimizer, state)
    }

    /// A new run in `out` that goes on from the checkpoint `trunk` of another one, whose learning rate is at its peak, and
    /// does nothing but decay, for as long as `decay` says. Counters, sample order and optimizer go on where the trunk's
    /// were; `sets` changes single values of its configuration. Without `shards` the trunk's are taken.
    ///
    /// # Errors
    /// [`Error::NotStable`] for a checkpoint of warm-up or decay; what [`Run::start`] and [`Run::resume`] refuse.
    pub fn branch(
        trunk: Checkpoint,
        out: &Path,
        shards: &[PathBuf],
        decay: Budget,
        sets: &[String],
        device: Option<DeviceChoice>,
    ) -> Result<Run, Error> {
        let step = trunk.state.step;
        let progress = trunk.state.pace.progress(step);
        let mut config = trunk.config.clone();
        if !config.schedule.is_stable(progress) {
            let factor = config.schedule.factor(progress);
            return Err(Error::NotStable { path: trunk.path, factor });
        }
        (config.schedule.shape, config.schedule.warmup_fraction) = (Shape::Wsd, 0.0);
        config.schedule.decay_fraction = 1.0;
        if let MaskSchedule::Linear(line) = &mut config.train.mask_rate {
            line.from += (line.to - line.from) * progress;
        }
        (config.train.steps, config.train.budget) = match decay {
            Budget::Steps(steps) => (step + steps, None),
            other => (config.train.steps, Some(other)),
        };
        config.train.device = device.unwrap_or(config.train.device);
        let config = layers::change(&config, sets)?;
        let shards = match shards {
            [] => trunk.shards()?,
            shards => shards.to_vec(),
        };
        let corpus = Corpus::open(&shards)?;
        check_vocabulary(&config, &corpus)?;
        let data = describe(&corpus, &shards)?;
        trunk.check(&config, identity(&data))?;
        let device = device::choose(config.train.device)?;
        let pace = length::pace(&config, &corpus, step)?;
        let (folder, lock) = RunFolder::create(out)?;
        let (model, mut optimizer) = build(&config, device)?;
        trunk.load_parameters(model.parameters())?;
        trunk.load_optimizer(&mut optimizer)?;
        let mut provenance = provenance(&config, data, device);
        provenance.branched_from = Some(fs::canonicalize(&trunk.path).unwrap_or_else(|_| trunk.path.clone()));
        provenance.write(&folder.provenance())?;
        let mut state = trunk.state;
        state.pace = pace;
        (state.origin, state.mark) = (state.spent(), state.spent());
        (state.skipped_in_a_row, state.window) = (0, Window::default());
        state.files.clear();
        folder.write_config(&config)?;
        let mut run = Run::assemble(folder, lock, config, corpus, device, model, optimizer, state)?;
        // From here on the branch needs its trunk no more, whatever happens.
        run.saver.begin(run.state.clone(), run.model.parameters(), &run.optimizer, run.metrics.handle()?)?;
        run.saver.wait()?;
        eprintln!("branched from {} at step {step}", trunk.path.display());
        Ok(run)
    }

    /// The run in `path`, from its newest usable checkpoint, or from the beginning when it has not saved yet.
    /// `shards` and `device` replace where the data lies and what computes, `micro_batch` in what pieces; all must give the
    /// same results but for rounding.
    ///
    /// # Errors
    /// A folder that holds no run, one that another process trains in, checkpoints that are all unusable, or a
    /// checkpoint of another model or other data.
    pub fn resume(
        path: &Path,
        shards: &[PathBuf],
        device: Option<DeviceChoice>,
        micro_batch: Option<MicroBatchTokens>,
    ) -> Result<Run, Error> {
        let folder = RunFolder::open(path)?;
        let lock = folder.lock()?;
        let mut config = folder.read_config()?;
        config.train.device = device.unwrap_or(config.train.device);
        config.validate()?;
        if let Some(asked) = micro_batch {
            micro_batch::resolve(asked, &mut config)?;
            folder.write_config(&config)?;
        }
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
                if let Some(trunk) = &provenance.branched_from {
                    return Err(Error::LostBranch { path: path.to_owned(), trunk: trunk.clone() });
                }
                eprintln!("{} has no checkpoint yet; starting from step 0", path.display());
                State::start(identity(&data), config.seed, length::pace(&config, &corpus, 0)?)
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
        let saver = Saver::new(folder.checkpoints(), config.clone(), corpus.tokenizer_json());
        Ok(Run {
            folder,
            _lock: lock,
            config,
            corpus,
            device,
            model,
            optimizer,
            state,
            metrics,
            saver,
            unigram,
        })
    }
}

/// What a run that begins now comes from.
fn provenance(config: &Config, data: Data, device: Device) -> Provenance {
    Provenance {
        program: host::PROGRAM.to_owned(),
        commit: host::commit(),
        torch: host::TORCH.to_owned(),
        started: host::now(),
        command: std::env::args().collect(),
        host: Host::detect(),
        device: device::name(device).to_owned(),
        threads: tch::get_num_threads() as usize,
        data,
        parameters: config.model.parameter_count() as u64,
        branched_from: None,
        init_from: None,
        resumptions: Vec::new(),
    }
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
