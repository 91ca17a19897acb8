//! An endless generated corpus: small pictures of shapes, with texts that are true of them.
//!
//! A scene is one or two groups of like objects on a coloured ground. Every text is derived from the same description
//! as the picture, so it is known exactly what a model could have learned. Scenes are a pure function of seed, split
//! and index. A hash of the description alone says whether a scene may be held out, so nothing held out is ever seen
//! in training, whatever the seed, and no two held-out scenes look alike.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Place, SampleError};
use crate::images::Limits;
use crate::order::draws::{Stream, hash};
use crate::settings::range;
use crate::sources::source::{Sample, Source, SourceConfig};
use crate::sources::splits::{BySplit, Split};

/// `[data.scenes]`: generated pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScenesConfig {
    /// Which endless corpus; another seed gives other scenes.
    pub seed: u64,
    /// Scenes in a training epoch.
    pub train: usize,
    /// Held-out scenes; no two look alike and none is in any training split of any seed.
    pub val: usize,
    /// As `val`, and none is in `val`.
    pub test: usize,
    /// Side of the drawn picture in pixels.
    pub size: u32,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 4096,
            val: 512,
            test: 0,
            size: 64,
        }
    }
}

impl SourceConfig for ScenesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        range(&format!("{table}.train"), self.train, 1, 1 << 40)?;
        // There are about 100,000 descriptions that may be held out; looking for unused ones gets slow.
        range(&format!("{table}.val"), self.val, 0, 20_000)?;
        range(&format!("{table}.test"), self.test, 0, 20_000)?;
        range(&format!("{table}.size"), self.size as usize, 32, 4096)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(Scenes::new(*self)))
    }

    fn without_table() -> Option<Self> {
        Some(Self::default())
    }
}

/// Generated scenes. See the [module](self).
#[derive(Debug)]
pub struct Scenes {
    config: ScenesConfig,
    /// Per held-out scene, which attempt gave it; the scenes themselves are made again when asked for.
    held_out: BySplit<Vec<u64>>,
}

/// One description in this many is kept for the held-out split.
const HELD_OUT_IN: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Ring,
    Diamond,
    Heart,
}

impl Shape {
    const ALL: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Ring,
        Self::Diamond,
        Self::Heart,
    ];

    fn name(self, count: usize) -> &'static str {
        let (one, many) = match self {
            Self::Circle => ("circle", "circles"),
            Self::Square => ("square", "squares"),
            Self::Triangle => ("triangle", "triangles"),
            Self::Star => ("star", "stars"),
            Self::Cross => ("cross", "crosses"),
            Self::Ring => ("ring", "rings"),
            Self::Diamond => ("diamond", "diamonds"),
            Self::Heart => ("heart", "hearts"),
        };
        if count == 1 { one } else { many }
    }

    /// Whether a point is inside the shape of radius 1; y points down.
    fn contains(self, x: f32, y: f32) -> bool {
        let square = |half: f32| x.abs() <= half && y.abs() <= half;
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => square(0.85),
            Self::Triangle => (-0.95..=0.75).contains(&y) && x.abs() <= (y + 0.95) * 0.588,
            Self::Star => {
                // Five tips: the angle is folded into half a tip, where the edge is a straight line from the tip at
                // radius 1 to the notch at radius NOTCH.
                const NOTCH: f32 = 0.45;
                let step = std::f32::consts::PI / 5.0;
                let angle = x.atan2(-y).rem_euclid(2.0 * step);
                let angle = angle.min(2.0 * step - angle);
                let radius = x.hypot(y);
                let (px, py) = (radius * angle.cos(), radius * angle.sin());
                let (nx, ny) = (NOTCH * step.cos(), NOTCH * step.sin());
                (1.0 - px) * ny - py * (1.0 - nx) >= 0.0
            }
            Self::Cross => square(0.95) && x.abs().min(y.abs()) <= 0.3,
            Self::Ring => (0.3..=1.0).contains(&(x * x + y * y)),
            Self::Diamond => x.abs() * 1.35 + y.abs() <= 1.0,
            Self::Heart => {
                let (x, y) = (x * 1.2, -y * 1.15 + 0.15);
                let base = x * x + y * y - 1.0;
                base * base * base - x * x * y * y * y <= 0.0
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Colour {
    name: &'static str,
    rgb: [u8; 3],
}

const fn colour(name: &'static str, rgb: [u8; 3]) -> Colour {
    Colour { name, rgb }
}

/// Colours of objects.
const COLOURS: [Colour; 8] = [
    colour("red", [215, 30, 35]),
    colour("green", [25, 150, 50]),
    colour("blue", [35, 65, 215]),
    colour("yellow", [245, 220, 20]),
    colour("purple", [135, 35, 165]),
    colour("orange", [245, 130, 15]),
    colour("white", [252, 252, 252]),
    colour("black", [12, 12, 12]),
];

/// Colours of grounds; none is an object's.
const GROUNDS: [Colour; 4] = [
    colour("grey", [140, 140, 140]),
    colour("beige", [222, 202, 165]),
    colour("pink", [245, 165, 195]),
    colour("teal", [60, 145, 150]),
];

/// What separates the two groups: which words say where the first is, seen from the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    fn words(self) -> &'static str {
        match self {
            Self::LeftOf => "to the left of",
            Self::RightOf => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    fn reversed(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// Where a single object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Corner {
    TopLeft,
    TopRight,
    BottomLeft,
    BottomRight,
    Centre,
}

impl Corner {
    const ALL: [Self; 5] = [
        Self::TopLeft,
        Self::TopRight,
        Self::BottomLeft,
        Self::BottomRight,
        Self::Centre,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::TopLeft => "in the top left corner",
            Self::TopRight => "in the top right corner",
            Self::BottomLeft => "in the bottom left corner",
            Self::BottomRight => "in the bottom right corner",
            Self::Centre => "in the centre",
        }
    }

    fn centre(self) -> (f32, f32) {
        match self {
            Self::TopLeft => (0.25, 0.25),
            Self::TopRight => (0.75, 0.25),
            Self::BottomLeft => (0.25, 0.75),
            Self::BottomRight => (0.75, 0.75),
            Self::Centre => (0.5, 0.5),
        }
    }
}

/// Like objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    count: usize,
    large: bool,
    colour: Colour,
    shape: Shape,
}

impl Group {
    fn size(self) -> &'static str {
        if self.large { "large" } else { "small" }
    }

    /// `a large red circle`, `two small blue stars`.
    fn full(self) -> String {
        counted(
            self.count,
            &format!("{} {}", self.size(), self.colour.name),
            self.shape,
        )
    }

    /// `red circle`, `blue stars`.
    fn short(self) -> String {
        format!("{} {}", self.colour.name, self.shape.name(self.count))
    }
}

fn counted(count: usize, attributes: &str, shape: Shape) -> String {
    let thing = format!("{attributes} {}", shape.name(count));
    match count {
        1 => format!("{} {thing}", article(&thing)),
        _ => format!("{} {thing}", number(count)),
    }
}

fn article(words: &str) -> &'static str {
    if words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

fn number(count: usize) -> &'static str {
    ["no", "one", "two", "three", "four", "five", "six"]
        .get(count)
        .copied()
        .unwrap_or("many")
}

fn is(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// All that a text may say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Description {
    ground: Colour,
    first: Group,
    rest: Rest,
}

/// What there is beside the first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rest {
    /// Nothing; a single object is in some place.
    Alone(Corner),
    /// Nothing; several objects are spread over the picture.
    Spread,
    /// A second group, and where the first is, seen from it.
    Second(Relation, Group),
}

impl Description {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        // Every choice is from a list that is not empty; the first element stands in for the impossible case.
        fn pick<T: Copy>(random: &mut ChaCha8Rng, list: &[T]) -> T {
            list.choose(random).copied().unwrap_or(list[0])
        }
        let group = |random: &mut ChaCha8Rng, most: usize| Group {
            count: random.random_range(1..=most),
            large: random.random(),
            colour: pick(random, &COLOURS),
            shape: pick(random, &Shape::ALL),
        };
        let ground = pick(random, &GROUNDS);
        const SHARE_OF_SINGLE_GROUPS: f64 = 0.2;
        if random.random_bool(SHARE_OF_SINGLE_GROUPS) {
            let first = group(random, 4);
            let rest = match first.count {
                1 => Rest::Alone(pick(random, &Corner::ALL)),
                _ => Rest::Spread,
            };
            return Self {
                ground,
                first,
                rest,
            };
        }
        let relation = pick(random, &Relation::ALL);
        loop {
            let (first, second) = (group(random, 3), group(random, 3));
            let told_apart = first.shape != second.shape || first.colour != second.colour;
            if told_apart && first.count + second.count <= 4 {
                return Self {
                    ground,
                    first,
                    rest: Rest::Second(relation, second),
                };
            }
        }
    }

    fn groups(&self) -> Vec<Group> {
        match self.rest {
            Rest::Second(_, second) => vec![self.first, second],
            Rest::Alone(_) | Rest::Spread => vec![self.first],
        }
    }

    /// The same for two descriptions that say the same, such as left of and, turned around, right of.
    fn key(&self) -> u64 {
        let group = |group: Group| {
            let colour = COLOURS.iter().position(|known| *known == group.colour);
            let shape = Shape::ALL.iter().position(|known| *known == group.shape);
            ((group.count * 2 + usize::from(group.large)) * 8 + colour.unwrap_or(0)) as u64 * 8
                + shape.unwrap_or(0) as u64
        };
        let ground = GROUNDS.iter().position(|known| *known == self.ground);
        let (relation, first, second) = match self.rest {
            Rest::Alone(corner) => {
                let corner = Corner::ALL.iter().position(|known| *known == corner);
                (corner.unwrap_or(0) as u64, self.first, 0)
            }
            Rest::Spread => (10, self.first, 0),
            Rest::Second(Relation::LeftOf, second) => (20, self.first, group(second)),
            Rest::Second(Relation::RightOf, second) => (20, second, group(self.first)),
            Rest::Second(Relation::Above, second) => (21, self.first, group(second)),
            Rest::Second(Relation::Below, second) => (21, second, group(self.first)),
        };
        let ground = ground.unwrap_or(0) as u64;
        hash(Stream::Scene, &[ground, relation, group(first), second])
    }

    fn is_held_out(&self) -> bool {
        self.key().is_multiple_of(HELD_OUT_IN)
    }

    /// Two texts in different words, each of which says everything.
    fn captions(&self, random: &mut ChaCha8Rng) -> Vec<String> {
        let ground = format!(
            "{} {} background",
            article(self.ground.name),
            self.ground.name
        );
        let first = self.first.full();
        let verb = is(self.first.count);
        let all = match self.rest {
            Rest::Alone(corner) => {
                let place = corner.words();
                vec![
                    format!("{first} {place} on {ground}"),
                    format!("on {ground} there {verb} {first} {place}"),
                    format!("{place} of {ground} there {verb} {first}"),
                ]
            }
            Rest::Spread => vec![
                format!("{first} on {ground}"),
                format!("there {verb} {first} on {ground}"),
                format!("on {ground}, one sees {first}"),
            ],
            Rest::Second(relation, second) => {
                let (other, words) = (second.full(), relation.words());
                let turned = relation.reversed().words();
                vec![
                    format!("{first} {words} {other} on {ground}"),
                    format!("{other} {turned} {first} on {ground}"),
                    format!("on {ground}, {first} {verb} {words} {other}"),
                    format!("on {ground}, {other} {} {turned} {first}", is(second.count)),
                    format!(
                        "there {verb} {first} {words} {other} and the background is {}",
                        self.ground.name
                    ),
                ]
            }
        };
        all.sample(random, 2).cloned().collect()
    }

    /// The phrases of a caption: a relation as the caption words it, seen from what it names first.
    fn phrases(&self, caption: &str) -> Vec<String> {
        let mut phrases = Vec::new();
        for group in self.groups() {
            phrases.push(group.shape.name(group.count).to_owned());
            phrases.push(group.short());
            phrases.push(format!("{} {}", group.size(), group.short()));
        }
        if let Rest::Second(relation, second) = self.rest {
            let turned = caption.find(&second.full()) < caption.find(&self.first.full());
            let (one, words, other) = match turned {
                true => (second, relation.reversed().words(), self.first),
                false => (self.first, relation.words(), second),
            };
            phrases.push(format!("{} {words} {}", one.short(), other.short()));
        }
        phrases.push(format!("{} background", self.ground.name));
        phrases
    }

    /// Questions that have exactly one answer.
    fn questions(&self) -> Vec<(String, String)> {
        let groups = self.groups();
        let mut asked: Vec<(String, String)> = vec![(
            "what colour is the background?".to_owned(),
            self.ground.name.to_owned(),
        )];
        let total: usize = groups.iter().map(|group| group.count).sum();
        asked.push((
            "how many objects are there?".to_owned(),
            number(total).to_owned(),
        ));
        for group in &groups {
            let verb = is(group.count);
            let alone = |same: &dyn Fn(&Group) -> bool| {
                groups.iter().filter(|other| same(other)).count() == 1
            };
            let plural = group.shape.name(2);
            if alone(&|other| other.shape == group.shape) {
                let name = group.shape.name(group.count);
                asked.push((
                    format!("what colour {verb} the {name}?"),
                    group.colour.name.to_owned(),
                ));
                asked.push((
                    format!("how many {plural} are there?"),
                    number(group.count).to_owned(),
                ));
            }
            if alone(&|other| other.colour == group.colour) {
                let thing = if group.count == 1 {
                    "object"
                } else {
                    "objects"
                };
                asked.push((
                    format!("what shape {verb} the {} {thing}?", group.colour.name),
                    group.shape.name(1).to_owned(),
                ));
            }
        }
        if let Rest::Second(relation, second) = self.rest {
            asked.push((
                format!(
                    "where {} the {}, seen from the {}?",
                    is(self.first.count),
                    self.first.short(),
                    second.short()
                ),
                relation.words().trim_end_matches(" of").to_owned(),
            ));
        }
        for (statement, truth) in self.statements() {
            if let Some(rest) = statement.strip_prefix("there ")
                && let Some((verb, thing)) = rest.split_once(' ')
            {
                let answer = if truth { "yes" } else { "no" };
                asked.push((format!("{verb} there {thing}?"), answer.to_owned()));
            }
        }
        asked
    }

    /// Statements in pairs that differ in one word group: one true, one false.
    fn statements(&self) -> Vec<(String, bool)> {
        let groups = self.groups();
        let mut said = Vec::new();
        // What is changed to make a statement false is taken from the key, so that it is always the same.
        let key = self.key();
        let pick =
            |salt: u64, n: usize| crate::order::draws::below(hash(Stream::Scene, &[key, salt]), n);
        for (salt, group) in (0u64..).zip(&groups) {
            let verb = is(group.count);
            said.push((format!("there {verb} {}", group.full()), true));
            let others: Vec<Group> = [0, 1, 2]
                .into_iter()
                .flat_map(|change| -> Vec<Group> {
                    match change {
                        0 => COLOURS
                            .iter()
                            .map(|colour| Group {
                                colour: *colour,
                                ..*group
                            })
                            .collect(),
                        1 => Shape::ALL
                            .iter()
                            .map(|shape| Group {
                                shape: *shape,
                                ..*group
                            })
                            .collect(),
                        _ => vec![Group {
                            large: !group.large,
                            ..*group
                        }],
                    }
                })
                // The statement "there is a red circle" must not be true of another group.
                .filter(|other| {
                    groups.iter().all(|known| {
                        (known.large, known.colour, known.shape)
                            != (other.large, other.colour, other.shape)
                    })
                })
                .collect();
            if let Some(other) = others.get(pick(salt, others.len().max(1))) {
                said.push((format!("there {verb} {}", other.full()), false));
            }
        }
        if let Rest::Second(relation, second) = self.rest {
            let (a, b) = (self.first, second);
            let say = |relation: Relation| {
                format!(
                    "the {} {} {} the {}",
                    a.short(),
                    is(a.count),
                    relation.words(),
                    b.short()
                )
            };
            said.push((say(relation), true));
            said.push((say(relation.reversed()), false));
        }
        let grounds: Vec<_> = GROUNDS
            .iter()
            .filter(|ground| **ground != self.ground)
            .collect();
        said.push((format!("the background is {}", self.ground.name), true));
        said.push((
            format!("the background is {}", grounds[pick(9, grounds.len())].name),
            false,
        ));
        said
    }
}

/// An object as it is drawn, in shares of the picture's side.
#[derive(Debug, Clone, Copy)]
struct Object {
    group: Group,
    x: f32,
    y: f32,
    radius: f32,
}

/// A description with its drawing.
#[derive(Debug)]
struct Scene {
    description: Description,
    objects: Vec<Object>,
    captions: Vec<String>,
    size: u32,
}

impl Scene {
    /// Radii in shares of the picture's side. Three large objects in a row fill it.
    const LARGE: f32 = 0.145;
    const SMALL: f32 = 0.08;
    /// How much a radius varies.
    const SPREAD: f32 = 0.08;

    fn new(description: Description, size: u32, random: &mut ChaCha8Rng) -> Self {
        let first = description.first;
        let mut objects = Vec::new();
        match description.rest {
            Rest::Alone(corner) => {
                let (x, y) = corner.centre();
                place(&mut objects, first, &[(x, y)], (0.2, 0.2), random);
            }
            Rest::Spread => {
                let mut cells = vec![(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)];
                while cells.len() > first.count {
                    cells.remove(random.random_range(0..cells.len()));
                }
                place(&mut objects, first, &cells, (0.22, 0.22), random);
            }
            Rest::Second(relation, second) => {
                let (near, far) = (0.25, 0.75);
                let (own, other) = match relation {
                    Relation::LeftOf | Relation::Above => (near, far),
                    Relation::RightOf | Relation::Below => (far, near),
                };
                let sideways = matches!(relation, Relation::LeftOf | Relation::RightOf);
                for (group, across) in [(first, own), (second, other)] {
                    let share = 1.0 / group.count as f32;
                    let cells: Vec<_> = (0..group.count)
                        .map(|i| (i as f32 + 0.5) * share)
                        .map(|along| {
                            if sideways {
                                (across, along)
                            } else {
                                (along, across)
                            }
                        })
                        .collect();
                    let half = if sideways {
                        (0.23, share / 2.0)
                    } else {
                        (share / 2.0, 0.23)
                    };
                    place(&mut objects, group, &cells, half, random);
                }
            }
        }
        let captions = description.captions(random);
        Self {
            description,
            objects,
            captions,
            size,
        }
    }

    /// Per caption, its phrases.
    fn phrases(&self) -> Vec<Vec<String>> {
        let of = |caption: &String| self.description.phrases(caption);
        self.captions.iter().map(of).collect()
    }

    /// Per object, its name.
    fn tags(&self) -> Vec<String> {
        let groups = self.objects.iter().map(|object| object.group);
        groups
            .map(|group| format!("{} {}", group.colour.name, group.shape.name(1)))
            .collect()
    }

    fn boxes(&self) -> Vec<[f32; 4]> {
        let clamp = |value: f32| value.clamp(0.0, 1.0);
        self.objects
            .iter()
            .map(|object| {
                let r = object.radius;
                [object.x - r, object.y - r, object.x + r, object.y + r].map(clamp)
            })
            .collect()
    }

    /// Draws with 4 x 4 samples per pixel.
    fn draw(&self) -> RgbImage {
        const SAMPLES: u32 = 4;
        let side = self.size as f32;
        let ground = self.description.ground.rgb;
        let mut picture = RgbImage::from_pixel(self.size, self.size, Rgb(ground));
        for (object, bounds) in self.objects.iter().zip(self.boxes()) {
            let [x1, y1, x2, y2] = bounds.map(|edge| edge * side);
            let last = self.size - 1;
            for y in y1 as u32..=(y2 as u32).min(last) {
                for x in x1 as u32..=(x2 as u32).min(last) {
                    let inside = (0..SAMPLES * SAMPLES)
                        .filter(|sample| {
                            let part = |i: u32| (i as f32 + 0.5) / SAMPLES as f32;
                            let px = (x as f32 + part(sample % SAMPLES)) / side;
                            let py = (y as f32 + part(sample / SAMPLES)) / side;
                            object.group.shape.contains(
                                (px - object.x) / object.radius,
                                (py - object.y) / object.radius,
                            )
                        })
                        .count() as u32;
                    let all = SAMPLES * SAMPLES;
                    let pixel = picture.get_pixel_mut(x, y);
                    for (value, colour) in pixel.0.iter_mut().zip(object.group.colour.rgb) {
                        let mixed = u32::from(*value) * (all - inside) + u32::from(colour) * inside;
                        *value = ((mixed + all / 2) / all) as u8;
                    }
                }
            }
        }
        picture
    }
}

/// Puts one object of a group into each cell: somewhere within `half` of the cell's middle, wholly inside it.
fn place(
    objects: &mut Vec<Object>,
    group: Group,
    cells: &[(f32, f32)],
    half: (f32, f32),
    random: &mut ChaCha8Rng,
) {
    let base = if group.large {
        Scene::LARGE
    } else {
        Scene::SMALL
    };
    for (x, y) in cells {
        let radius = base * random.random_range(1.0 - Scene::SPREAD..=1.0 + Scene::SPREAD);
        let mut jitter = |half: f32| {
            let room = (half - radius).max(0.0);
            random.random_range(-room..=room)
        };
        objects.push(Object {
            group,
            x: x + jitter(half.0),
            y: y + jitter(half.1),
            radius,
        });
    }
}

impl Scenes {
    /// The name that places of scenes carry.
    const NAME: &'static str = "scenes";

    /// The corpus of a validated configuration.
    pub fn new(config: ScenesConfig) -> Self {
        let mut scenes = Self {
            config,
            held_out: BySplit::default(),
        };
        let mut seen = HashSet::new();
        for (split, count) in [(Split::Val, config.val), (Split::Test, config.test)] {
            for index in 0..count {
                let attempt = (0..)
                    .find(|attempt| {
                        let (description, _) = scenes.description(split, index, *attempt);
                        description.is_held_out() && seen.insert(description.key())
                    })
                    .unwrap_or(0);
                scenes.held_out[split].push(attempt);
            }
        }
        scenes
    }

    fn description(&self, split: Split, index: usize, attempt: u64) -> (Description, ChaCha8Rng) {
        let parts = [self.config.seed, split as u64, index as u64, attempt];
        let mut random = ChaCha8Rng::seed_from_u64(hash(Stream::Scene, &parts));
        (Description::draw(&mut random), random)
    }

    fn scene(&self, split: Split, index: usize) -> Scene {
        let (description, mut random) = match split {
            Split::Val | Split::Test => self.description(split, index, self.held_out[split][index]),
            Split::Train => {
                let mut attempt = 0;
                loop {
                    let drawn = self.description(split, index, attempt);
                    if !drawn.0.is_held_out() {
                        break drawn;
                    }
                    attempt += 1;
                }
            }
        };
        Scene::new(description, self.config.size, &mut random)
    }
}

impl Source for Scenes {
    fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.config.train,
            Split::Val => self.config.val,
            Split::Test => self.config.test,
        }
    }

    fn describe(&self) -> String {
        let test = match self.config.test {
            0 => String::new(),
            scenes => format!(", {scenes} to test on"),
        };
        format!(
            "generated scenes of seed {}: {} for training, {} held out{test}, {} x {} pixels, 2 captions each",
            self.config.seed,
            self.config.train,
            self.config.val,
            self.config.size,
            self.config.size
        )
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: format!("{}-{}", Self::NAME, split.name()),
            line: index as u64,
        }
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let of = [self.config.seed, split as u64, index as u64];
        Ok(hash(Stream::Picture, &of))
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.scene(split, index).captions)
    }

    fn phrases(&self, split: Split, index: usize) -> Result<Vec<Vec<String>>, SampleError> {
        Ok(self.scene(split, index).phrases())
    }

    fn tags(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.scene(split, index).tags())
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(Some(self.scene(split, index).draw()))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let scene = self.scene(split, index);
        Ok(Sample {
            name: self.place(split, index).to_string(),
            image: Some(scene.draw()),
            phrases: scene.phrases(),
            tags: scene.tags(),
            boxes: scene.boxes(),
            questions: scene.description.questions(),
            statements: scene.description.statements(),
            captions: scene.captions,
            ..Sample::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes() -> Scenes {
        Scenes::new(ScenesConfig {
            seed: 11,
            train: 1000,
            val: 500,
            test: 0,
            size: 96,
        })
    }

    /// What a group of words such as `two small blue stars` says, parsed without the generator's help.
    fn parse(words: &[&str]) -> Option<(usize, bool, &'static str, Shape)> {
        let [count, size, colour, shape] = words else {
            return None;
        };
        let count = ["a", "two", "three", "four"]
            .iter()
            .position(|word| word == count)?
            + 1;
        let large = *size == "large";
        let colour = COLOURS.iter().find(|known| known.name == *colour)?.name;
        let shape = Shape::ALL
            .into_iter()
            .find(|known| known.name(count) == *shape)?;
        (large || *size == "small").then_some((count, large, colour, shape))
    }

    /// Every group that a text names, in order.
    fn named(text: &str) -> Vec<(usize, bool, &'static str, Shape)> {
        let words: Vec<&str> = text
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        words.windows(4).filter_map(parse).collect()
    }

    /// Connected patches of one colour's pure pixels: number of pixels, and mean x and y in shares.
    fn patches(picture: &RgbImage, rgb: [u8; 3]) -> Vec<(usize, f32, f32)> {
        let (width, height) = picture.dimensions();
        let mut seen = vec![false; (width * height) as usize];
        let mut found = Vec::new();
        for start in 0..width * height {
            let mut stack = vec![start];
            let (mut count, mut sx, mut sy) = (0, 0.0, 0.0);
            while let Some(at) = stack.pop() {
                let (x, y) = (at % width, at / width);
                if std::mem::replace(&mut seen[at as usize], true)
                    || picture.get_pixel(x, y).0 != rgb
                {
                    continue;
                }
                count += 1;
                sx += x as f32 / width as f32;
                sy += y as f32 / height as f32;
                for (dx, dy) in [(-1i32, 0i32), (1, 0), (0, -1), (0, 1)] {
                    let (nx, ny) = (x as i32 + dx, y as i32 + dy);
                    if (0..width as i32).contains(&nx) && (0..height as i32).contains(&ny) {
                        let next = (ny * width as i32 + nx) as u32;
                        if !seen[next as usize] {
                            stack.push(next);
                        }
                    }
                }
            }
            // A few pixels at a tip may be cut off from the rest by half-covered ones.
            if count > 4 {
                found.push((count, sx / count as f32, sy / count as f32));
            }
        }
        found
    }

    #[test]
    fn captions_describe_what_is_drawn() {
        let scenes = scenes();
        for split in [Split::Train, Split::Val] {
            for index in 0..300 {
                let sample = scenes.sample(split, index).unwrap();
                let picture = sample.image.unwrap();
                assert_eq!(sample.captions.len(), 2);
                assert_ne!(sample.captions[0], sample.captions[1]);
                for caption in &sample.captions {
                    let groups = named(caption);
                    assert!(!groups.is_empty(), "{caption}");
                    for known in COLOURS {
                        let said: usize = groups
                            .iter()
                            .filter(|group| group.2 == known.name)
                            .map(|group| group.0)
                            .sum();
                        assert_eq!(patches(&picture, known.rgb).len(), said, "{caption}");
                    }
                    let ground = GROUNDS
                        .iter()
                        .find(|ground| caption.contains(ground.name))
                        .unwrap();
                    let pure = picture
                        .pixels()
                        .filter(|pixel| pixel.0 == ground.rgb)
                        .count();
                    assert!(
                        pure > (picture.width() * picture.height() / 4) as usize,
                        "{caption}"
                    );
                    // Large and small: a large ring is the thinnest of the large, a small square the fullest of the
                    // small, and colours tell groups apart only where they differ.
                    if let [first, second] = groups[..]
                        && first.2 != second.2
                    {
                        let middle = |group: (usize, bool, &str, Shape)| {
                            let rgb = COLOURS
                                .iter()
                                .find(|known| known.name == group.2)
                                .unwrap()
                                .rgb;
                            let patches = patches(&picture, rgb);
                            let n = patches.len() as f32;
                            (
                                patches.iter().map(|patch| patch.1).sum::<f32>() / n,
                                patches.iter().map(|patch| patch.2).sum::<f32>() / n,
                            )
                        };
                        let (a, b) = (middle(first), middle(second));
                        let holds = if caption.contains("to the left of") {
                            a.0 < b.0
                        } else if caption.contains("to the right of") {
                            a.0 > b.0
                        } else if caption.contains("above") {
                            a.1 < b.1
                        } else {
                            assert!(caption.contains("below"), "{caption}");
                            a.1 > b.1
                        };
                        assert!(holds, "{caption}");
                    }
                    if let [single] = groups[..]
                        && single.0 == 1
                    {
                        let rgb = COLOURS
                            .iter()
                            .find(|known| known.name == single.2)
                            .unwrap()
                            .rgb;
                        let (_, x, y) = patches(&picture, rgb)[0];
                        let holds = (!caption.contains("left") || x < 0.45)
                            && (!caption.contains("right") || x > 0.55)
                            && (!caption.contains("top") || y < 0.45)
                            && (!caption.contains("bottom") || y > 0.55)
                            && (!caption.contains("centre")
                                || ((0.3..0.7).contains(&x) && (0.3..0.7).contains(&y)));
                        assert!(holds, "{caption}");
                    }
                }
            }
        }
    }

    #[test]
    fn boxes_hold_their_objects_tightly() {
        let scenes = scenes();
        for index in 0..200 {
            let sample = scenes.sample(Split::Train, index).unwrap();
            let picture = sample.image.unwrap();
            let side = picture.width() as f32;
            assert_eq!(sample.tags.len(), sample.boxes.len());
            let mut outside = picture.clone();
            let ground = outside.get_pixel(0, 0).to_owned();
            for (tag, bounds) in sample.tags.iter().zip(&sample.boxes) {
                let [x1, y1, x2, y2] = bounds.map(|edge| edge * side);
                let colour = COLOURS
                    .iter()
                    .find(|known| tag.starts_with(known.name))
                    .unwrap();
                let mut inside = 0;
                for y in y1 as u32..=(y2 as u32).min(picture.height() - 1) {
                    for x in x1 as u32..=(x2 as u32).min(picture.width() - 1) {
                        inside += usize::from(picture.get_pixel(x, y).0 == colour.rgb);
                        outside.put_pixel(x, y, ground);
                    }
                }
                // The sparsest shapes, star, cross and diamond, cover about a third of their boxes.
                let area = (x2 - x1) * (y2 - y1);
                assert!(inside as f32 > 0.2 * area, "{tag}: {inside} of {area}");
            }
            assert!(outside.pixels().all(|pixel| *pixel == ground));
        }
    }

    #[test]
    fn scenes_are_a_function_of_seed_and_index() {
        let (a, b) = (scenes(), scenes());
        for index in [0, 3, 499] {
            for split in [Split::Train, Split::Val] {
                assert_eq!(
                    a.sample(split, index).unwrap(),
                    b.sample(split, index).unwrap()
                );
                let sample = a.sample(split, index).unwrap();
                assert_eq!(sample.captions, a.captions(split, index).unwrap());
                assert_eq!(sample.phrases, a.phrases(split, index).unwrap());
                assert_eq!(sample.tags, a.tags(split, index).unwrap());
                assert_eq!(sample.image, a.image(split, index).unwrap());
            }
        }
        let other = Scenes::new(ScenesConfig {
            seed: 12,
            ..a.config
        });
        assert_ne!(
            a.sample(Split::Train, 0).unwrap(),
            other.sample(Split::Train, 0).unwrap()
        );
        assert_ne!(
            a.sample(Split::Train, 0).unwrap(),
            a.sample(Split::Train, 1).unwrap()
        );
    }

    #[test]
    fn held_out_scenes_are_distinct_and_never_trained_on() {
        let key = |scenes: &Scenes, split, index| scenes.scene(split, index).description.key();
        let held_out = Scenes::new(ScenesConfig {
            test: 200,
            ..scenes().config
        });
        let of = |split, count| (0..count).map(move |index| (split, index));
        let val: HashSet<_> = of(Split::Val, 500)
            .chain(of(Split::Test, 200))
            .map(|(split, index)| key(&held_out, split, index))
            .collect();
        assert_eq!(val.len(), 700);
        for seed in 0..5 {
            let training = Scenes::new(ScenesConfig {
                seed,
                train: 3000,
                val: 0,
                test: 0,
                size: 32,
            });
            assert!((0..3000).all(|index| !val.contains(&key(&training, Split::Train, index))));
        }
        let texts: HashSet<_> = (0..500)
            .flat_map(|index| held_out.captions(Split::Val, index).unwrap())
            .collect();
        assert_eq!(texts.len(), 1000);
    }

    #[test]
    fn statements_are_balanced_and_as_true_as_they_say() {
        let scenes = scenes();
        for index in 0..400 {
            let scene = scenes.scene(Split::Val, index);
            let there: Vec<_> = scene
                .description
                .groups()
                .iter()
                .map(|group| (group.count, group.large, group.colour.name, group.shape))
                .collect();
            let statements = scene.description.statements();
            let held = statements.iter().filter(|(_, truth)| *truth).count();
            assert_eq!(2 * held, statements.len(), "{statements:?}");
            for (statement, truth) in statements {
                let holds = if let Some(ground) = statement.strip_prefix("the background is ") {
                    ground == scene.description.ground.name
                } else if statement.starts_with("there ") {
                    let said = named(&statement);
                    assert_eq!(said.len(), 1, "{statement}");
                    there.contains(&said[0])
                } else {
                    // Both sides are named by colour and shape; compare where their objects were drawn.
                    let side = |words: &str| {
                        let objects: Vec<_> = scene
                            .objects
                            .iter()
                            .filter(|object| words.ends_with(&object.group.short()))
                            .collect();
                        let n = objects.len() as f32;
                        assert!(n > 0.0, "{statement}");
                        (
                            objects.iter().map(|object| object.x).sum::<f32>() / n,
                            objects.iter().map(|object| object.y).sum::<f32>() / n,
                        )
                    };
                    let relation = Relation::ALL
                        .into_iter()
                        .find(|relation| statement.contains(relation.words()))
                        .unwrap();
                    let (a, b) = statement.split_once(relation.words()).unwrap();
                    let a = side(
                        a.trim_end()
                            .trim_end_matches(" is")
                            .trim_end_matches(" are"),
                    );
                    let b = side(b);
                    match relation {
                        Relation::LeftOf => a.0 < b.0,
                        Relation::RightOf => a.0 > b.0,
                        Relation::Above => a.1 < b.1,
                        Relation::Below => a.1 > b.1,
                    }
                };
                assert_eq!(holds, truth, "{statement} {:?}", scene.captions);
            }
        }
    }

    #[test]
    fn questions_have_one_answer_each() {
        let scenes = scenes();
        let mut kinds = HashSet::new();
        for index in 0..200 {
            let sample = scenes.sample(Split::Train, index).unwrap();
            let asked: HashSet<_> = sample
                .questions
                .iter()
                .map(|(question, _)| question)
                .collect();
            assert_eq!(
                asked.len(),
                sample.questions.len(),
                "{:?}",
                sample.questions
            );
            let total = sample.tags.len();
            for (question, answer) in &sample.questions {
                kinds.insert(question.split(' ').take(2).collect::<Vec<_>>().join(" "));
                match question.as_str() {
                    "how many objects are there?" => assert_eq!(answer, number(total)),
                    "what colour is the background?" => {
                        assert!(sample.captions[0].contains(answer.as_str()));
                    }
                    _ if question.starts_with("how many ") => {
                        let shape = question["how many ".len()..].split(' ').next().unwrap();
                        let shape = Shape::ALL
                            .into_iter()
                            .find(|known| known.name(2) == shape)
                            .unwrap();
                        let count = sample
                            .tags
                            .iter()
                            .filter(|tag| tag.ends_with(shape.name(1)))
                            .count();
                        assert_eq!(answer, number(count), "{question}");
                    }
                    _ if question.starts_with("what colour ") => {
                        let shape = question.trim_end_matches('?').rsplit(' ').next().unwrap();
                        assert!(
                            sample.captions[0].contains(&format!("{answer} {shape}")),
                            "{question} {answer}"
                        );
                    }
                    _ => assert!(!answer.is_empty()),
                }
            }
        }
        for kind in [
            "what colour",
            "what shape",
            "how many",
            "where is",
            "is there",
            "are there",
        ] {
            assert!(kinds.contains(kind), "{kind}: {kinds:?}");
        }
    }
}
