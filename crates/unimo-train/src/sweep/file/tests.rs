//! Files of sweeps: what they plan, and what is wrong with some.

use super::*;

fn read(text: &str) -> Result<Sweep, String> {
    let folder = tempfile::tempdir().unwrap();
    let mine = "extends = \"unimo3-tiny\"\n[train]\nsteps = 7\n";
    std::fs::write(folder.path().join("mine.toml"), mine).unwrap();
    let file = folder.path().join("levels.toml");
    std::fs::write(&file, text).unwrap();
    Sweep::read(&file, None).map_err(|error| error.to_string())
}

#[test]
fn recipes_variants_and_seeds_are_multiplied() {
    let sweep = read(
        "recipes = [\"unimo3-tiny\", \"mine.toml\"]\nseeds = [4, 0]\nset = [\"train.batch_size=8\"]\nout = \"here\"\n\
         [[variant]]\nname = \"cross\"\n\
         [[variant]]\nname = \"in\"\nset = [\"model.fusion.levels=none\"]\nrecipes = [\"mine.toml\"]\n",
    )
    .unwrap();
    let names: Vec<&str> = sweep.runs.iter().map(|run| &*run.name).collect();
    assert_eq!(
        names,
        [
            "unimo3-tiny-cross-seed4",
            "unimo3-tiny-cross-seed0",
            "mine-cross-seed4",
            "mine-cross-seed0",
            "mine-in-seed4",
            "mine-in-seed0"
        ]
    );
    let last = &sweep.runs[5];
    assert!(sweep.out.ends_with("here") && sweep.out.is_absolute());
    assert_eq!(last.folder, sweep.out.join("mine-in-seed0"));
    assert_eq!(
        last.given.set,
        ["train.batch_size=8", "model.fusion.levels=none", "seed=0"]
    );
    assert!(sweep.notes.is_empty(), "{:?}", sweep.notes);
    // The recipe is the one that the same arguments of `unimo train` make.
    let tiny = &sweep.runs[0];
    let same = Recipe::load(&tiny.given.recipe, &tiny.given.overrides()).unwrap();
    assert_eq!((same, tiny.recipe.seed), (tiny.recipe.clone(), 4));
    assert_eq!(
        (last.recipe.train.steps, last.recipe.train.batch_size),
        (7, 8)
    );
}

#[test]
fn without_variants_each_recipe_is_one_setup() {
    let sweep = read("recipes = [\"unimo3-tiny\"]\nseeds = [0]\n").unwrap();
    assert_eq!(sweep.runs[0].name, "unimo3-tiny-seed0");
    assert_eq!(sweep.out, Path::new("runs/levels"));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, said) in [
        ("recipes = []\nseeds = [0]", "`recipes` is []"),
        ("recipes = [\"unimo3-tiny\"]\nseeds = []", "`seeds` is []"),
        ("recipes = [\"unimo3-tiny\"]", "missing field `seeds`"),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\nvariants = 1",
            "unknown field `variants`",
        ),
        (
            "recipes = [\"unimo3-tinyy\"]\nseeds = [0]",
            "there is no recipe",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0, 0]",
            "unimo3-tiny-seed0",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\nset = [\"seed=1\"]",
            "by `seeds`",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\nset = [\"train.stepz=1\"]",
            "train.stepz",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\n[[variant]]\nname = \"a/b\"",
            "\"a/b\"",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"a\"",
            "two variants",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\n[[variant]]\nname = \"a\"\nrecipes = [\"b\"]",
            "none of `recipes`: unimo3-tiny",
        ),
        (
            "recipes = [\"unimo3-tiny\"]\nseeds = [0]\n[[variant]]\nname = \"a\"\nrecipes = []",
            "nothing is trained",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn equal_runs_and_settings_without_effect_are_said() {
    let sweep = read(
        "recipes = [\"unimo3-tiny\"]\nseeds = [0]\nset = [\"train.ema=none\"]\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"",
    )
    .unwrap();
    let notes = sweep.notes.join("\n");
    assert!(
        notes.contains("unimo3-tiny-b-seed0 is the same recipe"),
        "{notes}"
    );
    assert!(
        notes.contains("unimo3-tiny-a: --set train.ema=none"),
        "{notes}"
    );
}
