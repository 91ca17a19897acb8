//! The items of the crates: types, constants, functions and defaults, with macros over lists expanded.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, Ident, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ImplItem, ItemEnum, ItemMacro, ItemStruct, Lit, Meta, Stmt, Type, UseTree,
    Variant,
};

/// The path of a module, the crate first.
pub(super) type Module = Vec<String>;

/// A type of the workspace.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    Struct(&'a ItemStruct),
    Enum(&'a ItemEnum),
    /// Another name of a type.
    Alias(&'a Type),
}

/// A type with the module that it is written in.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub module: &'a Module,
    pub item: Item<'a>,
}

/// What is written in a module.
#[derive(Default)]
struct Written {
    structs: Vec<ItemStruct>,
    enums: Vec<ItemEnum>,
    aliases: Vec<syn::ItemType>,
    /// What constants and functions without arguments give.
    gives: HashMap<String, Expr>,
    /// What `Default::default` gives, by type.
    defaults: HashMap<String, Expr>,
    /// Names with the paths that they are used by.
    uses: HashMap<String, Vec<String>>,
}

/// All that is written in the crates.
pub(super) struct Sources {
    modules: BTreeMap<Module, Written>,
}

/// The macro that holds the list of data sources.
const SOURCES: &str = "sources";
/// The macro that makes `DataConfig` of it.
const DATA: &str = "data_config";
/// The macro that makes `AnySource` of it.
const ANY: &str = "any_source";
/// The macro that makes `ObjectivesConfig`, and is called with its list.
const OBJECTIVES: &str = "objectives";

impl Sources {
    /// Reads all files of these crates.
    pub(super) fn read(root: &Path, crates: &[&str]) -> Self {
        let mut sources = Self {
            modules: BTreeMap::new(),
        };
        let mut rules: HashMap<String, (Module, ItemMacro)> = HashMap::new();
        let mut calls: Vec<(Module, ItemMacro)> = Vec::new();
        for name in crates {
            let src = root.join(format!("crates/unimo-{name}/src"));
            let mut files = Vec::new();
            rust_files(&src, &mut files);
            for file in files {
                let module = module_of(&src, &file, &format!("unimo_{name}"));
                let text = fs::read_to_string(&file)
                    .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                let parsed = syn::parse_file(&text)
                    .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                for item in parsed.items {
                    match item {
                        syn::Item::Macro(item) => match &item.ident {
                            Some(ident) => {
                                rules.insert(ident.to_string(), (module.clone(), item));
                            }
                            None => calls.push((module.clone(), item)),
                        },
                        item => sources.add(&module, item),
                    }
                }
            }
        }
        sources.expand(&rules, &calls);
        sources
    }

    /// Adds what the macros over the lists of sources and objectives make.
    fn expand(
        &mut self,
        rules: &HashMap<String, (Module, ItemMacro)>,
        calls: &[(Module, ItemMacro)],
    ) {
        let (_, list) = &rules[SOURCES];
        let list = entries_of_sources(body(&list.mac.tokens));
        for name in [DATA, ANY] {
            let (module, item) = &rules[name];
            self.add_all(module, transcribe(body(&item.mac.tokens), &list, None));
        }
        let called = |(_, call): &&(Module, ItemMacro)| call.mac.path.is_ident(OBJECTIVES);
        let (module, call) = calls
            .iter()
            .find(called)
            .expect("the list of objectives is there");
        let list = entries_of_objectives(call.mac.tokens.clone());
        let (_, item) = &rules[OBJECTIVES];
        self.add_all(module, transcribe(body(&item.mac.tokens), &list, None));
    }

    fn add_all(&mut self, module: &Module, tokens: TokenStream) {
        let file: syn::File =
            syn::parse2(tokens).unwrap_or_else(|error| panic!("{}: {error}", module.join("::")));
        for item in file.items {
            self.add(module, item);
        }
    }

    fn add(&mut self, module: &Module, item: syn::Item) {
        let written = self.modules.entry(module.clone()).or_default();
        match item {
            syn::Item::Struct(item) => written.structs.push(item),
            syn::Item::Enum(item) => written.enums.push(item),
            syn::Item::Type(item) => written.aliases.push(item),
            syn::Item::Const(item) => {
                written.gives.insert(item.ident.to_string(), *item.expr);
            }
            syn::Item::Fn(item) => {
                if let [Stmt::Expr(expr, None)] = &item.block.stmts[..] {
                    written
                        .gives
                        .insert(item.sig.ident.to_string(), expr.clone());
                }
            }
            syn::Item::Impl(item) => {
                let of = item
                    .trait_
                    .as_ref()
                    .map(|(path, _)| path.is_ident("Default"));
                let Type::Path(own) = &*item.self_ty else {
                    return;
                };
                let Some(own) = own.path.get_ident() else {
                    return;
                };
                for inner in item.items {
                    match inner {
                        ImplItem::Fn(inner) if of == Some(true) => {
                            if let [Stmt::Expr(expr, None)] = &inner.block.stmts[..] {
                                written.defaults.insert(own.to_string(), expr.clone());
                            }
                        }
                        ImplItem::Const(inner) => {
                            let name = format!("{own}::{}", inner.ident);
                            written.gives.insert(name, inner.expr);
                        }
                        _ => {}
                    }
                }
            }
            syn::Item::Use(item) => uses(&item.tree, &mut Vec::new(), &mut written.uses),
            _ => {}
        }
    }

    /// A type by its path as it is written in a module.
    pub(super) fn find(&self, from: &Module, path: &[String]) -> Found<'_> {
        let name = path.last().expect("invariant: a path has a name");
        let found = self.best(from, path, |written| {
            let of_struct = written.structs.iter().find(|item| item.ident == *name);
            let of_enum = written.enums.iter().find(|item| item.ident == *name);
            let of_alias = written.aliases.iter().find(|item| item.ident == *name);
            let of_alias = of_alias.map(|item| Item::Alias(&item.ty));
            of_struct
                .map(Item::Struct)
                .or(of_enum.map(Item::Enum))
                .or(of_alias)
        });
        let (module, item) = found.unwrap_or_else(|| panic!("{}: no type {name}", from.join("::")));
        Found { module, item }
    }

    /// The enumerations that are written in a module.
    pub(super) fn enums_of(&self, module: &Module) -> impl Iterator<Item = &ItemEnum> {
        self.modules
            .get(module)
            .into_iter()
            .flat_map(|written| &written.enums)
    }

    /// What a constant or a function without arguments gives.
    pub(super) fn given(&self, from: &Module, path: &[String]) -> Option<(Module, &Expr)> {
        let short = path.last()?;
        let long = path[path.len().saturating_sub(2)..].join("::");
        let found = self.best(from, path, |written| {
            written
                .gives
                .get(&long)
                .or_else(|| written.gives.get(short))
        });
        found.map(|(module, expr)| (module.clone(), expr))
    }

    /// What `Default::default` of a type gives, if it is written out.
    pub(super) fn default_of(&self, module: &Module, name: &str) -> Option<&Expr> {
        self.modules.get(module)?.defaults.get(name)
    }

    /// What a path means: in its own module, else in the module that it leads to, else in the only one that has it.
    fn best<'a, T: 'a>(
        &'a self,
        from: &Module,
        path: &[String],
        find: impl Fn(&'a Written) -> Option<T>,
    ) -> Option<(&'a Module, T)> {
        let first = path.first()?;
        let used = self.modules.get(from).and_then(|own| own.uses.get(first));
        let full: Vec<&String> = match used {
            Some(used) => used.iter().chain(&path[1..]).collect(),
            None => path.iter().collect(),
        };
        let own = from.first()?.as_str();
        let crate_ = match full.first().map(|name| name.as_str()) {
            Some("crate" | "super" | "self") => own,
            Some(name) if name.starts_with("unimo_") => name,
            _ => own,
        };
        let likeness = |module: &Module| {
            let inside = full.iter().filter(|name| module.contains(name)).count();
            (
                module == from && path.len() == 1,
                module.first().is_some_and(|name| name == crate_),
                inside,
            )
        };
        let all = self.modules.iter();
        let all = all.filter_map(|(module, written)| Some((module, find(written)?)));
        all.max_by_key(|(module, _)| likeness(module))
    }

    /// A doc comment for readers of recipes: without links, values under the names that they have in a recipe.
    pub(super) fn plain(&self, doc: &str) -> String {
        let mut text = String::new();
        let mut rest = doc;
        while let Some(at) = rest.find('[') {
            text += &rest[..at];
            rest = &rest[at..];
            let link = rest.find(']').map(|end| (&rest[1..end], &rest[end + 1..]));
            let Some((name, behind)) = link.filter(|(name, _)| is_link(name, rest)) else {
                text.push('[');
                rest = &rest[1..];
                continue;
            };
            text += &self.value_name(name);
            rest = match behind.strip_prefix('(').and_then(|b| b.split_once(')')) {
                Some((_, behind)) => behind,
                None => behind,
            };
        }
        text += rest;
        text.replace("`None`", "absent")
    }

    /// `Enum::Variant` as the value in a recipe.
    fn value_name(&self, name: &str) -> String {
        let inner = name.trim_matches('`');
        let Some((of, variant)) = inner.rsplit_once("::") else {
            return name.to_owned();
        };
        let enums = self.modules.values().flat_map(|written| &written.enums);
        let mut variants = enums
            .filter(|item| item.ident == of)
            .flat_map(|item| item.variants.iter().map(move |v| (item, v)));
        match variants.find(|(_, v)| v.ident == variant) {
            Some((item, variant)) => format!("`{}`", variant_name(item, variant)),
            None => name.to_owned(),
        }
    }
}

/// Whether square brackets in a doc comment are a link: `` [`Type`] `` or `[words](target)`.
fn is_link(name: &str, rest: &str) -> bool {
    let behind = &rest[(name.len() + 2).min(rest.len())..];
    (name.starts_with('`') && name.ends_with('`') && name.len() > 2) || behind.starts_with('(')
}

/// The text of the doc comments, lines joined.
pub(super) fn docs(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// The words of `#[serde(...)]` with their values.
pub(super) fn serde_words(attrs: &[Attribute]) -> Vec<(String, Option<String>)> {
    let mut words = Vec::new();
    for attribute in attrs.iter().filter(|a| a.path().is_ident("serde")) {
        let parsed = attribute.parse_nested_meta(|meta| {
            let word = meta.path.get_ident().map(ToString::to_string);
            let value = match meta.value() {
                Ok(value) => Some(value.parse::<syn::LitStr>()?.value()),
                Err(_) => None,
            };
            words.extend(word.map(|word| (word, value)));
            Ok(())
        });
        parsed.unwrap_or_else(|error| panic!("an attribute that is not understood: {error}"));
    }
    words
}

/// The value of a word of `#[serde(...)]`.
pub(super) fn serde_word(attrs: &[Attribute], word: &str) -> Option<String> {
    let words = serde_words(attrs).into_iter();
    words.filter(|(own, _)| own == word).find_map(|(_, v)| v)
}

/// The name of a variant in a recipe.
pub(super) fn variant_name(item: &ItemEnum, variant: &Variant) -> String {
    if let Some(name) = serde_word(&variant.attrs, "rename") {
        return name;
    }
    let name = variant.ident.to_string();
    match serde_word(&item.attrs, "rename_all").as_deref() {
        None if is_derived(item) => name,
        // What is read by hand is named as everything else.
        None | Some("snake_case") => {
            let mut snake = String::new();
            for character in name.chars() {
                if character.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(character.to_lowercase());
            }
            snake
        }
        Some("lowercase") => name.to_lowercase(),
        Some(other) => panic!("{}: rename_all = {other:?} is not understood", item.ident),
    }
}

/// Whether serde's macros read it.
fn is_derived(item: &ItemEnum) -> bool {
    item.attrs.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("derive") => {
            list.tokens.to_string().contains("Deserialize")
        }
        _ => false,
    })
}

fn uses(tree: &UseTree, path: &mut Vec<String>, found: &mut HashMap<String, Vec<String>>) {
    match tree {
        UseTree::Path(tree) => {
            path.push(tree.ident.to_string());
            uses(&tree.tree, path, found);
            path.pop();
        }
        UseTree::Name(tree) => {
            let name = tree.ident.to_string();
            let mut full = path.clone();
            if name == "self" {
                found.extend(path.last().map(|last| (last.clone(), path.clone())));
            } else {
                full.push(name.clone());
                found.insert(name, full);
            }
        }
        UseTree::Rename(tree) => {
            let mut full = path.clone();
            full.push(tree.ident.to_string());
            found.insert(tree.rename.to_string(), full);
        }
        UseTree::Group(tree) => {
            for tree in &tree.items {
                uses(tree, path, found);
            }
        }
        UseTree::Glob(_) => {}
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{error}")).path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

fn module_of(src: &Path, file: &Path, name: &str) -> Module {
    let inside = file.strip_prefix(src).unwrap_or(file).with_extension("");
    let parts = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    let mut module: Module = std::iter::once(name.to_owned()).chain(parts).collect();
    if module
        .last()
        .is_some_and(|last| ["lib", "mod", "main"].contains(&last.as_str()))
    {
        module.pop();
    }
    module
}

/// An entry of a list that a macro is called with: what its variables stand for.
struct Entry {
    variables: HashMap<&'static str, TokenStream>,
}

/// What a macro makes: the braces behind the first `=>`.
fn body(rules: &TokenStream) -> TokenStream {
    let groups = rules.clone().into_iter().filter_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group.stream()),
        _ => None,
    });
    let mut groups = groups;
    groups.next().expect("a macro has a body")
}

/// `#[doc] key Variant(config);`, inside `$make! { ... }`.
fn entries_of_sources(body: TokenStream) -> Vec<Entry> {
    let list = body.into_iter().find_map(|token| match token {
        TokenTree::Group(group) => Some(group.stream()),
        _ => None,
    });
    let list = list.expect("the list of sources is in braces");
    let mut entries = Vec::new();
    let mut doc = TokenStream::new();
    let mut idents: Vec<Ident> = Vec::new();
    for token in list {
        match token {
            TokenTree::Ident(ident) => idents.push(ident),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => {
                let [key, variant] = &idents[..] else {
                    panic!("an entry of a source is KEY VARIANT(CONFIG), not {idents:?}")
                };
                let one = |ident: &Ident| TokenStream::from(TokenTree::Ident(ident.clone()));
                entries.push(Entry {
                    variables: HashMap::from([
                        ("doc", std::mem::take(&mut doc)),
                        ("key", one(key)),
                        ("variant", one(variant)),
                        ("config", transcribe(group.stream(), &[], None)),
                    ]),
                });
                idents.clear();
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => {}
            other => doc.extend([other]),
        }
    }
    entries
}

/// `key: config;`
fn entries_of_objectives(list: TokenStream) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut tokens = list.into_iter();
    while let Some(key) = tokens.next() {
        // The colon.
        tokens.next();
        let end = |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ';');
        let config: TokenStream = tokens.by_ref().take_while(|token| !end(token)).collect();
        entries.push(Entry {
            variables: HashMap::from([
                ("doc", TokenStream::new()),
                ("key", TokenStream::from(key)),
                ("config", config),
            ]),
        });
    }
    entries
}

/// Puts the entries in place of `$(...)*`, and what the variables of one stand for in place of `$name`.
fn transcribe(tokens: TokenStream, entries: &[Entry], one: Option<&Entry>) -> TokenStream {
    let mut made = TokenStream::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '$' => match tokens.next() {
                Some(TokenTree::Group(group)) => {
                    let mut separator = None;
                    for token in tokens.by_ref() {
                        match token {
                            TokenTree::Punct(p) if ['*', '+'].contains(&p.as_char()) => break,
                            other => separator = Some(other),
                        }
                    }
                    match one {
                        // Inside of an entry only its attributes repeat.
                        Some(entry) => made.extend(entry.variables["doc"].clone()),
                        None => {
                            for (at, entry) in entries.iter().enumerate() {
                                if at > 0 {
                                    made.extend(separator.clone());
                                }
                                made.extend(transcribe(group.stream(), entries, Some(entry)));
                            }
                        }
                    }
                }
                Some(TokenTree::Ident(ident)) => {
                    let name = ident.to_string();
                    let variable = one.and_then(|entry| entry.variables.get(name.as_str()));
                    match variable {
                        Some(stands_for) => made.extend(stands_for.clone()),
                        // `$crate`
                        None => made.extend([TokenTree::Ident(ident)]),
                    }
                }
                other => made.extend(other),
            },
            TokenTree::Group(group) => {
                let inside = transcribe(group.stream(), entries, one);
                made.extend([TokenTree::Group(Group::new(group.delimiter(), inside))]);
            }
            other => made.extend([other]),
        }
    }
    made
}
