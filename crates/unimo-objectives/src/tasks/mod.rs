//! Downstream tasks: objectives that predict something of each sample, with their heads. One file per task.
//!
//! | key | predicts | from | loss |
//! |---|---|---|---|
//! | [`vqa`](vqa) | answers to a question | the fused pair | binary cross-entropy of every answer |
//!
//! A task reads its labels from the [targets](unimo_batch::Batch::targets) of a batch. [`Settings::predicts`] says what it predicts,
//! [`Objective::predict`] gives the scores.
//!
//! [`Settings::predicts`]: crate::Settings::predicts
//! [`Objective::predict`]: crate::Objective::predict

pub mod head;
pub mod labels;
pub mod summary;
pub mod vqa;
