//! The loader over episodes of an agent.

use std::sync::Arc;

use unimo_batch::Batch;
use unimo_data::sources::houses::{Houses, HousesConfig};
use unimo_data::walks::{WalkConfig, joined, made};
use unimo_data::{
    Batches, DataConfig, Loader, LoaderSpec, SkipList, Source, Split, TextTokenizer, open,
};

const HOUSES: HousesConfig = HousesConfig {
    seed: 1,
    train: 4,
    val: 0,
    test: 0,
    paths: 1,
    sides: [32, 36],
    rooms: [2, 3],
    size: 8,
    steps: [25, 200],
};

fn map() -> WalkConfig {
    WalkConfig {
        cells: 16,
        cell: 0.5,
        world: 64,
        reach: 4.0,
        ..WalkConfig::default()
    }
}

fn spec(source: Arc<dyn Source>, walks: Option<WalkConfig>) -> LoaderSpec {
    let config = DataConfig {
        image_size: 8,
        max_text_length: 64,
        workers: Some(2),
        ..DataConfig::default()
    };
    let texts = (0..4).flat_map(|index| source.captions(Split::Train, index).unwrap());
    let tokenizer = TextTokenizer::train(texts.collect::<Vec<_>>().into_iter(), 300).unwrap();
    let skip = Arc::new(SkipList::in_memory(0.0));
    let batches = Batches { size: 2, seed: 0 };
    LoaderSpec {
        walks,
        ..LoaderSpec::new(&config, source, Arc::new(tokenizer), skip, batches)
    }
}

fn take(spec: LoaderSpec, count: usize) -> Vec<Batch> {
    let batches = Loader::new(spec).unwrap().take(count);
    batches.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_batch_has_the_decisions_of_its_samples_in_order() {
    let houses = Houses::new(HOUSES);
    let batches = take(spec(Arc::new(Houses::new(HOUSES)), Some(map())), 3);
    for batch in &batches {
        let own = batch.samples.iter().map(|name| {
            let index = name.trim_start_matches("houses-train:").parse().unwrap();
            let recorded = houses.walk(Split::Train, index).unwrap().unwrap();
            made(&*recorded, &map()).unwrap()
        });
        let own: Vec<_> = own.collect();
        let walks = batch.walks.as_ref().unwrap();
        assert_eq!(*walks, joined(&own).unwrap());
        assert_eq!(walks.steps.len(), 2);
        assert_eq!(walks.decisions(), walks.steps.iter().sum::<usize>());
        assert!(batch.texts.is_some() && batch.images.is_none());
    }
    // A run that goes on has the same.
    let later = LoaderSpec {
        first_batch: 2,
        ..spec(Arc::new(Houses::new(HOUSES)), Some(map()))
    };
    assert_eq!(take(later, 1)[0], batches[2]);
}

#[test]
fn episodes_are_made_where_they_are_asked_for() {
    let batches = take(spec(Arc::new(Houses::new(HOUSES)), None), 2);
    assert!(batches.iter().all(|batch| batch.walks.is_none()));
}

#[test]
fn other_parts_of_a_mixture_have_none() {
    let config: DataConfig = toml::from_str(
        r#"
        source = "mixture"
        image_size = 32
        [mixture]
        batches = "single"
        [[mixture.parts]]
        source = "houses"
        seed = 1
        train = 4
        val = 0
        paths = 1
        sides = [32, 36]
        rooms = [2, 3]
        size = 8
        [[mixture.parts]]
        source = "scenes"
        train = 4
        val = 4
        size = 32
        "#,
    )
    .unwrap();
    let source = open(&config).unwrap();
    assert!(source.offers().walks.is_some());
    let batches = take(spec(source, Some(map())), 8);
    let with = |batch: &&Batch| batch.walks.is_some();
    assert!(batches.iter().any(|batch| with(&batch)));
    for batch in &batches {
        // Pictures come from scenes, episodes from houses.
        assert_ne!(batch.walks.is_some(), batch.images.is_some());
    }
}
