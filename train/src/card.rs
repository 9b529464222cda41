//! What is known of NVIDIA's cards.

use tch::Device;

use crate::host::Host;

/// The name of the first card of this machine, where `device` is one.
pub(crate) fn name(device: Device) -> Option<String> {
    device.is_cuda().then(|| Host::detect().gpus.into_iter().next()).flatten()
}

/// Dense bf16 peak of a card in TFLOP/s, from NVIDIA's data sheets.
pub(crate) fn peak_tflops(card: &str) -> Option<f64> {
    const PEAKS: [(&str, f64); 8] = [
        ("B200", 2250.0),
        ("H100 PCIe", 756.0),
        ("H200", 989.4),
        ("H100", 989.4),
        ("A100", 311.9),
        ("L40S", 362.0),
        ("A10", 125.0),
        ("4090", 165.2),
    ];
    PEAKS.into_iter().find(|(name, _)| card.contains(name)).map(|(_, peak)| peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_their_own_peaks() {
        assert_eq!(peak_tflops("NVIDIA H200"), Some(989.4));
        assert_eq!(peak_tflops("NVIDIA H100 PCIe"), Some(756.0));
        assert_eq!(peak_tflops("Some card"), None);
        assert_eq!(name(Device::Cpu), None);
    }
}
