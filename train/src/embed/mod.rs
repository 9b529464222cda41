//! Embeddings of texts: the mean of the encoder's output over a text's tokens, `[CLS]` and `[SEP]` included, as
//! Reimers and Gurevych pool ("Sentence-BERT", <https://arxiv.org/abs/1908.10084>).
//!
//! Texts are read in windows: those of a window are sorted by length, cut into batches by tokens, computed without
//! padding, and written in the order they were read. So memory depends on the window, not on the input.

mod file;

use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ingest::Inputs;
use ingest::source::Row;
use model::{MaskedLm, TokenBatch};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::config::DeviceChoice;
use crate::device;
use crate::error::Error;
use crate::model_folder::ModelFolder;
use crate::text::Framed;

use file::EmbeddingFile;
pub use file::Format;

/// Texts that are sorted together. Enough that batches are of nearly equal lengths.
const WINDOW: usize = 8192;

/// What to embed, and how.
#[derive(Clone, Debug)]
pub struct EmbedOptions {
    /// Files, folders, patterns, locations, or `-`.
    pub inputs: Vec<String>,
    /// The column that is the text.
    pub text: String,
    /// Scales each embedding to length 1.
    pub normalize: bool,
    /// Longer texts are cut to this many tokens, `[CLS]` and `[SEP]` included.
    pub max_tokens: usize,
    /// Most tokens computed at once.
    pub batch_tokens: usize,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// Texts.
    pub texts: u64,
    /// Tokens, `[CLS]` and `[SEP]` included.
    pub tokens: u64,
    /// Texts that were cut.
    pub cut: u64,
    /// Numbers an embedding, D.
    pub width: usize,
    /// Seconds.
    pub elapsed_s: f64,
}

/// A text of the window.
struct Text {
    file: u32,
    row: u64,
    /// Its tokens in the window's ids.
    start: usize,
    end: usize,
}

/// Texts in the order they were read.
#[derive(Default)]
struct Window {
    ids: Vec<i32>,
    texts: Vec<Text>,
}

/// Writes the embeddings of all texts to `out`.
///
/// # Errors
/// [`Error::OutExists`]; a row that is no text; whatever keeps a file from being read or written. `out` is there whole
/// or not at all.
pub fn embed(folder: &ModelFolder, options: &EmbedOptions, out: &Path) -> Result<Embedded, Error> {
    folder.config.check_seq_len(options.max_tokens)?;
    let format = Format::of(out)?;
    let inputs = Inputs::find(&options.inputs)?;
    let device = device::choose(options.device)?;
    let mut model = folder.encoder(device, device::compute_kind(device))?;
    if device.is_cuda() {
        // Where it cannot be used the reference path gives the same.
        let _ = model.use_fused_path();
    }
    let mut encoder = Framed::new(&folder.tokenizer)?;
    let width = folder.config.hidden_size as usize;
    let mut file = EmbeddingFile::create(out, format, width)?;
    let bar = progress(inputs.bytes());
    let begun = Instant::now();
    let mut embedded = Embedded { texts: 0, tokens: 0, cut: 0, width, elapsed_s: 0.0 };
    let mut window = Window::default();
    let mut passed = 0;
    for input in &inputs.files {
        let mut source = input.open(&options.text)?;
        let name = file.name(input.file());
        loop {
            let Some(row) = source.next_row()? else { break };
            let document = match row {
                Row::Document(document) => document,
                Row::Bad(bad) => {
                    let path = PathBuf::from(input.file());
                    return Err(Error::BadRow { path, row: bad.row + 1, reason: bad.reason });
                }
            };
            let (ids, cut) = encoder.encode_at_most(&document.text, options.max_tokens)?;
            embedded.cut += u64::from(cut);
            let start = window.ids.len();
            window.ids.extend_from_slice(ids);
            let end = window.ids.len();
            window.texts.push(Text { file: name, row: document.row, start, end });
            if window.texts.len() == WINDOW {
                flush(&mut window, &model, options, device, &mut file, &mut embedded)?;
                bar.set_position(passed + source.position());
                bar.set_message(format!("{} texts", embedded.texts));
            }
        }
        passed += input.bytes;
    }
    flush(&mut window, &model, options, device, &mut file, &mut embedded)?;
    file.finish()?;
    bar.finish_and_clear();
    embedded.elapsed_s = begun.elapsed().as_secs_f64();
    Ok(embedded)
}

/// Embeds the texts of the window, writes them in their order and empties it.
fn flush(
    window: &mut Window,
    model: &MaskedLm,
    options: &EmbedOptions,
    device: Device,
    file: &mut EmbeddingFile,
    embedded: &mut Embedded,
) -> Result<(), Error> {
    let width = embedded.width;
    let mut values = vec![0f32; window.texts.len() * width];
    let mut order: Vec<usize> = (0..window.texts.len()).collect();
    order.sort_by_key(|&i| window.texts[i].end - window.texts[i].start);
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let taken = batch_size(rest, &window.texts, options.batch_tokens);
        let (batch, after) = rest.split_at(taken);
        rest = after;
        let means = means(batch, window, model, options.normalize, device)?; // [B, D]
        for (&text, mean) in batch.iter().zip(means.chunks_exact(width)) {
            values[text * width..(text + 1) * width].copy_from_slice(mean);
        }
    }
    embedded.texts += window.texts.len() as u64;
    embedded.tokens += window.ids.len() as u64;
    let rows = window.texts.iter().map(|text| file::Place {
        file: text.file,
        row: text.row,
        tokens: (text.end - text.start) as u32,
    });
    file.write(rows, values)?;
    window.ids.clear();
    window.texts.clear();
    Ok(())
}

/// How many of the shortest texts left fit into `tokens` when all are as long as the longest of them; at least one.
fn batch_size(order: &[usize], texts: &[Text], tokens: usize) -> usize {
    let fits = order.iter().zip(1..).take_while(|&(&i, count)| {
        let longest = texts[i].end - texts[i].start;
        longest * count <= tokens
    });
    fits.count().max(1)
}

/// The means of the texts `batch`, row by row.
///
/// # Shape
/// - result: `[B, D]`
fn means(
    batch: &[usize],
    window: &Window,
    model: &MaskedLm,
    normalize: bool,
    device: Device,
) -> Result<Vec<f32>, Error> {
    let _guard = no_grad_guard();
    let (mut ids, mut ends, mut text_of) = (Vec::new(), vec![0], Vec::new());
    let mut lengths = Vec::with_capacity(batch.len());
    for (number, &i) in (0i64..).zip(batch) {
        let text = &window.texts[i];
        ids.extend_from_slice(&window.ids[text.start..text.end]);
        ends.push(ids.len() as i32);
        text_of.resize(ids.len(), number);
        lengths.push((text.end - text.start) as f32);
    }
    let tokens = TokenBatch::from_host::<i32>(&ids, &ends, &[], &[], device)?;
    let hidden = model.hidden(&tokens)?.to_kind(Kind::Float); // [T, D]
    let text_of = Tensor::from_slice(&text_of).to_device(device); // [T]
    let lengths = Tensor::from_slice(&lengths).to_device(device); // [B]
    let sums = Tensor::zeros([batch.len() as i64, hidden.size()[1]], (Kind::Float, device)); // [B, D]
    let mut means = sums.index_add(0, &text_of, &hidden) / lengths.unsqueeze(1); // [B, D]
    if normalize {
        let norms = means.norm_scalaropt_dim(2, [1], true).clamp_min(1e-12); // [B, 1]
        means /= norms; // [B, D]
    }
    Ok(Vec::<f32>::try_from(means.flatten(0, -1).to_device(Device::Cpu))?)
}

fn progress(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{bar:28.cyan/dim} {percent} %  {wide_msg}")
        .expect("the template is constant and valid")
        .progress_chars("━━─");
    bar.set_style(style);
    bar
}
