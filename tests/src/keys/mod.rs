//! The keys of a recipe, with type, default and meaning: read from the sources of the configurations, so that what is documented is
//! what is compiled.
//!
//! `sources.rs` reads the items of the crates, `values.rs` writes default values as TOML, `page.rs` writes the page. What comes out is
//! kept twice: `docs/RECIPES.md` for readers and `crates/unimo-train/src/recipe/keys.json` for `unimo recipes explain`.

mod page;
mod sources;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use syn::{Attribute, Field, Fields, GenericArgument, PathArguments, Type};

use crate::keys::sources::{Item, Module, Sources, docs, serde_word, serde_words};
use crate::keys::values::Defaults;

/// The tables of a recipe by the names of their types.
#[derive(Debug, Serialize)]
pub struct Keys {
    /// The name of the table that a recipe is.
    pub root: String,
    /// Every table and choice that is reached from it.
    pub tables: BTreeMap<String, Table>,
}

/// A table of a recipe, or a value that is one of several.
#[derive(Debug, Default, Serialize)]
pub struct Table {
    /// What it is.
    pub doc: String,
    /// Its keys, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    /// What it may be, if it is one of several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Choice>,
    /// The key that says which of several it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// One of several values.
#[derive(Debug, Serialize)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// What it means.
    pub doc: String,
    /// What belongs to it, in words: a number for `{ shards = 8 }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// The keys beside its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    /// The table whose keys stand beside its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A key of a table.
#[derive(Debug, Serialize)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Its type in words.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its value if it is left out; `None`: it must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it means.
    pub doc: String,
    /// The table or choice that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Whether it is a list of them, `[[KEY]]`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub list: bool,
}

/// The variant of a choice for what other crates register.
const OUTSIDE: &str = "Outside";

/// What a default is called that is no value.
pub const ABSENT: &str = "absent";

/// The crates that hold configurations.
const CRATES: [&str; 7] = [
    "batch",
    "core",
    "encoders",
    "objectives",
    "data",
    "eval",
    "train",
];

/// Reads the keys of a recipe.
///
/// # Panics
///
/// Panics with file and name where a configuration is written in a way that is not understood here.
pub fn read(root: &Path) -> Keys {
    let sources = Sources::read(root, &CRATES);
    let module = vec!["unimo_train".to_owned(), "recipe".to_owned()];
    let mut reader = Reader {
        sources: &sources,
        tables: BTreeMap::new(),
        modules: BTreeMap::new(),
    };
    let name = reader.table(&module, "Recipe", &[]);
    Keys {
        root: name,
        tables: reader.tables,
    }
}

impl Keys {
    /// The page, as Markdown.
    pub fn page(&self) -> String {
        page::of(self)
    }

    /// For `unimo recipes explain`: one key a line, so that a change shows in a diff where it is.
    ///
    /// # Panics
    ///
    /// Never.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("invariant: names are strings");
        text.push('\n');
        text
    }
}

struct Reader<'a> {
    sources: &'a Sources,
    tables: BTreeMap<String, Table>,
    /// Where each table is written.
    modules: BTreeMap<String, Module>,
}

/// A type as a recipe sees it.
#[derive(Debug, Clone, Default)]
struct Seen {
    words: String,
    of: Option<String>,
    list: bool,
    optional: bool,
}

impl Reader<'_> {
    /// Reads a type, if it was not read yet, and returns its name. `given` are the types in its angle brackets.
    fn table(&mut self, from: &Module, name: &str, given: &[(Module, Type)]) -> String {
        let found = self.sources.find(from, &[name.to_owned()]);
        let inside = given.iter().map(|(_, ty)| last_name(ty));
        let inside: Vec<String> = inside.collect();
        let full = if inside.is_empty() {
            name.to_owned()
        } else {
            format!("{name}<{}>", inside.join(", "))
        };
        // Crates may use a name twice.
        let module = found.module.clone();
        let other = self
            .modules
            .get(&full)
            .is_some_and(|other| *other != module);
        let full = if other {
            format!("{}::{full}", module.join("::"))
        } else {
            full
        };
        if self.tables.contains_key(&full) {
            return full;
        }
        self.modules.insert(full.clone(), module);
        // Before what it holds is read, which may hold it.
        self.tables.insert(full.clone(), Table::default());
        let table = match found.item {
            Item::Struct(item) => {
                let generics = item.generics.type_params().map(|p| p.ident.to_string());
                let generics = generics.zip(given.iter().cloned()).collect();
                let scope = Scope {
                    module: found.module.clone(),
                    generics,
                };
                let defaults = Defaults::of_struct(self.sources, &scope.module, item);
                Table {
                    doc: self.doc(&item.attrs),
                    keys: self.keys(&scope, &item.fields, &defaults),
                    ..Table::default()
                }
            }
            Item::Alias(_) => panic!("{name}: another name of a type is read as that type"),
            Item::Enum(item) => {
                let scope = Scope {
                    module: found.module.clone(),
                    generics: Vec::new(),
                };
                // What another crate registers has the name that it is given there.
                let own = item.variants.iter().filter(|v| v.ident != OUTSIDE);
                let values = own.map(|variant| {
                    let mut choice = Choice {
                        name: sources::variant_name(item, variant),
                        doc: self.doc(&variant.attrs),
                        holds: None,
                        keys: Vec::new(),
                        of: None,
                    };
                    match &variant.fields {
                        Fields::Unit => {}
                        Fields::Unnamed(fields) => {
                            let seen = self.seen(&scope, &fields.unnamed[0].ty, &[]);
                            choice.of = seen.of;
                            choice.holds = Some(seen.words);
                        }
                        Fields::Named(_) => {
                            let defaults = Defaults::none(self.sources, &scope.module);
                            choice.keys = self.keys(&scope, &variant.fields, &defaults);
                        }
                    }
                    choice
                });
                Table {
                    values: values.collect(),
                    doc: self.doc(&item.attrs),
                    tag: serde_word(&item.attrs, "tag"),
                    ..Table::default()
                }
            }
        };
        self.tables.insert(full.clone(), table);
        full
    }

    fn keys(&mut self, scope: &Scope, fields: &Fields, defaults: &Defaults<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for field in fields {
            let words = serde_words(&field.attrs);
            let Some(ident) = &field.ident else { continue };
            if words.iter().any(|(word, _)| word == "skip") || ident == "outside" {
                continue;
            }
            keys.push(self.key(scope, field, &ident.to_string(), defaults));
        }
        keys
    }

    fn key(&mut self, scope: &Scope, field: &Field, ident: &str, defaults: &Defaults<'_>) -> Key {
        let words = serde_words(&field.attrs);
        let word = |word: &str| words.iter().find(|(own, _)| own == word).map(|(_, v)| v);
        let seen = self.seen(scope, &field.ty, &field.attrs);
        let default = defaults.of(&scope.module, ident, &field.ty, seen.optional, &words);
        let mut doc = self.doc(&field.attrs);
        if let Some(table) = seen.of.as_ref().and_then(|of| self.tables.get(of))
            && doc.is_empty()
        {
            doc.clone_from(&table.doc);
        }
        let name = word("rename").cloned().flatten();
        let flat = words.iter().any(|(word, _)| word == "flatten");
        let tag = seen.of.as_ref().and_then(|of| self.tables[of].tag.clone());
        Key {
            // A table whose keys stand among those of the other is named by what says which it is.
            name: match (name, flat, tag) {
                (Some(name), ..) | (None, true, Some(name)) => name,
                _ => ident.to_owned(),
            },
            kind: seen.words,
            default,
            doc,
            of: seen.of,
            list: seen.list,
        }
    }

    fn seen(&mut self, scope: &Scope, ty: &Type, attrs: &[Attribute]) -> Seen {
        let plain = |words: &str| Seen {
            words: words.to_owned(),
            ..Seen::default()
        };
        let path = match ty {
            Type::Path(path) => &path.path,
            Type::Array(array) => {
                let length = values::length(&array.len);
                let inner = self.seen(scope, &array.elem, &[]);
                return plain(&format!("list of {length} {}", many(&inner.words)));
            }
            other => panic!(
                "{:?}: a type that is not understood: {other:?}",
                scope.module
            ),
        };
        let last = path.segments.last().expect("invariant: a path has a name");
        let name = last.ident.to_string();
        let inside: Vec<&Type> = match &last.arguments {
            PathArguments::AngleBracketed(given) => given
                .args
                .iter()
                .filter_map(|argument| match argument {
                    GenericArgument::Type(ty) => Some(ty),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        if let Some((_, (module, ty))) = scope.generics.iter().find(|(own, _)| *own == name) {
            let scope = Scope {
                module: module.clone(),
                generics: Vec::new(),
            };
            return self.seen(&scope, ty, attrs);
        }
        match (name.as_str(), &inside[..]) {
            ("bool", _) => plain("true or false"),
            ("usize" | "u64" | "u32" | "u8" | "i64" | "i32", _) => plain("whole number"),
            ("f64" | "f32", _) => plain("number"),
            ("String", _) => plain("text"),
            ("PathBuf", _) => plain("path"),
            ("Option", [inner]) => Seen {
                optional: true,
                ..self.seen(scope, inner, attrs)
            },
            ("Vec", [inner]) => {
                let inner = self.seen(scope, inner, &[]);
                let one = serde_word(attrs, "deserialize_with");
                let or_one = one.is_some_and(|reader| reader == "one_or_many");
                let one = if or_one {
                    format!("{} or ", inner.words)
                } else {
                    String::new()
                };
                Seen {
                    words: format!("{one}list of {}", many(&inner.words)),
                    list: inner.of.is_some(),
                    ..inner
                }
            }
            ("BTreeMap", [_, inner]) => {
                let inner = self.seen(scope, inner, &[]);
                Seen {
                    words: format!("table of {}", many(&inner.words)),
                    ..inner
                }
            }
            _ => self.named(scope, path, &inside),
        }
    }

    /// A type of the workspace.
    fn named(&mut self, scope: &Scope, path: &syn::Path, inside: &[&Type]) -> Seen {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        let found = self.sources.find(&scope.module, &names);
        if let Item::Alias(alias) = found.item {
            let scope = Scope {
                module: found.module.clone(),
                generics: Vec::new(),
            };
            return self.seen(&scope, alias, &[]);
        }
        let given = inside
            .iter()
            .map(|ty| (scope.module.clone(), (*ty).clone()));
        let given: Vec<(Module, Type)> = given.collect();
        let last = names.last().cloned().unwrap_or_default();
        let module = found.module.clone();
        let of = self.table(&module, &last, &given);
        let words = words(found.item);
        Seen {
            words,
            of: Some(of),
            ..Seen::default()
        }
    }

    fn doc(&self, attrs: &[Attribute]) -> String {
        self.sources.plain(&docs(attrs))
    }
}

/// Where a type is written, and what its parameters stand for.
struct Scope {
    module: Module,
    generics: Vec<(String, (Module, Type))>,
}

/// What a type of the workspace is, in words.
fn words(item: Item<'_>) -> String {
    let Item::Enum(item) = item else {
        return "table".to_owned();
    };
    let plain = item
        .variants
        .iter()
        .filter(|v| v.ident != OUTSIDE)
        .all(|v| matches!(v.fields, Fields::Unit));
    match (plain, serde_word(&item.attrs, "tag")) {
        (true, _) => "name".to_owned(),
        (false, Some(tag)) => format!("table with `{tag}`"),
        (false, None) => "name or table".to_owned(),
    }
}

fn last_name(ty: &Type) -> String {
    match ty {
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.map(|s| s.ident.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The plural of a type in words.
fn many(words: &str) -> String {
    match words {
        "true or false" => "true or false".to_owned(),
        "text" => "texts".to_owned(),
        "path" => "paths".to_owned(),
        _ => match words.split_once(' ') {
            Some((first, rest)) if first == "table" || first == "name" || first == "list" => {
                format!("{first}s {rest}")
            }
            _ => format!("{words}s"),
        },
    }
}
