use super::*;
use crate::sources::scenes::kinds::{COLOURS, GROUNDS, Relation, Shape};
use crate::sources::scenes::words::number;

fn scenes() -> Scenes {
    Scenes::new(ScenesConfig {
        seed: 11,
        train: 1000,
        val: 500,
        test: 0,
        size: 96,
        ..ScenesConfig::default()
    })
}

/// Parses a group of words such as `two small blue stars`, without the generator's help.
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

/// Connected patches of pure pixels of one colour: number of pixels, and mean x and y relative to the image.
fn patches(picture: &RgbImage, rgb: [u8; 3]) -> Vec<(usize, f32, f32)> {
    let (width, height) = picture.dimensions();
    let mut seen = vec![false; (width * height) as usize];
    let mut found = Vec::new();
    for start in 0..width * height {
        let mut stack = vec![start];
        let (mut count, mut sx, mut sy) = (0, 0.0, 0.0);
        while let Some(at) = stack.pop() {
            let (x, y) = (at % width, at / width);
            if std::mem::replace(&mut seen[at as usize], true) || picture.get_pixel(x, y).0 != rgb {
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
                // Large and small. The thinnest large shape is a ring, the fullest small one a square. Colours distinguish groups
                // only if they differ.
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
            let known = a.annotations(split, index).unwrap();
            assert_eq!(
                (&sample.phrases, &sample.tags),
                (&known.phrases, &known.tags)
            );
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
            ..ScenesConfig::default()
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

/// Nothing but what an expression names has its colour or shape, and its objects lie in its box and touch every edge of it.
#[test]
fn expressions_refer_to_one_group() {
    let scenes = Scenes::new(ScenesConfig {
        texts: SceneTexts::Expressions,
        ..scenes().config
    });
    let mut kinds = HashSet::new();
    for index in 0..300 {
        let sample = scenes.sample(Split::Train, index).unwrap();
        assert_eq!(sample.captions.len(), sample.labels.len());
        assert!(scenes.facts(Split::Train).all_describe && sample.roles.is_empty());
        assert_eq!(
            sample.captions,
            scenes.captions(Split::Train, index).unwrap()
        );
        for (text, label) in sample.captions.iter().zip(&sample.labels) {
            kinds.insert(label.kinds[0].1.clone());
            let words: Vec<&str> = text.split(' ').skip(1).collect();
            // Groups of several objects are named too, in the plural.
            let plural = |name: &str| {
                let mut shapes = Shape::ALL.into_iter();
                Some(shapes.find(|shape| shape.name(1) == name)?.name(2))
            };
            let named = |tag: &&str| {
                let (colour, shape) = tag.split_once(' ').unwrap();
                let Some(plural) = plural(shape) else {
                    return false;
                };
                let all = ["object", "objects", colour, shape, plural];
                words.iter().all(|word| all.contains(word))
            };
            let tags = sample.tags.iter().map(String::as_str).zip(&sample.boxes);
            let own: Vec<_> = tags.filter(|(tag, _)| named(tag)).collect();
            assert!(
                own.iter().all(|(tag, _)| *tag == own[0].0),
                "{text}: {:?}",
                sample.tags
            );
            let edge = |at: usize, more: fn(f32, f32) -> f32| {
                let edges = own.iter().map(|(_, bounds)| bounds[at]);
                edges.reduce(more).unwrap()
            };
            let around = [
                edge(0, f32::min),
                edge(1, f32::min),
                edge(2, f32::max),
                edge(3, f32::max),
            ];
            assert_eq!(label.bounds, Some(around), "{text}");
            assert!(sample.boxes.contains(&around), "{text}");
        }
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

/// Scenes of one kind of objects: the class is what the text of the same scene names.
#[test]
fn kinds_are_what_names_say() {
    let of = |texts| {
        Scenes::new(ScenesConfig {
            train: 60,
            val: 60,
            size: 32,
            texts,
            ..ScenesConfig::default()
        })
    };
    let (named, kinds) = (of(SceneTexts::Names), of(SceneTexts::Kinds));
    assert!(named.offers().captions && !kinds.offers().captions);
    let known = kinds::names();
    for split in [Split::Train, Split::Val] {
        for index in 0..60 {
            let texts = named.captions(split, index).unwrap();
            let labels = kinds.annotations(split, index).unwrap().labels;
            let kind = labels[0].answer.as_ref().unwrap();
            assert!(known.contains(kind), "{kind}");
            let (colour, shape) = kind.split_once(' ').unwrap();
            assert_eq!(texts.len(), 1);
            let words: Vec<&str> = texts[0].split(' ').collect();
            assert!(
                words[1] == colour && words[2].starts_with(&shape[..4]),
                "{texts:?} {kind}"
            );
        }
    }
}
