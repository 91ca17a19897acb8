//! What the documentation says of recipes holds.

use std::path::Path;

use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};

/// The overrides in a table row's code: `--set a=b --set c=d`.
fn overrides(row: &str) -> Vec<String> {
    row.split("--set ")
        .skip(1)
        .map(|rest| {
            let end = rest.find([' ', '`']).unwrap_or(rest.len());
            rest[..end].to_owned()
        })
        .collect()
}

#[test]
fn every_ablation_in_the_documentation_is_a_recipe() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ADDING.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Vec<String>> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(overrides)
        .filter(|set| !set.is_empty())
        .collect();
    assert!(
        rows.len() >= 5,
        "the table of ablations was not found: {rows:?}"
    );
    let recipes: Vec<&str> = BUILT_IN
        .iter()
        .map(|recipe| recipe.name)
        .filter(|name| name.starts_with("unimo3-"))
        .collect();
    assert_eq!(recipes.len(), 3);
    for name in recipes {
        let given = |set: Vec<String>| {
            let data = (name != "unimo3-tiny").then(|| "pairs.jsonl".into());
            Recipe::load(name, &Overrides { data, set }).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let plain = given(Vec::new());
        for set in &rows {
            assert_ne!(
                given(set.clone()),
                plain,
                "{name} with {set:?} changes nothing"
            );
        }
    }
}

#[test]
fn every_recipe_opens_with_paper_command_and_expectation() {
    for built_in in BUILT_IN {
        let mut lines = built_in.text.lines();
        let head: String = lines
            .by_ref()
            .take_while(|line| line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n");
        assert!(head.contains("arXiv"), "{}: no paper", built_in.name);
        let command = format!("cargo xtask train {}", built_in.name);
        assert!(head.contains(&command), "{}: no command", built_in.name);
        assert!(
            head.contains("Expected:") || head.contains("Published"),
            "{}: no expected result",
            built_in.name
        );
    }
}
