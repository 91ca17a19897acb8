//! True descriptions of a scene: captions and phrases.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::order::draws::{Stream, hash};
use crate::sources::scenes::HELD_OUT_IN;
use crate::sources::scenes::kinds::{COLOURS, Colour, Corner, GROUNDS, Relation, Shape};

/// A group of like objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) count: usize,
    pub(super) large: bool,
    pub(super) colour: Colour,
    pub(super) shape: Shape,
}

impl Group {
    pub(super) fn size(self) -> &'static str {
        if self.large { "large" } else { "small" }
    }

    /// What it is, whatever its shape.
    fn thing(self) -> &'static str {
        if self.count == 1 { "object" } else { "objects" }
    }

    /// `a large red circle`, `two small blue stars`.
    fn full(self) -> String {
        counted(
            self.count,
            &format!("{} {}", self.size(), self.colour.name),
            self.shape,
        )
    }

    /// `a red circle`, `two blue stars`.
    pub(super) fn named(self) -> String {
        counted(self.count, self.colour.name, self.shape)
    }

    /// `red circle`, `blue stars`.
    pub(super) fn short(self) -> String {
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

/// The largest number that has a word; a scene has no more objects.
pub(super) const MOST_COUNTED: usize = 4;

pub(super) fn number(count: usize) -> &'static str {
    ["no", "one", "two", "three", "four", "five", "six"]
        .get(count)
        .copied()
        .unwrap_or("many")
}

pub(super) fn is(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// Everything that a text may say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Description {
    pub(super) ground: Colour,
    pub(super) first: Group,
    pub(super) rest: Rest,
}

/// What else there is besides the first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Rest {
    /// Nothing else: a single object at some place.
    Alone(Corner),
    /// Nothing else: several objects spread over the image.
    Spread,
    /// A second group, and where the first is as seen from it.
    Second(Relation, Group),
}

impl Description {
    pub(super) fn draw(random: &mut ChaCha8Rng) -> Self {
        // Every choice is from a non-empty list; the first element stands in for the impossible case.
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

    pub(super) fn groups(&self) -> Vec<Group> {
        match self.rest {
            Rest::Second(_, second) => vec![self.first, second],
            Rest::Alone(_) | Rest::Spread => vec![self.first],
        }
    }

    /// Equal for two descriptions with the same meaning, such as "left of" and the reversed "right of".
    pub(super) fn key(&self) -> u64 {
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

    pub(super) fn is_held_out(&self) -> bool {
        self.key().is_multiple_of(HELD_OUT_IN)
    }

    /// Two complete descriptions in different words.
    pub(super) fn captions(&self, random: &mut ChaCha8Rng) -> Vec<String> {
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

    /// The phrases of a caption. A relation is worded as in the caption, as seen from the group that it names first.
    pub(super) fn phrases(&self, caption: &str) -> Vec<String> {
        let mut phrases = Vec::new();
        for group in self.groups() {
            phrases.push(group.shape.name(group.count).to_owned());
            phrases.push(group.short());
            phrases.push(format!("{} {}", group.size(), group.short()));
        }
        if let Rest::Second(relation, second) = self.rest {
            let turned = caption.find(&second.full()) < caption.find(&self.first.full());
            let (one, words, other) = if turned {
                (second, relation.reversed().words(), self.first)
            } else {
                (self.first, relation.words(), second)
            };
            phrases.push(format!("{} {words} {}", one.short(), other.short()));
        }
        phrases.push(format!("{} background", self.ground.name));
        phrases
    }

    /// The number of objects, as a word.
    pub(super) fn objects(&self) -> &'static str {
        number(self.groups().iter().map(|group| group.count).sum())
    }

    /// Words that are true of one group alone, with the group's number and what they name: always colour and shape, and shape or colour
    /// where it occurs once.
    pub(super) fn references(&self) -> Vec<(usize, String, &'static str)> {
        let groups = self.groups();
        let alone =
            |same: &dyn Fn(&Group) -> bool| groups.iter().filter(|other| same(other)).count() == 1;
        let mut said = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            said.push((number, format!("the {}", group.short()), "colour and shape"));
            if alone(&|other| other.shape == group.shape) {
                let name = group.shape.name(group.count);
                said.push((number, format!("the {name}"), "shape"));
            }
            if alone(&|other| other.colour == group.colour) {
                let colour = group.colour.name;
                said.push((number, format!("the {colour} {}", group.thing()), "colour"));
            }
        }
        said
    }

    /// Questions that have exactly one answer.
    pub(super) fn questions(&self) -> Vec<(String, String)> {
        let groups = self.groups();
        let mut asked: Vec<(String, String)> = vec![(
            "what colour is the background?".to_owned(),
            self.ground.name.to_owned(),
        )];
        asked.push((
            "how many objects are there?".to_owned(),
            self.objects().to_owned(),
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
                asked.push((
                    format!(
                        "what shape {verb} the {} {}?",
                        group.colour.name,
                        group.thing()
                    ),
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

    /// Pairs of statements that differ in one word group: one true, one false.
    pub(super) fn statements(&self) -> Vec<(String, bool)> {
        let groups = self.groups();
        let mut said = Vec::new();
        // The change that makes a statement false depends only on the key, so it is always the same.
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
