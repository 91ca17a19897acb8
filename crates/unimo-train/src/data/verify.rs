//! `unimo data verify`: reads everything once and reports what is wrong.

mod clean;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use unimo_data::digest::Digest;
use unimo_data::{BySplit, SampleError, Source, Split};

use super::{DataArgs, each, threads};
use crate::apply::write_text;
use crate::error::TrainError;

/// `unimo data verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The data.
    #[command(flatten)]
    pub data: DataArgs,
    /// Write every usable sample here, one JSON object per line: image, captions, split, which is train, val or test. A sample whose
    /// image is also held out (training split), or also tested on (validation split), is left out and counted. `unimo train --data`
    /// reads the list. If images are not separate files (tar shards, Parquet), `unimo data pack` leaves out what cannot be used.
    #[arg(long, value_name = "FILE.jsonl")]
    pub clean: Option<PathBuf>,
    /// Also leave out of the clean list every sample whose image appeared before in its split.
    #[arg(long, requires = "clean")]
    pub drop_duplicates: bool,
    /// Write the full results here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The findings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// The source's description of itself.
    pub source: String,
    /// Counts per split.
    pub splits: BTreeMap<&'static str, SplitAccount>,
    /// Samples that cannot be used, with their reasons.
    pub unusable: Vec<Unusable>,
    /// Samples that could not be read this time, with their reasons: nothing is known about them.
    pub unavailable: Vec<Unusable>,
    /// Images that occur more than once within a split, as groups of samples.
    pub duplicates: Vec<Vec<String>>,
    /// Images of the training split that are also held out for validation or test: the training sample and the held-out one.
    pub leaked_pictures: Vec<(String, String)>,
    /// Images that are in both the validation and the test split: the sample of each.
    pub tested_pictures: Vec<(String, String)>,
    /// Number of captions that are trained on and held out.
    pub leaked_captions: usize,
    /// Number of held-out samples all of whose captions are also trained on.
    pub leaked_samples: usize,
}

/// Counts of one split.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SplitAccount {
    /// Number of samples.
    pub samples: usize,
    /// Number of samples that can be read.
    pub usable: usize,
    /// Number of captions.
    pub captions: usize,
    /// Bytes of the image files, if images are files.
    pub bytes: u64,
    /// Smallest and largest image, width and height in pixels.
    pub sizes: Option<[[u32; 2]; 2]>,
    /// Shortest and longest caption in characters.
    pub characters: Option<[usize; 2]>,
}

/// A sample that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unusable {
    /// Its file.
    pub file: String,
    /// Its line.
    pub line: u64,
    /// The reason.
    pub reason: String,
}

/// A content hash, truncated to 128 bits: in a billion different images two collide once in 10^20 data sets.
type Hash = [u8; 16];

fn hash(bytes: &[u8]) -> Hash {
    let mut cut = Hash::default();
    cut.copy_from_slice(&Digest::of(bytes)[..16]);
    cut
}

/// What is kept of a sample.
struct Seen {
    /// Hash of the image's content.
    picture: Option<Hash>,
    /// The source's identity of the image.
    id: u64,
    captions: Vec<Hash>,
    characters: Vec<usize>,
    size: Option<[u32; 2]>,
    bytes: u64,
}

fn read(source: &dyn Source, split: Split, index: usize) -> Result<Seen, SampleError> {
    let sample = source.sample(split, index)?;
    let bytes = match source.image_bytes(split, index) {
        // Images that are known by regions need not exist themselves.
        Err(error) if source.region_shape().is_some() && !error.is_unavailable() => None,
        bytes => bytes?,
    };
    let picture = match (&bytes, &sample.image) {
        (Some((bytes, _)), _) => Some(hash(bytes)),
        (None, Some(picture)) => Some(hash(picture.as_raw())),
        (None, None) => None,
    };
    Ok(Seen {
        picture,
        id: sample
            .picture_id
            .map_or_else(|| source.picture_id(split, index), Ok)?,
        captions: sample.captions.iter().map(|c| hash(c.as_bytes())).collect(),
        characters: sample.captions.iter().map(|c| c.chars().count()).collect(),
        size: sample
            .image
            .map(|picture| [picture.width(), picture.height()]),
        bytes: bytes.map_or(0, |(bytes, _)| bytes.len() as u64),
    })
}

/// Runs the command.
///
/// # Errors
///
/// The data cannot be opened, nothing of it can be used, a file cannot be written, or samples could not be read this time. Problems
/// of single samples are not an error but the result.
pub fn run(args: &VerifyArgs) -> Result<(), TrainError> {
    let (recipe, source) = args.data.open_full()?;
    let outs = [args.clean.as_deref(), args.json.as_deref()];
    args.data.check_outputs(&recipe, &outs)?;
    if args.clean.is_some() {
        // Checked before hours of reading.
        clean::check(&*source)?;
    }
    let (account, keep) = account(&*source, threads(&recipe.data), args.drop_duplicates);
    print!("{}", table(&account));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&account)
            .map_err(|e| TrainError::Check(format!("the account cannot be written: {e}")))?;
        write_text(path, &json)?;
    }
    if !account.unavailable.is_empty() {
        return Err(TrainError::Check(format!(
            "{} samples could not be read this time (the network, a disk or a limit of the system){}; the first: {}:{}: {}",
            account.unavailable.len(),
            match args.clean {
                Some(_) => ", and no clean list is written without them",
                None => "",
            },
            account.unavailable[0].file,
            account.unavailable[0].line,
            account.unavailable[0].reason
        )));
    }
    let usable: usize = account.splits.values().map(|of| of.usable).sum();
    if usable == 0 {
        return Err(TrainError::Check(format!(
            "nothing of it can be used: {}",
            account.source
        )));
    }
    if let Some(path) = &args.clean {
        let written = clean::write(&*source, &clean::Columns::of(&recipe.data), &keep, path)?;
        println!(
            "{} samples in {}, with the columns {} and no others",
            written.samples,
            path.display(),
            written.columns.join(", ")
        );
        println!("{}", left_out(&account, &keep, args.drop_duplicates));
        for line in written.lines {
            println!("{line}");
        }
    }
    Ok(())
}

/// What the clean list is without, in words.
fn left_out(account: &Account, kept: &Kept, drop_duplicates: bool) -> String {
    let usable: usize = account.splits.values().map(|of| of.usable).sum();
    let in_list = kept.iter().flat_map(|(_, kept)| kept);
    let dropped = usable - in_list.filter(|kept| **kept).count();
    let (which, stay) = if drop_duplicates {
        (" or appeared before in its split", String::new())
    } else {
        let groups = account.duplicates.len();
        let stay = format!(
            "; {groups} images that occur more than once in a split stay (--drop-duplicates)"
        );
        ("", Some(stay).filter(|_| groups > 0).unwrap_or_default())
    };
    format!(
        "without {} that are unusable and {dropped} whose image is also held out (training) or tested on (validation){which}{stay}",
        account.unusable.len()
    )
}

/// Which samples the clean list has, by split and index: the usable ones whose image is in no split that is further from training.
pub(super) type Kept = BySplit<Vec<bool>>;

/// Reads every sample of a source.
fn account(source: &dyn Source, threads: usize, drop_duplicates: bool) -> (Account, Kept) {
    let mut account = Account {
        source: source.describe(),
        splits: BTreeMap::new(),
        unusable: Vec::new(),
        unavailable: Vec::new(),
        duplicates: Vec::new(),
        leaked_pictures: Vec::new(),
        tested_pictures: Vec::new(),
        leaked_captions: 0,
        leaked_samples: 0,
    };
    let mut kept: Kept = BySplit::new(|split| vec![false; source.len(split)]);
    let mut pictures: HashMap<Hash, BySplit<Vec<u32>>> = HashMap::new();
    let mut ids: HashMap<u64, BySplit<Vec<u32>>> = HashMap::new();
    let mut captions: HashMap<Hash, BySplit<Vec<u32>>> = HashMap::new();
    for rejected in source.rejected() {
        account.unusable.push(Unusable {
            file: rejected.place.file.clone(),
            line: rejected.place.line,
            reason: rejected.reason.clone(),
        });
    }
    for split in Split::ALL {
        // The test split, which few data sets have, is listed only if it exists.
        if split != Split::Test || !source.is_empty(split) {
            let of = account.splits.entry(split.name()).or_default();
            of.samples = source.len(split);
        }
    }
    each(
        source,
        threads,
        "reading",
        |split, index| read(source, split, index),
        |split, index, seen| {
            let seen = match seen {
                Ok(seen) => seen,
                Err(error) => {
                    let list = if error.is_unavailable() {
                        &mut account.unavailable
                    } else {
                        &mut account.unusable
                    };
                    list.push(Unusable {
                        file: error.place.file,
                        line: error.place.line,
                        reason: error.reason,
                    });
                    return;
                }
            };
            kept[split][index] = true;
            let of = account.splits.entry(split.name()).or_default();
            of.usable += 1;
            of.captions += seen.captions.len();
            of.bytes += seen.bytes;
            if let Some(size) = seen.size {
                let area = |[w, h]: [u32; 2]| u64::from(w) * u64::from(h);
                let [small, large] = of.sizes.get_or_insert([size, size]);
                // Among images of equal area the wider one, so that the order of reading does not matter.
                if (area(size), size) < (area(*small), *small) {
                    *small = size;
                }
                if (area(size), size) > (area(*large), *large) {
                    *large = size;
                }
            }
            for characters in seen.characters {
                let [short, long] = of.characters.get_or_insert([characters, characters]);
                *short = characters.min(*short);
                *long = characters.max(*long);
            }
            if let Some(picture) = seen.picture {
                pictures.entry(picture).or_default()[split].push(index as u32);
                ids.entry(seen.id).or_default()[split].push(index as u32);
            }
            for caption in seen.captions {
                captions.entry(caption).or_default()[split].push(index as u32);
            }
        },
    );
    account.unusable.sort();
    account.unavailable.sort();
    let name = |split, index: u32| source.place(split, index as usize).to_string();
    let mut groups = Vec::new();
    for sides in pictures.values_mut() {
        for (split, side) in sides.iter_mut() {
            side.sort_unstable();
            if side.len() > 1 {
                groups.push((split, side.clone()));
            }
        }
    }
    // The same content, or the same image by the source's identity: two parts of it, two downloads of an address.
    let mut leaks = BTreeSet::new();
    for sides in pictures.values().chain(ids.values()) {
        for (first, second) in [
            (Split::Train, Split::Val),
            (Split::Train, Split::Test),
            (Split::Val, Split::Test),
        ] {
            let held_out = sides[second].iter().min();
            for (index, held_out) in sides[first].iter().zip(held_out.iter().cycle()) {
                leaks.insert((first, *index, second, **held_out));
            }
        }
    }
    let mut told = HashSet::new();
    for (first, index, second, held_out) in leaks {
        // A sample that is held out by content and by identity is reported once.
        if !told.insert((first, index, second)) {
            continue;
        }
        kept[first][index as usize] = false;
        let pair = (name(first, index), name(second, held_out));
        match first {
            Split::Train => account.leaked_pictures.push(pair),
            Split::Val | Split::Test => account.tested_pictures.push(pair),
        }
    }
    groups.sort_by_key(|(split, group)| (*split, group[0]));
    for (split, group) in &groups {
        if drop_duplicates {
            let later = &group[1..];
            later
                .iter()
                .for_each(|index| kept[*split][*index as usize] = false);
        }
        let names = group.iter().map(|index| name(*split, *index));
        account.duplicates.push(names.collect());
    }
    account.leaked_pictures.sort();
    account.tested_pictures.sort();
    // A held-out sample is leaked by its words if none of its captions is new.
    let mut new = BySplit::new(|split| vec![false; source.len(split)]);
    let mut old = new.clone();
    for sides in captions.values() {
        let trained = !sides[Split::Train].is_empty();
        let held_out = [Split::Val, Split::Test];
        account.leaked_captions +=
            usize::from(trained && held_out.iter().any(|split| !sides[*split].is_empty()));
        for split in held_out {
            for index in &sides[split] {
                let of = if trained { &mut old } else { &mut new };
                of[split][*index as usize] = true;
            }
        }
    }
    for split in [Split::Val, Split::Test] {
        let pairs = new[split].iter().zip(&old[split]);
        account.leaked_samples += pairs.filter(|(new, old)| **old && !**new).count();
    }
    (account, kept)
}

/// The findings as text.
fn table(account: &Account) -> String {
    /// Number of examples per kind.
    const SHOWN: usize = 5;
    let mut out = format!("{}\n\n", account.source);
    let _ = writeln!(
        out,
        "{:<8}{:>10}{:>10}{:>10}{:>12}  {:<30}caption length",
        "split", "samples", "usable", "captions", "MB", "images"
    );
    for (split, of) in &account.splits {
        let sizes = of.sizes.map_or_else(
            || "-".to_owned(),
            |[[w, h], [x, y]]| format!("{w} x {h} to {x} x {y}"),
        );
        let characters = of
            .characters
            .map_or_else(|| "-".to_owned(), |[a, b]| format!("{a} to {b} characters"));
        let _ = writeln!(
            out,
            "{split:<8}{:>10}{:>10}{:>10}{:>12.1}  {sizes:<30}{characters}",
            of.samples,
            of.usable,
            of.captions,
            of.bytes as f64 / 1e6
        );
    }
    let mut list = |title: String, lines: Vec<String>| {
        let _ = writeln!(out, "\n{title}");
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(out, "  {line}");
        }
        if lines.len() > SHOWN {
            let _ = writeln!(
                out,
                "  and {} more (--json FILE lists all)",
                lines.len() - SHOWN
            );
        }
    };
    let lines = |of: &[Unusable]| {
        let of = of.iter();
        of.map(|u| format!("{}:{}: {}", u.file, u.line, u.reason))
            .collect()
    };
    list(
        format!("unusable: {}", account.unusable.len()),
        lines(&account.unusable),
    );
    if !account.unavailable.is_empty() {
        list(
            format!(
                "could not be read this time, so that nothing is known of them: {}",
                account.unavailable.len()
            ),
            lines(&account.unavailable),
        );
    }
    list(
        format!(
            "images that occur more than once in a split: {}",
            account.duplicates.len()
        ),
        account
            .duplicates
            .iter()
            .map(|group| group.join(" = "))
            .collect(),
    );
    let leaked = account.leaked_pictures.iter();
    list(
        format!(
            "images trained on and held out: {}",
            account.leaked_pictures.len()
        ),
        leaked.map(|(a, b)| format!("{a} = {b}")).collect(),
    );
    if account.splits.contains_key(Split::Test.name()) {
        let tested = account.tested_pictures.iter();
        list(
            format!(
                "images in the validation split and in the test split: {}",
                account.tested_pictures.len()
            ),
            tested.map(|(a, b)| format!("{a} = {b}")).collect(),
        );
    }
    let _ = writeln!(
        out,
        "\ncaptions trained on and held out: {}; held-out samples with no caption of their own: {}",
        account.leaked_captions, account.leaked_samples
    );
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use unimo_data::images;

    use super::*;
    use crate::recipe::Recipe;

    /// Five good images, of which two are equal and one is also held out; one that is truncated; one that is missing.
    #[test]
    fn what_is_wrong_is_found_and_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let picture = |name: &str, value: u8| {
            let picture = image::RgbImage::from_pixel(9, 7, image::Rgb([value; 3]));
            picture.save(folder.path().join(name)).unwrap();
        };
        for (name, value) in [
            ("a.png", 1),
            ("b.png", 2),
            ("c.png", 2),
            ("d.png", 3),
            ("e.png", 3),
        ] {
            picture(name, value);
        }
        let whole = std::fs::read(folder.path().join("a.png")).unwrap();
        std::fs::write(folder.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
        let rows = [
            ("a.png", "one", "train"),
            ("b.png", "two", "train"),
            ("c.png", "three", "train"),
            ("d.png", "four", "train"),
            ("e.png", "two", "val"),
            ("cut.png", "six", "train"),
            ("gone.png", "seven", "val"),
        ];
        let list: Vec<String> = rows
            .iter()
            .map(|(i, c, s)| json!({"image": i, "caption": c, "split": s}).to_string())
            .chain(["no json".to_owned()])
            .collect();
        let path = folder.path().join("list.jsonl");
        std::fs::write(&path, list.join("\n")).unwrap();
        let args = DataArgs {
            recipe: None,
            data: Some(path),
            set: Vec::new(),
        };
        let (_, source) = args.open().unwrap();
        let (found, kept) = account(&*source, 2, false);
        assert_eq!(found.splits["train"].samples, 5);
        assert_eq!(found.splits["train"].usable, 4);
        assert_eq!(found.splits["val"].usable, 1);
        assert_eq!(found.splits["train"].sizes, Some([[9, 7], [9, 7]]));
        assert_eq!(found.splits["train"].characters, Some([3, 5]));
        let lines: Vec<u64> = found.unusable.iter().map(|u| u.line).collect();
        assert_eq!(lines, [6, 7, 8]);
        assert_eq!(found.duplicates.len(), 1);
        assert!(found.duplicates[0][0].ends_with(":2") && found.duplicates[0][1].ends_with(":3"));
        assert_eq!(found.leaked_pictures.len(), 1);
        assert!(found.leaked_pictures[0].0.ends_with(":4"));
        assert_eq!((found.leaked_captions, found.leaked_samples), (1, 1));
        assert!(table(&found).contains("list.jsonl:8: malformed JSON"));

        for (kept, expected) in [
            (kept, vec!["a.png", "b.png", "c.png", "e.png"]),
            (
                account(&*source, 1, true).1,
                vec!["a.png", "b.png", "e.png"],
            ),
        ] {
            let clean_list = folder.path().join("clean.jsonl");
            let written = clean::write(&*source, &clean::Columns::default(), &kept, &clean_list);
            assert_eq!(written.unwrap().samples, expected.len());
            let again = DataArgs {
                data: Some(clean_list.clone()),
                ..args.clone()
            };
            let (_, again) = again.open().unwrap();
            assert!(again.rejected().is_empty());
            let text = std::fs::read_to_string(&clean_list).unwrap();
            let names: Vec<&str> = text
                .lines()
                .map(|line| line.split(".png").next().unwrap())
                .map(|line| line.rsplit('/').next().unwrap())
                .collect();
            let expected: Vec<&str> = expected
                .iter()
                .map(|e| e.trim_end_matches(".png"))
                .collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn pictures_are_accounted_for_in_full_size_whatever_is_decoded_for_training() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let picture = image::RgbImage::from_pixel(480, 336, image::Rgb([90; 3]));
        std::fs::write(at("a.jpg"), images::jpeg(&picture).unwrap()).unwrap();
        let row = json!({"image": "a.jpg", "caption": "grey", "split": "train"});
        std::fs::write(at("list.jsonl"), row.to_string()).unwrap();
        let args = DataArgs {
            recipe: None,
            data: Some(at("list.jsonl")),
            set: ["data.decode=scaled", "data.augment=none"]
                .map(str::to_owned)
                .to_vec(),
        };
        let size = |opened: Result<(Recipe, Arc<dyn Source>), TrainError>| {
            let (_, source) = opened.unwrap();
            let picture = source.image(Split::Train, 0).unwrap();
            picture.unwrap().dimensions()
        };
        // The model reads 112 pixels: half of the image is large enough, a quarter is not.
        assert_eq!(size(args.open()), (240, 168));
        assert_eq!(size(args.open_pictures()), (480, 336));
        let verify = VerifyArgs {
            data: args,
            clean: None,
            drop_duplicates: false,
            json: Some(at("account.json")),
        };
        run(&verify).unwrap();
        let account = std::fs::read_to_string(at("account.json")).unwrap();
        let account: serde_json::Value = serde_json::from_str(&account).unwrap();
        assert_eq!(
            account["splits"]["train"]["sizes"],
            json!([[480, 336], [480, 336]])
        );
    }
}
