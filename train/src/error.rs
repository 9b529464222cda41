//! Every way in which a run, a checkpoint or a report can go wrong.

use std::path::PathBuf;

use crate::finetune::FinetuneError;

/// The error of this crate. Print it with its whole chain of sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shard folder, or a file written beside and renamed.
    #[error(transparent)]
    Loader(#[from] loader::Error),

    /// A tokenizer, or a text that is read.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),

    /// The model.
    #[error(transparent)]
    Model(#[from] model::Error),

    /// Fine-tuning: its data, its model, or its results.
    #[error(transparent)]
    Finetune(#[from] FinetuneError),

    /// torch refused an operation.
    #[error("torch failed")]
    Torch(#[from] tch::TchError),

    /// The terminal cannot be drawn on.
    #[error("this terminal cannot be drawn on; `train watch RUN --once` prints one frame as plain text")]
    Terminal {
        /// The reason given by the operating system.
        source: std::io::Error,
    },

    /// The operating system refused to read something.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason given by the operating system.
        source: std::io::Error,
    },

    /// The operating system refused to write something.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The reason given by the operating system.
        source: std::io::Error,
    },

    /// A JSON file of a run is not what this program writes.
    #[error("{} is not what this program writes", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },

    /// A line of `metrics.jsonl` is not a record.
    #[error("{}, line {line}, is not a metrics record; remove the line", path.display())]
    MetricsLine {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// There is no preset of that name.
    #[error("there is no preset {name:?}; there are {known}")]
    UnknownPreset {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },

    /// A configuration file is not TOML.
    #[error("{} is not valid TOML", path.display())]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        source: Box<toml::de::Error>,
    },

    /// A configuration key that does not exist.
    #[error("{origin}: there is no key `{key}`; {nearest}")]
    UnknownKey {
        /// The file and line, or the option, that named it.
        origin: String,
        /// The key as given.
        key: String,
        /// The nearest keys that exist.
        nearest: String,
    },

    /// A configuration value of the wrong type.
    #[error("{origin}: `{key} = {value}` is refused: {reason}")]
    ConfigValue {
        /// The file and line, or the option, that set it.
        origin: String,
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What was expected.
        reason: String,
    },

    /// A `--set` without `=`.
    #[error("--set {argument} is not of the form key.path=value, for example --set train.steps=1000")]
    SetSyntax {
        /// The argument.
        argument: String,
    },

    /// A configuration value outside its range, or at odds with another one.
    #[error("`{key}` is {found}, expected {expected}")]
    ConfigRange {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The values it may have.
        expected: String,
    },

    /// `--out` names a folder that holds a run already.
    #[error("{} holds a run already; continue it with `train --resume {}`, or choose another folder", path.display(), path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },

    /// `--resume` or `--from` names a folder that holds no run.
    #[error("{} is not the folder of a run: it has no {missing}; give the folder that was --out", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },

    /// Another process trains in the same folder.
    #[error("another process is training in {}; wait for it to end or choose another folder", path.display())]
    RunLocked {
        /// The folder.
        path: PathBuf,
    },

    /// The requested device is not there.
    #[error(
        "no CUDA device was found; use --device cpu or auto, or check the driver and that libtorch has its CUDA half"
    )]
    NoCuda,

    /// The vocabulary of the shards is not the model's.
    #[error(
        "the shards' tokenizer needs a model vocabulary of {expected}, `model.vocab_size` is {found}; \
         add --set model.vocab_size={expected}"
    )]
    Vocabulary {
        /// The configured size.
        found: i64,
        /// The size the manifest asks for.
        expected: u32,
    },

    /// A checkpoint is torn or was altered.
    #[error("checkpoint {} cannot be used: {reason}", path.display())]
    BadCheckpoint {
        /// Its folder.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },

    /// The tensors of an optimizer state are not those of the parameters.
    #[error("{}: {found}, expected {expected}", path.display())]
    OptimizerState {
        /// The file.
        path: PathBuf,
        /// What the file has.
        found: String,
        /// What the parameters need.
        expected: String,
    },

    /// A checkpoint belongs to something else than what it is to be used with.
    #[error("checkpoint {} was made with another {what}: it says {found}, this run has {expected}; {advice}", path.display())]
    ForeignCheckpoint {
        /// Its folder.
        path: PathBuf,
        /// What differs: "model", "tokenizer", "data".
        what: &'static str,
        /// The checkpoint's value.
        found: String,
        /// This run's value.
        expected: String,
        /// What to do.
        advice: &'static str,
    },

    /// A run has checkpoints but none is usable, or has none where one is needed.
    #[error("{} holds no usable checkpoint{}", path.display(), if refused.is_empty() { String::new() } else { format!(": {refused}") })]
    NoCheckpoint {
        /// The run's folder.
        path: PathBuf,
        /// The refusals, joined.
        refused: String,
    },

    /// `--from` or `--init-from` names a folder that holds no model.
    #[error("{} holds no model: {found}", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What is there instead, and what to do.
        found: String,
    },

    /// A model lacks the head that something needs.
    #[error(
        "the model in {} has no {head} head; train one: `train --init-from` pretrains, `train finetune --from` fine-tunes",
        path.display()
    )]
    NoHead {
        /// The model's folder.
        path: PathBuf,
        /// "masked-LM" or "classification".
        head: &'static str,
    },

    /// What is to be written is there already.
    #[error("{} is there already; choose another name, or remove it first", path.display())]
    OutExists {
        /// The file or folder.
        path: PathBuf,
    },

    /// A model of others cannot be imported.
    #[error("{} cannot be imported: {reason}", path.display())]
    Import {
        /// Its folder.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        reason: String,
    },

    /// A model cannot be exported in the format asked for.
    #[error("the model in {} cannot be exported as {format}: {reason}", path.display())]
    Export {
        /// Its folder.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What stands in the way, and what to do.
        reason: String,
    },

    /// A sentence to be filled in has no masked word.
    #[error("{sentence:?} has no [MASK]; write [MASK] where a word is to be filled in")]
    NoMask {
        /// The sentence.
        sentence: String,
    },

    /// A tokenizer failed on a text.
    #[error("{tokenizer} cannot encode the text: {reason}")]
    Encode {
        /// The tokenizer's file.
        tokenizer: String,
        /// Its reason.
        reason: String,
    },

    /// A row that is to be embedded is no text.
    #[error("{}, row {row}, is no text: {reason}; every row gets an embedding, so repair or remove it", path.display())]
    BadRow {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// What is wrong with it.
        reason: String,
    },

    /// The name of a file of embeddings does not tell its format.
    #[error("{} has no ending that tells the format; give it .parquet or .npy", path.display())]
    EmbeddingFormat {
        /// The file.
        path: PathBuf,
    },

    /// A model and the shards it is to be trained on have different vocabularies.
    #[error(
        "the model in {} has another vocabulary than the shards: their ids mean other words. Ingest the text with its \
         tokenizer: ingest c4 ... --tokenizer {}/tokenizer.json",
        path.display(), path.display()
    )]
    OtherVocabulary {
        /// The model's folder.
        path: PathBuf,
    },

    /// A checkpoint could not be written.
    #[error(
        "the checkpoint of step {step} could not be saved; {last_good}. Continue with `train --resume` when the cause \
         is gone"
    )]
    SaveFailed {
        /// The step.
        step: u64,
        /// Names the last good checkpoint.
        last_good: String,
        /// Why.
        source: Box<Error>,
    },

    /// Loss or gradient were not finite too often in a row.
    #[error(
        "loss or gradient were not finite in {streak} steps in a row, the last one step {step}; {last_good}. A lower \
         optimizer.lr or a longer schedule.warmup_fraction usually helps"
    )]
    Diverged {
        /// How many.
        streak: u64,
        /// The last of them.
        step: u64,
        /// Names the last good checkpoint.
        last_good: String,
    },

    /// A step needs more memory than there is.
    #[error(
        "step {step} does not fit into memory with train.micro_batch_tokens = {micro_batch_tokens}; {advice}; {last_good}"
    )]
    StepTooLarge {
        /// The step, counted from 1.
        step: u64,
        /// The micro-batch that does not fit.
        micro_batch_tokens: usize,
        /// What fits, and how to go on with it.
        advice: String,
        /// Names the last good checkpoint.
        last_good: String,
        /// What was asked for.
        source: Box<Error>,
    },

    /// Not even one sample goes through the model.
    #[error(
        "memory does not hold the model and one sample, forward and backward; a shorter train.seq_len or a smaller model \
         may fit"
    )]
    NoMicroBatch,

    /// A decay does not begin at the peak of the learning rate.
    #[error(
        "checkpoint {} has a learning rate of {:.4} times the peak, and a decay begins at the peak; give a checkpoint \
         between warm-up and decay of a run with schedule.shape=\"wsd\"", path.display(), factor
    )]
    NotStable {
        /// The checkpoint.
        path: PathBuf,
        /// Its learning rate over the peak.
        factor: f64,
    },

    /// A checkpoint that lies outside a run does not say where its data is.
    #[error("{} lies in no run that says where its shards are; give them as --shards", path.display())]
    NoShards {
        /// The checkpoint.
        path: PathBuf,
    },

    /// A branch was killed before it had saved the checkpoint that it began with.
    #[error(
        "{} has no checkpoint and was branched from {}; remove it and branch again", path.display(), trunk.display()
    )]
    LostBranch {
        /// The run's folder.
        path: PathBuf,
        /// The checkpoint it came from.
        trunk: PathBuf,
    },

    /// There are not as many checkpoints as are to be averaged.
    #[error(
        "{} has {found} checkpoints, and the mean of {expected} is asked for; set checkpoint.keep to keep more of them",
        path.display()
    )]
    TooFewCheckpoints {
        /// The run.
        path: PathBuf,
        /// Checkpoints there.
        found: usize,
        /// Checkpoints asked for.
        expected: usize,
    },

    /// The weights are not numbers any more.
    #[error(
        "the weights after step {step} are not finite, so they were not saved; {last_good}. A lower optimizer.lr, \
         optimizer.clip_norm=1.0 or a longer schedule.warmup_fraction usually helps"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Names the last good checkpoint.
        last_good: String,
    },

    /// The variables of a launcher make no sense.
    #[error("this process seems to be one of several, but {reason}")]
    Launch {
        /// What is wrong, and what to do.
        reason: String,
    },

    /// The ranks of a job did not come together.
    #[error("the job cannot start: {reason}")]
    Join {
        /// Who is missing.
        reason: String,
    },

    /// The store that ranks meet at cannot be reached.
    #[error(
        "there is no store at {address}, where the ranks are to meet ({keeper}); check MASTER_ADDR and MASTER_PORT, and \
         that the port is free"
    )]
    Store {
        /// Host and port.
        address: String,
        /// Who is to keep it.
        keeper: &'static str,
        /// c10d's reason.
        source: Box<model::Error>,
    },

    /// A machine has fewer GPUs than ranks.
    #[error(
        "rank {rank} is number {local_rank} on its machine, counted from 0, and sees {count} GPUs; start as many ranks a \
         machine as it has GPUs"
    )]
    TooFewGpus {
        /// The rank.
        rank: usize,
        /// Its number on its machine.
        local_rank: usize,
        /// The GPUs it sees.
        count: usize,
    },

    /// The system gives no thread.
    #[error("no thread can be started")]
    Threads {
        /// The reason given by the operating system.
        source: std::io::Error,
    },

    /// A report needs at least one record.
    #[error("{} has no metrics yet; train for at least `train.log_every_steps` steps first", path.display())]
    NoMetrics {
        /// The run's folder.
        path: PathBuf,
    },
}
