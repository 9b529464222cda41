//! Where the GPU's time goes: a profile's kernels, sorted into the parts of a step.

use std::collections::HashMap;

use model::torch::Activity;
use serde::Serialize;

/// Milliseconds of one step by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Attention: scores, softmax and weighted sums, forward and backward.
    pub attention: f64,
    /// Matrix products.
    pub products: f64,
    /// All other kernels and copies: norms, dropout, activations, embedding, loss, sums.
    pub elementwise: f64,
    /// The fused optimizer's update. Updates by torch's operators are counted as elementwise.
    pub optimizer: f64,
    /// Exchanges between ranks, most of which run beside the others.
    pub exchange: f64,
    /// Nothing ran: the GPU waited for the host.
    pub waiting: f64,
}

/// All runs of one kernel within a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTime {
    /// Its name.
    pub name: String,
    /// The part it is counted to.
    pub part: &'static str,
    /// How often it ran.
    pub count: usize,
    /// Milliseconds of all its runs.
    pub total_ms: f64,
}

/// Words in the names of kernels that multiply matrices: cuBLAS's and CUTLASS's.
const PRODUCT_WORDS: [&str; 7] = ["gemm", "nvjet", "cutlass", "splitk", "cublas", "gemv", "xmma"];
/// Words in the names of kernels of attention: ours, FlashAttention's, and the softmax of plain attention.
const ATTENTION_WORDS: [&str; 5] = ["attention_", "flash", "fmha", "softmax_warp", "mem_eff"];

/// The part a kernel belongs to, by its name.
fn part_of(kernel: &str) -> &'static str {
    let name = kernel.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match () {
        () if has(&ATTENTION_WORDS) => "attention",
        () if has(&PRODUCT_WORDS) => "products",
        () if name == "adamw" => "optimizer",
        () if name.starts_with("nccl") => "exchange",
        () => "elementwise",
    }
}

/// Sorts the activities of `steps` steps, in order of their start, into parts, and adds up the runs of each kernel, the
/// most expensive first.
pub(super) fn split(activities: &[Activity], steps: u64) -> (Parts, Vec<KernelTime>) {
    let per_step = |ns: u64| ns as f64 / 1e6 / steps as f64;
    let mut parts = Parts::default();
    let mut kernels: HashMap<&str, KernelTime> = HashMap::new();
    let (mut busy_until, mut idle) = (activities.first().map_or(0, |first| first.start_ns), 0);
    for activity in activities {
        let part = part_of(&activity.name);
        let time = per_step(activity.duration_ns);
        *match part {
            "attention" => &mut parts.attention,
            "products" => &mut parts.products,
            "optimizer" => &mut parts.optimizer,
            "exchange" => &mut parts.exchange,
            _ => &mut parts.elementwise,
        } += time;
        let kernel = kernels.entry(&activity.name).or_insert_with(|| KernelTime {
            name: activity.name.clone(),
            part,
            count: 0,
            total_ms: 0.0,
        });
        kernel.count += 1;
        kernel.total_ms += time;
        idle += activity.start_ns.saturating_sub(busy_until);
        busy_until = busy_until.max(activity.start_ns + activity.duration_ns);
    }
    parts.waiting = per_step(idle);
    let mut kernels: Vec<KernelTime> = kernels.into_values().collect();
    kernels.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms).then_with(|| a.name.cmp(&b.name)));
    (parts, kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(name: &str, start_ms: u64, duration_ms: u64) -> Activity {
        Activity {
            name: name.to_owned(),
            start_ns: start_ms * 1_000_000,
            duration_ns: duration_ms * 1_000_000,
        }
    }

    #[test]
    fn kernels_are_known_by_their_names() {
        for (name, part) in [
            ("nvjet_sm90_tst_256x128_64x4_1x2_h_badd_coopA_NNT", "products"),
            ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "products"),
            ("attention_backward_short", "attention"),
            ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
            ("adamw", "optimizer"),
            ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "exchange"),
            ("geglu_forward", "elementwise"),
            (
                "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>",
                "elementwise",
            ),
        ] {
            assert_eq!(part_of(name), part, "{name}");
        }
    }

    #[test]
    fn time_is_split_and_gaps_are_waiting() {
        let activities = [
            activity("nvjet", 10, 4),
            activity("geglu_forward", 12, 4), // runs beside the first one
            activity("nvjet", 20, 6),
            activity("adamw", 26, 2),
        ];
        let (parts, kernels) = split(&activities, 2);
        let expected =
            Parts { products: 5.0, elementwise: 2.0, optimizer: 1.0, waiting: 2.0, ..Parts::default() };
        assert_eq!(parts, expected);
        assert_eq!((kernels[0].name.as_str(), kernels[0].count, kernels[0].total_ms), ("nvjet", 2, 5.0));
        assert_eq!(split(&[], 1), (Parts::default(), Vec::new()));
    }
}
