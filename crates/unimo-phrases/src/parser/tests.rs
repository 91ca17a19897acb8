use std::collections::HashSet;

use super::*;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Captions as people write them, with all their phrases.
const CAPTIONS: &[(&str, &str)] = &[
    (
        "A young woman holding a striped umbrella in the rain.",
        "woman | young woman | umbrella | striped umbrella | woman holding umbrella | young woman holding striped umbrella | rain | umbrella in rain | striped umbrella in rain",
    ),
    (
        "Two brown dogs are chasing a yellow ball on the beach.",
        "dogs | brown dogs | ball | yellow ball | dogs chasing ball | brown dogs chasing yellow ball | beach | ball on beach | yellow ball on beach",
    ),
    (
        "There is a small wooden boat next to the pier.",
        "boat | wooden boat | small wooden boat | pier | boat next to pier | wooden boat next to pier",
    ),
    (
        "A man in a blue jacket rides a bicycle down a narrow street.",
        "man | jacket | blue jacket | man in jacket | man in blue jacket | bicycle | man rides bicycle | street | narrow street | bicycle down street | bicycle down narrow street",
    ),
    (
        "Several people sitting on a bench and feeding the pigeons.",
        "people | bench | people sitting on bench | pigeons | people feeding pigeons",
    ),
    (
        "A bowl full of oranges on top of a kitchen table.",
        "bowl | oranges | bowl full of oranges | table | kitchen table | oranges on top of table | oranges on top of kitchen table",
    ),
    (
        "The old lighthouse is white and red.",
        "lighthouse | old lighthouse | white lighthouse | red lighthouse",
    ),
    (
        "A red and white bus parked in front of a brick building.",
        "bus | red bus | white bus | building | brick building | bus parked in front of building | white bus parked in front of brick building",
    ),
    (
        "a cat asleep on the hood of a rusty car",
        "cat | hood | cat asleep on hood | car | rusty car | hood of car | hood of rusty car",
    ),
    (
        "A group of children playing soccer in a muddy field.",
        "children | soccer | children playing soccer | field | muddy field | soccer in field | soccer in muddy field",
    ),
    (
        "A woman with long hair wearing a green scarf.",
        "woman | hair | long hair | woman with hair | woman with long hair | scarf | green scarf | woman wearing scarf | woman wearing green scarf",
    ),
    (
        "Three sheep graze near a stone wall while a farmer watches.",
        "sheep | wall | stone wall | sheep graze near wall | sheep graze near stone wall | farmer",
    ),
    (
        "A plate of pasta topped with basil, tomatoes and grated cheese.",
        "plate | pasta | plate of pasta | basil | pasta topped with basil | tomatoes | pasta topped with tomatoes | cheese | grated cheese | pasta topped with cheese | pasta topped with grated cheese",
    ),
    (
        "A big, fluffy dog lies on the carpet.",
        "dog | fluffy dog | big fluffy dog | carpet | dog lies on carpet | fluffy dog lies on carpet",
    ),
    (
        "A boy about to kick a ball into the net.",
        "boy | ball | boy kick ball | net | ball into net",
    ),
    (
        "On the shelf there are four books and an old clock.",
        "shelf | books | books on shelf | clock | old clock",
    ),
    (
        "Sitting at a desk, a girl writes a letter.",
        "desk | girl | girl sitting at desk | letter | girl writes letter",
    ),
    (
        "A tree lined street with no cars.",
        "street | lined street | tree lined street",
    ),
    (
        "A man and his daughter walking along the river.",
        "man | daughter | river | man walking along river | daughter walking along river",
    ),
    (
        "The girl's kite is flying high above the trees.",
        "girl | kite | girl's kite | trees | kite flying above trees | girl's kite flying above trees",
    ),
    (
        "A chef is cutting vegetables on a cutting board without gloves.",
        "chef | vegetables | chef cutting vegetables | board | cutting board | vegetables on board | vegetables on cutting board | board without gloves | cutting board without gloves",
    ),
    (
        "A horse that is being led by a rider.",
        "horse | rider | horse led by rider",
    ),
    (
        "A close up of a vase filled with dried flowers.",
        "vase | flowers | dried flowers | vase filled with flowers | vase filled with dried flowers",
    ),
    (
        "A surfer in a wetsuit rides a huge wave.",
        "surfer | wetsuit | surfer in wetsuit | wave | huge wave | surfer rides wave | surfer rides huge wave",
    ),
    (
        "Figure 3.2: A painting of a harbor (credit: J. Doe, https://example.org/harbor.jpg)",
        "painting | harbor | painting of harbor",
    ),
    ("A man doesn't hold a phone but a camera.", "man | camera"),
    (
        "A lamp is to the left of the sofa, and a rug is under it.",
        "lamp | sofa | lamp to the left of sofa | rug",
    ),
    ("A panda is not eating the bamboo.", "panda"),
    (
        "Image (b) shows a map labeled “Rome” from 1622.",
        "image | map | image shows map | rome | map labeled rome",
    ),
    (
        "Red, yellow, and pink roses in a glass vase.",
        "roses | yellow roses | pink roses | red roses | vase | glass vase | roses in vase | pink roses in glass vase",
    ),
];

#[test]
fn captions_as_people_write_them() {
    for (caption, expected) in CAPTIONS {
        assert_eq!(phrases(caption).join(" | "), *expected, "{caption}");
    }
}

#[test]
fn words_are_those_of_the_caption() {
    for (caption, _) in CAPTIONS {
        let caption = caption.to_lowercase().replace("doesn't", "not");
        let words: HashSet<&str> = caption
            .split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '\''))
            .collect();
        for phrase in phrases(&caption) {
            for word in phrase.split(' ') {
                let owner = format!("{word}'s");
                let found = words.contains(word) || words.contains(&*owner);
                assert!(found, "{phrase}: {caption}");
            }
        }
    }
}

#[test]
fn figures_credits_and_addresses_give_no_phrases() {
    for text in [
        "",
        " \n\t",
        "Figure 1.2",
        "(credit: modification of work by a famous painter/Flickr)",
        "Source: Bureau of Labor Statistics, a table",
        "https://example.org/a/red/circle.jpg www.example.org",
        "© The Museum of Art",
        "1919: 2,000 45%",
        "... --- !!! ((( ]]] \u{0}",
    ] {
        assert!(phrases(text).is_empty(), "{text}: {:?}", phrases(text));
    }
    assert_eq!(
        phrases("A red circle (credit: the maker) above a square"),
        [
            "circle",
            "red circle",
            "square",
            "circle above square",
            "red circle above square"
        ]
    );
}

fn assert_bounded(text: &str) {
    let found = phrases(text);
    assert!(found.len() <= MOST_PHRASES);
    let once: HashSet<_> = found.iter().collect();
    assert_eq!(once.len(), found.len());
    for phrase in &found {
        assert!((1..=LONGEST_PHRASE).contains(&phrase.len()), "{phrase}");
        let spaced = phrase.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(*phrase, spaced);
    }
    assert_eq!(phrases(text), found);
}

#[test]
fn endless_captions_are_bounded() {
    for unit in [
        "a red circle above a blue square ",
        "and a dog ",
        "dog, ",
        "red and ",
        "big, ",
        "man's ",
        "of ",
        "holding ",
        "to the left of ",
        "(",
        ")",
        "a.",
        "1.",
        "credit: ",
        "it's ",
        "close up ",
        "x",
        "é",
        "日本",
        "\u{301}",
        ".",
        "not ",
        "who is ",
        "there is a dog ",
        "a dog on a mat ",
    ] {
        assert_bounded(&unit.repeat((1 << 20) / unit.len()));
    }
    let far = format!("{} a red circle", " ".repeat(LONGEST_CAPTION));
    assert!(phrases(&far).is_empty());
}

#[test]
fn no_text_panics() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let known: Vec<&str> = CAPTIONS
        .iter()
        .flat_map(|(caption, _)| caption.split(' '))
        .collect();
    let odd = [
        "'",
        "’s",
        "'s",
        "-",
        "—",
        "(",
        ")",
        ",",
        ".",
        "a",
        "İ",
        "ß",
        "ﬃ",
        "\u{301}",
        "\u{200d}",
        "🦀",
        "日本語",
        "\u{202e}",
        "\u{feff}",
        "\u{0}",
        "é",
        "Ω",
        "&",
        "://",
        "1",
        "½",
        "s's",
        "it's",
        "©",
        ":",
    ];
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..random.random_range(0..30) {
            let list = if random.random_bool(0.7) {
                &known[..]
            } else {
                &odd[..]
            };
            text += list.choose(&mut random).unwrap();
            if random.random_bool(0.8) {
                text.push(' ');
            }
        }
        assert_bounded(&text);
    }
}
