//! `unimo data stats`: sizes, shapes, lengths, words and languages of a data set, as a table and as an HTML page.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use maud::{Markup, html};
use unimo_batch::TextRole;
use unimo_data::{
    BySplit, ConceptReader, DataError, SampleError, Source, Split, TextTokenizer, images,
};
use unimo_report::charts::Bars;
use unimo_report::numbers::grouped;
use unimo_report::page::{self, Section};

use super::{DataArgs, each, threads};
use crate::apply::write_text;
use crate::error::TrainError;
use crate::prepare;

/// `unimo data stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// Write a page with plots here.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Number of different words that are counted separately; further new words are counted together.
const WORDS: usize = 2_000_000;
/// Number of captions whose language is detected.
const LANGUAGES_LOOKED_AT: usize = 50_000;
/// Length of the shortest caption whose language can be detected.
const LANGUAGE_CHARACTERS: usize = 20;

/// Counts of a split.
#[derive(Debug, Default)]
struct Counted {
    samples: usize,
    /// Samples that cannot be read, by reason.
    unreadable: BTreeMap<String, usize>,
    widths: Vec<u32>,
    heights: Vec<u32>,
    captions_per_image: Vec<usize>,
    words: Vec<usize>,
    tokens: Vec<usize>,
    unknown_tokens: usize,
    vocabulary: HashMap<String, u64>,
    uncounted_words: u64,
    /// Numbers of phrases of captions, and of tags of images, that are in the vocabulary of concepts.
    phrases: Vec<usize>,
    tags: Vec<usize>,
    /// Texts that do not describe their images, by kind.
    others: BTreeMap<&'static str, usize>,
    languages: BTreeMap<&'static str, u64>,
    language_unknown: u64,
}

/// The data that is read of a sample.
struct Read {
    size: Option<(u32, u32)>,
    captions: Vec<String>,
    /// Number of tokens of each caption, and how many of them stand for unknown words.
    tokens: Vec<(usize, usize)>,
    /// Number of phrases of each caption; empty if the recipe has no concepts.
    phrases: Vec<usize>,
    tags: Option<usize>,
    roles: Vec<TextRole>,
}

fn read(
    source: &dyn Source,
    (tokenizer, concepts): (&TextTokenizer, Option<&ConceptReader>),
    split: Split,
    index: usize,
) -> Result<Read, SampleError> {
    let captions = source.captions(split, index)?;
    let bad = |reason: String| SampleError::new(source.place(split, index), reason);
    let size = match source.image_bytes(split, index)? {
        Some((bytes, _)) => Some(images::dimensions(&bytes).map_err(bad)?),
        None => source
            .image(split, index)?
            .map(|picture| picture.dimensions()),
    };
    let unknown = tokenizer.specials().unk;
    let tokens = captions
        .iter()
        .map(|caption| {
            let ids = tokenizer.encode(caption, usize::MAX).ids;
            let lacking = ids.iter().filter(|id| Some(**id) == unknown).count();
            (ids.len(), lacking)
        })
        .collect();
    let (mut phrases, mut tags) = (Vec::new(), None);
    if let Some(reader) = concepts {
        let of = reader.phrases_of(source, split, index)?;
        let known = |(caption, phrases): (&String, &Vec<String>)| {
            reader
                .encode(tokenizer, caption, phrases, usize::MAX)
                .concepts
        };
        phrases = captions.iter().zip(&of).map(known).collect();
        let names = source.tags(split, index)?;
        let read = reader.tags(tokenizer, &[names.as_slice()], None);
        // Without the begin and end tokens.
        tags = Some(read.lengths.first().map_or(0, |n| n.saturating_sub(2)));
    }
    Ok(Read {
        size,
        roles: source.roles(split, index)?,
        captions,
        tokens,
        phrases,
        tags,
    })
}

impl Counted {
    fn add(&mut self, read: Result<Read, String>) {
        self.samples += 1;
        let read = match read {
            Ok(read) => read,
            Err(reason) => {
                *self.unreadable.entry(reason).or_default() += 1;
                return;
            }
        };
        if let Some((width, height)) = read.size {
            self.widths.push(width);
            self.heights.push(height);
        }
        self.captions_per_image.push(read.captions.len());
        for caption in &read.captions {
            let mut count = 0;
            for word in caption.split(|c: char| !c.is_alphanumeric() && c != '\'') {
                if word.is_empty() {
                    continue;
                }
                count += 1;
                let word = word.to_lowercase();
                let room = self.vocabulary.len() < WORDS;
                match self.vocabulary.get_mut(&word) {
                    Some(times) => *times += 1,
                    None if room => {
                        self.vocabulary.insert(word, 1);
                    }
                    None => self.uncounted_words += 1,
                }
            }
            self.words.push(count);
            if self.words.len() <= LANGUAGES_LOOKED_AT {
                let long_enough = caption.chars().count() >= LANGUAGE_CHARACTERS;
                let found = whatlang::detect(caption).filter(|f| long_enough && f.is_reliable());
                match found {
                    Some(found) => {
                        *self.languages.entry(found.lang().eng_name()).or_default() += 1;
                    }
                    None => self.language_unknown += 1,
                }
            }
        }
        self.phrases.extend(read.phrases);
        self.tags.extend(read.tags);
        for role in read.roles {
            let what = match role {
                TextRole::Describes => continue,
                TextRole::Question => "questions",
                TextRole::Statement { .. } => "statements",
                TextRole::Hypothesis(_) => "hypotheses",
            };
            *self.others.entry(what).or_default() += 1;
        }
        for (tokens, lacking) in read.tokens {
            self.tokens.push(tokens);
            self.unknown_tokens += lacking;
        }
    }

    /// How many of the most frequent words cover each share of all words.
    fn coverage(&self) -> Vec<(f64, usize)> {
        let mut counts: Vec<u64> = self.vocabulary.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let total = counts.iter().sum::<u64>() + self.uncounted_words;
        [0.5, 0.8, 0.9, 0.95, 0.99]
            .into_iter()
            .filter_map(|share| {
                let mut sum = 0;
                let needed = counts.iter().position(|count| {
                    sum += count;
                    sum as f64 >= share * total as f64
                })?;
                Some((share, needed + 1))
            })
            .collect()
    }

    fn frequent(&self, count: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<(&str, u64)> = self
            .vocabulary
            .iter()
            .map(|(w, n)| (w.as_str(), *n))
            .collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        words.truncate(count);
        words
    }
}

/// Runs the command.
///
/// # Errors
///
/// The data cannot be opened or the page cannot be written.
pub fn run(args: &StatsArgs) -> Result<(), TrainError> {
    let (recipe, source) = args.data.open_pictures()?;
    args.data.check_outputs(&recipe, &[args.html.as_deref()])?;
    let tokenizer = prepare::tokenizer(&recipe, &*source)?;
    let mut counted = BySplit::<Counted>::default();
    let concepts = prepare::count_concepts(&recipe, &*source, false)?;
    let reader = prepare::concept_reader(&recipe, concepts.as_ref(), &tokenizer)?;
    let room = recipe.data.room_for_words();
    let read_as = (&tokenizer, reader.as_ref());
    let mut unavailable = None;
    each(
        &*source,
        threads(&recipe.data),
        "counting",
        |split, index| read(&*source, read_as, split, index),
        |split, _, read| {
            // A sample that could not be read this time must not be counted as missing.
            if let Err(error) = &read
                && error.is_unavailable()
            {
                unavailable.get_or_insert_with(|| DataError::unavailable(error));
            }
            counted[split].add(read.map_err(|error| error.reason));
        },
    );
    if let Some(error) = unavailable {
        return Err(error.into());
    }
    println!("{}", source.describe());
    let mut rejected = BTreeMap::<String, usize>::new();
    for item in source.rejected() {
        *rejected.entry(item.reason.clone()).or_default() += 1;
    }
    if !rejected.is_empty() {
        println!("unusable, of no split: {}", reasons(&rejected));
    }
    for (split, counted) in counted.iter() {
        if counted.samples == 0 && split == Split::Test {
            continue;
        }
        println!("\n{}", split.name());
        for (label, value) in facts(counted, room) {
            println!("  {label:<28}{value}");
        }
    }
    if let Some(path) = &args.html {
        let sections = counted
            .iter()
            .filter(|(_, counted)| counted.samples > 0)
            .map(|(split, counted)| section(split, counted, room));
        let facts = [("data", source.describe())];
        let body = html! {
            (page::header("unimo · data", "Statistics", &facts, &[]))
            main { @for section in sections { (section.to_html()) } }
        };
        write_text(
            path,
            &page::document("Statistics – unimo data", STYLE, &body),
        )?;
        println!("\n{}", path.display());
    }
    Ok(())
}

const STYLE: &str = "
.facts-table th { text-align: left; font-weight: 500; color: var(--muted); }
.facts-table td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 560px) { .facts-table th { white-space: normal; padding-left: 0; } .facts-table td { padding-right: 0; } }
";

/// Smallest, median, 95th percentile and largest.
fn spread<T: Copy + Ord + Into<u64>>(values: &[T]) -> Option<String> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| {
        let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        let value: u64 = sorted.get(place).copied()?.into();
        Some(grouped(value as f64))
    };
    Some(format!(
        "{} to {}, median {}, 95% up to {}",
        at(0.0)?,
        at(1.0)?,
        at(0.5)?,
        at(0.95)?
    ))
}

/// The most frequent reasons with their counts.
fn reasons(of: &BTreeMap<String, usize>) -> String {
    const SHOWN: usize = 5;
    let mut all: Vec<_> = of.iter().collect();
    all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let hidden: usize = all.iter().skip(SHOWN).map(|(_, count)| **count).sum();
    let shown = all.iter().take(SHOWN);
    let mut lines: Vec<String> = shown
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    if hidden > 0 {
        lines.push(format!("{hidden} for other reasons"));
    }
    lines.join("; ")
}

fn facts(counted: &Counted, room: usize) -> Vec<(&'static str, String)> {
    let wide = |values: &[usize]| -> Option<String> {
        spread(&values.iter().map(|v| *v as u64).collect::<Vec<_>>())
    };
    let cut = counted.tokens.iter().filter(|n| **n > room).count();
    let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    let coverage: Vec<String> = counted
        .coverage()
        .iter()
        .map(|(share, words)| format!("{} make up {:.0}%", grouped(*words as f64), 100.0 * share))
        .collect();
    let mut languages: Vec<(&str, u64)> = counted.languages.iter().map(|(l, n)| (*l, *n)).collect();
    languages.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let languages: Vec<String> = languages
        .iter()
        .take(8)
        .map(|(language, count)| format!("{language} {}", grouped(*count as f64)))
        .chain((counted.language_unknown > 0).then(|| {
            format!(
                "cannot be told {}",
                grouped(counted.language_unknown as f64)
            )
        }))
        .collect();
    let all_tokens: usize = counted.tokens.iter().sum();
    let unreadable: usize = counted.unreadable.values().sum();
    let mut facts = vec![(
        "samples",
        format!(
            "{}, {} of them unreadable",
            grouped(counted.samples as f64),
            grouped(unreadable as f64)
        ),
    )];
    if unreadable > 0 {
        facts.push(("unreadable", reasons(&counted.unreadable)));
    }
    let others = counted.others.iter();
    let others: Vec<String> = others.map(|(what, n)| format!("{n} {what}")).collect();
    let mut fact = |label, value: Option<String>| facts.extend(value.map(|value| (label, value)));
    fact("width in pixels", spread(&counted.widths));
    fact("height in pixels", spread(&counted.heights));
    fact("captions per sample", wide(&counted.captions_per_image));
    fact("words per caption", wide(&counted.words));
    fact("tokens per caption", wide(&counted.tokens));
    fact("phrases per caption", wide(&counted.phrases));
    fact("tags per image", wide(&counted.tags));
    if !others.is_empty() {
        fact("do not describe", Some(others.join(", ")));
    }
    if !counted.tokens.is_empty() {
        fact(
            "cut",
            Some(format!(
                "{:.1}% of the captions have more than the {room} tokens that data.max_text_length leaves for words, begin and end",
                share(cut, counted.tokens.len())
            )),
        );
        fact(
            "unknown tokens",
            Some(format!("{:.3}%", share(counted.unknown_tokens, all_tokens))),
        );
        fact(
            "different words",
            Some(grouped(counted.vocabulary.len() as f64)),
        );
        fact("most frequent words", Some(coverage.join(", ")));
        fact("languages", Some(languages.join(", ")));
    }
    facts
}

/// A histogram with bins of equal width; values beyond the 99th percentile are in the last one.
fn histogram(title: &str, unit: &str, values: &[f64]) -> Option<Markup> {
    const BINS: usize = 32;
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, top) = (*sorted.first()?, *sorted.last()?);
    let most = sorted[(sorted.len() - 1) * 99 / 100];
    let whole = sorted.iter().all(|v| v.fract() == 0.0);
    let width = (most - low) / BINS as f64;
    let width = if whole { width.ceil().max(1.0) } else { width };
    if width <= 0.0 {
        return Some(
            Bars::new(title, vec![(format!("{low}"), sorted.len() as f64)])
                .unit(unit)
                .to_html(),
        );
    }
    let bins = (((most - low) / width).floor() as usize + 1).min(BINS + 1);
    let mut counts = vec![0.0; bins];
    for value in &sorted {
        let bin = (((value - low) / width) as usize).min(bins - 1);
        counts[bin] += 1.0;
    }
    let digits = if whole { 0 } else { 2 };
    let bars = counts.into_iter().enumerate().map(|(bin, count)| {
        let from = low + bin as f64 * width;
        let to = if bin + 1 == bins {
            top
        } else {
            from + width - f64::from(u8::from(whole))
        };
        let name = if from == to {
            format!("{from:.digits$}")
        } else {
            format!("{from:.digits$} to {to:.digits$}")
        };
        (name, count)
    });
    Some(Bars::new(title, bars.collect()).unit(unit).to_html())
}

fn section(split: Split, counted: &Counted, room: usize) -> Section {
    let widths = counted
        .widths
        .iter()
        .map(|w| f64::from(*w))
        .collect::<Vec<_>>();
    let heights = counted
        .heights
        .iter()
        .map(|h| f64::from(*h))
        .collect::<Vec<_>>();
    let ratios = widths
        .iter()
        .zip(&heights)
        .map(|(w, h)| (w / h).log2())
        .collect::<Vec<_>>();
    let floats = |values: &[usize]| values.iter().map(|v| *v as f64).collect::<Vec<_>>();
    let frequent = counted.frequent(30);
    let words = frequent
        .iter()
        .map(|(word, count)| ((*word).to_owned(), *count as f64));
    let figures = [
        histogram("Width", "pixels", &widths),
        histogram("Height", "pixels", &heights),
        histogram(
            "Shape",
            "width over height, in doublings: 0 is square",
            &ratios,
        ),
        histogram(
            "Captions per sample",
            "",
            &floats(&counted.captions_per_image),
        ),
        histogram("Length of captions", "words", &floats(&counted.words)),
        histogram("Length of captions", "tokens", &floats(&counted.tokens)),
        (!frequent.is_empty()).then(|| Bars::new("Most frequent words", words.collect()).to_html()),
    ];
    let cards = figures.into_iter().flatten().map(|figure| ("card", figure));
    let body = html! {
        div.card {
            table.facts-table {
                tbody {
                    @for (label, value) in facts(counted, room) { tr { th scope="row" { (label) } td { (value) } } }
                }
            }
        }
        (page::grid(cards))
    };
    Section {
        anchor: match split {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        },
        title: match split {
            Split::Train => "Training split",
            Split::Val => "Held-out split",
            Split::Test => "Test split",
        },
        lead: "Bars are counts; the last bar of a histogram holds all beyond the 99th percentile."
            .to_owned(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(width: u32, captions: &[&str]) -> Result<Read, String> {
        Ok(Read {
            size: Some((width, 100)),
            captions: captions.iter().map(|c| (*c).to_owned()).collect(),
            tokens: captions.iter().map(|c| (c.len(), 1)).collect(),
            phrases: Vec::new(),
            tags: None,
            roles: Vec::new(),
        })
    }

    #[test]
    fn words_sizes_and_languages_are_counted() {
        let mut counted = Counted::default();
        counted.add(sample(10, &["A cat, a cat!", "the cat's tail"]));
        counted.add(sample(
            30,
            &["Der Hund liegt auf dem Sofa und schläft ganz ruhig."],
        ));
        counted.add(Err("cut".to_owned()));
        assert_eq!((counted.samples, counted.unreadable["cut"]), (3, 1));
        assert_eq!(counted.words, [4, 3, 10]);
        assert_eq!(counted.frequent(2), [("a", 2), ("cat", 2)]);
        assert_eq!(counted.languages.get("German"), Some(&1));
        assert_eq!(counted.language_unknown, 2);
        assert_eq!(counted.coverage().last(), Some(&(0.99, 15)));
        let facts = facts(&counted, 13);
        let fact = |label: &str| &facts.iter().find(|(l, _)| *l == label).unwrap().1;
        assert_eq!(fact("width in pixels"), "10 to 30, median 30, 95% up to 30");
        assert!(fact("cut").starts_with("66.7%"), "{}", fact("cut"));
    }

    #[test]
    fn a_histogram_loses_nothing() {
        for values in [
            vec![3.0; 5],
            (0..1000).map(f64::from).collect::<Vec<_>>(),
            vec![-0.5, 0.25, 7.75],
        ] {
            let html = histogram("x", "", &values).unwrap().into_string();
            let total: f64 = html
                .split("<title>")
                .skip(1)
                .filter_map(|t| {
                    t.split("</title>")
                        .next()?
                        .rsplit(": ")
                        .next()?
                        .replace(',', "")
                        .parse::<f64>()
                        .ok()
                })
                .sum();
            assert_eq!(total, values.len() as f64, "{html}");
        }
        assert!(histogram("x", "", &[]).is_none());
    }
}
