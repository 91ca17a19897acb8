//! What the documentation says of recipes holds.

use std::path::Path;

use unimo_train::recipe::{BUILT_IN, Overrides, Recipe};

/// The overrides in a table row's code: `--set a=b --set 'c={ d = 1 }'`.
fn overrides(row: &str) -> Vec<String> {
    row.split("--set ")
        .skip(1)
        .map(|rest| match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next().unwrap_or_default().to_owned(),
            None => {
                let end = rest.find([' ', '`']).unwrap_or(rest.len());
                rest[..end].to_owned()
            }
        })
        .collect()
}

#[test]
fn every_ablation_in_the_documentation_is_a_recipe() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ADDING.md");
    let text = std::fs::read_to_string(path).unwrap();
    // A table's head says of which recipes it is: | ablation | override of `unimo3-*` |
    let head = |line: &str| {
        let (_, rest) = line.split_once("override of `")?;
        let (family, _) = rest.split_once('*')?;
        Some(family.to_owned())
    };
    let mut family = String::new();
    let mut tried = 0;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        if let Some(named) = head(line) {
            family = named;
            continue;
        }
        let set = overrides(line);
        if set.is_empty() || family.is_empty() {
            continue;
        }
        // Recipes of tasks have other objectives: FAMILY-SIZE alone is a pre-training.
        let names = BUILT_IN.iter().map(|recipe| recipe.name);
        let names = names.filter(|name| name.matches('-').count() == 1);
        for name in names.filter(|name| name.starts_with(&family)) {
            let given = |set: &[String]| {
                let data = (!name.ends_with("-tiny")).then(|| "pairs.jsonl".into());
                let set = set.to_vec();
                Recipe::load(name, &Overrides { data, set })
                    .unwrap_or_else(|e| panic!("{name}: {e}"))
            };
            assert_ne!(
                given(&set),
                given(&[]),
                "{name} with {set:?} changes nothing"
            );
            tried += 1;
        }
    }
    // Rows of tables times recipes of their families.
    assert!(tried >= 20, "only {tried} ablations were found");
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
