//! Dropout follows the seed of the device. The seed is shared by a whole process, so this test has one of its own.
#![cfg(feature = "flex")]

use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::kernels;

#[test]
fn the_seed_of_the_device_decides_what_is_dropped() {
    let device = Device::flex();
    let draws = |seed| -> Vec<TensorData> {
        device.seed(seed);
        let ones = || Tensor::<2>::ones([50, 197], &device);
        (0..3)
            .map(|_| kernels::dropout(ones(), 0.3).into_data())
            .collect()
    };
    let first = draws(7);
    assert_eq!(first, draws(7));
    assert_ne!(first, draws(8));
    assert_ne!(first[0], first[1]);
}
