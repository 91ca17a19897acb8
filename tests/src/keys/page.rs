//! The keys of a recipe as a page in Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::keys::{Key, Keys, Table};

/// What stands before the tables.
const HEAD: &str = "\
# The keys of a recipe

Every key with its type, its value if it is left out, and its meaning. `unimo recipes explain KEY` says the same for one key or one table,
`unimo recipes show RECIPE` prints a recipe with all of its values, and `unimo recipes check FILE` says what is wrong with one. Paths are
relative to the recipe's own file. `extends = \"NAME\"` at the top of a recipe takes another one, of which it then changes keys.

This page is made of the doc comments of the configurations; `tests/tests/keys.rs` keeps it true and says how to make it anew.
";

/// The page.
pub(super) fn of(keys: &Keys) -> String {
    let mut page = Page {
        keys,
        text: HEAD.to_owned(),
        told: BTreeSet::new(),
        later: Vec::new(),
    };
    page.table("", &keys.root);
    page.text
}

struct Page<'a> {
    keys: &'a Keys,
    text: String,
    /// Tables that have a section.
    told: BTreeSet<String>,
    /// Tables that are reached from the one being written: path and type.
    later: Vec<(String, String)>,
}

impl Page<'_> {
    /// A section for a table, and sections for what is in it.
    fn table(&mut self, path: &str, name: &str) {
        if !self.told.insert(name.to_owned()) {
            return;
        }
        let keys = self.keys;
        let table = &keys.tables[name];
        let title = if path.is_empty() {
            "The top of a recipe".to_owned()
        } else {
            format!("`{path}`")
        };
        let _ = write!(self.text, "\n## {title}\n");
        // `[train]` alone says nothing.
        if table.doc.trim_end_matches('.').contains(' ') {
            let _ = write!(self.text, "\n{}\n", table.doc);
        }
        let outer = std::mem::take(&mut self.later);
        if !table.keys.is_empty() {
            self.rows(path, &table.keys);
        }
        if let Some(tag) = &table.tag {
            for value in &table.values {
                let keys = match &value.of {
                    Some(of) => format!(" Keys as of `{}`.", self.place_of(of)),
                    None => String::new(),
                };
                let (name, doc) = (&value.name, &value.doc);
                let _ = write!(self.text, "\n`{tag} = \"{name}\"`: {doc}{keys}\n");
                self.rows(path, &value.keys);
            }
        } else {
            for value in table.values.iter().filter(|value| !value.keys.is_empty()) {
                let _ = write!(
                    self.text,
                    "\n`{{ {} = {{ ... }} }}`: {}\n",
                    value.name, value.doc
                );
                self.rows(path, &value.keys);
            }
        }
        let inside = std::mem::replace(&mut self.later, outer);
        for (path, name) in inside {
            self.table(&path, &name);
        }
    }

    fn rows(&mut self, path: &str, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.text += "\n| key | type | default | meaning |\n|---|---|---|---|\n";
        for key in keys {
            let default = match &key.default {
                None => "**required**".to_owned(),
                Some(default) if default == super::ABSENT => default.clone(),
                Some(default) => format!("`{default}`"),
            };
            let (kind, meaning) = self.meaning(path, key);
            let row = format!("| `{}` | {kind} | {default} | {meaning} |", key.name);
            self.text += row.trim();
            self.text.push('\n');
        }
    }

    /// Type and meaning of a key, as a row of a table has them.
    fn meaning(&mut self, path: &str, key: &Key) -> (String, String) {
        let cell = |text: &str| text.replace('|', "\\|");
        let Some(of) = &key.of else {
            return (key.kind.clone(), cell(&key.doc));
        };
        let table = &self.keys.tables[of];
        if is_names(table) {
            let names = table.values.iter().map(|value| match &value.holds {
                None => format!("`\"{}\"`: {}", value.name, value.doc),
                Some(holds) => format!("`{{ {} = {holds} }}`: {}", value.name, value.doc),
            });
            let names: Vec<String> = names.collect();
            return (
                key.kind.clone(),
                cell(&format!("{} {}", key.doc, names.join(" "))),
            );
        }
        let own = if key.list { "[]" } else { "" };
        let dot = if path.is_empty() { "" } else { "." };
        let inside = format!("{path}{dot}{}{own}", key.name);
        let told = self.told.contains(of) || self.later.iter().any(|(_, name)| name == of);
        let place = if told {
            let there = self.place_of(of);
            format!("Keys as of `{there}`.")
        } else {
            self.later.push((inside.clone(), of.clone()));
            format!("Keys: [below](#{}).", anchor(&inside))
        };
        (key.kind.clone(), cell(&format!("{} {place}", key.doc)))
    }

    /// The path of the section of a table.
    fn place_of(&self, name: &str) -> String {
        let later = self.later.iter().find(|(_, own)| own == name);
        match later {
            Some((path, _)) => path.clone(),
            None => place_of(self.keys, name),
        }
    }
}

/// The first path by which a table is reached.
fn place_of(keys: &Keys, name: &str) -> String {
    let mut open = vec![(String::new(), keys.root.as_str())];
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    while !open.is_empty() {
        let mut next = Vec::new();
        for (path, at) in open {
            if at == name {
                return path;
            }
            if !seen.insert(at) {
                continue;
            }
            let table = &keys.tables[at];
            let values = table.values.iter().flat_map(|value| &value.keys);
            for key in table.keys.iter().chain(values) {
                let own = if key.list { "[]" } else { "" };
                let dot = if path.is_empty() { "" } else { "." };
                let of = key.of.as_deref();
                next.extend(of.map(|of| (format!("{path}{dot}{}{own}", key.name), of)));
            }
        }
        open = next;
    }
    name.to_owned()
}

/// Whether a choice is written within the row of its key: it has no keys of its own.
fn is_names(table: &Table) -> bool {
    let plain = table.values.iter().all(|value| value.keys.is_empty());
    plain && table.tag.is_none() && table.keys.is_empty()
}

/// The anchor that Markdown gives to a heading.
fn anchor(path: &str) -> String {
    let kept = |c: &char| c.is_ascii_alphanumeric() || *c == '_' || *c == '-';
    path.to_ascii_lowercase().chars().filter(kept).collect()
}
