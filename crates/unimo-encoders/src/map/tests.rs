use std::collections::BTreeMap;

use burn::tensor::Device;
use unimo_core::mask::PaddingMask;

use super::*;

/// f32 sums in another order over a few layers of width 8.
const ROUNDING: f32 = 1e-5;
const WIDTH: usize = 8;
const CELLS: usize = 8;
const CHANNELS: usize = 3;
const VIEW: [usize; 2] = [4, 8];

fn config() -> MapConfig {
    MapConfig {
        cells: CELLS,
        channels: CHANNELS,
        patch_size: 4,
        fine: true,
        fine_layers: 1,
        semantic: Some(SemanticConfig {
            classes: 5,
            cells: 4,
            layers: 1,
            unseen: true,
        }),
        view: Some(ViewConfig {
            image_size: VIEW,
            patch_size: 4,
            layers: 1,
        }),
        memory_layers: 2,
        steps: 4,
        width: WIDTH,
        heads: 2,
        feed_forward: 16,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-5,
        dropout: 0.0,
    }
}

fn agent(config: &MapConfig) -> MapEncoder {
    config.validate().unwrap();
    let mut init = Init::new(&Device::flex(), 5).with_deviation(0.5);
    config.init(&mut init, 6)
}

/// Levels that differ everywhere; `salt` makes others.
fn levels(count: usize, salt: usize) -> Vec<u8> {
    let level = |at: usize| ((at * 7919 + salt * 104_729) % 251) as u8;
    (0..count).map(level).collect()
}

/// Episodes of so many decisions, numbered by `of` in what they show.
fn walks(steps: &[usize], of: &[usize]) -> Walks {
    let cells = CELLS * CELLS;
    let mut walks = Walks {
        steps: steps.to_vec(),
        cells: CELLS,
        channels: CHANNELS,
        height: VIEW[0],
        width: VIEW[1],
        ..Walks::default()
    };
    for salt in of {
        walks.maps.extend(levels(CHANNELS * cells, *salt));
        walks.views.extend(levels(4 * VIEW[0] * VIEW[1], *salt));
        walks
            .seen
            .extend(levels(cells, *salt).iter().map(|level| level % 2));
    }
    walks
}

/// Instructions of these lengths, padded to `length` with other numbers than 0.
fn texts(lengths: &[usize], length: usize) -> TextFeatures {
    let device = Device::flex();
    let mut values = Vec::new();
    for (row, &own) in lengths.iter().enumerate() {
        for at in 0..length {
            values.extend((0..6).map(|channel| {
                let salt = if at < own { row } else { 99 + length };
                ((at * 6 + channel + 31 * salt) as f32).sin()
            }));
        }
    }
    let states = TensorData::new(values, [lengths.len(), length, 6]);
    let states = Tensor::<3>::from_data(states, &device);
    TextFeatures {
        class: states.clone().narrow(1, 0, 1).squeeze_dim(1),
        states: vec![states],
        mask: PaddingMask::from_lengths(lengths, length, &device),
        layers: BTreeMap::new(),
    }
}

fn rows(x: &Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = x.dims();
    let values: Vec<f32> = x.clone().into_data().iter::<f32>().collect();
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

fn assert_near(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < ROUNDING, "{a} is not {b}");
    }
}

fn run(agent: &MapEncoder, texts: &TextFeatures, walks: &Walks) -> WalkFeatures {
    assert!(agent.takes(walks));
    agent.forward(texts, &agent.input(walks, &Device::flex()))
}

#[test]
fn a_decision_depends_on_no_later_one_and_on_no_other_episode() {
    let agent = agent(&config());
    let all = run(
        &agent,
        &texts(&[3, 5], 5),
        &walks(&[3, 2], &[1, 2, 3, 4, 5]),
    );
    let states = rows(&all.states);
    assert!(states.iter().flatten().all(|value| value.is_finite()));
    // The first episode alone, cut after its second decision, and with another third one.
    let alone = texts(&[3], 5);
    for (steps, of) in [(2, vec![1, 2]), (3, vec![1, 2, 77])] {
        let cut = rows(&run(&agent, &alone, &walks(&[steps], &of)).states);
        assert_near(&cut[0], &states[0]);
        assert_near(&cut[1], &states[1]);
        if steps == 3 {
            let apart = cut[2].iter().zip(&states[2]);
            assert!(apart.into_iter().any(|(a, b)| (a - b).abs() > 0.01));
        }
    }
    // Another first decision changes the second.
    let other = rows(&run(&agent, &alone, &walks(&[2], &[77, 2])).states);
    let apart = other[1].iter().zip(&states[1]);
    assert!(apart.into_iter().any(|(a, b)| (a - b).abs() > 0.001));
}

#[test]
fn padding_reaches_nothing() {
    let agent = agent(&config());
    let of = [1, 2, 3, 4, 5];
    let short = run(&agent, &texts(&[3, 5], 5), &walks(&[3, 2], &of));
    let long = run(&agent, &texts(&[3, 5], 9), &walks(&[3, 2], &of));
    for (a, b) in rows(&short.states).iter().zip(&rows(&long.states)) {
        assert_near(a, b);
    }
}

/// Step by step, with the first episode over after two decisions, an agent decides what it decides of episodes that are known to their end.
#[test]
fn decisions_one_by_one_are_those_of_the_whole() {
    let agent = agent(&config());
    let both = texts(&[3, 5], 5);
    let whole = run(&agent, &both, &walks(&[2, 3], &[1, 2, 3, 4, 5]));
    let attention = rows(whole.attention.as_ref().unwrap());
    let states = rows(&whole.states);
    let mut history = History::default();
    let device = Device::flex();
    for step in 0..3 {
        let (texts, walks, places) = if step < 2 {
            let now = walks(&[1, 1], &[1 + step, 3 + step]);
            (both.clone(), now, vec![step, 2 + step])
        } else {
            let second = Tensor::from_data(TensorData::from([1]), &device);
            history.select(&second);
            (both.select(&second), walks(&[1], &[5]), vec![4])
        };
        let input = agent.input(&walks, &device);
        let own = agent.decide(&texts, &input, &mut history);
        assert_eq!(history.steps(), step + 1);
        let (now, looked) = (rows(&own.states), rows(&own.attention.unwrap()));
        for (at, place) in places.into_iter().enumerate() {
            assert_near(&now[at], &states[place]);
            assert_near(&looked[at], &attention[place]);
        }
    }
}

/// What an agent does not read changes nothing, and its parts are not there.
#[test]
fn senses_may_be_left_out() {
    let text = texts(&[3], 5);
    let shown = |config: &MapConfig, of: [usize; 2]| run(&agent(config), &text, &walks(&[2], &of));
    let differs = |config: &MapConfig| {
        let (a, b) = (shown(config, [1, 2]), shown(config, [3, 4]));
        let (a, b) = (rows(&a.states).concat(), rows(&b.states).concat());
        a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 0.001)
    };
    let text_only = MapConfig {
        fine: false,
        semantic: None,
        view: None,
        ..config()
    };
    assert!(!differs(&text_only));
    let found = shown(&text_only, [1, 2]);
    assert!(found.attention.is_none() && found.semantic.is_none());
    let view = MapConfig {
        view: config().view,
        ..text_only.clone()
    };
    assert!(differs(&view));
    let fine = MapConfig {
        fine: true,
        ..text_only.clone()
    };
    assert!(differs(&fine) && shown(&fine, [1, 2]).semantic.is_none());
    let semantic = MapConfig {
        semantic: config().semantic,
        ..text_only
    };
    assert!(differs(&semantic));
    let found = shown(&semantic, [1, 2]);
    assert_eq!(found.semantic.unwrap().dims(), [2, 16, 5]);
    assert_eq!(found.attention.unwrap().dims(), [2, 4]);
}

/// Without hallucination the classes of cells that were never seen reach nothing: with nothing seen, no weight of a class matters.
#[test]
fn cells_that_were_never_seen_may_have_no_classes() {
    let mut seen_only = config();
    seen_only.fine = false;
    if let Some(semantic) = &mut seen_only.semantic {
        semantic.unseen = false;
    }
    let mut agent = agent(&seen_only);
    let (text, mut episode) = (texts(&[3], 5), walks(&[1], &[1]));
    episode.seen.fill(0);
    let before = rows(&run(&agent, &text, &episode).states);
    let seen = Walks {
        seen: vec![1; CELLS * CELLS],
        ..episode.clone()
    };
    let shown = rows(&run(&agent, &text, &seen).states);
    let tokens = agent.tokens.as_mut().unwrap();
    let classes = &mut tokens.semantic.as_mut().unwrap().classes;
    classes.weight = classes.weight.clone().map(|weight| weight * 2.0);
    assert_eq!(rows(&run(&agent, &text, &episode).states), before);
    assert_ne!(rows(&run(&agent, &text, &seen).states), shown);
}

#[test]
fn what_is_of_another_size_is_not_taken() {
    let agent = agent(&config());
    let fits = walks(&[4], &[1, 2, 3, 4]);
    assert!(agent.takes(&fits));
    let changed = |change: fn(&mut Walks)| {
        let mut walks = fits.clone();
        change(&mut walks);
        agent.takes(&walks)
    };
    assert!(!changed(|walks| walks.steps = vec![5]));
    assert!(!changed(|walks| walks.cells = 4));
    assert!(!changed(|walks| walks.channels = 4));
    assert!(!changed(|walks| walks.width = 4));
    assert!(!changed(|walks| walks.steps = Vec::new()));
    assert!(!agent.knows_classes(&fits));
}

/// PyTorch: `F.interpolate(torch.arange(16.).view(1, 1, 4, 4), size=3, mode="nearest")`, and `size=8` of 2 x 2.
#[test]
fn the_nearest_cell_is_pytorchs() {
    let map: Vec<u8> = (0..16).collect();
    let three: Vec<u8> = nearest(&map, 4, 3).collect();
    assert_eq!(three, [0, 1, 2, 4, 5, 6, 8, 9, 10]);
    let twice: Vec<u8> = nearest(&[1, 2, 3, 4, 5, 6, 7, 8], 2, 4).collect();
    assert_eq!(twice[..8], [1, 1, 2, 2, 1, 1, 2, 2]);
    assert_eq!(twice[16..20], [5, 5, 6, 6]);
}
