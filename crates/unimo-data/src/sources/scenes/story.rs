//! Stories of scenes: some descriptions in order, and changes of them.

use std::ops::RangeInclusive;

use image::RgbImage;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::order::draws::{Stream, hash};
use crate::sources::scenes::drawing::Scene;
use crate::sources::scenes::kinds::{COLOURS, GROUNDS, Shape};
use crate::sources::scenes::words::{Description, Group, Rest};
use crate::sources::telling::Change;

/// Scenes in order, no two of which look alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Story {
    scenes: Vec<Description>,
    /// Whether all scenes are held-out ones; else none is.
    held_out: bool,
}

impl Story {
    /// A story of some scenes, all held-out ones or none.
    pub(crate) fn draw(
        scenes: RangeInclusive<usize>,
        held_out: bool,
        random: &mut ChaCha8Rng,
    ) -> Self {
        let count = random.random_range(scenes);
        let mut story = Self {
            scenes: Vec::with_capacity(count),
            held_out,
        };
        while story.scenes.len() < count {
            let scene = Description::draw(random);
            if story.takes(&scene) {
                story.scenes.push(scene);
            }
        }
        story
    }

    /// Whether a scene may join the story.
    fn takes(&self, scene: &Description) -> bool {
        let known = self.scenes.iter().any(|known| known.key() == scene.key());
        scene.is_held_out() == self.held_out && !known
    }

    /// Identifies the scenes and their order.
    pub(crate) fn key(&self) -> u64 {
        let keys: Vec<u64> = self.scenes.iter().map(Description::key).collect();
        hash(Stream::Story, &keys)
    }

    /// Identifies each scene.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.scenes.iter().map(Description::key).collect()
    }

    /// The story with a change; `None` if it cannot be changed so, or would have more scenes than `most`.
    pub(crate) fn changed(
        &self,
        change: Change,
        most: usize,
        random: &mut ChaCha8Rng,
    ) -> Option<Self> {
        let mut story = self.clone();
        let count = story.scenes.len();
        match change {
            Change::None | Change::Retold => {}
            Change::Order if count < 2 => return None,
            Change::Order => {
                while story.scenes == self.scenes {
                    story.scenes.shuffle(random);
                }
            }
            Change::Dropped if count < 2 => return None,
            Change::Dropped => {
                story.scenes.remove(random.random_range(0..count));
            }
            Change::Repeated if count >= most => return None,
            Change::Repeated => {
                let at = random.random_range(0..count);
                story.scenes.insert(at, story.scenes[at].clone());
            }
            Change::Attribute => {
                let all: Vec<(usize, Description)> = self
                    .scenes
                    .iter()
                    .enumerate()
                    .flat_map(|(at, scene)| others(scene).into_iter().map(move |o| (at, o)))
                    .filter(|(_, other)| self.takes(other))
                    .collect();
                let (at, other) = all.choose(random)?.clone();
                story.scenes[at] = other;
            }
        }
        Some(story)
    }

    /// Each scene's image and one of its captions. What the description leaves open is drawn.
    pub(crate) fn told(&self, size: u32, random: &mut ChaCha8Rng) -> Vec<(RgbImage, String)> {
        let of = |scene: Scene| (scene.draw(), caption(scene));
        self.scenes_told(size, random).map(of).collect()
    }

    /// The captions of [`told`](Self::told), without images.
    pub(crate) fn captions(&self, random: &mut ChaCha8Rng) -> Vec<String> {
        self.scenes_told(1, random).map(caption).collect()
    }

    fn scenes_told(&self, size: u32, random: &mut ChaCha8Rng) -> impl Iterator<Item = Scene> {
        let scenes = self.scenes.iter();
        scenes.map(move |scene| Scene::new(scene.clone(), size, random))
    }
}

/// The first of a scene's captions, whose order is drawn.
fn caption(scene: Scene) -> String {
    scene.captions.into_iter().next().unwrap_or_default()
}

/// Every scene that differs by one attribute: the colour, shape or size of a group, or the ground.
fn others(scene: &Description) -> Vec<Description> {
    let mut all = Vec::new();
    let grounds = GROUNDS.iter().filter(|ground| **ground != scene.ground);
    all.extend(grounds.map(|ground| Description {
        ground: *ground,
        ..scene.clone()
    }));
    let mut with = |first: Group, rest: Rest| {
        let apart = match rest {
            Rest::Second(_, second) => first.shape != second.shape || first.colour != second.colour,
            Rest::Alone(_) | Rest::Spread => true,
        };
        let ground = scene.ground;
        all.extend(apart.then_some(Description {
            ground,
            first,
            rest,
        }));
    };
    for first in changes(scene.first) {
        with(first, scene.rest);
    }
    if let Rest::Second(relation, second) = scene.rest {
        for second in changes(second) {
            with(scene.first, Rest::Second(relation, second));
        }
    }
    all
}

/// Every group that differs by one attribute.
fn changes(group: Group) -> Vec<Group> {
    let colours = COLOURS.iter().filter(|colour| **colour != group.colour);
    let colours = colours.map(|colour| Group {
        colour: *colour,
        ..group
    });
    let shapes = Shape::ALL.into_iter().filter(|shape| *shape != group.shape);
    let shapes = shapes.map(|shape| Group { shape, ..group });
    let size = Group {
        large: !group.large,
        ..group
    };
    colours.chain(shapes).chain([size]).collect()
}
