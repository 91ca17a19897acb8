//! Seeds: all random numbers of a step (order, negatives, dropout) are a function of the recipe's seed and the step. So a run can
//! be interrupted anywhere and continues as if it had not been.

/// The purpose of random numbers in a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Dropout,
    Negatives,
    Order,
    Adapters,
    Task,
    Walks,
}

/// The step of what is drawn beside training. Training has no such step, so none of its batches is drawn alike.
pub(crate) const NO_STEP: u64 = 0;

/// The seed of a step, micro-batch and purpose.
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
