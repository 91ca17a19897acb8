//! An agent's decisions, without a gradient: for evaluation, where episodes are known to their end, and for an agent that walks and sees what
//! comes of it.
//!
//! Shape legend: `B` episodes, `T` decisions, `P` tokens of the map, `N` cells on a side of the semantic layer, `K` classes.

use burn::tensor::{Device, Tensor};
use unimo_batch::{Texts, Walks};
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::TextFeatures;
use unimo_encoders::map::{History, WalkFeatures};

use crate::Objectives;

/// What an agent decides.
#[derive(Debug, Clone)]
pub struct Decisions {
    /// `[T]`: to the right and ahead, 1 is half of the map's side.
    pub waypoints: Vec<[f32; 2]>,
    /// `[T]`: the share of the path that lies behind.
    pub progress: Vec<f32>,
    /// `[T, P]`: where the agent looks on the map; `None` without a map.
    pub attention: Option<Tensor<2>>,
    /// `[T, N * N, K]`: the classes of cells before a softmax; `None` without a semantic layer.
    pub semantic: Option<Tensor<3>>,
}

impl Objectives {
    /// Instructions as an agent reads them.
    pub fn read_instructions(
        &self,
        backbone: &Backbone,
        texts: &Texts,
        device: &Device,
    ) -> TextFeatures {
        let text = &backbone.text;
        let input = text.input(&texts.ids, &texts.lengths, texts.length, device);
        backbone.encode_texts(&input)
    }

    /// All decisions of episodes; `None` if the model is no agent, or cannot read them. `texts` are the instructions, `B` rows.
    pub fn follow(
        &self,
        backbone: &Backbone,
        texts: &TextFeatures,
        walks: &Walks,
        device: &Device,
    ) -> Option<Decisions> {
        let map = backbone.map.as_ref().filter(|map| map.takes(walks))?;
        self.decided(map.forward(texts, &map.input(walks, device)))
    }

    /// One more decision of each episode, after those of `history`; as [`follow`](Self::follow).
    pub fn decide(
        &self,
        backbone: &Backbone,
        texts: &TextFeatures,
        (walks, history): (&Walks, &mut History),
        device: &Device,
    ) -> Option<Decisions> {
        let map = backbone.map.as_ref().filter(|map| map.takes(walks))?;
        if history.steps() >= map.config.steps {
            return None;
        }
        self.decided(map.decide(texts, &map.input(walks, device), history))
    }

    fn decided(&self, features: WalkFeatures) -> Option<Decisions> {
        let (waypoints, progress) = self.walk.as_ref()?.forward(features.states);
        let waypoints: Vec<f32> = waypoints.into_data().iter::<f32>().collect();
        let pairs = waypoints.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        Some(Decisions {
            waypoints: pairs.collect(),
            progress: progress.into_data().iter::<f32>().collect(),
            attention: features.attention,
            semantic: features.semantic,
        })
    }
}
