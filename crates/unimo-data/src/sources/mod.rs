//! The sources that this crate knows, one per file.
//!
//! What several share: [`rows`] finds rows of text files and reads them again, [`json`] cuts large JSON files into elements,
//! [`listed`] is a table of samples that most formats fill, [`template`] makes file names.

pub mod coco;
pub(crate) mod json;
pub mod karpathy;
pub mod listed;
pub mod mixture;
pub mod nlvr;
pub mod pairs;
pub mod refcoco;
pub(crate) mod rows;
pub mod scenes;
pub mod snli_ve;
pub(crate) mod template;
pub mod visual_genome;
pub mod vqa;
