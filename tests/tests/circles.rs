//! No circle of files inside a crate: a file can be read, tested and moved without all others.
//!
//! A file uses another where a path in its code leads there: `use crate::a::B`, `super::b`, `crate::c::d()` in the middle of a line, or
//! the name of a module inside it. What a module hands on with `pub use` is used where it is written. Code for tests does not count.
//! A module and what lies inside it may use each other; two files beside each other may not, and nobody else may stand between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use toml::Table;

/// Crates with circles that are known, and the files of the largest one. The number must shrink and the line go.
const KNOWN: &[(&str, usize)] = &[];

#[test]
fn no_circle_of_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the workspace");
    let mut wrong = Vec::new();
    for member in members(root) {
        let circles = circles(&read_crate(&root.join(&member).join("src")));
        let known = KNOWN.iter().find(|(name, _)| *name == member);
        let known = known.map_or(0, |(_, files)| *files);
        let largest = circles.iter().map(|circle| circle.files.len()).max();
        let largest = largest.unwrap_or_default();
        if largest > known {
            wrong.extend(circles.iter().map(|circle| circle.told(&member)));
        } else if largest < known {
            wrong.push(format!(
                "{member}: the largest circle has {largest} files, so say {largest} instead of {known} in `KNOWN`"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The folders of the crates.
fn members(root: &Path) -> Vec<String> {
    let path = root.join("Cargo.toml");
    let manifest: Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let folders = members
        .iter()
        .map(|member| member.as_str().unwrap().to_owned());
    folders.collect()
}

/// The path of a module from the crate's root.
type Module = Vec<String>;

/// A path as code spells it, made absolute, with the file and the line where it stands.
struct Use {
    from: Module,
    line: usize,
    path: Module,
}

/// The code of one crate.
#[derive(Default)]
struct Code {
    /// Where each module is written: modules in braces are in the file of the module around them.
    modules: BTreeMap<Module, Module>,
    uses: Vec<Use>,
    /// What modules hand on: by module and name, the path that it stands for.
    exports: BTreeMap<(Module, String), Module>,
}

/// Files that use each other.
struct Circle {
    files: Vec<Module>,
    /// The lines that make it.
    lines: Vec<String>,
}

impl Circle {
    fn told(&self, member: &str) -> String {
        let files: Vec<String> = self.files.iter().map(|file| shown(file)).collect();
        format!(
            "{member}: a circle of {} files: {}\n    {}",
            files.len(),
            files.join(", "),
            self.lines.join("\n    ")
        )
    }
}

fn shown(module: &[String]) -> String {
    if module.is_empty() {
        "the root".to_owned()
    } else {
        module.join("::")
    }
}

/// Reads all Rust files of a crate.
fn read_crate(src: &Path) -> Code {
    let mut files = Vec::new();
    rust_files(src, &mut files);
    let mut texts = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(src).unwrap();
        let mut module: Module = inside
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        // A program beside a library uses it as anybody does.
        let root = ["lib", "main"].contains(&module[0].as_str()) && module.len() == 1;
        if (module == ["main"] && src.join("lib.rs").exists()) || module[0] == "bin" {
            continue;
        }
        if root || module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        texts.insert(module, fs::read_to_string(&file).unwrap());
    }
    of_texts(&texts)
}

fn of_texts(texts: &BTreeMap<Module, String>) -> Code {
    let mut code = Code::default();
    let mut for_tests = BTreeSet::new();
    // Modules first: what a path means depends on which there are.
    let mut open = Vec::new();
    for (file, text) in texts {
        let tokens: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", shown(file)));
        code.modules.insert(file.clone(), file.clone());
        let tokens = without_tests(tokens, file, &mut for_tests);
        modules_in(&tokens, file, file, &mut code.modules);
        open.push((file, tokens));
    }
    let is_test = |module: &[String]| for_tests.iter().any(|test| module.starts_with(test));
    code.modules.retain(|module, _| !is_test(module));
    for (file, tokens) in open.into_iter().filter(|(file, _)| !is_test(file)) {
        uses_in(&tokens, file, &mut code);
    }
    code
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

// Reading tokens

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, ...))]`.
fn is_for_tests(attribute: &Group) -> bool {
    let text = attribute.stream().to_string().replace(' ', "");
    text == "test" || text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// The tokens that are no code for tests, and the modules in other files that are.
fn without_tests(
    stream: TokenStream,
    module: &[String],
    for_tests: &mut BTreeSet<Module>,
) -> Vec<TokenTree> {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut kept: Vec<TokenTree> = Vec::new();
    let mut skipping = false;
    for (at, token) in tokens.iter().enumerate() {
        let attribute = match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                is_punct(at.checked_sub(1).map(|before| &tokens[before]), '#').then_some(group)
            }
            _ => None,
        };
        if attribute.is_some_and(is_for_tests) {
            skipping = true;
            continue;
        }
        if !skipping {
            kept.push(match token {
                TokenTree::Group(group) => {
                    let inside = without_tests(group.stream(), module, for_tests);
                    let mut copy = Group::new(group.delimiter(), inside.into_iter().collect());
                    copy.set_span(group.span());
                    copy.into()
                }
                other => other.clone(),
            });
            continue;
        }
        if let (Some("mod"), Some(name), true) = (
            ident(Some(token)).as_deref(),
            ident(tokens.get(at + 1)),
            is_punct(tokens.get(at + 2), ';'),
        ) {
            for_tests.insert([module, &[name]].concat());
        }
        let ends = match token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            _ => is_punct(Some(token), ';'),
        };
        skipping = !ends;
    }
    kept
}

/// `mod name { ... }` and what is inside.
fn modules_in(
    tokens: &[TokenTree],
    module: &[String],
    file: &[String],
    modules: &mut BTreeMap<Module, Module>,
) {
    for at in 0..tokens.len() {
        if let Some((name, inside)) = inline_module(&tokens[at..]) {
            let path = [module, &[name]].concat();
            modules.insert(path.clone(), file.to_vec());
            modules_in(&inside, &path, file, modules);
        }
    }
}

fn inline_module(tokens: &[TokenTree]) -> Option<(String, Vec<TokenTree>)> {
    match tokens {
        [
            TokenTree::Ident(word),
            TokenTree::Ident(name),
            TokenTree::Group(group),
            ..,
        ] if word == "mod" && group.delimiter() == Delimiter::Brace => {
            Some((name.to_string(), group.stream().into_iter().collect()))
        }
        _ => None,
    }
}

/// Collects the paths in code and what it hands on.
fn uses_in(tokens: &[TokenTree], module: &[String], code: &mut Code) {
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if let Some((name, inside)) = inline_module(&tokens[at..]) {
            uses_in(&inside, &[module, &[name]].concat(), code);
            at += 3;
            continue;
        }
        match token {
            TokenTree::Ident(word) if word == "use" => {
                let line = word.span().start().line;
                let rest = tokens[at + 1..].iter();
                let tree: Vec<TokenTree> = rest
                    .take_while(|token| !is_punct(Some(token), ';'))
                    .cloned()
                    .collect();
                at += tree.len();
                for (path, name) in spread(&tree) {
                    // A `use` that is not public hands on to the modules inside, so all are kept.
                    if let Some(path) = absolute(&path, module, code) {
                        let key = (module.to_vec(), name);
                        code.exports.entry(key).or_insert_with(|| path.clone());
                        code.uses.push(Use {
                            from: module.to_vec(),
                            line,
                            path,
                        });
                    }
                }
            }
            TokenTree::Ident(word)
                if !is_punct(at.checked_sub(1).map(|before| &tokens[before]), ':') =>
            {
                let line = word.span().start().line;
                let mut path = vec![word.to_string()];
                while is_punct(tokens.get(at + 1), ':')
                    && is_punct(tokens.get(at + 2), ':')
                    && let Some(next) = ident(tokens.get(at + 3))
                {
                    path.push(next);
                    at += 3;
                }
                if path.len() > 1
                    && let Some(path) = absolute(&path, module, code)
                {
                    code.uses.push(Use {
                        from: module.to_vec(),
                        line,
                        path,
                    });
                }
            }
            TokenTree::Group(group) => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                uses_in(&inside, module, code);
            }
            _ => {}
        }
        at += 1;
    }
}

/// Every path of a `use`, with the name that it gets.
fn spread(tree: &[TokenTree]) -> Vec<(Module, String)> {
    let mut path = Module::new();
    for (at, token) in tree.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "as" => {
                let name = ident(tree.get(at + 1)).unwrap_or_default();
                return vec![(path, name)];
            }
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Group(group) => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                let parts = inside.split(|token| is_punct(Some(token), ','));
                let parts = parts.filter(|part| !part.is_empty());
                return parts
                    .flat_map(spread)
                    .map(|(inside, name)| {
                        let inside = inside.into_iter().filter(|part| part != "self");
                        let whole: Module = path.iter().cloned().chain(inside).collect();
                        let name = if name == "self" {
                            whole.last().cloned().unwrap_or_default()
                        } else {
                            name
                        };
                        (whole, name)
                    })
                    .collect();
            }
            _ => {}
        }
    }
    let name = path.last().cloned().unwrap_or_default();
    vec![(path, name)]
}

/// A path from the crate's root; none where it leads out of the crate.
fn absolute(path: &[String], module: &[String], code: &Code) -> Option<Module> {
    let (first, mut rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Module::new(),
        "self" => module.to_vec(),
        "super" => module.split_last()?.1.to_vec(),
        name => {
            let inside = [module, &[name.to_owned()]].concat();
            code.modules.get(&inside)?;
            inside
        }
    };
    while let Some((_, after)) = rest.split_first().filter(|(part, _)| *part == "super") {
        base.pop();
        rest = after;
    }
    Some([&base, rest].concat())
}

// Circles

impl Code {
    /// The file that a path leads to, through what modules hand on.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&Module> {
        let mut module = Module::new();
        for (at, part) in path.iter().enumerate() {
            let inside = [&module[..], std::slice::from_ref(part)].concat();
            if self.modules.contains_key(&inside) {
                module = inside;
                continue;
            }
            let handed_on = self.exports.get(&(module.clone(), part.clone()));
            if let Some(target) = handed_on.filter(|_| depth > 0) {
                return self.file_of(&[target, &path[at + 1..]].concat(), depth - 1);
            }
            break;
        }
        self.modules.get(&module)
    }

    /// Which files each file uses, with the lines.
    fn graph(&self) -> BTreeMap<&Module, BTreeMap<&Module, Vec<String>>> {
        /// Modules that a name is handed on by, one after the other.
        const DEPTH: usize = 8;
        let mut graph: BTreeMap<_, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        for one in &self.uses {
            let from = &self.modules[&one.from];
            if let Some(to) = self.file_of(&one.path, DEPTH)
                && to != from
            {
                let told = format!("{}:{}: {}", shown(from), one.line, one.path.join("::"));
                let lines = graph.entry(from).or_default().entry(to).or_default();
                if !lines.contains(&told) {
                    lines.push(told);
                }
            }
        }
        graph
    }
}

/// Whether one module is inside of the other.
fn related(a: &[String], b: &[String]) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// All circles that are more than a module and what lies inside it.
fn circles(code: &Code) -> Vec<Circle> {
    let graph = code.graph();
    let edges = |with_related: bool| -> BTreeMap<&Module, BTreeSet<&Module>> {
        let kept = |from: &Module, to: &&Module| with_related || !related(from, to);
        graph
            .iter()
            .map(|(from, to)| {
                (
                    *from,
                    to.keys().copied().filter(|to| kept(from, to)).collect(),
                )
            })
            .collect()
    };
    let mut found = knots(&edges(true));
    found.retain(|knot| {
        let family = |head: &&&Module| knot.iter().all(|file| file.starts_with(head));
        !knot.iter().any(|head| family(&head))
    });
    for knot in knots(&edges(false)) {
        if !found.iter().any(|known| knot.is_subset(known)) {
            found.push(knot);
        }
    }
    let circle = |knot: BTreeSet<&Module>| Circle {
        lines: knot
            .iter()
            .flat_map(|from| graph.get(from))
            .flatten()
            .filter(|(to, _)| knot.contains(*to))
            .flat_map(|(_, lines)| lines.clone())
            .collect(),
        files: knot.into_iter().cloned().collect(),
    };
    found.into_iter().map(circle).collect()
}

/// Files each of which reaches all others (the strongly connected components of more than one).
fn knots<'a>(edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> Vec<BTreeSet<&'a Module>> {
    let reach = |from: &'a Module| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            for next in edges.get(file).into_iter().flatten() {
                if seen.insert(*next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|file| (*file, reach(file))).collect();
    let mut knots = BTreeSet::new();
    for (file, all) in &reached {
        let back = |other: &&&Module| {
            let from = reached.get(*other);
            from.is_some_and(|from| from.contains(file))
        };
        let mut knot: BTreeSet<&Module> = all.iter().filter(back).copied().collect();
        knot.insert(*file);
        if knot.len() > 1 {
            knots.insert(knot);
        }
    }
    knots.into_iter().collect()
}

// The check on examples

/// The circles of a crate with these modules, each as its files.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let texts = files.iter().map(|(module, text)| {
        let module = module.split("::").filter(|part| !part.is_empty());
        (module.map(str::to_owned).collect(), (*text).to_owned())
    });
    let circles = circles(&of_texts(&texts.collect()));
    let files = |circle: &Circle| {
        let files: Vec<String> = circle.files.iter().map(|file| shown(file)).collect();
        files.join(" ")
    };
    circles.iter().map(files).collect()
}

#[test]
fn a_circle_is_found_however_it_is_spelt() {
    let b = ("b", "use crate::a::A;");
    for a in [
        "use crate::b::B;",
        "use super::b::B;",
        "use crate::{b::{self, B}, c};",
        "fn a() { let x = crate::b::make(); }",
        "type A = Vec<super::b::B>;",
        "mod inside { use crate::b::B; }",
        "mod inside { use super::super::b::B; }",
        "macro_rules! a { () => { $crate::b::B }; }",
        "use crate::B;",
    ] {
        assert_eq!(found(&[("", "pub use b::B;"), ("a", a), b]), ["a b"], "{a}");
    }
    for a in [
        "",
        "use crate::c::C;",
        "use std::b::B;",
        "// use crate::b::B;",
        "/// [`crate::b::B`]\nstruct A;",
        "#[cfg(test)]\nmod tests { use crate::b::B; }",
        "#[cfg(test)]\nuse crate::b::B;\nuse crate::c::C;",
        "#[test]\nfn a() { crate::b::make() }",
    ] {
        assert!(
            found(&[("", "pub use b::B;"), ("a", a), b]).is_empty(),
            "{a}"
        );
    }
    let circle = [
        ("", ""),
        ("a", "use crate::b::B;"),
        ("b", "use crate::c::C;"),
        ("c", "use crate::a::A;"),
    ];
    assert_eq!(found(&circle), ["a b c"]);
    // A file of tests is code for tests.
    let tests = [
        ("a", "#[cfg(test)]\nmod tests;"),
        ("a::tests", "use crate::b::B;"),
        b,
    ];
    assert!(found(&tests).is_empty());
}

#[test]
fn a_module_and_what_is_inside_it_may_use_each_other() {
    let parent = ("a", "mod x;\nmod y;\nuse x::X;\nuse y::Y;");
    let child = ("a::x", "use super::A;");
    assert!(found(&[parent, child]).is_empty());
    // Not two children, and nobody in between.
    let other = ("a::y", "use super::x::X;");
    assert!(found(&[parent, child, other]).is_empty());
    let back = ("a::x", "use super::y::Y;");
    assert_eq!(found(&[parent, back, other]), ["a::x a::y"]);
    let between = ("b", "use crate::a::x::X;");
    let parent = ("a", "mod x;\nuse crate::b::B;");
    assert_eq!(found(&[parent, child, between]), ["a a::x b"]);
}

#[test]
fn the_lines_that_make_it_are_told() {
    let texts = [
        ("a", "use std::io;\nuse crate::b::B;"),
        ("b", "\n\nfn b() { super::a::a() }"),
    ];
    let texts = texts.map(|(module, text)| (vec![module.to_owned()], text.to_owned()));
    let circles = circles(&of_texts(&texts.into_iter().collect()));
    let told = circles[0].told("crates/x");
    assert_eq!(
        told,
        "crates/x: a circle of 2 files: a, b\n    a:2: b::B\n    b:3: a::a"
    );
}
