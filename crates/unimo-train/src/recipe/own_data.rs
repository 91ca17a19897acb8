//! What `--data` replaces in a recipe's tables.
//!
//! The given path replaces the recipe's own files in every split, so that nothing is evaluated on images of another data set. What
//! `--set` names beside `--data` stays, since it is about the given data.

use toml::{Table, Value};

use crate::recipe::overrides::{Setting, is_set};

/// The keys for a source's own files, by source.
const OWN: &[(&str, &[&str])] = &[
    ("coco", &["train", "val", "test"]),
    ("vqa", &["train", "val", "test"]),
    ("karpathy", &["images"]),
    ("images", &["train", "val", "test"]),
    ("webdataset", &["urls", "train", "val", "test"]),
    ("parquet", &["path", "train", "val", "test"]),
];

/// The keys that a source's table needs to be read. They are filled in when the path is inspected.
const NEEDED: &[(&str, Option<&str>, &[&str])] = &[
    ("pairs", None, &["path"]),
    ("coco", Some("train"), &["captions", "images"]),
    ("vqa", Some("train"), &["questions", "images"]),
    ("karpathy", None, &["path", "images"]),
];

/// Removes a recipe's own files from its data and from the data of its stages.
pub(crate) fn make_way(recipe: &mut Table, settings: &[Setting]) {
    if let Some(data) = recipe.get_mut("data").and_then(Value::as_table_mut) {
        of_data(data, settings);
    }
    let stages = recipe.get_mut("stage").and_then(Value::as_array_mut);
    for stage in stages.into_iter().flatten() {
        if let Some(data) = stage.get_mut("data").and_then(Value::as_table_mut) {
            of_data(data, settings);
        }
    }
}

fn of_data(data: &mut Table, settings: &[Setting]) {
    for (source, keys) in OWN {
        if let Some(table) = data.get_mut(*source).and_then(Value::as_table_mut) {
            for key in *keys {
                if !is_set(settings, &["data", source, key]) {
                    table.remove(*key);
                }
            }
        }
    }
    for (source, part, keys) in NEEDED {
        let Some(table) = data.get_mut(*source).and_then(Value::as_table_mut) else {
            continue;
        };
        let table = match part {
            None => Some(table),
            Some(part) => {
                let part = table.entry(*part).or_insert_with(|| Table::new().into());
                part.as_table_mut()
            }
        };
        if let Some(table) = table {
            for key in *keys {
                table.entry(*key).or_insert_with(|| String::new().into());
            }
        }
    }
    if let Some(images) = data.get_mut("images").and_then(Value::as_table_mut) {
        images
            .entry("train")
            .or_insert_with(|| Value::Array(Vec::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::overrides;

    fn after(text: &str, set: &[&str]) -> Table {
        let mut table: Table = text.parse().unwrap();
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        let settings = overrides::apply(&mut table, &set).unwrap();
        make_way(&mut table, &settings);
        table
    }

    #[test]
    fn files_of_the_recipe_go_and_those_that_are_set_stay() {
        let own = "[data]\nsource = \"coco\"\n[data.coco]\nval_fraction = 0.1\n[data.coco.train]\ncaptions = \"a\"\nimages = \"b\"\n\
                   [data.coco.val]\ncaptions = \"c\"\nimages = \"d\"\n[[stage]]\n[stage.data.parquet]\ntrain = [\"e\"]\n";
        let plain = after(own, &[]);
        let coco = plain["data"]["coco"].as_table().unwrap();
        assert!(!coco.contains_key("val") && coco.contains_key("val_fraction"));
        assert_eq!(coco["train"]["images"].as_str(), Some(""));
        let parquet = plain["stage"][0]["data"]["parquet"].as_table().unwrap();
        assert!(parquet.is_empty());

        let set = [
            "data.coco.val.captions=f",
            "data.coco.val.images=g",
            "data.vqa.train.images=h",
        ];
        let set = after(own, &set);
        assert_eq!(set["data"]["coco"]["val"]["captions"].as_str(), Some("f"));
        assert_eq!(set["data"]["vqa"]["train"]["questions"].as_str(), Some(""));
        assert_eq!(set["data"]["vqa"]["train"]["images"].as_str(), Some("h"));
    }
}
