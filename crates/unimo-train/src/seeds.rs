//! Seeds: everything random at a step (order, negatives, dropout) is a function of the recipe's seed and the step, so a run can be
//! cut anywhere and goes on as if it had not been.

/// What differs between the random numbers of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Dropout,
    Negatives,
    Order,
}

/// A seed of its own for every step, micro-batch and purpose.
pub(crate) fn seed_of(seed: u64, step: u64, micro: usize, purpose: Purpose) -> u64 {
    // SplitMix64's finaliser over the parts in turn.
    [step, micro as u64, purpose as u64]
        .into_iter()
        .fold(seed, |state, part| {
            let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
}
