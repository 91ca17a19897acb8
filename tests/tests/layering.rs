//! The structure of the workspace: who may depend on whom, and the rules that no compiler enforces.
//!
//! Every check takes the folder to look at and returns what it found, so that it can be tried on a bad example too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, Literal, TokenStream, TokenTree};
use toml::{Table, Value};

/// One crate and what it may use of the workspace, of burn and of others.
struct Layer {
    name: &'static str,
    uses: &'static [&'static str],
    burn: bool,
    /// All that it may use of others; `None` where anything is allowed.
    others: Option<&'static [&'static str]>,
}

/// The dependency directions: batch <- core <- encoders <- objectives <- train, batch and phrases <- data <- train, eval <- train,
/// report <- train <- dev. Data, objectives, eval and report never see each other.
const LAYERS: &[Layer] = &[
    // Who only fills or reads batches builds nothing else.
    Layer {
        name: "unimo-batch",
        uses: &[],
        burn: false,
        others: Some(&["serde"]),
    },
    Layer {
        name: "unimo-core",
        uses: &["unimo-batch"],
        burn: true,
        others: None,
    },
    Layer {
        name: "unimo-encoders",
        uses: &["unimo-batch", "unimo-core"],
        burn: true,
        others: None,
    },
    Layer {
        name: "unimo-objectives",
        uses: &["unimo-batch", "unimo-core", "unimo-encoders"],
        burn: true,
        others: None,
    },
    // It works on texts alone.
    Layer {
        name: "unimo-phrases",
        uses: &[],
        burn: false,
        others: Some(&["rand", "rand_chacha", "serde", "serde_json", "thiserror"]),
    },
    // The loader works on the host: what it makes reaches a device in the training step.
    Layer {
        name: "unimo-data",
        uses: &["unimo-batch", "unimo-phrases"],
        burn: false,
        others: None,
    },
    // It works on scores, whatever made them.
    Layer {
        name: "unimo-eval",
        uses: &[],
        burn: false,
        others: None,
    },
    // It reads what a run wrote down, whatever was trained.
    Layer {
        name: "unimo-report",
        uses: &[],
        burn: false,
        others: None,
    },
    Layer {
        name: "unimo-train",
        uses: &[
            "unimo-batch",
            "unimo-core",
            "unimo-data",
            "unimo-encoders",
            "unimo-eval",
            "unimo-objectives",
            "unimo-phrases",
            "unimo-report",
        ],
        burn: true,
        others: None,
    },
    // What no user installs, so nothing that users install sees it.
    Layer {
        name: "unimo-dev",
        uses: &[
            "unimo-batch",
            "unimo-core",
            "unimo-data",
            "unimo-encoders",
            "unimo-objectives",
            "unimo-report",
            "unimo-train",
        ],
        burn: true,
        others: None,
    },
    Layer {
        name: "unimo-tests",
        uses: &[
            "unimo-batch",
            "unimo-core",
            "unimo-data",
            "unimo-dev",
            "unimo-encoders",
            "unimo-eval",
            "unimo-objectives",
            "unimo-phrases",
            "unimo-report",
            "unimo-train",
        ],
        burn: true,
        others: None,
    },
    // It has to be built before anything else is, so it stays small.
    Layer {
        name: "xtask",
        uses: &[],
        burn: false,
        // `syn` is what derives the argument parser; its manifest says why it is named.
        // `signal-hook` passes on what ends a job of several processes.
        others: Some(&["clap", "signal-hook", "syn"]),
    },
];

/// All that may lie at the top of the workspace, hidden files and what is built or trained aside.
const TOP_LEVEL: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "crates",
    "docs",
    "tests",
    "xtask",
];

/// What git ignores at the top of the workspace.
const BUILT: [&str; 2] = ["runs", "target"];

/// An exception to a rule.
struct Exception {
    rule: Rule,
    /// The file, from the top of the workspace.
    file: &'static str,
    /// What the line contains; empty for the whole file.
    line: &'static str,
    /// Why it is right there.
    #[expect(dead_code, reason = "for the reader of the table")]
    reason: &'static str,
}

/// Where a rule does not hold.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: Rule::Unseeded,
        file: "crates/unimo-core/examples/kernels.rs",
        line: "",
        reason: "times burn's own random numbers; what they are changes nothing",
    },
    Exception {
        rule: Rule::Unsafe,
        file: "crates/unimo-core/src/kernels/product.rs",
        line: "",
        reason: "hands pointers and strides to the crate that multiplies, and checks them first",
    },
];

#[test]
fn crates_depend_in_one_direction() {
    assert_nothing(layering(&root()));
}

#[test]
fn who_needs_no_burn_links_none() {
    assert_nothing(lock(&root()));
}

#[test]
fn sources_keep_the_rules() {
    assert_nothing(sources(&root(), EXCEPTIONS));
}

#[test]
fn the_top_level_is_tidy() {
    assert_nothing(top_level(&root()));
}

#[track_caller]
fn assert_nothing(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("the tests are a folder of the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(folder: &Path) -> Table {
    let path = folder.join("Cargo.toml");
    read(&path)
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the entries of a folder, sorted.
fn entries(folder: &Path) -> BTreeSet<String> {
    let list = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    list.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

// Manifests

/// Checks the manifest of every member against [`LAYERS`].
// Not by `cargo_metadata`: it runs cargo, which would have to resolve the workspaces of a few files that the tests below write.
fn layering(root: &Path) -> Vec<String> {
    let workspace = manifest(root);
    let mut found = Vec::new();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    for folder in members.iter().map(|member| member.as_str().unwrap()) {
        let member = manifest(&root.join(folder));
        let name = member["package"]["name"].as_str().unwrap();
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            found.push(format!("{name}: not in the table of layers"));
            continue;
        };
        for package in dependencies(&member, &workspace) {
            let allowed = match package.as_str() {
                _ if LAYERS.iter().any(|other| other.name == package) => {
                    layer.uses.contains(&package.as_str())
                }
                _ if is_burn(&package) => layer.burn,
                _ => layer
                    .others
                    .is_none_or(|others| others.contains(&package.as_str())),
            };
            if !allowed {
                found.push(format!("{name}: must not depend on {package}"));
            }
        }
        if member.get("lints").and_then(|lints| lints.get("workspace"))
            != Some(&Value::Boolean(true))
        {
            found.push(format!("{name}: does not take the lints of the workspace"));
        }
    }
    found
}

fn is_burn(package: &str) -> bool {
    ["burn", "cubecl"].iter().any(|family| {
        let rest = package.strip_prefix(family);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// The packages that a manifest names in any of its tables of dependencies, under their own names.
fn dependencies(member: &Table, workspace: &Table) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let targets = member
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flatten();
    let tables = targets
        .filter_map(|(_, target)| target.as_table())
        .chain([member]);
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, details) in table
                .get(kind)
                .and_then(Value::as_table)
                .into_iter()
                .flatten()
            {
                let inherits = details.get("workspace") == Some(&Value::Boolean(true));
                let details = if inherits {
                    &workspace["workspace"]["dependencies"][key]
                } else {
                    details
                };
                let renamed = details.get("package").and_then(Value::as_str);
                packages.insert(renamed.unwrap_or(key).to_owned());
            }
        }
    }
    packages
}

/// Follows the dependencies of every crate that is not to link burn through `Cargo.lock`.
fn lock(root: &Path) -> Vec<String> {
    let lock: Table = read(&root.join("Cargo.lock")).parse().unwrap();
    // Versions do not matter: all packages of a name are followed.
    let mut graph: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let names = dependencies.filter_map(|entry| entry.as_str()?.split(' ').next());
        graph
            .entry(package["name"].as_str().unwrap())
            .or_default()
            .extend(names);
    }
    let mut found = Vec::new();
    let without = LAYERS.iter().filter(|layer| !layer.burn);
    for layer in without.filter(|layer| graph.contains_key(layer.name)) {
        let mut open = vec![layer.name];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            if seen.insert(name) {
                let next = graph
                    .get(name)
                    .unwrap_or_else(|| panic!("Cargo.lock has no package {name}"));
                open.extend(next);
            }
        }
        seen.remove(layer.name);
        let wrong = seen.into_iter().filter(|name| {
            is_burn(name) || (name.starts_with("unimo") && !layer.uses.contains(name))
        });
        found.extend(
            wrong.map(|name| format!("{}: depends on {name} through Cargo.lock", layer.name)),
        );
    }
    found
}

/// Checks what lies at the top.
fn top_level(root: &Path) -> Vec<String> {
    entries(root)
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !BUILT.contains(&name.as_str()))
        .map(|name| format!("{name}: does not belong at the top level"))
        .collect()
}

// Sources
//
// What clippy's lints say as well is left to them (`[workspace.lints]`). These rules are not theirs: `unwrap_used` refuses the helper functions
// of tests too, `expect_used` asks for no message, `unsafe_code` can be allowed in any file, and `#[ignore]` with a reason is no lint.

/// What a line of code does that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Ignore,
    GlobReExport,
    Unsafe,
    Unwrap,
    Unseeded,
}

impl Rule {
    fn message(self) -> &'static str {
        match self {
            Self::Ignore => "an ignored test checks nothing",
            Self::GlobReExport => "`pub use ...::*` hides what a crate offers",
            Self::Unsafe => "`unsafe` outside the modules that are allowed it",
            Self::Unwrap => {
                "`unwrap`, or `expect` without a message that begins with \"invariant:\", outside tests: return an error"
            }
            Self::Unseeded => {
                "a device's numbers differ in every run, and so may the test's end: draw them from `Init`, which is seeded"
            }
        }
    }

    /// Whether it holds for code that only tests use, or for all other.
    fn holds(self, in_test: bool) -> bool {
        match self {
            Self::Unwrap => !in_test,
            Self::Unseeded => in_test,
            Self::Ignore | Self::GlobReExport | Self::Unsafe => true,
        }
    }
}

/// Checks all Rust files of the workspace.
fn sources(root: &Path, exceptions: &[Exception]) -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "tests"] {
        rust_files(root, Path::new(folder), &mut files);
    }
    let texts: Vec<(String, String)> = files
        .into_iter()
        .map(|file| {
            (
                file.to_str().unwrap().replace('\\', "/"),
                read(&root.join(file)),
            )
        })
        .collect();

    let mut found = Vec::new();
    let mut scans = Vec::new();
    let mut test_modules = BTreeSet::new();
    for (file, text) in &texts {
        if ["/utils.rs", "/util.rs", "/utils/mod.rs", "/util/mod.rs"]
            .iter()
            .any(|name| file.ends_with(name))
        {
            found.push(format!("{file}: name a module after what it does"));
        }
        match text.parse::<TokenStream>() {
            Ok(tokens) => {
                let mut scan = Scan::default();
                scan.stream(tokens, false);
                test_modules.extend(
                    scan.test_modules
                        .iter()
                        .flat_map(|module| module_files(file, module)),
                );
                scans.push((file, text, scan));
            }
            Err(error) => found.push(format!("{file}: {error}")),
        }
    }

    let mut used = BTreeSet::new();
    for (file, text, scan) in scans {
        // Whatever is not in `src` is a test, an example or a benchmark.
        let only_tests =
            !file.contains("/src/") || file.starts_with("tests/") || test_modules.contains(file);
        for hit in scan.hits {
            let Hit { rule, line, .. } = hit;
            if !rule.holds(only_tests || hit.in_test) {
                continue;
            }
            let code = text.lines().nth(line - 1).unwrap_or_default();
            let exception = exceptions.iter().position(|entry| {
                entry.rule == rule && entry.file == file && code.contains(entry.line)
            });
            match exception {
                Some(entry) => {
                    used.insert(entry);
                }
                None => found.push(format!(
                    "{file}:{line}: {}: {}",
                    rule.message(),
                    code.trim()
                )),
            }
        }
    }
    for (at, entry) in exceptions.iter().enumerate() {
        if !used.contains(&at) {
            found.push(format!(
                "{}: the exception `{}` is not needed any more",
                entry.file, entry.line
            ));
        }
    }
    found
}

/// The Rust files below a folder, in order, as paths from `root`.
fn rust_files(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for name in entries(&root.join(folder)) {
        let path = folder.join(&name);
        if root.join(&path).is_dir() {
            if name != "target" && !name.starts_with('.') {
                rust_files(root, &path, files);
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

/// Where `mod name;` in a file may point to.
fn module_files(file: &str, name: &str) -> [String; 2] {
    let stem = file.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    };
    [
        format!("{folder}/{name}.rs"),
        format!("{folder}/{name}/mod.rs"),
    ]
}

/// What was met in the tokens of one file. Comments are no tokens, and doc comments are attributes.
#[derive(Default)]
struct Scan {
    hits: Vec<Hit>,
    /// The names of `#[cfg(test)] mod name;`.
    test_modules: Vec<String>,
}

/// What may break a rule.
struct Hit {
    rule: Rule,
    line: usize,
    /// Whether the code is marked as for tests only.
    in_test: bool,
}

impl Scan {
    fn hit(&mut self, rule: Rule, at: &TokenTree, in_test: bool) {
        let line = at.span().start().line;
        self.hits.push(Hit {
            rule,
            line,
            in_test,
        });
    }

    fn stream(&mut self, stream: TokenStream, mut in_test: bool) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        // Whether the item that begins here is for tests only, and ends at the next `;` or block.
        let mut test_item = false;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let rest = &tokens[at + 1..];
            let before = &tokens[..at];
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let (inner, group) = match rest {
                        [TokenTree::Group(group), ..] => (false, Some(group)),
                        [TokenTree::Punct(bang), TokenTree::Group(group), ..]
                            if bang.as_char() == '!' =>
                        {
                            (true, Some(group))
                        }
                        _ => (false, None),
                    };
                    if let Some(group) =
                        group.filter(|group| group.delimiter() == Delimiter::Bracket)
                    {
                        if is_ignore(group) {
                            self.hit(Rule::Ignore, token, in_test);
                        }
                        if is_for_tests(group) {
                            if inner {
                                in_test = true
                            } else {
                                test_item = true
                            }
                        }
                        at += 2 + usize::from(inner);
                        continue;
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => test_item = false,
                TokenTree::Group(group) => {
                    self.stream(group.stream(), in_test || test_item);
                    if group.delimiter() == Delimiter::Brace {
                        test_item = false;
                    }
                }
                TokenTree::Ident(ident) => match ident.to_string().as_str() {
                    "unsafe" => self.hit(Rule::Unsafe, token, in_test || test_item),
                    "random" if follows_colons(before) => {
                        self.hit(Rule::Unseeded, token, in_test || test_item);
                    }
                    "random_like" => self.hit(Rule::Unseeded, token, in_test || test_item),
                    name @ ("unwrap" | "unwrap_err" | "expect" | "expect_err") => {
                        let called = matches!(rest.first(), Some(TokenTree::Group(_)))
                            && is_punct(before.last(), '.');
                        let named = follows_colons(before);
                        let invariant = name == "expect" && called && states_invariant(&rest[0]);
                        if (called || named) && !invariant {
                            self.hit(Rule::Unwrap, token, in_test || test_item);
                        }
                    }
                    "use" if is_public(before) => {
                        let end = rest
                            .iter()
                            .position(|token| is_punct(Some(token), ';'))
                            .unwrap_or(rest.len());
                        if has_star(&rest[..end]) {
                            self.hit(Rule::GlobReExport, token, in_test || test_item);
                        }
                    }
                    "mod" if test_item => {
                        if let [TokenTree::Ident(name), end, ..] = rest
                            && is_punct(Some(end), ';')
                        {
                            self.test_modules.push(name.to_string());
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
            at += 1;
        }
    }
}

/// Whether what comes next stands behind `::`.
fn follows_colons(before: &[TokenTree]) -> bool {
    matches!(before, [.., a, b] if is_punct(Some(a), ':') && is_punct(Some(b), ':'))
}

fn is_punct(token: Option<&TokenTree>, char: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

/// The identifiers of an attribute, in order.
fn idents(stream: TokenStream) -> Vec<String> {
    let of = |token| match token {
        TokenTree::Ident(ident) => vec![ident.to_string()],
        TokenTree::Group(group) => idents(group.stream()),
        _ => Vec::new(),
    };
    stream.into_iter().flat_map(of).collect()
}

/// `#[ignore]`, `#[ignore = "..."]`, `#[cfg_attr(..., ignore)]`.
fn is_ignore(attribute: &Group) -> bool {
    let idents = idents(attribute.stream());
    match idents.first().map(String::as_str) {
        Some("ignore") => true,
        Some("cfg_attr") => idents.iter().any(|ident| ident == "ignore"),
        _ => false,
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, ...))]`.
fn is_for_tests(attribute: &Group) -> bool {
    let idents = idents(attribute.stream());
    let idents: Vec<&str> = idents.iter().map(String::as_str).collect();
    matches!(
        idents[..],
        ["test"] | ["cfg", "test"] | ["cfg", "all", "test", ..]
    )
}

/// `.expect("invariant: ...")`.
fn states_invariant(arguments: &TokenTree) -> bool {
    let TokenTree::Group(group) = arguments else {
        return false;
    };
    match group.stream().into_iter().next() {
        Some(TokenTree::Literal(message)) => is_invariant(&message),
        _ => false,
    }
}

fn is_invariant(message: &Literal) -> bool {
    message
        .to_string()
        .trim_start_matches(['r', '#'])
        .starts_with("\"invariant:")
}

/// Whether `pub`, or `pub(crate)` and the like, comes right before.
fn is_public(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(public)] => public == "pub",
        [.., TokenTree::Ident(public), TokenTree::Group(group)] => {
            public == "pub" && group.delimiter() == Delimiter::Parenthesis
        }
        _ => false,
    }
}

fn has_star(tokens: &[TokenTree]) -> bool {
    tokens.iter().any(|token| match token {
        TokenTree::Punct(punct) => punct.as_char() == '*',
        TokenTree::Group(group) => has_star(&group.stream().into_iter().collect::<Vec<_>>()),
        _ => false,
    })
}

// The checks on a bad example

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn a_wrong_dependency_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            (
                "Cargo.toml",
                r#"
                [workspace]
                members = ["data", "eval", "new", "xtask"]
                [workspace.dependencies]
                metrics = { path = "eval", package = "unimo-eval" }
                unimo-core = { path = "core" }
                "#,
            ),
            (
                "data/Cargo.toml",
                r#"
                package.name = "unimo-data"
                lints.workspace = true
                [dependencies]
                unimo-core = { workspace = true }
                serde = "1"
                burn = "1"
                [target.'cfg(unix)'.dev-dependencies]
                objectives = { path = "x", package = "unimo-objectives" }
                [build-dependencies]
                metrics.workspace = true
                "#,
            ),
            (
                "eval/Cargo.toml",
                r#"
                package.name = "unimo-eval"
                [dependencies]
                unimo-core.path = "../core"
                unimo-train.path = "../train"
                burn = "1"
                "#,
            ),
            (
                "new/Cargo.toml",
                "package.name = \"unimo-new\"\nlints.workspace = true",
            ),
            (
                "xtask/Cargo.toml",
                r#"
                package.name = "xtask"
                lints.workspace = true
                [dependencies]
                clap = "4"
                serde = "1"
                "#,
            ),
        ],
    );
    assert_eq!(
        layering(folder.path()),
        [
            "unimo-data: must not depend on burn",
            "unimo-data: must not depend on unimo-core",
            "unimo-data: must not depend on unimo-eval",
            "unimo-data: must not depend on unimo-objectives",
            "unimo-eval: must not depend on burn",
            "unimo-eval: must not depend on unimo-core",
            "unimo-eval: must not depend on unimo-train",
            "unimo-eval: does not take the lints of the workspace",
            "unimo-new: not in the table of layers",
            "xtask: must not depend on serde",
        ]
    );
}

#[test]
fn a_far_dependency_is_found() {
    let lock_with = |last: &str| {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
            [[package]]
            name = "xtask"
            dependencies = ["clap", "far 2.0.0"]
            [[package]]
            name = "clap"
            [[package]]
            name = "far"
            version = "1.0.0"
            [[package]]
            name = "far"
            version = "2.0.0"
            dependencies = ["clap", "{last}"]
            [[package]]
            name = "{last}"
            "#
        );
        write(folder.path(), &[("Cargo.lock", &text)]);
        lock(folder.path())
    };
    assert_eq!(
        lock_with("burn-flex"),
        ["xtask: depends on burn-flex through Cargo.lock"]
    );
    assert_eq!(
        lock_with("cubecl"),
        ["xtask: depends on cubecl through Cargo.lock"]
    );
    assert_eq!(
        lock_with("unimo-core"),
        ["xtask: depends on unimo-core through Cargo.lock"]
    );
    assert_nothing(lock_with("burning"));
}

#[test]
fn a_stray_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            ("Cargo.toml", ""),
            (".gitignore", ""),
            ("target/a", ""),
            ("runs/a", ""),
            ("docs/a.md", ""),
            ("notes.md", ""),
            ("scripts/a", ""),
        ],
    );
    assert_eq!(
        top_level(folder.path()),
        [
            "notes.md: does not belong at the top level",
            "scripts: does not belong at the top level"
        ]
    );
}

/// One rule broken on every line that ends in a comment of its name; all others are right.
const BAD: &str = r##"
//! Never `.unwrap()`, `#[ignore]`.
/// ```
/// let x = parse().unwrap();
/// ```
pub use crate::a::*; // glob
pub(crate) use crate::{b::{c, *}, d}; // glob
use crate::e::*;
pub use crate::f::{g, h};

fn code() {
    one().unwrap(); // unwrap
    // two().unwrap();
    let text = "three().unwrap() unsafe #[ignore]";
    four().expect("this file is there"); // unwrap
    five().expect("invariant: a list that was just filled is not empty");
    six().expect(text); // unwrap
    seven().unwrap_or(1).unwrap_or_default();
    vec![eight().unwrap()]; // unwrap
    nine().map(Result::unwrap); // unwrap
    ten()
        .expect_err("x"); // unwrap
    unsafe { eleven() } // unsafe
    Tensor::random([2], Distribution::Default, &device);
    x.random_like(Distribution::Default);
}

#[cfg(not(test))]
fn more_code() {
    twelve().unwrap(); // unwrap
}

#[cfg(test)]
fn helper(list: [u8; 2]) {
    one().unwrap();
}

fn between() {
    two().unwrap(); // unwrap
}

#[cfg(test)]
use only::{in_tests};

#[cfg(test)]
mod beside;

fn again() {
    three().unwrap(); // unwrap
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    #[ignore = "slow"] // ignore
    fn four() {
        five().expect("x");
        unsafe { six() } // unsafe
    }

    #[test]
    #[cfg_attr(unix, ignore)] // ignore
    fn five() {
        let x = Tensor::<1>::random([2], Distribution::Default, &device); // unseeded
        x.random_like(Distribution::Default); // unseeded
        random([2]);
    }
}
"##;

#[test]
fn bad_code_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let unwrap = "fn main() {\n    a().unwrap();\n}\n";
    write(
        folder.path(),
        &[
            ("crates/a/src/lib.rs", BAD),
            ("crates/a/src/beside.rs", unwrap),
            ("crates/a/src/inner.rs", &format!("#![cfg(test)]\n{unwrap}")),
            ("crates/a/src/broken.rs", "fn main() {"),
            ("crates/a/tests/a.rs", unwrap),
            (
                "crates/a/tests/random.rs",
                "fn a() {\n    T::random();\n}\n",
            ),
            ("tests/tests/utils.rs", unwrap),
            (
                "xtask/src/allowed.rs",
                "fn main() {\n    unsafe { a() }\n    a().unwrap();\n    b().unwrap();\n}\n",
            ),
            ("xtask/src/main.rs", unwrap),
        ],
    );
    let allow = |rule, file, line| Exception {
        rule,
        file,
        line,
        reason: "",
    };
    let found = sources(
        folder.path(),
        &[
            allow(Rule::Unsafe, "xtask/src/allowed.rs", ""),
            allow(Rule::Unwrap, "xtask/src/allowed.rs", "a().unwrap()"),
            allow(Rule::Unwrap, "xtask/src/gone.rs", "x"),
        ],
    );

    let mut expected = Vec::new();
    for (number, line) in BAD.lines().enumerate() {
        let rule = match line.rsplit_once(" // ").map(|(_, comment)| comment) {
            Some("glob") => Rule::GlobReExport,
            Some("unwrap") => Rule::Unwrap,
            Some("unsafe") => Rule::Unsafe,
            Some("ignore") => Rule::Ignore,
            Some("unseeded") => Rule::Unseeded,
            _ => continue,
        };
        expected.push(format!(
            "crates/a/src/lib.rs:{}: {}: {}",
            number + 1,
            rule.message(),
            line.trim()
        ));
    }
    assert_eq!(expected.len(), 17);
    let of_lib: Vec<_> = found
        .iter()
        .filter(|hit| hit.starts_with("crates/a/src/lib.rs"))
        .cloned()
        .collect();
    assert_eq!(of_lib, expected);

    let others: Vec<_> = found
        .iter()
        .filter(|hit| !hit.starts_with("crates/a/src/lib.rs"))
        .collect();
    let begins = [
        "crates/a/src/broken.rs: ",
        "tests/tests/utils.rs: name a module",
        "crates/a/tests/random.rs:2: a device's numbers",
        "xtask/src/allowed.rs:4: `unwrap`",
        "xtask/src/main.rs:2: `unwrap`",
        "xtask/src/gone.rs: the exception `x`",
    ];
    assert_eq!(others.len(), begins.len(), "{others:#?}");
    for (hit, begin) in others.iter().zip(begins) {
        assert!(hit.starts_with(begin), "{hit}");
    }
}
