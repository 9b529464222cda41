//! The model card: what the model is, how it was trained, and how to use it.

use std::fmt::Write;
use std::path::Path;

use super::{Architecture, Heads};
use crate::checkpoint::Checkpoint;
use crate::host::Provenance;
use crate::metrics::{self, EvalRecord, Record};
use crate::model_folder::{ModelFolder, ModelProvenance, Origin};

/// The text of `README.md`.
pub(super) fn text(folder: &ModelFolder, architecture: Architecture, heads: Heads) -> String {
    let config = &folder.config;
    let (task, class) = match heads {
        Heads { num_labels: Some(_), .. } => ("text-classification", "AutoModelForSequenceClassification"),
        Heads { masked_lm: true, .. } => ("fill-mask", "AutoModelForMaskedLM"),
        _ => ("feature-extraction", "AutoModel"),
    };
    let (family, trust) = match architecture {
        Architecture::Bert => ("BERT", ""),
        Architecture::MosaicBert => ("MosaicBERT", ", trust_remote_code=True"),
        Architecture::JinaBert => ("MosaicBERT in JinaBERT's layout", ", trust_remote_code=True"),
    };
    let tag = if architecture == Architecture::Bert { "bert" } else { "mosaicbert" };
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: {task}\ntags:\n- {tag}\n---\n\n# {family}, {} layers of width {}\n\n",
        config.num_hidden_layers, config.hidden_size
    );
    let _ = writeln!(
        text,
        "{} million parameters, {} attention heads, a vocabulary of {} tokens ({} rows).\n",
        config.parameter_count() / 1_000_000,
        config.num_attention_heads,
        folder.tokenizer.info().vocab_size,
        config.vocab_size
    );
    let _ = writeln!(text, "```python\nfrom transformers import AutoTokenizer, {class}\n");
    let _ = writeln!(text, "tokenizer = AutoTokenizer.from_pretrained(\"DIR\"{trust})");
    let _ = writeln!(text, "model = {class}.from_pretrained(\"DIR\"{trust})\n```\n");
    match architecture {
        Architecture::MosaicBert => text.push_str(
            "`modeling_mosaic_bert.py` beside this file is the model in plain PyTorch, with the parameter names of MosaicML's \
             checkpoints. Nothing but torch and transformers is needed.\n\n",
        ),
        Architecture::JinaBert => text.push_str(
            "JinaBERT computes what MosaicBERT computes: ALiBi, GeGLU, LayerNorm behind every residual sum. Programs that know \
             JinaBERT serve this folder natively; transformers fetches `jinaai/jina-bert-implementation` from the hub.\n\n",
        ),
        Architecture::Bert => {}
    }
    match &folder.origin {
        Origin::Checkpoint(checkpoint) => trained(&mut text, checkpoint),
        Origin::Folder(provenance) => made(&mut text, provenance),
    }
    text
}

/// How a run of this program trained it, from its own records.
fn trained(text: &mut String, checkpoint: &Checkpoint) {
    let (config, state) = (&checkpoint.config, &checkpoint.state);
    text.push_str("## Training\n\n| | |\n| --- | --- |\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("program", state.program.clone());
    row("objective", "masked-language modelling".to_owned());
    row(
        "steps",
        format!(
            "{} of {} samples, sequences of {}",
            state.step, config.train.batch_size, config.train.seq_len
        ),
    );
    row("samples, tokens seen", format!("{}, {}", state.samples, state.tokens));
    row(
        "optimizer",
        format!("decoupled AdamW, learning rate {:e}, seed {}", config.optimizer.lr, config.seed),
    );
    // A checkpoint that was copied out of its run has only what it holds itself.
    let run = checkpoint.path.parent().and_then(Path::parent);
    if let Some(provenance) = run.and_then(|run| Provenance::read(&run.join("provenance.json")).ok()) {
        let data = &provenance.data;
        row(
            "corpus",
            format!(
                "{} documents, {} tokens, {} bytes of text",
                data.documents, data.tokens, data.text_bytes
            ),
        );
        row("device", provenance.device.clone());
        if let Some(commit) = &provenance.commit {
            row("commit", commit.clone());
        }
    }
    if let Some(eval) = run.and_then(|run| evaluation(run, state.step)) {
        row(
            "held-out loss",
            format!("{:.4} nats a masked token (unigram {:.4})", eval.loss, eval.unigram_loss),
        );
        row("held-out accuracy", format!("{:.2} % of masked tokens", 100.0 * eval.accuracy));
    }
    let _ = writeln!(text, "\nThe whole configuration:\n\n```toml\n{}```", config.to_toml());
}

/// What a model folder was made from.
fn made(text: &mut String, provenance: &ModelProvenance) {
    let _ = writeln!(text, "## Origin\n\nMade of a {} by {}.", provenance.source, provenance.program);
    for note in &provenance.notes {
        let _ = writeln!(text, "{note}");
    }
}

/// The run's evaluation at `step`, if there was one.
fn evaluation(run: &Path, step: u64) -> Option<EvalRecord> {
    let records = metrics::read(&run.join("metrics.jsonl")).ok()?;
    records.into_iter().rev().find_map(|record| match record {
        Record::Eval(eval) if eval.step == step => Some(eval),
        _ => None,
    })
}
