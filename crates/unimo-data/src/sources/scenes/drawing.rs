//! A scene and its image.

use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::sources::scenes::kinds::{self, Relation};
use crate::sources::scenes::words::{Description, Group, Rest};

/// An object as drawn, relative to the image's side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) group: Group,
    pub(super) x: f32,
    pub(super) y: f32,
    radius: f32,
}

/// A text that refers to one group of objects.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expression {
    pub(super) text: String,
    /// What it names.
    pub(super) names: &'static str,
    /// x1, y1, x2, y2 as shares of the image's side.
    pub(super) bounds: [f32; 4],
}

/// A description with its drawing.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) description: Description,
    pub(super) objects: Vec<Object>,
    pub(super) captions: Vec<String>,
    pub(super) size: u32,
}

impl Scene {
    /// Radii relative to the image's side. Three large objects in a row fill it.
    const LARGE: f32 = 0.145;

    const SMALL: f32 = 0.08;

    /// How much a radius varies.
    const SPREAD: f32 = 0.08;

    pub(super) fn new(description: Description, size: u32, random: &mut ChaCha8Rng) -> Self {
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

    /// For each caption, its phrases.
    pub(super) fn phrases(&self) -> Vec<Vec<String>> {
        let of = |caption: &String| self.description.phrases(caption);
        self.captions.iter().map(of).collect()
    }

    /// For each object, its name.
    pub(super) fn tags(&self) -> Vec<String> {
        let groups = self.objects.iter().map(|object| object.group);
        groups
            .map(|group| kinds::name(group.colour, group.shape))
            .collect()
    }

    /// The groups of several objects, by name and with their boxes: what expressions may refer to besides single objects.
    pub(super) fn group_boxes(&self) -> Vec<(String, [f32; 4])> {
        let groups = self.description.groups().into_iter();
        let several = groups.filter(|group| group.count > 1);
        several
            .filter_map(|group| Some((group.short(), self.around(group)?)))
            .collect()
    }

    /// The smallest box around the objects of a group.
    fn around(&self, group: Group) -> Option<[f32; 4]> {
        let boxes = self.objects.iter().zip(self.boxes());
        let own = boxes.filter(|(object, _)| object.group == group);
        own.map(|(_, bounds)| bounds).reduce(|a, b| {
            let ([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) = (a, b);
            [ax1.min(bx1), ay1.min(by1), ax2.max(bx2), ay2.max(by2)]
        })
    }

    /// Texts that refer to one group each, with its box.
    pub(super) fn expressions(&self) -> Vec<Expression> {
        let groups = self.description.groups();
        let said = self.description.references().into_iter();
        said.filter_map(|(number, text, names)| {
            Some(Expression {
                text,
                names,
                bounds: self.around(groups[number])?,
            })
        })
        .collect()
    }

    pub(super) fn boxes(&self) -> Vec<[f32; 4]> {
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
    pub(super) fn draw(&self) -> RgbImage {
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

/// Puts one object of a group into each cell, within `half` of the cell's middle and entirely inside the cell.
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
