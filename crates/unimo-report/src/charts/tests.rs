//! What the figures show of awkward values.

use super::axis::{Axis, nice_range};
use super::colours::{hex, luminance, text_on};
use super::smoothing::two_sided_mean;
use super::*;
use crate::numbers::{Format, grouped, number};

/// Room for the rounding of a few floating-point operations on numbers around one.
const ROUNDING: f64 = 1e-12;

fn ramp(count: usize) -> Vec<(f64, f64)> {
    (0..count)
        .map(|index| (index as f64, index as f64))
        .collect()
}

#[test]
fn ticks_are_round_numbers_inside_the_range() {
    assert_eq!(
        ticks(0.0, 1.0, 5),
        (vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0], 0.2)
    );
    assert_eq!(ticks(3.0, 98.0, 5).0, vec![20.0, 40.0, 60.0, 80.0]);
    assert_eq!(ticks(-1.0, 1.0, 4).0, vec![-1.0, -0.5, 0.0, 0.5, 1.0]);
    assert_eq!(ticks(0.0, 1.2e-4, 6).0.last(), Some(&1.2e-4));
    for (lo, hi) in [(0.0, 7.3), (-13.0, 1e6), (1e-9, 3e-9), (0.97, 0.983)] {
        for target in 3..9 {
            let (values, step) = ticks(lo, hi, target);
            assert!(
                values.len() >= target / 2 && values.len() <= 2 * target + 1,
                "{lo}..{hi}, {target}: {values:?}"
            );
            assert!(
                values
                    .iter()
                    .all(|value| *value >= lo - 1e-6 * step && *value <= hi + 1e-6 * step)
            );
        }
    }
}

#[test]
fn ticks_of_an_impossible_range_are_none() {
    for (lo, hi) in [
        (f64::NAN, 1.0),
        (0.0, f64::INFINITY),
        (1.0, 1.0),
        (2.0, 1.0),
        (1e300, 1e300 * (1.0 + 1e-15)),
    ] {
        assert_eq!(ticks(lo, hi, 5).0, Vec::<f64>::new(), "{lo}..{hi}");
    }
}

#[test]
fn a_nice_range_encloses_the_values_and_ends_on_ticks() {
    for (lo, hi) in [(0.13, 7.31), (-4.2, 0.1), (2.0, 4.0), (1e-5, 9.9e-5)] {
        let (from, to, values, _) = nice_range(lo, hi, 5);
        assert!(from <= lo && to >= hi);
        assert_eq!((values.first(), values.last()), (Some(&from), Some(&to)));
    }
}

#[test]
fn log_ticks_enclose_the_range_and_stay_few() {
    assert_eq!(log_ticks(0.3, 4.0), vec![0.2, 0.5, 1.0, 2.0, 5.0]);
    assert_eq!(
        log_ticks(0.5, 2000.0),
        vec![0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0]
    );
    assert!(log_ticks(1e-30, 1e30).len() <= 8);
    assert!(
        log_ticks(0.0, 1.0).is_empty()
            && log_ticks(-1.0, 1.0).is_empty()
            && log_ticks(f64::NAN, 1.0).is_empty()
    );
}

#[test]
fn axes_place_their_ends_and_middles() {
    let axis = Axis {
        lo: 2.0,
        hi: 6.0,
        scale: Scale::Linear,
        ticks: Vec::new(),
        step: 1.0,
    };
    assert_eq!(
        [2.0, 4.0, 6.0, 8.0].map(|value| axis.place(value)),
        [0.0, 0.5, 1.0, 1.5]
    );
    let axis = Axis {
        lo: 0.01,
        hi: 100.0,
        scale: Scale::Log,
        ticks: Vec::new(),
        step: 0.0,
    };
    for (value, place) in [(0.01, 0.0), (1.0, 0.5), (100.0, 1.0)] {
        assert!((axis.place(value) - place).abs() < ROUNDING);
    }
}

#[test]
fn numbers_are_written_short() {
    let cases = [
        (0.0, "0"),
        (0.04213, "0.0421"),
        (2.31, "2.31"),
        (31.04, "31.0"),
        (12.0, "12"),
        (1234.6, "1,235"),
        (31_204_352.0, "3.12e7"),
        (1e-4, "1e-4"),
        (-2.5e-6, "-2.5e-6"),
        (f64::NAN, "not finite"),
    ];
    for (value, text) in cases {
        assert_eq!(number(value), text);
    }
    assert_eq!(grouped(31_204_352.0), "31,204,352");
    assert_eq!(
        (grouped(-1000.0), grouped(-0.2), grouped(999.0)),
        ("-1,000".into(), "0".into(), "999".into())
    );
    assert_eq!(Format::Percent.value(0.246), "24.6\u{a0}%");
    assert_eq!(Format::Percent.value(0.002), "0.20\u{a0}%");
}

#[test]
fn tick_labels_of_one_axis_share_their_digits() {
    let labels = |lo, hi, target| {
        let (lo, hi, ticks, step) = nice_range(lo, hi, target);
        Axis {
            lo,
            hi,
            scale: Scale::Linear,
            ticks,
            step,
        }
        .labels(Format::Number)
    };
    assert_eq!(
        labels(0.0, 1.0, 5),
        ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    );
    assert_eq!(
        labels(0.0, 1e-4, 5),
        ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]
    );
    assert_eq!(
        labels(0.0, 2000.0, 4),
        ["0", "500", "1,000", "1,500", "2,000"]
    );
    assert_eq!(labels(0.0, 60_000.0, 3), ["0", "20k", "40k", "60k"]);
    assert_eq!(
        labels(0.0, 2.4e6, 5),
        ["0", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M"]
    );
}

/// The recurrence against the definition: a weighted mean over all pairs.
#[test]
fn the_running_mean_is_the_weighted_mean() {
    let values: Vec<f64> = (0..50)
        .map(|index| {
            if index == 17 {
                f64::NAN
            } else {
                f64::from(index * index % 23)
            }
        })
        .collect();
    let scale = 3.0;
    let means = two_sided_mean(&values, scale);
    for (at, mean) in means.iter().enumerate() {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (other, value) in values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_finite())
        {
            let weight = (-(at.abs_diff(other) as f64) / scale).exp();
            sum += weight * value;
            weights += weight;
        }
        if at == 17 {
            assert!(mean.is_nan());
        } else {
            assert!(
                (mean - sum / weights).abs() < ROUNDING * 1e2,
                "{at}: {mean} against {}",
                sum / weights
            );
        }
    }
}

#[test]
fn smoothing_keeps_constants_and_calms_noise() {
    assert!(
        smooth(&[3.0; 100], 5.0)
            .iter()
            .all(|value| (value - 3.0).abs() < ROUNDING)
    );
    let noise: Vec<f64> = (0..200)
        .map(|index| if index % 2 == 0 { 1.0 } else { -1.0 })
        .collect();
    assert!(
        smooth(&noise, 4.0)[10..190]
            .iter()
            .all(|value| value.abs() < 0.05)
    );
    assert_eq!(smooth(&noise, 0.0), noise);
    assert!(smooth(&[], 2.0).is_empty());
}

#[test]
fn thinning_keeps_ends_extremes_and_gaps() {
    let mut points = ramp(100_000);
    points[31_415].1 = 1e9;
    points[27_182].1 = -1e9;
    points[60_000].1 = f64::NAN;
    let kept = decimate(&points, 0.0, 99_999.0, 200);
    assert!(kept.len() <= 5 * 200 && kept.len() >= 200);
    for index in [0, 31_415, 27_182, 99_999] {
        assert!(kept.contains(&points[index]), "{index}");
    }
    assert!(
        kept.iter()
            .any(|point| point.1.is_nan() && point.0 == 60_000.0)
    );
    assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(decimate(&ramp(10), 0.0, 9.0, 200), ramp(10));
}

#[test]
fn a_chart_of_many_points_stays_small() {
    let points = (0..200_000)
        .map(|index| (f64::from(index), (f64::from(index) * 0.37).sin()))
        .collect();
    let chart = LineChart::new("many").series(Series::new("a", Colour::Ink, points).smoothed());
    let html = chart.to_html().into_string();
    assert!(html.len() < 100_000, "{}", html.len());
}

#[test]
fn values_that_are_not_finite_are_gaps() {
    let mut points = ramp(9);
    points[4].1 = f64::NAN;
    points[6].1 = f64::INFINITY;
    let html = LineChart::new("loss")
        .series(Series::new("a", Colour::Slot(0), points))
        .to_html()
        .into_string();
    let start = html
        .find("plot-line s1\" d=\"")
        .map(|at| at + "plot-line s1\" d=\"".len());
    let path = start
        .and_then(|at| html[at..].split('"').next())
        .unwrap_or_default();
    // 0-3 is a line, 5 stands alone between two gaps, 7-8 is a line.
    assert_eq!(path.matches('M').count(), 3, "{path}");
    assert_eq!(path.matches('L').count(), 4, "{path}");
    assert_eq!(path.matches("h0").count(), 1, "{path}");
    assert_eq!(html.matches("plot-gap").count(), 2);
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

#[test]
fn charts_without_values_say_so() {
    let empty = LineChart::new("empty");
    assert!(!empty.has_values());
    assert!(empty.to_html().into_string().contains("no values"));
    let gaps = LineChart::new("gaps").series(Series::new(
        "a",
        Colour::Ink,
        vec![(1.0, f64::NAN), (2.0, f64::NAN)],
    ));
    assert!(
        gaps.to_html()
            .into_string()
            .contains("none of 2 values can be shown")
    );
    let negative = LineChart::new("log").scale(Scale::Log).series(Series::new(
        "a",
        Colour::Ink,
        vec![(1.0, -1.0)],
    ));
    assert!(
        negative
            .to_html()
            .into_string()
            .contains("none of 1 values can be shown")
    );
}

#[test]
fn one_point_and_one_value_have_an_axis() {
    for points in [
        vec![(100.0, 0.0)],
        vec![(100.0, 3.0)],
        vec![(0.0, 3.0), (1.0, 3.0)],
        vec![(5.0, -9e299)],
        vec![(1.0, -9e299), (2.0, 9e299)],
    ] {
        let html = LineChart::new("one")
            .series(Series::new("a", Colour::Ink, points.clone()))
            .to_html()
            .into_string();
        assert!(
            !html.contains("NaN") && !html.contains("inf"),
            "{points:?}: {html}"
        );
        assert!(html.contains("plot-dot"), "{points:?}");
        let ticks = html.matches("text-anchor=\"middle\"").count() - 1;
        assert!(ticks == 1 || points.len() > 1, "{points:?}: {html}");
    }
}

#[test]
fn an_outlier_is_counted_and_does_not_set_the_axis() {
    let mut points: Vec<(f64, f64)> = (0..1000)
        .map(|index| (f64::from(index), 1.0 + f64::from(index % 7) * 0.1))
        .collect();
    points[500].1 = 50.0;
    let chart = LineChart::new("norm").series(Series::new("a", Colour::Ink, points).smoothed());
    let lines: Vec<_> = chart.series.iter().map(Series::line).collect();
    assert!(chart.value_axis(&lines).hi < 10.0);
    assert!(chart.to_html().into_string().contains("1 above, up to 50"));
}

#[test]
fn names_are_escaped() {
    let name = "<script>alert('\"&')</script>";
    let html = LineChart::new(name)
        .unit(name)
        .x_label(name)
        .series(Series::new(name, Colour::Slot(1), ramp(3)).markers())
        .series(Series::new(name, Colour::Slot(2), ramp(3)))
        .reference(1.0, name)
        .event(1.0, name)
        .to_html()
        .into_string();
    let map = HeatMap::new(name, vec![name.into()], vec![name.into()], vec![vec![0.5]])
        .unit(name)
        .labels(name, name)
        .to_html()
        .into_string();
    assert!(!html.contains("<script") && !map.contains("<script"));
    assert!(!html.contains("'\"&'") && !map.contains("'\"&'"));
}

#[test]
fn heat_maps_take_ragged_rows() {
    let values = vec![vec![0.25], vec![0.5, f64::NAN, 0.75, 9.0]];
    let map = HeatMap::new(
        "gates",
        vec!["1".into(), "2".into()],
        vec!["V0".into(), "V1".into(), "V2".into()],
        values,
    )
    .range(0.0, 1.0);
    let html = map.to_html().into_string();
    assert_eq!(html.matches("plot-absent").count(), 3);
    assert_eq!(html.matches("plot-cell").count(), 3);
    assert!(html.contains(">0.75<") && !html.contains(">9.00<"));
    let empty = HeatMap::new("none", Vec::new(), Vec::new(), Vec::new())
        .to_html()
        .into_string();
    assert!(!empty.contains("NaN") && !empty.contains("inf"));
}

#[test]
fn the_colour_map_grows_lighter_and_its_numbers_can_be_read() {
    let places: Vec<f64> = (0..=100)
        .map(|percent| f64::from(percent) / 100.0)
        .collect();
    for pair in places.windows(2) {
        assert!(
            luminance(viridis(pair[1])) > luminance(viridis(pair[0])),
            "{pair:?}"
        );
    }
    for place in places {
        let own = luminance(viridis(place)) + 0.05;
        let contrast = if text_on(viridis(place)) == "#fff" {
            1.05 / own
        } else {
            own / 0.05
        };
        // WCAG 2.2, level AA for text.
        assert!(contrast >= 4.5, "{place}: {contrast}");
    }
    assert_eq!(viridis(f64::NAN), viridis(-1.0));
    assert_eq!(hex(viridis(2.0)), "#fde725");
}

#[test]
fn the_highest_bar_says_how_high_once() {
    let bars = |values: &[f64]| {
        let bars = values.iter().map(|value| ("name".to_owned(), *value));
        Bars::new("bars", bars.collect()).to_html().into_string()
    };
    for values in [&[788.0, 788.0, 5.0][..], &[5.0, 788.0]] {
        assert_eq!(bars(values).matches(">788</text>").count(), 1);
    }
    assert_eq!(bars(&[0.0, 0.0]).matches(">0</text>").count(), 0);
}
