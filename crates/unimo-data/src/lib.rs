#![doc = include_str!("../README.md")]

mod config;
mod error;
mod formats;
pub mod images;
mod loader;
mod order;
mod settings;
pub mod sources;
mod store;
mod text;
mod threads;
pub mod walks;

pub use config::{DataConfig, Decode, SourceKind, open, register};
pub use error::{DataError, Place, ReadError, ReadKind, SampleError, panic_text, readable};
pub use formats::json::read_json;
pub use formats::layout::{is_parquet, is_tar};
pub use image;
pub use images::codes::Codebook;
pub use images::patches::{PatchMask, PatchMasker};
pub use images::regions::{PictureRegions, RegionShape};
pub use images::{augment, processor, regions};
pub use loader::bitext::{Bitext, Bitexts};
pub use loader::codes::{CodesConfig, Making, PatchCodes};
pub use loader::concepts::ConceptReader;
pub use loader::each::{Choose, Each, Wanted};
pub use loader::eval_set::{Caption, EvalSet, Item};
pub use loader::skip::SkipList;
pub use loader::story_set::{HeldStory, StorySet};
pub use loader::switch::{Switch, SwitchConfig, SwitchedWords};
pub use loader::task_set::{TaskBatch, TaskRow, TaskSet};
pub use loader::{
    Batches, FurtherText, HideRegions, Joining, Loader, LoaderSpec, MakeTarget, Rewrite,
};
pub use order::plan::{Plan, Shuffle};
pub use sources::label::{FALSE, Label, TRUE};
pub use sources::languages::{Alignment, Languages};
pub use sources::pack;
pub use sources::regions::{RegionClasses, RegionsConfig};
pub use sources::registry::{OutsideSource, OutsideSourceConfig, OutsideSources};
pub use sources::source::{
    Annotations, Holds, Offers, Readable, Sample, Source, SourceConfig, SplitFacts, TextsOf,
};
pub use sources::splits::{BySplit, Split};
pub use sources::telling::{Change, StorySlice, Telling};
pub use store::{RemoteConfig, atomic, digest, paths, shards};
pub use text::concepts::{Concepts, ConceptsConfig, PhraseSource};
pub use text::masking::{Masker, aligned};
pub use text::tokens::{Encoded, Pad, Specials, TextTokenizer, TokenizerConfig};
pub use text::{concepts, published};
