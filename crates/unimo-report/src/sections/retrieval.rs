//! Retrieval against chance, as tables and over the steps of a run.

use maud::{Markup, html};

use super::{method_name, multiple_of_chance};
use crate::charts::{Colour, LineChart, Range, Series};
use crate::interval::wilson;
use crate::numbers::{Format, grouped};
use crate::page::{Section, cards};
use crate::record::{self, ChanceRecord, EvalRecord, RecallRecord, RetrievalRecord, RunFolder};

pub(crate) fn retrieval(folder: &RunFolder) -> Option<Section> {
    let evals: Vec<&EvalRecord> = folder
        .evals
        .iter()
        .chain(&folder.later_evals)
        .filter(|eval| !eval.retrieval.is_empty())
        .collect();
    let mut splits: Vec<&str> = Vec::new();
    for eval in &evals {
        if !splits.contains(&eval.split.as_str()) {
            splits.push(&eval.split);
        }
    }
    if splits.is_empty() {
        return None;
    }
    let body = html! {
        @for split in splits {
            @let of_split: Vec<&EvalRecord> = evals.iter().filter(|eval| eval.split == split).copied().collect();
            (retrieval_table(&of_split))
            @if of_split.len() > 1 { (retrieval_curves(&of_split)) }
        }
    };
    let lead = "R@k: share of queries with a right answer among the first k, in per cent. In brackets: its 95 % confidence interval \
                (Wilson), from the number of queries alone; another seed adds to it."
        .to_owned();
    Some(Section {
        anchor: "retrieval",
        title: "Retrieval",
        lead,
        body,
    })
}

/// The last evaluation of a split, method by method.
fn retrieval_table(of_split: &[&EvalRecord]) -> Markup {
    let Some(last) = of_split.last() else {
        return Markup::default();
    };
    let split = if last.split.is_empty() {
        "Held-out pairs"
    } else {
        &last.split
    };
    let chance = last.chance.as_ref();
    let best = |value: &dyn Fn(&RetrievalRecord) -> f64| {
        last.retrieval
            .iter()
            .map(value)
            .fold(f64::NEG_INFINITY, f64::max)
    };
    let best_image = best(&|method| method.text_to_image.r1);
    let best_text = best(&|method| method.image_to_text.r1);
    let best_eval = record::best(of_split.iter().copied()).filter(|_| of_split.len() > 1);
    let pool_changed = of_split
        .iter()
        .any(|eval| (eval.images, eval.texts) != (last.images, last.texts));
    html! {
        div.card {
            div.scroll {
                table.retrieval {
                    caption {
                        b { (split) } " at step " (grouped(last.step as f64)) ": " (grouped(last.images as f64)) " images, "
                        (grouped(last.texts as f64)) " texts"
                    }
                    thead {
                        tr {
                            th rowspan="2" scope="col" { "method" }
                            th colspan="4" scope="colgroup" { "text → image" }
                            th colspan="4" scope="colgroup" { "image → text" }
                        }
                        tr {
                            @for _ in 0..2 {
                                @for name in ["R@1", "R@5", "R@10", "median rank"] { th scope="col" { (name) } }
                            }
                        }
                    }
                    tbody {
                        @for method in &last.retrieval {
                            tr {
                                th scope="row" { (method_name(&method.method)) }
                                (recall_cells(&method.text_to_image, chance.map(|c| &c.text_to_image), last.texts, best_image))
                                (recall_cells(&method.image_to_text, chance.map(|c| &c.image_to_text), last.images, best_text))
                            }
                        }
                        @if let Some(chance) = chance {
                            tr.chance {
                                th scope="row" { "chance" }
                                @for recall in [&chance.text_to_image, &chance.image_to_text] {
                                    (recall_cells(recall, None, 0, f64::INFINITY))
                                }
                            }
                        }
                    }
                }
            }
            @if let Some((eval, score)) = best_eval {
                p.under {
                    "Best of " (of_split.len()) " evaluations by the mean of R@1, R@5 and R@10: " (Format::Percent.value(score))
                    " at step " (grouped(eval.step as f64)) "."
                }
            }
            @if pool_changed {
                p.under { "The pool changed during the run; R@k of different pools cannot be compared." }
            }
        }
    }
}

/// Four cells of one direction. `queries` is the number of queries behind the interval; zero leaves it out.
fn recall_cells(
    recall: &RecallRecord,
    chance: Option<&RecallRecord>,
    queries: u64,
    best: f64,
) -> Markup {
    let percent = |value: f64| {
        if value.is_finite() {
            format!("{:.*}", if value < 0.0995 { 2 } else { 1 }, 100.0 * value)
        } else {
            "–".to_owned()
        }
    };
    let at = |recall: &RecallRecord| [recall.r1, recall.r5, recall.r10];
    let rank = recall.median_rank;
    html! {
        @for (index, value) in at(recall).into_iter().enumerate() {
            @let is_best = index == 0 && value == best;
            td class=[is_best.then_some("best")] {
                (percent(value))
                @if index == 0 && queries > 0 && value.is_finite() {
                    @let (from, to) = wilson(value, queries);
                    small { (format!("[{:.1}, {:.1}]", 100.0 * from, 100.0 * to)) }
                }
                @if let Some(multiple) = chance.and_then(|chance| multiple_of_chance(value, at(chance)[index])) {
                    small { (multiple) " chance" }
                }
            }
        }
        td { @if rank.is_finite() { (rank) } @else { "–" } }
    }
}

fn retrieval_curves(of_split: &[&EvalRecord]) -> Markup {
    let mut methods: Vec<&str> = Vec::new();
    for method in of_split.iter().flat_map(|eval| &eval.retrieval) {
        if !methods.contains(&method.method.as_str()) {
            methods.push(&method.method);
        }
    }
    let chart = |title: &str,
                 found: &dyn Fn(&RetrievalRecord) -> f64,
                 random: &dyn Fn(&ChanceRecord) -> f64| {
        let mut chart = LineChart::new(title)
            .unit("R@1")
            .format(Format::Percent)
            .range(Range::FromZero);
        for (slot, method) in methods.iter().enumerate() {
            let points = of_split.iter().filter_map(|eval| {
                let record = eval
                    .retrieval
                    .iter()
                    .find(|record| record.method == *method)?;
                Some((eval.step as f64, found(record)))
            });
            chart = chart.series(
                Series::new(method_name(method), Colour::Slot(slot), points.collect()).markers(),
            );
        }
        if let Some(chance) = of_split.last().and_then(|eval| eval.chance.as_ref()) {
            chart = chart.reference(random(chance), "chance");
        }
        chart
    };
    cards(vec![
        chart(
            "Text → image",
            &|record| record.text_to_image.r1,
            &|chance| chance.text_to_image.r1,
        ),
        chart(
            "Image → text",
            &|record| record.image_to_text.r1,
            &|chance| chance.image_to_text.r1,
        ),
    ])
}
