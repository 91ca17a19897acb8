//! Recognises a file or folder by its content: the sources that `--data` opens without further settings.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::DataError;
use crate::formats::json::{first_elements, parse};
use crate::formats::layout::{first_rows, foreign, start_of, with_column};
use crate::sources::pack;
use crate::sources::splits::Split;
use crate::store;
use crate::store::paths::{self, is_hidden};

/// What was recognised.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    /// Tar shards, or an index of them.
    Shards,
    /// Folders of packed shards, one per split that exists.
    Packed([Option<PathBuf>; 3]),
    /// A Parquet file.
    Parquet,
    /// A folder of Parquet files.
    ParquetFolder,
    /// A folder of images.
    Pictures,
    /// A list of pairs: the path itself, or a list in a folder.
    Pairs(PathBuf),
    /// COCO's captions, with the names of the first images.
    Coco(Vec<String>),
    /// Karpathy's splits, with the names of the first images.
    Karpathy(Vec<String>),
    /// Questions with answers and the names of images.
    Questions(Vec<String>),
}

/// Extensions of tar files.
const TARS: [&str; 4] = [".tar", ".tgz", ".tar.gz", ".tar.zst"];
/// Lists beside images, as the `imagefolder` of the datasets library has them.
const METADATA: [&str; 2] = ["metadata.jsonl", "metadata.csv"];
/// Number of an array's elements that are looked at.
const FIRST: u64 = 5;
/// Number of different images that are looked for.
const MOST_IMAGES: usize = 100;
/// Number of a list's elements whose images are looked for, if those of the first ones are nowhere: many questions may be asked of one image.
const SAMPLED: u64 = 1000;

/// Recognises what lies at a path.
///
/// # Errors
///
/// It cannot be read, or its format needs settings, which the error names.
pub(crate) fn kind_of(path: &Path) -> Result<Kind, DataError> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    if TARS.iter().any(|end| name.ends_with(end))
        || path.file_name().is_some_and(|name| name == pack::INDEX)
    {
        return Ok(Kind::Shards);
    }
    if path.is_dir() {
        return in_folder(path);
    }
    if name.ends_with(".parquet") {
        return Ok(Kind::Parquet);
    }
    // The source that reads a missing path reports it.
    if store::is_remote(path) || !path.is_file() {
        return Ok(Kind::Pairs(path.to_owned()));
    }
    let start = start_of(path)?;
    match foreign(&start) {
        Some("a tar file") => return Ok(Kind::Shards),
        Some("a Parquet file") => return Ok(Kind::Parquet),
        _ => {}
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    match text.trim_ascii_start().first() {
        Some(b'{') => of_object(path, text),
        Some(b'[') => of_array(path),
        _ => Ok(of_columns(path, &start)),
    }
}

/// Recognises a file of columns by its header.
fn of_columns(path: &Path, start: &[u8]) -> Kind {
    let Some(layout) = with_column(start, "question") else {
        return Kind::Pairs(path.to_owned());
    };
    let rows = first_rows(start, layout, SAMPLED as usize);
    let of_image = rows.first().is_some_and(|row| {
        let has = |key: &str| row.contains_key(key);
        (has("image") || has("image_id")) && !has("caption")
    });
    if !of_image {
        return Kind::Pairs(path.to_owned());
    }
    Kind::Questions(rows.iter().filter_map(image_of).collect())
}

/// What a file holds in which no row is a usable pair; `None` if nothing better is known.
pub(crate) fn hint(path: &Path) -> Option<String> {
    let read = |what: &str, source: &str| {
        Some(format!(
            "it holds {what}, which `data.source = \"{source}\"` reads"
        ))
    };
    match kind_of(path) {
        Ok(Kind::Coco(_)) => read("COCO's captions", "coco"),
        Ok(Kind::Karpathy(_)) => read("Karpathy's splits", "karpathy"),
        Ok(Kind::Questions(_)) => read("questions with answers", "vqa"),
        Err(DataError::Manifest { reason, .. }) => Some(reason),
        _ => None,
    }
}

fn in_folder(folder: &Path) -> Result<Kind, DataError> {
    let splits = Split::ALL.map(|split| folder.join(split.name()));
    if splits[0].join(pack::INDEX).is_file() {
        return Ok(Kind::Packed(
            splits.map(|folder| folder.is_dir().then_some(folder)),
        ));
    }
    let entries = |folder: &Path| -> Result<Vec<(String, PathBuf)>, DataError> {
        let entries = std::fs::read_dir(folder);
        let entries = entries.map_err(|error| DataError::file("list", folder, error))?;
        let mut named = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| DataError::file("list", folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_hidden(&name) {
                named.push((name, entry.path()));
            }
        }
        Ok(named)
    };
    let list = |folder: &Path| -> Result<Option<PathBuf>, DataError> {
        let is_list = |name: &str| METADATA.iter().any(|list| name.eq_ignore_ascii_case(list));
        let mut lists = entries(folder)?;
        lists.retain(|(name, path)| is_list(name) && path.is_file());
        lists.sort();
        match lists.as_slice() {
            [] => Ok(None),
            [(_, list)] => Ok(Some(list.clone())),
            [(first, _), (second, _), ..] => Err(DataError::Manifest {
                path: folder.to_owned(),
                reason: format!("it holds {first} and {second}: give the one that is meant"),
            }),
        }
    };
    if let Some(list) = list(folder)? {
        return Ok(Kind::Pairs(list));
    }
    // Files lie beside each other, in folders named like splits, or, on the hub, in `data`.
    let mut files = entries(folder)?;
    for (name, path) in files.clone() {
        if path.is_dir() && (name == "data" || Split::of_name(&name).is_some()) {
            files.extend(entries(&path)?);
        }
    }
    let holds = |ends: &[&str]| {
        files.iter().any(|(name, _)| {
            let name = name.to_ascii_lowercase();
            ends.iter().any(|end| name.ends_with(end))
        })
    };
    if holds(&TARS) || folder.join(pack::INDEX).is_file() {
        return Ok(Kind::Shards);
    }
    if holds(&[".parquet"]) {
        return Ok(Kind::ParquetFolder);
    }
    let parts = ["train", "validation", "val", "test"].map(|part| folder.join(part));
    let lists = parts
        .iter()
        .filter(|part| part.is_dir())
        .map(|part| list(part));
    if let Some(list) = lists
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .next()
    {
        return Err(DataError::Manifest {
            path: folder.to_owned(),
            reason: format!(
                "each part of it has a list of its own: give one, such as {}",
                list.display()
            ),
        });
    }
    Ok(Kind::Pictures)
}

/// Recognises a file of one JSON object, or of one per line.
fn of_object(path: &Path, start: &[u8]) -> Result<Kind, DataError> {
    let line = start.trim_ascii_start();
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line);
    match parse::<Map<String, Value>>(line) {
        // COCO files are mostly one line.
        Ok(row) if !row.values().any(is_table) => return of_row(path, &row, start),
        _ => {}
    }
    // If the file is not a single object, it is a list whose first row is long or broken.
    let Ok(arrays) = first_elements(path, SAMPLED) else {
        return Ok(Kind::Pairs(path.to_owned()));
    };
    let elements = |key: &str| {
        arrays
            .iter()
            .find(|(found, _)| found == key)
            .map(|(_, elements)| elements.as_slice())
    };
    let has = |array: &str, key: &str| {
        let mut first = elements(array).into_iter().flatten().take(FIRST as usize);
        first.any(|element| element.get(key).is_some())
    };
    if has("images", "sentences") {
        let names = elements("images").unwrap_or_default().iter();
        let names = names.filter_map(|picture| {
            let name = picture.get("filename")?.as_str()?;
            Some(match picture.get("filepath").and_then(Value::as_str) {
                Some(folder) if !folder.is_empty() => format!("{folder}/{name}"),
                _ => name.to_owned(),
            })
        });
        return Ok(Kind::Karpathy(names.collect()));
    }
    if has("annotations", "caption") && elements("images").is_some() {
        let names = elements("images").unwrap_or_default().iter();
        let names =
            names.filter_map(|picture| Some(picture.get("file_name")?.as_str()?.to_owned()));
        return Ok(Kind::Coco(names.collect()));
    }
    if elements("questions").is_some() {
        return Err(needs(
            path,
            "questions of VQA",
            "vqa",
            &[
                "questions=FILE",
                "annotations=ANSWERS",
                "images=FOLDER",
                "image=NAME_WITH_{id}",
            ],
        ));
    }
    if has("annotations", "question_id") {
        return Err(needs(
            path,
            "answers of VQA, without the questions",
            "vqa",
            &[
                "questions=QUESTIONS",
                "annotations=FILE",
                "images=FOLDER",
                "image=NAME_WITH_{id}",
            ],
        ));
    }
    if has("annotations", "category_id") {
        return Err(needs(
            path,
            "COCO's objects, without captions",
            "coco",
            &["captions=CAPTIONS", "instances=FILE", "images=FOLDER"],
        ));
    }
    if has("episodes", "instruction") {
        return Err(wants(
            path,
            "episodes of an agent (R2R-CE)",
            "data.source=episodes, 'data.episodes={ train = [\"FILE\"], val = [\"FILE\"], frames = \"FOLDER\" }'",
        ));
    }
    let keys: Vec<&str> = arrays.iter().map(|(key, _)| key.as_str()).collect();
    Err(DataError::Manifest {
        path: path.to_owned(),
        reason: format!(
            "one JSON object that is neither COCO's captions nor Karpathy's splits; its arrays: {}. A list of pairs is an object a \
             line, or an array of them",
            keys.join(", ")
        ),
    })
}

/// Whether a value is a list of objects.
fn is_table(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|elements| elements.iter().any(Value::is_object))
}

/// Recognises a list by its first row; `start` begins with it.
fn of_row(path: &Path, row: &Map<String, Value>, start: &[u8]) -> Result<Kind, DataError> {
    let has = |key: &str| row.contains_key(key);
    if has("sentence") && has("label") && (has("identifier") || has("images")) {
        return Err(needs(
            path,
            "statements of NLVR",
            "nlvr",
            &["path=FILE", "images=FOLDER"],
        ));
    }
    if has("question") && !has("caption") {
        // The last line of the start may be cut.
        let rows = start.split(|byte| *byte == b'\n').take(SAMPLED as usize);
        let names = rows.filter_map(|row| image_of(&parse(row.trim_ascii()).ok()?));
        return Ok(Kind::Questions(names.collect()));
    }
    if has("gold_label") && has("sentence2") {
        return Err(needs(
            path,
            "sentences of SNLI-VE",
            "snli_ve",
            &["path=FILE", "images=FOLDER"],
        ));
    }
    Ok(Kind::Pairs(path.to_owned()))
}

fn of_array(path: &Path) -> Result<Kind, DataError> {
    // The source reports a broken file, and where it is broken.
    let Ok(arrays) = first_elements(path, SAMPLED) else {
        return Ok(Kind::Pairs(path.to_owned()));
    };
    let all: Vec<&Value> = arrays.iter().flat_map(|(_, elements)| elements).collect();
    let elements = &all[..all.len().min(FIRST as usize)];
    if elements.iter().any(|element| element.is_array()) {
        return Err(needs(
            path,
            "lists of question, answer and image id",
            "vqa",
            &["questions=FILE", "images=FOLDER", "image=NAME_WITH_{id}"],
        ));
    }
    let has = |key: &str| elements.iter().any(|element| element.get(key).is_some());
    if has("regions") || (has("objects") && has("image_id")) {
        return Err(needs(
            path,
            "regions or objects of Visual Genome",
            "visual_genome",
            &["regions=REGIONS", "images=[FOLDERS]"],
        ));
    }
    if has("ann_id") && has("sentences") {
        let settings = "data.source=refcoco, data.refcoco.refs=FILE, data.refcoco.instances=INSTANCES, data.refcoco.images=FOLDER";
        return Err(wants(path, "expressions of RefCOCO", settings));
    }
    if has("question") && !has("caption") {
        let names = all.iter().filter_map(|row| image_of(row.as_object()?));
        return Ok(Kind::Questions(names.collect()));
    }
    Ok(Kind::Pairs(path.to_owned()))
}

/// The image of a question, as it is named.
fn image_of(question: &Map<String, Value>) -> Option<String> {
    Some(question.get("image")?.as_str()?.to_owned())
}

/// The error for a format that needs settings.
fn needs(path: &Path, what: &str, source: &str, settings: &[&str]) -> DataError {
    let settings: Vec<String> = settings
        .iter()
        .map(|setting| format!("data.{source}.train.{setting}"))
        .collect();
    wants(
        path,
        what,
        &format!("data.source={source}, {}", settings.join(", ")),
    )
}

fn wants(path: &Path, what: &str, settings: &str) -> DataError {
    DataError::Manifest {
        path: path.to_owned(),
        reason: format!("it holds {what}; instead of --data give the settings (--set) {settings}"),
    }
}

/// The error for questions that do not name their images.
pub(crate) fn no_image_of(path: &Path) -> DataError {
    DataError::Manifest {
        path: path.to_owned(),
        reason: "none of its first questions has `image`, the path of an image. With `image_id` instead, say what files are called and where \
                 they are: --set data.vqa.train.image=NAME_{id}.png --set data.vqa.train.images=FOLDER"
            .to_owned(),
    }
}

/// The folder of a list's images: the given one, the list's own, a folder inside it or a folder beside it.
///
/// The first images decide. If they are nowhere, others are looked for: those that are missing are unusable rows.
///
/// # Errors
///
/// No folder or more than one has the images; the error names the setting to give.
pub(crate) fn pictures_of(
    list: &Path,
    names: &[String],
    given: Option<&Path>,
    key: &str,
) -> Result<PathBuf, DataError> {
    let mut different: Vec<String> = Vec::new();
    for name in names {
        if different.len() < MOST_IMAGES && !different.contains(name) {
            different.push(name.clone());
        }
    }
    let first = &different[..different.len().min(FIRST as usize)];
    folder_with(list, first, given, key).or_else(|error| {
        let more = different.len() > first.len();
        more.then(|| folder_with(list, &different, given, key).ok())
            .flatten()
            .ok_or(error)
    })
}

/// The folder that has one of these images at least.
fn folder_with(
    list: &Path,
    names: &[String],
    given: Option<&Path>,
    key: &str,
) -> Result<PathBuf, DataError> {
    // Where an absolute path leads is the same from every folder.
    let absolute = |name: &&String| name.starts_with("file:") || Path::new(name).is_absolute();
    let mut tried: Vec<&String> = names.iter().filter(|name| !absolute(name)).collect();
    let anywhere = tried.is_empty();
    if anywhere {
        tried.extend(names);
    }
    let has = |folder: &Path| {
        let mut paths = tried.iter().map(|name| paths::resolve(folder, name));
        paths.any(|path| path.is_ok_and(|path| path.is_file()))
    };
    let own = list.parent().unwrap_or(Path::new(""));
    let own = if own.as_os_str().is_empty() {
        Path::new(".")
    } else {
        own
    };
    if names.is_empty() {
        return Err(DataError::Manifest {
            path: list.to_owned(),
            reason: "none of its first images has the name of a file (`file_name`): addresses are not fetched"
                .to_owned(),
        });
    }
    if let Some(given) = given.filter(|folder| !folder.as_os_str().is_empty()) {
        if has(given) {
            return Ok(given.to_owned());
        }
        return Err(DataError::Manifest {
            path: list.to_owned(),
            reason: format!(
                "its images (the first: {}) are not in {}, the folder that {key} names",
                names.first().map_or("none", String::as_str),
                given.display()
            ),
        });
    }
    let there = || {
        let mut absolute = names.iter().filter(|name| absolute(name));
        absolute.any(|name| paths::resolve(own, name).is_ok_and(|path| path.is_file()))
    };
    let mut found = Vec::new();
    for folder in [Some(own), own.parent()].into_iter().flatten() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut inside: Vec<PathBuf> = entries
            .filter(|entry| !is_hidden(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        inside.sort();
        // Paths relative to the list are the usual ones.
        if folder == own && has(own) {
            return Ok(own.to_owned());
        }
        inside.insert(0, folder.to_owned());
        found.extend(inside.into_iter().filter(|folder| has(folder)));
        if anywhere {
            found.truncate(1);
        }
        if !found.is_empty() {
            break;
        }
    }
    let first = names.first().map_or("none", String::as_str);
    let wrong = |reason: String| DataError::Manifest {
        path: list.to_owned(),
        reason: format!("{reason}; say where they are (--set {key}=FOLDER)"),
    };
    match found.as_slice() {
        [folder] => Ok(folder.clone()),
        // The others are there, and those that are not are unusable rows, wherever they would be.
        [] if there() => Ok(own.to_owned()),
        [] => Err(wrong(format!(
            "its images (the first: {first}) are neither beside it, nor in a folder there"
        ))),
        several => Err(wrong(format!(
            "its images (the first: {first}) are in several folders: {}",
            several
                .iter()
                .map(|folder| folder.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_image_that_is_missing_does_not_hide_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list.json");
        let image = folder.path().join("elsewhere").join("a.png");
        std::fs::create_dir(image.parent().unwrap()).unwrap();
        std::fs::write(&image, "").unwrap();
        let names = ["missing.png".to_owned(), image.display().to_string()];
        let found = pictures_of(&list, &names, None, "data.vqa.train.images").unwrap();
        assert_eq!(found, folder.path());
        let error = pictures_of(&list, &names[..1], None, "data.vqa.train.images").unwrap_err();
        assert!(error.to_string().contains("neither beside it"), "{error}");
    }

    /// Ten questions a list asks of one image, as VQA's lists do, and that image is missing.
    #[test]
    fn questions_of_one_missing_image_do_not_hide_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        std::fs::write(images.join("b.png"), "").unwrap();
        let rows: Vec<String> = (0..20)
            .map(|row| {
                let image = if row < 10 { "a.png" } else { "b.png" };
                format!(r#"{{"image": "{image}", "question": "what?", "answer": "{row}"}}"#)
            })
            .collect();
        let columns = (0..20).map(|row| {
            let image = if row < 10 { "a.png" } else { "b.png" };
            format!("{image};what, and why?;{row}\n")
        });
        let columns = format!("image;question;answer\n{}", columns.collect::<String>());
        for (name, text) in [
            ("lines.jsonl", rows.join("\n")),
            ("array.json", format!("[{}]", rows.join(","))),
            ("columns.csv", columns),
        ] {
            let list = folder.path().join(name);
            std::fs::write(&list, text).unwrap();
            let Kind::Questions(names) = kind_of(&list).unwrap() else {
                panic!("{name} holds questions");
            };
            let found = pictures_of(&list, &names, None, "data.vqa.train.images").unwrap();
            assert_eq!(found, images, "{name}");
        }
    }

    #[test]
    fn what_needs_settings_is_named_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.json");
        for (text, named) in [
            (
                r#"{"episodes": [{"episode_id": 1, "instruction": {"instruction_text": "go"}}]}"#,
                "data.source=episodes",
            ),
            (r#"{"episodes": [{"a": 1}]}"#, "its arrays: episodes"),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = kind_of(&path).map(|_| ()).unwrap_err().to_string();
            assert!(
                told.contains(named) && told.contains("train.json"),
                "{told}"
            );
        }
    }
}
