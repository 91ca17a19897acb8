use unimo_batch::Texts;

use super::*;

fn slices(stories: Vec<Vec<Slice>>, lengths: Vec<usize>) -> Slices {
    Slices {
        stories,
        images: None,
        texts: Some(Texts {
            length: lengths.iter().copied().max().unwrap_or(0),
            lengths,
            ..Texts::default()
        }),
    }
}

#[test]
fn slices_keep_their_order_in_slots_of_their_kind() {
    use Slice::{Image, Text};
    let stories = vec![
        vec![Image(0), Text(0), Image(1), Text(1)],
        vec![Text(2), Text(3), Image(2)],
        vec![Image(3), Image(4)],
    ];
    let layout = Layout::of(&slices(stories, vec![3, 2, 4, 3]), 5);
    let shapes: Vec<_> = layout
        .slots
        .iter()
        .map(|s| (s.image, s.first, s.length))
        .collect();
    assert_eq!(
        shapes,
        [
            (true, 0, 5),
            (false, 5, 4),
            (true, 9, 5),
            (false, 14, 3),
            (true, 17, 5)
        ]
    );
    let of = |slot: usize, story: usize| {
        layout.slots[slot].slices[story].map(|placed| (placed.row, placed.place))
    };
    assert_eq!(
        [of(0, 0), of(1, 0), of(2, 0), of(3, 0)],
        [Some((0, 0)), Some((0, 1)), Some((1, 2)), Some((1, 3))]
    );
    assert_eq!(
        [of(0, 1), of(1, 1), of(3, 1), of(4, 1)],
        [None, Some((2, 0)), Some((3, 1)), Some((2, 2))]
    );
    assert_eq!([of(0, 2), of(2, 2)], [Some((3, 0)), Some((4, 1))]);
    let filled = layout.filled();
    let count = |story: usize| filled[story * 22..][..22].iter().filter(|f| **f).count();
    assert_eq!(
        [count(0), count(1), count(2)],
        [5 + 3 + 5 + 2, 4 + 3 + 5, 10]
    );
    let (positions, words) = layout.next_words(4);
    // Story 0: words 1 and 2 of sentence 0, and word 1 of sentence 1.
    assert_eq!(positions[..3], [5, 6, 14]);
    assert_eq!(words[..3], [1, 2, 5]);
}

#[cfg(feature = "flex")]
mod reading {
    use burn::tensor::{Device, Tolerance};
    use unimo_core::init::Init;
    use unimo_core::layers::Activation;

    use super::*;
    use crate::joint::JointConfig;

    /// f32 rounding over two layers of width 8.
    const TOLERANCE: f64 = 1e-5;

    fn encoder(patches: Patches, device: &Device) -> JointEncoder {
        let config = JointConfig {
            width: 8,
            layers: 2,
            heads: 2,
            feed_forward: 16,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            drop_path: 0.0,
            image_class: true,
            grounding: None,
            concepts: false,
            split: None,
            interleaved: Some(InterleavedConfig { slices: 6, patches }),
        };
        config.init(&mut Init::new(device, 1).with_deviation(0.5))
    }

    fn stories() -> Vec<Vec<Slice>> {
        use Slice::{Image, Text};
        vec![
            vec![Image(0), Text(0), Image(1), Text(1)],
            vec![Text(2), Image(2), Text(3)],
        ]
    }

    /// The states of a story alone are those that it has beside others, at the positions that it fills.
    #[test]
    fn other_stories_and_padding_change_nothing() {
        let device = Device::flex();
        let encoder = encoder(Patches::Together, &device);
        let mut numbers = Init::new(&device, 2);
        let images = numbers.uniform([3, 5, 8], 1.0).val();
        let texts = numbers.uniform([4, 4, 8], 1.0).val();
        let layout = Layout::of(&slices(stories(), vec![3, 2, 4, 3]), 5);
        let both = encoder.read_stories(Some(&images), Some(&texts), &layout);
        let filled = layout.filled();
        for (number, story) in stories().into_iter().enumerate() {
            let alone = Layout::of(&slices(vec![story], vec![3, 2, 4, 3]), 5);
            let states = encoder.read_stories(Some(&images), Some(&texts), &alone);
            let rows = |filled: &[bool]| {
                let all = filled.iter().enumerate().filter(|(_, filled)| **filled);
                let rows: Vec<i32> = all.map(|(at, _)| at as i32).collect();
                let count = rows.len();
                Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &device)
            };
            let own = &filled[number * layout.length..][..layout.length];
            let expected = both.clone().narrow(0, number, 1).select(1, rows(own));
            let found = states.select(1, rows(&alone.filled()));
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(TOLERANCE));
        }
    }

    /// A position has no gradient from a later one, unless both are patches of one image that see each other.
    #[test]
    fn nothing_later_is_seen() {
        let device = Device::flex().autodiff();
        let mut numbers = Init::new(&device, 2);
        let images = numbers.uniform([2, 3, 8], 1.0).val();
        let layout = Layout::of(&slices(vec![stories().remove(0)], vec![2, 2]), 3);
        assert_eq!(layout.length, 10);
        for (patches, sees) in [(Patches::Together, true), (Patches::Causal, false)] {
            let encoder = encoder(patches, &device);
            let texts = numbers.uniform([2, 2, 8], 1.0).val().require_grad();
            let images = images.clone().detach().require_grad();
            let states = encoder.read_stories(Some(&images), Some(&texts), &layout);
            let weights = numbers.uniform([1, 1, 8], 1.0).val();
            // The first patch of the second image.
            let gradients = (states.narrow(1, 5, 1) * weights).sum().backward();
            let largest = |x: Tensor<3>| x.abs().max().into_scalar::<f32>();
            let of_texts = texts.grad(&gradients).unwrap();
            assert!(largest(of_texts.clone().narrow(0, 0, 1)) > 0.0);
            assert_eq!(largest(of_texts.narrow(0, 1, 1)), 0.0);
            let of_image = images.grad(&gradients).unwrap().narrow(0, 1, 1);
            assert_eq!(largest(of_image.narrow(1, 2, 1)) > 0.0, sees);
        }
    }
}
