//! Times whole training steps of one micro-batch on a CUDA card: forward, backward and optimizer.
//!
//! ```text
//! cargo run --release -p model --example step_time -- [base|large] [fused|reference] [SEQ] [SEQUENCES] [full|ragged]
//! ```
//!
//! Tokens are drawn at random and 30 % of them masked; ragged lengths are uniform between a quarter of SEQ and SEQ.
//! Prints one line of JSON. The optimizer runs once in as many micro-batches as make up a global batch of 4096 sequences.

use std::time::Instant;

use model::{MaskedLm, ModelConfig, TokenBatch};
use tch::{Cuda, Device, Kind, Tensor};

/// Sequences of a global batch.
const GLOBAL_BATCH: f64 = 4096.0;
const WARM_UP: u32 = 3;
const TIMED: u32 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let word =
        |at: usize, default: &'static str| arguments.get(at).map_or(default, String::as_str).to_owned();
    let (size, path, lengths) = (word(0, "base"), word(1, "fused"), word(4, "full"));
    let seq_len: i64 = word(2, "128").parse()?;
    let sequences: i64 = word(3, "512").parse()?;
    if !(model::torch::load_cuda() && model::torch::cuda_available()) {
        return Err("no CUDA card is here".into());
    }
    let config =
        if size == "large" { ModelConfig::mosaic_bert_large() } else { ModelConfig::mosaic_bert_base() };
    let device = Device::Cuda(0);
    let mut model = MaskedLm::new(&config, 17, device, Kind::BFloat16)?;
    if path == "fused" {
        model.use_fused_path()?;
    }
    let batch = random_batch(&config, seq_len, sequences, lengths == "ragged", device)?;
    let masked = batch.labels.size()[0] as f64;

    let forward_backward = || {
        let output = model.loss(&batch, true, masked)?;
        output.backward()?;
        Ok::<_, model::Error>(output.loss)
    };
    let mut loss = forward_backward()?;
    for _ in 1..WARM_UP {
        loss = forward_backward()?;
    }
    model::torch::reset_peak_memory(0)?;
    let step = timed(|| {
        loss = forward_backward()?;
        Ok(())
    })?;
    let peak = model::torch::memory_in_use(0)?.peak as f64 / f64::from(1 << 30);
    let host = {
        let start = Instant::now();
        drop(forward_backward()?);
        start.elapsed().as_secs_f64() * 1e3 // the host's share: nothing is waited for
    };
    let mut update = 0.0;
    if model.is_fused() {
        let moments: Vec<[Tensor; 2]> =
            model.parameters().iter().map(|(_, p)| [(); 2].map(|()| p.detach().zeros_like())).collect();
        let moments: Vec<_> = moments.iter().map(|moments| moments.each_ref()).collect();
        let optimizer = model.fused_adamw(&moments)?;
        let factor = Tensor::ones([1], (Kind::Double, device)); // [1]
        update = timed(|| optimizer.update(1e-4, [0.9, 0.98], 1e-6, 1.0 - 1e-5, &factor))?;
    }
    let global_step = step * GLOBAL_BATCH / sequences as f64 + update;
    let tokens = batch.tokens() as f64 / sequences as f64;
    println!(
        "{{\"size\":\"{size}\",\"path\":\"{path}\",\"seq_len\":{seq_len},\"sequences\":{sequences},\"lengths\":\"{lengths}\",\
         \"forward_backward_ms\":{step:.2},\"host_ms\":{host:.2},\"optimizer_ms\":{update:.2},\"samples_per_s\":{:.0},\
         \"real_tokens_per_s\":{:.0},\"peak_memory_gib\":{peak:.1},\"loss\":{:.4}}}",
        GLOBAL_BATCH / global_step * 1e3,
        GLOBAL_BATCH * tokens / global_step * 1e3,
        loss.double_value(&[]),
    );
    Ok(())
}

/// Milliseconds one call takes on the card.
fn timed(mut work: impl FnMut() -> Result<(), model::Error>) -> Result<f64, model::Error> {
    Cuda::synchronize(0);
    let start = Instant::now();
    for _ in 0..TIMED {
        work()?;
    }
    Cuda::synchronize(0);
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(TIMED))
}

fn random_batch(
    config: &ModelConfig,
    seq_len: i64,
    sequences: i64,
    ragged: bool,
    device: Device,
) -> Result<TokenBatch, model::Error> {
    tch::manual_seed(5);
    let shortest = if ragged { seq_len / 4 } else { seq_len };
    let lengths = Tensor::randint_low(shortest, seq_len + 1, [sequences], (Kind::Int64, Device::Cpu)); // [B]
    let host = |tensor: &Tensor| Vec::<i64>::try_from(tensor).expect("integers of one dimension");
    let mut starts = vec![0];
    for length in host(&lengths) {
        starts.push(starts[starts.len() - 1] + length as i32);
    }
    let tokens = i64::from(starts[starts.len() - 1]);
    let ids = Tensor::randint_low(1000, config.vocab_size - 6, [tokens], (Kind::Int64, Device::Cpu)); // [T]
    let masked = Tensor::rand([tokens], (Kind::Float, Device::Cpu)).lt(0.3).nonzero().squeeze_dim(1); // [M]
    let labels = ids.index_select(0, &masked); // [M]
    let ids: Vec<i32> = host(&ids).into_iter().map(|id| id as i32).collect();
    TokenBatch::from_host(&ids, &starts, &host(&masked), &host(&labels), device)
}
