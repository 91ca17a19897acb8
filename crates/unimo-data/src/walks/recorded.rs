//! An episode as a source has it.

use std::sync::Arc;

use crate::error::ReadError;
use crate::walks::expert::Ground;
use crate::walks::pose::Pose;
use crate::walks::project::{Camera, View};

/// What the episodes of a source have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkOffers {
    /// Rows and columns of the pixels of a view.
    pub view: [usize; 2],
    /// Whether the path is known, so that there are targets to learn.
    pub paths: bool,
    /// The number of classes of cells, void among them; 0: they are not known.
    pub classes: usize,
}

/// An episode that was walked, which gives its views one at a time.
pub trait Recorded: Send + Sync {
    /// The camera of all views.
    fn camera(&self) -> Camera;

    /// Where the agent stood at each step, one or more.
    fn poses(&self) -> &[Pose];

    /// The step of the first decision: before it, the agent looks around.
    fn first(&self) -> usize;

    /// What it saw at a step.
    ///
    /// # Errors
    ///
    /// Why the view cannot be read.
    fn view(&self, step: usize) -> Result<View, ReadError>;

    /// The path from where the agent stood at a step to the goal, in metres; `None` if it is unknown.
    fn path(&self, step: usize) -> Option<Vec<[f64; 2]>>;

    /// The classes of the ground; `None` if they are unknown.
    ///
    /// # Errors
    ///
    /// Why they cannot be read.
    fn ground(&self) -> Result<Option<Arc<Ground>>, ReadError>;

    /// The number of classes, void among them; 0: they are not known.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    fn class_count(&self) -> Result<usize, ReadError>;

    /// Where it was walked: equal for episodes of one house.
    fn scene(&self) -> String;
}
