//! Which kind of device a tensor lives on.

use burn::tensor::Device;

/// Whether this is burn's CPU backend (flex), with or without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    // burn compares devices by hardware, so one comparison serves plain and autodiff devices.
    #[cfg(feature = "flex")]
    let is_cpu = *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    let is_cpu = {
        let _ = device;
        false
    };
    is_cpu
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn autodiff_makes_no_difference() {
        assert!(is_cpu(&Device::flex()));
        assert!(is_cpu(&Device::flex().autodiff()));
    }
}
