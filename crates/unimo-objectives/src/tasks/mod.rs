//! Downstream tasks: objectives that predict something of each sample, with their heads. One file per task.
//!
//! | key | predicts | from | loss |
//! |---|---|---|---|
//! | [`vqa`] | answers to a question | the fused pair | binary cross-entropy of every answer |
//! | [`answers`] | the same, by the likelihood of the answers' words | questions and answers, read from left to right with the image | cross-entropy of the words |
//! | [`nlvr2`] | whether a statement is true | the statement fused with one image or two | cross-entropy |
//! | [`snli_ve`] | what the image says of a sentence | the fused pair | cross-entropy |
//! | [`ranking`] | which text belongs to an image; needs no labels | fused pairs, true and wrong ones | cross-entropy over texts |
//! | [`classes`] | the class of an image | the image encoder | cross-entropy |
//! | [`prompts`] | the class of an image, by its name | a frozen CLIP with representation tokens | cross-entropy, and distance from CLIP |
//! | [`sentences`] | the class of a text, or a number | the text encoder, or one stream over it | cross-entropy, or squared error |
//! | [`grounding`] | the box that an expression refers to | the fused pair | distance of the coordinates, and generalised IoU |
//! | [`locate`] | the same box, from the attention that it supervises | attention of the text to patches | divergence from where the box lies |
//! | [`region_scoring`] | which region an expression refers to | single states of the fused pair | squared error of cosine and IoU |
//! | [`walk`] | where an agent goes, and its progress | each decision of its episode | squared error |
//! | [`path`] | nothing: it supervises where the agent looks | attention of the instruction to the map | divergence from where the path lies |
//! | [`hallucinate`] | the classes of the map's cells | the semantic layer of the map | cross-entropy |
//!
//! A task reads its labels from the [targets](unimo_batch::Batch::targets) of a batch. [`Settings::predicts`] says what it predicts,
//! [`Objective::predict`] gives the scores.
//!
//! [`Settings::predicts`]: crate::Settings::predicts
//! [`Objective::predict`]: crate::Objective::predict

pub mod answers;
pub mod classes;
pub mod grounding;
pub mod hallucinate;
pub mod head;
pub mod labels;
pub mod locate;
pub mod nlvr2;
pub mod pair;
pub mod path;
pub mod prompts;
pub mod ranking;
pub mod region_scoring;
pub mod sentences;
pub mod snli_ve;
pub mod summary;
pub mod vqa;
pub mod walk;

use unimo_batch::ConfigError;

/// Checks the dropout of a head.
fn valid_dropout(dropout: f64) -> Result<(), ConfigError> {
    ConfigError::unless(
        (0.0..1.0).contains(&dropout),
        "dropout",
        dropout,
        "must be at least 0 and below 1",
    )
}
