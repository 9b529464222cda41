//! What `train bench` prints for people.

use std::fmt::{self, Display, Formatter};

use super::Report;

/// Kernels shown of a profile.
const KERNELS_SHOWN: usize = 15;
/// Characters of a kernel's name that are shown.
const NAME_WIDTH: usize = 72;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let path = format!("{:?}", self.path).to_lowercase();
        writeln!(f, "device               {}, {path} path", self.device)?;
        if self.world_size > 1 {
            let sharded = if self.shard_optimizer { ", each with a share of the optimizer" } else { "" };
            writeln!(f, "ranks                {}{sharded}", self.world_size)?;
        }
        let Report { batch_size, seq_len, micro_batch_tokens, .. } = self;
        writeln!(
            f,
            "batch                {batch_size} samples of up to {seq_len} tokens, micro-batches of up to {micro_batch_tokens} tokens"
        )?;
        writeln!(f, "samples              {:.0} a second", self.samples_per_s)?;
        writeln!(f, "real tokens          {:.0} a second", self.real_tokens_per_s)?;
        writeln!(f, "a step               {:.1} ms, mean of {}", self.step_ms, self.steps)?;
        writeln!(f, "waiting for data     {:.2} % of the time", 100.0 * self.wait_share)?;
        if self.world_size > 1 {
            writeln!(f, "waiting for ranks    {:.2} % of the time", 100.0 * self.reduce_wait_share)?;
        }
        write!(f, "model arithmetic     {:.3} TFLOP/s", self.model_tflops)?;
        match self.mfu {
            Some(mfu) => writeln!(f, ", {:.1} % of the card's bf16 peak", 100.0 * mfu)?,
            None => writeln!(f)?,
        }
        if let Some(peak) = self.peak_memory_gib {
            writeln!(f, "peak memory          {peak:.1} GiB")?;
        }
        let Some(parts) = self.parts_ms else { return Ok(()) };
        writeln!(f, "\none profiled step    ms")?;
        for (name, ms) in [
            ("matrix products", parts.products),
            ("attention", parts.attention),
            ("element-wise", parts.elementwise),
            ("optimizer", parts.optimizer),
            ("exchange", parts.exchange),
            ("waiting", parts.waiting),
        ] {
            writeln!(f, "  {name:<18} {ms:.2}")?;
        }
        writeln!(f, "\nkernel, most expensive first {:>50} {:>12}", "runs", "ms")?;
        for kernel in self.kernels.iter().take(KERNELS_SHOWN) {
            let name: String = kernel.name.chars().take(NAME_WIDTH).collect();
            writeln!(f, "  {name:<NAME_WIDTH$} {:>6} {:>10.3}", kernel.count, kernel.total_ms)?;
        }
        Ok(())
    }
}
