//! What only some processors can, found out when the program runs.
#![allow(unsafe_code)]

/// Work that is done in the same way, only faster, with the bit instructions of processors since 2013.
pub(crate) trait Work {
    type Result;

    /// Does it. Must be `#[inline(always)]`, as must be what it calls, to be translated for those processors.
    fn run(self) -> Self::Result;
}

/// Does `work` with BMI and BMI2, where this processor has them.
#[inline]
pub(crate) fn run<W: Work>(work: W) -> W::Result {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor was just asked for both features.
        return unsafe { run_bmi(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2")]
fn run_bmi<W: Work>(work: W) -> W::Result {
    work.run()
}

/// Asks the processor to fetch the cache line that `value` begins in. Nothing but time depends on it.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and whatever the address is, it changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
